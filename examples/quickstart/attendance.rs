//! The second service: it knows who is where, from what it hears. Its database has nothing to do with the first one's.

use std::sync::Arc;

use cqrs::app::App;
use cqrs::consumer::OnFailure;
use cqrs::sql::{Outbox, Tx};
use cqrs::{Context, MessageBroker, Result, TransactionalEventHandler};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Db; // a service has one: `use cqrs::sql::Pg as Db`
use crate::domain::{MeetingRoomClosed, MeetingRoomOpened, Projected, UserJoined, UserLeft};
use crate::stopwatch::Stopwatch;

pub(crate) const GROUP: &str = "attendance";

pub(crate) const TABLES: &str = "\
    CREATE TABLE rooms (room VARCHAR(64) PRIMARY KEY, title VARCHAR(64) NOT NULL, seats INTEGER NOT NULL, \
        open BOOLEAN NOT NULL); \
    CREATE TABLE present (room VARCHAR(64), person VARCHAR(64), PRIMARY KEY (room, person));";

diesel::table! {
    rooms (room) {
        room -> Text,
        title -> Text,
        seats -> Integer,
        open -> Bool,
    }
}

diesel::table! {
    present (room, person) {
        room -> Text,
        person -> Text,
    }
}

/// Puts the service together.
pub(crate) async fn service(
    inbox: Outbox<Db>,
    broker: Arc<dyn MessageBroker>,
    topic: &str,
    stopwatch: Stopwatch,
) -> Result<App> {
    // Part of the key in the inbox, so it stays when the type below is renamed.
    const HANDLER: &str = "projection";

    cqrs::bootstrap()
        .inbox(inbox)
        .group(GROUP)
        .subscribe_transactional::<MeetingRoomOpened>(topic, HANDLER, Projection)
        .subscribe_transactional::<UserJoined>(topic, HANDLER, Projection)
        .subscribe_transactional::<UserLeft>(topic, HANDLER, Projection)
        .subscribe_transactional::<MeetingRoomClosed>(topic, HANDLER, Projection)
        .domain_event::<Projected>(stopwatch)
        // What cannot be handled waits, and what comes behind it: dead letters are for those who look at them. (In a broker
        // in memory they would be gone with the process.)
        .consumer(|consumer| consumer.on_failure(OnFailure::RetryForever))
        .broker(broker)
        .build()
        .await
}

/// Each event is handled in a transaction that holds its row of the inbox, too: one that is delivered again is known by
/// it and has no second effect. So nothing here has to bear being done twice.
struct Projection;

impl TransactionalEventHandler<MeetingRoomOpened, Db> for Projection {
    async fn handle(&self, event: &MeetingRoomOpened, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<()> {
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

impl TransactionalEventHandler<UserJoined, Db> for Projection {
    async fn handle(&self, event: &UserJoined, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<()> {
        diesel::insert_into(present::table)
            .values((present::room.eq(&event.room), present::person.eq(&event.user)))
            .execute(tx)
            .await?;
        cx.emit(Projected);
        Ok(())
    }
}

impl TransactionalEventHandler<UserLeft, Db> for Projection {
    async fn handle(&self, event: &UserLeft, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<()> {
        diesel::delete(present::table.find((&event.room, &event.user))).execute(tx).await?;
        cx.emit(Projected);
        Ok(())
    }
}

impl TransactionalEventHandler<MeetingRoomClosed, Db> for Projection {
    async fn handle(&self, event: &MeetingRoomClosed, tx: &mut Tx<Db>, cx: &Context<'_>) -> Result<()> {
        diesel::update(rooms::table.find(&event.room)).set(rooms::open.eq(false)).execute(tx).await?;
        diesel::delete(present::table.filter(present::room.eq(&event.room))).execute(tx).await?;
        cx.emit(Projected);
        Ok(())
    }
}
