//! Making a message of an event that is not for other services.
use cqrs_core::{Correlation, DomainEvent, Encoder, IntoMessage};

#[derive(DomainEvent)]
struct RoomClosed;

fn publish(event: impl IntoMessage) {
    let _ = event.into_message(&Encoder::default(), &Correlation::default());
}

fn main() {
    publish(RoomClosed);
}
