//! The suite that every broker passes.

use std::sync::Arc;

use async_trait::async_trait;
use cqrs_broker_amqp::AmqpBroker;
use cqrs_core::{BrokerError, MessageBroker};
use cqrs_testing::broker::{self, BrokerUnderTest, Settings};

/// A server, and the kind of queues to use on it.
struct Amqp {
    url: String,
    quorum: bool,
}

#[async_trait]
impl BrokerUnderTest for Amqp {
    async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError> {
        Ok(Arc::new(AmqpBroker::builder(&self.url).quorum_queues(self.quorum).build()?))
    }

    /// Publishing makes the exchange, but nobody's queue: that is the missing destination.
    async fn open_without(&self, _topic: &str) -> Result<Option<Arc<dyn MessageBroker>>, BrokerError> {
        self.open().await.map(Some)
    }
}

pub(crate) async fn conforms(url: String, quorum: bool) {
    let report = broker::run(&Amqp { url, quorum }, &Settings::default()).await;
    println!("{report}");
    report.assert_passed();
}
