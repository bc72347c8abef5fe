#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/protocol.md is what protocol_example prints.

    example_is_documented.py PROGRAM PROTOCOL.MD            compares
    example_is_documented.py PROGRAM PROTOCOL.MD --write    puts it there
"""

import difflib
import subprocess
import sys

BEGIN, END = "<!-- example: begin -->\n", "<!-- example: end -->\n"


def main():
    program, path = sys.argv[1:3]
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    wanted = "".join("    " + line if line.strip() else line for line in printed.splitlines(True))
    text = open(path, encoding="utf-8").read()
    head, rest = text.split(BEGIN)
    documented, tail = rest.split(END)
    wanted = "\n" + wanted
    if sys.argv[3:] == ["--write"]:
        open(path, "w", encoding="utf-8").write(head + BEGIN + wanted + END + tail)
        return 0
    if documented == wanted:
        return 0
    sys.stdout.writelines(difflib.unified_diff(documented.splitlines(True), wanted.splitlines(True),
                                               path, program))
    print(f"run {sys.argv[0]} {program} {path} --write")
    return 1


if __name__ == "__main__":
    sys.exit(main())
