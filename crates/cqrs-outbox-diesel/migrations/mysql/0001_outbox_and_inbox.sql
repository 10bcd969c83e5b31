-- For MariaDB 10.11 or newer and MySQL 8.4, on which it has not been tried. DDL commits by itself here, so each
-- statement may be run again: after a migration that was interrupted, run all of it once more.
-- All times are UTC, whatever the session's time zone. Keys, lanes and message ids are bytes: a collation would take
-- `a`, `A` and `a ` for the same.

-- The hot table: only what may be sent now. A documented contract: any service may
--   INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) VALUES (..)
-- in its own transaction; everything else has a default. Exactly one of payload, payload_text and tombstone is given.
CREATE TABLE IF NOT EXISTS cqrs_outbox (
    id            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_id      VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (uuid())
        CHECK (coalesce(length(unhex(replace(event_id, '-', ''))), 0) = 16),
    event_name    TEXT NOT NULL CHECK (event_name <> ''),
    event_kind    VARCHAR(20) NOT NULL DEFAULT 'notification' CHECK (event_kind IN ('notification', 'ecst')),
    event_version INT NOT NULL DEFAULT 1 CHECK (event_version >= 0),
    topic         TEXT NOT NULL CHECK (topic <> '' AND length(topic) <= 500),
    -- Orders the events that share it; NULL means no order, and an empty key is a key.
    -- As long as an index can hold it; one byte more, so that what a session that is not strict cuts off is refused too.
    message_key   VARBINARY(2001) CHECK (length(message_key) <= 2000),
    -- JSON: {"name": "value"}, or [["name", "value"], ["name", {"hex": "00ff"}]]. NULL: made from the columns.
    headers       LONGTEXT CHECK (headers IS NULL OR json_valid(headers) AND json_type(headers) IN ('OBJECT', 'ARRAY')),
    content_type  TEXT NOT NULL DEFAULT ('application/json'),
    payload       LONGBLOB,
    payload_text  LONGTEXT,
    tombstone     BOOLEAN NOT NULL DEFAULT false CHECK (tombstone IN (0, 1)),
    occurred_at   DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)) CHECK (to_days(occurred_at) IS NOT NULL),
    -- When it was written or, if it was scheduled, due, by the clock of the database.
    waiting_since DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)) CHECK (to_days(waiting_since) IS NOT NULL),
    -- Refusals so far, for a reason of the event's own.
    attempts      INT NOT NULL DEFAULT 0,
    size          INT GENERATED ALWAYS AS (
        coalesce(length(payload), length(payload_text), 0)
        + coalesce(length(message_key), 0) + coalesce(length(headers), 0)) STORED,
    -- 0 to 4095, fixed for ever, and computed here so that rows of any origin agree on it.
    slot          SMALLINT GENERATED ALWAYS AS (
        if(message_key IS NULL, crc32(event_id), crc32(message_key)) % 4096) STORED,
    -- A group is 64 consecutive slots, here and in the relay's statements. A column, for MariaDB has no indexes on
    -- expressions.
    group_no      SMALLINT GENERATED ALWAYS AS (slot DIV 64) STORED,
    CONSTRAINT cqrs_outbox_one_payload
        CHECK ((payload IS NOT NULL) + (payload_text IS NOT NULL) + tombstone = 1),
    -- The relay reads by group, in order of id, and up to so many bytes: all of it stands in the index.
    INDEX cqrs_outbox_read (group_no, id, size)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows that wait behind the closed gate of their lane.
CREATE TABLE IF NOT EXISTS cqrs_outbox_parked (
    id            BIGINT NOT NULL PRIMARY KEY,
    event_id      VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    VARCHAR(20) NOT NULL,
    event_version INT NOT NULL,
    topic         TEXT NOT NULL,
    message_key   VARBINARY(2001),
    headers       LONGTEXT,
    content_type  TEXT NOT NULL,
    payload       LONGBLOB,
    payload_text  LONGTEXT,
    tombstone     BOOLEAN NOT NULL,
    occurred_at   DATETIME(6) NOT NULL,
    waiting_since DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    attempts      INT NOT NULL,
    size          INT NOT NULL,
    slot          SMALLINT NOT NULL,
    lane          VARBINARY(2502) NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         LONGTEXT,
    errors        LONGTEXT NOT NULL DEFAULT ('[]'),
    parked_at     DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    INDEX cqrs_outbox_parked_lane (lane, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows that wait for their time: as those of the hot table, with one column more. Any service may
--   INSERT INTO cqrs_outbox_scheduled (event_name, topic, message_key, payload_text, deliver_at) VALUES (..)
-- When a row is due it goes to the hot table under a new id: its place in the order of its key is that moment. Those of a
-- key that are due together go in the order of (deliver_at, id).
CREATE TABLE IF NOT EXISTS cqrs_outbox_scheduled (
    id            BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    -- As `uuid()` writes it, so that it is found by the index.
    event_id      VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (uuid())
        CHECK (coalesce(length(unhex(replace(event_id, '-', ''))), 0) = 16
            AND length(event_id) = 36 AND event_id = lower(event_id)),
    event_name    TEXT NOT NULL CHECK (event_name <> ''),
    event_kind    VARCHAR(20) NOT NULL DEFAULT 'notification' CHECK (event_kind IN ('notification', 'ecst')),
    event_version INT NOT NULL DEFAULT 1 CHECK (event_version >= 0),
    topic         TEXT NOT NULL CHECK (topic <> '' AND length(topic) <= 500),
    message_key   VARBINARY(2001) CHECK (length(message_key) <= 2000),
    headers       LONGTEXT CHECK (headers IS NULL OR json_valid(headers) AND json_type(headers) IN ('OBJECT', 'ARRAY')),
    content_type  TEXT NOT NULL DEFAULT ('application/json'),
    payload       LONGBLOB,
    payload_text  LONGTEXT,
    tombstone     BOOLEAN NOT NULL DEFAULT false CHECK (tombstone IN (0, 1)),
    occurred_at   DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)) CHECK (to_days(occurred_at) IS NOT NULL),
    attempts      INT NOT NULL DEFAULT 0,
    slot          SMALLINT GENERATED ALWAYS AS (
        if(message_key IS NULL, crc32(event_id), crc32(message_key)) % 4096) STORED,
    group_no      SMALLINT GENERATED ALWAYS AS (slot DIV 64) STORED,
    deliver_at    DATETIME(6) NOT NULL CHECK (to_days(deliver_at) IS NOT NULL),
    CONSTRAINT cqrs_outbox_scheduled_one_payload
        CHECK ((payload IS NOT NULL) + (payload_text IS NOT NULL) + tombstone = 1),
    INDEX cqrs_outbox_scheduled_due (group_no, deliver_at, id, slot),
    INDEX cqrs_outbox_scheduled_event (event_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows that were given up, with their last error, and a way back. A lane may wait for them: ask for one to be discarded, for a
-- DELETE leaves it waiting.
CREATE TABLE IF NOT EXISTS cqrs_outbox_dead (
    id            BIGINT NOT NULL PRIMARY KEY,
    event_id      VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    VARCHAR(20) NOT NULL,
    event_version INT NOT NULL,
    topic         TEXT NOT NULL,
    message_key   VARBINARY(2001),
    headers       LONGTEXT,
    content_type  TEXT NOT NULL,
    payload       LONGBLOB,
    payload_text  LONGTEXT,
    tombstone     BOOLEAN NOT NULL,
    occurred_at   DATETIME(6) NOT NULL,
    waiting_since DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    attempts      INT NOT NULL,
    size          INT NOT NULL,
    slot          SMALLINT NOT NULL,
    lane          VARBINARY(2502) NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         LONGTEXT,
    errors        LONGTEXT NOT NULL DEFAULT ('[]'),
    parked_at     DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    dead_at       DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    -- However its letters and dashes are written.
    event_key     BINARY(16) GENERATED ALWAYS AS (unhex(replace(event_id, '-', ''))) STORED,
    INDEX cqrs_outbox_dead_lane (lane, id),
    INDEX cqrs_outbox_dead_event (event_key)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Rows that are kept after they were sent, if wanted.
CREATE TABLE IF NOT EXISTS cqrs_outbox_sent (
    id            BIGINT NOT NULL PRIMARY KEY,
    event_id      VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    VARCHAR(20) NOT NULL,
    event_version INT NOT NULL,
    topic         TEXT NOT NULL,
    message_key   VARBINARY(2001),
    headers       LONGTEXT,
    content_type  TEXT NOT NULL,
    payload       LONGBLOB,
    payload_text  LONGTEXT,
    tombstone     BOOLEAN NOT NULL,
    occurred_at   DATETIME(6) NOT NULL,
    waiting_since DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    attempts      INT NOT NULL,
    size          INT NOT NULL,
    slot          SMALLINT NOT NULL,
    lane          VARBINARY(2502) NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         LONGTEXT,
    errors        LONGTEXT NOT NULL DEFAULT ('[]'),
    parked_at     DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    sent_at       DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    `partition`   INT,
    `offset`      BIGINT,
    INDEX cqrs_outbox_sent_at (sent_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which lanes wait, until when (NULL: until someone acts), and why.
CREATE TABLE IF NOT EXISTS cqrs_outbox_gate (
    lane      VARBINARY(2502) NOT NULL PRIMARY KEY,
    slot      SMALLINT NOT NULL,
    until     DATETIME(6),
    error     LONGTEXT,
    closed_at DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    INDEX cqrs_outbox_gate_due (until)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Who may send the events of which slots, until when. The epoch rises with each change of the owner.
CREATE TABLE IF NOT EXISTS cqrs_outbox_group (
    group_no    INT NOT NULL PRIMARY KEY,
    first_slot  SMALLINT NOT NULL,
    last_slot   SMALLINT NOT NULL,
    owner       TEXT,
    incarnation VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
    expires_at  DATETIME(6),
    epoch       BIGINT NOT NULL DEFAULT 0,
    -- The last lease ended without a release.
    dirty       BOOLEAN NOT NULL DEFAULT false,
    -- Then, what the relay that had it was sending with suspicion: ids, with commas between them.
    suspects    TEXT CHARACTER SET ascii COLLATE ascii_bin
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO cqrs_outbox_group (group_no, first_slot, last_slot)
    WITH RECURSIVE numbers (no) AS (SELECT 0 UNION ALL SELECT no + 1 FROM numbers WHERE no < 63)
    SELECT no, no * 64, no * 64 + 63 FROM numbers;

-- Relays that are alive: they share the groups.
CREATE TABLE IF NOT EXISTS cqrs_outbox_relay (
    incarnation VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL,
    version     TEXT NOT NULL,
    started_at  DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    seen_at     DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    -- What it is sending with suspicion: ids, with commas between them.
    suspects    TEXT CHARACTER SET ascii COLLATE ascii_bin,
    -- Topics that it cannot reach: [["topic", "error"]]
    suspended   LONGTEXT
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Deduplication keys outlive their rows, which vanish when they are settled. One that has expired is free.
CREATE TABLE IF NOT EXISTS cqrs_outbox_dedup (
    dedup_key  VARBINARY(2001) NOT NULL PRIMARY KEY CHECK (length(dedup_key) <= 2000),
    event_id   VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Who wrote it last: a new one for each statement, by which that finds out what it has written.
    claimed_by VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (uuid()),
    expires_at DATETIME(6) NOT NULL,
    INDEX cqrs_outbox_dedup_expires (expires_at),
    -- To free the key of one that is cancelled.
    INDEX cqrs_outbox_dedup_event (event_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The last version of each key, for those who want compare-and-set. -1: none yet; the row is a lock of its key.
CREATE TABLE IF NOT EXISTS cqrs_outbox_version (
    message_key VARBINARY(2001) NOT NULL PRIMARY KEY CHECK (length(message_key) <= 2000),
    version     BIGINT NOT NULL,
    changed_at  DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What operators ask for; the owner of the group carries it out.
CREATE TABLE IF NOT EXISTS cqrs_outbox_request (
    id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    -- `replay`, `discard` or, done at once, `edit`; kinds that this version does not know stay open.
    kind         VARCHAR(100) NOT NULL,
    -- The dead letter that it is about, or an edited event: its event, its row, and its lane.
    event_id     VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin,
    dead_id      BIGINT NOT NULL DEFAULT 0,
    lane         VARBINARY(2502),
    not_before   DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    requested_by TEXT NOT NULL DEFAULT (''),
    requested_at DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    -- When it was done, and what became of the dead letter: `replayed`, `discarded`, or `gone` by another hand;
    -- `cancelled`: the request was taken back before; `edited`.
    done_at      DATETIME(6),
    outcome      TEXT,
    -- What an edit has changed, as JSON: which parts, and how many bytes they have and had. Not their content.
    changes      MEDIUMTEXT,
    INDEX cqrs_outbox_request_open (done_at, dead_id, id),
    INDEX cqrs_outbox_request_due (done_at, not_before),
    INDEX cqrs_outbox_request_lane (lane, done_at, dead_id),
    INDEX cqrs_outbox_request_event (event_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which consumer has handled which message.
CREATE TABLE IF NOT EXISTS cqrs_inbox (
    consumer   VARBINARY(1001) NOT NULL CHECK (length(consumer) <= 1000),
    message_id VARBINARY(2001) NOT NULL CHECK (length(message_id) <= 2000),
    handled_at DATETIME(6) NOT NULL DEFAULT (utc_timestamp(6)),
    PRIMARY KEY (consumer, message_id),
    INDEX cqrs_inbox_handled_at (handled_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
