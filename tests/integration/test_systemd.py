#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The installed units under a real systemd: a container without network, booted from a copy-on-write view of
this machine's own root, in which everything is installed as `cmake --install` does it. What units promise and
no reading of them shows: who may do what, what is started again and what is not, and that the programs can
work with what they are left."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import harness
import test_freq
from harness import wait_for

INSIDE = "/usr/local"
CONFIG = f"{INSIDE}/etc/stablemoe/stablemoed.conf.d/test.conf"
HALF_KHZ = 1_500_000
DYNAMIC = range(61184, 65520)  # users of DynamicUser=

# In a mount namespace of its own: a copy-on-write root, `$install` into it, and a container that boots it.
BOOT = r"""
set -e
top=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir -p "$top/upper/etc" "$top/work" "$top/root"
: > "$top/upper/etc/machine-id"
eval "$install"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
rm -rf "$top/root/var/lib/stablemoe" "$top"/root/var/lib/*/stablemoe-worker # this machine's own
exec systemd-nspawn --quiet --boot --directory="$top/root" --private-network --register=no \
    --keep-unit --link-journal=no --console=pipe --machine=stablemoe "$@"
"""
INSTALL = r"""
DESTDIR=$top/upper "$SMOE_CMAKE" --install "$SMOE_BUILD" >/dev/null
mkdir -p "$top/upper/usr/local/etc/stablemoe/stablemoed.conf.d"
"""


def boot(top, install, *args):
    return ["unshare", "-m", "--propagation", "private", "env", f"install={install}", "sh", "-c", BOOT,
            "boot", top, *args]


@functools.cache
def why_not():
    """Why no container can be booted here, "" if one can: it is tried."""
    if harness.SANITIZED:
        return "a sanitizer needs more than the units leave"
    if os.geteuid():
        return "needs root"
    if not shutil.which("systemd-nspawn"):
        return "systemd-nspawn (Debian package systemd-container) is not installed"
    with tempfile.TemporaryDirectory(prefix="smoe-") as top:
        try:
            done = subprocess.run(boot(top, "", "systemd.unit=poweroff.target"), text=True, timeout=60,
                                  stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            return "a container does not come to its end"
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"no container can be booted: {said[-1:] or done.returncode}" if done.returncode else ""


class Machine(harness.FleetTest):
    """A machine that has booted with stablemoe installed on it."""

    def setUp(self):
        super().setUp()
        os.chmod(self.fleet.dir, 0o755)
        self.boot()

    def boot(self, *binds):
        top = self.fleet.path("machine")
        os.mkdir(top)
        env = {"SMOE_CMAKE": os.environ.get("SMOE_CMAKE", "cmake"),
               "SMOE_BUILD": os.environ.get("SMOE_BUILD", os.path.join(harness.BIN, ".."))}
        self.fleet.env.update(env)
        self.container = self.fleet.start("nspawn", boot(top, INSTALL, *binds,
                                                         "systemd.unit=basic.target"))
        self.container.expected.add(-signal.SIGTERM)
        self.leader = wait_for("the container", self.find_leader)
        wait_for("the boot", self.booted)
        self.systemctl("start", "systemd-sysusers", "systemd-tmpfiles-setup")
        for name in ("a", "b"):
            self.make_key("worker", name, f"{INSIDE}/etc/stablemoe/worker-{name}.key")
        self.make_key("trainer", "t", "/root/trainer.key")

    def find_leader(self):
        """Its first process, once that is systemd."""
        self.assertTrue(self.container.running(), self.container.err() + self.container.out())
        found = subprocess.run(["pgrep", "-x", "-P", str(self.container.popen.pid), "systemd"],
                               text=True, capture_output=True, check=False).stdout.split()
        return found[0] if found else None

    def booted(self):
        self.assertTrue(self.container.running(), self.container.err() + self.container.out())
        said = self.inside("systemctl", "is-system-running", check=False)
        return said.strip() in ("running", "degraded")

    def finish(self, failures_before):
        if not self._outcome.success or len(self.failures()) > failures_before:
            print(self.journal(), file=sys.stderr)
        super().finish(failures_before)

    def make_key(self, role, name, path):
        line = self.inside(f"{INSIDE}/bin/stablemoectl", "key", "add", role, name)
        with open(os.open(self.path_inside(path), os.O_WRONLY | os.O_CREAT, 0o600), "w",
                  encoding="ascii") as f:
            f.write(line)

    # ---- inside ----

    def inside(self, *argv, check=True):
        """stdout of a program that runs in the container."""
        done = subprocess.run(["nsenter", "-t", self.leader, "-a", *argv], capture_output=True,
                              text=True, timeout=harness.PATIENCE_S, check=False)
        if check and done.returncode:
            self.fail(f"{argv}: {done.stderr}\n{self.journal()}")
        return done.stdout

    def systemctl(self, *words, check=True):
        return self.inside("systemctl", *words, check=check)

    def kill(self, *units, number="KILL"):
        self.systemctl("kill", "--kill-whom=main", "-s", number, *units)

    def show(self, unit, name):
        return self.systemctl("show", "--value", "-p", name, unit).strip()

    def journal(self, *words):
        return self.inside("journalctl", "-o", "cat", "--no-pager", "-n", "200", *words, check=False)

    def path_inside(self, path):
        return f"/proc/{self.leader}/root{path}"

    def configure(self, text):
        with open(self.path_inside(CONFIG), "w", encoding="ascii") as f:
            f.write(text)
        os.chmod(self.path_inside(CONFIG), 0o644)

    def drop_in(self, unit, text):
        folder = self.path_inside(f"/etc/systemd/system/{unit}.d")
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/test.conf", "w", encoding="ascii") as f:
            f.write(f"[Service]\n{text}\n")
        self.systemctl("daemon-reload")

    def status(self):
        return json.loads(self.inside(f"{INSIDE}/bin/stablemoectl", "--json", "status"))

    def workers(self):
        return {w["id"]: w for w in self.status()["workers"]}

    def wait_workers(self, n):
        wait_for(f"{n} ready workers", lambda: sum(
            w["state"] == "ready" for w in self.workers().values()) >= n)

    def process_status(self, unit):
        """/proc/PID/status of a unit's main process, as words."""
        pid = self.show(unit, "MainPID")
        with open(self.path_inside(f"/proc/{pid}/status"), encoding="ascii") as f:
            return {line.split(":")[0]: line.split()[1:] for line in f}

    def restarted(self, unit, times):
        return int(self.show(unit, "NRestarts")) >= times and self.show(unit, "SubState") == "running"


class Units(Machine):
    def test_the_gateway_is_ready_when_systemd_says_so_and_ends_when_asked(self):
        self.systemctl("start", "stablemoed")
        self.assertFalse(self.status()["draining"])  # at once: it had said READY
        process = self.process_status("stablemoed")
        self.assertEqual(process["CapEff"], ["0000000000000000"])
        self.assertEqual((process["NoNewPrivs"], process["Seccomp"]), (["1"], ["2"]))
        self.assertNotEqual(process["Uid"][0], "0")
        state = os.stat(self.path_inside("/var/lib/stablemoe"))
        self.assertEqual(state.st_mode & 0o777, 0o750)
        self.systemctl("stop", "stablemoed")
        self.assertEqual(self.show("stablemoed", "Result"), "success")
        self.assertEqual(self.show("stablemoed", "ExecMainStatus"), "0")
        self.assertNotIn("level=warning", self.journal("-u", "stablemoed"))

    def test_a_gateway_that_hangs_is_killed_by_the_watchdog_and_started_again(self):
        self.drop_in("stablemoed.service", "WatchdogSec=1s")
        self.systemctl("start", "stablemoed")
        epoch = self.status()["epoch"]
        self.kill("stablemoed", number="STOP")
        wait_for("another start", lambda: self.restarted("stablemoed", 1))
        self.assertIn("watchdog", self.journal("-u", "stablemoed").lower())
        wait_for("its status", lambda: self.show("stablemoed", "ActiveState") == "active")
        self.assertGreater(self.status()["epoch"], epoch)

    def test_a_reload_is_taken_and_one_with_a_mistake_changes_nothing(self):
        self.systemctl("start", "stablemoed")
        self.configure("[routing]\nslot = 7ms\n")
        self.systemctl("reload", "stablemoed")
        wait_for("the new slot", lambda: self.status()["slot_ms"] == 7)
        self.configure("[routing]\nslot = 7 parsecs\n")
        self.systemctl("reload", "stablemoed")
        wait_for("the complaint", lambda: "parsecs" in self.journal("-u", "stablemoed"))
        self.assertEqual(self.status()["slot_ms"], 7)
        self.assertEqual(self.show("stablemoed", "NRestarts"), "0")

    def test_a_wrong_configuration_is_told_once_and_not_tried_again(self):
        self.configure("[routing]\nslot = 7 parsecs\n")
        self.systemctl("start", "stablemoed", check=False)
        self.assertEqual(self.show("stablemoed", "ActiveState"), "failed")
        self.assertEqual(self.show("stablemoed", "ExecMainStatus"), "2")
        self.assertEqual(self.show("stablemoed", "NRestarts"), "0")
        self.assertEqual(self.journal("-u", "stablemoed").count("parsecs"), 1)

    def test_workers_are_users_of_their_own_and_come_back_whatever_ends_them(self):
        self.systemctl("start", "stablemoed", "stablemoe-worker@a", "stablemoe-worker@b")
        self.wait_workers(2)
        process = self.process_status("stablemoe-worker@a")
        self.assertIn(int(process["Uid"][0]), DYNAMIC)
        self.assertEqual(process["CapEff"], ["0000000000000000"])
        self.assertEqual((process["NoNewPrivs"], process["Seccomp"]), (["1"], ["2"]))
        self.assertEqual(self.workers()["a"]["freq_driver"], "duty")
        self.kill("stablemoe-worker@a")
        wait_for("another start", lambda: self.restarted("stablemoe-worker@a", 1))
        self.wait_workers(2)
        self.systemctl("stop", "stablemoe-worker@a")
        self.assertEqual(self.show("stablemoe-worker@a", "Result"), "success")

    def test_keys_belong_to_the_gateway_and_are_handed_to_the_worker_only(self):
        self.systemctl("start", "stablemoed", "stablemoe-worker@a")
        self.wait_workers(1)
        keys = os.stat(self.path_inside("/var/lib/stablemoe/keys"))
        gateway = self.process_status("stablemoed")
        self.assertEqual((keys.st_mode & 0o777, str(keys.st_uid)), (0o600, gateway["Uid"][0]))
        self.inside(f"{INSIDE}/bin/stablemoectl", "key", "revoke", "a")
        wait_for("the end of its session", lambda: not self.workers()["a"]["state"] == "ready", 5)
        self.assertNotIn("smoe1:", self.journal())

    def test_a_worker_without_a_key_is_not_started(self):
        self.systemctl("start", "stablemoe-worker@c", check=False)
        self.assertEqual(self.show("stablemoe-worker@c", "ActiveState"), "failed")
        self.assertEqual(self.show("stablemoe-worker@c", "NRestarts"), "0")

    def test_a_gateway_without_keys_says_so_once(self):
        os.unlink(self.path_inside("/var/lib/stablemoe/keys"))
        self.systemctl("start", "stablemoed", check=False)
        self.assertEqual(self.show("stablemoed", "ExecMainStatus"), "2")
        self.assertEqual(self.show("stablemoed", "NRestarts"), "0")
        self.assertEqual(self.journal("-u", "stablemoed").count("stablemoectl key add"), 1)

    @harness.need_data
    def test_a_run_goes_on_while_systemd_starts_the_killed_ones_again(self):
        self.configure("[fleet]\nworkers_min = 2\n")
        self.systemctl("start", "stablemoed", "stablemoe-worker@a", "stablemoe-worker@b")
        self.wait_workers(2)
        trainer = self.fleet.start("trainer", [
            "nsenter", "-t", self.leader, "-a", f"{INSIDE}/bin/stablemoe-train", "--gateway",
            "127.0.0.1:7700", "--key", "/root/trainer.key", "--dataset", "fashion-mnist", "--json",
            *harness.train_args(4000, epochs=40)])
        wait_for("a few steps", lambda: self.status()["steps"] >= 20)
        self.kill("stablemoed")
        wait_for("the gateway", lambda: self.restarted("stablemoed", 1) and
                 self.show("stablemoed", "ActiveState") == "active")
        wait_for("more steps", lambda: self.status()["steps"] >= 20)
        self.kill("stablemoe-worker@b")
        wait_for("the worker", lambda: self.restarted("stablemoe-worker@b", 1))
        self.assertEqual(trainer.wait(), 0)
        answer = json.loads(trainer.out())
        self.assertEqual(answer["steps"], 40 * 40)
        self.assertGreater(answer["test_accuracy"], 0.7)


class Frequencies(Machine):
    """... of a machine with the fake cpufreq of test_freq.py."""

    def setUp(self):
        harness.FleetTest.setUp(self)
        os.chmod(self.fleet.dir, 0o755)
        self.control, fake = self.fleet.path("control"), self.fleet.path("cpu")
        os.mkdir(self.control)
        os.mkdir(fake)
        for name, text in (("mode", "honest"), ("log", "")):
            test_freq.write(os.path.join(self.control, name), text)
        server = self.fleet.start("fakesys", [sys.executable, "-B", test_freq.fakesys.__file__, fake,
                                              self.control])
        wait_for("the fake /sys", lambda: os.path.ismount(fake) or server.popen.poll())
        self.fake = fake
        self.before = self.tree()
        self.boot(f"--bind={fake}:/mnt")
        self.inside("mount", "--bind", "/mnt", test_freq.CPU)
        with open(self.path_inside(f"{INSIDE}/etc/stablemoe/worker.env"), "w", encoding="ascii") as f:
            f.write("SPEED=0.5\n")

    def tree(self):
        return {path: test_freq.read(path) for folder, _, names in os.walk(self.fake)
                for name in names for path in [os.path.join(folder, name)]
                if not os.path.islink(path)}

    def limits(self):
        return [int(test_freq.read(f"{self.fake}/cpufreq/policy{i}/scaling_max_freq"))
                for i in range(2)]

    def wait_limited(self):
        wait_for("the limit", lambda: HALF_KHZ in self.limits())

    def wait_restored(self):
        wait_for("the machine as it was found", lambda: self.tree() == self.before)

    def test_a_worker_limits_the_clock_through_the_socket_and_nothing_stays(self):
        self.drop_in("stablemoe-freqd.service", "ExecStartPre=/bin/sleep 1")  # a busy machine
        self.systemctl("start", "stablemoed", "stablemoe-freqd.socket", "stablemoe-worker@a")
        self.wait_limited()  # so the helper was started by the worker's asking
        self.wait_workers(1)
        wait_for("its report", lambda: self.workers()["a"]["freq_khz"] == HALF_KHZ)
        self.assertEqual(self.workers()["a"]["freq_driver"], "cpufreq")
        helper = self.process_status("stablemoe-freqd")
        self.assertEqual((helper["CapEff"], helper["Seccomp"]), (["0000000000000000"], ["2"]))
        self.systemctl("stop", "stablemoe-worker@a")
        self.wait_restored()

    def test_whoever_is_killed_the_machine_ends_as_it_was_found(self):
        self.systemctl("start", "stablemoed", "stablemoe-freqd.socket", "stablemoe-worker@a")
        self.wait_limited()
        self.kill("stablemoe-freqd")  # it comes back, the limit with it
        wait_for("another start", lambda: self.restarted("stablemoe-freqd", 1))
        self.wait_limited()
        self.kill("stablemoe-worker@a", "stablemoe-freqd")
        self.systemctl("stop", "stablemoe-worker@a")
        self.wait_restored()
        self.systemctl("start", "stablemoe-worker@a")
        self.wait_limited()
        self.systemctl("stop", "stablemoe-freqd.socket", "stablemoe-freqd")
        self.wait_restored()  # while the worker goes on


def load_tests(loader, tests, pattern):
    def nothing(name, reason):
        return unittest.skip(reason)(type(name, (unittest.TestCase,), {"test": lambda self: None}))
    suite = unittest.TestSuite()
    for case, reason in ((Units, why_not()), (Frequencies, why_not() or test_freq.why_not())):
        suite.addTests(loader.loadTestsFromTestCase(nothing(case.__name__, reason) if reason else case))
    return suite


if __name__ == "__main__":
    harness.main()
