//! A connection, and how the outbox's tables are called on it. All SQL is written with the default names, as text that can be read;
//! the others are put in where a statement is made. With the default names nothing is done, and nothing copied.

use std::borrow::Cow;
use std::fmt;

use cqrs_outbox::table::TableNames;
use diesel::query_builder::SqlQuery;

use crate::statements::Statements;

pub struct On<'c, B: Statements> {
    pub(crate) conn: &'c mut B::Conn,
    pub(crate) names: &'c TableNames,
}

impl<'c, B: Statements> On<'c, B> {
    pub(crate) fn new(conn: &'c mut B::Conn, names: &'c TableNames) -> Self {
        Self { conn, names }
    }

    /// The text of a statement.
    pub(crate) fn sql(&self, text: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        self.names.sql(B::SQL, text)
    }

    /// A statement, whose values are still to be bound.
    pub(crate) fn query(&self, text: impl Into<Cow<'static, str>>) -> SqlQuery {
        diesel::sql_query(self.sql(text))
    }
}

impl<B: Statements> fmt::Debug for On<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").field("names", self.names).finish_non_exhaustive()
    }
}
