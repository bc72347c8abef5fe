#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bf16 between workers that have direct links: half of the bytes, and every copy of the same bits.

A trainer written from docs/protocol.md (stranger/) trains a layer whose gradients and weights travel as they are, and another
one as bf16. Then workers are killed one after another: whoever has the second copy of a state answers for it, and
slots are filled anew from other shards; states and outputs must be what they were, to the bit.
"""

import harness
import strangers
from harness import wait_for

if not strangers.MISSING:
    import ffn
    import trainer
    from wire import pb
else:
    trainer = None

WORKERS = 3
EXPERTS = 4
STEPS = 3
VECTORS = 3  # weights and AdamW's moments
TOKENS = [[0.1 * (i + 1), -0.2, 0.3 * i, 0.05] for i in range(8)]
KINDS = ("gradient_sent", "follow_sent", "weight_sent", "gradient_received", "follow_received", "weight_received")


def piecewise(*args):
    """A trainer that puts a sharded layer's state together from its pieces."""
    pieces, series = {}, None

    def on_state(state, raw):
        nonlocal series
        if state.series != series:
            series = state.series
            pieces.clear()
        layer = next(la for la in remote.layers if la.number == state.layer)
        numbers, n = ffn.reals(layer.shape, raw), state.length
        pieces[state.offset] = [numbers[i:i + n] for i in range(0, len(numbers), n)]
        if sum(len(vectors[0]) for vectors in pieces.values()) == ffn.n_params(layer.shape):
            whole = [[value for at in sorted(pieces) for value in pieces[at][v]] for v in range(VECTORS)]
            remote.answers[state.request] = (state, ffn.raw(layer.shape, sum(whole, [])))
            pieces.clear()

    remote = trainer.Trainer(*args)
    remote.on_ExpertState = on_state
    return remote


class Rounded(harness.FleetTest):
    def setUp(self):
        super().setUp()
        self.fleet.start_daemon("--set", "placement.rule=static", "--set", f"fleet.workers_min={WORKERS}")
        self.workers = self.fleet.start_workers(WORKERS, "--slots", str(EXPERTS))

    def layers(self):
        return {layer["layer"]: layer for layer in self.fleet.status("experts")["layers"]}

    def declare(self, name, wire_format):
        shape = pb.LayerShape(experts=EXPERTS, d_model=4, d_ff=32, activation=2, dtype=1, optimizer=2, seed=3,
                              wire=wire_format)
        self.remote = piecewise(self.fleet.gateway, name)
        layer = self.remote.declare(name, 77, shape)
        wait_for("all links", self.has_links)
        return layer

    def has_links(self):
        return sum(w["links_up"] for w in self.fleet.workers().values()) == WORKERS * (WORKERS - 1)

    def relayed(self):
        return sum(w["relayed_bytes"] for w in self.fleet.workers().values())

    def results(self, layer, x, train):
        batch = self.remote.submit(layer, x, [[1 / EXPERTS] * EXPERTS] * len(x), EXPERTS, train)
        self.remote.wait_for(batch.has_results)
        return batch

    def train(self, layer):
        """Bytes of the last iteration, by worker and kind."""
        optimizer = pb.Optimizer(kind=2, learning_rate=0.01, beta1=0.9, beta2=0.99, epsilon=1e-8)
        for _ in range(STEPS):
            batch = self.results(layer, TOKENS, True)
            self.remote.gradient(batch, [[y - 0.5 for y in batch.y[v]] for v in range(batch.n_visits())])
            self.remote.wait_for(batch.has_input_gradients)
            self.remote.step(optimizer)
        wait_for("the last weights", lambda: self.layers()[layer.name]["iterations"] >= STEPS)
        return {s["worker"]: [s["traffic"][kind] for kind in KINDS] for s in self.layers()[layer.name]["shards"]}

    def learned(self, layer):
        """Every expert's weights and moments, and what they make of a token."""
        states = [self.remote.fetch(layer, expert, 3)[1] for expert in range(EXPERTS)]
        return states, self.results(layer, TOKENS[:1], False).y

    def has_both_copies(self):
        layers = self.layers().values()
        return all(layer["state"] == "ready" and layer["elements_single"] == 0 for layer in layers)

    def test_half_of_the_bytes_go_over_links_and_all_copies_are_equal(self):
        whole = self.train(self.declare("whole", 0))
        self.remote.close()
        relayed = self.relayed()
        layer = self.declare("rounded", 1)
        half = self.train(layer)
        self.assertEqual(self.relayed(), relayed)
        for worker, numbers in half.items():
            self.assertGreater(min(numbers), 0, worker)
            self.assertEqual([2 * n for n in numbers], whole[worker], worker)
        before = self.learned(layer)
        for i, worker in enumerate(self.workers):
            wait_for("both copies of everything", self.has_both_copies)
            worker.kill()
            self.assertEqual(self.learned(layer), before)
            self.fleet.start_worker(f"w{i + 1}", "--slots", str(EXPERTS))
            self.fleet.wait_ready(WORKERS)
        self.assertEqual(self.learned(layer), before)
        self.remote.close()


if __name__ == "__main__":
    strangers.main()
