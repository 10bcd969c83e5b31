//! The life of one delivery: attempts, waits, and how it ends.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use cqrs_core::broker::{Acknowledged, Delivery};
use cqrs_core::{Dispatched, Error, ErrorKind, Message, Result, SendOptions};
use futures_util::FutureExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::dead_letter::{event_name, event_of, header};
use crate::seen::Seen;
use crate::settings::{OnFailure, Settings, Unhandled};
use crate::stats::{Counter, Counters};

/// How long the broker may take to confirm a dead letter, or to close.
pub(crate) const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

/// What lives as long as the consumer.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
    unhandled_events: Seen,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, counters: Counters::default(), unhandled_events: Seen::default() }
    }
}

/// What the tasks of one run share.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    slots: Semaphore,
    draining: CancellationToken,
}

/// How the attempts ended.
enum Verdict<'c> {
    Settled(&'c Counter),
    Dead(Error),
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let slots = Semaphore::new(shared.settings.concurrency.min(Semaphore::MAX_PERMITS));
        Self { shared, slots, draining: CancellationToken::new() }
    }

    /// From now on no attempt begins and nothing waits for one: those deliveries are released.
    pub(crate) fn drain(&self) {
        self.draining.cancel();
    }

    /// Takes a delivery to its end: acknowledged, or released because it was lost or the run ends.
    pub(crate) async fn process(&self, delivery: Delivery) {
        let lost = delivery.lost().clone();
        tokio::select! {
            biased;
            () = lost.cancelled() => tracing::debug!("a delivery was lost with its connection or assignment, and is left to another"),
            () = self.settle(delivery) => {}
        }
    }

    async fn settle(&self, delivery: Delivery) {
        let counters = &self.shared.counters;
        let mut attempts = 0;
        let verdict = loop {
            // Taken for each attempt, so that what waits for a retry keeps no other message from being handled.
            let Some(slot) = self.slot().await else { return };
            attempts += 1;
            if attempts > 1 {
                counters.retried.add_one();
            }
            let outcome = self.attempt(delivery.message().clone(), attempts).await;
            drop(slot);
            let error = match outcome {
                Ok(dispatched) => break self.judge(&dispatched, delivery.message()),
                Err(error) => error,
            };
            counters.failed_attempts.add_one();
            let Some(delay) = self.retry_after(attempts, &error) else { break Verdict::Dead(error) };
            if !self.pause(delay).await {
                return;
            }
        };
        match verdict {
            Verdict::Settled(counter) => counter.add_one(),
            Verdict::Dead(error) => {
                if !self.bury(delivery.message(), attempts, &error).await {
                    return;
                }
                counters.dead_lettered.add_one();
            }
        }
        match delivery.ack().await {
            Ok(Acknowledged::Stale) => {
                tracing::debug!("acknowledged too late; the message will be delivered again")
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "not acknowledged; the message may be delivered again"),
        }
    }

    /// One attempt: an error, a panic and a time-out are failures alike.
    async fn attempt(&self, message: Message, attempt: u32) -> Result<Dispatched> {
        let Settings { events, handler_timeout, options, .. } = &self.shared.settings;
        // Of the level of its warnings, so that they keep it where only warnings are kept.
        let span = tracing::warn_span!(
            "consume",
            group = options.group,
            topic = message.topic,
            event = event_name(&message),
            attempt
        );
        let handling = async {
            // Within the block, so that a handler that panics while it is cancelled is caught, too.
            let began = Instant::now();
            let options = SendOptions::default().with_timeout(*handler_timeout);
            events.handle_with(message, &options).await.map_err(|error| {
                // This time, and not that of something within.
                if error.is_out_of_time() && began.elapsed() >= *handler_timeout {
                    let what =
                        format!("the handlers took longer than {handler_timeout:?} and were cancelled");
                    Error::new(ErrorKind::Timeout, what).with_source(error).with_retryable(true)
                } else {
                    error
                }
            })
        };
        let outcome = AssertUnwindSafe(handling).catch_unwind().instrument(span.clone()).await;
        let outcome = outcome.unwrap_or_else(|panic| Err(Error::handler(panic_message(&*panic))));
        if let Err(error) = &outcome {
            span.in_scope(|| tracing::warn!(error = format!("{error:#}"), "not handled"));
        }
        outcome
    }

    /// What follows from the handlers' success.
    fn judge(&self, dispatched: &Dispatched, message: &Message) -> Verdict<'_> {
        let Shared { settings, counters, .. } = &*self.shared;
        if !dispatched.is_unhandled() {
            let ran = dispatched.handled > 0;
            return Verdict::Settled(if ran { &counters.handled } else { &counters.duplicates });
        }
        let (event, topic) = (&dispatched.event, &message.topic);
        match settings.on_unhandled {
            Unhandled::DeadLetter => Verdict::Dead(Error::new(
                ErrorKind::MissingHandler,
                format!("no handler is subscribed to the event `{event}` of the topic `{topic}`"),
            )),
            Unhandled::Skip => {
                if self.shared.unhandled_events.is_new(event) {
                    tracing::warn!(
                        event,
                        topic,
                        group = settings.options.group,
                        "no handler is subscribed to this event: its messages are acknowledged and skipped"
                    );
                }
                Verdict::Settled(&counters.skipped)
            }
        }
    }

    /// When to try again; `None` for the dead letters.
    fn retry_after(&self, failures: u32, error: &Error) -> Option<Duration> {
        let Settings { retry, on_failure, .. } = &self.shared.settings;
        // A database or a broker that is away is no fault of the message's.
        if error.is_retryable()
            && matches!(error.kind(), ErrorKind::Store | ErrorKind::Transaction | ErrorKind::Broker)
        {
            return Some(retry.random_delay(failures));
        }
        // Nor is a commit that was not answered. Whether the message was handled its inbox knows; without one it may be handled
        // twice, as after any redelivery. One that a deadline has cut off may be the message's fault: what hangs does so again.
        if error.kind() == ErrorKind::CommitUnknown && !error.is_out_of_time() {
            return Some(retry.random_delay(failures));
        }
        match (on_failure, error.kind()) {
            (OnFailure::RetryForever, ErrorKind::Decode) => Some(retry.random_delay(u32::MAX)),
            (OnFailure::RetryForever, _) => Some(retry.random_delay(failures)),
            (OnFailure::DeadLetter, ErrorKind::Decode) => None,
            (OnFailure::DeadLetter, _) => {
                (failures < retry.max_attempts()).then(|| retry.random_delay(failures))
            }
        }
    }

    /// Publishes the dead letter and waits for the confirm, however often it takes; `false` if the run ends before.
    async fn bury(&self, message: &Message, attempts: u32, error: &Error) -> bool {
        let Settings { broker, events, dead_letters, retry, .. } = &self.shared.settings;
        let event = event_of(message, events.encoder());
        let letter = dead_letters.make(message, event, attempts, error, Utc::now());
        tracing::error!(
            event = letter.headers.get_str(header::EVENT),
            topic = message.topic,
            id = message.id.as_ref().map(tracing::field::display),
            error = format!("{error:#}"),
            attempts,
            "goes to the dead letters in `{}`",
            letter.topic
        );
        let mut failures = 0;
        loop {
            let publish = time::timeout(BROKER_TIMEOUT, broker.publish(letter.clone()));
            let failed = match publish.await {
                Ok(Ok(_)) => return true,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not confirmed within {BROKER_TIMEOUT:?}"),
            };
            failures += 1;
            tracing::warn!(
                error = failed,
                topic = letter.topic,
                "the dead letter is not published yet; its key waits"
            );
            if !self.pause(retry.random_delay(failures)).await {
                return false;
            }
        }
    }

    /// Room for an attempt; `None` if the run ends.
    async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => None,
            slot = self.slots.acquire() => slot.ok(),
        }
    }

    /// Waits; `false` if the run ends.
    async fn pause(&self, delay: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => false,
            () = time::sleep(delay) => true,
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a handler panicked: {}", text.unwrap_or("without a message"))
}
