//! The transactional outbox: the port to the database that holds it, and the relay that takes its events to a broker,
//! at least once and in order per key.
//!
//! - [`OutboxStore`] is the port; `cqrs-outbox-diesel` implements it for PostgreSQL, MariaDB or MySQL and SQLite, [`MemoryOutbox`] in memory.
//! - [`OutboxRelay`] is the loop that does the I/O: it owns no state worth the name. [`Relays`] are several in one process, one for
//!   each database.
//! - [`table`] has the row and the SQL, for writers that use another database driver.
//! - [`engine`] decides everything, without I/O and without a clock, and explains why the order holds.
//!
//! # What is promised, and what is not
//!
//! Every committed event is confirmed by the broker at least once, or stands in the dead letters with its error. The
//! *first* deliveries of a key's events are in the order in which they were written, where one was committed before the
//! other was begun; concurrent writers of one key have no order, unless they lock something: the aggregate's row, or the
//! key ([`Transaction::lock_key`](cqrs_core::Transaction::lock_key)). A late *duplicate* may follow a newer event: the inbox
//! drops it. Where an outbox says so, the unit of order is not the key but the [topic and the key](OrderUnit). The place of a [scheduled](cqrs_core::Envelope::deliver_at) event is the moment at which its time has come.
//!
//! # Insight
//!
//! [`OutboxRelay::stats`] says what a relay has done and has in memory. With the feature `metrics` it also tells the
//! recorder of the [`metrics`](https://docs.rs/metrics) crate that is there when the relay is built, with the labels
//! `relay`, its name, and `database`, that of its [database](OutboxRelayBuilder::database):
//!
//! | name | kind | |
//! |---|---|---|
//! | `cqrs_relay_running` | gauge | 1 while it runs, 0 while it does not: stopped, or unable to go on |
//! | `cqrs_relay_owned_groups` | gauge | groups that it owns |
//! | `cqrs_relay_rows_in_memory`, `cqrs_relay_rows_in_flight` | gauge | rows that it has read, and of them those with the broker |
//! | `cqrs_relay_closed_gates` | gauge | lanes that it knows to wait behind a closed gate |
//! | `cqrs_relay_suspended_destinations` | gauge | topics that are suspended |
//! | `cqrs_relay_hold` | gauge | 1 while the outbox is on hold |
//! | `cqrs_relay_reads_total` | counter | reads of the outbox |
//! | `cqrs_relay_published_total`, `cqrs_relay_confirmed_total`, `cqrs_relay_settled_total` | counter | publishes begun, receipts, rows removed |
//! | `cqrs_relay_promoted_total` | counter | scheduled events whose time had come |
//! | `cqrs_relay_parked_total`, `cqrs_relay_dead_lettered_total` | counter | events put aside, and given up |
//! | `cqrs_relay_failures_total` | counter | publishes that failed, with the label `class`: `event`, `destination`, `outage`, `unknown` |
//! | `cqrs_relay_publish_seconds` | histogram | from a publish to its receipt |
//! | `cqrs_relay_delivery_seconds` | histogram | from when the event occurred, by its writer's clock, to its receipt, by the relay's |
//!
//! Each publish is a span of `tracing`, `publish`, at the level of debug, with the row, the event's id, its topic and its
//! `traceparent`: by that one a collector puts it into the trace of whoever wrote the event.

pub mod engine;
pub mod memory;
mod meters;
mod names;
mod relay;
mod relays;
mod retention;
mod row;
mod session;
mod settings;
mod stats;
mod store;
mod suspended;
pub mod table;

pub use memory::MemoryOutbox;
pub use relay::{OutboxRelay, OutboxRelayBuilder};
pub use relays::{DatabaseStats, Relays, RelaysFailed};
pub use retention::{Kept, Retention};
pub use row::{Confirmed, GroupNo, Lane, OrderUnit, OutboxRow, Place};
pub use settings::{RelaySettings, Unordered};
pub use stats::RelayStats;
pub use store::{
    Fenced, Heartbeat, LaterEvents, Lease, OutboxStore, Ownership, Promoted, ReadRequest, Rejection, RelayId,
    StoreError, StoreErrorKind, SuspendedTopic, Verdict,
};
