#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where keys are, in the memory of processes that run: once where they are needed, nowhere else, and nowhere once they
are needed no more. Memory is read as root reads it; whoever is not root, and the kernel when a process
dies, get nothing of it (docs/security.md)."""

import os
import re
import resource
import signal
import unittest

import harness
import test_security
from harness import wait_for

PIECE = 4 << 20


def memory(pid):
    """Everything that the process could change or has been given, in pieces that overlap by more than a key line."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.. \S+ \S+ \S+\s*(.*)", line)
            if not found or found[3].startswith(("/dev", "[v")):
                continue
            begin, end = int(found[1], 16), int(found[2], 16)
            for at in range(begin, end, PIECE):
                try:
                    mem.seek(at)
                    yield at, mem.read(min(PIECE + 128, end - at))
                except OSError:
                    continue


def places(process, secret):
    """Addresses at which the key's bytes are, and those at which its digits are."""
    raw, digits = set(), set()
    for at, data in memory(process.popen.pid):
        for found, what in ((raw, bytes.fromhex(secret)), (digits, secret.encode())):
            place = data.find(what)
            while place >= 0:
                found.add(at + place)
                place = data.find(what, place + 1)
    return raw, digits


def secret_of(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip().rsplit(":", 1)[1]


@unittest.skipIf(os.geteuid() != 0, "other processes' memory is root's to read")
@unittest.skipIf(harness.SANITIZED, "a sanitizer keeps what was freed")
class Memory(test_security.Secured):
    def assertPlaces(self, process, path, copies):
        """So many copies of the key's bytes, and none of the line that it was read from."""
        def counted():
            return len(places(process, secret_of(path))[0]) == copies
        wait_for(f"{copies} of {os.path.basename(path)} in {process.name}", counted, 5)
        self.assertEqual(places(process, secret_of(path))[1], set(), f"the digits, in {process.name}")

    def test_a_key_is_where_it_is_needed_once_and_nowhere_else(self):
        daemon = self.fleet.start_daemon()
        keys = [self.fleet.key("worker", f"w{i}") for i in range(2)]
        workers = [self.fleet.start_worker(f"w{i}", "--key", key) for i, key in enumerate(keys)]
        self.fleet.wait_ready(2)
        for i, key in enumerate(keys):
            self.assertPlaces(daemon, key, 1)
            self.assertPlaces(workers[i], key, 1)  # it connects again when it must
            self.assertPlaces(workers[1 - i], key, 0)

    def test_a_key_that_was_revoked_is_nowhere_in_the_gateway(self):
        daemon = self.fleet.start_daemon()
        key = self.fleet.key("worker", "w1")
        worker = self.fleet.start_worker("w1", "--key", key)
        self.fleet.wait_ready(1)
        worker.expected.add(0)
        self.ctl("key", "revoke", "w1")
        wait_for("the end of its session", lambda: self.fleet.ready() == 0, 5)
        self.assertPlaces(daemon, key, 0)

    def test_a_trainer_has_its_key_once_and_no_other(self):
        harness.need_data(self)
        self.fleet.start_daemon("--set", "fleet.workers_min=1")
        worker_key, key = self.fleet.key("worker", "w1"), self.fleet.key("trainer", "trainer")
        self.fleet.start_worker("w1", "--key", worker_key)
        self.fleet.wait_ready(1)
        trainer = self.fleet.start_trainer(*harness.train_args(limit=20000, epochs=200), "--key", key)
        self.fleet.wait_steps(2)
        self.assertPlaces(trainer, key, 1)
        self.assertPlaces(trainer, worker_key, 0)
        trainer.kill()


@unittest.skipIf(harness.SANITIZED, "a sanitizer is a debugger of the same user")
class Cores(test_security.Secured):
    """A process that dies of SIGABRT, with no limit on core files, in a directory of its own."""

    def setUp(self):
        super().setUp()
        with open("/proc/sys/kernel/core_pattern", encoding="ascii") as f:
            if f.read().startswith(("|", "/")):
                self.skipTest("core files go elsewhere on this machine")
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        if limit[1] != resource.RLIM_INFINITY:
            self.skipTest("no core files for this user")

    def leaves_a_core(self, process):
        resource.prlimit(process.popen.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        process.expected.add(-signal.SIGABRT)
        process.signal(signal.SIGABRT)
        process.wait()
        return any(name.startswith("core") for name in os.listdir(self.fleet.dir))

    def beneath(self):
        return ("env", "-C", self.fleet.dir)

    def test_nothing_is_left_of_a_gateway_and_a_worker_that_have_keys(self):
        daemon = self.fleet.start_daemon(beneath=self.beneath())
        worker = self.fleet.start_worker("w1", beneath=self.beneath())
        self.fleet.wait_ready(1)
        self.assertFalse(self.leaves_a_core(worker))
        self.assertFalse(self.leaves_a_core(daemon))

    def test_whoever_has_none_can_be_looked_into(self):
        self.fleet.env["STABLEMOE_SECURITY_INSECURE"] = "loopback-only"
        self.fleet.keys = False
        self.assertTrue(self.leaves_a_core(self.fleet.start_daemon(beneath=self.beneath())))


if __name__ == "__main__":
    harness.main()
