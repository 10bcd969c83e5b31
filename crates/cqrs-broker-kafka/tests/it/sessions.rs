//! Publish sessions, where only a real cluster says what is appended.

use std::ops::Range;
use std::sync::Arc;

use cqrs_broker_kafka::KafkaBroker;
use cqrs_core::ErrorClass;
use cqrs_core::broker::{Confirm, MessageBroker, PublishSession, Receipt, SubscribeOptions};
use cqrs_testing::services::{Service, trial};
use futures_util::future::join_all;
use libtest_mimic::Trial;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::scenarios::keyed;
use crate::{TEST, builder, run, unique};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(Service::Kafka, "real::nothing_follows_what_the_broker_refused", |servers| {
            run(TEST, nothing_follows_what_the_broker_refused(servers))
        }),
        trial(Service::Kafka, "real::what_follows_goes_where_the_first_went", |servers| {
            run(TEST, what_follows_goes_where_the_first_went(servers))
        }),
    ]
}

pub(crate) async fn make_topic(servers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    for made in admin.create_topics([&new], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

fn enqueue(
    session: &Arc<dyn PublishSession>,
    topic: &str,
    key: &str,
    after: &Receipt,
    numbers: Range<usize>,
) -> Vec<Confirm> {
    let messages = numbers.map(|number| keyed(topic, key, number.to_string()));
    messages.filter_map(|message| session.enqueue(&message, Some(after)).ok()).collect()
}

/// The client takes it and the topic does not, so that what is behind it is on its way, in batches of their own.
async fn nothing_follows_what_the_broker_refused(servers: String) {
    let topic = unique("cqrs-it-rooms");
    make_topic(&servers, &topic, 1, &[("max.message.bytes", "20000")]).await;
    let broker = builder(&servers, false).set("batch.num.messages", "1").build().unwrap();
    // A busy machine may have brought the answer before more was under way: such a round does not count.
    let (mut expected, mut rounds) = (Vec::new(), 0);
    for round in 0.. {
        assert!(round < 100, "nothing was under way behind it in {} rounds", round - rounds);
        let key = format!("key {round}");
        let session = broker.publish_session().unwrap();
        let receipt = session.enqueue(&keyed(&topic, &key, "0"), None).unwrap().await.unwrap();
        let before = enqueue(&session, &topic, &key, &receipt, 1..4);
        let large = session.enqueue(&keyed(&topic, &key, vec![b'x'; 50_000]), Some(&receipt)).unwrap();
        let behind = enqueue(&session, &topic, &key, &receipt, 5..30);
        rounds += i32::from(!behind.is_empty());
        for confirmed in join_all(before).await {
            confirmed.unwrap();
        }
        let error = large.await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Event, "{error}");
        for outcome in join_all(behind).await {
            let error = outcome.unwrap_err();
            assert_ne!(error.class(), ErrorClass::Event, "{error}");
        }
        let error = session.enqueue(&keyed(&topic, &key, "late"), Some(&receipt)).unwrap_err();
        assert!(error.to_string().contains("over: open another"), "{error}");
        expected.extend((0..4).map(|number| (key.clone(), number.to_string())));
        if rounds == 10 {
            break;
        }
    }
    broker.publish(keyed(&topic, "end", "end")).await.unwrap();
    let mut arrived = Vec::new();
    let mut rooms = broker.subscribe(SubscribeOptions::new(unique("g"), [&topic])).await.unwrap();
    loop {
        let delivery = rooms.next().await.unwrap().unwrap();
        let text = |bytes: &Option<bytes::Bytes>| {
            String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
        };
        let (key, payload) = (text(&delivery.message().key), text(&delivery.message().payload));
        delivery.ack().await.unwrap();
        if key == "end" {
            break;
        }
        arrived.push((key, payload));
    }
    assert_eq!(arrived, expected);
}

/// Also if the topic has got more partitions meanwhile.
async fn what_follows_goes_where_the_first_went(servers: String) {
    let topic = unique("cqrs-it-rooms");
    make_topic(&servers, &topic, 8, &[]).await;
    let broker: KafkaBroker = builder(&servers, false).build().unwrap();
    let session = broker.publish_session().unwrap();
    for key in ["a", "b", "c", "d"] {
        let first = session.enqueue(&keyed(&topic, key, "0"), None).unwrap().await.unwrap();
        // As if its key had gone elsewhere when there were fewer of them.
        let mut elsewhere = first.clone();
        elsewhere.partition = first.partition.map(|partition| (partition + 1) % 8);
        let next = session.enqueue(&keyed(&topic, key, "1"), Some(&elsewhere)).unwrap().await.unwrap();
        assert_eq!(next.partition, elsewhere.partition);
    }
    broker.close().await.unwrap();
}
