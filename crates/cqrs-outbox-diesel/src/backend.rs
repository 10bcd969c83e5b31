//! What differs between databases.

use std::fmt::Debug;
use std::ops::DerefMut;

use cqrs_core::Database;
use diesel_async::AsyncConnection;

use crate::statements::Statements;
use crate::tx::Tx;

/// A kind of database that can hold an outbox: [`Pg`](crate::Pg), [`MySql`](crate::MySql) or
/// [`Sqlite`](crate::Sqlite). It names the connection and what the pool lends. It is implemented here only.
pub trait Backend:
    Database<Tx = Tx<Self>>
    + Statements<Conn = <Self as Backend>::Connection, Lent = <Self as Backend>::Guard>
    + Debug
    + Sized
{
    /// A connection, as diesel knows it.
    type Connection: AsyncConnection + Send + 'static;

    /// A connection of the pool, lent.
    type Guard: DerefMut<Target = Self::Connection> + Send + 'static;
}
