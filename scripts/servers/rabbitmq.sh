# shellcheck shell=bash disable=SC2016,SC2034,SC2154 # shared with who sources this
# RabbitMQ, 3.10 or newer. Sourced by scripts/services, which says what these functions are.

rabbitmq_variable=CQRS_TEST_AMQP_URL
rabbitmq_wanted="RabbitMQ 3.10 or newer (Debian: apt-get install rabbitmq-server)"
rabbitmq_example="amqp://user:password@localhost:5672, of an administrator"

# Not the wrapper in /usr/sbin, which insists on the system's own user and folders.
rabbitmq_programs() { dirname "$(compgen -G '/usr/lib/rabbitmq/bin/rabbitmq-server' || command -v rabbitmq-server)"; }

rabbitmq_installed() { have epmd && [ -x "$(rabbitmq_programs 2>/dev/null)/rabbitmq-server" ]; }

rabbitmq_install() { apt_install rabbitmq-server; }

rabbitmq_create() {
    local home=$1
    mkdir -p "$home/data" "$home/logs"
    echo '[].' >"$home/enabled_plugins"
    random_port >"$home/epmd.port"
    random_port >"$home/dist.port"
}

rabbitmq_launch() {
    local home=$1 port=$2
    cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
default_user = cqrs
default_pass = $password
loopback_users = none
log.file.level = info
CONF
    # Erlang's nodes find each other by epmd. One of our own, or one that listens to the world would be started.
    local -x ERL_EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1
    ERL_EPMD_PORT=$(cat "$home/epmd.port")
    runs "$(pid_of rabbitmq/epmd)" "$folder" ||
        spawn rabbitmq/epmd bash -c 'exec -a "$0/epmd" epmd -address 127.0.0.1 -port "$1"' "$home" "$ERL_EPMD_PORT"
    # Whatever the user has set for a RabbitMQ of his own is not for this one.
    unset "${!RABBITMQ_@}"
    # As under systemd: in the place of the script, not below it.
    HOME=$home \
        RUNNING_UNDER_SYSTEMD=yes \
        RABBITMQ_NODENAME=cqrs@localhost \
        RABBITMQ_DIST_PORT=$(cat "$home/dist.port") \
        RABBITMQ_CONFIG_FILE=$home/rabbitmq.conf \
        RABBITMQ_CONF_ENV_FILE=$home/none \
        RABBITMQ_ENABLED_PLUGINS_FILE=$home/enabled_plugins \
        RABBITMQ_MNESIA_BASE=$home/data \
        RABBITMQ_LOG_BASE=$home/logs \
        RABBITMQ_PID_FILE=$home/rabbitmq.pid \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
        spawn rabbitmq "$(rabbitmq_programs)/rabbitmq-server" -cqrs "$home"
}

# It speaks AMQP: to the protocol's first eight bytes it answers with a method frame.
rabbitmq_answers() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$2"
        printf 'AMQP\x00\x00\x09\x01' >&3
        [ "$(timeout 2 head -c 1 <&3 | od -An -tx1 | tr -d ' ')" = 01 ]
    ) 2>/dev/null
}

rabbitmq_url() { echo "amqp://cqrs:$password@127.0.0.1:$1"; }

rabbitmq_stop_signals=(TERM)

rabbitmq_after_stop() { stop_process "$(pid_of rabbitmq/epmd)" TERM KILL; }

rabbitmq_logs() { cat "$1"/log* "$1"/logs/*.log; }

rabbitmq_version() {
    local found
    found=$(compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*' | sort -V | tail -n 1)
    echo "RabbitMQ ${found##*-}"
}
