//! The adapter without a server, always; and with the RabbitMQ at `CQRS_TEST_AMQP_URL` (`amqp://user:password@host:port`).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests, with a main of their own")]

mod conformance;
mod offline;
mod proxy;
mod real;

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

const REAL: &str = "CQRS_TEST_AMQP_URL";

/// Limits that only a hang reaches.
const TEST: Duration = Duration::from_secs(120);
const SUITE: Duration = Duration::from_secs(1800);

fn main() {
    let mut trials = offline::trials();
    for (name, scenario) in real::ALL {
        trials.push(real(name, move |url| run(TEST, scenario(url, unique("cqrs-it-rooms")))));
    }
    trials.push(real("conforms", |url| run(SUITE, conformance::conforms(url, false))));
    trials.push(real("conforms_with_quorum_queues", |url| run(SUITE, conformance::conforms(url, true))));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A test that runs if there is a server for it.
fn real(name: &str, test: impl FnOnce(String) -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::ignorable_test(format!("real::{name}"), move || match std::env::var(REAL) {
        Ok(url) => test(url).map(|()| Completion::Completed),
        Err(_) => Ok(Completion::ignored_with(format!(
            "start a RabbitMQ and set {REAL}=amqp://guest:guest@localhost:5672"
        ))),
    })
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
