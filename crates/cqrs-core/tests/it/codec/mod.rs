//! From events to messages and back.

mod any;
mod cloud_events;
#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod encoder;
mod properties;
mod python_cqrs;
mod raw;

use chrono::{DateTime, Utc};
use cqrs_core::codec::{DEFAULT_MAX_MESSAGE_BYTES, Json, decode_payload, header};
use cqrs_core::*;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, EcstEvent)]
#[event(topic = "rooms", key = room, version = 3)]
struct RoomChanged {
    room: String,
    seats: Option<u64>,
}

fn changed() -> RoomChanged {
    RoomChanged { room: "größte/5".into(), seats: Some(u64::MAX) }
}

fn moment() -> DateTime<Utc> {
    "2026-11-23T10:20:30.123456789Z".parse().unwrap()
}

fn envelope() -> Envelope<RoomChanged> {
    Envelope::new(changed())
        .with_id(Uuid::from_u128(7))
        .with_timestamp(moment())
        .with_header("tenant", "blue")
}

fn encode(event: impl IntoMessage) -> Message {
    event.into_message(&Encoder::default(), &Correlation::new("conversation-1")).unwrap()
}

/// What is left when a broker carried it: topic, key, headers and payload.
fn carried(message: &Message) -> Message {
    let mut carried = Message::tombstone(&*message.topic);
    carried.key = message.key.clone();
    carried.headers = message.headers.clone();
    carried.payload = message.payload.clone();
    carried
}

#[test]
fn everything_but_the_payload_is_in_the_headers() {
    let message = encode(envelope());
    assert_eq!(message.topic, "rooms");
    assert_eq!(message.key.as_deref(), Some("größte/5".as_bytes()));
    assert_eq!(message.payload.unwrap(), r#"{"room":"größte/5","seats":18446744073709551615}"#);
    let headers: Vec<_> =
        message.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect();
    assert_eq!(
        headers,
        [
            ("tenant", "blue"),
            (header::CORRELATION_ID, "conversation-1"),
            (header::ID, "00000000-0000-0000-0000-000000000007"),
            (header::NAME, "room_changed"),
            (header::KIND, "ecst"),
            (header::VERSION, "3"),
            (header::TIMESTAMP, "2026-11-23T10:20:30.123456Z"),
            (header::CONTENT_TYPE, "application/json"),
        ]
    );
}

#[test]
fn what_was_encoded_is_decoded_to_the_same() {
    let message = encode(envelope());
    let decoded = Json.decode(carried(&message)).unwrap();
    assert_eq!(decoded, message);
    assert_eq!(decode_payload::<RoomChanged>(&decoded).unwrap(), changed());
}

#[test]
fn the_same_event_gives_the_same_bytes_again_and_again() {
    let message = encode(envelope());
    assert_eq!(encode(envelope()), message);
    assert_eq!(Json.encode(Json.decode(carried(&message)).unwrap()).unwrap(), message);
}

#[test]
fn an_event_without_an_id_and_a_time_gets_them() {
    let (one, two) = (encode(changed()), encode(changed()));
    assert_ne!(one.id, two.id);
    let id = one.id.as_ref().and_then(MessageId::to_uuid).unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(Json.decode(carried(&one)).unwrap().timestamp, one.timestamp);
}

#[test]
fn an_envelope_can_replace_topic_and_key() {
    let message = encode(envelope().with_topic("others").with_key(""));
    assert_eq!((message.topic.as_str(), message.key.as_deref()), ("others", Some(&b""[..])));
    assert_eq!(encode(envelope().without_key()).key, None);
}

#[test]
fn a_message_made_by_hand_gets_what_it_lacks() {
    let mut message = Message::tombstone("rooms");
    message.name = "room_removed".into();
    let made = encode(message.clone());
    assert!(made.id.is_some() && made.timestamp.is_some() && made.payload.is_none());
    assert_eq!(made.headers.get_str(header::CORRELATION_ID), Some("conversation-1"));

    message.name.clear();
    let error = message.into_message(&Encoder::default(), &Correlation::default()).unwrap_err();
    assert_eq!(error.to_string(), "a message has no event name: set `Message::name`");
}

#[test]
fn a_header_that_is_there_is_replaced_and_not_doubled() {
    let message = encode(envelope());
    let again = Json.encode(message.clone()).unwrap();
    assert_eq!(again.headers.len(), message.headers.len());
}

#[test]
fn the_limit_is_the_largest_size_that_passes() {
    let size = encode(envelope()).size();
    let limited = |bytes| {
        envelope().into_message(
            &Encoder::default().with_max_message_bytes(bytes),
            &Correlation::new("conversation-1"),
        )
    };
    limited(size).unwrap();
    let error = limited(size - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(
        error.to_string().contains(&format!("has {size} bytes, and the limit is {}", size - 1)),
        "{error}"
    );
    assert_eq!(DEFAULT_MAX_MESSAGE_BYTES, 1_000_000);
}

#[test]
fn a_message_of_someone_else_is_read_as_far_as_it_goes() {
    let mut message = Message::new("rooms", "{}");
    message.name = "from_the_protocol".into();
    let decoded = Json.decode(message.clone()).unwrap();
    assert_eq!(decoded, message);
}

#[test]
fn headers_that_cannot_be_read_are_named() {
    for (name, value, text) in [
        (header::VERSION, &b"two"[..], "the header `cqrs-version` has the unreadable value `two`"),
        (header::TIMESTAMP, b"yesterday", "the header `cqrs-timestamp` has the unreadable value `yesterday`"),
        (header::NAME, b"\xff", "the header `cqrs-name` is not UTF-8"),
        (header::CONTENT_TYPE, b"\xff", "the header `content-type` is not UTF-8"),
    ] {
        let mut message = carried(&encode(envelope()));
        message.headers.set(name, value);
        let error = Json.decode(message).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Decode, text.to_owned()));
        assert!(std::error::Error::source(&*error).is_some());
    }
}

#[test]
fn a_message_without_a_payload_can_be_read_as_a_deletion() {
    let message = Message::tombstone("rooms");
    assert_eq!(decode_payload::<Option<RoomChanged>>(&message).unwrap(), None);
    assert_eq!(decode_payload::<RoomChanged>(&message).unwrap_err().kind(), ErrorKind::Decode);
}

#[test]
fn a_prefix_stands_before_every_topic_once() {
    let encoder = Encoder::default().with_topic_prefix("staging.");
    let correlation = Correlation::new("conversation-1");
    let topic = |event: Result<Message>| event.unwrap().topic;
    assert_eq!(topic(envelope().into_message(&encoder, &correlation)), "staging.rooms");
    assert_eq!(topic(envelope().with_topic("halls").into_message(&encoder, &correlation)), "staging.halls");
    let mut by_hand = Message::new("rooms", "{}");
    by_hand.name = "room_changed".to_owned();
    assert_eq!(topic(by_hand.into_message(&encoder, &correlation)), "staging.rooms");
    // What has no topic gets none from it.
    let error = Message::new("", "{}").into_message(&encoder, &correlation).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    let mut nowhere = Message::new("", "{}");
    nowhere.name = "room_changed".to_owned();
    let error = nowhere.into_message(&encoder, &correlation).unwrap_err();
    assert!(error.to_string().contains("no topic"), "{error}");
}
