//! The broker: a list of what was delivered.

use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::engine::{Input, PublishFailure};
use cqrs_outbox::{LaterEvents, OutboxRow};
use rand::Rng;
use std::sync::Arc;

use super::{Fault, InFlight, Life, World};
use crate::calls::Mutant;

impl World {
    pub(super) fn publish(&mut self, life: Life, row: Arc<OutboxRow>) {
        let Some(number) = self.begin_publish(life, &row, None) else { return };
        let id = row.id;
        let (there, back) = (self.way(), self.way());
        let there = if self.faulty && self.slow { there + self.up_to(500) } else { there };
        let lost_there = self.faulty && self.rng.random_bool(0.02);
        let lost_back = self.faulty && self.rng.random_bool(0.04);
        let cut = self.faulty && self.rng.random_bool(0.02);
        if cut {
            // The connection breaks, and the message is under way all the same.
            self.after(back, move |world| world.outcome(life, id, number, Err(ErrorClass::Unknown)));
        }
        self.after(there, move |world| {
            let dies_with_it = !world.lives[life].alive && world.rng.random_bool(0.5);
            if lost_there || dies_with_it {
                return;
            }
            let mut outcome = world.arrive(&row);
            if lost_back && outcome.is_ok() {
                world.counts.add("lost confirms");
                outcome = Err(ErrorClass::Unknown);
            }
            world.after(back, move |world| world.outcome(life, id, number, outcome));
        });
        self.after(self.settings.publish_timeout, move |world| {
            world.outcome(life, id, number, Err(ErrorClass::Unknown));
        });
    }

    /// What is to be said of every message that a relay sends. `None` if its process ends of it.
    pub(super) fn begin_publish(&mut self, life: Life, row: &OutboxRow, session: Option<u64>) -> Option<u64> {
        self.calls += 1;
        let (number, id) = (self.calls, row.id);
        // One that was scheduled has a new id.
        self.by_id.insert(id, row.event_id);
        let relay = &mut self.lives[life];
        let now = relay.clock.read(self.now);
        let has_lease = relay.leases.get(&row.group).is_some_and(|until| now < *until);
        let others = relay.in_flight.values().filter(|other| other.lane == row.lane);
        let together = others.clone().count();
        let alone = others.clone().all(|other| session.is_some() && other.session == session)
            && together < self.settings.max_in_flight_per_key;
        relay.in_flight.insert(id, InFlight { call: number, lane: row.lane.clone(), session });
        relay.outstanding.insert(id, row.group);
        if !has_lease {
            self.found(Fault::PublishedWithoutLease, format!("{life}: row {id}"));
        }
        if !alone {
            self.found(Fault::NotAlone, format!("{life}: row {id} is not alone in its lane"));
        }
        if together > 0 {
            self.counts.add("together");
        }
        if self.owners.get(&row.group).is_none_or(|(owner, _)| *owner != life) {
            self.counts.add("sent by a former owner");
            if !self.leases_end_early {
                self.found(Fault::PublishedWithoutLease, format!("{life}: row {id}, of another relay"));
            }
            self.allow(id);
        }
        let event = self.events.get_mut(&row.event_id).unwrap();
        match event.rights.checked_sub(1) {
            Some(left) => event.rights = left,
            None => self.found(Fault::Duplicate, format!("{life} sends row {id} again without a reason")),
        }

        if self.killer == Some(row.event_id) {
            let pause = self.up_to(3);
            self.after(pause, move |world| {
                if world.lives[life].alive {
                    world.counts.add("killed by an event");
                    world.crash(life);
                }
            });
            return None;
        }
        Some(number)
    }

    /// The message is at the broker.
    pub(super) fn arrive(&mut self, row: &OutboxRow) -> Result<Receipt, ErrorClass> {
        if self.broker_down {
            return Err(ErrorClass::Outage);
        }
        if self.faulty && self.rng.random_bool(0.01) {
            return Err(if self.rng.random_bool(0.5) { ErrorClass::Outage } else { ErrorClass::Fatal });
        }
        if self.suspended.contains(row.message.topic.as_str()) {
            return Err(ErrorClass::Destination);
        }
        if let Some(left) = self.poison.get_mut(&row.event_id).filter(|left| **left > 0) {
            *left -= 1;
            return Err(ErrorClass::Event);
        }
        self.log(|| format!("delivered: row {}, key {:?}", row.id, row.message.key));
        let event = self.events.get_mut(&row.event_id).unwrap();
        event.delivered += 1;
        let (first, ordered) = (event.delivered == 1, event.ordered);
        self.history.delivered(row.event_id, self.in_order_with(&row.message).filter(|_| ordered));
        self.counts.add(if first { "delivered" } else { "duplicates" });
        let event = &self.events[&row.event_id];
        if first && ordered && !event.dead && self.settings.later_events != LaterEvents::GoOn {
            // A dead letter may have been delivered, late, before its last refusal was written.
            let passed = self.tables.dead_letters().into_iter().find(|letter| {
                let other = &self.events[&letter.row.event_id];
                other.ordered
                    && other.key == event.key
                    && other.sequence < event.sequence
                    && other.delivered == 0
            });
            if let Some(passed) = passed {
                self.found(Fault::PassedDeadLetter, format!("row {} passed {}", row.id, passed.row.id));
            }
        }
        Ok(Receipt::new())
    }

    pub(super) fn outcome(&mut self, life: Life, id: i64, number: u64, outcome: Result<Receipt, ErrorClass>) {
        if self.lives[life].in_flight.get(&id).is_none_or(|known| known.call != number) {
            return;
        }
        let mut outcome = outcome;
        if self.mutant == Some(Mutant::OnAfterUnknown) && outcome == Err(ErrorClass::Unknown) {
            outcome = Ok(Receipt::new());
        }
        if self.mutant == Some(Mutant::BatchSettled) && outcome.is_ok() {
            let others = self.lives[life].in_flight.keys().copied().filter(|other| *other != id);
            for other in others.collect::<Vec<_>>() {
                self.report(life, other, Ok(Receipt::new()));
            }
        }
        self.report(life, id, outcome);
    }

    pub(super) fn report(&mut self, life: Life, id: i64, outcome: Result<Receipt, ErrorClass>) {
        let relay = &mut self.lives[life];
        if relay.in_flight.remove(&id).is_none() {
            return;
        }
        let outcome = match outcome {
            Ok(receipt) => {
                relay.confirmed.insert(id);
                Ok(receipt)
            }
            Err(class) => {
                relay.outstanding.remove(&id);
                self.allow(id);
                self.counts.add(match class {
                    ErrorClass::Event => "event errors",
                    ErrorClass::Destination => "destination errors",
                    ErrorClass::Unknown => "unknown",
                    _ => "outage errors",
                });
                Err(PublishFailure { class, error: class.to_string() })
            }
        };
        self.input(life, Input::Published { id, outcome });
    }

    pub(super) fn allow(&mut self, id: i64) {
        // One that was put aside may never have been sent.
        let Some(event) = self.by_id.get(&id) else { return };
        if let Some(event) = self.events.get_mut(event) {
            event.rights += 1;
        }
    }
}
