//! The work bench of a row: connections, names, and waiting with a bound.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{Acknowledged, Capabilities, Delivery, SubscribeOptions, Subscription};
use cqrs_core::{BrokerError, Message, MessageBroker};
use futures_util::future;
use tokio::time::{self, Instant};
use uuid::Uuid;

use super::{BrokerUnderTest, Settings};

/// Why a row ended before its end.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}

pub(super) type Checked<T = ()> = Result<T, Stop>;

impl From<BrokerError> for Stop {
    fn from(error: BrokerError) -> Self {
        Self::Failed(format!("an error that was not expected: {error}"))
    }
}

/// Ends a row as failed.
pub(super) fn fail<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Failed(reason.into()))
}

/// Ends a row as skipped.
pub(super) fn skip<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::Skipped(reason.into()))
}

/// Fails a row unless the condition holds.
pub(super) fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { fail(reason()) }
}

/// How long to wait before an adapter is asked again that had a passing error.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

pub(super) struct Bench<'a> {
    pub(super) adapter: &'a dyn BrokerUnderTest,
    pub(super) settings: &'a Settings,
    row: &'static str,
    run: String,
}

impl<'a> Bench<'a> {
    pub(super) fn new(adapter: &'a dyn BrokerUnderTest, settings: &'a Settings, row: &'static str) -> Self {
        let mut run = Uuid::new_v4().simple().to_string();
        run.truncate(8);
        Self { adapter, settings, row, run }
    }

    pub(super) async fn open(&self) -> Checked<Arc<dyn MessageBroker>> {
        Ok(self.adapter.open().await?)
    }

    pub(super) async fn capabilities(&self) -> Checked<Capabilities> {
        let broker = self.open().await?;
        let capabilities = broker.capabilities();
        broker.close().await?;
        Ok(capabilities)
    }

    /// A name that no other row and no other run has.
    pub(super) fn name(&self, label: &str) -> String {
        format!("cqrs-{}-{label}-{}", self.row, self.run)
    }

    pub(super) async fn topic(&self, label: &str) -> Checked<String> {
        Ok(self.adapter.topic(&self.name(label)).await?)
    }

    pub(super) async fn subscribe(
        &self,
        broker: &Arc<dyn MessageBroker>,
        group: &str,
        topic: &str,
    ) -> Checked<Box<dyn Subscription>> {
        Ok(broker.subscribe(SubscribeOptions::new(self.name(group), [topic])).await?)
    }

    /// Publishes in this order: hands all over, then waits for all confirms.
    pub(super) async fn publish(&self, broker: &Arc<dyn MessageBroker>, messages: Vec<Message>) -> Checked {
        publish(broker, messages, self.settings.arrival).await
    }

    /// What comes next; `None` if nothing does, or only the end.
    pub(super) async fn next_within(
        &self,
        subscription: &mut Box<dyn Subscription>,
        patience: Duration,
    ) -> Checked<Option<Delivery>> {
        let end = Instant::now() + patience;
        loop {
            match time::timeout_at(end, subscription.next()).await {
                Ok(Ok(delivery)) => return Ok(delivery),
                Ok(Err(error)) if error.class().is_retryable() => time::sleep(AGAIN).await,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Ok(None),
            }
        }
    }

    /// What comes next; it has to come.
    pub(super) async fn next(
        &self,
        subscription: &mut Box<dyn Subscription>,
        what: &str,
    ) -> Checked<Delivery> {
        match self.next_within(subscription, self.settings.arrival).await? {
            Some(delivery) => Ok(delivery),
            None => fail(format!("{what} did not arrive within {:?}", self.settings.arrival)),
        }
    }

    /// Nothing may come.
    pub(super) async fn nothing(&self, subscription: &mut Box<dyn Subscription>, what: &str) -> Checked {
        match self.next_within(subscription, self.settings.quiet).await? {
            None => Ok(()),
            Some(delivery) => fail(format!("{what} was delivered: {}", shown(&delivery))),
        }
    }

    pub(super) async fn ack(&self, delivery: Delivery) -> Checked<Acknowledged> {
        Ok(self.bounded("an acknowledgement", delivery.ack()).await??)
    }

    /// Acknowledges, and that has to succeed.
    pub(super) async fn ack_done(&self, delivery: Delivery) -> Checked {
        let acknowledged = self.ack(delivery).await?;
        ensure(acknowledged == Acknowledged::Done, || {
            "the acknowledgement of a message that had just been delivered was stale".to_owned()
        })
    }

    /// Waits, but not for ever.
    pub(super) async fn bounded<T>(&self, what: &str, future: impl Future<Output = T>) -> Checked<T> {
        bounded(what, self.settings.arrival, future).await
    }
}

pub(super) async fn bounded<T>(
    what: &str,
    patience: Duration,
    future: impl Future<Output = T>,
) -> Checked<T> {
    match time::timeout(patience, future).await {
        Ok(value) => Ok(value),
        Err(_) => fail(format!("{what} took longer than {patience:?}")),
    }
}

/// See [`Bench::publish`]; this one serves tasks, which outlive the borrow of a bench.
pub(super) async fn publish(
    broker: &Arc<dyn MessageBroker>,
    messages: Vec<Message>,
    patience: Duration,
) -> Checked {
    let mut confirms = Vec::new();
    for message in messages {
        confirms.push(bounded("handing a message over", patience, broker.enqueue(&message)).await??);
    }
    for outcome in bounded("confirming", patience, future::join_all(confirms)).await? {
        outcome?;
    }
    Ok(())
}

pub(super) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message().payload.as_deref().unwrap_or_default()).into_owned()
}

pub(super) fn shown(delivery: &Delivery) -> String {
    format!("`{}` from `{}`, attempt {}", text(delivery), delivery.message().topic, delivery.attempt())
}
