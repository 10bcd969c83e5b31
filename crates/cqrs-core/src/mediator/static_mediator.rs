use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::emitter::EventEmitter;
use super::event_mediator::EventMediator;
use super::request_map::RequestMap;
use super::request_mediator::RequestMediator;
use crate::context::{Context, Narrowed, Origin};
use crate::error::Result;
use crate::middleware::{MiddlewareStack, Next, NoMiddleware};
use crate::request::{Reply, Request, RequestHandler};
use crate::send_options::SendOptions;

/// Sends requests to handlers that the compiler knows: a request without a handler does not compile, and a send
/// allocates nothing and is inlined.
///
/// Its handlers are declared by [`mediator!`](crate::mediator!), as a struct:
///
/// ```
/// use cqrs_core::{
///     Context, EventEmitter, Request, RequestHandler, RequestMap, Result, StaticMediator, Tracing, mediator,
/// };
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Add(u64, u64);
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Double(u64);
///
/// struct Adder;
///
/// impl RequestHandler<Add> for Adder {
///     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> {
///         Ok(add.0 + add.1)
///     }
/// }
///
/// struct Doubler;
///
/// impl RequestHandler<Double> for Doubler {
///     async fn handle(&self, double: Double, cx: &Context<'_>) -> Result<u64> {
///         cx.send(Add(double.0, double.0)).await
///     }
/// }
///
/// mediator! {
///     struct Arithmetic {
///         add: Add => Adder,
///         double: Double => Doubler,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let handlers = Arithmetic { add: Adder, double: Doubler };
/// let mediator = StaticMediator::new(handlers, RequestMap::new().middleware(Tracing), EventEmitter::default())?;
/// assert_eq!(mediator.send(Double(21)).await?, 42);
/// # Ok(()) }
/// ```
///
/// The handlers are bound to a [`RequestMediator`], too ([`requests`](Self::requests)): by it handlers reach one another
/// ([`Context::send`]), and so do handlers of events. What else is bound to the map is found there. A handler that holds its
/// own static mediator cannot be made: each would have to be there before the other.
///
/// # In a struct
///
/// Its type names the middlewares of the map, too. Let what sends be generic over [`Dispatch`](crate::Dispatch): a middleware more does not
/// change it, and a test gives it another mediator. Where the type has to be written, an alias says it once: each middleware is
/// [`Stacked`](crate::Stacked) upon those before it.
///
/// ```
/// # use cqrs_core::{Context, EventEmitter, Request, RequestHandler, RequestMap, Result, mediator};
/// use cqrs_core::{Dispatch, NoMiddleware, Stacked, StaticMediator, Tracing};
/// #
/// # #[derive(Request)] #[request(response = u64)] struct Add(u64, u64);
/// # #[derive(Request)] #[request(response = u64)] struct Double(u64);
/// # struct Adder;
/// # impl RequestHandler<Add> for Adder {
/// #     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> { Ok(add.0 + add.1) }
/// # }
/// # impl RequestHandler<Double> for Adder {
/// #     async fn handle(&self, double: Double, _: &Context<'_>) -> Result<u64> { Ok(2 * double.0) }
/// # }
/// # mediator! { struct Arithmetic { add: Add => Adder, double: Double => Adder } }
///
/// struct Calculator<M> {
///     mediator: M,
/// }
///
/// impl<M: Dispatch<Add> + Dispatch<Double>> Calculator<M> {
///     async fn add_and_double(&self, one: u64, other: u64) -> Result<u64> {
///         let sum = self.mediator.send(Add(one, other)).await?;
///         self.mediator.send(Double(sum)).await
///     }
/// }
///
/// type Mediator = StaticMediator<Arithmetic, Stacked<NoMiddleware, Tracing>>;
///
/// struct Application {
///     calculator: Calculator<Mediator>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let handlers = Arithmetic { add: Adder, double: Adder };
/// let mediator = StaticMediator::new(handlers, RequestMap::new().middleware(Tracing), EventEmitter::default())?;
/// let application = Application { calculator: Calculator { mediator } };
/// assert_eq!(application.calculator.add_and_double(20, 1).await?, 42);
/// # Ok(()) }
/// ```
///
/// Cheap to clone; all clones are one mediator.
pub struct StaticMediator<H: StaticHandlers<S>, S = NoMiddleware> {
    requests: RequestMediator,
    bound: Arc<H::Bound>,
}

impl<S, H: StaticHandlers<S>> StaticMediator<H, S> {
    /// A mediator of these handlers, within the middlewares of the map, whose events go where the emitter says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), naming everything that is wrong with the maps; a request that
    /// is bound to the map already is.
    pub fn new<V>(handlers: H, requests: RequestMap<S, V>, emitter: EventEmitter) -> Result<Self> {
        let (requests, bound) = handlers.bind(requests.with_stream_middleware(NoMiddleware));
        Ok(Self { requests: RequestMediator::new(requests, emitter)?, bound: Arc::new(bound) })
    }

    /// Sends a request to its handler and returns what it answers, after the events that it said went out.
    ///
    /// # Errors
    ///
    /// As [`RequestMediator::send`]; a handler is never missing.
    ///
    /// # Cancel safety
    ///
    /// As there.
    // Sending what is not in the set is told thrice, in the same words: at the request, at the call and at the `.await`, for the type of
    // the future has the bounds of its function, and the compiler asks for them wherever that type appears. Tried in vain (rustc
    // 1.95): `async fn`, a method of a trait, and a bound on the request instead of on the set, all thrice; a struct for the future,
    // twice, and once only where `send` has no bound, but then it is "not a future", and a handler's future cannot be named to stand
    // in one. What is told once is a boxed future, whose type knows nothing of the set; it costs an allocation for each send.
    #[inline]
    pub fn send<R: Request>(&self, request: R) -> impl Future<Output = Reply<R>> + Send
    where
        H: HandlerFor<R, S>,
    {
        self.run(request, Origin::Root)
    }

    /// The same with a deadline, a token to call it off, a conversation or a scope, which go down through all requests within it.
    ///
    /// # Errors
    ///
    /// As [`RequestMediator::send_with`]; a handler is never missing.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn send_with<R: Request>(&self, request: R, options: &SendOptions) -> Reply<R>
    where
        H: HandlerFor<R, S>,
    {
        let narrowed = Narrowed::new(None, options);
        narrowed.limit(R::name(), self.run(request, Origin::Narrowed(&narrowed))).await
    }

    #[inline]
    fn run<'a, R: Request>(
        &'a self,
        request: R,
        origin: Origin<'a>,
    ) -> impl Future<Output = Reply<R>> + Send + 'a
    where
        H: HandlerFor<R, S>,
    {
        let core = self.requests.core();
        async move {
            let mut cx = Context::of_request(core, origin);
            let reply = H::find(&self.bound).run(request, &cx).await;
            if reply.is_ok()
                && let Some(said) = cx.take_own_said()
            {
                // Boxed, so that a request that says nothing does not carry the room for it.
                Box::pin(core.emitter().emit_of_request(&cx, said)).await?;
            }
            reply
        }
    }

    /// The same handlers, found when a request is sent: for streaming requests, and for whoever wants a [`RequestMediator`].
    pub fn requests(&self) -> &RequestMediator {
        &self.requests
    }

    /// The mediator of events that shares the maps with this one.
    pub fn events(&self) -> EventMediator {
        self.requests.events()
    }
}

impl<S, H: StaticHandlers<S>> Clone for StaticMediator<H, S> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), bound: Arc::clone(&self.bound) }
    }
}

impl<S, H: StaticHandlers<S>> fmt::Debug for StaticMediator<H, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticMediator").field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// Handlers that a [`StaticMediator`] is made of. [`mediator!`](crate::mediator!) implements it, and nobody else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a set of handlers for these middlewares",
    label = "no static mediator can be made of this",
    note = "declare it with `mediator! {{ struct {Self} {{ .. }} }}`; each of the map's middlewares must serve all its requests"
)]
pub trait StaticHandlers<S>: Sized {
    /// They within their middlewares.
    #[doc(hidden)]
    type Bound: Send + Sync + 'static;

    #[doc(hidden)]
    fn bind(self, requests: RequestMap<S>) -> (RequestMap<S>, Self::Bound);
}

/// Which of the handlers answers the request. [`mediator!`](crate::mediator!) implements it, and nobody else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for the request `{R}`",
    label = "this request is not in its `mediator!`",
    note = "add a line `name: {R} => ItsHandler` to `mediator! {{ struct {Self} {{ .. }} }}`"
)]
pub trait HandlerFor<R: Request, S>: StaticHandlers<S> {
    #[doc(hidden)]
    type Within: Next<R>;

    #[doc(hidden)]
    fn find(bound: &Self::Bound) -> &Self::Within;
}

/// What [`mediator!`](crate::mediator!) writes: not for others.
pub mod declared {
    use super::*;

    /// Binds a handler to the map, and keeps it for those who know its type.
    pub fn bind<R: Request, H: RequestHandler<R>, S: MiddlewareStack<R>>(
        handler: H,
        requests: RequestMap<S>,
    ) -> (RequestMap<S>, Arc<S::Bound<H>>) {
        requests.bind_shared(handler)
    }

    /// A request that nobody can send. With a handler for it each set of handlers has two, so that the compiler
    /// says what is missing, and not that the request should have been the only other one.
    #[derive(Debug)]
    pub enum NoRequest {}

    // Nobody who forgot to derive `Request` wants to hear of it.
    #[diagnostic::do_not_recommend]
    impl Request for NoRequest {
        type Response = ();
        type Error = crate::Error;
    }

    /// Its handler.
    #[derive(Debug)]
    pub struct NoHandler;

    impl Next<NoRequest> for NoHandler {
        async fn run(&self, request: NoRequest, _: &Context<'_>) -> Reply<NoRequest> {
            match request {}
        }
    }
}
