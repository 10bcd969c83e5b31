//! `cqrs outbox hold` and `cqrs outbox resume`

use cqrs::without_password;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, hold: bool, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let database = args.database.open().await?;
    if hold {
        database.hold().await?;
    } else {
        database.resume().await?;
    }
    if json {
        return print(&json!({ "database": shown, "hold": hold }).to_string());
    }
    print(&if hold {
        format!(
            "{shown}: relaying is on hold from the relays' next heartbeat on; `cqrs outbox resume` ends it"
        )
    } else {
        format!("{shown}: relaying goes on with the relays' next heartbeat")
    })
}
