/* SPDX-License-Identifier: Apache-2.0
 *
 * What shard.c and shard_change.c share: a map being made, and giving copies without a holder to workers.
 */
#ifndef SMOE_CORE_SHARD_INTERNAL_H
#define SMOE_CORE_SHARD_INTERNAL_H

#include "daemon/core/shard.h"

/* A piece whose holders are being decided; all lengths and offsets in here are grains. A role that is
 * SMOE_SHARD_NONE and has somebody to copy from, or is wanted at all, is an orphan. */
struct smoe_shard_work {
    uint64_t offset, length;
    uint32_t owner, follower;
    uint32_t owner_from,
        follower_from; /* who has what an orphan needs; SMOE_SHARD_NONE: nobody need copy */
    uint32_t next;     /* in its list of orphans */
};

struct smoe_shard_scratch {
    uint32_t workers_max, work_max;
    struct smoe_shard_work *work; /* [work_max] */
    uint64_t *target;             /* [N] both copies together */
    uint64_t *owned, *followed;   /* [N] */
    uint64_t *lacking;            /* [N] below target */
    uint64_t *orphaned; /* [N+1] of orphans whose other copy this worker holds; [N]: nobody does */
    uint32_t *head;     /* [N+1] lists of them */
};

/* What is under way. */
struct smoe_shard_job {
    struct smoe_shard_scratch *s;
    uint32_t n_workers, n_work;
    uint64_t elements, grains;
    uint32_t copies;                /* 2; 1 where one worker is alone */
    struct smoe_shard_moves *moves; /* NULL: a first cut, nothing is copied */
};

/* Puts work piece `w` into the list of orphans that it belongs to. */
void smoe_shard_orphan(struct smoe_shard_job *job, uint32_t w);

/* Splits work piece `w` after so many elements; returns the rest's number, or SMOE_SHARD_NONE if there is no room. */
uint32_t smoe_shard_split(struct smoe_shard_job *job, uint32_t w, uint64_t length);

/* Gives all orphans to workers that lack as much. 0 or SMOE_ELIMIT. */
int smoe_shard_assign(struct smoe_shard_job *job);

/* Sorts, merges and writes the map. SMOE_ELIMIT if it has no room, and it is untouched. */
int smoe_shard_finish(struct smoe_shard_job *job, struct smoe_shard_map *map);

#endif
