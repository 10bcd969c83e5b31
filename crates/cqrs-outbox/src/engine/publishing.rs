//! What goes to the broker next, and what its answers mean.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{ErrorClass, Receipt};

use super::sessions::Course;
use super::{Action, Engine, FencedChange, Gate, GateState, PublishFailure};
use crate::row::{Confirmed, Lane, OutboxRow};
use crate::store::{LaterEvents, Lease, Rejection, Verdict};

impl Engine {
    pub(super) fn poll_publish(&mut self, now: Duration) -> Option<Action> {
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
        {
            if let Some((_, lane)) = self.delayed.pop_first() {
                self.ready.push_back(lane);
            }
        }
        if self.hold || !self.may_begin() || !self.pace.allows(now, self.in_flight) {
            return None;
        }
        if let Some(row) = self.next_suspect(now) {
            self.in_flight += 1;
            self.stats.published += 1;
            return Some(Action::Publish(row));
        }
        // With very many keys, others are always ready.
        if self.destinations.next().is_some_and(|at| at <= now) {
            self.ready.extend(self.destinations.due(now));
        }
        loop {
            if self.ready.is_empty() {
                self.release_suspects();
            }
            if self.ready.is_empty() {
                self.ready.extend(self.destinations.due(now));
            }
            let lane = self.ready.pop_front()?;
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            state.scheduled = false;
            let (group, head) = (state.group, state.queue.front().copied());
            let Some(row) = head.and_then(|id| self.rows.get(&id)) else {
                self.drop_if_over(&lane);
                continue;
            };
            // Without a valid lease the lane rests until the next heartbeat.
            if !self.may_publish(group, now) {
                continue;
            }
            let row = Arc::clone(row);
            // What it has in a session is answered first; then it is its turn again.
            let Some(way) = self.way(&row, now) else { continue };
            if !self.is_above_suspicion(&lane, &row) {
                continue;
            }
            if !self.destinations.admit(&row.message.topic, &lane, now) {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    state.scheduled = true;
                }
                continue;
            }
            self.in_flight += 1;
            self.activate(group);
            self.stats.published += 1;
            return Some(self.begin_publish(row, way));
        }
    }

    /// Not if all that may still be sent is with the broker.
    pub(super) fn may_begin(&self) -> bool {
        self.left.is_none_or(|left| self.in_flight < left)
    }

    pub(super) fn on_published(&mut self, now: Duration, id: i64, outcome: Result<Receipt, PublishFailure>) {
        let Some(row) = self.rows.get(&id).map(Arc::clone) else { return };
        self.in_flight -= 1;
        self.suspect_answered(&row);
        let session = self.land(&row);
        match (outcome, session) {
            (Ok(receipt), None) => {
                if let Some(lane) = self.lanes.get_mut(&row.lane) {
                    lane.course = Course::Confirmed;
                }
                self.on_receipt(now, &row, receipt);
            }
            (Ok(receipt), Some(_)) => {
                self.confirmed_in_session(&row, &receipt);
                self.end_flight(now, &row.lane);
                self.on_receipt(now, &row, receipt);
            }
            (Err(failure), None) => self.on_failure(now, &row, failure),
            (Err(failure), Some(session)) => {
                self.stats.count_failure(failure.class);
                self.failed_in_session(now, &row, session);
                self.end_flight(now, &row.lane);
                self.drop_if_over(&row.lane);
            }
        }
    }

    pub(super) fn on_receipt(&mut self, now: Duration, row: &OutboxRow, receipt: Receipt) {
        self.stats.confirmed += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.pace.success();
        if self.confirmed.is_empty() {
            self.settle_at = now + self.settings.settle_linger;
        }
        self.confirmed.push(Confirmed::new(row, receipt));
        let waited = self.destinations.heal(&row.message.topic);
        self.wait_no_more(waited);
        if let Some(lane) = self.lanes.get_mut(&row.lane) {
            lane.busy = false;
            lane.doubts = 0;
            lane.unsettled += 1;
        }
        self.go_on(&row.lane);
    }

    pub(super) fn on_failure(&mut self, now: Duration, row: &OutboxRow, failure: PublishFailure) {
        self.stats.count_failure(failure.class);
        // On hold it is as without a lease: other events may stand there when that is over.
        let lease = self.lease(row.group).filter(|_| !self.hold);
        if let Some(lease) = lease
            && failure.class == ErrorClass::Event
        {
            self.destinations.undecided(&row.message.topic);
            self.refuse(row, lease, row.attempts + 1, failure.error);
            return;
        }
        if let Some(lease) = lease
            && failure.class == ErrorClass::Destination
            && let Some(waited) =
                self.destinations.suspend(&row.message.topic, &row.lane, now, &self.settings)
        {
            self.wait_no_more(waited);
            let verdict = self.burial(row);
            self.reject(row, lease, row.attempts + 1, failure.error, verdict);
            return;
        }
        self.deactivate(row.group);
        let Some(lane) = self.lanes.get_mut(&row.lane) else { return };
        lane.busy = false;
        if lease.is_none() {
            // The new owner finds out.
            self.forget_unsent(&row.lane, [row.id]);
            self.destinations.undecided(&row.message.topic);
            self.drop_if_over(&row.lane);
            return;
        }
        lane.insert(row.id);
        match failure.class {
            // It waits for its destination.
            ErrorClass::Destination => lane.scheduled = true,
            ErrorClass::Unknown => {
                lane.scheduled = true;
                lane.doubts += 1;
                let at = now + self.settings.backoff_after(lane.doubts);
                self.delayed.insert((at, row.lane.clone()));
                self.pace.doubt();
                self.destinations.undecided(&row.message.topic);
            }
            // An outage, a client beyond repair, and what future classes may be: nothing goes until a probe went.
            _ => {
                self.pace.outage(now, &self.settings);
                self.destinations.undecided(&row.message.topic);
                self.schedule(&row.lane);
            }
        }
    }

    /// These waited for their destination.
    fn wait_no_more(&mut self, lanes: impl IntoIterator<Item = Lane>) {
        for lane in lanes {
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.scheduled = false;
            }
            self.schedule(&lane);
            self.drop_if_over(&lane);
        }
    }

    /// Rows that wait for suspended destinations must not keep all others out of the memory: once they fill half of it, they
    /// wait aside, each lane behind its gate. As if its first event had been refused, but it costs no attempt.
    pub(super) fn make_room(&mut self, now: Duration) {
        let held = |lane: &Lane| self.lanes.get(lane).map_or(0, |state| state.queue.len());
        if self.destinations.waiting().map(held).sum::<usize>() * 2 < self.rows.len() {
            return;
        }
        for lane in self.destinations.take_waiting(now, &self.settings) {
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            state.scheduled = false;
            let group = state.group;
            // Without a lease the lane rests until the next heartbeat.
            let Some(lease) = self.lease(group) else { continue };
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            let Some(row) = state.queue.pop_front().and_then(|id| self.rows.get(&id)).map(Arc::clone) else {
                self.drop_if_over(&lane);
                continue;
            };
            state.busy = true;
            self.activate(group);
            let error =
                format!("`{}` is suspended, and what waits for it fills the memory", row.message.topic);
            let retry_in = self.settings.max_backoff;
            let attempts = row.attempts;
            self.reject(&row, lease, attempts, error, Verdict::Park { retry_in });
        }
    }

    pub(super) fn refuse(&mut self, row: &OutboxRow, lease: Lease, attempts: u32, error: String) {
        let verdict = if attempts < self.settings.max_attempts {
            Verdict::Park { retry_in: self.settings.backoff_after(attempts) }
        } else {
            self.burial(row)
        };
        self.reject(row, lease, attempts, error, verdict);
    }

    fn burial(&self, row: &OutboxRow) -> Verdict {
        // Nothing ever comes behind an event that has its lane for itself.
        let later = if row.lane.is_of_key() { self.settings.later_events } else { LaterEvents::GoOn };
        Verdict::Bury { later }
    }

    /// The lane stays busy until the rejection is written.
    fn reject(&mut self, row: &OutboxRow, lease: Lease, attempts: u32, error: String, verdict: Verdict) {
        if verdict.closes_gate() {
            // Closed at once: a read that is under way must not let the rows behind it pass.
            self.gates.insert(row.lane.clone(), Gate { group: row.group, state: GateState::Closed });
            self.forget_lane(&row.lane);
        }
        self.fenced.push_back(FencedChange::Reject(Rejection {
            lease,
            id: row.id,
            lane: row.lane.clone(),
            attempts,
            error,
            verdict,
        }));
    }
}
