# shellcheck shell=bash disable=SC2154 # shared with who sources this
# The processes and ports of servers. Sourced by scripts/services, which says what `folder` is.

# Whether a process lives and has the text in its command line. One that nobody has waited for has none, and does not
# live; one where a program takes the place of another has none for a moment.
runs() {
    local pid=$1 text=$2 line
    [ -n "$pid" ] || return 1
    for _ in {1..10}; do
        line=$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) || return 1
        [ -z "$line" ] || break
        ! grep -qs '^State:.[ZX]' "/proc/$pid/status" || return 1
        sleep 0.01
    done
    [[ $line == *"$text"* ]]
}

# When a process began, in ticks: with its id it is known from a later one with the same.
began_at() {
    local line fields
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -ra fields <<<"${line##*) }"
    echo "${fields[19]}"
}

# Starts a server in a session of its own, so that a Ctrl-C meant for the tests does not reach it. It writes down its
# process id while it still belongs to us: whoever ends us ends it too until then, and finds it by its id from then on.
spawn() {
    local pid=$folder/$1/pid
    shift
    rm -f "$pid"
    # shellcheck disable=SC2016 # for the inner shell
    sh -c 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec setsid "$@"' "$pid" "$@" </dev/null >>"${pid%/*}/log" 2>&1 8<&- &
    disown $!
    until [ -e "$pid" ]; do sleep 0.01; done
}

pid_of() { cat "$folder/$1/pid" 2>/dev/null || true; }

alive() { runs "$(pid_of "$1")" "$folder"; }

# Waits until a process is gone, for ten seconds.
gone() {
    for _ in {1..100}; do
        runs "$1" "$2" || return 0
        sleep 0.1
    done
    return 1
}

# Sends the signals one after the other until the process is gone; fails if it does not go.
stop_process() {
    local pid=$1 signal
    shift
    for signal in "$@"; do
        runs "$pid" "$folder" || return 0
        kill -s "$signal" "$pid" 2>/dev/null || true
        ! gone "$pid" "$folder" || return 0
    done
    ! runs "$pid" "$folder"
}

# A server's process and those it has started: PostgreSQL has one for each connection.
processes_of() {
    local pid
    pid=$(pid_of "$1")
    echo "$pid" "$(cat "/proc/$pid"/task/*/children 2>/dev/null)"
}

# Stops a server in its tracks. First the one that could start others meanwhile.
freeze() {
    local pid
    pid=$(pid_of "$1")
    kill -s STOP "$pid"
    until_stopped "$pid"
    for pid in $(processes_of "$1"); do
        kill -s STOP "$pid" 2>/dev/null || true
        until_stopped "$pid"
    done
}

# A process hears of it thread by thread.
until_stopped() {
    while grep -hs '^State:' "/proc/$1"/task/*/status | grep -v '[TZ] (' >/dev/null; do sleep 0.01; done
}

thaw() {
    local pid
    for pid in $(processes_of "$1"); do
        kill -s CONT "$pid" 2>/dev/null || true
    done
}

# Kills a server with all it has started: PostgreSQL's would finish what they are at.
kill_all() {
    local pids
    alive "$1" || return 0
    freeze "$1"
    pids=$(processes_of "$1")
    # shellcheck disable=SC2086 # several
    kill -s KILL $pids 2>/dev/null || true
    gone "$(pid_of "$1")" "$folder"
}

# The sockets that listen on a port, whosever they are.
sockets_at() {
    local port
    printf -v port '%04X' "$1"
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v at=":$port\$" '$4 == "0A" && $2 ~ at { print $10 }'
}

# Whether it is this server that listens on the port. The server of another run has the same password.
listens() {
    local socket
    for socket in $(sockets_at "$2"); do
        [ -z "$(find "/proc/$(pid_of "$1")/fd" -lname "socket:\[$socket\]" 2>/dev/null)" ] || return 0
    done
    return 1
}

# Prints so many ports that are free now. Those that the system hands out by itself begin above this range.
free_ports() {
    local -A ports=()
    local port
    while [ ${#ports[@]} -lt "$1" ]; do
        port=$((20000 + RANDOM % 12000))
        [ -n "$(sockets_at "$port")" ] || ports[$port]=
    done
    echo "${!ports[@]}"
}

# Connects to the host of a URL, sends what is given, and prints the beginning of the answer.
greeted_by() {
    local address=$1 default=$2 hello=$3 port
    address=${address#*://}
    address=${address##*@}
    address=${address%%[/,?]*}
    port=${address##*:}
    [[ $port =~ ^[0-9]+$ ]] || port=$default
    # shellcheck disable=SC2016 # for the inner shell
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "$2" >&3 && dd bs=4096 count=1 status=none <&3' \
        "${address%:*}" "$port" "$hello" 2>/dev/null
}
