//! The engine in a model: every course of events within a scope, not a sample of them.
//!
//! A state holds the tables, the engines, what is under way between them and the broker, and how much may still go wrong.
//! Whatever can happen next is a step: a commit, a call that is carried out, an answer that arrives or does not, a
//! message at the broker, a crash, a lease that ends. Engines see no clock that runs: a step wakes one at its next
//! deadline, whenever that is for the others. So a lease may end at any moment, and clocks may differ by anything.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cqrs_core::Message;
use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::engine::{Action, Engine, Input, PublishFailure};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{GroupNo, OutboxRow, Place, RelayId, RelaySettings};
use stateright::{Model, Property};
use uuid::Uuid;

use crate::calls::{self, Mutant};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(4);

/// How much there is, and how much may go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) relays: usize,
    pub(crate) groups: usize,
    /// The keys of the events, in the order of their ids. Those of one key are committed in that order; those of
    /// different keys in any.
    pub(crate) keys: &'static [&'static str],
    pub(crate) max_attempts: u32,
    pub(crate) lane_waits: bool,
    pub(crate) faults: Faults,
    /// Of so many states one is followed to its good end.
    pub(crate) drain_one_in: u64,
}

/// How often each thing may still go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// A relay dies; another takes its place.
    pub(crate) crashes: u8,
    /// A lease's time passes at the database.
    pub(crate) expiries: u8,
    /// The database's clock is set back.
    pub(crate) set_backs: u8,
    /// A call fails, before or after its effect, or the effect comes later.
    pub(crate) failures: u8,
    /// A publish ends without an answer; the message may arrive all the same, now or later.
    pub(crate) losses: u8,
    /// The broker refuses an event.
    pub(crate) refusals: u8,
    /// A relay is told to stop; another takes its place when it has left.
    pub(crate) stops: u8,
    /// Someone replays or discards a dead letter.
    pub(crate) operators: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    tables: MemoryTables,
    /// The database's.
    clock: Duration,
    relays: Vec<Relay>,
    next_incarnation: u128,
    /// Calls that nobody waits for any more; the database may carry them out all the same.
    stray_calls: Vec<(u128, Action)>,
    /// Messages that nobody waits for any more, by row; the broker may get them all the same.
    stray_messages: Vec<i64>,
    committed: BTreeSet<i64>,
    delivered: BTreeSet<i64>,
    discarded: BTreeSet<i64>,
    /// Were dead letters, of lanes that do not wait for them.
    passed: BTreeSet<i64>,
    left: Faults,
    /// A promise that was broken.
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Hash)]
struct Relay {
    incarnation: u128,
    engine: Engine,
    calls: BTreeMap<&'static str, Call>,
    messages: BTreeMap<i64, Sent>,
    /// Told to stop, then to give up.
    told: u8,
    /// For a mutant.
    cursor: i64,
}

#[derive(Clone, Debug, PartialEq, Hash)]
enum Call {
    UnderWay(Action),
    Answered(Input),
}

#[derive(Clone, Debug, PartialEq, Hash)]
enum Sent {
    UnderWay,
    Confirmed,
    Refused,
}

/// What happens next. Relays are named by their number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Commit(i64),
    Wake(usize),
    CarryOut(usize, &'static str),
    /// A read that does not see this row.
    CarryOutWithout(usize, &'static str, i64),
    Answer(usize, &'static str),
    Fail(usize, &'static str),
    Deliver(usize, i64),
    Refuse(usize, i64),
    Hear(usize, i64),
    Lose(usize, i64),
    StrayCall(usize),
    StrayMessage(usize),
    Crash(usize),
    Stop(usize),
    GiveUp(usize),
    /// Gates become due.
    Second,
    Expiry,
    SetBack,
    Replay(Uuid),
    Discard(Uuid),
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.tables, &self.clock, &self.relays, &self.stray_calls, &self.stray_messages).hash(state);
        (&self.committed, &self.delivered, &self.discarded, &self.passed, &self.left, &self.broken)
            .hash(state);
    }
}

/// What has to happen somewhere, or the model proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Duplicate,
    TakeOver,
    Fenced,
    Refused,
    SetAside,
    GateOpened,
    Buried,
    Left,
}

impl State {
    pub(crate) fn broken(&self) -> Option<&'static str> {
        self.broken
    }
}

pub(crate) struct Outbox {
    scope: Scope,
    mutant: Option<Mutant>,
    settings: RelaySettings,
    seen: [AtomicU64; 8],
}

impl Outbox {
    pub(crate) fn new(scope: Scope, mutant: Option<Mutant>) -> Self {
        let mut settings = RelaySettings::default();
        settings.lease = LEASE;
        settings.lease_margin = LEASE / 2;
        settings.publish_timeout = SECOND;
        for each in [
            &mut settings.heartbeat_interval,
            &mut settings.poll_interval,
            &mut settings.backoff,
            &mut settings.max_backoff,
        ] {
            *each = SECOND;
        }
        settings.batch = scope.keys.len();
        settings.max_rows = 8 * scope.keys.len();
        settings.max_in_flight = 2;
        settings.max_attempts = scope.max_attempts;
        settings.lane_waits_for_dead_letter = scope.lane_waits;
        settings.validate().unwrap();
        Self { scope, mutant, settings, seen: Default::default() }
    }

    pub(crate) fn count(&self, seen: Seen) -> u64 {
        self.seen[seen as usize].load(Ordering::Relaxed)
    }

    fn saw(&self, seen: Seen) {
        self.seen[seen as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn key(&self, id: i64) -> &'static str {
        self.scope.keys[id as usize - 1]
    }

    /// Earlier events of the same key.
    fn before(&self, id: i64) -> impl Iterator<Item = i64> {
        let key = self.key(id);
        (1..id).filter(move |earlier| self.key(*earlier) == key)
    }

    fn message(&self, id: i64) -> Message {
        let mut message = Message::new("t", "");
        message.id = Some(Uuid::from_u128(id as u128).into());
        message.key = Some(self.key(id).into());
        message
    }

    fn relay(&self, incarnation: u128) -> Relay {
        Relay {
            incarnation,
            engine: Engine::new(self.settings.clone()),
            calls: BTreeMap::new(),
            messages: BTreeMap::new(),
            told: 0,
            cursor: 0,
        }
    }

    /// A new relay in the place of one that died or left.
    fn start(&self, state: &mut State, relay: usize) {
        state.relays[relay] = self.relay(state.next_incarnation);
        state.next_incarnation += 1;
        self.pump(state, relay);
    }

    /// Does what the engine wants done.
    fn pump(&self, state: &mut State, number: usize) {
        while let Some(action) = state.relays[number].engine.poll(Duration::ZERO) {
            let incarnation = state.relays[number].incarnation;
            let relay = &mut state.relays[number];
            match action {
                Action::Publish(row) => {
                    let lane_is_busy =
                        relay.messages.keys().any(|other| self.key(*other) == self.key(row.id));
                    if lane_is_busy {
                        state.broken = Some("two of a key are with the broker");
                    }
                    relay.messages.insert(row.id, Sent::UnderWay);
                }
                // No gate is ever closed then: there is nothing to find, whenever it is looked for.
                Action::ReadParked(_) if self.scope.faults.refusals == 0 => {
                    relay.engine.step(Duration::ZERO, Input::ReadParked(Ok(Vec::new())));
                }
                // A lease may end at any moment, so one that was given a while ago is one that was given now.
                action @ Action::Heartbeat(_) if self.scope.faults.failures == 0 => {
                    let answer = self.carry_out(state, incarnation, &action);
                    state.relays[number].engine.step(Duration::ZERO, answer);
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

    fn input(&self, state: &mut State, relay: usize, input: Input) {
        state.relays[relay].engine.step(Duration::ZERO, input);
        self.pump(state, relay);
    }

    fn carry_out(&self, state: &mut State, incarnation: u128, action: &Action) -> Input {
        let mut action = action.clone();
        let mut before = None;
        if let Some(lease) = calls::fenced_by(&mut action) {
            let epoch = state.tables.holder(lease.group).map_or(lease.epoch, |(_, epoch)| epoch);
            if epoch != lease.epoch {
                before = Some(state.tables.clone());
            }
            if self.mutant == Some(Mutant::Unfenced) {
                lease.epoch = epoch;
            }
        }
        let id = RelayId { name: String::new(), incarnation: Uuid::from_u128(incarnation) };
        let groups = || (0..self.scope.groups as i32).map(GroupNo);
        let owned: Vec<_> = groups().map(|group| state.tables.holder(group)).collect();
        let mut answer = calls::carry_out(&mut state.tables, state.clock, &id, &action);
        if before.is_some_and(|before| before != state.tables) {
            state.broken = Some("changed by a former owner");
        }
        self.watch(&answer);
        if let Action::Reject(_) = action {
            let dead = state.tables.dead_letters();
            if !dead.is_empty() {
                self.saw(Seen::Buried);
            }
            if !self.scope.lane_waits {
                state.passed.extend(dead.iter().map(|letter| letter.row.id));
            }
        }
        let taken = |(group, before): (GroupNo, &Option<_>)| {
            before.is_some() && state.tables.holder(group).is_some_and(|now| Some(now) != *before)
        };
        if groups().zip(&owned).any(taken) {
            self.saw(Seen::TakeOver);
        }
        if let Input::Read(Ok(rows)) | Input::ReadParked(Ok(rows)) = &mut answer {
            self.distort(state, incarnation, rows);
        }
        answer
    }

    fn watch(&self, answer: &Input) {
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

    fn distort(&self, state: &mut State, incarnation: u128, rows: &mut Vec<OutboxRow>) {
        match self.mutant {
            Some(Mutant::GateIgnored) => {
                for row in rows.iter_mut().filter(|row| row.place == Place::Gated) {
                    row.place = Place::Hot;
                }
            }
            Some(Mutant::Cursor) => {
                if let Some(relay) = state.relays.iter_mut().find(|relay| relay.incarnation == incarnation) {
                    rows.retain(|row| row.id > relay.cursor);
                    relay.cursor = rows.last().map_or(relay.cursor, |row| row.id);
                }
            }
            _ => {}
        }
    }

    /// The message of this row is with the broker.
    fn deliver(&self, state: &mut State, id: i64) {
        if !state.delivered.insert(id) {
            self.saw(Seen::Duplicate);
            if self.scope.faults == Faults::default() {
                state.broken = Some("sent again without a reason");
            }
            return;
        }
        for earlier in self.before(id) {
            let may_be_passed = state.discarded.contains(&earlier) || state.passed.contains(&earlier);
            if state.committed.contains(&earlier) && !state.delivered.contains(&earlier) && !may_be_passed {
                state.broken = Some("out of order");
            }
        }
    }

    /// What the relay hears of a message.
    fn hear(&self, state: &mut State, relay: usize, id: i64, outcome: Result<Receipt, ErrorClass>) {
        state.relays[relay].messages.remove(&id);
        let outcome = match (outcome, self.mutant) {
            (Err(ErrorClass::Unknown), Some(Mutant::OnAfterUnknown)) => Ok(Receipt::new()),
            (outcome, _) => outcome,
        };
        if outcome.is_ok() && self.mutant == Some(Mutant::BatchSettled) {
            while let Some((other, _)) = state.relays[relay].messages.pop_first() {
                state.stray_messages.push(other);
                self.input(state, relay, Input::Published { id: other, outcome: Ok(Receipt::new()) });
            }
        }
        let outcome = outcome.map_err(|class| PublishFailure { class, error: String::new() });
        self.input(state, relay, Input::Published { id, outcome });
    }

    /// Nothing goes wrong any more, and everything that can happen does: does it drain?
    fn drains(&self, mut state: State) -> bool {
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

    fn is_drained(&self, state: &State) -> bool {
        let dead = state.tables.dead_letters();
        let is_dead = |id: i64| dead.iter().any(|letter| letter.row.id == id);
        let ids = || 1..=self.scope.keys.len() as i64;
        ids().all(|id| {
            let waits = self.scope.lane_waits && self.before(id).any(is_dead);
            // What was delivered and not settled may stand behind the gate of a later one.
            let is_aside =
                self.scope.lane_waits && ids().any(|other| is_dead(other) && self.key(other) == self.key(id));
            let is_done = state.delivered.contains(&id) && (is_aside || !state.tables.is_waiting(id));
            is_done || waits || is_dead(id) || state.discarded.contains(&id)
        })
    }

    fn may_commit(&self, state: &State, id: i64) -> bool {
        !state.committed.contains(&id) && self.before(id).all(|earlier| state.committed.contains(&earlier))
    }

    fn is_lost(&self, state: &State) -> bool {
        let dead = state.tables.dead_letters();
        state.committed.iter().any(|id| {
            !state.delivered.contains(id)
                && !state.tables.is_waiting(*id)
                && !state.discarded.contains(id)
                && !dead.iter().any(|letter| letter.row.id == *id)
        })
    }

    fn step(&self, state: &mut State, step: Step) {
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
                match state.relays[relay].calls.remove(kind) {
                    Some(Call::UnderWay(action)) => {
                        let failed = calls::failed(&action);
                        stray(state, incarnation, action);
                        self.input(state, relay, failed);
                    }
                    Some(Call::Answered(answer)) => self.input(state, relay, lost(answer)),
                    None => {}
                }
            }
            Step::Deliver(relay, id) => {
                state.relays[relay].messages.insert(id, Sent::Confirmed);
                self.deliver(state, id);
            }
            Step::Refuse(relay, id) => {
                state.left.refusals -= 1;
                state.relays[relay].messages.insert(id, Sent::Refused);
            }
            Step::Hear(relay, id) => match state.relays[relay].messages.get(&id) {
                Some(Sent::Refused) => self.hear(state, relay, id, Err(ErrorClass::Event)),
                _ => self.hear(state, relay, id, Ok(Receipt::new())),
            },
            Step::Lose(relay, id) => {
                state.left.losses -= 1;
                if state.relays[relay].messages.get(&id) == Some(&Sent::UnderWay) {
                    state.stray_messages.push(id);
                }
                self.hear(state, relay, id, Err(ErrorClass::Unknown));
            }
            Step::StrayCall(at) => {
                let (incarnation, action) = state.stray_calls.remove(at);
                self.carry_out(state, incarnation, &action);
            }
            Step::StrayMessage(at) => {
                let id = state.stray_messages.remove(at);
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
                for (id, sent) in std::mem::take(&mut state.relays[relay].messages) {
                    if sent == Sent::UnderWay {
                        state.stray_messages.push(id);
                    }
                }
                self.start(state, relay);
            }
            Step::Stop(relay) => {
                state.left.stops -= 1;
                state.relays[relay].told = 1;
                self.input(state, relay, Input::Stop);
            }
            Step::GiveUp(relay) => {
                state.relays[relay].told = 2;
                self.input(state, relay, Input::GiveUp);
            }
            Step::Second => state.clock += SECOND,
            Step::Expiry => {
                state.left.expiries -= 1;
                state.clock += LEASE;
            }
            Step::SetBack => {
                state.left.set_backs -= 1;
                state.clock -= 3 * LEASE;
            }
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

    fn carry_out_call(&self, state: &mut State, relay: usize, kind: &'static str, without: Option<i64>) {
        let incarnation = state.relays[relay].incarnation;
        let Some(Call::UnderWay(action)) = state.relays[relay].calls.get(kind).cloned() else { return };
        let mut answer = self.carry_out(state, incarnation, &action);
        if let Input::Read(Ok(rows)) = &mut answer {
            rows.retain(|row| Some(row.id) != without);
        }
        state.relays[relay].calls.insert(kind, Call::Answered(answer));
    }
}

/// Reads that nobody waits for change nothing.
fn stray(state: &mut State, incarnation: u128, action: Action) {
    if !matches!(action, Action::Read(_) | Action::ReadParked(_)) {
        state.stray_calls.push((incarnation, action));
    }
}

fn lost(answer: Input) -> Input {
    use cqrs_outbox::engine::Failed;
    match answer {
        Input::Heartbeat(_) => Input::Heartbeat(Err(Failed)),
        Input::Read(_) => Input::Read(Err(Failed)),
        Input::ReadParked(_) => Input::ReadParked(Err(Failed)),
        Input::Settled(_) => Input::Settled(Err(Failed)),
        Input::Rejected(_) => Input::Rejected(Err(Failed)),
        Input::SetAside(_) => Input::SetAside(Err(Failed)),
        Input::GateOpened(_) => Input::GateOpened(Err(Failed)),
        other => other,
    }
}

impl Model for Outbox {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut tables = MemoryTables::new(self.scope.groups);
        for _ in self.scope.keys {
            tables.reserve_id();
        }
        let relays = self.scope.relays;
        let mut state = State {
            tables,
            clock: Duration::from_secs(1_000),
            relays: (0..relays).map(|number| self.relay(number as u128 + 1)).collect(),
            next_incarnation: relays as u128 + 1,
            stray_calls: Vec::new(),
            stray_messages: Vec::new(),
            committed: BTreeSet::new(),
            delivered: BTreeSet::new(),
            discarded: BTreeSet::new(),
            passed: BTreeSet::new(),
            left: self.scope.faults,
            broken: None,
        };
        for relay in 0..relays {
            self.pump(&mut state, relay);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        if state.broken.is_some() {
            return;
        }
        steps.extend(
            (1..=self.scope.keys.len() as i64).filter(|id| self.may_commit(state, *id)).map(Step::Commit),
        );
        for (number, relay) in state.relays.iter().enumerate() {
            if relay.engine.deadline().is_some() {
                steps.push(Step::Wake(number));
            }
            for (kind, call) in &relay.calls {
                match call {
                    Call::UnderWay(_) => {
                        steps.push(Step::CarryOut(number, kind));
                        if *kind == "read" && self.mutant == Some(Mutant::HiddenRows) {
                            let hidden =
                                (1..=self.scope.keys.len() as i64).filter(|id| state.tables.is_waiting(*id));
                            steps.extend(hidden.map(|id| Step::CarryOutWithout(number, kind, id)));
                        }
                    }
                    Call::Answered(_) => steps.push(Step::Answer(number, kind)),
                }
                if left.failures > 0 {
                    steps.push(Step::Fail(number, kind));
                }
            }
            for (id, sent) in &relay.messages {
                if *sent == Sent::UnderWay {
                    steps.push(Step::Deliver(number, *id));
                    if left.refusals > 0 {
                        steps.push(Step::Refuse(number, *id));
                    }
                } else {
                    steps.push(Step::Hear(number, *id));
                }
                if left.losses > 0 {
                    steps.push(Step::Lose(number, *id));
                }
            }
            if left.crashes > 0 {
                steps.push(Step::Crash(number));
            }
            match relay.told {
                0 if left.stops > 0 => steps.push(Step::Stop(number)),
                1 => steps.push(Step::GiveUp(number)),
                _ => {}
            }
        }
        steps.extend((0..state.stray_calls.len()).map(Step::StrayCall));
        steps.extend((0..state.stray_messages.len()).map(Step::StrayMessage));
        if state.tables.has_closed_gate(state.clock) {
            steps.push(Step::Second);
        }
        if left.expiries > 0 {
            steps.push(Step::Expiry);
        }
        if left.set_backs > 0 {
            steps.push(Step::SetBack);
        }
        if left.operators > 0 {
            for letter in state.tables.dead_letters() {
                steps.push(Step::Replay(letter.row.event_id));
                steps.push(Step::Discard(letter.row.event_id));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, step);
        state.stray_messages.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("keeps its promises", |_, state: &State| state.broken.is_none()),
            Property::always("loses nothing", |model: &Self, state: &State| !model.is_lost(state)),
            Property::always("drains", |model: &Self, state: &State| {
                // Of some states only: it takes as long as a hundred others.
                let mut hasher = DefaultHasher::new();
                state.hash(&mut hasher);
                !hasher.finish().is_multiple_of(model.scope.drain_one_in)
                    || state.broken.is_some()
                    || model.drains(state.clone())
            }),
            Property::sometimes("everything is delivered", |model: &Self, state: &State| {
                state.delivered.len() == model.scope.keys.len() && model.is_drained(state)
            }),
        ]
    }
}
