use std::time::Duration;

use futures_util::Stream;

use super::step::{Step, for_requests_and_events};
use super::stream::run_within;
use super::{Placement, StreamMiddleware};
use crate::context::{Context, Narrowed};
use crate::error::{Error, Result};
use crate::request::{StreamHandler, StreamRequest};
use crate::send_options::SendOptions;

/// Drops a handler that takes longer than that, and answers with an error of kind [`Timeout`](crate::ErrorKind::Timeout).
///
/// A transaction of the handler is rolled back; what it said is dropped. If the time is up while a transaction is being
/// committed, or behind that, the error has the kind [`CommitUnknown`](crate::ErrorKind::CommitUnknown), which a [`Retry`](crate::Retry) does not try
/// again. Handlers of the events that a request said are not within it.
/// Handlers see the time ([`Context::deadline`]), and it holds for the requests within them.
///
/// A stream has so long for all its items together, from when the first one is asked for, and ends with that error if it has not come
/// to its end. The time that its reader takes between the items counts, too: give a stream that is read slowly more of it, or none.
/// The error is retryable if the stream has given no item, as that of a request is; behind an item it is not, for whoever tries again
/// would get it again.
///
/// Place it within a [`Retry`](crate::Retry) for a limit on each try, and around it for one on all of them.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{RequestMap, Timeout};
///
/// let requests = RequestMap::new().middleware(Timeout::after(Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Timeout(Duration);

impl Timeout {
    /// So long a handler may take; zero is an error when the mediator is built.
    pub fn after(limit: Duration) -> Self {
        Self(limit)
    }

    fn checked(&self) -> Result<(), String> {
        if self.0.is_zero() {
            return Err("a `Timeout` of zero fails each handler: give them some time".to_owned());
        }
        Ok(())
    }

    async fn around<T, E: From<Error>>(&self, step: impl Step<T, E>, cx: &Context<'_>) -> Result<T, E> {
        let options = SendOptions::default().with_timeout(self.0);
        step.run_within(cx, Narrowed::new(Some(cx), &options)).await
    }
}

for_requests_and_events!(Timeout {
    fn check(&self, _: &Placement) -> Result<(), String> {
        self.checked()
    }
});

impl<R: StreamRequest> StreamMiddleware<R> for Timeout {
    fn call<N: StreamHandler<R>>(
        &self,
        request: R,
        cx: &Context<'_>,
        next: &N,
    ) -> impl Stream<Item = Result<R::Item, R::Error>> + Send {
        run_within(request, cx, next, SendOptions::default().with_timeout(self.0), None)
    }

    fn check(&self, _: &Placement) -> Result<(), String> {
        self.checked()
    }
}
