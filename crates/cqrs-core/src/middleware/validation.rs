use std::future::ready;

use futures_util::future::Either;
use futures_util::{Stream, stream};

use super::{Middleware, Next, StreamMiddleware};
use crate::context::Context;
use crate::error::Result;
use crate::request::{Reply, Request, StreamHandler, StreamRequest};

/// Refuses what a request says of itself that it cannot be ([`Request::validate`], [`StreamRequest::validate`]), before its handler
/// sees it, with an error of kind [`InvalidRequest`](crate::ErrorKind::InvalidRequest). Requests that say nothing of the kind pass. A
/// stream that is refused is that one error.
///
/// Place it around what costs something: a [`Retry`](crate::Retry), a [`ConcurrencyLimit`](crate::ConcurrencyLimit).
///
/// ```
/// use cqrs_core::{
///     Context, ErrorKind, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result, Validate,
///     Validation, ValidationErrors,
/// };
///
/// #[derive(Request)]
/// #[request(validate)]
/// struct BookRoom { seats: u32 }
///
/// impl Validate for BookRoom {
///     fn validate(&self) -> Result<(), ValidationErrors> {
///         ValidationErrors::new().unless(self.seats > 0, "seats", "at least one").into_result()
///     }
/// }
/// # struct Booking;
/// # impl RequestHandler<BookRoom> for Booking {
/// #     async fn handle(&self, _: BookRoom, _: &Context<'_>) -> Result<()> { Ok(()) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let requests = RequestMap::new().middleware(Validation).bind::<BookRoom>(Booking);
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// let error = mediator.send(BookRoom { seats: 0 }).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// assert_eq!(error.to_string(), "the request `BookRoom` was refused: seats: at least one");
/// # Ok(()) }
/// ```
///
/// For streaming requests it is one of [their middlewares](crate::RequestMap::stream_middleware):
///
/// ```
/// use cqrs_core::{
///     Context, ErrorKind, EventEmitter, RequestMap, RequestMediator, Result, StreamHandler, StreamRequest, Validate, Validation,
///     ValidationErrors,
/// };
/// use futures_util::{Stream, TryStreamExt, stream};
///
/// #[derive(StreamRequest)]
/// #[request(item = u32, validate)]
/// struct CountTo(u32);
///
/// impl Validate for CountTo {
///     fn validate(&self) -> Result<(), ValidationErrors> {
///         ValidationErrors::new().unless(self.0 <= 1_000, "", "that is too far").into_result()
///     }
/// }
/// # struct Counter;
/// # impl StreamHandler<CountTo> for Counter {
/// #     fn handle(&self, CountTo(last): CountTo, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
/// #         stream::iter((1..=last).map(Ok))
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let requests = RequestMap::new().stream_middleware(Validation).bind_stream::<CountTo>(Counter);
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// let error = mediator.stream(CountTo(1_001)).try_next().await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Validation;

impl<R: Request> Middleware<R> for Validation {
    async fn call<N: Next<R>>(&self, request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        request.validate()?;
        next.run(request, cx).await
    }
}

impl<R: StreamRequest> StreamMiddleware<R> for Validation {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        match request.validate() {
            Ok(()) => Either::Left(next.handle(request, cx)),
            Err(refused) => Either::Right(stream::once(ready(Err(refused.into())))),
        }
    }
}
