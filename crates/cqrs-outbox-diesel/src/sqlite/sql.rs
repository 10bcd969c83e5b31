//! The statements. Times are seconds since 1970 where they are compared, `unixepoch('now', 'subsec')`.

use crate::on::Lanes;
use crate::query::Dialect;

pub(super) const PRAGMAS: &str = "\
    PRAGMA busy_timeout = 5000; \
    PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; \
    PRAGMA foreign_keys = ON;";

pub(super) const INSERT: &str = "\
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, tombstone, occurred_at) VALUES ";

pub(super) const SCHEDULE: &str = "\
    INSERT INTO cqrs_outbox_scheduled (event_id, event_name, event_kind, event_version, topic, message_key, headers, \
        content_type, payload, tombstone, occurred_at, deliver_at) VALUES ";

pub(super) const SCHEDULE_ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

pub(super) const NOW: &str = "SELECT CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER) AS micros";

/// Followed by the keys: those that are taken.
pub(super) const CLAIMED: &str = "\
    SELECT dedup_key, event_id FROM cqrs_outbox_dedup \
    WHERE expires_at > unixepoch('now', 'subsec') AND dedup_key IN ";

/// Followed by the rows, and what becomes of those that are there.
pub(super) const CLAIM: &str = "INSERT INTO cqrs_outbox_dedup (dedup_key, event_id, expires_at) VALUES ";

pub(super) const CLAIM_ROW: &str = "(?, ?, unixepoch('now', 'subsec') + ?)";

pub(super) const TAKE_OVER: &str =
    " ON CONFLICT (dedup_key) DO UPDATE SET event_id = excluded.event_id, expires_at = excluded.expires_at";

pub(super) const RELEASE_CLAIM: &str = "DELETE FROM cqrs_outbox_dedup WHERE dedup_key = ?";

pub(super) const PURGE_DEDUP: &str = "\
    DELETE FROM cqrs_outbox_dedup WHERE dedup_key IN ( \
        SELECT dedup_key FROM cqrs_outbox_dedup WHERE expires_at <= unixepoch('now', 'subsec') \
        ORDER BY expires_at LIMIT ?)";

/// Followed by the keys.
pub(super) const KEY_VERSIONS: &str =
    "SELECT message_key, version FROM cqrs_outbox_version WHERE message_key IN ";

/// Followed by pairs of key and version.
pub(super) const SET_VERSIONS: &str = "INSERT INTO cqrs_outbox_version (message_key, version) VALUES ";

pub(super) const AS_GIVEN: &str = " ON CONFLICT (message_key) DO UPDATE SET version = excluded.version, \
    changed_at = excluded.changed_at";

/// Changes nothing.
pub(super) const LOCK_FOR_WRITING: &str = "DELETE FROM cqrs_outbox_version WHERE 1 = 0";

pub(super) const CANCEL: &str = "DELETE FROM cqrs_outbox_scheduled WHERE event_id = ?";

pub(super) const FREE_KEY: &str = "DELETE FROM cqrs_outbox_dedup WHERE event_id = ?";

pub(super) const RESCHEDULE: &str = "UPDATE cqrs_outbox_scheduled SET deliver_at = ?2 WHERE event_id = ?1";

pub(super) const ADMIT: &str =
    "INSERT INTO cqrs_inbox (consumer, message_id) VALUES (?, ?) ON CONFLICT DO NOTHING";

pub(super) const META_EXISTS: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'cqrs_outbox_meta') AS found";

pub(super) const TABLES_EXIST: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'cqrs_outbox') AS found";

pub(super) const META: &str =
    "SELECT schema_version, min_reader_version, installation_id, order_unit FROM cqrs_outbox_meta";

pub(super) const SET_VERSION: &str = "UPDATE cqrs_outbox_meta SET schema_version = ?, min_reader_version = ?";

pub(super) const SET_HOLD: &str = "UPDATE cqrs_outbox_meta SET hold = ?";

pub(super) const SEEN: &str = "\
    INSERT INTO cqrs_outbox_relay (incarnation, name, version, seen_at) \
    VALUES (?, ?, ?, unixepoch('now', 'subsec')) \
    ON CONFLICT (incarnation) DO UPDATE SET seen_at = unixepoch('now', 'subsec')";

pub(super) const FORGET_RELAYS: &str =
    "DELETE FROM cqrs_outbox_relay WHERE seen_at < unixepoch('now', 'subsec') - 10 * ?";

pub(super) const RELEASE: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = 0 \
    WHERE incarnation = ?1 AND EXISTS (SELECT 1 FROM json_each(?2) \
        WHERE value ->> 0 = group_no AND value ->> 1 = epoch)";

pub(super) const RENEW: &str = "\
    UPDATE cqrs_outbox_group SET expires_at = unixepoch('now', 'subsec') + ?2 \
    WHERE incarnation = ?1 AND expires_at > unixepoch('now', 'subsec') \
        AND expires_at <= unixepoch('now', 'subsec') + 2 * ?2";

pub(super) const TAKE: &str = "\
    UPDATE cqrs_outbox_group SET owner = ?2, incarnation = ?1, epoch = epoch + 1, \
        expires_at = unixepoch('now', 'subsec') + ?3, \
        dirty = max(dirty, coalesce(incarnation <> ?1, 0)), \
        suspects = iif(incarnation <> ?1, (SELECT r.suspects FROM cqrs_outbox_relay r \
            WHERE r.incarnation = cqrs_outbox_group.incarnation), NULL) \
    WHERE group_no IN ( \
        SELECT group_no FROM cqrs_outbox_group \
        WHERE incarnation IS NULL OR expires_at <= unixepoch('now', 'subsec') \
            OR expires_at > unixepoch('now', 'subsec') + 2 * ?3 \
        ORDER BY group_no LIMIT ?4)";

pub(super) const LEASES: &str = "\
    SELECT group_no, epoch, dirty, suspects FROM cqrs_outbox_group \
    WHERE incarnation = ? AND expires_at > unixepoch('now', 'subsec') ORDER BY group_no";

pub(super) const CENSUS: &str = "\
    SELECT (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_relay WHERE seen_at > unixepoch('now', 'subsec') - ?) AS relays, \
        coalesce((SELECT hold FROM cqrs_outbox_meta), 1) AS hold, \
        (SELECT installation_id FROM cqrs_outbox_meta) AS installation_id, \
        (SELECT order_unit FROM cqrs_outbox_meta) AS order_unit, \
        NOT EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE until IS NOT NULL) AS nothing_aside, \
        NOT EXISTS (SELECT 1 FROM cqrs_outbox_scheduled) AS nothing_scheduled";

/// Gates that are due and have nothing behind them.
pub(super) const SWEEP_GATES: &str = "\
    DELETE FROM cqrs_outbox_gate WHERE until <= unixepoch('now', 'subsec') \
        AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_parked p WHERE p.lane = cqrs_outbox_gate.lane)";

/// The columns that a row takes with it wherever it goes.
macro_rules! carried {
    () => {
        carried!("waiting_since")
    };
    ($since:literal) => {
        concat!(
            "event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, payload, \
             payload_text, tombstone, occurred_at, ",
            $since,
            ", size, slot"
        )
    };
}

macro_rules! highest_id {
    () => {
        "max(coalesce((SELECT max(id) FROM cqrs_outbox), 0), coalesce((SELECT max(id) FROM cqrs_outbox_parked), 0), \
            coalesce((SELECT max(id) FROM cqrs_outbox_dead), 0), coalesce((SELECT max(id) FROM cqrs_outbox_sent), 0))"
    };
}

/// The id under which a row `o` goes to where these tables are: its own, as long as none of them has it. They have it only where the
/// sequence stands behind ids that are in use, as after a restore of some of the tables.
/// Then it gets one above all that there are, for two events must not be one row. What is there keeps its own: a relay, a request
/// or a list may name it.
macro_rules! free_id {
    ($nth:literal, $($table:literal),+) => {
        concat!(
            "CASE WHEN ",
            $("(SELECT 1 FROM ", $table, " t WHERE t.id = o.id) OR ",)+
            "0 THEN ",
            highest_id!(),
            " + ",
            $nth,
            " ELSE o.id END"
        )
    };
}

/// The same of rows that go together, where the first one that cannot keep its own is that of this query: those behind it get new
/// ones, too, for else they would pass it.
macro_rules! free_ids {
    ($first:literal) => {
        concat!("CASE WHEN o.id >= (", $first, ") THEN ", highest_id!(), " + 1 + json_each.key ELSE o.id END")
    };
}

/// One after the other: dead letters go back behind the gate of their lane. One that waits for others, too, stays closed until
/// those are gone.
pub(super) const REPLAY: [&str; 3] = [
    "INSERT INTO cqrs_outbox_gate (lane, slot, until, error) \
     SELECT DISTINCT lane, slot, unixepoch('now', 'subsec'), 'replay' \
     FROM cqrs_outbox_dead WHERE id IN (SELECT value FROM json_each(?1)) \
     ON CONFLICT (lane) DO UPDATE SET until = excluded.until, error = excluded.error \
        WHERE cqrs_outbox_gate.until IS NOT NULL OR NOT EXISTS (SELECT 1 FROM cqrs_outbox_dead d \
            WHERE d.lane = cqrs_outbox_gate.lane AND d.id NOT IN (SELECT value FROM json_each(?1)))",
    concat!(
        "INSERT INTO cqrs_outbox_parked (id, ",
        carried!(),
        ", attempts, lane, error, errors) \
         SELECT ",
        free_ids!("SELECT min(t.id) FROM json_each(?1) k CROSS JOIN cqrs_outbox_parked t ON t.id = k.value"),
        ", ",
        carried!("unixepoch('now', 'subsec')"),
        ", 0, lane, error, errors FROM json_each(?1) CROSS JOIN cqrs_outbox_dead o ON o.id = json_each.value"
    ),
    DELETE_DEAD,
];

/// One after the other: dead letters go; what waits behind them is due.
pub(super) const DISCARD: [&str; 3] = [
    "DELETE FROM cqrs_outbox_dedup WHERE event_id IN ( \
        SELECT event_id FROM cqrs_outbox_dead WHERE id IN (SELECT value FROM json_each(?1)))",
    "UPDATE cqrs_outbox_gate SET until = unixepoch('now', 'subsec') \
     WHERE until IS NULL \
        AND lane IN (SELECT lane FROM cqrs_outbox_dead WHERE id IN (SELECT value FROM json_each(?1))) \
        AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_dead d \
            WHERE d.lane = cqrs_outbox_gate.lane AND d.id NOT IN (SELECT value FROM json_each(?1)))",
    DELETE_DEAD,
];

const DELETE_DEAD: &str = "DELETE FROM cqrs_outbox_dead WHERE id IN (SELECT value FROM json_each(?1))";

/// As `Lane::of` makes it; [`LANES`] has it as `OrderUnit::lane` makes it of a topic and a key.
macro_rules! lane {
    () => {
        "CAST(CASE WHEN message_key IS NULL THEN 'e' || CAST(unhex(replace(event_id, '-', '')) AS TEXT) \
              ELSE 'k' || CAST(message_key AS TEXT) END AS BLOB)"
    };
}

pub(super) const LANES: Lanes =
    &[("'k' || CAST(message_key AS TEXT)", "'t' || topic || char(0) || CAST(message_key AS TEXT)")];

/// Whether a row of the hot table goes aside in this lane: that of its key, or its own.
macro_rules! is_of_lane {
    ($lane:literal) => {
        concat!(
            $lane,
            " IN (",
            lane!(),
            ", CAST('e' || CAST(unhex(replace(event_id, '-', '')) AS TEXT) AS BLOB))"
        )
    };
}

/// Behind it comes which rows. As a rule there are no gates at all, which is found out once.
pub(super) const READ: &str = concat!(
    "SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, \
        CAST(message_key AS BLOB) AS message_key, headers, content_type, payload, payload_text, occurred_at, attempts, size, \
        0 AS group_no, EXISTS (SELECT 1 FROM cqrs_outbox_gate) AND EXISTS (SELECT 1 FROM cqrs_outbox_gate g WHERE g.lane = ",
    lane!(),
    ") AS gated, NULL AS lane FROM cqrs_outbox WHERE "
);

/// `CROSS JOIN`: the gates first. SQLite would go through all parked rows in the order of their ids to save the sorting.
pub(super) const READ_PARKED: &str = "\
    SELECT * FROM ( \
        SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, CAST(message_key AS BLOB) AS message_key, \
            headers, content_type, payload, payload_text, occurred_at, attempts, size, 0 AS group_no, 0 AS gated, lane, \
            sum(size) OVER (ORDER BY id) - size AS bytes_before \
        FROM (SELECT p.* FROM cqrs_outbox_gate g CROSS JOIN cqrs_outbox_parked p ON p.lane = g.lane \
            WHERE g.until <= unixepoch('now', 'subsec') AND 0 IN (SELECT value FROM json_each(?1)) \
                AND p.id NOT IN (SELECT value FROM json_each(?2)) \
            ORDER BY p.id LIMIT ?3)) \
    WHERE bytes_before = 0 OR bytes_before + size <= ?4 ORDER BY id";

pub(super) const SETTLE_HOT: &str = "DELETE FROM cqrs_outbox WHERE id IN (SELECT value FROM json_each(?))";

/// The events are asked for, too: where ids came again, another one may stand aside with the id of one that was sent.
pub(super) const SETTLE_PARKED: &str = "\
    DELETE FROM cqrs_outbox_parked WHERE id IN (SELECT o.id FROM json_each(?) CROSS JOIN cqrs_outbox_parked o \
        ON o.id = json_each.value ->> 0 AND unhex(replace(o.event_id, '-', '')) = unhex(json_each.value ->> 3))";

/// What was sent goes with its receipt.
macro_rules! keep {
    ($table:literal, $which:literal, $lane:expr, $errors:literal) => {
        concat!(
            "INSERT INTO cqrs_outbox_sent (id, ",
            carried!(),
            ", attempts, lane, error, errors, partition, \"offset\") \
             SELECT ",
            free_id!("1 + k.key", "cqrs_outbox_sent"),
            ", ",
            carried!(),
            ", attempts, ",
            $lane,
            ", ",
            $errors,
            ", \
                k.value ->> 1, k.value ->> 2 \
             FROM json_each(?) k CROSS JOIN ",
            $table,
            " o ON o.id = k.value ->> 0",
            $which
        )
    };
}

pub(super) const KEEP_HOT: &str = keep!("cqrs_outbox", "", lane!(), "NULL, '[]'");

pub(super) const KEEP_PARKED: &str = keep!(
    "cqrs_outbox_parked",
    " AND unhex(replace(o.event_id, '-', '')) = unhex(k.value ->> 3)",
    "lane",
    "error, errors"
);

pub(super) const FENCE: &str =
    "SELECT EXISTS (SELECT 1 FROM cqrs_outbox_group WHERE group_no = ? AND epoch = ?) AS found";

/// A row of the hot table with the id of one that stands aside is another one, unless it is of the same lane.
pub(super) const PARK_HOT: &str = concat!(
    "INSERT INTO cqrs_outbox_parked (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_parked", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", ?4, ?2, ?3, json_array(json_object('at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'error', ?3)) \
     FROM cqrs_outbox o WHERE id = ?1 AND ",
    is_of_lane!("?2")
);

/// Written twice after an answer that was lost, it counts and tells the refusal once.
pub(super) const PARK_AGAIN: &str = "\
    UPDATE cqrs_outbox_parked SET attempts = ?4, error = ?3, \
        errors = CASE WHEN attempts < ?4 \
            THEN json_insert(errors, '$[#]', json_object('at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'error', ?3)) ELSE errors END, \
        parked_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
    WHERE id = ?1 AND lane = ?2";

pub(super) const BURY_HOT: &str = concat!(
    "INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_parked", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", ?4, ?2, ?3, \
        json_array(json_object('at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'error', ?3)) \
     FROM cqrs_outbox o WHERE id = ?1 AND ",
    is_of_lane!("?2")
);

pub(super) const BURY_PARKED: &str = concat!(
    "INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", ?4, lane, ?3, \
        json_insert(errors, '$[#]', json_object('at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'error', ?3)) \
     FROM cqrs_outbox_parked o WHERE id = ?1 AND lane = ?2"
);

/// What was moved.
pub(super) const DELETE_HOT: &str = concat!("DELETE FROM cqrs_outbox WHERE id = ? AND ", is_of_lane!("?"));

pub(super) const DELETE_PARKED: &str = "DELETE FROM cqrs_outbox_parked WHERE id = ? AND lane = ?";

/// `?2` seconds from now; NULL: until someone acts.
pub(super) const CLOSE_GATE: &str = "\
    INSERT INTO cqrs_outbox_gate (lane, slot, until, error) VALUES (?1, 0, unixepoch('now', 'subsec') + ?2, ?3) \
    ON CONFLICT (lane) DO UPDATE SET until = excluded.until, error = excluded.error";

pub(super) const GATE: &str = "SELECT until IS NULL AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = ?";

macro_rules! followers {
    () => {
        "(SELECT id FROM cqrs_outbox_parked WHERE lane = ?1 \
            AND id > (SELECT min(id) FROM cqrs_outbox_dead WHERE lane = ?1) AND (?3 OR error IS NULL) ORDER BY id LIMIT ?2)"
    };
}

/// `?1` is the lane, `?2` how many at most, `?3` whether those go, too, that were refused or replayed, `?4` the error.
pub(super) const FOLLOW: &str = concat!(
    "INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("row_number() OVER (ORDER BY id)", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", attempts, lane, ?4, \
        json_insert(errors, '$[#]', json_object('at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'error', ?4)) \
     FROM cqrs_outbox_parked o WHERE id IN ",
    followers!()
);

pub(super) const DELETE_FOLLOWERS: &str =
    concat!("DELETE FROM cqrs_outbox_parked WHERE id IN ", followers!());

/// They come behind what stands aside of their lane.
pub(super) const SET_ASIDE: &str = concat!(
    "INSERT INTO cqrs_outbox_parked (id, ",
    carried!(),
    ", attempts, lane) \
     SELECT ",
    free_ids!(
        "SELECT min(k.value) FROM json_each(?1) k WHERE (SELECT 1 FROM cqrs_outbox_parked t WHERE t.id = k.value) \
            OR (SELECT 1 FROM cqrs_outbox_dead t WHERE t.id = k.value) \
            OR k.value < (SELECT max(id) FROM cqrs_outbox_parked WHERE lane = ?2)"
    ),
    ", ",
    carried!(),
    ", attempts, ?2 FROM json_each(?1) CROSS JOIN cqrs_outbox o ON o.id = json_each.value WHERE ",
    lane!(),
    " = ?2"
);

pub(super) const DELETE_SET_ASIDE: &str =
    concat!("DELETE FROM cqrs_outbox WHERE id IN (SELECT value FROM json_each(?)) AND ", lane!(), " = ?");

pub(super) const GATE_IS_NEEDED: &str = "\
    SELECT EXISTS (SELECT 1 FROM cqrs_outbox_parked WHERE lane = ?) \
        OR EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE lane = ? AND until IS NULL) AS found";

pub(super) const OPEN_GATE: &str = "DELETE FROM cqrs_outbox_gate WHERE lane = ?";

pub(super) const LEAVE_GROUPS: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = 0 \
    WHERE incarnation = ?";

pub(super) const SIGN_OFF: &str = "DELETE FROM cqrs_outbox_relay WHERE incarnation = ?";

pub(super) const NEXT_DUE: &str = "\
    SELECT (SELECT deliver_at FROM cqrs_outbox_scheduled ORDER BY deliver_at LIMIT 1) - unixepoch('now', 'subsec') \
        AS seconds \
    WHERE 0 IN (SELECT value FROM json_each(?)) UNION ALL SELECT NULL LIMIT 1";

pub(super) const CURRENT_LEASES: &str = "\
    SELECT group_no FROM cqrs_outbox_group \
    WHERE EXISTS (SELECT 1 FROM json_each(?) WHERE value ->> 0 = group_no AND value ->> 1 = epoch)";

pub(super) const DUE: &str = "\
    SELECT id, 0 AS slot FROM cqrs_outbox_scheduled \
    WHERE 0 IN (SELECT value FROM json_each(?)) AND deliver_at <= unixepoch('now', 'subsec') \
    ORDER BY deliver_at, id LIMIT ?";

/// One after the other.
pub(super) const MOVE_DUE: [&str; 2] = [
    "INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, waiting_since) \
     SELECT event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, deliver_at \
     FROM cqrs_outbox_scheduled WHERE id IN (SELECT value FROM json_each(?)) ORDER BY deliver_at, id",
    "DELETE FROM cqrs_outbox_scheduled WHERE id IN (SELECT value FROM json_each(?))",
];

/// One statement: one snapshot. Ids rise with time, or nearly so: the oldest is looked for among the first in line, and not by a scan
/// of all.
pub(super) const STATUS: &str = "\
    SELECT schema_version, min_reader_version, installation_id, order_unit, hold, \
        (SELECT count(*) FROM cqrs_outbox) AS hot, \
        unixepoch('now', 'subsec') - (SELECT min(waiting_since) FROM ( \
            SELECT * FROM (SELECT waiting_since FROM cqrs_outbox ORDER BY id LIMIT 1000) \
            UNION ALL SELECT * FROM (SELECT waiting_since FROM cqrs_outbox_parked ORDER BY id LIMIT 1000))) \
            AS oldest_waiting, \
        (SELECT count(*) FROM cqrs_outbox_parked) AS parked, \
        (SELECT count(*) FROM cqrs_outbox_gate) AS closed_gates, \
        all_scheduled, due, oldest_due, \
        (SELECT count(*) FROM cqrs_outbox_dead) AS dead_letters, \
        (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_group \
            WHERE incarnation IS NULL OR expires_at <= unixepoch('now', 'subsec')) AS unowned_groups, \
        (SELECT json_group_array(json_array(name, incarnation, version, \
            (SELECT count(*) FROM cqrs_outbox_group g \
                WHERE g.incarnation = r.incarnation AND g.expires_at > unixepoch('now', 'subsec')), \
            unixepoch('now', 'subsec') - seen_at, suspended)) FROM cqrs_outbox_relay r) AS relays, \
        (SELECT json_group_array(json_array(hex(lane), until - unixepoch('now', 'subsec'), substr(error, 1, 500), \
            unixepoch('now', 'subsec') - unixepoch(closed_at, 'subsec'))) \
            FROM (SELECT * FROM cqrs_outbox_gate ORDER BY closed_at, lane LIMIT 5)) AS gates, \
        NULL AS oldest_snapshot \
    FROM cqrs_outbox_meta CROSS JOIN ( \
        SELECT count(*) AS all_scheduled, count(CASE WHEN deliver_at <= unixepoch('now', 'subsec') THEN 1 END) AS due, \
            unixepoch('now', 'subsec') - min(deliver_at) AS oldest_due \
        FROM cqrs_outbox_scheduled) s";

/// The columns of a `ListedRow`, with this one as its time, and with more.
macro_rules! listed {
    ($at:literal, $more:literal, $table:literal) => {
        concat!(
            "SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, topic, CAST(message_key AS BLOB) AS message_key, \
                lane, attempts, size, error, occurred_at, ",
            $at,
            " AS at",
            $more,
            " FROM ",
            $table
        )
    };
}

/// Operators' statements, as far as they are put together.
pub(super) const DIALECT: Dialect = Dialect {
    dead_letters: listed!("dead_at", "", "cqrs_outbox_dead"),
    dead_letters_in_full: "\
        SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, CAST(message_key AS BLOB) AS message_key, headers, \
            content_type, payload, payload_text, occurred_at AS occurred_at, \
            attempts, size, 0 AS group_no, 0 AS gated, lane, error, errors, dead_at AS dead_at \
        FROM cqrs_outbox_dead",
    is_lane_of_topic: "lane >= CAST('t' AS BLOB) AND lane < CAST('u' AS BLOB)",
    is_lane_of_key: "lane >= x'6b' AND lane < x'6c'",
    searches_or: false,
    parked_event_id_is: "unhex(replace(event_id, '-', '')) = ?",
    event_id_is: "lower(replace(event_id, '-', '')) = lower(hex(?))",
    parked: listed!(
        "parked_at",
        ", (SELECT CAST(round(until * 1000000) AS INTEGER) FROM cqrs_outbox_gate g WHERE g.lane = p.lane) AS until_micros",
        "cqrs_outbox_parked p"
    ),
    scheduled: "\
        SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, \
            CAST(message_key AS BLOB) AS message_key, headers, content_type, payload, payload_text, occurred_at, attempts, \
            0 AS size, 0 AS group_no, 0 AS gated, NULL AS lane, CAST(round(deliver_at * 1000000) AS INTEGER) AS deliver_micros \
        FROM cqrs_outbox_scheduled",
    key_is: "CAST(message_key AS BLOB) = ?",
    requests: "\
        SELECT id, kind, unhex(replace(event_id, '-', '')) AS event_id, strftime('%Y-%m-%dT%H:%M:%fZ', not_before, 'unixepoch') AS not_before, requested_by, \
            requested_at AS requested_at, done_at AS done_at, outcome, changes \
        FROM cqrs_outbox_request",
    event_id: "?",
    now: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
    not_before: "unixepoch('now', 'subsec') + ?",
    for_update: "",
    skip_locked: "",
    by_primary_key: "",
    me: "''",
    purge_sent: "\
        DELETE FROM cqrs_outbox_sent WHERE id IN (SELECT id FROM cqrs_outbox_sent \
            WHERE sent_at < strftime('%Y-%m-%dT%H:%M:%fZ', unixepoch('now', 'subsec') - ?, 'unixepoch') ORDER BY sent_at LIMIT ?)",
    purge_inbox: "\
        DELETE FROM cqrs_inbox WHERE (consumer, message_id) IN (SELECT consumer, message_id FROM cqrs_inbox \
            WHERE handled_at < strftime('%Y-%m-%dT%H:%M:%fZ', unixepoch('now', 'subsec') - ?, 'unixepoch') ORDER BY handled_at LIMIT ?)",
    purge_requests: "\
        DELETE FROM cqrs_outbox_request WHERE id IN (SELECT id FROM cqrs_outbox_request \
            WHERE done_at < strftime('%Y-%m-%dT%H:%M:%fZ', unixepoch('now', 'subsec') - ?, 'unixepoch') ORDER BY done_at LIMIT ?)",
    clock: "CAST(round(unixepoch('now', 'subsec') * 1000000) AS INTEGER)",
    at: "? / 1e6",
    same_event: "(r.event_id IS NULL OR unhex(replace(r.event_id, '-', '')) = unhex(replace(d.event_id, '-', '')))",
    group: "d.slot / 64",
};
