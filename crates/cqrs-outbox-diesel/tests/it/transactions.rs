//! What a transaction leaves behind, however it ends.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{
    BeforeCommit, BeginTransaction, Context, Encoder, Envelope, Error, ErrorKind, EventEmitter, EventMap,
    Message, Request, RequestMap, RequestMediator, Result, Transaction, Transactional, TransactionalHandler,
    UnitOfWork,
};
use cqrs_outbox_diesel::{Outbox, Tx};
use diesel_async::{AsyncConnection, SimpleAsyncConnection, TransactionManager};
use tokio::time::timeout;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{RoomClosed, closed, read_all, statements_with};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(transactions<D> {
            it_commits_and_gives_the_value,
            an_error_rolls_back_and_keeps_its_type,
            a_savepoint_takes_its_events_back,
            a_savepoint_that_is_open_is_not_committed_in_silence,
            it_runs_in_a_spawned_task,
            a_dropped_future_leaves_nothing,
            a_dropped_transaction_frees_its_locks,
            a_dropped_commit_leaves_a_pool_that_works,
            an_event_that_is_too_large_is_refused,
            one_refused_event_refuses_all,
            an_id_that_is_no_uuid_is_refused,
            many_events_are_one_statement,
            very_many_events_keep_their_order,
            it_writes_on_a_connection_of_your_own,
            a_commit_wakes_the_relay,
            a_transactional_handler_says_events,
        })
    }
}

/// A table of the application's.
async fn with_rooms<D: Db>(site: &Site) -> Outbox<D> {
    let outbox = site.outbox::<D>().await;
    outbox.sql("CREATE TABLE rooms (name text NOT NULL)").await.unwrap();
    outbox
}

async fn rooms<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    outbox.values("SELECT name AS value FROM rooms ORDER BY name").await
}

async fn keys<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    let rows = read_all(&D::store(outbox)).await;
    rows.into_iter().map(|row| String::from_utf8(row.message.key.unwrap().into()).unwrap()).collect()
}

async fn it_commits_and_gives_the_value<D: Db>(site: &Site) {
    let outbox = with_rooms::<D>(site).await;
    let value = outbox
        .transaction(async |tx| {
            tx.batch_execute("INSERT INTO rooms VALUES ('5')").await?;
            tx.publish(closed(5)).await?;
            tx.publish_all([closed(6), closed(7)]).await?;
            tx.publish_all(Vec::<RoomClosed>::new()).await?;
            Ok(17)
        })
        .await
        .unwrap();
    assert_eq!(value, 17);
    assert_eq!(rooms(&outbox).await, ["5"]);
    assert_eq!(keys(&outbox).await, ["5", "6", "7"]);
}

#[derive(Debug)]
enum Mine {
    Full(u32),
    Toolkit(Error),
}

impl From<Error> for Mine {
    fn from(error: Error) -> Self {
        Self::Toolkit(error)
    }
}

async fn an_error_rolls_back_and_keeps_its_type<D: Db>(site: &Site) {
    let outbox = with_rooms::<D>(site).await;
    for _ in 0..20 {
        let error = outbox
            .transaction(async |tx| -> Result<()> {
                tx.batch_execute("INSERT INTO rooms VALUES ('5')").await?;
                tx.publish(closed(5)).await?;
                Err(Error::handler("the room is in use"))
            })
            .await
            .unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Handler, "the room is in use"));

        let error = outbox
            .try_transaction(async |tx| {
                tx.publish(closed(5)).await?;
                Err::<(), _>(Mine::Full(3))
            })
            .await
            .unwrap_err();
        assert!(matches!(error, Mine::Full(3)), "{error:?}");

        // An error of the database's, after which PostgreSQL takes nothing more.
        let error = outbox
            .try_transaction(async |tx| {
                tx.publish(closed(5)).await?;
                let broken = tx.batch_execute("INSERT INTO nowhere VALUES (1)").await;
                broken.map_err(|error| Mine::Toolkit(error.into()))
            })
            .await
            .unwrap_err();
        assert!(matches!(error, Mine::Toolkit(error) if error.kind() == ErrorKind::Handler));
    }
    assert!(rooms(&outbox).await.is_empty());
    assert_eq!(outbox.waiting().await, 0);
}

async fn a_savepoint_takes_its_events_back<D: Db>(site: &Site) {
    let outbox = with_rooms::<D>(site).await;
    outbox
        .transaction(async |tx| {
            tx.publish(closed("before")).await?;
            begin_nested(tx).await;
            tx.batch_execute("INSERT INTO rooms VALUES ('taken back')").await?;
            tx.publish_all([closed("taken back"), closed("taken back")]).await?;
            <D::Connection as AsyncConnection>::TransactionManager::rollback_transaction(&mut **tx).await?;
            begin_nested(tx).await;
            tx.batch_execute("INSERT INTO rooms VALUES ('kept')").await?;
            tx.publish(closed("kept")).await?;
            <D::Connection as AsyncConnection>::TransactionManager::commit_transaction(&mut **tx).await?;
            tx.publish(closed("after")).await
        })
        .await
        .unwrap();
    assert_eq!(keys(&outbox).await, ["before", "kept", "after"]);
    assert_eq!(rooms(&outbox).await, ["kept"]);
}

/// Diesel would release the savepoint and say that it has committed.
async fn a_savepoint_that_is_open_is_not_committed_in_silence<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut tx = outbox.begin().await.unwrap();
    tx.publish(closed(1)).await.unwrap();
    begin_nested(&mut tx).await;
    let error = tx.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Transaction, false));
    assert!(error.to_string().contains("savepoint"), "{error}");
    assert_eq!(outbox.waiting().await, 0);
}

async fn begin_nested<D: Db>(tx: &mut Tx<D>) {
    <D::Connection as AsyncConnection>::TransactionManager::begin_transaction(&mut **tx).await.unwrap();
}

async fn it_runs_in_a_spawned_task<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut tasks = tokio::task::JoinSet::new();
    for nth in 0..20 {
        let outbox = outbox.clone();
        tasks.spawn(async move {
            let room = nth.to_string();
            outbox
                .transaction(async |tx| {
                    tx.publish(closed(&room)).await?;
                    tokio::task::yield_now().await;
                    Ok(room.len())
                })
                .await
        });
    }
    while let Some(written) = tasks.join_next().await {
        written.unwrap().unwrap();
    }
    assert_eq!(outbox.waiting().await, 20);
}

async fn a_dropped_future_leaves_nothing<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect_with(url, 2).await.unwrap();
    outbox.migrate().await.unwrap();
    for _ in 0..10 {
        // In the middle of the work, and, as the times go, of a statement.
        let late = outbox.transaction(async |tx| {
            tx.publish(closed("dropped")).await?;
            std::future::pending::<()>().await;
            Ok(())
        });
        timeout(Duration::from_millis(20), late).await.unwrap_err();
    }
    for micros in (0..40).map(|nth| nth * 100) {
        let busy = outbox.transaction(async |tx| {
            for _ in 0..100 {
                tx.publish(closed("dropped")).await?;
            }
            std::future::pending::<()>().await;
            Ok(())
        });
        timeout(Duration::from_micros(micros), busy).await.unwrap_err();
    }
    for _ in 0..4 {
        let write = outbox.transaction(async |tx| tx.publish(closed("written")).await);
        timeout(Duration::from_secs(10), write).await.expect("the pool is stuck").unwrap();
    }
    assert_eq!(keys(&outbox).await, ["written"; 4]);
}

/// At once, and not when the connection is lent again.
async fn a_dropped_transaction_frees_its_locks<D: Db>(site: &Site) {
    let url = site.empty().await;
    let (outbox, others) = (D::connect(url.clone()).await.unwrap(), D::connect(url).await.unwrap());
    others.sql("CREATE TABLE rooms (name text NOT NULL); INSERT INTO rooms VALUES ('open')").await.unwrap();
    let mut tx = outbox.begin().await.unwrap();
    tx.batch_execute("UPDATE rooms SET name = 'dropped'").await.unwrap();
    drop(tx);
    let update = others.sql("UPDATE rooms SET name = 'closed'");
    timeout(Duration::from_secs(20), update).await.expect("a lock was left").unwrap();
    assert_eq!(rooms(&others).await, ["closed"]);
}

/// Whether it happened is open then; but the next one who gets the connection is not in somebody's transaction.
async fn a_dropped_commit_leaves_a_pool_that_works<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect_with(url, 2).await.unwrap();
    outbox.migrate().await.unwrap();
    for nth in 0..60 {
        let mut tx = outbox.begin().await.unwrap();
        tx.publish(closed("maybe")).await.unwrap();
        if nth % 2 == 0 {
            timeout(Duration::from_micros(nth * 20), tx.commit()).await.ok();
        } else {
            timeout(Duration::from_micros(nth * 20), tx.rollback()).await.ok();
        }
    }
    let write = outbox.transaction(async |tx| tx.publish(closed("last")).await);
    timeout(Duration::from_secs(10), write).await.expect("the pool is stuck").unwrap();
    let keys = keys(&outbox).await;
    assert_eq!(keys.last().map(String::as_str), Some("last"));
    assert!(keys.len() <= 31, "what was rolled back is there: {}", keys.len());
}

async fn an_event_that_is_too_large_is_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await.with_encoder(Encoder::default().with_max_message_bytes(1_000));
    let error = outbox
        .transaction(async |tx| {
            tx.publish(closed(1)).await?;
            tx.publish(closed("x".repeat(1_000))).await
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("the limit is 1000"), "{error}");
    assert_eq!(outbox.waiting().await, 0);

    // The transaction is as it was: whoever can do without the event may go on.
    outbox
        .transaction(async |tx| {
            tx.publish(closed("x".repeat(1_000))).await.unwrap_err();
            tx.publish(closed(2)).await
        })
        .await
        .unwrap();
    assert_eq!(keys(&outbox).await, ["2"]);
}

async fn one_refused_event_refuses_all<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await.with_encoder(Encoder::default().with_max_message_bytes(1_000));
    outbox
        .transaction(async |tx| {
            let events = [closed(1), closed("x".repeat(1_000)), closed(2)];
            assert_eq!(tx.publish_all(events).await.unwrap_err().kind(), ErrorKind::InvalidEvent);
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(outbox.waiting().await, 0);
}

async fn an_id_that_is_no_uuid_is_refused<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mut message = Message::new("rooms", "{}");
    message.name = "room_closed".to_owned();
    message.id = Some("5".into());
    let error = outbox.transaction(async |tx| tx.publish(message).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(error.to_string().contains("UUID"), "{error}");
}

async fn many_events_are_one_statement<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let mark = uuid::Uuid::new_v4().to_string();
    let events = (0..300).map(|nth| Envelope::new(closed(nth)).with_header("mark", mark.clone()));
    outbox.transaction(async |tx| tx.publish_all(events.collect::<Vec<_>>()).await).await.unwrap();
    assert_eq!(outbox.waiting().await, 300);
    assert_eq!(statements_with(&["INSERT INTO cqrs_outbox", &mark]).len(), 1);
}

/// More than one statement of SQLite's may have parameters for.
async fn very_many_events_keep_their_order<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    outbox.transaction(async |tx| tx.publish_all((0..5_000).map(closed)).await).await.unwrap();
    let wanted: Vec<String> = (0..5_000).map(|nth| nth.to_string()).collect();
    assert_eq!(keys(&outbox).await, wanted);
}

async fn it_writes_on_a_connection_of_your_own<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox = D::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    // As one of another pool, or of none.
    let others = D::connect(url).await.unwrap();
    let mut tx = others.begin().await.unwrap();
    outbox.add(&mut tx, closed(1)).await.unwrap();
    outbox.add_all(&mut tx, [closed(2), closed(3)]).await.unwrap();
    outbox.add_all(&mut tx, Vec::<RoomClosed>::new()).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = others.begin().await.unwrap();
    outbox.add(&mut tx, closed(4)).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(keys(&outbox).await, ["1", "2", "3"]);
}

async fn a_commit_wakes_the_relay<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let store = D::store(&outbox);
    let wakes = || timeout(Duration::from_secs(10), store.changed());
    let is_quiet = || timeout(Duration::from_millis(50), store.changed());
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    wakes().await.expect("what happened before the call was missed");
    is_quiet().await.expect_err("nothing happened");
    outbox.transaction(async |_| Ok(())).await.unwrap();
    outbox
        .transaction(async |tx| {
            tx.publish(closed(1)).await?;
            Err::<(), _>(Error::handler("no"))
        })
        .await
        .unwrap_err();
    is_quiet().await.expect_err("nothing was written");
    outbox.clone().wake();
    wakes().await.expect("a clone is the same outbox");
}

#[derive(Request)]
struct CloseRoom {
    room: String,
    fails: bool,
}

struct CloseRoomHandler;

impl<D: Db> TransactionalHandler<CloseRoom, D> for CloseRoomHandler {
    async fn handle(&self, request: CloseRoom, tx: &mut Tx<D>, cx: &Context<'_>) -> Result<()> {
        tx.batch_execute(&format!("INSERT INTO rooms VALUES ('{}')", request.room)).await?;
        cx.emit(closed(&request.room));
        cx.emit(Envelope::new(closed(&request.room)).with_key("second"));
        if request.fails { Err(Error::handler("told to")) } else { Ok(()) }
    }
}

async fn a_transactional_handler_says_events<D: Db>(site: &Site) {
    let outbox = with_rooms::<D>(site).await;
    let unit = UnitOfWork::<D>::new(Arc::new(outbox.clone()), BeforeCommit::new());
    let requests = RequestMap::new().bind::<CloseRoom>(Transactional::new(unit, CloseRoomHandler));
    let mediator = RequestMediator::new(requests, EventEmitter::new(EventMap::new())).unwrap();
    let error = mediator.send(CloseRoom { room: "4".to_owned(), fails: true }).await.unwrap_err();
    assert_eq!(error.to_string(), "told to");
    assert_eq!((rooms(&outbox).await.len(), outbox.waiting().await), (0, 0));
    mediator.send(CloseRoom { room: "5".to_owned(), fails: false }).await.unwrap();
    assert_eq!(rooms(&outbox).await, ["5"]);
    assert_eq!(keys(&outbox).await, ["5", "second"]);
}
