#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training run is recorded by the real daemon, and its decisions are made again from the file alone."""

import json
import os
import re
import shutil

import harness
from harness import train_args

SIM = os.path.join(harness.BIN, "stablemoe-sim")
IMAGES, EPOCHS, BATCH, TEST_IMAGES = 1000, 2, 100, 10000
ROUTED = EPOCHS * (IMAGES + TEST_IMAGES)  # tokens of a run
FULL = re.compile(r'msg="the trace is not being written" file=\S+ why="?([^"\n]+)"? lost=(\d+)')


@harness.need_data
class Trace(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.file = self.fleet.path("run.trace")

    def start(self, *settings, workers=3):
        words = [word for s in (f"trace.file={self.file}", *settings) for word in ("--set", s)]
        daemon = self.fleet.start_daemon(*words)
        self.fleet.start_workers(workers)
        return daemon

    def train(self, **options):
        trainer = self.fleet.start_trainer(*train_args(IMAGES, EPOCHS, batch=BATCH, **options))
        self.assertEqual(trainer.wait(2 * harness.PATIENCE_S), 0, trainer.err())
        return json.loads(trainer.out())

    def record(self, *settings, **options):
        daemon = self.start(*settings)
        self.train(**options)
        status = self.fleet.status()
        self.assertEqual(daemon.end(), 0)
        return daemon, status

    def sim(self, *args, code=0):
        """(stdout, stderr) of stablemoe-sim."""
        rc, out, err = self.fleet.run([SIM, *args])
        self.assertEqual(rc, code, err)
        return out, err

    def summary(self, path=None):
        return json.loads(self.sim("trace", path or self.file, "--json")[0])

    def replay(self, path=None):
        same = json.loads(self.sim("replay", "--trace", path or self.file, "--json")[0])
        self.assertTrue(same["same"])
        return same

    # ---- exactly, and otherwise ----

    def test_a_run_is_recorded_and_replays_exactly(self):
        _, status = self.record()
        whole = self.summary()
        self.assertEqual((whole["lost"], whole["torn"], whole["ended"]), (0, False, True))
        self.assertEqual(whole["tokens"], status["tokens_routed"], "what the status counted")
        self.assertEqual(whole["tokens"], ROUTED)
        self.assertEqual(whole["bytes"], os.path.getsize(self.file))
        self.assertEqual(whole["workers"], 3)
        same = self.replay()
        self.assertEqual(same["decisions"], whole["decisions"])
        self.assertGreaterEqual(same["decisions"], EPOCHS * IMAGES // BATCH)

    def test_solves_that_may_miss_the_best_by_a_gap_replay_too(self):
        _, status = self.record("routing.gap=1e-4")
        self.assertEqual(status["gap"], 1e-4)
        self.assertLessEqual(status["optimality_gap_max"], 1e-4 + 1e-9)
        self.assertEqual(status["solves_cut_short"], 0)
        self.replay()

    def test_a_changed_decision_is_found_and_named(self):
        self.record()
        other = self.fleet.path("other.trace")
        self.swap_experts(other)
        _, err = self.sim("replay", "--trace", other, code=1)
        self.assertOneLine(err, other, "record ", "recorded")

    def swap_experts(self, path):
        """The file with the first two choices of its largest record changed places, its checksum made good."""
        import struct
        import zlib
        with open(self.file, "rb") as f:
            data = bytearray(f.read())
        at, largest = 16, (0, 0)
        while at < len(data):
            kind, n, _ = struct.unpack_from("<III", data, at)
            largest = max(largest, (n if kind == 2 else 0, at))
            at += 12 + n
        n, at = largest
        body = data[at + 12:at + 12 + n]
        where = self.field(body, 28)  # Route.expert
        first = next(i for i in range(where, n) if body[i] != body[i + 1])
        body[first], body[first + 1] = body[first + 1], body[first]
        head = data[at:at + 8]
        data[at + 8:at + 12 + n] = struct.pack("<I", zlib.crc32(bytes(head + body))) + body
        with open(path, "wb") as f:
            f.write(data)

    def field(self, body, wanted):
        """Where the bytes of a field with a length begin in a protobuf message."""
        def varint(i):
            value = shift = 0
            while True:
                value |= (body[i] & 127) << shift
                shift += 7
                i += 1
                if body[i - 1] < 128:
                    return value, i
        i = 0
        while True:
            tag, i = varint(i)
            if tag & 7 == 0:
                _, i = varint(i)
            elif tag & 7 in (1, 5):
                i += 8 if tag & 7 == 1 else 4
            else:
                n, i = varint(i)
                if tag >> 3 == wanted:
                    return i
                i += n

    def test_other_policies_run_on_what_was_recorded(self):
        self.record()
        args = ("run", "--trace", self.file, "--policy", "all", "--json")
        first, second = self.sim(*args)[0], self.sim(*args)[0]
        self.assertEqual(first, second, "the same bytes")
        result = {p["policy"]: p for p in json.loads(first)["policies"]}
        self.assertEqual(len(result), 11)
        for policy in result.values():
            self.assertEqual(policy["tokens"], ROUTED)
            self.assertEqual(policy["visits"], 2 * ROUTED)
        self.assertEqual(result["topk"]["topk_agreement"], 1)
        self.assertGreater(result["topk"]["gate_mass"], result["random"]["gate_mass"])
        self.assertLessEqual(result["lyapunov"]["gate_mass"], result["topk"]["gate_mass"])
        table = self.sim("run", "--trace", self.file, "--policy", "topk")[0]
        self.assertRegex(table, r"(?m)^topk +sustainable")

    def test_the_policy_may_change_while_it_is_recorded(self):
        daemon = self.start()
        self.train()
        for policy in ("topk", "random", "queue-jsq", "base", "lyapunov-linear"):
            self.assertEqual(self.fleet.ctl("policy", policy)[0], 0)
            self.train()
        self.assertEqual(daemon.end(), 0)
        self.assertEqual(self.replay()["lost"], 0)
        self.assertEqual(self.summary()["tokens"], 6 * ROUTED)

    def test_what_is_sent_again_after_a_loss_replays_too(self):
        daemon = self.start(workers=3)
        trainer = self.fleet.start_trainer(*train_args(IMAGES, 1000, batch=BATCH))
        self.fleet.wait_steps(30)
        self.fleet.processes[1].kill()
        steps = self.fleet.status()["steps"]
        self.fleet.wait_steps(steps + 30)
        trainer.kill()
        self.assertEqual(daemon.end(), 0)
        self.replay()
        args = ("run", "--trace", self.file, "--policy", "all", "--json")
        for policy in json.loads(self.sim(*args)[0])["policies"]:
            self.assertEqual(policy["visits"], 2 * policy["tokens"], policy["policy"])

    # ---- only the largest scores ----

    def test_topk_replays_from_the_largest_scores_alone(self):
        self.record("routing.policy=topk", "trace.scores_top=3")
        self.assertEqual(self.summary()["scores_top"], 3)
        self.replay()
        _, err = self.sim("run", "--trace", self.file, "--policy", "topk")
        self.assertOneLine(err, "the 3 largest of 8 scores")

    def test_a_solve_without_all_scores_is_refused_with_the_field(self):
        self.record("trace.scores_top=3")
        _, err = self.sim("replay", "--trace", self.file, code=2)
        self.assertOneLine(err, "ROUTE.scores", "trace.scores_top", "lyapunov looks at all")

    # ---- what goes wrong ----

    def test_a_file_that_was_cut_anywhere_is_whole_up_to_there(self):
        self.record()
        whole, size = self.replay()["decisions"], os.path.getsize(self.file)
        for part in (16, 17, 29, size // 3, size // 2, size - 1):
            cut = self.fleet.path("cut.trace")
            shutil.copyfile(self.file, cut)
            os.truncate(cut, part)
            same = self.replay(cut)
            self.assertLess(same["decisions"], whole + (part == size - 1))
            self.assertEqual(same["torn"], part != 16, part)

    def test_a_daemon_that_is_killed_leaves_a_file_that_replays(self):
        daemon = self.start()
        trainer = self.fleet.start_trainer(*train_args(IMAGES, 1000, batch=BATCH))
        harness.wait_for("half a megabyte", lambda: self.fleet.status()["trace"]["bytes"] > 1 << 19)
        daemon.kill()
        trainer.kill()
        self.assertGreater(self.replay()["decisions"], 10)
        self.assertFalse(self.summary()["ended"])

    def test_a_full_disk_is_said_once_and_training_goes_on(self):
        limit = 1 << 20
        daemon = self.start_limited(limit)
        self.fleet.start_workers(2)
        self.train(experts=32)
        trace = self.fleet.status()["trace"]
        self.assertEqual(daemon.end(), 0)
        self.assertEqual(len(FULL.findall(daemon.err())), 1, daemon.err())
        self.assertEqual(FULL.search(daemon.err()).group(1), "File too large")
        self.assertEqual(trace["trouble"], "File too large")
        self.assertGreater(trace["lost"], 0)
        self.assertLessEqual(os.path.getsize(self.file), limit)
        self.replay()

    def start_limited(self, limit):
        """A daemon whose files may not grow beyond a limit, as on a full disk."""
        daemon = self.fleet.start("stablemoed", [
            "prlimit", f"--fsize={limit}", os.path.join(harness.BIN, "stablemoed"), "--listen",
            "127.0.0.1:0", "--status", "127.0.0.1:0", "--state-dir", self.fleet.state_dir, "--set",
            f"trace.file={self.file}"])
        line = daemon.wait_for_line(r"msg=listening peers=(\S+) status=(\S+)")
        self.fleet.gateway, self.fleet.status_address = line.group(1), line.group(2)
        return daemon

    def test_a_file_has_no_more_than_it_may_and_an_end(self):
        daemon, status = self.record("trace.bytes_max=256KiB")
        self.assertEqual(FULL.search(daemon.err()).group(1), "trace.bytes_max is reached")
        self.assertEqual(len(FULL.findall(daemon.err())), 1)
        self.assertLessEqual(os.path.getsize(self.file), 256 << 10)
        self.assertGreater(os.path.getsize(self.file), 100 << 10)
        whole = self.summary()
        self.assertTrue(whole["ended"])
        self.assertGreater(whole["lost"], 0)
        self.assertGreaterEqual(whole["lost"], status["trace"]["lost"])
        self.assertEqual(status["steps"], EPOCHS * IMAGES // BATCH)
        self.replay()

    def test_a_file_of_an_earlier_daemon_is_kept_beside_the_new_one(self):
        for _ in range(2):
            daemon = self.fleet.start_daemon("--set", f"trace.file={self.file}")
            self.assertEqual(daemon.end(), 0)
        self.assertTrue(self.summary(self.file + ".old")["ended"])
        self.assertTrue(self.summary()["ended"])

    def test_a_file_that_cannot_be_made_is_one_line(self):
        code, _, err = self.fleet.run([
            os.path.join(harness.BIN, "stablemoed"), "--listen", "127.0.0.1:0", "--status",
            "127.0.0.1:0", "--state-dir", self.fleet.state_dir, "--set",
            "trace.file=/nowhere/run.trace"])
        self.assertNotEqual(code, 0)
        self.assertOneLine(err, "trace /nowhere/run.trace", "No such file or directory")


if __name__ == "__main__":
    harness.main()
