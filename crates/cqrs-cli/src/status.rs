//! `cqrs outbox status`

use std::fmt;
use std::time::Duration;

use cqrs::without_password;
use cqrs_outbox_diesel::OutboxStatus;
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
    json!({
        "database": database,
        "schema_version": status.schema_version,
        "min_reader_version": status.min_reader_version,
        "hold": status.hold,
        "waiting": status.waiting,
        "oldest_waiting_seconds": status.oldest_waiting.map(|age| age.as_secs_f64()),
        "parked": status.parked,
        "closed_gates": status.closed_gates,
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
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<14} {value}");
        row("waiting", format!("{} events{oldest}", status.waiting))?;
        row("parked", format!("{} events behind {} closed gates", status.parked, status.closed_gates))?;
        row("scheduled", format!("{} events", status.scheduled))?;
        row("dead letters", format!("{} events", status.dead_letters))?;
        row("groups", format!("{}, {} of them without an owner", status.groups, status.unowned_groups))?;
        row("hold", if status.hold { "yes: nothing is relayed" } else { "no" }.to_owned())?;
        row("tables", format!("version {}", status.schema_version))?;
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

/// To the second, or to the millisecond if it is less than ten.
fn rounded(age: Duration) -> humantime::FormattedDuration {
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(if millis < 10_000 {
        Duration::from_millis(millis)
    } else {
        Duration::from_secs(millis / 1_000)
    })
}
