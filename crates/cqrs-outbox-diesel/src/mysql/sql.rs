//! The statements, for MariaDB and for MySQL; only what both have. `utc_timestamp(6)` is when the statement began: a lease
//! that had to wait for its row's lock ends sooner than it might, never later than its relay believes.
//!
//! Rows are found by their primary key, through [`ids`] or one by one. A statement that scans would wait at READ COMMITTED
//! for a row that a writer has inserted and not committed yet.

use crate::on::Lanes;
use crate::query::Dialect;

pub(super) const BEGIN: &str = "SET autocommit = 0; SAVEPOINT cqrs_tx";

pub(super) const COMMIT: &str = "RELEASE SAVEPOINT cqrs_tx; COMMIT; SET autocommit = 1";

/// What the server says when `COMMIT` is not what ends the transaction.
pub(super) const NO_TRANSACTION: &str = "SAVEPOINT cqrs_tx does not exist";

pub(super) const AUTOCOMMIT: &str = "SET autocommit = 1";

/// English messages: diesel gives no codes, so failures are told apart by their text. And what diesel takes for granted.
pub(super) const SET_UP: &str = "SET lc_messages = 'en_US', autocommit = 1";

/// Of the relay's connections, which nobody else gets. All time-outs are shorter than a lease: a relay that is stopped in
/// the midst of a transaction must not keep a lease's row locked. The comments are code, the first to MariaDB (seconds,
/// for all statements), the second to MySQL (milliseconds, for SELECT only).
pub(super) const SET_UP_RELAY: &str = "\
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
    SET SESSION innodb_lock_wait_timeout = 3, wait_timeout = 8 \
        /*M!100101 , max_statement_time = 5 */ /*!50708 , max_execution_time = 5000 */";

pub(super) const INSERT: &str = "\
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, tombstone, occurred_at) VALUES ";

pub(super) const SCHEDULE: &str = "\
    INSERT INTO cqrs_outbox_scheduled (event_id, event_name, event_kind, event_version, topic, message_key, headers, \
        content_type, payload, tombstone, occurred_at, deliver_at) VALUES ";

pub(super) const SCHEDULE_ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

pub(super) const MAX_PACKET: &str = "SELECT CAST(@@max_allowed_packet AS SIGNED) AS value";

pub(super) const NOW: &str = "SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) AS micros";

/// Followed by the rows, and what becomes of those that are there.
pub(super) const CLAIM: &str =
    "INSERT INTO cqrs_outbox_dedup (dedup_key, event_id, claimed_by, expires_at) VALUES ";

pub(super) const CLAIM_ROW: &str = "(?, ?, ?, utc_timestamp(6) + INTERVAL ? MICROSECOND)";

/// Assignments take effect from left to right: the time comes last, for the others look at it.
pub(super) const UNLESS_CLAIMED: &str = " ON DUPLICATE KEY UPDATE \
    event_id = if(expires_at <= utc_timestamp(6), VALUES(event_id), event_id), \
    claimed_by = if(expires_at <= utc_timestamp(6), VALUES(claimed_by), claimed_by), \
    expires_at = if(expires_at <= utc_timestamp(6), VALUES(expires_at), expires_at)";

/// Followed by the keys. Their rows are locked by then.
pub(super) const CLAIMED: &str =
    "SELECT dedup_key, event_id, claimed_by FROM cqrs_outbox_dedup FORCE INDEX (PRIMARY) WHERE dedup_key IN ";

pub(super) const RELEASE_CLAIM: &str = "DELETE FROM cqrs_outbox_dedup WHERE dedup_key = ?";

/// No locking read: in a transaction of the application's it would lock the gap beside, into which others write.
pub(super) const KEY_OF_EVENT: &str = "SELECT dedup_key AS value FROM cqrs_outbox_dedup WHERE event_id = ?";

/// If it is still that event's.
pub(super) const FREE_KEY: &str =
    "DELETE d FROM cqrs_outbox_dedup d FORCE INDEX (PRIMARY) WHERE d.dedup_key = ? AND d.event_id = ?";

/// The same, if nobody has it locked.
pub(super) const LOCK_KEY_OF_EVENT: &str = "\
    SELECT dedup_key AS value FROM cqrs_outbox_dedup FORCE INDEX (PRIMARY) \
    WHERE dedup_key = ? AND event_id = ? FOR UPDATE SKIP LOCKED";

/// Followed by the ids of dead letters.
pub(super) const EVENTS_WITH_KEYS: &str = "\
    SELECT DISTINCT d.event_id AS value FROM cqrs_outbox_dead d \
    STRAIGHT_JOIN cqrs_outbox_dedup k FORCE INDEX (cqrs_outbox_dedup_event) ON k.event_id = d.event_id WHERE d.id IN ";

pub(super) const EXPIRED_DEDUP: &str = "\
    SELECT dedup_key AS value FROM cqrs_outbox_dedup FORCE INDEX (cqrs_outbox_dedup_expires) \
    WHERE expires_at <= utc_timestamp(6) ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED";

/// Followed by the keys.
pub(super) const DELETE_DEDUP: &str = "DELETE FROM cqrs_outbox_dedup WHERE dedup_key IN ";

/// Followed by pairs of key and version, and what becomes of those that are there.
pub(super) const LOCK_VERSIONS: &str = "INSERT INTO cqrs_outbox_version (message_key, version) VALUES ";

pub(super) const AS_IT_IS: &str = " ON DUPLICATE KEY UPDATE version = version";

pub(super) const AS_GIVEN: &str =
    " ON DUPLICATE KEY UPDATE version = VALUES(version), changed_at = utc_timestamp(6)";

/// Followed by the keys.
pub(super) const KEY_VERSIONS: &str =
    "SELECT message_key, version FROM cqrs_outbox_version FORCE INDEX (PRIMARY) WHERE message_key IN ";

pub(super) const FIND_SCHEDULED: &str = "SELECT id AS value FROM cqrs_outbox_scheduled WHERE event_id = ?";

pub(super) const RESCHEDULE: &str = "UPDATE cqrs_outbox_scheduled SET deliver_at = ? WHERE id = ?";

/// One row changed: it is new. Two: it was there; for that to be told, something has to change. `INSERT IGNORE` would also
/// ignore an id that is too long, and share a lock over which three at once fall into a deadlock.
pub(super) const ADMIT: &str = "\
    INSERT INTO cqrs_inbox (consumer, message_id) VALUES (?, ?) \
    ON DUPLICATE KEY UPDATE handled_at = handled_at + INTERVAL 1 MICROSECOND";

/// Names of locks belong to the whole server.
pub(super) const LOCK_MIGRATIONS: &str =
    "SELECT coalesce(get_lock(concat('cqrs_outbox ', md5(database())), 60), 0) AS found";

pub(super) const UNLOCK_MIGRATIONS: &str = "DO release_lock(concat('cqrs_outbox ', md5(database())))";

pub(super) const TABLES_EXIST: &str = "\
    SELECT EXISTS (SELECT 1 FROM information_schema.tables \
        WHERE table_schema = database() AND table_name = 'cqrs_outbox') AS found";

pub(super) const META: &str =
    "SELECT schema_version, min_reader_version, installation_id, order_unit FROM cqrs_outbox_meta";

pub(super) const SET_VERSION: &str = "UPDATE cqrs_outbox_meta SET schema_version = ?, min_reader_version = ?";

pub(super) const SET_HOLD: &str = "UPDATE cqrs_outbox_meta SET hold = ?";

pub(super) const SEEN: &str = "\
    INSERT INTO cqrs_outbox_relay (incarnation, name, version) VALUES (?, ?, ?) \
    ON DUPLICATE KEY UPDATE seen_at = utc_timestamp(6)";

pub(super) const SEEN_AGAIN: &str =
    "UPDATE cqrs_outbox_relay SET seen_at = utc_timestamp(6) WHERE incarnation = ?";

/// What a heartbeat as most are tells, when what it changes is done; the third value is whether the relay's row was met.
pub(super) const PULSE: &str = "\
    SELECT known.*, g.group_no, g.epoch, g.dirty, g.suspects FROM ( \
        SELECT (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
            (SELECT count(*) FROM cqrs_outbox_relay WHERE seen_at > utc_timestamp(6) - INTERVAL ? MICROSECOND) AS relays, \
            coalesce((SELECT hold FROM cqrs_outbox_meta), 1) AS hold, \
            (SELECT installation_id FROM cqrs_outbox_meta) AS installation_id, \
            (SELECT order_unit FROM cqrs_outbox_meta) AS order_unit, \
            NOT EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE until IS NOT NULL) AS nothing_aside, \
            NOT EXISTS (SELECT 1 FROM cqrs_outbox_scheduled) AS nothing_scheduled, \
            EXISTS (SELECT 1 FROM cqrs_outbox_group WHERE incarnation IS NULL OR expires_at <= utc_timestamp(6) \
                OR expires_at > utc_timestamp(6) + INTERVAL 2 * ? MICROSECOND) AS has_free, \
            ? AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_relay \
                    WHERE seen_at < utc_timestamp(6) - INTERVAL 10 * ? MICROSECOND) \
                AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE until <= utc_timestamp(6)) AS is_all \
    ) known LEFT JOIN cqrs_outbox_group g ON g.incarnation = ? AND g.expires_at > utc_timestamp(6) \
    ORDER BY g.group_no";

pub(super) const FORGOTTEN_RELAYS: &str = "\
    SELECT incarnation AS value FROM cqrs_outbox_relay \
    WHERE seen_at < utc_timestamp(6) - INTERVAL 10 * ? MICROSECOND FOR UPDATE SKIP LOCKED";

pub(super) const SIGN_OFF: &str = "DELETE FROM cqrs_outbox_relay WHERE incarnation = ?";

/// Followed by pairs of group and epoch.
pub(super) const RELEASE: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = false \
    WHERE incarnation = ? AND (group_no, epoch) IN ";

pub(super) const RENEW: &str = "\
    UPDATE cqrs_outbox_group SET expires_at = utc_timestamp(6) + INTERVAL ? MICROSECOND \
    WHERE incarnation = ? AND expires_at > utc_timestamp(6) \
        AND expires_at <= utc_timestamp(6) + INTERVAL 2 * ? MICROSECOND";

pub(super) const FREE_GROUPS: &str = "\
    SELECT CAST(group_no AS signed) AS value FROM cqrs_outbox_group FORCE INDEX (PRIMARY) \
    WHERE incarnation IS NULL OR expires_at <= utc_timestamp(6) \
        OR expires_at > utc_timestamp(6) + INTERVAL 2 * ? MICROSECOND \
    ORDER BY group_no LIMIT ? FOR UPDATE SKIP LOCKED";

/// Followed by the groups. Assignments take effect from left to right: the first two are about the incarnation before.
pub(super) const TAKE: &str = "\
    UPDATE cqrs_outbox_group SET dirty = dirty OR coalesce(incarnation <> ?, false), \
        suspects = IF(incarnation <> ?, (SELECT r.suspects FROM cqrs_outbox_relay r \
            WHERE r.incarnation = cqrs_outbox_group.incarnation), NULL), \
        owner = ?, incarnation = ?, epoch = epoch + 1, expires_at = utc_timestamp(6) + INTERVAL ? MICROSECOND \
    WHERE group_no IN ";

pub(super) const LEASES: &str = "\
    SELECT group_no, epoch, dirty, suspects FROM cqrs_outbox_group \
    WHERE incarnation = ? AND expires_at > utc_timestamp(6) ORDER BY group_no";

pub(super) const CENSUS: &str = "\
    SELECT (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_relay WHERE seen_at > utc_timestamp(6) - INTERVAL ? MICROSECOND) AS relays, \
        coalesce((SELECT hold FROM cqrs_outbox_meta), 1) AS hold, \
        (SELECT installation_id FROM cqrs_outbox_meta) AS installation_id, \
        (SELECT order_unit FROM cqrs_outbox_meta) AS order_unit, \
        NOT EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE until IS NOT NULL) AS nothing_aside, \
        NOT EXISTS (SELECT 1 FROM cqrs_outbox_scheduled) AS nothing_scheduled";

pub(super) const FENCE: &str =
    "SELECT 1 AS found FROM cqrs_outbox_group WHERE group_no = ? AND epoch = ? FOR UPDATE";

pub(super) const LEAVE_GROUPS: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = false \
    WHERE incarnation = ?";

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

/// The lane of a row of the hot table, as `Lane::of` makes it; [`LANES`] has it as `OrderUnit::lane` makes it of a topic and a key.
macro_rules! lane {
    () => {
        "if(message_key IS NULL, concat('e', unhex(replace(event_id, '-', ''))), concat('k', message_key))"
    };
}

pub(super) const LANES: Lanes = &[
    ("concat('k', message_key)", "concat('t', topic, x'00', message_key)"),
    ("concat('k', t.message_key)", "concat('t', t.topic, x'00', t.message_key)"),
];

/// A JSON array of ids as a table, so that rows are found by their primary key and in no other way.
macro_rules! ids {
    () => {
        "JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) k"
    };
}

/// Which of these rows have an id that a row of this table has.
pub(super) fn taken(table: &str) -> String {
    format!(concat!("SELECT t.id AS value FROM ", ids!(), " STRAIGHT_JOIN {} t ON t.id = k.id"), table)
}

pub(super) const HIGHEST_ID: &str = "\
    SELECT greatest(coalesce((SELECT max(id) FROM cqrs_outbox), 0), coalesce((SELECT max(id) FROM cqrs_outbox_parked), 0), \
        coalesce((SELECT max(id) FROM cqrs_outbox_dead), 0), coalesce((SELECT max(id) FROM cqrs_outbox_sent), 0)) AS value";

/// Followed by the ids of dead letters, as are the others on them. A gate that waits until someone acts stays as it is.
pub(super) const CLOSE_GATES_OF_DEAD: &str = "\
    INSERT INTO cqrs_outbox_gate (lane, slot, until, error) \
    SELECT DISTINCT lane, slot, utc_timestamp(6), 'replay' FROM cqrs_outbox_dead d \
    WHERE d.id IN ";

pub(super) const ON_CLOSED_GATE: &str = " ON DUPLICATE KEY UPDATE cqrs_outbox_gate.error = if(until IS NULL, cqrs_outbox_gate.error, 'replay'), \
        until = if(until IS NULL, until, utc_timestamp(6))";

/// Between its parts stands under which id, as in those below.
pub(super) const PARK_DEAD: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_parked (id, ", carried!(), ", attempts, lane, error, errors) SELECT "),
    concat!(
        ", ",
        carried!("utc_timestamp(6)"),
        ", 0, lane, error, errors FROM cqrs_outbox_dead o WHERE id IN "
    ),
];

/// Lanes that have no other dead letter than these; followed by their ids, twice.
pub(super) const LANES_OF_DEAD: &str = "SELECT DISTINCT lane AS value FROM cqrs_outbox_dead d WHERE d.id IN ";

pub(super) const HAS_OTHER_DEAD: &str =
    " AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_dead o WHERE o.lane = d.lane AND o.id NOT IN ";

/// Followed by the lanes.
pub(super) const GATES_ARE_DUE: &str = "UPDATE cqrs_outbox_gate FORCE INDEX (PRIMARY) SET until = utc_timestamp(6) WHERE until IS NULL AND lane IN ";

/// Gates that are due and have nothing behind them; followed by the groups. No lock is taken while looking: the transaction
/// holds the rows of the groups' leases locked, so nothing can be moved behind one meanwhile.
pub(super) const EMPTY_GATES: &str = "\
    SELECT lane AS value FROM cqrs_outbox_gate g WHERE until <= utc_timestamp(6) \
        AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_parked p WHERE p.lane = g.lane) AND (slot DIV 64) IN ";

pub(super) const OPEN_GATE: &str = "DELETE FROM cqrs_outbox_gate WHERE lane = ?";

pub(super) const GATE: &str = "SELECT until IS NULL AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = ?";

pub(super) const GATE_IS_NEEDED: &str = "\
    SELECT EXISTS (SELECT 1 FROM cqrs_outbox_parked WHERE lane = ?) \
        OR EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE lane = ? AND until IS NULL) AS found";

/// `?` microseconds from now; NULL: until someone acts. A lane is of one slot.
pub(super) const CLOSE_GATE: &str = "\
    INSERT INTO cqrs_outbox_gate (lane, slot, until, error) \
    SELECT ?, slot, utc_timestamp(6) + INTERVAL ? MICROSECOND, ? \
    FROM ((SELECT slot FROM cqrs_outbox_parked WHERE lane = ? LIMIT 1) \
        UNION ALL (SELECT slot FROM cqrs_outbox_dead WHERE lane = ? LIMIT 1) LIMIT 1) moved \
    ON DUPLICATE KEY UPDATE until = utc_timestamp(6) + INTERVAL ? MICROSECOND, error = ?";

pub(super) const SETTLE_HOT: &str =
    concat!("DELETE o FROM ", ids!(), " STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id");

pub(super) const DELETE_PARKED: &str = "DELETE FROM cqrs_outbox_parked WHERE id = ?";

pub(super) const DELETE_DEAD: &str =
    concat!("DELETE d FROM ", ids!(), " STRAIGHT_JOIN cqrs_outbox_dead d ON d.id = k.id");

/// What is moved is locked first, so that it is not also settled meanwhile.
pub(super) const LOCK_HOT: &str =
    concat!("SELECT o.id AS value FROM ", ids!(), " STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id FOR UPDATE");

/// The same of a lane, that of a row's key or its own: a row with the id of one that stands aside is another one, unless it is of
/// the same lane.
pub(super) const LOCK_LANE: &str = concat!(
    "SELECT o.id AS value FROM ",
    ids!(),
    " STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id WHERE ? IN (",
    lane!(),
    ", concat('e', unhex(replace(event_id, '-', '')))) FOR UPDATE"
);

pub(super) const LOCK_PARKED: &str =
    "SELECT id AS value FROM cqrs_outbox_parked WHERE id = ? AND lane = ? FOR UPDATE";

/// Rows, their receipts and their events as a table.
macro_rules! receipts {
    () => {
        "JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$[0]', `partition` INT PATH '$[1]', `offset` BIGINT PATH '$[2]', \
            event VARCHAR(32) PATH '$[3]')) k"
    };
}

/// The rows that stand aside of these events: where ids came again, another one may have the id of one that was sent.
macro_rules! parked_of_receipts {
    () => {
        concat!(
            receipts!(),
            " STRAIGHT_JOIN cqrs_outbox_parked o ON o.id = k.id AND unhex(replace(o.event_id, '-', '')) = unhex(k.event)"
        )
    };
}

pub(super) const SETTLE_PARKED: &str = concat!("DELETE o FROM ", parked_of_receipts!());

/// What was sent goes with its receipt.
macro_rules! keep {
    ($rows:expr, $lane:expr, $errors:literal) => {
        [
            concat!(
                "INSERT INTO cqrs_outbox_sent (id, ",
                carried!(),
                ", attempts, lane, error, errors, `partition`, `offset`) SELECT "
            ),
            concat!(
                ", ",
                carried!(),
                ", attempts, ",
                $lane,
                ", ",
                $errors,
                ", k.`partition`, k.`offset` FROM ",
                $rows
            ),
        ]
    };
}

pub(super) const KEEP_HOT: [&str; 2] =
    keep!(concat!(receipts!(), " STRAIGHT_JOIN cqrs_outbox o ON o.id = k.id"), lane!(), "NULL, '[]'");

pub(super) const KEEP_PARKED: [&str; 2] = keep!(parked_of_receipts!(), "lane", "error, errors");

pub(super) const LOCK_PARKED_ROWS: &str =
    concat!("SELECT o.id AS value FROM ", parked_of_receipts!(), " FOR UPDATE");

/// The entry of a refusal in `errors`.
macro_rules! refusal {
    () => {
        "json_object('at', date_format(utc_timestamp(6), '%Y-%m-%dT%H:%i:%s.%fZ'), 'error', ?)"
    };
}

pub(super) const PARK_HOT: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_parked (id, ", carried!(), ", attempts, lane, error, errors) SELECT "),
    concat!(", ", carried!(), ", ?, ?, ?, json_array(", refusal!(), ") FROM cqrs_outbox o WHERE id = ?"),
];

/// Written twice after an answer that was lost, it counts and tells the refusal once. `errors` comes first, for it looks
/// at the attempts before.
pub(super) const PARK_AGAIN: &str = concat!(
    "UPDATE cqrs_outbox_parked SET errors = if(attempts < ?, json_array_append(errors, '$', ",
    refusal!(),
    "), errors), attempts = ?, error = ?, parked_at = utc_timestamp(6) WHERE id = ?"
);

pub(super) const BURY_HOT: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_dead (id, ", carried!(), ", attempts, lane, error, errors) SELECT "),
    concat!(", ", carried!(), ", ?, ?, ?, json_array(", refusal!(), ") FROM cqrs_outbox o WHERE id = ?"),
];

pub(super) const BURY_PARKED: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_dead (id, ", carried!(), ", attempts, lane, error, errors) SELECT "),
    concat!(
        ", ",
        carried!(),
        ", ?, ?, ?, json_array_append(errors, '$', ",
        refusal!(),
        ") FROM cqrs_outbox_parked o WHERE id = ?"
    ),
];

pub(super) const LOCK_FOLLOWERS: &str = "\
    SELECT id AS value FROM cqrs_outbox_parked \
    WHERE lane = ? AND id > (SELECT min(id) FROM cqrs_outbox_dead WHERE lane = ?) AND (? OR error IS NULL) \
    ORDER BY id LIMIT ? FOR UPDATE";

/// Followed by the ids.
pub(super) const FOLLOW: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_dead (id, ", carried!(), ", attempts, lane, error, errors) SELECT "),
    concat!(
        ", ",
        carried!(),
        ", attempts, lane, ?, json_array_append(errors, '$', ",
        refusal!(),
        ") FROM cqrs_outbox_parked o WHERE id IN "
    ),
];

pub(super) const DELETE_FOLLOWERS: &str =
    concat!("DELETE o FROM ", ids!(), " STRAIGHT_JOIN cqrs_outbox_parked o ON o.id = k.id");

pub(super) const LAST_ASIDE: &str =
    "SELECT coalesce(max(id), 0) AS value FROM cqrs_outbox_parked WHERE lane = ?";

/// Followed by the ids.
pub(super) const SET_ASIDE: [&str; 2] = [
    concat!("INSERT INTO cqrs_outbox_parked (id, ", carried!(), ", attempts, lane) SELECT "),
    concat!(", ", carried!(), ", attempts, ? FROM cqrs_outbox o WHERE id IN "),
];

/// Followed by the first one of each group.
pub(super) const NEXT_DUE: &str = "\
    SELECT CAST(timestampdiff(MICROSECOND, utc_timestamp(6), min(deliver_at)) / 1e6 AS DOUBLE) AS seconds FROM ";

/// The time of the first scheduled row of a group.
pub(super) fn first_due(group: i32) -> String {
    format!(
        "(SELECT deliver_at FROM cqrs_outbox_scheduled FORCE INDEX (cqrs_outbox_scheduled_due) \
          WHERE group_no = {group} ORDER BY deliver_at LIMIT 1)"
    )
}

/// The first scheduled rows of a group that are due and meet a condition.
pub(super) fn due(group: i32, condition: &str, limit: usize) -> String {
    format!(
        "(SELECT id, slot, deliver_at FROM cqrs_outbox_scheduled FORCE INDEX (cqrs_outbox_scheduled_due) \
          WHERE group_no = {group} AND deliver_at <= utc_timestamp(6){condition} ORDER BY deliver_at, id LIMIT {limit})"
    )
}

/// Followed by pairs of group and epoch. `FOR UPDATE`, for a shared lock that skips is written in two ways.
pub(super) const LOCK_LEASES: &str =
    "SELECT group_no FROM cqrs_outbox_group FORCE INDEX (PRIMARY) WHERE (group_no, epoch) IN ";

pub(super) const WAIT_FOR_ALL: &str = " ORDER BY group_no FOR UPDATE";

pub(super) const SKIP_LOCKED: &str = " ORDER BY group_no FOR UPDATE SKIP LOCKED";

pub(super) const LOCK_DUE: &str = concat!(
    "SELECT s.id AS value FROM ",
    ids!(),
    " STRAIGHT_JOIN cqrs_outbox_scheduled s ON s.id = k.id WHERE s.deliver_at <= utc_timestamp(6) \
      FOR UPDATE SKIP LOCKED"
);

pub(super) const LOCK_SCHEDULED: &str = concat!(
    "SELECT s.id AS value FROM ",
    ids!(),
    " STRAIGHT_JOIN cqrs_outbox_scheduled s ON s.id = k.id FOR UPDATE"
);

/// Followed by the ids, and the order in which new ones are drawn.
pub(super) const INSERT_DUE: &str = "\
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, waiting_since) \
    SELECT event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, deliver_at \
    FROM cqrs_outbox_scheduled WHERE id IN ";

pub(super) const IN_ORDER: &str = " ORDER BY deliver_at, id";

pub(super) const DELETE_DUE: &str =
    concat!("DELETE s FROM ", ids!(), " STRAIGHT_JOIN cqrs_outbox_scheduled s ON s.id = k.id");

/// One statement: one snapshot. Ids rise with time, or nearly so: the oldest is looked for among the first in line, and not by a scan
/// of all.
pub(super) const STATUS: &str = "\
    SELECT schema_version, min_reader_version, installation_id, order_unit, hold, \
        (SELECT count(*) FROM cqrs_outbox) AS hot, \
        (SELECT max(timestampdiff(MICROSECOND, waiting_since, utc_timestamp(6))) / 1e6 FROM ( \
            (SELECT waiting_since FROM cqrs_outbox ORDER BY id LIMIT 1000) \
            UNION ALL (SELECT waiting_since FROM cqrs_outbox_parked ORDER BY id LIMIT 1000)) firsts) AS oldest_waiting, \
        (SELECT count(*) FROM cqrs_outbox_parked) AS parked, \
        (SELECT count(*) FROM cqrs_outbox_gate) AS closed_gates, \
        all_scheduled, due, oldest_due, \
        (SELECT count(*) FROM cqrs_outbox_dead) AS dead_letters, \
        (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_group \
            WHERE incarnation IS NULL OR expires_at <= utc_timestamp(6)) AS unowned_groups, \
        CAST((SELECT coalesce(json_arrayagg(json_array(name, incarnation, version, \
            (SELECT count(*) FROM cqrs_outbox_group g \
                WHERE g.incarnation = r.incarnation AND g.expires_at > utc_timestamp(6)), \
            timestampdiff(MICROSECOND, seen_at, utc_timestamp(6)) / 1e6, suspended)), '[]') \
            FROM cqrs_outbox_relay r) AS char) AS relays, \
        CAST((SELECT coalesce(json_arrayagg(json_array(hex(lane), \
            timestampdiff(MICROSECOND, utc_timestamp(6), until) / 1e6, left(error, 500), \
            timestampdiff(MICROSECOND, closed_at, utc_timestamp(6)) / 1e6)), '[]') \
            FROM (SELECT * FROM cqrs_outbox_gate ORDER BY closed_at, lane LIMIT 5) g) AS char) AS gates, \
        CAST(NULL AS char) AS oldest_snapshot \
    FROM cqrs_outbox_meta CROSS JOIN ( \
        SELECT count(*) AS all_scheduled, count(CASE WHEN deliver_at <= utc_timestamp(6) THEN 1 END) AS due, \
            timestampdiff(MICROSECOND, min(deliver_at), utc_timestamp(6)) / 1e6 AS oldest_due \
        FROM cqrs_outbox_scheduled) s";

/// The columns of a `ListedRow`, with this one as its time, and with more.
macro_rules! listed {
    ($at:literal, $more:literal, $table:literal) => {
        concat!(
            "SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, topic, message_key, lane, attempts, size, error, \
                date_format(occurred_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS occurred_at, date_format(",
            $at,
            ", '%Y-%m-%dT%H:%i:%s.%fZ') AS at",
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
        SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, message_key, headers, \
            content_type, payload, payload_text, date_format(occurred_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS occurred_at, \
            attempts, size, 0 AS group_no, false AS gated, lane, error, errors, date_format(dead_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS dead_at \
        FROM cqrs_outbox_dead",
    is_lane_of_topic: "lane >= 't' AND lane < 'u'",
    is_lane_of_key: "lane >= x'6b' AND lane < x'6c'",
    searches_or: true,
    parked_event_id_is: "unhex(replace(event_id, '-', '')) = ?",
    event_id_is: "event_key = ?",
    parked: listed!(
        "parked_at",
        ", (SELECT timestampdiff(MICROSECOND, '1970-01-01', until) FROM cqrs_outbox_gate g WHERE g.lane = p.lane) AS until_micros",
        "cqrs_outbox_parked p"
    ),
    scheduled: "\
        SELECT id, unhex(replace(event_id, '-', '')) AS event_id, event_name, event_kind, event_version, topic, message_key, \
            headers, content_type, payload, payload_text, \
            date_format(occurred_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS occurred_at, attempts, 0 AS size, group_no, 0 AS gated, NULL AS lane, \
            timestampdiff(MICROSECOND, '1970-01-01', deliver_at) AS deliver_micros \
        FROM cqrs_outbox_scheduled",
    key_is: "message_key = ?",
    requests: "\
        SELECT id, kind, unhex(replace(event_id, '-', '')) AS event_id, date_format(not_before, '%Y-%m-%dT%H:%i:%s.%fZ') AS not_before, requested_by, \
            date_format(requested_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS requested_at, date_format(done_at, '%Y-%m-%dT%H:%i:%s.%fZ') AS done_at, outcome, changes \
        FROM cqrs_outbox_request",
    event_id: "?",
    now: "utc_timestamp(6)",
    not_before: "utc_timestamp(6) + INTERVAL (? * 1000000) MICROSECOND",
    for_update: " FOR UPDATE",
    skip_locked: " FOR UPDATE SKIP LOCKED",
    by_primary_key: " FORCE INDEX (PRIMARY)",
    me: "current_user()",
    purge_sent: "\
        DELETE o FROM (SELECT id FROM cqrs_outbox_sent \
            WHERE sent_at < utc_timestamp(6) - INTERVAL (? * 1000000) MICROSECOND \
            ORDER BY sent_at LIMIT ? FOR UPDATE SKIP LOCKED) k \
        STRAIGHT_JOIN cqrs_outbox_sent o ON o.id = k.id",
    purge_inbox: "\
        DELETE o FROM (SELECT consumer, message_id FROM cqrs_inbox \
            WHERE handled_at < utc_timestamp(6) - INTERVAL (? * 1000000) MICROSECOND \
            ORDER BY handled_at LIMIT ? FOR UPDATE SKIP LOCKED) k \
        STRAIGHT_JOIN cqrs_inbox o ON o.consumer = k.consumer AND o.message_id = k.message_id",
    purge_requests: "\
        DELETE o FROM (SELECT id FROM cqrs_outbox_request \
            WHERE done_at < utc_timestamp(6) - INTERVAL (? * 1000000) MICROSECOND \
            ORDER BY done_at LIMIT ? FOR UPDATE SKIP LOCKED) k \
        STRAIGHT_JOIN cqrs_outbox_request o ON o.id = k.id",
    clock: "CAST(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) AS signed)",
    at: "timestamp'1970-01-01 00:00:00' + INTERVAL ? MICROSECOND",
    same_event: "(r.event_id IS NULL OR unhex(replace(r.event_id, '-', '')) = d.event_key)",
    group: "d.slot DIV 64",
};
