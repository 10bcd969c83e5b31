use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::error::BrokerError;
use crate::message::Message;

/// Where a delivery came from: enough for the adapter to acknowledge it, and to see that it no longer can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryTag {
    /// Counts the connections or assignments: a tag of an earlier one is stale.
    pub epoch: u64,
    /// The lane within it: a partition, a channel, a queue.
    pub lane: u64,
    /// The position within the lane: an offset, a delivery tag.
    pub position: u64,
}

/// What became of an acknowledgement.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The broker will not deliver the message to this group again.
    Done,
    /// The connection or assignment it came from is gone; the message will be delivered again. Harmless where an
    /// inbox drops it.
    Stale,
}

/// The adapter's side of acknowledging.
#[async_trait]
pub trait Acknowledge: Send + Sync + 'static {
    /// The message was handled.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] if the broker could not be told; the message may come again.
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError>;

    /// The message was not handled and is to be delivered again. Must not block: it is called when a delivery is
    /// dropped. A stale tag is ignored.
    fn release(&self, tag: DeliveryTag);
}

/// A message that was delivered and waits to be acknowledged. It owns its data; dropping it releases it, so that it
/// is delivered again.
#[must_use = "a dropped delivery is delivered again"]
pub struct Delivery {
    message: Message,
    attempt: u32,
    tag: DeliveryTag,
    lost: CancellationToken,
    adapter: Option<Arc<dyn Acknowledge>>,
}

impl Delivery {
    /// A delivery, made by an adapter.
    ///
    /// `attempt` is 1 for the first delivery of the message to the group, as far as the broker knows.
    pub fn new(message: Message, attempt: u32, tag: DeliveryTag, adapter: Arc<dyn Acknowledge>) -> Self {
        Self { message, attempt, tag, lost: CancellationToken::new(), adapter: Some(adapter) }
    }

    /// Ties the delivery to its connection or assignment: the adapter cancels the token when that ends.
    pub fn with_lost(mut self, lost: CancellationToken) -> Self {
        self.lost = lost;
        self
    }

    /// The message, as the broker has brought it: nobody has decoded it.
    ///
    /// Its id and its name, kind and version are there where the broker's protocol has a place for them, or where it is the one in
    /// memory; with Kafka they are not, for they stand in headers or payload, as the codec has written them.
    /// [`Encoder::decode`](crate::codec::Encoder::decode) reads them, and so does an [`EventMediator`](crate::EventMediator) that it is
    /// given to:
    ///
    /// ```
    /// # use cqrs_core::broker::Delivery;
    /// # use cqrs_core::{MessageId, Result, codec::Encoder};
    /// fn id_of(delivery: &Delivery, encoder: &Encoder) -> Result<Option<MessageId>> {
    ///     Ok(encoder.decode(delivery.message().clone())?.id)
    /// }
    /// ```
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// How often this message was delivered to this group, this time included, as far as the broker knows.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Where it came from.
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// Cancelled when the delivery can no longer be acknowledged: its connection is gone, or its partition was given
    /// to another member. Work on it should stop.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// The message was handled.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] if the broker could not be told; the message may come again.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it unknown whether the broker was told; the message may come again.
    pub async fn ack(mut self) -> Result<Acknowledged, BrokerError> {
        match self.adapter.take() {
            Some(adapter) => adapter.ack(self.tag).await,
            None => Ok(Acknowledged::Stale),
        }
    }

    /// The message was not handled: it is to be delivered again. The same as dropping it.
    pub fn release(self) {}
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(adapter) = self.adapter.take() {
            adapter.release(self.tag);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("attempt", &self.attempt)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}
