//! `cqrs outbox parked`

use cqrs_outbox_diesel::{ParkedEvent, ParkedFilter};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::{self, Key, visible};
use crate::page::{self, PageArgs};
use crate::target::PatientDatabaseArgs;
use crate::{counted, print, time};

const AFTER: &str = "\
What was refused stands aside until it is tried again, and so may what is replayed, or is for a topic that cannot be reached; with it
stand the later events of its key. Without an error an event only waits behind another one. Where it says that a dead letter is waited for,
`cqrs dead replay` or `cqrs dead discard` ends that; any other wait is ended by `cqrs outbox unpark`.

  cqrs outbox parked --database postgres://app:secret@db/orders --oldest-first
  cqrs outbox parked --key customer-17 --json";

/// Which events of those that stand aside.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterArgs {
    /// For this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this key, as text or as hex:00ff..
    #[arg(long)]
    key: Option<Key>,
    /// This event
    #[arg(long, value_name = "ID")]
    event_id: Option<Uuid>,
}

impl FilterArgs {
    pub(crate) fn filter(&self) -> ParkedFilter {
        let filter = self.topic.iter().fold(ParkedFilter::new(), ParkedFilter::topic);
        let filter = self.key.iter().fold(filter, |filter, key| filter.key(key.0.clone()));
        self.event_id.iter().fold(filter, |filter, id| filter.event_id(*id))
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    page: PageArgs,

    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let mut events = args.database.open().await?.parked(&args.filter.filter(), args.page.page()).await?;
    let more = args.page.cut(&mut events);
    for event in &events {
        print(&if json { as_json(event).to_string() } else { for_people(event) })?;
    }
    page::ended(&events, more, |last| last.id, "event", json)
}

fn as_json(event: &ParkedEvent) -> Value {
    json!({
        "id": event.id,
        "event_id": event.event_id.to_string(),
        "name": event.name,
        "topic": event.topic,
        "key": key::shown(event.key.as_ref()),
        "attempts": event.attempts,
        "size": event.size,
        "error": event.error,
        "occurred_at": event.occurred_at.map(time),
        "parked_at": time(event.parked_at),
        "tried_again_at": event.tried_again_at.map(time),
    })
}

fn for_people(event: &ParkedEvent) -> String {
    let until = event
        .tried_again_at
        .map_or("waits for a dead letter".to_owned(), |at| format!("tried again at {}", time(at)));
    let error = event.error.as_deref().unwrap_or("waits behind another one");
    format!(
        "{}  {}  {}  {} for {}, {}, {}, {until}\n    {}",
        event.id,
        time(event.parked_at),
        event.event_id,
        visible(&event.name),
        visible(&event.topic),
        key::for_people(event.key.as_ref()),
        counted(event.attempts, "attempt"),
        visible(error),
    )
}
