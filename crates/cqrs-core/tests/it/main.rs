//! The rules of the core, as users meet them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod codec;
mod derives;
mod direct;
mod events;
mod messages;
mod middleware;
mod outgoing;
mod requests;
mod support;
mod tower;
mod transactions;
mod ui;
