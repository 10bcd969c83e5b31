//! From events to messages and back.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, EventKind, IntegrationEvent};
use crate::message::{Headers, Message, MessageId};
use crate::outgoing::Outgoing;
use crate::stamps::Stamps;

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
}

/// The default format: the payload alone as JSON, everything else in [headers](header).
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
        if let Some(kind) = message.kind {
            headers.set(header::KIND, kind.as_str());
        }
        if let Some(version) = message.version {
            headers.set(header::VERSION, version.to_string());
        }
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
        if let Some(id) = message.headers.get(header::ID) {
            message.id = Some(MessageId::from(id.clone()));
        }
        if let Some(name) = text(&message.headers, header::NAME)? {
            message.name = name.to_owned();
        }
        if let Some(kind) = text(&message.headers, header::KIND)? {
            message.kind = EventKind::parse(kind);
        }
        if let Some(version) = text(&message.headers, header::VERSION)? {
            message.version = Some(version.parse().map_err(|error| bad(header::VERSION, version, error))?);
        }
        if let Some(timestamp) = text(&message.headers, header::TIMESTAMP)? {
            let parsed = DateTime::parse_from_rfc3339(timestamp)
                .map_err(|error| bad(header::TIMESTAMP, timestamp, error))?;
            message.timestamp = Some(parsed.with_timezone(&Utc));
        }
        if let Some(content_type) = text(&message.headers, header::CONTENT_TYPE)? {
            message.content_type = Some(content_type.to_owned());
        }
        Ok(message)
    }
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

fn bad(name: &str, value: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Decode, format!("the header `{name}` has the unreadable value `{value}`"))
        .with_source(source)
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
                "the payload of `{}` from topic `{}` cannot be decoded: {error}",
                message.name, message.topic
            ),
        )
        .with_source(error)
    })
}

/// What ties a message to those before it. It goes down through nested requests and events.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// What all messages of one conversation share.
    pub correlation_id: Option<Arc<str>>,
    /// The id of the message that led here.
    pub causation_id: Option<Arc<str>>,
    /// The W3C trace context.
    pub traceparent: Option<Arc<str>>,
}

impl Correlation {
    /// With this correlation id and nothing else.
    pub fn new(correlation_id: impl Into<Arc<str>>) -> Self {
        Self { correlation_id: Some(correlation_id.into()), ..Self::default() }
    }

    /// What is said because of `message` belongs to its conversation and has it as the cause.
    pub fn caused_by(message: &Message) -> Self {
        let id: Option<Arc<str>> = message.id.as_ref().map(|id| id.to_string().into());
        let inherited = |name| message.headers.get_str(name).map(Arc::from);
        Self {
            correlation_id: inherited(header::CORRELATION_ID).or_else(|| id.clone()),
            causation_id: id,
            traceparent: inherited(header::TRACEPARENT),
        }
    }
}

/// Makes messages of events: the codec, and the limit on their size. The bytes are made once, when an event is
/// said; the outbox stores them and every delivery is identical.
#[derive(Clone, Debug)]
pub struct Encoder {
    codec: Arc<dyn Codec>,
    max_message_bytes: usize,
    topic_prefix: Arc<str>,
    pub(crate) stamps: Stamps,
}

impl Default for Encoder {
    /// [`Json`], and [`DEFAULT_MAX_MESSAGE_BYTES`].
    fn default() -> Self {
        Self {
            codec: Arc::new(Json),
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            topic_prefix: Arc::from(""),
            stamps: Stamps::default(),
        }
    }
}

impl Encoder {
    /// Sets the wire format.
    #[must_use]
    pub fn with_codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Sets the largest message, in bytes of payload, key and headers together.
    #[must_use]
    pub fn with_max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Puts this before the name of every topic: where several environments, or several runs, share a broker. Who
    /// subscribes says the whole name. Default: nothing.
    #[must_use]
    pub fn with_topic_prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.topic_prefix = prefix.into();
        self
    }

    /// Takes the time of an event that has none from here. Default: the system's clock.
    ///
    /// What a time is compared with elsewhere (the deadline of a request, the database's clock for a time of delivery) stays
    /// as it is.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        self.stamps.clock = Some(Arc::new(clock));
        self
    }

    /// Takes the id of an event that has none from here. Default: [`Uuid::now_v7`].
    ///
    /// Consumers tell duplicates by it, so each must be given once only.
    #[must_use]
    pub fn with_ids(mut self, ids: impl Fn() -> Uuid + Send + Sync + 'static) -> Self {
        self.stamps.ids = Some(Arc::new(ids));
        self
    }

    /// The wire format.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// Makes the message of an event, for a broker.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`]: the event is not serialisable, has no topic, a bad header, or is too large;
    /// [`ErrorKind::NoTarget`]: the envelope asks for what only an outbox can do.
    pub fn encode<E: IntegrationEvent>(
        &self,
        envelope: Envelope<E>,
        correlation: &Correlation,
    ) -> Result<Message> {
        self.encode_outgoing(envelope, correlation)?.into_message()
    }

    /// Makes the message of an event, for an outbox, with what the envelope asks it for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`], as for [`encode`](Self::encode), and if what is asked for makes no sense
    /// ([`Outgoing::check`]).
    pub fn encode_outgoing<E: IntegrationEvent>(
        &self,
        envelope: Envelope<E>,
        correlation: &Correlation,
    ) -> Result<Outgoing> {
        let Envelope { event, id, timestamp, topic, key, headers, options } = envelope;
        let payload = serde_json::to_vec(&event).map_err(|error| {
            Error::new(
                ErrorKind::InvalidEvent,
                format!("the event `{}` cannot be serialised: {error}", E::NAME),
            )
            .with_source(error)
        })?;
        let id = id.unwrap_or_else(|| self.stamps.id());
        let message = Message {
            id: Some(id.into()),
            name: E::NAME.to_owned(),
            kind: Some(E::KIND),
            version: Some(E::VERSION),
            topic: topic.map_or_else(|| E::TOPIC.to_owned(), Into::into),
            key: key.unwrap_or_else(|| event.key()),
            headers,
            payload: Some(payload.into()),
            content_type: Some("application/json".to_owned()),
            timestamp: Some(timestamp.map_or_else(|| self.stamps.now(), |given| given.trunc_subsecs(6))),
        };
        let outgoing = Outgoing { message: self.finish(message, correlation)?, options };
        outgoing.check()?;
        Ok(outgoing)
    }

    /// Gives a message that was made by hand what it lacks (id, time, correlation), and checks it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`]: it has no topic or no name, a bad header, or is too large.
    pub fn finish(&self, mut message: Message, correlation: &Correlation) -> Result<Message> {
        message.check()?;
        if !self.topic_prefix.is_empty() {
            message.topic.insert_str(0, &self.topic_prefix);
        }
        message.id.get_or_insert_with(|| self.stamps.id().into());
        message.timestamp.get_or_insert_with(|| self.stamps.now());
        for (name, value) in [
            (header::CORRELATION_ID, &correlation.correlation_id),
            (header::CAUSATION_ID, &correlation.causation_id),
            (header::TRACEPARENT, &correlation.traceparent),
        ] {
            if let Some(value) = value
                && message.headers.get(name).is_none()
            {
                message.headers.append(name, value.to_string());
            }
        }
        let message = self.codec.encode(message)?;
        self.check_size(&message)?;
        Ok(message)
    }

    /// Checks that a message is not larger than is allowed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`] if it is.
    pub fn check_size(&self, message: &Message) -> Result<()> {
        let size = message.size();
        if size <= self.max_message_bytes {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidEvent,
            format!(
                "the event `{}` has {size} bytes, and the limit is {}: make it smaller (a notification with an id instead of the state), or raise the limit with `Encoder::with_max_message_bytes` (`.encoder(..)` of the bootstrap) and the broker's own",
                message.name, self.max_message_bytes
            ),
        ))
    }
}

/// What can be published: an [integration event](IntegrationEvent), an [`Envelope`] around one, a [`Message`] of your own
/// making, or one with what an outbox is asked for ([`Outgoing`]).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published to other services",
    label = "neither an integration event, nor an `Envelope` around one, nor a `Message`",
    note = "derive `NotificationEvent` or `EcstEvent`, with `#[event(topic = \"..\")]`, and `serde::Serialize`"
)]
pub trait IntoMessage: Sized {
    /// Makes the message, for a broker.
    ///
    /// # Errors
    ///
    /// Those of [`Encoder::encode`].
    fn into_message(self, encoder: &Encoder, correlation: &Correlation) -> Result<Message>;

    /// Makes the message, for an outbox, with what it is asked for. By default nothing is.
    ///
    /// # Errors
    ///
    /// Those of [`Encoder::encode_outgoing`].
    fn into_outgoing(self, encoder: &Encoder, correlation: &Correlation) -> Result<Outgoing> {
        self.into_message(encoder, correlation).map(Outgoing::from)
    }
}

impl<E: IntegrationEvent> IntoMessage for E {
    fn into_message(self, encoder: &Encoder, correlation: &Correlation) -> Result<Message> {
        encoder.encode(Envelope::new(self), correlation)
    }
}

impl<E: IntegrationEvent> IntoMessage for Envelope<E> {
    fn into_message(self, encoder: &Encoder, correlation: &Correlation) -> Result<Message> {
        encoder.encode(self, correlation)
    }

    fn into_outgoing(self, encoder: &Encoder, correlation: &Correlation) -> Result<Outgoing> {
        encoder.encode_outgoing(self, correlation)
    }
}

impl IntoMessage for Message {
    fn into_message(self, encoder: &Encoder, correlation: &Correlation) -> Result<Message> {
        encoder.finish(self, correlation)
    }
}

impl IntoMessage for Outgoing {
    fn into_message(self, encoder: &Encoder, correlation: &Correlation) -> Result<Message> {
        encoder.finish(Outgoing::into_message(self)?, correlation)
    }

    fn into_outgoing(self, encoder: &Encoder, correlation: &Correlation) -> Result<Outgoing> {
        let outgoing = Outgoing { message: encoder.finish(self.message, correlation)?, ..self };
        outgoing.check()?;
        Ok(outgoing)
    }
}
