//! The tables: made once, by anyone, and missed with a clear word.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{Error, ErrorKind};
use cqrs_outbox::{OutboxRelay, StoreErrorKind};
use cqrs_outbox_diesel::Outbox;
use tokio::time::timeout;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed};
use crate::harness::{OnEach, Test, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(schema<D> {
            migrating_twice_changes_nothing,
            four_migrate_at_once,
            the_printed_sql_does_the_same,
            missing_tables_are_a_clear_error,
            tables_of_a_newer_kind_are_a_clear_error,
            newer_tables_that_allow_it_are_used_and_kept,
            a_lost_version_is_written_again,
            a_lost_version_of_new_tables_needs_no_hold,
            a_lost_version_of_other_tables_is_not_guessed,
            relays_are_on_hold_without_it,
        })
    }
}

/// Everything about the tables that a migration decides.
async fn fingerprint<D: Db>(outbox: &Outbox<D>) -> Vec<String> {
    let query = match D::NAME {
        "sqlite" => "SELECT sql AS value FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name",
        "mysql" => {
            "SELECT concat_ws(' ', table_name, column_name, column_type, collation_name, is_nullable, column_default, \
                 extra, generation_expression) AS value \
             FROM information_schema.columns WHERE table_schema = database() \
             UNION ALL \
             SELECT concat_ws(' ', table_name, index_name, seq_in_index, column_name, non_unique) \
             FROM information_schema.statistics WHERE table_schema = database() \
             UNION ALL \
             SELECT concat_ws(' ', constraint_name, check_clause) \
             FROM information_schema.check_constraints WHERE constraint_schema = database() \
             ORDER BY 1"
        }
        _ => {
            "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default, \
             generation_expression) AS value \
         FROM information_schema.columns WHERE table_schema = current_schema() \
         UNION ALL \
         SELECT replace(indexdef, schemaname, '') FROM pg_indexes WHERE schemaname = current_schema() \
         UNION ALL \
         SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE connamespace = current_schema()::regnamespace \
         ORDER BY 1"
        }
    };
    let mut lines = outbox.values(query).await;
    lines.extend(
        outbox
            .values(
                "SELECT concat(schema_version, ' ', min_reader_version) AS value \
                 FROM cqrs_outbox_meta",
            )
            .await,
    );
    lines.extend(
        outbox
            .values(
                "SELECT concat(group_no, ' ', first_slot, ' ', last_slot) AS value \
                 FROM cqrs_outbox_group ORDER BY group_no",
            )
            .await,
    );
    assert!(lines.len() > 20, "{lines:?}");
    lines
}

async fn works<D: Db>(outbox: &Outbox<D>) {
    outbox.check_schema().await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    assert_eq!(outbox.waiting().await, 1);
}

async fn migrating_twice_changes_nothing<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    works(&outbox).await;
    let before = fingerprint(&outbox).await;
    outbox.migrate().await.unwrap();
    assert_eq!(fingerprint(&outbox).await, before);
    assert_eq!(outbox.waiting().await, 1);
}

async fn four_migrate_at_once<D: Db>(site: &Site) {
    let url = site.empty_at_repeatable_read().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        // As four processes: each with connections of its own.
        tasks.spawn(async move { D::connect(url).await?.migrate().await });
    }
    let mut done = Vec::new();
    while let Some(migrated) = tasks.join_next().await {
        let migrated = migrated.unwrap().unwrap();
        done.push((migrated.from, migrated.to));
    }
    done.sort_unstable();
    assert_eq!(done, [(None, 1), (Some(1), 1), (Some(1), 1), (Some(1), 1)]);
    let outbox = D::connect(url).await.unwrap();
    assert_eq!(fingerprint(&outbox).await, fingerprint(&site.outbox::<D>().await).await);
    works(&outbox).await;
}

async fn the_printed_sql_does_the_same<D: Db>(site: &Site) {
    let by_hand = site.bare::<D>().await;
    let printed: String = <D as Db>::MIGRATIONS.iter().map(ToString::to_string).collect();
    by_hand.sql(&printed).await.unwrap();
    let before = fingerprint(&by_hand).await;
    assert_eq!(before, fingerprint(&site.outbox::<D>().await).await);
    by_hand.migrate().await.unwrap();
    assert_eq!(fingerprint(&by_hand).await, before);
    works(&by_hand).await;
}

async fn relay_fails<D: Db>(outbox: &Outbox<D>) -> Error {
    let relay = OutboxRelay::builder(D::store(outbox), Arc::new(Sink::default())).build().unwrap();
    let run = timeout(Duration::from_secs(30), relay.run_until(std::future::pending()));
    run.await.expect("the relay goes on without tables").unwrap_err()
}

async fn missing_tables_are_a_clear_error<D: Db>(site: &Site) {
    let outbox = site.bare::<D>().await;
    let error = D::store(&outbox).check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Schema);
    let errors = [
        error.into_error(),
        outbox.check_schema().await.unwrap_err(),
        outbox.status().await.unwrap_err(),
        outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap_err(),
        relay_fails(&outbox).await,
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(!error.is_retryable(), "{error}");
        assert!(error.to_string().contains("Outbox::migrate"), "{error}");
    }
}

async fn tables_of_a_newer_kind_are_a_clear_error<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    outbox.sql("UPDATE cqrs_outbox_meta SET schema_version = 9, min_reader_version = 8").await.unwrap();
    let errors = [
        outbox.check_schema().await.unwrap_err(),
        outbox.status().await.unwrap_err(),
        outbox.migrate().await.unwrap_err(),
        relay_fails(&outbox).await,
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(!error.is_retryable(), "{error}");
        for part in ["version 9", "version 8", "update this program"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

async fn newer_tables_that_allow_it_are_used_and_kept<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    outbox.sql("UPDATE cqrs_outbox_meta SET schema_version = 9").await.unwrap();
    outbox.migrate().await.unwrap();
    works(&outbox).await;
    assert!(fingerprint(&outbox).await.contains(&"9 1".to_owned()));
}

const LOSSES: [&str; 2] = ["DROP TABLE cqrs_outbox_meta", "DELETE FROM cqrs_outbox_meta"];

async fn a_lost_version_is_written_again<D: Db>(site: &Site) {
    for (loss, connections) in LOSSES.into_iter().zip([1, 5]) {
        let url = site.empty().await;
        let outbox = D::connect_with(url, connections).await.unwrap();
        outbox.migrate().await.unwrap();
        works(&outbox).await;
        // Of its owner's, and of any version.
        outbox.sql("CREATE INDEX mine ON cqrs_outbox (attempts)").await.unwrap();
        let before = fingerprint(&outbox).await;
        outbox.sql(loss).await.unwrap();
        let [_, drift] = outbox.drift().await.unwrap().try_into().unwrap();
        let said = drift.to_string();
        assert!(drift.is_serious && said.contains("`cqrs_outbox_meta` is missing"), "{said}");
        assert!(said.contains("run `cqrs outbox migrate`"), "{said}");
        for error in [outbox.check_schema().await.unwrap_err(), relay_fails(&outbox).await] {
            assert!(error.to_string().contains("run `cqrs outbox migrate`"), "{error}");
        }
        let migrated = outbox.migrate().await.unwrap();
        assert_eq!((migrated.from, migrated.to, migrated.restored), (Some(1), 1, true));
        assert_eq!(fingerprint(&outbox).await, before);
        assert!(outbox.status().await.unwrap().hold, "whether it was on hold nobody knows");
        outbox.resume().await.unwrap();
        assert!(!outbox.migrate().await.unwrap().restored);
        let status = outbox.status().await.unwrap();
        assert_eq!((status.hold, status.waiting), (false, 1));
    }
}

async fn a_lost_version_of_new_tables_needs_no_hold<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    outbox.sql(LOSSES[1]).await.unwrap();
    assert!(outbox.migrate().await.unwrap().restored);
    assert!(!outbox.status().await.unwrap().hold);
    works(&outbox).await;
}

async fn a_lost_version_of_other_tables_is_not_guessed<D: Db>(site: &Site) {
    for (change, named) in [
        (
            "ALTER TABLE cqrs_outbox_request DROP COLUMN outcome",
            "the column `outcome` of `cqrs_outbox_request`",
        ),
        ("ALTER TABLE cqrs_outbox ADD COLUMN note TEXT", "the column `note` of `cqrs_outbox`"),
    ] {
        for loss in LOSSES {
            let outbox = site.outbox::<D>().await;
            outbox.sql(change).await.unwrap();
            outbox.sql(loss).await.unwrap();
            let error = outbox.migrate().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Store);
            assert!(error.to_string().contains(named) && !error.is_retryable(), "{error}");
            assert!(outbox.check_schema().await.is_err());
        }
    }
}

async fn relays_are_on_hold_without_it<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    let owner = crate::dead_letters::Owner::new(&outbox).await;
    assert!(!owner.is_on_hold().await);
    outbox.sql(LOSSES[1]).await.unwrap();
    assert!(owner.is_on_hold().await);
}
