use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cqrs_consumer::{Unhandled, header};
use cqrs_core::codec::{AnyOf, Binding, CloudEvents, Correlation, Json, PythonCqrs};
use cqrs_core::{
    Codec, Encoder, Envelope, Error, ErrorClass, EventEmitter, EventMap, EventMediator, Message,
};

use crate::support::{Log, On, RoomClosed, Script, consumer, message, on, run, settle, undecodable, until};

#[tokio::test(start_paused = true)]
async fn the_last_failure_leads_to_the_dead_letters_with_everything_told() {
    let broker = Script::new();
    let events = on(|n| async move { Err(Error::handler(format!("no room {n}"))) });
    let consumer = consumer(&broker, events).build().unwrap();
    let mut sent = message(5, Some("a"));
    sent.headers.append("tenant", "blue");
    broker.deliver([sent.clone()]);
    let running = run(&consumer);
    until(|| !broker.acked().is_empty()).await;

    // Published before it was acknowledged.
    let log = broker.log();
    assert!(matches!(&log[..], [Log::Subscribed, Log::Published(_), Log::Acked(0)]), "{log:?}");
    let mut letter = broker.published().remove(0);
    assert_eq!(letter.topic, "rooms.dead-letters");
    for (name, value) in [
        (header::REASON, "no room 5"),
        (header::EVENT, "room_closed"),
        (header::GROUP, "billing"),
        (header::ATTEMPTS, "3"),
        (header::TOPIC, "rooms"),
    ] {
        assert_eq!(letter.headers.get_str(name), Some(value), "{name}");
        letter.headers.remove(name);
    }
    assert!(letter.headers.get_str(header::FAILED_AT).unwrap().ends_with('Z'));
    letter.headers.remove(header::FAILED_AT);
    letter.topic = "rooms".into();
    assert_eq!(letter, sent);
    let stats = consumer.stats();
    assert_eq!((stats.received, stats.handled, stats.dead_lettered), (1, 0, 1));
    assert_eq!((stats.failed_attempts, stats.retried), (3, 2));
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undecodable_skips_the_retries_and_the_others_go_on() {
    let (broker, ran) = (Script::new(), Arc::new(AtomicU32::new(0)));
    let runs = ran.clone();
    let events = on(move |_| {
        runs.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let consumer = consumer(&broker, events).dead_letter_topic("graveyard").build().unwrap();
    let mut unreadable = message(2, Some("a"));
    unreadable.headers.set("cqrs-version", "second");
    broker.deliver([undecodable(Some("a")), unreadable, message(1, Some("a"))]);
    let running = run(&consumer);
    until(|| broker.acked() == [0, 1, 2]).await;
    let letters = broker.published();
    assert_eq!(letters.iter().map(|letter| letter.topic.as_str()).collect::<Vec<_>>(), ["graveyard"; 2]);
    assert!(letters.iter().all(|letter| letter.headers.get_str(header::ATTEMPTS) == Some("1")));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert_eq!(consumer.stats().retried, 0);
    running.stop().await.unwrap();
}

/// The events of the dead letters of these messages.
async fn events_of_letters(encoder: Encoder, messages: Vec<Message>) -> Vec<Option<String>> {
    let map = EventMap::new().subscribe::<RoomClosed>("rooms", On(|_| async { Err(Error::handler("bad")) }));
    let events = EventMediator::new(EventEmitter::new(map).with_encoder(encoder.clone())).unwrap();
    let broker = Script::new();
    let consumer = consumer(&broker, events).encoder(encoder).build().unwrap();
    let sent = messages.len();
    broker.deliver(messages);
    let running = run(&consumer);
    until(|| broker.acked().len() == sent).await;
    running.stop().await.unwrap();
    let letters = broker.published();
    letters.iter().map(|letter| letter.headers.get_str(header::EVENT).map(str::to_owned)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_tells_its_event_in_whichever_format_it_is() {
    let structured = CloudEvents::new("/rooms").unwrap();
    let formats: [Arc<dyn Codec>; 5] = [
        Arc::new(Json),
        Arc::new(structured.clone()),
        Arc::new(structured.clone().binary(Binding::Kafka)),
        Arc::new(PythonCqrs::v0()),
        Arc::new(PythonCqrs::v5_dataclass()),
    ];
    let mut messages: Vec<_> = formats
        .map(|codec| {
            let encoder = Encoder::default().with_codec(codec);
            let event = Envelope::new(RoomClosed { n: 5 }).with_key("a");
            let mut message = encoder.encode(event, &Correlation::default()).unwrap();
            // As Kafka delivers it.
            message.name = String::new();
            message
        })
        .into();
    let mut unreadable = Message::new("rooms", r#"{"eventName":"room_closed","eventId":"five"}"#);
    unreadable.key = Some("a".into());
    messages.push(unreadable);
    let any = AnyOf::new(structured).or(PythonCqrs::v0()).or(Json);
    let encoder = Encoder::default().with_codec_for_topic("rooms", any);

    let told = Some("room_closed".to_owned());
    let expected = [told.clone(), told.clone(), told.clone(), told.clone(), told, None];
    assert_eq!(events_of_letters(encoder, messages).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_its_codec_panics_at_is_a_dead_letter_too() {
    #[derive(Debug)]
    struct Fragile;

    impl Codec for Fragile {
        fn encode(&self, message: Message) -> cqrs_core::Result<Message> {
            Ok(message)
        }

        fn decode(&self, _: Message) -> cqrs_core::Result<Message> {
            panic!("at every message")
        }
    }

    let messages = vec![message(1, Some("a")), Message::new("rooms", "{}")];
    let encoder = Encoder::default().with_codec(Fragile);
    let mut events = events_of_letters(encoder, messages).await;
    events.sort();
    assert_eq!(events, [None, Some("room_closed".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_published_is_kept_until_it_can() {
    let broker = Script::new();
    let events = on(|n| async move { if n == 0 { Err(Error::handler("bad")) } else { Ok(()) } });
    let consumer = consumer(&broker, events).build().unwrap();
    broker.refuse_publishing([
        ErrorClass::Outage,
        ErrorClass::Event,
        ErrorClass::Unknown,
        ErrorClass::Destination,
    ]);
    broker.deliver([message(0, Some("a")), message(1, Some("a")), message(2, Some("b"))]);
    let running = run(&consumer);
    until(|| broker.log().iter().filter(|log| **log == Log::PublishFailed).count() == 4).await;
    // The key waits; another does not.
    assert_eq!(broker.acked(), [2]);
    until(|| broker.acked() == [2, 0, 1]).await;
    assert_eq!(broker.published().len(), 1);
    let failures = broker.times(|log| *log == Log::PublishFailed);
    let delays: Vec<_> = failures.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(delays, [1, 2, 4]);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_never_comes_is_a_failed_publish() {
    let broker = Script::new();
    let consumer = consumer(&broker, on(|_| async { Ok(()) })).build().unwrap();
    broker.confirm_nothing(1);
    broker.deliver([undecodable(None)]);
    let running = run(&consumer);
    settle().await;
    assert!(broker.acked().is_empty());
    until(|| broker.acked() == [0]).await;
    assert_eq!(broker.published().len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_handles_is_skipped_or_a_dead_letter() {
    for (policy, skipped, dead) in [(Unhandled::Skip, 2, 0), (Unhandled::DeadLetter, 0, 2)] {
        let broker = Script::new();
        let consumer = consumer(&broker, on(|_| async { Ok(()) })).on_unhandled(policy).build().unwrap();
        let mut foreign = message(0, None);
        foreign.name = "room_painted".into();
        let foreign = Json.encode(foreign).unwrap();
        broker.deliver([foreign.clone(), message(1, None), foreign]);
        let running = run(&consumer);
        until(|| broker.acked().len() == 3).await;
        let stats = consumer.stats();
        assert_eq!((stats.skipped, stats.dead_lettered, stats.handled), (skipped, dead, 1));
        assert_eq!((stats.failed_attempts, stats.retried), (0, 0));
        for letter in broker.published() {
            assert!(letter.headers.get_str(header::REASON).unwrap().contains("room_painted"));
        }
        running.stop().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_dead_letter_waits_loses_nothing() {
    let broker = Script::new();
    let consumer = consumer(&broker, on(|_| async { Ok(()) })).build().unwrap();
    broker.refuse_publishing([ErrorClass::Outage; 100]);
    broker.deliver([undecodable(Some("a"))]);
    let running = run(&consumer);
    until(|| broker.log().contains(&Log::PublishFailed)).await;
    tokio::time::timeout(Duration::from_secs(1), running.stop()).await.unwrap().unwrap();
    assert_eq!(broker.released(), [0]);
    assert_eq!(consumer.stats().dead_lettered, 0);
}
