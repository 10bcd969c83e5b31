//! Who may come in. The real cluster has a second listener with SASL/PLAIN, for its user `cqrs`.

use cqrs_broker_kafka::KafkaBroker;
use cqrs_core::broker::{MessageBroker, SubscribeOptions};
use cqrs_core::{BrokerError, ErrorClass};
use cqrs_testing::services::{Service, trial};
use libtest_mimic::Trial;

use crate::scenarios::keyed;
use crate::{TEST, run, unique};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(Service::KafkaSasl, "real::the_right_password_comes_in", |servers| run(TEST, right(servers))),
        trial(Service::KafkaSasl, "real::a_wrong_password_is_a_refused_login", |servers| {
            run(TEST, wrong(servers))
        }),
        trial(Service::KafkaSasl, "real::no_login_where_one_is_wanted", |servers| run(TEST, none(servers))),
        trial(Service::Kafka, "real::a_login_where_none_is_known", |servers| run(TEST, unknown(servers))),
        Trial::test("offline::a_server_of_another_kind", || run(TEST, other())),
    ]
}

fn with_password(servers: &str, password: &str) -> KafkaBroker {
    let login = format!(
        "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=cqrs&sasl.password={password}"
    );
    KafkaBroker::connect(&format!("kafka://{servers}?allow.auto.create.topics=true&{login}")).unwrap()
}

fn assert_names(error: &BrokerError, servers: &str) {
    let text = error.to_string();
    assert!(text.contains(servers), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

async fn right(servers: String) {
    let broker = with_password(&servers, "secret");
    broker.check().await.unwrap();
    broker.publish(keyed(&unique("cqrs-it-login"), "one", "1")).await.unwrap();
}

async fn wrong(servers: String) {
    let broker = with_password(&servers, "hunter2");
    let error = broker.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Login, "{error}");
    assert!(error.to_string().contains("`sasl.password`"), "{error}");
    assert_names(&error, &servers);
    let error = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.err().unwrap();
    assert_eq!(error.class(), ErrorClass::Login, "{error}");
    assert_names(&error, &servers);
    assert!(broker.publish(keyed("rooms", "one", "1")).await.is_err());
}

/// To a client that does not log in, the listener says nothing.
async fn none(servers: String) {
    let broker = KafkaBroker::connect(&format!("kafka://{servers}")).unwrap();
    let error = broker.check().await.unwrap_err();
    assert!(matches!(error.class(), ErrorClass::Outage | ErrorClass::Login), "{error}");
    assert_names(&error, &servers);
}

async fn unknown(servers: String) {
    let broker = with_password(&servers, "hunter2");
    let error = broker.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Login, "{error}");
    assert_names(&error, &servers);
}

/// Something listens that is no Kafka: it takes the connection, and says what a client of Kafka does not understand.
async fn other() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let _ = connection.try_write(b"220 mail.example ESMTP\r\n");
        }
    });
    let broker = KafkaBroker::connect(&format!("kafka://{servers}")).unwrap();
    let error = broker.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    assert_names(&error, &servers);
}
