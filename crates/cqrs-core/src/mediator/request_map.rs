use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;

use super::request_mediator::Core;
use crate::context::{Context, Origin, Said};
use crate::error::Result;
use crate::middleware::{Endpoint, Middleware, MiddlewareStack, Next, NoMiddleware, Stacked};
use crate::request::{Reply, Request, RequestHandler};

/// Says which handler answers which request. Every request has exactly one handler.
///
/// A middleware stands around the requests that are bound after it; the first is the outermost.
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
pub struct RequestMap<S = NoMiddleware> {
    pub(super) handlers: Handlers,
    pub(super) problems: Vec<String>,
    middleware: S,
}

impl RequestMap {
    /// An empty map.
    pub fn new() -> Self {
        Self { handlers: Handlers::default(), problems: Vec::new(), middleware: NoMiddleware }
    }
}

impl Default for RequestMap {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> RequestMap<S> {
    /// Puts a middleware around the requests that are bound from now on, within those that are there already.
    pub fn middleware<M>(self, middleware: M) -> RequestMap<Stacked<S, M>> {
        RequestMap {
            handlers: self.handlers,
            problems: self.problems,
            middleware: Stacked::new(self.middleware, middleware),
        }
    }

    /// Binds the handler of a request, within the middlewares so far. A second handler for the same request is an
    /// error when the mediator is built.
    pub fn bind<R: Request>(mut self, handler: impl RequestHandler<R>) -> Self
    where
        S: MiddlewareStack<R>,
    {
        let bound = self.middleware.around(Endpoint(handler));
        self.insert::<R>(bound);
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
        let bound = Stacked::new(self.middleware.clone(), middleware).around(Endpoint(handler));
        self.insert::<R>(bound);
        self
    }

    /// The middlewares so far.
    pub fn current_middleware(&self) -> &S {
        &self.middleware
    }

    /// Goes on with these middlewares instead.
    pub fn with_middleware<T>(self, middleware: T) -> RequestMap<T> {
        RequestMap { handlers: self.handlers, problems: self.problems, middleware }
    }

    fn insert<R: Request>(&mut self, bound: impl Next<R>) {
        match self.handlers.0.entry(TypeId::of::<R>()) {
            Entry::Vacant(free) => {
                free.insert(Box::new(Bound::<R>(Box::new(bound))));
            }
            Entry::Occupied(_) => self.problems.push(format!(
                "two handlers are bound to the request `{}`: a request has exactly one, remove the second",
                R::name()
            )),
        }
    }
}

impl<S> fmt::Debug for RequestMap<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMap")
            .field("handlers", &self.handlers.0.len())
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

/// Handlers by the type of their request.
#[derive(Default)]
pub(super) struct Handlers(HashMap<TypeId, Box<dyn Any + Send + Sync>, BuildHasherDefault<TypeIdHasher>>);

impl Handlers {
    pub(super) fn get<R: Request>(&self) -> Option<&dyn Call<R>> {
        let bound = self.0.get(&TypeId::of::<R>())?.downcast_ref::<Bound<R>>()?;
        Some(&*bound.0)
    }
}

struct Bound<R: Request>(Box<dyn Call<R>>);

/// A handler within its middlewares: the one place where a future is boxed.
pub(super) trait Call<R: Request>: Send + Sync {
    fn call<'a>(
        &'a self,
        request: R,
        core: &'a Core,
        origin: Origin<'a>,
    ) -> Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>>;
}

impl<R: Request, N: Next<R>> Call<R> for N {
    fn call<'a>(
        &'a self,
        request: R,
        core: &'a Core,
        origin: Origin<'a>,
    ) -> Pin<Box<dyn Future<Output = Reply<R>> + Send + 'a>> {
        boxed_in_place(move || {
            let mut cx = Context::new(core, origin);
            async move {
                let reply = self.run(request, &cx).await;
                if reply.is_ok() && cx.has_said() {
                    go_out(core, cx.take_said(), origin).await?;
                }
                reply
            }
        })
    }
}

/// The same as `Box::pin(make())`, but the future is made where it stays: it is never on the stack, to be dropped if
/// the allocation panics, and so need not be copied from there. That is half of what a send costs.
fn boxed_in_place<'a, F: Future + Send + 'a>(
    make: impl FnOnce() -> F,
) -> Pin<Box<dyn Future<Output = F::Output> + Send + 'a>> {
    let room = Box::<F>::new_uninit();
    let made = Box::write(room, make());
    Box::into_pin(made)
}

#[cold]
fn go_out<'a>(
    core: &'a Core,
    said: Vec<Said>,
    origin: Origin<'a>,
) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
    Box::pin(core.emitter().emit(core, said, origin))
}

/// A `TypeId` is a hash already.
#[derive(Default)]
pub(super) struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Only reached if the standard library changes how a `TypeId` is hashed: correct, then, but slower.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
