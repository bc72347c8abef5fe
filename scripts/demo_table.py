#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of scripts/demo.sh: DIR/POLICY.train.json and DIR/POLICY.workers.json."""
import json
import sys

ACCURACY_FLOOR = 0.88


def load(directory, name):
    with open(f"{directory}/{name}.json", encoding="utf-8") as f:
        return json.load(f)


def worker_table(directory, policy, speeds):
    """One row a worker; returns the largest relative distance of a share of visits from that of speed."""
    workers = sorted(load(directory, f"{policy}.workers")["workers"], key=lambda w: w["id"])
    visits = sum(w["visits_done"] for w in workers)
    worst = 0.0
    print(f"policy {policy}")
    print(f"  {'worker':<10}{'speed set':>10}{'of fleet':>10}{'measured':>14}"
          f"{'visits':>10}{'share':>8}{'backlog':>9}")
    for worker, speed in zip(workers, speeds):
        share = worker["visits_done"] / visits
        of_fleet = float(speed) / sum(map(float, speeds))
        worst = max(worst, abs(share / of_fleet - 1))
        print(f"  {worker['id']:<10}{speed:>10}{of_fleet:>10.1%}{worker['visits_per_second']:>12.0f}/s"
              f"{worker['visits_done']:>10}{share:>8.1%}"
              f"{worker['backlog_visits']:>9.1f}")
    return worst


def main():
    directory, speeds = sys.argv[1], sys.argv[2:]
    ours, plain = load(directory, "lyapunov.train"), load(directory, "topk.train")
    worst = worker_table(directory, "lyapunov", speeds)
    print()
    worker_table(directory, "topk", speeds)
    print("\n(of fleet: share of all speed; measured: visits a second while the worker had work, steps included)\n")
    print(f"lyapunov  {ours['samples_per_second']:>8.0f} samples/s   each worker's share of visits is "
          f"within {worst:.0%} of its share of speed")
    print(f"topk      {plain['samples_per_second']:>8.0f} samples/s   bound by its slowest worker; "
          f"lyapunov is {ours['samples_per_second'] / plain['samples_per_second']:.2f} times as fast")
    print(f"test accuracy {ours['test_accuracy']:.4f} after {ours['epochs']} epochs, "
          f"{ours['seconds']:.0f} s of training, {ours['visits']} visits of experts")
    if ours["epochs"] >= 6 and ours["test_accuracy"] < ACCURACY_FLOOR:
        sys.exit(f"demo_table.py: test accuracy {ours['test_accuracy']:.4f} is below {ACCURACY_FLOOR}")


main()
