//! Events that wait for their time.

use std::collections::HashSet;
use std::time::Duration;

use cqrs_core::{BeginTransaction, Transaction};
use cqrs_outbox::{Lease, OutboxRow, Promoted, RelayId};
use cqrs_outbox_diesel::Outbox;
use diesel_async::SimpleAsyncConnection;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, own_all, read_all};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        let mut tests = tests!(scheduled<D> {
            plain_sql_schedules_too,
            what_is_due_at_once_goes_in_parts,
            a_lease_that_was_lost_promotes_nothing,
            relays_that_promote_at_once_move_each_row_once,
        });
        if D::SERVICE.is_some() {
            tests.extend(tests!(scheduled<D> {
                what_a_writer_holds_is_not_waited_for_and_holds_back_its_key,
                who_holds_very_many_does_not_hold_others_back,
                what_a_heartbeat_holds_is_not_waited_for,
            }));
        }
        tests
    }
}

/// A time so many seconds from now, as SQL.
fn at<D: Db>(seconds: i64) -> String {
    match D::NAME {
        "postgres" => format!("clock_timestamp() + interval '{seconds} seconds'"),
        "mysql" => format!("utc_timestamp(6) + INTERVAL {seconds} SECOND"),
        _ => format!("unixepoch('now', 'subsec') + {seconds}"),
    }
}

/// Plain SQL for an event of this key, whose payload is its name here.
fn insert<D: Db>(key: &str, name: &str, seconds: i64) -> String {
    format!(
        "INSERT INTO cqrs_outbox_scheduled (event_name, topic, message_key, payload_text, deliver_at) \
         VALUES ('room_closed', 'rooms', '{key}', '{name}', {});",
        at::<D>(seconds)
    )
}

fn relay(name: &str) -> RelayId {
    RelayId { name: name.to_owned(), incarnation: Uuid::new_v4() }
}

async fn owner<D: Db>(outbox: &Outbox<D>) -> Vec<Lease> {
    own_all(&D::store(outbox), &relay("owner")).await
}

async fn promote<D: Db>(outbox: &Outbox<D>, leases: &[Lease], limit: usize) -> Promoted {
    let store = D::store(outbox);
    let promoted = timeout(Duration::from_secs(20), store.promote(leases, limit));
    promoted.await.expect("it waits for somebody").unwrap()
}

/// The payloads of plain SQL in the hot table, in the order of their ids.
async fn hot<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    outbox
        .values("SELECT payload_text AS value FROM cqrs_outbox WHERE payload_text IS NOT NULL ORDER BY id")
        .await
}

async fn scheduled<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    outbox.values("SELECT payload_text AS value FROM cqrs_outbox_scheduled ORDER BY deliver_at, id").await
}

async fn plain_sql_schedules_too<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    assert_eq!(promote(&outbox, &leases, 10).await, Promoted { moved: 0, next_due: None });
    outbox.transaction(async |tx| tx.publish(closed("a")).await).await.unwrap();
    for (key, name, seconds) in
        [("a", "2", -10), ("a", "4", 3_000), ("b", "3", -10), ("a", "1", -20), ("a", "5", 4_000)]
    {
        outbox.sql(&insert::<D>(key, name, seconds)).await.unwrap();
    }
    let promoted = promote(&outbox, &leases, 10).await;
    assert_eq!(promoted.moved, 3);
    let wait = promoted.next_due.unwrap().as_secs();
    assert!((2_000..=3_000).contains(&wait), "{wait}");
    let again = promote(&outbox, &leases, 10).await;
    assert_eq!((again.moved, again.next_due.unwrap().as_secs() / 1_000), (0, 2));
    assert_eq!(hot(&outbox).await, ["1", "2", "3"]);
    assert_eq!(scheduled(&outbox).await, ["4", "5"]);

    // They are rows as any others, behind what was written before.
    let free = "UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL";
    outbox.sql(free).await.unwrap();
    let rows: Vec<OutboxRow> = read_all(&D::store(&outbox)).await;
    let payloads: Vec<_> = rows.iter().filter_map(|row| row.message.payload.as_deref()).skip(1).collect();
    assert_eq!(payloads, [b"1", b"2", b"3"]);
    let lane = |nth: usize| rows[nth].lane.clone();
    assert!(lane(0) == lane(1) && lane(1) == lane(2) && lane(2) != lane(3));
    assert_eq!(rows[0].group, rows[1].group);
    assert_eq!(rows.iter().map(|row| row.event_id).collect::<HashSet<_>>().len(), 4);
    assert!(rows.iter().all(|row| row.size > 0 && !row.event_id.is_nil() && !row.message.headers.is_empty()));
}

async fn what_is_due_at_once_goes_in_parts<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    // Of one time: in the order in which they were written.
    let names: Vec<String> = (0..10).map(|nth| nth.to_string()).collect();
    let values: Vec<String> =
        names.iter().map(|name| format!("('n', 't', '{name}', '{name}', {})", "at")).collect();
    let sql = format!(
        "INSERT INTO cqrs_outbox_scheduled (event_name, topic, message_key, payload_text, deliver_at) VALUES {};",
        values.join(", ").replace("at)", &format!("{})", at::<D>(0)))
    );
    // One statement has one time, but for PostgreSQL's clock.
    outbox.sql(&sql.replace("clock_timestamp()", "statement_timestamp()")).await.unwrap();
    for (moved, left) in [(4, 6), (4, 2), (2, 0), (0, 0)] {
        let promoted = promote(&outbox, &leases, 4).await;
        assert_eq!(promoted, Promoted { moved, next_due: (left > 0).then_some(Duration::ZERO) });
    }
    assert_eq!(hot(&outbox).await, names);
}

async fn a_lease_that_was_lost_promotes_nothing<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let (one, two) = (relay("one"), relay("two"));
    let lost = own_all(&store, &one).await;
    outbox.sql(&insert::<D>("a", "1", -10)).await.unwrap();
    store.leave(&one).await.unwrap();
    let owned = own_all(&store, &two).await;
    assert_eq!(promote(&outbox, &lost, 10).await.moved, 0);
    assert_eq!(promote(&outbox, &[], 10).await, Promoted { moved: 0, next_due: None });
    // Whoever owns other groups only.
    let mut others = Vec::new();
    if D::SERVICE.is_some() {
        let slots = outbox.values("SELECT CAST(slot AS text) AS value FROM cqrs_outbox_scheduled").await;
        let group = slots[0].parse::<i32>().unwrap() / 64;
        others.extend(owned.iter().copied().filter(|lease| lease.group.0 != group));
    }
    assert_eq!(promote(&outbox, &others, 10).await, Promoted { moved: 0, next_due: None });
    assert_eq!(scheduled(&outbox).await, ["1"]);
    assert_eq!(promote(&outbox, &owned, 10).await, Promoted { moved: 1, next_due: None });
    assert_eq!(hot(&outbox).await, ["1"]);
}

/// As when a relay was stopped in its tracks and goes on: both believe that they own the groups.
async fn relays_that_promote_at_once_move_each_row_once<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    let sql: String =
        (0..200).map(|nth| insert::<D>(&(nth % 7).to_string(), &nth.to_string(), nth - 300)).collect();
    outbox.sql(&sql).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (outbox, leases) = (outbox.clone(), leases.clone());
        tasks.spawn(async move {
            let mut moved = 0;
            loop {
                let promoted = promote(&outbox, &leases, 9).await;
                moved += promoted.moved;
                if promoted.next_due.is_none() {
                    return moved;
                }
            }
        });
    }
    let mut moved = 0;
    while let Some(some) = tasks.join_next().await {
        moved += some.unwrap();
    }
    assert_eq!(moved, 200);
    // Each once, and each key in its order.
    let all: Vec<usize> = hot(&outbox).await.iter().map(|name| name.parse().unwrap()).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 200);
    for key in 0..7 {
        let of_key: Vec<usize> = all.iter().copied().filter(|nth| nth % 7 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

async fn what_a_writer_holds_is_not_waited_for_and_holds_back_its_key<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    for (key, name, seconds) in [("a", "a1", -30), ("a", "a2", -20), ("b", "b1", -10)] {
        outbox.sql(&insert::<D>(key, name, seconds)).await.unwrap();
    }
    let mut writer = outbox.begin().await.unwrap();
    let first = "SELECT CAST(id AS text) AS value FROM cqrs_outbox_scheduled ORDER BY id LIMIT 1";
    let first = outbox.values(first).await.remove(0);
    writer.batch_execute(&format!("DELETE FROM cqrs_outbox_scheduled WHERE id = {first}")).await.unwrap();
    assert_eq!(promote(&outbox, &leases, 10).await.moved, 1);
    assert_eq!(hot(&outbox).await, ["b1"]);
    let held_up = promote(&outbox, &leases, 10).await;
    assert_eq!(held_up.moved, 0);
    assert!(held_up.next_due.is_some_and(|wait| !wait.is_zero()), "it would spin: {held_up:?}");
    writer.rollback().await.unwrap();
    assert_eq!(promote(&outbox, &leases, 10).await.moved, 2);
    assert_eq!(hot(&outbox).await, ["b1", "a1", "a2"]);
}

/// More than are promoted at once, of two keys; one of them has some that nobody holds.
async fn who_holds_very_many_does_not_hold_others_back<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    for (key, count, seconds) in [("a", 30, -900), ("c", 30, -800), ("c", 1, -700), ("b", 3, -600)] {
        let some: String = (0..count)
            .map(|nth| insert::<D>(key, &format!("{key}{}", nth - seconds), seconds + nth))
            .collect();
        outbox.sql(&some).await.unwrap();
    }
    let slots = "SELECT DISTINCT CAST(slot AS text) AS value FROM cqrs_outbox_scheduled";
    assert_eq!(outbox.values(slots).await.len(), 3, "keys are of one slot: take others");
    let order = scheduled(&outbox).await;
    let mut writer = outbox.begin().await.unwrap();
    let all = "SELECT CAST(id AS text) AS value FROM cqrs_outbox_scheduled ORDER BY deliver_at, id";
    for id in &outbox.values(all).await[..60] {
        writer.batch_execute(&format!("DELETE FROM cqrs_outbox_scheduled WHERE id = {id}")).await.unwrap();
    }
    assert_eq!(promote(&outbox, &leases, 2).await.moved, 2);
    assert_eq!(promote(&outbox, &leases, 10).await.moved, 1);
    assert_eq!(hot(&outbox).await, ["b600", "b601", "b602"]);
    let held_up = promote(&outbox, &leases, 10).await;
    assert_eq!(held_up.moved, 0);
    assert!(held_up.next_due.is_some_and(|wait| !wait.is_zero()), "it would spin: {held_up:?}");
    writer.rollback().await.unwrap();
    assert_eq!(promote(&outbox, &leases, 100).await.moved, 61);
    let others: Vec<String> = hot(&outbox).await.into_iter().skip(3).collect();
    let wanted: Vec<String> = order.into_iter().filter(|name| !name.starts_with('b')).collect();
    assert_eq!(others, wanted);
}

async fn what_a_heartbeat_holds_is_not_waited_for<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let leases = owner(&outbox).await;
    outbox.sql(&insert::<D>("a", "1", -10)).await.unwrap();
    let mut beat = outbox.begin().await.unwrap();
    beat.batch_execute("UPDATE cqrs_outbox_group SET owner = 'me'").await.unwrap();
    let held_up = promote(&outbox, &leases, 10).await;
    assert_eq!(held_up.moved, 0);
    assert!(held_up.next_due.is_some_and(|wait| !wait.is_zero()), "it would spin: {held_up:?}");
    beat.rollback().await.unwrap();
    assert_eq!(promote(&outbox, &leases, 10).await.moved, 1);
}
