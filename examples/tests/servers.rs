//! The example as a process on real servers: every pair that is compiled in. `scripts/services` starts the servers.
// The helpers are not `#[test]` functions, so the exception in clippy.toml does not reach them.
#![allow(clippy::unwrap_used)]

#[path = "it/bench.rs"]
#[allow(dead_code, reason = "the other tests use the rest of it")]
mod bench;

use std::hash::{BuildHasher, RandomState};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use cqrs_testing::services::{Service, trial, trial_with};
use libtest_mimic::{Arguments, Failed, Trial};

use self::bench::{Bench, Running, commands, totals};

fn main() -> ExitCode {
    let brokers: Vec<_> = [
        (Service::Kafka, "kafka", cfg!(feature = "kafka")),
        (Service::Amqp, "rabbitmq", cfg!(feature = "amqp")),
    ]
    .into_iter()
    .filter(|(.., compiled_in)| *compiled_in)
    .map(|(service, name, _)| (service, name))
    .collect();
    let databases = [
        (Service::Postgres, "postgres", cfg!(feature = "postgres")),
        (Service::MySql, "mysql", cfg!(feature = "mysql")),
    ];
    let mut trials: Vec<Trial> = Vec::new();
    for (broker, name) in brokers.clone() {
        trials.push(trial(broker, format!("sqlite_and_{name}"), move |server| {
            holds("rooms.sqlite", &broker_url(broker, &server));
            Ok(())
        }));
        trials.push(trial(
            broker,
            format!("what_a_run_left_on_{name}_is_not_the_next_ones"),
            move |server| {
                leaves_nothing_to_the_next(&broker_url(broker, &server));
                Ok(())
            },
        ));
    }
    for (service, name, _) in databases.into_iter().filter(|(.., compiled_in)| *compiled_in) {
        trials.push(trial(service, format!("{name}_and_memory"), |server| {
            on_its_own(&server, |database| holds(database, "memory://"))
        }));
        trials.push(trial(service, format!("{name}::what_cannot_be_used_is_told"), |server| {
            on_its_own(&server, |database| what_cannot_be_used_is_told(&server, database))
        }));
        for (broker, with) in brokers.clone() {
            let pair = format!("{name}_and_{with}");
            trials.push(trial_with([service, broker], pair, move |[server, at]| {
                on_its_own(&server, |database| holds(database, &broker_url(broker, &at)))
            }));
        }
    }
    // Not by `services::run`: with more of them at a time a database may see too late that one who was killed is gone.
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn broker_url(broker: Service, server: &str) -> String {
    if broker == Service::Kafka { format!("kafka://{server}") } else { server.to_owned() }
}

/// Runs a test with a database on that server that nobody else has. The example makes it, and one for the second service.
fn on_its_own(server: &str, test: impl FnOnce(&str)) -> Result<(), Failed> {
    let (base, _) = server.rsplit_once('/').unwrap();
    let name = format!("cqrs_quickstart_{:016x}", RandomState::new().hash_one(server));
    let ended = panic::catch_unwind(AssertUnwindSafe(|| test(&format!("{base}/{name}"))));
    let runtime = tokio::runtime::Runtime::new()?;
    for name in [&name, &format!("{name}_projection")] {
        runtime.block_on(execute(server, &format!("DROP DATABASE IF EXISTS {name}")))?;
    }
    ended.map_err(|panic| panic::resume_unwind(panic))
}

async fn execute(server: &str, #[allow(unused_variables)] sql: &str) -> cqrs::Result<()> {
    match server.split_once("://") {
        #[cfg(feature = "postgres")]
        Some(("postgres", _)) => {
            let outbox = cqrs::sql::Outbox::<cqrs::sql::Pg>::connect(server).await?;
            diesel_async::SimpleAsyncConnection::batch_execute(&mut *outbox.connection().await?, sql).await?;
            Ok(())
        }
        #[cfg(feature = "mysql")]
        Some(("mysql", _)) => {
            let outbox = cqrs::sql::Outbox::<cqrs::sql::MySql>::connect(server).await?;
            diesel_async::SimpleAsyncConnection::batch_execute(&mut *outbox.connection().await?, sql).await?;
            Ok(())
        }
        _ => unreachable!("there are no other servers"),
    }
}

/// How many lines are in the journal of that database; none, while it is not there.
async fn lines(database: &str) -> i64 {
    use diesel::sql_types::BigInt;
    use diesel_async::RunQueryDsl;

    #[derive(diesel::QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    macro_rules! count {
        ($database:ident) => {
            async {
                let outbox = cqrs::sql::Outbox::<cqrs::sql::$database>::connect(database).await.ok()?;
                let mut conn = outbox.connection().await.ok()?;
                let count = diesel::sql_query("SELECT count(*) AS count FROM journal");
                count.get_result::<Count>(&mut conn).await.ok().map(|count| count.count)
            }
            .await
        };
    }
    let count = match database.split_once("://") {
        #[cfg(feature = "postgres")]
        Some(("postgres", _)) => count!(Pg),
        #[cfg(feature = "mysql")]
        Some(("mysql", _)) => count!(MySql),
        _ => count!(Sqlite),
    };
    count.unwrap_or(0)
}

/// Starts it with these lines, and leaves it behind them.
fn start_behind(bench: &Bench, database: &str, args: &[&str], input: &str) -> Running {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = match database.contains("://") {
        true => database.to_owned(),
        false => format!("sqlite://{}", bench.path(database).display()),
    };
    bench.start_counted(args, input, || runtime.block_on(lines(&database)))
}

/// Two runs, the second of which finds on the broker what the first has left there; a third that is killed and goes on; a
/// fourth that is killed and forgotten: they all come to what a run comes to that has nothing but files.
fn holds(database: &str, broker: &str) {
    let bench = Bench::new();
    let input = commands(300);
    let expected = totals(&bench.report(&["-"], &input));
    let args = ["--database", database, "--broker", broker];
    let run = [&["-"][..], &args].concat();
    for _ in 0..2 {
        assert_eq!(totals(&bench.report(&run, &input)), expected);
    }
    assert!(start_behind(&bench, database, &args, &commands(100)).kill());
    let report = bench.report(&run, &input);
    assert_eq!((totals(&report), &report["commands"]["executed_earlier"]), (expected.clone(), &100.into()));
    assert!(start_behind(&bench, database, &args, &commands(100)).kill());
    let report = bench.report(&[&run[..], &["--fresh"]].concat(), &input);
    assert_eq!((totals(&report), &report["commands"]["executed_earlier"]), (expected, &0.into()));
}

/// A run whose second service can handle nothing, killed when the broker has all events and nobody has taken them.
fn leaves_nothing_to_the_next(broker: &str) {
    let bench = Bench::new();
    // Other rooms, or what was left would look like its own.
    let input = commands(60).replace("r-", "s-");
    let expected = totals(&bench.report(&["-"], &input));
    let mut running = bench.start_with(&["--broker", broker], &commands(1));
    bench.sql(
        "quickstart.projection.sqlite",
        "CREATE TRIGGER no BEFORE INSERT ON present BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    running.feed(commands(60).split_once('\n').unwrap().1);
    running.wait_until(|| bench.executed() == 60 && bench.count("quickstart.sqlite", "cqrs_outbox") == 0);
    assert!(running.kill());
    let report = bench.report(&["-", "--broker", broker, "--fresh"], &input);
    assert_eq!(totals(&report), expected);
}

fn what_cannot_be_used_is_told(server: &str, ours: &str) {
    let bench = Bench::new();
    let refused = |database: &str, words: &[&str]| {
        let ended = bench.run(&["-", "--database", database], "");
        ended.assert_refused(words);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    };
    let (scheme, rest) = server.split_once("://").unwrap();
    let (login, place) = rest.rsplit_once('@').unwrap();
    let user = login.split(':').next().unwrap();
    let wrong = |place: &str| format!("{scheme}://{user}:hunter2@{place}");
    refused(&wrong(place), &["***@", "check the URL"]);
    refused(&wrong("127.0.0.1:1/x"), &["127.0.0.1:1", "is the server running?"]);
    refused(&wrong("127.0.0.1:1"), &["names no database"]);

    // One process at a time, and each service has its own.
    let running = start_behind(&bench, ours, &["--database", ours], &commands(1));
    refused(ours, &["another process works with"]);
    assert!(running.kill());
    refused(&format!("{ours}_projection"), &["a database of something else"]);
}
