//! What `#[derive(DomainEvent)]`, `#[derive(NotificationEvent)]` and `#[derive(EcstEvent)]` refuse.
use cqrs_core::{DomainEvent, EcstEvent, NotificationEvent};
use serde::Serialize;

#[derive(Serialize, NotificationEvent)]
struct WithoutTopic;

#[derive(Serialize, EcstEvent)]
#[event(name = "room", key = 0)]
struct WithoutTopicEither(u32);

#[derive(Serialize, NotificationEvent)]
#[event(topic = "")]
struct EmptyTopic;

#[derive(Serialize, NotificationEvent)]
#[event(topic = 5)]
struct TopicOfWrongType;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", version = "2")]
struct VersionOfWrongType;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", versoin = 2)]
struct Unknown;

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", key = room, key = room)]
struct Twice {
    room: u32,
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", key = "room")]
struct QuotedKey {
    room: u32,
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", key = rom)]
struct MisspeltKey {
    room: u32,
    by: u32,
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", key = room)]
enum KeyOfAnEnum {
    Open { room: u32 },
}

#[derive(Serialize, NotificationEvent)]
#[event(topic = "rooms", key = seats)]
struct KeyWithoutDisplay {
    seats: Vec<u32>,
}

#[derive(DomainEvent)]
#[event(topic = "rooms")]
struct DomainEventWithTopic;

#[derive(DomainEvent)]
struct Borrows<'a> {
    room: &'a str,
}

fn main() {}
