//! What the tests need of a database, whichever it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cqrs_outbox::OutboxStore;
use cqrs_outbox_diesel::migrations::{self, Migration};
use cqrs_outbox_diesel::{Backend, MySql, Outbox, Pg, Sqlite, TableNames};
use cqrs_testing::services::Service;
use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

pub(crate) trait Db: Backend {
    const NAME: &'static str;
    const MIGRATIONS: &'static [Migration];

    /// Where it runs, unless it is a file.
    const SERVICE: Option<Service>;

    /// A query for the sessions that wait for a lock here, where that can be seen.
    const WAITING: Option<&'static str>;

    /// A place for a trial's databases, on the server with this URL.
    fn site(url: String) -> Site;

    fn connect(url: String) -> impl Future<Output = cqrs_core::Result<Outbox<Self>>> + Send;

    /// With so many connections.
    fn connect_with(
        url: String,
        connections: usize,
    ) -> impl Future<Output = cqrs_core::Result<Outbox<Self>>> + Send;

    /// One whose relay keeps what was sent.
    fn keeping(url: String) -> impl Future<Output = cqrs_core::Result<Outbox<Self>>> + Send;

    /// One whose tables are called in another way.
    fn named(url: String, names: TableNames) -> impl Future<Output = cqrs_core::Result<Outbox<Self>>> + Send;

    /// One that has to be of that installation.
    fn of_installation(url: String, id: Uuid)
    -> impl Future<Output = cqrs_core::Result<Outbox<Self>>> + Send;

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore>;

    /// The rows of a query for one column of text, which is called `value`. `CAST(.. AS text)` is understood by all.
    fn values(
        conn: &mut Self::Connection,
        query: &str,
    ) -> impl Future<Output = QueryResult<Vec<String>>> + Send;
}

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

impl Db for Pg {
    const NAME: &'static str = "postgres";
    const MIGRATIONS: &'static [Migration] = migrations::POSTGRES;
    const SERVICE: Option<Service> = Some(Service::Postgres);
    const WAITING: Option<&'static str> = Some(
        "SELECT query AS value FROM pg_stat_activity \
         WHERE application_name = current_setting('application_name') AND wait_event_type = 'Lock'",
    );

    fn site(url: String) -> Site {
        Site::schemas(url)
    }

    async fn connect(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Pg>::connect(url).await
    }

    async fn connect_with(url: String, connections: usize) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Pg>::builder(url).max_connections(connections).connect().await
    }

    async fn keeping(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Pg>::builder(url).keep_sent(true).connect().await
    }

    async fn named(url: String, names: TableNames) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Pg>::builder(url).tables(names).connect().await
    }

    async fn of_installation(url: String, id: Uuid) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Pg>::builder(url).installation_id(id).connect().await
    }

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore> {
        Arc::new(outbox.clone())
    }

    async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
        let rows: Vec<Value> = sql_query(query.to_owned()).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }
}

impl Db for MySql {
    const NAME: &'static str = "mysql";
    const MIGRATIONS: &'static [Migration] = migrations::MYSQL;
    const SERVICE: Option<Service> = Some(Service::MySql);
    const WAITING: Option<&'static str> = Some(
        "SELECT CAST(p.id AS text) AS value FROM information_schema.processlist p \
         LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id \
         WHERE p.db = database() AND (t.trx_state = 'LOCK WAIT' OR p.state LIKE 'Waiting for table%')",
    );

    fn site(url: String) -> Site {
        Site::databases(url)
    }

    async fn connect(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<MySql>::connect(url).await
    }

    async fn connect_with(url: String, connections: usize) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<MySql>::builder(url).max_connections(connections).connect().await
    }

    async fn keeping(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<MySql>::builder(url).keep_sent(true).connect().await
    }

    async fn named(url: String, names: TableNames) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<MySql>::builder(url).tables(names).connect().await
    }

    async fn of_installation(url: String, id: Uuid) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<MySql>::builder(url).installation_id(id).connect().await
    }

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore> {
        Arc::new(outbox.clone())
    }

    async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
        let rows: Vec<Value> = sql_query(query.replace(" AS text)", " AS char)")).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }
}

impl Db for Sqlite {
    const NAME: &'static str = "sqlite";
    const MIGRATIONS: &'static [Migration] = migrations::SQLITE;
    const SERVICE: Option<Service> = None;
    const WAITING: Option<&'static str> = None;

    fn site(_url: String) -> Site {
        Site::folder()
    }

    async fn connect(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Sqlite>::connect(url).await
    }

    async fn connect_with(url: String, connections: usize) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Sqlite>::builder(url).max_connections(connections).connect().await
    }

    async fn keeping(url: String) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Sqlite>::builder(url).keep_sent(true).connect().await
    }

    async fn named(url: String, names: TableNames) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Sqlite>::builder(url).tables(names).connect().await
    }

    async fn of_installation(url: String, id: Uuid) -> cqrs_core::Result<Outbox<Self>> {
        Outbox::<Sqlite>::builder(url).installation_id(id).connect().await
    }

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore> {
        Arc::new(outbox.clone())
    }

    async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
        let rows: Vec<Value> = sql_query(query.to_owned()).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }
}

/// Where a trial finds databases: a folder of its own, or schemas or databases of its own on a server.
pub(crate) struct Site {
    kind: Kind,
    count: AtomicUsize,
}

enum Kind {
    Folder(TempDir),
    Schemas(Server),
    Databases(Server),
}

struct Server {
    url: String,
    prefix: String,
    /// What was made there.
    made: Mutex<Vec<String>>,
}

impl Server {
    fn new(url: String) -> Self {
        let mut prefix = Uuid::new_v4().simple().to_string();
        prefix.truncate(12);
        Self { url, prefix: format!("cqrs_it_{prefix}"), made: Mutex::default() }
    }
}

impl Site {
    fn new(kind: Kind) -> Self {
        Self { kind, count: AtomicUsize::new(0) }
    }

    fn folder() -> Self {
        Self::new(Kind::Folder(TempDir::new().unwrap()))
    }

    fn schemas(url: String) -> Self {
        Self::new(Kind::Schemas(Server::new(url)))
    }

    fn databases(url: String) -> Self {
        Self::new(Kind::Databases(Server::new(url)))
    }

    /// The server as it was given, in no schema or database of a trial's own.
    pub(crate) fn server_url(&self) -> &str {
        match &self.kind {
            Kind::Schemas(server) | Kind::Databases(server) => &server.url,
            Kind::Folder(_) => panic!("no server"),
        }
    }

    /// An empty schema, where there are some, that is not that of a URL.
    pub(crate) async fn schema(&self) -> Option<String> {
        self.empty().await;
        match &self.kind {
            Kind::Folder(_) => None,
            Kind::Schemas(server) | Kind::Databases(server) => server.made.lock().await.last().cloned(),
        }
    }

    /// Names that nobody else has, in a schema where there are some.
    pub(crate) async fn names(&self, prefix: &str) -> TableNames {
        let names = TableNames::new().prefix(prefix);
        match self.schema().await {
            Some(schema) => names.schema(schema),
            None => names,
        }
    }

    /// The URL of an empty database.
    pub(crate) async fn empty(&self) -> String {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        match &self.kind {
            Kind::Folder(folder) => format!("sqlite://{}/{nth}.db", folder.path().display()),
            Kind::Schemas(Server { url, prefix, made }) => {
                let schema = format!("{prefix}_{nth}");
                on_postgres(url, &format!("CREATE SCHEMA {schema}")).await;
                made.lock().await.push(schema.clone());
                let separator = if url.contains('?') { '&' } else { '?' };
                format!("{url}{separator}options=-csearch_path%3D{schema}&application_name={schema}")
            }
            Kind::Databases(Server { url, prefix, made }) => {
                let database = format!("{prefix}_{nth}");
                on_mysql(url, &format!("CREATE DATABASE {database}")).await;
                made.lock().await.push(database.clone());
                let mut url = url::Url::parse(url).unwrap();
                url.set_path(&database);
                url.into()
            }
        }
    }

    /// The URL of an empty database in which transactions are at REPEATABLE READ unless they say otherwise, as MariaDB's are anyway.
    pub(crate) async fn empty_at_repeatable_read(&self) -> String {
        let url = self.empty().await;
        if !matches!(self.kind, Kind::Schemas(_)) {
            return url;
        }
        let level = "options=-cdefault_transaction_isolation%3Drepeatable%5C%20read%20";
        let at_that_level = url.replacen("options=", level, 1);
        assert_ne!(at_that_level, url);
        at_that_level
    }

    /// A database with tables, and with that level.
    pub(crate) async fn outbox_at_repeatable_read<D: Db>(&self) -> Outbox<D> {
        let outbox = D::connect(self.empty_at_repeatable_read().await).await.unwrap();
        outbox.migrate().await.unwrap();
        outbox
    }

    /// A database without tables.
    pub(crate) async fn bare<D: Db>(&self) -> Outbox<D> {
        D::connect(self.empty().await).await.unwrap()
    }

    /// A database with tables.
    pub(crate) async fn outbox<D: Db>(&self) -> Outbox<D> {
        let outbox = self.bare::<D>().await;
        outbox.migrate().await.unwrap();
        outbox
    }

    pub(crate) async fn clean_up(&self) {
        match &self.kind {
            Kind::Folder(_) => {}
            Kind::Schemas(Server { url, made, .. }) => {
                for schema in made.lock().await.drain(..) {
                    let drop = format!("SET client_min_messages = warning; DROP SCHEMA {schema} CASCADE");
                    on_postgres(url, &drop).await;
                }
            }
            Kind::Databases(Server { url, made, .. }) => {
                for database in made.lock().await.drain(..) {
                    on_mysql(url, &format!("DROP DATABASE {database}")).await;
                }
            }
        }
    }
}

async fn on_postgres(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

async fn on_mysql(url: &str, sql: &str) {
    let mut conn = mysql_async::Conn::from_url(url).await.unwrap();
    mysql_async::prelude::Queryable::query_drop(&mut conn, sql).await.unwrap();
    conn.disconnect().await.unwrap();
}

/// SQL that is written with the default names, with those of this outbox.
pub(crate) fn named<D: Db>(outbox: &Outbox<D>, sql: &str) -> String {
    outbox.tables().sql(<D as Db>::MIGRATIONS[0].dialect, sql.to_owned()).into_owned()
}

/// Plain SQL on an outbox's database.
pub(crate) trait PlainSql<D: Db> {
    /// Runs statements.
    fn sql(&self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send;

    /// The rows of a query for one column of text, which is called `value`.
    fn values(&self, query: &str) -> impl Future<Output = Vec<String>> + Send;

    /// How many rows a table has.
    fn count(&self, table: &str) -> impl Future<Output = usize> + Send;

    /// How many rows stand in the hot table.
    fn waiting(&self) -> impl Future<Output = usize> + Send;

    /// Until this session, the only one here that may, waits for what another one has locked. On SQLite writers queue in their process, where
    /// nobody sees them: there it only gets the time to go on if it can.
    fn is_waited_for<T: Send>(&self, session: &JoinHandle<T>) -> impl Future<Output = ()> + Send;
}

impl<D: Db> PlainSql<D> for Outbox<D> {
    async fn sql(&self, sql: &str) -> QueryResult<()> {
        self.connection().await.unwrap().batch_execute(sql).await
    }

    async fn values(&self, query: &str) -> Vec<String> {
        use cqrs_core::{BeginTransaction, Transaction};
        let mut tx = self.begin().await.unwrap();
        let values = D::values(&mut tx, query).await.unwrap();
        tx.commit().await.unwrap();
        values
    }

    async fn count(&self, table: &str) -> usize {
        let count = format!("SELECT CAST(count(*) AS text) AS value FROM {table}");
        self.values(&count).await[0].parse().unwrap()
    }

    async fn waiting(&self) -> usize {
        self.count("cqrs_outbox").await
    }

    async fn is_waited_for<T: Send>(&self, session: &JoinHandle<T>) {
        let goes_on = || assert!(!session.is_finished(), "it did not wait");
        let Some(waiting) = D::WAITING else {
            sleep(Duration::from_millis(200)).await;
            return goes_on();
        };
        let waits = async {
            while self.values(waiting).await.is_empty() {
                goes_on();
                // MariaDB shows again what it has shown less than 100 ms before.
                sleep(Duration::from_millis(150)).await;
            }
        };
        timeout(Duration::from_secs(60), waits).await.expect("it neither waits nor ends");
        goes_on();
    }
}
