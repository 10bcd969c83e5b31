//! What each step does.

use std::collections::BTreeMap;
use std::time::Duration;

use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::engine::{Action, Input, PublishFailure};
use cqrs_outbox::{GroupNo, LaterEvents, Promoted, RelayId};
use uuid::Uuid;

use super::{Call, LEASE, Outbox, Relay, SECOND, Seen, Sent, State, Step, Told};
use crate::calls::{self, Mutant};

impl Outbox {
    /// A new relay in the place of one that died or left.
    pub(super) fn start(&self, state: &mut State, relay: usize) {
        state.relays[relay] = self.relay(state.next_incarnation);
        state.next_incarnation += 1;
        self.pump(state, relay);
    }

    /// Does what the engine wants done.
    pub(super) fn pump(&self, state: &mut State, number: usize) {
        while let Some(action) = state.relays[number].engine.poll(Duration::ZERO) {
            let incarnation = state.relays[number].incarnation;
            let relay = &mut state.relays[number];
            let publishes = matches!(action, Action::Publish(_) | Action::PublishInSession { .. });
            if publishes && relay.on_hold {
                state.broken = Some("published on hold");
            }
            match action {
                Action::Publish(row) => {
                    let lane_is_busy =
                        relay.messages.keys().any(|other| self.key(*other) == self.key(row.id));
                    if lane_is_busy && !self.scope.unordered {
                        state.broken = Some("two of a key are with the broker");
                    }
                    relay.messages.insert(row.id, Sent::UnderWay);
                }
                Action::PublishInSession { row, session, after } => {
                    let of_key = |id: &i64| self.key(*id) == self.key(row.id);
                    let others = relay.messages.keys().filter(|id| of_key(id));
                    let others: Vec<_> = others.map(|id| relay.in_session.get(id)).collect();
                    let is_first = others.is_empty() || self.scope.unordered;
                    if others.iter().any(|other| *other != Some(&session))
                        || others.len() >= self.scope.per_key
                        || after.is_none() && !is_first
                    {
                        state.broken = Some("what is of a key is not in one session");
                    }
                    if !others.is_empty() {
                        self.saw(Seen::Together);
                    }
                    let relay = &mut state.relays[number];
                    relay.in_session.insert(row.id, session);
                    let is_taken = session >= relay.first_open || self.mutant == Some(Mutant::SessionGoesOn);
                    relay.messages.insert(row.id, if is_taken { Sent::UnderWay } else { Sent::Lost });
                }
                // No gate is ever closed then: there is nothing to find, whenever it is looked for.
                Action::ReadParked(_) if !self.scope.has_gates() => {
                    relay.engine.step(Duration::ZERO, Input::ReadParked(Ok(Vec::new())));
                }
                // Nothing is scheduled: there is nothing to find, whenever it is looked for.
                Action::Promote { .. } => {
                    relay.engine.step(Duration::ZERO, Input::Promoted(Ok(Promoted::default())));
                }
                // It is about nothing but what a successor is told: it may as well be known at once.
                action @ Action::RecordSuspects(_) => {
                    let answer = self.carry_out(state, incarnation, &action);
                    state.relays[number].engine.step(Duration::ZERO, answer);
                }
                // A lease may end at any moment, so one that was given a while ago is one that was given now.
                action @ Action::Heartbeat(_) if self.scope.faults.failures == 0 => {
                    let answer = self.carry_out(state, incarnation, &action);
                    state.relays[number].hear(answer);
                }
                action => {
                    let kind = calls::kind(&action);
                    if relay.calls.insert(kind, Call::UnderWay(action)).is_some() {
                        state.broken = Some("two calls of a kind");
                    }
                }
            }
        }
        let relay = &state.relays[number];
        if relay.engine.is_finished() {
            self.saw(Seen::Left);
            self.start(state, number);
        } else if relay.engine.deadline() == Some(Duration::ZERO) {
            state.broken = Some("it spins");
        }
    }

    pub(super) fn input(&self, state: &mut State, relay: usize, input: Input) {
        state.relays[relay].hear(input);
        self.pump(state, relay);
    }

    pub(super) fn carry_out(&self, state: &mut State, incarnation: u128, action: &Action) -> Input {
        let id = RelayId { name: String::new(), incarnation: Uuid::from_u128(incarnation) };
        let groups = || (0..self.scope.groups as i32).map(GroupNo);
        let owned: Vec<_> = groups().map(|group| state.tables.holder(group)).collect();
        let done = calls::carry_out(&mut state.tables, state.clock, &id, action, self.mutant);
        if done.by_former_owner {
            state.broken = Some("changed by a former owner");
        }
        let mut answer = done.answer;
        if let Input::Heartbeat(Ok(ownership)) = &mut answer {
            ownership.hold = state.hold;
            if state.hold {
                self.saw(Seen::Held);
            }
        }
        self.watch(&answer);
        if let Action::Reject(rejection) = action {
            if rejection.error.contains("is suspended") {
                self.saw(Seen::PutOff);
            }
            if rejection.error.contains("the process ended") {
                self.saw(Seen::Convicted);
                let (left, all) = (state.left, self.scope.faults);
                if left.crashes == all.crashes && left.expiries == all.expiries {
                    state.broken = Some("an end was held against an event, and nothing had ended");
                }
            } else if self.scope.faults.refusals == 0 && !self.scope.gives_up && rejection.attempts > 0 {
                state.broken = Some("an attempt was counted, and nothing refused");
            }
            let dead = state.tables.dead_letters();
            if !dead.is_empty() {
                self.saw(Seen::Buried);
            }
            if self.scope.later == LaterEvents::GoOn {
                state.passed.extend(dead.iter().map(|letter| letter.row.id));
            }
        }
        if state.tables.dead_letters().iter().any(|letter| letter.error == LaterEvents::FOLLOWS) {
            self.saw(Seen::Followed);
        }
        let taken = |(group, before): (GroupNo, &Option<_>)| {
            before.is_some() && state.tables.holder(group).is_some_and(|now| Some(now) != *before)
        };
        if groups().zip(&owned).any(taken) {
            self.saw(Seen::TakeOver);
        }
        if let Input::Read(Ok(rows)) | Input::ReadParked(Ok(rows)) = &mut answer {
            let relay = state.relays.iter_mut().find(|relay| relay.incarnation == incarnation);
            if let (Some(mutant), Some(relay)) = (self.mutant, relay) {
                mutant.distort(&mut relay.cursor, rows);
            }
        }
        answer
    }

    pub(super) fn watch(&self, answer: &Input) {
        use cqrs_outbox::Fenced::{Done, LeaseLost};
        match answer {
            Input::Rejected(Ok(LeaseLost))
            | Input::SetAside(Ok(LeaseLost))
            | Input::GateOpened(Ok(LeaseLost)) => {
                self.saw(Seen::Fenced);
            }
            Input::Rejected(Ok(Done(()))) => self.saw(Seen::Refused),
            Input::SetAside(Ok(Done(true))) => self.saw(Seen::SetAside),
            Input::GateOpened(Ok(Done(true))) => self.saw(Seen::GateOpened),
            _ => {}
        }
    }

    /// What the relay hears of a message.
    pub(super) fn hear(
        &self,
        state: &mut State,
        relay: usize,
        id: i64,
        outcome: Result<Receipt, ErrorClass>,
    ) {
        state.relays[relay].messages.remove(&id);
        state.relays[relay].in_session.remove(&id);
        let outcome = match (outcome, self.mutant) {
            (Err(ErrorClass::Unknown), Some(Mutant::OnAfterUnknown)) => Ok(Receipt::new()),
            (outcome, _) => outcome,
        };
        if outcome.is_ok() && self.mutant == Some(Mutant::BatchSettled) {
            while let Some((other, _)) = state.relays[relay].messages.pop_first() {
                state.stray_messages.push(vec![other]);
                self.input(state, relay, Input::Published { id: other, outcome: Ok(Receipt::new()) });
            }
        }
        let outcome = outcome.map_err(|class| PublishFailure { class, error: String::new() });
        self.input(state, relay, Input::Published { id, outcome });
    }

    pub(super) fn step(&self, state: &mut State, step: Step) {
        match step {
            Step::Commit(id) => {
                state.committed.insert(id);
                state.tables.insert(id, self.message(id));
            }
            Step::Wake(relay) => {
                if let Some(at) = state.relays[relay].engine.deadline() {
                    state.relays[relay].engine.rebase(at);
                    self.pump(state, relay);
                }
            }
            Step::CarryOut(relay, kind) => self.carry_out_call(state, relay, kind, None),
            Step::CarryOutWithout(relay, kind, id) => self.carry_out_call(state, relay, kind, Some(id)),
            Step::Answer(relay, kind) => {
                if let Some(Call::Answered(answer)) = state.relays[relay].calls.remove(kind) {
                    self.input(state, relay, answer);
                }
            }
            Step::Fail(relay, kind) => {
                state.left.failures -= 1;
                let incarnation = state.relays[relay].incarnation;
                if let Some(Call::UnderWay(action)) = state.relays[relay].calls.remove(kind) {
                    stray(state, incarnation, action);
                }
                self.input(state, relay, calls::failed(kind));
            }
            Step::Deliver(relay, id) => {
                self.arrive(state, relay, id);
            }
            Step::Refuse(relay, id) => {
                state.left.refusals -= 1;
                if self.end_session(state, relay, id, true) {
                    return;
                }
                state.relays[relay].messages.insert(id, Sent::Refused);
            }
            Step::Suspend(relay, id) => {
                state.left.suspensions -= 1;
                if self.end_session(state, relay, id, true) {
                    return;
                }
                state.relays[relay].messages.insert(id, Sent::Unreachable);
            }
            Step::Hear(relay, id) => match state.relays[relay].messages.get(&id) {
                Some(Sent::Lost) => self.hear(state, relay, id, Err(ErrorClass::Unknown)),
                Some(Sent::Refused) => self.hear(state, relay, id, Err(ErrorClass::Event)),
                Some(Sent::Unreachable) => self.hear(state, relay, id, Err(ErrorClass::Destination)),
                _ => self.hear(state, relay, id, Ok(Receipt::new())),
            },
            Step::Lose(relay, id) => {
                state.left.losses -= 1;
                let was_in_session = self.end_session(state, relay, id, false);
                if !was_in_session && state.relays[relay].messages.get(&id) == Some(&Sent::UnderWay) {
                    state.stray_messages.push(vec![id]);
                }
                self.hear(state, relay, id, Err(ErrorClass::Unknown));
            }
            Step::StrayCall(at) => {
                let (incarnation, action) = state.stray_calls.remove(at);
                self.carry_out(state, incarnation, &action);
            }
            Step::StrayMessage(at) => {
                let id = state.stray_messages[at].remove(0);
                if state.stray_messages[at].is_empty() {
                    state.stray_messages.remove(at);
                }
                self.deliver(state, id);
            }
            Step::Crash(relay) => {
                state.left.crashes -= 1;
                let incarnation = state.relays[relay].incarnation;
                for call in std::mem::take(&mut state.relays[relay].calls).into_values() {
                    if let Call::UnderWay(action) = call {
                        stray(state, incarnation, action);
                    }
                }
                let messages = std::mem::take(&mut state.relays[relay].messages);
                let under_way = messages.into_iter().filter(|(_, sent)| *sent == Sent::UnderWay);
                self.go_astray(state, relay, under_way.map(|(id, _)| id).collect());
                self.start(state, relay);
            }
            Step::Stop(relay) => {
                state.left.stops -= 1;
                state.relays[relay].told = Some(Told::Stop);
                self.input(state, relay, Input::Stop);
            }
            Step::GiveUp(relay) => {
                state.relays[relay].told = Some(Told::GiveUp);
                self.input(state, relay, Input::GiveUp);
            }
            Step::Second => {
                state.left.seconds -= 1;
                state.clock += SECOND;
            }
            Step::Expiry => {
                state.left.expiries -= 1;
                state.clock += LEASE;
            }
            Step::SetBack => {
                state.left.set_backs -= 1;
                state.clock -= 3 * LEASE;
            }
            Step::Hold => {
                state.left.holds -= 1;
                state.hold = true;
            }
            Step::Resume => state.hold = false,
            Step::Replay(event) => {
                state.left.operators -= 1;
                state.tables.replay(state.clock, event);
            }
            Step::Discard(event) => {
                state.left.operators -= 1;
                state.discarded.insert(event.as_u128() as i64);
                state.tables.discard(state.clock, event);
            }
        }
    }

    /// A message of a session is not confirmed, so that it is over. If it was dropped, it was the first of its key that had not
    /// arrived, and what was sent behind it does not arrive either; else all that is under way may. `false` if it is in none.
    fn end_session(&self, state: &mut State, number: usize, id: i64, dropped: bool) -> bool {
        let relay = &mut state.relays[number];
        let Some(session) = relay.in_session.get(&id).copied() else { return false };
        relay.first_open = relay.first_open.max(session + 1);
        self.saw(Seen::SessionEnded);
        let in_session = relay.in_session.clone();
        let mut astray = Vec::new();
        for (other, sent) in &mut relay.messages {
            if *sent == Sent::UnderWay && in_session.get(other) == Some(&session) {
                *sent = Sent::Lost;
                let arrives = !dropped
                    || self.key(*other) != self.key(id)
                    || self.mutant == Some(Mutant::SessionHasGaps) && *other != id;
                astray.extend(arrives.then_some(*other));
            }
        }
        self.go_astray(state, number, astray);
        true
    }

    /// Nobody waits for these messages of a relay any more. In a session each has its place behind the others of its key, from
    /// the first on that the broker has.
    fn go_astray(&self, state: &mut State, number: usize, ids: Vec<i64>) {
        let relay = &state.relays[number];
        let mut lines = BTreeMap::<_, Vec<i64>>::new();
        for id in ids {
            let session = relay.in_session.get(&id).map(|session| (*session, self.key(id)));
            match session.filter(|of_key| relay.known.contains(of_key)) {
                Some(of_key) => lines.entry((Some(of_key), None)).or_default().push(id),
                None => lines.entry((None, Some(id))).or_default().push(id),
            }
        }
        state.stray_messages.extend(lines.into_values());
    }

    pub(super) fn carry_out_call(
        &self,
        state: &mut State,
        relay: usize,
        kind: &'static str,
        without: Option<i64>,
    ) {
        let incarnation = state.relays[relay].incarnation;
        let Some(Call::UnderWay(action)) = state.relays[relay].calls.get(kind).cloned() else { return };
        let mut answer = self.carry_out(state, incarnation, &action);
        if let Input::Read(Ok(rows)) = &mut answer {
            rows.retain(|row| Some(row.id) != without);
        }
        state.relays[relay].calls.insert(kind, Call::Answered(answer));
    }
}

impl Relay {
    fn hear(&mut self, input: Input) {
        if let Input::Heartbeat(Ok(ownership)) = &input {
            self.on_hold = ownership.hold;
        }
        self.engine.step(Duration::ZERO, input);
    }

    /// Whether a message that is under way may be the next of its key to arrive: in a session, from the first on that the
    /// broker has, only if none before it is under way.
    pub(super) fn is_next(&self, id: i64, key: &'static str, of: impl Fn(i64) -> &'static str) -> bool {
        let Some(session) = self.in_session.get(&id) else { return true };
        let mut before = self.messages.range(..id).filter(|(other, sent)| {
            **sent == Sent::UnderWay && of(**other) == key && self.in_session.get(other) == Some(session)
        });
        !self.known.contains(&(*session, key)) || before.next().is_none()
    }
}

/// Reads that nobody waits for change nothing.
fn stray(state: &mut State, incarnation: u128, action: Action) {
    if !matches!(action, Action::Read(_) | Action::ReadParked(_)) {
        state.stray_calls.push((incarnation, action));
    }
}
