//! Maps say what is bound to what; mediators dispatch by them; the emitter takes what was said to the right place.

mod direct;
mod dispatch;
mod emission;
mod emitter;
mod event_map;
mod event_mediator;
mod flood;
mod handlers;
#[cfg(feature = "testing")]
mod recorded;
mod request_handle;
mod request_map;
mod request_mediator;
mod static_mediator;
mod stream;
mod type_hash;

pub use direct::{DirectEvent, DirectPublishError, EventErrors};
pub use dispatch::Dispatch;
pub use emitter::{EventEmitter, OnEventFailure};
pub use event_map::{EventMap, Handled, MessageHandler};
pub use event_mediator::{Dispatched, EventMediator};
pub use request_handle::RequestHandle;
pub use request_map::RequestMap;
pub use request_mediator::{RequestMediator, Sending};
pub use static_mediator::{HandlerFor, StaticHandlers, StaticMediator, declared};
pub use stream::Streaming;

pub(crate) use emission::go_out_alone;
pub(crate) use flood::Path;
pub(crate) use request_mediator::Core;
