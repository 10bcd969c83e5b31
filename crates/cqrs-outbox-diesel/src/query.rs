//! A statement that is put together of fixed parts: which ones depends on what is asked for, and values are bound, never
//! written into it.

use chrono::{DateTime, Utc};

use crate::statements::places;

/// The text, with a `?` for each value.
#[derive(Clone, Debug)]
pub struct Query {
    text: String,
    values: Vec<Value>,
    has_where: bool,
}

/// What is bound.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
    Seconds(f64),
    Time(DateTime<Utc>),
}

impl Query {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text: text.to_owned(), values: Vec::new(), has_where: false }
    }

    /// Goes on with this.
    pub(crate) fn then(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Binds the next value.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// A condition on one value; without the value, none.
    pub(crate) fn filter(self, condition: &'static str, value: Option<impl Into<Value>>) -> Self {
        let Some(value) = value else { return self };
        let mut query = self.then_condition(condition);
        query.values.push(value.into());
        query
    }

    /// A condition, if it is asked for.
    pub(crate) fn condition(self, condition: &'static str, asked_for: bool) -> Self {
        if asked_for { self.then_condition(condition) } else { self }
    }

    fn then_condition(mut self, condition: &'static str) -> Self {
        let word = if self.has_where { " AND " } else { " WHERE " };
        self.has_where = true;
        self.then(word).then(condition)
    }

    /// Numbers as the right side of an `IN`.
    pub(crate) fn list(self, numbers: &[i64]) -> Self {
        let text: Vec<String> = numbers.iter().map(i64::to_string).collect();
        self.then(&format!("({})", text.join(", ")))
    }

    /// Bytes as the right side of an `IN`; there has to be one.
    pub(crate) fn any_of<'a>(mut self, values: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let before = self.values.len();
        self.values.extend(values.into_iter().map(|bytes| Value::Bytes(bytes.clone())));
        let places = places("?", self.values.len() - before);
        self.then(&format!("({places})"))
    }

    #[cfg(any(feature = "mysql", feature = "sqlite"))]
    pub(crate) fn into_parts(self) -> (String, Vec<Value>) {
        (self.text, self.values)
    }

    /// With `$1`, `$2` .. in place of the `?`.
    #[cfg(feature = "postgres")]
    pub(crate) fn into_numbered(self) -> (String, Vec<Value>) {
        let mut parts = self.text.split('?');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (part, number) in parts.zip(1..) {
            text.push_str(&format!("${number}{part}"));
        }
        (text, self.values)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<f64> for Value {
    fn from(seconds: f64) -> Self {
        Self::Seconds(seconds)
    }
}

impl From<DateTime<Utc>> for Value {
    fn from(time: DateTime<Utc>) -> Self {
        Self::Time(time)
    }
}

/// How the parts of such statements are written on a database, where databases differ.
#[derive(Debug)]
pub struct Dialect {
    /// Dead letters, without what was to be sent: the columns of a `ListedRow`.
    pub(crate) dead_letters: &'static str,
    /// The same with it: the columns of a `FullDeadRow`.
    pub(crate) dead_letters_in_full: &'static str,
    /// Whether a dead letter is of the event of this id, which is bound as bytes.
    pub(crate) event_id_is: &'static str,
    /// The same of a row that stands aside, where no index helps.
    pub(crate) parked_event_id_is: &'static str,
    /// Whether a lane is that of a topic and a key.
    pub(crate) is_lane_of_topic: &'static str,
    /// Whether a lane is that of a key, on whatever topic. In hexadecimal digits, for the letter stands for the lane of a row.
    pub(crate) is_lane_of_key: &'static str,
    /// Whether an index is searched for each side of an `OR`; else only for each part of a `UNION`.
    pub(crate) searches_or: bool,
    /// Rows that stand aside: the columns of a `ParkedRow`.
    pub(crate) parked: &'static str,
    /// Scheduled rows: the columns of a `ScheduledRecord`.
    pub(crate) scheduled: &'static str,
    /// Whether a scheduled row is of the key that is bound.
    pub(crate) key_is: &'static str,
    /// Requests: the columns of a `RequestRow`.
    pub(crate) requests: &'static str,
    /// The event's id of a request or of a scheduled row, which is bound as text.
    pub(crate) event_id: &'static str,
    /// The time, as it stands in columns that are only shown and compared with such.
    pub(crate) now: &'static str,
    /// So many seconds from now, as `not_before` has it.
    pub(crate) not_before: &'static str,
    /// Removes what was sent more than so many seconds ago, so many at most; as the next two do with what was handled, and
    /// with requests that were done.
    pub(crate) purge_sent: &'static str,
    pub(crate) purge_inbox: &'static str,
    pub(crate) purge_requests: &'static str,
    /// Microseconds since 1970.
    pub(crate) clock: &'static str,
    /// The time so many of them after 1970, as `not_before` and `deliver_at` have it.
    pub(crate) at: &'static str,
    /// Whether a request `r` and a dead letter `d` are about the same event: ids of rows may come again.
    pub(crate) same_event: &'static str,
    /// The group of a dead letter `d`.
    pub(crate) group: &'static str,
    /// Locks the rows of a query, at its end; nothing where a transaction that writes is the only one.
    pub(crate) for_update: &'static str,
    /// The same, but for those that somebody else has locked.
    pub(crate) skip_locked: &'static str,
    /// Behind a table's name: rows are found by their ids and in no other way, where another way would wait for locks of others.
    pub(crate) by_primary_key: &'static str,
    /// Whom the database takes this for.
    pub(crate) me: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "postgres")]
    #[test]
    fn placeholders_are_numbered() {
        let query = Query::new("SELECT 1 FROM t")
            .filter("a = ?", Some("x"))
            .filter("b = ?", None::<i64>)
            .filter("c < ?", Some(5_i64))
            .then(" LIMIT ?")
            .bind(7_i64);
        let (text, values) = query.into_numbered();
        assert_eq!(text, "SELECT 1 FROM t WHERE a = $1 AND c < $2 LIMIT $3");
        assert_eq!(values.len(), 3);
    }
}
