//! The simulated world: one thread, one queue of what happens next, one random number generator. Relays are [`Engine`]s
//! with clocks of their own; the database is a [`MemoryTables`]; the broker is a list of what was delivered.
//!
//! Everything that happens follows from the seed. Nothing here reads a clock, and nothing depends on the order of a hash
//! map.

mod broker;
mod course;
mod database;
mod relays;
mod sessions;
mod trouble;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::Message;
use cqrs_outbox::engine::{Engine, Input};
use cqrs_outbox::memory::MemoryTables;
use cqrs_outbox::{GroupNo, Lane, LaterEvents, OrderUnit, RelayId, RelaySettings, Unordered};
use cqrs_testing::history::History;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use self::sessions::Session;
use crate::calls::Mutant;

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
    pub(crate) history: History,
}

/// Runs the world of this seed to its end.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Report {
    let mut world = World::new(seed, mutant, trace);
    world.live();
    Report { faults: world.faults, counts: world.counts, history: world.history }
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
    order_unit: OrderUnit,
    /// What the database's clock is ahead of the world's.
    database_ahead: Duration,
    database_down: bool,
    /// Something has happened by which a lease may end before its owner can know.
    leases_end_early: bool,
    owners: BTreeMap<GroupNo, (Life, i64)>,

    broker_down: bool,
    suspended: BTreeSet<&'static str>,
    sessions: BTreeMap<(Life, u64), Session>,
    /// How often the event will be refused.
    poison: BTreeMap<Uuid, u32>,
    /// Ends the process of a relay that sends it.
    killer: Option<Uuid>,

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
    /// What it is in order with.
    key: Option<Bytes>,
    sequence: u64,
    /// Its lane is that of this key.
    by_key: bool,
    /// And its writers took turns, so that its key has an order.
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
    in_flight: BTreeMap<i64, InFlight>,
    confirmed: BTreeSet<i64>,
    /// Sent and, as far as this relay could tell, perhaps with the broker; not settled.
    outstanding: BTreeMap<i64, GroupNo>,
    heartbeat_sent: Duration,
    leases: BTreeMap<GroupNo, Duration>,
    cursor: i64,
}

/// A message that the relay waits for.
struct InFlight {
    call: u64,
    lane: Lane,
    session: Option<u64>,
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
        settings.max_in_flight_per_key = if rng.random_bool(0.5) { rng.random_range(2..8) } else { 1 };
        settings.publish_timeout = ms(600);
        settings.store_timeout = ms(400);
        settings.settle_linger = ms(rng.random_range(0..10));
        settings.max_attempts = 4;
        settings.later_events = match rng.random_range(0..10) {
            0..4 => LaterEvents::Wait,
            4..7 => LaterEvents::Follow,
            _ => LaterEvents::GoOn,
        };
        if rng.random_bool(0.3) {
            settings.unordered = Unordered::Topics(["users".to_owned()].into());
        }
        settings.destination_timeout = rng.random_bool(0.3).then(|| ms(rng.random_range(0..2_000).max(1)));
        settings.backoff = ms(20);
        settings.max_backoff = ms(500);
        settings.stop_grace = ms(1_000);
        settings.validate().unwrap();
        let groups = rng.random_range(1..7);
        let relays = rng.random_range(1..4);
        let keys = rng.random_range(1..if settings.max_in_flight_per_key > 1 { 4 } else { 8 });
        let order_unit = if seed % 4 == 3 { OrderUnit::TopicAndKey } else { OrderUnit::Key };
        let mut tables = MemoryTables::new(groups);
        assert!(tables.set_order_unit(order_unit));
        Self {
            order_unit,
            mutant,
            trace,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            next: 0,
            settings,
            faulty: true,
            slow: rng.random_bool(0.2) || mutant == Some(Mutant::Unfenced),
            closing: false,
            tables,
            database_ahead: Duration::from_secs(1_000),
            database_down: false,
            leases_end_early: false,
            owners: BTreeMap::new(),
            broker_down: false,
            suspended: BTreeSet::new(),
            sessions: BTreeMap::new(),
            poison: BTreeMap::new(),
            killer: rng.random_bool(0.3).then(|| Uuid::from_u128(rng.random_range(1..200))),
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

    /// The key of an event or, where the topic belongs to what is in order, both.
    fn in_order_with(&self, message: &Message) -> Option<Bytes> {
        let key = message.key.as_ref()?;
        let lane = self.order_unit.lane(&message.topic, Some(key), Uuid::nil());
        Some(Bytes::copy_from_slice(lane.as_bytes()))
    }

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
