use std::pin::pin;
use std::time::Duration;

use async_stream::stream;
use futures_util::{Stream, StreamExt};

use super::stream::run_in;
use super::{EventMiddleware, Middleware, Next, Placement, StreamMiddleware};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request, StreamHandler, StreamRequest};
use crate::retry_policy::RetryPolicy;
use crate::send_options::now;

/// Tries again what failed with an error that says that this may help ([`Retryable`]), as often and as far apart as a
/// [`RetryPolicy`] has it.
///
/// A request says for itself that it may be tried again ([`Request::again`], [`StreamRequest::again`], `#[request(retry)]`); the others
/// pass once. What a failed try said is dropped. Within a transaction nothing is tried again, for the database may have given it up
/// already: a retry stands around the transaction. It ends early where the [deadline](Context::deadline) leaves no time for the next
/// wait, and when the request is [cancelled](Context::cancellation).
///
/// A stream begins anew only before it has given anything: where it would give such an error first, it is dropped and the handler is asked
/// for another one. An error behind the first item goes to the reader, who has items already and would get them
/// again. A stream that gives such an error first and could go on is begun anew all the same, until the last attempt.
///
/// A second one within it is refused when the mediator is built: their attempts would multiply.
///
/// ```
/// use cqrs_core::{Request, RequestMap, Retry, RetryPolicy};
///
/// #[derive(Clone, Request)]
/// #[request(retry)]
/// struct CloseRoom { room: u32 }
///
/// let requests = RequestMap::new().middleware(Retry::new(RetryPolicy::default().with_max_attempts(3)));
/// ```
///
/// Around a streaming request ([`RequestMap::stream_middleware`](crate::RequestMap::stream_middleware)):
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// use cqrs_core::{
///     Context, Error, ErrorKind, EventEmitter, RequestMap, RequestMediator, Result, Retry, RetryPolicy, StreamHandler, StreamRequest,
/// };
/// use futures_util::{Stream, TryStreamExt, stream};
///
/// #[derive(Clone, StreamRequest)]
/// #[request(item = u32, retry)]
/// struct ReadRooms;
///
/// /// Cannot connect the first time.
/// #[derive(Default)]
/// struct Rooms(AtomicBool);
///
/// impl StreamHandler<ReadRooms> for Rooms {
///     fn handle(&self, _: ReadRooms, _: &Context<'_>) -> impl Stream<Item = Result<u32>> + Send {
///         stream::iter(if self.0.swap(true, Ordering::Relaxed) {
///             vec![Ok(1), Ok(2)]
///         } else {
///             vec![Err(Error::new(ErrorKind::Store, "no connection").with_retryable(true))]
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let soon = RetryPolicy::default().with_first_delay(Duration::from_millis(1));
/// let requests = RequestMap::new().stream_middleware(Retry::new(soon)).bind_stream::<ReadRooms>(Rooms::default());
/// let mediator = RequestMediator::new(requests, EventEmitter::default())?;
/// let rooms: Vec<u32> = mediator.stream(ReadRooms).try_collect().await?;
/// assert_eq!(rooms, [1, 2]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Retry(RetryPolicy);

impl Retry {
    /// As this policy has it. One that makes no sense is an error when the mediator is built.
    pub fn new(policy: RetryPolicy) -> Self {
        Self(policy)
    }

    /// Waits behind a failure; whether to try again.
    async fn goes_on(&self, name: &str, failures: u32, retryable: bool, cx: &Context<'_>) -> bool {
        match self.wait_behind(failures, retryable, cx) {
            Some(wait) => waited(name, failures, wait, cx).await,
            None => false,
        }
    }

    /// How long to wait behind a failure, if it is to be tried again.
    fn wait_behind(&self, failures: u32, retryable: bool, cx: &Context<'_>) -> Option<Duration> {
        if failures >= self.0.max_attempts() || !retryable {
            return None;
        }
        let wait = self.0.random_delay(failures);
        let is_in_time = |deadline| now().checked_add(wait).is_some_and(|then| then < deadline);
        cx.deadline().is_none_or(is_in_time).then_some(wait)
    }

    fn checked(&self, placement: &Placement) -> Result<(), String> {
        if placement.is_within::<Self>() {
            return Err(
                "a `Retry` stands within another one, so that their attempts multiply: remove one of them"
                    .to_owned(),
            );
        }
        match self.0.problems().collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(problems.join("; ")),
        }
    }
}

/// Whether the wait came to its end, and was not cancelled.
async fn waited(name: &str, failures: u32, wait: Duration, cx: &Context<'_>) -> bool {
    tracing::debug!(name, failures, ?wait, "tried again after a wait");
    let cancellation = cx.cancellation();
    cancellation.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
}

impl<R: Request> Middleware<R> for Retry
where
    R::Error: Retryable,
{
    async fn call<N: Next<R>>(&self, mut request: R, cx: &Context<'_>, next: &N) -> Reply<R> {
        let mut failures = 0;
        while failures + 1 < self.0.max_attempts()
            && !cx.is_in_transaction()
            && let Some(again) = request.again()
        {
            // Of its own, so that what middlewares within say in a try that fails is forgotten, too.
            let mut tried = cx.nested();
            let error = match next.run(request, &tried).await {
                Ok(response) => {
                    cx.extend_by(&mut tried);
                    return Ok(response);
                }
                Err(error) => error,
            };
            failures += 1;
            if !self.goes_on(R::name(), failures, error.is_retryable(), cx).await {
                return Err(error);
            }
            request = again;
        }
        next.run(request, cx).await
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        self.checked(placement)
    }
}

impl<E: Event> EventMiddleware<E> for Retry {
    async fn call<N: EventHandler<E>>(&self, event: &E, cx: &Context<'_>, next: &N) -> Result<()> {
        let mut failures = 0;
        loop {
            let mut tried = cx.nested();
            let Err(error) = next.handle(event, &tried).await else {
                cx.extend_by(&mut tried);
                return Ok(());
            };
            failures += 1;
            if cx.is_in_transaction() || !self.goes_on(E::NAME, failures, error.is_retryable(), cx).await {
                return Err(error);
            }
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        self.checked(placement)
    }
}

impl<R: StreamRequest> StreamMiddleware<R> for Retry
where
    R::Error: Retryable,
{
    fn call<N: StreamHandler<R>>(
        &self,
        mut request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        stream! {
            let mut failures = 0;
            while failures + 1 < self.0.max_attempts()
                && !cx.is_in_transaction()
                && let Some(again) = request.again()
            {
                let (error, wait) = {
                    let mut items = pin!(run_in(request, cx, next, cx.nested()));
                    let first = items.next().await;
                    let wait = match &first {
                        Some(Err(error)) => self.wait_behind(failures + 1, error.is_retryable(), cx),
                        _ => None,
                    };
                    match (first, wait) {
                        // What is left of it is dropped before the wait, with what it holds.
                        (Some(Err(error)), Some(wait)) => (error, wait),
                        (first, _) => {
                            if let Some(first) = first {
                                yield first;
                                while let Some(item) = items.next().await {
                                    yield item;
                                }
                            }
                            return;
                        }
                    }
                };
                failures += 1;
                if !waited(R::name(), failures, wait, cx).await {
                    yield Err(error);
                    return;
                }
                request = again;
            }
            let mut items = pin!(next.handle(request, cx));
            while let Some(item) = items.next().await {
                yield item;
            }
        }
    }

    fn check(&self, placement: &Placement) -> Result<(), String> {
        self.checked(placement)
    }
}

/// An error that knows whether doing the same again can succeed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether a request that failed with it may be tried again",
    note = "`impl Retryable for {Self} {{ fn is_retryable(&self) -> bool {{ .. }} }}`"
)]
pub trait Retryable {
    /// Whether it does.
    fn is_retryable(&self) -> bool;
}

impl Retryable for Error {
    fn is_retryable(&self) -> bool {
        Error::is_retryable(self)
    }
}
