use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::coop;

use super::Shared;
use super::state::Next;
use crate::broker::Subscription;
use crate::broker::delivery::{Acknowledge, Acknowledged, Delivery, DeliveryTag};
use crate::broker::error::BrokerError;
use crate::message::Message;

pub(super) struct MemorySubscription {
    shared: Arc<Shared>,
    member: u64,
    wake: Arc<Notify>,
}

impl MemorySubscription {
    pub(super) fn new(shared: Arc<Shared>, member: u64, wake: Arc<Notify>) -> Self {
        Self { shared, member, wake }
    }
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        // Nothing else here waits while there are messages: a loop over them must let other tasks run.
        coop::consume_budget().await;
        loop {
            let woken = self.wake.notified();
            let next = self.shared.lock().next(self.member);
            match next {
                Next::Message { message, attempt, tag, lost } => {
                    let adapter: Arc<dyn Acknowledge> = Arc::<Shared>::clone(&self.shared);
                    let delivery = Delivery::new(Message::clone(&message), attempt, tag, adapter);
                    return Ok(Some(delivery.with_lost(lost)));
                }
                Next::NothingYet => woken.await,
                Next::Ended => return Ok(None),
            }
        }
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        self.shared.lock().leave(self.member);
    }
}

#[async_trait]
impl Acknowledge for Shared {
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        self.lock().ack(self, tag)
    }

    fn release(&self, tag: DeliveryTag) {
        self.lock().release(tag);
    }
}
