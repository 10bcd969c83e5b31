//! The program `cqrs`: what an operator does with an outbox, from a shell or as a service. `cqrs --help` says it all.

mod check;
mod database;
mod dead;
mod edit;
mod failure;
mod hold;
mod key;
mod message;
mod migrate;
mod order_unit;
mod page;
mod parked;
mod purge;
mod relay;
mod renew_id;
mod scheduled;
mod settings;
mod status;
mod target;
mod unpark;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

const EXIT_CODES: &str = "\
Exit codes:
  0  it is done
  1  something failed, or what was named is not there
  2  wrong arguments or settings; a URL is wrong, or its login is refused, or may not
     look at everything (`cqrs outbox check`); the database is of another installation
  3  the outbox's tables are missing, of another version, or were changed
  4  the database or the broker cannot be reached (`cqrs relay` waits for it instead)";

/// Relays events from a transactional outbox to a broker, and looks after the outbox.
#[derive(Debug, Parser)]
#[command(name = "cqrs", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Prints JSON, one object a line
    #[arg(long, global = true)]
    json: bool,

    /// Logs more to standard error; RUST_LOG chooses what
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes events from an outbox to a broker, until it is told to stop
    Relay(Box<relay::Args>),
    /// Looks after events that were given up
    #[command(subcommand, after_help = "`cqrs outbox edit` changes one, and has it sent again.")]
    Dead(dead::Command),
    /// Looks after events that wait for their time
    #[command(subcommand)]
    Scheduled(scheduled::Command),
    /// Looks after an outbox
    #[command(subcommand)]
    Outbox(Outbox),
}

#[derive(Debug, Subcommand)]
enum Outbox {
    /// Creates the tables, or brings them to the version of this program
    Migrate(migrate::Args),
    /// Says what of the tables was changed since they were made, by hand or by another tool; changes nothing
    Check(check::Args),
    /// Says what waits, what is stuck, and who is at work
    Status(status::Args),
    /// Holds all relaying, after a restore for example: events are written, and wait
    Hold(hold::Args),
    /// Ends a hold
    Resume(hold::Args),
    /// Makes an installation of its own of a copy of a database: gives it a new installation id
    RenewId(renew_id::Args),
    /// Says, or changes, what is in order: the events of a key, or those of a key on a topic
    OrderUnit(order_unit::Args),
    /// Lists events that stand aside, and what they wait for; a page of them
    Parked(parked::Args),
    /// Has events that the broker refused tried again now, instead of when their wait is over
    Unpark(unpark::Args),
    /// Changes the payload or the headers of an event that waits for its time, or is a dead letter
    Edit(edit::Args),
    /// Removes what is kept for a time only
    Purge(purge::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Who wants JSON wants it of wrong arguments, too.
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            return fail(&Failure::usage(error.to_string().trim_end()), true);
        }
        Err(error) => error.exit(),
    };
    log_to_stderr(cli.verbose);
    let json = cli.json;
    run(cli).map_or_else(|failure| fail(&failure, json), |()| ExitCode::SUCCESS)
}

/// Says on standard error why the program ends.
fn fail(failure: &Failure, json: bool) -> ExitCode {
    tell(&if json { failure.as_json().to_string() } else { format!("error: {failure}") });
    failure.code()
}

/// A time as all of them are shown.
fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Whoever runs this, by the name that the system gives.
fn user() -> Option<String> {
    let names = ["USER", "LOGNAME", "USERNAME"];
    names.iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
}

/// Prints a line beside the result, on standard error.
fn tell(line: &str) {
    // There is nobody to tell if this fails.
    let _ = writeln!(io::stderr(), "{line}");
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let json = cli.json;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Relay(args) => relay::run(*args, json).await,
            Command::Dead(command) => dead::run(command, json).await,
            Command::Scheduled(command) => scheduled::run(command, json).await,
            Command::Outbox(Outbox::Migrate(args)) => migrate::run(args, json).await,
            Command::Outbox(Outbox::Check(args)) => check::run(args, json).await,
            Command::Outbox(Outbox::Status(args)) => status::run(args, json).await,
            Command::Outbox(Outbox::Hold(args)) => hold::run(args, true, json).await,
            Command::Outbox(Outbox::Resume(args)) => hold::run(args, false, json).await,
            Command::Outbox(Outbox::RenewId(args)) => renew_id::run(args, json).await,
            Command::Outbox(Outbox::OrderUnit(args)) => order_unit::run(args, json).await,
            Command::Outbox(Outbox::Parked(args)) => parked::run(args, json).await,
            Command::Outbox(Outbox::Unpark(args)) => unpark::run(args, json).await,
            Command::Outbox(Outbox::Edit(args)) => edit::run(args, json).await,
            Command::Outbox(Outbox::Purge(args)) => purge::run(args, json).await,
        }
    });
    // A call into a client library that hangs is no reason to stay.
    runtime.shutdown_background();
    done
}

fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        // What this client library logs as an error we report as ours.
        0 => "warn,lapin=off",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
}

/// So many of them: `1 event`, `2 events`.
fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints a line of the result; a reader that has gone away is no failure.
fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}
