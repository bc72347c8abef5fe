#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what stablemoe needs from Debian 12. Does nothing, quickly, when nothing is missing.
#
#   scripts/deps.sh [GROUP]...     groups below; without one: build run test lint
#   scripts/deps.sh --print [GROUP]...   only says what each package is for
set -euo pipefail

# group    package                 what for
packages='
build      gcc                     the compiler
build      libc6-dev               C library headers
build      cmake                   build system
build      ninja-build             runs the build
build      pkg-config              finds the libraries
build      libuv1-dev              event loop of the daemon and the workers
build      liburing-dev            fewer system calls for many connections (io_uring)
build      libprotobuf-c-dev       messages between them
build      protobuf-c-compiler     protoc-c, makes their code from proto/stablemoe.proto
build      libcjson-dev            JSON of the status port, results, checkpoint headers
build      libinih-dev             syntax of the configuration files
build      libopenblas-serial-dev  matrix products (the serial build: threads are ours)
build      libsqlite3-dev          journal of the daemon
build      libxxhash-dev           names frozen routers by their values (headers only)
build      libssl-dev              TLS 1.3 between nodes and gateway, their keys (OpenSSL 3)
build      zlib1g-dev              reads gzipped data sets
build      libcpupower-dev         cpufreq limits (stablemoe-freqd only: it is GPL-2.0-only)
build      libpowercap-dev         energy counters of the processor (RAPL)
build      libsensors-dev          power and temperature sensors
run        dataset-fashion-mnist   60,000 labelled images: what the demo trains on
run        jargon-text             the Jargon File, 1.7 MB of prose in the public domain: the language task
run        netcat-openbsd          nc, to ask the status port
run        python3                 the table of the demo; lint and integration tests
test       libcriterion-dev        unit tests
test       gnuplot-nox             figures of the simulator
test       python3-protobuf        a worker and a trainer in Python, written from docs/protocol.md
test       python3-fusepy          a /sys that rounds, refuses and lies, for the frequency tests
test       valgrind                that secrets steer no branch and no access
test       nftables                networks that cut, reset and drop, in namespaces of their own
test       iproute2                links between those, and slow ones
test       systemd-container       boots the installed units under a real systemd
test       protobuf-compiler       protoc, makes their message classes
lint       clang-format            layout of the sources
lint       shellcheck              mistakes in shell scripts
lint       python3-yaml            reads docker/compose.yaml
nightly    clang                   second compiler; libFuzzer
nightly    libclang-rt-dev         sanitizer and fuzzer runtimes of clang
nightly    llvm                    llvm-symbolizer: names in their reports
nightly    clang-tidy              static analysis
nightly    clang-tools             run-clang-tidy
nightly    cppcheck                static analysis, another kind
peers      python3-torch           what stablemoe-bench train and route compare with
peers      coinor-libclp-dev       CLP, what stablemoe-bench route compares with (found when configuring)
'

usage() {
    sed -n 's/^# \{0,1\}//; 4,7p' "$0"
    echo "Groups: $(groups_known | paste -sd' ')"
}

groups_known() {
    awk 'NF { print $1 }' <<<"$packages" | uniq
}

fail() {
    echo "deps.sh: $2" >&2
    exit "$1"
}

# The rows of the wanted groups.
wanted() {
    awk -v groups=" $* " 'NF && index(groups, " " $1 " ")' <<<"$packages"
}

missing() {
    local name
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null)" = "ii " ] || echo "$name"
    done
}

print=no
groups=()
for arg in "$@"; do
    case "$arg" in
    --help) usage; exit 0 ;;
    --print) print=yes ;;
    -*) fail 2 "$arg: unknown option; --print or --help" ;;
    *)
        groups_known | grep -qx -- "$arg" ||
            fail 2 "$arg: no such group; one of $(groups_known | paste -sd' ')"
        groups+=("$arg")
        ;;
    esac
done
[ ${#groups[@]} -gt 0 ] || groups=(build run test lint)

if [ $print = yes ]; then
    wanted "${groups[@]}"
    exit 0
fi

command -v dpkg-query >/dev/null ||
    fail 1 "no dpkg here: this script knows Debian 12 only; 'deps.sh --print' lists what is needed"
mapfile -t names < <(wanted "${groups[@]}" | awk '{ print $2 }')
mapfile -t needed < <(missing "${names[@]}")
[ ${#needed[@]} -gt 0 ] || exit 0

install=(apt-get install --yes --no-install-recommends "${needed[@]}")
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        as_root=(sudo "${as_root[@]}")
    else
        echo "deps.sh: ${#needed[@]} Debian packages are missing; as root, run:" >&2
        echo "    apt-get update && ${install[*]}" >&2
        exit 1
    fi
fi

echo "deps.sh: installing ${needed[*]}"
"${as_root[@]}" apt-get update --quiet=2 ||
    echo "deps.sh: apt-get update failed; trying with the package lists that are here" >&2
"${as_root[@]}" "${install[@]}" --quiet=2 || fail 1 "apt-get could not install: ${needed[*]}"
