#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A worker that lies beside two that do not: nothing that it says reaches a parameter, and it is put out.

A survivor trains meanwhile and repeats every step by itself (survivor.c): each must have happened once, and
be the reference step. The rogue (stranger/rogue.py) is written from the protocol, as any intruder would.
"""

import os
import sys
import time

import harness
import strangers

EQUARANTINED = -1022


class Rogues(harness.FleetTest):
    def start(self, way):
        """Every worker has experts; the rogue's are followed by others."""
        self.daemon = self.fleet.start_daemon("--set", "fleet.workers_min=3", "--set", "routing.policy=topk",
                                              "--set", "fleet.lease=1s")
        for name in ("w1", "w2"):
            self.fleet.start_worker(name)
        self.rogue = self.fleet.start("r1", [sys.executable, "-B", os.path.join(strangers.FOLDER, "rogue.py"),
                                             "--gateway", self.fleet.gateway, "--id", "r1", "--way", way])
        self.fleet.wait_ready(3)
        self.survivor = self.fleet.start_survivor()

    def quarantined(self):
        return [w for w in self.fleet.status()["quarantine"]["workers"] if w["out_s"] > 0]

    def assertPutOut(self, way, *words):
        self.start(way)
        harness.wait_for("quarantine", self.quarantined)
        out, = self.quarantined()
        self.assertEqual((out["id"], out["strikes"]), ("r1", 3))
        self.assertLessEqual(out["out_s"], 600)
        for word in words:
            self.assertIn(word, out["why"])
        harness.wait_for("its refusal", lambda: f"code {EQUARANTINED}" in self.rogue.out())
        self.survivor.wait_for_steps(3)
        self.assertEqual({name for name, w in self.fleet.workers().items() if w["state"] == "ready"},
                         {"w1", "w2"})
        self.assertEqual(self.fleet.status()["quarantine"]["strikes"], 3, "of nobody else")
        self.assertLawful()
        self.assertSameSteps(self.survivor)

    def test_outputs_that_are_not_numbers(self):
        self.assertPutOut("nan-output", "OUTPUT: numbers of expert", "that cannot be")

    def test_outputs_larger_than_any_can_be(self):
        self.assertPutOut("huge-output", "OUTPUT: numbers of expert")

    def test_outputs_that_are_too_short(self):
        self.assertPutOut("short-output", "raw part of", "expected")

    def test_gradients_that_are_infinite(self):
        self.assertPutOut("infinite-gradient", "PARCEL_GRADIENT: numbers of expert")

    def test_gradient_sums_that_are_not_numbers(self):
        self.assertPutOut("nan-sum", "STEP_GRADIENT: numbers of expert")

    def test_norms_that_no_gradient_has(self):
        self.assertPutOut("huge-norm", "STEP_NORM: numbers of expert")

    def test_norms_that_are_said_to_be_infinite(self):
        self.assertPutOut("endless-norm", "STEP_NORM: numbers of expert")

    def test_reports_out_of_range(self):
        self.assertPutOut("report-of-nonsense", "REPORT")

    def test_results_of_nobody_and_results_said_twice_are_passed_over(self):
        self.start("output-of-nobody")
        self.survivor.wait_for_steps(6)
        self.assertEqual(self.fleet.ready(), 3)
        self.assertEqual(self.fleet.status()["quarantine"], {"strikes": 0, "workers": []})
        self.assertGreater(self.fleet.status()["io"]["late_frames"], 10)
        self.assertLawful()
        self.assertSameSteps(self.survivor)

    def test_an_operator_lets_it_in_again(self):
        self.start("nan-output")
        harness.wait_for("quarantine", self.quarantined)
        self.rogue.end()
        time.sleep(1.2)  # its lease: the name alone is remembered
        honest = self.fleet.start_worker("r1")
        honest.wait_for_line("in quarantine for")
        self.assertEqual(self.fleet.ctl("undrain", "r1")[0], 0)
        self.fleet.wait_ready(3)
        code, _, err = self.fleet.ctl("undrain", "nobody")
        self.assertEqual((code, "no worker" in err), (1, True), err)
        self.survivor.wait_for_steps(2)
        self.assertSameSteps(self.survivor)


if __name__ == "__main__":
    strangers.main()
