/* SPDX-License-Identifier: Apache-2.0
 *
 * Shards: which elements of every expert's optimizer state a worker holds, and where they lie. The pieces of a
 * layer (Host) are laid one after another into a local vector: first those it owns, then those it follows,
 * then those whose state will come. Pure: no message, no expert.
 */
#ifndef SMOE_AGENT_SHARDS_H
#define SMOE_AGENT_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/kernels/real.h"
#include "proto/wire.h"

#define SMOE_SHARD_NOWHERE SIZE_MAX

struct smoe_shard_range {
    size_t offset, length; /* of the expert's parameters */
    size_t local;          /* where the local vector has them */
};

/* Zeroed, it is the layout of a worker without shards. */
struct smoe_shard_layout {
    struct smoe_shard_range *ranges; /* [n], owned */
    size_t n, n_owned, n_held; /* n_held: owned and followed ones; the others are being filled */
    size_t elements;           /* of all ranges: the local vector's */
    size_t elements_owned;     /* it begins with these */
};

/* The layout of a Host's pieces, of experts with so many parameters. SMOE_EFIELD if a piece reaches beyond them or
 * overlaps another, SMOE_ENOMEMORY; the layout is then untouched. Whatever it held is not released. */
int smoe_shard_layout_make(const struct smoe_msg_host *host, size_t n_params,
                           struct smoe_shard_layout *ret, struct smoe_why *why);
void smoe_shard_layout_release(struct smoe_shard_layout *layout);
bool smoe_shard_layout_same(const struct smoe_shard_layout *a, const struct smoe_shard_layout *b);

/* Where the elements [offset, offset + length) begin in the local vector; SMOE_SHARD_NOWHERE if no single range has
 * all of them. */
size_t smoe_shard_find(const struct smoe_shard_layout *layout, uint64_t offset, uint64_t length);

/* Does `before` have all that `layout` calls held? */
bool smoe_shard_covers(const struct smoe_shard_layout *before,
                       const struct smoe_shard_layout *layout);

/* Of a part [n] of a whole vector, from its element `at` on: what the ranges have, into the local vector. */
void smoe_shard_cut_out(const struct smoe_shard_range *ranges, size_t n_ranges, size_t at, size_t n,
                        const smoe_real *part, smoe_real *ret_local);
/* Copies what both layouts have from one's local vector to the other's. */
void smoe_shard_carry(const struct smoe_shard_layout *from, const smoe_real *vector,
                      const struct smoe_shard_layout *to, smoe_real *ret_vector);

#endif
