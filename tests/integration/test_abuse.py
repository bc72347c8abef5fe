#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile and careless peers by the thousand, beside a run that must not notice: whoever drips, sends noise or
does not read is bounded in memory and in time, workers join all the same, every step is the reference step
(survivor.c), and slots keep their cadence by the gateway's own count. And peers of the next version."""

import os
import random
import socket
import struct
import sys
import threading
import time
import zlib

import harness
import strangers

if not strangers.MISSING:
    import wire
    from wire import pb

CROWD = int(os.environ.get("SMOE_CROWD", "2000"))
ROUNDS = int(os.environ.get("SMOE_ROUNDS", "1"))
GROWTH_BYTES = 16 << 20
SEED = int(os.environ.get("SMOE_SEED", "1"))


def rss(process):
    """Resident bytes of a process."""
    with open(f"/proc/{process.popen.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Crowd:
    """Connections of one kind, kept at their number: what the other end closes is opened again."""

    def __init__(self, address, size, kind):
        self.address = harness.split_address(address)
        self.size = size
        self.kind = kind
        self.random = random.Random(SEED)
        self.opened = self.refused = 0
        self.sockets = []
        self.stopping = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def open(self):
        s = socket.socket()
        s.settimeout(5)
        try:
            s.connect(self.address)
            s.setblocking(False)
            self.opened += 1
            if self.kind == "noise":
                s.send(self.random.randbytes(self.random.randrange(1, 4096)))
        except OSError:
            self.refused += 1
        return s

    def alive(self, s):
        try:
            if self.kind == "dripping":
                s.send(b"S")
            return s.recv(4096) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def run(self):
        while not self.stopping:
            began = time.monotonic()
            kept = [s for s in self.sockets if self.alive(s)]
            for s in set(self.sockets) - set(kept):
                s.close()
            self.sockets = kept
            while len(self.sockets) < self.size and time.monotonic() < began + 0.1:
                self.sockets.append(self.open())
            time.sleep(max(0.0, began + 0.1 - time.monotonic()))
        for s in self.sockets:
            s.close()

    def stop(self):
        self.stopping = True
        self.thread.join()


class Abuse(harness.FleetTest):
    def start(self, *args):
        self.daemon = self.fleet.start_daemon("--set", "fleet.workers_min=2", *args)
        self.set_apart(self.daemon)
        self.fleet.start_workers(2)
        self.survivor = self.fleet.start_survivor()
        self.survivor.wait_for_steps(3)

    def tell(self, what, **figures):
        words = [f"{key.replace('_', ' ')} {value}" for key, value in figures.items()]
        print(f"{what}: {', '.join(words)}", file=sys.stderr, flush=True)


class Strangers(Abuse):
    def abuse(self, kind):
        """A crowd, until it has been closed for silence or for room as often as it is large."""
        before = rss(self.daemon)
        io = self.fleet.status()["io"]
        crowd = Crowd(self.fleet.gateway, CROWD, kind)
        self.addCleanup(crowd.stop)
        delays, sessions = [], 0
        late = self.fleet.start_worker(f"late-{kind}")
        while crowd.opened < 2 * CROWD * ROUNDS:
            began = time.monotonic()
            status = self.fleet.status()
            delays.append(time.monotonic() - began)
            sessions = max(sessions, status["io"]["sessions"])
            time.sleep(0.02)
        late.wait_for_line("joined the gateway")
        self.survivor.wait_for_steps(5)
        grown = rss(self.daemon) - before
        crowd.stop()
        status = self.fleet.status()
        self.tell(kind, connections=crowd.opened, at_most_at_a_time=sessions, grown_KiB=grown >> 10,
                  crowded_out=status["io"]["crowded_out"] - io["crowded_out"],
                  hello_timeouts=status["io"]["hello_timeouts"] - io["hello_timeouts"],
                  status_p99_ms=round(1e3 * sorted(delays)[int(0.99 * len(delays))], 1),
                  slot_lateness_p999_ms=round(status["slot_lateness_p999_ms"], 2))
        self.assertLess(sessions, 512)
        if not harness.SANITIZED:
            self.assertLess(grown, GROWTH_BYTES)
        late.end()

    def test_thousands_of_strangers_keep_nobody_out_and_change_no_step(self):
        self.start()
        for kind in ("silent", "dripping", "noise"):
            self.abuse(kind)
        io = self.fleet.status()["io"]
        self.assertGreater(io["crowded_out"] + io["hello_timeouts"], CROWD)
        self.assertLess(self.daemon.err().count("\n"), 400, "a crowd does not fill the log")
        harness.wait_for("the crowd to be gone", lambda: self.fleet.status()["io"]["sessions"] == 3)
        self.assertLawful()
        self.assertSameSteps(self.survivor)


class Readers(Abuse):
    def test_clients_of_the_status_that_never_read_are_bounded(self):
        self.start()
        before = rss(self.daemon)
        path = self.fleet.path("gateway/admin.sock")
        stuck = []
        for i in range(100):
            s = socket.socket(socket.AF_UNIX if i % 2 else socket.AF_INET)
            self.addCleanup(s.close)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(path if i % 2 else harness.split_address(self.fleet.status_address))
            s.sendall(b"status\n")
            stuck.append(s)
        for _ in range(20):
            self.fleet.status()
        self.assertEqual(harness.ask(path, b"reload\n"), b'{"ok":true}\n')
        self.survivor.wait_for_steps(3)
        if not harness.SANITIZED:
            self.assertLess(rss(self.daemon) - before, GROWTH_BYTES)
        self.assertLawful()
        self.assertSameSteps(self.survivor)

    def test_a_peer_that_does_not_read_is_cut_off_and_named(self):
        self.start("--set", "limits.outbox=1MiB")
        before = rss(self.daemon)
        deaf = wire.Connection(self.fleet.gateway)
        self.addCleanup(deaf.close)
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.send(pb.Hello(protocol_min=1, protocol_max=1, role=pb.ROLE_TRAINER, name="deaf",
                           incarnation=1))
        pings = b"".join(wire.frame(pb.Ping(nonce=n)) for n in range(1, 1000))

        def cut_off():
            try:
                deaf.socket.setblocking(False)
                deaf.socket.send(pings)
            except BlockingIOError:
                pass
            except OSError:
                return True
            return False
        harness.wait_for("the end of the deaf one", cut_off)
        self.daemon.wait_for_line('peer="trainer deaf" why="does not read what it is sent"')
        self.assertEqual(self.fleet.status()["io"]["slow_peers"], 1)
        if not harness.SANITIZED:
            self.assertLess(rss(self.daemon) - before, GROWTH_BYTES)
        self.survivor.wait_for_steps(3)
        self.assertSameSteps(self.survivor)


class NextVersion(Abuse):
    """A peer of protocol version 2, which adds a field to every message and a few message types."""

    UNKNOWN_FIELD = b"\xf2\x3e\x05later"  # field 1006, five bytes
    UNKNOWN_TYPE = 200

    def frame(self, number, body, raw=b""):
        head = b"SMOE" + struct.pack("<BBHII", 1, 0, number, len(body), len(raw))
        return head + struct.pack("<I", zlib.crc32(head)) + body + raw

    def say(self, connection, message, raw=b""):
        body = message.SerializeToString() + self.UNKNOWN_FIELD
        connection.send_bytes(self.frame(wire.NUMBERS[type(message)], body, raw))

    def hello(self, low, high, role):
        connection = wire.Connection(self.fleet.gateway)
        self.addCleanup(connection.close)
        caps = pb.WorkerCaps(freq_max_hz=1e9, inbox_bytes_max=1 << 24, lanes=1, freq_driver="null")
        self.say(connection, pb.Hello(protocol_min=low, protocol_max=high, role=role, name="next",
                                      incarnation=7, worker=caps))
        return connection, connection.receive(harness.PATIENCE_S)[0]

    def test_a_peer_one_version_ahead_is_served_in_ours(self):
        self.start()
        for role in (pb.ROLE_WORKER, pb.ROLE_TRAINER):
            connection, welcome = self.hello(1, 2, role)
            self.assertIsInstance(welcome, pb.Welcome)
            self.assertEqual(welcome.protocol, 1)
            if role == pb.ROLE_WORKER:
                self.say(connection, pb.Inventory())
                self.say(connection, pb.Report(energy_source="fusion", freq_max_hz=1e9, freq_khz=10**6))
            for raw in (b"", b"\x01" * 5000):  # of a type that version 1 does not have: passed over
                connection.send_bytes(self.frame(self.UNKNOWN_TYPE, self.UNKNOWN_FIELD, raw))
            connection.send_bytes(self.frame(self.UNKNOWN_TYPE, b""))
            self.say(connection, pb.Ping(nonce=4711))
            while not isinstance(message := connection.receive(harness.PATIENCE_S)[0], pb.Pong):
                self.assertNotIsInstance(message, pb.Error)
            self.assertEqual(message.nonce, 4711)
            self.say(connection, pb.Bye(reason="enough"))
        self.survivor.wait_for_steps(3)
        self.assertSameSteps(self.survivor)

    def test_a_peer_of_our_version_may_not_send_what_it_does_not_have(self):
        self.start()
        connection, _ = self.hello(1, 1, pb.ROLE_TRAINER)
        connection.send_bytes(self.frame(self.UNKNOWN_TYPE, b""))
        error = connection.receive(harness.PATIENCE_S)[0]
        self.assertEqual((error.code, error.fatal), (wire.EMALFORMED, True))
        self.assertIn("unknown message type 200", error.message)
        self.assertSameSteps(self.survivor)

    def test_a_peer_two_versions_apart_is_refused_with_a_reason(self):
        self.start()
        for low, high in ((2, 3), (3, 9), (0, 0)):
            connection, error = self.hello(low, high, pb.ROLE_WORKER)
            self.assertIsInstance(error, pb.Error)
            self.assertTrue(error.fatal)
            self.assertIn(error.code, (wire.EVERSION, wire.EFIELD))
            self.assertRegex(error.message, "protocol")
            with self.assertRaises(wire.Closed):
                connection.receive(harness.PATIENCE_S)
        self.assertSameSteps(self.survivor)


if __name__ == "__main__":
    strangers.main()
