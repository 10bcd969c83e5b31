//! What a writer asks for beside the event, through every door, and what it costs.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{
    AddOutcome, Added, BeforeCommit, BeginTransaction, Context, Envelope, ErrorKind, EventEmitter, EventMap,
    Message, Outgoing, Request, RequestMap, RequestMediator, Result, ScheduleChange, Transaction,
    Transactional, TransactionalHandler, UnitOfWork, VersionConflict,
};
use cqrs_outbox_diesel::{Outbox, ScheduleFilter, Tx};
use diesel_async::{AsyncConnection, SimpleAsyncConnection, TransactionManager};
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{RoomClosed, closed, read_all, statements_with};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        let mut tests = tests!(writing<D> {
            every_door_honours_what_is_asked_for,
            what_asks_for_nothing_is_one_statement_beside_what_does,
            a_savepoint_takes_back_what_was_asked_for,
            keys_that_are_too_long_are_refused,
            many_keys_at_once,
            expired_keys_are_purged_in_chunks,
            a_purge_leaves_what_is_being_taken_over,
            writers_of_many_keys_meet_no_deadlock,
            what_is_scheduled_is_listed_and_changed,
            a_commit_that_schedules_wakes_the_relay,
        });
        if D::SERVICE.is_some() {
            tests.extend(tests!(writing<D> {
                without_a_lock_two_writers_of_a_key_are_inverted,
                with_a_lock_two_writers_of_a_key_are_in_order,
                a_version_is_locked_before_the_row_has_an_id,
                looking_for_what_is_gone_keeps_nobody_from_scheduling,
            }));
        } else {
            tests.extend(tests!(writing<D> { the_second_writer_begins_when_the_first_has_ended }));
        }
        tests
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn once(room: &str) -> Envelope<RoomClosed> {
    Envelope::new(closed(room)).with_dedup_key(format!("once {room}"), HOUR)
}

fn version(key: &str, version: u64) -> Envelope<RoomClosed> {
    Envelope::new(closed(key)).with_key_version(version)
}

fn outcomes(added: &Added) -> Vec<AddOutcome> {
    added.outcomes().collect()
}

async fn keys<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    let rows = read_all(&D::store(outbox)).await;
    rows.into_iter().map(|row| String::from_utf8(row.message.key.unwrap().into()).unwrap()).collect()
}

/// What was written, whatever its key.
async fn rooms<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    let rows = read_all(&D::store(outbox)).await;
    let room = |payload: &[u8]| serde_json::from_slice::<serde_json::Value>(payload).unwrap()["room"].clone();
    rows.iter()
        .map(|row| room(row.message.payload.as_deref().unwrap()).as_str().unwrap().to_owned())
        .collect()
}

#[derive(Request)]
struct CloseRoom;

struct CloseRoomHandler;

impl<D: Db> TransactionalHandler<CloseRoom, D> for CloseRoomHandler {
    async fn handle(&self, _: CloseRoom, _: &mut Tx<D>, cx: &Context<'_>) -> Result<()> {
        cx.emit(once("a"));
        cx.emit(Envelope::new(closed("b")).deliver_after(HOUR));
        cx.emit(once("emitted"));
        Ok(())
    }
}

async fn every_door_honours_what_is_asked_for<D: Db>(site: &Site) {
    use AddOutcome::{Duplicate, Scheduled, Written};
    let outbox = site.outbox::<D>().await;
    let first = outbox.transaction(async |tx| tx.publish(once("a")).await).await.unwrap();
    assert_eq!(outcomes(&first), [Written]);
    let later = Envelope::new(closed("later")).deliver_at(chrono::Utc::now() + HOUR);
    let all =
        outbox.transaction(async |tx| tx.publish_all([once("a"), later, once("b")]).await).await.unwrap();
    assert_eq!(outcomes(&all), [Duplicate, Scheduled, Written]);
    assert_eq!(all.events[0].id, first.events[0].id);
    assert_eq!(all.ids().count(), 3);

    let mut tx = outbox.begin().await.unwrap();
    assert_eq!(outcomes(&outbox.add(&mut tx, once("b")).await.unwrap()), [Duplicate]);
    let added = outbox.add_all(&mut tx, [once("c"), once("a")]).await.unwrap();
    assert_eq!(outcomes(&added), [Written, Duplicate]);
    let mut by_hand = Message::new("rooms", "{}");
    (by_hand.name, by_hand.key) = ("room_closed".to_owned(), Some("by hand".into()));
    let mut by_hand = Outgoing::from(by_hand);
    by_hand.options.key_version = Some(1);
    outbox.add(&mut tx, by_hand.clone()).await.unwrap();
    let error = outbox.add(&mut tx, by_hand).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        error.downcast_ref::<VersionConflict>().map(|conflict| (conflict.wanted, conflict.stored)),
        Some((1, 1))
    );
    tx.commit().await.unwrap();

    let unit = UnitOfWork::<D>::new(Arc::new(outbox.clone()), BeforeCommit::new());
    let requests = RequestMap::new().bind::<CloseRoom>(Transactional::new(unit, CloseRoomHandler));
    let mediator = RequestMediator::new(requests, EventEmitter::new(EventMap::new())).unwrap();
    mediator.send(CloseRoom).await.unwrap();
    assert_eq!(keys(&outbox).await, ["a", "b", "c", "by hand", "emitted"]);
    assert_eq!(outbox.count("cqrs_outbox_scheduled").await, 2);
    assert_eq!(outbox.status().await.unwrap().scheduled, 2);
}

/// And without any wish, nothing else is asked of the database.
async fn what_asks_for_nothing_is_one_statement_beside_what_does<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mark = Uuid::new_v4().to_string();
    let plain = |nth: usize| Envelope::new(closed(nth)).with_header("mark", mark.clone());
    outbox
        .transaction(async |tx| tx.publish_all((0..50).map(plain).collect::<Vec<_>>()).await)
        .await
        .unwrap();
    assert_eq!(statements_with(&[&mark]).len(), 1);
    let wishes = [plain(1).with_dedup_key(mark.clone(), HOUR), plain(2).with_key_version(1), plain(3)];
    outbox.transaction(async |tx| tx.publish_all(wishes).await).await.unwrap();
    assert_eq!(statements_with(&["INSERT INTO cqrs_outbox (", &mark]).len(), 2, "one INSERT for each call");
}

async fn a_savepoint_takes_back_what_was_asked_for<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let scheduled = outbox
        .transaction(async |tx| tx.publish(Envelope::new(closed("s")).deliver_after(HOUR)).await)
        .await
        .unwrap();
    let scheduled = scheduled.events[0].id.to_uuid().unwrap();
    let wishes = || [once("a").with_key("k").with_key_version(1)];
    let mut tx = outbox.begin().await.unwrap();
    <D::Connection as AsyncConnection>::TransactionManager::begin_transaction(&mut *tx).await.unwrap();
    assert_eq!(outcomes(&tx.publish_all(wishes()).await.unwrap()), [AddOutcome::Written]);
    assert_eq!(tx.cancel(scheduled).await.unwrap(), ScheduleChange::Done);
    <D::Connection as AsyncConnection>::TransactionManager::rollback_transaction(&mut *tx).await.unwrap();
    assert_eq!(outcomes(&tx.publish_all(wishes()).await.unwrap()), [AddOutcome::Written]);
    tx.commit().await.unwrap();
    assert_eq!(keys(&outbox).await, ["k"]);
    assert_eq!(outbox.count("cqrs_outbox_scheduled").await, 1);
}

async fn keys_that_are_too_long_are_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let dedup = |length| Envelope::new(closed("a")).with_dedup_key("x".repeat(length), HOUR);
    outbox.transaction(async |tx| tx.publish(dedup(2_000)).await).await.unwrap();
    let mut tx = outbox.begin().await.unwrap();
    let errors = [
        tx.publish(dedup(2_001)).await.unwrap_err(),
        tx.lock_key("x".repeat(2_001)).await.unwrap_err(),
        tx.publish(version("a", u64::MAX)).await.unwrap_err(),
    ];
    for (error, word) in errors.iter().zip(["deduplication key", "2001 bytes", "18446744073709551615"]) {
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(error.to_string().contains(word), "{error}");
    }
    // The transaction is as it was.
    tx.lock_key("x".repeat(2_000)).await.unwrap();
    tx.publish(version("b", i64::MAX as u64)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(keys(&outbox).await, ["a", "b"]);
}

/// More than one statement may have parameters for.
async fn many_keys_at_once<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let event = |nth: usize| {
        let key = format!("{:05}", nth % 1_500);
        once(&key).with_key_version(7).deliver_after(if nth.is_multiple_of(2) {
            Duration::ZERO
        } else {
            HOUR
        })
    };
    let events: Vec<_> = (0..3_000).map(event).collect();
    let added = outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    let of = |outcome| added.outcomes().filter(|one| *one == outcome).count();
    assert_eq!(
        (of(AddOutcome::Written), of(AddOutcome::Scheduled), of(AddOutcome::Duplicate)),
        (750, 750, 1_500)
    );
    assert_eq!(keys(&outbox).await, (0..1_500).step_by(2).map(|nth| format!("{nth:05}")).collect::<Vec<_>>());
    assert_eq!(
        (outbox.count("cqrs_outbox_scheduled").await, outbox.count("cqrs_outbox_version").await),
        (750, 1_500)
    );
}

/// All windows are over.
async fn expire<D: Db>(outbox: &Outbox<D>) {
    let past = match D::NAME {
        "sqlite" => "unixepoch('now') - 10",
        "mysql" => "utc_timestamp(6) - INTERVAL 10 SECOND",
        _ => "clock_timestamp() - interval '10 seconds'",
    };
    outbox.sql(&format!("UPDATE cqrs_outbox_dedup SET expires_at = {past}")).await.unwrap();
}

async fn expired_keys_are_purged_in_chunks<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let events: Vec<_> = (0..25).map(|nth| once(&nth.to_string())).collect();
    outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    assert_eq!(outbox.purge_dedup(10).await.unwrap(), 0);
    expire(&outbox).await;
    outbox.transaction(async |tx| tx.publish(once("lasts")).await).await.unwrap();
    let deletes = || statements_with(&["DELETE FROM cqrs_outbox_dedup"]).len();
    let before = deletes();
    assert_eq!(outbox.purge_dedup(10).await.unwrap(), 25);
    assert!(deletes() >= before + 3);
    assert_eq!(outbox.count("cqrs_outbox_dedup").await, 1);
    let again =
        outbox.transaction(async |tx| tx.publish_all([once("lasts"), once("1")]).await).await.unwrap();
    assert_eq!(outcomes(&again), [AddOutcome::Duplicate, AddOutcome::Written]);
}

async fn a_purge_leaves_what_is_being_taken_over<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    outbox.transaction(async |tx| tx.publish_all([once("a"), once("b")]).await).await.unwrap();
    expire(&outbox).await;
    if D::SERVICE.is_none() {
        return;
    }
    let mut tx = outbox.begin().await.unwrap();
    assert_eq!(outcomes(&tx.publish(once("a")).await.unwrap()), [AddOutcome::Written]);
    let purged = timeout(Duration::from_secs(20), outbox.purge_dedup(10));
    assert_eq!(purged.await.expect("it waits for a writer").unwrap(), 1);
    tx.commit().await.unwrap();
    let again = outbox.transaction(async |tx| tx.publish(once("a")).await).await.unwrap();
    assert_eq!(outcomes(&again), [AddOutcome::Duplicate]);
}

async fn writers_of_many_keys_meet_no_deadlock<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4_u64 {
        let outbox = outbox.clone();
        tasks.spawn(async move {
            for round in 0..15 {
                // The same keys, in another order each.
                let mut keys: Vec<u64> = (0..8).collect();
                keys.rotate_left((writer * 2) as usize);
                let events: Vec<_> = keys
                    .iter()
                    .map(|key| {
                        Envelope::new(closed(key))
                            .with_dedup_key(format!("{key} {round}"), HOUR)
                            .with_key_version(round + 1)
                    })
                    .collect();
                // Whoever comes second has duplicates only.
                outbox.transaction(async |tx| tx.publish_all(events).await).await?;
            }
            Ok::<_, cqrs_core::Error>(())
        });
    }
    while let Some(written) = tasks.join_next().await {
        match written.unwrap() {
            Ok(()) => {}
            // One writer may be a round ahead of another's.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(outbox.waiting().await, 8 * 15);
}

async fn what_is_scheduled_is_listed_and_changed<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let now = chrono::Utc::now();
    let at = |hours: u32| now + HOUR * hours;
    let events =
        [("a", 3), ("b", 1), ("a", 2)].map(|(key, hours)| Envelope::new(closed(key)).deliver_at(at(hours)));
    let added = outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    let ids: Vec<Uuid> = added.ids().map(|id| id.to_uuid().unwrap()).collect();
    let list = async |filter: ScheduleFilter| -> Vec<Uuid> {
        outbox.scheduled(&filter).await.unwrap().into_iter().map(|event| event.event_id).collect()
    };
    let all = ScheduleFilter::default;
    assert_eq!(list(all()).await, [ids[1], ids[2], ids[0]]);
    assert_eq!(list(all().limit(2)).await, [ids[1], ids[2]]);
    assert_eq!(list(all().key("a")).await, [ids[2], ids[0]]);
    assert!(list(all().key("A")).await.is_empty());
    assert_eq!(list(all().event_id(ids[0])).await, [ids[0]]);
    assert_eq!(list(all().before(at(2))).await, [ids[1]]);
    assert_eq!(list(all().topic("rooms").name("room_closed")).await.len(), 3);
    assert!(list(all().topic("halls")).await.is_empty() && list(all().name("x")).await.is_empty());
    let event = outbox.scheduled(&all().event_id(ids[1])).await.unwrap().remove(0);
    assert!((event.deliver_at - at(1)).num_milliseconds().abs() <= 1, "{event:?}");
    assert_eq!((event.message.key.as_deref(), &*event.message.name), (Some(&b"b"[..]), "room_closed"));
    assert_eq!(event.message.payload.as_deref(), Some(&br#"{"room":"b"}"#[..]));
    assert!(event.message.headers.get("cqrs-id").is_some());

    assert_eq!(outbox.cancel(ids[1]).await.unwrap(), ScheduleChange::Done);
    assert_eq!(outbox.cancel(ids[1]).await.unwrap(), ScheduleChange::TooLate);
    assert_eq!(outbox.reschedule(ids[0], at(1)).await.unwrap(), ScheduleChange::Done);
    assert_eq!(outbox.reschedule(ids[1], at(1)).await.unwrap(), ScheduleChange::TooLate);
    assert_eq!(list(all()).await, [ids[0], ids[2]]);
    let far = "+10000-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(outbox.reschedule(ids[0], far).await.unwrap_err().kind(), ErrorKind::InvalidEvent);
}

async fn a_commit_that_schedules_wakes_the_relay<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let wakes = async |what: &str| {
        timeout(Duration::from_secs(10), store.changed())
            .await
            .unwrap_or_else(|_| panic!("{what} was missed"));
    };
    let later = Envelope::new(closed(1)).deliver_after(HOUR);
    let added = outbox.transaction(async |tx| tx.publish(later).await).await.unwrap();
    let id = added.events[0].id.to_uuid().unwrap();
    wakes("a scheduled event").await;
    assert_eq!(outbox.reschedule(id, chrono::Utc::now()).await.unwrap(), ScheduleChange::Done);
    wakes("another time").await;
    let moved = outbox.transaction(async |tx| tx.reschedule(id, chrono::Utc::now()).await).await.unwrap();
    assert_eq!(moved, ScheduleChange::Done);
    wakes("another time in a transaction").await;
}

/// Ids are drawn when a row is written: whoever writes first goes first, whichever commits first.
async fn without_a_lock_two_writers_of_a_key_are_inverted<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let (mut one, mut two) = (outbox.begin().await.unwrap(), outbox.begin().await.unwrap());
    one.publish(Envelope::new(closed("committed last")).with_key("k")).await.unwrap();
    two.publish(Envelope::new(closed("committed first")).with_key("k")).await.unwrap();
    two.commit().await.unwrap();
    one.commit().await.unwrap();
    assert_eq!(rooms(&outbox).await, ["committed last", "committed first"]);
}

async fn with_a_lock_two_writers_of_a_key_are_in_order<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut one = outbox.begin().await.unwrap();
    one.lock_key("k").await.unwrap();
    let second = tokio::spawn({
        let outbox = outbox.clone();
        async move {
            let mut two = outbox.begin().await?;
            two.lock_key("k").await?;
            two.publish(Envelope::new(closed("second")).with_key("k")).await?;
            two.commit().await
        }
    });
    outbox.is_waited_for(&second).await;
    // Had the second one not waited, its row would be there, with the smaller id.
    one.publish(Envelope::new(closed("first")).with_key("k")).await.unwrap();
    one.commit().await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(rooms(&outbox).await, ["first", "second"]);
}

async fn a_version_is_locked_before_the_row_has_an_id<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut one = outbox.begin().await.unwrap();
    one.publish(version("k", 1).with_header("nth", "first")).await.unwrap();
    let second = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.transaction(async |tx| tx.publish(version("k", 2)).await).await }
    });
    outbox.is_waited_for(&second).await;
    // A third row of the first one's, of the same key: it must be before the second one's.
    one.publish(closed("k")).await.unwrap();
    one.commit().await.unwrap();
    let second = second.await.unwrap().unwrap();
    let rows = read_all(&D::store(&outbox)).await;
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2].message.id, Some(second.events[0].id.clone()));
}

async fn looking_for_what_is_gone_keeps_nobody_from_scheduling<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut tx = outbox.begin().await.unwrap();
    assert_eq!(tx.cancel(Uuid::now_v7()).await.unwrap(), ScheduleChange::TooLate);
    assert_eq!(tx.reschedule(Uuid::now_v7(), chrono::Utc::now()).await.unwrap(), ScheduleChange::TooLate);
    let later = Envelope::new(closed(1)).deliver_after(HOUR);
    let schedule = outbox.transaction(async |tx| tx.publish(later).await);
    timeout(Duration::from_secs(20), schedule).await.expect("a gap is locked").unwrap();
    tx.commit().await.unwrap();
}

/// So there is nothing to lock.
async fn the_second_writer_begins_when_the_first_has_ended<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut one = outbox.begin().await.unwrap();
    one.batch_execute("SELECT 1").await.unwrap();
    let second = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.transaction(async |tx| tx.publish(closed("second")).await).await }
    });
    outbox.is_waited_for(&second).await;
    one.lock_key("k").await.unwrap();
    one.publish(closed("first")).await.unwrap();
    one.commit().await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(keys(&outbox).await, ["first", "second"]);
}
