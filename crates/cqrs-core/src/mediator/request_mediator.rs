use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::StreamExt;

use super::emitter::EventEmitter;
use super::event_mediator::EventMediator;
use super::handlers::{Bound, Handlers};
use super::request_handle::RequestHandle;
use super::request_map::RequestMap;
use super::stream::{BoundStream, Streaming};
use crate::codec::Correlation;
use crate::context::{Narrowed, Origin};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Reply, Request, StreamRequest};
use crate::send_options::SendOptions;

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
    /// [`ErrorKind::Configuration`], naming everything that is wrong with the maps and the emitter.
    pub fn new<S, V>(requests: RequestMap<S, V>, emitter: EventEmitter) -> Result<Self> {
        let RequestMap { mut handlers, mut problems, .. } = requests;
        problems.extend(emitter.problems());
        if problems.is_empty() {
            handlers.settle();
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

    /// The same with a deadline, a token to call it off, a conversation or a scope, which go down through all requests within it.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); [`ErrorKind::Timeout`] if the deadline has passed, with the handler dropped where it stood;
    /// [`ErrorKind::CommitUnknown`] if it passed while a transaction was being committed or behind that;
    /// [`ErrorKind::Cancelled`] if the token was cancelled before.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub fn send_with<'a, R: Request>(&'a self, request: R, options: &'a SendOptions) -> Sending<'a, R> {
        self.core.send_with(request, options)
    }

    /// The results of a streaming request, one after the other, as they are asked for.
    ///
    /// # Errors
    ///
    /// Items are what the handler gives. Besides, the stream ends with an error if none is bound
    /// ([`ErrorKind::MissingHandler`]), or if an event that was said before an item could not go out; that item is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream stops the handler where it stands. What was said before the items that were given went out.
    pub fn stream<R: StreamRequest>(&self, request: R) -> Streaming<'_, R> {
        self.core.stream(request, Origin::Root)
    }

    /// The same with a deadline, a token to call it off, a conversation or a scope. A stream that is not at its end at the deadline ends
    /// with an error ([`SendOptions::with_deadline`]).
    pub fn stream_with<'a, R: StreamRequest>(
        &'a self,
        request: R,
        options: &'a SendOptions,
    ) -> Streaming<'a, R> {
        self.core.stream_with(request, options)
    }

    /// The way to the handler of one request, for those who send it often: found once, and not with each send.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MissingHandler`] if none is bound.
    pub fn handle_of<R: Request>(&self) -> Result<RequestHandle<R>> {
        let Bound(handler) =
            self.core.handlers.get::<Bound<R>>().ok_or_else(|| missing_handler(R::name()))?;
        Ok(RequestHandle { handler: Arc::clone(handler), core: Arc::clone(&self.core) })
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
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
        Sending(match self.handlers.get::<Bound<R>>() {
            Some(Bound(handler)) => State::Running(handler.call(request, self, origin)),
            None => State::Refused(Some(missing_handler(R::name()))),
        })
    }

    pub(crate) fn send_with<'a, R: Request>(
        &'a self,
        request: R,
        options: &'a SendOptions,
    ) -> Sending<'a, R> {
        Sending::running(Box::pin(async move {
            let narrowed = Narrowed::new(None, options);
            narrowed.limit(R::name(), self.send(request, Origin::Narrowed(&narrowed))).await
        }))
    }

    fn stream_with<'a, R: StreamRequest>(&'a self, request: R, options: &'a SendOptions) -> Streaming<'a, R> {
        Streaming::running(Box::pin(async_stream::stream! {
            let narrowed = Narrowed::new(None, options);
            let items = self.stream(request, Origin::Narrowed(&narrowed));
            let mut items = pin!(narrowed.limit_items(R::name(), items));
            while let Some(item) = items.next().await {
                yield item;
            }
        }))
    }

    pub(crate) fn stream<'a, R: StreamRequest>(&'a self, request: R, origin: Origin<'a>) -> Streaming<'a, R> {
        match self.handlers.get::<BoundStream<R>>() {
            Some(BoundStream(handler)) => Streaming::running(handler.call(request, self, origin)),
            None => Streaming::refused(missing(
                R::name(),
                "bind one with `RequestMap::bind_stream`, or `.stream(..)` of the bootstrap",
            )),
        }
    }
}

/// The reply to a request, to be awaited.
#[must_use = "a request is not handled until its future is awaited"]
pub struct Sending<'a, R: Request>(State<'a, R>);

enum State<'a, R: Request> {
    Running(Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>),
    Refused(Option<Error>),
}

impl<'a, R: Request> Sending<'a, R> {
    pub(crate) fn running(call: Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>) -> Self {
        Self(State::Running(call))
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self(State::Refused(Some(error)))
    }
}

impl<R: Request> Future for Sending<'_, R> {
    type Output = Reply<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Running(call) => call.as_mut().poll(cx),
            State::Refused(error) => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error.into())))
            }
        }
    }
}

#[cold]
#[inline(never)]
fn missing_handler(request: &str) -> Error {
    missing(
        request,
        "bind one with `RequestMap::bind`, or `.request(..)` or `.transactional(..)` of the bootstrap",
    )
}

fn missing(request: &str, remedy: &str) -> Error {
    Error::new(ErrorKind::MissingHandler, format!("no handler is bound to the request `{request}`: {remedy}"))
}

impl<R: Request> fmt::Debug for Sending<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sending<{}>", R::name())
    }
}
