/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/disk.h"

#include <stdlib.h>

#include "common/base/assert.h"

void fuzz_disk_crash(struct fuzz_disk *d)
{
    for (size_t i = 0; i < d->n_waiting; i++)
        smoe_record_release(&d->waiting[i]);
    d->n_waiting = 0;
    d->sequence = 0; /* the next gateway counts afresh */
}

void fuzz_disk_release(struct fuzz_disk *d)
{
    fuzz_disk_crash(d);
    smoe_restored_release(&d->image);
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
    smoe_assert(smoe_record_copy(r, &d->waiting[d->n_waiting++]) == 0);
}

/* No two commits of a layer have the same numbers. */
static void check_commit(const struct fuzz_disk *d, const struct smoe_record *r)
{
    for (size_t i = 0; i < r->n_layers; i++) {
        const struct smoe_restored_layer *layer = smoe_restored_find(&d->image, r->layers[i]);
        smoe_assert(layer &&
                    (layer->layer.attempt < r->layer.attempt || layer->layer.step < r->layer.step));
    }
}

uint64_t fuzz_disk_sync(struct fuzz_disk *d)
{
    uint64_t last = 0;
    for (size_t i = 0; i < d->n_waiting; i++) {
        struct smoe_record *r = &d->waiting[i];
        if (r->type == SMOE_RECORD_COMMIT)
            check_commit(d, r);
        smoe_assert(smoe_restored_apply(&d->image, r) == 0);
        last = r->sequence;
        smoe_record_release(r);
    }
    if (last)
        d->epoch = d->epoch_waiting;
    d->n_waiting = 0;
    return last;
}
