/* SPDX-License-Identifier: Apache-2.0
 *
 * The gateway's disk: stands in for daemon/shell/store.c. Records queue up until a write makes all that
 * wait durable, in order. A crash leaves a prefix of what was queued, of any length: what a machine
 * that loses power in the middle of a write may find later. The epoch is kept too.
 */
#ifndef SMOE_SIM_DISK_H
#define SMOE_SIM_DISK_H

#include "common/base/list.h"
#include "common/base/rng.h"
#include "daemon/core/journal.h"

struct smoe_sim_disk {
    uint64_t epoch;             /* of the last daemon that started or committed */
    struct smoe_restored image; /* what is durable, owned */
    struct smoe_list queue;     /* what is not yet */
};

void smoe_sim_disk_init(struct smoe_sim_disk *disk);
void smoe_sim_disk_release(struct smoe_sim_disk *disk);

/* Queues a copy. */
void smoe_sim_disk_append(struct smoe_sim_disk *disk, const struct smoe_record *record,
                          uint64_t epoch);
/* Makes all that is queued durable; the last sequence number. 0 if nothing was. */
uint64_t smoe_sim_disk_sync(struct smoe_sim_disk *disk);
/* Keeps a random prefix of what is queued, and forgets the rest. */
void smoe_sim_disk_crash(struct smoe_sim_disk *disk, struct smoe_rng *rng);

#endif
