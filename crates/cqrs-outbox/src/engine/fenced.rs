//! What only the owner of a group may do: park, bury, move aside, open a gate.

use std::time::Duration;

use super::{Action, Engine, Failed, FencedChange, GateState, LaneState, Phase};
use crate::row::Lane;
use crate::store::{Fenced, Rejection, Verdict};

impl Engine {
    pub(super) fn poll_fenced(&mut self, now: Duration) -> Option<Action> {
        if self.fenced_busy || !self.may_write(now) {
            return None;
        }
        while let Some(change) = self.fenced.front() {
            let (lane, group) = match change {
                FencedChange::Reject(rejection) => (&rejection.lane, Some(rejection.lease.group)),
                FencedChange::SetAside { lane, .. } | FencedChange::OpenGate(lane) => {
                    (lane, self.gates.get(lane).map(|gate| gate.group))
                }
            };
            let lease = group.and_then(|group| self.lease(group));
            let action = match (change, lease) {
                (FencedChange::Reject(rejection), Some(lease)) if lease == rejection.lease => {
                    Some(Action::Reject(rejection.clone()))
                }
                (FencedChange::SetAside { ids, .. }, Some(lease)) if !ids.is_empty() => {
                    let later = self.settings.later_events;
                    Some(Action::SetAside { lease, lane: lane.clone(), ids: ids.clone(), later })
                }
                (FencedChange::OpenGate(_), Some(lease)) if self.is_drained(lane) => {
                    Some(Action::OpenGate { lease, lane: lane.clone() })
                }
                _ => None,
            };
            if action.is_some() {
                self.fenced_busy = true;
                return action;
            }
            // Not ours any more, or no longer wanted.
            self.give_up_fenced();
        }
        None
    }

    pub(super) fn is_drained(&self, lane: &Lane) -> bool {
        self.gates.get(lane).is_some_and(|gate| gate.state == GateState::Draining)
            && self.lanes.get(lane).is_none_or(LaneState::is_drained)
    }

    /// Drops the first change and what it held in memory; a later read brings it again, to whoever owns it.
    pub(super) fn give_up_fenced(&mut self) {
        match self.fenced.pop_front() {
            Some(FencedChange::Reject(rejection)) => self.give_up_rejection(&rejection),
            Some(FencedChange::SetAside { lane, ids }) => self.forget_unsent(&lane, ids),
            Some(FencedChange::OpenGate(_)) | None => {}
        }
    }

    /// The answer to the change at the front; `None` means that the store failed, and it is tried again.
    pub(super) fn fenced_answered<T>(
        &mut self,
        now: Duration,
        answer: Result<Fenced<T>, Failed>,
    ) -> Option<Fenced<T>> {
        self.fenced_busy = false;
        let answer = self.store_answered(now, answer);
        if answer.is_none() && self.phase >= Phase::GivingUp {
            self.fenced.clear();
        }
        answer
    }

    pub(super) fn end_rejection(&mut self, rejection: &Rejection) {
        self.forget(rejection.id);
        self.deactivate(rejection.lease.group);
        if let Some(lane) = self.lanes.get_mut(&rejection.lane) {
            lane.busy = false;
        }
        self.go_on(&rejection.lane);
    }

    /// The row still stands where it stood, so nothing of its lane may pass it.
    pub(super) fn give_up_rejection(&mut self, rejection: &Rejection) {
        self.forget_unsent(&rejection.lane, [rejection.id]);
        self.forget_lane(&rejection.lane);
        self.end_rejection(rejection);
    }

    pub(super) fn on_rejected(&mut self, now: Duration, answer: Result<Fenced<()>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::Reject(rejection)) = self.fenced.pop_front() else { return };
        match (answer, rejection.verdict) {
            (Fenced::LeaseLost, _) => {
                if self.lease(rejection.lease.group) == Some(rejection.lease) {
                    self.lose(rejection.lease.group);
                }
                self.give_up_rejection(&rejection);
                return;
            }
            (Fenced::Done(()), Verdict::Park { retry_in }) => {
                self.stats.parked += 1;
                self.next_read_parked = self.next_read_parked.min(now + retry_in);
            }
            (Fenced::Done(()), Verdict::Bury { .. }) => self.stats.dead_lettered += 1,
        }
        self.end_rejection(&rejection);
    }

    pub(super) fn on_set_aside(&mut self, now: Duration, answer: Result<Fenced<bool>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::SetAside { lane, ids }) = self.fenced.pop_front() else { return };
        self.forget_unsent(&lane, ids);
        match answer {
            Fenced::Done(true) => {}
            Fenced::Done(false) => {
                // The read was older than the opening of the gate.
                self.forget_gate(&lane);
                self.read_now = true;
            }
            Fenced::LeaseLost => {
                if let Some(gate) = self.gates.get(&lane) {
                    self.lose(gate.group);
                }
            }
        }
    }

    pub(super) fn on_gate_opened(&mut self, now: Duration, answer: Result<Fenced<bool>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::OpenGate(lane)) = self.fenced.pop_front() else { return };
        match answer {
            Fenced::Done(true) => {
                self.forget_gate(&lane);
                self.read_now = true;
            }
            Fenced::Done(false) => self.read_parked_now = true,
            Fenced::LeaseLost => {
                if let Some(gate) = self.gates.get(&lane) {
                    self.lose(gate.group);
                }
            }
        }
    }
}

impl FencedChange {
    /// The lane whose gate it closes.
    pub(super) fn closes(&self) -> Option<&Lane> {
        match self {
            Self::Reject(rejection) if rejection.verdict.closes_gate() => Some(&rejection.lane),
            _ => None,
        }
    }
}
