use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::state::Enqueued;
use super::{Shared, as_on_a_wire};
use crate::broker::error::{BrokerError, ErrorClass};
use crate::broker::publish::{Confirm, Receipt};
use crate::broker::session::PublishSession;
use crate::message::Message;

/// What is enqueued is stored at once, so nothing can overtake it; what is left is that nothing follows a failure.
pub(super) struct MemorySession {
    shared: Arc<Shared>,
    connection: u64,
    /// Changes under the lock, so that whoever comes next sees it.
    over: Arc<AtomicBool>,
    aborted: CancellationToken,
}

impl MemorySession {
    pub(super) fn new(shared: Arc<Shared>, connection: u64) -> Self {
        Self { shared, connection, over: Arc::default(), aborted: CancellationToken::new() }
    }

    fn take(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let message = Arc::new(as_on_a_wire(message));
        let mut state = self.shared.lock();
        if self.over.load(Ordering::Relaxed) {
            return Err(BrokerError::new(ErrorClass::Outage, "this session is over: open another"));
        }
        let taken =
            state.enqueue(&self.shared, self.connection, &message).and_then(|enqueued| match enqueued {
                // What it refuses it refuses at once.
                Enqueued::Taken(mut confirm) => match (&mut confirm).now_or_never() {
                    Some(outcome) => outcome.map(|receipt| Confirm::ready(Ok(receipt))),
                    None => Ok(confirm),
                },
                Enqueued::Full => Err(BrokerError::new(
                    ErrorClass::Outage,
                    "the in-memory broker has no room: its `capacity`",
                )),
            });
        taken.inspect_err(|_| self.over.store(true, Ordering::Relaxed))
    }
}

impl PublishSession for MemorySession {
    fn enqueue(&self, message: &Message, _after: Option<&Receipt>) -> Result<Confirm, BrokerError> {
        let confirm = self.take(message)?;
        let (over, aborted) = (Arc::clone(&self.over), self.aborted.clone());
        Ok(Confirm::new(async move {
            let outcome = aborted.run_until_cancelled_owned(confirm).await;
            let outcome = outcome.unwrap_or_else(|| {
                Err(BrokerError::new(
                    ErrorClass::Unknown,
                    "the session ended before the in-memory broker confirmed the message",
                ))
            });
            outcome.inspect_err(|_| over.store(true, Ordering::Relaxed))
        }))
    }

    fn abort(&self) {
        let _state = self.shared.lock();
        self.over.store(true, Ordering::Relaxed);
        self.aborted.cancel();
    }
}

impl fmt::Debug for MemorySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySession").field("over", &self.over).finish_non_exhaustive()
    }
}
