//! What a failure of diesel means for the outbox.

use cqrs_core::{Error, ErrorKind};
use cqrs_outbox::{StoreError, StoreErrorKind};
use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// What to do about tables that are not there.
pub(crate) const MIGRATE: &str = "the outbox's tables are missing in this database, or some of them: run `cqrs outbox migrate`, which with \
     `--print` prints the SQL, or call `Outbox::migrate`";

/// What to do about tables that do not say what they are.
pub(crate) const META_LOST: &str = "the outbox's tables are there, but not the row of `cqrs_outbox_meta` that says of which version they \
     are: restore it, or run `cqrs outbox migrate`, which writes it again if all else is as it should be";

/// What to do about a binary log that cannot hold what the relay does; 1665.
const BINARY_LOG: &str = "the database's binary log has `binlog_format = STATEMENT`, with which nothing can be written at \
     READ COMMITTED: set it to `ROW` or `MIXED`";

pub(crate) fn store_error(error: DieselError) -> StoreError {
    if is_missing_table(&error) {
        return StoreError::new(StoreErrorKind::Schema, MIGRATE).with_source(error);
    }
    if is_missing_schema(&error) {
        let what = format!(
            "the schema of the outbox's tables is missing: {error}: create it (`CREATE SCHEMA`, as the user who is to have it), and run \
             `cqrs outbox migrate`"
        );
        return StoreError::new(StoreErrorKind::Schema, what).with_source(error);
    }
    if error.to_string().contains("BINLOG_FORMAT = STATEMENT") {
        return StoreError::new(StoreErrorKind::Configuration, BINARY_LOG).with_source(error);
    }
    if is_denied(&error) {
        let what = format!(
            "the outbox's database refuses this user: {error}: grant it what it needs (to create tables for `migrate`, to read and write them for a relay)"
        );
        return StoreError::new(StoreErrorKind::Configuration, what).with_source(error);
    }
    if has_waited(&error) {
        let what = format!(
            "the outbox's database did not get to it in time, as happens while another transaction holds what is wanted: {error}: try it \
             again when that one has ended"
        );
        return StoreError::new(StoreErrorKind::Unavailable, what).with_source(error);
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

/// A COMMIT that failed. One that the server has refused did not happen; of one that was not answered nobody can tell.
pub(crate) fn commit_error(error: DieselError) -> Error {
    if !is_unanswered(&error) {
        return transaction_error("the commit failed", error);
    }
    let what = format!(
        "the connection broke during the commit, which may have happened all the same: {error}: look for what was to be \
         written, or do it again under a key that can be there once only"
    );
    Error::new(ErrorKind::CommitUnknown, what).with_source(error)
}

/// Whether a statement ended without an answer, or with one that says only that the connection ends.
pub(crate) fn is_unanswered(error: &DieselError) -> bool {
    match error {
        DieselError::RollbackErrorOnCommit { commit_error, .. } => is_unanswered(commit_error),
        DieselError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection,
            _,
        ) => true,
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => {
            UNANSWERED.iter().any(|known| info.message().contains(known))
        }
        _ => false,
    }
}

const UNANSWERED: &[&str] = &[
    // PostgreSQL: what a session says last may come between the commit and its answer.
    "terminating connection",
    // MariaDB and MySQL: 1317, 1927, 1053, and what a proxy says.
    "execution was interrupted",
    "Connection was killed",
    "Server shutdown in progress",
    "server has gone away",
    "Lost connection",
    // Of the client library.
    "Input/output error",
    "Driver error",
];

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
            TRANSIENT.iter().chain(WAITED).any(|known| message.contains(known))
        }
        _ => false,
    }
}

/// A lock that was not to be had in time, or a statement that took too long, which may be the same.
fn has_waited(error: &DieselError) -> bool {
    let DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) = error else { return false };
    WAITED.iter().any(|known| info.message().contains(known))
}

const WAITED: &[&str] = &[
    // PostgreSQL, SQLite.
    "lock timeout",
    "canceling statement due to statement timeout",
    "database is locked",
    // MariaDB and MySQL; diesel-async drops their codes. 1205, 1969 and 3024.
    "Lock wait timeout exceeded",
    "max_statement_time exceeded",
    "maximum statement execution time exceeded",
];

const TRANSIENT: &[&str] = &[
    // PostgreSQL.
    "deadlock detected",
    "the database system is",
    "terminating connection due to",
    "in a read-only transaction",
    // MariaDB and MySQL. 1213.
    "Deadlock found",
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

pub(crate) fn is_denied(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, info) = error else { return false };
    // 42501; 1142 and 1044.
    info.message().starts_with("permission denied")
        || info.message().contains("command denied to user")
        || info.message().starts_with("Access denied for user")
}

/// 3F000, and 1049.
pub(crate) fn is_missing_schema(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, info) = error else { return false };
    let message = info.message();
    message.starts_with("schema \"") && message.ends_with("does not exist")
        || message.starts_with("Unknown database '")
}

pub(crate) fn is_missing_table(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, info) = error else { return false };
    let message = info.message();
    // The part of the names that is always there.
    let ours = message.contains("outbox") || message.contains("inbox");
    ours && (message.contains("does not exist")
        || message.contains("doesn't exist")
        || message.contains("no such table"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_the_server_refused_is_not_in_doubt() {
        use DatabaseErrorKind::{
            ClosedConnection, ForeignKeyViolation, SerializationFailure, UnableToSendCommand, Unknown,
        };
        use ErrorKind::{CommitUnknown, Transaction};
        let said = [
            (UnableToSendCommand, "connection closed", CommitUnknown, false),
            (ClosedConnection, "connection closed", CommitUnknown, false),
            (Unknown, "terminating connection due to administrator command", CommitUnknown, false),
            (
                Unknown,
                "terminating connection because of crash of another server process",
                CommitUnknown,
                false,
            ),
            (
                Unknown,
                "Input/output error: Input/output error: Broken pipe (os error 32)",
                CommitUnknown,
                false,
            ),
            (Unknown, "Driver error: `Connection to the server is closed.'", CommitUnknown, false),
            (Unknown, "Lost connection to MySQL server during query", CommitUnknown, false),
            (Unknown, "Connection was killed", CommitUnknown, false),
            (ForeignKeyViolation, "insert or update violates a constraint", Transaction, false),
            (SerializationFailure, "could not serialize access", Transaction, true),
            (Unknown, "deadlock detected", Transaction, true),
            (Unknown, "database is locked", Transaction, true),
            (
                Unknown,
                "Deadlock found when trying to get lock; try restarting transaction",
                Transaction,
                true,
            ),
        ];
        for (kind, text, wanted, retryable) in said {
            let error = commit_error(DieselError::DatabaseError(kind, Box::new(text.to_owned())));
            assert_eq!((error.kind(), error.is_retryable()), (wanted, retryable), "{text}");
            let rollback_failed = commit_error(DieselError::RollbackErrorOnCommit {
                rollback_error: Box::new(DieselError::BrokenTransactionManager),
                commit_error: Box::new(DieselError::DatabaseError(kind, Box::new(text.to_owned()))),
            });
            assert_eq!(rollback_failed.kind(), wanted, "{text}");
        }
        // Nothing was sent.
        assert_eq!(commit_error(DieselError::BrokenTransactionManager).kind(), Transaction);
    }

    /// As the servers say it, those too that the tests do not have.
    #[test]
    fn a_failure_is_known_by_its_text() {
        use StoreErrorKind::{Configuration, Other, Schema, Unavailable};
        let said = [
            ("deadlock detected", Unavailable),
            ("canceling statement due to lock timeout", Unavailable),
            ("the database system is shutting down", Unavailable),
            ("database is locked", Unavailable),
            ("terminating connection due to administrator command", Unavailable),
            ("canceling statement due to statement timeout", Unavailable),
            ("cannot execute INSERT in a read-only transaction", Unavailable),
            ("permission denied for table cqrs_outbox", Configuration),
            ("SELECT command denied to user 'me'@'localhost' for table `shop`.`cqrs_outbox`", Configuration),
            ("Deadlock found when trying to get lock; try restarting transaction", Unavailable),
            ("Lock wait timeout exceeded; try restarting transaction", Unavailable),
            ("Query execution was interrupted (max_statement_time exceeded)", Unavailable),
            ("Query execution was interrupted, maximum statement execution time exceeded", Unavailable),
            ("Connection was killed", Unavailable),
            ("Server shutdown in progress", Unavailable),
            ("Too many connections", Unavailable),
            (
                "The MySQL server is running with the --read-only option so it cannot execute this statement",
                Unavailable,
            ),
            ("MySQL server has gone away", Unavailable),
            ("Lost connection to MySQL server during query", Unavailable),
            ("Driver error: `Connection to the server is closed.'", Unavailable),
            ("Input/output error: Input/output error: Broken pipe (os error 32)", Unavailable),
            ("relation \"cqrs_outbox\" does not exist", Schema),
            ("relation \"events.orders_inbox\" does not exist", Schema),
            ("schema \"events\" does not exist", Schema),
            ("Unknown database 'events'", Schema),
            ("no such table: cqrs_outbox", Schema),
            ("Table 'shop.cqrs_outbox' doesn't exist", Schema),
            ("Table 'shop.rooms' doesn't exist", Other),
            (
                "Cannot execute statement: impossible to write to binary log since BINLOG_FORMAT = STATEMENT and at \
                 least one table uses a storage engine limited to row-based logging",
                Configuration,
            ),
            ("division by zero", Other),
        ];
        for (text, kind) in said {
            let error = DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned()));
            let error = store_error(error);
            assert_eq!(error.kind(), kind, "{text}");
            let waited = ["timeout", "locked", "time exceeded"].iter().any(|word| text.contains(word));
            assert_eq!(error.to_string().contains("did not get to it in time"), waited, "{text}");
        }
    }
}
