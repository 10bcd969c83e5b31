//! What the relay costs and how fast it is, beside the bare clients that it stands on.
//!
//! The servers are those of the tests: `scripts/with-services cargo bench -p cqrs-benches --features servers --bench relay`,
//! or `just bench-relay`. Arguments choose chapters by their names ([`CHAPTERS`]) and pairs of a database and a broker by a
//! part of theirs: `just bench-relay latency "PostgreSQL to"`. `CQRS_BENCH_EVENTS` is how many events a run has (50,000; with
//! one key a tenth of it), `CQRS_BENCH_RUNS` how many runs a line has (3): the median counts. `CQRS_BENCH_KEYS` takes, of the
//! throughput, the lines with so many keys. `CQRS_BENCH_BACKLOG` is how many events wait in the chapter of that name (5,000,000).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a program for whoever reads its tables

mod backlog;
mod brokers;
mod databases;
mod idle;
mod latency;
mod measure;
mod peer;
mod relays;
mod throughput;
mod writing;

use self::brokers::Broker;
use self::databases::Database;
use self::measure::{Size, number};

/// In this order: the first ones look at the memory of this process.
const CHAPTERS: [&str; 6] = ["idle", "backlog", "latency", "writing", "throughput", "peer"];

#[tokio::main]
async fn main() {
    // Cargo adds `--bench`.
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (chapters, names): (Vec<&str>, Vec<&str>) =
        given.iter().map(String::as_str).partition(|argument| CHAPTERS.contains(argument));
    let is_chosen = |database: &Database, broker: &Broker| {
        let pair = format!("{} to {}", database.name(), broker.name());
        names.iter().all(|name| pair.contains(name))
    };
    let pairs: Vec<(Database, Broker)> = Database::given()
        .into_iter()
        .flat_map(|database| {
            Broker::for_database(&database).into_iter().map(move |broker| (database.clone(), broker))
        })
        .filter(|(database, broker)| is_chosen(database, broker))
        .collect();
    assert!(!pairs.is_empty(), "no pair of a database and a broker is called {names:?}");
    let mut databases: Vec<Database> = pairs.iter().map(|(database, _)| database.clone()).collect();
    databases.dedup_by_key(|database| database.name());
    let size = Size { events: number("CQRS_BENCH_EVENTS", 50_000), runs: number("CQRS_BENCH_RUNS", 3) };
    for chapter in CHAPTERS {
        if !chapters.is_empty() && !chapters.contains(&chapter) {
            continue;
        }
        println!("\n## {chapter}\n");
        match chapter {
            "idle" => idle::measure(&databases).await,
            "backlog" => backlog::measure(&pairs, number("CQRS_BENCH_BACKLOG", 5_000_000)).await,
            "latency" => latency::measure(&pairs).await,
            "writing" => writing::measure(&databases).await,
            "throughput" => throughput::measure(&pairs, size).await,
            _ => peer::measure(&pairs, size).await,
        }
    }
}
