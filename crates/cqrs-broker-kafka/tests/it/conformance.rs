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

pub(crate) async fn conforms(servers: String, mock: bool) {
    let report = broker::run(&Kafka { servers, mock }, &Settings::default()).await;
    println!("{report}");
    report.assert_passed();
}
