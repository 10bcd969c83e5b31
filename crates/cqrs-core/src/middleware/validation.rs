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
