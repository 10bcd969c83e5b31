use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use super::{Codec, Correlation, DEFAULT_MAX_MESSAGE_BYTES, Json, any, header};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, IntegrationEvent};
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::stamps::Stamps;

/// Makes messages of events, and reads them: the codecs, and the limit on their size. The bytes are made once, when an event is
/// said; the outbox stores them and every delivery is identical.
#[derive(Clone, Debug)]
pub struct Encoder {
    codec: Arc<dyn Codec>,
    of_topic: BTreeMap<String, Arc<dyn Codec>>,
    of_event: BTreeMap<String, Arc<dyn Codec>>,
    max_message_bytes: usize,
    topic_prefix: Arc<str>,
    pub(crate) stamps: Stamps,
}

impl Default for Encoder {
    /// [`Json`], and [`DEFAULT_MAX_MESSAGE_BYTES`].
    fn default() -> Self {
        Self {
            codec: Arc::new(Json),
            of_topic: BTreeMap::new(),
            of_event: BTreeMap::new(),
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            topic_prefix: Arc::from(""),
            stamps: Stamps::default(),
        }
    }
}

impl Encoder {
    /// Sets the wire format of everything that no topic and no event has one of its own for.
    #[must_use]
    pub fn with_codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Sets the wire format of a topic, without the [prefix](Self::with_topic_prefix): what is said there is written
    /// in it, and what is received from there is read in it.
    ///
    /// ```
    /// use cqrs_core::codec::{CloudEvents, Encoder, PythonCqrs};
    ///
    /// # fn main() -> cqrs_core::Result<()> {
    /// let encoder = Encoder::default()
    ///     .with_codec_for_topic("rooms", PythonCqrs::v5_dataclass())
    ///     .with_codec_for_event("invoice_paid", CloudEvents::new("/billing")?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_codec_for_topic(mut self, topic: impl Into<String>, codec: impl Codec) -> Self {
        self.of_topic.insert(topic.into(), Arc::new(codec));
        self
    }

    /// Sets the wire format of an event, by its name, whatever topic it goes to.
    ///
    /// A received message does not always tell its event before it is decoded. So all formats that were given to an
    /// event are accepted from every topic, beside the topic's own, and told apart as [`AnyOf`](super::AnyOf) does.
    #[must_use]
    pub fn with_codec_for_event(mut self, name: impl Into<String>, codec: impl Codec) -> Self {
        self.of_event.insert(name.into(), Arc::new(codec));
        self
    }

    /// Sets the largest message, in bytes of payload, key and headers together. With 0 there is room for none: the emitter's encoder
    /// is refused when the mediator is built; an outbox's, where no mediator looks at it, refuses each event.
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

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        (self.max_message_bytes == 0).then_some(
            "the `Encoder` takes messages of 0 bytes, and no event has so few: raise its `with_max_message_bytes`, or leave it out",
        )
    }

    /// The wire format of everything that no topic and no event has one of its own for.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// Reads a received message, in the format of its topic or in one of those that an event has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] for what is none of them.
    pub fn decode(&self, message: Message) -> Result<Message> {
        let topic = message.topic.strip_prefix(&*self.topic_prefix).unwrap_or(&message.topic);
        let of_topic = self.of_topic.get(topic).unwrap_or(&self.codec);
        if self.of_event.is_empty() {
            return of_topic.decode(message);
        }
        // Some brokers tell the name of the event.
        let named = self.of_event.get(&message.name);
        let codecs: Vec<_> = named.into_iter().chain([of_topic]).chain(self.of_event.values()).collect();
        any::decode(&codecs, message)
    }

    fn codec_of(&self, message: &Message) -> &dyn Codec {
        let own = self.of_event.get(&message.name).or_else(|| self.of_topic.get(&message.topic));
        &**own.unwrap_or(&self.codec)
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
        let codec = self.codec_of(&message);
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
        let message = codec.encode(message)?;
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

/// A message of your own making: its payload is what its codec takes. [`Json`] and [`Raw`](super::Raw) take any bytes and
/// leave them as they are.
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
