/* SPDX-License-Identifier: Apache-2.0
 *
 * What an iteration of a sharded layer sent in a world, by the gateway's counters, beside what MODEL.md (29) says; and
 * what workers hold of it in memory, beside section 9's formula.
 */
#ifndef SMOE_SIM_COUNTED_H
#define SMOE_SIM_COUNTED_H

#include "daemon/core/core.h"
#include "sim/world.h"

enum { SMOE_COUNTED_WORKERS = 16, SMOE_COUNTED_REPLICAS = 256 };

/* Zeroed before the first iteration; a worker's number is the gateway's. */
struct smoe_counted {
    uint32_t n_workers;
    uint64_t iterations; /* the layer's, this one included */
    uint32_t moved;      /* slots that got another expert at its end */
    struct smoe_shard_traffic counted[SMOE_COUNTED_WORKERS];
    struct smoe_place_bytes formula[SMOE_COUNTED_WORKERS];
    uint64_t memory[SMOE_COUNTED_WORKERS], memory_formula[SMOE_COUNTED_WORKERS]; /* bytes */
    double error,
        memory_error; /* the largest difference of any worker, as a share of the formula */
    /* The plan that the next iteration begins with */
    uint32_t slot_first[SMOE_COUNTED_WORKERS + 1];
    uint16_t expert[SMOE_COUNTED_REPLICAS];
    /* The one before: with staleness, whose gradients it will send */
    uint32_t slot_first_before[SMOE_COUNTED_WORKERS + 1];
    uint16_t expert_before[SMOE_COUNTED_REPLICAS];
};

/* Runs to the end of the next iteration of the gateway's first layer. False: it did not come before
 * `until_ns`. Of the first one only the end is seen, and the next is reported; of a layer with staleness
 * the one after that. */
bool smoe_counted_next(struct smoe_world *world, uint32_t gateway, uint64_t until_ns,
                       struct smoe_counted *counted);

/* All bytes of the iteration between workers, each counted once. */
uint64_t smoe_counted_bytes(const struct smoe_counted *counted);

#endif
