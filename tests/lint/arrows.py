#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps the house standing: which room may include which, and one door for each part of the world.

Every source file belongs to a room, every room stands on a floor, and `#include` points down: a
room includes itself, the rooms it names here, and nothing else of ours. The outside (libuv, JSON,
protobuf, BLAS, /sys, clocks, the operating system) is met only behind the doors listed below.
A new arrow or door is a decision: change the table, and say why in the commit.
"""

import fnmatch
import os
import re

import tree

GROUND = ["include/stablemoe", "common/base"]
MACHINES = ["math", "daemon/core"]

# room: (floor, rooms it may include). `math` are the files of daemon/core that are plain
# mathematics; `main` are the main.c files.
ROOMS = {
    "include/stablemoe": (0, []),
    "common/base": (0, ["include/stablemoe"]),
    "common/json": (0, []),
    "common/kernels": (1, GROUND),
    "math": (1, GROUND),
    "proto": (2, GROUND),
    "daemon/core": (2, GROUND + ["math", "proto"]),
    "daemon/gateway": (2, GROUND + MACHINES + ["proto", "common/json"]),
    "client/libstablemoe/core": (2, GROUND + ["math", "proto"]),
    "client/worker/agent": (2, GROUND + ["proto", "common/kernels"]),
    "common/io": (3, GROUND + ["proto"]),
    "daemon/shell": (3, GROUND + MACHINES + ["proto", "common/io", "daemon/gateway"]),
    "client/libstablemoe/shell": (3, GROUND + ["proto", "common/io", "client/libstablemoe/core"]),
    "client/worker/shell": (3, GROUND + ["proto", "common/io", "common/kernels",
                                         "client/worker/agent"]),
    # The model a trainer computes itself, and the layer computed in one process: mathematics, which
    # the simulator's oracle and the tests compare the fleet with.
    "client/train/model": (2, GROUND + ["common/kernels"]),
    # Who scores a token: pure too. BASE's balanced assignment is the daemon's own solve.
    "client/train/router": (2, GROUND + ["common/kernels", "math"]),
    "client/train": (4, GROUND + ["proto", "common/io", "common/json", "common/kernels", "client/train/model",
                                  "client/train/router"]),
    "client/ctl": (4, GROUND + ["proto", "common/io"]),
    "client/freqd": (4, GROUND + ["common/io"]),
    "sim": (4, GROUND + MACHINES + ["common/json", "common/kernels", "proto", "daemon/gateway",
                                    "client/libstablemoe/core", "client/worker/agent",
                                    "client/train/model"]),
    # The simulator's commands: where it meets command lines, data sets and gnuplot, as a main.c would.
    "sim/program": (4, ["*"]),
    # What users of the library copy: it sees what is installed.
    "docs": (4, ["include/stablemoe"]),
    "main": (4, ["*"]),
    "bench": (4, ["*"]),
    "tests": (5, ["*"]),
}
# Same floor, and still an arrow: the gateway drives the core, and everyone speaks the protocol (the
# core through proto/wire.h: messages as plain structs).
NEIGHBOURS = {("daemon/core", "proto"), ("daemon/gateway", "daemon/core"), ("daemon/gateway", "proto"),
              ("client/libstablemoe/core", "proto"), ("client/worker/agent", "proto"),
              ("common/base", "include/stablemoe"),
              ("daemon/shell", "common/io"), ("client/libstablemoe/shell", "common/io"),
              ("client/worker/shell", "common/io")}
MATH = ("queue", "cost", "route", "freq", "policy", "place", "shard", "router")

# Pure rooms know no operating system: C's own headers, and two types of POSIX that are only types.
PURE = ("include/stablemoe", "common/base", "common/json", "common/kernels", "math", "daemon/core", "proto",
        "daemon/gateway", "client/libstablemoe/core", "client/worker/agent", "client/train/model", "client/train/router",
        "sim")
C_HEADERS = {"ctype.h", "errno.h", "float.h", "inttypes.h", "iso646.h", "limits.h", "stdalign.h",
             "stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "stdnoreturn.h",
             "string.h", "math.h", "sys/types.h", "sys/uio.h"}

SHELLS = ["common/io/*", "daemon/shell/*", "client/*/shell/*", "bench/*"]
# A header behind a door: who may include it.
DOORS = {
    "uv.h": [*SHELLS, "tests/integration/starved.c"],  # whose allocator it replaces
    "xxhash.h": ["daemon/core/router_frozen.c"],
    "liburing.h": ["common/io/ring.c"],
    "openssl/*": ["common/io/certificate.c", "common/io/key.c", "common/io/tls*", "bench/authority.c",
                  "bench/bench_tls.c", "tests/*"],
    "*.pb-c.h": ["proto/wire*", "proto/trace_*", "proto/channel.c", "tests/unit/proto/*", "tests/fuzz/*"],
    "protobuf-c/*": ["proto/arena.*", "proto/flat.*", "proto/wire*", "proto/trace_*", "tests/unit/proto/*",
                     "tests/fuzz/*"],
    "cjson/cJSON.h": ["common/json/json.h", "proto/safetensors*", "client/ctl/*", "bench/*", "tests/*"],
    # A peer that is compared with, in a program of its own.
    "coin/*": ["bench/peers/*"],
    "cblas.h": ["common/kernels/gemm.c", "bench/*"],
    "ini.h": ["common/io/config.c"],
    "cpufreq.h": ["client/freqd/policies.c"],
    "powercap*": ["client/worker/shell/meter*"],
    "sensors/*": ["client/worker/shell/meter*"],
    "sqlite3.h": ["daemon/shell/store_sql.h", "daemon/shell/store.c", "tests/*"],
    "getopt.h": ["common/io/cli.c"],
    # Threads meet in one place: the agent reads how far a lane has come with a task that it lent it
    # (task.h), and the lanes are told their duty. Everything else belongs to one thread.
    "stdatomic.h": ["client/worker/agent/task.h", "client/worker/shell/lanes.c", "tests/*"],
    # Vector minima by name; everything else of the hot pass is the compilers' vector extension.
    "immintrin.h": ["daemon/core/route_arcs.c", "daemon/core/route_grain_rows.c", "daemon/core/route_pick_tile.c"],
    "zlib.h": ["proto/frame.c", "proto/trace_frame.c", "client/train/data/*", "tests/*"],
    # exp and log of libm differ between CPUs, and a trace must not: detmath has ours. sqrt, floor,
    # isfinite and the like are exact everywhere, so the mathematics may have them; the daemon's
    # settings and budgets turn "no budget" into INFINITY, which traces know too.
    "math.h": ["common/base/detmath.c", "common/base/rng.c", "common/base/text.c",
               "common/kernels/*", "daemon/core/*", "proto/trace_*", "daemon/shell/budgets.c", "daemon/shell/settings.c",
               "client/train/*", "sim/*", "bench/*", "tests/*"],
}
# Calls behind a door, in code without strings and comments.
CALLS = {
    r"\b(clock_gettime|gettimeofday|timespec_get|time|clock|uv_hrtime|uv_now|uv_clock_gettime)\s*\(":
        ("reads a clock; common/io/clock.h is the one place",
         # freqd is of another licence, and links nothing of ours
         ["common/io/clock.c", "client/freqd/main.c", "bench/*", "tests/*"]),
    r"\b(exp|exp2|expm1|log|log2|log10|log1p|pow|sin|cos|tan|tanh|sinh|cosh|erf|lgamma|tgamma|cbrt"
    r"|rand|random|srand)\s*\(":
        ("differs between machines; common/base/detmath.h and rng.h have ours",
         ["common/base/detmath.c", "common/kernels/*", "client/train/*", "bench/*", "tests/*"]),
    r"\bcJSON_(Add\w+|Print\w*)\s*\(":
        ("leaves out what finds no memory; common/json/json.h makes documents that are whole",
         ["common/json/json.c", "proto/safetensors_write.c", "tests/*"]),  # which looks at each answer
    r"\b(printf|fprintf|puts|perror|syslog)\s*\(":
        ("prints; libraries return their errors",
         ["common/base/assert.c", "common/io/cli.*", "common/io/config*", "*/main.c",
          "client/train/*", "client/ctl/*", "sim/*", "bench/*", "docs/*", "tests/*"]),
}
# Strings behind a door.
STRINGS = {
    '"/sys/': ("touches /sys; only the frequency and energy drivers do",
               ["client/worker/shell/freqctl*", "client/worker/shell/meter*", "client/freqd/*"]),
}
# What a program's shell files may share beside meeting in loop.c.
SHELL_COMMON = ("shell.h", "settings.h")
# Who may see the others: the loop joins them, main starts the loop, and the option table names the
# drivers that there are.
SHELL_MEETING = ("loop.c", "loop_admin.c", "main.c", "settings.c")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)


def matches(path, patterns):
    return any(fnmatch.fnmatch(path, p) for p in patterns)


def room_of(path):
    """The room of a file or an include path, or None if it is not ours."""
    if os.path.basename(path) == "main.c":
        return "main"
    folder, name = os.path.split(path)
    if folder == "daemon/core" and re.match(rf"({'|'.join(MATH)})(_\w+)?\.[ch]$", name):
        return "math"
    while folder:
        if folder in ROOMS:
            return folder
        folder = os.path.dirname(folder)
    return "include/stablemoe" if path.startswith("stablemoe/") else None


def check_table():
    """The table itself obeys the law: arrows point down, but for the neighbours."""
    for room, (floor, allowed) in ROOMS.items():
        for other in allowed:
            if other == "*" or (room, other) in NEIGHBOURS:
                continue
            if ROOMS[other][0] >= floor:
                yield f"arrows.py: {room} (floor {floor}) may not include {other}"


def check_arrow(path, room, target):
    other = room_of(target)
    if other is None or other == room or "*" in ROOMS[room][1]:
        return None
    if other not in ROOMS[room][1]:
        return f"{room} (floor {ROOMS[room][0]}) includes {other} (floor {ROOMS[other][0]})"
    return None


def check_shell_meeting(path, target):
    """A program's shell files meet only in its loop.c; main.c and settings.c are about all."""
    folder, name = os.path.split(path)
    if not fnmatch.fnmatch(path, "*/shell/*.c") or os.path.dirname(target) != folder:
        return None
    other = os.path.basename(target)
    stem = name[:-2]
    if name in SHELL_MEETING or other in SHELL_COMMON or stem.startswith(other[:-2]) or \
            other.startswith(stem + "_"):  # a part of its own
        return None
    return f"meets {other} outside loop.c"


def check_include(path, room, kind, target):
    if kind == "<" and room in PURE and target not in C_HEADERS and not matches(target, DOORS):
        return f"<{target}> in a pure room"
    for header, allowed in DOORS.items():
        if fnmatch.fnmatch(target, header) or fnmatch.fnmatch(os.path.basename(target), header):
            if not matches(path, allowed):
                return f"{target} is behind a door: {', '.join(allowed)}"
    if kind == '"':
        return check_arrow(path, room, target) or check_shell_meeting(path, target)
    return None


def check_file(root, path):
    room = room_of(path)
    if room is None:
        yield f"{path}: belongs to no room; name it in tests/lint/arrows.py"
        return
    text = tree.without_comments(tree.read(root, path))
    for m in INCLUDE.finditer(text):
        problem = check_include(path, room, m.group(1), m.group(2))
        if problem:
            yield f"{path}:{tree.line_of(text, m.start())}: {problem}"
    for string, (why, allowed) in STRINGS.items():
        if string in text and not matches(path, allowed):
            yield f"{path}:{tree.line_of(text, text.index(string))}: {why}"
    code = tree.without_strings(text)
    for pattern, (why, allowed) in CALLS.items():
        if matches(path, allowed):
            continue
        for m in re.finditer(pattern, code):
            yield f"{path}:{tree.line_of(code, m.start())}: {m.group(1)}() {why}"


def main():
    root = tree.arguments(__doc__).parse_args().root
    problems = list(check_table())
    for path in tree.files(root, ".c", ".h"):
        problems += check_file(root, path)
    tree.verdict("arrows", problems)


if __name__ == "__main__":
    main()
