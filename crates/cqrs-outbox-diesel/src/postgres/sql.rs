//! The statements. `clock_timestamp()` and not `now()`: a lease counts from when it is written, not from when its
//! transaction began. Where an index is to be searched by it, it is asked for once, by `(SELECT clock_timestamp())`: as
//! it may change with each call, an index is of no use to a bare one.

use crate::on::Lanes;
use crate::query::Dialect;

pub(super) const INSERT: &str = "\
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, tombstone, occurred_at) \
    SELECT event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload IS NULL, occurred_at \
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bytea[], $7::text[], $8::text[], \
        $9::bytea[], $10::timestamptz[]) \
        WITH ORDINALITY AS new(event_id, event_name, event_kind, event_version, topic, message_key, headers, \
        content_type, payload, occurred_at, nth) \
    ORDER BY nth";

/// A fifth less than the one for many takes.
pub(super) const INSERT_ONE: &str = "\
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, tombstone, occurred_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

pub(super) const SCHEDULE: &str = "\
    INSERT INTO cqrs_outbox_scheduled (event_id, event_name, event_kind, event_version, topic, message_key, headers, \
        content_type, payload, tombstone, occurred_at, deliver_at) \
    SELECT event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload IS NULL, occurred_at, deliver_at \
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bytea[], $7::text[], $8::text[], \
        $9::bytea[], $10::timestamptz[], $11::timestamptz[]) \
        WITH ORDINALITY AS new(event_id, event_name, event_kind, event_version, topic, message_key, headers, \
        content_type, payload, occurred_at, deliver_at, nth) \
    ORDER BY nth";

pub(super) const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros";

/// A row that somebody else has is locked all the same: it stays as it is until the transaction ends.
pub(super) const CLAIM: &str = "\
    INSERT INTO cqrs_outbox_dedup AS d (dedup_key, event_id, expires_at) \
    SELECT dedup_key, event_id, clock_timestamp() + make_interval(secs => seconds) \
    FROM unnest($1::bytea[], $2::uuid[], $3::double precision[]) AS new(dedup_key, event_id, seconds) \
    ORDER BY dedup_key \
    ON CONFLICT (dedup_key) DO UPDATE SET event_id = EXCLUDED.event_id, expires_at = EXCLUDED.expires_at \
        WHERE d.expires_at <= clock_timestamp() \
    RETURNING dedup_key";

pub(super) const CLAIMED: &str =
    "SELECT dedup_key, event_id::text AS event_id FROM cqrs_outbox_dedup WHERE dedup_key = ANY($1)";

pub(super) const RELEASE_CLAIMS: &str = "DELETE FROM cqrs_outbox_dedup WHERE dedup_key = ANY($1)";

pub(super) const PURGE_DEDUP: &str = "\
    DELETE FROM cqrs_outbox_dedup WHERE dedup_key IN ( \
        SELECT dedup_key FROM cqrs_outbox_dedup WHERE expires_at <= statement_timestamp() \
        ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)";

/// Changes nothing, but locks.
pub(super) const LOCK_VERSIONS: &str = "\
    INSERT INTO cqrs_outbox_version AS v (message_key, version) \
    SELECT message_key, -1 FROM unnest($1::bytea[]) AS new(message_key) ORDER BY message_key \
    ON CONFLICT (message_key) DO UPDATE SET version = v.version RETURNING message_key, version";

pub(super) const SET_VERSIONS: &str = "\
    UPDATE cqrs_outbox_version v SET version = new.version, changed_at = clock_timestamp() \
    FROM unnest($1::bytea[], $2::bigint[]) AS new(message_key, version) WHERE v.message_key = new.message_key";

/// Two keys whose hashes are the same wait for each other; that is all. Keys of other tables have locks of their own, and the same
/// tables have the same, however they are called.
pub(super) const LOCK_KEY: &str = "\
    SELECT pg_advisory_xact_lock('cqrs_outbox_version'::regclass::oid::int, ('x' || substr(md5($1), 1, 8))::bit(32)::int)";

pub(super) const CANCEL: &str = "\
    WITH cancelled AS (DELETE FROM cqrs_outbox_scheduled WHERE event_id = $1 RETURNING event_id), \
    freed AS (DELETE FROM cqrs_outbox_dedup d USING cancelled c WHERE d.event_id = c.event_id) \
    SELECT count(*) AS value FROM cancelled";

pub(super) const RESCHEDULE: &str = "UPDATE cqrs_outbox_scheduled SET deliver_at = $2 WHERE event_id = $1";

pub(super) const ADMIT: &str =
    "INSERT INTO cqrs_inbox (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

pub(super) const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_xact_lock($1)";

pub(super) const META_EXISTS: &str = "SELECT to_regclass('cqrs_outbox_meta') IS NOT NULL AS found";

pub(super) const TABLES_EXIST: &str = "SELECT to_regclass('cqrs_outbox') IS NOT NULL AS found";

/// The table of versions in a schema of the search path that this user may not use.
pub(super) const HIDDEN_META: &str = "\
    SELECT format('%I.cqrs_outbox_meta', nspname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
    WHERE relname = 'cqrs_outbox_meta' AND NOT has_schema_privilege(n.oid, 'USAGE') \
        AND nspname::text = ANY(string_to_array(regexp_replace(current_setting('search_path'), '[\" ]', '', 'g'), ',')) LIMIT 1";

pub(super) const META: &str = "SELECT schema_version, min_reader_version, installation_id::text AS installation_id, order_unit FROM cqrs_outbox_meta";

pub(super) const SET_VERSION: &str =
    "UPDATE cqrs_outbox_meta SET schema_version = $1, min_reader_version = $2";

/// Shorter than a lease: a relay that is stopped in the midst of a transaction must not keep a lease's row locked.
pub(super) const BEGIN_SHORT: &str = "\
    BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '5s'; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'";

pub(super) const BEGIN_MIGRATION: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

pub(super) const COMMIT: &str = "SELECT 1; COMMIT";

pub(super) const SET_HOLD: &str = "UPDATE cqrs_outbox_meta SET hold = $1";

pub(super) const SEEN: &str = "\
    INSERT INTO cqrs_outbox_relay (incarnation, name, version) VALUES ($1, $2, $3) \
    ON CONFLICT (incarnation) DO UPDATE SET seen_at = clock_timestamp()";

pub(super) const FORGET_RELAYS: &str = "\
    DELETE FROM cqrs_outbox_relay WHERE incarnation IN ( \
        SELECT incarnation FROM cqrs_outbox_relay \
        WHERE seen_at < clock_timestamp() - 10 * make_interval(secs => $1) FOR UPDATE SKIP LOCKED)";

pub(super) const RELEASE: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = false \
    WHERE incarnation = $1 \
        AND (group_no, epoch) IN (SELECT * FROM unnest($2::int[], $3::bigint[]))";

pub(super) const RENEW: &str = "\
    UPDATE cqrs_outbox_group SET expires_at = clock_timestamp() + make_interval(secs => $2) \
    WHERE incarnation = $1 AND expires_at > clock_timestamp() \
        AND expires_at <= clock_timestamp() + 2 * make_interval(secs => $2)";

pub(super) const TAKE: &str = "\
    UPDATE cqrs_outbox_group SET owner = $2, incarnation = $1, epoch = epoch + 1, \
        expires_at = clock_timestamp() + make_interval(secs => $3), \
        dirty = dirty OR coalesce(incarnation <> $1, false), \
        suspects = CASE WHEN incarnation <> $1 THEN (SELECT r.suspects FROM cqrs_outbox_relay r \
            WHERE r.incarnation = cqrs_outbox_group.incarnation) END \
    WHERE group_no IN ( \
        SELECT group_no FROM cqrs_outbox_group \
        WHERE incarnation IS NULL OR expires_at <= clock_timestamp() \
            OR expires_at > clock_timestamp() + 2 * make_interval(secs => $3) \
        ORDER BY group_no LIMIT $4 FOR UPDATE SKIP LOCKED)";

pub(super) const LEASES: &str = "\
    SELECT group_no, epoch, dirty, suspects FROM cqrs_outbox_group \
    WHERE incarnation = $1 AND expires_at > clock_timestamp() ORDER BY group_no";

pub(super) const CENSUS: &str = "\
    SELECT (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_relay \
            WHERE seen_at > clock_timestamp() - make_interval(secs => $1)) AS relays, \
        coalesce((SELECT hold FROM cqrs_outbox_meta), true) AS hold, \
        (SELECT installation_id::text FROM cqrs_outbox_meta) AS installation_id, \
        (SELECT order_unit FROM cqrs_outbox_meta) AS order_unit, \
        (SELECT until FROM cqrs_outbox_gate ORDER BY until LIMIT 1) IS NULL AS nothing_aside, \
        (SELECT id FROM cqrs_outbox_scheduled ORDER BY id LIMIT 1) IS NULL AS nothing_scheduled";

/// A heartbeat as most are. It waits for nobody: what somebody has locked, a refusal that is just being written say, is left for the
/// steps one by one, which have limits of time. All parts but the first two see the tables as they were before.
pub(super) const PULSE: &str = "\
    WITH seen AS ( \
        UPDATE cqrs_outbox_relay SET seen_at = clock_timestamp() WHERE incarnation = ( \
            SELECT incarnation FROM cqrs_outbox_relay WHERE incarnation = $1 FOR UPDATE SKIP LOCKED) \
        RETURNING 1 \
    ), renewed AS ( \
        UPDATE cqrs_outbox_group SET expires_at = clock_timestamp() + make_interval(secs => $2) \
        WHERE incarnation = $1 AND group_no IN ( \
            SELECT group_no FROM cqrs_outbox_group \
            WHERE incarnation = $1 AND expires_at > clock_timestamp() \
                AND expires_at <= clock_timestamp() + 2 * make_interval(secs => $2) \
            ORDER BY group_no FOR UPDATE SKIP LOCKED) \
        RETURNING group_no, epoch, dirty, suspects \
    ), known AS ( \
        SELECT (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
            (SELECT count(*) FROM cqrs_outbox_relay \
                WHERE incarnation = $1 OR seen_at > clock_timestamp() - make_interval(secs => $2)) AS relays, \
            coalesce((SELECT hold FROM cqrs_outbox_meta), true) AS hold, \
            (SELECT installation_id::text FROM cqrs_outbox_meta) AS installation_id, \
            (SELECT order_unit FROM cqrs_outbox_meta) AS order_unit, \
            (SELECT until FROM cqrs_outbox_gate ORDER BY until LIMIT 1) IS NULL AS nothing_aside, \
            (SELECT id FROM cqrs_outbox_scheduled ORDER BY id LIMIT 1) IS NULL AS nothing_scheduled, \
            EXISTS (SELECT 1 FROM cqrs_outbox_group WHERE incarnation IS NULL OR expires_at <= clock_timestamp() \
                OR expires_at > clock_timestamp() + 2 * make_interval(secs => $2)) AS has_free, \
            EXISTS (SELECT 1 FROM seen) \
                AND (SELECT count(*) FROM renewed) = (SELECT count(*) FROM cqrs_outbox_group \
                    WHERE incarnation = $1 AND expires_at > clock_timestamp()) \
                AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_relay \
                    WHERE incarnation <> $1 AND seen_at < clock_timestamp() - 10 * make_interval(secs => $2)) \
                AND (SELECT until FROM cqrs_outbox_gate WHERE until <= (SELECT clock_timestamp()) \
                    ORDER BY until LIMIT 1) IS NULL AS is_all \
    ) \
    SELECT known.*, renewed.* FROM known LEFT JOIN renewed ON true ORDER BY renewed.group_no";

/// Dead letters go: what waits behind them is due, and their deduplication keys are free, but for those that somebody has locked: a
/// writer who is told of a duplicate has, until his transaction ends, and is not waited for.
pub(super) const DISCARD: &str = "\
    WITH gone AS (DELETE FROM cqrs_outbox_dead WHERE id = ANY($1) RETURNING id, lane, event_id), \
    freed AS (DELETE FROM cqrs_outbox_dedup WHERE dedup_key IN ( \
        SELECT k.dedup_key FROM cqrs_outbox_dedup k WHERE k.event_id IN (SELECT event_id FROM gone) \
        FOR UPDATE SKIP LOCKED)) \
    UPDATE cqrs_outbox_gate SET until = clock_timestamp() \
    WHERE until IS NULL AND lane IN (SELECT lane FROM gone) \
        AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_dead d \
            WHERE d.lane = cqrs_outbox_gate.lane AND d.id NOT IN (SELECT id FROM gone))";

/// Gates that are due and have nothing behind them. The transaction holds the rows of the groups' leases locked, so nothing can be
/// moved behind one meanwhile.
pub(super) const SWEEP_GATES: &str = "\
    DELETE FROM cqrs_outbox_gate g WHERE until <= (SELECT clock_timestamp()) AND (slot / 64) = ANY($1) \
        AND NOT EXISTS (SELECT 1 FROM cqrs_outbox_parked p WHERE p.lane = g.lane)";

/// As `Lane::of` makes it; [`LANES`] has it as `OrderUnit::lane` makes it of a topic and a key.
macro_rules! lane {
    ($table:literal) => {
        concat!(
            "CASE WHEN ",
            $table,
            ".message_key IS NULL THEN 'e'::bytea || uuid_send(",
            $table,
            ".event_id) \
             ELSE 'k'::bytea || ",
            $table,
            ".message_key END"
        )
    };
}

pub(super) const LANES: Lanes = &[(
    "'k'::bytea || o.message_key",
    "'t'::bytea || convert_to(o.topic, 'UTF8') || '\\x00'::bytea || o.message_key",
)];

/// Whether a row `o` of the hot table goes aside in this lane: that of its key, or its own.
macro_rules! is_of_lane {
    ($lane:literal) => {
        concat!($lane, " IN (", lane!("o"), ", 'e'::bytea || uuid_send(o.event_id))")
    };
}

/// The columns of a waiting row of the table `o`, of this group; and how many bytes come before it in this order.
///
/// Whether a lane is gated is asked row by row. For an `EXISTS`, all gates would be read into a table first where there are
/// some thousands.
macro_rules! waiting {
    ($group:literal, $order:literal) => {
        concat!(
            "o.id, uuid_send(o.event_id) AS event_id, o.event_name, o.event_kind, o.event_version, o.topic, \
             o.message_key, o.headers, o.content_type, o.payload, o.payload_text, \
             to_char(o.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS occurred_at, \
             o.attempts, o.size, ",
            $group,
            " AS group_no, coalesce((SELECT true FROM cqrs_outbox_gate g WHERE g.lane = ",
            lane!("o"),
            "), false) AS gated, NULL::bytea AS lane, sum(o.size) OVER (ORDER BY ",
            $order,
            ") - o.size AS bytes_before"
        )
    };
}

/// What floors are about, as one text: the run, since when the server is up, and where the table and the sequence of the oid
/// `seq` are stored, and so in which database. A crash, a restore, `TRUNCATE` and a sequence that begins again change it. NULL
/// as long as the run has no name.
macro_rules! generation {
    () => {
        "(SELECT run FROM cqrs_outbox_run)::text || ' ' || extract(epoch FROM pg_postmaster_start_time())::text || ' ' \
            || pg_relation_filepath('cqrs_outbox'::regclass) || ' ' || pg_relation_filepath(seq)"
    };
}

/// Whether floors hold: they are about this generation, and the sequence has not been set back. It is a statement of its own,
/// which is asked once: an index is of no use to what may change from row to row.
macro_rules! floors_hold {
    ($seq:literal, $generation:literal, $last:literal) => {
        concat!(
            "SELECT coalesce(CASE WHEN ",
            generation!(),
            " = known_generation AND has_sequence_privilege(seq, 'USAGE, SELECT') \
                THEN pg_sequence_last_value(seq) >= known_last END, false) AS hold \
             FROM (SELECT ",
            $seq,
            "::bigint::oid AS seq, ",
            $generation,
            "::text AS known_generation, ",
            $last,
            "::bigint AS known_last) known"
        )
    };
}

/// Of all groups, in the order of the ids.
///
/// What is known is left out by a hash table: before version 15 a list is searched from its start for each row, and a plan that
/// is made once for all lists does so in any version.
pub(super) const READ_ALL: &str = concat!(
    "WITH floors AS MATERIALIZED (",
    floors_hold!("$1", "$2", "$3"),
    ") SELECT *, (SELECT hold FROM floors) AS floors_hold FROM (SELECT ",
    waiting!("(o.slot / 64)::int", "o.id"),
    " FROM ( \
            SELECT * FROM cqrs_outbox o \
            WHERE o.id > (CASE WHEN (SELECT hold FROM floors) THEN $4 ELSE -9223372036854775808 END) \
                AND o.id NOT IN (SELECT unnest($5::bigint[])) \
            ORDER BY o.id LIMIT $6) o \
        ) bounded \
    WHERE bytes_before = 0 OR bytes_before + size <= $7 ORDER BY id"
);

/// The rows of a group behind its floor are asked for in the order of the one index that is for that, and in a way that no
/// other can serve: by `slot / 64 = no` and `id > floor` the primary key looks as good, and visits the rows of all groups.
macro_rules! read_groups {
    ($columns:literal, $order:literal) => {
        concat!(
            "WITH floors AS MATERIALIZED (",
            floors_hold!("$1", "$2", "$3"),
            ") SELECT *, (SELECT hold FROM floors) AS floors_hold FROM (SELECT ",
            waiting!("grp.no", $order),
            " FROM unnest($4::int[], $5::bigint[]) AS grp(no, floor) CROSS JOIN LATERAL ( \
                    SELECT ",
            $columns,
            " FROM cqrs_outbox o \
                    WHERE (o.slot / 64, o.id) > (grp.no, CASE WHEN (SELECT hold FROM floors) \
                            THEN grp.floor ELSE -9223372036854775808 END) \
                        AND (o.slot / 64) <= grp.no AND o.id NOT IN (SELECT unnest($6::bigint[])) \
                    ORDER BY o.slot / 64, o.id LIMIT $7) o \
                ORDER BY ",
            $order,
            " LIMIT $8) bounded \
            WHERE bytes_before = 0 OR bytes_before + size <= $9 ORDER BY id"
        )
    };
}

/// The first of each of these groups, cut by their ids.
pub(super) const READ_GROUPS: &str = read_groups!("*", "o.id");

/// The first of each of these groups, cut by their places in them: each has its share.
pub(super) const READ_SHARES: &str =
    read_groups!("*, row_number() OVER (ORDER BY o.slot / 64, o.id) AS nth", "o.nth, o.id");

/// Says which run of the server this is, unless that was said already.
pub(super) const BEGIN_RUN: &str = "INSERT INTO cqrs_outbox_run DEFAULT VALUES ON CONFLICT DO NOTHING";

/// The sequence of the ids, if it is one that says what it has given and goes on from there.
pub(super) const SEQUENCE: &str = concat!(
    "SELECT seq::bigint AS sequence, ",
    generation!(),
    " AS generation, \
        CASE WHEN has_sequence_privilege(seq, 'USAGE, SELECT') THEN coalesce(pg_sequence_last_value(seq), seqstart - 1) \
        END AS last, pg_sequence_last_value(seq) IS NULL AS is_unused \
    FROM (SELECT seqrelid AS seq, seqstart FROM pg_sequence \
        WHERE seqrelid = pg_get_serial_sequence('cqrs_outbox'::regclass::text, 'id')::regclass \
            AND seqcache = 1 AND seqincrement > 0 AND NOT seqcycle) sequences"
);

/// The transactions that may have drawn an id: INSERT holds a lock on the table, and `nextval` one on the sequence, until
/// the transaction ends, of this mode. Who reads or vacuums holds others.
pub(super) const OPEN_WRITERS: &str = "\
    SELECT DISTINCT virtualtransaction AS transaction, pid IS NULL AS prepared FROM pg_locks \
    WHERE locktype = 'relation' AND relation IN ($1::oid, 'cqrs_outbox'::regclass) AND granted \
        AND mode = 'RowExclusiveLock' \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(super) const FIRST_IDS: &str = concat!(
    "SELECT grp.no AS group_no, (SELECT o.id FROM cqrs_outbox o \
        WHERE (o.slot / 64, o.id) > (grp.no, grp.above) AND (o.slot / 64, o.id) <= (grp.no, grp.up_to) \
        ORDER BY o.slot / 64, o.id LIMIT 1) AS first \
    FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS grp(no, above, up_to) WHERE (",
    floors_hold!("$4", "$5", "$6"),
    ")"
);

/// The first of each lane, cut by their places in it: each has its share.
pub(super) const READ_PARKED: &str = "\
    SELECT * FROM ( \
        SELECT p.id, uuid_send(p.event_id) AS event_id, p.event_name, p.event_kind, p.event_version, p.topic, p.message_key, p.headers, \
            p.content_type, p.payload, p.payload_text, \
            to_char(p.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS occurred_at, p.attempts, p.size, g.slot / 64 AS group_no, \
            false AS gated, p.lane, sum(p.size) OVER (ORDER BY p.nth, p.id) - p.size AS bytes_before \
        FROM (SELECT lane, slot FROM cqrs_outbox_gate due \
            WHERE until <= (SELECT clock_timestamp()) AND (slot / 64) = ANY($1) \
                AND EXISTS (SELECT 1 FROM cqrs_outbox_parked p WHERE p.lane = due.lane AND p.id NOT IN (SELECT unnest($2::bigint[]))) \
            ORDER BY until LIMIT $3) g \
        CROSS JOIN LATERAL ( \
            SELECT *, row_number() OVER (ORDER BY p.id) AS nth FROM cqrs_outbox_parked p WHERE p.lane = g.lane AND p.id NOT IN (SELECT unnest($2::bigint[])) \
            ORDER BY p.id LIMIT $3) p \
        ORDER BY p.nth, p.id LIMIT $3) bounded \
    WHERE bytes_before = 0 OR bytes_before + size <= $4 ORDER BY id";

pub(super) const SETTLE_HOT: &str = "DELETE FROM cqrs_outbox WHERE id = ANY($1)";

/// The events are asked for, too: where ids came again, another one may stand aside with the id of one that was sent.
pub(super) const SETTLE_PARKED: &str = "\
    DELETE FROM cqrs_outbox_parked p USING unnest($1::bigint[], $2::uuid[]) AS k(id, event_id) \
    WHERE p.id = k.id AND p.event_id = k.event_id";

pub(super) const FENCE: &str =
    "SELECT true AS found FROM cqrs_outbox_group WHERE group_no = $1 AND epoch = $2 FOR UPDATE";

pub(super) const FENCE_ALL: &str = "\
    SELECT group_no FROM cqrs_outbox_group \
    WHERE (group_no, epoch) IN (SELECT * FROM unnest($1::int[], $2::bigint[])) ORDER BY group_no FOR UPDATE";

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
        "greatest((SELECT max(id) FROM cqrs_outbox), (SELECT max(id) FROM cqrs_outbox_parked), \
            (SELECT max(id) FROM cqrs_outbox_dead), (SELECT max(id) FROM cqrs_outbox_sent))"
    };
}

/// The id under which a row `o` goes to where these tables are: its own, as long as none of them has it. They have it only where the
/// sequence stands behind ids that are in use, be it after `TRUNCATE .. RESTART IDENTITY` or a restore of some of the tables.
/// Then it gets one above all that there are, for two events must not be one row. What is there keeps its own: a relay, a request
/// or a list may name it.
macro_rules! free_id {
    ($nth:literal, $($table:literal),+) => {
        concat!(
            "CASE WHEN ",
            $("(SELECT true FROM ", $table, " t WHERE t.id = o.id) OR ",)+
            "false THEN ",
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
        concat!(
            "CASE WHEN o.id >= (",
            $first,
            ") THEN ",
            highest_id!(),
            " + row_number() OVER (ORDER BY id) ELSE o.id END"
        )
    };
}

/// Dead letters go back behind the gate of their lane. One that waits for others, too, stays closed until those are gone.
pub(super) const REPLAY: &str = concat!(
    "\
    WITH back AS (DELETE FROM cqrs_outbox_dead WHERE id = ANY($1) RETURNING *), \
    gated AS ( \
        INSERT INTO cqrs_outbox_gate (lane, slot, until, error) \
        SELECT DISTINCT ON (lane) lane, slot, clock_timestamp(), 'replay' FROM back \
        ON CONFLICT (lane) DO UPDATE SET until = clock_timestamp(), error = 'replay' \
            WHERE cqrs_outbox_gate.until IS NOT NULL OR NOT EXISTS (SELECT 1 FROM cqrs_outbox_dead d \
                WHERE d.lane = cqrs_outbox_gate.lane AND d.id NOT IN (SELECT id FROM back))) \
    INSERT INTO cqrs_outbox_parked (id, ",
    carried!(),
    ", attempts, lane, error, errors) SELECT ",
    free_ids!("SELECT min(id) FROM back b WHERE (SELECT true FROM cqrs_outbox_parked t WHERE t.id = b.id)"),
    ", ",
    carried!("clock_timestamp()"),
    ", 0, lane, error, errors FROM back o"
);

/// What was sent is moved with its receipt: `$1` the ids, `$2` the partitions, `$3` the offsets, `$4` the events' ids.
macro_rules! keep {
    ($table:literal, $which:literal, $lane:expr, $errors:literal) => {
        concat!(
            "WITH moved AS (DELETE FROM ",
            $table,
            " o \
                USING unnest($1::bigint[], $2::int[], $3::bigint[], $4::uuid[]) WITH ORDINALITY \
                    AS k(id, partition, \"offset\", event_id, nth) \
                WHERE ",
            $which,
            " RETURNING o.*, k.partition, k.\"offset\", k.nth) \
             INSERT INTO cqrs_outbox_sent (id, ",
            carried!(),
            ", attempts, lane, error, errors, partition, \"offset\") SELECT ",
            free_id!("nth", "cqrs_outbox_sent"),
            ", ",
            carried!(),
            ", attempts, ",
            $lane,
            ", ",
            $errors,
            ", partition, \"offset\" FROM moved o"
        )
    };
}

pub(super) const KEEP_HOT: &str = keep!("cqrs_outbox", "o.id = k.id", lane!("o"), "NULL, '[]'");

pub(super) const KEEP_PARKED: &str =
    keep!("cqrs_outbox_parked", "o.id = k.id AND o.event_id = k.event_id", "lane", "error, errors");

/// A row of the hot table with the id of one that stands aside is another one, unless it is of the same lane.
pub(super) const PARK_HOT: &str = concat!(
    "WITH moved AS (DELETE FROM cqrs_outbox o WHERE id = $1 AND ",
    is_of_lane!("$2"),
    " RETURNING *) \
     INSERT INTO cqrs_outbox_parked (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_parked", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", $4, $2, $3, \
        jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'error', $3::text))::text FROM moved o"
);

/// Written twice after an answer that was lost, it counts and tells the refusal once.
pub(super) const PARK_AGAIN: &str = "\
    UPDATE cqrs_outbox_parked SET attempts = $4, error = $3, parked_at = clock_timestamp(), \
        errors = CASE WHEN attempts < $4 \
            THEN (errors::jsonb || jsonb_build_object('at', clock_timestamp(), 'error', $3::text))::text \
            ELSE errors END \
    WHERE id = $1 AND lane = $2";

pub(super) const BURY_HOT: &str = concat!(
    "WITH moved AS (DELETE FROM cqrs_outbox o WHERE id = $1 AND ",
    is_of_lane!("$2"),
    " RETURNING *) \
     INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_parked", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", $4, $2, $3, \
        jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'error', $3::text))::text FROM moved o"
);

pub(super) const BURY_PARKED: &str = concat!(
    "WITH moved AS (DELETE FROM cqrs_outbox_parked WHERE id = $1 AND lane = $2 RETURNING *) \
     INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_id!("1", "cqrs_outbox_dead"),
    ", ",
    carried!(),
    ", $4, lane, $3, \
        (errors::jsonb || jsonb_build_object('at', clock_timestamp(), 'error', $3::text))::text FROM moved o"
);

/// `$2` seconds from now; NULL: until someone acts. A lane is of one slot.
pub(super) const CLOSE_GATE: &str = "\
    INSERT INTO cqrs_outbox_gate (lane, slot, until, error) \
    SELECT $1, slot, clock_timestamp() + make_interval(secs => $2), $3 \
    FROM (SELECT slot FROM cqrs_outbox_parked WHERE lane = $1 \
        UNION ALL SELECT slot FROM cqrs_outbox_dead WHERE lane = $1 LIMIT 1) moved \
    ON CONFLICT (lane) DO UPDATE SET until = EXCLUDED.until, error = EXCLUDED.error";

pub(super) const GATE: &str = "SELECT until IS NULL AS waits_for_dead FROM cqrs_outbox_gate WHERE lane = $1";

/// `$2` is the error, `$3` how many at most, `$4` whether those go, too, that were refused or replayed.
pub(super) const FOLLOW: &str = concat!(
    "WITH moved AS (DELETE FROM cqrs_outbox_parked WHERE id IN ( \
        SELECT id FROM cqrs_outbox_parked WHERE lane = $1 \
            AND id > (SELECT min(id) FROM cqrs_outbox_dead WHERE lane = $1) AND ($4 OR error IS NULL) \
        ORDER BY id LIMIT $3) RETURNING *) \
     INSERT INTO cqrs_outbox_dead (id, ",
    carried!(),
    ", attempts, lane, error, errors) \
     SELECT ",
    free_ids!("SELECT min(id) FROM moved m WHERE (SELECT true FROM cqrs_outbox_dead t WHERE t.id = m.id)"),
    ", ",
    carried!(),
    ", attempts, lane, $2, \
        (errors::jsonb || jsonb_build_object('at', clock_timestamp(), 'error', $2::text))::text FROM moved o"
);

/// They come behind what stands aside of their lane.
pub(super) const SET_ASIDE: &str = concat!(
    "WITH moved AS (DELETE FROM cqrs_outbox o WHERE id = ANY($1) AND ",
    lane!("o"),
    " = $2 RETURNING *) \
     INSERT INTO cqrs_outbox_parked (id, ",
    carried!(),
    ", attempts, lane) \
     SELECT ",
    free_ids!(
        "SELECT min(id) FROM moved m WHERE (SELECT true FROM cqrs_outbox_parked t WHERE t.id = m.id) \
            OR (SELECT true FROM cqrs_outbox_dead t WHERE t.id = m.id) \
            OR id < (SELECT max(id) FROM cqrs_outbox_parked WHERE lane = $2)"
    ),
    ", ",
    carried!(),
    ", attempts, $2 FROM moved o"
);

pub(super) const GATE_IS_NEEDED: &str = "\
    SELECT EXISTS (SELECT 1 FROM cqrs_outbox_parked WHERE lane = $1) \
        OR EXISTS (SELECT 1 FROM cqrs_outbox_gate WHERE lane = $1 AND until IS NULL) AS found";

pub(super) const OPEN_GATE: &str = "DELETE FROM cqrs_outbox_gate WHERE lane = $1";

/// `statement_timestamp()` where an index is looked through up to now: `clock_timestamp()` could be another one for each row.
pub(super) const NEXT_DUE: &str = "\
    SELECT extract(epoch FROM min(s.deliver_at) - statement_timestamp())::double precision AS seconds \
    FROM unnest($1::int[]) AS grp(no) CROSS JOIN LATERAL ( \
        SELECT deliver_at FROM cqrs_outbox_scheduled WHERE (slot / 64) = grp.no ORDER BY deliver_at LIMIT 1) s";

pub(super) const LOCK_LEASES: &str = "\
    SELECT group_no FROM cqrs_outbox_group \
    WHERE (group_no, epoch) IN (SELECT * FROM unnest($1::int[], $2::bigint[])) \
    ORDER BY group_no FOR SHARE SKIP LOCKED";

pub(super) const DUE: &str = "\
    SELECT s.id, s.slot::int AS slot FROM unnest($1::int[]) AS grp(no) CROSS JOIN LATERAL ( \
        SELECT id, slot, deliver_at FROM cqrs_outbox_scheduled \
        WHERE (slot / 64) = grp.no AND deliver_at <= statement_timestamp() AND slot <> ALL($2) \
        ORDER BY deliver_at, id LIMIT $3) s \
    ORDER BY s.deliver_at, s.id LIMIT $3";

pub(super) const LOCK_DUE: &str = "\
    SELECT id FROM cqrs_outbox_scheduled WHERE id = ANY($1) AND deliver_at <= statement_timestamp() \
    FOR UPDATE SKIP LOCKED";

pub(super) const MOVE_DUE: &str = "\
    WITH moved AS (DELETE FROM cqrs_outbox_scheduled WHERE id = ANY($1) RETURNING *) \
    INSERT INTO cqrs_outbox (event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, waiting_since) \
    SELECT event_id, event_name, event_kind, event_version, topic, message_key, headers, content_type, \
        payload, payload_text, tombstone, occurred_at, attempts, deliver_at \
    FROM moved ORDER BY deliver_at, id";

pub(super) const LEAVE_GROUPS: &str = "\
    UPDATE cqrs_outbox_group SET owner = NULL, incarnation = NULL, expires_at = NULL, dirty = false \
    WHERE incarnation = $1";

pub(super) const SIGN_OFF: &str = "DELETE FROM cqrs_outbox_relay WHERE incarnation = $1";

/// One statement: one snapshot. Ids rise with time, or nearly so: the oldest is looked for among the first in line, and not by a scan
/// of all.
pub(super) const STATUS: &str = "\
    SELECT schema_version, min_reader_version, installation_id::text AS installation_id, order_unit, hold, \
        (SELECT count(*) FROM cqrs_outbox) AS hot, \
        extract(epoch FROM clock_timestamp() - least( \
            (SELECT min(waiting_since) FROM (SELECT waiting_since FROM cqrs_outbox ORDER BY id LIMIT 1000) first), \
            (SELECT min(waiting_since) FROM (SELECT waiting_since FROM cqrs_outbox_parked ORDER BY id LIMIT 1000) first)))::double precision AS oldest_waiting, \
        (SELECT count(*) FROM cqrs_outbox_parked) AS parked, \
        (SELECT count(*) FROM cqrs_outbox_gate) AS closed_gates, \
        all_scheduled, due, oldest_due, \
        (SELECT count(*) FROM cqrs_outbox_dead) AS dead_letters, \
        (SELECT count(*) FROM cqrs_outbox_group) AS all_groups, \
        (SELECT count(*) FROM cqrs_outbox_group \
            WHERE incarnation IS NULL OR expires_at <= clock_timestamp()) AS unowned_groups, \
        (SELECT coalesce(json_agg(json_build_array(name, incarnation, version, \
            (SELECT count(*) FROM cqrs_outbox_group g \
                WHERE g.incarnation = r.incarnation AND g.expires_at > clock_timestamp()), \
            extract(epoch FROM clock_timestamp() - seen_at), suspended))::text, '[]') FROM cqrs_outbox_relay r) AS relays, \
        (SELECT coalesce(json_agg(json_build_array(encode(lane, 'hex'), \
            extract(epoch FROM until - clock_timestamp()), left(error, 500), \
            extract(epoch FROM clock_timestamp() - closed_at)))::text, '[]') \
            FROM (SELECT * FROM cqrs_outbox_gate ORDER BY closed_at, lane LIMIT 5) g) AS gates, \
        (SELECT json_build_array(extract(epoch FROM clock_timestamp() - coalesce(xact_start, backend_start)), \
            concat_ws(', ', 'process ' || pid, 'user ' || usename, nullif(application_name, ''), state))::text \
            FROM pg_stat_activity \
            WHERE backend_xmin IS NOT NULL AND backend_start IS NOT NULL AND pid <> pg_backend_pid() \
                AND (datname = current_database() OR datname IS NULL) \
            ORDER BY age(backend_xmin) DESC, xact_start LIMIT 1) AS oldest_snapshot \
    FROM cqrs_outbox_meta CROSS JOIN ( \
        SELECT count(*) AS all_scheduled, count(CASE WHEN deliver_at <= statement_timestamp() THEN 1 END) AS due, \
            extract(epoch FROM statement_timestamp() - min(deliver_at))::double precision AS oldest_due \
        FROM cqrs_outbox_scheduled) s";

/// The columns of a `ListedRow`, with this one as its time, and with more.
macro_rules! listed {
    ($at:literal, $more:literal, $table:literal) => {
        concat!(
            "SELECT id, uuid_send(event_id) AS event_id, event_name, topic, message_key, lane, attempts, size, error, \
                to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS occurred_at, \
                to_char(",
            $at,
            " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS at",
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
        SELECT id, uuid_send(event_id) AS event_id, event_name, event_kind, event_version, topic, message_key, headers, \
            content_type, payload, payload_text, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS occurred_at, \
            attempts, size, 0 AS group_no, false AS gated, lane, error, errors, to_char(dead_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS dead_at \
        FROM cqrs_outbox_dead",
    is_lane_of_topic: "lane >= 't'::bytea AND lane < 'u'::bytea",
    is_lane_of_key: "lane >= '\\x6b'::bytea AND lane < '\\x6c'::bytea",
    searches_or: true,
    parked_event_id_is: "event_id = encode(?, 'hex')::uuid",
    event_id_is: "event_id = encode(?, 'hex')::uuid",
    parked: listed!(
        "parked_at",
        ", (SELECT (extract(epoch FROM until) * 1000000)::bigint FROM cqrs_outbox_gate g WHERE g.lane = p.lane) AS until_micros",
        "cqrs_outbox_parked p"
    ),
    scheduled: "\
        SELECT id, uuid_send(event_id) AS event_id, event_name, event_kind, event_version, topic, message_key, headers, \
            content_type, payload, payload_text, \
            to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS occurred_at, attempts, size, \
            slot / 64 AS group_no, false AS gated, NULL::bytea AS lane, (extract(epoch FROM deliver_at) * 1000000)::bigint AS deliver_micros \
        FROM cqrs_outbox_scheduled",
    key_is: "message_key = ?",
    requests: "\
        SELECT id, kind, uuid_send(event_id) AS event_id, to_char(not_before AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS not_before, requested_by, \
            to_char(requested_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS requested_at, to_char(done_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS done_at, outcome, changes \
        FROM cqrs_outbox_request",
    event_id: "?::uuid",
    now: "clock_timestamp()",
    not_before: "clock_timestamp() + make_interval(secs => ?)",
    for_update: " FOR UPDATE",
    skip_locked: " FOR UPDATE SKIP LOCKED",
    by_primary_key: "",
    me: "current_user",
    purge_sent: "\
        DELETE FROM cqrs_outbox_sent WHERE id IN (SELECT id FROM cqrs_outbox_sent \
            WHERE sent_at < statement_timestamp() - make_interval(secs => ?) \
            ORDER BY sent_at LIMIT ? FOR UPDATE SKIP LOCKED)",
    purge_inbox: "\
        DELETE FROM cqrs_inbox WHERE (consumer, message_id) IN (SELECT consumer, message_id FROM cqrs_inbox \
            WHERE handled_at < statement_timestamp() - make_interval(secs => ?) \
            ORDER BY handled_at LIMIT ? FOR UPDATE SKIP LOCKED)",
    purge_requests: "\
        DELETE FROM cqrs_outbox_request WHERE id IN (SELECT id FROM cqrs_outbox_request \
            WHERE done_at < statement_timestamp() - make_interval(secs => ?) \
            ORDER BY done_at LIMIT ? FOR UPDATE SKIP LOCKED)",
    clock: "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    at: "timestamptz 'epoch' + ? * interval '1 microsecond'",
    same_event: "(r.event_id IS NULL OR r.event_id = d.event_id)",
    group: "d.slot / 64",
};
