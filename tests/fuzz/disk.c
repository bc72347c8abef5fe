/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/disk.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

static struct smoe_standing *copy_of(const struct smoe_standing *standings, size_t n)
{
    struct smoe_standing *copy = malloc(n * sizeof *copy);
    if (!copy)
        abort();
    memcpy(copy, standings, n * sizeof *copy);
    return copy;
}

static void free_standings(const struct smoe_record *r)
{
    free((void *)(uintptr_t)r->standings);
}

void fuzz_disk_crash(struct fuzz_disk *d)
{
    for (size_t i = 0; i < d->n_waiting; i++)
        free_standings(&d->waiting[i]);
    d->n_waiting = 0;
    d->sequence = 0; /* the next gateway counts afresh */
}

void fuzz_disk_release(struct fuzz_disk *d)
{
    fuzz_disk_crash(d);
    for (size_t i = 0; i < d->image.n_layers; i++)
        free(d->image.layers[i].standings);
    free(d->image.layers);
    free(d->waiting);
    *d = (struct fuzz_disk){0};
}

void fuzz_disk_append(struct fuzz_disk *d, const struct smoe_record *r, uint64_t epoch)
{
    smoe_assert(r->sequence == d->sequence + 1 && epoch >= d->epoch);
    d->sequence = r->sequence;
    d->epoch_waiting = epoch;
    if (d->n_waiting == d->cap) {
        d->cap = 2 * d->cap + 16;
        d->waiting = realloc(d->waiting, d->cap * sizeof *d->waiting);
        if (!d->waiting)
            abort();
    }
    struct smoe_record *to = &d->waiting[d->n_waiting++];
    *to = *r;
    to->standings =
        r->type == SMOE_RECORD_LAYER ? copy_of(r->standings, r->layer.shape.experts) : NULL;
}

static struct smoe_restored_layer *find(struct fuzz_disk *d, const char *name)
{
    for (size_t i = 0; i < d->image.n_layers; i++)
        if (strcmp(d->image.layers[i].layer.name, name) == 0)
            return &d->image.layers[i];
    return NULL;
}

static void drop(struct fuzz_disk *d, const char *name)
{
    struct smoe_restored_layer *layer = find(d, name);
    if (!layer)
        return;
    free(layer->standings);
    *layer = d->image.layers[--d->image.n_layers];
}

static void put(struct fuzz_disk *d, const struct smoe_record *r)
{
    drop(d, r->layer.name);
    smoe_assert(d->image.n_layers < SMOE_LAYERS_MAX);
    if (!d->image.layers)
        d->image.layers = calloc(SMOE_LAYERS_MAX, sizeof *d->image.layers);
    if (!d->image.layers)
        abort();
    d->image.layers[d->image.n_layers++] =
        (struct smoe_restored_layer){r->layer, copy_of(r->standings, r->layer.shape.experts)};
}

/* Of layers that were written before; no two commits have the same numbers. */
static void commit(struct fuzz_disk *d, const struct smoe_record *r)
{
    for (size_t i = 0; i < r->n_layers; i++) {
        struct smoe_restored_layer *layer = find(d, r->layers[i]);
        smoe_assert(layer &&
                    (layer->layer.attempt < r->layer.attempt || layer->layer.step < r->layer.step));
        layer->layer.learned = true;
        layer->layer.step = r->layer.step;
        layer->layer.attempt = r->layer.attempt;
        layer->layer.done = r->layer.done;
    }
}

uint64_t fuzz_disk_sync(struct fuzz_disk *d)
{
    uint64_t last = 0;
    for (size_t i = 0; i < d->n_waiting; i++) {
        const struct smoe_record *r = &d->waiting[i];
        if (r->type == SMOE_RECORD_LAYER)
            put(d, r);
        else if (r->type == SMOE_RECORD_DROP)
            drop(d, r->layer.name);
        else
            commit(d, r);
        last = r->sequence;
        free_standings(r);
    }
    if (last)
        d->epoch = d->epoch_waiting;
    d->n_waiting = 0;
    return last;
}
