/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot's problem as the textbooks solve it: a min-cost flow by successive shortest paths, one visit
 * at a time. Slow, and an independent opinion of what the optimum is.
 */
#ifndef SMOE_BENCH_FLOW_H
#define SMOE_BENCH_FLOW_H

#include "daemon/core/route.h"

/* The least objective of the problem (expert e on node e alone, room for every token). 0, or
 * SMOE_ENOMEMORY. */
int smoe_flow_solve(const struct smoe_route_problem *problem, double *ret_value);

#endif
