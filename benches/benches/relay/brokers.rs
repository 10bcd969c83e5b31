//! The brokers, and the floors of their bare clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cqrs::MessageBroker;
use cqrs::broker::memory::MemoryBroker;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::databases::Database;
use crate::measure::{Cost, Measured, Times};

/// As many as a relay has with the broker at most.
const IN_FLIGHT: usize = 1_000;

#[derive(Clone)]
pub(crate) enum Broker {
    Kafka(String),
    RabbitMq(String),
    Memory,
}

pub(crate) fn payload() -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(290))
}

/// What goes with each event on this toolkit's own wire format, in size if not in what it says.
const HEADERS: [(&str, &str); 6] = [
    ("cqrs-id", "0192f7a0-0000-7000-8000-000000000000"),
    ("cqrs-name", "bench"),
    ("cqrs-kind", "notification"),
    ("cqrs-version", "1"),
    ("cqrs-timestamp", "2026-11-28T00:00:00.000000Z"),
    ("content-type", "application/json"),
];

fn key(nth: u64, keys: u64) -> String {
    format!("key-{}", nth % keys)
}

impl Broker {
    pub(crate) fn for_database(database: &Database) -> Vec<Self> {
        if matches!(database, Database::Sqlite) {
            return vec![Self::Memory];
        }
        let url = |name: &str| std::env::var(name).ok();
        let kafka = url("CQRS_TEST_KAFKA").map(Self::Kafka);
        kafka.into_iter().chain(url("CQRS_TEST_AMQP_URL").map(Self::RabbitMq)).collect()
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "Kafka",
            Self::RabbitMq(_) => "RabbitMQ",
            Self::Memory => "in-memory",
        }
    }

    pub(crate) async fn connect(&self) -> Arc<dyn MessageBroker> {
        match self {
            Self::Kafka(servers) => {
                cqrs::app::connect_broker(&format!("kafka://{servers}?allow.auto.create.topics=true"))
                    .unwrap()
            }
            Self::RabbitMq(url) => cqrs::app::connect_broker(url).unwrap(),
            Self::Memory => Arc::new(MemoryBroker::new()),
        }
    }

    /// As the peer wants it.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Kafka(url) | Self::RabbitMq(url) => url,
            Self::Memory => "memory://",
        }
    }

    /// How long the bare client waits for each confirm, one event at a time.
    pub(crate) async fn confirm(&self, events: usize, pause: Duration, times: &mut Times) {
        let producer = Producer::new(self).await;
        producer.send("warm".to_owned()).await;
        for _ in 0..events {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            producer.send("key".to_owned()).await;
            times.push(began.elapsed());
        }
    }

    /// The bare client, as fast as it takes them.
    pub(crate) async fn produce(&self, keys: u64, events: u64) -> Measured {
        let producer = Producer::new(self).await;
        producer.send("warm".to_owned()).await;
        let cost = Cost::start();
        let mut waiting = FuturesUnordered::new();
        for nth in 0..events {
            if waiting.len() >= IN_FLIGHT {
                waiting.next().await;
            }
            waiting.push(producer.send(key(nth, keys)));
        }
        while waiting.next().await.is_some() {}
        cost.stop(events)
    }

    /// The bare client, with one event of a key in flight.
    pub(crate) async fn produce_in_order(&self, keys: u64, events: u64) -> Measured {
        let producer = Producer::new(self).await;
        producer.send("warm".to_owned()).await;
        let cost = Cost::start();
        let mut chains = JoinSet::new();
        let lanes = keys.min(IN_FLIGHT as u64);
        for lane in 0..lanes {
            let producer = producer.clone();
            chains.spawn(async move {
                for nth in (lane..events).step_by(lanes as usize) {
                    producer.send(key(nth, keys)).await;
                }
            });
        }
        chains.join_all().await;
        cost.stop(events)
    }
}

#[derive(Clone)]
enum Producer {
    Kafka(FutureProducer, String),
    RabbitMq(Arc<(Connection, Channel, ShortString)>),
    Memory(Arc<MemoryBroker>),
}

impl Producer {
    async fn new(broker: &Broker) -> Self {
        let topic = format!("floor-{}", Uuid::new_v4().simple());
        match broker {
            Broker::Kafka(servers) => {
                // As the adapter sets it.
                let producer = ClientConfig::new()
                    .set("bootstrap.servers", servers)
                    .set("acks", "all")
                    .set("enable.idempotence", "true")
                    .set("linger.ms", "0")
                    .set("partitioner", "murmur2_random")
                    .set("allow.auto.create.topics", "true")
                    .create()
                    .unwrap();
                Self::Kafka(producer, topic)
            }
            Broker::RabbitMq(url) => {
                let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
                let channel = connection.create_channel().await.unwrap();
                channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(topic.as_str().into(), durable, FieldTable::default()).await.unwrap();
                Self::RabbitMq(Arc::new((connection, channel, topic.into())))
            }
            Broker::Memory => Self::Memory(Arc::new(MemoryBroker::new())),
        }
    }

    async fn send(&self, key: String) {
        match self {
            Self::Kafka(producer, topic) => {
                let payload = payload();
                let headers = OwnedHeaders::new_with_capacity(HEADERS.len());
                let headers = HEADERS.iter().fold(headers, |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(*value) })
                });
                let record = FutureRecord::to(topic).key(&key).payload(&payload).headers(headers);
                producer.send(record, Duration::from_secs(30)).await.unwrap();
            }
            Self::RabbitMq(client) => {
                let (_, channel, queue) = &**client;
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let mut headers = FieldTable::default();
                for (name, value) in HEADERS.into_iter().chain([("cqrs-key", key.as_str())]) {
                    headers.insert(name.into(), AMQPValue::LongString(value.into()));
                }
                let durable = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
                let confirm = channel
                    .basic_publish("".into(), queue.clone(), options, payload().as_bytes(), durable)
                    .await
                    .unwrap();
                assert!(confirm.await.unwrap().is_ack());
            }
            Self::Memory(broker) => {
                let mut message = cqrs::Message::new("floor", payload());
                message.key = Some(key.into());
                broker.publish(message).await.unwrap();
            }
        }
    }
}
