//! The relay's engine: what to do next, without doing it. No I/O, no clock: [`Engine::step`] tells it what happened,
//! [`Engine::poll`] says what to do. The same engine is driven by the relay and by the simulation.
//!
//! # Why it keeps the order of a key
//!
//! Event *i + 1* of a lane is sent only after this engine has a receipt for event *i*, or when a read no longer contains
//! event *i*; or behind event *i* in a session that has no gaps. Rows leave the table only by a receipt. So whoever sends
//! *i + 1*, and whoever owns the group, *i* has been with the broker before. No lease is needed for that: leases bound the
//! duplicates. Only what cannot be taken back by sending again (parking, burying, moving aside, opening a gate) is fenced by
//! the lease's epoch.

mod equivalence;
mod fenced;
mod lanes;
mod leases;
mod pace;
mod publishing;
mod reading;
mod scheduled;
mod sessions;
mod settling;
mod suspects;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::broker::{ErrorClass, Receipt};

use self::pace::{Destinations, Pace};
use self::sessions::{Course, Sessions};
use self::suspects::{Evidence, Suspects};
use crate::row::{Confirmed, GroupNo, Lane, OutboxRow};
use crate::settings::RelaySettings;
use crate::stats::RelayStats;
use crate::store::{Fenced, Heartbeat, LaterEvents, Lease, Ownership, Promoted, ReadRequest, Rejection};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The answer to [`Action::Heartbeat`].
    Heartbeat(Result<Ownership, Failed>),
    /// The answer to [`Action::Read`].
    Read(Result<Vec<OutboxRow>, Failed>),
    /// The answer to [`Action::ReadParked`].
    ReadParked(Result<Vec<OutboxRow>, Failed>),
    /// The answer to [`Action::Promote`].
    Promoted(Result<Promoted, Failed>),
    /// The answer to [`Action::Publish`] and [`Action::PublishInSession`].
    Published {
        /// The row's id.
        id: i64,
        /// What the broker said.
        outcome: Result<Receipt, PublishFailure>,
    },
    /// The answer to [`Action::Settle`].
    Settled(Result<(), Failed>),
    /// The answer to [`Action::Reject`].
    Rejected(Result<Fenced<()>, Failed>),
    /// The answer to [`Action::SetAside`].
    SetAside(Result<Fenced<bool>, Failed>),
    /// The answer to [`Action::OpenGate`].
    GateOpened(Result<Fenced<bool>, Failed>),
    /// The answer to [`Action::RecordSuspects`].
    SuspectsRecorded(Result<(), Failed>),
    /// The broker is there.
    BrokerAnswers,
    /// There may be something new to read.
    Woken,
    /// Whether it is told of all commits: see [`OutboxStore::hears_commits`](crate::OutboxStore::hears_commits).
    Hears(bool),
    /// Finish what is in flight, then leave.
    Stop,
    /// Leave without waiting for what is in flight.
    GiveUp,
    /// The answer to [`Action::Leave`], whatever it was.
    Left,
}

/// The store failed; it was logged where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failed;

/// The broker failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublishFailure {
    /// What it means.
    pub class: ErrorClass,
    /// For those who read the dead letters.
    pub error: String,
}

/// What to do. Every action that does not publish is the only one of its kind until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Call [`OutboxStore::heartbeat`](crate::OutboxStore::heartbeat).
    Heartbeat(Heartbeat),
    /// Call [`OutboxStore::read`](crate::OutboxStore::read).
    Read(ReadRequest),
    /// Call [`OutboxStore::read_parked`](crate::OutboxStore::read_parked).
    ReadParked(ReadRequest),
    /// Call [`OutboxStore::promote`](crate::OutboxStore::promote).
    Promote {
        /// The leases of the groups.
        leases: Vec<Lease>,
        /// At most so many.
        limit: usize,
    },
    /// Publish the message of this row and wait for the confirm.
    Publish(Arc<OutboxRow>),
    /// Hand the message of this row over to the publish session of this number, at once and in the order of these actions,
    /// and wait for the confirm. Numbers only grow: with a new one, the last session takes nothing any more.
    PublishInSession {
        /// The row.
        row: Arc<OutboxRow>,
        /// Which session.
        session: u64,
        /// The receipt of an earlier event of its key in this session.
        after: Option<Receipt>,
    },
    /// Call [`OutboxStore::settle`](crate::OutboxStore::settle).
    Settle(Vec<Confirmed>),
    /// Call [`OutboxStore::reject`](crate::OutboxStore::reject).
    Reject(Rejection),
    /// Call [`OutboxStore::set_aside`](crate::OutboxStore::set_aside).
    SetAside {
        /// The lease of the lane's group.
        lease: Lease,
        /// The lane.
        lane: Lane,
        /// The rows.
        ids: Vec<i64>,
        /// What becomes of them behind a dead letter.
        later: LaterEvents,
    },
    /// Call [`OutboxStore::open_gate`](crate::OutboxStore::open_gate).
    OpenGate {
        /// The lease of the lane's group.
        lease: Lease,
        /// The lane.
        lane: Lane,
    },
    /// Call [`OutboxStore::record_suspects`](crate::OutboxStore::record_suspects).
    RecordSuspects(Vec<i64>),
    /// Call [`OutboxStore::leave`](crate::OutboxStore::leave).
    Leave,
}

/// See the [module](self).
///
/// Engines that are equal behave alike. Their hash leaves out what only [`stats`](Self::stats) and
/// [`is_idle`](Self::is_idle) know, so that a model checker that goes by it takes two engines for one if they go on
/// alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    settings: RelaySettings,
    /// So many events more are to be sent at most.
    left: Option<usize>,
    phase: Phase,
    hold: bool,
    groups: BTreeMap<GroupNo, Owned>,
    /// Rows in flight or not yet settled, by group, owned or not: what a release waits for.
    active: BTreeMap<GroupNo, usize>,
    rows: BTreeMap<i64, Arc<OutboxRow>>,
    bytes: usize,
    lanes: BTreeMap<Lane, LaneState>,
    /// Lanes that may publish their first row.
    ready: VecDeque<Lane>,
    /// Lanes that wait after an unknown outcome.
    delayed: BTreeSet<(Duration, Lane)>,
    gates: BTreeMap<Lane, Gate>,
    /// Lanes of which the read that is under way may bring later rows without the first: it was asked to leave out rows
    /// that were forgotten meanwhile, or it may be older than a gate.
    doubtful: BTreeSet<Lane>,
    pace: Pace,
    destinations: Destinations,
    sessions: Sessions,
    suspects: Suspects,
    broker_answers: bool,
    in_flight: usize,
    confirmed: Vec<Confirmed>,
    /// Until when few of them wait for more.
    settle_at: Duration,
    settling: Vec<Confirmed>,
    fenced: VecDeque<FencedChange>,
    fenced_busy: bool,
    /// When the first heartbeat was answered.
    first_answer: Option<Duration>,
    /// When the heartbeat was sent whose answer tells how many relays there are.
    counted: Option<Duration>,
    heartbeat_sent: Option<Duration>,
    heartbeat_failures: u32,
    next_heartbeat: Duration,
    reading: Option<ReadRequest>,
    /// The last read was one of parked rows.
    parked_last: bool,
    /// There may be something in the hot table that was not looked for yet.
    read_now: bool,
    /// The same of the side tables.
    read_parked_now: bool,
    next_read: Duration,
    next_read_parked: Duration,
    /// How long the next read of the hot table waits, if nothing happens.
    quiet: Duration,
    /// It is told of all commits.
    hears: bool,
    /// From when on a read may be for few rows although there is more in memory.
    top_up_at: Duration,
    promoting: bool,
    /// There may be scheduled events that are due, and nobody has looked yet.
    promote_now: bool,
    /// When the first that is known of is due.
    next_promotion: Option<Duration>,
    store_failures: u32,
    store_resumes: Duration,
    stats: RelayStats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Running,
    Stopping,
    GivingUp,
    Leaving,
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    epoch: i64,
    /// By our clock, counted from before the heartbeat was sent, less the margin: later nothing is published.
    valid_until: Duration,
    /// To be given to another relay as soon as nothing of it is in flight.
    releasing: bool,
    /// Its last owner may have been ended by one of its next events: by one of so many.
    watched: usize,
    /// And this is known of it.
    evidence: Evidence,
    /// A read of the hot table, and one of the side tables, have brought all that there was.
    looked_at: (bool, bool),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LaneState {
    group: GroupNo,
    /// What waits, in ascending order.
    queue: VecDeque<i64>,
    /// A row of it is with the broker, outside of a session, or being rejected.
    busy: bool,
    course: Course,
    /// Those up to this one go alone: they were not confirmed in a session.
    alone_up_to: Option<i64>,
    /// It stands in `ready`, in `delayed` or with a suspended destination.
    scheduled: bool,
    /// Confirmed rows that still stand in the table.
    unsettled: usize,
    /// Unknown outcomes in a row.
    doubts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum GateState {
    /// Its rows wait aside.
    Closed,
    /// It is due: its rows aside are sent, and those in the hot table still go aside.
    Draining,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Gate {
    group: GroupNo,
    state: GateState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum FencedChange {
    Reject(Rejection),
    SetAside { lane: Lane, ids: Vec<i64> },
    OpenGate(Lane),
}

impl Engine {
    /// An engine that owns nothing yet. Times are durations since any fixed moment.
    pub fn new(settings: RelaySettings) -> Self {
        let (pace, quiet) = (Pace::new(&settings), settings.poll_interval);
        Self {
            settings,
            left: None,
            phase: Phase::Running,
            hold: false,
            groups: BTreeMap::new(),
            active: BTreeMap::new(),
            rows: BTreeMap::new(),
            bytes: 0,
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            gates: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            pace,
            destinations: Destinations::default(),
            sessions: Sessions::default(),
            suspects: Suspects::default(),
            broker_answers: false,
            in_flight: 0,
            confirmed: Vec::new(),
            settle_at: Duration::ZERO,
            settling: Vec::new(),
            fenced: VecDeque::new(),
            fenced_busy: false,
            first_answer: None,
            counted: None,
            heartbeat_sent: None,
            heartbeat_failures: 0,
            next_heartbeat: Duration::ZERO,
            reading: None,
            parked_last: false,
            read_now: true,
            read_parked_now: true,
            next_read: Duration::ZERO,
            next_read_parked: Duration::ZERO,
            quiet,
            hears: false,
            top_up_at: Duration::ZERO,
            promoting: false,
            promote_now: true,
            next_promotion: None,
            store_failures: 0,
            store_resumes: Duration::ZERO,
            stats: RelayStats::default(),
        }
    }

    /// The same that sends so many events at most: it begins no more than are confirmed or may still be.
    #[must_use]
    pub fn with_limit(self, events: usize) -> Self {
        Self { left: Some(events), ..self }
    }

    /// Whether it has sent as many events as it was to.
    pub fn has_sent_all(&self) -> bool {
        self.left == Some(0)
    }

    /// Tells the engine what happened.
    pub fn step(&mut self, now: Duration, input: Input) {
        match input {
            Input::Heartbeat(answer) => self.on_heartbeat(now, answer),
            Input::Read(answer) => self.on_read(now, answer),
            Input::ReadParked(answer) => self.on_read_parked(now, answer),
            Input::Promoted(answer) => self.on_promoted(now, answer),
            Input::Published { id, outcome } => self.on_published(now, id, outcome),
            Input::Settled(answer) => self.on_settled(now, answer),
            Input::Rejected(answer) => self.on_rejected(now, answer),
            Input::SetAside(answer) => self.on_set_aside(now, answer),
            Input::GateOpened(answer) => self.on_gate_opened(now, answer),
            Input::SuspectsRecorded(answer) => self.on_suspects_recorded(now, answer),
            Input::BrokerAnswers => self.broker_answers = true,
            Input::Woken => self.on_woken(now),
            Input::Hears(hears) => self.on_hears(now, hears),
            Input::Stop => self.phase = self.phase.max(Phase::Stopping),
            Input::GiveUp => self.phase = self.phase.max(Phase::GivingUp),
            Input::Left => self.phase = Phase::Left,
        }
    }

    /// What to do now; call it until it says `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        match self.phase {
            Phase::Running => self
                .poll_heartbeat(now)
                .or_else(|| self.poll_publish(now))
                .or_else(|| self.poll_suspects(now))
                .or_else(|| self.poll_fenced(now))
                // Behind what is sent, for it waits for that.
                .or_else(|| self.poll_settle(now))
                .or_else(|| self.poll_promote(now))
                .or_else(|| self.poll_read(now)),
            Phase::Stopping | Phase::GivingUp => self
                .poll_suspects(now)
                .or_else(|| self.poll_fenced(now))
                .or_else(|| self.poll_settle(now))
                .or_else(|| self.poll_leave())
                .or_else(|| self.poll_heartbeat(now)),
            Phase::Leaving | Phase::Left => None,
        }
    }

    /// When [`poll`](Self::poll) has something to do although nothing happened.
    pub fn deadline(&self) -> Option<Duration> {
        if self.phase >= Phase::Leaving {
            return None;
        }
        let mut next = None::<Duration>;
        let mut consider = |at: Duration| next = Some(next.map_or(at, |next| next.min(at)));
        if self.heartbeat_sent.is_none() {
            consider(self.next_heartbeat);
        }
        if !self.confirmed.is_empty() && self.settling.is_empty() {
            consider(self.store_resumes.max(if self.waits_for_more() {
                self.settle_at
            } else {
                Duration::ZERO
            }));
        }
        if !self.fenced.is_empty() && !self.fenced_busy {
            consider(self.store_resumes);
        }
        if let Some(at) = self.suspects_deadline() {
            consider(at);
        }
        if self.phase == Phase::Running {
            if self.reading.is_none() && !self.groups.is_empty() && !self.hold {
                consider(self.next_read.max(self.store_resumes));
                consider(self.next_read_parked.max(self.store_resumes));
                if let Some(at) = self.next_promotion.filter(|_| !self.promoting) {
                    consider(at.max(self.store_resumes));
                }
            }
            if let Some((at, _)) = self.delayed.first() {
                consider(*at);
            }
            // With the window full, the next outcome comes first.
            if !self.hold && self.may_begin() && self.pace.has_room(self.in_flight) {
                if !self.ready.is_empty() || self.suspects_are_ready() {
                    consider(self.pace.resumes_at());
                }
                if let Some(at) = self.destinations.next() {
                    consider(at.max(self.pace.resumes_at()));
                }
            }
        }
        next
    }

    /// Whether it has left; there is nothing more to do.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Left
    }

    /// Whether nothing waits any more in the groups that fall to it: it has its fair share, the last reads found nothing,
    /// and everything is settled.
    ///
    /// A relay that died looks alive until its leases have expired; so where others seem to be alive, this becomes true
    /// with a heartbeat that was sent a lease after the first one was answered.
    pub fn is_idle(&self) -> bool {
        let alone = self.stats.relays <= 1;
        // One that died before our first heartbeat is not counted any more by one that was sent a lease later.
        let others_are_alive =
            self.first_answer.zip(self.counted).is_some_and(|(first, at)| at >= first + self.settings.lease);
        self.rows.is_empty()
            && self.fenced.is_empty()
            && !self.fenced_busy
            && self.reading.is_none()
            && !self.read_now
            && !self.read_parked_now
            && !self.promoting
            && !self.promote_now
            && self.groups.len() >= self.fair_share()
            && (alone || others_are_alive)
    }

    /// Counters since the start, and what is in memory now.
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            owned_groups: self.groups.len(),
            hold: self.hold,
            in_memory: self.rows.len(),
            in_flight: self.in_flight,
            closed_gates: self.gates.len(),
            suspended_destinations: self.destinations.len(),
            ..self.stats
        }
    }

    /// Whether this topic is suspended.
    pub fn is_suspended(&self, topic: &str) -> bool {
        self.destinations.is_suspended(topic)
    }

    fn store_answered<T>(&mut self, now: Duration, answer: Result<T, Failed>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.store_failures = 0;
                Some(answer)
            }
            Err(Failed) => {
                self.store_failures += 1;
                self.store_resumes = now + self.settings.backoff_after(self.store_failures);
                None
            }
        }
    }

    /// Who gives up tries once more, at once.
    fn may_write(&self, now: Duration) -> bool {
        now >= self.store_resumes || self.phase >= Phase::GivingUp
    }

    fn poll_leave(&mut self) -> Option<Action> {
        let waits_for_broker = self.in_flight > 0 && self.phase < Phase::GivingUp;
        let waits_for_store = self.heartbeat_sent.is_some()
            || self.reading.is_some()
            || self.promoting
            || self.suspects.is_telling()
            || self.fenced_busy
            || !self.fenced.is_empty()
            || !self.settling.is_empty()
            || !self.confirmed.is_empty();
        if waits_for_broker || waits_for_store {
            return None;
        }
        self.phase = Phase::Leaving;
        Some(Action::Leave)
    }
}
