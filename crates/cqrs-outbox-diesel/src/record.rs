//! From rows to messages.

mod headers;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::codec::Json;
use cqrs_core::{EventKind, Message};
use cqrs_outbox::{GroupNo, Lane, OutboxRow, Place};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
use uuid::Uuid;

/// A waiting row, as every database gives it: its id as bytes and its time as RFC 3339, for the types of these differ. Text is
/// bytes, for SQLite takes any in its place, and one row that cannot be decoded must not fail the read of all.
#[derive(QueryableByName, Debug)]
pub struct Record {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    event_id: Option<Vec<u8>>,
    #[diesel(sql_type = Binary)]
    event_name: Vec<u8>,
    #[diesel(sql_type = Text)]
    event_kind: String,
    #[diesel(sql_type = Integer)]
    event_version: i32,
    #[diesel(sql_type = Binary)]
    topic: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    message_key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    headers: Option<Vec<u8>>,
    #[diesel(sql_type = Binary)]
    content_type: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    payload: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    payload_text: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    occurred_at: Option<Vec<u8>>,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) size: i32,
    #[diesel(sql_type = Integer)]
    pub(crate) group_no: i32,
    #[diesel(sql_type = Bool)]
    gated: bool,
    /// Of a row that stands aside: one that was refused may have a lane of its own.
    #[diesel(sql_type = Nullable<Binary>)]
    lane: Option<Vec<u8>>,
}

impl Record {
    /// `free` is where it stands if its lane's gate is not closed.
    ///
    /// What is not as the tables promise is a defect of the row: it cannot be sent, and there is no message that would do for
    /// it. The first one found is told.
    pub(crate) fn into_row(self, free: Place) -> OutboxRow {
        let mut defects = Defects::default();
        let event_id = self.event_id.as_deref().and_then(|id| Uuid::from_slice(id).ok());
        let event_id = defects.unless("event_id", event_id, "a UUID").unwrap_or_default();
        let lane = self.lane.map_or_else(|| Lane::of(self.message_key.as_deref(), event_id), Lane::from);
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
