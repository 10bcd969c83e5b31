//! What goes along with a request.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::codec::Correlation;
use crate::error::{Error, ErrorKind};
use crate::scope::Scope;

/// What goes along with a request, and down through all requests within it: until when it has to be answered, by what it is
/// called off, which conversation it belongs to, and what is kept for its time. Nothing of it by default.
///
/// ```
/// use std::time::Duration;
/// use cqrs_core::{Context, ErrorKind, EventEmitter, Request, RequestHandler, RequestMap, RequestMediator, Result, SendOptions};
///
/// #[derive(Request)]
/// struct Sleep;
///
/// struct Sleeper;
///
/// impl RequestHandler<Sleep> for Sleeper {
///     async fn handle(&self, _: Sleep, cx: &Context<'_>) -> Result<()> {
///         assert!(cx.deadline().is_some());
///         std::future::pending().await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let mediator = RequestMediator::new(RequestMap::new().bind::<Sleep>(Sleeper), EventEmitter::default())?;
/// let quickly = SendOptions::default().with_timeout(Duration::from_millis(10));
/// assert_eq!(mediator.send_with(Sleep, &quickly).await.unwrap_err().kind(), ErrorKind::Timeout);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until a request is sent with them"]
pub struct SendOptions {
    pub(crate) correlation: Option<Correlation>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancellation: Option<CancellationToken>,
    pub(crate) scope: Option<Scope>,
}

impl SendOptions {
    /// The conversation that the request belongs to: what is said carries its ids.
    pub fn with_correlation(mut self, correlation: Correlation) -> Self {
        self.correlation = Some(correlation);
        self
    }

    /// By when it has to be answered, with its events. Then its handler, or that of an event, is dropped where it stands, and the send
    /// fails with [`ErrorKind::Timeout`], which is retryable unless the request has been carried out; nothing further is sent from
    /// within it. A time in the past fails at once.
    ///
    /// A stream has to be at its end by then, so the time that its reader takes between the items counts, too. Its error is retryable if
    /// it has given none: otherwise they would be given again.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same, counted from now. A time that no clock can show is none.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = now().checked_add(timeout);
        self
    }

    /// By what it is called off. Handlers see the token ([`Context::cancellation`](crate::Context::cancellation)) and end as they
    /// see fit; a request that has not begun fails with [`ErrorKind::Cancelled`]. To stop one where it stands, drop its future.
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.cancellation = Some(token);
        self
    }

    /// What is kept for the time of the request. By default each request from outside has a scope of its own; one that is sent
    /// within another keeps that one's, whatever is said here.
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}

/// By the clock of the runtime, which tests may stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cold]
pub(crate) fn too_late(name: &str) -> Error {
    Error::out_of_time(ErrorKind::Timeout, format!("the time for `{name}` is up")).with_retryable(true)
}

#[cold]
pub(crate) fn cancelled(request: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("`{request}` was cancelled before it began"))
}

#[cold]
pub(crate) fn commit_cut_off(name: &str) -> Error {
    Error::out_of_time(
        ErrorKind::CommitUnknown,
        format!(
            "the time for `{name}` is up, and a transaction in it has been committed, or may have been: look \
             for what it would have written before it is done again"
        ),
    )
}

#[cold]
pub(crate) fn events_cut_off(name: &str) -> Error {
    Error::out_of_time(
        ErrorKind::Timeout,
        format!(
            "the time for `{name}` is up while events go out: what came before them is done, and not all of them were handled"
        ),
    )
}

#[cold]
pub(crate) fn items_cut_off(name: &str, given: usize) -> Error {
    Error::out_of_time(
        ErrorKind::Timeout,
        format!("the time for `{name}` is up behind {given} of its items: who asks again gets these again"),
    )
}

#[cold]
pub(crate) fn too_deep(request: &str, depth: usize) -> Error {
    Error::new(
        ErrorKind::EventFlood,
        format!(
            "`{request}` would be sent from within {depth} other requests: end what leads to itself, or raise the limit with \
             `EventEmitter::with_max_depth`"
        ),
    )
}
