//! The relay's engine: what to do next, without doing it. No I/O, no clock: [`Engine::step`] tells it what happened,
//! [`Engine::poll`] says what to do. The same engine is driven by the relay and by the simulation.
//!
//! # Why it keeps the order of a key
//!
//! Event *i + 1* of a lane is sent only after this engine has a receipt for event *i*, or when a read no longer contains
//! event *i*. Rows leave the table only by a receipt. So whoever sends *i + 1*, and whoever owns the group, *i* has been
//! with the broker before. No lease is needed for that: leases bound the duplicates. Only what cannot be taken back by
//! sending again (parking, burying, moving aside, opening a gate) is fenced by the lease's epoch.

mod pace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::time::Duration;

use cqrs_core::broker::{ErrorClass, Receipt};

use self::pace::{Destinations, Pace};
use crate::row::{Confirmed, GroupNo, Lane, OutboxRow, Place};
use crate::settings::RelaySettings;
use crate::stats::RelayStats;
use crate::store::{Fenced, Heartbeat, Lease, Ownership, ReadRequest, Rejection, Verdict};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The answer to [`Action::Heartbeat`].
    Heartbeat(Result<Ownership, Failed>),
    /// The answer to [`Action::Read`].
    Read(Result<Vec<OutboxRow>, Failed>),
    /// The answer to [`Action::ReadParked`].
    ReadParked(Result<Vec<OutboxRow>, Failed>),
    /// The answer to [`Action::Publish`].
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
    /// There may be something new to read.
    Woken,
    /// Finish what is in flight, then leave.
    Stop,
    /// Leave without waiting for what is in flight.
    GiveUp,
    /// The answer to [`Action::Leave`], whatever it was.
    Left,
}

/// The store failed; it was logged where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// The broker failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishFailure {
    /// What it means.
    pub class: ErrorClass,
    /// For those who read the dead letters.
    pub error: String,
}

/// What to do. Every action but [`Publish`](Self::Publish) is the only one of its kind until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Call [`OutboxStore::heartbeat`](crate::OutboxStore::heartbeat).
    Heartbeat(Heartbeat),
    /// Call [`OutboxStore::read`](crate::OutboxStore::read).
    Read(ReadRequest),
    /// Call [`OutboxStore::read_parked`](crate::OutboxStore::read_parked).
    ReadParked(ReadRequest),
    /// Publish the message of this row and wait for the confirm.
    Publish(Box<OutboxRow>),
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
    },
    /// Call [`OutboxStore::open_gate`](crate::OutboxStore::open_gate).
    OpenGate {
        /// The lease of the lane's group.
        lease: Lease,
        /// The lane.
        lane: Lane,
    },
    /// Call [`OutboxStore::leave`](crate::OutboxStore::leave).
    Leave,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Engine {
    settings: RelaySettings,
    phase: Phase,
    hold: bool,
    groups: BTreeMap<GroupNo, Owned>,
    /// Rows in flight or not yet settled, by group, owned or not: what a release waits for.
    active: BTreeMap<GroupNo, usize>,
    rows: BTreeMap<i64, OutboxRow>,
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
    in_flight: usize,
    confirmed: Vec<Confirmed>,
    settling: Vec<Confirmed>,
    fenced: VecDeque<FencedChange>,
    fenced_busy: bool,
    heartbeat_sent: Option<Duration>,
    next_heartbeat: Duration,
    reading: Option<ReadRequest>,
    read_now: bool,
    next_read: Duration,
    next_read_parked: Duration,
    store_failures: u32,
    store_resumes: Duration,
    stats: RelayStats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Stopping,
    GivingUp,
    Leaving,
    Left,
}

#[derive(Clone, Debug)]
struct Owned {
    epoch: i64,
    /// By our clock, counted from before the heartbeat was sent, less the margin: later nothing is published.
    valid_until: Duration,
    /// To be given to another relay as soon as nothing of it is in flight.
    releasing: bool,
}

#[derive(Clone, Debug)]
struct LaneState {
    group: GroupNo,
    /// What waits, in ascending order.
    queue: VecDeque<i64>,
    /// A row of it is with the broker or being rejected.
    busy: bool,
    /// It stands in `ready`, in `delayed` or with a suspended destination.
    scheduled: bool,
    /// Confirmed rows that still stand in the table.
    unsettled: usize,
    /// Unknown outcomes in a row.
    doubts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateState {
    /// Its rows wait aside.
    Closed,
    /// It is due: its rows aside are sent, and those in the hot table still go aside.
    Draining,
}

#[derive(Clone, Debug)]
struct Gate {
    group: GroupNo,
    state: GateState,
}

#[derive(Clone, Debug)]
enum FencedChange {
    Reject(Rejection),
    SetAside { lane: Lane, ids: Vec<i64> },
    OpenGate(Lane),
}

impl Engine {
    /// An engine that owns nothing yet. Times are durations since any fixed moment.
    pub fn new(settings: RelaySettings) -> Self {
        let pace = Pace::new(&settings);
        Self {
            settings,
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
            in_flight: 0,
            confirmed: Vec::new(),
            settling: Vec::new(),
            fenced: VecDeque::new(),
            fenced_busy: false,
            heartbeat_sent: None,
            next_heartbeat: Duration::ZERO,
            reading: None,
            read_now: true,
            next_read: Duration::ZERO,
            next_read_parked: Duration::ZERO,
            store_failures: 0,
            store_resumes: Duration::ZERO,
            stats: RelayStats::default(),
        }
    }

    /// Tells the engine what happened.
    pub fn step(&mut self, now: Duration, input: Input) {
        match input {
            Input::Heartbeat(answer) => self.on_heartbeat(now, answer),
            Input::Read(answer) => self.on_read(now, answer),
            Input::ReadParked(answer) => self.on_read_parked(now, answer),
            Input::Published { id, outcome } => self.on_published(now, id, outcome),
            Input::Settled(answer) => self.on_settled(now, answer),
            Input::Rejected(answer) => self.on_rejected(now, answer),
            Input::SetAside(answer) => self.on_set_aside(now, answer),
            Input::GateOpened(answer) => self.on_gate_opened(now, answer),
            Input::Woken => self.read_now = true,
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
                .or_else(|| self.poll_fenced(now))
                .or_else(|| self.poll_settle(now))
                .or_else(|| self.poll_publish(now))
                .or_else(|| self.poll_read(now)),
            Phase::Stopping | Phase::GivingUp => self
                .poll_fenced(now)
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
        let store_waits = !self.confirmed.is_empty() || !self.fenced.is_empty();
        if store_waits && self.settling.is_empty() && !self.fenced_busy {
            consider(self.store_resumes);
        }
        if self.phase == Phase::Running {
            if self.reading.is_none() && !self.groups.is_empty() && !self.hold {
                consider(self.next_read.max(self.store_resumes));
                consider(self.next_read_parked.max(self.store_resumes));
            }
            if let Some((at, _)) = self.delayed.first() {
                consider(*at);
            }
            // With the window full, the next outcome comes first.
            if !self.hold && self.pace.has_room(self.in_flight) {
                if !self.ready.is_empty() {
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

    /// Whether nothing is left that it knows of: the last read found nothing and everything is settled.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty()
            && self.fenced.is_empty()
            && !self.fenced_busy
            && self.reading.is_none()
            && !self.read_now
            && self.stats.reads > 0
    }

    /// Counters since the start, and what is in memory now.
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            owned_groups: self.groups.len(),
            in_memory: self.rows.len(),
            in_flight: self.in_flight,
            closed_gates: self.gates.len(),
            suspended_destinations: self.destinations.len(),
            ..self.stats
        }
    }

    // --- leases ---

    fn poll_heartbeat(&mut self, now: Duration) -> Option<Action> {
        if self.heartbeat_sent.is_some() {
            return None;
        }
        let release: Vec<GroupNo> = self
            .groups
            .iter()
            .filter(|(group, owned)| owned.releasing && !self.active.contains_key(group))
            .map(|(group, _)| *group)
            .collect();
        if now < self.next_heartbeat && release.is_empty() {
            return None;
        }
        for group in &release {
            self.lose(*group);
        }
        let take = if self.phase == Phase::Running {
            // All of them, until the first answer tells how many relays there are.
            match self.stats.groups {
                0 => usize::MAX,
                _ => self.fair_share().saturating_sub(self.groups.len()),
            }
        } else {
            0
        };
        self.heartbeat_sent = Some(now);
        Some(Action::Heartbeat(Heartbeat { lease: self.settings.lease, take, release }))
    }

    fn fair_share(&self) -> usize {
        self.stats.groups.div_ceil(self.stats.relays.max(1))
    }

    fn on_heartbeat(&mut self, now: Duration, answer: Result<Ownership, Failed>) {
        let sent = self.heartbeat_sent.take().unwrap_or(now);
        let Ok(ownership) = answer else {
            self.next_heartbeat = now + self.settings.backoff.min(self.settings.heartbeat_interval);
            return;
        };
        self.next_heartbeat = sent + self.settings.heartbeat_interval;
        self.hold = ownership.hold;
        self.stats.groups = ownership.groups;
        self.stats.relays = ownership.relays;
        let valid_until = sent + self.settings.lease.saturating_sub(self.settings.lease_margin);
        let answered: BTreeMap<GroupNo, i64> =
            ownership.leases.iter().map(|lease| (lease.group, lease.epoch)).collect();
        let lost: Vec<GroupNo> = self
            .groups
            .iter()
            .filter(|(group, owned)| answered.get(group) != Some(&owned.epoch))
            .map(|(group, _)| *group)
            .collect();
        for group in lost {
            self.lose(group);
        }
        let excess = answered.len().saturating_sub(self.fair_share());
        for (nth, (group, epoch)) in answered.iter().rev().enumerate() {
            let releasing = nth < excess;
            let owned = Owned { epoch: *epoch, valid_until, releasing };
            self.read_now |= self.groups.insert(*group, owned).is_none();
            if releasing {
                self.forget_waiting(|lane| lane.group == *group);
            }
        }
        // Lanes whose lease had run out, or that were held, go on.
        let idle: Vec<Lane> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.may_be_scheduled())
            .map(|(lane, _)| lane.clone())
            .collect();
        for lane in idle {
            self.schedule(&lane);
        }
        self.next_read_parked = now;
    }

    /// Another relay may own the group from now on. What is in flight stays until its outcome is known: a receipt
    /// is as good as before, anything else is the new owner's to find out.
    fn lose(&mut self, group: GroupNo) {
        self.groups.remove(&group);
        self.forget_waiting(|lane| lane.group == group);
        let gated = self.gates.iter().filter(|(_, gate)| gate.group == group);
        let gated: Vec<Lane> = gated.map(|(lane, _)| lane.clone()).collect();
        for lane in gated {
            self.forget_gate(&lane);
        }
    }

    fn lease(&self, group: GroupNo) -> Option<Lease> {
        self.groups.get(&group).map(|owned| Lease { group, epoch: owned.epoch })
    }

    fn may_publish(&self, group: GroupNo, now: Duration) -> bool {
        self.groups.get(&group).is_some_and(|owned| !owned.releasing && now < owned.valid_until)
    }

    fn activate(&mut self, group: GroupNo) {
        *self.active.entry(group).or_default() += 1;
    }

    fn deactivate(&mut self, group: GroupNo) {
        if let Some(active) = self.active.get_mut(&group) {
            *active -= 1;
            if *active == 0 {
                self.active.remove(&group);
            }
        }
    }

    // --- lanes ---

    fn schedule(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane)
            && state.may_be_scheduled()
        {
            state.scheduled = true;
            self.ready.push_back(lane.clone());
        }
    }

    fn forget(&mut self, id: i64) {
        if let Some(row) = self.rows.remove(&id) {
            self.bytes -= row.size;
        }
    }

    /// Forgets the rows that wait in these lanes; a later read brings them again.
    fn forget_waiting(&mut self, which: impl Fn(&LaneState) -> bool) {
        let lanes: Vec<Lane> =
            self.lanes.iter().filter(|(_, state)| which(state)).map(|(lane, _)| lane.clone()).collect();
        for lane in lanes {
            self.forget_lane(&lane);
        }
    }

    fn forget_lane(&mut self, lane: &Lane) {
        let queue = self.lanes.get_mut(lane).map(|state| mem::take(&mut state.queue)).unwrap_or_default();
        self.forget_unsent(lane, queue);
        self.drop_if_over(lane);
    }

    /// Forgets rows that still have to be sent. A read that is under way was told to leave them out.
    fn forget_unsent(&mut self, lane: &Lane, ids: impl IntoIterator<Item = i64>) {
        ids.into_iter().for_each(|id| self.forget(id));
        self.doubtful.insert(lane.clone());
    }

    fn drop_if_over(&mut self, lane: &Lane) {
        if self.lanes.get(lane).is_some_and(LaneState::is_over) {
            self.lanes.remove(lane);
        }
    }

    /// Without its gate, what was to be moved aside has to be read again before anything else of the lane.
    fn forget_gate(&mut self, lane: &Lane) {
        self.gates.remove(lane);
        let mut held = Vec::new();
        for change in &mut self.fenced {
            // It stays in its place in the queue: it may be under way.
            if let FencedChange::SetAside { lane: of, ids } = change
                && of == lane
            {
                held.append(ids);
            }
        }
        self.forget_unsent(lane, held);
    }

    /// A lane has no row with the broker any more: it goes on, or its gate may open.
    fn go_on(&mut self, lane: &Lane) {
        self.schedule(lane);
        let drained = self.lanes.get(lane).is_none_or(LaneState::is_drained);
        if drained && self.gates.get(lane).is_some_and(|gate| gate.state == GateState::Draining) {
            let waits = self
                .fenced
                .iter()
                .any(|change| matches!(change, FencedChange::OpenGate(known) if known == lane));
            if !waits {
                self.fenced.push_back(FencedChange::OpenGate(lane.clone()));
            }
        }
        self.drop_if_over(lane);
    }

    // --- reading ---

    fn poll_read(&mut self, now: Duration) -> Option<Action> {
        if self.reading.is_some() || self.hold || now < self.store_resumes {
            return None;
        }
        let leases: Vec<Lease> = self
            .groups
            .iter()
            .filter(|(_, owned)| !owned.releasing && now < owned.valid_until)
            .map(|(group, owned)| Lease { group: *group, epoch: owned.epoch })
            .collect();
        let room = self.settings.max_rows.saturating_sub(self.rows.len());
        let enough = self.settings.batch.min((self.settings.max_rows / 8).max(1));
        let bytes = self.settings.max_bytes.saturating_sub(self.bytes);
        let enough_bytes = (self.settings.max_bytes / 8).max(1);
        if leases.is_empty() || room < enough || bytes < enough_bytes {
            // Asked again when there is room, or with the next heartbeat.
            self.next_read = now + self.settings.poll_interval;
            self.next_read_parked = self.next_read;
            return None;
        }
        let parked = now >= self.next_read_parked;
        if !parked && !self.read_now && now < self.next_read {
            return None;
        }
        self.doubtful.clear();
        let request = ReadRequest {
            leases,
            known: self.rows.keys().copied().collect(),
            limit: room.min(self.settings.batch),
            max_bytes: bytes,
        };
        self.reading = Some(request.clone());
        if parked {
            // Their gate may be due still, but it is about to close.
            let closing = self.fenced.iter().filter_map(FencedChange::closes);
            self.doubtful.extend(closing.cloned());
            self.next_read_parked = now + self.settings.heartbeat_interval;
            Some(Action::ReadParked(request))
        } else {
            self.read_now = false;
            self.next_read = now + self.settings.poll_interval;
            Some(Action::Read(request))
        }
    }

    fn on_read(&mut self, now: Duration, answer: Result<Vec<OutboxRow>, Failed>) {
        let request = self.reading.take();
        let (Some(rows), Some(request)) = (self.store_answered(now, answer), request) else {
            self.read_now = true;
            return;
        };
        self.stats.reads += 1;
        self.read_now |= may_have_more(&rows, &request);
        let mut aside = BTreeMap::<Lane, Vec<i64>>::new();
        for row in rows {
            if !self.is_wanted(&row, &request) {
                continue;
            }
            if self.doubtful.contains(&row.lane) {
                self.read_now = true;
                continue;
            }
            if row.place == Place::Gated {
                let closed = Gate { group: row.group, state: GateState::Closed };
                self.gates.entry(row.lane.clone()).or_insert(closed);
            }
            // The gate may have closed after the read began.
            if self.gates.contains_key(&row.lane) {
                aside.entry(row.lane.clone()).or_default().push(row.id);
                self.hold_row(row);
            } else {
                self.enqueue(row);
            }
        }
        for (lane, ids) in aside {
            self.fenced.push_back(FencedChange::SetAside { lane, ids });
        }
    }

    fn on_read_parked(&mut self, now: Duration, answer: Result<Vec<OutboxRow>, Failed>) {
        let request = self.reading.take();
        let (Some(rows), Some(request)) = (self.store_answered(now, answer), request) else {
            self.next_read_parked = now;
            return;
        };
        if may_have_more(&rows, &request) {
            self.next_read_parked = now;
        }
        for row in rows {
            if !self.is_wanted(&row, &request) {
                continue;
            }
            if self.doubtful.contains(&row.lane) {
                self.next_read_parked = self.next_read_parked.min(now + self.settings.poll_interval);
                continue;
            }
            self.gates.insert(row.lane.clone(), Gate { group: row.group, state: GateState::Draining });
            self.enqueue(row);
        }
    }

    /// Not in memory yet, and read under the lease that its group has now: between two leases another relay may have
    /// sent it, and what this one knew of the lane was forgotten.
    fn is_wanted(&self, row: &OutboxRow, request: &ReadRequest) -> bool {
        let same_lease = self.lease(row.group).is_some_and(|lease| request.leases.contains(&lease));
        same_lease && !self.rows.contains_key(&row.id)
    }

    fn hold_row(&mut self, row: OutboxRow) {
        self.bytes += row.size;
        self.rows.insert(row.id, row);
    }

    fn enqueue(&mut self, row: OutboxRow) {
        let (id, lane) = (row.id, row.lane.clone());
        let state = self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(row.group));
        state.insert(id);
        self.hold_row(row);
        self.schedule(&lane);
    }

    // --- publishing ---

    fn poll_publish(&mut self, now: Duration) -> Option<Action> {
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
        {
            if let Some((_, lane)) = self.delayed.pop_first() {
                self.ready.push_back(lane);
            }
        }
        if self.hold || !self.pace.allows(now, self.in_flight) {
            return None;
        }
        loop {
            if self.ready.is_empty() {
                self.ready.extend(self.destinations.due(now));
            }
            let lane = self.ready.pop_front()?;
            let Some(state) = self.lanes.get_mut(&lane) else { continue };
            state.scheduled = false;
            let (group, head) = (state.group, state.queue.front().copied());
            let Some(row) = head.and_then(|id| self.rows.get(&id)) else {
                self.drop_if_over(&lane);
                continue;
            };
            // Without a valid lease the lane rests until the next heartbeat.
            if !self.may_publish(group, now) {
                continue;
            }
            let admitted = self.destinations.admit(&row.message.topic, &lane, now);
            let row = row.clone();
            if let Some(state) = self.lanes.get_mut(&lane) {
                if admitted {
                    state.queue.pop_front();
                    state.busy = true;
                } else {
                    state.scheduled = true;
                    continue;
                }
            }
            self.in_flight += 1;
            self.activate(group);
            self.stats.published += 1;
            return Some(Action::Publish(Box::new(row)));
        }
    }

    fn on_published(&mut self, now: Duration, id: i64, outcome: Result<Receipt, PublishFailure>) {
        let Some(row) = self.rows.get(&id).cloned() else { return };
        self.in_flight -= 1;
        match outcome {
            Ok(receipt) => self.on_receipt(&row, receipt),
            Err(failure) => self.on_failure(now, row, failure),
        }
    }

    fn on_receipt(&mut self, row: &OutboxRow, receipt: Receipt) {
        self.stats.confirmed += 1;
        self.pace.success();
        self.confirmed.push(Confirmed::new(row, receipt));
        for lane in self.destinations.heal(&row.message.topic) {
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.scheduled = false;
            }
            self.schedule(&lane);
            self.drop_if_over(&lane);
        }
        if let Some(lane) = self.lanes.get_mut(&row.lane) {
            lane.busy = false;
            lane.doubts = 0;
            lane.unsettled += 1;
        }
        self.go_on(&row.lane);
    }

    fn on_failure(&mut self, now: Duration, row: OutboxRow, failure: PublishFailure) {
        self.stats.count_failure(failure.class);
        let lease = self.lease(row.group);
        if failure.class == ErrorClass::Event && lease.is_some() {
            self.destinations.undecided(&row.message.topic);
            self.refuse(row, lease, failure.error);
            return;
        }
        self.deactivate(row.group);
        let Some(lane) = self.lanes.get_mut(&row.lane) else { return };
        lane.busy = false;
        if lease.is_none() {
            // The new owner finds out.
            self.forget_unsent(&row.lane, [row.id]);
            self.destinations.undecided(&row.message.topic);
            self.drop_if_over(&row.lane);
            return;
        }
        lane.insert(row.id);
        match failure.class {
            ErrorClass::Destination => {
                lane.scheduled = true;
                self.destinations.suspend(&row.message.topic, &row.lane, now, &self.settings);
            }
            ErrorClass::Unknown => {
                lane.scheduled = true;
                lane.doubts += 1;
                let at = now + self.settings.backoff_after(lane.doubts);
                self.delayed.insert((at, row.lane));
                self.pace.doubt();
                self.destinations.undecided(&row.message.topic);
            }
            // An outage, a client beyond repair, and what future classes may be: nothing goes until a probe went.
            _ => {
                self.pace.outage(now, &self.settings);
                self.destinations.undecided(&row.message.topic);
                self.schedule(&row.lane);
            }
        }
    }

    /// The lane stays busy until the rejection is written.
    fn refuse(&mut self, row: OutboxRow, lease: Option<Lease>, error: String) {
        let Some(lease) = lease else { return };
        let attempts = row.attempts + 1;
        let verdict = if attempts < self.settings.max_attempts {
            Verdict::Park { retry_in: self.settings.backoff_after(attempts) }
        } else {
            Verdict::Bury { lane_waits: self.settings.lane_waits_for_dead_letter }
        };
        if verdict != (Verdict::Bury { lane_waits: false }) {
            // Closed at once: a read that is under way must not let the rows behind it pass.
            self.gates.insert(row.lane.clone(), Gate { group: row.group, state: GateState::Closed });
            self.forget_lane(&row.lane);
        }
        self.fenced.push_back(FencedChange::Reject(Rejection {
            lease,
            id: row.id,
            lane: row.lane,
            error,
            verdict,
        }));
    }

    // --- settling ---

    fn poll_settle(&mut self, now: Duration) -> Option<Action> {
        if self.confirmed.is_empty() || !self.settling.is_empty() || !self.may_write(now) {
            return None;
        }
        self.settling = mem::take(&mut self.confirmed);
        Some(Action::Settle(self.settling.clone()))
    }

    fn on_settled(&mut self, now: Duration, answer: Result<(), Failed>) {
        let settled = mem::take(&mut self.settling);
        if self.store_answered(now, answer).is_none() {
            if self.phase < Phase::GivingUp {
                // Behind what was confirmed meanwhile: their order is of no consequence.
                self.confirmed.extend(settled);
            }
            return;
        }
        self.stats.settled += settled.len() as u64;
        for confirmed in settled {
            let Some(row) = self.rows.get(&confirmed.id()) else { continue };
            let (group, lane) = (row.group, row.lane.clone());
            self.forget(confirmed.id());
            self.deactivate(group);
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.unsettled -= 1;
            }
            self.go_on(&lane);
        }
    }

    // --- what only the owner may do ---

    fn poll_fenced(&mut self, now: Duration) -> Option<Action> {
        if self.fenced_busy || !self.may_write(now) {
            return None;
        }
        while let Some(change) = self.fenced.front() {
            let (lane, group) = match change {
                FencedChange::Reject(rejection) => (&rejection.lane, Some(rejection.lease.group)),
                FencedChange::SetAside { lane, .. } | FencedChange::OpenGate(lane) => {
                    (lane, self.gates.get(lane).map(|gate| gate.group))
                }
            };
            let lease = group.and_then(|group| self.lease(group));
            let action = match (change, lease) {
                (FencedChange::Reject(rejection), Some(lease)) if lease == rejection.lease => {
                    Some(Action::Reject(rejection.clone()))
                }
                (FencedChange::SetAside { ids, .. }, Some(lease)) if !ids.is_empty() => {
                    Some(Action::SetAside { lease, lane: lane.clone(), ids: ids.clone() })
                }
                (FencedChange::OpenGate(_), Some(lease)) if self.is_drained(lane) => {
                    Some(Action::OpenGate { lease, lane: lane.clone() })
                }
                _ => None,
            };
            if action.is_some() {
                self.fenced_busy = true;
                return action;
            }
            // Not ours any more, or no longer wanted.
            self.give_up_fenced();
        }
        None
    }

    fn is_drained(&self, lane: &Lane) -> bool {
        self.gates.get(lane).is_some_and(|gate| gate.state == GateState::Draining)
            && self.lanes.get(lane).is_none_or(LaneState::is_drained)
    }

    /// Drops the first change and what it held in memory; a later read brings it again, to whoever owns it.
    fn give_up_fenced(&mut self) {
        match self.fenced.pop_front() {
            Some(FencedChange::Reject(rejection)) => self.give_up_rejection(&rejection),
            Some(FencedChange::SetAside { lane, ids }) => self.forget_unsent(&lane, ids),
            Some(FencedChange::OpenGate(_)) | None => {}
        }
    }

    /// The answer to the change at the front; `None` means that the store failed, and it is tried again.
    fn fenced_answered<T>(&mut self, now: Duration, answer: Result<Fenced<T>, Failed>) -> Option<Fenced<T>> {
        self.fenced_busy = false;
        let answer = self.store_answered(now, answer);
        if answer.is_none() && self.phase >= Phase::GivingUp {
            self.fenced.clear();
        }
        answer
    }

    fn end_rejection(&mut self, rejection: &Rejection) {
        self.forget(rejection.id);
        self.deactivate(rejection.lease.group);
        if let Some(lane) = self.lanes.get_mut(&rejection.lane) {
            lane.busy = false;
        }
        self.go_on(&rejection.lane);
    }

    /// The row still stands where it stood, so nothing of its lane may pass it.
    fn give_up_rejection(&mut self, rejection: &Rejection) {
        self.forget_unsent(&rejection.lane, [rejection.id]);
        self.forget_lane(&rejection.lane);
        self.end_rejection(rejection);
    }

    fn on_rejected(&mut self, now: Duration, answer: Result<Fenced<()>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::Reject(rejection)) = self.fenced.pop_front() else { return };
        match (answer, rejection.verdict) {
            (Fenced::LeaseLost, _) => {
                if self.lease(rejection.lease.group) == Some(rejection.lease) {
                    self.lose(rejection.lease.group);
                }
                self.give_up_rejection(&rejection);
                return;
            }
            (Fenced::Done(()), Verdict::Park { retry_in }) => {
                self.stats.parked += 1;
                self.next_read_parked = self.next_read_parked.min(now + retry_in);
            }
            (Fenced::Done(()), Verdict::Bury { .. }) => self.stats.dead_lettered += 1,
        }
        self.end_rejection(&rejection);
    }

    fn on_set_aside(&mut self, now: Duration, answer: Result<Fenced<bool>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::SetAside { lane, ids }) = self.fenced.pop_front() else { return };
        self.forget_unsent(&lane, ids);
        match answer {
            Fenced::Done(true) => {}
            Fenced::Done(false) => {
                // The read was older than the opening of the gate.
                self.forget_gate(&lane);
                self.read_now = true;
            }
            Fenced::LeaseLost => {
                if let Some(gate) = self.gates.get(&lane) {
                    self.lose(gate.group);
                }
            }
        }
    }

    fn on_gate_opened(&mut self, now: Duration, answer: Result<Fenced<bool>, Failed>) {
        let Some(answer) = self.fenced_answered(now, answer) else { return };
        let Some(FencedChange::OpenGate(lane)) = self.fenced.pop_front() else { return };
        match answer {
            Fenced::Done(true) => {
                self.forget_gate(&lane);
                self.read_now = true;
            }
            Fenced::Done(false) => self.next_read_parked = now,
            Fenced::LeaseLost => {
                if let Some(gate) = self.gates.get(&lane) {
                    self.lose(gate.group);
                }
            }
        }
    }

    // --- the store, and the end ---

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

impl FencedChange {
    /// The lane whose gate it closes.
    fn closes(&self) -> Option<&Lane> {
        match self {
            Self::Reject(rejection) if rejection.verdict != (Verdict::Bury { lane_waits: false }) => {
                Some(&rejection.lane)
            }
            _ => None,
        }
    }
}

/// Whether there was no room for more in the answer, as far as one can tell.
fn may_have_more(rows: &[OutboxRow], request: &ReadRequest) -> bool {
    let bytes: usize = rows.iter().map(|row| row.size).sum();
    rows.len() >= request.limit || bytes * 2 >= request.max_bytes
}

impl LaneState {
    fn new(group: GroupNo) -> Self {
        Self { group, queue: VecDeque::new(), busy: false, scheduled: false, unsettled: 0, doubts: 0 }
    }

    fn insert(&mut self, id: i64) {
        let at = self.queue.partition_point(|known| *known < id);
        self.queue.insert(at, id);
    }

    fn may_be_scheduled(&self) -> bool {
        !self.busy && !self.scheduled && !self.queue.is_empty()
    }

    /// Everything of it that is in memory has been sent and settled.
    fn is_drained(&self) -> bool {
        self.queue.is_empty() && !self.busy && self.unsettled == 0
    }

    /// Nothing refers to it.
    fn is_over(&self) -> bool {
        self.is_drained() && !self.scheduled
    }
}
