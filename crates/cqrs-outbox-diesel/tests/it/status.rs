//! What an operator is told.

use std::time::Duration;

use cqrs_core::{BeginTransaction, Message, Result, Transaction};
use cqrs_outbox::{Fenced, Heartbeat, Rejection, RelayId, Verdict};
use cqrs_outbox_diesel::{Outbox, OutboxStatus};
use diesel_async::SimpleAsyncConnection;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, own_all, read_all};
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
        })
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// An event that occurred so long ago.
async fn publish<D: Db>(outbox: &Outbox<D>, key: &str, age: Duration) -> Result<()> {
    let mut message = Message::new("rooms", "{}");
    message.name = "room_closed".to_owned();
    message.id = Some(Uuid::new_v4().into());
    message.key = Some(key.to_owned().into());
    message.timestamp = Some(chrono::Utc::now() - age);
    outbox.transaction(async |tx| tx.publish(message).await).await.map(drop)
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
    for (key, age) in [("a", 3), ("b", 2), ("a", 1)] {
        publish(&outbox, key, HOUR * age).await.unwrap();
    }
    let status = outbox.status().await.unwrap();
    assert_eq!((status.waiting, hours(&status)), (3, Some(3)));

    // The first one goes aside, then to the dead letters: those do not wait any more.
    let store = D::store(&outbox);
    let row = read_all(&store).await.remove(0);
    let lease = *own_all(&store, &relay("one")).await.iter().find(|lease| lease.group == row.group).unwrap();
    let park = Verdict::Park { retry_in: HOUR };
    let bury = Verdict::Bury { lane_waits: true };
    for (attempts, verdict, wanted) in [(1, park, (2, 1, 1, 0, Some(3))), (2, bury, (2, 0, 1, 1, Some(2)))] {
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

    // An application's clock that is ahead.
    outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    assert_eq!(hours(&outbox.status().await.unwrap()), Some(0));
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
    store.heartbeat(&one, &beat(usize::MAX, Duration::from_millis(1))).await.unwrap();
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
