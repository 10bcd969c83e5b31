//! From rows to messages.

mod headers;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::codec::Json;
use cqrs_core::{EventKind, Message};
use cqrs_outbox::{GroupNo, Lane, OrderUnit, OutboxRow, Place};
use diesel::QueryableByName;
use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql};
use diesel::row::NamedRow;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
use uuid::Uuid;

/// A waiting row, as every database gives it: its id as bytes and its time as RFC 3339, for the types of these differ. Text is
/// bytes, for SQLite takes any in its place, and one row that cannot be decoded must not fail the read of all.
#[derive(Debug)]
pub struct Record {
    pub(crate) id: i64,
    event_id: Option<Vec<u8>>,
    event_name: Vec<u8>,
    event_kind: String,
    event_version: i32,
    topic: Vec<u8>,
    message_key: Option<Vec<u8>>,
    headers: Option<Vec<u8>>,
    content_type: Vec<u8>,
    payload: Option<Vec<u8>>,
    payload_text: Option<Vec<u8>>,
    occurred_at: Option<Vec<u8>>,
    attempts: i32,
    pub(crate) size: i32,
    pub(crate) group_no: i32,
    gated: bool,
    /// Of a row that stands aside: one that was refused may have a lane of its own.
    lane: Option<Vec<u8>>,
}

/// The first columns of each statement that reads such rows, in this order. By their names, as a derived implementation finds them, each
/// value is looked for among all columns: on MariaDB that was a quarter and more of what a relay's thread does.
impl<DB> QueryableByName<DB> for Record
where
    DB: Backend,
    i64: FromSql<BigInt, DB>,
    i32: FromSql<Integer, DB>,
    bool: FromSql<Bool, DB>,
    String: FromSql<Text, DB>,
    Vec<u8>: FromSql<Binary, DB>,
{
    fn build<'a>(row: &impl NamedRow<'a, DB>) -> deserialize::Result<Self> {
        Ok(Self {
            id: row.get_value::<BigInt, _, _>(0)?,
            event_id: row.get_value::<Nullable<Binary>, _, _>(1)?,
            event_name: row.get_value::<Binary, _, _>(2)?,
            event_kind: row.get_value::<Text, _, _>(3)?,
            event_version: row.get_value::<Integer, _, _>(4)?,
            topic: row.get_value::<Binary, _, _>(5)?,
            message_key: row.get_value::<Nullable<Binary>, _, _>(6)?,
            headers: row.get_value::<Nullable<Binary>, _, _>(7)?,
            content_type: row.get_value::<Binary, _, _>(8)?,
            payload: row.get_value::<Nullable<Binary>, _, _>(9)?,
            payload_text: row.get_value::<Nullable<Binary>, _, _>(10)?,
            occurred_at: row.get_value::<Nullable<Binary>, _, _>(11)?,
            attempts: row.get_value::<Integer, _, _>(12)?,
            size: row.get_value::<Integer, _, _>(13)?,
            group_no: row.get_value::<Integer, _, _>(14)?,
            gated: row.get_value::<Bool, _, _>(15)?,
            lane: row.get_value::<Nullable<Binary>, _, _>(16)?,
        })
    }
}

/// The headers as they stand in the table.
pub(crate) struct RawHeaders<'a>(Option<&'a [u8]>);

impl RawHeaders<'_> {
    /// Why they cannot be read, if that is so.
    pub(crate) fn error(&self) -> Option<String> {
        self.0.and_then(|text| headers::from_json(text).err()).map(|error| error.to_string())
    }

    /// What stands there instead of headers.
    pub(crate) fn unreadable(&self) -> Option<Bytes> {
        self.error().and(self.0).map(Bytes::copy_from_slice)
    }

    /// How many bytes they take.
    pub(crate) fn size(&self) -> usize {
        self.0.map_or(0, <[u8]>::len)
    }
}

impl Record {
    pub(crate) fn headers(&self) -> RawHeaders<'_> {
        RawHeaders(self.headers.as_deref())
    }

    /// `free` is where it stands if its lane's gate is not closed.
    ///
    /// What is not as the tables promise is a defect of the row: it cannot be sent, and there is no message that would do for
    /// it. The first one found is told.
    pub(crate) fn into_row(self, free: Place, order_unit: OrderUnit) -> OutboxRow {
        let mut defects = Defects::default();
        let event_id = self.event_id.as_deref().and_then(|id| Uuid::from_slice(id).ok());
        let event_id = defects.unless("event_id", event_id, "a UUID").unwrap_or_default();
        let lane = match self.lane {
            Some(lane) => Lane::from(lane),
            None => order_unit.lane(&self.topic, self.message_key.as_deref(), event_id),
        };
        let topic = defects.text("topic", self.topic);
        let payload = self.payload.or(self.payload_text).map(Bytes::from);
        let mut message = match payload {
            Some(payload) => Message::new(topic, payload),
            None => Message::tombstone(topic),
        };
        message.id = Some(event_id.into());
        message.name = defects.text("event_name", self.event_name);
        message.kind =
            defects.unless("event_kind", EventKind::parse(&self.event_kind), "`notification` or `ecst`");
        message.version = defects.unless("event_version", self.event_version.try_into().ok(), "0 or more");
        message.key = self.message_key.map(Bytes::from);
        message.content_type = Some(defects.text("content_type", self.content_type));
        message.timestamp =
            defects.unless("occurred_at", self.occurred_at.as_deref().and_then(time), "a time as RFC 3339");
        match self.headers.as_deref().map(headers::from_json) {
            Some(Ok(headers)) => message.headers = headers,
            Some(Err(error)) => defects.found("headers", &error.to_string()),
            // A row that plain SQL wrote: its headers follow from its columns, so they are the same each time.
            None => Json::set_headers(&mut message),
        }
        OutboxRow {
            id: self.id,
            event_id,
            group: GroupNo(self.group_no),
            lane,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            size: usize::try_from(self.size).unwrap_or(0),
            place: if self.gated { Place::Gated } else { free },
            defect: defects.first,
            message,
        }
    }
}

/// What is wrong with the columns of a row.
#[derive(Default)]
struct Defects {
    first: Option<String>,
}

impl Defects {
    fn found(&mut self, column: &str, what: &str) {
        self.first.get_or_insert_with(|| {
            format!("the column `{column}` of this row is not what the outbox's tables promise: {what}")
        });
    }

    fn unless<T>(&mut self, column: &str, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            self.found(column, &format!("expected {expected}"));
        }
        value
    }

    fn text(&mut self, column: &str, bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap_or_else(|error| {
            self.found(column, "expected UTF-8");
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        })
    }
}

fn time(text: &[u8]) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(std::str::from_utf8(text).ok()?).ok()?;
    Some(time.with_timezone(&Utc))
}
