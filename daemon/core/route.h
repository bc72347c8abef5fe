/* SPDX-License-Identifier: Apache-2.0
 *
 * The routing problem of one slot and its solvers: which replica serves each token (MODEL.md
 * section 1: "Node cost", "The problem is polynomial"). Pure: arrays in, arrays out, no allocation;
 * the same answer on every machine and compiler.
 *
 *     minimise  sum_j Phi_j(A_j) - sum_{i,e} w_ie x_ie
 *     subject to every routed token visiting K distinct experts, each on one node that holds it.
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
    const float *scores; /* [N, E] gate scores g_ie, finite; row-major */
    double score_weight; /* V*mu: w_ie = score_weight * g_ie [visit] */
    const uint32_t
        *replica_first; /* [E+1]: expert e stands on nodes replica_node[first[e]..first[e+1]) */
    const uint32_t *replica_node;  /* node indices, distinct within an expert, rising */
    const struct smoe_node *nodes; /* [J] */
    enum smoe_cost_mode mode;
};

/* Outputs, written into the caller's arrays. A token is routed whole or not at all: when caps leave
 * it fewer than K experts, its experts are SMOE_ROUTE_NONE and it waits for the next slot. */
struct smoe_route_answer {
    uint16_t *expert;   /* [N, K] rising cost of choice is not promised; distinct within a token */
    uint32_t *node;     /* [N, K] */
    uint32_t *arrivals; /* [J] A_j */
    uint32_t n_routed;  /* tokens that were routed */
    double primal;      /* objective of the answer */
    double bound;       /* proven lower bound of the objective; -inf where the solver gives none */
};

#define SMOE_ROUTE_NONE UINT16_MAX

/* Scratch memory for solving instances up to the given size; sizes are fixed at init. */
struct smoe_route_scratch;
int smoe_route_scratch_new(uint32_t tokens_max, uint32_t experts_max, uint32_t nodes_max,
                           struct smoe_route_scratch **ret);
void smoe_route_scratch_free(struct smoe_route_scratch *scratch);

/* Tokens one after another, each taking its K smallest (marginal price - weight), prices moving with
 * every choice. Feasible, fast, not optimal; the exact solve starts from better prices. */
void smoe_route_greedy(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                       struct smoe_route_answer *answer);

#endif
