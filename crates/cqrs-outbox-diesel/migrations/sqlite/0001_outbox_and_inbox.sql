-- The hot table: only what may be sent now. A documented contract: any program may
--   INSERT INTO cqrs_outbox (event_name, topic, message_key, payload_text) VALUES (..)
-- in its own transaction; everything else has a default. Exactly one of payload, payload_text and tombstone is given.
-- AUTOINCREMENT, because without it SQLite uses the newest row's id again after a delete.
CREATE TABLE cqrs_outbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id      TEXT NOT NULL DEFAULT (lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89AB', abs(random()) % 4 + 1, 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))
        CHECK (length(replace(event_id, '-', '')) = 32 AND replace(event_id, '-', '') NOT GLOB '*[^0-9A-Fa-f]*'),
    event_name    TEXT NOT NULL CHECK (typeof(event_name) = 'text' AND event_name <> ''),
    event_kind    TEXT NOT NULL DEFAULT 'notification' CHECK (event_kind IN ('notification', 'ecst')),
    event_version INTEGER NOT NULL DEFAULT 1
        CHECK (typeof(event_version) = 'integer' AND event_version BETWEEN 0 AND 2147483647),
    topic         TEXT NOT NULL CHECK (typeof(topic) = 'text' AND topic <> '' AND length(CAST(topic AS BLOB)) <= 500),
    -- Orders the events that share it; NULL means no order, and an empty key is a key.
    message_key   BLOB CHECK (length(CAST(message_key AS BLOB)) <= 2000),
    -- JSON: {"name": "value"}, or [["name", "value"], ["name", {"hex": "00ff"}]]. NULL: made from the columns.
    headers       TEXT CHECK (headers IS NULL OR json_valid(headers) AND json_type(headers) IN ('object', 'array')),
    content_type  TEXT NOT NULL DEFAULT 'application/json' CHECK (typeof(content_type) = 'text'),
    payload       BLOB,
    payload_text  TEXT,
    tombstone     INTEGER NOT NULL DEFAULT 0 CHECK (tombstone IN (0, 1)),
    -- RFC 3339, UTC.
    occurred_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- When it was written or, if it was scheduled, due, by the clock of the database. Seconds since 1970.
    waiting_since REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
        CHECK (typeof(waiting_since) = 'real'),
    -- Refusals so far, for a reason of the event's own.
    attempts      INTEGER NOT NULL DEFAULT 0,
    size          INTEGER NOT NULL GENERATED ALWAYS AS (
        coalesce(length(payload), length(CAST(payload_text AS BLOB)), 0)
        + coalesce(length(CAST(message_key AS BLOB)), 0) + coalesce(length(CAST(headers AS BLOB)), 0)) VIRTUAL,
    -- One host, one group: there is nothing to spread.
    slot          INTEGER NOT NULL GENERATED ALWAYS AS (0) VIRTUAL,
    CONSTRAINT cqrs_outbox_one_payload
        CHECK ((payload IS NOT NULL) + (payload_text IS NOT NULL) + tombstone = 1)
);

-- Rows that wait behind the closed gate of their lane.
CREATE TABLE cqrs_outbox_parked (
    id            INTEGER PRIMARY KEY,
    event_id      TEXT NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    TEXT NOT NULL,
    event_version INTEGER NOT NULL,
    topic         TEXT NOT NULL,
    message_key   BLOB,
    headers       TEXT,
    content_type  TEXT NOT NULL,
    payload       BLOB,
    payload_text  TEXT,
    tombstone     INTEGER NOT NULL,
    occurred_at   TEXT NOT NULL,
    waiting_since REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    attempts      INTEGER NOT NULL,
    size          INTEGER NOT NULL,
    slot          INTEGER NOT NULL,
    lane          BLOB NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         TEXT,
    errors        TEXT NOT NULL DEFAULT '[]',
    parked_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX cqrs_outbox_parked_lane ON cqrs_outbox_parked (lane, id);

-- Rows that wait for their time: as those of the hot table, with one column more. Any program may
--   INSERT INTO cqrs_outbox_scheduled (event_name, topic, message_key, payload_text, deliver_at) VALUES (..)
-- When a row is due it goes to the hot table under a new id: its place in the order of its key is that moment. Those of a
-- key that are due together go in the order of (deliver_at, id).
CREATE TABLE cqrs_outbox_scheduled (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    -- In lower case and with hyphens, so that it is found by the index.
    event_id      TEXT NOT NULL DEFAULT (lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89AB', abs(random()) % 4 + 1, 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))
        CHECK (length(event_id) = 36 AND length(replace(event_id, '-', '')) = 32
            AND replace(event_id, '-', '') NOT GLOB '*[^0-9a-f]*'),
    event_name    TEXT NOT NULL CHECK (typeof(event_name) = 'text' AND event_name <> ''),
    event_kind    TEXT NOT NULL DEFAULT 'notification' CHECK (event_kind IN ('notification', 'ecst')),
    event_version INTEGER NOT NULL DEFAULT 1
        CHECK (typeof(event_version) = 'integer' AND event_version BETWEEN 0 AND 2147483647),
    topic         TEXT NOT NULL CHECK (typeof(topic) = 'text' AND topic <> '' AND length(CAST(topic AS BLOB)) <= 500),
    message_key   BLOB CHECK (length(CAST(message_key AS BLOB)) <= 2000),
    headers       TEXT CHECK (headers IS NULL OR json_valid(headers) AND json_type(headers) IN ('object', 'array')),
    content_type  TEXT NOT NULL DEFAULT 'application/json' CHECK (typeof(content_type) = 'text'),
    payload       BLOB,
    payload_text  TEXT,
    tombstone     INTEGER NOT NULL DEFAULT 0 CHECK (tombstone IN (0, 1)),
    occurred_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    -- Seconds since 1970: `unixepoch('now', '+1 hour')`, say.
    deliver_at    REAL NOT NULL CHECK (typeof(deliver_at) = 'real' AND abs(deliver_at) < 1e12),
    CONSTRAINT cqrs_outbox_scheduled_one_payload
        CHECK ((payload IS NOT NULL) + (payload_text IS NOT NULL) + tombstone = 1)
);
CREATE INDEX cqrs_outbox_scheduled_due ON cqrs_outbox_scheduled (deliver_at, id);
CREATE INDEX cqrs_outbox_scheduled_event ON cqrs_outbox_scheduled (event_id);

-- Rows that were given up, with their last error, and a way back. A lane may wait for them: ask for one to be discarded, for a
-- DELETE leaves it waiting.
CREATE TABLE cqrs_outbox_dead (
    id            INTEGER PRIMARY KEY,
    event_id      TEXT NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    TEXT NOT NULL,
    event_version INTEGER NOT NULL,
    topic         TEXT NOT NULL,
    message_key   BLOB,
    headers       TEXT,
    content_type  TEXT NOT NULL,
    payload       BLOB,
    payload_text  TEXT,
    tombstone     INTEGER NOT NULL,
    occurred_at   TEXT NOT NULL,
    waiting_since REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    attempts      INTEGER NOT NULL,
    size          INTEGER NOT NULL,
    slot          INTEGER NOT NULL,
    lane          BLOB NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         TEXT,
    errors        TEXT NOT NULL DEFAULT '[]',
    parked_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    dead_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX cqrs_outbox_dead_lane ON cqrs_outbox_dead (lane, id);
CREATE INDEX cqrs_outbox_dead_event ON cqrs_outbox_dead (lower(replace(event_id, '-', '')));

-- Rows that are kept after they were sent, if wanted.
CREATE TABLE cqrs_outbox_sent (
    id            INTEGER PRIMARY KEY,
    event_id      TEXT NOT NULL,
    event_name    TEXT NOT NULL,
    event_kind    TEXT NOT NULL,
    event_version INTEGER NOT NULL,
    topic         TEXT NOT NULL,
    message_key   BLOB,
    headers       TEXT,
    content_type  TEXT NOT NULL,
    payload       BLOB,
    payload_text  TEXT,
    tombstone     INTEGER NOT NULL,
    occurred_at   TEXT NOT NULL,
    waiting_since REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    attempts      INTEGER NOT NULL,
    size          INTEGER NOT NULL,
    slot          INTEGER NOT NULL,
    lane          BLOB NOT NULL,
    -- The last refusal, and all of them: [{"at": "..", "error": ".."}]
    error         TEXT,
    errors        TEXT NOT NULL DEFAULT '[]',
    parked_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    sent_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    partition     INTEGER,
    "offset"      INTEGER
);
CREATE INDEX cqrs_outbox_sent_at ON cqrs_outbox_sent (sent_at);

-- Which lanes wait, until when (seconds since 1970; NULL: until someone acts), and why.
CREATE TABLE cqrs_outbox_gate (
    lane      BLOB PRIMARY KEY,
    slot      INTEGER NOT NULL,
    until     REAL,
    error     TEXT,
    closed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID;
CREATE INDEX cqrs_outbox_gate_due ON cqrs_outbox_gate (until);

-- Who may send the events of which slots, until when. The epoch rises with each change of the owner.
CREATE TABLE cqrs_outbox_group (
    group_no    INTEGER PRIMARY KEY,
    first_slot  INTEGER NOT NULL,
    last_slot   INTEGER NOT NULL,
    owner       TEXT,
    incarnation TEXT,
    -- Seconds since 1970.
    expires_at  REAL,
    epoch       INTEGER NOT NULL DEFAULT 0,
    -- The last lease ended without a release.
    dirty       INTEGER NOT NULL DEFAULT 0,
    -- Then, what the relay that had it was sending with suspicion: ids, with commas between them.
    suspects    TEXT
);
INSERT INTO cqrs_outbox_group (group_no, first_slot, last_slot) VALUES (0, 0, 4095);

-- Relays that are alive: they share the groups.
CREATE TABLE cqrs_outbox_relay (
    incarnation TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    version     TEXT NOT NULL,
    started_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- Seconds since 1970.
    seen_at     REAL NOT NULL,
    -- What it is sending with suspicion: ids, with commas between them.
    suspects    TEXT,
    -- Topics that it cannot reach: [["topic", "error"]]
    suspended   TEXT
) WITHOUT ROWID;

-- Deduplication keys outlive their rows, which vanish when they are settled. One that has expired is free.
CREATE TABLE cqrs_outbox_dedup (
    dedup_key  BLOB PRIMARY KEY,
    event_id   TEXT NOT NULL,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX cqrs_outbox_dedup_expires ON cqrs_outbox_dedup (expires_at);
-- To free the key of one that is cancelled.
CREATE INDEX cqrs_outbox_dedup_event ON cqrs_outbox_dedup (event_id);

-- The last version of each key, for those who want compare-and-set. -1: none yet.
CREATE TABLE cqrs_outbox_version (
    message_key BLOB PRIMARY KEY,
    version     INTEGER NOT NULL,
    changed_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID;

-- What operators ask for; the owner of the group carries it out.
CREATE TABLE cqrs_outbox_request (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    -- `replay`, `discard` or, done at once, `edit`; kinds that this version does not know stay open.
    kind         TEXT NOT NULL,
    -- The dead letter that it is about, or an edited event: its event, its row, and its lane.
    event_id     TEXT,
    dead_id      INTEGER NOT NULL DEFAULT 0,
    lane         BLOB,
    -- Seconds since 1970.
    not_before   REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    requested_by TEXT NOT NULL DEFAULT '',
    requested_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- When it was done, and what became of the dead letter: `replayed`, `discarded`, or `gone` by another hand;
    -- `cancelled`: the request was taken back before; `edited`.
    done_at      TEXT,
    outcome      TEXT,
    -- What an edit has changed, as JSON: which parts, and how many bytes they have and had. Not their content.
    changes      TEXT
);
CREATE INDEX cqrs_outbox_request_open ON cqrs_outbox_request (dead_id, id) WHERE done_at IS NULL;
CREATE INDEX cqrs_outbox_request_due ON cqrs_outbox_request (not_before) WHERE done_at IS NULL;
CREATE INDEX cqrs_outbox_request_lane ON cqrs_outbox_request (lane, dead_id) WHERE done_at IS NULL;
CREATE INDEX cqrs_outbox_request_event ON cqrs_outbox_request (event_id);
CREATE INDEX cqrs_outbox_request_done ON cqrs_outbox_request (done_at) WHERE done_at IS NOT NULL;

-- Which consumer has handled which message.
CREATE TABLE cqrs_inbox (
    consumer   TEXT NOT NULL,
    message_id BLOB NOT NULL,
    handled_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (consumer, message_id)
) WITHOUT ROWID;
CREATE INDEX cqrs_inbox_handled_at ON cqrs_inbox (handled_at);
