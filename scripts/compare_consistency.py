#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A frozen router on a fleet with replicas: experts kept (strict), traded (soft), or plain top-k.

    scripts/compare_consistency.py --sim build/release/bin/stablemoe-sim --figure docs/figures/consistency.svg

The scenario `frozen` (sim/scenario.c) by load, on the same stream for all: `lyapunov-strict` is what the daemon's
routing.consistency = strict does with tokens that a frozen router has scored, `lyapunov` what soft does; `topk` sends
a visit to the replica with the shortest queue at slot start, on the same replicas and (`--copies 1` of each expert) on
none. Prints a table for docs/results.md and draws the backlog.
"""

import argparse
import json
import statistics
import subprocess

LOADS = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
LANES = [("soft", "lyapunov", "frozen"), ("strict", "lyapunov-strict", "frozen"), ("top-k, replicas", "topk", "frozen"),
         ("top-k, one copy", "topk", None)]
ONE_COPY = """[fleet]
workers = 10
speeds = 1
budgets = 1.5..9.5
caps = 3..15
freq_max = 3e9
cycles = 1e7
kappa = 2e-27
[tokens]
number = 500
[gate]
experts = 16
copies = 1
top_k = 2
skew = 0.1
pool = 512
[routing]
slot = 1s
v = 50
"""


def run(args, policy, scenario, load, seed):
    text = subprocess.run([args.sim, "run", "--scenario", scenario, "--policy", policy, "--load", str(load), "--seed",
                           str(seed), "--slots", str(args.slots), "--json"], check=True, capture_output=True,
                          text=True).stdout
    answer = json.loads(text)
    results = answer["policies"] if "policies" in answer else answer["results"]
    return results[0]


def measure(args):
    """{(lane, load): means over the seeds}"""
    file = f"{args.scratch}/one_copy.ini"
    with open(file, "w", encoding="utf-8") as f:
        f.write(ONE_COPY)
    table = {}
    for name, policy, scenario in LANES:
        for load in LOADS:
            runs = [run(args, policy, scenario or file, load, seed) for seed in range(1, args.seeds + 1)]
            table[name, load] = {key: statistics.mean(r[key] for r in runs) for key in
                                 ("complete_per_slot", "backlog_mean", "backlog_slope", "topk_agreement", "gate_mass")}
    return table


def print_table(table):
    print("| load | | complete a slot | of soft | mean backlog | slope | agreement | gate mass |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for load in LOADS:
        for name, _, _ in LANES:
            r = table[name, load]
            share = r["complete_per_slot"] / table["soft", load]["complete_per_slot"]
            print(f"| {load} | {name} | {r['complete_per_slot']:.1f} | {share:.3f} | {r['backlog_mean']:.0f} | "
                  f"{r['backlog_slope']:.2f} | {r['topk_agreement']:.3f} | {r['gate_mass']:.3f} |")


def draw(path, title, lanes):
    """An SVG of mean backlogs by load: `lanes` are {name: [(load, visits)]}."""
    blocks, plots = [], []
    for i, (name, points) in enumerate(lanes.items()):
        rows = "\n".join(f"{load} {max(visits, 0.1):.2f}" for load, visits in points)
        blocks.append(f"$d{i} << END\n{rows}\nEND")
        plots.append(f"$d{i} with linespoints lw {3 if name == 'strict' else 1.8} title '{name}'")
    script = "\n".join(blocks) + f"""
set terminal svg size 760,460 font 'sans,13' background 'white'
set key left top
set grid lc rgb '#dddddd'
set border lc rgb '#555555'
set logscale y
set output '{path}'
set title '{title}'
set xlabel 'load'
set ylabel 'mean backlog [visits]'
plot {", ".join(plots)}
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sim", required=True, help="the program stablemoe-sim")
    parser.add_argument("--slots", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scratch", default="/tmp", help="directory for a scenario file")
    parser.add_argument("--figure", metavar="FILE", help="draw the backlog as SVG (gnuplot)")
    args = parser.parse_args()
    table = measure(args)
    print_table(table)
    if args.figure:
        draw(args.figure, "A frozen router keeps its experts, and the queues stay short",
             {name: [(load, table[name, load]["backlog_mean"]) for load in LOADS] for name, _, _ in LANES})


if __name__ == "__main__":
    main()
