//! Binding a handler to something that is not an event, and to the wrong kind of event.
use cqrs_core::{Context, DomainEvent, EventHandler, EventMap, NotificationEvent, Result};
use serde::Serialize;

struct RoomClosed;

#[derive(DomainEvent)]
struct RoomOpened;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms")]
struct RoomPainted;

struct Handler;

impl EventHandler<RoomPainted> for Handler {
    async fn handle(&self, _: &RoomPainted, _cx: &Context<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let _ = EventMap::new().bind::<RoomClosed>(Handler);
    let _ = EventMap::new().bind::<RoomOpened>(Handler);
    let _ = EventMap::new().bind::<RoomPainted>(Handler);
}
