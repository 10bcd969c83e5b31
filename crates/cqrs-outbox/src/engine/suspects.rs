//! Events that may have ended the process of the last owner.
//!
//! A lease that ended without a release may mean that an event killed the relay that was sending it; whoever comes next
//! would die of it, too, and nothing would ever go on. So events of such a group, and events that were refused before, are
//! suspects: the store is told which of them are with the broker before they are. If that relay dies as well, its successor
//! knows what it was sending. It sends these one by one, with nothing else recorded, while all others go on as ever. One that
//! was recorded alone when a process ended is put aside; that counts as a third of the refusals after which an event goes to
//! the dead letters.
//!
//! Nothing is held against an event while the broker may be away: a process that is restarted again and again for want of
//! a broker was not killed by what it tried to send. Where the broker answers and confirms nothing, and the process is always
//! ended before the publish times out, and nothing else waits, that cannot be told from an event that kills.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Engine, Failed, Owned, Phase};
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
    /// Lanes whose next event was with the broker when a process ended, with others.
    accused: VecDeque<Lane>,
    /// What is sent next, with the lease under which it was chosen.
    chosen: VecDeque<(i64, Lease)>,
    /// What is with the broker.
    sent: BTreeSet<i64>,
    /// What the store was told last.
    told: Vec<i64>,
    /// Whether it knows all that was chosen.
    is_told: bool,
    telling: bool,
    /// When it may be told again after it failed.
    resumes: Duration,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            accused: VecDeque::new(),
            chosen: VecDeque::new(),
            sent: BTreeSet::new(),
            told: Vec::new(),
            is_told: true,
            telling: false,
            resumes: Duration::ZERO,
        }
    }
}

impl Suspects {
    pub(super) fn is_telling(&self) -> bool {
        self.telling
    }

    pub(super) fn rebase(&mut self, now: Duration) {
        self.resumes = self.resumes.saturating_sub(now);
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
    ///
    /// Events for a topic that is suspended and not given up are: there is one probe at a time, and it says nothing new.
    pub(super) fn is_above_suspicion(&mut self, lane: &Lane, row: &Arc<OutboxRow>) -> bool {
        if !self.may_be_held_against_it() || self.destinations.is_probed(&row.message.topic) {
            return true;
        }
        let Some(owned) = self.groups.get_mut(&row.group) else { return true };
        let is_accused = match &owned.evidence {
            Evidence::Against(id) if *id == row.id => {
                // It goes alone when it goes again.
                owned.evidence = Evidence::Among([row.id].into());
                self.convict(lane, row);
                return false;
            }
            Evidence::Among(ids) => ids.contains(&row.id),
            _ => false,
        };
        let is_suspect = owned.watched > 0 || row.attempts > 0;
        if !is_accused && (!is_suspect || self.accused_are_tried()) {
            return true;
        }
        if let Some(state) = self.lanes.get_mut(lane) {
            state.scheduled = true;
            let line = if is_accused { &mut self.suspects.accused } else { &mut self.suspects.waiting };
            line.push_back(lane.clone());
        }
        false
    }

    /// This process has outlived it.
    pub(super) fn suspect_answered(&mut self, row: &OutboxRow) {
        self.suspects.sent.remove(&row.id);
        if let Some(owned) = self.groups.get_mut(&row.group)
            && let Evidence::Among(ids) = &mut owned.evidence
        {
            ids.remove(&row.id);
        }
    }

    /// What its last owner left may have ended it.
    pub(super) fn is_watched(&self, group: GroupNo) -> bool {
        let watches =
            |owned: &Owned| owned.watched > 0 && self.broker_answers || owned.evidence != Evidence::None;
        self.groups.get(&group).is_some_and(watches)
    }

    /// Meanwhile nothing else is recorded, and nobody else waits.
    fn accused_are_tried(&self) -> bool {
        let is_accused = |id: &i64| {
            let row = self.rows.get(id).and_then(|row| self.groups.get(&row.group));
            row.is_some_and(|owned| matches!(&owned.evidence, Evidence::Among(ids) if ids.contains(id)))
        };
        let Suspects { accused, chosen, sent, .. } = &self.suspects;
        !accused.is_empty() || sent.iter().chain(chosen.iter().map(|(id, _)| id)).any(is_accused)
    }

    /// The broker is known to be there.
    fn may_be_held_against_it(&self) -> bool {
        self.broker_answers && !self.pace.is_interrupted()
    }

    /// Tells the store what is sent next, and when that is over.
    pub(super) fn poll_suspects(&mut self, now: Duration) -> Option<Action> {
        if self.suspects.telling || now < self.store_resumes.max(self.suspects.resumes) {
            return None;
        }
        if !self.may_be_held_against_it() || self.phase > Phase::Running {
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
        self.suspects.is_told = answer.is_ok();
        if answer.is_err() {
            // No reason for anything else to wait.
            self.suspects.resumes = now + self.settings.backoff;
        }
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

    /// Lanes that wait here and need not.
    pub(super) fn release_suspects(&mut self) {
        if !self.may_be_held_against_it() {
            self.ready.append(&mut self.suspects.accused);
            self.ready.append(&mut self.suspects.waiting);
        } else if self.accused_are_tried() {
            self.ready.append(&mut self.suspects.waiting);
        }
    }

    /// When something is to be done here although nothing happens.
    pub(super) fn suspects_deadline(&self) -> Option<Duration> {
        let suspects = &self.suspects;
        let may_be_held = self.may_be_held_against_it() && self.phase == Phase::Running;
        let someone_waits = !suspects.waiting.is_empty() || !suspects.accused.is_empty();
        let may_choose = suspects.is_empty() && someone_waits && !self.hold && may_be_held;
        let acquits = !suspects.chosen.is_empty() && !may_be_held;
        let wants = !suspects.is_told || suspects.is_over() || may_choose || acquits;
        (wants && !suspects.telling).then_some(self.store_resumes.max(suspects.resumes))
    }

    /// Whether suspects go as soon as the pace allows it.
    pub(super) fn suspects_are_ready(&self) -> bool {
        let Suspects { waiting, accused, .. } = &self.suspects;
        let may_be_held = self.may_be_held_against_it();
        let are_released = !waiting.is_empty() && (!may_be_held || self.accused_are_tried())
            || !accused.is_empty() && !may_be_held;
        self.suspects.may_be_sent() || are_released
    }

    fn choose(&mut self, now: Duration) {
        while self.suspects.is_empty()
            && let Some(lane) = self.suspects.accused.pop_front()
        {
            self.choose_next_of(&lane, now);
        }
        if self.accused_are_tried() {
            return;
        }
        while self.suspects.chosen.len() + self.suspects.sent.len() < TOGETHER
            && let Some(lane) = self.suspects.waiting.pop_front()
        {
            self.choose_next_of(&lane, now);
        }
    }

    fn choose_next_of(&mut self, lane: &Lane, now: Duration) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.scheduled = false;
        let (group, head) = (state.group, state.queue.front().copied());
        let Some(row) = head.and_then(|id| self.rows.get(&id)).map(Arc::clone) else {
            return self.drop_if_over(lane);
        };
        // Without a valid lease the lane rests until the next heartbeat.
        let Some(lease) = self.lease(group).filter(|_| self.may_publish(group, now)) else { return };
        let evidence = self.groups.get(&group).map(|owned| &owned.evidence);
        if evidence == Some(&Evidence::Against(row.id)) {
            return self.schedule(lane);
        }
        let admitted = self.destinations.admit(&row.message.topic, lane, now);
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if !admitted {
            state.scheduled = true;
            return;
        }
        state.queue.pop_front();
        state.busy = true;
        self.activate(group);
        self.suspects.chosen.push_back((row.id, lease));
        self.suspects.is_told = false;
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
        let error = "the process ended while this event, of all that it suspected, was with the broker";
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
