#![doc = include_str!("README.md")]

mod assertions;
mod clock;
mod database;
mod mediator;
mod record;
mod scripted;

pub use assertions::{Content, Counted, Emitted, Found, Kind, Published, Sent};
pub use clock::{FixedClock, FixedIds};
pub use database::{TestDatabase, TestTransaction};
pub use mediator::{TestMediator, TestMediatorBuilder};

pub(crate) use record::Recorder;
