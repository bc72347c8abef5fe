#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sharded layers with real workers over TCP: the layer that experts with replicas and cut optimizer state compute is
the local one, and stays it while workers and the gateway are killed; a checkpoint resumes on another number of workers."""

import json
import os
import random
import re
import time
import unittest

import harness
import test_equality
from harness import train_args

WORKERS = 4
KILLS = 8 if harness.SANITIZED else 25
GATEWAY_KILLS = 4 if harness.SANITIZED else 12
SEED = int(os.environ.get("SMOE_SEED", "1"))


class Sharded(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.listen, self.ask = (f"127.0.0.1:{harness.free_port()}" for _ in range(2))
        self.start_daemon()
        self.workers = self.fleet.start_workers(WORKERS, "--slots", "4")

    def start_daemon(self, rule="highest-averages"):
        self.daemon = self.fleet.start_daemon("--set", f"placement.rule={rule}", "--set",
                                              "fleet.workers_min=2", listen=self.listen, status=self.ask)

    def has_both_copies(self):
        layers = self.fleet.status("experts")["layers"]
        return layers and all(layer["state"] == "ready" and layer["elements_single"] == 0
                              for layer in layers)

    @harness.need_data
    def test_losses_follow_the_local_ones(self):
        self.assertEqual(self.fleet.ctl("policy", "topk")[0], 0)
        code, out, err = self.fleet.run([os.path.join(harness.HELPERS, "integration_curves"),
                                         self.fleet.gateway, "1", "1000",
                                         "2" if harness.SANITIZED else "6"])
        self.assertEqual(code, 0, err)
        both = json.loads(out)
        self.assertGreater(len(both["fleet"]), 10)
        for ours, theirs in zip(both["fleet"], both["local"]):
            self.assertLess(abs(ours - theirs), test_equality.STEP_BOUND)
        layer = self.fleet.status("experts")["layers"][0]
        self.assertTrue(any(len(e["hosts"]) > 1 for e in layer["experts"]), layer)
        for worker in self.fleet.status("workers")["workers"]:  # names all it has a slot of, not only what it hosts first
            served = [f'{layer["layer"]}/{e["expert"]}' for e in layer["experts"] if worker["id"] in e["hosts"]]
            self.assertEqual(worker["experts"], served, worker["id"])

    def train_on_the_wire(self, wire):
        """Result of a run, and what each worker exchanged in an iteration of it."""
        trainer = self.fleet.start_trainer(*train_args(2000, epochs=3), "--wire", wire, "--layer", wire,
                                           "--json", name=wire)
        self.assertEqual(trainer.wait(), 0, trainer.err())
        layer = next(one for one in self.fleet.status("experts")["layers"] if one["layer"] == wire)
        self.assertEqual(layer["wire"], wire)
        kinds = ("gradient", "follow", "weight")
        return json.loads(trainer.out()), {shard["worker"]: [shard["traffic"][f"{kind}_{way}"] for kind in kinds
                                                            for way in ("sent", "received")]
                                           for shard in layer["shards"]}

    @harness.need_data
    @unittest.skipIf(harness.FLOAT64, "the trainer's experts are of float64")
    def test_bf16_on_the_wire_is_half_of_the_bytes_and_trains_as_well(self):
        self.assertEqual(self.fleet.ctl("policy", "topk")[0], 0)
        exact, whole = self.train_on_the_wire("fp32")
        rounded, half = self.train_on_the_wire("bf16")
        self.assertGreater(min(sum(each) for each in half.values()), 0)
        for worker, numbers in whole.items():
            self.assertEqual(numbers, [2 * n for n in half[worker]], worker)
        self.assertGreater(exact["test_accuracy"], 0.65)
        self.assertAlmostEqual(rounded["test_accuracy"], exact["test_accuracy"], delta=0.02)
        self.assertLawful()

    def test_one_step_from_the_same_state_gives_the_same_tensors_whatever_the_placement(self):
        for rule, steps in (("highest-averages", test_equality.STEPS), ("symi", test_equality.STEPS[:2])):
            self.daemon.end()
            self.start_daemon(rule)
            self.fleet.wait_ready(WORKERS)
            code, out, err = self.fleet.run([os.path.join(harness.HELPERS, "integration_equality"), "--few",
                                             self.fleet.gateway] + steps, 4 * harness.PATIENCE_S)
            self.assertEqual(code, 0, err)
            *compared, control = [json.loads(line) for line in out.splitlines()]
            self.assertEqual(len(compared), 2 * len(steps))
            for line in compared:
                self.assertIn("expert parameters", line["distance"])
                for tensor, distance in line["distance"].items():
                    self.assertLessEqual(distance, test_equality.BOUND, (rule, tensor, line))
            self.assertGreater(control["distance"]["expert parameters"], 1e-5)
            hosts = [len(e["hosts"]) for e in self.fleet.status("experts")["layers"][0]["experts"]]
            self.assertGreater(max(hosts), 1, "no expert had a replica")

    def test_every_step_is_the_reference_step_whoever_is_killed(self):
        chosen = random.Random(SEED)
        survivor = self.fleet.start_survivor()
        survivor.wait_for_steps(2)
        for _ in range(KILLS):
            harness.wait_for("both copies of everything", self.has_both_copies)
            time.sleep(chosen.random() * 0.05)
            i = chosen.randrange(WORKERS)
            self.workers[i].kill()
            time.sleep(chosen.random() * 0.1)
            self.workers[i] = self.fleet.start_worker(f"w{i + 1}", "--slots", "4")
            survivor.wait_for_steps(1)
        self.assertLawful()
        self.fleet.wait_ready(WORKERS)
        self.assertSameSteps(survivor)
        steps = survivor.steps()
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])

    def test_every_step_is_the_reference_step_though_the_gateway_is_killed(self):
        chosen = random.Random(SEED)
        survivor = self.fleet.start_survivor()
        survivor.wait_for_steps(2)
        for kill in range(GATEWAY_KILLS):
            harness.wait_for("both copies of everything", self.has_both_copies)
            time.sleep(chosen.random() * 0.05)
            self.daemon.kill()
            if kill % 3 == 2: # and a worker with it
                i = chosen.randrange(WORKERS)
                self.workers[i].kill()
                self.workers[i] = self.fleet.start_worker(f"w{i + 1}", "--slots", "4")
            time.sleep(chosen.random() * 0.1)
            self.start_daemon("pinned" if kill == GATEWAY_KILLS - 1 else "highest-averages")
            survivor.wait_for_steps(2) # layers stay what they are, whatever new ones are
        self.assertLawful()
        self.fleet.wait_ready(WORKERS)
        self.assertSameSteps(survivor)
        steps = survivor.steps()
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])

    @harness.need_data
    def test_a_checkpoint_resumes_on_fewer_workers(self):
        path = self.fleet.path("checkpoint.safetensors")
        trainer = self.fleet.start_trainer(*train_args(1000, epochs=2, checkpoint=path))
        self.assertEqual(trainer.wait(), 0, trainer.err())
        for worker in self.workers[2:]: # one after another: two at once may have both copies of something
            self.assertEqual(worker.end(), 0)
            harness.wait_for("both copies of everything", self.has_both_copies)
        again = self.fleet.start_trainer(*train_args(1000, epochs=4, checkpoint=path), "--resume", path,
                                         name="again")
        self.assertEqual(again.wait(), 0, again.err())
        before, after = ([float(loss) for loss in re.findall(r"^epoch .* loss (\S+)  test", t.err(), re.M)]
                         for t in (trainer, again))
        self.assertLess(after[0], before[-1], "it does not go on where it was")
        layer = self.fleet.status("experts")["layers"][-1]
        self.assertEqual(layer["step"], 4 * 10)
        self.assertLawful()


if __name__ == "__main__":
    harness.main()
