//! Commands and queries.

use std::future::Future;
use std::sync::Arc;

use futures_util::Stream;

use crate::context::Context;
use crate::error::Error;

/// A command or a query: exactly one handler answers it.
///
/// ```
/// use cqrs_core::Request;
///
/// #[derive(Request)]
/// #[request(response = String)] // and `error = MyError`, where the default `cqrs_core::Error` will not do
/// struct ReadMeeting { meeting: u32 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request",
    label = "this is sent or handled as a command or query",
    note = "derive it: `#[derive(Request)] #[request(response = ..)]`",
    note = "a streaming request is bound with `RequestMap::bind_stream` and sent with `stream`; no `mediator!` takes it"
)]
pub trait Request: Send + 'static {
    /// What the handler answers.
    type Response: Send + 'static;

    /// How it can fail. The toolkit's own failures (no handler, a transaction that cannot commit) must fit in.
    type Error: From<Error> + Send + 'static;

    /// Whether [`validate`](Self::validate) says something, so that a [`Validation`](crate::Validation) has to stand around its
    /// handler: without, the mediator is not built. The derive sets it with `#[request(validate)]`.
    const IS_VALIDATED: bool = false;

    /// The name in logs, traces and messages.
    fn name() -> &'static str {
        std::any::type_name::<Self>()
    }

    /// The same request once more, for a [`Retry`](crate::Retry) that stands around it; `None` if it is not to be sent again by
    /// itself, which is the default. With `#[request(retry)]` the derive gives a clone.
    fn again(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// What is wrong with it, for a [`Validation`](crate::Validation) that stands around its handler; nothing by default. With
    /// `#[request(validate)]` the derive asks [`Validate`](crate::Validate), with `#[request(validate = function)]` that function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), with all of it.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// What a request is answered with.
pub type Reply<R> = Result<<R as Request>::Response, <R as Request>::Error>;

/// Answers requests of type `R`. One handler value serves all of them, at the same time: what it needs stands in
/// its fields.
///
/// ```
/// use cqrs_core::{Context, Request, RequestHandler, Result};
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Add(u64, u64);
///
/// struct Adder;
///
/// impl RequestHandler<Add> for Adder {
///     async fn handle(&self, add: Add, _cx: &Context<'_>) -> Result<u64> {
///         Ok(add.0 + add.1)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the request `{R}`",
    label = "no `RequestHandler<{R}>` for this type",
    note = "write `impl RequestHandler<{R}> for {Self} {{ async fn handle(&self, request: {R}, cx: &Context<'_>) -> .. }}`",
    note = "a handler that wants a transaction implements `TransactionalHandler` and is bound as `Transactional::new(unit, handler)`, or with `.transactional(..)` of the bootstrap"
)]
pub trait RequestHandler<R: Request>: Send + Sync + 'static {
    /// Does the work. What happened is said with [`Context::emit`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future of [`RequestMediator::send`](crate::RequestMediator::send) drops this one at its
    /// current `.await`, and everything that was said with it.
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send;
}

impl<R: Request, H: RequestHandler<R>> RequestHandler<R> for Arc<H> {
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Future<Output = Reply<R>> + Send {
        H::handle(self, request, cx)
    }
}

/// A query that is answered with one item after the other.
///
/// ```
/// use cqrs_core::StreamRequest;
///
/// #[derive(StreamRequest)]
/// #[request(item = String)] // and `error = MyError`, where the default `cqrs_core::Error` will not do
/// struct ReadParticipants { meeting: u32 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a streaming request",
    label = "this is asked for, or answered, as a stream",
    note = "derive it: `#[derive(StreamRequest)] #[request(item = ..)]`"
)]
pub trait StreamRequest: Send + 'static {
    /// What comes.
    type Item: Send + 'static;

    /// How an item can fail. The toolkit's own failures must fit in.
    type Error: From<Error> + Send + 'static;

    /// As [`Request::IS_VALIDATED`], for a [`Validation`](crate::Validation) that is one of the
    /// [middlewares of streaming requests](crate::RequestMap::stream_middleware).
    const IS_VALIDATED: bool = false;

    /// The name in logs, traces and messages.
    fn name() -> &'static str {
        std::any::type_name::<Self>()
    }

    /// The same request once more, for a [`Retry`](crate::Retry) that stands around it and may begin its stream anew; `None` if it
    /// is not to be sent again by itself, which is the default. With `#[request(retry)]` the derive gives a clone.
    fn again(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// As [`Request::validate`].
    ///
    /// # Errors
    ///
    /// As there.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Answers streaming requests of type `R`.
///
/// ```
/// use cqrs_core::{Context, EventEmitter, RequestMap, RequestMediator, Result, StreamHandler, StreamRequest};
/// use futures_util::{Stream, TryStreamExt, stream};
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
/// let requests = RequestMap::new().bind_stream::<CountTo>(Counter);
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// let numbers: Vec<u32> = mediator.stream(CountTo(3)).try_collect().await?;
/// assert_eq!(numbers, [1, 2, 3]);
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer the streaming request `{R}`",
    label = "no `StreamHandler<{R}>` for this type",
    note = "write `impl StreamHandler<{R}> for {Self} {{ fn handle(&self, request: {R}, cx: &Context<'_>) -> impl Stream<Item = Result<..>> + Send }}`"
)]
pub trait StreamHandler<R: StreamRequest>: Send + Sync + 'static {
    /// The items, made when they are asked for: who reads slowly is not overrun. With the crate `async-stream` it is written as an
    /// `async` block that yields.
    ///
    /// What it says ([`Context::emit`]) before an item goes out before that item is given, what it says behind the last one at
    /// the end. An item that is an error does not end the stream, but drops what was said for it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream drops this one at its current `.await`, and what was said since the last item.
    fn handle(&self, request: R, cx: &Context<'_>) -> impl Stream<Item = Result<R::Item, R::Error>> + Send;
}
