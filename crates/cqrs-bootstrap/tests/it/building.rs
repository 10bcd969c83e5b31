use std::sync::Arc;
use std::time::Duration;

use cqrs_bootstrap::{bootstrap, connect_broker};
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::{ErrorKind, EventEmitter};
use cqrs_outbox::{MemoryOutbox, RelaySettings, Retention};
use tokio::sync::mpsc::unbounded_channel;

use crate::retention::Desk;
use crate::world::{
    CloseRoom, CloseRoomHandler, MeetingRoomClosed, ReadRoom, ReadRoomHandler, RoomClosed, Tell,
};

fn tell() -> Tell {
    Tell(Arc::new(unbounded_channel().0))
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let mut settings = RelaySettings::default();
    settings.batch = 0;
    let error = bootstrap()
        .outbox(MemoryOutbox::new())
        .request::<ReadRoom>(ReadRoomHandler)
        .request::<ReadRoom>(ReadRoomHandler)
        .transactional::<CloseRoom>(CloseRoomHandler)
        .transactional::<CloseRoom>(CloseRoomHandler)
        .subscribe_transactional::<MeetingRoomClosed>("rooms", "tell", tell())
        .relay(settings)
        .broker("nats://localhost")
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    for part in [
        "two handlers are bound to the request `ReadRoom`",
        "two handlers are bound to the request `CloseRoom`",
        "there is no inbox: add `.inbox(",
        "there is no consumer group: add `.group(",
        "`nats://localhost` is no broker's URL",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn settings_of_a_consumer_that_is_not_there_are_refused() {
    let error = bootstrap().consumer(|consumer| consumer.concurrency(2)).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        error.to_string().starts_with("there are settings for a consumer, and nothing is subscribed"),
        "{error}"
    );
}

/// Not that nothing is ever received.
#[tokio::test]
async fn an_emitter_that_has_lost_what_is_subscribed_is_refused() {
    let error = bootstrap()
        .subscribe::<MeetingRoomClosed>("rooms", tell())
        .group("billing")
        .broker("memory://")
        .emitter(|_| EventEmitter::default())
        .build()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the consumer has no topics"), "{error}");
}

#[tokio::test]
async fn settings_of_a_relay_or_a_database_that_is_not_there_are_refused() {
    for (builder, start) in [
        (
            bootstrap().relay(RelaySettings::default()),
            "there are settings for a relay, and there is no outbox whose events it would take: add `.outbox(..)`",
        ),
        (
            bootstrap().retention(Retention::for_ever()),
            "there is a retention, and neither an outbox nor an inbox whose rows it would remove: add `.outbox(..)`",
        ),
    ] {
        let error = builder.build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.starts_with(start) && text.lines().count() == 1, "{text}");
    }
    // An inbox is something to remove from, but nothing to relay.
    let inbox = || bootstrap().inbox(Desk::default());
    let error = inbox().relay(RelaySettings::default()).build().await.unwrap_err();
    assert!(error.to_string().contains("there is no outbox whose events it would take"), "{error}");
    let _app = inbox().retention(Retention::default()).build().await.unwrap();
    let _app = bootstrap().relay(RelaySettings::default()).without_relay().build().await.unwrap();
}

#[tokio::test]
async fn a_second_outbox_or_inbox_is_refused() {
    let error = bootstrap()
        .outbox(MemoryOutbox::new())
        .without_relay()
        .outbox(MemoryOutbox::new())
        .inbox(Desk::default())
        .inbox(Desk::default())
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("there are two outboxes"), "{text}");
    assert!(lines[1].starts_with("there are two inboxes"), "{text}");

    let one_of_each = bootstrap().inbox(Desk::default()).outbox(MemoryOutbox::new()).without_relay();
    let _app = one_of_each.build().await.unwrap();
}

/// What follows from a mistake is no further one.
#[tokio::test]
async fn what_a_subscription_wants_is_told_once() {
    let told = async |inbox: bool, name: &str, group: &str| {
        let builder = bootstrap().outbox(MemoryOutbox::new()).without_relay();
        let builder = if inbox { builder.inbox(Desk::default()) } else { builder };
        let error = builder
            .subscribe_transactional::<MeetingRoomClosed>("rooms", name, tell())
            .group(group)
            .broker(Arc::new(MemoryBroker::new()))
            .build()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.to_string()
    };
    for (text, start) in [
        (
            told(false, "tell", "billing").await,
            "a handler is registered with `subscribe_transactional` and there is no inbox",
        ),
        (told(true, "tell", "").await, "something is subscribed and there is no consumer group"),
        (
            told(true, "", "billing").await,
            "a handler of `meeting_room_closed` from the topic `rooms` has an empty name: give",
        ),
    ] {
        assert!(text.starts_with(start) && text.lines().count() == 1, "{text}");
    }
}

#[tokio::test]
async fn a_relay_wants_a_broker_and_fitting_settings() {
    let error = bootstrap().outbox(MemoryOutbox::new()).build().await.unwrap_err();
    assert!(error.to_string().contains("there is no broker"), "{error}");

    let mut settings = RelaySettings::default();
    settings.batch = 0;
    let app = bootstrap().outbox(MemoryOutbox::new()).relay(settings).broker(Arc::new(MemoryBroker::new()));
    let error = app.build().await.unwrap_err();
    assert!(error.to_string().contains("`batch` must be at least 1"), "{error}");

    let retention = Retention::default().inbox(Duration::ZERO);
    let error = bootstrap().retention(retention).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`inbox` is zero"), "{error}");

    let _app = bootstrap().outbox(MemoryOutbox::new()).without_relay().build().await.unwrap();
}

#[tokio::test]
async fn the_scheme_picks_the_broker() {
    assert!(connect_broker("memory://").is_ok());
    for url in ["localhost:9092", "http://localhost"] {
        let error = connect_broker(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("it begins with `kafka://`, `amqp://`"), "{error}");
    }
}

#[cfg(not(feature = "kafka"))]
#[tokio::test]
async fn a_scheme_that_is_not_compiled_in_names_its_feature() {
    let error = connect_broker("kafka://localhost").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("needs the feature `kafka`"), "{error}");
}

#[cfg(not(feature = "amqp"))]
#[tokio::test]
async fn amqp_that_is_not_compiled_in_names_its_feature() {
    for scheme in ["amqp", "amqps"] {
        let error = connect_broker(&format!("{scheme}://user:secret@localhost")).unwrap_err();
        assert!(error.to_string().contains("needs the feature `amqp`"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn an_application_without_database_and_broker_is_an_application() {
    let app = bootstrap()
        .request::<ReadRoom>(ReadRoomHandler)
        .domain_event::<RoomClosed>(tell())
        .build()
        .await
        .unwrap();
    assert_eq!(app.requests().send(ReadRoom(5)).await.unwrap(), 5);
    let missing = app.requests().send(CloseRoom { room: 1, fails: false }).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::MissingHandler);
    assert!(missing.to_string().contains("`CloseRoom`"), "{missing}");
    app.run_until(async {}).await.unwrap();
}
