//! The work bench of a row: a fresh store, relays on it, and what they see.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::{
    Added, BeginTransaction, BrokerError, Correlation, Database, Error, EventKind, IntoMessage, Message,
    Outgoing, Transaction,
};
use cqrs_outbox::{
    Fenced, GroupNo, Heartbeat, Lane, LaterEvents, Lease, OutboxRow, OutboxStore, Ownership, Promoted,
    ReadRequest, Rejection, RelayId, StoreError, SuspendedTopic, Verdict,
};
use tokio::time;
use uuid::Uuid;

use super::{DeadLetter, Settings, StoreUnderTest, confirm};

/// Why a row ended before its end.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}

pub(super) type Checked<T = ()> = Result<T, Stop>;

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(format!("an error that was not expected: {:#}", error.into_error()))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("an error that was not expected: {error:#}"))
    }
}

impl From<BrokerError> for Stop {
    fn from(error: BrokerError) -> Self {
        Self::Failed(format!("an error that was not expected: {error}"))
    }
}

/// Ends a row as failed.
pub(super) fn fail<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Failed(reason.into()))
}

/// Ends a row as skipped.
pub(super) fn skip<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Skipped(reason.into()))
}

/// Fails a row unless the condition holds.
pub(super) fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { fail(reason()) }
}

/// Fails a row unless both are the same.
pub(super) fn ensure_eq<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(
    what: &str,
    is: T,
    wanted: U,
) -> Checked {
    ensure(is == wanted, || format!("{what}: {is:?} instead of {wanted:?}"))
}

/// Waits, but not for ever.
pub(super) async fn bounded<T>(
    what: &str,
    patience: Duration,
    future: impl Future<Output = T>,
) -> Checked<T> {
    match time::timeout(patience, future).await {
        Ok(value) => Ok(value),
        Err(_) => fail(format!("{what} took longer than {patience:?}")),
    }
}

pub(super) type TxOf<S> = <<S as StoreUnderTest>::Database as Database>::Tx;

/// Longer than any row lasts.
pub(super) const LONG: Duration = Duration::from_secs(3_600);

/// Many times what a row writes.
const ALL: usize = 100_000;

pub(super) struct Bench<'a, S> {
    pub(super) adapter: &'a S,
    pub(super) settings: &'a Settings,
}

impl<S: StoreUnderTest> Bench<'_, S> {
    pub(super) async fn open(&self) -> Checked<Table<S>> {
        Ok(Table { store: self.adapter.open().await? })
    }

    /// A fresh store with a relay that owns all of it.
    pub(super) async fn owned(&self) -> Checked<Owner<S>> {
        self.open().await?.owner("owner").await
    }

    pub(super) async fn dead_letters(&self, table: &Table<S>) -> Checked<Option<Vec<DeadLetter>>> {
        Ok(self.adapter.dead_letters(&table.store).await?)
    }

    /// Waits, but not for ever.
    pub(super) async fn bounded<T>(&self, what: &str, future: impl Future<Output = T>) -> Checked<T> {
        bounded(what, self.settings.patience, future).await
    }
}

/// An event whose payload is its name in this row.
pub(super) fn event(key: Option<&str>, label: &str) -> Message {
    keyed(key.map(|key| Bytes::copy_from_slice(key.as_bytes())), label)
}

pub(super) fn keyed(key: Option<Bytes>, label: &str) -> Message {
    let mut message = Message::new("rooms", label.to_owned());
    message.name = "room_closed".to_owned();
    message.kind = Some(EventKind::Notification);
    message.version = Some(1);
    message.content_type = Some("application/json".to_owned());
    message.key = key;
    message
}

/// On this topic.
pub(super) fn on(topic: &str, mut message: Message) -> Message {
    message.topic = topic.to_owned();
    message
}

pub(super) fn label(row: &OutboxRow) -> String {
    String::from_utf8_lossy(row.message.payload.as_deref().unwrap_or_default()).into_owned()
}

pub(super) fn labels(rows: &[OutboxRow]) -> Vec<String> {
    rows.iter().map(label).collect()
}

/// The names of rows that stand in this place.
pub(super) fn labels_at(rows: &[OutboxRow], place: cqrs_outbox::Place) -> Vec<String> {
    rows.iter().filter(|row| row.place == place).map(label).collect()
}

/// A store.
pub(super) struct Table<S: StoreUnderTest> {
    pub(super) store: Arc<S::Store>,
}

impl<S: StoreUnderTest> Clone for Table<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store) }
    }
}

impl<S: StoreUnderTest> Table<S> {
    pub(super) async fn begin(&self) -> Checked<TxOf<S>> {
        Ok(self.store.begin().await?)
    }

    /// The messages as they go into the outbox: with an id, a time and headers.
    pub(super) fn finish(&self, messages: impl IntoIterator<Item = Message>) -> Checked<Vec<Message>> {
        let encoder = self.store.encoder();
        messages.into_iter().map(|message| Ok(encoder.finish(message, &Correlation::default())?)).collect()
    }

    pub(super) async fn write(
        &self,
        tx: &mut TxOf<S>,
        messages: impl IntoIterator<Item = Message>,
    ) -> Checked<Vec<Message>> {
        let messages = self.finish(messages)?;
        tx.write(messages.iter().cloned().map(Outgoing::from).collect()).await?;
        Ok(messages)
    }

    /// As they go into the outbox, with what is asked for.
    pub(super) fn outgoing(&self, events: impl IntoIterator<Item = Outgoing>) -> Checked<Vec<Outgoing>> {
        let encoder = self.store.encoder();
        events.into_iter().map(|event| Ok(event.into_outgoing(encoder, &Correlation::default())?)).collect()
    }

    /// Writes them in a transaction of their own, and says what became of them.
    pub(super) async fn add(&self, events: impl IntoIterator<Item = Outgoing>) -> Checked<Added> {
        let mut tx = self.begin().await?;
        let added = tx.write(self.outgoing(events)?).await?;
        tx.commit().await?;
        Ok(added)
    }

    /// Writes them in a transaction of their own.
    pub(super) async fn commit(&self, messages: impl IntoIterator<Item = Message>) -> Checked<Vec<Message>> {
        let mut tx = self.begin().await?;
        let messages = self.write(&mut tx, messages).await?;
        tx.commit().await?;
        Ok(messages)
    }

    /// A relay that owns nothing.
    pub(super) fn relay(&self, name: &str) -> Owner<S> {
        Owner {
            table: self.clone(),
            relay: RelayId { name: name.to_owned(), incarnation: Uuid::new_v4() },
            leases: Vec::new(),
            groups: 0,
        }
    }

    /// A relay that owns everything, for as long as the row lasts.
    pub(super) async fn owner(&self, name: &str) -> Checked<Owner<S>> {
        let mut owner = self.relay(name);
        owner.beat(LONG, usize::MAX, Vec::new()).await?;
        ensure(owner.groups > 0, || "there are no groups".to_owned())?;
        ensure(owner.leases.len() == owner.groups, || {
            format!("the only relay got {} of {} groups", owner.leases.len(), owner.groups)
        })?;
        Ok(owner)
    }
}

/// A relay, and the leases that it has by its last heartbeat.
pub(super) struct Owner<S: StoreUnderTest> {
    pub(super) table: Table<S>,
    pub(super) relay: RelayId,
    pub(super) leases: Vec<Lease>,
    pub(super) groups: usize,
}

impl<S: StoreUnderTest> Owner<S> {
    fn store(&self) -> &S::Store {
        &self.table.store
    }

    pub(super) async fn beat(
        &mut self,
        lease: Duration,
        take: usize,
        release: Vec<Lease>,
    ) -> Checked<Ownership> {
        let ownership = self.store().heartbeat(&self.relay, &Heartbeat { lease, take, release }).await?;
        self.leases.clone_from(&ownership.leases);
        self.groups = ownership.groups;
        Ok(ownership)
    }

    pub(super) fn owned(&self) -> Vec<GroupNo> {
        self.leases.iter().map(|lease| lease.group).collect()
    }

    pub(super) async fn commit(&self, messages: impl IntoIterator<Item = Message>) -> Checked<Vec<Message>> {
        self.table.commit(messages).await
    }

    /// Asks for everything in the groups of this relay but the rows with these ids.
    pub(super) fn request(&self, known: &[i64]) -> ReadRequest {
        ReadRequest { leases: self.leases.clone(), known: known.to_vec(), limit: ALL, max_bytes: usize::MAX }
    }

    pub(super) async fn read(&self) -> Checked<Vec<OutboxRow>> {
        self.read_as(&self.request(&[])).await
    }

    pub(super) async fn read_as(&self, request: &ReadRequest) -> Checked<Vec<OutboxRow>> {
        let rows = self.store().read(request).await?;
        in_order(&rows)?;
        Ok(rows)
    }

    pub(super) async fn parked(&self) -> Checked<Vec<OutboxRow>> {
        self.parked_as(&self.request(&[])).await
    }

    pub(super) async fn parked_as(&self, request: &ReadRequest) -> Checked<Vec<OutboxRow>> {
        let rows = self.store().read_parked(request).await?;
        in_order(&rows)?;
        ensure(rows.iter().all(|row| row.place == cqrs_outbox::Place::Parked), || {
            "a row that waits aside was read with another place".to_owned()
        })?;
        Ok(rows)
    }

    /// The row of this name in the hot table.
    pub(super) async fn find(&self, name: &str) -> Checked<OutboxRow> {
        match self.read().await?.into_iter().find(|row| label(row) == name) {
            Some(row) => Ok(row),
            None => fail(format!("the row `{name}` is not in the hot table")),
        }
    }

    pub(super) fn lease_of(&self, row: &OutboxRow) -> Checked<Lease> {
        match self.leases.iter().find(|lease| lease.group == row.group) {
            Some(lease) => Ok(*lease),
            None => fail(format!("a row of group {} was read, which is not leased", row.group)),
        }
    }

    pub(super) async fn reject(&self, row: &OutboxRow, verdict: Verdict, error: &str) -> Checked<Fenced<()>> {
        let rejection = Rejection {
            lease: self.lease_of(row)?,
            id: row.id,
            lane: row.lane.clone(),
            attempts: row.attempts + 1,
            error: error.to_owned(),
            verdict,
        };
        Ok(self.store().reject(&rejection).await?)
    }

    pub(super) async fn park(&self, row: &OutboxRow, retry_in: Duration) -> Checked {
        let answer = self.reject(row, Verdict::Park { retry_in }, "refused").await?;
        ensure_eq("parking under a good lease", answer, Fenced::Done(()))
    }

    pub(super) async fn bury(&self, row: &OutboxRow, later: LaterEvents, error: &str) -> Checked {
        let answer = self.reject(row, Verdict::Bury { later }, error).await?;
        ensure_eq("burying under a good lease", answer, Fenced::Done(()))
    }

    pub(super) async fn set_aside(&self, lease: Lease, lane: &Lane, ids: &[i64]) -> Checked<Fenced<bool>> {
        Ok(self.store().set_aside(lease, lane, ids, LaterEvents::Wait).await?)
    }

    pub(super) async fn set_aside_to_follow(&self, row: &OutboxRow) -> Checked<Fenced<bool>> {
        let lease = self.lease_of(row)?;
        Ok(self.store().set_aside(lease, &row.lane, &[row.id], LaterEvents::Follow).await?)
    }

    pub(super) async fn open_gate(&self, lease: Lease, lane: &Lane) -> Checked<Fenced<bool>> {
        Ok(self.store().open_gate(lease, lane).await?)
    }

    /// Settles rows as a relay does that has a receipt for each.
    pub(super) async fn settle(&self, rows: Vec<OutboxRow>) -> Checked {
        Ok(self.store().settle(&confirm::confirmed(rows)?).await?)
    }

    pub(super) async fn promote(&self, leases: &[Lease], limit: usize) -> Checked<Promoted> {
        Ok(self.store().promote(leases, limit).await?)
    }

    pub(super) async fn record_suspects(&self, ids: &[i64]) -> Checked {
        Ok(self.store().record_suspects(&self.relay, ids).await?)
    }

    pub(super) async fn record_suspended(&self, topics: &[&str]) -> Checked<bool> {
        let suspended = |topic: &&str| SuspendedTopic { topic: (*topic).to_owned(), error: "no".to_owned() };
        let topics: Vec<_> = topics.iter().map(suspended).collect();
        Ok(self.store().record_suspended(&self.relay, &topics).await?)
    }

    pub(super) async fn leave(&self) -> Checked {
        Ok(self.store().leave(&self.relay).await?)
    }
}

fn in_order(rows: &[OutboxRow]) -> Checked {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    ensure(ids.is_sorted_by(|one, next| one < next), || {
        format!("the rows were not read in ascending order of their ids: {ids:?}")
    })
}
