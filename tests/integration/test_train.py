#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""stablemoe-train end to end on Fashion-MNIST: its result, its checkpoints."""

import json
import os
import subprocess

import harness
from harness import train_args

IMAGES, BATCH = 1000, 100
STEPS_PER_EPOCH = IMAGES // BATCH


def steps_of(checkpoint):
    """The step a checkpoint names, -1 while there is none."""
    try:
        with open(checkpoint, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            return int(json.loads(f.read(n))["__metadata__"]["step"])
    except FileNotFoundError:
        return -1


@harness.need_data
class Train(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.fleet.start_daemon("--set", "routing.policy=topk")
        self.fleet.start_workers(2)
        self.checkpoint = self.fleet.path("run.safetensors")

    def train(self, *args, **options):
        """The result of a run."""
        trainer = self.fleet.start_trainer(*train_args(IMAGES, batch=BATCH, **options), *args)
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        self.assertEqual(trainer.out().count("\n"), 1, "one JSON document, one line")
        return json.loads(trainer.out())

    def layer_step(self):
        return self.fleet.status("experts")["layers"][0]["step"]

    def test_a_run_prints_one_json_document_that_adds_up(self):
        self.assertEqual(self.fleet.ctl("policy", "lyapunov")[0], 0)
        result = self.train(epochs=6)
        self.assertEqual(result["policy"], "lyapunov")
        self.assertEqual(result["epochs"], 6)
        self.assertEqual(result["steps"], 6 * STEPS_PER_EPOCH)
        self.assertEqual(result["samples"], 6 * IMAGES)
        self.assertEqual(result["visits"], 6 * (IMAGES + 10000) * 2)
        self.assertEqual(sum(result["expert_visits"]), result["visits"])
        self.assertEqual(len(result["expert_visits"]), 8)
        self.assertGreater(result["test_accuracy"], 0.65)
        self.assertAlmostEqual(result["samples_per_second"], result["samples"] / result["seconds"],
                               delta=1e-6 * result["samples_per_second"])
        status = self.fleet.status()
        self.assertEqual(status["steps"], result["steps"])
        self.assertEqual(status["ledger"]["settled"], result["visits"])
        self.assertEqual(status["ledger"]["committed"], 6 * IMAGES * 2)

    def test_a_run_that_ended_leaves_its_layer_to_the_next_at_once(self):
        self.train()
        wanted = self.fleet.start_trainer(*train_args(IMAGES), name="another")
        self.assertEqual(wanted.wait(), 0, wanted.err())
        self.assertEqual(self.layer_step(), STEPS_PER_EPOCH)

    def test_progress_tells_rate_and_accuracy_and_quiet_is_quiet(self):
        trainer = self.fleet.start_trainer(*train_args(IMAGES, epochs=2))
        self.assertEqual(trainer.wait(), 0)
        self.assertRegex(trainer.err(), r"epoch 2/2 +loss \d+\.\d+ +test accuracy 0\.\d+ +"
                                        r"\d+ samples/s")
        trainer = self.fleet.start_trainer("--quiet", *train_args(IMAGES))
        self.assertEqual(trainer.wait(), 0)
        self.assertEqual(trainer.err(), "")

    def killed_run(self):
        """A run of 6 epochs that is killed after its second checkpoint at the earliest; the step of
        the checkpoint it left."""
        trainer = self.fleet.start_trainer("--checkpoint", self.checkpoint,
                                           *train_args(IMAGES, epochs=60, batch=BATCH))
        harness.wait_for("a checkpoint", lambda: steps_of(self.checkpoint) >= 2 * STEPS_PER_EPOCH)
        trainer.kill()
        step = steps_of(self.checkpoint)
        self.assertEqual(step % STEPS_PER_EPOCH, 0)
        self.assertFalse([f for f in os.listdir(self.fleet.dir) if f.startswith("run.") and
                          f != "run.safetensors"], "nothing half-written lies about")
        return step

    def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(self):
        step = self.killed_run()
        epochs = step // STEPS_PER_EPOCH + 3
        resumed = self.train("--resume", self.checkpoint, epochs=epochs)
        self.assertEqual(resumed["steps"], 3 * STEPS_PER_EPOCH)
        self.assertEqual(self.layer_step(), epochs * STEPS_PER_EPOCH)
        self.assertGreater(resumed["test_accuracy"], 0.6)

    def test_resumed_in_the_middle_it_computes_what_the_whole_run_computed(self):
        epochs, kept = 8, self.fleet.path("kept.safetensors")
        whole = self.fleet.start_trainer("--checkpoint", self.checkpoint,
                                         *train_args(IMAGES, epochs=epochs, batch=BATCH))
        harness.wait_for("a checkpoint", lambda: steps_of(self.checkpoint) >= 2 * STEPS_PER_EPOCH)
        os.link(self.checkpoint, kept)  # a later one is another file under the old name
        self.assertEqual(whole.wait(), 0, whole.err())
        whole, step = json.loads(whole.out()), steps_of(kept)
        self.assertLess(step, epochs * STEPS_PER_EPOCH)
        rest = self.train("--resume", kept, epochs=epochs)
        self.assertEqual(step + rest["steps"], whole["steps"])
        # Routed by top-k, the same numbers up to the order of sums.
        self.assertAlmostEqual(rest["test_loss"], whole["test_loss"], delta=0.02)
        self.assertAlmostEqual(rest["test_accuracy"], whole["test_accuracy"], delta=0.02)

    def test_a_run_resumes_on_another_number_of_workers(self):
        step = self.killed_run()
        for process in list(self.fleet.processes):
            if process.running():
                process.end()
        self.fleet.start_daemon("--set", "fleet.workers_min=3",
                                state_dir=self.fleet.path("gateway2"))
        for i in range(3):
            self.fleet.start_worker(f"other{i}")
        epochs = step // STEPS_PER_EPOCH + 2
        resumed = self.train("--resume", self.checkpoint, epochs=epochs)
        self.assertEqual(resumed["steps"], 2 * STEPS_PER_EPOCH)
        self.assertEqual(self.layer_step(), epochs * STEPS_PER_EPOCH)
        self.assertGreater(resumed["test_accuracy"], 0.6)
        hosts = {e["worker"] for e in self.fleet.status("experts")["layers"][0]["experts"]}
        self.assertEqual(hosts, {"other0", "other1", "other2"})

    def test_parts_of_a_batch_in_flight_train_the_same_model(self):
        whole, parts = self.train(epochs=3), self.train(epochs=3, parts=2)
        self.assertEqual(parts["steps"], whole["steps"])
        self.assertAlmostEqual(parts["test_loss"], whole["test_loss"], delta=0.02)

    def run_local(self, *args, **options):
        """A run without a fleet, ended."""
        return subprocess.run([os.path.join(harness.BIN, "stablemoe-train"), "--local", "--dataset", "fashion-mnist",
                               "--json", "--quiet", *train_args(IMAGES, batch=BATCH, **options), *args],
                              capture_output=True, text=True, check=False, timeout=harness.PATIENCE_S)

    def local(self, *args, **options):
        """The result of a run without a fleet."""
        run = self.run_local(*args, **options)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def test_a_local_run_is_what_a_fleet_routed_by_top_k_computes(self):
        for args in (("--parts", "2"), ("--router", "stablemoe", "--top-k", "1", "--codes", "32")):
            fleet, local = self.train(*args, epochs=3), self.local(*args, epochs=3)
            self.assertEqual(local["steps"], fleet["steps"])
            self.assertEqual(local["visits"], fleet["visits"])
            self.assertAlmostEqual(local["test_loss"], fleet["test_loss"], delta=0.02)

    def test_every_router_trains_on_a_fleet_and_tells_how_it_fluctuates(self):
        for router, still in (("switch", False), ("stablemoe", True), ("base", False), ("hash", True)):
            result = self.train("--router", router, "--top-k", "1", "--codes", "32", epochs=4)
            drift = result["routing"]["fluctuation"]
            self.assertEqual(result["routing"]["router"], router)
            self.assertGreater(result["test_accuracy"], 0.4, router)
            self.assertEqual(sorted(drift), ["20", "50", "80"])
            if still:  # stage 1 ends at 10 %
                self.assertEqual(set(drift.values()), {0}, router)
            else:
                self.assertGreater(drift["20"], 0, router)

    def test_a_frozen_router_is_the_same_after_resuming(self):
        args, kept = ("--router", "stablemoe", "--codes", "32"), self.fleet.path("kept.safetensors")
        whole = self.local(*args, "--checkpoint", self.checkpoint, epochs=2)
        os.rename(self.checkpoint, kept)
        for run in (self.local(*args, "--resume", kept, epochs=3), self.train(*args, "--resume", kept, epochs=3)):
            self.assertEqual(run["routing"]["frozen_digest"], whole["routing"]["frozen_digest"])
            self.assertEqual(run["routing"]["fluctuation"]["20"], None, "passed before it was resumed")
            self.assertEqual(run["routing"]["fluctuation"]["80"], 0)
            self.assertEqual(run["steps"], STEPS_PER_EPOCH)

    def test_a_checkpoint_whose_codes_mean_something_else_is_refused(self):
        args = ("--router", "stablemoe", "--codes", "32")
        self.local(*args, "--checkpoint", self.checkpoint, epochs=1)
        other = self.run_local(*args, "--resume", self.checkpoint, "--limit", str(IMAGES // 2), epochs=2)
        self.assertEqual(other.returncode, 2)
        self.assertIn("codes is", other.stderr)

    def test_stage_1_goes_on_where_it_was(self):
        args = ("--router", "stablemoe", "--codes", "32")
        self.local(*args, "--stage-share", "1", "--checkpoint", self.checkpoint, epochs=1)
        rest = self.local(*args, "--stage-share", "0.5", "--resume", self.checkpoint, epochs=4)
        self.assertEqual(rest["routing"]["frozen_at_step"], 2 * STEPS_PER_EPOCH)
        self.assertGreater(rest["routing"]["fluctuation"]["50"], -1)
        self.assertIsNotNone(rest["routing"]["frozen_agreement"])

    def test_every_activation_optimizer_and_top_k_trains(self):
        for activation, optimizer, top_k in (("gelu", "adamw", 1), ("swiglu", "adamw", 4),
                                             ("relu", "sgd", 2)):
            result = self.train("--activation", activation, "--optimizer", optimizer, "--lr",
                                "0.002" if optimizer == "adamw" else "0.05", "--top-k", str(top_k),
                                epochs=3)
            self.assertGreater(result["test_accuracy"], 0.5, (activation, optimizer, top_k))
            self.assertEqual(result["visits"], 3 * (IMAGES + 10000) * top_k)


if __name__ == "__main__":
    harness.main()
