#!/usr/bin/env bash
# Whole processes side by side, on one load and in one run: this table in its shell; ss and lsof; small
# programs on crates that do the like; and the least that the kernel takes.
#
# Each program runs once per round. A time is the median of all rounds; a ratio is the median of the ratios
# within each round, which a busy machine disturbs less. Ends with 1 if a figure is not reached.
#
# shellcheck disable=SC2016 # Awk's variables and Markdown's code stand in single quotes.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: benches/compare.sh [--growth] [--sockets N] [--processes P] [--idle-processes M] [--rounds R]

  --growth            only how the time grows, from 1,000 sockets to 200,000
  --sockets N         established TCP sockets (100000)
  --processes P       that hold them (3, or more if the hard limit of descriptors is low)
  --idle-processes M  beside them, each with three sockets (500)
  --rounds R          after the first, which only warms up (5)

Run it as root: what others hold is hidden from anybody else.
END
}

growth='' sockets=100000 processes='' idle_processes=500 rounds=5
while [ $# -gt 0 ]; do
    case $1 in
        --growth) growth=yes ;;
        --sockets | --processes | --idle-processes | --rounds)
            [[ ${2-} =~ ^[1-9][0-9]*$ ]] || { echo "$1 takes a number" >&2; exit 2; }
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift
            ;;
        --help) usage; exit ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
# What takes longer than this many seconds is measured once, and is stopped after the limit.
slow=20 limit=60

install() { # COMMAND PACKAGE
    type -P "$1" >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! type -P apt-get >/dev/null; then
        echo "$1 is missing: install the package $2" >&2
        exit 1
    fi
    echo "$1 is missing: installing Debian's package $2" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
}
install hyperfine hyperfine
install ss iproute2
install lsof lsof
install time time
[ "$(id -u)" = 0 ] || echo "not root: what others hold is hidden from all of these" >&2

crates=(listeners lumination netstat2 procfs)
manifest=benches/compare/Cargo.toml
cargo build --quiet --locked --release
# Not --locked: a new dependency of the collector need not be locked here too.
cargo build --quiet --release --manifest-path $manifest --no-default-features
for crate in "${crates[@]}"; do
    cargo build --quiet --release --manifest-path $manifest --features "$crate" --bin "with_$crate" ||
        echo "the crate $crate does not build here: left out" >&2
done
ours=target/release/process_open_sockets
bin=benches/compare/target/release

work=$(mktemp -d)
load=''
end_load() {
    [ -n "$load" ] || return 0
    # Its standard input ends, then it, when its children have.
    exec {input}>&-
    wait "$load" || true
    load=''
}
trap 'end_load; rm -rf "$work"' EXIT
trap 'echo interrupted >&2; exit 130' INT TERM

start_load() { # FLAGS OF LOAD
    end_load
    rm -f "$work/input" "$work/load"
    mkfifo "$work/input"
    "$bin/load" --list "$@" <"$work/input" >"$work/load" &
    load=$!
    exec {input}>"$work/input"
    until grep -q '^ready ' "$work/load"; do
        kill -0 "$load" 2>/dev/null || { echo "the load could not be opened" >&2; exit 1; }
        sleep 0.1
    done
    opened=$(sed -n 's/^ready //p' "$work/load")
}

# Prints the number of processes for the sockets, if no flag sets it.
holders() { # SOCKETS
    local most
    most=$(ulimit -Hn)
    [ "$most" = unlimited ] && most=1000000
    most=$((($1 + most - 65) / (most - 64)))
    echo "${processes:-$((most > 3 ? most : 3))}"
}

columns=(pid fd socket family protocol local_address remote_address local_port remote_port path state
    net_namespace)
counts=$(printf 'count(%s), ' "${columns[@]}")
query() { # CONDITION...
    echo "$ours query --list --header=false \"SELECT ${counts%, } FROM process_open_sockets $*\""
}

names=() commands=()
add() { # NAME COMMAND
    names+=("$1")
    commands+=("$2")
}

# Runs each command once, to warm up, and notes what it shows, the memory that it takes and how it
# ends; drops what fails or never ends.
survey() {
    local index kept_names=() kept_commands=() name command status memory seconds shown
    for index in "${!names[@]}"; do
        name=${names[index]} command=${commands[index]} status=0
        eval "command time -q -f '%M %e' -o '$work/time' timeout $limit $command" \
            >"$work/out" 2>"$work/err" || status=$?
        read -r memory seconds <"$work/time"
        # A program of ours begins with a number; the others print a line a socket.
        shown=$(head -n 1 "$work/out")
        [[ $shown =~ ^[0-9]+(\||$) ]] && shown=${shown%%|*} || shown=$(wc -l <"$work/out")
        if [ "$status" = 124 ]; then
            echo "$name: ended after $limit s" >&2
            printf '%s\t-\t>%s\t%s\n' "$name" "${limit}000" "$memory" >>"$work/survey"
        elif [ "$status" != 0 ]; then
            echo "$name: left out, since it ends with $status: $(head -n 1 "$work/err")" >&2
        else
            printf '%s\t%s\t%s000\t%s\n' "$name" "$shown" "${seconds%.*}" "$memory" >>"$work/survey"
            if [ "${seconds%.*}" -lt $slow ]; then
                kept_names+=("$name") kept_commands+=("$command")
            else
                printf '1\t%s\t%s\n' "$name" "${seconds%.*}000" >>"$work/times"
            fi
        fi
    done
    names=("${kept_names[@]}") commands=("${kept_commands[@]}")
}

# Adds lines to $work/times: round, name, milliseconds.
take_turns() { # [PREFIX for the names of the bare parts]
    local round index
    for round in $(seq "$rounds"); do
        hyperfine --shell=none --style none --runs 1 --export-csv "$work/csv" "${commands[@]}" \
            >/dev/null 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
        # mean, stddev, median, user, system, min, max stand last; the commands may hold commas.
        index=0
        while read -r seconds; do
            printf '%s\t%s\t%s\n' "$round" "${names[index]}" "$seconds"
            index=$((index + 1))
        done < <(tail -n +2 "$work/csv" | awk -F, '{ print $(NF - 4) * 1000 }') >>"$work/times"
        "$bin/floor" | awk -v start="$round"$'\t'"${1-}" -v OFS='\t' '{
            print start "walk", $2; print start "dump", $4; print start "floor", $2 + $4 }'
        "$bin/collector" | awk -v start="$round"$'\t'"${1-}" -v OFS='\t' '{ print start "collector", $2 }'
    done >>"$work/times"
}

median='
    function median(list,   values, count, i, j, value) {
        count = split(substr(list, 2), values, " ")
        for (i = 2; i <= count; i++) {
            value = values[i] + 0
            for (j = i - 1; j > 0 && values[j] + 0 > value; j--) values[j + 1] = values[j]
            values[j + 1] = value
        }
        return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
    }'

ms() { # NAME
    awk -F'\t' -v name="$1" "$median"'$2 == name { list = list " " $3 } END { print median(list) }' "$work/times"
}

# The median of the ratios within each round; what was measured once stands beside each.
ratio() { # NAME OTHER
    awk -F'\t' -v a="$1" -v b="$2" "$median"'
        { time[$2, $1] = $3; rounds[$1] }
        END {
            for (round in rounds)
                if (((a, round) in time) && ((b, round) in time))
                    list = list " " time[a, round] / time[b, round]
            printf "%.3f", median(list)
        }' "$work/times"
}

surveyed() { # NAME FIELD
    awk -F'\t' -v name="$1" -v field="$2" '$1 == name { print $field }' "$work/survey"
}
mb() { # NAME
    awk -v kib="$(surveyed "$1" 4)" 'BEGIN { printf "%.1f", kib * 1.024 / 1000 }'
}

reached=0
figure() { # WHAT IS AT_MOST
    local verdict=reached
    awk -v is="$2" -v most="$3" 'BEGIN { exit !(is > 0 && is <= most) }' || { verdict='**not reached**' reached=1; }
    echo "| $1 | $2 | $3 | $verdict |"
}

expect() { # WHAT IS CONDITION
    (($2)) || { echo "$1: this run shows nothing" >&2; exit 1; }
}

# Checked before the measurements: another load slows down the programs with two threads.
busy() {
    { grep '^cpu ' /proc/stat; sleep 3; grep '^cpu ' /proc/stat; } | awk '
        { all = 0; for (i = 2; i <= 9; i++) all += $i; idle = $5 + $6 }
        NR == 1 { all0 = all; idle0 = idle }
        END { printf "%.0f", 100 - 100 * (idle - idle0) / (all - all0) }'
}

full='ours: full scan, every column'
header() {
    local versions crate
    for crate in "${crates[@]}"; do
        versions+=", $crate $(grep -A 1 "^name = \"$crate\"" benches/compare/Cargo.lock | sed -n 's/version = "\(.*\)"/\1/p')"
    done
    echo "$(date +%F), Linux $(uname -r) on $(uname -m), $(nproc) CPUs, $(busy) % of them busy with other things before the run; $rounds rounds; $(ss -V | sed 's/.*, //')," \
        "lsof $(lsof -v 2>&1 | sed -n 's/^ *revision: //p')${versions}"
}

grow() {
    echo '| sockets | query, ms | µs a socket | µs a socket more | collector, ms | walk + dump, ms | collector / both |'
    echo '|---|---|---|---|---|---|---|'
    local before_sockets=0 before_ms=0 count
    for count in 1000 10000 100000 200000; do
        start_load --sockets "$count" --processes "$(holders "$count")"
        rm -f "$work/times" "$work/survey"
        names=() commands=()
        add "$full" "$(query)"
        survey
        take_turns
        awk -v n="$count" -v ms="$(ms "$full")" -v n0="$before_sockets" -v ms0="$before_ms" \
            -v collector="$(ms collector)" -v bare="$(ms floor)" -v ratio="$(ratio collector floor)" 'BEGIN {
            printf "| %d | %.1f | %.2f | %.2f | %.1f | %.1f | %s |\n", n, ms, ms * 1000 / n,
                (ms - ms0) * 1000 / (n - n0), collector, bare, ratio }'
        before_sockets=$count before_ms=$(ms "$full")
    done
}

compare() {
    local quiet='ours: full scan of another load, 100 processes with 300 sockets' name ratio
    start_load --sockets 10 --idle-processes 97
    add "$quiet" "$(query)"
    survey
    take_turns 'quiet '
    names=() commands=()

    start_load --sockets "$sockets" --processes "$(holders "$sockets")" --idle-processes "$idle_processes" \
        --listeners 10
    local small lookups
    small=$(sed -n 's/^idle //p' "$work/load" | head -n 1)
    lookups=$(sed -n 's/^idle \(.*\)/(\1)/p' "$work/load" | paste -sd,)
    # SQLite keeps the order of a CROSS JOIN: each pid is a separate request to the table.
    local burst="$ours query --list --header=false \"SELECT ${counts%, } FROM (VALUES $lookups) AS pids
        CROSS JOIN process_open_sockets ON process_open_sockets.pid = pids.column1\""
    local one_pid='ours: one pid, 3 sockets' listen="ours: state = 'LISTEN'"
    local many="ours: $idle_processes pids, one by one"
    add "$full" "$(query)"
    add "$full, --no-bpf" "$(query) --no-bpf"
    add "$full, --source procfs" "$(query) --source procfs"
    add 'ours: pid > 0' "$(query 'WHERE pid > 0')"
    add "$one_pid" "$(query "WHERE pid = $small")"
    add "$one_pid, --no-bpf" "$(query "WHERE pid = $small") --no-bpf"
    add "$listen" "$(query "WHERE state = 'LISTEN'")"
    add "$listen, --no-bpf" "$(query "WHERE state = 'LISTEN'") --no-bpf"
    add "$many" "${burst//$'\n'/ }"
    add "$many, --no-bpf" "${burst//$'\n'/ } --no-bpf"
    add 'ss -Htuwxanp' 'ss -Htuwxanp'
    add 'ss -Htanp' 'ss -Htanp'
    add 'lsof -nP -i -U' 'lsof -nP -i -U'
    add 'lsof -nP -iTCP' 'lsof -nP -iTCP'
    for name in "${crates[@]}"; do
        [ ! -x "$bin/with_$name" ] || add "crate $name" "$bin/with_$name"
    done
    survey
    expect 'the full scan' "$(surveyed "$full" 2) >= $opened"
    expect 'one pid' "$(surveyed "$one_pid" 2) == 3"
    expect 'the burst' "$(surveyed "$many" 2) == 3 * idle_processes"
    expect 'LISTEN' "$(surveyed "$listen" 2) >= 10"
    take_turns

    echo "$sockets TCP sockets in $(holders "$sockets") processes, $idle_processes more processes with 3 sockets each and one that no table lists"
    echo
    echo '| work | median ms | times ours | peak MB | sockets or lines shown |'
    echo '|---|---|---|---|---|'
    cut -f 1 "$work/survey" | while read -r name; do
        if [ "$(surveyed "$name" 2)" = - ]; then
            echo "| $name | $(surveyed "$name" 3) | | $(mb "$name") | |"
            continue
        fi
        # Another load has no ratio to this one.
        ratio=$([ "$name" = "$quiet" ] || ratio "$name" "$full")
        printf '| %s | %.1f | %s | %s | %s |\n' "$name" "$(ms "$name")" "$ratio" "$(mb "$name")" \
            "$(surveyed "$name" 2)"
    done
    for name in collector walk dump; do
        printf '| %s alone | %.1f | %s | | |\n' "$name" "$(ms $name)" "$(ratio $name "$full")"
    done

    echo
    echo '| figure | is | at most | |'
    echo '|---|---|---|---|'
    figure 'full scan / `lsof -nP -iTCP`' "$(ratio "$full" 'lsof -nP -iTCP')" 0.2
    figure 'full scan / `ss -Htanp`' "$(ratio "$full" 'ss -Htanp')" 0.1
    figure 'collector / (walk + dump)' "$(ratio collector floor)" 1.3
    figure 'one pid / full scan' "$(ratio "$one_pid" "$full")" 0.333
    figure '`LISTEN` / full scan' "$(ratio "$listen" "$full")" 0.75
    # On the quiet machine `query` loads no BPF program, which takes 5 MB.
    figure '`LISTEN` without BPF / full scan of a quiet machine, peak MB' \
        "$(awk -v a="$(mb "$listen, --no-bpf")" -v b="$(mb "$quiet")" 'BEGIN { printf "%.3f", a / b }')" 1.1
    figure "$idle_processes pids / full scan" "$(ratio "$many" "$full")" 2
    figure 'full scan, peak MB' "$(mb "$full")" 48
    figure 'quiet machine, ms' "$(ms "$quiet" | xargs printf %.1f)" 15
}

header
echo
if [ -n "$growth" ]; then grow; else compare; fi
exit "$reached"
