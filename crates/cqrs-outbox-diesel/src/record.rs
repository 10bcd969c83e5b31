//! Between messages and rows.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::codec::Json;
use cqrs_core::{Error, ErrorKind, EventKind, Headers, Message, Result};
use cqrs_outbox::{GroupNo, Lane, OutboxRow, Place};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
use serde_json::{Value, json};
use uuid::Uuid;

/// The longest key, in bytes: an index on lanes must be able to hold it (PostgreSQL's hold about 2,700).
const MAX_KEY_BYTES: usize = 2_000;

/// Refuses a key that is too long.
pub(crate) fn too_long(key: &[u8], which: &str) -> Result<()> {
    let length = key.len();
    if length <= MAX_KEY_BYTES {
        return Ok(());
    }
    let what = format!(
        "the {which} has {length} bytes, and the outbox takes {MAX_KEY_BYTES} at most: make it shorter, with a hash for \
         example"
    );
    Err(Error::new(ErrorKind::InvalidEvent, what))
}

/// A message as the columns of a new row.
#[derive(Debug)]
pub struct NewRow {
    pub(crate) event_id: Uuid,
    pub(crate) event_name: String,
    pub(crate) event_kind: &'static str,
    pub(crate) event_version: i32,
    pub(crate) topic: String,
    pub(crate) message_key: Option<Vec<u8>>,
    pub(crate) headers: String,
    pub(crate) content_type: String,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) occurred_at: DateTime<Utc>,
}

impl NewRow {
    pub(crate) fn new(message: Message) -> Result<Self> {
        let id = message.id.as_ref().and_then(|id| id.to_uuid());
        let event_id = id.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidEvent,
                format!(
                    "the event `{}` has an id that is not a UUID, and the outbox wants one",
                    message.name
                ),
            )
        })?;
        if let Some(key) = &message.key {
            too_long(key, &format!("key of the event `{}`", message.name))?;
        }
        let version = message.version.unwrap_or(1);
        Ok(Self {
            event_id,
            event_kind: message.kind.unwrap_or(EventKind::Notification).as_str(),
            event_version: i32::try_from(version).map_err(|_| {
                Error::new(ErrorKind::InvalidEvent, format!("the event version {version} is out of range"))
            })?,
            event_name: message.name,
            topic: message.topic,
            message_key: message.key.map(Into::into),
            headers: headers_to_json(&message.headers),
            content_type: message.content_type.unwrap_or_else(|| "application/json".to_owned()),
            payload: message.payload.map(Into::into),
            occurred_at: message.timestamp.unwrap_or_else(Utc::now),
        })
    }
}

/// A waiting row, as every database gives it: its id as bytes and its time as RFC 3339, for the types of these differ.
#[derive(QueryableByName, Debug)]
pub struct Record {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Binary)]
    event_id: Vec<u8>,
    #[diesel(sql_type = Text)]
    event_name: String,
    #[diesel(sql_type = Text)]
    event_kind: String,
    #[diesel(sql_type = Integer)]
    event_version: i32,
    #[diesel(sql_type = Text)]
    topic: String,
    #[diesel(sql_type = Nullable<Binary>)]
    message_key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    headers: Option<String>,
    #[diesel(sql_type = Text)]
    content_type: String,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    payload_text: Option<String>,
    #[diesel(sql_type = Text)]
    occurred_at: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) size: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) group_no: i32,
    #[diesel(sql_type = Bool)]
    gated: bool,
}

impl Record {
    /// `free` is where it stands if its lane's gate is not closed.
    pub(crate) fn into_row(self, free: Place) -> OutboxRow {
        // The tables take nothing else.
        let event_id = Uuid::from_slice(&self.event_id).unwrap_or_default();
        let lane = Lane::of(self.message_key.as_deref(), event_id);
        let payload = self.payload.map(Bytes::from).or(self.payload_text.map(Bytes::from));
        let mut message = match payload {
            Some(payload) => Message::new(self.topic, payload),
            None => Message::tombstone(self.topic),
        };
        message.id = Some(event_id.into());
        message.name = self.event_name;
        message.kind = EventKind::parse(&self.event_kind);
        message.version = u32::try_from(self.event_version).ok();
        message.key = self.message_key.map(Bytes::from);
        message.content_type = Some(self.content_type);
        message.timestamp =
            DateTime::parse_from_rfc3339(&self.occurred_at).ok().map(|at| at.with_timezone(&Utc));
        match self.headers {
            Some(headers) => message.headers = headers_from_json(&headers),
            // A row that plain SQL wrote: its headers follow from its columns, so they are the same each time.
            None => Json::set_headers(&mut message),
        }
        OutboxRow {
            id: self.id,
            event_id,
            group: GroupNo(self.group_no),
            lane,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            size: usize::try_from(self.size).unwrap_or(0),
            place: if self.gated { Place::Gated } else { free },
            message,
        }
    }
}

/// Pairs in their order; a value that is not UTF-8, or has a NUL, which PostgreSQL's JSON cannot hold, as
/// `{"hex": ".."}`.
fn headers_to_json(headers: &Headers) -> String {
    let pairs = headers.iter().map(|(name, value)| match std::str::from_utf8(value) {
        Ok(value) if !value.contains('\0') => json!([name, value]),
        _ => json!([name, { "hex": to_hex(value) }]),
    });
    Value::Array(pairs.collect()).to_string()
}

/// Lenient, for the text may come from anyone, and one row must not stop the others.
fn headers_from_json(text: &str) -> Headers {
    let value = |value: Value| match value {
        Value::String(text) => Bytes::from(text),
        Value::Object(object) => match object.get("hex").and_then(Value::as_str).and_then(from_hex) {
            Some(bytes) => Bytes::from(bytes),
            None => Bytes::from(Value::Object(object).to_string()),
        },
        other => Bytes::from(other.to_string()),
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object.into_iter().map(|(name, json)| (name, value(json))).collect(),
        Ok(Value::Array(pairs)) => pairs
            .into_iter()
            .filter_map(|pair| match pair {
                Value::Array(pair) => <[Value; 2]>::try_from(pair).ok(),
                _ => None,
            })
            .filter_map(|[name, json]| match name {
                Value::String(name) => Some((name, value(json))),
                _ => None,
            })
            .collect(),
        _ => Headers::new(),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        let headers: Headers = [
            ("a", &b"1"[..]),
            ("a", b""),
            ("\u{fc}", b"\x00\xff"),
            ("nul", b"a\0b"),
            ("q", "\"☃\"".as_bytes()),
        ]
        .into_iter()
        .map(|(name, value)| (name, Bytes::from(value)))
        .collect();
        assert_eq!(headers_from_json(&headers_to_json(&headers)), headers);
    }

    #[test]
    fn headers_of_others_are_read_leniently() {
        let headers = headers_from_json(r#"{"tenant": "blue", "retries": 3, "raw": {"hex": "00ff"}}"#);
        assert_eq!(headers.get_str("tenant"), Some("blue"));
        assert_eq!(headers.get_str("retries"), Some("3"));
        assert_eq!(headers.get("raw").map(|raw| &raw[..]), Some(&b"\x00\xff"[..]));
        assert!(headers_from_json("[1, [2, 3], [\"a\"]]").is_empty());
    }
}
