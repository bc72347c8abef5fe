#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds stablemoe and runs all its tests: lint, unit, simulation and integration tests, and the
# fuzz corpora, in a release build and again under ASan and UBSan. Slow analyses: scripts/nightly.sh.
#
#   scripts/test.sh [-j N] [PRESET]...     presets of CMakePresets.json; without one: release asan
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)
presets=()
while [ $# -gt 0 ]; do
    case "$1" in
    --help) sed -n 's/^# \{0,1\}//; 4,7p' "$0"; exit 0 ;;
    -j) jobs=${2:?-j needs a number}; shift ;;
    -*) echo "test.sh: $1: unknown option; -j N or --help" >&2; exit 2 ;;
    *) presets+=("$1") ;;
    esac
    shift
done
[ ${#presets[@]} -gt 0 ] || presets=(release asan)

phase_logs=build/log
# shellcheck source=scripts/phases.sh
. scripts/phases.sh

# The lint looks at the sources, not at a build: once is enough.
linted=no
test_preset() {
    local preset=$1 skip=()
    [ $linted = no ] || skip=(--label-exclude '^lint$')
    linted=yes
    phase "$preset: configure" cmake --preset "$preset" || return 0
    phase "$preset: build" cmake --build --preset "$preset" --parallel "$jobs" || return 0
    phase "$preset: test" ctest --preset "$preset" --parallel "$jobs" --no-tests=error \
        "${skip[@]}" || return 0
}

echo "tests of ${presets[*]}, $jobs at a time; logs in $phase_logs/"
if phase dependencies scripts/deps.sh; then
    for preset in "${presets[@]}"; do
        test_preset "$preset"
    done
fi
phase_summary
