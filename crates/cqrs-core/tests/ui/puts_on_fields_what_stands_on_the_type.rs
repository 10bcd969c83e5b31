//! Attributes that nobody would read: an event without its key loses its order.
use cqrs_core::{
    Context, DomainEvent, EcstEvent, NotificationEvent, Request, RequestHandler, RequestMediator, Result, StreamRequest,
    mediator,
};
use serde::Serialize;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms")]
struct Told {
    #[event(key)]
    n: u32,
}

#[derive(Serialize, EcstEvent)]
#[event(topic = "rooms")]
struct ToldByNumber(String, #[event(key)] u32);

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms")]
struct Misspelt {
    #[event(keyy = 5)]
    n: u32,
}

#[derive(Serialize, NotificationEvent)]
struct TopicOnAField {
    #[event(topic = "rooms", version = 2)]
    n: u32,
}

#[derive(Serialize, EcstEvent)]
#[event(topic = "rooms")]
enum OnAVariant {
    #[event(name = "room_opened")]
    Opened,
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms")]
enum OnAFieldOfAVariant {
    Closed,
    Opened {
        #[event(key)]
        room: u32,
    },
}

#[derive(DomainEvent)]
struct Happened {
    #[event]
    n: u32,
}

#[derive(Request)]
struct CloseRoom {
    #[request(name = "x")]
    room: u32,
}

#[derive(Request)]
enum Either {
    #[request(response = u32)]
    One,
}

#[derive(StreamRequest)]
#[request(item = u32)]
struct ReadRooms {
    first: u32,
    #[request(retry)]
    last: u32,
}

#[derive(Request)]
struct OpenRoom;

struct Handler;

impl RequestHandler<OpenRoom> for Handler {
    async fn handle(&self, _: OpenRoom, _: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

mediator! {
    struct Rooms {
        #[mediator(crate = "cqrs_core")]
        open: OpenRoom => Handler,
    }
}

// What they are derived to be they are.
async fn uses(mediator: &RequestMediator, cx: &Context<'_>) {
    cx.emit(Told { n: 1 });
    cx.emit(ToldByNumber(String::new(), 1));
    cx.emit(Misspelt { n: 1 });
    cx.emit(OnAVariant::Opened);
    cx.emit(OnAFieldOfAVariant::Closed);
    cx.emit(Happened { n: 1 });
    let _ = mediator.send(CloseRoom { room: 1 }).await;
    let _ = mediator.send(Either::One).await;
    let _ = mediator.stream(ReadRooms { first: 1, last: 2 });
}

fn main() {}
