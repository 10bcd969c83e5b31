//! What a failure of diesel means for the outbox.

use cqrs_core::{Error, ErrorKind};
use cqrs_outbox::{StoreError, StoreErrorKind};
use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// What to do about tables that are not there.
pub(crate) const MIGRATE: &str = "the outbox's tables are missing in this database: create them with `Outbox::migrate`, \
     or run the SQL that `cqrs_outbox_diesel::migrations` prints";

pub(crate) fn store_error(error: DieselError) -> StoreError {
    if is_missing_table(&error) {
        return StoreError::new(StoreErrorKind::Schema, MIGRATE).with_source(error);
    }
    let kind = if is_unavailable(&error) { StoreErrorKind::Unavailable } else { StoreErrorKind::Other };
    StoreError::new(kind, format!("the outbox's database failed: {error}")).with_source(error)
}

pub(crate) fn transaction_error(what: &str, error: DieselError) -> Error {
    let retryable = is_unavailable(&error);
    Error::new(ErrorKind::Transaction, format!("{what}: {error}"))
        .with_retryable(retryable)
        .with_source(error)
}

/// Not reachable, a deadlock, a lock that was not to be had in time: the same again can succeed.
fn is_unavailable(error: &DieselError) -> bool {
    match error {
        DieselError::BrokenTransactionManager => true,
        DieselError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::SerializationFailure
            | DatabaseErrorKind::ClosedConnection,
            _,
        ) => true,
        // Diesel has no kinds for these.
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => {
            let message = info.message();
            TRANSIENT.iter().any(|known| message.contains(known))
        }
        _ => false,
    }
}

const TRANSIENT: &[&str] = &[
    // PostgreSQL, SQLite.
    "deadlock detected",
    "lock timeout",
    "the database system is",
    "database is locked",
    // MariaDB and MySQL; diesel-async drops their codes. 1213, 1205, 1969 and 3024.
    "Deadlock found",
    "Lock wait timeout exceeded",
    "max_statement_time exceeded",
    "maximum statement execution time exceeded",
    // Cut or about to be: 1317, 1927, 1053, 1040, 1290 (a fail-over), and what a proxy says.
    "execution was interrupted",
    "Connection was killed",
    "Server shutdown in progress",
    "Too many connections",
    "read-only option",
    "server has gone away",
    "Lost connection",
    // Of the client library.
    "Input/output error",
    "Connection to the server is closed",
    "Packet out of order",
];

fn is_missing_table(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, info) = error else { return false };
    let message = info.message();
    let ours = message.contains("cqrs_outbox") || message.contains("cqrs_inbox");
    ours && (message.contains("does not exist")
        || message.contains("doesn't exist")
        || message.contains("no such table"))
}
