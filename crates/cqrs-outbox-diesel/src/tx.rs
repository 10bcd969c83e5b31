use std::fmt;
use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use cqrs_core::{
    Added, Correlation, Deliver, Error, ErrorKind, IntoMessage, Outgoing, Result, ScheduleChange, Transaction,
};
use cqrs_outbox::table::check_key;
use diesel_async::{AsyncConnection, TransactionManager};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::{commit_error, store_error, transaction_error};
use crate::on::On;
use crate::outbox::Outbox;
use crate::schedule::change;
use crate::writing::write;

/// An open transaction of an [`Outbox`]: a diesel connection (it dereferences to one, and every query takes it), with
/// [`publish`](Self::publish). Dropping it rolls back.
pub struct Tx<B: Backend> {
    /// `None` only when the transaction has ended.
    guard: Option<B::Guard>,
    outbox: Outbox<B>,
    wrote: bool,
    /// On SQLite, the right to write.
    _permit: Option<OwnedSemaphorePermit>,
}

type Manager<B> = <<B as Backend>::Connection as AsyncConnection>::TransactionManager;

impl<B: Backend> Tx<B> {
    pub(crate) fn new(guard: B::Guard, outbox: Outbox<B>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { guard: Some(guard), outbox, wrote: false, _permit: permit }
    }

    /// Its connection, for the outbox's statements.
    #[allow(clippy::expect_used)]
    pub(crate) fn on(&mut self) -> On<'_, B> {
        let conn = self.guard.as_mut().expect("a transaction that has ended cannot be reached");
        self.outbox.on(conn.deref_mut())
    }

    /// Gives the connection back as it is: there was no transaction, and the call has ended well.
    pub(crate) fn give_back(mut self) {
        self.guard.take();
    }

    /// Writes an event into the outbox, in this transaction: a rollback, also one to a savepoint, takes it back.
    ///
    /// It knows nothing of the request that it is written for: what is to carry the conversation, the cause and the trace of that is said by
    /// [`Context::emit`](cqrs_core::Context::emit).
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`](cqrs_core::ErrorKind::InvalidEvent) if it is too large, has no topic or cannot be serialised;
    /// [`Conflict`](cqrs_core::ErrorKind::Conflict) if its [version](cqrs_core::Envelope::with_key_version) is not above the
    /// last one; [`Store`](cqrs_core::ErrorKind::Store).
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether the row was written; roll back.
    pub async fn publish(&mut self, event: impl IntoMessage + Send) -> Result<Added> {
        self.publish_all([event]).await
    }

    /// Writes events into the outbox, in their order and in one statement; all or, if one of them is refused here, none. (On MariaDB,
    /// MySQL and SQLite a statement for each 1,000 or 4 MiB, or less where the server takes less (`max_allowed_packet`): roll the transaction back if
    /// this fails.)
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// As for [`publish`](Self::publish).
    pub async fn publish_all<E: IntoMessage>(
        &mut self,
        events: impl IntoIterator<Item = E, IntoIter: Send> + Send,
    ) -> Result<Added> {
        let events = self.outbox.encode_all(events, &Correlation::default())?;
        self.write(events).await
    }

    /// Keeps others that lock this key out until this transaction ends: see [`Transaction::lock_key`], also for when it is
    /// not needed. Locks the key for others that call this, not for those that only write.
    ///
    /// On PostgreSQL it is an advisory lock of the transaction's; on MariaDB and MySQL a row of `cqrs_outbox_version`, which
    /// stays; on SQLite nothing, for one transaction writes at a time. It is no lock on the key's row of yours.
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store): the lock was not to be had in time, or a deadlock: roll back, and try again;
    /// [`InvalidEvent`](cqrs_core::ErrorKind::InvalidEvent): the key is too long.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether the key is locked, until the transaction ends.
    pub async fn lock_key(&mut self, key: impl AsRef<[u8]> + Send) -> Result<()> {
        Transaction::lock_key(self, key.as_ref()).await
    }

    /// Cancels a scheduled event, in this transaction: with a commit it is not sent, with a rollback it is. Its deduplication key, if
    /// it has one, is free at once for this transaction, and for others with the commit, for which they wait.
    ///
    /// On MariaDB and MySQL at REPEATABLE READ it is looked for in the snapshot of this transaction: what was scheduled
    /// after that is [`ScheduleChange::TooLate`].
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store).
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was done; roll back.
    pub async fn cancel(&mut self, event_id: Uuid) -> Result<ScheduleChange> {
        Transaction::cancel(self, event_id).await
    }

    /// Gives a scheduled event another time, in this transaction. One that is past is now. On MariaDB and MySQL see
    /// [`cancel`](Self::cancel).
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`](cqrs_core::ErrorKind::InvalidEvent) if the time is out of range;
    /// [`Store`](cqrs_core::ErrorKind::Store).
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it was done; roll back.
    pub async fn reschedule(&mut self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange> {
        Transaction::reschedule(self, event_id, at).await
    }
}

impl<B: Backend> Transaction for Tx<B> {
    async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
        self.wrote |= !messages.is_empty();
        match write::<B>(&mut self.on(), messages).await {
            Ok(added) => Ok(added),
            Err(error) => Err(self.outbox.not_written(error).await),
        }
    }

    async fn lock_key(&mut self, key: &[u8]) -> Result<()> {
        check_key(key, "key that is to be locked")?;
        B::lock_key(&mut self.on(), key).await.map_err(|error| store_error(error).into_error())
    }

    async fn cancel(&mut self, event_id: Uuid) -> Result<ScheduleChange> {
        let done =
            B::cancel(&mut self.on(), event_id).await.map_err(|error| store_error(error).into_error())?;
        Ok(change(done))
    }

    async fn reschedule(&mut self, event_id: Uuid, at: DateTime<Utc>) -> Result<ScheduleChange> {
        Deliver::At(at).check()?;
        self.wrote = true;
        let done = B::reschedule(&mut self.on(), event_id, at)
            .await
            .map_err(|error| store_error(error).into_error())?;
        Ok(change(done))
    }

    async fn commit(mut self) -> Result<()> {
        // Until it has ended well the connection stays here, so that it is closed and not lent again if this future is
        // dropped.
        let depth = Manager::<B>::transaction_manager_status_mut(self.deref_mut())
            .transaction_depth()
            .map_err(commit_error)?;
        if depth.is_some_and(|depth| depth.get() > 1) {
            // Diesel would take the commit for that of the savepoint.
            let what = "a savepoint was begun in this transaction and has not ended: commit it or roll it back before";
            return Err(Error::new(ErrorKind::Transaction, what));
        }
        B::commit(self.deref_mut()).await.map_err(commit_error)?;
        self.guard.take();
        if self.wrote {
            self.outbox.wake();
        }
        Ok(())
    }

    async fn rollback(mut self) -> Result<()> {
        B::rollback(self.deref_mut())
            .await
            .map_err(|error| transaction_error("the rollback failed", error))?;
        self.guard.take();
        Ok(())
    }
}

impl<B: Backend> Deref for Tx<B> {
    type Target = B::Connection;

    #[allow(clippy::expect_used)]
    fn deref(&self) -> &B::Connection {
        self.guard.as_ref().expect("a transaction that has ended cannot be reached")
    }
}

impl<B: Backend> DerefMut for Tx<B> {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut B::Connection {
        self.guard.as_mut().expect("a transaction that has ended cannot be reached")
    }
}

impl<B: Backend> Drop for Tx<B> {
    fn drop(&mut self) {
        // In the middle of a transaction: closing the connection rolls it back.
        if let Some(guard) = self.guard.take() {
            B::discard(guard);
        }
    }
}

impl<B: Backend> fmt::Debug for Tx<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("outbox", &self.outbox).field("wrote", &self.wrote).finish_non_exhaustive()
    }
}
