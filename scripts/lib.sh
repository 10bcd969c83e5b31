# shellcheck shell=bash
# What the scripts share. To be sourced, after `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }

# Something is missing that only the caller can provide.
refuse() {
    say "error: $*"
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

# Whether the first version is the second, or newer.
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Installs packages of this system. Those of servers would start them: for as long as apt runs, a policy says no, unless
# this system has a policy of its own. Half installed packages are of no use to anybody, so apt has a session of its own,
# where no signal meant for us reaches it, and signals that are caught wait for its end.
apt_install() {
    say "installing from the packages of this system: $*"
    local output apt code
    output=$(mktemp)
    exec 6<>"$output"
    rm -f "$output"
    # shellcheck disable=SC2016 # for the inner shell
    DEBIAN_FRONTEND=noninteractive setsid bash -c '
        policy=/usr/sbin/policy-rc.d mark="while packages for tests are installed" options=(-o DPkg::Lock::Timeout=300)
        # One at a time. A lock on a folder leaves nothing behind.
        exec 9</var/lib/apt
        flock 9
        apt-get "${options[@]}" update 9<&- || exit
        if [ ! -e "$policy" ] || grep -q "$mark" "$policy"; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\n# %s\nkill -0 %s 2>/dev/null && exit 101\nexit 0\n" "$mark" $$ >"$policy"
            chmod 755 "$policy"
        fi
        apt-get "${options[@]}" install -y --no-install-recommends "$@" 9<&-
    ' bash "$@" </dev/null >&6 2>&1 6<&- &
    apt=$!
    while :; do
        code=0
        wait "$apt" || code=$?
        kill -0 "$apt" 2>/dev/null || break
    done
    [ "$code" = 0 ] || cat /dev/fd/6 >&2
    exec 6<&-
    [ "$code" = 0 ] || refuse "apt-get could not install: $*"
}

# Cargo, and what the C and C++ sources in our dependencies (SQLite, librdkafka) are built with.
need_build_tools() {
    PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
    have cargo || refuse "cargo is not installed: install Rust from https://rustup.rs, then run this again"
    local missing=()
    have cc || missing+=(gcc libc6-dev)
    have c++ || missing+=(g++)
    have make || missing+=(make)
    [ ${#missing[@]} -gt 0 ] || return 0
    may_install || refuse "a C compiler, a C++ compiler and make build the database and broker clients;" \
        "not found here: ${missing[*]} (the names of Debian's packages). Install them and run this again"
    apt_install "${missing[@]}"
}

# shellcheck disable=SC2034 # read by who sources this
interrupted=0
status=0
group=

# From here on a signal does not end the script at once: `run` returns, and `interrupted` is the exit code.
catch_signals() {
    trap 'interrupted=130' INT
    trap 'interrupted=143' TERM
    trap 'interrupted=129' HUP
}

# Runs a command in a process group of its own, so that Ctrl-C reaches only this script, which then decides
# who is to stop and when. Sets `status`; returns at once when a signal comes.
run() {
    set -m
    "$@" </dev/null &
    group=$!
    set +m
    status=0
    # shellcheck disable=SC2034 # read by who sources this
    wait "$group" || status=$?
}

# Whether somebody in a process group lives. One that nobody has waited for does not, and an init may take its time.
group_lives() {
    kill -0 -- "-$1" 2>/dev/null || return 1
    [ ! -e /proc/self/stat ] || awk -v group="$1" '{ sub(/^.*\) /, "") } $1 != "Z" && $3 == group { lives = 1 } END { exit !lives }' \
        < <(cat /proc/[0-9]*/stat 2>/dev/null)
}

# Ends what is left of the command that was run, with all it has started; by force after the given seconds.
end_group() {
    [ -n "$group" ] || return 0
    kill -s TERM -- "-$group" 2>/dev/null || return 0
    local tenths=$(($1 * 10))
    while [ $tenths -gt 0 ]; do
        group_lives "$group" || return 0
        sleep 0.1
        tenths=$((tenths - 1))
    done
    kill -s KILL -- "-$group" 2>/dev/null || true
}
