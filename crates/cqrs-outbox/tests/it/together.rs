//! Several events of a key with the broker at the same time, by the relay itself, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::broker::{
    BrokerError, Capabilities, Confirm, PublishSession, Receipt, SubscribeOptions, Subscription,
};
use cqrs_core::{BeginTransaction, ErrorKind, Message, MessageBroker, Transaction};
use cqrs_outbox::{LaterEvents, MemoryOutbox, OutboxRelay, RelaySettings};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

const EVENTS: usize = 300;
const LARGE: usize = 150;

/// A broker whose confirms take a while, and that counts.
#[derive(Debug)]
struct Slow {
    broker: MemoryBroker,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    alone: AtomicUsize,
    sessions: AtomicUsize,
    in_session: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    aborted: AtomicUsize,
}

#[derive(Debug)]
struct SlowSession {
    session: Arc<dyn PublishSession>,
    counts: Arc<Counts>,
}

struct Waiting(Arc<Counts>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PublishSession for SlowSession {
    fn enqueue(&self, message: &Message, after: Option<&Receipt>) -> Result<Confirm, BrokerError> {
        let confirm = self.session.enqueue(message, after)?;
        let counts = Arc::clone(&self.counts);
        counts.in_session.fetch_add(1, Ordering::Relaxed);
        let now = counts.now.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most.fetch_max(now, Ordering::Relaxed);
        assert!(after.is_some() || now == 1, "the first of a key in a session is not alone");
        Ok(Confirm::new(async move {
            let _waiting = Waiting(counts);
            sleep(Duration::from_millis(5)).await;
            confirm.await
        }))
    }

    fn abort(&self) {
        self.counts.aborted.fetch_add(1, Ordering::Relaxed);
        self.session.abort();
    }
}

#[async_trait]
impl MessageBroker for Slow {
    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        self.counts.alone.fetch_add(1, Ordering::Relaxed);
        self.broker.enqueue(message).await
    }

    fn publish_session(&self) -> Result<Arc<dyn PublishSession>, BrokerError> {
        self.counts.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(SlowSession {
            session: self.broker.publish_session()?,
            counts: Arc::clone(&self.counts),
        }))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.broker.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        self.broker.check().await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}

struct Bench {
    outbox: MemoryOutbox,
    broker: Arc<Slow>,
}

impl Bench {
    /// With events of one key.
    async fn new(broker: MemoryBroker) -> Self {
        let outbox = MemoryOutbox::new();
        let mut tx = outbox.begin().await.unwrap();
        let messages = (0..EVENTS).map(|number| {
            let mut message = Message::new("t", format!("{number:0width$}", width = width(number)));
            message.key = Some("key".into());
            message.id = Some(Uuid::from_u128(number as u128 + 1).into());
            message.name = "numbered".to_owned();
            message.into()
        });
        tx.write(messages.collect()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(outbox.waiting(), EVENTS);
        Self { outbox, broker: Arc::new(Slow { broker, counts: Arc::default() }) }
    }

    fn relay(&self) -> OutboxRelay {
        let mut settings = RelaySettings::default();
        settings.max_in_flight_per_key = 10;
        settings.later_events = LaterEvents::GoOn;
        settings.max_attempts = 2;
        OutboxRelay::builder(Arc::new(self.outbox.clone()), Arc::clone(&self.broker) as _)
            .settings(settings)
            .build()
            .unwrap()
    }

    fn count(&self, of: fn(&Counts) -> &AtomicUsize) -> usize {
        of(&self.broker.counts).load(Ordering::Relaxed)
    }

    /// What arrived, without what had arrived before; and how often something came again.
    async fn arrived(&self) -> (Vec<usize>, usize) {
        let mut messages = self.broker.subscribe(SubscribeOptions::new("g", ["t"])).await.unwrap();
        let (mut first, mut again) = (Vec::new(), 0);
        while let Ok(delivery) = timeout(Duration::from_secs(1), messages.next()).await {
            let delivery = delivery.unwrap().unwrap();
            let payload = delivery.message().payload.clone().unwrap();
            let number = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            delivery.ack().await.unwrap();
            if first.contains(&number) {
                again += 1;
            } else {
                first.push(number);
            }
        }
        (first, again)
    }
}

/// One of them is larger than the others.
fn width(number: usize) -> usize {
    if number == LARGE { 2_000 } else { 1 }
}

fn all() -> Vec<usize> {
    (0..EVENTS).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_backlog_goes_as_fast_as_it_may() {
    let bench = Bench::new(MemoryBroker::new()).await;
    let relay = bench.relay();
    relay.run_until_empty().await.unwrap();
    assert_eq!(bench.arrived().await, (all(), 0));
    assert_eq!(bench.count(|counts| &counts.sessions), 1);
    assert_eq!(bench.count(|counts| &counts.in_session), EVENTS - 1, "only the first goes before");
    assert_eq!(bench.count(|counts| &counts.most), 10);
}

/// Waits until so many went into sessions.
async fn in_session(bench: &Bench, at_least: usize) {
    while bench.count(|counts| &counts.in_session) < at_least {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_confirm_what_was_in_the_session_goes_again_one_by_one() {
    let bench = Bench::new(MemoryBroker::new()).await;
    let relay = bench.relay();
    let lose = async {
        in_session(&bench, 50).await;
        bench.broker.broker.faults().lose_confirms(1);
    };
    tokio::join!(async { relay.run_until_empty().await.unwrap() }, lose);
    let (arrived, again) = bench.arrived().await;
    assert_eq!(arrived, all());
    assert!((1..=10).contains(&again), "{again} came again");
    assert_eq!(bench.count(|counts| &counts.sessions), 2);
    assert_eq!(
        bench.count(|counts| &counts.alone),
        1 + 10,
        "the first, and what was in the session that failed"
    );
    assert!(bench.count(|counts| &counts.in_session) > EVENTS / 2, "it did not go on in the next session");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_answer_is_given_up() {
    let bench = Bench::new(MemoryBroker::new()).await;
    let relay = bench.relay();
    let stall = async {
        in_session(&bench, 50).await;
        let faults = bench.broker.broker.faults();
        faults.hold_confirms();
        sleep(Duration::from_secs(20)).await;
        assert!(bench.count(|counts| &counts.aborted) > 0, "a client may go on trying");
        assert_eq!(bench.count(|counts| &counts.now), 0, "what was in the session is still waited for");
        faults.release_confirms();
    };
    tokio::join!(async { relay.run_until_empty().await.unwrap() }, stall);
    let (arrived, again) = bench.arrived().await;
    assert_eq!(arrived, all());
    assert!((1..=20).contains(&again), "{again} came again");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_refuses_ends_one_session_and_nothing_overtakes_it() {
    let bench = Bench::new(MemoryBroker::builder().max_message_bytes(1_000).build()).await;
    let relay = bench.relay();
    let stop = async {
        while bench.outbox.waiting() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    relay.run_until(stop).await.unwrap();
    let (arrived, again) = bench.arrived().await;
    assert_eq!(arrived, all().into_iter().filter(|number| *number != LARGE).collect::<Vec<_>>());
    assert_eq!(again, 0, "what was not sent came again");
    let dead = bench.outbox.dead_letters();
    assert_eq!(dead.iter().map(|letter| letter.row.attempts).collect::<Vec<_>>(), [2]);
    assert_eq!(bench.count(|counts| &counts.sessions), 2, "one for each attempt, and more");
}

#[test]
fn a_broker_without_sessions_is_refused() {
    #[derive(Debug)]
    struct Without(MemoryBroker);

    #[async_trait]
    impl MessageBroker for Without {
        fn capabilities(&self) -> Capabilities {
            Capabilities::new("without")
        }

        async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
            self.0.enqueue(message).await
        }

        async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
            self.0.subscribe(options).await
        }

        async fn check(&self) -> Result<(), BrokerError> {
            self.0.check().await
        }

        async fn close(&self) -> Result<(), BrokerError> {
            self.0.close().await
        }
    }

    let mut settings = RelaySettings::default();
    settings.max_in_flight_per_key = 2;
    let broker = Arc::new(Without(MemoryBroker::new()));
    let relay =
        OutboxRelay::builder(Arc::new(MemoryOutbox::new()), broker.clone()).settings(settings).build();
    let error = relay.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`max_in_flight_per_key` at 1"), "{error}");
    let error = broker.publish_session().unwrap_err();
    assert!(error.to_string().contains("`without` has no publish sessions"), "{error}");
}
