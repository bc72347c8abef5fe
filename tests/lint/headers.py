#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every header compiles alone, with the flags its room is built with."""

import json
import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import tree


def flags_by_folder(root, build):
    """The compiler and the flags of each folder of sources, from the build tree."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        commands = json.load(f)
    found = {}
    for entry in commands:
        folder = os.path.relpath(os.path.dirname(entry["file"]), root)
        words = shlex.split(entry["command"])
        cut = words.index("-o")
        found.setdefault(folder, [w for w in words[:cut] if not w.startswith(("-M", "-O", "CMake"))])
    return found


def flags_of(path, flags):
    """Those of the folder, or of the room a folder of public headers belongs to."""
    folder = os.path.dirname(path)
    return flags.get(folder) or flags.get("common/base")


def check(root, path, command):
    text = f'#include "{path}"\ntypedef int not_empty;\n'
    command = [w for w in command if not w.endswith((".o.d", ".o"))]
    ran = subprocess.run([*command, f"-I{root}", "-w", "-fsyntax-only", "-x", "c", "-"], input=text,
                         capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return []
    first = next((line for line in ran.stderr.split("\n") if "error" in line), ran.stderr[:200])
    return [f"{path}: does not compile alone: {first}"]


def main():
    parser = tree.arguments(__doc__)
    parser.add_argument("--build", required=True)
    args = parser.parse_args()
    root = os.path.realpath(args.root)
    flags = flags_by_folder(root, args.build)
    paths = tree.files(root, ".h")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda p: check(root, p, flags_of(p, flags)), paths)
    tree.verdict("headers", [problem for problems in found for problem in problems])


if __name__ == "__main__":
    main()
