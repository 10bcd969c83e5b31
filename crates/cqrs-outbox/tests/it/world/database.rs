//! The database: calls that fail before or after their effect, or take effect late.

use std::time::Duration;

use cqrs_core::broker::ErrorClass;
use cqrs_outbox::engine::{Action, Input};
use cqrs_outbox::{Fenced, LaterEvents, Lease, OutboxRow, Verdict};
use rand::Rng;

use super::{Fault, Life, World};
use crate::calls::{self, Mutant};

impl World {
    pub(super) fn database_now(&self) -> Duration {
        self.now + self.database_ahead
    }

    pub(super) fn call(&mut self, life: Life, action: Action) {
        self.calls += 1;
        let number = self.calls;
        let kind = calls::kind(&action);
        let relay = &mut self.lives[life];
        if let Action::Heartbeat(_) = action {
            relay.heartbeat_sent = relay.clock.read(self.now);
        }
        if relay.calls.insert(kind, number).is_some() {
            self.found(Fault::NotAlone, format!("{life}: a second {kind}"));
        }
        if let Action::Settle(confirmed) = &action {
            let unconfirmed =
                confirmed.iter().find(|one| !self.lives[life].confirmed.contains(&one.id())).cloned();
            if let Some(unconfirmed) = unconfirmed {
                self.found(Fault::SettledUnconfirmed, format!("{life}: {unconfirmed:?}"));
            }
        }
        let (mut there, back) = (self.way(), self.way());
        let often = if self.slow { 0.5 } else { 0.1 };
        if self.faulty && matches!(kind, "reject" | "set aside" | "open gate") && self.rng.random_bool(often)
        {
            // Long enough for another relay to take the group over before it takes effect.
            there += self.up_to(2_500);
        }
        let fails_before = self.faulty && self.rng.random_bool(0.03);
        let fails_after = self.faulty && self.rng.random_bool(0.03);
        let failed = calls::failed(kind);
        let late = failed.clone();
        self.after(there, move |world| {
            let fails_before = fails_before || world.database_down;
            // What it had sent may be carried out although it has died.
            if fails_before || (!world.lives[life].alive && world.rng.random_bool(0.5)) {
                return world.after(back, move |world| world.answer(life, kind, number, failed));
            }
            // A release that is carried out after it was given up ends the lease that came after it.
            let given_up = world.lives[life].calls.get(kind) != Some(&number);
            if given_up && matches!(&action, Action::Heartbeat(heartbeat) if !heartbeat.release.is_empty()) {
                world.counts.add("late releases");
                world.leases_end_early = true;
            }
            if given_up && let Action::Reject(rejection) = &action {
                // The event may have been replayed and sent meanwhile; then it is a dead letter once more, of which nobody knows
                // that it was sent.
                world.counts.add("late refusals");
                world.allow(rejection.id);
            }
            let answer = world.carry_out(life, &action);
            let answer = if fails_after { failed } else { answer };
            world.after(back, move |world| world.answer(life, kind, number, answer));
        });
        self.after(self.settings.store_timeout, move |world| world.answer(life, kind, number, late));
    }

    pub(super) fn answer(&mut self, life: Life, kind: &'static str, number: u64, answer: Input) {
        let calls = &mut self.lives[life].calls;
        if calls.get(kind) == Some(&number) {
            calls.remove(kind);
            self.input(life, answer);
        }
    }

    pub(super) fn carry_out(&mut self, life: Life, action: &Action) -> Input {
        let now = self.database_now();
        if let Action::Reject(rejection) = action
            && rejection.error.contains("is suspended")
        {
            self.counts.add("put off");
        }
        if let Action::Reject(rejection) = action
            && matches!(rejection.verdict, Verdict::Bury { .. })
            && rejection.error == ErrorClass::Destination.to_string()
        {
            self.counts.add("given up");
        }
        if let Action::Reject(rejection) = action
            && rejection.error.contains("the process ended")
        {
            let guilty = self.killer.is_some() && self.killer.as_ref() == self.by_id.get(&rejection.id);
            self.counts.add(if guilty { "convicted" } else { "convicted in error" });
        }
        let done = calls::carry_out(&mut self.tables, now, &self.lives[life].id, action, self.mutant);
        if done.by_former_owner {
            self.found(Fault::ChangedByFormerOwner, format!("{life}: {}", calls::kind(action)));
        }
        let mut answer = done.answer;
        match &mut answer {
            Input::Heartbeat(Ok(ownership)) => {
                for lease in &ownership.leases {
                    self.owned(life, *lease);
                }
            }
            Input::Read(Ok(rows)) => self.distort(life, rows),
            Input::ReadParked(Ok(rows)) => {
                self.counts.0.entry("read parked").and_modify(|n| *n += rows.len() as u64).or_insert(0);
                self.distort(life, rows);
            }
            Input::Rejected(Ok(answer)) => {
                self.counts.add(if *answer == Fenced::LeaseLost { "fenced" } else { "rejected" });
                self.bury();
            }
            Input::SetAside(Ok(_)) => {
                self.counts.add("set aside");
                self.bury();
            }
            Input::GateOpened(Ok(answer)) => self.counts.add(match answer {
                Fenced::Done(true) => "gates opened",
                Fenced::Done(false) => "gates kept",
                Fenced::LeaseLost => "fenced",
            }),
            _ => {}
        }
        if let Action::Settle(confirmed) = action {
            for one in confirmed {
                self.lives[life].outstanding.remove(&one.id());
            }
        }
        answer
    }

    /// Who takes a group over may send again what the last owner had sent and not settled.
    pub(super) fn owned(&mut self, life: Life, lease: Lease) {
        let before = self.owners.insert(lease.group, (life, lease.epoch));
        let Some((before, epoch)) = before else { return };
        if before == life || epoch == lease.epoch {
            return;
        }
        self.counts.add("taken over");
        let outstanding: Vec<i64> = self.lives[before]
            .outstanding
            .iter()
            .filter(|(_, group)| **group == lease.group)
            .map(|(id, _)| *id)
            .collect();
        for id in outstanding {
            self.counts.add("taken over in flight");
            self.allow(id);
        }
    }

    pub(super) fn distort(&mut self, life: Life, rows: &mut Vec<OutboxRow>) {
        match self.mutant {
            Some(Mutant::HiddenRows) => rows.retain(|_| self.rng.random_bool(0.8)),
            Some(mutant) => mutant.distort(&mut self.lives[life].cursor, rows),
            None => {}
        }
    }

    pub(super) fn bury(&mut self) {
        for letter in self.tables.dead_letters() {
            let event = self.events.get_mut(&letter.row.event_id).unwrap();
            if !event.dead {
                event.dead = true;
                self.counts.add(if letter.error == LaterEvents::FOLLOWS {
                    "followed"
                } else {
                    "dead letters"
                });
            }
        }
    }
}
