use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{Codec, Fit, compression_of, excerpt, header, is_json, text};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::message::{Headers, Message, MessageId};

/// The default format: the payload alone as JSON, everything else in [headers](header).
///
/// It leaves the payload as it is. So a [`Message`] of your own with other bytes and their `content_type` is carried with
/// all headers, too, and is read by whoever handles messages. Encoding never fails. Decoding fails with
/// [`ErrorKind::Decode`](crate::ErrorKind::Decode) for a header that cannot be read, and takes what is missing for unknown.
///
/// ```
/// use cqrs_core::codec::{Codec, Json};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// let mut message = Message::new("rooms", r#"{"room":5}"#);
/// message.name = "room_closed".into();
/// let encoded = Json.encode(message)?;
/// assert_eq!(encoded.headers.get_str("cqrs-name"), Some("room_closed"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Json {
    /// Sets the headers from the fields, which it can always do.
    pub fn set_headers(message: &mut Message) {
        let headers = &mut message.headers;
        if let Some(id) = &message.id {
            headers.set(header::ID, Bytes::copy_from_slice(id.as_bytes()));
        }
        if !message.name.is_empty() {
            headers.set(header::NAME, message.name.clone());
        }
        write_schema(message);
        let headers = &mut message.headers;
        if let Some(timestamp) = message.timestamp {
            headers.set(header::TIMESTAMP, timestamp.to_rfc3339_opts(SecondsFormat::Micros, true));
        }
        if let Some(content_type) = &message.content_type {
            headers.set(header::CONTENT_TYPE, content_type.clone());
        }
    }
}

impl Codec for Json {
    fn encode(&self, mut message: Message) -> Result<Message> {
        Self::set_headers(&mut message);
        Ok(message)
    }

    fn decode(&self, mut message: Message) -> Result<Message> {
        // Some brokers have told the one or the other already.
        if let Some(id) = message.headers.get(header::ID)
            && message.id.as_ref().is_none_or(|known| known.as_bytes() != id)
        {
            message.id = Some(MessageId::from(id.clone()));
        }
        if let Some(name) = other_text(&message.headers, header::NAME, Some(&message.name))? {
            message.name = name;
        }
        read_schema(&mut message)?;
        if let Some(timestamp) = text(&message.headers, header::TIMESTAMP)? {
            let parsed = DateTime::parse_from_rfc3339(timestamp)
                .map_err(|error| bad(header::TIMESTAMP, timestamp, error))?;
            message.timestamp = Some(parsed.with_timezone(&Utc));
        }
        let known = message.content_type.as_deref();
        if let Some(content_type) = other_text(&message.headers, header::CONTENT_TYPE, known)? {
            message.content_type = Some(content_type);
        }
        Ok(message)
    }

    fn fits(&self, message: &Message) -> Fit {
        let content_type = message.headers.get_str(header::CONTENT_TYPE).or(message.content_type.as_deref());
        if compression_of(message).is_some() {
            // Somebody else may know how to undo it.
            Fit::Perhaps
        } else if message.headers.get(header::ID).is_some() || message.headers.get(header::NAME).is_some() {
            Fit::Headers
        } else if content_type.is_some_and(|content_type| !is_json(content_type)) {
            Fit::No
        } else {
            Fit::Perhaps
        }
    }
}

/// The text of a header, if it is not known already.
fn other_text(headers: &Headers, name: &str, known: Option<&str>) -> Result<Option<String>> {
    let is_known =
        headers.get(name).is_some_and(|value| known.is_some_and(|known| known.as_bytes() == value));
    if is_known { Ok(None) } else { Ok(text(headers, name)?.map(str::to_owned)) }
}

/// What most formats have no place for: the kind of the event, and the version of its schema.
pub(super) fn write_schema(message: &mut Message) {
    let headers = &mut message.headers;
    if let Some(kind) = message.kind {
        headers.set(header::KIND, kind.as_str());
    }
    if let Some(version) = message.version {
        headers.set(header::VERSION, version.to_string());
    }
}

pub(super) fn read_schema(message: &mut Message) -> Result<()> {
    if let Some(kind) = text(&message.headers, header::KIND)? {
        message.kind = EventKind::parse(kind);
    }
    if let Some(version) = text(&message.headers, header::VERSION)? {
        message.version = Some(version.parse().map_err(|error| bad(header::VERSION, version, error))?);
    }
    Ok(())
}

fn bad(name: &str, value: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(
        ErrorKind::Decode,
        format!("the header `{name}` has the unreadable value `{}`", excerpt(value)),
    )
    .with_source(source)
}
