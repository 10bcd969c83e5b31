use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use super::emitter::EventEmitter;
use super::event_mediator::EventMediator;
use super::handlers::Handlers;
use super::request_handle::RequestHandle;
use super::request_map::RequestMap;
use crate::codec::Correlation;
use crate::context::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Reply, Request};

/// Sends commands and queries to their handlers. Cheap to clone; all clones are one mediator.
///
/// See [`RequestMap`] for an example.
#[derive(Clone)]
pub struct RequestMediator {
    core: Arc<Core>,
}

impl RequestMediator {
    /// A mediator for these requests, whose handlers' events go where the emitter says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that is wrong with the maps.
    pub fn new<S>(requests: RequestMap<S>, emitter: EventEmitter) -> Result<Self> {
        let RequestMap { handlers, mut problems, .. } = requests;
        problems.extend_from_slice(emitter.problems());
        if problems.is_empty() {
            Ok(Self { core: Arc::new(Core { handlers, emitter }) })
        } else {
            Err(Error::new(ErrorKind::Configuration, problems.join("\n")))
        }
    }

    /// Sends a request to its handler and returns what it answers, after the events that it said went out.
    ///
    /// # Errors
    ///
    /// What the handler returns; [`ErrorKind::MissingHandler`] if none is bound; the error of the first handler of a
    /// domain event that failed, in which case the request itself *has* been carried out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the handler where it stands. A transaction of its own is rolled back unless its
    /// commit had begun; what was said and had not gone out is dropped.
    pub fn send<R: Request>(&self, request: R) -> Sending<'_, R> {
        self.core.send(request, Origin::Root)
    }

    /// The same as part of a conversation: what is said carries its ids.
    pub fn send_correlated<'a, R: Request>(
        &'a self,
        request: R,
        correlation: &'a Correlation,
    ) -> Sending<'a, R> {
        self.core.send(request, Origin::Correlated(correlation))
    }

    /// The way to the handler of one request, for those who send it often: found once, and not with each send.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MissingHandler`] if none is bound.
    pub fn handle_of<R: Request>(&self) -> Result<RequestHandle<R>> {
        let handler = self.core.handlers.get::<R>().ok_or_else(|| missing_handler(R::name()))?;
        Ok(RequestHandle { handler: Arc::clone(handler), core: Arc::clone(&self.core) })
    }

    /// The mediator of events that shares the maps with this one.
    pub fn events(&self) -> EventMediator {
        EventMediator::from_core(Arc::clone(&self.core))
    }
}

impl fmt::Debug for RequestMediator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMediator").field("emitter", &self.core.emitter).finish_non_exhaustive()
    }
}

/// What the mediators share.
pub(crate) struct Core {
    handlers: Handlers,
    emitter: EventEmitter,
}

impl Core {
    pub(crate) fn of_events(emitter: EventEmitter) -> Self {
        Self { handlers: Handlers::default(), emitter }
    }

    pub(crate) fn emitter(&self) -> &EventEmitter {
        &self.emitter
    }

    pub(crate) fn send<'a, R: Request>(&'a self, request: R, origin: Origin<'a>) -> Sending<'a, R> {
        Sending(match self.handlers.get::<R>() {
            Some(handler) => State::Running(handler.call(request, self, origin)),
            None => State::Missing,
        })
    }
}

/// The reply to a request, to be awaited.
#[must_use = "a request is not handled until its future is awaited"]
pub struct Sending<'a, R: Request>(State<'a, R>);

enum State<'a, R: Request> {
    Running(Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>),
    Missing,
}

impl<'a, R: Request> Sending<'a, R> {
    pub(super) fn running(call: Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>) -> Self {
        Self(State::Running(call))
    }
}

impl<R: Request> Future for Sending<'_, R> {
    type Output = Reply<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Running(call) => call.as_mut().poll(cx),
            State::Missing => Poll::Ready(Err(missing_handler(R::name()).into())),
        }
    }
}

#[cold]
#[inline(never)]
fn missing_handler(request: &str) -> Error {
    Error::new(
        ErrorKind::MissingHandler,
        format!(
            "no handler is bound to the request `{request}`: bind one with `RequestMap::bind`, or `.request(..)` or `.transactional(..)` of the bootstrap"
        ),
    )
}

impl<R: Request> fmt::Debug for Sending<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sending<{}>", R::name())
    }
}
