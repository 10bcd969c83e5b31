//! Statements that stay prepared on their connection: what runs all the time need not be parsed each time.
//! `diesel::sql_query` prepares anew with each call, which costs a round trip more.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Double, Integer, Nullable, Text, Timestamptz, Untyped, Uuid as SqlUuid,
};
use uuid::Uuid;

/// A statement of a fixed text, with its parameters.
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
    Seconds(Option<f64>),
    Partitions(&'a [Option<i32>]),
    Offsets(&'a [Option<i64>]),
}

/// `text` has `$1` to `$N`, in any order, each once or more.
pub(super) fn prepared<'a, const N: usize>(
    text: Cow<'static, str>,
    parameters: [Parameter<'a>; N],
) -> Prepared<'a, N> {
    Prepared { text, parameters }
}

impl<const N: usize> QueryFragment<Pg> for Prepared<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        // Diesel numbers the placeholders as it writes them; one that comes again is written by hand.
        let (mut numbers, mut last) = ([0; N], 0);
        let mut parts = self.text.split('$');
        out.push_sql(parts.next().unwrap_or_default());
        for part in parts {
            let (digits, behind) = part.split_at(part.bytes().take_while(u8::is_ascii_digit).count());
            let place = digits.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            match place.and_then(|place| Some((self.parameters.get(place)?, numbers.get_mut(place)?))) {
                Some((parameter, number)) if *number == 0 => {
                    last += 1;
                    *number = last;
                    parameter.push(&mut out)?;
                }
                Some((_, number)) => out.push_sql(&format!("${number}")),
                None => out.push_sql(&format!("${digits}")),
            }
            out.push_sql(behind);
        }
        Ok(())
    }
}

impl Parameter<'_> {
    fn push<'b>(&'b self, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        match self {
            Self::Bool(bool) => out.push_bind_param::<Bool, _>(bool),
            Self::Integer(integer) => out.push_bind_param::<Integer, _>(integer),
            Self::Number(number) => out.push_bind_param::<BigInt, _>(number),
            Self::Numbers(numbers) => out.push_bind_param::<Array<BigInt>, _>(numbers),
            Self::Integers(integers) => out.push_bind_param::<Array<Integer>, _>(integers),
            Self::Blob(blob) => out.push_bind_param::<Nullable<Binary>, _>(blob),
            Self::Time(time) => out.push_bind_param::<Timestamptz, _>(time),
            Self::Uuid(uuid) => out.push_bind_param::<SqlUuid, _>(uuid),
            Self::Text(text) => out.push_bind_param::<Text, _>(*text),
            Self::Texts(texts) => out.push_bind_param::<Array<Text>, _>(texts),
            Self::Words(words) => out.push_bind_param::<Array<Text>, _>(words),
            Self::Blobs(blobs) => out.push_bind_param::<Array<Nullable<Binary>>, _>(blobs),
            Self::Uuids(uuids) => out.push_bind_param::<Array<SqlUuid>, _>(uuids),
            Self::Times(times) => out.push_bind_param::<Array<Timestamptz>, _>(times),
            Self::Seconds(seconds) => out.push_bind_param::<Nullable<Double>, _>(seconds),
            Self::Partitions(partitions) => out.push_bind_param::<Array<Nullable<Integer>>, _>(partitions),
            Self::Offsets(offsets) => out.push_bind_param::<Array<Nullable<BigInt>>, _>(offsets),
        }
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
