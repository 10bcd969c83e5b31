//! What each database has to be able to do: small steps, each about one statement. What they add up to is in `outbox`
//! and `store`, once for all databases.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_core::MessageId;
pub(crate) use cqrs_outbox::table::ROWS_PER_INSERT;
use cqrs_outbox::table::{self, OutboxRecord, TableNames};
use cqrs_outbox::{Confirmed, GroupNo, Lane, Lease, ReadRequest, Rejection, RelayId, StoreError};
#[cfg(any(feature = "postgres", feature = "mysql"))]
use diesel::connection::{TransactionDepthChange, TransactionManagerStatus};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{QueryResult, QueryableByName};
use diesel_async::{AsyncConnection, TransactionManager};
use uuid::Uuid;

use crate::dead_letters::{FullDeadRow, ListedRow};
use crate::drift::{Fact, Sequence};
use crate::migration::Migration;
use crate::on::{Lanes, On};
use crate::parked::ParkedRow;
use crate::query::{Dialect, Query};
use crate::record::Record;
use crate::requests::{DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::status::StatusRow;
use crate::writing::Claim;

/// Public, since it is part of a public trait, and out of reach, since this module is not.
pub trait Statements: Sized {
    /// The connection.
    type Conn: AsyncConnection + Send + 'static;
    /// A connection of the pool, lent.
    type Lent: Send + 'static;
    /// The connections.
    type Pool: Clone + Send + Sync + 'static;
    /// What statements remember for later ones, as long as the outbox is open.
    type Memory: Default + Send + Sync + 'static;

    /// The tables' history.
    const MIGRATIONS: &'static [Migration];

    /// Makes the table of the version, if it is not there, without its row.
    const META_TABLE: &'static str;

    /// Whether each statement of a migration commits, so that one may have ended anywhere.
    const DDL_COMMITS: bool = false;

    /// Asks how many bytes a statement may have, if the server ends the connection of whoever sends more.
    const MAX_PACKET: Option<&'static str> = None;

    /// Whose SQL it is.
    const SQL: table::Dialect;

    /// How the parts of a [`Query`] are written.
    const DIALECT: Dialect;

    /// How the lane of a topic and a key is written.
    const LANES: Lanes;

    // --- Connections and transactions.

    /// Lends a connection.
    fn acquire(pool: &Self::Pool) -> impl Future<Output = Result<Self::Lent, StoreError>> + Send;

    /// Lends a connection for a call of the store's.
    fn acquire_for_store(pool: &Self::Pool) -> impl Future<Output = Result<Self::Lent, StoreError>> + Send {
        Self::acquire(pool)
    }

    /// Closes a connection whose state is unknown, instead of giving it back.
    fn discard(lent: Self::Lent);

    /// Begins a transaction that is going to write.
    fn begin(conn: &mut Self::Conn) -> impl Future<Output = QueryResult<()>> + Send;

    /// Begins a transaction of the store's own: a relay that is stopped in the midst of it must not keep a lease's row
    /// locked for longer than a lease.
    fn begin_short(conn: &mut Self::Conn) -> impl Future<Output = QueryResult<()>> + Send {
        Self::begin(conn)
    }

    /// Lets the server itself end a statement of this transaction that takes longer, where it can: nobody else does once the
    /// call is dropped.
    ///
    /// PostgreSQL has a limit that ends with the transaction. MariaDB's (`max_statement_time`) is the session's: it would have to be
    /// taken back before the connection is lent again, and MySQL's is for SELECT only. There the 5 s that each statement of a relay
    /// has anyway are the limit, from when it began: so long it may keep the rows of leases locked after it was given up, and
    /// that is half a lease. SQLite's statements run in this process.
    fn limit_statements(
        conn: &mut Self::Conn,
        limit: Duration,
    ) -> impl Future<Output = QueryResult<()>> + Send {
        let _ = (conn, limit);
        std::future::ready(Ok(()))
    }

    /// Commits.
    fn commit(conn: &mut Self::Conn) -> impl Future<Output = QueryResult<()>> + Send {
        <Self::Conn as AsyncConnection>::TransactionManager::commit_transaction(conn)
    }

    /// Rolls back.
    fn rollback(conn: &mut Self::Conn) -> impl Future<Output = QueryResult<()>> + Send {
        <Self::Conn as AsyncConnection>::TransactionManager::rollback_transaction(conn)
    }

    // --- The tables.

    /// Begins to migrate, and keeps others from it.
    fn begin_migration(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<()>> + Send;

    /// Has migrated. A connection that is closed before lets others at it, too.
    fn end_migration(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<()>> + Send {
        Self::commit(on.conn)
    }

    /// What the tables say of themselves; `None` if there are no tables, or not all.
    fn meta(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<Option<Meta>>> + Send;

    /// Whether there is a hot table.
    fn has_tables(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Fails if one of the tables of a relay is missing.
    fn check_tables(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<()>> + Send;

    /// What the tables are like, part by part.
    fn describe(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<Vec<Fact>>> + Send;

    /// The same of tables as the migrations make them, apart from those in use. The connection cannot be used for anything
    /// else afterwards.
    fn describe_fresh(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<Vec<Fact>>> + Send;

    /// Where the sequences stand that may stand behind the ids that are in use.
    fn sequences(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<Vec<Sequence>>> + Send;

    /// The statement by which the sequence of a table's ids goes on above this one.
    fn set_sequence(names: &TableNames, table: &str, highest: i64) -> String;

    /// Records the version of the tables.
    fn set_schema_version(
        on: &mut On<'_, Self>,
        version: i32,
        min_reader_version: i32,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    // --- The application's side.

    /// Writes rows, in their order.
    fn insert(on: &mut On<'_, Self>, rows: Vec<OutboxRecord>)
    -> impl Future<Output = QueryResult<()>> + Send;

    /// Writes scheduled rows, each with its time, in their order.
    fn schedule(
        on: &mut On<'_, Self>,
        rows: Vec<(OutboxRecord, DateTime<Utc>)>,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// The database's clock.
    fn now(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<DateTime<Utc>>> + Send;

    /// Takes deduplication keys that nobody has, or whose window is over, and waits for those who are about to. They come
    /// in ascending order. Gives those that others have, with the id of their event.
    fn claim(
        on: &mut On<'_, Self>,
        claims: &[Claim],
    ) -> impl Future<Output = QueryResult<HashMap<Vec<u8>, Uuid>>> + Send;

    /// Gives deduplication keys back that this transaction has taken.
    fn release_claims(
        on: &mut On<'_, Self>,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Removes up to so many deduplication keys whose window is over, but for those that somebody is about to take.
    fn purge_dedup(on: &mut On<'_, Self>, limit: usize) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Locks the rows of the versions of these keys, which come in ascending order, and makes those that are not there.
    /// Gives the versions; a negative one is none.
    fn lock_versions(
        on: &mut On<'_, Self>,
        keys: &[Vec<u8>],
    ) -> impl Future<Output = QueryResult<HashMap<Vec<u8>, i64>>> + Send;

    /// Sets the versions of keys whose rows this transaction has locked.
    fn set_versions(
        on: &mut On<'_, Self>,
        versions: &[(Vec<u8>, i64)],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Keeps others that lock this key out until the end of the transaction.
    fn lock_key(on: &mut On<'_, Self>, key: &[u8]) -> impl Future<Output = QueryResult<()>> + Send;

    /// Removes a scheduled row, and frees its event's deduplication key; `false` if there is none with this event.
    fn cancel(on: &mut On<'_, Self>, event_id: Uuid) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Gives a scheduled row another time; `false` if there is none with this event.
    fn reschedule(
        on: &mut On<'_, Self>,
        event_id: Uuid,
        at: DateTime<Utc>,
    ) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Writes an inbox row; `false` if it is there already.
    fn admit(
        on: &mut On<'_, Self>,
        consumer: &str,
        id: &MessageId,
    ) -> impl Future<Output = QueryResult<bool>> + Send;

    // --- The operator's.

    /// The scheduled rows of a query.
    fn scheduled(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Vec<ScheduledRecord>>> + Send;

    /// What waits, what is stuck and who is at work, as of one snapshot.
    fn status(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<StatusRow>> + Send;

    /// Says whether all relaying is on hold.
    fn set_hold(on: &mut On<'_, Self>, hold: bool) -> impl Future<Output = QueryResult<()>> + Send;

    /// The dead letters of a query.
    fn dead_letters(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Vec<ListedRow>>> + Send;

    /// The rows of a query that stand aside.
    fn parked_events(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Vec<ParkedRow>>> + Send;

    /// The only dead letter of a query, in full.
    fn dead_letter(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Option<FullDeadRow>>> + Send;

    /// The requests of a query.
    fn requests(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Vec<RequestRow>>> + Send;

    /// The numbers of a query for one column of them, which is called `value`.
    fn numbers(on: &mut On<'_, Self>, query: Query) -> impl Future<Output = QueryResult<Vec<i64>>> + Send;

    /// Runs a query; how many rows it changed.
    fn execute(on: &mut On<'_, Self>, query: Query) -> impl Future<Output = QueryResult<usize>> + Send;

    // --- Leases.

    /// Records that the relay lives.
    fn seen(on: &mut On<'_, Self>, relay: &RelayId) -> impl Future<Output = QueryResult<()>> + Send;

    /// Forgets relays that were not seen for ten lease times, unless somebody else is at it.
    fn forget_relays(on: &mut On<'_, Self>, lease: Duration) -> impl Future<Output = QueryResult<()>> + Send;

    /// Gives groups back that this relay still has with these epochs.
    fn release(
        on: &mut On<'_, Self>,
        incarnation: Uuid,
        leases: &[Lease],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Renews the leases of this relay that have not expired.
    fn renew(
        on: &mut On<'_, Self>,
        incarnation: Uuid,
        lease: Duration,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Takes up to so many groups that are free, without waiting for another relay that is at it.
    fn take(
        on: &mut On<'_, Self>,
        relay: &RelayId,
        lease: Duration,
        count: usize,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// The leases of this relay.
    fn leases(
        on: &mut On<'_, Self>,
        incarnation: Uuid,
    ) -> impl Future<Output = QueryResult<Vec<LeaseRow>>> + Send;

    /// Whether there is a [`pulse`](Self::pulse).
    const HAS_PULSE: bool = true;

    /// What most heartbeats are, in as few statements as the database can do it in, each by itself: records that the relay lives, if
    /// it did, renews its leases, and tells them, with the census and whether there is more to do. It changes nothing else.
    /// There is a row in any case.
    fn pulse(
        on: &mut On<'_, Self>,
        incarnation: Uuid,
        lease: Duration,
    ) -> impl Future<Output = QueryResult<Vec<PulseRow>>> + Send;

    /// How many groups and relays there are, and whether relaying is on hold.
    fn census(on: &mut On<'_, Self>, lease: Duration) -> impl Future<Output = QueryResult<Census>> + Send;

    /// Locks a lease's row; `false` if it is no longer of this epoch.
    fn fence(on: &mut On<'_, Self>, lease: Lease) -> impl Future<Output = QueryResult<bool>> + Send;

    /// The same of many leases: locks the rows of those that are still of their epoch, and gives their groups.
    fn fence_all(
        on: &mut On<'_, Self>,
        leases: &[Lease],
    ) -> impl Future<Output = QueryResult<Vec<i32>>> + Send;

    /// Gives all groups of this relay back.
    fn leave_groups(on: &mut On<'_, Self>, incarnation: Uuid)
    -> impl Future<Output = QueryResult<()>> + Send;

    /// Signs off.
    fn sign_off(on: &mut On<'_, Self>, incarnation: Uuid) -> impl Future<Output = QueryResult<()>> + Send;

    // --- Requests; in a transaction that holds the rows of these groups' leases locked.

    /// Whether anything is asked for and not done, due or not; in no transaction.
    fn are_requests_open(on: &mut On<'_, Self>) -> impl Future<Output = QueryResult<bool>> + Send;

    /// The requests of a query that are due.
    fn due_requests(
        on: &mut On<'_, Self>,
        query: Query,
    ) -> impl Future<Output = QueryResult<Vec<DueRequest>>> + Send;

    /// The lanes of a query that have requests for later.
    fn later(on: &mut On<'_, Self>, query: Query) -> impl Future<Output = QueryResult<Vec<Later>>> + Send;

    /// These dead letters go back behind the gate of their lane.
    fn replay(on: &mut On<'_, Self>, dead: &[i64]) -> impl Future<Output = QueryResult<()>> + Send;

    /// These dead letters go; what waits behind them is due.
    fn discard_dead(on: &mut On<'_, Self>, dead: &[i64]) -> impl Future<Output = QueryResult<()>> + Send;

    /// Opens the gates of these groups that are due and have nothing behind them.
    fn sweep_gates(on: &mut On<'_, Self>, groups: &[i32]) -> impl Future<Output = QueryResult<()>> + Send;

    // --- Rows.

    /// The rows that may be sent, as of one snapshot that begins after the call.
    fn read(
        on: &mut On<'_, Self>,
        request: &ReadRequest,
    ) -> impl Future<Output = QueryResult<Vec<Record>>> + Send;

    /// The first rows of the lanes whose gate is due.
    fn read_parked(
        on: &mut On<'_, Self>,
        request: &ReadRequest,
    ) -> impl Future<Output = QueryResult<Vec<Record>>> + Send;

    /// Removes rows of the hot table; how many.
    fn settle_hot(on: &mut On<'_, Self>, ids: &[i64]) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Removes rows that stand aside.
    fn settle_parked(
        on: &mut On<'_, Self>,
        confirmed: &[&Confirmed],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Moves rows of the hot table to those that were sent, all or none; how many.
    fn keep_hot(
        on: &mut On<'_, Self>,
        confirmed: &[&Confirmed],
    ) -> impl Future<Output = QueryResult<usize>> + Send;

    /// Moves rows that stand aside to those that were sent, all or none.
    fn keep_parked(
        on: &mut On<'_, Self>,
        confirmed: &[&Confirmed],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    // What moves keeps its id, unless a row has it where it goes to: then it gets a new one.

    /// Moves a row of the hot table aside, with its attempts and its error; `false` if it is not there.
    fn park(on: &mut On<'_, Self>, rejection: &Rejection) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Notes a refusal of a row that stands aside; `false` if it does not. Done twice, it is noted once.
    fn park_again(
        on: &mut On<'_, Self>,
        rejection: &Rejection,
    ) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Moves a row of the hot table to the dead letters; `false` if it is not there.
    fn bury(on: &mut On<'_, Self>, rejection: &Rejection) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Moves a row that stands aside to the dead letters; `false` if it does not.
    fn bury_parked(
        on: &mut On<'_, Self>,
        rejection: &Rejection,
    ) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Moves rows of the hot table aside as they are, but for those of other lanes.
    fn set_aside(
        on: &mut On<'_, Self>,
        lane: &Lane,
        ids: &[i64],
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Moves the first rows of a lane that stand aside behind its first dead letter, so many at most, to the dead letters, as ones that
    /// follow another: all, or those that were neither refused nor replayed. What stands before that one has been sent, and waits only
    /// to be settled.
    fn follow(
        on: &mut On<'_, Self>,
        lane: &Lane,
        max: usize,
        all: bool,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    // --- Gates.

    /// Closes the gate of the lane of a row that was moved, for so long, or until someone acts.
    fn close_gate(
        on: &mut On<'_, Self>,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// The gate of a lane; `None` if it is open.
    fn gate(on: &mut On<'_, Self>, lane: &Lane) -> impl Future<Output = QueryResult<Option<Gate>>> + Send;

    /// Whether rows of a lane stand aside, or wait for what someone does about a dead letter.
    fn gate_is_needed(on: &mut On<'_, Self>, lane: &Lane) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Opens the gate of a lane.
    fn open_gate(on: &mut On<'_, Self>, lane: &Lane) -> impl Future<Output = QueryResult<()>> + Send;

    // --- Scheduled rows.

    /// Seconds until the first one of these groups is due; negative if it is, `None` if there is none.
    fn next_due(
        on: &mut On<'_, Self>,
        groups: &[i32],
    ) -> impl Future<Output = QueryResult<Option<f64>>> + Send;

    /// Locks the rows of leases that are still of their epoch, but for those that a heartbeat has locked: it never waits
    /// for one. Gives their groups.
    fn lock_leases(
        on: &mut On<'_, Self>,
        leases: &[Lease],
    ) -> impl Future<Output = QueryResult<Vec<i32>>> + Send;

    /// The first ones of these groups, but not of these slots, that are due, in the order in which they are to go.
    fn due(
        on: &mut On<'_, Self>,
        groups: &[i32],
        but: &[i32],
        limit: usize,
    ) -> impl Future<Output = QueryResult<Vec<Due>>> + Send;

    /// Locks those of these that are still there and still due, but for those that a writer has locked.
    fn lock_due(on: &mut On<'_, Self>, ids: &[i64]) -> impl Future<Output = QueryResult<Vec<i64>>> + Send;

    /// Moves these into the hot table, in the order of their time and id and under new ids.
    fn move_due(on: &mut On<'_, Self>, ids: &[i64]) -> impl Future<Output = QueryResult<()>> + Send;
}

/// A gate that is closed.
#[derive(QueryableByName, Debug)]
pub struct Gate {
    /// Until someone has decided about the dead letters of its lane.
    #[diesel(sql_type = Bool)]
    pub(crate) waits_for_dead: bool,
}

/// A deduplication key that somebody else has.
#[derive(QueryableByName, Debug)]
pub(crate) struct TakenKey {
    #[diesel(sql_type = Binary)]
    pub(crate) dedup_key: Vec<u8>,
    #[diesel(sql_type = Text)]
    event_id: String,
}

impl From<TakenKey> for (Vec<u8>, Uuid) {
    fn from(taken: TakenKey) -> Self {
        (taken.dedup_key, Uuid::try_parse(&taken.event_id).unwrap_or_default())
    }
}

/// A key and its version.
#[derive(QueryableByName, Debug)]
pub(crate) struct VersionRow {
    #[diesel(sql_type = Binary)]
    message_key: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    version: i64,
}

impl From<VersionRow> for (Vec<u8>, i64) {
    fn from(row: VersionRow) -> Self {
        (row.message_key, row.version)
    }
}

/// A time, as microseconds since 1970.
#[derive(QueryableByName, Debug)]
pub(crate) struct Micros {
    #[diesel(sql_type = BigInt)]
    micros: i64,
}

impl From<Micros> for DateTime<Utc> {
    fn from(time: Micros) -> Self {
        DateTime::from_timestamp_micros(time.micros).unwrap_or_default()
    }
}

/// A scheduled row whose time has come.
#[derive(QueryableByName, Debug)]
pub struct Due {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Integer)]
    pub(crate) slot: i32,
}

/// Seconds until something is due.
#[derive(QueryableByName, Debug)]
pub(crate) struct Wait {
    #[diesel(sql_type = Nullable<Double>)]
    pub(crate) seconds: Option<f64>,
}

/// What a heartbeat tells about the others.
#[derive(QueryableByName, Debug)]
pub struct Census {
    #[diesel(sql_type = BigInt)]
    pub(crate) all_groups: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) relays: i64,
    #[diesel(sql_type = Bool)]
    pub(crate) hold: bool,
    /// `None` if the row is lost.
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) installation_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(crate) order_unit: Option<String>,
    /// No gate is closed, in whichever group.
    #[diesel(sql_type = Bool)]
    pub(crate) nothing_aside: bool,
    /// Nothing is scheduled, in whichever group.
    #[diesel(sql_type = Bool)]
    pub(crate) nothing_scheduled: bool,
}

/// A lease, as it stands in the table.
#[derive(QueryableByName, Debug)]
pub struct LeaseRow {
    #[diesel(sql_type = Integer)]
    group_no: i32,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = Bool)]
    dirty: bool,
    #[diesel(sql_type = Nullable<Text>)]
    suspects: Option<String>,
}

/// A lease or none, the census, and what else there is to do.
#[derive(QueryableByName, Debug)]
pub struct PulseRow {
    #[diesel(embed)]
    pub(crate) census: Census,
    /// The relay's row and all its leases have been met, there are no relays to forget, and no gate is due.
    #[diesel(sql_type = Bool)]
    pub(crate) is_all: bool,
    /// There is a group that may be taken.
    #[diesel(sql_type = Bool)]
    pub(crate) has_free: bool,
    #[diesel(sql_type = Nullable<Integer>)]
    group_no: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    epoch: Option<i64>,
    #[diesel(sql_type = Nullable<Bool>)]
    dirty: Option<bool>,
    #[diesel(sql_type = Nullable<Text>)]
    suspects: Option<String>,
}

impl PulseRow {
    pub(crate) fn lease(&self) -> Option<LeaseRow> {
        let Self { group_no, epoch, dirty, suspects, .. } = self;
        Some(LeaseRow {
            group_no: (*group_no)?,
            epoch: (*epoch)?,
            dirty: (*dirty)?,
            suspects: suspects.clone(),
        })
    }
}

impl LeaseRow {
    pub(crate) fn lease(&self) -> Lease {
        Lease { group: GroupNo(self.group_no), epoch: self.epoch }
    }

    /// What its last owner was sending with suspicion, if that one ended without a release.
    pub(crate) fn suspects(&self) -> Option<Vec<i64>> {
        let ids = self.suspects.as_deref().unwrap_or_default();
        self.dirty.then(|| ids.split(',').filter_map(|id| id.parse().ok()).collect())
    }
}

/// A group.
#[derive(QueryableByName, Debug)]
pub(crate) struct GroupRow {
    #[diesel(sql_type = Integer)]
    pub(crate) group_no: i32,
}

/// The answer to a question.
#[derive(QueryableByName, Debug)]
pub(crate) struct Exists {
    #[diesel(sql_type = Bool)]
    pub(crate) found: bool,
}

/// A number.
#[derive(QueryableByName, Debug)]
pub(crate) struct Number {
    #[diesel(sql_type = BigInt)]
    pub(crate) value: i64,
}

/// What the tables say of themselves.
#[derive(QueryableByName, Debug)]
pub struct Meta {
    /// Of the tables.
    #[diesel(sql_type = Integer)]
    pub(crate) schema_version: i32,
    /// The oldest that a program may know.
    #[diesel(sql_type = Integer)]
    pub(crate) min_reader_version: i32,
    #[diesel(sql_type = Text)]
    pub(crate) installation_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) order_unit: String,
}

/// How many groups there are.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const GROUPS: usize = 64;

/// How far a read looks. It begins with the cheapest, and goes on until that was enough.
#[cfg(any(feature = "postgres", feature = "mysql"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Through all groups in the order of the ids: by far the cheapest, for whoever owns them all.
    All,
    /// For so many first rows of each group, cut by their ids where there are too many. Rows are spread over the groups as a
    /// rule, and fetching and sorting a full batch of each takes most of the time. So a few of each come first.
    OfEachGroup(usize),
    /// The same, cut by their places in their groups: the first of each, then the second of each, and so on. By their ids, those
    /// of a key that has very many would come before all that was written later, and fill the answer and then the memory.
    ///
    /// No row is left out for a later one of its lane: a lane is of one group, in which places are given in the order of the ids.
    Shares(usize),
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
impl Reach {
    pub(crate) fn first(request: &ReadRequest) -> Self {
        if request.leases.len() == GROUPS { Self::All } else { Self::a_few(request) }
    }

    /// After these rows; `None` if they are enough.
    pub(crate) fn next(self, rows: &[Record], request: &ReadRequest) -> Option<Self> {
        let mut counts = HashMap::<i32, usize>::new();
        rows.iter().for_each(|row| *counts.entry(row.group_no).or_default() += 1);
        let most = counts.into_values().max().unwrap_or(0);
        let bytes: i64 = rows.iter().map(|row| i64::from(row.size)).sum();
        let is_full = rows.len() >= request.limit || bytes > limit(request.max_bytes) / 2;
        // A key that has very many must not keep the others out of the memory. A group may well have its share, and half of that.
        let share = rows.len().div_ceil(request.leases.len().max(1));
        let is_uneven = most > rows.len().div_ceil(4).max(share + share / 2);
        match self {
            Self::All => (is_full && is_uneven).then(|| Self::a_few(request)),
            Self::OfEachGroup(each) if is_full => is_uneven.then_some(Self::Shares(each)),
            Self::OfEachGroup(each) => (most >= each).then_some(Self::Shares(request.limit)),
            Self::Shares(_) => None,
        }
    }

    fn a_few(request: &ReadRequest) -> Self {
        /// Worth a statement.
        const FEW: usize = 8;
        let few = request.limit.saturating_mul(2).div_ceil(request.leases.len().max(1));
        Self::OfEachGroup(few.max(FEW).min(request.limit))
    }
}

/// For diesel's books: the transaction has ended, by a statement of our own.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn has_ended<C: AsyncConnection>(conn: &mut C) -> QueryResult<()> {
    match C::TransactionManager::transaction_manager_status_mut(conn) {
        TransactionManagerStatus::Valid(books) => {
            books.change_transaction_depth(TransactionDepthChange::DecreaseDepth)
        }
        TransactionManagerStatus::InError => Err(diesel::result::Error::BrokenTransactionManager),
    }
}

/// A query of no rows that names all tables of a relay.
pub(crate) const TABLES: &str = "\
    SELECT 1 FROM cqrs_outbox WHERE 1 = 0 UNION ALL SELECT 1 FROM cqrs_outbox_parked WHERE 1 = 0 \
    UNION ALL SELECT 1 FROM cqrs_outbox_dead WHERE 1 = 0 UNION ALL SELECT 1 FROM cqrs_outbox_gate WHERE 1 = 0 \
    UNION ALL SELECT 1 FROM cqrs_outbox_group WHERE 1 = 0 UNION ALL SELECT 1 FROM cqrs_outbox_relay WHERE 1 = 0 \
    UNION ALL SELECT 1 FROM cqrs_outbox_request WHERE 1 = 0 \
    UNION ALL SELECT 1 FROM cqrs_outbox_scheduled WHERE 1 = 0 UNION ALL SELECT 1 FROM cqrs_outbox_dedup WHERE 1 = 0 \
    UNION ALL SELECT 1 FROM cqrs_outbox_version WHERE 1 = 0 UNION ALL SELECT 1 FROM cqrs_outbox_sent WHERE 1 = 0";

/// The numbers of the groups of these leases.
pub(crate) fn groups_of(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.group.0).collect()
}

/// Numbers as the right side of an `IN`, without its parentheses, or as a JSON array without its brackets.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The places of one row or value, so many times.
pub(crate) fn places(row: &str, count: usize) -> String {
    vec![row; count].join(", ")
}

/// As a `LIMIT`.
pub(crate) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Rows, their receipts and their events as JSON: `[[id, partition, offset, event], ..]`.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) fn receipts(confirmed: &[&Confirmed]) -> String {
    let receipt = |confirmed: &&Confirmed| {
        let event = confirmed.event_id().simple().to_string();
        serde_json::json!([confirmed.id(), confirmed.receipt().partition, confirmed.receipt().offset, event])
    };
    serde_json::Value::from_iter(confirmed.iter().map(receipt)).to_string()
}

/// What the attempts of a rejected row are to be.
pub(crate) fn attempts(rejection: &Rejection) -> i32 {
    i32::try_from(rejection.attempts).unwrap_or(i32::MAX)
}

#[cfg(all(test, any(feature = "postgres", feature = "mysql")))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_may_be_as_large_as_numbers_are() {
        let request =
            ReadRequest { leases: Vec::new(), known: Vec::new(), limit: usize::MAX, max_bytes: 100 };
        assert_eq!(Reach::first(&request), Reach::OfEachGroup(usize::MAX));
        let request = ReadRequest { limit: 100, ..request };
        assert_eq!(Reach::first(&request), Reach::OfEachGroup(100));
    }
}
