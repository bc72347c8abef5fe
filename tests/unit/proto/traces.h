/* SPDX-License-Identifier: Apache-2.0
 *
 * Trace entries for tests: random valid ones, and equality of what was written with what was read.
 */
#ifndef SMOE_TESTS_PROTO_TRACES_H
#define SMOE_TESTS_PROTO_TRACES_H

#include "common/base/rng.h"
#include "proto/trace.h"

enum { TRACES_TOKENS = 40, TRACES_EXPERTS = 12, TRACES_NODES = 9, TRACES_BATCHES = 5 };

#define TRACES_CURVE 5 /* points at most */

struct traces_room {
    struct smoe_trace_worker workers[TRACES_NODES];
    double curve_hz[TRACES_NODES][TRACES_CURVE], curve_watts[TRACES_NODES][TRACES_CURVE];
    struct smoe_trace_batch batches[TRACES_BATCHES];
    double prices[TRACES_NODES];
    uint32_t replica_first[TRACES_EXPERTS + 1], replica_node[TRACES_EXPERTS * TRACES_NODES];
    float scores[TRACES_TOKENS * TRACES_EXPERTS];
    uint16_t expert[TRACES_TOKENS * SMOE_TOP_K_MAX];
    uint32_t node[TRACES_TOKENS * SMOE_TOP_K_MAX];
};

/* A random valid entry whose arrays are in `room`; routes have all their scores. */
void traces_random(struct smoe_rng *rng, struct traces_room *room, struct smoe_trace_entry *ret);

/* NULL, or what differs. Scores are compared where both have them. */
const char *traces_difference(const struct smoe_trace_entry *a, const struct smoe_trace_entry *b);

#endif
