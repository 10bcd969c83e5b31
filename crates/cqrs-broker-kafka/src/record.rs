//! Messages as Kafka records, and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use chrono::DateTime;
use cqrs_core::broker::{BrokerError, ErrorClass};
use cqrs_core::{Headers, Message};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

/// What Kafka cannot carry.
pub(crate) fn check(message: &Message) -> Result<(), BrokerError> {
    let topic = &message.topic;
    if topic.is_empty() || topic.contains('\0') {
        return Err(BrokerError::new(
            ErrorClass::Destination,
            format!("{topic:?} cannot be a topic: give the message the name of a Kafka topic"),
        ));
    }
    match message.headers.iter().find(|(name, _)| name.contains('\0')) {
        None => Ok(()),
        Some((name, _)) => Err(BrokerError::new(
            ErrorClass::Event,
            format!(
                "{name:?} cannot be the name of a header (message for `{topic}`): take the NUL out of it"
            ),
        )),
    }
}

/// The record of a message: its bytes are borrowed, its headers copied.
pub(crate) fn from_message(message: &Message) -> FutureRecord<'_, [u8], [u8]> {
    FutureRecord {
        topic: &message.topic,
        partition: None,
        payload: message.payload.as_deref(),
        key: message.key.as_deref(),
        timestamp: message.timestamp.map(|timestamp| timestamp.timestamp_millis()),
        headers: (!message.headers.is_empty()).then(|| {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            message.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header { key, value: Some(&value[..]) })
            })
        }),
    }
}

/// The message of a record. Name, id and the like stand in the headers, for a codec to read.
pub(crate) fn to_message(record: &impl rdkafka::Message) -> Message {
    let mut message = Message::tombstone(record.topic());
    message.payload = record.payload().map(Bytes::copy_from_slice);
    message.key = record.key().map(Bytes::copy_from_slice);
    message.timestamp = record.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
    if let Some(headers) = record.headers() {
        message.headers = read(headers);
    }
    message
}

fn read(headers: &impl rdkafka::message::Headers) -> Headers {
    let mut known = Headers::new();
    for index in 0..headers.count() {
        // The client panics at a name that is not UTF-8, and such a record must not stop its partition for ever.
        match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
            Ok(Some(header)) => {
                known.append(header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default()))
            }
            Ok(None) => {}
            Err(_) => tracing::warn!("left out a record's header whose name is not UTF-8"),
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;

    fn there_and_back(message: &Message) -> Message {
        let record = from_message(message);
        to_message(&OwnedMessage::new(
            record.payload.map(<[u8]>::to_vec),
            record.key.map(<[u8]>::to_vec),
            record.topic.to_owned(),
            record.timestamp.map_or(Timestamp::NotAvailable, Timestamp::CreateTime),
            0,
            0,
            record.headers,
        ))
    }

    #[test]
    fn what_kafka_carries_arrives_unchanged() {
        let mut message = Message::new("rooms", "{}");
        message.key = Some(Bytes::from_static(b"\xff\x00key"));
        message.timestamp = DateTime::from_timestamp_millis(Utc::now().timestamp_millis());
        message.headers.append("ключ", "значение");
        message.headers.append("empty", "");
        message.headers.append("twice", "1");
        message.headers.append("a", Bytes::from_static(b"\xff\xfe"));
        message.headers.append("twice", "2");
        message.headers.append("", "no name");
        assert_eq!(there_and_back(&message), message);
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
    fn what_c_strings_cannot_say_is_refused() {
        let class = |message: &Message| check(message).map_err(|error| error.class());
        assert_eq!(class(&Message::new("", "")), Err(ErrorClass::Destination));
        assert_eq!(class(&Message::new("a\0b", "")), Err(ErrorClass::Destination));
        let mut message = Message::new("rooms", "");
        assert_eq!(class(&message), Ok(()));
        message.headers.append("a\0b", "");
        assert_eq!(class(&message), Err(ErrorClass::Event));
    }
}
