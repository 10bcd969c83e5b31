//! What holds with a server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use cqrs_broker_amqp::AmqpBroker;
use cqrs_core::broker::{Acknowledged, Delivery, MessageBroker, SubscribeOptions, Subscription};
use cqrs_core::{ErrorClass, Message};
use futures_util::future::join_all;
use lapin::options::{ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

use crate::proxy::Proxy;

type Scenario = fn(String, String) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(crate) const ALL: &[(&str, Scenario)] =
            &[$((stringify!($name), |url, topic| Box::pin($name(url, topic)))),*];
    };
}

scenarios![
    messages_arrive_unchanged,
    what_no_queue_takes_is_an_error,
    each_outcome_is_that_of_its_message,
    a_clashing_exchange_harms_nobody_else,
    a_released_message_comes_again,
    what_is_not_done_comes_again_after_a_reopen,
    a_full_member_gets_no_more,
    groups_get_all_and_members_share,
    a_full_queue_refuses,
    a_cut_before_the_confirm_leaves_it_unknown,
    a_confirm_that_never_comes_is_not_waited_for,
    a_cut_makes_deliveries_stale_and_is_mended,
    an_acknowledgement_notices_the_cut,
    a_deleted_queue_is_declared_again,
    one_deleted_queue_of_two_is_noticed,
    closing_waits_for_what_was_enqueued,
    a_closed_channel_is_replaced,
    quorum_queues_count_attempts,
    a_single_active_consumer_keeps_the_order,
];

fn connect(url: &str) -> AmqpBroker {
    AmqpBroker::connect(url).unwrap()
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

fn options(topic: &str) -> SubscribeOptions {
    SubscribeOptions::new("it", [topic])
}

async fn join(broker: &AmqpBroker, topic: &str) -> Box<dyn Subscription> {
    broker.subscribe(options(topic)).await.unwrap()
}

async fn publish(broker: &AmqpBroker, topic: &str, payloads: std::ops::Range<u32>) {
    for payload in payloads {
        broker.publish(Message::new(topic, payload.to_string())).await.unwrap();
    }
}

async fn next(member: &mut Box<dyn Subscription>) -> Delivery {
    member.next().await.unwrap().unwrap()
}

/// The next delivery, through failed attempts to connect.
async fn next_at_last(member: &mut Box<dyn Subscription>) -> Delivery {
    loop {
        match member.next().await {
            Ok(delivery) => return delivery.unwrap(),
            Err(error) => assert_eq!(error.class(), ErrorClass::Outage, "{error}"),
        }
    }
}

async fn publish_at_last(broker: &AmqpBroker, topic: &str, payload: &str) {
    while let Err(error) = broker.publish(Message::new(topic, payload.to_owned())).await {
        assert!(matches!(error.class(), ErrorClass::Outage | ErrorClass::Unknown), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn payload(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message().payload.clone().unwrap().into()).unwrap()
}

async fn messages_arrive_unchanged(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = join(&broker, &topic).await;
    let mut full = Message::new(&topic, "{\"room\":5}");
    full.id = Some("0190-1".into());
    full.name = "room_closed".into();
    full.key = Some(Bytes::from_static(b"\xff\x00key"));
    full.content_type = Some("application/json".into());
    full.timestamp = DateTime::from_timestamp(1_700_000_000, 0);
    full.headers.append("a", Bytes::from_static(b"\xff\x00"));
    full.headers.append("empty", "");
    full.headers.append("twice", "2");
    full.headers.append("twice", "1");
    full.headers.append("имя", "значение");
    let mut empty = Message::new(&topic, "");
    empty.key = Some(Bytes::new());
    let mut tombstone = Message::tombstone(&topic);
    tombstone.key = Some("5".into());
    let large = Message::new(&topic, vec![7; 1_000_000]);
    for message in [full, empty, tombstone, large] {
        broker.publish(message.clone()).await.unwrap();
        let delivery = next(&mut member).await;
        assert_eq!(delivery.attempt(), 1);
        assert_eq!(*delivery.message(), message);
        assert_eq!(delivery.ack().await.unwrap(), Acknowledged::Done);
    }
    member.close().await.unwrap();
    broker.check().await.unwrap();
}

async fn what_no_queue_takes_is_an_error(url: String, topic: String) {
    let broker = connect(&url);
    let error = broker.publish(Message::new(&topic, "1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
    let mut member = join(&broker, &topic).await;
    broker.publish(Message::new(&topic, "2")).await.unwrap();
    assert_eq!(payload(&next(&mut member).await), "2");
}

/// The broker confirms many at once, and returns come in between.
async fn each_outcome_is_that_of_its_message(url: String, topic: String) {
    let broker = connect(&url);
    let nowhere = format!("{topic}-nowhere");
    let member = join(&broker, &topic).await;
    for _ in 0..5 {
        let messages = (0..2_000_u32).map(|number| {
            let unroutable = number % 7 == 3;
            (unroutable, Message::new(if unroutable { &nowhere } else { &topic }, (number % 2).to_string()))
        });
        let mut confirms = Vec::new();
        for (unroutable, message) in messages {
            let confirm = broker.enqueue(&message).await.unwrap();
            confirms.push(async move { (unroutable, tokio::spawn(confirm).await.unwrap()) });
        }
        for (unroutable, outcome) in join_all(confirms).await {
            let class = outcome.err().map(|error| error.class());
            assert_eq!(class, unroutable.then_some(ErrorClass::Destination));
        }
    }
    member.close().await.unwrap();
}

async fn a_clashing_exchange_harms_nobody_else(url: String, topic: String) {
    let broker = connect(&url);
    let member = join(&broker, &topic).await;
    let clash = format!("{topic}-clash");
    let (_connection, channel) = channel(&url).await;
    channel
        .exchange_declare(
            clash.as_str().into(),
            ExchangeKind::Direct,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut confirms = Vec::new();
    for number in 0..100 {
        let topic = if number == 50 { &clash } else { &topic };
        confirms.push(broker.enqueue(&Message::new(topic, "")).await.unwrap());
    }
    for (number, outcome) in join_all(confirms).await.into_iter().enumerate() {
        let class = outcome.map_err(|error| error.class()).err();
        assert_eq!(class, (number == 50).then_some(ErrorClass::Destination), "{number}");
    }
    let error = broker.subscribe(options(&clash)).await.err().unwrap();
    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
    assert!(error.to_string().contains("other properties"), "{error}");
    member.close().await.unwrap();
}

async fn a_released_message_comes_again(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = join(&broker, &topic).await;
    publish(&broker, &topic, 0..1).await;
    drop(next(&mut member).await);
    next(&mut member).await.release();
    let again = next(&mut member).await;
    assert_eq!((payload(&again).as_str(), again.attempt()), ("0", 2));
    again.ack().await.unwrap();
}

async fn what_is_not_done_comes_again_after_a_reopen(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = join(&broker, &topic).await;
    publish(&broker, &topic, 0..3).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    let third = next(&mut member).await;
    first.ack().await.unwrap();
    third.ack().await.unwrap();
    member.close().await.unwrap();
    assert!(second.lost().is_cancelled());
    assert_eq!(second.ack().await.unwrap(), Acknowledged::Stale);

    let mut member = join(&broker, &topic).await;
    let again = next(&mut member).await;
    assert_eq!((payload(&again).as_str(), again.attempt()), ("1", 2));
    again.ack().await.unwrap();
    publish(&broker, &topic, 3..4).await;
    assert_eq!(payload(&next(&mut member).await), "3");
    // Dropped with a delivery in hand: the connection ends all the same.
    drop(member);
    let mut member = join(&broker, &topic).await;
    assert_eq!(payload(&next(&mut member).await), "3");
}

async fn a_full_member_gets_no_more(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = broker.subscribe(options(&topic).with_prefetch(2)).await.unwrap();
    publish(&broker, &topic, 0..4).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    let mut others = join(&broker, &topic).await;
    // The full member's next is not one of these: they are there for another.
    assert_eq!(payload(&next(&mut others).await), "2");
    assert_eq!(payload(&next(&mut others).await), "3");
    drop((first, second));
}

async fn groups_get_all_and_members_share(url: String, topic: String) {
    let broker = connect(&url);
    let mut alone = broker.subscribe(SubscribeOptions::new("alone", [&topic])).await.unwrap();
    let mut one = join(&broker, &topic).await;
    let mut other = join(&broker, &topic).await;
    publish(&broker, &topic, 0..20).await;
    for number in 0..20 {
        let delivery = next(&mut alone).await;
        assert_eq!(payload(&delivery), number.to_string());
        delivery.ack().await.unwrap();
    }
    let mut shared = Vec::new();
    for _ in 0..20 {
        let delivery = tokio::select! {
            delivery = next(&mut one) => delivery,
            delivery = next(&mut other) => delivery,
        };
        shared.push(payload(&delivery).parse::<u32>().unwrap());
        delivery.ack().await.unwrap();
    }
    shared.sort_unstable();
    assert_eq!(shared, (0..20).collect::<Vec<_>>());
}

async fn a_full_queue_refuses(url: String, topic: String) {
    let broker = connect(&url);
    publish_unroutable(&broker, &topic).await;
    let (_connection, channel) = channel(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), 1.into());
    arguments.insert("x-overflow".into(), lapin::types::AMQPValue::LongString("reject-publish".into()));
    let queue = format!("{topic}.full");
    channel.queue_declare(queue.as_str().into(), Default::default(), arguments).await.unwrap();
    channel
        .queue_bind(
            queue.as_str().into(),
            topic.as_str().into(),
            "".into(),
            Default::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut refused = 0;
    for _ in 0..5 {
        match broker.publish(Message::new(&topic, "")).await {
            Ok(_) => assert_eq!(refused, 0),
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

async fn publish_unroutable(broker: &AmqpBroker, topic: &str) {
    broker.publish(Message::new(topic, "")).await.unwrap_err();
}

async fn a_cut_before_the_confirm_leaves_it_unknown(url: String, topic: String) {
    let proxy = Proxy::before(&url).await;
    let broker = connect(&proxy.url);
    let member = join(&connect(&url), &topic).await;
    publish(&broker, &topic, 0..1).await;
    proxy.silence();
    let confirms = join_all([&Message::new(&topic, ""); 3].map(|message| broker.enqueue(message))).await;
    let (outcomes, ()) = tokio::join!(join_all(confirms.into_iter().map(Result::unwrap)), async {
        // Until they are written: whatever is not would be an outage.
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.cut();
    });
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().class(), ErrorClass::Unknown);
    }
    let error = broker.publish(Message::new(&topic, "")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    assert!(broker.check().await.is_err());
    proxy.mend();
    publish_at_last(&broker, &topic, "").await;
    broker.check().await.unwrap();
    member.close().await.unwrap();
}

async fn a_confirm_that_never_comes_is_not_waited_for(url: String, topic: String) {
    let proxy = Proxy::before(&url).await;
    let broker = AmqpBroker::builder(&proxy.url).confirm_timeout(Duration::from_millis(500)).build().unwrap();
    let member = join(&connect(&url), &topic).await;
    publish(&broker, &topic, 0..1).await;
    proxy.silence();
    let error = broker.publish(Message::new(&topic, "")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    assert!(error.to_string().contains("within 500ms"), "{error}");
    proxy.mend();
    publish_at_last(&broker, &topic, "").await;

    proxy.silence();
    let confirm = broker.enqueue(&Message::new(&topic, "")).await.unwrap();
    let error = broker.close().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    assert_eq!(confirm.await.unwrap_err().class(), ErrorClass::Unknown);
    member.close().await.unwrap();
}

async fn a_cut_makes_deliveries_stale_and_is_mended(url: String, topic: String) {
    let proxy = Proxy::before(&url).await;
    let publisher = connect(&url);
    let mut member = join(&connect(&proxy.url), &topic).await;
    publish(&publisher, &topic, 0..2).await;
    let first = next(&mut member).await;
    let second = next(&mut member).await;
    proxy.cut();
    let error = member.next().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    assert!(first.lost().is_cancelled());
    assert_eq!(first.ack().await.unwrap(), Acknowledged::Stale);
    proxy.mend();
    let again = next_at_last(&mut member).await;
    assert_eq!((payload(&again).as_str(), again.attempt()), ("0", 2));
    // The stale one of the same position harms nothing.
    drop(second);
    assert_eq!(again.ack().await.unwrap(), Acknowledged::Done);
    let again = next(&mut member).await;
    assert_eq!((payload(&again).as_str(), again.attempt()), ("1", 2));
    assert_eq!(again.ack().await.unwrap(), Acknowledged::Done);
    publish(&publisher, &topic, 2..3).await;
    assert_eq!(payload(&next(&mut member).await), "2");
}

async fn an_acknowledgement_notices_the_cut(url: String, topic: String) {
    let proxy = Proxy::before(&url).await;
    let mut member = join(&connect(&proxy.url), &topic).await;
    publish(&connect(&url), &topic, 0..200).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(next(&mut member).await);
    }
    let lost = held[0].lost().clone();
    proxy.cut();
    // Those that are written before the client hears of it count as done: AMQP confirms no acknowledgement.
    let mut held = held.into_iter();
    while held.next().unwrap().ack().await.unwrap() == Acknowledged::Done {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(lost.is_cancelled());
    for delivery in held {
        assert_eq!(delivery.ack().await.unwrap(), Acknowledged::Stale);
    }
    proxy.mend();
    assert_eq!(next_at_last(&mut member).await.attempt(), 2);
}

async fn a_deleted_queue_is_declared_again(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = join(&broker, &topic).await;
    let (_connection, channel) = channel(&url).await;
    let queue = format!("it.{topic}");
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let (delivery, ()) = tokio::join!(next(&mut member), async {
        while let Err(error) = broker.publish(Message::new(&topic, "again")).await {
            assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        }
    });
    assert_eq!(payload(&delivery), "again");
}

async fn one_deleted_queue_of_two_is_noticed(url: String, topic: String) {
    let broker = connect(&url);
    let other = format!("{topic}-other");
    let mut member = broker.subscribe(SubscribeOptions::new("it", [&topic, &other])).await.unwrap();
    let (_connection, channel) = channel(&url).await;
    channel.queue_delete(format!("it.{other}").as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let (delivery, ()) = tokio::join!(next(&mut member), async {
        while broker.publish(Message::new(&other, "other")).await.is_err() {}
    });
    assert_eq!(delivery.message().topic, other);
    delivery.ack().await.unwrap();
    publish(&broker, &topic, 0..1).await;
    assert_eq!(next(&mut member).await.message().topic, topic);
}

async fn closing_waits_for_what_was_enqueued(url: String, topic: String) {
    let broker = connect(&url);
    let mut member = join(&connect(&url), &topic).await;
    let mut confirms = Vec::new();
    for number in 0..500 {
        confirms.push(broker.enqueue(&Message::new(&topic, number.to_string())).await.unwrap());
    }
    broker.close().await.unwrap();
    assert!(broker.enqueue(&Message::new(&topic, "late")).await.is_err());
    assert!(broker.check().await.is_err());
    for outcome in join_all(confirms).await {
        outcome.unwrap();
    }
    for number in 0..500 {
        let delivery = next(&mut member).await;
        assert_eq!(payload(&delivery), number.to_string(), "the order of enqueueing");
        delivery.ack().await.unwrap();
    }
}

/// An exchange that is deleted after it was declared makes the broker close the channel.
async fn a_closed_channel_is_replaced(url: String, topic: String) {
    let broker = connect(&url);
    publish_unroutable(&broker, &topic).await;
    let (_connection, channel) = channel(&url).await;
    channel.exchange_delete(topic.as_str().into(), Default::default()).await.unwrap();
    let error = broker.publish(Message::new(&topic, "")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    loop {
        let error = broker.publish(Message::new(&topic, "")).await.unwrap_err();
        if error.class() == ErrorClass::Destination {
            break;
        }
        assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    }
}

async fn quorum_queues_count_attempts(url: String, topic: String) {
    let broker = AmqpBroker::builder(&url).quorum_queues(true).build().unwrap();
    assert!(broker.capabilities().counts_attempts);
    let mut member = join(&broker, &topic).await;
    publish(&broker, &topic, 0..1).await;
    for attempt in 1..=4 {
        let delivery = next(&mut member).await;
        assert_eq!(delivery.attempt(), attempt);
        assert!(delivery.message().headers.is_empty(), "{:?}", delivery.message());
    }
    // In hand while closing: released before, it would be delivered once more to this member.
    let held = next(&mut member).await;
    member.close().await.unwrap();
    drop(held);
    let mut member = join(&broker, &topic).await;
    assert_eq!(next(&mut member).await.attempt(), 6);
}

async fn a_single_active_consumer_keeps_the_order(url: String, topic: String) {
    let broker = AmqpBroker::builder(&url).single_active_consumer(true).build().unwrap();
    let mut active = join(&broker, &topic).await;
    let mut standby = join(&broker, &topic).await;
    publish(&broker, &topic, 0..20).await;
    for number in 0..20 {
        let delivery = tokio::select! {
            delivery = next(&mut active) => delivery,
            _ = next(&mut standby) => panic!("the second member gets nothing"),
        };
        assert_eq!(payload(&delivery), number.to_string());
        delivery.ack().await.unwrap();
    }
    active.close().await.unwrap();
    publish(&broker, &topic, 20..21).await;
    assert_eq!(payload(&next(&mut standby).await), "20");
}
