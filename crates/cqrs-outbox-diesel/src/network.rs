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

/// A URL for people: without its password, and without its parameters, for one may stand there, too.
pub(crate) fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.has_host() => {
            if parsed.password().is_some() {
                // Only fails for URLs that cannot have a password.
                let _ = parsed.set_password(Some("***"));
            }
            parsed.set_query(None);
            parsed.into()
        }
        // What cannot be parsed cannot be masked, so only the scheme is shown.
        _ => url.split_once(':').map_or("..".to_owned(), |(scheme, _)| format!("{scheme}:..")),
    }
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn no_password_is_shown() {
        for url in [
            "postgres://u:secret@h/db",
            "postgres://h/db?user=u&password=secret",
            "postgres:u:secret@h:x",
            "mysql://u:secret@h/db",
        ] {
            let shown = without_password(url);
            assert!(
                !shown.contains("secret") && url.starts_with(shown.split(':').next().unwrap()),
                "{shown}"
            );
        }
    }
}
