//! Several relays in one process.

use std::any::Any;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cqrs_core::{Error, ErrorKind, Result, WithCauses};
use futures_util::future::{FutureExt, select_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::relay::OutboxRelay;
use crate::retention::Retention;
use crate::stats::RelayStats;

#[cfg(test)]
mod tests;

/// The relays of several databases, or schemas, in one process; most often over one broker, which they share.
///
/// Each is an [`OutboxRelay`] with settings of its own, and runs in a task of its own. What bounds a relay's memory
/// ([`max_rows`](crate::RelaySettings::max_rows), [`max_bytes`](crate::RelaySettings::max_bytes)) and what it has in flight is for
/// each database: with ten of them, ten times that.
///
/// ```
/// use std::sync::Arc;
/// use cqrs_core::broker::memory::MemoryBroker;
/// use cqrs_outbox::{MemoryOutbox, OutboxRelay, Relays};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cqrs_core::Result<()> {
/// let broker = Arc::new(MemoryBroker::new());
/// let relays = Relays::new([
///     OutboxRelay::builder(Arc::new(MemoryOutbox::new()), broker.clone()).database("orders").build()?,
///     OutboxRelay::builder(Arc::new(MemoryOutbox::new()), broker).database("billing").build()?,
/// ])?;
/// # let shutdown = async {};
/// relays.run_until(shutdown).await?;
/// # Ok(()) }
/// ```
///
/// # When one of them cannot go on
///
/// A database that is away is waited for by its own relay; the others do not notice. What waiting does not mend (tables that are
/// missing, a login that is refused from the start, a panic) ends one relay. Then **the others go on**, and that one is tried again, after a back-off of its
/// settings: somebody is about to run the migration, and no database is to stand still because of another. It is said in the log, by
/// the name of the database, each time; [`stats`](Self::stats) has it as long as it lasts, and `cqrs_relay_running` of the metrics is 0.
/// Only when **none** is left that goes on, all end: then it is more likely the program that was set up wrongly, and whoever
/// supervises the process is to hear of it. So one relay alone ends as it does by itself.
///
/// A panic ends the run of its relay like a crash: nothing is lost, and its groups are free when their leases have expired.
#[must_use = "relays do nothing until they run"]
pub struct Relays {
    members: Vec<Arc<Member>>,
}

struct Member {
    relay: OutboxRelay,
    /// Why it does not go on, while it does not.
    failure: Mutex<Option<String>>,
}

/// What the relay of one database has done, and whether it goes on.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStats<'a> {
    /// The [name](crate::OutboxRelayBuilder::database) of the database.
    pub database: &'a str,
    /// What its relay has done since it was last started, and what it has in memory now.
    pub stats: RelayStats,
    /// Why its relay does not go on; `None` if it does.
    pub failure: Option<String>,
}

/// Which relays of several could not go on, and why: the cause of the error of [`Relays`].
#[derive(Debug)]
pub struct RelaysFailed {
    failures: Vec<(String, Error)>,
}

impl RelaysFailed {
    /// The names of the databases, each with what ended its relay.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Error)> {
        self.failures.iter().map(|(database, error)| (database.as_str(), error))
    }
}

impl fmt::Display for RelaysFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (database, error)) in self.failures.iter().enumerate() {
            let separator = if nth == 0 { "" } else { "; " };
            write!(f, "{separator}the relay of {database} cannot go on: {error:#}")?;
        }
        Ok(())
    }
}

impl StdError for RelaysFailed {}

impl Relays {
    /// These relays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if there is none, or if two have one [name](crate::OutboxRelayBuilder::database) for their
    /// databases: it may be the same one, and nobody could tell them apart.
    pub fn new(relays: impl IntoIterator<Item = OutboxRelay>) -> Result<Self> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Configuration, what));
        let mut members = Vec::<Arc<Member>>::new();
        for relay in relays {
            let database = relay.database();
            if members.iter().any(|member| member.relay.database() == database) {
                return wrong(format!(
                    "two relays are for the database `{database}`: leave one out or, if it is two (schemas, say), give each \
                     a name of its own"
                ));
            }
            members.push(Arc::new(Member { relay, failure: Mutex::default() }));
        }
        if members.is_empty() {
            return wrong("there is no database to relay from".to_owned());
        }
        Ok(Self { members })
    }

    /// Relays until `shutdown` resolves, then stops all, each as [`OutboxRelay::run_until`] does. Can be called again.
    ///
    /// # Errors
    ///
    /// When none of them can go on: what ended each of them, as [`RelaysFailed`] behind an error of the first one's kind; of one
    /// relay alone its own error. After `shutdown`: what keeps those that stand still from going on.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// As for [`OutboxRelay::run_until`].
    pub async fn run_until(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.run(shutdown, false).await
    }

    /// Relays until nothing waits any more in any of the databases: each as [`OutboxRelay::run_until_empty`]. One that cannot go
    /// on is not tried again; the others come to their end.
    ///
    /// # Errors
    ///
    /// What ended those that could not go on, as for [`run_until`](Self::run_until).
    ///
    /// # Panics
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn run_until_empty(&self) -> Result<()> {
        self.run(pending(), true).await
    }

    /// As [`run_until_empty`](Self::run_until_empty), unless `shutdown` resolves first.
    ///
    /// # Errors
    ///
    /// As for [`run_until_empty`](Self::run_until_empty).
    ///
    /// # Panics
    ///
    /// As for [`run_until`](Self::run_until).
    ///
    /// # Cancel safety
    ///
    /// As for [`run_until`](Self::run_until).
    pub async fn run_until_empty_or(&self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        self.run(shutdown, true).await
    }

    /// Removes from each of the databases what has passed its time, now and then, for ever: beside a run of these relays, and from
    /// each when its relay is at work, which tells what is wrong with the database, or else after a [pause](Retention::pause). As
    /// [`Retention::purge_for_ever`], but the log says by the names of the databases whose it is.
    ///
    /// # Cancel safety
    ///
    /// As for [`Retention::purge_for_ever`].
    pub async fn purge_for_ever(&self, retention: &Retention) -> Infallible {
        let purging = self.iter().map(|relay| {
            let purging = async {
                // Its broker may be away for long, and that is no reason to keep everything.
                let _ = timeout(retention.pause(), relay.started()).await;
                retention.purge_for_ever(relay.store()).await
            };
            Box::pin(purging.instrument(relay.span()))
        });
        // There is one at least.
        select_all(purging).await.0
    }

    /// The relays, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &OutboxRelay> {
        self.members.iter().map(|member| &member.relay)
    }

    /// What has been done for each database, and which of them stand still; in the order in which they were given.
    pub fn stats(&self) -> Vec<DatabaseStats<'_>> {
        let members = self.members.iter().map(|member| DatabaseStats {
            database: member.relay.database(),
            stats: member.relay.stats(),
            failure: member.failure().clone(),
        });
        members.collect()
    }

    async fn run(&self, shutdown: impl Future<Output = ()> + Send, until_empty: bool) -> Result<()> {
        let stop = CancellationToken::new();
        let mut shutdown = pin!(shutdown.fuse());
        // Of each that does not run: what ended it, and how often in a row.
        let mut ends: Vec<_> = self.members.iter().map(|_| (None::<Error>, 0_u32)).collect();
        let mut running = JoinSet::new();
        let mut resting = FuturesUnordered::new();
        for (nth, member) in self.members.iter().enumerate() {
            *member.failure() = None;
            running.spawn(Arc::clone(member).run(nth, stop.clone(), until_empty));
        }
        while !running.is_empty() {
            tokio::select! {
                biased;
                () = &mut shutdown, if !stop.is_cancelled() => {
                    stop.cancel();
                    resting.clear();
                }
                Some(nth) = resting.next(), if !resting.is_empty() => {
                    let nth: usize = nth;
                    running.spawn(Arc::clone(&self.members[nth]).run(nth, stop.clone(), until_empty));
                }
                Some(ended) = running.join_next() => {
                    // A panic of a relay is among what it ends with.
                    let Ok(Ended { nth, began, outcome }) = ended else { continue };
                    let (member, (last, failures)) = (&self.members[nth], &mut ends[nth]);
                    *last = outcome.err();
                    let Some(error) = last else {
                        if until_empty && !stop.is_cancelled() && !running.is_empty() {
                            let (database, left) = (member.relay.database(), running.len());
                            tracing::info!(database, left, "nothing waits in this database any more; others go on");
                        }
                        continue;
                    };
                    let (database, said) = (member.relay.database(), format!("{error:#}"));
                    *member.failure() = Some(said.clone());
                    if stop.is_cancelled() || until_empty {
                        // Of a single one, this is what the run ends with.
                        if self.members.len() > 1 {
                            tracing::error!(database, error = said, "the relay of this database cannot go on");
                        }
                        continue;
                    }
                    let settings = member.relay.settings();
                    let was_at_it = began.elapsed() > settings.max_backoff;
                    *failures = if was_at_it { 1 } else { failures.saturating_add(1) };
                    let wait = settings.backoff_after(*failures);
                    if !running.is_empty() {
                        tracing::error!(
                            database, error = said,
                            "the relay of this database cannot go on; the others do, and it is tried again in {wait:?}"
                        );
                    }
                    resting.push(async move {
                        sleep(wait).await;
                        nth
                    });
                }
            }
        }
        self.outcome(ends.into_iter().map(|(error, _)| error))
    }

    fn outcome(&self, errors: impl IntoIterator<Item = Option<Error>>) -> Result<()> {
        let failed = self.members.iter().zip(errors);
        let mut failures: Vec<_> =
            failed.filter_map(|(member, error)| Some((member.relay.database().to_owned(), error?))).collect();
        let Some((_, first)) = failures.first() else { return Ok(()) };
        if self.members.len() == 1 {
            return failures.pop().map_or(Ok(()), |(_, error)| Err(error));
        }
        Err(Error::caused_by(first.kind(), RelaysFailed { failures }))
    }
}

/// How a run of a relay ended.
struct Ended {
    nth: usize,
    began: Instant,
    outcome: Result<()>,
}

impl Member {
    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, nth: usize, stop: CancellationToken, until_empty: bool) -> Ended {
        let began = Instant::now();
        let running = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                checked = self.check().instrument(self.relay.span()) => checked?,
            }
            if until_empty {
                self.relay.run_until_empty_or(stop.cancelled()).await
            } else {
                self.relay.run_until(stop.cancelled()).await
            }
        };
        let running = AssertUnwindSafe(running).catch_unwind();
        let watching = async {
            self.goes_on().await;
            pending().await
        };
        let ended = tokio::select! {
            biased;
            ended = running => ended,
            ended = watching => ended,
        };
        let outcome = ended.unwrap_or_else(|panic| Err(Error::handler(panic_message(&*panic))));
        Ended { nth, began, outcome }
    }

    /// A relay looks at the tables once. Here a database that is away at the start is nothing special, so they are looked at
    /// as soon as it is there.
    async fn check(&self) -> Result<()> {
        let (store, settings) = (self.relay.store(), self.relay.settings());
        let mut failures = 0;
        loop {
            match timeout(settings.store_timeout, store.check()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.is_retryable() => {
                    tracing::warn!(error = %WithCauses(&error), "the outbox's database cannot be reached; trying again");
                }
                Ok(Err(error)) => {
                    return Err(match store.place() {
                        Some(place) => error.at(place),
                        None => error,
                    }
                    .into_error());
                }
                Err(_) => tracing::warn!("the outbox's database does not answer; trying again"),
            }
            failures += 1;
            sleep(settings.backoff_after(failures)).await;
        }
    }

    async fn goes_on(&self) {
        self.relay.started().await;
        if self.failure().take().is_some() {
            tracing::info!(database = self.relay.database(), "the relay of this database goes on again");
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the relay panicked: {}", text.unwrap_or("without a message"))
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
