//! Tables that were changed behind the outbox's back: each change is named, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use cqrs_core::ErrorKind;
use cqrs_outbox::{OutboxRelay, Rejection, Verdict};
use cqrs_outbox_diesel::{Drift, DriftKind, MySql, Outbox, Pg, Sqlite};

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::Owner;
use crate::events::{Sink, closed, quick};
use crate::harness::{OnEach, Test, Trials, tests};

pub(crate) struct All;

impl OnEach for All {
    fn list<D: Db>() -> Vec<(&'static str, Test)> {
        tests!(drift<D> {
            tables_in_use_have_none,
            every_change_is_named,
            the_check_leaves_nothing_behind,
            tables_of_another_version_are_a_clear_error,
            a_unit_of_order_by_which_nothing_waits_is_told,
        })
    }
}

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Sqlite>(tests!(drift { tables_that_are_written_in_another_way_have_none }));
    trials.on::<Pg>(tests!(drift {
        who_may_not_make_temporary_tables_is_told,
        what_may_not_be_seen_is_told_on_postgres,
    }));
    trials.on::<MySql>(tests!(drift { what_may_not_be_seen_is_told_on_mysql }));
}

async fn tables_in_use_have_none<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    assert_eq!(outbox.drift().await.unwrap(), []);
    for room in 0..20 {
        outbox.transaction(async |tx| tx.publish(closed(room)).await).await.unwrap();
    }
    let relay = OutboxRelay::builder(D::store(&outbox), Arc::new(Sink::default())).settings(quick());
    relay.build().unwrap().run_until_empty().await.unwrap();
    // Of somebody else, with a name that begins like ours.
    outbox.sql("CREATE TABLE cqrs_outbox_of_mine (id INT)").await.unwrap();
    assert_eq!(outbox.drift().await.unwrap(), []);
}

/// Somebody changed it by hand.
async fn a_unit_of_order_by_which_nothing_waits_is_told<D: Db>(site: &Site) {
    let outbox = site.outbox::<D>().await;
    for (unit, other) in [("key", "topic_and_key"), ("topic_and_key", "key")] {
        outbox.sql(&format!("UPDATE cqrs_outbox_meta SET order_unit = '{unit}'")).await.unwrap();
        for room in ["1", "2"] {
            outbox.transaction(async |tx| tx.publish(closed(room)).await).await.unwrap();
        }
        let owner = Owner::new(&outbox).await;
        let lease = owner.beat().await.leases;
        let row = owner.read().await.remove(0);
        let park = Rejection {
            lease: *lease.iter().find(|lease| lease.group == row.group).unwrap(),
            id: row.id,
            lane: row.lane,
            attempts: 1,
            error: "refused".to_owned(),
            verdict: Verdict::Park { retry_in: Duration::from_secs(600) },
        };
        owner.store.reject(&park).await.unwrap();
        owner.store.leave(&owner.relay).await.unwrap();
        owner.store.forget(&owner.relay);
        assert_eq!(outbox.drift().await.unwrap(), []);
        outbox.sql(&format!("UPDATE cqrs_outbox_meta SET order_unit = '{other}'")).await.unwrap();
        let drifts = outbox.drift().await.unwrap();
        let [drift] = &drifts[..] else { panic!("{drifts:#?}") };
        assert_eq!((drift.kind, drift.is_serious), (DriftKind::Changed, true));
        let said = format!(
            "the content of `cqrs_outbox_meta` is `order_unit = {other}`, and should be `order_unit = {unit}`"
        );
        assert!(drift.to_string().starts_with(&said), "{drift}");
        outbox.sql("DELETE FROM cqrs_outbox_gate").await.unwrap();
        outbox.sql("DELETE FROM cqrs_outbox_parked").await.unwrap();
        assert_eq!(outbox.drift().await.unwrap(), []);
    }
}

/// A change, what is said of it, and whether it is serious.
type Change = (&'static str, &'static [&'static str], bool);

/// What can be changed alike on all of them.
const ANYWHERE: &[Change] = &[
    ("DROP TABLE cqrs_outbox_sent", &["the table `cqrs_outbox_sent` is missing"], true),
    (
        "ALTER TABLE cqrs_outbox_request DROP COLUMN outcome",
        &["the column `outcome` of `cqrs_outbox_request` is missing: `text"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ADD COLUMN note TEXT",
        &["the column `note` of `cqrs_outbox` is there, and no migration makes it"],
        false,
    ),
    ("CREATE INDEX mine ON cqrs_outbox (attempts)", &["the index `mine` of `cqrs_outbox` is there"], false),
    (
        "CREATE UNIQUE INDEX mine ON cqrs_outbox (event_id)",
        &["the index `mine` of `cqrs_outbox` is there"],
        true,
    ),
    ("DELETE FROM cqrs_outbox_group WHERE group_no = 0", &["the content of `cqrs_outbox_group` is"], true),
];

const POSTGRES: &[Change] = &[
    (
        "ALTER TABLE cqrs_outbox ALTER topic TYPE varchar(100)",
        &[
            "the column `topic` of `cqrs_outbox` is `character varying(100) NOT NULL`, and should be `text NOT NULL`",
            "the constraint `cqrs_outbox_topic_check`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox_parked ALTER topic TYPE text COLLATE \"C\"",
        &["the column `topic` of `cqrs_outbox_parked` is `text COLLATE \"C\" NOT NULL`"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ALTER attempts DROP DEFAULT",
        &[
            "the column `attempts` of `cqrs_outbox` is `integer NOT NULL`, and should be `integer NOT NULL DEFAULT 0`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ALTER id DROP IDENTITY",
        &["the column `id` of `cqrs_outbox`", "the sequence of `cqrs_outbox.id` is missing"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox_scheduled DROP size, ADD size integer GENERATED ALWAYS AS (0) STORED NOT NULL",
        &[
            "the column `size` of `cqrs_outbox_scheduled` is `integer NOT NULL GENERATED ALWAYS AS (0) STORED`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ADD COLUMN tenant integer NOT NULL",
        &["the column `tenant` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "DROP INDEX cqrs_outbox_read",
        &[
            "the index `cqrs_outbox_read` of `cqrs_outbox` is missing: `CREATE INDEX cqrs_outbox_read ON cqrs_outbox USING btree",
        ],
        true,
    ),
    (
        "DROP INDEX cqrs_outbox_read; CREATE INDEX cqrs_outbox_read ON cqrs_outbox (id)",
        &["the index `cqrs_outbox_read` of `cqrs_outbox` is `CREATE INDEX"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox DROP CONSTRAINT cqrs_outbox_one_payload",
        &["the constraint `cqrs_outbox_one_payload` of `cqrs_outbox` is missing"],
        true,
    ),
    (
        "ALTER SEQUENCE cqrs_outbox_id_seq CACHE 20",
        &[
            "the sequence of `cqrs_outbox.id` is `bigint INCREMENT 1 CACHE 20`, and should be `bigint INCREMENT 1 CACHE 1`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox RESET (autovacuum_vacuum_threshold)",
        &["the storage settings of `cqrs_outbox`"],
        false,
    ),
    (
        "ALTER TABLE cqrs_outbox RESET (toast.autovacuum_vacuum_scale_factor)",
        &["the storage settings of `cqrs_outbox`"],
        false,
    ),
    (
        "ALTER TABLE cqrs_outbox_run SET LOGGED",
        &["the table `cqrs_outbox_run` is `table`, and should be `unlogged table`"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ENABLE ROW LEVEL SECURITY",
        &["the table `cqrs_outbox` is `table with row level security`"],
        true,
    ),
    (
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER mine BEFORE INSERT ON cqrs_outbox FOR EACH ROW EXECUTE FUNCTION mine()",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER before AFTER DELETE ON cqrs_outbox FOR EACH ROW EXECUTE FUNCTION mine()",
        &["the trigger `before` of `cqrs_outbox` is there"],
        false,
    ),
    (
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM ONLY cqrs_outbox WHERE id = NEW.id; RETURN NULL; END'; CREATE TRIGGER mine AFTER INSERT ON cqrs_outbox FOR EACH ROW EXECUTE FUNCTION mine()",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE cqrs_outbox_audit (n int); CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE cqrs_outbox_audit SET n = n + 1; RETURN NULL; END'; CREATE TRIGGER mine AFTER UPDATE ON cqrs_outbox FOR EACH ROW EXECUTE FUNCTION mine()",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        false,
    ),
    (
        "CREATE RULE mine AS ON DELETE TO cqrs_outbox DO INSTEAD NOTHING",
        &["the rule `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event bigint REFERENCES cqrs_outbox)",
        &["the foreign key `audit.audit_event_fkey` to `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event bigint REFERENCES cqrs_outbox_dead ON DELETE CASCADE)",
        &["the foreign key `audit.audit_event_fkey` to `cqrs_outbox_dead` is there"],
        false,
    ),
];

const MYSQL: &[Change] = &[
    (
        "ALTER TABLE cqrs_outbox MODIFY topic VARCHAR(100) NOT NULL CHECK (topic <> '')",
        &["the column `topic` of `cqrs_outbox` is `varchar(100)"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox_version MODIFY message_key VARCHAR(500) NOT NULL",
        &["the column `message_key` of `cqrs_outbox_version` is `varchar(500)"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox_gate CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        &[
            "the table `cqrs_outbox_gate` is `ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox_relay ENGINE = MyISAM",
        &["the table `cqrs_outbox_relay` is `ENGINE=MyISAM"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ADD COLUMN tenant INT NOT NULL",
        &["the column `tenant` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox DROP INDEX cqrs_outbox_read",
        &[
            "the index `cqrs_outbox_read` of `cqrs_outbox` is missing: `KEY `cqrs_outbox_read` (`group_no`,`id`,`size`)`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox DROP CONSTRAINT cqrs_outbox_one_payload",
        &["the constraint `cqrs_outbox_one_payload` of `cqrs_outbox` is missing"],
        true,
    ),
    (
        "CREATE TRIGGER mine BEFORE INSERT ON cqrs_outbox FOR EACH ROW SET NEW.attempts = 0",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TRIGGER mine AFTER DELETE ON cqrs_outbox FOR EACH ROW SET @sent = OLD.id",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        false,
    ),
    (
        "CREATE TRIGGER mine AFTER INSERT ON cqrs_outbox FOR EACH ROW DELETE FROM `cqrs_outbox_scheduled` WHERE event_id = NEW.event_id",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event BIGINT, CONSTRAINT mine FOREIGN KEY (event) REFERENCES cqrs_outbox (id))",
        &["the foreign key `audit.mine` to `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event BIGINT, CONSTRAINT mine FOREIGN KEY (event) REFERENCES cqrs_outbox (id) ON DELETE SET NULL)",
        &["the foreign key `audit.mine` to `cqrs_outbox` is there"],
        false,
    ),
];

const SQLITE: &[Change] = &[
    (
        "DROP INDEX cqrs_outbox_parked_lane",
        &[
            "the index `cqrs_outbox_parked_lane` of `cqrs_outbox_parked` is missing: `create index cqrs_outbox_parked_lane on cqrs_outbox_parked (lane, id)`",
        ],
        true,
    ),
    (
        "DROP TABLE cqrs_outbox_version; CREATE TABLE cqrs_outbox_version (message_key TEXT PRIMARY KEY, version INTEGER NOT NULL, \
        changed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))",
        &[
            "the table `cqrs_outbox_version` is `table`, and should be `table without rowid`",
            "the column `message_key` of `cqrs_outbox_version` is `text primary key`, and should be `blob primary key`",
        ],
        true,
    ),
    (
        "ALTER TABLE cqrs_outbox ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0",
        &["the column `tenant` of `cqrs_outbox` is there"],
        false,
    ),
    (
        "CREATE TRIGGER mine AFTER INSERT ON cqrs_outbox BEGIN SELECT 1; END",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        false,
    ),
    (
        "CREATE TRIGGER mine AFTER INSERT ON cqrs_outbox BEGIN DELETE FROM CQRS_outbox WHERE id = NEW.id; END",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TRIGGER mine INSERT ON cqrs_outbox BEGIN SELECT 1; END",
        &["the trigger `mine` of `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event INTEGER REFERENCES cqrs_outbox)",
        &["the foreign key `audit.event` to `cqrs_outbox` is there"],
        true,
    ),
    (
        "CREATE TABLE audit (event INTEGER REFERENCES CQRS_OUTBOX ON DELETE CASCADE)",
        &["the foreign key `audit.event` to `cqrs_outbox` is there"],
        false,
    ),
];

async fn every_change_is_named<D: Db>(site: &Site) {
    let own = match D::NAME {
        "postgres" => POSTGRES,
        "mysql" => MYSQL,
        _ => SQLITE,
    };
    for (change, said, is_serious) in ANYWHERE.iter().chain(own) {
        let outbox = site.outbox::<D>().await;
        outbox.sql(change).await.unwrap();
        let drifts: Vec<Drift> = outbox.drift().await.unwrap();
        let told: Vec<String> = drifts.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), said.len(), "{change}: {told:#?}");
        for (drift, (told, said)) in drifts.iter().zip(told.iter().zip(*said)) {
            assert!(told.starts_with(said), "{change}: {told}");
            assert_eq!(drift.is_serious, *is_serious, "{change}");
        }
    }
}

/// It makes tables of the same names on a connection, which nobody may get afterwards.
async fn the_check_leaves_nothing_behind<D: Db>(site: &Site) {
    let url = site.empty().await;
    let outbox: Outbox<D> = D::connect_with(url.clone(), 1).await.unwrap();
    outbox.migrate().await.unwrap();
    outbox.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    assert_eq!(outbox.drift().await.unwrap(), []);
    outbox.transaction(async |tx| tx.publish(closed(2)).await).await.unwrap();
    let other = D::connect(url).await.unwrap();
    assert_eq!((outbox.waiting().await, other.waiting().await), (2, 2));
}

async fn tables_of_another_version_are_a_clear_error<D: Db>(site: &Site) {
    let error = site.bare::<D>().await.drift().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Store && error.to_string().contains("cqrs outbox migrate"), "{error}");
    let outbox = site.outbox::<D>().await;
    outbox.sql("UPDATE cqrs_outbox_meta SET schema_version = 9").await.unwrap();
    let error = outbox.drift().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Store && error.to_string().contains("of version 9"), "{error}");
}

async fn tables_that_are_written_in_another_way_have_none(site: &Site) {
    let outbox = site.outbox::<Sqlite>().await;
    outbox
        .sql(
            "DROP TABLE cqrs_outbox_version; create table \"cqrs_outbox_version\"([message_key] blob primary key,\n\
             `version` integer not null, -- ours\n\"changed_at\" text not null \
             default(strftime('%Y-%m-%dT%H:%M:%fZ','now')))without rowid",
        )
        .await
        .unwrap();
    assert_eq!(outbox.drift().await.unwrap(), []);
}

/// What is said of what this user may not look at, and that nothing else is said.
fn unseen(drifts: &[Drift]) -> Vec<&str> {
    for drift in drifts {
        assert_eq!((drift.kind, drift.is_serious), (DriftKind::Unseen, false), "{drift}");
        assert!(drift.advice.contains("check as the user that migrates, or grant"), "{drift}");
    }
    drifts.iter().map(|drift| &*drift.object).collect()
}

/// A relay of a user who may not work ends: no time mends it.
async fn a_relay_ends<D: Db>(user: &Outbox<D>) -> Option<cqrs_core::Error> {
    let relay = OutboxRelay::builder(D::store(user), Arc::new(Sink::default())).settings(quick());
    let relay = relay.build().unwrap();
    relay.run_until(tokio::time::sleep(std::time::Duration::from_secs(20))).await.err()
}

async fn what_may_not_be_seen_is_told_on_postgres(site: &Site) {
    let owner = site.outbox::<Pg>().await;
    owner.transaction(async |tx| tx.publish(closed(1)).await).await.unwrap();
    let schema = owner.values("SELECT current_schema()::text AS value").await.remove(0);
    let role = format!("{schema}_role");
    owner.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await.unwrap();
    let mut url = url::Url::parse(site.server_url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    url.set_query(Some(&format!("options=-csearch_path%3D{schema}")));
    let user = Outbox::<Pg>::connect(url.as_str()).await.unwrap();
    let hidden =
        [user.drift().await.map(drop), user.migrate().await.map(drop), user.status().await.map(drop)];
    let mut ended = vec![a_relay_ends(&user).await];
    owner.sql(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}")).await.unwrap();
    let nothing = user.drift().await;
    ended.push(a_relay_ends(&user).await);
    owner.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")).await.unwrap();
    let tables = user.drift().await;
    owner.sql(&format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")).await.unwrap();
    let all = user.drift().await;
    owner.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
    for error in hidden.map(Result::unwrap_err) {
        let said = error.to_string();
        assert!(said.contains("permission denied for schema") && !said.contains("run `cqrs"), "{said}");
    }
    for error in ended {
        let said = error.expect("it ran on").to_string();
        assert!(said.contains("permission denied"), "{said}");
    }
    let wanted = [
        "the content of `cqrs_outbox_group`",
        "whether sequences stand behind ids that are in use",
        "whether what stands aside waits by the unit of order",
    ];
    assert_eq!(unseen(&nothing.unwrap()), wanted);
    let wanted = ["whether the sequence of `cqrs_outbox.id` stands behind ids that are in use"];
    assert_eq!(unseen(&tables.unwrap()), wanted);
    assert_eq!(all.unwrap(), []);
}

async fn what_may_not_be_seen_is_told_on_mysql(site: &Site) {
    let owner = site.outbox::<MySql>().await;
    let database = owner.values("SELECT database() AS value").await.remove(0);
    let user = &format!("u{}", &database[database.len() - 14..]);
    let grant = async |privilege: &str, on: &str| {
        owner.sql(&format!("GRANT {privilege} ON {database}.{on} TO {user}")).await.unwrap();
    };
    owner.sql(&format!("CREATE USER {user} IDENTIFIED BY 'secret'")).await.unwrap();
    grant("CREATE TEMPORARY TABLES", "*").await;
    let mut url = url::Url::parse(site.server_url()).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some("secret")).unwrap();
    url.set_path(&database);
    let drift = async || Outbox::<MySql>::connect(url.as_str()).await.unwrap().drift().await;
    let ended = a_relay_ends(&Outbox::<MySql>::connect(url.as_str()).await.unwrap()).await;
    let nothing = drift().await;
    grant("SELECT", "cqrs_outbox_meta").await;
    grant("INSERT", "cqrs_outbox").await;
    let some = drift().await;
    grant("SELECT", "*").await;
    let tables = drift().await;
    grant("TRIGGER", "*").await;
    let all = drift().await;
    owner.sql(&format!("DROP USER {user}")).await.unwrap();
    let said = ended.expect("it ran on").to_string();
    assert!(said.contains("command denied"), "{said}");
    let sequences = "whether sequences stand behind ids that are in use";
    let nothing = nothing.unwrap();
    assert_eq!(unseen(&nothing).len(), 13 + 2, "{nothing:#?}");
    for wanted in ["the table `cqrs_outbox`", "the table `cqrs_outbox_group`", sequences] {
        assert!(unseen(&nothing).contains(&wanted), "{wanted}: {nothing:#?}");
    }
    // The user sees what that one is like, but not its rows, nor triggers.
    let some = some.unwrap();
    assert_eq!(unseen(&some).len(), 11 + 3, "{some:#?}");
    assert!(!unseen(&some).contains(&"the table `cqrs_outbox`"), "{some:#?}");
    assert_eq!(unseen(&tables.unwrap()), ["which triggers the tables have"]);
    assert_eq!(all.unwrap(), []);
}

async fn who_may_not_make_temporary_tables_is_told(site: &Site) {
    let outbox = site.outbox::<Pg>().await;
    let schema = outbox.values("SELECT current_schema()::text AS value").await.remove(0);
    let database = format!("{schema}_db");
    let (role, url) = (format!("{schema}_role"), site.server_url());
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for statement in [
        format!("CREATE DATABASE {database}"),
        format!("REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"),
        format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'"),
    ] {
        client.batch_execute(&statement).await.unwrap();
    }
    let mut own = url::Url::parse(url).unwrap();
    own.set_path(&database);
    let owner = Outbox::<Pg>::connect(own.as_str()).await.unwrap();
    owner.migrate().await.unwrap();
    owner.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await.unwrap();
    own.set_username(&role).unwrap();
    own.set_password(Some("secret")).unwrap();
    let user = Outbox::<Pg>::connect(own.as_str()).await.unwrap();
    let refused = user.drift().await;
    owner.sql(&format!("GRANT TEMPORARY ON DATABASE {database} TO {role}")).await.unwrap();
    let granted = user.drift().await;
    for statement in [format!("DROP DATABASE {database} WITH (FORCE)"), format!("DROP ROLE {role}")] {
        client.batch_execute(&statement).await.unwrap();
    }
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("grant it TEMPORARY on the database"), "{error}");
    assert_eq!(granted.unwrap(), []);
}
