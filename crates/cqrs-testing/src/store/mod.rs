//! The conformance suite for outbox stores, and for inboxes.
//!
//! It works on the port: what [`OutboxStore`], [`BeginTransaction`] and [`Inbox`] promise, whatever the database. What
//! an adapter cannot show (it has no SQL, no inbox, no dead letters to look at) is skipped with a reason.
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use cqrs_core::Result;
//! use cqrs_outbox::MemoryOutbox;
//! use cqrs_testing::store::{self, Settings, StoreUnderTest};
//!
//! struct Memory;
//!
//! #[async_trait]
//! impl StoreUnderTest for Memory {
//!     type Database = cqrs_outbox::memory::Memory;
//!     type Store = MemoryOutbox;
//!
//!     async fn open(&self) -> Result<Arc<MemoryOutbox>> {
//!         Ok(Arc::new(MemoryOutbox::new()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let report = store::run(&Memory, &Settings::default()).await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```

mod bench;
mod confirm;
mod mortal;
mod recorder;
mod rows;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_consumer::Inbox;
use cqrs_core::{BeginTransaction, Database, Result};
use cqrs_outbox::{OrderUnit, OutboxStore};
use futures_util::FutureExt;
use tokio::time;
use uuid::Uuid;

pub use crate::report::{Outcome, Report, Row};

use self::bench::{Bench, Stop};

/// A store, and what the suite needs to put it to the test.
#[async_trait]
pub trait StoreUnderTest: Send + Sync + 'static {
    /// The kind of database.
    type Database: Database;

    /// The store. All that the suite opens within one row are clones of one [`open`](Self::open).
    type Store: OutboxStore + BeginTransaction<Self::Database>;

    /// Opens a fresh, empty store, which no other call has opened.
    ///
    /// # Errors
    ///
    /// Any; it fails the row that needs the store.
    async fn open(&self) -> Result<Arc<Self::Store>>;

    /// The inbox in the same database. By default `None`: the store has none, and its rows are skipped.
    fn inbox(&self, store: &Arc<Self::Store>) -> Option<Arc<dyn Inbox<Self::Database>>> {
        let _ = store;
        None
    }

    /// Runs a statement of SQL in a transaction of its own. By default `false`: there is no SQL, and the rows on it are
    /// skipped.
    ///
    /// # Errors
    ///
    /// Any; it fails the row.
    async fn execute(&self, store: &Arc<Self::Store>, sql: &str) -> Result<bool> {
        let _ = (store, sql);
        Ok(false)
    }

    /// The dead letters, in ascending order of the rows' ids. By default `None`: they cannot be listed, and the rows look
    /// only at what is left without them.
    ///
    /// # Errors
    ///
    /// Any; it fails the row.
    async fn dead_letters(&self, store: &Arc<Self::Store>) -> Result<Option<Vec<DeadLetter>>> {
        let _ = store;
        Ok(None)
    }

    /// Asks for something to be done with a dead letter, as an operator does. By default [`Asked::Unsupported`], and the
    /// rows on it are skipped.
    ///
    /// # Errors
    ///
    /// Any; it fails the row.
    async fn request(&self, store: &Arc<Self::Store>, request: Request, event_id: Uuid) -> Result<Asked> {
        let _ = (store, request, event_id);
        Ok(Asked::Unsupported)
    }

    /// Has everything that stands aside for a time tried again now, as an operator does. By default `false`: there is nothing of the
    /// kind, and the row on it is skipped.
    ///
    /// # Errors
    ///
    /// Any; it fails the row.
    async fn unpark(&self, store: &Arc<Self::Store>) -> Result<bool> {
        let _ = store;
        Ok(false)
    }

    /// How long the oldest event that waits has been waiting, as operators are told, with no relay running too. By default
    /// [`Oldest::Unsupported`], and the rows on it do not look.
    ///
    /// # Errors
    ///
    /// Any; it fails the row.
    async fn oldest_waiting(&self, store: &Arc<Self::Store>) -> Result<Oldest> {
        let _ = store;
        Ok(Oldest::Unsupported)
    }

    /// What the stores that it opens keep in order. Put one that has several to the test with each of them. By default the key.
    fn order_unit(&self) -> OrderUnit {
        OrderUnit::Key
    }

    /// Whether two transactions that write can be open at the same time. By default `true`; with `false` the rows that
    /// need that are skipped.
    fn writes_concurrently(&self) -> bool {
        true
    }

    /// Why the row of this name is not to be run, if so: a reason that the report prints. By default every row runs.
    fn skip(&self, row: &str) -> Option<String> {
        let _ = row;
        None
    }
}

/// A dead letter, as far as the suite looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's id.
    pub event_id: Uuid,
    /// How often it was refused.
    pub attempts: u32,
    /// The last error.
    pub error: String,
}

/// What operators are told of the oldest event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest {
    /// How long it has been waiting.
    Waits(Duration),
    /// Nothing waits.
    Nothing,
    /// This store does not tell.
    Unsupported,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send the dead letter again.
    Replay,
    /// Drop it.
    Discard,
}

/// What became of an operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It was written down; the relay that owns the group does it with its next heartbeat.
    Accepted,
    /// There is no such dead letter.
    Unknown,
    /// This store has nothing of the kind.
    Unsupported,
}

/// How patient and how thorough the suite is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a row may take. Default 60 seconds.
    pub row: Duration,
    /// How long one thing that has to happen may take. Default 15 seconds.
    pub patience: Duration,
    /// How long to listen before it is taken for sure that nothing happens. Default 200 milliseconds.
    pub quiet: Duration,
    /// How long a lease lasts where its end is the point, by the database's clock: the rows sleep through it. Default 1
    /// second.
    pub lease: Duration,
    /// How many events go through a relay. Default 1,000.
    pub events: usize,
    /// How many keys they have. Default 32.
    pub keys: usize,
    /// The names of the rows to run; empty means all, which is the default.
    pub only: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            row: Duration::from_secs(60),
            patience: Duration::from_secs(15),
            quiet: Duration::from_millis(200),
            lease: Duration::from_secs(1),
            events: 1_000,
            keys: 32,
            only: Vec::new(),
        }
    }
}

/// The names of all rows, in their order: for a test harness that shows each as a test of its own.
pub fn row_names() -> impl Iterator<Item = &'static str> {
    rows::NAMES.iter().copied()
}

/// Runs the suite, one row after the other. It needs a tokio runtime with time; on a paused clock the waits of a store
/// without I/O cost nothing.
///
/// Nothing is thrown: a row that fails, panics or takes too long is reported as failed, and the next one runs.
pub async fn run<S: StoreUnderTest>(adapter: &S, settings: &Settings) -> Report {
    let mut report = Report::default();
    for row in rows::all::<S>() {
        if !settings.only.is_empty() && !settings.only.iter().any(|only| only == row.name) {
            continue;
        }
        let outcome = match adapter.skip(row.name) {
            Some(reason) => Outcome::Skipped(reason),
            None => judge(&row, adapter, settings).await,
        };
        report.push(Row { name: row.name, promise: row.promise, outcome });
    }
    report
}

async fn judge<S: StoreUnderTest>(row: &rows::Entry<S>, adapter: &S, settings: &Settings) -> Outcome {
    let bench = Bench { adapter, settings };
    let run = AssertUnwindSafe((row.run)(&bench)).catch_unwind();
    match time::timeout(settings.row, run).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Stop::Failed(reason)))) => Outcome::Failed(reason),
        Ok(Ok(Err(Stop::Skipped(reason)))) => Outcome::Skipped(reason),
        Ok(Err(_)) => Outcome::Failed("it panicked; the panic's message stands on standard error".to_owned()),
        Err(_) => Outcome::Failed(format!("it did not end within {:?} (`Settings::row`)", settings.row)),
    }
}
