use std::sync::Arc;
use std::time::Duration;

use cqrs_bootstrap::bootstrap;
use cqrs_core::broker::SubscribeOptions;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::codec::CloudEvents;
use cqrs_core::{Encoder, ErrorKind, MessageBroker, RetryPolicy, Tracing};
use cqrs_outbox::MemoryOutbox;
use tokio::sync::mpsc::unbounded_channel;

use crate::world::{CloseRoom, CloseRoomHandler, MeetingRoomClosed, RoomClosed, Tell};

#[tokio::test(start_paused = true)]
async fn what_a_handler_says_reaches_everyone_it_concerns() {
    let (tx, mut told) = unbounded_channel();
    let tell = Tell(Arc::new(tx));
    let outbox = MemoryOutbox::new();
    let app = bootstrap()
        .middleware(Tracing)
        .outbox(outbox.clone())
        .transactional::<CloseRoom>(CloseRoomHandler)
        .before_commit::<RoomClosed>(tell.clone())
        .domain_event::<RoomClosed>(tell.clone())
        .group("rooms")
        .subscribe::<MeetingRoomClosed>("rooms", tell)
        .consumer(|consumer| consumer.concurrency(2))
        .broker(Arc::new(MemoryBroker::new()))
        .build()
        .await
        .unwrap();

    app.requests().send(CloseRoom { room: 5, fails: false }).await.unwrap();
    assert_eq!(outbox.waiting(), 1);
    let refused = app.requests().send(CloseRoom { room: 6, fails: true }).await.unwrap_err();
    assert_eq!((refused.kind(), refused.to_string().as_str()), (ErrorKind::Handler, "no"));
    assert_eq!(outbox.waiting(), 1, "a handler that fails leaves nothing");

    let mut seen = Vec::new();
    app.run_until(async {
        while seen.len() < 3 {
            seen.extend(told.recv().await);
        }
    })
    .await
    .unwrap();
    assert_eq!(seen, ["before 5", "after 5", "received 5"]);
    assert_eq!(app.relay_stats().settled, 1);
    assert_eq!(app.consumer_stats().handled, 1);
    assert_eq!(outbox.waiting(), 0);
    assert!(told.try_recv().is_err());

    // It runs again, with what was said meanwhile.
    app.requests().send(CloseRoom { room: 7, fails: false }).await.unwrap();
    app.run_until(async { while told.recv().await.as_deref() != Some("received 7") {} }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_tells_its_event_in_the_format_of_the_application() {
    let broker = Arc::new(MemoryBroker::new());
    let mut letters =
        broker.subscribe(SubscribeOptions::new("undertaker", ["rooms.dead-letters"])).await.unwrap();
    // Nobody listens any more, which is an error of the handler.
    let (tx, _) = unbounded_channel();
    let app = bootstrap()
        .encoder(Encoder::default().with_codec(CloudEvents::new("/rooms").unwrap()))
        .group("rooms")
        .subscribe::<MeetingRoomClosed>("rooms", Tell(Arc::new(tx)))
        .consumer(|consumer| consumer.retry(RetryPolicy::default().with_max_attempts(1)))
        .broker(broker.clone())
        .direct()
        .build()
        .await
        .unwrap();
    let mut event = None;
    app.run_until(async {
        app.events().emit(MeetingRoomClosed { room: 5 }).await.unwrap();
        let letter = letters.next().await.unwrap().unwrap();
        event = letter.message().headers.get_str("cqrs-dead-letter-event").map(str::to_owned);
    })
    .await
    .unwrap();
    assert_eq!(event.as_deref(), Some("meeting_room_closed"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_is_with_the_broker() {
    let broker = Arc::new(MemoryBroker::new());
    let outbox = MemoryOutbox::new();
    let app = bootstrap()
        .outbox(outbox.clone())
        .transactional::<CloseRoom>(CloseRoomHandler)
        .broker(broker.clone())
        .build()
        .await
        .unwrap();
    broker.faults().hold_confirms();
    for room in 0..10 {
        app.requests().send(CloseRoom { room, fails: false }).await.unwrap();
    }
    let stop = async {
        while app.relay_stats().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let release = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.faults().release_confirms();
    };
    let (ended, ()) = tokio::join!(app.run_until(stop), release);
    ended.unwrap();
    let stats = app.relay_stats();
    assert!(stats.confirmed > 0, "it waited for the confirms: {stats:?}");
    assert_eq!(stats.confirmed, stats.settled);
    assert_eq!(outbox.waiting() as u64, 10 - stats.settled);
}
