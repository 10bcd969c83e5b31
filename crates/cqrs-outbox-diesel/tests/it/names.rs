//! Tables of other names, and several outboxes in one database.

use std::sync::Arc;
use std::time::Duration;

use cqrs_consumer::Inbox;
use cqrs_core::{AddOutcome, BeginTransaction, Envelope, ErrorKind, ScheduleChange, Transaction};
use cqrs_outbox::table::{OutboxRecord, inserts_into};
use cqrs_outbox::{OutboxRelay, OutboxStore, StoreError, StoreErrorKind};
use cqrs_outbox_diesel::{DriftKind, MySql, Outbox, Pg, Sqlite, TableNames};
use diesel_async::SimpleAsyncConnection;
use tokio::time::timeout;

use crate::backend::{Db, PlainSql, Site, named};
use crate::events::{Sink, closed, own_all, quick};
use crate::harness::{OnEach, Test, Trials, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(names<D> {
            outboxes_of_one_database_do_not_meet,
            those_of_several_names_migrate_at_once,
            the_check_names_them,
            a_lost_version_is_named_and_written_again,
            a_sequence_is_set_by_the_statement_that_is_told,
            the_printed_sql_makes_them,
            the_longest_prefix_leaves_room_for_all_names,
            names_that_cannot_be_are_refused,
        })
    }
}

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(names<Pg> {
        a_key_that_is_locked_in_one_is_free_in_another,
        a_schema_that_is_missing_is_a_clear_error,
    }));
    trials.on::<MySql>(tests!(names<MySql> {
        a_key_that_is_locked_in_one_is_free_in_another,
        a_schema_that_is_missing_is_a_clear_error,
    }));
    trials.on::<Pg>(tests!(names {
        the_same_tables_have_the_same_locks,
        each_has_a_channel_of_its_own,
        what_is_written_with_names_stays_prepared,
    }));
    trials.on::<Sqlite>(tests!(names { a_schema_is_refused }));
}

fn schema_error(error: &cqrs_core::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind() == StoreErrorKind::Schema)
}

/// One with the default names and two with others, the second in a schema of its own.
async fn three<D: Db>(site: &Site) -> [Outbox<D>; 3] {
    let url = site.empty().await;
    let others = [TableNames::new().prefix("orders_"), site.names("cqrs_outbox_").await];
    let [orders, elsewhere] = others;
    let outboxes = [
        D::connect(url.clone()).await.unwrap(),
        D::named(url.clone(), orders).await.unwrap(),
        D::named(url, elsewhere).await.unwrap(),
    ];
    for outbox in &outboxes {
        outbox.migrate().await.unwrap();
    }
    outboxes
}

async fn outboxes_of_one_database_do_not_meet<D: Db>(site: &Site)
where
    Outbox<D>: OutboxStore,
{
    let outboxes = three::<D>(site).await;
    let hour = Duration::from_secs(3_600);
    let mut scheduled = Vec::new();
    // All in one transaction of the application's, on a connection that knows of no names.
    let mut tx = outboxes[0].begin().await.unwrap();
    for (nth, outbox) in outboxes.iter().enumerate() {
        let event = Envelope::new(closed(nth)).with_key("k").with_dedup_key("d", hour).with_key_version(1);
        let added = outbox.add(&mut tx, event).await.unwrap();
        assert_eq!(added.events[0].outcome, AddOutcome::Written, "{nth}");
        let later = outbox.add(&mut tx, Envelope::new(closed(nth)).deliver_after(hour)).await.unwrap();
        scheduled.push(later.events[0].id.to_uuid().unwrap());
        // Without diesel.
        let record = OutboxRecord::new(closed(nth)).unwrap();
        let insert =
            inserts_into(outbox.tables(), <D as Db>::MIGRATIONS[0].dialect, [record]).unwrap().next();
        assert!(insert.unwrap().sql.starts_with(&named(outbox, "INSERT INTO cqrs_outbox (")));
        let plain = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
            VALUES ('room_closed', 'rooms', 'plain', '{}')";
        tx.batch_execute(&named(outbox, plain)).await.unwrap();
        assert!(outbox.admit(&mut tx, "consumer", &"m".into()).await.unwrap(), "{nth}");
        assert!(!outbox.admit(&mut tx, "consumer", &"m".into()).await.unwrap(), "{nth}");
    }
    tx.commit().await.unwrap();

    // A relay of each at the same time: each owns all groups, and sends what is its own.
    let relays = outboxes.iter().enumerate().map(async |(nth, outbox)| {
        let sink = Arc::new(Sink::default());
        let relay = OutboxRelay::builder(D::store(outbox), sink.clone()).settings(quick()).build().unwrap();
        timeout(Duration::from_secs(60), relay.run_until_empty()).await.unwrap().unwrap();
        let sent: Vec<_> =
            sink.payloads().iter().map(|sent| String::from_utf8_lossy(sent).into_owned()).collect();
        assert_eq!(sent, [format!("{{\"room\":\"{nth}\"}}"), "{}".to_owned()]);
    });
    futures_util::future::join_all(relays).await;
    let relays = outboxes.iter().map(async |outbox| {
        let relay = cqrs_outbox::RelayId { name: "relay".to_owned(), incarnation: uuid::Uuid::new_v4() };
        own_all(&D::store(outbox), &relay).await
    });
    futures_util::future::join_all(relays).await;

    // What is held, cancelled and purged in one is none of the others'.
    outboxes[1].hold().await.unwrap();
    assert_eq!(outboxes[2].cancel(scheduled[2]).await.unwrap(), ScheduleChange::Done);
    assert_eq!(outboxes[2].cancel(scheduled[1]).await.unwrap(), ScheduleChange::TooLate);
    assert_eq!(outboxes[0].purge_inbox(Duration::ZERO, 100).await.unwrap(), 1);
    for (nth, (hold, waits)) in [(false, 1), (true, 1), (false, 0)].into_iter().enumerate() {
        let status = outboxes[nth].status().await.unwrap();
        assert_eq!((status.hold, status.scheduled, status.relays.len()), (hold, waits, 1), "{nth}");
        assert_eq!(outboxes[nth].drift().await.unwrap(), [], "{nth}");
        let inbox = outboxes[nth].count(&named(&outboxes[nth], "cqrs_inbox")).await;
        assert_eq!(inbox, usize::from(nth != 0), "{nth}");
    }
}

async fn those_of_several_names_migrate_at_once<D: Db>(site: &Site) {
    let url = site.empty().await;
    let elsewhere = site.names("cqrs_").await;
    let migrating = (0..6).map(async |nth| {
        let names = [TableNames::new(), TableNames::new().prefix(""), elsewhere.clone()][nth % 3].clone();
        let outbox = D::named(url.clone(), names).await.unwrap();
        let migrated = outbox.migrate().await.unwrap();
        assert_eq!(outbox.drift().await.unwrap(), []);
        migrated.from
    });
    let from = futures_util::future::join_all(migrating).await;
    // On SQLite all are in one file, and two of them have the same names.
    let made = from.iter().filter(|from| from.is_none()).count();
    assert_eq!(made, if D::NAME == Sqlite::NAME { 2 } else { 3 });
}

async fn the_check_names_them<D: Db>(site: &Site) {
    let [default, orders, elsewhere] = three::<D>(site).await;
    let index = match D::NAME {
        "mysql" => "DROP INDEX cqrs_outbox_parked_lane ON cqrs_outbox_parked",
        _ => "DROP INDEX cqrs_outbox_parked_lane",
    };
    for (outbox, prefix) in [(&orders, "orders_"), (&elsewhere, "cqrs_outbox_")] {
        let place = if D::NAME == Pg::NAME {
            outbox.tables().qualified(cqrs_outbox::table::Dialect::Postgres, "")
        } else {
            String::new()
        };
        let index = named(outbox, index).replacen("DROP INDEX ", &format!("DROP INDEX {place}"), 1);
        outbox.sql(&index).await.unwrap();
        outbox.sql(&named(outbox, "DROP TABLE cqrs_outbox_sent")).await.unwrap();
        let drifts: Vec<String> = outbox.drift().await.unwrap().iter().map(ToString::to_string).collect();
        let wanted = [
            format!("the index `{prefix}outbox_parked_lane` of `{prefix}outbox_parked` is missing"),
            format!("the table `{prefix}outbox_sent` is missing"),
        ];
        assert_eq!(drifts.len(), 2, "{drifts:?}");
        assert!(drifts.iter().zip(&wanted).all(|(said, wanted)| said.starts_with(wanted)), "{drifts:?}");
    }
    assert_eq!(default.drift().await.unwrap(), []);
}

async fn a_lost_version_is_named_and_written_again<D: Db>(site: &Site) {
    let [default, orders, elsewhere] = three::<D>(site).await;
    for (outbox, meta) in [(&orders, "`orders_outbox_meta`"), (&elsewhere, "`cqrs_outbox_outbox_meta`")] {
        outbox.sql(&named(outbox, "DELETE FROM cqrs_outbox_meta")).await.unwrap();
        let error = outbox.check_schema().await.unwrap_err();
        assert!(schema_error(&error) && error.to_string().contains(meta), "{error}");
        let drifts = outbox.drift().await.unwrap();
        assert_eq!((drifts.len(), drifts[0].kind), (1, DriftKind::Missing));
        assert!(drifts[0].to_string().contains(meta), "{}", drifts[0]);
        outbox.sql(&named(outbox, "DROP TABLE cqrs_outbox_meta")).await.unwrap();
        assert!(outbox.drift().await.unwrap()[0].to_string().contains(meta));
        assert!(outbox.migrate().await.unwrap().restored);
        assert_eq!(outbox.drift().await.unwrap(), []);
    }
    assert!(!default.migrate().await.unwrap().restored);
}

async fn a_sequence_is_set_by_the_statement_that_is_told<D: Db>(site: &Site) {
    let [_, orders, elsewhere] = three::<D>(site).await;
    for outbox in [&orders, &elsewhere] {
        let row = "INSERT INTO cqrs_outbox_sent (id, event_id, event_name, event_kind, event_version, topic, content_type, tombstone, \
                occurred_at, attempts, size, slot, lane) \
            VALUES (1000, '00000000-0000-0000-0000-000000000001', 'n', 'ecst', 1, 't', 'x', false, '2026-01-01 00:00:00', 0, 0, 0, 'e')";
        outbox.sql(&named(outbox, row)).await.unwrap();
        let drifts = outbox.drift().await.unwrap();
        assert_eq!(drifts.len(), 1, "{drifts:?}");
        let statement = drifts[0].advice.split('`').collect::<Vec<_>>();
        let statement = statement[1..statement.len() - 1].join("`");
        outbox.sql(&statement).await.unwrap();
        assert_eq!(outbox.drift().await.unwrap(), [], "{statement}");
        outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
        let id = outbox.values(&named(outbox, "SELECT CAST(id AS text) AS value FROM cqrs_outbox")).await;
        assert_eq!(id, ["1001"]);
    }
}

async fn the_printed_sql_makes_them<D: Db>(site: &Site) {
    let (url, names) = (site.empty().await, site.names("orders_").await);
    let outbox = D::named(url, names).await.unwrap();
    for migration in <D as Db>::MIGRATIONS {
        outbox.sql(&migration.with_names(outbox.tables()).unwrap()).await.unwrap();
    }
    assert_eq!(outbox.drift().await.unwrap(), []);
    assert_eq!(outbox.migrate().await.unwrap().from, Some(1));
    // As without names, but for those.
    let names = TableNames::new();
    for migration in <D as Db>::MIGRATIONS {
        assert_eq!(migration.with_names(&names).unwrap(), migration.to_string());
    }
}

/// Nothing is cut off, of which two could become one.
async fn the_longest_prefix_leaves_room_for_all_names<D: Db>(site: &Site) {
    let prefix = "a23456789_123456789_1234";
    let outbox = D::named(site.empty().await, TableNames::new().prefix(prefix)).await.unwrap();
    outbox.migrate().await.unwrap();
    assert_eq!(outbox.drift().await.unwrap(), []);
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    let (query, rest) = match D::NAME {
        "postgres" => (
            "SELECT relname::text AS value FROM pg_class WHERE relname LIKE 'a23456789%' \
             UNION ALL SELECT conname::text FROM pg_constraint WHERE conname LIKE 'a23456789%'",
            "outbox_scheduled_event",
        ),
        "mysql" => (
            "SELECT table_name AS value FROM information_schema.tables WHERE table_schema = database() \
             UNION ALL SELECT index_name FROM information_schema.statistics WHERE table_schema = database() \
             UNION ALL SELECT constraint_name FROM information_schema.table_constraints WHERE table_schema = database()",
            "outbox_scheduled_one_payload",
        ),
        _ => ("SELECT name AS value FROM sqlite_schema", "outbox_scheduled_event"),
    };
    let names = outbox.values(query).await;
    let longest = names.iter().map(String::len).max().unwrap();
    assert!(longest <= 63, "{longest}");
    assert!(names.contains(&format!("{prefix}{rest}")), "{names:?}");
    if D::NAME == Pg::NAME {
        // PostgreSQL shortens the parts of a name that it makes where it would be too long.
        let whole = |name: &String| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with("outbox") || rest.starts_with("inbox"))
        };
        let cut: Vec<_> = names.iter().filter(|name| !whole(name)).collect();
        assert!(cut.is_empty(), "{cut:?}");
    }
}

async fn names_that_cannot_be_are_refused<D: Db>(site: &Site) {
    let url = site.empty().await;
    for names in [
        TableNames::new().prefix("Orders"),
        TableNames::new().schema("a.b"),
        TableNames::new().prefix("p".repeat(25)),
    ] {
        let error = D::named(url.clone(), names.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(<D as Db>::MIGRATIONS[0].with_names(&names).is_err());
    }
}

async fn a_schema_is_refused(site: &Site) {
    let names = TableNames::new().schema("main");
    let error = Sqlite::named(site.empty().await, names).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`main`") && error.to_string().contains("prefix"), "{error}");
}

async fn a_key_that_is_locked_in_one_is_free_in_another<D: Db>(site: &Site) {
    let [default, orders, elsewhere] = three::<D>(site).await;
    let mut held = default.begin().await.unwrap();
    held.lock_key("k").await.unwrap();
    for outbox in [&orders, &elsewhere] {
        let lock = outbox.transaction(async |tx| tx.lock_key("k").await);
        timeout(Duration::from_secs(10), lock).await.expect("it waits for a lock of another outbox").unwrap();
    }
    held.rollback().await.unwrap();
}

/// Found by the search path or by their schema.
async fn the_same_tables_have_the_same_locks(site: &Site) {
    let url = site.empty().await;
    let default = Outbox::<Pg>::connect(url.clone()).await.unwrap();
    default.migrate().await.unwrap();
    let schema = default.values("SELECT current_schema()::text AS value").await.remove(0);
    let qualified = Pg::named(url, TableNames::new().schema(schema)).await.unwrap();
    let locks = "SELECT classid || ' ' || objid AS value FROM pg_locks \
        WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    let mut seen = Vec::new();
    for outbox in [&default, &qualified] {
        let mut tx = outbox.begin().await.unwrap();
        tx.lock_key("k").await.unwrap();
        seen.push(Pg::values(&mut tx, locks).await.unwrap());
        tx.rollback().await.unwrap();
    }
    assert_eq!(seen[0].len(), 1);
    assert_eq!(seen[0], seen[1]);
}

async fn a_schema_that_is_missing_is_a_clear_error<D: Db>(site: &Site) {
    let outbox = D::named(site.empty().await, TableNames::new().schema("Of-Nobody")).await.unwrap();
    for error in [
        outbox.migrate().await.unwrap_err(),
        outbox.check_schema().await.unwrap_err(),
        outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap_err(),
    ] {
        assert!(schema_error(&error), "{error:?}");
        assert!(error.to_string().contains("cqrs outbox migrate"), "{error}");
    }
    let error = outbox.migrate().await.unwrap_err().to_string();
    assert!(error.contains("CREATE SCHEMA") && error.contains("Of-Nobody"), "{error}");
}

/// A word of one does not wake another, and reaches its own however they are called.
async fn each_has_a_channel_of_its_own(site: &Site) {
    let url = site.empty().await;
    let names = [TableNames::new().prefix("orders_"), site.names("cqrs_").await];
    for names in names {
        let connect = async || {
            Outbox::<Pg>::builder(url.clone())
                .tables(names.clone())
                .notifications(true)
                .connect()
                .await
                .unwrap()
        };
        let (writer, reader) = (connect().await, connect().await);
        writer.migrate().await.unwrap();
        let sink = Arc::new(Sink::default());
        let mut settings = quick();
        settings.poll_interval = Duration::from_secs(3_600);
        let relay =
            OutboxRelay::builder(Pg::store(&reader), sink.clone()).settings(settings).build().unwrap();
        let write = async {
            relay.started().await;
            // One after the other, so that each needs a word of its own.
            for count in 1..=3 {
                writer.transaction(async |tx| tx.publish(closed(count)).await).await.unwrap();
                while sink.payloads().len() < count {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        timeout(Duration::from_secs(60), relay.run_until(write))
            .await
            .expect("the relay was not woken")
            .unwrap();
        let listening = writer
            .values(&format!(
                "SELECT query AS value FROM pg_stat_activity WHERE query = 'LISTEN \"{names}\"' LIMIT 1"
            ))
            .await;
        assert_eq!(listening.len(), 1, "{names}");
    }
    let long = TableNames::new().schema("s".repeat(60));
    let error = Outbox::<Pg>::builder(url).tables(long).notifications(true).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("channel"), "{error}");
}

async fn what_is_written_with_names_stays_prepared(site: &Site) {
    let [.., outbox] = three::<Pg>(site).await;
    let mut tx = outbox.begin().await.unwrap();
    for nth in 1..4 {
        outbox.add(&mut tx, closed(nth)).await.unwrap();
        outbox.add_all(&mut tx, (0..nth + 1).map(closed)).await.unwrap();
    }
    let prepared = "SELECT CAST(count(*) AS text) AS value FROM pg_prepared_statements \
                    WHERE statement LIKE 'INSERT INTO %.cqrs_outbox_outbox %'";
    assert_eq!(Pg::values(&mut tx, prepared).await.unwrap(), ["2"], "one for a single row and one for many");
    tx.commit().await.unwrap();
}
