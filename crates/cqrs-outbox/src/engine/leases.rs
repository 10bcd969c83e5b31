//! Which groups are ours: heartbeats, fair shares, and what becomes of a group that is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, Engine, Evidence, Failed, FencedChange, Owned, Phase};
use crate::row::{GroupNo, Lane};
use crate::store::{Heartbeat, Lease, Ownership};

impl Engine {
    pub(super) fn poll_heartbeat(&mut self, now: Duration) -> Option<Action> {
        if self.heartbeat_sent.is_some() {
            return None;
        }
        let release: Vec<Lease> = self
            .groups
            .iter()
            .filter(|(group, owned)| owned.releasing && !self.active.contains_key(group))
            .map(|(group, owned)| Lease { group: *group, epoch: owned.epoch })
            .collect();
        if now < self.next_heartbeat && release.is_empty() {
            return None;
        }
        for lease in &release {
            self.lose(lease.group);
        }
        let take = if self.phase == Phase::Running {
            // All of them, until the first answer tells how many relays there are.
            match self.stats.groups {
                0 => usize::MAX,
                _ => self.fair_share().saturating_sub(self.groups.len()),
            }
        } else {
            0
        };
        self.heartbeat_sent = Some(now);
        Some(Action::Heartbeat(Heartbeat { lease: self.settings.lease, take, release }))
    }

    pub(super) fn fair_share(&self) -> usize {
        self.stats.groups.div_ceil(self.stats.relays.max(1))
    }

    pub(super) fn on_heartbeat(&mut self, now: Duration, answer: Result<Ownership, Failed>) {
        let sent = self.heartbeat_sent.take().unwrap_or(now);
        let Ok(ownership) = answer else {
            self.heartbeat_failures += 1;
            let wait = self.settings.backoff_after(self.heartbeat_failures);
            self.next_heartbeat = now + wait.min(self.settings.heartbeat_interval);
            return;
        };
        self.heartbeat_failures = 0;
        self.first_answer.get_or_insert(now);
        self.counted = Some(sent);
        self.next_heartbeat = sent + self.settings.heartbeat_interval;
        if ownership.hold && !self.hold {
            self.forget_what_waits();
        }
        self.hold = ownership.hold;
        self.stats.groups = ownership.groups;
        self.stats.relays = ownership.relays;
        let valid_until = sent + self.settings.lease.saturating_sub(self.settings.lease_margin);
        let answered: BTreeMap<GroupNo, i64> =
            ownership.leases.iter().map(|lease| (lease.group, lease.epoch)).collect();
        let lost: Vec<GroupNo> = self
            .groups
            .iter()
            .filter(|(group, owned)| answered.get(group) != Some(&owned.epoch))
            .map(|(group, _)| *group)
            .collect();
        for group in lost {
            self.lose(group);
        }
        let seen =
            self.groups.iter().filter(|(_, owned)| owned.watched > 0 && owned.looked_at == (true, true));
        for group in seen.map(|(group, _)| *group).collect::<Vec<_>>() {
            if !self.lanes.values().any(|lane| lane.group == group) {
                self.lift_suspicion(group);
            }
        }
        let excess = answered.len().saturating_sub(self.fair_share());
        for (nth, (group, epoch)) in answered.iter().rev().enumerate() {
            let releasing = nth < excess;
            if let Some(owned) = self.groups.get_mut(group) {
                (owned.valid_until, owned.releasing) = (valid_until, releasing);
            } else {
                let (watched, evidence) = match ownership.dirty.get(group) {
                    Some(suspects) => (self.settings.max_rows, Evidence::of(suspects)),
                    None => (0, Evidence::None),
                };
                let owned = Owned {
                    epoch: *epoch,
                    valid_until,
                    releasing,
                    watched,
                    evidence,
                    looked_at: (false, false),
                };
                self.groups.insert(*group, owned);
                (self.read_now, self.read_parked_now) = (true, true);
            }
            if releasing {
                self.forget_waiting(|lane| lane.group == *group);
            }
        }
        // Lanes whose lease had run out, or that were held, go on.
        let idle: Vec<Lane> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.may_be_scheduled())
            .map(|(lane, _)| lane.clone())
            .collect();
        for lane in idle {
            self.schedule(&lane);
        }
        // A gate that this relay closes meanwhile, it knows; one that an answer has missed, the next one tells.
        if !ownership.nothing_aside {
            self.next_read_parked = now;
        } else if self.gates.is_empty() {
            self.next_read_parked = self.next_read_parked.max(now + 2 * self.settings.heartbeat_interval);
        }
        self.promote_now |= !ownership.nothing_scheduled;
    }

    /// A hold is for those who bring an earlier state of the database back. Afterwards other events may stand there, under
    /// ids that were known.
    fn forget_what_waits(&mut self) {
        self.acquit();
        self.forget_groups(|_| true);
        (self.read_now, self.read_parked_now) = (true, true);
    }

    /// Another relay may own the group from now on. What is in flight stays until its outcome is known: a receipt
    /// is as good as before, anything else is the new owner's to find out.
    pub(super) fn lose(&mut self, group: GroupNo) {
        self.groups.remove(&group);
        self.forget_groups(|of| of == group);
    }

    /// Forgets what waits in memory of these groups, and what was to be done about it.
    ///
    /// Rejections too, not only when their turn comes: by then the same lease may be ours again, for the clock of a
    /// database can be set back, and nothing would hold the rows behind them.
    fn forget_groups(&mut self, which: impl Fn(GroupNo) -> bool) {
        // What is under way cannot be called back, and its gate is about to close.
        let under_way = usize::from(self.fenced_busy).min(self.fenced.len());
        let mut rejections = Vec::new();
        for change in self.fenced.split_off(under_way) {
            match change {
                FencedChange::Reject(rejection) if which(rejection.lease.group) => rejections.push(rejection),
                change => self.fenced.push_back(change),
            }
        }
        for rejection in rejections {
            self.give_up_rejection(&rejection);
        }
        self.forget_waiting(|lane| which(lane.group));
        let gates = self.gates.iter().filter(|(_, gate)| which(gate.group));
        for lane in gates.map(|(lane, _)| lane.clone()).collect::<Vec<_>>() {
            self.forget_held(&lane);
            if !self.fenced.iter().filter_map(FencedChange::closes).any(|closing| *closing == lane) {
                self.gates.remove(&lane);
            }
        }
    }

    pub(super) fn lease(&self, group: GroupNo) -> Option<Lease> {
        self.groups.get(&group).map(|owned| Lease { group, epoch: owned.epoch })
    }

    /// The leases of groups whose events this relay may send now.
    pub(super) fn valid_leases(&self, now: Duration) -> impl Iterator<Item = Lease> {
        self.groups
            .iter()
            .filter(move |(_, owned)| !owned.releasing && now < owned.valid_until)
            .map(|(group, owned)| Lease { group: *group, epoch: owned.epoch })
    }

    pub(super) fn may_publish(&self, group: GroupNo, now: Duration) -> bool {
        self.groups.get(&group).is_some_and(|owned| !owned.releasing && now < owned.valid_until)
    }

    pub(super) fn activate(&mut self, group: GroupNo) {
        *self.active.entry(group).or_default() += 1;
    }

    pub(super) fn deactivate(&mut self, group: GroupNo) {
        if let Some(active) = self.active.get_mut(&group) {
            *active -= 1;
            if *active == 0 {
                self.active.remove(&group);
            }
        }
    }
}
