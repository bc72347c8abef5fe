#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where a trainer's run and a worker's life begin and end: positions that files claim, batches that do not come out
even, results that cannot be written, signals that come too early."""

import json
import os
import random
import signal
import socket
import struct
import subprocess

import harness
from faults import Faults

IMAGES, TESTS, SIDE = 601, 20, 2  # more than an evaluation's part; a prime, so no number of parts divides it
TRAINER = os.path.join(harness.BIN, "stablemoe-train")
SMALL = ["--dataset", "fashion-mnist", "--experts", "2", "--d-model", "4", "--d-ff", "4"]


def write_idx(path, magic, sizes, data):
    with open(path, "wb") as f:
        f.write(struct.pack(f">I{len(sizes)}I", magic, *sizes) + bytes(data))


class Trainer(harness.FleetTest):
    """Runs on images of four pixels."""

    def setUp(self):
        super().setUp()
        self.data, self.checkpoint = self.fleet.path("data"), self.fleet.path("run.safetensors")
        os.mkdir(self.data)
        noise = random.Random(1)
        for name, n in (("train", IMAGES), ("t10k", TESTS)):
            write_idx(f"{self.data}/{name}-images-idx3-ubyte", 0x803, (n, SIDE, SIDE),
                      (noise.randrange(256) for _ in range(n * SIDE * SIDE)))
            write_idx(f"{self.data}/{name}-labels-idx1-ubyte", 0x801, (n,),
                      (noise.randrange(10) for _ in range(n)))

    def argv(self, *args):
        return [TRAINER, "--data-dir", self.data, *SMALL, "--json", "--quiet", *map(str, args)]

    def local(self, *args):
        """Exit code, stdout, stderr."""
        return self.fleet.run(self.argv("--local", *args))

    def result(self, *args):
        code, out, err = self.local(*args)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(out.count("\n"), 1)
        return json.loads(out)

    def claim(self, **metadata):
        """A copy of the checkpoint that says this of itself."""
        with open(self.checkpoint, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            header, rest = json.loads(f.read(n)), f.read()
        header["__metadata__"].update(metadata)
        text = json.dumps(header).encode()
        with open(self.fleet.path("claimed.safetensors"), "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text + rest)
        return f.name

    def test_any_batch_is_cut_into_any_number_of_parts(self):
        for batch, parts in ((IMAGES, 2), (IMAGES, 64), (600, 7), (1000, 3), (7, 3), (1, 1)):
            result = self.result("--epochs", 1, "--batch", batch, "--parts", parts)
            self.assertEqual(result["samples"], IMAGES, (batch, parts))
            self.assertEqual(result["steps"], -(-IMAGES // batch), (batch, parts))

    def test_a_position_that_cannot_be_is_refused(self):
        self.result("--epochs", 1, "--batch", 100, "--checkpoint", self.checkpoint)
        for key in ("step", "epoch", "batch"):
            for value in (2**64 - 1, 2**53 + 1, 2**64, -1, "", "1e3"):
                code, out, err = self.local("--epochs", 2, "--batch", 100, "--resume",
                                            self.claim(**{key: str(value)}))
                self.assertEqual((code, out), (2, ""), (key, value))
                self.assertOneLine(err, f"metadata {key}: ")
        code, _, err = self.local("--epochs", 2, "--batch", 100, "--resume", self.claim(batch="7"))
        self.assertEqual(code, 2)
        self.assertOneLine(err, "metadata batch: ", "0..6")

    def test_in_the_middle_of_an_epoch_a_run_goes_on_in_the_same_batches_only(self):
        self.result("--epochs", 1, "--batch", 100, "--checkpoint", self.checkpoint)
        middle = self.claim(batch="3")
        self.assertEqual(self.result("--epochs", 2, "--batch", 100, "--resume", middle)["steps"], 4)
        for other in (("--batch", 64), ("--batch", 100, "--limit", 600)):
            code, _, err = self.local("--epochs", 2, *other, "--resume", middle)
            self.assertEqual(code, 2, other)
            self.assertOneLine(err, '"100 of 601 samples"')
        self.assertEqual(self.result("--epochs", 2, "--batch", 64, "--resume", self.checkpoint)["steps"], 10)

    def test_past_the_last_planned_step_the_learning_rate_stays_0(self):
        def weights(path):
            with open(path, "rb") as f:
                n = int.from_bytes(f.read(8), "little")
                header, rest = json.loads(f.read(n)), f.read()
            begin, end = header["encoder.weight"]["data_offsets"]
            return rest[begin:end]
        after = self.fleet.path("after.safetensors")
        self.result("--epochs", 2, "--batch", 100, "--warmup", 0, "--checkpoint", self.checkpoint)
        self.result("--epochs", 3, "--batch", IMAGES, "--warmup", 0, "--resume", self.checkpoint,
                    "--checkpoint", after)  # step 14 of 3
        self.assertEqual(weights(after), weights(self.checkpoint))

    def test_a_run_that_diverges_ends_and_replaces_no_checkpoint(self):
        with open(self.checkpoint, "w", encoding="ascii") as f:
            f.write("what an earlier run has learned")
        code, out, err = self.local("--epochs", 2, "--batch", 7, "--optimizer", "sgd", "--lr", 100, "--clip", 0,
                                    "--warmup", 0, "--activation", "swiglu", "--checkpoint", self.checkpoint)
        self.assertEqual((code, out), (1, ""))
        self.assertOneLine(err, "a gradient is not finite")
        with open(self.checkpoint, encoding="ascii") as f:
            self.assertEqual(f.read(), "what an earlier run has learned")

    def test_a_finished_run_that_is_resumed_is_evaluated(self):
        whole = self.result("--epochs", 2, "--batch", 100, "--checkpoint", self.checkpoint)
        again = self.result("--epochs", 2, "--batch", 100, "--resume", self.checkpoint)
        self.assertEqual((again["epochs"], again["steps"], again["train_loss"]), (0, 0, None))
        for key in ("test_accuracy", "test_loss"):
            self.assertEqual(again[key], whole[key])

    def test_a_result_that_cannot_be_written_is_a_failure(self):
        for args in ((), ("--json",)):
            with open("/dev/full", "w", encoding="ascii") as full:
                run = subprocess.run([TRAINER, "--local", "--data-dir", self.data, *SMALL, "--quiet", "--epochs",
                                      "1", *args], stdout=full, stderr=subprocess.PIPE, text=True,
                                     check=False, timeout=harness.PATIENCE_S)
            self.assertEqual(run.returncode, 1, args)
            self.assertOneLine(run.stderr, "standard output: cannot be written")

    def test_interrupted_before_its_first_step_it_leaves_an_older_checkpoint_alone(self):
        with open(self.checkpoint, "w", encoding="ascii") as f:
            f.write("what an earlier run has learned")
        with socket.create_server(("127.0.0.1", harness.free_port())) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            trainer = self.fleet.start("trainer", self.argv("--gateway", address, "--checkpoint", self.checkpoint))
            trainer.expected = {1}
            listener.settimeout(harness.PATIENCE_S)
            listener.accept()[0].close()  # it has its handlers by now
            trainer.signal(signal.SIGINT)
        self.fleet.start_daemon(listen=address)
        self.fleet.start_workers(2)
        self.assertEqual(trainer.wait(), 1)
        self.assertOneLine(trainer.err(), "interrupted after step 0\n")
        with open(self.checkpoint, encoding="ascii") as f:
            self.assertEqual(f.read(), "what an earlier run has learned")


class Worker(harness.FleetTest):
    def test_a_signal_while_it_fails_to_start_is_not_what_ends_it(self):
        faults = Faults(self.fleet, "worker")
        faults.bind_signal = signal.SIGTERM
        worker = self.fleet.start_worker("w", "--peer-listen", "127.0.0.1:0", gateway="127.0.0.1:1",
                                         beneath=faults.beneath)
        worker.expected = {1}
        self.assertEqual(worker.wait(), 1)
        self.assertIn("--peer-listen 127.0.0.1:0: address already in use", worker.err())


if __name__ == "__main__":
    harness.main()
