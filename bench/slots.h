/* SPDX-License-Identifier: Apache-2.0
 *
 * Synthetic slots to route: one expert a node, gate scores and nodes as in the paper's scenario
 * (MODEL.md), scaled to any size, and backlogs that drift from slot to slot as a loaded fleet's do.
 */
#ifndef SMOE_BENCH_SLOTS_H
#define SMOE_BENCH_SLOTS_H

#include "common/base/rng.h"
#include "daemon/core/route.h"

#define SMOE_SLOTS_MAX 8

struct smoe_slots {
    struct smoe_route_problem problems[SMOE_SLOTS_MAX]; /* successive slots of one fleet */
    struct smoe_route_answer answer;
    struct smoe_route_scratch *scratch;
    double *prices; /* [J] */
    float *scores;  /* of all slots; NULL: the caller's */
    struct smoe_node *nodes;
    uint32_t *replica_first, *replica_node;
};

/* With scores of its own. 0, or SMOE_ENOMEMORY; release in any case. */
int smoe_slots_init(struct smoe_slots *slots, uint32_t tokens, uint32_t nodes, uint32_t top_k);

/* The same without scores: the caller sets those of a problem before it is solved. */
int smoe_slots_init_bare(struct smoe_slots *slots, uint32_t tokens, uint32_t nodes, uint32_t top_k);
void smoe_slots_release(struct smoe_slots *slots);

/* Scores of n_rows tokens: softmax(0.12 rank + N(0, 1)), [n_rows, nodes]. */
void smoe_slots_draw_scores(struct smoe_rng *rng, uint32_t n_rows, uint32_t nodes, float *ret);

#endif
