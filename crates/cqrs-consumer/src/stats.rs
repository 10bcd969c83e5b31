use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`Consumer`](crate::Consumer) did since it was built, over all its runs.
///
/// The counters are read one after the other, so that a snapshot taken while messages are handled may be off by those.
/// Of the messages that were `received`, those that are in none of `handled`, `duplicates`, `skipped` and
/// `dead_lettered` wait, are being handled, or were given back to the broker.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Messages that the broker delivered, each delivery counted.
    pub received: u64,
    /// Messages for which at least one handler ran, and none failed in the end.
    pub handled: u64,
    /// Messages for which every handler had run before: an inbox knew them.
    pub duplicates: u64,
    /// Messages that no handler is subscribed to, and that were acknowledged all the same
    /// ([`Unhandled::Skip`](crate::Unhandled::Skip)).
    pub skipped: u64,
    /// Messages whose dead letter the broker has confirmed.
    pub dead_lettered: u64,
    /// Attempts that ended in an error, a panic or a time-out.
    pub failed_attempts: u64,
    /// Attempts that were not the first one for their delivery.
    pub retried: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: Counter,
    pub(crate) handled: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) skipped: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) failed_attempts: Counter,
    pub(crate) retried: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> ConsumerStats {
        ConsumerStats {
            received: self.received.get(),
            handled: self.handled.get(),
            duplicates: self.duplicates.get(),
            skipped: self.skipped.get(),
            dead_lettered: self.dead_lettered.get(),
            failed_attempts: self.failed_attempts.get(),
            retried: self.retried.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
