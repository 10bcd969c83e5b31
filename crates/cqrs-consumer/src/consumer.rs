use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use cqrs_core::broker::Delivery;
use cqrs_core::{MessageBroker, Result};
use futures_util::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time;

use crate::lanes::Lanes;
use crate::settings::{ConsumerBuilder, Settings};
use crate::source::Source;
use crate::stats::ConsumerStats;
use crate::worker::{Shared, Worker};

/// Receives messages as a member of a group and takes them to the handlers of an
/// [`EventMediator`](cqrs_core::EventMediator). Cheap to clone; all clones are one consumer with one set of counters.
///
/// See the [crate's page](crate) for an example and for what is guaranteed.
#[derive(Clone, Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
}

impl Consumer {
    /// Begins to put a consumer together: a member of `group` at this broker.
    pub fn builder(broker: Arc<dyn MessageBroker>, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(broker, group.into())
    }

    pub(crate) fn new(settings: Settings) -> Self {
        Self { shared: Arc::new(Shared::new(settings)) }
    }

    /// What it did so far; also while it runs.
    pub fn stats(&self) -> ConsumerStats {
        self.shared.counters.snapshot()
    }

    /// Joins the group and handles messages until `shutdown` resolves. Then it takes no more, lets the attempts that
    /// run finish within the [grace](ConsumerBuilder::drain_grace), cancels the others, and leaves the group; what was
    /// not acknowledged is delivered again. It can be called again afterwards; runs at the same time are as many
    /// members of the group.
    ///
    /// While the broker is away it waits and tries again. Handlers run in tasks of their own on the current tokio
    /// runtime; one that never yields can be neither timed out nor cancelled.
    ///
    /// # Errors
    ///
    /// A failure of the broker that waiting does not mend; the broker was closed before the consumer; or the last
    /// acknowledgements could not be handed over. What was running has been drained in each case.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is a stop without a grace: handlers are cancelled, and what was not acknowledged is
    /// delivered again.
    pub async fn run_until(&self, shutdown: impl Future) -> Result<()> {
        let settings = &self.shared.settings;
        let mut shutdown = pin!(shutdown);
        let mut source = tokio::select! {
            biased;
            _ = &mut shutdown => return Ok(()),
            source = Source::open(settings) => source?,
        };
        tracing::info!(group = settings.options.group, topics = ?settings.options.topics, "consuming");
        let mut run = Run::new(Arc::clone(&self.shared));
        let ended = loop {
            tokio::select! {
                biased;
                _ = &mut shutdown => break Ok(()),
                Some(finished) = run.tasks.join_next() => run.finished(finished),
                received = source.next(), if run.has_room() => match received {
                    Ok(delivery) => run.receive(delivery),
                    Err(error) => break Err(error),
                },
            }
        };
        run.drain().await;
        let closed = source.close().await;
        tracing::info!(group = settings.options.group, "stopped");
        ended.and(closed)
    }
}

/// The deliveries of one run.
struct Run {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
    /// Each gives back the key that it was running for.
    tasks: JoinSet<Option<Bytes>>,
    lanes: Lanes<Delivery>,
}

impl Run {
    fn new(shared: Arc<Shared>) -> Self {
        let worker = Arc::new(Worker::new(Arc::clone(&shared)));
        Self { shared, worker, tasks: JoinSet::new(), lanes: Lanes::new() }
    }

    /// The broker keeps to the prefetch; so this is never the case for long, unless it does not. Twice that much may
    /// be here after a reconnect, until what was lost is dropped.
    ///
    /// Asking on when all of the prefetch is here matters to adapters that hear of a lost connection by being asked.
    fn has_room(&self) -> bool {
        self.tasks.len() + self.lanes.waiting() < self.shared.settings.options.prefetch.saturating_mul(2)
    }

    fn receive(&mut self, delivery: Delivery) {
        self.shared.counters.received.add_one();
        let key = delivery.message().key.clone();
        if let Some(delivery) = self.lanes.arrive(key.as_ref(), delivery) {
            self.start(key, delivery);
        }
    }

    fn start(&mut self, key: Option<Bytes>, delivery: Delivery) {
        let worker = Arc::clone(&self.worker);
        self.tasks.spawn(async move {
            // Handlers are caught further in. This is for the adapter, so that the key is freed whatever happens.
            let process = async { worker.process(delivery).await };
            if AssertUnwindSafe(process).catch_unwind().await.is_err() {
                tracing::error!("the broker's adapter panicked; the message will be delivered again");
            }
            key
        });
    }

    fn finished(&mut self, finished: Result<Option<Bytes>, JoinError>) {
        if let Ok(Some(key)) = finished
            && let Some(next) = self.lanes.leave(&key)
        {
            self.start(Some(key), next);
        }
    }

    async fn drain(mut self) {
        self.worker.drain();
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        if time::timeout(self.shared.settings.drain_grace, finish).await.is_err() {
            tracing::warn!(
                running = self.tasks.len(),
                "the grace is over: handlers are cancelled, their messages released"
            );
            self.tasks.shutdown().await;
        }
        // What waits behind a running message of its key is released after that one, so that it does not overtake it
        // on its way to another member.
        drop(self.lanes);
    }
}
