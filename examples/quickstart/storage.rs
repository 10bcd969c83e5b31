//! The two SQLite files, one for each service, and how a run begins in them or goes on.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf, absolute};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use cqrs::diesel::{Outbox, Sqlite};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::journal::{self, Place};
use crate::{attendance, rooms};

/// A plain connection, for what needs no outbox.
pub(crate) type Connection = SyncConnectionWrapper<SqliteConnection>;

/// What SQLite keeps in the head of a file to tell whose it is.
const ROOMS_ID: i32 = 0x6371_7201;
const PROJECTION_ID: i32 = 0x6371_7202;

const RUN: &str = "CREATE TABLE run (id TEXT PRIMARY KEY, finished BOOLEAN NOT NULL DEFAULT FALSE);";

diesel::table! {
    run (id) {
        id -> Text,
        finished -> Bool,
    }
}

/// Both databases, open.
pub(crate) struct Storage {
    pub(crate) rooms: Outbox<Sqlite>,
    pub(crate) projection: Outbox<Sqlite>,
    /// The last line that an earlier process has done in this run.
    pub(crate) resumed: Option<Place>,
    rooms_file: PathBuf,
    projection_file: PathBuf,
    /// One process at a time. The system lets go of it when the process ends, however it does.
    _lock: File,
}

impl Storage {
    /// Goes on with the run that was not finished or, if there is none or `fresh` is asked for, begins a new one.
    pub(crate) async fn open(database: &Path, fresh: bool) -> anyhow::Result<Self> {
        let projection_file = absolute(beside(database, ".projection"))?;
        let rooms_file = absolute(database)?;
        let folder = rooms_file.parent().unwrap_or(&rooms_file);
        ensure!(folder.is_dir(), "there is no folder {}", folder.display());
        check_owner(&rooms_file, ROOMS_ID).await?;
        check_owner(&projection_file, PROJECTION_ID).await?;
        let lock = lock(&rooms_file)?;

        let mut rooms_conn = claim(&rooms_file, ROOMS_ID).await?;
        let mut projection_conn = claim(&projection_file, PROJECTION_ID).await?;
        let unfinished = if fresh { None } else { unfinished(&mut rooms_conn).await? };
        let resumed = match unfinished {
            Some((id, place)) => {
                ensure!(
                    run_id(&mut projection_conn).await? == Some(id),
                    "{} holds an unfinished run, and {} does not belong to it: begin again with --fresh",
                    rooms_file.display(),
                    projection_file.display()
                );
                Some(place)
            }
            None => {
                // In this order: whatever is killed in between, the first file says that nothing has begun.
                empty(&mut rooms_conn).await?;
                empty(&mut projection_conn).await?;
                None
            }
        };
        drop((rooms_conn, projection_conn));

        let rooms = connect_outbox(&rooms_file).await?;
        let projection = connect_outbox(&projection_file).await?;
        if resumed.is_none() {
            let id = new_run_id();
            create(&rooms, &[RUN, journal::TABLES, rooms::TABLES], &id).await?;
            create(&projection, &[RUN, attendance::TABLES], &id).await?;
        }
        Ok(Self { rooms, projection, resumed, rooms_file, projection_file, _lock: lock })
    }

    /// A connection that can read the first service's database, and no more.
    pub(crate) async fn reader(&self) -> anyhow::Result<Connection> {
        let mut conn = connect(&self.rooms_file).await?;
        conn.batch_execute("PRAGMA query_only = ON").await?;
        Ok(conn)
    }

    /// The same, with the second service's database beside it under the name `projection`.
    pub(crate) async fn reader_of_both(&self) -> anyhow::Result<Connection> {
        let mut conn = self.reader().await?;
        let file = text(&self.projection_file)?;
        diesel::sql_query("ATTACH ? AS projection").bind::<Text, _>(file).execute(&mut conn).await?;
        Ok(conn)
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

#[derive(QueryableByName)]
struct Owner {
    #[diesel(sql_type = Integer)]
    application_id: i32,
    #[diesel(sql_type = BigInt)]
    tables: i64,
}

const OWNER: &str = "\
    SELECT (SELECT application_id FROM pragma_application_id) AS application_id, \
        (SELECT count(*) FROM sqlite_schema) AS tables";

/// Leaves files alone that are not ours: another program's database, or no database at all.
async fn check_owner(file: &Path, id: i32) -> anyhow::Result<()> {
    match file.metadata() {
        Err(_) => return Ok(()),
        Ok(metadata) => ensure!(metadata.is_file(), "{} is not a file", file.display()),
    }
    let mut conn = connect(file).await?;
    let owner = diesel::sql_query(OWNER).get_result::<Owner>(&mut conn).await;
    let owner = owner.with_context(|| format!("{} is not a database of this example", file.display()))?;
    let empty = owner.application_id == 0 && owner.tables == 0;
    ensure!(
        empty || owner.application_id == id,
        "{} is a database of something else, and is left as it is: name another file with --database",
        file.display()
    );
    Ok(())
}

fn lock(rooms_file: &Path) -> anyhow::Result<File> {
    let mut path = OsString::from(rooms_file);
    path.push(".lock");
    let cannot = || format!("cannot write {}", Path::new(&path).display());
    let lock = File::create(&path).with_context(cannot)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another process works with {}: wait for it, or name another file with --database",
            rooms_file.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

/// Writes our mark into the file, which is ours or empty.
async fn claim(file: &Path, id: i32) -> anyhow::Result<Connection> {
    let mut conn = connect(file).await?;
    conn.batch_execute(&format!("PRAGMA application_id = {id}")).await?;
    Ok(conn)
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
    if !tables(conn).await?.iter().any(|table| table == "run") {
        return Ok(None);
    }
    run::table.select(run::id).first(conn).await.optional()
}

/// Drops every table: those of this example, of the outbox and of the inbox.
async fn empty(conn: &mut Connection) -> QueryResult<()> {
    let drops: String = tables(conn).await?.iter().map(|table| format!("DROP TABLE \"{table}\"; ")).collect();
    conn.batch_execute(&format!("BEGIN IMMEDIATE; {drops} COMMIT;")).await
}

async fn tables(conn: &mut Connection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables: Vec<Table> = diesel::sql_query(query).load(conn).await?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

async fn create(outbox: &Outbox<Sqlite>, tables: &[&str], id: &str) -> cqrs::Result<()> {
    let tables = tables.concat();
    outbox
        .transaction(async |tx| {
            tx.batch_execute(&tables).await?;
            diesel::insert_into(run::table)
                .values((run::id.eq(id), run::finished.eq(false)))
                .execute(tx)
                .await?;
            Ok(())
        })
        .await
}

/// Opens a database with an outbox and an inbox.
async fn connect_outbox(file: &Path) -> anyhow::Result<Outbox<Sqlite>> {
    let outbox = Outbox::<Sqlite>::connect(format!("sqlite://{}", text(file)?)).await?;
    outbox.migrate().await?;
    Ok(outbox)
}

async fn connect(file: &Path) -> anyhow::Result<Connection> {
    let mut conn = Connection::establish(text(file)?)
        .await
        .with_context(|| format!("cannot open {}", file.display()))?;
    conn.batch_execute("PRAGMA busy_timeout = 5000").await?;
    Ok(conn)
}

fn text(file: &Path) -> anyhow::Result<&str> {
    file.to_str().with_context(|| format!("{} is not UTF-8, and SQLite wants that", file.display()))
}

/// `quickstart.sqlite` becomes `quickstart.projection.sqlite`.
fn beside(file: &Path, infix: &str) -> PathBuf {
    let mut name = OsString::from(file.file_stem().unwrap_or_default());
    name.push(infix);
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

fn new_run_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", now.as_nanos(), std::process::id())
}
