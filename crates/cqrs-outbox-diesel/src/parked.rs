//! What an operator does about events that stand aside.

use bytes::Bytes;
#[cfg(doc)]
use cqrs_core::ErrorKind;
use cqrs_core::Result;
use cqrs_outbox::StoreError;
use uuid::Uuid;

use crate::backend::Backend;
use crate::dead_letters::of_key;
use crate::error::store_error;
use crate::outbox::{Outbox, commit};
use crate::query::Query;

/// Which events of those that stand aside: those that fit everything that is said here; without a word, all.
#[must_use = "a filter does nothing by itself"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedFilter {
    topic: Option<String>,
    key: Option<Bytes>,
    event_id: Option<Uuid>,
}

impl ParkedFilter {
    /// All of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// For this topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Of this key; an empty one is a key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// This event.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }
}

impl<B: Backend> Outbox<B> {
    /// Has events tried again now that the broker refused, instead of when their wait is over; says for how many keys (events without
    /// one count by themselves) that made a difference. For when what was wrong is mended: it ends no wait for what is still
    /// wrong, and costs an attempt then.
    ///
    /// It is about all that stands aside of a key for which an event fits, and their order stays. The relay that owns the key does
    /// it, with its next heartbeat at the latest. What waits for somebody to act on a dead letter goes on waiting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`]: not reachable, not allowed, or there are no tables.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was written; doing it twice is harmless.
    pub async fn unpark(&self, filter: &ParkedFilter) -> Result<u64> {
        let unparked = self.try_unpark(filter).await.map_err(|error| self.failed(error))?;
        self.wake();
        Ok(unparked)
    }

    async fn try_unpark(&self, filter: &ParkedFilter) -> Result<u64, StoreError> {
        self.meta().await?;
        let now = B::DIALECT.not_before;
        let lanes = Query::new("UPDATE cqrs_outbox_gate SET until = ").then(now).bind(0.0);
        let lanes = lanes.then(" WHERE until > ").then(now).bind(0.0);
        let lanes = lanes.then(" AND lane IN (SELECT lane FROM cqrs_outbox_parked");
        let lanes = of_key::<B>(lanes, "cqrs_outbox_parked", filter.key.as_deref())
            .filter("topic = ?", filter.topic.clone())
            .filter(B::DIALECT.parked_event_id_is, filter.event_id.map(|id| id.as_bytes().to_vec()))
            .then(")");
        let mut tx = self.begin_short().await?;
        let unparked = B::execute(&mut tx.on(), lanes).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(u64::try_from(unparked).unwrap_or(u64::MAX))
    }
}
