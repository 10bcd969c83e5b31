//! The course of a world: faults for a while, then peace, then the verdict.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cqrs_outbox::engine::Input;
use cqrs_outbox::{LaterEvents, RelayStats};
use rand::Rng;
use uuid::Uuid;

use super::{DRAIN, FAULTS, Fault, IDLE, Relay, World, Written, ms};

impl World {
    pub(super) fn live(&mut self) {
        for slot in 0..self.slots.len() {
            let at = self.up_to(500);
            self.after(at, move |world| world.start(slot));
        }
        self.after(Duration::ZERO, Self::write);
        self.after(ms(300), Self::go_wrong);
        self.run_until(FAULTS);
        self.mend();
        self.drain("after the faults");
        // Behind a dead letter there may be the next one.
        while self.faults.is_empty() && !self.tables.dead_letters().is_empty() {
            self.operate();
            self.drain("after the operator");
        }
        self.judge();
        self.idle();
        self.stop_all();
    }

    pub(super) fn run_until(&mut self, end: Duration) {
        while self.faults.len() < 5
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            happening(self);
        }
        self.now = end;
    }

    pub(super) fn drain(&mut self, when: &str) {
        let start = self.now;
        while !self.is_drained() {
            if !self.faults.is_empty() {
                return;
            }
            if self.now > start + DRAIN {
                let waiting = self.tables.waiting();
                let stats: Vec<_> =
                    self.slots.iter().flatten().map(|life| self.lives[*life].engine.stats()).collect();
                let mut undelivered = self.undelivered();
                undelivered.truncate(3);
                return self.found(
                    Fault::NotDrained,
                    format!("{when}: {waiting} wait, undelivered {undelivered:?}: {stats:?}"),
                );
            }
            self.run_until(self.now + ms(100));
        }
    }

    /// Committed, not a dead letter, and not delivered.
    pub(super) fn undelivered(&self) -> Vec<Uuid> {
        let missing = |event: &Written| event.delivered == 0 && !event.dead;
        self.events.iter().filter(|(_, event)| missing(event)).map(|(id, _)| *id).collect()
    }

    /// The keys whose events wait for what someone does about a dead letter.
    pub(super) fn blocked_keys(&self) -> BTreeSet<Bytes> {
        if self.settings.later_events == LaterEvents::GoOn {
            return BTreeSet::new();
        }
        let dead = self.tables.dead_letters().into_iter();
        dead.filter(|letter| letter.row.lane.is_of_key())
            .filter_map(|letter| self.in_order_with(&letter.row.message))
            .collect()
    }

    pub(super) fn is_drained(&self) -> bool {
        let undelivered = self.undelivered();
        let blocked = self.blocked_keys();
        let is_blocked = |id| {
            let event = &self.events[id];
            event.by_key && event.key.as_ref().is_some_and(|key| blocked.contains(key))
        };
        // Behind a dead letter there may stand rows that were delivered, moved aside, and settled where they were not.
        let waiting = self.tables.waiting();
        let nothing_else = if blocked.is_empty() { waiting == 0 } else { waiting >= undelivered.len() };
        nothing_else
            && undelivered.iter().all(is_blocked)
            && self.slots.iter().all(Option::is_some)
            && self.live_relays().all(|relay| {
                let stats = relay.engine.stats();
                !relay.stopping && stats.in_memory == 0 && stats.in_flight == 0
            })
    }

    pub(super) fn live_relays(&self) -> impl Iterator<Item = &Relay> {
        self.slots.iter().flatten().map(|life| &self.lives[*life])
    }

    /// Someone looks at the dead letters and replays or discards each.
    pub(super) fn operate(&mut self) {
        for letter in self.tables.dead_letters() {
            let event = letter.row.event_id;
            let now = self.database_now();
            if self.rng.random_bool(0.5) {
                self.log(|| format!("replay {event}"));
                self.poison.remove(&event);
                self.killer = self.killer.filter(|killer| *killer != event);
                self.tables.replay(now, event);
                self.counts.add("replayed");
            } else {
                self.log(|| format!("discard {event}"));
                self.tables.discard(now, event);
                if let Some(event) = self.events.get_mut(&event) {
                    event.discarded = true;
                }
                self.counts.add("discarded");
            }
        }
    }

    pub(super) fn judge(&mut self) {
        for (id, event) in &self.events {
            if event.dead {
                self.history.dead_lettered(*id);
            }
        }
        let verdict = self.history.check();
        // What still waits in the tables is late, not lost.
        let gone = self.undelivered().len().saturating_sub(self.tables.waiting());
        if gone > 0 {
            self.found(Fault::Lost, format!("{gone} of {:?}", verdict.lost));
        }
        for ghost in &verdict.ghosts {
            self.found(Fault::Ghost, format!("{ghost}"));
        }
        for late in &verdict.out_of_order {
            self.found(Fault::OutOfOrder, format!("{late:?}"));
        }
        for wrong in &verdict.wrong_keys {
            self.found(Fault::WrongKey, format!("{wrong:?}"));
        }
        let replayed = |event: &Written| event.dead && !event.discarded;
        let forgotten: Vec<_> =
            self.events.iter().filter(|(_, event)| replayed(event) && event.delivered == 0).collect();
        if !forgotten.is_empty() && self.faults.is_empty() {
            let forgotten: Vec<_> = forgotten.into_iter().map(|(id, _)| *id).collect();
            self.found(Fault::Lost, format!("replayed and not delivered: {forgotten:?}"));
        }
    }

    /// With nothing to do, little is done, and nothing stays in memory.
    pub(super) fn idle(&mut self) {
        if !self.faults.is_empty() {
            return;
        }
        let before = self.calls;
        self.run_until(self.now + IDLE);
        let calls = self.calls - before;
        // A poll at its interval; a heartbeat and looks at the side tables at theirs.
        let ticks = |every: Duration| (IDLE.as_millis() / every.as_millis()) as u64 + 2;
        let relays = self.slots.len() as u64;
        let bound =
            relays * (ticks(self.settings.poll_interval) + 4 * ticks(self.settings.heartbeat_interval));
        if calls > bound {
            self.found(Fault::Spin, format!("{calls} calls of the store in an idle world; bound {bound}"));
        }
        let stats: Vec<RelayStats> = self.live_relays().map(|relay| relay.engine.stats()).collect();
        for stats in stats {
            if stats.in_memory + stats.in_flight > 0 {
                self.found(Fault::Remains, format!("{stats:?}"));
            }
        }
        let owned: usize = self.live_relays().map(|relay| relay.engine.stats().owned_groups).sum();
        let groups = self.live_relays().map(|relay| relay.engine.stats().groups).max();
        if Some(owned) != groups {
            self.found(Fault::Remains, format!("{owned} groups are owned, of {groups:?}"));
        }
    }

    pub(super) fn stop_all(&mut self) {
        if !self.faults.is_empty() {
            return;
        }
        self.closing = true;
        for life in self.slots.clone().into_iter().flatten() {
            self.input(life, Input::Stop);
        }
        self.run_until(self.now + ms(1_000));
        if self.live_relays().next().is_some() {
            self.found(Fault::NotDrained, "a relay that has nothing to do did not leave".to_owned());
        }
    }
}
