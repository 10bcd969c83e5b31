use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::error::BrokerError;

/// Second half of a publish: resolves when the broker has the message, or is known not to have it.
///
/// Dropping it takes nothing back; the message may still arrive.
#[must_use = "a message whose confirm was not awaited may be lost"]
pub struct Confirm(State);

enum State {
    Ready(Option<Result<Receipt, BrokerError>>),
    Waiting(Pin<Box<dyn Future<Output = Result<Receipt, BrokerError>> + Send>>),
}

impl Confirm {
    /// A confirm that resolves as the future does.
    pub fn new(outcome: impl Future<Output = Result<Receipt, BrokerError>> + Send + 'static) -> Self {
        Self(State::Waiting(Box::pin(outcome)))
    }

    /// A confirm that is known already.
    pub fn ready(outcome: Result<Receipt, BrokerError>) -> Self {
        Self(State::Ready(Some(outcome)))
    }
}

impl Future for Confirm {
    type Output = Result<Receipt, BrokerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Waiting(outcome) => outcome.as_mut().poll(cx),
            // Pending after the outcome was taken: a future that has completed is not to be polled again.
            State::Ready(outcome) => outcome.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Ready(outcome) => f.debug_tuple("Confirm").field(outcome).finish(),
            State::Waiting(_) => f.write_str("Confirm(..)"),
        }
    }
}

/// The broker has the message, and where, as far as it says so.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The partition, where the broker has partitions.
    pub partition: Option<i32>,
    /// The position within the partition or topic, where the broker tells it.
    pub offset: Option<i64>,
}

impl Receipt {
    /// The broker has the message; it does not say where.
    pub fn new() -> Self {
        Self::default()
    }

    /// The broker has the message at this position.
    pub fn at(partition: i32, offset: i64) -> Self {
        Self { partition: Some(partition), offset: Some(offset) }
    }
}
