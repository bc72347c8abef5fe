# SPDX-License-Identifier: Apache-2.0
"""A test file with a network of its own: it runs once more, in a namespace where only loopback is up."""

import os
import subprocess
import sys

import harness

INSIDE = "SMOE_OWN_NETWORK"


def missing(tools):
    for words in (["unshare", "--net", "true"], *tools):
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as e:
            return str(e)
    return None


def main(*tools):
    """Runs the tests of the file, or says that one of these commands, or the right to make a network, is missing."""
    why = missing(tools)
    if why:
        print(f"skipped: {why} (as root, with nftables and iproute2)")
        sys.exit(0)
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, "-B",
                              *sys.argv])
    harness.main()
