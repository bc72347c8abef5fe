#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The status port: every field that is promised, exact integers, and the limits on who asks."""

import json
import os
import re
import shutil
import socket
import subprocess
import time

import harness
from harness import ask, split_address, train_args

INT, NUMBER, TEXT, SWITCH, LIST = int, (int, float), str, bool, list

# What the issue and docs/operations.md promise, with the JSON type of each.
STATUS = {"version": TEXT, "uptime_s": NUMBER, "slot": INT, "policy": TEXT, "v": NUMBER, "mu": NUMBER, "gap": NUMBER,
          "epoch": INT, "steps": INT, "draining": SWITCH, "slot_ms": NUMBER, "slots_early": INT,
          "slots_missed": INT, "slot_lateness_p50_ms": NUMBER, "slot_lateness_p99_ms": NUMBER,
          "tokens_routed": INT, "gate_mass": NUMBER, "topk_agreement": NUMBER, "ledger": dict,
          "io": dict, "workers": LIST, "layers": LIST, "trainers": LIST}
ACCOUNT = {"submitted": INT, "settled": INT, "committed": INT, "failed": INT, "in_flight": INT}
WORKER = {"id": TEXT, "state": TEXT, "drained": SWITCH, "backlog_visits": NUMBER, "energy_debt_j": NUMBER,
          "freq_max_hz": NUMBER, "freq_khz": INT, "cycles_per_visit": NUMBER,
          "cycles_per_visit_error": NUMBER, "cycles_per_parcel": NUMBER, "efficiency": NUMBER, "efficiency_error": NUMBER, "kappa": NUMBER,
          "watts": NUMBER, "observations_rejected": INT, "changes_noticed": INT, "visits_done": INT,
          "visits_routed": INT, "visits_failed": INT, "in_flight": INT, "visits_per_second": NUMBER,
          "busy_ns": INT, "active_ns": INT, "experts": LIST}
LAYER = {"layer": TEXT, "state": TEXT, "step": INT, "d_model": INT, "d_ff": INT, "experts": LIST}
EXPERT = {"expert": INT, "worker": TEXT, "visits": INT, "in_flight": INT, "share": NUMBER}
TRAINER = {"name": TEXT, "connected": SWITCH, "step": INT, "attempt": INT, "waits_for": TEXT, **ACCOUNT}


class Status(harness.FleetTest):
    def assertFields(self, it, fields, what):
        for name, kind in fields.items():
            self.assertIn(name, it, what)
            self.assertIsInstance(it[name], kind, f"{what}.{name}")
            if kind is INT:
                self.assertNotIsInstance(it[name], bool, f"{what}.{name}")
                self.assertGreaterEqual(it[name], 0, f"{what}.{name}")

    def ask(self, request):
        return ask(self.fleet.status_address, request)

    def assertError(self, answer, code, part):
        """One line of JSON with an error."""
        self.assertEqual(answer.count(b"\n"), 1, answer)
        it = json.loads(answer)
        self.assertEqual(set(it), {"error", "code"})
        self.assertEqual(it["code"], code)
        self.assertIn(part, it["error"])

    # ---- what it says ----

    @harness.need_data
    def test_status_has_every_field_and_its_numbers_add_up(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=2")
        self.fleet.start_workers(2)
        run = self.fleet.start_trainer(*train_args(1000, epochs=10000))
        self.fleet.wait_steps(10)
        status = self.fleet.status()
        self.assertFields(status, STATUS, "status")
        self.assertFields(status["ledger"], ACCOUNT, "ledger")
        self.assertBalanced(status["ledger"], "ledger")
        self.assertEqual({w["id"] for w in status["workers"]}, {"w1", "w2"})
        for worker in status["workers"]:
            self.assertFields(worker, WORKER, worker["id"])
            self.assertEqual(worker["state"], "ready")
            self.assertGreater(worker["visits_done"], 0)
            self.assertGreater(worker["cycles_per_visit"], 0)
            self.assertEqual(worker["visits_routed"], worker["visits_done"] +
                             worker["visits_failed"] + worker["in_flight"])
        self.assertEqual(sum(w["visits_done"] for w in status["workers"]),
                         status["ledger"]["settled"])
        hosted = [e for w in status["workers"] for e in w["experts"]]
        self.assertEqual(sorted(hosted), [f"moe/{e}" for e in range(8)])
        layer, = status["layers"]
        self.assertFields(layer, LAYER, "layer")
        for expert in layer["experts"]:
            self.assertFields(expert, EXPERT, "expert")
        self.assertAlmostEqual(sum(e["share"] for e in layer["experts"]), 1, places=6)
        trainer, = status["trainers"]
        self.assertFields(trainer, TRAINER, "trainer")
        self.assertEqual(trainer["name"], "trainer")
        self.assertBalanced(trainer, "trainer")
        for counter in ACCOUNT:
            self.assertEqual(trainer[counter], status["ledger"][counter], counter)
        # The parts say what the whole says.
        self.assertEqual(set(self.fleet.status("workers")["workers"][0]), set(status["workers"][0]))
        self.assertEqual(set(self.fleet.status("experts")["layers"][0]), set(layer))
        run.kill()

    def test_counters_are_exact_integers_and_not_rounded_as_doubles_are_printed(self):
        self.fleet.start_daemon()
        text = self.ask(b"status\n").decode()
        # The epoch of a new daemon has more digits than a double is usually printed with.
        self.assertRegex(text, r'"epoch":\d+[,}]')
        self.assertIsNone(re.search(r'"(slot|steps|submitted|bytes_in|epoch)":\d*[.eE]', text))

    def test_every_command_answers_one_line_of_json(self):
        self.fleet.start_daemon()
        for command in (b"status", b"workers", b"experts", b"ping", b"help"):
            answer = self.ask(command + b"\n")
            self.assertEqual(answer.count(b"\n"), 1)
            self.assertIsInstance(json.loads(answer), dict)
        self.assertIs(json.loads(self.ask(b"ping\n"))["pong"], True)
        self.assertEqual(set(json.loads(self.ask(b"help\n"))["commands"]),
                         {"status", "workers", "experts", "ping", "help"})

    def test_nc_can_ask(self):
        self.fleet.start_daemon()
        if not shutil.which("nc"):
            self.skipTest("netcat is not installed")
        host, port = split_address(self.fleet.status_address)
        done = subprocess.run(["nc", "-q1", host, str(port)], input=b"ping\n", capture_output=True,
                              timeout=harness.PATIENCE_S, check=True)
        self.assertIs(json.loads(done.stdout)["pong"], True)

    # ---- what it refuses ----

    def test_anything_else_gets_an_error_in_json(self):
        self.fleet.start_daemon()
        for line in (b"statuss", b"STATUS", b"", b" ", b'"quoted\\', b"\x00status", b"\xff\xfe\x1b[2J",
                     b"GET / HTTP/1.1"):
            self.assertError(self.ask(line + b"\n"), -1006, "unknown command")
        self.assertError(self.ask(b"status now\n"), -1000, "no argument")

    def test_it_can_change_nothing(self):
        self.fleet.start_daemon("--set", "routing.policy=topk")
        for line in (b"policy random\n", b"drain w1\n", b"undrain w1\n", b"set-budget w1 5\n", b"reload\n"):
            self.assertError(self.ask(line), -1004, "read-only")
        self.assertEqual(self.fleet.status()["policy"], "topk")

    def test_lines_end_in_many_ways_and_come_in_pieces(self):
        self.fleet.start_daemon()
        for request in (b"ping\r\n", b"  ping \t\n", b"ping\nstatus\n"):
            self.assertIn(b"pong", self.ask(request))
        with socket.create_connection(split_address(self.fleet.status_address)) as s:
            s.settimeout(harness.PATIENCE_S)
            for byte in b"ping":
                s.sendall(bytes([byte]))
            s.shutdown(socket.SHUT_WR)  # no newline: the end of the request says it as well
            self.assertIn(b"pong", s.recv(1000))

    def test_a_request_has_at_most_256_bytes(self):
        self.fleet.start_daemon()
        for size in (255, 256):
            self.assertIn(b"pong", self.ask(b"ping".ljust(size - 1) + b"\n"))
        for size in (257, 300, 100000):
            with socket.create_connection(split_address(self.fleet.status_address)) as s:
                s.settimeout(harness.PATIENCE_S)
                try:
                    s.sendall(b"p" * (size - 1) + b"\n")
                    answer = s.recv(1000)
                except ConnectionError:  # closed on us while we still wrote
                    answer = b""
            if answer or size == 257:
                self.assertError(answer, -1000, "at most 255 bytes")
        self.assertIn(b"pong", self.ask(b"ping\n"))

    def test_a_client_that_says_nothing_is_told_and_closed_after_2_s(self):
        self.fleet.start_daemon()
        began = time.monotonic()
        answer = ask(self.fleet.status_address, b"pin", timeout=harness.PATIENCE_S)
        self.assertGreaterEqual(time.monotonic() - began, 1.9)
        self.assertError(answer, -1000, "no line within 2 s")

    def test_of_17_clients_the_one_that_waited_longest_makes_room(self):
        self.fleet.start_daemon()
        clients = []
        for _ in range(17):
            s = socket.create_connection(split_address(self.fleet.status_address))
            s.settimeout(harness.PATIENCE_S)
            self.addCleanup(s.close)
            clients.append(s)
        self.assertEqual(clients[0].recv(100), b"", "closed without a word")
        # The others, the 17th too, are served.
        for s in clients[1:]:
            s.sendall(b"ping\n")
        for s in clients[1:]:
            self.assertIn(b"pong", s.recv(1000))
        self.assertIn(b"pong", self.ask(b"ping\n"))

    def test_the_admin_socket_is_for_owner_and_group_only(self):
        self.fleet.start_daemon()
        path = self.fleet.path("gateway/admin.sock")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
        self.assertEqual(json.loads(ask(path, b"policy queue\n")), {"ok": True})
        self.assertEqual(self.fleet.status()["policy"], "queue")
        self.assertError(ask(path, b"policy best\n"), -1006, "best")
        self.assertError(ask(path, b"policy\n"), -1000, "one argument")
        self.assertError(ask(path, b"drain nobody\n"), -1006, "nobody")
        self.assertError(ask(path, b"set-budget w1\n"), -1000, "two arguments")
        self.assertError(ask(path, b"set-budget w1 5 6\n"), -1000, "two arguments")
        self.assertError(ask(path, b"set-budget \t nobody  \t 5 \n"), -1006, "nobody")
        self.assertError(ask(path, b"set-budget " + b"w" * 100 + b" 5\n"), -1006, "so long a name")
        self.assertError(ask(path, b"status now\n"), -1000, "no argument")


if __name__ == "__main__":
    harness.main()
