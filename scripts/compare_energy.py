#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Joules a sample at equal accuracy: budgets and the solve's frequencies, every worker at full speed, and the
baselines at the constant frequency that their budgets sustain. Prints what docs/results.md shows.

    scripts/compare_energy.py --keep runs.jsonl simulated       training in virtual time, cubes and duty cycles
    scripts/compare_energy.py --keep runs.jsonl real [NAME]     stablemoe-train, four workers, duty cycle, model meter
    scripts/compare_energy.py --keep runs.jsonl slowed          one of them is stopped for three quarters of the time
    scripts/compare_energy.py --keep runs.jsonl table

Results are kept in a file, one line a run, and runs that are there are not made again.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

KAPPA, FREQ_MAX, CYCLES, TOKENS = 2e-27, 3e9, 1e7, 317  # the paper's machines; load 0.7 of their budgets
FULL_W = KAPPA * FREQ_MAX ** 3
BUDGETS = [1.5 + 8 / 9 * j for j in range(10)]
SIMULATED = [  # name, power, budgets?, policy
    ("lyapunov, budgets", True, "lyapunov"),
    ("queue-jsq, constant", True, "queue-jsq"),
    ("topk, constant", True, "topk"),
    ("lyapunov, full speed", False, "lyapunov"),
    ("queue-jsq, full speed", False, "queue-jsq"),
    ("topk, full speed", False, "topk"),
]
SPEEDS = [0.5, 0.25, 0.125, 0.125]
WATTS, PART = 40, 0.6  # of a core; of that, the budget
REAL = {  # name: policy, option of the workers that limits them
    "lyapunov, budgets": ("lyapunov", "--budget"),
    "queue-jsq, constant": ("queue-jsq", "--cap"),
    "topk, constant": ("topk", "--cap"),
    "lyapunov, full speed": ("lyapunov", None),
    "topk, full speed": ("topk", None),
}
MODEL = ["--dataset", "fashion-mnist", "--experts", "8", "--top-k", "2", "--d-model", "128", "--d-ff", "1024",
         "--balance", "0.05", "--seed", "1", "--json", "--quiet"]


# ---- kept ----

def kept(path):
    """{(kind, name): result} of earlier runs."""
    try:
        with open(path, encoding="utf-8") as lines:
            return {(run["kind"], run["name"]): run for run in map(json.loads, lines)}
    except FileNotFoundError:
        return {}


def keep(path, kind, name, result):
    with open(path, "a", encoding="utf-8") as out:
        out.write(json.dumps({"kind": kind, "name": name, **result}) + "\n")


# ---- in virtual time ----

def scenario(power, budgets):
    """The paper's fleet. A duty cycle gets the power that pays for as many visits as the cube's budget does."""
    watts = [b if power == "cube" else FULL_W * (b / FULL_W) ** (1 / 3) for b in BUDGETS]
    lists = f"budgets = {' '.join(f'{w:.4g}' for w in watts)}\n" if budgets else ""
    return (f"[fleet]\nworkers = 10\nfreq_max = {FREQ_MAX:g}\ncycles = {CYCLES:g}\nkappa = {KAPPA:g}\npower = {power}\n"
            f"{lists}[tokens]\nnumber = {TOKENS}\n[gate]\nexperts = 10\ntop_k = 3\nranks = 7 2 9 0 5 3 8 1 6 4\n"
            "[routing]\nslot = 1s\nv = 50\n")


def simulate(args, power, budgets, policy):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(scenario(power, budgets))
        file.flush()
        line = [f"{args.bin}/stablemoe-sim", "run", "--train", "--scenario", file.name, "--policy", policy, "--seeds",
                args.seeds, "--slots", "150", "--json"]
        run, = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)["policies"]
    return {"joules_to": run["joules_to_80_percent"], "slots_to": run["slots_to_80_percent"],
            "joules_a_sample": run["joules_per_token"], "accuracy": run["test_accuracy"][-1]["mean"],
            "overdraft": run["energy_overdraft"], "complete": run["complete_per_slot"]}


def simulate_all(args, runs):
    for power in ("cube", "line"):
        for name, budgets, policy in SIMULATED:
            if (power, name) not in runs:
                keep(args.keep, power, name, simulate(args, power, budgets, policy))


# ---- real ----

class Fleet:
    """A gateway and four workers; ends with the block."""

    def __init__(self, args, policy, limit):
        self.args, self.policy, self.limit, self.children = args, policy, limit, []

    def start(self, *line):
        log = open(os.path.join(self.dir.name, "log"), "a", encoding="utf-8")  # closed with the process
        child = subprocess.Popen(line, stderr=log)
        log.close()
        self.children.append(child)
        return child

    def listening(self):
        for _ in range(200):
            with open(os.path.join(self.dir.name, "log"), encoding="utf-8") as log:
                words = log.read().split()
            found = dict(w.split("=", 1) for w in words if "=" in w)
            if "peers" in found and "status" in found:
                return found["peers"], found["status"].split(":")
            time.sleep(0.05)
        raise RuntimeError("stablemoed does not listen")

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory()
        self.start(f"{self.args.bin}/stablemoed", "--state-dir", f"{self.dir.name}/gateway", "--listen", "127.0.0.1:0",
                   "--status", "127.0.0.1:0", "--set", f"routing.policy={self.policy}", "--set", "fleet.workers_min=4",
                   "--set", "security.insecure=loopback-only")
        self.gateway, self.status = self.listening()
        for i, speed in enumerate(SPEEDS):
            limits = [self.limit, f"{PART * WATTS * speed:g}"] if self.limit else []
            self.start(f"{self.args.bin}/stablemoe-worker", "--gateway", self.gateway, "--id", f"w{i}", "--speed",
                       str(speed), "--watts", str(WATTS), "--freq-driver", "duty", "--energy-meter", "model",
                       "--state-dir", f"{self.dir.name}/w{i}", *limits)
        return self

    def __exit__(self, *unused):
        for child in reversed(self.children):
            child.send_signal(signal.SIGCONT)
            child.terminate()
            child.wait()
        self.dir.cleanup()

    def workers(self):
        with socket.create_connection((self.status[0], int(self.status[1]))) as s:
            s.sendall(b"workers\n")
            s.shutdown(socket.SHUT_WR)
            text = b"".join(iter(lambda: s.recv(65536), b""))
        return sorted(json.loads(text)["workers"], key=lambda w: w["id"])

    def train(self, *more):
        return [f"{self.args.bin}/stablemoe-train", "--gateway", self.gateway, *MODEL, *more]


def over_budget(workers, seconds):
    return max(w["joules"] / seconds / (PART * WATTS * s) for w, s in zip(workers, SPEEDS))


def real(args, name):
    policy, limit = REAL[name]
    with Fleet(args, policy, limit) as fleet:
        began = time.monotonic()
        out = subprocess.run(fleet.train("--epochs", "2", "--batch", "512"), check=True, capture_output=True, text=True)
        seconds, workers = time.monotonic() - began, fleet.workers()
    run = json.loads(out.stdout)
    return {"joules_a_sample": sum(w["joules"] for w in workers) / run["samples"], "accuracy": run["test_accuracy"],
            "samples_a_second": run["samples_per_second"], "to_budget": over_budget(workers, seconds),
            "sources": sorted({w["energy_source"] for w in workers})}


def stop_mostly(pid, part, over):
    """Lets a process run for that part of the time, in turns of 32 ms."""
    while not over.is_set():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.032 * (1 - part))
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.032 * part)


def slowed(args):
    """Rates of visits before and after worker 1 gets a quarter of the processor time it had; all have budgets."""
    with Fleet(args, "lyapunov", "--budget") as fleet:
        trainer = fleet.start(*fleet.train("--epochs", "100", "--batch", "4096"))
        over, marks = threading.Event(), []
        pid = fleet.children[2].pid
        slower = threading.Thread(target=stop_mostly, args=(pid, SPEEDS[1] * PART / 4, over))
        for at, pause in enumerate((10, 12, 6, 16)):
            time.sleep(pause)
            marks.append((time.monotonic(), fleet.workers()))
            if at == 1:
                slower.start()
        over.set()
        slower.join()
        trainer.terminate()
    rate, power = [], []
    for (t0, before), (t1, after) in ((marks[0], marks[1]), (marks[2], marks[3])):
        rate.append(sum(a["visits_done"] - b["visits_done"] for a, b in zip(after, before)) / (t1 - t0))
        power.append(max((a["joules"] - b["joules"]) / (t1 - t0) / (PART * WATTS * s)
                         for a, b, s in zip(after, before, SPEEDS)))
    return {"kept": rate[1] / rate[0], "share": 1 - SPEEDS[1] * 3 / 4, "to_budget": power,
            "efficiency": [marks[k][1][1]["efficiency"] for k in (1, 3)]}


# ---- the table ----

def mean(values):
    found = [v for v in values if v is not None]
    return statistics.mean(found) if len(found) == len(values) else None


def table(runs):
    for power in ("cube", "line"):
        full = mean(runs[(power, "lyapunov, full speed")]["joules_to"])
        print(f"| {'voltage follows: kappa f^3' if power == 'cube' else 'duty cycle: a line'} | J to 80 % | of full speed "
              "| slots to 80 % | J a sample | accuracy | samples a slot | over budget |\n|---|---:|---:|---:|---:|---:|---:|---:|")
        for name, budgets, _ in SIMULATED:
            run = runs[(power, name)]
            to = mean(run["joules_to"])
            shown = f"{to:.0f} | {to / full:.2f} | {mean(run['slots_to']):.0f}" if to else "never | | never"
            over = f"{100 * run['overdraft']:.1f} %" if budgets else ""
            print(f"| {name} | {shown} | {run['joules_a_sample']:.3f} | {run['accuracy']:.3f} | {run['complete']:.0f} | {over} |")
        print()
    print("| real, duty cycle, model meter | mJ a sample | of full speed | accuracy | samples/s | most power to budget |\n"
          "|---|---:|---:|---:|---:|---:|")
    full = runs[("real", "lyapunov, full speed")]["joules_a_sample"]
    for name, (_, limit) in REAL.items():
        run = runs[("real", name)]
        over = f"{run['to_budget']:.2f}" if limit else ""
        print(f"| {name} | {1e3 * run['joules_a_sample']:.2f} | {run['joules_a_sample'] / full:.2f} | {run['accuracy']:.3f} | "
              f"{run['samples_a_second']:.0f} | {over} |")
    if ("real", "slowed") in runs:
        run = runs[("real", "slowed")]
        print(f"\nslowed to a quarter: {run['kept']:.3f} of the throughput is left, {run['share']:.3f} of the capacity; "
              f"most power to budget {run['to_budget'][0]:.2f}, then {run['to_budget'][1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulated", "real", "slowed", "table"])
    parser.add_argument("name", nargs="?", choices=list(REAL))
    parser.add_argument("--keep", required=True)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--seeds", default="1..3")
    args = parser.parse_args()
    runs = kept(args.keep)
    if args.what == "simulated":
        simulate_all(args, runs)
    elif args.what == "slowed":
        keep(args.keep, "real", "slowed", slowed(args))
    elif args.what == "real":
        for name in [args.name] if args.name else REAL:
            if ("real", name) not in runs:
                keep(args.keep, "real", name, real(args, name))
    else:
        table(runs)


sys.exit(main())
