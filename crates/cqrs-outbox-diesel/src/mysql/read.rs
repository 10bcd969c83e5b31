//! Reading: what PostgreSQL does with `LATERAL`, which MariaDB does not have. A limited sub-select for each group, or
//! lane, is put together from numbers that are known here; each leaves out the ids that are known in that group, so that
//! the list of them goes over once and not with each group.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Write as _};

use cqrs_outbox::ReadRequest;
use diesel::sql_types::{BigInt, Binary, Integer, Text};
use diesel::{QueryResult, QueryableByName};
use diesel_async::RunQueryDsl;

use super::{MySql, ids, list};
use crate::choice::{self, Choice, Present};
use crate::on::On;
use crate::record::Record;
use crate::statements::{Reach, groups_of};

/// The columns of a row of the table `t`, but for `group_no` and `gated`.
const COLUMNS: &str = "\
    t.id, unhex(replace(t.event_id, '-', '')) AS event_id, t.event_name, t.event_kind, t.event_version, t.topic, \
    t.message_key, t.headers, t.content_type, t.payload, t.payload_text, \
    date_format(t.occurred_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS occurred_at, t.attempts, t.size";

/// The other two of a row of the hot table. As a rule there are no gates at all, which is found out once; to look for each row
/// takes as long as to read it. The lane is as `Lane::of` makes it.
const GROUP_AND_GATE: &str = "\
    CAST(t.group_no AS signed) AS group_no, \
    EXISTS (SELECT 1 FROM cqrs_outbox_gate) AND EXISTS (SELECT 1 FROM cqrs_outbox_gate g WHERE g.lane = \
        if(t.message_key IS NULL, concat('e', unhex(replace(t.event_id, '-', ''))), concat('k', t.message_key))) AS gated, NULL AS lane";

/// How many lanes are read at once.
const LANES: usize = 64;

#[derive(QueryableByName)]
struct InGroup {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Integer)]
    group_no: i32,
}

#[derive(QueryableByName)]
struct InLane {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Binary)]
    lane: Vec<u8>,
}

#[derive(QueryableByName)]
struct DueLane {
    #[diesel(sql_type = Binary)]
    lane: Vec<u8>,
    #[diesel(sql_type = Integer)]
    group_no: i32,
}

pub(super) async fn hot(on: &mut On<'_, MySql>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
    let mut rows = Vec::new();
    let mut known = None;
    let mut next = Some(Reach::first(request));
    while let Some(reach) = next {
        rows = match reach {
            Reach::All => all(on, request).await?,
            Reach::OfEachGroup(each) | Reach::Shares(each) => {
                let known = match &known {
                    Some(known) => known,
                    None => known.insert(by_group(on, &request.known).await?),
                };
                of_each_group(on, request, known, each, matches!(reach, Reach::Shares(_))).await?
            }
        };
        next = reach.next(&rows, request);
    }
    rows.sort_unstable_by_key(|row| row.id);
    Ok(rows)
}

async fn all(on: &mut On<'_, MySql>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
    let present: Vec<Present> = on.query(choice::present(request)).load(on.conn).await?;
    let Some(choice) = Choice::of(&present, request) else { return Ok(Vec::new()) };
    let query =
        format!("SELECT {COLUMNS}, {GROUP_AND_GATE} FROM cqrs_outbox t WHERE t.{}", choice.condition());
    Ok(choice.keep(on.query(query).load(on.conn).await?))
}

/// The rows are those of one statement, and so of one snapshot.
async fn of_each_group(
    on: &mut On<'_, MySql>,
    request: &ReadRequest,
    known: &HashMap<i32, Vec<i64>>,
    each: usize,
    by_share: bool,
) -> QueryResult<Vec<Record>> {
    let table = "cqrs_outbox FORCE INDEX (cqrs_outbox_read)";
    let of_group = |group: i32| part(table, &format!("group_no = {group}"), known.get(&group), each);
    let parts = groups_of(&request.leases).into_iter().map(of_group);
    let columns = format!("{COLUMNS}, {GROUP_AND_GATE}");
    match query(parts, by_share, "cqrs_outbox", &columns, request.limit, request.max_bytes) {
        Some(query) => on.query(query).load(on.conn).await,
        None => Ok(Vec::new()),
    }
}

/// To which group a known row belongs never changes, and one that is gone need not be left out. So it may be asked before.
async fn by_group(on: &mut On<'_, MySql>, known: &[i64]) -> QueryResult<HashMap<i32, Vec<i64>>> {
    let mut by_group = HashMap::<i32, Vec<i64>>::new();
    if !known.is_empty() {
        let query = "SELECT t.id, CAST(t.group_no AS signed) AS group_no \
            FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) k STRAIGHT_JOIN cqrs_outbox t ON t.id = k.id";
        let rows: Vec<InGroup> = on.query(query).bind::<Text, _>(ids(known)).load(on.conn).await?;
        rows.into_iter().for_each(|row| by_group.entry(row.group_no).or_default().push(row.id));
    }
    Ok(by_group)
}

/// Lane by lane as of one snapshot, some lanes at once.
pub(super) async fn parked(on: &mut On<'_, MySql>, request: &ReadRequest) -> QueryResult<Vec<Record>> {
    let groups = groups_of(&request.leases);
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = HashMap::<Vec<u8>, Vec<i64>>::new();
    let mut unknown = String::new();
    if !request.known.is_empty() {
        let query = "SELECT t.id, t.lane \
            FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) k STRAIGHT_JOIN cqrs_outbox_parked t ON t.id = k.id";
        let rows: Vec<InLane> = on.query(query).bind::<Text, _>(ids(&request.known)).load(on.conn).await?;
        unknown = format!(" AND p.id NOT IN {}", list(&request.known));
        rows.into_iter().for_each(|row| known.entry(row.lane).or_default().push(row.id));
    }
    let due = format!(
        "SELECT lane, CAST(slot DIV 64 AS signed) AS group_no FROM cqrs_outbox_gate g \
         WHERE until <= utc_timestamp(6) AND (slot DIV 64) IN {} \
            AND EXISTS (SELECT 1 FROM cqrs_outbox_parked p WHERE p.lane = g.lane{unknown}) \
         ORDER BY until LIMIT {}",
        list(&groups),
        request.limit
    );
    let due: Vec<DueLane> = on.query(due).load(on.conn).await?;
    let mut rows = BTreeMap::<i64, Record>::new();
    let mut bytes = 0_usize;
    for lanes in due.chunks(LANES) {
        let (limit, max_bytes) = (request.limit - rows.len(), request.max_bytes.saturating_sub(bytes));
        if limit == 0 || (max_bytes == 0 && !rows.is_empty()) {
            break;
        }
        let mut group_of = String::from("CASE t.lane");
        for due in lanes {
            // Writing into a string does not fail.
            let _ = write!(group_of, " WHEN {} THEN {}", hex(&due.lane), due.group_no);
        }
        let parts = lanes.iter().map(|due| {
            let lane = format!("lane = {}", hex(&due.lane));
            part("cqrs_outbox_parked", &lane, known.get(&due.lane), limit)
        });
        let columns = format!("{COLUMNS}, {group_of} END AS group_no, 0 AS gated, t.lane");
        if let Some(query) = query(parts, true, "cqrs_outbox_parked", &columns, limit, max_bytes) {
            let some: Vec<Record> = on.query(query).load(on.conn).await?;
            bytes += some.iter().map(|row| usize::try_from(row.size).unwrap_or(0)).sum::<usize>();
            rows.extend(some.into_iter().map(|row| (row.id, row)));
        }
    }
    Ok(rows.into_values().collect())
}

/// The first rows of a group, or of a lane, that are not known.
fn part(table: &str, which: &str, known: Option<&Vec<i64>>, limit: usize) -> String {
    let unknown = known.map_or_else(String::new, |known| format!(" AND id NOT IN {}", list(known)));
    format!("id, size FROM {table} WHERE {which}{unknown} ORDER BY id LIMIT {limit}")
}

/// The first of all these rows, up to so many and so many bytes, but at least one: by their ids, or so that each part has its
/// share. First ids and sizes only; then what was chosen, by its primary key.
fn query(
    parts: impl Iterator<Item = String>,
    by_share: bool,
    table: &str,
    columns: &str,
    limit: usize,
    max_bytes: usize,
) -> Option<String> {
    let parts: Vec<_> =
        parts.enumerate().map(|(no, part)| format!("(SELECT {no} AS part, {part})")).collect();
    let (is_empty, mut parts) = (parts.is_empty(), parts.join(" UNION ALL "));
    let mut order = "id";
    if by_share {
        let nth = "row_number() OVER (PARTITION BY part ORDER BY id) AS nth";
        parts = format!("SELECT id, size, {nth} FROM ({parts}) unnumbered");
        order = "nth, id";
    }
    (!is_empty).then(|| {
        format!(
            "SELECT {columns} FROM ( \
                SELECT id, size, sum(size) OVER (ORDER BY {order}) - size AS bytes_before FROM ( \
                    SELECT * FROM ({parts}) parts ORDER BY {order} LIMIT {limit}) firsts) chosen \
             STRAIGHT_JOIN {table} t ON t.id = chosen.id \
             WHERE chosen.bytes_before = 0 OR chosen.bytes_before + chosen.size <= {max_bytes}"
        )
    })
}

pub(super) fn hex(bytes: &[u8]) -> impl Display {
    let mut literal = String::with_capacity(3 + 2 * bytes.len());
    literal.push_str("x'");
    for byte in bytes {
        let _ = write!(literal, "{byte:02x}");
    }
    literal.push('\'');
    literal
}
