use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{ErrorKind, Result, without_password};
use cqrs_outbox::table::{Dialect, TableNames};
use deadpool::Runtime;
use deadpool::managed::{Hook, HookError, QueueMode};
use diesel::result::Error as DieselError;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncMysqlConnection, SimpleAsyncConnection};
use futures_util::future::{BoxFuture, FutureExt, ready};
use mysql_async::{Conn, DriverError, Opts, OptsBuilder};
use tokio::time::timeout;
use uuid::Uuid;

use super::watch::{is_at_rest, is_in_doubt, watch};
use super::{MySql, sql};
use crate::network::check_patience;
use crate::outbox::{Outbox, Settings};

type Connect = dyn Fn(&str) -> BoxFuture<'static, ConnectionResult<AsyncMysqlConnection>> + Send + Sync;

/// The application's connections, and those of a relay in this process: its isolation level and its short time-outs are
/// settings of the session, which the application's transactions must not meet.
#[derive(Clone)]
pub struct Pools {
    pub(super) application: Pool<AsyncMysqlConnection>,
    pub(super) relay: Pool<AsyncMysqlConnection>,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

/// A heartbeat, a read, a settle, a refusal, a promotion, what is suspected, and one for a purge beside them.
const RELAY_CONNECTIONS: usize = 7;

/// Half of the time after which the server closes an idle connection of a relay's.
const RELAY_IDLE: Duration = Duration::from_secs(4);

/// What was lent longer ago than this is tried before it is lent again, as is what the last answer leaves in doubt: the server may have been restarted, or
/// have closed it for its age, and nothing tells.
const UNTRIED: Duration = Duration::from_secs(1);

/// Builds an [`Outbox`] on MariaDB or MySQL.
#[must_use = "a builder does nothing until `connect` is called"]
pub struct MySqlBuilder {
    url: String,
    max_connections: usize,
    settings: Settings,
    connect_timeout: Duration,
    connect: Arc<Connect>,
}

impl Outbox<MySql> {
    /// Connects to `mysql://user:password@host:port/database`, without TLS; `mariadb://` means the same.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of MySQL or names no database; [`ErrorKind::Store`] if the
    /// database cannot be reached or refuses the login. Both name the URL, without its password.
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Connects with other settings, or with TLS.
    pub fn builder(url: impl Into<String>) -> MySqlBuilder {
        MySqlBuilder {
            url: url.into(),
            max_connections: 10,
            settings: Settings::default(),
            connect_timeout: Duration::from_secs(5),
            connect: Arc::new(|url| {
                let url = url.to_owned();
                async move { without_tls(&url).await }.boxed()
            }),
        }
    }
}

impl MySqlBuilder {
    /// How many connections there are at most for your transactions; 0 is taken for 1. Default 10. A relay in the same process has up to
    /// seven of its own.
    ///
    /// On each of them those INSERTs stay prepared that write up to 16 events, and up to 250 that come again: with all of these the server has
    /// some 6 MiB for a connection.
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections.max(1);
        self
    }

    /// How long a connection may take, and how long to wait for a free one; more than zero. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Makes connections with a function of yours, which gets the URL, as `mysql://`: the way to TLS, since the choice of a
    /// TLS library is left to you (a feature of `mysql_async`). What waiting does not mend (a wrong password, a certificate that is
    /// refused) it tells as `ConnectionError::InvalidConnectionUrl`, which ends a relay at its start; any other error is tried again.
    ///
    /// ```no_run
    /// use cqrs_outbox_diesel::{MySql, Outbox};
    /// use diesel::ConnectionError;
    /// use diesel_async::AsyncMysqlConnection;
    /// use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
    ///
    /// # async fn connect() -> cqrs_core::Result<()> {
    /// let outbox = Outbox::<MySql>::builder("mysql://me@localhost/meetings")
    ///     .connect_with(|url| async move {
    ///         let bad = |error: mysql_async::Error| ConnectionError::BadConnection(error.to_string());
    ///         let opts = Opts::from_url(&url).map_err(|error| bad(error.into()))?;
    ///         let opts = OptsBuilder::from_opts(opts)
    ///             .ssl_opts(SslOpts::default())
    ///             // A connection that was cut is noticed; and not the socket that the server names, which may be another's.
    ///             .tcp_keepalive(Some(5_000_u32))
    ///             .prefer_socket(false);
    ///         AsyncMysqlConnection::try_from(Conn::new(opts).await.map_err(bad)?).await
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn connect_with<F>(mut self, connect: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ConnectionResult<AsyncMysqlConnection>> + Send + 'static,
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
    pub async fn connect(self) -> Result<Outbox<MySql>> {
        self.connect_lazily()?.reached().await
    }

    /// Connects when a connection is first needed: for a process that serves other databases, too, and starts whether this one
    /// is there or not. A refused login is then told by the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of MySQL or names no database, the tables cannot have such
    /// names, or the connect timeout is zero.
    pub fn connect_lazily(self) -> Result<Outbox<MySql>> {
        let shown = without_password(&self.url);
        check_patience(self.connect_timeout)?;
        let wrong = |what: String| cqrs_core::Error::new(ErrorKind::Configuration, what);
        let rest = ["mysql://", "mariadb://"].iter().find_map(|scheme| self.url.strip_prefix(scheme));
        let Some(rest) = rest else {
            return Err(wrong(format!(
                "`{shown}` is not a URL of MySQL: it begins with `mysql://` or `mariadb://`"
            )));
        };
        let url = format!("mysql://{rest}");
        if url::Url::parse(&url).is_ok_and(|url| url.path().trim_matches('/').is_empty()) {
            return Err(wrong(format!(
                "`{shown}` names no database: it is like `mysql://user:password@host:port/database`"
            )));
        }
        self.settings.names.check(Dialect::MySql)?;
        let pool = |setup: &'static [&'static str]| {
            let connect = self.connect.clone();
            let mut config = ManagerConfig::default();
            config.custom_setup = Box::new(move |url| {
                let connecting = connect(url);
                async move {
                    let mut conn = connecting.await?;
                    for sql in setup {
                        conn.batch_execute(sql).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
                    }
                    watch(&mut conn);
                    Ok(conn)
                }
                .boxed()
            });
            config.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn| {
                let at_rest =
                    if is_at_rest(conn) { Ok(()) } else { Err(DieselError::BrokenTransactionManager) };
                ready(at_rest).boxed()
            }));
            let manager = AsyncDieselConnectionManager::new_with_config(&url, config);
            Pool::builder(manager)
                .runtime(Runtime::Tokio1)
                .wait_timeout(Some(self.connect_timeout))
                .create_timeout(Some(self.connect_timeout))
        };
        let misconfigured = |error: deadpool::managed::BuildError| wrong(error.to_string());
        let patience = self.connect_timeout;
        let application = pool(&[sql::SET_UP])
            .max_size(self.max_connections)
            .pre_recycle(Hook::async_fn(move |conn: &mut AsyncMysqlConnection, metrics| {
                let trying = metrics.last_used() >= UNTRIED || is_in_doubt(conn);
                async move {
                    // First: to try it would take the answer to a query that was dropped half-way.
                    if !is_at_rest(conn) {
                        return Err(HookError::message("a query was dropped half-way"));
                    }
                    if trying {
                        let gone = || HookError::message("the server has closed it");
                        timeout(patience, conn.batch_execute("DO 1"))
                            .await
                            .map_err(|_| gone())?
                            .map_err(|_| gone())?;
                    }
                    Ok(())
                }
                .boxed()
            }))
            .build()
            .map_err(misconfigured)?;
        let relay = pool(&[sql::SET_UP, sql::SET_UP_RELAY])
            .max_size(RELAY_CONNECTIONS)
            .queue_mode(QueueMode::Lifo)
            .pre_recycle(Hook::sync_fn(|conn, metrics| {
                if metrics.last_used() < RELAY_IDLE && !is_in_doubt(conn) {
                    Ok(())
                } else {
                    Err(HookError::message("the server may have closed it meanwhile"))
                }
            }))
            .build()
            .map_err(misconfigured)?;
        Ok(Outbox::from_parts(shown, Pools { application, relay }, None, None, self.settings))
    }
}

async fn without_tls(url: &str) -> ConnectionResult<AsyncMysqlConnection> {
    let invalid = |error: mysql_async::UrlError| ConnectionError::InvalidConnectionUrl(error.to_string());
    let opts = Opts::from_url(url).map_err(invalid)?;
    // Below a lease: a connection that is cut without a word must not hold its relay up for minutes. The client library has
    // no time-out for what is not acknowledged; the relay waits for no answer longer than its `store_timeout`.
    let keepalive = opts.tcp_keepalive().unwrap_or(5_000);
    // By default the client asks a server on this machine for its socket and goes there: with a port that is forwarded to
    // another machine or container, that may be the socket of another server.
    let socket = url.contains("prefer_socket=true");
    let opts = OptsBuilder::from_opts(opts)
        .tcp_keepalive(Some(keepalive))
        .prefer_socket(socket)
        .client_found_rows(true)
        // Diesel has its own.
        .stmt_cache_size(0);
    let conn = Conn::new(opts).await.map_err(|error| match error {
        // What waiting does not mend: a login that is refused, or whose password has expired; a database that is not there.
        mysql_async::Error::Server(error)
            if matches!(error.code, 1044 | 1045 | 1049 | 1130 | 1251 | 1698 | 1862) =>
        {
            ConnectionError::InvalidConnectionUrl(error.message)
        }
        mysql_async::Error::Url(error) => invalid(error),
        // A way to log in that the client library does not know, or not without TLS.
        mysql_async::Error::Driver(
            error @ (DriverError::UnknownAuthPlugin { .. }
            | DriverError::CleartextPluginDisabled
            | DriverError::NoClientSslFlagFromServer),
        ) => ConnectionError::InvalidConnectionUrl(error.to_string()),
        mysql_async::Error::Server(error) => ConnectionError::BadConnection(error.message),
        error => ConnectionError::BadConnection(error.to_string()),
    })?;
    AsyncMysqlConnection::try_from(conn).await
}

impl fmt::Debug for MySqlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlBuilder")
            .field("url", &without_password(&self.url))
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}
