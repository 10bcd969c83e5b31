//! Rows that plain SQL writes, and what the table refuses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cqrs_core::broker::Receipt;
use cqrs_core::{Envelope, ErrorKind, EventKind, codec::header};
use cqrs_outbox::{Lane, LaterEvents, OutboxRelay, OutboxRow};
use cqrs_outbox_diesel::{DeadLetterFilter, Outbox, Page};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::Owner;
use crate::events::{Sink, closed, quick, read_all};
use crate::harness::{OnEach, Test, tests};
use crate::retention::confirmed;

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(rows<D> {
            defaults_fill_in_the_rest,
            headers_are_made_of_the_columns_the_same_each_time,
            headers_of_the_row_are_taken_as_they_are,
            text_stays_as_it_was_written,
            exactly_one_payload,
            headers_that_are_no_json_are_refused,
            event_ids_that_are_none_are_refused,
            event_ids_in_capitals_are_event_ids,
            event_ids_of_any_form_are_found_aside,
            what_no_message_can_be_is_refused,
            what_cannot_be_read_becomes_a_dead_letter,
            keys_that_no_index_can_hold_are_refused,
        })
    }
}

async fn insert<D: Db>(outbox: &Outbox<D>, columns: &str, values: &str) -> Result<(), String> {
    let insert = format!("INSERT INTO cqrs_outbox ({columns}) VALUES ({values})");
    outbox.sql(&insert).await.map_err(|error| error.to_string())
}

async fn only_row<D: Db>(outbox: &Outbox<D>) -> OutboxRow {
    let mut rows = read_all(&D::store(outbox)).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

const PLAIN: &str = "event_name, topic, message_key, payload_text";
const VALUES: &str = "'room_closed', 'rooms', 'room 5', '{\"room\": 5}'";

async fn defaults_fill_in_the_rest<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    insert(&outbox, PLAIN, VALUES).await.unwrap();
    let row = only_row(&outbox).await;
    let message = &row.message;
    assert!(row.id > 0 && row.attempts == 0);
    assert_eq!(row.event_id.get_version_num(), if D::NAME == "mysql" { 1 } else { 4 });
    assert_eq!(row.lane, Lane::of(Some(b"room 5"), row.event_id));
    assert_eq!(row.size, "room 5".len() + "{\"room\": 5}".len());
    assert_eq!((message.kind, message.version), (Some(EventKind::Notification), Some(1)));
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    let age = chrono::Utc::now() - message.timestamp.unwrap();
    assert!(age.num_seconds().abs() < 60, "{age}");
    let slots = outbox.values("SELECT CAST(slot AS text) AS value FROM cqrs_outbox").await;
    assert!((0..4096).contains(&slots[0].parse::<i32>().unwrap()));
}

async fn headers_are_made_of_the_columns_the_same_each_time<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    insert(
        &outbox,
        "event_name, event_kind, event_version, topic, content_type, payload_text",
        "'room_closed', 'ecst', 7, 'rooms', 'text/plain', 'x'",
    )
    .await
    .unwrap();
    let row = only_row(&outbox).await;
    let headers = &row.message.headers;
    assert_eq!(headers.get_str(header::ID), Some(&*row.event_id.to_string()));
    assert_eq!(headers.get_str(header::NAME), Some("room_closed"));
    assert_eq!(headers.get_str(header::KIND), Some("ecst"));
    assert_eq!(headers.get_str(header::VERSION), Some("7"));
    assert_eq!(headers.get_str(header::CONTENT_TYPE), Some("text/plain"));
    let time = chrono::DateTime::parse_from_rfc3339(headers.get_str(header::TIMESTAMP).unwrap()).unwrap();
    assert_eq!(time, row.message.timestamp.unwrap());
    assert_eq!(headers.len(), 6);
    assert_eq!(only_row(&outbox).await, row);
}

async fn headers_of_the_row_are_taken_as_they_are<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let cases = [
        (
            r#"{"tenant": "blue", "raw": {"hex": "00ff"}}"#,
            vec![("tenant", &b"blue"[..]), ("raw", b"\x00\xff")],
        ),
        (r#"[["again", "1"], ["again", "2"]]"#, vec![("again", b"1"), ("again", b"2")]),
        ("{}", vec![]),
    ];
    for (json, wanted) in cases {
        outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
        insert(&outbox, "event_name, topic, payload_text, headers", &format!("'n', 't', 'x', '{json}'"))
            .await
            .unwrap();
        let row = only_row(&outbox).await;
        let mut headers: Vec<_> =
            row.message.headers.iter().map(|(name, value)| (name, &value[..])).collect();
        let mut wanted = wanted;
        // An object has no order.
        headers.sort();
        wanted.sort();
        assert_eq!(headers, wanted, "{json}");
    }
}

async fn text_stays_as_it_was_written<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for text in [r"C:\new\x41\\", "two\r\nlines\n\ttab", "ü 世界 🦀", "", "{\"quote\": \"\\\"\"}", "null"]
    {
        outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
        // A backslash in a literal is one on the others.
        let literal = if D::NAME == "mysql" { text.replace('\\', "\\\\") } else { text.to_owned() };
        insert(&outbox, "event_name, topic, payload_text", &format!("'n', 't', '{literal}'")).await.unwrap();
        let row = only_row(&outbox).await;
        assert_eq!(row.message.payload, Some(Bytes::copy_from_slice(text.as_bytes())));
        assert_eq!(row.size, text.len());
    }
}

async fn exactly_one_payload<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let yes = if D::NAME == "sqlite" { "1" } else { "true" };
    let bytes = if D::NAME == "postgres" { "'\\x00ff'" } else { "x'00ff'" };
    for (columns, values) in [
        ("", String::new()),
        (", payload, payload_text", format!(", {bytes}, 'x'")),
        (", payload, tombstone", format!(", {bytes}, {yes}")),
        (", payload_text, tombstone", format!(", 'x', {yes}")),
    ] {
        let refused =
            insert(&outbox, &format!("event_name, topic{columns}"), &format!("'n', 't'{values}")).await;
        assert!(
            refused.as_ref().is_err_and(|error| error.contains("cqrs_outbox_one_payload")),
            "{refused:?}"
        );
    }
    for (columns, values, wanted) in [
        (", payload", format!(", {bytes}"), Some(&b"\x00\xff"[..])),
        (", payload_text", ", 'x'".to_owned(), Some(b"x")),
        (", tombstone", format!(", {yes}"), None),
    ] {
        outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
        insert(&outbox, &format!("event_name, topic{columns}"), &format!("'n', 't'{values}")).await.unwrap();
        assert_eq!(only_row(&outbox).await.message.payload.as_deref(), wanted);
    }
}

async fn headers_that_are_no_json_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for headers in ["{\"a\":", "a=b", "", "\"text\"", "3", "null"] {
        let values = format!("'n', 't', 'x', '{headers}'");
        let refused = insert(&outbox, "event_name, topic, payload_text, headers", &values).await;
        assert!(refused.is_err(), "{headers:?} was taken");
    }
    assert_eq!(outbox.waiting().await, 0);
    insert(&outbox, "event_name, topic, payload_text, headers", "'n', 't', 'x', NULL").await.unwrap();
}

async fn event_ids_that_are_none_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for id in ["''", "'5'", "'not an id'", "'00000000-0000-0000-0000-00000000000g'", "NULL"] {
        let values = format!("{id}, 'n', 't', 'x'");
        let refused = insert(&outbox, "event_id, event_name, topic, payload_text", &values).await;
        assert!(refused.is_err(), "{id} was taken");
    }
    assert_eq!(outbox.waiting().await, 0);
}

async fn event_ids_in_capitals_are_event_ids<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for id in ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"] {
        outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
        insert(&outbox, "event_id, event_name, topic, payload_text", &format!("'{id}', 'n', 't', 'x'"))
            .await
            .unwrap();
        let row = only_row(&outbox).await;
        assert_eq!(row.event_id.to_string(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(row.lane, Lane::of(None, row.event_id));
    }
}

/// A receipt, a refusal and a request name the event, too.
async fn event_ids_of_any_form_are_found_aside<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    let mut ids = vec!["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a12"];
    if D::NAME == "sqlite" {
        // A dash within a byte.
        ids.push("a-0eebc999c0b4ef8bb6d6bb9bd380a13");
    }
    for id in ids {
        insert(&outbox, "event_id, event_name, topic, payload_text", &format!("'{id}', 'n', 't', 'x'"))
            .await
            .unwrap();
        owner.bury_all(false, "no").await;
        let [letter] = outbox
            .dead_letters(&DeadLetterFilter::new(), Page::oldest_first())
            .await
            .unwrap()
            .try_into()
            .unwrap();
        outbox.replay(letter.event_id).await.unwrap();
        owner.beat().await;
        let rows = owner.parked().await;
        assert_eq!(rows.iter().map(|row| row.event_id).collect::<Vec<_>>(), [letter.event_id], "{id}");
        owner.store.settle(&confirmed(&rows, |_| Receipt::new())).await.unwrap();
        assert_eq!(owner.parked().await, [], "{id}");
    }
}

async fn what_no_message_can_be_is_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut refused =
        vec![("event_version", "-1"), ("event_kind", "'domain'"), ("topic", "''"), ("event_name", "''")];
    match D::NAME {
        "postgres" => refused.extend([
            ("occurred_at", "'infinity'"),
            ("occurred_at", "'-infinity'"),
            ("waiting_since", "'infinity'"),
        ]),
        "mysql" => refused.extend([
            ("occurred_at", "'0000-00-00'"),
            ("occurred_at", "'2024-00-10'"),
            ("waiting_since", "'0000-00-00'"),
        ]),
        // It keeps whatever it is given.
        "sqlite" => refused.extend([
            ("event_version", "'two'"),
            ("event_version", "1.5"),
            ("event_version", "2147483648"),
            ("topic", "x'ff'"),
            ("topic", "x''"),
            ("event_name", "x''"),
            ("content_type", "x'ff'"),
            ("event_id", "x'ff'"),
            ("waiting_since", "'yesterday'"),
        ]),
        _ => unreachable!(),
    }
    for (column, value) in refused {
        let others: Vec<_> = [("event_name", "'n'"), ("topic", "'t'"), ("payload_text", "'x'")]
            .into_iter()
            .filter(|(other, _)| *other != column)
            .chain([(column, value)])
            .collect();
        let join = |part: fn(&(&'static str, &'static str)) -> &'static str| {
            others.iter().map(part).collect::<Vec<_>>().join(", ")
        };
        let refused = insert(&outbox, &join(|one| one.0), &join(|one| one.1)).await;
        assert!(refused.is_err(), "{column} = {value} was taken");
    }
    assert_eq!(outbox.waiting().await, 0);
}

/// Wherever it stands: in the hot table, aside, behind a gate, and before its time has come.
async fn what_cannot_be_read_becomes_a_dead_letter<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut bad = vec![("headers", "'[[\"tenant\"]]'"), ("headers", "'{\"retries\": 3}'")];
    if D::NAME == "sqlite" {
        bad.extend([
            ("occurred_at", "'yesterday'"),
            ("topic", "CAST(x'ff' AS TEXT)"),
            ("event_name", "CAST(x'ff' AS TEXT)"),
            ("content_type", "CAST(x'ff' AS TEXT)"),
        ]);
    }
    let row = |column: &str, value: &str, key: &str| {
        let columns =
            [("event_name", "'n'"), ("topic", "'t'"), ("payload_text", "'bad'"), ("message_key", key)];
        let columns = columns.into_iter().filter(|(other, _)| *other != column).chain([(column, value)]);
        let (columns, values): (Vec<_>, Vec<_>) = columns.unzip();
        (columns.join(", "), values.join(", "))
    };
    let due = match D::NAME {
        "postgres" => "now()",
        "mysql" => "utc_timestamp(6)",
        _ => "unixepoch('now', 'subsec')",
    };
    for (column, value) in &bad {
        // The second one waits behind the first.
        for _ in 0..2 {
            let (columns, values) = row(column, value, "'a'");
            insert(&outbox, &columns, &values).await.unwrap();
        }
        let (columns, values) = row(column, value, "NULL");
        let scheduled =
            format!("INSERT INTO cqrs_outbox_scheduled ({columns}, deliver_at) VALUES ({values}, {due})");
        outbox.sql(&scheduled).await.unwrap();
    }
    for key in ["'a'", "'b'", "NULL"] {
        let (columns, values) = row("payload_text", "'good'", key);
        insert(&outbox, &columns, &values).await.unwrap();
    }
    let mut settings = quick();
    settings.max_attempts = 2;
    settings.later_events = LaterEvents::GoOn;
    let sink = Arc::new(Sink::default());
    let relay = OutboxRelay::builder(D::store(&outbox), sink.clone()).settings(settings).build().unwrap();
    let all = DeadLetterFilter::new();
    let wanted = bad.len() as u64 * 3;
    let over = async {
        while outbox.count_dead_letters(&all).await.unwrap() < wanted || sink.messages().len() < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (stop, stopped) = oneshot::channel();
    let (run, over) = tokio::join!(
        relay.run_until(async {
            stopped.await.ok();
        }),
        async {
            let over = timeout(Duration::from_secs(60), over).await;
            stop.send(()).unwrap();
            over
        }
    );
    run.unwrap();
    over.unwrap();
    assert_eq!(sink.payloads(), ["good", "good", "good"].map(Bytes::from));
    let letters = outbox.dead_letters(&all, Page::oldest_first()).await.unwrap();
    for (column, _) in &bad {
        let about = format!("the column `{column}` of this row is not what the outbox's tables promise: ");
        let named = letters.iter().filter(|letter| letter.error.as_ref().unwrap().starts_with(&about));
        let same = bad.iter().filter(|(other, _)| other == column).count();
        assert_eq!(named.count(), 3 * same, "{column}: {letters:?}");
    }
    for letter in &letters {
        let shown = outbox.dead_letter(letter.event_id).await.unwrap().unwrap();
        assert_eq!((letter.attempts, shown.refusals.len()), (2, 2));
        // A table that is open to all can have many rows with such an id.
        assert_eq!(shown.letter.id, letter.id);
    }
    let status = outbox.status().await.unwrap();
    assert_eq!((status.waiting, status.parked, status.scheduled), (0, 0, 0));
}

async fn keys_that_no_index_can_hold_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let publish = async |length: usize| {
        let event = Envelope::new(closed(1)).with_key("k".repeat(length));
        outbox.transaction(async move |tx| tx.publish(event).await).await
    };
    publish(2_000).await.unwrap();
    let error = publish(2_001).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("2001") && error.to_string().contains("2000"), "{error}");
    let long = "k".repeat(2_001);
    let refused = insert(&outbox, PLAIN, &format!("'n', 't', '{long}', 'x'")).await;
    assert!(refused.is_err());
    assert_eq!(outbox.waiting().await, 1);
}
