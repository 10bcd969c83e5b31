//! The adapter against librdkafka's mock cluster, always; and against a real cluster at `CQRS_TEST_KAFKA`
//! (`host:port`), where topics must be created by themselves with the first message.

mod mock;
mod scenarios;

use std::future::Future;

use cqrs_broker_kafka::KafkaBroker;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

const REAL: &str = "CQRS_TEST_KAFKA";

fn main() {
    let mut trials = mock::trials();
    for (name, scenario) in scenarios::ALL {
        trials.push(Trial::test(format!("mock::{name}"), move || {
            let cluster = mock::cluster();
            run(scenario(mock::broker(&cluster), unique("rooms")))
        }));
    }
    for (name, scenario) in scenarios::ALL.iter().chain(scenarios::REAL) {
        trials.push(Trial::ignorable_test(format!("real::{name}"), move || {
            let Ok(servers) = std::env::var(REAL) else {
                return Ok(Completion::ignored_with(format!(
                    "start a Kafka that creates topics by itself, and set {REAL}=host:port"
                )));
            };
            let broker = KafkaBroker::builder()
                .bootstrap_servers(servers)
                .set("allow.auto.create.topics", "true")
                .build()?;
            run(scenario(broker, unique("cqrs-it-rooms")))?;
            Ok(Completion::Completed)
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A name that no earlier run used.
fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{prefix}-{:016x}", RandomState::new().hash_one(prefix))
}

/// Runs a test with a limit that only a hang reaches.
fn run(test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime
        .block_on(async { tokio::time::timeout(std::time::Duration::from_secs(120), test).await })
        .map_err(|_| "it hangs".into())
}
