//! What judges the parts of the cqrs toolkit, and the parts that others make for it.
//!
//! - [`broker`]: the conformance suite for message brokers.
//! - [`history`]: the checker of what a run committed, delivered and brought about.
//! - [`proxy`]: a network that fails where a test wants it to.
//! - [`services`]: the servers that tests talk to.
//! - [`store`]: the conformance suite for outbox stores and inboxes.

pub mod broker;
pub mod history;
pub mod proxy;
mod report;
pub mod services;
pub mod store;
