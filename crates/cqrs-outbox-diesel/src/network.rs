//! What connections over a network have in common.

use cqrs_outbox::{StoreError, StoreErrorKind};
use deadpool::managed::{PoolError as Pooled, TimeoutType};
use diesel::ConnectionError;
use diesel_async::pooled_connection::PoolError;

/// Why no connection is lent.
pub(crate) fn pool_error(error: Pooled<PoolError>) -> StoreError {
    let (kind, what) = match &error {
        Pooled::Backend(PoolError::ConnectionError(ConnectionError::InvalidConnectionUrl(what))) => {
            (StoreErrorKind::Configuration, format!("{what}; check the URL, its user, password and database"))
        }
        Pooled::Backend(PoolError::ConnectionError(ConnectionError::BadConnection(what))) => {
            (StoreErrorKind::Unavailable, format!("{what}; is the server running?"))
        }
        Pooled::Timeout(TimeoutType::Wait) => (
            StoreErrorKind::Unavailable,
            "no connection became free in time; raise `max_connections`, or look for transactions that stay open".to_owned(),
        ),
        Pooled::Timeout(_) => (
            StoreErrorKind::Unavailable,
            "the server did not answer in time; is it there, and does a firewall let you through?".to_owned(),
        ),
        _ => (StoreErrorKind::Unavailable, error.to_string()),
    };
    StoreError::new(kind, what)
}
