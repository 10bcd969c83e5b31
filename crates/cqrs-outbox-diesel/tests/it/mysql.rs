//! What only MariaDB and MySQL have.

use std::sync::Arc;
use std::time::Duration;

use cqrs_consumer::Inbox;
use cqrs_core::{
    BeginTransaction, Deliver, Encoder, Envelope, ErrorKind, MessageId, Outgoing, ScheduleChange, Transaction,
};
use cqrs_outbox::{Fenced, LaterEvents, OutboxRelay, ReadRequest, Rejection, RelayId, Verdict};
use cqrs_outbox_diesel::{Edit, MySql, Outbox, Page, RequestFilter, ScheduleFilter};
use cqrs_testing::history::History;
use diesel_async::SimpleAsyncConnection;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use url::Url;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{buried, letter};
use crate::events::{Sink, closed, own_all, quick, read_all, statements_with};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<MySql>(tests!(mysql {
        urls_of_others_are_a_clear_error,
        a_server_that_is_not_there_is_a_clear_error,
        a_server_that_does_not_answer_is_a_clear_error,
        a_login_that_is_refused_is_a_clear_error,
        mariadb_is_a_name_for_it,
        a_migration_that_was_interrupted_goes_on,
        a_migration_waits_for_another,
        times_are_utc_whatever_the_session_says,
        what_a_lax_session_cuts_off_is_refused,
        a_payload_may_be_larger_than_a_blob,
        an_event_that_is_larger_than_a_packet_is_a_clear_error,
        an_edit_that_is_larger_than_a_packet_is_a_clear_error,
        a_read_uses_the_index,
        a_read_of_one_busy_group_is_as_long_as_asked_for,
        parked_lanes_are_read_some_at_a_time,
        slots_are_spread_and_agree_with_the_groups,
        the_relays_settings_are_its_own,
        a_transaction_that_a_deadlock_ended_is_not_committed,
        a_transaction_that_ddl_ended_is_not_committed,
        a_transaction_is_committed_once,
        after_a_transaction_statements_commit_by_themselves,
        an_answer_that_nobody_waited_for_is_nobody_elses,
        locks_that_are_not_to_be_had_are_worth_a_retry,
        a_connection_that_was_killed_is_worth_a_retry,
        connections_that_were_closed_while_idle_are_not_lent,
        a_connection_that_was_cut_while_lent_is_not_lent_again,
        cut_connections_lose_nothing,
        writers_do_not_wait_for_a_relay,
        a_relay_does_not_wait_for_writers,
        writers_do_not_wait_for_what_a_relay_looked_for,
        writers_do_not_wait_for_who_cancels,
        writers_meet_no_deadlock,
        what_writers_run_stays_prepared,
        a_take_over_does_not_wait_for_another_relay,
    }));
}

/// Nothing that is printed of it may show the password.
fn hides(secret: &str, error: &cqrs_core::Error) {
    let all = format!("{error} {error:#} {error:?}");
    assert!(!all.contains(secret), "{all}");
}

/// A connection that is nobody else's.
async fn raw(url: &str) -> mysql_async::Conn {
    mysql_async::Conn::from_url(url).await.unwrap()
}

fn relay(name: &str) -> RelayId {
    RelayId { name: name.to_owned(), incarnation: Uuid::new_v4() }
}

async fn urls_of_others_are_a_clear_error(_: &Site) {
    for url in ["postgres://me:secret@localhost/db", "localhost:3306", ""] {
        let error = Outbox::<MySql>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("`mysql://`"), "{error}");
        hides("secret", &error);
    }
    for url in ["mysql://me:secret@localhost", "mariadb://me:secret@localhost:3306/"] {
        let error = Outbox::<MySql>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("names no database"), "{error}");
        hides("secret", &error);
    }
    for url in ["mysql://me:secret@localhost:port/db", "mysql://me:secret@localhost/db?nonsense=1"] {
        let error = Outbox::<MySql>::connect(url).await.unwrap_err();
        assert!(!error.is_retryable(), "waiting does not mend a URL: {error}");
        hides("secret", &error);
    }
    let builder = Outbox::<MySql>::builder("mysql://me:secret@h/d");
    hides("secret", &cqrs_core::Error::handler(format!("{builder:?}")));
}

async fn a_server_that_is_not_there_is_a_clear_error(_: &Site) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("mysql://me:secret@127.0.0.1:{port}/meetings");
    let error = Outbox::<MySql>::connect(url).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true));
    for part in [&*format!("127.0.0.1:{port}/meetings"), "me", "refused", "is the server running?"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    hides("secret", &error);
}

/// It takes the connection and says nothing.
async fn a_server_that_does_not_answer_is_a_clear_error(_: &Site) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mysql://me:secret@127.0.0.1:{}/meetings", silent.local_addr().unwrap().port());
    let builder = Outbox::<MySql>::builder(url).connect_timeout(Duration::from_millis(100));
    let error = builder.connect().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true));
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    hides("secret", &error);
}

async fn a_login_that_is_refused_is_a_clear_error(site: &Site) {
    let refused = async |url: &Url, part: &str| {
        let error = Outbox::<MySql>::connect(url.as_str()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false), "{error}");
        for part in [part, "check the URL"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        error
    };
    let given = Url::parse(site.server_url()).unwrap();
    let mut url = given.clone();
    url.set_path("/cqrs_no_such_database");
    let error = refused(&url, "cqrs_no_such_database").await;
    if let Some(password) = given.password() {
        hides(password, &error);
    }
    for user in [given.username(), "cqrs_no_such_user"] {
        let mut url = given.clone();
        url.set_username(user).unwrap();
        url.set_password(Some("wrong-secret")).unwrap();
        hides("wrong-secret", &refused(&url, &format!("Access denied for user '{user}'")).await);
    }
}

async fn mariadb_is_a_name_for_it(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.replace("mysql://", "mariadb://")).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.check_schema().await.unwrap();
}

/// After each statement, for each of them commits.
async fn a_migration_that_was_interrupted_goes_on(site: &Site) {
    let sql = <MySql as Db>::MIGRATIONS[0].sql;
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    let sql = lines.collect::<Vec<_>>().join("\n");
    let statements: Vec<&str> = sql.split(';').filter(|statement| !statement.trim().is_empty()).collect();
    assert!(statements.len() > 10);
    for done in 0..statements.len() {
        let outbox = site.bare::<MySql>().await;
        for statement in &statements[..done] {
            outbox.sql(statement).await.unwrap();
        }
        assert!(outbox.check_schema().await.is_err(), "{done} statements are taken for all");
        outbox.migrate().await.unwrap();
        outbox.check_schema().await.unwrap();
        let groups = outbox.values("SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox_group").await;
        assert_eq!(groups, ["64"]);
        outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    }
}

async fn a_migration_waits_for_another(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    let mut other = raw(&url).await;
    let lock = "SELECT get_lock(concat('cqrs_outbox ', md5(database())), 0)";
    assert_eq!(other.query_first::<u64, _>(lock).await.unwrap(), Some(1));
    let migrating = {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.migrate().await })
    };
    let waiting = "SELECT count(*) FROM information_schema.processlist \
        WHERE db = database() AND state = 'User lock'";
    let waits = async {
        while other.query_first::<u64, _>(waiting).await.unwrap() == Some(0) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waits).await.expect("it does not wait");
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()";
    assert_eq!(other.query_first::<u64, _>(tables).await.unwrap(), Some(0));
    other.disconnect().await.unwrap();
    migrating.await.unwrap().unwrap();
    // And leaves the lock to the next one.
    let mut other = raw(&url).await;
    assert_eq!(other.query_first::<u64, _>(lock).await.unwrap(), Some(1));
    other.disconnect().await.unwrap();
}

async fn times_are_utc_whatever_the_session_says(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let mut conn = raw(&url).await;
    conn.query_drop("SET time_zone = '+11:00'").await.unwrap();
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, payload_text) VALUES ('n', 't', 'x')";
    conn.query_drop(insert).await.unwrap();
    let rows = read_all(&MySql::store(&outbox)).await;
    let age = chrono::Utc::now() - rows[0].message.timestamp.unwrap();
    assert!(age.num_seconds().abs() < 60, "{age}");
    let wrong = "SELECT CAST(handled_at AS text) AS value FROM cqrs_inbox \
        WHERE abs(timestampdiff(SECOND, handled_at, utc_timestamp())) > 60";
    conn.query_drop("INSERT INTO cqrs_inbox (consumer, message_id) VALUES ('c', '1')").await.unwrap();
    assert!(outbox.values(wrong).await.is_empty());
    conn.disconnect().await.unwrap();
}

/// Without a strict mode the server shortens what is too long, and the key would be another's.
async fn what_a_lax_session_cuts_off_is_refused(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let mut conn = raw(&url).await;
    conn.query_drop("SET sql_mode = ''").await.unwrap();
    for insert in [
        "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
             VALUES ('n', 't', repeat('k', 9000), 'x')",
        "INSERT INTO cqrs_outbox (event_id, event_name, topic, payload_text) VALUES (repeat('a', 40), 'n', 't', 'x')",
        "INSERT INTO cqrs_inbox (consumer, message_id) VALUES ('c', repeat('i', 9000))",
        "INSERT INTO cqrs_inbox (consumer, message_id) VALUES (repeat('c', 9000), '1')",
    ] {
        conn.query_drop(insert).await.expect_err(insert);
    }
    conn.disconnect().await.unwrap();
}

/// And many of them more than the server takes in one packet.
async fn a_payload_may_be_larger_than_a_blob(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let room = |letter: &str, bytes: usize| closed(letter.repeat(bytes));
    let event = Envelope::new(room("x", 70_000)).with_key("large");
    outbox.transaction(async |tx| tx.publish(event).await).await.unwrap();
    let many = (0..40).map(|_| Envelope::new(room("y", 700_000)).with_key("many"));
    outbox.transaction(async |tx| tx.publish_all(many.collect::<Vec<_>>()).await).await.unwrap();
    let rows = read_all(&MySql::store(&outbox)).await;
    assert_eq!(rows.len(), 41);
    assert!(rows[0].message.payload.as_ref().unwrap().len() > 70_000);
    assert!(rows[1..].iter().all(|row| row.message.payload.as_ref().unwrap().len() > 700_000));

    // Text, by plain SQL.
    outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
    let insert =
        "INSERT INTO cqrs_outbox (event_name, topic, payload_text) VALUES ('n', 't', repeat('ü', 50000))";
    outbox.sql(insert).await.unwrap();
    assert_eq!(read_all(&MySql::store(&outbox)).await[0].size, 100_000);
}

/// The encoder was told to take more than the server does.
async fn an_event_that_is_larger_than_a_packet_is_a_clear_error(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let outbox = outbox.with_encoder(Encoder::default().with_max_message_bytes(usize::MAX));
    let mut conn = raw(site.server_url()).await;
    let max: usize = conn.query_first("SELECT @@max_allowed_packet").await.unwrap().unwrap();
    let event = |bytes: usize| Envelope::new(closed("x".repeat(bytes))).with_key("room");
    let publish = outbox.transaction(async |tx| tx.publish_all([event(1), event(max)]).await);
    let add = async { outbox.add(&mut *outbox.connection().await?, event(max)).await };
    let later = event(max).deliver_after(Duration::from_secs(60));
    let schedule = outbox.transaction(async |tx| tx.publish(later).await);
    for error in [publish.await, add.await, schedule.await].map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidEvent, false), "{error}");
        let max = format!("`max_allowed_packet` of {max}");
        for part in ["room_closed", &max, "bytes"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    assert_eq!(outbox.waiting().await, 0);
    conn.disconnect().await.unwrap();
}

async fn an_edit_that_is_larger_than_a_packet_is_a_clear_error(site: &Site) {
    let (dead, scheduled) = (letter("rooms", "dead", None), letter("rooms", "scheduled", None));
    let [dead_id, scheduled_id] =
        [&dead, &scheduled].map(|event| event.id.as_ref().unwrap().to_uuid().unwrap());
    let (outbox, _) = buried::<MySql>(site, false, vec![dead.clone()]).await;
    let mut later = Outgoing::from(scheduled.clone());
    later.options.deliver = Some(Deliver::After(Duration::from_secs(600)));
    outbox.transaction(async |tx| tx.publish(later).await).await.unwrap();
    let outbox = outbox.with_encoder(Encoder::default().with_max_message_bytes(usize::MAX));
    let mut conn = raw(site.server_url()).await;
    let max: usize = conn.query_first("SELECT @@max_allowed_packet").await.unwrap().unwrap();
    for (id, name) in [(dead_id, "dead"), (scheduled_id, "scheduled")] {
        let payload = Edit::new().payload(format!("\"{}\"", "x".repeat(max)));
        for edit in [payload, Edit::new().header("long", "x".repeat(max))] {
            let error = outbox.edit(id, &edit).await.unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidEvent, false), "{error}");
            for part in [&format!("`{name}`"), &format!("`max_allowed_packet` of {max}"), "bytes"] {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
    }
    let shown = outbox.dead_letter(dead_id).await.unwrap().unwrap();
    assert_eq!((shown.message.payload, shown.message.headers.get("long")), (dead.payload, None));
    let shown = outbox.scheduled(&ScheduleFilter::default()).await.unwrap().remove(0);
    assert_eq!(shown.message.payload, scheduled.payload);
    assert!(outbox.requests(&RequestFilter::new(), Page::oldest_first()).await.unwrap().is_empty());
    // What is smaller goes, over whichever connection.
    for id in [dead_id, scheduled_id] {
        let _ =
            outbox.edit(id, &Edit::new().payload(format!("\"{}\"", "x".repeat(1_000_000)))).await.unwrap();
    }
    conn.disconnect().await.unwrap();
}

const HUNDRED_THOUSAND: &str = "\
    INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
    WITH RECURSIVE tens AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM tens WHERE n < 9) \
    SELECT 'n', 't', concat('key ', (a.n + 10 * b.n + 100 * c.n)), repeat('x', 300) \
    FROM tens a, tens b, tens c, tens d, tens e";

async fn a_read_uses_the_index(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.sql(HUNDRED_THOUSAND).await.unwrap();
    outbox.sql("ANALYZE TABLE cqrs_outbox").await.unwrap();
    let store = MySql::store(&outbox);
    let leases = own_all(&store, &relay("reader")).await;
    // A limit that no other test has, so that its statement is found.
    let known: Vec<i64> = (1..=4_000).collect();
    let request = ReadRequest { leases, known: known.clone(), limit: 487, max_bytes: 1 << 24 };
    let read = async |request: &ReadRequest, parts: &[&str]| {
        let rows = store.read(request).await.unwrap();
        assert_eq!(rows.len(), 487);
        assert!(rows.iter().all(|row| !known.contains(&row.id)));
        assert!(rows.is_sorted_by_key(|row| row.id));
        let statement = statements_with(parts).pop().unwrap();
        statement.split_once("-- binds:").unwrap().0.to_owned()
    };
    let mut conn = raw(&url).await;
    let all = read(&request, &["FROM cqrs_outbox t", "BETWEEN 4001 AND 4487"]).await;
    let (_, rows) = plan_of_a_read(&mut conn, &all).await;
    assert_eq!((&rows["access_type"], &rows["key"]), (&"range".into(), &"PRIMARY".into()), "{rows:#}");
    assert_eq!(visited(&mut conn, &all).await, 488, "one step for each row");
    let ids = statements_with(&["SELECT id, size FROM cqrs_outbox", "LIMIT 4487"]).pop().unwrap();
    let ids = visited(&mut conn, ids.split_once("-- binds:").unwrap().0).await;
    assert!(ids <= 4_488, "{ids} rows were visited");

    // Whoever shares the groups with others.
    let some = ReadRequest { leases: request.leases[1..].to_vec(), ..request };
    let some = read(&some, &["STRAIGHT_JOIN cqrs_outbox t", "LIMIT 487", "16777216"]).await;
    assert!(some.len() < 100_000, "the ids that are known go over with each group");
    let (read_of, rows) = plan_of_a_read(&mut conn, &some).await;
    assert_eq!(read_of.len(), 63);
    for table in read_of {
        assert_eq!(
            (&table["key"], &table["using_index"]),
            (&"cqrs_outbox_read".into(), &true.into()),
            "{table:#}"
        );
        assert_eq!(table["access_type"], "ref", "{table:#}");
    }
    assert_eq!((&rows["access_type"], &rows["key"]), (&"eq_ref".into(), &"PRIMARY".into()), "{rows:#}");
    // And it stops where it has enough.
    let visited = self::visited(&mut conn, &some).await;
    assert!(visited < 64 * (487 + 1) + 4_000 + 3 * 487, "{visited} rows were visited");
    conn.disconnect().await.unwrap();
}

/// The tables that a read goes through for ids, and the one where it fetches the rows.
async fn plan_of_a_read(
    conn: &mut mysql_async::Conn,
    statement: &str,
) -> (Vec<serde_json::Value>, serde_json::Value) {
    let plan: Option<String> = conn.query_first(format!("EXPLAIN FORMAT=JSON {statement}")).await.unwrap();
    let plan: serde_json::Value = serde_json::from_str(&plan.unwrap()).unwrap();
    let mut tables = Vec::new();
    collect_tables(&plan, &mut tables);
    let (reads, rest): (Vec<_>, Vec<_>) =
        tables.into_iter().cloned().partition(|table| table["table_name"] == "cqrs_outbox");
    (reads, rest.into_iter().find(|table| table["table_name"] == "t").unwrap())
}

/// How many rows a statement goes through.
async fn visited(conn: &mut mysql_async::Conn, statement: &str) -> u64 {
    conn.query_drop("FLUSH STATUS").await.unwrap();
    conn.query_drop(statement).await.unwrap();
    let visited: Vec<(String, u64)> = conn
        .query("SHOW SESSION STATUS WHERE variable_name IN ('Handler_read_next', 'Handler_read_key')")
        .await
        .unwrap();
    visited.iter().map(|(_, count)| count).sum()
}

fn collect_tables<'a>(plan: &'a serde_json::Value, tables: &mut Vec<&'a serde_json::Value>) {
    match plan {
        serde_json::Value::Object(object) => {
            if object.contains_key("table_name") {
                tables.push(plan);
            }
            object.values().for_each(|value| collect_tables(value, tables));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|value| collect_tables(value, tables)),
        _ => {}
    }
}

/// All rows are of one key: the other groups have nothing.
async fn a_read_of_one_busy_group_is_as_long_as_asked_for(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    outbox.transaction(async |tx| tx.publish_all((0..1_000).map(|_| closed("one"))).await).await.unwrap();
    let store = MySql::store(&outbox);
    let leases = own_all(&store, &relay("reader")).await;
    let all: Vec<i64> = read_all_ids(&outbox).await;
    let known = all[..100].to_vec();
    let request = ReadRequest { leases, known, limit: 400, max_bytes: 1 << 24 };
    let ids: Vec<i64> = store.read(&request).await.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(ids, all[100..500]);
}

async fn read_all_ids(outbox: &Outbox<MySql>) -> Vec<i64> {
    let ids = outbox.values("SELECT CAST(id AS text) AS value FROM cqrs_outbox ORDER BY id").await;
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// More lanes than one statement reads, and some of their rows in memory.
async fn parked_lanes_are_read_some_at_a_time(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let events = (0..3).flat_map(|_| (0..150).map(closed));
    outbox.transaction(async |tx| tx.publish_all(events.collect::<Vec<_>>()).await).await.unwrap();
    let store = MySql::store(&outbox);
    let rows = read_all(&store).await;
    let leases = own_all(&store, &relay("one")).await;
    for row in &rows[..150] {
        let lease = *leases.iter().find(|lease| lease.group == row.group).unwrap();
        let (lane, error) = (row.lane.clone(), "no".to_owned());
        let verdict = Verdict::Park { retry_in: Duration::ZERO };
        let park = Rejection { lease, id: row.id, lane: row.lane.clone(), attempts: 1, error, verdict };
        assert_eq!(store.reject(&park).await.unwrap(), Fenced::Done(()));
        let ids: Vec<i64> = rows[150..].iter().filter(|row| row.lane == lane).map(|row| row.id).collect();
        assert_eq!(ids.len(), 2);
        assert_eq!(store.set_aside(lease, &lane, &ids, LaterEvents::Wait).await.unwrap(), Fenced::Done(true));
    }
    let ids = |rows: &[cqrs_outbox::OutboxRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let mut request = ReadRequest { leases, known: Vec::new(), limit: 1_000, max_bytes: 1 << 24 };
    let all = store.read_parked(&request).await.unwrap();
    assert_eq!(ids(&all), ids(&rows));
    assert_eq!(all[0].group, rows[0].group);
    request.known = ids(&rows[..200]);
    assert_eq!(ids(&store.read_parked(&request).await.unwrap()), ids(&rows[200..]));
    request.limit = 100;
    assert_eq!(store.read_parked(&request).await.unwrap().len(), 100);
    // Bytes for some rows, and for none.
    request.max_bytes = all[200].size * 3;
    assert_eq!(store.read_parked(&request).await.unwrap().len(), 3);
    request.max_bytes = 0;
    assert_eq!(store.read_parked(&request).await.unwrap().len(), 1);
}

async fn slots_are_spread_and_agree_with_the_groups(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    outbox.transaction(async |tx| tx.publish_all((0..5_000).map(closed)).await).await.unwrap();
    let stray = "SELECT CAST(count(*) AS text) AS value FROM cqrs_outbox o \
        LEFT JOIN cqrs_outbox_group g ON o.slot BETWEEN g.first_slot AND g.last_slot \
        WHERE NOT (g.group_no <=> o.group_no)";
    assert_eq!(outbox.values(stray).await, ["0"]);
    let used = "SELECT CAST(count(DISTINCT group_no) AS text) AS value FROM cqrs_outbox";
    assert_eq!(outbox.values(used).await, ["64"]);
}

/// The isolation level, and the time-outs, of the application's connections are those of the server.
async fn the_relays_settings_are_its_own(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect_with(url, 1).await.unwrap();
    outbox.migrate().await.unwrap();
    let relay = OutboxRelay::builder(MySql::store(&outbox), Arc::new(Sink::default())).settings(quick());
    let relay = relay.build().unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    timeout(Duration::from_secs(30), relay.run_until_empty()).await.unwrap().unwrap();
    let other = "SELECT CAST(@@innodb_lock_wait_timeout <=> @@global.innodb_lock_wait_timeout AS text) AS value \
        UNION ALL SELECT CAST(@@wait_timeout <=> @@global.wait_timeout AS text) \
        UNION ALL SELECT CAST(@@autocommit + 0 AS text)";
    let mut conn = outbox.connection().await.unwrap();
    assert_eq!(MySql::values(&mut conn, other).await.unwrap(), ["1", "1", "1"]);
    drop(conn);

    // A snapshot for the whole transaction: what the server does unless it was told otherwise.
    let mut other = raw(site.server_url()).await;
    let level: Option<String> = other
        .query_first("SHOW GLOBAL VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')")
        .await
        .unwrap()
        .map(|(_, level): (String, String)| level);
    other.disconnect().await.unwrap();
    assert_eq!(level.as_deref(), Some("REPEATABLE-READ"), "the test is about the default");
    let store = MySql::store(&outbox);
    let mut tx = outbox.begin().await.unwrap();
    let relays = "SELECT name AS value FROM cqrs_outbox_relay";
    assert!(MySql::values(&mut tx, relays).await.unwrap().is_empty());
    own_all(&store, &self::relay("one")).await;
    assert!(MySql::values(&mut tx, relays).await.unwrap().is_empty(), "the snapshot has changed");
    tx.rollback().await.unwrap();
    assert_eq!(outbox.values(relays).await, ["one"]);
}

/// The server rolls the whole transaction back; a handler that takes no notice goes on.
async fn a_transaction_that_a_deadlock_ended_is_not_committed(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.sql("CREATE TABLE rooms (name VARCHAR(9) PRIMARY KEY, n INT NOT NULL)").await.unwrap();
    outbox.sql("INSERT INTO rooms VALUES ('a', 0), ('b', 0)").await.unwrap();
    let mut tx = outbox.begin().await.unwrap();
    tx.publish(closed("before")).await.unwrap();
    tx.batch_execute("UPDATE rooms SET n = 1 WHERE name = 'a'").await.unwrap();
    let mut other = raw(&url).await;
    // Heavier, so that the server chooses the first one.
    other.query_drop("BEGIN; INSERT INTO rooms VALUES ('c', 0), ('d', 0), ('e', 0)").await.unwrap();
    for name in ["b", "c", "d", "e"] {
        other.query_drop(format!("UPDATE rooms SET n = 1 WHERE name = '{name}'")).await.unwrap();
    }
    let crossing = tokio::spawn(async move {
        other.query_drop("UPDATE rooms SET n = 2 WHERE name = 'a'").await.unwrap();
        other.query_drop("COMMIT").await.unwrap();
        other.disconnect().await.unwrap();
    });
    waits_for_a_lock(site, &outbox).await;
    let deadlock = tx.batch_execute("UPDATE rooms SET n = 1 WHERE name = 'b'").await.unwrap_err();
    assert!(deadlock.to_string().contains("Deadlock"), "{deadlock}");
    tx.publish(closed("after")).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Transaction, true));
    assert!(error.to_string().contains("rolled back"), "{error}");
    crossing.await.unwrap();
    assert_eq!(outbox.waiting().await, 0, "half of a transaction was committed");
}

/// Until a transaction in this outbox's database waits for another one's lock.
async fn waits_for_a_lock(site: &Site, outbox: &Outbox<MySql>) {
    let database = outbox.values("SELECT database() AS value").await.remove(0);
    let connections = format!("SELECT id FROM information_schema.processlist WHERE db = '{database}'");
    let mut conn = raw(site.server_url()).await;
    let found = async {
        loop {
            // The table of transactions is not renewed while somebody reads it often.
            let (_, _, status): (String, String, String) =
                conn.query_first("SHOW ENGINE INNODB STATUS").await.unwrap().unwrap();
            let here: Vec<u64> = conn.query(&connections).await.unwrap();
            let waits = |transaction: &str| {
                let is_here = here.iter().any(|id| transaction.contains(&format!("thread id {id},")));
                is_here && transaction.contains("LOCK WAIT")
            };
            if status.split("---TRANSACTION").any(waits) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), found).await.expect("nobody waits for a lock");
    conn.disconnect().await.unwrap();
}

async fn a_transaction_that_ddl_ended_is_not_committed(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut tx = outbox.begin().await.unwrap();
    tx.batch_execute("CREATE TABLE rooms (name text NOT NULL)").await.unwrap();
    tx.publish(closed(1)).await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transaction);
    assert!(error.to_string().contains("CREATE TABLE"), "{error}");
    assert_eq!(outbox.waiting().await, 0);
}

/// As the server counts them.
async fn a_transaction_is_committed_once(site: &Site) {
    let outbox = MySql::connect_with(site.empty().await, 1).await.unwrap();
    outbox.migrate().await.unwrap();
    let commits = "SELECT CAST(variable_value AS text) AS value FROM information_schema.session_status \
        WHERE variable_name = 'Com_commit'";
    let mut counts = Vec::new();
    for _ in 0..3 {
        let mut tx = outbox.begin().await.unwrap();
        counts.push(MySql::values(&mut tx, commits).await.unwrap().remove(0).parse::<u64>().unwrap());
        tx.publish(closed(1)).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!([counts[1] - counts[0], counts[2] - counts[1]], [1, 1], "on one connection");
}

async fn after_a_transaction_statements_commit_by_themselves(site: &Site) {
    let url = site.empty().await;
    let (outbox, others) =
        (MySql::connect_with(url.clone(), 1).await.unwrap(), MySql::connect(url).await.unwrap());
    outbox.migrate().await.unwrap();
    outbox.sql("CREATE TABLE rooms (name text NOT NULL)").await.unwrap();
    for commit in [true, false] {
        let mut tx = outbox.begin().await.unwrap();
        tx.publish(closed(1)).await.unwrap();
        if commit {
            tx.commit().await.unwrap()
        } else {
            tx.rollback().await.unwrap()
        }
        outbox.sql("INSERT INTO rooms VALUES ('5')").await.unwrap();
    }
    assert_eq!(others.values("SELECT name AS value FROM rooms").await, ["5", "5"]);
    assert_eq!(others.waiting().await, 1);
}

/// A query that was dropped half-way, on a connection that goes back to the pool.
async fn an_answer_that_nobody_waited_for_is_nobody_elses(site: &Site) {
    let outbox = MySql::connect_with(site.empty().await, 1).await.unwrap();
    // Before there is an answer, and in the midst of a long one.
    let one = "SELECT concat('mine', sleep(0.2)) AS value";
    let many = "WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 400) \
        SELECT concat(repeat('mine', 9000), sleep(0.001)) AS value FROM n";
    for (query, millis) in [(one, 1), (one, 20), (one, 50), (many, 50), (many, 150)] {
        let mut conn = outbox.connection().await.unwrap();
        timeout(Duration::from_millis(millis), MySql::values(&mut conn, query)).await.unwrap_err();
        drop(conn);
        let mut conn = outbox.connection().await.unwrap();
        let answer = MySql::values(&mut conn, "SELECT 'yours' AS value").await;
        assert!(answer.as_ref().is_ok_and(|answer| answer == &["yours"]), "{millis}: {answer:?}");
    }
    // What was lent a while ago is tried before it is lent again, which must not take the answer for its own.
    let long = "SELECT concat('mine', sleep(1.5)) AS value";
    for (query, millis, rest) in [(long, 1_100, 0), (one, 50, 1_100)] {
        let mut conn = outbox.connection().await.unwrap();
        timeout(Duration::from_millis(millis), MySql::values(&mut conn, query)).await.unwrap_err();
        drop(conn);
        tokio::time::sleep(Duration::from_millis(rest)).await;
        let mut conn = outbox.connection().await.unwrap();
        let answer = MySql::values(&mut conn, "SELECT 'yours' AS value").await;
        assert!(answer.as_ref().is_ok_and(|answer| answer == &["yours"]), "{millis}, {rest}: {answer:?}");
    }
}

async fn locks_that_are_not_to_be_had_are_worth_a_retry(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let id = |id: &str| MessageId::from(id);
    let mut one = outbox.begin().await.unwrap();
    assert!(outbox.admit(&mut one, "consumer", &id("a")).await.unwrap());

    // A lock that is not given in time.
    let mut two = outbox.begin().await.unwrap();
    two.batch_execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
    let error = outbox.admit(&mut two, "consumer", &id("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true), "{error}");
    assert!(error.to_string().contains("Lock wait timeout"), "{error}");
    drop(two);

    // A deadlock: one of the two is told, and the other goes on.
    let mut two = outbox.begin().await.unwrap();
    assert!(outbox.admit(&mut two, "consumer", &id("b")).await.unwrap());
    let crossing = {
        let outbox = outbox.clone();
        let b = id("b");
        tokio::spawn(async move {
            let outcome = outbox.admit(&mut one, "consumer", &b).await;
            drop(one);
            outcome
        })
    };
    waits_for_a_lock(site, &outbox).await;
    let here = outbox.admit(&mut two, "consumer", &id("a")).await;
    drop(two);
    let outcomes = [here, crossing.await.unwrap()];
    let mut errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let error = errors.next().expect("no deadlock");
    assert!(errors.next().is_none());
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true), "{error}");
    assert!(error.to_string().contains("Deadlock"), "{error}");
}

async fn a_connection_that_was_killed_is_worth_a_retry(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut knife = raw(site.server_url()).await;
    for kill in ["KILL", "KILL QUERY"] {
        let mut tx = outbox.begin().await.unwrap();
        let id =
            MySql::values(&mut tx, "SELECT CAST(connection_id() AS text) AS value").await.unwrap().remove(0);
        // At rest, and in the midst of a statement.
        let error = if kill == "KILL" {
            knife.query_drop(format!("KILL {id}")).await.unwrap();
            let first = tx.publish(closed(1)).await.unwrap_err();
            let again = tx.publish(closed(1)).await.unwrap_err();
            assert!(first.is_retryable() && again.is_retryable(), "{first}; {again}");
            again
        } else {
            let mut blocker = outbox.begin().await.unwrap();
            outbox.admit(&mut blocker, "consumer", &MessageId::from("a")).await.unwrap();
            let a = MessageId::from("a");
            let admit = outbox.admit(&mut tx, "consumer", &a);
            let cut = async {
                waits_for_a_lock(site, &outbox).await;
                knife.query_drop(format!("KILL QUERY {id}")).await.unwrap();
            };
            let (admitted, ()) = tokio::join!(admit, cut);
            admitted.unwrap_err()
        };
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, true), "{kill}: {error}");
    }
    knife.disconnect().await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
}

/// As a restart of the server does it, or its `wait_timeout`.
async fn connections_that_were_closed_while_idle_are_not_lent(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut knife = raw(site.server_url()).await;
    // Several at once, so that there are several to be closed.
    let held = [outbox.begin().await.unwrap(), outbox.begin().await.unwrap(), outbox.begin().await.unwrap()];
    for mut tx in held {
        let id = "SELECT CAST(connection_id() AS text) AS value";
        let id = MySql::values(&mut tx, id).await.unwrap().remove(0);
        tx.rollback().await.unwrap();
        knife.query_drop(format!("KILL {id}")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for _ in 0..3 {
        outbox.status().await.unwrap();
        outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    }
    knife.disconnect().await.unwrap();
}

/// Nor within the second for which one is not tried.
async fn a_connection_that_was_cut_while_lent_is_not_lent_again(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut lent = outbox.connection().await.unwrap();
    // The answer says that it ends, and the next one nothing more.
    for cut in ["KILL CONNECTION_ID()", "DO 1"] {
        lent.batch_execute(cut).await.unwrap_err();
    }
    drop(lent);
    for _ in 0..3 {
        outbox.connection().await.unwrap().batch_execute("DO 1").await.unwrap();
    }
    // It was the statement that was ended here, and not the session.
    let session = "SELECT CAST(connection_id() AS text) AS value";
    let mut lent = outbox.connection().await.unwrap();
    let before = MySql::values(&mut lent, session).await.unwrap();
    lent.batch_execute("KILL QUERY CONNECTION_ID()").await.unwrap_err();
    drop(lent);
    let mut lent = outbox.connection().await.unwrap();
    assert_eq!(MySql::values(&mut lent, session).await.unwrap(), before);
}

/// As an operator's `KILL`, or a network that is cut.
async fn cut_connections_lose_nothing(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let database = outbox.values("SELECT database() AS value").await.remove(0);
    let (history, sink) = (History::new(), Arc::new(Sink::default()));
    let relay = OutboxRelay::builder(MySql::store(&outbox), sink.clone()).settings(quick()).build().unwrap();
    let writers = MySql::connect(url).await.unwrap();
    let mut knife = raw(site.server_url()).await;
    let work = async {
        // Those of writers are spared: only the relay's hold the level that it sets.
        let relays = "SELECT CAST(connection_id() AS text) AS value";
        let mut spared = writers.values(relays).await;
        for nth in 0..300_u64 {
            let key = format!("{}", nth % 5);
            let id = Uuid::from_u128(u128::from(nth) + 1);
            let message = Envelope::new(closed(&key)).with_id(id);
            let mut tx = writers.begin().await.unwrap();
            spared.extend(MySql::values(&mut tx, relays).await.unwrap());
            tx.publish(message).await.unwrap();
            tx.commit().await.unwrap();
            history.committed(bytes::Bytes::from(key), id, nth);
            if nth % 30 == 29 {
                let others = format!(
                    "SELECT id FROM information_schema.processlist WHERE db = '{database}' AND id NOT IN ({})",
                    spared.join(",")
                );
                let others: Vec<u64> = knife.query(others).await.unwrap();
                for id in others {
                    // It may be gone by itself.
                    knife.query_drop(format!("KILL {id}")).await.ok();
                }
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
    knife.disconnect().await.unwrap();
    for message in sink.messages() {
        history.delivered(message.id.unwrap().to_uuid().unwrap(), message.key);
    }
    history.check().assert_clean();
}

/// Neither a lease's row that is locked, nor a read, keeps a writer.
async fn writers_do_not_wait_for_a_relay(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut relay = outbox.begin().await.unwrap();
    relay
        .batch_execute(
            "SELECT * FROM cqrs_outbox_group FOR UPDATE; SELECT * FROM cqrs_outbox; \
             SELECT * FROM cqrs_outbox_relay FOR UPDATE; SELECT * FROM cqrs_outbox_gate FOR UPDATE",
        )
        .await
        .unwrap();
    let write = outbox.transaction(async |tx| tx.publish(closed(1)).await);
    timeout(Duration::from_secs(5), write).await.expect("a writer waited").unwrap();
    relay.rollback().await.unwrap();
    assert_eq!(outbox.waiting().await, 1);
}

/// Whatever it does, while rows stand there that are not committed. A statement that scans would wait for them.
async fn a_relay_does_not_wait_for_writers(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    outbox.transaction(async |tx| tx.publish_all(["a", "b", "b", "c"].map(closed)).await).await.unwrap();
    let mut writer = outbox.begin().await.unwrap();
    writer.publish_all(["a", "b", "c", "d"].map(closed)).await.unwrap();
    let store = MySql::store(&outbox);
    let (sink, relay) = (Arc::new(Sink::default()), relay("one"));
    let rows = read_all(&store).await;
    assert_eq!(rows.len(), 4);
    let leases = own_all(&store, &relay).await;
    let b = &rows[1];
    let lease = *leases.iter().find(|lease| lease.group == b.group).unwrap();
    let verdict = Verdict::Park { retry_in: Duration::ZERO };
    let park =
        Rejection { lease, id: b.id, lane: b.lane.clone(), attempts: 1, error: "no".to_owned(), verdict };
    assert_eq!(store.reject(&park).await.unwrap(), Fenced::Done(()));
    assert_eq!(
        store.set_aside(lease, &b.lane, &[rows[2].id], LaterEvents::Wait).await.unwrap(),
        Fenced::Done(true)
    );
    store.leave(&relay).await.unwrap();
    // All that is left is settled, from both places.
    let relay = OutboxRelay::builder(store, sink.clone()).settings(quick()).build().unwrap();
    let sent = async {
        while outbox.waiting().await > 0 || outbox.status().await.unwrap().parked > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let run =
        relay.run_until(async { timeout(Duration::from_secs(30), sent).await.expect("the relay waits") });
    run.await.unwrap();
    assert_eq!(sink.payloads().len(), 4);
    writer.commit().await.unwrap();
    assert_eq!(outbox.waiting().await, 4);
}

/// A relay that looks for rows that are not there takes no lock on the gap where a writer puts its own: at REPEATABLE READ
/// it would.
async fn writers_do_not_wait_for_what_a_relay_looked_for(site: &Site) {
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.transaction(async |tx| tx.publish_all(["a", "a"].map(closed)).await).await.unwrap();
    let store = MySql::store(&outbox);
    let leases = own_all(&store, &relay("one")).await;
    let request = ReadRequest { leases: leases.clone(), known: Vec::new(), limit: 9, max_bytes: 9_999 };
    let rows = store.read(&request).await.unwrap();
    let lease = *leases.iter().find(|lease| lease.group == rows[0].group).unwrap();
    let gate = format!("INSERT INTO cqrs_outbox_gate (lane, slot) VALUES ('ka', {})", lease.group.0 * 64);
    outbox.sql(&gate).await.unwrap();

    // The relay stops in the midst of its transaction: it has looked for three rows, of which one is beyond the last, and
    // waits for a place that somebody holds in the other table.
    let mut holder = raw(&url).await;
    let hold = format!(
        "BEGIN; INSERT INTO cqrs_outbox_parked (id, event_id, event_name, event_kind, event_version, topic, content_type, \
             tombstone, occurred_at, attempts, size, slot, lane) \
         VALUES ({}, uuid(), 'n', 'ecst', 1, 't', 'c', 1, utc_timestamp(), 0, 0, 0, 'x')",
        rows[0].id
    );
    holder.query_drop(hold).await.unwrap();
    let moving = {
        let (store, lane) = (store.clone(), rows[0].lane.clone());
        let ids = [rows[0].id, rows[1].id, rows[1].id + 1_000];
        tokio::spawn(async move { store.set_aside(lease, &lane, &ids, LaterEvents::Wait).await })
    };
    waits_for_a_lock(site, &outbox).await;
    let mut writer = outbox.begin().await.unwrap();
    writer.batch_execute("SET SESSION innodb_lock_wait_timeout = 1").await.unwrap();
    writer.publish(closed("written")).await.expect("a writer waits for a relay");
    writer.commit().await.unwrap();
    holder.query_drop("ROLLBACK").await.unwrap();
    holder.disconnect().await.unwrap();
    assert_eq!(moving.await.unwrap().unwrap(), Fenced::Done(true));
    assert_eq!(outbox.waiting().await, 1);
}

/// At REPEATABLE READ, as transactions of the application's are: what is looked for by the event's id must not be locked there.
async fn writers_do_not_wait_for_who_cancels(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let hour = Duration::from_secs(3_600);
    let later = |key: &'static str| Envelope::new(closed(key)).with_dedup_key(key, hour).deliver_after(hour);
    let events = vec![later("m"), Envelope::new(closed("none")).deliver_after(hour)];
    let added = outbox.transaction(async |tx| tx.publish_all(events).await).await.unwrap();
    let mut tx = outbox.begin().await.unwrap();
    for id in added.ids() {
        assert_eq!(tx.cancel(id.to_uuid().unwrap()).await.unwrap(), ScheduleChange::Done);
    }
    for key in ["a", "l", "n", "z"] {
        let write = outbox.transaction(async |tx| tx.publish(later(key)).await);
        timeout(Duration::from_secs(5), write).await.expect("a writer waited").unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(outbox.count("cqrs_outbox_dedup").await, 4);
}

/// Transactions of several rows and keys, at the server's own isolation level, against two relays at full speed.
async fn writers_meet_no_deadlock(site: &Site) {
    const WRITERS: u64 = 6;
    const TRANSACTIONS: u64 = 60;
    const EVENTS: u64 = 5;
    let url = site.empty().await;
    let outbox = MySql::connect(url.clone()).await.unwrap();
    outbox.migrate().await.unwrap();
    let history = History::new();
    let mut relays = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let sink = Arc::new(Sink::default());
    for _ in 0..2 {
        let store = MySql::store(&MySql::connect(url.clone()).await.unwrap());
        let (sink, mut stopped) = (sink.clone(), stopped.clone());
        relays.spawn(async move {
            let relay = OutboxRelay::builder(store, sink).settings(quick()).build().unwrap();
            let stop = async move {
                stopped.wait_for(|stop| *stop).await.unwrap();
            };
            relay.run_until(stop).await
        });
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (outbox, history) = (outbox.clone(), history.clone());
        writers.spawn(async move {
            for nth in 0..TRANSACTIONS {
                let event = |at: u64| {
                    let id = Uuid::from_u128(u128::from((writer * TRANSACTIONS + nth) * EVENTS + at) + 1);
                    let key = format!("{writer} {}", at % 3);
                    (key.clone(), id, Envelope::new(closed(&key)).with_id(id))
                };
                let events: Vec<_> = (0..EVENTS).map(event).collect();
                let (keys, messages): (Vec<_>, Vec<_>) =
                    events.into_iter().map(|(key, id, message)| ((key, id), message)).unzip();
                let written = outbox.transaction(async move |tx| tx.publish_all(messages).await).await;
                written.expect("a writer was disturbed");
                for (at, (key, id)) in keys.into_iter().enumerate() {
                    history.committed(bytes::Bytes::from(key), id, nth * EVENTS + at as u64);
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let left = async {
        while outbox.waiting().await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), left).await.expect("the relays do not get on");
    stop.send(true).unwrap();
    while let Some(relay) = relays.join_next().await {
        relay.unwrap().unwrap();
    }
    for message in sink.messages() {
        history.delivered(message.id.unwrap().to_uuid().unwrap(), message.key);
    }
    history.check().assert_clean();
}

/// It passes by what another relay has locked, and takes the rest.
async fn a_take_over_does_not_wait_for_another_relay(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut other = outbox.begin().await.unwrap();
    other.batch_execute("SELECT * FROM cqrs_outbox_group WHERE group_no < 10 FOR UPDATE").await.unwrap();
    let store = MySql::store(&outbox);
    let beat =
        cqrs_outbox::Heartbeat { lease: Duration::from_secs(600), take: usize::MAX, release: Vec::new() };
    let owned = store.heartbeat(&relay("one"), &beat).await.unwrap();
    assert!(owned.leases.len() >= 53 && owned.leases.iter().all(|lease| lease.group.0 >= 10), "{owned:?}");
    other.rollback().await.unwrap();
}

async fn what_writers_run_stays_prepared(site: &Site) {
    let outbox = site.outbox::<MySql>().await;
    let mut tx = outbox.begin().await.unwrap();
    let prepares = "SELECT CAST(variable_value AS text) AS value FROM information_schema.session_status \
                    WHERE variable_name = 'Com_stmt_prepare'";
    // Many stay prepared when as many come again.
    for (events, at_first) in [(1, 1), (100, 2)] {
        for _ in 0..at_first {
            outbox.add_all(&mut tx, (0..events).map(closed)).await.unwrap();
        }
        let before: u64 = MySql::values(&mut tx, prepares).await.unwrap()[0].parse().unwrap();
        for _ in 0..3 {
            outbox.add_all(&mut tx, (0..events).map(closed)).await.unwrap();
        }
        let after: u64 = MySql::values(&mut tx, prepares).await.unwrap()[0].parse().unwrap();
        assert_eq!(after - before, 1, "the query that counts them: {events}");
    }
    tx.commit().await.unwrap();
}
