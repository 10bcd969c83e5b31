-- Which version these tables are of, which database this is, and whether relaying is on hold. Its row is written last:
-- it says that all the others are there.
CREATE TABLE IF NOT EXISTS cqrs_outbox_meta (
    only_row           TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (only_row = 1),
    schema_version     INT NOT NULL,
    min_reader_version INT NOT NULL,
    installation_id    VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT (uuid()),
    -- What the events have in common that are sent in their order. Not to be changed by hand: others go by it.
    order_unit         VARCHAR(20) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'key'
        CHECK (order_unit IN ('key', 'topic_and_key')),
    hold               BOOLEAN NOT NULL DEFAULT false CHECK (hold IN (0, 1))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
