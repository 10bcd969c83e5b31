//! What judges the parts of the cqrs toolkit, and the parts that others make for it.
//!
//! - [`broker`]: the conformance suite for message brokers.
//! - [`history`]: the checker of what a run committed, delivered and brought about.
//! - [`services`]: the servers that tests talk to.
//! - [`store`]: the conformance suite for outbox stores and inboxes.

pub mod broker;
pub mod history;
mod report;
pub mod services;
pub mod store;
