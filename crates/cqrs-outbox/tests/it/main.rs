//! The relay and its engine: by hand, simulated, and on a paused clock.

mod engine;
mod relay;
mod simulation;
mod world;
