/* SPDX-License-Identifier: Apache-2.0
 *
 * What an iteration sends, by formula (MODEL.md (29)). Counters must come to the same. Pure.
 */
#ifndef SMOE_CORE_PLACE_BYTES_H
#define SMOE_CORE_PLACE_BYTES_H

#include "daemon/core/place.h"

/* One layer: all its experts are cut alike. */
struct smoe_place_wire {
    const uint64_t *
        owned; /* [N] elements of every expert's optimizer state that the worker owns; their sum: the
                                 elements of an expert */
    const uint64_t *followed; /* [N] that it keeps a second copy of, or NULL: nobody does */
    uint32_t gradient_bytes;  /* of an element on the wire: 4, or 2 for bf16 */
    uint32_t weight_bytes;
};

/* Bytes of one worker in one iteration, what stays inside it left out. */
struct smoe_place_bytes {
    uint64_t gradient_sent, gradient_received; /* local sums, to the owners of shards */
    uint64_t weight_sent,
        weight_received; /* new weights, from the owners, to whoever holds the expert next */
    uint64_t follow_sent, follow_received; /* local sums again, to the followers */
};

/* Gradients come from where experts stand (`before`), weights go to where they stand next (`after`); a worker
 * that holds an expert twice sends and receives it once. Into ret [N]. Both plans have the wire's workers. */
void smoe_place_bytes(const struct smoe_place_plan *before, const struct smoe_place_plan *after,
                      const struct smoe_place_wire *wire, struct smoe_place_bytes *ret);

#endif
