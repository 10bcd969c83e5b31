//! The suite on the in-memory broker, and on brokers that are broken on purpose.
#![allow(clippy::unwrap_used)]

mod broken;
mod conformance;
mod faulty;
mod store;
mod store_broken;
mod store_model;
