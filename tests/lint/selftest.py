#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants each kind of violation in a small tree of its own and expects the lint to find exactly it."""

import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
HEAD = "/* SPDX-License-Identifier: Apache-2.0 */\n"
LONG = "int f(void)\n{\n" + "    ;\n" * 71 + "}\n"
FITS = "int f(void)\n{\n" + "    ;\n" * 70 + "}\n"

# (program, file, text, what it must say; None: nothing)
CASES = [
    ("arrows", "daemon/core/queue.c", '#include "common/base/err.h"\n', None),
    ("arrows", "daemon/core/queue.c", '#include "daemon/core/fleet.h"\n', "math (floor 1) includes"),
    ("arrows", "daemon/core/route_pick.c", '#include "daemon/core/fleet.h"\n', "math (floor 1)"),
    ("arrows", "daemon/core/fleet.c", '#include "daemon/core/route.h"\n', None),
    ("arrows", "daemon/core/fleet.c", '#include "proto/wire.h"\n', None),
    ("arrows", "daemon/core/fleet.c", '#include "daemon/gateway/session.h"\n', "daemon/core (floor 2)"),
    ("arrows", "daemon/gateway/report.c", 'void f(cJSON *o)\n{\n    cJSON_AddNullToObject(o, "a");\n}\n',
     "leaves out what finds no memory"),
    ("arrows", "daemon/core/freq.c", '#include "proto/wire.h"\n', "math (floor 1) includes proto"),
    ("arrows", "daemon/core/fleet.c", '#include "common/io/log.h"\n', "daemon/core (floor 2)"),
    ("arrows", "daemon/gateway/session.c", '#include "proto/frame.h"\n#include "daemon/core/core.h"\n',
     None),
    ("arrows", "daemon/gateway/session.c", '#include "daemon/shell/loop.h"\n', "daemon/gateway"),
    ("arrows", "daemon/gateway/session.c", "#include <sys/socket.h>\n", "in a pure room"),
    ("arrows", "proto/frame.c", '#include "daemon/core/core.h"\n', "proto (floor 2) includes"),
    ("arrows", "common/kernels/ffn.c", '#include "common/io/log.h"\n', "common/kernels (floor 1)"),
    ("arrows", "client/worker/agent/agent.c", '#include "client/worker/shell/link.h"\n', "agent"),
    ("arrows", "client/worker/agent/agent.c", "#include <uv.h>\n", "behind a door"),
    ("arrows", "common/io/conn.c", "#include <uv.h>\n", None),
    ("arrows", "daemon/shell/loop.c", '#include "daemon/shell/status.h"\n#include <uv.h>\n', None),
    ("arrows", "daemon/shell/status.c", '#include "daemon/shell/listener.h"\n', "outside loop.c"),
    ("arrows", "daemon/shell/status.c", '#include "daemon/shell/status.h"\n', None),
    ("arrows", "daemon/shell/main.c", '#include "daemon/shell/loop.h"\n', None),
    ("arrows", "client/worker/shell/settings.c", '#include "client/worker/shell/freqctl.h"\n', None),
    ("arrows", "client/worker/agent/task.h", "#include <stdatomic.h>\n", None),
    ("arrows", "client/worker/agent/agent.c", "#include <stdatomic.h>\n", "behind a door"),
    ("arrows", "sim/oracle.c", '#include "client/train/model/model.h"\n', None),
    ("arrows", "sim/oracle.c", '#include "client/train/run.h"\n', "sim (floor 4)"),
    ("arrows", "client/train/model/pass.c", '#include "common/io/log.h"\n', "client/train/model"),
    ("arrows", "client/train/model/pass.c", "#include <unistd.h>\n", "in a pure room"),
    ("arrows", "daemon/main.c", '#include "daemon/shell/loop.h"\n', None),
    ("arrows", "daemon/shell/loop.c", '#include "proto/stablemoe.pb-c.h"\n', "behind a door"),
    ("arrows", "proto/wire_worker.c", '#include "proto/stablemoe.pb-c.h"\n', None),
    ("arrows", "common/kernels/ffn.c", "#include <cblas.h>\n", "behind a door"),
    ("arrows", "daemon/shell/store.c", "#include <cjson/cJSON.h>\n", "behind a door"),
    ("arrows", "proto/frame.c", "#include <math.h>\n", "behind a door"),
    ("arrows", "daemon/core/cost.c", "#include <math.h>\ndouble f(double x);\n", None),
    ("arrows", "daemon/core/cost.c", "double f(double x)\n{\n    return exp(x);\n}\n", "exp()"),
    ("arrows", "daemon/shell/loop.c", "void f(void)\n{\n    uv_hrtime();\n}\n", "reads a clock"),
    ("arrows", "daemon/shell/loop.c", "/* time() */ // clock()\nconst char *s = \"time()\";\n", None),
    ("arrows", "daemon/shell/loop.c", 'const char *s = "/sys/class/thermal";\n', "touches /sys"),
    ("arrows", "client/worker/shell/meter_rapl.c", 'const char *s = "/sys/class/powercap";\n', None),
    ("arrows", "common/base/text.c", 'void f(void)\n{\n    printf("x");\n}\n', "printf() prints"),
    ("arrows", "daemon/attic/x.c", "int x;\n", "belongs to no room"),
    ("style", "common/base/x.c", FITS, None),
    ("style", "common/base/x.c", LONG, "f has 71 lines"),
    ("style", "common/base/x.c", "int\tx;\n", "tab"),
    ("style", "common/base/x.c", "int x; \n", "blanks at the end"),
    ("style", "common/base/x.c", "int x;", "ends without one newline"),
    ("style", "common/base/x.c", "int x;\n" * 500, "more than 500"),
    ("style", "common/base/x.c", "/* " + 120 * "x" + " */\n", "126 columns"),
]


def run(program, path, text):
    with tempfile.TemporaryDirectory() as root:
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full))
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)
        ran = subprocess.run([sys.executable, "-B", os.path.join(HERE, program + ".py"), "--root", root],
                             capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout.strip()


def main():
    failed = 0
    cases = [(p, f, HEAD + t, w) for p, f, t, w in CASES]
    cases.append(("style", "common/base/x.c", "int x;\n", "lacks `/* SPDX"))
    cases.append(("style", "scripts/x.sh", "#!/bin/sh\n", "lacks `# SPDX"))
    for program, path, text, wanted in cases:
        rc, said = run(program, path, text)
        found = said.split("\n") if said else []
        good = (rc == 0 and not found) if wanted is None else (
            rc == 1 and len(found) == 1 and wanted in found[0] and path in found[0])
        if not good:
            failed += 1
            print(f"{program} on {path}:\n{text}expected {wanted!r}, exit {rc} and {said!r}\n")
    print(f"{len(cases)} plants, {failed} wrong")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
