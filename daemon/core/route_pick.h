/* SPDX-License-Identifier: Apache-2.0
 *
 * The hot pass of routing: for every token its K cheapest experts at given prices, and how many tokens
 * each expert gets. Every solver's time is this loop, so it stands alone, with a kernel for every vector
 * width: the results are comparisons of single IEEE operations and integer counts, and all kernels give
 * the same bits. Which one runs is asked of the processor at every pass, so nothing is remembered.
 */
#ifndef SMOE_CORE_ROUTE_PICK_H
#define SMOE_CORE_ROUTE_PICK_H

#include <stdbool.h>
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

enum smoe_route_kernel {
    SMOE_ROUTE_SCALAR,   /* one cost after another, in double; the others must equal it */
    SMOE_ROUTE_PORTABLE, /* vectors of 4: SSE2, NEON, whatever the compiler has */
    SMOE_ROUTE_AVX2,
    SMOE_ROUTE_AVX512VL, /* vectors of 8, with the instructions of the next */
    SMOE_ROUTE_AVX512,
    SMOE_ROUTE_KERNELS,
};

/* Can this machine run it? */
bool smoe_route_kernel_runs(enum smoe_route_kernel kernel);

/* The fastest that it can, for rows of that many experts. */
enum smoe_route_kernel smoe_route_kernel_best(uint32_t n_experts);

/* One pass by the best kernel, or by a given one that runs here. */
void smoe_route_pick(const struct smoe_route_pick *pick);
void smoe_route_pick_by(enum smoe_route_kernel kernel, const struct smoe_route_pick *pick);

/* One token by the scalar pass; adds to the loads. */
void smoe_route_pick_token(const struct smoe_route_pick *pick, uint32_t token);

#endif
