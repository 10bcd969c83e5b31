use std::future::Future;
use std::sync::Arc;

use super::request_handle::RequestHandle;
use super::request_mediator::RequestMediator;
use super::static_mediator::{HandlerFor, StaticMediator};
use crate::context::Context;
use crate::middleware::MiddlewareStack;
use crate::request::{Reply, Request};

/// Sends requests of type `R`: what code asks for that does not care which mediator it is given. A
/// [`RequestMediator`] and a [`Context`] send every request, a [`StaticMediator`] those that it has a handler for, a
/// [`RequestHandle`] its own.
///
/// ```
/// use cqrs_core::{Context, Dispatch, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result};
///
/// #[derive(Request)]
/// #[request(response = u64)]
/// struct Add(u64, u64);
///
/// async fn add_three(mediator: &impl Dispatch<Add>) -> Result<u64> {
///     let two = mediator.send(Add(1, 1)).await?;
///     mediator.send(Add(two, 1)).await
/// }
/// # struct Adder;
/// # impl RequestHandler<Add> for Adder {
/// #     async fn handle(&self, add: Add, _: &Context<'_>) -> Result<u64> { Ok(add.0 + add.1) }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let mediator = RequestMediator::new(RequestMap::new().bind::<Add>(Adder), EventEmitter::default())?;
/// assert_eq!(add_three(&mediator).await?, 3);
/// # Ok(()) }
/// ```
///
/// Tests give it a value of their own, or, with the feature `testing`, a `testing::TestMediator`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not send the request `{R}`",
    label = "no `Dispatch<{R}>` for this type",
    note = "a `RequestMediator` sends every request; a `StaticMediator` those that stand in its `mediator!`"
)]
pub trait Dispatch<R: Request>: Send + Sync {
    /// Sends the request to its handler and returns what it answers.
    ///
    /// # Errors
    ///
    /// As [`RequestMediator::send`].
    ///
    /// # Cancel safety
    ///
    /// As there.
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send;
}

impl<R: Request> Dispatch<R> for RequestMediator {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        RequestMediator::send(self, request)
    }
}

impl<R: Request> Dispatch<R> for RequestHandle<R> {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        RequestHandle::send(self, request)
    }
}

impl<R: Request> Dispatch<R> for Context<'_> {
    async fn send(&self, request: R) -> Reply<R> {
        Context::send(self, request).await
    }
}

impl<R: Request, H: HandlerFor<R, S>, S: MiddlewareStack<R>> Dispatch<R> for StaticMediator<H, S> {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        StaticMediator::send(self, request)
    }
}

impl<R: Request, D: Dispatch<R>> Dispatch<R> for Arc<D> {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        D::send(self, request)
    }
}

impl<R: Request, D: Dispatch<R>> Dispatch<R> for &D {
    fn send(&self, request: R) -> impl Future<Output = Reply<R>> + Send {
        D::send(self, request)
    }
}
