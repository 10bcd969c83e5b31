//! A relay whose store or broker panics, as a driver with a bug does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::memory::MemoryBroker;
use cqrs_core::broker::{BrokerError, Capabilities, Confirm, SubscribeOptions, Subscription};
use cqrs_core::{ErrorKind, Message, MessageBroker};
use cqrs_outbox::{
    Confirmed, Fenced, Heartbeat, Kept, Lane, LaterEvents, Lease, MemoryOutbox, OutboxRelay, OutboxRow,
    OutboxStore, Ownership, ReadRequest, Rejection, RelayId, RelaySettings, Relays, StoreError,
};
use futures_util::future::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::relay::Bench;

/// Whose bug it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Heartbeat,
    Read,
    Settle,
    Changed,
    Enqueue,
    Confirm,
}

impl Call {
    const ALL: [Self; 6] =
        [Self::Heartbeat, Self::Read, Self::Settle, Self::Changed, Self::Enqueue, Self::Confirm];
}

/// A store and a broker, of which one call panics: once, when others like it have gone well.
#[derive(Debug)]
struct Buggy {
    outbox: MemoryOutbox,
    broker: Arc<dyn MessageBroker>,
    call: Call,
    before: AtomicUsize,
    /// How many others were under way when it panicked.
    beside: AtomicUsize,
    /// Calls that have neither ended nor been dropped.
    under_way: AtomicUsize,
    /// Who had a heartbeat.
    known: Mutex<Vec<Uuid>>,
    /// Who was forgotten, and how many calls were under way then.
    forgotten: Mutex<Vec<(Uuid, usize)>>,
    left: AtomicUsize,
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Buggy {
    fn new(outbox: &MemoryOutbox, broker: Arc<dyn MessageBroker>, call: Call) -> Arc<Self> {
        Arc::new(Self {
            outbox: outbox.clone(),
            broker,
            call,
            // It is in the midst of its work then: a relay begins with one event, and has many with the broker later.
            before: AtomicUsize::new(match call {
                Call::Settle => 1,
                Call::Enqueue | Call::Confirm => 50,
                _ => 2,
            }),
            beside: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            known: Mutex::default(),
            forgotten: Mutex::default(),
            left: AtomicUsize::new(0),
        })
    }

    fn relay(self: &Arc<Self>, settings: RelaySettings) -> OutboxRelay {
        let builder = OutboxRelay::builder(Arc::clone(self) as _, Arc::clone(self) as _);
        builder.settings(settings).build().unwrap()
    }

    async fn begins(&self, call: Call) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(&self.under_way);
        // So that there is something under way beside what panics.
        sleep(Duration::from_millis(1)).await;
        self.panics_in(call);
        under_way
    }

    fn panics_in(&self, call: Call) {
        let before = |count: usize| Some(count.wrapping_sub(1));
        if call == self.call
            && self.before.fetch_update(Ordering::Relaxed, Ordering::Relaxed, before) == Ok(0)
        {
            self.beside.store(self.under_way.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
            panic!("a bug in {call:?}");
        }
    }
}

#[async_trait]
impl OutboxStore for Buggy {
    async fn check(&self) -> Result<(), StoreError> {
        self.outbox.check().await
    }

    async fn heartbeat(&self, relay: &RelayId, heartbeat: &Heartbeat) -> Result<Ownership, StoreError> {
        let _under_way = self.begins(Call::Heartbeat).await;
        self.known.lock().unwrap().push(relay.incarnation);
        self.outbox.heartbeat(relay, heartbeat).await
    }

    async fn read(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        let _under_way = self.begins(Call::Read).await;
        self.outbox.read(request).await
    }

    async fn read_parked(&self, request: &ReadRequest) -> Result<Vec<OutboxRow>, StoreError> {
        self.outbox.read_parked(request).await
    }

    async fn settle(&self, confirmed: &[Confirmed]) -> Result<(), StoreError> {
        let _under_way = self.begins(Call::Settle).await;
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

    async fn purge(&self, kept: Kept, older_than: Duration) -> Result<u64, StoreError> {
        self.outbox.purge(kept, older_than).await
    }

    async fn leave(&self, relay: &RelayId) -> Result<(), StoreError> {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.outbox.leave(relay).await
    }

    fn forget(&self, relay: &RelayId) {
        let under_way = self.under_way.load(Ordering::Relaxed);
        self.forgotten.lock().unwrap().push((relay.incarnation, under_way));
    }

    async fn changed(&self) {
        self.outbox.changed().await;
        self.panics_in(Call::Changed);
    }
}

#[async_trait]
impl MessageBroker for Buggy {
    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        let _under_way = self.begins(Call::Enqueue).await;
        let confirm = self.broker.enqueue(message).await?;
        if self.call == Call::Confirm && self.before.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Ok(Confirm::new(async { panic!("a bug in Confirm") }));
        }
        Ok(confirm)
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

/// Whoever runs it gets the panic itself. Nothing of the run is left in the process, another relay does not notice until the leases have expired,
/// and then goes on; so does the same relay, run again.
#[tokio::test(start_paused = true)]
async fn a_panic_ends_a_run_as_a_crash_does() {
    for call in Call::ALL {
        for same in [false, true] {
            let mut bench = Bench::new(MemoryBroker::new());
            let buggy = Buggy::new(&bench.outbox, bench.broker.clone(), call);
            let relay = Arc::new(buggy.relay(RelaySettings::default()));
            let task = tokio::spawn({
                let relay = Arc::clone(&relay);
                async move { relay.run_until(std::future::pending()).await }
            });
            relay.started().await;
            // It is woken again and again.
            let ends = async {
                while !task.is_finished() {
                    bench.write(100).await;
                    sleep(Duration::from_millis(100)).await;
                }
            };
            timeout(Duration::from_secs(60), ends).await.expect("the call is not made so often");
            let died = Instant::now();
            let panic = task.await.unwrap_err().into_panic();
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            assert_eq!(said, Some(format!("a bug in {call:?}")));

            if call == Call::Enqueue {
                assert!(buggy.beside.load(Ordering::Relaxed) > 0, "nothing else was under way");
            }
            let known = buggy.known.lock().unwrap().clone();
            assert_eq!(
                *buggy.forgotten.lock().unwrap(),
                [(known[0], 0)],
                "{call:?}: once, behind all that it did"
            );
            assert!(relay.started().now_or_never().is_none(), "{call:?}: it is not at work");
            assert_eq!(buggy.left.load(Ordering::Relaxed), 0, "{call:?}: the database is not asked");

            bench.write(100).await;
            let left = bench.outbox.waiting();
            assert!(left > 0);
            let next = if same { relay } else { Arc::new(bench.relay(RelaySettings::default())) };
            timeout(Duration::from_secs(60), next.run_until_empty()).await.unwrap().unwrap();
            assert_eq!(bench.outbox.waiting(), 0);
            assert!(died.elapsed() > Duration::from_secs(5), "{call:?}: not before the leases have expired");
            // What was in flight, or confirmed and not settled yet: all that was written last, at most.
            bench.history.check().assert_clean().assert_duplicates_at_most(100);
            assert_eq!(buggy.forgotten.lock().unwrap().len(), if same { 2 } else { 1 });
        }
    }
}

/// They have the broker in common, and the process.
#[tokio::test(start_paused = true)]
async fn the_relays_of_other_databases_go_on() {
    for call in [Call::Read, Call::Enqueue, Call::Confirm] {
        let (mut orders, mut shop) = (Bench::new(MemoryBroker::new()), Bench::new(MemoryBroker::new()));
        let buggy = Buggy::new(&shop.outbox, shop.broker.clone(), call);
        let of_shop = OutboxRelay::builder(buggy.clone(), buggy.clone()).database("shop").build().unwrap();
        let of_orders =
            OutboxRelay::builder(Arc::new(orders.outbox.clone()), orders.broker.clone()).database("orders");
        let relays = Relays::new([of_orders.build().unwrap(), of_shop]).unwrap();
        let failure = || relays.stats()[1].failure.clone();
        let course = async {
            shop.write(100).await;
            while failure().is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(failure().unwrap(), format!("the relay panicked: a bug in {call:?}"));
            shop.write(100).await;
            orders.write(100).await;
            orders.drained().await;
            assert!(shop.outbox.waiting() > 0, "its leases have not expired");
            shop.drained().await;
            assert_eq!(failure(), None);
        };
        timeout(Duration::from_secs(60), relays.run_until(course)).await.unwrap().unwrap();
        orders.history.check().assert_clean().assert_duplicates_at_most(0);
        shop.history.check().assert_clean().assert_duplicates_at_most(100);
    }
}

/// One by itself has nobody who would go on for it.
#[tokio::test(start_paused = true)]
async fn of_one_database_the_panic_is_what_the_run_ends_with() {
    let mut shop = Bench::new(MemoryBroker::new());
    shop.write(100).await;
    let buggy = Buggy::new(&shop.outbox, shop.broker.clone(), Call::Enqueue);
    let relays = Relays::new([buggy.relay(RelaySettings::default())]).unwrap();
    let error = relays.run_until(std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handler);
    assert_eq!(error.to_string(), "the relay panicked: a bug in Enqueue");
    assert_eq!(buggy.forgotten.lock().unwrap().len(), 1);
}
