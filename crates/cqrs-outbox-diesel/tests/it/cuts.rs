//! Connections that are cut while a transaction of the application's commits. SQLite is a file, and has none.

use cqrs_core::{BeginTransaction, Error, ErrorKind, Transaction};
use cqrs_outbox_diesel::{MySql, Pg};
use cqrs_testing::proxy::{Point, Proxy};
use diesel_async::SimpleAsyncConnection;
use url::Url;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{closed, read_all};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_refused_is_not_in_doubt }));
    trials.on::<MySql>(tests!(cuts<MySql> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
}

/// The server has not heard of the commit; or it has committed, and that was not heard of here. Whoever commits cannot
/// tell one from the other, and is told that.
async fn a_commit_that_is_cut_happens_whole_or_not_at_all<D: Db>(site: &Site) {
    let url = site.empty().await;
    let direct = D::connect(url.clone()).await.unwrap();
    direct.migrate().await.unwrap();
    direct.sql("CREATE TABLE rooms (name varchar(20) NOT NULL)").await.unwrap();
    let mut through = Url::parse(&url).unwrap();
    let server =
        format!("{}:{}", through.host_str().unwrap(), through.port_or_known_default().unwrap_or(5432));
    let proxy = Proxy::before(&server).await.unwrap();
    through.set_host(Some("127.0.0.1")).unwrap();
    through.set_port(Some(proxy.port())).unwrap();
    let outbox = D::connect(through.into()).await.unwrap();

    let write = async |room: &'static str| {
        outbox
            .transaction(async |tx| {
                tx.batch_execute(&format!("INSERT INTO rooms VALUES ('{room}')")).await?;
                tx.publish(closed(room)).await.map(drop)
            })
            .await
    };
    let in_doubt = |error: Error| {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::CommitUnknown, false), "{error}");
        assert!(error.to_string().contains("may have happened all the same"), "{error}");
    };
    write("before").await.unwrap();
    let (failed, ()) = tokio::join!(write("unheard"), proxy.cut(Point::request(b"COMMIT")));
    in_doubt(failed.unwrap_err());
    let (failed, ()) = tokio::join!(write("unanswered"), proxy.cut(Point::answer_to(b"COMMIT")));
    in_doubt(failed.unwrap_err());
    // The connections that are left are not lent any more.
    write("after").await.unwrap();

    let rooms = direct.values("SELECT name AS value FROM rooms ORDER BY name").await;
    assert_eq!(rooms, ["after", "before", "unanswered"]);
    let rows = read_all(&D::store(&direct)).await;
    let keys: Vec<_> = rows.iter().map(|row| row.message.key.clone().unwrap()).collect();
    assert_eq!(keys, ["before", "unanswered", "after"], "the events are those of the rooms, in their order");
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
