//! What only PostgreSQL has.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{BeginTransaction, ErrorKind, Message, Transaction};
use cqrs_outbox::{Heartbeat, OutboxRelay, ReadRequest, RelayId};
use cqrs_outbox_diesel::{Outbox, Pg};
use cqrs_testing::history::History;
use diesel_async::SimpleAsyncConnection;
use tokio::time::{sleep, timeout};
use url::Url;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed, own_all, quick, statements_with};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(postgres {
        urls_of_others_are_a_clear_error,
        a_server_that_is_not_there_is_a_clear_error,
        a_server_that_does_not_answer_is_a_clear_error,
        a_login_that_is_refused_is_a_clear_error,
        a_read_uses_the_index,
        slots_are_spread_and_agree_with_the_groups,
        a_commit_elsewhere_wakes_the_relay,
        nobody_listens_unasked,
        a_commit_of_what_had_failed_is_no_success,
        cut_connections_lose_nothing,
        writers_do_not_wait_for_a_relay,
        what_writers_run_stays_prepared,
        an_idle_relay_runs_little,
        a_lease_that_is_just_locked_is_renewed,
    }));
}

/// The server rolls back there, and answers the COMMIT all the same.
async fn a_commit_of_what_had_failed_is_no_success(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let message = || {
        let mut message = Message::new("rooms", ".");
        message.name = "room_opened".to_owned();
        message.id = Some(Uuid::now_v7().into());
        message
    };
    let refused = |error: cqrs_core::Error| {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Transaction, false), "{error}");
        assert!(error.to_string().contains("current transaction is aborted"), "{error}");
    };
    for _ in 0..3 {
        let mut tx = outbox.begin().await.unwrap();
        tx.write(vec![message().into()]).await.unwrap();
        tx.batch_execute("SELECT 1 / 0").await.unwrap_err();
        refused(tx.commit().await.unwrap_err());
    }
    let handled = outbox.transaction(async |tx| {
        tx.publish(message()).await?;
        let _ignored = tx.batch_execute("SELECT 1 / 0").await;
        Ok::<_, cqrs_core::Error>(())
    });
    refused(handled.await.unwrap_err());
    // What a savepoint has caught is none of it.
    let mut tx = outbox.begin().await.unwrap();
    tx.write(vec![message().into()]).await.unwrap();
    tx.batch_execute("SAVEPOINT here").await.unwrap();
    tx.batch_execute("SELECT 1 / 0").await.unwrap_err();
    tx.batch_execute("ROLLBACK TO SAVEPOINT here").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(outbox.status().await.unwrap().waiting, 1);
}

/// Nothing that is printed of it may show the password.
fn hides(secret: &str, error: &cqrs_core::Error) {
    let all = format!("{error} {error:#} {error:?}");
    assert!(!all.contains(secret), "{all}");
}

async fn urls_of_others_are_a_clear_error(_: &Site) {
    for url in ["mysql://me:secret@localhost/db", "localhost:5432", ""] {
        let error = Outbox::<Pg>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("`postgres://`"), "{error}");
        hides("secret", &error);
    }
    for url in ["postgres://me:secret@localhost:port/db", "postgres://me:secret@localhost/db?nonsense=1"] {
        let error = Outbox::<Pg>::connect(url).await.unwrap_err();
        assert!(!error.is_retryable(), "waiting does not mend a URL: {error}");
        hides("secret", &error);
    }
    hides(
        "secret",
        &cqrs_core::Error::handler(format!("{:?}", Outbox::<Pg>::builder("postgres://me:secret@h/d"))),
    );
}

async fn a_server_that_is_not_there_is_a_clear_error(_: &Site) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("postgres://me:secret@127.0.0.1:{port}/meetings");
    let error = Outbox::<Pg>::connect(url).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true));
    for part in [&*format!("127.0.0.1:{port}/meetings"), "me", "refused", "is the server running?"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    hides("secret", &error);
}

async fn a_login_that_is_refused_is_a_clear_error(site: &Site) {
    let mut url = Url::parse(site.server_url()).unwrap();
    url.set_path("/cqrs_no_such_database");
    url.set_password(Some("secret")).unwrap();
    let error = Outbox::<Pg>::connect(url.as_str()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false));
    assert!(error.to_string().contains("\"cqrs_no_such_database\" does not exist"), "{error}");
    hides("secret", &error);

    let mut url = Url::parse(site.server_url()).unwrap();
    url.set_username("cqrs_no_such_role").unwrap();
    url.set_password(Some("secret")).unwrap();
    let error = Outbox::<Pg>::connect(url.as_str()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false));
    assert!(error.to_string().contains("cqrs_no_such_role"), "{error}");
    hides("secret", &error);
}

/// It takes the connection and says nothing.
async fn a_server_that_does_not_answer_is_a_clear_error(_: &Site) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://me:secret@127.0.0.1:{}/meetings", silent.local_addr().unwrap().port());
    let builder = Outbox::<Pg>::builder(url).connect_timeout(Duration::from_millis(100));
    let error = builder.connect().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true));
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    hides("secret", &error);
}

async fn a_read_uses_the_index(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    outbox
        .sql(
            "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
             SELECT 'n', 't', convert_to('key ' || n % 1000, 'UTF8'), repeat('x', 300) \
             FROM generate_series(1, 100000) AS n; \
             ANALYZE cqrs_outbox",
        )
        .await
        .unwrap();
    let store = Pg::store(&outbox);
    let relay = RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() };
    let leases = own_all(&store, &relay).await;
    // A limit that no other test has, so that its statement is found.
    let request = ReadRequest { leases, known: vec![7, 8], limit: 487, max_bytes: 1 << 24 };
    assert_eq!(store.read(&request).await.unwrap().len(), 487);
    for plan in
        plans(&outbox, &["FROM cqrs_outbox o", "487, 16777216"], "0, '', 0, 0, '{7,8}', 487, 16777216").await
    {
        assert!(plan.contains("Index Scan using cqrs_outbox_pkey on cqrs_outbox o"), "{plan}");
        assert!(!plan.contains("Seq Scan on cqrs_outbox "), "{plan}");
        // It goes through what is known and what is new, and no further.
        assert!(plan.contains("rows=487 loops=1") || plan.contains("rows=487.00 loops=1"), "{plan}");
        assert!(!plan.contains("rows=100000"), "{plan}");
    }

    // Whoever shares the groups with others.
    let some = ReadRequest { leases: request.leases[1..].to_vec(), ..request };
    assert_eq!(store.read(&some).await.unwrap().len(), 487);
    let groups: Vec<String> = some.leases.iter().map(|lease| lease.group.to_string()).collect();
    let values = format!(
        "0, '', 0, '{{{}}}', array_fill(0::bigint, ARRAY[63]), '{{7,8}}', 16, 487, 16777216",
        groups.join(",")
    );
    for plan in plans(&outbox, &["FROM cqrs_outbox o", "16, 487, 16777216"], &values).await {
        assert!(plan.contains("Index Scan using cqrs_outbox_read"), "{plan}");
        assert!(!plan.contains("Seq Scan on cqrs_outbox "), "{plan}");
        // A few rows of each group, not a full batch of each.
        assert!(plan.contains("rows=16 loops=63") || plan.contains("rows=16.00 loops=63"), "{plan}");
    }
}

/// How the last statement of this kind is carried out, made for these values and made for any.
async fn plans(outbox: &Outbox<Pg>, parts: &[&str], values: &str) -> Vec<String> {
    let statement = statements_with(parts).pop().unwrap();
    let (statement, _) = statement.split_once("-- binds:").unwrap();
    let mut plans = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let explained = outbox.transaction(async |tx| {
            tx.batch_execute(&format!(
                "SET LOCAL plan_cache_mode = {mode}; PREPARE explained AS {statement}"
            ))
            .await?;
            // EXPLAIN has a column of another name, so it is asked for by a function.
            tx.batch_execute(
                "CREATE OR REPLACE FUNCTION explained(statement text) RETURNS SETOF text LANGUAGE plpgsql AS \
                 $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ANALYZE ' || statement; END $$",
            )
            .await?;
            let explain =
                format!("SELECT explained AS value FROM explained($$EXECUTE explained({values})$$)");
            let plan = Pg::values(tx, &explain).await?.join("\n");
            tx.batch_execute("DEALLOCATE explained").await?;
            Ok(format!("{mode}:\n{plan}"))
        });
        plans.push(explained.await.unwrap());
    }
    plans
}

async fn slots_are_spread_and_agree_with_the_groups(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    outbox.transaction(async |tx| tx.publish_all((0..5_000).map(closed)).await).await.unwrap();
    let stray = "SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox o \
        LEFT JOIN cqrs_outbox_group g ON o.slot BETWEEN g.first_slot AND g.last_slot \
        WHERE g.group_no IS DISTINCT FROM o.slot / 64";
    assert_eq!(outbox.values(stray).await, ["0"]);
    let used = "SELECT CAST(count(DISTINCT slot / 64) AS text) AS value FROM cqrs_outbox";
    assert_eq!(outbox.values(used).await, ["64"]);
}

/// As an operator's `pg_terminate_backend`, or a network that is cut.
async fn cut_connections_lose_nothing(site: &Site) {
    let url = site.empty().await;
    let outbox = Pg::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let schema = outbox.values("SELECT current_schema()::text AS value").await.remove(0);
    let (history, sink) = (History::new(), Arc::new(Sink::default()));
    let relay = OutboxRelay::builder(Pg::store(&outbox), sink.clone()).settings(quick()).build().unwrap();

    // Writers and the knife have connections of their own.
    let writers =
        Outbox::<Pg>::connect(url.replace(&format!("application_name={schema}"), "application_name=writer"));
    let writers = writers.await.unwrap();
    let work = async {
        let cut = format!(
            "SELECT pg_terminate_backend(pid)::text AS value FROM pg_stat_activity WHERE application_name = '{schema}'"
        );
        for nth in 0..300_u64 {
            let key = format!("{}", nth % 5);
            let message =
                cqrs_core::Envelope::new(closed(&key)).with_id(Uuid::from_u128(u128::from(nth) + 1));
            writers.transaction(async |tx| tx.publish(message).await).await.unwrap();
            history.committed(bytes::Bytes::from(key), Uuid::from_u128(u128::from(nth) + 1), nth);
            if nth % 30 == 29 {
                writers.values(&cut).await;
            }
        }
        let left = async {
            while writers.waiting().await > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), left).await.expect("the relay did not come back");
    };
    relay.run_until(work).await.unwrap();
    for message in sink.messages() {
        history.delivered(message.id.unwrap().to_uuid().unwrap(), message.key);
    }
    history.check().assert_clean();
}

/// Neither a lease's row that is locked, nor a read, keeps a writer.
async fn writers_do_not_wait_for_a_relay(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let mut relay = outbox.begin().await.unwrap();
    relay
        .batch_execute(
            "SELECT * FROM cqrs_outbox_group FOR UPDATE; SELECT * FROM cqrs_outbox; \
             LOCK TABLE cqrs_outbox_relay, cqrs_outbox_parked, cqrs_outbox_gate IN EXCLUSIVE MODE",
        )
        .await
        .unwrap();
    let write = outbox.transaction(async |tx| tx.publish(closed(1)).await);
    timeout(Duration::from_secs(5), write).await.expect("a writer waited").unwrap();
    relay.rollback().await.unwrap();
    assert_eq!(outbox.waiting().await, 1);
}

/// A relay that would poll in an hour, on connections of its own.
async fn relay_elsewhere(
    url: &str,
    notifications: bool,
) -> (Outbox<Pg>, Arc<Sink>, tokio::task::JoinHandle<()>) {
    let outbox = Outbox::<Pg>::builder(url).notifications(notifications).connect().await.unwrap();
    let sink = Arc::new(Sink::default());
    let mut settings = quick();
    settings.poll_interval = Duration::from_secs(3_600);
    let relay =
        OutboxRelay::builder(Arc::new(outbox.clone()), sink.clone()).settings(settings).build().unwrap();
    let relay = Arc::new(relay);
    let running = Arc::clone(&relay);
    let running = tokio::spawn(async move { running.run_until(std::future::pending()).await.unwrap() });
    relay.started().await;
    (outbox, sink, running)
}

async fn arrive(sink: &Sink, count: usize) {
    let arrived = async {
        while sink.payloads().len() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), arrived).await.expect("the relay was not woken");
}

/// The connections of this test that listen: others work in the same database.
async fn listening(outbox: &Outbox<Pg>) -> Vec<String> {
    outbox
        .values(
            "SELECT pid::text AS value FROM pg_stat_activity \
             WHERE application_name = current_setting('application_name') AND query = 'LISTEN \"cqrs_outbox\"'",
        )
        .await
}

async fn a_commit_elsewhere_wakes_the_relay(site: &Site) {
    let url = site.empty().await;
    let writer = Outbox::<Pg>::builder(url.clone()).notifications(true).connect().await.unwrap();
    writer.migrate().await.unwrap();
    let (_, sink, running) = relay_elsewhere(&url, true).await;
    // One after the other, so that each needs a word of its own.
    for count in 1..=5 {
        writer.transaction(async |tx| tx.publish(closed(count)).await).await.unwrap();
        arrive(&sink, count).await;
    }
    // Whoever writes without this crate says it himself.
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
                  VALUES ('room_closed', 'rooms', 'a', '{}'); NOTIFY cqrs_outbox";
    writer.connection().await.unwrap().batch_execute(insert).await.unwrap();
    arrive(&sink, 6).await;
    // What is committed while nobody listens is found with the next connection.
    let listeners = listening(&writer).await;
    assert_eq!(listeners.len(), 1, "the relay listens, the writer does not");
    let cut = format!("SELECT pg_terminate_backend({})", listeners[0]);
    writer.connection().await.unwrap().batch_execute(&cut).await.unwrap();
    writer.transaction(async |tx| tx.publish(closed(7)).await).await.unwrap();
    arrive(&sink, 7).await;
    // It ends with the last clone of the outbox.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    while !listening(&writer).await.is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn nobody_listens_unasked(site: &Site) {
    let url = site.empty().await;
    let writer = Outbox::<Pg>::connect(url.clone()).await.unwrap();
    writer.migrate().await.unwrap();
    let (outbox, sink, running) = relay_elsewhere(&url, false).await;
    writer.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    outbox.wake();
    arrive(&sink, 1).await;
    assert_eq!(listening(&writer).await.len(), 0);
    running.abort();
}

async fn what_writers_run_stays_prepared(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let mut tx = outbox.begin().await.unwrap();
    for nth in 1..4 {
        outbox.add(&mut tx, closed(nth)).await.unwrap();
        outbox.add_all(&mut tx, (0..nth + 1).map(closed)).await.unwrap();
    }
    let prepared = "SELECT CAST(count(*) AS text) AS value FROM pg_prepared_statements \
                    WHERE statement LIKE 'INSERT INTO cqrs_outbox %'";
    assert_eq!(Pg::values(&mut tx, prepared).await.unwrap(), ["2"], "one for a single row and one for many");
    tx.commit().await.unwrap();
}

/// As the server counts them, on the only connection: each heartbeat, and each poll, be it of a table that was never written to.
async fn an_idle_relay_runs_little(site: &Site) {
    let outbox = Pg::connect_with(site.empty().await, 1).await.unwrap();
    outbox.migrate().await.unwrap();
    let store = Pg::store(&outbox);
    let relay = RelayId { name: "one".to_owned(), incarnation: Uuid::new_v4() };
    let leases = own_all(&store, &relay).await;
    let beat = Heartbeat { lease: Duration::from_secs(600), take: 0, release: Vec::new() };
    let request = ReadRequest { leases, known: Vec::new(), limit: 2_000, max_bytes: 1 << 20 };
    let runs = async || -> u64 {
        let runs = "SELECT CAST(coalesce(sum(generic_plans + custom_plans), 0) AS text) AS value \
                    FROM pg_prepared_statements WHERE statement NOT LIKE '%pg_prepared_statements%'";
        outbox.values(runs).await[0].parse().unwrap()
    };
    let idle = async || {
        for nth in 0..5 {
            let before = runs().await;
            let ownership = store.heartbeat(&relay, &beat).await.unwrap();
            assert_eq!((ownership.leases.len(), ownership.groups, ownership.relays), (64, 64, 1));
            let beaten = runs().await;
            store.read(&request).await.unwrap();
            let read = runs().await;
            // The first ones find out where reads begin.
            if nth > 2 {
                assert_eq!((beaten - before, read - beaten), (2, 1), "a heartbeat, and a poll");
            }
            // Longer than it is left alone.
            sleep(Duration::from_millis(150)).await;
        }
    };
    idle().await;
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    idle().await;
}

/// By a refusal of its own, say, that is being written: it waits for that, and for no longer than it has time.
async fn a_lease_that_is_just_locked_is_renewed(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let store = Pg::store(&outbox);
    let relay = RelayId { name: "one".to_owned(), incarnation: Uuid::new_v4() };
    own_all(&store, &relay).await;
    let mut other = outbox.begin().await.unwrap();
    other.batch_execute("SELECT * FROM cqrs_outbox_group WHERE group_no = 7 FOR UPDATE").await.unwrap();
    let beat = Heartbeat { lease: Duration::from_secs(600), take: 0, release: Vec::new() };
    let beating = tokio::spawn({
        let (store, relay, beat) = (store.clone(), relay.clone(), beat.clone());
        async move { store.heartbeat(&relay, &beat).await.unwrap().leases.len() }
    });
    outbox.is_waited_for(&beating).await;
    other.rollback().await.unwrap();
    assert_eq!(beating.await.unwrap(), 64);
    // As long as somebody holds it for ever, it gives up by itself.
    let mut other = outbox.begin().await.unwrap();
    other.batch_execute("SELECT * FROM cqrs_outbox_group WHERE group_no = 7 FOR UPDATE").await.unwrap();
    assert!(store.heartbeat(&relay, &beat).await.is_err());
    other.rollback().await.unwrap();
}
