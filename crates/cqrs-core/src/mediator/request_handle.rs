use std::fmt;
use std::sync::Arc;

use super::handlers::Call;
use super::request_mediator::{Core, Sending};
use crate::codec::Correlation;
use crate::context::{Narrowed, Origin};
use crate::request::Request;
use crate::send_options::SendOptions;

/// The way to the handler of one request, looked up once ([`RequestMediator::handle_of`](crate::RequestMediator::handle_of)) and
/// used often. Cheap to clone; it keeps what the mediator is made of.
///
/// ```
/// use cqrs_core::{Context, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result};
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Add(u64, u64);
///
/// struct Adder;
///
/// impl RequestHandler<Add> for Adder {
///     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> {
///         Ok(add.0 + add.1)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let mediator = RequestMediator::new(RequestMap::new().bind::<Add>(Adder), EventEmitter::default())?;
/// let adding = mediator.handle_of::<Add>()?;
/// assert_eq!(adding.send(Add(1, 2)).await?, 3);
/// assert_eq!(adding.send(Add(3, 4)).await?, 7);
/// # Ok(()) }
/// ```
pub struct RequestHandle<R: Request> {
    pub(super) handler: Arc<dyn Call<R>>,
    pub(super) core: Arc<Core>,
}

impl<R: Request> RequestHandle<R> {
    /// As [`RequestMediator::send`](crate::RequestMediator::send), but never for want of a handler.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub fn send(&self, request: R) -> Sending<'_, R> {
        Sending::running(self.handler.call(request, &self.core, Origin::Root))
    }

    /// The same as part of a conversation: what is said carries its ids.
    pub fn send_correlated<'a>(&'a self, request: R, correlation: &'a Correlation) -> Sending<'a, R> {
        Sending::running(self.handler.call(request, &self.core, Origin::Correlated(correlation)))
    }

    /// As [`RequestMediator::send_with`](crate::RequestMediator::send_with).
    pub fn send_with<'a>(&'a self, request: R, options: &'a SendOptions) -> Sending<'a, R> {
        Sending::running(Box::pin(async move {
            let narrowed = Narrowed::new(None, options);
            let call = self.handler.call(request, &self.core, Origin::Narrowed(&narrowed));
            narrowed.limit(R::name(), call).await
        }))
    }
}

impl<R: Request> Clone for RequestHandle<R> {
    fn clone(&self) -> Self {
        Self { handler: Arc::clone(&self.handler), core: Arc::clone(&self.core) }
    }
}

impl<R: Request> fmt::Debug for RequestHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHandle").field("request", &R::name()).finish_non_exhaustive()
    }
}
