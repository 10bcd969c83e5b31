//! `cqrs outbox unpark`

use clap::ArgGroup;
use cqrs::without_password;
use serde_json::json;

use crate::failure::Failure;
use crate::parked::FilterArgs;
use crate::target::PatientDatabaseArgs;
use crate::{counted, print};

const AFTER: &str = "\
For when what was wrong is mended: an event that the broker refused waits longer after each refusal, and this ends that wait. It is about
all that waits with it for the same key, in their order. If it is refused again that is one more attempt. What waits for a dead letter
goes on waiting: `cqrs dead replay` or `cqrs dead discard` ends that.";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER,
    group = ArgGroup::new("which").required(true).multiple(true).args(["topic", "key", "event_id", "all"])
)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: FilterArgs,

    /// All of them
    #[arg(long, conflicts_with_all = ["topic", "key", "event_id"])]
    all: bool,

    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let unparked = args.database.open().await?.unpark(&args.filter.filter()).await?;
    print(&if json {
        json!({ "database": shown, "unparked": unparked }).to_string()
    } else if unparked == 0 {
        format!("{shown}: nothing that fits waits for a time; `cqrs outbox parked` shows what stands aside")
    } else {
        format!("{shown}: {} tried again with the relays' next heartbeat", counted(unparked, "key"))
    })
}
