//! `cqrs scheduled`: the events that wait for their time.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Subcommand};
use cqrs::{Deliver, ScheduleChange};
use cqrs_outbox_diesel::{ScheduleFilter, ScheduledEvent};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::{self, Key, visible};
use crate::message::{self, Rows, Wrong};
use crate::settings::Span;
use crate::target::PatientDatabaseArgs;
use crate::{counted, print, tell, time};

const TIMES: &str = "\
A key is written as text, or as hex:00ff.. where it is no text. A time is one of RFC 3339, such as 2026-01-31T08:00:00Z.";

const EXAMPLES: &str = "\
What a relay has taken up is not changed any more. `cqrs outbox edit` changes what is to be sent.

  cqrs scheduled reschedule 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11 --at 2026-01-31T08:00:00Z
  cqrs scheduled reschedule 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11 --after 2h";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists them, the next one first
    #[command(after_help = TIMES)]
    List(ListArgs),
    /// Shows one, with what is to be sent
    Show(EventArgs),
    /// Takes one back: it is not sent, and its deduplication key is free
    Cancel(EventArgs),
    /// Gives one another time
    #[command(after_help = EXAMPLES, group = ArgGroup::new("when").required(true).args(["at", "after"]))]
    Reschedule(RescheduleArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: PatientDatabaseArgs,

    /// For this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this key
    #[arg(long)]
    key: Option<Key>,
    /// With this name
    #[arg(long)]
    name: Option<String>,
    /// Due before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<DateTime<Utc>>,
    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventArgs {
    /// The event's id
    event_id: Uuid,
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RescheduleArgs {
    #[command(flatten)]
    event: EventArgs,

    /// Sends it at this time; one that is past is now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<DateTime<Utc>>,
    /// Sends it so long from now, by this machine's clock
    #[arg(long, value_name = "TIME")]
    after: Option<Span>,
}

fn moment(text: &str) -> Result<DateTime<Utc>, &'static str> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| "write a time such as 2026-01-31T08:00:00Z")?;
    Ok(time.with_timezone(&Utc))
}

pub(crate) async fn run(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, json).await,
        Command::Show(args) => show(args, json).await,
        Command::Cancel(args) => cancel(args, json).await,
        Command::Reschedule(args) => reschedule(args, json).await,
    }
}

async fn list(args: ListArgs, json: bool) -> Result<(), Failure> {
    // One more, to know whether there are more.
    let mut filter = ScheduleFilter::default().limit(args.limit as usize + 1);
    if let Some(topic) = args.topic {
        filter = filter.topic(topic);
    }
    if let Some(key) = args.key {
        filter = filter.key(key.0);
    }
    if let Some(name) = args.name {
        filter = filter.name(name);
    }
    if let Some(before) = args.before {
        filter = filter.before(before);
    }
    let mut events = args.database.open().await?.scheduled(&filter).await?;
    let more = events.len() > args.limit as usize;
    events.truncate(args.limit as usize);
    for event in &events {
        print(&if json { as_json(event).to_string() } else { for_people(event) })?;
    }
    match (json, more) {
        (true, false) => Ok(()),
        (true, true) => {
            tell(&json!({ "more": true }).to_string());
            Ok(())
        }
        (_, true) => {
            print(&format!("{}, and there are more: --limit shows them", counted(events.len(), "event")))
        }
        (_, false) => print(&counted(events.len(), "event")),
    }
}

async fn show(args: EventArgs, json: bool) -> Result<(), Failure> {
    let filter = ScheduleFilter::default().event_id(args.event_id).limit(1);
    let Some(event) = args.database.open().await?.scheduled(&filter).await?.pop() else {
        return Err(too_late(args.event_id, "show"));
    };
    let wrong =
        Wrong { defect: event.defect.as_deref(), unreadable_headers: event.unreadable_headers.as_ref() };
    if json {
        let mut all = as_json(&event);
        message::add(&mut all, &event.message, &wrong);
        return print(&all.to_string());
    }
    let mut rows = Rows::default();
    rows.row("event", &event.event_id.to_string());
    rows.row("name", &event.message.name);
    rows.row("topic", &event.message.topic);
    rows.row("key", &key::shown(event.message.key.as_ref()).unwrap_or_else(|| "none".to_owned()));
    rows.row("occurred", &event.message.timestamp.map_or("not known".to_owned(), time));
    rows.row("due", &time(event.deliver_at));
    print(&rows.above(&event.message, &wrong))
}

async fn cancel(args: EventArgs, json: bool) -> Result<(), Failure> {
    match args.database.open().await?.cancel(args.event_id).await? {
        ScheduleChange::TooLate => Err(too_late(args.event_id, "cancel")),
        ScheduleChange::Done if json => {
            print(&json!({ "event_id": args.event_id.to_string(), "cancelled": true }).to_string())
        }
        ScheduleChange::Done => print(&format!("the event {} is cancelled", args.event_id)),
    }
}

async fn reschedule(args: RescheduleArgs, json: bool) -> Result<(), Failure> {
    let EventArgs { event_id, database } = args.event;
    let after =
        || TimeDelta::from_std(args.after?.0).ok().and_then(|after| Utc::now().checked_add_signed(after));
    let Some(at) = args.at.or_else(after) else {
        return Err(Failure::usage("that is too long: there is no such time"));
    };
    Deliver::At(at).check().map_err(|error| Failure::usage(error.to_string()))?;
    match database.open().await?.reschedule(event_id, at).await? {
        ScheduleChange::TooLate => Err(too_late(event_id, "give another time to")),
        ScheduleChange::Done if json => {
            print(&json!({ "event_id": event_id.to_string(), "deliver_at": time(at) }).to_string())
        }
        ScheduleChange::Done if at <= Utc::now() => print(&format!("the event {event_id} is due now")),
        ScheduleChange::Done => print(&format!("the event {event_id} is due at {}", time(at))),
    }
}

fn too_late(event_id: Uuid, verb: &str) -> Failure {
    Failure::nothing(format!(
        "no event with the id {event_id} waits for its time: a relay has taken it up, it was cancelled, or it never was scheduled. Nothing to {verb}"
    ))
}

fn as_json(event: &ScheduledEvent) -> Value {
    json!({
        "event_id": event.event_id.to_string(),
        "name": event.message.name,
        "topic": event.message.topic,
        "key": key::shown(event.message.key.as_ref()),
        "occurred_at": event.message.timestamp.map(time),
        "deliver_at": time(event.deliver_at),
    })
}

fn for_people(event: &ScheduledEvent) -> String {
    format!(
        "{}  {}  {} for {}, {}",
        time(event.deliver_at),
        event.event_id,
        visible(&event.message.name),
        visible(&event.message.topic),
        key::for_people(event.message.key.as_ref()),
    )
}
