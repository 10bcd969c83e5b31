//! The relay and its engine: by hand, simulated, under a model checker, and on a paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod calls;
mod engine;
mod model;
mod model_checking;
mod panics;
mod relay;
mod simulation;
mod together;
mod world;
