//! The port to message brokers. An adapter implements [`MessageBroker`], [`Subscription`] and [`Acknowledge`];
//! `cqrs-testing` judges it.

mod delivery;
mod error;
pub mod memory;
mod publish;
mod session;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

pub use delivery::{Acknowledge, Acknowledged, Delivery, DeliveryTag};
pub use error::{BrokerError, ErrorClass};
pub use publish::{Confirm, Receipt};
pub use session::PublishSession;

use crate::message::Message;

/// What carries messages to other services.
#[async_trait]
pub trait MessageBroker: Debug + Send + Sync + 'static {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// First half of a publish: hands the message to the client, which fixes its order among the messages of its
    /// topic and key, and waits for room if there is none. The second half is the [`Confirm`].
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] whose class is neither [`ErrorClass::Unknown`] nor [`ErrorClass::Fatal`] means that the message was
    /// not sent. The same holds for the error of a [`Confirm`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it unknown whether the message was handed over; dropping the [`Confirm`] leaves it
    /// unknown whether it arrived. Neither takes anything back.
    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError>;

    /// Opens a session, on which several messages of a key may be under way. It does not wait for the broker.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] of class [`ErrorClass::Fatal`] if it [has none](Capabilities::publish_sessions), which is the default;
    /// one of class [`ErrorClass::Outage`] if the broker was closed.
    fn publish_session(&self) -> Result<Arc<dyn PublishSession>, BrokerError> {
        Err(BrokerError::new(
            ErrorClass::Fatal,
            format!(
                "the broker `{}` has no publish sessions: send the events of a key one after the other",
                self.capabilities().name
            ),
        ))
    }

    /// Joins a consumer group.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`]; of class [`ErrorClass::Destination`] if a topic does not exist or is not allowed, or the options lack
    /// something ([`SubscribeOptions::check`]).
    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError>;

    /// Whether the broker can be reached now.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] that says why not.
    async fn check(&self) -> Result<(), BrokerError>;

    /// Waits for what was enqueued and disconnects. Publishing after it is an error; a subscription gives no message any
    /// more, and ends or fails, but does not hang.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] if something enqueued could not be confirmed.
    async fn close(&self) -> Result<(), BrokerError>;

    /// Publishes one message and waits until the broker has it.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`]; of class [`ErrorClass::Unknown`] if the message may have arrived all the same.
    ///
    /// # Cancel safety
    ///
    /// As for [`enqueue`](Self::enqueue).
    async fn publish(&self, message: Message) -> Result<Receipt, BrokerError> {
        self.enqueue(&message).await?.await
    }
}

/// The messages that a member of a consumer group receives.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; `None` when the subscription was closed.
    ///
    /// A loop over messages lets other tasks run, also when there is always one: an adapter in which nothing else waits then calls
    /// [`tokio::task::coop::consume_budget`].
    ///
    /// # Errors
    ///
    /// A [`BrokerError`]. Those of a retryable class pass by calling again: the adapter reconnects by itself.
    ///
    /// # Cancel safety
    ///
    /// Safe: a dropped future has taken no message.
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError>;

    /// Leaves the group. What was not acknowledged goes to another member, or comes again after a reopen.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] if the last acknowledgements could not be handed over.
    async fn close(self: Box<Self>) -> Result<(), BrokerError>;
}

/// What to subscribe to, and how.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The group: of each message one member of it gets one copy.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
    /// How many messages may be delivered and not yet acknowledged, at least 1. Default 256.
    pub prefetch: usize,
    /// Where a group begins that the broker does not know yet. Default [`StartFrom::Earliest`].
    pub start_from: StartFrom,
}

impl SubscribeOptions {
    /// A member of `group` for these topics.
    pub fn new(group: impl Into<String>, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            prefetch: 256,
            start_from: StartFrom::Earliest,
        }
    }

    /// Sets how many messages may be delivered and not yet acknowledged, at least 1.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets where a group begins that the broker does not know yet.
    #[must_use]
    pub fn with_start_from(mut self, start_from: StartFrom) -> Self {
        self.start_from = start_from;
        self
    }

    /// What an adapter asks before it subscribes to anything: whether there is a group, a topic, and room for a message.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] that names all that is missing: of class [`ErrorClass::Destination`], or [`ErrorClass::Fatal`] as for other settings
    /// with which nothing can work, if the prefetch is 0.
    pub fn check(&self) -> Result<(), BrokerError> {
        let problems: Vec<_> = [
            (self.group.is_empty(), "its group has no name: give it that of the service"),
            (self.topics.is_empty(), "it has no topic: name at least one"),
            (
                self.topics.iter().any(String::is_empty),
                "one of its topics has no name: write the topic of the events that it is to receive, or leave it out",
            ),
            (self.prefetch == 0, "its prefetch is 0, and no message would be delivered: raise `with_prefetch` to 1 at least"),
        ]
        .into_iter()
        .filter_map(|(wrong, problem)| wrong.then_some(problem))
        .collect();
        if problems.is_empty() {
            return Ok(());
        }
        let whose =
            if self.group.is_empty() { String::new() } else { format!(" of the group `{}`", self.group) };
        let message =
            format!("the subscription{whose} is not one: {} (`SubscribeOptions`)", problems.join("; "));
        let class = if self.prefetch == 0 { ErrorClass::Fatal } else { ErrorClass::Destination };
        Err(BrokerError::new(class, message))
    }
}

/// Where a new consumer group begins.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// With the oldest message that the broker still has.
    Earliest,
    /// With what is published from now on.
    Latest,
}

/// What a broker can do, as data.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What it is, for logs and reports.
    pub name: &'static str,
    /// Messages of one key reach a group's members in the order in which they were enqueued, and no member gets the next
    /// one while another member still holds one of that key.
    pub orders_by_key: bool,
    /// A group that joins later gets what was published before.
    pub replays: bool,
    /// Messages survive a restart of the broker.
    pub durable: bool,
    /// A message without payload stays one (a tombstone).
    pub tombstones: bool,
    /// A delivery knows how often it was delivered before.
    pub counts_attempts: bool,
    /// It has [sessions](MessageBroker::publish_session), on which several messages of a key may be under way.
    pub publish_sessions: bool,
    /// The largest message in bytes, if the broker has a limit that is known here.
    pub max_message_bytes: Option<usize>,
}

impl Capabilities {
    /// A broker that can do none of it.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            orders_by_key: false,
            replays: false,
            durable: false,
            tombstones: false,
            counts_attempts: false,
            publish_sessions: false,
            max_message_bytes: None,
        }
    }
}
