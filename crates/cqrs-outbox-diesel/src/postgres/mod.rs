//! PostgreSQL.

mod connect;
mod sql;
mod store;

use cqrs_core::{Database, MessageId};
use cqrs_outbox::StoreError;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, TransactionManager};

pub use self::connect::PgBuilder;
use crate::backend::{Backend, sealed};
use crate::migration::{Migration, POSTGRES};
use crate::record::NewRow;
use crate::status::StatusRow;
use crate::tx::Tx;

/// PostgreSQL, 13 or newer, as the database of an [`Outbox`](crate::Outbox).
#[derive(Debug)]
pub enum Pg {}

impl Database for Pg {
    type Tx = Tx<Self>;
}

impl sealed::Sealed for Pg {}

#[derive(QueryableByName)]
struct Versions {
    #[diesel(sql_type = Integer)]
    schema_version: i32,
    #[diesel(sql_type = Integer)]
    min_reader_version: i32,
}

#[derive(QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    found: bool,
}

impl Backend for Pg {
    type Connection = AsyncPgConnection;
    type Guard = Object<AsyncPgConnection>;
    type Pool = Pool<AsyncPgConnection>;

    const MIGRATIONS: &'static [Migration] = POSTGRES;

    async fn acquire(pool: &Self::Pool) -> Result<Self::Guard, StoreError> {
        pool.get().await.map_err(connect::pool_error)
    }

    fn discard(guard: Self::Guard) {
        drop(Object::take(guard));
    }

    async fn begin(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        <AsyncPgConnection as AsyncConnection>::TransactionManager::begin_transaction(conn).await
    }

    async fn insert(conn: &mut AsyncPgConnection, rows: Vec<NewRow>) -> QueryResult<()> {
        let mut columns = Columns::default();
        rows.into_iter().for_each(|row| columns.push(row));
        sql_query(sql::INSERT)
            .bind::<Array<SqlUuid>, _>(columns.event_id)
            .bind::<Array<Text>, _>(columns.event_name)
            .bind::<Array<Text>, _>(columns.event_kind)
            .bind::<Array<Integer>, _>(columns.event_version)
            .bind::<Array<Text>, _>(columns.topic)
            .bind::<Array<Nullable<Binary>>, _>(columns.message_key)
            .bind::<Array<Text>, _>(columns.headers)
            .bind::<Array<Text>, _>(columns.content_type)
            .bind::<Array<Nullable<Binary>>, _>(columns.payload)
            .bind::<Array<Timestamptz>, _>(columns.occurred_at)
            .execute(conn)
            .await?;
        Ok(())
    }

    async fn admit(conn: &mut AsyncPgConnection, consumer: &str, id: &MessageId) -> QueryResult<bool> {
        let written = sql_query(sql::ADMIT)
            .bind::<Text, _>(consumer)
            .bind::<Binary, _>(id.as_bytes())
            .execute(conn)
            .await?;
        Ok(written == 1)
    }

    async fn lock_migrations(conn: &mut AsyncPgConnection) -> QueryResult<()> {
        sql_query(sql::LOCK_MIGRATIONS).bind::<BigInt, _>(MIGRATION_LOCK).execute(conn).await?;
        Ok(())
    }

    async fn schema_version(conn: &mut AsyncPgConnection) -> QueryResult<Option<(i32, i32)>> {
        let exists: Exists = sql_query(sql::META_EXISTS).get_result(conn).await?;
        if !exists.found {
            return Ok(None);
        }
        let versions: Option<Versions> = sql_query(sql::VERSIONS).get_result(conn).await.optional()?;
        Ok(versions.map(|versions| (versions.schema_version, versions.min_reader_version)))
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

    async fn request(
        conn: &mut AsyncPgConnection,
        kind: &'static str,
        event_id: uuid::Uuid,
    ) -> QueryResult<usize> {
        sql_query(sql::REQUEST).bind::<Text, _>(kind).bind::<SqlUuid, _>(event_id).execute(conn).await
    }
}

/// Any number that others do not use for an advisory lock: the letters `cqrs`.
const MIGRATION_LOCK: i64 = 0x6371_7273;

/// New rows by column: one array a parameter, so that one fixed statement serves any number of rows.
#[derive(Default)]
struct Columns {
    event_id: Vec<uuid::Uuid>,
    event_name: Vec<String>,
    event_kind: Vec<&'static str>,
    event_version: Vec<i32>,
    topic: Vec<String>,
    message_key: Vec<Option<Vec<u8>>>,
    headers: Vec<String>,
    content_type: Vec<String>,
    payload: Vec<Option<Vec<u8>>>,
    occurred_at: Vec<chrono::DateTime<chrono::Utc>>,
}

impl Columns {
    fn push(&mut self, row: NewRow) {
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
}
