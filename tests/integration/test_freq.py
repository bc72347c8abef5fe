#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Frequencies and meters on a machine that has them: the real helper, worker and gateway over a /sys that is
mounted in a mount namespace of the test's own, with cpufreq drivers that round, refuse and lie."""

import os
import signal
import socket
import struct
import subprocess
import sys
import unittest

import harness
from harness import BIN, train_args, wait_for

try:
    import fusepy  # pylint: disable=unused-import
    import fakesys
except (ImportError, OSError):
    fakesys = None

CPU = "/sys/devices/system/cpu"
NAMESPACE = "SMOE_FREQ_NAMESPACE"
HALF_KHZ = 1_500_000
NOBODY = 65534
REQUEST, ANSWER = struct.Struct("=IHHIIQ"), struct.Struct("=IHHIiQQQQ")
MAGIC, LIMIT, RELEASE, COUNTER = 0x71657266, 1, 2, 3


def why_not():
    """Why there can be no fake /sys here, "" if there can."""
    if fakesys is None:
        return "python3-fusepy is not installed"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return "needs /dev/fuse"
    if os.geteuid():
        return "needs root"
    if not os.path.isdir(CPU) or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        return "mount namespaces are not permitted"
    return ""


def run(*argv):
    subprocess.run(argv, check=True)


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def read(path):
    with open(path, encoding="ascii") as f:
        return f.read()


class Machine(harness.FleetTest):
    """A fake /sys, and what tests do with it."""

    def setUp(self):
        self.mounted = []
        self.addCleanup(self.unmount)  # first, so it runs last: helpers restore at their end
        super().setUp()
        os.chmod(self.fleet.dir, 0o755)
        self.control = self.fleet.path("control")
        self.socket = self.fleet.path("freqd.sock")
        self.found = self.fleet.path("found")
        os.mkdir(self.control)
        self.mode("honest")
        write(os.path.join(self.control, "log"), "")
        fake = self.fleet.path("cpu")
        os.mkdir(fake)
        server = self.fleet.start("fakesys", [sys.executable, "-B", fakesys.__file__, fake,
                                              self.control])
        wait_for("the fake /sys", lambda: os.path.ismount(fake) or server.popen.poll())
        self.bind(fake, CPU)
        self.before = self.tree()
        self.helpers = 0

    # ---- the machine ----

    def bind(self, fake, real):
        run("mount", "--bind", fake, real)
        self.mounted.append(real)

    def unmount(self):
        for path in self.mounted:
            run("umount", "-l", path)

    def mode(self, word):
        write(os.path.join(self.control, "mode"), word)

    def switch_off(self, *cores):
        write(os.path.join(self.control, "offline"), " ".join(map(str, cores)))

    def tree(self):
        """Every file below it and what it says."""
        return {path: read(path) for folder, _, names in os.walk(CPU) for name in names
                for path in [os.path.join(folder, name)] if not os.path.islink(path)}

    def max_khz(self, policy):
        return int(read(f"{CPU}/cpufreq/policy{policy}/scaling_max_freq"))

    def min_khz(self, policy):
        return int(read(f"{CPU}/cpufreq/policy{policy}/scaling_min_freq"))

    def wait_max(self, policy, khz, seconds=harness.PATIENCE_S):
        wait_for(f"policy{policy} at {khz}", lambda: self.max_khz(policy) == khz, seconds)

    def wait_restored(self, seconds=harness.PATIENCE_S):
        """As found, nothing kept on file, and nothing written but what may be."""
        wait_for("the machine as it was found", lambda: self.tree() == self.before and
                 not os.path.exists(self.found), seconds)
        self.assertAllowed()

    def assertAllowed(self):
        for line in read(os.path.join(self.control, "log")).splitlines():
            self.assertRegex(line, r"^write /cpufreq/policy[01]/scaling_(min|max)_freq \d+$")

    # ---- the programs ----

    def start_helper(self):
        self.helpers += 1
        helper = self.fleet.start("freqd", [os.path.join(BIN, "stablemoe-freqd"), "--socket",
                                            self.socket, "--state", self.found])
        wait_for("the helper", lambda: helper.running() and os.path.exists(self.socket) and
                 self.can_connect())
        os.chmod(self.socket, 0o666)
        return helper

    def can_connect(self):
        try:
            self.connect().close()
            return True
        except OSError:
            return False

    def connect(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            s.connect(self.socket)
        except OSError:
            s.close()
            raise
        s.settimeout(harness.PATIENCE_S)
        return s

    def ask(self, s, kind, subject, khz=0, lease_ms=60000):
        s.send(REQUEST.pack(MAGIC, 1, kind, subject, lease_ms, khz))
        answer = ANSWER.unpack(s.recv(1000))
        self.assertEqual(answer[:4], (MAGIC, 1, kind, subject))
        return dict(zip(("error", "asked", "in_force", "lowest", "highest"), answer[4:]))

    def start_ordinary_worker(self, *args, cores="0", name="w1"):
        """A worker of an ordinary user, on these cores."""
        return self.fleet.start(name, [
            "taskset", "-c", cores, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}",
            "--clear-groups", os.path.join(BIN, "stablemoe-worker"), "--gateway",
            self.fleet.gateway, "--id", name, "--freqd", self.socket, *args])

    def start_halved(self, *args, **options):
        """A gateway and a worker that may use half the frequency."""
        if not self.fleet.gateway:
            self.fleet.start_daemon()
        return self.start_ordinary_worker("--speed", "0.5", *args, **options)

    def report(self, name="w1"):
        return self.fleet.workers().get(name, {})

    def wait_report(self, what, condition):
        return wait_for(what, lambda: condition(self.report()) and self.report())


class Frequency(Machine):
    def test_the_cores_a_worker_may_run_on_are_limited_and_no_others(self):
        self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        report = self.wait_report("a report", lambda r: r.get("freq_khz") == HALF_KHZ)
        self.assertEqual(report["freq_driver"], "cpufreq")
        self.assertEqual(report["freq_max_hz"], HALF_KHZ * 1000)
        self.assertEqual(self.max_khz(1), fakesys.FOUND_MAX)
        self.assertEqual(self.min_khz(0), fakesys.FOUND_MIN)
        self.assertEqual(worker.end(), 0)
        self.wait_restored()

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "one core")
    def test_every_policy_of_its_cores_is_limited(self):
        self.start_helper()
        worker = self.start_halved(cores="0,1")
        self.wait_max(0, HALF_KHZ)
        self.wait_max(1, HALF_KHZ)
        worker.end()
        self.wait_restored()

    def test_the_minimum_gives_way_and_comes_back(self):
        self.start_helper()
        worker = self.start_halved("--speed", "0.2")
        self.wait_max(0, 600_000)
        self.assertEqual(self.min_khz(0), 600_000)
        worker.end()
        self.wait_restored()

    @harness.need_data
    def start_decided(self):
        """A gateway that has work for its worker, and therefore decides a frequency."""
        daemon = self.fleet.start_daemon()
        worker = self.start_ordinary_worker()
        self.fleet.wait_ready(1)
        trainer = self.fleet.start_trainer(
            *train_args(4096, epochs=10000, batch=512, **{"d-model": 64, "d-ff": 1024}))
        return daemon, worker, trainer

    def test_the_gateways_decision_is_what_the_driver_is_asked_for(self):
        self.start_helper()
        _, worker, trainer = self.start_decided()
        report = self.wait_report("a decision", lambda r: r["freq_decided_khz"] and
                                  r["freq_requested_khz"] and r["freq_achieved_khz"])
        self.assertIn("requests are obeyed", report["driver_note"])
        self.assertTrue(os.path.exists(self.found), "nothing was limited")
        self.assertAlmostEqual(report["freq_requested_khz"], self.max_khz(0), delta=1)
        self.assertAlmostEqual(report["freq_khz"], self.max_khz(0), delta=1)
        self.assertAlmostEqual(report["freq_achieved_khz"], self.max_khz(0), delta=1)
        trainer.kill()
        worker.end()
        self.wait_restored()

    @harness.need_data
    def test_a_driver_with_a_table_is_asked_for_its_states_alone(self):
        self.mode("table")
        self.start_helper()
        self.fleet.start_daemon()
        worker = self.start_ordinary_worker("--watts", "10", "--budget", "4")
        self.fleet.wait_ready(1)
        trainer = self.fleet.start_trainer(
            *train_args(4096, epochs=10000, batch=512, **{"d-model": 64, "d-ff": 1024}))

        def asked():
            words = [line.split() for line in read(os.path.join(self.control, "log")).splitlines()]
            return {int(w[2]) for w in words if w[1].endswith("policy0/scaling_max_freq")}
        wait_for("several states", lambda: len(asked()) > 3)
        self.assertLessEqual(asked(), set(fakesys.STATES))
        self.wait_report("what it draws", lambda r: r["static_w"] is not None)
        trainer.kill()
        worker.end()
        self.wait_restored()

    # ---- drivers that do otherwise ----

    def test_a_driver_that_rounds_is_told_by_reading_back(self):
        self.mode("rounding")
        self.start_helper()
        self.start_halved()
        self.wait_max(0, 1_600_000)
        report = self.wait_report("the verdict", lambda r: "rounded" in r.get("driver_note", ""))
        self.assertEqual(report["freq_khz"], 1_600_000)

    def test_a_driver_that_refuses_is_told(self):
        self.mode("refusing")
        self.start_helper()
        worker = self.start_halved()
        report = self.wait_report("the verdict", lambda r: "refused" in r.get("driver_note", ""))
        self.assertEqual(report["freq_khz"], fakesys.FOUND_MAX)
        worker.wait_for_line(r"level=warning msg=\"frequency requests\" are=refused")
        self.mode("honest")
        self.wait_report("obedience", lambda r: "obeyed" in r["driver_note"] and
                         r["freq_khz"] == HALF_KHZ)

    def test_a_driver_that_takes_it_and_does_not_is_told_by_reading_back(self):
        self.mode("deaf")
        self.start_helper()
        self.start_halved()
        report = self.wait_report("the verdict", lambda r: "rounded" in r.get("driver_note", ""))
        self.assertEqual(report["freq_khz"], fakesys.FOUND_MAX)

    @harness.need_data
    def test_a_driver_that_lies_is_told_by_measuring(self):
        self.mode("lying")
        self.start_helper()
        worker = self.start_halved()
        self.fleet.wait_ready(1)
        trainer = self.fleet.start_trainer(
            *train_args(4096, epochs=10000, batch=512, **{"d-model": 64, "d-ff": 1024}))
        report = self.wait_report("the verdict", lambda r: "ignored" in r["driver_note"])
        self.assertEqual(report["freq_khz"], fakesys.HIGHEST)
        self.assertEqual(report["freq_achieved_khz"], fakesys.HIGHEST)
        trainer.kill()
        self.mode("honest")
        worker.end()
        self.wait_restored()

    # ---- whatever ends ----

    def test_a_killed_worker_leaves_the_machine_as_found(self):
        self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        worker.kill()
        self.wait_restored(2)

    def test_a_worker_that_hangs_slows_nobody_for_longer_than_its_lease(self):
        self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        worker.signal(signal.SIGSTOP)
        self.wait_restored()
        worker.signal(signal.SIGCONT)
        self.wait_max(0, HALF_KHZ)

    def test_a_killed_helper_comes_back_and_the_limit_with_it(self):
        helper = self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        helper.kill()
        self.assertEqual(self.max_khz(0), HALF_KHZ)
        worker.wait_for_line(r'are="helper lost"')
        self.start_helper()
        worker.wait_for_line(r"are=obeyed")
        self.wait_max(0, HALF_KHZ)
        worker.end()
        self.wait_restored()

    def test_both_killed_the_machine_is_as_found_when_the_helper_is_back(self):
        helper = self.start_helper()
        worker = self.start_halved("--speed", "0.2")
        self.wait_max(0, 600_000)
        helper.kill()
        worker.kill()
        self.assertEqual((self.min_khz(0), self.max_khz(0)), (600_000, 600_000))
        self.start_helper()
        self.wait_restored(2)

    def test_it_can_be_restored_without_serving(self):
        helper = self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        helper.kill()
        worker.kill()
        code, _, err = self.fleet.run([os.path.join(BIN, "stablemoe-freqd"), "--state", self.found,
                                       "--restore"])
        self.assertEqual((code, err), (0, ""))
        self.wait_restored(2)

    def test_a_helper_that_is_stopped_restores(self):
        helper = self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        self.assertEqual(helper.end(), 0)
        self.wait_restored(2)
        worker.wait_for_line(r'are="helper lost"')

    def test_without_a_gateway_there_is_no_decision_to_obey(self):
        self.start_helper()
        daemon, _, trainer = self.start_decided()
        wait_for("a limit", lambda: os.path.exists(self.found))
        trainer.kill()
        daemon.kill()
        self.wait_restored()

    # ---- cores that are switched off ----

    def test_a_policy_whose_first_core_is_switched_off_is_the_same_through_another(self):
        self.start_helper()
        with self.connect() as s:
            self.assertEqual(self.ask(s, LIMIT, 0, khz=1_000_000)["error"], 0)
            self.switch_off(0)
            answer = self.ask(s, LIMIT, 2, khz=1_500_000)
            self.assertEqual((answer["error"], answer["in_force"], answer["highest"]),
                             (0, 1_500_000, fakesys.FOUND_MAX))
            self.assertEqual(read(self.found), f"0 {fakesys.FOUND_MIN} {fakesys.FOUND_MAX}\n")
            self.assertLess(self.ask(s, LIMIT, 0, khz=1_000_000)["error"], 0)
        wait_for("the limits as found", lambda: not os.path.exists(self.found))
        self.assertEqual((self.min_khz(0), self.max_khz(0)), (fakesys.FOUND_MIN, fakesys.FOUND_MAX))
        self.switch_off()
        self.wait_restored()

    def test_a_policy_whose_cores_are_all_switched_off_is_restored_when_one_is_back(self):
        helper = self.start_helper()
        with self.connect() as s:
            self.assertEqual(self.ask(s, LIMIT, 0, khz=1_000_000)["error"], 0)
            self.switch_off(0, 2, 4, 6)
            self.assertLess(self.ask(s, LIMIT, 2, khz=1_000_000)["error"], 0)
        helper.kill()
        self.start_helper()
        self.assertTrue(os.path.exists(self.found))
        self.switch_off(0, 2, 4)
        wait_for("the limits as found", lambda: not os.path.exists(self.found))
        self.switch_off()
        self.wait_restored()

    def test_a_worker_goes_on_through_another_core_of_its_policy(self):
        helper = self.start_helper()
        worker = self.start_halved()
        self.wait_max(0, HALF_KHZ)
        helper.kill()
        worker.wait_for_line(r'are="helper lost"')
        self.switch_off(0)
        self.start_helper()
        worker.wait_for_line(r"are=obeyed")
        self.wait_max(0, HALF_KHZ)
        worker.end()
        wait_for("the limits as found", lambda: not os.path.exists(self.found))
        self.switch_off()
        self.wait_restored()

    # ---- the choice ----

    def test_without_a_helper_the_duty_cycle_is_chosen_and_the_reason_said(self):
        self.fleet.start_daemon()
        worker = self.start_halved()
        report = self.wait_report("a report", lambda r: r.get("driver_note"))
        self.assertEqual(report["freq_driver"], "duty")
        self.assertIn(f"cpufreq: {self.socket}: No such file", report["driver_note"])
        worker.wait_for_line(r"freq_driver=duty freq_note=\"cpufreq: ")
        self.assertEqual(self.tree(), self.before)

    def test_a_driver_that_is_forced_and_not_permitted_ends_the_worker(self):
        self.fleet.start_daemon()
        worker = self.start_halved("--freq-driver", "cpufreq")
        worker.expected = {1}
        self.assertEqual(worker.wait(), 1)
        self.assertOneLine(worker.err(), "--freq-driver cpufreq: ", "No such file")

    # ---- the helper's door ----

    def test_what_is_asked_is_clamped(self):
        self.start_helper()
        with self.connect() as s:
            low = self.ask(s, LIMIT, 0, khz=1)
            self.assertEqual((low["error"], low["asked"], low["in_force"]),
                             (0, fakesys.LOWEST, fakesys.LOWEST))
            high = self.ask(s, LIMIT, 2, khz=2**63)
            self.assertEqual((high["error"], high["asked"], high["highest"]),
                             (0, fakesys.FOUND_MAX, fakesys.FOUND_MAX))
            self.assertEqual(self.ask(s, RELEASE, 4)["asked"], 0)
        self.wait_restored()

    def test_the_highest_of_several_limits_counts(self):
        self.start_helper()
        with self.connect() as one:
            self.ask(one, LIMIT, 0, khz=1_000_000)
            with self.connect() as other:
                self.assertEqual(self.ask(other, LIMIT, 0, khz=2_000_000)["in_force"], 2_000_000)
                self.assertEqual(self.ask(one, LIMIT, 0, khz=900_000)["in_force"], 2_000_000)
            self.wait_max(0, 900_000)
        self.wait_restored()

    def test_a_limit_ends_with_its_lease(self):
        self.start_helper()
        with self.connect() as s:
            self.ask(s, LIMIT, 1, khz=1_000_000, lease_ms=0)
            self.wait_restored()
            self.assertEqual(self.ask(s, RELEASE, 1)["error"], 0)

    def test_what_is_no_request_ends_the_connection_and_changes_nothing(self):
        self.start_helper()
        good = REQUEST.pack(MAGIC, 1, LIMIT, 0, 1000, 1_000_000)
        for bad in (b"x", good[:-1], good + b"x", REQUEST.pack(1, 1, LIMIT, 0, 1000, 1_000_000),
                    REQUEST.pack(MAGIC, 2, LIMIT, 0, 1000, 1_000_000),
                    REQUEST.pack(MAGIC, 1, 0, 0, 1000, 1_000_000),
                    REQUEST.pack(MAGIC, 1, 4, 0, 1000, 1_000_000)):
            with self.connect() as s:
                s.send(bad)
                self.assertEqual(s.recv(100), b"", bad)
        self.assertEqual(self.tree(), self.before)
        self.assertEqual(read(os.path.join(self.control, "log")), "")

    def test_cores_that_are_not_there_are_an_error(self):
        self.start_helper()
        with self.connect() as s:
            for core in (fakesys.CORES, 4095, 4096, 2**32 - 1):
                self.assertLess(self.ask(s, LIMIT, core, khz=1_000_000)["error"], 0, core)
        self.assertEqual(read(os.path.join(self.control, "log")), "")

    def test_no_more_connections_than_there_is_room_for(self):
        self.start_helper()
        many = [self.connect() for _ in range(64)]
        for s in many:
            self.assertEqual(self.ask(s, RELEASE, 0)["error"], 0)
        with self.connect() as s:
            self.assertEqual(s.recv(100), b"")
        for s in many:
            s.close()
        wait_for("room", self.can_ask)

    def can_ask(self):
        try:
            with self.connect() as s:
                return self.ask(s, RELEASE, 0)["error"] == 0
        except (OSError, struct.error):
            return False

    def test_one_state_file_has_one_helper(self):
        self.start_helper()
        code, _, err = self.fleet.run([os.path.join(BIN, "stablemoe-freqd"), "--socket",
                                       self.fleet.path("other"), "--state", self.found])
        self.assertEqual(code, 1)
        self.assertOneLine(err, self.found)

    def test_what_cannot_be_restored_now_stays_on_file(self):
        write(self.found, "99 800000 2800000\n")  # a core that is switched off, say
        helper = self.start_helper()
        helper.expected = {1}
        with self.connect() as s:
            self.assertEqual(self.ask(s, LIMIT, 0, khz=1_000_000)["error"], 0)
            self.assertEqual(read(self.found), "99 800000 2800000\n0 800000 2800000\n")
        wait_for("the other one", lambda: read(self.found) == "99 800000 2800000\n")
        self.assertEqual(self.tree(), self.before)
        self.assertEqual(helper.end(), 1)
        self.assertOneLine(helper.err().splitlines()[-1] + "\n", "could not be restored")

    def test_a_file_of_nonsense_changes_nothing(self):
        write(self.found, "\n-1 5\n0 9 8\n0 0 0\n99999999 1 2\nx y z\n" + "7" * 100_000)
        helper = self.start_helper()
        with self.connect() as s:
            self.assertEqual(self.ask(s, RELEASE, 0)["error"], 0)
        self.assertEqual(helper.end(), 0)
        self.assertEqual(read(os.path.join(self.control, "log")), "")

    def test_it_takes_its_socket_from_systemd(self):
        self.fleet.start("freqd", [
            sys.executable, "-c", "import os, socket, sys\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "s.bind(sys.argv[1])\n"
            "s.listen()\n"
            "os.dup2(s.fileno(), 3)\n"
            "os.set_inheritable(3, True)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "os.execv(sys.argv[2], sys.argv[2:])",
            self.socket, os.path.join(BIN, "stablemoe-freqd"), "--state", self.found])
        wait_for("the helper", self.can_ask)


class Meters(Machine):
    """Class devices in a folder that is bound over /sys/class."""

    def setUp(self):
        super().setUp()
        self.classes = self.fleet.path("class")
        os.mkdir(self.classes)
        self.bind(self.classes, "/sys/class")
        self.start_helper()
        self.fleet.start_daemon()

    def device(self, path, **files):
        folder = os.path.join(self.classes, path)
        os.makedirs(folder, exist_ok=True)
        for name, value in files.items():
            write(os.path.join(folder, name), f"{value}\n")
        return folder

    def package(self, number, uj, secret=False, name="package-0"):
        folder = self.device(f"powercap/intel-rapl/intel-rapl:{number}", name=name, energy_uj=uj,
                             max_energy_range_uj=100_000_000)
        os.chmod(os.path.join(folder, "energy_uj"), 0o400 if secret else 0o444)
        return os.path.join(folder, "energy_uj")

    @harness.need_data
    def load(self):
        self.fleet.wait_ready(1)
        return self.fleet.start_trainer(*train_args(1000, epochs=10000))

    def test_rapl_counters_are_borrowed_and_go_on_after_their_range(self):
        counter = self.package(0, 99_000_000, secret=True)
        self.package(1, 5_000_000, name="psys")
        worker = self.start_ordinary_worker()
        worker.wait_for_line("energy_source=rapl")
        trainer = self.load()
        self.wait_report("work", lambda r: r["busy_ns"] > 1e8)
        write(counter, "1000000\n")  # 2 J further, around the end
        write(os.path.join(self.classes, "powercap/intel-rapl/intel-rapl:1/energy_uj"), "90000000\n")
        report = self.wait_report("joules", lambda r: r["joules"] > 0)
        self.assertEqual(report["energy_source"], "rapl")
        self.assertLessEqual(report["joules"], 2.0)
        trainer.kill()

    def test_while_one_counter_cannot_be_read_the_joules_of_another_are_not_lost(self):
        counter, broken = self.package(0, 1_000_000), self.package(1, 5_000_000, name="package-1")
        sensor = self.device("hwmon/hwmon0", name="coretemp", temp1_input=40_000)
        worker = self.start_ordinary_worker()
        worker.wait_for_line("energy_source=rapl")
        trainer = self.load()
        self.wait_report("work", lambda r: r["busy_ns"] > 1e8)
        write(broken, "")
        write(counter, "3000000\n")
        write(os.path.join(sensor, "temp1_input"), "41000\n")
        self.wait_report("a look at the sensors", lambda r: r["temperature_c"] == 41)
        self.assertEqual(self.report()["joules"], 0)
        write(broken, "5000000\n")
        report = self.wait_report("joules", lambda r: r["joules"] > 0)
        self.assertLessEqual(report["joules"], 2.0)
        trainer.kill()

    def test_a_meter_that_dies_is_modelled_and_comes_back_by_itself(self):
        counter = self.package(0, 1_000_000)
        worker = self.start_ordinary_worker("--watts", "10", "--budget", "1")
        worker.wait_for_line("energy_source=rapl")
        trainer = self.load()
        self.wait_report("work", lambda r: r["busy_ns"] > 1e8)
        write(counter, "")  # it has told nothing yet: what is left is the worker's own word
        before = self.wait_report("its loss", lambda r: r["energy_source"] == "lost")
        worker.wait_for_line("the energy meter cannot be read: the gateway estimates")
        after = self.wait_report("joules", lambda r: r["joules"] > before["joules"] + 1)
        self.assertEqual(after["energy_source"], "lost")
        write(counter, "2000000\n")
        self.wait_report("its return", lambda r: r["energy_source"] == "rapl")
        worker.wait_for_line("the energy meter can be read again")
        self.assertEqual(worker.err().count("cannot be read"), 1)
        trainer.kill()

    def test_a_power_sensor_is_integrated(self):
        self.device("hwmon/hwmon0", name="ina226", power1_input=7_000_000)
        self.device("hwmon/hwmon1", name="part", power1_input=1_000_000)
        worker = self.start_ordinary_worker()
        line = worker.wait_for_line(r"energy_source=hwmon energy_note=(.*)")
        self.assertIn("rapl: no counters", line.group(1))
        trainer = self.load()
        before = self.wait_report("joules", lambda r: r["joules"] > 0)
        after = self.wait_report("more", lambda r: r["joules"] > before["joules"])
        self.assertEqual(after["energy_source"], "hwmon")
        # Never more than the board's 7 W for as long as the gateway has run.
        self.assertLessEqual(after["joules"], 7 * self.fleet.status()["uptime_s"] + 3.5)
        trainer.kill()

    def test_without_a_meter_it_is_the_model_or_none(self):
        worker = self.start_ordinary_worker("--watts", "10")
        worker.wait_for_line("energy_source=model")
        other = self.start_ordinary_worker(name="w2")
        other.wait_for_line("energy_source=none")

    def test_a_meter_that_is_forced_and_not_there_ends_the_worker(self):
        worker = self.start_ordinary_worker("--energy-meter", "rapl")
        worker.expected = {1}
        self.assertEqual(worker.wait(), 1)
        self.assertOneLine(worker.err(), "--energy-meter rapl: no counters")

    def test_a_worker_that_is_too_hot_slows_itself_down(self):
        folder = self.device("hwmon/hwmon0", name="coretemp", temp1_input=95_000)
        self.device("hwmon/hwmon1", name="nvme", temp1_input=99_000)
        worker = self.start_ordinary_worker("--temp-max", "80")
        worker.wait_for_line("too hot")
        report = self.wait_report("a lower ceiling", lambda r: r.get("freq_max_hz", 9e9) < 2e9)
        self.assertEqual(report["temperature_c"], 95)
        wait_for("a limit", lambda: self.max_khz(0) < 2_000_000)
        write(os.path.join(folder, "temp1_input"), "60000\n")
        low = self.max_khz(0)
        wait_for("it to rise", lambda: self.max_khz(0) > low)
        worker.end()
        self.wait_restored()


def load_tests(loader, tests, pattern):
    reason = why_not()
    if not reason:
        return tests

    class Nothing(unittest.TestCase):
        @unittest.skip(reason)
        def test_frequencies_and_meters(self):
            pass
    return loader.loadTestsFromTestCase(Nothing)


if __name__ == "__main__":
    if not why_not() and NAMESPACE not in os.environ:
        os.environ[NAMESPACE] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, "-B",
                              *sys.argv])
    harness.main()
