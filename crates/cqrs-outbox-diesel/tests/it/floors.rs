//! Where reads begin on PostgreSQL: behind what is dead, and never behind what may yet be committed.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{BeginTransaction, Transaction};
use cqrs_outbox::{GroupNo, Lease, OutboxStore, ReadRequest, RelayId};
use cqrs_outbox_diesel::{Outbox, Pg, Tx};
use cqrs_testing::services::Server;
use diesel_async::SimpleAsyncConnection;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{own_all, statements_with};
use crate::explain::{Plan, last_statement, parameters};
use crate::harness::{Trials, tests};
use crate::servers;

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(floors {
        what_an_old_snapshot_keeps_is_stepped_over,
        who_draws_an_id_early_and_commits_late_is_not_lost,
        who_is_open_while_floors_rise_is_not_lost,
        who_has_not_written_to_the_outbox_holds_nothing_up,
        a_table_that_was_emptied_is_read_from_its_beginning,
        a_restore_of_the_tables_is_read_from_its_beginning,
        a_restore_of_the_data_alone_is_read_from_its_beginning,
        a_sequence_that_was_set_back_is_noticed_for_good,
        what_was_inserted_below_the_floors_is_found_in_time,
        what_was_known_before_a_crash_is_forgotten,
    }));
    trials.on_own::<Pg>(tests!(floors { another_database_of_the_same_name_is_read_from_its_beginning }));
}

/// Among the parameters of a read of groups.
const FLOORS: usize = 4;

/// Among those of a read of all.
const FLOOR: usize = 3;

/// Somebody who reads all groups but one, in which there is nothing that matters: who reads all begins behind the lowest floor.
struct Reader {
    outbox: Outbox<Pg>,
    store: Arc<dyn OutboxStore>,
    all: Vec<Lease>,
    leases: Vec<Lease>,
    /// Which no other reader has, so that its statements are found.
    limit: usize,
}

impl Reader {
    async fn new(outbox: &Outbox<Pg>, limit: usize) -> Self {
        let store = Pg::store(outbox);
        let all = own_all(&store, &RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() }).await;
        let leases = all.iter().copied().filter(|lease| lease.group != ELSEWHERE).collect();
        Self { outbox: outbox.clone(), store, all, leases, limit }
    }

    async fn read(&self) -> Vec<i64> {
        let (leases, max_bytes) = (self.leases.clone(), 1 << 24);
        let request = ReadRequest { leases, known: Vec::new(), limit: self.limit, max_bytes };
        self.store.read(&request).await.unwrap().iter().map(|row| row.id).collect()
    }

    /// The statement of the last read, and its parameters.
    fn statement(&self) -> (String, Vec<Value>) {
        let (text, binds) = last_statement(&["FROM cqrs_outbox o", &format!(", {}, 16777216]", self.limit)]);
        (text, parameters(&binds))
    }

    /// Those of all groups, as of the last read.
    fn floors(&self) -> Vec<i64> {
        let (_, binds) = self.statement();
        serde_json::from_value(binds[FLOORS].clone()).unwrap()
    }

    fn lowest(&self) -> i64 {
        self.floors().into_iter().min().unwrap()
    }

    /// Reads until all floors are as high as that.
    async fn until_floors_are_at(&self, id: i64) {
        let risen = async {
            loop {
                self.read().await;
                if self.lowest() >= id {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), risen)
            .await
            .unwrap_or_else(|_| panic!("a floor is at {}, and not at {id}", self.lowest()));
    }

    /// Reads until it was looked so often whether floors can rise, and none has risen to that id.
    async fn floors_stay_below(&self, id: i64, looks: usize) {
        let table = "SELECT pg_get_serial_sequence('cqrs_outbox', 'id')::regclass::oid::text AS value";
        let sequence = format!("binds: [{}]", self.outbox.values(table).await[0]);
        let looked = || statements_with(&["FROM pg_locks", &sequence]).len();
        let before = looked();
        let more = async {
            while looked() < before + looks {
                self.read().await;
                let highest = self.floors().into_iter().max().unwrap();
                assert!(highest < id, "a floor is at {highest}, and {id} is still open");
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(60), more).await.expect("nobody looks");
    }
}

/// The one that is not read.
const ELSEWHERE: GroupNo = GroupNo(0);

/// Rows of so many keys.
async fn insert(outbox: &Outbox<Pg>, rows: usize) {
    let insert = format!(
        "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
         SELECT 'n', 't', convert_to('key ' || n % 1000, 'UTF8'), 'x' FROM generate_series(1, {rows}) AS n"
    );
    outbox.sql(&insert).await.unwrap();
}

/// One row, whose transaction stays open; with its id.
async fn insert_and_wait(outbox: &Outbox<Pg>) -> (Tx<Pg>, i64) {
    let mut tx = outbox.begin().await.unwrap();
    let insert = "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) \
        VALUES ('n', 't', 'late', 'x') RETURNING id::text AS value";
    let id = Pg::values(&mut tx, insert).await.unwrap()[0].parse().unwrap();
    (tx, id)
}

async fn delete(outbox: &Outbox<Pg>) {
    outbox.sql("DELETE FROM cqrs_outbox").await.unwrap();
}

async fn last_id(outbox: &Outbox<Pg>) -> i64 {
    let last =
        "SELECT pg_sequence_last_value(pg_get_serial_sequence('cqrs_outbox', 'id')::regclass)::text AS value";
    outbox.values(last).await[0].parse().unwrap()
}

async fn what_an_old_snapshot_keeps_is_stepped_over(site: &Site) {
    const DEAD: usize = 200_000;
    let outbox = site.outbox::<Pg>().await;
    insert(&outbox, DEAD).await;
    let mut old = outbox.begin().await.unwrap();
    old.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs_outbox")
        .await
        .unwrap();
    delete(&outbox).await;
    outbox.sql("VACUUM (ANALYZE) cqrs_outbox").await.unwrap();
    insert(&outbox, 1_000).await;

    let reader = Reader::new(&outbox, 491).await;
    reader.until_floors_are_at(DEAD as i64).await;
    assert_eq!(reader.read().await.len(), 491);
    let (text, mut binds) = reader.statement();
    for generic in [false, true] {
        let behind = Plan::of(&outbox, generic, &text, &binds).await.buffers();
        let floors = std::mem::replace(&mut binds[FLOORS], vec![i64::MIN; 63].into());
        let before = Plan::of(&outbox, generic, &text, &binds).await.buffers();
        binds[FLOORS] = floors;
        eprintln!("a read from the beginning looks at {before} pages, one from the floors at {behind}");
        assert!(before > 10_000, "nothing is dead: {before}");
        assert!(behind < 4_000, "{behind} pages");
    }
    // Whoever owns all groups, and goes through the table in the order of the ids.
    let request =
        ReadRequest { leases: reader.all.clone(), known: Vec::new(), limit: 493, max_bytes: 1 << 24 };
    let all = async || {
        let rows = reader.store.read(&request).await.unwrap();
        assert_eq!(rows.len(), 493);
        let (text, binds) = last_statement(&["FROM cqrs_outbox o", ", 493, 16777216]"]);
        (text, parameters(&binds))
    };
    let risen = async {
        while all().await.1[FLOOR].as_i64().unwrap() < DEAD as i64 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), risen).await.expect("the lowest floor does not rise");
    let (text, mut binds) = all().await;
    for generic in [false, true] {
        let behind = Plan::of(&outbox, generic, &text, &binds).await.buffers();
        let floor = std::mem::replace(&mut binds[FLOOR], i64::MIN.into());
        let before = Plan::of(&outbox, generic, &text, &binds).await.buffers();
        binds[FLOOR] = floor;
        eprintln!("a read of all from the beginning looks at {before} pages, one from the floor at {behind}");
        assert!(before > 2_000, "nothing is dead: {before}");
        assert!(behind < 1_500, "{behind} pages");
    }
    // The snapshot was there all the time.
    let still = Pg::values(&mut old, "SELECT count(*)::text AS value FROM cqrs_outbox").await.unwrap();
    assert_eq!(still, [DEAD.to_string()]);
    old.rollback().await.unwrap();
}

/// By an INSERT that is committed later; and by `nextval`, which has no transaction id yet, for an INSERT that comes later.
async fn who_draws_an_id_early_and_commits_late_is_not_lost(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    insert(&outbox, 10).await;
    let (writer, inserted) = insert_and_wait(&outbox).await;
    let mut drawer = outbox.begin().await.unwrap();
    let draw = "SELECT nextval(pg_get_serial_sequence('cqrs_outbox', 'id'))::text AS value";
    let drawn: i64 = Pg::values(&mut drawer, draw).await.unwrap()[0].parse().unwrap();

    let reader = Reader::new(&outbox, 1_501).await;
    insert(&outbox, 3_000).await;
    assert_eq!(reader.read().await.len(), 1_501);
    delete(&outbox).await;
    reader.floors_stay_below(inserted, 3).await;
    writer.commit().await.unwrap();
    assert_eq!(reader.read().await, [inserted]);

    reader.floors_stay_below(drawn, 3).await;
    let use_it = format!(
        "INSERT INTO cqrs_outbox (id, event_name, topic, message_key, payload_text) VALUES ({drawn}, 'n', 't', 'late', 'x')"
    );
    drawer.batch_execute(&use_it).await.unwrap();
    drawer.commit().await.unwrap();
    assert_eq!(reader.read().await, [inserted, drawn]);

    // With nobody left to wait for, and with enough that is dead, they rise to the end.
    insert(&outbox, 2_000).await;
    reader.read().await;
    delete(&outbox).await;
    reader.until_floors_are_at(last_id(&outbox).await).await;
}

/// What is decided is decided of the ids that had been given before it was asked who is open, and of no later ones.
async fn who_is_open_while_floors_rise_is_not_lost(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let reader = Reader::new(&outbox, 1_503).await;
    insert(&outbox, 3_000).await;
    let (first, early) = insert_and_wait(&outbox).await;
    reader.floors_stay_below(early, 1).await;
    delete(&outbox).await;
    let (second, late) = insert_and_wait(&outbox).await;
    reader.floors_stay_below(early, 2).await;
    first.rollback().await.unwrap();
    reader.until_floors_are_at(early).await;
    let floors = reader.floors();
    assert!(floors.iter().all(|floor| *floor < late), "{:?} is not below {late}", floors.iter().max());
    second.commit().await.unwrap();
    assert_eq!(reader.read().await, [late]);
}

/// However long it is open, and whatever it has written elsewhere; and so with one who has only read the outbox.
async fn who_has_not_written_to_the_outbox_holds_nothing_up(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    outbox.sql("CREATE TABLE rooms (name text NOT NULL)").await.unwrap();
    let mut elsewhere = outbox.begin().await.unwrap();
    elsewhere
        .batch_execute("INSERT INTO rooms VALUES ('one'); SELECT * FROM cqrs_outbox; SELECT last_value FROM cqrs_outbox_id_seq")
        .await
        .unwrap();
    let reader = Reader::new(&outbox, 1_507).await;
    insert(&outbox, 2_000).await;
    delete(&outbox).await;
    reader.until_floors_are_at(last_id(&outbox).await).await;
    elsewhere.rollback().await.unwrap();
}

/// A reader whose floors are at 2,000, and in the table there is nothing.
async fn at_2000(outbox: &Outbox<Pg>, limit: usize) -> Reader {
    let reader = Reader::new(outbox, limit).await;
    insert(outbox, 2_000).await;
    delete(outbox).await;
    reader.until_floors_are_at(2_000).await;
    reader
}

async fn a_table_that_was_emptied_is_read_from_its_beginning(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let reader = at_2000(&outbox, 1_509).await;
    outbox.sql("TRUNCATE cqrs_outbox RESTART IDENTITY").await.unwrap();
    // Some of it above the floors.
    insert(&outbox, 3_600).await;
    assert_eq!(reader.read().await.first(), Some(&1));

    // And what is found out then is about the new one.
    delete(&outbox).await;
    reader.until_floors_are_at(3_600).await;
    outbox.sql("ALTER SEQUENCE cqrs_outbox_id_seq RESTART").await.unwrap();
    insert(&outbox, 3_700).await;
    assert_eq!(reader.read().await.first(), Some(&1));
}

/// The tables are made anew, and have in them what was dumped: the name of the run is the same.
async fn a_restore_of_the_tables_is_read_from_its_beginning(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let reader = at_2000(&outbox, 1_513).await;
    let run = outbox.values("SELECT run::text AS value FROM cqrs_outbox_run").await.remove(0);
    let tables = "SELECT string_agg(quote_ident(tablename), ', ') AS value FROM pg_tables WHERE schemaname = current_schema";
    let tables = outbox.values(tables).await.remove(0);
    outbox.sql(&format!("DROP TABLE {tables}")).await.unwrap();
    outbox.migrate().await.unwrap();
    restore(&outbox, 2_500).await;
    outbox.sql(&format!("INSERT INTO cqrs_outbox_run (run) VALUES ('{run}')")).await.unwrap();
    assert_eq!(reader.read().await, [3, 2_400]);
}

/// The tables are those that were there, and so is the sequence.
async fn a_restore_of_the_data_alone_is_read_from_its_beginning(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let reader = at_2000(&outbox, 1_517).await;
    outbox.sql("TRUNCATE cqrs_outbox").await.unwrap();
    restore(&outbox, 2_500).await;
    assert_eq!(reader.read().await, [3, 2_400]);
}

/// As a dump says it, but for the tables.
async fn restore(outbox: &Outbox<Pg>, last: i64) {
    let restore = format!(
        "INSERT INTO cqrs_outbox (id, event_name, topic, message_key, payload_text) \
         SELECT id, 'n', 't', 'a', 'x' FROM unnest('{{3, 2400}}'::bigint[]) AS id; \
         SELECT setval('cqrs_outbox_id_seq', {last}, true)"
    );
    outbox.sql(&restore).await.unwrap();
}

/// A copy that was made of the files has all in it that a database says of itself: that of a template, and that of a server that
/// was shut down.
async fn another_database_of_the_same_name_is_read_from_its_beginning(_: &Site) {
    let server = servers::start::<Pg>().await;
    let admin = Pg::connect(server.url().to_owned()).await.unwrap();
    admin.sql("CREATE DATABASE meetings").await.unwrap();
    let mut url = url::Url::parse(server.url()).unwrap();
    url.set_path("meetings");
    let outbox = Pg::connect(url.into()).await.unwrap();
    outbox.migrate().await.unwrap();
    let reader = at_2000(&outbox, 1_523).await;
    let alone = "SELECT pg_terminate_backend(pid, 5000)::text AS value FROM pg_stat_activity WHERE datname = 'meetings'";
    admin.values(alone).await;
    admin.sql("CREATE DATABASE copy TEMPLATE meetings").await.unwrap();
    admin.sql("ALTER DATABASE meetings RENAME TO gone").await.unwrap();
    admin.sql("ALTER DATABASE copy RENAME TO meetings").await.unwrap();
    let waiting = |id: i64| {
        format!(
            "INSERT INTO cqrs_outbox (id, event_name, topic, message_key, payload_text) VALUES ({id}, 'n', 't', 'a', 'x')"
        )
    };
    outbox.sql(&waiting(7)).await.unwrap();
    assert_eq!(reader.read().await, [7]);

    delete(&outbox).await;
    reader.until_floors_are_at(2_000).await;
    outbox.sql(&waiting(8)).await.unwrap();
    assert!(reader.read().await.is_empty(), "a read does not begin at the floors");
    drop(admin);
    servers::tell(&server, Server::restart).await;
    let again = async {
        while outbox.connection().await.is_err() || outbox.sql("SELECT 1").await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), again).await.expect("the server is not back");
    assert_eq!(reader.read().await, [8]);
}

async fn a_sequence_that_was_set_back_is_noticed_for_good(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let reader = at_2000(&outbox, 1_519).await;
    outbox.sql("SELECT setval('cqrs_outbox_id_seq', 1500)").await.unwrap();
    let (late, id) = insert_and_wait(&outbox).await;
    assert_eq!(id, 1_501);
    insert(&outbox, 3).await;
    assert_eq!(reader.read().await, [1_502, 1_503, 1_504]);
    // It has given as many again, and the floors would be right if it had not been there before.
    insert(&outbox, 700).await;
    reader.read().await;
    late.commit().await.unwrap();
    assert_eq!(reader.read().await.first(), Some(&1_501));
}

/// With the clock of a runtime of its own, which is set forward.
async fn what_was_inserted_below_the_floors_is_found_in_time(site: &Site) {
    let url = site.empty().await;
    let on_its_own = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let outbox = Pg::connect(url).await.unwrap();
            outbox.migrate().await.unwrap();
            let reader = at_2000(&outbox, 1_521).await;
            outbox
                .sql("INSERT INTO cqrs_outbox (id, event_name, topic, message_key, payload_text) VALUES (7, 'n', 't', 'a', 'x')")
                .await
                .unwrap();
            assert!(reader.read().await.is_empty(), "a read does not begin at the floors");
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(61)).await;
            tokio::time::resume();
            assert_eq!(reader.read().await, [7]);
            let floors = reader.floors();
            let lowered = floors.iter().filter(|floor| **floor < 2_000).collect::<Vec<_>>();
            assert_eq!(lowered, [&6], "floors of other groups are not what they were");
        });
    };
    tokio::task::spawn_blocking(on_its_own).await.unwrap();
}

/// After which rows that were removed may be there again, and ids be given again.
async fn what_was_known_before_a_crash_is_forgotten(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let unlogged =
        "SELECT relpersistence::text AS value FROM pg_class WHERE oid = 'cqrs_outbox_run'::regclass";
    assert_eq!(outbox.values(unlogged).await, ["u"], "a crash does not empty it");
    let reader = at_2000(&outbox, 1_511).await;
    let again = "INSERT INTO cqrs_outbox (id, event_name, topic, message_key, payload_text) VALUES (7, 'n', 't', 'a', 'x')";
    outbox.sql(again).await.unwrap();
    assert!(reader.read().await.is_empty(), "a read does not begin at the floors");
    // As a crash leaves it.
    outbox.sql("TRUNCATE cqrs_outbox_run").await.unwrap();
    assert_eq!(reader.read().await, [7]);
    // And what is found out in the next run is not about that one.
    outbox.sql("INSERT INTO cqrs_outbox_run DEFAULT VALUES").await.unwrap();
    insert(&outbox, 2_000).await;
    outbox.sql("DELETE FROM cqrs_outbox WHERE id > 7").await.unwrap();
    reader.until_floors_are_at(6).await;
    assert_eq!(reader.read().await, [7]);
}
