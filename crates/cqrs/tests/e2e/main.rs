//! The road from end to end, once for each cell of {SQLite, PostgreSQL} x {in-memory}: 2,000 commands on 32 keys from 8
//! tasks, a tenth of them rolled back; messages are delivered twice, connections are cut, and the relay is killed and
//! started again in the middle.

#![allow(clippy::print_stdout, clippy::print_stderr)] // what a person who runs it wants to know

mod road;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

const POSTGRES: &str = "CQRS_TEST_POSTGRES_URL";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let postgres = std::env::var(POSTGRES).ok();
    let required = std::env::var_os("CQRS_TEST_REQUIRE_SERVICES").is_some();
    if postgres.is_none() && !required {
        eprintln!(
            "the PostgreSQL cells are ignored: run ./scripts/test, which starts one, or set {POSTGRES}"
        );
    }
    let cell = |name: &'static str, run: fn(Option<String>) -> Result<(), Failed>, url: Option<String>| {
        Trial::test(name, move || run(url))
    };
    let trials = vec![
        cell("sqlite_x_memory", |_| block_on(road::on_sqlite()), None),
        cell(
            "postgres_x_memory",
            |url| match url {
                Some(url) => block_on(road::on_postgres(url)),
                None => Err(format!("there is no PostgreSQL: run ./scripts/test, or set {POSTGRES}").into()),
            },
            postgres.clone(),
        )
        .with_ignored_flag(postgres.is_none() && !required),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn block_on(road: impl Future<Output = cqrs::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(road).map_err(|error| Failed::from(format!("{error:#}")))
}
