//! A broker that delivers what the test says, when it says so, and writes down what it is told.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_core::broker::{
    Acknowledge, Acknowledged, BrokerError, Capabilities, Confirm, Delivery, DeliveryTag, ErrorClass,
    Receipt, SubscribeOptions, Subscription,
};
use cqrs_core::{Message, MessageBroker};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Log {
    Subscribed,
    Acked(u64),
    Released(u64),
    Published(Box<Message>),
    PublishFailed,
    NextFailed,
    Closed,
}

type Next = Result<Option<(u64, Message, CancellationToken)>, ErrorClass>;

#[derive(Clone, Debug)]
pub(crate) struct Script(Arc<State>);

#[derive(Debug)]
pub(crate) struct State {
    feed: mpsc::UnboundedSender<Next>,
    fed: AsyncMutex<mpsc::UnboundedReceiver<Next>>,
    position: AtomicU64,
    log: Mutex<Vec<(Instant, Log)>>,
    pub(crate) options: Mutex<Option<SubscribeOptions>>,
    refusals: Mutex<VecDeque<ErrorClass>>,
    publish_refusals: Mutex<VecDeque<ErrorClass>>,
    silent: Mutex<usize>,
    pub(crate) close_refusal: Mutex<Option<ErrorClass>>,
}

impl Script {
    pub(crate) fn new() -> Self {
        let (feed, fed) = mpsc::unbounded_channel();
        Self(Arc::new(State {
            feed,
            fed: AsyncMutex::new(fed),
            position: AtomicU64::new(0),
            log: Mutex::default(),
            options: Mutex::default(),
            refusals: Mutex::default(),
            publish_refusals: Mutex::default(),
            silent: Mutex::default(),
            close_refusal: Mutex::default(),
        }))
    }

    /// Delivers messages; their positions count from 0.
    pub(crate) fn deliver(&self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.deliver_one(message);
        }
    }

    /// Delivers a message that can be lost.
    pub(crate) fn deliver_one(&self, message: Message) -> CancellationToken {
        let lost = CancellationToken::new();
        let position = self.position.fetch_add(1, Ordering::Relaxed);
        self.feed.send(Ok(Some((position, message, lost.clone())))).unwrap();
        lost
    }

    pub(crate) fn fail_next(&self, class: ErrorClass) {
        self.feed.send(Err(class)).unwrap();
    }

    pub(crate) fn end(&self) {
        self.feed.send(Ok(None)).unwrap();
    }

    pub(crate) fn refuse_subscribing(&self, classes: impl IntoIterator<Item = ErrorClass>) {
        self.refusals.lock().unwrap().extend(classes);
    }

    pub(crate) fn refuse_publishing(&self, classes: impl IntoIterator<Item = ErrorClass>) {
        self.publish_refusals.lock().unwrap().extend(classes);
    }

    /// The next so many messages are never confirmed.
    pub(crate) fn confirm_nothing(&self, messages: usize) {
        *self.silent.lock().unwrap() = messages;
    }

    pub(crate) fn log(&self) -> Vec<Log> {
        self.log.lock().unwrap().iter().map(|(_, log)| log.clone()).collect()
    }

    pub(crate) fn acked(&self) -> Vec<u64> {
        self.log()
            .into_iter()
            .filter_map(|log| if let Log::Acked(at) = log { Some(at) } else { None })
            .collect()
    }

    pub(crate) fn released(&self) -> Vec<u64> {
        self.log()
            .into_iter()
            .filter_map(|log| if let Log::Released(at) = log { Some(at) } else { None })
            .collect()
    }

    pub(crate) fn published(&self) -> Vec<Message> {
        self.log()
            .into_iter()
            .filter_map(|log| if let Log::Published(m) = log { Some(*m) } else { None })
            .collect()
    }

    /// When these things happened.
    pub(crate) fn times(&self, of: impl Fn(&Log) -> bool) -> Vec<Instant> {
        self.log.lock().unwrap().iter().filter(|(_, log)| of(log)).map(|(at, _)| *at).collect()
    }

    fn write(&self, log: Log) {
        self.log.lock().unwrap().push((Instant::now(), log));
    }
}

#[async_trait]
impl MessageBroker for Script {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("script")
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        {
            let mut silent = self.silent.lock().unwrap();
            if *silent > 0 {
                *silent -= 1;
                return Ok(Confirm::new(std::future::pending()));
            }
        }
        if let Some(class) = self.publish_refusals.lock().unwrap().pop_front() {
            self.write(Log::PublishFailed);
            return Ok(Confirm::ready(Err(refused(class))));
        }
        self.write(Log::Published(Box::new(message.clone())));
        Ok(Confirm::ready(Ok(Receipt::new())))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        if let Some(class) = self.refusals.lock().unwrap().pop_front() {
            return Err(refused(class));
        }
        *self.options.lock().unwrap() = Some(options);
        self.write(Log::Subscribed);
        Ok(Box::new(self.clone()))
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

#[async_trait]
impl Subscription for Script {
    async fn next(&mut self) -> Result<Option<Delivery>, BrokerError> {
        match self.fed.lock().await.recv().await {
            Some(Ok(Some((position, message, lost)))) => {
                let tag = DeliveryTag { epoch: 1, lane: 0, position };
                let adapter = Arc::new(self.clone());
                Ok(Some(Delivery::new(message, 1, tag, adapter).with_lost(lost)))
            }
            Some(Err(class)) => {
                self.write(Log::NextFailed);
                Err(refused(class))
            }
            Some(Ok(None)) | None => Ok(None),
        }
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.write(Log::Closed);
        match self.close_refusal.lock().unwrap().take() {
            Some(class) => Err(refused(class)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Acknowledge for Script {
    async fn ack(&self, tag: DeliveryTag) -> Result<Acknowledged, BrokerError> {
        self.write(Log::Acked(tag.position));
        Ok(Acknowledged::Done)
    }

    fn release(&self, tag: DeliveryTag) {
        self.write(Log::Released(tag.position));
    }
}

fn refused(class: ErrorClass) -> BrokerError {
    BrokerError::new(class, "refused by the script")
}

impl Deref for Script {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}
