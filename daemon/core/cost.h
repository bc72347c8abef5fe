/* SPDX-License-Identifier: Apache-2.0
 *
 * The cost of giving n more visits to one node in one slot: Phi_j(n) of MODEL.md section 1, with the
 * served visits D already chosen best. Pure; integer-convex in n.
 */
#ifndef SMOE_CORE_COST_H
#define SMOE_CORE_COST_H

#include <stdint.h>

enum smoe_cost_mode {
    SMOE_COST_EXACT,  /* mode X: exact quadratic drift (ours) */
    SMOE_COST_LINEAR, /* mode L: the paper's linear bound (Stable-MoE, section III) */
};

/* What the slot's problem knows of one node. */
struct smoe_node {
    double backlog;    /* Q: visit equivalents at slot start, owed backward shares included; >= 0 */
    double executable; /* part of `backlog` that could run now, 0..backlog [visit] */
    double penalty;    /* V: weight of throughput + consistency against drift, > 0 */
    double energy_price;   /* a = zeta Z kappa c^3 / tau^2, so that energy costs a D^3; >= 0 */
    double service_max;    /* Dhat: most visits the slot can finish, an integer >= 0 */
    uint32_t arrivals_max; /* cap on n: 0 for a drained or dead node, credit otherwise */
};

/* Phi(n). If ret_served is not NULL it gets the minimising D (an integer, 0..min(executable+n, Dhat),
 * rounded down where `executable` is fractional). n >= 0. */
double smoe_cost(const struct smoe_node *node, enum smoe_cost_mode mode, double n,
                 double *ret_served);

/* Phi(n+1) - Phi(n): the price of one more visit after n; +inf from arrivals_max on. Nondecreasing in n. */
double smoe_cost_marginal(const struct smoe_node *node, enum smoe_cost_mode mode, uint32_t n);

#endif
