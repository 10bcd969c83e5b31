//! Calls into librdkafka that block, kept off the threads that run tasks.

use std::time::Duration;

use cqrs_core::broker::{BrokerError, ErrorClass};
use tokio::runtime::Handle;

/// Runs it on a thread for blocking work.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(BrokerError::new(ErrorClass::Unknown, "a call into the Kafka client was cut short")
            .with_source(error))
    })
}

/// The same, with an end to the waiting. What was begun runs on behind it.
pub(crate) async fn run_within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::time::timeout(limit, run(work)).await.unwrap_or_else(|_| {
        Err(BrokerError::new(
            ErrorClass::Outage,
            format!("{what}: no answer within {limit:?}: see that the brokers are up and can be reached"),
        ))
    })
}

/// Begins it where it holds up nobody.
pub(crate) fn begin(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

/// Drops a client: that waits for its threads.
pub(crate) fn discard<T: Send + 'static>(client: T) {
    begin(move || drop(client));
}
