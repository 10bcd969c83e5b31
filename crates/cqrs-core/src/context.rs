//! What a handler has at hand.

use std::any::{Any, TypeId};
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::codec::{Correlation, IntoMessage};
use crate::error::{Error, ErrorKind};
use crate::event::{DomainEvent, Envelope, Event, IntegrationEvent, kind};
use crate::mediator::{Core, Sending};
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::request::Request;

/// What a handler has at hand: it says what happened ([`emit`](Self::emit)), sends further requests
/// ([`send`](Self::send)), and sees what led here.
///
/// What was said goes out in the order in which it was said, when the handler has succeeded; what a handler that
/// failed has said is dropped with its failure.
pub struct Context<'a> {
    core: &'a Core,
    origin: Origin<'a>,
    has_transaction: AtomicBool,
    /// Out of the way: most contexts hear nothing, and each is made, looked at and dropped.
    said: OnceLock<Box<Mutex<Vec<Said>>>>,
}

/// Where a context comes from, and so what it inherits. Two words, so that it travels in registers.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    Root,
    Correlated(&'a Correlation),
    Received(&'a Received),
    Nested(&'a Context<'a>),
}

/// A received message, with what ties to it whatever is said because of it.
pub(crate) struct Received {
    pub(crate) message: Message,
    pub(crate) correlation: Correlation,
}

/// Something that was said. An event that cannot be published is kept as the error it is, and fails the request
/// before anything goes out.
pub(crate) enum Said {
    Domain(Box<dyn AnyDomainEvent>),
    Integration(Box<Outgoing>),
    Refused(Error),
}

/// A domain event whose type is found again by its [`TypeId`].
pub(crate) trait AnyDomainEvent: Any + Send + Sync {
    fn name(&self) -> &'static str;
}

impl<E: DomainEvent> AnyDomainEvent for E {
    fn name(&self) -> &'static str {
        E::NAME
    }
}

impl dyn AnyDomainEvent {
    pub(crate) fn key(&self) -> TypeId {
        self.type_id()
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(core: &'a Core, origin: Origin<'a>) -> Self {
        Self { core, origin, has_transaction: AtomicBool::new(false), said: OnceLock::new() }
    }

    /// Says that something happened: a domain event, an integration event, or an [`Envelope`] around one.
    ///
    /// A domain event goes to the handlers that are bound to it. An integration event goes into the outbox, in the
    /// transaction of the handler, where a [`TransactionalHandler`](crate::TransactionalHandler) says it; elsewhere
    /// straight to the broker, at most once and after the handler, if the mediator was told so
    /// ([`EventEmitter::direct`](crate::EventEmitter::direct)).
    ///
    /// Nothing goes out before the handler has succeeded. An event that cannot be encoded, is too large, has nowhere to go,
    /// or asks for what only an outbox can do where there is none, fails the request then, as if the handler itself had failed: a transaction is rolled back and
    /// none of the request's events goes out.
    pub fn emit<E: Emit>(&self, event: E) {
        self.push(event.say(self));
    }

    /// Sends a request to its handler, from within a handler. It belongs to the same conversation.
    ///
    /// What the inner handler says goes out when it has succeeded; within a transaction, with that transaction.
    ///
    /// # Errors
    ///
    /// The handler's own; [`ErrorKind::MissingHandler`]; [`ErrorKind::Transaction`] if a transactional request is
    /// sent from within a transaction.
    pub fn send<R: Request>(&'a self, request: R) -> Sending<'a, R> {
        self.core.send(request, Origin::Nested(self))
    }

    /// The message that led here, if a consumer received one.
    pub fn message(&self) -> Option<&Message> {
        match self.origin {
            Origin::Received(received) => Some(&received.message),
            Origin::Nested(parent) => parent.message(),
            _ => None,
        }
    }

    /// What ties the messages that are said here to those before them.
    pub fn correlation(&self) -> Correlation {
        match self.origin {
            Origin::Root => Correlation::default(),
            Origin::Correlated(correlation) => correlation.clone(),
            Origin::Received(received) => received.correlation.clone(),
            Origin::Nested(parent) => parent.correlation(),
        }
    }

    /// Whether a transaction takes the integration events that are said here.
    pub fn is_in_transaction(&self) -> bool {
        self.has_transaction.load(Ordering::Relaxed)
            || matches!(self.origin, Origin::Nested(parent) if parent.is_in_transaction())
    }

    /// A context for a part of what happens here.
    pub(crate) fn nested(&self) -> Context<'_> {
        Context::new(self.core, Origin::Nested(self))
    }

    pub(crate) fn core(&self) -> &'a Core {
        self.core
    }

    pub(crate) fn origin(&self) -> Origin<'a> {
        self.origin
    }

    /// Claims the context for one transaction; `false` if it stands in one already.
    pub(crate) fn enter_transaction(&self) -> bool {
        !self.is_in_transaction() && !self.has_transaction.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn leave_transaction(&self) {
        self.has_transaction.store(false, Ordering::Relaxed);
    }

    pub(crate) fn push(&self, said: Said) {
        self.extend([said]);
    }

    pub(crate) fn extend(&self, said: impl IntoIterator<Item = Said>) {
        self.said.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner).extend(said);
    }

    pub(crate) fn take_said(&self) -> Vec<Said> {
        self.said.get().map_or_else(Vec::new, |said| {
            mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// Whether something was said, without touching the lock: nobody else has the context.
    pub(crate) fn has_said(&mut self) -> bool {
        self.said.get_mut().is_some()
    }

    /// What was said, without touching the lock: the caller owns the context.
    pub(crate) fn into_said(self) -> Vec<Said> {
        self.said
            .into_inner()
            .map_or_else(Vec::new, |said| said.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn say_integration(&self, event: impl IntoMessage, name: &'static str) -> Said {
        let emitter = self.core.emitter();
        let encoded = if self.is_in_transaction() {
            event.into_outgoing(emitter.encoder(), &self.correlation())
        } else if emitter.is_direct() {
            event.into_message(emitter.encoder(), &self.correlation()).map(Outgoing::from)
        } else {
            Err(Error::new(
                ErrorKind::NoTarget,
                format!(
                    "the integration event `{name}` was said with no transaction and no direct target: \
                     make its handler a `TransactionalHandler`, publish it with `outbox.transaction(..)`, \
                     or accept at-most-once delivery with `EventEmitter::direct(broker)`, or `.direct()` of the bootstrap"
                ),
            ))
        };
        encoded.map_or_else(Said::Refused, |outgoing| Said::Integration(Box::new(outgoing)))
    }
}

/// What can be said with [`Context::emit`]: every event, and an [`Envelope`] around an integration event.
///
/// It is implemented here only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be emitted",
    label = "not an event",
    note = "derive one of `DomainEvent`, `NotificationEvent`, `EcstEvent`; an integration event needs `serde::Serialize`, too"
)]
pub trait Emit: sealed::Emit {}

mod sealed {
    use super::{Context, Said};

    pub trait Emit {
        #[allow(private_interfaces)]
        fn say(self, cx: &Context<'_>) -> Said;
    }
}

/// How an event of this kind is said.
#[diagnostic::on_unimplemented(
    message = "`{E}` cannot be emitted as it is",
    note = "an integration event implements `IntegrationEvent` and `serde::Serialize`, a domain event `DomainEvent`"
)]
pub trait SayAs<E>: sealed_kind::SayAs<E> {}

mod sealed_kind {
    use super::{Context, Said};

    pub trait SayAs<E> {
        #[allow(private_interfaces)]
        fn say(event: E, cx: &Context<'_>) -> Said;
    }
}

impl<E: Event> Emit for E where E::Kind: SayAs<E> {}

impl<E: Event> sealed::Emit for E
where
    E::Kind: SayAs<E>,
{
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        <E::Kind as sealed_kind::SayAs<E>>::say(self, cx)
    }
}

impl<E: IntegrationEvent> Emit for Envelope<E> {}

impl<E: IntegrationEvent> sealed::Emit for Envelope<E> {
    #[allow(private_interfaces)]
    fn say(self, cx: &Context<'_>) -> Said {
        cx.say_integration(self, E::NAME)
    }
}

impl<E: DomainEvent> SayAs<E> for kind::Domain {}

impl<E: DomainEvent> sealed_kind::SayAs<E> for kind::Domain {
    #[allow(private_interfaces)]
    fn say(event: E, _cx: &Context<'_>) -> Said {
        Said::Domain(Box::new(event))
    }
}

macro_rules! said_as_integration {
    ($($kind:ident)*) => {$(
        impl<E: IntegrationEvent> SayAs<E> for kind::$kind {}

        impl<E: IntegrationEvent> sealed_kind::SayAs<E> for kind::$kind {
            #[allow(private_interfaces)]
            fn say(event: E, cx: &Context<'_>) -> Said {
                cx.say_integration(event, E::NAME)
            }
        }
    )*};
}

said_as_integration!(Notification Ecst);

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("in_transaction", &self.is_in_transaction())
            .field("correlation", &self.correlation())
            .finish_non_exhaustive()
    }
}
