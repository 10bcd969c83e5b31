//! What the builder says, and how an application runs and stops.

mod building;
mod running;
mod world;
