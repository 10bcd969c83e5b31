//! SQLite.

mod connect;
mod sql;

use std::time::Duration;

use chrono::SecondsFormat;
use cqrs_core::{Database, MessageId};
use cqrs_outbox::{Lane, Lease, ReadRequest, Rejection, RelayId, StoreError};
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
use crate::migration::{Migration, SQLITE};
use crate::query::{Dialect, Query, Value};
use crate::record::{NewRow, Record};
use crate::requests::{DueRequest, RequestRow};
use crate::statements::{
    Census, Exists, LeaseRow, Number, Statements, TABLES, Versions, attempts, groups_of, joined, limit,
};
use crate::status::StatusRow;
use crate::tx::Tx;

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

/// Rows of one statement: SQLite allows 32,766 parameters.
const ROWS_PER_INSERT: usize = 1_000;

impl Statements for Sqlite {
    type Conn = Connection;
    type Lent = Object<Connection>;
    type Pool = Pool<Connection>;

    const MIGRATIONS: &'static [Migration] = SQLITE;
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

    async fn insert(conn: &mut Connection, rows: Vec<NewRow>) -> QueryResult<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let chunk: Vec<NewRow> = rows.by_ref().take(ROWS_PER_INSERT).collect();
            let values = vec![sql::INSERT_ROW; chunk.len()].join(", ");
            let mut insert = sql_query(format!("{}{values}", sql::INSERT)).into_boxed();
            for row in chunk {
                let tombstone = i32::from(row.payload.is_none());
                insert = insert
                    .bind::<Text, _>(row.event_id.to_string())
                    .bind::<Text, _>(row.event_name)
                    .bind::<Text, _>(row.event_kind)
                    .bind::<Integer, _>(row.event_version)
                    .bind::<Text, _>(row.topic)
                    .bind::<Nullable<Binary>, _>(row.message_key)
                    .bind::<Text, _>(row.headers)
                    .bind::<Text, _>(row.content_type)
                    .bind::<Nullable<Binary>, _>(row.payload)
                    .bind::<Integer, _>(tombstone)
                    .bind::<Text, _>(row.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true));
            }
            insert.execute(conn).await?;
        }
        Ok(())
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

    async fn check_tables(conn: &mut Connection) -> QueryResult<()> {
        sql_query(TABLES).execute(conn).await.map(drop)
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
        let pairs: Vec<String> =
            leases.iter().map(|lease| format!("[{},{}]", lease.group, lease.epoch)).collect();
        sql_query(sql::RELEASE)
            .bind::<Text, _>(incarnation.to_string())
            .bind::<Text, _>(array(&pairs))
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

    async fn leases(conn: &mut Connection, incarnation: Uuid) -> QueryResult<Vec<Lease>> {
        let leases: Vec<LeaseRow> =
            sql_query(sql::LEASES).bind::<Text, _>(incarnation.to_string()).load(conn).await?;
        Ok(leases.into_iter().map(Into::into).collect())
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

    async fn leave_groups(conn: &mut Connection, incarnation: Uuid) -> QueryResult<()> {
        sql_query(sql::LEAVE_GROUPS).bind::<Text, _>(incarnation.to_string()).execute(conn).await?;
        Ok(())
    }

    async fn sign_off(conn: &mut Connection, incarnation: Uuid) -> QueryResult<()> {
        sql_query(sql::SIGN_OFF).bind::<Text, _>(incarnation.to_string()).execute(conn).await?;
        Ok(())
    }

    async fn has_requests(conn: &mut Connection) -> QueryResult<bool> {
        let exists: Exists = sql_query(sql::OPEN_REQUESTS).get_result(conn).await?;
        Ok(exists.found)
    }

    /// There is one group.
    async fn due_requests(
        conn: &mut Connection,
        groups: &[i32],
        count: usize,
    ) -> QueryResult<Vec<DueRequest>> {
        sql_query(sql::DUE_REQUESTS)
            .bind::<Text, _>(array(groups))
            .bind::<BigInt, _>(limit(count))
            .load(conn)
            .await
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

    async fn read(conn: &mut Connection, request: &ReadRequest) -> QueryResult<Vec<Record>> {
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

    async fn settle_parked(conn: &mut Connection, ids: &[i64]) -> QueryResult<()> {
        sql_query(sql::SETTLE_PARKED).bind::<Text, _>(array(ids)).execute(conn).await?;
        Ok(())
    }

    async fn park(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        let moved = sql_query(sql::PARK_HOT)
            .bind::<BigInt, _>(rejection.id)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_HOT).bind::<BigInt, _>(rejection.id).execute(conn).await?;
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
        sql_query(sql::DELETE_HOT).bind::<BigInt, _>(rejection.id).execute(conn).await?;
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
        sql_query(sql::DELETE_PARKED).bind::<BigInt, _>(rejection.id).execute(conn).await?;
        Ok(moved > 0)
    }

    async fn set_aside(conn: &mut Connection, lane: &Lane, ids: &[i64]) -> QueryResult<()> {
        sql_query(sql::SET_ASIDE)
            .bind::<Text, _>(array(ids))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(conn)
            .await?;
        Self::settle_hot(conn, ids).await?;
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

    async fn is_gate_closed(conn: &mut Connection, lane: &Lane) -> QueryResult<bool> {
        let exists: Exists =
            sql_query(sql::GATE_CLOSED).bind::<Binary, _>(lane.as_bytes()).get_result(conn).await?;
        Ok(exists.found)
    }

    async fn has_parked(conn: &mut Connection, lane: &Lane) -> QueryResult<bool> {
        let exists: Exists =
            sql_query(sql::PARKED_LEFT).bind::<Binary, _>(lane.as_bytes()).get_result(conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(conn: &mut Connection, lane: &Lane) -> QueryResult<()> {
        sql_query(sql::OPEN_GATE).bind::<Binary, _>(lane.as_bytes()).execute(conn).await?;
        Ok(())
    }
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
