# shellcheck shell=bash
# What the scripts share. To be sourced, after `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }

# Something is missing that only the caller can provide.
refuse() {
    say "error: $*"
    exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Packages of servers would start them; this tells them not to, unless the system does so by itself.
policy=/usr/sbin/policy-rc.d

apt_install() {
    # One at a time: each is to find the policy as it was.
    exec 9>/tmp/cqrs-apt.lock
    flock 9
    say "installing from the packages of this system: $*"
    local wait_for_lock="-oDPkg::Lock::Timeout=300" output ours=0
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    if ! output=$({ apt-get "$wait_for_lock" update && DEBIAN_FRONTEND=noninteractive apt-get "$wait_for_lock" \
        install -y --no-install-recommends "$@"; } </dev/null 2>&1 9>&-); then
        [ "$ours" = 0 ] || rm -f "$policy"
        say "$output"
        refuse "apt-get could not install: $*"
    fi
    [ "$ours" = 0 ] || rm -f "$policy"
    exec 9>&-
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

# Ends what is left of the command that was run, with all it has started; by force after the given seconds.
end_group() {
    [ -n "$group" ] || return 0
    kill -s TERM -- "-$group" 2>/dev/null || return 0
    local tenths=$(($1 * 10))
    while [ $tenths -gt 0 ]; do
        kill -0 -- "-$group" 2>/dev/null || return 0
        sleep 0.1
        tenths=$((tenths - 1))
    done
    kill -s KILL -- "-$group" 2>/dev/null || true
}
