//! What the tests need of a database, whichever it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cqrs_core::Result;
use cqrs_outbox::OutboxStore;
use cqrs_outbox_diesel::migrations::{self, Migration};
use cqrs_outbox_diesel::{Backend, Outbox, Pg, Sqlite};
use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

pub(crate) trait Db: Backend {
    const NAME: &'static str;
    const MIGRATIONS: &'static [Migration];

    fn connect(url: String) -> impl Future<Output = Result<Outbox<Self>>> + Send;

    /// With so many connections.
    fn connect_with(url: String, connections: usize) -> impl Future<Output = Result<Outbox<Self>>> + Send;

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore>;

    /// The rows of a query for one column of text, which is called `value`.
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

    async fn connect(url: String) -> Result<Outbox<Self>> {
        Outbox::<Pg>::connect(url).await
    }

    async fn connect_with(url: String, connections: usize) -> Result<Outbox<Self>> {
        Outbox::<Pg>::builder(url).max_connections(connections).connect().await
    }

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore> {
        Arc::new(outbox.clone())
    }

    async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
        let rows: Vec<Value> = sql_query(query.to_owned()).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }
}

impl Db for Sqlite {
    const NAME: &'static str = "sqlite";
    const MIGRATIONS: &'static [Migration] = migrations::SQLITE;

    async fn connect(url: String) -> Result<Outbox<Self>> {
        Outbox::<Sqlite>::connect(url).await
    }

    async fn connect_with(url: String, connections: usize) -> Result<Outbox<Self>> {
        Outbox::<Sqlite>::builder(url).max_connections(connections).connect().await
    }

    fn store(outbox: &Outbox<Self>) -> Arc<dyn OutboxStore> {
        Arc::new(outbox.clone())
    }

    async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
        let rows: Vec<Value> = sql_query(query.to_owned()).load(conn).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }
}

/// Where a trial finds databases: a folder of its own, or schemas of its own on a server.
pub(crate) struct Site {
    kind: Kind,
    count: AtomicUsize,
}

enum Kind {
    Folder(TempDir),
    Server { url: String, prefix: String, schemas: Mutex<Vec<String>> },
}

impl Site {
    pub(crate) fn folder() -> Self {
        Self { kind: Kind::Folder(TempDir::new().unwrap()), count: AtomicUsize::new(0) }
    }

    pub(crate) fn server(url: String) -> Self {
        let mut prefix = uuid::Uuid::new_v4().simple().to_string();
        prefix.truncate(12);
        let prefix = format!("cqrs_it_{prefix}");
        Self { kind: Kind::Server { url, prefix, schemas: Mutex::default() }, count: AtomicUsize::new(0) }
    }

    /// The server as it was given, in no schema of a trial's own.
    pub(crate) fn server_url(&self) -> &str {
        match &self.kind {
            Kind::Server { url, .. } => url,
            Kind::Folder(_) => panic!("no server"),
        }
    }

    /// The URL of an empty database.
    pub(crate) async fn empty(&self) -> String {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        match &self.kind {
            Kind::Folder(folder) => format!("sqlite://{}/{nth}.db", folder.path().display()),
            Kind::Server { url, prefix, schemas } => {
                let schema = format!("{prefix}_{nth}");
                run_on(url, &format!("CREATE SCHEMA {schema}")).await;
                schemas.lock().await.push(schema.clone());
                let separator = if url.contains('?') { '&' } else { '?' };
                format!("{url}{separator}options=-csearch_path%3D{schema}&application_name={schema}")
            }
        }
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
        if let Kind::Server { url, schemas, .. } = &self.kind {
            for schema in schemas.lock().await.drain(..) {
                run_on(url, &format!("SET client_min_messages = warning; DROP SCHEMA {schema} CASCADE"))
                    .await;
            }
        }
    }
}

async fn run_on(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Plain SQL on an outbox's database.
pub(crate) trait PlainSql<D: Db> {
    /// Runs statements in a transaction.
    fn sql(&self, sql: &str) -> impl Future<Output = QueryResult<()>> + Send;

    /// The rows of a query for one column of text, which is called `value`.
    fn values(&self, query: &str) -> impl Future<Output = Vec<String>> + Send;

    /// How many rows stand in the hot table.
    fn waiting(&self) -> impl Future<Output = usize> + Send;
}

impl<D: Db> PlainSql<D> for Outbox<D> {
    async fn sql(&self, sql: &str) -> QueryResult<()> {
        use cqrs_core::{BeginTransaction, Transaction};
        let mut tx = self.begin().await.unwrap();
        match tx.batch_execute(sql).await {
            Ok(()) => {
                tx.commit().await.unwrap();
                Ok(())
            }
            Err(error) => {
                tx.rollback().await.ok();
                Err(error)
            }
        }
    }

    async fn values(&self, query: &str) -> Vec<String> {
        use cqrs_core::{BeginTransaction, Transaction};
        let mut tx = self.begin().await.unwrap();
        let values = D::values(&mut tx, query).await.unwrap();
        tx.commit().await.unwrap();
        values
    }

    async fn waiting(&self) -> usize {
        self.values("SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox").await[0].parse().unwrap()
    }
}
