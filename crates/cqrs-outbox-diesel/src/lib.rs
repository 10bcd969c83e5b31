//! The transactional outbox and the inbox of the `cqrs` toolkit on diesel and diesel-async.

// Without a database there is nothing to do, but the ports still compile: features are additive.
#![cfg_attr(
    not(any(feature = "postgres", feature = "mysql", feature = "sqlite")),
    allow(dead_code, unused_imports)
)]

mod backend;
mod changes;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod choice;
mod dead_letters;
mod drift;
mod edit;
mod error;
mod installation;
mod migration;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod network;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod new_rows;
mod on;
mod order_unit;
mod outbox;
mod parked;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
mod record;
mod requests;
mod retention;
mod schedule;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod status;
mod store;
mod tx;
mod writing;

#[doc = include_str!("../TABLES.md")]
pub mod tables {}

/// The tables as SQL, oldest step first: print it ([`Migration::with_names`](migrations::Migration::with_names) for other names), or run
/// [`Outbox::migrate`].
pub mod migrations {
    #[cfg(feature = "mysql")]
    pub use crate::migration::MYSQL;
    #[cfg(feature = "postgres")]
    pub use crate::migration::POSTGRES;
    #[cfg(feature = "sqlite")]
    pub use crate::migration::SQLITE;
    pub use crate::migration::{Migrated, Migration};
}

pub use backend::Backend;
pub use changes::{EditChanges, HeaderChange, ValueChange, ValueSummary};
pub use cqrs_outbox::OrderUnit;
pub use cqrs_outbox::table::TableNames;
pub use dead_letters::{DeadLetter, DeadLetterDetails, DeadLetterFilter, Page, Refusal};
pub use drift::{Drift, DriftKind};
pub use edit::{Edit, Edited};
#[cfg(feature = "mysql")]
pub use mysql::{MySql, MySqlBuilder};
pub use outbox::{Outbox, TransactionFn};
pub use parked::{ParkedEvent, ParkedFilter};
#[cfg(feature = "postgres")]
pub use postgres::{Pg, PgBuilder};
pub use requests::{Asked, Asking, DeadLetterRequest, RequestFilter, RequestKind, RequestOutcome};
pub use schedule::{ScheduleFilter, ScheduledEvent};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteBuilder};
pub use status::{GateStatus, OutboxStatus, RelayStatus, SnapshotStatus};
pub use tx::Tx;
