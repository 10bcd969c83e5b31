//! Publish sessions: what of a key is in one arrives in its order and without a gap, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::{Lane, OutboxRow};
use rand::Rng;

use super::{Fault, InFlight, Life, World};
use crate::calls::Mutant;

#[derive(Default)]
pub(super) struct Session {
    /// It takes nothing any more.
    over: bool,
    lines: BTreeMap<(String, Lane), Line>,
}

/// The messages of a key for a topic in a session.
#[derive(Default)]
struct Line {
    /// The broker has one of them; before that it cannot tell the first from those behind it.
    known: bool,
    /// One did not arrive, so that none behind it does.
    gap: bool,
    last: Duration,
}

impl World {
    pub(super) fn publish_in_session(
        &mut self,
        life: Life,
        row: Arc<OutboxRow>,
        session: u64,
        is_first: bool,
    ) {
        let in_lane = |other: &InFlight| other.lane == row.lane;
        if is_first && self.lives[life].in_flight.values().any(in_lane) {
            self.found(Fault::NotAlone, format!("{life}: row {} is not the first in its session", row.id));
        }
        let Some(number) = self.begin_publish(life, &row, Some(session)) else { return };
        self.counts.add("in a session");
        let (id, of) = (row.id, (life, session));
        let is_over = self.sessions.entry(of).or_default().over;
        if is_over && self.mutant == Some(Mutant::SessionGoesOn) {
            self.line(of, &row).gap = false;
        } else if is_over {
            let soon = self.up_to(2);
            return self.after(soon, move |world| world.outcome(life, id, number, Err(ErrorClass::Outage)));
        }
        let (there, back) = (self.way(), self.way());
        let lost_there = self.faulty && self.rng.random_bool(0.01);
        let lost_back = self.faulty && self.rng.random_bool(0.02);
        let cut = self.faulty && self.rng.random_bool(0.01);
        if cut {
            self.after(back, move |world| world.session_outcome(of, id, number, Err(ErrorClass::Unknown)));
        }
        let now = self.now;
        let line = self.line(of, &row);
        let at = if line.known { line.last.max(now + there) } else { now + there };
        line.last = at;
        self.after(at - now, move |world| {
            if world.line(of, &row).gap {
                return;
            }
            let dies_with_it = !world.lives[life].alive && world.rng.random_bool(0.3);
            let has_gaps = world.mutant == Some(Mutant::SessionHasGaps);
            if lost_there || dies_with_it {
                world.line(of, &row).gap = !has_gaps;
                return;
            }
            let mut outcome = world.arrive(&row);
            let line = world.line(of, &row);
            match &outcome {
                Ok(_) => line.known = true,
                Err(_) => line.gap = !has_gaps,
            }
            if lost_back && outcome.is_ok() {
                world.counts.add("lost confirms");
                outcome = Err(ErrorClass::Unknown);
            }
            world.after(back, move |world| world.session_outcome(of, id, number, outcome));
        });
        self.after(self.settings.publish_timeout, move |world| {
            world.session_outcome(of, id, number, Err(ErrorClass::Unknown));
        });
    }

    fn line(&mut self, of: (Life, u64), row: &OutboxRow) -> &mut Line {
        let line = (row.message.topic.clone(), row.lane.clone());
        self.sessions.entry(of).or_default().lines.entry(line).or_default()
    }

    /// With the first that is not confirmed the session is over, and what it has not sent, or what was not answered within the
    /// time, is not known.
    fn session_outcome(
        &mut self,
        of: (Life, u64),
        id: i64,
        number: u64,
        outcome: Result<Receipt, ErrorClass>,
    ) {
        let (life, session) = of;
        if self.lives[life].in_flight.get(&id).is_none_or(|known| known.call != number) {
            return;
        }
        if outcome.is_err() && !std::mem::replace(&mut self.sessions.entry(of).or_default().over, true) {
            self.counts.add("sessions that ended");
            let others = self.lives[life].in_flight.iter();
            let others = others.filter(|(other, of)| **other != id && of.session == Some(session));
            for (other, call) in others.map(|(other, of)| (*other, of.call)).collect::<Vec<_>>() {
                if self.rng.random_bool(0.7) {
                    let soon = self.up_to(20);
                    self.after(soon, move |world| world.outcome(life, other, call, Err(ErrorClass::Unknown)));
                }
            }
        }
        if outcome.is_ok() {
            return self.outcome(life, id, number, outcome);
        }
        // The client knows it first.
        let soon = self.up_to(20);
        self.after(soon, move |world| world.outcome(life, id, number, outcome));
    }
}
