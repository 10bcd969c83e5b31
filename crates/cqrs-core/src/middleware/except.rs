use std::any::TypeId;

use futures_util::Stream;
use futures_util::future::Either;

use super::{EventMiddleware, Middleware, Next, Placement, StreamMiddleware};
use crate::context::Context;
use crate::error::Result;
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request, StreamHandler, StreamRequest};

/// A middleware for all requests, events or streaming requests but some, which pass by it.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Except, Request, RequestMap, Timeout};
///
/// #[derive(Request)]
/// struct ImportEverything;
///
/// let soon = Timeout::after(Duration::from_secs(5));
/// let requests = RequestMap::new().middleware(Except::new(soon).request::<ImportEverything>());
/// ```
///
/// A request that is bound before a middleware is added, or with
/// [other middlewares](crate::RequestMap::with_middleware), does not have it either.
#[derive(Clone, Debug)]
pub struct Except<M> {
    middleware: M,
    passing: Vec<TypeId>,
}

impl<M> Except<M> {
    /// The middleware, for all so far.
    pub fn new(middleware: M) -> Self {
        Self { middleware, passing: Vec::new() }
    }

    /// But not for this request.
    #[must_use]
    pub fn request<R: Request>(mut self) -> Self {
        self.passing.push(TypeId::of::<R>());
        self
    }

    /// But not for the handlers of this event.
    #[must_use]
    pub fn event<E: Event>(mut self) -> Self {
        self.passing.push(TypeId::of::<E>());
        self
    }

    /// But not for this streaming request.
    #[must_use]
    pub fn stream<R: StreamRequest>(mut self) -> Self {
        self.passing.push(TypeId::of::<R>());
        self
    }

    fn passes<T: 'static>(&self) -> bool {
        self.passing.contains(&TypeId::of::<T>())
    }
}

impl<R: Request, M: Middleware<R>> Middleware<R> for Except<M> {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        if self.passes::<R>() {
            next.run(request, cx).await
        } else {
            self.middleware.call(request, cx, next).await
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        if self.passes::<R>() { Ok(()) } else { self.middleware.check(placement) }
    }

    fn enter(&self, placement: &mut Placement) {
        if !self.passes::<R>() {
            self.middleware.enter(placement);
        }
    }
}

impl<E: Event, M: EventMiddleware<E>> EventMiddleware<E> for Except<M> {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        if self.passes::<E>() {
            next.handle(event, cx).await
        } else {
            self.middleware.call(event, cx, next).await
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        if self.passes::<E>() { Ok(()) } else { self.middleware.check(placement) }
    }

    fn enter(&self, placement: &mut Placement) {
        if !self.passes::<E>() {
            self.middleware.enter(placement);
        }
    }
}

impl<R: StreamRequest, M: StreamMiddleware<R>> StreamMiddleware<R> for Except<M> {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        if self.passes::<R>() {
            Either::Left(next.handle(request, cx))
        } else {
            Either::Right(self.middleware.call(request, cx, next))
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        if self.passes::<R>() { Ok(()) } else { self.middleware.check(placement) }
    }

    fn enter(&self, placement: &mut Placement) {
        if !self.passes::<R>() {
            self.middleware.enter(placement);
        }
    }
}
