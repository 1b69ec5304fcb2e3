#!/usr/bin/env bash
# Whole processes side by side, on the same load and in the same run: ours, ss, lsof, and small programs
# on the crates lumination, netstat2 and procfs. Prints a table, and which figures are reached.
#
# usage: benches/compare.sh [--growth]
#   SOCKETS=100000 PROCESSES=3 RUNS=5 ROUNDS=3   change the load and the care
# It needs hyperfine, ss (iproute2) and lsof, and root to see the descriptors of all.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in hyperfine ss lsof; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt install hyperfine iproute2 lsof" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || echo "not root: what others hold is not seen by any of these" >&2

cargo build --quiet --locked --release
cargo build --quiet --locked --release --manifest-path benches/compare/Cargo.toml
ours=target/release/process_open_sockets
bin=benches/compare/target/release
work=$(mktemp -d)
load=

end_load() {
    if [ -n "$load" ]; then
        exec {keep}>&-
        wait "$load" || true
        load=
    fi
}
trap 'end_load; rm -rf "$work"' EXIT

# Holds SOCKETS sockets until end_load; sets $small and $idle.
start_load() { # SOCKETS PROCESSES IDLE
    end_load
    rm -f "$work/stdin" "$work/ready"
    mkfifo "$work/stdin"
    "$bin/load" "$1" "$2" "$3" <"$work/stdin" >"$work/ready" &
    load=$!
    exec {keep}>"$work/stdin"
    until [ -s "$work/ready" ]; do
        [ -d "/proc/$load/fd" ] || { echo "the load did not start" >&2; exit 1; }
        sleep 0.1
    done
    small=$(sed -n 's/.*small=\([0-9]*\).*/\1/p' "$work/ready")
    idle=$(sed -n 's/.*idle=//p' "$work/ready")
}

columns=(pid fd socket family protocol local_address remote_address local_port remote_port path state net_namespace)
counts=$(printf 'count(%s), ' "${columns[@]}")
query() { printf "%s query '%s'" "$ours" "$1"; }
full=$(query "SELECT ${counts%, } FROM process_open_sockets")
count=$(query 'SELECT count(*) FROM process_open_sockets')

# The median milliseconds of each command, over rounds in which all take turns.
measure() { # NAME COMMAND [NAME COMMAND ...]
    local names=() commands=() round
    while [ $# -gt 0 ]; do
        names+=("$1")
        commands+=("$2")
        shift 2
    done
    rm -f "$work"/round-*
    for round in $(seq "${ROUNDS:-3}"); do
        hyperfine --style none --warmup 1 --runs "${RUNS:-5}" --ignore-failure \
            --export-csv "$work/round-$round" "${commands[@]}" >/dev/null 2>&1
    done
    local place=0 name
    for name in "${names[@]}"; do
        place=$((place + 1))
        # The median of the rounds' medians, which stand in the fourth column from the end but three.
        for round in "$work"/round-*; do
            tail -n "+$((place + 1))" "$round" | head -n 1 | awk -F, '{ print $(NF - 4) * 1000 }'
        done | sort -n | awk -v name="$name" '{ m[NR] = $1 } END { printf "%s\t%.1f\n", name, m[int((NR + 1) / 2)] }'
    done
}

peak() { # COMMAND
    eval "$bin/peak $1"
}

of() { # NAME FILE
    awk -F'\t' -v name="$1" '$1 == name { print $2 }' "$2"
}

ratio() { # A B
    awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'
}

check() { # WHAT RATIO AT_MOST
    awk -v what="$1" -v is="$2" -v most="$3" 'BEGIN {
        printf "| %s | %.3f | %.3f | %s |\n", what, is, most, is <= most ? "reached" : "not reached" }'
}

echo "$(date +%F), Linux $(uname -r), $(nproc) CPUs, ${RUNS:-5} runs in each of ${ROUNDS:-3} rounds"
echo

if [ "${1-}" = --growth ]; then
    echo '| sockets | full scan, ms | µs a socket |'
    echo '|---|---|---|'
    for sockets in 1000 10000 100000 200000; do
        start_load "$sockets" 8 0
        time=$(measure full "$full" | cut -f2)
        echo "| $sockets | $time | $(awk -v t="$time" -v n="$sockets" 'BEGIN { printf "%.2f", t * 1000 / n }') |"
    done
    exit
fi

start_load 200 10 90
measure quiet "$full" >"$work/quiet"
quiet_peak=$(peak "$full")

start_load "${SOCKETS:-100000}" "${PROCESSES:-3}" 500
# Each pid is asked for on its own: CROSS JOIN keeps the order.
lookups=$(query "SELECT count(*) FROM (VALUES ($(echo "$idle,$small" | sed 's/,/),(/g'))) AS pids CROSS JOIN process_open_sockets AS s ON s.pid = pids.column1")
names=(
    'full scan, every column' "$full"
    'full scan, count(*)' "$count"
    'one pid with 3 sockets' "$(query "SELECT count(*) FROM process_open_sockets WHERE pid = $small")"
    "state = 'LISTEN'" "$ours query \"SELECT count(*) FROM process_open_sockets WHERE state = 'LISTEN'\""
    '501 pids, one by one' "$lookups"
    'lsof -nP -iTCP' 'lsof -nP -iTCP'
    'lsof -nP -i -U' 'lsof -nP -i -U'
    'ss -Htanp' 'ss -Htanp'
    'ss -Htuwxanp' 'ss -Htuwxanp'
    'crate netstat2' "$bin/with_netstat2"
    'crate procfs' "$bin/with_procfs"
    'bare walk and dump' "$bin/floor"
)
measure "${names[@]}" >"$work/times"
# Its time grows with the square of the sockets: once, and a minute at the most.
start=$(date +%s%N)
timeout 60 "$bin/with_lumination" >"$work/lumination" || echo "crate lumination: stopped after a minute" >&2
printf 'crate lumination\t%d.0\n' "$((($(date +%s%N) - start) / 1000000))" >>"$work/times"

ours_full=$(of 'full scan, every column' "$work/times")
echo "${SOCKETS:-100000} TCP sockets in ${PROCESSES:-3} processes, 500 processes beside them"
echo
echo '| work | median ms | against the full scan | peak MB |'
echo '|---|---|---|---|'
while [ "${#names[@]}" -gt 0 ]; do
    time=$(of "${names[0]}" "$work/times")
    echo "| ${names[0]} | $time | $(ratio "$time" "$ours_full") | $(peak "${names[1]}") |"
    names=("${names[@]:2}")
done
echo "| crate lumination | $(of 'crate lumination' "$work/times") | $(ratio "$(of 'crate lumination' "$work/times")" "$ours_full") | |"
echo "| a quiet machine: full scan, every column | $(of quiet "$work/quiet") | | $quiet_peak |"

echo
echo '| figure | is | at most | |'
echo '|---|---|---|---|'
time_of() { of "$1" "$work/times"; }
check 'full scan against lsof -nP -iTCP' "$(ratio "$ours_full" "$(time_of 'lsof -nP -iTCP')")" 0.2
check 'full scan against ss -Htanp' "$(ratio "$ours_full" "$(time_of 'ss -Htanp')")" 0.1
check 'count(*) against a bare walk and dump' "$(ratio "$(time_of 'full scan, count(*)')" "$(time_of 'bare walk and dump')")" 1.3
check 'one pid against the full scan' "$(ratio "$(time_of 'one pid with 3 sockets')" "$ours_full")" 0.3334
check "state = 'LISTEN' against the full scan" "$(ratio "$(time_of "state = 'LISTEN'")" "$ours_full")" 0.75
check '501 lookups against the full scan' "$(ratio "$(time_of '501 pids, one by one')" "$ours_full")" 2
check 'peak memory of the full scan, MB' "$(peak "$full")" 48
check 'a quiet machine, ms' "$(of quiet "$work/quiet")" 15
