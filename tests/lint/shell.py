#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shell scripts parse, and shellcheck, where it is installed, finds nothing."""

import os
import shutil
import subprocess

import tree


def run(root, command):
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return []
    return (ran.stdout + ran.stderr).strip().split("\n")


def main():
    root = tree.arguments(__doc__).parse_args().root
    scripts = tree.files(root, ".sh")
    if os.path.exists(os.path.join(root, ".ci/run")):
        scripts.append(".ci/run")
    problems = [line for script in scripts for line in run(root, ["bash", "-n", script])]
    for script in scripts:
        executable = os.access(os.path.join(root, script), os.X_OK)
        starts = tree.read(root, script).startswith("#!")
        if executable != starts:
            problems.append(f"{script}: executable and #! go together")
    if shutil.which("shellcheck"):
        problems += run(root, ["shellcheck", "--external-sources", "--format=gcc", *scripts])
    tree.verdict("shell", problems)


if __name__ == "__main__":
    main()
