# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# MariaDB, 10.11 or newer. Sourced by scripts/services, which says what these functions are.

mariadb_variable=CQRS_TEST_MYSQL_URL
mariadb_wanted="MariaDB 10.11 or newer (Debian: apt-get install mariadb-server), or MySQL 8.4"
mariadb_example="mysql://user:password@localhost/cqrs_test, of a user who may create databases and users"

mariadb_installed() {
    PATH="$PATH:/usr/sbin"
    have mariadbd && have mariadb-install-db && have mariadb
}

mariadb_install() { apt_install mariadb-server; }

mariadb_create() {
    local home=$1 user=()
    if [ "$(id -u)" = 0 ]; then
        user=(--user=mysql)
        chown mysql "$home"
    fi
    mariadb-install-db --no-defaults "${user[@]}" --datadir="$home/data" --auth-root-authentication-method=normal \
        --skip-test-db >"$home/log" 2>&1
    cat >"$home/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS cqrs;
CREATE USER IF NOT EXISTS cqrs IDENTIFIED BY '$password';
GRANT ALL ON *.* TO cqrs WITH GRANT OPTION;
ALTER USER root@localhost IDENTIFIED BY '$password';
SQL
    # A server that is killed loses nothing with the log flushed to the kernel (2) and not to the disk (1): no test
    # here takes the power away from the machine.
    cat >"$home/my.cnf" <<CONF
[mariadbd]
bind-address = 127.0.0.1
socket = $home/socket
pid-file = $home/mariadbd.pid
datadir = $home/data
tmpdir = $home
init-file = $home/init.sql
innodb-flush-log-at-trx-commit = 2
innodb-buffer-pool-size = 256M
max-connections = 300
skip-name-resolve
CONF
}

mariadb_launch() {
    local home=$1 port=$2 user=()
    [ "$(id -u)" != 0 ] || user=(--user=mysql)
    spawn mariadb mariadbd "--defaults-file=$home/my.cnf" "${user[@]}" --port="$port"
}

mariadb_answers() {
    # The init file has run when its user can come in.
    MYSQL_PWD=$password mariadb --no-defaults -h 127.0.0.1 -P "$2" -u cqrs --connect-timeout=2 -e 'SELECT 1' cqrs \
        >/dev/null 2>&1
}

mariadb_url() { echo "mysql://cqrs:$password@127.0.0.1:$1/cqrs"; }

mariadb_stop_signals=(TERM)

mariadb_version() { mariadbd --version | sed 's/.*Ver \([0-9.]*\).*/MariaDB \1/'; }
