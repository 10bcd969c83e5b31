//! Statements that stay prepared on their connection: what a relay runs all the time need not be parsed each time.
//! `diesel::sql_query` prepares anew with each call, which costs a round trip more.

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Text, Untyped};

/// A statement of a fixed text, with its parameters in the order of their first use. Each is used once.
#[derive(Debug)]
pub(super) struct Prepared<'a, const N: usize> {
    text: &'static str,
    parameters: [Parameter<'a>; N],
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter<'a> {
    Number(i64),
    Numbers(&'a [i64]),
    Groups(&'a [i32]),
    Text(&'a str),
}

/// `text` has `$1` to `$N`, in their order.
pub(super) fn prepared<'a, const N: usize>(
    text: &'static str,
    parameters: [Parameter<'a>; N],
) -> Prepared<'a, N> {
    Prepared { text, parameters }
}

impl<const N: usize> QueryFragment<Pg> for Prepared<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut rest = self.text;
        for (parameter, number) in self.parameters.iter().zip(1..) {
            // Diesel writes the placeholder.
            if let Some((before, behind)) = rest.split_once(&format!("${number}")) {
                out.push_sql(before);
                rest = behind;
            }
            match parameter {
                Parameter::Number(number) => out.push_bind_param::<BigInt, _>(number)?,
                Parameter::Numbers(numbers) => out.push_bind_param::<Array<BigInt>, _>(numbers)?,
                Parameter::Groups(groups) => out.push_bind_param::<Array<Integer>, _>(groups)?,
                Parameter::Text(text) => out.push_bind_param::<Text, _>(*text)?,
            }
        }
        out.push_sql(rest);
        Ok(())
    }
}

impl<const N: usize> QueryId for Prepared<'_, N> {
    type QueryId = ();

    // The text is the key.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<const N: usize> Query for Prepared<'_, N> {
    type SqlType = Untyped;
}
