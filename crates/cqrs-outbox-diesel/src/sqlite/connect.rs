use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cqrs_core::{Error, ErrorKind, Result};
use cqrs_outbox::table::{Dialect, TableNames};
use cqrs_outbox::{StoreError, StoreErrorKind};
use deadpool::Runtime;
use deadpool::managed::PoolError as Pooled;
use diesel::{ConnectionError, ConnectionResult, QueryResult, SqliteConnection};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError, RecyclingMethod,
};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use futures_util::future::FutureExt;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Sqlite, sql};
use crate::outbox::{Outbox, Settings};

/// Builds an [`Outbox`] on SQLite.
///
/// It wants tokio's multi-thread runtime: diesel-async runs SQLite on threads of its own, and where a future is dropped while a
/// statement runs, as when a relay is stopped, it waits for that one in a way that panics in a `current_thread` runtime.
#[must_use = "a builder does nothing until `connect` is called"]
pub struct SqliteBuilder {
    url: String,
    max_connections: usize,
    settings: Settings,
    create: bool,
}

impl Outbox<Sqlite> {
    /// Opens `sqlite://path/to/file`, which is created if it does not exist, in WAL mode and with full durability.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of SQLite, or of a database in memory (each connection would have
    /// one of its own); [`ErrorKind::Store`] if the file cannot be opened.
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Opens with other settings.
    pub fn builder(url: impl Into<String>) -> SqliteBuilder {
        SqliteBuilder { url: url.into(), max_connections: 8, settings: Settings::default(), create: true }
    }
}

impl SqliteBuilder {
    /// How many connections there are at most, the relay's included. One of them writes at a time; fewer than 2 are taken for 2.
    /// Default 8.
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections.max(2);
        self
    }

    /// Whether a file that is not there is made. Default `true`; without, a path with a slip in it is an error and not an
    /// empty database.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
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

    /// How the tables are called: for outboxes that share a file. Default: `cqrs_outbox` .. Whoever uses the same tables needs the same
    /// names. There is no schema here.
    pub fn tables(mut self, names: TableNames) -> Self {
        self.settings.names = names;
        self
    }

    /// Opens the file.
    ///
    /// # Errors
    ///
    /// As for [`Outbox::connect`]; [`ErrorKind::Configuration`], too, if the tables cannot have such names.
    pub async fn connect(self) -> Result<Outbox<Sqlite>> {
        let outbox = self.connect_lazily()?;
        match outbox.acquire().await {
            Ok(_) => Ok(outbox),
            Err(error) => {
                let what = format!("cannot open it: {error}");
                Err(StoreError::new(error.kind(), what).at(outbox.place()).into_error())
            }
        }
    }

    /// Opens the file when a connection is first needed: for a process that serves other databases, too, and starts whether this one
    /// is there or not. What is wrong with the file is then told by the first call. Without [`create`](Self::create) one that is not
    /// there then may be there later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the URL is not one of SQLite, or of a database in memory, or the tables cannot have such
    /// names.
    pub fn connect_lazily(self) -> Result<Outbox<Sqlite>> {
        let wrong = |what: String| Error::new(ErrorKind::Configuration, what);
        let shown = shown(&self.url);
        let path = self
            .url
            .strip_prefix("sqlite://")
            .or_else(|| self.url.strip_prefix("sqlite:"))
            .filter(|path| !path.is_empty())
            .ok_or_else(|| {
                wrong(format!("`{shown}` is not a URL of SQLite: it is like `sqlite://path/to/file`"))
            })?;
        if path.contains(":memory:") || path.contains("mode=memory") {
            return Err(wrong(format!(
                "`{shown}` is a database in memory, which connections cannot share: name a file"
            )));
        }
        if path.contains('?') && !path.starts_with("file:") {
            return Err(wrong(format!(
                "`{shown}` has options, and a file of SQLite takes none: leave them out"
            )));
        }
        self.settings.names.check(Dialect::Sqlite)?;
        let create = self.create || path.starts_with("file:");
        let was_open = Arc::new(AtomicBool::new(false));
        let mut config = ManagerConfig::default();
        config.custom_setup = Box::new(move |path| {
            let (path, was_open) = (path.to_owned(), Arc::clone(&was_open));
            async move {
                if !create && !Path::new(&path).exists() {
                    return Err(ConnectionError::BadConnection(NO_FILE.to_owned()));
                }
                let opened = open(&path).await;
                match &opened {
                    Ok(_) => was_open.store(true, Ordering::Relaxed),
                    // Later it may pass (too many open files); at first it is the path.
                    Err(error) if !was_open.load(Ordering::Relaxed) => {
                        let what = described(error);
                        if WRONG_FILE.iter().any(|wrong| what.contains(wrong)) {
                            return Err(ConnectionError::InvalidConnectionUrl(what));
                        }
                    }
                    Err(_) => {}
                }
                opened
            }
            .boxed()
        });
        config.recycling_method = RecyclingMethod::Fast;
        let manager = AsyncDieselConnectionManager::new_with_config(path, config);
        let pool = Pool::builder(manager)
            .max_size(self.max_connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECTION_TIMEOUT))
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        let writers = Some(Arc::new(Semaphore::new(1)));
        Ok(Outbox::from_parts(shown, pool, writers, None, self.settings))
    }
}

impl fmt::Debug for SqliteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBuilder")
            .field("url", &shown(&self.url))
            .field("max_connections", &self.max_connections)
            .field("create", &self.create)
            .finish()
    }
}

/// SQLite has no passwords, but this may be the URL of a database that has.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if scheme != "sqlite" => format!("{scheme}://.."),
        _ => url.to_owned(),
    }
}

/// How long to wait for a free connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

const NO_FILE: &str =
    "the outbox's tables are missing, for there is no such file: run `cqrs outbox migrate`, or mend the path";

const UNABLE_TO_OPEN: &str = "unable to open database file";

const READ_ONLY: &str = "attempt to write a readonly database";

/// What SQLite says of a file with which waiting does not help.
const WRONG_FILE: [&str; 3] = [UNABLE_TO_OPEN, "file is not a database", READ_ONLY];

async fn open(path: &str) -> ConnectionResult<SyncConnectionWrapper<SqliteConnection>> {
    let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(path).await?;
    set_up(&mut conn).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

/// Several that open a new file at once may find it locked while one of them switches it to WAL, for which SQLite does not
/// wait by itself.
async fn set_up(conn: &mut SyncConnectionWrapper<SqliteConnection>) -> QueryResult<()> {
    let mut tries = 0;
    loop {
        match conn.batch_execute(sql::PRAGMAS).await {
            Err(error) if tries < 50 && error.to_string().contains("locked") => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20 * tries)).await;
            }
            ended => return ended,
        }
    }
}

pub(super) fn pool_error(error: Pooled<PoolError>) -> StoreError {
    let (kind, what) = match &error {
        Pooled::Backend(PoolError::ConnectionError(ConnectionError::BadConnection(what)))
            if what == NO_FILE =>
        {
            (StoreErrorKind::Schema, what.clone())
        }
        Pooled::Backend(PoolError::ConnectionError(ConnectionError::InvalidConnectionUrl(what))) => {
            (StoreErrorKind::Configuration, what.clone())
        }
        Pooled::Backend(PoolError::ConnectionError(error)) => (StoreErrorKind::Unavailable, described(error)),
        _ => (StoreErrorKind::Unavailable, error.to_string()),
    };
    StoreError::new(kind, what)
}

fn described(error: &ConnectionError) -> String {
    match error {
        ConnectionError::BadConnection(what) => {
            format!("{what}; does the folder exist, and may it be written?")
        }
        ConnectionError::CouldntSetupConfiguration(error) if error.to_string().contains(READ_ONLY) => {
            format!(
                "{error}: SQLite writes beside a file even to read it. Let this user write in its folder or, where nobody writes the \
                 database meanwhile and no `-wal` file is beside it, look at it as `sqlite://file:/path/to/file?immutable=1`"
            )
        }
        error => error.to_string(),
    }
}
