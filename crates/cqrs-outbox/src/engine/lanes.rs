//! What waits in memory, lane by lane.

use std::collections::VecDeque;
use std::mem;

use super::sessions::Course;
use super::{Engine, FencedChange, GateState, LaneState};
use crate::row::{GroupNo, Lane};

impl Engine {
    pub(super) fn schedule(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane)
            && state.may_be_scheduled()
        {
            state.scheduled = true;
            self.ready.push_back(lane.clone());
        }
    }

    pub(super) fn forget(&mut self, id: i64) {
        if let Some(row) = self.rows.remove(&id) {
            self.bytes -= row.size;
        }
    }

    /// Forgets the rows that wait in these lanes; a later read brings them again.
    pub(super) fn forget_waiting(&mut self, which: impl Fn(&LaneState) -> bool) {
        let lanes: Vec<Lane> =
            self.lanes.iter().filter(|(_, state)| which(state)).map(|(lane, _)| lane.clone()).collect();
        for lane in lanes {
            self.forget_lane(&lane);
        }
    }

    pub(super) fn forget_lane(&mut self, lane: &Lane) {
        let queue = self.lanes.get_mut(lane).map(|state| mem::take(&mut state.queue)).unwrap_or_default();
        self.forget_unsent(lane, queue);
        self.drop_if_over(lane);
    }

    /// Forgets rows that still have to be sent. A read that is under way was told to leave them out.
    pub(super) fn forget_unsent(&mut self, lane: &Lane, ids: impl IntoIterator<Item = i64>) {
        ids.into_iter().for_each(|id| self.forget(id));
        self.doubtful.insert(lane.clone());
    }

    pub(super) fn drop_if_over(&mut self, lane: &Lane) {
        if self.lanes.get(lane).is_some_and(LaneState::is_over) {
            self.lanes.remove(lane);
        }
    }

    /// Without its gate, what was to be moved aside has to be read again before anything else of the lane.
    pub(super) fn forget_gate(&mut self, lane: &Lane) {
        self.gates.remove(lane);
        self.forget_held(lane);
    }

    pub(super) fn forget_held(&mut self, lane: &Lane) {
        let mut held = Vec::new();
        for change in &mut self.fenced {
            // It stays in its place in the queue: it may be under way.
            if let FencedChange::SetAside { lane: of, ids } = change
                && of == lane
            {
                held.append(ids);
            }
        }
        self.forget_unsent(lane, held);
    }

    /// A lane has no row with the broker any more: it goes on, or its gate may open.
    pub(super) fn go_on(&mut self, lane: &Lane) {
        self.schedule(lane);
        let drained = self.lanes.get(lane).is_none_or(LaneState::is_drained);
        if drained && self.gates.get(lane).is_some_and(|gate| gate.state == GateState::Draining) {
            let waits = self
                .fenced
                .iter()
                .any(|change| matches!(change, FencedChange::OpenGate(known) if known == lane));
            if !waits {
                self.fenced.push_back(FencedChange::OpenGate(lane.clone()));
            }
        }
        self.drop_if_over(lane);
    }
}

impl LaneState {
    pub(super) fn new(group: GroupNo) -> Self {
        Self {
            group,
            queue: VecDeque::new(),
            busy: false,
            course: Course::Alone,
            alone_up_to: None,
            scheduled: false,
            unsettled: 0,
            doubts: 0,
        }
    }

    pub(super) fn insert(&mut self, id: i64) {
        let at = self.queue.partition_point(|known| *known < id);
        self.queue.insert(at, id);
    }

    pub(super) fn may_be_scheduled(&self) -> bool {
        !self.busy && !self.scheduled && !self.queue.is_empty()
    }

    /// Everything of it that is in memory has been sent and settled.
    pub(super) fn is_drained(&self) -> bool {
        self.queue.is_empty() && !self.busy && self.in_session() == 0 && self.unsettled == 0
    }

    /// Nothing refers to it.
    pub(super) fn is_over(&self) -> bool {
        self.is_drained() && !self.scheduled
    }
}
