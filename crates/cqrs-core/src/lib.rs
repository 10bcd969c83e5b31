//! Mediators, events, messages and the broker port of the `cqrs` toolkit.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod broker;
pub mod codec;
mod context;
mod error;
mod event;
mod mediator;
mod message;
mod middleware;
mod request;
mod transaction;

pub use broker::{BrokerError, ErrorClass, MessageBroker};
pub use codec::{Codec, Correlation, Encoder, IntoMessage};
pub use context::{Context, Emit, SayAs};
#[cfg(feature = "macros")]
pub use cqrs_macros::{DomainEvent, EcstEvent, NotificationEvent, Request};
pub use error::{Error, ErrorKind, Result};
pub use event::{
    DomainEvent, EcstEvent, Envelope, Event, EventHandler, EventKind, IntegrationEvent, NotificationEvent,
    kind,
};
pub use mediator::{
    Dispatched, EventEmitter, EventMap, EventMediator, Handled, MessageHandler, RequestMap, RequestMediator,
    Sending,
};
pub use message::{Headers, Message, MessageId};
pub use middleware::{
    Endpoint, Layered, Middleware, MiddlewareStack, Next, NoMiddleware, Stacked, TraceableError, Tracing,
};
pub use request::{Reply, Request, RequestHandler};
pub use transaction::{
    BeforeCommit, BeginTransaction, Database, Transaction, Transactional, TransactionalEventHandler,
    TransactionalHandler, UnitOfWork,
};
