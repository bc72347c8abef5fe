#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The gateway moves bytes by epoll and by io_uring alike, and does without what the kernel refuses."""

import json
import os
import re
import sys

import harness
from harness import train_args

# Runs the rest of its command line where io_uring_setup (425 everywhere) ends with EPERM, as containers do.
WITHOUT_RING = """
import ctypes, os, struct, sys
code = b"".join(struct.pack("=HBBI", *i) for i in (
    (0x20, 0, 0, 0),            # the number of the call
    (0x15, 0, 1, 425),          # is it that one?
    (0x06, 0, 0, 0x00050001),   # EPERM
    (0x06, 0, 0, 0x7fff0000)))  # permitted
keep = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(keep)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, program, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


@harness.need_data
class Backend(harness.FleetTest):
    def daemon_argv(self, backend):
        return [os.path.join(harness.BIN, "stablemoed"), "--listen", "127.0.0.1:0", "--status",
                "127.0.0.1:0", "--state-dir", self.fleet.state_dir, "--set", "fleet.workers_min=2",
                "--set", f"net.backend={backend}"]

    def start(self, argv):
        """A gateway; what it says that it moves bytes by."""
        daemon = self.fleet.start("stablemoed", argv)
        line = daemon.wait_for_line(r'msg=listening peers=(\S+) status=(\S+) .*io=("[^"]*"|\S+)')
        self.fleet.gateway, self.fleet.status_address = line.group(1), line.group(2)
        return line.group(3)

    def train(self):
        self.fleet.start_workers(2)
        trainer = self.fleet.start_trainer(*train_args(1000, epochs=10))
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        result = json.loads(trainer.out())
        self.assertEqual(result["steps"], 100)
        self.assertGreater(result["test_accuracy"], 0.6)

    def test_trains_by_epoll(self):
        self.assertEqual(self.start(self.daemon_argv("epoll")), "epoll")
        self.train()

    def test_trains_by_io_uring_or_says_why_there_is_none(self):
        said = self.start(self.daemon_argv("auto"))
        if said != "io_uring":
            self.assertRegex(said, r'^"epoll \(io_uring: .+\)"$')
            self.skipTest(f"the kernel gives none: {said}")
        self.train()

    def test_does_without_what_the_kernel_refuses(self):
        without = [sys.executable, "-c", WITHOUT_RING]
        self.assertEqual(self.start(without + self.daemon_argv("auto")),
                         '"epoll (io_uring: operation not permitted)"')
        self.train()

    def test_starts_not_at_all_where_a_ring_was_insisted_on(self):
        code, _, err = self.fleet.run([sys.executable, "-c", WITHOUT_RING]
                                      + self.daemon_argv("io_uring"))
        self.assertEqual(code, 1, err)
        self.assertTrue(re.match(r"stablemoed: .*net\.backend: io_uring: operation not permitted\n$",
                                 err), err)


if __name__ == "__main__":
    harness.main()
