#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The machine runs short: of memory, of descriptors, of disk; its clock jumps; a process stands still. What is
refused is refused in words, what goes on degraded says so in status and log, and what was lost comes back by
itself; no step is lost, none is taken twice, and all of them are those of the reference (survivor.c).

The machine fails when and as often as a test says: faults.c beneath a program, a small tmpfs, setrlimit.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import unittest

import harness
from faults import Faults

STRIDE = int(os.environ.get("SMOE_ALLOCATIONS", "17"))  # every 17th allocation of a start; 1: each
MAY_MOUNT = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
NOBODY = "127.0.0.1:1"  # no gateway listens there


class Shortage(harness.FleetTest):
    WORKERS = 2

    def start(self, *args, beneath=(), worker_beneath=(), **options):
        """A daemon, workers w1.. and a survivor that has taken a step."""
        self.daemon = self.fleet.start_daemon("--set", f"fleet.workers_min={self.WORKERS}", *args,
                                              beneath=beneath, **options)
        self.workers = [self.fleet.start_worker("w1", beneath=worker_beneath),
                        *(self.fleet.start_worker(f"w{i}") for i in range(2, self.WORKERS + 1))]
        self.fleet.wait_ready(self.WORKERS)
        self.survivor = self.fleet.start_survivor()
        self.survivor.wait_for_steps(1)

    def assertWhole(self, steps=3):
        """Training goes on, and is what it would have been."""
        self.survivor.wait_for_steps(steps)
        self.fleet.wait_ready(self.WORKERS)
        self.assertLawful()
        self.assertSameSteps(self.survivor)

    def wait_for_io(self, what, condition):
        return harness.wait_for(what, lambda: condition(self.fleet.status()["io"]))


@unittest.skipIf(harness.SANITIZED, "sanitizers have a memory of their own")
class Memory(Shortage):
    CALLS = {
        "stablemoed": (["--set", "security.insecure=loopback-only", "--listen", "127.0.0.1:0", "--status",
                        "127.0.0.1:0", "--state-dir", "STATE"],
                       b"msg=listening"),
        "stablemoe-worker": (["--gateway", NOBODY, "--id", "w", "--state-dir", "STATE"],
                             b"no gateway"),
    }

    def begin(self, program, nth):
        """Starts it with the nth allocation failing. Ends it once it is up: (code, stderr, allocations)."""
        args, up = self.CALLS[program]
        state = self.fleet.path("state")
        shutil.rmtree(state, ignore_errors=True)
        faults = Faults(self.fleet, "start")
        faults.alloc_nth = nth
        argv = [*faults.beneath, os.path.join(harness.BIN, program),
                *(state if word == "STATE" else word for word in args)]
        said = b""
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            for line in process.stderr:
                said += line
                if up in line:
                    break
            allocations, faults.alloc_nth = faults.allocations, 0
            if up in said:
                process.terminate()
            said += process.stderr.read()
        return process.returncode, said.decode(), allocations

    def test_an_allocation_that_fails_at_the_start_is_survived_or_said_in_one_line(self):
        for program, (_, up) in self.CALLS.items():
            code, said, allocations = self.begin(program, 0)
            self.assertEqual(code, 0, said)
            # the last ones are the event loop's, and singular
            for nth in [*range(1, allocations, STRIDE), *range(allocations - 15, allocations + 1)]:
                code, said, _ = self.begin(program, nth)
                if code == 0:
                    self.assertIn(up.decode(), said, f"{program}, allocation {nth}")
                    continue
                self.assertIn(code, (1, 2), f"{program}, allocation {nth}: {said}")
                self.assertRegex(said, r"\A\S.*\n?\Z", f"{program}, allocation {nth}") # libsensors has its own

    def starve(self, faults, every):
        """So many allocations fail for a while; somebody must notice."""
        before = faults.alloc_failed
        faults.alloc_every = every
        harness.wait_for("failed allocations", lambda: faults.alloc_failed >= before + 4)
        faults.alloc_every = 0

    def test_a_gateway_short_of_memory_refuses_and_lives(self):
        faults = Faults(self.fleet, "gateway")
        self.start(beneath=faults.beneath)
        for every in (3, 31):
            self.starve(faults, every)
            self.assertTrue(self.daemon.running(), self.daemon.err())
            self.survivor.wait_for_steps(1)
        self.assertWhole()


    def test_a_worker_short_of_memory_leaves_and_comes_back(self):
        faults = Faults(self.fleet, "worker")
        self.start(worker_beneath=faults.beneath)
        for every in (3, 31):
            self.starve(faults, every)
            self.assertTrue(self.workers[0].running(), self.workers[0].err())
            self.survivor.wait_for_steps(1)
        self.assertWhole()


class Library(harness.FleetTest):
    """A trainer's allocations one after another, in every call of the library: see starved.c."""

    def test_a_call_that_finds_no_memory_says_so_and_can_be_made_again(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        self.fleet.start_workers(2)
        self.fleet.wait_ready(2)
        code, out, err = self.fleet.run([os.path.join(harness.HELPERS, "integration_starved"), self.fleet.gateway])
        self.assertEqual(code, 0, err)
        told = json.loads(out)
        self.assertGreater(told["allocations"], 50)
        self.assertGreater(told["refusals"], 20)
        self.assertLawful()


def bounded(descriptors):
    """What becomes a program that may have so many descriptors."""
    return ["prlimit", f"--nofile={descriptors}:{descriptors}"]


class Descriptors(Shortage):
    def fill(self, n):
        """Connections that say nothing; what the other end closes is closed here too."""
        sockets = []
        for _ in range(n):
            s = socket.create_connection(harness.split_address(self.fleet.gateway))
            self.addCleanup(s.close)
            sockets.append(s)
        return sockets

    def test_out_of_descriptors_the_gateway_serves_those_it_has_says_so_and_recovers(self):
        self.start("--set", "net.hello_timeout=60s", beneath=bounded(90))
        crowd = self.fill(120)
        self.daemon.wait_for_line("level=warning .*connections wait.*why=.too many open files")
        self.assertIn("too many open files", self.fleet.status()["io"]["waiting"])
        self.survivor.wait_for_steps(3)
        self.assertEqual(harness.ask(self.fleet.path("gateway/admin.sock"), b"reload\n"),
                         b'{"ok":true}\n')
        for s in crowd:
            s.close()
        self.wait_for_io("room", lambda io: io["waiting"] == "")
        self.daemon.wait_for_line("level=notice .*connections are taken again")
        self.fleet.start_worker("w3")
        self.fleet.wait_ready(3)
        self.assertLessEqual(len(re.findall("connections wait", self.daemon.err())), 6)
        self.assertWhole()

    def test_a_full_file_table_of_the_machine_stops_no_slot(self):
        faults = Faults(self.fleet, "gateway")
        self.start(beneath=faults.beneath)
        faults.accept_errno = errno.ENFILE
        worker = self.fleet.start_worker("w3")
        harness.wait_for("accept to fail", lambda: faults.accept_failed >= 5)
        self.survivor.wait_for_steps(3)
        self.assertLess(faults.accept_failed, 1000, "it does not spin")
        faults.accept_errno = 0
        self.fleet.wait_ready(3)
        self.assertTrue(worker.running())
        self.daemon.wait_for_line("connections are taken again")
        self.assertWhole()


class Disk(Shortage):
    def assertWaits(self, why):
        """Steps wait while the journal cannot be written, and status and log say why."""
        self.daemon.wait_for_line(f'level=error msg="cannot write the journal.*{why}')
        self.assertRegex(self.fleet.status()["journal"]["trouble"], why)
        before = self.survivor.steps()[-1:]
        self.assertEqual(self.fleet.ready(), self.WORKERS)
        return before

    @unittest.skipUnless(MAY_MOUNT, "no mount namespace can be made here")
    def test_a_full_disk_makes_steps_wait_and_loses_none(self):
        mount = ["unshare", "--mount", "sh", "-c", 'mkdir -p "$0" && mount -t tmpfs -o size=4m,mode=750 tmpfs "$0" && '
                 'exec "$@"', self.fleet.state_dir]
        self.start(beneath=mount)
        inside = f"/proc/{self.daemon.popen.pid}/root{self.fleet.state_dir}"
        with open(os.path.join(inside, "filler"), "wb", buffering=0) as filler:
            with self.assertRaises(OSError):
                while True:
                    filler.write(bytes(4096))
        self.assertWaits("full")
        os.unlink(os.path.join(inside, "filler"))
        self.daemon.wait_for_line("the journal can be written again")
        self.assertEqual(self.fleet.status()["journal"]["trouble"], "")
        self.assertWhole()

    def test_a_disk_that_fails_makes_steps_wait_and_loses_none(self):
        faults = Faults(self.fleet, "gateway")
        self.start(beneath=faults.beneath)
        faults.disk_errno = errno.EIO
        self.assertWaits("I/O")
        faults.disk_errno = 0
        self.daemon.wait_for_line("the journal can be written again")
        self.assertWhole()

    def test_what_was_announced_survives_a_gateway_killed_while_its_disk_failed(self):
        faults = Faults(self.fleet, "gateway")
        port = f"127.0.0.1:{harness.free_port()}"
        self.start(beneath=faults.beneath, listen=port)
        for error in (errno.ENOSPC, errno.EIO):
            faults.disk_errno = error
            harness.wait_for("failed writes", lambda: faults.disk_failed)
            self.daemon.kill()
            faults.disk_errno = 0
            self.daemon = self.fleet.start_daemon("--set", f"fleet.workers_min={self.WORKERS}",
                                                  beneath=faults.beneath, listen=port)
            self.survivor.wait_for_steps(2)
        self.assertWhole()


class SlowDisk(harness.FleetTest):
    """What is awaited while there is nobody left, or nobody yet, to be told."""

    def setUp(self):
        super().setUp()
        self.faults = Faults(self.fleet, "gateway")
        self.faults.disk_delay_ms = 0

    def test_a_reload_that_comes_while_the_last_is_written_changes_nothing(self):
        daemon = self.fleet.start_daemon("--set", f"trace.file={self.fleet.path('trace')}",
                                         beneath=self.faults.beneath)
        self.faults.disk_delay_ms = 300
        daemon.signal(signal.SIGTERM)

        def gone():
            try:
                self.fleet.status("ping")
            except (OSError, ValueError):
                return True

        harness.wait_for("the status port to be closed", gone)
        daemon.signal(signal.SIGHUP)
        self.assertEqual(daemon.wait(), 0, daemon.err())
        self.assertNotIn("reloaded", daemon.err())

    def test_a_start_that_fails_late_says_why(self):
        self.faults.disk_delay_ms = 30  # of each of the journal's writes: more than a second in all
        process = self.fleet.start("stablemoed", [
            os.path.join(harness.BIN, "stablemoed"), "--listen", "127.0.0.1:0", "--status",
            "127.0.0.1:0", "--state-dir", self.fleet.state_dir, "--set",
            f"trace.file={self.fleet.path('nowhere/trace')}"], self.faults.beneath)
        process.expected = {1}
        self.assertEqual(process.wait(), 1, process.err())
        self.assertOneLine(process.err(), "trace", "No such file")


class Pauses(Shortage):
    LEASES = ("--set", "fleet.silence=300ms", "--set", "fleet.lease=300ms", "--set",
              "trainers.lease=300ms")

    def test_a_worker_stopped_beyond_its_lease_comes_back(self):
        self.start(*self.LEASES)
        self.fleet.start_worker("w3")
        self.fleet.wait_ready(3)
        for _ in range(3):
            self.workers[0].signal(signal.SIGSTOP)
            harness.wait_for("w1 to be forgotten", lambda: "w1" not in self.fleet.workers())
            self.workers[0].signal(signal.SIGCONT)
            self.fleet.wait_ready(3)
        self.assertWhole()

    def test_a_trainer_stopped_beyond_its_lease_goes_on(self):
        self.start(*self.LEASES)
        for _ in range(3):
            self.survivor.process.signal(signal.SIGSTOP)
            uptime = self.fleet.status()["uptime_s"]
            harness.wait_for("its lease to end", lambda: self.fleet.status()["uptime_s"] > uptime + 0.6)
            self.assertLawful()
            self.survivor.process.signal(signal.SIGCONT)
            self.survivor.wait_for_steps(1)
        self.assertWhole()

    def test_a_gateway_that_stood_still_loses_nobody(self):
        self.start(*self.LEASES)
        for _ in range(3):
            self.daemon.signal(signal.SIGSTOP)
            time.sleep(1)  # no other clock runs meanwhile
            self.daemon.signal(signal.SIGCONT)
            self.survivor.wait_for_steps(1)
        self.assertNotIn("silent", self.daemon.err())
        self.assertWhole()


class WallClock(Shortage):
    def test_a_clock_that_jumps_changes_nothing_but_the_log_s_times(self):
        faults = {name: Faults(self.fleet, name) for name in ("gateway", "w1", "w2", "survivor")}
        self.daemon = self.fleet.start_daemon("--set", "fleet.workers_min=2",
                                              beneath=faults["gateway"].beneath)
        for name in ("w1", "w2"):
            self.fleet.start_worker(name, beneath=faults[name].beneath)
        self.fleet.wait_ready(2)
        self.survivor = self.fleet.start_survivor(beneath=faults["survivor"].beneath)
        self.survivor.wait_for_steps(1)
        attempt = self.fleet.status()["trainers"][0]["attempt"]
        for days in (1, -4000, 9000, 0):
            for fault in faults.values():
                fault.wall_shift_s = 86400 * days
            self.survivor.wait_for_steps(3)
        self.assertNotRegex(self.daemon.err(), "silent|lost")
        self.assertEqual(self.fleet.status()["trainers"][0]["attempt"], attempt, "nothing was repeated")
        self.assertWhole()


if __name__ == "__main__":
    harness.main()
