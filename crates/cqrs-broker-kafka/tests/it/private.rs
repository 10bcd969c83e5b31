//! A cluster of this test's own, which is killed, restarted and paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use cqrs_core::broker::MessageBroker;
use cqrs_core::{BrokerError, ErrorClass};
use cqrs_testing::broker::{self, BrokerUnderTest, Settings};
use cqrs_testing::services::{Server, Service, trial_with_own};
use libtest_mimic::{Failed, Trial};

use crate::scenarios::keyed;
use crate::{SUITE, TEST, builder, run, unique};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        private("restarts_lose_nothing", |server| run(SUITE, restarts(server))),
        private("silence_is_not_waited_for", |server| run(TEST, silence(server))),
    ]
}

fn private(name: &str, test: fn(Arc<Server>) -> Result<(), Failed>) -> Trial {
    trial_with_own(&[Service::Kafka], &[Service::Kafka], format!("private::{name}"), move || {
        test(Arc::new(Server::start(Service::Kafka)?))
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
        Ok(Arc::new(builder(self.server.url(), false).build()?))
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
    // The row sends 10,000 messages, and a cluster is back after some seconds.
    settings.messages = 10_000;
    settings.arrival = std::time::Duration::from_secs(60);
    let report = broker::run(&Private { server, restarts: AtomicUsize::new(0) }, &settings).await;
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}

async fn silence(server: Arc<Server>) {
    let broker = builder(server.url(), false).set("message.timeout.ms", "1500").build().unwrap();
    let topic = unique("cqrs-it-silence");
    while broker.publish(keyed(&topic, "one", "1")).await.is_err() {}
    server.pause().unwrap();
    let error = broker.publish(keyed(&topic, "one", "2")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error}");
    let error = broker.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Outage, "{error}");
    assert!(error.to_string().contains(server.url()), "{error}");
    server.resume().unwrap();
    while broker.publish(keyed(&topic, "one", "3")).await.is_err() {}
    // The client may wait longer before it connects again than `check` waits for it.
    while broker.check().await.is_err() {}
}
