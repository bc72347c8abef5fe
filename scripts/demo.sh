#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# stablemoe in one command: installs what is missing, builds, starts a gateway and four local workers of
# unlike speed, each with a key of its own and TLS between them, trains an MoE layer across them on
# Fashion-MNIST, then trains with plain top-k routing for comparison, prints both as a table, and stops
# everything.
#
#   scripts/demo.sh [--epochs N] [--keep]     --keep leaves the logs where the last line says
set -euo pipefail
cd "$(dirname "$0")/.."

epochs=6
keep=no
while [ $# -gt 0 ]; do
    case "$1" in
    --help) sed -n 's/^# \{0,1\}//; 4,10p' "$0"; exit 0 ;;
    --epochs) epochs=${2:?--epochs needs a number}; shift ;;
    --keep) keep=yes ;;
    *) echo "demo.sh: $1: unknown option; --epochs N, --keep or --help" >&2; exit 2 ;;
    esac
    shift
done
case "$epochs" in '' | *[!0-9]* | 0) echo "demo.sh: --epochs: a number above 0" >&2; exit 2 ;; esac

# The workers' duties together must leave room for gateway and trainer: half of the cores at most.
cores=$(nproc)
scale=$(awk -v c="$cores" 'BEGIN { s = c / 4; print (s > 1 ? 1 : s) }')
speeds=()
for nominal in 1 0.5 0.25 0.25; do
    speeds+=("$(awk -v n="$nominal" -v s="$scale" 'BEGIN { printf "%g", n * s }')")
done

# One expert layer whose experts keep the workers busy: 8 experts of 128-1024, top-2.
shape=(--experts 8 --top-k 2 --d-model 128 --d-ff 1024 --batch 512 --balance 0.05)

bin=build/release/bin
work=$(mktemp -d "${TMPDIR:-/tmp}/stablemoe-demo.XXXXXX")
pids=()

stop_fleet() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
finish() {
    local code=$?
    stop_fleet
    if [ $code -ne 0 ]; then
        echo "demo.sh: failed; logs are in $work" >&2
    elif [ $keep = yes ]; then
        echo "logs: $work"
    else
        rm -rf "$work"
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { printf '\n== %s\n' "$*"; }

# The value of KEY in the daemon's "listening" line, waiting for it.
listening() { # LOG KEY PID
    local value
    for _ in $(seq 200); do
        value=$(sed -n "s/.*msg=listening.* $2=\([^ ]*\).*/\1/p" "$1")
        [ -n "$value" ] && { echo "$value"; return; }
        kill -0 "$3" 2>/dev/null || break
        sleep 0.05
    done
    tail -n 3 "$1" >&2
    return 1
}

make_key() { # DIRECTORY ROLE NAME
    (umask 077 && "$bin/stablemoectl" --state-dir "$1/gateway" key add "$2" "$3" >"$1/$3.key")
}

start_fleet() { # POLICY
    local dir=$work/$1 i
    mkdir -p "$dir"
    for i in 1 2 3 4; do make_key "$dir" worker "worker-$i"; done
    make_key "$dir" trainer trainer
    "$bin/stablemoed" --state-dir "$dir/gateway" --listen 127.0.0.1:0 --status 127.0.0.1:0 \
        --set "routing.policy=$1" --set fleet.workers_min=4 2>"$dir/gateway.log" &
    pids+=($!)
    gateway=$(listening "$dir/gateway.log" peers "${pids[0]}")
    status=$(listening "$dir/gateway.log" status "${pids[0]}")
    for i in 1 2 3 4; do
        "$bin/stablemoe-worker" --gateway "$gateway" --id "worker-$i" --speed "${speeds[i - 1]}" \
            --key "$dir/worker-$i.key" --state-dir "$dir/worker-$i" 2>"$dir/worker-$i.log" &
        pids+=($!)
    done
}

ask_status() { # COMMAND
    echo "$1" | nc -q 1 "${status%:*}" "${status##*:}"
}

run_policy() { # POLICY EPOCHS
    start_fleet "$1"
    "$bin/stablemoe-train" --gateway "$gateway" --key "$work/$1/trainer.key" --dataset fashion-mnist --epochs "$2" "${shape[@]}" \
        --json >"$work/$1.train.json"
    ask_status workers >"$work/$1.workers.json"
    stop_fleet
}

step "dependencies"
scripts/deps.sh build run
step "build (build/release)"
cmake --preset release >"$work/configure.log"
cmake --build --preset release --parallel "$cores" --target stablemoed stablemoe-worker \
    stablemoe-train stablemoectl | grep -v '^\[' || true

step "a gateway, and workers of speed ${speeds[*]}"
[ "$scale" = 1 ] || echo "(1, 0.5, 0.25, 0.25 scaled by $scale: this machine has $cores cores, and" \
    "gateway and trainer need some)"

step "training with policy lyapunov, $epochs epochs"
run_policy lyapunov "$epochs"
step "the same with policy topk, 2 epochs, for its speed"
run_policy topk 2

step "result"
python3 scripts/demo_table.py "$work" "${speeds[@]}"
