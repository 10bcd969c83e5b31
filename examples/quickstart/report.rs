//! What a run has come to, for people and for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::audit::{Auditor, State};
use super::journal;
use crate::stopwatch::Stopwatch;

/// How many refusals are listed.
const MAX_LISTED: i64 = 50;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    input: String,
    commands: Commands,
    refusals: Vec<Refusal>,
    refused_by_kind: Vec<ByKind>,
    events: EventCounts,
    latency: Option<Latency>,
    seconds: f64,
    state: State,
    check: Check,
}

#[derive(Debug, Serialize)]
struct Commands {
    done: i64,
    refused: i64,
    queries_answered: i64,
    /// How many of these were executed by an earlier process, which did not come to the end.
    executed_earlier: i64,
}

#[derive(Debug, Serialize)]
struct Refusal {
    line: i64,
    kind: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct ByKind {
    kind: String,
    count: i64,
}

#[derive(Debug, Serialize)]
struct EventCounts {
    committed: i64,
    relayed: i64,
    consumed: i64,
    /// By this process.
    duplicates_dropped: u64,
}

/// From the commit of a command to the commit of what the second service made of its event.
#[derive(Debug, Serialize)]
struct Latency {
    events: usize,
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Check {
    holds: bool,
    differences: Vec<String>,
}

/// What the databases do not know.
pub(crate) struct Observed {
    pub(crate) input: String,
    pub(crate) executed_earlier: i64,
    pub(crate) duplicates_dropped: u64,
    pub(crate) stopwatch: Stopwatch,
    pub(crate) elapsed: Duration,
}

impl Report {
    /// Of a run that is over.
    pub(crate) async fn gather(observed: Observed, auditor: &mut Auditor) -> anyhow::Result<Self> {
        let events = auditor.events().await?;
        let mut differences = auditor.differences().await?;
        let state = auditor.state().await?;
        let conn = &mut auditor.rooms;
        let counts = journal::counts(conn).await?;
        let count =
            |wanted| counts.iter().find(|(outcome, _)| outcome == wanted).map_or(0, |(_, count)| *count);
        let commands = Commands {
            done: count("done"),
            refused: count("refused"),
            queries_answered: count("answered"),
            executed_earlier: observed.executed_earlier,
        };
        if !events.all_arrived() {
            let what =
                format!("{} events were committed, and {} consumed", events.committed, events.consumed);
            differences.push(what);
        }
        let refusals = journal::refusals(conn, MAX_LISTED).await?;
        Ok(Self {
            input: observed.input,
            commands,
            refusals: refusals
                .into_iter()
                .map(|(line, kind, reason)| Refusal { line, kind, reason })
                .collect(),
            refused_by_kind: journal::refused_by_kind(conn)
                .await?
                .into_iter()
                .map(|(kind, count)| ByKind { kind, count })
                .collect(),
            events: EventCounts {
                committed: events.committed,
                relayed: events.committed - events.waiting,
                consumed: events.consumed,
                duplicates_dropped: observed.duplicates_dropped,
            },
            latency: observed.stopwatch.percentiles().map(|(p50, p99, events)| Latency {
                events,
                p50_ms: milliseconds(p50),
                p99_ms: milliseconds(p99),
            }),
            seconds: milliseconds(observed.elapsed).round() / 1e3,
            state,
            check: Check { holds: differences.is_empty(), differences },
        })
    }

    /// Whether the second service knows exactly what the first one does.
    pub(crate) fn holds(&self) -> bool {
        self.check.holds
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commands, events, state, check, .. } = self;
        if !self.refusals.is_empty() {
            self.list_refusals(f)?;
        }
        writeln!(f, "{}\n", self.input)?;
        let mut row = |group: &str, name: &str, count: &dyn fmt::Display, unit: &str| {
            writeln!(f, "  {group:<10} {name:<20} {count:>9}{unit}")
        };
        row("commands", "done", &commands.done, "")?;
        row("", "refused", &commands.refused, "")?;
        row("queries", "answered", &commands.queries_answered, "")?;
        if commands.executed_earlier > 0 {
            row("", "of all these, before", &commands.executed_earlier, " by a process that was stopped")?;
        }
        row("events", "committed", &events.committed, "")?;
        row("", "relayed", &events.relayed, "")?;
        row("", "consumed", &events.consumed, "")?;
        row("", "duplicates dropped", &events.duplicates_dropped, "")?;
        if let Some(latency) = &self.latency {
            row("latency", "median", &format!("{:.2}", latency.p50_ms), " ms from commit to handled")?;
            row("", "99th percentile", &format!("{:.2}", latency.p99_ms), " ms")?;
        }
        row("time", "", &format!("{:.2}", self.seconds), " s")?;
        writeln!(f)?;
        if check.holds {
            write!(
                f,
                "The projection equals the source: {} rooms, {} of them open, {} participants.",
                state.rooms, state.open_rooms, state.participants
            )
        } else {
            write!(f, "The projection DIFFERS from the source:")?;
            check.differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
        }
    }
}

impl Report {
    fn list_refusals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Refused\n")?;
        for Refusal { line, kind, reason } in &self.refusals {
            writeln!(f, "  line {line:>6}   {kind:<14}   {reason}")?;
        }
        let more = self.commands.refused - i64::try_from(self.refusals.len()).unwrap_or(i64::MAX);
        if more > 0 {
            writeln!(f, "  and {more} more; all of them stand in the table `journal`. By reason:\n")?;
            for ByKind { kind, count } in &self.refused_by_kind {
                writeln!(f, "  {count:>11}   {kind}")?;
            }
        }
        writeln!(f)
    }
}
