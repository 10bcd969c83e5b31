//! The two databases, one for each service, and how a run begins in them or goes on.

use std::time::SystemTime;

use anyhow::ensure;
use cqrs::Encoder;
use cqrs::sql::Outbox;
use diesel::prelude::*;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use super::{Connection, Db, attendance, database, journal, rooms};
use crate::input::Place;

/// Both databases as they were found: connected to, ours or empty, and nobody else's as long as this lives.
pub(crate) struct Found {
    pub(crate) rooms: Outbox<Db>,
    pub(crate) projection: Outbox<Db>,
    pub(crate) lock: database::Lock,
    /// Their names, for people.
    pub(crate) names: [String; 2],
}

/// Which of the services a database belongs to, as its table `run` says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Service {
    Rooms,
    Projection,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Rooms => "rooms",
            Self::Projection => "projection",
        }
    }
}

/// First of all tables, and so the mark by which a database is known as ours. It has a row as soon as a run has begun.
const RUN: &str =
    "CREATE TABLE run (id VARCHAR(64) PRIMARY KEY, service VARCHAR(16) NOT NULL, finished BOOLEAN NOT NULL);";

diesel::table! {
    run (id) {
        id -> Text,
        service -> Text,
        finished -> Bool,
    }
}

/// Both databases, open.
pub(crate) struct Storage {
    pub(crate) rooms: Outbox<Db>,
    pub(crate) projection: Outbox<Db>,
    /// New for each run.
    pub(crate) run: String,
    /// The last line that an earlier process has done in this run.
    pub(crate) resumed: Option<Place>,
    _lock: database::Lock,
}

impl Storage {
    /// Goes on with the run that was not finished or, if there is none or `fresh` is asked for, begins a new one.
    pub(crate) async fn open(url: &str, fresh: bool) -> anyhow::Result<Self> {
        let Found { rooms, projection, lock, names } = database::find(url).await?;
        let mut rooms_conn = rooms.connection().await?;
        let mut projection_conn = projection.connection().await?;
        let unfinished = if fresh { None } else { unfinished(&mut rooms_conn).await? };
        let (run, resumed) = match unfinished {
            Some((id, place)) => {
                let other = run_id(&mut projection_conn).await?;
                ensure!(
                    other.as_deref() == Some(id.as_str()),
                    "{} holds an unfinished run, and {} does not belong to it: begin again with --fresh",
                    names[0],
                    names[1]
                );
                (id, Some(place))
            }
            None => {
                // In this order: whatever is killed in between, the first database says that nothing has begun.
                database::empty(&mut rooms_conn).await?;
                database::empty(&mut projection_conn).await?;
                (new_run_id(), None)
            }
        };
        drop((rooms_conn, projection_conn));
        if resumed.is_none() {
            create(&projection, Service::Projection, &[attendance::TABLES], &run).await?;
            create(&rooms, Service::Rooms, &[journal::TABLES, rooms::TABLES], &run).await?;
        }
        Ok(Self { rooms, projection, run, resumed, _lock: lock })
    }

    /// Says events under topics of this run's own.
    pub(crate) fn with_topic_prefix(mut self, prefix: &str) -> Self {
        self.rooms = self.rooms.with_encoder(Encoder::default().with_topic_prefix(prefix));
        self
    }

    /// The next start is a new run.
    pub(crate) async fn finish(&self) -> cqrs::Result<()> {
        self.rooms
            .transaction(async |tx| {
                diesel::update(run::table).set(run::finished.eq(true)).execute(tx).await?;
                Ok(())
            })
            .await
    }
}

/// Leaves databases alone that are not ours: those of another program, and those of the other service.
pub(crate) async fn check_owner(
    conn: &mut Connection,
    tables: &[String],
    service: Service,
    name: &str,
) -> anyhow::Result<()> {
    let ours = tables.is_empty()
        || tables.iter().any(|table| table == "run")
            && match run::table.select(run::service).load::<String>(conn).await {
                Ok(services) => services.iter().all(|found| found == service.name()),
                Err(_) => false,
            };
    ensure!(
        ours,
        "{name} is a database of something else, and is left as it is: name another one with --database"
    );
    Ok(())
}

/// The run that an earlier process has begun and not finished.
async fn unfinished(conn: &mut Connection) -> anyhow::Result<Option<(String, Place)>> {
    if run_id(conn).await?.is_none() {
        return Ok(None);
    }
    let id = run::table.filter(run::finished.eq(false)).select(run::id).first(conn).await.optional()?;
    Ok(id.zip(journal::last(conn).await?))
}

async fn run_id(conn: &mut Connection) -> QueryResult<Option<String>> {
    if !database::tables(conn).await?.iter().any(|table| table == "run") {
        return Ok(None);
    }
    run::table.select(run::id).first(conn).await.optional()
}

async fn create(outbox: &Outbox<Db>, service: Service, tables: &[&str], id: &str) -> anyhow::Result<()> {
    let mut conn = outbox.connection().await?;
    // Where tables are not made in transactions, a kill in between leaves what the next start takes for empty.
    conn.batch_execute(RUN).await?;
    conn.batch_execute(&tables.concat()).await?;
    drop(conn);
    outbox.migrate().await?;
    outbox
        .transaction(async |tx| {
            diesel::insert_into(run::table)
                .values((run::id.eq(id), run::service.eq(service.name()), run::finished.eq(false)))
                .execute(tx)
                .await?;
            Ok(())
        })
        .await?;
    Ok(())
}

fn new_run_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}
