# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# PostgreSQL, 15 or newer. Sourced by scripts/services, which says what these functions are.

postgres_variable=CQRS_TEST_POSTGRES_URL
postgres_wanted="PostgreSQL 15 or newer (Debian: apt-get install postgresql)"
postgres_example="postgres://user:password@localhost/cqrs_test, of a user who may create schemas and databases"
postgres_packages=(postgresql)
postgres_units=()
postgres_ports=1
postgres_stop_signals=(INT QUIT)

# Prints the folder of the newest server programs.
postgres_programs() {
    if have initdb && have postgres; then
        dirname "$(command -v initdb)"
        return
    fi
    local found
    found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' || compgen -G '/usr/pgsql-*/bin/initdb') || return 1
    dirname "$(sort -V <<<"$found" | tail -n 1)"
}

postgres_installed() {
    local programs
    programs=$(postgres_programs) && have psql &&
        at_least "$("$programs/postgres" --version | sed 's/^[^0-9]*//; s/[^0-9.].*//')" 15
}

# Without this the package creates a cluster of its own, which starts with the system.
postgres_no_cluster=/etc/postgresql-common/createcluster.d/cqrs-tests.conf

postgres_before_install() {
    mkdir -p "${postgres_no_cluster%/*}"
    echo "create_main_cluster = false" >"$postgres_no_cluster"
}

postgres_after_install() { rm -f "$postgres_no_cluster"; }

# PostgreSQL refuses to run as root.
postgres_user() {
    postgres_as=()
    # What is set for the user's own databases is not for this one.
    unset "${!PG@}"
    [ "$(id -u)" = 0 ] || return 0
    local user=nobody
    ! id -u postgres >/dev/null 2>&1 || user=postgres
    postgres_as=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
}

postgres_create() {
    local home=$1
    postgres_user
    chown "$("${postgres_as[@]}" id -u)" "$home"
    "${postgres_as[@]}" test -w "$home" ||
        refuse "the user who runs PostgreSQL cannot reach $home: set TMPDIR to a folder that all may enter"
    echo "$password" >"$home/password"
    "${postgres_as[@]}" "$(postgres_programs)/initdb" -D "$home/data" -U postgres -A scram-sha-256 \
        --pwfile="$home/password" -E UTF8 --locale=C --no-sync >"$home/log" 2>&1
    # No test here takes the power away from the machine. A server that is killed loses nothing without `fsync`, for
    # what was written is with the kernel. It would without `synchronous_commit`.
    "${postgres_as[@]}" tee -a "$home/data/postgresql.conf" >/dev/null <<'CONF'
fsync = off
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
log_line_prefix = '%m [%p] %q%a '
log_lock_waits = on
CONF
}

postgres_launch() {
    local home=$1 port=$2
    postgres_user
    # It takes a process that was killed, and that nobody has waited for, for one that runs.
    alive postgres || rm -f "$home/data/postmaster.pid"
    spawn postgres "${postgres_as[@]}" "$(postgres_programs)/postgres" -D "$home/data" -p "$port"
}

postgres_answers() {
    local data
    data=$(PGCONNECT_TIMEOUT=2 psql -wXAtqc 'SHOW data_directory' "$(postgres_url "$2")" 2>/dev/null) &&
        [ "$data" -ef "$1/data" ]
}

postgres_url() { echo "postgres://postgres:$password@127.0.0.1:$1/postgres"; }

postgres_version() { PGCONNECT_TIMEOUT=5 psql -wXAtqc 'SHOW server_version' "$1" | sed 's/^/PostgreSQL /'; }
