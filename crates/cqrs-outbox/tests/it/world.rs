//! The simulated world: one thread, one queue of what happens next, one random number generator. Relays are [`Engine`]s
//! with clocks of their own; the database is a [`MemoryTables`]; the broker is a list of what was delivered.
//!
//! Everything that happens follows from the seed. Nothing here reads a clock, and nothing depends on the order of a hash
//! map.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::Message;
use cqrs_core::broker::{ErrorClass, Receipt};
use cqrs_outbox::engine::{Action, Engine, Input, PublishFailure};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{Fenced, GroupNo, Lane, Lease, OutboxRow, Place, RelayId, RelaySettings, RelayStats};
use cqrs_testing::history::History;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::calls::{self, Mutant};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Writers write so long.
const WRITING: Duration = Duration::from_secs(8);
/// Things go wrong so long.
const FAULTS: Duration = Duration::from_secs(10);
/// From then on everything has to be drained within this time.
const DRAIN: Duration = Duration::from_secs(40);
/// An idle world is watched so long.
const IDLE: Duration = Duration::from_secs(3);
const TOPICS: [&str; 3] = ["orders", "rooms", "users"];

/// What was found to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Lost,
    Ghost,
    OutOfOrder,
    WrongKey,
    /// Sent again without a reason.
    Duplicate,
    /// Delivered although an earlier event of the key is a dead letter and its lane is to wait.
    PassedDeadLetter,
    /// A second row of a lane with the broker, or a second call of a kind.
    NotAlone,
    PublishedWithoutLease,
    SettledUnconfirmed,
    /// Parked, buried, moved aside or opened by one whose lease had ended.
    ChangedByFormerOwner,
    Spin,
    NotDrained,
    Remains,
}

/// How often the things that make a run interesting happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(pub(crate) BTreeMap<&'static str, u64>);

impl Counts {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) faults: Vec<(Fault, String)>,
    pub(crate) counts: Counts,
}

/// Runs the world of this seed to its end.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Report {
    let mut world = World::new(seed, mutant, trace);
    world.live();
    Report { faults: world.faults, counts: world.counts }
}

type Happening = Box<dyn FnOnce(&mut World)>;
/// One start of a relay, as an index.
type Life = usize;

struct World {
    rng: StdRng,
    mutant: Option<Mutant>,
    trace: bool,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    next: u64,
    settings: RelaySettings,
    faulty: bool,
    /// Database and broker are slow: then the change of a former owner often meets a row that the new one has in hand.
    slow: bool,
    /// Who leaves now does not come back.
    closing: bool,

    tables: MemoryTables,
    /// What the database's clock is ahead of the world's.
    database_ahead: Duration,
    database_down: bool,
    /// Something has happened by which a lease may end before its owner can know.
    leases_end_early: bool,
    owners: BTreeMap<GroupNo, (Life, i64)>,

    broker_down: bool,
    suspended: BTreeSet<&'static str>,
    /// How often the event will be refused.
    poison: BTreeMap<Uuid, u32>,

    slots: Vec<Option<Life>>,
    lives: Vec<Relay>,

    history: History,
    events: BTreeMap<Uuid, Written>,
    by_id: BTreeMap<i64, Uuid>,
    keys: usize,
    locked: BTreeSet<Bytes>,
    sequences: BTreeMap<Bytes, u64>,
    next_event: u128,

    calls: u64,
    faults: Vec<(Fault, String)>,
    counts: Counts,
}

/// An event that was committed.
struct Written {
    key: Option<Bytes>,
    sequence: u64,
    /// Its writers took turns, so that its key has an order.
    ordered: bool,
    delivered: u64,
    dead: bool,
    discarded: bool,
    /// How many more times it may be sent: once, and once more for each reason.
    rights: u32,
}

struct Relay {
    slot: usize,
    id: RelayId,
    engine: Engine,
    clock: Clock,
    alive: bool,
    paused: bool,
    stopping: bool,
    /// What came in during a pause.
    late: Vec<Input>,
    wake: Option<Duration>,
    calls: BTreeMap<&'static str, u64>,
    in_flight: BTreeMap<i64, (u64, Lane)>,
    confirmed: BTreeSet<i64>,
    /// Sent and, as far as this relay could tell, perhaps with the broker; not settled.
    outstanding: BTreeMap<i64, GroupNo>,
    heartbeat_sent: Duration,
    leases: BTreeMap<GroupNo, Duration>,
    cursor: i64,
}

/// A clock that starts anywhere and runs a little fast or slow.
#[derive(Clone, Copy)]
struct Clock {
    born: Duration,
    offset: Duration,
    permille: u32,
}

impl Clock {
    fn read(self, now: Duration) -> Duration {
        self.offset + (now - self.born) * self.permille / 1000
    }

    /// The first moment at which it shows `at`.
    fn shows(self, at: Duration) -> Duration {
        let nanos = at.saturating_sub(self.offset).as_nanos() * 1000;
        self.born + Duration::from_nanos(nanos.div_ceil(u128::from(self.permille)) as u64)
    }
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>, trace: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut settings = RelaySettings::default();
        settings.lease = ms(1_000);
        settings.heartbeat_interval = ms(250);
        settings.lease_margin = ms(200);
        settings.poll_interval = ms(100);
        settings.batch = rng.random_range(2..20);
        settings.max_rows = rng.random_range(4..60);
        settings.max_bytes = rng.random_range(100..4_000);
        settings.max_in_flight = rng.random_range(1..16);
        settings.publish_timeout = ms(600);
        settings.store_timeout = ms(400);
        settings.max_attempts = 4;
        settings.lane_waits_for_dead_letter = rng.random_bool(0.7);
        settings.backoff = ms(20);
        settings.max_backoff = ms(500);
        settings.stop_grace = ms(1_000);
        settings.validate().unwrap();
        let groups = rng.random_range(1..7);
        let relays = rng.random_range(1..4);
        let keys = rng.random_range(1..8);
        Self {
            mutant,
            trace,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            next: 0,
            settings,
            faulty: true,
            slow: rng.random_bool(0.2) || mutant == Some(Mutant::Unfenced),
            closing: false,
            tables: MemoryTables::new(groups),
            database_ahead: Duration::from_secs(1_000),
            database_down: false,
            leases_end_early: false,
            owners: BTreeMap::new(),
            broker_down: false,
            suspended: BTreeSet::new(),
            poison: BTreeMap::new(),
            slots: vec![None; relays],
            lives: Vec::new(),
            history: History::new(),
            events: BTreeMap::new(),
            by_id: BTreeMap::new(),
            keys,
            locked: BTreeSet::new(),
            sequences: BTreeMap::new(),
            next_event: 1,
            calls: 0,
            faults: Vec::new(),
            counts: Counts::default(),
            rng,
        }
    }

    // --- the course of events ---

    fn live(&mut self) {
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

    fn run_until(&mut self, end: Duration) {
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

    fn drain(&mut self, when: &str) {
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
    fn undelivered(&self) -> Vec<Uuid> {
        let missing = |event: &Written| event.delivered == 0 && !event.dead;
        self.events.iter().filter(|(_, event)| missing(event)).map(|(id, _)| *id).collect()
    }

    /// The keys whose events wait for what someone does about a dead letter.
    fn blocked_keys(&self) -> BTreeSet<Bytes> {
        if !self.settings.lane_waits_for_dead_letter {
            return BTreeSet::new();
        }
        self.tables.dead_letters().into_iter().filter_map(|letter| letter.row.message.key).collect()
    }

    fn is_drained(&self) -> bool {
        let undelivered = self.undelivered();
        let blocked = self.blocked_keys();
        let is_blocked = |id| self.events[id].key.as_ref().is_some_and(|key| blocked.contains(key));
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

    fn live_relays(&self) -> impl Iterator<Item = &Relay> {
        self.slots.iter().flatten().map(|life| &self.lives[*life])
    }

    /// Someone looks at the dead letters and replays or discards each.
    fn operate(&mut self) {
        for letter in self.tables.dead_letters() {
            let event = letter.row.event_id;
            let now = self.database_now();
            if self.rng.random_bool(0.5) {
                self.log(|| format!("replay {event}"));
                self.poison.remove(&event);
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

    fn judge(&mut self) {
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
    fn idle(&mut self) {
        if !self.faults.is_empty() {
            return;
        }
        let before = self.calls;
        self.run_until(self.now + IDLE);
        let calls = self.calls - before;
        // A poll, a heartbeat and a look at the side table, each at its interval.
        let ticks = |every: Duration| (IDLE.as_millis() / every.as_millis()) as u64 + 2;
        let relays = self.slots.len() as u64;
        let bound =
            relays * (ticks(self.settings.poll_interval) + 3 * ticks(self.settings.heartbeat_interval));
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

    fn stop_all(&mut self) {
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

    // --- what goes wrong ---

    fn go_wrong(&mut self) {
        if !self.faulty {
            return;
        }
        let slot = self.rng.random_range(0..self.slots.len());
        let life = self.slots[slot];
        match self.rng.random_range(0..9) {
            0 => {
                if let Some(life) = life {
                    self.crash(life);
                }
            }
            1 | 2 => {
                if let Some(life) = life {
                    let length = if self.rng.random_bool(0.7) { 3_000 } else { 600 };
                    let length = self.up_to(length);
                    self.pause(life, length);
                }
            }
            3 => {
                if let Some(life) = life {
                    self.stop(life);
                }
            }
            4 => {
                self.log(|| "the broker is down".to_owned());
                self.counts.add("outages");
                self.broker_down = true;
                let length = self.up_to(1_500);
                self.after(length, |world| world.broker_down = false);
            }
            5 | 6 => {
                let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
                self.log(|| format!("{topic} is suspended"));
                self.counts.add("suspended topics");
                self.suspended.insert(topic);
                let length = self.up_to(2_000);
                self.after(length, move |world| {
                    world.suspended.remove(topic);
                });
            }
            7 => {
                self.log(|| "the database is down".to_owned());
                self.counts.add("database down");
                self.database_down = true;
                let length = self.up_to(1_500);
                self.after(length, |world| world.database_down = false);
            }
            _ => {
                let jump = self.up_to(3_000);
                let forward = self.rng.random_bool(0.5);
                self.log(|| format!("the database's clock jumps by {jump:?}, forward: {forward}"));
                self.counts.add("clock jumps");
                self.leases_end_early = true;
                self.database_ahead =
                    if forward { self.database_ahead + jump } else { self.database_ahead - jump };
            }
        }
        let pause = self.up_to(1_500);
        self.after(pause, Self::go_wrong);
    }

    fn mend(&mut self) {
        self.log(|| "all is well from now on".to_owned());
        self.faulty = false;
        self.broker_down = false;
        self.database_down = false;
        self.suspended.clear();
        for life in 0..self.lives.len() {
            self.resume(life);
        }
        for slot in 0..self.slots.len() {
            self.start(slot);
        }
    }

    fn start(&mut self, slot: usize) {
        if self.slots[slot].is_some() {
            return;
        }
        let life = self.lives.len();
        let offset = self.up_to(1_000_000);
        let clock = Clock { born: self.now, offset, permille: self.rng.random_range(990..=1010) };
        self.log(|| format!("relay {slot} starts as {life}"));
        self.lives.push(Relay {
            slot,
            id: RelayId { name: format!("relay {slot}"), incarnation: Uuid::from_u128(life as u128 + 1) },
            engine: Engine::new(self.settings.clone()),
            clock,
            alive: true,
            paused: false,
            stopping: false,
            late: Vec::new(),
            wake: None,
            calls: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            heartbeat_sent: Duration::ZERO,
            leases: BTreeMap::new(),
            cursor: 0,
        });
        self.slots[slot] = Some(life);
        self.pump(life);
    }

    /// It is gone, with everything that it knew.
    fn end(&mut self, life: Life) {
        let relay = &mut self.lives[life];
        relay.alive = false;
        let slot = relay.slot;
        self.slots[slot] = None;
        if !self.closing {
            let pause = self.up_to(2_000);
            self.after(pause, move |world| world.start(slot));
        }
    }

    fn crash(&mut self, life: Life) {
        self.log(|| format!("{life} crashes"));
        self.counts.add("crashes");
        self.end(life);
    }

    fn pause(&mut self, life: Life, length: Duration) {
        self.log(|| format!("{life} pauses for {length:?}"));
        self.counts.add("pauses");
        self.lives[life].paused = true;
        self.after(length, move |world| world.resume(life));
    }

    fn resume(&mut self, life: Life) {
        if !self.lives[life].alive || !self.lives[life].paused {
            return;
        }
        self.log(|| format!("{life} goes on"));
        self.lives[life].paused = false;
        for input in std::mem::take(&mut self.lives[life].late) {
            self.input(life, input);
        }
        if self.lives[life].alive {
            self.pump(life);
        }
    }

    fn stop(&mut self, life: Life) {
        if self.lives[life].stopping {
            return;
        }
        self.log(|| format!("{life} is told to stop"));
        self.counts.add("stops");
        self.lives[life].stopping = true;
        self.input(life, Input::Stop);
        self.after(self.settings.stop_grace, move |world| world.input(life, Input::GiveUp));
    }

    // --- the writers ---

    fn write(&mut self) {
        if self.now > WRITING {
            return;
        }
        let mut events = Vec::new();
        let mut held = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let (key, ordered) = match self.rng.random_range(0..10) {
                0 => (None, false),
                // Of these two keys several writers write at the same time: they have no order.
                1 => (Some(Bytes::from(format!("any {}", self.rng.random_range(0..2)))), false),
                _ => (Some(Bytes::from(format!("key {}", self.rng.random_range(0..self.keys)))), true),
            };
            if let Some(key) = key.as_ref().filter(|key| ordered && !held.contains(*key)) {
                // The key's own row is locked: whoever is next begins after this commit.
                if !self.locked.insert(key.clone()) {
                    continue;
                }
                held.push(key.clone());
            }
            let sequence = key.clone().map_or(0, |key| {
                let sequence = self.sequences.entry(key).or_default();
                *sequence += 1;
                *sequence
            });
            events.push((self.tables.reserve_id(), self.message(key), sequence, ordered));
        }
        let commits = self.rng.random_bool(0.85);
        let length = if self.rng.random_bool(0.1) { 1_500 } else { 60 };
        let length = self.up_to(length);
        self.after(length, move |world| {
            for key in &held {
                world.locked.remove(key);
            }
            for (id, message, sequence, ordered) in events {
                let event = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap();
                if commits {
                    world.commit(id, event, message, sequence, ordered);
                } else {
                    world.history.rolled_back(event);
                }
            }
            for slot in 0..world.slots.len() {
                if let Some(life) = world.slots[slot].filter(|_| world.rng.random_bool(0.7)) {
                    world.input(life, Input::Woken);
                }
            }
        });
        let pause = self.up_to(80);
        self.after(pause, Self::write);
    }

    fn message(&mut self, key: Option<Bytes>) -> Message {
        let event = Uuid::from_u128(self.next_event);
        self.next_event += 1;
        match self.rng.random_range(0..40) {
            0 => self.poison.insert(event, u32::MAX),
            1 | 2 => self.poison.insert(event, self.rng.random_range(1..4)),
            _ => None,
        };
        let payload = vec![b'.'; self.rng.random_range(1..150)];
        let mut message = Message::new(TOPICS[self.rng.random_range(0..TOPICS.len())], payload);
        message.id = Some(event.into());
        message.key = key;
        message
    }

    fn commit(&mut self, id: i64, event: Uuid, message: Message, sequence: u64, ordered: bool) {
        let key = message.key.clone();
        self.log(|| format!("commit row {id}, event {}, key {key:?}", event.as_u128()));
        self.tables.insert(id, message);
        self.history.committed(key.clone().filter(|_| ordered), event, sequence);
        self.by_id.insert(id, event);
        let written =
            Written { key, sequence, ordered, delivered: 0, dead: false, discarded: false, rights: 1 };
        self.events.insert(event, written);
    }

    // --- the relays ---

    fn input(&mut self, life: Life, input: Input) {
        let relay = &mut self.lives[life];
        if !relay.alive {
            return;
        }
        if relay.paused {
            relay.late.push(input);
            return;
        }
        let now = relay.clock.read(self.now);
        if let Input::Heartbeat(Ok(ownership)) = &input {
            let until = relay.heartbeat_sent + self.settings.lease - self.settings.lease_margin;
            relay.leases = ownership.leases.iter().map(|lease| (lease.group, until)).collect();
        }
        if self.trace && !matches!(input, Input::Woken) {
            println!("{:>10.4?} {life} hears {}", self.now, brief(&format!("{input:?}")));
        }
        self.lives[life].engine.step(now, input);
        // Now and then several things are heard before anything is done.
        if self.rng.random_bool(0.2) {
            let pause = self.up_to(5);
            self.after(pause, move |world| world.pump(life));
        } else {
            self.pump(life);
        }
    }

    fn pump(&mut self, life: Life) {
        let relay = &self.lives[life];
        if !relay.alive || relay.paused {
            return;
        }
        let now = relay.clock.read(self.now);
        let mut actions = 0;
        while let Some(action) = self.lives[life].engine.poll(now) {
            actions += 1;
            if actions > 1_000 {
                return self.found(Fault::Spin, format!("{life} has always more to do: {action:?}"));
            }
            if self.trace {
                println!("{:>10.4?} {life} does {}", self.now, brief(&format!("{action:?}")));
            }
            match action {
                Action::Publish(row) => self.publish(life, *row),
                action => self.call(life, action),
            }
        }
        let relay = &mut self.lives[life];
        if relay.engine.is_finished() {
            self.log(|| format!("{life} has left"));
            return self.end(life);
        }
        let deadline = relay.engine.deadline();
        if let Some(deadline) = deadline {
            if deadline <= now {
                return self.found(
                    Fault::Spin,
                    format!("{life} has nothing to do at {now:?}, but its deadline was {deadline:?}"),
                );
            }
            let at = relay.clock.shows(deadline);
            if relay.wake != Some(at) {
                relay.wake = Some(at);
                let late = if self.rng.random_bool(0.3) { self.up_to(10) } else { Duration::ZERO };
                self.after(at - self.now + late, move |world| {
                    if world.lives[life].wake == Some(at) {
                        world.lives[life].wake = None;
                        world.pump(life);
                    }
                });
            }
        }
    }

    // --- the database ---

    fn database_now(&self) -> Duration {
        self.now + self.database_ahead
    }

    fn call(&mut self, life: Life, action: Action) {
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
        let failed = calls::failed(&action);
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
            let answer = world.carry_out(life, &action);
            let answer = if fails_after { failed } else { answer };
            world.after(back, move |world| world.answer(life, kind, number, answer));
        });
        self.after(self.settings.store_timeout, move |world| world.answer(life, kind, number, late));
    }

    fn answer(&mut self, life: Life, kind: &'static str, number: u64, answer: Input) {
        let calls = &mut self.lives[life].calls;
        if calls.get(kind) == Some(&number) {
            calls.remove(kind);
            self.input(life, answer);
        }
    }

    fn carry_out(&mut self, life: Life, action: &Action) -> Input {
        let mut action = action.clone();
        let mut before = None;
        if let Some(lease) = calls::fenced_by(&mut action) {
            let epoch = self.owners.get(&lease.group).map_or(lease.epoch, |(_, epoch)| *epoch);
            if epoch != lease.epoch {
                before = Some(self.tables.clone());
            }
            if self.mutant == Some(Mutant::Unfenced) {
                lease.epoch = epoch;
            }
        }
        let now = self.database_now();
        let mut answer = calls::carry_out(&mut self.tables, now, &self.lives[life].id, &action);
        if before.is_some_and(|before| before != self.tables) {
            self.found(Fault::ChangedByFormerOwner, format!("{life}: {}", calls::kind(&action)));
        }
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
            Input::SetAside(Ok(_)) => self.counts.add("set aside"),
            Input::GateOpened(Ok(answer)) => self.counts.add(match answer {
                Fenced::Done(true) => "gates opened",
                Fenced::Done(false) => "gates kept",
                Fenced::LeaseLost => "fenced",
            }),
            _ => {}
        }
        if let Action::Settle(confirmed) = &action {
            for one in confirmed {
                self.lives[life].outstanding.remove(&one.id());
            }
        }
        answer
    }

    /// Who takes a group over may send again what the last owner had sent and not settled.
    fn owned(&mut self, life: Life, lease: Lease) {
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

    fn distort(&mut self, life: Life, rows: &mut Vec<OutboxRow>) {
        match self.mutant {
            Some(Mutant::HiddenRows) => rows.retain(|_| self.rng.random_bool(0.8)),
            Some(Mutant::Cursor) => {
                let cursor = &mut self.lives[life].cursor;
                rows.retain(|row| row.id > *cursor);
                *cursor = rows.last().map_or(*cursor, |row| row.id);
            }
            Some(Mutant::GateIgnored) => {
                for row in rows {
                    if row.place == Place::Gated {
                        row.place = Place::Hot;
                    }
                }
            }
            _ => {}
        }
    }

    fn bury(&mut self) {
        for letter in self.tables.dead_letters() {
            let event = self.events.get_mut(&letter.row.event_id).unwrap();
            if !event.dead {
                event.dead = true;
                self.counts.add("dead letters");
            }
        }
    }

    // --- the broker ---

    fn publish(&mut self, life: Life, row: OutboxRow) {
        self.calls += 1;
        let (number, id) = (self.calls, row.id);
        let relay = &mut self.lives[life];
        let now = relay.clock.read(self.now);
        let has_lease = relay.leases.get(&row.group).is_some_and(|until| now < *until);
        let alone = relay.in_flight.values().all(|(_, lane)| *lane != row.lane);
        relay.in_flight.insert(id, (number, row.lane.clone()));
        relay.outstanding.insert(id, row.group);
        if !has_lease {
            self.found(Fault::PublishedWithoutLease, format!("{life}: row {id}"));
        }
        if !alone {
            self.found(Fault::NotAlone, format!("{life}: row {id} is not alone in its lane"));
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

    /// The message is at the broker.
    fn arrive(&mut self, row: &OutboxRow) -> Result<Receipt, ErrorClass> {
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
        self.history.delivered(row.event_id, row.message.key.clone().filter(|_| ordered));
        self.counts.add(if first { "delivered" } else { "duplicates" });
        let event = &self.events[&row.event_id];
        if first && ordered && !event.dead && self.settings.lane_waits_for_dead_letter {
            // A dead letter may have been delivered, late, before its last refusal was written.
            let passed = self.tables.dead_letters().into_iter().find(|letter| {
                let other = &self.events[&letter.row.event_id];
                other.key == event.key && other.sequence < event.sequence && other.delivered == 0
            });
            if let Some(passed) = passed {
                self.found(Fault::PassedDeadLetter, format!("row {} passed {}", row.id, passed.row.id));
            }
        }
        Ok(Receipt::new())
    }

    fn outcome(&mut self, life: Life, id: i64, number: u64, outcome: Result<Receipt, ErrorClass>) {
        if self.lives[life].in_flight.get(&id).is_none_or(|(known, _)| *known != number) {
            return;
        }
        let mut outcome = outcome;
        if self.mutant == Some(Mutant::OnAfterUnknown) && outcome == Err(ErrorClass::Unknown) {
            outcome = Ok(Receipt::new());
        }
        if self.mutant == Some(Mutant::BatchSettled) && outcome.is_ok() {
            let others: Vec<(i64, u64)> = self.lives[life]
                .in_flight
                .iter()
                .filter(|(other, _)| **other != id)
                .map(|(other, (number, _))| (*other, *number))
                .collect();
            for (other, _) in others {
                self.report(life, other, Ok(Receipt::new()));
            }
        }
        self.report(life, id, outcome);
    }

    fn report(&mut self, life: Life, id: i64, outcome: Result<Receipt, ErrorClass>) {
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

    fn allow(&mut self, id: i64) {
        let event = self.by_id[&id];
        if let Some(event) = self.events.get_mut(&event) {
            event.rights += 1;
        }
    }

    // --- the world itself ---

    fn after(&mut self, delay: Duration, happening: impl FnOnce(&mut Self) + 'static) {
        self.next += 1;
        self.queue.insert((self.now + delay, self.next), Box::new(happening));
    }

    fn up_to(&mut self, millis: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..millis * 1_000))
    }

    /// How long something is under way; while things go wrong sometimes very long.
    fn way(&mut self) -> Duration {
        let longest = match self.rng.random_range(0..100) {
            0..3 if self.faulty => 2_500,
            3..15 if self.faulty => 300,
            _ => 10,
        };
        self.up_to(longest)
    }

    fn found(&mut self, fault: Fault, what: String) {
        self.log(|| format!("FOUND {fault:?}: {what}"));
        self.faults.push((fault, format!("at {:?}: {what}", self.now)));
    }

    fn log(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.4?} {}", self.now, what());
        }
    }
}

/// Rows are long; what matters stands in front.
fn brief(text: &str) -> String {
    let mut brief = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("message: Message {") {
        brief.push_str(&rest[..at]);
        rest = rest[at..].find("timestamp: None }").map_or("", |end| &rest[at + end + 17..]);
    }
    brief.push_str(rest);
    brief
}
