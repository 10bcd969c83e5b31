//! `cqrs scheduled`.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::dead::id;
use crate::on_each;
use crate::site::{Kind, Ran, Site, cqrs};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    on_each(&mut trials, "scheduled_events_are_listed_and_shown", listed);
    on_each(&mut trials, "scheduled_events_are_cancelled_and_moved", changed);
    trials
}

async fn scheduled(site: &Site, arguments: &[&str]) -> Ran {
    cqrs(&[&["scheduled"], arguments, &["--database", &site.url]].concat()).await
}

async fn scheduled_json(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let said = scheduled(site, &[arguments, &["--json"]].concat()).await.expect_code(0);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Events of these topics and keys, in far years, the first one last.
async fn schedule(site: &Site, events: &[(&str, &str)]) {
    for (nth, (topic, key)) in (1..).zip(events) {
        let year = 2100 - nth;
        let (key, at) = match site.kind {
            Kind::Postgres => (format!("convert_to('{key}', 'UTF8')"), format!("'{year}-01-31T08:00:00Z'")),
            Kind::MySql => (format!("'{key}'"), format!("'{year}-01-31 08:00:00'")),
            Kind::Sqlite => (format!("'{key}'"), format!("unixepoch('{year}-01-31 08:00:00')")),
        };
        site.sql(&format!(
            "INSERT INTO cqrs_outbox_scheduled (event_id, event_name, topic, message_key, payload_text, deliver_at) \
             VALUES ('{}', 'room_closed', '{topic}', {key}, '{{\"nth\": {nth}}}', {at})",
            id(nth),
        ))
        .await;
    }
}

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

async fn listed(site: Site) {
    site.migrate().await;
    assert_eq!(scheduled(&site, &["list"]).await.expect_code(0), "0 events\n");
    schedule(&site, &[("rooms", "5"), ("halls", "6"), ("rooms", "7")]).await;
    assert_eq!(ids(&scheduled_json(&site, &["list"]).await), [id(3), id(2), id(1)]);
    assert_eq!(ids(&scheduled_json(&site, &["list", "--topic", "rooms"]).await), [id(3), id(1)]);
    assert_eq!(ids(&scheduled_json(&site, &["list", "--key", "6", "--name", "room_closed"]).await), [id(2)]);
    let before = scheduled_json(&site, &["list", "--before", "2098-12-31T00:00:00Z"]).await;
    assert_eq!(ids(&before), [id(3), id(2)]);
    let said = scheduled(&site, &["list", "--limit", "2"]).await.expect_code(0);
    for part in
        ["2097-01-31T08:00:00.000Z", &id(3), "room_closed for halls, key 6", "2 events, and there are more"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains(&id(1)), "{said}");
    let Ran { out, err, .. } = scheduled(&site, &["list", "--limit", "2", "--json"]).await;
    assert_eq!((out.lines().count(), &*err), (2, "{\"more\":true}\n"));

    let shown = scheduled_json(&site, &["show", &id(2)]).await.remove(0);
    assert_eq!((&shown["payload"], &shown["topic"]), (&r#"{"nth": 2}"#.into(), &"halls".into()));
    assert_eq!(shown["deliver_at"], "2098-01-31T08:00:00.000Z");
    let said = scheduled(&site, &["show", &id(2)]).await.expect_code(0);
    for part in ["due            2098-01-31T08:00:00.000Z", "header         cqrs-id: ", "\n\n{\"nth\": 2}\n"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    scheduled(&site, &["show", &id(9)]).await.expect_error(1, &[&id(9), "waits for its time"]);
    scheduled(&site, &["list", "--before", "tomorrow"])
        .await
        .expect_error(2, &["tomorrow", "2026-01-31T08:00:00Z"]);
}

async fn changed(site: Site) {
    site.migrate().await;
    schedule(&site, &[("rooms", "5"), ("rooms", "6")]).await;
    let said = scheduled(&site, &["reschedule", &id(2), "--at", "2200-01-31T08:00:00Z"]).await.expect_code(0);
    assert!(said.contains("2200-01-31T08:00:00.000Z"), "{said}");
    assert_eq!(ids(&scheduled_json(&site, &["list"]).await), [id(1), id(2)]);
    let moved = scheduled_json(&site, &["reschedule", &id(2), "--after", "1h"]).await.remove(0);
    assert_eq!(scheduled_json(&site, &["show", &id(2)]).await[0]["deliver_at"], moved["deliver_at"]);
    assert_eq!(ids(&scheduled_json(&site, &["list"]).await), [id(2), id(1)]);
    let said = scheduled(&site, &["reschedule", &id(1), "--at", "2020-01-31T08:00:00Z"]).await.expect_code(0);
    assert!(said.contains("is due now"), "{said}");
    // No relay has taken it up.
    scheduled(&site, &["reschedule", &id(1), "--after", "900days"]).await.expect_code(0);
    let cancelled = scheduled_json(&site, &["cancel", &id(2)]).await.remove(0);
    assert_eq!((&cancelled["event_id"], &cancelled["cancelled"]), (&id(2).into(), &true.into()));
    assert_eq!(ids(&scheduled_json(&site, &["list"]).await), [id(1)]);
    // Too late, and what is no time.
    let (first, second) = (id(1), id(2));
    for (arguments, code, parts) in [
        (&["cancel", &*second][..], 1, &[&*second, "waits for its time"][..]),
        (&["reschedule", &second, "--after", "1h"], 1, &[&second, "waits for its time"]),
        (&["reschedule", &first], 2, &["--at", "--after"]),
        (
            &["reschedule", &first, "--after", "1h", "--at", "2200-01-31T08:00:00Z"],
            2,
            &["cannot be used with"],
        ),
        (&["reschedule", &first, "--after", "soon"], 2, &["such as 10s"]),
        (&["reschedule", &first, "--after", "300000years"], 2, &["too long"]),
        (&["reschedule", &first, "--after", "9000years"], 2, &["the last year is 9999"]),
    ] {
        scheduled(&site, arguments).await.expect_error(code, parts);
    }
    assert_eq!(ids(&scheduled_json(&site, &["list"]).await), [first]);
}
