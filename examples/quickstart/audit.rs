//! Compares what the two services know, from outside: with SQL over both databases.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;
use serde::Serialize;

use crate::storage::Connection;

const MAX_DIFFERENCES: i64 = 20;

/// How far the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub(crate) struct Events {
    /// Ever written to the outbox by a transaction that was committed: the table counts them itself.
    #[diesel(sql_type = BigInt)]
    pub(crate) committed: i64,
    /// Still in the outbox; dead letters are among them.
    #[diesel(sql_type = BigInt)]
    pub(crate) waiting: i64,
    /// Known to the inbox of the second service.
    #[diesel(sql_type = BigInt)]
    pub(crate) consumed: i64,
}

impl Events {
    pub(crate) fn all_arrived(&self) -> bool {
        self.waiting == 0 && self.consumed == self.committed
    }
}

const EVENTS: &str = "\
    SELECT coalesce((SELECT seq FROM main.sqlite_sequence WHERE name = 'cqrs_outbox'), 0) AS committed, \
        (SELECT count(*) FROM main.cqrs_outbox) + (SELECT count(*) FROM main.cqrs_outbox_parked) \
            + (SELECT count(*) FROM main.cqrs_outbox_dead) AS waiting, \
        (SELECT count(*) FROM projection.cqrs_inbox) AS consumed";

/// How far the events are, seen from a connection to both databases.
pub(crate) async fn events(conn: &mut Connection) -> QueryResult<Events> {
    diesel::sql_query(EVENTS).get_result(conn).await
}

/// What the services know of.
#[derive(Clone, Copy, Debug, QueryableByName, Serialize)]
pub(crate) struct State {
    #[diesel(sql_type = BigInt)]
    pub(crate) rooms: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) open_rooms: i64,
    #[diesel(sql_type = BigInt)]
    pub(crate) participants: i64,
}

const STATE: &str = "\
    SELECT (SELECT count(*) FROM main.rooms) AS rooms, (SELECT count(*) FROM main.rooms WHERE open) AS open_rooms, \
        (SELECT count(*) FROM main.participants) AS participants";

/// What the first service has, seen from a connection to both databases.
pub(crate) async fn state(conn: &mut Connection) -> QueryResult<State> {
    diesel::sql_query(STATE).get_result(conn).await
}

const DIFFERENCES: &str = "\
    WITH \
        source_room AS (SELECT room, title, seats, open FROM main.rooms), \
        projected_room AS (SELECT room, title, seats, open FROM projection.rooms), \
        source_user AS (SELECT room, user FROM main.participants), \
        projected_user AS (SELECT room, user FROM projection.present) \
    SELECT format('room %s (%s, %d seats, %s): only in the rooms service', room, title, seats, \
            iif(open, 'open', 'closed')) AS text \
        FROM (SELECT * FROM source_room EXCEPT SELECT * FROM projected_room) \
    UNION ALL \
    SELECT format('room %s (%s, %d seats, %s): only in the projection', room, title, seats, iif(open, 'open', 'closed')) \
        FROM (SELECT * FROM projected_room EXCEPT SELECT * FROM source_room) \
    UNION ALL \
    SELECT format('%s in room %s: only in the rooms service', user, room) \
        FROM (SELECT * FROM source_user EXCEPT SELECT * FROM projected_user) \
    UNION ALL \
    SELECT format('%s in room %s: only in the projection', user, room) \
        FROM (SELECT * FROM projected_user EXCEPT SELECT * FROM source_user) \
    LIMIT ?";

/// Where the projection is not like the source; the first ones, if there are many.
pub(crate) async fn differences(conn: &mut Connection) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Difference {
        #[diesel(sql_type = Text)]
        text: String,
    }
    let differences: Vec<Difference> =
        diesel::sql_query(DIFFERENCES).bind::<BigInt, _>(MAX_DIFFERENCES).load(conn).await?;
    Ok(differences.into_iter().map(|difference| difference.text).collect())
}
