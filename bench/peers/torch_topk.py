#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The peer of `stablemoe-bench route`: torch.topk over the very scores that our pass and solve work on.

One thread, on the core it was started on. Speaks bench/rival.h: `topk TOKENS NODES TOP_K ROWS SLOT CALLS`
takes the K largest of every row of CALLS successive slots, and answers with the CPU time and the sum of what
the last call chose. The argument is the descriptor of the memory.

Written to be fast: results go into tensors that exist, unsorted, and the slots' views are made outside the
time that is reported. It chooses by the scores alone; prices, loads and the runner-up are ours.

Exits 77 if torch is not installed.
"""

import mmap
import os
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # torch.set_num_threads does not bound OpenBLAS

try:
    import numpy
    import torch
except ImportError:
    sys.exit(77)


def start(rows, slot, tokens):
    """As smoe_scores_start of bench/scores.c."""
    return slot * tokens % (rows - tokens + 1) & ~15


def topk(memory, tokens, nodes, top_k, rows, slot, calls):
    scores = torch.from_numpy(memory[:rows * nodes]).view(rows, nodes)
    firsts = {start(rows, slot + i, tokens) for i in range(min(calls, rows))}
    slots = {first: scores[first:first + tokens] for first in firsts}
    turns = [slots[start(rows, slot + i, tokens)] for i in range(calls)]
    out = (torch.empty(tokens, top_k), torch.empty(tokens, top_k, dtype=torch.int64))
    began = time.process_time_ns()  # of all threads
    for turn in turns:
        torch.topk(turn, top_k, dim=1, largest=True, sorted=False, out=out)
    ns = time.process_time_ns() - began
    return ns, out[0].sum(dtype=torch.float64).item()


def threads():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Threads:"))


def main():
    torch.set_num_threads(1)
    shared = mmap.mmap(int(sys.argv[1]), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    memory = numpy.frombuffer(shared, dtype=numpy.float32)
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        if word != "topk" or len(numbers) != 6:
            sys.exit(f"{line.strip()}: not understood")
        with torch.inference_mode():
            ns, value = topk(memory, *map(int, numbers))
        if threads() > 1:
            sys.exit("torch has started a second thread: the comparison would not be one of cores")
        print(ns, repr(value), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
