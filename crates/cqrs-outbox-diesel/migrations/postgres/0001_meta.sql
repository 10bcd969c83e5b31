-- Which version these tables are of, which database this is, and whether relaying is on hold.
CREATE TABLE IF NOT EXISTS cqrs_outbox_meta (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version     integer NOT NULL,
    min_reader_version integer NOT NULL,
    installation_id    uuid NOT NULL DEFAULT gen_random_uuid(),
    -- What the events have in common that are sent in their order. Not to be changed by hand: others go by it.
    order_unit         text NOT NULL DEFAULT 'key' CHECK (order_unit IN ('key', 'topic_and_key')),
    hold               boolean NOT NULL DEFAULT false
);
