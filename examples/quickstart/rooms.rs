//! The first service: it owns the meeting rooms. Each command changes its database and says what happened, in one
//! transaction; the relay takes that to the broker.

use std::sync::Arc;
use std::time::Duration;

use cqrs::app::App;
use cqrs::broker::memory::MemoryBroker;
use cqrs::diesel::{Outbox, Sqlite, Tx};
use cqrs::outbox::RelaySettings;
use cqrs::{Context, RequestHandler, Tracing, TransactionalEventHandler, TransactionalHandler};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use tokio::sync::Mutex;

use crate::domain::{
    CloseRoom, JoinMeeting, LeaveMeeting, Meeting, MeetingRoomClosed, MeetingRoomOpened, OpenRoom,
    ReadMeeting, RoomClosed, RoomError, UserJoined, UserLeft,
};
use crate::journal::{Journaled, Line};
use crate::storage::Connection;

pub(crate) const TABLES: &str = "\
    CREATE TABLE rooms (room TEXT PRIMARY KEY, title TEXT NOT NULL, seats INTEGER NOT NULL, open BOOLEAN NOT NULL); \
    CREATE TABLE participants (room TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (room, user)) WITHOUT ROWID;";

diesel::table! {
    rooms (room) {
        room -> Text,
        title -> Text,
        seats -> Integer,
        open -> Bool,
    }
}

diesel::table! {
    participants (room, user) {
        room -> Text,
        user -> Text,
    }
}

/// Puts the service together.
pub(crate) async fn service(
    outbox: Outbox<Sqlite>,
    reader: Connection,
    broker: Arc<MemoryBroker>,
) -> cqrs::Result<App> {
    // A relay that was killed leaves a lease that the next one has to wait for. Among hosts the default of 10 s is
    // right; here one process at a time has the file.
    let mut relay = RelaySettings::default();
    relay.lease = Duration::from_secs(3);
    relay.lease_margin = Duration::from_millis(500);
    relay.heartbeat_interval = Duration::from_secs(1);
    relay.publish_timeout = Duration::from_millis(2_500);

    cqrs::bootstrap()
        .middleware(Tracing)
        .outbox(outbox)
        .transactional::<Line<OpenRoom>>(Journaled(Rooms))
        .transactional::<Line<JoinMeeting>>(Journaled(Rooms))
        .transactional::<Line<LeaveMeeting>>(Journaled(Rooms))
        .transactional::<Line<CloseRoom>>(Journaled(Rooms))
        .before_commit::<RoomClosed>(SendEveryoneHome)
        .request::<ReadMeeting>(Meetings(Mutex::new(reader)))
        .broker(broker)
        .relay(relay)
        .build()
        .await
}

/// Handles the commands. What an error leaves behind is nothing: the transaction is rolled back, with what was said.
struct Rooms;

impl TransactionalHandler<OpenRoom, Sqlite> for Rooms {
    async fn handle(
        &self,
        command: OpenRoom,
        tx: &mut Tx<Sqlite>,
        cx: &Context<'_>,
    ) -> Result<(), RoomError> {
        command.validate()?;
        let OpenRoom { room, title, seats } = command;
        let added = diesel::insert_into(rooms::table)
            .values((
                rooms::room.eq(&room),
                rooms::title.eq(&title),
                rooms::seats.eq(seats.cast_signed()),
                rooms::open.eq(true),
            ))
            .on_conflict_do_nothing()
            .execute(tx)
            .await?;
        if added == 0 {
            return Err(RoomError::AlreadyOpened(room));
        }
        cx.emit(MeetingRoomOpened { room, title, seats });
        Ok(())
    }
}

impl TransactionalHandler<JoinMeeting, Sqlite> for Rooms {
    async fn handle(
        &self,
        command: JoinMeeting,
        tx: &mut Tx<Sqlite>,
        cx: &Context<'_>,
    ) -> Result<(), RoomError> {
        command.validate()?;
        let JoinMeeting { room, user } = command;
        let seats = open_room(tx, &room).await?;
        let added = diesel::insert_into(participants::table)
            .values((participants::room.eq(&room), participants::user.eq(&user)))
            .on_conflict_do_nothing()
            .execute(tx)
            .await?;
        if added == 0 {
            return Err(RoomError::AlreadyJoined { room, user });
        }
        let taken: i64 =
            participants::table.filter(participants::room.eq(&room)).count().get_result(tx).await?;
        if taken > i64::from(seats) {
            return Err(RoomError::Full { room, seats });
        }
        cx.emit(UserJoined { room, user });
        Ok(())
    }
}

impl TransactionalHandler<LeaveMeeting, Sqlite> for Rooms {
    async fn handle(
        &self,
        command: LeaveMeeting,
        tx: &mut Tx<Sqlite>,
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

impl TransactionalHandler<CloseRoom, Sqlite> for Rooms {
    async fn handle(
        &self,
        command: CloseRoom,
        tx: &mut Tx<Sqlite>,
        cx: &Context<'_>,
    ) -> Result<(), RoomError> {
        let CloseRoom { room } = command;
        open_room(tx, &room).await?;
        diesel::update(rooms::table.find(&room)).set(rooms::open.eq(false)).execute(tx).await?;
        cx.emit(RoomClosed { room: room.clone() }); // to `SendEveryoneHome`, before the commit
        cx.emit(MeetingRoomClosed { room }); // into the outbox, with the commit
        Ok(())
    }
}

/// The seats of a room that is open.
async fn open_room(tx: &mut Tx<Sqlite>, room: &str) -> Result<u32, RoomError> {
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

impl TransactionalEventHandler<RoomClosed, Sqlite> for SendEveryoneHome {
    async fn handle(&self, event: &RoomClosed, tx: &mut Tx<Sqlite>, _cx: &Context<'_>) -> cqrs::Result<()> {
        diesel::delete(participants::table.filter(participants::room.eq(&event.room))).execute(tx).await?;
        Ok(())
    }
}

/// Handles the query. It says nothing and writes nothing, so it needs no transaction, only a connection to read with.
struct Meetings(Mutex<Connection>);

impl RequestHandler<ReadMeeting> for Meetings {
    async fn handle(&self, query: ReadMeeting, _cx: &Context<'_>) -> Result<Meeting, RoomError> {
        let mut conn = self.0.lock().await;
        let open: Option<bool> =
            rooms::table.find(&query.room).select(rooms::open).first(&mut *conn).await.optional()?;
        match open {
            None => Err(RoomError::NoSuchRoom(query.room)),
            Some(false) => Err(RoomError::Closed(query.room)),
            Some(true) => Ok(Meeting {
                participants: participants::table
                    .filter(participants::room.eq(&query.room))
                    .select(participants::user)
                    .order(participants::user)
                    .load(&mut *conn)
                    .await?,
                link: format!("https://meet.example/{}", query.room),
            }),
        }
    }
}
