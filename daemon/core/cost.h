/* SPDX-License-Identifier: Apache-2.0
 *
 * The cost of giving n more visits to one node in one slot: Phi_j(n) of MODEL.md (10) and (11), with the
 * served visits D already chosen best. Pure; integer-convex in n, also in floating point: the price of
 * each further visit is computed by itself, never as a difference of two large costs.
 */
#ifndef SMOE_CORE_COST_H
#define SMOE_CORE_COST_H

#include <stdint.h>

#include "daemon/core/cost_power.h"

enum smoe_cost_mode {
    SMOE_COST_EXACT,  /* mode X: exact quadratic drift (ours) */
    SMOE_COST_LINEAR, /* mode L: the paper's linear bound (Stable-MoE, section III) */
};

/* What the slot's problem knows of one node. */
struct smoe_node {
    double backlog;    /* Q: visit equivalents at slot start, owed backward shares included; >= 0 */
    double executable; /* part of `backlog` that could run now, 0..backlog [visit] */
    double penalty;    /* V: weight of throughput + consistency against drift, > 0 */
    double energy_price; /* a = zeta Z kappa c^3 / tau^2, so that energy costs a D^3; >= 0 */
    /* Or, where the machine's curve is known, energy_price = zeta Z tau, and energy costs that times
     * P(D visit_hz) - P(0). NULL: the cube. Borrowed. */
    const struct smoe_power_curve *power;
    double visit_hz;       /* c / tau: the frequency that one visit in the slot asks for */
    double service_max;    /* Dhat: most visits the slot can finish, an integer >= 0 */
    uint32_t arrivals_max; /* cap on n: 0 for a drained or dead node, credit otherwise */
};

/* Phi(n), less the constant Q^2/2 that no decision changes: the slot's drift itself, minus V D, plus
 * the price of energy. If ret_served is not NULL it gets the minimising D (an integer,
 * 0..min(executable+n, Dhat), rounded down where `executable` is fractional; of equals the largest).
 * n >= 0, an integer; the cap is not looked at. */
double smoe_cost(const struct smoe_node *node, enum smoe_cost_mode mode, double n,
                 double *ret_served);

/* Phi(n+1) - Phi(n): the price of one more visit after n; +inf from arrivals_max on. Nondecreasing in n. */
double smoe_cost_marginal(const struct smoe_node *node, enum smoe_cost_mode mode, uint32_t n);

/* The inverse: the most visits, each no dearer than `price`, at most `limit` and arrivals_max. That is
 * the largest n with marginal(n-1) <= price, 0 if there is none. */
uint32_t smoe_cost_supply(const struct smoe_node *node, enum smoe_cost_mode mode, double price,
                          uint32_t limit);

#endif
