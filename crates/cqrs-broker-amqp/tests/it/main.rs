//! The adapter without a server, always; and with a RabbitMQ, see `cqrs_testing::services`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests, with a main of their own")]

mod conformance;
mod login;
mod offline;
mod private;
mod proxy;
mod real;
mod topology;

use std::future::Future;
use std::time::Duration;

use cqrs_testing::services::{self, Service, trial};
use libtest_mimic::Failed;

/// Limits that only a hang reaches.
const TEST: Duration = Duration::from_secs(120);
const SUITE: Duration = Duration::from_secs(1800);

fn main() {
    let mut trials = offline::trials();
    for (name, scenario) in real::ALL {
        let test = move |url| run(TEST, scenario(url, unique("cqrs-it-rooms")));
        trials.push(trial(Service::Amqp, format!("real::{name}"), test));
    }
    for (name, quorum) in [("conforms", false), ("conforms_with_quorum_queues", true)] {
        let suite = move |url| run(SUITE, conformance::conforms(url, quorum));
        trials.push(trial(Service::Amqp, format!("real::{name}"), suite));
    }
    trials.extend(login::trials());
    trials.extend(private::trials());
    trials.extend(topology::trials());
    services::run(trials).exit();
}

/// A name that no earlier run used.
fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{prefix}-{:016x}", RandomState::new().hash_one(prefix))
}

fn run(limit: Duration, test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(limit, test).await })
        .map_err(|_| format!("it did not end within {limit:?}").into())
}
