//! Messages as AMQP content, and back.
//!
//! Every header goes into the table, as a string where it is UTF-8 and as a byte array where not; a repeated one as
//! an array. The properties repeat what AMQP has a place for, for readers that look there. What AMQP has no place
//! for, the key and the absence of a payload, are headers of this adapter.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::broker::{BrokerError, ErrorClass};
use cqrs_core::codec::header;
use cqrs_core::{Headers, Message, MessageId};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::config::Config;
use crate::error::too_long;

/// The header that carries the key.
pub(crate) const KEY: &str = "cqrs-key";

/// The header that says that there is no payload.
pub(crate) const TOMBSTONE: &str = "cqrs-tombstone";

/// The content header must fit into one frame, of 128 KiB unless the server says otherwise; this leaves room for the
/// properties.
const MAX_HEADER_BYTES: usize = 120 * 1024;

/// RabbitMQ reads these as routing, and closes the channel if they are not lists.
const ROUTING: [&str; 2] = ["CC", "BCC"];

/// RabbitMQ's counts of deliveries, which are no headers of the message.
const DELIVERY_COUNT: &str = "x-delivery-count";
const ACQUIRED_COUNT: &str = "x-acquired-count";

const PERSISTENT: u8 = 2;

/// A message ready to be written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// Makes a message ready, or says why AMQP cannot carry it.
    pub(crate) fn new(message: &Message, config: &Config) -> Result<Self, BrokerError> {
        let (topic, max_message_bytes) = (&message.topic, config.max_message_bytes);
        if topic.is_empty() {
            return Err(BrokerError::new(
                ErrorClass::Destination,
                "the message has no topic: give it the name of an exchange",
            ));
        }
        let exchange = config
            .topology
            .exchange_of(topic)
            .map_err(|name| too_long(ErrorClass::Destination, format!("the exchange name `{name}`")))?;
        let routing_key = match config.topology.routing_key_of(topic, &message.name) {
            Ok(key) => key,
            // A long name of an event is no reason not to send it, where only people read it.
            Err(key) if config.topology.exchange.kind == "fanout" => shortened(&key),
            Err(key) => return Err(too_long(ErrorClass::Destination, format!("the routing key `{key}`"))),
        };
        let size = message.payload.as_ref().map_or(0, Bytes::len);
        if size > max_message_bytes {
            return Err(BrokerError::new(
                ErrorClass::Event,
                format!(
                    "the message for `{topic}` has {size} bytes, and the limit `max_message_bytes` is \
                     {max_message_bytes}: make it smaller, or raise the limit here and the broker's `max_message_size`"
                ),
            ));
        }
        let properties = properties(message)?;
        let payload = message.payload.clone().unwrap_or_default();
        Ok(Self { exchange, routing_key, properties, payload })
    }
}

fn properties(message: &Message) -> Result<BasicProperties, BrokerError> {
    // A name and its length, a type and its length: at most ten bytes beside the bytes themselves.
    let size = message.size() - message.payload.as_ref().map_or(0, Bytes::len) + 10 * message.headers.len();
    if size > MAX_HEADER_BYTES {
        return Err(BrokerError::new(
            ErrorClass::Event,
            format!(
                "the headers and the key of the message for `{}` have {size} bytes, and AMQP has room for \
                 {MAX_HEADER_BYTES}: put less into them",
                message.topic
            ),
        ));
    }
    let mut properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(table(message)?);
    let short = |text: &str| ShortString::try_new(text).ok();
    let id = message.id.as_ref().and_then(|id| std::str::from_utf8(id.as_bytes()).ok());
    if let Some(id) = id.and_then(short) {
        properties = properties.with_message_id(id);
    }
    if let Some(name) = short(&message.name).filter(|_| !message.name.is_empty()) {
        properties = properties.with_type(name);
    }
    if let Some(content_type) = message.content_type.as_deref().and_then(short) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(encoding) = message.headers.get_str(CONTENT_ENCODING).and_then(short) {
        properties = properties.with_content_encoding(encoding);
    }
    if let Some(correlation) = message.headers.get_str(header::CORRELATION_ID).and_then(short) {
        properties = properties.with_correlation_id(correlation);
    }
    if let Some(timestamp) = message.timestamp.and_then(|timestamp| timestamp.timestamp().try_into().ok()) {
        properties = properties.with_timestamp(timestamp);
    }
    Ok(properties)
}

/// The header that names a compression, as in HTTP.
const CONTENT_ENCODING: &str = "content-encoding";

fn table(message: &Message) -> Result<FieldTable, BrokerError> {
    let mut table = std::collections::BTreeMap::<ShortString, AMQPValue>::new();
    for (name, bytes) in message.headers.iter() {
        if ROUTING.contains(&name) {
            return Err(BrokerError::new(
                ErrorClass::Event,
                format!(
                    "the header `{name}` (message for `{}`) means routing to RabbitMQ: rename it",
                    message.topic
                ),
            ));
        }
        let name = ShortString::try_new(name)
            .map_err(|_| too_long(ErrorClass::Event, format!("the header name `{name}`")))?;
        match table.get_mut(&name) {
            None => {
                table.insert(name, value(bytes));
            }
            Some(AMQPValue::FieldArray(values)) => values.push(value(bytes)),
            Some(first) => *first = AMQPValue::FieldArray(vec![first.clone(), value(bytes)].into()),
        }
    }
    if let Some(key) = &message.key {
        table.insert(KEY.into(), value(key));
    }
    if message.payload.is_none() {
        table.insert(TOMBSTONE.into(), true.into());
    }
    Ok(table.into())
}

fn value(bytes: &Bytes) -> AMQPValue {
    match std::str::from_utf8(bytes) {
        Ok(text) => AMQPValue::LongString(text.into()),
        Err(_) => AMQPValue::ByteArray(bytes[..].into()),
    }
}

/// As much of it as AMQP has room for.
fn shortened(text: &str) -> ShortString {
    let end = (0..=text.len().min(255)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

/// The message of a delivery.
pub(crate) fn to_message(topic: String, properties: &BasicProperties, payload: Vec<u8>) -> Message {
    let mut message = Message::new(topic, payload);
    for (name, value) in properties.headers().iter().flatten() {
        match (name.as_str(), value) {
            (DELIVERY_COUNT | ACQUIRED_COUNT, _) => {}
            (KEY, value) => message.key = bytes(value),
            (TOMBSTONE, AMQPValue::Boolean(true)) => message.payload = None,
            (name, AMQPValue::FieldArray(values)) => {
                for value in values.as_slice().iter().filter_map(bytes) {
                    message.headers.append(name.to_owned(), value);
                }
            }
            // Tables are no bytes; RabbitMQ adds some, on dead letters for instance.
            (name, value) => {
                if let Some(value) = bytes(value) {
                    message.headers.append(name.to_owned(), value);
                }
            }
        }
    }
    let text =
        |property: &Option<ShortString>| property.as_ref().map(|property| property.as_str().to_owned());
    message.id = text(properties.message_id()).map(|id| MessageId::from(id.as_str()));
    message.name = text(properties.kind()).unwrap_or_default();
    message.content_type = text(properties.content_type());
    message.timestamp = properties.timestamp().and_then(timestamp);
    fill(&mut message.headers, CONTENT_ENCODING, text(properties.content_encoding()));
    fill(&mut message.headers, header::CORRELATION_ID, text(properties.correlation_id()));
    message
}

/// A property that others set, and that is a header here.
fn fill(headers: &mut Headers, name: &'static str, property: Option<String>) {
    if let Some(property) = property
        && headers.get(name).is_none()
    {
        headers.append(name, property);
    }
}

fn timestamp(seconds: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds.try_into().ok()?, 0)
}

/// The bytes of a value: of strings and byte arrays as they are, of numbers their decimal form.
fn bytes(value: &AMQPValue) -> Option<Bytes> {
    Some(match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()),
        AMQPValue::ShortString(text) => Bytes::copy_from_slice(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::Void => Bytes::new(),
        AMQPValue::Boolean(value) => value.to_string().into(),
        AMQPValue::ShortShortInt(value) => value.to_string().into(),
        AMQPValue::ShortShortUInt(value) => value.to_string().into(),
        AMQPValue::ShortInt(value) => value.to_string().into(),
        AMQPValue::ShortUInt(value) => value.to_string().into(),
        AMQPValue::LongInt(value) => value.to_string().into(),
        AMQPValue::LongUInt(value) => value.to_string().into(),
        AMQPValue::LongLongInt(value) => value.to_string().into(),
        AMQPValue::Float(value) => value.to_string().into(),
        AMQPValue::Double(value) => value.to_string().into(),
        AMQPValue::Timestamp(value) => value.to_string().into(),
        AMQPValue::DecimalValue(_) | AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => return None,
    })
}

/// How often the message was delivered to the queue's consumers, this time included: exactly on a quorum queue, which
/// counts; otherwise "once" or "not for the first time".
pub(crate) fn attempt(properties: &BasicProperties, redelivered: bool) -> u32 {
    let counted = properties.headers().as_ref().and_then(|headers| headers.inner().get(DELIVERY_COUNT));
    let before =
        counted.and_then(bytes).and_then(|count| std::str::from_utf8(&count).ok()?.parse::<u32>().ok());
    (before.unwrap_or(0).saturating_add(1)).max(if redelivered { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use cqrs_core::{Codec, EventKind, codec};

    use super::*;

    const LIMIT: usize = 1000;

    fn config() -> Config {
        let mut config = Config::from_url("amqp://localhost").unwrap();
        config.max_message_bytes = LIMIT;
        config
    }

    fn there_and_back(message: &Message) -> Message {
        let outgoing = Outgoing::new(message, &config()).unwrap();
        to_message(outgoing.exchange.to_string(), &outgoing.properties, outgoing.payload.into())
    }

    fn full() -> Message {
        let mut message = Message::new("rooms", "{}");
        message.id = Some("0190-1".into());
        message.name = "room_closed".into();
        message.key = Some(Bytes::from_static(b"\xff\x00key"));
        message.content_type = Some("application/json".into());
        message.timestamp = DateTime::from_timestamp(1_700_000_000, 0);
        message
    }

    fn class(message: Message) -> ErrorClass {
        Outgoing::new(&message, &config()).unwrap_err().class()
    }

    #[test]
    fn what_amqp_has_a_place_for_arrives_unchanged() {
        let mut message = full();
        // In the order of their names: between different names AMQP keeps none.
        message.headers.append("a", Bytes::from_static(b"\xff\xfe"));
        message.headers.append("empty", "");
        message.headers.append("twice", "2");
        message.headers.append("twice", "1");
        message.headers.append("ключ", "значение");
        assert_eq!(there_and_back(&message), message);
    }

    #[test]
    fn the_codecs_headers_bring_back_what_the_properties_lose() {
        let mut message = full();
        message.timestamp = DateTime::from_timestamp_micros(1_700_000_000_123_456);
        message.kind = Some(EventKind::Notification);
        message.version = Some(3);
        let sent = codec::Json.encode(message.clone()).unwrap();
        let mut received = codec::Json.decode(there_and_back(&sent)).unwrap();
        received.headers = Headers::new();
        assert_eq!(received, message);
    }

    #[test]
    fn no_key_and_no_payload_are_not_empty_ones() {
        let mut empty = Message::new("rooms", "");
        empty.key = Some(Bytes::new());
        assert_eq!(there_and_back(&empty), empty);
        let tombstone = Message::tombstone("rooms");
        assert_eq!(there_and_back(&tombstone), tombstone);
    }

    #[test]
    fn the_properties_are_those_that_others_look_at() {
        let mut message = full();
        message.headers.append("correlation-id", "c1");
        message.headers.append("content-encoding", "gzip");
        let outgoing = Outgoing::new(&message, &config()).unwrap();
        let properties = outgoing.properties;
        let text = |property: &Option<ShortString>| property.as_ref().unwrap().to_string();
        assert_eq!(outgoing.routing_key.as_str(), "room_closed");
        assert_eq!(text(properties.message_id()), "0190-1");
        assert_eq!(text(properties.kind()), "room_closed");
        assert_eq!(text(properties.content_type()), "application/json");
        assert_eq!(text(properties.content_encoding()), "gzip");
        assert_eq!(text(properties.correlation_id()), "c1");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    }

    #[test]
    fn what_others_wrote_is_read() {
        let mut table = FieldTable::default();
        table.insert("number".into(), AMQPValue::LongInt(-5));
        table.insert("x-death".into(), AMQPValue::FieldArray(vec![FieldTable::default().into()].into()));
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(4));
        let properties = BasicProperties::default().with_headers(table).with_correlation_id("c1".into());
        let message = to_message("rooms".into(), &properties, Vec::new());
        let headers: Vec<_> = message.headers.iter().map(|(name, value)| (name, &value[..])).collect();
        assert_eq!(headers, [("number", &b"-5"[..]), ("correlation-id", b"c1")]);
    }

    #[test]
    fn attempts_are_counted_as_far_as_the_broker_tells() {
        let mut table = FieldTable::default();
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(4));
        let counted = BasicProperties::default().with_headers(table);
        assert_eq!(attempt(&counted, true), 5);
        assert_eq!(attempt(&BasicProperties::default(), false), 1);
        assert_eq!(attempt(&BasicProperties::default(), true), 2);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_can_close_the_channel() {
        assert_eq!(class(Message::new("", "")), ErrorClass::Destination);
        assert_eq!(class(Message::new("t".repeat(256), "")), ErrorClass::Destination);
        let large = Outgoing::new(&Message::new("rooms", vec![0; LIMIT + 1]), &config()).unwrap_err();
        assert_eq!(large.class(), ErrorClass::Event);
        assert!(large.to_string().contains("`max_message_bytes` is 1000"), "{large}");
        for (name, value) in [("n".repeat(256), 0), ("CC".to_owned(), 0), ("n".to_owned(), MAX_HEADER_BYTES)]
        {
            let mut message = Message::new("rooms", "");
            message.headers.append(name, vec![0; value]);
            assert_eq!(class(message), ErrorClass::Event);
        }
    }

    #[test]
    fn what_is_too_long_for_a_property_is_left_out_or_cut() {
        let mut message = full();
        message.id = Some("i".repeat(256).as_str().into());
        message.name = "é".repeat(200);
        let outgoing = Outgoing::new(&message, &config()).unwrap();
        assert_eq!(*outgoing.properties.message_id(), None);
        assert_eq!(*outgoing.properties.kind(), None);
        assert_eq!(outgoing.routing_key.as_str(), "é".repeat(127));
    }
}
