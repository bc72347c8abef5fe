/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/disk.h"

#include <stdlib.h>

#include "common/base/assert.h"
#include "sim/events.h"

struct queued {
    struct smoe_list link;
    uint64_t epoch;
    struct smoe_record record; /* standings owned */
};

void smoe_sim_disk_init(struct smoe_sim_disk *disk)
{
    *disk = (struct smoe_sim_disk){0};
    smoe_list_init(&disk->queue);
}

/* Takes the first record off the queue. */
static void drop_first(struct smoe_sim_disk *disk)
{
    struct queued *q = smoe_container_of(disk->queue.next, struct queued, link);
    smoe_list_remove(&q->link);
    smoe_record_release(&q->record);
    free(q);
}

void smoe_sim_disk_release(struct smoe_sim_disk *disk)
{
    while (!smoe_list_empty(&disk->queue))
        drop_first(disk);
    smoe_restored_release(&disk->image);
    *disk = (struct smoe_sim_disk){0};
}

void smoe_sim_disk_append(struct smoe_sim_disk *disk, const struct smoe_record *record,
                          uint64_t epoch)
{
    struct queued *q = smoe_sim_room(sizeof *q);
    q->epoch = epoch;
    smoe_assert(smoe_record_copy(record, &q->record) == 0);
    smoe_list_push_back(&disk->queue, &q->link);
}

static uint64_t write_first(struct smoe_sim_disk *disk)
{
    const struct queued *q = smoe_container_of(disk->queue.next, struct queued, link);
    uint64_t sequence = q->record.sequence;
    smoe_assert(smoe_restored_apply(&disk->image, &q->record) == 0);
    disk->epoch = q->epoch > disk->epoch ? q->epoch : disk->epoch;
    drop_first(disk);
    return sequence;
}

uint64_t smoe_sim_disk_sync(struct smoe_sim_disk *disk)
{
    uint64_t last = 0;
    while (!smoe_list_empty(&disk->queue))
        last = write_first(disk);
    return last;
}

void smoe_sim_disk_crash(struct smoe_sim_disk *disk, struct smoe_rng *rng)
{
    uint64_t n = smoe_list_count(&disk->queue, UINT32_MAX);
    for (uint64_t keep = n ? smoe_rng_below(rng, n + 1) : 0; keep > 0; keep--)
        (void)write_first(disk);
    while (!smoe_list_empty(&disk->queue))
        drop_first(disk);
}
