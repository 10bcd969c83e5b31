//! What a heartbeat visits of very many dead letters that are asked for, and a purge of what is young: only what is due. Said
//! as in `plans`.

use chrono::Utc;
use cqrs_core::{BeginTransaction, Transaction};
use cqrs_outbox_diesel::{Asking, DeadLetterFilter, MySql, Outbox, Page, Pg, RequestFilter, Sqlite};
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use mysql_async::prelude::Queryable;
use mysql_async::{Params, Value};
use serde_json::json;

use crate::backend::{Db, PlainSql, Site};
use crate::dead_letters::{Owner, buried, letter};
use crate::explain::{Plan, last_statement};
use crate::harness::{Trials, tests};
use crate::plans::visited;
use crate::requests::copy;
use crate::retention::HOUR;

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(operator_plans { on_postgres }));
    trials.on::<MySql>(tests!(operator_plans { on_mysql }));
    trials.on::<Sqlite>(tests!(operator_plans { on_sqlite }));
}

const LANES: usize = 100;
const DEAD: usize = LANES << 9;

/// All of them are to be replayed, one in a quarter of an hour; the first one was.
async fn asked_for<D: Db>(site: &Site) -> (Outbox<D>, Owner) {
    let messages = (0..LANES).map(|nth| letter("rooms", "n", Some(format!("k{nth}").as_bytes())));
    let (outbox, owner) = buried::<D>(site, false, messages.collect()).await;
    copy(&outbox, "1 = 1", 9).await;
    let asking = Asking::new().limit(usize::MAX - 1).rate(0.001);
    // Most of what was ever asked for is done.
    let done = outbox.replay_all(&DeadLetterFilter::new(), &asking).await.unwrap();
    assert_eq!(done.letters.len(), DEAD);
    assert_eq!(outbox.cancel_requests(&RequestFilter::new()).await.unwrap(), DEAD as u64);
    let asked = outbox.replay_all(&DeadLetterFilter::new(), &asking).await.unwrap();
    assert_eq!(asked.letters.len(), DEAD);
    owner.beat().await;
    let open = outbox.requests(&RequestFilter::new().open(), Page::oldest_first().limit(DEAD)).await.unwrap();
    assert_eq!(open.len(), DEAD - 1);
    for purge in [
        outbox.purge_requests(HOUR, 100).await,
        outbox.purge_sent(HOUR, 100).await,
        outbox.purge_inbox(HOUR, 100).await,
    ] {
        assert_eq!(purge.unwrap(), 0);
    }
    (outbox, owner)
}

/// All that were to be replayed are due now.
async fn all_due<D: Db>(outbox: &Outbox<D>) {
    let past = if D::NAME == "sqlite" { "1" } else { "'2020-01-01'" };
    outbox.sql(&format!("UPDATE cqrs_outbox_request SET not_before = {past}")).await.unwrap();
}

/// The parameters of a page of what is due: by when, behind which one, and how many.
const FIRST: i64 = i64::MIN;
const PAGE: i64 = 500;

async fn on_postgres(site: &Site) {
    let (outbox, _owner) = asked_for::<Pg>(site).await;
    // As the server does by itself before long.
    let analyze = async || outbox.sql("ANALYZE cqrs_outbox_request; ANALYZE cqrs_outbox_dead").await.unwrap();
    analyze().await;
    let rows = async |parts: &[&str], values: &[serde_json::Value]| {
        let (text, _) = last_statement(parts);
        let plan = Plan::of(&outbox, false, &text, values).await;
        let rows: f64 = plan.visits().iter().map(|visit| visit.rows).sum();
        (rows, format!("{:?}", plan.visits()))
    };
    let page = ["FROM cqrs_outbox_request r LEFT JOIN cqrs_outbox_dead d", "d.slot / 64 IN (0, 1, 2"];
    let due = || [json!(Utc::now().timestamp_micros()), json!(FIRST), json!(PAGE)];
    let (visited, plan) = rows(&page, &due()).await;
    assert!(visited <= 20.0, "{visited} rows are looked at for none that is due: {plan}");
    let take_back = ["SELECT id AS value FROM cqrs_outbox_request", "ORDER BY dead_id, id LIMIT $1"];
    let (visited, plan) = rows(&take_back, &[json!(1_000)]).await;
    assert!(visited <= 1_000.0, "{visited} rows are looked at for the first thousand: {plan}");
    let purge = ["DELETE FROM cqrs_outbox_request WHERE id IN", "make_interval"];
    let (visited, plan) = rows(&purge, &[json!(3_600.0), json!(100)]).await;
    assert!(visited <= 2.0, "{visited} rows are looked at by a purge: {plan}");
    all_due(&outbox).await;
    analyze().await;
    let (visited, plan) = rows(&page, &due()).await;
    assert!(visited <= 2_500.0, "{visited} rows are looked at for the first that are due: {plan}");
}

async fn on_mysql(site: &Site) {
    let (outbox, owner) = asked_for::<MySql>(site).await;
    let analyze = "ANALYZE TABLE cqrs_outbox_request; ANALYZE TABLE cqrs_outbox_dead";
    outbox.sql(analyze).await.unwrap();
    let database = outbox.values("SELECT database() AS value").await.remove(0);
    let mut url = url::Url::parse(site.server_url()).unwrap();
    url.set_path(&database);
    let mut conn = mysql_async::Conn::from_url(url.as_str()).await.unwrap();
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();
    let page =
        last_statement(&["FROM cqrs_outbox_request r LEFT JOIN cqrs_outbox_dead d", "DIV 64 IN (0, 1, 2"]).0;
    let due = || -> Params { (Utc::now().timestamp_micros(), FIRST, PAGE).into() };
    let rows = visited(&mut conn, &page, due()).await;
    assert!(rows <= 20, "{rows} rows are looked at for none that is due");
    let take_back =
        last_statement(&["SELECT id AS value FROM cqrs_outbox_request", "ORDER BY dead_id, id LIMIT ?"]).0;
    let rows = visited(&mut conn, &take_back, (1_000,).into()).await;
    assert!(rows <= 1_010, "{rows} rows are looked at for the first thousand");
    let purge = last_statement(&["DELETE o FROM (SELECT id FROM cqrs_outbox_request"]).0;
    let rows = visited(&mut conn, &purge, (3_600.0, 100).into()).await;
    assert!(rows <= 8, "{rows} rows are looked at by a purge");
    all_due(&outbox).await;
    outbox.sql(analyze).await.unwrap();
    let rows = visited(&mut conn, &page, due()).await;
    assert!(rows <= 2_500, "{rows} rows are looked at for the first that are due");
    owner.beat().await;
    // What is behind these is not looked at.
    let later = last_statement(&["min(dead_id) AS dead_id", "INTERVAL ? MICROSECOND"]).0;
    let lanes = later.matches('?').count() - 2;
    let mut values: Vec<Value> = (0..lanes).map(|nth| format!("kk{}", nth % LANES).into()).collect();
    values.extend([Value::from(2_500), Utc::now().timestamp_micros().into()]);
    let rows = visited(&mut conn, &later, Params::Positional(values)).await;
    assert!(rows <= 2_500, "{rows} rows are looked at for what holds them back");
    conn.disconnect().await.unwrap();
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

async fn on_sqlite(site: &Site) {
    let (outbox, owner) = asked_for::<Sqlite>(site).await;
    all_due(&outbox).await;
    owner.beat().await;
    // What was asked for first would win.
    let first = "DELETE FROM cqrs_outbox_request WHERE dead_id = (SELECT min(id) FROM cqrs_outbox_dead)";
    outbox.sql(first).await.unwrap();
    outbox.discard_all(&DeadLetterFilter::new(), &Asking::new().limit(1)).await.unwrap();
    owner.beat().await;
    let statements: [(&str, &[&str]); 10] = [
        ("take back", &["SELECT id AS value FROM cqrs_outbox_request", "ORDER BY dead_id, id LIMIT ?"]),
        ("due", &["FROM cqrs_outbox_request r LEFT JOIN cqrs_outbox_dead d", "? / 1e6"]),
        ("what holds back", &["min(dead_id) AS dead_id", "? / 1e6"]),
        ("what else is asked for", &["FROM cqrs_outbox_request r JOIN cqrs_outbox_dead d", "unhex"]),
        ("done", &["UPDATE cqrs_outbox_request SET outcome", "strftime"]),
        ("replay", &["INSERT INTO cqrs_outbox_parked", "FROM cqrs_outbox_dead", "json_each(?1)"]),
        ("discard", &["UPDATE cqrs_outbox_gate SET until = unixepoch"]),
        ("purge requests", &["DELETE FROM cqrs_outbox_request WHERE id IN", "strftime"]),
        ("purge what was sent", &["DELETE FROM cqrs_outbox_sent WHERE id IN", "strftime"]),
        ("purge the inbox", &["DELETE FROM cqrs_inbox WHERE", "strftime"]),
    ];
    let statements = statements.map(|(name, parts)| (name, last_statement(parts).0));
    for analyzed in [false, true] {
        if analyzed {
            outbox.sql("ANALYZE").await.unwrap();
        }
        for (name, text) in &statements {
            let mut tx = outbox.begin().await.unwrap();
            let plan: Vec<Step> =
                sql_query(format!("EXPLAIN QUERY PLAN {text}")).load(&mut *tx).await.unwrap();
            tx.rollback().await.unwrap();
            let plan: Vec<_> = plan.into_iter().map(|step| step.detail).collect();
            // Of a table, that is, and not of what a part of the statement has found.
            // The index of what is open has nothing else.
            let scans = plan.iter().filter(|step| {
                step.starts_with("SCAN ") && !step.ends_with("USING INDEX cqrs_outbox_request_open")
            });
            let mut tables = scans.map(|step| step.split(' ').nth(1).unwrap_or_default());
            let found = ["json_each", "later", "(subquery", "(subquery-1)", "(subquery-2)"];
            let plan = plan.join("\n");
            assert!(
                tables.all(|table| found.contains(&table)),
                "{name} (analyzed: {analyzed}) scans:\n{plan}"
            );
        }
    }
}
