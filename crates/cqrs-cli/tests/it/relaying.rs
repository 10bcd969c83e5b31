//! Relays as processes: alone, in company, stopped and killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cqrs::app::connect_broker;
use cqrs::broker::{SubscribeOptions, Subscription};
use cqrs::{ErrorClass, Message, MessageBroker};
use cqrs_testing::services::{Server, Service, trial, trial_with, trial_with_own};
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::run;
use crate::site::{Kind, Site, cqrs};
use crate::support::Relay;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    on_each(&mut trials, "plain_sql_is_relayed_until_empty", until_empty);
    on_each(&mut trials, "a_stopped_relay_is_followed_at_once", followed_at_once);
    on_each(&mut trials, "a_relay_that_fails_says_what_it_did_and_is_followed_at_once", fails);
    on_each(&mut trials, "a_killed_relay_is_followed_after_its_lease", followed_after_its_lease);
    on_each(&mut trials, "what_was_sent_is_kept_for_so_long", kept);
    // SQLite has one group, which nobody can share.
    for kind in [Kind::Postgres, Kind::MySql] {
        trials.push(with_rabbitmq(kind, "two_relays_share_the_groups", shared));
    }
    for kind in [Kind::Postgres, Kind::MySql] {
        trials.push(with_rabbitmq(kind, "two_databases_of_different_kinds_are_served", two_databases));
    }
    on_each(&mut trials, "a_database_without_tables_keeps_no_other_one_waiting", one_without_tables);
    trials.push(with_rabbitmq(Kind::Postgres, "two_schemas_are_served", two_schemas));
    trials.push(trial_with_own(
        &[Service::Postgres, Service::Amqp],
        &[Service::Postgres],
        "a_database_that_goes_away_keeps_no_other_one_waiting",
        || run(one_goes_away()),
    ));
    trials.push(with_rabbitmq(Kind::Postgres, "a_notification_wakes_the_relay", notified));
    trials
        .push(trial(Service::Amqp, "rabbitmq::a_topology_of_others_is_met", |broker| run(topology(broker))));
    trials.push(trial(Service::Amqp, "rabbitmq::what_cannot_be_reached_is_told_and_heals", |broker| {
        run(destinations(broker))
    }));
    trials.push(trial(
        Service::Amqp,
        "rabbitmq::what_never_comes_is_given_up_if_it_is_asked_for",
        |broker| run(destination_timeout(broker)),
    ));
    trials.push(trial(Service::Kafka, "kafka::linger_and_json", |servers| run(kafka(servers))));
    trials
}

/// A test for each kind of database, each with RabbitMQ.
fn on_each<F>(trials: &mut Vec<Trial>, name: &str, test: fn(Site, Road) -> F)
where
    F: Future<Output = ()> + 'static,
{
    trials.extend([Kind::Sqlite, Kind::Postgres, Kind::MySql].map(|kind| with_rabbitmq(kind, name, test)));
}

fn with_rabbitmq<F>(kind: Kind, name: &str, test: fn(Site, Road) -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    let name = format!("{kind}::{name}");
    let start = move |database: String, broker: String| {
        run(async move {
            let site = Site::new(kind, database).await;
            site.migrate().await;
            test(site, Road::to(broker).await).await;
        })
    };
    match kind {
        Kind::Sqlite => trial(Service::Amqp, name, move |broker| start(String::new(), broker)),
        Kind::Postgres => trial_with([Service::Postgres, Service::Amqp], name, move |[database, broker]| {
            start(database, broker)
        }),
        Kind::MySql => trial_with([Service::MySql, Service::Amqp], name, move |[database, broker]| {
            start(database, broker)
        }),
    }
}

/// A topic with someone who listens to it.
struct Road {
    broker_url: String,
    broker: Arc<dyn MessageBroker>,
    topic: String,
    member: Box<dyn Subscription>,
}

impl Road {
    async fn to(broker_url: String) -> Self {
        let topic = format!("cqrs-cli-{}", Uuid::new_v4().simple());
        let broker = connect_broker(&broker_url).unwrap();
        let member = broker
            .subscribe(SubscribeOptions::new(format!("{topic}-group"), [topic.as_str()]))
            .await
            .unwrap();
        Self { broker_url, broker, topic, member }
    }

    async fn next(&mut self) -> Message {
        let delivery = self.member.next().await.unwrap().unwrap();
        let message = delivery.message().clone();
        delivery.ack().await.unwrap();
        message
    }

    async fn expect(&mut self, payload: &str) -> Message {
        let message = self.next().await;
        assert_eq!(message.payload.as_deref(), Some(payload.as_bytes()));
        message
    }

    fn arguments<'a>(&'a self, site: &'a Site, more: &[&'a str]) -> Vec<&'a str> {
        [&["--database", &site.url, "--broker", &self.broker_url], more].concat()
    }
}

async fn until_empty(site: Site, mut road: Road) {
    site.insert(&road.topic, "room 5", "one").await;
    site.insert(&road.topic, "room 5", "two").await;
    let arguments = [vec!["relay", "--until-empty"], road.arguments(&site, &[])].concat();
    let said = cqrs(&arguments).await.expect_code(0);
    assert!(said.contains("2 published, 2 confirmed, 2 settled"), "{said}");
    let message = road.expect("one").await;
    assert_eq!(message.key.as_deref(), Some(&b"room 5"[..]));
    road.expect("two").await;
    assert_eq!(site.status().await["waiting"], 0);
}

async fn kept(site: Site, mut road: Road) {
    site.insert(&road.topic, "room 5", "one").await;
    let arguments = [vec!["relay", "--until-empty"], road.arguments(&site, &[])].concat();
    cqrs(&[&arguments[..], &["--keep-sent"]].concat()).await.expect_code(0);
    road.expect("one").await;
    assert_eq!(site.count("cqrs_outbox_sent").await, 1);
    // It is kept, and what is older goes.
    site.insert(&road.topic, "room 5", "two").await;
    site.sql("UPDATE cqrs_outbox_sent SET sent_at = '2026-01-31 08:00:00'").await;
    let (relay, _) = Relay::start(&road.arguments(&site, &["--keep-sent-for", "1h"])).await;
    road.expect("two").await;
    let left = async {
        while site.status().await["waiting"] != 0 || site.count("cqrs_outbox_sent").await != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), left).await.expect("what is old does not go");
    relay.stop().await;
    assert_eq!(site.count("cqrs_outbox_sent WHERE sent_at > '2026-02-01 08:00:00'").await, 1);
}

async fn sqlite() -> Site {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    site
}

/// The other one is of SQLite.
async fn two_databases(site: Site, mut road: Road) {
    let other = sqlite().await;
    site.insert(&road.topic, "room 5", "one").await;
    other.insert(&road.topic, "room 5", "one").await;
    let both = ["relay", "--until-empty", "--json", "--database", &other.url];
    let arguments = [&both[..], &road.arguments(&site, &[])].concat();
    let said = cqrs(&arguments).await.expect_code(0);
    road.expect("one").await;
    road.expect("one").await;
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for shown in [&other.shown(), &site.shown()] {
        let line = said.iter().find(|line| line["event"] == "stopped" && line["database"] == **shown);
        assert_eq!(line.unwrap_or_else(|| panic!("{said:?}"))["settled"], 1);
    }
    // By a variable, as a service has it; and a stop.
    let mut relay = crate::support::program();
    let urls = format!("here={}\n{}\n", other.url, site.url);
    relay.args(["relay", "--broker", &road.broker_url]).env("CQRS_DATABASE_URL", urls);
    let mut relay = Relay::from_command(relay);
    let mut ready = vec![relay.is_ready().await, relay.is_ready().await];
    ready.sort_by_key(|line| !line.contains("here ("));
    assert!(ready[0].contains(&format!("here ({})", other.shown())), "{ready:?}");
    assert!(ready[1].contains(&site.shown()), "{ready:?}");
    other.insert(&road.topic, "room 5", "two").await;
    road.expect("two").await;
    site.insert(&road.topic, "room 5", "three").await;
    road.expect("three").await;
    relay.stop().await;
}

async fn two_schemas(site: Site, mut road: Road) {
    let mut urls = Vec::new();
    for schema in ["orders", "billing"] {
        site.sql(&format!("CREATE SCHEMA {schema}")).await;
        let url = format!("{}?options=-csearch_path%3D{schema}", site.url);
        cqrs(&["outbox", "migrate", "--database", &url]).await.expect_code(0);
        site.sql(&format!(
            "INSERT INTO {schema}.cqrs_outbox (event_name, topic, payload_text) VALUES ('closed', '{}', 'x')",
            road.topic
        ))
        .await;
        urls.push((schema, url));
    }
    let named: Vec<_> = urls.iter().map(|(schema, url)| format!("{schema}={url}")).collect();
    let relay =
        ["relay", "--until-empty", "--broker", &road.broker_url, "--database", &named[0], "--database"];
    cqrs(&[&relay[..], &[&*named[1]]].concat()).await.expect_code(0);
    road.expect("x").await;
    road.expect("x").await;
    // Without names nobody could tell them apart.
    let unnamed = ["relay", "--broker", &road.broker_url, "--database", &urls[0].1, "--database", &urls[1].1];
    cqrs(&unnamed).await.expect_error(2, &["two of the databases are", &site.shown(), "NAME=URL"]);
}

/// Somebody is about to migrate it. Of SQLite there is no file yet.
async fn one_without_tables(site: Site, mut road: Road) {
    let other = Site::new(site.kind, site.server()).await;
    let (name, broker_url) = (format!("other={}", other.url), road.broker_url.clone());
    let arguments =
        ["--broker", &broker_url, "--database", &site.url, "--database", &name, "--max-backoff", "200ms"];
    let mut relay = Relay::spawn_warning(&arguments);
    relay.is_ready().await;
    relay.warns(&["cannot go on", "other", "tables are missing", "tried again"]).await;
    site.insert(&road.topic, "room 5", "one").await;
    road.expect("one").await;
    other.migrate().await;
    other.insert(&road.topic, "room 5", "two").await;
    road.expect("two").await;
    assert!(relay.is_ready().await.contains("other"));
    relay.stop().await;

    // Until empty nobody waits for a migration, and the exit code says that there is one to run.
    other.sql("DROP TABLE cqrs_outbox_meta").await;
    site.insert(&road.topic, "room 5", "three").await;
    let until_empty = [&["relay", "--until-empty"], &arguments[..]].concat();
    cqrs(&until_empty).await.expect_error(3, &["the relay of other cannot go on"]);
    road.expect("three").await;
}

async fn one_goes_away() {
    let own = tokio::task::spawn_blocking(|| Server::start(Service::Postgres).unwrap()).await.unwrap();
    let (site, other) = (Site::new(Kind::Postgres, own.url().to_owned()).await, sqlite().await);
    site.migrate().await;
    let mut road = Road::to(Service::Amqp.given().unwrap()).await;
    let both = ["--max-backoff", "200ms", "--database", &other.url];
    let mut relay = Relay::spawn_warning(&road.arguments(&site, &both));
    relay.is_ready().await;
    relay.is_ready().await;
    own.kill().unwrap();
    relay.warns(&["the outbox's database failed", &site.shown()]).await;
    for payload in ["one", "two"] {
        other.insert(&road.topic, "room 5", payload).await;
        road.expect(payload).await;
    }
    let own = tokio::task::spawn_blocking(move || {
        own.start_again().unwrap();
        own
    });
    let own = own.await.unwrap();
    site.insert(&road.topic, "room 5", "three").await;
    road.expect("three").await;
    relay.stop().await;
    drop(own);
}

/// It would poll in an hour.
async fn notified(site: Site, mut road: Road) {
    let seldom = ["--notifications", "--poll-interval", "1h"];
    let (relay, _) = Relay::start(&road.arguments(&site, &seldom)).await;
    for payload in ["one", "two"] {
        site.insert(&road.topic, "room 5", payload).await;
        site.sql("NOTIFY cqrs_outbox").await;
        road.expect(payload).await;
    }
    relay.stop().await;
}

/// Longer than any test lasts: nobody takes over because a lease has expired.
const LONG: [&str; 4] = ["--lease", "10m", "--heartbeat-interval", "200ms"];

async fn followed_at_once(site: Site, mut road: Road) {
    let (first, ready) =
        Relay::start(&road.arguments(&site, &[&LONG[..], &["--name", "first"]].concat())).await;
    assert!(ready.starts_with("ready: relay first, ") && ready.contains(&site.shown()), "{ready}");
    let (second, _) =
        Relay::start(&road.arguments(&site, &[&LONG[..], &["--name", "second"]].concat())).await;
    let last_words = first.stop().await;
    assert!(last_words.starts_with("stopped: relay first, "), "{last_words}");
    // Whichever group it is in.
    for nth in 0..10 {
        site.insert(&road.topic, &format!("room {nth}"), "x").await;
    }
    for _ in 0..10 {
        road.expect("x").await;
    }
    second.stop().await;
    let status = site.status().await;
    assert_eq!((&status["waiting"], &status["unowned_groups"]), (&0.into(), &status["groups"]), "{status}");
}

/// Somebody changes under it what only the program may change, and only where nobody goes by it.
async fn fails(site: Site, mut road: Road) {
    let (relay, _) = Relay::start(
        &road.arguments(&site, &["--lease", "10m", "--heartbeat-interval", "200ms", "--name", "first"]),
    )
    .await;
    site.insert(&road.topic, "room 5", "one").await;
    road.expect("one").await;
    site.sql("UPDATE cqrs_outbox_meta SET order_unit = 'topic_and_key'").await;
    let last_words = relay.ends(3).await;
    assert!(
        last_words.starts_with("stopped: relay first, ") && last_words.contains(" 1 confirmed"),
        "{last_words}"
    );
    let (next, _) = Relay::start(&road.arguments(&site, &LONG)).await;
    site.insert(&road.topic, "room 5", "two").await;
    // What the first one had not settled yet when it was ended comes again.
    while road.next().await.payload.as_deref() != Some(b"two") {}
    next.stop().await;
}

/// So short that a test can wait for its end.
const SHORT: [&str; 8] = [
    "--lease",
    "1s",
    "--lease-margin",
    "200ms",
    "--heartbeat-interval",
    "200ms",
    "--publish-timeout",
    "800ms",
];

async fn followed_after_its_lease(site: Site, mut road: Road) {
    let (mut first, _) = Relay::start(&road.arguments(&site, &SHORT)).await;
    site.insert(&road.topic, "room 5", "one").await;
    road.expect("one").await;
    first.kill().await;
    site.insert(&road.topic, "room 5", "two").await;
    let (second, _) = Relay::start(&road.arguments(&site, &SHORT)).await;
    // What was in flight at the kill may come again.
    while road.next().await.payload.as_deref() != Some(b"two") {}
    second.stop().await;
}

async fn shared(site: Site, mut road: Road) {
    let arguments = |name| road.arguments(&site, &[&SHORT[..], &["--name", name]].concat());
    let (first, second) =
        (Relay::start(&arguments("first")).await.0, Relay::start(&arguments("second")).await.0);
    let owned = async || {
        let status = site.status().await;
        let relays = status["relays"].as_array().unwrap().clone();
        let owned = |relay: &Value| {
            (relay["name"].as_str().unwrap().to_owned(), relay["owned_groups"].as_u64().unwrap())
        };
        relays.iter().map(owned).collect::<BTreeMap<_, _>>()
    };
    while owned().await.values().copied().collect::<Vec<_>>() != [32, 32] {}
    for nth in 0..200 {
        site.insert(&road.topic, &format!("room {nth}"), "x").await;
    }
    for _ in 0..200 {
        road.expect("x").await;
    }
    for relay in [first, second] {
        let last_words = relay.stop().await;
        assert!(!last_words.contains(" 0 published"), "one of them did it all: {last_words}");
    }
}

/// Nobody has a queue for one topic, and the exchange of another is of another kind.
async fn destinations(broker_url: String) {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    let (_folder, direct) = declared_by_others(&broker_url, "{topic}");
    let clash = Road::to(direct).await;
    let nowhere = format!("cqrs-cli-{}", Uuid::new_v4().simple());
    site.insert(&nowhere, "room 5", "one").await;
    site.insert(&clash.topic, "room 6", "two").await;
    let mut relay =
        Relay::spawn_warning(&["--database", &site.url, "--broker", &broker_url, "--max-backoff", "200ms"]);
    relay.is_ready().await;
    let place = broker_url.rsplit_once('@').unwrap().1;
    for parts in [
        [&*nowhere, "no queue is bound", ":***@", place],
        [&*clash.topic, "other properties", ":***@", place],
    ] {
        relay.warns(&parts).await;
    }
    let broker = connect_broker(&broker_url).unwrap();
    let mut member = broker.subscribe(SubscribeOptions::new("g", [nowhere.as_str()])).await.unwrap();
    let delivery = member.next().await.unwrap().unwrap();
    assert_eq!(delivery.message().payload.as_deref(), Some(&b"one"[..]));
    delivery.ack().await.unwrap();
    while site.status().await["waiting"] != 1 {}
    relay.stop().await;
}

/// Nobody has a queue for a topic, and the relay is told how long to wait for one.
async fn destination_timeout(broker_url: String) {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    let mut road = Road::to(broker_url).await;
    let nowhere = format!("cqrs-cli-{}", Uuid::new_v4().simple());
    site.insert(&nowhere, "room 5", "one").await;
    site.insert(&nowhere, "room 6", "two").await;
    site.insert(&road.topic, "room 7", "three").await;
    let relay = ["relay", "--until-empty", "--max-backoff", "200ms", "--destination-timeout", "1s"];
    cqrs(&[&relay[..], &road.arguments(&site, &[])].concat()).await.expect_code(0);
    road.expect("three").await;
    let status = site.status().await;
    assert_eq!((&status["waiting"], &status["dead_letters"]), (&0.into(), &2.into()), "{status}");
    let list = cqrs(&["dead", "list", "--database", &site.url]).await.expect_code(0);
    assert!(list.contains(&nowhere) && list.contains("no queue is bound"), "{list}");
}

/// A file with a topology as others have it, one direct exchange of that name, and the broker's URL with it.
fn declared_by_others(broker_url: &str, exchange: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("topology.json");
    let topology = serde_json::json!({
        "exchange": { "name": exchange, "kind": "direct", "durable": false, "auto_delete": true },
        "routing_key": "{topic}",
        "queue": { "name": "{topic}", "durable": false },
        "binding": { "routing_key": "{topic}" },
    });
    std::fs::write(&file, topology.to_string()).unwrap();
    (folder, format!("{broker_url}?topology={}", file.display()))
}

async fn topology(broker_url: String) {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    let exchange = format!("cqrs-cli-{}", Uuid::new_v4().simple());
    let (_folder, declared) = declared_by_others(&broker_url, &exchange);
    let mut road = Road::to(declared).await;
    site.insert(&road.topic, "room 5", "one").await;
    let arguments = [vec!["relay", "--until-empty"], road.arguments(&site, &[])].concat();
    cqrs(&arguments).await.expect_code(0);
    road.expect("one").await;
    // Without it, nobody is there to take it.
    let plain = connect_broker(&broker_url).unwrap();
    let error = plain.publish(Message::new(&road.topic, "two")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
}

async fn kafka(servers: String) {
    let site = Site::new(Kind::Sqlite, String::new()).await;
    site.migrate().await;
    let mut road =
        Road::to(format!("kafka://{servers}?allow.auto.create.topics=true&session.timeout.ms=6000")).await;
    let more = ["--json", "--name", "first", "--linger", "2ms", "--later-events", "go-on"];
    let (relay, ready) = Relay::start(&road.arguments(&site, &more)).await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(
        (&ready["event"], &ready["relay"], &ready["owned_groups"]),
        (&"ready".into(), &"first".into(), &1.into())
    );
    site.insert(&road.topic, "room 5", "one").await;
    road.expect("one").await;
    let stopped: Value = serde_json::from_str(&relay.stop().await).unwrap();
    assert_eq!((&stopped["event"], &stopped["settled"]), (&"stopped".into(), &1.into()));
    road.broker.close().await.unwrap();
}
