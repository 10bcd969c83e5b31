//! What a member tells of the errors that its client queues.
//!
//! While something is amiss the client queues one error after the other, and some once only. Who hears of an error waits before he
//! asks again: told one by one, they would be heard long after they have passed, and what is queued behind them, a rebalance say, too.

use std::time::{Duration, Instant};

use cqrs_core::broker::{BrokerError, ErrorClass};
use rdkafka::types::RDKafkaErrorCode as Code;

/// How long an error waits for others before it is told.
const GATHER: Duration = Duration::from_millis(200);

/// How long all brokers may be gone before the member looks whether they still are.
const AWAY: Duration = Duration::from_secs(10);

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
    /// Since when no broker could be reached, as far as is known.
    away_since: Option<Instant>,
    /// What was logged last, and when.
    logged: Option<(Code, Instant)>,
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

    /// An error that passes by itself. Whether it is to be logged.
    pub(crate) fn passes(&mut self, code: Code, now: Instant) -> bool {
        if code == Code::AllBrokersDown {
            self.away_since.get_or_insert(now);
        }
        let is_known = self.logged.is_some_and(|(known, at)| known == code && now < at + SILENCE);
        if !is_known {
            self.logged = Some((code, now));
        }
        !is_known
    }

    /// A broker has answered.
    pub(crate) fn is_heard(&mut self) {
        self.away_since = None;
    }

    /// Whether it is time to look whether the brokers are still gone; not again before that time has passed once more.
    pub(crate) fn may_be_away(&mut self, now: Instant) -> bool {
        let is_due = self.away_since.is_some_and(|since| now >= since + AWAY);
        if is_due {
            self.away_since = Some(now);
        }
        is_due
    }

    /// When there may be something to tell.
    pub(crate) fn next(&self) -> Option<Instant> {
        let look_at = self.away_since.map(|since| since + AWAY);
        self.tell_at.into_iter().chain(look_at).min()
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
        assert_eq!(trouble.next(), Some(now + GATHER));
        let told = trouble.tell(now + GATHER).unwrap();
        assert_eq!(told.class(), ErrorClass::Event);
        let text = told.to_string();
        assert!(text.starts_with("not readable"), "{text}");
        for part in ["no topic a", "no topic b", "gone"] {
            assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
        }
        assert!(trouble.tell(now + 2 * GATHER).is_none());
        assert_eq!(trouble.next(), None);
    }

    #[test]
    fn an_outage_is_looked_at_when_it_lasts() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert!(trouble.passes(Code::AllBrokersDown, now));
        assert!(!trouble.passes(Code::AllBrokersDown, now + AWAY / 2));
        assert!(trouble.passes(Code::NotCoordinator, now + AWAY / 2));
        assert!(!trouble.may_be_away(now + AWAY / 2));
        assert!(trouble.may_be_away(now + AWAY));
        assert!(!trouble.may_be_away(now + AWAY), "not at once again");
        assert_eq!(trouble.next(), Some(now + 2 * AWAY));
        trouble.is_heard();
        assert!(!trouble.may_be_away(now + 3 * AWAY));
    }
}
