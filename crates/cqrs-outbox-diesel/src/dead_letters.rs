//! What an operator sees of the events that were given up.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_core::{Error, ErrorKind, Message, Result};
use cqrs_outbox::{Lane, OrderUnit, OutboxRow, Place, StoreError};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::backend::Backend;
use crate::error::store_error;
use crate::outbox::Outbox;
use crate::query::Query;
use crate::record::Record;
use crate::statements::limit;

/// Which dead letters: those that fit everything that is said here; without a word, all.
///
/// ```
/// use cqrs_outbox_diesel::DeadLetterFilter;
///
/// let refused_orders = DeadLetterFilter::new().topic("orders").name("order_placed");
/// ```
#[non_exhaustive]
#[must_use = "a filter does nothing by itself"]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    topic: Option<String>,
    key: Option<Bytes>,
    name: Option<String>,
    event_id: Option<Uuid>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl DeadLetterFilter {
    /// All of them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of this topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Of this key; an empty one is a key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Of events with this name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Of this event.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Given up at this time or later, by the database's clock.
    pub fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Given up before this time, by the database's clock.
    pub fn until(mut self, until: DateTime<Utc>) -> Self {
        self.until = Some(until);
        self
    }

    /// Adds the conditions to a query of `cqrs_outbox_dead`.
    pub(crate) fn apply<B: Backend>(&self, query: Query) -> Query {
        of_key::<B>(query, "cqrs_outbox_dead", self.key.as_deref())
            .filter(B::DIALECT.event_id_is, self.event_id.map(|id| id.as_bytes().to_vec()))
            .filter("topic = ?", self.topic.clone())
            .filter("event_name = ?", self.name.clone())
            .filter("dead_at >= ?", self.since)
            .filter("dead_at < ?", self.until)
    }
}

/// Adds the condition that a row of this table, which stands aside or is dead, is of this key. By an index, for as a rule it is in the lane
/// of its key. Those of other lanes are looked through: they are of a topic and a key, or each for itself.
pub(crate) fn of_key<B: Backend>(query: Query, table: &str, key: Option<&[u8]>) -> Query {
    let Some(key) = key else { return query };
    let key_is = B::DIALECT.key_is;
    let sides = ["lane = ?".to_owned(), format!("lane < ? AND {key_is}"), format!("lane >= ? AND {key_is}")];
    let condition = if B::DIALECT.searches_or {
        sides.map(|side| format!("({side})")).join(" OR ")
    } else {
        let parts = sides.map(|side| format!("SELECT id FROM {table} WHERE {side}"));
        format!("id IN ({})", parts.join(" UNION ALL "))
    };
    let lane = Lane::of(Some(key), Uuid::nil());
    query
        .condition("(", true)
        .then(&condition)
        .then(")")
        .bind(lane.as_bytes().to_vec())
        .bind(b"k".to_vec())
        .bind(key.to_vec())
        .bind(b"l".to_vec())
        .bind(key.to_vec())
}

/// Which part of a long list, and from which end.
#[non_exhaustive]
#[must_use = "a page does nothing by itself"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub(crate) newest_first: bool,
    pub(crate) limit: usize,
    pub(crate) after: Option<i64>,
}

impl Page {
    /// From the newest on: the highest id comes first.
    pub fn newest_first() -> Self {
        Self { newest_first: true, limit: 100, after: None }
    }

    /// From the oldest on.
    pub fn oldest_first() -> Self {
        Self { newest_first: false, ..Self::newest_first() }
    }

    /// So many at most. Default 100.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// What comes behind the one with this id: the last of the page before. Default: the first page.
    pub fn after(mut self, id: i64) -> Self {
        self.after = Some(id);
        self
    }

    /// Adds the page to a query of a table.
    pub(crate) fn apply(self, query: Query) -> Query {
        let (after, order) = if self.newest_first {
            ("id < ?", " ORDER BY id DESC LIMIT ?")
        } else {
            ("id > ?", " ORDER BY id LIMIT ?")
        };
        query.filter(after, self.after).then(order).bind(limit(self.limit))
    }
}

/// An event that was given up.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row's id: the order within its key, and where a next [`Page`] goes on.
    pub id: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// The event's name.
    pub name: String,
    /// Where it was to go.
    pub topic: String,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// In which order it goes, if it is replayed.
    pub lane: Lane,
    /// How often it was refused.
    pub attempts: u32,
    /// Bytes of payload, key and headers.
    pub size: usize,
    /// The last refusal.
    pub error: Option<String>,
    /// When the event occurred; `None` if what stands in the table is no time (SQLite takes any text).
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was given up, by the database's clock.
    pub died_at: DateTime<Utc>,
}

/// An event that was given up, with all that is known of it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterDetails {
    /// What a list shows, too.
    pub letter: DeadLetter,
    /// What was to be sent, as far as it can be read.
    pub message: Message,
    /// The first column that is not as the outbox's tables promise, and why: as long as there is one, the event cannot be sent.
    pub defect: Option<String>,
    /// What stands in the column of the headers, if it cannot be read.
    pub unreadable_headers: Option<Bytes>,
    /// Every refusal, the first one first.
    pub refusals: Vec<Refusal>,
}

/// Why an event was refused once.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When, by the database's clock; `None` if what stands in the table is no time.
    pub at: Option<DateTime<Utc>>,
    /// What the broker, or the relay, said.
    pub error: String,
}

impl<B: Backend> Outbox<B> {
    /// The dead letters that fit, a page of them.
    ///
    /// Behind the filters stand indexes on the key and on the event's id; for the others the list is walked in its order until the page is
    /// full. By key, all dead letters are looked through, too, that have none or wait by their topic ([`OrderUnit::TopicAndKey`]).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn dead_letters(&self, filter: &DeadLetterFilter, page: Page) -> Result<Vec<DeadLetter>> {
        let query = page.apply(filter.apply::<B>(Query::new(B::DIALECT.dead_letters)));
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let rows =
            B::dead_letters(&mut conn.on(), query).await.map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        rows.into_iter().map(ListedRow::into_letter).collect()
    }

    /// How many dead letters fit. They are counted: by what [`dead_letters`](Self::dead_letters) looks at.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn count_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64> {
        let query = filter.apply::<B>(Query::new("SELECT count(*) AS value FROM cqrs_outbox_dead"));
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let counts =
            B::numbers(&mut conn.on(), query).await.map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        Ok(counts.first().and_then(|count| u64::try_from(*count).ok()).unwrap_or(0))
    }

    /// All that is known of the dead letter of this event; `None` if there is none. (Of several with the same id, which only
    /// plain SQL writes, the oldest.)
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn dead_letter(&self, event_id: Uuid) -> Result<Option<DeadLetterDetails>> {
        let filter = DeadLetterFilter::new().event_id(event_id);
        let query = filter.apply::<B>(Query::new(B::DIALECT.dead_letters_in_full));
        let mut conn = self.lend().await.map_err(|error| self.failed(error))?;
        let row = B::dead_letter(&mut conn.on(), Page::oldest_first().limit(1).apply(query))
            .await
            .map_err(|error| self.failed(store_error(error)))?;
        conn.give_back();
        row.map(FullDeadRow::into_details).transpose()
    }
}

/// A row that is dead, or stands aside, without what is to be sent: ids as bytes, times as RFC 3339, and as bytes what a writer may have got wrong.
#[derive(QueryableByName, Debug)]
pub struct ListedRow {
    #[diesel(sql_type = BigInt)]
    pub(crate) id: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    event_id: Option<Vec<u8>>,
    #[diesel(sql_type = Binary)]
    event_name: Vec<u8>,
    #[diesel(sql_type = Binary)]
    topic: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    message_key: Option<Vec<u8>>,
    #[diesel(sql_type = Binary)]
    lane: Vec<u8>,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    size: i32,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
    #[diesel(sql_type = Nullable<Binary>)]
    occurred_at: Option<Vec<u8>>,
    #[diesel(sql_type = Text)]
    at: String,
}

impl ListedRow {
    pub(crate) fn into_letter(self) -> Result<DeadLetter> {
        Ok(DeadLetter {
            id: self.id,
            event_id: self.event_id.and_then(|id| Uuid::from_slice(&id).ok()).unwrap_or_default(),
            name: lossy(&self.event_name),
            topic: lossy(&self.topic),
            key: self.message_key.map(Bytes::from),
            lane: Lane::from(self.lane),
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            size: usize::try_from(self.size).unwrap_or(0),
            error: self.error,
            occurred_at: self.occurred_at.and_then(|at| time(&lossy(&at)).ok()),
            died_at: time(&self.at)?,
        })
    }
}

/// A dead letter with everything.
#[derive(QueryableByName, Debug)]
pub struct FullDeadRow {
    #[diesel(embed)]
    pub(crate) record: Record,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
    /// JSON: `[{"at": .., "error": ..}, ..]`
    #[diesel(sql_type = Text)]
    errors: String,
    #[diesel(sql_type = Text)]
    dead_at: String,
}

impl FullDeadRow {
    fn into_details(self) -> Result<DeadLetterDetails> {
        let unreadable_headers = self.record.headers().unreadable();
        let OutboxRow { id, event_id, lane, attempts, size, message, defect, .. } =
            self.record.into_row(Place::Parked, OrderUnit::default());
        let letter = DeadLetter {
            id,
            event_id,
            name: message.name.clone(),
            topic: message.topic.clone(),
            key: message.key.clone(),
            lane,
            attempts,
            size,
            error: self.error,
            occurred_at: message.timestamp,
            died_at: time(&self.dead_at)?,
        };
        let refusals = refusals(&self.errors);
        Ok(DeadLetterDetails { letter, message, defect, unreadable_headers, refusals })
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Lenient, for an operator who looks at what went wrong is helped by what there is.
fn refusals(errors: &str) -> Vec<Refusal> {
    let Ok(Json::Array(entries)) = serde_json::from_str(errors) else { return Vec::new() };
    let refusal = |entry: &Json| Refusal {
        at: entry["at"].as_str().and_then(|at| time(at).ok()),
        error: entry["error"].as_str().unwrap_or_default().to_owned(),
    };
    entries.iter().map(refusal).collect()
}

/// A time as the statements give it.
pub(crate) fn time(text: &str) -> Result<DateTime<Utc>> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed.map(|time| time.with_timezone(&Utc)).map_err(|error| {
        let what = format!("the outbox's database gave a time that is none, `{text}`: {error}");
        Error::caused_by(ErrorKind::Store, StoreError::new(cqrs_outbox::StoreErrorKind::Other, what))
    })
}
