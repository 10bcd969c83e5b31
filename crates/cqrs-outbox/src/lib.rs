//! The transactional outbox: the port to the database that holds it, and the relay that takes its events to a broker,
//! at least once and in order per key.
//!
//! - [`OutboxStore`] is the port; `cqrs-outbox-diesel` implements it for PostgreSQL, MariaDB or MySQL and SQLite, [`MemoryOutbox`] in memory.
//! - [`OutboxRelay`] is the loop that does the I/O: it owns no state worth the name.
//! - [`engine`] decides everything, without I/O and without a clock, and explains why the order holds.
//!
//! # What is promised, and what is not
//!
//! Every committed event is confirmed by the broker at least once, or stands in the dead letters with its error. The
//! *first* deliveries of a key's events are in the order in which they were written, where one was committed before the
//! other was begun; concurrent writers of one key have no order, unless they lock something: the aggregate's row, or the
//! key ([`Transaction::lock_key`](cqrs_core::Transaction::lock_key)). A late *duplicate* may follow a newer event: the inbox
//! drops it. The place of a [scheduled](cqrs_core::Envelope::deliver_at) event is the moment at which its time has come.

pub mod engine;
pub mod memory;
mod relay;
mod row;
mod settings;
mod stats;
mod store;

pub use memory::MemoryOutbox;
pub use relay::{OutboxRelay, OutboxRelayBuilder};
pub use row::{Confirmed, GroupNo, Lane, OutboxRow, Place};
pub use settings::RelaySettings;
pub use stats::RelayStats;
pub use store::{
    Fenced, Heartbeat, Lease, OutboxStore, Ownership, Promoted, ReadRequest, Rejection, RelayId, StoreError,
    StoreErrorKind, Verdict,
};
