/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SMOE_BENCH_PICK_H
#define SMOE_BENCH_PICK_H

#include "bench/bench.h"

/* One hot pass of the solve (daemon/core/route_pick.h) against reading the scores once. Part of `route`.
 * 0 or SMOE_ENOMEMORY. */
int smoe_bench_pick(struct smoe_bench *bench);

#endif
