use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::codec::Encoder;
use crate::error::Result;
use crate::outgoing::Outgoing;
use crate::transaction::{Added, BeforeCommit, BeginTransaction, Database, Transaction, UnitOfWork};

/// A database that keeps nothing, for handlers that are generic over the database: their state is elsewhere, behind a trait of
/// yours. It counts how transactions ended. All clones are one.
///
/// A handler that is written for a real database needs that one: SQLite in memory is the quickest. What its transactions commit
/// is recorded all the same.
///
/// ```
/// use cqrs_core::testing::{TestDatabase, TestMediator};
/// use cqrs_core::{Context, Database, NotificationEvent, Request, RequestMap, Result, Transactional, TransactionalHandler};
///
/// # #[derive(serde::Serialize, NotificationEvent)]
/// # #[event(topic = "rooms", key = room)]
/// # struct RoomClosed { room: u32 }
/// # #[derive(Request)]
/// # struct CloseRoom { room: u32 }
/// struct CloseRoomHandler;
///
/// impl<D: Database> TransactionalHandler<CloseRoom, D> for CloseRoomHandler {
///     async fn handle(&self, command: CloseRoom, _tx: &mut D::Tx, cx: &Context<'_>) -> Result<()> {
///         cx.emit(RoomClosed { room: command.room });
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let database = TestDatabase::default();
/// let handler = Transactional::new(database.unit(), CloseRoomHandler);
/// let test = TestMediator::builder().requests(RequestMap::new().bind::<CloseRoom>(handler)).build();
///
/// test.send(CloseRoom { room: 5 }).await?;
/// test.published::<RoomClosed>().once().with_key("5");
/// assert_eq!(database.commits(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct TestDatabase(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ends: Mutex<Ends>,
    encoder: Encoder,
}

#[derive(Debug, Default)]
struct Ends {
    commits: usize,
    rollbacks: usize,
    failing: VecDeque<crate::Error>,
}

impl TestDatabase {
    /// For [`Transactional::new`](crate::Transactional::new), with no handlers before the commit.
    pub fn unit(&self) -> UnitOfWork<Self> {
        self.unit_with(BeforeCommit::new())
    }

    /// The same with handlers of domain events before the commit.
    pub fn unit_with(&self, before_commit: BeforeCommit<Self>) -> UnitOfWork<Self> {
        UnitOfWork::new(Arc::new(self.clone()), before_commit)
    }

    /// The next commit fails with this error. Called again, the one behind it does.
    pub fn fail_commit(&self, error: crate::Error) {
        self.ends().failing.push_back(error);
    }

    /// How many transactions were committed.
    pub fn commits(&self) -> usize {
        self.ends().commits
    }

    /// How many were not: rolled back, dropped, or failed in their commit.
    pub fn rollbacks(&self) -> usize {
        self.ends().rollbacks
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Database for TestDatabase {
    type Tx = TestTransaction;
}

#[async_trait]
impl BeginTransaction<TestDatabase> for TestDatabase {
    async fn begin(&self) -> Result<TestTransaction> {
        Ok(TestTransaction { database: self.clone(), is_open: true })
    }

    fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }
}

/// A transaction of a [`TestDatabase`]. It takes every event, and every lock of a key.
#[derive(Debug)]
pub struct TestTransaction {
    database: TestDatabase,
    is_open: bool,
}

impl Transaction for TestTransaction {
    async fn write(&mut self, messages: Vec<Outgoing>) -> Result<Added> {
        Ok(Added::all(&messages))
    }

    async fn lock_key(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    async fn commit(mut self) -> Result<()> {
        // If it fails, the drop counts it.
        let failed = self.database.ends().failing.pop_front();
        failed.map_or(Ok(()), Err)?;
        self.is_open = false;
        self.database.ends().commits += 1;
        Ok(())
    }

    async fn rollback(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for TestTransaction {
    fn drop(&mut self) {
        if self.is_open {
            self.database.ends().rollbacks += 1;
        }
    }
}
