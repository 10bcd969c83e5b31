//! Bytes of the user's own making.

use cqrs_core::codec::{Correlation, Raw, header};
use cqrs_core::*;

fn measured() -> Message {
    let mut message = Message::new("telemetry", Bytes::from_static(b"\x08\x96\x01\xff"));
    message.name = "measured".to_owned();
    message.content_type = Some("application/protobuf".to_owned());
    message.key = Some(Bytes::from_static(b"\xff"));
    message.headers.append("x", "1");
    message
}

#[test]
fn nothing_is_touched_and_the_content_type_travels() {
    let encoded = Raw::new().encode(measured()).unwrap();
    let mut expected = measured();
    expected.headers.append(header::CONTENT_TYPE, "application/protobuf");
    assert_eq!(encoded, expected);

    let decoded = Raw::new().decode(super::carried(&encoded)).unwrap();
    assert_eq!((decoded.payload, decoded.key), (expected.payload, expected.key));
    assert_eq!(decoded.content_type.as_deref(), Some("application/protobuf"));
    assert_eq!((decoded.id, &*decoded.name), (None, ""));

    let mut unknown = measured();
    unknown.content_type = None;
    assert_eq!(Raw::new().encode(unknown.clone()).unwrap(), unknown);
}

#[test]
fn bytes_are_said_as_a_message() {
    let encoder = Encoder::default().with_codec(Raw::new());
    let said = measured().into_message(&encoder, &Correlation::default()).unwrap();
    assert_eq!(said.payload, measured().payload);
    assert_eq!(said.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x", header::CONTENT_TYPE]);
}

#[test]
fn a_message_without_a_name_gets_the_one_that_was_set() {
    let codec = Raw::new().with_name("measured");
    assert_eq!(codec.decode(super::carried(&measured())).unwrap().name, "measured");
    let mut named = measured();
    named.name = "from_amqp".to_owned();
    assert_eq!(codec.decode(named).unwrap().name, "from_amqp");
}

#[test]
fn a_content_type_that_is_no_text_is_named() {
    let mut message = Message::new("t", "");
    message.headers.append(header::CONTENT_TYPE, Bytes::from_static(b"\xff"));
    let error = Raw::new().decode(message).unwrap_err();
    assert_eq!(error.to_string(), "the header `content-type` is not UTF-8");
}
