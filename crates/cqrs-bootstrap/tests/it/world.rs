//! A small application to try things on.

use std::sync::Arc;

use cqrs_core::{
    Context, DomainEvent, Error, EventHandler, NotificationEvent, Request, RequestHandler, Result,
    TransactionalEventHandler, TransactionalHandler,
};
use cqrs_outbox::memory::{Memory, MemoryTx};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

#[derive(Request)]
pub(crate) struct CloseRoom {
    pub(crate) room: u32,
    pub(crate) fails: bool,
}

#[derive(Request)]
#[request(response = u32)]
pub(crate) struct ReadRoom(pub(crate) u32);

#[derive(DomainEvent)]
pub(crate) struct RoomClosed {
    pub(crate) room: u32,
}

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(topic = "rooms", key = room)]
pub(crate) struct MeetingRoomClosed {
    pub(crate) room: u32,
}

pub(crate) struct CloseRoomHandler;

impl TransactionalHandler<CloseRoom, Memory> for CloseRoomHandler {
    async fn handle(&self, command: CloseRoom, _tx: &mut MemoryTx, cx: &Context<'_>) -> Result<()> {
        cx.emit(MeetingRoomClosed { room: command.room });
        cx.emit(RoomClosed { room: command.room });
        if command.fails { Err(Error::handler("no")) } else { Ok(()) }
    }
}

pub(crate) struct ReadRoomHandler;

impl RequestHandler<ReadRoom> for ReadRoomHandler {
    async fn handle(&self, query: ReadRoom, _cx: &Context<'_>) -> Result<u32> {
        Ok(query.0)
    }
}

/// Tells what it saw.
#[derive(Clone)]
pub(crate) struct Tell(pub(crate) Arc<UnboundedSender<String>>);

impl Tell {
    fn tell(&self, what: String) -> Result<()> {
        self.0.send(what).map_err(Error::handler)
    }
}

impl EventHandler<MeetingRoomClosed> for Tell {
    async fn handle(&self, event: &MeetingRoomClosed, _cx: &Context<'_>) -> Result<()> {
        self.tell(format!("received {}", event.room))
    }
}

impl EventHandler<RoomClosed> for Tell {
    async fn handle(&self, event: &RoomClosed, _cx: &Context<'_>) -> Result<()> {
        self.tell(format!("after {}", event.room))
    }
}

impl TransactionalEventHandler<RoomClosed, Memory> for Tell {
    async fn handle(&self, event: &RoomClosed, _tx: &mut MemoryTx, cx: &Context<'_>) -> Result<()> {
        assert!(cx.is_in_transaction());
        self.tell(format!("before {}", event.room))
    }
}

impl TransactionalEventHandler<MeetingRoomClosed, Memory> for Tell {
    async fn handle(&self, event: &MeetingRoomClosed, _tx: &mut MemoryTx, _cx: &Context<'_>) -> Result<()> {
        self.tell(format!("inbox {}", event.room))
    }
}
