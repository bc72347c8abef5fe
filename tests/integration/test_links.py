#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Direct links between workers of a sharded layer: what they exchange goes over them and not through the gateway, whoever
is killed; where a firewall forbids them all goes through the gateway; and nobody gets in who was not told of.

A survivor trains meanwhile and repeats every step by itself (survivor.c): each must be the reference step. The test runs in
a network namespace of its own; behind the firewall each worker is in another (test_network.py).
"""

import os
import random
import re
import socket
import subprocess
import time

import harness
import own_network
from harness import wait_for

WORKERS = 3
KILLS = 3 if harness.SANITIZED else 6
REVOKED_S = harness.PATIENCE_S if harness.SANITIZED else 1
HUNG_UP_S = harness.PATIENCE_S if harness.SANITIZED else 8  # on a stranger; it has 5 s to shake hands
PORT = 7700
SEED = int(os.environ.get("SMOE_SEED", "1"))
CHAIN = """
table inet smoe {
    chain between { type filter hook forward priority 0; }
}
"""
# A worker's own end: it waits for its link, and becomes the worker.
BEHIND = ["unshare", "--net", "sh", "-c",
          'until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done; ip link set lo up && '
          'ip addr add "$0.2/24" dev eth0 && ip link set eth0 up && ip route add default via "$0.1" && exec "$@"']


def network(*command, text=None):
    subprocess.run(command, input=text, check=True, capture_output=True, text=True)


class Linked(harness.FleetTest):
    def start_daemon(self, *args, **where):
        return self.fleet.start_daemon("--set", "placement.rule=highest-averages", "--set",
                                       f"fleet.workers_min={WORKERS}", *args, **where)

    def sums(self):
        """Over all workers: links that are up, bytes sent directly, bytes that went through the gateway."""
        workers = self.fleet.workers().values()
        return tuple(sum(w[key] for w in workers) for key in ("links_up", "direct_bytes", "relayed_bytes"))

    def has_links(self):
        return self.sums()[0] == WORKERS * (WORKERS - 1)

    def wait_for_links(self, survivor):
        """All are up, and what the gateway had asked for before has come: bytes count when they come."""
        wait_for("all links", self.has_links)
        survivor.wait_for_steps(2)

    def steps_over(self, survivor, steps=5):
        """Bytes (direct, relayed) while it makes so many steps more."""
        before = self.sums()
        survivor.wait_for_steps(steps)
        after = self.sums()
        return after[1] - before[1], after[2] - before[2]

    def shards(self):
        return self.fleet.status("experts")["layers"][0]["shards"]

    def both_copies(self):
        layers = self.fleet.status("experts")["layers"]
        return layers and all(x["state"] == "ready" and x["elements_single"] == 0 for x in layers)


class Links(Linked):
    def setUp(self):
        super().setUp()
        self.fleet.with_keys()
        self.daemon = self.start_daemon()

    def start_workers(self):
        self.ports = []
        while len(self.ports) < WORKERS:
            self.ports = list({*self.ports, harness.free_port()})
        self.keys = [self.fleet.key("worker", f"w{i + 1}") for i in range(WORKERS)]
        self.workers = [self.start_worker(i) for i in range(WORKERS)]
        self.fleet.wait_ready(WORKERS)
        self.survivor = self.fleet.start_survivor()
        self.survivor.wait_for_steps(2)
        self.wait_for_links(self.survivor)

    def start_worker(self, i):
        return self.fleet.start_worker(f"w{i + 1}", "--slots", "4", "--key", self.keys[i], "--peer-listen",
                                       f"127.0.0.1:{self.ports[i]}")

    def test_all_that_workers_exchange_goes_from_one_to_the_other(self):
        self.start_workers()
        direct, relayed = self.steps_over(self.survivor, 20)
        self.assertGreater(direct, 0)
        self.assertEqual(relayed, 0)
        self.survivor.process.end()
        for worker in self.shards():
            sent = worker["traffic"]
            self.assertEqual(sent["direct"], sent["gradient_sent"] + sent["follow_sent"] + sent["weight_sent"])
            self.assertEqual(sent["uploaded"], 0)
        code, table, err = self.fleet.ctl("workers")
        self.assertEqual(code, 0, err)
        self.assertEqual(table.count("2/2"), WORKERS, table)

    def test_every_step_is_the_reference_step_whoever_is_killed(self):
        self.start_workers()
        chosen = random.Random(SEED)
        for _ in range(KILLS):
            wait_for("both copies of everything", self.both_copies)
            time.sleep(chosen.random() * 0.05)
            i = chosen.randrange(WORKERS)
            self.workers[i].kill()
            time.sleep(chosen.random() * 0.1)
            self.workers[i] = self.start_worker(i)
            self.survivor.wait_for_steps(2)
        self.wait_for_links(self.survivor)
        _, relayed = self.steps_over(self.survivor)
        self.assertEqual(relayed, 0)
        self.assertSameSteps(self.survivor)
        self.assertLawful()

    def test_who_is_revoked_has_no_links_a_second_later(self):
        self.start_workers()
        self.survivor.process.end()
        self.assertEqual(self.fleet.ctl("key", "revoke", "w1")[0], 0)
        wait_for("others without links to it",
                 lambda: all(w["links_up"] + w["links_relayed"] == WORKERS - 2
                             for name, w in self.fleet.workers().items() if name != "w1"), seconds=REVOKED_S)

        def open_sockets():
            found = subprocess.run(["ss", "-Htn", "state", "established", f"( sport = :{self.ports[0]} )"],
                                   check=True, capture_output=True, text=True).stdout
            return found.strip()
        wait_for("its port without connections", lambda: not open_sockets(), seconds=REVOKED_S)
        self.workers[0].kill()

    def test_a_silent_link_is_borne_with_for_a_second(self):
        """The kernel asks after it then; a connection to the gateway has 5 s."""
        self.start_workers()
        self.survivor.process.end()
        ports = " or ".join(f"sport = :{port} or dport = :{port}" for port in self.ports)

        def timers():
            """Seconds until each end is asked after, when all are at rest; ss writes 1sec, 732ms, and 3.792ms of 3.8 s."""
            found = subprocess.run(["ss", "-Htno", "state", "established", f"( {ports} )"],
                                   check=True, capture_output=True, text=True).stdout
            told = re.findall(r"timer:\(keepalive,(\d+sec|\d+\.\d+ms|\d+ms),", found)
            if len(told) < WORKERS * (WORKERS - 1):
                return None
            return [float(t.rstrip("secm")) / (1000 if re.fullmatch(r"\d+ms", t) else 1) for t in told]
        for _ in range(5):
            self.assertLessEqual(max(wait_for("all ends at rest", timers)), 1.0)

    def test_a_stranger_gets_no_answer(self):
        self.start_workers()
        garbage = [b"GET / HTTP/1.1\r\n\r\n", b"SMOE" + bytes(16), b"\x16\x03\x01\xff\xff" + bytes(64), b"\x00"]
        for words in garbage:
            with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=HUNG_UP_S) as s:
                s.sendall(words)
                try:
                    answer = s.recv(64)
                except ConnectionResetError:
                    answer = b""
                self.assertEqual(answer, b"")
        self.survivor.wait_for_steps(2)
        self.assertTrue(self.has_links())
        self.assertSameSteps(self.survivor)

    def test_a_wrong_key_is_refused(self):
        self.start_workers()
        for identity in ("peer:w2:00000000", "worker:w2:00000000"):
            said = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.ports[0]}", "-tls1_3",
                                   "-psk_identity", identity, "-psk", "ab" * 32, "-alpn", "stablemoe-link/1"],
                                  check=False, input=b"", capture_output=True, timeout=harness.PATIENCE_S)
            self.assertNotEqual(said.returncode, 0, said.stdout)
        self.assertTrue(self.has_links())

    def test_a_crowd_of_strangers_keeps_nobody_from_training(self):
        self.start_workers()
        crowd = []
        for _ in range(100):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", self.ports[0]))
            crowd.append(s)
        self.survivor.wait_for_steps(5)
        self.workers[1].kill()  # who comes back finds its way through them, or goes through the gateway
        self.workers[1] = self.start_worker(1)
        self.survivor.wait_for_steps(5)
        for s in crowd:
            s.close()
        wait_for("all links", self.has_links)
        self.assertSameSteps(self.survivor)

    def test_a_worker_that_takes_none_is_served_through_the_gateway(self):
        for i in range(WORKERS):
            self.fleet.start_worker(f"w{i + 1}", "--slots", "4", *(["--peer-listen", "none"] if i == 0 else []))
        self.fleet.wait_ready(WORKERS)
        survivor = self.fleet.start_survivor()
        survivor.wait_for_steps(5)
        wait_for("the link of the others", lambda: self.sums()[0] == 2)
        survivor.wait_for_steps(2)
        direct, relayed = self.steps_over(survivor)
        self.assertGreater(direct, 0)
        self.assertGreater(relayed, 0)
        self.assertSameSteps(survivor)


class Firewall(Linked):
    def setUp(self):
        super().setUp()
        self.fleet.with_keys()
        with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as f:
            f.write("1")
        network("nft", "-f", "-", text=CHAIN)
        self.addCleanup(network, "nft", "delete", "table", "inet", "smoe")
        self.start_daemon(listen=f"0.0.0.0:{PORT}")
        for i in range(1, WORKERS + 1):
            self.start_behind_link(i)
        self.fleet.wait_ready(WORKERS)
        self.fleet.gateway = f"127.0.0.1:{PORT}"

    def start_behind_link(self, i):
        worker = self.fleet.start_worker(f"w{i}", "--slots", "4", gateway=f"10.78.{i}.1:{PORT}",
                                         beneath=[*BEHIND, f"10.78.{i}"])
        own = os.readlink("/proc/self/ns/net")
        wait_for("its namespace", lambda: os.readlink(f"/proc/{worker.popen.pid}/ns/net") != own)
        network("ip", "link", "add", f"l{i}", "type", "veth", "peer", "name", "eth0", "netns", str(worker.popen.pid))
        network("ip", "addr", "add", f"10.78.{i}.1/24", "dev", f"l{i}")
        network("ip", "link", "set", f"l{i}", "up")

    def test_workers_that_may_not_reach_each_other_exchange_through_the_gateway(self):
        survivor = self.fleet.start_survivor()
        survivor.wait_for_steps(2)
        self.wait_for_links(survivor)
        self.assertEqual(self.steps_over(survivor)[1], 0)
        network("nft", "add", "rule", "inet", "smoe", "between", "drop")
        survivor.wait_for_steps(5)
        wait_for("no links", lambda: self.sums()[0] == 0)
        survivor.wait_for_steps(2)  # what was sent directly before has come, or came again
        direct, relayed = self.steps_over(survivor)
        self.assertEqual(direct, 0)
        self.assertGreater(relayed, 0)
        self.assertTrue(all(w["state"] == "ready" for w in self.fleet.workers().values()))
        network("nft", "flush", "table", "inet", "smoe")
        self.wait_for_links(survivor)
        self.assertEqual(self.steps_over(survivor)[1], 0)
        self.assertSameSteps(survivor)
        self.assertLawful()


if __name__ == "__main__":
    own_network.main(["nft", "--version"], ["ss", "-V"], ["openssl", "version"])
