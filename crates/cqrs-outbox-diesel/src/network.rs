//! What connections over a network have in common.

use std::time::Duration;

use cqrs_core::{Error, ErrorKind};
use cqrs_outbox::{StoreError, StoreErrorKind};
use deadpool::managed::{PoolError as Pooled, TimeoutType};
use diesel::ConnectionError;
use diesel_async::pooled_connection::PoolError;

/// Refuses to wait for no time at all, in which no connection would ever be made.
pub(crate) fn check_patience(connect_timeout: Duration) -> Result<(), Error> {
    if connect_timeout.is_zero() {
        return Err(Error::new(
            ErrorKind::Configuration,
            "the connect timeout is zero, and no connection would be made in time: make it longer",
        ));
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outbox;

    fn refused<B: crate::backend::Backend>(connected: Result<Outbox<B>, Error>) {
        let error = connected.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().starts_with("the connect timeout is zero"), "{error}");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn postgres_wants_time_to_connect() {
        let builder = Outbox::<crate::Pg>::builder("postgres://localhost/db");
        refused(builder.connect_timeout(Duration::ZERO).connect_lazily());
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn mysql_wants_time_to_connect() {
        let builder = Outbox::<crate::MySql>::builder("mysql://localhost/db");
        refused(builder.connect_timeout(Duration::ZERO).connect_lazily());
    }
}
