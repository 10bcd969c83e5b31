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
use cqrs_outbox::table::{self, OutboxRecord, TableNames};
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
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
use crate::dead_letters::{FullDeadRow, ListedRow};
use crate::drift::{Fact, Sequence};
use crate::migration::{Migration, POSTGRES, POSTGRES_META};
use crate::network::pool_error;
use crate::on::{Lanes, On};
use crate::parked::ParkedRow;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Meta, Micros, Number, PulseRow, Reach, Statements, TABLES,
    TakenKey, VersionRow, Wait, attempts, groups_of, has_ended, limit,
};
use crate::status::StatusRow;
use crate::tx::Tx;
use crate::writing::Claim;

/// PostgreSQL, 13 or newer, as the database of an [`Outbox`](crate::Outbox).
///
/// Your own transactions keep the server's isolation level, and where `default_transaction_isolation` is above READ COMMITTED, of two that
/// meet (in a deduplication key, the version of a key, a message in the inbox, a scheduled event) the second fails with an error that is
/// worth a retry, where it would wait. Transactions of a relay, of an operator and of a migration are at READ COMMITTED. Single statements of a
/// relay are at the server's level; one that meets another is tried again.
///
/// One server that writes, and its physical standbys. The order of a key is not promised on distributed databases that speak
/// PostgreSQL's protocol, for they hand out ids in bunches, nor across a switch-over by logical replication, which does not take the
/// sequences along: hold relaying before it ([`Outbox::hold`](crate::Outbox::hold)), and set them by the statement that
/// [`Outbox::drift`](crate::Outbox::drift) gives.
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
    const SQL: table::Dialect = table::Dialect::Postgres;
    const DIALECT: Dialect = sql::DIALECT;
    const LANES: Lanes = sql::LANES;

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
        has_ended(conn)
    }

    async fn limit_statements(conn: &mut AsyncPgConnection, limit: Duration) -> QueryResult<()> {
        let limit = format!("SET LOCAL statement_timeout = {}", limit.as_millis());
        conn.batch_execute(&limit).await
    }

    async fn insert(on: &mut On<'_, Pg>, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        if let [row] = &rows[..] {
            prepared(on.sql(sql::INSERT_ONE), parameters(row)).execute(on.conn).await?;
            return Ok(());
        }
        let mut columns = Columns::default();
        rows.into_iter().for_each(|row| columns.push(row));
        prepared(on.sql(sql::INSERT), columns.parameters()).execute(on.conn).await?;
        Ok(())
    }

    async fn schedule(on: &mut On<'_, Pg>, rows: Vec<(OutboxRecord, DateTime<Utc>)>) -> QueryResult<()> {
        let (mut columns, mut deliver_at) = (Columns::default(), Vec::new());
        for (row, at) in rows {
            columns.push(row);
            deliver_at.push(at);
        }
        let [one, two, three, four, five, six, seven, eight, nine, ten] = columns.parameters();
        let deliver_at = Parameter::Times(&deliver_at);
        let parameters = [one, two, three, four, five, six, seven, eight, nine, ten, deliver_at];
        prepared(on.sql(sql::SCHEDULE), parameters).execute(on.conn).await?;
        Ok(())
    }

    async fn now(on: &mut On<'_, Pg>) -> QueryResult<DateTime<Utc>> {
        Ok(on.query(sql::NOW).get_result::<Micros>(on.conn).await?.into())
    }

    async fn claim(on: &mut On<'_, Pg>, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let ours: Vec<Key> = on
            .query(sql::CLAIM)
            .bind::<Array<Binary>, _>(claims.iter().map(|claim| &*claim.key).collect::<Vec<_>>())
            .bind::<Array<SqlUuid>, _>(claims.iter().map(|claim| claim.event_id).collect::<Vec<_>>())
            .bind::<Array<Double>, _>(claims.iter().map(|claim| claim.seconds).collect::<Vec<_>>())
            .load(on.conn)
            .await?;
        let ours: HashSet<Vec<u8>> = ours.into_iter().map(|key| key.dedup_key).collect();
        let others: Vec<&[u8]> =
            claims.iter().map(|claim| &*claim.key).filter(|key| !ours.contains(*key)).collect();
        if others.is_empty() {
            return Ok(HashMap::new());
        }
        let taken: Vec<TakenKey> =
            on.query(sql::CLAIMED).bind::<Array<Binary>, _>(others).load(on.conn).await?;
        Ok(taken.into_iter().map(Into::into).collect())
    }

    async fn release_claims(on: &mut On<'_, Pg>, keys: &[Vec<u8>]) -> QueryResult<()> {
        on.query(sql::RELEASE_CLAIMS).bind::<Array<Binary>, _>(keys).execute(on.conn).await?;
        Ok(())
    }

    async fn purge_dedup(on: &mut On<'_, Pg>, max: usize) -> QueryResult<usize> {
        on.query(sql::PURGE_DEDUP).bind::<BigInt, _>(limit(max)).execute(on.conn).await
    }

    async fn lock_versions(on: &mut On<'_, Pg>, keys: &[Vec<u8>]) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let versions: Vec<VersionRow> =
            on.query(sql::LOCK_VERSIONS).bind::<Array<Binary>, _>(keys).load(on.conn).await?;
        Ok(versions.into_iter().map(Into::into).collect())
    }

    async fn set_versions(on: &mut On<'_, Pg>, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        let (keys, versions): (Vec<&[u8]>, Vec<i64>) =
            versions.iter().map(|(key, version)| (&**key, *version)).unzip();
        on.query(sql::SET_VERSIONS)
            .bind::<Array<Binary>, _>(keys)
            .bind::<Array<BigInt>, _>(versions)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn lock_key(on: &mut On<'_, Pg>, key: &[u8]) -> QueryResult<()> {
        on.query(sql::LOCK_KEY).bind::<Binary, _>(key).execute(on.conn).await?;
        Ok(())
    }

    async fn cancel(on: &mut On<'_, Pg>, event_id: Uuid) -> QueryResult<bool> {
        let cancelled: Number =
            on.query(sql::CANCEL).bind::<SqlUuid, _>(event_id).get_result(on.conn).await?;
        Ok(cancelled.value > 0)
    }

    async fn reschedule(on: &mut On<'_, Pg>, event_id: Uuid, at: DateTime<Utc>) -> QueryResult<bool> {
        let changed = on
            .query(sql::RESCHEDULE)
            .bind::<SqlUuid, _>(event_id)
            .bind::<Timestamptz, _>(at)
            .execute(on.conn)
            .await?;
        Ok(changed > 0)
    }

    async fn scheduled(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(on, query).load(on.conn).await
    }

    async fn admit(on: &mut On<'_, Pg>, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let written = on
            .query(sql::ADMIT)
            .bind::<Text, _>(consumer)
            .bind::<Binary, _>(id.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(written == 1)
    }

    async fn begin_migration(on: &mut On<'_, Pg>) -> QueryResult<()> {
        // At a higher level it would see the tables as they were before it waited for the lock.
        AnsiTransactionManager::begin_transaction_sql(on.conn, sql::BEGIN_MIGRATION).await?;
        on.query(sql::LOCK_MIGRATIONS).bind::<BigInt, _>(MIGRATION_LOCK).execute(on.conn).await?;
        Ok(())
    }

    async fn meta(on: &mut On<'_, Pg>) -> QueryResult<Option<Meta>> {
        let exists: Exists = on.query(sql::META_EXISTS).get_result(on.conn).await?;
        if !exists.found {
            // Nothing is found in a schema that this user may not use, unless it is named; to make tables in another one would be wrong.
            let is_searched = *on.names == on.names.without_schema();
            if is_searched
                && let Some(hidden) =
                    on.query(sql::HIDDEN_META).get_result::<Name>(on.conn).await.optional()?
            {
                sql_query(format!("SELECT 1 FROM {}", hidden.name)).execute(on.conn).await?;
            }
            return Ok(None);
        }
        on.query(sql::META).get_result(on.conn).await.optional()
    }

    async fn has_tables(on: &mut On<'_, Pg>) -> QueryResult<bool> {
        Ok(on.query(sql::TABLES_EXIST).get_result::<Exists>(on.conn).await?.found)
    }

    async fn check_tables(on: &mut On<'_, Pg>) -> QueryResult<()> {
        on.query(TABLES).execute(on.conn).await.map(drop)
    }

    async fn describe(on: &mut On<'_, Pg>) -> QueryResult<Vec<Fact>> {
        drift::describe(on).await
    }

    async fn describe_fresh(on: &mut On<'_, Pg>) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh(on).await
    }

    async fn sequences(on: &mut On<'_, Pg>) -> QueryResult<Vec<Sequence>> {
        drift::sequences(on).await
    }

    fn set_sequence(names: &TableNames, table: &str, highest: i64) -> String {
        let table = names.qualified(Self::SQL, table);
        format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), {highest})")
    }

    async fn set_schema_version(
        on: &mut On<'_, Pg>,
        version: i32,
        min_reader_version: i32,
    ) -> QueryResult<()> {
        on.query(sql::SET_VERSION)
            .bind::<Integer, _>(version)
            .bind::<Integer, _>(min_reader_version)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn status(on: &mut On<'_, Pg>) -> QueryResult<StatusRow> {
        on.query(sql::STATUS).get_result(on.conn).await
    }

    async fn set_hold(on: &mut On<'_, Pg>, hold: bool) -> QueryResult<()> {
        on.query(sql::SET_HOLD).bind::<Bool, _>(hold).execute(on.conn).await?;
        Ok(())
    }

    async fn dead_letters(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<ListedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn parked_events(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<ParkedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn dead_letter(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Option<FullDeadRow>> {
        bound(on, query).get_result(on.conn).await.optional()
    }

    async fn requests(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<RequestRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn numbers(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<i64>> {
        let numbers: Vec<Number> = bound(on, query).load(on.conn).await?;
        Ok(numbers.into_iter().map(|number| number.value).collect())
    }

    async fn execute(on: &mut On<'_, Pg>, query: Query) -> QueryResult<usize> {
        bound(on, query).execute(on.conn).await
    }

    async fn seen(on: &mut On<'_, Pg>, relay: &RelayId) -> QueryResult<()> {
        prepared(
            on.sql(sql::SEEN),
            [
                Parameter::Uuid(relay.incarnation),
                Parameter::Text(&relay.name),
                Parameter::Text(env!("CARGO_PKG_VERSION")),
            ],
        )
        .execute(on.conn)
        .await?;
        Ok(())
    }

    async fn forget_relays(on: &mut On<'_, Pg>, lease: Duration) -> QueryResult<()> {
        prepared(on.sql(sql::FORGET_RELAYS), [seconds(lease)]).execute(on.conn).await?;
        Ok(())
    }

    async fn release(on: &mut On<'_, Pg>, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        prepared(
            on.sql(sql::RELEASE),
            [
                Parameter::Uuid(incarnation),
                Parameter::Integers(&groups_of(leases)),
                Parameter::Numbers(&epochs),
            ],
        )
        .execute(on.conn)
        .await?;
        Ok(())
    }

    async fn renew(on: &mut On<'_, Pg>, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        prepared(on.sql(sql::RENEW), [Parameter::Uuid(incarnation), seconds(lease)]).execute(on.conn).await?;
        Ok(())
    }

    async fn take(on: &mut On<'_, Pg>, relay: &RelayId, lease: Duration, count: usize) -> QueryResult<()> {
        prepared(
            on.sql(sql::TAKE),
            [
                Parameter::Uuid(relay.incarnation),
                Parameter::Text(&relay.name),
                seconds(lease),
                Parameter::Number(limit(count)),
            ],
        )
        .execute(on.conn)
        .await?;
        Ok(())
    }

    async fn leases(on: &mut On<'_, Pg>, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        prepared(on.sql(sql::LEASES), [Parameter::Uuid(incarnation)]).load(on.conn).await
    }

    async fn pulse(on: &mut On<'_, Pg>, incarnation: Uuid, lease: Duration) -> QueryResult<Vec<PulseRow>> {
        prepared(on.sql(sql::PULSE), [Parameter::Uuid(incarnation), seconds(lease)]).load(on.conn).await
    }

    async fn census(on: &mut On<'_, Pg>, lease: Duration) -> QueryResult<Census> {
        prepared(on.sql(sql::CENSUS), [seconds(lease)]).get_result(on.conn).await
    }

    async fn fence(on: &mut On<'_, Pg>, lease: Lease) -> QueryResult<bool> {
        let row: Option<Exists> =
            prepared(on.sql(sql::FENCE), [Parameter::Integer(lease.group.0), Parameter::Number(lease.epoch)])
                .get_result(on.conn)
                .await
                .optional()?;
        Ok(row.is_some())
    }

    async fn fence_all(on: &mut On<'_, Pg>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        let groups: Vec<GroupRow> = prepared(
            on.sql(sql::FENCE_ALL),
            [Parameter::Integers(&groups_of(leases)), Parameter::Numbers(&epochs)],
        )
        .load(on.conn)
        .await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn leave_groups(on: &mut On<'_, Pg>, incarnation: Uuid) -> QueryResult<()> {
        prepared(on.sql(sql::LEAVE_GROUPS), [Parameter::Uuid(incarnation)]).execute(on.conn).await?;
        Ok(())
    }

    async fn sign_off(on: &mut On<'_, Pg>, incarnation: Uuid) -> QueryResult<()> {
        prepared(on.sql(sql::SIGN_OFF), [Parameter::Uuid(incarnation)]).execute(on.conn).await?;
        Ok(())
    }

    async fn are_requests_open(on: &mut On<'_, Pg>) -> QueryResult<bool> {
        Ok(prepared(on.sql(ARE_OPEN), []).get_result::<Number>(on.conn).await?.value > 0)
    }

    async fn due_requests(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(on, query).load(on.conn).await
    }

    async fn later(on: &mut On<'_, Pg>, query: Query) -> QueryResult<Vec<Later>> {
        bound(on, query).load(on.conn).await
    }

    async fn replay(on: &mut On<'_, Pg>, dead: &[i64]) -> QueryResult<()> {
        on.query(sql::REPLAY).bind::<Array<BigInt>, _>(dead).execute(on.conn).await?;
        Ok(())
    }

    async fn discard_dead(on: &mut On<'_, Pg>, dead: &[i64]) -> QueryResult<()> {
        on.query(sql::DISCARD).bind::<Array<BigInt>, _>(dead).execute(on.conn).await?;
        Ok(())
    }

    async fn sweep_gates(on: &mut On<'_, Pg>, groups: &[i32]) -> QueryResult<()> {
        prepared(on.sql(sql::SWEEP_GATES), [Parameter::Integers(groups)]).execute(on.conn).await?;
        Ok(())
    }

    async fn read(on: &mut On<'_, Pg>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        let groups = groups_of(&request.leases);
        let memory = on.memory;
        let beginning = memory.of(on, &groups).await;
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
                    prepared(on.sql(sql::READ_ALL), parameters).load(on.conn).await?
                }
                Reach::OfEachGroup(each) | Reach::Shares(each) => {
                    let (groups, floors) = (Parameter::Integers(&groups), Parameter::Numbers(floors));
                    let each = Parameter::Number(limit(each));
                    let parameters =
                        [sequence, generation, last, groups, floors, known, each, most, max_bytes];
                    let by_share = matches!(reach, Reach::Shares(_));
                    let read = if by_share { sql::READ_SHARES } else { sql::READ_GROUPS };
                    prepared(on.sql(read), parameters).load(on.conn).await?
                }
            };
            rows = memory.have_read(&beginning, found).await;
            next = reach.next(&rows, request);
        }
        Ok(rows)
    }

    async fn read_parked(on: &mut On<'_, Pg>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        prepared(
            on.sql(sql::READ_PARKED),
            [
                Parameter::Integers(&groups_of(&request.leases)),
                Parameter::Numbers(&request.known),
                Parameter::Number(limit(request.limit)),
                Parameter::Number(limit(request.max_bytes)),
            ],
        )
        .load(on.conn)
        .await
    }

    async fn settle_hot(on: &mut On<'_, Pg>, ids: &[i64]) -> QueryResult<usize> {
        prepared(on.sql(sql::SETTLE_HOT), [Parameter::Numbers(ids)]).execute(on.conn).await
    }

    async fn settle_parked(on: &mut On<'_, Pg>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        let (ids, events): (Vec<i64>, Vec<Uuid>) =
            confirmed.iter().map(|one| (one.id(), one.event_id())).unzip();
        prepared(on.sql(sql::SETTLE_PARKED), [Parameter::Numbers(&ids), Parameter::Uuids(&events)])
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn keep_hot(on: &mut On<'_, Pg>, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        keep(on, sql::KEEP_HOT, confirmed).await
    }

    async fn keep_parked(on: &mut On<'_, Pg>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        keep(on, sql::KEEP_PARKED, confirmed).await.map(drop)
    }

    async fn park(on: &mut On<'_, Pg>, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(on.sql(sql::PARK_HOT), refused(rejection)).execute(on.conn).await? > 0)
    }

    async fn park_again(on: &mut On<'_, Pg>, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(on.sql(sql::PARK_AGAIN), refused(rejection)).execute(on.conn).await? > 0)
    }

    async fn bury(on: &mut On<'_, Pg>, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(on.sql(sql::BURY_HOT), refused(rejection)).execute(on.conn).await? > 0)
    }

    async fn bury_parked(on: &mut On<'_, Pg>, rejection: &Rejection) -> QueryResult<bool> {
        Ok(prepared(on.sql(sql::BURY_PARKED), refused(rejection)).execute(on.conn).await? > 0)
    }

    async fn set_aside(on: &mut On<'_, Pg>, lane: &Lane, ids: &[i64]) -> QueryResult<()> {
        prepared(on.sql(sql::SET_ASIDE), [Parameter::Numbers(ids), lane_of(lane)]).execute(on.conn).await?;
        Ok(())
    }

    async fn follow(on: &mut On<'_, Pg>, lane: &Lane, max: usize, all: bool) -> QueryResult<()> {
        on.query(sql::FOLLOW)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .bind::<BigInt, _>(limit(max))
            .bind::<Bool, _>(all)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn close_gate(
        on: &mut On<'_, Pg>,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        prepared(
            on.sql(sql::CLOSE_GATE),
            [
                lane_of(&rejection.lane),
                Parameter::Seconds(wait.map(|wait| wait.as_secs_f64())),
                Parameter::Text(&rejection.error),
            ],
        )
        .execute(on.conn)
        .await?;
        Ok(())
    }

    async fn gate(on: &mut On<'_, Pg>, lane: &Lane) -> QueryResult<Option<Gate>> {
        prepared(on.sql(sql::GATE), [lane_of(lane)]).get_result(on.conn).await.optional()
    }

    async fn gate_is_needed(on: &mut On<'_, Pg>, lane: &Lane) -> QueryResult<bool> {
        let exists: Exists =
            prepared(on.sql(sql::GATE_IS_NEEDED), [lane_of(lane)]).get_result(on.conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(on: &mut On<'_, Pg>, lane: &Lane) -> QueryResult<()> {
        prepared(on.sql(sql::OPEN_GATE), [lane_of(lane)]).execute(on.conn).await?;
        Ok(())
    }

    async fn next_due(on: &mut On<'_, Pg>, groups: &[i32]) -> QueryResult<Option<f64>> {
        let wait: Wait =
            prepared(on.sql(sql::NEXT_DUE), [Parameter::Integers(groups)]).get_result(on.conn).await?;
        Ok(wait.seconds)
    }

    async fn lock_leases(on: &mut On<'_, Pg>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
        let groups: Vec<GroupRow> = prepared(
            on.sql(sql::LOCK_LEASES),
            [Parameter::Integers(&groups_of(leases)), Parameter::Numbers(&epochs)],
        )
        .load(on.conn)
        .await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn due(on: &mut On<'_, Pg>, groups: &[i32], but: &[i32], max: usize) -> QueryResult<Vec<Due>> {
        prepared(
            on.sql(sql::DUE),
            [Parameter::Integers(groups), Parameter::Integers(but), Parameter::Number(limit(max))],
        )
        .load(on.conn)
        .await
    }

    async fn lock_due(on: &mut On<'_, Pg>, ids: &[i64]) -> QueryResult<Vec<i64>> {
        let rows: Vec<Id> = prepared(on.sql(sql::LOCK_DUE), [Parameter::Numbers(ids)]).load(on.conn).await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    async fn move_due(on: &mut On<'_, Pg>, ids: &[i64]) -> QueryResult<()> {
        prepared(on.sql(sql::MOVE_DUE), [Parameter::Numbers(ids)]).execute(on.conn).await?;
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

async fn keep(on: &mut On<'_, Pg>, statement: &'static str, confirmed: &[&Confirmed]) -> QueryResult<usize> {
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
    prepared(on.sql(statement), parameters).execute(on.conn).await
}

fn bound(on: &On<'_, Pg>, query: Query) -> BoxedSqlQuery<'static, diesel::pg::Pg, SqlQuery> {
    let (text, values) = query.into_numbered();
    values.into_iter().fold(on.query(text).into_boxed(), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        Value::Time(time) => query.bind::<Timestamptz, _>(time),
    })
}

/// Any number that others do not use for an advisory lock: the letters `cqrs`. One for all names: tables that are called in two ways,
/// with their schema and without, are not to be made twice.
const MIGRATION_LOCK: i64 = 0x6371_7273;

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
