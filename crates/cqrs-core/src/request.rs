//! Commands and queries.

use std::future::Future;

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
    note = "derive it: `#[derive(Request)] #[request(response = ..)]`"
)]
pub trait Request: Send + 'static {
    /// What the handler answers.
    type Response: Send + 'static;

    /// How it can fail. The toolkit's own failures (no handler, a transaction that cannot commit) must fit in.
    type Error: From<Error> + Send + 'static;

    /// The name in logs, traces and messages.
    fn name() -> &'static str {
        std::any::type_name::<Self>()
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
