use std::any::type_name;
use std::fmt;
use std::future::Future;

use crate::context::Context;
use crate::error::Result;
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request, RequestHandler};
use crate::scope::Scope;

/// A handler that is made for each request or event, by a function that may wait and may fail, from what the request's
/// [`Scope`] has: for state that belongs to one request. It is dropped when it has handled; what is to live until the request's
/// events are handled, and to be shared with their handlers, stands in the scope.
///
/// ```
/// use cqrs_core::{
///     Context, EventEmitter, Factory, Request, RequestHandler, RequestMap, RequestMediator, Result, Scope,
/// };
/// # use std::sync::Arc;
///
/// #[derive(Request)]
/// #[request(response = u32)]
/// struct CountSeats;
///
/// struct Session { number: u32 }
///
/// async fn open_session() -> Result<Session> {
///     Ok(Session { number: 7 })
/// }
///
/// struct CountSeatsHandler { session: Arc<Session> }
///
/// impl RequestHandler<CountSeats> for CountSeatsHandler {
///     async fn handle(&self, _: CountSeats, _: &Context<'_>) -> Result<u32> {
///         Ok(self.session.number)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let made = Factory::new(|scope: Scope| async move {
///     Ok(CountSeatsHandler { session: scope.get_or_try_init(open_session).await? })
/// });
/// let mediator = RequestMediator::new(RequestMap::new().bind::<CountSeats>(made), EventEmitter::default())?;
/// assert_eq!(mediator.send(CountSeats).await?, 7);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a factory does nothing until it is bound"]
pub struct Factory<F>(F);

impl<F> Factory<F> {
    /// Handlers are made by this function.
    pub fn new<H, M>(make: F) -> Self
    where
        F: Fn(Scope) -> M + Send + Sync + 'static,
        M: Future<Output = Result<H>> + Send,
    {
        Self(make)
    }
}

impl<R, F, M, H> RequestHandler<R> for Factory<F>
where
    R: Request,
    F: Fn(Scope) -> M + Send + Sync + 'static,
    M: Future<Output = Result<H>> + Send,
    H: RequestHandler<R>,
{
    async fn handle(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        let handler = (self.0)(cx.scope()).await?;
        handler.handle(request, cx).await
    }
}

impl<E, F, M, H> EventHandler<E> for Factory<F>
where
    E: Event,
    F: Fn(Scope) -> M + Send + Sync + 'static,
    M: Future<Output = Result<H>> + Send,
    H: EventHandler<E>,
{
    async fn handle(&self, event: &E, cx: &Context<'_>) -> Result<()> {
        let handler = (self.0)(cx.scope()).await?;
        handler.handle(event, cx).await
    }

    fn name(&self) -> &str {
        type_name::<H>()
    }
}

impl<F> fmt::Debug for Factory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Factory").field(&type_name::<F>()).finish()
    }
}
