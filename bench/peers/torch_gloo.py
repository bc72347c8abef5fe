#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The peer of `stablemoe-bench train`: an expert-parallel Mixture-of-Experts layer in torch with gloo.

Two ranks, one thread each. Each takes half of every batch, encodes it (784 -> 64, ReLU), gates it
(softmax, top-2 of 8), sends its visits to the rank that has the expert, gets the outputs back, and
trains; four experts of 64-256-64 live on each rank. Gradients of what both ranks have are summed by one
all-reduce of one flat buffer; experts stay where they are. AdamW on everything.

Written to be fast:
- one all-to-all each way and pass, of a size that both sides know (the worst case, all visits to one
  rank), so that no counts have to be exchanged first: at these sizes a collective costs more than bytes;
- the expert's number travels in the row, as one more column;
- rows are sorted by expert once, so that each expert is three kernels on a contiguous slice;
- the optimizer is torch's fused multi-tensor form, the data lie in memory as normalised floats;
- no clipping, no logging, no loss read back inside the timed loop.

Prints {"samples_per_second": ..., ...}. Exits 77 if torch is not installed.
"""

import argparse
import gzip
import json
import os
import socket
import subprocess
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # torch.set_num_threads does not bound OpenBLAS

try:
    import numpy
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
except ImportError:
    sys.exit(77)

DATA = "/usr/share/datasets/fashion-mnist"
RANKS, EXPERTS, TOP_K = 2, 8, 2
LOCAL = EXPERTS // RANKS
D, H, PIXELS, CLASSES = 64, 256, 784, 10
BALANCE = 0.01
WARM_UP = 20  # steps before the clock starts


def load(images):
    def read(name, header):
        with gzip.open(f"{DATA}/{name}.gz") as f:
            return numpy.frombuffer(f.read(), numpy.uint8, offset=header)
    x = read("train-images-idx3-ubyte", 16)[:images * PIXELS].reshape(-1, PIXELS)
    y = read("train-labels-idx1-ubyte", 8)[:images]
    x = torch.from_numpy(x.astype(numpy.float32)).div_(255)
    return (x - x.mean()) / x.std(), torch.from_numpy(y.astype(numpy.int64))


class Exchange(torch.autograd.Function):
    """All-to-all of equal parts; its gradient is the same exchange."""

    @staticmethod
    def forward(ctx, rows):
        out = torch.empty_like(rows)
        dist.all_to_all_single(out, rows)
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad)
        dist.all_to_all_single(out, grad.contiguous())
        return out


class Model(torch.nn.Module):
    def __init__(self, rank):
        super().__init__()
        torch.manual_seed(1)  # what both ranks have begins alike
        self.encoder = torch.nn.Linear(PIXELS, D)
        self.gate = torch.nn.Linear(D, EXPERTS, bias=False)
        self.head = torch.nn.Linear(D, CLASSES)
        self.shared = [p for m in (self.encoder, self.gate, self.head) for p in m.parameters()]
        torch.manual_seed(2 + rank)
        self.w_in = torch.nn.ParameterList(torch.randn(H, D) * (2 / D) ** 0.5 for _ in range(LOCAL))
        self.b_in = torch.nn.ParameterList(torch.zeros(H) for _ in range(LOCAL))
        self.w_out = torch.nn.ParameterList(torch.zeros(D, H) for _ in range(LOCAL))
        self.b_out = torch.nn.ParameterList(torch.zeros(D) for _ in range(LOCAL))

    def experts(self, rows):
        """rows [R, D+1]: the last column is the local expert, or LOCAL where there is no visit."""
        with torch.no_grad():
            of = rows[:, D].to(torch.int64)
            order = torch.argsort(of)
            counts = torch.bincount(of, minlength=LOCAL + 1).tolist()
        parts = rows[:, :D].index_select(0, order).split(counts)
        out = [F.linear(F.relu(F.linear(parts[e], self.w_in[e], self.b_in[e])),
                        self.w_out[e], self.b_out[e]) for e in range(LOCAL)]
        out.append(torch.zeros_like(parts[LOCAL]))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.cat(out).index_select(0, back)

    def forward(self, x):
        n = len(x)
        h = F.relu(self.encoder(x))
        g = F.softmax(self.gate(h), dim=1)
        weight, chosen = g.topk(TOP_K, dim=1)
        with torch.no_grad():
            e = chosen.flatten()
            owner = e // LOCAL
            # Place of each visit: its owner's part, then its turn among that owner's visits.
            mask = F.one_hot(owner, RANKS)
            turn = (mask.cumsum(0) - mask).gather(1, owner[:, None]).squeeze(1)
            place = owner * (n * TOP_K) + turn
            number = (e % LOCAL).to(h.dtype)[:, None]
        rows = torch.cat([h.repeat_interleave(TOP_K, dim=0), number], dim=1)
        empty = torch.zeros(RANKS * n * TOP_K, D + 1)
        empty[:, D] = LOCAL
        sent = empty.index_copy(0, place, rows)
        y = Exchange.apply(self.experts(Exchange.apply(sent))).index_select(0, place)
        mixed = (y.view(n, TOP_K, D) * weight[:, :, None]).sum(1)
        load_share = torch.bincount(e, minlength=EXPERTS).to(h.dtype) / (n * TOP_K)
        balance = EXPERTS * (load_share * g.mean(0)).sum()
        return self.head(h + mixed), balance


def train(rank, batch, images, address):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=RANKS)
    x, y = load(images)
    model = Model(rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, foreach=True)
    flat = torch.zeros(sum(p.numel() for p in model.shared))
    views = flat.split([p.numel() for p in model.shared])
    half = batch // RANKS
    steps = len(x) // batch
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))

    def step(i):
        at = order[i * batch + rank * half:i * batch + (rank + 1) * half]
        optimizer.zero_grad(set_to_none=True)
        logits, balance = model(x[at])
        loss = F.cross_entropy(logits, y[at]) / RANKS + BALANCE * balance / RANKS
        loss.backward()
        torch.cat([p.grad.flatten() for p in model.shared], out=flat)
        dist.all_reduce(flat)
        for p, v in zip(model.shared, views):
            p.grad = v.view_as(p)
        optimizer.step()
        return loss

    for i in range(min(WARM_UP, steps)):
        step(i)
    dist.barrier()
    began = time.perf_counter()
    for i in range(steps):
        loss = step(i)
    dist.barrier()
    seconds = time.perf_counter() - began
    if rank == 0:
        print(json.dumps({"samples_per_second": steps * batch / seconds, "seconds": seconds,
                          "batch": batch, "steps": steps, "loss": float(loss) * RANKS,
                          "torch": torch.__version__}))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--batch", type=int, default=64, help="images of one optimizer step, both ranks")
    p.add_argument("--images", type=int, default=20000, help="images to train on, once")
    p.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    p.add_argument("--address", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.rank is not None:
        train(a.rank, a.batch, a.images, a.address)
        return 0
    address = f"tcp://127.0.0.1:{free_port()}"
    ranks = [subprocess.Popen([sys.executable, "-B", __file__, "--batch", str(a.batch), "--images",
                               str(a.images), "--rank", str(r), "--address", address])
             for r in range(RANKS)]
    codes = [r.wait() for r in ranks]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
