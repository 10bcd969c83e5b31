//! Received messages: which handlers get them, and what cannot be read.

use std::sync::Arc;

use async_trait::async_trait;
use cqrs_core::*;

use crate::support::*;

fn received(topic: &str, name: &str, payload: &'static str) -> Message {
    let mut message = Message::new(topic, payload);
    message.name = name.into();
    message.id = Some("id-1".into());
    message
}

fn noting(journal: &'static Journal, who: &'static str) -> impl EventHandler<Told> {
    on_event(move |Told(number): &Told, cx| {
        let id = cx.message().and_then(|message| message.id.clone()).map(|id| id.to_string());
        journal.note(format!("{who} got {number} as {}", id.unwrap_or_default()));
        Box::pin(async { Ok(()) })
    })
}

fn mediator(events: EventMap) -> EventMediator {
    EventMediator::new(EventEmitter::new(events)).unwrap()
}

#[tokio::test]
async fn a_message_reaches_the_handlers_of_its_topic_and_event_in_their_order() {
    let journal = Journal::new();
    let mediator = mediator(
        EventMap::new()
            .subscribe("told", noting(journal, "first"))
            .subscribe("elsewhere", noting(journal, "stranger"))
            .subscribe("told", noting(journal, "second")),
    );
    let dispatched = mediator.handle(received("told", "told", "5")).await.unwrap();
    assert_eq!((dispatched.event.as_str(), dispatched.handled, dispatched.duplicates), ("told", 2, 0));
    assert_eq!(journal.entries(), ["first got 5 as id-1", "second got 5 as id-1"]);
    assert_eq!(mediator.topics(), ["elsewhere", "told"]);
}

#[tokio::test]
async fn a_message_that_nobody_wants_is_said_to_be_unhandled() {
    let mediator = mediator(EventMap::new().subscribe("told", noting(Journal::new(), "first")));
    assert!(mediator.handle(received("told", "another", "5")).await.unwrap().is_unhandled());
    assert!(mediator.handle(received("another", "told", "5")).await.unwrap().is_unhandled());
}

#[tokio::test]
async fn a_payload_that_does_not_fit_is_an_error_that_names_it() {
    let journal = Journal::new();
    let mediator = mediator(EventMap::new().subscribe("told", noting(journal, "first")));
    let error = mediator.handle(received("told", "told", "\"five\"")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(
        error
            .to_string()
            .starts_with("the payload of `told` from topic `told` cannot be decoded: invalid type"),
        "{error}"
    );
    assert!(error.downcast_ref::<serde_json::Error>().is_some());
    assert!(journal.entries().is_empty());
}

struct Refuses;

impl EventHandler<Told> for Refuses {
    async fn handle(&self, _: &Told, _: &Context<'_>) -> Result<()> {
        Err(Error::handler("no"))
    }

    fn name(&self) -> &str {
        "refuses"
    }
}

#[tokio::test]
async fn the_first_handler_that_fails_stops_those_behind_it() {
    let journal = Journal::new();
    let mediator = mediator(
        EventMap::new()
            .subscribe("told", noting(journal, "first"))
            .subscribe("told", Refuses)
            .subscribe("told", noting(journal, "third")),
    );
    let error = mediator.handle(received("told", "told", "5")).await.unwrap_err();
    assert_eq!(error.to_string(), "no; of its handlers it was `refuses`");
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!(journal.entries(), ["first got 5 as id-1"]);
}

#[tokio::test]
async fn a_handler_that_has_seen_the_message_counts_as_a_duplicate() {
    struct Seen;

    #[async_trait]
    impl MessageHandler for Seen {
        fn name(&self) -> &str {
            "seen"
        }

        async fn handle(&self, _: &Message, _: &Context<'_>) -> Result<Handled> {
            Ok(Handled::Duplicate)
        }
    }

    let mediator = mediator(
        EventMap::new()
            .subscribe_messages("told", "told", Arc::new(Seen))
            .subscribe("told", noting(Journal::new(), "second")),
    );
    let dispatched = mediator.handle(received("told", "told", "5")).await.unwrap();
    assert_eq!((dispatched.handled, dispatched.duplicates, dispatched.is_unhandled()), (1, 1, false));
}

#[tokio::test]
async fn two_handlers_of_one_name_would_take_each_others_messages() {
    let events = EventMap::new()
        .subscribe_messages("rooms", "meeting_room_closed", Arc::new(Named))
        .subscribe_messages("rooms", "meeting_room_closed", Arc::new(Named));
    let error = EventMediator::new(EventEmitter::new(events)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("have the name `rooms/count`"), "{error}");

    let elsewhere = EventMap::new()
        .subscribe_messages("rooms", "meeting_room_closed", Arc::new(Named))
        .subscribe_messages("rooms", "meeting_room_opened", Arc::new(Named));
    EventMediator::new(EventEmitter::new(elsewhere)).unwrap();
}

struct Named;

#[async_trait]
impl MessageHandler for Named {
    fn name(&self) -> &str {
        "rooms/count"
    }

    fn identity(&self) -> Option<&str> {
        Some(self.name())
    }

    async fn handle(&self, _: &Message, _: &Context<'_>) -> Result<Handled> {
        Ok(Handled::Done)
    }
}
