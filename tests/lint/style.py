#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small rules that need no parser: the licence line, no tabs, lines, functions and files of bearable size.

--report prints the sizes instead: the median function and the longest ones.
"""

import os
import re
import statistics

import tree

FUNCTION_MAX = 70  # lines between the braces
LINE_MAX = 120     # columns, of C: clang-format keeps code to fewer, and leaves comments alone
FILE_MAX = 500     # lines, aim at 400; tests may be longer, a list of cases is not hard to read

# What is longer, and why it is better so: {(file, function or None): reason}
LONG = {
}

LICENCE = {
    ".c": "/* SPDX-License-Identifier: Apache-2.0",
    ".h": "/* SPDX-License-Identifier: Apache-2.0",
    ".proto": "// SPDX-License-Identifier: Apache-2.0",
    ".sh": "# SPDX-License-Identifier: Apache-2.0",
    ".py": "# SPDX-License-Identifier: Apache-2.0",
}
GPL_ROOM = "client/freqd/"  # links libcpupower


def functions(text):
    """(name, first line, lines of the body). Our layout puts a function's braces in column 0."""
    lines = text.split("\n")
    start = None
    for i, line in enumerate(lines):
        if line == "{":
            start = i
        elif line.startswith("}") and start is not None:
            head = " ".join(lines[max(0, start - 8):start])
            names = re.findall(r"(\w+)\s*\(", head.rsplit(";", 1)[-1].rsplit("}", 1)[-1])
            yield (names[0] if names else "?"), start, i - start - 1
            start = None


def check_licence(path, text):
    suffix = os.path.splitext(path)[1]
    wanted = LICENCE[suffix]
    if path.startswith(GPL_ROOM):
        wanted = wanted.replace("Apache-2.0", "GPL-2.0-only")
    first = text.split("\n", 3)[:3] if suffix in (".sh", ".py") else text.split("\n", 1)[:1]
    if not any(line.startswith(wanted) for line in first):
        yield f"{path}:1: lacks `{wanted}`"


def check_text(path, text):
    if not text.endswith("\n") or text.endswith("\n\n"):
        yield f"{path}: ends without one newline"
    for number, line in enumerate(text.split("\n"), 1):
        if "\t" in line:
            yield f"{path}:{number}: tab"
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end"


def check_sizes(path, text):
    lines = text.count("\n")
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_MAX:
            yield f"{path}:{number}: {len(line)} columns, more than {LINE_MAX}"
    if lines > FILE_MAX and not path.startswith("tests/") and (path, None) not in LONG:
        yield f"{path}: {lines} lines, more than {FILE_MAX}"
    for name, start, length in functions(text):
        if length > FUNCTION_MAX and (path, name) not in LONG:
            yield f"{path}:{start}: {name} has {length} lines, more than {FUNCTION_MAX}"


def report(root):
    sizes = [(length, path, name) for path in tree.files(root, ".c")
             for name, _, length in functions(tree.read(root, path))]
    code = [s for s in sizes if not s[1].startswith("tests/")] or [(0, "", "")]
    print(f"{len(code)} functions, median {statistics.median(s[0] for s in code)} lines")
    for length, path, name in sorted(code, reverse=True)[:15]:
        print(f"{length:5}  {path}: {name}")


def main():
    parser = tree.arguments(__doc__)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        report(args.root)
        return
    problems = []
    for path in tree.files(args.root, *LICENCE):
        text = tree.read(args.root, path)
        problems += check_licence(path, text)
        problems += check_text(path, text)
        if path.endswith((".c", ".h")):
            problems += check_sizes(path, text)
    tree.verdict("style", problems)


if __name__ == "__main__":
    main()
