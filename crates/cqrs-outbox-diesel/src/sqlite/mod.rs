//! SQLite.

mod connect;
mod drift;
mod sql;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use cqrs_core::{Database, MessageId};
use cqrs_outbox::table::{self, OutboxRecord};
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::connection::AnsiTransactionManager;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, SqliteConnection, sql_query};
use diesel_async::RunQueryDsl;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use uuid::Uuid;

pub use self::connect::SqliteBuilder;
use crate::backend::Backend;
use crate::choice::{self, Choice, Present};
use crate::dead_letters::{DeadRow, FullDeadRow};
use crate::drift::{Fact, Sequence};
use crate::migration::{Migration, SQLITE, SQLITE_META};
use crate::new_rows::NewRows;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Micros, Number, PulseRow, ROWS_PER_INSERT, Statements,
    TABLES, TakenKey, VersionRow, Versions, Wait, attempts, groups_of, in_parts, joined, limit, places,
    receipts,
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
    type Memory = ();

    const MIGRATIONS: &'static [Migration] = SQLITE;
    const META_TABLE: &'static str = SQLITE_META;
    const DIALECT: Dialect = sql::DIALECT;

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

    async fn insert(conn: &mut Connection, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        for some in in_parts(rows) {
            NewRows::new(sql::INSERT, some, table::Dialect::Sqlite).execute(conn).await?;
        }
        Ok(())
    }

    async fn schedule(conn: &mut Connection, rows: Vec<(OutboxRecord, DateTime<Utc>)>) -> QueryResult<()> {
        for some in in_parts(rows) {
            let insert = boxed(format!("{}{}", sql::SCHEDULE, places(sql::SCHEDULE_ROW, some.len())));
            let bind = |insert, (row, at)| bind_row(insert, row).bind::<Double, _>(seconds(at));
            some.into_iter().fold(insert, bind).execute(conn).await?;
        }
        Ok(())
    }

    async fn now(conn: &mut Connection) -> QueryResult<DateTime<Utc>> {
        Ok(sql_query(sql::NOW).get_result::<Micros>(conn).await?.into())
    }

    /// Nobody else writes, so nobody else can be about to take one.
    async fn claim(conn: &mut Connection, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let mut others = HashMap::new();
        for some in claims.chunks(ROWS_PER_INSERT) {
            let keys = places("?", some.len());
            let mut select = boxed(format!("{}({keys})", sql::CLAIMED));
            for claim in some {
                select = select.bind::<Binary, _>(claim.key.clone());
            }
            let taken: Vec<TakenKey> = select.load(conn).await?;
            others.extend(taken.into_iter().map(<(Vec<u8>, Uuid)>::from));
            let free: Vec<&Claim> = some.iter().filter(|claim| !others.contains_key(&claim.key)).collect();
            if free.is_empty() {
                continue;
            }
            let values = places(sql::CLAIM_ROW, free.len());
            let mut insert = boxed(format!("{}{values}{}", sql::CLAIM, sql::TAKE_OVER));
            for claim in free {
                insert = insert
                    .bind::<Binary, _>(claim.key.clone())
                    .bind::<Text, _>(claim.event_id.to_string())
                    .bind::<Double, _>(claim.seconds);
            }
            insert.execute(conn).await?;
        }
        Ok(others)
    }

    async fn release_claims(conn: &mut Connection, keys: &[Vec<u8>]) -> QueryResult<()> {
        for key in keys {
            sql_query(sql::RELEASE_CLAIM).bind::<Binary, _>(key).execute(conn).await?;
        }
        Ok(())
    }

    async fn purge_dedup(conn: &mut Connection, max: usize) -> QueryResult<usize> {
        sql_query(sql::PURGE_DEDUP).bind::<BigInt, _>(limit(max)).execute(conn).await
    }

    async fn lock_versions(conn: &mut Connection, keys: &[Vec<u8>]) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let mut versions = HashMap::new();
        for some in keys.chunks(ROWS_PER_INSERT) {
            let places = places("?", some.len());
            let mut select = boxed(format!("{}({places})", sql::KEY_VERSIONS));
            for key in some {
                select = select.bind::<Binary, _>(key.clone());
            }
            let rows: Vec<VersionRow> = select.load(conn).await?;
            versions.extend(rows.into_iter().map(<(Vec<u8>, i64)>::from));
        }
        Ok(versions)
    }

    async fn set_versions(conn: &mut Connection, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        for some in versions.chunks(ROWS_PER_INSERT) {
            let values = places("(?, ?)", some.len());
            let mut insert = boxed(format!("{}{values}{}", sql::SET_VERSIONS, sql::AS_GIVEN));
            for (key, version) in some {
                insert = insert.bind::<Binary, _>(key.clone()).bind::<BigInt, _>(*version);
            }
            insert.execute(conn).await?;
        }
        Ok(())
    }

    /// One transaction writes at a time. One that was begun in another way than ours writes here what it read, and so
    /// becomes the one that writes, or fails.
    async fn lock_key(conn: &mut Connection, _key: &[u8]) -> QueryResult<()> {
        sql_query(sql::LOCK_FOR_WRITING).execute(conn).await?;
        Ok(())
    }

    async fn cancel(conn: &mut Connection, event_id: Uuid) -> QueryResult<bool> {
        Ok(sql_query(sql::CANCEL).bind::<Text, _>(event_id.to_string()).execute(conn).await? > 0)
    }

    async fn reschedule(conn: &mut Connection, event_id: Uuid, at: DateTime<Utc>) -> QueryResult<bool> {
        let changed = sql_query(sql::RESCHEDULE)
            .bind::<Text, _>(event_id.to_string())
            .bind::<Double, _>(seconds(at))
            .execute(conn)
            .await?;
        Ok(changed > 0)
    }

    async fn scheduled(conn: &mut Connection, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(query).load(conn).await
    }

    async fn admit(conn: &mut Connection, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let written = sql_query(sql::ADMIT)
            .bind::<Text, _>(consumer)
            .bind::<Binary, _>(id.as_bytes())
            .execute(conn)
            .await?;
        Ok(written == 1)
    }

    /// The transaction is immediate: nobody else writes.
    async fn begin_migration(conn: &mut Connection) -> QueryResult<()> {
        Self::begin(conn).await
    }

    async fn schema_version(conn: &mut Connection) -> QueryResult<Option<(i32, i32)>> {
        let exists: Exists = sql_query(sql::META_EXISTS).get_result(conn).await?;
        if !exists.found {
            return Ok(None);
        }
        let versions: Option<Versions> = sql_query(sql::VERSIONS).get_result(conn).await.optional()?;
        Ok(versions.map(Into::into))
    }

    async fn has_tables(conn: &mut Connection) -> QueryResult<bool> {
        Ok(sql_query(sql::TABLES_EXIST).get_result::<Exists>(conn).await?.found)
    }

    async fn check_tables(conn: &mut Connection) -> QueryResult<()> {
        sql_query(TABLES).execute(conn).await.map(drop)
    }

    async fn describe(conn: &mut Connection) -> QueryResult<Vec<Fact>> {
        drift::describe(conn).await
    }

    async fn describe_fresh(_conn: &mut Connection) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh().await
    }

    async fn sequences(conn: &mut Connection) -> QueryResult<Vec<Sequence>> {
        drift::sequences(conn).await
    }

    fn set_sequence(table: &str, highest: i64) -> String {
        format!(
            "DELETE FROM sqlite_sequence WHERE name = '{table}'; \
             INSERT INTO sqlite_sequence (name, seq) VALUES ('{table}', {highest})"
        )
    }

    async fn set_schema_version(
        conn: &mut Connection,
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

    async fn status(conn: &mut Connection) -> QueryResult<StatusRow> {
        sql_query(sql::STATUS).get_result(conn).await
    }

    async fn set_hold(conn: &mut Connection, hold: bool) -> QueryResult<()> {
        sql_query(sql::SET_HOLD).bind::<Bool, _>(hold).execute(conn).await?;
        Ok(())
    }

    async fn dead_letters(conn: &mut Connection, query: Query) -> QueryResult<Vec<DeadRow>> {
        bound(query).load(conn).await
    }

    async fn dead_letter(conn: &mut Connection, query: Query) -> QueryResult<Option<FullDeadRow>> {
        bound(query).get_result(conn).await.optional()
    }

    async fn requests(conn: &mut Connection, query: Query) -> QueryResult<Vec<RequestRow>> {
        bound(query).load(conn).await
    }

    async fn numbers(conn: &mut Connection, query: Query) -> QueryResult<Vec<i64>> {
        let numbers: Vec<Number> = bound(query).load(conn).await?;
        Ok(numbers.into_iter().map(|number| number.value).collect())
    }

    async fn execute(conn: &mut Connection, query: Query) -> QueryResult<usize> {
        bound(query).execute(conn).await
    }

    async fn seen(conn: &mut Connection, relay: &RelayId) -> QueryResult<()> {
        sql_query(sql::SEEN)
            .bind::<Text, _>(relay.incarnation.to_string())
            .bind::<Text, _>(&relay.name)
            .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn forget_relays(conn: &mut Connection, lease: Duration) -> QueryResult<()> {
        sql_query(sql::FORGET_RELAYS).bind::<Double, _>(lease.as_secs_f64()).execute(conn).await?;
        Ok(())
    }

    async fn release(conn: &mut Connection, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        sql_query(sql::RELEASE)
            .bind::<Text, _>(incarnation.to_string())
            .bind::<Text, _>(pairs(leases))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn renew(conn: &mut Connection, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        sql_query(sql::RENEW)
            .bind::<Text, _>(incarnation.to_string())
            .bind::<Double, _>(lease.as_secs_f64())
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn take(conn: &mut Connection, relay: &RelayId, lease: Duration, count: usize) -> QueryResult<()> {
        sql_query(sql::TAKE)
            .bind::<Text, _>(relay.incarnation.to_string())
            .bind::<Text, _>(&relay.name)
            .bind::<Double, _>(lease.as_secs_f64())
            .bind::<BigInt, _>(limit(count))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn leases(conn: &mut Connection, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        sql_query(sql::LEASES).bind::<Text, _>(incarnation.to_string()).load(conn).await
    }

    /// In this process a statement costs next to nothing, and what is committed costs: the steps one by one are one transaction.
    const HAS_PULSE: bool = false;

    async fn pulse(_: &mut Connection, _: Uuid, _: Duration) -> QueryResult<Vec<PulseRow>> {
        Ok(Vec::new())
    }

    async fn census(conn: &mut Connection, lease: Duration) -> QueryResult<Census> {
        sql_query(sql::CENSUS).bind::<Double, _>(lease.as_secs_f64()).get_result(conn).await
    }

    /// The transaction is immediate: nobody else writes.
    async fn fence(conn: &mut Connection, lease: Lease) -> QueryResult<bool> {
        let exists: Exists = sql_query(sql::FENCE)
            .bind::<Integer, _>(lease.group.0)
            .bind::<BigInt, _>(lease.epoch)
            .get_result(conn)
            .await?;
        Ok(exists.found)
    }

    /// The transaction is immediate: nobody else writes.
    async fn fence_all(conn: &mut Connection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        Self::lock_leases(conn, leases).await
    }

    async fn leave_groups(conn: &mut Connection, incarnation: Uuid) -> QueryResult<()> {
        sql_query(sql::LEAVE_GROUPS).bind::<Text, _>(incarnation.to_string()).execute(conn).await?;
        Ok(())
    }

    async fn sign_off(conn: &mut Connection, incarnation: Uuid) -> QueryResult<()> {
        sql_query(sql::SIGN_OFF).bind::<Text, _>(incarnation.to_string()).execute(conn).await?;
        Ok(())
    }

    async fn are_requests_open(conn: &mut Connection) -> QueryResult<bool> {
        Ok(sql_query(ARE_OPEN).get_result::<Number>(conn).await?.value > 0)
    }

    async fn due_requests(conn: &mut Connection, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(query).load(conn).await
    }

    async fn later(conn: &mut Connection, query: Query) -> QueryResult<Vec<Later>> {
        bound(query).load(conn).await
    }

    async fn replay(conn: &mut Connection, dead: &[i64]) -> QueryResult<()> {
        execute_all(conn, &sql::REPLAY, dead).await
    }

    async fn discard_dead(conn: &mut Connection, dead: &[i64]) -> QueryResult<()> {
        execute_all(conn, &sql::DISCARD, dead).await
    }

    async fn sweep_gates(conn: &mut Connection, _groups: &[i32]) -> QueryResult<()> {
        sql_query(sql::SWEEP_GATES).execute(conn).await?;
        Ok(())
    }

    async fn read(conn: &mut Connection, request: &ReadRequest, (): &()) -> QueryResult<Vec<Record>> {
        if request.leases.is_empty() {
            return Ok(Vec::new());
        }
        let present: Vec<Present> = sql_query(choice::present(request)).load(conn).await?;
        let Some(choice) = Choice::of(&present, request) else { return Ok(Vec::new()) };
        Ok(choice.keep(sql_query(format!("{}{}", sql::READ, choice.condition())).load(conn).await?))
    }

    async fn read_parked(conn: &mut Connection, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        sql_query(sql::READ_PARKED)
            .bind::<Text, _>(array(&groups_of(&request.leases)))
            .bind::<Text, _>(array(&request.known))
            .bind::<BigInt, _>(limit(request.limit))
            .bind::<BigInt, _>(limit(request.max_bytes))
            .load(conn)
            .await
    }

    async fn settle_hot(conn: &mut Connection, ids: &[i64]) -> QueryResult<usize> {
        sql_query(sql::SETTLE_HOT).bind::<Text, _>(array(ids)).execute(conn).await
    }

    async fn settle_parked(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        sql_query(sql::SETTLE_PARKED).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
        Ok(())
    }

    async fn keep_hot(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        let ids: Vec<i64> = confirmed.iter().map(|confirmed| confirmed.id()).collect();
        Self::begin(conn).await?;
        sql_query(sql::KEEP_HOT).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
        let removed = Self::settle_hot(conn, &ids).await?;
        Self::commit(conn).await?;
        Ok(removed)
    }

    async fn keep_parked(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        Self::begin(conn).await?;
        sql_query(sql::KEEP_PARKED).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
        Self::settle_parked(conn, confirmed).await?;
        Self::commit(conn).await
    }

    async fn park(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        let moved = sql_query(sql::PARK_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(conn)
            .await?;
        Ok(moved > 0)
    }

    async fn park_again(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        Ok(sql_query(sql::PARK_AGAIN)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(conn)
            .await?
            > 0)
    }

    async fn bury(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        let moved = sql_query(sql::BURY_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(conn)
            .await?;
        Ok(moved > 0)
    }

    async fn bury_parked(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        let moved = sql_query(sql::BURY_PARKED)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_PARKED)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .execute(conn)
            .await?;
        Ok(moved > 0)
    }

    async fn set_aside(conn: &mut Connection, lane: &Lane, ids: &[i64]) -> QueryResult<()> {
        sql_query(sql::SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn follow(conn: &mut Connection, lane: &Lane, max: usize) -> QueryResult<()> {
        sql_query(sql::FOLLOW)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<BigInt, _>(limit(max))
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_FOLLOWERS)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<BigInt, _>(limit(max))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn close_gate(
        conn: &mut Connection,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        sql_query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<Double>, _>(wait.map(|wait| wait.as_secs_f64()))
            .bind::<Text, _>(&rejection.error)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn gate(conn: &mut Connection, lane: &Lane) -> QueryResult<Option<Gate>> {
        sql_query(sql::GATE).bind::<Binary, _>(lane.as_bytes()).get_result(conn).await.optional()
    }

    async fn gate_is_needed(conn: &mut Connection, lane: &Lane) -> QueryResult<bool> {
        let lane = lane.as_bytes();
        let needed = sql_query(sql::GATE_IS_NEEDED).bind::<Binary, _>(lane).bind::<Binary, _>(lane);
        let exists: Exists = needed.get_result(conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(conn: &mut Connection, lane: &Lane) -> QueryResult<()> {
        sql_query(sql::OPEN_GATE).bind::<Binary, _>(lane.as_bytes()).execute(conn).await?;
        Ok(())
    }

    async fn next_due(conn: &mut Connection, groups: &[i32]) -> QueryResult<Option<f64>> {
        let wait: Wait = sql_query(sql::NEXT_DUE).bind::<Text, _>(array(groups)).get_result(conn).await?;
        Ok(wait.seconds)
    }

    /// The transaction is immediate: nobody else writes.
    async fn lock_leases(conn: &mut Connection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let groups: Vec<GroupRow> =
            sql_query(sql::CURRENT_LEASES).bind::<Text, _>(pairs(leases)).load(conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    /// There is one slot, and nothing in it is held by others.
    async fn due(conn: &mut Connection, groups: &[i32], _but: &[i32], max: usize) -> QueryResult<Vec<Due>> {
        sql_query(sql::DUE).bind::<Text, _>(array(groups)).bind::<BigInt, _>(limit(max)).load(conn).await
    }

    /// As they were read in this transaction.
    async fn lock_due(_conn: &mut Connection, ids: &[i64]) -> QueryResult<Vec<i64>> {
        Ok(ids.to_vec())
    }

    async fn move_due(conn: &mut Connection, ids: &[i64]) -> QueryResult<()> {
        for statement in sql::MOVE_DUE {
            sql_query(statement).bind::<Text, _>(array(ids)).execute(conn).await?;
        }
        Ok(())
    }
}

/// Leases as JSON.
fn pairs(leases: &[Lease]) -> String {
    array(&leases.iter().map(|lease| format!("[{},{}]", lease.group, lease.epoch)).collect::<Vec<_>>())
}

fn boxed(query: String) -> BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery> {
    sql_query(query).into_boxed()
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

fn bound(query: Query) -> BoxedSqlQuery<'static, diesel::sqlite::Sqlite, SqlQuery> {
    let (text, values) = query.into_parts();
    values.into_iter().fold(sql_query(text).into_boxed(), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        // As the tables' defaults write it, so that texts compare as times.
        Value::Time(time) => query.bind::<Text, _>(time.to_rfc3339_opts(SecondsFormat::Millis, true)),
    })
}

/// About these rows.
async fn execute_all(conn: &mut Connection, statements: &[&'static str], ids: &[i64]) -> QueryResult<()> {
    for statement in statements {
        sql_query(*statement).bind::<Text, _>(array(ids)).execute(conn).await?;
    }
    Ok(())
}

/// As JSON, for `json_each`.
fn array<T: std::fmt::Display>(items: &[T]) -> String {
    format!("[{}]", joined(items))
}
