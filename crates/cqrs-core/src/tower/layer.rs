use std::fmt;
use std::future::poll_fn;

use futures_util::TryFutureExt;
use tower_layer::Layer;
use tower_service::Service;

use super::BoxError;
use super::TowerInTurn;
use super::error::{Kinds, TowerError};
use super::passing::{TowerHandler, TowerRequest, Way};
use crate::context::Context;
use crate::error::ErrorKind;
use crate::middleware::{Middleware, Next};
use crate::request::{Reply, Request};
use crate::send_options::commit_cut_off;

/// Layers of `tower` as a middleware: its limits, load shedding, timeouts, filters and retries, and those of others.
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
/// The layers are put around a [`TowerHandler`] once, when the middleware is made. Each call clones that service, waits until it is
/// ready, and calls it: so a limit counts all requests, of whatever type, that stand behind the one `TowerLayer`. Give each its own
/// where they are to be counted apart.
///
/// # Which layers can
///
/// Those whose service serves requests of any type. What it serves is a [`TowerRequest`], which borrows the way to its handler: it
/// lives as long as the call.
///
/// | layer | |
/// |---|---|
/// | `ConcurrencyLimitLayer`, `GlobalConcurrencyLimitLayer` | yes |
/// | `LoadShedLayer` | yes, around a limit |
/// | `TimeoutLayer` | yes; to wait for a limit further in is not counted, see below |
/// | `RetryLayer` | yes, with a `Policy` for any request, or for `TowerRequest<'_, R>`; the request has to be `Clone` |
/// | `FilterLayer` | yes, with a function: `fn check(r: TowerRequest<'_, R>) -> Result<TowerRequest<'_, R>, BoxError>` |
/// | `MapErrLayer`, `MapResultLayer` | yes; the response stays that of the request |
/// | `RateLimitLayer` | with [`in_turn`](Self::in_turn): its service cannot be cloned |
/// | `BufferLayer`, `SpawnReadyLayer` | no: they want requests that are `'static` |
/// | what is written for one type of request | no |
///
/// Whatever cannot stand here can stand around a whole mediator ([`MediatorService`](crate::MediatorService)).
///
/// Many layers are there without `tower`, and know more of what they stand around: [`Timeout`](crate::Timeout) tells handlers the
/// deadline, [`ConcurrencyLimit`](crate::ConcurrencyLimit) lets a request in that is sent by one within it, and
/// [`Retry`](crate::Retry) tries nothing again within a transaction. **A `concurrency_limit` of `tower` does not know of that: a handler
/// that sends a request through the limit that it has a place of may wait for itself.** Place it around requests that are not
/// sent by others behind it, and a [`Timeout`](crate::Timeout) around it.
///
/// A timeout of `tower` begins when the service is ready. For one that counts the wait for a limit, too, place a
/// [`Timeout`](crate::Timeout) around the `TowerLayer`, or the limit in a second one, within.
///
/// # What handlers say
///
/// Each try has a context of its own. What a try said that failed or was dropped is forgotten, and if a layer tries again after a
/// success, what the last one said counts. If the layers fail, nothing does.
///
/// # Errors
///
/// An error of the handler is that of the request again, also where layers box it; they see it as a [`TowerError`]. An
/// [`Error`](crate::Error) that a layer has put into a box (a filter, a `map_err`) is kept, too. What else a layer fails with becomes
/// an error of the kind that was [told](Self::error_kind), with it as its source. Handlers' errors have to be `Display`, `Debug` and `Sync`
/// for this, as [`Error`](crate::Error) is.
///
/// If a layer gives up on a try while that commits a transaction, or behind that, and fails, the request fails with
/// [`ErrorKind::CommitUnknown`], whatever the layer has said; a further try fails with it before it begins.
///
/// # Cancel safety
///
/// Dropping the future of the send drops those of the layers, with the places that they hold, and that of the handler.
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

impl<R, S> Middleware<R> for TowerLayer<S>
where
    R: Request<Error: fmt::Debug + fmt::Display + Sync>,
    S: for<'a> TowerStack<'a, R> + Clone + Send + Sync + 'static,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let way = Way::new(cx, next);
        let error = match self.service.clone().pass(TowerRequest::new(request, &way)).await {
            Ok(response) => {
                way.succeed();
                return Ok(response);
            }
            Err(error) => error,
        };
        match error.downcast::<TowerError<R::Error>>() {
            Ok(of_handler) => Err(of_handler.0),
            Err(error) if way.is_commit_cut_off() => Err(commit_cut_off(R::name()).with_source(error).into()),
            Err(error) => Err(self.kinds.error(R::name(), error).into()),
        }
    }
}

/// Layers around a handler, as a service. It is implemented here, for every service of [`TowerRequest`]s whose response is that of
/// the request, and nobody else implements it.
#[diagnostic::on_unimplemented(
    message = "these layers cannot stand around the handler of the request `{R}`",
    label = "`{Self}` is not a service of `TowerRequest<'_, {R}>` for this",
    note = "a layer may not change the response, nor want requests that are `'static` (as `BufferLayer` does)",
    note = "every layer can stand around `mediator.into_service()`"
)]
pub trait TowerStack<'a, R: Request> {
    #[doc(hidden)]
    fn pass(self, request: TowerRequest<'a, R>)
    -> impl Future<Output = Result<R::Response, BoxError>> + Send;
}

impl<'a, R, S> TowerStack<'a, R> for S
where
    R: Request,
    S: Service<TowerRequest<'a, R>, Response = R::Response, Error: Into<BoxError>, Future: Send> + Send,
{
    fn pass(
        mut self,
        request: TowerRequest<'a, R>,
    ) -> impl Future<Output = Result<R::Response, BoxError>> + Send {
        // Not awaited in the block: the compiler would want to know that it is `Send` for every lifetime, and not this one.
        let called = async move {
            poll_fn(|task| self.poll_ready(task)).await?;
            Ok(self.call(request))
        };
        called.try_flatten().map_err(Into::into)
    }
}
