# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: a fleet of real processes on loopback, in a directory of its own.

A test is a method of a FleetTest whose name is a sentence. Rules the harness keeps for it:
- every port is chosen by the kernel, or, where a daemon must come back on the same one, from below the
  ephemeral range, so that no outgoing connection can have taken it meanwhile;
- nothing sleeps to synchronise: `wait_for` asks until what is waited for is there;
- every process is one that the test started; all are ended, and die with the test if it is killed;
- a process that ended otherwise than expected, or wrote a sanitizer's report, fails the test;
- a failed test prints the last lines of every log.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

BIN = os.environ.get("SMOE_BIN", os.path.join(os.path.dirname(__file__), "../../build/release/bin"))
HELPERS = os.environ.get("SMOE_HELPERS", os.path.join(BIN, "../tests"))
SANITIZED = bool(os.environ.get("SMOE_SANITIZED"))
FLOAT64 = bool(os.environ.get("SMOE_FLOAT64"))
DATA = "/usr/share/datasets/fashion-mnist"

PATIENCE_S = 120 if SANITIZED else 60  # the longest a test waits for anything
TOLERANCE = 1e-9 if FLOAT64 else 1e-5  # between one state and another that is to be the same
REPORT = re.compile(r"(Leak|Address|Thread|UndefinedBehavior)Sanitizer|runtime error:|assertion")


def wait_for(what, condition, seconds=PATIENCE_S):
    """Asks `condition` until it answers with something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.01)


def free_port():
    """A port of 127.0.0.1 that nobody listens on, below the range that outgoing connections use."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def split_address(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


def ask(address, request, timeout=float(PATIENCE_S)):
    """Sends bytes to a status port, or to a Unix socket by its path, and returns all that comes back."""
    if isinstance(address, str) and address.startswith("/"):
        s = socket.socket(socket.AF_UNIX)
    else:
        s, address = socket.socket(), split_address(address)
    with s:
        s.settimeout(timeout)
        s.connect(address)
        s.sendall(request)
        answer = b""
        while True:
            piece = s.recv(1 << 16)
            if not piece:
                return answer
            answer += piece


class Process:
    """A program that was started, with its output in files."""

    def __init__(self, fleet, name, argv, env, beneath=()):
        self.name = name
        self.argv = argv
        self.out_path = os.path.join(fleet.dir, f"{name}.out")
        self.err_path = os.path.join(fleet.dir, f"{name}.err")
        self.expected = {0}  # exit codes, negative for signals
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *beneath, *argv], env=env,
                                          stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def out(self):
        with open(self.out_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def err(self):
        with open(self.err_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def running(self):
        return self.popen.poll() is None

    def wait(self, seconds=PATIENCE_S):
        """Its exit code, once it has ended by itself."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s") from None

    def signal(self, number):
        self.popen.send_signal(number)

    def end(self):
        """Asks it to stop and waits; its exit code."""
        if self.running():
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        self.expected.add(-signal.SIGKILL)
        if self.running():
            self.popen.kill()
        self.popen.wait()

    def wait_for_line(self, pattern):
        """The match of a regular expression in its stderr."""
        def found():
            match = re.search(pattern, self.err())
            if not match and not self.running():
                raise AssertionError(f"{self.name} ended ({self.popen.returncode}) before it wrote "
                                     f"{pattern!r}: {self.err()[-2000:]}")
            return match
        return wait_for(f"{pattern!r} in the log of {self.name}", found)


class Fleet:
    """A gateway, workers and trainers. The directory `dir` is theirs."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="smoe-")
        self.processes = []
        self.gateway = self.status_address = None
        self.state_dir = os.path.join(self.dir, "gateway")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("STABLEMOE_")}
        # Plaintext on loopback, said explicitly; what is about keys calls `with_keys` first.
        self.env["STABLEMOE_SECURITY_INSECURE"] = "loopback-only"
        self.keys = False

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, name, argv, beneath=()):
        """`beneath`: the words of a command that becomes the program, such as env or unshare."""
        count = sum(p.name.split("#")[0] == name for p in self.processes)
        process = Process(self, f"{name}#{count + 1}" if count else name, argv, self.env, beneath)
        self.processes.append(process)
        return process

    def run(self, argv, seconds=PATIENCE_S):
        """Runs a program of ours to its end: (exit code, stdout, stderr)."""
        process = self.start(os.path.basename(argv[0]), argv)
        code = process.wait(seconds)
        process.expected.add(code)  # the caller judges
        return code, process.out(), process.err()

    # ---- keys ----

    def with_keys(self):
        """From now on everybody has a key and speaks TLS."""
        self.env["STABLEMOE_SECURITY_INSECURE"] = "no"
        self.keys = True

    def key(self, role, name, state_dir=None):
        """The path of a new key's file."""
        code, out, err = self.run([os.path.join(BIN, "stablemoectl"), "--state-dir",
                                   state_dir or self.state_dir, "key", "add", role, name])
        assert code == 0, err
        return self.write_key(f"{name}-{len(self.processes)}.key", out)

    def write_key(self, name, line):
        with open(os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="ascii") as f:
            f.write(line)
        return self.path(name)

    def key_args(self, role, name):
        return ["--key", self.key(role, name)] if self.keys else []

    # ---- the programs ----

    def start_daemon(self, *args, listen="127.0.0.1:0", status="127.0.0.1:0", state_dir=None,
                     beneath=()):
        if self.keys and not os.path.exists(os.path.join(state_dir or self.state_dir, "keys")):
            self.key("worker", "first", state_dir)
        daemon = self.start("stablemoed", [
            os.path.join(BIN, "stablemoed"), "--listen", listen, "--status", status, "--state-dir",
            state_dir or self.state_dir, *args], beneath)
        line = daemon.wait_for_line(r"msg=listening peers=(\S+) status=(\S+)")
        self.gateway, self.status_address = line.group(1), line.group(2)
        return daemon

    def start_worker(self, name, *args, gateway=None, beneath=()):
        return self.start(name, [
            os.path.join(BIN, "stablemoe-worker"), "--gateway", gateway or self.gateway, "--id", name,
            "--state-dir", self.path(name),
            *([] if "--key" in args else self.key_args("worker", name)), *args], beneath)

    def start_workers(self, n, *args):
        """n workers w1..wn, ready."""
        workers = [self.start_worker(f"w{i + 1}", *args) for i in range(n)]
        self.wait_ready(n)
        return workers

    def start_trainer(self, *args, name="trainer", gateway=None, beneath=()):
        return self.start(name, [
            os.path.join(BIN, "stablemoe-train"), "--gateway", gateway or self.gateway, "--name", name,
            "--dataset", "fashion-mnist", "--json",
            *([] if "--key" in args else self.key_args("trainer", name)), *args], beneath)

    def start_survivor(self, beneath=()):
        """A trainer that repeats every committed step by itself: see survivor.c."""
        return Survivor(self.start("survivor", [
            os.path.join(HELPERS, "integration_survivor"), self.gateway,
            *([self.key("trainer", "halves")] if self.keys else [])], beneath))

    def ctl(self, *args):
        """(exit code, stdout, stderr) of stablemoectl."""
        return self.run([os.path.join(BIN, "stablemoectl"), "--state-dir", self.state_dir, *args])

    # ---- what the daemon says ----

    def status(self, command="status"):
        return json.loads(ask(self.status_address, command.encode() + b"\n"))

    def workers(self):
        return {w["id"]: w for w in self.status("workers")["workers"]}

    def ready(self):
        return sum(w["state"] == "ready" for w in self.workers().values())

    def wait_ready(self, n):
        wait_for(f"{n} ready workers", lambda: self.ready() >= n)

    def wait_steps(self, n):
        """Waits until the daemon has committed n steps since it started."""
        return wait_for(f"{n} steps", lambda: self.status()["steps"] >= n)

    # ---- the end ----

    def end(self):
        """Ends everything, workers last started first, and tells what went wrong."""
        problems = []
        for process in reversed(self.processes):
            try:
                process.end()
            except AssertionError as e:
                problems.append(str(e))
                process.kill()
        for process in self.processes:
            code = process.popen.returncode
            if code not in process.expected:
                problems.append(f"{process.name} ended with {code}, not {sorted(process.expected)}")
            report = REPORT.search(process.err())
            if report:
                problems.append(f"{process.name} wrote \"{report.group()}\"")
        return problems

    def tell(self):
        """The ends of all logs, for a person who looks at a failure."""
        for process in self.processes:
            print(f"---- {process.name}: {' '.join(process.argv)}", file=sys.stderr)
            limit = 20000 if REPORT.search(process.err()) else 2500
            for text in (process.out(), process.err()):
                if text:
                    print(text[-limit:].rstrip(), file=sys.stderr)

    def remove(self):
        shutil.rmtree(self.dir)


class Survivor:
    """The process of survivor.c, and the steps that it has told of."""

    def __init__(self, process):
        self.process = process

    def steps(self):
        """Whole lines only."""
        out = self.process.out()
        lines = out[:out.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines]

    def wait_for_steps(self, n):
        """n more."""
        before = len(self.steps())

        def done():
            if not self.process.running():
                raise AssertionError(f"the survivor ended: {self.process.err()[-2000:]}")
            return len(self.steps()) >= before + n
        wait_for(f"{n} more steps", done)


class FleetTest(unittest.TestCase):
    """A test case with a fleet of its own; whatever it starts is ended and checked after it."""

    longMessage = True

    def setUp(self):
        self.fleet = Fleet()
        self.addCleanup(self.finish, len(self.failures()))

    def failures(self):
        result = self._outcome.result
        return list(result.failures) + list(result.errors)

    def finish(self, failures_before):
        problems = self.fleet.end()
        failed = problems or len(self.failures()) > failures_before or not self._outcome.success
        if failed:
            self.fleet.tell()
        self.fleet.remove()
        self.assertEqual(problems, [], "processes ended badly")

    def set_apart(self, daemon):
        """The gateway has a core of its own, if there are two; whoever comes later is elsewhere, as on other machines."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1:
            self.addCleanup(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(daemon.popen.pid, cores[:1])
            os.sched_setaffinity(0, cores[1:])

    # ---- assertions ----

    def assertOneLine(self, text, *parts):
        """One line on stderr, `program: what: why`, with these parts."""
        self.assertEqual(text.count("\n"), 1, text)
        self.assertRegex(text, r"^stablemoe[a-z-]*: \S")
        for part in parts:
            self.assertIn(part, text)

    def assertBalanced(self, account, what):
        """The law of the ledger."""
        self.assertEqual(account["submitted"],
                         account["settled"] + account["failed"] + account["in_flight"], what)
        self.assertLessEqual(account["committed"], account["settled"], what)

    def assertLawful(self):
        """The law of the ledger, for all and for each trainer."""
        status = self.fleet.status()
        self.assertBalanced(status["ledger"], "ledger")
        for trainer in status["trainers"]:
            self.assertBalanced(trainer, trainer["name"])

    def assertSameSteps(self, survivor):
        """Every step was taken once, in order, and was the reference step. Ends the survivor."""
        survivor.process.end()  # while there is still somebody to answer its last step
        steps = survivor.steps()
        self.assertEqual([s["step"] for s in steps], list(range(1, len(steps) + 1)))
        for s in steps:
            self.assertLess(s["distance"], TOLERANCE, s)


def train_args(limit=1000, epochs=1, **options):
    """Options of a run that takes seconds: a small layer, few images."""
    chosen = {"limit": limit, "epochs": epochs, "batch": 100, "d-model": 32, "d-ff": 64, **options}
    return [word for key, value in chosen.items() for word in (f"--{key}", str(value))]


def need_data(test):
    """Skips a test where Debian's data set is not installed."""
    there = os.path.exists(os.path.join(DATA, "train-images-idx3-ubyte.gz"))
    return unittest.skipUnless(there, "dataset-fashion-mnist is not installed")(test)


def main():
    unittest.main(verbosity=2)
