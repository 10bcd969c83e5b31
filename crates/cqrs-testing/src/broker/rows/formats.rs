//! The wire formats of the core, with all that each of them asks of a broker.

use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use cqrs_core::codec::{Binding, CloudEvents, Compressed, Json, PythonCqrs, Raw, header};
use cqrs_core::{Codec, Correlation, Encoder, EventKind, Headers, Message};
use uuid::Uuid;

use super::content::round_trips;
use crate::broker::bench::{Bench, Checked, Stop, ensure};

pub(super) const NAME: &str = "room_changed";

/// Those that no format has for itself.
const HEADERS: [(&str, &str); 4] = [
    ("tenant", "Straße 1"),
    (header::CORRELATION_ID, "conversation"),
    (header::CAUSATION_ID, "cause"),
    (header::TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
];

/// A format, and an event of which nothing is lost in it.
pub(super) struct Case {
    pub(super) format: &'static str,
    codec: Arc<dyn Codec>,
    event: Message,
    /// Whether it has a place for id, name and time; otherwise the broker may have one, and need not.
    pub(super) tells_of_the_event: bool,
}

impl Case {
    pub(super) fn encoded(&self, topic: &str) -> cqrs_core::Result<Message> {
        let mut event = self.event.clone();
        event.topic = topic.to_owned();
        let encoder = Encoder::default().with_codec(Arc::clone(&self.codec));
        encoder.finish(event, &Correlation::default())
    }
}

pub(super) fn cases() -> cqrs_core::Result<Vec<Case>> {
    let case = |format, codec, event| Case { format, codec, event, tells_of_the_event: true };
    let cloud_events = CloudEvents::new("/rooms")?;
    let for_kafka = cloud_events.clone().binary(Binding::Kafka);
    let for_amqp = cloud_events.clone().binary(Binding::Amqp);
    let zlib = Compressed::zlib(cloud_events.clone());
    let python = |kind, version| with_schema(kind, version, event());
    let mut bytes = with_schema(None, None, event());
    bytes.payload = Some(Bytes::from_static(b"\x08\x96\x01\0\xff"));
    bytes.content_type = Some("application/protobuf".to_owned());
    let raw = Raw::new().with_name(&bytes.name);
    Ok(vec![
        case("json", Arc::new(Json), event()),
        case("cloudevents, structured", Arc::new(cloud_events), event()),
        case("cloudevents, binary for Kafka", Arc::new(for_kafka), event()),
        case("cloudevents, binary for AMQP", Arc::new(for_amqp), event()),
        case("python-cqrs 0", Arc::new(PythonCqrs::v0()), python(Some(EventKind::Ecst), None)),
        case("python-cqrs 5, dataclass", Arc::new(PythonCqrs::v5_dataclass()), python(None, None)),
        case("python-cqrs 5, pydantic", Arc::new(PythonCqrs::v5_pydantic()), python(None, None)),
        case("json with gzip", Arc::new(Compressed::gzip(Json)), event()),
        case("cloudevents with zlib", Arc::new(zlib), event()),
        Case { tells_of_the_event: false, ..case("raw", Arc::new(raw), bytes) },
    ])
}

fn event() -> Message {
    // An `f64` has no room for these numbers, and an `i64` none for the second.
    let mut event =
        Message::new("", r#"{"seats":9007199254740993,"area":18446744073709551615,"hall":"Größe"}"#);
    event.id = Some(Uuid::from_u128(0x0192_f6c2_9b1e_7c52_9a51_6d7f_1c0f_8e01).into());
    event.name = NAME.to_owned();
    event.key = Some("Zimmer fünf".into());
    event.headers = Headers::from_iter(HEADERS);
    event.content_type = Some("application/json".to_owned());
    event.timestamp = DateTime::from_timestamp_micros(1_722_342_896_789_012);
    with_schema(Some(EventKind::Ecst), Some(7), event)
}

fn with_schema(kind: Option<EventKind>, version: Option<u32>, mut message: Message) -> Message {
    message.kind = kind;
    message.version = version;
    message
}

pub(super) async fn all(bench: &Bench<'_>) -> Checked {
    let cases = cases().map_err(refused)?;
    let pairs =
        round_trips(bench, |topic| cases.iter().map(|case| case.encoded(topic).map_err(refused)).collect())
            .await?;
    for (case, (_, arrived)) in cases.iter().zip(pairs) {
        let format = case.format;
        let mut expected = case.event.clone();
        expected.topic.clone_from(&arrived.topic);
        let decoded = case
            .codec
            .decode(arrived)
            .map_err(|error| Stop::Failed(format!("{format}: what arrived cannot be decoded: {error:#}")))?;
        let (decoded, expected) = (comparable(decoded, case), comparable(expected, case));
        ensure(decoded == expected, || format!("{format}: {decoded:?}\narrived instead of {expected:?}"))?;
    }
    Ok(())
}

fn refused(error: cqrs_core::Error) -> Stop {
    Stop::Failed(format!("the codec refused what it can carry: {error:#}"))
}

/// Without what a format, or a broker, may add.
fn comparable(mut message: Message, case: &Case) -> Message {
    let names = HEADERS.iter().map(|(name, _)| *name).chain([header::CONTENT_ENCODING]);
    let headers = names.filter_map(|name| Some((name, message.headers.get(name)?.clone())));
    message.headers = headers.collect();
    if !case.tells_of_the_event {
        message.id = None;
        message.timestamp = None;
    }
    message
}
