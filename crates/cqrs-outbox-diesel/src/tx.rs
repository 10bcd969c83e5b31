use std::fmt;
use std::ops::{Deref, DerefMut};

use cqrs_core::{Added, Correlation, Error, ErrorKind, IntoMessage, Message, Result, Transaction};
use diesel_async::{AsyncConnection, TransactionManager};
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Backend;
use crate::error::{store_error, transaction_error};
use crate::outbox::Outbox;
use crate::record::NewRow;

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

    /// Gives the connection back as it is: there was no transaction, and the call has ended well.
    pub(crate) fn give_back(mut self) {
        self.guard.take();
    }

    /// Writes an event into the outbox, in this transaction: a rollback, also one to a savepoint, takes it back.
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`](cqrs_core::ErrorKind::InvalidEvent) if it is too large, has no topic or cannot be serialised;
    /// [`Store`](cqrs_core::ErrorKind::Store).
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether the row was written; roll back.
    pub async fn publish(&mut self, event: impl IntoMessage + Send) -> Result<Added> {
        self.publish_all([event]).await
    }

    /// Writes events into the outbox, in their order and in one statement; all or, if one of them is refused here, none. (On MariaDB,
    /// MySQL and SQLite a statement for each 1,000: roll the transaction back if this fails.)
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
        let messages = self.outbox.encode_all(events, &Correlation::default())?;
        self.write(messages).await
    }
}

impl<B: Backend> Transaction for Tx<B> {
    async fn write(&mut self, messages: Vec<Message>) -> Result<Added> {
        let added = Added::all(&messages);
        let rows = messages.into_iter().map(NewRow::new).collect::<Result<Vec<_>>>()?;
        if !rows.is_empty() {
            self.wrote = true;
            B::insert(self, rows).await.map_err(|error| store_error(error).into_error())?;
        }
        Ok(added)
    }

    async fn commit(mut self) -> Result<()> {
        // Until it has ended well the connection stays here, so that it is closed and not lent again if this future is
        // dropped.
        let depth = Manager::<B>::transaction_manager_status_mut(self.deref_mut()).transaction_depth();
        if depth.is_ok_and(|depth| depth.is_some_and(|depth| depth.get() > 1)) {
            // Diesel would take the commit for that of the savepoint.
            let what = "a savepoint was begun in this transaction and has not ended: commit it or roll it back before";
            return Err(Error::new(ErrorKind::Transaction, what));
        }
        B::commit(self.deref_mut()).await.map_err(|error| {
            let what =
                "the commit failed (if the connection broke meanwhile, it may have happened all the same)";
            transaction_error(what, error)
        })?;
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
