/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SMOE_BENCH_BENCH_LP_H
#define SMOE_BENCH_BENCH_LP_H

#include "bench/bench.h"

/* The exact solve against CLP (peers/clp_route.c) on the same slots. Part of `route`. 0, or a code. */
int smoe_bench_lp(struct smoe_bench *bench, struct smoe_why *why);

#endif
