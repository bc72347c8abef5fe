#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Networks that break as real ones do: a path that is cut, one that carries one direction only, one that resets every
connection, one that drops packets and one that is slow. The whole test runs in a network namespace of its own, and each
worker in another behind a link of its own (veth), where nftables and tbf do the breaking. Everybody speaks TLS.

A survivor trains meanwhile and repeats every step by itself (survivor.c): each must have happened once, and be
the reference step, whatever the network did.
"""

import os
import subprocess

import harness
import own_network
from harness import wait_for

WORKERS = 3
PORT = 7700
STEPS = 3  # more of them while the network is broken, and after it is mended
CHAINS = """
table inet smoe {
    chain to_gateway { type filter hook input priority 0; }
    chain from_gateway { type filter hook output priority 0; }
}
"""
# A worker's own end: it waits for its link, and becomes the worker.
BEHIND = ["unshare", "--net", "sh", "-c",
          'until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done; ip link set lo up && '
          'ip addr add "$0" dev eth0 && ip link set eth0 up && exec "$@"']


def has_link(name):
    return subprocess.run(["ip", "link", "show", name], check=False, capture_output=True).returncode == 0


def network(*command, text=None):
    subprocess.run(command, input=text, check=True, capture_output=True, text=True)


class Network(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.fleet.with_keys()
        network("nft", "-f", "-", text=CHAINS)
        self.addCleanup(network, "nft", "delete", "table", "inet", "smoe")
        self.fleet.start_daemon("--set", f"fleet.workers_min={WORKERS}", "--set", "routing.policy=topk",
                                listen=f"0.0.0.0:{PORT}")
        for i in range(1, WORKERS + 1):
            self.start_behind_link(i)
        self.fleet.wait_ready(WORKERS)
        self.fleet.gateway = f"127.0.0.1:{PORT}"
        self.survivor = self.fleet.start_survivor()
        self.survivor.wait_for_steps(STEPS)

    def start_behind_link(self, i):
        worker = self.fleet.start_worker(f"w{i}", gateway=f"10.77.{i}.1:{PORT}", beneath=[*BEHIND, f"10.77.{i}.2/24"])
        own = os.readlink("/proc/self/ns/net")
        wait_for("its namespace", lambda: os.readlink(f"/proc/{worker.popen.pid}/ns/net") != own)
        wait_for("the link of the test before to be gone", lambda: not has_link(f"g{i}"))
        network("ip", "link", "add", f"g{i}", "type", "veth", "peer", "name", "eth0", "netns", str(worker.popen.pid))
        network("ip", "addr", "add", f"10.77.{i}.1/24", "dev", f"g{i}")
        network("ip", "link", "set", f"g{i}", "up")

    def rule(self, direction, *words):
        interface = "iifname" if direction == "to_gateway" else "oifname"
        network("nft", "add", "rule", "inet", "smoe", direction, interface, "g1", *words)

    def mend(self):
        network("nft", "flush", "table", "inet", "smoe")

    def is_here(self):
        return self.fleet.workers().get("w1", {}).get("state") == "ready"

    def lose_and_regain(self, *rules):
        """w1 is lost while these rules hold; the others go on, and it comes back when they are gone."""
        for rule in rules:
            self.rule(*rule)
        wait_for("w1 to be lost", lambda: not self.is_here())
        self.survivor.wait_for_steps(STEPS)
        self.assertFalse(self.is_here())
        self.mend()
        wait_for("w1 to be back", self.is_here)
        self.survivor.wait_for_steps(STEPS)

    def assertWhole(self):
        self.assertSameSteps(self.survivor)
        self.assertLawful()

    def test_a_cut_path_costs_its_worker_until_it_is_mended(self):
        self.lose_and_regain(("to_gateway", "drop"), ("from_gateway", "drop"))
        self.assertWhole()

    def test_a_path_of_one_direction_is_no_path(self):
        self.lose_and_regain(("to_gateway", "drop"))
        self.lose_and_regain(("from_gateway", "drop"))
        self.assertWhole()

    def test_connections_that_are_reset_are_made_again(self):
        self.lose_and_regain(("to_gateway", "tcp", "dport", str(PORT), "reject", "with", "tcp", "reset"))
        self.assertWhole()

    def test_a_path_that_drops_packets_or_is_slow_loses_nothing(self):
        for direction in ("to_gateway", "from_gateway"):
            self.rule(direction, "numgen", "random", "mod", "100", "<", "3", "drop")
        self.survivor.wait_for_steps(2 * STEPS)
        self.mend()
        wait_for("w1", self.is_here)
        network("tc", "qdisc", "add", "dev", "g1", "root", "tbf", "rate", "4mbit", "burst", "16k", "latency", "300ms")
        self.survivor.wait_for_steps(2 * STEPS)
        self.assertWhole()


if __name__ == "__main__":
    own_network.main(["nft", "--version"], ["tc", "-V"])
