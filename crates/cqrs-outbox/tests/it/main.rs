//! The relay and its engine: by hand, simulated, and on a paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod engine;
mod relay;
mod simulation;
mod world;
