use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs_core::Message;
use cqrs_core::broker::{BrokerError, Confirm, ErrorClass, MessageBroker, PublishSession, Receipt};
use tokio::time::timeout;

/// The present publish session of a relay. The last ones live as long as something of them waits for its confirm.
#[derive(Default)]
pub(crate) struct Session {
    present: Option<(u64, Option<Arc<Open>>)>,
}

struct Open {
    session: Arc<dyn PublishSession>,
    has_failed: AtomicBool,
}

/// An event that was handed over to a session.
pub(crate) struct InSession {
    confirm: Confirm,
    open: Arc<Open>,
}

/// Why an event was not confirmed.
pub(crate) struct NotConfirmed {
    pub(crate) error: BrokerError,
    /// It is what ended the session; the others failed with it.
    pub(crate) is_first: bool,
}

impl Session {
    /// Hands the message over to the session of this number, which is opened if it is new.
    pub(crate) fn enqueue(
        &mut self,
        broker: &dyn MessageBroker,
        number: u64,
        message: &Message,
        after: Option<&Receipt>,
    ) -> Result<InSession, NotConfirmed> {
        if self.present.as_ref().is_none_or(|(present, _)| *present != number) {
            self.present = Some((number, None));
            let session = broker.publish_session().map_err(NotConfirmed::first)?;
            tracing::info!(number, "opened a publish session");
            self.present =
                Some((number, Some(Arc::new(Open { session, has_failed: AtomicBool::new(false) }))));
        }
        // One that could not be opened stays so: nothing is to follow what it did not take.
        let Some((_, Some(open))) = &self.present else {
            let error = BrokerError::new(ErrorClass::Outage, "the publish session could not be opened");
            return Err(NotConfirmed { error, is_first: false });
        };
        match open.session.enqueue(message, after) {
            Ok(confirm) => Ok(InSession { confirm, open: Arc::clone(open) }),
            Err(error) => Err(open.failed(error)),
        }
    }
}

impl InSession {
    pub(crate) async fn confirmed(self, limit: Duration) -> Result<Receipt, NotConfirmed> {
        match timeout(limit, self.confirm).await {
            Ok(Ok(receipt)) => Ok(receipt),
            Ok(Err(error)) => Err(self.open.failed(error)),
            Err(_) => {
                // What is behind it could be sent any time later.
                self.open.session.abort();
                let error = BrokerError::new(ErrorClass::Unknown, format!("no confirm within {limit:?}"));
                Err(self.open.failed(error))
            }
        }
    }
}

impl Open {
    fn failed(&self, error: BrokerError) -> NotConfirmed {
        NotConfirmed { error, is_first: !self.has_failed.swap(true, Ordering::Relaxed) }
    }
}

impl NotConfirmed {
    fn first(error: BrokerError) -> Self {
        Self { error, is_first: true }
    }
}
