//! The in-memory broker with a fault of the asked-for kind wrapped around it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, mem};

use async_trait::async_trait;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::broker::{
    Acknowledge, Acknowledged, Capabilities, Confirm, Delivery, DeliveryTag, PublishSession, Receipt,
    SubscribeOptions, Subscription,
};
use cqrs_core::{BrokerError, ErrorClass, Message, MessageBroker};
use cqrs_testing::broker::BrokerUnderTest;
use tokio::time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None: what is wrapped still passes.
    None,
    DropsHeader(&'static str),
    LosesKey,
    CutsPayload(usize),
    FillsTombstones,
    LosesOneIn(usize),
    CrossTalk,
    /// `enqueue` of every seventh message does not fix its order: it is sent when the confirm is awaited.
    SendsLate,
    ReleaseIsAck,
    AckIsRelease,
    FirstAckIsRelease,
    ReleasesToTheEnd,
    AttemptIsOne,
    IgnoresPrefetch,
    StaleIsDone,
    /// A stale tag acknowledges the message that was delivered again.
    StaleAcks,
    NeverLost,
    TakesBeforeItWaits,
    OneGroupOnly,
    SendsTwice,
    KeepsNothing,
    /// Fetches a few messages ahead, and acknowledges them when it has fetched them.
    AcksInAdvance,
    AcksOnClose,
    OkAfterClose,
    SendsAfterClose,
    AlwaysWell,
    ForgetsInRestart,
    SwallowsOversize,
    HidesLimit,
    SwallowsUnroutable,
    SwallowsNameless,
    NamelessGroup,
    NamelessTopic,
    NoPrefetch,
    /// Every seventh message of a session goes behind the next one.
    SessionSwaps,
    /// A session takes more after one was refused.
    SessionGoesOn,
    /// And after it was aborted.
    SessionCannotBeAborted,
    NeverConfirms,
    HangsInOpen,
    PanicsInOpen,
    AsksToSkip(&'static str),
}

/// What the suite gets to test.
pub(crate) struct Adapter {
    server: MemoryBroker,
    /// `None` is the in-memory broker as it is.
    fault: Option<Fault>,
    /// Subscriptions that never acknowledge: with them the in-memory broker keeps all for later groups.
    archive: Mutex<Vec<Box<dyn Subscription>>>,
    forgets: Arc<AtomicBool>,
}

impl Adapter {
    pub(crate) fn memory() -> Self {
        Self {
            server: MemoryBroker::builder().max_message_bytes(200_000).build(),
            fault: None,
            archive: Mutex::default(),
            forgets: Arc::default(),
        }
    }

    /// A wrapped one, which claims everything, so that no row is skipped.
    pub(crate) fn faulty(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::memory() }
    }

    fn wrap(&self, connection: MemoryBroker) -> Arc<dyn MessageBroker> {
        match self.fault {
            None => Arc::new(connection),
            Some(fault) => Arc::new(Faulty {
                other: self.server.connect(),
                inner: connection,
                fault,
                forgets: Arc::clone(&self.forgets),
                held: Arc::new(Held { fault, server: self.server.connect(), deliveries: Mutex::default() }),
                sent: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                topics: Mutex::default(),
                groups: Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl BrokerUnderTest for Adapter {
    async fn open(&self) -> Result<Arc<dyn MessageBroker>, BrokerError> {
        match self.fault {
            Some(Fault::HangsInOpen) => future::pending().await,
            Some(Fault::PanicsInOpen) => panic!("asked to"),
            _ => Ok(self.wrap(self.server.connect())),
        }
    }

    async fn topic(&self, wanted: &str) -> Result<String, BrokerError> {
        if self.fault.is_some_and(|fault| fault != Fault::KeepsNothing) {
            let options = SubscribeOptions::new("archive", [wanted]);
            let subscription = self.server.subscribe(options).await?;
            self.archive.lock().unwrap().push(subscription);
        }
        Ok(wanted.to_owned())
    }

    async fn open_without(&self, _topic: &str) -> Result<Option<Arc<dyn MessageBroker>>, BrokerError> {
        Ok(Some(self.wrap(MemoryBroker::builder().declared_topics_only(["another"]).build())))
    }

    async fn restart(&self) -> Result<bool, BrokerError> {
        self.server.faults().disconnect();
        self.forgets.store(self.fault == Some(Fault::ForgetsInRestart), Ordering::SeqCst);
        Ok(true)
    }

    fn skip(&self, row: &str) -> Option<String> {
        (self.fault == Some(Fault::AsksToSkip("keys")) && row == "keys").then(|| "asked to".to_owned())
    }
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryBroker,
    /// A connection that is not closed with this one.
    other: MemoryBroker,
    fault: Fault,
    forgets: Arc<AtomicBool>,
    held: Arc<Held>,
    sent: AtomicUsize,
    closed: AtomicBool,
    /// The topics that were published to, for cross-talk.
    topics: Mutex<Vec<String>>,
    /// The topics that have a group.
    groups: Mutex<HashSet<String>>,
}

#[async_trait]
impl MessageBroker for Faulty {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.durable = true;
        capabilities.replays = true;
        capabilities
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let ok = || Ok(Confirm::ready(Ok(Receipt::new())));
        match self.fault {
            Fault::LosesOneIn(n) if number.is_multiple_of(n) => return ok(),
            Fault::ForgetsInRestart if self.forgets.swap(false, Ordering::SeqCst) => return ok(),
            Fault::NeverConfirms => return Ok(Confirm::new(future::pending())),
            Fault::SendsLate if number.is_multiple_of(7) => {
                let (inner, message) = (self.inner.clone(), message.clone());
                return Ok(Confirm::new(async move { inner.publish(message).await }));
            }
            Fault::SendsTwice if number.is_multiple_of(10) => {
                self.inner.publish(message.clone()).await?;
            }
            Fault::CrossTalk if !message.topic.is_empty() => {
                let elsewhere = self.elsewhere(&message.topic);
                if let Some(topic) = elsewhere {
                    let mut astray = message.clone();
                    astray.topic = topic;
                    self.inner.publish(astray).await?;
                }
            }
            Fault::OkAfterClose if self.closed.load(Ordering::SeqCst) => return ok(),
            Fault::SendsAfterClose if self.closed.load(Ordering::SeqCst) => {
                self.other.publish(message.clone()).await?;
            }
            _ => {}
        }
        match self.inner.enqueue(message).await {
            Err(error) if error.class() == ErrorClass::Event => match self.fault {
                Fault::SwallowsOversize => ok(),
                Fault::HidesLimit => Err(BrokerError::new(ErrorClass::Event, "too large")),
                _ => Err(error),
            },
            Err(_) if self.fault == Fault::SwallowsNameless && message.topic.is_empty() => ok(),
            Ok(confirm) if self.fault == Fault::SwallowsUnroutable => {
                Ok(Confirm::new(async move { confirm.await.or(Ok(Receipt::new())) }))
            }
            outcome => outcome,
        }
    }

    fn publish_session(&self) -> Result<Arc<dyn PublishSession>, BrokerError> {
        Ok(Arc::new(FaultySession {
            broker: self.inner.clone(),
            inner: Mutex::new(self.inner.publish_session()?),
            fault: self.fault,
            sent: AtomicUsize::new(0),
            late: Mutex::default(),
        }))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        let SubscribeOptions { topics, .. } = &options;
        if self.fault == Fault::OneGroupOnly {
            options.check()?;
            let mut groups = self.groups.lock().unwrap();
            let group = |topic: &String| format!("{topic} {}", options.group);
            let known = topics.iter().any(|topic| groups.contains(&group(topic)));
            let others = topics.iter().any(|topic| groups.contains(topic));
            if others && !known {
                return Ok(Box::new(Deaf));
            }
            groups.extend(topics.iter().cloned());
            groups.extend(topics.iter().map(group));
        }
        let mut options = match self.fault {
            Fault::IgnoresPrefetch if options.prefetch > 0 => options.with_prefetch(1_000),
            Fault::NoPrefetch if options.prefetch == 0 => options.with_prefetch(1),
            _ => options,
        };
        if self.fault == Fault::NamelessGroup && options.group.is_empty() {
            "nameless".clone_into(&mut options.group);
        }
        if self.fault == Fault::NamelessTopic {
            options.topics.retain(|topic| !topic.is_empty());
            if options.topics.is_empty() {
                options.topics.push("nameless".to_owned());
            }
        }
        Ok(Box::new(FaultySubscription {
            inner: self.inner.subscribe(options).await?,
            fault: self.fault,
            held: Arc::clone(&self.held),
            fetched: VecDeque::new(),
        }))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        if self.fault == Fault::AlwaysWell { Ok(()) } else { self.inner.check().await }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.held.closes().await?;
        self.closed.store(true, Ordering::SeqCst);
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FaultySession {
    broker: MemoryBroker,
    inner: Mutex<Arc<dyn PublishSession>>,
    fault: Fault,
    sent: AtomicUsize,
    late: Mutex<Option<Message>>,
}

impl PublishSession for FaultySession {
    fn enqueue(&self, message: &Message, after: Option<&Receipt>) -> Result<Confirm, BrokerError> {
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let mut inner = self.inner.lock().unwrap();
        if self.fault == Fault::SessionSwaps && number.is_multiple_of(7) {
            *self.late.lock().unwrap() = Some(message.clone());
            return Ok(Confirm::ready(Ok(Receipt::new())));
        }
        let confirm = inner.enqueue(message, after);
        if let Some(late) = self.late.lock().unwrap().take() {
            drop(inner.enqueue(&late, after)?);
        }
        if confirm.is_err() && self.fault == Fault::SessionGoesOn {
            *inner = self.broker.publish_session()?;
        }
        confirm
    }

    fn abort(&self) {
        if self.fault != Fault::SessionCannotBeAborted {
            self.inner.lock().unwrap().abort();
        }
    }
}

impl Faulty {
    /// Another topic that this connection published to.
    fn elsewhere(&self, topic: &str) -> Option<String> {
        let mut topics = self.topics.lock().unwrap();
        if !topics.iter().any(|known| known == topic) {
            topics.push(topic.to_owned());
        }
        topics.iter().find(|known| *known != topic).cloned()
    }
}

/// A subscription to which nothing comes.
struct Deaf;

#[async_trait]
impl Subscription for Deaf {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        future::pending().await
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}

struct FaultySubscription {
    inner: Box<dyn Subscription>,
    fault: Fault,
    held: Arc<Held>,
    fetched: VecDeque<Delivery>,
}

#[async_trait]
impl Subscription for FaultySubscription {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        if self.fault == Fault::AcksInAdvance {
            return self.next_acknowledged().await;
        }
        let Some(delivery) = self.inner.next().await? else { return Ok(None) };
        if self.fault == Fault::TakesBeforeItWaits {
            time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Some(self.held.wrap(delivery)))
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.held.closes().await?;
        self.inner.close().await
    }
}

impl FaultySubscription {
    async fn next_acknowledged(&mut self) -> Result<Option<Delivery>, BrokerError> {
        while self.fetched.len() < 5 {
            let next = if self.fetched.is_empty() {
                self.inner.next().await?
            } else {
                tokio::select! {
                    biased;
                    next = self.inner.next() => next?,
                    () = future::ready(()) => break,
                }
            };
            let Some(delivery) = next else { break };
            let acknowledged = Arc::new(AlwaysDone);
            let ours =
                Delivery::new(delivery.message().clone(), delivery.attempt(), delivery.tag(), acknowledged)
                    .with_lost(delivery.lost().clone());
            delivery.ack().await?;
            self.fetched.push_back(ours);
        }
        Ok(self.fetched.pop_front())
    }
}

struct AlwaysDone;

#[async_trait]
impl Acknowledge for AlwaysDone {
    async fn ack(&self, _tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        Ok(Acknowledged::Done)
    }

    fn release(&self, _tag: DeliveryTag) {}
}

/// The deliveries of the in-memory broker that stand behind those of this connection.
#[derive(Debug)]
struct Held {
    fault: Fault,
    server: MemoryBroker,
    deliveries: Mutex<HashMap<DeliveryTag, Delivery>>,
}

impl Held {
    fn wrap(self: &Arc<Self>, delivery: Delivery) -> Delivery {
        let mut message = delivery.message().clone();
        match self.fault {
            Fault::DropsHeader(name) => message.headers.remove(name),
            Fault::LosesKey => message.key = None,
            Fault::FillsTombstones if message.payload.is_none() => message.payload = Some("".into()),
            Fault::CutsPayload(length) => {
                if let Some(payload) = &mut message.payload {
                    payload.truncate(length);
                }
            }
            _ => {}
        }
        let attempt = if self.fault == Fault::AttemptIsOne { 1 } else { delivery.attempt() };
        let tag = delivery.tag();
        let adapter: Arc<dyn Acknowledge> = Arc::<Self>::clone(self);
        let ours = Delivery::new(message, attempt, tag, adapter);
        let ours = match self.fault {
            Fault::NeverLost => ours,
            _ => ours.with_lost(delivery.lost().clone()),
        };
        self.deliveries.lock().unwrap().insert(tag, delivery);
        ours
    }

    async fn closes(&self) -> Result<(), BrokerError> {
        let held = match self.fault {
            Fault::AcksOnClose => mem::take(&mut *self.deliveries.lock().unwrap()),
            _ => HashMap::new(),
        };
        for (_, delivery) in held {
            delivery.ack().await?;
        }
        Ok(())
    }

    fn take(&self, tag: DeliveryTag) -> Option<Delivery> {
        self.deliveries.lock().unwrap().remove(&tag)
    }

    /// Another delivery of the same message.
    fn take_twin(&self, message: &Message) -> Option<Delivery> {
        let mut deliveries = self.deliveries.lock().unwrap();
        let (tag, _) = deliveries.iter().find(|(_, delivery)| delivery.message() == message)?;
        let tag = *tag;
        deliveries.remove(&tag)
    }
}

#[async_trait]
impl Acknowledge for Held {
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        let Some(delivery) = self.take(tag) else { return Ok(Acknowledged::Stale) };
        let first = delivery.attempt() == 1;
        if self.fault == Fault::AckIsRelease || (self.fault == Fault::FirstAckIsRelease && first) {
            delivery.release();
            return Ok(Acknowledged::Done);
        }
        let message = delivery.message().clone();
        let acknowledged = delivery.ack().await?;
        match (self.fault, acknowledged) {
            (Fault::StaleIsDone, Acknowledged::Stale) => Ok(Acknowledged::Done),
            (Fault::StaleAcks, Acknowledged::Stale) => {
                if let Some(twin) = self.take_twin(&message) {
                    twin.ack().await?;
                }
                Ok(Acknowledged::Stale)
            }
            _ => Ok(acknowledged),
        }
    }

    fn release(&self, tag: DeliveryTag) {
        let Some(delivery) = self.take(tag) else { return };
        match self.fault {
            Fault::ReleaseIsAck => drop(tokio::spawn(delivery.ack())),
            Fault::ReleasesToTheEnd if !delivery.lost().is_cancelled() => {
                let (server, message) = (self.server.clone(), delivery.message().clone());
                tokio::spawn(async move {
                    let _ = server.publish(message).await;
                    delivery.ack().await
                });
            }
            _ => delivery.release(),
        }
    }
}
