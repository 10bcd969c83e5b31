//! SQLite.

mod connect;
mod sql;
mod store;

use chrono::SecondsFormat;
use cqrs_core::{Database, MessageId};
use cqrs_outbox::StoreError;
use diesel::connection::AnsiTransactionManager;
use diesel::sql_types::{Binary, Bool, Integer, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName, SqliteConnection, sql_query};
use diesel_async::RunQueryDsl;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

pub use self::connect::SqliteBuilder;
use crate::backend::{Backend, sealed};
use crate::migration::{Migration, SQLITE};
use crate::record::NewRow;
use crate::status::StatusRow;
use crate::tx::Tx;

/// SQLite, 3.44 or newer (it is compiled in), as the database of an [`Outbox`](crate::Outbox).
#[derive(Debug)]
pub enum Sqlite {}

impl Database for Sqlite {
    type Tx = Tx<Self>;
}

impl sealed::Sealed for Sqlite {}

type Connection = SyncConnectionWrapper<SqliteConnection>;

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

/// Rows of one statement: SQLite allows 32,766 parameters.
const ROWS_PER_INSERT: usize = 1_000;

impl Backend for Sqlite {
    type Connection = Connection;
    type Guard = Object<Connection>;
    type Pool = Pool<Connection>;

    const MIGRATIONS: &'static [Migration] = SQLITE;

    async fn acquire(pool: &Self::Pool) -> Result<Self::Guard, StoreError> {
        pool.get().await.map_err(connect::pool_error)
    }

    fn discard(guard: Self::Guard) {
        drop(Object::take(guard));
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
    async fn lock_migrations(_conn: &mut Connection) -> QueryResult<()> {
        Ok(())
    }

    async fn schema_version(conn: &mut Connection) -> QueryResult<Option<(i32, i32)>> {
        let exists: Exists = sql_query(sql::META_EXISTS).get_result(conn).await?;
        if !exists.found {
            return Ok(None);
        }
        let versions: Option<Versions> = sql_query(sql::VERSIONS).get_result(conn).await.optional()?;
        Ok(versions.map(|versions| (versions.schema_version, versions.min_reader_version)))
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

    async fn request(conn: &mut Connection, kind: &'static str, event_id: uuid::Uuid) -> QueryResult<usize> {
        sql_query(sql::REQUEST)
            .bind::<Text, _>(kind)
            .bind::<Text, _>(event_id.to_string())
            .execute(conn)
            .await
    }
}
