//! A connection, how the outbox's tables are called on it, and what is in order there. All SQL is written with the default names, and for the
//! default unit of order, as text that can be read; the others are put in where a statement is made. With the defaults nothing is done, and
//! nothing copied.

use std::borrow::Cow;
use std::fmt;

use cqrs_outbox::OrderUnit;
use cqrs_outbox::table::TableNames;
use diesel::query_builder::SqlQuery;

use crate::statements::Statements;

pub struct On<'c, B: Statements> {
    pub(crate) conn: &'c mut B::Conn,
    pub(crate) names: &'c TableNames,
    pub(crate) order_unit: OrderUnit,
    pub(crate) memory: &'c B::Memory,
}

impl<'c, B: Statements> On<'c, B> {
    pub(crate) fn new(
        conn: &'c mut B::Conn,
        names: &'c TableNames,
        order_unit: OrderUnit,
        memory: &'c B::Memory,
    ) -> Self {
        Self { conn, names, order_unit, memory }
    }

    /// The text of a statement.
    pub(crate) fn sql(&self, text: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        let text = self.names.sql(B::SQL, text);
        match self.order_unit {
            OrderUnit::TopicAndKey => by_topic(text, B::LANES),
            _ => text,
        }
    }

    /// A statement, whose values are still to be bound.
    pub(crate) fn query(&self, text: impl Into<Cow<'static, str>>) -> SqlQuery {
        diesel::sql_query(self.sql(text))
    }
}

/// How the statements of a database write the lane of a key, and how that of a topic and a key is written in its place.
pub(crate) type Lanes = &'static [(&'static str, &'static str)];

fn by_topic(text: Cow<'static, str>, lanes: Lanes) -> Cow<'static, str> {
    let text = lanes.iter().fold(text, |text, (by_key, by_topic)| {
        if text.contains(by_key) { Cow::Owned(text.replace(by_key, by_topic)) } else { text }
    });
    debug_assert!(!text.contains("'k'"), "a lane that is written in another way: {text}");
    text
}

impl<B: Statements> fmt::Debug for On<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").field("names", self.names).finish_non_exhaustive()
    }
}
