//! Maps say what is bound to what; mediators dispatch by them; the emitter takes what was said to the right place.

mod emitter;
mod event_map;
mod event_mediator;
mod handlers;
mod request_handle;
mod request_map;
mod request_mediator;
mod type_hash;

pub use emitter::EventEmitter;
pub use event_map::{EventMap, Handled, MessageHandler};
pub use event_mediator::{Dispatched, EventMediator};
pub use request_handle::RequestHandle;
pub use request_map::RequestMap;
pub use request_mediator::{RequestMediator, Sending};

pub(crate) use emitter::flood as emitter_flood;
pub(crate) use request_mediator::Core;
