# shellcheck shell=bash disable=SC2034,SC2154 # shared with who sources this
# MariaDB, 10.11 or newer. Sourced by scripts/services, which says what these functions are.

mariadb_variable=CQRS_TEST_MYSQL_URL
mariadb_wanted="MariaDB 10.11 or newer (Debian: apt-get install mariadb-server)"
mariadb_example="mysql://user:password@localhost/cqrs_test, of a user who may create databases and users; MySQL 8.4 will do"
mariadb_packages=(mariadb-server)
mariadb_units=(mariadb.service mariadb.socket)
mariadb_ports=1
mariadb_stop_signals=(TERM)

mariadb_installed() {
    PATH="$PATH:/usr/sbin"
    have mariadbd && have mariadb-install-db && have mariadb &&
        at_least "$(mariadbd --version 2>/dev/null | sed 's/.*Ver *//; s/[^0-9.].*//')" 10.11
}

# As root it would run as root, too, but for that it has a user.
mariadb_user() {
    mariadb_as=()
    [ "$(id -u)" != 0 ] || mariadb_as=(--user=mysql)
}

mariadb_create() {
    local home=$1
    mariadb_user
    if [ "$(id -u)" = 0 ]; then
        chown mysql "$home"
        setpriv --reuid=mysql --regid="$(id -g mysql)" --clear-groups test -w "$home" ||
            refuse "the user who runs MariaDB cannot reach $home: set TMPDIR to a folder that all may enter"
    fi
    mariadb-install-db --no-defaults "${mariadb_as[@]}" --datadir="$home/data" \
        --auth-root-authentication-method=normal --skip-test-db >"$home/log" 2>&1
    cat >"$home/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS cqrs;
CREATE USER IF NOT EXISTS cqrs IDENTIFIED BY '$password';
GRANT ALL ON *.* TO cqrs WITH GRANT OPTION;
DELETE FROM mysql.global_priv WHERE User = 'root';
FLUSH PRIVILEGES;
SQL
    # A server that is killed loses nothing with the log written to the kernel at each commit (2), and not synced to the
    # disk (1): no test here takes the power away from the machine. With 0 it would lose a second. No socket: the path
    # of one may not be long.
    cat >"$home/my.cnf" <<CONF
[mariadbd]
bind-address = 127.0.0.1
socket =
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
    local home=$1 port=$2
    mariadb_user
    spawn mariadb mariadbd "--defaults-file=$home/my.cnf" "${mariadb_as[@]}" --port="$port"
}

# The init file has run when its user can come in.
mariadb_answers() {
    local file
    file=$(MYSQL_PWD=$password mariadb --no-defaults -h 127.0.0.1 -P "$2" -u cqrs --connect-timeout=2 -BNe \
        'SELECT @@pid_file' cqrs 2>/dev/null) && [ "$file" -ef "$1/mariadbd.pid" ]
}

mariadb_url() { echo "mysql://cqrs:$password@127.0.0.1:$1/cqrs"; }

# Both MariaDB and MySQL greet with their version, before anybody logs in.
mariadb_version() {
    local greeting
    greeting=$(greeted_by "$1" 3306 '' | tail -c +6 | cut -d '' -f 1)
    # For old clients MariaDB calls itself a MySQL 5.5.5.
    greeting=${greeting#5.5.5-}
    case $greeting in
    '') return 1 ;;
    *MariaDB*) echo "MariaDB ${greeting%%-*}" ;;
    *) echo "MySQL $greeting" ;;
    esac
}
