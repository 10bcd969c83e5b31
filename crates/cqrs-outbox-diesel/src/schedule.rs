//! Events that wait for their time: what an operator sees of them, and how they are changed.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::{Deliver, Message, Result, ScheduleChange, Transaction};
use cqrs_outbox::{OrderUnit, OutboxRow, Place, StoreError};
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::store_error;
use crate::outbox::{Outbox, commit};
use crate::query::Query;
use crate::record::Record;
use crate::statements::limit;

/// Which scheduled events to list: by default all of them, but 100 at most.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a filter does nothing until it is given to `Outbox::scheduled`"]
pub struct ScheduleFilter {
    /// Only this one.
    pub event_id: Option<Uuid>,
    /// Only those of this key.
    pub key: Option<Bytes>,
    /// Only those for this topic.
    pub topic: Option<String>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Only those that are due before this time.
    pub before: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: usize,
}

impl Default for ScheduleFilter {
    fn default() -> Self {
        Self { event_id: None, key: None, topic: None, name: None, before: None, limit: 100 }
    }
}

impl ScheduleFilter {
    /// Only the event with this id.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Only those of this key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only those for this topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only those of this name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only those that are due before this time.
    pub fn before(mut self, before: DateTime<Utc>) -> Self {
        self.before = Some(before);
        self
    }

    /// At most so many.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn query<B: Backend>(&self) -> Query {
        let mut query = Query::new(B::DIALECT.scheduled);
        if let Some(event_id) = self.event_id {
            query = query.condition("event_id = ", true).then(B::DIALECT.event_id).bind(event_id.to_string());
        }
        query = query
            .filter(B::DIALECT.key_is, self.key.as_ref().map(|key| key.to_vec()))
            .filter("topic = ?", self.topic.clone())
            .filter("event_name = ?", self.name.clone());
        if let Some(before) = self.before {
            query =
                query.condition("deliver_at < ", true).then(B::DIALECT.at).bind(before.timestamp_micros());
        }
        query.then(" ORDER BY deliver_at, id LIMIT ?").bind(limit(self.limit))
    }
}

/// An event that waits for its time.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledEvent {
    /// The event's id, by which it is cancelled.
    pub event_id: Uuid,
    /// When it is due, by the database's clock.
    pub deliver_at: DateTime<Utc>,
    /// What is to be sent, as far as it can be read.
    pub message: Message,
    /// The first column that is not as the outbox's tables promise, and why: as long as there is one, the event cannot be sent.
    pub defect: Option<String>,
    /// What stands in the column of the headers, if it cannot be read.
    pub unreadable_headers: Option<Bytes>,
}

/// It, as every database gives it.
#[derive(QueryableByName, Debug)]
pub struct ScheduledRecord {
    #[diesel(embed)]
    pub(crate) record: Record,
    #[diesel(sql_type = BigInt)]
    deliver_micros: i64,
}

impl From<ScheduledRecord> for ScheduledEvent {
    fn from(row: ScheduledRecord) -> Self {
        let deliver_at = DateTime::from_timestamp_micros(row.deliver_micros).unwrap_or_default();
        let unreadable_headers = row.record.headers().unreadable();
        let OutboxRow { event_id, message, defect, .. } =
            row.record.into_row(Place::Hot, OrderUnit::default());
        Self { event_id, deliver_at, message, defect, unreadable_headers }
    }
}

impl<B: Backend> Outbox<B> {
    /// Events that wait for their time, the next one first. For people and programs that look after them; there is an index
    /// for the id, not for the rest.
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store).
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn scheduled(&self, filter: &ScheduleFilter) -> Result<Vec<ScheduledEvent>> {
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let rows = B::scheduled(&mut conn.on(), filter.query::<B>())
            .await
            .map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Cancels a scheduled event in a transaction of its own; [`Tx::cancel`](crate::Tx::cancel) does it within yours.
    ///
    /// Its deduplication key, if it has one, is free then.
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store); those of [`Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was done.
    pub async fn cancel(&self, event_id: Uuid) -> Result<ScheduleChange> {
        let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
        let done =
            B::cancel(&mut tx.on(), event_id).await.map_err(|error| self.failed(store_error(error)))?;
        tx.commit().await?;
        Ok(change(done))
    }

    /// Gives a scheduled event another time in a transaction of its own; [`Tx::reschedule`](crate::Tx::reschedule) does it
    /// within yours. A time that is past is now.
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`](cqrs_core::ErrorKind::InvalidEvent) if the time is out of range;
    /// [`Store`](cqrs_core::ErrorKind::Store); those of [`Transaction::commit`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was done.
    pub async fn reschedule(&self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange> {
        Deliver::At(at).check()?;
        let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
        let done = B::reschedule(&mut tx.on(), event_id, at)
            .await
            .map_err(|error| self.failed(store_error(error)))?;
        tx.commit().await?;
        self.wake();
        Ok(change(done))
    }

    /// Removes deduplication keys whose window is over, in transactions of `chunk` each; says how many. Call it now and
    /// then: a key that is not removed is taken over when it is used again, so this is about room only.
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store); what was removed before stays removed.
    ///
    /// # Cancel safety
    ///
    /// Safe: it goes on where it was when it is called again.
    pub async fn purge_dedup(&self, chunk: usize) -> Result<u64> {
        self.try_purge_dedup(chunk).await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn try_purge_dedup(&self, chunk: usize) -> Result<u64, StoreError> {
        let chunk = chunk.max(1);
        let mut purged = 0;
        loop {
            let mut tx = self.begin_short().await?;
            let some = B::purge_dedup(&mut tx.on(), chunk).await.map_err(store_error)?;
            commit(tx).await?;
            purged += some as u64;
            if some < chunk {
                return Ok(purged);
            }
        }
    }
}

pub(crate) fn change(done: bool) -> ScheduleChange {
    if done { ScheduleChange::Done } else { ScheduleChange::TooLate }
}
