//! What is wrong with an attribute is told, and not that the type is no request or event wherever it is used.
use cqrs_core::{
    Context, DomainEvent, EventEmitter, EventHandler, EventMap, NotificationEvent, Request, RequestHandler, RequestMap,
    RequestMediator, Result, StreamRequest,
};
use serde::{Deserialize, Serialize};

#[derive(Request)]
#[request(respone = u32)]
struct CountRooms;

#[derive(Request)]
#[request(retry = 3, response = std::collections::HashMap<u32, String>, name)]
struct ReadRooms;

#[derive(Request)]
#[request(retries = u8, response = u32)]
struct CloseRooms;

#[derive(StreamRequest)]
struct StreamRooms;

#[derive(DomainEvent)]
#[event(topic = "rooms")]
struct RoomOpened;

#[derive(Serialize, Deserialize, NotificationEvent)]
#[event(key = rom)]
struct RoomClosed {
    room: u32,
}

struct Handler;

impl RequestHandler<CountRooms> for Handler {
    async fn handle(&self, _: CountRooms, cx: &Context<'_>) -> Result<u32> {
        cx.emit(RoomOpened);
        cx.emit(RoomClosed { room: 5 });
        let closed: u32 = cx.send(CloseRooms).await?;
        Ok(cx.send(ReadRooms).await?.len() as u32 + closed)
    }
}

impl RequestHandler<ReadRooms> for Handler {
    async fn handle(&self, _: ReadRooms, cx: &Context<'_>) -> Result<std::collections::HashMap<u32, String>> {
        let _ = cx.stream(StreamRooms);
        Ok(Default::default())
    }
}

impl EventHandler<RoomOpened> for Handler {
    async fn handle(&self, _: &RoomOpened, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

impl EventHandler<RoomClosed> for Handler {
    async fn handle(&self, _: &RoomClosed, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

async fn uses() -> Result<()> {
    let events = EventMap::new().bind::<RoomOpened>(Handler).subscribe::<RoomClosed>("rooms", Handler);
    let requests = RequestMap::new().bind::<CountRooms>(Handler).bind::<ReadRooms>(Handler);
    let mediator = RequestMediator::new(requests, EventEmitter::new(events))?;
    let _: u32 = mediator.send(CountRooms).await?;
    Ok(())
}

fn main() {}
