//! `cqrs dead replay`, `discard` and `requests`.

use std::io::{self, IsTerminal, Write};

use cqrs_outbox_diesel::{
    Asked, Asking, DeadLetterFilter, DeadLetterRequest, RequestFilter, RequestKind, ValueChange, ValueSummary,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{FilterArgs, show};
use crate::failure::Failure;
use crate::key::visible;
use crate::page::{self, PageArgs};
use crate::target::PatientDatabaseArgs;
use crate::{counted, print, time, user};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The event's id
    #[arg(conflicts_with_all = ["topic", "key", "name", "event_id", "since", "until", "all"])]
    event: Option<Uuid>,

    #[command(flatten)]
    database: PatientDatabaseArgs,
    #[command(flatten)]
    filter: FilterArgs,

    /// All of them
    #[arg(long, conflicts_with_all = ["topic", "key", "name", "event_id", "since", "until"])]
    all: bool,
    /// For so many at most, the oldest ones: for the same ones again, as long as no relay has done it, and those that were refused again
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// So many a second, on the average; without, all with the next heartbeats of the relays
    #[arg(long, value_name = "EVENTS")]
    rate: Option<f64>,
    /// Says which it would be, and asks for nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not ask back where more than one event is meant
    #[arg(short, long)]
    yes: bool,
    /// Who asks
    #[arg(long, value_name = "NAME", env = "CQRS_REQUESTED_BY")]
    requested_by: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RequestsArgs {
    #[command(flatten)]
    database: PatientDatabaseArgs,

    /// Only what is not done yet
    #[arg(long)]
    open: bool,
    /// About this event
    #[arg(long, value_name = "ID")]
    event_id: Option<Uuid>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The request's number, as `cqrs dead requests` shows it
    #[arg(group = "which")]
    number: Option<i64>,

    #[command(flatten)]
    database: PatientDatabaseArgs,

    /// All that was asked for this event
    #[arg(long, value_name = "ID", group = "which")]
    event_id: Option<Uuid>,
    /// All of them
    #[arg(long, group = "which")]
    all: bool,
}

fn done(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Replay => "replayed",
        _ => "discarded",
    }
}

pub(crate) async fn run(kind: RequestKind, args: Args, json: bool) -> Result<(), Failure> {
    let filter = match args.event {
        Some(event) => DeadLetterFilter::new().event_id(event),
        None => args.filter.filter(),
    };
    if args.event.is_none() && !args.all && filter == DeadLetterFilter::new() {
        return Err(Failure::usage("say which: an event's id, a filter such as --topic, or --all"));
    }
    let mut asking = Asking::new().limit(args.limit as usize);
    if let Some(rate) = args.rate {
        asking = asking.rate(rate);
    }
    if let Some(name) = args.requested_by.or_else(user) {
        asking = asking.requested_by(name);
    }
    let database = args.database.open().await?;
    let preview = database.ask(kind, &filter, &asking.clone().dry_run(true)).await?;
    if let (Some(event), []) = (args.event.or(args.filter.event_id), &preview.letters[..]) {
        let what = format!("there is no dead letter with the id {event}: nothing to {}", kind.as_str());
        return Err(Failure::nothing(what));
    }
    if !json {
        tell_open(&preview.open)?;
    }
    if args.dry_run {
        return report(kind, &preview, true, json);
    }
    if preview.letters.len() > 1 && !args.yes && !confirmed(kind, preview.letters.len())? {
        return Err(Failure::nothing("nothing was asked for"));
    }
    // For those that were shown or counted, not for what has come meanwhile.
    database.ask_for(kind, &preview.letters, &asking).await?;
    report(kind, &preview, false, json)
}

/// Asks the one who sits there, if somebody does.
fn confirmed(kind: RequestKind, count: usize) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let what = format!("{count} events would be {}: say --yes, or look with --dry-run first", done(kind));
        return Err(Failure::usage(what));
    }
    let mut err = io::stderr().lock();
    write!(err, "{count} events are to be {}. Go on? [y/N] ", done(kind))?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn report(kind: RequestKind, asked: &Asked, dry_run: bool, json: bool) -> Result<(), Failure> {
    let Asked { letters, more, open, .. } = asked;
    if json {
        let ids: Vec<_> = letters.iter().map(|letter| letter.event_id.to_string()).collect();
        let said = json!({
            "request": kind.as_str(), "dry_run": dry_run, "dead_letters": ids.len(), "more": more, "event_ids": ids,
            "open_before": open.iter().map(as_json).collect::<Vec<_>>(),
        });
        return print(&said.to_string());
    }
    if dry_run {
        for letter in letters {
            print(&show::for_people(letter))?;
        }
    }
    let (none, count) = (letters.is_empty(), counted(letters.len(), "dead letter"));
    let be = if letters.len() == 1 { "is" } else { "are" };
    let more = match *more {
        true => {
            ", and there are more behind them (--limit), of which it is the turn when these are none any more"
        }
        false => "",
    };
    print(&match (none, dry_run) {
        (true, _) => format!("{count} to be {}", done(kind)),
        (_, true) => format!("{count} would be {}{more}", done(kind)),
        (_, false) => format!(
            "{count} {be} to be {}{more}: the relays do it, `cqrs dead requests` says what became of it",
            done(kind)
        ),
    })
}

/// Before anyone is asked whether to go on.
fn tell_open(open: &[DeadLetterRequest]) -> Result<(), Failure> {
    match open {
        [] => Ok(()),
        [one] => {
            print(&format!("open before, and the first that is due counts: {}", for_people(one)))?;
            print(&format!("if it is not meant any more: cqrs dead cancel {}", one.id))
        }
        several => print(&format!(
            "{} for them were open before, and the first that is due counts: `cqrs dead requests --open` has them, \
             `cqrs dead cancel` takes them back",
            counted(several.len(), "request")
        )),
    }
}

pub(crate) async fn requests(args: RequestsArgs, json: bool) -> Result<(), Failure> {
    let mut filter = RequestFilter::new();
    if args.open {
        filter = filter.open();
    }
    if let Some(event_id) = args.event_id {
        filter = filter.event_id(event_id);
    }
    let mut requests = args.database.open().await?.requests(&filter, args.page.page()).await?;
    let more = args.page.cut(&mut requests);
    for request in &requests {
        print(&if json { as_json(request).to_string() } else { for_people(request) + &changes(request) })?;
    }
    page::ended(&requests, more, |last| last.id, "request", json)
}

pub(crate) async fn cancel(args: CancelArgs, json: bool) -> Result<(), Failure> {
    let mut filter = RequestFilter::new();
    if let Some(number) = args.number {
        filter = filter.id(number);
    }
    if let Some(event_id) = args.event_id {
        filter = filter.event_id(event_id);
    }
    let cancelled = args.database.open().await?.cancel_requests(&filter).await?;
    let which = match (args.number, args.event_id) {
        (Some(number), _) => Some(format!("with the number {number}")),
        (_, Some(event_id)) => Some(format!("about the event {event_id}")),
        _ => None,
    };
    if let (0, Some(which)) = (cancelled, which) {
        let what = format!("there is no open request {which}: it is done, or there never was one");
        return Err(Failure::nothing(what));
    }
    print(&if json {
        json!({ "cancelled": cancelled }).to_string()
    } else {
        format!("{} cancelled", counted(cancelled, "request"))
    })
}

fn as_json(request: &DeadLetterRequest) -> Value {
    json!({
        "id": request.id,
        "request": request.kind.as_str(),
        "event_id": request.event_id.to_string(),
        "not_before": time(request.not_before),
        "requested_by": request.requested_by,
        "requested_at": time(request.requested_at),
        "done_at": request.done.map(|(at, _)| time(at)),
        "outcome": request.done.map(|(_, outcome)| outcome.as_str()),
        "changes": request.changes,
    })
}

fn for_people(request: &DeadLetterRequest) -> String {
    let by = if request.requested_by.is_empty() { "nobody known" } else { &request.requested_by };
    let became = match request.done {
        Some((at, outcome)) => format!("{} at {}", outcome.as_str(), time(at)),
        None => format!("open, not before {}", time(request.not_before)),
    };
    format!(
        "{}  {}  {} {}, asked by {}: {became}",
        request.id,
        time(request.requested_at),
        request.kind.as_str(),
        request.event_id,
        visible(by),
    )
}

/// A line for each thing that an edit has changed.
fn changes(request: &DeadLetterRequest) -> String {
    let Some(changes) = &request.changes else { return String::new() };
    let mut lines = Vec::new();
    if let Some(payload) = &changes.payload {
        lines.push(format!("payload: {}", change(payload)));
    }
    if let Some(bytes) = changes.unreadable_headers {
        let now = if changes.headers.is_empty() { "none" } else { "those below" };
        lines.push(format!("headers that could not be read: {} -> {now}", counted(bytes, "byte")));
    }
    for header in &changes.headers {
        lines.push(format!("header {}: {}", visible(&header.name), change(&header.change)));
    }
    if changes.more_headers > 0 {
        lines.push(format!("and {}", counted(changes.more_headers, "more header")));
    }
    if changes.is_empty() {
        lines.push("nothing is different".to_owned());
    }
    lines.into_iter().map(|line| format!("\n    {line}")).collect()
}

fn change(change: &ValueChange) -> String {
    format!("{} -> {}", noted(change.before.as_ref()), noted(change.after.as_ref()))
}

fn noted(noted: Option<&ValueSummary>) -> String {
    match noted {
        None => "none".to_owned(),
        Some(ValueSummary { text: Some(text), .. }) => format!("`{}`", visible(text)),
        Some(ValueSummary { bytes, .. }) => counted(*bytes, "byte"),
    }
}
