//! What is kept for a time, and how it goes.

use std::convert::Infallible;
use std::time::Duration;

use cqrs_core::Result;
use cqrs_outbox::{Kept, Retention, StoreError};

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
        self.purge(B::DIALECT.purge_sent, older_than, chunk).await.map_err(|error| self.failed(error))
    }

    /// Removes what has passed its time, now and then, for ever: beside a relay of your own. An application of
    /// `cqrs-bootstrap`, and the program `cqrs relay`, do it by themselves.
    ///
    /// ```no_run
    /// # use cqrs_outbox_diesel::{Outbox, Pg};
    /// # async fn serve() -> cqrs_core::Result<()> { Ok(()) }
    /// # async fn run() -> cqrs_core::Result<()> {
    /// use std::time::Duration;
    /// use cqrs_outbox::Retention;
    ///
    /// let outbox = Outbox::<Pg>::builder("postgres://localhost/meetings").keep_sent(true).connect().await?;
    /// let a_week = Retention::default().sent(Duration::from_secs(7 * 24 * 3_600));
    /// tokio::select! {
    ///     ended = serve() => ended, // the relay
    ///     never = outbox.purge_for_ever(&a_week) => match never {},
    /// }
    /// # }
    /// ```
    ///
    /// It looks each minute, or more often where a time is short: what is kept may be there for a tenth of its time longer. While
    /// the database is away it says so in the log, and tries again.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn purge_for_ever(&self, retention: &Retention) -> Infallible {
        retention.purge_for_ever(self).await
    }

    pub(crate) async fn purge_kept(&self, kept: Kept, older_than: Duration) -> Result<u64, StoreError> {
        match kept {
            Kept::Sent => self.purge(B::DIALECT.purge_sent, older_than, CHUNK).await,
            Kept::Requests => self.purge(B::DIALECT.purge_requests, older_than, CHUNK).await,
            Kept::Inbox => self.purge(B::DIALECT.purge_inbox, older_than, CHUNK).await,
            Kept::DedupKeys => self.try_purge_dedup(CHUNK).await,
            // Of a kind that this version knows nothing of, it keeps nothing.
            _ => Ok(0),
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
        self.purge(B::DIALECT.purge_inbox, older_than, chunk).await.map_err(|error| self.failed(error))
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
        self.purge(B::DIALECT.purge_requests, older_than, chunk).await.map_err(|error| self.failed(error))
    }

    async fn purge(
        &self,
        statement: &'static str,
        older_than: Duration,
        chunk: usize,
    ) -> Result<u64, StoreError> {
        let (chunk, mut purged) = (chunk.max(1), 0);
        let seconds = older_than.min(LONGEST).as_secs_f64();
        loop {
            let mut tx = self.begin_short().await?;
            let query = Query::new(statement).bind(seconds).bind(limit(chunk));
            let some = B::execute(&mut tx.on(), query).await.map_err(store_error)?;
            commit(tx).await?;
            purged += some as u64;
            if some < chunk {
                return Ok(purged);
            }
        }
    }
}

/// So many with each transaction, so that it is a short one.
const CHUNK: usize = 500;

/// A thousand years: dates of the databases go no further, back or forth.
pub(crate) const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);
