//! The relay itself, from an outbox in memory to a broker in memory, on a paused clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::broker::{BrokerError, Capabilities, Confirm, SubscribeOptions, Subscription};
use cqrs_core::{BeginTransaction, ErrorClass, Message, MessageBroker, Transaction};
use cqrs_outbox::{
    Confirmed, Fenced, Heartbeat, Lane, LaterEvents, Lease, MemoryOutbox, OutboxRelay, OutboxRow,
    OutboxStore, Ownership, ReadRequest, Rejection, RelayId, RelaySettings, StoreError, Unordered,
};
use cqrs_testing::history::History;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// A broker that notes what it took.
#[derive(Debug)]
pub(crate) struct Noting {
    broker: MemoryBroker,
    history: History,
    publishes: AtomicUsize,
    /// When it took each event.
    taken: Mutex<HashMap<Uuid, Instant>>,
    /// How long each publish takes.
    latency: Duration,
    /// Notified with the hundredth publish.
    hundred: Notify,
    /// What the next checks are answered with.
    checks: Mutex<Vec<ErrorClass>>,
}

#[async_trait]
impl MessageBroker for Noting {
    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        if self.publishes.fetch_add(1, Ordering::Relaxed) == 99 {
            self.hundred.notify_one();
        }
        let event = message.id.as_ref().and_then(|id| id.to_uuid()).unwrap();
        let key = message.key.clone();
        if !self.latency.is_zero() {
            sleep(self.latency).await;
        }
        let confirm = self.broker.enqueue(message).await?;
        self.history.delivered(event, key);
        self.taken.lock().unwrap().insert(event, Instant::now());
        Ok(confirm)
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.broker.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        let answer = self.checks.lock().unwrap().pop();
        match answer {
            Some(class) => Err(BrokerError::new(class, "no")),
            None => self.broker.check().await,
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}

pub(crate) struct Bench {
    pub(crate) outbox: MemoryOutbox,
    pub(crate) broker: Arc<Noting>,
    pub(crate) history: History,
    written: u128,
}

impl Bench {
    pub(crate) fn new(broker: MemoryBroker) -> Self {
        Self::with_latency(broker, Duration::ZERO)
    }

    fn with_latency(broker: MemoryBroker, latency: Duration) -> Self {
        let history = History::new();
        let broker = Noting {
            broker,
            history: history.clone(),
            publishes: AtomicUsize::new(0),
            taken: Mutex::default(),
            latency,
            hundred: Notify::new(),
            checks: Mutex::default(),
        };
        Self { outbox: MemoryOutbox::new(), broker: Arc::new(broker), history, written: 0 }
    }

    /// Commits so many events of 32 keys, five to a transaction.
    pub(crate) async fn write(&mut self, events: usize) {
        for _ in 0..events / 5 {
            let messages = (0..5).map(|_| self.message(".")).collect();
            self.commit(messages).await;
        }
    }

    fn message(&mut self, payload: impl Into<Bytes>) -> Message {
        self.written += 1;
        let (event, key) =
            (Uuid::from_u128(self.written), Bytes::from(format!("key {}", self.written * 7 % 32)));
        self.history.committed(key.clone(), event, self.written as u64);
        let mut message = Message::new("t", payload);
        message.id = Some(event.into());
        message.key = Some(key);
        message
    }

    async fn commit(&self, messages: Vec<Message>) {
        let mut tx = self.outbox.begin().await.unwrap();
        tx.write(messages.into_iter().map(Into::into).collect()).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) fn relay(&self, settings: RelaySettings) -> OutboxRelay {
        OutboxRelay::builder(Arc::new(self.outbox.clone()), Arc::clone(&self.broker) as _)
            .settings(settings)
            .build()
            .unwrap()
    }

    /// A relay that runs until it is told to stop.
    fn start(&self, settings: RelaySettings) -> (Arc<Notify>, JoinHandle<()>) {
        let relay = self.relay(settings);
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let task =
            tokio::spawn(
                async move { relay.run_until(async move { stopped.notified().await }).await.unwrap() },
            );
        (stop, task)
    }

    pub(crate) async fn drained(&self) {
        while self.outbox.waiting() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn publishes(&self) -> usize {
        self.broker.publishes.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_events_of_32_keys_arrive_in_order() {
    let mut bench = Bench::new(MemoryBroker::new());
    bench.write(1_000).await;
    let relay = bench.relay(RelaySettings::default());
    relay.run_until_empty().await.unwrap();
    bench.history.check().assert_clean().assert_duplicates_at_most(0);
    assert_eq!(bench.outbox.waiting(), 0);
    let stats = relay.stats();
    assert_eq!((stats.published, stats.settled, stats.in_memory), (1_000, 1_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_for_a_minute_costs_a_few_probes() {
    let mut bench = Bench::new(MemoryBroker::new());
    let faults = bench.broker.broker.faults();
    let (stop, task) = bench.start(RelaySettings::default());
    bench.write(100).await;
    bench.drained().await;
    faults.go_down();
    let before = bench.publishes();
    bench.write(500).await;
    sleep(Duration::from_secs(60)).await;
    // What was in flight when it went, and then one probe after 0.1, 0.2, 0.4, .. seconds.
    let probes = bench.publishes() - before;
    assert!((8..=32 + 12).contains(&probes), "{probes} probes");
    assert_eq!(bench.outbox.waiting(), 500);
    faults.come_back();
    bench.drained().await;
    bench.history.check().assert_clean().assert_duplicates_at_most(0);
    assert_eq!(bench.outbox.dead_letters().len(), 0);
    stop.notify_one();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_dies_is_followed_after_its_lease() {
    let mut bench = Bench::new(MemoryBroker::new());
    bench.write(1_000).await;
    let faults = bench.broker.broker.faults();
    let (_stop, task) = bench.start(RelaySettings::default());
    bench.broker.hundred.notified().await;
    faults.hold_confirms();
    sleep(Duration::from_secs(1)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    faults.release_confirms();
    let (died, sent) = (Instant::now(), bench.publishes());
    assert!(sent < 1_000, "it died too late for this test");

    let (stop, task) = bench.start(RelaySettings::default());
    sleep(Duration::from_secs(8)).await;
    assert_eq!(bench.publishes(), sent, "the lease of the first has not expired");
    bench.drained().await;
    assert!(died.elapsed() < Duration::from_secs(15), "{:?}", died.elapsed());
    // At most one row of each key was in flight.
    bench.history.check().assert_clean().assert_duplicates_at_most(32);
    stop.notify_one();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_hands_over_at_once() {
    stops_and_hands_over(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_although_the_broker_never_lets_it_wait() {
    stops_and_hands_over(Duration::ZERO).await;
}

async fn stops_and_hands_over(latency: Duration) {
    let mut bench = Bench::with_latency(MemoryBroker::new(), latency);
    bench.write(1_000).await;
    let first = bench.relay(RelaySettings::default());
    first.run_until(bench.broker.hundred.notified()).await.unwrap();
    let left = bench.outbox.waiting();
    assert!(left > 0, "it did not stop before everything was sent");
    assert_eq!(first.stats().in_flight, 0);

    let stopped = Instant::now();
    let (stop, task) = bench.start(RelaySettings::default());
    bench.drained().await;
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}: it waited for a lease", stopped.elapsed());
    bench.history.check().assert_clean().assert_duplicates_at_most(0);
    stop.notify_one();
    task.await.unwrap();
}

/// On one thread, with a store and a broker that always have an answer.
#[tokio::test(start_paused = true)]
async fn others_get_their_turn_while_it_drains() {
    const EVENTS: usize = 100_000;
    let mut bench = Bench::new(MemoryBroker::new());
    bench.write(EVENTS).await;
    let mut settings = RelaySettings::default();
    settings.unordered = Unordered::Everything;
    let relay = bench.relay(settings);
    let turns = async {
        let (mut before, mut longest) = (0, 0);
        while before < EVENTS {
            let now = bench.publishes();
            longest = longest.max(now - before);
            before = now;
            tokio::task::yield_now().await;
        }
        longest
    };
    let (ran, longest) = tokio::join!(relay.run_until_empty(), turns);
    ran.unwrap();
    // As many as it has in memory.
    assert!(longest <= 4_000, "{longest} events went before somebody else had a turn");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_dies_and_the_others_go_on() {
    let mut bench = Bench::new(MemoryBroker::builder().max_message_bytes(1_000).build());
    bench.write(100).await;
    let large = bench.message(vec![b'.'; 2_000]);
    let event = large.id.clone().and_then(|id| id.to_uuid()).unwrap();
    bench.commit(vec![large]).await;
    bench.write(100).await;
    let mut settings = RelaySettings::default();
    settings.max_attempts = 3;
    settings.later_events = LaterEvents::GoOn;
    let (stop, task) = bench.start(settings);
    bench.drained().await;
    let dead = bench.outbox.dead_letters();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].row.event_id, dead[0].row.attempts), (event, 3));
    assert!(dead[0].error.contains("2005 bytes") || dead[0].error.contains("limit"), "{}", dead[0].error);
    bench.history.dead_lettered(event);
    bench.history.check().assert_clean().assert_duplicates_at_most(0);
    assert_eq!(bench.publishes(), 203);
    stop.notify_one();
    task.await.unwrap();
}

/// How long the events of 32 keys take from their commit to the broker, in ascending order, beside a key whose events are
/// refused, or not.
async fn latencies(beside_a_poisoned_key: bool) -> Vec<Duration> {
    let broker = MemoryBroker::builder().max_message_bytes(1_000).build();
    let mut bench = Bench::with_latency(broker, Duration::from_millis(2));
    let mut settings = RelaySettings::default();
    settings.max_attempts = 1_000;
    let (stop, task) = bench.start(settings);
    let mut written = HashMap::new();
    for nth in 0..500 {
        if beside_a_poisoned_key && nth % 10 == 0 {
            let mut poison = bench.message(vec![b'.'; 2_000]);
            poison.key = Some(Bytes::from_static(b"poisoned"));
            bench.commit(vec![poison]).await;
        }
        let message = bench.message(".");
        written.insert(message.id.clone().and_then(|id| id.to_uuid()).unwrap(), Instant::now());
        bench.commit(vec![message]).await;
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_secs(1)).await;
    stop.notify_one();
    task.await.unwrap();
    let taken = bench.broker.taken.lock().unwrap();
    let mut latencies: Vec<Duration> = written.iter().map(|(event, at)| taken[event] - *at).collect();
    latencies.sort_unstable();
    latencies
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_key_costs_the_others_no_time() {
    let (alone, beside) = (latencies(false).await, latencies(true).await);
    let p99 = alone.len() * 99 / 100;
    assert_eq!(beside[p99], alone[p99]);
    // Of the others, too, none waits for as long as the poisoned one does the first time.
    assert!(beside[499] < RelaySettings::default().backoff, "{:?}", beside[499]);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_says_at_the_start_decides_whether_it_waits() {
    for class in [ErrorClass::Login, ErrorClass::Fatal] {
        let bench = Bench::new(MemoryBroker::new());
        bench.broker.checks.lock().unwrap().push(class);
        let error =
            bench.relay(RelaySettings::default()).run_until(std::future::pending()).await.unwrap_err();
        assert_eq!(error.class(), Some(class), "{error}");
    }
    for class in [ErrorClass::Outage, ErrorClass::Destination, ErrorClass::Unknown] {
        let mut bench = Bench::new(MemoryBroker::new());
        bench.write(5).await;
        bench.broker.checks.lock().unwrap().push(class);
        bench.relay(RelaySettings::default()).run_until_empty().await.unwrap();
        bench.history.check().assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_refused_when_the_broker_comes_up_ends_the_relay_in_order() {
    for class in [ErrorClass::Login, ErrorClass::Fatal] {
        let mut bench = Bench::new(MemoryBroker::new());
        *bench.broker.checks.lock().unwrap() = vec![class, ErrorClass::Outage, ErrorClass::Outage];
        let relay = bench.relay(RelaySettings::default());
        let (error, ()) = tokio::join!(relay.run_until(std::future::pending()), async {
            tokio::select! {
                () = relay.started() => panic!("the broker never answered"),
                () = sleep(Duration::from_secs(30)) => {}
            }
        });
        assert_eq!(error.unwrap_err().class(), Some(class));
        // It has given its groups back, so that the next one waits for no lease.
        bench.write(5).await;
        let begun = Instant::now();
        bench.relay(RelaySettings::default()).run_until_empty().await.unwrap();
        assert!(begun.elapsed() < RelaySettings::default().lease, "{:?}", begun.elapsed());
        bench.history.check().assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_when_it_is_at_work() {
    let bench = Bench::new(MemoryBroker::new());
    *bench.broker.checks.lock().unwrap() = vec![ErrorClass::Outage; 3];
    let relay = bench.relay(RelaySettings::default());
    relay.run_until(relay.started()).await.unwrap();
    assert!(bench.broker.checks.lock().unwrap().is_empty(), "the broker had not answered");

    let bench = Bench::new(MemoryBroker::new());
    let relay = bench.relay(RelaySettings::default());
    tokio::select! {
        () = relay.started() => panic!("nobody runs it"),
        () = sleep(Duration::from_secs(60)) => {}
    }
    relay.run_until(relay.started()).await.unwrap();
    // The next run is another one.
    let (started, ended) = tokio::join!(
        async {
            relay.started().await;
            relay.stats().owned_groups
        },
        relay.run_until(sleep(Duration::from_secs(1))),
    );
    ended.unwrap();
    assert!(started > 0);
}

#[tokio::test(start_paused = true)]
async fn until_empty_ends_by_itself_or_when_it_is_told() {
    let mut bench = Bench::new(MemoryBroker::new());
    bench.write(100).await;
    bench.relay(RelaySettings::default()).run_until_empty_or(std::future::pending()).await.unwrap();
    bench.history.check().assert_clean();
    let mut bench = Bench::with_latency(MemoryBroker::new(), Duration::from_secs(1));
    bench.write(1_000).await;
    let relay = bench.relay(RelaySettings::default());
    relay.run_until_empty_or(bench.broker.hundred.notified()).await.unwrap();
    assert!(relay.stats().settled < 1_000, "{:?}", relay.stats());
    relay.run_until_empty().await.unwrap();
    bench.history.check().assert_clean();
}

/// A database that takes connections and answers nothing, or not at first.
#[derive(Debug)]
struct Silent {
    outbox: MemoryOutbox,
    for_ever: bool,
}

#[async_trait]
impl OutboxStore for Silent {
    async fn check(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        if self.for_ever {
            std::future::pending().await
        } else {
            self.outbox.heartbeat(relay, heartbeat).await
        }
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.outbox.read(request).await
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.outbox.read_parked(request).await
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        self.outbox.settle(confirmed).await
    }

    async fn reject(&self, rejection: &Rejection) -> Result<Fenced<()>, StoreError> {
        self.outbox.reject(rejection).await
    }

    async fn set_aside(
        &self,
        lease: Lease,
        lane: &Lane,
        ids: &[i64],
        later: LaterEvents,
    ) -> Result<Fenced<bool>, StoreError> {
        self.outbox.set_aside(lease, lane, ids, later).await
    }

    async fn open_gate(&self, lease: Lease, lane: &Lane) -> Result<Fenced<bool>, StoreError> {
        self.outbox.open_gate(lease, lane).await
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.outbox.leave(relay).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_silent_at_the_start_keeps_no_relay_from_ending() {
    let store = Arc::new(Silent { outbox: MemoryOutbox::new(), for_ever: true });
    let relay = OutboxRelay::builder(store, Arc::new(MemoryBroker::new())).build().unwrap();
    let begun = Instant::now();
    relay.run_until(sleep(Duration::from_secs(1))).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_silent_at_the_start_is_asked_again() {
    let store = Arc::new(Silent { outbox: MemoryOutbox::new(), for_ever: false });
    let relay = OutboxRelay::builder(store, Arc::new(MemoryBroker::new())).build().unwrap();
    relay.run_until(relay.started()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_no_larger_than_it_was_asked_to_be() {
    let mut bench = Bench::new(MemoryBroker::new());
    bench.write(100).await;
    let relay = bench.relay(RelaySettings::default());
    assert_eq!(relay.produce_batch(0).await.unwrap(), 0);
    for left in [70, 40, 10] {
        assert_eq!(relay.produce_batch(30).await.unwrap(), 30);
        assert_eq!((bench.outbox.waiting(), bench.publishes()), (left, 100 - left));
    }
    assert_eq!(relay.produce_batch(30).await.unwrap(), 10);
    bench.history.check().assert_clean().assert_duplicates_at_most(0);
    // It has left: another one waits for no lease.
    let begun = Instant::now();
    assert_eq!(bench.relay(RelaySettings::default()).produce_batch(1).await.unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

fn one_key(mut message: Message) -> Message {
    message.key = Some("one".into());
    message
}

#[tokio::test(start_paused = true)]
async fn one_event_goes_with_what_waits_before_it() {
    let mut bench = Bench::with_latency(MemoryBroker::new(), Duration::from_millis(1));
    let messages: Vec<Message> = (0..5).map(|_| one_key(bench.message("."))).collect();
    let events: Vec<Uuid> =
        messages.iter().map(|message| message.id.as_ref().unwrap().to_uuid().unwrap()).collect();
    bench.commit(messages).await;
    bench.write(1_000).await;
    let relay = bench.relay(RelaySettings::default());
    assert!(relay.produce_one(events[2]).await.unwrap());
    assert!(bench.publishes() >= 3);
    assert!(bench.outbox.waiting() > 500, "it went on with the others");
    assert!(!relay.produce_one(events[2]).await.unwrap(), "it was sent already");
    assert!(!relay.produce_one(Uuid::from_u128(999)).await.unwrap(), "there is no such event");
}

#[tokio::test(start_paused = true)]
async fn later_events_follow_a_dead_letter_and_come_back_with_it() {
    let mut bench = Bench::new(MemoryBroker::builder().max_message_bytes(1_000).build());
    let one = one_key;
    let (large, next) = (one(bench.message(vec![b'.'; 2_000])), one(bench.message(".")));
    bench.commit(vec![large, next]).await;
    let mut settings = RelaySettings::default();
    settings.max_attempts = 2;
    settings.later_events = LaterEvents::Follow;
    let (stop, task) = bench.start(settings);
    timeout(Duration::from_secs(60), bench.drained()).await.unwrap();
    let late = one(bench.message("."));
    bench.commit(vec![late]).await;
    timeout(Duration::from_secs(60), bench.drained()).await.unwrap();
    let errors: Vec<_> = bench.outbox.dead_letters().into_iter().map(|letter| letter.error).collect();
    assert_eq!(errors.len(), 3);
    assert!(errors[1..].iter().all(|error| error == LaterEvents::FOLLOWS), "{errors:?}");
    for letter in bench.outbox.dead_letters() {
        if letter.row.message.payload.as_ref().is_some_and(|payload| payload.len() > 1_000) {
            assert!(bench.outbox.discard(letter.row.event_id));
        } else {
            assert!(bench.outbox.replay(letter.row.event_id));
        }
    }
    timeout(Duration::from_secs(60), bench.drained()).await.unwrap();
    assert_eq!((bench.outbox.dead_letters().len(), bench.publishes()), (0, 4));
    stop.notify_one();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn unordered_events_of_one_key_are_with_the_broker_together() {
    let latency = Duration::from_millis(100);
    let mut bench = Bench::with_latency(MemoryBroker::new(), latency);
    let messages: Vec<Message> = (0..200).map(|_| one_key(bench.message("."))).collect();
    bench.commit(messages).await;
    let mut settings = RelaySettings::default();
    settings.unordered = Unordered::Everything;
    let begun = Instant::now();
    bench.relay(settings).run_until_empty().await.unwrap();
    // One at a time it would be 20 s.
    assert!(begun.elapsed() < latency * 20, "{:?}", begun.elapsed());
    assert_eq!((bench.outbox.waiting(), bench.publishes()), (0, 200));
}
