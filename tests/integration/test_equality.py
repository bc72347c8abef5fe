#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The distributed layer computes what a local one computes."""

import json
import os

import harness

# Relative 2-norm per tensor. Both halves add the same numbers in another order: a slot may hold a part
# of a batch, a worker slices what it is given. Measured: 4e-7 and 8e-16.
BOUND = 1e-12 if harness.FLOAT64 else 1e-5
# From a state where nothing was learned yet, one in the middle, one late.
STEPS = ["1", "50", "200"]
SEEDS = ["1", "2", "3"]
# Loss curves of free runs, 60 steps of 1,000 images, loss 2.4 to 0.35. With the routes of the gate's own
# top-K a run through the fleet is the local run but for the order of sums, which Adam amplifies to
# 1e-2 within 200 steps at worst: every step's loss is within STEP_BOUND of the local one (measured: 0,
# the sums here have the same order).
STEP_BOUND = 0.02
# With routes of its own choice it trains another model, which must learn as fast: over each tenth of the
# run the mean of the seeds is no farther from the local mean than the local seeds are from each other,
# or than this part of the largest where three seeds happen to lie closer together than seeds do.
# Measured: 0.002 to 0.023 apart, where the bound is 0.05 to 0.17.
SPREAD_FLOOR = 0.08


class Equality(harness.FleetTest):
    def helper(self, name):
        return os.path.join(harness.HELPERS, f"integration_{name}")

    def test_one_step_from_the_same_state_gives_the_same_tensors(self):
        # Slots smaller than a batch, so that its parts come to the workers in several decisions.
        self.fleet.start_daemon("--set", "limits.slot_tokens=150", "--set", "fleet.workers_min=4")
        self.fleet.start_workers(4)
        code, out, err = self.fleet.run(
            [self.helper("equality"), self.fleet.gateway] + STEPS, 4 * harness.PATIENCE_S)
        self.assertEqual(code, 0, err)
        lines = [json.loads(line) for line in out.splitlines()]
        compared = [line for line in lines if not line["control"]]
        self.assertEqual(len(compared), 3 * 2 * 3 * len(STEPS))
        self.assertTrue(all("expert gradients" in line["distance"] for line in compared))
        for line in compared:
            for tensor, distance in line["distance"].items():
                self.assertLessEqual(distance, BOUND, (tensor, line))
        # The comparison can fail: one weight of the local half was moved by a hundredth.
        control = lines[-1]
        self.assertTrue(control["control"])
        for tensor in ("outputs", "input gradients", "expert gradients", "expert parameters"):
            self.assertGreater(control["distance"][tensor], 1e-5, tensor)
        self.assertLess(self.fleet.status()["topk_agreement"], 1, "lyapunov never chose by itself")

    def curves(self, policy):
        """[(fleet's losses, local losses)] of the seeds, the fleet routing by `policy`."""
        self.assertEqual(self.fleet.ctl("policy", policy)[0], 0)
        pairs = []
        for seed in SEEDS:
            code, out, err = self.fleet.run([self.helper("curves"), self.fleet.gateway, seed, "1000",
                                             "2" if harness.SANITIZED else "6"])
            self.assertEqual(code, 0, err)
            both = json.loads(out)
            self.assertEqual(len(both["fleet"]), len(both["local"]))
            pairs.append((both["fleet"], both["local"]))
        return pairs

    @harness.need_data
    def test_free_running_losses_follow_the_local_ones(self):
        self.fleet.start_daemon("--set", "fleet.workers_min=4")
        self.fleet.start_workers(4)
        for ours, theirs in self.curves("topk"):
            for a, b in zip(ours, theirs):
                self.assertLess(abs(a - b), STEP_BOUND)
        pairs = self.curves("lyapunov")
        self.assertNotEqual([p[0] for p in pairs], [p[1] for p in pairs], "routes were the same")
        tenth = max(1, len(pairs[0][0]) // 10)
        for at in range(0, len(pairs[0][0]) - tenth + 1, tenth):
            ours, theirs = ([sum(p[half][at:at + tenth]) / tenth for p in pairs] for half in (0, 1))
            spread = max(max(theirs) - min(theirs), SPREAD_FLOOR * max(theirs))
            apart = abs(sum(ours) - sum(theirs)) / len(SEEDS)
            self.assertLessEqual(apart, spread, f"steps {at}..: {ours} and {theirs}")


if __name__ == "__main__":
    harness.main()
