//! What the derives write.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

use cqrs_core::*;
use serde::{Deserialize, Serialize};

fn same<A: 'static, B: 'static>() -> bool {
    TypeId::of::<A>() == TypeId::of::<B>()
}

fn key(event: &impl IntegrationEvent) -> Option<String> {
    event.key().map(|key| String::from_utf8(key.to_vec()).unwrap())
}

#[test]
fn a_request_has_defaults() {
    #[derive(Request)]
    struct Close;

    assert!(same::<<Close as Request>::Response, ()>());
    assert!(same::<<Close as Request>::Error, Error>());
    assert_eq!(Close::name(), "Close");
}

#[test]
fn a_request_says_its_response_its_error_and_its_name() {
    struct MyError;

    impl From<Error> for MyError {
        fn from(_: Error) -> Self {
            Self
        }
    }

    #[derive(Request)]
    #[request(response = Vec<(u32, Option<String>)>, error = MyError)]
    #[request(name = "rooms.read")]
    enum Read {
        _All,
    }

    assert!(same::<<Read as Request>::Response, Vec<(u32, Option<String>)>>());
    assert!(same::<<Read as Request>::Error, MyError>());
    assert_eq!(Read::name(), "rooms.read");
}

#[test]
fn a_request_can_be_generic() {
    trait Entity: Sized {
        type Id: Send + 'static;
    }

    #[derive(Request)]
    #[request(response = [Option<T>; N])]
    struct Get<T: Entity, const N: usize = 1>
    where
        T: fmt::Debug,
    {
        _ids: [T::Id; N],
    }

    #[derive(Debug)]
    struct Room;

    impl Entity for Room {
        type Id = u32;
    }

    assert!(same::<<Get<Room, 2> as Request>::Response, [Option<Room>; 2]>());
    assert_eq!(Get::<Room>::name(), "Get");
}

#[test]
fn events_have_names() {
    #[derive(DomainEvent)]
    struct HTTPRoomClosed;

    #[derive(DomainEvent)]
    #[event(name = "rooms.closed")]
    enum Closed {}

    #[derive(DomainEvent)]
    struct Changed<T>(PhantomData<T>);

    #[derive(DomainEvent)]
    #[allow(non_camel_case_types)]
    struct r#Struct;

    fn domain<E: DomainEvent>() -> &'static str {
        assert!(same::<E::Kind, kind::Domain>());
        E::NAME
    }

    assert_eq!(domain::<HTTPRoomClosed>(), "http_room_closed");
    assert_eq!(domain::<Closed>(), "rooms.closed");
    assert_eq!(domain::<Changed<u8>>(), "changed");
    assert_eq!(domain::<r#Struct>(), "struct");
}

#[test]
fn integration_events_have_a_topic_a_version_and_a_kind() {
    const ROOMS: &str = "rooms";

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms")]
    struct Closed;

    #[derive(Serialize, EcstEvent)]
    #[event(name = "room", topic = ROOMS, version = 2)]
    struct State;

    fn notification<E: NotificationEvent>(event: &E) -> (&str, &str, EventKind, u32, Option<String>) {
        (E::NAME, E::TOPIC, E::KIND, E::VERSION, key(event))
    }

    fn ecst<E: EcstEvent>(event: &E) -> (&str, &str, EventKind, u32, Option<String>) {
        (E::NAME, E::TOPIC, E::KIND, E::VERSION, key(event))
    }

    assert_eq!(notification(&Closed), ("closed", "rooms", EventKind::Notification, 1, None));
    assert_eq!(ecst(&State), ("room", "rooms", EventKind::Ecst, 2, None));
}

#[test]
fn a_key_is_a_field_or_an_expression() {
    #[derive(Serialize)]
    struct Room {
        id: u32,
    }

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = r#type)]
    struct ByField {
        r#type: String,
    }

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = 1)]
    struct ByIndex(u32, u32);

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = self.room.id)]
    struct ByPath {
        room: Room,
    }

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = format!("{}/{}", self.tenant, self.room))]
    struct ByMacro {
        tenant: String,
        room: u32,
    }

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = self)]
    struct ByItself;

    impl fmt::Display for ByItself {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("itself")
        }
    }

    assert_eq!(key(&ByField { r#type: "größte".into() }).unwrap(), "größte");
    assert_eq!(key(&ByField { r#type: String::new() }).unwrap(), "");
    assert_eq!(key(&ByIndex(4, 5)).unwrap(), "5");
    assert_eq!(key(&ByPath { room: Room { id: 6 } }).unwrap(), "6");
    assert_eq!(key(&ByMacro { tenant: "blue".into(), room: 7 }).unwrap(), "blue/7");
    assert_eq!(key(&ByItself).unwrap(), "itself");
}

#[test]
fn an_enum_can_be_an_integration_event() {
    #[derive(Serialize, Deserialize, EcstEvent)]
    #[event(topic = "rooms", key = self.room())]
    enum RoomState {
        Open { room: u32 },
        Closed(u32),
    }

    impl RoomState {
        fn room(&self) -> u32 {
            match self {
                Self::Open { room } | Self::Closed(room) => *room,
            }
        }
    }

    assert_eq!(key(&RoomState::Open { room: 5 }).unwrap(), "5");
    assert_eq!(key(&RoomState::Closed(6)).unwrap(), "6");
}

#[test]
fn an_integration_event_can_be_generic() {
    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = 0)]
    struct Changed<T: Serialize + fmt::Display>(T);

    assert_eq!(key(&Changed("five")).unwrap(), "five");
}

#[test]
fn the_crate_can_be_named() {
    mod my_kit {
        pub(crate) use cqrs_core as inner;
    }

    #[derive(Request)]
    #[request(crate = "my_kit::inner")]
    struct Close;

    #[derive(Serialize, NotificationEvent)]
    #[event(topic = "rooms", key = 0, crate = "my_kit::inner")]
    struct Closed(u32);

    #[derive(DomainEvent)]
    #[event(crate = my_kit::inner)]
    struct Happened;

    assert_eq!((Close::name(), Closed::NAME, Happened::NAME), ("Close", "closed", "happened"));
}

#[test]
fn a_macro_can_declare_events() {
    macro_rules! declare {
        ($name:ident, $field:ident, $topic:literal) => {
            #[derive(Serialize, NotificationEvent)]
            #[event(topic = $topic, key = $field)]
            struct $name {
                $field: u32,
            }
        };
    }

    declare!(Declared, room, "rooms");
    assert_eq!((key(&Declared { room: 5 }).unwrap(), Declared::TOPIC), ("5".into(), "rooms"));
}

#[test]
fn names_of_the_surroundings_do_not_matter() {
    #[allow(dead_code, non_camel_case_types)]
    mod hostile {
        struct Option;
        struct String;
        struct Some;
        struct Send;

        #[derive(serde::Serialize, cqrs_core::NotificationEvent)]
        #[event(topic = "rooms")]
        pub(super) struct Closed;

        #[derive(cqrs_core::Request)]
        pub(super) struct Close;
    }

    assert_eq!((hostile::Closed::NAME, hostile::Close::name()), ("closed", "Close"));
}
