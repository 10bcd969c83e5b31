//! What stands around handlers. A stack of middlewares is composed with a handler when the handler is bound, so
//! that a call costs one boxed future whatever their number.

mod catch_panic;
mod concurrency_limit;
mod event;
mod except;
#[cfg(feature = "metrics")]
mod metrics;
mod placement;
mod retry;
mod step;
mod stream;
mod timeout;
mod tracing;
mod validation;

use std::future::Future;
use std::sync::Arc;

use crate::context::Context;
use crate::request::{Reply, Request, RequestHandler};

pub use catch_panic::CatchPanic;
pub use concurrency_limit::ConcurrencyLimit;
pub use event::{EventMiddleware, EventMiddlewareStack};
pub use except::Except;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub use placement::Placement;
pub use retry::{Retry, Retryable};
pub use stream::{StreamMiddleware, StreamMiddlewareStack};
pub use timeout::Timeout;
pub use tracing::{Tracing, TracingPayload};
pub use validation::Validation;

/// Stands around the handlers of requests of type `R`. One that serves every request is generic over it.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use cqrs_core::{Context, Middleware, Next, Reply, Request};
///
/// #[derive(Default)]
/// struct CountFailures(AtomicU64);
///
/// impl<R: Request> Middleware<R> for CountFailures {
///     async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
///         let reply = next.run(request, cx).await;
///         if reply.is_err() {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///         reply
///     }
/// }
/// ```
///
/// A middleware sees what the handler answers. What was said goes out after that: an event that is refused then, or a handler
/// behind the commit that fails, fails the request without its middlewares having seen it.
///
/// The transaction of a handler is within all its middlewares: an integration event that a middleware says itself is not in it. It goes
/// straight to the broker, or is refused, which fails the request before its transaction is committed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a middleware for the request `{R}`",
    label = "no `Middleware<{R}>` for this type",
    note = "a middleware that serves every request is `impl<R: Request> Middleware<R> for {Self}`"
)]
pub trait Middleware<R: Request>: Sized + Send + Sync + 'static {
    /// Calls `next` with the request, or answers without it.
    ///
    /// It may call `next` again, as a retry does. What the handler said in a try that failed, or whose future was
    /// dropped, is forgotten; what the middleware says itself goes out if it succeeds.
    fn call<N: Next<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Future<Output = Reply<R>> + Send;

    /// Looks at the middlewares around it, when a handler is bound.
    ///
    /// # Errors
    ///
    /// Why it cannot stand there, and what to do: the mediator is not built, then. By default it can stand anywhere.
    fn check(&self, placement: &Placement) -> Result<(), String> {
        let _ = placement;
        Ok(())
    }

    /// Adds itself to what stands around the next one.
    #[doc(hidden)]
    fn enter(&self, placement: &mut Placement) {
        placement.enter::<Self>();
    }
}

/// What a middleware stands in front of: the next one, or the handler.
pub trait Next<R: Request>: Send + Sync + 'static {
    /// Calls it.
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send;
}

/// The handler itself, without middlewares.
#[derive(Debug)]
pub struct Endpoint<H>(H);

impl<R: Request, H: RequestHandler<R>> Next<R> for Endpoint<H> {
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        self.0.handle(request, cx)
    }
}

/// The handler within middlewares, which may try it more than once, or give up on it and answer in its place. Every
/// try has a context of its own: what it said counts when it has succeeded, and a transaction that was cut off leaves
/// no trace.
#[derive(Debug)]
pub struct Tried<H>(H);

impl<R: Request, H: RequestHandler<R>> Next<R> for Tried<H> {
    fn run(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        let mut tried = cx.nested();
        async move {
            let reply = self.0.handle(request, &tried).await;
            if reply.is_ok() {
                cx.extend_by(&mut tried);
            }
            reply
        }
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
    /// These around an `N`.
    type Around<N: Next<R>>: Next<R>;

    /// These around a handler.
    type Bound<H: RequestHandler<R>>: Next<R>;

    /// Puts them around what has middlewares already.
    fn around<N: Next<R>>(&self, inner: N) -> Self::Around<N>;

    /// Puts them around a handler.
    fn bind<H: RequestHandler<R>>(&self, handler: H) -> Self::Bound<H>;

    /// Lets each look at those around it, and adds them to what stands there; and what those say that cannot stand where they do, to
    /// the problems.
    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>);
}

/// No middlewares.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMiddleware;

impl<R: Request> MiddlewareStack<R> for NoMiddleware {
    type Around<N: Next<R>> = N;
    type Bound<H: RequestHandler<R>> = Endpoint<H>;

    fn around<N: Next<R>>(&self, inner: N) -> N {
        inner
    }

    fn bind<H: RequestHandler<R>>(&self, handler: H) -> Endpoint<H> {
        Endpoint(handler)
    }

    fn check(&self, _: &mut Placement, _: &mut Vec<String>) {}
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
    type Bound<H: RequestHandler<R>> = S::Around<Layered<M, Tried<H>>>;

    fn around<N: Next<R>>(&self, inner: N) -> Self::Around<N> {
        self.outer.around(Layered { middleware: Arc::clone(&self.inner), next: inner })
    }

    fn bind<H: RequestHandler<R>>(&self, handler: H) -> Self::Bound<H> {
        self.around(Tried(handler))
    }

    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>) {
        self.outer.check(placement, problems);
        problems.extend(self.inner.check(placement).err());
        self.inner.enter(placement);
    }
}
