//! A database of a test's own, and a run of the program on it.

use std::fmt;
use std::sync::Arc;

use cqrs::Result;
use cqrs::outbox::OutboxStore;
use cqrs::sql::{MySql, Outbox, Pg, Sqlite};
use diesel::sql_types::BigInt;
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::program;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        })
    }
}

/// An empty database, which goes with this.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    place: Place,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

enum Place {
    Folder(#[expect(dead_code, reason = "it is removed with this")] TempDir),
    Server { url: String, name: String },
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Place::Server { url, name } = &self.place {
            let (kind, url, drop) = (self.kind, url.clone(), format!("DROP DATABASE {name}"));
            // A runtime cannot wait within another. A server of the test's own may be gone by now.
            let dropping = std::thread::spawn(move || {
                tokio::runtime::Runtime::new().unwrap().block_on(try_execute(kind, &url, &drop))
            });
            let _ = dropping.join();
        }
    }
}

impl Site {
    pub(crate) async fn new(kind: Kind, server: String) -> Self {
        if kind == Kind::Sqlite {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("it.sqlite").display());
            return Self { kind, url, place: Place::Folder(folder) };
        }
        let name = format!("cqrs_cli_{}", Uuid::new_v4().simple());
        let mut url = url::Url::parse(&server).unwrap();
        execute(kind, &server, &format!("CREATE DATABASE {name}")).await;
        url.set_path(&name);
        Self { kind, url: url.into(), place: Place::Server { url: server, name } }
    }

    /// Where another one can be made beside it.
    pub(crate) fn server(&self) -> String {
        match &self.place {
            Place::Folder(_) => String::new(),
            Place::Server { url, .. } => url.clone(),
        }
    }

    /// Its URL without the password.
    pub(crate) fn shown(&self) -> String {
        match url::Url::parse(&self.url).unwrap().password() {
            Some(password) => self.url.replace(&format!(":{password}@"), ":***@"),
            None => self.url.clone(),
        }
    }

    /// Its outbox, as a relay sees it.
    pub(crate) async fn store(&self) -> Arc<dyn OutboxStore> {
        match self.kind {
            Kind::Sqlite => Arc::new(Outbox::<Sqlite>::connect(&self.url).await.unwrap()),
            Kind::Postgres => Arc::new(Outbox::<Pg>::connect(&self.url).await.unwrap()),
            Kind::MySql => Arc::new(Outbox::<MySql>::connect(&self.url).await.unwrap()),
        }
    }

    /// How many rows there are of a table.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let query = sql_query(format!("SELECT count(*) AS value FROM {table}"));
        let count: QueryResult<Count> = match self.kind {
            Kind::Sqlite => {
                let outbox = Outbox::<Sqlite>::connect(&self.url).await.unwrap();
                query.get_result(&mut *outbox.connection().await.unwrap()).await
            }
            Kind::Postgres => {
                let outbox = Outbox::<Pg>::connect(&self.url).await.unwrap();
                query.get_result(&mut *outbox.connection().await.unwrap()).await
            }
            Kind::MySql => {
                let outbox = Outbox::<MySql>::connect(&self.url).await.unwrap();
                query.get_result(&mut *outbox.connection().await.unwrap()).await
            }
        };
        count.unwrap().value
    }

    pub(crate) async fn sql(&self, sql: &str) {
        execute(self.kind, &self.url, sql).await;
    }

    /// An event, as a program in another language writes it.
    pub(crate) async fn insert(&self, topic: &str, key: &str, payload: &str) {
        self.sql(&format!(
            "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
             VALUES ('room_closed', '{topic}', '{key}', '{payload}')"
        ))
        .await;
    }

    pub(crate) async fn migrate(&self) {
        cqrs(&["outbox", "migrate", "--database", &self.url]).await.expect_code(0);
    }

    pub(crate) async fn status(&self) -> Value {
        let said = cqrs(&["outbox", "status", "--json", "--database", &self.url]).await.expect_code(0);
        serde_json::from_str(&said).unwrap()
    }
}

async fn execute(kind: Kind, url: &str, sql: &str) {
    try_execute(kind, url, sql).await.unwrap();
}

async fn try_execute(kind: Kind, url: &str, sql: &str) -> Result<()> {
    match kind {
        Kind::Sqlite => Outbox::<Sqlite>::connect(url).await?.connection().await?.batch_execute(sql).await,
        Kind::Postgres => Outbox::<Pg>::connect(url).await?.connection().await?.batch_execute(sql).await,
        Kind::MySql => Outbox::<MySql>::connect(url).await?.connection().await?.batch_execute(sql).await,
    }
    .map_err(cqrs::Error::from)
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// What it printed.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.out
    }

    /// Its error, in which all of these stand, and nowhere the password of the tests.
    #[track_caller]
    pub(crate) fn expect_error(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let (_, said) = self.err.split_once("error: ").unwrap_or_default();
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {self:?}");
        }
        assert!(!format!("{self:?}").contains("hunter2"), "{self:?}");
    }
}

/// Runs the program to its end.
pub(crate) async fn cqrs(arguments: &[&str]) -> Ran {
    cqrs_with(arguments, &[]).await
}

pub(crate) async fn cqrs_with(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let output = program().args(arguments).envs(variables.iter().copied()).output().await.unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
