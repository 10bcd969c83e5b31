//! Ids that come again, because the sequence stands behind those that are in use: nothing of what has one of them is lost,
//! mixed up, or tried for ever, and the check says how to mend it.

use std::time::Duration;

use cqrs_core::broker::Receipt;
use cqrs_outbox::{Fenced, LaterEvents, OutboxRow, Place, Rejection, Verdict};
use cqrs_outbox_diesel::{
    Asking, DeadLetterFilter, Outbox, Page, RequestFilter, RequestKind, RequestOutcome,
};

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, letter};
use crate::harness::{OnEach, Test, tests};
use crate::retention::{confirmed, keeping};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(returning_ids<D> {
            the_check_says_how_to_mend_it,
            each_dead_letter_stays_itself,
            each_parked_one_stays_itself,
            what_goes_aside_has_its_own_place,
            what_goes_aside_stays_in_order,
            what_comes_back_stays_in_order,
            a_dead_letter_goes_back_beside_another,
            a_refusal_is_of_the_one_that_was_sent,
            a_refusal_is_of_the_one_that_stands_aside,
            a_receipt_is_for_the_one_that_was_sent,
            a_request_is_for_the_one_that_was_seen,
            what_is_kept_is_kept_twice,
        })
    }
}

/// The hot table is emptied, and its ids begin again.
async fn begin_again<D: Db>(outbox: &Outbox<D>) {
    let sql = match D::NAME {
        "postgres" => "TRUNCATE cqrs_outbox RESTART IDENTITY",
        "mysql" => "TRUNCATE TABLE cqrs_outbox",
        _ => "DELETE FROM cqrs_outbox; DELETE FROM sqlite_sequence WHERE name = 'cqrs_outbox'",
    };
    outbox.sql(sql).await.unwrap();
}

async fn publish<D: Db>(outbox: &Outbox<D>, name: &str, key: &str) {
    let event = letter("rooms", name, Some(key.as_bytes()));
    outbox.transaction(async move |tx| tx.publish(event).await).await.unwrap();
}

/// The only one that may be sent.
async fn hot(owner: &Owner) -> OutboxRow {
    let [row] = owner.read().await.try_into().unwrap();
    row
}

async fn reject(owner: &Owner, row: &OutboxRow, attempts: u32, verdict: Verdict) {
    let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == row.group).unwrap();
    let (lane, error) = (row.lane.clone(), format!("{} no {attempts}", row.message.name));
    let rejection = Rejection { lease, id: row.id, lane, attempts, error, verdict };
    assert_eq!(owner.store.reject(&rejection).await.unwrap(), Fenced::Done(()));
}

const PARK: Verdict = Verdict::Park { retry_in: Duration::ZERO };
const BURY: Verdict = Verdict::Bury { later: LaterEvents::GoOn };

fn names(rows: &[OutboxRow]) -> Vec<&str> {
    rows.iter().map(|row| &*row.message.name).collect()
}

/// What stands in a table: name and last error.
async fn table<D: Db>(outbox: &Outbox<D>, table: &str) -> Vec<String> {
    let all = format!("SELECT concat(event_name, ': ', error) AS value FROM {table} ORDER BY event_name");
    outbox.values(&all).await
}

async fn parked<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    table(outbox, "cqrs_outbox_parked").await
}

async fn dead<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    table(outbox, "cqrs_outbox_dead").await
}

/// An event `old` that is parked, or dead, and another one, `new`, of another key that has the same id.
async fn twice<D: Db>(site: &Site, verdict: Verdict) -> (Outbox<D>, Owner, OutboxRow, OutboxRow) {
    twice_in(site.outbox::<D>().await, verdict).await
}

async fn twice_in<D: Db>(outbox: Outbox<D>, verdict: Verdict) -> (Outbox<D>, Owner, OutboxRow, OutboxRow) {
    let owner = Owner::new(&outbox).await;
    publish(&outbox, "old", "a").await;
    let old = hot(&owner).await;
    reject(&owner, &old, 1, verdict).await;
    begin_again(&outbox).await;
    publish(&outbox, "new", "b").await;
    let new = hot(&owner).await;
    assert_eq!(new.id, old.id, "it does not come again");
    (outbox, owner, old, new)
}

async fn the_check_says_how_to_mend_it<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    for verdict in [PARK, BURY] {
        publish(&outbox, "old", "a").await;
        let old = owner.read().await.remove(0);
        reject(&owner, &old, 1, verdict).await;
        assert_eq!(outbox.drift().await.unwrap(), []);
        begin_again(&outbox).await;
        let [drift] = outbox.drift().await.unwrap().try_into().unwrap();
        let said = drift.to_string();
        assert!(drift.is_serious && said.starts_with("the sequence of `cqrs_outbox.id` "), "{said}");
        assert!(said.contains(&old.id.to_string()), "{said}");
        // The statement stands between the last back-quotes.
        outbox.sql(drift.advice.rsplit('`').nth(1).unwrap()).await.unwrap();
        assert_eq!(outbox.drift().await.unwrap(), []);
        publish(&outbox, "new", "b").await;
        let new = owner.read().await.remove(0);
        assert!(new.id > old.id, "{} and {}", new.id, old.id);
        begin_again(&outbox).await;
        outbox.sql("DELETE FROM cqrs_outbox_parked").await.unwrap();
    }
}

async fn each_dead_letter_stays_itself<D: Db>(site: &Site) {
    for parked_before in [false, true] {
        let (outbox, owner, old, new) = twice::<D>(site, BURY).await;
        if parked_before {
            reject(&owner, &new, 1, PARK).await;
            let new = owner.parked().await.remove(0);
            reject(&owner, &new, 2, BURY).await;
            assert_eq!(dead(&outbox).await, ["new: new no 2", "old: old no 1"]);
        } else {
            reject(&owner, &new, 1, Verdict::Bury { later: LaterEvents::Wait }).await;
            assert_eq!(dead(&outbox).await, ["new: new no 1", "old: old no 1"]);
        }
        outbox.replay(new.event_id).await.unwrap();
        assert_eq!(names(&owner.parked().await), ["new"]);
        outbox.discard(old.event_id).await.unwrap();
        owner.beat().await;
        assert_eq!(dead(&outbox).await, [""; 0]);
        assert_eq!(names(&owner.parked().await), ["new"]);
    }
}

async fn each_parked_one_stays_itself<D: Db>(site: &Site) {
    let (outbox, owner, _, new) = twice::<D>(site, PARK).await;
    reject(&owner, &new, 1, PARK).await;
    // Both are read, and so the gates are those of their own groups.
    let mut rows = owner.parked().await;
    rows.sort_by(|a, b| a.message.name.cmp(&b.message.name));
    assert_eq!(names(&rows), ["new", "old"]);
    assert_eq!((rows[0].group, rows[0].event_id), (new.group, new.event_id));
    assert_ne!(rows[0].id, rows[1].id);
    assert_eq!(parked(&outbox).await, ["new: new no 1", "old: old no 1"]);
}

async fn what_goes_aside_has_its_own_place<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    for name in ["old 1", "old 2"] {
        publish(&outbox, name, name).await;
    }
    for row in owner.read().await {
        reject(&owner, &row, 1, PARK).await;
    }
    begin_again(&outbox).await;
    for name in ["new 1", "new 2", "new 3"] {
        publish(&outbox, name, "b").await;
    }
    let rows = owner.read().await;
    reject(&owner, &rows[0], 1, PARK).await;
    let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == rows[0].group).unwrap();
    let rest: Vec<i64> = rows[1..].iter().map(|row| row.id).collect();
    let answer = owner.store.set_aside(lease, &rows[0].lane, &rest, LaterEvents::Wait).await.unwrap();
    assert_eq!((answer, outbox.waiting().await), (Fenced::Done(true), 0));
    let mut rows = owner.parked().await;
    rows.sort_by_key(|row| row.event_id);
    rows.dedup_by_key(|row| row.id);
    assert_eq!(rows.len(), 5);
}

async fn a_dead_letter_goes_back_beside_another<D: Db>(site: &Site) {
    let (outbox, owner, old, new) = twice::<D>(site, BURY).await;
    // As a restore of one of the tables may leave it.
    reject(&owner, &new, 1, PARK).await;
    outbox.sql(&format!("UPDATE cqrs_outbox_parked SET id = {}", old.id)).await.unwrap();
    outbox.replay(old.event_id).await.unwrap();
    let rows = owner.parked().await;
    assert!(rows.len() == 2 && rows[0].id != rows[1].id, "{rows:?}");
    assert_eq!(dead(&outbox).await, [""; 0]);
    let done = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().remove(0);
    assert_eq!(done.done.unwrap().1, RequestOutcome::Replayed);
}

async fn a_refusal_is_of_the_one_that_was_sent<D: Db>(site: &Site) {
    let (outbox, owner, old, new) = twice::<D>(site, PARK).await;
    let old = OutboxRow { place: Place::Parked, ..old };
    reject(&owner, &old, 2, PARK).await;
    assert_eq!(parked(&outbox).await, ["old: old no 2"]);
    assert_eq!(hot(&owner).await, new);
    // Twice, as after an answer that was lost.
    for _ in 0..2 {
        reject(&owner, &old, 3, BURY).await;
        assert_eq!(dead(&outbox).await, ["old: old no 3"]);
        assert_eq!(hot(&owner).await, new);
    }
    reject(&owner, &old, 2, PARK).await;
    assert_eq!(hot(&owner).await, new);
}

async fn a_refusal_is_of_the_one_that_stands_aside<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    publish(&outbox, "old", "a").await;
    let old = hot(&owner).await;
    reject(&owner, &old, 1, PARK).await;
    begin_again(&outbox).await;
    // Of the same key: it waits behind the gate.
    publish(&outbox, "new", "a").await;
    let new = hot(&owner).await;
    assert_eq!((new.id, new.place), (old.id, Place::Gated));
    reject(&owner, &old, 2, PARK).await;
    assert_eq!(parked(&outbox).await, ["old: old no 2"]);
    reject(&owner, &old, 3, BURY).await;
    assert_eq!((dead(&outbox).await, outbox.waiting().await), (vec!["old: old no 3".to_owned()], 1));
}

async fn a_receipt_is_for_the_one_that_was_sent<D: Db>(site: &Site) {
    for keeps in [false, true] {
        let outbox = if keeps { keeping::<D>(site).await } else { site.outbox().await };
        let (outbox, owner, old, new) = twice_in(outbox, PARK).await;
        let store = D::store(&outbox);
        let receipt = confirmed(&[new], |_| Receipt::new());
        for _ in 0..2 {
            store.settle(&receipt).await.unwrap();
            assert_eq!((outbox.waiting().await, parked(&outbox).await.len()), (0, 1));
        }
        // The other one goes, and a third comes to where it stood.
        let old = OutboxRow { place: Place::Parked, ..old };
        let receipt = confirmed(std::slice::from_ref(&old), |_| Receipt::new());
        store.settle(&receipt).await.unwrap();
        assert_eq!(parked(&outbox).await, [""; 0]);
        begin_again(&outbox).await;
        publish(&outbox, "newer", "c").await;
        let newer = hot(&owner).await;
        reject(&owner, &newer, 1, PARK).await;
        store.settle(&receipt).await.unwrap();
        assert_eq!(parked(&outbox).await, ["newer: newer no 1"]);
    }
}

async fn a_request_is_for_the_one_that_was_seen<D: Db>(site: &Site) {
    let (outbox, owner, old, new) = twice::<D>(site, BURY).await;
    let seen = outbox.dead_letters(&DeadLetterFilter::new(), Page::oldest_first()).await.unwrap();
    assert_eq!(seen[0].event_id, old.event_id);
    // It goes by another hand, and its id comes again.
    outbox.sql("DELETE FROM cqrs_outbox_dead").await.unwrap();
    reject(&owner, &new, 1, BURY).await;
    outbox.ask_for(RequestKind::Discard, &seen, &Asking::new()).await.unwrap();
    owner.beat().await;
    assert_eq!(dead(&outbox).await, ["new: new no 1"]);
    let done = outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().remove(0);
    assert_eq!(done.done.unwrap().1, RequestOutcome::Gone);
}

async fn what_is_kept_is_kept_twice<D: Db>(site: &Site) {
    let outbox = keeping::<D>(site).await;
    let owner = Owner::new(&outbox).await;
    let kept =
        async || outbox.values("SELECT event_name AS value FROM cqrs_outbox_sent ORDER BY event_name").await;
    for name in ["a", "b", "c"] {
        publish(&outbox, name, name).await;
        let row = hot(&owner).await;
        if name == "c" {
            reject(&owner, &row, 1, PARK).await;
        }
        let row = if name == "c" { owner.parked().await.remove(0) } else { row };
        owner.store.settle(&confirmed(&[row], |_| Receipt::new())).await.unwrap();
        begin_again(&outbox).await;
    }
    assert_eq!(kept().await, ["a", "b", "c"]);
}

/// The first three ids of these keys are in use, in this table.
async fn in_use<D: Db>(site: &Site, verdict: Verdict, keys: [&str; 3]) -> (Outbox<D>, Owner) {
    let outbox = site.outbox::<D>().await;
    let owner = Owner::new(&outbox).await;
    for key in keys {
        publish(&outbox, "old", key).await;
    }
    for row in owner.read().await {
        reject(&owner, &row, 1, verdict).await;
    }
    begin_again(&outbox).await;
    (outbox, owner)
}

/// Of those that go aside the second cannot keep its id, and one comes after them.
async fn what_goes_aside_stays_in_order<D: Db>(site: &Site) {
    for verdict in [PARK, BURY] {
        let (outbox, owner) = in_use::<D>(site, verdict, ["x", "y", "z"]).await;
        let table = if verdict == PARK { "cqrs_outbox_parked" } else { "cqrs_outbox_dead" };
        outbox.sql(&format!("DELETE FROM {table} WHERE id <> 3")).await.unwrap();
        for name in ["1", "2", "3", "4", "5", "6"] {
            publish(&outbox, name, "a").await;
        }
        let rows = owner.read().await;
        reject(&owner, &rows[0], 1, PARK).await;
        let lease = *owner.beat().await.leases.iter().find(|lease| lease.group == rows[0].group).unwrap();
        for some in [&rows[1..4], &rows[4..5], &rows[5..]] {
            let ids: Vec<_> = some.iter().map(|row| row.id).collect();
            assert_eq!(
                owner.store.set_aside(lease, &rows[0].lane, &ids, LaterEvents::Wait).await.unwrap(),
                Fenced::Done(true)
            );
        }
        let parked: Vec<_> =
            owner.parked().await.into_iter().filter(|row| row.lane == rows[0].lane).collect();
        assert_eq!(names(&parked), ["1", "2", "3", "4", "5", "6"]);
    }
}

/// Of those that are replayed the second cannot keep its id.
async fn what_comes_back_stays_in_order<D: Db>(site: &Site) {
    let (outbox, owner) = in_use::<D>(site, BURY, ["a", "a", "a"]).await;
    for _ in 0..3 {
        publish(&outbox, "new", "b").await;
    }
    let rows = owner.read().await;
    outbox.sql("UPDATE cqrs_outbox_dead SET event_name = CAST(id AS char(1))").await.unwrap();
    outbox.sql(&format!("DELETE FROM cqrs_outbox WHERE id <> {}", rows[1].id)).await.unwrap();
    // It goes aside with its own id, whoever has it among the dead letters.
    let dead = "cqrs_outbox_dead SET id = id + 10";
    outbox.sql(&format!("UPDATE {dead}")).await.unwrap();
    reject(&owner, &rows[1], 1, PARK).await;
    outbox.sql(&format!("UPDATE {}", dead.replace('+', "-"))).await.unwrap();
    outbox.replay_all(&DeadLetterFilter::new(), &Asking::new()).await.unwrap();
    let parked: Vec<_> = owner.parked().await.into_iter().filter(|row| row.lane != rows[1].lane).collect();
    assert_eq!(names(&parked), ["1", "2", "3"]);
}
