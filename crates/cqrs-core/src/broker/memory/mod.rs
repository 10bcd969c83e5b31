//! A broker in memory: for tests, for examples, and for applications of one process.
//!
//! It is an honest stand-in for a real one. A message carries what a wire carries (topic, key, headers, payload,
//! timestamp) and nothing else; the other fields of [`Message`] come back only if a [`Codec`](crate::Codec) put them
//! into headers or payload.
//!
//! - **Topics** come into being when something is published to them or subscribes to them, unless
//!   [declared](Builder::declared_topics_only).
//! - **Groups**: each gets every message, and within it each message goes to one member. A group stays known after its
//!   last member has left.
//! - **Keeping**: a topic keeps a message until each group that has to handle it has acknowledged it. With no such
//!   group yet it keeps the message for the first that starts with [`StartFrom::Earliest`](super::StartFrom): nothing
//!   is thrown away unhandled, so a topic that nobody subscribes to grows, up to the [capacity](Builder::capacity). A
//!   group that joins later gets what is still kept; what all groups before it acknowledged is gone.
//! - **Order**: within a group, a key has at most one message that is delivered and not acknowledged; the next one
//!   follows when it is. Messages without a key have no order.
//! - **Redelivery**: what was released, or belonged to a subscription that ended, is delivered again at once, before
//!   later messages of its key, and with a higher [attempt](super::Delivery::attempt).
//! - **Nothing survives the process.** What that means for an outbox, and what to do, is told at
//!   [`confirm_after_handling`](Builder::confirm_after_handling).

mod faults;
mod lane;
mod session;
mod state;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::coop;

pub use faults::Faults;

use self::session::MemorySession;
use self::state::{Enqueued, State};
use self::subscription::MemorySubscription;
use super::error::{BrokerError, ErrorClass};
use super::publish::Confirm;
use super::{Capabilities, MessageBroker, PublishSession, SubscribeOptions, Subscription};
use crate::message::Message;

/// A connection to a broker in memory. A clone is the same connection; [`connect`](Self::connect) opens another to the
/// same broker.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use cqrs_core::broker::SubscribeOptions;
/// use cqrs_core::broker::memory::MemoryBroker;
/// use cqrs_core::{Message, MessageBroker};
///
/// let broker = MemoryBroker::new();
/// let mut rooms = broker.subscribe(SubscribeOptions::new("projector", ["rooms"])).await?;
/// broker.publish(Message::new("rooms", "{}")).await?;
///
/// let delivery = rooms.next().await?.expect("the broker is open");
/// assert_eq!(delivery.message().payload.as_deref(), Some(b"{}".as_slice()));
/// delivery.ack().await?;
/// # Ok::<(), cqrs_core::BrokerError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    connection: u64,
}

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// Wakes those who wait for room.
    room: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl MemoryBroker {
    /// A new, empty broker with the default settings: no limits, and confirms at once.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A new broker with settings of your own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Another connection to the same broker: the same topics, groups and faults. Closing one connection leaves the
    /// others alone, as if another process of the application went on.
    #[must_use]
    pub fn connect(&self) -> Self {
        let connection = self.shared.lock().connect();
        Self { shared: Arc::clone(&self.shared), connection }
    }

    /// The switchboard of faults, for tests.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared))
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

#[async_trait]
impl MessageBroker for MemoryBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            orders_by_key: true,
            tombstones: true,
            counts_attempts: true,
            publish_sessions: true,
            max_message_bytes: self.shared.settings.max_message_bytes,
            ..Capabilities::new("memory")
        }
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        // Nothing else here waits while there is room: a loop that publishes must let other tasks run.
        coop::consume_budget().await;
        let message = Arc::new(as_on_a_wire(message));
        loop {
            let room = self.shared.room.notified();
            let enqueued = self.shared.lock().enqueue(&self.shared, self.connection, &message)?;
            match enqueued {
                Enqueued::Taken(confirm) => return Ok(confirm),
                Enqueued::Full => room.await,
            }
        }
    }

    fn publish_session(&self) -> Result<Arc<dyn PublishSession>, BrokerError> {
        self.shared.lock().check_open(self.connection)?;
        Ok(Arc::new(MemorySession::new(Arc::clone(&self.shared), self.connection)))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        let (member, wake) = self.shared.lock().subscribe(&self.shared, self.connection, options)?;
        Ok(Box::new(MemorySubscription::new(Arc::clone(&self.shared), member, wake)))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.shared.lock().check(self.connection)
    }

    /// Ends the subscriptions of this connection. It does not wait for confirms that others have to bring about: those
    /// that are still out resolve to [`ErrorClass::Unknown`].
    async fn close(&self) -> Result<(), BrokerError> {
        let unconfirmed = self.shared.lock().close(self.connection);
        // Those who wait for room learn of it.
        self.shared.room.notify_waiters();
        if unconfirmed == 0 {
            return Ok(());
        }
        Err(BrokerError::new(
            ErrorClass::Unknown,
            format!(
                "the connection to the in-memory broker was closed too early; unconfirmed messages: {unconfirmed}"
            ),
        ))
    }
}

/// What is left of a message on the way.
fn as_on_a_wire(message: &Message) -> Message {
    let Message { topic, key, headers, payload, timestamp, .. } = message.clone();
    Message { key, headers, payload, timestamp, ..Message::tombstone(topic) }
}

/// Puts a [`MemoryBroker`] together.
#[must_use = "a builder does nothing before `build`"]
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
}

#[derive(Clone, Debug, Default)]
struct Settings {
    max_message_bytes: Option<usize>,
    capacity: Option<usize>,
    declared_topics: Option<HashSet<String>>,
    confirm_after_handling: bool,
}

impl Builder {
    /// Refuses larger messages with [`ErrorClass::Event`]; what counts is [`Message::size`], in bytes. Default: no
    /// limit.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = Some(bytes);
        self
    }

    /// Keeps at most so many messages that are not acknowledged by all their groups, all topics together; 0 is taken for 1.
    /// Publishing waits for room. Default: no bound.
    ///
    /// A consumer that publishes while it handles a message can wait for room that only it could make: leave some to
    /// spare.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.settings.capacity = Some(messages.max(1));
        self
    }

    /// Knows these topics and no others: publishing or subscribing to another one fails with
    /// [`ErrorClass::Destination`]. Default: topics come into being when they are used.
    pub fn declared_topics_only(mut self, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.declared_topics = Some(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Confirms a message only when every group that is subscribed to its topic has *acknowledged* it; with none yet,
    /// when the first that starts with [`StartFrom::Earliest`](super::StartFrom) has.
    ///
    /// By default a message is confirmed as soon as it is in memory. An outbox then settles it, and when the process
    /// dies before the consumers have handled it, it is **lost**: it is no longer in the outbox, and the broker is gone.
    /// With this setting the outbox keeps the message until the consumers of the same process have committed what they
    /// made of it, so nothing is lost; what was in flight is sent again by the next process, with the same id.
    ///
    /// The price: publishing one key goes no faster than handling it; the time-out of the one who publishes has to be
    /// longer than handling takes; and a handler must not wait for the confirm of a message that its own group is
    /// to handle after it. A topic without a group confirms nothing: subscribe to the dead-letter topics too, or let
    /// consumers retry for ever.
    pub fn confirm_after_handling(mut self) -> Self {
        self.settings.confirm_after_handling = true;
        self
    }

    /// A new, empty broker, and the first connection to it.
    pub fn build(self) -> MemoryBroker {
        let mut state = State::default();
        let connection = state.connect();
        let shared = Shared { settings: self.settings, state: Mutex::new(state), room: Notify::new() };
        MemoryBroker { shared: Arc::new(shared), connection }
    }
}

impl Settings {
    fn check_size(&self, message: &Message) -> Result<(), BrokerError> {
        let size = message.size();
        match self.max_message_bytes {
            Some(limit) if size > limit => Err(BrokerError::new(
                ErrorClass::Event,
                format!(
                    "a message to `{}` has {size} bytes, and the limit of the in-memory broker is {limit}: \
                     make it smaller, or raise `max_message_bytes`",
                    message.topic
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_topic(&self, topic: &str) -> Result<(), BrokerError> {
        match &self.declared_topics {
            Some(declared) if !declared.contains(topic) => Err(BrokerError::new(
                ErrorClass::Destination,
                format!(
                    "the topic `{topic}` is not declared: mend its name, or add it to `declared_topics_only` of the \
                     in-memory broker"
                ),
            )),
            _ => Ok(()),
        }
    }
}
