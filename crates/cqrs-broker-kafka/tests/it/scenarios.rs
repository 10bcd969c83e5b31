//! What holds on any cluster.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cqrs_broker_kafka::KafkaBroker;
use cqrs_core::broker::{Acknowledged, Delivery, MessageBroker, SubscribeOptions, Subscription};
use cqrs_core::{ErrorClass, Message};
use futures_util::future::join_all;

type Scenario = fn(KafkaBroker, String) -> Pin<Box<dyn Future<Output = ()>>>;

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("messages_arrive_unchanged", |broker, topic| Box::pin(messages_arrive_unchanged(broker, topic))),
    ("receipts_say_where", |broker, topic| Box::pin(receipts_say_where(broker, topic))),
    ("a_released_message_comes_again_first", |broker, topic| {
        Box::pin(a_released_message_comes_again_first(broker, topic))
    }),
    ("what_is_not_done_comes_again_after_a_reopen", |broker, topic| {
        Box::pin(what_is_not_done_comes_again_after_a_reopen(broker, topic))
    }),
    ("a_full_member_gets_no_more", |broker, topic| Box::pin(a_full_member_gets_no_more(broker, topic))),
    ("a_dropped_member_commits", |broker, topic| Box::pin(a_dropped_member_commits(broker, topic))),
    ("a_rebalance_makes_deliveries_stale", |broker, topic| {
        Box::pin(a_rebalance_makes_deliveries_stale(broker, topic))
    }),
    ("too_large_is_the_events_fault", |broker, topic| Box::pin(too_large_is_the_events_fault(broker, topic))),
    ("closing_waits_for_what_was_enqueued", |broker, topic| {
        Box::pin(closing_waits_for_what_was_enqueued(broker, topic))
    }),
];

/// What the mock cluster cannot do: it takes no commit during a rebalance, knows no names that are wrong, ..
pub(crate) const REAL: &[(&str, Scenario)] = &[
    ("a_rebalance_commits_what_was_done", |broker, topic| {
        Box::pin(a_rebalance_commits_what_was_done(broker, topic))
    }),
    ("keys_go_where_java_takes_them", |broker, topic| Box::pin(keys_go_where_java_takes_them(broker, topic))),
    ("a_name_that_is_none_is_the_destinations_fault", |broker, topic| {
        Box::pin(a_name_that_is_none_is_the_destinations_fault(broker, topic))
    }),
];

pub(crate) fn keyed(topic: &str, key: &str, payload: impl Into<Bytes>) -> Message {
    let mut message = Message::new(topic, payload);
    message.key = Some(Bytes::copy_from_slice(key.as_bytes()));
    message
}

async fn publish(broker: &KafkaBroker, topic: &str, payloads: std::ops::Range<u32>) {
    for payload in payloads {
        broker.publish(keyed(topic, "one", payload.to_string())).await.unwrap();
    }
}

async fn join(broker: &KafkaBroker, topic: &str, prefetch: usize) -> Box<dyn Subscription> {
    broker
        .subscribe(SubscribeOptions::new(format!("{topic}-group"), [topic]).with_prefetch(prefetch))
        .await
        .unwrap()
}

async fn next(member: &mut Box<dyn Subscription>) -> Delivery {
    member.next().await.unwrap().unwrap()
}

fn payload(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message().payload.clone().unwrap().into()).unwrap()
}

async fn messages_arrive_unchanged(broker: KafkaBroker, topic: String) {
    let mut full = keyed(&topic, "ключ", "{\"room\":5}");
    // Not one from long ago: the cluster deletes by it what is older than the topic's retention.
    full.timestamp = DateTime::from_timestamp_millis(Utc::now().timestamp_millis());
    full.headers.append("twice", "1");
    full.headers.append("имя", "значение");
    full.headers.append("twice", Bytes::from_static(b"\xff\x00"));
    full.headers.append("empty", "");
    let mut tombstone = Message::tombstone(&topic);
    tombstone.key = full.key.clone();
    let empty = keyed(&topic, "", "");
    let no_key = Message::new(&topic, "no key");
    let sent = [full, tombstone, empty, no_key];
    for message in &sent {
        broker.publish(message.clone()).await.unwrap();
    }

    let mut member = join(&broker, &topic, 10).await;
    let mut received = Vec::new();
    for _ in &sent {
        let delivery = next(&mut member).await;
        assert_eq!(delivery.attempt(), 1);
        received.push(delivery.message().clone());
        assert_eq!(delivery.ack().await.unwrap(), Acknowledged::Done);
    }
    for mut message in sent {
        let found =
            received.iter().find(|other| (&other.key, &other.payload) == (&message.key, &message.payload));
        let found = found.unwrap_or_else(|| panic!("{message:?} is not among {received:?}"));
        message.timestamp = message.timestamp.or(found.timestamp);
        assert_eq!(*found, message);
    }
    member.close().await.unwrap();
}

async fn receipts_say_where(broker: KafkaBroker, topic: String) {
    let first = broker.publish(keyed(&topic, "one", "1")).await.unwrap();
    let second = broker.publish(keyed(&topic, "one", "2")).await.unwrap();
    assert_eq!(first.partition, second.partition);
    assert_eq!(first.offset.unwrap() + 1, second.offset.unwrap());
    assert!(first.partition.is_some());
    broker.check().await.unwrap();
}

async fn a_released_message_comes_again_first(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..3).await;
    let mut member = join(&broker, &topic, 10).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    second.release();
    drop(first);
    for (expected, attempt) in [("0", 2), ("1", 2), ("2", 1)] {
        let delivery = next(&mut member).await;
        assert_eq!((payload(&delivery).as_str(), delivery.attempt()), (expected, attempt));
        assert_eq!(delivery.ack().await.unwrap(), Acknowledged::Done);
    }
}

async fn what_is_not_done_comes_again_after_a_reopen(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..3).await;
    let mut member = join(&broker, &topic, 10).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    let third = next(&mut member).await;
    // Only the first is behind the watermark: the third is done, the second is not.
    first.ack().await.unwrap();
    third.ack().await.unwrap();
    member.close().await.unwrap();
    assert!(second.lost().is_cancelled());
    assert_eq!(second.ack().await.unwrap(), Acknowledged::Stale);

    let mut member = join(&broker, &topic, 10).await;
    for expected in ["1", "2"] {
        let delivery = next(&mut member).await;
        assert_eq!((payload(&delivery).as_str(), delivery.attempt()), (expected, 1));
        delivery.ack().await.unwrap();
    }
    member.close().await.unwrap();

    publish(&broker, &topic, 3..4).await;
    let mut member = join(&broker, &topic, 10).await;
    assert_eq!(payload(&next(&mut member).await), "3");
}

async fn a_full_member_gets_no_more(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..4).await;
    let mut member = join(&broker, &topic, 2).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    // `next` is polled first: with room it would answer with the third message.
    let (again, ()) = tokio::join!(next(&mut member), async { first.release() });
    assert_eq!((payload(&again).as_str(), again.attempt()), ("0", 2));

    // Long enough for the member to pause; the acknowledgement wakes and resumes it.
    let (third, ()) = tokio::join!(next(&mut member), async {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        second.ack().await.unwrap();
    });
    assert_eq!(payload(&third), "2");
    again.ack().await.unwrap();
    assert_eq!(payload(&next(&mut member).await), "3");
}

async fn a_dropped_member_commits(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..2).await;
    let mut member = join(&broker, &topic, 10).await;
    next(&mut member).await.ack().await.unwrap();
    drop(member);
    let mut member = join(&broker, &topic, 10).await;
    assert_eq!(payload(&next(&mut member).await), "1");
}

async fn a_rebalance_makes_deliveries_stale(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..1).await;
    let mut first = join(&broker, &topic, 10).await;
    let held = next(&mut first).await;
    let mut second = join(&broker, &topic, 10).await;
    let again = next_of(&mut first, &mut second).await;
    assert!(held.lost().is_cancelled());
    assert_eq!((payload(&again).as_str(), again.attempt()), ("0", 1));
    assert_eq!(held.ack().await.unwrap(), Acknowledged::Stale);
    assert!(!again.lost().is_cancelled());
    assert_eq!(again.ack().await.unwrap(), Acknowledged::Done);
}

async fn a_rebalance_commits_what_was_done(broker: KafkaBroker, topic: String) {
    publish(&broker, &topic, 0..2).await;
    let mut first = join(&broker, &topic, 10).await;
    let done = next(&mut first).await;
    let held = next(&mut first).await;
    assert_eq!(done.ack().await.unwrap(), Acknowledged::Done);
    let mut second = join(&broker, &topic, 10).await;
    let again = next_of(&mut first, &mut second).await;
    assert_eq!(payload(&again), "1");
    assert_eq!(held.ack().await.unwrap(), Acknowledged::Stale);
}

/// The hashes are those of the Java client's own tests (`UtilsTest.testMurmur2`).
async fn keys_go_where_java_takes_them(broker: KafkaBroker, topic: String) {
    const HASHES: [(&str, i32); 5] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("abc", 479_470_107),
    ];
    let mut found = Vec::new();
    for (key, _) in HASHES {
        found.push(broker.publish(keyed(&topic, key, "")).await.unwrap().partition.unwrap());
    }
    // How many there are is up to the cluster: with one, there is nothing to see.
    let explains = |partitions: i32| {
        HASHES.iter().zip(&found).all(|((_, hash), found)| (hash & 0x7fff_ffff) % partitions == *found)
    };
    let highest = found.iter().max().unwrap() + 1;
    assert!((highest.max(2)..=64).any(explains), "{found:?} is no outcome of murmur2");
}

async fn a_name_that_is_none_is_the_destinations_fault(broker: KafkaBroker, _: String) {
    for name in ["two words", "a/b", &"x".repeat(250)] {
        let error = broker.publish(keyed(name, "one", "1")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Destination, "{name}: {error}");
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

/// The next delivery to either; both must poll for the group to settle.
async fn next_of(first: &mut Box<dyn Subscription>, second: &mut Box<dyn Subscription>) -> Delivery {
    tokio::select! {
        delivery = next(first) => delivery,
        delivery = next(second) => delivery,
    }
}

async fn too_large_is_the_events_fault(broker: KafkaBroker, topic: String) {
    let error = broker.enqueue(&Message::new(&topic, vec![b'x'; 1_000_001])).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Event);
    assert!(error.to_string().contains("`message.max.bytes` is 1000000"), "{error}");
}

async fn closing_waits_for_what_was_enqueued(broker: KafkaBroker, topic: String) {
    let mut confirms = Vec::new();
    for payload in 0..500 {
        confirms.push(broker.enqueue(&keyed(&topic, "one", payload.to_string())).await.unwrap());
    }
    broker.close().await.unwrap();
    let error = broker.enqueue(&keyed(&topic, "one", "late")).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert!(broker.check().await.is_err());
    broker.close().await.unwrap();
    let offsets: Vec<_> =
        join_all(confirms).await.into_iter().map(|receipt| receipt.unwrap().offset.unwrap()).collect();
    assert!(offsets.is_sorted(), "the order of enqueueing");
    assert_eq!(offsets.len(), 500);
}
