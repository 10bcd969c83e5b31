//! Middlewares around handlers of events.

use std::future::Future;
use std::sync::Arc;

use super::{Layered, NoMiddleware, Placement, Stacked, Tried};
use crate::context::Context;
use crate::error::Result;
use crate::event::{Event, EventHandler};

/// Stands around each handler of events of type `E`: domain events, and integration events that were received. One that serves
/// every event is generic over it.
///
/// ```
/// use cqrs_core::{Context, Event, EventHandler, EventMap, EventMiddleware, Result};
///
/// struct Shout;
///
/// impl<E: Event> EventMiddleware<E> for Shout {
///     async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
///         println!("{}!", E::NAME);
///         next.handle(event, cx).await
///     }
/// }
///
/// let events = EventMap::new().middleware(Shout);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a middleware for the event `{E}`",
    label = "no `EventMiddleware<{E}>` for this type",
    note = "a middleware that serves every event is `impl<E: Event> EventMiddleware<E> for {Self}`"
)]
pub trait EventMiddleware<E: Event>: Sized + Send + Sync + 'static {
    /// Calls `next` with the event, or does without.
    ///
    /// It may call `next` again, as a retry does. What the handler said in a try that failed, or whose future was
    /// dropped, is forgotten; what the middleware says itself goes out if it succeeds.
    fn call<N: EventHandler<E>>(
        &self,
        event: &E,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Future<Output = Result<()>> + Send;

    /// As [`Middleware::check`](crate::Middleware::check).
    ///
    /// # Errors
    ///
    /// As there.
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

impl<E: Event, H: EventHandler<E>> EventHandler<E> for Tried<H> {
    fn handle(&self, event: &E, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        let mut tried = cx.nested();
        async move {
            let handled = self.0.handle(event, &tried).await;
            if handled.is_ok() {
                cx.extend_by(&mut tried);
            }
            handled
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

impl<E: Event, M: EventMiddleware<E>, N: EventHandler<E>> EventHandler<E> for Layered<M, N> {
    fn handle(&self, event: &E, cx: &Context<'_>) -> impl Future<Output = Result<()>> + Send {
        self.middleware.call(event, cx, &self.next)
    }

    fn name(&self) -> &str {
        self.next.name()
    }
}

/// Middlewares of events as a type, outermost first.
///
/// It is implemented here only; a map of events carries it.
pub trait EventMiddlewareStack<E: Event>: Clone + Send + Sync + 'static {
    /// These around an `N`.
    type Around<N: EventHandler<E>>: EventHandler<E>;

    /// These around a handler.
    type Bound<H: EventHandler<E>>: EventHandler<E>;

    /// Puts them around what has middlewares already.
    fn around<N: EventHandler<E>>(&self, inner: N) -> Self::Around<N>;

    /// Puts them around a handler.
    fn bind<H: EventHandler<E>>(&self, handler: H) -> Self::Bound<H>;

    /// Lets each look at those around it, and adds them to what stands there; and what those say that cannot stand where they do, to
    /// the problems.
    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>);
}

impl<E: Event> EventMiddlewareStack<E> for NoMiddleware {
    type Around<N: EventHandler<E>> = N;
    type Bound<H: EventHandler<E>> = H;

    fn around<N: EventHandler<E>>(&self, inner: N) -> N {
        inner
    }

    fn bind<H: EventHandler<E>>(&self, handler: H) -> H {
        handler
    }

    fn check(&self, _: &mut Placement, _: &mut Vec<String>) {}
}

impl<E: Event, S: EventMiddlewareStack<E>, M: EventMiddleware<E>> EventMiddlewareStack<E> for Stacked<S, M> {
    type Around<N: EventHandler<E>> = S::Around<Layered<M, N>>;
    type Bound<H: EventHandler<E>> = S::Around<Layered<M, Tried<H>>>;

    fn around<N: EventHandler<E>>(&self, inner: N) -> Self::Around<N> {
        self.outer.around(Layered { middleware: Arc::clone(&self.inner), next: inner })
    }

    fn bind<H: EventHandler<E>>(&self, handler: H) -> Self::Bound<H> {
        self.around(Tried(handler))
    }

    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>) {
        self.outer.check(placement, problems);
        problems.extend(self.inner.check(placement).err());
        self.inner.enter(placement);
    }
}
