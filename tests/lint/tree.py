# SPDX-License-Identifier: Apache-2.0
"""What the lint programs share: which files there are, C without its comments, the verdict."""

import argparse
import os
import re
import sys

TOP = ("include", "common", "proto", "daemon", "client", "sim", "bench", "tests", "scripts",
       "systemd", "docker", "docs")
SKIP = 77  # ctest's SKIP_RETURN_CODE of these tests


def arguments(about):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--root", default=os.path.join(os.path.dirname(__file__), "..", ".."))
    return parser


def files(root, *suffixes):
    """Paths relative to root, sorted, of our own sources."""
    found = []
    for top in TOP:
        for folder, folders, names in os.walk(os.path.join(root, top)):
            folders[:] = [f for f in folders if not f.startswith((".", "__")) and f != "build"]
            found += [os.path.relpath(os.path.join(folder, n), root)
                      for n in names if n.endswith(suffixes)]
    return sorted(found)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def _blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def without_comments(text):
    """Comments become blanks; line numbers stay, strings too."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
    return token.sub(lambda m: _blank(m) if m.group()[0] == "/" else m.group(), text)


def without_strings(text):
    """For text without comments: the insides of string literals become blanks."""
    return re.sub(r'"(?:\\.|[^"\\\n])*"', lambda m: '"' + " " * (len(m.group()) - 2) + '"', text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def verdict(program, problems):
    """Prints what was found, one a line, and exits."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"{program}: {len(problems)} found", file=sys.stderr)
    sys.exit(1 if problems else 0)


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(SKIP)
