//! What is kept for a time only goes while the application runs.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use cqrs_consumer::Inbox;
use cqrs_core::{Database, Result};
use cqrs_outbox::{OutboxStore, Retention};
use futures_util::future::BoxFuture;

/// An inbox, whatever its kind of database.
type PurgeInbox = dyn Fn(Duration) -> BoxFuture<'static, Result<u64>> + Send + Sync;

/// Removes what has passed its time, from the outbox and from the inbox.
pub(crate) struct Purging {
    retention: Retention,
    store: Option<Arc<dyn OutboxStore>>,
    inbox: Option<Box<PurgeInbox>>,
}

impl Purging {
    pub(crate) fn new(retention: Retention) -> Self {
        Self { retention, store: None, inbox: None }
    }

    /// What is wrong with the times.
    pub(crate) fn problem(&self) -> Option<String> {
        self.retention.validate().err().map(|error| error.to_string())
    }

    pub(crate) fn store(mut self, store: Option<Arc<dyn OutboxStore>>) -> Self {
        self.store = store;
        self
    }

    pub(crate) fn inbox<D: Database>(mut self, inbox: Option<Arc<dyn Inbox<D>>>) -> Self {
        self.inbox = inbox.map(|inbox| {
            Box::new(move |older_than| -> BoxFuture<'static, _> {
                let inbox = Arc::clone(&inbox);
                Box::pin(async move { inbox.purge(older_than).await })
            }) as Box<PurgeInbox>
        });
        self
    }

    /// Never ends; dropping it stops it.
    pub(crate) async fn for_ever(&self) -> Infallible {
        tokio::select! {
            never = self.outbox_for_ever() => never,
            never = self.inbox_for_ever() => never,
        }
    }

    async fn outbox_for_ever(&self) -> Infallible {
        let Some(store) = &self.store else { return pending().await };
        let mut retention = self.retention.clone();
        if self.inbox.is_some() {
            // It is asked itself, for it may be another one than the outbox's.
            retention.inbox = None;
        }
        retention.purge_for_ever(&**store).await
    }

    async fn inbox_for_ever(&self) -> Infallible {
        let (Some(purge), Some(time)) = (&self.inbox, self.retention.inbox) else { return pending().await };
        loop {
            match purge(time).await {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::debug!(removed, "what the inbox knew has passed its time and was removed")
                }
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "what the inbox knows cannot be removed; trying again");
                }
            }
            tokio::time::sleep(self.retention.pause()).await;
        }
    }
}

impl fmt::Debug for Purging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purging").field("retention", &self.retention).finish_non_exhaustive()
    }
}
