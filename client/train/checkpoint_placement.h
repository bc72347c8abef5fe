/* SPDX-License-Identifier: Apache-2.0
 *
 * A placement in a safetensors file:
 *
 *     placement.slots       I64 [N]  of each worker
 *     placement.experts     I64 [S]  in all slots, the first worker's first
 *     placement.popularity  F64 [E]  shares of 1
 *     placement.evidence    F64 [4]  covariance, variance, iterations seen, the last plan
 *     metadata placement.rule     "highest-averages", "interval=50"
 *     metadata placement.workers  their names, one space between
 *
 * Fields: stablemoe/placement.h.
 */
#ifndef SMOE_TRAIN_CHECKPOINT_PLACEMENT_H
#define SMOE_TRAIN_CHECKPOINT_PLACEMENT_H

#include "proto/safetensors.h"
#include "stablemoe/placement.h"

enum { SMOE_PLACED_TENSORS = 4, SMOE_PLACED_METADATA = 2 };

/* Of its tensors in a file, however large the fleet is; the names of workers are metadata. */
#define SMOE_PLACED_BYTES_MAX (UINT64_C(1) << 20)

/* A placement and its form in a file; zeroed, then filled or read, then released. */
struct smoe_placed {
    struct smoe_tensor tensors[SMOE_PLACED_TENSORS];
    struct smoe_metadata metadata[SMOE_PLACED_METADATA];
    struct smoe_placement value;
    char rule[96];
    double evidence[4];
    void *block; /* owned: arrays and names */
};

/* `from` must outlive it. 0 or SMOE_ENOMEMORY. */
int smoe_placed_fill(struct smoe_placed *ret, const struct smoe_placement *from);

/* value.n_experts is 0 if the file has none. SMOE_EDATA names the tensor; whether the numbers make sense is for
 * smoe_placement_store to say. */
int smoe_placed_read(const struct smoe_safetensors *file, struct smoe_placed *ret,
                     struct smoe_why *why);

void smoe_placed_release(struct smoe_placed *placed);

#endif
