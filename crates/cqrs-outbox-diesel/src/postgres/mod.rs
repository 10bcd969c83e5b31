//! PostgreSQL.

mod connect;
mod drift;
mod floor;
mod notify;
mod prepared;
mod sql;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_core::{Database, MessageId};
use cqrs_outbox::table::OutboxRecord;
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::connection::{TransactionDepthChange, TransactionManagerStatus};
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::Error as DieselError;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Double, Integer, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
    TransactionManager,
};
use uuid::Uuid;

pub use self::connect::PgBuilder;
use self::floor::{Basis, Floors};
use self::prepared::{Parameter, prepared};
use crate::backend::Backend;
use crate::dead_letters::{DeadRow, FullDeadRow};
use crate::drift::{Fact, Sequence};
use crate::migration::{Migration, POSTGRES, POSTGRES_META};
use crate::network::pool_error;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Micros, Number, PulseRow, Reach, Statements, TABLES,
    TakenKey, VersionRow, Versions, Wait, attempts, groups_of, limit,
};
use crate::status::StatusRow;
use crate::tx::Tx;
use crate::writing::Claim;

/// PostgreSQL, 13 or newer, as the database of an [`Outbox`](crate::Outbox).
#[derive(Debug)]
pub enum Pg {}

impl Database for Pg {
    type Tx = Tx<Self>;
}

impl Backend for Pg {
    type Connection = AsyncPgConnection;
    type Guard = Object<AsyncPgConnection>;
}

impl Statements for Pg {
    type Conn = AsyncPgConnection;
    type Lent = Object<AsyncPgConnection>;
    type Pool = Pool<AsyncPgConnection>;
    type Memory = Floors;

    const MIGRATIONS: &'static [Migration] = POSTGRES;
    const META_TABLE: &'static str = POSTGRES_META;
    const DIALECT: Dialect = sql::DIALECT;

    async fn acquire(pool: &Self::Pool) -> Result<Self::Lent, StoreError> {
        pool.get().await.map_err(pool_error)
    }

    fn discard(lent: Self::Lent) {
        drop(Object::take(lent));
    }

    async fn begin(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        <AsyncPgConnection as AsyncConnection>::TransactionManager::begin_transaction(conn).await
    }

    async fn begin_short(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        AnsiTransactionManager::begin_transaction_sql(conn, sql::BEGIN_SHORT).await
    }

    /// In a transaction in which a statement has failed, COMMIT rolls back and calls that a success. Any other statement is refused
    /// there, and what comes behind it in the same message is not run.
    async fn commit(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        conn.batch_execute(sql::COMMIT).await?;
        match AnsiTransactionManager::transaction_manager_status_mut(conn) {
            TransactionManagerStatus::Valid(books) => {
                books.change_transaction_depth(TransactionDepthChange::DecreaseDepth)
            }
            TransactionManagerStatus::InError => Err(DieselError::BrokenTransactionManager),
        }
    }

    async fn limit_statements(conn: &mut AsyncPgConnection, limit: Duration) -> QueryResult<()> {
        let limit = format!("SET LOCAL statement_timeout = {}", limit.as_millis());
        conn.batch_execute(&limit).await
    }

    async fn insert(conn: &mut AsyncPgConnection, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        if let [row] = &rows[..] {
            prepared(sql::INSERT_ONE, parameters(row)).execute(conn).await?;
            return Ok(());
        }
        let mut columns = Columns::default();
        rows.into_iter().for_each(|row| columns.push(row));
        prepared(sql::INSERT, columns.parameters()).execute(conn).await?;
        Ok(())
    }

    async fn schedule(
        conn: &mut AsyncPgConnection,
        rows: Vec<(OutboxRecord, DateTime<Utc>)>,
    ) -> QueryResult<()> {
        let (mut columns, mut deliver_at) = (Columns::default(), Vec::new());
        for (row, at) in rows {
            columns.push(row);
            deliver_at.push(at);
        }
        let [one, two, three, four, five, six, seven, eight, nine, ten] = columns.parameters();
        let deliver_at = Parameter::Times(&deliver_at);
        let parameters = [one, two, three, four, five, six, seven, eight, nine, ten, deliver_at];
        prepared(sql::SCHEDULE, parameters).execute(conn).await?;
        Ok(())
    }

    async fn now(conn: &mut AsyncPgConnection) -> QueryResult<DateTime<Utc>> {
        Ok(sql_query(sql::NOW).get_result::<Micros>(conn).await?.into())
    }

    async fn claim(conn: &mut AsyncPgConnection, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let ours: Vec<Key> = sql_query(sql::CLAIM)
            .bind::<Array<Binary>, _>(claims.iter().map(|claim| &*claim.key).collect::<Vec<_>>())
            .bind::<Array<SqlUuid>, _>(claims.iter().map(|claim| claim.event_id).collect::<Vec<_>>())
            .bind::<Array<Double>, _>(claims.iter().map(|claim| claim.seconds).collect::<Vec<_>>())
            .load(conn)
            .await?;
        let ours: HashSet<Vec<u8>> = ours.into_iter().map(|key| key.dedup_key).collect();
        let others: Vec<&[u8]> =
            claims.iter().map(|claim| &*claim.key).filter(|key| !ours.contains(*key)).collect();
        if others.is_empty() {
            return Ok(HashMap::new());
        }
        let taken: Vec<TakenKey> =
            sql_query(sql::CLAIMED).bind::<Array<Binary>, _>(others).load(conn).await?;
        Ok(taken.into_iter().map(Into::into).collect())
    }

    async fn release_claims(conn: &mut AsyncPgConnection, keys: &[Vec<u8>]) -> QueryResult<()> {
        sql_query(sql::RELEASE_CLAIMS).bind::<Array<Binary>, _>(keys).execute(conn).await?;
        Ok(())
    }

    async fn purge_dedup(conn: &mut AsyncPgConnection, max: usize) -> QueryResult<usize> {
        sql_query(sql::PURGE_DEDUP).bind::<BigInt, _>(limit(max)).execute(conn).await
    }

    async fn lock_versions(
        conn: &mut AsyncPgConnection,
        keys: &[Vec<u8>],
    ) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let versions: Vec<VersionRow> =
            sql_query(sql::LOCK_VERSIONS).bind::<Array<Binary>, _>(keys).load(conn).await?;
        Ok(versions.into_iter().map(Into::into).collect())
    }

    async fn set_versions(conn: &mut AsyncPgConnection, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        let (keys, versions): (Vec<&[u8]>, Vec<i64>) =
            versions.iter().map(|(key, version)| (&**key, *version)).unzip();
        sql_query(sql::SET_VERSIONS)
            .bind::<Array<Binary>, _>(keys)
            .bind::<Array<BigInt>, _>(versions)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn lock_key(conn: &mut AsyncPgConnection, key: &[u8]) -> QueryResult<()> {
        sql_query(sql::LOCK_KEY).bind::<Integer, _>(KEY_LOCKS).bind::<Binary, _>(key).execute(conn).await?;
        Ok(())
    }

    async fn cancel(conn: &mut AsyncPgConnection, event_id: Uuid) -> QueryResult<bool> {
        Ok(sql_query(sql::CANCEL).bind::<SqlUuid, _>(event_id).execute(conn).await? > 0)
    }

    async fn reschedule(
        conn: &mut AsyncPgConnection,
        event_id: Uuid,
        at: DateTime<Utc>,
    ) -> QueryResult<bool> {
        let changed = sql_query(sql::RESCHEDULE)
            .bind::<SqlUuid, _>(event_id)
            .bind::<Timestamptz, _>(at)
            .execute(conn)
            .await?;
        Ok(changed > 0)
    }

    async fn scheduled(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(query).load(conn).await
    }

    async fn admit(conn: &mut AsyncPgConnection, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let written = sql_query(sql::ADMIT)
            .bind::<Text, _>(consumer)
            .bind::<Binary, _>(id.as_bytes())
            .execute(conn)
            .await?;
        Ok(written == 1)
    }

    async fn begin_migration(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        Self::begin(conn).await?;
        sql_query(sql::LOCK_MIGRATIONS).bind::<BigInt, _>(MIGRATION_LOCK).execute(conn).await?;
        Ok(())
    }

    async fn schema_version(conn: &mut AsyncPgConnection) -> QueryResult<Option<(i32, i32)>> {
        let exists: Exists = sql_query(sql::META_EXISTS).get_result(conn).await?;
        if !exists.found {
            // Nothing is found in a schema that this user may not use; to make tables in another one would be wrong.
            if let Some(hidden) = sql_query(sql::HIDDEN_META).get_result::<Name>(conn).await.optional()? {
                sql_query(format!("SELECT 1 FROM {}", hidden.name)).execute(conn).await?;
            }
            return Ok(None);
        }
        let versions: Option<Versions> = sql_query(sql::VERSIONS).get_result(conn).await.optional()?;
        Ok(versions.map(Into::into))
    }

    async fn has_tables(conn: &mut AsyncPgConnection) -> QueryResult<bool> {
        Ok(sql_query(sql::TABLES_EXIST).get_result::<Exists>(conn).await?.found)
    }

    async fn check_tables(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        sql_query(TABLES).execute(conn).await.map(drop)
    }

    async fn describe(conn: &mut AsyncPgConnection) -> QueryResult<Vec<Fact>> {
        drift::describe(conn).await
    }

    async fn describe_fresh(conn: &mut AsyncPgConnection) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh(conn).await
    }

    async fn sequences(conn: &mut AsyncPgConnection) -> QueryResult<Vec<Sequence>> {
        drift::sequences(conn).await
    }

    fn set_sequence(table: &str, highest: i64) -> String {
        format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), {highest})")
    }

    async fn set_schema_version(
        conn: &mut AsyncPgConnection,
        version: i32,
        min_reader_version: i32,
    ) -> QueryResult<()> {
        sql_query(sql::SET_VERSION)
            .bind::<Integer, _>(version)
            .bind::<Integer, _>(min_reader_version)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn status(conn: &mut AsyncPgConnection) -> QueryResult<StatusRow> {
        sql_query(sql::STATUS).get_result(conn).await
    }

    async fn set_hold(conn: &mut AsyncPgConnection, hold: bool) -> QueryResult<()> {
        sql_query(sql::SET_HOLD).bind::<Bool, _>(hold).execute(conn).await?;
        Ok(())
    }

    async fn dead_letters(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<DeadRow>> {
        bound(query).load(conn).await
    }

    async fn dead_letter(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Option<FullDeadRow>> {
        bound(query).get_result(conn).await.optional()
    }

    async fn requests(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<RequestRow>> {
        bound(query).load(conn).await
    }

    async fn numbers(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<i64>> {
        let numbers: Vec<Number> = bound(query).load(conn).await?;
        Ok(numbers.into_iter().map(|number| number.value).collect())
    }

    async fn execute(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<usize> {
        bound(query).execute(conn).await
    }

    async fn seen(conn: &mut AsyncPgConnection, relay: &RelayId) -> QueryResult<()> {
        prepared(
            sql::SEEN,
            [
                Parameter::Uuid(relay.incarnation),
                Parameter::Text(&relay.name),
                Parameter::Text(env!("CARGO_PKG_VERSION")),
            ],
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn forget_relays(conn: &mut AsyncPgConnection, lease: Duration) -> QueryResult<()> {
        prepared(sql::FORGET_RELAYS, [seconds(lease)]).execute(conn).await?;
        Ok(())
    }

    async fn release(conn: &mut AsyncPgConnection, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        prepared(
            sql::RELEASE,
            [
                Parameter::Uuid(incarnation),
                Parameter::Integers(&groups_of(leases)),
                Parameter::Numbers(&epochs),
            ],
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn renew(conn: &mut AsyncPgConnection, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        prepared(sql::RENEW, [Parameter::Uuid(incarnation), seconds(lease)]).execute(conn).await?;
        Ok(())
    }

    async fn take(
        conn: &mut AsyncPgConnection,
        relay: &RelayId,
        lease: Duration,
        count: usize,
    ) -> QueryResult<()> {
        prepared(
            sql::TAKE,
            [
                Parameter::Uuid(relay.incarnation),
                Parameter::Text(&relay.name),
                seconds(lease),
                Parameter::Number(limit(count)),
            ],
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn leases(conn: &mut AsyncPgConnection, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        prepared(sql::LEASES, [Parameter::Uuid(incarnation)]).load(conn).await
    }

    async fn pulse(
        conn: &mut AsyncPgConnection,
        incarnation: Uuid,
        lease: Duration,
    ) -> QueryResult<Vec<PulseRow>> {
        prepared(sql::PULSE, [Parameter::Uuid(incarnation), seconds(lease)]).load(conn).await
    }

    async fn census(conn: &mut AsyncPgConnection, lease: Duration) -> QueryResult<Census> {
        prepared(sql::CENSUS, [seconds(lease)]).get_result(conn).await
    }

    async fn fence(conn: &mut AsyncPgConnection, lease: Lease) -> QueryResult<bool> {
        let row: Option<Exists> =
            prepared(sql::FENCE, [Parameter::Integer(lease.group.0), Parameter::Number(lease.epoch)])
                .get_result(conn)
                .await
                .optional()?;
        Ok(row.is_some())
    }

    async fn fence_all(conn: &mut AsyncPgConnection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        let groups: Vec<GroupRow> =
            prepared(sql::FENCE_ALL, [Parameter::Integers(&groups_of(leases)), Parameter::Numbers(&epochs)])
                .load(conn)
                .await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn leave_groups(conn: &mut AsyncPgConnection, incarnation: Uuid) -> QueryResult<()> {
        prepared(sql::LEAVE_GROUPS, [Parameter::Uuid(incarnation)]).execute(conn).await?;
        Ok(())
    }

    async fn sign_off(conn: &mut AsyncPgConnection, incarnation: Uuid) -> QueryResult<()> {
        prepared(sql::SIGN_OFF, [Parameter::Uuid(incarnation)]).execute(conn).await?;
        Ok(())
    }

    async fn are_requests_open(conn: &mut AsyncPgConnection) -> QueryResult<bool> {
        Ok(prepared(ARE_OPEN, []).get_result::<Number>(conn).await?.value > 0)
    }

    async fn due_requests(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(query).load(conn).await
    }

    async fn later(conn: &mut AsyncPgConnection, query: Query) -> QueryResult<Vec<Later>> {
        bound(query).load(conn).await
    }

    async fn replay(conn: &mut AsyncPgConnection, dead: &[i64]) -> QueryResult<()> {
        sql_query(sql::REPLAY).bind::<Array<BigInt>, _>(dead).execute(conn).await?;
        Ok(())
    }

    async fn discard_dead(conn: &mut AsyncPgConnection, dead: &[i64]) -> QueryResult<()> {
        sql_query(sql::DISCARD).bind::<Array<BigInt>, _>(dead).execute(conn).await?;
        Ok(())
    }

    async fn sweep_gates(conn: &mut AsyncPgConnection, groups: &[i32]) -> QueryResult<()> {
        prepared(sql::SWEEP_GATES, [Parameter::Integers(groups)]).execute(conn).await?;
        Ok(())
    }

    async fn read(
        conn: &mut AsyncPgConnection,
        request: &ReadRequest,
        memory: &Floors,
    ) -> QueryResult<Vec<Record>> {
        let groups = groups_of(&request.leases);
        let beginning = memory.of(conn, &groups).await;
        let (floors, Basis { sequence, generation, last }) = (&beginning.floors, &beginning.basis);
        let basis = [Parameter::Number(*sequence), Parameter::Text(generation), Parameter::Number(*last)];
        let [sequence, generation, last] = basis;
        let mut rows = Vec::new();
        let known = Parameter::Numbers(&request.known);
        let [most, max_bytes] = [request.limit, request.max_bytes].map(|most| Parameter::Number(limit(most)));
        let mut next = Some(Reach::first(request));
        while let Some(reach) = next {
            let found = match reach {
                Reach::All => {
                    let floor = Parameter::Number(floors.iter().min().copied().unwrap_or(i64::MIN));
                    let parameters = [sequence, generation, last, floor, known, most, max_bytes];
                    prepared(sql::READ_ALL, parameters).load(conn).await?
                }
                Reach::OfEachGroup(each) | Reach::Shares(each) => {
                    let (groups, floors) = (Parameter::Integers(&groups), Parameter::Numbers(floors));
                    let each = Parameter::Number(limit(each));
                    let parameters =
                        [sequence, generation, last, groups, floors, known, each, most, max_bytes];
                    let by_share = matches!(reach, Reach::Shares(_));
                    let read = if by_share { sql::READ_SHARES } else { sql::READ_GROUPS };
                    prepared(read, parameters).load(conn).await?
                }
            };
            rows = memory.have_read(&beginning, found).await;
            next = reach.next(&rows, request);
        }
        Ok(rows)
    }

    async fn read_parked(conn: &mut AsyncPgConnection, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        prepared(
            sql::READ_PARKED,
            [
                Parameter::Integers(&groups_of(&request.leases)),
                Parameter::Numbers(&request.known),
                Parameter::Number(limit(request.limit)),
                Parameter::Number(limit(request.max_bytes)),
            ],
        )
        .load(conn)
        .await
    }

    async fn settle_hot(conn: &mut AsyncPgConnection, ids: &[i64]) -> QueryResult<usize> {
        prepared(sql::SETTLE_HOT, [Parameter::Numbers(ids)]).execute(conn).await
    }

    async fn settle_parked(conn: &mut AsyncPgConnection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        let (ids, events): (Vec<i64>, Vec<Uuid>) =
            confirmed.iter().map(|one| (one.id(), one.event_id())).unzip();
        prepared(sql::SETTLE_PARKED, [Parameter::Numbers(&ids), Parameter::Uuids(&events)])
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn keep_hot(conn: &mut AsyncPgConnection, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        keep(conn, sql::KEEP_HOT, confirmed).await
    }

    async fn keep_parked(conn: &mut AsyncPgConnection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        keep(conn, sql::KEEP_PARKED, confirmed).await.map(drop)
    }

    async fn park(conn: &mut AsyncPgConnection, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(sql::PARK_HOT, refused(rejection)).execute(conn).await? > 0)
    }

    async fn park_again(conn: &mut AsyncPgConnection, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(sql::PARK_AGAIN, refused(rejection)).execute(conn).await? > 0)
    }

    async fn bury(conn: &mut AsyncPgConnection, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(sql::BURY_HOT, refused(rejection)).execute(conn).await? > 0)
    }

    async fn bury_parked(conn: &mut AsyncPgConnection, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(sql::BURY_PARKED, refused(rejection)).execute(conn).await? > 0)
    }

    async fn set_aside(conn: &mut AsyncPgConnection, lane: &Lane, ids: &[i64]) -> QueryResult<()> {
        prepared(sql::SET_ASIDE, [Parameter::Numbers(ids), lane_of(lane)]).execute(conn).await?;
        Ok(())
    }

    async fn follow(conn: &mut AsyncPgConnection, lane: &Lane, max: usize) -> QueryResult<()> {
        sql_query(sql::FOLLOW)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .bind::<BigInt, _>(limit(max))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn close_gate(
        conn: &mut AsyncPgConnection,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        prepared(
            sql::CLOSE_GATE,
            [
                lane_of(&rejection.lane),
                Parameter::Seconds(wait.map(|wait| wait.as_secs_f64())),
                Parameter::Text(&rejection.error),
            ],
        )
        .execute(conn)
        .await?;
        Ok(())
    }

    async fn gate(conn: &mut AsyncPgConnection, lane: &Lane) -> QueryResult<Option<Gate>> {
        prepared(sql::GATE, [lane_of(lane)]).get_result(conn).await.optional()
    }

    async fn gate_is_needed(conn: &mut AsyncPgConnection, lane: &Lane) -> QueryResult<bool> {
        let exists: Exists = prepared(sql::GATE_IS_NEEDED, [lane_of(lane)]).get_result(conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(conn: &mut AsyncPgConnection, lane: &Lane) -> QueryResult<()> {
        prepared(sql::OPEN_GATE, [lane_of(lane)]).execute(conn).await?;
        Ok(())
    }

    async fn next_due(conn: &mut AsyncPgConnection, groups: &[i32]) -> QueryResult<Option<f64>> {
        let wait: Wait = prepared(sql::NEXT_DUE, [Parameter::Integers(groups)]).get_result(conn).await?;
        Ok(wait.seconds)
    }

    async fn lock_leases(conn: &mut AsyncPgConnection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        let groups: Vec<GroupRow> = prepared(
            sql::LOCK_LEASES,
            [Parameter::Integers(&groups_of(leases)), Parameter::Numbers(&epochs)],
        )
        .load(conn)
        .await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn due(
        conn: &mut AsyncPgConnection,
        groups: &[i32],
        but: &[i32],
        max: usize,
    ) -> QueryResult<Vec<Due>> {
        prepared(
            sql::DUE,
            [Parameter::Integers(groups), Parameter::Integers(but), Parameter::Number(limit(max))],
        )
        .load(conn)
        .await
    }

    async fn lock_due(conn: &mut AsyncPgConnection, ids: &[i64]) -> QueryResult<Vec<i64>> {
        let rows: Vec<Id> = prepared(sql::LOCK_DUE, [Parameter::Numbers(ids)]).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    async fn move_due(conn: &mut AsyncPgConnection, ids: &[i64]) -> QueryResult<()> {
        prepared(sql::MOVE_DUE, [Parameter::Numbers(ids)]).execute(conn).await?;
        Ok(())
    }
}

#[derive(QueryableByName)]
struct Key {
    #[diesel(sql_type = Binary)]
    dedup_key: Vec<u8>,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

async fn keep(
    conn: &mut AsyncPgConnection,
    statement: &'static str,
    confirmed: &[&Confirmed],
) -> QueryResult<usize> {
    let ids: Vec<i64> = confirmed.iter().map(|one| one.id()).collect();
    let partitions: Vec<Option<i32>> = confirmed.iter().map(|one| one.receipt().partition).collect();
    let offsets: Vec<Option<i64>> = confirmed.iter().map(|one| one.receipt().offset).collect();
    let events: Vec<Uuid> = confirmed.iter().map(|one| one.event_id()).collect();
    let parameters = [
        Parameter::Numbers(&ids),
        Parameter::Partitions(&partitions),
        Parameter::Offsets(&offsets),
        Parameter::Uuids(&events),
    ];
    prepared(statement, parameters).execute(conn).await
}

fn bound(query: Query) -> BoxedSqlQuery<'static, diesel::pg::Pg, SqlQuery> {
    let (text, values) = query.into_numbered();
    values.into_iter().fold(sql_query(text).into_boxed(), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        Value::Time(time) => query.bind::<Timestamptz, _>(time),
    })
}

/// Any number that others do not use for an advisory lock: the letters `cqrs`.
const MIGRATION_LOCK: i64 = 0x6371_7273;

/// The same, as the first of two: those are locks of their own.
const KEY_LOCKS: i32 = 0x6371_7273;

fn seconds(duration: Duration) -> Parameter<'static> {
    Parameter::Seconds(Some(duration.as_secs_f64()))
}

fn lane_of(lane: &Lane) -> Parameter<'_> {
    Parameter::Blob(Some(lane.as_bytes()))
}

/// A row that was refused: its id, its lane, why, and its attempts.
fn refused(rejection: &Rejection) -> [Parameter<'_>; 4] {
    [
        Parameter::Number(rejection.id),
        lane_of(&rejection.lane),
        Parameter::Text(&rejection.error),
        Parameter::Integer(attempts(rejection)),
    ]
}

/// In the order of [`OutboxRecord::COLUMNS`].
fn parameters(row: &OutboxRecord) -> [Parameter<'_>; OutboxRecord::COLUMNS.len()] {
    [
        Parameter::Uuid(row.event_id),
        Parameter::Text(&row.event_name),
        Parameter::Text(row.event_kind),
        Parameter::Integer(row.event_version),
        Parameter::Text(&row.topic),
        Parameter::Blob(row.message_key.as_deref()),
        Parameter::Text(&row.headers),
        Parameter::Text(&row.content_type),
        Parameter::Blob(row.payload.as_deref()),
        Parameter::Bool(row.payload.is_none()),
        Parameter::Time(row.occurred_at),
    ]
}

/// New rows by column: one array a parameter, so that one fixed statement serves any number of rows.
#[derive(Default)]
struct Columns {
    event_id: Vec<Uuid>,
    event_name: Vec<String>,
    event_kind: Vec<&'static str>,
    event_version: Vec<i32>,
    topic: Vec<String>,
    message_key: Vec<Option<Vec<u8>>>,
    headers: Vec<String>,
    content_type: Vec<String>,
    payload: Vec<Option<Vec<u8>>>,
    occurred_at: Vec<DateTime<Utc>>,
}

impl Columns {
    fn push(&mut self, row: OutboxRecord) {
        self.event_id.push(row.event_id);
        self.event_name.push(row.event_name);
        self.event_kind.push(row.event_kind);
        self.event_version.push(row.event_version);
        self.topic.push(row.topic);
        self.message_key.push(row.message_key);
        self.headers.push(row.headers);
        self.content_type.push(row.content_type);
        self.payload.push(row.payload);
        self.occurred_at.push(row.occurred_at);
    }

    /// The first ten parameters of a statement.
    fn parameters(&self) -> [Parameter<'_>; 10] {
        [
            Parameter::Uuids(&self.event_id),
            Parameter::Texts(&self.event_name),
            Parameter::Words(&self.event_kind),
            Parameter::Integers(&self.event_version),
            Parameter::Texts(&self.topic),
            Parameter::Blobs(&self.message_key),
            Parameter::Texts(&self.headers),
            Parameter::Texts(&self.content_type),
            Parameter::Blobs(&self.payload),
            Parameter::Times(&self.occurred_at),
        ]
    }
}
