//! What is kept for a time, and how it goes.

use std::time::Duration;

use cqrs_consumer::Inbox;
use cqrs_core::broker::Receipt;
use cqrs_core::{BeginTransaction, Message, MessageId, Transaction};
use cqrs_outbox::engine::{Action, Engine, Input};
use cqrs_outbox::{
    Confirmed, Fenced, LaterEvents, OutboxRow, Ownership, Place, Rejection, RelaySettings, Retention, Verdict,
};
use cqrs_outbox_diesel::Outbox;
use diesel_async::SimpleAsyncConnection;
use tokio::time::timeout;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, letter};
use crate::events::{closed, statements_with};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        let mut tests = tests!(retention<D> {
            what_was_sent_is_gone,
            what_was_sent_is_kept_if_wanted,
            what_stood_aside_is_kept_with_its_refusals,
            it_is_kept_once,
            it_is_kept_where_it_was_moved_to,
            what_is_old_goes_in_chunks,
            a_purge_leaves_what_waits_and_what_is_young,
            what_was_handled_and_what_was_asked_for_go_too,
            several_purge_at_once,
            a_purge_goes_on_for_ever,
            each_kind_is_purged_by_itself,
        });
        if D::SERVICE.is_some() {
            tests.extend(tests!(retention<D> { a_purge_waits_for_nobody }));
        }
        tests
    }
}

pub(crate) async fn keeping<D: Db>(site: &Site) -> Outbox<D> {
    let outbox = D::keeping(site.empty().await).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox
}

fn event(name: &str) -> Message {
    letter("rooms", name, Some(b"a"))
}

async fn publish<D: Db>(outbox: &Outbox<D>, names: &[&str]) {
    // Each of a key of its own, so that nothing waits for another one.
    let events: Vec<_> = names.iter().map(|name| letter("rooms", name, Some(name.as_bytes()))).collect();
    outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
}

/// The rows with the receipts that a broker gave: only a relay makes these, so its engine is told so.
pub(crate) fn confirmed(rows: &[OutboxRow], receipt: fn(i64) -> Receipt) -> Vec<Confirmed> {
    let leases = rows.iter().map(|row| cqrs_outbox::Lease { group: row.group, epoch: 1 });
    let mut leases: Vec<_> = leases.collect();
    leases.sort();
    leases.dedup();
    let ownership = Ownership { groups: leases.len(), leases, relays: 1, ..Ownership::default() };
    let (mut parked, mut hot): (Vec<_>, Vec<_>) =
        rows.iter().cloned().partition(|row| row.place == Place::Parked);
    let (mut confirmed, mut engine) = (Vec::new(), Engine::new(RelaySettings::default()));
    while confirmed.len() < rows.len() {
        let answer = match engine.poll(Duration::ZERO).unwrap() {
            Action::Heartbeat(_) => Input::Heartbeat(Ok(ownership.clone())),
            Action::Read(_) => Input::Read(Ok(std::mem::take(&mut hot))),
            Action::ReadParked(_) => Input::ReadParked(Ok(std::mem::take(&mut parked))),
            Action::Publish(row) => Input::Published { id: row.id, outcome: Ok(receipt(row.id)) },
            Action::Promote { .. } => Input::Promoted(Ok(Default::default())),
            Action::OpenGate { .. } => Input::GateOpened(Ok(Fenced::Done(true))),
            Action::Settle(settled) => {
                confirmed.extend(settled);
                Input::Settled(Ok(()))
            }
            other => panic!("{other:?}"),
        };
        engine.step(Duration::ZERO, answer);
    }
    confirmed
}

fn at(id: i64) -> Receipt {
    Receipt::at(7, id * 10)
}

/// What was sent: its name, the partition, and how the offset fits the id.
async fn sent<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    let (partition, offset) =
        if D::NAME == "mysql" { ("`partition`", "`offset`") } else { ("partition", "\"offset\"") };
    outbox
        .values(&format!(
            "SELECT concat(event_name, ' ', coalesce(CAST({partition} AS text), '-'), ' ', \
             coalesce(CAST({offset} - 10 * id AS text), '-')) AS value FROM cqrs_outbox_sent ORDER BY id"
        ))
        .await
}

async fn what_was_sent_is_gone<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    publish(&outbox, &["a", "b"]).await;
    owner.store.settle(&confirmed(&owner.read().await, at)).await.unwrap();
    assert_eq!((outbox.waiting().await, outbox.count("cqrs_outbox_sent").await), (0, 0));
}

async fn what_was_sent_is_kept_if_wanted<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    let keyless = letter("rooms", "none", None);
    let binary = letter("rooms", "binary", Some(b"\x00\xff"));
    outbox.transaction(async |tx| tx.publish_all([keyless, binary]).await).await.unwrap();
    publish(&outbox, &["waits"]).await;
    let rows = owner.read().await;
    owner.store.settle(&confirmed(&rows[..1], at)).await.unwrap();
    // A broker that has no partitions.
    owner.store.settle(&confirmed(&rows[1..2], |_| Receipt::new())).await.unwrap();
    assert_eq!(sent(&outbox).await, ["none 7 0", "binary - -"]);
    let left: Vec<_> = owner.read().await.into_iter().map(|row| row.message.name).collect();
    assert_eq!(left, ["waits"]);
    // All of it is there, and its lane.
    let same = "SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox_sent \
        WHERE topic = 'rooms' AND tombstone = (1 = 0) AND payload IS NOT NULL AND size > 0 AND headers IS NOT NULL";
    assert_eq!(outbox.values(same).await, ["2"]);
    let hex = match D::NAME {
        "postgres" => "encode(lane, 'hex')",
        _ => "lower(hex(lane))",
    };
    let lanes = outbox.values(&format!("SELECT {hex} AS value FROM cqrs_outbox_sent ORDER BY id")).await;
    let wanted = rows[..2]
        .iter()
        .map(|row| row.lane.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    assert!(lanes.iter().eq(&wanted.collect::<Vec<_>>()), "{lanes:?}");
}

async fn what_stood_aside_is_kept_with_its_refusals<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    publish(&outbox, &["a"]).await;
    let row = owner.read().await.remove(0);
    let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == row.group).unwrap();
    let verdict = Verdict::Park { retry_in: Duration::ZERO };
    let (lane, error) = (row.lane.clone(), "not yet".to_owned());
    let rejection = Rejection { lease, id: row.id, lane, attempts: 1, error, verdict };
    assert_eq!(owner.store.reject(&rejection).await.unwrap(), Fenced::Done(()));
    owner.store.settle(&confirmed(&owner.parked().await, at)).await.unwrap();
    assert_eq!(sent(&outbox).await, ["a 7 0"]);
    assert_eq!(outbox.count("cqrs_outbox_parked").await, 0);
    let refusals = "SELECT concat(attempts, ' ', error, ' ', errors) AS value FROM cqrs_outbox_sent";
    let refusals = outbox.values(refusals).await.remove(0);
    assert!(refusals.starts_with("1 not yet [{") && refusals.contains("\"at\""), "{refusals}");
}

async fn it_is_kept_once<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    publish(&outbox, &["a", "b", "c"]).await;
    let rows = owner.read().await;
    let all = confirmed(&rows, at);
    owner.store.settle(&confirmed(&rows[..1], at)).await.unwrap();
    // As after an answer that was lost; the first one is settled already.
    owner.store.settle(&all).await.unwrap();
    owner.store.settle(&all).await.unwrap();
    assert_eq!(sent(&outbox).await, ["a 7 0", "b 7 0", "c 7 0"]);
    assert_eq!(outbox.waiting().await, 0);
}

async fn it_is_kept_where_it_was_moved_to<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    let events = [event("a"), event("b")];
    outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    let rows = owner.read().await;
    let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == rows[0].group).unwrap();
    let verdict = Verdict::Park { retry_in: Duration::from_secs(600) };
    let (lane, error) = (rows[0].lane.clone(), "no".to_owned());
    let rejection = Rejection { lease, id: rows[0].id, lane, attempts: 1, error, verdict };
    owner.store.reject(&rejection).await.unwrap();
    owner.store.set_aside(lease, &rows[1].lane, &[rows[1].id], LaterEvents::Wait).await.unwrap();
    // Both were read before.
    owner.store.settle(&confirmed(&rows, at)).await.unwrap();
    assert_eq!(sent(&outbox).await, ["a 7 0", "b 7 0"]);
    assert_eq!(outbox.count("cqrs_outbox_parked").await, 0);
}

/// Makes rows look older, by so many hours.
async fn age<D: Db>(outbox: &Outbox<D>, table: &str, column: &str, hours: u32, which: &str) {
    let past = match D::NAME {
        "postgres" => format!("clock_timestamp() - interval '{hours} hours'"),
        "mysql" => format!("utc_timestamp(6) - INTERVAL {hours} HOUR"),
        _ => format!("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{hours} hours')"),
    };
    outbox.sql(&format!("UPDATE {table} SET {column} = {past} WHERE {which}")).await.unwrap();
}

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// Has these messages handled; which of them are new.
async fn admit<D: Db>(outbox: &Outbox<D>, ids: &[String]) -> Vec<bool> {
    let mut tx = outbox.begin().await.unwrap();
    let mut new = Vec::new();
    for id in ids {
        new.push(outbox.admit(&mut tx, "it", &MessageId::from(&**id)).await.unwrap());
    }
    tx.commit().await.unwrap();
    new
}

async fn send<D: Db>(outbox: &Outbox<D>, names: &[&str]) -> Owner {
    publish(outbox, names).await;
    let owner = Owner::new(outbox).await;
    let rows = owner.read().await;
    owner.store.settle(&confirmed(&rows, at)).await.unwrap();
    owner
}

async fn what_is_old_goes_in_chunks<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    send(&outbox, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(outbox.purge_sent(HOUR, 2).await.unwrap(), 0);
    age(&outbox, "cqrs_outbox_sent", "sent_at", 2, "event_name <> 'e'").await;
    // Nobody else asks for this.
    let seconds = 3_600 + D::NAME.len() as u64;
    assert_eq!(outbox.purge_sent(Duration::from_secs(seconds), 2).await.unwrap(), 4);
    assert_eq!(statements_with(&["cqrs_outbox_sent", &format!("{seconds}.0")]).len(), 3);
    assert_eq!(sent(&outbox).await, ["e 7 0"]);
    // Longer than any date of the databases goes back; and at once.
    assert_eq!(outbox.purge_sent(Duration::MAX, 0).await.unwrap(), 0);
    age(&outbox, "cqrs_outbox_sent", "sent_at", 1, "1 = 1").await;
    assert_eq!(outbox.purge_sent(Duration::ZERO, 0).await.unwrap(), 1);
}

async fn several_purge_at_once<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    admit(&outbox, &(0..300).map(|nth| nth.to_string()).collect::<Vec<_>>()).await;
    age(&outbox, "cqrs_inbox", "handled_at", 2, "1 = 1").await;
    let mut purges = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let outbox = outbox.clone();
        purges.spawn(async move { outbox.purge_inbox(HOUR, 7).await.unwrap() });
    }
    assert_eq!(purges.join_all().await.into_iter().sum::<u64>(), 300);
    assert_eq!(outbox.count("cqrs_inbox").await, 0);
}

/// A message that was handled long ago comes again, and its handler takes its time.
async fn a_purge_waits_for_nobody<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    admit(&outbox, &["a", "b", "c"].map(str::to_owned)).await;
    age(&outbox, "cqrs_inbox", "handled_at", 2, "1 = 1").await;
    let mut handler = outbox.begin().await.unwrap();
    let b = if D::NAME == "postgres" { "'b'::bytea" } else { "'b'" };
    let lock =
        format!("UPDATE cqrs_inbox SET consumer = consumer WHERE consumer = 'it' AND message_id = {b}");
    handler.batch_execute(&lock).await.unwrap();
    let purge = timeout(Duration::from_secs(20), outbox.purge_inbox(HOUR, 1));
    assert_eq!(purge.await.expect("it waits for the handler").unwrap(), 2);
    handler.rollback().await.unwrap();
    assert_eq!(outbox.purge_inbox(HOUR, 1).await.unwrap(), 1);
}

async fn a_purge_goes_on_for_ever<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = send(&outbox, &["a", "b"]).await;
    let purging = tokio::spawn({
        let outbox = outbox.clone();
        // It pauses by the shorter of the two times, and what was sent just now is not old before the test has aged it.
        let retention = Retention::default().sent(HOUR).inbox(Duration::from_secs(1));
        async move { match outbox.purge_for_ever(&retention).await {} }
    });
    let gone = async |left: &[&str]| {
        while sent(&outbox).await != left {
            tokio::task::yield_now().await;
        }
    };
    for which in ["a", "b"] {
        // The second one is not old before the first one is gone.
        age(&outbox, "cqrs_outbox_sent", "sent_at", 2, &format!("event_name = '{which}'")).await;
        let left = if which == "a" { &["b 7 0"][..] } else { &[] };
        timeout(Duration::from_secs(30), gone(left)).await.expect("it is kept");
    }
    drop(owner);
    purging.abort();
}

/// Though one of them cannot be.
async fn each_kind_is_purged_by_itself<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = send(&outbox, &["a"]).await;
    admit(&outbox, &["a".to_owned()]).await;
    let keyed = cqrs_core::Envelope::new(closed("a")).with_dedup_key("expired", HOUR);
    outbox.transaction(async |tx| tx.publish(keyed).await).await.unwrap();
    let rows = owner.bury_all(true, "no").await;
    outbox.discard(rows[0].event_id).await.unwrap();
    owner.beat().await;
    age(&outbox, "cqrs_outbox_request", "done_at", 2, "1 = 1").await;
    age(&outbox, "cqrs_inbox", "handled_at", 2, "1 = 1").await;
    if D::NAME == "sqlite" {
        outbox.sql("UPDATE cqrs_outbox_dedup SET expires_at = 1").await.unwrap();
    } else {
        age(&outbox, "cqrs_outbox_dedup", "expires_at", 2, "1 = 1").await;
    }
    outbox.sql("DROP TABLE cqrs_outbox_sent").await.unwrap();
    let retention = Retention::default().sent(HOUR).inbox(HOUR).requests(HOUR);
    let gone = async {
        for table in ["cqrs_inbox", "cqrs_outbox_request", "cqrs_outbox_dedup"] {
            while outbox.count(table).await > 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        never = outbox.purge_for_ever(&retention) => match never {},
        gone = timeout(Duration::from_secs(30), gone) => gone.expect("it is kept"),
    }
}

async fn a_purge_leaves_what_waits_and_what_is_young<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = send(&outbox, &["old", "young"]).await;
    age(&outbox, "cqrs_outbox_sent", "sent_at", 100, "event_name = 'old'").await;
    publish(&outbox, &["dead"]).await;
    owner.bury_all(true, "no").await;
    age(&outbox, "cqrs_outbox_dead", "dead_at", 100, "1 = 1").await;
    publish(&outbox, &["waits"]).await;
    assert_eq!(outbox.purge_sent(HOUR, 100).await.unwrap(), 1);
    assert_eq!(sent(&outbox).await, ["young 7 0"]);
    assert_eq!((outbox.waiting().await, outbox.count("cqrs_outbox_dead").await), (1, 1));
}

async fn what_was_handled_and_what_was_asked_for_go_too<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    admit(&outbox, &["old", "young"].map(str::to_owned)).await;
    let old =
        if D::NAME == "postgres" { "message_id = 'old'::bytea" } else { "CAST(message_id AS char) = 'old'" };
    let old = if D::NAME == "sqlite" { "CAST(message_id AS text) = 'old'" } else { old };
    age(&outbox, "cqrs_inbox", "handled_at", 2, old).await;
    assert_eq!(outbox.purge_inbox(HOUR, 10).await.unwrap(), 1);
    assert_eq!(admit(&outbox, &["old", "young"].map(str::to_owned)).await, [true, false]);

    publish(&outbox, &["a", "b"]).await;
    let owner = Owner::new(&outbox).await;
    let rows = owner.bury_all(true, "no").await;
    outbox.discard(rows[0].event_id).await.unwrap();
    owner.beat().await;
    age(&outbox, "cqrs_outbox_request", "done_at", 2, "done_at IS NOT NULL").await;
    outbox.replay(rows[1].event_id).await.unwrap();
    assert_eq!(outbox.purge_requests(HOUR, 10).await.unwrap(), 1);
    assert_eq!(outbox.count("cqrs_outbox_request").await, 1);
}
