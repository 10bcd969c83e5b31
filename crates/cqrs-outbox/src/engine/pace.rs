//! How fast, and whether at all: back-off and ramp after an outage, and suspended destinations.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
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
    /// How long the next probe waits, and how long those before it have waited. Not by the clock: while nothing can be tried, for an
    /// outage or a hold, nothing is known of the topic.
    wait: Duration,
    waited: Duration,
    retry_at: Duration,
    /// It has waited for long enough: all may go, and what is refused goes to the dead letters.
    given_up: bool,
    /// Until then it is remembered though nobody waits here: those who wait aside come back.
    kept_until: Duration,
    /// A lane that was due is about to ask: it may be the only one, and is not to be taken for the first.
    is_probe_on_its_way: bool,
    probing: bool,
    waiting: VecDeque<Lane>,
}

impl Suspension {
    fn refused(&mut self, now: Duration, settings: &RelaySettings) {
        self.failures = self.failures.saturating_add(1);
        self.wait = settings.backoff_after(self.failures);
        if let Some(timeout) = settings.destination_timeout {
            let left = timeout.saturating_sub(self.waited);
            self.given_up = left.is_zero();
            self.wait = self.wait.min(left);
            self.waited += self.wait;
        }
        self.retry_at = now + self.wait;
    }

    /// Those who wait aside come back after the longest back-off; that and what they take then is as long again, at most.
    fn keep(&mut self, now: Duration, settings: &RelaySettings) {
        if settings.destination_timeout.is_some() {
            let time = settings.max_backoff.saturating_mul(2).saturating_add(settings.publish_timeout);
            self.kept_until = now.saturating_add(time);
        }
    }

    fn is_forgotten(&self, now: Duration) -> bool {
        let is_asked_for = self.probing || self.is_probe_on_its_way || !self.waiting.is_empty();
        !is_asked_for && self.retry_at.max(self.kept_until) <= now
    }
}

impl Destinations {
    /// Whether `lane` may publish to `topic` now; else it waits here. After the back-off one lane goes as a probe.
    pub(super) fn admit(&mut self, topic: &str, lane: &Lane, now: Duration) -> bool {
        let Some(suspension) = self.0.get_mut(topic) else { return true };
        if suspension.given_up || suspension.is_forgotten(now) {
            return true;
        }
        if !suspension.probing && now >= suspension.retry_at {
            suspension.is_probe_on_its_way = false;
            suspension.probing = true;
            return true;
        }
        suspension.waiting.push_back(lane.clone());
        false
    }

    /// `topic` did not take an event of `lane`, which waits here; or, if the topic has been suspended for long enough, is given up
    /// with all that it does not take, and these are those who waited.
    #[must_use]
    pub(super) fn suspend(
        &mut self,
        topic: &str,
        lane: &Lane,
        now: Duration,
        settings: &RelaySettings,
    ) -> Option<VecDeque<Lane>> {
        let suspension = self.0.entry(topic.to_owned()).or_default();
        if suspension.is_forgotten(now) {
            *suspension = Suspension::default();
        }
        // What was in flight together fails together, and counts once.
        if suspension.probing || suspension.failures == 0 {
            suspension.refused(now, settings);
        }
        suspension.probing = false;
        suspension.keep(now, settings);
        if suspension.given_up {
            return Some(mem::take(&mut suspension.waiting));
        }
        suspension.waiting.push_front(lane.clone());
        None
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

    /// Whether one event at a time is all that may go there.
    pub(super) fn is_probed(&self, topic: &str) -> bool {
        self.0.get(topic).is_some_and(|suspension| !suspension.given_up)
    }

    /// The topic works: its lanes go on.
    pub(super) fn heal(&mut self, topic: &str) -> VecDeque<Lane> {
        self.0.remove(topic).map(|suspension| suspension.waiting).unwrap_or_default()
    }

    /// One lane for each topic whose back-off is over. A topic that nobody waits for any more is forgotten.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Lane> {
        self.0.retain(|_, suspension| {
            // Those of the last call have asked, or have nothing to send any more.
            suspension.is_probe_on_its_way = false;
            !suspension.is_forgotten(now)
        });
        self.0
            .values_mut()
            .filter(|suspension| !suspension.probing && suspension.retry_at <= now)
            .filter_map(|suspension| {
                let probe = suspension.waiting.pop_front();
                suspension.is_probe_on_its_way = probe.is_some();
                probe
            })
            .collect()
    }

    /// The lanes that wait here.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Lane> {
        self.0.values().flat_map(|suspension| &suspension.waiting)
    }

    /// The same, and they wait here no more, but aside.
    pub(super) fn take_waiting(&mut self, now: Duration, settings: &RelaySettings) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for suspension in self.0.values_mut().filter(|suspension| !suspension.waiting.is_empty()) {
            suspension.keep(now, settings);
            lanes.extend(suspension.waiting.drain(..));
        }
        lanes
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.0
            .values()
            .filter(|suspension| !suspension.probing && !suspension.waiting.is_empty())
            .map(|suspension| suspension.retry_at)
            .min()
    }

    pub(super) fn rebase(&mut self, now: Duration) {
        for suspension in self.0.values_mut() {
            suspension.retry_at = suspension.retry_at.saturating_sub(now);
            suspension.kept_until = suspension.kept_until.saturating_sub(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
