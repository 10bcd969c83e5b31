//! What differs between databases.

use std::fmt::Debug;
use std::future::Future;
use std::ops::DerefMut;

use cqrs_core::{Database, MessageId};
use cqrs_outbox::StoreError;
use diesel::QueryResult;
use diesel_async::AsyncConnection;

use crate::migration::Migration;
use crate::record::NewRow;
use crate::status::StatusRow;
use crate::tx::Tx;

/// A kind of database that can hold an outbox: [`Pg`](crate::Pg) or [`Sqlite`](crate::Sqlite). It names the connection,
/// the pool and what the pool lends. It is implemented here only.
pub trait Backend: Database<Tx = Tx<Self>> + Debug + Sized + sealed::Sealed {
    /// A connection, as diesel knows it.
    type Connection: AsyncConnection + Send + 'static;

    /// A connection of the pool, lent.
    type Guard: DerefMut<Target = Self::Connection> + Send + 'static;

    /// The connections.
    type Pool: Clone + Send + Sync + 'static;

    /// The tables' history.
    #[doc(hidden)]
    const MIGRATIONS: &'static [Migration];

    /// Lends a connection.
    #[doc(hidden)]
    fn acquire(pool: &Self::Pool) -> impl Future<Output = Result<Self::Guard, StoreError>> + Send;

    /// Closes a connection whose state is unknown, instead of giving it back.
    #[doc(hidden)]
    fn discard(guard: Self::Guard);

    /// Begins a transaction that is going to write.
    #[doc(hidden)]
    fn begin(conn: &mut Self::Connection) -> impl Future<Output = QueryResult<()>> + Send;

    /// Writes rows, in their order, in one statement.
    #[doc(hidden)]
    fn insert(conn: &mut Self::Connection, rows: Vec<NewRow>)
    -> impl Future<Output = QueryResult<()>> + Send;

    /// Writes an inbox row; `false` if it is there already.
    #[doc(hidden)]
    fn admit(
        conn: &mut Self::Connection,
        consumer: &str,
        id: &MessageId,
    ) -> impl Future<Output = QueryResult<bool>> + Send;

    /// Keeps other migrations out until the end of the transaction.
    #[doc(hidden)]
    fn lock_migrations(conn: &mut Self::Connection) -> impl Future<Output = QueryResult<()>> + Send;

    /// The version of the tables and the oldest version that may read them; `None` if there are no tables.
    #[doc(hidden)]
    fn schema_version(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = QueryResult<Option<(i32, i32)>>> + Send;

    /// Records the version of the tables.
    #[doc(hidden)]
    fn set_schema_version(
        conn: &mut Self::Connection,
        version: i32,
        min_reader_version: i32,
    ) -> impl Future<Output = QueryResult<()>> + Send;

    /// Records what an operator asks for a dead letter.
    #[doc(hidden)]
    fn request(
        conn: &mut Self::Connection,
        kind: &'static str,
        event_id: uuid::Uuid,
    ) -> impl Future<Output = QueryResult<usize>> + Send;

    /// What waits, what is stuck and who is at work, as of one snapshot.
    #[doc(hidden)]
    fn status(conn: &mut Self::Connection) -> impl Future<Output = QueryResult<StatusRow>> + Send;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}
