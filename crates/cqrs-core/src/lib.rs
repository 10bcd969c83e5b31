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
mod mediator;
mod message;
mod middleware;
mod outgoing;
mod request;
mod transaction;
mod url;

pub use bytes::Bytes;

pub use broker::{BrokerError, ErrorClass, MessageBroker};
pub use codec::{Codec, Correlation, Encoder, IntoMessage};
pub use context::{Context, Emit, SayAs};
#[cfg(feature = "macros")]
pub use cqrs_macros::{DomainEvent, EcstEvent, NotificationEvent, Request};
pub use error::{Error, ErrorKind, Result, WithCauses};
pub use event::{
    DomainEvent, EcstEvent, Envelope, Event, EventHandler, EventKind, IntegrationEvent, NotificationEvent,
    kind,
};
pub use mediator::{
    Dispatched, EventEmitter, EventMap, EventMediator, Handled, MessageHandler, RequestHandle, RequestMap,
    RequestMediator, Sending,
};
pub use message::{Headers, Message, MessageId};
pub use middleware::{
    Endpoint, Layered, Middleware, MiddlewareStack, Next, NoMiddleware, Stacked, Tracing, Tried,
};
pub use outgoing::{Dedup, Deliver, Outgoing, VersionConflict, WriteOptions};
pub use request::{Reply, Request, RequestHandler};
pub use transaction::{
    AddOutcome, Added, AddedEvent, BeforeCommit, BeginTransaction, Database, ScheduleChange, Transaction,
    Transactional, TransactionalEventHandler, TransactionalHandler, UnitOfWork,
};
pub use url::without_password;
