/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SMOE_BENCH_BENCH_GRID_H
#define SMOE_BENCH_BENCH_GRID_H

#include "bench/bench.h"

/* One pass and one warm solve at every size, against reading the scores and torch.topk. Part of `route`. 0, or
 * a code. */
int smoe_bench_grid(struct smoe_bench *bench, struct smoe_why *why);

#endif
