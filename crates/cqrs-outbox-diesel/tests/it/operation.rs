//! The outbox in operation: relays, operators.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::ErrorKind;
use cqrs_outbox::{Fenced, Heartbeat, LaterEvents, OutboxRelay, Rejection, RelayId, Verdict};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed, own_all, quick, read_all};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(operation<D> {
            a_relay_is_woken_by_a_commit,
            hold_stops_all_relaying,
            no_dead_letter_is_a_clear_error,
            every_refusal_is_kept_and_a_discard_leaves_no_gate,
            leases_that_ended_without_a_release_are_marked,
            sequences_do_not_give_an_id_again,
        })
    }
}

async fn a_relay_is_woken_by_a_commit<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let sink = Arc::new(Sink::default());
    let mut settings = quick();
    // Far longer than the test: only the wake-up brings it.
    settings.poll_interval = Duration::from_secs(600);
    let relay = OutboxRelay::builder(D::store(&outbox), sink.clone()).settings(settings).build().unwrap();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async move {
        let run = relay.run_until(async { stopped.await.unwrap_or(()) }).await;
        (run, relay.stats())
    });
    for nth in 1..=3 {
        outbox.transaction(async |tx| tx.publish(closed(nth)).await).await.unwrap();
        let sent = async {
            while sink.messages().len() < nth {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), sent).await.expect("the relay was not woken");
    }
    stop.send(()).unwrap();
    let (run, stats) = running.await.unwrap();
    run.unwrap();
    assert_eq!((stats.settled, stats.published), (3, 3));
    assert_eq!(outbox.waiting().await, 0);
}

async fn hold_stops_all_relaying<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    // Twice is once.
    outbox.hold().await.unwrap();
    outbox.hold().await.unwrap();
    assert!(outbox.status().await.unwrap().hold);
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    let sink = Arc::new(Sink::default());
    let relay = OutboxRelay::builder(D::store(&outbox), sink.clone()).settings(quick()).build().unwrap();
    relay.run_until(sleep(Duration::from_millis(300))).await.unwrap();
    assert!(sink.messages().is_empty());
    outbox.resume().await.unwrap();
    outbox.resume().await.unwrap();
    assert!(!outbox.status().await.unwrap().hold);
    timeout(Duration::from_secs(30), relay.run_until_empty()).await.unwrap().unwrap();
    assert_eq!(sink.payloads().len(), 1);
}

async fn no_dead_letter_is_a_clear_error<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let id = Uuid::new_v4();
    for error in [outbox.replay(id).await.unwrap_err(), outbox.discard(id).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.to_string().contains(&id.to_string()), "{error}");
    }
    assert!(outbox.values("SELECT kind AS value FROM cqrs_outbox_request").await.is_empty());
}

async fn every_refusal_is_kept_and_a_discard_leaves_no_gate<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    let relay = RelayId { name: "relay".to_owned(), incarnation: Uuid::new_v4() };
    let row = read_all(&store).await.remove(0);
    let leases = own_all(&store, &relay).await;
    let lease = *leases.iter().find(|lease| lease.group == row.group).unwrap();
    let park = Verdict::Park { retry_in: Duration::ZERO };
    let bury = Verdict::Bury { later: LaterEvents::Wait };
    // The second is written twice, as after an answer that was lost.
    for (attempts, verdict) in [(1, park), (2, park), (2, park), (3, bury)] {
        let (lane, error) = (row.lane.clone(), format!("no {attempts}"));
        let rejection = Rejection { lease, id: row.id, lane, attempts, error, verdict };
        assert_eq!(store.reject(&rejection).await.unwrap(), Fenced::Done(()));
    }
    let errors = outbox.values("SELECT errors AS value FROM cqrs_outbox_dead").await.remove(0);
    let errors: serde_json::Value = serde_json::from_str(&errors).unwrap();
    let errors: Vec<_> = errors.as_array().unwrap().iter().map(|entry| entry["error"].clone()).collect();
    assert_eq!(errors, ["no 1", "no 2", "no 3"]);
    let slots = "SELECT CAST(slot AS text) AS value FROM cqrs_outbox_";
    let gate = outbox.values(&format!("{slots}gate")).await;
    assert_eq!(gate, outbox.values(&format!("{slots}dead")).await, "the gate stands where its lane does");

    outbox.discard(row.event_id).await.unwrap();
    own_all(&store, &relay).await;
    for table in ["dead", "gate"] {
        assert!(outbox.values(&format!("{slots}{table}")).await.is_empty(), "{table}");
    }
}

async fn leases_that_ended_without_a_release_are_marked<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let dirty = async || {
        let query = "SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox_group \
            WHERE CAST(dirty AS text) IN ('1', 'true')";
        outbox.values(query).await[0].clone()
    };
    let relay = |name: &str| RelayId { name: name.to_owned(), incarnation: Uuid::new_v4() };
    let beat = |lease| Heartbeat { lease: Duration::from_millis(lease), take: 1, release: Vec::new() };
    let (one, two, three) = (relay("one"), relay("two"), relay("three"));
    store.heartbeat(&one, &beat(60_000)).await.unwrap();
    store.leave(&one).await.unwrap();
    store.heartbeat(&two, &beat(50)).await.unwrap();
    assert_eq!(dirty().await, "0");
    sleep(Duration::from_millis(100)).await;
    store.heartbeat(&three, &beat(60_000)).await.unwrap();
    assert_eq!(dirty().await, "1");
}

async fn sequences_do_not_give_an_id_again<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let highest = async || {
        outbox.values("SELECT CAST(max(id) AS text) AS value FROM cqrs_outbox").await[0]
            .parse::<i64>()
            .unwrap()
    };
    outbox.transaction(async |tx| tx.publish_all([closed(1), closed(2)]).await).await.unwrap();
    let before = highest().await;
    outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(3)).await).await.unwrap();
    assert!(highest().await > before);
}
