//! Receiving: a connection of its own for each subscription, made anew when it is lost.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::{
    Acknowledge, Acknowledged, BrokerError, Delivery, DeliveryTag, ErrorClass, SubscribeOptions, Subscription,
};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::declare;
use crate::error::{too_long, undeclared};
use crate::topology::{Declare, Topology};
use crate::wire;

/// How long declaring everything, and the farewell of a connection, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a consumer received; `None` for a topic: it ended.
type Received = Option<(String, lapin::Result<lapin::message::Delivery>)>;

pub(crate) struct AmqpSubscription {
    config: Config,
    options: SubscribeOptions,
    /// The broker was closed.
    closed: CancellationToken,
    session: Option<Session>,
    epoch: u64,
    backoff: Backoff,
    again: Instant,
}

/// A connection and its consumers. Dropping it ends them.
struct Session {
    received: SelectAll<BoxStream<'static, Received>>,
    link: Arc<Link>,
    keeper: JoinHandle<lapin::Result<()>>,
}

/// The way back of the deliveries of one connection.
struct Link {
    epoch: u64,
    channel: Channel,
    lost: CancellationToken,
    releases: mpsc::UnboundedSender<u64>,
}

#[async_trait]
impl Acknowledge for Link {
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        if tag.epoch != self.epoch || self.lost.is_cancelled() {
            return Ok(Acknowledged::Stale);
        }
        match self.channel.basic_ack(tag.position, BasicAckOptions::default()).await {
            Ok(()) => Ok(Acknowledged::Done),
            Err(error) => {
                tracing::debug!(%error, "an acknowledgement found its connection gone");
                self.lost.cancel();
                Ok(Acknowledged::Stale)
            }
        }
    }

    fn release(&self, tag: DeliveryTag) {
        if tag.epoch == self.epoch {
            // An error: the connection is gone, and the broker delivers the message again by itself.
            let _ = self.releases.send(tag.position);
        }
    }
}

/// Owns the connection: hands releases to the broker, and closes when the session is over.
async fn keep(
    connection: Connection,
    channel: Channel,
    lost: CancellationToken,
    mut releases: mpsc::UnboundedReceiver<u64>,
) -> lapin::Result<()> {
    let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    loop {
        tokio::select! {
            biased;
            () = lost.cancelled() => break,
            Some(position) = releases.recv() => {
                if let Err(error) = channel.basic_nack(position, requeue).await {
                    tracing::debug!(%error, "a release found its connection gone");
                    lost.cancel();
                }
            }
        }
    }
    connection.close(200, "closed".into()).await
}

impl Session {
    async fn open(
        config: &Config,
        options: &SubscribeOptions,
        epoch: u64,
        lost: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let names = names(options, &config.topology)?;
        let connection = config.open(&options.group).await?;
        let setting_up = set_up(&connection, &config.topology, options, &names);
        let (channel, received) = timeout(PATIENCE, setting_up).await.unwrap_or_else(|_| {
            Err(BrokerError::new(
                ErrorClass::Outage,
                format!(
                    "RabbitMQ did not set up the queues of `{}` within {PATIENCE:?}: see that it is up",
                    options.group
                ),
            ))
        })?;
        let (releases, receiver) = mpsc::unbounded_channel();
        let keeper = tokio::spawn(keep(connection, channel.clone(), lost.clone(), receiver));
        Ok(Self { received, link: Arc::new(Link { epoch, channel, lost, releases }), keeper })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.link.lost.cancel();
    }
}

/// What there is for a topic, by the names that go over the wire.
struct Names {
    topic: String,
    exchange: ShortString,
    queue: ShortString,
    binding: ShortString,
}

fn names(options: &SubscribeOptions, topology: &Topology) -> Result<Vec<Names>, BrokerError> {
    let SubscribeOptions { group, topics, .. } = options;
    options.check()?;
    let long = |name: String| too_long(ErrorClass::Destination, format!("the name `{name}`"));
    topics
        .iter()
        .map(|topic| {
            Ok(Names {
                topic: topic.clone(),
                exchange: topology.exchange_of(topic).map_err(long)?,
                queue: topology.queue_of(group, topic).map_err(long)?,
                binding: topology.binding_of(group, topic).map_err(long)?,
            })
        })
        .collect()
}

async fn set_up(
    connection: &Connection,
    topology: &Topology,
    options: &SubscribeOptions,
    names: &[Names],
) -> Result<(Channel, SelectAll<BoxStream<'static, Received>>), BrokerError> {
    let group = &options.group;
    let failed = |error| undeclared(format!("the channel of `{group}`"), error);
    let channel = connection.create_channel().await.map_err(failed)?;
    // For each consumer, because quorum queues know no limit for a channel.
    let share = u16::try_from((options.prefetch / names.len()).max(1)).unwrap_or(u16::MAX);
    channel.basic_qos(share, BasicQosOptions::default()).await.map_err(failed)?;
    declare::besides(&channel, topology).await?;
    let mut received = SelectAll::new();
    for Names { topic, exchange, queue, binding } in names {
        declare::exchange(&channel, &topology.exchange, exchange).await?;
        declare::queue(&channel, &topology.queue, queue).await?;
        if topology.queue.declare == Declare::Actively {
            declare::binding(&channel, queue, exchange, binding.clone(), &topology.binding.arguments).await?;
        }
        let (tag, consume) = (ShortString::default(), BasicConsumeOptions::default());
        let consumer = channel
            .basic_consume(queue.clone(), tag, consume, FieldTable::default())
            .await
            .map_err(|error| undeclared(format!("the queue `{queue}`"), error))?;
        let topic = topic.clone();
        let deliveries = consumer.map(move |delivery| Some((topic.clone(), delivery)));
        // A consumer ends by itself when its queue is deleted; the others would go on as if nothing had happened.
        received.push(deliveries.chain(stream::once(async { None })).boxed());
    }
    Ok((channel, received))
}

impl AmqpSubscription {
    pub(crate) async fn open(
        config: Config,
        options: SubscribeOptions,
        closed: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let session = Session::open(&config, &options, 1, closed.child_token()).await?;
        let (backoff, again) = (Backoff::new(), Instant::now());
        Ok(Self { config, options, closed, session: Some(session), epoch: 1, backoff, again })
    }

    async fn receive(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            let Some(session) = &mut self.session else {
                sleep_until(self.again).await;
                self.again = Instant::now() + self.backoff.next();
                self.epoch += 1;
                let lost = self.closed.child_token();
                self.session = Some(Session::open(&self.config, &self.options, self.epoch, lost).await?);
                continue;
            };
            let received = tokio::select! {
                received = session.received.next() => received.flatten(),
                // An acknowledgement or a release saw it first.
                () = session.link.lost.cancelled() => None,
            };
            match received {
                Some((topic, Ok(delivery))) => {
                    let link = Arc::clone(&session.link);
                    self.backoff.reset();
                    return Ok(to_delivery(topic, delivery, link));
                }
                Some((_, Err(error))) => self.end_session(&error.to_string()),
                None => self.end_session("a queue was deleted, or the connection ended"),
            }
        }
    }

    fn end_session(&mut self, why: &str) {
        tracing::warn!(group = self.options.group, "the AMQP consumer connects again: {why}");
        self.session = None;
        self.again = Instant::now() + self.backoff.next();
    }
}

#[async_trait]
impl Subscription for AmqpSubscription {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        let closed = self.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => Ok(None),
            next = self.receive() => next.map(Some).map_err(|error| error.at(&self.config)),
        }
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        session.link.lost.cancel();
        let failed = |why: String| {
            Err(BrokerError::new(
                ErrorClass::Outage,
                format!(
                    "the group `{}` was not left in order: {why}; messages may come again",
                    self.options.group
                ),
            ))
        };
        match timeout(PATIENCE, &mut session.keeper).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => failed(error.to_string()),
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => {
                session.keeper.abort();
                failed(format!("no answer within {PATIENCE:?}"))
            }
        }
    }
}

fn to_delivery(topic: String, delivery: lapin::message::Delivery, link: Arc<Link>) -> Delivery {
    let attempt = wire::attempt(&delivery.properties, delivery.redelivered);
    let lane = u64::from(link.channel.id());
    let tag = DeliveryTag { epoch: link.epoch, lane, position: delivery.delivery_tag };
    let lost = link.lost.clone();
    let message = wire::to_message(topic, &delivery.properties, delivery.data);
    Delivery::new(message, attempt, tag, link).with_lost(lost)
}
