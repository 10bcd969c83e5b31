//! Statements that stay prepared on their connection: what runs all the time need not be parsed each time.
//! `diesel::sql_query` prepares anew with each call, which costs a round trip more.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Untyped, Uuid as SqlUuid,
};
use uuid::Uuid;

/// A statement of a fixed text, with its parameters in the order of their first use. Each is used once.
#[derive(Debug)]
pub(super) struct Prepared<'a, const N: usize> {
    text: Cow<'static, str>,
    parameters: [Parameter<'a>; N],
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameter<'a> {
    Bool(bool),
    Integer(i32),
    Number(i64),
    Numbers(&'a [i64]),
    Integers(&'a [i32]),
    Blob(Option<&'a [u8]>),
    Text(&'a str),
    Time(DateTime<Utc>),
    Uuid(Uuid),
    Texts(&'a [String]),
    Words(&'a [&'static str]),
    Blobs(&'a [Option<Vec<u8>>]),
    Uuids(&'a [Uuid]),
    Times(&'a [DateTime<Utc>]),
}

/// `text` has `$1` to `$N`, in their order.
pub(super) fn prepared<'a, const N: usize>(
    text: Cow<'static, str>,
    parameters: [Parameter<'a>; N],
) -> Prepared<'a, N> {
    Prepared { text, parameters }
}

impl<const N: usize> QueryFragment<Pg> for Prepared<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut rest = &*self.text;
        for (parameter, number) in self.parameters.iter().zip(1..) {
            // Diesel writes the placeholder.
            if let Some((before, behind)) = rest.split_once(&format!("${number}")) {
                out.push_sql(before);
                rest = behind;
            }
            match parameter {
                Parameter::Bool(bool) => out.push_bind_param::<Bool, _>(bool)?,
                Parameter::Integer(integer) => out.push_bind_param::<Integer, _>(integer)?,
                Parameter::Number(number) => out.push_bind_param::<BigInt, _>(number)?,
                Parameter::Numbers(numbers) => out.push_bind_param::<Array<BigInt>, _>(numbers)?,
                Parameter::Integers(integers) => out.push_bind_param::<Array<Integer>, _>(integers)?,
                Parameter::Blob(blob) => out.push_bind_param::<Nullable<Binary>, _>(blob)?,
                Parameter::Time(time) => out.push_bind_param::<Timestamptz, _>(time)?,
                Parameter::Uuid(uuid) => out.push_bind_param::<SqlUuid, _>(uuid)?,
                Parameter::Text(text) => out.push_bind_param::<Text, _>(*text)?,
                Parameter::Texts(texts) => out.push_bind_param::<Array<Text>, _>(texts)?,
                Parameter::Words(words) => out.push_bind_param::<Array<Text>, _>(words)?,
                Parameter::Blobs(blobs) => out.push_bind_param::<Array<Nullable<Binary>>, _>(blobs)?,
                Parameter::Uuids(uuids) => out.push_bind_param::<Array<SqlUuid>, _>(uuids)?,
                Parameter::Times(times) => out.push_bind_param::<Array<Timestamptz>, _>(times)?,
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
