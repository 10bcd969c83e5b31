//! Which codec is taken.

use cqrs_core::codec::{AnyOf, CloudEvents, Correlation, Encoder, Json, PythonCqrs, header};
use cqrs_core::*;

use crate::support::{Journal, Told, on_event};

fn event(name: &str, topic: &str) -> Message {
    let mut message = Message::new(topic, r#"{"room":5}"#);
    message.name = name.to_owned();
    message.content_type = Some("application/json".to_owned());
    message
}

fn encoder() -> Encoder {
    Encoder::default()
        .with_codec_for_topic("rooms", PythonCqrs::v5_dataclass())
        .with_codec_for_event("invoice_paid", CloudEvents::new("/billing").unwrap())
}

fn format(encoder: &Encoder, message: Message) -> &'static str {
    let message = message.into_message(encoder, &Correlation::default()).unwrap();
    let payload = String::from_utf8(message.payload.unwrap().to_vec()).unwrap();
    if payload.starts_with(r#"{"eventName""#) {
        "python"
    } else if payload.starts_with(r#"{"specversion""#) {
        "cloud"
    } else {
        assert!(message.headers.get(header::NAME).is_some());
        "json"
    }
}

#[test]
fn the_events_codec_comes_before_the_topics_and_that_before_the_default() {
    let encoder = encoder();
    assert_eq!(format(&encoder, event("room_closed", "halls")), "json");
    assert_eq!(format(&encoder, event("room_closed", "rooms")), "python");
    assert_eq!(format(&encoder, event("invoice_paid", "rooms")), "cloud");
    assert_eq!(format(&encoder, event("invoice_paid", "halls")), "cloud");
}

#[test]
fn topics_are_named_without_the_prefix() {
    let encoder = encoder().with_topic_prefix("staging.");
    assert_eq!(format(&encoder, event("room_closed", "rooms")), "python");
    let said = event("room_closed", "rooms").into_message(&encoder, &Correlation::default()).unwrap();
    assert_eq!(said.topic, "staging.rooms");
    assert!(String::from_utf8_lossy(&said.payload.clone().unwrap()).contains(r#""topic":"staging.rooms""#));
    assert_eq!(encoder.decode(super::carried(&said)).unwrap().name, "room_closed");
}

#[test]
fn it_reads_all_that_it_writes() {
    let encoder = encoder();
    for (name, topic) in [
        ("room_closed", "halls"),
        ("room_closed", "rooms"),
        ("invoice_paid", "rooms"),
        ("invoice_paid", "halls"),
    ] {
        let said = event(name, topic).into_message(&encoder, &Correlation::default()).unwrap();
        let message = encoder.decode(super::carried(&said)).unwrap();
        assert_eq!((&*message.name, message.id), (name, said.id), "{topic}");
        assert_eq!(message.payload.unwrap(), r#"{"room":5}"#, "{topic}");
    }
}

#[test]
fn a_topic_is_read_in_its_own_format_only() {
    let encoder = Encoder::default().with_codec_for_topic("rooms", PythonCqrs::v0());
    let json = Json.encode(event("room_closed", "rooms")).unwrap();
    let error = encoder.decode(super::carried(&json)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    let encoder = encoder.with_codec_for_topic("rooms", AnyOf::new(PythonCqrs::v0()).or(Json));
    assert_eq!(encoder.decode(super::carried(&json)).unwrap().name, "room_closed");
}

#[tokio::test]
async fn a_mediator_reads_a_topic_in_its_format() {
    let journal = Journal::new();
    let handler = on_event::<Told, _>(move |event, _| {
        journal.note(format!("{event:?}"));
        Box::pin(async { Ok(()) })
    });
    let encoder = Encoder::default().with_codec_for_topic("told", PythonCqrs::v5_dataclass());
    let emitter = EventEmitter::new(EventMap::new().subscribe("told", handler)).with_encoder(encoder);
    let python = r#"{"eventName":"told","eventId":"0192f6c29b1e7c529a516d7f1c0f8e01","payload":5}"#;
    let mediator = EventMediator::new(emitter).unwrap();
    let dispatched = mediator.handle(Message::new("told", python)).await.unwrap();
    assert_eq!((dispatched.handled, journal.entries()), (1, vec!["Told(5)".to_owned()]));
}

#[test]
fn a_codec_can_be_chosen_when_the_program_runs() {
    let chosen: std::sync::Arc<dyn Codec> = std::sync::Arc::new(PythonCqrs::v5_dataclass());
    assert_eq!(format(&Encoder::default().with_codec(chosen), event("room_closed", "rooms")), "python");
}
