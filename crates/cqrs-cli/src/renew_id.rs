//! `cqrs outbox renew-id`

use cqrs::without_password;
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

const AFTER: &str = "\
A copy of a database has the installation id of the original, passes for it, and has what waits in it, too. So hold a copy
first (`cqrs outbox hold`), and give it a new id; then a relay that is told the id of its own database (`cqrs relay
--installation-id`) does not take one for the other. Whoever ends the hold has what waits in the copy sent: look at it before
(`cqrs outbox status`). Relays that were told the old id end with their next heartbeat, and their groups are free when their
leases have expired.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let database = args.database.open().await?;
    // What is no UUID is what this mends.
    let before = database.installation_id().await.ok().map(|id| id.to_string());
    let id = database.renew_installation_id().await?;
    print(&if json {
        json!({ "database": shown, "installation_id": id.to_string(), "before": before }).to_string()
    } else {
        let was = before.map(|before| format!(", and was {before}")).unwrap_or_default();
        format!("{shown}: is installation {id} from now on{was}; relays that were told another one end")
    })
}
