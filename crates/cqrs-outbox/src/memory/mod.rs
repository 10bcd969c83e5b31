//! An outbox in memory: for tests, and to see the relay at work without a database. Nothing outlives the process.

mod tables;
mod tx;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::{BeginTransaction, Correlation, Database, Encoder, Error, ErrorKind, IntoMessage, Result};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

pub use self::tables::{DeadLetter, MemoryTables, Scheduled};
use self::tx::Locks;
pub use self::tx::MemoryTx;
use crate::retention::Kept;
use crate::row::{Confirmed, Lane, OrderUnit, OutboxRow};
use crate::store::{
    Fenced, Heartbeat, LaterEvents, Lease, OutboxStore, Ownership, Promoted, ReadRequest, Rejection, RelayId,
    StoreError,
};

/// The database of a [`MemoryOutbox`], as a type.
#[derive(Debug)]
pub enum Memory {}

impl Database for Memory {
    type Tx = MemoryTx;
}

/// An outbox in memory. Cheap to clone; all clones are one outbox.
#[derive(Clone)]
pub struct MemoryOutbox {
    shared: Arc<Shared>,
}

struct Shared {
    tables: Mutex<MemoryTables>,
    changed: Notify,
    locks: Locks,
    started: Instant,
    encoder: Encoder,
}

impl MemoryOutbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::with_encoder(Encoder::default())
    }

    /// An empty outbox with another wire format or size limit.
    pub fn with_encoder(encoder: Encoder) -> Self {
        Self {
            shared: Arc::new(Shared {
                tables: Mutex::new(MemoryTables::new(8)),
                changed: Notify::new(),
                locks: Locks::default(),
                started: Instant::now(),
                encoder,
            }),
        }
    }

    /// What is to be in order, in place of the [key](OrderUnit::Key). To be said before anything is written, or a relay starts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: it is another one, and there are events or a relay is at work.
    pub fn set_order_unit(&self, unit: OrderUnit) -> Result<()> {
        if self.tables().set_order_unit(unit) {
            return Ok(());
        }
        let what = format!(
            "the unit of order cannot be changed to `{unit}` where there are events already, or a relay is at work"
        );
        Err(Error::new(ErrorKind::Configuration, what))
    }

    /// Adds an event as a transaction of its own. An event that [asks for something](cqrs_core::WriteOptions) takes a
    /// transaction ([`BeginTransaction::begin`]).
    ///
    /// # Errors
    ///
    /// Those of [`Encoder::encode`].
    pub fn add(&self, event: impl IntoMessage) -> Result<()> {
        let message = event.into_message(&self.shared.encoder, &Correlation::default())?;
        let mut tables = self.tables();
        let id = tables.reserve_id();
        tables.insert(id, message);
        drop(tables);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The events that wait for their time, the next one first; those that are due, and no relay has looked at, too.
    pub fn scheduled(&self) -> Vec<Scheduled> {
        self.tables().scheduled()
    }

    /// Forgets deduplication keys whose window is over; says how many.
    pub fn purge_dedup(&self) -> usize {
        let now = self.now();
        self.tables().purge_dedup(now)
    }

    /// How many events wait to be sent: those aside included, and scheduled ones that are due.
    pub fn waiting(&self) -> usize {
        let (tables, now) = (self.tables(), self.now());
        tables.waiting() + tables.scheduled().iter().take_while(|scheduled| scheduled.due() <= now).count()
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.tables().dead_letters()
    }

    /// Sends a dead letter again, before what waits behind it. Where its key waits for several
    /// ([`RelaySettings::later_events`](crate::RelaySettings::later_events)), it goes when the last
    /// of them is replayed or discarded. `false` if there is no dead letter with this id.
    pub fn replay(&self, event_id: Uuid) -> bool {
        let found = self.tables().replay(self.now(), event_id);
        self.shared.changed.notify_one();
        found
    }

    /// Drops a dead letter. What waits for it goes on, when it was the last one that its key waited for. `false` if there is no
    /// dead letter with this id.
    pub fn discard(&self, event_id: Uuid) -> bool {
        let found = self.tables().discard(self.now(), event_id);
        self.shared.changed.notify_one();
        found
    }

    /// Has what the broker refused tried again now, instead of when its wait is over; says of how many keys. What waits for somebody to
    /// act on a dead letter goes on waiting.
    pub fn unpark(&self) -> usize {
        let unparked = self.tables().unpark(self.now());
        self.shared.changed.notify_one();
        unparked
    }

    fn tables(&self) -> MutexGuard<'_, MemoryTables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> std::time::Duration {
        self.shared.started.elapsed()
    }
}

impl Default for MemoryOutbox {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryOutbox").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[async_trait]
impl BeginTransaction<Memory> for MemoryOutbox {
    async fn begin(&self) -> Result<MemoryTx> {
        Ok(MemoryTx::new(self.clone()))
    }

    fn encoder(&self) -> &Encoder {
        &self.shared.encoder
    }
}

#[async_trait]
impl OutboxStore for MemoryOutbox {
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        Ok(self.tables().heartbeat(self.now(), relay, heartbeat))
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.tables().read(request))
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        Ok(self.tables().read_parked(self.now(), request))
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        self.tables().settle(confirmed);
        Ok(())
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        Ok(self.tables().reject(self.now(), rejection))
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        Ok(self.tables().set_aside(lease, lane, ids, later))
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        Ok(self.tables().open_gate(lease, lane))
    }

    async fn promote(&self, leases: &[Lease], limit: usize) -> Result<Promoted, StoreError> {
        Ok(self.tables().promote(self.now(), leases, limit))
    }

    async fn record_suspects(&self, relay: &RelayId, ids: &[i64]) -> Result<(), StoreError> {
        self.tables().record_suspects(relay, ids);
        Ok(())
    }

    async fn purge(&self, kept: Kept, _older_than: Duration) -> Result<u64, StoreError> {
        // It keeps nothing else for a time only.
        Ok(if kept == Kept::DedupKeys { self.purge_dedup() as u64 } else { 0 })
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.tables().leave(relay);
        Ok(())
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }
}
