//! What only a mock cluster can be made to do.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use cqrs_broker_kafka::{KafkaBroker, KafkaBrokerBuilder};
use cqrs_core::broker::{Acknowledged, Delivery, MessageBroker, SubscribeOptions, Subscription};
use cqrs_core::{BrokerError, ErrorClass};
use futures_util::future::{Either, join_all, select};
use libtest_mimic::Trial;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::scenarios::keyed;
use crate::{TEST, run};

type Cluster = MockCluster<'static, DefaultProducerContext>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("mock::a_missing_topic_is_the_destinations_fault_and_heals", missing_topic),
        Trial::test("mock::subscribing_to_a_missing_topic_fails", missing_subscription),
        Trial::test("mock::an_outage_is_told_and_passes", outage),
        Trial::test("mock::a_member_hears_nothing_of_an_outage_that_has_passed", member_outage),
        Trial::test("mock::who_is_cut_off_from_the_cluster_is_replaced", cut_off),
        Trial::test("mock::a_cluster_that_names_no_brokers_for_a_while_is_reached_again", no_brokers),
        Trial::test("mock::a_message_that_is_released_again_and_again_lets_others_run", released),
        Trial::test("mock::what_refused_a_member_many_times_is_told_once", member_refusal),
        Trial::test("mock::a_full_queue_waits_for_room", full_queue),
        Trial::test("mock::a_broken_producer_is_replaced", broken_producer),
        Trial::test("mock::a_refusal_by_the_broker_keeps_its_class", refusal),
        Trial::test("mock::what_the_client_concludes_is_no_receipt", || conclusion(false)),
        Trial::test("mock::nor_is_it_in_a_session", || conclusion(true)),
        Trial::test("mock::a_session_that_ends_leaves_no_gap", session_end),
    ]
}

pub(crate) fn cluster() -> Cluster {
    MockCluster::new(1).unwrap()
}

fn builder(cluster: &Cluster) -> KafkaBrokerBuilder {
    crate::builder(&cluster.bootstrap_servers(), true)
}

pub(crate) fn broker(cluster: &Cluster) -> KafkaBroker {
    builder(cluster).build().unwrap()
}

fn missing_topic() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 1, 1)?;
    cluster.topic_error("rooms", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)?;
    run(TEST, async {
        let error = broker.publish(keyed("rooms", "one", "1")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        for part in ["`rooms`", "create the topic", &format!("kafka://{}", cluster.bootstrap_servers())] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        cluster.topic_error("rooms", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        while let Err(error) = broker.publish(keyed("rooms", "one", "1")).await {
            assert_eq!(error.class(), ErrorClass::Destination, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

fn missing_subscription() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = KafkaBroker::connect(&format!("kafka://{}", cluster.bootstrap_servers()))?;
    run(TEST, async {
        let error = broker.subscribe(SubscribeOptions::new("g", ["nowhere"])).await.err().unwrap();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        for part in ["`nowhere`", "create the topic", &format!("kafka://{}", cluster.bootstrap_servers())] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        let error = broker.subscribe(SubscribeOptions::new("g", [""; 0])).await.err().unwrap();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
    })
}

fn outage() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = builder(&cluster).set("message.timeout.ms", "1000").build()?;
    run(TEST, async {
        // With so short a time-out a busy machine may need a second try.
        let publish_in_the_end = async |payload| {
            while let Err(error) = broker.publish(keyed("rooms", "one", payload)).await {
                assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
            }
        };
        publish_in_the_end("1").await;
        cluster.broker_down(-1).unwrap();
        let error = broker.publish(keyed("rooms", "one", "2")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
        let error = broker.check().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Outage, "{error}");
        cluster.broker_up(-1).unwrap();
        publish_in_the_end("3").await;
        broker.check().await.unwrap();
    })
}

/// Nobody asks meanwhile, as a consumer that waits after an error.
fn member_outage() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 1, 1)?;
    run(TEST, async {
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        broker.publish(keyed("rooms", "one", "1")).await.unwrap();
        rooms.next().await.unwrap().unwrap().ack().await.unwrap();
        for _ in 0..3 {
            cluster.broker_down(-1).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            cluster.broker_up(-1).unwrap();
            broker.check().await.unwrap();
        }
        broker.publish(keyed("rooms", "one", "2")).await.unwrap();
        // The first one may come again: what became of its offset is lost with the group's coordinator.
        loop {
            let delivery = rooms.next().await.unwrap().unwrap();
            let is_last = delivery.message().payload.as_deref() == Some(b"2");
            delivery.ack().await.unwrap();
            if is_last {
                break;
            }
        }
    })
}

/// Behind one name first this cluster, then another: what comes there goes to whichever it is.
async fn name_of(cluster: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let server = cluster.lock().unwrap().clone();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(server).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    name
}

/// A cluster with a topic, behind a name; and what is behind that.
async fn named_cluster() -> (Cluster, Arc<Mutex<String>>, String) {
    let cluster = cluster();
    cluster.create_topic("rooms", 1, 1).unwrap();
    let behind = Arc::new(Mutex::new(cluster.bootstrap_servers()));
    let name = name_of(Arc::clone(&behind)).await;
    (cluster, behind, name)
}

type Receiving = (Result<Option<Delivery>, BrokerError>, Box<dyn Subscription>);

/// The producer comes back, and so does the member. More than once it is told, for one that finds its way by itself looks where it was in
/// the first cluster.
async fn reached_again(broker: &KafkaBroker, receiving: JoinHandle<Receiving>) {
    let publish = async || while broker.publish(keyed("rooms", "one", "3")).await.is_err() {};
    timeout(TEST, publish()).await.expect("the producer does not come back");
    let received = async {
        while !receiving.is_finished() {
            publish().await;
            // The mock cluster forgets the oldest where there are many.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        receiving.await.unwrap()
    };
    let (received, _rooms) = timeout(TEST, received).await.expect("the member does not come back");
    let delivery = received.unwrap().unwrap();
    assert_eq!(delivery.message().payload.as_deref(), Some(&b"3"[..]));
    assert_eq!(delivery.ack().await.unwrap(), Acknowledged::Done);
}

/// A client that never asks its bootstrap servers again, and whose cluster has moved.
fn cut_off() -> Result<(), libtest_mimic::Failed> {
    run(3 * TEST, async {
        let (first, behind, name) = named_cluster().await;
        let broker = crate::builder(&name, true)
            .set("metadata.recovery.strategy", "none")
            .set("message.timeout.ms", "1000")
            .build()
            .unwrap();
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        while broker.publish(keyed("rooms", "one", "1")).await.is_err() {}
        rooms.next().await.unwrap().unwrap().ack().await.unwrap();

        let second = cluster();
        second.create_topic("rooms", 1, 1).unwrap();
        drop(first);
        let receiving = tokio::spawn(async move { (rooms.next().await, rooms) });
        assert!(broker.publish(keyed("rooms", "one", "2")).await.is_err());
        *behind.lock().unwrap() = second.bootstrap_servers();
        reached_again(&broker, receiving).await;
    })
}

/// As a cluster that is starting: it knows its topic, and no broker that is ready. Speaks no more than a client has to hear.
async fn starting() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut client = client;
                while answer(&mut client).await.is_ok() {}
            });
        }
    });
    address
}

/// Of the protocol's first versions: <https://kafka.apache.org/protocol>.
async fn answer(client: &mut TcpStream) -> std::io::Result<()> {
    const METADATA: i16 = 3;
    const API_VERSIONS: i16 = 18;
    const UNSUPPORTED_VERSION: i16 = 35;
    const LEADER_NOT_AVAILABLE: i16 = 5;
    let size = client.read_i32().await?;
    let mut request = vec![0; size as usize];
    client.read_exact(&mut request).await?;
    let (mut request, mut response) = (&request[..], BytesMut::new());
    let (api, version) = (request.get_i16(), request.get_i16());
    response.put_i32(request.get_i32());
    match api {
        API_VERSIONS => {
            response.put_i16(if version == 0 { 0 } else { UNSUPPORTED_VERSION });
            response.put_i32(2);
            for (api, to) in [(METADATA, 1), (API_VERSIONS, 0)] {
                [api, 0, to].into_iter().for_each(|number| response.put_i16(number));
            }
        }
        METADATA => {
            response.put_i32(0); // brokers
            response.put_i32(-1); // controller
            response.put_i32(1); // topics
            response.put_i16(0);
            response.put_i16(5);
            response.put_slice(b"rooms");
            response.put_u8(0);
            response.put_i32(1); // partitions
            response.put_i16(LEADER_NOT_AVAILABLE);
            [0, -1, 0, 0].into_iter().for_each(|number| response.put_i32(number));
        }
        _ => return Err(std::io::ErrorKind::Unsupported.into()),
    }
    client.write_i32(response.len() as i32).await?;
    client.write_all(&response).await
}

/// The client forgets the brokers that it knew, and finds none again by itself.
fn no_brokers() -> Result<(), libtest_mimic::Failed> {
    run(3 * TEST, async {
        let (first, behind, name) = named_cluster().await;
        let broker = crate::builder(&name, true).set("message.timeout.ms", "1000").build().unwrap();
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        while broker.publish(keyed("rooms", "one", "1")).await.is_err() {}
        rooms.next().await.unwrap().unwrap().ack().await.unwrap();

        *behind.lock().unwrap() = starting().await;
        drop(first);
        let receiving = tokio::spawn(async move { (rooms.next().await, rooms) });
        assert!(broker.publish(keyed("rooms", "one", "2")).await.is_err());
        let second = cluster();
        second.create_topic("rooms", 1, 1).unwrap();
        *behind.lock().unwrap() = second.bootstrap_servers();
        reached_again(&broker, receiving).await;
    })
}

fn released() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 1, 1)?;
    run(TEST, async {
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        broker.publish(keyed("rooms", "one", "1")).await.unwrap();
        drop(rooms.next().await.unwrap().unwrap());
        let others_run = pin!(tokio::task::yield_now());
        let dropping = pin!(async {
            for _ in 0..100_000 {
                drop(rooms.next().await.unwrap().unwrap());
            }
        });
        // The second is polled only when the first gives way.
        let first = select(dropping, others_run).await;
        assert!(matches!(first, Either::Right(_)), "it never gave way");
    })
}

fn member_refusal() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 1, 1)?;
    run(TEST, async {
        broker.publish(keyed("rooms", "one", "1")).await.unwrap();
        let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 3];
        cluster.request_errors(RDKafkaApiKey::JoinGroup, &refused);
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        let error = rooms.next().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        // The client asks again every other second. What it hears is queued, as nobody asks.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (mut told, mut received) = (0, 0);
        // What is gathered of them may be told behind the event, which has come meanwhile.
        while received == 0 || told == 0 {
            match rooms.next().await {
                Ok(delivery) => {
                    delivery.unwrap().ack().await.unwrap();
                    received += 1;
                }
                Err(error) => {
                    assert_eq!(error.class(), ErrorClass::Destination, "{error}");
                    told += 1;
                }
            }
        }
        let more = timeout(Duration::from_secs(3), rooms.next()).await;
        assert!(more.is_err(), "of two that were queued both were told, or something came twice: {more:?}");
        assert_eq!((told, received), (1, 1));
    })
}

fn full_queue() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = builder(&cluster).set("queue.buffering.max.messages", "2").build()?;
    run(TEST, async {
        let enqueued = (0..50)
            .map(async |payload| broker.enqueue(&keyed("rooms", "one", payload.to_string())).await)
            .collect::<Vec<_>>();
        let confirms = join_all(enqueued).await.into_iter().map(Result::unwrap);
        for receipt in join_all(confirms).await {
            receipt.unwrap();
        }
    })
}

fn broken_producer() -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    run(TEST, async {
        broker.publish(keyed("rooms", "one", "1")).await.unwrap();
        // What the client cannot explain but by a fault of its own or the broker's: it refuses all work from then on.
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
        );
        let error = broker.publish(keyed("rooms", "one", "2")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Fatal, "{error}");
        broker.publish(keyed("rooms", "one", "3")).await.unwrap();
    })
}

fn refusal() -> Result<(), libtest_mimic::Failed> {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_INVALID_RECORD as INVALID,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as UNAUTHORISED,
    };
    let cluster = cluster();
    let broker = broker(&cluster);
    run(TEST, async {
        for (code, class) in [(INVALID, ErrorClass::Event), (UNAUTHORISED, ErrorClass::Destination)] {
            cluster.request_errors(RDKafkaApiKey::Produce, &[code]);
            let error = broker.publish(keyed("rooms", "one", "1")).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
        while let Err(error) = broker.publish(keyed("rooms", "one", "1")).await {
            assert_eq!(error.class(), ErrorClass::Destination, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

/// Long enough for two requests to be on their way.
const ROUND_TRIP: Duration = Duration::from_millis(300);

/// The broker refuses the first batch of a producer for now, and takes the second one, for it cannot know. The client then takes the
/// first one for taken, too.
fn conclusion(in_session: bool) -> Result<(), libtest_mimic::Failed> {
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 2, 1)?;
    run(TEST, async {
        // By another producer, where each key goes.
        let mut keys = [const { Vec::new() }; 2];
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let at = self::broker(&cluster).publish(keyed("rooms", key, key)).await.unwrap();
            keys[at.partition.unwrap() as usize].push(key);
        }
        let session = in_session.then(|| broker.publish_session().unwrap());
        #[allow(clippy::async_yields_async, reason = "confirms are awaited later")]
        let enqueue = async |key: &'static str| {
            let message = keyed("rooms", key, key);
            match &session {
                Some(session) => session.enqueue(&message, None).unwrap(),
                None => broker.enqueue(&message).await.unwrap(),
            }
        };
        // The producer has its id, and the client knows the topic; of the other partition it knows nothing yet.
        enqueue(keys[1][0]).await.await.unwrap();
        cluster.broker_round_trip_time(1, ROUND_TRIP).unwrap();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            ],
        );
        let first = enqueue(keys[0][0]).await;
        tokio::time::sleep(ROUND_TRIP / 3).await;
        let second = enqueue(keys[0][1]).await;
        second.await.unwrap();
        let error = first.await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    })
}

/// What was refused for now waits in the client, and what was behind it is on its way, when the session ends of something else.
fn session_end() -> Result<(), libtest_mimic::Failed> {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as FOR_NOW,
        RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER as BEHIND_IT,
    };
    let cluster = cluster();
    let broker = broker(&cluster);
    cluster.create_topic("rooms", 1, 1)?;
    run(TEST, async {
        let session = broker.publish_session().unwrap();
        let receipt = session.enqueue(&keyed("rooms", "k", "1"), None).unwrap().await.unwrap();
        cluster.broker_round_trip_time(1, ROUND_TRIP).unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, &[FOR_NOW, BEHIND_IT]);
        let second = session.enqueue(&keyed("rooms", "k", "2"), Some(&receipt)).unwrap();
        tokio::time::sleep(ROUND_TRIP / 2).await;
        let third = session.enqueue(&keyed("rooms", "k", "3"), Some(&receipt)).unwrap();
        tokio::time::sleep(ROUND_TRIP * 2 / 3).await;
        let large = keyed("rooms", "other", vec![b'x'; 1_000_001]);
        assert_eq!(session.enqueue(&large, None).unwrap_err().class(), ErrorClass::Event);
        let outcomes = [second.await, third.await];
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        // Longer than the client waits before it tries again.
        tokio::time::sleep(ROUND_TRIP * 4).await;
        cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
        broker.publish(keyed("rooms", "end", "end")).await.unwrap();
        let mut rooms = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.unwrap();
        let mut arrived = Vec::new();
        while arrived.last().is_none_or(|last| last != "end") {
            let delivery = rooms.next().await.unwrap().unwrap();
            arrived.push(String::from_utf8(delivery.message().payload.clone().unwrap().to_vec()).unwrap());
            delivery.ack().await.unwrap();
        }
        assert_eq!(arrived, ["1", "end"]);
    })
}
