//! `cqrs outbox renew-id`

use cqrs::without_password;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

const AFTER: &str = "\
A copy of a database has the installation id of the original, and what waits in it, too. A relay that is told the id of its
own database (`cqrs relay --installation-id`) does not serve another one. With a new id the copy can have a relay of its
own, which sends what waits there: look at it before (`cqrs outbox status`), or hold it (`cqrs outbox hold`).";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let id = args.database.connect(false).await?.renew_installation_id().await?;
    print(&if json {
        json!({ "database": shown, "installation_id": id.to_string() }).to_string()
    } else {
        format!("{shown}: is installation {id} from now on; relays that were told another one end")
    })
}
