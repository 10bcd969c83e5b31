//! SQLite.

mod connect;
mod drift;
mod sql;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use cqrs_core::{Database, MessageId};
use cqrs_outbox::table::{self, OutboxRecord, TableNames};
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::connection::AnsiTransactionManager;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, SqliteConnection};
use diesel_async::RunQueryDsl;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use uuid::Uuid;

pub use self::connect::SqliteBuilder;
use crate::backend::Backend;
use crate::choice::{self, Choice, Present};
use crate::dead_letters::{FullDeadRow, ListedRow};
use crate::drift::{Fact, Sequence};
use crate::migration::{Migration, SQLITE, SQLITE_META};
use crate::new_rows::{BatchSizes, NewRows};
use crate::on::{Lanes, On};
use crate::parked::ParkedRow;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Meta, Micros, Number, PulseRow, ROWS_PER_INSERT,
    Statements, TABLES, TakenKey, VersionRow, Wait, attempts, groups_of, joined, limit, places, receipts,
};
use crate::status::StatusRow;
use crate::tx::Tx;
use crate::writing::Claim;

/// SQLite, 3.44 or newer (it is compiled in), as the database of an [`Outbox`](crate::Outbox).
#[derive(Debug)]
pub enum Sqlite {}

impl Database for Sqlite {
    type Tx = Tx<Self>;
}

type Connection = SyncConnectionWrapper<SqliteConnection>;

impl Backend for Sqlite {
    type Connection = Connection;
    type Guard = Object<Connection>;
}

impl Statements for Sqlite {
    type Conn = Connection;
    type Lent = Object<Connection>;
    type Pool = Pool<Connection>;
    type Memory = BatchSizes;

    const MIGRATIONS: &'static [Migration] = SQLITE;
    const META_TABLE: &'static str = SQLITE_META;
    const SQL: table::Dialect = table::Dialect::Sqlite;
    const DIALECT: Dialect = sql::DIALECT;
    const LANES: Lanes = sql::LANES;

    async fn acquire(pool: &Self::Pool) -> Result<Self::Lent, StoreError> {
        pool.get().await.map_err(connect::pool_error)
    }

    fn discard(lent: Self::Lent) {
        drop(Object::take(lent));
    }

    /// Immediate: a deferred transaction that reads first fails at its first write if another has written meanwhile.
    async fn begin(conn: &mut Connection) -> QueryResult<()> {
        conn.spawn_blocking(|conn| AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE"))
            .await
    }

    async fn insert(on: &mut On<'_, Sqlite>, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        for some in table::in_parts(rows, |row| row) {
            NewRows::new(on.sql(sql::INSERT), some, table::Dialect::Sqlite, on.memory)
                .execute(on.conn)
                .await?;
        }
        Ok(())
    }

    async fn schedule(on: &mut On<'_, Sqlite>, rows: Vec<(OutboxRecord, DateTime<Utc>)>) -> QueryResult<()> {
        for some in table::in_parts(rows, |(row, _)| row) {
            let insert = boxed(on, format!("{}{}", sql::SCHEDULE, places(sql::SCHEDULE_ROW, some.len())));
            let bind = |insert, (row, at)| bind_row(insert, row).bind::<Double, _>(seconds(at));
            some.into_iter().fold(insert, bind).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn now(on: &mut On<'_, Sqlite>) -> QueryResult<DateTime<Utc>> {
        Ok(on.query(sql::NOW).get_result::<Micros>(on.conn).await?.into())
    }

    /// Nobody else writes, so nobody else can be about to take one.
    async fn claim(on: &mut On<'_, Sqlite>, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let mut others = HashMap::new();
        for some in claims.chunks(ROWS_PER_INSERT) {
            let keys = places("?", some.len());
            let mut select = boxed(on, format!("{}({keys})", sql::CLAIMED));
            for claim in some {
                select = select.bind::<Binary, _>(claim.key.clone());
            }
            let taken: Vec<TakenKey> = select.load(on.conn).await?;
            others.extend(taken.into_iter().map(<(Vec<u8>, Uuid)>::from));
            let free: Vec<&Claim> = some.iter().filter(|claim| !others.contains_key(&claim.key)).collect();
            if free.is_empty() {
                continue;
            }
            let values = places(sql::CLAIM_ROW, free.len());
            let mut insert = boxed(on, format!("{}{values}{}", sql::CLAIM, sql::TAKE_OVER));
            for claim in free {
                insert = insert
                    .bind::<Binary, _>(claim.key.clone())
                    .bind::<Text, _>(claim.event_id.to_string())
                    .bind::<Double, _>(claim.seconds);
            }
            insert.execute(on.conn).await?;
        }
        Ok(others)
    }

    async fn release_claims(on: &mut On<'_, Sqlite>, keys: &[Vec<u8>]) -> QueryResult<()> {
        for key in keys {
            on.query(sql::RELEASE_CLAIM).bind::<Binary, _>(key).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn purge_dedup(on: &mut On<'_, Sqlite>, max: usize) -> QueryResult<usize> {
        on.query(sql::PURGE_DEDUP).bind::<BigInt, _>(limit(max)).execute(on.conn).await
    }

    async fn lock_versions(on: &mut On<'_, Sqlite>, keys: &[Vec<u8>]) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let mut versions = HashMap::new();
        for some in keys.chunks(ROWS_PER_INSERT) {
            let places = places("?", some.len());
            let mut select = boxed(on, format!("{}({places})", sql::KEY_VERSIONS));
            for key in some {
                select = select.bind::<Binary, _>(key.clone());
            }
            let rows: Vec<VersionRow> = select.load(on.conn).await?;
            versions.extend(rows.into_iter().map(<(Vec<u8>, i64)>::from));
        }
        Ok(versions)
    }

    async fn set_versions(on: &mut On<'_, Sqlite>, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        for some in versions.chunks(ROWS_PER_INSERT) {
            let values = places("(?, ?)", some.len());
            let mut insert = boxed(on, format!("{}{values}{}", sql::SET_VERSIONS, sql::AS_GIVEN));
            for (key, version) in some {
                insert = insert.bind::<Binary, _>(key.clone()).bind::<BigInt, _>(*version);
            }
            insert.execute(on.conn).await?;
        }
        Ok(())
    }

    /// One transaction writes at a time. One that was begun in another way than ours writes here what it read, and so
    /// becomes the one that writes, or fails.
    async fn lock_key(on: &mut On<'_, Sqlite>, _key: &[u8]) -> QueryResult<()> {
        on.query(sql::LOCK_FOR_WRITING).execute(on.conn).await?;
        Ok(())
    }

    async fn cancel(on: &mut On<'_, Sqlite>, event_id: Uuid) -> QueryResult<bool> {
        let event_id = event_id.to_string();
        let cancelled = on.query(sql::CANCEL).bind::<Text, _>(&event_id).execute(on.conn).await? > 0;
        if cancelled {
            on.query(sql::FREE_KEY).bind::<Text, _>(&event_id).execute(on.conn).await?;
        }
        Ok(cancelled)
    }

    async fn reschedule(on: &mut On<'_, Sqlite>, event_id: Uuid, at: DateTime<Utc>) -> QueryResult<bool> {
        let changed = on
            .query(sql::RESCHEDULE)
            .bind::<Text, _>(event_id.to_string())
            .bind::<Double, _>(seconds(at))
            .execute(on.conn)
            .await?;
        Ok(changed > 0)
    }

    async fn scheduled(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(on, query).load(on.conn).await
    }

    async fn admit(on: &mut On<'_, Sqlite>, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let written = on
            .query(sql::ADMIT)
            .bind::<Text, _>(consumer)
            .bind::<Binary, _>(id.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(written == 1)
    }

    /// The transaction is immediate: nobody else writes.
    async fn begin_migration(on: &mut On<'_, Sqlite>) -> QueryResult<()> {
        Self::begin(on.conn).await
    }

    async fn meta(on: &mut On<'_, Sqlite>) -> QueryResult<Option<Meta>> {
        let exists: Exists = on.query(sql::META_EXISTS).get_result(on.conn).await?;
        if !exists.found {
            return Ok(None);
        }
        on.query(sql::META).get_result(on.conn).await.optional()
    }

    async fn has_tables(on: &mut On<'_, Sqlite>) -> QueryResult<bool> {
        Ok(on.query(sql::TABLES_EXIST).get_result::<Exists>(on.conn).await?.found)
    }

    async fn check_tables(on: &mut On<'_, Sqlite>) -> QueryResult<()> {
        on.query(TABLES).execute(on.conn).await.map(drop)
    }

    async fn describe(on: &mut On<'_, Sqlite>) -> QueryResult<Vec<Fact>> {
        drift::describe(on).await
    }

    async fn describe_fresh(on: &mut On<'_, Sqlite>) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh(on.names).await
    }

    async fn sequences(on: &mut On<'_, Sqlite>) -> QueryResult<Vec<Sequence>> {
        drift::sequences(on).await
    }

    fn set_sequence(_names: &TableNames, table: &str, highest: i64) -> String {
        format!(
            "DELETE FROM sqlite_sequence WHERE name = '{table}'; \
             INSERT INTO sqlite_sequence (name, seq) VALUES ('{table}', {highest})"
        )
    }

    async fn set_schema_version(
        on: &mut On<'_, Sqlite>,
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

    async fn status(on: &mut On<'_, Sqlite>) -> QueryResult<StatusRow> {
        on.query(sql::STATUS).get_result(on.conn).await
    }

    async fn set_hold(on: &mut On<'_, Sqlite>, hold: bool) -> QueryResult<()> {
        on.query(sql::SET_HOLD).bind::<Bool, _>(hold).execute(on.conn).await?;
        Ok(())
    }

    async fn dead_letters(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<ListedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn parked_events(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<ParkedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn dead_letter(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Option<FullDeadRow>> {
        bound(on, query).get_result(on.conn).await.optional()
    }

    async fn requests(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<RequestRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn numbers(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<i64>> {
        let numbers: Vec<Number> = bound(on, query).load(on.conn).await?;
        Ok(numbers.into_iter().map(|number| number.value).collect())
    }

    async fn execute(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<usize> {
        bound(on, query).execute(on.conn).await
    }

    async fn seen(on: &mut On<'_, Sqlite>, relay: &RelayId) -> QueryResult<()> {
        on.query(sql::SEEN)
            .bind::<Text, _>(relay.incarnation.to_string())
            .bind::<Text, _>(&relay.name)
            .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn forget_relays(on: &mut On<'_, Sqlite>, lease: Duration) -> QueryResult<()> {
        on.query(sql::FORGET_RELAYS).bind::<Double, _>(lease.as_secs_f64()).execute(on.conn).await?;
        Ok(())
    }

    async fn release(on: &mut On<'_, Sqlite>, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        on.query(sql::RELEASE)
            .bind::<Text, _>(incarnation.to_string())
            .bind::<Text, _>(pairs(leases))
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn renew(on: &mut On<'_, Sqlite>, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        on.query(sql::RENEW)
            .bind::<Text, _>(incarnation.to_string())
            .bind::<Double, _>(lease.as_secs_f64())
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn take(
        on: &mut On<'_, Sqlite>,
        relay: &RelayId,
        lease: Duration,
        count: usize,
    ) -> QueryResult<()> {
        on.query(sql::TAKE)
            .bind::<Text, _>(relay.incarnation.to_string())
            .bind::<Text, _>(&relay.name)
            .bind::<Double, _>(lease.as_secs_f64())
            .bind::<BigInt, _>(limit(count))
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn leases(on: &mut On<'_, Sqlite>, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        on.query(sql::LEASES).bind::<Text, _>(incarnation.to_string()).load(on.conn).await
    }

    /// In this process a statement costs next to nothing, and what is committed costs: the steps one by one are one transaction.
    const HAS_PULSE: bool = false;

    async fn pulse(_: &mut On<'_, Sqlite>, _: Uuid, _: Duration) -> QueryResult<Vec<PulseRow>> {
        Ok(Vec::new())
    }

    async fn census(on: &mut On<'_, Sqlite>, lease: Duration) -> QueryResult<Census> {
        on.query(sql::CENSUS).bind::<Double, _>(lease.as_secs_f64()).get_result(on.conn).await
    }

    /// The transaction is immediate: nobody else writes.
    async fn fence(on: &mut On<'_, Sqlite>, lease: Lease) -> QueryResult<bool> {
        let exists: Exists = on
            .query(sql::FENCE)
            .bind::<Integer, _>(lease.group.0)
            .bind::<BigInt, _>(lease.epoch)
            .get_result(on.conn)
            .await?;
        Ok(exists.found)
    }

    /// The transaction is immediate: nobody else writes.
    async fn fence_all(on: &mut On<'_, Sqlite>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        Self::lock_leases(on, leases).await
    }

    async fn leave_groups(on: &mut On<'_, Sqlite>, incarnation: Uuid) -> QueryResult<()> {
        on.query(sql::LEAVE_GROUPS).bind::<Text, _>(incarnation.to_string()).execute(on.conn).await?;
        Ok(())
    }

    async fn sign_off(on: &mut On<'_, Sqlite>, incarnation: Uuid) -> QueryResult<()> {
        on.query(sql::SIGN_OFF).bind::<Text, _>(incarnation.to_string()).execute(on.conn).await?;
        Ok(())
    }

    async fn are_requests_open(on: &mut On<'_, Sqlite>) -> QueryResult<bool> {
        Ok(on.query(ARE_OPEN).get_result::<Number>(on.conn).await?.value > 0)
    }

    async fn due_requests(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(on, query).load(on.conn).await
    }

    async fn later(on: &mut On<'_, Sqlite>, query: Query) -> QueryResult<Vec<Later>> {
        bound(on, query).load(on.conn).await
    }

    async fn replay(on: &mut On<'_, Sqlite>, dead: &[i64]) -> QueryResult<()> {
        execute_all(on, &sql::REPLAY, dead).await
    }

    async fn discard_dead(on: &mut On<'_, Sqlite>, dead: &[i64]) -> QueryResult<()> {
        execute_all(on, &sql::DISCARD, dead).await
    }

    async fn sweep_gates(on: &mut On<'_, Sqlite>, _groups: &[i32]) -> QueryResult<()> {
        on.query(sql::SWEEP_GATES).execute(on.conn).await?;
        Ok(())
    }

    async fn read(on: &mut On<'_, Sqlite>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        if request.leases.is_empty() {
            return Ok(Vec::new());
        }
        let present: Vec<Present> = on.query(choice::present(request)).load(on.conn).await?;
        let Some(choice) = Choice::of(&present, request) else { return Ok(Vec::new()) };
        Ok(choice.keep(on.query(format!("{}{}", sql::READ, choice.condition())).load(on.conn).await?))
    }

    async fn read_parked(on: &mut On<'_, Sqlite>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        on.query(sql::READ_PARKED)
            .bind::<Text, _>(array(&groups_of(&request.leases)))
            .bind::<Text, _>(array(&request.known))
            .bind::<BigInt, _>(limit(request.limit))
            .bind::<BigInt, _>(limit(request.max_bytes))
            .load(on.conn)
            .await
    }

    async fn settle_hot(on: &mut On<'_, Sqlite>, ids: &[i64]) -> QueryResult<usize> {
        on.query(sql::SETTLE_HOT).bind::<Text, _>(array(ids)).execute(on.conn).await
    }

    async fn settle_parked(on: &mut On<'_, Sqlite>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        on.query(sql::SETTLE_PARKED).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
        Ok(())
    }

    async fn keep_hot(on: &mut On<'_, Sqlite>, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        let ids: Vec<i64> = confirmed.iter().map(|confirmed| confirmed.id()).collect();
        Self::begin(on.conn).await?;
        on.query(sql::KEEP_HOT).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
        let removed = Self::settle_hot(on, &ids).await?;
        Self::commit(on.conn).await?;
        Ok(removed)
    }

    async fn keep_parked(on: &mut On<'_, Sqlite>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        Self::begin(on.conn).await?;
        on.query(sql::KEEP_PARKED).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
        Self::settle_parked(on, confirmed).await?;
        Self::commit(on.conn).await
    }

    async fn park(on: &mut On<'_, Sqlite>, rejection: &Rejection) -> QueryResult<bool> {
        let moved = on
            .query(sql::PARK_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(moved > 0)
    }

    async fn park_again(on: &mut On<'_, Sqlite>, rejection: &Rejection) -> QueryResult<bool> {
        Ok(on
            .query(sql::PARK_AGAIN)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(on.conn)
            .await?
            > 0)
    }

    async fn bury(on: &mut On<'_, Sqlite>, rejection: &Rejection) -> QueryResult<bool> {
        let moved = on
            .query(sql::BURY_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(moved > 0)
    }

    async fn bury_parked(on: &mut On<'_, Sqlite>, rejection: &Rejection) -> QueryResult<bool> {
        let moved = on
            .query(sql::BURY_PARKED)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_PARKED)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(moved > 0)
    }

    async fn set_aside(on: &mut On<'_, Sqlite>, lane: &Lane, ids: &[i64]) -> QueryResult<()> {
        on.query(sql::SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn follow(on: &mut On<'_, Sqlite>, lane: &Lane, max: usize, all: bool) -> QueryResult<()> {
        on.query(sql::FOLLOW)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<BigInt, _>(limit(max))
            .bind::<Bool, _>(all)
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_FOLLOWERS)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<BigInt, _>(limit(max))
            .bind::<Bool, _>(all)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn close_gate(
        on: &mut On<'_, Sqlite>,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        on.query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<Double>, _>(wait.map(|wait| wait.as_secs_f64()))
            .bind::<Text, _>(&rejection.error)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn gate(on: &mut On<'_, Sqlite>, lane: &Lane) -> QueryResult<Option<Gate>> {
        on.query(sql::GATE).bind::<Binary, _>(lane.as_bytes()).get_result(on.conn).await.optional()
    }

    async fn gate_is_needed(on: &mut On<'_, Sqlite>, lane: &Lane) -> QueryResult<bool> {
        let lane = lane.as_bytes();
        let needed = on.query(sql::GATE_IS_NEEDED).bind::<Binary, _>(lane).bind::<Binary, _>(lane);
        let exists: Exists = needed.get_result(on.conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(on: &mut On<'_, Sqlite>, lane: &Lane) -> QueryResult<()> {
        on.query(sql::OPEN_GATE).bind::<Binary, _>(lane.as_bytes()).execute(on.conn).await?;
        Ok(())
    }

    async fn next_due(on: &mut On<'_, Sqlite>, groups: &[i32]) -> QueryResult<Option<f64>> {
        let wait: Wait = on.query(sql::NEXT_DUE).bind::<Text, _>(array(groups)).get_result(on.conn).await?;
        Ok(wait.seconds)
    }

    /// The transaction is immediate: nobody else writes.
    async fn lock_leases(on: &mut On<'_, Sqlite>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let groups: Vec<GroupRow> =
            on.query(sql::CURRENT_LEASES).bind::<Text, _>(pairs(leases)).load(on.conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    /// There is one slot, and nothing in it is held by others.
    async fn due(on: &mut On<'_, Sqlite>, groups: &[i32], _but: &[i32], max: usize) -> QueryResult<Vec<Due>> {
        on.query(sql::DUE).bind::<Text, _>(array(groups)).bind::<BigInt, _>(limit(max)).load(on.conn).await
    }

    /// As they were read in this transaction.
    async fn lock_due(_on: &mut On<'_, Sqlite>, ids: &[i64]) -> QueryResult<Vec<i64>> {
        Ok(ids.to_vec())
    }

    async fn move_due(on: &mut On<'_, Sqlite>, ids: &[i64]) -> QueryResult<()> {
        for statement in sql::MOVE_DUE {
            on.query(statement).bind::<Text, _>(array(ids)).execute(on.conn).await?;
        }
        Ok(())
    }
}

/// Leases as JSON.
fn pairs(leases: &[Lease]) -> String {
    array(&leases.iter().map(|lease| format!("[{},{}]", lease.group, lease.epoch)).collect::<Vec<_>>())
}

fn boxed(on: &On<'_, Sqlite>, query: String) -> BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery> {
    on.query(query).into_boxed()
}

/// A new row as eleven parameters of a statement.
fn bind_row(
    insert: BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery>,
    row: OutboxRecord,
) -> BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery> {
    row.into_values(table::Dialect::Sqlite).into_iter().fold(insert, |insert, value| match value {
        table::Value::Text(text) => insert.bind::<Text, _>(text),
        table::Value::Bytes(bytes) => insert.bind::<Nullable<Binary>, _>(bytes),
        table::Value::Integer(number) => insert.bind::<Integer, _>(number),
    })
}

/// Since 1970.
fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

fn bound(on: &On<'_, Sqlite>, query: Query) -> BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery> {
    let (text, values) = query.into_parts();
    values.into_iter().fold(on.query(text).into_boxed(), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        // As the tables' defaults write it, so that texts compare as times.
        Value::Time(time) => query.bind::<Text, _>(time.to_rfc3339_opts(SecondsFormat::Millis, true)),
    })
}

/// About these rows.
async fn execute_all(on: &mut On<'_, Sqlite>, statements: &[&'static str], ids: &[i64]) -> QueryResult<()> {
    for statement in statements {
        on.query(*statement).bind::<Text, _>(array(ids)).execute(on.conn).await?;
    }
    Ok(())
}

/// As JSON, for `json_each`.
fn array<T: std::fmt::Display>(items: &[T]) -> String {
    format!("[{}]", joined(items))
}
