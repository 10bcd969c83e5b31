//! Scheduled events: the owner of a group moves those that are due into the hot table.

use std::time::Duration;

use super::{Action, Engine, Failed};
use crate::store::{Lease, Promoted};

impl Engine {
    /// With each heartbeat, and when one that is known of is due.
    pub(super) fn poll_promote(&mut self, now: Duration) -> Option<Action> {
        let is_due = self.promote_now || self.next_promotion.is_some_and(|at| now >= at);
        if self.promoting || !is_due || self.hold || now < self.store_resumes {
            return None;
        }
        let leases: Vec<Lease> = self.valid_leases(now).collect();
        if leases.is_empty() {
            // The next heartbeat knows more.
            self.promote_now = true;
            self.next_promotion = None;
            return None;
        }
        self.promote_now = false;
        self.next_promotion = None;
        self.promoting = true;
        Some(Action::Promote { leases, limit: self.settings.batch })
    }

    pub(super) fn on_promoted(&mut self, now: Duration, answer: Result<Promoted, Failed>) {
        self.promoting = false;
        let Some(promoted) = self.store_answered(now, answer) else {
            self.promote_now = true;
            return;
        };
        self.stats.promoted += promoted.moved as u64;
        self.read_now |= promoted.moved > 0;
        // Some that are due may wait for a writer who holds them; they must not be asked for without a pause.
        let stuck = promoted.moved == 0 && promoted.next_due == Some(Duration::ZERO);
        let next = promoted.next_due.map(|wait| now + if stuck { self.settings.poll_interval } else { wait });
        // A wake that came meanwhile may be about a later commit than this answer.
        self.next_promotion = self.next_promotion.into_iter().chain(next).min();
    }

    /// What was written may be scheduled for a moment before the next heartbeat. Most often it is not, so one look is enough
    /// for all wakes of a poll interval.
    pub(super) fn on_woken(&mut self, now: Duration) {
        self.read_now = true;
        self.quiet = self.settings.poll_interval;
        let look = now + self.settings.poll_interval;
        self.next_promotion = Some(self.next_promotion.map_or(look, |at| at.min(look)));
    }
}
