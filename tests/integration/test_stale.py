#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Staleness 1: a fleet that computes a batch while the step before it is made trains what one process trains that
computes it by the parameters before that step; whoever is killed meanwhile."""

import array
import json
import math
import os
import subprocess

import harness
from harness import train_args

IMAGES, BATCH, EPOCHS = 3000, 100, 6
STEPS = EPOCHS * IMAGES // BATCH
# Relative, of a tensor, after all steps: sums are added in another order. Parameters of runs that are not the same are
# apart by a hundred times as much.
BOUND = 1e-9 if harness.FLOAT64 else 1e-3


def tensors_of(checkpoint):
    """Name to numbers of the parameters in a safetensors file."""
    with open(checkpoint, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        head, body = json.loads(f.read(size)), f.read()
    kinds = {"F32": "f", "F64": "d"}
    found = {}
    for name, t in head.items():
        if name != "__metadata__" and t["dtype"] in kinds:
            begin, end = t["data_offsets"]
            found[name] = array.array(kinds[t["dtype"]], body[begin:end])
    return found


def apart(a, b):
    """The largest relative difference of two checkpoints' weights of experts and of the trainer."""
    worst = 0.0
    for name, x in a.items():
        if "moment" in name or name.startswith(("router", "placement")):
            continue
        y = b[name]
        difference = math.sqrt(sum((p - q) ** 2 for p, q in zip(x, y)))
        worst = max(worst, difference / (math.sqrt(sum(q * q for q in y)) + 1e-30))
    return worst


class AheadTest(harness.FleetTest):
    """A training run with --staleness 1, and what it must have come to."""

    def args(self, staleness, checkpoint):
        return (*train_args(IMAGES, batch=BATCH, epochs=EPOCHS), "--optimizer", "sgd", "--lr", "0.05",
                "--staleness", str(staleness), "--checkpoint", checkpoint)

    def local(self, staleness):
        """The parameters that one process ends with."""
        checkpoint = self.fleet.path(f"local{staleness}.safetensors")
        run = subprocess.run([os.path.join(harness.BIN, "stablemoe-train"), "--local", "--dataset", "fashion-mnist",
                              "--json", "--quiet", *self.args(staleness, checkpoint)],
                             capture_output=True, text=True, check=False, timeout=harness.PATIENCE_S)
        self.assertEqual(run.returncode, 0, run.stderr)
        return tensors_of(checkpoint)

    def ahead_at(self, step):
        """The trainer has made that step and is ahead of the next."""
        trainers = self.fleet.status()["trainers"]
        return trainers and trainers[0]["step"] >= step and trainers[0]["batches_ahead"] > 0

    def run_into(self, step):
        harness.wait_for("a batch that is ahead", lambda: self.ahead_at(step))

    def assertSameRun(self, trainer, checkpoint):
        """It ended with the parameters of a process that computes a step ahead, and not with another's."""
        self.assertEqual(self.fleet.status("experts")["layers"][0]["staleness"], 1)
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        fleet, ahead, behind = tensors_of(checkpoint), self.local(1), self.local(0)
        self.assertLess(apart(fleet, ahead), BOUND)
        self.assertGreater(apart(fleet, behind), 10 * BOUND, "without staleness it is another run")


@harness.need_data
class Stale(AheadTest):
    def test_a_fleet_computes_a_step_ahead_what_a_process_does_though_workers_are_killed(self):
        self.fleet.start_daemon("--set", "routing.policy=topk", "--set", "fleet.workers_min=3")
        workers = self.fleet.start_workers(3)
        checkpoint = self.fleet.path("fleet.safetensors")
        trainer = self.fleet.start_trainer(*self.args(1, checkpoint))
        for i, step in enumerate((STEPS // 6, STEPS // 3)):
            self.run_into(step)
            workers[i].kill()
            self.fleet.start_worker(f"again{i}")
        self.assertSameRun(trainer, checkpoint)
        self.assertGreater(self.fleet.status()["ledger"]["failed"], 0, "nothing was lost with them")
        self.assertEqual(self.fleet.status()["ledger"]["committed"], EPOCHS * IMAGES * 2)


@harness.need_data
class StaleSharded(AheadTest):
    """The same where slots change experts at every commit, with what is ahead of it still out."""

    def setUp(self):
        super().setUp()
        self.listen, self.ask = (f"127.0.0.1:{harness.free_port()}" for _ in range(2))
        self.start_daemon()
        self.workers = self.fleet.start_workers(4, "--slots", "4")

    def start_daemon(self):
        self.daemon = self.fleet.start_daemon(
            "--set", "placement.rule=highest-averages", "--set", "routing.policy=topk", "--set",
            "fleet.workers_min=3", listen=self.listen, status=self.ask)

    def has_both_copies(self):
        layers = self.fleet.status("experts")["layers"]
        return layers and all(one["state"] == "ready" and one["elements_single"] == 0 for one in layers)

    def test_a_fleet_that_shards_computes_a_step_ahead_what_a_process_does_whoever_is_killed(self):
        checkpoint = self.fleet.path("fleet.safetensors")
        trainer = self.fleet.start_trainer(*self.args(1, checkpoint))
        for i, step in enumerate((STEPS // 9, STEPS // 4, STEPS // 2)):
            self.run_into(step)
            harness.wait_for("both copies of everything", self.has_both_copies)
            harness.wait_for("a batch that is ahead", lambda step=step: self.ahead_at(step))
            self.workers[i].kill()
            self.fleet.start_worker(f"again{i}", "--slots", "4")
            if i == 1:
                continue
            harness.wait_for("both copies of everything", self.has_both_copies)
            harness.wait_for("a batch that is ahead", lambda step=step: self.ahead_at(step))
            self.daemon.kill()
            self.start_daemon()
        self.assertSameRun(trainer, checkpoint)
        hosts = [len(one["hosts"]) for one in self.fleet.status("experts")["layers"][0]["experts"]]
        self.assertGreater(max(hosts), 1, "no expert had a replica")


if __name__ == "__main__":
    harness.main()
