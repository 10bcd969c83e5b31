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
use cqrs_outbox::table::{self, OutboxRecord, TableNames};
use cqrs_outbox::{Confirmed, Lane, LaterEvents, Lease, ReadRequest, Rejection, RelayId, StoreError};
use diesel::mysql::Mysql;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{BigInt, Binary, Bool, Double, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{
    AnsiTransactionManager, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
};
use uuid::Uuid;

pub use self::connect::MySqlBuilder;
use self::connect::Pools;
use self::kept::{Parameter, kept};
use crate::backend::Backend;
use crate::dead_letters::{FullDeadRow, ListedRow};
use crate::drift::{Fact, Sequence};
use crate::error::is_missing_table;
use crate::migration::{MYSQL, MYSQL_META, Migration};
use crate::network::pool_error;
use crate::new_rows::{BatchSizes, NewRows};
use crate::on::{Lanes, On};
use crate::parked::ParkedRow;
use crate::query::{Dialect, Query, Value};
use crate::record::Record;
use crate::requests::{ARE_OPEN, DueRequest, Later, RequestRow};
use crate::schedule::ScheduledRecord;
use crate::statements::{
    Census, Due, Exists, Gate, GroupRow, LeaseRow, Meta, Micros, Number, PulseRow, ROWS_PER_INSERT,
    Statements, TABLES, TakenKey, VersionRow, Wait, attempts, has_ended, joined, limit, places, receipts,
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
    type Memory = BatchSizes;

    const MIGRATIONS: &'static [Migration] = MYSQL;
    const META_TABLE: &'static str = MYSQL_META;
    const DDL_COMMITS: bool = true;
    const MAX_PACKET: Option<&'static str> = Some(sql::MAX_PACKET);
    const SQL: table::Dialect = table::Dialect::MySql;
    const DIALECT: Dialect = sql::DIALECT;
    const LANES: Lanes = sql::LANES;

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
        has_ended(conn)
    }

    async fn rollback(conn: &mut Connection) -> QueryResult<()> {
        AnsiTransactionManager::rollback_transaction(conn).await?;
        conn.batch_execute(sql::AUTOCOMMIT).await
    }

    /// No transaction, since DDL commits: the migrations can be run again from any point, and this keeps others out.
    async fn begin_migration(on: &mut On<'_, MySql>) -> QueryResult<()> {
        let locked: Exists = on.query(sql::LOCK_MIGRATIONS).get_result(on.conn).await?;
        if locked.found {
            return Ok(());
        }
        let what = "lock timeout: another migration has been at it for a minute";
        Err(DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(what.to_owned())))
    }

    async fn end_migration(on: &mut On<'_, MySql>) -> QueryResult<()> {
        let unlock = on.sql(sql::UNLOCK_MIGRATIONS);
        on.conn.batch_execute(&unlock).await
    }

    async fn meta(on: &mut On<'_, MySql>) -> QueryResult<Option<Meta>> {
        // Not asked for in the catalog, where a table that this user may not read is not to be found.
        let meta: QueryResult<Meta> = on.query(sql::META).get_result(on.conn).await;
        match meta.optional() {
            Err(error) if is_missing_table(&error) => Ok(None),
            meta => meta,
        }
    }

    async fn has_tables(on: &mut On<'_, MySql>) -> QueryResult<bool> {
        Ok(on.query(sql::TABLES_EXIST).get_result::<Exists>(on.conn).await?.found)
    }

    async fn check_tables(on: &mut On<'_, MySql>) -> QueryResult<()> {
        on.query(TABLES).execute(on.conn).await.map(drop)
    }

    async fn describe(on: &mut On<'_, MySql>) -> QueryResult<Vec<Fact>> {
        drift::describe(on).await
    }

    async fn describe_fresh(on: &mut On<'_, MySql>) -> QueryResult<Vec<Fact>> {
        drift::describe_fresh(on).await
    }

    async fn sequences(on: &mut On<'_, MySql>) -> QueryResult<Vec<Sequence>> {
        drift::sequences(on).await
    }

    fn set_sequence(names: &TableNames, table: &str, highest: i64) -> String {
        let table = names.qualified(Self::SQL, table);
        format!("ALTER TABLE {table} AUTO_INCREMENT = {}", highest.saturating_add(1))
    }

    async fn set_schema_version(
        on: &mut On<'_, MySql>,
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

    async fn insert(on: &mut On<'_, MySql>, rows: Vec<OutboxRecord>) -> QueryResult<()> {
        for some in table::in_parts(rows, |row| row) {
            NewRows::new(on.sql(sql::INSERT), some, table::Dialect::MySql, on.memory)
                .execute(on.conn)
                .await?;
        }
        Ok(())
    }

    async fn schedule(on: &mut On<'_, MySql>, rows: Vec<(OutboxRecord, DateTime<Utc>)>) -> QueryResult<()> {
        for some in table::in_parts(rows, |(row, _)| row) {
            let insert = boxed(on, format!("{}{}", sql::SCHEDULE, places(sql::SCHEDULE_ROW, some.len())));
            let bind = |insert, (row, at)| bind_row(insert, row).bind::<Text, _>(datetime(at));
            some.into_iter().fold(insert, bind).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn now(on: &mut On<'_, MySql>) -> QueryResult<DateTime<Utc>> {
        Ok(on.query(sql::NOW).get_result::<Micros>(on.conn).await?.into())
    }

    /// The server does not say what became of each row, so a row says who took it last.
    async fn claim(on: &mut On<'_, MySql>, claims: &[Claim]) -> QueryResult<HashMap<Vec<u8>, Uuid>> {
        let me = Uuid::new_v4();
        let mut others = HashMap::new();
        for some in claims.chunks(ROWS_PER_INSERT) {
            let values = places(sql::CLAIM_ROW, some.len());
            let mut insert = boxed(on, format!("{}{values}{}", sql::CLAIM, sql::UNLESS_CLAIMED));
            let keys = places("?", some.len());
            let mut select = boxed(on, format!("{}({keys}) FOR UPDATE", sql::CLAIMED));
            for claim in some {
                insert = insert
                    .bind::<Binary, _>(claim.key.clone())
                    .bind::<Text, _>(claim.event_id.to_string())
                    .bind::<Text, _>(me.to_string())
                    .bind::<BigInt, _>(micros(Duration::from_secs_f64(claim.seconds)));
                select = select.bind::<Binary, _>(claim.key.clone());
            }
            insert.execute(on.conn).await?;
            let claimed: Vec<ClaimedBy> = select.load(on.conn).await?;
            let taken = claimed.into_iter().filter(|row| row.claimed_by != me.to_string());
            others.extend(taken.map(|row| <(Vec<u8>, Uuid)>::from(row.taken)));
        }
        Ok(others)
    }

    async fn release_claims(on: &mut On<'_, MySql>, keys: &[Vec<u8>]) -> QueryResult<()> {
        for key in keys {
            on.query(sql::RELEASE_CLAIM).bind::<Binary, _>(key).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn purge_dedup(on: &mut On<'_, MySql>, max: usize) -> QueryResult<usize> {
        let expired: Vec<Bytes> =
            on.query(sql::EXPIRED_DEDUP).bind::<BigInt, _>(limit(max)).load(on.conn).await?;
        if expired.is_empty() {
            return Ok(0);
        }
        let keys: Vec<String> = expired.iter().map(|key| read::hex(&key.value).to_string()).collect();
        on.query(format!("{}{}", sql::DELETE_DEDUP, list(&keys))).execute(on.conn).await
    }

    async fn lock_versions(on: &mut On<'_, MySql>, keys: &[Vec<u8>]) -> QueryResult<HashMap<Vec<u8>, i64>> {
        let mut versions = HashMap::new();
        for some in keys.chunks(ROWS_PER_INSERT) {
            let values = places("(?, -1)", some.len());
            let mut insert = boxed(on, format!("{}{values}{}", sql::LOCK_VERSIONS, sql::AS_IT_IS));
            let places = places("?", some.len());
            // A locking read sees what was committed, whatever the snapshot of the transaction is.
            let mut select = boxed(on, format!("{}({places}) FOR UPDATE", sql::KEY_VERSIONS));
            for key in some {
                insert = insert.bind::<Binary, _>(key.clone());
                select = select.bind::<Binary, _>(key.clone());
            }
            insert.execute(on.conn).await?;
            let rows: Vec<VersionRow> = select.load(on.conn).await?;
            versions.extend(rows.into_iter().map(<(Vec<u8>, i64)>::from));
        }
        Ok(versions)
    }

    async fn set_versions(on: &mut On<'_, MySql>, versions: &[(Vec<u8>, i64)]) -> QueryResult<()> {
        for some in versions.chunks(ROWS_PER_INSERT) {
            let values = places("(?, ?)", some.len());
            let mut insert = boxed(on, format!("{}{values}{}", sql::LOCK_VERSIONS, sql::AS_GIVEN));
            for (key, version) in some {
                insert = insert.bind::<Binary, _>(key.clone()).bind::<BigInt, _>(*version);
            }
            insert.execute(on.conn).await?;
        }
        Ok(())
    }

    async fn lock_key(on: &mut On<'_, MySql>, key: &[u8]) -> QueryResult<()> {
        on.query(format!("{}(?, -1){}", sql::LOCK_VERSIONS, sql::AS_IT_IS))
            .bind::<Binary, _>(key)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn cancel(on: &mut On<'_, MySql>, event_id: Uuid) -> QueryResult<bool> {
        let rows = lock_scheduled(on, event_id).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        on.query(sql::DELETE_DUE).bind::<Text, _>(ids(&rows)).execute(on.conn).await?;
        for key in keys_of(on, &event_id.to_string()).await? {
            free_key(on, key, &event_id.to_string()).await?;
        }
        Ok(true)
    }

    async fn reschedule(on: &mut On<'_, MySql>, event_id: Uuid, at: DateTime<Utc>) -> QueryResult<bool> {
        let rows = lock_scheduled(on, event_id).await?;
        for id in &rows {
            on.query(sql::RESCHEDULE)
                .bind::<Text, _>(datetime(at))
                .bind::<BigInt, _>(id)
                .execute(on.conn)
                .await?;
        }
        Ok(!rows.is_empty())
    }

    async fn scheduled(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<ScheduledRecord>> {
        bound(on, query).load(on.conn).await
    }

    async fn admit(on: &mut On<'_, MySql>, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let changed = on
            .query(sql::ADMIT)
            .bind::<Binary, _>(consumer.as_bytes())
            .bind::<Binary, _>(id.as_bytes())
            .execute(on.conn)
            .await?;
        Ok(changed == 1)
    }

    async fn status(on: &mut On<'_, MySql>) -> QueryResult<StatusRow> {
        on.query(sql::STATUS).get_result(on.conn).await
    }

    async fn set_hold(on: &mut On<'_, MySql>, hold: bool) -> QueryResult<()> {
        on.query(sql::SET_HOLD).bind::<Bool, _>(hold).execute(on.conn).await?;
        Ok(())
    }

    async fn dead_letters(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<ListedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn parked_events(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<ParkedRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn dead_letter(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Option<FullDeadRow>> {
        bound(on, query).get_result(on.conn).await.optional()
    }

    async fn requests(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<RequestRow>> {
        bound(on, query).load(on.conn).await
    }

    async fn numbers(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<i64>> {
        let numbers: Vec<Number> = bound(on, query).load(on.conn).await?;
        Ok(numbers.into_iter().map(|number| number.value).collect())
    }

    async fn execute(on: &mut On<'_, MySql>, query: Query) -> QueryResult<usize> {
        bound(on, query).execute(on.conn).await
    }

    async fn seen(on: &mut On<'_, MySql>, relay: &RelayId) -> QueryResult<()> {
        on.query(sql::SEEN)
            .bind::<Text, _>(relay.incarnation.to_string())
            .bind::<Text, _>(&relay.name)
            .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn forget_relays(on: &mut On<'_, MySql>, lease: Duration) -> QueryResult<()> {
        let relays: Vec<Name> =
            on.query(sql::FORGOTTEN_RELAYS).bind::<BigInt, _>(micros(lease)).load(on.conn).await?;
        for relay in relays {
            on.query(sql::SIGN_OFF).bind::<Text, _>(relay.value).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn release(on: &mut On<'_, MySql>, incarnation: Uuid, leases: &[Lease]) -> QueryResult<()> {
        on.query(format!("{}{}", sql::RELEASE, pairs(leases)))
            .bind::<Text, _>(incarnation.to_string())
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn renew(on: &mut On<'_, MySql>, incarnation: Uuid, lease: Duration) -> QueryResult<()> {
        on.query(sql::RENEW)
            .bind::<BigInt, _>(micros(lease))
            .bind::<Text, _>(incarnation.to_string())
            .bind::<BigInt, _>(micros(lease))
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn take(on: &mut On<'_, MySql>, relay: &RelayId, lease: Duration, count: usize) -> QueryResult<()> {
        let free: Vec<Number> = on
            .query(sql::FREE_GROUPS)
            .bind::<BigInt, _>(micros(lease))
            .bind::<BigInt, _>(limit(count))
            .load(on.conn)
            .await?;
        if !free.is_empty() {
            on.query(format!("{}{}", sql::TAKE, list(&values(free))))
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<Text, _>(&relay.name)
                .bind::<Text, _>(relay.incarnation.to_string())
                .bind::<BigInt, _>(micros(lease))
                .execute(on.conn)
                .await?;
        }
        Ok(())
    }

    async fn leases(on: &mut On<'_, MySql>, incarnation: Uuid) -> QueryResult<Vec<LeaseRow>> {
        on.query(sql::LEASES).bind::<Text, _>(incarnation.to_string()).load(on.conn).await
    }

    /// No statement here both changes rows and tells them.
    async fn pulse(on: &mut On<'_, MySql>, incarnation: Uuid, lease: Duration) -> QueryResult<Vec<PulseRow>> {
        let (incarnation, lease) = (incarnation.to_string(), micros(lease));
        let seen = kept(on.sql(sql::SEEN_AGAIN), [Parameter::Text(&incarnation)]).execute(on.conn).await?;
        let [me, lease] = [Parameter::Text(&incarnation), Parameter::Number(lease)];
        kept(on.sql(sql::RENEW), [lease, me, lease]).execute(on.conn).await?;
        let seen = Parameter::Number(i64::from(seen > 0));
        kept(on.sql(sql::PULSE), [lease, lease, seen, lease, me]).load(on.conn).await
    }

    async fn census(on: &mut On<'_, MySql>, lease: Duration) -> QueryResult<Census> {
        on.query(sql::CENSUS).bind::<BigInt, _>(micros(lease)).get_result(on.conn).await
    }

    async fn fence(on: &mut On<'_, MySql>, lease: Lease) -> QueryResult<bool> {
        let row: Option<Exists> = on
            .query(sql::FENCE)
            .bind::<Integer, _>(lease.group.0)
            .bind::<BigInt, _>(lease.epoch)
            .get_result(on.conn)
            .await
            .optional()?;
        Ok(row.is_some())
    }

    async fn fence_all(on: &mut On<'_, MySql>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        let lock = format!("{}{}{}", sql::LOCK_LEASES, pairs(leases), sql::WAIT_FOR_ALL);
        let groups: Vec<GroupRow> = on.query(lock).load(on.conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn leave_groups(on: &mut On<'_, MySql>, incarnation: Uuid) -> QueryResult<()> {
        on.query(sql::LEAVE_GROUPS).bind::<Text, _>(incarnation.to_string()).execute(on.conn).await?;
        Ok(())
    }

    async fn sign_off(on: &mut On<'_, MySql>, incarnation: Uuid) -> QueryResult<()> {
        on.query(sql::SIGN_OFF).bind::<Text, _>(incarnation.to_string()).execute(on.conn).await?;
        Ok(())
    }

    async fn are_requests_open(on: &mut On<'_, MySql>) -> QueryResult<bool> {
        Ok(kept(on.sql(ARE_OPEN), []).get_result::<Number>(on.conn).await?.value > 0)
    }

    async fn due_requests(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<DueRequest>> {
        bound(on, query).load(on.conn).await
    }

    async fn later(on: &mut On<'_, MySql>, query: Query) -> QueryResult<Vec<Later>> {
        bound(on, query).load(on.conn).await
    }

    async fn replay(on: &mut On<'_, MySql>, dead: &[i64]) -> QueryResult<()> {
        let listed = list(dead);
        let park = sql::PARK_DEAD.join(&free_ids(on, dead, &["cqrs_outbox_parked"]).await?);
        for statement in [
            format!("{}{listed}{}", sql::CLOSE_GATES_OF_DEAD, sql::ON_CLOSED_GATE),
            format!("{park}{listed}"),
        ] {
            on.query(statement).execute(on.conn).await?;
        }
        remove_dead(on, dead).await
    }

    async fn discard_dead(on: &mut On<'_, MySql>, dead: &[i64]) -> QueryResult<()> {
        let events = format!("{}{}", sql::EVENTS_WITH_KEYS, list(dead));
        let events: Vec<Name> = on.query(events).load(on.conn).await?;
        for event_id in events.into_iter().map(|event| event.value) {
            for key in keys_of(on, &event_id).await? {
                let locked: Option<Bytes> = on
                    .query(sql::LOCK_KEY_OF_EVENT)
                    .bind::<Binary, _>(&key)
                    .bind::<Text, _>(&event_id)
                    .get_result(on.conn)
                    .await
                    .optional()?;
                // A writer who is told of a duplicate has it locked until his transaction ends, and is not waited for.
                if locked.is_some() {
                    free_key(on, key, &event_id).await?;
                }
            }
        }
        remove_dead(on, dead).await
    }

    async fn sweep_gates(on: &mut On<'_, MySql>, groups: &[i32]) -> QueryResult<()> {
        let lanes: Vec<Bytes> =
            on.query(format!("{}{}", sql::EMPTY_GATES, list(groups))).load(on.conn).await?;
        for lane in lanes {
            on.query(sql::OPEN_GATE).bind::<Binary, _>(lane.value).execute(on.conn).await?;
        }
        Ok(())
    }

    async fn read(on: &mut On<'_, MySql>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        read::hot(on, request).await
    }

    async fn read_parked(on: &mut On<'_, MySql>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
        read::parked(on, request).await
    }

    async fn settle_hot(on: &mut On<'_, MySql>, rows: &[i64]) -> QueryResult<usize> {
        kept(on.sql(sql::SETTLE_HOT), [Parameter::Text(&ids(rows))]).execute(on.conn).await
    }

    async fn settle_parked(on: &mut On<'_, MySql>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        on.query(sql::SETTLE_PARKED).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
        Ok(())
    }

    async fn keep_hot(on: &mut On<'_, MySql>, confirmed: &[&Confirmed]) -> QueryResult<usize> {
        Self::begin_short(on.conn).await?;
        let locked = lock_hot(on, &ids_of(confirmed)).await?;
        if !locked.is_empty() {
            let keep = sql::KEEP_HOT.join(&free_ids(on, &locked, &["cqrs_outbox_sent"]).await?);
            on.query(keep).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
            Self::settle_hot(on, &locked).await?;
        }
        Self::commit(on.conn).await?;
        Ok(locked.len())
    }

    async fn keep_parked(on: &mut On<'_, MySql>, confirmed: &[&Confirmed]) -> QueryResult<()> {
        Self::begin_short(on.conn).await?;
        let locked: Vec<Number> =
            on.query(sql::LOCK_PARKED_ROWS).bind::<Text, _>(receipts(confirmed)).load(on.conn).await?;
        if !locked.is_empty() {
            let free = free_ids(on, &values(locked), &["cqrs_outbox_sent"]).await?;
            let keep = sql::KEEP_PARKED.join(&free);
            on.query(keep).bind::<Text, _>(receipts(confirmed)).execute(on.conn).await?;
            Self::settle_parked(on, confirmed).await?;
        }
        Self::commit(on.conn).await
    }

    async fn park(on: &mut On<'_, MySql>, rejection: &Rejection) -> QueryResult<bool> {
        move_hot(on, &sql::PARK_HOT, rejection).await
    }

    async fn park_again(on: &mut On<'_, MySql>, rejection: &Rejection) -> QueryResult<bool> {
        if !lock_parked(on, rejection).await? {
            return Ok(false);
        }
        on.query(sql::PARK_AGAIN)
            .bind::<Integer, _>(attempts(rejection))
            .bind::<Text, _>(&rejection.error)
            .bind::<Integer, _>(attempts(rejection))
            .bind::<Text, _>(&rejection.error)
            .bind::<BigInt, _>(rejection.id)
            .execute(on.conn)
            .await?;
        Ok(true)
    }

    async fn bury(on: &mut On<'_, MySql>, rejection: &Rejection) -> QueryResult<bool> {
        move_hot(on, &sql::BURY_HOT, rejection).await
    }

    async fn bury_parked(on: &mut On<'_, MySql>, rejection: &Rejection) -> QueryResult<bool> {
        if !lock_parked(on, rejection).await? {
            return Ok(false);
        }
        insert_refused(on, &sql::BURY_PARKED, rejection, &["cqrs_outbox_dead"]).await?;
        on.query(sql::DELETE_PARKED).bind::<BigInt, _>(rejection.id).execute(on.conn).await?;
        Ok(true)
    }

    async fn set_aside(on: &mut On<'_, MySql>, lane: &Lane, rows: &[i64]) -> QueryResult<()> {
        let locked = lock_lane(on, lane, rows).await?;
        if locked.is_empty() {
            return Ok(());
        }
        // They come behind what stands aside of their lane.
        let last = on.query(sql::LAST_ASIDE).bind::<Binary, _>(lane.as_bytes());
        let last = last.get_result::<Number>(on.conn).await?.value;
        let set_aside = sql::SET_ASIDE.join(&free_ids_behind(on, &locked, ASIDE, last).await?);
        on.query(format!("{set_aside}{}", list(&locked)))
            .bind::<Binary, _>(lane.as_bytes())
            .execute(on.conn)
            .await?;
        Self::settle_hot(on, &locked).await?;
        Ok(())
    }

    async fn follow(on: &mut On<'_, MySql>, lane: &Lane, max: usize, all: bool) -> QueryResult<()> {
        let locked: Vec<Number> = on
            .query(sql::LOCK_FOLLOWERS)
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<Binary, _>(lane.as_bytes())
            .bind::<Bool, _>(all)
            .bind::<BigInt, _>(limit(max))
            .load(on.conn)
            .await?;
        let rows = values(locked);
        if rows.is_empty() {
            return Ok(());
        }
        let follow = sql::FOLLOW.join(&free_ids(on, &rows, &["cqrs_outbox_dead"]).await?);
        on.query(format!("{follow}{}", list(&rows)))
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .bind::<Text, _>(LaterEvents::FOLLOWS)
            .execute(on.conn)
            .await?;
        on.query(sql::DELETE_FOLLOWERS).bind::<Text, _>(ids(&rows)).execute(on.conn).await?;
        Ok(())
    }

    async fn close_gate(
        on: &mut On<'_, MySql>,
        rejection: &Rejection,
        wait: Option<Duration>,
    ) -> QueryResult<()> {
        let wait = wait.map(micros);
        on.query(sql::CLOSE_GATE)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<BigInt>, _>(wait)
            .bind::<Text, _>(&rejection.error)
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Binary, _>(rejection.lane.as_bytes())
            .bind::<Nullable<BigInt>, _>(wait)
            .bind::<Text, _>(&rejection.error)
            .execute(on.conn)
            .await?;
        Ok(())
    }

    async fn gate(on: &mut On<'_, MySql>, lane: &Lane) -> QueryResult<Option<Gate>> {
        on.query(sql::GATE).bind::<Binary, _>(lane.as_bytes()).get_result(on.conn).await.optional()
    }

    async fn gate_is_needed(on: &mut On<'_, MySql>, lane: &Lane) -> QueryResult<bool> {
        let lane = lane.as_bytes();
        let needed = on.query(sql::GATE_IS_NEEDED).bind::<Binary, _>(lane).bind::<Binary, _>(lane);
        let exists: Exists = needed.get_result(on.conn).await?;
        Ok(exists.found)
    }

    async fn open_gate(on: &mut On<'_, MySql>, lane: &Lane) -> QueryResult<()> {
        on.query(sql::OPEN_GATE).bind::<Binary, _>(lane.as_bytes()).execute(on.conn).await?;
        Ok(())
    }

    async fn next_due(on: &mut On<'_, MySql>, groups: &[i32]) -> QueryResult<Option<f64>> {
        if groups.is_empty() {
            return Ok(None);
        }
        let firsts: Vec<String> = groups.iter().map(|group| sql::first_due(*group)).collect();
        let wait = format!("{}({}) firsts", sql::NEXT_DUE, firsts.join(" UNION ALL "));
        Ok(on.query(wait).get_result::<Wait>(on.conn).await?.seconds)
    }

    async fn lock_leases(on: &mut On<'_, MySql>, leases: &[Lease]) -> QueryResult<Vec<i32>> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let lock = format!("{}{}{}", sql::LOCK_LEASES, pairs(leases), sql::SKIP_LOCKED);
        let groups: Vec<GroupRow> = on.query(lock).load(on.conn).await?;
        Ok(groups.into_iter().map(|group| group.group_no).collect())
    }

    async fn due(on: &mut On<'_, MySql>, groups: &[i32], but: &[i32], limit: usize) -> QueryResult<Vec<Due>> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let others = if but.is_empty() { String::new() } else { format!(" AND slot NOT IN {}", list(but)) };
        let parts: Vec<String> = groups.iter().map(|group| sql::due(*group, &others, limit)).collect();
        let parts = parts.join(" UNION ALL ");
        on.query(format!("SELECT id, slot FROM ({parts}) parts ORDER BY deliver_at, id LIMIT {limit}"))
            .load(on.conn)
            .await
    }

    async fn lock_due(on: &mut On<'_, MySql>, rows: &[i64]) -> QueryResult<Vec<i64>> {
        let locked: Vec<Number> = on.query(sql::LOCK_DUE).bind::<Text, _>(ids(rows)).load(on.conn).await?;
        Ok(values(locked))
    }

    async fn move_due(on: &mut On<'_, MySql>, rows: &[i64]) -> QueryResult<()> {
        on.query(format!("{}{}{}", sql::INSERT_DUE, list(rows), sql::IN_ORDER)).execute(on.conn).await?;
        on.query(sql::DELETE_DUE).bind::<Text, _>(ids(rows)).execute(on.conn).await?;
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
async fn lock_scheduled(on: &mut On<'_, MySql>, event_id: Uuid) -> QueryResult<Vec<i64>> {
    let found: Vec<Number> =
        on.query(sql::FIND_SCHEDULED).bind::<Text, _>(event_id.to_string()).load(on.conn).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let locked: Vec<Number> =
        on.query(sql::LOCK_SCHEDULED).bind::<Text, _>(ids(&values(found))).load(on.conn).await?;
    Ok(values(locked))
}

fn boxed(on: &On<'_, MySql>, query: String) -> BoxedSqlQuery<'static, Mysql, SqlQuery> {
    on.query(query).into_boxed()
}

fn bound(on: &On<'_, MySql>, query: Query) -> BoxedSqlQuery<'static, Mysql, SqlQuery> {
    let (text, values) = query.into_parts();
    values.into_iter().fold(boxed(on, text), |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
        Value::Number(number) => query.bind::<BigInt, _>(number),
        Value::Seconds(seconds) => query.bind::<Double, _>(seconds),
        Value::Time(time) => query.bind::<Text, _>(datetime(time)),
    })
}

/// Those of these rows that stand in the hot table.
async fn lock_hot(on: &mut On<'_, MySql>, rows: &[i64]) -> QueryResult<Vec<i64>> {
    let locked: Vec<Number> = on.query(sql::LOCK_HOT).bind::<Text, _>(ids(rows)).load(on.conn).await?;
    Ok(values(locked))
}

async fn lock_parked(on: &mut On<'_, MySql>, rejection: &Rejection) -> QueryResult<bool> {
    let locked: Vec<Number> = on
        .query(sql::LOCK_PARKED)
        .bind::<BigInt, _>(rejection.id)
        .bind::<Binary, _>(rejection.lane.as_bytes())
        .load(on.conn)
        .await?;
    Ok(!locked.is_empty())
}

/// Those of these rows that stand in the hot table and are of this lane.
async fn lock_lane(on: &mut On<'_, MySql>, lane: &Lane, rows: &[i64]) -> QueryResult<Vec<i64>> {
    let locked: Vec<Number> = on
        .query(sql::LOCK_LANE)
        .bind::<Text, _>(ids(rows))
        .bind::<Binary, _>(lane.as_bytes())
        .load(on.conn)
        .await?;
    Ok(values(locked))
}

/// Where rows of the hot table go that are not sent.
const ASIDE: &[&str] = &["cqrs_outbox_parked", "cqrs_outbox_dead"];

/// Removes dead letters; what waits behind them is due.
async fn remove_dead(on: &mut On<'_, MySql>, dead: &[i64]) -> QueryResult<()> {
    let listed = list(dead);
    let lanes = format!("{}{listed}{}{listed})", sql::LANES_OF_DEAD, sql::HAS_OTHER_DEAD);
    let lanes: Vec<Bytes> = on.query(lanes).load(on.conn).await?;
    if !lanes.is_empty() {
        let lanes = lanes.iter().map(|lane| &lane.value);
        bound(on, Query::new(sql::GATES_ARE_DUE).any_of(lanes)).execute(on.conn).await?;
    }
    on.query(sql::DELETE_DEAD).bind::<Text, _>(ids(dead)).execute(on.conn).await.map(drop)
}

/// The deduplication keys of an event.
async fn keys_of(on: &mut On<'_, MySql>, event_id: &str) -> QueryResult<Vec<Vec<u8>>> {
    let keys: Vec<Bytes> = on.query(sql::KEY_OF_EVENT).bind::<Text, _>(event_id).load(on.conn).await?;
    Ok(keys.into_iter().map(|key| key.value).collect())
}

/// Frees a deduplication key, if it is still that event's.
async fn free_key(on: &mut On<'_, MySql>, key: Vec<u8>, event_id: &str) -> QueryResult<()> {
    let free = on.query(sql::FREE_KEY).bind::<Binary, _>(key).bind::<Text, _>(event_id);
    free.execute(on.conn).await.map(drop)
}

/// The ids under which rows `o` go to where these tables are, as an expression: their own, as long as none of them has them.
/// They have one only where the sequence stands behind ids that are in use, be it after a `TRUNCATE` or a restore of some of
/// the tables. Then its row gets one above all that there are, for two events must not be one row; and so do those behind it, for else
/// they would pass it.
///
/// It is asked before, for a statement that reads the table that it writes to makes a copy of all its rows.
async fn free_ids(on: &mut On<'_, MySql>, rows: &[i64], tables: &[&str]) -> QueryResult<String> {
    free_ids_behind(on, rows, tables, i64::MIN).await
}

/// The same of rows that have to be behind this one.
async fn free_ids_behind(
    on: &mut On<'_, MySql>,
    rows: &[i64],
    tables: &[&str],
    last: i64,
) -> QueryResult<String> {
    let mut taken: BTreeSet<i64> = rows.iter().copied().filter(|id| *id < last).collect();
    for table in tables {
        let found: Vec<Number> = on.query(sql::taken(table)).bind::<Text, _>(ids(rows)).load(on.conn).await?;
        taken.extend(values(found));
    }
    let Some(first) = taken.iter().next() else { return Ok("o.id".to_owned()) };
    let highest: Number = on.query(sql::HIGHEST_ID).get_result(on.conn).await?;
    let behind: BTreeSet<_> = rows.iter().filter(|id| *id >= first).collect();
    let cases =
        behind.into_iter().zip(highest.value + 1..).map(|(id, free)| format!(" WHEN {id} THEN {free}"));
    Ok(format!("CASE o.id{} ELSE o.id END", cases.collect::<String>()))
}

async fn move_hot(on: &mut On<'_, MySql>, insert: &[&str; 2], rejection: &Rejection) -> QueryResult<bool> {
    if lock_lane(on, &rejection.lane, &[rejection.id]).await?.is_empty() {
        return Ok(false);
    }
    insert_refused(on, insert, rejection, ASIDE).await?;
    MySql::settle_hot(on, &[rejection.id]).await?;
    Ok(true)
}

async fn insert_refused(
    on: &mut On<'_, MySql>,
    insert: &[&str; 2],
    rejection: &Rejection,
    tables: &[&str],
) -> QueryResult<()> {
    let insert = insert.join(&free_ids(on, &[rejection.id], tables).await?);
    on.query(insert)
        .bind::<Integer, _>(attempts(rejection))
        .bind::<Binary, _>(rejection.lane.as_bytes())
        .bind::<Text, _>(&rejection.error)
        .bind::<Text, _>(&rejection.error)
        .bind::<BigInt, _>(rejection.id)
        .execute(on.conn)
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
