#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// What the derives write says `::cqrs_core`, in this crate's own unit tests, too.
#[cfg(test)]
#[allow(unused_extern_crates)]
extern crate self as cqrs_core;

pub mod broker;
pub mod codec;
mod context;
mod error;
mod event;
mod handlers;
mod mediator;
mod message;
mod middleware;
mod outgoing;
mod recording;
mod request;
mod retry_policy;
mod scope;
mod send_options;
mod stamps;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tower")]
mod tower;
mod transaction;
mod url;
mod validate;

pub use bytes::Bytes;
pub use tokio_util::sync::CancellationToken;

pub use broker::{BrokerError, ErrorClass, MessageBroker};
pub use codec::{Codec, Correlation, Encoder, IntoMessage};
pub use context::{Context, Emit, SayAs};
#[cfg(feature = "macros")]
pub use cqrs_macros::{DomainEvent, EcstEvent, NotificationEvent, Request, StreamRequest, mediator};
pub use error::{Error, ErrorKind, Result, WithCauses};
pub use event::{
    DomainEvent, EcstEvent, Envelope, Event, EventHandler, EventKind, IntegrationEvent, NotificationEvent,
    kind,
};
pub use handlers::{
    Always, Chain, EventFamily, Factory, Fallback, FamilyHandler, Link, Links, Nobody, OfFamily, When,
};
pub use mediator::{
    DirectEvent, DirectPublishError, Dispatch, Dispatched, EventEmitter, EventErrors, EventMap,
    EventMediator, Handled, HandlerFor, MessageHandler, OnEventFailure, RequestHandle, RequestMap,
    RequestMediator, Sending, StaticHandlers, StaticMediator, Streaming,
};
pub use message::{Headers, Message, MessageId};
#[cfg(feature = "metrics")]
pub use middleware::Metrics;
pub use middleware::{
    CatchPanic, ConcurrencyLimit, Endpoint, EventMiddleware, EventMiddlewareStack, Except, Layered,
    Middleware, MiddlewareStack, Next, NoMiddleware, Placement, Retry, Retryable, Stacked, StreamMiddleware,
    StreamMiddlewareStack, Timeout, Tracing, TracingPayload, Tried, Validation,
};
pub use outgoing::{Dedup, Deliver, Outgoing, VersionConflict, WriteOptions};
pub use request::{Reply, Request, RequestHandler, StreamHandler, StreamRequest};
pub use retry_policy::RetryPolicy;
pub use scope::Scope;
pub use send_options::SendOptions;
#[cfg(feature = "tower")]
pub use tower::{
    MediatorFuture, MediatorService, TowerError, TowerEvent, TowerHandler, TowerHandling, TowerInTurn,
    TowerLayer, TowerRequest,
};
pub use transaction::{
    AddOutcome, Added, AddedEvent, BeforeCommit, BeginTransaction, Database, ScheduleChange, Transaction,
    Transactional, TransactionalEventHandler, TransactionalHandler, UnitOfWork,
};
pub use url::without_password;
#[cfg(feature = "garde")]
pub use validate::validated_by_garde;
pub use validate::{Validate, ValidationError, ValidationErrors};

/// What the macros write, and what the benchmarks compare with: not for others.
#[doc(hidden)]
pub mod __private {
    pub use crate::context::nested;

    /// Whether what happens is kept for the recorder of a test, which costs allocations.
    pub const RECORDS: bool = cfg!(feature = "testing");

    pub use crate::mediator::declared;
    pub use crate::validate::refusal;
    #[cfg(feature = "macros")]
    pub use cqrs_macros::Handlers;
}
