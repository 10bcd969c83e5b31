//! A consumer that accepts several formats.

use cqrs_core::codec::{AnyOf, Binding, CloudEvents, Fit, Json, PythonCqrs, Raw, header};
use cqrs_core::*;

const PYTHON: &str =
    r#"{"eventName":"by_python","eventId":"0192f6c29b1e7c529a516d7f1c0f8e01","payload":{"room":5}}"#;
const CLOUD_EVENT: &str =
    r#"{"specversion":"1.0","id":"7","source":"/halls","type":"by_cloud","data":{"room":5}}"#;

fn cloud_events() -> CloudEvents {
    CloudEvents::new("/rooms").unwrap()
}

fn event() -> Message {
    let mut message = Message::new("rooms", r#"{"room":5}"#);
    message.id = Some(uuid::Uuid::from_u128(7).into());
    message.name = "room_closed".to_owned();
    message.content_type = Some("application/json".to_owned());
    message.timestamp = Some("2024-07-30T12:34:56.789012Z".parse().unwrap());
    message
}

fn every() -> Vec<(&'static str, std::sync::Arc<dyn Codec>)> {
    vec![
        ("json", std::sync::Arc::new(Json)),
        ("structured", std::sync::Arc::new(cloud_events())),
        ("kafka", std::sync::Arc::new(cloud_events().binary(Binding::Kafka))),
        ("amqp", std::sync::Arc::new(cloud_events().binary(Binding::Amqp))),
        ("version 0", std::sync::Arc::new(PythonCqrs::v0())),
        ("dataclass", std::sync::Arc::new(PythonCqrs::v5_dataclass())),
        ("pydantic", std::sync::Arc::new(PythonCqrs::v5_pydantic())),
    ]
}

#[test]
fn every_format_is_told_from_the_others_in_whichever_order_they_are_given() {
    let orders = [
        AnyOf::new(Json).or(cloud_events()).or(PythonCqrs::v0()),
        AnyOf::new(PythonCqrs::v0()).or(cloud_events()).or(Json),
        AnyOf::new(cloud_events()).or(Json).or(PythonCqrs::v0()),
    ];
    for (what, writer) in every() {
        let carried = super::carried(&writer.encode(event()).unwrap());
        for codec in &orders {
            let message = codec.decode(carried.clone()).unwrap();
            assert_eq!((message.id, &*message.name), (event().id, "room_closed"), "{what}");
            assert_eq!(message.payload, event().payload, "{what}");
        }
    }
}

#[test]
fn an_event_that_is_passed_on_in_another_format_is_told_by_the_new_one() {
    let codec = AnyOf::new(Json).or(cloud_events()).or(PythonCqrs::v0());
    for (from, first) in every() {
        for (to, second) in every().into_iter().skip(1) {
            let received = first.decode(super::carried(&first.encode(event()).unwrap())).unwrap();
            let carried = super::carried(&second.encode(received).unwrap());
            let message = codec.decode(carried).unwrap();
            assert_eq!(message.name, "room_closed", "{from} to {to}");
            assert_eq!(message.payload, event().payload, "{from} to {to}");
        }
    }
}

#[test]
fn headers_come_before_the_shape() {
    let mut message = Message::new("rooms", PYTHON);
    message.headers.append(header::NAME, "by_header");
    let codec = AnyOf::new(PythonCqrs::v0()).or(Json);
    assert_eq!(codec.decode(message).unwrap().name, "by_header");
    assert_eq!(codec.decode(Message::new("rooms", PYTHON)).unwrap().name, "by_python");
}

#[test]
fn the_shape_comes_before_what_takes_anything() {
    let codec = AnyOf::new(Raw::new()).or(Json).or(PythonCqrs::v0()).or(cloud_events());
    assert_eq!(codec.decode(Message::new("rooms", PYTHON)).unwrap().name, "by_python");
    assert_eq!(codec.decode(Message::new("rooms", CLOUD_EVENT)).unwrap().name, "by_cloud");
    let other = Message::new("rooms", r#"{"eventName":"only a name"}"#);
    assert_eq!(codec.decode(other.clone()).unwrap(), other);
}

#[test]
fn what_is_no_json_is_left_to_raw() {
    let codec = AnyOf::new(Json).or(Raw::new().with_name("measured"));
    let mut message = Message::new("telemetry", Bytes::from_static(b"\xff"));
    message.content_type = Some("application/protobuf".to_owned());
    assert_eq!(codec.decode(message).unwrap().name, "measured");
}

#[test]
fn what_says_what_it_is_and_is_not_is_not_read_as_something_else() {
    let codec = AnyOf::new(Json).or(cloud_events());
    let mut message = Message::new("rooms", "{}");
    message.headers.append("ce_specversion", "1.0");
    let error = codec.decode(message).unwrap_err().to_string();
    assert!(error.contains("lacks the CloudEvents attribute `id`"), "{error}");
}

#[test]
fn what_looks_like_one_and_is_broken_is_not_read_as_something_else() {
    let codec = AnyOf::new(Json).or(PythonCqrs::v0());
    let broken = PYTHON.replace("0192f6c2", "");
    let error = codec.decode(Message::new("rooms", broken)).unwrap_err().to_string();
    assert!(error.contains("`eventId` is `9b1e7c529a516d7f1c0f8e01`, which is not a UUID"), "{error}");
}

#[test]
fn what_is_of_none_is_refused_with_what_each_of_them_misses() {
    let codec = AnyOf::new(PythonCqrs::v0()).or(cloud_events());
    let error = codec.decode(Message::new("rooms", "{}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    let error = error.to_string();
    assert!(error.starts_with("the message from topic `rooms` is of no accepted format: "), "{error}");
    assert!(error.contains("not of python-cqrs") && error.contains("not a CloudEvent"), "{error}");
    let alone = AnyOf::new(PythonCqrs::v0()).decode(Message::new("rooms", "{}")).unwrap_err().to_string();
    assert!(alone.starts_with("the message from topic `rooms` is not of python-cqrs"), "{alone}");
}

#[test]
fn the_first_is_written() {
    let encoded = AnyOf::new(PythonCqrs::v5_dataclass()).or(Json).encode(event()).unwrap();
    assert_eq!(encoded, PythonCqrs::v5_dataclass().encode(event()).unwrap());
}

#[test]
fn several_within_several_fit_as_the_best_of_them_does() {
    let inner = AnyOf::new(cloud_events()).or(PythonCqrs::v0());
    assert_eq!(inner.fits(&Message::new("rooms", PYTHON)), Fit::Shape);
    assert_eq!(inner.fits(&Message::new("rooms", "{}")), Fit::No);
    let codec = AnyOf::new(Json).or(inner);
    assert_eq!(codec.decode(Message::new("rooms", PYTHON)).unwrap().name, "by_python");
}

/// One that does not say what fits it.
#[derive(Debug)]
struct Upper;

impl Codec for Upper {
    fn encode(&self, message: Message) -> Result<Message> {
        Ok(message)
    }

    fn decode(&self, mut message: Message) -> Result<Message> {
        if message.payload.as_deref() != Some(b"UPPER") {
            return Err(Error::new(ErrorKind::Decode, "it is not UPPER"));
        }
        message.name = "upper".to_owned();
        Ok(message)
    }
}

#[test]
fn one_that_does_not_tell_is_tried() {
    let codec = AnyOf::new(Upper).or(Json);
    assert_eq!(codec.decode(Message::new("rooms", "UPPER")).unwrap().name, "upper");
    assert_eq!(codec.decode(Message::new("rooms", "{}")).unwrap().name, "");
}
