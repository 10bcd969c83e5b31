//! Rows that plain SQL writes, and what the table refuses.

use bytes::Bytes;
use cqrs_core::{Envelope, ErrorKind, EventKind, codec::header};
use cqrs_outbox::{Lane, OutboxRow};
use cqrs_outbox_diesel::Outbox;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, read_all};
use crate::harness::{OnEach, Test, tests};

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
