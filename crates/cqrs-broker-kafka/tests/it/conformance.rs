//! The suite that every broker passes.

use std::sync::Arc;

use async_trait::async_trait;
use cqrs_broker_kafka::KafkaBroker;
use cqrs_core::{BrokerError, MessageBroker};
use cqrs_testing::broker::{self, BrokerUnderTest, Settings};

use crate::builder;

/// A cluster that makes topics by itself, for those who ask for it.
struct Kafka {
    servers: String,
    mock: bool,
}

#[async_trait]
impl BrokerUnderTest for Kafka {
    async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError> {
        Ok(Arc::new(builder(&self.servers, self.mock).build()?))
    }

    async fn open_without(&self, _topic: &str) -> Result<Option<Arc<dyn MessageBroker>>, BrokerError> {
        let builder = KafkaBroker::builder().bootstrap_servers(&self.servers);
        Ok(Some(Arc::new(builder.set("allow.auto.create.topics", "false").build()?)))
    }
}

/// The rows that a mock cluster is equal to, and that say what the scenarios here do not. With several members in a
/// group it will not do: it takes no commit during a rebalance. Each new group costs it three seconds.
const MOCK: &[&[&str]] = &[
    &["envelope", "formats", "headers", "keys", "payloads"],
    &["prefetch", "lost", "cancelled-next", "stale-tag"],
    &["closed", "publisher-closed", "oversize", "missing-destination", "no-destination"],
    &["session-order", "session-gap", "session-abort"],
];

pub(crate) const MOCK_PARTS: usize = MOCK.len();

pub(crate) async fn mock_conforms(servers: String, part: usize) {
    let mut settings = Settings::default();
    settings.only = MOCK[part].iter().map(|row| (*row).to_owned()).collect();
    judge(Kafka { servers, mock: true }, settings).await;
}

pub(crate) async fn conforms(servers: String) {
    judge(Kafka { servers, mock: false }, Settings::default()).await;
}

async fn judge(kafka: Kafka, settings: Settings) {
    let report = broker::run(&kafka, &settings).await;
    println!("{report}");
    report.assert_passed();
}
