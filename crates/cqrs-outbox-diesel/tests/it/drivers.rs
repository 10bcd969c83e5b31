//! Writers with drivers of their own: what they write in their transactions is what `Outbox::add` writes.

use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use cqrs_core::{EventKind, Message};
use cqrs_outbox::table::{Dialect, Insert, OutboxRecord, Value, inserts};
use cqrs_outbox::{OutboxRelay, OutboxRow};
use cqrs_outbox_diesel::Outbox;
use diesel::connection::SimpleConnection;
use diesel::sql_types::{Binary, Integer, Nullable, Text};
use diesel::{Connection, RunQueryDsl, SqliteConnection, sql_query};
use mysql_async::prelude::Queryable;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, quick, read_all, statements_with};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(drivers<D> {
            what_another_driver_writes_is_what_add_writes,
            a_rollback_of_another_driver_leaves_nothing,
            what_another_driver_writes_is_relayed_in_order,
            the_statements_are_those_of_add,
        })
    }
}

fn dialect<D: Db>() -> Dialect {
    match D::NAME {
        "postgres" => Dialect::Postgres,
        "mysql" => Dialect::MySql,
        _ => Dialect::Sqlite,
    }
}

/// Writes these in one transaction of a driver that knows nothing of the outbox, and ends it.
async fn write<D: Db>(url: &str, records: Vec<OutboxRecord>, end: &'static str) {
    let inserts: Vec<Insert> = inserts(dialect::<D>(), records).collect();
    match dialect::<D>() {
        Dialect::Postgres => {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            client.batch_execute("BEGIN").await.unwrap();
            for insert in &inserts {
                let values = insert.values.iter().map(|value| match value {
                    Value::Text(text) => text as &(dyn ToSql + Sync),
                    Value::Bytes(bytes) => bytes,
                    Value::Integer(number) => number,
                });
                client.execute(&insert.sql, &values.collect::<Vec<_>>()).await.unwrap();
            }
            client.batch_execute(end).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
        }
        Dialect::MySql => {
            let mut conn = mysql_async::Conn::from_url(url).await.unwrap();
            // A local time, to which the times of rows have nothing to say.
            conn.query_drop("SET time_zone = '+05:00'").await.unwrap();
            conn.query_drop("BEGIN").await.unwrap();
            for insert in inserts {
                let values = insert.values.into_iter().map(|value| match value {
                    Value::Text(text) => mysql_async::Value::from(text),
                    Value::Bytes(bytes) => bytes.into(),
                    Value::Integer(number) => number.into(),
                });
                conn.exec_drop(&insert.sql, values.collect::<Vec<_>>()).await.unwrap();
            }
            conn.query_drop(end).await.unwrap();
            conn.disconnect().await.unwrap();
        }
        _ => {
            // Of the same driver, but none of the outbox's connections.
            let path = url.strip_prefix("sqlite://").unwrap().to_owned();
            let run = move || {
                let mut conn = SqliteConnection::establish(&path).unwrap();
                conn.batch_execute("BEGIN IMMEDIATE").unwrap();
                for insert in inserts {
                    let query = sql_query(insert.sql).into_boxed();
                    let query = insert.values.into_iter().fold(query, |query, value| match value {
                        Value::Text(text) => query.bind::<Text, _>(text),
                        Value::Bytes(bytes) => query.bind::<Nullable<Binary>, _>(bytes),
                        Value::Integer(number) => query.bind::<Integer, _>(number),
                    });
                    query.execute(&mut conn).unwrap();
                }
                conn.batch_execute(end).unwrap();
            };
            tokio::task::spawn_blocking(run).await.unwrap();
        }
    }
}

/// All there is to a message: bytes of every kind in keys, headers and payloads, and what there may be none of.
fn messages() -> Vec<Message> {
    let at = |text: &str| Some(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
    let mut full = Message::new("räume", Bytes::from_static(b"\x00\xff\\'\"\r\n"));
    full.kind = Some(EventKind::Ecst);
    full.version = Some(7);
    full.key = Some(Bytes::from_static(b"\xfe\x00k '"));
    full.content_type = Some("application/octet-stream".to_owned());
    full.timestamp = at("2026-02-28T23:59:59.123456Z");
    for (name, value) in
        [("a", &b"1"[..]), ("a", b"2"), ("\u{fc}", b"\x00\xff"), ("q", "\"☃ 🦀\\".as_bytes())]
    {
        full.headers.append(name, Bytes::from(value));
    }
    let mut empty_key = Message::new("rooms", "");
    empty_key.key = Some(Bytes::new());
    empty_key.timestamp = at("1999-12-31T23:00:00Z");
    let mut keyless = Message::new("rooms", vec![b'x'; 100_000]);
    keyless.timestamp = at("2026-07-01T12:00:00.000001Z");
    let mut tombstone = Message::tombstone("rooms");
    tombstone.key = Some("room 5".into());
    tombstone.timestamp = at("2026-07-01T12:00:00Z");
    let mut messages = vec![full, empty_key, keyless, tombstone];
    for (nth, message) in messages.iter_mut().enumerate() {
        message.name = format!("naïve {nth}");
        message.id = Some(Uuid::from_u128(0xABCD_EF00 + nth as u128).into());
    }
    messages
}

fn records(messages: Vec<Message>) -> Vec<OutboxRecord> {
    messages.into_iter().map(|message| OutboxRecord::new(message).unwrap()).collect()
}

/// Outboxes in two databases, and the URL of the second.
async fn two<D: Db>(site: &Site) -> (Outbox<D>, Outbox<D>, String) {
    let one = site.outbox::<D>().await;
    let url = site.empty().await;
    let other = D::connect(url.clone()).await.unwrap();
    other.migrate().await.unwrap();
    (one, other, url)
}

/// As a relay reads the rows, and, of the columns that it reads in another form, as they are stored.
async fn stored<D: Db>(outbox: &Outbox<D>) -> (Vec<OutboxRow>, Vec<String>) {
    let columns = "SELECT concat(event_id, ' ', tombstone, ' ', occurred_at, ' ', size, ' ', slot, ' ', attempts, \
        ' ', coalesce(payload_text, 'none'), ' ', headers) AS value FROM cqrs_outbox ORDER BY id";
    (read_all(&D::store(outbox)).await, outbox.values(columns).await)
}

async fn what_another_driver_writes_is_what_add_writes<D: Db>(site: &Site) {
    let (one, other, url) = two::<D>(site).await;
    one.transaction(async |tx| tx.publish_all(messages()).await).await.unwrap();
    write::<D>(&url, records(messages()), "COMMIT").await;
    let (ours, theirs) = (stored(&one).await, stored(&other).await);
    assert_eq!(ours.0.len(), messages().len());
    assert_eq!(ours.1, theirs.1);
    assert_eq!(ours.0, theirs.0);
}

async fn a_rollback_of_another_driver_leaves_nothing<D: Db>(site: &Site) {
    let (_, outbox, url) = two::<D>(site).await;
    write::<D>(&url, records(messages()), "ROLLBACK").await;
    assert_eq!(outbox.waiting().await, 0);
}

async fn what_another_driver_writes_is_relayed_in_order<D: Db>(site: &Site) {
    let (_, outbox, url) = two::<D>(site).await;
    let events: Vec<Message> = (0..2_500)
        .map(|nth| {
            let mut message = Message::new("rooms", nth.to_string());
            message.name = "room_closed".to_owned();
            message.key = Some("room 5".into());
            message
        })
        .collect();
    write::<D>(&url, records(events), "COMMIT").await;
    let sink = Arc::new(Sink::default());
    let relay = OutboxRelay::builder(D::store(&outbox), sink.clone()).settings(quick()).build().unwrap();
    relay.run_until_empty().await.unwrap();
    let wanted: Vec<Bytes> = (0..2_500).map(|nth| Bytes::from(nth.to_string())).collect();
    assert!(sink.payloads() == wanted, "{:?}", sink.payloads());
}

/// `add` has statements of its own. Those of PostgreSQL have another shape; what they write is compared above.
async fn the_statements_are_those_of_add<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    // Statements of all tests are recorded: this one is told by its name.
    let name = format!("added on {}", D::NAME);
    let named = || {
        let mut messages = messages();
        messages[0].name.clone_from(&name);
        messages
    };
    outbox.transaction(async |tx| tx.publish_all(named()).await).await.unwrap();
    let columns = format!("INSERT INTO cqrs_outbox ({}) ", OutboxRecord::COLUMNS.join(", "));
    let made: Vec<Insert> = inserts(dialect::<D>(), records(named())).collect();
    assert!(made.len() == 1 && made[0].sql.starts_with(&columns), "{made:?}");
    let ours = statements_with(&[&name]);
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert!(ours[0].starts_with(if D::NAME == "postgres" { &columns } else { &made[0].sql }), "{ours:?}");
}
