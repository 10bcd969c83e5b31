use std::fmt;
use std::future::poll_fn;

use tower_layer::Layer;
use tower_service::Service;

use super::BoxError;
use super::TowerInTurn;
use super::error::{Kinds, TowerError};
use super::passing::{TowerEvent, TowerHandler, TowerRequest};
use super::tries::{Left, OfEvent, OfRequest, Tryable, run_within};
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::event::{Event, EventHandler};
use crate::middleware::{EventMiddleware, Middleware, Next};
use crate::request::{Reply, Request};
use crate::send_options::commit_cut_off;

/// Layers of `tower` as a middleware of requests or events: its limits, load shedding, timeouts, filters and retries, and those of
/// others, as breakers.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{ErrorKind, RequestMap, TowerLayer};
/// use tower::ServiceBuilder;
/// use tower::load_shed::error::Overloaded;
/// use tower::timeout::error::Elapsed;
///
/// let layers = ServiceBuilder::new().load_shed().concurrency_limit(100).timeout(Duration::from_secs(5));
/// let requests = RequestMap::new().middleware(
///     TowerLayer::new(layers)
///         .error_kind::<Overloaded>(ErrorKind::Overloaded)
///         .error_kind::<Elapsed>(ErrorKind::Timeout),
/// );
/// ```
///
/// The layers are put around a [`TowerHandler`] once, when the middleware is made. Each call clones their service, waits until it is
/// ready, and calls it with a [`TowerRequest`]. So a limit counts all requests, of whatever type, that stand behind the one
/// `TowerLayer`; give each its own where they are to be counted apart. The handler runs where the call is, also if a layer takes the
/// request to a task of its own.
///
/// # Which layers can
///
/// Those whose service takes requests of any type and answers with the response that it gets. For a single request
/// ([`bind_with`](crate::RequestMap::bind_with)) it is enough that it takes `TowerRequest<R>`.
///
/// | layer | |
/// |---|---|
/// | `ConcurrencyLimitLayer`, `GlobalConcurrencyLimitLayer` | yes |
/// | `LoadShedLayer` | yes, around a limit |
/// | `TimeoutLayer` | yes |
/// | `RetryLayer` | yes; the request has to be `Clone`, an event always can be sent again |
/// | `MapErrLayer`, `MapResultLayer` | yes |
/// | `RateLimitLayer` | yes, with [`in_turn`](Self::in_turn), for its service cannot be cloned; or within a `BufferLayer` |
/// | `FilterLayer`, `BufferLayer` | for a single request: `filter(\|act: TowerRequest<Act>\| ..)`, `BufferLayer::<TowerRequest<Act>>` |
/// | a breaker, or another with a `BoxFuture<'static, _>` | yes, if it is generic over the request |
/// | what is written for one type of request, as those of HTTP | no |
///
/// Those can stand around a whole mediator, if it is of that type ([`MediatorService`](crate::MediatorService)).
///
/// # Around handlers of events
///
/// With [`EventMap::middleware`](crate::EventMap::middleware) the layers stand around each handler of an event, and are called once for each. What
/// is said here of requests holds for these calls, too. Layers see a `TowerRequest` of a [`TowerEvent`], which has the name of the event and not what it
/// carries: the event is borrowed from where it was said. A retry calls the handler again with the same event. Layers that are clones of
/// one `TowerLayer` count requests and events together.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Context, DomainEvent, ErrorKind, EventEmitter, EventHandler, EventMap, RequestMap, RequestMediator, Result, TowerLayer};
/// use tower::ServiceBuilder;
/// use tower::timeout::error::Elapsed;
///
/// #[derive(DomainEvent)]
/// struct RoomClosed { room: u32 }
///
/// struct TellGuests;
///
/// impl EventHandler<RoomClosed> for TellGuests {
///     async fn handle(&self, _: &RoomClosed, _: &Context<'_>) -> Result<()> {
///         std::future::pending().await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let layers = ServiceBuilder::new().concurrency_limit(10).timeout(Duration::from_millis(5));
/// let events = EventMap::new()
///     .middleware(TowerLayer::new(layers).error_kind::<Elapsed>(ErrorKind::Timeout))
///     .bind::<RoomClosed>(TellGuests);
/// let mediator = RequestMediator::new(RequestMap::new(), EventEmitter::new(events))?;
/// let error = mediator.events().emit(RoomClosed { room: 7 }).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Timeout);
/// # Ok(()) }
/// ```
///
/// # Not around streaming requests
///
/// A service of `tower` answers once. With the first item of a stream, or the stream itself, as that answer, layers would take it for
/// done while it goes on: a limit would let in the next one, and a timeout would not see it hang. [`Timeout`](crate::Timeout),
/// [`Retry`](crate::Retry) and [`ConcurrencyLimit`](crate::ConcurrencyLimit) know streams, and so does a
/// [`StreamMiddleware`](crate::StreamMiddleware) of yours.
///
/// # What they do not know
///
/// Middlewares of this crate know more of what they stand around, and do without the few allocations of a call through these.
/// Prefer them where it matters:
///
/// - A limit of `tower` counts a request that is sent from within another one, too. **A handler that sends a request through the limit
///   that it has a place of may wait for itself.** Place one around requests that are not sent by others behind it, or a
///   [`Timeout`](crate::Timeout) around it. [`ConcurrencyLimit`](crate::ConcurrencyLimit) lets the inner request in.
/// - A timeout of `tower` begins when its service is ready: it does not count how long a limit within it lets the request wait. A
///   [`Timeout`](crate::Timeout) around the `TowerLayer` does, and tells handlers the deadline.
/// - A retry of `tower` does as its policy says: within a transaction ([`TowerRequest::is_in_transaction`]), and with errors that are not
///   retryable. [`Retry`](crate::Retry) tries nothing again there.
/// - A panic goes past all layers; a breaker hears of it with a [`CatchPanic`](crate::CatchPanic) within the `TowerLayer`.
///
/// # What handlers say
///
/// Each try has a context of its own. What a try said that failed or was dropped is forgotten. If a layer tries again after a
/// success, what the last one said counts; if it fails, nothing does.
///
/// # Errors
///
/// An error of the handler is that of the request again, also where layers box it; they see it as a [`TowerError`]. An
/// [`Error`](crate::Error) that a layer has failed with (a filter, a `map_err`) is kept, too. What else a layer fails with becomes an
/// error of the kind that was [told](Self::error_kind), with it as its source. For this the error of the request is `Display`, `Debug`
/// and `Sync`, as [`Error`](crate::Error) is.
///
/// If a layer gives up on a try while that commits a transaction, or behind that, and the request fails, it fails with
/// [`ErrorKind::CommitUnknown`], whatever the layers have said. A further try fails with it before it begins.
///
/// # Cancel safety
///
/// Dropping the future of the send drops those of the layers, with the places that they hold, and that of the handler. A layer that
/// drops the future of its inner service stops the handler, before another try begins.
#[derive(Clone, Debug)]
pub struct TowerLayer<S> {
    service: S,
    kinds: Kinds,
}

impl<S> TowerLayer<S> {
    /// The middleware that these layers are: one layer, or a `ServiceBuilder` with many. If their service cannot be cloned, that is
    /// [`in_turn`](Self::in_turn).
    pub fn new<L: Layer<TowerHandler, Service = S>>(layer: L) -> Self
    where
        S: Clone,
    {
        Self { service: layer.layer(TowerHandler), kinds: Kinds::default() }
    }

    /// When a layer fails with a `T`, the request fails with this kind; without, it does with [`ErrorKind::Handler`]. The error is
    /// the source, and [`Timeout`](ErrorKind::Timeout) and [`Overloaded`](ErrorKind::Overloaded) are retryable.
    #[must_use]
    pub fn error_kind<T: std::error::Error + 'static>(mut self, kind: ErrorKind) -> Self {
        self.kinds.add::<T>(kind);
        self
    }
}

impl<S> TowerLayer<TowerInTurn<S>> {
    /// The same for layers whose service cannot be cloned, as `RateLimit`: there is one, and requests wait for their turn to be
    /// let in. The wait is part of the call, so a layer that sheds load has to be among these, and whoever waits has to be polled:
    /// those behind it wait for it.
    pub fn in_turn<L: Layer<TowerHandler, Service = S>>(layer: L) -> Self {
        Self { service: TowerInTurn::new(layer.layer(TowerHandler)), kinds: Kinds::default() }
    }
}

impl<S> TowerLayer<S> {
    async fn around<R, T>(&self, request: R, cx: &Context<'_>, next: T) -> Reply<R>
    where
        R: Request<Error: fmt::Debug + fmt::Display + Sync>,
        T: Tryable<R>,
        S: Service<TowerRequest<R>, Response = R::Response, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync,
    {
        let (request, inside) = TowerRequest::new(request, cx);
        let left = Left::by(cx);
        let mut service = self.service.clone();
        let layers = async move {
            poll_fn(|task| service.poll_ready(task)).await?;
            service.call(request).await
        };
        let error: BoxError = match run_within(layers, inside, &left, &next).await {
            Ok(response) => {
                left.succeed();
                return Ok(response);
            }
            Err(error) => error.into(),
        };
        if left.is_commit_cut_off() {
            return Err(commit_cut_off(R::name()).with_source(error).into());
        }
        Err(match error.downcast::<TowerError<R::Error>>() {
            Ok(of_handler) => of_handler.0,
            Err(error) => self.kinds.error(T::WHAT, R::name(), error).into(),
        })
    }
}

impl<R, S> Middleware<R> for TowerLayer<S>
where
    R: Request<Error: fmt::Debug + fmt::Display + Sync>,
    S: Service<TowerRequest<R>, Response = R::Response, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        self.around(request, cx, OfRequest(next)).await
    }
}

impl<E, S> EventMiddleware<E> for TowerLayer<S>
where
    E: Event,
    S: Service<TowerRequest<TowerEvent<E>>, Response = (), Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        self.around(TowerEvent::new(), cx, OfEvent { event, next }).await
    }
}
