//! What the builder says, and how an application runs and stops.

#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

mod building;
mod handlers;
mod retention;
mod running;
mod world;
