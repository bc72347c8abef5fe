#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes stop, die, come back and are told to change while a model trains."""

import json
import os
import signal
import time

import harness
from harness import train_args

BATCH = 100
FOREVER = 10000  # epochs


@harness.need_data
class Lifecycle(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.port = f"127.0.0.1:{harness.free_port()}"

    def start(self, workers, *args):
        self.daemon = self.fleet.start_daemon("--set", f"fleet.workers_min={workers}", *args,
                                              listen=self.port)
        return self.fleet.start_workers(workers)

    def start_training(self, *args, **options):
        trainer = self.fleet.start_trainer(*args, *train_args(1000, batch=BATCH, **options))
        self.fleet.wait_steps(5)
        return trainer

    def assertFinished(self, trainer, epochs):
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        result = json.loads(trainer.out())
        self.assertEqual(result["steps"], epochs * 1000 // BATCH)
        self.assertEqual(result["samples"], epochs * 1000)
        self.assertGreater(result["test_accuracy"], 0.6)
        self.assertEqual(self.fleet.status("experts")["layers"][0]["step"], result["steps"])

    # ---- the gateway ----

    def test_sigterm_drains_exits_0_within_5_s_and_the_run_ends_on_the_next_gateway(self):
        self.start(2)
        trainer = self.start_training(epochs=20)
        began = time.monotonic()
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0)
        self.assertLess(time.monotonic() - began, 5 * (3 if harness.SANITIZED else 1))
        self.assertRegex(self.daemon.err(), r"msg=drained")
        self.assertTrue(trainer.running(), trainer.err())
        self.fleet.start_daemon(listen=self.port)
        self.assertFinished(trainer, 20)

    def test_a_second_sigterm_does_not_wait(self):
        workers = self.start(2)
        trainer = self.start_training(epochs=FOREVER)
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        harness.wait_for("work that stays in flight", lambda:
                         self.fleet.status()["ledger"]["in_flight"] > 0)
        self.daemon.signal(signal.SIGTERM)
        self.daemon.wait_for_line("msg=stopping")
        began = time.monotonic()
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0)
        self.assertLess(time.monotonic() - began, 3 * (3 if harness.SANITIZED else 1))
        for worker in workers:
            worker.signal(signal.SIGCONT)
        trainer.kill()

    def test_killed_and_restarted_it_goes_on_with_the_experts_the_workers_kept(self):
        self.start(2)
        trainer = self.start_training(epochs=20)
        self.daemon.kill()
        self.fleet.start_daemon(listen=self.port)
        self.assertFinished(trainer, 20)

    def test_killed_again_and_again_it_still_goes_on(self):
        self.start(3)
        trainer = self.start_training(epochs=30)
        for _ in range(4):
            self.daemon.kill()
            self.daemon = self.fleet.start_daemon(listen=self.port)
            if not trainer.running():
                break
            harness.wait_for("a step", lambda: self.fleet.status()["steps"] >= 1 or
                             not trainer.running())
        self.assertFinished(trainer, 30)

    def test_sighup_takes_what_may_change_and_names_what_may_not(self):
        config = self.fleet.path("stablemoed.conf")

        def write(policy, v, workers_max):
            with open(config + ".new", "w", encoding="utf-8") as f:
                f.write(f"[routing]\npolicy = {policy}\nv = {v}\n[fleet]\n"
                        f"workers_max = {workers_max}\n")
            os.rename(config + ".new", config)

        write("topk", 5, 100)
        daemon = self.fleet.start_daemon("--config", config)
        status = self.fleet.status()
        self.assertEqual((status["policy"], status["v"]), ("topk", 5))
        write("random", 7.5, 200)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for_line(r'msg="configuration reloaded" changed=2 needs_restart='
                             r'"?fleet.workers_max')
        status = self.fleet.status()
        self.assertEqual((status["policy"], status["v"]), ("random", 7.5))
        write("randon", 1, 200)
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_for_line(r'level=error msg="configuration not reloaded".*')
        self.assertIn("stablemoed.conf:2: routing.policy", line.group())
        code, _, err = self.fleet.ctl("reload")
        self.assertEqual(code, 1)
        self.assertOneLine(err, "stablemoed.conf:2: routing.policy")
        status = self.fleet.status()
        self.assertEqual((status["policy"], status["v"]), ("random", 7.5), "nothing changed")
        write("queue", 1, 100)
        self.assertEqual(self.fleet.ctl("reload"), (0, "", ""))
        self.assertEqual(self.fleet.status()["policy"], "queue")

    def test_policies_may_change_while_a_model_trains(self):
        self.start(2)
        trainer = self.start_training(epochs=FOREVER)
        for policy in ("topk", "random", "queue", "energy", "queue-jsq", "lyapunov-greedy",
                       "lyapunov-linear", "lyapunov-separable", "lyapunov-strict", "base", "lyapunov"):
            self.assertEqual(self.fleet.ctl("policy", policy), (0, "", ""))
            steps = self.fleet.status()["steps"]
            self.fleet.wait_steps(steps + 2)
            self.assertEqual(self.fleet.status()["policy"], policy)
        self.assertEqual(self.fleet.status()["ledger"]["failed"], 0)
        trainer.kill()

    # ---- one each ----

    def test_two_daemons_cannot_share_a_state_directory(self):
        daemon = self.fleet.start_daemon()
        code, _, err = self.fleet.run([
            os.path.join(harness.BIN, "stablemoed"), "--listen", "127.0.0.1:0", "--status",
            "127.0.0.1:0", "--state-dir", self.fleet.state_dir])
        self.assertEqual(code, 1)
        self.assertOneLine(err, f"state directory {self.fleet.state_dir}: in use by pid "
                                f"{daemon.popen.pid}")
        self.assertEqual(self.fleet.ctl("ping")[0], 0, "the first one still answers")

    def test_a_worker_s_directory_is_of_one_node(self):
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        worker = [os.path.join(harness.BIN, "stablemoe-worker"), "--gateway", self.fleet.gateway,
                  "--state-dir", self.fleet.path("w1")]
        code, _, err = self.fleet.run(worker + ["--id", "w1"])
        self.assertEqual(code, 1)
        self.assertOneLine(err, "in use by pid")
        self.fleet.processes[1].end()
        code, _, err = self.fleet.run(worker + ["--id", "other"])
        self.assertEqual(code, 2)
        self.assertOneLine(err, "--id other", "belongs to node w1")
        again = self.fleet.start("again", worker)  # without --id: the one kept
        again.wait_for_line("msg=started id=w1")
        self.fleet.wait_ready(1)
        self.assertEqual(set(self.fleet.workers()), {"w1"})

    def test_two_workers_of_one_id_do_not_both_serve(self):
        self.fleet.start_daemon()
        self.fleet.start_workers(1)
        twin = self.fleet.start("twin", [os.path.join(harness.BIN, "stablemoe-worker"), "--gateway",
                                         self.fleet.gateway, "--id", "w1", "--state-dir",
                                         self.fleet.path("twin-state")])
        twin.wait_for_line(r'level=warning .*w1 is connected already')
        self.assertEqual(self.fleet.ready(), 1)
        self.fleet.processes[1].end()
        twin.wait_for_line("joined the gateway")

    # ---- workers ----

    def test_a_worker_killed_in_mid_run_is_replaced_and_returns_and_the_run_goes_on(self):
        workers = self.start(3)
        trainer = self.start_training(epochs=60)
        for round in range(3):
            workers[round].kill()
            name = f"w{round + 1}"
            harness.wait_for(f"{name} to be missed", lambda: self.fleet.workers()[name]["state"] == "lost"
                             or not trainer.running())
            self.fleet.start_worker(name)
            self.fleet.wait_ready(3)
            steps = self.fleet.status()["steps"]
            harness.wait_for("steps without it", lambda: self.fleet.status()["steps"] >= steps + 5
                             or not trainer.running())
        self.assertFinished(trainer, 60)
        self.assertBalanced(self.fleet.status()["ledger"], "after three losses")

    def test_a_worker_that_stood_still_is_missed_and_taken_back(self):
        workers = self.start(2, "--set", "fleet.silence=300ms")
        trainer = self.start_training(epochs=40)
        workers[0].signal(signal.SIGSTOP)
        harness.wait_for("w1 to be lost", lambda: self.fleet.workers()["w1"]["state"] == "lost")
        workers[0].signal(signal.SIGCONT)
        self.fleet.wait_ready(2)
        self.assertFinished(trainer, 40)

    def test_experts_whose_copies_all_died_end_the_run_in_words_and_a_checkpoint_mends_it(self):
        workers = self.start(2)
        checkpoint = self.fleet.path("run.safetensors")
        trainer = self.start_training("--checkpoint", checkpoint, epochs=FOREVER)
        harness.wait_for("a checkpoint", lambda: os.path.exists(checkpoint))
        for worker in workers:
            worker.signal(signal.SIGSTOP)  # so that neither is saved by the other
        for worker in workers:
            worker.kill()
        for name in ("w1", "w2"):
            self.fleet.start_worker(name)
        trainer.expected.add(1)
        self.assertEqual(trainer.wait(), 1)
        self.assertOneLine(trainer.err().splitlines(True)[-1], "resume from a checkpoint")
        self.fleet.wait_ready(2)
        resumed = self.fleet.start_trainer("--resume", checkpoint, "--checkpoint", checkpoint,
                                           *train_args(1000, epochs=FOREVER, batch=BATCH))
        steps = self.fleet.status()["steps"]
        self.fleet.wait_steps(steps + 20)
        resumed.kill()

    def test_a_drained_worker_gets_nothing_new_until_undrained(self):
        self.start(4)
        trainer = self.start_training(epochs=FOREVER)
        self.assertEqual(self.fleet.ctl("drain", "w2"), (0, "", ""))
        harness.wait_for("w2 to have finished", lambda: self.fleet.workers()["w2"]["in_flight"] == 0)
        routed, steps = self.fleet.workers()["w2"]["visits_routed"], self.fleet.status()["steps"]
        self.fleet.wait_steps(steps + 5)
        after = self.fleet.workers()["w2"]
        self.assertEqual((after["state"], after["visits_routed"]), ("draining", routed))
        harness.wait_for("nothing to be lost with w2", lambda: self.fleet.workers()["w2"]["drained"])
        self.assertRegex(self.fleet.ctl("workers")[1], r"(?m)^w2 +drained ")
        keeps = [e for e in self.fleet.status("experts")["layers"][0]["experts"] if "w2" in (e["worker"], e["copy"])]
        self.assertEqual(keeps, [])
        self.assertEqual(self.fleet.ctl("undrain", "w2"), (0, "", ""))
        harness.wait_for("w2 to work again", lambda:
                         self.fleet.workers()["w2"]["visits_routed"] > routed)
        self.assertFalse(self.fleet.workers()["w2"]["drained"])
        trainer.kill()

    def test_a_budget_set_for_one_worker_outlives_worker_and_gateway(self):
        def budget(name):
            return self.fleet.workers()[name]["energy_budget_w"]

        gateway = self.fleet.start_daemon("--set", "energy.budget=9")
        self.fleet.start_worker("w1", "--budget", "7")
        worker = self.fleet.start_worker("w2")
        self.fleet.wait_ready(2)
        self.assertEqual((budget("w1"), budget("w2")), (7, 9))
        self.assertEqual(self.fleet.ctl("set-budget", "w2", "12.5"), (0, "", ""))
        self.assertEqual((budget("w1"), budget("w2")), (7, 12.5))
        self.assertEqual(self.fleet.ctl("set-budget", "w1", "8"), (0, "", ""))
        self.assertEqual(budget("w1"), 7)  # the node's own is smaller
        worker.kill()
        gateway.kill()
        self.fleet.start_daemon("--listen", self.fleet.gateway, "--set", "energy.budget=9")
        self.fleet.start_worker("w2", "--budget", "20")
        self.fleet.wait_ready(2)
        self.assertEqual((budget("w1"), budget("w2")), (7, 12.5))
        self.assertEqual(self.fleet.ctl("set-budget", "w2", "off"), (0, "", ""))
        self.assertEqual(budget("w2"), 9)
        with open(os.path.join(self.fleet.state_dir, "budgets"), encoding="ascii") as f:
            self.assertEqual(f.read(), "w1 8\n")
        code, table, _ = self.fleet.ctl("workers")
        self.assertEqual(code, 0)
        self.assertRegex(table, r"(?m)^worker +state .* meter .* power +budget +debt +asked +runs at +driver +temp")
        self.assertRegex(table, r"(?m)^w2 .* 9\.00 W ")

    # ---- trainers ----

    def test_a_killed_trainer_leaves_no_visit_behind_and_its_layer_to_the_next_of_its_name(self):
        self.start(2)
        self.start_training(epochs=FOREVER).kill()
        harness.wait_for("its visits to end", lambda: self.fleet.status()["ledger"]["in_flight"] == 0)
        self.assertBalanced(self.fleet.status()["ledger"], "after the loss of a trainer")
        trainer = self.fleet.start_trainer(*train_args(1000, epochs=20, batch=BATCH))
        self.assertFinished(trainer, 20)


if __name__ == "__main__":
    harness.main()
