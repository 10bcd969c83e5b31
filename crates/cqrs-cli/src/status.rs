//! `cqrs outbox status`

use std::fmt;
use std::time::Duration;

use cqrs::without_password;
use cqrs_outbox_diesel::{GateStatus, OutboxStatus};
use serde_json::json;

use crate::failure::Failure;
use crate::print;
use crate::target::PatientDatabaseArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: PatientDatabaseArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> Result<(), Failure> {
    let shown = without_password(&args.database.database.database);
    let status = args.database.connect(false).await?.status().await?;
    if json {
        print(&as_json(&shown, &status).to_string())
    } else {
        print(&format!("{shown}\n\n{}", ForPeople(&status)))
    }
}

fn as_json(database: &str, status: &OutboxStatus) -> serde_json::Value {
    let relays: Vec<_> = status
        .relays
        .iter()
        .map(|relay| {
            json!({
                "name": relay.name,
                "incarnation": relay.incarnation.to_string(),
                "version": relay.version,
                "owned_groups": relay.owned_groups,
                "seen_seconds_ago": relay.seen.as_secs_f64(),
            })
        })
        .collect();
    let gates: Vec<_> = status
        .gates
        .iter()
        .map(|gate| {
            json!({
                "lane": gate.lane.as_bytes().escape_ascii().to_string(),
                "opens_in_seconds": gate.opens_in.map(|wait| wait.as_secs_f64()),
                "error": gate.error,
                "closed_seconds_ago": gate.closed.as_secs_f64(),
            })
        })
        .collect();
    let snapshot = status
        .oldest_snapshot
        .as_ref()
        .map(|snapshot| json!({ "age_seconds": snapshot.age.as_secs_f64(), "holder": snapshot.holder }));
    json!({
        "database": database,
        "schema_version": status.schema_version,
        "min_reader_version": status.min_reader_version,
        "hold": status.hold,
        "waiting": status.waiting,
        "oldest_waiting_seconds": status.oldest_waiting.map(|age| age.as_secs_f64()),
        "parked": status.parked,
        "closed_gates": status.closed_gates,
        "gates": gates,
        "oldest_snapshot": snapshot,
        "scheduled": status.scheduled,
        "dead_letters": status.dead_letters,
        "groups": status.groups,
        "unowned_groups": status.unowned_groups,
        "relays": relays,
    })
}

struct ForPeople<'a>(&'a OutboxStatus);

impl fmt::Display for ForPeople<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        let oldest = match status.oldest_waiting {
            Some(age) => format!(", the oldest for {}", rounded(age)),
            None => String::new(),
        };
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<14} {value}");
        row(f, "waiting", format!("{} events{oldest}", status.waiting))?;
        row(f, "parked", format!("{} events behind {} closed gates", status.parked, status.closed_gates))?;
        row(f, "scheduled", format!("{} events", status.scheduled))?;
        row(f, "dead letters", format!("{} events", status.dead_letters))?;
        row(f, "groups", format!("{}, {} of them without an owner", status.groups, status.unowned_groups))?;
        row(f, "hold", if status.hold { "yes: nothing is relayed" } else { "no" }.to_owned())?;
        row(f, "tables", format!("version {}", status.schema_version))?;
        if let Some(snapshot) = &status.oldest_snapshot {
            row(f, "old snapshot", format!("{} old, of {}", rounded(snapshot.age), snapshot.holder))?;
        }
        if !status.gates.is_empty() {
            row(f, "closed first", String::new())?;
        }
        for gate in &status.gates {
            writeln!(f, "    {}", Gate(gate))?;
        }
        if status.relays.is_empty() {
            return write!(f, "  {:<14} none is at work", "relays");
        }
        write!(f, "  {:<14} {} seen", "relays", status.relays.len())?;
        for relay in &status.relays {
            write!(
                f,
                "\n    {:<24} {:>4} groups, seen {} ago, version {}",
                relay.name,
                relay.owned_groups,
                rounded(relay.seen),
                relay.version
            )?;
        }
        Ok(())
    }
}

/// On one line: which lane, until when, and why.
struct Gate<'a>(&'a GateStatus);

impl fmt::Display for Gate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A lane is that of a key, or of an event by itself; the first byte tells.
        match self.0.lane.as_bytes().split_first() {
            Some((b'k', key)) => write!(f, "key {}", key.escape_ascii())?,
            _ => write!(f, "an event without a key")?,
        }
        match self.0.opens_in {
            Some(wait) if wait.is_zero() => write!(f, ", due")?,
            Some(wait) => write!(f, ", opens in {}", rounded(wait))?,
            None => write!(f, ", waits for somebody to act")?,
        }
        match &self.0.error {
            Some(error) => write!(f, ": {}", error.lines().next().unwrap_or_default()),
            None => Ok(()),
        }
    }
}

/// To the second, or to the millisecond if it is less than ten.
fn rounded(age: Duration) -> humantime::FormattedDuration {
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(if millis < 10_000 {
        Duration::from_millis(millis)
    } else {
        Duration::from_secs(millis / 1_000)
    })
}
