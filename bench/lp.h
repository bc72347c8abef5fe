/* SPDX-License-Identifier: Apache-2.0
 *
 * The slot's problem as a linear program, in memory that bench/peers/clp_route.c reads too.
 *
 *     minimise   sum_ij -w_ij x_ij + sum_s cost_s y_s
 *     subject to sum_j x_ij = K                        each token i                0 <= x_ij <= 1
 *                sum_i x_ij = sum_{s of j} y_s         each node j                 0 <= y_s <= length_s
 *
 * A segment s is a run of visits at one node with equal marginal cost; convexity fills cheap ones first.
 * The matrix is totally unimodular, so the program's optimum is the solve's. Costs are of the objective
 * without its constant sum_j Phi_j(0).
 */
#ifndef SMOE_BENCH_LP_H
#define SMOE_BENCH_LP_H

#include <stdint.h>

struct smoe_lp_segment {
    double cost;
    uint32_t node;
    uint32_t length; /* [visits] */
};

/* At the start; then the segments, node by node, then scores [N, J]. */
struct smoe_lp {
    uint32_t n_tokens, n_nodes, top_k, n_segments;
    double score_weight; /* w_ij = score_weight * scores[i, j] */
};

static inline const struct smoe_lp_segment *smoe_lp_segments(const struct smoe_lp *lp)
{
    return (const struct smoe_lp_segment *)(lp + 1);
}

static inline const float *smoe_lp_scores(const struct smoe_lp *lp)
{
    return (const float *)(smoe_lp_segments(lp) + lp->n_segments);
}

#endif
