use super::{Codec, Fit, header, text};
use crate::error::Result;
use crate::message::Message;

/// Bytes of your own making, protobuf or Avro for instance, and their content type: for topics whose format is not ours.
///
/// Payload, key and headers are left as they are. Only the content type is put into the header
/// [`content-type`](header::CONTENT_TYPE), where there is one, for Kafka has no other place for it.
///
/// To say bytes, publish a [`Message`] (or an [`Outgoing`](crate::Outgoing)) with them instead of an event: an event is
/// serialised as JSON before it gets here. Among our own services take [`Json`](super::Json) for such a message instead:
/// it leaves the payload, too, and carries id, name and time in headers, by which inboxes tell duplicates
/// and mediators find handlers.
///
/// Received messages have the id and the name that the broker tells (AMQP does, Kafka does not). To bind a handler for a
/// topic with one type of message, [give it a name](Self::with_name).
///
/// Encoding never fails. Decoding fails with [`ErrorKind::Decode`](crate::ErrorKind::Decode) for a content type that is not
/// UTF-8.
///
/// ```
/// use cqrs_core::codec::{Correlation, Encoder, IntoMessage, Raw};
/// use cqrs_core::Message;
///
/// # fn main() -> cqrs_core::Result<()> {
/// let encoder = Encoder::default().with_codec_for_topic("telemetry", Raw::new());
/// let mut message = Message::new("telemetry", &b"\x08\x96\x01"[..]);
/// message.name = "measured".into();
/// message.content_type = Some("application/protobuf".into());
/// let message = message.into_message(&encoder, &Correlation::default())?;
/// assert_eq!(message.payload.as_deref(), Some(&b"\x08\x96\x01"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Raw {
    name: String,
}

impl Raw {
    /// Without a name for messages that have none.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The event that a received message stands for, if the broker tells none. Default: none.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl Codec for Raw {
    fn encode(&self, mut message: Message) -> Result<Message> {
        if let Some(content_type) = &message.content_type {
            message.headers.set(header::CONTENT_TYPE, content_type.clone());
        }
        Ok(message)
    }

    fn decode(&self, mut message: Message) -> Result<Message> {
        if let Some(content_type) = text(&message.headers, header::CONTENT_TYPE)? {
            message.content_type = Some(content_type.to_owned());
        }
        if message.name.is_empty() {
            message.name.clone_from(&self.name);
        }
        Ok(message)
    }

    fn fits(&self, _: &Message) -> Fit {
        Fit::Perhaps
    }
}
