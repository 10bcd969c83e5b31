use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::{Message, MessageId};
use uuid::Uuid;

use crate::row::{Confirmed, GroupNo, Lane, OrderUnit, OutboxRow, Place};
use crate::store::{
    Fenced, Heartbeat, LaterEvents, Lease, Ownership, Promoted, ReadRequest, Rejection, RelayId, Verdict,
};

/// The tables of an outbox, without a clock and without I/O: each method is one transaction. The simulation drives it
/// directly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryTables {
    order_unit: OrderUnit,
    next_id: i64,
    hot: BTreeMap<i64, OutboxRow>,
    /// By when they are due.
    scheduled: BTreeMap<(Duration, i64), OutboxRow>,
    parked: BTreeMap<i64, OutboxRow>,
    dead: BTreeMap<i64, DeadLetter>,
    gates: BTreeMap<Lane, GateRow>,
    leases: Vec<LeaseRow>,
    relays: BTreeMap<Uuid, RelayRow>,
    /// The first event with a deduplication key, and when its window is over.
    pub(super) dedup: BTreeMap<Bytes, (MessageId, Duration)>,
    /// The last version of a key.
    pub(super) versions: BTreeMap<Bytes, u64>,
}

/// An event that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scheduled {
    due: Duration,
    row: OutboxRow,
}

impl Scheduled {
    /// The event's id.
    pub fn event_id(&self) -> Uuid {
        self.row.event_id
    }

    /// What is to be sent.
    pub fn message(&self) -> &Message {
        &self.row.message
    }

    /// When, counted from when the outbox was made.
    pub fn due(&self) -> Duration {
        self.due
    }
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadLetter {
    /// The row as it was.
    pub row: OutboxRow,
    /// The last error.
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GateRow {
    /// When its rows may go; `None` is not before someone acts.
    until: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct LeaseRow {
    owner: Option<Uuid>,
    expires: Duration,
    epoch: i64,
    /// The last owner ended without a release; what it had recorded.
    dirty: Option<Vec<i64>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct RelayRow {
    seen: Duration,
    suspects: Vec<i64>,
}

impl LeaseRow {
    fn release(&mut self) {
        (self.owner, self.dirty) = (None, None);
    }
}

impl MemoryTables {
    /// Empty tables with so many groups.
    pub fn new(groups: usize) -> Self {
        Self {
            order_unit: OrderUnit::default(),
            next_id: 1,
            hot: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            parked: BTreeMap::new(),
            dead: BTreeMap::new(),
            gates: BTreeMap::new(),
            leases: vec![LeaseRow::default(); groups.max(1)],
            relays: BTreeMap::new(),
            dedup: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    /// What is in order of what is written from now on. `false`, and it stays as it is, if there are rows or leases.
    pub fn set_order_unit(&mut self, unit: OrderUnit) -> bool {
        let is_empty = self.waiting() == 0 && self.scheduled.is_empty() && self.dead.is_empty();
        let may_change = is_empty && self.leases.iter().all(|lease| lease.owner.is_none());
        if may_change {
            self.order_unit = unit;
        }
        may_change || self.order_unit == unit
    }

    /// Takes an id from the sequence: a transaction has its ids before it commits, and others may commit first.
    pub fn reserve_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The row of a message, under an id that was reserved.
    pub fn insert(&mut self, id: i64, message: Message) {
        let row = self.row(id, message);
        self.hot.insert(id, row);
    }

    /// The row of a message that is not to be sent before `due`, under an id that was reserved.
    pub fn schedule(&mut self, due: Duration, id: i64, message: Message) {
        let row = self.row(id, message);
        self.scheduled.insert((due, id), row);
    }

    /// The events that wait for their time, the next one first.
    pub fn scheduled(&self) -> Vec<Scheduled> {
        self.scheduled.iter().map(|((due, _), row)| Scheduled { due: *due, row: row.clone() }).collect()
    }

    /// Takes a scheduled event out; `None` if it is none.
    pub fn unschedule(&mut self, event: Uuid) -> Option<Scheduled> {
        let key = self.scheduled.iter().find(|(_, row)| row.event_id == event).map(|(key, _)| *key)?;
        self.scheduled.remove(&key).map(|row| Scheduled { due: key.0, row })
    }

    /// Puts a scheduled event back that was taken out.
    pub fn put_back(&mut self, scheduled: Scheduled) {
        let due = scheduled.due;
        self.reschedule(scheduled, due);
    }

    /// Puts a scheduled event back, for another time.
    pub fn reschedule(&mut self, scheduled: Scheduled, due: Duration) {
        self.scheduled.insert((due, scheduled.row.id), scheduled.row);
    }

    /// Forgets deduplication keys whose window is over; says how many.
    pub fn purge_dedup(&mut self, now: Duration) -> usize {
        let before = self.dedup.len();
        self.dedup.retain(|_, (_, expires)| *expires > now);
        before - self.dedup.len()
    }

    fn row(&self, id: i64, message: Message) -> OutboxRow {
        let event_id = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap_or_else(Uuid::now_v7);
        let lane = self.order_unit.lane(&message.topic, message.key.as_deref(), event_id);
        let mut hasher = DefaultHasher::new();
        lane.hash(&mut hasher);
        let group = GroupNo((hasher.finish() % self.leases.len() as u64) as i32);
        let size = message.size();
        OutboxRow { id, event_id, group, lane, attempts: 0, size, place: Place::Hot, defect: None, message }
    }

    /// How many events wait, those aside included.
    pub fn waiting(&self) -> usize {
        self.hot.len() + self.parked.len()
    }

    /// Whether an event waits under this id, here or aside.
    pub fn is_waiting(&self, id: i64) -> bool {
        self.hot.contains_key(&id) || self.parked.contains_key(&id)
    }

    /// Who holds the lease of a group, by incarnation, and its epoch; whether it has expired is not looked at.
    pub fn holder(&self, group: GroupNo) -> Option<(Uuid, i64)> {
        let lease = self.leases.get(usize::try_from(group.0).ok()?)?;
        lease.owner.map(|owner| (owner, lease.epoch))
    }

    /// Whether a gate will be due that is not due now.
    pub fn has_closed_gate(&self, now: Duration) -> bool {
        self.gates.values().any(|gate| gate.until.is_some_and(|until| until > now))
    }

    /// What waits aside for its time is due now; says of how many lanes.
    pub fn unpark(&mut self, now: Duration) -> usize {
        let waits = |gate: &&mut GateRow| gate.until.is_some_and(|until| until > now);
        self.gates.values_mut().filter(waits).map(|gate| gate.until = Some(now)).count()
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.dead.values().cloned().collect()
    }

    /// An operator wants this dead letter to be sent after all: it goes back behind the gate of its lane, with its attempts
    /// forgotten. The gate is due, unless it waits for another dead letter of the lane. `false` if it is no dead letter.
    pub fn replay(&mut self, now: Duration, event: Uuid) -> bool {
        let Some(row) = self.take_dead(event) else { return false };
        if !self.waits_for_dead(&row.lane) {
            self.gates.insert(row.lane.clone(), GateRow { until: Some(now) });
        }
        self.parked.insert(row.id, OutboxRow { attempts: 0, ..row });
        true
    }

    /// An operator gives this dead letter up: what waits behind it is due, unless it waits for another dead letter of the
    /// lane. `false` if it is no dead letter.
    pub fn discard(&mut self, now: Duration, event: Uuid) -> bool {
        let Some(row) = self.take_dead(event) else { return false };
        self.dedup.retain(|_, (first, _)| *first != MessageId::from(event));
        if !self.waits_for_dead(&row.lane)
            && let Some(gate) = self.gates.get_mut(&row.lane)
            && gate.until.is_none()
        {
            gate.until = Some(now);
        }
        true
    }

    /// Whether a lane waits until someone acts, and there is something to act on.
    fn waits_for_dead(&self, lane: &Lane) -> bool {
        self.gates.get(lane).is_some_and(|gate| gate.until.is_none())
            && self.dead.values().any(|letter| letter.row.lane == *lane)
    }

    fn take_dead(&mut self, event: Uuid) -> Option<OutboxRow> {
        let id = self.dead.values().find(|letter| letter.row.event_id == event)?.row.id;
        self.dead.remove(&id).map(|letter| letter.row)
    }

    /// See [`OutboxStore::heartbeat`](crate::OutboxStore::heartbeat).
    pub fn heartbeat(&mut self, now: Duration, relay: &RelayId, heartbeat: &Heartbeat) -> Ownership {
        let me = relay.incarnation;
        self.relays.entry(me).or_default().seen = now;
        let mut take = heartbeat.take;
        for (group, lease) in self.leases.iter_mut().enumerate() {
            if lease.owner == Some(me)
                && heartbeat.release.contains(&Lease { group: GroupNo(group as i32), epoch: lease.epoch })
            {
                lease.release();
            }
            let expired = lease.expires <= now || lease.expires > now + heartbeat.lease * 2;
            if lease.owner == Some(me) && !expired {
                lease.expires = now + heartbeat.lease;
            } else if take > 0 && (lease.owner.is_none() || expired) {
                if let Some(other) = lease.owner.filter(|owner| *owner != me) {
                    let other = self.relays.get(&other);
                    lease.dirty = Some(other.map(|other| other.suspects.clone()).unwrap_or_default());
                } else if let Some(suspects) = &mut lease.dirty {
                    // Of an earlier end, and it was told already.
                    suspects.clear();
                }
                (lease.owner, lease.expires) = (Some(me), now + heartbeat.lease);
                lease.epoch += 1;
                take -= 1;
            }
        }
        // What one that died has recorded is wanted until its groups are taken.
        self.relays.retain(|relay, row| {
            row.seen + heartbeat.lease > now || self.leases.iter().any(|lease| lease.owner == Some(*relay))
        });
        let parked = &self.parked;
        self.gates.retain(|lane, gate| {
            gate.until.is_none_or(|until| until > now) || parked.values().any(|row| row.lane == *lane)
        });
        let owned = |lease: &LeaseRow| lease.owner == Some(me) && lease.expires > now;
        let leases = || {
            let leases = self.leases.iter().enumerate().filter(|(_, lease)| owned(lease));
            leases.map(|(group, lease)| (GroupNo(group as i32), lease))
        };
        let is_ours = |row: &OutboxRow| leases().any(|(group, _)| group == row.group);
        let nothing_aside = self.gates.values().all(|gate| gate.until.is_none());
        let nothing_scheduled = !self.scheduled.values().any(is_ours);
        let dirty = leases().filter_map(|(group, lease)| Some((group, lease.dirty.clone()?)));
        Ownership {
            leases: leases().map(|(group, lease)| Lease { group, epoch: lease.epoch }).collect(),
            groups: self.leases.len(),
            relays: self.relays.values().filter(|relay| relay.seen + heartbeat.lease > now).count(),
            hold: false,
            nothing_aside,
            nothing_scheduled,
            dirty: dirty.collect(),
        }
    }

    /// See [`OutboxStore::read`](crate::OutboxStore::read).
    pub fn read(&self, request: &ReadRequest) -> Vec<OutboxRow> {
        let rows = self.hot.values().map(|row| {
            let place = if self.gates.contains_key(&row.lane) { Place::Gated } else { Place::Hot };
            OutboxRow { place, ..row.clone() }
        });
        select(rows, request)
    }

    /// See [`OutboxStore::read_parked`](crate::OutboxStore::read_parked).
    pub fn read_parked(&self, now: Duration, request: &ReadRequest) -> Vec<OutboxRow> {
        let due = |row: &&OutboxRow| {
            self.gates.get(&row.lane).is_some_and(|gate| gate.until.is_some_and(|until| until <= now))
        };
        select(self.parked.values().filter(due).cloned(), request)
    }

    /// See [`OutboxStore::settle`](crate::OutboxStore::settle).
    pub fn settle(&mut self, confirmed: &[Confirmed]) {
        for confirmed in confirmed {
            if self.hot.remove(&confirmed.id()).is_none() {
                self.parked.remove(&confirmed.id());
            }
        }
    }

    /// See [`OutboxStore::reject`](crate::OutboxStore::reject).
    pub fn reject(&mut self, now: Duration, rejection: &Rejection) -> Fenced<()> {
        if !self.owns(rejection.lease) {
            return Fenced::LeaseLost;
        }
        let row = self.hot.remove(&rejection.id).or_else(|| self.parked.remove(&rejection.id));
        let Some(mut row) = row else { return Fenced::Done(()) };
        row.attempts = rejection.attempts;
        row.place = Place::Parked;
        row.lane = rejection.lane.clone();
        let gate = |until| GateRow { until };
        match rejection.verdict {
            Verdict::Park { retry_in } => {
                self.gates.insert(row.lane.clone(), gate(Some(now + retry_in)));
                self.parked.insert(row.id, row);
            }
            Verdict::Bury { later } => {
                if later != LaterEvents::GoOn {
                    self.gates.insert(row.lane.clone(), gate(None));
                }
                self.dead.insert(row.id, DeadLetter { row, error: rejection.error.clone() });
                if later == LaterEvents::Follow {
                    self.follow(&rejection.lane, |_| true);
                }
            }
        }
        Fenced::Done(())
    }

    /// See [`OutboxStore::set_aside`](crate::OutboxStore::set_aside).
    pub fn set_aside(&mut self, lease: Lease, lane: &Lane, ids: &[i64], later: LaterEvents) -> Fenced<bool> {
        if !self.owns(lease) {
            return Fenced::LeaseLost;
        }
        let Some(gate) = self.gates.get(lane) else { return Fenced::Done(false) };
        let is_dead = gate.until.is_none();
        for id in ids {
            if let Some(row) = self.hot.remove(id) {
                self.parked.insert(*id, OutboxRow { place: Place::Parked, ..row });
            }
        }
        if is_dead && later == LaterEvents::Follow {
            // What somebody has replayed waits here for the others that are to go with it.
            self.follow(lane, |id| ids.contains(&id));
        }
        Fenced::Done(true)
    }

    /// What stands aside of a lane behind its first dead letter follows it. What stands before that one has been sent, and waits only to
    /// be settled.
    fn follow(&mut self, lane: &Lane, which: impl Fn(i64) -> bool) {
        let dead = &mut self.dead;
        let Some(first) = dead.values().find(|letter| letter.row.lane == *lane).map(|letter| letter.row.id)
        else {
            return;
        };
        self.parked.retain(|id, row| {
            let follows = row.lane == *lane && *id > first && which(*id);
            if follows {
                dead.insert(*id, DeadLetter { row: row.clone(), error: LaterEvents::FOLLOWS.to_owned() });
            }
            !follows
        });
    }

    /// See [`OutboxStore::open_gate`](crate::OutboxStore::open_gate).
    pub fn open_gate(&mut self, lease: Lease, lane: &Lane) -> Fenced<bool> {
        if !self.owns(lease) {
            return Fenced::LeaseLost;
        }
        let waits = self.gates.get(lane).is_some_and(|gate| gate.until.is_none());
        if waits || self.parked.values().any(|row| row.lane == *lane) {
            return Fenced::Done(false);
        }
        self.gates.remove(lane);
        Fenced::Done(true)
    }

    /// See [`OutboxStore::promote`](crate::OutboxStore::promote).
    pub fn promote(&mut self, now: Duration, leases: &[Lease], limit: usize) -> Promoted {
        let leases: Vec<Lease> = leases.iter().copied().filter(|lease| self.owns(*lease)).collect();
        let is_ours = |row: &OutboxRow| leases.iter().any(|lease| lease.group == row.group);
        let ours = self.scheduled.iter().filter(|(_, row)| is_ours(row)).map(|(key, _)| *key);
        let due: Vec<_> = ours.take_while(|(due, _)| *due <= now).take(limit).collect();
        for key in &due {
            if let Some(row) = self.scheduled.remove(key) {
                let id = self.reserve_id();
                self.hot.insert(id, OutboxRow { id, ..row });
            }
        }
        let next = self.scheduled.iter().find(|(_, row)| is_ours(row));
        Promoted { moved: due.len(), next_due: next.map(|((due, _), _)| due.saturating_sub(now)) }
    }

    /// See [`OutboxStore::record_suspects`](crate::OutboxStore::record_suspects).
    pub fn record_suspects(&mut self, relay: &RelayId, ids: &[i64]) {
        if let Some(row) = self.relays.get_mut(&relay.incarnation) {
            row.suspects = ids.to_vec();
        }
    }

    /// See [`OutboxStore::leave`](crate::OutboxStore::leave).
    pub fn leave(&mut self, relay: &RelayId) {
        self.relays.remove(&relay.incarnation);
        for lease in &mut self.leases {
            if lease.owner == Some(relay.incarnation) {
                lease.release();
            }
        }
    }

    /// Only the epoch counts: as long as nobody has taken the group, its last owner may go on.
    fn owns(&self, lease: Lease) -> bool {
        usize::try_from(lease.group.0)
            .ok()
            .and_then(|group| self.leases.get(group))
            .is_some_and(|row| row.epoch == lease.epoch)
    }
}

fn select(rows: impl Iterator<Item = OutboxRow>, request: &ReadRequest) -> Vec<OutboxRow> {
    let mut bytes = 0;
    rows.filter(|row| request.leases.iter().any(|lease| lease.group == row.group))
        .filter(|row| request.known.binary_search(&row.id).is_err())
        .take(request.limit)
        .take_while(|row| {
            let fits = bytes == 0 || bytes + row.size <= request.max_bytes;
            bytes += row.size;
            fits
        })
        .collect()
}
