/* SPDX-License-Identifier: Apache-2.0
 *
 * Synthetic slots to route: one expert a node, gate scores and nodes as in the paper's scenario
 * (MODEL.md), scaled to any size, and backlogs that drift from slot to slot as a loaded fleet's do.
 */
#ifndef SMOE_BENCH_SLOTS_H
#define SMOE_BENCH_SLOTS_H

#include "daemon/core/route.h"

#define SMOE_SLOTS_MAX 8

struct smoe_slots {
    struct smoe_route_problem problems[SMOE_SLOTS_MAX]; /* successive slots of one fleet */
    struct smoe_route_answer answer;
    struct smoe_route_scratch *scratch;
    double *prices; /* [J] */
    float *scores;  /* of all slots */
    struct smoe_node *nodes;
    uint32_t *replica_first, *replica_node;
};

/* 0, or SMOE_ENOMEMORY; release in any case. */
int smoe_slots_init(struct smoe_slots *slots, uint32_t tokens, uint32_t nodes, uint32_t top_k);
void smoe_slots_release(struct smoe_slots *slots);

#endif
