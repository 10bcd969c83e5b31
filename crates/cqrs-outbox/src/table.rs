//! Rows of an outbox's table for drivers of your own: sqlx, tokio-postgres, mysql_async, rusqlite, SeaORM. Here is no driver
//! and no diesel, only the row and the SQL.
//!
//! A service that has a transaction of another driver writes its events in that one. [`OutboxRecord`] is the row, checked as
//! `Outbox::add` checks it; [`inserts`] makes the statements. What they bind is text, bytes and small integers, which every
//! driver has, without its features for UUIDs or times. A relay takes such rows as any other.
//!
//! ```no_run
//! use cqrs_core::NotificationEvent;
//! use cqrs_outbox::table::{Dialect, OutboxRecord, Value, inserts};
//! use serde::Serialize;
//! use tokio_postgres::types::ToSql;
//!
//! #[derive(Serialize, NotificationEvent)]
//! #[event(topic = "rooms", key = room)]
//! struct RoomClosed { room: i32 }
//!
//! async fn close(client: &mut tokio_postgres::Client, room: i32) -> cqrs_core::Result<()> {
//!     let tx = client.transaction().await?;
//!     tx.execute("UPDATE rooms SET open = false WHERE id = $1", &[&room]).await?;
//!     for insert in inserts(Dialect::Postgres, [OutboxRecord::new(RoomClosed { room })?]) {
//!         let values: Vec<&(dyn ToSql + Sync)> = insert.values.iter().map(|value| match value {
//!             Value::Text(text) => text as &(dyn ToSql + Sync),
//!             Value::Bytes(bytes) => bytes,
//!             Value::Integer(number) => number,
//!         }).collect();
//!         tx.execute(&insert.sql, &values).await?;
//!     }
//!     tx.commit().await?; // and the relay finds it when it next reads
//!     Ok(())
//! }
//! ```
//!
//! With sqlx, where `tx` is a `sqlx::Transaction`:
//!
//! ```text
//! let query = insert.values.into_iter().fold(sqlx::query(&insert.sql), |query, value| match value {
//!     Value::Text(text) => query.bind(text),
//!     Value::Bytes(bytes) => query.bind(bytes),
//!     Value::Integer(number) => query.bind(number),
//! });
//! query.execute(&mut *tx).await?;
//! ```
//!
//! # What there is to know
//!
//! - **Order.** The rows of a key (and a topic, where that is the [unit of order](crate::OrderUnit)) are sent in the order in which they were written. Lock the row of the aggregate, or change
//!   it, before you write its event; else two open transactions may write one key's events in either order.
//! - **On SQLite** begin with `BEGIN IMMEDIATE`: a deferred transaction that reads first cannot write after another has.
//! - **On MariaDB and MySQL** the connection's character set is `utf8mb4`, as it is by default. After a deadlock the whole
//!   transaction is rolled back: begin it anew.
//! - **Waking.** A relay in the same process hears of the commit by `Outbox::wake`; one elsewhere, on PostgreSQL and with
//!   `--notifications`, by `NOTIFY cqrs_outbox` *behind* the commit; else it finds the row with its next poll.
//! - **Other names** than `cqrs_outbox`: [`inserts_into`] with the [`TableNames`] of the relay. Its `NOTIFY` is then
//!   `NOTIFY "orders_outbox"`, or `NOTIFY "events.orders_outbox"` in a schema.
//! - **Not covered** is what takes more than a row: a deduplication key, a version of the key, a time of delivery. An event
//!   that asks for one is refused here. A row that waits for its time may be written by plain SQL to
//!   `cqrs_outbox_scheduled`, which has these columns and `deliver_at`.
//!
//! The columns are described one by one, for each database, in the documentation of `cqrs_outbox_diesel::tables`.

use std::iter;

use chrono::{DateTime, SecondsFormat, Utc};
use cqrs_core::{
    Correlation, Encoder, Error, ErrorKind, EventKind, Headers, IntoMessage, Message, Outgoing, Result,
};
use serde::Serialize;
use uuid::Uuid;

pub use crate::names::TableNames;

/// The longest key, in bytes: an index on lanes must be able to hold it (PostgreSQL's hold about 2,700).
pub const MAX_KEY_BYTES: usize = 2_000;

/// The longest topic, in bytes: with a key it is in the index on lanes, where the [unit of order](crate::OrderUnit) is both. Kafka takes 249
/// of them, and AMQP 255.
pub const MAX_TOPIC_BYTES: usize = 500;

/// Rows of one statement at most, as [`in_parts`] takes them. A statement may have 65,535 parameters on PostgreSQL, MariaDB and MySQL, and 32,766 on SQLite.
#[doc(hidden)]
pub const ROWS_PER_INSERT: usize = 1_000;

/// The bytes of a statement's rows, if they are more than one: MariaDB takes a packet of 16 MiB by default.
const BYTES_PER_INSERT: usize = 4 << 20;

/// Refuses a key that is longer than [`MAX_KEY_BYTES`].
///
/// # Errors
///
/// [`ErrorKind::InvalidEvent`], which calls it by `name`: `key of the event ..`, say.
pub fn check_key(key: &[u8], name: &str) -> Result<()> {
    let length = key.len();
    if length <= MAX_KEY_BYTES {
        return Ok(());
    }
    let what = format!(
        "the {name} has {length} bytes, and the outbox takes {MAX_KEY_BYTES} at most: make it shorter, with a hash for \
         example"
    );
    Err(Error::new(ErrorKind::InvalidEvent, what))
}

/// A database, as far as its SQL is concerned.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL; placeholders are `$1`, `$2` ..
    Postgres,
    /// MariaDB and MySQL; placeholders are `?`.
    MySql,
    /// SQLite; placeholders are `?`.
    Sqlite,
}

/// An event as a new row of `cqrs_outbox`: the columns that a writer gives. All others have a default.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRecord {
    /// By which consumers tell duplicates.
    pub event_id: Uuid,
    /// The name of the event, not empty.
    pub event_name: String,
    /// `notification` or `ecst`.
    pub event_kind: &'static str,
    /// The version of the payload's schema.
    pub event_version: i32,
    /// Where it goes, not empty.
    pub topic: String,
    /// Orders the events that share it; `None` means no order, and an empty key is a key.
    pub message_key: Option<Vec<u8>>,
    /// JSON, in their order: `[["name", "value"], ["name", {"hex": "00ff"}]]`.
    pub headers: String,
    /// The media type of the payload.
    pub content_type: String,
    /// The bytes. `None` is a tombstone: the column of that name is true then.
    pub payload: Option<Vec<u8>>,
    /// When it happened, to the microsecond.
    pub occurred_at: DateTime<Utc>,
}

/// What a placeholder stands for. There are no other kinds, and will be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Bytes, or NULL.
    Bytes(Option<Vec<u8>>),
    /// An integer of 32 bits.
    Integer(i32),
}

/// A statement, and what it binds.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// Its text. It depends on the number of rows only.
    pub sql: String,
    /// The values of its placeholders, in their order: row by row, and each row as [`OutboxRecord::COLUMNS`] says.
    pub values: Vec<Value>,
}

impl OutboxRecord {
    /// The columns, in the order of their placeholders.
    pub const COLUMNS: [&str; 11] = [
        "event_id",
        "event_name",
        "event_kind",
        "event_version",
        "topic",
        "message_key",
        "headers",
        "content_type",
        "payload",
        "tombstone",
        "occurred_at",
    ];

    /// Makes the row of an event, with the default encoder: JSON, at most
    /// [`DEFAULT_MAX_MESSAGE_BYTES`](cqrs_core::codec::DEFAULT_MAX_MESSAGE_BYTES).
    ///
    /// # Errors
    ///
    /// As for [`encode`](Self::encode).
    pub fn new(event: impl IntoMessage) -> Result<Self> {
        Self::encode(event, &Encoder::default(), &Correlation::default())
    }

    /// Makes the row of an event, an envelope around one, or a message of your own making.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`]: it cannot be serialised, is too large, has no topic or a bad header, its key is longer
    /// than [`MAX_KEY_BYTES`], its topic than [`MAX_TOPIC_BYTES`], or its id is not a UUID. [`ErrorKind::NoTarget`]: it asks for what takes more than a row.
    pub fn encode(event: impl IntoMessage, encoder: &Encoder, correlation: &Correlation) -> Result<Self> {
        let Outgoing { message, options, .. } = event.into_outgoing(encoder, correlation)?;
        if options.is_empty() {
            return message.try_into();
        }
        let what = format!(
            "the event `{}` asks for a deduplication key, a version of its key or a time of delivery, and a row alone \
             cannot honour that: write it with `Outbox::add`, or leave that away",
            message.name
        );
        Err(Error::new(ErrorKind::NoTarget, what))
    }

    /// The bytes of its texts, its key and its payload.
    pub fn size(&self) -> usize {
        let texts = [&self.event_name, &self.topic, &self.headers, &self.content_type];
        let bytes = [&self.message_key, &self.payload].map(|bytes| bytes.as_ref().map_or(0, Vec::len));
        texts.map(String::len).iter().chain(&bytes).sum()
    }

    /// What is bound, in the order of [`COLUMNS`](Self::COLUMNS) and in the form that this database stores.
    pub fn into_values(self, dialect: Dialect) -> [Value; 11] {
        let tombstone = i32::from(self.payload.is_none());
        let occurred_at = self.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let occurred_at = match dialect {
            // UTC without saying so: the column has no time zone.
            Dialect::MySql => occurred_at.trim_end_matches('Z').replacen('T', " ", 1),
            Dialect::Postgres | Dialect::Sqlite => occurred_at,
        };
        [
            Value::Text(self.event_id.to_string()),
            Value::Text(self.event_name),
            Value::Text(self.event_kind.to_owned()),
            Value::Integer(self.event_version),
            Value::Text(self.topic),
            Value::Bytes(self.message_key),
            Value::Text(self.headers),
            Value::Text(self.content_type),
            Value::Bytes(self.payload),
            Value::Integer(tombstone),
            Value::Text(occurred_at),
        ]
    }
}

impl TryFrom<Message> for OutboxRecord {
    type Error = Error;

    /// The row of a message that an [`Encoder`] has made or [finished](Encoder::finish).
    fn try_from(message: Message) -> Result<Self> {
        let refused = |what: String| Error::new(ErrorKind::InvalidEvent, what);
        let name = &message.name;
        let id = message.id.as_ref().and_then(|id| id.to_uuid());
        let event_id = id.ok_or_else(|| {
            refused(format!("the event `{name}` has an id that is not a UUID, and the outbox wants one"))
        })?;
        if let Some(key) = &message.key {
            check_key(key, &format!("key of the event `{name}`"))?;
        }
        let length = message.topic.len();
        if length > MAX_TOPIC_BYTES {
            return Err(refused(format!(
                "the topic of the event `{name}` has {length} bytes, and the outbox takes {MAX_TOPIC_BYTES} at most"
            )));
        }
        let version = message.version.unwrap_or(1);
        Ok(Self {
            event_id,
            event_kind: message.kind.unwrap_or(EventKind::Notification).as_str(),
            event_version: i32::try_from(version)
                .map_err(|_| refused(format!("the event version {version} is out of range")))?,
            event_name: message.name,
            topic: message.topic,
            message_key: message.key.map(Into::into),
            headers: headers_to_json(&message.headers)
                .map_err(|error| refused(format!("the headers cannot be written as JSON: {error}")))?,
            content_type: message.content_type.unwrap_or_else(|| "application/json".to_owned()),
            payload: message.payload.map(Into::into),
            occurred_at: message.timestamp.unwrap_or_else(Utc::now),
        })
    }
}

/// The statements that write these rows in their order: one for each 1,000 or 4 MiB, and none for none.
///
/// Run them within your transaction, and roll it back if one of them fails.
pub fn inserts(
    dialect: Dialect,
    records: impl IntoIterator<Item = OutboxRecord>,
) -> impl Iterator<Item = Insert> {
    statements(TableNames::default(), dialect, records)
}

/// The same for tables of other names.
///
/// # Errors
///
/// [`ErrorKind::Configuration`]: this database cannot have such names.
pub fn inserts_into(
    names: &TableNames,
    dialect: Dialect,
    records: impl IntoIterator<Item = OutboxRecord>,
) -> Result<impl Iterator<Item = Insert>> {
    names.check(dialect)?;
    Ok(statements(names.clone(), dialect, records))
}

fn statements(
    names: TableNames,
    dialect: Dialect,
    records: impl IntoIterator<Item = OutboxRecord>,
) -> impl Iterator<Item = Insert> {
    in_parts(records, |record| record).map(move |some| {
        let sql = names.sql(dialect, insert_sql(dialect, some.len())).into_owned();
        Insert { sql, values: some.into_iter().flat_map(|record| record.into_values(dialect)).collect() }
    })
}

/// Rows as many at a time as one statement takes on every database: 1,000, or fewer that have 4 MiB together, but at least one.
pub fn in_parts<T>(
    rows: impl IntoIterator<Item = T>,
    record: impl Fn(&T) -> &OutboxRecord,
) -> impl Iterator<Item = Vec<T>> {
    let mut rows = rows.into_iter().peekable();
    iter::from_fn(move || {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while some.len() < ROWS_PER_INSERT {
            let fits = |row: &T| some.is_empty() || bytes + record(row).size() <= BYTES_PER_INSERT;
            let Some(row) = rows.next_if(fits) else { break };
            bytes += record(&row).size();
            some.push(row);
        }
        (!some.is_empty()).then_some(some)
    })
}

fn insert_sql(dialect: Dialect, rows: usize) -> String {
    let row = |nth: usize| match dialect {
        Dialect::MySql | Dialect::Sqlite => format!("({})", ["?"; OutboxRecord::COLUMNS.len()].join(", ")),
        // A client asks the server for a parameter's type. The casts make it one that each client knows.
        Dialect::Postgres => {
            let first = nth * OutboxRecord::COLUMNS.len() + 1;
            let places = OutboxRecord::COLUMNS.iter().zip(first..).map(|(column, nth)| match *column {
                "event_id" => format!("${nth}::text::uuid"),
                "event_version" => format!("${nth}::int"),
                "message_key" | "payload" => format!("${nth}::bytea"),
                "tombstone" => format!("${nth}::int <> 0"),
                "occurred_at" => format!("${nth}::text::timestamptz"),
                _ => format!("${nth}::text"),
            });
            format!("({})", places.collect::<Vec<_>>().join(", "))
        }
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("INSERT INTO cqrs_outbox ({}) VALUES {}", OutboxRecord::COLUMNS.join(", "), rows.join(", "))
}

/// The value of a header; one that is not UTF-8, or has a NUL, which PostgreSQL's JSON cannot hold, as `{"hex": ".."}`.
#[derive(Serialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Text(&'a str),
    Bytes { hex: String },
}

/// Pairs in their order.
fn headers_to_json(headers: &Headers) -> serde_json::Result<String> {
    let pairs: Vec<(&str, HeaderValue<'_>)> = headers
        .iter()
        .map(|(name, value)| match std::str::from_utf8(value) {
            Ok(value) if !value.contains('\0') => (name, HeaderValue::Text(value)),
            _ => (name, HeaderValue::Bytes { hex: to_hex(value) }),
        })
        .collect();
    serde_json::to_string(&pairs)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use cqrs_core::Deliver;

    use super::*;

    fn message(key: &str) -> Message {
        let mut message = Message::new("rooms", "{}");
        message.name = "room_closed".to_owned();
        message.key = Some(Bytes::from(key.to_owned()));
        message
    }

    fn on_topic(length: usize) -> Message {
        let mut message = message("5");
        message.topic = "t".repeat(length);
        message
    }

    fn refused(event: impl IntoMessage) -> (ErrorKind, String) {
        let error = OutboxRecord::new(event).expect_err("it was taken");
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_no_row_can_hold_is_refused_with_a_word() {
        let (mut no_topic, mut no_name) = (message("5"), message("5"));
        (no_topic.topic, no_name.name) = (String::new(), String::new());
        let (mut bad_header, mut other_id) = (message("5"), message("5"));
        bad_header.headers.append("", "x");
        other_id.id = Some("5".into());
        let (mut nul_topic, mut nul_name, mut nul_type) = (message("5"), message("5"), message("5"));
        (nul_topic.topic, nul_name.name) = ("a\0b".to_owned(), "a\0b".to_owned());
        nul_type.content_type = Some("a\0b".to_owned());
        let (mut large, mut version) = (message("5"), message("5"));
        large.payload = Some(vec![b' '; 1_000_001].into());
        version.version = Some(u32::MAX);
        for (message, part) in [
            (no_topic, "no topic"),
            (no_name, "no event name"),
            (bad_header, "unusable name"),
            (nul_topic, "`room_closed` has the topic \"a\\0b\""),
            (nul_name, "has the name \"a\\0b\""),
            (nul_type, "`room_closed` has the content type \"a\\0b\""),
            (other_id, "not a UUID"),
            (large, "the limit is 1000000"),
            (version, "out of range"),
            (message(&"k".repeat(2_001)), "2001 bytes, and the outbox takes 2000"),
            (on_topic(501), "the topic of the event `room_closed` has 501 bytes, and the outbox takes 500"),
        ] {
            let (kind, what) = refused(message);
            assert_eq!(kind, ErrorKind::InvalidEvent, "{what}");
            assert!(what.contains(part), "{part}: {what}");
        }
        assert!(OutboxRecord::new(message(&"k".repeat(2_000))).is_ok());
        assert!(OutboxRecord::new(on_topic(500)).is_ok());
        let small = Encoder::default().with_max_message_bytes(10);
        assert!(OutboxRecord::encode(message("5"), &small, &Correlation::default()).is_err());
    }

    #[test]
    fn what_takes_more_than_a_row_is_refused_with_a_word() {
        let mut later = Outgoing::from(message("5"));
        later.options.deliver = Some(Deliver::After(Duration::from_secs(1)));
        let (kind, what) = refused(later);
        assert_eq!(kind, ErrorKind::NoTarget);
        assert!(what.contains("`room_closed`") && what.contains("Outbox::add"), "{what}");
    }

    #[test]
    fn the_table_has_the_name_that_is_asked_for() {
        let record = || [OutboxRecord::new(message("cqrs_outbox")).unwrap()];
        let names = TableNames::new().prefix("orders_").schema("events");
        let insert = inserts_into(&names, Dialect::MySql, record()).unwrap().next().unwrap();
        assert!(insert.sql.starts_with("INSERT INTO `events`.orders_outbox (event_id, "), "{}", insert.sql);
        assert!(
            inserts(Dialect::MySql, record()).next().unwrap().sql.starts_with("INSERT INTO cqrs_outbox (")
        );
        assert!(inserts_into(&names, Dialect::Sqlite, record()).is_err());
    }

    #[test]
    fn a_statement_has_no_more_bytes_than_servers_take() {
        let encoder = Encoder::default().with_max_message_bytes(10_000_000);
        let row = |bytes: usize| {
            let mut message = message("5");
            message.payload = Some(vec![b' '; bytes].into());
            OutboxRecord::encode(message, &encoder, &Correlation::default()).unwrap()
        };
        for (sizes, parts) in [
            (vec![900_000; 5], vec![4, 1]),
            // One has to go, whatever its size.
            (vec![5_000_000, 5_000_000, 1], vec![1, 1, 1]),
            (vec![1, 5_000_000], vec![1, 1]),
        ] {
            let rows: Vec<_> = sizes.iter().copied().map(row).collect();
            let made: Vec<usize> = in_parts(&rows, |row| row).map(|some| some.len()).collect();
            assert_eq!(made, parts, "{sizes:?}");
            assert_eq!(inserts(Dialect::MySql, rows).count(), parts.len());
        }
    }

    #[test]
    fn placeholders_and_values_go_together() {
        let records = |count: usize| {
            (0..count).map(|nth| OutboxRecord::new(message(&nth.to_string())).unwrap()).collect::<Vec<_>>()
        };
        for dialect in [Dialect::Postgres, Dialect::MySql, Dialect::Sqlite] {
            assert_eq!(inserts(dialect, records(0)).count(), 0);
            let made: Vec<Insert> = inserts(dialect, records(2_001)).collect();
            assert_eq!(made.iter().map(|one| one.values.len() / 11).collect::<Vec<_>>(), [1_000, 1_000, 1]);
            assert_eq!(made[0].sql, made[1].sql);
            for one in &made {
                let places = one.sql.matches(if dialect == Dialect::Postgres { "$" } else { "?" }).count();
                assert_eq!(places, one.values.len());
            }
            let keys: Vec<Value> = made.into_iter().flat_map(|one| one.values).skip(5).step_by(11).collect();
            let wanted: Vec<Value> =
                (0..2_001).map(|nth| Value::Bytes(Some(nth.to_string().into_bytes()))).collect();
            assert_eq!(keys, wanted);
        }
        let two = inserts(Dialect::Postgres, records(2)).next().unwrap().sql;
        assert!(
            two.contains("($1::text::uuid, $2::text, ") && two.contains("$11::text::timestamptz), ($12::")
        );
        assert!(two.ends_with("$22::text::timestamptz)"), "{two}");
    }
}
