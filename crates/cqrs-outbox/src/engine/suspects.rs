//! Events that may have ended the process of the last owner.
//!
//! A lease that ended without a release may mean that an event killed the relay that was sending it; whoever comes next
//! would die of it, too, and nothing would ever go on. So events of such a group, and events that were refused before, are
//! suspects: the store is told which of them are with the broker before they are. If that relay dies as well, its successor
//! knows what it was sending. It sends each of these with no other suspect, and one that had no other beside it when a
//! process ended is put aside, so that the others go on; that counts as a third of the refusals after which an event goes to
//! the dead letters.
//!
//! Nothing is held against an event while the broker may be away: a process that is restarted again and again for want of
//! a broker was not killed by what it tried to send.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Engine, Failed};
use crate::row::{GroupNo, Lane, OutboxRow};
use crate::store::Lease;

/// How many suspects are with the broker at the same time. Many, for most processes are not ended by an event, and a group
/// is not to be slow after every crash.
const TOGETHER: usize = 256;

/// What is known of the end of a group's last owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Evidence {
    /// Nothing.
    #[default]
    None,
    /// It was sending these.
    Among(BTreeSet<i64>),
    /// It was sending this, and no other suspect.
    Against(i64),
}

impl Evidence {
    pub(super) fn of(suspects: &[i64]) -> Self {
        match suspects {
            [] => Self::None,
            [id] => Self::Against(*id),
            ids => Self::Among(ids.iter().copied().collect()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Suspects {
    /// Lanes whose next event is one.
    waiting: VecDeque<Lane>,
    /// What is sent next, with the lease under which it was chosen.
    chosen: VecDeque<(i64, Lease)>,
    /// What is with the broker.
    sent: BTreeSet<i64>,
    /// What was chosen or sent last goes with no other suspect.
    alone: bool,
    /// What the store was told last.
    told: Vec<i64>,
    /// Whether it knows all that was chosen.
    is_told: bool,
    telling: bool,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            chosen: VecDeque::new(),
            sent: BTreeSet::new(),
            alone: false,
            told: Vec::new(),
            is_told: true,
            telling: false,
        }
    }
}

impl Suspects {
    pub(super) fn is_telling(&self) -> bool {
        self.telling
    }

    pub(super) fn answered(&mut self, id: i64) {
        self.sent.remove(&id);
    }

    fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.sent.is_empty()
    }

    /// The store still knows of some that have gone.
    fn is_over(&self) -> bool {
        self.is_empty() && !self.told.is_empty()
    }

    fn may_be_sent(&self) -> bool {
        self.is_told && !self.telling && !self.chosen.is_empty()
    }
}

impl Engine {
    /// Whether a lane's next event may go as any other does. If not, the lane waits here, or its event is put aside.
    pub(super) fn is_above_suspicion(&mut self, lane: &Lane, row: &Arc<OutboxRow>) -> bool {
        let Some(owned) = self.groups.get_mut(&row.group) else { return true };
        if owned.evidence == Evidence::Against(row.id) {
            owned.evidence = Evidence::None;
            self.convict(lane, row);
            return false;
        }
        if (owned.watched == 0 && row.attempts == 0) || !self.may_be_held_against_it() {
            return true;
        }
        if let Some(state) = self.lanes.get_mut(lane) {
            state.scheduled = true;
            self.suspects.waiting.push_back(lane.clone());
        }
        false
    }

    /// The broker is known to be there.
    fn may_be_held_against_it(&self) -> bool {
        self.broker_answers && !self.pace.is_interrupted()
    }

    /// Tells the store what is sent next, and when that is over.
    pub(super) fn poll_suspects(&mut self, now: Duration) -> Option<Action> {
        if self.suspects.telling || now < self.store_resumes {
            return None;
        }
        if !self.may_be_held_against_it() {
            self.acquit();
        } else if self.suspects.chosen.is_empty() && !self.hold {
            self.choose(now);
        }
        if self.suspects.is_told && !self.suspects.is_over() {
            return None;
        }
        let chosen = self.suspects.chosen.iter().map(|(id, _)| *id);
        let ids: Vec<i64> = self.suspects.sent.iter().copied().chain(chosen).collect();
        self.suspects.told.clone_from(&ids);
        self.suspects.is_told = false;
        self.suspects.telling = true;
        Some(Action::RecordSuspects(ids))
    }

    pub(super) fn on_suspects_recorded(&mut self, now: Duration, answer: Result<(), Failed>) {
        self.suspects.telling = false;
        self.suspects.is_told = self.store_answered(now, answer).is_some();
    }

    /// The next of the batch, if the store knows of it.
    pub(super) fn next_suspect(&mut self, now: Duration) -> Option<Arc<OutboxRow>> {
        while self.suspects.may_be_sent() {
            let (id, lease) = self.suspects.chosen.pop_front()?;
            let Some(row) = self.rows.get(&id).map(Arc::clone) else { continue };
            if self.lease(row.group) == Some(lease) && self.may_publish(row.group, now) {
                self.suspects.sent.insert(id);
                return Some(row);
            }
            self.put_back(&row, lease);
        }
        None
    }

    /// Lanes that wait here, once nothing can be held against their events.
    pub(super) fn release_suspects(&mut self) {
        if !self.may_be_held_against_it() {
            self.ready.append(&mut self.suspects.waiting);
        }
    }

    /// When something is to be done here although nothing happens.
    pub(super) fn suspects_deadline(&self) -> Option<Duration> {
        let suspects = &self.suspects;
        let may_be_held = self.may_be_held_against_it();
        let may_choose = suspects.is_empty() && !suspects.waiting.is_empty() && !self.hold && may_be_held;
        let acquits = !suspects.chosen.is_empty() && !may_be_held;
        let wants = !suspects.is_told || suspects.is_over() || may_choose || acquits;
        (wants && !suspects.telling).then_some(self.store_resumes)
    }

    /// Whether suspects go as soon as the pace allows it.
    pub(super) fn suspects_are_ready(&self) -> bool {
        let are_released = !self.suspects.waiting.is_empty() && !self.may_be_held_against_it();
        self.suspects.may_be_sent() || are_released
    }

    fn choose(&mut self, now: Duration) {
        if self.suspects.alone && !self.suspects.is_empty() {
            return;
        }
        self.suspects.alone = false;
        while self.suspects.chosen.len() + self.suspects.sent.len() < TOGETHER
            && let Some(lane) = self.suspects.waiting.pop_front()
        {
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            state.scheduled = false;
            let (group, head) = (state.group, state.queue.front().copied());
            let Some(row) = head.and_then(|id| self.rows.get(&id)).map(Arc::clone) else {
                self.drop_if_over(&lane);
                continue;
            };
            // Without a valid lease the lane rests until the next heartbeat.
            let Some(lease) = self.lease(group).filter(|_| self.may_publish(group, now)) else { continue };
            let evidence = self.groups.get(&group).map(|owned| &owned.evidence);
            let goes_alone = match evidence {
                Some(Evidence::Among(ids)) => ids.contains(&row.id),
                Some(Evidence::Against(id)) if *id == row.id => {
                    self.schedule(&lane);
                    continue;
                }
                _ => false,
            };
            if goes_alone && !self.suspects.is_empty() {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    state.scheduled = true;
                }
                self.suspects.waiting.push_front(lane);
                return;
            }
            let admitted = self.destinations.admit(&row.message.topic, &lane, now);
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            if !admitted {
                state.scheduled = true;
                continue;
            }
            state.queue.pop_front();
            state.busy = true;
            self.activate(group);
            self.suspects.chosen.push_back((row.id, lease));
            self.suspects.is_told = false;
            if goes_alone {
                self.suspects.alone = true;
                return;
            }
        }
    }

    /// What was chosen and not sent goes as any other event.
    pub(super) fn acquit(&mut self) {
        while let Some((id, lease)) = self.suspects.chosen.pop_front() {
            let Some(row) = self.rows.get(&id).map(Arc::clone) else { continue };
            self.put_back(&row, lease);
        }
    }

    /// It was chosen, and is not sent now.
    fn put_back(&mut self, row: &OutboxRow, lease: Lease) {
        self.deactivate(row.group);
        self.destinations.undecided(&row.message.topic);
        let Some(state) = self.lanes.get_mut(&row.lane) else { return };
        state.busy = false;
        state.insert(row.id);
        let owned = self.groups.get(&row.group);
        if owned.is_some_and(|owned| owned.epoch == lease.epoch && !owned.releasing) {
            self.schedule(&row.lane);
        } else {
            // Another relay may have it by now; what was read behind it under a later lease must not pass it.
            self.forget_lane(&row.lane);
        }
    }

    /// It is put aside as if the broker had refused it.
    fn convict(&mut self, lane: &Lane, row: &OutboxRow) {
        let Some(lease) = self.lease(row.group) else { return };
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.queue.pop_front();
        state.busy = true;
        self.activate(row.group);
        let attempts = row.attempts + self.settings.max_attempts.div_ceil(3);
        let error = "the process ended while it was sending this event, and nothing else that it suspected";
        self.refuse(row, lease, attempts, error.to_owned());
    }

    /// All that was waiting when the group was taken over has gone.
    pub(super) fn lift_suspicion(&mut self, group: GroupNo) {
        if let Some(owned) = self.groups.get_mut(&group) {
            owned.watched = 0;
            owned.evidence = Evidence::None;
        }
    }

    /// One that was waiting then has gone. The last owner had no more than this in memory.
    pub(super) fn watch_one_less(&mut self, group: GroupNo) {
        if let Some(owned) = self.groups.get_mut(&group)
            && owned.watched > 0
        {
            owned.watched -= 1;
            if owned.watched == 0 {
                owned.evidence = Evidence::None;
            }
        }
    }
}
