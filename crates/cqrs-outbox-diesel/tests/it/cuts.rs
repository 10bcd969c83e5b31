//! Connections that are cut while a transaction of the application's commits. SQLite is a file, and has none.

use std::fmt::Debug;
use std::pin::pin;

use cqrs_core::{BeginTransaction, Error, ErrorKind, Transaction};
use cqrs_outbox_diesel::{MySql, Outbox, Pg};
use cqrs_testing::proxy::{Point, Proxy};
use diesel_async::SimpleAsyncConnection;
use futures_util::FutureExt;
use url::Url;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, read_all};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_refused_is_not_in_doubt }));
    trials.on::<MySql>(tests!(cuts<MySql> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
}

/// As it stands behind the statement that is refused where there is nothing to commit; unlike `READ COMMITTED`.
const COMMIT: &[u8] = b"; COMMIT";

/// The server has not heard of the commit; or it has committed, and that was not heard of here. Whoever commits cannot
/// tell one from the other, and is told that.
async fn a_commit_that_is_cut_happens_whole_or_not_at_all<D: Db>(site: &Site) {
    let url = site.empty().await;
    let direct = D::connect(url.clone()).await.unwrap();
    direct.migrate().await.unwrap();
    direct.sql("CREATE TABLE rooms (name varchar(20) NOT NULL)").await.unwrap();
    let (proxy, outbox) = through_a_proxy::<D>(&url).await;

    let write = async |room: &'static str| {
        outbox
            .transaction(async |tx| {
                tx.batch_execute(&format!("INSERT INTO rooms VALUES ('{room}')")).await?;
                tx.publish(closed(room)).await.map(drop)
            })
            .await
    };
    write("before").await.unwrap();
    in_doubt(cut(&proxy, Point::request(COMMIT), write("unheard")).await.unwrap_err());
    in_doubt(cut(&proxy, Point::answer_to(COMMIT), write("unanswered")).await.unwrap_err());
    // The connections that are left are not lent any more.
    write("after").await.unwrap();

    // The answer that was lost may be the one to what stands before the COMMIT, in the same message.
    let rooms = async || direct.values("SELECT name AS value FROM rooms ORDER BY name").await;
    while rooms().await.len() < 3 {}
    assert_eq!(rooms().await, ["after", "before", "unanswered"]);
    let rows = read_all(&D::store(&direct)).await;
    let keys: Vec<_> = rows.iter().map(|row| row.message.key.clone().unwrap()).collect();
    assert_eq!(keys, ["before", "unanswered", "after"], "the events are those of the rooms, in their order");
}

/// An outbox at this URL whose connections can be cut.
async fn through_a_proxy<D: Db>(url: &str) -> (Proxy, Outbox<D>) {
    let mut url = Url::parse(url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap_or(5432));
    let proxy = Proxy::before(&server).await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    let outbox = D::connect(url.into()).await.unwrap();
    (proxy, outbox)
}

fn in_doubt(error: Error) {
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::CommitUnknown, false), "{error}");
    assert!(error.to_string().contains("may have happened all the same"), "{error}");
}

/// What becomes of this work when its connection is cut at that point. Work that ends before it gets there says how, and nobody waits
/// for a cut that does not come.
async fn cut<T: Debug>(proxy: &Proxy, point: Point, work: impl Future<Output = T>) -> T {
    let (mut cut, mut work) = (pin!(proxy.cut(point)), pin!(work));
    tokio::select! {
        biased;
        () = &mut cut => work.await,
        outcome = &mut work => {
            assert!(cut.now_or_never().is_some(), "it was not cut: {outcome:?}");
            outcome
        }
    }
}

/// MariaDB and MySQL check constraints with each statement, and end a transaction that meets a deadlock there.
async fn a_commit_that_is_refused_is_not_in_doubt<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let tables = "CREATE TABLE rooms (name text UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    outbox.sql(tables).await.unwrap();
    let error = outbox
        .transaction(async |tx| {
            tx.batch_execute("INSERT INTO rooms VALUES ('a'), ('a')").await?;
            tx.publish(closed("twice")).await.map(drop)
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Transaction, false), "{error}");

    // Each reads what the other one writes.
    let serializable = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM rooms";
    let (mut one, mut two) = (outbox.begin().await.unwrap(), outbox.begin().await.unwrap());
    for (tx, room) in [(&mut one, "one"), (&mut two, "two")] {
        tx.batch_execute(serializable).await.unwrap();
        tx.batch_execute(&format!("INSERT INTO rooms VALUES ('{room}')")).await.unwrap();
        tx.publish(closed(room)).await.unwrap();
    }
    one.commit().await.unwrap();
    let error = two.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Transaction, true), "{error}");
    assert_eq!(outbox.values("SELECT name AS value FROM rooms").await, ["one"]);
    let rows = read_all(&D::store(&outbox)).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
}
