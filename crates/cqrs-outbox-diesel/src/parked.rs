//! What an operator does about events that stand aside.

use bytes::Bytes;
use chrono::{DateTime, Utc};
#[cfg(doc)]
use cqrs_core::ErrorKind;
use cqrs_core::Result;
use cqrs_outbox::{Lane, StoreError};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Nullable};
use uuid::Uuid;

use crate::backend::Backend;
use crate::dead_letters::{ListedRow, Page, of_key};
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

    fn apply<B: Backend>(&self, query: Query) -> Query {
        of_key::<B>(query, "cqrs_outbox_parked", self.key.as_deref())
            .filter("topic = ?", self.topic.clone())
            .filter(B::DIALECT.parked_event_id_is, self.event_id.map(|id| id.as_bytes().to_vec()))
    }
}

/// An event that stands aside: it was refused, is replayed, or is for a topic that cannot be reached; or it waits behind such a one.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedEvent {
    /// The row's id: the order within its lane, and where a next [`Page`] goes on.
    pub id: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// The event's name.
    pub name: String,
    /// Where it is to go.
    pub topic: String,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// What it is in order with.
    pub lane: Lane,
    /// How often it was refused.
    pub attempts: u32,
    /// Bytes of payload, key and headers.
    pub size: usize,
    /// Why it stands aside itself; `None` if it only waits behind another one.
    pub error: Option<String>,
    /// When the event occurred; `None` if what stands in the table is no time (SQLite takes any text).
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was refused last, or else was put aside, by the database's clock.
    pub parked_at: DateTime<Utc>,
    /// When the first one of its lane is tried again, by the database's clock; past, if a relay is about to. `None` if the lane waits until
    /// a dead letter is replayed or discarded.
    pub tried_again_at: Option<DateTime<Utc>>,
}

/// It, as every database gives it.
#[derive(QueryableByName, Debug)]
pub struct ParkedRow {
    #[diesel(embed)]
    listed: ListedRow,
    #[diesel(sql_type = Nullable<BigInt>)]
    until_micros: Option<i64>,
}

impl ParkedRow {
    fn into_event(self) -> Result<ParkedEvent> {
        let row = self.listed.into_letter()?;
        Ok(ParkedEvent {
            id: row.id,
            event_id: row.event_id,
            name: row.name,
            topic: row.topic,
            key: row.key,
            lane: row.lane,
            attempts: row.attempts,
            size: row.size,
            error: row.error,
            occurred_at: row.occurred_at,
            parked_at: row.died_at,
            tried_again_at: self.until_micros.and_then(DateTime::from_timestamp_micros),
        })
    }
}

impl<B: Backend> Outbox<B> {
    /// The events that stand aside and fit, a page of them.
    ///
    /// Behind the filter for a key stands an index, as far as [`dead_letters`](Self::dead_letters) has one; for the others the list is
    /// walked in its order until the page is full.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn parked(&self, filter: &ParkedFilter, page: Page) -> Result<Vec<ParkedEvent>> {
        let query = page.apply(filter.apply::<B>(Query::new(B::DIALECT.parked)));
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let rows =
            B::parked_events(&mut conn.on(), query).await.map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        rows.into_iter().map(ParkedRow::into_event).collect()
    }

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
        let lanes = filter.apply::<B>(lanes).then(")");
        let mut tx = self.begin_short().await?;
        let unparked = B::execute(&mut tx.on(), lanes).await.map_err(store_error)?;
        commit(tx).await?;
        Ok(u64::try_from(unparked).unwrap_or(u64::MAX))
    }
}
