#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A speed cap throttles really: CPU time against the time there was work, which is no matter of how fast
this machine is today."""

import os

import harness
from harness import train_args

SPEED = 0.25
NOMINAL_HZ = 2_000_000_000


def threads_ns(pid):
    """[(CPU time, time it was ready and had no processor)] of a process's threads, the main one first."""
    times = []
    for thread in sorted(int(t) for t in os.listdir(f"/proc/{pid}/task")):
        with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as f:
            times.append(tuple(int(word) for word in f.read().split()[:2]))
    return times


@harness.need_data
class Throttle(harness.FleetTest):
    def load(self, *speeds):
        """A worker w1, w2, ... of each speed, kept busy by a trainer whose batches are large."""
        self.fleet.start_daemon("--set", f"fleet.workers_min={len(speeds)}", "--set",
                                "routing.policy=topk")
        workers = [self.fleet.start_worker(f"w{i + 1}", "--speed", str(speed), "--freq",
                                           str(NOMINAL_HZ)) for i, speed in enumerate(speeds)]
        self.fleet.wait_ready(len(speeds))
        self.trainer = self.fleet.start_trainer(
            *train_args(4096, epochs=10000, batch=512, **{"d-model": 64, "d-ff": 1024}))
        return workers

    def snapshot(self, process, name):
        worker, threads = self.fleet.workers()[name], threads_ns(process.popen.pid)
        return {"busy": worker["busy_ns"], "active": worker["active_ns"],
                "lane": max(cpu for cpu, _ in threads[1:]),
                "cpu": sum(cpu for cpu, _ in threads),
                "delay": sum(delay for _, delay in threads)}

    def measure(self, process, name, seconds):
        """What it came by during `seconds` in which it had work: ns it says that it computed, had work;
        ns its compute thread and all threads ran, and waited for a processor, as the kernel says."""
        harness.wait_for("work", lambda: self.fleet.workers()[name]["busy_ns"] > 1e8)
        before = self.snapshot(process, name)
        until = before["active"] + seconds * 1e9
        harness.wait_for(f"{name} to work on", lambda:
                         self.fleet.workers()[name]["active_ns"] >= until)
        after = self.snapshot(process, name)
        return {key: after[key] - before[key] for key in before}

    def test_a_quarter_of_the_speed_is_a_quarter_of_the_cpu_time_while_there_is_work(self):
        worker, = self.load(SPEED)
        ns = self.measure(worker, "w1", 3)
        # Never more. Less only as far as others had the processor, where it wanted it.
        self.assertLessEqual(ns["busy"] / ns["active"], 1.1 * SPEED, ns)
        self.assertGreaterEqual(ns["busy"], 0.6 * SPEED * (ns["active"] - ns["delay"]), ns)
        # What the kernel says of its compute thread: it tells the truth. The reports lie up to one
        # interval of reporting, a quarter of a second, behind what the kernel counts.
        self.assertAlmostEqual(ns["lane"], ns["busy"], delta=0.2 * ns["busy"] + 0.25e9 * SPEED)
        self.trainer.kill()

    def test_it_shows_as_a_lower_frequency_and_not_as_dearer_visits(self):
        full, quarter = self.load(1, SPEED)
        ns = self.measure(quarter, "w2", 2)
        self.assertLessEqual(ns["busy"] / ns["active"], 1.1 * SPEED, ns)
        workers = self.fleet.workers()
        w1, w2 = workers["w1"], workers["w2"]
        self.assertEqual(w1["freq_max_hz"], NOMINAL_HZ)
        self.assertEqual(w2["freq_max_hz"], SPEED * NOMINAL_HZ)
        self.assertEqual(w1["freq_khz"], NOMINAL_HZ // 1000)
        self.assertEqual(w2["freq_khz"], SPEED * NOMINAL_HZ // 1000)
        self.assertEqual(w2["freq_driver"], "duty")
        # A visit costs the same cycles at either speed, and the capped one has fewer of them to give.
        self.assertLess(w2["cycles_per_visit"] / w1["cycles_per_visit"], 1.6)
        self.assertGreater(w2["cycles_per_visit"] / w1["cycles_per_visit"], 1 / 1.6)
        self.assertTrue(full.running())
        self.trainer.kill()

    def test_the_full_speed_does_not_rest(self):
        worker, = self.load(1)
        ns = self.measure(worker, "w1", 2)
        self.assertGreater(ns["cpu"], 2 * SPEED * (ns["active"] - ns["delay"]), ns)
        self.trainer.kill()

    def test_a_worker_without_a_driver_says_that_it_runs_at_full_speed(self):
        self.fleet.start_daemon()
        self.fleet.start_worker("w1", "--speed", str(SPEED), "--freq", str(NOMINAL_HZ),
                                "--freq-driver", "null")
        self.fleet.wait_ready(1)
        worker = self.fleet.workers()["w1"]
        self.assertEqual((worker["freq_max_hz"], worker["freq_driver"]), (NOMINAL_HZ, "null"))


if __name__ == "__main__":
    harness.main()
