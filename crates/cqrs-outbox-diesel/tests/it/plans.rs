//! What a relay's statements visit, among a million rows that were sent and are kept, 80,000 that are parked behind
//! closed gates, 20,000 that wait, and 100,000 that are scheduled, a fifth of them due: only what they are about. On PostgreSQL
//! that is said by plans that were carried out, on MariaDB and MySQL by the server's counters of the rows that were looked at, on
//! SQLite by the plan alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cqrs_core::{BeginTransaction, Transaction};
use cqrs_outbox::{Fenced, Lane, LaterEvents, OutboxRelay, ReadRequest, Rejection, RelayId, Verdict};
use cqrs_outbox_diesel::{MySql, Outbox, Pg, Sqlite};
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use mysql_async::Params;
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::backend::{Db, PlainSql, Site};
use crate::events::{Sink, closed, own_all, quick, read_all};
use crate::explain::{Plan, last_statement, parameters};
use crate::harness::{Trials, tests};

pub(crate) fn trials(trials: &mut Trials) {
    trials.on::<Pg>(tests!(plans { on_postgres }));
    trials.on::<MySql>(tests!(plans { on_mysql }));
    trials.on::<Sqlite>(tests!(plans { on_sqlite }));
}

const KEPT: usize = 1_000_000;
const PARKED: usize = 80_000;
/// Each lane has ten rows. The gate of the first ones is due.
const LANES: usize = PARKED / 10;
const DUE: usize = 10;
const WAITING: usize = 20_000;
/// Every fifth is due.
const SCHEDULED: usize = 100_000;
/// How many of them are promoted at once.
const PROMOTED: usize = 11;
/// Which no other trial has, so that the statements of this one are found.
const LIMIT: usize = 479;
/// And nor has any other this.
const FEW_BYTES: usize = 16_777_213;

/// What a database says differently.
struct Dialect {
    /// A table `numbers(n)`, from 1 to the greatest that is needed.
    numbers: fn(usize) -> String,
    no: &'static str,
    now: &'static str,
    /// Of the gates: in the past, and in an hour.
    due: &'static str,
    later: &'static str,
    bytes: fn(&str) -> String,
}

const POSTGRES: Dialect = Dialect {
    numbers: |count| format!("generate_series(1, {count}) AS numbers(n)"),
    no: "false",
    now: "now()",
    due: "now() - interval '1 minute'",
    later: "now() + interval '1 hour'",
    bytes: |text| format!("convert_to({text}, 'UTF8')"),
};

const MYSQL: Dialect = Dialect {
    numbers: |count| {
        let digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
             SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
        format!(
            "(SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * d.d + 10000 * e.d + 100000 * f.d AS n FROM {digits} a, {digits} b, \
             {digits} c, {digits} d, {digits} e, {digits} f HAVING n <= {count}) AS numbers"
        )
    },
    no: "false",
    now: "utc_timestamp(6)",
    due: "utc_timestamp(6) - INTERVAL 1 MINUTE",
    later: "utc_timestamp(6) + INTERVAL 1 HOUR",
    bytes: |text| text.to_owned(),
};

const SQLITE: Dialect = Dialect {
    numbers: |count| {
        format!(
            "(WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) \
             SELECT n FROM numbers) AS numbers"
        )
    },
    no: "0",
    now: "'2024-01-01T00:00:00Z'",
    due: "unixepoch('now', 'subsec') - 60",
    later: "unixepoch('now', 'subsec') + 3600",
    bytes: |text| format!("CAST({text} AS BLOB)"),
};

/// An outbox with all of that in it, and the statements of a relay recorded.
async fn filled<D: Db>(site: &Site, dialect: &Dialect) -> Outbox<D> {
    // On a small one of their own: what is removed here is not missing there.
    let scheduled = format!(
        "INSERT INTO cqrs_outbox_scheduled (event_name, topic, payload_text, deliver_at) VALUES ('n', 't', 'x', {})",
        dialect.due
    );
    record_all(&site.outbox::<D>().await, &scheduled).await;
    let outbox = site.outbox::<D>().await;
    let (numbers, bytes) = (dialect.numbers, dialect.bytes);
    let name = |text: &str| match D::NAME {
        "mysql" => format!("concat({text})"),
        _ => text.replace(", ", " || "),
    };
    let row = |table: &str, first: usize, count: usize, lane: &str| {
        format!(
            "INSERT INTO cqrs_outbox_{table} (id, event_id, event_name, event_kind, event_version, topic, message_key, \
                content_type, payload_text, tombstone, occurred_at, attempts, size, slot, lane) \
             SELECT {first} + n, '00000000-0000-0000-0000-000000000001', 'n', 'notification', 1, 't', {}, \
                'application/json', 'x', {}, {}, 1, 10, n % 4096, {} FROM {}",
            bytes(&name(&format!("'{lane}', (n % {LANES})"))),
            dialect.no,
            dialect.now,
            bytes(&name(&format!("'k{lane}', (n % {LANES})"))),
            numbers(count)
        )
    };
    let gates = format!(
        "INSERT INTO cqrs_outbox_gate (lane, slot, until, error) SELECT {}, n % 4096, \
            CASE WHEN n <= {DUE} THEN {} WHEN n % 2 = 0 THEN {} ELSE NULL END, 'no' FROM {}",
        bytes(&name(&format!("'kparked ', (n % {LANES})"))),
        dialect.due,
        dialect.later,
        numbers(LANES)
    );
    let waiting = format!(
        "INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) SELECT 'n', 't', {}, 'x' FROM {}",
        bytes(&name("'key ', (n % 2000)")),
        numbers(WAITING)
    );
    let scheduled = format!(
        "INSERT INTO cqrs_outbox_scheduled (event_name, topic, message_key, payload_text, deliver_at) \
         SELECT 'n', 't', {}, 'x', CASE WHEN n % 5 = 0 THEN {} ELSE {} END FROM {}",
        bytes(&name("'key ', (n % 2000)")),
        dialect.due,
        dialect.later,
        numbers(SCHEDULED)
    );
    let began = std::time::Instant::now();
    let sent = row("sent", 10_000_000, KEPT, "sent ");
    for statement in [sent, row("parked", 1_000_000, PARKED, "parked "), gates, waiting, scheduled] {
        outbox.sql(&statement).await.unwrap();
    }
    eprintln!("{}: filled in {:.1?}", D::NAME, began.elapsed());
    outbox
}

/// Everything that a relay says happens once.
async fn record_all<D: Db>(outbox: &Outbox<D>, scheduled: &str) {
    let store = D::store(outbox);
    let events = ["one", "one", "one", "two", "three"];
    outbox.transaction(async |tx| tx.publish_all(events.map(closed)).await).await.unwrap();
    let rows = read_all(&store).await;
    let relay = RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() };
    let leases = own_all(&store, &relay).await;
    // Of the first key there are more than its share.
    let few = ReadRequest { leases: leases.clone(), known: Vec::new(), limit: 2, max_bytes: FEW_BYTES };
    assert_eq!(store.read(&few).await.unwrap().len(), 2);
    outbox.sql(scheduled).await.unwrap();
    assert_eq!(store.promote(&leases, 1).await.unwrap().moved, 1);
    let reject = async |nth: usize, attempts: u32, verdict: Verdict| {
        let row = &rows[nth];
        let lease = *leases.iter().find(|lease| lease.group == row.group).unwrap();
        let (lane, error) = (row.lane.clone(), "no".to_owned());
        let rejection = Rejection { lease, id: row.id, lane, attempts, error, verdict };
        assert_eq!(store.reject(&rejection).await.unwrap(), Fenced::Done(()));
        (lease, row.lane.clone())
    };
    let (now, bury) =
        (Verdict::Park { retry_in: Duration::ZERO }, Verdict::Bury { later: LaterEvents::GoOn });
    // Parked, again, and its followers behind it; buried from here and from there; and the rest is sent, drained and opened.
    let (lease, lane) = reject(0, 1, now).await;
    reject(0, 2, now).await;
    assert_eq!(
        store.set_aside(lease, &lane, &[rows[1].id], LaterEvents::Wait).await.unwrap(),
        Fenced::Done(true)
    );
    reject(3, 1, bury).await;
    reject(0, 3, bury).await;
    store.leave(&relay).await.unwrap();
    let relay = OutboxRelay::builder(store, Arc::new(Sink::default())).settings(quick()).build().unwrap();
    let drained = async {
        while !outbox.values("SELECT CAST(slot AS text) AS value FROM cqrs_outbox_gate").await.is_empty() {
            timeout(Duration::from_secs(30), relay.run_until_empty()).await.unwrap().unwrap();
        }
    };
    timeout(Duration::from_secs(30), drained).await.expect("the lane does not drain");
}

/// Reads, and looks for gates that can be opened, on what was filled.
async fn read<D: Db>(outbox: &Outbox<D>) {
    let store = D::store(outbox);
    let leases = own_all(&store, &RelayId { name: "reader".to_owned(), incarnation: Uuid::new_v4() }).await;
    let request = ReadRequest { leases, known: vec![7, 8], limit: LIMIT, max_bytes: 1 << 24 };
    assert_eq!(store.read(&request).await.unwrap().len(), LIMIT);
    if D::NAME != "sqlite" {
        // As one who shares the groups with others.
        let some = ReadRequest { leases: request.leases[1..].to_vec(), ..request.clone() };
        assert_eq!(store.read(&some).await.unwrap().len(), LIMIT);
    }
    assert_eq!(store.read_parked(&request).await.unwrap().len(), DUE * 10);
    let status = outbox.status().await.unwrap();
    assert_eq!(
        (status.waiting, status.parked, status.closed_gates),
        ((WAITING + PARKED + SCHEDULED / 5) as u64, PARKED as u64, LANES as u64)
    );
    let promoted = store.promote(&request.leases, PROMOTED).await.unwrap();
    assert_eq!((promoted.moved, promoted.next_due), (PROMOTED, Some(Duration::ZERO)));
}

/// A lane of the parked ones.
fn lane(nth: usize) -> String {
    let lane = Lane::of(Some(format!("parked {nth}").as_bytes()), Uuid::nil());
    lane.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ids(from: usize) -> Vec<usize> {
    (from + 1..=from + 500).collect()
}

/// Tables that stay small.
const SMALL: [&str; 6] = [
    "cqrs_outbox_group",
    "cqrs_outbox_relay",
    "cqrs_outbox_meta",
    "cqrs_outbox_run",
    "cqrs_outbox_request",
    "cqrs_outbox_dead",
];

async fn on_postgres(site: &Site) {
    let outbox = filled::<Pg>(site, &POSTGRES).await;
    // As the server does by itself before long.
    for table in ["", "_parked", "_sent", "_gate", "_scheduled"].map(|of| format!("cqrs_outbox{of}")) {
        outbox.sql(&format!("ANALYZE {table}")).await.unwrap();
    }
    read(&outbox).await;
    let own = |parts: &[&str]| {
        let (text, binds) = last_statement(parts);
        (text, parameters(&binds))
    };
    let any = |parts: &[&str], parameters: Vec<Value>| (last_statement(parts).0, parameters);
    let bytes = |nth| Value::String(format!("\\x{}", lane(nth)));
    let refused = |id: usize| vec![json!(id), bytes(77), json!(1), json!("no")];
    let first = 1_000_077;
    let groups: Vec<i32> = (0..64).collect();
    // What is moved is rolled back, and leaves dead rows in its lane: looked at is another.
    // The rows that they may visit, by table: "" is that of the events that wait.
    let statements = [
        (
            "read all",
            own(&["(o.slot / 64)::int AS group_no", ", 479, 16777216]"]),
            vec![("", LIMIT + 2), ("_gate", LIMIT)],
        ),
        (
            "read groups",
            own(&["grp.no AS group_no", ", 16, 479, 16777216]"]),
            vec![("", 63 * 16 + 2), ("_gate", LIMIT)],
        ),
        (
            "read shares",
            (
                last_statement(&["AS nth FROM cqrs_outbox o"]).0,
                own(&["grp.no AS group_no", ", 16, 479, 16777216]"]).1,
            ),
            vec![("", 63 * (16 + 1) + 2), ("_gate", LIMIT)],
        ),
        (
            "read parked",
            own(&["FROM cqrs_outbox_gate due", "], 479, 16777216]"]),
            vec![("_gate", DUE), ("_parked", DUE * (10 + 1))],
        ),
        (
            "settle",
            any(&["DELETE FROM cqrs_outbox WHERE id = ANY($1) -- "], vec![json!(ids(0))]),
            vec![("", 500)],
        ),
        (
            "settle parked",
            any(
                &["DELETE FROM cqrs_outbox_parked p USING unnest"],
                vec![json!(ids(1_000_000)), json!(vec![Uuid::nil().to_string(); 500])],
            ),
            vec![("_parked", 500)],
        ),
        (
            "park",
            any(&["DELETE FROM cqrs_outbox o WHERE id = $1", "INTO cqrs_outbox_parked"], refused(1)),
            vec![("", 1)],
        ),
        (
            "park again",
            any(
                &["UPDATE cqrs_outbox_parked SET attempts"],
                vec![json!(1), json!("no"), json!(first), bytes(77)],
            ),
            vec![("_parked", 1)],
        ),
        (
            "bury",
            any(&["DELETE FROM cqrs_outbox o WHERE id = $1", "INTO cqrs_outbox_dead"], refused(1)),
            vec![("", 1)],
        ),
        (
            "bury parked",
            any(&["DELETE FROM cqrs_outbox_parked WHERE id = $1"], refused(first)),
            vec![("_parked", 1)],
        ),
        (
            "set aside",
            // Ahead of what stands aside they get new ids.
            any(&["DELETE FROM cqrs_outbox o WHERE id = ANY($1)"], vec![json!(ids(0)), bytes(77)]),
            vec![("", 501), ("_parked", 2), ("_sent", 1)],
        ),
        (
            "close gate",
            any(
                &["ON CONFLICT (lane) DO UPDATE SET until = EXCLUDED"],
                vec![bytes(77), json!(1.0), json!("no")],
            ),
            vec![("_parked", 1)],
        ),
        (
            "is gate closed",
            any(&["AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = $1"], vec![bytes(78)]),
            vec![("_gate", 1)],
        ),
        (
            "gate is needed",
            any(&["cqrs_outbox_parked WHERE lane = $1)", "until IS NULL) AS found"], vec![bytes(78)]),
            vec![("_parked", 1), ("_gate", 1)],
        ),
        (
            "open gate",
            any(&["DELETE FROM cqrs_outbox_gate WHERE lane = $1"], vec![bytes(78)]),
            vec![("_gate", 1)],
        ),
        (
            "sweep",
            own(&["DELETE FROM cqrs_outbox_gate g WHERE until"]),
            vec![("_gate", DUE), ("_parked", DUE)],
        ),
        (
            "pulse",
            any(&["WITH seen AS"], vec![json!(Uuid::nil().to_string()), json!(600.0)]),
            vec![("_gate", 2), ("_scheduled", 1)],
        ),
        ("next due", any(&["min(s.deliver_at)"], vec![json!(groups)]), vec![("_scheduled", 64)]),
        ("lock leases", any(&["FOR SHARE SKIP LOCKED"], vec![json!(groups), json!(vec![1; 64])]), vec![]),
        (
            "due",
            any(&["s.slot::int AS slot"], vec![json!(groups), json!([]), json!(PROMOTED)]),
            vec![("_scheduled", 64 * PROMOTED)],
        ),
        (
            "lock due",
            any(&["FROM cqrs_outbox_scheduled WHERE id = ANY($1) AND deliver_at"], vec![json!(ids(0))]),
            vec![("_scheduled", 500)],
        ),
        (
            "move due",
            any(&["DELETE FROM cqrs_outbox_scheduled WHERE id = ANY($1)"], vec![json!(ids(0))]),
            vec![("_scheduled", 500)],
        ),
    ];
    for ((name, (text, values), bounds), generic) in
        statements.iter().flat_map(|one| [(one, false), (one, true)])
    {
        let plan = Plan::of(&outbox, generic, text, values).await;
        let what = format!("{name} (generic: {generic}): {:?}", plan.visits());
        let mut visited = HashMap::<String, f64>::new();
        for visit in plan.visits().into_iter().filter(|visit| !SMALL.contains(&&*visit.table)) {
            assert!(visit.index.is_some(), "a table is scanned by {what}");
            *visited.entry(visit.table).or_default() += visit.rows;
        }
        for (table, rows) in visited {
            let bound = bounds.iter().find(|(of, _)| table == format!("cqrs_outbox{of}"));
            let bound = bound.map_or(0.0, |(_, bound)| *bound as f64);
            assert!(rows <= bound, "{rows} rows of {table} are visited by {what}");
        }
        let most = 200 + 12 * bounds.iter().map(|(_, bound)| *bound as u64).sum::<u64>();
        assert!(plan.buffers() <= most, "{} pages are looked at by {what}", plan.buffers());
    }

    // Besides counting, which has to visit what it counts, the status looks at the first rows of each table.
    let (text, _) = own(&["AS oldest_waiting", "pg_stat_activity", "FROM cqrs_outbox_meta"]);
    let status = Plan::of(&outbox, false, &text, &[]).await;
    for (table, index) in
        [("cqrs_outbox", "cqrs_outbox_pkey"), ("cqrs_outbox_parked", "cqrs_outbox_parked_pkey")]
    {
        let first =
            |visit: &crate::explain::Visit| visit.table == table && visit.index.as_deref() == Some(index);
        let rows: Vec<_> = status.visits().into_iter().filter(first).map(|visit| visit.rows).collect();
        assert!(rows.contains(&1_000.0), "the oldest of {table} is looked for: {:?}", status.visits());
    }
    assert!(status.visits().iter().all(|visit| visit.table != "cqrs_outbox_sent"), "{:?}", status.visits());
}

async fn on_mysql(site: &Site) {
    let outbox = filled::<MySql>(site, &MYSQL).await;
    outbox
        .sql("ANALYZE TABLE cqrs_outbox; ANALYZE TABLE cqrs_outbox_parked; ANALYZE TABLE cqrs_outbox_sent; ANALYZE TABLE cqrs_outbox_gate; \
              ANALYZE TABLE cqrs_outbox_scheduled")
        .await
        .unwrap();
    read(&outbox).await;
    let database = outbox.values("SELECT database() AS value").await.remove(0);
    let mut url = url::Url::parse(site.server_url()).unwrap();
    url.set_path(&database);
    let mut conn = mysql_async::Conn::from_url(url.as_str()).await.unwrap();
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.unwrap();

    let bytes = |nth: usize| -> mysql_async::Value {
        Lane::of(Some(format!("parked {nth}").as_bytes()), Uuid::nil()).as_bytes().into()
    };
    let none = || Params::Empty;
    let some = |values: Vec<mysql_async::Value>| Params::Positional(values);
    let json = |ids: Vec<usize>| mysql_async::Value::from(json!(ids).to_string());
    let refused = |id: usize| some(vec![1.into(), bytes(77), "no".into(), "no".into(), id.into()]);
    let first = 1_000_077;
    let receipts: Vec<_> = ids(1_000_000)
        .into_iter()
        .map(|id| json!([id, null, null, Uuid::nil().simple().to_string()]))
        .collect();
    // And how many rows they may look at, in all tables, those of the list of ids too.
    let statements = [
        ("known", &["STRAIGHT_JOIN cqrs_outbox t ON t.id = k.id"][..], some(vec![json(ids(0))]), 1_510),
        ("present", &["SELECT id, size FROM cqrs_outbox ORDER BY id LIMIT 481"], none(), LIMIT + 3),
        ("read all", &["FROM cqrs_outbox t WHERE t.id BETWEEN 1 AND 481"], none(), 4 * LIMIT),
        (
            "read groups",
            &["STRAIGHT_JOIN cqrs_outbox t ON t.id = chosen.id", "LIMIT 479", "16777216"],
            none(),
            20 * LIMIT,
        ),
        (
            "read shares",
            &["STRAIGHT_JOIN cqrs_outbox t ON t.id = chosen.id", "PARTITION BY part", "16777213"],
            none(),
            10 * 64 * 2,
        ),
        ("due", &["FROM cqrs_outbox_gate g ", "ORDER BY until LIMIT 479"], none(), 4 * DUE + 4),
        (
            "read parked",
            &["STRAIGHT_JOIN cqrs_outbox_parked t ON t.id = chosen.id", "LIMIT 479", "16777216"],
            none(),
            20 * 10 * DUE,
        ),
        (
            "settle",
            &["DELETE o FROM", "STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id"],
            some(vec![json(ids(0))]),
            1_510,
        ),
        (
            "settle parked",
            &["DELETE o FROM", "STRAIGHT_JOIN cqrs_outbox_parked o ON o.id = k.id"],
            some(vec![json!(receipts).to_string().into()]),
            1_510,
        ),
        (
            "lock",
            &["STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id WHERE", "FOR UPDATE"],
            some(vec![json(ids(0)), bytes(77)]),
            1_510,
        ),
        (
            "taken",
            &["STRAIGHT_JOIN cqrs_outbox_parked t ON t.id = k.id"],
            some(vec![json(ids(1_000_000))]),
            1_510,
        ),
        (
            "lock parked",
            &["FROM cqrs_outbox_parked WHERE id = ? AND lane = ? FOR UPDATE"],
            some(vec![first.into(), bytes(77)]),
            2,
        ),
        (
            "park",
            &["INSERT INTO cqrs_outbox_parked", "date_format", "FROM cqrs_outbox o WHERE id = ?"],
            refused(1),
            2,
        ),
        (
            "bury",
            &["INSERT INTO cqrs_outbox_dead", "date_format", "FROM cqrs_outbox o WHERE id = ?"],
            refused(1),
            2,
        ),
        (
            "bury parked",
            &["INSERT INTO cqrs_outbox_dead", "date_format", "FROM cqrs_outbox_parked o WHERE id = ?"],
            refused(first),
            2,
        ),
        (
            "park again",
            &["UPDATE cqrs_outbox_parked SET errors"],
            some(vec![2.into(), "no".into(), 2.into(), "no".into(), first.into()]),
            2,
        ),
        (
            "close gate",
            &["ON DUPLICATE KEY UPDATE until = utc_timestamp(6) + INTERVAL ? MICROSECOND, error"],
            some(vec![bytes(77), 1.into(), "no".into(), bytes(77), bytes(77), 1.into(), "no".into()]),
            10,
        ),
        (
            "is gate closed",
            &["AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = ?"],
            some(vec![bytes(77)]),
            4,
        ),
        (
            "gate is needed",
            &["cqrs_outbox_parked WHERE lane = ?)", "until IS NULL) AS found"],
            some(vec![bytes(77), bytes(77)]),
            6,
        ),
        ("open gate", &["DELETE FROM cqrs_outbox_gate WHERE lane = ?"], some(vec![bytes(77)]), 2),
        (
            "sweep",
            &["FROM cqrs_outbox_gate g WHERE until <= utc_timestamp(6)", "NOT EXISTS"],
            none(),
            4 * DUE + 4,
        ),
        ("next due", &["min(deliver_at)", "group_no = 63 "], none(), 4 * 64),
        ("lock leases", &["FORCE INDEX (PRIMARY) WHERE (group_no, epoch) IN"], none(), 2 * 64),
        ("due events", &["cqrs_outbox_scheduled_due", "LIMIT 11)"], none(), 5 * 64 * PROMOTED),
        ("lock due", &["s.deliver_at <= utc_timestamp(6)", "SKIP LOCKED"], some(vec![json(ids(0))]), 1_510),
        // What SQLite says so has a parameter.
        (
            "insert due",
            &["FROM cqrs_outbox_scheduled WHERE id IN (", " ORDER BY deliver_at, id -- binds: []"],
            none(),
            1_510,
        ),
        ("delete due", &["DELETE s FROM"], some(vec![json(ids(0))]), 1_510),
    ];
    for (name, parts, parameters, bound) in statements {
        let (mut text, _) = last_statement(parts);
        if name == "insert due" {
            // Those that were moved are not there any more.
            let (before, behind) = text.split_once(" WHERE id IN (").unwrap();
            let others = ids(0).iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            text = format!("{before} WHERE id IN ({others}){}", behind.split_once(')').unwrap().1);
        }
        let visited = visited(&mut conn, &text, parameters).await;
        assert!(visited <= bound as u64, "{name} visits {visited} rows, not {bound}: {text:.2000}");
    }

    // Besides counting, which has to visit what it counts, the status looks at the first row of each table.
    let (status, _) = last_statement(&["AS oldest_waiting", "timestampdiff", "FROM cqrs_outbox_meta"]);
    let (before, _) = status.split_once(" AS oldest_waiting").unwrap();
    let oldest = &before[before.find("(SELECT max(timestampdiff").unwrap()..];
    let visited = visited(&mut conn, &format!("SELECT {oldest}"), Params::Empty).await;
    assert!(visited <= 4_100, "{visited} rows are looked at for the oldest");
    conn.disconnect().await.unwrap();
}

/// How many rows a statement looks at, in tables and in what it makes of them.
pub(crate) async fn visited(conn: &mut mysql_async::Conn, text: &str, parameters: Params) -> u64 {
    for statement in ["START TRANSACTION", "FLUSH STATUS"] {
        conn.query_drop(statement).await.unwrap();
    }
    conn.exec_drop(text, parameters).await.unwrap_or_else(|error| panic!("{error}: {text}"));
    let counters: Vec<(String, u64)> = conn
        .query(
            "SHOW SESSION STATUS WHERE variable_name LIKE 'Handler_read%' AND variable_name <> 'Handler_read_rnd_deleted'",
        )
        .await
        .unwrap();
    conn.query_drop("ROLLBACK").await.unwrap();
    counters.iter().map(|(_, count)| count).sum()
}

#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

/// The plan says what is searched, by which index, and what is scanned. The table of what waits may be scanned in the order of
/// its ids, where a read stops when it has enough.
async fn on_sqlite(site: &Site) {
    let outbox = filled::<Sqlite>(site, &SQLITE).await;
    read(&outbox).await;
    let statements: [(&str, &[&str], &[&str]); 18] = [
        ("present", &["SELECT id, size FROM cqrs_outbox ORDER BY id LIMIT 481"], &["SCAN cqrs_outbox"]),
        (
            "read",
            &["FROM cqrs_outbox WHERE id BETWEEN 1 AND 481"],
            // For the first one, if there is any.
            &["SCAN cqrs_outbox_gate USING COVERING INDEX cqrs_outbox_gate_due"],
        ),
        ("read parked", &["FROM cqrs_outbox_gate g ", "I64(479), I64(16777216)]"], &[]),
        ("settle", &["DELETE FROM cqrs_outbox WHERE id IN"], &[]),
        ("settle parked", &["DELETE FROM cqrs_outbox_parked WHERE id IN"], &[]),
        ("park", &["INSERT INTO cqrs_outbox_parked", "FROM cqrs_outbox o WHERE id = ?1"], &[]),
        ("park again", &["UPDATE cqrs_outbox_parked SET attempts"], &[]),
        ("bury parked", &["INSERT INTO cqrs_outbox_dead", "FROM cqrs_outbox_parked o WHERE id = ?1"], &[]),
        (
            "set aside",
            &["INSERT INTO cqrs_outbox_parked", "FROM json_each(?1) CROSS JOIN cqrs_outbox o"],
            &[],
        ),
        ("is gate closed", &["AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = ?"], &[]),
        ("gate is needed", &["cqrs_outbox_parked WHERE lane = ?)", "until IS NULL) AS found"], &[]),
        ("open gate", &["DELETE FROM cqrs_outbox_gate WHERE lane = ?"], &[]),
        ("sweep", &["DELETE FROM cqrs_outbox_gate WHERE until"], &[]),
        (
            "next due",
            &["SELECT (SELECT deliver_at FROM cqrs_outbox_scheduled"],
            // For the first one.
            &["SCAN cqrs_outbox_scheduled USING COVERING INDEX cqrs_outbox_scheduled_due"],
        ),
        ("leases", &["value ->> 0 = group_no"], &["SCAN cqrs_outbox_group"]),
        ("due", &["SELECT id, 0 AS slot FROM cqrs_outbox_scheduled"], &[]),
        (
            "insert due",
            &["INSERT INTO cqrs_outbox (", "FROM cqrs_outbox_scheduled WHERE id IN (SELECT value"],
            &[],
        ),
        ("delete due", &["DELETE FROM cqrs_outbox_scheduled WHERE id IN"], &[]),
    ];
    let statements = statements.map(|(name, parts, scans)| (name, last_statement(parts).0, scans));
    for analyzed in [false, true] {
        if analyzed {
            outbox.sql("ANALYZE").await.unwrap();
        }
        for (name, text, scans) in &statements {
            let mut tx = outbox.begin().await.unwrap();
            let plan: Vec<Step> =
                sql_query(format!("EXPLAIN QUERY PLAN {text}")).load(&mut *tx).await.unwrap();
            tx.rollback().await.unwrap();
            let plan: Vec<_> = plan.into_iter().map(|step| step.detail).collect();
            let shown = plan.join("\n");
            for step in plan.iter().filter(|step| step.starts_with("SCAN ")) {
                let listed =
                    ["json_each", "(subquery", "CONSTANT ROW"].iter().any(|small| step.contains(small));
                assert!(
                    listed || scans.contains(&&**step),
                    "{name} (analyzed: {analyzed}) does a {step}:\n{shown}"
                );
            }
        }
    }

    // Besides counting, which has to visit what it counts, the status looks at the first row of each table.
    let (status, _) = last_statement(&["AS oldest_waiting", "unixepoch", "FROM cqrs_outbox_meta"]);
    assert!(!status.contains("cqrs_outbox_sent"));
    for table in ["cqrs_outbox", "cqrs_outbox_parked"] {
        assert!(status.contains(&format!("FROM {table} ORDER BY id LIMIT 1000)")), "{status}");
    }
}
