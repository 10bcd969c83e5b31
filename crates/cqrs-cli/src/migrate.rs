//! `cqrs outbox migrate`

use serde_json::json;

use crate::database;
use crate::failure::Failure;
use crate::print;
use crate::target::{PatientDatabaseArgs, shown};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,

    /// Prints the SQL for the kind of database that the URL names, and touches nothing
    #[arg(long)]
    print: bool,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let url = &args.database.database.database;
    if args.print {
        for migration in database::migrations(url)? {
            print(&migration.to_string())?;
        }
        return Ok(());
    }
    let shown = shown(url);
    let failed = |error| Failure::from(error).at(&shown);
    let database = args.database.connect().await?;
    // If it cannot be told yet, there is nothing.
    let before = database.status().await.ok().map(|status| status.schema_version);
    database.migrate().await.map_err(failed)?;
    let after = database.status().await.map_err(failed)?.schema_version;
    if json {
        return print(&json!({ "database": shown, "from": before, "to": after }).to_string());
    }
    print(&match before {
        Some(before) if before == after => {
            format!("{shown}: the outbox's tables are of version {after}, nothing was to do")
        }
        Some(before) => format!("{shown}: the outbox's tables went from version {before} to {after}"),
        None => format!("{shown}: the outbox's tables were created, version {after}"),
    })
}
