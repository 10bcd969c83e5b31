//! The databases: filling the outbox, and the floor of reading and deleting its rows.

use std::sync::Arc;

use cqrs::diesel::{MySql, Outbox, Pg, Sqlite};
use cqrs::outbox::OutboxStore;
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::measure::{Cost, Measured};

/// As many as a relay reads at once.
const BATCH: usize = 500;

pub(crate) enum Database {
    Postgres(String),
    MySql(String),
    Sqlite,
}

/// A database of a run's own. Those of servers go with the servers.
pub(crate) enum Site {
    Postgres(Outbox<Pg>),
    MySql(Outbox<MySql>),
    Sqlite(Outbox<Sqlite>, #[expect(dead_code, reason = "it is removed with this")] TempDir),
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
        let at = |server: &str| format!("{}/{name}", server.rsplit_once('/').expect("a database").0);
        let create = format!("CREATE DATABASE {name}");
        match self {
            Self::Postgres(server) => {
                let root = Outbox::<Pg>::connect(server).await.unwrap();
                root.connection().await.unwrap().batch_execute(&create).await.unwrap();
                let outbox = Outbox::<Pg>::connect(at(server)).await.unwrap();
                outbox.migrate().await.unwrap();
                Site::Postgres(outbox)
            }
            Self::MySql(server) => {
                let root = Outbox::<MySql>::connect(server).await.unwrap();
                root.connection().await.unwrap().batch_execute(&create).await.unwrap();
                let outbox = Outbox::<MySql>::connect(at(server)).await.unwrap();
                outbox.migrate().await.unwrap();
                Site::MySql(outbox)
            }
            Self::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite://{}", folder.path().join("bench.sqlite").display());
                let outbox = Outbox::<Sqlite>::connect(url).await.unwrap();
                outbox.migrate().await.unwrap();
                Site::Sqlite(outbox, folder)
            }
        }
    }
}

/// Diesel's types differ by database.
macro_rules! each {
    ($site:expr, $outbox:ident => $work:expr) => {
        match $site {
            Site::Postgres($outbox) => $work,
            Site::MySql($outbox) => $work,
            Site::Sqlite($outbox, _) => $work,
        }
    };
}

impl Site {
    /// Whether more than one relay can work.
    pub(crate) fn shares(&self) -> bool {
        !matches!(self, Self::Sqlite(..))
    }

    pub(crate) fn store(&self) -> Arc<dyn OutboxStore> {
        each!(self, outbox => Arc::new(outbox.clone()))
    }

    pub(crate) fn wake(&self) {
        each!(self, outbox => outbox.wake());
    }

    /// Writes all of them in one transaction.
    pub(crate) async fn fill(&self, topic: &str, keys: u64, events: u64) {
        let payload = "x".repeat(290);
        let (numbers, key) = match self {
            Self::Postgres(..) => (
                format!("generate_series(1, {events}) AS n(i)"),
                format!("convert_to('key-' || (i % {keys}), 'UTF8')"),
            ),
            Self::MySql(..) => (
                format!("(SELECT seq AS i FROM seq_1_to_{events}) AS n"),
                format!("concat('key-', i % {keys})"),
            ),
            Self::Sqlite(..) => (
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
        each!(self, outbox => outbox.connection().await.unwrap().batch_execute(&insert).await.unwrap());
    }

    /// The floor: as a relay without anything to do but this would read and delete them.
    pub(crate) async fn read_and_delete(&self, events: u64) -> Measured {
        let read =
            format!("SELECT id, topic, message_key, payload_text FROM cqrs_outbox ORDER BY id LIMIT {BATCH}");
        let cost = Cost::start();
        each!(self, outbox => {
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
