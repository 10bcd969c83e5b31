//! Middlewares around handlers of streaming requests.

use std::pin::pin;
use std::sync::Arc;

use async_stream::stream;
use futures_util::{Stream, StreamExt};

use super::{Layered, NoMiddleware, Placement, Stacked, Tried};
use crate::context::{Context, Narrowed};
use crate::error::Result;
use crate::request::{StreamHandler, StreamRequest};
use crate::send_options::SendOptions;

/// Stands around the handlers of streaming requests of type `R`, if it is told to
/// ([`RequestMap::stream_middleware`](crate::RequestMap::stream_middleware)). One that serves every streaming request is generic over
/// it.
///
/// ```
/// use cqrs_core::{
///     Context, EventEmitter, RequestMap, RequestMediator, Result, StreamHandler, StreamMiddleware, StreamRequest,
/// };
/// use futures_util::{Stream, StreamExt, TryStreamExt, stream};
///
/// /// The first items, and no more.
/// struct AtMost(usize);
///
/// impl<R: StreamRequest> StreamMiddleware<R> for AtMost {
///     fn call<N: StreamHandler<R>>(
///         &self,
///         request: R,
///         cx: &Context<'_>,
///         next: &N,
///     ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
///         next.handle(request, cx).take(self.0)
///     }
/// }
///
/// #[derive(StreamRequest)]
/// #[request(item = u32)]
/// struct CountTo(u32);
///
/// struct Counter;
///
/// impl StreamHandler<CountTo> for Counter {
///     fn handle(&self, CountTo(last): CountTo, _cx: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
///         stream::iter((1..=last).map(Ok))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let requests = RequestMap::new().stream_middleware(AtMost(2)).bind_stream::<CountTo>(Counter);
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// let numbers: Vec<u32> = mediator.stream(CountTo(1_000)).try_collect().await?;
/// assert_eq!(numbers, [1, 2]);
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a middleware for the streaming request `{R}`",
    label = "no `StreamMiddleware<{R}>` for this type",
    note = "a middleware that serves every streaming request is `impl<R: StreamRequest> StreamMiddleware<R> for {Self}`",
    note = "a `Middleware` of requests that are answered once does not serve streams by itself, and a `TowerLayer` cannot: its services answer once"
)]
pub trait StreamMiddleware<R: StreamRequest>: Sized + Send + Sync + 'static {
    /// Calls `next` with the request, and gives its items or others.
    ///
    /// What the handler said for an item that failed, or since the last one when its stream was dropped, is forgotten. What the
    /// middleware says itself goes out before the next item that is given, or at the end; it is dropped if that item is an error.
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send;

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

/// The items of what stands further in, made in a context of their own, within their time if they have one.
pub(super) fn run_within<R: StreamRequest, N: StreamHandler<R>>(
    request: R,
    cx: &Context<'_>,
    next: &N,
    options: SendOptions,
    place: Option<usize>,
) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
    stream! {
        let narrowed = Narrowed::new(Some(cx), &options).with_place(place);
        let items = run_in(request, cx, next, cx.narrowed(&narrowed));
        let mut items = pin!(narrowed.limit_items(R::name(), items));
        while let Some(item) = items.next().await {
            yield item;
        }
    }
}

/// The items, made in this context, which is a part of `cx`. What is said there for an item that fails is forgotten.
pub(super) fn run_in<R: StreamRequest, N: StreamHandler<R>>(
    request: R,
    cx: &Context<'_>,
    next: &N,
    within: Context<'_>,
) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
    stream! {
        let mut items = pin!(next.handle(request, &within));
        loop {
            let item = items.next().await;
            let said = within.take_said();
            if !matches!(item, Some(Err(_))) && let Some(said) = said {
                cx.extend(said);
            }
            match item {
                Some(item) => yield item,
                None => break,
            }
        }
    }
}

impl<R: StreamRequest, H: StreamHandler<R>> StreamHandler<R> for Tried<H> {
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        run_in(request, cx, &self.0, cx.nested())
    }
}

impl<R: StreamRequest, M: StreamMiddleware<R>, N: StreamHandler<R>> StreamHandler<R> for Layered<M, N> {
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        self.middleware.call(request, cx, &self.next)
    }
}

/// Middlewares of streaming requests as a type, outermost first.
///
/// It is implemented here only; a map of requests carries it.
pub trait StreamMiddlewareStack<R: StreamRequest>: Clone + Send + Sync + 'static {
    /// These around an `N`.
    type Around<N: StreamHandler<R>>: StreamHandler<R>;

    /// These around a handler.
    type Bound<H: StreamHandler<R>>: StreamHandler<R>;

    /// Puts them around what has middlewares already.
    fn around<N: StreamHandler<R>>(&self, inner: N) -> Self::Around<N>;

    /// Puts them around a handler.
    fn bind<H: StreamHandler<R>>(&self, handler: H) -> Self::Bound<H>;

    /// Lets each look at those around it, and adds them to what stands there; and what those say that cannot stand where they do, to
    /// the problems.
    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>);
}

impl<R: StreamRequest> StreamMiddlewareStack<R> for NoMiddleware {
    type Around<N: StreamHandler<R>> = N;
    type Bound<H: StreamHandler<R>> = H;

    fn around<N: StreamHandler<R>>(&self, inner: N) -> N {
        inner
    }

    fn bind<H: StreamHandler<R>>(&self, handler: H) -> H {
        handler
    }

    fn check(&self, _: &mut Placement, _: &mut Vec<String>) {}
}

impl<R: StreamRequest, S: StreamMiddlewareStack<R>, M: StreamMiddleware<R>> StreamMiddlewareStack<R>
    for Stacked<S, M>
{
    type Around<N: StreamHandler<R>> = S::Around<Layered<M, N>>;
    type Bound<H: StreamHandler<R>> = S::Around<Layered<M, Tried<H>>>;

    fn around<N: StreamHandler<R>>(&self, inner: N) -> Self::Around<N> {
        self.outer.around(Layered { middleware: Arc::clone(&self.inner), next: inner })
    }

    fn bind<H: StreamHandler<R>>(&self, handler: H) -> Self::Bound<H> {
        self.around(Tried(handler))
    }

    fn check(&self, placement: &mut Placement, problems: &mut Vec<String>) {
        self.outer.check(placement, problems);
        problems.extend(self.inner.check(placement).err());
        self.inner.enter(placement);
    }
}
