//! The engine in a model: every course of events within a scope, not a sample of them.
//!
//! A state holds the tables, the engines, what is under way between them and the broker, and how much may still go wrong.
//! Whatever can happen next is a step: a commit, a call that is carried out, an answer that arrives or does not, a
//! message at the broker, a crash, a lease that ends. Engines see no clock that runs: a step wakes one at its next
//! deadline, whenever that is for the others. So a lease may end at any moment, and clocks may differ by anything.

mod promises;
mod shared;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cqrs_core::Message;
use cqrs_outbox::engine::{Action, Engine, Input};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{LaterEvents, RelaySettings, Unordered};
use stateright::{Model, Property};
use uuid::Uuid;

use self::shared::Shared;
use crate::calls::Mutant;

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
    pub(crate) later: LaterEvents,
    /// Whether no key has an order.
    pub(crate) unordered: bool,
    /// Whether a destination is given up when it refuses a probe.
    pub(crate) gives_up: bool,
    /// How many events of a key may be with the broker.
    pub(crate) per_key: usize,
    /// So many events are committed from the start.
    pub(crate) committed: i64,
    /// How many rows a relay has in memory at most.
    pub(crate) max_rows: usize,
    /// Whether a relay suspects events when another has ended. A model where it does has ten times as many states.
    pub(crate) suspects: bool,
    pub(crate) faults: Faults,
    /// Of so many states one is followed to its good end.
    pub(crate) drain_one_in: u64,
}

impl Scope {
    /// Whether anything closes a gate.
    fn has_gates(&self) -> bool {
        self.faults.refusals > 0 || self.faults.suspensions > 0 || self.suspects
    }
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
    /// The broker cannot reach the destination of an event.
    pub(crate) suspensions: u8,
    /// A relay is told to stop; another takes its place when it has left.
    pub(crate) stops: u8,
    /// Someone replays or discards a dead letter.
    pub(crate) operators: u8,
    /// The outbox is put on hold; the hold may end at any time.
    pub(crate) holds: u8,
    /// A second passes at the database, for a gate that is closed. Engines have clocks of their own, so without an end to
    /// it a lane could be put aside for ever before its engine tries the destination again.
    pub(crate) seconds: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    tables: Shared<MemoryTables>,
    /// The database's.
    clock: Duration,
    hold: bool,
    relays: Vec<Shared<Relay>>,
    next_incarnation: u128,
    /// Calls that nobody waits for any more; the database may carry them out all the same.
    stray_calls: Vec<(u128, Action)>,
    /// Messages that nobody waits for any more, by row; the broker may get them all the same. What was in one session is in one
    /// line: none arrives before the first of it.
    stray_messages: Vec<Vec<i64>>,
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
    engine: Shared<Engine>,
    calls: BTreeMap<&'static str, Call>,
    messages: BTreeMap<i64, Sent>,
    /// Of these messages, the session of those that are in one.
    in_session: BTreeMap<i64, u64>,
    /// Sessions with lower numbers are over.
    first_open: u64,
    /// Of which keys the broker has a message in which session.
    known: BTreeSet<(u64, &'static str)>,
    told: Option<Told>,
    /// By the last heartbeat's answer.
    on_hold: bool,
    /// For a mutant.
    cursor: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Hash)]
enum Told {
    Stop,
    GiveUp,
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
    Unreachable,
    /// With its session: what becomes of it is not known.
    Lost,
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
    Suspend(usize, i64),
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
    Hold,
    Resume,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.tables, &self.clock, &self.hold, &self.relays, &self.stray_calls, &self.stray_messages)
            .hash(state);
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
    PutOff,
    SetAside,
    Followed,
    Together,
    SessionEnded,
    GateOpened,
    Buried,
    Convicted,
    Left,
    Held,
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
    seen: [AtomicU64; 14],
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
        settings.settle_linger = Duration::ZERO;
        settings.batch = scope.keys.len();
        settings.max_rows = scope.max_rows;
        settings.max_in_flight = 2.max(scope.per_key);
        settings.max_in_flight_per_key = scope.per_key;
        settings.max_attempts = scope.max_attempts;
        settings.later_events = scope.later;
        settings.destination_timeout = scope.gives_up.then_some(SECOND);
        if scope.unordered {
            settings.unordered = Unordered::Everything;
        }
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

    /// Earlier events that have to be with the broker before.
    fn ahead(&self, id: i64) -> impl Iterator<Item = i64> {
        self.before(id).filter(|_| !self.scope.unordered)
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

    fn relay(&self, incarnation: u128) -> Shared<Relay> {
        let mut engine = Engine::new(self.settings.clone());
        if self.scope.suspects {
            engine.step(Duration::ZERO, Input::BrokerAnswers);
        }
        Shared::new(Relay {
            incarnation,
            engine: Shared::new(engine),
            calls: BTreeMap::new(),
            messages: BTreeMap::new(),
            in_session: BTreeMap::new(),
            first_open: 0,
            known: BTreeSet::new(),
            told: None,
            on_hold: false,
            cursor: 0,
        })
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
        for id in 1..=self.scope.committed {
            tables.insert(id, self.message(id));
        }
        let relays = self.scope.relays;
        let mut state = State {
            tables: Shared::new(tables),
            clock: Duration::from_secs(1_000),
            hold: false,
            relays: (0..relays).map(|number| self.relay(number as u128 + 1)).collect(),
            next_incarnation: relays as u128 + 1,
            stray_calls: Vec::new(),
            stray_messages: Vec::new(),
            committed: (1..=self.scope.committed).collect(),
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
                    if !relay.is_next(*id, self.key(*id), |other| self.key(other)) {
                        continue;
                    }
                    steps.push(Step::Deliver(number, *id));
                    if left.refusals > 0 {
                        steps.push(Step::Refuse(number, *id));
                    }
                    if left.suspensions > 0 {
                        steps.push(Step::Suspend(number, *id));
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
                None if left.stops > 0 => steps.push(Step::Stop(number)),
                Some(Told::Stop) => steps.push(Step::GiveUp(number)),
                None | Some(Told::GiveUp) => {}
            }
        }
        steps.extend((0..state.stray_calls.len()).map(Step::StrayCall));
        steps.extend((0..state.stray_messages.len()).map(Step::StrayMessage));
        if left.seconds > 0 && state.tables.has_closed_gate(state.clock) {
            steps.push(Step::Second);
        }
        if left.expiries > 0 {
            steps.push(Step::Expiry);
        }
        if state.hold {
            steps.push(Step::Resume);
        } else if left.holds > 0 {
            steps.push(Step::Hold);
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
