# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs named phases one after another, each with its own log, and sums them up. Sourced by test.sh
# and nightly.sh, which set `phase_logs` (a directory) first.
#
#   phase NAME COMMAND...   runs it; false if it failed
#   phase_skip NAME WHY     records that it was not run
#   phase_summary           the table; false if any phase failed

: "${phase_logs:?}"
phase_names=()
phase_results=()
phase_seconds=()

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    phase_red=$'\e[31m' phase_green=$'\e[32m' phase_yellow=$'\e[33m' phase_plain=$'\e[0m'
    phase_tty=yes
else
    phase_red='' phase_green='' phase_yellow='' phase_plain=''
    phase_tty=no
fi

phase_record() {
    phase_names+=("$1")
    phase_results+=("$2")
    phase_seconds+=("$3")
}

# The last line of a log that says something, cut to the terminal.
phase_last_line() {
    tr '\r' '\n' <"$1" | grep -a . | tail -n 1 | cut -c1-70
}

# Shows that process $1 is alive: every second on a terminal, every half minute in a log.
phase_watch() {
    local pid=$1 name=$2 log=$3 start=$SECONDS
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if [ $phase_tty = yes ]; then
            printf '\r\e[K%-24s %4d s  %s' "$name" $((SECONDS - start)) "$(phase_last_line "$log")"
        elif [ $(((SECONDS - start) % 30)) -eq 29 ]; then
            printf '  %s: %d s: %s\n' "$name" $((SECONDS - start)) "$(phase_last_line "$log")"
        fi
    done
    [ $phase_tty = no ] || printf '\r\e[K'
}

# Why a phase failed, by its log: what each failed test of ctest wrote, the last lines of it, and how it ended.
phase_tell_why() {
    awk -v most=100 '
        function tell(   i) {
            for (i = n > most ? n - most + 1 : 1; i <= n; i++)
                print line[i]
            n = 0
        }
        /^ *[0-9]+\/[0-9]+ Test +#|^ +Start +[0-9]+: |^[0-9]+% tests passed/ { tell(); within = 0 }
        /^ *[0-9]+\/[0-9]+ Test +#.*\*\*\*/ { within = 1 }
        within { line[++n] = $0 }
        END { tell() }' "$1"
    tail -n 30 "$1"
}

phase() {
    local name=$1 log start=$SECONDS rc=0
    shift
    log="$phase_logs/${name//[^a-zA-Z0-9]/-}.log"
    mkdir -p "$phase_logs"
    set -m # a process group of its own, so that an interrupt reaches all of it
    "$@" >"$log" 2>&1 </dev/null &
    phase_pid=$!
    set +m
    phase_watch $phase_pid "$name" "$log"
    wait $phase_pid || rc=$?
    phase_pid=
    if [ $rc -eq 0 ]; then
        phase_record "$name" ok $((SECONDS - start))
        printf '%-24s %4d s  %sok%s\n' "$name" $((SECONDS - start)) "$phase_green" "$phase_plain"
        return 0
    fi
    phase_record "$name" FAILED $((SECONDS - start))
    printf '%-24s %4d s  %sFAILED%s (exit %d)\n' "$name" $((SECONDS - start)) \
        "$phase_red" "$phase_plain" $rc
    phase_tell_why "$log" | sed 's/^/    /'
    printf '    whole log: %s\n' "$log"
    return 1
}

phase_skip() {
    phase_record "$1" "skipped: $2" 0
    printf '%-24s    -    %sskipped%s: %s\n' "$1" "$phase_yellow" "$phase_plain" "$2"
}

phase_summary() {
    local i failed=0 skipped=0
    echo
    for i in "${!phase_names[@]}"; do
        case "${phase_results[$i]}" in
        FAILED) failed=$((failed + 1)) ;;
        skipped*) skipped=$((skipped + 1)) ;;
        esac
        printf '  %-24s %4d s  %s\n' "${phase_names[$i]}" "${phase_seconds[$i]}" "${phase_results[$i]}"
    done
    printf '  %-24s %4d s\n\n' total $SECONDS
    if [ $failed -gt 0 ]; then
        printf '%s%d of %d phases failed%s\n' "$phase_red" $failed ${#phase_names[@]} "$phase_plain"
        return 1
    fi
    printf '%sall %d phases passed%s\n' "$phase_green" $((${#phase_names[@]} - skipped)) "$phase_plain"
}

# An interrupt ends the phase that runs, with its children, and nothing else.
phase_pid=
phase_interrupted() {
    [ -z "$phase_pid" ] || kill -- "-$phase_pid" 2>/dev/null || true
    echo
    echo "interrupted" >&2
    exit 130
}
trap phase_interrupted INT TERM
