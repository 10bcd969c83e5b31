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
    let kind = match &error {
        DieselError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::SerializationFailure
            | DatabaseErrorKind::ClosedConnection,
            _,
        )
        | DieselError::BrokenTransactionManager => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Other,
    };
    StoreError::new(kind, format!("the outbox's database failed: {error}")).with_source(error)
}

pub(crate) fn transaction_error(what: &str, error: DieselError) -> Error {
    Error::new(ErrorKind::Transaction, format!("{what}: {error}")).with_retryable(true).with_source(error)
}

fn is_missing_table(error: &DieselError) -> bool {
    let DieselError::DatabaseError(_, info) = error else { return false };
    let message = info.message();
    let ours = message.contains("cqrs_outbox") || message.contains("cqrs_inbox");
    ours && (message.contains("does not exist") || message.contains("no such table"))
}
