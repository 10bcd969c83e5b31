use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::Message;
use cqrs_core::broker::{
    BrokerError, Capabilities, Confirm, ErrorClass, MessageBroker, SubscribeOptions, Subscription,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::publisher::{Publisher, closed};
use crate::subscription::AmqpSubscription;
use crate::topology::{QUEUE_TYPE, SINGLE_ACTIVE_CONSUMER, Topology};
use crate::wire::Outgoing;

/// A RabbitMQ server, or another that speaks AMQP 0-9-1 with RabbitMQ's publisher confirms.
///
/// Cheap to clone: the clones share one connection for publishing. Each subscription has one of its own.
#[derive(Clone)]
pub struct AmqpBroker {
    config: Config,
    publisher: Arc<Publisher>,
    /// Ends the subscriptions.
    closed: CancellationToken,
}

impl AmqpBroker {
    /// A broker from `amqp://[user[:password]@]host[:port][/vhost]`; user and password are `guest` and the port is
    /// 5672 unless given. The vhost is percent-encoded, and `/` if it is left out. Behind a `?` it takes options:
    ///
    /// | option | |
    /// |---|---|
    /// | `confirm_timeout_ms`, `max_message_bytes`, `quorum_queues`, `single_active_consumer` | as the builder's methods of these names |
    /// | `topology` | the path of a file with a [`Topology`] as JSON, which is read at once |
    /// | `heartbeat` | seconds; 10 unless given |
    /// | `connection_timeout`, `channel_max`, `frame_max`, `auth_mechanism` | as in [RabbitMQ's URIs](https://www.rabbitmq.com/docs/uri-query-parameters) |
    ///
    /// It connects in the background, again and again if need be, so that an application can start before its broker;
    /// [`check`](MessageBroker::check) tells whether it is there. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] of class [`ErrorClass::Fatal`] that says what is wrong with the URL, the password masked.
    pub fn connect(url: &str) -> Result<Self, BrokerError> {
        Self::builder(url).build()
    }

    /// A broker with more to say about it than the URL, as for [`connect`](Self::connect).
    pub fn builder(url: &str) -> AmqpBrokerBuilder {
        AmqpBrokerBuilder { config: Config::from_url(url) }
    }
}

impl fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBroker").field("server", &self.config.to_string()).finish_non_exhaustive()
    }
}

#[async_trait]
impl MessageBroker for AmqpBroker {
    /// `orders_by_key` is not among them, because it depends on the subscriptions: see the crate's documentation.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("amqp");
        capabilities.durable = true;
        capabilities.tombstones = true;
        let queue = &self.config.topology.queue;
        capabilities.counts_attempts = queue.arguments.get(QUEUE_TYPE).is_some_and(|kind| kind == "quorum");
        capabilities.max_message_bytes = Some(self.config.max_message_bytes);
        capabilities
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let enqueued = match Outgoing::new(message, &self.config) {
            Ok(outgoing) => self.publisher.enqueue(outgoing).await,
            Err(error) => Err(error),
        };
        enqueued.map_err(|error| error.at(&self.config))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        if self.closed.is_cancelled() {
            return Err(closed().at(&self.config));
        }
        match AmqpSubscription::open(self.config.clone(), options, self.closed.clone()).await {
            Ok(subscription) => Ok(Box::new(subscription)),
            Err(error) => Err(error.at(&self.config)),
        }
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.publisher.check().await.map_err(|error| error.at(&self.config))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.closed.cancel();
        self.publisher.close().await.map_err(|error| error.at(&self.config))
    }
}

/// Makes an [`AmqpBroker`]. Nothing is reported before [`build`](Self::build).
#[must_use = "a builder does nothing until `build`"]
pub struct AmqpBrokerBuilder {
    config: Result<Config, BrokerError>,
}

impl AmqpBrokerBuilder {
    /// Sets the largest payload in bytes. Default 16 MiB, RabbitMQ 4's own limit; a larger message than the server's
    /// `max_message_size` makes it close the channel, so keep this at or below that.
    pub fn max_message_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_message_bytes = bytes)
    }

    /// Sets how long the server may take to confirm a message, before the connection is given up and made anew; more
    /// than zero. Default 6 seconds, which is below the publish time-out of an outbox relay (7 seconds by default).
    pub fn confirm_timeout(self, limit: Duration) -> Self {
        self.with(|config| config.confirm_timeout = limit)
    }

    /// Whether one member of a group at a time receives from a queue, the others standing by: that keeps the order of
    /// a key with any number of members. Default `false`. A property of the queue, fixed when it is first declared.
    pub fn single_active_consumer(self, single: bool) -> Self {
        self.with(|config| {
            config.topology.set_argument(SINGLE_ACTIVE_CONSUMER, single.then_some(true.into()))
        })
    }

    /// Whether queues are quorum queues: replicated, and counting how often a message was delivered. Default `false`,
    /// a durable classic queue. A property of the queue, fixed when it is first declared.
    ///
    /// RabbitMQ 4 drops a message from a quorum queue after 20 deliveries unless a policy says otherwise: set
    /// `delivery-limit`, or a dead-letter exchange.
    pub fn quorum_queues(self, quorum: bool) -> Self {
        self.with(|config| config.topology.set_argument(QUEUE_TYPE, quorum.then_some("quorum".into())))
    }

    /// Sets which exchanges, queues and bindings there are for topics and groups. The two settings above are arguments of
    /// its queue: call them after this, or say them in it.
    pub fn topology(self, topology: Topology) -> Self {
        self.with(|config| config.topology = topology)
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }

    /// Makes the broker, which begins to connect. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// A [`BrokerError`] of class [`ErrorClass::Fatal`] that says what is wrong with the URL, the password masked, with
    /// the settings or the topology, or that there is no runtime.
    pub fn build(self) -> Result<AmqpBroker, BrokerError> {
        let config = self.config?.check()?;
        let runtime = Handle::try_current().map_err(|error| {
            BrokerError::new(
                ErrorClass::Fatal,
                "an AMQP broker connects in the background: make it within a tokio runtime",
            )
            .with_source(error)
        })?;
        let publisher = Arc::new(Publisher::spawn(config.clone(), &runtime));
        Ok(AmqpBroker { config, publisher, closed: CancellationToken::new() })
    }
}

impl fmt::Debug for AmqpBrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.config.as_ref().map(Config::to_string);
        f.debug_struct("AmqpBrokerBuilder").field("server", &server).finish_non_exhaustive()
    }
}
