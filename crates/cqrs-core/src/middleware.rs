//! What stands around handlers. A stack of middlewares is composed with a handler when the handler is bound, so
//! that a call costs one boxed future whatever their number.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use tracing::Instrument;

use crate::context::Context;
use crate::error::Error;
use crate::request::{Reply, Request, RequestHandler};

/// Stands around the handlers of requests of type `R`. One that serves every request is generic over it.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Context, Error, ErrorKind, Middleware, Next, Reply, Request};
///
/// #[derive(Clone)]
/// struct Timeout(Duration);
///
/// impl<R: Request> Middleware<R> for Timeout {
///     async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
///         match tokio::time::timeout(self.0, next.run(request, cx)).await {
///             Ok(reply) => reply,
///             Err(_) => Err(Error::new(ErrorKind::Timeout, format!("{} took too long", R::name())).into()),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a middleware for the request `{R}`",
    label = "no `Middleware<{R}>` for this type",
    note = "a middleware that serves every request is `impl<R: Request> Middleware<R> for {Self}`"
)]
pub trait Middleware<R: Request>: Send + Sync + 'static {
    /// Calls `next` with the request, or answers without it.
    fn call<N: Next<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Future<Output = Reply<R>> + Send;
}

/// What a middleware stands in front of: the next one, or the handler.
pub trait Next<R: Request>: Send + Sync + 'static {
    /// Calls it.
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send;
}

/// The innermost: the handler itself.
#[derive(Debug)]
pub struct Endpoint<H>(pub(crate) H);

impl<R: Request, H: RequestHandler<R>> Next<R> for Endpoint<H> {
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        let attempt = cx.attempt();
        self.0.handle(request, cx).map(|reply| {
            if reply.is_ok() {
                attempt.succeed();
            }
            reply
        })
    }
}

/// A middleware with what it stands in front of.
#[derive(Debug)]
pub struct Layered<M, N> {
    middleware: Arc<M>,
    next: N,
}

impl<R: Request, M: Middleware<R>, N: Next<R>> Next<R> for Layered<M, N> {
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        self.middleware.call(request, cx, &self.next)
    }
}

/// Middlewares as a type, outermost first: [`NoMiddleware`], or a [`Stacked`] one within others.
///
/// It is implemented here only; a map of requests carries it.
pub trait MiddlewareStack<R: Request>: Clone + Send + Sync + 'static {
    /// What stands around an `N`.
    type Around<N: Next<R>>: Next<R>;

    /// Puts the middlewares around `inner`.
    fn around<N: Next<R>>(&self, inner: N) -> Self::Around<N>;
}

/// No middlewares.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMiddleware;

impl<R: Request> MiddlewareStack<R> for NoMiddleware {
    type Around<N: Next<R>> = N;

    fn around<N: Next<R>>(&self, inner: N) -> N {
        inner
    }
}

/// The middlewares `S`, and within them `M`.
#[derive(Debug)]
pub struct Stacked<S, M> {
    outer: S,
    inner: Arc<M>,
}

impl<S, M> Stacked<S, M> {
    pub(crate) fn new(outer: S, inner: M) -> Self {
        Self { outer, inner: Arc::new(inner) }
    }
}

impl<S: Clone, M> Clone for Stacked<S, M> {
    fn clone(&self) -> Self {
        Self { outer: self.outer.clone(), inner: Arc::clone(&self.inner) }
    }
}

impl<R: Request, S: MiddlewareStack<R>, M: Middleware<R>> MiddlewareStack<R> for Stacked<S, M> {
    type Around<N: Next<R>> = S::Around<Layered<M, N>>;

    fn around<N: Next<R>>(&self, inner: N) -> Self::Around<N> {
        self.outer.around(Layered { middleware: Arc::clone(&self.inner), next: inner })
    }
}

/// A `tracing` span around each request, with its name, and one event when it fails. Nothing of the payload.
///
/// Place it first (outermost), so that the time and the errors of the others are seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl<R: Request> Middleware<R> for Tracing
where
    R::Error: TraceableError,
{
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let span = tracing::info_span!("request", name = R::name());
        async {
            let reply = next.run(request, cx).await;
            match &reply {
                Ok(_) => tracing::debug!("done"),
                Err(error) => error.trace(),
            }
            reply
        }
        .instrument(span)
        .await
    }
}

/// An error that [`Tracing`] can log: everything that is `Display`.
pub trait TraceableError {
    /// Logs it.
    fn trace(&self);
}

impl<E: std::fmt::Display> TraceableError for E {
    fn trace(&self) {
        tracing::warn!(error = %self, "failed");
    }
}

const _: fn(&Error) = TraceableError::trace;
