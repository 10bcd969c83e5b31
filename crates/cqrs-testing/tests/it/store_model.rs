//! A model of a store, whose ids are given when a row is written, with a fault of the asked-for kind.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cqrs_consumer::Inbox;
use cqrs_core::codec::Json;
use cqrs_core::{
    AddOutcome, Added, AddedEvent, BeginTransaction, Codec, Database, Deliver, Encoder, Headers, Message,
    MessageId, Outgoing, Result, ScheduleChange, Transaction, VersionConflict,
};
use cqrs_outbox::{
    Confirmed, Fenced, GroupNo, Heartbeat, Kept, Lane, LaterEvents, Lease, OrderUnit, OutboxRow, OutboxStore,
    Ownership, Place, Promoted, ReadRequest, Rejection, RelayId, StoreError, SuspendedTopic, Verdict,
};
use cqrs_testing::store::{Asked, DeadLetter, Oldest, Request, StoreUnderTest};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None: the model passes.
    None,
    ShowsUncommitted,
    CommitsRollback,
    CommitsDropped,
    WritesBackwards,
    /// Whatever is below the highest id that was ever read is taken for done.
    ReadsFromCursor,
    SqlRowChanges,
    SqlRowHasNoHeaders,
    SqlRowLosesHeaders,
    LosesOneIn(i64),
    ReadsBackwards,
    ReadsKnown,
    IgnoresLimit,
    IgnoresBytes,
    BringsNothingTooLarge,
    IgnoresLeases,
    IgnoresLeasesOfParked,
    SettlesLanes,
    SettlesOnlyHot,
    SettlesOnlyWhereItWas,
    SettleNeedsRow,
    DropsMicros,
    DropsName,
    DropsRepeatedHeaders,
    SortsHeaders,
    EmptyKeyIsNone,
    KeysAreText,
    TombstoneIsEmpty,
    TrimsPayload,
    ParkingLosesHeaders,
    SecondReadDiffers,
    LanesFoldCase,
    LanesTrim,
    LanesAreText,
    OneLaneWithoutKey,
    TopicsAreApart,
    TopicsAreOne,
    UnparksNothing,
    UnparkOpensGates,
    TakesTooMany,
    TakesOwned,
    ReleasesForOthers,
    KeepsReleased,
    ReleasesLaterLeases,
    ForgetsSuspects,
    KeepsOldSuspects,
    SuspectsTheLate,
    SuspectsAgain,
    SuspectsAfterRelease,
    RecordsOfTheGone,
    EpochStays,
    EpochStaysAfterExpiry,
    NeverRenews,
    NeverExpires,
    RevivesExpired,
    TrustsFarExpiry,
    ExpiresAnyOther,
    NeverForgetsRelays,
    CountsOwnersOnly,
    LeaveKeepsGroups,
    LeaveKeepsRelay,
    LeaveFreesAll,
    OwnerByName,
    UnfencedPark,
    UnfencedBury,
    UnfencedSetAside,
    UnfencedOpenGate,
    ParksWithoutGate,
    GatesEverything,
    GateForRowThatIsGone,
    SetsAsideAnyway,
    SetsAsideLane,
    SettingAsideCounts,
    DueAtOnce,
    DueNever,
    AgainKeepsGate,
    ParkedBackwards,
    ParkedLastFirst,
    ParkedIgnoresBytes,
    ParkedReadsKnown,
    /// Looks behind no more gates than rows are asked for, whatever stands there.
    ParkedFirstGates,
    OpensAnyway,
    OpensWaitingGate,
    NeverOpens,
    OpensAllGates,
    ForgetsAttempts,
    CountsRefusalsTwice,
    KeepsFirstError,
    BuryDrops,
    BuryAlwaysGates,
    BuryNeverGates,
    BuryGateIsDue,
    BuryLeavesFollowers,
    SetAsideNeverFollows,
    FollowsTheParked,
    FollowsTheSent,
    FollowsTheReplayed,
    RejectsByKey,
    SeesNothingAside,
    SeesNothingScheduled,
    ReplaysToTheEnd,
    ReplaysAsAsked,
    ReplayOpensGate,
    ReplayKeepsAttempts,
    ReplayKeepsDead,
    RequestsAreNeverDone,
    RequestsAnything,
    DiscardKeepsGate,
    DiscardOpensGate,
    DiscardKeepsDead,
    AgeStandsStill,
    AgeOfTheSent,
    AgeForgetsAside,
    IgnoresDedup,
    DedupNamesItself,
    DedupForgetsRollback,
    DedupWithoutWaiting,
    DedupForEver,
    DedupTakesOverForNothing,
    DedupFoldsCase,
    DedupTrims,
    DedupIsText,
    CancelKeepsKey,
    DiscardKeepsKey,
    ReplayFreesKey,
    CancelFreesAtOnce,
    CancelFreesWithoutWaiting,
    CancelFreesWhatIsSent,
    RescheduleFreesKey,
    IgnoresVersions,
    AllowsEqualVersion,
    ComparesFirstVersionOnly,
    VersionOfDuplicate,
    ConflictWritesRest,
    ConflictKeepsDedup,
    ConflictNamesItself,
    VersionWithoutWaiting,
    VersionForgetsRollback,
    IgnoresLock,
    LocksAllKeys,
    LocksTwice,
    IgnoresTime,
    SchedulesPast,
    PromotesEarly,
    PromotesLate,
    PromotesUnderOldId,
    PromotesBackwards,
    PromotesById,
    IgnoresPromoteLimit,
    KnowsNoNextDue,
    UnfencedPromote,
    PromotesAllGroups,
    NextDueOfAllGroups,
    IgnoresCancel,
    CancelsAtOnce,
    MovesAtOnce,
    IgnoresReschedule,
    AlwaysDone,
    ChangesCommittedOnly,
    PurgesWhatWaits,
    PurgesWhatWaitsAside,
    PurgesDeadLetters,
    PurgesAllKeys,
    AdmitsAll,
    AdmitsWithoutWaiting,
    RefusesWithoutWaiting,
    KeepsRolledBackIds,
    IdsFoldCase,
    IdsTrim,
    IdsAreText,
    OneConsumer,
    ConsumersFoldCase,
    RunsConsumerAndIdTogether,
}

const GROUPS: i32 = 8;

#[derive(Debug)]
pub(crate) enum ModelDb {}

impl Database for ModelDb {
    type Tx = ModelTx;
}

#[derive(Clone, Debug)]
pub(crate) struct Model(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fault: Fault,
    started: Instant,
    encoder: Encoder,
    tables: Mutex<Tables>,
    /// What a unique index does: one transaction at a time for each inbox row.
    inbox_locks: Mutex<HashMap<InboxRow, Arc<AsyncMutex<()>>>>,
    /// The same for deduplication keys and keys.
    key_locks: Mutex<HashMap<KeyLock, Arc<AsyncMutex<()>>>>,
}

/// `d` for a deduplication key, `k` for a key.
type KeyLock = (u8, Vec<u8>);

type InboxRow = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
struct Tables {
    next_id: i64,
    hot: BTreeMap<i64, OutboxRow>,
    /// When each event was committed.
    written: HashMap<Uuid, Duration>,
    parked: BTreeMap<i64, Parked>,
    dead: BTreeMap<i64, (OutboxRow, String)>,
    gates: BTreeMap<Vec<u8>, Option<Duration>>,
    leases: BTreeMap<i32, LeaseRow>,
    relays: HashMap<Uuid, Duration>,
    suspects: HashMap<Uuid, Vec<i64>>,
    requests: Vec<(Request, Uuid)>,
    inbox: HashSet<InboxRow>,
    scheduled: BTreeMap<i64, (Duration, OutboxRow)>,
    dedup: BTreeMap<Vec<u8>, (MessageId, Duration)>,
    versions: BTreeMap<Vec<u8>, u64>,
    cursor: i64,
    reads: u64,
}

#[derive(Debug)]
struct Parked {
    row: OutboxRow,
    error: String,
}

#[derive(Clone, Debug, Default)]
struct LeaseRow {
    owner: Option<String>,
    incarnation: Option<Uuid>,
    expires: Duration,
    epoch: i64,
    dirty: Option<Vec<i64>>,
}

pub(crate) struct ModelTx {
    model: Model,
    rows: Vec<OutboxRow>,
    inbox: Vec<InboxRow>,
    scheduled: BTreeMap<i64, (Duration, OutboxRow)>,
    /// Claimed, or freed.
    dedup: BTreeMap<Vec<u8>, Option<(MessageId, Duration)>>,
    versions: BTreeMap<Vec<u8>, u64>,
    /// Of committed scheduled rows: gone, or for another time.
    changes: BTreeMap<i64, Option<Duration>>,
    locks: Vec<OwnedMutexGuard<()>>,
    keys: HashSet<KeyLock>,
    ended: bool,
}

fn lossy(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).into_owned().into_bytes()
}

impl Model {
    fn has(&self, fault: Fault) -> bool {
        self.0.fault == fault
    }

    /// As a database, it takes its time: on a paused clock that ends what would spin for ever.
    async fn round_trip(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap()
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn me(&self, relay: &RelayId) -> String {
        if self.has(Fault::OwnerByName) { relay.name.clone() } else { relay.incarnation.to_string() }
    }

    /// By what a gate is found.
    fn lane(&self, row: &OutboxRow) -> Vec<u8> {
        match (self.0.fault, &row.message.key) {
            (Fault::OneLaneWithoutKey, None) => b"e".to_vec(),
            (_, None) => row.lane.as_bytes().to_vec(),
            (Fault::LanesFoldCase, _) => row.lane.as_bytes().to_ascii_lowercase(),
            (Fault::LanesTrim, _) => row.lane.as_bytes().trim_ascii_end().to_vec(),
            (Fault::LanesAreText, _) => lossy(row.lane.as_bytes()),
            (Fault::GatesEverything, _) => b"k".to_vec(),
            _ => row.lane.as_bytes().to_vec(),
        }
    }

    /// By what a deduplication key is found.
    fn dedup_key(&self, key: &[u8]) -> Vec<u8> {
        match self.0.fault {
            Fault::DedupFoldsCase => key.to_ascii_lowercase(),
            Fault::DedupTrims => key.trim_ascii_end().to_vec(),
            Fault::DedupIsText => lossy(key),
            _ => key.to_vec(),
        }
    }

    /// What becomes of a message in the table.
    fn stored(&self, mut message: Message) -> Message {
        match self.0.fault {
            Fault::DropsMicros => {
                message.timestamp = message
                    .timestamp
                    .map(|at| chrono::DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap());
            }
            Fault::DropsName => message.name.truncate(4),
            Fault::DropsRepeatedHeaders => {
                let mut seen = BTreeSet::new();
                message.headers = headers(message.headers.iter().filter(|(name, _)| seen.insert(*name)));
            }
            Fault::SortsHeaders => {
                let mut sorted: Vec<_> = message.headers.iter().collect();
                sorted.sort();
                message.headers = headers(sorted.into_iter());
            }
            Fault::EmptyKeyIsNone => message.key = message.key.filter(|key| !key.is_empty()),
            Fault::KeysAreText => message.key = message.key.map(|key| lossy(&key).into()),
            Fault::TombstoneIsEmpty => message.payload = Some(message.payload.unwrap_or_default()),
            Fault::TrimsPayload => {
                message.payload = message.payload.map(|payload| payload.trim_ascii_end().to_vec().into())
            }
            _ => {}
        }
        message
    }

    fn unpark(&self) {
        let (mut tables, now) = (self.tables(), self.now());
        match self.0.fault {
            Fault::UnparksNothing => {}
            Fault::UnparkOpensGates => tables.gates.retain(|_, until| until.is_none()),
            _ => tables.gates.values_mut().flatten().for_each(|until| *until = now.min(*until)),
        }
    }

    fn order_unit(&self) -> OrderUnit {
        match self.0.fault {
            Fault::TopicsAreApart => OrderUnit::TopicAndKey,
            _ => OrderUnit::Key,
        }
    }

    fn row(&self, id: i64, message: Message) -> OutboxRow {
        let event_id = message.id.as_ref().unwrap().to_uuid().unwrap();
        let lane = Lane::of(message.key.as_deref(), event_id);
        let sum: i32 = lane.as_bytes().iter().map(|byte| i32::from(*byte)).sum();
        let message = self.stored(message);
        let lane = self.order_unit().lane(&message.topic, message.key.as_deref(), event_id);
        OutboxRow {
            id,
            event_id,
            group: GroupNo(sum % GROUPS),
            lane,
            attempts: 0,
            size: message.size(),
            place: Place::Hot,
            defect: None,
            message,
        }
    }

    fn select(&self, mut rows: Vec<OutboxRow>, request: &ReadRequest, parked: bool) -> Vec<OutboxRow> {
        let ignores_leases = if parked { Fault::IgnoresLeasesOfParked } else { Fault::IgnoresLeases };
        let reads_known = if parked { Fault::ParkedReadsKnown } else { Fault::ReadsKnown };
        let ignores_bytes = if parked { Fault::ParkedIgnoresBytes } else { Fault::IgnoresBytes };
        rows.sort_by_key(|row| row.id);
        rows.retain(|row| {
            (self.has(ignores_leases) || request.leases.iter().any(|lease| lease.group == row.group))
                && (self.has(reads_known) || !request.known.contains(&row.id))
                && !matches!(self.0.fault, Fault::LosesOneIn(n) if row.id % n == 0)
        });
        if parked && self.has(Fault::ParkedLastFirst) {
            let surplus = rows.len().saturating_sub(request.limit);
            rows.drain(..surplus);
        }
        if !self.has(Fault::IgnoresLimit) {
            rows.truncate(request.limit);
        }
        let mut bytes = 0;
        let mut first = !self.has(Fault::BringsNothingTooLarge);
        if !self.has(ignores_bytes) {
            rows.retain(|row| {
                bytes += row.size;
                std::mem::take(&mut first) || bytes <= request.max_bytes
            });
        }
        if self.has(if parked { Fault::ParkedBackwards } else { Fault::ReadsBackwards }) {
            rows.reverse();
        }
        rows
    }

    fn is_lost(&self, tables: &Tables, lease: Lease, unfenced: Fault) -> bool {
        !self.has(unfenced) && tables.leases.get(&lease.group.0).is_none_or(|row| row.epoch != lease.epoch)
    }

    fn carry_out_requests(&self, tables: &mut Tables, owned: &[Lease]) {
        let now = self.now();
        for (nth, (request, event_id)) in (0_i64..).zip(std::mem::take(&mut tables.requests)) {
            let found = tables.dead.iter().find(|(_, (row, _))| row.event_id == event_id);
            let Some((id, (row, error))) = found.map(|(id, dead)| (*id, dead.clone())) else { continue };
            if !owned.iter().any(|lease| lease.group == row.group) {
                tables.requests.push((request, event_id));
                continue;
            }
            if self.has(Fault::RequestsAreNeverDone) {
                tables.requests.push((request, event_id));
            }
            let lane = self.lane(&row);
            let others = tables.dead.iter().any(|(other, (row, _))| *other != id && self.lane(row) == lane);
            let waits = others && tables.gates.get(&lane) == Some(&None);
            let frees = match request {
                Request::Replay => self.has(Fault::ReplayFreesKey),
                Request::Discard => !self.has(Fault::DiscardKeepsKey),
            };
            if frees {
                tables.dedup.retain(|_, (first, _)| *first != MessageId::from(row.event_id));
            }
            if request == Request::Replay {
                if !self.has(Fault::ReplayKeepsDead) {
                    tables.dead.remove(&id);
                }
                let id = match self.0.fault {
                    Fault::ReplaysToTheEnd => id + 1_000,
                    Fault::ReplaysAsAsked => nth + 1,
                    _ => id,
                };
                let attempts = if self.has(Fault::ReplayKeepsAttempts) { row.attempts } else { 0 };
                let row = OutboxRow { id, attempts, place: Place::Parked, ..row };
                if !waits || self.has(Fault::ReplayOpensGate) {
                    tables.gates.insert(lane, Some(now));
                }
                tables.parked.insert(id, Parked { row, error });
            } else {
                if !self.has(Fault::DiscardKeepsDead) {
                    tables.dead.remove(&id);
                }
                if (!waits || self.has(Fault::DiscardOpensGate)) && !self.has(Fault::DiscardKeepsGate) {
                    tables.gates.entry(lane).and_modify(|until| *until = Some(now));
                }
            }
        }
    }
}

fn headers<'a>(pairs: impl Iterator<Item = (&'a str, &'a Bytes)>) -> Headers {
    pairs.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

impl Transaction for ModelTx {
    async fn write(&mut self, mut events: Vec<Outgoing>) -> Result<Added> {
        let model = self.model.clone();
        let mut locks = Vec::new();
        for event in &events {
            let dedup = event.options.dedup.as_ref().map(|dedup| (b'd', model.dedup_key(&dedup.key)));
            locks.extend(dedup.filter(|_| !model.has(Fault::DedupWithoutWaiting)));
            let key = event.message.key.as_ref().map(|key| (b'k', key.to_vec()));
            locks.extend(
                key.filter(|_| {
                    event.options.key_version.is_some() && !model.has(Fault::VersionWithoutWaiting)
                }),
            );
        }
        locks.sort();
        for lock in locks {
            self.lock(lock).await;
        }
        if model.has(Fault::WritesBackwards) {
            events.reverse();
        }
        let (now, wall) = (model.now(), chrono::Utc::now());
        let (mut dedup, mut versions) = (self.dedup.clone(), self.versions.clone());
        let (mut rows, mut scheduled, mut added) = (Vec::new(), BTreeMap::new(), Added::default());
        let mut tables = model.tables();
        for Outgoing { message, options, .. } in events {
            let id = message.id.clone().unwrap();
            let key = message.key.as_ref().map(|key| key.to_vec());
            if let (Some(wish), false) = (&options.dedup, model.has(Fault::IgnoresDedup)) {
                let name = model.dedup_key(&wish.key);
                let first = match dedup.get(&name) {
                    Some(own) => own.clone(),
                    None => tables.dedup.get(&name).cloned(),
                };
                if let Some((first, _)) =
                    first.filter(|(_, until)| *until > now || model.has(Fault::DedupForEver))
                {
                    let id = if model.has(Fault::DedupNamesItself) { id } else { first };
                    added.events.push(AddedEvent::new(id, AddOutcome::Duplicate));
                    if let (Some(key), Some(version), true) =
                        (key, options.key_version, model.has(Fault::VersionOfDuplicate))
                    {
                        versions.insert(key, version);
                    }
                    continue;
                }
                let taken_over =
                    tables.dedup.contains_key(&name) && model.has(Fault::DedupTakesOverForNothing);
                let window = if taken_over { Duration::ZERO } else { wish.window };
                dedup.insert(name.clone(), Some((id.clone(), now + window)));
                if model.has(Fault::DedupForgetsRollback) {
                    tables.dedup.insert(name, (id.clone(), now + window));
                }
            }
            if let (Some(key), Some(wanted), false) =
                (key, options.key_version, model.has(Fault::IgnoresVersions))
            {
                let committed = tables.versions.get(&key);
                let stored = match model.0.fault {
                    Fault::ComparesFirstVersionOnly => self.versions.get(&key).or(committed),
                    _ => versions.get(&key).or(committed),
                };
                let allowed = u64::from(model.has(Fault::AllowsEqualVersion));
                if let Some(stored) = stored.filter(|stored| **stored >= wanted + allowed) {
                    let stored = if model.has(Fault::ConflictNamesItself) { wanted } else { *stored };
                    if model.has(Fault::ConflictWritesRest) {
                        self.rows.extend(rows);
                    }
                    if model.has(Fault::ConflictKeepsDedup) {
                        self.dedup = dedup;
                    }
                    return Err(VersionConflict::new(key, wanted, stored).into_error());
                }
                if model.has(Fault::VersionForgetsRollback) {
                    tables.versions.insert(key.clone(), wanted);
                }
                versions.insert(key, wanted);
            }
            tables.next_id += 1;
            let row = model.row(tables.next_id, message);
            let wait = match options.deliver {
                None => None,
                Some(Deliver::After(wait)) => Some(wait),
                Some(Deliver::At(at)) => Some((at - wall).to_std().unwrap_or_default()),
            };
            let is_later = |wait: &Duration| !wait.is_zero() || model.has(Fault::SchedulesPast);
            match wait.filter(is_later).filter(|_| !model.has(Fault::IgnoresTime)) {
                Some(wait) => {
                    added.events.push(AddedEvent::new(id, AddOutcome::Scheduled));
                    scheduled.insert(row.id, (now + wait, row));
                }
                None => {
                    added.events.push(AddedEvent::new(id, AddOutcome::Written));
                    if model.has(Fault::ShowsUncommitted) {
                        tables.hot.insert(row.id, row.clone());
                    }
                    rows.push(row);
                }
            }
        }
        self.rows.extend(rows);
        self.scheduled.extend(scheduled);
        (self.dedup, self.versions) = (dedup, versions);
        Ok(added)
    }

    async fn lock_key(&mut self, key: &[u8]) -> Result<()> {
        if self.model.has(Fault::LocksTwice) {
            self.keys.clear();
        }
        match self.model.0.fault {
            Fault::IgnoresLock => {}
            Fault::LocksAllKeys => self.lock((b'k', Vec::new())).await,
            _ => self.lock((b'k', key.to_vec())).await,
        }
        Ok(())
    }

    async fn cancel(&mut self, event_id: Uuid) -> Result<ScheduleChange> {
        if self.model.has(Fault::IgnoresCancel) {
            return Ok(ScheduleChange::Done);
        }
        let change = self.change(event_id, None);
        if change == ScheduleChange::Done || self.model.has(Fault::CancelFreesWhatIsSent) {
            self.free_key(event_id).await;
        }
        Ok(change)
    }

    async fn reschedule(
        &mut self,
        event_id: Uuid,
        at: chrono::DateTime<chrono::Utc>,
    ) -> Result<ScheduleChange> {
        let due = self.model.now() + (at - chrono::Utc::now()).to_std().unwrap_or_default();
        if self.model.has(Fault::RescheduleFreesKey) {
            self.free_key(event_id).await;
        }
        Ok(self.change(event_id, Some(due)))
    }

    async fn commit(mut self) -> Result<()> {
        self.apply();
        Ok(())
    }

    async fn rollback(mut self) -> Result<()> {
        match self.model.0.fault {
            Fault::CommitsRollback => self.apply(),
            Fault::ShowsUncommitted => self.take_back(),
            Fault::KeepsRolledBackIds => {
                let kept: Vec<_> = self.inbox.drain(..).collect();
                self.model.tables().inbox.extend(kept);
            }
            _ => {}
        }
        self.ended = true;
        Ok(())
    }
}

impl ModelTx {
    async fn lock(&mut self, lock: KeyLock) {
        if self.keys.insert(lock.clone()) {
            let mutex = self.model.0.key_locks.lock().unwrap().entry(lock).or_default().clone();
            self.locks.push(mutex.lock_owned().await);
        }
    }

    /// Nobody takes keys over meanwhile in this model.
    async fn free_key(&mut self, event_id: Uuid) {
        let (model, id) = (self.model.clone(), MessageId::from(event_id));
        let own = self.dedup.iter().filter_map(|(key, claim)| Some((key, claim.as_ref()?)));
        let own = own.map(|(key, claim)| (key.clone(), claim.clone())).collect::<Vec<_>>();
        let committed: Vec<_> = model.tables().dedup.clone().into_iter().collect();
        let committed = committed.into_iter().filter(|(key, _)| !self.dedup.contains_key(key));
        let Some((key, _)) = own.into_iter().chain(committed).find(|(_, (first, _))| *first == id) else {
            return;
        };
        if !model.has(Fault::CancelFreesWithoutWaiting) {
            self.lock((b'd', key.clone())).await;
        }
        match model.0.fault {
            Fault::CancelKeepsKey => {}
            Fault::CancelFreesAtOnce => drop(model.tables().dedup.remove(&key)),
            _ => drop(self.dedup.insert(key, None)),
        }
    }

    fn change(&mut self, event_id: Uuid, due: Option<Duration>) -> ScheduleChange {
        let model = self.model.clone();
        let mut tables = model.tables();
        let own = self.scheduled.values().find(|(_, row)| row.event_id == event_id).map(|(_, row)| row.id);
        if let Some(id) = own.filter(|_| !model.has(Fault::ChangesCommittedOnly)) {
            match due {
                Some(due) => self.scheduled.get_mut(&id).unwrap().0 = due,
                None => drop(self.scheduled.remove(&id)),
            }
            return ScheduleChange::Done;
        }
        let is_gone = |id: &i64| self.changes.get(id) == Some(&None);
        let found =
            tables.scheduled.values().find(|(_, row)| row.event_id == event_id).map(|(_, row)| row.id);
        let Some(id) = found.filter(|id| !is_gone(id)) else {
            return if model.has(Fault::AlwaysDone) { ScheduleChange::Done } else { ScheduleChange::TooLate };
        };
        match (model.0.fault, due) {
            (Fault::CancelsAtOnce, None) => drop(tables.scheduled.remove(&id)),
            (Fault::MovesAtOnce, Some(due)) => tables.scheduled.get_mut(&id).unwrap().0 = due,
            (Fault::IgnoresReschedule, Some(_)) => {}
            _ => drop(self.changes.insert(id, due)),
        }
        ScheduleChange::Done
    }

    fn apply(&mut self) {
        self.ended = true;
        let now = self.model.now();
        let mut tables = self.model.tables();
        for row in self.rows.drain(..) {
            tables.written.insert(row.event_id, now);
            tables.hot.insert(row.id, row);
        }
        tables.inbox.extend(self.inbox.drain(..));
        for (id, due) in std::mem::take(&mut self.changes) {
            match (due, tables.scheduled.get_mut(&id)) {
                (Some(due), Some(scheduled)) => scheduled.0 = due,
                _ => drop(tables.scheduled.remove(&id)),
            }
        }
        tables.scheduled.append(&mut self.scheduled);
        for (key, claim) in std::mem::take(&mut self.dedup) {
            match claim {
                Some(claim) => drop(tables.dedup.insert(key, claim)),
                None => drop(tables.dedup.remove(&key)),
            }
        }
        tables.versions.append(&mut self.versions);
    }

    fn take_back(&mut self) {
        let mut tables = self.model.tables();
        self.rows.iter().for_each(|row| drop(tables.hot.remove(&row.id)));
    }
}

impl Drop for ModelTx {
    fn drop(&mut self) {
        match self.model.0.fault {
            Fault::CommitsDropped if !self.ended => self.apply(),
            Fault::ShowsUncommitted if !self.ended => self.take_back(),
            _ => {}
        }
        self.locks.clear();
    }
}

#[async_trait]
impl BeginTransaction<ModelDb> for Model {
    async fn begin(&self) -> Result<ModelTx> {
        Ok(ModelTx {
            model: self.clone(),
            rows: Vec::new(),
            inbox: Vec::new(),
            scheduled: BTreeMap::new(),
            dedup: BTreeMap::new(),
            versions: BTreeMap::new(),
            changes: BTreeMap::new(),
            locks: Vec::new(),
            keys: HashSet::new(),
            ended: false,
        })
    }

    fn encoder(&self) -> &Encoder {
        &self.0.encoder
    }
}

#[async_trait]
impl Inbox<ModelDb> for Model {
    async fn admit(&self, tx: &mut ModelTx, consumer: &str, id: &MessageId) -> Result<bool> {
        let (mut consumer, mut id) = (consumer.as_bytes().to_vec(), id.as_bytes().to_vec());
        match self.0.fault {
            Fault::IdsFoldCase => id.make_ascii_lowercase(),
            Fault::IdsTrim => id = id.trim_ascii_end().to_vec(),
            Fault::IdsAreText => id = lossy(&id),
            Fault::OneConsumer => consumer.clear(),
            Fault::ConsumersFoldCase => consumer.make_ascii_lowercase(),
            Fault::RunsConsumerAndIdTogether => consumer.append(&mut id),
            Fault::AdmitsAll => return Ok(true),
            _ => {}
        }
        let row = (consumer, id);
        if tx.inbox.contains(&row) {
            return Ok(false);
        }
        let lock = self.0.inbox_locks.lock().unwrap().entry(row.clone()).or_default().clone();
        match self.0.fault {
            Fault::AdmitsWithoutWaiting => {}
            Fault::RefusesWithoutWaiting => match lock.try_lock_owned() {
                Ok(lock) => tx.locks.push(lock),
                Err(_) => return Ok(false),
            },
            _ => tx.locks.push(lock.lock_owned().await),
        }
        if self.tables().inbox.contains(&row) {
            return Ok(false);
        }
        tx.inbox.push(row);
        Ok(true)
    }
}

#[async_trait]
impl OutboxStore for Model {
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        self.round_trip().await;
        let (mut tables, now, me) = (self.tables(), self.now(), self.me(relay));
        tables.relays.insert(relay.incarnation, now);
        let mut take = if self.has(Fault::TakesTooMany) { usize::MAX } else { heartbeat.take };
        let tables = &mut *tables;
        for (group, lease) in &mut tables.leases {
            let mine = lease.owner.as_ref() == Some(&me);
            let given = heartbeat.release.iter().find(|given| given.group == GroupNo(*group));
            if given.is_some_and(|given| given.epoch == lease.epoch || self.has(Fault::ReleasesLaterLeases))
                && (mine || self.has(Fault::ReleasesForOthers))
                && !self.has(Fault::KeepsReleased)
            {
                lease.owner = None;
            }
            let far = lease.expires > now + heartbeat.lease * 2 && !self.has(Fault::TrustsFarExpiry)
                || lease.expires > now + heartbeat.lease && self.has(Fault::ExpiresAnyOther) && !mine;
            let expired = lease.expires <= now && !self.has(Fault::NeverExpires) || far;
            let revived = self.has(Fault::RevivesExpired);
            if lease.owner.as_ref() == Some(&me) && (!expired || revived) {
                if !self.has(Fault::NeverRenews) {
                    lease.expires = now + heartbeat.lease;
                }
            } else if take > 0 && (lease.owner.is_none() || expired || self.has(Fault::TakesOwned)) {
                let stays = self.has(Fault::EpochStays)
                    || self.has(Fault::EpochStaysAfterExpiry) && lease.owner.is_some();
                let epoch = lease.epoch + i64::from(!stays);
                let before = lease.incarnation.replace(relay.incarnation);
                let ended = lease.owner.is_some() || self.has(Fault::SuspectsAfterRelease);
                let other = before != Some(relay.incarnation) || self.has(Fault::SuspectsTheLate);
                lease.dirty = match before.filter(|_| ended && other) {
                    Some(_) if self.has(Fault::ForgetsSuspects) => Some(Vec::new()),
                    Some(before) => Some(tables.suspects.get(&before).cloned().unwrap_or_default()),
                    None if self.has(Fault::SuspectsAgain) => lease.dirty.take(),
                    None => lease.dirty.take().filter(|_| lease.owner.is_some()).map(|_| Vec::new()),
                };
                (lease.owner, lease.expires) = (Some(me.clone()), now + heartbeat.lease);
                lease.epoch = epoch;
                take -= 1;
            }
        }
        let alive = |seen: &Duration| *seen + heartbeat.lease > now;
        let leases: Vec<Lease> = tables
            .leases
            .iter()
            .filter(|(_, lease)| {
                lease.owner.as_ref() == Some(&me) && (lease.expires > now || self.has(Fault::NeverExpires))
            })
            .map(|(group, lease)| Lease { group: GroupNo(*group), epoch: lease.epoch })
            .collect();
        self.carry_out_requests(tables, &leases);
        let relays = match self.0.fault {
            Fault::NeverForgetsRelays => tables.relays.len(),
            Fault::CountsOwnersOnly => {
                tables.leases.values().filter_map(|lease| lease.owner.as_ref()).collect::<BTreeSet<_>>().len()
            }
            _ => tables.relays.values().filter(|seen| alive(seen)).count(),
        };
        let dirty = leases.iter().map(|lease| lease.group);
        let dirty = dirty.filter_map(|group| Some((group, tables.leases[&group.0].dirty.clone()?))).collect();
        Ok(Ownership {
            leases,
            groups: tables.leases.len(),
            relays,
            hold: false,
            nothing_aside: tables.gates.values().all(Option::is_none) || self.has(Fault::SeesNothingAside),
            nothing_scheduled: tables.scheduled.is_empty() || self.has(Fault::SeesNothingScheduled),
            dirty,
        })
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.round_trip().await;
        let mut tables = self.tables();
        tables.reads += 1;
        let from = if self.has(Fault::ReadsFromCursor) { tables.cursor } else { 0 };
        let changes = self.has(Fault::SecondReadDiffers)
            || self.has(Fault::SqlRowChanges)
                && tables.hot.values().any(|row| row.message.headers.get("cqrs-kind").is_none());
        let rows = tables
            .hot
            .values()
            .filter(|row| row.id > from)
            .map(|row| {
                let gated = tables.gates.contains_key(&self.lane(row));
                let mut row = row.clone();
                row.place = if gated { Place::Gated } else { Place::Hot };
                if changes {
                    row.message.headers.set("read", tables.reads.to_string());
                }
                row
            })
            .collect();
        let rows = self.select(rows, request, false);
        tables.cursor = rows.iter().map(|row| row.id).max().unwrap_or(0).max(tables.cursor);
        Ok(rows)
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.round_trip().await;
        let (tables, now) = (self.tables(), self.now());
        let mut gates: Vec<_> =
            tables.gates.iter().filter_map(|(lane, until)| Some(((*until)?, lane))).collect();
        gates.sort();
        gates.truncate(request.limit);
        let due = |row: &OutboxRow| {
            if self.has(Fault::ParkedFirstGates) && !gates.iter().any(|(_, lane)| **lane == self.lane(row)) {
                return false;
            }
            tables.gates.get(&self.lane(row)).is_some_and(|until| match self.0.fault {
                Fault::DueAtOnce => until.is_some(),
                Fault::DueNever => false,
                _ => until.is_some_and(|until| until <= now),
            })
        };
        let rows = tables.parked.values().map(|parked| &parked.row).filter(|row| due(row)).cloned().collect();
        Ok(self.select(rows, request, true))
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        self.round_trip().await;
        let mut tables = self.tables();
        for confirmed in confirmed {
            let was_aside = confirmed.place() == Place::Parked;
            let looks_aside = match self.0.fault {
                Fault::SettlesOnlyHot => false,
                Fault::SettlesOnlyWhereItWas => was_aside,
                _ => true,
            };
            let removed = match tables.hot.remove(&confirmed.id()) {
                None if looks_aside => tables.parked.remove(&confirmed.id()).map(|parked| parked.row),
                hot => hot,
            };
            match removed {
                Some(row) if self.has(Fault::SettlesLanes) => {
                    tables.hot.retain(|_, other| other.group != row.group);
                }
                None if self.has(Fault::SettleNeedsRow) => {
                    return Err(StoreError::new(cqrs_outbox::StoreErrorKind::Other, "no such row"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        self.round_trip().await;
        let (mut tables, now) = (self.tables(), self.now());
        let unfenced = match rejection.verdict {
            Verdict::Park { .. } => Fault::UnfencedPark,
            Verdict::Bury { .. } => Fault::UnfencedBury,
        };
        if self.is_lost(&tables, rejection.lease, unfenced) {
            return Ok(Fenced::LeaseLost);
        }
        let again = tables.parked.remove(&rejection.id);
        let first_error = again.as_ref().map(|parked| parked.error.clone());
        let again = again.map(|parked| parked.row);
        let was_parked = again.is_some();
        let Some(mut row) = tables.hot.remove(&rejection.id).or(again) else {
            if self.has(Fault::GateForRowThatIsGone) {
                tables.gates.insert(rejection.lane.as_bytes().to_vec(), None);
            }
            return Ok(Fenced::Done(()));
        };
        row.attempts = match self.0.fault {
            Fault::ForgetsAttempts => 1,
            Fault::CountsRefusalsTwice => row.attempts + 1,
            _ => rejection.attempts,
        };
        row.place = Place::Parked;
        if !self.has(Fault::RejectsByKey) {
            row.lane = rejection.lane.clone();
        }
        let lane = self.lane(&row);
        let error = match first_error {
            Some(error) if self.has(Fault::KeepsFirstError) => error,
            _ => rejection.error.clone(),
        };
        match rejection.verdict {
            Verdict::Park { retry_in } => {
                if self.has(Fault::ParkingLosesHeaders) {
                    row.message.headers = Headers::new();
                }
                let keeps_gate = was_parked && self.has(Fault::AgainKeepsGate);
                if !keeps_gate && !self.has(Fault::ParksWithoutGate) {
                    tables.gates.insert(lane, Some(now + retry_in));
                }
                tables.parked.insert(row.id, Parked { row, error });
            }
            Verdict::Bury { later } => {
                let waits = later != LaterEvents::GoOn && !self.has(Fault::BuryNeverGates);
                if waits || self.has(Fault::BuryAlwaysGates) {
                    tables.gates.insert(lane, self.has(Fault::BuryGateIsDue).then_some(now));
                }
                if !self.has(Fault::BuryDrops) {
                    tables.dead.insert(row.id, (row, error));
                }
                if later == LaterEvents::Follow && !self.has(Fault::BuryLeavesFollowers) {
                    follow(&mut tables, &rejection.lane, self.has(Fault::FollowsTheSent), true);
                }
            }
        }
        Ok(Fenced::Done(()))
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        self.round_trip().await;
        let mut tables = self.tables();
        if self.is_lost(&tables, lease, Fault::UnfencedSetAside) {
            return Ok(Fenced::LeaseLost);
        }
        if !tables.gates.contains_key(lane.as_bytes()) && !self.has(Fault::SetsAsideAnyway) {
            return Ok(Fenced::Done(false));
        }
        let ids: Vec<i64> = match self.0.fault {
            Fault::SetsAsideLane => {
                tables.hot.values().filter(|row| row.lane == *lane).map(|row| row.id).collect()
            }
            _ => ids.to_vec(),
        };
        for id in ids {
            if let Some(mut row) = tables.hot.remove(&id) {
                row.place = Place::Parked;
                row.attempts += u32::from(self.has(Fault::SettingAsideCounts));
                tables.parked.insert(id, Parked { row, error: String::new() });
            }
        }
        let is_dead = tables.gates.get(lane.as_bytes()).is_some_and(Option::is_none);
        let follows = later == LaterEvents::Follow && !self.has(Fault::SetAsideNeverFollows);
        if follows && (is_dead || self.has(Fault::FollowsTheParked)) {
            let (the_sent, the_replayed) =
                (self.has(Fault::FollowsTheSent), self.has(Fault::FollowsTheReplayed));
            follow(&mut tables, lane, the_sent, the_replayed);
        }
        Ok(Fenced::Done(true))
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        self.round_trip().await;
        let mut tables = self.tables();
        if self.is_lost(&tables, lease, Fault::UnfencedOpenGate) {
            return Ok(Fenced::LeaseLost);
        }
        let left = tables.parked.values().any(|parked| parked.row.lane == *lane);
        let waits = tables.gates.get(lane.as_bytes()).is_some_and(Option::is_none);
        if left && !self.has(Fault::OpensAnyway) || waits && !self.has(Fault::OpensWaitingGate) {
            return Ok(Fenced::Done(false));
        }
        match self.0.fault {
            Fault::NeverOpens => {}
            Fault::OpensAllGates => tables.gates.clear(),
            _ => drop(tables.gates.remove(lane.as_bytes())),
        }
        Ok(Fenced::Done(true))
    }

    async fn promote(&self, leases: &[Lease], limit: usize) -> Result<Promoted, StoreError> {
        self.round_trip().await;
        let (mut tables, now) = (self.tables(), self.now());
        let kept: Vec<GroupNo> = leases
            .iter()
            .filter(|lease| !self.is_lost(&tables, **lease, Fault::UnfencedPromote))
            .map(|lease| lease.group)
            .collect();
        let all = !leases.is_empty() && self.has(Fault::PromotesAllGroups);
        let is_ours = |row: &OutboxRow| all || kept.contains(&row.group);
        let late = Duration::from_secs(u64::from(self.has(Fault::PromotesLate)));
        let is_due = |due: Duration| due + late <= now || self.has(Fault::PromotesEarly);
        let mut due: Vec<(Duration, i64)> = tables
            .scheduled
            .values()
            .filter(|(due, row)| is_due(*due) && is_ours(row))
            .map(|(due, row)| (*due, row.id))
            .collect();
        match self.0.fault {
            Fault::PromotesById => due.sort_by_key(|(_, id)| *id),
            Fault::PromotesBackwards => due.sort_by_key(|key| std::cmp::Reverse(*key)),
            _ => due.sort(),
        }
        if !self.has(Fault::IgnoresPromoteLimit) {
            due.truncate(limit);
        }
        for (_, id) in &due {
            let (_, mut row) = tables.scheduled.remove(id).unwrap();
            if !self.has(Fault::PromotesUnderOldId) {
                tables.next_id += 1;
                row.id = tables.next_id;
            }
            tables.hot.insert(row.id, row);
        }
        let rest = tables.scheduled.values();
        let next = rest
            .filter(|(_, row)| is_ours(row) || self.has(Fault::NextDueOfAllGroups))
            .map(|(due, _)| *due)
            .min();
        let next_due = next.filter(|_| !self.has(Fault::KnowsNoNextDue)).map(|due| due.saturating_sub(now));
        Ok(Promoted { moved: due.len(), next_due })
    }

    async fn record_suspects(&self, relay: &RelayId, ids: &[i64]) -> Result<(), StoreError> {
        self.round_trip().await;
        let keeps = self.has(Fault::KeepsOldSuspects);
        let mut tables = self.tables();
        let suspects = tables.suspects.entry(relay.incarnation).or_default();
        if !keeps {
            suspects.clear();
        }
        suspects.extend(ids);
        Ok(())
    }

    async fn record_suspended(&self, relay: &RelayId, _: &[SuspendedTopic]) -> Result<bool, StoreError> {
        self.round_trip().await;
        let is_there = self.tables().relays.contains_key(&relay.incarnation);
        Ok(is_there || self.has(Fault::RecordsOfTheGone))
    }

    async fn purge(&self, kept: Kept, _older_than: Duration) -> Result<u64, StoreError> {
        self.round_trip().await;
        let (mut tables, now) = (self.tables(), self.now());
        match kept {
            Kept::DedupKeys if self.has(Fault::PurgesAllKeys) => tables.dedup.clear(),
            Kept::DedupKeys => tables.dedup.retain(|_, (_, until)| *until > now),
            Kept::Sent if self.has(Fault::PurgesWhatWaits) => tables.hot.clear(),
            Kept::Sent if self.has(Fault::PurgesWhatWaitsAside) => tables.parked.clear(),
            Kept::Requests if self.has(Fault::PurgesDeadLetters) => tables.dead.clear(),
            _ => {}
        }
        Ok(0)
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.round_trip().await;
        let (mut tables, me) = (self.tables(), self.me(relay));
        if !self.has(Fault::LeaveKeepsRelay) {
            tables.relays.remove(&relay.incarnation);
        }
        for lease in tables.leases.values_mut() {
            let mine = lease.owner.as_ref() == Some(&me) || self.has(Fault::LeaveFreesAll);
            if mine && !self.has(Fault::LeaveKeepsGroups) {
                lease.owner = None;
            }
        }
        Ok(())
    }
}

/// What stands aside of a lane goes to the dead letters.
fn follow(tables: &mut Tables, lane: &Lane, the_sent: bool, the_replayed: bool) {
    let first = tables.dead.values().find(|(row, _)| row.lane == *lane).map_or(0, |(row, _)| row.id);
    for (id, parked) in std::mem::take(&mut tables.parked) {
        if parked.row.lane == *lane && (the_sent || id > first) && (the_replayed || parked.error.is_empty()) {
            tables.dead.insert(id, (parked.row, LaterEvents::FOLLOWS.to_owned()));
        } else {
            tables.parked.insert(id, parked);
        }
    }
}

/// What the suite gets to test.
pub(crate) struct ModelAdapter(pub(crate) Fault);

#[async_trait]
impl StoreUnderTest for ModelAdapter {
    type Database = ModelDb;
    type Store = Model;

    async fn open(&self) -> Result<Arc<Model>> {
        let tables = Tables {
            leases: (0..GROUPS).map(|group| (group, LeaseRow::default())).collect(),
            ..Tables::default()
        };
        Ok(Arc::new(Model(Arc::new(Inner {
            fault: self.0,
            started: Instant::now(),
            encoder: Encoder::default(),
            tables: Mutex::new(tables),
            inbox_locks: Mutex::default(),
            key_locks: Mutex::default(),
        }))))
    }

    /// What it promises.
    fn order_unit(&self) -> OrderUnit {
        if self.0 == Fault::TopicsAreOne { OrderUnit::TopicAndKey } else { OrderUnit::Key }
    }

    fn inbox(&self, store: &Arc<Model>) -> Option<Arc<dyn Inbox<ModelDb>>> {
        Some(store.clone())
    }

    /// Knows the rows that the suite inserts.
    async fn execute(&self, store: &Arc<Model>, sql: &str) -> Result<bool> {
        if sql.contains("'room_closed', 'rooms', 'a', '{}', '[[\"tenant\", 5]]'") {
            let mut message = Message::new("rooms", "{}");
            message.id = Some(Uuid::new_v4().into());
            message.key = Some("a".into());
            let mut tables = store.tables();
            tables.next_id += 1;
            let id = tables.next_id;
            let mut row = store.row(id, message);
            if self.0 != Fault::SqlRowLosesHeaders {
                row.defect = Some("`headers`".to_owned());
            }
            tables.hot.insert(id, row);
            return Ok(true);
        }
        assert!(sql.contains("'room_closed', 'rooms', 'room 5', '{\"room\": 5}'"), "{sql}");
        let mut message = Message::new("rooms", "{\"room\": 5}");
        message.id = Some(Uuid::new_v4().into());
        message.name = "room_closed".to_owned();
        message.key = Some("room 5".into());
        message.content_type = Some("application/json".to_owned());
        message.timestamp = Some(chrono::Utc::now());
        if self.0 != Fault::SqlRowHasNoHeaders {
            message = Json.encode(message)?;
        }
        let mut tx = store.begin().await?;
        tx.write(vec![message.into()]).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn dead_letters(&self, store: &Arc<Model>) -> Result<Option<Vec<DeadLetter>>> {
        let tables = store.tables();
        let dead = tables.dead.values().map(|(row, error)| DeadLetter {
            event_id: row.event_id,
            attempts: row.attempts,
            error: error.clone(),
        });
        Ok(Some(dead.collect()))
    }

    async fn oldest_waiting(&self, store: &Arc<Model>) -> Result<Oldest> {
        let tables = store.tables();
        let parked = tables.parked.values().map(|parked| &parked.row);
        let parked = parked.filter(|_| self.0 != Fault::AgeForgetsAside);
        let waiting =
            tables.hot.values().chain(parked).filter_map(|row| tables.written.get(&row.event_id).copied());
        let first = match self.0 {
            Fault::AgeOfTheSent => tables.written.values().copied().min(),
            _ => waiting.min(),
        };
        Ok(match first {
            None => Oldest::Nothing,
            Some(_) if self.0 == Fault::AgeStandsStill => Oldest::Waits(Duration::from_secs(1)),
            Some(first) => Oldest::Waits(store.now() - first),
        })
    }

    async fn unpark(&self, store: &Arc<Model>) -> Result<bool> {
        store.unpark();
        Ok(true)
    }

    async fn request(&self, store: &Arc<Model>, request: Request, event_id: Uuid) -> Result<Asked> {
        let mut tables = store.tables();
        if self.0 != Fault::RequestsAnything && !tables.dead.values().any(|(row, _)| row.event_id == event_id)
        {
            return Ok(Asked::Unknown);
        }
        tables.requests.push((request, event_id));
        Ok(Asked::Accepted)
    }
}
