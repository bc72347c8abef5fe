#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""clang-format changes nothing in any C file. Other versions lay out differently: 14 only."""

import shutil
import subprocess

import tree

VERSION = "14."


def find_formatter():
    for name in ("clang-format-14", "clang-format"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
            if f"version {VERSION}" in said.stdout:
                return name
    return None


def main():
    root = tree.arguments(__doc__).parse_args().root
    formatter = find_formatter()
    if not formatter:
        tree.skip(f"no clang-format {VERSION}x here")
    paths = tree.files(root, ".c", ".h")
    found = subprocess.run([formatter, "--dry-run", "-Werror", "--ferror-limit=1", *paths],
                           cwd=root, capture_output=True, text=True, check=False)
    tree.verdict("layout", [line for line in found.stderr.split("\n") if ": error: " in line])


if __name__ == "__main__":
    main()
