//! What holds without a server.

use std::time::Duration;

use cqrs_broker_amqp::AmqpBroker;
use cqrs_core::broker::{MessageBroker, SubscribeOptions};
use cqrs_core::{ErrorClass, Message};
use libtest_mimic::{Failed, Trial};
use tokio::net::TcpListener;

use crate::{TEST, run};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("offline::nobody_there_is_an_outage", nobody_there),
        Trial::test("offline::it_wants_a_runtime", no_runtime),
        Trial::test("offline::a_bad_url_is_reported_by_build", bad_url),
        Trial::test("offline::a_confirm_timeout_of_zero_is_refused", no_time_to_confirm),
    ]
}

fn nobody_there() -> Result<(), Failed> {
    run(TEST, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://me:hunter2@{}", listener.local_addr().unwrap());
        drop(listener);
        let broker = AmqpBroker::connect(&url).unwrap();
        let outcomes = [
            broker.publish(Message::new("rooms", "")).await.map(drop),
            broker.check().await,
            broker.subscribe(SubscribeOptions::new("g", ["rooms"])).await.map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Outage, "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = broker.subscribe(SubscribeOptions::new("g", [""; 0])).await.map(drop).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Destination, "{error}");
        broker.close().await.unwrap();
        let error = broker.publish(Message::new("rooms", "")).await.unwrap_err();
        assert!(error.to_string().contains("closed"), "{error}");
        broker.close().await.unwrap();
    })
}

fn no_runtime() -> Result<(), Failed> {
    let error = AmqpBroker::connect("amqp://localhost").unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
    Ok(())
}

fn bad_url() -> Result<(), Failed> {
    let builder = AmqpBroker::builder("amqp://me:hunter2@host:x").single_active_consumer(true);
    assert!(!format!("{builder:?}").contains("hunter2"));
    let error = builder.build().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert!(error.to_string().contains("me:***@host"), "{error}");
    Ok(())
}

fn no_time_to_confirm() -> Result<(), Failed> {
    let builder = AmqpBroker::builder("amqp://me:hunter2@localhost").confirm_timeout(Duration::ZERO);
    let error = builder.build().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal);
    assert!(error.to_string().starts_with("the confirm timeout is zero"), "{error}");
    Ok(())
}
