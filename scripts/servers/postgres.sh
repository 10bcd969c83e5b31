# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# PostgreSQL, 15 or newer. Sourced by scripts/services, which says what these functions are.

postgres_variable=CQRS_TEST_POSTGRES_URL
postgres_wanted="PostgreSQL 15 or newer (Debian: apt-get install postgresql)"
postgres_example="postgres://user:password@localhost/cqrs_test, of a user who may create schemas and databases"

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

postgres_installed() { postgres_programs >/dev/null && have psql; }

postgres_install() {
    # Without this the package creates a cluster of its own and starts it.
    local settings=/etc/postgresql-common/createcluster.d/cqrs-tests.conf code=0
    mkdir -p "${settings%/*}"
    echo "create_main_cluster = false" >"$settings"
    (apt_install postgresql) || code=$?
    rm -f "$settings"
    return $code
}

# PostgreSQL refuses to run as root.
postgres_user() {
    postgres_as=()
    [ "$(id -u)" = 0 ] || return 0
    local user=nobody
    ! id -u postgres >/dev/null 2>&1 || user=postgres
    postgres_as=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
}

postgres_create() {
    local home=$1
    # What is set for the user's own databases is not for this one.
    unset "${!PG@}"
    postgres_user
    chown "$("${postgres_as[@]}" id -u)" "$home"
    cd "$home" || return
    "${postgres_as[@]}" test -w "$home" ||
        refuse "the user who runs PostgreSQL cannot reach $home: set TMPDIR to a folder that all may enter"
    echo "$password" >"$home/password"
    "${postgres_as[@]}" "$(postgres_programs)/initdb" -D "$home/data" -U postgres -A scram-sha-256 \
        --pwfile="$home/password" -E UTF8 --locale=C --no-sync >/dev/null
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
    unset "${!PG@}"
    postgres_user
    cd "$home" || return
    # It takes a process that was killed, and that nobody has waited for, for one that runs.
    alive postgres || rm -f "$home/data/postmaster.pid"
    spawn postgres "${postgres_as[@]}" "$(postgres_programs)/postgres" -D "$home/data" -p "$port"
}

postgres_answers() {
    PGPASSWORD=$password PGCONNECT_TIMEOUT=2 psql -h 127.0.0.1 -p "$2" -U postgres -Atqc 'SELECT 1' >/dev/null 2>&1
}

postgres_url() { echo "postgres://postgres:$password@127.0.0.1:$1/postgres"; }

postgres_stop_signals=(INT QUIT)

postgres_version() { "$(postgres_programs)/postgres" --version | sed 's/.*(PostgreSQL) /PostgreSQL /'; }
