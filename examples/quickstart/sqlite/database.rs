//! The two databases as SQLite files, beside each other.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail, ensure};
use cqrs::sql::{Outbox, Sqlite};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

use super::Connection;
use super::storage::{Found, Service, check_owner};

/// One process at a time. The system lets go of it when the process ends, however it does.
pub(crate) struct Lock {
    _file: File,
}

pub(crate) async fn find(url: &str) -> anyhow::Result<Found> {
    let rooms = absolute(url.strip_prefix("sqlite://").unwrap_or(url))?;
    let projection = beside(&rooms, ".projection");
    let folder = rooms.parent().unwrap_or(&rooms);
    ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    // Before anything is written to a file that is not ours, or beside it.
    look(&rooms, Service::Rooms).await?;
    look(&projection, Service::Projection).await?;
    let lock = lock(&rooms)?;
    Ok(Found {
        rooms: connect(&rooms).await?,
        projection: connect(&projection).await?,
        lock,
        names: [rooms, projection].map(|file| file.display().to_string()),
    })
}

/// Fails if what is there is not ours. An outbox would change the file already by opening it.
async fn look(file: &Path, service: Service) -> anyhow::Result<()> {
    match file.metadata() {
        Err(_) => return Ok(()),
        Ok(metadata) => ensure!(metadata.is_file(), "{} is not a file", file.display()),
    }
    let name = file.display().to_string();
    let mut conn = Connection::establish(text(file)?).await.with_context(|| format!("cannot open {name}"))?;
    // Whoever closes the file last tidies up what a killed process left, and locks it meanwhile.
    conn.batch_execute("PRAGMA busy_timeout = 5000").await?;
    let tables = tables(&mut conn).await;
    let tables = tables.with_context(|| format!("{name} is not a database of this example"))?;
    check_owner(&mut conn, &tables, service, &name).await
}

fn text(file: &Path) -> anyhow::Result<&str> {
    file.to_str().with_context(|| format!("{} is not UTF-8, and SQLite wants that", file.display()))
}

async fn connect(file: &Path) -> anyhow::Result<Outbox<Sqlite>> {
    Ok(Outbox::<Sqlite>::connect(format!("sqlite://{}", text(file)?)).await?)
}

fn lock(rooms: &Path) -> anyhow::Result<Lock> {
    let mut path = OsString::from(rooms);
    path.push(".lock");
    let cannot = || format!("cannot write {}", Path::new(&path).display());
    let file = File::create(&path).with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => bail!(
            "another process works with {}: wait for it, or name another file with --database",
            rooms.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

/// Drops every table: those of this example, of the outbox and of the inbox.
pub(crate) async fn empty(conn: &mut Connection) -> QueryResult<()> {
    let drops: String = tables(conn).await?.iter().map(|table| format!("DROP TABLE \"{table}\"; ")).collect();
    conn.batch_execute(&format!("BEGIN IMMEDIATE; {drops} COMMIT;")).await
}

pub(crate) async fn tables(conn: &mut Connection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables: Vec<Table> = diesel::sql_query(query).load(conn).await?;
    Ok(tables.into_iter().map(|table| table.name).collect())
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
