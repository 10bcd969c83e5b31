//! Topologies that others have made, and one's own.

use cqrs_broker_amqp::{AmqpBroker, Declare, Exchange, NamedBinding, Queue, Topology};
use cqrs_core::broker::{MessageBroker, SubscribeOptions};
use cqrs_core::{ErrorClass, Message};
use cqrs_testing::services::{Service, trial};
use futures_util::future::join_all;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use libtest_mimic::Trial;

use crate::{TEST, run, unique};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(Service::Amqp, "real::what_others_declared_is_declared_the_same", |url| run(TEST, same(url))),
        trial(Service::Amqp, "real::a_clash_names_what_differs", |url| run(TEST, clash(url))),
        trial(Service::Amqp, "real::what_is_only_looked_for_has_to_be_there", |url| run(TEST, passive(url))),
        trial(Service::Amqp, "real::what_is_never_declared_is_used_as_it_is", |url| run(TEST, never(url))),
        trial(Service::Amqp, "real::what_is_declared_besides_is_there", |url| run(TEST, besides(url))),
        Trial::test("offline::a_wrong_topology_is_told_by_build", || run(TEST, wrong())),
    ]
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

fn broker(url: &str, topology: &Topology) -> AmqpBroker {
    AmqpBroker::builder(url).topology(topology.clone()).build().unwrap()
}

/// As the Python library of this kind makes it: one direct exchange, neither it nor a queue outlives anything, and a queue
/// is bound by its own name.
fn of_python(exchange: &str) -> Topology {
    serde_json::from_value(serde_json::json!({
        "exchange": { "name": exchange, "kind": "direct", "durable": false, "auto_delete": true },
        "routing_key": "{topic}",
        "queue": { "name": "{topic}", "durable": false },
        "binding": { "routing_key": "{topic}" },
    }))
    .unwrap()
}

async fn declare_as_python(channel: &Channel, exchange: &str, queue: &str) {
    let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Direct, options, FieldTable::default())
        .await
        .unwrap();
    channel.queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), queue.into(), bind, FieldTable::default())
        .await
        .unwrap();
}

async fn same(url: String) {
    let (exchange, topic, other) = (unique("cqrs-it-exchange"), unique("cqrs-it-a"), unique("cqrs-it-b"));
    let (_connection, channel) = channel(&url).await;
    declare_as_python(&channel, &exchange, &topic).await;
    declare_as_python(&channel, &exchange, &other).await;
    let broker = broker(&url, &of_python(&exchange));
    let mut member = broker.subscribe(SubscribeOptions::new("any", [topic.as_str()])).await.unwrap();
    broker.publish(Message::new(&topic, "1")).await.unwrap();
    broker.publish(Message::new(&other, "2")).await.unwrap();
    // The same but for the routing key, and on the way together: each outcome is that of its own.
    let nowhere = unique("cqrs-it-nowhere");
    let mut confirms = Vec::new();
    for nth in 0..200 {
        let topic = if nth % 2 == 0 { &topic } else { &nowhere };
        confirms.push(broker.enqueue(&Message::new(topic, "3")).await.unwrap());
    }
    for (nth, outcome) in join_all(confirms).await.into_iter().enumerate() {
        let class = outcome.map_err(|error| error.class()).err();
        assert_eq!(class, (nth % 2 == 1).then_some(ErrorClass::Destination), "{nth}");
    }
    for expected in ["1", "3"] {
        let delivery = member.next().await.unwrap().unwrap();
        assert_eq!(delivery.message().payload.as_deref(), Some(expected.as_bytes()));
        assert_eq!(delivery.message().topic, topic);
        delivery.ack().await.unwrap();
    }
    let got = channel.basic_get(other.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    assert_eq!(got.data, b"2");
    member.close().await.unwrap();
}

async fn clash(url: String) {
    let (exchange, topic) = (unique("cqrs-it-exchange"), unique("cqrs-it-a"));
    let (_connection, channel) = channel(&url).await;
    declare_as_python(&channel, &exchange, &topic).await;
    let mut durable = of_python(&exchange);
    durable.exchange.durable = true;
    let mut queue = of_python(&exchange);
    queue.queue.durable = true;
    for (topology, name, property) in [(&durable, &exchange, "'durable'"), (&queue, &topic, "'durable'")] {
        let broker = broker(&url, topology);
        let subscribed = broker.subscribe(SubscribeOptions::new("g", [topic.as_str()])).await.map(drop);
        let error = subscribed.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        for part in [&format!("`{name}`"), property, "other properties", "topology", &shown(&url)] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    let error = broker(&url, &durable).publish(Message::new(&topic, "")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
    for part in [&format!("`{exchange}`"), "other properties", &shown(&url)] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

/// Its beginning without the password: where the broker is.
fn shown(url: &str) -> String {
    let (login, place) = url.rsplit_once('@').unwrap();
    let (user, _) = login.rsplit_once(':').unwrap();
    format!("{user}:***@{}", place.split('/').next().unwrap())
}

async fn passive(url: String) {
    let topic = unique("cqrs-it-a");
    let mut topology = Topology::default();
    topology.exchange.declare = Declare::Passively;
    topology.queue.declare = Declare::Passively;
    let broker = broker(&url, &topology);
    let options = SubscribeOptions::new("g", [topic.as_str()]);
    for error in [
        broker.publish(Message::new(&topic, "1")).await.map(drop).unwrap_err(),
        broker.subscribe(options.clone()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        assert!(error.to_string().contains(&format!("`{topic}`")), "{error}");
        assert!(error.to_string().contains("create it"), "{error}");
    }
    let (_connection, channel) = channel(&url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let arguments = FieldTable::default;
    channel.exchange_declare(topic.as_str().into(), ExchangeKind::Topic, durable, arguments()).await.unwrap();
    let error = broker.subscribe(options.clone()).await.map(drop).unwrap_err();
    assert!(error.to_string().contains(&format!("the queue `g.{topic}`")), "{error}");
    let queue = format!("g.{topic}");
    channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), arguments()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(queue.as_str().into(), topic.as_str().into(), "#".into(), bind, arguments())
        .await
        .unwrap();
    let mut member = broker.subscribe(options).await.unwrap();
    broker.publish(Message::new(&topic, "1")).await.unwrap();
    member.next().await.unwrap().unwrap().ack().await.unwrap();
}

/// The server's own exchange takes the routing key for the name of a queue.
async fn never(url: String) {
    let topic = unique("cqrs-it-a");
    let mut topology = Topology::default();
    topology.exchange.name = String::new();
    topology.exchange.declare = Declare::Never;
    topology.routing_key = "{topic}".to_owned();
    topology.queue.name = "{topic}".to_owned();
    topology.queue.declare = Declare::Never;
    let broker = broker(&url, &topology);
    let error = broker.publish(Message::new(&topic, "1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
    let subscribed = broker.subscribe(SubscribeOptions::new("g", [topic.as_str()])).await.map(drop);
    assert_eq!(subscribed.unwrap_err().class(), ErrorClass::Destination);
    let (_connection, channel) = channel(&url).await;
    channel
        .queue_declare(topic.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .unwrap();
    broker.publish(Message::new(&topic, "1")).await.unwrap();
    let mut member = broker.subscribe(SubscribeOptions::new("g", [topic.as_str()])).await.unwrap();
    member.next().await.unwrap().unwrap().ack().await.unwrap();
}

async fn besides(url: String) {
    let (topic, dead) = (unique("cqrs-it-a"), unique("cqrs-it-dead"));
    let mut topology = Topology::default();
    topology.queue.arguments.insert("x-dead-letter-exchange".to_owned(), dead.as_str().into());
    topology.queue.arguments.insert("x-max-length".to_owned(), 0.into());
    let mut exchange = Exchange::default();
    exchange.name.clone_from(&dead);
    let mut queue = Queue::default();
    queue.name = format!("{dead}.all");
    let mut binding = NamedBinding::default();
    (binding.exchange, binding.queue) = (dead.clone(), queue.name.clone());
    let name = queue.name.clone();
    (topology.more_exchanges, topology.more_queues, topology.more_bindings) =
        (vec![exchange], vec![queue], vec![binding]);
    let broker = broker(&url, &topology);
    // Nobody consumes from a queue that holds none: what comes goes on to the dead letters.
    let member = broker.subscribe(SubscribeOptions::new("g", [topic.as_str()])).await.unwrap();
    member.close().await.unwrap();
    broker.publish(Message::new(&topic, "1")).await.unwrap();
    let (_connection, channel) = channel(&url).await;
    loop {
        if let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap()
        {
            assert_eq!(got.data, b"1");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn wrong() {
    let mut topology = Topology::default();
    topology.exchange.name = "{group}".to_owned();
    topology.queue.name = String::new();
    let error = AmqpBroker::builder("amqp://me:hunter2@localhost").topology(topology).build().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal);
    let text = error.to_string();
    assert!(text.contains("`{group}`") && text.contains("no name") && !text.contains("hunter2"), "{text}");
}
