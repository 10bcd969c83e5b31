//! What happened: domain events for this process, integration events for other services.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::context::Context;
use crate::error::Result;
use crate::message::Headers;
use crate::outgoing::{Dedup, Deliver, WriteOptions};

/// The kinds of events, as types: they decide where [`Context::emit`] takes an event.
pub mod kind {
    /// A [`DomainEvent`](super::DomainEvent): handled in this process.
    #[derive(Debug)]
    pub enum Domain {}
    /// A [`NotificationEvent`](super::NotificationEvent): an integration event that carries ids.
    #[derive(Debug)]
    pub enum Notification {}
    /// An [`EcstEvent`](super::EcstEvent): an integration event that carries the state.
    #[derive(Debug)]
    pub enum Ecst {}
}

/// The kinds of integration events, as they stand on the wire and in the outbox.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// Carries ids: something happened, ask for the rest.
    Notification,
    /// Event-carried state transfer: carries the state.
    Ecst,
}

impl EventKind {
    /// `notification` or `ecst`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Ecst => "ecst",
        }
    }

    /// The kind that [`as_str`](Self::as_str) named.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "notification" => Some(Self::Notification),
            "ecst" => Some(Self::Ecst),
            _ => None,
        }
    }
}

/// Something that happened. Derived by `DomainEvent`, `NotificationEvent` and `EcstEvent`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "this is said or handled as an event",
    note = "derive one of `DomainEvent`, `NotificationEvent`, `EcstEvent`"
)]
pub trait Event: Send + Sync + 'static {
    /// The name of the event: in logs and, for integration events, on the wire.
    const NAME: &'static str;

    /// One of the types in [`kind`].
    type Kind;
}

/// Something that happened, handled in this process by any number of handlers, in the order of their binding.
///
/// ```
/// use cqrs_core::DomainEvent;
///
/// #[derive(DomainEvent)]
/// struct RoomClosed { room: u32 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a domain event",
    label = "a domain event is wanted here",
    note = "derive `DomainEvent`; an event for other services (`NotificationEvent`, `EcstEvent`) is handled with `.subscribe(topic, handler)`"
)]
pub trait DomainEvent: Event<Kind = kind::Domain> {}

/// Something that other services hear of. Use it through [`NotificationEvent`] or [`EcstEvent`].
///
/// ```
/// use cqrs_core::NotificationEvent;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, NotificationEvent)]
/// #[event(topic = "meeting_room_notifications", key = room)]
/// struct MeetingRoomClosed { room: u32 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an integration event",
    label = "an event for other services is wanted here",
    note = "derive `NotificationEvent` or `EcstEvent`, with `#[event(topic = \"..\")]`, and `serde::Serialize`"
)]
pub trait IntegrationEvent: Event + Serialize {
    /// Whether it is a notification or carries state.
    const KIND: EventKind;

    /// The topic (Kafka) or exchange (AMQP) it goes to.
    const TOPIC: &'static str;

    /// The version of the payload's schema. Default 1.
    const VERSION: u32 = 1;

    /// The key: events of one key reach every consumer in the order in which they were said (on each topic, where an outbox has the topic
    /// and the key as its unit of order). `None` means that
    /// no order is wanted; an empty key is a key.
    fn key(&self) -> Option<Bytes> {
        None
    }
}

/// An integration event that carries ids: whoever wants to know more, asks.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a notification event",
    note = "derive `NotificationEvent`, with `#[event(topic = \"..\")]`"
)]
pub trait NotificationEvent: IntegrationEvent + Event<Kind = kind::Notification> {}

/// An integration event that carries the state (event-carried state transfer).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an ECST event",
    note = "derive `EcstEvent`, with `#[event(topic = \"..\")]`"
)]
pub trait EcstEvent: IntegrationEvent + Event<Kind = kind::Ecst> {}

/// Handles events of type `E`: domain events of this process, or integration events that a consumer received.
///
/// For a received event, [`Context::message`] gives the id, the time and the headers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the event `{E}`",
    label = "no `EventHandler<{E}>` for this type",
    note = "write `impl EventHandler<{E}> for {Self} {{ async fn handle(&self, event: &{E}, cx: &Context<'_>) -> Result<()> }}`",
    note = "a handler that wants a transaction implements `TransactionalEventHandler` and is bound with `BeforeCommit::bind`, or with `.before_commit(..)` or `.subscribe_transactional(..)` of the bootstrap"
)]
pub trait EventHandler<E: Event>: Send + Sync + 'static {
    /// Does what has to be done because of the event.
    fn handle(&self, event: &E, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send;

    /// Its name in logs and traces. Default: that of its type.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

impl<E: Event, H: EventHandler<E>> EventHandler<E> for Arc<H> {
    fn handle(&self, event: &E, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        H::handle(self, event, cx)
    }

    fn name(&self) -> &str {
        H::name(self)
    }
}

/// An integration event with what belongs to this one occurrence of it. [`Context::emit`] takes the bare event,
/// too; use an envelope to set something by hand.
///
/// ```
/// use cqrs_core::{Envelope, NotificationEvent};
/// # use serde::Serialize;
/// # #[derive(Serialize, NotificationEvent)]
/// # #[event(topic = "rooms")]
/// # struct MeetingRoomClosed { room: u32 }
///
/// let said = Envelope::new(MeetingRoomClosed { room: 5 })
///     .with_key("building-a")
///     .with_header("tenant", "blue");
/// ```
#[derive(Clone, Debug)]
#[must_use = "an envelope does nothing until it is emitted or published"]
pub struct Envelope<E> {
    pub(crate) event: E,
    pub(crate) id: Option<Uuid>,
    pub(crate) timestamp: Option<DateTime<Utc>>,
    pub(crate) topic: Option<Cow<'static, str>>,
    pub(crate) key: Option<Option<Bytes>>,
    pub(crate) headers: Headers,
    pub(crate) options: WriteOptions,
}

impl<E: IntegrationEvent> Envelope<E> {
    /// The event with everything else as it is by default: a new id (UUID version 7), the time at which it is said,
    /// and the topic and key of its type.
    pub fn new(event: E) -> Self {
        Self {
            event,
            id: None,
            timestamp: None,
            topic: None,
            key: None,
            headers: Headers::new(),
            options: WriteOptions::default(),
        }
    }

    /// Sets the event's id, by which consumers tell duplicates.
    pub fn with_id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets when it happened.
    pub fn with_timestamp(mut self, timestamp: DateTime<Utc>) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the topic.
    pub fn with_topic(mut self, topic: impl Into<Cow<'static, str>>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets the key.
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(Some(key.into()));
        self
    }

    /// Takes the key away: this occurrence needs no order.
    pub fn without_key(mut self) -> Self {
        self.key = Some(None);
        self
    }

    /// Adds a header.
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Writes it only once: while `window` lasts, a second event with this key, said by anyone, is not written, and
    /// [`Added`](crate::Added) says so. Two transactions at once: the second waits for the first, and writes if that one
    /// rolls back. The window is counted from the moment of writing, by the database's clock.
    ///
    /// The key is the outbox's, not the topic's: put into it what the event is about (`"invoice-due 17"`). It is bytes, at
    /// most 2,000 of them, and compared as bytes: case and trailing blanks matter.
    ///
    /// It is about *writing* twice: a command that is tried again, a timer that fires twice. That an event may be
    /// *delivered* twice is the consumer's inbox's matter.
    ///
    /// A scheduled event that is [cancelled](crate::Transaction::cancel) frees its key, for it will not be sent. One that was given up
    /// keeps it: it can be sent again.
    ///
    /// Only an outbox can honour it: straight to a broker ([`direct`](crate::EventEmitter::direct)) the event is refused.
    pub fn with_dedup_key(mut self, key: impl Into<Bytes>, window: Duration) -> Self {
        self.options.dedup = Some(Dedup::new(key, window));
        self
    }

    /// Writes it only if `version` is above the last one that was written for its key; else the call fails with
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) and writes nothing of what it was given.
    ///
    /// That makes the order of the key hard: of writers that do not know of each other, one is told that it was not first.
    /// The version is kept for ever, also when the events are long gone. Until the transaction ends others that write a
    /// version of this key wait. Up to `i64::MAX`.
    ///
    /// **Where it is not needed**: in a transaction that has locked the row of the aggregate (`SELECT .. FOR UPDATE`, or an
    /// `UPDATE` of it, with its own version compared or not) before it says the event. Then the key's events are in order
    /// already. It is for state that is elsewhere: event-sourced aggregates, a version that another system gave.
    ///
    /// Only an outbox can honour it: straight to a broker ([`direct`](crate::EventEmitter::direct)) the event is refused.
    pub fn with_key_version(mut self, version: u64) -> Self {
        self.options.key_version = Some(version);
        self
    }

    /// Sends it at that time and not before, by the database's clock; one that is past is now. Its place in the order of its
    /// key is then, and not where it is said.
    ///
    /// It can be [cancelled](crate::Transaction::cancel) or [moved](crate::Transaction::reschedule) until its time has come.
    ///
    /// Only an outbox can honour it: straight to a broker ([`direct`](crate::EventEmitter::direct)) the event is refused.
    pub fn deliver_at(mut self, at: DateTime<Utc>) -> Self {
        self.options.deliver = Some(Deliver::At(at));
        self
    }

    /// As [`deliver_at`](Self::deliver_at), so long after it is written.
    pub fn deliver_after(mut self, wait: Duration) -> Self {
        self.options.deliver = Some(Deliver::After(wait));
        self
    }
}
