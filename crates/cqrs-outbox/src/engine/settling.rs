//! What leaves the table: only what the broker has.

use std::mem;
use std::time::Duration;

use super::{Action, Engine, Failed, Phase};

impl Engine {
    pub(super) fn poll_settle(&mut self, now: Duration) -> Option<Action> {
        if self.confirmed.is_empty() || !self.settling.is_empty() || !self.may_write(now) {
            return None;
        }
        if self.waits_for_more() && now < self.settle_at {
            return None;
        }
        self.settling = mem::take(&mut self.confirmed);
        self.settle_at = Duration::ZERO;
        Some(Action::Settle(self.settling.clone()))
    }

    /// A statement for each receipt would be most of what the database has to do. So few wait for more, if more is to come.
    pub(super) fn waits_for_more(&self) -> bool {
        self.in_flight > 0 && self.confirmed.len() < self.settings.batch / 4
    }

    pub(super) fn on_settled(&mut self, now: Duration, answer: Result<(), Failed>) {
        let settled = mem::take(&mut self.settling);
        if self.store_answered(now, answer).is_none() {
            if self.phase < Phase::GivingUp {
                // Behind what was confirmed meanwhile: their order is of no consequence.
                self.confirmed.extend(settled);
            }
            return;
        }
        self.stats.settled += settled.len() as u64;
        for confirmed in settled {
            let Some(row) = self.rows.get(&confirmed.id()) else { continue };
            let (group, lane) = (row.group, row.lane.clone());
            self.forget(confirmed.id());
            self.deactivate(group);
            self.watch_one_less(group);
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.unsettled -= 1;
            }
            self.go_on(&lane);
        }
    }
}
