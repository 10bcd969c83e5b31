//! The two databases on a server, beside each other: `meetings` and `meetings_projection`.

use anyhow::{Context, ensure};
use cqrs::sql::{Backend, Outbox};
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};

use super::storage::{Found, Service, check_owner};
use super::{Connection, Db, dialect};

/// One process at a time. The server lets go of it when the connection ends, however it does.
pub(crate) struct Lock {
    _held: <Db as Backend>::Guard,
}

pub(crate) async fn find(url: &str) -> anyhow::Result<Found> {
    let name = name_of(url).with_context(|| {
        "the URL names no database: end it with one, such as /meetings; the second service's is made beside it".to_owned()
    })?;
    let projection_name = format!("{name}_projection");
    let rooms = open(url, name, Service::Rooms).await?;
    let projection = open(&renamed(url, &projection_name), &projection_name, Service::Projection).await?;
    let lock = lock(&rooms, name).await?;
    Ok(Found { rooms, projection, lock, names: [name.to_owned(), projection_name] })
}

/// The name of the database in a URL.
fn name_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (_, path) = rest.split('?').next()?.split_once('/')?;
    Some(path).filter(|name| !name.is_empty())
}

/// The URL with another database.
fn renamed(url: &str, database: &str) -> String {
    let (base, parameters) = match url.split_once('?') {
        Some((base, parameters)) => (base, format!("?{parameters}")),
        None => (url, String::new()),
    };
    let server = base.rsplit_once('/').map_or(base, |(server, _)| server);
    format!("{server}/{database}{parameters}")
}

/// Connects, creates the database if there is none, and leaves alone what is not ours.
async fn open(url: &str, name: &str, service: Service) -> anyhow::Result<Outbox<Db>> {
    let outbox = match dialect::connect(url).await {
        Err(error) if error.to_string().contains(dialect::UNKNOWN_DATABASE) => {
            let server = dialect::connect(&renamed(url, dialect::ADMINISTRATION)).await?;
            let create = dialect::create(name);
            // Not in a transaction, which takes no such statement.
            let created = server.connection().await?.batch_execute(&create).await;
            created
                .with_context(|| format!("there is no database {name}, and it was not created: {create}"))?;
            dialect::connect(url).await
        }
        connected => connected,
    }?;
    let mut conn = outbox.connection().await?;
    let tables = tables(&mut conn).await?;
    check_owner(&mut conn, &tables, service, name).await?;
    drop(conn);
    Ok(outbox)
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

async fn lock(rooms: &Outbox<Db>, name: &str) -> anyhow::Result<Lock> {
    let mut held = rooms.connection().await?;
    let Locked { locked } = diesel::sql_query(dialect::LOCK).get_result(&mut held).await?;
    ensure!(
        locked,
        "another process works with {name}: wait for it, or name another database with --database"
    );
    Ok(Lock { _held: held })
}

/// Drops every table: those of this example, of the outbox and of the inbox.
pub(crate) async fn empty(conn: &mut Connection) -> QueryResult<()> {
    for table in tables(conn).await? {
        conn.batch_execute(&format!("DROP TABLE {table}")).await?;
    }
    Ok(())
}

pub(crate) async fn tables(conn: &mut Connection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Table {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let tables: Vec<Table> = diesel::sql_query(dialect::TABLES).load(conn).await?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}
