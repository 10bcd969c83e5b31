//! The adapter without a server, always; and with the RabbitMQ at `CQRS_TEST_AMQP_URL` (`amqp://user:password@host:port`).

mod offline;
mod proxy;
mod real;

use std::future::Future;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

const REAL: &str = "CQRS_TEST_AMQP_URL";

fn main() {
    let mut trials = offline::trials();
    for (name, scenario) in real::ALL {
        trials.push(Trial::ignorable_test(format!("real::{name}"), move || {
            let Ok(url) = std::env::var(REAL) else {
                return Ok(Completion::ignored_with(format!(
                    "start a RabbitMQ and set {REAL}=amqp://guest:guest@localhost:5672"
                )));
            };
            run(scenario(url, unique("cqrs-it-rooms")))?;
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
