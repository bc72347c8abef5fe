/* SPDX-License-Identifier: Apache-2.0
 *
 * The routing problem of one slot and its solvers: which replica serves each token (MODEL.md
 * sections 3 and 4). Pure: arrays in, arrays out, no allocation; the same answer on every machine and
 * compiler.
 *
 *     minimise  sum_j Phi_j(A_j) - sum_{i,e} w_ie x_ie                                  MODEL.md (15)
 *     subject to every routed token visiting K distinct experts, each on one node that holds it.
 *
 * Which tokens are routed. A token is routed whole or not at all: while caps leave it fewer than K
 * experts, its experts are SMOE_ROUTE_NONE and it waits for the next slot. All tokens see the same
 * caps, so only their number is at stake: smoe_route_exact routes the first n_routed tokens, the most
 * that fit, and for these tokens its answer is optimal. It does not choose which tokens wait: for
 * K >= 3 that choice is NP-hard (MODEL.md section 3, remark), and first come, first served is fairer.
 * The other solvers place tokens one by one and skip a token that does not fit.
 */
#ifndef SMOE_CORE_ROUTE_H
#define SMOE_CORE_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/core/cost.h"

/* Inputs, all borrowed for the call. */
struct smoe_route_problem {
    uint32_t n_tokens;   /* N */
    uint32_t n_experts;  /* E, 1..SMOE_EXPERTS_MAX */
    uint32_t n_nodes;    /* J, 1..SMOE_WORKERS_MAX */
    uint32_t top_k;      /* K, 1..min(E, SMOE_TOP_K_MAX) */
    const float *scores; /* [N, E] gate scores g_ie, finite, of any sign and scale; row-major */
    double score_weight; /* V*mu >= 0: w_ie = score_weight * g_ie [visit] */
    const uint32_t
        *replica_first; /* [E+1]: expert e stands on nodes replica_node[first[e]..first[e+1]) */
    const uint32_t *replica_node;  /* node indices, distinct within an expert, rising */
    const struct smoe_node *nodes; /* [J] */
    enum smoe_cost_mode mode;
};

/* Outputs, written into the caller's arrays. */
struct smoe_route_answer {
    uint16_t *expert;   /* [N, K] rising cost of choice is not promised; distinct within a token */
    uint32_t *node;     /* [N, K] undefined where the expert is SMOE_ROUTE_NONE */
    uint32_t *arrivals; /* [J] A_j */
    uint32_t n_routed;  /* tokens that were routed */
    double primal;      /* objective of the answer, over the routed tokens */
    double bound;    /* proven lower bound of it for the same tokens; -inf: the solver gives none */
    bool exact;      /* no negative cycle is left: optimal to rounding */
    uint32_t sweeps; /* price sweeps made */
    uint32_t cycles; /* negative cycles cancelled */
    uint64_t work;   /* scores and arcs looked at, the unit of smoe_route_options.work_max */
};

#define SMOE_ROUTE_NONE UINT16_MAX

/* Scratch memory for solving instances up to the given size; sizes are fixed at init, one block.
 * 10 MiB for 8192 tokens, 256 experts, 256 nodes; of a larger one a small problem touches only a part.
 * It also remembers the node prices of the last exact solve of smoe_policy_route, which start the
 * next one: the answer's objective never depends on them, which of several optima it is may.
 * 0 or SMOE_ENOMEMORY. */
struct smoe_route_scratch;
int smoe_route_scratch_new(uint32_t tokens_max, uint32_t experts_max, uint32_t nodes_max,
                           struct smoe_route_scratch **ret);
void smoe_route_scratch_free(struct smoe_route_scratch *scratch);

/* What smoe_policy_route may spend on one slot (smoe_route_options.work_max); 0, the default: no limit. And what its
 * exact solves may be worth less than the best, proven, as a part of K N score_weight, 0..SMOE_ROUTE_GAP_MAX; 0, the
 * default: rounding only. */
void smoe_route_scratch_limit(struct smoe_route_scratch *scratch, uint64_t work_max, double gap);

/* How to solve; all zero is a cold start with defaults. */
struct smoe_route_options {
    double *prices;      /* [J] or NULL; written: the prices that prove `bound` (+inf: dead node) */
    bool warm;           /* `prices` also holds where to start, from a slot with the same nodes */
    uint32_t sweeps_max; /* 0: SMOE_ROUTE_SWEEPS_MAX */
    double gap_max;    /* good enough: stop once primal - bound is proven to be no more; 0: rounding
                            only. `exact` then says whether it went on to the end all the same */
    uint64_t work_max; /* stop improving after about this much work; 0: no limit. The answer is
                            then feasible, `bound` still holds, `exact` says whether it was enough */
};

#define SMOE_ROUTE_SWEEPS_MAX 24

/* The exact solve (MODEL.md section 4): water-fill, price sweeps, top-K, negative cycles cancelled
 * until none is left, certificate. primal - bound is then rounding, below 1e-9 K N V mu. */
void smoe_route_exact(const struct smoe_route_problem *problem,
                      const struct smoe_route_options *options, struct smoe_route_scratch *scratch,
                      struct smoe_route_answer *answer);

/* Tokens one after another, each taking its K smallest (marginal price - weight), prices moving with
 * every choice. Feasible, fast, not optimal. No bound. */
void smoe_route_greedy(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                       struct smoe_route_answer *answer);

/* Every token keeps its K largest scores (ties to the lowest index); only the replica of each is chosen, so that
 * sum_j Phi_j(A_j) is least: optimal for the tokens routed, and then `exact`, with the primal for a bound. Spends
 * what smoe_route_scratch_limit allows; then visits go to the cheapest replica one by one. */
void smoe_route_strict(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                       struct smoe_route_answer *answer);

/* Each token for itself, at prices fixed at the queues Q_j of slot start. No bound. */
void smoe_route_separable(const struct smoe_route_problem *problem,
                          struct smoe_route_scratch *scratch, struct smoe_route_answer *answer);

/* The dual value of MODEL.md (18) for the problem's first n_tokens tokens: a lower bound of their
 * objective, whatever the node prices ([J], finite; not looked at where a node is dead). At least K
 * experts must have a live replica unless n_tokens is 0. */
double smoe_route_dual(const struct smoe_route_problem *problem, uint32_t n_tokens,
                       const double *prices, struct smoe_route_scratch *scratch);

#endif
