#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A frozen router on a real fleet with replicas: experts kept (strict), traded (soft), or plain top-k.

    scripts/fleet_consistency.py --keep runs.jsonl                 # makes what is missing, tells how long it will take
    scripts/fleet_consistency.py --keep runs.jsonl --figure docs/figures/consistency_fleet.svg

What scripts/compare_consistency.py shows in virtual time, by a gateway and eight workers of unlike speeds over TCP. A
lane is a fleet of its own. Its trainer, this program through libstablemoe, freezes a table, trains a few steps by codes,
so that the placement learns what the router wants, and then submits batches for evaluation at the times of a Poisson
process, whether those before are answered or not. All lanes see the same codes at the same times. Experts that served a
token are compared here with the table, so agreement is not the gateway's own word.

A load is a share of the capacity: of what `soft` completes when the source never lets it wait. The backlog is all visits
that were offered and not answered, wherever they are: in the source, at the gateway, at a worker.
"""

import argparse
import collections
import ctypes
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from compare_consistency import draw

SPEEDS = [0.08, 0.08, 0.06, 0.06, 0.04, 0.04, 0.02, 0.02]  # of a core; all together less than half of one
SLOTS, EXPERTS, TOP_K, CODES = 4, 16, 2, 512
WIDTH, HIDDEN, BATCH, SKEW = 128, 1024, 512, 0.1
STEPS, STEP_TOKENS, TICKETS = 2, 2048, 3000
SHARDED = ["placement.rule=highest-averages"]
LANES = {  # name: policy, consistency, more settings of the gateway
    "soft": ("lyapunov", "soft", SHARDED),
    "strict": ("lyapunov", "strict", SHARDED),
    "top-k, replicas": ("topk", "soft", SHARDED),
    "top-k, one copy": ("topk", "soft", []),
}
SATURATED = 0  # as a load: the source always has another batch


# ---- libstablemoe ----

class ClientOptions(ctypes.Structure):
    _fields_ = [("gateway", ctypes.c_char_p), ("name", ctypes.c_char_p), ("patience_ms", ctypes.c_uint32),
                ("key_file", ctypes.c_char_p)]


class LayerOptions(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("experts", ctypes.c_uint32), ("d_model", ctypes.c_uint32),
                ("d_ff", ctypes.c_uint32), ("activation", ctypes.c_int), ("optimizer", ctypes.c_int),
                ("seed", ctypes.c_uint64), ("zero_output", ctypes.c_bool), ("evaluate_only", ctypes.c_bool),
                ("wire", ctypes.c_int)]


DONE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class SubmitOptions(ctypes.Structure):
    _fields_ = [("tokens", ctypes.c_uint32), ("top_k", ctypes.c_uint32), ("scores", ctypes.c_void_p),
                ("codes", ctypes.c_void_p), ("features", ctypes.c_void_p), ("x", ctypes.c_void_p),
                ("evaluate", ctypes.c_bool), ("on_done", DONE), ("context", ctypes.c_void_p)]


class FreezeOptions(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint64), ("kind", ctypes.c_int), ("inputs", ctypes.c_uint32),
                ("values", ctypes.c_void_p)]


class StepOptions(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int)] + [(name, ctypes.c_double) for name in (
        "learning_rate", "momentum", "beta1", "beta2", "epsilon", "weight_decay", "gradient_divisor", "clip_norm",
        "dense_square_norm")]


class Layer:
    """The expert layer at a gateway, with its frozen table."""

    def __init__(self, library, gateway, table):
        self.so = ctypes.CDLL(library)
        for name in ("outputs", "experts", "scores"):
            getattr(self.so, f"smoe_ticket_{name}").restype = ctypes.c_void_p
        self.so.smoe_client_error.restype = ctypes.c_char_p
        self.client, self.layer = ctypes.c_void_p(), ctypes.c_void_p()
        self.table, self.choices = table, [best(row) for row in table]
        self.must(self.so.smoe_client_open(ctypes.byref(ClientOptions(gateway.encode(), b"load", 60000, None)),
                                           ctypes.byref(self.client)))
        shape = LayerOptions(b"moe", EXPERTS, WIDTH, HIDDEN, 1, 2, 1, False, False)
        self.must(self.so.smoe_layer_declare(self.client, ctypes.byref(shape), ctypes.byref(self.layer)))
        values = (ctypes.c_float * (CODES * EXPERTS))(*[v for row in table for v in row])
        self.must(self.so.smoe_freeze(self.layer, ctypes.byref(FreezeOptions(1, 1, CODES, ctypes.addressof(values))),
                                      None))
        noise = random.Random(1)
        self.x = (ctypes.c_float * (STEP_TOKENS * WIDTH))(*[noise.gauss(0, 1) for _ in range(STEP_TOKENS * WIDTH)])

    def must(self, rc):
        if rc:
            raise RuntimeError(self.so.smoe_client_error(self.client).decode())

    def submit(self, codes, on_done=None):
        """codes: an array of C. The ticket."""
        ticket = ctypes.c_void_p()
        options = SubmitOptions(len(codes), TOP_K, None, ctypes.addressof(codes), None, ctypes.addressof(self.x),
                                on_done is not None, on_done or DONE(), None)
        self.must(self.so.smoe_submit(self.layer, ctypes.byref(options), ctypes.byref(ticket)))
        return ticket

    def train_step(self, codes):
        dx = ctypes.c_void_p()
        ticket = self.submit(codes)
        self.must(self.so.smoe_wait(ticket))
        dy = (ctypes.c_float * (len(codes) * TOP_K * WIDTH))()
        ctypes.memmove(dy, self.so.smoe_ticket_outputs(ticket), ctypes.sizeof(dy))
        self.must(self.so.smoe_gradient(ticket, dy))
        self.must(self.so.smoe_wait_gradient(ticket, ctypes.byref(dx)))
        self.so.smoe_ticket_release(ticket)
        step = StepOptions(2, 1e-5, 0, 0.9, 0.999, 1e-8, 0, len(codes), 1, 0)
        self.must(self.so.smoe_step(self.client, ctypes.byref(step), None))

    def agreeing(self, ticket, codes):
        """Of its visits, those to the K experts of the largest scores."""
        used = (ctypes.c_uint16 * (len(codes) * TOP_K)).from_address(
            self.so.smoe_ticket_experts(ctypes.c_void_p(ticket)))
        return sum(used[t * TOP_K + k] in self.choices[code] for t, code in enumerate(codes) for k in range(TOP_K))


def best(row):
    return set(sorted(range(EXPERTS), key=lambda e: (-row[e], e))[:TOP_K])


def make_table(seed):
    """softmax(skew * rank + noise), each code once and for all: as sim/scores.c draws its pool."""
    draw = random.Random(seed)
    ranks = draw.sample(range(EXPERTS), EXPERTS)
    table = []
    for _ in range(CODES):
        gates = [2.718281828 ** (SKEW * r + draw.gauss(0, 1)) for r in ranks]
        table.append([g / sum(gates) for g in gates])
    return table


# ---- the fleet ----

class Fleet:
    """A gateway and its workers; ends with the block."""

    def __init__(self, programs, speeds, slots, settings):
        self.programs, self.speeds, self.slots, self.settings, self.children = programs, speeds, slots, settings, []

    def start(self, name, *line):
        with open(os.path.join(self.dir.name, "log"), "a", encoding="utf-8") as log:
            self.children.append(subprocess.Popen(["setpriv", "--pdeathsig", "KILL", f"{self.programs}/{name}", *line],
                                                  stderr=log))

    def listening(self):
        for _ in range(200):
            with open(os.path.join(self.dir.name, "log"), encoding="utf-8") as log:
                found = dict(w.split("=", 1) for w in log.read().split() if "=" in w)
            if "peers" in found and "status" in found:
                return found["peers"], found["status"].split(":")
            time.sleep(0.05)
        raise RuntimeError("stablemoed does not listen")

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory()
        settings = ["security.insecure=loopback-only", "fleet.silence=10s", f"fleet.workers_min={len(self.speeds)}",
                    *self.settings]
        self.start("stablemoed", "--state-dir", f"{self.dir.name}/gateway", "--listen", "127.0.0.1:0", "--status",
                   "127.0.0.1:0", *itertools.chain(*(("--set", s) for s in settings)))
        self.gateway, self.status_port = self.listening()
        for i, speed in enumerate(self.speeds):
            self.start("stablemoe-worker", "--gateway", self.gateway, "--id", f"w{i}", "--speed", f"{speed:.3f}",
                       "--freq-driver", "duty", "--slots", str(self.slots), "--state-dir", f"{self.dir.name}/w{i}")
        return self

    def __exit__(self, *unused):
        for child in reversed(self.children):
            child.terminate()
            child.wait()
        self.dir.cleanup()

    def ask(self, what):
        """What the status port says to that command."""
        with socket.create_connection((self.status_port[0], int(self.status_port[1]))) as s:
            s.sendall(f"{what}\n".encode())
            s.shutdown(socket.SHUT_WR)
            return json.loads(b"".join(iter(lambda: s.recv(65536), b"")))


# ---- one run ----

class Source:
    """Offers batches and keeps account of them."""

    def __init__(self, layer, seed):
        self.layer, self.seed, self.random = layer, seed, random.Random(seed)
        self.waiting, self.done = collections.deque(), []  # (ticket, codes, offered at); (offered at, answered at)
        self.visits = self.agreeing = 0
        self.failed = None
        self.on_done = DONE(self.answered)
        self.out = {}

    def codes(self, n):
        return (ctypes.c_uint32 * n)(*[self.random.randrange(CODES) for _ in range(n)])

    def answered(self, _context, ticket, status):
        """Inside the library: it is released later."""
        if status:
            self.failed = status
        codes, offered = self.out.pop(ticket)
        self.done.append((offered, time.monotonic()))
        self.waiting.append((ticket, codes))

    def offer(self, offered):
        codes = self.codes(BATCH)
        ticket = self.layer.submit(codes, self.on_done)
        self.out[ticket.value] = (codes, offered)

    def poll(self, ms):
        self.layer.must(self.layer.so.smoe_poll(self.layer.client, ms))
        if self.failed:
            raise RuntimeError(f"a batch failed: {self.failed}")
        while self.waiting:
            ticket, codes = self.waiting.popleft()
            self.visits += BATCH * TOP_K
            self.agreeing += self.layer.agreeing(ticket, codes)
            self.layer.so.smoe_ticket_release(ctypes.c_void_p(ticket))


def slope(points):
    """Least squares."""
    t, y = [statistics.mean(column) for column in zip(*points)]
    return sum((a - t) * (b - y) for a, b in points) / sum((a - t) ** 2 for a, b in points)


def drive(source, rate, seconds):
    """Offers `rate` batches a second, or always 12 at a time; [(time, backlog in visits)] each 20 ms."""
    began = time.monotonic()
    due, samples, next_sample = 0.0, [], 0.0
    arrivals = random.Random(source.seed)
    while (now := time.monotonic() - began) < seconds:
        while rate and due <= now and len(source.out) < TICKETS:
            source.offer(began + due)
            due += arrivals.expovariate(rate)
        while not rate and len(source.out) < 12:
            source.offer(time.monotonic())
        if now >= next_sample:
            late = int((now - due) * rate) if rate and due < now else 0  # of a source that ran into its own limit
            samples.append((now, (len(source.out) + late) * BATCH * TOP_K))
            next_sample += 0.02
        source.poll(1)
    return began, samples


def run(args, lane, load, capacity):
    policy, consistency, more = LANES[lane]
    settings = [f"routing.policy={policy}", f"routing.consistency={consistency}", *more]
    with Fleet(args.bin, SPEEDS, SLOTS, settings) as fleet:
        layer = Layer(args.library, fleet.gateway, make_table(args.seed))
        source = Source(layer, args.seed)
        for _ in range(STEPS):
            layer.train_step(source.codes(STEP_TOKENS))
        rate = load * capacity / (BATCH * TOP_K)
        drive(source, rate, args.warm_up)
        source.done.clear()
        source.visits = source.agreeing = 0
        began, samples = drive(source, rate, args.seconds)
        ended = began + args.seconds
        answered = sum(at <= ended for _, at in source.done)
        times = sorted(at - offered for offered, at in source.done)
        status = fleet.ask("status")
        placed = [len(e["hosts"]) for e in status["layers"][0]["experts"]] if LANES[lane][2] else [1] * EXPERTS
        layer.so.smoe_client_close(layer.client)
    half = [p for p in samples if p[0] >= args.seconds / 2]
    return {"lane": lane, "load": load, "seed": args.seed, "visits_per_second": answered * BATCH * TOP_K / args.seconds,
            "offered_per_second": rate * BATCH * TOP_K, "backlog_mean": statistics.mean(b for _, b in samples),
            "backlog_end": samples[-1][1], "backlog_slope": slope(half), "agreement": source.agreeing / source.visits,
            "p50_ms": 1e3 * times[len(times) // 2], "p99_ms": 1e3 * times[len(times) * 99 // 100],
            "replicas": sum(placed), "solves_cut_short": status["solves_cut_short"], "policy": status["policy"],
            "consistency": status["consistency"]}


# ---- all of them ----

def kept(path):
    """{(lane, load, seed): result} of earlier runs."""
    try:
        with open(path, encoding="utf-8") as lines:
            return {(r["lane"], r["load"], r["seed"]): r for r in map(json.loads, lines)}
    except FileNotFoundError:
        return {}


def capacity_of(runs):
    found = [r["visits_per_second"] for (lane, load, _), r in runs.items() if lane == "soft" and load == SATURATED]
    return statistics.mean(found) if found else None


def make_runs(args, runs):
    order = [(lane, SATURATED, s) for s in args.seeds for lane in LANES]
    order += [(lane, load, s) for s in args.seeds for load in args.loads for lane in LANES]
    missing = [key for key in order if key not in runs][:args.most]
    began = time.monotonic()
    for i, key in enumerate(missing):
        lane, load, args.seed = key
        r = runs[key] = run(args, lane, load, capacity_of(runs) or 0)
        with open(args.keep, "a", encoding="utf-8") as out:
            out.write(json.dumps(r) + "\n")
        left = (time.monotonic() - began) / (i + 1) * (len(missing) - i - 1)
        print(f"{i + 1}/{len(missing)} {lane} at {load or 'saturation'}, seed {args.seed}: {r['visits_per_second']:.0f} "
              f"visits/s, backlog {r['backlog_mean']:.0f}, slope {r['backlog_slope']:.0f}/s, agreement "
              f"{r['agreement']:.3f}; {left:.0f} s to go", file=sys.stderr)


def means(args, runs):
    """{(lane, load): means over the seeds that all lanes have been run with}"""
    table = {}
    for load in [*args.loads, SATURATED]:
        seeds = [s for s in args.seeds if all((lane, load, s) in runs for lane in LANES)]
        for lane in LANES if seeds else []:
            found = [runs[lane, load, s] for s in seeds]
            table[lane, load] = {k: statistics.mean(r[k] for r in found) for k, v in found[0].items()
                                 if isinstance(v, (int, float))}
            table[lane, load]["seeds"] = len(seeds)
    return table


def print_table(args, table):
    print("| load | | visits a second | of soft | mean backlog | slope [visits/s] | p50 / p99 [ms] | agreement |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for load in [*args.loads, SATURATED]:
        for lane in LANES:
            if (lane, load) not in table:
                continue
            r = table[lane, load]
            queue = f"{r['backlog_mean']:.0f} | {r['backlog_slope']:.0f} | {r['p50_ms']:.0f} / {r['p99_ms']:.0f}"
            print(f"| {load or 'saturated'} | {lane} | {r['visits_per_second']:.0f} | "
                  f"{r['visits_per_second'] / table['soft', load]['visits_per_second']:.3f} | "
                  f"{queue if load else ' | | '} | {r['agreement']:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", required=True, metavar="FILE", help="results, one JSON object a line")
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--library", default="build/release/lib/libstablemoe.so")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=8, help="that are measured of each run")
    parser.add_argument("--warm-up", type=float, default=1.5, help="seconds before them")
    parser.add_argument("--most", type=int, default=1 << 30, metavar="N", help="runs made now; the rest another time")
    parser.add_argument("--figure", metavar="FILE", help="draw the backlog as SVG (gnuplot)")
    args = parser.parse_args()
    runs = kept(args.keep)
    make_runs(args, runs)
    table = means(args, runs)
    print_table(args, table)
    if args.figure:
        draw(args.figure, "Eight workers over TCP: a frozen router keeps its experts, and the queues stay short",
             {lane: [(load, table[lane, load]["backlog_mean"]) for load in args.loads if (lane, load) in table]
              for lane in LANES})


if __name__ == "__main__":
    main()
