//! CloudEvents 1.0.

mod attributes;
mod structured;

pub(super) use self::attributes::attribute_of;
use self::attributes::{Attributes, is_text, is_uri_reference};
use super::{Codec, Fit, compression_of, forget, header, json, refused, text, undecodable};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), for readers who know that and not
/// us: in Knative, Azure, Google Cloud and the SDKs of many languages.
///
/// In the *structured* mode, the default, the payload is an envelope of
/// [JSON](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) around the event. In the
/// *binary* mode the payload is the event alone and the attributes are headers, with the names that the
/// [Kafka](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md) or the
/// [AMQP](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md) binding wants; you
/// [say which](Self::binary). Both modes and all names are read, whatever is written.
///
/// | attribute | what it is here |
/// |---|---|
/// | `id`, `type`, `time` | the event's id, name, timestamp |
/// | `source` | a setting |
/// | `subject` | the key |
/// | `partitionkey` ([partitioning](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/partitioning.md)) | the key |
/// | `datacontenttype` | the content type |
/// | `dataschema` | a [setting](Self::with_dataschema), none by default |
/// | `traceparent` ([tracing](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md)) | the header of that name |
/// | `sequence` ([sequence](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/sequence.md)), other extensions | the header `ce_sequence` and the like |
///
/// To write an extension, give the event a header with its name behind `ce_`, in either mode and for either broker;
/// `ce_subject` and `ce_dataschema` work, too, in place of what is in the table. After decoding all attributes but
/// `datacontenttype` stand in such headers. Kind and schema version, for which CloudEvents has no attributes, are our
/// own [headers](header); all other headers stay as they are. A key that came with the message stands above
/// `partitionkey`, and that above `subject`. An empty key is carried by the broker alone, for no attribute may be empty.
///
/// A payload with a JSON content type is written as it is, but for white space around it in the structured mode, which writes
/// Base64 for others and for those without a content type. A message without a payload has no `data`; that is a tombstone
/// for Kafka in the binary mode only.
///
/// # Errors
///
/// Encoding fails with [`ErrorKind::InvalidEvent`] for what CloudEvents has no words for: no id, a key or an id
/// that is not UTF-8, control characters, a year with five digits, an extension's name with other characters than
/// `a-z0-9`, a payload that is not the JSON that its content type promises. Decoding fails with [`ErrorKind::Decode`]: an
/// attribute that must be there is not, or cannot be read; another version than 1.0; another event format than JSON; a batch.
///
/// ```
/// use cqrs_core::codec::{Binding, CloudEvents, Codec, Encoder};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// let structured = CloudEvents::new("https://example.com/rooms")?;
/// let encoder = Encoder::default().with_codec(structured.clone().binary(Binding::Kafka));
///
/// let received = Message::new(
///     "rooms",
///     r#"{"specversion":"1.0","id":"7","source":"/halls","type":"room_closed","subject":"5","data":{"room":5}}"#,
/// );
/// let received = structured.decode(received)?;
/// assert_eq!(received.name, "room_closed");
/// assert_eq!(received.key.as_deref(), Some(&b"5"[..]));
/// assert_eq!(received.payload.as_deref(), Some(&br#"{"room":5}"#[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CloudEvents {
    source: String,
    dataschema: Option<String>,
    binary: Option<Binding>,
}

/// Whose names the headers of the binary mode have.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// `ce_id` and so on.
    Kafka,
    /// `cloudEvents_id` and so on: the form that JMS can read, too. `cloudEvents:id` is read as well.
    Amqp,
}

impl Binding {
    fn prefix(self) -> &'static str {
        match self {
            Self::Kafka => attributes::PREFIX,
            Self::Amqp => "cloudEvents_",
        }
    }
}

impl CloudEvents {
    /// The structured mode, with what says where events come from: a URI or a relative reference, which together with the
    /// event's id is unique.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: it is empty, or has characters that no URI has.
    pub fn new(source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        if !is_uri_reference(&source) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "the source {source:?} of CloudEvents is not a URI reference: take one like `/rooms` or `https://example.com/rooms`"
                ),
            ));
        }
        Ok(Self { source, dataschema: None, binary: None })
    }

    /// Writes the binary mode, for this broker.
    #[must_use]
    pub fn binary(mut self, binding: Binding) -> Self {
        self.binary = Some(binding);
        self
    }

    /// Writes the attribute `dataschema`, a URI, in which `{name}` is replaced by the event's name and `{version}` by the
    /// version of its schema: `https://example.com/schemas/{name}/{version}`. Default: none.
    #[must_use]
    pub fn with_dataschema(mut self, template: impl Into<String>) -> Self {
        self.dataschema = Some(template.into());
        self
    }
}

impl Codec for CloudEvents {
    fn encode(&self, mut message: Message) -> Result<Message> {
        let attributes = Attributes::of_event(&message, self)?;
        forget(&mut message.headers);
        json::write_schema(&mut message);
        match self.binary {
            Some(binding) => {
                attributes.write_headers(&mut message.headers, binding.prefix());
            }
            None => {
                message.payload = Some(structured::write(&message, &attributes)?.into());
                message.content_type = Some(structured::CONTENT_TYPE.to_owned());
            }
        }
        if let Some(content_type) = &message.content_type {
            message.headers.set(header::CONTENT_TYPE, content_type.clone());
        }
        Ok(message)
    }

    fn decode(&self, mut message: Message) -> Result<Message> {
        let content_type = content_type(&message)?;
        let envelope =
            content_type.as_deref().filter(|content_type| structured::is_content_type(content_type));
        let attributes = if let Some(envelope) = envelope {
            structured::check_format(&message, envelope)?;
            let payload = message.payload.clone().ok_or_else(|| {
                undecodable(
                    &message,
                    "is no CloudEvent: its content type promises one, and it has no payload",
                )
            })?;
            structured::read(&mut message, &payload)?
        } else if let Some(prefix) = attributes::prefix_of(&message.headers) {
            let attributes = Attributes::from_headers(&mut message, prefix)?;
            message.content_type = content_type;
            attributes
        } else if let Some(payload) =
            message.payload.clone().filter(|payload| structured::looks_like(payload))
        {
            structured::read(&mut message, &payload)?
        } else {
            return Err(undecodable(
                &message,
                "is not a CloudEvent: neither its content type nor a header `ce_specversion` or `cloudEvents_specversion` says so, and its payload is no object with a `specversion`",
            ));
        };
        attributes.check(&message)?;
        attributes.into_fields(&mut message)?;
        json::read_schema(&mut message)?;
        match &message.content_type {
            Some(content_type) => message.headers.set(header::CONTENT_TYPE, content_type.clone()),
            None => message.headers.remove(header::CONTENT_TYPE),
        }
        Ok(message)
    }

    fn fits(&self, message: &Message) -> Fit {
        let content_type = content_type(message).ok().flatten();
        if compression_of(message).is_some() {
            // Somebody else may know how to undo it.
            Fit::Perhaps
        } else if content_type.as_deref().is_some_and(structured::is_content_type)
            || attributes::prefix_of(&message.headers).is_some()
        {
            Fit::Headers
        } else if message.payload.as_deref().is_some_and(structured::looks_like) {
            Fit::Shape
        } else {
            Fit::No
        }
    }
}

/// The header, which Kafka has, before what AMQP tells.
fn content_type(message: &Message) -> Result<Option<String>> {
    let header = text(&message.headers, header::CONTENT_TYPE)?;
    Ok(header.or(message.content_type.as_deref()).map(str::to_owned))
}

/// What an attribute may say: something, without control characters.
fn checked(message: &Message, attribute: &str, value: &str) -> Result<String> {
    if value.is_empty() {
        return Err(refused(message, format!("has nothing for the CloudEvents attribute `{attribute}`")));
    }
    if !is_text(value) {
        return Err(refused(
            message,
            format!(
                "has a value for the CloudEvents attribute `{attribute}` with a character in it that is none of text"
            ),
        ));
    }
    Ok(value.to_owned())
}
