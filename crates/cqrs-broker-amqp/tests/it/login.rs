//! Who may come in, and what else may listen there.

use cqrs_broker_amqp::AmqpBroker;
use cqrs_core::broker::{MessageBroker, SubscribeOptions};
use cqrs_core::{BrokerError, ErrorClass, Message};
use cqrs_testing::services::{Service, trial};
use lapin::uri::AMQPUri;
use libtest_mimic::Trial;
use tokio::io::AsyncWriteExt;

use crate::{TEST, run};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(Service::Amqp, "real::a_wrong_password_is_a_refused_login", |url| run(TEST, password(url))),
        trial(Service::Amqp, "real::a_missing_vhost_is_a_refused_login", |url| run(TEST, vhost(url))),
        Trial::test("offline::a_server_of_another_kind", || run(TEST, other())),
    ]
}

async fn errors(url: &str) -> [BrokerError; 3] {
    let broker = AmqpBroker::connect(url).unwrap();
    let checked = broker.check().await.unwrap_err();
    let subscribed = broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.map(drop).unwrap_err();
    let published = broker.publish(Message::new("rooms", "")).await.unwrap_err();
    broker.close().await.unwrap();
    [checked, subscribed, published]
}

fn address(url: &str) -> String {
    let uri: AMQPUri = url.parse().unwrap();
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

async fn password(url: String) {
    let uri: AMQPUri = url.parse().unwrap();
    let wrong = format!("amqp://{}:hunter2@{}", uri.authority.userinfo.username, address(&url));
    for error in errors(&wrong).await {
        assert_eq!(error.class(), ErrorClass::Login, "{error}");
        let text = error.to_string();
        assert!(text.contains(&address(&url)) && text.contains("the password"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

async fn vhost(url: String) {
    let base = url.trim_end_matches('/');
    for error in errors(&format!("{base}/cqrs-no-such-vhost")).await {
        assert_eq!(error.class(), ErrorClass::Login, "{error}");
        let text = error.to_string();
        assert!(text.contains("/cqrs-no-such-vhost") && text.contains("vhost exists"), "{text}");
    }
}

async fn other() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    for error in errors(&format!("amqp://me:hunter2@{address}")).await {
        assert_eq!(error.class(), ErrorClass::Outage, "{error}");
        let text = error.to_string();
        assert!(text.contains(&address) && !text.contains("hunter2"), "{text}");
    }
}
