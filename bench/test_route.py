#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The lanes of `stablemoe-bench route`: that every size has its figures, that peers work on the same scores
and have to choose alike, and that a floor is missed, met or not checked as it should be. What is fast is not
looked at: the peer here claims to be as fast as a test wants it to be."""

import importlib.util
import json
import os
import subprocess
import tempfile
import unittest

BENCH = os.environ["SMOE_BENCH"]
CLP = os.path.join(os.path.dirname(BENCH), "stablemoe-bench-clp")
SIZES = [f"1000x{nodes}x{top_k}" for nodes in (8, 64) for top_k in (1, 2, 8)]

# A torch_topk.py without torch: another opinion of the K largest, from plain Python.
PEER = '''
import array, heapq, mmap, sys
memory = memoryview(mmap.mmap(int(sys.argv[1]), 0)).cast("f")
print("ready", "fake", flush=True)
for line in sys.stdin:
    tokens, nodes, top_k, rows, slot, calls = map(int, line.split()[1:])
    value = 0.0
    first = slot * tokens % (rows - tokens + 1) // 16 * 16
    if calls == 1 and slot == 1:
        for i in range(first, first + tokens):
            value += sum(heapq.nlargest(top_k, memory[i * nodes:(i + 1) * nodes]))
    print({NS} * calls, {VALUE}, flush=True)
'''


def held_by_torch(rows):
    """Rows with a floor that compares with torch."""
    held = [row for key, row in rows.items() if key.endswith("to_torch") and "missed" in row]
    assert len(held) == 8, held  # pass and solve, 8 and 64 nodes, K of 1 and 2
    return held


class Route(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)

    def run_bench(self, *options, peer=None):
        argv = [BENCH, "route", "--quick", "--json", *options]
        if peer is not None:
            with open(os.path.join(self.dir.name, "torch_topk.py"), "w", encoding="utf-8") as f:
                f.write(peer)
            argv += ["--peers", self.dir.name]
        return subprocess.run(argv, capture_output=True, text=True, timeout=200)

    def measure(self, *options, peer=None, code=0):
        done = self.run_bench(*options, peer=peer)
        self.assertEqual(done.returncode, code, done.stderr)
        report = json.loads(done.stdout)
        return report, {row["key"]: row for row in report["rows"]}

    def refused(self, peer, says):
        done = self.run_bench(peer=peer)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        last = done.stderr.splitlines()[-1]
        self.assertRegex(last, rf"\Astablemoe-bench: route: torch.*{says}")

    def test_every_size_has_its_pass_and_its_certified_solve(self):
        report, rows = self.measure()
        for size in SIZES:
            for name in ("read", "scalar", "pass", "to_read"):
                self.assertGreater(rows[f"route.pass.{size}.{name}"]["median"], 0)
            for name in ("warm", "to_read", "to_pass"):
                self.assertGreater(rows[f"route.solve.{size}.{name}"]["median"], 0)
            self.assertLessEqual(rows[f"route.solve.{size}.gap"]["median"], 1e-6)
        has_torch = importlib.util.find_spec("torch") is not None
        self.assertEqual(has_torch, "route.pass.1000x8x1.to_torch" in rows)
        self.assertEqual(has_torch, not any("torch skipped" in n for n in report["notes"]))

    def test_clp_finds_the_same_optimum_where_it_is_installed(self):
        report, rows = self.measure()
        self.assertEqual(os.access(CLP, os.X_OK), "route.clp.1000x8x2.to_clp" in rows)
        if os.access(CLP, os.X_OK):
            self.assertLessEqual(rows["route.clp.1000x8x2.differs"]["median"], 1e-6)
        else:
            self.assertIn("clp skipped", " ".join(report["notes"]))
            self.assertIn("route.clp.*.to_clp", report["not_checked"])

    def test_a_peer_that_is_not_installed_is_one_note_and_floors_not_checked(self):
        report, rows = self.measure(peer="raise SystemExit(77)")
        self.assertEqual([n for n in report["notes"] if "torch" in n],
                         ["torch skipped: python3-torch is not installed"])
        self.assertFalse([key for key in rows if "torch" in key])
        for floor in ("route.pass.*x8x[12].to_torch", "route.solve.*x64x[12].to_torch"):
            self.assertIn(floor, report["not_checked"])

    def test_a_peer_that_is_slow_meets_every_floor_of_ours(self):
        report, rows = self.measure(peer=PEER.format(NS=10**10, VALUE="value"))
        self.assertFalse([row["key"] for row in held_by_torch(rows) if row["missed"]])
        self.assertIn("route.solve.*x256x[12].to_torch", report["not_checked"])
        self.assertNotIn("route.solve.*x64x[12].to_torch", report["not_checked"])

    def test_a_peer_that_is_fast_makes_check_fail(self):
        _, rows = self.measure("--check", peer=PEER.format(NS=1, VALUE="value"), code=1)
        self.assertTrue(all(row["missed"] for row in held_by_torch(rows)))

    def test_a_peer_that_chooses_otherwise_is_refused(self):
        self.refused(PEER.format(NS=1, VALUE="value * (1 + 1e-7)"), r"\.topk: 1000x8x1: chose ")

    def test_a_peer_that_breaks_off_is_refused(self):
        self.refused("import sys\nsys.exit(3)", "ended with exit status 3")
        self.refused("print('hello', flush=True)", "says \"hello\" instead of ready")
        self.refused("print('ready 1', flush=True)", "was answered by \"\"")


if __name__ == "__main__":
    unittest.main()
