//! Receiving: a member of a consumer group.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cqrs_core::broker::{
    Acknowledge, Acknowledged, BrokerError, Delivery, DeliveryTag, ErrorClass, SubscribeOptions, Subscription,
};
use futures_util::FutureExt;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::{sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{code, failed, passes, refused};
use crate::log::log;
use crate::trouble::Trouble;
use crate::watch::{Watch, reaches};
use crate::watermark::Lanes;
use crate::{blocking, record};

/// How long to wait for the cluster's answer on topics, and for the last commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a topic may be unknown before it counts as missing; as for the producer.
const PROPAGATION: Duration = Duration::from_secs(2);

/// How long a member that is full goes without polling, before it pauses its partitions and polls all the same.
const FULL: Duration = Duration::from_secs(1);

/// How long to wait before a client that is beyond repair is replaced.
const REJOIN: Duration = Duration::from_secs(1);

type Client = StreamConsumer<Member>;

/// What the member, its rebalances and its deliveries share.
#[derive(Default)]
struct Shared {
    lanes: Mutex<Lanes>,
    /// A message was acknowledged or released, or the client was found to be cut off.
    changed: Notify,
    cut_off: AtomicBool,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of rebalances, on the thread that polls.
struct Member(Arc<Shared>);

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Member {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(Code::NoOffset)) => {}
            Err(error) if passes(code(&error)) => tracing::debug!(%error, "offsets were not committed"),
            Err(error) => log(
                RDKafkaLogLevel::Warning,
                "COMMIT",
                &format!("offsets were not committed, and messages may come again: {error}"),
            ),
        }
    }

    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.0.lanes().assign(pairs(&partitions.elements())),
            Rebalance::Revoke(partitions) => {
                // So that no acknowledgement is answered `Done` behind the commit, which the client does as it gives them away. To wait
                // for it here would be for ever where the cluster is gone.
                self.0.lanes().revoke(pairs(&partitions.elements()));
                self.0.changed.notify_one();
            }
            Rebalance::Error(error) => {
                tracing::warn!(%error, "a rebalance failed");
                self.0.lanes().revoke_all();
                self.0.changed.notify_one();
            }
        }
    }
}

fn pairs<'a>(
    elements: &'a [rdkafka::topic_partition_list::TopicPartitionListElem<'_>],
) -> impl Iterator<Item = (&'a str, i32)> {
    elements.iter().map(|element| (element.topic(), element.partition()))
}

/// Commits the stored offsets; there being none is no error.
fn commit(client: &Client) -> KafkaResult<()> {
    match client.commit_consumer_state(CommitMode::Sync) {
        Err(KafkaError::ConsumerCommit(Code::NoOffset)) => Ok(()),
        outcome => outcome,
    }
}

/// The way back of the deliveries of one client. It does not keep the client alive.
struct Acks {
    shared: Arc<Shared>,
    client: Weak<Client>,
}

#[async_trait]
impl Acknowledge for Acks {
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        let Some(client) = self.client.upgrade() else { return Ok(Acknowledged::Stale) };
        let outcome = {
            // Held while the offset is stored, so that two acknowledgements cannot store theirs in the wrong order.
            let mut lanes = self.shared.lanes();
            let Some(done) = lanes.ack(tag) else { return Ok(Acknowledged::Stale) };
            let mut offsets = TopicPartitionList::new();
            offsets
                .add_partition_offset(done.topic, done.partition, Offset::Offset(done.position))
                .and_then(|()| client.store_offsets(&offsets))
        };
        self.shared.changed.notify_one();
        match outcome {
            Ok(()) => Ok(Acknowledged::Done),
            // The partition has just gone to another member.
            Err(KafkaError::StoreOffset(Code::State | Code::UnknownPartition)) => Ok(Acknowledged::Stale),
            Err(error) => Err(failed(ErrorClass::Unknown, "an offset was not stored", error)),
        }
    }

    fn release(&self, tag: DeliveryTag) {
        self.shared.lanes().release(tag);
        self.shared.changed.notify_one();
    }
}

pub(crate) struct KafkaSubscription {
    config: Config,
    options: SubscribeOptions,
    /// The broker was closed.
    closed: CancellationToken,
    shared: Arc<Shared>,
    /// `None` after a fatal error, until the next call.
    client: Option<(Arc<Client>, Arc<Acks>)>,
    paused: bool,
    /// Since when it is full, if it is, and its partitions are not paused.
    full_since: Option<Instant>,
    /// When a client may follow one that was beyond repair.
    rejoin_at: Option<Instant>,
    trouble: Trouble,
    /// From when the client has lost all brokers until it receives something.
    watch: Option<Watch>,
}

impl KafkaSubscription {
    pub(crate) async fn join(
        config: Config,
        options: SubscribeOptions,
        closed: CancellationToken,
    ) -> Result<Self, BrokerError> {
        options.check()?;
        let mut member = Self {
            config,
            options,
            closed,
            shared: Arc::default(),
            client: None,
            paused: false,
            full_since: None,
            rejoin_at: None,
            trouble: Trouble::default(),
            watch: None,
        };
        let client = member.client()?;
        let topics = member.options.topics.clone();
        let client = blocking::run(move || {
            topics.iter().try_for_each(|topic| check_topic(&client, topic))?;
            Ok(client)
        })
        .await?;
        member.enter(client)?;
        Ok(member)
    }

    fn client(&self) -> Result<Arc<Client>, BrokerError> {
        let member = Member(Arc::clone(&self.shared));
        self.config.consumer(&self.options.group, self.options.start_from, member).map(Arc::new)
    }

    fn enter(&mut self, client: Arc<Client>) -> Result<(), BrokerError> {
        let topics: Vec<_> = self.options.topics.iter().map(String::as_str).collect();
        client.subscribe(&topics).map_err(|error| {
            failed(ErrorClass::Destination, format!("`{}` was not subscribed to", topics.join("`, `")), error)
        })?;
        let acks = Acks { shared: Arc::clone(&self.shared), client: Arc::downgrade(&client) };
        self.paused = false;
        self.client = Some((client, Arc::new(acks)));
        Ok(())
    }

    /// Takes in what the client received, a message or what there is to tell.
    fn take_in(&mut self, received: KafkaResult<BorrowedMessage<'_>>) -> Result<(), BrokerError> {
        let now = Instant::now();
        match received {
            Ok(message) => {
                self.watch = None;
                let (partition, offset) = (message.partition(), message.offset());
                self.shared.lanes().receive(record::to_message(&message), partition, offset);
                Ok(())
            }
            Err(KafkaError::PartitionEOF(_)) => Ok(()),
            Err(error) if passes(code(&error)) => {
                if code(&error) == Code::AllBrokersDown && self.watch.as_ref().is_none_or(Watch::is_over) {
                    self.watch = self.watch();
                }
                if self.trouble.is_news(code(&error), now) {
                    tracing::warn!(
                        %error, group = self.options.group, broker = %self.config,
                        "the Kafka consumer goes on after an error, as soon as it can"
                    );
                }
                Ok(())
            }
            Err(error) => {
                let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
                let class = if fatal { ErrorClass::Fatal } else { refused(code(&error)) };
                let error =
                    failed(class, format!("the group `{}` does not receive", self.options.group), error);
                if class == ErrorClass::Fatal {
                    self.rejoin_at = Some(now + REJOIN);
                    self.leave();
                    return Err(error);
                }
                self.trouble.add(error, now);
                Ok(())
            }
        }
    }

    /// Somebody looks whether the client comes back.
    fn watch(&self) -> Option<Watch> {
        let client = self.client.as_ref().map(|(client, _)| Arc::downgrade(client))?;
        let shared = Arc::clone(&self.shared);
        Watch::begin(
            &self.config,
            self.options.topics.first()?,
            move |topic| Some(reaches(client.upgrade()?.client(), topic)),
            move || {
                shared.cut_off.store(true, Ordering::Release);
                shared.changed.notify_one();
            },
        )
    }

    fn leave(&mut self) {
        self.watch = None;
        if let Some(error) = self.trouble.take() {
            tracing::warn!(%error, broker = %self.config, "a Kafka consumer leaves with something amiss");
        }
        self.full_since = None;
        self.shared.lanes().revoke_all();
        // What the old client is still called back about is no affair of the next one's partitions.
        self.shared = Arc::default();
        if let Some((client, _)) = self.client.take() {
            blocking::discard(client);
        }
    }

    fn has_room(&self) -> bool {
        self.shared.lanes().held() < self.options.prefetch
    }

    async fn receive(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(error) = self.trouble.tell(Instant::now()) {
                return Err(error);
            }
            if self.shared.cut_off.swap(false, Ordering::AcqRel) {
                tracing::warn!(
                    group = self.options.group, broker = %self.config,
                    "a Kafka consumer has lost the cluster for good, which others reach: it is replaced, and messages may come again"
                );
                self.leave();
            }
            let Some((client, acks)) = self.client.clone() else {
                // Here and below, of one that is asked again and again the time goes on.
                sleep_until(self.rejoin_at.unwrap_or_else(Instant::now).into()).await;
                self.rejoin_at = Some(Instant::now() + REJOIN);
                let client = self.client()?;
                self.enter(client)?;
                // It may be cut off before it was ever connected, and then no error says so.
                self.watch = self.watch();
                continue;
            };
            // Also when something waits: messages that are released again and again must not keep a rebalance out.
            if self.has_room()
                && let Some(received) = client.recv().now_or_never()
            {
                self.take_in(received)?;
            }
            let handed = self.shared.lanes().take();
            if let Some(handed) = handed {
                return Ok(
                    Delivery::new(handed.message, handed.attempt, handed.tag, acks).with_lost(handed.lost)
                );
            }
            self.wait(&client).await?;
        }
    }

    /// Waits until there is something to look at again: a message, room, a release, or an error that is to be told.
    async fn wait(&mut self, client: &Client) -> Result<(), BrokerError> {
        let shared = Arc::clone(&self.shared);
        let tell_at = self.trouble.tell_at();
        let changed = async {
            match tell_at {
                Some(at) => drop(timeout_at(at.into(), shared.changed.notified()).await),
                None => shared.changed.notified().await,
            }
        };
        if self.has_room() {
            self.full_since = None;
            if self.paused {
                self.apply(client, Consumer::resume)?;
                self.paused = false;
            }
            tokio::select! {
                () = changed => Ok(()),
                received = client.recv() => self.take_in(received),
            }
        } else if !self.paused {
            let pause_at = *self.full_since.get_or_insert_with(Instant::now) + FULL;
            if timeout_at(pause_at.into(), changed).await.is_err() {
                self.apply(client, Consumer::pause)?;
                self.paused = true;
            }
            Ok(())
        } else {
            tokio::select! {
                () = changed => Ok(()),
                received = client.recv() => {
                    self.take_in(received)?;
                    // A partition that came with a rebalance is not paused yet.
                    self.apply(client, Consumer::pause)
                }
            }
        }
    }

    fn apply(
        &self,
        client: &Client,
        act: fn(&Client, &TopicPartitionList) -> KafkaResult<()>,
    ) -> Result<(), BrokerError> {
        client
            .assignment()
            .and_then(|partitions| act(client, &partitions))
            .map_err(|error| failed(ErrorClass::Outage, "the partitions were not paused or resumed", error))
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        // Messages that are released at once come again at once: a loop over them must let other tasks run.
        coop::consume_budget().await;
        let closed = self.closed.clone();
        // No branch loses a message: what was received and not handed out stays with the member.
        tokio::select! {
            biased;
            () = closed.cancelled() => {}
            next = self.receive() => return next.map(Some).map_err(|error| error.at(&self.config)),
        }
        self.leave();
        Ok(None)
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        self.watch = None;
        self.shared.lanes().revoke_all();
        let Some((client, _)) = self.client.take() else { return Ok(()) };
        let group = self.options.group.clone();
        blocking::run_within(PATIENCE, &format!("the group `{group}` was not left"), move || {
            let committed = commit(&client).map_err(|error| {
                failed(ErrorClass::Outage, format!("the last offsets of `{group}` were not committed"), error)
            });
            blocking::drop_last(client);
            committed
        })
        .await
        .map_err(|error| error.at(&self.config))
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Blocks. A topic that is just being made is not known everywhere, and has no leader, for a moment.
fn check_topic(client: &Client, topic: &str) -> Result<(), BrokerError> {
    let unknown = |class, error| failed(class, format!("the topic `{topic}` cannot be subscribed to"), error);
    let deadline = Instant::now() + PROPAGATION;
    loop {
        let metadata = client
            .fetch_metadata(Some(topic), PATIENCE)
            .map_err(|error| unknown(refused(code(&error)), error))?;
        match metadata.topics().iter().find_map(|topic| topic.error()).map(Code::from) {
            None | Some(Code::NoError) => return Ok(()),
            Some(Code::UnknownTopicOrPartition | Code::LeaderNotAvailable) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Some(code) => return Err(unknown(refused(code), KafkaError::MetadataFetch(code))),
        }
    }
}
