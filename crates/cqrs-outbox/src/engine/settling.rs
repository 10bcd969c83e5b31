//! What leaves the table: only what the broker has.

use std::mem;
use std::time::Duration;

use super::{Action, Engine, Failed, Phase};

impl Engine {
    pub(super) fn poll_settle(&mut self, now: Duration) -> Option<Action> {
        if self.confirmed.is_empty() || !self.settling.is_empty() || !self.may_write(now) {
            return None;
        }
        self.settling = mem::take(&mut self.confirmed);
        Some(Action::Settle(self.settling.clone()))
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
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.unsettled -= 1;
            }
            self.go_on(&lane);
        }
    }
}
