//! The program `cqrs`, as a user runs it: what it says, with which exit code it ends, and what its relay does when it is
//! told to stop, killed, or has company.

#![allow(clippy::unwrap_used, clippy::expect_used)] // tests, with a main of their own

mod dead;
mod operator;
mod refused;
mod relaying;
mod scheduled;
mod site;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use cqrs_testing::services::{self, Service, trial};
use libtest_mimic::{Failed, Trial};

use self::site::Kind;

/// A limit that only a hang reaches.
const TEST: Duration = Duration::from_secs(180);

fn main() {
    let mut trials = operator::trials();
    trials.extend(dead::trials());
    trials.extend(scheduled::trials());
    trials.extend(refused::trials());
    trials.extend(relaying::trials());
    services::run(trials).exit();
}

fn run(test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(TEST, test).await })
        .map_err(|_| format!("it did not end within {TEST:?}").into())
}

/// A test for each kind of database.
fn on_each<F>(trials: &mut Vec<Trial>, name: &str, test: fn(site::Site) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for kind in [Kind::Sqlite, Kind::Postgres, Kind::MySql] {
        let name = format!("{kind}::{name}");
        let run = move |server: String| run(async move { test(site::Site::new(kind, server).await).await });
        trials.push(match kind {
            Kind::Sqlite => Trial::test(name, move || run(String::new())),
            Kind::Postgres => trial(Service::Postgres, name, run),
            Kind::MySql => trial(Service::MySql, name, run),
        });
    }
}
