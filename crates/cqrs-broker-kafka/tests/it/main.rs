//! The adapter against librdkafka's mock cluster, always; and against a real cluster, see `cqrs_testing::services`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "these are tests, with a main of their own"
)]

mod conformance;
mod login;
mod mock;
mod partitions;
mod private;
mod scenarios;
mod sessions;

use std::future::Future;
use std::time::Duration;

use cqrs_broker_kafka::{KafkaBroker, KafkaBrokerBuilder};
use cqrs_testing::services::{Service, trial};
use libtest_mimic::{Arguments, Failed, Trial};

/// Limits that only a hang reaches.
const TEST: Duration = Duration::from_secs(120);
const SUITE: Duration = Duration::from_secs(1800);

fn main() {
    let mut trials = mock::trials();
    for (name, scenario) in scenarios::ALL {
        trials.push(Trial::test(format!("mock::{name}"), move || {
            let cluster = mock::cluster();
            run(TEST, scenario(mock::broker(&cluster), unique("rooms")))
        }));
    }
    for (name, scenario) in scenarios::ALL.iter().chain(scenarios::REAL) {
        trials.push(trial(Service::Kafka, format!("real::{name}"), move |servers| {
            run(TEST, scenario(builder(&servers, false).build()?, unique("cqrs-it-rooms")))
        }));
    }
    for part in 0..conformance::MOCK_PARTS {
        trials.push(Trial::test(format!("mock::conforms_{part}"), move || {
            let cluster = mock::cluster();
            run(SUITE, conformance::mock_conforms(cluster.bootstrap_servers(), part))
        }));
    }
    trials
        .push(trial(Service::Kafka, "real::conforms", |servers| run(SUITE, conformance::conforms(servers))));
    trials.extend(sessions::trials());
    trials.push(partitions::trial());
    trials.extend(login::trials());
    trials.extend(private::trials());
    // Not by `services::run`: with more of them at a time, members that leave while others join wait longer for the group
    // than `close` does.
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// With the shortest session that the cluster allows, which is how long it waits for a member that asked to join and
/// was gone before the answer. The mock cluster waits as long for one that has left.
fn builder(servers: &str, mock: bool) -> KafkaBrokerBuilder {
    KafkaBroker::builder()
        .bootstrap_servers(servers)
        .set("allow.auto.create.topics", "true")
        .set("session.timeout.ms", if mock { "3000" } else { "6000" })
        .set("heartbeat.interval.ms", "300")
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
