-- Which version these tables are of, which database this is, and whether relaying is on hold.
CREATE TABLE IF NOT EXISTS cqrs_outbox_meta (
    only_row           INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    schema_version     INTEGER NOT NULL,
    min_reader_version INTEGER NOT NULL,
    installation_id    TEXT NOT NULL DEFAULT (lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89AB', abs(random()) % 4 + 1, 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    -- What the events have in common that are sent in their order. Not to be changed by hand: others go by it.
    order_unit         TEXT NOT NULL DEFAULT 'key' CHECK (order_unit IN ('key', 'topic_and_key')),
    hold               INTEGER NOT NULL DEFAULT 0 CHECK (hold IN (0, 1))
);
