//! Handlers that are made of others.

mod chain;
mod factory;
mod fallback;
mod family;

pub use chain::{Chain, Link, Links, Nobody};
pub use factory::Factory;
pub use fallback::{Always, Fallback, When};
pub use family::{EventFamily, FamilyHandler, OfFamily};
