//! `cqrs outbox status`

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cqrs::without_password;
use cqrs_outbox_diesel::{GateStatus, OutboxStatus};
use serde_json::json;

use crate::failure::Failure;
use crate::key::{Key, visible};
use crate::order_unit::for_people;
use crate::target::PatientDatabaseArgs;
use crate::{counted, print};

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
                "suspended": relay
                    .suspended
                    .iter()
                    .map(|one| json!({ "topic": one.topic, "error": one.error }))
                    .collect::<Vec<_>>(),
            })
        })
        .collect();
    let gates: Vec<_> = status
        .gates
        .iter()
        .map(|gate| {
            json!({
                "topic": gate.lane.topic(),
                "key": key(gate),
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
        "installation_id": status.installation_id.to_string(),
        "order_unit": status.order_unit.as_str(),
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
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<14} {value}");
        let oldest = match status.oldest_waiting {
            Some(age) => format!(", the oldest for {}", rounded(age)),
            None => String::new(),
        };
        row(f, "waiting", format!("{}{oldest}", counted(status.waiting, "event")))?;
        let (parked, gates) = (counted(status.parked, "event"), counted(status.closed_gates, "closed gate"));
        row(f, "of them parked", format!("{parked} behind {gates}"))?;
        row(f, "scheduled", counted(status.scheduled, "event"))?;
        row(f, "dead letters", counted(status.dead_letters, "event"))?;
        row(f, "groups", format!("{}, {} of them without an owner", status.groups, status.unowned_groups))?;
        row(f, "hold", if status.hold { "yes: nothing is relayed" } else { "no" }.to_owned())?;
        row(f, "in order", for_people(status.order_unit).to_owned())?;
        row(f, "tables", format!("version {}", status.schema_version))?;
        row(f, "installation", status.installation_id.to_string())?;
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
                "\n    {:<24} {:>10}, seen {} ago, version {}",
                visible(&relay.name),
                counted(relay.owned_groups, "group"),
                rounded(relay.seen),
                relay.version
            )?;
            for one in &relay.suspended {
                let error = one.error.lines().next().unwrap_or_default();
                write!(f, "\n      cannot reach the topic {}: {}", visible(&one.topic), visible(error))?;
            }
        }
        Ok(())
    }
}

/// A lane is that of a key, or of an event by itself.
fn key(gate: &GateStatus) -> Option<String> {
    gate.lane.key().map(|key| Key(Bytes::copy_from_slice(key)).to_string())
}

/// On one line: which lane, until when, and why.
struct Gate<'a>(&'a GateStatus);

impl fmt::Display for Gate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match key(self.0) {
            Some(key) => write!(f, "key {}", visible(&key))?,
            None => write!(f, "no key")?,
        }
        if let Some(topic) = self.0.lane.topic() {
            write!(f, " on {}", visible(topic))?;
        }
        match self.0.opens_in {
            Some(wait) if wait.is_zero() => write!(f, ", due")?,
            Some(wait) => write!(f, ", opens in {}", rounded(wait))?,
            None => write!(f, ", waits for somebody to act")?,
        }
        match &self.0.error {
            Some(error) => write!(f, ": {}", visible(error.lines().next().unwrap_or_default())),
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
