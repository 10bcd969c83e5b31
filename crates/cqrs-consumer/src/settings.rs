use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{StartFrom, SubscribeOptions};
use cqrs_core::{Error, ErrorKind, EventMediator, MessageBroker, Result};

use crate::consumer::Consumer;
use crate::dead_letter::DeadLetters;
use cqrs_core::RetryPolicy;

/// What happens to a message whose last attempt has failed, or which cannot be decoded.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is published to the dead-letter topic, with [headers](crate::header) that say why, and acknowledged when the
    /// broker has confirmed that. Until then its key waits: nothing is dropped.
    #[default]
    DeadLetter,
    /// It is tried for ever, its key waits for it, and other keys go on as far as the
    /// [prefetch](ConsumerBuilder::prefetch) reaches. What cannot be decoded is tried again with the longest delay.
    RetryForever,
}

/// What happens to a message that no handler is subscribed to.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unhandled {
    /// It is acknowledged, counted in [`ConsumerStats::skipped`](crate::ConsumerStats::skipped), and logged once for
    /// each event name: a topic may carry events that are meant for others.
    #[default]
    Skip,
    /// It goes to the dead letters.
    DeadLetter,
}

/// Puts a [`Consumer`] together; nothing is checked before [`build`](Self::build).
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ConsumerBuilder {
    broker: Arc<dyn MessageBroker>,
    group: String,
    events: Option<EventMediator>,
    concurrency: usize,
    prefetch: usize,
    start_from: StartFrom,
    handler_timeout: Duration,
    retry: RetryPolicy,
    on_failure: OnFailure,
    on_unhandled: Unhandled,
    dead_letter_topic: String,
    drain_grace: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(broker: Arc<dyn MessageBroker>, group: String) -> Self {
        Self {
            broker,
            group,
            events: None,
            concurrency: 16,
            prefetch: 256,
            start_from: StartFrom::Earliest,
            handler_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            on_failure: OnFailure::default(),
            on_unhandled: Unhandled::default(),
            dead_letter_topic: DeadLetters::DEFAULT_TOPIC.to_owned(),
            drain_grace: Duration::from_secs(10),
        }
    }

    /// Sets whose handlers get the messages; its [topics](EventMediator::topics) are subscribed.
    pub fn events(mut self, events: EventMediator) -> Self {
        self.events = Some(events);
        self
    }

    /// Sets how many messages are handled at once. A message that waits for its key or for a retry does not count.
    /// At least 1. Default 16.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets how many messages may be delivered and not yet acknowledged, at least 1: it bounds the memory. Default 256.
    ///
    /// The messages behind one that fails wait here, so a key that fails for long and gets many messages can take
    /// all of it; then the others wait, too. With [`OnFailure::DeadLetter`] that ends with the attempts.
    pub fn prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets where a group begins that the broker does not know yet. Default [`StartFrom::Earliest`].
    pub fn start_from(mut self, start_from: StartFrom) -> Self {
        self.start_from = start_from;
        self
    }

    /// Sets how long the handlers of one message may take together, in one attempt: their [deadline](cqrs_core::Context::deadline).
    /// After it they are cancelled, their transaction is rolled back, and the attempt has failed. Default 30 s.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = timeout;
        self
    }

    /// Sets how often and when a message that failed is tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets what happens to a message whose last attempt has failed. Default [`OnFailure::DeadLetter`].
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = policy;
        self
    }

    /// Sets what happens to a message that no handler is subscribed to. Default [`Unhandled::Skip`].
    pub fn on_unhandled(mut self, policy: Unhandled) -> Self {
        self.on_unhandled = policy;
        self
    }

    /// Sets where dead letters go; `{topic}` in it stands for the topic of the message, and other braces are an error. Default
    /// `{topic}.dead-letters`.
    ///
    /// The topic has to exist, or the broker has to create it: a message whose dead letter cannot be published waits.
    pub fn dead_letter_topic(mut self, template: impl Into<String>) -> Self {
        self.dead_letter_topic = template.into();
        self
    }

    /// Sets how long the handlers that run when the consumer is told to stop have to finish. Zero: none, they are
    /// cancelled at once. Default 10 s.
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.drain_grace = grace;
        self
    }

    /// Makes the consumer. It does nothing before [`Consumer::run_until`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], naming everything that is wrong.
    pub fn build(self) -> Result<Consumer> {
        let topics = self.events.as_ref().map(EventMediator::topics).unwrap_or_default();
        let dead_letters = DeadLetters::new(self.dead_letter_topic, self.group.clone());
        let mut problems: Vec<String> = [
            (self.group.is_empty(), "the consumer has no group: name the service that it belongs to"),
            (
                topics.is_empty(),
                "the consumer has no topics: give it an `EventMediator` with `.events(..)` whose map has subscriptions",
            ),
            (self.concurrency == 0, "the `concurrency` is 0, and no message would be handled: raise it to 1 at least"),
            (self.prefetch == 0, "the `prefetch` is 0, and no message would be delivered: raise it to 1 at least"),
            (self.handler_timeout.is_zero(), "the `handler_timeout` is zero, and no handler could finish: raise it"),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, problem)| problem.to_owned())
        .chain(self.retry.problems())
        .chain(dead_letters.problems(&topics))
        .collect();
        let Some(events) = self.events.filter(|_| problems.is_empty()) else {
            if problems.len() > 1 {
                problems.insert(0, format!("the consumer of group `{}` cannot be built:", self.group));
            }
            return Err(Error::new(ErrorKind::Configuration, problems.join("\n")));
        };
        let options = SubscribeOptions::new(self.group, topics)
            .with_prefetch(self.prefetch)
            .with_start_from(self.start_from);
        Ok(Consumer::new(Settings {
            broker: self.broker,
            events,
            options,
            concurrency: self.concurrency,
            handler_timeout: self.handler_timeout,
            retry: self.retry,
            on_failure: self.on_failure,
            on_unhandled: self.on_unhandled,
            dead_letters,
            drain_grace: self.drain_grace,
        }))
    }
}

/// What a consumer was built with, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) broker: Arc<dyn MessageBroker>,
    pub(crate) events: EventMediator,
    pub(crate) options: SubscribeOptions,
    pub(crate) concurrency: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) on_failure: OnFailure,
    pub(crate) on_unhandled: Unhandled,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) drain_grace: Duration,
}
