use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{ErrorKind, Result, without_password};
use cqrs_outbox::table::{Dialect, TableNames};
use deadpool::Runtime;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use futures_util::future::{BoxFuture, FutureExt};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::Pg;
use super::notify::Notifications;
use crate::network::check_patience;
use crate::outbox::{Elsewhere, Outbox, Settings};

pub(super) type Connect =
    dyn Fn(&str) -> BoxFuture<'static, ConnectionResult<AsyncPgConnection>> + Send + Sync;

/// Builds an [`Outbox`] on PostgreSQL.
#[must_use = "a builder does nothing until `connect` is called"]
pub struct PgBuilder {
    url: String,
    max_connections: usize,
    settings: Settings,
    connect_timeout: Duration,
    notifications: bool,
    connect: Arc<Connect>,
}

impl Outbox<Pg> {
    /// Connects to `postgres://user:password@host:port/database`, without TLS.
    ///
    /// A pooler that lends connections for a transaction has to know statements that are prepared by name: PgBouncer does since
    /// 1.21, with `max_prepared_statements` above 0. The client library prepares every statement, in a round trip of its own, so no
    /// setting here helps with one that does not. Connect past it, or have it lend connections for a session; or let writers use a
    /// client that prepares nothing, with the row and the SQL of `cqrs_outbox::table`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of PostgreSQL; [`ErrorKind::Store`] if the database cannot be
    /// reached or refuses the login. Both name the URL, without its password.
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Connects with other settings, or with TLS.
    pub fn builder(url: impl Into<String>) -> PgBuilder {
        PgBuilder {
            url: url.into(),
            max_connections: 10,
            settings: Settings::default(),
            connect_timeout: Duration::from_secs(5),
            notifications: false,
            connect: Arc::new(|url| {
                let url = url.to_owned();
                async move { without_tls(&url).await }.boxed()
            }),
        }
    }
}

impl PgBuilder {
    /// How many connections there are at most, the relay's included; 0 is taken for 1. Default 10.
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections.max(1);
        self
    }

    /// How long a connection may take, and how long to wait for a free one; more than zero. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether commits wake the relays of other processes, too, by `NOTIFY`, and relays here listen for it. Default
    /// `false`: a relay in another process finds an event when it polls, after `RelaySettings::poll_interval` at most.
    ///
    /// Both sides need it. A writer says it behind the commit, on another of its connections, and at most every 5 ms, for
    /// each `NOTIFY` takes a lock that all committing transactions want. A relay needs one connection more, and polls all
    /// the same: a word that is lost is late news, not a lost event. Writers that are not of this crate may `NOTIFY
    /// cqrs_outbox` themselves, best behind their commit. With other [`tables`](Self::tables) the channel is called as the first of
    /// them: `NOTIFY "events.orders_outbox"`.
    ///
    /// Not through a transaction pooler, which lends the connection that listens to others. Where
    /// [`connect_with`](Self::connect_with) makes a connection without its background part
    /// (`AsyncPgConnection::try_from`), nothing is heard.
    pub fn notifications(mut self, notifications: bool) -> Self {
        self.notifications = notifications;
        self
    }

    /// Makes connections with a function of yours, which gets the URL: the way to TLS, since the client library leaves
    /// the choice of a TLS library to you. What waiting does not mend (a wrong password, a certificate that is refused) it tells as
    /// `ConnectionError::InvalidConnectionUrl`, which ends a relay at its start; any other error is tried again.
    ///
    /// ```no_run
    /// use cqrs_outbox_diesel::{Outbox, Pg};
    /// use diesel_async::AsyncPgConnection;
    /// use diesel::ConnectionError;
    ///
    /// # async fn connect() -> cqrs_core::Result<()> {
    /// let outbox = Outbox::<Pg>::builder("postgres://localhost/meetings?sslmode=require")
    ///     .connect_with(|url| async move {
    ///         let bad = |error: tokio_postgres::Error| ConnectionError::BadConnection(error.to_string());
    ///         // In place of `NoTls`: `tokio_postgres_rustls::MakeRustlsConnect`, `postgres_native_tls::MakeTlsConnector` ..
    ///         let tls = tokio_postgres::NoTls;
    ///         let (client, connection) = tokio_postgres::connect(&url, tls).await.map_err(bad)?;
    ///         AsyncPgConnection::try_from_client_and_connection(client, connection).await
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn connect_with<F>(mut self, connect: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ConnectionResult<AsyncPgConnection>> + Send + 'static,
    {
        self.connect = Arc::new(move |url| connect(url.to_owned()).boxed());
        self
    }

    /// Whether what was sent is kept, in `cqrs_outbox_sent`, with the partition and the offset of its receipt and the time;
    /// [`Outbox::purge_sent`] removes what is old, and [`Outbox::purge_for_ever`] does it beside the relay. Default
    /// `false`: it is removed. This is a setting of the relay, so each outbox that one runs on wants it.
    pub fn keep_sent(mut self, keep_sent: bool) -> Self {
        self.settings.keep_sent = keep_sent;
        self
    }

    /// Which installation this has to be ([`Outbox::installation_id`]). Where it is another one, [`Outbox::check_schema`] fails, and a
    /// relay ends: at its start, or with the next heartbeat if the database was exchanged beneath it. (One of several in a process is
    /// tried again: [`Relays`](cqrs_outbox::Relays).) A copy of the database passes for the original until it was given an id of its own
    /// ([`Outbox::renew_installation_id`]). Nothing else looks at it. Default: any.
    pub fn installation_id(mut self, id: Uuid) -> Self {
        self.settings.installation_id = Some(id);
        self
    }

    /// How the tables are called, and in which schema they are: for services that share a database. Default: `cqrs_outbox` .., where
    /// the connection looks first. Whoever uses the same tables needs the same names.
    pub fn tables(mut self, names: TableNames) -> Self {
        self.settings.names = names;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::connect`]; [`ErrorKind::Configuration`], too, if the tables cannot have such names.
    pub async fn connect(self) -> Result<Outbox<Pg>> {
        self.connect_lazily()?.reached().await
    }

    /// Connects when a connection is first needed: for a process that serves other databases, too, and starts whether this one
    /// is there or not. A refused login is then told by the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of PostgreSQL, the tables cannot have such names, or the connect timeout is
    /// zero.
    pub fn connect_lazily(self) -> Result<Outbox<Pg>> {
        let shown = without_password(&self.url);
        check_patience(self.connect_timeout)?;
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err(cqrs_core::Error::new(
                ErrorKind::Configuration,
                format!("`{shown}` is not a URL of PostgreSQL: it begins with `postgres://`"),
            ));
        }
        self.settings.names.check(Dialect::Postgres)?;
        let channel = self.settings.names.to_string();
        if self.notifications && channel.len() > LONGEST_CHANNEL {
            return Err(cqrs_core::Error::new(
                ErrorKind::Configuration,
                format!(
                    "`{channel}` would be the channel of notifications, which has {LONGEST_CHANNEL} bytes at most: give the tables a shorter \
                     prefix or schema, or leave notifications out"
                ),
            ));
        }
        let mut config = ManagerConfig::default();
        let connect = Arc::clone(&self.connect);
        config.custom_setup = Box::new(move |url| connect(url));
        // Whether the connection is closed is known without asking the server.
        config.recycling_method = RecyclingMethod::Fast;
        let manager = AsyncDieselConnectionManager::new_with_config(self.url.clone(), config);
        let timeout = Some(self.connect_timeout);
        let pool = Pool::builder(manager)
            .max_size(self.max_connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .build()
            .map_err(|error| cqrs_core::Error::new(ErrorKind::Configuration, error.to_string()))?;
        let notifications = self.notifications.then(|| {
            Arc::new(Notifications::new(
                pool.clone(),
                self.connect,
                self.url,
                self.connect_timeout,
                format!("\"{channel}\""),
            )) as Arc<dyn Elsewhere>
        });
        Ok(Outbox::from_parts(shown, pool, None, notifications, self.settings))
    }
}

/// PostgreSQL's own limit.
const LONGEST_CHANNEL: usize = 63;

async fn without_tls(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let refused = |error: tokio_postgres::Error| {
        let what = with_source(&error);
        match error.code() {
            // What waiting does not mend: a wrong password, role or database.
            Some(code)
                if *code == SqlState::INVALID_PASSWORD
                    || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                    || *code == SqlState::INVALID_CATALOG_NAME
                    || *code == SqlState::INSUFFICIENT_PRIVILEGE =>
            {
                ConnectionError::InvalidConnectionUrl(what)
            }
            None if MISCONFIGURED.iter().any(|known| what.starts_with(known)) => {
                ConnectionError::InvalidConnectionUrl(what)
            }
            _ => ConnectionError::BadConnection(what),
        }
    };
    let mut config: tokio_postgres::Config = url
        .parse()
        .map_err(|error: tokio_postgres::Error| ConnectionError::InvalidConnectionUrl(with_source(&error)))?;
    if config.get_tcp_user_timeout().is_none() {
        // Below a lease: a connection that is cut without a word must not hold its relay up for minutes.
        config
            .tcp_user_timeout(Duration::from_secs(8))
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2));
    }
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(refused)?;
    AsyncPgConnection::try_from_client_and_connection(client, connection).await
}

/// What the client library finds itself: no password where the server wants one, a way to log in that it does not know, TLS where one side
/// has none. It keeps the kinds of its errors for itself.
const MISCONFIGURED: [&str; 3] =
    ["invalid configuration", "authentication error", "error performing TLS handshake"];

fn with_source(error: &tokio_postgres::Error) -> String {
    let said = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    // Details stand on lines of their own.
    said.replace('\n', ", ")
}

impl fmt::Debug for PgBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBuilder")
            .field("url", &without_password(&self.url))
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}
