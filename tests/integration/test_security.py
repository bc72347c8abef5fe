#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who gets in, with real processes: keys are made, shown, changed and revoked as an operator does it; whoever lacks
one, or has the wrong one, is refused in words and changes nothing. Strangers are played by Python's and
Debian's own OpenSSL."""

import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
import unittest

import authority
import harness
from harness import wait_for

ATTEMPTS = int(os.environ.get("SMOE_ATTEMPTS", "3000"))
AT_ONCE = int(os.environ.get("SMOE_AT_ONCE", "1"))  # processes that make them
GROWTH_BYTES = 8 << 20
LATENESS_MS = float(os.environ.get("SMOE_LATENESS_MS", "0"))  # p99.9 at most; 0: is not looked at


def rss(process):
    with open(f"/proc/{process.popen.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Secured(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.fleet.with_keys()

    def ctl(self, *args, ok=True):
        code, out, err = self.fleet.ctl(*args)
        if ok:
            self.assertEqual((code, err), (0, ""))
        return out if ok else (code, err)

    def refused(self, argv, *says):
        """A program that ends with 2 and one line."""
        code, out, err = self.fleet.run([os.path.join(harness.BIN, argv[0]), *argv[1:]], 20)
        self.assertEqual((code, out), (2, ""), err)
        self.assertOneLine(err, *says)

    def prints(self):
        """{name: fingerprints}"""
        found = {}
        for line in self.ctl("key", "list").splitlines():
            _, name, fingerprint = line.split()
            found.setdefault(name, []).append(fingerprint)
        return found

    def assertNoSecret(self, *lines):
        """No secret of these key lines is in anything that a process has written, but for the line itself."""
        secrets = [line.strip().rsplit(":", 1)[1] for line in lines]
        for process in self.fleet.processes:
            for secret in secrets:
                self.assertNotIn(secret, process.err(), process.name)
                if "stablemoectl" not in process.name:
                    self.assertNotIn(secret, process.out(), process.name)


class Keys(Secured):
    def daemon_argv(self):
        return ["stablemoed", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--state-dir",
                self.fleet.state_dir]

    def test_a_gateway_without_proper_keys_does_not_start_and_says_what_to_do(self):
        self.refused(self.daemon_argv(), "no keys", "stablemoectl key add", "security.insecure = loopback-only")
        path = os.path.join(self.fleet.state_dir, "keys")
        line = self.ctl("key", "add", "worker", "w1")
        self.assertRegex(line, r"\Asmoe1:worker:w1:[0-9a-f]{64}\n\Z")
        status = os.stat(path)
        self.assertEqual((status.st_mode & 0o7777, status.st_uid), (0o600, os.geteuid()))
        for text, says in (("", "keys: empty"), ("nonsense\n", "line 1"), (line + line[:-9], "line 2"),
                           (line + line, "same key twice")):
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            self.refused(self.daemon_argv(), says)
        with open(path, "w", encoding="ascii") as f:
            f.write(line)
        os.chmod(path, 0o640)
        self.refused(self.daemon_argv(), "others may read it; chmod 600")
        os.chmod(path, 0o600)
        if os.geteuid() == 0:
            os.chown(path, 12345, 0)
            self.refused(self.daemon_argv(), "belongs to another user (12345)")
            os.chown(path, 0, 0)
        self.fleet.start_daemon()
        self.assertNoSecret(line)

    def test_a_node_without_a_proper_key_file_does_not_start(self):
        worker = ["stablemoe-worker", "--gateway", "127.0.0.1:1"]
        path = self.fleet.path("k")
        self.refused([*worker, "--key", path], "No such file")
        for text, says in (("", "no key"), ("smoe1:worker:w:00\n", "no key")):
            self.fleet.write_key("k", text)
            self.refused([*worker, "--key", path], says)
        path = self.fleet.key("trainer", "t")
        self.refused([*worker, "--key", path], "is for role trainer")
        path = self.fleet.key("worker", "w")
        self.refused([*worker, "--id", "other", "--key", path], "is for w, not for other")
        os.chmod(path, 0o644)
        self.refused([*worker, "--key", path], "chmod 600")

    def test_keys_are_added_listed_rotated_and_revoked(self):
        daemon = self.fleet.start_daemon()
        lines = [self.ctl("key", "add", "worker", "w1")]
        old = self.fleet.write_key("old.key", lines[0])
        self.fleet.start_worker("w1", "--key", old)
        self.fleet.wait_ready(1)
        self.assertIn("two roles", self.ctl("key", "add", "trainer", "w1", ok=False)[1])
        lines.append(self.ctl("key", "add", "worker", "w1"))
        new = self.fleet.write_key("new.key", lines[1])
        old_print, = set(self.prints()["w1"]) - {self.prints_of(new)}
        self.assertIn("two keys already", self.ctl("key", "add", "worker", "w1", ok=False)[1])
        self.assertEqual(self.fleet.ready(), 1)  # both keys are valid, and nothing has happened
        began = time.monotonic()
        self.ctl("key", "revoke", "w1", old_print)
        wait_for("the end of its session", lambda: self.fleet.ready() == 0, 5)
        if not harness.SANITIZED:
            self.assertLess(time.monotonic() - began, 1.0)
        daemon.wait_for_line('peer="worker w1" why="its key was revoked"')
        self.fleet.processes[-1].expected.add(0)
        self.fleet.start_worker("w1", "--key", new, "--state-dir", self.fleet.path("again"))
        self.fleet.wait_ready(1)
        self.ctl("key", "revoke", "w1")
        wait_for("the end of its session", lambda: self.fleet.ready() == 0, 5)
        self.assertEqual(list(self.prints()), ["first"])
        self.assertIn("no key of w1", self.ctl("key", "revoke", "w1", ok=False)[1])
        self.assertIn("only key", self.ctl("key", "revoke", "first", ok=False)[1])
        self.assertNoSecret(*lines)

    def prints_of(self, path):
        """The fingerprint of the key that was added last."""
        import hashlib
        with open(path, encoding="ascii") as f:
            secret = f.read().strip().rsplit(":", 1)[1]
        return hashlib.sha256(bytes.fromhex(secret)).hexdigest()[:8]

    def test_a_reload_that_fails_keeps_the_keys_that_there_are(self):
        daemon = self.fleet.start_daemon()
        self.fleet.start_workers(1)
        path = os.path.join(self.fleet.state_dir, "keys")
        with open(path, encoding="ascii") as f:
            good = f.read()
        for text in ("", "nonsense\n", None):
            if text is None:
                os.unlink(path)
            else:
                with open(path, "w", encoding="ascii") as f:
                    f.write(text)
            code, err = self.ctl("reload-keys", ok=False)
            self.assertEqual(code, 1)
            self.assertIn("the keys in force stay", err)
        self.fleet.write_key(path, good)
        limits = resource.prlimit(daemon.popen.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.popen.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        daemon.signal(1)
        daemon.wait_for_line('msg="keys not reloaded" why="the keys in force stay: keys: Too many open files')
        resource.prlimit(daemon.popen.pid, resource.RLIMIT_NOFILE, limits)
        self.assertEqual(self.fleet.ready(), 1)
        self.assertEqual(self.fleet.status()["security"]["keys"], 2)
        with open(path, encoding="ascii") as f:
            line = next(l for l in f if ":w1:" in l)
        self.fleet.start_worker("w1", "--key", self.fleet.write_key("w1-again.key", line),
                                "--state-dir", self.fleet.path("w1-again"))
        self.fleet.processes[-1].wait_for_line("gateway")

    def test_a_wrong_configuration_does_not_keep_a_key_valid(self):
        config = self.fleet.path("c.conf")
        with open(config, "w", encoding="ascii") as f:
            f.write("[routing]\n")
        daemon = self.fleet.start_daemon("--config", config)
        self.fleet.start_workers(1)
        with open(config, "a", encoding="ascii") as f:
            f.write("nonsense = 1\n")
        path = os.path.join(self.fleet.state_dir, "keys")
        with open(path, encoding="ascii") as f:
            rest = [line for line in f if ":w1:" not in line]
        self.fleet.write_key(path, "".join(rest))
        daemon.signal(1)
        wait_for("the end of its session", lambda: self.fleet.ready() == 0, 5)
        daemon.wait_for_line("configuration not reloaded")


class Roles(Secured):
    def test_a_run_over_tls_is_a_run(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        self.fleet.start_workers(2)
        trainer = self.fleet.start_trainer(*harness.train_args())
        self.assertEqual(trainer.wait(), 0)
        self.assertGreater(json.loads(trainer.out())["test_accuracy"], 0.1)
        self.assertLawful()
        security = self.fleet.status()["security"]
        self.assertEqual((security["transport"], security["keys"], security["refused"]), ("tls", 4, 0))

    def test_both_backends_carry_it(self):
        self.fleet.start_daemon("--set", "net.backend=epoll")
        self.fleet.start_workers(1)
        trainer = self.fleet.start_trainer(*harness.train_args(limit=300), name="t2")
        self.assertEqual(trainer.wait(), 0)

    def test_without_a_key_nobody_gets_in_and_each_is_told(self):
        daemon = self.fleet.start_daemon()
        worker = self.fleet.start("w1", [os.path.join(harness.BIN, "stablemoe-worker"), "--gateway",
                                         self.fleet.gateway, "--id", "w1"])
        worker.wait_for_line("perhaps it wants a key")
        daemon.wait_for_line('peer=stranger why="TLS: stranger speaks no TLS"')

    def test_a_node_with_a_key_does_not_speak_to_a_gateway_without(self):
        key = self.fleet.key("worker", "w1")
        self.fleet.env["STABLEMOE_SECURITY_INSECURE"] = "loopback-only"
        self.fleet.start_daemon()
        worker = self.fleet.start_worker("w1", "--key", key)
        worker.wait_for_line("the gateway speaks no TLS")
        self.assertEqual(self.fleet.ready(), 0)

    def test_plaintext_from_another_address_is_refused_when_it_comes(self):
        addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
        others = [a for a in addresses if "." in a]
        if not others:
            self.skipTest("this machine has no address but loopback")
        self.fleet.env["STABLEMOE_SECURITY_INSECURE"] = "loopback-only"
        self.fleet.keys = False
        daemon = self.fleet.start_daemon()
        with socket.socket() as s:
            s.settimeout(20)
            s.bind((others[0], 0))
            s.connect(harness.split_address(self.fleet.gateway))
            self.assertEqual(s.recv(1), b"")
        daemon.wait_for_line("refused: security.insecure is for this machine only")
        self.assertEqual(self.fleet.status()["security"]["refused"], 1)

    def test_a_key_of_another_gateway_is_refused(self):
        daemon = self.fleet.start_daemon()
        line = self.ctl("key", "add", "worker", "w1")
        wrong = line[:-2] + ("0" if line[-2] != "0" else "1") + "\n"  # its print is another, too
        worker = self.fleet.start_worker("w1", "--key", self.fleet.write_key("wrong.key", wrong))
        worker.wait_for_line("the gateway does not know this key")
        daemon.wait_for_line(r'TLS: no key ..worker:w1:[0-9a-f]{8}.. here')

    def test_nothing_is_sent_in_clear_to_another_machine(self):
        self.refused(["stablemoe-worker", "--gateway", "192.0.2.1:7700", "--id", "w"], "--key: needed")
        code, _, err = self.fleet.run([os.path.join(harness.BIN, "stablemoe-train"), "--gateway",
                                       "192.0.2.1:7700", "--dataset", "fashion-mnist", "--patience", "100ms"])
        self.assertEqual(code, 1)
        self.assertIn("without a key nothing is sent further", err)


class Admins(Secured):
    """stablemoectl over the network, by a key of role admin."""

    def setUp(self):
        super().setUp()
        self.admin = self.fleet.key("admin", "root")
        self.daemon = self.fleet.start_daemon()

    def remote(self, *args, key=None):
        return self.fleet.run([os.path.join(harness.BIN, "stablemoectl"), "--gateway", self.fleet.gateway,
                               "--key", key or self.admin, *args])

    def test_what_the_socket_takes_an_admin_key_takes(self):
        self.fleet.start_workers(2)
        code, out, err = self.remote("--json", "status")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(sorted(w["id"] for w in json.loads(out)["workers"]), ["w1", "w2"])
        for _ in range(40):  # more in a row than there may be at a time
            self.assertEqual(self.remote("ping")[0], 0)
        self.assertEqual(self.remote("policy", "topk"), (0, "", ""))
        self.assertEqual(self.fleet.status()["policy"], "topk")
        self.assertEqual(self.remote("drain", "w1"), (0, "", ""))
        wait_for("the drained worker", lambda: self.fleet.ready() == 1)
        self.assertEqual(self.remote("reload"), (0, "", ""))
        code, _, err = self.remote("drain", "nobody")
        self.assertEqual(code, 1)
        self.assertOneLine(err, "no worker", "nobody")
        self.daemon.wait_for_line('peer="admin root" why=answered')

    def test_a_key_of_another_role_does_not_administer(self):
        for role in ("worker", "trainer"):
            code, _, err = self.remote("status", key=self.fleet.key(role, f"{role}-1"))
            self.assertEqual(code, 1)
            self.assertOneLine(err, f"is for role {role}", "for an admin")
        worker = self.fleet.start("w", [os.path.join(harness.BIN, "stablemoe-worker"), "--gateway",
                                        self.fleet.gateway, "--key", self.admin])
        self.assertEqual(worker.wait(), 2)
        worker.expected.add(2)
        self.assertIn("is for role admin", worker.err())

    def test_keys_are_not_made_from_afar_and_no_key_is_no_way_in(self):
        code, _, err = self.remote("key", "list")
        self.assertEqual(code, 2)
        self.assertOneLine(err, "on the gateway's own machine only")
        code, _, err = self.fleet.run([os.path.join(harness.BIN, "stablemoectl"), "--gateway",
                                       self.fleet.gateway, "status"])
        self.assertEqual(code, 2)
        self.assertOneLine(err, "--gateway and --key go together")

    def test_a_revoked_administrator_is_out_at_once(self):
        line = self.ctl("key", "add", "admin", "other")
        other = self.fleet.write_key("other.key", line)
        self.assertEqual(self.remote("ping", key=other)[0], 0)
        self.ctl("key", "revoke", "other")
        code, _, err = self.remote("ping", key=other)
        self.assertEqual(code, 1)
        self.assertOneLine(err, "the gateway does not know this key")
        self.assertEqual(self.remote("ping")[0], 0)
        self.assertNoSecret(line)


@unittest.skipIf(authority.MISSING, authority.MISSING)
class Certificates(Secured):
    """An authority in place of keys."""

    def setUp(self):
        super().setUp()
        self.fleet.keys = False
        self.authority = authority.Authority(self.fleet.dir)
        self.certify = self.authority.certify
        self.gateway = self.certify("gateway", "g")

    def remote(self, key, *args):
        return self.fleet.run([os.path.join(harness.BIN, "stablemoectl"), "--gateway", self.fleet.gateway,
                               "--key", key, *args])

    def test_a_run_by_certificates_is_a_run_and_ends_for_whoever_is_revoked(self):
        daemon = self.fleet.start_daemon("--set", "fleet.workers_min=2", "--set",
                                         f"security.certificate={self.gateway}")
        for name in ("w1", "w2"):
            self.fleet.start_worker(name, "--key", self.certify("worker", name))
        trainer = self.fleet.start_trainer(*harness.train_args(limit=300), "--key", self.certify("trainer", "t"), name="t")
        self.assertEqual(trainer.wait(), 0)
        self.assertEqual(self.fleet.status()["security"]["transport"], "mtls")
        admin = self.certify("admin", "ops")
        self.assertEqual(self.remote(admin, "ping")[0], 0)
        self.authority.revoke("w1")
        self.authority.bundle("g", "ca.crt", "revoked.crl")
        self.ctl("reload-keys")
        wait_for("the end of its session", lambda: self.fleet.ready() == 1, 5)
        daemon.wait_for_line('peer="worker w1" why="its key was revoked"')
        daemon.wait_for_line("shows a certificate that is not trusted here, or was revoked")
        self.assertEqual(self.remote(admin, "ping")[0], 0)
        self.authority.bundle("g")
        code, err = self.ctl("reload-keys", ok=False)
        self.assertEqual(code, 1)
        self.assertIn("no certificate of an authority", err)
        self.assertEqual(self.remote(admin, "ping")[0], 0)

    def test_what_is_no_gateways_does_not_start_one(self):
        argv = ["stablemoed", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--state-dir",
                self.fleet.state_dir, "--set"]
        worker = self.certify("worker", "w")
        self.refused([*argv, f"security.certificate={worker}"], "is no gateway's")
        self.refused([*argv, f"security.certificate={self.fleet.path('none')}"], "security.certificate", "No such")
        self.refused([*argv, f"security.certificate={self.gateway}", "--set", "security.insecure=loopback-only"],
                     "security.insecure")
        self.refused(["stablemoe-worker", "--gateway", "127.0.0.1:1", "--key", self.gateway],
                     "is a gateway's certificate")
        self.refused(["stablemoe-worker", "--gateway", "127.0.0.1:1", "--key", worker, "--id", "other"],
                     "is for w, not for other")


class Stranger:
    """Attempts of one kind, one after the other."""

    def __init__(self, address, kind):
        self.address = harness.split_address(address)
        self.kind = kind

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.kind == "tls12":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        else:
            context.set_alpn_protocols(["stablemoe/1"])
        return context

    def attempt(self):
        """What was answered in clear, before it was closed."""
        with socket.create_connection(self.address, timeout=20) as s:
            if self.kind == "garbage":
                s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                try:
                    return s.recv(100)
                except ConnectionResetError:
                    return b""
            try:
                self.context().wrap_socket(s)
            except (ssl.SSLError, OSError):
                return None
        raise AssertionError(f"{self.kind} got in")


class Strangers(Secured):
    def openssl(self, *args):
        """openssl s_client against the gateway: what it printed."""
        done = subprocess.run(["openssl", "s_client", "-connect", self.fleet.gateway, "-alpn", "stablemoe/1",
                               *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=30, check=False)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stdout + done.stderr

    @unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
    def test_openssl_itself_is_refused_and_each_attempt_is_logged(self):
        daemon = self.fleet.start_daemon()
        lines = [self.ctl("key", "add", "worker", name).strip() for name in ("w1", "w2")]
        secrets = [line.rsplit(":", 1)[1] for line in lines]
        prints = self.prints()
        identity = f"worker:w1:{prints['w1'][0]}"
        self.assertRegex(self.openssl("-tls1_2"), "alert protocol version")
        self.assertRegex(self.openssl("-tls1_3"), "alert handshake failure")
        self.assertRegex(self.openssl("-tls1_3", "-psk_identity", identity, "-psk", "00" * 32),
                         "alert illegal parameter")
        self.assertRegex(self.openssl("-tls1_3", "-psk_identity", identity, "-psk", secrets[1]),
                         "alert illegal parameter")
        for why in ("stranger speaks no TLS 1.3", "stranger offers no key that is known here",
                    "w1 has a wrong key"):
            daemon.wait_for_line(re.escape(why))
        self.assertEqual(daemon.err().count("has a wrong key"), 2)
        self.assertEqual(self.fleet.status()["security"]["refused"], 4)
        self.assertNoSecret(*lines)

    def test_garbage_gets_no_answer(self):
        self.fleet.start_daemon()
        self.assertEqual(Stranger(self.fleet.gateway, "garbage").attempt(), b"")

    def test_whoever_says_nothing_or_half_a_hello_is_closed_in_time(self):
        self.fleet.start_daemon("--set", "net.hello_timeout=300ms")
        for half in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            with socket.create_connection(harness.split_address(self.fleet.gateway), timeout=20) as s:
                s.sendall(half)
                self.assertEqual(s.recv(1), b"")
        self.assertEqual(self.fleet.status()["io"]["hello_timeouts"], 2)

    def attempts(self, count, at_once):
        """So many of every kind, from so many processes; how many seconds."""
        lines = [self.ctl("key", "add", "worker", name).strip() for name in ("n1", "n2")]
        began = time.monotonic()
        code, _, err = self.fleet.run([os.path.join(harness.HELPERS, "integration_attempts"),
                                       *self.fleet.gateway.rsplit(":", 1), str(count), str(at_once),
                                       f"worker:n1:{self.prints()['n1'][0]}", lines[1].rsplit(":", 1)[1]], 600)
        self.assertEqual(code, 0, err)
        self.assertNoSecret(*lines)
        for name in ("n1", "n2"):
            self.ctl("key", "revoke", name)
        return time.monotonic() - began

    def test_thousands_of_attempts_delay_no_slot_and_take_no_memory(self):
        daemon = self.fleet.start_daemon("--set", "fleet.workers_min=1", "--set", "routing.slot=10ms")
        self.set_apart(daemon)
        self.fleet.start_workers(1)
        self.attempts(250, 1)  # what OpenSSL keeps for itself
        before, refused = rss(daemon), self.fleet.status()["security"]["refused"]
        seconds = self.attempts(ATTEMPTS, AT_ONCE)
        grown, status = rss(daemon) - before, self.fleet.status()
        late_ms = status["slot_lateness_p999_ms"]
        print(f"{ATTEMPTS} attempts in {seconds:.1f} s, grown by {grown >> 10} KiB, slot lateness p99.9 "
              f"{late_ms:.2f} ms", file=sys.stderr)
        self.assertEqual(status["security"]["refused"] - refused, ATTEMPTS)
        self.assertEqual(self.fleet.ready(), 1)
        if not harness.SANITIZED:
            self.assertLess(grown, GROWTH_BYTES)
        if LATENESS_MS:  # on a quiet machine only
            self.assertLessEqual(late_ms, LATENESS_MS)
        self.assertLess(daemon.err().count("peer=stranger"), 12 + seconds, "strangers do not fill the log")
        for why in ("stranger speaks no TLS", "stranger speaks no TLS 1.3",
                    "stranger offers no key that is known here", "n1 has a wrong key"):
            self.assertIn(f'why="TLS: {why}"', daemon.err())


if __name__ == "__main__":
    harness.main()
