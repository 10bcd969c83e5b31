//! Commands become events, and another service handles each of them once.
//!
//! Two services in one process: [`rooms`] executes commands and keeps its state, its journal and its outbox in one SQLite
//! file; a relay takes the events to a broker; [`attendance`] keeps a projection of them in a file of its own, behind an
//! inbox. In the end the two are compared. `--help` says more.
//!
//! Read [`domain`], [`rooms`] and [`attendance`] first: they are what services consist of. The other modules make a
//! program of them that can be killed and started again.

mod attendance;
mod audit;
mod domain;
mod input;
mod interrupt;
mod job;
mod journal;
mod progress;
mod report;
mod rooms;
mod stopwatch;
mod storage;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use cqrs::broker::memory::MemoryBroker;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::input::{Input, Source};
use crate::interrupt::Interrupt;
use crate::job::{End, Job};
use crate::progress::Progress;
use crate::report::{Observed, Report};
use crate::stopwatch::Stopwatch;
use crate::storage::Storage;

const EXAMPLES: &str = r#"What a line looks like:
  {"command":"open_room","room":"r-1","title":"Stand-up","seats":4}
  {"command":"join_meeting","room":"r-1","user":"ada"}
  {"command":"leave_meeting","room":"r-1","user":"ada"}
  {"command":"read_meeting","room":"r-1"}
  {"command":"close_room","room":"r-1"}
Blank lines are skipped. A line that is none of these is refused, with its number and the
reason, like a command that cannot be carried out; neither stops the run.

Things to try:
  cargo run --example quickstart
  cargo run --example quickstart -- -v --redeliver-every 3
  echo '{"command":"close_room","room":"r-9"}' | cargo run --example quickstart -- -
  kill it in the middle (kill -9), start it again with the same input, look at the check

Exit codes:
  0    every event arrived, and the projection equals the source
  1    it does not, or something broke on the way
  2    wrong arguments, unreadable input, or a database that cannot be used
  130  stopped by Ctrl-C"#;

/// Executes commands about meeting rooms, and checks that a second service hears of each exactly once.
///
/// Commands come as JSON lines. Each is sent through a mediator to its handler, which changes
/// an SQLite database and says what happened; both are committed in one transaction. A relay
/// takes the events from this outbox to a broker, here one in memory. A second service handles
/// them and keeps a projection in a database of its own; its inbox drops what is delivered
/// twice. In the end both databases are compared.
///
/// Nothing is lost when the process is killed, whatever the moment: start it again with the
/// same input, and it goes on behind the last line that was committed.
#[derive(Debug, Parser)]
#[command(name = "quickstart", verbatim_doc_comment, after_long_help = EXAMPLES)]
struct Args {
    /// The commands, one JSON object on each line; `-` is standard input.
    /// Default: the file that ships with this example
    #[arg(verbatim_doc_comment)]
    file: Option<Source>,

    /// The SQLite file of the first service. That of the second one stands beside it, for
    /// example `quickstart.projection.sqlite`
    #[arg(long, verbatim_doc_comment, value_name = "FILE", default_value = "quickstart.sqlite", value_parser = sqlite_file)]
    database: PathBuf,

    /// Forgets an unfinished run, and begins anew; a finished one is forgotten without it
    #[arg(long)]
    fresh: bool,

    /// The broker delivers every N-th message twice, for the inbox to drop; 0: none
    #[arg(long, value_name = "N", default_value_t = 20)]
    redeliver_every: usize,

    /// How long to wait for events, after the last command, when none arrives any more
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,

    /// Prints the summary as JSON
    #[arg(long)]
    json: bool,

    /// Logs to standard error; -vv logs more, and RUST_LOG chooses
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn sqlite_file(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("sqlite://").unwrap_or(text);
    if path.contains("://") || path.contains(":memory:") || PathBuf::from(path).file_name().is_none() {
        return Err("this example knows only an SQLite file: give it a path, such as rooms.sqlite".to_owned());
    }
    Ok(path.into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a number of seconds".into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr(args.verbose);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(1, &error.into()),
    };
    let code = runtime.block_on(async {
        match prepare(&args).await {
            Ok((input, storage)) => {
                run(&args, input, storage).await.unwrap_or_else(|error| failed(1, &error))
            }
            Err(error) => failed(2, &error),
        }
    });
    // Does not wait for a read from a terminal, which nothing can end but a line.
    runtime.shutdown_background();
    code
}

fn failed(code: u8, error: &anyhow::Error) -> ExitCode {
    say(&format!("error: {error:#}"));
    code.into()
}

/// For people, beside the summary. There is nobody to tell if this fails.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        // A refused command is no news: it stands in the summary.
        0 => "warn,cqrs_core::middleware=off",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// Opens everything, and finds the place in the input where an earlier process was stopped.
async fn prepare(args: &Args) -> anyhow::Result<(Input, Storage)> {
    let source = args.file.clone().unwrap_or_else(Source::shipped);
    let mut input = Input::open(source).await?;
    let storage = Storage::open(&args.database, args.fresh).await?;
    if let Some(done) = storage.resumed
        && !input.skip_to(done).await?
    {
        bail!(
            "{} holds an unfinished run of other input, executed up to line {}: finish that first, or forget it with \
             --fresh",
            args.database.display(),
            done.line
        );
    }
    Ok((input, storage))
}

async fn run(args: &Args, mut input: Input, storage: Storage) -> anyhow::Result<ExitCode> {
    // A message is confirmed to the relay when the second service has committed what it made of it, and until then it
    // stays in the outbox. With the default, which confirms what is in memory, a kill would lose what was there.
    let broker = Arc::new(MemoryBroker::builder().confirm_after_handling().build());
    broker.faults().duplicate_every(args.redeliver_every);

    if let Some(done) = storage.resumed {
        say(&format!("going on behind line {}, where an earlier process was stopped", done.line));
    }
    let stopwatch = Stopwatch::default();
    let rooms = rooms::service(storage.rooms.clone(), storage.reader().await?, Arc::clone(&broker)).await?;
    let attendance = attendance::service(storage.projection.clone(), broker, stopwatch.clone()).await?;
    let mut auditor = storage.reader_of_both().await?;
    let executed_earlier = journal::count(&mut auditor).await?;
    let started = Instant::now();

    let mut job = Job {
        rooms: &rooms,
        storage: &storage,
        stopwatch: &stopwatch,
        interrupt: Interrupt::listen(),
        progress: Progress::new(&input, args.verbose > 0),
        timeout: args.timeout,
    };
    // The first service runs until the job is done, and the second one until the first has stopped: its relay finishes
    // what is under way, and that has to be handled.
    let mut end = None;
    let (no_more_events, drained) = oneshot::channel::<()>();
    tokio::try_join!(
        async {
            rooms.run_until(async { end = Some(job.run(&mut input, &mut auditor).await) }).await?;
            drop(no_more_events);
            anyhow::Ok(())
        },
        async { Ok(attendance.run_until(async { drop(drained.await) }).await?) },
    )?;

    match end.context("the relay ended before the work was done")?? {
        End::Interrupted => {
            let line = journal::last(&mut auditor).await?.map_or(0, |place| place.line);
            say(&format!(
                "stopped behind line {line} of {}; nothing is lost: start again with the same input and --database {} \
                 to go on",
                input.name(),
                args.database.display()
            ));
            Ok(ExitCode::from(130))
        }
        End::Finished => {
            storage.finish().await?;
            let observed = Observed {
                input: input.name(),
                executed_earlier,
                duplicates_dropped: attendance.consumer_stats().duplicates,
                elapsed: started.elapsed(),
                stopwatch,
            };
            let report = Report::gather(observed, &mut auditor).await?;
            print(&report, args.json)?;
            Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(report)? } else { report.to_string() };
    match writeln!(io::stdout(), "{text}") {
        // As in `quickstart | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
