//! An integration event without `Serialize`.
use cqrs_core::{Context, NotificationEvent};

#[derive(NotificationEvent)]
#[event(topic = "rooms")]
struct RoomClosed;

fn close(cx: &Context<'_>) {
    cx.emit(RoomClosed);
}

fn main() {}
