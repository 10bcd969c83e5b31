//! What became of each line of the input, in the database of the first service.
//!
//! A line's row is written in the same transaction as the effect of its command. So when the process is killed, whatever
//! the moment, the journal says exactly which lines are done, and the next process goes on behind them. A refused command
//! has its row, too: judged anew, against the later state, it might be accepted.

use std::fmt;

use cqrs::sql::Tx;
use cqrs::{Context, Request, TransactionalHandler};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Connection, Db};
use crate::domain::RoomError;
use crate::input::Place;

pub(crate) const TABLES: &str = "\
    CREATE TABLE journal (line BIGINT PRIMARY KEY, digest BIGINT NOT NULL, outcome VARCHAR(8) NOT NULL, \
        kind VARCHAR(32), detail TEXT);";

diesel::table! {
    journal (line) {
        line -> BigInt,
        digest -> BigInt,
        outcome -> Text,
        kind -> Nullable<Text>,
        detail -> Nullable<Text>,
    }
}

/// What became of a line.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A command was carried out.
    Done,
    /// A query was answered with this.
    Answered(String),
    Refused(Refusal),
}

#[derive(Debug)]
pub(crate) struct Refusal {
    /// By what refusals are counted.
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Answered(_) => "answered",
            Self::Refused(_) => "refused",
        })
    }
}

/// A command with the place where it stands.
#[derive(Debug)]
pub(crate) struct Line<C> {
    pub(crate) place: Place,
    pub(crate) command: C,
}

impl<C: Request> Request for Line<C> {
    type Response = C::Response;
    type Error = C::Error;

    fn name() -> &'static str {
        C::name()
    }
}

/// Puts a journal around the handler of a command, within its transaction.
pub(crate) struct Journaled<H>(pub(crate) H);

impl<C, H> TransactionalHandler<Line<C>, Db> for Journaled<H>
where
    C: Request<Error = RoomError>,
    H: TransactionalHandler<C, Db>,
{
    async fn handle(
        &self,
        line: Line<C>,
        tx: &mut Tx<Db>,
        cx: &Context<'_>,
    ) -> Result<C::Response, RoomError> {
        let response = self.0.handle(line.command, tx, cx).await?;
        write(tx, line.place, &Outcome::Done).await?;
        Ok(response)
    }
}

/// Writes the row of a line.
pub(crate) async fn write(tx: &mut Tx<Db>, place: Place, outcome: &Outcome) -> cqrs::Result<()> {
    let (kind, detail) = match outcome {
        Outcome::Done => (None, None),
        Outcome::Answered(answer) => (None, Some(answer)),
        Outcome::Refused(Refusal { kind, reason }) => (Some(*kind), Some(reason)),
    };
    diesel::insert_into(journal::table)
        .values((
            journal::line.eq(place.line.cast_signed()),
            journal::digest.eq(place.digest.cast_signed()),
            journal::outcome.eq(outcome.to_string()),
            journal::kind.eq(kind),
            journal::detail.eq(detail),
        ))
        .execute(tx)
        .await?;
    Ok(())
}

/// The last line that has a row.
pub(crate) async fn last(conn: &mut Connection) -> QueryResult<Option<Place>> {
    let last: Option<(i64, i64)> = journal::table
        .order(journal::line.desc())
        .select((journal::line, journal::digest))
        .first(conn)
        .await
        .optional()?;
    Ok(last.map(|(line, digest)| Place { line: line.cast_unsigned(), digest: digest.cast_unsigned() }))
}

/// How many lines have a row.
pub(crate) async fn count(conn: &mut Connection) -> QueryResult<i64> {
    journal::table.count().get_result(conn).await
}

/// How many commands were carried out.
pub(crate) async fn done(conn: &mut Connection) -> QueryResult<i64> {
    journal::table.filter(journal::outcome.eq(Outcome::Done.to_string())).count().get_result(conn).await
}

/// How many lines had each outcome.
pub(crate) async fn counts(conn: &mut Connection) -> QueryResult<Vec<(String, i64)>> {
    use diesel::dsl::count_star;
    journal::table.group_by(journal::outcome).select((journal::outcome, count_star())).load(conn).await
}

/// The first refusals: line, kind, reason.
pub(crate) async fn refusals(conn: &mut Connection, limit: i64) -> QueryResult<Vec<(i64, String, String)>> {
    journal::table
        .filter(journal::outcome.eq("refused"))
        .order(journal::line)
        .limit(limit)
        .select((journal::line, journal::kind.assume_not_null(), journal::detail.assume_not_null()))
        .load(conn)
        .await
}

/// How many refusals there are of each kind.
pub(crate) async fn refused_by_kind(conn: &mut Connection) -> QueryResult<Vec<(String, i64)>> {
    use diesel::dsl::count_star;
    journal::table
        .filter(journal::outcome.eq("refused"))
        .group_by(journal::kind)
        .select((journal::kind.assume_not_null(), count_star()))
        .order((count_star().desc(), journal::kind.asc()))
        .load(conn)
        .await
}
