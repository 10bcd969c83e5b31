use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::handlers::{Bound, Handlers};
use super::stream::BoundStream;
use crate::middleware::{
    Middleware, MiddlewareStack, NoMiddleware, Placement, Stacked, StreamMiddlewareStack, Validation,
};
use crate::request::{Request, RequestHandler, StreamHandler, StreamRequest};

/// Says which handler answers which request. Every request has exactly one handler.
///
/// A middleware stands around the requests that are bound after it; the first is the outermost. Those of streaming requests
/// stand for themselves ([`stream_middleware`](Self::stream_middleware)).
///
/// ```
/// use cqrs_core::{Context, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result, Tracing};
/// # #[derive(Request)]
/// # #[request(response = u64)]
/// # struct Add(u64, u64);
/// # struct Adder;
/// # impl RequestHandler<Add> for Adder {
/// #     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> { Ok(add.0 + add.1) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let requests = RequestMap::new().middleware(Tracing).bind::<Add>(Adder);
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// assert_eq!(mediator.send(Add(1, 2)).await?, 3);
/// # Ok(()) }
/// ```
#[must_use = "a map does nothing until a mediator is made of it"]
pub struct RequestMap<S = NoMiddleware, V = NoMiddleware> {
    pub(super) handlers: Handlers,
    pub(super) problems: Vec<String>,
    middleware: S,
    stream_middleware: V,
}

impl RequestMap {
    /// An empty map.
    pub fn new() -> Self {
        Self {
            handlers: Handlers::default(),
            problems: Vec::new(),
            middleware: NoMiddleware,
            stream_middleware: NoMiddleware,
        }
    }
}

impl Default for RequestMap {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, V> RequestMap<S, V> {
    /// Puts a middleware around the requests that are bound from now on, within those that are there already.
    pub fn middleware<M>(self, middleware: M) -> RequestMap<Stacked<S, M>, V> {
        RequestMap {
            handlers: self.handlers,
            problems: self.problems,
            middleware: Stacked::new(self.middleware, middleware),
            stream_middleware: self.stream_middleware,
        }
    }

    /// Puts a middleware around the streaming requests that are bound from now on, within those that are there already: a
    /// [`StreamMiddleware`](crate::StreamMiddleware).
    ///
    /// ```
    /// use std::time::Duration;
    /// use cqrs_core::{CatchPanic, RequestMap, Retry, Timeout, Tracing, Validation};
    ///
    /// let requests = RequestMap::new()
    ///     .stream_middleware(Tracing)
    ///     .stream_middleware(Validation)
    ///     .stream_middleware(Retry::default())
    ///     .stream_middleware(Timeout::after(Duration::from_secs(60)))
    ///     .stream_middleware(CatchPanic);
    /// ```
    pub fn stream_middleware<M>(self, middleware: M) -> RequestMap<S, Stacked<V, M>> {
        RequestMap {
            handlers: self.handlers,
            problems: self.problems,
            middleware: self.middleware,
            stream_middleware: Stacked::new(self.stream_middleware, middleware),
        }
    }

    /// Binds the handler of a request, within the middlewares so far. A second handler for the same request is an
    /// error when the mediator is built.
    pub fn bind<R: Request>(mut self, handler: impl RequestHandler<R>) -> Self
    where
        S: MiddlewareStack<R>,
    {
        let stack = self.middleware.clone();
        self.bind_within(&stack, handler);
        self
    }

    /// Binds the handler of a request with a middleware of its own, within the others.
    pub fn bind_with<R: Request>(
        mut self,
        middleware: impl Middleware<R>,
        handler: impl RequestHandler<R>,
    ) -> Self
    where
        S: MiddlewareStack<R>,
    {
        let stack = Stacked::new(self.middleware.clone(), middleware);
        self.bind_within(&stack, handler);
        self
    }

    /// Binds it, and gives what was bound to who knows its type.
    pub(super) fn bind_shared<R: Request, H: RequestHandler<R>>(
        mut self,
        handler: H,
    ) -> (Self, Arc<S::Bound<H>>)
    where
        S: MiddlewareStack<R>,
    {
        let stack = self.middleware.clone();
        let bound = self.bind_within(&stack, handler);
        (self, bound)
    }

    fn bind_within<R: Request, T: MiddlewareStack<R>, H: RequestHandler<R>>(
        &mut self,
        stack: &T,
        handler: H,
    ) -> Arc<T::Bound<H>> {
        let (mut placement, mut problems) = (Placement::default(), Vec::new());
        stack.check(&mut placement, &mut problems);
        if R::IS_VALIDATED && !placement.is_within::<Validation>() {
            problems.push(nobody_asks("the middleware `Validation`"));
        }
        self.refuse(R::name(), &problems);
        let bound = Arc::new(stack.bind(handler));
        self.insert(Bound::<R>(bound.clone()), R::name());
        #[cfg(feature = "testing")]
        self.handlers.recordable::<Bound<R>>();
        bound
    }

    /// The middlewares so far.
    pub fn current_middleware(&self) -> &S {
        &self.middleware
    }

    /// Goes on with these middlewares instead.
    pub fn with_middleware<T>(self, middleware: T) -> RequestMap<T, V> {
        RequestMap {
            handlers: self.handlers,
            problems: self.problems,
            middleware,
            stream_middleware: self.stream_middleware,
        }
    }

    /// Goes on with these middlewares of streaming requests instead.
    pub fn with_stream_middleware<T>(self, stream_middleware: T) -> RequestMap<S, T> {
        RequestMap {
            handlers: self.handlers,
            problems: self.problems,
            middleware: self.middleware,
            stream_middleware,
        }
    }

    /// Binds the handler of a streaming request, within the [middlewares of streaming requests](Self::stream_middleware) so far; those
    /// of requests that are answered once do not stand around it. A second handler for the same request is an error when the mediator
    /// is built, and so is a request with `#[request(validate)]` and no [`Validation`] among these middlewares.
    pub fn bind_stream<R: StreamRequest>(mut self, handler: impl StreamHandler<R>) -> Self
    where
        V: StreamMiddlewareStack<R>,
    {
        let (mut placement, mut problems) = (Placement::default(), Vec::new());
        self.stream_middleware.check(&mut placement, &mut problems);
        if R::IS_VALIDATED && !placement.is_within::<Validation>() {
            problems.push(nobody_asks("`.stream_middleware(Validation)`"));
        }
        self.refuse(R::name(), &problems);
        let bound = self.stream_middleware.bind(handler);
        self.insert(BoundStream::<R>(Arc::new(bound)), R::name());
        #[cfg(feature = "testing")]
        self.handlers.recordable::<BoundStream<R>>();
        self
    }

    fn refuse(&mut self, request: &str, problems: &[String]) {
        self.problems.extend(problems.iter().map(|problem| format!("the request `{request}`: {problem}")));
    }

    fn insert<B: Any + Send + Sync>(&mut self, bound: B, request: &str) {
        if self.handlers.get::<B>().is_some() {
            self.problems.push(format!(
                "two handlers are bound to the request `{request}`: a request has exactly one, remove the second"
            ));
        } else {
            self.handlers.insert(bound);
        }
    }
}

fn nobody_asks(middleware: &str) -> String {
    format!(
        "it says what is wrong with it (`#[request(validate)]`), and nobody asks: add {middleware} before it is bound"
    )
}

impl<S, V> fmt::Debug for RequestMap<S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMap")
            .field("handlers", &self.handlers.len())
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}
