//! The databases: one of a cell's own each, and the SQL of the two services.

use cqrs::sql::{Backend, MySql, Outbox, Pg, Sqlite};
use cqrs::{Error, Result};
use cqrs_testing::proxy::Point;
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::chaos::Manner;
use crate::servers::{RealBroker, RealServer};
use crate::{chaos, in_memory, road};

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    value: String,
}

/// A kind of database, and what the services do in it.
pub(crate) trait Db: Backend {
    const NAME: &'static str;

    /// How many relay processes can work at the same time; the others stand by.
    const RELAYS_AT_WORK: usize;

    /// Where the database has done what a relay asked for and its answer is on the way: what ends a transaction of the
    /// relay's, and what removes rows after their receipts, which commits by itself. None if there is no network.
    const CUTS: Option<Cuts>;

    /// Opens with so many connections.
    fn connect(url: &str, connections: usize) -> impl Future<Output = Result<Outbox<Self>>> + Send;

    /// A database of a cell's own, on the server of that URL if it needs one.
    fn site(server: String) -> impl Future<Output = Result<Site>> + Send;

    /// Adds one to the counter of a key, whose row stays locked until the commit, and gives what it is then.
    fn count(conn: &mut Self::Connection, key: &str) -> impl Future<Output = QueryResult<i64>> + Send;

    /// Writes the effect of an event; a second one of the same event is a second row.
    fn effect(conn: &mut Self::Connection, event: Uuid) -> impl Future<Output = QueryResult<()>> + Send;

    /// The rows of a query for one column of text, which is called `value`.
    fn values(
        conn: &mut Self::Connection,
        query: &str,
    ) -> impl Future<Output = QueryResult<Vec<String>>> + Send;

    /// What the server says that it is.
    fn version(conn: &mut Self::Connection) -> impl Future<Output = QueryResult<String>> + Send;

    /// The cell with the broker in this process.
    fn in_memory(server: String) -> impl Future<Output = Result<()>> {
        async move {
            let site = Self::site(server).await?;
            let ended = in_memory::drive::<Self>(&site).await;
            site.clean_up::<Self>().await?;
            ended
        }
    }

    /// The cell with relay processes.
    fn with_processes(server: String, broker: RealBroker) -> impl Future<Output = Result<()>> {
        async move {
            let site = Self::site(server).await?;
            let ended = road::drive::<Self>(&site, &broker).await;
            site.clean_up::<Self>().await?;
            ended
        }
    }

    /// Everything is killed, the database too if it is a server.
    fn in_chaos(
        server: Option<RealServer>,
        broker: RealBroker,
        manner: Manner,
    ) -> impl Future<Output = Result<()>> {
        async move {
            let site = Self::site(server.as_ref().map_or_else(String::new, |server| server.url().to_owned()))
                .await?;
            let ended = chaos::drive::<Self>(manner, &site, server.as_ref(), &broker).await;
            site.clean_up::<Self>().await?;
            ended
        }
    }
}

/// Points of a relay's conversation with its database.
pub(crate) struct Cuts {
    pub(crate) in_commit: Point,
    pub(crate) in_settle: Point,
}

/// Where a cell has its database.
pub(crate) struct Site {
    pub(crate) url: String,
    /// The server's own database, and the name of ours.
    server: Option<(String, String)>,
    _folder: Option<TempDir>,
}

impl Site {
    fn file() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite://{}", folder.path().join("e2e.sqlite").display());
        Ok(Self { url, server: None, _folder: Some(folder) })
    }

    async fn on_server<D: Db>(server: String) -> Result<Self> {
        let name = format!("cqrs_e2e_{}", Uuid::new_v4().simple());
        let mut url = url::Url::parse(&server)?;
        url.set_path(&name);
        let own = Self { url: url.into(), server: Some((server, name)), _folder: None };
        own.on_the_server::<D>("CREATE DATABASE").await?;
        Ok(own)
    }

    /// Not in a transaction, which takes no such statement.
    async fn on_the_server<D: Db>(&self, what: &str) -> Result<()> {
        let Some((server, name)) = &self.server else { return Ok(()) };
        let outbox = D::connect(server, 1).await?;
        outbox.connection().await?.batch_execute(&format!("{what} {name}")).await.map_err(Error::from)
    }

    async fn clean_up<D: Db>(&self) -> Result<()> {
        self.on_the_server::<D>("DROP DATABASE").await
    }

    /// The database with all tables: the outbox's and those of the services.
    pub(crate) async fn prepare<D: Db>(&self, keys: u64) -> Result<Outbox<D>> {
        let outbox = D::connect(&self.url, 24).await?;
        outbox.migrate().await?;
        let keys: Vec<String> = (0..keys).map(|nth| format!("('{}', 0)", road::key(nth))).collect();
        let tables = format!(
            "CREATE TABLE counters (name VARCHAR(40) PRIMARY KEY, value BIGINT NOT NULL); \
             CREATE TABLE effects (event VARCHAR(40) NOT NULL); \
             INSERT INTO counters (name, value) VALUES {};",
            keys.join(", ")
        );
        outbox.connection().await?.batch_execute(&tables).await?;
        Ok(outbox)
    }
}

/// The events that had an effect, once for each time.
pub(crate) async fn effects<D: Db>(outbox: &Outbox<D>) -> Result<Vec<Uuid>> {
    let mut conn = outbox.connection().await?;
    let events = D::values(&mut conn, "SELECT event AS value FROM effects").await?;
    events.iter().map(|event| Ok(Uuid::parse_str(event)?)).collect()
}

/// Both services in SQL. Diesel's types differ by database, so the text is repeated for each.
macro_rules! services {
    ($key:literal, $event:literal, $version:literal) => {
        async fn count(conn: &mut Self::Connection, key: &str) -> QueryResult<i64> {
            sql_query(concat!("UPDATE counters SET value = value + 1 WHERE name = ", $key))
                .bind::<Text, _>(key)
                .execute(conn)
                .await?;
            let counter = sql_query(concat!("SELECT value FROM counters WHERE name = ", $key));
            Ok(counter.bind::<Text, _>(key).get_result::<Number>(conn).await?.value)
        }

        async fn effect(conn: &mut Self::Connection, event: Uuid) -> QueryResult<()> {
            let insert = sql_query(concat!("INSERT INTO effects (event) VALUES (", $event, ")"));
            insert.bind::<Text, _>(event.to_string()).execute(conn).await.map(drop)
        }

        async fn values(conn: &mut Self::Connection, query: &str) -> QueryResult<Vec<String>> {
            let rows: Vec<Word> = sql_query(query.to_owned()).load(conn).await?;
            Ok(rows.into_iter().map(|row| row.value).collect())
        }

        async fn version(conn: &mut Self::Connection) -> QueryResult<String> {
            Ok(sql_query($version).get_result::<Word>(conn).await?.value)
        }
    };
}

impl Db for Pg {
    const NAME: &'static str = "postgres";
    const RELAYS_AT_WORK: usize = 2;
    const CUTS: Option<Cuts> = Some(Cuts {
        // And no `READ COMMITTED`.
        in_commit: Point::answer_to(b"; COMMIT"),
        in_settle: Point::answer_to_prepared(b"DELETE FROM cqrs_outbox WHERE id"),
    });

    async fn connect(url: &str, connections: usize) -> Result<Outbox<Self>> {
        Outbox::<Self>::builder(url).max_connections(connections).connect().await
    }

    async fn site(server: String) -> Result<Site> {
        Site::on_server::<Self>(server).await
    }

    services!("$1", "$1", "SELECT 'PostgreSQL ' || current_setting('server_version') AS value");
}

impl Db for MySql {
    const NAME: &'static str = "mysql";
    const RELAYS_AT_WORK: usize = 2;
    const CUTS: Option<Cuts> = Some(Cuts {
        // And no `READ COMMITTED`.
        in_commit: Point::answer_to(b"; COMMIT"),
        in_settle: Point::answer_to_prepared(b"DELETE o FROM"),
    });

    async fn connect(url: &str, connections: usize) -> Result<Outbox<Self>> {
        Outbox::<Self>::builder(url).max_connections(connections).connect().await
    }

    async fn site(server: String) -> Result<Site> {
        Site::on_server::<Self>(server).await
    }

    services!("?", "?", "SELECT version() AS value");
}

impl Db for Sqlite {
    const NAME: &'static str = "sqlite";
    const RELAYS_AT_WORK: usize = 1;
    const CUTS: Option<Cuts> = None;

    async fn connect(url: &str, connections: usize) -> Result<Outbox<Self>> {
        Outbox::<Self>::builder(url).max_connections(connections).connect().await
    }

    async fn site(_server: String) -> Result<Site> {
        Site::file()
    }

    services!("?", "?", "SELECT 'SQLite ' || sqlite_version() AS value");
}
