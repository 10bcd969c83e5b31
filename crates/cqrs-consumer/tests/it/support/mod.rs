mod broker;
mod database;

use std::sync::Arc;
use std::time::Duration;

use cqrs_consumer::{Consumer, ConsumerBuilder, RetryPolicy};
use cqrs_core::codec::Json;
use cqrs_core::{
    Codec, Context, EventEmitter, EventHandler, EventMap, EventMediator, IntegrationEvent, Message,
    NotificationEvent, Result,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use broker::{Log, Script};
pub(crate) use database::{Ledger, LedgerDb, LedgerTx};

pub(crate) const TOPIC: &str = "rooms";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, NotificationEvent)]
#[event(name = "room_closed", topic = "rooms")]
pub(crate) struct RoomClosed {
    pub(crate) n: u32,
}

/// The message of an event as a publisher makes it.
pub(crate) fn message(n: u32, key: Option<&str>) -> Message {
    let mut message = Message::new(TOPIC, serde_json::to_vec(&RoomClosed { n }).unwrap());
    message.name = "room_closed".into();
    message.id = Some(format!("id-{n}").as_str().into());
    message.key = key.map(|key| key.to_owned().into());
    Json.encode(message).unwrap()
}

pub(crate) fn undecodable(key: Option<&str>) -> Message {
    let mut message = message(0, key);
    message.payload = Some("{".into());
    message
}

/// A handler made of a closure.
pub(crate) struct On<F>(pub(crate) F);

impl<F, O> EventHandler<RoomClosed> for On<F>
where
    F: Fn(u32) -> O + Send + Sync + 'static,
    O: Future<Output = Result<()>> + Send,
{
    async fn handle(&self, event: &RoomClosed, _: &Context<'_>) -> Result<()> {
        (self.0)(event.n).await
    }
}

pub(crate) fn mediator(map: EventMap) -> EventMediator {
    EventMediator::new(EventEmitter::new(map)).unwrap()
}

pub(crate) fn on<F, O>(handler: F) -> EventMediator
where
    F: Fn(u32) -> O + Send + Sync + 'static,
    O: Future<Output = Result<()>> + Send,
{
    mediator(EventMap::new().subscribe::<RoomClosed>(RoomClosed::TOPIC, On(handler)))
}

/// No jitter and a delay of one second, so that the clock tells what happened.
pub(crate) fn retry() -> RetryPolicy {
    RetryPolicy::default()
        .with_first_delay(Duration::from_secs(1))
        .with_factor(2.0)
        .with_max_delay(Duration::from_secs(60))
        .with_jitter(0.0)
        .with_max_attempts(3)
}

pub(crate) fn consumer(broker: &Script, events: EventMediator) -> ConsumerBuilder {
    Consumer::builder(Arc::new(broker.clone()), "billing").events(events).retry(retry())
}

/// A consumer that runs in a task of its own.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

pub(crate) fn run(consumer: &Consumer) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let consumer = consumer.clone();
    Running { stop, task: tokio::spawn(async move { consumer.run_until(stopped).await }) }
}

impl Running {
    pub(crate) async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(self) -> Result<()> {
        self.task.await.unwrap()
    }

    /// Drops the future where it stands.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Waits until it holds; on a paused clock this takes no time, and ten minutes of that clock are the limit.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("it never came to hold");
}

/// Lets everything run that can run now.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_micros(1)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
