//! The second service: it knows who is where, from what it hears. Its database has nothing to do with the first one's.

use std::sync::Arc;

use cqrs::app::App;
use cqrs::broker::memory::MemoryBroker;
use cqrs::consumer::OnFailure;
use cqrs::diesel::{Outbox, Sqlite, Tx};
use cqrs::{Context, DomainEvent, Result, TransactionalEventHandler};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::domain::{MeetingRoomClosed, MeetingRoomOpened, TOPIC, UserJoined, UserLeft};
use crate::stopwatch::Stopwatch;

pub(crate) const TABLES: &str = "\
    CREATE TABLE rooms (room TEXT PRIMARY KEY, title TEXT NOT NULL, seats INTEGER NOT NULL, open BOOLEAN NOT NULL); \
    CREATE TABLE present (room TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (room, user)) WITHOUT ROWID;";

diesel::table! {
    rooms (room) {
        room -> Text,
        title -> Text,
        seats -> Integer,
        open -> Bool,
    }
}

diesel::table! {
    present (room, user) {
        room -> Text,
        user -> Text,
    }
}

/// Puts the service together.
pub(crate) async fn service(
    inbox: Outbox<Sqlite>,
    broker: Arc<MemoryBroker>,
    stopwatch: Stopwatch,
) -> Result<App> {
    // Part of the key in the inbox, so it stays when the type below is renamed.
    const HANDLER: &str = "projection";

    cqrs::bootstrap()
        .inbox(inbox)
        .group("attendance")
        .subscribe_transactional::<MeetingRoomOpened>(TOPIC, HANDLER, Projection)
        .subscribe_transactional::<UserJoined>(TOPIC, HANDLER, Projection)
        .subscribe_transactional::<UserLeft>(TOPIC, HANDLER, Projection)
        .subscribe_transactional::<MeetingRoomClosed>(TOPIC, HANDLER, Projection)
        .domain_event::<Projected>(stopwatch)
        // Dead letters in a broker in memory would be gone with the process. In the outbox an event can wait.
        .consumer(|consumer| consumer.on_failure(OnFailure::RetryForever))
        .broker(broker)
        .build()
        .await
}

/// An event of the first service has had its effect here. Its handler runs after the commit.
#[derive(Debug, DomainEvent)]
pub(crate) struct Projected;

/// Each event is handled in a transaction that holds its row of the inbox, too: one that is delivered again is known by
/// it and has no second effect. So nothing here has to bear being done twice.
struct Projection;

impl TransactionalEventHandler<MeetingRoomOpened, Sqlite> for Projection {
    async fn handle(&self, event: &MeetingRoomOpened, tx: &mut Tx<Sqlite>, cx: &Context<'_>) -> Result<()> {
        diesel::insert_into(rooms::table)
            .values((
                rooms::room.eq(&event.room),
                rooms::title.eq(&event.title),
                rooms::seats.eq(event.seats.cast_signed()),
                rooms::open.eq(true),
            ))
            .execute(tx)
            .await?;
        cx.emit(Projected);
        Ok(())
    }
}

impl TransactionalEventHandler<UserJoined, Sqlite> for Projection {
    async fn handle(&self, event: &UserJoined, tx: &mut Tx<Sqlite>, cx: &Context<'_>) -> Result<()> {
        diesel::insert_into(present::table)
            .values((present::room.eq(&event.room), present::user.eq(&event.user)))
            .execute(tx)
            .await?;
        cx.emit(Projected);
        Ok(())
    }
}

impl TransactionalEventHandler<UserLeft, Sqlite> for Projection {
    async fn handle(&self, event: &UserLeft, tx: &mut Tx<Sqlite>, cx: &Context<'_>) -> Result<()> {
        diesel::delete(present::table.find((&event.room, &event.user))).execute(tx).await?;
        cx.emit(Projected);
        Ok(())
    }
}

impl TransactionalEventHandler<MeetingRoomClosed, Sqlite> for Projection {
    async fn handle(&self, event: &MeetingRoomClosed, tx: &mut Tx<Sqlite>, cx: &Context<'_>) -> Result<()> {
        diesel::update(rooms::table.find(&event.room)).set(rooms::open.eq(false)).execute(tx).await?;
        diesel::delete(present::table.filter(present::room.eq(&event.room))).execute(tx).await?;
        cx.emit(Projected);
        Ok(())
    }
}
