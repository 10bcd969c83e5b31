//! Emitting something that is not an event.
use cqrs_core::Context;

struct RoomClosed;

fn close(cx: &Context<'_>) {
    cx.emit(RoomClosed);
}

fn main() {}
