#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, hundreds of times, of anybody.

Rounds: SMOE_KILLS (default 300, 60 under sanitizers). The moments come from SMOE_SEED; a failure prints
it. Between two kills the fleet has both copies of every expert again: what is promised is the loss of
any one machine at any moment, not of two at once.
"""

import array
import json
import math
import os
import random
import struct
import sys
import time

import harness
from harness import train_args

KILLS = int(os.environ.get("SMOE_KILLS", "60" if harness.SANITIZED else "300"))
SEED = int(os.environ.get("SMOE_SEED", "1"))
WORKERS = 4


def read_tensors(path):
    """The tensors of a safetensors file, as arrays by name."""
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        code = {"F32": "f", "F64": "d"}.get(entry["dtype"])
        if code:
            tensors[name] = array.array(code, data[begin:end])
    return tensors


def distance(got, want):
    """|got - want| / |want| in the 2-norm."""
    difference = math.sqrt(sum((g - w) ** 2 for g, w in zip(got, want)))
    size = math.sqrt(sum(w * w for w in want))
    return difference / size if difference else 0.0


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


class Survival(harness.FleetTest):
    daemon_args = ()

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.port = f"127.0.0.1:{harness.free_port()}"
        self.status_port = f"127.0.0.1:{harness.free_port()}"
        self.start_daemon()
        self.workers = self.fleet.start_workers(WORKERS)

    def start_daemon(self):
        self.daemon = self.fleet.start_daemon("--set", f"fleet.workers_min={WORKERS}",
                                              *self.daemon_args, listen=self.port, status=self.status_port)

    def kill_worker(self):
        i = self.random.randrange(WORKERS)
        self.workers[i].kill()
        self.pause(0.1)
        self.workers[i] = self.fleet.start_worker(f"w{i + 1}")

    def kill_daemon(self):
        self.daemon.kill()
        self.pause(0.1)
        self.start_daemon()

    def pause(self, seconds):
        """A random moment: where in its work the fleet is then is what is tested."""
        time.sleep(self.random.random() * seconds)

    def layer(self):
        layers = self.fleet.status("experts")["layers"]
        return layers[-1] if layers else None

    def has_both_copies(self):
        layers = self.fleet.status("experts")["layers"]
        return layers and all(layer["state"] == "ready" and all(
            e["worker"] and e["copy"] and not e["copying"] for e in layer["experts"])
            for layer in layers)

    def progress(self, kill, what):
        if sys.stderr.isatty() or kill % 50 == 0:
            print(f"{kill}/{KILLS} {what}", file=sys.stderr, flush=True)


class Steps(Survival):
    def setUp(self):
        super().setUp()
        self.survivor = self.fleet.start_survivor()

    def test_every_committed_step_is_the_reference_step_whoever_dies(self):
        recoveries = []
        self.survivor.wait_for_steps(2)
        for kill in range(KILLS):
            harness.wait_for("both copies of every expert", self.has_both_copies)
            self.pause(0.05)
            began = time.monotonic()
            self.random.choice([self.kill_worker, self.kill_worker, self.kill_daemon])()
            self.survivor.wait_for_steps(1)
            recoveries.append(time.monotonic() - began)
            self.progress(kill + 1, f"kills, step {self.survivor.steps()[-1]['step']}")
        self.assertLawful()
        self.fleet.wait_ready(WORKERS)
        self.assertSameSteps(self.survivor)
        steps = self.survivor.steps()
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])
        print(f"{KILLS} kills, {len(steps)} steps; next committed step after "
              f"{quantile(recoveries, 0.5):.3f} s (p50), {quantile(recoveries, 0.99):.3f} s (p99), "
              f"worst distance {max(s['distance'] for s in steps):.2g}")


@harness.need_data
class Runs(Survival):
    def train(self, epochs, *args):
        return self.fleet.start_trainer(*args, *train_args(500, epochs=epochs, checkpoint=self.file))

    def test_a_killed_trainer_resumes_from_its_checkpoint(self):
        self.file = self.fleet.path("checkpoint.safetensors")
        kills = max(2, KILLS // 30)
        epochs = 2 * kills + 2
        trainer = self.train(epochs)
        for kill in range(kills):
            before = os.stat(self.file).st_mtime_ns if os.path.exists(self.file) else 0
            harness.wait_for("a new checkpoint", lambda: os.path.exists(self.file) and
                             os.stat(self.file).st_mtime_ns != before or not trainer.running())
            self.pause(0.05)
            trainer.kill()
            trainer = self.train(epochs, "--resume", self.file)
            self.progress(kill + 1, "kills of the trainer")
        self.assertEqual(trainer.wait(), 0, trainer.err())
        self.assertEqual(self.layer()["step"], epochs * 5)
        self.assertLawful()


@harness.need_data
class WholeRuns(Survival):
    daemon_args = ("--set", "routing.policy=topk")  # routes that do not depend on time
    EPOCHS = 30  # of 20 steps: long enough to be killed a few times in each

    def run_once(self, name):
        path = self.fleet.path(name)
        trainer = self.fleet.start_trainer(
            *train_args(2000, epochs=self.EPOCHS, checkpoint=path, layer=name), name=name)
        return trainer, path

    def test_a_run_in_which_everybody_died_equals_the_undisturbed_one(self):
        calm, calm_path = self.run_once("calm")
        self.assertEqual(calm.wait(), 0, calm.err())
        trainer, path = self.run_once("stormy")
        kills = 0
        while trainer.running():
            harness.wait_for("both copies", lambda: self.has_both_copies() or not trainer.running())
            self.pause(0.1)
            self.random.choice([self.kill_worker, self.kill_worker, self.kill_daemon])()
            kills += 1
        self.assertEqual(trainer.wait(), 0, trainer.err())
        self.assertGreater(kills, 2)
        self.fleet.wait_ready(WORKERS)
        want, got = read_tensors(calm_path), read_tensors(path)
        self.assertEqual(sorted(want), sorted(got))
        self.assertGreater(len(want), 10)
        worst = max(distance(got[name], want[name]) for name in want)
        print(f"{kills} kills in {20 * self.EPOCHS} steps; the final state differs by {worst:.2g}")
        self.assertLess(worst, harness.TOLERANCE)


if __name__ == "__main__":
    harness.main()
