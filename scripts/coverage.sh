#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Lines and branches that the unit tests and the simulated worlds reach, by room. Exits 1 if one of the
# rooms that everything rests on (the first five) has less than 95 % of its lines or 90 % of its branches;
# the others are shown beside them.
#
#     scripts/coverage.sh           # build, run, report: build/coverage/coverage.txt and .html
#     scripts/coverage.sh --report  # report what the last run left
#
# Branches of assertions do not count: the other way ends the process. Needs gcovr.
set -eu
cd "$(dirname "$0")/.."

lines=95 branches=90

if [ "${1:-}" != --report ]; then
    cmake --preset coverage >/dev/null
    cmake --build --preset coverage
    find build/coverage -name '*.gcda' -delete
    ctest --preset coverage --output-on-failure
fi
command -v gcovr >/dev/null || { echo "coverage.sh: gcovr: not installed" >&2; exit 1; }

# measure NAME FILTER...: its figures, in l and b; what of it is missing is in build/coverage/NAME.txt.
failed=
measure() {
    name=$1
    shift
    for filter in "$@"; do
        set -- "$@" --filter "$filter"
        shift
    done
    gcovr --root . --object-directory build/coverage "$@" --exclude-throw-branches \
        --exclude-unreachable-branches --exclude-lines-by-pattern '.*smoe_assert\(.*' \
        --print-summary --txt build/coverage/"$name".txt >build/coverage/"$name".summary 2>/dev/null
    l=$(sed -n 's/^lines: \([0-9.]*\)%.*/\1/p' build/coverage/"$name".summary)
    b=$(sed -n 's/^branches: \([0-9.]*\)%.*/\1/p' build/coverage/"$name".summary)
    printf '%-10s %6s %% of lines %6s %% of branches\n' "$name" "$l" "$b"
}

# room NAME FILTER...: the same, and it must have enough of both.
room() {
    measure "$@"
    awk -v l="$l" -v b="$b" -v lm=$lines -v bm=$branches 'BEGIN { exit !(l >= lm && b >= bm) }' ||
        failed="$failed $name"
}

room core 'daemon/core/'
room frame 'proto/(frame|inbox|outbox|channel|blob|arena)\.c'
room wire 'proto/(wire.*|flat)\.c'
room ledger 'daemon/core/(ledger|check)\.c'
room store 'daemon/shell/store.*\.c' 'daemon/core/(journal|record)\.c'
measure gateway 'daemon/gateway/'
measure agent 'client/worker/agent/'
measure uplink 'client/libstablemoe/core/'
if [ -n "$failed" ]; then
    echo "coverage.sh: below $lines % of lines or $branches % of branches:$failed" >&2
    exit 1
fi
