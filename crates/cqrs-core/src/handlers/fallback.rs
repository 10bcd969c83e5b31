use std::fmt;

use crate::context::{Context, Narrowed};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request, RequestHandler};
use crate::send_options::SendOptions;

/// A handler, and another one for when it fails. What the first one said is dropped then; what it did is not undone. Where nobody
/// knows whether its transaction was committed, that error is the answer, and the other one is not asked.
///
/// Of requests the type has to be `Clone`, for both are given one.
///
/// ```
/// use cqrs_core::{
///     Context, EventEmitter, Fallback, Request, RequestHandler, RequestMap, RequestMediator, Result,
/// };
///
/// #[derive(Clone, Request)]
/// #[request(response = u32)]
/// struct CountSeats;
///
/// struct FromDatabase;
/// struct FromCache;
///
/// impl RequestHandler<CountSeats> for FromDatabase {
///     async fn handle(&self, _: CountSeats, _: &Context<'_>) -> Result<u32> {
///         Err(std::io::Error::other("the database is away").into())
///     }
/// }
///
/// impl RequestHandler<CountSeats> for FromCache {
///     async fn handle(&self, _: CountSeats, _: &Context<'_>) -> Result<u32> {
///         Ok(7)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let either = Fallback::new(FromDatabase, FromCache)
///     .when(|error: &cqrs_core::Error| error.downcast_ref::<std::io::Error>().is_some());
/// let mediator =
///     RequestMediator::new(RequestMap::new().bind::<CountSeats>(either), EventEmitter::default())?;
/// assert_eq!(mediator.send(CountSeats).await?, 7);
/// # Ok(()) }
/// ```
#[must_use = "a handler does nothing until it is bound"]
pub struct Fallback<P, F, W = Always> {
    primary: P,
    fallback: F,
    when: W,
}

impl<P, F> Fallback<P, F> {
    /// The second one is asked whenever the first one fails.
    pub fn new(primary: P, fallback: F) -> Self {
        Self { primary, fallback, when: Always }
    }

    /// Only if the error is one of these; others are the answer.
    pub fn when<W>(self, when: W) -> Fallback<P, F, W> {
        Fallback { primary: self.primary, fallback: self.fallback, when }
    }
}

/// For which errors a [`Fallback`] is asked: a function of the error, or [`Always`].
pub trait When<E>: Send + Sync + 'static {
    /// Whether it is one of these.
    fn holds(&self, error: &E) -> bool;
}

/// For all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Always;

impl<E> When<E> for Always {
    fn holds(&self, _: &E) -> bool {
        true
    }
}

impl<E, F: Fn(&E) -> bool + Send + Sync + 'static> When<E> for F {
    fn holds(&self, error: &E) -> bool {
        self(error)
    }
}

impl<P, F, W> Fallback<P, F, W> {
    /// What the first one has answered, unless the other one is to be asked.
    fn settled<T, E: fmt::Display>(
        &self,
        name: &str,
        answer: Result<T, E>,
        narrowed: &Narrowed<'_>,
    ) -> Option<Result<T, E>>
    where
        W: When<E>,
    {
        match answer {
            Err(error) if !narrowed.is_commit_unknown() && self.when.holds(&error) => {
                tracing::warn!(name, error = format!("{error:#}"), "failed, and the fallback is asked");
                None
            }
            answer => Some(answer),
        }
    }
}

impl<R, P, F, W> RequestHandler<R> for Fallback<P, F, W>
where
    R: Request + Clone,
    R::Error: fmt::Display,
    P: RequestHandler<R>,
    F: RequestHandler<R>,
    W: When<R::Error>,
{
    async fn handle(&self, request: R, cx: &Context<'_>) -> Reply<R> {
        let options = SendOptions::default();
        let narrowed = Narrowed::new(Some(cx), &options);
        let mut tried = cx.narrowed(&narrowed);
        let answer = self.primary.handle(request.clone(), &tried).await;
        if answer.is_ok() {
            cx.extend_by(&mut tried);
        }
        match self.settled(R::name(), answer, &narrowed) {
            Some(answer) => answer,
            None => self.fallback.handle(request, cx).await,
        }
    }
}

impl<E, P, F, W> EventHandler<E> for Fallback<P, F, W>
where
    E: Event,
    P: EventHandler<E>,
    F: EventHandler<E>,
    W: When<Error>,
{
    async fn handle(&self, event: &E, cx: &Context<'_>) -> Result<()> {
        let options = SendOptions::default();
        let narrowed = Narrowed::new(Some(cx), &options);
        let mut tried = cx.narrowed(&narrowed);
        let answer = self.primary.handle(event, &tried).await;
        if answer.is_ok() {
            cx.extend_by(&mut tried);
        }
        match self.settled(E::NAME, answer, &narrowed) {
            Some(answer) => answer,
            None => self.fallback.handle(event, cx).await,
        }
    }

    fn name(&self) -> &str {
        self.primary.name()
    }
}

impl<P: fmt::Debug, F: fmt::Debug, W> fmt::Debug for Fallback<P, F, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("primary", &self.primary)
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}
