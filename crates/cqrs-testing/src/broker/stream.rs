//! Streams of messages, and the consumers that work them off in the background.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::broker::{Acknowledged, Delivery, Subscription};
use cqrs_core::{BrokerError, Message};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{self, Instant};
use uuid::Uuid;

use super::bench::{AGAIN, Checked, ensure, fail, text};
use crate::history::{History, Verdict};

/// A message that was sent: its id is the payload.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) id: Uuid,
    /// What it has to stay in order with, if anything, and its place there.
    pub(super) order: Option<(Bytes, u64)>,
}

impl Sent {
    pub(super) fn new() -> Self {
        Self { id: Uuid::new_v4(), order: None }
    }

    pub(super) fn ordered(stream: impl Into<Bytes>, sequence: u64) -> Self {
        Self { order: Some((stream.into(), sequence)), ..Self::new() }
    }

    pub(super) fn many(count: usize) -> Vec<Self> {
        std::iter::repeat_with(Self::new).take(count).collect()
    }

    /// The message, with a key by which brokers spread it.
    pub(super) fn message(&self, topic: &str) -> Message {
        self.message_with_key(topic, Bytes::from(format!("key {}", self.id.as_u128() % 64)))
    }

    pub(super) fn messages(sent: &[Self], topic: &str) -> Vec<Message> {
        sent.iter().map(|sent| sent.message(topic)).collect()
    }

    pub(super) fn message_with_key(&self, topic: &str, key: Bytes) -> Message {
        let mut message = Message::new(topic, self.id.to_string());
        message.key = Some(key);
        message
    }
}

/// The id that a delivered message was sent with.
pub(super) fn id_of(delivery: &Delivery) -> Checked<Uuid> {
    match Uuid::try_parse(&text(delivery)) {
        Ok(id) => Ok(id),
        Err(_) => fail(format!("a message arrived that this row did not send: `{}`", text(delivery))),
    }
}

/// What arrived, in the order in which it did.
#[derive(Clone, Debug)]
pub(super) struct Arrivals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Mutex<Vec<Uuid>>,
    /// How many there are, for those who wait for more.
    count: watch::Sender<usize>,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { all: Mutex::default(), count: watch::Sender::new(0) }))
    }

    pub(super) fn add(&self, id: Uuid) {
        self.all().push(id);
        self.0.count.send_modify(|count| *count += 1);
    }

    /// Waits until so many different messages have arrived, or no other one has for so long.
    pub(super) async fn until(&self, wanted: usize, patience: Duration) {
        let mut count = self.0.count.subscribe();
        let mut different = HashSet::new();
        let (mut seen, mut end) = (0, Instant::now() + patience);
        loop {
            let before = different.len();
            {
                let all = self.all();
                different.extend(all[seen..].iter().copied());
                seen = all.len();
            }
            if different.len() > before {
                end = Instant::now() + patience;
            }
            // Asked first: where the same message comes all the time, the time-out alone would never be seen.
            if different.len() >= wanted || Instant::now() >= end {
                return;
            }
            let _ = time::timeout_at(end, count.changed()).await;
        }
    }

    /// Waits until nothing has arrived for so long; not for ever, because something may come again and again.
    pub(super) async fn until_quiet(&self, quiet: Duration) {
        let mut count = self.0.count.subscribe();
        let end = Instant::now() + 20 * quiet;
        while Instant::now() < end && time::timeout(quiet, count.changed()).await.is_ok() {}
    }

    /// What arrived so far; from now on it is forgotten here.
    pub(super) fn take(&self) -> Self {
        let taken = Self::new();
        *taken.all() = mem::take(&mut self.all());
        taken
    }

    /// Fails unless what was sent arrived, in order where one is asked for, and nothing else did.
    pub(super) fn ensure_clean(&self, sent: &[Sent]) -> Checked {
        let verdict = self.judge(sent);
        ensure(verdict.is_clean(), || verdict.to_string())
    }

    /// Fails, too, if something arrived twice.
    pub(super) fn ensure_once(&self, sent: &[Sent]) -> Checked {
        let verdict = self.judge(sent);
        ensure(verdict.is_clean() && verdict.duplicates == 0, || verdict.to_string())
    }

    fn judge(&self, sent: &[Sent]) -> Verdict {
        let history = History::new();
        let mut streams = HashMap::new();
        for Sent { id, order } in sent {
            let (stream, sequence) = order.clone().unzip();
            history.committed(stream.clone(), *id, sequence.unwrap_or_default());
            streams.insert(*id, stream);
        }
        self.record_in(&history, |id| streams.get(&id).cloned().flatten());
        history.check()
    }

    /// Records all of it as delivered, with the key that `key_of` gives.
    pub(super) fn record_in(&self, history: &History, key_of: impl Fn(Uuid) -> Option<Bytes>) {
        for id in self.all().iter() {
            history.delivered(*id, key_of(*id));
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Uuid>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a delivery counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Before it is acknowledged, so that what is recorded stands in the order of the broker.
    OnArrival,
    /// When it was acknowledged: until then it may come again, and it has to if it was not.
    OnAcknowledgement,
}

/// Members of a group that acknowledge whatever comes, until they are stopped.
pub(super) struct Consumers {
    pub(super) arrivals: Arrivals,
    counts: Counts,
    stop: watch::Sender<bool>,
    /// What closing the subscription came to.
    tasks: JoinSet<Checked<Result<(), BrokerError>>>,
}

impl Consumers {
    pub(super) fn new(counts: Counts, arrivals: &Arrivals) -> Self {
        Self { arrivals: arrivals.clone(), counts, stop: watch::Sender::new(false), tasks: JoinSet::new() }
    }

    pub(super) fn add(&mut self, mut subscription: Box<dyn Subscription>) {
        let (arrivals, counts, mut stop) = (self.arrivals.clone(), self.counts, self.stop.subscribe());
        self.tasks.spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => break,
                    next = subscription.next() => next,
                };
                match next {
                    Ok(Some(delivery)) => take(delivery, counts, &arrivals).await?,
                    Ok(None) => return fail("a subscription ended that nobody had closed"),
                    Err(error) if error.class().is_retryable() => time::sleep(AGAIN).await,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(subscription.close().await)
        });
    }

    /// Stops the consumers and closes their subscriptions, all at once. The first that failed is the error.
    pub(super) async fn stop(self) -> Checked {
        self.stop_where(|_| false).await
    }

    /// As [`stop`](Self::stop), but a member may have an error of this kind when it closes.
    pub(super) async fn stop_where(mut self, allowed: fn(&BrokerError) -> bool) -> Checked {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            match joined(ended)? {
                Err(error) if !allowed(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

async fn take(delivery: Delivery, counts: Counts, arrivals: &Arrivals) -> Checked {
    let id = id_of(&delivery)?;
    // Handling takes a moment, and not always the same: a later message of the key that another member has at the same
    // time would overtake.
    for _ in 0..id.as_u128() % 4 {
        task::yield_now().await;
    }
    if counts == Counts::OnArrival {
        arrivals.add(id);
    }
    // Where the broker could not be told, the message comes again.
    let acknowledged = delivery.ack().await;
    if counts == Counts::OnAcknowledgement && matches!(acknowledged, Ok(Acknowledged::Done)) {
        arrivals.add(id);
    }
    Ok(())
}

/// What a task of the row came to.
pub(super) fn joined<T>(ended: Result<Checked<T>, JoinError>) -> Checked<T> {
    ended.unwrap_or_else(|error| fail(format!("a task of this row failed: {error}")))
}
