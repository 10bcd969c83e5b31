//! A transaction of an outbox in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::{
    AddOutcome, Added, AddedEvent, Deliver, Error, ErrorKind, MessageId, Outgoing, Result, ScheduleChange,
    Transaction, VersionConflict,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use super::MemoryOutbox;
use super::tables::Scheduled;

/// A transaction of a [`MemoryOutbox`]: what was written appears with the commit.
#[derive(Debug)]
pub struct MemoryTx {
    outbox: MemoryOutbox,
    written: Vec<Written>,
    /// Keys that were claimed, or freed.
    dedup: BTreeMap<Bytes, Option<(MessageId, Duration)>>,
    versions: BTreeMap<Bytes, u64>,
    /// Scheduled events that were taken out of the tables, and when they are to go now.
    taken: Vec<(Scheduled, Option<Duration>)>,
    locks: Vec<(Lock, OwnedMutexGuard<()>)>,
}

#[derive(Debug)]
struct Written {
    outgoing: Outgoing,
    /// When it may go, if that is later.
    due: Option<Duration>,
}

/// What one transaction at a time may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Lock {
    Dedup(Bytes),
    Key(Bytes),
}

/// How long a transaction waits for another, which may be waiting for it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The locks that transactions have, or wait for.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<Lock, Arc<AsyncMutex<()>>>>);

impl Locks {
    async fn take(&self, lock: &Lock) -> Result<OwnedMutexGuard<()>> {
        let mutex = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for.
            locks.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            Arc::clone(locks.entry(lock.clone()).or_default())
        };
        timeout(LOCK_TIMEOUT, mutex.lock_owned()).await.map_err(|_| {
            let what = format!("another transaction has had the lock of {lock:?} for {LOCK_TIMEOUT:?}");
            Error::new(ErrorKind::Store, what).with_retryable(true)
        })
    }
}

impl fmt::Debug for Locks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").finish_non_exhaustive()
    }
}

impl MemoryTx {
    pub(super) fn new(outbox: MemoryOutbox) -> Self {
        Self {
            outbox,
            written: Vec::new(),
            dedup: BTreeMap::new(),
            versions: BTreeMap::new(),
            taken: Vec::new(),
            locks: Vec::new(),
        }
    }

    async fn lock(&mut self, lock: Lock) -> Result<()> {
        if self.locks.iter().all(|(held, _)| *held != lock) {
            let guard = self.outbox.shared.locks.take(&lock).await?;
            self.locks.push((lock, guard));
        }
        Ok(())
    }

    /// The first event with this key, if its window lasts.
    fn first(&self, key: &Bytes, now: Duration) -> Option<MessageId> {
        let (id, expires) = match self.dedup.get(key) {
            Some(own) => own.clone()?,
            None => self.outbox.tables().dedup.get(key).cloned()?,
        };
        (expires > now).then_some(id)
    }

    fn version(&self, key: &Bytes) -> Option<u64> {
        self.versions.get(key).copied().or_else(|| self.outbox.tables().versions.get(key).copied())
    }

    /// The deduplication key of an event.
    fn dedup_key(&self, id: &MessageId) -> Option<Bytes> {
        let is_its = |claim: &(MessageId, Duration)| claim.0 == *id;
        let own = self.dedup.iter().find(|(_, claim)| claim.as_ref().is_some_and(is_its));
        if let Some((key, _)) = own {
            return Some(key.clone());
        }
        let tables = self.outbox.tables();
        let found = tables.dedup.iter().find(|(key, claim)| is_its(claim) && !self.dedup.contains_key(*key));
        found.map(|(key, _)| key.clone())
    }

    /// Takes a scheduled event out, or gives it another time.
    fn change(&mut self, event_id: Uuid, due: Option<Duration>) -> ScheduleChange {
        let id = MessageId::from(event_id);
        let is_it =
            |written: &Written| written.outgoing.message.id.as_ref() == Some(&id) && written.due.is_some();
        if let Some(nth) = self.written.iter().position(is_it) {
            match due {
                Some(due) => self.written[nth].due = Some(due),
                None => drop(self.written.remove(nth)),
            }
            return ScheduleChange::Done;
        }
        if let Some((_, moved)) =
            self.taken.iter_mut().find(|(taken, moved)| taken.event_id() == event_id && moved.is_some())
        {
            *moved = due;
            return ScheduleChange::Done;
        }
        let Some(scheduled) = self.outbox.tables().unschedule(event_id) else {
            return ScheduleChange::TooLate;
        };
        self.taken.push((scheduled, due));
        ScheduleChange::Done
    }
}

/// One moment by both clocks: the application's, and the one that the outbox counts by.
struct Moment {
    wall: DateTime<Utc>,
    now: Duration,
}

impl Moment {
    fn of(outbox: &MemoryOutbox) -> Self {
        Self { wall: Utc::now(), now: outbox.now() }
    }

    /// When an event is due, if that is later.
    fn due(&self, deliver: Deliver) -> Option<Duration> {
        let wait = match deliver {
            Deliver::After(wait) => wait,
            Deliver::At(at) => (at - self.wall).to_std().unwrap_or_default(),
        };
        (!wait.is_zero()).then(|| self.now + wait)
    }
}

impl Transaction for MemoryTx {
    async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
        // In one order everywhere, so that no two wait for each other.
        let mut locks: Vec<Lock> = messages
            .iter()
            .flat_map(|Outgoing { message, options, .. }| {
                let dedup = options.dedup.as_ref().map(|dedup| Lock::Dedup(dedup.key.clone()));
                let version = options.key_version.and(message.key.clone()).map(Lock::Key);
                [dedup, version].into_iter().flatten()
            })
            .collect();
        locks.sort();
        for lock in locks {
            self.lock(lock).await?;
        }
        let moment = Moment::of(&self.outbox);
        let now = moment.now;
        let before = (self.written.len(), self.dedup.clone(), self.versions.clone());
        let mut added = Added::default();
        for outgoing in messages {
            let Some(id) = outgoing.message.id.clone() else { continue };
            if let Some(dedup) = &outgoing.options.dedup {
                if let Some(first) = self.first(&dedup.key, now) {
                    added.events.push(AddedEvent::new(first, AddOutcome::Duplicate));
                    continue;
                }
                self.dedup.insert(dedup.key.clone(), Some((id.clone(), now + dedup.window)));
            }
            if let (Some(wanted), Some(key)) = (outgoing.options.key_version, &outgoing.message.key) {
                if let Some(stored) = self.version(key).filter(|stored| *stored >= wanted) {
                    let conflict = VersionConflict::new(key.clone(), wanted, stored);
                    self.written.truncate(before.0);
                    (self.dedup, self.versions) = (before.1, before.2);
                    return Err(conflict.into_error());
                }
                self.versions.insert(key.clone(), wanted);
            }
            let due = outgoing.options.deliver.and_then(|deliver| moment.due(deliver));
            let outcome = if due.is_some() { AddOutcome::Scheduled } else { AddOutcome::Written };
            added.events.push(AddedEvent::new(id, outcome));
            self.written.push(Written { outgoing, due });
        }
        Ok(added)
    }

    async fn lock_key(&mut self, key: &[u8]) -> Result<()> {
        self.lock(Lock::Key(Bytes::copy_from_slice(key))).await
    }

    async fn cancel(&mut self, event_id: Uuid) -> Result<ScheduleChange> {
        let change = self.change(event_id, None);
        let id = MessageId::from(event_id);
        if change == ScheduleChange::Done
            && let Some(key) = self.dedup_key(&id)
        {
            self.lock(Lock::Dedup(key.clone())).await?;
            // Somebody may have taken it over meanwhile, after its window.
            if self.dedup_key(&id).as_ref() == Some(&key) {
                self.dedup.insert(key, None);
            }
        }
        Ok(change)
    }

    async fn reschedule(&mut self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange> {
        let deliver = Deliver::At(at);
        deliver.check()?;
        let moment = Moment::of(&self.outbox);
        let due = moment.due(deliver).unwrap_or(moment.now);
        Ok(self.change(event_id, Some(due)))
    }

    async fn commit(mut self) -> Result<()> {
        let mut tables = self.outbox.tables();
        for (key, claim) in std::mem::take(&mut self.dedup) {
            match claim {
                Some(claim) => drop(tables.dedup.insert(key, claim)),
                None => drop(tables.dedup.remove(&key)),
            }
        }
        tables.versions.append(&mut self.versions);
        let changed = !self.written.is_empty() || !self.taken.is_empty();
        for (scheduled, due) in self.taken.drain(..) {
            if let Some(due) = due {
                tables.reschedule(scheduled, due);
            }
        }
        for Written { outgoing, due } in self.written.drain(..) {
            let id = tables.reserve_id();
            match due {
                Some(due) => tables.schedule(due, id, outgoing.message),
                None => tables.insert(id, outgoing.message),
            }
        }
        drop(tables);
        if changed {
            self.outbox.shared.changed.notify_one();
        }
        Ok(())
    }

    async fn rollback(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for MemoryTx {
    /// A commit has left nothing here.
    fn drop(&mut self) {
        let mut tables = self.outbox.tables();
        for (scheduled, _) in self.taken.drain(..) {
            tables.put_back(scheduled);
        }
    }
}
