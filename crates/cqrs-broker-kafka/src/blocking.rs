//! Calls into librdkafka that block, kept off the threads that run tasks.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cqrs_core::broker::{BrokerError, ErrorClass};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long the end of a runtime, or a thread without one, waits for what was begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long from one look to the next whether others still have a client.
const OTHERS: Duration = Duration::from_millis(5);

/// Runs it on a thread for blocking work: the runtime does not end before it does.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(cut_short().with_source(error)))
}

/// Runs it on a thread of its own, which the runtime does not wait for, with an end to the waiting: while the cluster is away, some
/// calls do not come back. What was begun runs on behind it.
pub(crate) async fn run_within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    let (done, ended) = oneshot::channel();
    // Where there is no thread to be had the work is dropped, and so is the sender.
    let _ = thread::Builder::new().spawn(move || done.send(work()));
    match tokio::time::timeout(limit, ended).await {
        Ok(ended) => ended.unwrap_or_else(|_| Err(cut_short())),
        Err(_) => Err(BrokerError::new(
            ErrorClass::Outage,
            format!("{what}: no answer within {limit:?}: see that the brokers are up and can be reached"),
        )),
    }
}

fn cut_short() -> BrokerError {
    BrokerError::new(ErrorClass::Unknown, "a call into the Kafka client was cut short")
}

/// Begins it where it holds up nobody, but for the end of the runtime, for a while.
pub(crate) fn begin(work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let _ = thread::Builder::new().spawn(move || {
        work();
        drop(done);
    });
    let wait = Wait { ended, until: Instant::now() + PATIENCE };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(wait))),
        Err(_) => drop(wait),
    }
}

/// Waits as it is dropped, for a runtime that is ending drops what it does not begin any more.
struct Wait {
    ended: mpsc::Receiver<()>,
    until: Instant,
}

impl Drop for Wait {
    fn drop(&mut self) {
        // Either it is done, or nobody waits any longer.
        let _ = self.ended.recv_timeout(self.until.saturating_duration_since(Instant::now()));
    }
}

/// Drops a client on a thread of its own: that waits for its threads, and for the cluster as long as that is away.
pub(crate) fn discard<T: Send + Sync + 'static>(client: Arc<T>) {
    begin(move || drop_last(client));
}

/// Drops it after all others that have it, so that it is not dropped by one of them on a thread that runs tasks. Blocks.
pub(crate) fn drop_last<T>(mut client: Arc<T>) {
    while let Err(shared) = Arc::try_unwrap(client) {
        client = shared;
        thread::sleep(OTHERS);
    }
}
