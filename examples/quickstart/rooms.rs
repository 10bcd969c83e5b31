//! The first service: it owns the meeting rooms. Each command changes its database and says what happened, in one
//! transaction; the relay takes that to the broker.

use std::sync::Arc;
use std::time::Duration;

use cqrs::app::App;
use cqrs::outbox::RelaySettings;
use cqrs::sql::{Outbox, Tx};
use cqrs::{
    Context, MessageBroker, RequestHandler, Tracing, TransactionalEventHandler, TransactionalHandler,
};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Db; // a service has one: `use cqrs::sql::Pg as Db`
use super::journal::{Journaled, Line};
use crate::domain::{
    CloseRoom, JoinMeeting, LeaveMeeting, Meeting, MeetingRoomClosed, MeetingRoomOpened, OpenRoom,
    ReadMeeting, RoomClosed, RoomError, UserJoined, UserLeft,
};

pub(crate) const TABLES: &str = "\
    CREATE TABLE rooms (room VARCHAR(64) PRIMARY KEY, title VARCHAR(64) NOT NULL, seats INTEGER NOT NULL, \
        open BOOLEAN NOT NULL); \
    CREATE TABLE participants (room VARCHAR(64), person VARCHAR(64), PRIMARY KEY (room, person));";

diesel::table! {
    rooms (room) {
        room -> Text,
        title -> Text,
        seats -> Integer,
        open -> Bool,
    }
}

diesel::table! {
    participants (room, person) {
        room -> Text,
        person -> Text,
    }
}

/// Puts the service together.
pub(crate) async fn service(outbox: Outbox<Db>, broker: Arc<dyn MessageBroker>) -> cqrs::Result<App> {
    // A relay that was killed leaves a lease that the next one has to wait for. Among hosts the default of 10 s is
    // right; here one process at a time has the databases.
    let mut relay = RelaySettings::default();
    relay.lease = Duration::from_secs(3);
    relay.lease_margin = Duration::from_millis(500);
    relay.heartbeat_interval = Duration::from_secs(1);
    relay.publish_timeout = Duration::from_millis(2_500);

    cqrs::bootstrap()
        .middleware(Tracing)
        .outbox(outbox.clone())
        .transactional::<Line<OpenRoom>>(Journaled(Rooms))
        .transactional::<Line<JoinMeeting>>(Journaled(Rooms))
        .transactional::<Line<LeaveMeeting>>(Journaled(Rooms))
        .transactional::<Line<CloseRoom>>(Journaled(Rooms))
        .before_commit::<RoomClosed>(SendEveryoneHome)
        .request::<ReadMeeting>(Meetings(outbox))
        .broker(broker)
        .relay(relay)
        .build()
        .await
}

/// Handles the commands. What an error leaves behind is nothing: the transaction is rolled back, with what was said.
struct Rooms;

impl TransactionalHandler<OpenRoom, Db> for Rooms {
    async fn handle(&self, command: OpenRoom, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<(), RoomError> {
        command.validate()?;
        let OpenRoom { room, title, seats } = command;
        if rooms::table.find(&room).count().get_result::<i64>(tx).await? > 0 {
            return Err(RoomError::AlreadyOpened(room));
        }
        diesel::insert_into(rooms::table)
            .values((
                rooms::room.eq(&room),
                rooms::title.eq(&title),
                rooms::seats.eq(seats.cast_signed()),
                rooms::open.eq(true),
            ))
            .execute(tx)
            .await?;
        cx.emit(MeetingRoomOpened { room, title, seats });
        Ok(())
    }
}

impl TransactionalHandler<JoinMeeting, Db> for Rooms {
    async fn handle(&self, command: JoinMeeting, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<(), RoomError> {
        command.validate()?;
        let JoinMeeting { room, user } = command;
        let seats = open_room(tx, &room).await?;
        let inside: Vec<String> = participants::table
            .filter(participants::room.eq(&room))
            .select(participants::person)
            .load(tx)
            .await?;
        if inside.contains(&user) {
            return Err(RoomError::AlreadyJoined { room, user });
        }
        if inside.len() >= seats as usize {
            return Err(RoomError::Full { room, seats });
        }
        diesel::insert_into(participants::table)
            .values((participants::room.eq(&room), participants::person.eq(&user)))
            .execute(tx)
            .await?;
        cx.emit(UserJoined { room, user });
        Ok(())
    }
}

impl TransactionalHandler<LeaveMeeting, Db> for Rooms {
    async fn handle(
        &self,
        command: LeaveMeeting,
        tx: &mut Tx<Db>,
        cx: &Context<'_>,
    ) -> Result<(), RoomError> {
        let LeaveMeeting { room, user } = command;
        open_room(tx, &room).await?;
        let gone = diesel::delete(participants::table.find((&room, &user))).execute(tx).await?;
        if gone == 0 {
            return Err(RoomError::NotJoined { room, user });
        }
        cx.emit(UserLeft { room, user });
        Ok(())
    }
}

impl TransactionalHandler<CloseRoom, Db> for Rooms {
    async fn handle(&self, command: CloseRoom, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<(), RoomError> {
        let CloseRoom { room } = command;
        open_room(tx, &room).await?;
        diesel::update(rooms::table.find(&room)).set(rooms::open.eq(false)).execute(tx).await?;
        cx.emit(RoomClosed { room: room.clone() }); // to `SendEveryoneHome`, before the commit
        cx.emit(MeetingRoomClosed { room }); // into the outbox, with the commit
        Ok(())
    }
}

/// The seats of a room that is open.
///
/// Commands come one after the other here. Where they come at the same time, lock the room's row (diesel's `for_update()`,
/// on servers): that keeps two from taking the last seat, and the events of the room in the order of their commands.
async fn open_room(tx: &mut Tx<Db>, room: &str) -> Result<u32, RoomError> {
    let found: Option<(i32, bool)> =
        rooms::table.find(room).select((rooms::seats, rooms::open)).first(tx).await.optional()?;
    match found {
        None => Err(RoomError::NoSuchRoom(room.to_owned())),
        Some((_, false)) => Err(RoomError::Closed(room.to_owned())),
        Some((seats, true)) => Ok(seats.cast_unsigned()),
    }
}

/// Handles a domain event in the transaction of the command that said it.
struct SendEveryoneHome;

impl TransactionalEventHandler<RoomClosed, Db> for SendEveryoneHome {
    async fn handle(&self, event: &RoomClosed, tx: &mut Tx<Db>, _cx: &Context<'_>) -> cqrs::Result<()> {
        diesel::delete(participants::table.filter(participants::room.eq(&event.room))).execute(tx).await?;
        Ok(())
    }
}

/// Handles the query. It says nothing and writes nothing, so it needs no transaction, only a connection to read with.
struct Meetings(Outbox<Db>);

impl RequestHandler<ReadMeeting> for Meetings {
    async fn handle(&self, query: ReadMeeting, _cx: &Context<'_>) -> Result<Meeting, RoomError> {
        let mut conn = self.0.connection().await?;
        let open: Option<bool> =
            rooms::table.find(&query.room).select(rooms::open).first(&mut *conn).await.optional()?;
        match open {
            None => Err(RoomError::NoSuchRoom(query.room)),
            Some(false) => Err(RoomError::Closed(query.room)),
            Some(true) => Ok(Meeting {
                participants: participants::table
                    .filter(participants::room.eq(&query.room))
                    .select(participants::person)
                    .order(participants::person)
                    .load(&mut *conn)
                    .await?,
                link: format!("https://meet.example/{}", query.room),
            }),
        }
    }
}
