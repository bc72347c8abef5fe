#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The frozen router over TCP: a trainer in stage 2 sends codes, the gateway scores them, and neither its death
nor the trainer's changes which router that is."""

import json
import os

import harness
from harness import train_args

IMAGES, BATCH, EPOCHS = 1000, 100, 4
STABLE = ("--router", "stablemoe", "--top-k", "1", "--codes", "32")


@harness.need_data
class Freeze(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.port = f"127.0.0.1:{harness.free_port()}"
        self.status_port = f"127.0.0.1:{harness.free_port()}"
        self.start_daemon()
        self.workers = self.fleet.start_workers(2)

    def start_daemon(self):
        self.daemon = self.fleet.start_daemon("--set", "routing.policy=topk", listen=self.port,
                                              status=self.status_port)

    def start(self, *args, epochs=EPOCHS):
        return self.fleet.start_trainer(*train_args(IMAGES, batch=BATCH, epochs=epochs), *STABLE, *args)

    def result(self, trainer):
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        return json.loads(trainer.out())

    def local(self, *args, epochs):
        """The result of a run without a gateway."""
        code, out, err = self.fleet.run([
            os.path.join(harness.BIN, "stablemoe-train"), "--local", "--dataset", "fashion-mnist", "--json", "--quiet",
            *train_args(IMAGES, batch=BATCH, epochs=epochs), *STABLE, *args])
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def layer(self):
        layers = self.fleet.status("experts")["layers"]
        return layers[0] if layers else {"router": None, "step": 0}

    def router(self):
        return self.layer()["router"]

    def test_status_names_the_router_that_the_trainer_froze(self):
        for feature, kind, inputs in (("table", "table", 32), ("linear", "linear", 784)):
            result = self.result(self.start("--feature", feature))
            router = self.router()
            self.assertEqual((router["version"], router["kind"], router["inputs"]), (1, kind, inputs))
            self.assertEqual(router["digest"], result["routing"]["frozen_digest"])
            self.assertGreater(result["test_accuracy"], 0.4)
            routing = self.layer()["routing"]
            self.assertEqual((routing["router"], routing["step"]), ("stablemoe", result["steps"]))
            for key in ("fluctuation", "tokens_watched"):
                self.assertEqual(routing[key], result["routing"][key], key)
            self.assertAlmostEqual(routing["frozen_agreement"], result["routing"]["frozen_agreement"])
            code, out, _ = self.fleet.ctl("status")
            self.assertEqual(code, 0)
            self.assertIn(router["digest"], out)
            for worker in self.workers:
                worker.wait_for_line(f'msg="router in force" layer=moe version=1 kind={kind} inputs={inputs} '
                                     f'digest={router["digest"]}')

    def test_the_gateway_makes_the_choices_that_the_trainer_would_have_made(self):
        kept = self.fleet.path("kept.safetensors")
        self.local("--checkpoint", kept, epochs=1)
        here, there = self.local("--resume", kept, epochs=3), self.result(self.start("--resume", kept, epochs=3))
        self.assertEqual(there["routing"]["frozen_digest"], here["routing"]["frozen_digest"])
        self.assertEqual(there["expert_visits"], here["expert_visits"])  # all of stage 2: no float has a say

    def test_a_daemon_killed_in_stage_2_comes_back_with_the_same_router(self):
        trainer = self.start(epochs=60)
        before = harness.wait_for("the freeze", self.router)
        step = self.layer()["step"]
        harness.wait_for("steps of stage 2", lambda: self.layer()["step"] > step + 5)
        for _ in range(3):
            self.daemon.kill()
            self.start_daemon()
            self.assertEqual(harness.wait_for("the router", self.router), before)
            step = self.layer()["step"]
            harness.wait_for("steps after the restart", lambda: self.layer()["step"] > step + 2)
        result = self.result(trainer)
        self.assertEqual(result["routing"]["frozen_digest"], before["digest"])
        self.assertEqual(set(result["routing"]["fluctuation"].values()), {0})
        self.assertEqual(self.router(), before)

    def test_a_run_that_is_resumed_elsewhere_freezes_the_same_router_there(self):
        kept = self.fleet.path("kept.safetensors")
        first = self.result(self.start("--checkpoint", kept, epochs=2))
        self.fleet.start_daemon(state_dir=self.fleet.path("elsewhere"))
        self.assertEqual(self.fleet.status("experts")["layers"], [])
        for name in ("x1", "x2"):
            self.fleet.start_worker(name)
        self.fleet.wait_ready(2)
        second = self.result(self.start("--resume", kept, epochs=3))
        self.assertEqual(second["routing"]["frozen_digest"], first["routing"]["frozen_digest"])
        self.assertEqual(self.router()["digest"], first["routing"]["frozen_digest"])


if __name__ == "__main__":
    harness.main()
