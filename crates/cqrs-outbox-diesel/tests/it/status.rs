//! What an operator is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_core::broker::{Capabilities, Confirm, SubscribeOptions, Subscription};
use cqrs_core::{BeginTransaction, BrokerError, ErrorClass, Message, MessageBroker, Transaction};
use cqrs_outbox::{Fenced, Heartbeat, LaterEvents, OutboxRelay, Rejection, RelayId, Verdict};
use cqrs_outbox_diesel::{Outbox, OutboxStatus};
use diesel_async::SimpleAsyncConnection;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed, own_all, quick, read_all};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(status<D> {
            nothing_waits_and_nobody_works,
            what_waits_is_counted_where_it_stands,
            relays_and_the_groups_they_own,
            a_lease_that_has_expired_is_nobodys,
            hold_is_shown,
            the_first_gates_are_shown,
            the_oldest_snapshot_is_shown,
            topics_that_cannot_be_reached_are_shown,
            what_is_over_goes_with_the_next_heartbeat,
        })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// An event that was written an hour or so ago, and occurred long before that, or so its writer says.
async fn publish<D: Db>(outbox: &Outbox<D>, key: &str, id: u32, hours: i32) {
    let mut message = Message::new("rooms", "{}");
    message.name = "room_closed".to_owned();
    message.id = Some(Uuid::new_v4().into());
    message.key = Some(key.to_owned().into());
    message.timestamp = Some(chrono::Utc::now() - HOUR * 100);
    outbox.transaction(async |tx| tx.publish(message).await).await.unwrap();
    let since = ago::<D>(hours);
    outbox.sql(&format!("UPDATE cqrs_outbox SET waiting_since = {since} WHERE id = {id}")).await.unwrap();
}

/// So many hours before now, by the database's clock.
fn ago<D: Db>(hours: i32) -> String {
    match D::NAME {
        "postgres" => format!("clock_timestamp() - interval '{hours} hours'"),
        "mysql" => format!("utc_timestamp(6) - INTERVAL {hours} HOUR"),
        _ => format!("unixepoch('now', 'subsec') - 3600.0 * {hours}"),
    }
}

fn hours(status: &OutboxStatus) -> Option<u64> {
    status.oldest_waiting.map(|age| age.as_secs() / HOUR.as_secs())
}

fn relay(name: &str) -> RelayId {
    RelayId { name: name.to_owned(), incarnation: Uuid::new_v4() }
}

fn beat(take: usize, lease: Duration) -> Heartbeat {
    Heartbeat { lease, take, release: Vec::new() }
}

async fn nothing_waits_and_nobody_works<D: Db>(site: &Site) {
    let status = site.outbox::<D>().await.status().await.unwrap();
    assert_eq!((status.schema_version, status.min_reader_version, status.hold), (1, 1, false));
    assert_eq!((status.waiting, status.parked, status.closed_gates, status.dead_letters), (0, 0, 0, 0));
    assert_eq!(status.oldest_waiting, None);
    assert!(status.groups > 0 && status.unowned_groups == status.groups, "{status:?}");
    assert!(status.relays.is_empty());
}

async fn what_waits_is_counted_where_it_stands<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for (key, id, age) in [("a", 1, 3), ("b", 2, 2), ("a", 3, 1)] {
        publish(&outbox, key, id, age).await;
    }
    let status = outbox.status().await.unwrap();
    assert_eq!((status.waiting, hours(&status)), (3, Some(3)));

    // The first one goes aside, then to the dead letters: those do not wait any more.
    let store = D::store(&outbox);
    let one = relay("one");
    let row = read_all(&store).await.remove(0);
    let leases = own_all(&store, &one).await;
    let lease = *leases.iter().find(|lease| lease.group == row.group).unwrap();
    let park = Verdict::Park { retry_in: HOUR };
    let bury = Verdict::Bury { later: LaterEvents::Wait };
    for (attempts, verdict, wanted) in [(1, park, (3, 1, 1, 0, Some(3))), (2, bury, (2, 0, 1, 1, Some(2)))] {
        let (lane, error) = (row.lane.clone(), "no".to_owned());
        let rejection = Rejection { lease, id: row.id, lane, attempts, error, verdict };
        assert_eq!(store.reject(&rejection).await.unwrap(), Fenced::Done(()));
        let status = outbox.status().await.unwrap();
        let OutboxStatus { waiting, parked, closed_gates, dead_letters, .. } = status;
        assert_eq!((waiting, parked, closed_gates, dead_letters, hours(&status)), wanted);
        let [gate] = &*status.gates else { panic!("{status:?}") };
        assert_eq!((&gate.lane, gate.error.as_deref()), (&row.lane, Some("no")));
        // A dead letter waits for somebody.
        assert_eq!(
            gate.opens_in.is_some_and(|wait| wait > HOUR / 2 && wait <= HOUR),
            attempts == 1,
            "{gate:?}"
        );
        assert!(gate.opens_in.is_some() == (attempts == 1) && gate.closed < HOUR, "{gate:?}");
    }

    // Set aside behind it, and sent again, it counts from when it was written.
    assert_eq!(store.set_aside(lease, &row.lane, &[3], LaterEvents::Wait).await.unwrap(), Fenced::Done(true));
    outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
    let counted = async || {
        let status = outbox.status().await.unwrap();
        (status.waiting, status.parked, status.scheduled, status.dead_letters, hours(&status))
    };
    assert_eq!(counted().await, (1, 1, 0, 1, Some(1)));
    outbox.replay(row.event_id).await.unwrap();
    store.heartbeat(&one, &beat(0, HOUR)).await.unwrap();
    // What is replayed waits from then on.
    assert_eq!(counted().await, (2, 2, 0, 0, Some(1)));
    outbox.sql("DELETE FROM cqrs_outbox_parked WHERE id = 3").await.unwrap();
    assert_eq!(counted().await, (1, 1, 0, 0, Some(0)));
    // The first in line is not always the oldest: what was scheduled comes in line when it is promoted.
    publish(&outbox, "c", 4, 1).await;
    publish(&outbox, "d", 5, 3).await;
    assert_eq!(counted().await, (3, 1, 0, 0, Some(3)));
    outbox.sql("DELETE FROM cqrs_outbox WHERE id = 4").await.unwrap();

    // What is scheduled waits from when it is due, whether somebody has looked at it or not.
    for hours in [-1, 5] {
        let insert = "INSERT INTO cqrs_outbox_scheduled (event_name, topic, payload_text, deliver_at) VALUES ('n', 't', 'x', ";
        outbox.sql(&format!("{insert}{})", ago::<D>(hours))).await.unwrap();
        assert_eq!(counted().await, if hours < 0 { (2, 1, 1, 0, Some(3)) } else { (3, 1, 1, 0, Some(5)) });
    }
    assert_eq!(store.promote(&leases, 10).await.unwrap().moved, 1);
    assert_eq!(counted().await, (3, 1, 1, 0, Some(5)));
    outbox.sql("DELETE FROM cqrs_outbox; DELETE FROM cqrs_outbox_parked").await.unwrap();
    assert_eq!(counted().await, (0, 0, 1, 0, None));
}

/// A broker that knows no topic until it is told to.
#[derive(Debug, Default)]
struct Topicless(Sink, AtomicBool);

#[async_trait]
impl MessageBroker for Topicless {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn enqueue(&self, message: &Message) -> Result<Confirm, BrokerError> {
        if self.1.load(Ordering::SeqCst) {
            return self.0.enqueue(message).await;
        }
        Err(BrokerError::new(ErrorClass::Destination, "no such topic, \u{fc}"))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Box<dyn Subscription>, BrokerError> {
        self.0.subscribe(options).await
    }

    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

/// By whom, why, and no longer than it is so.
async fn topics_that_cannot_be_reached_are_shown<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for nth in 0..3 {
        outbox.transaction(async |tx| tx.publish(closed(nth)).await).await.unwrap();
    }
    let mut settings = quick();
    settings.heartbeat_interval = Duration::from_millis(100);
    let broker = Arc::new(Topicless::default());
    let relay = OutboxRelay::builder(D::store(&outbox), broker.clone()).settings(settings).name("one");
    let relay = relay.build().unwrap();
    let shown = async |wanted: &[(&str, &str)], waiting: u64| loop {
        let status = outbox.status().await.unwrap();
        if let [relay] = &*status.relays {
            let topics = relay.suspended.iter().map(|one| (&*one.topic, &*one.error));
            if topics.eq(wanted.iter().copied()) && status.waiting == waiting {
                return status;
            }
        }
        sleep(Duration::from_millis(20)).await;
    };
    let course = async {
        let status = shown(&[("rooms", "no such topic, \u{fc} (destination)")], 3).await;
        assert_eq!((&*status.relays[0].name, status.parked, status.dead_letters), ("one", 0, 0));
        // As of a relay that was not seen for long: it tells it again.
        outbox.sql("DELETE FROM cqrs_outbox_relay").await.unwrap();
        shown(&[("rooms", "no such topic, \u{fc} (destination)")], 3).await;
        broker.1.store(true, Ordering::SeqCst);
        shown(&[], 0).await;
    };
    let course = async { timeout(Duration::from_secs(60), course).await.unwrap() };
    relay.run_until(course).await.unwrap();
}

async fn relays_and_the_groups_they_own<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let (one, two) = (relay("one \"of\" two"), relay("two"));
    store.heartbeat(&two, &beat(0, HOUR)).await.unwrap();
    let owned = store.heartbeat(&one, &beat(1, HOUR)).await.unwrap().leases.len() as u64;
    let status = outbox.status().await.unwrap();
    assert_eq!(status.unowned_groups, status.groups - owned);
    let seen: Vec<_> =
        status.relays.iter().map(|relay| (&*relay.name, relay.incarnation, relay.owned_groups)).collect();
    assert_eq!(seen, [(&*one.name, one.incarnation, owned), ("two", two.incarnation, 0)]);
    for relay in &status.relays {
        assert!(!relay.version.is_empty() && relay.seen < HOUR, "{relay:?}");
    }
    store.leave(&one).await.unwrap();
    let status = outbox.status().await.unwrap();
    assert_eq!((status.relays.len(), status.unowned_groups), (1, status.groups));
}

async fn a_lease_that_has_expired_is_nobodys<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let one = relay("one");
    store.heartbeat(&one, &beat(usize::MAX, Duration::from_millis(50))).await.unwrap();
    let expired = async {
        loop {
            let status = outbox.status().await.unwrap();
            if status.unowned_groups == status.groups {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let status = timeout(Duration::from_secs(30), expired).await.unwrap();
    assert_eq!(status.relays[0].owned_groups, 0);
    // Nobody took it back: its row still names the relay.
    let named = "SELECT owner AS value FROM cqrs_outbox_group WHERE incarnation IS NOT NULL";
    assert_eq!(outbox.values(named).await.len() as u64, status.groups);
}

async fn hold_is_shown<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let yes = if D::NAME == "sqlite" { "1" } else { "true" };
    outbox.sql(&format!("UPDATE cqrs_outbox_meta SET hold = {yes}")).await.unwrap();
    assert!(outbox.status().await.unwrap().hold);
}

/// Not all of them; those that have waited longest come first.
async fn the_first_gates_are_shown<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let lane =
        |nth: u8| if D::NAME == "postgres" { format!("'\\x6b0{nth}'") } else { format!("x'6b0{nth}'") };
    for nth in [7, 3, 1, 2, 6, 5, 4] {
        let insert = format!(
            "INSERT INTO cqrs_outbox_gate (lane, slot, error, closed_at) VALUES ({}, 0, '{}', '2024-01-01 00:00:0{nth}')",
            lane(nth),
            "x".repeat(1_000)
        );
        outbox.sql(&insert).await.unwrap();
    }
    let status = outbox.status().await.unwrap();
    assert_eq!(status.closed_gates, 7);
    let lanes: Vec<_> = status.gates.iter().map(|gate| gate.lane.as_bytes().to_vec()).collect();
    assert_eq!(lanes, [1, 2, 3, 4, 5].map(|nth| vec![b'k', nth]));
    for gate in &status.gates {
        assert_eq!((gate.error.as_ref().unwrap().len(), gate.opens_in), (500, None));
    }
}

/// On PostgreSQL. There may be an older one, of another trial's.
async fn the_oldest_snapshot_is_shown<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    if D::NAME != "postgres" {
        assert_eq!(outbox.status().await.unwrap().oldest_snapshot, None);
        return;
    }
    let mut old = outbox.begin().await.unwrap();
    let look = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs_outbox";
    old.batch_execute(look).await.unwrap();
    let snapshot = outbox.status().await.unwrap().oldest_snapshot.unwrap();
    assert!(snapshot.age < HOUR && snapshot.holder.contains("process "), "{snapshot:?}");
    old.rollback().await.unwrap();
}

/// A gate that is due and has nothing behind it, and a relay that died long ago.
async fn what_is_over_goes_with_the_next_heartbeat<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let (store, one) = (D::store(&outbox), relay("one"));
    own_all(&store, &one).await;
    store.heartbeat(&one, &beat(0, HOUR)).await.unwrap();
    let lane = if D::NAME == "postgres" { "'\\x6b01'" } else { "x'6b01'" };
    let past = ago::<D>(11);
    for what in [
        format!("cqrs_outbox_gate (lane, slot, until, error) VALUES ({lane}, 0, {past}, 'no')"),
        format!(
            "cqrs_outbox_relay (incarnation, name, version, seen_at) VALUES ('{}', 'two', '1', {past})",
            Uuid::new_v4()
        ),
    ] {
        outbox.sql(&format!("INSERT INTO {what}")).await.unwrap();
        store.heartbeat(&one, &beat(0, HOUR)).await.unwrap();
        let status = outbox.status().await.unwrap();
        assert_eq!((status.closed_gates, status.relays.len()), (0, 1), "{what}");
    }
}
