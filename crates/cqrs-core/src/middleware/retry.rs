use super::{EventMiddleware, Middleware, Next, Placement};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::request::{Reply, Request};
use crate::retry_policy::RetryPolicy;
use crate::send_options::now;

/// Tries again what failed with an error that says that this may help ([`Retryable`]), as often and as far apart as a
/// [`RetryPolicy`] has it.
///
/// A request says for itself that it may be tried again ([`Request::again`], `#[request(retry)]`); the others pass once. What a
/// failed try said is dropped. Within a transaction nothing is tried again, for the database may have given it up already:
/// a retry stands around the transaction. It ends early where the [deadline](Context::deadline) leaves no time for the next wait,
/// and when the request is [cancelled](Context::cancellation).
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
#[derive(Clone, Debug, Default)]
pub struct Retry(RetryPolicy);

impl Retry {
    /// As this policy has it. One that makes no sense is an error when the mediator is built.
    pub fn new(policy: RetryPolicy) -> Self {
        Self(policy)
    }

    /// Waits behind a failure; whether to try again.
    async fn goes_on(&self, name: &str, failures: u32, retryable: bool, cx: &Context<'_>) -> bool {
        if failures >= self.0.max_attempts() || !retryable {
            return false;
        }
        let wait = self.0.random_delay(failures);
        if cx.deadline().is_some_and(|deadline| now().checked_add(wait).is_none_or(|then| then >= deadline)) {
            return false;
        }
        tracing::debug!(name, failures, ?wait, "tried again after a wait");
        let cancellation = cx.cancellation();
        cancellation.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
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
