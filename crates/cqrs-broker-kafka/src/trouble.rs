//! What a member tells of the errors that its client queues.
//!
//! While something is amiss the client queues one error after the other, and some once only. Who hears of an error waits before he
//! asks again: told one by one, they would be heard long after they have passed, and what is queued behind them, a rebalance say, too.

use std::time::{Duration, Instant};

use cqrs_core::broker::{BrokerError, ErrorClass};
use rdkafka::types::RDKafkaErrorCode as Code;

/// How long an error waits for others before it is told.
const GATHER: Duration = Duration::from_millis(200);

/// How long the same error is not logged again.
const SILENCE: Duration = Duration::from_secs(10);

/// Different errors that are told at once, at most; others are logged.
const MOST: usize = 8;

#[derive(Default)]
pub(crate) struct Trouble {
    /// Each once.
    errors: Vec<BrokerError>,
    /// From the first of them on.
    tell_at: Option<Instant>,
    /// What was logged, and when.
    logged: Vec<(Code, Instant)>,
}

impl Trouble {
    /// An error that is to be told.
    pub(crate) fn add(&mut self, error: BrokerError, now: Instant) {
        self.tell_at.get_or_insert(now + GATHER);
        if self.errors.iter().any(|known| known.to_string() == error.to_string()) {
            return;
        }
        if self.errors.len() == MOST {
            tracing::warn!(%error, "a Kafka consumer has heard of too much to tell it all");
        } else {
            self.errors.push(error);
        }
    }

    /// Whether an error that passes by itself is to be logged: not if it was not long ago.
    pub(crate) fn is_news(&mut self, code: Code, now: Instant) -> bool {
        self.logged.retain(|(_, at)| now < *at + SILENCE);
        let is_news = self.logged.iter().all(|(known, _)| *known != code);
        if is_news {
            self.logged.push((code, now));
        }
        is_news
    }

    /// When there is something to tell.
    pub(crate) fn tell_at(&self) -> Option<Instant> {
        self.tell_at
    }

    /// What there is to tell, once it is time: as one error, of the gravest class.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<BrokerError> {
        if self.tell_at.is_none_or(|at| now < at) {
            return None;
        }
        self.take()
    }

    /// What there is to tell, although it is not time yet.
    pub(crate) fn take(&mut self) -> Option<BrokerError> {
        self.tell_at = None;
        let mut errors = std::mem::take(&mut self.errors);
        errors.sort_by_key(|error| gravity(error.class()));
        let gravest = errors.pop()?;
        if errors.is_empty() {
            return Some(gravest);
        }
        let others = errors.iter().rev().map(|error| format!("; and {error}"));
        let what = format!("{gravest}{}", others.collect::<String>());
        Some(BrokerError::new(gravest.class(), what).with_source(gravest))
    }
}

fn gravity(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::Event => 3,
        ErrorClass::Login | ErrorClass::Fatal => 2,
        ErrorClass::Destination => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(class: ErrorClass, what: &str) -> BrokerError {
        BrokerError::new(class, what)
    }

    #[test]
    fn different_errors_are_told_at_once_and_each_of_them_once() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        for what in ["no topic a", "no topic b", "no topic a"] {
            trouble.add(error(ErrorClass::Destination, what), now);
        }
        trouble.add(error(ErrorClass::Event, "not readable"), now);
        trouble.add(error(ErrorClass::Outage, "gone"), now);
        assert!(trouble.tell(now).is_none(), "others may come");
        assert_eq!(trouble.tell_at(), Some(now + GATHER));
        let told = trouble.tell(now + GATHER).unwrap();
        assert_eq!(told.class(), ErrorClass::Event);
        let text = told.to_string();
        assert!(text.starts_with("not readable"), "{text}");
        for part in ["no topic a", "no topic b", "gone"] {
            assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
        }
        assert!(trouble.tell(now + 2 * GATHER).is_none());
        assert_eq!(trouble.tell_at(), None);
    }

    #[test]
    fn what_passes_is_logged_now_and_then() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert!(trouble.is_news(Code::AllBrokersDown, now));
        assert!(!trouble.is_news(Code::AllBrokersDown, now + SILENCE / 2));
        assert!(trouble.is_news(Code::NotCoordinator, now + SILENCE / 2));
        // Errors that come in turn are no news either.
        assert!(!trouble.is_news(Code::AllBrokersDown, now + SILENCE / 2));
        assert!(trouble.is_news(Code::AllBrokersDown, now + SILENCE * 2));
    }
}
