//! The rules of the core, as users meet them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod codec;
mod derives;
mod direct;
mod events;
mod handlers;
mod messages;
mod middleware;
mod middlewares;
mod options;
mod outgoing;
mod policies;
mod requests;
mod static_mediator;
mod stream_middlewares;
mod streams;
mod support;
mod testing;
mod tower;
mod transactions;
mod ui;
