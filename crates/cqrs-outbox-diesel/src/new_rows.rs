//! New rows of the outbox as one statement of MySQL or SQLite. Where they are few, as they are most of the time, or as many as were
//! written before, it stays prepared on its connection: `diesel::sql_query` prepares anew with each call, which costs a round trip and the
//! description of each parameter, nearly as much as the rows themselves.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use cqrs_outbox::table::{Dialect, OutboxRecord, Value};
use diesel::QueryResult;
use diesel::backend::{Backend, DieselReserveSpecialization};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Binary, HasSqlType, Integer, Nullable, Text, Untyped};

/// A connection keeps one statement for each number of rows up to this.
const FEW: usize = 16;

/// And for other numbers up to this, if they come again. Larger ones are those of who fills a table once, and would leave no room.
const MANY: usize = 250;

/// So many rows have those together. There is no way to let diesel forget one that does not come any more, and MariaDB takes some 5 KiB
/// for each row, on each connection.
const KEPT: usize = 1_000;

/// How many rows writers write at once, to know which numbers come again.
#[derive(Debug, Default)]
pub struct BatchSizes(Mutex<Sizes>);

#[derive(Debug, Default)]
struct Sizes {
    seen: HashSet<usize>,
    kept: HashSet<usize>,
}

impl BatchSizes {
    /// Whether a statement for this many rows stays prepared.
    fn keep(&self, rows: usize) -> bool {
        if rows <= FEW || rows > MANY {
            return rows <= FEW;
        }
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.kept.contains(&rows) {
            return true;
        }
        let comes_again = !sizes.seen.insert(rows);
        let keep = comes_again && sizes.kept.iter().sum::<usize>() + rows <= KEPT;
        if keep {
            sizes.kept.insert(rows);
        }
        keep
    }
}

#[derive(Debug)]
pub(crate) struct NewRows {
    insert: Cow<'static, str>,
    rows: Vec<[Value; OutboxRecord::COLUMNS.len()]>,
    stays_prepared: bool,
}

impl NewRows {
    /// `insert` ends with `VALUES`.
    pub(crate) fn new(
        insert: Cow<'static, str>,
        rows: Vec<OutboxRecord>,
        dialect: Dialect,
        sizes: &BatchSizes,
    ) -> Self {
        let stays_prepared = sizes.keep(rows.len());
        Self { insert, rows: rows.into_iter().map(|row| row.into_values(dialect)).collect(), stays_prepared }
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
        if !self.stays_prepared {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_come_again_are_kept_within_bounds() {
        let sizes = BatchSizes::default();
        let keep = |rows| sizes.keep(rows);
        assert!(keep(1) && keep(16));
        assert!([false, true, true] == [keep(100), keep(100), keep(100)]);
        // Once each, as a program has them whose batches have any size.
        assert!(!(17..=99).chain(101..=1_000).any(keep));
        assert!(![251, 1_000, 1_000].into_iter().any(keep), "one of them would take the room of many");
        assert!([250, 249, 248].into_iter().all(keep));
        assert!(!keep(200), "847 rows are kept already");
        assert!(keep(153));
        assert!(!keep(17), "the room is taken");
        assert!([16, 100, 250, 249, 248, 153].into_iter().all(keep));
    }
}
