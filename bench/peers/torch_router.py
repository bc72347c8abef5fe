#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The peer of `stablemoe-bench router`: the experts of tokens by a table of scores, in torch.

One thread, on the core it was started on. Speaks bench/rival.h: `topk CODES EXPERTS TOP_K TOKENS CODES_MAX CALLS`
gathers the tokens' rows and takes the K largest, `gather ...` gathers lists that were made beforehand, both with
experts and scores. Answers with the CPU time and the sum of score times (1 + expert) of what was chosen last. The
argument is the descriptor of the memory: float32 scores [CODES_MAX, EXPERTS], uint32 codes [TOKENS].

Written to be fast: results go into tensors that exist, and the tokens' codes are made 64-bit indices, which torch
wants, outside the time that is reported.

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


def run(memory, job, codes, experts, top_k, tokens, codes_max, calls):
    scores = torch.from_numpy(memory[:codes * experts * 4].view(numpy.float32)).view(codes, experts)
    words = memory[codes_max * experts * 4:][:tokens * 4].view(numpy.uint32)
    index = torch.from_numpy(words.astype(numpy.int64))
    rows = torch.empty(tokens, experts)
    out = (torch.empty(tokens, top_k), torch.empty(tokens, top_k, dtype=torch.int64))
    best, expert = torch.topk(scores, top_k, dim=1)
    began = time.process_time_ns()  # of all threads
    for _ in range(calls):
        if job == "topk":
            torch.index_select(scores, 0, index, out=rows)
            torch.topk(rows, top_k, dim=1, out=out)
        else:
            torch.index_select(best, 0, index, out=out[0])
            torch.index_select(expert, 0, index, out=out[1])
    ns = time.process_time_ns() - began
    return ns, (out[0].double() * (1 + out[1])).sum().item()


def main():
    torch.set_num_threads(1)
    shared = mmap.mmap(int(sys.argv[1]), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    memory = numpy.frombuffer(shared, dtype=numpy.uint8)
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        job, *numbers = line.split()
        if job not in ("topk", "gather") or len(numbers) != 6:
            sys.exit(f"{line.strip()}: not understood")
        with torch.inference_mode():
            ns, value = run(memory, job, *map(int, numbers))
        print(ns, repr(value), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
