//! `cqrs dead`.

use std::fmt::Write as _;
use std::time::Duration;

use cqrs::outbox::{Heartbeat, RelayId};
use libtest_mimic::Trial;
use serde_json::Value;
use uuid::Uuid;

use crate::on_each;
use crate::site::{Kind, Ran, Site, cqrs, cqrs_with};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    on_each(&mut trials, "dead_letters_are_listed_counted_and_shown", listed);
    on_each(&mut trials, "what_is_not_there_is_told", not_there);
    on_each(&mut trials, "replay_and_discard_are_asked_for", asked_for);
    on_each(&mut trials, "what_was_asked_for_is_told", requests);
    on_each(&mut trials, "what_was_asked_for_is_taken_back", cancelled);
    on_each(&mut trials, "more_than_one_needs_a_yes", yes);
    on_each(&mut trials, "what_is_to_be_sent_is_changed", edited);
    trials
}

/// A relay's heartbeat, which carries out what was asked for.
async fn beat(site: &Site) {
    let relay = RelayId { name: "it".to_owned(), incarnation: Uuid::new_v4() };
    let beat = Heartbeat { lease: Duration::from_secs(600), take: usize::MAX, release: Vec::new() };
    let store = site.store().await;
    store.heartbeat(&relay, &beat).await.unwrap();
    store.leave(&relay).await.unwrap();
}

async fn asked_for(site: Site) {
    site.migrate().await;
    bury(&site, &[("rooms", "5"), ("rooms", "6"), ("halls", "5"), ("halls", "6")]).await;
    let replayed =
        |asked: Value| (asked["dead_letters"].clone(), asked["more"].clone(), asked["event_ids"].clone());
    // What would be.
    let asked = dead_json(&site, &["replay", "--topic", "rooms", "--dry-run"]).await.remove(0);
    assert_eq!(replayed(asked), (2.into(), false.into(), vec![id(1), id(2)].into()));
    let said = dead(&site, &["discard", "--all", "--limit", "3", "--dry-run"]).await.expect_code(0);
    assert!(said.contains(&id(3)) && !said.contains(&id(4)), "{said}");
    assert!(said.contains("3 dead letters would be discarded, and there are more"), "{said}");
    assert_eq!(dead_json(&site, &["requests"]).await.len(), 0);
    let said = dead(&site, &["replay", "--all", "--limit", "2", "--dry-run"]).await.expect_code(0);
    assert!(said.contains("of which it is the turn when these are none any more"), "{said}");
    // One by its id, a key, a topic.
    let said = dead(&site, &["replay", &id(1)]).await.expect_code(0);
    assert!(said.contains("1 dead letter is to be replayed"), "{said}");
    let asked = dead_json(&site, &["discard", "--key", "6", "--yes"]).await.remove(0);
    assert_eq!(replayed(asked), (2.into(), false.into(), vec![id(2), id(4)].into()));
    assert_eq!(site.status().await["dead_letters"], 4);
    beat(&site).await;
    let status = site.status().await;
    assert_eq!((&status["dead_letters"], &status["parked"]), (&1.into(), &1.into()));
    // Nothing fits.
    let said = dead(&site, &["replay", "--topic", "rooms"]).await.expect_code(0);
    assert!(said.starts_with("0 dead letters"), "{said}");
    for command in ["replay", "discard"] {
        let gone = dead(&site, &[command, &id(1)]).await;
        gone.expect_error(1, &["no dead letter", &id(1), command]);
        let gone = dead(&site, &[command, "--event-id", &id(1)]).await;
        gone.expect_error(1, &["no dead letter", &id(1), command]);
    }
}

async fn requests(site: Site) {
    site.migrate().await;
    assert_eq!(dead(&site, &["requests"]).await.expect_code(0), "0 requests\n");
    bury(&site, &[("rooms", "5"), ("rooms", "6"), ("rooms", "7")]).await;
    let by = |requests: &[Value]| {
        requests.iter().map(|request| request["requested_by"].clone()).collect::<Vec<_>>()
    };
    // The first is due at once, the others in weeks.
    dead_json(&site, &["replay", "--all", "--rate", "0.000001", "--yes", "--requested-by", "ada"]).await;
    let variables = [("USER", "lin"), ("CQRS_DATABASE_URL", &*site.url)];
    let said = cqrs_with(&["dead", "discard", &id(3)], &variables).await.expect_code(0);
    assert!(said.contains("asked by ada") && said.contains("cqrs dead cancel 3"), "{said}");
    let said = dead_json(&site, &["discard", "--all", "--dry-run"]).await.remove(0);
    assert_eq!(said["open_before"].as_array().map(Vec::len), Some(4), "{said}");
    let said = dead(&site, &["discard", "--all", "--dry-run"]).await.expect_code(0);
    assert!(said.contains("4 requests for them were open before"), "{said}");
    beat(&site).await;
    let requests = dead_json(&site, &["requests", "--oldest-first"]).await;
    assert_eq!(by(&requests), ["ada", "ada", "ada", "lin"]);
    let outcomes: Vec<_> = requests.iter().map(|request| &request["outcome"]).collect();
    assert_eq!(outcomes, [&Value::from("replayed"), &Value::Null, &"discarded".into(), &"discarded".into()]);
    let open = dead_json(&site, &["requests", "--open"]).await;
    assert_eq!(open, [requests[1].clone()]);
    let (about, more) = page(&site, &["requests", "--event-id", &id(3), "--limit", "1"]).await;
    assert_eq!((about, more), (vec![requests[3].clone()], serde_json::json!({ "more": true, "after": 4 })));
    let said = dead(&site, &["requests", "--limit", "2", "--oldest-first"]).await.expect_code(0);
    for part in ["replay", &id(1), "asked by ada: replayed at ", "open, not before ", "more: --after 2"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

async fn cancelled(site: Site) {
    site.migrate().await;
    bury(&site, &[("rooms", "5"), ("rooms", "6"), ("rooms", "7")]).await;
    dead_json(&site, &["replay", "--all", "--rate", "0.000001", "--yes"]).await;
    beat(&site).await;
    let said = dead(&site, &["cancel", "2"]).await.expect_code(0);
    assert_eq!(said, "1 request cancelled\n");
    // The first is done, the second cancelled, and there is no ninth.
    for number in ["1", "2", "9"] {
        dead(&site, &["cancel", number]).await.expect_error(1, &["no open request", number]);
    }
    dead(&site, &["cancel", "--event-id", &id(2)]).await.expect_error(1, &["no open request", &id(2)]);
    assert_eq!(dead_json(&site, &["cancel", "--all"]).await[0]["cancelled"], 1);
    assert_eq!(dead_json(&site, &["cancel", "--all"]).await[0]["cancelled"], 0);
    let outcomes = dead_json(&site, &["requests", "--oldest-first"]).await;
    let outcomes: Vec<_> = outcomes.iter().map(|request| &request["outcome"]).collect();
    assert_eq!(outcomes, ["replayed", "cancelled", "cancelled"]);
    // Which ones has to be said, in one way.
    dead(&site, &["cancel"]).await.expect_error(2, &["required"]);
    dead(&site, &["cancel", "1", "--all"]).await.expect_error(2, &["cannot be used with"]);
}

async fn edited(site: Site) {
    site.migrate().await;
    bury(&site, &[("rooms", "5"), ("rooms", "6"), ("rooms", "7")]).await;
    let edit = async |arguments: &[&str]| {
        let variables = [("USER", "lin"), ("CQRS_DATABASE_URL", &*site.url)];
        cqrs_with(&[&["outbox", "edit"], arguments].concat(), &variables).await
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"room":7}"#).unwrap();
    let path = file.path().to_str().unwrap();
    let changes = ["--payload-file", path, "--header", "schema=rooms/2", "--header", "raw=hex:00ff"];
    let said = edit(&[&[&*id(1)], &changes[..]].concat()).await.expect_code(0);
    assert!(said.contains(&id(1)) && said.contains("cqrs dead replay"), "{said}");
    let shown = dead_json(&site, &["show", &id(1)]).await.remove(0);
    assert_eq!(shown["payload"], r#"{"room":7}"#);
    let header = |shown: &Value, name: &str| {
        let headers = shown["headers"].as_array().unwrap().clone();
        headers.into_iter().find(|header| header[0] == name).map(|header| header[1].clone())
    };
    assert_eq!(header(&shown, "schema"), Some("rooms/2".into()));
    assert_eq!(header(&shown, "raw"), Some(serde_json::json!({ "hex": "00ff" })));

    let said = edit(&[&id(1), "--tombstone", "--remove-header", "raw", "--json"]).await.expect_code(0);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["event_id"], &said["edited"]), (&id(1).into(), &"dead_letter".into()));
    let shown = dead_json(&site, &["show", &id(1)]).await.remove(0);
    assert_eq!((&shown["payload"], header(&shown, "raw")), (&Value::Null, None));
    edit(&[&id(1), "--payload", "", "--remove-headers"]).await.expect_error(1, &["no JSON", "content-type"]);
    edit(&[&id(1), "--payload", "5", "--remove-headers", "--header", "only=one", "--requested-by", "ada"])
        .await
        .expect_code(0);
    let shown = dead_json(&site, &["show", &id(1)]).await.remove(0);
    assert_eq!((&shown["payload"], &shown["headers"]), (&"5".into(), &serde_json::json!([["only", "one"]])));
    let requests = dead_json(&site, &["requests", "--oldest-first"]).await;
    let who: Vec<_> =
        requests.iter().map(|request| (&request["request"], &request["requested_by"])).collect();
    assert_eq!(who.len(), 3);
    assert_eq!(who[0], (&"edit".into(), &"lin".into()));
    // What was changed is told, and not what it was.
    let of_header = |name: &str, before: Value, after: Value| serde_json::json!({ "name": name, "before": before, "after": after });
    let bytes = |bytes: usize| serde_json::json!({ "bytes": bytes });
    let wanted = serde_json::json!({
        "payload": { "before": bytes(10), "after": bytes(10) },
        "headers": [of_header("raw", Value::Null, bytes(2)), of_header("schema", Value::Null, bytes(7))],
    });
    assert_eq!(requests[0]["changes"], wanted);
    let said = dead(&site, &["requests"]).await.expect_code(0);
    for part in [
        "\n    payload: 10 bytes -> 10 bytes\n    header raw: none -> 2 bytes\n    header schema: none -> 7 bytes\n",
        "\n    payload: 10 bytes -> none\n    header raw: 2 bytes -> none\n",
        "\n    header content-type: `application/json` -> none\n",
        "\n    payload: none -> 1 byte\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!((who[2], &requests[2]["outcome"]), ((&"edit".into(), &"ada".into()), &"edited".into()));
    assert_eq!(dead_json(&site, &["requests", "--open"]).await.len(), 0);

    edit(&[&id(1), "--standard-headers"]).await.expect_code(0);
    let shown = dead_json(&site, &["show", &id(1)]).await.remove(0);
    assert_eq!(header(&shown, "cqrs-id"), Some(id(1).into()));
    assert_eq!(header(&shown, "only"), None);

    // What is wrong with the row of one is told, and what stands there.
    site.sql(&format!("UPDATE cqrs_outbox_dead SET headers = '[[1]]' WHERE event_id = '{}'", id(1))).await;
    let shown = dead_json(&site, &["show", &id(1)]).await.remove(0);
    assert_eq!((&shown["unreadable_headers"], &shown["headers"]), (&"[[1]]".into(), &serde_json::json!([])));
    assert!(shown["defect"].as_str().unwrap().contains("`headers`"), "{shown}");
    let shown = dead(&site, &["show", &id(1)]).await.expect_code(0);
    assert!(shown.contains("cannot be sent") && shown.contains("[[1]]"), "{shown}");
    let said = edit(&[&id(1), "--payload", "{}"]).await.expect_code(0);
    assert!(said.contains("cannot be sent as it is") && said.contains("`headers`"), "{said}");
    edit(&[&id(1), "--header", "a=b"]).await.expect_error(1, &["--standard-headers", "--remove-headers"]);
    let said = edit(&[&id(1), "--standard-headers"]).await.expect_code(0);
    assert!(said.contains("cqrs dead replay"), "{said}");

    // What would not do, and what is not there.
    dead_json(&site, &["replay", &id(3)]).await;
    beat(&site).await;
    for (arguments, code, parts) in [
        (&[&*id(2)][..], 2, &["required", "--payload"][..]),
        (&[&id(2), "--payload", "{}", "--tombstone"], 2, &["cannot be used with"]),
        (&[&id(2), "--header", "schema"], 2, &["NAME=VALUE"]),
        (&[&id(2), "--header", "raw=hex:0"], 2, &["hexadecimal"]),
        (&[&id(2), "--payload-file", "/nowhere/at/all"], 2, &["no payload can be read", "/nowhere/at/all"]),
        (&[&id(2), "--payload", "{"], 1, &["no JSON", "EOF", "content type"]),
        (&[&id(2), "--payload-file", "/dev/null"], 2, &["nothing in", "--payload ''"]),
        (&[&id(2), "--header", "a=1", "--header", "a=2"], 2, &["`a`", "twice"]),
        (&[&id(2), "--remove-headers", "--standard-headers"], 2, &["cannot be used with"]),
        (&[&id(3), "--payload", "{}"], 1, &[&id(3), "stands aside", "Nothing was changed"]),
        (&[&id(2), "--header", "=x"], 1, &["unusable name"]),
        (&[&id(9), "--payload", "{}"], 1, &["no event with the id", &id(9)]),
        (&["x", "--payload", "{}"], 2, &["x"]),
    ] {
        edit(arguments).await.expect_error(code, parts);
    }
    let shown = dead_json(&site, &["show", &id(2)]).await.remove(0);
    assert_eq!(shown["payload"], r#"{"nth": 2}"#);
    assert_eq!(dead_json(&site, &["requests"]).await.len(), 7);
}

async fn yes(site: Site) {
    site.migrate().await;
    bury(&site, &[("rooms", "5"), ("rooms", "6")]).await;
    // The tests have no terminal.
    for command in ["replay", "discard"] {
        dead(&site, &[command, "--topic", "rooms"])
            .await
            .expect_error(2, &["2 events", "--yes", "--dry-run"]);
        dead(&site, &[command]).await.expect_error(2, &["say which", "--all"]);
        dead(&site, &[command, &id(1), "--all"]).await.expect_error(2, &["cannot be used with"]);
        dead(&site, &[command, "--all", "--rate", "0"]).await.expect_error(2, &["above 0"]);
    }
    assert_eq!(dead_json(&site, &["requests"]).await.len(), 0);
    // One needs none.
    dead(&site, &["replay", "--key", "5"]).await.expect_code(0);
    assert_eq!(dead_json(&site, &["requests"]).await.len(), 1);
}

/// The id of the nth event.
pub(crate) fn id(nth: usize) -> String {
    format!("00000000-0000-4000-8000-{nth:012}")
}

/// Events that were given up, each as topic and key, numbered from 1; the last one has no text for a key.
pub(crate) async fn bury(site: &Site, letters: &[(&str, &str)]) {
    let mut sql = String::new();
    for (nth, (topic, key)) in (1..).zip(letters) {
        let lane = match site.kind {
            Kind::Postgres => format!("convert_to('k{key}', 'UTF8')"),
            Kind::Sqlite => format!("CAST('k{key}' AS BLOB)"),
            Kind::MySql => format!("'k{key}'"),
        };
        let key = match site.kind {
            Kind::Postgres => format!("convert_to('{key}', 'UTF8')"),
            _ => format!("'{key}'"),
        };
        writeln!(
            sql,
            "INSERT INTO cqrs_outbox_dead (id, event_id, event_name, event_kind, event_version, topic, message_key, \
             content_type, payload_text, tombstone, occurred_at, attempts, size, slot, lane, error, errors) \
             VALUES ({nth}, '{}', 'room_closed', 'notification', 1, '{topic}', {key}, 'application/json', \
             '{{\"nth\": {nth}}}', {no}, '{at}', 3, 10, 0, {lane}, 'too large', \
             '[{{\"at\": \"2026-01-31T08:00:00Z\", \"error\": \"too large\"}}]');",
            id(nth),
            no = if site.kind == Kind::Postgres { "false" } else { "0" },
            at = if site.kind == Kind::MySql { "2026-01-31 08:00:00" } else { "2026-01-31T08:00:00Z" },
        )
        .unwrap();
    }
    site.sql(&sql).await;
}

pub(crate) async fn dead(site: &Site, arguments: &[&str]) -> Ran {
    cqrs(&[&["dead"], arguments, &["--database", &site.url]].concat()).await
}

pub(crate) async fn dead_json(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let said = dead(site, &[arguments, &["--json"]].concat()).await.expect_code(0);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A page that is not the last one, and what is told beside it.
async fn page(site: &Site, arguments: &[&str]) -> (Vec<Value>, Value) {
    let ran = dead(site, &[arguments, &["--json"]].concat()).await;
    let more = serde_json::from_str(&ran.err).unwrap();
    let lines = ran.expect_code(0);
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), more)
}

fn ids(letters: &[Value]) -> Vec<i64> {
    letters.iter().map(|letter| letter["id"].as_i64().unwrap()).collect()
}

async fn listed(site: Site) {
    site.migrate().await;
    assert_eq!(dead(&site, &["list"]).await.expect_code(0), "0 dead letters\n");
    assert!(dead_json(&site, &["list"]).await.is_empty());
    assert_eq!(dead(&site, &["count"]).await.expect_code(0), "0\n");

    bury(&site, &[("rooms", "5"), ("rooms", "6"), ("halls", "5")]).await;
    assert_eq!(ids(&dead_json(&site, &["list"]).await), [3, 2, 1]);
    let (first, more) = page(&site, &["list", "--oldest-first", "--limit", "2"]).await;
    assert_eq!((ids(&first), more), (vec![1, 2], serde_json::json!({ "more": true, "after": 2 })));
    assert_eq!(ids(&dead_json(&site, &["list", "--after", "2"]).await), [1]);
    for (filter, wanted) in [
        (&["--topic", "rooms"][..], &[2, 1][..]),
        (&["--key", "5"], &[3, 1]),
        (&["--key", "hex:35"], &[3, 1]),
        (&["--key", "5", "--topic", "halls"], &[3]),
        (&["--name", "room_opened"], &[]),
        (&["--event-id", &id(2)], &[2]),
        (&["--since", "1h"], &[3, 2, 1]),
        (&["--until", "1h"], &[]),
        (&["--until", "2999-01-01T00:00:00Z"], &[3, 2, 1]),
    ] {
        assert_eq!(ids(&dead_json(&site, &[&["list"], filter].concat()).await), wanted, "{filter:?}");
        let count = dead_json(&site, &[&["count"], filter].concat()).await;
        assert_eq!(count[0]["dead_letters"], wanted.len(), "{filter:?}");
    }
    let said = dead(&site, &["list", "--limit", "2"]).await.expect_code(0);
    for part in [&id(3), "room_closed for halls, key 5, 3 attempts", "too large", "there are more: --after 2"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }

    let said = dead(&site, &["show", &id(2)]).await.expect_code(0);
    for part in ["rooms", "2026-01-31T08:00:00.000Z  too large", "{\"nth\": 2}", "cqrs-id: "] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let shown = dead_json(&site, &["show", &id(2)]).await.remove(0);
    assert_eq!(shown["payload"], "{\"nth\": 2}");
    assert_eq!(shown["refusals"][0]["error"], "too large");
    assert_eq!(
        (&shown["key"], &shown["attempts"], &shown["kind"]),
        (&"6".into(), &3.into(), &"notification".into())
    );
}

async fn not_there(site: Site) {
    site.migrate().await;
    dead(&site, &["show", &id(1)]).await.expect_error(1, &["no dead letter", &id(1)]);
    // For programs, errors too.
    for (arguments, code, part) in [
        (&["show", &id(1)][..], 1, "no dead letter"),
        (&["list", "--since", "yesterday"], 2, "or how long ago"),
        (&["list", "--key", "hex:0"], 2, "hexadecimal"),
    ] {
        let ran = dead(&site, &[arguments, &["--json"]].concat()).await;
        let said: Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!(said["code"], code, "{said}");
        assert!(said["error"].as_str().unwrap().contains(part), "{said}");
        ran.expect_code(code);
    }
}
