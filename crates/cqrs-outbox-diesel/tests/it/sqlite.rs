//! What only SQLite has.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::ErrorKind;
use cqrs_outbox::{
    Heartbeat, LaterEvents, Lease, OutboxRow, OutboxStore, ReadRequest, Rejection, RelayId, Verdict,
};
use cqrs_outbox_diesel::{Outbox, Sqlite};
use uuid::Uuid;

use crate::backend::{PlainSql, Site};
use crate::events::{closed, own_all, read_all, statements_with};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Sqlite>(tests!(sqlite {
        urls_of_others_are_a_clear_error,
        a_folder_that_is_not_there_is_a_clear_error,
        a_file_that_is_not_there_may_be_there_later,
        a_file_that_may_only_be_read_says_how_it_can_be,
        a_database_in_memory_is_refused,
        keys_of_any_type_share_a_lane_with_their_bytes,
        dead_letters_are_found_however_their_ids_are_written,
        a_reader_does_not_wait_for_a_writer,
        the_tables_need_no_new_functions,
        an_idle_relay_runs_little,
    }));
}

async fn urls_of_others_are_a_clear_error(_: &Site) {
    for url in ["postgres://me:secret@localhost/db", "file.db", "sqlite://", ""] {
        let error = Outbox::<Sqlite>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("sqlite://path"), "{error}");
        assert!(!format!("{error:#} {error:?}").contains("secret"), "{error}");
    }
    let builder = Outbox::<Sqlite>::builder("postgres://me:secret@localhost/db");
    assert!(!format!("{builder:?}").contains("secret"), "{builder:?}");
}

async fn a_folder_that_is_not_there_is_a_clear_error(site: &Site) {
    let url = site.empty().await.replace("/0.db", "/nowhere/0.db");
    let error = Outbox::<Sqlite>::connect(&url).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false));
    assert!(error.to_string().contains(&url) && error.to_string().contains("folder"), "{error}");
}

/// As a relay of several databases opens them.
async fn a_file_that_is_not_there_may_be_there_later(site: &Site) {
    let url = site.empty().await;
    let lazily = |url: &str| Outbox::<Sqlite>::builder(url).create(false).connect_lazily().unwrap();
    let outbox = lazily(&url);
    for _ in 0..2 {
        let error = outbox.check_schema().await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false), "{error}");
        for part in [&*url, "no such file", "cqrs outbox migrate"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    Outbox::<Sqlite>::connect(url).await.unwrap().migrate().await.unwrap();
    outbox.check_schema().await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();

    // For this nobody has to wait.
    let nowhere = site.empty().await.replace("/1.db", "/nowhere/1.db");
    let outbox = Outbox::<Sqlite>::builder(nowhere).connect_lazily().unwrap();
    let error = outbox.check_schema().await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("folder"), "{error}");
}

/// A copy that is in no WAL mode, as a file in a folder that this user may not write: root, as whom tests may run, may write everywhere.
async fn a_file_that_may_only_be_read_says_how_it_can_be(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    let copy = site.empty().await.replace("sqlite://", "");
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    outbox.sql(&format!("VACUUM INTO '{copy}'")).await.unwrap();
    let error = Outbox::<Sqlite>::connect(format!("sqlite://file:{copy}?mode=ro")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Store, false));
    assert!(error.to_string().contains("write in its folder"), "{error}");
    assert!(!error.to_string().contains("  "), "{error}");
    // As it says.
    assert!(error.to_string().contains("`sqlite://file:/path/to/file?immutable=1`"), "{error}");
    let copy = Outbox::<Sqlite>::connect(format!("sqlite://file:{copy}?immutable=1")).await.unwrap();
    assert_eq!(copy.status().await.unwrap().waiting, 1);
    assert_eq!(copy.drift().await.unwrap(), []);
}

async fn a_database_in_memory_is_refused(_: &Site) {
    for url in ["sqlite://:memory:", "sqlite://file:x?mode=memory&cache=shared"] {
        let error = Outbox::<Sqlite>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("name a file"), "{error}");
    }
}

/// The column takes text and numbers as they are; the lane is that of their bytes.
async fn keys_of_any_type_share_a_lane_with_their_bytes(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    outbox.transaction(async |tx| tx.publish(closed("42")).await).await.unwrap();
    for key in ["'42'", "42", "x'3432'"] {
        let insert = format!(
            "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) VALUES ('n', 't', {key}, 'x')"
        );
        outbox.sql(&insert).await.unwrap();
    }
    let gate = "INSERT INTO cqrs_outbox_gate (lane, slot) VALUES (x'6b3432', 0)";
    outbox.sql(gate).await.unwrap();
    let store: Arc<dyn OutboxStore> = Arc::new(outbox);
    let rows = read_all(&store).await;
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert_eq!(row.lane, rows[0].lane);
        assert_eq!(row.place, cqrs_outbox::Place::Gated, "{row:?}");
    }
}

async fn dead_letters_are_found_however_their_ids_are_written(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    let insert = "INSERT INTO cqrs_outbox (event_id, event_name, topic, payload_text) \
        VALUES ('A0EEBC999C0B4EF8BB6D6BB9BD380A11', 'n', 't', 'x')";
    outbox.sql(insert).await.unwrap();
    let store: Arc<dyn OutboxStore> = Arc::new(outbox.clone());
    let relay = RelayId { name: "relay".to_owned(), incarnation: Uuid::new_v4() };
    let lease = own_all(&store, &relay).await[0];
    let row = read(&store, lease).await.remove(0);
    let verdict = Verdict::Bury { later: LaterEvents::GoOn };
    let rejection =
        Rejection { lease, id: row.id, lane: row.lane, attempts: 1, error: "no".to_owned(), verdict };
    store.reject(&rejection).await.unwrap();
    outbox.discard(row.event_id).await.unwrap();
    own_all(&store, &relay).await;
    assert!(outbox.values("SELECT error AS value FROM cqrs_outbox_dead").await.is_empty());
}

/// Other programs, with an SQLite of their own, write to these tables, migrate by hand, and restore dumps.
async fn the_tables_need_no_new_functions(_: &Site) {
    for migration in cqrs_outbox_diesel::migrations::SQLITE {
        let code = migration.sql.lines().filter(|line| !line.trim_start().starts_with("--"));
        for line in code {
            for new in ["unhex", "unixepoch", "subsec", "timediff", "concat", "octet_length", "->>"] {
                assert!(!line.contains(new), "{new}: {line}");
            }
        }
    }
}

async fn read(store: &Arc<dyn OutboxStore>, lease: Lease) -> Vec<OutboxRow> {
    let request = ReadRequest { leases: vec![lease], known: Vec::new(), limit: 10, max_bytes: 1_000 };
    store.read(&request).await.unwrap()
}

async fn a_reader_does_not_wait_for_a_writer(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    let journal = outbox.values("SELECT journal_mode AS value FROM pragma_journal_mode").await;
    assert_eq!(journal, ["wal"]);
    let versions = outbox
        .transaction(async |tx| {
            tx.publish(closed(1)).await?;
            outbox.check_schema().await
        })
        .await;
    versions.unwrap();
}

/// A heartbeat is a transaction here, beside whom nobody can write: it is to be short.
async fn an_idle_relay_runs_little(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    let store: Arc<dyn OutboxStore> = Arc::new(outbox.clone());
    let relay = RelayId { name: "one".to_owned(), incarnation: Uuid::new_v4() };
    let leases = own_all(&store, &relay).await;
    let beat = Heartbeat { lease: Duration::from_secs(600), take: 0, release: Vec::new() };
    let request = ReadRequest { leases, known: Vec::new(), limit: 2_000, max_bytes: 1 << 20 };
    for _ in 0..3 {
        let before = statements_with(&[]).len();
        store.heartbeat(&relay, &beat).await.unwrap();
        let beaten = statements_with(&[]).len();
        store.read(&request).await.unwrap();
        let read = statements_with(&[]).len();
        assert_eq!((beaten - before, read - beaten), (9, 1), "{:#?}", &statements_with(&[])[before..]);
    }
}
