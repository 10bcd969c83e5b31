//! What is kept for a time, and how it goes.

use std::convert::Infallible;
use std::time::Duration;

use cqrs_core::Result;

use crate::backend::Backend;
use crate::error::store_error;
use crate::outbox::{Outbox, commit};
use crate::query::Query;
use crate::statements::limit;

impl<B: Backend> Outbox<B> {
    /// Removes events that were sent longer ago than this, by the database's clock, and had been kept (`keep_sent` of the
    /// builders); in transactions of `chunk` each; says how many. What waits, and dead letters, are not touched. Call it now and
    /// then, in the background: several at once share the work.
    ///
    /// ```no_run
    /// # async fn purge(outbox: &cqrs_outbox_diesel::Outbox<cqrs_outbox_diesel::Pg>) -> cqrs_core::Result<()> {
    /// use std::time::Duration;
    ///
    /// let week = Duration::from_secs(7 * 24 * 3_600);
    /// let removed = outbox.purge_sent(week, 1_000).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Store`](cqrs_core::ErrorKind::Store); what was removed before stays removed.
    ///
    /// # Cancel safety
    ///
    /// Safe: it goes on where it was when it is called again.
    pub async fn purge_sent(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge(B::DIALECT.purge_sent, older_than, chunk).await
    }

    /// Purges what was sent, now and then, for ever: beside a relay, for what is to be kept for a time only.
    ///
    /// ```no_run
    /// # use cqrs_outbox_diesel::{Outbox, Pg};
    /// # async fn serve() -> cqrs_core::Result<()> { Ok(()) }
    /// # async fn run() -> cqrs_core::Result<()> {
    /// use std::time::Duration;
    ///
    /// let outbox = Outbox::<Pg>::builder("postgres://localhost/meetings").keep_sent(true).connect().await?;
    /// let week = Duration::from_secs(7 * 24 * 3_600);
    /// tokio::select! {
    ///     ended = serve() => ended, // the application, or its relay
    ///     never = outbox.purge_sent_for_ever(week) => match never {},
    /// }
    /// # }
    /// ```
    ///
    /// It looks each minute, or more often where the time is short: what was sent may be kept for a tenth of the time longer. While
    /// the database is away it says so in the log, and tries again.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn purge_sent_for_ever(&self, older_than: Duration) -> Infallible {
        let pause = (older_than / 10).clamp(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            match self.purge_sent(older_than, 500).await {
                Ok(0) => {}
                Ok(removed) => tracing::debug!(removed, "what was sent long ago was removed"),
                Err(error) => {
                    tracing::warn!(error = %format!("{error:#}"), "what was sent long ago cannot be removed; trying again");
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Removes what the inbox knows of messages that were handled longer ago than this, as [`purge_sent`](Self::purge_sent)
    /// does. A message that comes again after that has its effect again: keep it for longer than any broker may redeliver.
    ///
    /// # Errors
    ///
    /// As for [`purge_sent`](Self::purge_sent).
    ///
    /// # Cancel safety
    ///
    /// As for [`purge_sent`](Self::purge_sent).
    pub async fn purge_inbox(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge(B::DIALECT.purge_inbox, older_than, chunk).await
    }

    /// Removes requests that were done longer ago than this, as [`purge_sent`](Self::purge_sent) does. Open ones stay.
    ///
    /// # Errors
    ///
    /// As for [`purge_sent`](Self::purge_sent).
    ///
    /// # Cancel safety
    ///
    /// As for [`purge_sent`](Self::purge_sent).
    pub async fn purge_requests(&self, older_than: Duration, chunk: usize) -> Result<u64> {
        self.purge(B::DIALECT.purge_requests, older_than, chunk).await
    }

    async fn purge(&self, statement: &'static str, older_than: Duration, chunk: usize) -> Result<u64> {
        let (chunk, mut purged) = (chunk.max(1), 0);
        let seconds = older_than.min(LONGEST).as_secs_f64();
        loop {
            let mut tx = self.begin_short().await.map_err(|error| self.failed(error))?;
            let query = Query::new(statement).bind(seconds).bind(limit(chunk));
            let some =
                B::execute(&mut tx.on(), query).await.map_err(|error| self.failed(store_error(error)))?;
            commit(tx).await.map_err(|error| self.failed(error))?;
            purged += some as u64;
            if some < chunk {
                return Ok(purged);
            }
        }
    }
}

/// A thousand years: dates of the databases go no further, back or forth.
pub(crate) const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);
