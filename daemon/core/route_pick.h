/* SPDX-License-Identifier: Apache-2.0
 *
 * The hot pass of routing: for every token its K cheapest experts at given prices, and how many tokens
 * each expert gets. Every solver's time is this loop, so it stands alone, behind one function that a
 * vector kernel can replace: the results are comparisons of single IEEE operations and integer counts,
 * hence equal bit for bit whatever the order in which they are made.
 */
#ifndef SMOE_CORE_ROUTE_PICK_H
#define SMOE_CORE_ROUTE_PICK_H

#include <stdint.h>

struct smoe_route_pick {
    uint32_t n_tokens;   /* N */
    uint32_t n_experts;  /* E */
    uint32_t top_k;      /* K, 1..SMOE_TOP_K_MAX, at most the number of finite prices */
    const float *scores; /* [N, E], finite */
    double
        weight; /* >= 0, finite: cost of expert e for token i = prices[e] - weight * scores[i, e] */
    const double *prices; /* [E], +inf: not on offer; never -inf or NaN */
    double *row;          /* [E] working memory */

    uint16_t *chosen;    /* [N, K] out: rising cost, of equals the lowest index first */
    uint16_t *runner_up; /* [N] out: the (K+1)-th, SMOE_ROUTE_NONE if none is on offer */
    double *cutoff;      /* [N] out: cost of the K-th */
    double *margin;      /* [N] out: cost of the runner-up minus cutoff, >= 0; +inf if none */
    uint32_t *loads;     /* [E] out: tokens that chose e */
};

void smoe_route_pick(const struct smoe_route_pick *pick);

#endif
