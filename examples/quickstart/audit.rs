//! Compares what the two services know, from outside: with a connection to the database of each.

use std::collections::BTreeSet;

use cqrs::sql::Backend;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::storage::Storage;
use super::{Connection, Db, attendance, journal, rooms};

const MAX_DIFFERENCES: usize = 20;

/// How far the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Events {
    /// Said by commands that were carried out: each says one.
    pub(crate) committed: i64,
    /// Still in the outbox; dead letters are among them.
    pub(crate) waiting: i64,
    /// Known to the inbox of the second service.
    pub(crate) consumed: i64,
}

impl Events {
    pub(crate) fn all_arrived(&self) -> bool {
        self.waiting == 0 && self.consumed == self.committed
    }
}

/// What the services know of.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct State {
    pub(crate) rooms: usize,
    pub(crate) open_rooms: usize,
    pub(crate) participants: usize,
}

type Room = (String, String, i32, bool);
type Participant = (String, String);

/// Looks into both databases, and changes nothing.
pub(crate) struct Auditor {
    pub(crate) rooms: <Db as Backend>::Guard,
    projection: <Db as Backend>::Guard,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn count(conn: &mut Connection, query: &str) -> QueryResult<i64> {
    Ok(diesel::sql_query(query).get_result::<Count>(conn).await?.count)
}

impl Auditor {
    pub(crate) async fn new(storage: &Storage) -> cqrs::Result<Self> {
        Ok(Self {
            rooms: storage.rooms.connection().await?,
            projection: storage.projection.connection().await?,
        })
    }

    /// How far the events are.
    pub(crate) async fn events(&mut self) -> QueryResult<Events> {
        const WAITING: &str = "\
            SELECT (SELECT count(*) FROM cqrs_outbox) + (SELECT count(*) FROM cqrs_outbox_parked) \
                + (SELECT count(*) FROM cqrs_outbox_dead) AS count";
        Ok(Events {
            committed: journal::done(&mut self.rooms).await?,
            waiting: count(&mut self.rooms, WAITING).await?,
            consumed: count(&mut self.projection, "SELECT count(*) AS count FROM cqrs_inbox").await?,
        })
    }

    /// What the first service has.
    pub(crate) async fn state(&mut self) -> QueryResult<State> {
        let (rooms, participants) = self.source().await?;
        Ok(State {
            rooms: rooms.len(),
            open_rooms: rooms.iter().filter(|(.., open)| *open).count(),
            participants: participants.len(),
        })
    }

    /// Where the projection is not like the source; the first ones, if there are many.
    pub(crate) async fn differences(&mut self) -> QueryResult<Vec<String>> {
        let (source_rooms, source_people) = self.source().await?;
        let projected_rooms: BTreeSet<Room> =
            attendance::rooms::table.load(&mut self.projection).await?.into_iter().collect();
        let projected_people: BTreeSet<Participant> =
            attendance::present::table.load(&mut self.projection).await?.into_iter().collect();
        let room = |(room, title, seats, open): &Room| {
            format!("room {room} ({title}, {seats} seats, {})", if *open { "open" } else { "closed" })
        };
        let person = |(room, person): &Participant| format!("{person} in room {room}");
        let mut differences = only(&source_rooms, &projected_rooms, room, "the rooms service");
        differences.extend(only(&projected_rooms, &source_rooms, room, "the projection"));
        differences.extend(only(&source_people, &projected_people, person, "the rooms service"));
        differences.extend(only(&projected_people, &source_people, person, "the projection"));
        differences.truncate(MAX_DIFFERENCES);
        Ok(differences)
    }

    async fn source(&mut self) -> QueryResult<(BTreeSet<Room>, BTreeSet<Participant>)> {
        let rooms: Vec<Room> = rooms::rooms::table.load(&mut self.rooms).await?;
        let participants: Vec<Participant> = rooms::participants::table.load(&mut self.rooms).await?;
        Ok((rooms.into_iter().collect(), participants.into_iter().collect()))
    }
}

/// What is here and not there.
fn only<T: Ord>(
    here: &BTreeSet<T>,
    there: &BTreeSet<T>,
    show: impl Fn(&T) -> String,
    whose: &str,
) -> Vec<String> {
    here.difference(there).map(|one| format!("{}: only in {whose}", show(one))).collect()
}
