//! How fast, and whether at all: back-off and ramp after an outage, and suspended destinations.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::row::Lane;
use crate::settings::RelaySettings;

/// How many publishes may be with the broker. An outage closes the window to one probe; each success doubles it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    window: usize,
    max_window: usize,
    failures: u32,
    /// A publish ended without an answer, and none was confirmed since.
    doubted: bool,
    resume_at: Duration,
}

impl Pace {
    pub(super) fn new(settings: &RelaySettings) -> Self {
        // The first publish is a probe, too: a relay that starts during an outage has one message in flight.
        Self {
            window: 1,
            max_window: settings.max_in_flight,
            failures: 0,
            doubted: false,
            resume_at: Duration::ZERO,
        }
    }

    pub(super) fn allows(&self, now: Duration, in_flight: usize) -> bool {
        now >= self.resume_at && self.has_room(in_flight)
    }

    pub(super) fn has_room(&self, in_flight: usize) -> bool {
        in_flight < self.window
    }

    /// Something was wrong, and nobody knows that it is over.
    pub(super) fn is_interrupted(&self) -> bool {
        self.failures > 0 || self.doubted
    }

    pub(super) fn resumes_at(&self) -> Duration {
        self.resume_at
    }

    pub(super) fn rebase(&mut self, now: Duration) {
        self.resume_at = self.resume_at.saturating_sub(now);
    }

    pub(super) fn success(&mut self) {
        (self.failures, self.doubted) = (0, false);
        self.window = self.window.saturating_mul(2).min(self.max_window);
    }

    /// The broker took nothing. What was in flight together fails together, and counts once.
    pub(super) fn outage(&mut self, now: Duration, settings: &RelaySettings) {
        if now >= self.resume_at {
            self.failures += 1;
            self.resume_at = now + settings.backoff_after(self.failures);
        }
        self.window = 1;
    }

    /// Something may be wrong; the lane itself waits.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
        self.window = (self.window / 2).max(1);
    }
}

/// Topics that cannot be reached for a reason of their own, with the lanes whose next event goes there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Destinations(BTreeMap<String, Suspension>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Suspension {
    failures: u32,
    retry_at: Duration,
    /// From then on, what is refused for this topic goes to the dead letters.
    ends_at: Option<Duration>,
    /// Until then it is remembered though nobody waits here: those who wait aside come back.
    kept_until: Duration,
    probing: bool,
    waiting: VecDeque<Lane>,
}

impl Suspension {
    fn is_over(&self, now: Duration) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }
}

impl Destinations {
    /// Whether `lane` may publish to `topic` now; else it waits here. After the back-off one lane goes as a probe; when the
    /// suspension is over, all do.
    pub(super) fn admit(&mut self, topic: &str, lane: &Lane, now: Duration) -> bool {
        let Some(suspension) = self.0.get_mut(topic) else { return true };
        if suspension.is_over(now) {
            return true;
        }
        if !suspension.probing && now >= suspension.retry_at {
            suspension.probing = true;
            return true;
        }
        suspension.waiting.push_back(lane.clone());
        false
    }

    /// `topic` did not take an event of `lane`, which waits here. Not if the suspension is over: then this is `false`.
    #[must_use]
    pub(super) fn suspend(
        &mut self,
        topic: &str,
        lane: &Lane,
        now: Duration,
        settings: &RelaySettings,
    ) -> bool {
        let suspension = self.0.entry(topic.to_owned()).or_insert_with(|| Suspension {
            ends_at: settings.destination_timeout.map(|timeout| now + timeout),
            ..Suspension::default()
        });
        // What was in flight together fails together, and counts once.
        if suspension.probing || suspension.failures == 0 || suspension.is_over(now) {
            suspension.failures = suspension.failures.saturating_add(1);
            suspension.retry_at = now + settings.backoff_after(suspension.failures);
            suspension.kept_until = match suspension.ends_at {
                Some(_) => suspension.retry_at + settings.max_backoff * 2,
                None => suspension.retry_at,
            };
        }
        suspension.probing = false;
        if suspension.is_over(now) {
            return false;
        }
        suspension.waiting.push_front(lane.clone());
        true
    }

    /// A publish to `topic` ended without a word on the destination.
    pub(super) fn undecided(&mut self, topic: &str) {
        if let Some(suspension) = self.0.get_mut(topic) {
            suspension.probing = false;
        }
    }

    pub(super) fn is_suspended(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// The topic works: its lanes go on.
    pub(super) fn heal(&mut self, topic: &str) -> VecDeque<Lane> {
        self.0.remove(topic).map(|suspension| suspension.waiting).unwrap_or_default()
    }

    /// One lane for each topic whose back-off is over, and all of those whose suspension is. A topic that nobody waits for any
    /// more is forgotten.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Lane> {
        self.0.retain(|_, topic| topic.probing || topic.kept_until > now || !topic.waiting.is_empty());
        let mut due = Vec::new();
        for suspension in self.0.values_mut() {
            if suspension.is_over(now) {
                due.extend(suspension.waiting.drain(..));
            } else if !suspension.probing && suspension.retry_at <= now {
                due.extend(suspension.waiting.pop_front());
            }
        }
        due
    }

    /// The lanes that wait here.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Lane> {
        self.0.values().flat_map(|suspension| &suspension.waiting)
    }

    /// The same, and they wait here no more.
    pub(super) fn take_waiting(&mut self) -> Vec<Lane> {
        self.0.values_mut().flat_map(|suspension| suspension.waiting.drain(..)).collect()
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.0
            .values()
            .filter(|suspension| !suspension.waiting.is_empty())
            .filter_map(|suspension| {
                let probe = (!suspension.probing).then_some(suspension.retry_at);
                suspension.ends_at.into_iter().chain(probe).min()
            })
            .min()
    }

    pub(super) fn rebase(&mut self, now: Duration) {
        for suspension in self.0.values_mut() {
            suspension.retry_at = suspension.retry_at.saturating_sub(now);
            suspension.kept_until = suspension.kept_until.saturating_sub(now);
            suspension.ends_at = suspension.ends_at.map(|end| end.saturating_sub(now));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
