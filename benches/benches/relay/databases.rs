//! The databases: filling the outbox, and the floor of reading and deleting its rows.

use std::sync::Arc;

use cqrs::Message;
use cqrs::outbox::{OutboxStore, RelaySettings};
use cqrs::sql::{MySql, Outbox, Pg, Sqlite};
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::measure::{Cost, Measured};

#[derive(Clone)]
pub(crate) enum Database {
    Postgres(String),
    MySql(String),
    Sqlite,
}

/// A database of a run's own. Those of servers go with the servers.
pub(crate) struct Site {
    url: String,
    outbox: Connected,
    _folder: Option<TempDir>,
}

/// Diesel's types differ by database.
#[derive(Clone)]
pub(crate) enum Connected {
    Postgres(Outbox<Pg>),
    MySql(Outbox<MySql>),
    Sqlite(Outbox<Sqlite>),
}

/// What a relay stands on, and how to wake it: connections of its own, as in a process of its own.
#[derive(Clone)]
pub(crate) struct Footing {
    pub(crate) store: Arc<dyn OutboxStore>,
    outbox: Connected,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    #[expect(dead_code, reason = "it is fetched")]
    topic: String,
    #[diesel(sql_type = Binary)]
    #[expect(dead_code, reason = "it is fetched")]
    message_key: Vec<u8>,
    #[diesel(sql_type = Text)]
    #[expect(dead_code, reason = "it is fetched")]
    payload_text: String,
}

macro_rules! each {
    ($connected:expr, $outbox:ident => $work:expr) => {
        match $connected {
            Connected::Postgres($outbox) => $work,
            Connected::MySql($outbox) => $work,
            Connected::Sqlite($outbox) => $work,
        }
    };
}

impl Database {
    /// Those that `scripts/with-services` gives, and SQLite.
    pub(crate) fn given() -> Vec<Self> {
        let url = |name: &str| std::env::var(name).ok();
        let postgres = url("CQRS_TEST_POSTGRES_URL").map(Self::Postgres);
        let mysql = url("CQRS_TEST_MYSQL_URL").map(Self::MySql);
        postgres.into_iter().chain(mysql).chain([Self::Sqlite]).collect()
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "PostgreSQL",
            Self::MySql(_) => "MariaDB",
            Self::Sqlite => "SQLite",
        }
    }

    pub(crate) async fn site(&self) -> Site {
        let name = format!("bench_{}", Uuid::new_v4().simple());
        let (url, folder) = match self {
            Self::Postgres(server) | Self::MySql(server) => {
                let create = format!("CREATE DATABASE {name}");
                let root = self.connect(server).await;
                each!(&root, outbox => outbox.connection().await.unwrap().batch_execute(&create).await.unwrap());
                (format!("{}/{name}", server.rsplit_once('/').expect("a database").0), None)
            }
            Self::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                (format!("sqlite://{}", folder.path().join("bench.sqlite").display()), Some(folder))
            }
        };
        let outbox = self.connect(&url).await;
        each!(&outbox, outbox => drop(outbox.migrate().await.unwrap()));
        Site { url, outbox, _folder: folder }
    }

    async fn connect(&self, url: &str) -> Connected {
        match self {
            Self::Postgres(_) => Connected::Postgres(Outbox::<Pg>::connect(url).await.unwrap()),
            Self::MySql(_) => Connected::MySql(Outbox::<MySql>::connect(url).await.unwrap()),
            Self::Sqlite => Connected::Sqlite(Outbox::<Sqlite>::connect(url).await.unwrap()),
        }
    }

    /// Whether more than one relay can work.
    pub(crate) fn shares(&self) -> bool {
        !matches!(self, Self::Sqlite)
    }

    /// Whether a relay hears of commits in other processes.
    pub(crate) fn listens(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(crate) async fn footing(&self, site: &Site) -> Footing {
        Footing::new(self.connect(&site.url).await)
    }

    /// One that says what it commits, and listens, by NOTIFY.
    pub(crate) async fn listening_footing(&self, site: &Site) -> Footing {
        assert!(self.listens());
        let outbox = Outbox::<Pg>::builder(&site.url).notifications(true).connect().await.unwrap();
        Footing::new(Connected::Postgres(outbox))
    }
}

impl Footing {
    fn new(outbox: Connected) -> Self {
        Self { store: each!(&outbox, outbox => Arc::new(outbox.clone())), outbox }
    }

    /// In a transaction of its own, which wakes who relays.
    pub(crate) async fn write(&self, message: Message) {
        each!(&self.outbox, outbox => {
            outbox.transaction(async |tx| tx.publish(message).await.map(drop)).await.unwrap();
        });
    }

    pub(crate) fn wake(&self) {
        each!(&self.outbox, outbox => outbox.wake());
    }
}

impl Site {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn outbox(&self) -> &Connected {
        &self.outbox
    }

    /// Writes all of them in one transaction.
    pub(crate) async fn fill(&self, topic: &str, keys: u64, events: u64) {
        let payload = "x".repeat(290);
        let (numbers, key) = match &self.outbox {
            Connected::Postgres(_) => (
                format!("generate_series(1, {events}) AS n(i)"),
                format!("convert_to('key-' || (i % {keys}), 'UTF8')"),
            ),
            Connected::MySql(_) => (
                format!("(SELECT seq AS i FROM seq_1_to_{events}) AS n"),
                format!("concat('key-', i % {keys})"),
            ),
            Connected::Sqlite(_) => (
                format!(
                    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events}) SELECT i FROM n)"
                ),
                format!("CAST('key-' || (i % {keys}) AS BLOB)"),
            ),
        };
        let insert = format!(
            "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
             SELECT 'bench', '{topic}', {key}, '{{\"text\":\"{payload}\"}}' FROM {numbers}"
        );
        each!(&self.outbox, outbox => outbox.connection().await.unwrap().batch_execute(&insert).await.unwrap());
    }

    /// The floor: as a relay without anything to do but this would read and delete them.
    pub(crate) async fn read_and_delete(&self, events: u64) -> Measured {
        let batch = RelaySettings::default().batch;
        let read =
            format!("SELECT id, topic, message_key, payload_text FROM cqrs_outbox ORDER BY id LIMIT {batch}");
        let cost = Cost::start();
        each!(&self.outbox, outbox => {
            let mut conn = outbox.connection().await.unwrap();
            loop {
                let rows: Vec<Row> = sql_query(&read).load(&mut *conn).await.unwrap();
                if rows.is_empty() {
                    break;
                }
                let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
                let delete = format!("DELETE FROM cqrs_outbox WHERE id IN ({})", ids.join(","));
                conn.batch_execute(&delete).await.unwrap();
            }
        });
        cost.stop(events)
    }
}
