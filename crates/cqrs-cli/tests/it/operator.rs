//! `cqrs outbox migrate`, `status`, `hold`, `resume` and `purge`, and the help.

use cqrs_testing::services::{Service, trial};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::site::{Kind, Site, cqrs, cqrs_with};
use crate::{on_each, run};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("help_says_what_there_is_and_no_secret", || run(help())),
        Trial::test("printed_sql_touches_nothing", || run(print())),
    ];
    on_each(&mut trials, "migrates_once", migrates_once);
    on_each(&mut trials, "two_migrate_at_once", two_at_once);
    on_each(&mut trials, "a_lost_version_is_told_and_written_again", lost_version);
    on_each(&mut trials, "status_tells_what_waits", status);
    on_each(&mut trials, "hold_and_resume", hold);
    on_each(&mut trials, "a_relay_serves_the_installation_it_was_told", installation);
    on_each(&mut trials, "what_is_in_order_is_said_and_changed", order_unit);
    on_each(&mut trials, "what_was_refused_is_tried_again_when_it_is_told_to", unpark);
    on_each(&mut trials, "check_tells_what_was_changed", check);
    trials.push(trial(Service::Postgres, "postgres::check_tells_what_it_may_not_see", |server| {
        run(async { check_without_rights(Site::new(Kind::Postgres, server).await).await })
    }));
    on_each(&mut trials, "what_is_old_is_purged", purge);
    on_each(&mut trials, "tables_are_called_as_they_are_told_to", other_names);
    trials
}

async fn purge(site: Site) {
    site.migrate().await;
    let bytes = |text: &str| match site.kind {
        Kind::Postgres => format!("convert_to('{text}', 'UTF8')"),
        _ => format!("x'{}'", text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    // As each database writes its times.
    let at = |year: u32| match site.kind {
        Kind::MySql => format!("'{year}-01-31 08:00:00'"),
        _ => format!("'{year}-01-31T08:00:00.000Z'"),
    };
    for (id, year) in [("old", 2020), ("young", 2999)] {
        site.sql(&format!(
            "INSERT INTO cqrs_inbox (consumer, message_id, handled_at) VALUES ({}, {}, {})",
            if site.kind == Kind::MySql { bytes("it") } else { "'it'".to_owned() },
            bytes(id),
            at(year),
        ))
        .await;
        site.sql(&format!(
            "INSERT INTO cqrs_outbox_request (kind, requested_by, done_at) VALUES ('replay', 'ada', {})",
            at(year)
        ))
        .await;
    }
    let purge = ["outbox", "purge", "--database", &site.url];
    let json = async |more: &[&str]| -> Value {
        let said = cqrs(&[&purge[..], more, &["--json"]].concat()).await.expect_code(0);
        serde_json::from_str(&said).unwrap()
    };
    let said = json(&["--sent-older-than", "7d"]).await;
    assert_eq!((&said["sent"], said.get("inbox")), (&0.into(), None));
    assert_eq!(json(&["--inbox-older-than", "30d", "--chunk", "1"]).await["inbox"], 1);
    assert_eq!(site.count("cqrs_inbox").await, 1);
    let said = cqrs(&[&purge[..], &["--requests-older-than", "30d", "--expired-dedup"]].concat()).await;
    let said = said.expect_code(0);
    assert!(said.contains("requests       1 removed") && said.contains("expired keys   0 removed"), "{said}");
    assert_eq!(site.count("cqrs_outbox_request").await, 1);
    // Which, and a time with its unit.
    cqrs(&purge).await.expect_error(2, &["--sent-older-than", "--inbox-older-than"]);
    cqrs(&[&purge[..], &["--sent-older-than", "7"]].concat()).await.expect_error(2, &["such as 10s"]);
}

async fn other_names(site: Site) {
    let schema = match site.kind {
        Kind::Sqlite => None,
        Kind::Postgres => {
            site.sql("CREATE SCHEMA events").await;
            Some("events".to_owned())
        }
        // Its own, but told.
        Kind::MySql => Some(url::Url::parse(&site.url).unwrap().path()[1..].to_owned()),
    };
    let mut names = vec!["--table-prefix", "orders_"];
    let mut variables = vec![("CQRS_TABLE_PREFIX", "orders_")];
    if let Some(schema) = &schema {
        names.extend(["--schema", schema]);
        variables.push(("CQRS_SCHEMA", schema));
    }
    let table =
        schema.as_ref().map_or("orders_outbox".to_owned(), |schema| format!("{schema}.orders_outbox"));
    let with_names = |command: &[&'static str]| [command, &["--database", &site.url], &names].concat();
    let printed = cqrs(&with_names(&["outbox", "migrate", "--print"])).await.expect_code(0);
    assert!(
        printed.contains("INDEX orders_outbox_parked_lane") && !printed.contains("cqrs_outbox"),
        "{printed}"
    );
    cqrs(&with_names(&["outbox", "migrate"])).await.expect_code(0);
    cqrs(&with_names(&["outbox", "check"])).await.expect_code(0);
    site.sql(&format!("INSERT INTO {table} (event_name, topic, payload_text) VALUES ('a', 'b', '{{}}')"))
        .await;
    let said = cqrs_with(&["outbox", "status", "--json", "--database", &site.url], &variables).await;
    let said: Value = serde_json::from_str(&said.expect_code(0)).unwrap();
    assert_eq!(said["waiting"], 1);
    // Which tables are missing, where there are others.
    let ran = cqrs(&["outbox", "status", "--database", &site.url, "--table-prefix", "rooms_"]).await;
    ran.expect_error(3, &["(rooms_outbox)", "cqrs outbox migrate"]);
    let ran =
        cqrs(&["outbox", "migrate", "--print", "--database", &site.url, "--table-prefix", "Rooms"]).await;
    ran.expect_error(2, &["`Rooms`", "lower-case"]);
    if schema.is_none() {
        let ran = cqrs(&["outbox", "status", "--database", &site.url, "--schema", "main"]).await;
        ran.expect_error(2, &["`main`", "SQLite"]);
    }
}

async fn hold(site: Site) {
    site.migrate().await;
    for (command, held) in [("hold", true), ("hold", true), ("resume", false), ("resume", false)] {
        let said = cqrs(&["outbox", command, "--json", "--database", &site.url]).await.expect_code(0);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["hold"], &said["database"]), (&held.into(), &site.shown().into()));
        assert_eq!(site.status().await["hold"], held);
    }
    let said = cqrs(&["outbox", "hold", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains("on hold") && said.contains(&site.shown()), "{said}");
}

async fn order_unit(site: Site) {
    cqrs(&["outbox", "order-unit", "--database", &site.url]).await.expect_error(3, &["migrate"]);
    site.migrate().await;
    let order_unit = async |more: &[&str]| {
        cqrs(&[&["outbox", "order-unit", "--database", &site.url], more].concat()).await
    };
    let said = order_unit(&[]).await.expect_code(0);
    assert!(said.contains(&site.shown()) && said.contains("whatever the topic"), "{said}");
    // As it is written in the tables, and in what is said as JSON.
    order_unit(&["topic_and_key"]).await.expect_code(0);
    let said = order_unit(&["topic-and-key", "--json"]).await.expect_code(0);
    let said: Value = serde_json::from_str(&said).unwrap();
    let unit = Value::from("topic_and_key");
    assert_eq!((&said["order_unit"], &said["database"]), (&unit, &site.shown().into()));
    assert_eq!(site.status().await["order_unit"], unit);
    let status = cqrs(&["outbox", "status", "--database", &site.url]).await.expect_code(0);
    assert!(
        status.contains("in order       topic-and-key: events with the same key are in order on each topic"),
        "{status}"
    );
    order_unit(&["tenant"]).await.expect_error(2, &["tenant", "topic-and-key"]);

    // A key that waits is told with its topic.
    let lane = ["t", "rooms", "\0", "5"].concat();
    let lane = lane.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lane = if site.kind == Kind::Postgres { format!("'\\x{lane}'") } else { format!("x'{lane}'") };
    site.sql(&format!("INSERT INTO cqrs_outbox_gate (lane, slot, error) VALUES ({lane}, 0, 'no')")).await;
    let gates = site.status().await["gates"].clone();
    assert_eq!((&gates[0]["topic"], &gates[0]["key"]), (&"rooms".into(), &"5".into()));
    let status = cqrs(&["outbox", "status", "--database", &site.url]).await.expect_code(0);
    assert!(status.contains("key 5 on rooms, waits for somebody to act: no"), "{status}");
    order_unit(&["topic-and-key"]).await.expect_code(0);
    order_unit(&["key"]).await.expect_error(1, &["`key`", "closed gates (1)"]);
}

/// As a relay leaves it whose broker has refused an event of this key.
async fn refused(site: &Site, key: &str) {
    site.insert("rooms", key, "x").await;
    let (lane, in_an_hour) = match site.kind {
        Kind::Postgres => (format!("'k{key}'"), "now() + interval '1 hour'"),
        Kind::MySql => (format!("'k{key}'"), "utc_timestamp(6) + INTERVAL 1 HOUR"),
        Kind::Sqlite => (format!("CAST('k{key}' AS BLOB)"), "unixepoch('now', '+1 hour')"),
    };
    let columns = "id, event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, payload, payload_text, \
        tombstone, occurred_at, attempts, size, slot";
    site.sql(&format!(
        "INSERT INTO cqrs_outbox_parked ({columns}, lane, error) SELECT {}, {lane}, 'no' FROM cqrs_outbox",
        columns.replace("attempts", "1")
    ))
    .await;
    site.sql("DELETE FROM cqrs_outbox").await;
    site.sql(&format!("INSERT INTO cqrs_outbox_gate (lane, slot, until) VALUES ({lane}, 0, {in_an_hour})"))
        .await;
}

async fn unpark(site: Site) {
    site.migrate().await;
    refused(&site, "5").await;
    refused(&site, "6").await;
    let unpark = async |which: &[&str]| {
        // With the name that a relay knows it by.
        let database = format!("shop={}", site.url);
        cqrs(&[&["outbox", "unpark", "--json", "--database", &database], which].concat()).await
    };
    let unparked = async |which: &[&str]| -> Value {
        let said: Value = serde_json::from_str(&unpark(which).await.expect_code(0)).unwrap();
        assert_eq!(said["database"], site.shown());
        said["unparked"].clone()
    };
    let parked = async |more: &[&str]| {
        cqrs(&[&["outbox", "parked", "--database", &site.url], more].concat()).await.expect_code(0)
    };
    let listed = parked(&["--json", "--oldest-first"]).await;
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<_> = listed.iter().map(|event| (event["key"].clone(), event["topic"].clone())).collect();
    assert_eq!(keys, ["5", "6"].map(|key| (key.into(), "rooms".into())));
    assert!(
        listed.iter().all(|event| event["attempts"] == 1
            && event["error"] == "no"
            && event["tried_again_at"].is_string()),
        "{listed:?}"
    );
    let said = parked(&["--key", "6"]).await;
    for part in ["room_closed for rooms, key 6, 1 attempt, tried again at 2", "\n    no\n", "\n1 event\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (id, after) = (listed[1]["event_id"].as_str().unwrap(), listed[0]["id"].to_string());
    assert_eq!(parked(&["--event-id", id]).await, said);
    assert_eq!(parked(&["--oldest-first", "--after", &after]).await, said);
    assert_eq!(parked(&["--topic", "halls"]).await, "0 events\n");
    assert!(
        parked(&["--oldest-first", "--limit", "1"])
            .await
            .ends_with(&format!("1 event, and there are more: --after {after}\n"))
    );
    assert_eq!(unparked(&["--key", "7"]).await, 0);
    assert_eq!(unparked(&["--topic", "halls"]).await, 0);
    assert_eq!(unparked(&["--event-id", "00000000-0000-4000-8000-000000000000"]).await, 0);
    assert_eq!(unparked(&["--key", "6", "--topic", "rooms"]).await, 1);
    assert_eq!(unparked(&["--key", "6"]).await, 0);
    assert_eq!(unparked(&["--all"]).await, 1);
    let due = |gate: &Value| gate["opens_in_seconds"] == 0.0;
    assert!(site.status().await["gates"].as_array().unwrap().iter().all(due));
    site.sql("UPDATE cqrs_outbox_gate SET until = NULL").await;
    assert!(parked(&["--key", "5"]).await.contains("waits for a dead letter"));
    let said: Value = serde_json::from_str(&parked(&["--key", "5", "--json"]).await).unwrap();
    assert_eq!(said["tried_again_at"], Value::Null);
    unpark(&[]).await.expect_error(2, &["--all", "--key"]);
    unpark(&["--all", "--key", "5"]).await.expect_error(2, &["--all", "--key"]);
    let said = cqrs(&["outbox", "unpark", "--all", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains("nothing that fits waits"), "{said}");
    let two = [("CQRS_DATABASE_URL", &*format!("{}\nb=sqlite://b", site.url))];
    cqrs_with(&["outbox", "unpark", "--all"], &two).await.expect_error(2, &["several databases"]);
}

async fn installation(site: Site) {
    site.migrate().await;
    let id = async || site.status().await["installation_id"].as_str().unwrap().to_owned();
    let before = id().await;
    let relay = async |more: &[&str]| {
        // With nothing to send it needs no broker.
        let relay = ["relay", "--database", &site.url, "--broker", "kafka://127.0.0.1:1", "--until-empty"];
        cqrs(&[&relay, more].concat()).await
    };
    relay(&["--installation-id", &before]).await.expect_code(0);
    let said = cqrs(&["outbox", "renew-id", "--json", "--database", &site.url]).await.expect_code(0);
    let said: Value = serde_json::from_str(&said).unwrap();
    let after = id().await;
    assert_eq!((&said["installation_id"], &said["database"]), (&after.clone().into(), &site.shown().into()));
    assert_eq!(said["before"], before);
    assert_ne!(after, before);
    let ran = relay(&["--installation-id", &before]).await;
    ran.expect_error(2, &[&before, &after, &site.shown(), "renew-id"]);
    relay(&[]).await.expect_code(0);
    // As from a file.
    relay(&["--installation-id", &format!("{after}\n")]).await.expect_code(0);
    relay(&["--installation-id", ""]).await.expect_error(2, &["`--installation-id` is empty"]);
    relay(&["--installation-id", "production"]).await.expect_error(2, &["`production` is no UUID"]);
    relay(&["--installation-id", &format!("x={after}")]).await.expect_error(2, &["no database is named `x`"]);
    let two = ["--database", &format!("other={}", site.url), "--installation-id"];
    relay(&[&two[..], &[&after]].concat()).await.expect_error(2, &["NAME=UUID"]);
    let said = cqrs(&["outbox", "renew-id", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains(&id().await) && said.contains(&site.shown()), "{said}");
}

async fn check(site: Site) {
    site.migrate().await;
    let check = ["outbox", "check", "--database", &site.url];
    let said = cqrs(&check).await.expect_code(0);
    assert!(
        said.contains("are as `cqrs outbox migrate` makes them") && said.contains(&site.shown()),
        "{said}"
    );
    // A difference that may be on purpose is told, and no failure.
    site.sql("CREATE INDEX mine ON cqrs_outbox (attempts)").await;
    let said = cqrs(&check).await.expect_code(0);
    assert!(said.contains("different: the index `mine` of `cqrs_outbox` is there"), "{said}");
    site.sql("DROP TABLE cqrs_outbox_sent").await;
    let ran = cqrs(&check).await;
    assert!(ran.out.contains("wrong: the table `cqrs_outbox_sent` is missing"), "{ran:?}");
    ran.expect_error(3, &["1 of 2 differences", "cqrs outbox migrate"]);
    let ran = cqrs(&[&check[..], &["--json"]].concat()).await;
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let differences = said["differences"].as_array().unwrap();
    let serious: Vec<_> = differences.iter().map(|one| (&one["object"], one["serious"] == true)).collect();
    assert_eq!(
        serious,
        [
            (&"the index `mine` of `cqrs_outbox`".into(), false),
            (&"the table `cqrs_outbox_sent`".into(), true)
        ]
    );
    assert_eq!((&differences[1]["found"], &said["database"]), (&Value::Null, &site.shown().into()));
    assert_eq!((&differences[0]["kind"], &differences[1]["kind"]), (&"added".into(), &"missing".into()));
}

async fn check_without_rights(site: Site) {
    site.migrate().await;
    let mut url = url::Url::parse(&site.url).unwrap();
    let role = format!("role_of{}", url.path().trim_start_matches("/cqrs_cli"));
    site.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")).await;
    url.set_username(&role).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    let check = ["outbox", "check", "--database", url.as_str()];
    let ran = cqrs(&check).await;
    let ran_as_json = cqrs(&[&check[..], &["--json"]].concat()).await;
    site.sql(&format!("DROP ROLE {role}")).await;
    assert!(ran.out.contains("not seen: ") && !ran.out.contains("wrong: "), "{ran:?}");
    ran.expect_error(2, &["may not look at everything", "as the user that migrates"]);
    let said: Value = serde_json::from_str(&ran_as_json.out).unwrap();
    let differences = said["differences"].as_array().unwrap();
    assert!(!differences.is_empty() && differences.iter().all(|one| one["kind"] == "unseen"), "{said}");
}

async fn help() {
    let secrets =
        [("CQRS_DATABASE_URL", "postgres://me:hunter2@h/d"), ("CQRS_BROKER_URL", "amqp://me:hunter2@h")];
    let help = cqrs_with(&["relay", "--help"], &secrets).await.expect_code(0);
    for part in
        ["--database", "CQRS_DATABASE_URL", "--lease", "CQRS_RELAY_LEASE", "[default: 10s]", "SIGTERM"]
    {
        assert!(help.contains(part), "{part}");
    }
    assert!(!help.contains("hunter2"));
    let help = cqrs(&["--help"]).await.expect_code(0);
    for part in ["relay", "outbox", "Exit codes", "4  the database or the broker cannot be reached"] {
        assert!(help.contains(part), "{part}");
    }
    let version = cqrs(&["--version"]).await.expect_code(0);
    assert_eq!(version.trim(), format!("cqrs {}", env!("CARGO_PKG_VERSION")));
}

async fn print() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.sqlite");
    let url = format!("sqlite://{}", file.display());
    let sql = cqrs(&["outbox", "migrate", "--print", "--database", &url]).await.expect_code(0);
    assert!(sql.contains("CREATE TABLE cqrs_outbox (") && sql.contains("AUTOINCREMENT"), "{sql}");
    assert!(!file.exists());
    // Nobody is there.
    for (url, part) in [("postgres://h:1/d", "IDENTITY (CACHE 1)"), ("mysql://h:1/d", "AUTO_INCREMENT")] {
        let sql = cqrs(&["outbox", "migrate", "--print", "--database", url]).await.expect_code(0);
        assert!(sql.contains(part), "{sql}");
    }
}

async fn migrates_once(site: Site) {
    let migrate = ["outbox", "migrate", "--database", &site.url];
    let said = cqrs(&migrate).await.expect_code(0);
    assert!(said.contains("were created, version 1"), "{said}");
    // By the variable.
    let said = cqrs_with(&migrate[..2], &[("CQRS_DATABASE_URL", &site.url)]).await.expect_code(0);
    assert!(said.contains("nothing was to do"), "{said}");
    let said: Value =
        serde_json::from_str(&cqrs(&[&migrate[..], &["--json"]].concat()).await.expect_code(0)).unwrap();
    assert_eq!((&said["from"], &said["to"]), (&1.into(), &1.into()));
    assert!(!said.to_string().contains(":secret@"), "{said}");
}

async fn lost_version(site: Site) {
    site.migrate().await;
    site.insert("rooms", "room 5", "1").await;
    site.sql("DELETE FROM cqrs_outbox_meta").await;
    let ran = cqrs(&["outbox", "check", "--database", &site.url]).await;
    assert!(ran.out.contains("wrong: the content of `cqrs_outbox_meta` is missing"), "{ran:?}");
    ran.expect_error(3, &["1 of 1 differences"]);
    let ran = cqrs(&["outbox", "status", "--database", &site.url]).await;
    ran.expect_error(3, &["the row of `cqrs_outbox_meta`", "run `cqrs outbox migrate`"]);
    let said = cqrs(&["outbox", "migrate", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains("written again: version 1") && said.contains("`cqrs outbox resume`"), "{said}");
    assert_eq!(site.status().await["hold"], true);
}

async fn two_at_once(site: Site) {
    let migrate = ["outbox", "migrate", "--database", &site.url];
    let (one, two) = tokio::join!(cqrs(&migrate), cqrs(&migrate));
    one.expect_code(0);
    two.expect_code(0);
    assert_eq!(site.status().await["schema_version"], 1);
}

async fn status(site: Site) {
    site.migrate().await;
    for nth in 0..3 {
        site.insert("rooms", "room 5", &nth.to_string()).await;
    }
    let status = site.status().await;
    let groups = if site.kind == Kind::Sqlite { 1 } else { 64 };
    for (name, wanted) in [
        ("waiting", 3),
        ("parked", 0),
        ("closed_gates", 0),
        ("scheduled", 0),
        ("dead_letters", 0),
        ("groups", groups),
        ("unowned_groups", groups),
    ] {
        assert_eq!(status[name], wanted, "{name}: {status}");
    }
    assert_eq!((&status["hold"], &status["relays"]), (&false.into(), &Value::Array(Vec::new())));
    assert!(
        status["oldest_waiting_seconds"].as_f64().is_some_and(|age| (0.0..600.0).contains(&age)),
        "{status}"
    );
    let said = cqrs(&["outbox", "status", "--database", &site.url]).await.expect_code(0);
    for part in [
        "3 events, the oldest for ",
        "none is at work",
        "version 1",
        &format!("{groups} of them without an owner"),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains(":secret@"), "{said}");

    let lane = if site.kind == Kind::Postgres { "'\\x6b726f6f6d2035'" } else { "x'6b726f6f6d2035'" };
    site.sql(&format!("INSERT INTO cqrs_outbox_gate (lane, slot, error) VALUES ({lane}, 0, 'too large')"))
        .await;
    let gates = &site.status().await["gates"];
    assert_eq!((&gates[0]["key"], &gates[0]["error"]), (&"room 5".into(), &"too large".into()), "{gates}");
    let said = cqrs(&["outbox", "status", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains("key room 5, waits for somebody to act: too large"), "{said}");

    let (column, now) = match site.kind {
        Kind::Sqlite => (", seen_at", ", unixepoch('now')"),
        _ => ("", ""),
    };
    site.sql(&format!(
        "INSERT INTO cqrs_outbox_relay (incarnation, name, version, suspended{column}) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'one', '1', '[[\"orders\", \"no such topic\"]]'{now})"
    ))
    .await;
    let relays = &site.status().await["relays"];
    let wanted = serde_json::json!([{ "topic": "orders", "error": "no such topic" }]);
    assert_eq!(relays[0]["suspended"], wanted, "{relays}");
    let said = cqrs(&["outbox", "status", "--database", &site.url]).await.expect_code(0);
    assert!(said.contains("cannot reach the topic orders: no such topic"), "{said}");
}
