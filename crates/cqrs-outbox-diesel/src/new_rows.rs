//! New rows of the outbox as one statement of MySQL or SQLite. Where they are few, as they are most of the time, it stays
//! prepared on its connection: `diesel::sql_query` prepares anew with each call, which costs a round trip more.

use std::borrow::Cow;

use cqrs_outbox::table::{Dialect, OutboxRecord, Value};
use diesel::QueryResult;
use diesel::backend::{Backend, DieselReserveSpecialization};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Binary, HasSqlType, Integer, Nullable, Text, Untyped};

/// A connection keeps one statement for each number of rows up to this.
const FEW: usize = 16;

#[derive(Debug)]
pub(crate) struct NewRows {
    insert: Cow<'static, str>,
    rows: Vec<[Value; OutboxRecord::COLUMNS.len()]>,
}

impl NewRows {
    /// `insert` ends with `VALUES`.
    pub(crate) fn new(insert: Cow<'static, str>, rows: Vec<OutboxRecord>, dialect: Dialect) -> Self {
        Self { insert, rows: rows.into_iter().map(|row| row.into_values(dialect)).collect() }
    }
}

impl<DB> QueryFragment<DB> for NewRows
where
    DB: Backend + DieselReserveSpecialization + HasSqlType<Text> + HasSqlType<Binary> + HasSqlType<Integer>,
    String: ToSql<Text, DB>,
    Option<Vec<u8>>: ToSql<Nullable<Binary>, DB>,
    i32: ToSql<Integer, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if self.rows.len() > FEW {
            out.unsafe_to_cache_prepared();
        }
        out.push_sql(&self.insert);
        for (nth, row) in self.rows.iter().enumerate() {
            out.push_sql(if nth == 0 { "(" } else { ", (" });
            for (nth, value) in row.iter().enumerate() {
                if nth > 0 {
                    out.push_sql(", ");
                }
                match value {
                    Value::Text(text) => out.push_bind_param::<Text, _>(text)?,
                    Value::Bytes(bytes) => out.push_bind_param::<Nullable<Binary>, _>(bytes)?,
                    Value::Integer(number) => out.push_bind_param::<Integer, _>(number)?,
                }
            }
            out.push_sql(")");
        }
        Ok(())
    }
}

impl QueryId for NewRows {
    type QueryId = ();

    // The text is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for NewRows {
    type SqlType = Untyped;
}
