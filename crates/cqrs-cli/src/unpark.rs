//! `cqrs outbox unpark`

use cqrs::without_password;
use cqrs_outbox_diesel::ParkedFilter;
use serde_json::json;
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::Key;
use crate::target::PatientDatabaseArgs;
use crate::{counted, print};

const AFTER: &str = "\
For when what was wrong is mended: an event that the broker refused waits longer after each refusal, and this ends that wait. It is about
all that waits with it for the same key, in their order. If it is refused again that is one more attempt. What waits for a dead letter
goes on waiting: `cqrs dead replay` or `cqrs dead discard` ends that.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
#[group(required = true, multiple = true)]
pub(crate) struct Which {
    /// For this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this key, as text or as hex:00ff..
    #[arg(long)]
    key: Option<Key>,
    /// This event
    #[arg(long, value_name = "ID")]
    event_id: Option<Uuid>,
    /// All of them
    #[arg(long, conflicts_with_all = ["topic", "key", "event_id"])]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    database: PatientDatabaseArgs,
}

impl Which {
    fn filter(&self) -> ParkedFilter {
        let filter = self.topic.iter().fold(ParkedFilter::new(), ParkedFilter::topic);
        let filter = self.key.iter().fold(filter, |filter, key| filter.key(key.0.clone()));
        self.event_id.iter().fold(filter, |filter, id| filter.event_id(*id))
    }
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let unparked = args.database.open().await?.unpark(&args.which.filter()).await?;
    print(&if json {
        json!({ "database": shown, "unparked": unparked }).to_string()
    } else if unparked == 0 {
        format!("{shown}: nothing that fits waits for a time; `cqrs outbox status` shows what waits")
    } else {
        format!("{shown}: {} tried again with the relays' next heartbeat", counted(unparked, "key"))
    })
}
