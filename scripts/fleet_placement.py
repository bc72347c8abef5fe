#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Placement rules on a real fleet: what an iteration takes, and what of it is placing.

    scripts/fleet_placement.py --keep runs.jsonl           # makes what is missing, tells how long it will take
    scripts/fleet_placement.py --keep runs.jsonl --most 5  # a few runs now, the rest another time

8 experts, 4 workers with 4 slots, whose duties sum to --cores (at most 1.2); equal ones, and such of speeds 4 : 3 : 2 : 1.
A lane is a gateway with one rule and a fleet of its own; lanes take turns seed by seed, so that what else happens on
the machine happens to all. Two kinds of work:

drift    this program through libstablemoe: every iteration the gate's top choices are drawn from a popularity whose
         logarithm is AR(1) with sd 1.25 and coefficient 0.95, as in `stablemoe-sim placement`; the same for all lanes
images   stablemoe-train on Fashion-MNIST, top-2, with no balance loss: popularity is what the gate makes of it

Visits stay with the experts that the gate chose (routing.policy = lyapunov-strict), prices choose the replica; so every
lane makes the same steps, and time to a loss is in proportion to the mean iteration. The gateway tells how long the
parts of iterations took (`experts`: parts_s): computing; stepping (gradients to the holders of state, norms, optimizer,
journal); placing (from the commit until every worker has taken in its new slots: planning, telling, dropping
and taking); weights (to the slots). All but placing is there under any rule.
"""

import argparse
import ctypes
import json
import math
import random
import re
import statistics
import subprocess
import sys
import time

from fleet_consistency import DONE, ClientOptions, Fleet, LayerOptions, StepOptions, SubmitOptions

RULES = ["static", "symi", "highest-averages", "interval=50", "eplb"]
FLEETS = {"equal": [0.25] * 4, "unlike": [0.4, 0.3, 0.2, 0.1]}  # shares of --cores
PARTS = ["computing", "stepping", "placing", "weights"]
WORKERS, SLOTS, EXPERTS = 4, 4, 8
WIDTH, HIDDEN = 128, 512
TOKENS, BATCHES = 4096, 4  # of an iteration
DRIFT, DEVIATION = 0.95, 1.25
IMAGES, EPOCHS = 20480, 6
WARM_UP = 10  # iterations that are not counted: the fleet learns what work costs


# ---- a trainer whose gate drifts ----

class Trainer:
    """The layer, from the trainer's side."""

    def __init__(self, library, gateway):
        self.so = ctypes.CDLL(library)
        self.so.smoe_ticket_outputs.restype = ctypes.c_void_p
        self.so.smoe_client_error.restype = ctypes.c_char_p
        self.client, self.layer = ctypes.c_void_p(), ctypes.c_void_p()
        self.must(self.so.smoe_client_open(ctypes.byref(ClientOptions(gateway.encode(), b"drift", 60000, None)),
                                           ctypes.byref(self.client)))
        shape = LayerOptions(b"moe", EXPERTS, WIDTH, HIDDEN, 1, 2, 1, False, False)
        self.must(self.so.smoe_layer_declare(self.client, ctypes.byref(shape), ctypes.byref(self.layer)))
        noise, n = random.Random(1), TOKENS // BATCHES
        self.x = (ctypes.c_float * (n * WIDTH))(*[noise.gauss(0, 1) for _ in range(n * WIDTH)])
        self.dy = (ctypes.c_float * (n * WIDTH))(*[noise.gauss(0, 1) for _ in range(n * WIDTH)])

    def must(self, rc):
        if rc:
            raise RuntimeError(self.so.smoe_client_error(self.client).decode())

    def submit(self, scores):
        ticket = ctypes.c_void_p()
        options = SubmitOptions(len(scores) // EXPERTS, 1, ctypes.addressof(scores), None, None,
                                ctypes.addressof(self.x), False, DONE(), None)
        self.must(self.so.smoe_submit(self.layer, ctypes.byref(options), ctypes.byref(ticket)))
        return ticket

    def step(self, batches):
        """One iteration. The gradient is any: what it costs does not depend on it."""
        tickets = [self.submit(scores) for scores in batches]
        for ticket in tickets:
            self.must(self.so.smoe_wait(ticket))
            self.must(self.so.smoe_gradient(ticket, self.dy))
        for ticket in tickets:
            self.must(self.so.smoe_wait_gradient(ticket, ctypes.byref(ctypes.c_void_p())))
            self.so.smoe_ticket_release(ticket)
        step = StepOptions(2, 1e-4, 0, 0.9, 0.999, 1e-8, 0, TOKENS, 1, 0)
        self.must(self.so.smoe_step(self.client, ctypes.byref(step), None))


def drifting_scores(seed, iterations):
    """Score matrices of BATCHES batches, for every iteration. An expert is a token's first with its popularity."""
    draw = random.Random(seed)
    pool = [[-math.log(-math.log(1 - draw.random())) for _ in range(EXPERTS)] for _ in range(4 * TOKENS)]  # Gumbel
    logs = [draw.gauss(0, DEVIATION) for _ in range(EXPERTS)]
    for _ in range(iterations):
        batches, at = [], draw.randrange(len(pool))
        for _ in range(BATCHES):
            flat = []
            for at in range(at, at + TOKENS // BATCHES):
                row = [math.exp(a + b) for a, b in zip(logs, pool[at % len(pool)])]
                total = sum(row)
                flat.extend(v / total for v in row)
            batches.append((ctypes.c_float * len(flat))(*flat))
        yield batches
        logs = [DRIFT * v + math.sqrt(1 - DRIFT ** 2) * draw.gauss(0, DEVIATION) for v in logs]


# ---- the fleet ----

def layer_of(fleet):
    """What `experts` says of its layer, or None."""
    layers = fleet.ask("experts")["layers"]
    return layers[0] if layers else None


class Watch:
    """Means over the iterations after the first WARM_UP."""

    def __init__(self, fleet):
        self.fleet, self.first, self.hosts, self.moved = fleet, None, None, []

    def look(self):
        layer = layer_of(self.fleet)
        if layer is None or layer["iterations"] < WARM_UP:
            return
        self.first = self.first or layer
        self.last = layer
        hosts = {(e["expert"], h) for e in layer["experts"] for h in e["hosts"]}
        if self.hosts is not None:
            self.moved.append(len(hosts - self.hosts))
        self.hosts = hosts

    def result(self):
        n = self.last["iterations"] - self.first["iterations"]
        parts = {p: (self.last["parts_s"][p] - self.first["parts_s"][p]) / n for p in PARTS}
        visits = [b["visits"] - a["visits"] for a, b in zip(self.first["experts"], self.last["experts"])]
        return {"iterations": n, "iteration_s": sum(parts.values()), **parts,
                "busiest_share": max(visits) / sum(visits)}


def run_drift(args, fleet, seed):
    trainer, watch = Trainer(args.library, fleet.gateway), Watch(fleet)
    for batches in drifting_scores(seed, WARM_UP + args.iterations):
        trainer.step(batches)
        watch.look()
    trainer.so.smoe_client_close(trainer.client)
    return {**watch.result(), "moved": statistics.mean(watch.moved)}


def run_images(args, fleet, seed):
    watch = Watch(fleet)
    line = [f"{args.bin}/stablemoe-train", "--gateway", fleet.gateway, "--dataset", "fashion-mnist", "--epochs",
            str(EPOCHS), "--batch", "2048", "--parts", "2", "--limit", str(IMAGES), "--d-model", str(WIDTH), "--d-ff",
            str(HIDDEN), "--experts", str(EXPERTS), "--balance", "0", "--seed", str(seed), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as trainer:
        while trainer.poll() is None:
            time.sleep(0.05)
            watch.look()
        out, err = trainer.communicate()
    if trainer.returncode:
        raise RuntimeError(err)
    losses = [float(loss) for loss in re.findall(r"^epoch .* loss (\S+)  test", err, re.M)]
    return {**watch.result(), "losses": losses, "accuracy": json.loads(out).get("test_accuracy")}


def run(args, key):
    work, fleet, rule, seed = key
    speeds = [speed * args.cores for speed in FLEETS[fleet]]
    settings = ["routing.policy=lyapunov-strict", f"placement.rule={rule}"]
    with Fleet(args.bin, speeds, SLOTS, settings) as running:
        found = {"drift": run_drift, "images": run_images}[work](args, running, seed)
    return {"work": work, "fleet": fleet, "rule": rule, "seed": seed, "cores": args.cores, **found}


# ---- all of them ----

def kept(path):
    """{(work, fleet, rule, seed): result} of earlier runs."""
    try:
        with open(path, encoding="utf-8") as lines:
            return {(r["work"], r["fleet"], r["rule"], r["seed"]): r for r in map(json.loads, lines)}
    except FileNotFoundError:
        return {}


def make_runs(args, runs):
    order = [(w, f, r, s) for s in args.seeds for w in args.work for f in args.fleets for r in RULES]
    missing = [key for key in order if key not in runs][:args.most]
    began = time.monotonic()
    for i, key in enumerate(missing):
        r = runs[key] = run(args, key)
        with open(args.keep, "a", encoding="utf-8") as out:
            out.write(json.dumps(r) + "\n")
        left = (time.monotonic() - began) / (i + 1) * (len(missing) - i - 1)
        print(f"{i + 1}/{len(missing)} {key}: {1e3 * r['iteration_s']:.1f} ms an iteration, of it placing "
              f"{1e3 * r['placing']:.2f}; {left:.0f} s to go", file=sys.stderr)


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else 0


def print_table(args, runs, work, fleet):
    seeds = [s for s in args.seeds if all((work, fleet, r, s) in runs for r in RULES)]
    if not seeds:
        return
    shares = [runs[work, fleet, "static", s]["busiest_share"] for s in seeds]
    print(f"\n{work}, {fleet} workers, {len(seeds)} seeds; the busiest expert had {statistics.mean(shares):.2f} of all visits\n")
    print("| rule | ms an iteration (sd) | against static (sd) | computing | stepping | placing | weights | placing |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for rule in RULES:
        found = [runs[work, fleet, rule, s] for s in seeds]
        whole = [1e3 * r["iteration_s"] for r in found]
        ratio = [r["iteration_s"] / runs[work, fleet, "static", s]["iteration_s"] - 1 for r, s in zip(found, seeds)]
        parts = [statistics.mean(1e3 * r[p] for r in found) for p in PARTS]
        print(f"| {rule} | {statistics.mean(whole):.1f} ({spread(whole):.1f}) | {100 * statistics.mean(ratio):+.1f} % "
              f"({100 * spread(ratio):.1f}) | " + " | ".join(f"{p:.2f}" for p in parts) +
              f" | {100 * parts[2] / sum(parts):.2f} % |")


def print_losses(args, runs, fleet):
    """Mean losses of epochs: the rules make the same steps, but for the order of sums."""
    seeds = [s for s in args.seeds if all(("images", fleet, r, s) in runs for r in RULES)]
    if len(seeds) < 2:
        return
    curves = {(r, s): runs["images", fleet, r, s]["losses"] for r in RULES for s in seeds}
    apart = max(abs(a - b) for r in RULES for s in seeds for a, b in zip(curves[r, s], curves["static", s]))
    between = min(max(losses) - min(losses) for losses in zip(*(curves["static", s] for s in seeds)))
    print(f"\nimages, {fleet} workers: losses of epochs differ by at most {apart:.4f} between rules, and from seed to seed "
          f"by at least {between:.4f} ({len(seeds)} seeds)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", required=True, metavar="FILE", help="results, one JSON object a line")
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--library", default="build/release/lib/libstablemoe.so")
    parser.add_argument("--cores", type=float, default=1.2, help="that all workers together may use; at most 1.2")
    parser.add_argument("--work", nargs="+", choices=["drift", "images"], default=["drift", "images"])
    parser.add_argument("--fleets", nargs="+", choices=list(FLEETS), default=list(FLEETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=60, help="of drift that are counted")
    parser.add_argument("--most", type=int, default=1 << 30, metavar="N", help="runs made now; the rest another time")
    args = parser.parse_args()
    if not 0 < args.cores <= 1.2:
        parser.error("--cores: above 0, at most 1.2")
    runs = kept(args.keep)
    make_runs(args, runs)
    for work in args.work:
        for fleet in args.fleets:
            print_table(args, runs, work, fleet)
    for fleet in args.fleets:
        print_losses(args, runs, fleet)


if __name__ == "__main__":
    main()
