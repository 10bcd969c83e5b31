//! The same on real servers: every pair that is compiled in. `scripts/services` starts the servers.

use std::hash::{BuildHasher, RandomState};

use crate::bench::{Bench, Running, commands, totals};

/// Where a server is. Without one the test is left out, unless servers are required: then it fails.
macro_rules! server {
    ($variable:literal) => {
        match std::env::var($variable) {
            Ok(server) if !server.is_empty() => server,
            _ if std::env::var("CQRS_TEST_REQUIRE_SERVICES").is_ok_and(|required| required == "1") => {
                panic!("the server is required: run ./scripts/test, or set {}", $variable)
            }
            _ => {
                println!("not run: start a server with ./scripts/services start, or set {}", $variable);
                return;
            }
        }
    };
}

/// A database on that server that nobody else has. The example makes it.
fn database(server: &str) -> String {
    let (server, _) = server.rsplit_once('/').unwrap();
    format!("{server}/cqrs_quickstart_{:016x}", RandomState::new().hash_one(server))
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
                let outbox = cqrs::diesel::Outbox::<cqrs::diesel::$database>::connect(database).await.ok()?;
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

#[cfg(feature = "kafka")]
#[test]
fn sqlite_and_kafka() {
    holds("rooms.sqlite", &format!("kafka://{}", server!("CQRS_TEST_KAFKA")));
}

/// A run whose second service can handle nothing, killed when the broker has all events and nobody has taken them.
#[cfg(any(feature = "kafka", feature = "amqp"))]
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

#[cfg(feature = "kafka")]
#[test]
fn what_a_run_left_on_kafka_is_not_the_next_ones() {
    leaves_nothing_to_the_next(&format!("kafka://{}", server!("CQRS_TEST_KAFKA")));
}

#[cfg(feature = "amqp")]
#[test]
fn what_a_run_left_on_rabbitmq_is_not_the_next_ones() {
    leaves_nothing_to_the_next(&server!("CQRS_TEST_AMQP_URL"));
}

#[cfg(feature = "amqp")]
#[test]
fn sqlite_and_rabbitmq() {
    holds("rooms.sqlite", &server!("CQRS_TEST_AMQP_URL"));
}

/// What there is on a server that holds both databases.
#[allow(unused_macros)]
macro_rules! on_server {
    ($module:ident, $variable:literal) => {
        mod $module {
            use super::*;

            #[test]
            fn and_memory() {
                holds(&database(&server!($variable)), "memory://");
            }

            #[cfg(feature = "kafka")]
            #[test]
            fn and_kafka() {
                holds(&database(&server!($variable)), &format!("kafka://{}", server!("CQRS_TEST_KAFKA")));
            }

            #[cfg(feature = "amqp")]
            #[test]
            fn and_rabbitmq() {
                holds(&database(&server!($variable)), &server!("CQRS_TEST_AMQP_URL"));
            }

            #[test]
            fn what_cannot_be_used_is_told() {
                let server = server!($variable);
                let bench = Bench::new();
                let refused = |database: &str, words: &[&str]| {
                    let ended = bench.run(&["-", "--database", database], "");
                    ended.assert_refused(words);
                    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
                };
                refused(&database(&server).replace(":secret@", ":hunter2@"), &["***@", "check the URL"]);
                let (scheme, rest) = server.split_once("://").unwrap();
                let (login, _) = rest.rsplit_once('@').unwrap();
                let user = login.split(':').next().unwrap();
                refused(
                    &format!("{scheme}://{user}:hunter2@127.0.0.1:1/x"),
                    &["127.0.0.1:1", "is the server running?"],
                );
                refused(&format!("{scheme}://{user}:hunter2@127.0.0.1:1"), &["names no database"]);

                // One process at a time, and each service has its own.
                let ours = database(&server);
                let running = start_behind(&bench, &ours, &["--database", &ours], &commands(1));
                refused(&ours, &["another process works with"]);
                assert!(running.kill());
                refused(&format!("{ours}_projection"), &["a database of something else"]);
            }
        }
    };
}

#[cfg(feature = "postgres")]
on_server!(postgres, "CQRS_TEST_POSTGRES_URL");

#[cfg(feature = "mysql")]
on_server!(mysql, "CQRS_TEST_MYSQL_URL");
