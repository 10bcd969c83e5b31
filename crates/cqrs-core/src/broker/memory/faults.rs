use std::collections::HashMap;
use std::sync::Arc;

use super::Shared;
use super::lane::Item;
use crate::broker::error::{BrokerError, ErrorClass};

/// Faults on request, for tests: what real brokers do on bad days. They reach every connection of the broker, from
/// the next call on, until they are taken back.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use cqrs_core::broker::memory::MemoryBroker;
/// use cqrs_core::{ErrorClass, Message, MessageBroker};
///
/// let broker = MemoryBroker::new();
/// broker.faults().fail_next(1, ErrorClass::Outage);
///
/// let error = broker.publish(Message::new("rooms", "{}")).await.unwrap_err();
/// assert_eq!(error.class(), ErrorClass::Outage);
/// assert!(broker.publish(Message::new("rooms", "{}")).await.is_ok());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Faults {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next `n` messages are refused with an error of that class, which their confirms report. None of them is
    /// stored. A later call replaces an earlier one; 0 takes it back.
    pub fn fail_next(&self, n: usize, class: ErrorClass) {
        self.shared.lock().plan.fail_next = (n, class);
    }

    /// Every message to this topic is refused with an error of that class, which its confirm reports, until
    /// [`heal_topic`](Self::heal_topic).
    pub fn fail_topic(&self, topic: impl Into<String>, class: ErrorClass) {
        self.shared.lock().plan.failing_topics.insert(topic.into(), class);
    }

    /// Takes [`fail_topic`](Self::fail_topic) back.
    pub fn heal_topic(&self, topic: &str) {
        self.shared.lock().plan.failing_topics.remove(topic);
    }

    /// The broker cannot be reached until [`come_back`](Self::come_back). Publishing, subscribing and
    /// [`check`](crate::MessageBroker::check) fail with [`ErrorClass::Outage`]; subscriptions wait; what is
    /// acknowledged meanwhile is an error, and is delivered again afterwards.
    pub fn go_down(&self) {
        let mut state = self.shared.lock();
        state.plan.down = true;
        // Those who wait for room learn of it.
        self.shared.room.notify_waiters();
    }

    /// Takes [`go_down`](Self::go_down) back.
    pub fn come_back(&self) {
        let mut state = self.shared.lock();
        state.plan.down = false;
        state.wake_everyone();
    }

    /// The next `n` messages that are stored have a confirm of class [`ErrorClass::Unknown`], as if the connection was
    /// cut before it came. A later call replaces an earlier one; 0 takes it back.
    pub fn lose_confirms(&self, n: usize) {
        self.shared.lock().plan.lose_confirms = n;
    }

    /// Messages are stored and delivered, but their confirms wait until [`release_confirms`](Self::release_confirms).
    pub fn hold_confirms(&self) {
        self.shared.lock().plan.hold_confirms = true;
    }

    /// Takes [`hold_confirms`](Self::hold_confirms) back; the confirms that wait resolve in their order.
    pub fn release_confirms(&self) {
        self.shared.lock().release_confirms();
    }

    /// Every `n`-th message that is acknowledged is delivered once more to the same group, before the later ones of its
    /// key; 0 takes it back.
    pub fn duplicate_every(&self, n: usize) {
        let plan = &mut self.shared.lock().plan;
        plan.duplicate_every = n;
        plan.acknowledged = 0;
    }

    /// Cuts every subscription off for a moment. What was delivered and not acknowledged is
    /// [lost](crate::broker::Delivery::lost), stale, and delivered again; the subscriptions go on by themselves.
    pub fn disconnect(&self) {
        self.shared.lock().disconnect();
    }
}

/// The faults that are asked for now.
#[derive(Debug)]
pub(super) struct Plan {
    fail_next: (usize, ErrorClass),
    failing_topics: HashMap<String, ErrorClass>,
    lose_confirms: usize,
    duplicate_every: usize,
    acknowledged: usize,
    pub(super) down: bool,
    pub(super) hold_confirms: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            fail_next: (0, ErrorClass::Outage),
            failing_topics: HashMap::new(),
            lose_confirms: 0,
            duplicate_every: 0,
            acknowledged: 0,
            down: false,
            hold_confirms: false,
        }
    }
}

impl Plan {
    /// Whether a message to this topic is refused.
    pub(super) fn refusal(&mut self, topic: &str) -> Option<BrokerError> {
        let (left, class) = &mut self.fail_next;
        if *left > 0 {
            *left -= 1;
            return Some(BrokerError::new(
                *class,
                "the in-memory broker refused the message: `fail_next` asked for it",
            ));
        }
        let class = *self.failing_topics.get(topic)?;
        Some(BrokerError::new(
            class,
            format!("the in-memory broker refuses the topic `{topic}`: `fail_topic` asked for it"),
        ))
    }

    /// Whether the confirm of the message that was just stored is lost.
    pub(super) fn loses_confirm(&mut self) -> bool {
        let lost = self.lose_confirms > 0;
        self.lose_confirms = self.lose_confirms.saturating_sub(1);
        lost
    }

    /// Whether the message that was just acknowledged is delivered once more.
    pub(super) fn duplicates(&mut self, item: &Item) -> bool {
        if self.duplicate_every == 0 || item.duplicate {
            return false;
        }
        self.acknowledged += 1;
        self.acknowledged.is_multiple_of(self.duplicate_every)
    }
}
