//! `cqrs dead`: the events that were given up.

mod ask;
mod show;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use cqrs_outbox_diesel::{DeadLetterFilter, RequestKind};
use uuid::Uuid;

use crate::failure::Failure;
use crate::key::Key;
use crate::page::{self, PageArgs};
use crate::print;
use crate::settings::Span;
use crate::target::PatientDatabaseArgs;

const KEYS: &str = "\
A key is written as text, or as hex:00ff.. where it is no text. A time is one of RFC 3339, such as 2026-01-31T08:00:00Z, or
how long ago it was, such as 2h.";

fn asking(verb: &str) -> String {
    format!(
        "\
{KEYS}

It is the relays that do it, each with its heartbeats: `cqrs dead requests` says what became of it.

  cqrs dead {verb} 0197a0c4-5f6e-7cc1-b7a6-0c0f8f3a2b11
  cqrs dead {verb} --topic orders --since 2h --dry-run
  cqrs dead {verb} --key customer-17 --rate 20 --yes"
    )
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists dead letters, a page of them
    #[command(after_help = KEYS)]
    List(ListArgs),
    /// Says how many there are
    #[command(after_help = KEYS)]
    Count(CountArgs),
    /// Shows one: what was to be sent, and every refusal
    Show(ShowArgs),
    /// Asks for dead letters to be sent again, those of a key in their order
    #[command(after_help = asking("replay"))]
    Replay(ask::Args),
    /// Asks for dead letters to be dropped, so that the later events of their keys go on
    #[command(after_help = asking("discard"))]
    Discard(ask::Args),
    /// Lists what was asked for, by whom, and what became of it
    Requests(ask::RequestsArgs),
    /// Takes back what was asked for, as far as no relay has begun it
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Cancel(ask::CancelArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    database: PatientDatabaseArgs,
    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CountArgs {
    #[command(flatten)]
    database: PatientDatabaseArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The event's id
    event_id: Uuid,
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which dead letters")]
pub(crate) struct FilterArgs {
    /// Of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this key
    #[arg(long)]
    key: Option<Key>,
    /// Of events with this name
    #[arg(long)]
    name: Option<String>,
    /// Of this event
    #[arg(long, value_name = "ID")]
    event_id: Option<Uuid>,
    /// Given up at this time or later
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Given up before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

impl FilterArgs {
    fn filter(&self) -> DeadLetterFilter {
        let mut filter = DeadLetterFilter::new();
        if let Some(topic) = &self.topic {
            filter = filter.topic(topic);
        }
        if let Some(key) = &self.key {
            filter = filter.key(key.0.clone());
        }
        if let Some(name) = &self.name {
            filter = filter.name(name);
        }
        if let Some(event_id) = self.event_id {
            filter = filter.event_id(event_id);
        }
        if let Some(since) = self.since {
            filter = filter.since(since.0);
        }
        if let Some(until) = self.until {
            filter = filter.until(until.0);
        }
        filter
    }
}

/// A time, or how long ago it was.
#[derive(Clone, Copy, Debug)]
struct Moment(DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self(time.with_timezone(&Utc)));
        }
        let ago = Span::from_str(text)
            .ok()
            .and_then(|ago| Utc::now().checked_sub_signed(chrono::TimeDelta::from_std(ago.0).ok()?));
        ago.map(Self).ok_or_else(|| {
            "write a time such as 2026-01-31T08:00:00Z, or how long ago it was, such as 2h".to_owned()
        })
    }
}

pub(crate) async fn run(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, json).await,
        Command::Count(args) => count(args, json).await,
        Command::Show(args) => show(args, json).await,
        Command::Replay(args) => ask::run(RequestKind::Replay, args, json).await,
        Command::Discard(args) => ask::run(RequestKind::Discard, args, json).await,
        Command::Requests(args) => ask::requests(args, json).await,
        Command::Cancel(args) => ask::cancel(args, json).await,
    }
}

async fn list(args: ListArgs, json: bool) -> Result<(), Failure> {
    let database = args.database.open().await?;
    let mut letters = database.dead_letters(&args.filter.filter(), args.page.page()).await?;
    let more = args.page.cut(&mut letters);
    for letter in &letters {
        print(&if json { show::as_json(letter).to_string() } else { show::for_people(letter) })?;
    }
    page::ended(&letters, more, |last| last.id, "dead letter", json)
}

async fn count(args: CountArgs, json: bool) -> Result<(), Failure> {
    let count = args.database.open().await?.count_dead_letters(&args.filter.filter()).await?;
    print(&if json { serde_json::json!({ "dead_letters": count }).to_string() } else { count.to_string() })
}

async fn show(args: ShowArgs, json: bool) -> Result<(), Failure> {
    match args.database.open().await?.dead_letter(args.event_id).await? {
        Some(details) if json => print(&show::details_as_json(&details).to_string()),
        Some(details) => print(&show::details_for_people(&details)),
        None => Err(Failure::nothing(format!("there is no dead letter with the id {}", args.event_id))),
    }
}
