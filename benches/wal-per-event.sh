#!/usr/bin/env bash
# Measures the WAL that PostgreSQL writes for each event: written, settled, vacuumed.
#
#   benches/wal-per-event.sh postgres://user:password@host:port/database
#
# Makes a database of its own there, and drops it. The server should be quiet: what others write counts, too; the lowest of five
# runs is what is printed.
set -euo pipefail
url=${1:?the URL of a PostgreSQL server}
events=${EVENTS:-10000}
tables=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/crates/cqrs-outbox-diesel/migrations/postgres/0001_outbox_and_inbox.sql
name=cqrs_wal_$$
psql -qX "$url" -c "CREATE DATABASE $name"
trap 'psql -qX "$url" -c "DROP DATABASE $name"' EXIT
own="${url%/*}/$name"
psql -qX "$own" -v ON_ERROR_STOP=1 -1 -f "$tables"

# Bytes of WAL of what is read from standard input, for each event.
wal() {
    local before after
    before=$(psql -qXAt "$own" -c 'SELECT pg_current_wal_insert_lsn()')
    psql -qXAt "$own" -v ON_ERROR_STOP=1 >/dev/null
    after=$(psql -qXAt "$own" -c 'SELECT pg_current_wal_insert_lsn()')
    psql -qXAt "$own" -c "SELECT round(pg_wal_lsn_diff('$after', '$before') / $events)"
}

insert() { # $1: events of one statement and one transaction
    local statement="INSERT INTO cqrs_outbox (event_name, topic, message_key, headers, payload)
        SELECT 'room_closed', 'rooms', convert_to('room ' || n % 10000, 'UTF8'), '{\"content-type\": \"application/json\"}',
            convert_to(repeat('x', 300), 'UTF8') FROM generate_series(1, $1) n;"
    for ((n = 0; n < events; n += $1)); do echo "$statement"; done
}

# As a relay settles: so many receipts with a statement.
settle() {
    for ((n = 0; n < events; n += $1)); do
        echo "DELETE FROM cqrs_outbox WHERE id = ANY (ARRAY(SELECT id FROM cqrs_outbox ORDER BY id LIMIT $1));"
    done
}

for size in 1 10 100; do
    lowest=
    for _ in 1 2 3 4 5; do
        # Pages that have been used before, as in a table at work.
        psql -qX "$own" -c "INSERT INTO cqrs_outbox (event_name, topic, payload_text) SELECT 'warm', 'up', repeat('x', 300)
            FROM generate_series(1, $events)" -c 'DELETE FROM cqrs_outbox' -c 'VACUUM (TRUNCATE false) cqrs_outbox'
        written=$(insert "$size" | wal)
        settled=$(settle 500 | wal)
        vacuumed=$(echo 'VACUUM (TRUNCATE false) cqrs_outbox;' | wal)
        line="$((written + settled + vacuumed)) $written $settled $vacuumed"
        if [[ -z $lowest || ${line%% *} -lt ${lowest%% *} ]]; then lowest=$line; fi
    done
    read -r all written settled vacuumed <<<"$lowest"
    echo "$size in a transaction: $all bytes an event: written $written, settled $settled, vacuumed $vacuumed"
done
