//! What judges the parts of the cqrs toolkit, and the parts that others make for it.
//!
//! - [`broker`]: the conformance suite for message brokers.
//! - [`history`]: the checker of what a run committed, delivered and brought about.

pub mod broker;
pub mod history;
