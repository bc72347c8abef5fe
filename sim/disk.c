/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/disk.h"

#include <stdlib.h>
#include <string.h>

#include "sim/events.h"

struct queued {
    struct smoe_list link;
    uint64_t epoch;
    struct smoe_record record; /* standings owned */
};

static struct smoe_standing *copy_standings(const struct smoe_record *r)
{
    uint32_t n = r->layer.shape.experts;
    struct smoe_standing *copy = smoe_sim_alloc(n, sizeof *copy);
    memcpy(copy, r->standings, n * sizeof *copy);
    return copy;
}

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
    free((void *)(uintptr_t)q->record.standings);
    free(q);
}

void smoe_sim_disk_release(struct smoe_sim_disk *disk)
{
    while (!smoe_list_empty(&disk->queue))
        drop_first(disk);
    for (size_t i = 0; i < disk->image.n_layers; i++)
        free(disk->image.layers[i].standings);
    free(disk->image.layers);
    *disk = (struct smoe_sim_disk){0};
}

void smoe_sim_disk_append(struct smoe_sim_disk *disk, const struct smoe_record *record,
                          uint64_t epoch)
{
    struct queued *q = smoe_sim_alloc(1, sizeof *q);
    q->epoch = epoch;
    q->record = *record;
    q->record.standings = record->type == SMOE_RECORD_LAYER ? copy_standings(record) : NULL;
    smoe_list_push_back(&disk->queue, &q->link);
}

/* ---- records ---- */

static struct smoe_restored_layer *find(struct smoe_sim_disk *disk, const char *name)
{
    for (size_t i = 0; i < disk->image.n_layers; i++)
        if (strcmp(disk->image.layers[i].layer.name, name) == 0)
            return &disk->image.layers[i];
    return NULL;
}

static void drop_layer(struct smoe_sim_disk *disk, const char *name)
{
    struct smoe_restored_layer *layer = find(disk, name);
    if (!layer)
        return;
    free(layer->standings);
    *layer = disk->image.layers[--disk->image.n_layers];
}

static void put_layer(struct smoe_sim_disk *disk, const struct smoe_record *r)
{
    size_t n = disk->image.n_layers;
    drop_layer(disk, r->layer.name);
    if (disk->image.n_layers == n)
        disk->image.layers =
            smoe_sim_grow(disk->image.layers, n, n + 1, sizeof *disk->image.layers);
    disk->image.layers[disk->image.n_layers++] =
        (struct smoe_restored_layer){r->layer, copy_standings(r)};
}

static void put_commit(struct smoe_sim_disk *disk, const struct smoe_record *r)
{
    for (size_t i = 0; i < r->n_layers; i++) {
        struct smoe_restored_layer *layer = find(disk, r->layers[i]);
        if (!layer)
            continue;
        layer->layer.learned = true;
        layer->layer.step = r->layer.step;
        layer->layer.attempt = r->layer.attempt;
        layer->layer.done = r->layer.done;
    }
}

static uint64_t write_first(struct smoe_sim_disk *disk)
{
    const struct queued *q = smoe_container_of(disk->queue.next, struct queued, link);
    uint64_t sequence = q->record.sequence;
    switch (q->record.type) {
    case SMOE_RECORD_LAYER:
        put_layer(disk, &q->record);
        break;
    case SMOE_RECORD_DROP:
        drop_layer(disk, q->record.layer.name);
        break;
    case SMOE_RECORD_COMMIT:
        put_commit(disk, &q->record);
        break;
    }
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
