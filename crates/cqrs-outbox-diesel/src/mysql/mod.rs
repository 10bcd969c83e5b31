//! MariaDB and MySQL.

mod connect;
mod drift;
mod kept;
mod read;
mod sql;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cqrs_core::{Database, MessageId};
use cqrs_outbox::table::{self, OutboxRecord};
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::mysql::Mysql;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{
    AnsiTransactionManager, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
};
use uuid::Uuid;

pub use self::connect::MySqlBuilder;
use self::connect::Pools;
use self::kept::{Parameter, kept};
use crate::backend::Backend;
use crate::dead_letters::{DeadRow, FullDeadRow};
use crate::drift::{Fact, Sequence};
use crate::error::is_missing_table;
use crate::migration::{MYSQL, MYSQL_META, Migration};
use crate::network::pool_error;
use crate::new_rows::NewRows;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Micros, Number, PulseRow, ROWS_PER_INSERT, Statements,
    TABLES, TakenKey, VersionRow, Versions, Wait, attempts, in_parts, joined, limit, places, receipts,
};
use crate::status::StatusRow;
use crate::tx::Tx;
use crate::writing::Claim;

/// MariaDB, 10.11 or newer, as the database of an [`Outbox`](crate::Outbox). It keeps to what MySQL 8.4 has too, and has not
/// been tried on it. The order of a key is not promised on a cluster with several writers (Galera, group replication).
///
/// Your own transactions keep the server's isolation level. The relay has connections of its own at READ COMMITTED, which
/// the server's binary log must allow: `binlog_format` is `ROW` or `MIXED`, as it is by default.
///
/// The client library has no time-out for a connection that is cut without a word: put one around your own transactions.
/// The relay has one, its `store_timeout`.
#[derive(Debug)]
pub enum MySql {}

impl Database for MySql {
    type Tx = Tx<Self>;
}

impl Backend for MySql {
    type Connection = AsyncMysqlConnection;
    type Guard = Object<AsyncMysqlConnection>;
}

type Connection = AsyncMysqlConnection;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    value: String,
}

#[derive(QueryableByName)]
struct Bytes {
    #[diesel(sql_type = Binary)]
    value: Vec<u8>,
}

impl Statements for MySql {
    type Conn = Connection;
    type Lent = Object<Connection>;
    type Pool = Pools;
    type Memory = ();

    const MIGRATIONS: &'static [Migration] = MYSQL;
    const META_TABLE: &'static str = MYSQL_META;
    const DDL_COMMITS: bool = true;
    const DIALECT: Dialect = sql::DIALECT;

    async fn acquire(pools: &Pools) -> Result<Self::Lent, StoreError> {
        pools.application.get().await.map_err(pool_error)
    }

    async fn acquire_for_store(pools: &Pools) -> Result<Self::Lent, StoreError> {
        pools.relay.get().await.map_err(pool_error)
    }

    fn discard(lent: Self::Lent) {
        drop(Object::take(lent));
    }

    /// A deadlock rolls the whole transaction back, and a statement such as CREATE TABLE commits it; diesel does not
    /// notice. What is written afterwards must not be committed by itself, so `autocommit` is off, and the commit must
    /// not go through, so it first releases a savepoint that is gone then.
    async fn begin(conn: &mut Connection) -> QueryResult<()> {
        AnsiTransactionManager::begin_transaction_sql(conn, sql::BEGIN).await
    }

    async fn commit(conn: &mut Connection) -> QueryResult<()> {
        conn.batch_execute(sql::COMMIT).await.map_err(|error| match error {
            DieselError::DatabaseError(_, info) if info.message().contains(sql::NO_TRANSACTION) => {
                let what = "the transaction had ended before: a deadlock or a lock time-out rolled it back, or a \
                    statement like CREATE TABLE committed it. What came after that was rolled back";
                DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, Box::new(what.to_owned()))
            }
            error => error,
        })?;
        // It is committed: this is for diesel's books.
        AnsiTransactionManager::commit_transaction(conn).await
    }

    async fn rollback(conn: &mut Connection) -> QueryResult<()> {
        AnsiTransactionManager::rollback_transaction(conn).await?;
        conn.batch_execute(sql::AUTOCOMMIT).await
    }

    /// No transaction, since DDL commits: the migrations can be run again from any point, and this keeps others out.
    async fn begin_migration(conn: &mut Connection) -> QueryResult<()> {
        let locked: Exists = sql_query(sql::LOCK_MIGRATIONS).get_result(conn).await?;
        if locked.found {
            return Ok(());
        }
        let what = "lock timeout: another migration has been at it for a minute";
        Err(DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(what.to_owned())))
    }

    async fn end_migration(conn: &mut Connection) -> QueryResult<()> {
        conn.batch_execute(sql::UNLOCK_MIGRATIONS).await
    }

    async fn schema_version(conn: &mut Connection) -> QueryResult<Option<(i32, i32)>> {
        // Not asked for in the catalog, where a table that this user may not read is not to be found.
        let versions: QueryResult<Versions> = sql_query(sql::VERSIONS).get_result(conn).await;
        match versions.optional() {
            Err(error) if is_missing_table(&error) => Ok(None),
            versions => Ok(versions?.map(Into::into)),
        }
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

    async fn describe_fresh(conn: &mut Connection) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh(conn).await
    }

    async fn sequences(conn: &mut Connection) -> QueryResult<Vec<Sequence>> {
        drift::sequences(conn).await
    }

    fn set_sequence(table: &str, highest: i64) -> String {
        format!("ALTER TABLE {table} AUTO_INCREMENT = {}", highest.saturating_add(1))
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

    async fn insert(conn: &mut Connection, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        for some in in_parts(rows) {
            NewRows::new(sql::INSERT, some, table::Dialect::MySql).execute(conn).await?;
        }
        Ok(())
    }

    async fn schedule(conn: &mut Connection, rows: Vec<(OutboxRecord, DateTime<Utc>)>) -> QueryResult<()> {
        for some in in_parts(rows) {
            let insert = boxed(format!("{}{}", sql::SCHEDULE, places(sql::SCHEDULE_ROW, some.len())));
            let bind = |insert, (row, at)| bind_row(insert, row).bind::<Text, _>(datetime(at));
            some.into_iter().fold(insert, bind).execute(conn).await?;
        }
        Ok(())
    }

    async fn now(conn: &mut Connection) -> QueryResult<DateTime<Utc>> {
        Ok(sql_query(sql::NOW).get_result::<Micros>(conn).await?.into())
    }

    /// The server does not say what became of each row, so a row says who took it last.
    async fn claim(conn: &mut Connection, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let me = Uuid::new_v4();
        let mut others = HashMap::new();
        for some in claims.chunks(ROWS_PER_INSERT) {
            let values = places(sql::CLAIM_ROW, some.len());
            let mut insert = boxed(format!("{}{values}{}", sql::CLAIM, sql::UNLESS_CLAIMED));
            let keys = places("?", some.len());
            let mut select = boxed(format!("{}({keys}) FOR UPDATE", sql::CLAIMED));
            for claim in some {
                insert = insert
                    .bind::<Binary, _>(claim.key.clone())
                    .bind::<Text, _>(claim.event_id.to_string())
                    .bind::<Text, _>(me.to_string())
                    .bind::<BigInt, _>(micros(Duration::from_secs_f64(claim.seconds)));
                select = select.bind::<Binary, _>(claim.key.clone());
            }
            insert.execute(conn).await?;
            let claimed: Vec<ClaimedBy> = select.load(conn).await?;
            let taken = claimed.into_iter().filter(|row| row.claimed_by != me.to_string());
            others.extend(taken.map(|row| <(Vec<u8>, Uuid)>::from(row.taken)));
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
        let expired: Vec<Bytes> =
            sql_query(sql::EXPIRED_DEDUP).bind::<BigInt, _>(limit(max)).load(conn).await?;
        if expired.is_empty() {
            return Ok(0);
        }
        let keys: Vec<String> = expired.iter().map(|key| read::hex(&key.value).to_string()).collect();
        sql_query(format!("{}{}", sql::DELETE_DEDUP, list(&keys))).execute(conn).await
    }

    async fn lock_versions(conn: &mut Connection, keys: &[Vec<u8>]) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let mut versions = HashMap::new();
        for some in keys.chunks(ROWS_PER_INSERT) {
            let values = places("(?, -1)", some.len());
            let mut insert = boxed(format!("{}{values}{}", sql::LOCK_VERSIONS, sql::AS_IT_IS));
            let places = places("?", some.len());
            // A locking read sees what was committed, whatever the snapshot of the transaction is.
            let mut select = boxed(format!("{}({places}) FOR UPDATE", sql::KEY_VERSIONS));
            for key in some {
                insert = insert.bind::<Binary, _>(key.clone());
                select = select.bind::<Binary, _>(key.clone());
            }
            insert.execute(conn).await?;
            let rows: Vec<VersionRow> = select.load(conn).await?;
            versions.extend(rows.into_iter().map(<(Vec<u8>, i64)>::from));
        }
        Ok(versions)
    }

    async fn set_versions(conn: &mut Connection, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        for some in versions.chunks(ROWS_PER_INSERT) {
            let values = places("(?, ?)", some.len());
            let mut insert = boxed(format!("{}{values}{}", sql::LOCK_VERSIONS, sql::AS_GIVEN));
            for (key, version) in some {
                insert = insert.bind::<Binary, _>(key.clone()).bind::<BigInt, _>(*version);
            }
            insert.execute(conn).await?;
        }
        Ok(())
    }

    async fn lock_key(conn: &mut Connection, key: &[u8]) -> QueryResult<()> {
        sql_query(format!("{}(?, -1){}", sql::LOCK_VERSIONS, sql::AS_IT_IS))
            .bind::<Binary, _>(key)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn cancel(conn: &mut Connection, event_id: Uuid) -> QueryResult<bool> {
        let rows = lock_scheduled(conn, event_id).await?;
        if !rows.is_empty() {
            sql_query(sql::DELETE_DUE).bind::<Text, _>(ids(&rows)).execute(conn).await?;
        }
        Ok(!rows.is_empty())
    }

    async fn reschedule(conn: &mut Connection, event_id: Uuid, at: DateTime<Utc>) -> QueryResult<bool> {
        let rows = lock_scheduled(conn, event_id).await?;
        for id in &rows {
            sql_query(sql::RESCHEDULE)
                .bind::<Text, _>(datetime(at))
                .bind::<BigInt, _>(id)
                .execute(conn)
                .await?;
        }
        Ok(!rows.is_empty())
    }

    async fn scheduled(conn: &mut Connection, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(query).load(conn).await
    }

    async fn admit(conn: &mut Connection, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let changed = sql_query(sql::ADMIT)
            .bind::<Binary, _>(consumer.as_bytes())
            .bind::<Binary, _>(id.as_bytes())
            .execute(conn)
            .await?;
        Ok(changed == 1)
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
        let relays: Vec<Name> =
            sql_query(sql::FORGOTTEN_RELAYS).bind::<BigInt, _>(micros(lease)).load(conn).await?;
        for relay in relays {
            sql_query(sql::SIGN_OFF).bind::<Text, _>(relay.value).execute(conn).await?;
        }
        Ok(())
    }

    async fn release(conn: &mut Connection, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        sql_query(format!("{}{}", sql::RELEASE, pairs(leases)))
            .bind::<Text, _>(incarnation.to_string())
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn renew(conn: &mut Connection, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        sql_query(sql::RENEW)
            .bind::<BigInt, _>(micros(lease))
            .bind::<Text, _>(incarnation.to_string())
            .bind::<BigInt, _>(micros(lease))
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn take(conn: &mut Connection, relay: &RelayId, lease: Duration, count: usize) -> QueryResult<()> {
        let free: Vec<Number> = sql_query(sql::FREE_GROUPS)
            .bind::<BigInt, _>(micros(lease))
            .bind::<BigInt, _>(limit(count))
            .load(conn)
            .await?;
        if !free.is_empty() {
            sql_query(format!("{}{}", sql::TAKE, list(&values(free))))
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<Text, _>(&relay.name)
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<BigInt, _>(micros(lease))
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    async fn leases(conn: &mut Connection, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        sql_query(sql::LEASES).bind::<Text, _>(incarnation.to_string()).load(conn).await
    }

    /// No statement here both changes rows and tells them.
    async fn pulse(conn: &mut Connection, incarnation: Uuid, lease: Duration) -> QueryResult<Vec<PulseRow>> {
        let (incarnation, lease) = (incarnation.to_string(), micros(lease));
        let seen = kept(sql::SEEN_AGAIN, [Parameter::Text(&incarnation)]).execute(conn).await?;
        let [me, lease] = [Parameter::Text(&incarnation), Parameter::Number(lease)];
        kept(sql::RENEW, [lease, me, lease]).execute(conn).await?;
        let seen = Parameter::Number(i64::from(seen > 0));
        kept(sql::PULSE, [lease, lease, seen, lease, me]).load(conn).await
    }

    async fn census(conn: &mut Connection, lease: Duration) -> QueryResult<Census> {
        sql_query(sql::CENSUS).bind::<BigInt, _>(micros(lease)).get_result(conn).await
    }

    async fn fence(conn: &mut Connection, lease: Lease) -> QueryResult<bool> {
        let row: Option<Exists> = sql_query(sql::FENCE)
            .bind::<Integer, _>(lease.group.0)
            .bind::<BigInt, _>(lease.epoch)
            .get_result(conn)
            .await
            .optional()?;
        Ok(row.is_some())
    }

    async fn fence_all(conn: &mut Connection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let lock = format!("{}{}{}", sql::LOCK_LEASES, pairs(leases), sql::WAIT_FOR_ALL);
        let groups: Vec<GroupRow> = sql_query(lock).load(conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
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
        Ok(kept(ARE_OPEN, []).get_result::<Number>(conn).await?.value > 0)
    }

    async fn due_requests(conn: &mut Connection, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(query).load(conn).await
    }

    async fn later(conn: &mut Connection, query: Query) -> QueryResult<Vec<Later>> {
        bound(query).load(conn).await
    }

    async fn replay(conn: &mut Connection, dead: &[i64]) -> QueryResult<()> {
        let listed = list(dead);
        let park = sql::PARK_DEAD.join(&free_ids(conn, dead, &["cqrs_outbox_parked"]).await?);
        for statement in [
            format!("{}{listed}{}", sql::CLOSE_GATES_OF_DEAD, sql::ON_CLOSED_GATE),
            format!("{park}{listed}"),
        ] {
            sql_query(statement).execute(conn).await?;
        }
        Self::discard_dead(conn, dead).await
    }

    async fn discard_dead(conn: &mut Connection, dead: &[i64]) -> QueryResult<()> {
        let listed = list(dead);
        let lanes = format!("{}{listed}{}{listed})", sql::LANES_OF_DEAD, sql::HAS_OTHER_DEAD);
        let lanes: Vec<Bytes> = sql_query(lanes).load(conn).await?;
        if !lanes.is_empty() {
            let lanes = lanes.iter().map(|lane| &lane.value);
            bound(Query::new(sql::GATES_ARE_DUE).any_of(lanes)).execute(conn).await?;
        }
        sql_query(sql::DELETE_DEAD).bind::<Text, _>(ids(dead)).execute(conn).await?;
        Ok(())
    }

    async fn sweep_gates(conn: &mut Connection, groups: &[i32]) -> QueryResult<()> {
        let lanes: Vec<Bytes> = sql_query(format!("{}{}", sql::EMPTY_GATES, list(groups))).load(conn).await?;
        for lane in lanes {
            sql_query(sql::OPEN_GATE).bind::<Binary, _>(lane.value).execute(conn).await?;
        }
        Ok(())
    }

    async fn read(conn: &mut Connection, request: &ReadRequest, (): &()) -> QueryResult<Vec<Record>> {
        read::hot(conn, request).await
    }

    async fn read_parked(conn: &mut Connection, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        read::parked(conn, request).await
    }

    async fn settle_hot(conn: &mut Connection, rows: &[i64]) -> QueryResult<usize> {
        sql_query(sql::SETTLE_HOT).bind::<Text, _>(ids(rows)).execute(conn).await
    }

    async fn settle_parked(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        sql_query(sql::SETTLE_PARKED).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
        Ok(())
    }

    async fn keep_hot(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        Self::begin_short(conn).await?;
        let locked = lock_hot(conn, &ids_of(confirmed)).await?;
        if !locked.is_empty() {
            let keep = sql::KEEP_HOT.join(&free_ids(conn, &locked, &["cqrs_outbox_sent"]).await?);
            sql_query(keep).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
            Self::settle_hot(conn, &locked).await?;
        }
        Self::commit(conn).await?;
        Ok(locked.len())
    }

    async fn keep_parked(conn: &mut Connection, confirmed: &[&Confirmed]) -> QueryResult<()> {
        Self::begin_short(conn).await?;
        let locked: Vec<Number> =
            sql_query(sql::LOCK_PARKED_ROWS).bind::<Text, _>(receipts(confirmed)).load(conn).await?;
        if !locked.is_empty() {
            let free = free_ids(conn, &values(locked), &["cqrs_outbox_sent"]).await?;
            let keep = sql::KEEP_PARKED.join(&free);
            sql_query(keep).bind::<Text, _>(receipts(confirmed)).execute(conn).await?;
            Self::settle_parked(conn, confirmed).await?;
        }
        Self::commit(conn).await
    }

    async fn park(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        move_hot(conn, &sql::PARK_HOT, rejection).await
    }

    async fn park_again(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        if !lock_parked(conn, rejection).await? {
            return Ok(false);
        }
        sql_query(sql::PARK_AGAIN)
            .bind::<Integer, _>(attempts(rejection))
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .bind::<Text, _>(&rejection.error)
            .bind::<BigInt, _>(rejection.id)
            .execute(conn)
            .await?;
        Ok(true)
    }

    async fn bury(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        move_hot(conn, &sql::BURY_HOT, rejection).await
    }

    async fn bury_parked(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
        if !lock_parked(conn, rejection).await? {
            return Ok(false);
        }
        insert_refused(conn, &sql::BURY_PARKED, rejection, &["cqrs_outbox_dead"]).await?;
        sql_query(sql::DELETE_PARKED).bind::<BigInt, _>(rejection.id).execute(conn).await?;
        Ok(true)
    }

    async fn set_aside(conn: &mut Connection, lane: &Lane, rows: &[i64]) -> QueryResult<()> {
        let locked = lock_lane(conn, lane, rows).await?;
        if locked.is_empty() {
            return Ok(());
        }
        // They come behind what stands aside of their lane.
        let last = sql_query(sql::LAST_ASIDE).bind::<Binary, _>(lane.as_bytes());
        let last = last.get_result::<Number>(conn).await?.value;
        let set_aside = sql::SET_ASIDE.join(&free_ids_behind(conn, &locked, ASIDE, last).await?);
        sql_query(format!("{set_aside}{}", list(&locked)))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(conn)
            .await?;
        Self::settle_hot(conn, &locked).await?;
        Ok(())
    }

    async fn follow(conn: &mut Connection, lane: &Lane, max: usize) -> QueryResult<()> {
        let locked: Vec<Number> = sql_query(sql::LOCK_FOLLOWERS)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<BigInt, _>(limit(max))
            .load(conn)
            .await?;
        let rows = values(locked);
        if rows.is_empty() {
            return Ok(());
        }
        let follow = sql::FOLLOW.join(&free_ids(conn, &rows, &["cqrs_outbox_dead"]).await?);
        sql_query(format!("{follow}{}", list(&rows)))
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .execute(conn)
            .await?;
        sql_query(sql::DELETE_FOLLOWERS).bind::<Text, _>(ids(&rows)).execute(conn).await?;
        Ok(())
    }

    async fn close_gate(
        conn: &mut Connection,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        let wait = wait.map(micros);
        sql_query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<BigInt>, _>(wait)
            .bind::<Text, _>(&rejection.error)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<BigInt>, _>(wait)
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
        if groups.is_empty() {
            return Ok(None);
        }
        let firsts: Vec<String> = groups.iter().map(|group| sql::first_due(*group)).collect();
        let wait = format!("{}({}) firsts", sql::NEXT_DUE, firsts.join(" UNION ALL "));
        Ok(sql_query(wait).get_result::<Wait>(conn).await?.seconds)
    }

    async fn lock_leases(conn: &mut Connection, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let lock = format!("{}{}{}", sql::LOCK_LEASES, pairs(leases), sql::SKIP_LOCKED);
        let groups: Vec<GroupRow> = sql_query(lock).load(conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn due(conn: &mut Connection, groups: &[i32], but: &[i32], limit: usize) -> QueryResult<Vec<Due>> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let others = if but.is_empty() { String::new() } else { format!(" AND slot NOT IN {}", list(but)) };
        let parts: Vec<String> = groups.iter().map(|group| sql::due(*group, &others, limit)).collect();
        let parts = parts.join(" UNION ALL ");
        sql_query(format!("SELECT id, slot FROM ({parts}) parts ORDER BY deliver_at, id LIMIT {limit}"))
            .load(conn)
            .await
    }

    async fn lock_due(conn: &mut Connection, rows: &[i64]) -> QueryResult<Vec<i64>> {
        let locked: Vec<Number> = sql_query(sql::LOCK_DUE).bind::<Text, _>(ids(rows)).load(conn).await?;
        Ok(values(locked))
    }

    async fn move_due(conn: &mut Connection, rows: &[i64]) -> QueryResult<()> {
        sql_query(format!("{}{}{}", sql::INSERT_DUE, list(rows), sql::IN_ORDER)).execute(conn).await?;
        sql_query(sql::DELETE_DUE).bind::<Text, _>(ids(rows)).execute(conn).await?;
        Ok(())
    }
}

/// Leases as the right side of an `IN`.
fn pairs(leases: &[Lease]) -> String {
    list(&leases.iter().map(|lease| format!("({}, {})", lease.group, lease.epoch)).collect::<Vec<_>>())
}

/// A new row as eleven parameters of a statement.
fn bind_row(
    insert: BoxedSqlQuery<'static, Mysql, SqlQuery>,
    row: OutboxRecord,
) -> BoxedSqlQuery<'static, Mysql, SqlQuery> {
    row.into_values(table::Dialect::MySql).into_iter().fold(insert, |insert, value| match value {
        table::Value::Text(text) => insert.bind::<Text, _>(text),
        table::Value::Bytes(bytes) => insert.bind::<Nullable<Binary>, _>(bytes),
        table::Value::Integer(number) => insert.bind::<Integer, _>(number),
    })
}

fn datetime(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

#[derive(QueryableByName)]
struct ClaimedBy {
    #[diesel(embed)]
    taken: TakenKey,
    #[diesel(sql_type = Text)]
    claimed_by: String,
}

/// Scheduled rows of this event, locked. They are looked for without a lock: a locking read that finds nothing locks the
/// gap where it looked, and others could not schedule anything there until the transaction ends.
async fn lock_scheduled(conn: &mut Connection, event_id: Uuid) -> QueryResult<Vec<i64>> {
    let found: Vec<Number> =
        sql_query(sql::FIND_SCHEDULED).bind::<Text, _>(event_id.to_string()).load(conn).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let locked: Vec<Number> =
        sql_query(sql::LOCK_SCHEDULED).bind::<Text, _>(ids(&values(found))).load(conn).await?;
    Ok(values(locked))
}

fn boxed(query: String) -> BoxedSqlQuery<'static, Mysql, SqlQuery> {
    sql_query(query).into_boxed()
}

fn bound(query: Query) -> BoxedSqlQuery<'static, Mysql, SqlQuery> {
    let (text, values) = query.into_parts();
    values.into_iter().fold(boxed(text), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        Value::Time(time) => query.bind::<Text, _>(datetime(time)),
    })
}

/// Those of these rows that stand in the hot table.
async fn lock_hot(conn: &mut Connection, rows: &[i64]) -> QueryResult<Vec<i64>> {
    let locked: Vec<Number> = sql_query(sql::LOCK_HOT).bind::<Text, _>(ids(rows)).load(conn).await?;
    Ok(values(locked))
}

async fn lock_parked(conn: &mut Connection, rejection: &Rejection) -> QueryResult<bool> {
    let locked: Vec<Number> = sql_query(sql::LOCK_PARKED)
        .bind::<BigInt, _>(rejection.id)
        .bind::<Binary, _>(rejection.lane.as_bytes())
        .load(conn)
        .await?;
    Ok(!locked.is_empty())
}

/// Those of these rows that stand in the hot table and are of this lane.
async fn lock_lane(conn: &mut Connection, lane: &Lane, rows: &[i64]) -> QueryResult<Vec<i64>> {
    let locked: Vec<Number> = sql_query(sql::LOCK_LANE)
        .bind::<Text, _>(ids(rows))
        .bind::<Binary, _>(lane.as_bytes())
        .load(conn)
        .await?;
    Ok(values(locked))
}

/// Where rows of the hot table go that are not sent.
const ASIDE: &[&str] = &["cqrs_outbox_parked", "cqrs_outbox_dead"];

/// The ids under which rows `o` go to where these tables are, as an expression: their own, as long as none of them has them.
/// They have one only where the sequence stands behind ids that are in use, be it after a `TRUNCATE` or a restore of some of
/// the tables. Then its row gets one above all that there are, for two events must not be one row; and so do those behind it, for else
/// they would pass it.
///
/// It is asked before, for a statement that reads the table that it writes to makes a copy of all its rows.
async fn free_ids(conn: &mut Connection, rows: &[i64], tables: &[&str]) -> QueryResult<String> {
    free_ids_behind(conn, rows, tables, i64::MIN).await
}

/// The same of rows that have to be behind this one.
async fn free_ids_behind(
    conn: &mut Connection,
    rows: &[i64],
    tables: &[&str],
    last: i64,
) -> QueryResult<String> {
    let mut taken: BTreeSet<i64> = rows.iter().copied().filter(|id| *id < last).collect();
    for table in tables {
        let found: Vec<Number> = sql_query(sql::taken(table)).bind::<Text, _>(ids(rows)).load(conn).await?;
        taken.extend(values(found));
    }
    let Some(first) = taken.iter().next() else { return Ok("o.id".to_owned()) };
    let highest: Number = sql_query(sql::HIGHEST_ID).get_result(conn).await?;
    let behind: BTreeSet<_> = rows.iter().filter(|id| *id >= first).collect();
    let cases =
        behind.into_iter().zip(highest.value + 1..).map(|(id, free)| format!(" WHEN {id} THEN {free}"));
    Ok(format!("CASE o.id{} ELSE o.id END", cases.collect::<String>()))
}

async fn move_hot(conn: &mut Connection, insert: &[&str; 2], rejection: &Rejection) -> QueryResult<bool> {
    if lock_lane(conn, &rejection.lane, &[rejection.id]).await?.is_empty() {
        return Ok(false);
    }
    insert_refused(conn, insert, rejection, ASIDE).await?;
    MySql::settle_hot(conn, &[rejection.id]).await?;
    Ok(true)
}

async fn insert_refused(
    conn: &mut Connection,
    insert: &[&str; 2],
    rejection: &Rejection,
    tables: &[&str],
) -> QueryResult<()> {
    sql_query(insert.join(&free_ids(conn, &[rejection.id], tables).await?))
        .bind::<Integer, _>(attempts(rejection))
        .bind::<Binary, _>(rejection.lane.as_bytes())
        .bind::<Text, _>(&rejection.error)
        .bind::<Text, _>(&rejection.error)
        .bind::<BigInt, _>(rejection.id)
        .execute(conn)
        .await?;
    Ok(())
}

fn ids_of(confirmed: &[&Confirmed]) -> Vec<i64> {
    confirmed.iter().map(|confirmed| confirmed.id()).collect()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn values(numbers: Vec<Number>) -> Vec<i64> {
    numbers.into_iter().map(|number| number.value).collect()
}

/// Numbers as the right side of an `IN`.
fn list<T: Display>(items: &[T]) -> String {
    format!("({})", joined(items))
}

/// Numbers as JSON.
fn ids(rows: &[i64]) -> String {
    format!("[{}]", joined(rows))
}
