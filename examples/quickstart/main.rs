//! Commands become events, and another service handles each of them once.
//!
//! Two services in one process: `rooms` executes commands and keeps its state, its journal and its outbox in one database; a
//! relay takes the events to a broker; `attendance` keeps a projection of them in a database of its own, behind an inbox. In the
//! end the two are compared. `--help` says more.
//!
//! Read `domain.rs`, `rooms.rs` and `attendance.rs` first: they are what services consist of. The other modules make a program
//! of them that can be killed and started again, on any of three databases: each of the folders `sqlite`, `postgres` and `mysql`
//! says which one `Db` is, and takes the same files for the rest.

// That is how one file serves several databases; a service of yours has one.
#![allow(clippy::duplicate_mod)]

mod broker;
mod domain;
mod input;
mod interrupt;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod progress;
mod sqlite;
mod stopwatch;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::input::{Input, Source};

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

On servers of yours (features: postgres, mysql, kafka, amqp):
  cargo run --example quickstart --features postgres,kafka -- \
      --database postgres://user:password@localhost/meetings --broker kafka://localhost:9092
  cargo run --example quickstart --features mysql,amqp -- \
      --database mysql://user:password@localhost/meetings --broker amqp://guest:guest@localhost
The second service's database is made beside the first, here meetings_projection, and either is
made if it does not exist. A database that holds anything else is left as it is. Each run has a
topic of its own on the broker, quickstart-<run>.meeting_rooms; delete it when you are done.

Exit codes:
  0    every event arrived, and the projection equals the source
  1    it does not, or something broke on the way
  2    wrong arguments, unreadable input, or a database or broker that cannot be used
  130  stopped by Ctrl-C"#;

/// Executes commands about meeting rooms, and checks that a second service hears of each exactly once.
///
/// Commands come as JSON lines. Each is sent through a mediator to its handler, which changes
/// a database and says what happened; both are committed in one transaction. A relay takes the
/// events from this outbox to a broker. A second service handles them and keeps a projection in
/// a database of its own; its inbox drops what is delivered twice. In the end both databases are
/// compared. Unless you say otherwise, the databases are SQLite files, and the broker is in
/// memory: there is nothing to install.
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

    /// The database of the first service: an SQLite file, for example quickstart.sqlite, or a URL,
    /// postgres://.. or mysql://... That of the second one stands beside it, for example
    /// quickstart.projection.sqlite
    #[arg(long, verbatim_doc_comment, value_name = "FILE|URL", default_value = "quickstart.sqlite", value_parser = database)]
    database: String,

    /// The broker: memory://, kafka://host:port or amqp://user:password@host:port
    #[arg(long, value_name = "URL", default_value = "memory://")]
    broker: String,

    /// Forgets an unfinished run, and begins anew; a finished one is forgotten without it
    #[arg(long)]
    fresh: bool,

    /// The broker in memory delivers every N-th message twice, for the inbox to drop; 0: none
    /// [default: 20]
    #[arg(long, verbatim_doc_comment, value_name = "N")]
    redeliver_every: Option<usize>,

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

/// A kind of database that this program knows, whether it is compiled in or not.
fn database(text: &str) -> Result<String, String> {
    let file = text.strip_prefix("sqlite://").unwrap_or(text);
    let known = ["postgres://", "postgresql://", "mysql://", "mariadb://"];
    let usable = match file.split_once("://") {
        Some(_) => known.iter().any(|scheme| file.starts_with(scheme)),
        None => !file.contains(":memory:") && std::path::Path::new(file).file_name().is_some(),
    };
    if usable {
        Ok(text.to_owned())
    } else {
        Err("give it an SQLite file, such as rooms.sqlite, or a URL that begins with postgres:// or mysql://"
            .to_owned())
    }
}

impl Args {
    /// The database for people: without its password.
    fn database(&self) -> String {
        match self.database.split_once("://") {
            Some((scheme, _)) if scheme != "sqlite" => cqrs::without_password(&self.database),
            _ => self.database.clone(),
        }
    }
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
    let code = runtime.block_on(example(&args));
    // Does not wait for a read from a terminal, which nothing can end but a line.
    runtime.shutdown_background();
    code
}

/// Picks the database.
async fn example(args: &Args) -> ExitCode {
    let source = args.file.clone().unwrap_or_else(Source::shipped);
    let input = match Input::open(source).await {
        Ok(input) => input,
        Err(error) => return failed(2, &error),
    };
    match args.database.split_once("://").map(|(scheme, _)| scheme) {
        None | Some("sqlite") => sqlite::run::example(args, input).await,
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => postgres::run::example(args, input).await,
        #[cfg(feature = "mysql")]
        Some("mysql" | "mariadb") => mysql::run::example(args, input).await,
        Some(scheme) => {
            let feature = if scheme.starts_with("postgres") { "postgres" } else { "mysql" };
            failed(2, &anyhow::anyhow!("`{scheme}://` is not compiled in: {}", with_feature(feature)))
        }
    }
}

fn with_feature(feature: &str) -> String {
    format!("run it with `cargo run --example quickstart --features {feature} -- ..`")
}

/// The same for a broker, where what the library says is about a dependency.
fn hint(error: &cqrs::Error, url: &str) -> anyhow::Error {
    let scheme = url.split("://").next().unwrap_or_default();
    match scheme {
        "kafka" | "amqp" if error.kind() == cqrs::ErrorKind::Configuration => {
            anyhow::anyhow!("`{scheme}://` is not compiled in: {}", with_feature(scheme))
        }
        _ => anyhow::anyhow!("{error:#}"),
    }
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

fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        // As in `quickstart | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
