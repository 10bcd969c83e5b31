//! The way to `tower` and back: a mediator as a service, within any layers; and layers as a middleware. Readiness
//! stays in here: the core knows nothing of it.

mod error;
mod in_turn;
mod layer;
mod passing;
mod service;
mod tries;

pub use error::TowerError;
pub use in_turn::TowerInTurn;
pub use layer::TowerLayer;
pub use passing::{TowerEvent, TowerHandler, TowerHandling, TowerRequest};
pub use service::{MediatorFuture, MediatorService};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
