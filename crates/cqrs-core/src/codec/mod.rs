//! From events to messages and back.
//!
//! A [`Codec`] is a wire format. One is chosen for everything ([`Encoder::with_codec`]), for a topic
//! ([`Encoder::with_codec_for_topic`]) or for an event ([`Encoder::with_codec_for_event`]):
//!
//! | codec | what the payload is | what stands elsewhere |
//! |---|---|---|
//! | [`Json`], the default | the event as JSON | the rest, in [headers](header) |
//! | [`CloudEvents`] | the event, or an envelope around it | in the binary mode, the rest in headers |
//! | [`PythonCqrs`] | what `python-cqrs` writes, versions 0 and 5 | nothing |
//! | [`Raw`] | bytes of your own making | the content type |
//!
//! [`Compressed`] is a step behind any of them; [`AnyOf`] reads several.

mod any;
mod cloud_events;
#[cfg(any(feature = "gzip", feature = "zstd"))]
mod compression;
mod correlation;
mod encoder;
mod json;
mod object;
mod python_cqrs;
mod raw;

use std::fmt::Debug;
use std::sync::Arc;

use serde::de::DeserializeOwned;

pub use self::any::AnyOf;
pub use self::cloud_events::{Binding, CloudEvents};
#[cfg(any(feature = "gzip", feature = "zstd"))]
pub use self::compression::{Compressed, DEFAULT_MAX_DECOMPRESSED_BYTES};
pub use self::correlation::Correlation;
pub use self::encoder::{Encoder, IntoMessage};
pub use self::json::Json;
pub use self::python_cqrs::PythonCqrs;
pub use self::raw::Raw;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Headers, Message};

/// The names of the headers that this toolkit reads and writes.
pub mod header {
    /// The event's id.
    pub const ID: &str = "cqrs-id";
    /// The event's name.
    pub const NAME: &str = "cqrs-name";
    /// `notification` or `ecst`.
    pub const KIND: &str = "cqrs-kind";
    /// The version of the payload's schema, a decimal number.
    pub const VERSION: &str = "cqrs-version";
    /// When it happened: RFC 3339, UTC, microseconds.
    pub const TIMESTAMP: &str = "cqrs-timestamp";
    /// The media type of the payload.
    pub const CONTENT_TYPE: &str = "content-type";
    /// How the payload is compressed, as in HTTP; without it, it is not.
    pub const CONTENT_ENCODING: &str = "content-encoding";
    /// What all messages of one conversation share.
    pub const CORRELATION_ID: &str = "correlation-id";
    /// The id of the message that this one is an answer to.
    pub const CAUSATION_ID: &str = "causation-id";
    /// The [W3C trace context](https://www.w3.org/TR/trace-context/).
    pub const TRACEPARENT: &str = "traceparent";
}

/// The largest message, in bytes, unless you set another limit: what Kafka's default `message.max.bytes`
/// (1,048,588) takes, with room for the batch around it.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_000_000;

/// A wire format.
///
/// [`encode`](Self::encode) gets a message whose fields are set and whose payload is the event as JSON, and makes
/// of it what goes over the wire; [`decode`](Self::decode) does the reverse. Both work on bytes, so one codec
/// serves every type of event.
pub trait Codec: Debug + Send + Sync + 'static {
    /// From fields and payload to the wire.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`] for what this format cannot express.
    fn encode(&self, message: Message) -> Result<Message>;

    /// From the wire to fields and payload.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] for what is not this format.
    fn decode(&self, message: Message) -> Result<Message>;

    /// Whether a received message is of this format, for a consumer that accepts [several](AnyOf). Default:
    /// [`Fit::Perhaps`], which is tried after those that know.
    fn fits(&self, message: &Message) -> Fit {
        let _ = message;
        Fit::Perhaps
    }
}

/// How a received message fits a format. What is further down fits better.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fit {
    /// It is something else.
    No,
    /// Nothing speaks against it: one can only try.
    Perhaps,
    /// Its payload looks like it.
    Shape,
    /// Its headers, or its content type, say so.
    Headers,
}

/// A format that was chosen when the program ran.
impl<C: Codec + ?Sized> Codec for Arc<C> {
    fn encode(&self, message: Message) -> Result<Message> {
        (**self).encode(message)
    }

    fn decode(&self, message: Message) -> Result<Message> {
        (**self).decode(message)
    }

    fn fits(&self, message: &Message) -> Fit {
        (**self).fits(message)
    }
}

/// The payload of a decoded message as an event. A message without a payload is read as JSON `null`, so that an
/// event type that is an `Option` can stand for a deletion.
///
/// # Errors
///
/// [`ErrorKind::Decode`], naming the event and what did not fit.
pub fn decode_payload<E: DeserializeOwned>(message: &Message) -> Result<E> {
    let bytes = message.payload.as_deref().unwrap_or(b"null");
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(
            ErrorKind::Decode,
            format!(
                "the payload of `{}` from topic `{}` cannot be decoded{}: {error}",
                message.name,
                message.topic,
                still_compressed(message)
            ),
        )
        .with_source(error)
    })
}

/// Where a consumer misses the step that undoes a compression, the payload is no JSON, which tells nobody why.
fn still_compressed(message: &Message) -> String {
    match compression_of(message) {
        None => String::new(),
        Some(encoding) => format!(
            " (it is compressed with `{}`: put `codec::Compressed` around the codec)",
            excerpt(encoding)
        ),
    }
}

fn compression_of(message: &Message) -> Option<&str> {
    message
        .headers
        .get_str(header::CONTENT_ENCODING)
        .filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
}

fn text<'a>(headers: &'a Headers, name: &str) -> Result<Option<&'a str>> {
    headers
        .get(name)
        .map(|value| {
            std::str::from_utf8(value).map_err(|error| {
                Error::new(ErrorKind::Decode, format!("the header `{name}` is not UTF-8")).with_source(error)
            })
        })
        .transpose()
}

/// The beginning of a text that someone else wrote, for an error that says it.
fn excerpt(text: &str) -> &str {
    const MAX_BYTES: usize = 100;
    let end = (0..=MAX_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// What one of our codecs wrote into headers says nothing of a message that another one writes.
fn forget(headers: &mut Headers) {
    headers.retain(|name| {
        ![header::ID, header::NAME, header::KIND, header::VERSION, header::TIMESTAMP, header::CONTENT_TYPE]
            .contains(&name)
            && cloud_events::attribute_of(name).is_none()
    });
}

#[doc(hidden)]
/// Whether a media type is one of JSON: `*/json` or `*/*+json`, whatever its parameters are.
pub fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

fn undecodable(message: &Message, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Decode, format!("the message from topic `{}` {what}", message.topic))
}

fn refused(message: &Message, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidEvent, format!("the event `{}` {what}", excerpt(&message.name)))
}
