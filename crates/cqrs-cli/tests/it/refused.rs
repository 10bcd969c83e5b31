//! Bad input: one clear line each, no password in it, and an exit code that says whose fault it is.

use cqrs_testing::services::{Server, Service, trial, trial_with_own};
use libtest_mimic::Trial;
use url::Url;

use crate::site::{Kind, Site, cqrs, cqrs_with};
use crate::support::Relay;
use crate::{on_each, run};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("arguments_that_are_wrong_are_told", || run(arguments())),
        Trial::test("a_database_that_cannot_be_reached_is_told", || run(unreachable())),
        trial(Service::Postgres, "postgres::a_refused_login_is_told", |url| run(refused(url))),
        trial(Service::MySql, "mysql::a_refused_login_is_told", |url| run(refused(url))),
        trial(Service::Amqp, "rabbitmq::a_refused_login_ends_the_relay", |url| run(refused_by_amqp(url))),
        trial(Service::KafkaSasl, "kafka::a_refused_login_ends_the_relay", |servers| {
            run(refused_by_kafka(servers))
        }),
        trial_with_own(&BOTH, &BOTH, "a_relay_waits_for_database_and_broker", || run(waits())),
    ];
    on_each(&mut trials, "missing_tables_are_told", missing_tables);
    on_each(&mut trials, "tables_of_a_newer_kind_are_told", newer_tables);
    trials
}

/// Where nobody is, but a name is taken.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn sqlite() -> Site {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    site
}

async fn arguments() {
    let site = sqlite().await;
    let relay = |arguments: &[&str]| [&["relay", "--database", &site.url], arguments].concat().join("\n");
    for (arguments, parts) in [
        (relay(&["--broker", "nats://me:hunter2@h"]), vec!["`nats://me:***@h`", "`kafka://`", "`amqp://`"]),
        (relay(&["--broker", "me:hunter2@h"]), vec!["`kafka://`"]),
        (relay(&["--broker", "hunter2@h"]), vec!["`kafka://`"]),
        ("outbox\nstatus\n--database\nhost=h password=hunter2".to_owned(), vec!["`postgres://`", "no URL"]),
        (format!("outbox\nstatus\n--database\n{}?mode=rw", site.url), vec!["options", "leave them out"]),
        (relay(&["--broker", "memory://"]), vec!["kafka://", "its own process"]),
        (relay(&["--broker", "amqp://me:hunter2@h:x"]), vec!["amqp://me:***@h:x"]),
        (
            relay(&["--broker", "amqp://me:hunter2@h?topology=/no/such/file"]),
            vec!["amqp://me:***@h", "`/no/such/file`"],
        ),
        (
            relay(&["--broker", "amqp://me:hunter2@h?heartbeet=1"]),
            vec!["an option that is none of", "`heartbeat`"],
        ),
        (relay(&["--broker", "kafka://h:x"]), vec!["`h:x`", "port"]),
        (
            relay(&["--broker", "amqp://h", "--notifications"]),
            vec!["--notifications", "PostgreSQL", "`sqlite://`"],
        ),
        (relay(&["--broker", "amqp://h", "--database", &site.url]), vec!["two of the databases", "NAME=URL"]),
        (
            relay(&["--broker", "amqp://h", "--database", "other=oracle://me:hunter2@h"]),
            vec!["`oracle`", "`postgres://`"],
        ),
        (
            "relay\n--broker\namqp://h\n--database\na=sqlite://x\n--database\na=sqlite://y".to_owned(),
            vec!["the name `a` is given to two databases", "its own"],
        ),
        (
            "relay\n--broker\namqp://h\n--database\n=postgres://me:hunter2@h/d".to_owned(),
            vec!["the name before `=` is empty"],
        ),
        ("relay\n--broker\namqp://h\n--database\n ".to_owned(), vec!["`--database` is empty"]),
        (relay(&["--broker", "amqp://h", "--linger", "5ms"]), vec!["--linger", "Kafka"]),
        (
            relay(&["--broker", "amqp://h", "--lease", "1s"]),
            vec!["`heartbeat_interval` (3s)", "`publish_timeout` (7s)", "raise `lease` to 9s"],
        ),
        (relay(&["--broker", "amqp://h", "--lease", "soon"]), vec!["--lease", "such as 10s"]),
        (relay(&["--broker", "amqp://h", "--batch", "many"]), vec!["--batch", "many"]),
        (relay(&["--broker", "amqp://h", "--batch", "0"]), vec!["`batch` must be at least 1"]),
        (relay(&["--broker", "amqp://h", "--connections", "1"]), vec!["--connections", "1"]),
        (relay(&[]), vec!["--broker"]),
        ("outbox\nstatus".to_owned(), vec!["--database"]),
        (
            "outbox\nstatus\n--database\noracle://me:hunter2@h".to_owned(),
            vec!["`oracle`", "`postgres://`", "`sqlite://`"],
        ),
        ("outbox\nmigrate\n--print\n--database\nme:hunter2@h".to_owned(), vec!["`postgres://`"]),
        ("outbox\nstatus\n--database\nsqlite://:memory:".to_owned(), vec!["name a file"]),
        (
            "outbox\nmigrate\n--database\nsqlite:///no/such/folder/x.sqlite".to_owned(),
            vec!["/no/such/folder", "does the folder exist"],
        ),
    ] {
        cqrs(&arguments.split('\n').collect::<Vec<_>>()).await.expect_error(2, &parts);
    }
    let ran = cqrs(&["relay", "--database", &site.url, "--broker", "nats://h"]).await;
    assert!(!ran.err.contains("memory://"), "what is refused is not offered: {ran:?}");
    // The same by variables.
    let variables = [
        ("CQRS_DATABASE_URL", &*site.url),
        ("CQRS_BROKER_URL", "amqp://me:hunter2@h"),
        ("CQRS_RELAY_BATCH", "0"),
    ];
    cqrs_with(&["relay"], &variables).await.expect_error(2, &["`batch` must be at least 1"]);
    let listening = [
        ("CQRS_DATABASE_URL", &*site.url),
        ("CQRS_BROKER_URL", "amqp://h"),
        ("CQRS_RELAY_NOTIFICATIONS", "1"),
    ];
    cqrs_with(&["relay"], &listening).await.expect_error(2, &["--notifications", "PostgreSQL"]);
    cqrs_with(&["relay"], &[("CQRS_RELAY_LEASE", "1"), ("CQRS_BROKER_URL", "amqp://me:hunter2@h")])
        .await
        .expect_error(2, &["--lease"]);
}

async fn unreachable() {
    let nobody = nobody();
    for scheme in ["postgres", "mysql"] {
        let url = format!("{scheme}://me:hunter2@{nobody}/orders");
        for command in ["status", "migrate"] {
            let place = format!("{scheme}://me:***@{nobody}/orders");
            cqrs(&["outbox", command, "--database", &url])
                .await
                .expect_error(4, &[&place, "is the server running?"]);
            cqrs(&["outbox", command, "--database", &url, "--wait", "300ms"])
                .await
                .expect_error(4, &[&place]);
        }
        // What is logged while it waits stands where the error stands, above it, and never among the results.
        let waits = ["dead", "list", "--database", &url, "--wait", "300ms", "--json"];
        let ran = cqrs_with(&waits, &[("RUST_LOG", "warn")]).await;
        let said: Vec<_> = ran.err.lines().collect();
        assert!(said.len() > 1 && said[0].contains("WARN"), "{ran:?}");
        let last: serde_json::Value = serde_json::from_str(said[said.len() - 1]).unwrap();
        assert_eq!((&last["code"], &*ran.out), (&4.into(), ""), "{ran:?}");
    }
}

async fn refused(server: String) {
    let mut wrong = Url::parse(&server).unwrap();
    wrong.set_password(Some("hunter2")).unwrap();
    let mut nowhere = Url::parse(&server).unwrap();
    nowhere.set_path("/cqrs_no_such_database");
    let mut silent = Url::parse(&server).unwrap();
    silent.set_password(None).unwrap();
    let mut urls = vec![(wrong, "***@"), (nowhere, "cqrs_no_such_database")];
    // The client library has no TLS, and says of itself that a password is wanted.
    if server.starts_with("postgres") {
        urls.push((silent, "password missing"));
        urls.push((Url::parse(&format!("{server}?sslmode=require")).unwrap(), "TLS"));
    } else {
        urls.push((silent, "Access denied"));
        urls.push((Url::parse(&format!("{server}?require_ssl=true")).unwrap(), "SSL"));
    }
    for (url, part) in urls {
        cqrs(&["outbox", "status", "--database", url.as_str()])
            .await
            .expect_error(2, &[part, "check the URL"]);
        // Nor does a relay wait for what waiting does not mend.
        cqrs(&["relay", "--database", url.as_str(), "--broker", "amqp://localhost"])
            .await
            .expect_error(2, &[part, "check the URL"]);
    }
}

async fn refused_by_amqp(server: String) {
    let site = sqlite().await;
    let mut wrong = Url::parse(&server).unwrap();
    wrong.set_password(Some("hunter2")).unwrap();
    let address = format!("{}:{}", wrong.host_str().unwrap(), wrong.port().unwrap());
    cqrs(&["relay", "--database", &site.url, "--broker", wrong.as_str()])
        .await
        .expect_error(2, &[&address, "mend the user, the password"]);
}

async fn refused_by_kafka(servers: String) {
    let site = sqlite().await;
    let login =
        "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=cqrs&sasl.password=hunter2";
    cqrs(&["relay", "--database", &site.url, "--broker", &format!("kafka://{servers}?{login}")])
        .await
        .expect_error(2, &[&servers, "`sasl.password`"]);
}

const BOTH: [Service; 2] = [Service::Postgres, Service::Amqp];

/// An orchestrator starts things in any order.
async fn waits() {
    let [database, broker] =
        BOTH.map(|service| tokio::task::spawn_blocking(move || Server::start(service).unwrap()));
    let (database, broker) = (database.await.unwrap(), broker.await.unwrap());
    let site = Site::new(Kind::Postgres, database.url().to_owned()).await;
    site.migrate().await;
    database.kill().unwrap();
    broker.kill().unwrap();
    let broker_url = broker.url().to_owned();
    let mut relay = Relay::spawn_warning(&["--database", &site.url, "--broker", &broker_url]);
    relay.warns(&["the outbox's database cannot be reached", &site.shown()]).await;
    let database = tokio::task::spawn_blocking(move || {
        database.start_again().unwrap();
        database
    });
    let database = database.await.unwrap();
    relay.warns(&["the broker cannot be reached", broker_url.rsplit_once('@').unwrap().1]).await;
    let broker = tokio::task::spawn_blocking(move || {
        broker.start_again().unwrap();
        broker
    });
    let broker = broker.await.unwrap();
    relay.is_ready().await;
    relay.stop().await;
    drop((database, broker));
}

async fn missing_tables(site: Site) {
    for command in [
        vec!["outbox", "status", "--database", &site.url],
        vec!["relay", "--database", &site.url, "--broker", "amqp://me:hunter2@localhost:1"],
    ] {
        cqrs(&command).await.expect_error(3, &[&site.shown(), "tables are missing", "cqrs outbox migrate"]);
    }
    if let Some(file) = site.url.strip_prefix("sqlite://") {
        assert!(!std::path::Path::new(file).exists(), "somebody made the file");
    }
    // Half of them is worse than none.
    site.migrate().await;
    site.sql("DROP TABLE cqrs_outbox_parked").await;
    for command in ["status", "migrate"] {
        let part = if command == "status" { "tables are missing" } else { "`cqrs outbox check` says which" };
        cqrs(&["outbox", command, "--database", &site.url])
            .await
            .expect_error(3, &[&site.shown(), "cqrs_outbox_parked", part]);
    }
}

async fn newer_tables(site: Site) {
    site.migrate().await;
    site.sql("UPDATE cqrs_outbox_meta SET schema_version = 9, min_reader_version = 8").await;
    for command in [
        vec!["outbox", "status", "--database", &site.url],
        vec!["outbox", "migrate", "--database", &site.url],
        vec!["outbox", "hold", "--database", &site.url],
        vec!["outbox", "resume", "--database", &site.url],
        vec!["outbox", "purge", "--expired-dedup", "--database", &site.url],
        vec!["dead", "list", "--database", &site.url],
        vec!["dead", "count", "--database", &site.url],
        vec!["dead", "show", "0199c0de-0000-7000-8000-000000000001", "--database", &site.url],
        vec!["dead", "discard", "--all", "--yes", "--database", &site.url],
        vec!["dead", "requests", "--database", &site.url],
        vec!["relay", "--database", &site.url, "--broker", "amqp://me:hunter2@localhost:1"],
    ] {
        let parts = [&*site.shown(), "version 9", "version 8", "update this program"];
        cqrs(&command).await.expect_error(3, &parts);
    }
}
