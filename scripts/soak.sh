#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A fleet that trains for hours: one gateway, three workers and a trainer that begins again whenever it is
# done. Prints what each process holds, how fast it goes and whether the ledger agrees; ends with a verdict.
#
#   scripts/soak.sh [--minutes N] [--every S] [--build DIR] [--slot D] [--kill]
#
#   --minutes N   for so long (default: 120)
#   --every S     a line of the table every S seconds (default: 60)
#   --build DIR   programs of this build tree (default: build/release)
#   --slot D      every slot lasts so long (100ms, say), so that the fleet leaves the machine to others
#   --kill        a worker is killed and started again every ten lines
#
# Flat means: the resident memory of no process that lives throughout has grown by more than 16 MiB between
# a tenth of the time and its end, nor its descriptors by more than 16. Exits 1 if one has, 2 for a wrong option.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=120 every=60 build=build/release slot="" kill_workers=no
fail_usage() {
    echo "soak.sh: $1" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
    --help) sed -n 's/^# \{0,1\}//; 4,16p' "$0"; exit 0 ;;
    --kill) kill_workers=yes ;;
    --minutes | --every | --build | --slot) [ $# -ge 2 ] || fail_usage "$1: needs a value" ;;&
    --minutes) minutes=$2; shift ;;
    --every) every=$2; shift ;;
    --build) build=$2; shift ;;
    --slot) slot=$2; shift ;;
    *) fail_usage "$1: no such option" ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]*$ && $every =~ ^[1-9][0-9]*$ ]] || fail_usage "--minutes, --every: 1 or more"
bin=$build/bin
[ -x "$bin/stablemoed" ] || fail_usage "$bin/stablemoed: not built"

dir=$(mktemp -d /tmp/smoe-soak-XXXXXX)
declare -A pid=()
# shellcheck disable=SC2317 # called by the trap
finish() {
    for name in "${!pid[@]}"; do
        kill "${pid[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

# Ports that are free now; nobody else is expected to take them in the meantime.
read -r port status < <(python3 - <<'PY'
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
)

start_worker() {
    "$bin/stablemoe-worker" --gateway "127.0.0.1:$port" --id "$1" --state-dir "$dir/$1" >>"$dir/$1.log" 2>&1 &
    pid[$1]=$!
}
start_trainer() {
    "$bin/stablemoe-train" --gateway "127.0.0.1:$port" --name "soak-$1" --dataset fashion-mnist --json --limit 2000 --epochs 20 \
        --batch 100 --d-model 32 --d-ff 64 >"$dir/trainer.json" 2>>"$dir/trainer.log" &
    pid[trainer]=$!
}
keep_training() { # until then, in bash's seconds
    while [ $SECONDS -lt "$1" ]; do
        sleep 1
        if ! kill -0 "${pid[trainer]}" 2>/dev/null; then
            wait "${pid[trainer]}" || { echo "soak.sh: the trainer failed:" >&2; tail -n 5 "$dir/trainer.log" >&2; exit 1; }
            runs=$((runs + 1))
            start_trainer $runs
        fi
    done
}
ask() { # a number out of the status JSON, by a path of keys
    { exec 3<>"/dev/tcp/127.0.0.1/$status" && echo status >&3 && cat <&3 && exec 3>&-; } 2>/dev/null |
        python3 -c 'import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value = value[key]
print(value)' "$1" 2>/dev/null || echo -
}
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status" 2>/dev/null || true; }
fds() { find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l; }

"$bin/stablemoed" --listen "127.0.0.1:$port" --status "127.0.0.1:$status" --state-dir "$dir/gateway" \
    --set security.insecure=loopback-only --set fleet.lease=5s \
    ${slot:+--set routing.plan=slot --set "routing.slot=$slot"} >"$dir/gateway.log" 2>&1 &
pid[gateway]=$!
for name in w1 w2 w3; do
    start_worker "$name"
done
runs=1
start_trainer $runs

printf '%8s %10s %9s %9s %9s %9s %5s %9s %6s %6s  %s\n' minute steps gateway w1 w2 trainer fds failed runs kills left
begin=$SECONDS end=$((SECONDS + 60 * minutes)) line=0 kills=0
declare -A first=() last=()
while [ $SECONDS -lt $end ]; do
    keep_training $((SECONDS + every < end ? SECONDS + every : end))
    line=$((line + 1))
    kill -0 "${pid[gateway]}" 2>/dev/null || { echo "soak.sh: the gateway has ended:" >&2; tail -n 5 "$dir/gateway.log" >&2; exit 1; }
    if [ $kill_workers = yes ] && [ $((line % 10)) = 0 ]; then
        kill -9 "${pid[w3]}"
        wait "${pid[w3]}" 2>/dev/null || true
        kills=$((kills + 1))
        start_worker w3
    fi
    for name in gateway w1 w2; do # w3 and trainers come and go
        last[$name]=$(rss_kib "${pid[$name]}")
        last[$name.fds]=$(fds "${pid[$name]}")
        if [ -z "${first[$name]:-}" ] && [ $((10 * (SECONDS - begin))) -ge $((60 * minutes)) ]; then
            first[$name]=${last[$name]}
            first[$name.fds]=${last[$name.fds]}
        fi
    done
    printf '%8.1f %10s %9s %9s %9s %9s %5s %9s %6s %6s  %d min\n' \
        "$(awk -v s=$((SECONDS - begin)) 'BEGIN { print s / 60 }')" "$(ask steps)" "${last[gateway]}" "${last[w1]}" \
        "${last[w2]}" "$(rss_kib "${pid[trainer]}")" "${last[gateway.fds]}" "$(ask ledger.failed)" $runs $kills \
        $(((end - SECONDS + 59) / 60))
done

bad=0
for name in gateway w1 w2; do
    grown=$((last[$name] - first[$name]))
    echo "$name: resident ${first[$name]} -> ${last[$name]} KiB, descriptors ${first[$name.fds]} -> ${last[$name.fds]}"
    [ $grown -le 16384 ] && [ $((last[$name.fds] - first[$name.fds])) -le 16 ] || bad=1
done
[ $bad = 0 ] && echo "flat over $minutes minutes" || echo "not flat over $minutes minutes"
exit $bad
