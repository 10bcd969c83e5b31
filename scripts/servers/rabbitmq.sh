# shellcheck shell=bash disable=SC2016,SC2034,SC2154 # shared with who sources this
# RabbitMQ, 3.10 or newer. Sourced by scripts/services, which says what these functions are.

rabbitmq_variable=CQRS_TEST_AMQP_URL
rabbitmq_wanted="RabbitMQ 3.10 or newer (Debian: apt-get install rabbitmq-server)"
rabbitmq_example="amqp://user:password@localhost:5672, of an administrator"
rabbitmq_packages=(rabbitmq-server)
rabbitmq_units=(rabbitmq-server.service epmd.service epmd.socket)
rabbitmq_ports=3
rabbitmq_stop_signals=(TERM)

# Not the wrapper in /usr/sbin, which insists on the system's own user and folders.
rabbitmq_programs() { dirname "$(compgen -G '/usr/lib/rabbitmq/bin/rabbitmq-server' || command -v rabbitmq-server)"; }

rabbitmq_installed() {
    local program
    program=$(rabbitmq_programs 2>/dev/null)/rabbitmq-server
    have epmd && [ -x "$program" ] || return 1
    # Its folder's name has it. Starting Erlang to ask would take seconds.
    [[ ! $(readlink -f "$program") =~ rabbitmq_server-([0-9.]+) ]] || at_least "${BASH_REMATCH[1]}" 3.10
}

rabbitmq_create() { mkdir "$1/data" "$1/epmd" && echo '[].' >"$1/enabled_plugins"; }

rabbitmq_launch() {
    local home=$1 port=$2 distribution=$3 names=$4
    cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
default_user = cqrs
default_pass = $password
loopback_users = none
log.console.level = info
CONF
    # Whatever the user has set for a RabbitMQ of his own is not for this one.
    unset "${!RABBITMQ_@}" "${!ERL_@}"
    # Erlang's nodes find each other by epmd. One of our own, which has to be there first: where there is none, one that
    # listens to the world is started, and stays.
    local -x ERL_EPMD_PORT=$names ERL_EPMD_ADDRESS=127.0.0.1
    if ! runs "$(pid_of rabbitmq/epmd)" "$folder"; then
        spawn rabbitmq/epmd bash -c 'exec -a "$0/epmd" epmd -address 127.0.0.1 -port "$1"' "$home" "$names"
        until listens rabbitmq/epmd "$names"; do
            runs "$(pid_of rabbitmq/epmd)" "$folder" || {
                echo "epmd has ended: its port $names is in use" >>"$home/log"
                return
            }
            sleep 0.05
        done
    fi
    # As under systemd: in the place of the script, not below it.
    HOME=$home \
        RUNNING_UNDER_SYSTEMD=yes \
        RABBITMQ_NODENAME=cqrs@localhost \
        RABBITMQ_DIST_PORT=$distribution \
        RABBITMQ_CONFIG_FILE=$home/rabbitmq.conf \
        RABBITMQ_CONF_ENV_FILE=$home/none \
        RABBITMQ_ENABLED_PLUGINS_FILE=$home/enabled_plugins \
        RABBITMQ_MNESIA_BASE=$home/data \
        RABBITMQ_LOG_BASE=$home \
        RABBITMQ_LOGS=- \
        RABBITMQ_PID_FILE=$home/rabbitmq.pid \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
        spawn rabbitmq "$(rabbitmq_programs)/rabbitmq-server" -cqrs "$home"
}

# What comes after the protocol's first eight bytes is a method frame (1), if it is understood.
rabbitmq_answers() {
    listens rabbitmq "$2" && [ "$(rabbitmq_greeting "$(rabbitmq_url "$2")" | head -c 1 | od -An -tx1)" = " 01" ]
}

rabbitmq_greeting() { greeted_by "$1" 5672 'AMQP\x00\x00\x09\x01'; }

rabbitmq_url() { echo "amqp://cqrs:$password@127.0.0.1:$1"; }

rabbitmq_after_stop() { stop_process "$(pid_of rabbitmq/epmd)" TERM KILL; }

# It says so in its greeting: the word `version`, S for a string, four bytes of length, the string.
rabbitmq_version() {
    rabbitmq_greeting "$1" | tr -c '[:print:]' '\n' | sed -n '/versionS$/,$ { /^[0-9]/ { s/^/RabbitMQ /p; q } }' | grep .
}
