//! The conformance suite for message brokers.
//!
//! An adapter passes it or does not; it does not matter who wrote it. Give the suite the means to open connections, and
//! it runs all its rows, each with topics and groups of its own, so that a shared server will do:
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use cqrs_core::broker::memory::MemoryBroker;
//! use cqrs_core::{BrokerError, MessageBroker};
//! use cqrs_testing::broker::{self, BrokerUnderTest, Settings};
//!
//! struct Memory(MemoryBroker);
//!
//! #[async_trait]
//! impl BrokerUnderTest for Memory {
//!     async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError> {
//!         Ok(Arc::new(self.0.connect()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let report = broker::run(&Memory(MemoryBroker::new()), &Settings::default()).await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```

mod bench;
mod rows;
mod stream;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::{BrokerError, MessageBroker};
use futures_util::FutureExt;
use tokio::time;

pub use crate::report::{Outcome, Report, Row};

use self::bench::{Bench, Stop};

/// A broker, and what the suite needs to put it to the test.
#[async_trait]
pub trait BrokerUnderTest: Send + Sync {
    /// Opens a connection of its own, as another process would.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], which fails the row that needs the connection.
    async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError>;

    /// Makes a topic, and says what it is called. `wanted` is unique and consists of letters, digits and `-`. By default
    /// that is its name and nothing is made, for brokers where topics come into being by themselves.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], which fails the row that needs the topic.
    async fn topic(&self, wanted: &str) -> Result<String, BrokerError> {
        Ok(wanted.to_owned())
    }

    /// Opens a connection on which that topic does not exist, and does not come into being by publishing. By default
    /// `None`: the adapter cannot bring that about, and the row is skipped.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], which fails the row.
    async fn open_without(&self, topic: &str) -> Result<Option<Arc<dyn MessageBroker>>, BrokerError> {
        let _ = topic;
        Ok(None)
    }

    /// Restarts the broker itself, and returns when it can be reached again. By default `false`: the adapter cannot do
    /// that, and the row is skipped.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`], which fails the row.
    async fn restart(&self) -> Result<bool, BrokerError> {
        Ok(false)
    }

    /// Why the row of this name is not to be run, if so: a reason that the report prints. By default every row runs.
    fn skip(&self, row: &str) -> Option<String> {
        let _ = row;
        None
    }
}

/// How patient and how thorough the suite is. Every time is a bound for what goes wrong; a broker that works is not
/// waited for longer than it takes, except for `quiet`.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a row may take. Default 120 seconds.
    pub row: Duration,
    /// How long the next message, confirm or acknowledgement may take, a rebalance included. Default 15 seconds.
    pub arrival: Duration,
    /// How long to listen before it is taken for sure that nothing more comes. Default 500 milliseconds.
    pub quiet: Duration,
    /// How many messages the row with the many publishers and consumers sends; the other streams send a fifth of it.
    /// Default 5,000.
    pub messages: usize,
    /// How many publishers and how many consumers that row has. Default 50.
    pub parties: usize,
    /// How many topics there are in the row on cross-talk. Default 20.
    pub topics: usize,
    /// The names of the rows to run; empty means all, which is the default.
    pub only: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            row: Duration::from_secs(120),
            arrival: Duration::from_secs(15),
            quiet: Duration::from_millis(500),
            messages: 5_000,
            parties: 50,
            topics: 20,
            only: Vec::new(),
        }
    }
}

/// Runs the suite, one row after the other. It needs a tokio runtime with time; on a paused clock the waits of an
/// adapter without I/O cost nothing (but an adapter that delivers the same message for ever never lets such a clock go on).
///
/// Nothing is thrown: a row that fails, panics or takes too long is reported as failed, and the next one runs.
pub async fn run(adapter: &dyn BrokerUnderTest, settings: &Settings) -> Report {
    let mut report = Report::default();
    for row in rows::ALL {
        if !settings.only.is_empty() && !settings.only.iter().any(|only| only == row.name) {
            continue;
        }
        let outcome = match adapter.skip(row.name) {
            Some(reason) => Outcome::Skipped(reason),
            None => judge(row, adapter, settings).await,
        };
        report.push(Row { name: row.name, promise: row.promise, outcome });
    }
    report
}

async fn judge(row: &rows::Entry, adapter: &dyn BrokerUnderTest, settings: &Settings) -> Outcome {
    let bench = Bench::new(adapter, settings, row.name);
    let run = AssertUnwindSafe((row.run)(&bench)).catch_unwind();
    match time::timeout(settings.row, run).await {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(Stop::Failed(reason)))) => Outcome::Failed(reason),
        Ok(Ok(Err(Stop::Skipped(reason)))) => Outcome::Skipped(reason),
        Ok(Err(_)) => Outcome::Failed("it panicked; the panic's message stands on standard error".to_owned()),
        Err(_) => Outcome::Failed(format!("it did not end within {:?} (`Settings::row`)", settings.row)),
    }
}
