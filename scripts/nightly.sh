#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What is too slow for every push: the second compiler, races, the float64 build, thousands of kills,
# static analysis and long fuzzing. Each phase stands alone.
#
#   scripts/nightly.sh [--only PHASE]... [--skip PHASE]... [--fuzz-seconds N] [-j N] [--list]
set -euo pipefail
cd "$(dirname "$0")/.."

all=(clang tsan float64 storm abuse fuzz tidy cppcheck analyzer)
only=()
skip=()
jobs=$(nproc)
fuzz_seconds=60

fail_usage() {
    echo "nightly.sh: $1" >&2
    exit 2
}
known() {
    printf '%s\n' "${all[@]}" | grep -qx -- "$1" || fail_usage "$1: no such phase; one of ${all[*]}"
}
while [ $# -gt 0 ]; do
    case "$1" in
    --help) sed -n 's/^# \{0,1\}//; 4,7p' "$0"; echo "Phases: ${all[*]}"; exit 0 ;;
    --list) printf '%s\n' "${all[@]}"; exit 0 ;;
    --only | --skip | --fuzz-seconds | -j) [ $# -ge 2 ] || fail_usage "$1: needs a value" ;;&
    --only) known "$2"; only+=("$2"); shift ;;
    --skip) known "$2"; skip+=("$2"); shift ;;
    --fuzz-seconds) fuzz_seconds=$2; shift ;;
    -j) jobs=$2; shift ;;
    *) fail_usage "$1: unknown option; see --help" ;;
    esac
    shift
done
[ ${#only[@]} -gt 0 ] || only=("${all[@]}")

phase_logs=build/log
# shellcheck source=scripts/phases.sh
. scripts/phases.sh

chosen() {
    printf '%s\n' "${only[@]}" | grep -qx -- "$1" &&
        ! printf '%s\n' "${skip[@]:-}" | grep -qx -- "$1"
}

configure_and_build() {
    phase "$1: configure" cmake --preset "$1" "${@:2}" &&
        phase "$1: build" cmake --build --preset "$1" --parallel "$jobs"
}

# A preset, built and tested; tsan's test preset takes the tests labelled `threads` only.
run_preset() {
    configure_and_build "$1" &&
        phase "$1: test" ctest --preset "$1" --parallel "$jobs" --no-tests=error \
            --label-exclude '^lint$'
}

# Everybody dies 3,000 times on real machines, and in 125,000 made-up worlds.
run_storm() {
    configure_and_build release || return 1
    phase "storm: kill -9" env SMOE_KILLS=3000 SMOE_BIN=build/release/bin \
        SMOE_HELPERS=build/release/tests python3 -B tests/integration/test_survival.py
    phase "storm: random worlds" build/release/bin/stablemoe-sim story random --seeds 1..20000
    phase "storm: worlds a step ahead" build/release/bin/stablemoe-sim story random_stale --seeds 1..5000
    phase "storm: torture" build/release/bin/stablemoe-sim torture --seeds 1..100000 --timings
}

# Twenty times the crowd's turnover, 100,000 who lack a key, and every allocation of every start.
run_abuse() {
    configure_and_build release || return 1
    phase "abuse: crowds" env SMOE_ROUNDS=20 SMOE_BIN=build/release/bin \
        SMOE_HELPERS=build/release/tests python3 -B tests/integration/test_abuse.py
    for at_once in 1 4; do
        phase "abuse: attempts, $at_once at once" env SMOE_ATTEMPTS=100000 SMOE_AT_ONCE=$at_once SMOE_LATENESS_MS=5 \
            SMOE_BIN=build/release/bin SMOE_HELPERS=build/release/tests \
            python3 -B tests/integration/test_security.py Strangers
    done
    phase "abuse: shortage" env SMOE_ALLOCATIONS=1 SMOE_BIN=build/release/bin \
        SMOE_HELPERS=build/release/tests python3 -B tests/integration/test_shortage.py
}

# Each fuzzer starts from the corpus in the tree and keeps what it finds in the build tree.
run_fuzz() {
    configure_and_build fuzz || return 1
    local fuzzer name found=no
    build/fuzz/tests/fuzz_seeds build/fuzz/seeds || return 1
    for fuzzer in build/fuzz/fuzz/fuzz_*; do
        [ -x "$fuzzer" ] || continue
        found=yes
        name=$(basename "$fuzzer")
        # `files` has no seeds
        mkdir -p "build/fuzz/corpus/$name" "build/fuzz/crashes/$name" "build/fuzz/seeds/${name#fuzz_}"
        phase "fuzz: ${name#fuzz_}" "$fuzzer" "-max_total_time=$fuzz_seconds" -timeout=10 \
            -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=build/fuzz/crashes/$name/" \
            "build/fuzz/corpus/$name" "build/fuzz/seeds/${name#fuzz_}" \
            "tests/fuzz/corpus/${name#fuzz_}"
    done
    [ $found = yes ] || phase_skip fuzz "no fuzzers are built"
}

# Our own sources of a build tree; not what protoc-c wrote, not Criterion's macros.
sources() {
    python3 - "$1/compile_commands.json" <<'PYTHON'
import json, os, sys
root = os.getcwd()
for entry in json.load(open(sys.argv[1])):
    path = os.path.relpath(entry["file"], root)
    if not path.startswith(("build", "tests", "..")):
        print(path)
PYTHON
}

# clang reads the flags of a clang build; gcc's would not be understood.
run_tidy() {
    configure_and_build clang || return 1
    mapfile -t files < <(sources build/clang)
    phase tidy run-clang-tidy -quiet -j "$jobs" -p build/clang "${files[@]}"
}

run_cppcheck() {
    phase "cppcheck: configure" cmake --preset release || return 1
    mapfile -t files < <(sources build/release)
    phase cppcheck cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr -j "$jobs" \
        --enable=warning,performance,portability --suppress=missingIncludeSystem \
        --suppress=arrayIndexThenCheck \
        --library=posix -D_GNU_SOURCE -I. -Iinclude -Ibuild/release/include "${files[@]}"
}

# -fanalyzer at -O0: with inlining it reports paths that do not exist. Leaks are LeakSanitizer's:
# gcc 12 loses track of what is stored behind two pointers.
run_analyzer() {
    phase "analyzer: configure" cmake --preset debug -B build/analyzer -DBUILD_TESTING=OFF \
        "-DCMAKE_C_FLAGS=-fanalyzer -Wno-analyzer-malloc-leak" || return 1
    phase "analyzer: build" cmake --build build/analyzer --parallel "$jobs"
}

phase dependencies scripts/deps.sh build run test lint nightly || { phase_summary; exit 1; }
for name in "${all[@]}"; do
    if ! chosen "$name"; then
        phase_skip "$name" "not asked for"
        continue
    fi
    case "$name" in
    clang | tsan | float64) run_preset "$name" || true ;;
    *) "run_$name" || true ;;
    esac
done
phase_summary
