use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::{
    BrokerError, Capabilities, Confirm, ErrorClass, MessageBroker, PublishSession, SubscribeOptions,
    Subscription,
};
use cqrs_core::{Message, without_password};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::consumer::KafkaSubscription;
use crate::producer::Producer;

/// How long [`check`](MessageBroker::check) waits for the cluster's answer.
const CHECK: Duration = Duration::from_secs(5);

/// A Kafka cluster.
///
/// Cheap to clone: the clones share one producer. Each subscription has a consumer of its own.
#[derive(Clone)]
pub struct KafkaBroker {
    config: Config,
    producer: Arc<Producer>,
    /// Ends the subscriptions.
    closed: CancellationToken,
}

impl KafkaBroker {
    /// A broker from `kafka://host[:port][,host[:port]..][?librdkafka.option=value[&..]]`; the port is 9092 unless
    /// given, and values are percent-encoded.
    ///
    /// It does not wait for the cluster, so that an application can start before it;
    /// [`check`](MessageBroker::check) tells whether it is there.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] of class [`ErrorClass::Fatal`] that names everything that is wrong with the URL. It never
    /// repeats a password.
    pub fn connect(url: &str) -> Result<Self, BrokerError> {
        let config = Config::from_url(url).map_err(|error| error.at(without_password(url)))?;
        KafkaBrokerBuilder { config }.build()
    }

    /// A broker with settings from somewhere else than a URL.
    pub fn builder() -> KafkaBrokerBuilder {
        KafkaBrokerBuilder { config: Config::default() }
    }
}

impl fmt::Debug for KafkaBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBroker")
            .field("bootstrap_servers", &self.config.servers())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MessageBroker for KafkaBroker {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("kafka");
        capabilities.orders_by_key = true;
        capabilities.replays = true;
        capabilities.durable = true;
        capabilities.tombstones = true;
        capabilities.publish_sessions = true;
        capabilities.max_message_bytes = Some(self.config.max_message_bytes());
        capabilities
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        self.producer.enqueue(message).await.map_err(|error| error.at(&self.config))
    }

    fn publish_session(&self) -> Result<Arc<dyn PublishSession>, BrokerError> {
        let session = self.producer.open_session().map_err(|error| error.at(&self.config))?;
        Ok(Arc::new(session))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        let joined = match self.producer.client() {
            Ok(_) => KafkaSubscription::join(self.config.clone(), options, self.closed.clone()).await,
            Err(closed) => Err(closed),
        };
        match joined {
            Ok(subscription) => Ok(Box::new(subscription)),
            Err(mut error) => {
                // Nothing else tells a refused login from a cluster that does not answer.
                if error.class() == ErrorClass::Outage
                    && let Err(refusal) = self.producer.refused_login()
                {
                    error = refusal;
                }
                Err(error.at(&self.config))
            }
        }
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.producer.check(CHECK).await.map_err(|error| error.at(&self.config))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.closed.cancel();
        self.producer.close().await.map_err(|error| error.at(&self.config))
    }
}

/// Makes a [`KafkaBroker`]. Nothing is checked before [`build`](Self::build).
#[must_use = "a builder does nothing until `build`"]
pub struct KafkaBrokerBuilder {
    config: Config,
}

impl KafkaBrokerBuilder {
    /// Sets the brokers to ask first: `host[:port]`, separated by commas. The port is 9092 unless given.
    pub fn bootstrap_servers(mut self, servers: impl Into<String>) -> Self {
        self.config.set_servers(servers.into());
        self
    }

    /// Sets a [property of librdkafka](https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md),
    /// for the producer and the consumers. Those that would break a promise of this adapter (`acks`,
    /// `enable.idempotence`, `enable.auto.commit` and the like) are refused by [`build`](Self::build).
    pub fn set(mut self, property: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.set(property.into(), value.into());
        self
    }

    /// Makes the broker. It does not wait for the cluster.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] of class [`ErrorClass::Fatal`] that names everything that is wrong with the settings.
    pub fn build(self) -> Result<KafkaBroker, BrokerError> {
        let place = self.config.to_string();
        let config = self.config.check().map_err(|error| error.at(&place))?;
        let producer = Producer::new(config.clone()).map_err(|error| error.at(&place))?;
        Ok(KafkaBroker { producer, config, closed: CancellationToken::new() })
    }
}

impl fmt::Debug for KafkaBrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBrokerBuilder")
            .field("bootstrap_servers", &self.config.servers())
            .finish_non_exhaustive()
    }
}
