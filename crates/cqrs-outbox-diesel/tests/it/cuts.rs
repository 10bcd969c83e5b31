//! Connections that are cut while a transaction of the application's commits. SQLite is a file, and has none.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use cqrs_core::{BeginTransaction, Error, ErrorKind, Transaction};
use cqrs_outbox::OutboxRow;
use cqrs_outbox_diesel::{Asking, DeadLetterFilter, MySql, Outbox, Page, Pg, RequestFilter, RequestOutcome};
use cqrs_testing::proxy::{Point, Proxy};
use diesel_async::SimpleAsyncConnection;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::Owner;
use crate::events::{closed, read_all};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
    trials.on::<Pg>(tests!(cuts<Pg> { a_commit_that_is_refused_is_not_in_doubt }));
    trials.on::<Pg>(tests!(cuts<Pg> { what_is_asked_for_and_cut_may_be_asked_for_again }));
    trials.on::<MySql>(tests!(cuts<MySql> { a_commit_that_is_cut_happens_whole_or_not_at_all }));
    trials.on::<MySql>(tests!(cuts<MySql> { what_is_asked_for_and_cut_may_be_asked_for_again }));
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
    let rooms = || direct.values("SELECT name AS value FROM rooms ORDER BY name");
    becomes(["after", "before", "unanswered"].map(str::to_owned).to_vec(), rooms).await;
    let rows = read_all(&D::store(&direct)).await;
    let keys: Vec<_> = rows.iter().map(|row| row.message.key.clone().unwrap()).collect();
    assert_eq!(keys, ["before", "unanswered", "after"], "the events are those of the rooms, in their order");
}

/// Nobody knows whether it was asked for at all, so it is in doubt; but to ask twice does no harm.
async fn what_is_asked_for_and_cut_may_be_asked_for_again<D: Db>(site: &Site) {
    let url = site.empty().await;
    let direct = D::connect(url.clone()).await.unwrap();
    direct.migrate().await.unwrap();
    let owner = Owner::new(&direct).await;
    direct.transaction(async |tx| tx.publish_all([closed("a"), closed("a")]).await).await.unwrap();
    let dead = owner.bury_all(true, "not readable").await;
    let (proxy, outbox) = through_a_proxy::<D>(&url).await;
    let (filter, asking, requests) =
        (DeadLetterFilter::new(), Asking::new(), RequestFilter::new().event_id(dead[0].event_id));
    let all = RequestFilter::new();
    let [request, answer] = [Point::request(COMMIT), Point::answer_to(COMMIT)];
    let is_open = async |count: usize| {
        let open = all.clone().open();
        let requests = || async { direct.requests(&open, Page::oldest_first()).await.unwrap().len() };
        becomes(count, requests).await;
    };

    in_doubt(cut(&proxy, request, outbox.replay_all(&filter, &asking)).await.unwrap_err());
    is_open(0).await;
    in_doubt(cut(&proxy, answer, outbox.replay_all(&filter, &asking)).await.unwrap_err());
    is_open(2).await;
    in_doubt(cut(&proxy, answer, outbox.cancel_requests(&all)).await.unwrap_err());
    is_open(0).await;
    assert_eq!(outbox.cancel_requests(&all).await.unwrap(), 0);

    in_doubt(cut(&proxy, answer, outbox.replay_all(&filter, &asking)).await.unwrap_err());
    is_open(2).await;
    outbox.replay_all(&filter, &asking).await.unwrap();
    is_open(4).await;
    let ids = |rows: &[OutboxRow]| rows.iter().map(|row| row.event_id).collect::<Vec<_>>();
    assert_eq!(ids(&owner.parked().await), ids(&dead), "each once, in their order");
    let outcomes = direct.requests(&requests, Page::oldest_first()).await.unwrap();
    let outcomes: Vec<_> = outcomes.iter().map(|request| request.done.unwrap().1).collect();
    let [cancelled, replayed] = [RequestOutcome::Cancelled, RequestOutcome::Replayed];
    assert_eq!(outcomes, [cancelled, replayed, replayed]);
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

/// What was cut may be carried out a little later.
async fn becomes<T: Debug + PartialEq, F: Future<Output = T>>(wanted: T, ask: impl Fn() -> F) {
    let ends = Instant::now() + Duration::from_secs(30);
    loop {
        let is = ask().await;
        if is == wanted {
            return;
        }
        assert!(Instant::now() < ends, "it is {is:?}, and not {wanted:?}");
        sleep(Duration::from_millis(5)).await;
    }
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
