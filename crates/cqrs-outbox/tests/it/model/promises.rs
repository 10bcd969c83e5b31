//! What has to hold: order where a message arrives, nothing lost in any state, and a good end from each.

use cqrs_outbox::LaterEvents;

use super::{Call, Faults, Outbox, SECOND, Seen, Sent, State, Step};

impl Outbox {
    /// The message of this row of a relay is with the broker.
    pub(super) fn arrive(&self, state: &mut State, relay: usize, id: i64) {
        let relay = &mut state.relays[relay];
        if let Some(session) = relay.in_session.get(&id).copied() {
            relay.known.insert((session, self.key(id)));
        }
        relay.messages.insert(id, Sent::Confirmed);
        self.deliver(state, id);
    }

    /// The message of this row is with the broker.
    pub(super) fn deliver(&self, state: &mut State, id: i64) {
        if !state.delivered.insert(id) {
            self.saw(Seen::Duplicate);
            if (Faults { seconds: 0, holds: 0, ..self.scope.faults }) == Faults::default() {
                state.broken = Some("sent again without a reason");
            }
            return;
        }
        for earlier in self.ahead(id) {
            let may_be_passed = state.discarded.contains(&earlier) || state.passed.contains(&earlier);
            if state.committed.contains(&earlier) && !state.delivered.contains(&earlier) && !may_be_passed {
                state.broken = Some("out of order");
            }
        }
    }

    /// Nothing goes wrong any more, and everything that can happen does: does it drain?
    pub(super) fn drains(&self, mut state: State) -> bool {
        state.hold = false;
        for _ in 0..200 {
            if self.is_drained(&state) {
                return true;
            }
            for relay in 0..state.relays.len() {
                for id in state.relays[relay].messages.keys().copied().collect::<Vec<_>>() {
                    match state.relays[relay].messages.get(&id) {
                        Some(Sent::UnderWay) => {
                            self.step(&mut state, Step::Deliver(relay, id));
                            self.step(&mut state, Step::Hear(relay, id));
                        }
                        Some(_) => self.step(&mut state, Step::Hear(relay, id)),
                        None => {}
                    }
                }
                for kind in state.relays[relay].calls.keys().copied().collect::<Vec<_>>() {
                    if matches!(state.relays[relay].calls.get(kind), Some(Call::UnderWay(_))) {
                        self.step(&mut state, Step::CarryOut(relay, kind));
                    }
                    if state.relays[relay].calls.contains_key(kind) {
                        self.step(&mut state, Step::Answer(relay, kind));
                    }
                }
                self.step(&mut state, Step::Wake(relay));
            }
            for id in 1..=self.scope.keys.len() as i64 {
                if self.may_commit(&state, id) {
                    self.step(&mut state, Step::Commit(id));
                }
            }
            state.clock += SECOND / 4;
        }
        false
    }

    pub(super) fn is_drained(&self, state: &State) -> bool {
        let dead = state.tables.dead_letters();
        let is_dead = |id: i64| dead.iter().any(|letter| letter.row.id == id);
        let ids = || 1..=self.scope.keys.len() as i64;
        ids().all(|id| {
            let lane_waits = self.scope.later != LaterEvents::GoOn && !self.scope.unordered;
            // For all dead letters of the key: what was delivered and not settled may stand behind the gate of a later one.
            let waits = lane_waits && ids().any(|other| is_dead(other) && self.key(other) == self.key(id));
            let is_done = state.delivered.contains(&id) && !state.tables.is_waiting(id);
            is_done || waits || is_dead(id) || state.discarded.contains(&id)
        })
    }

    pub(super) fn may_commit(&self, state: &State, id: i64) -> bool {
        !state.committed.contains(&id) && self.before(id).all(|earlier| state.committed.contains(&earlier))
    }

    pub(super) fn is_lost(&self, state: &State) -> bool {
        let dead = state.tables.dead_letters();
        state.committed.iter().any(|id| {
            !state.delivered.contains(id)
                && !state.tables.is_waiting(*id)
                && !state.discarded.contains(id)
                && !dead.iter().any(|letter| letter.row.id == *id)
        })
    }
}
