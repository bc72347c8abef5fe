#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints hold the placement: a run that is resumed on the same workers has it at once, and elsewhere at least what
was learned of popularity; what is no placement is refused. Every rule can be chosen in the running gateway."""

import json
import os
import shutil
import signal
import struct

import harness
from harness import train_args

WORKERS = 4
RULE = "highest-averages"
TYPES = {"I64": "q", "F64": "d"}


class Checkpoint:
    """A safetensors file: names to (type, bytes), and metadata."""

    def __init__(self, path):
        with open(path, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            head = json.loads(f.read(length))
            data = f.read()
        self.metadata = head.pop("__metadata__")
        self.tensors = {name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])]) for name, t in head.items()}

    def numbers(self, name):
        dtype, _, data = self.tensors[name]
        return list(struct.unpack(f"<{len(data) // 8}{TYPES[dtype]}", data))

    def put(self, name, numbers):
        dtype = self.tensors[name][0]
        self.tensors[name] = (dtype, [len(numbers)], struct.pack(f"<{len(numbers)}{TYPES[dtype]}", *numbers))

    def write(self, path):
        head, data = {"__metadata__": self.metadata}, b""
        for name, (dtype, shape, content) in sorted(self.tensors.items(), key=lambda t: t[1][0] == "F32"):
            head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)

    def placement(self):
        """{worker: experts in its slots}"""
        experts, slots = self.numbers("placement.experts"), self.numbers("placement.slots")
        names = self.metadata["placement.workers"].split(" ")
        return {name: [experts.pop(0) for _ in range(n)] for name, n in zip(names, slots)}

    def learned(self):
        return self.tensors["placement.popularity"], self.tensors["placement.evidence"]


class Placement(harness.FleetTest):
    def begin(self, n_workers, rule=RULE):
        """A new gateway that knows nothing, and workers that hold nothing, of the same names."""
        for process in reversed(self.fleet.processes):
            process.end()
        for name in os.listdir(self.fleet.dir):
            if os.path.isdir(self.fleet.path(name)):
                shutil.rmtree(self.fleet.path(name))
        self.fleet.start_daemon("--set", f"placement.rule={rule}", "--set", "placement.average=0.5", "--set",
                                f"fleet.workers_min={n_workers}")
        self.fleet.start_workers(n_workers, "--slots", "4")

    def train(self, path):
        trainer = self.fleet.start_trainer(*train_args(1000, epochs=2, balance=0, checkpoint=path))
        self.assertEqual(trainer.wait(), 0, trainer.err())
        return Checkpoint(path)

    def resumed(self, path):
        """What a run writes that takes the checkpoint up and does nothing else: it is interrupted beforehand."""
        after = self.fleet.path("after.safetensors")
        gateway = self.fleet.gateway
        trainer = self.fleet.start_trainer(*train_args(1000, epochs=9, balance=0, checkpoint=after), "--resume", path,
                                           name="again", beneath=["setpriv", "--pdeathsig", "KILL"], gateway=gateway)
        trainer.expected.add(1)
        harness.wait_for("the trainer", lambda: self.fleet.status()["trainers"])
        trainer.signal(signal.SIGTERM)
        self.assertEqual(trainer.wait(), 1, trainer.err())
        self.assertIn("interrupted after step", trainer.err())
        return Checkpoint(after)

    @harness.need_data
    def test_the_same_workers_have_their_placement_at_once_and_others_what_was_learned(self):
        path = self.fleet.path("checkpoint.safetensors")
        self.begin(WORKERS)
        before = self.train(path)
        self.assertEqual(before.metadata["placement.rule"], RULE)
        self.assertAlmostEqual(sum(before.numbers("placement.popularity")), 1)
        self.assertEqual(before.numbers("placement.evidence")[2], 2 * 10, "an iteration was not seen")
        self.assertEqual({name: len(experts) for name, experts in before.placement().items()},
                         {f"w{i + 1}": 4 for i in range(WORKERS)})
        self.begin(WORKERS)
        after = self.resumed(path)
        self.assertEqual(after.placement(), before.placement())
        self.assertEqual(after.learned(), before.learned())
        for name in before.tensors:
            if name.startswith("experts."):
                self.assertEqual(after.tensors[name], before.tensors[name], name)
        self.begin(WORKERS - 1)
        fewer = self.resumed(path)
        self.assertEqual(set(fewer.placement()), {"w1", "w2", "w3"})
        self.assertEqual(set(sum(fewer.placement().values(), [])), set(range(8)))
        self.assertEqual(fewer.learned(), before.learned())
        self.begin(WORKERS, "static")
        self.assertEqual(sorted(self.resumed(path).placement().values()), [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2)

    @harness.need_data
    def test_what_is_no_placement_is_refused_by_field_and_limit(self):
        path, bad = (self.fleet.path(f"{name}.safetensors") for name in ("good", "bad"))
        self.begin(2)
        self.train(path)
        for name, numbers, words in [
                ("placement.slots", [4, 1025], "placement.slots 1025: not in 1..1024"),
                ("placement.slots", [4, -1], "tensor placement.slots: -1 at 1: not in 0..1000000000"),
                ("placement.slots", [4], "metadata placement.workers: 2 names for the 1 of placement.slots"),
                ("placement.slots", [4] * 513, "tensor placement.slots: 513 elements, at most 512"),
                ("placement.experts", [0] * 8, "placement.experts: expert 1 of 8 stands nowhere"),
                ("placement.experts", list(range(1, 9)), "placement.experts 8: not in 0..7"),
                ("placement.popularity", [1 / 7] * 7, "placement.experts 7: not in 0..6"),
                ("placement.popularity", [float("nan")] * 8, "placement.popularity: not a finite number"),
                ("placement.evidence", [0, 0, 1, 3], "placement.planned 3: not in 0..2"),
                ("placement.evidence", [0, 0, 1], "tensor placement.evidence: 3 numbers, expected 4")]:
            file = Checkpoint(path)
            if name == "placement.experts" or name == "placement.popularity":
                file.metadata["placement.workers"] = "w1 w2"
                file.put("placement.slots", [4, 4])
                file.put("placement.experts", list(range(8)))
            file.put(name, numbers)
            file.write(bad)
            trainer = self.fleet.start_trainer(*train_args(1000, balance=0), "--resume", bad, name="bad")
            trainer.expected.update((1, 2))
            self.assertIn(trainer.wait(), (1, 2), name)
            self.assertIn(words, trainer.err())

    @harness.need_data
    def test_every_rule_is_one_of_the_running_gateway(self):
        path = self.fleet.path("checkpoint.safetensors")
        for rule in ("symi", "eplb", "interval=3", "static"):
            self.begin(2, rule)
            written = self.train(path)
            self.assertEqual(written.metadata["placement.rule"], rule)
            self.assertEqual(set(sum(written.placement().values(), [])), set(range(8)))
            planned = written.numbers("placement.evidence")[3]
            self.assertGreaterEqual(planned, 20 - 3 if rule == "interval=3" else 21)


if __name__ == "__main__":
    harness.main()
