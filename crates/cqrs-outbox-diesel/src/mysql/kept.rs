//! Statements that stay prepared on their connection: what an idle relay runs need not be prepared each time, as
//! `diesel::sql_query` does, which costs two commands more.

use std::borrow::Cow;

use diesel::QueryResult;
use diesel::mysql::Mysql;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Text, Untyped};

/// A statement of a fixed text, with a parameter for each `?`.
#[derive(Debug)]
pub(super) struct Kept<'a, const N: usize> {
    text: Cow<'static, str>,
    parameters: [Parameter<'a>; N],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter<'a> {
    Text(&'a str),
    Number(i64),
}

pub(super) fn kept<'a, const N: usize>(
    text: Cow<'static, str>,
    parameters: [Parameter<'a>; N],
) -> Kept<'a, N> {
    Kept { text, parameters }
}

impl<const N: usize> QueryFragment<Mysql> for Kept<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Mysql>) -> QueryResult<()> {
        let mut parts = self.text.split('?');
        out.push_sql(parts.next().unwrap_or_default());
        for (part, parameter) in parts.zip(&self.parameters) {
            match parameter {
                Parameter::Text(text) => out.push_bind_param::<Text, _>(*text)?,
                Parameter::Number(number) => out.push_bind_param::<BigInt, _>(number)?,
            }
            out.push_sql(part);
        }
        Ok(())
    }
}

impl<const N: usize> QueryId for Kept<'_, N> {
    type QueryId = ();

    // The text is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<const N: usize> Query for Kept<'_, N> {
    type SqlType = Untyped;
}
