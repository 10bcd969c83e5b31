//! A server of this test's own, which is killed, restarted and paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_broker_amqp::AmqpBroker;
use cqrs_core::broker::{MessageBroker, SubscribeOptions};
use cqrs_core::{BrokerError, ErrorClass, Message};
use cqrs_testing::broker::{self, BrokerUnderTest, Settings};
use cqrs_testing::services::{Server, Service, trial_with_own};
use libtest_mimic::{Failed, Trial};

use crate::{SUITE, TEST, run, unique};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        private("restarts_lose_nothing", |server| run(SUITE, restarts(server))),
        private("silence_is_not_waited_for", |server| run(TEST, silence(server))),
    ]
}

fn private(name: &str, test: fn(Arc<Server>) -> Result<(), Failed>) -> Trial {
    trial_with_own(&[Service::Amqp], &[Service::Amqp], format!("private::{name}"), move || {
        test(Arc::new(Server::start(Service::Amqp)?))
    })
}

/// Killed the first time, restarted in order the second time.
struct Private {
    server: Arc<Server>,
    restarts: AtomicUsize,
}

#[async_trait]
impl BrokerUnderTest for Private {
    async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError> {
        Ok(Arc::new(AmqpBroker::connect(self.server.url())?))
    }

    async fn restart(&self) -> Result<bool, BrokerError> {
        let (server, first) = (Arc::clone(&self.server), self.restarts.fetch_add(1, Ordering::Relaxed) == 0);
        let restarted = tokio::task::spawn_blocking(move || {
            if first { server.kill().and_then(|()| server.start_again()) } else { server.restart() }
        });
        restarted.await.unwrap().map_err(|why| BrokerError::new(ErrorClass::Fatal, why))?;
        Ok(true)
    }
}

async fn restarts(server: Arc<Server>) {
    let mut settings = Settings::default();
    settings.only = vec!["restart".to_owned()];
    settings.messages = 10_000;
    // The adapter tries to connect again every ten seconds at the longest.
    settings.arrival = Duration::from_secs(60);
    let report = broker::run(&Private { server, restarts: AtomicUsize::new(0) }, &settings).await;
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}

async fn silence(server: Arc<Server>) {
    let topic = unique("cqrs-it-silence");
    let broker =
        AmqpBroker::builder(server.url()).confirm_timeout(Duration::from_millis(500)).build().unwrap();
    let mut member = broker.subscribe(SubscribeOptions::new("g", [topic.as_str()])).await.unwrap();
    broker.publish(Message::new(&topic, "1")).await.unwrap();
    member.next().await.unwrap().unwrap().ack().await.unwrap();
    server.pause().unwrap();
    let error = broker.publish(Message::new(&topic, "2")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    let error = broker.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    server.resume().unwrap();
    while broker.publish(Message::new(&topic, "3")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The second is unknown: it may have arrived.
    loop {
        match member.next().await {
            Ok(delivery) => {
                let delivery = delivery.unwrap();
                let last = delivery.message().payload.as_deref() == Some(b"3");
                delivery.ack().await.unwrap();
                if last {
                    return;
                }
            }
            Err(error) => assert_eq!(error.class(), ErrorClass::Outage, "{error}"),
        }
    }
}
