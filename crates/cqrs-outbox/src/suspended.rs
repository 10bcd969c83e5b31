//! What a relay tells operators of the topics that it cannot reach.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::SuspendedTopic;

/// So many are told, and so many characters of each error: who has more knows enough.
const TOPICS: usize = 20;
const CHARS: usize = 500;

/// The last error of each topic that is suspended, and what of it the store knows.
#[derive(Debug, Default)]
pub(crate) struct Suspended(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    errors: BTreeMap<String, String>,
    told: Vec<SuspendedTopic>,
}

impl Suspended {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins: the store knows nothing of it.
    pub(crate) fn reset(&self) {
        *self.state() = State::default();
    }

    /// The broker has no such destination, or does not let us.
    pub(crate) fn failed(&self, topic: &str, error: &str) {
        let error: String = error.chars().take(CHARS).collect();
        self.state().errors.insert(topic.to_owned(), error);
    }

    /// Forgets topics that are suspended no more.
    pub(crate) fn retain(&self, is_suspended: impl Fn(&str) -> bool) {
        self.state().errors.retain(|topic, _| is_suspended(topic));
    }

    /// What the store is to be told: whatever there is, for it may have forgotten it with the relay that slept for too long; and that
    /// there is nothing any more, if it does not know it.
    pub(crate) fn news(&self) -> Option<Vec<SuspendedTopic>> {
        let state = self.state();
        let topics = state.errors.iter().take(TOPICS).map(|(topic, error)| (topic.clone(), error.clone()));
        let topics: Vec<_> = topics.map(|(topic, error)| SuspendedTopic { topic, error }).collect();
        (!topics.is_empty() || !state.told.is_empty()).then_some(topics)
    }

    /// The store knows these.
    pub(crate) fn told(&self, topics: Vec<SuspendedTopic>) {
        self.state().told = topics;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_suspended_is_told_again_and_that_nothing_is_once() {
        let suspended = Suspended::default();
        assert_eq!(suspended.news(), None);
        suspended.failed("rooms", "no such topic");
        for _ in 0..2 {
            let topics = suspended.news().unwrap();
            assert_eq!(topics[0].topic, "rooms");
            suspended.told(topics);
        }
        suspended.retain(|_| false);
        // The store did not take it.
        assert_eq!(suspended.news(), Some(Vec::new()));
        suspended.told(suspended.news().unwrap());
        assert_eq!(suspended.news(), None);
    }
}
