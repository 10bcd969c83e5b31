//! `cqrs outbox migrate`

use cqrs::without_password;
use cqrs_outbox_diesel::migrations::Migrated;
use serde_json::json;

use crate::database;
use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

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
            print(&migration.with_names(&args.database.database.names.names())?)?;
        }
        return Ok(());
    }
    let shown = without_password(url);
    let database = args.database.connect(true).await?;
    let Migrated { from, to, restored, .. } = database.migrate().await?;
    if json {
        return print(
            &json!({ "database": shown, "from": from, "to": to, "restored": restored }).to_string(),
        );
    }
    print(&match from {
        Some(_) if restored => format!(
            "{shown}: what says of which version the outbox's tables are was lost, and is written again: version {to}. Whether relaying \
             was on hold is lost, too: `cqrs outbox status` says whether it is now, and `cqrs outbox resume` ends it"
        ),
        Some(from) if from == to => {
            format!(
                "{shown}: the outbox's tables are of version {to}, nothing was to do; whether they were changed since they were \
                 made, `cqrs outbox check` says"
            )
        }
        Some(from) => format!("{shown}: the outbox's tables went from version {from} to {to}"),
        None => format!("{shown}: the outbox's tables were created, version {to}"),
    })
}
