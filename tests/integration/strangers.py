# SPDX-License-Identifier: Apache-2.0
"""Peers that are written from the protocol alone (stranger/): a Python that has protobuf, their folder on the path.

MISSING says what is not there; None when they can be played.
"""

import os
import sys

import harness

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's protobuf is there
try:
    import google.protobuf
except ImportError:
    if os.path.exists(SYSTEM_PYTHON) and \
            os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, "-B"] + sys.argv)

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stranger")
sys.path.insert(0, FOLDER)
sys.dont_write_bytecode = True
try:
    import wire
    MISSING = None
except (ImportError, FileNotFoundError) as e:  # the module, or protoc
    MISSING = str(e)


def main():
    """The tests of a program that plays strangers, or why there are none."""
    if MISSING:
        print(f"skipped: {MISSING} (python3-protobuf, protobuf-compiler)")
        sys.exit(0)
    harness.main()
