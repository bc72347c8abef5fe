/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/core/journal.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

size_t smoe_record_values_bytes(const struct smoe_record *r)
{
    return r->type == SMOE_RECORD_ROUTER
               ? (size_t)r->router.inputs * r->layer.shape.experts * sizeof *r->values
               : 0;
}

const void *smoe_record_payload(const struct smoe_record *r, size_t *ret_bytes)
{
    bool layer = r->type == SMOE_RECORD_LAYER, sharded = layer && r->layer.sharded;
    *ret_bytes = sharded ? r->layer.n_pieces * sizeof *r->pieces
                 : layer ? r->layer.shape.experts * sizeof *r->standings
                         : smoe_record_values_bytes(r);
    return sharded ? (const void *)r->pieces
           : layer ? (const void *)r->standings
                   : (const void *)r->values;
}

void smoe_record_repoint(struct smoe_record *r, const void *payload)
{
    bool layer = r->type == SMOE_RECORD_LAYER, sharded = layer && r->layer.sharded;
    r->standings = layer && !sharded ? payload : NULL;
    r->pieces = sharded ? payload : NULL;
    r->values = r->type == SMOE_RECORD_ROUTER ? payload : NULL;
}

int smoe_record_copy(const struct smoe_record *record, struct smoe_record *ret)
{
    size_t bytes;
    const void *payload = smoe_record_payload(record, &bytes);
    void *copy = bytes ? malloc(bytes) : NULL;
    *ret = *record;
    smoe_record_repoint(ret, copy);
    if (copy)
        memcpy(copy, payload, bytes);
    return bytes && !copy ? SMOE_ENOMEMORY : 0;
}

void smoe_record_release(struct smoe_record *copy)
{
    size_t bytes;
    free((void *)(uintptr_t)smoe_record_payload(copy, &bytes));
    smoe_record_repoint(copy, NULL);
}

struct smoe_restored_layer *smoe_restored_find(const struct smoe_restored *in, const char *name)
{
    for (size_t i = 0; i < in->n_layers; i++)
        if (strcmp(in->layers[i].layer.name, name) == 0)
            return &in->layers[i];
    return NULL;
}

static void drop_layer(struct smoe_restored *to, const char *name)
{
    struct smoe_restored_layer *layer = smoe_restored_find(to, name);
    if (!layer)
        return;
    free(layer->standings);
    free(layer->pieces);
    free(layer->values);
    *layer = to->layers[--to->n_layers];
}

static int put_layer(struct smoe_restored *to, const struct smoe_record *r)
{
    struct smoe_restored_layer *layer = smoe_restored_find(to, r->layer.name);
    struct smoe_record copy;
    if (!to->layers)
        to->layers = calloc(SMOE_LAYERS_MAX, sizeof *to->layers);
    if (to->n_layers == SMOE_LAYERS_MAX && !layer)
        return SMOE_ELIMIT;
    if (!to->layers || smoe_record_copy(r, &copy))
        return SMOE_ENOMEMORY;
    if (!layer) {
        layer = &to->layers[to->n_layers++];
        *layer = (struct smoe_restored_layer){0};
    }
    if (layer->layer.run != r->layer.run) { /* its router stays while it is the same layer */
        free(layer->values);
        layer->values = NULL;
        layer->router = (struct smoe_frozen_head){.version = 0};
    }
    free(layer->standings);
    free(layer->pieces);
    layer->layer = r->layer;
    layer->standings = (struct smoe_standing *)(uintptr_t)copy.standings;
    layer->pieces = (struct smoe_journal_piece *)(uintptr_t)copy.pieces;
    return 0;
}

static int put_router(struct smoe_restored *to, const struct smoe_record *r)
{
    struct smoe_restored_layer *layer = smoe_restored_find(to, r->layer.name);
    struct smoe_record copy;
    if (!layer || layer->layer.run != r->layer.run)
        return 0; /* of a layer that is not journalled: a store forgets it, too */
    if (smoe_record_copy(r, &copy))
        return SMOE_ENOMEMORY;
    free(layer->values);
    layer->router = r->router;
    layer->values = (float *)(uintptr_t)copy.values;
    return 0;
}

static int put_commit(struct smoe_restored *to, const struct smoe_record *r)
{
    struct smoe_restored_layer *found[SMOE_LAYERS_MAX];
    for (size_t i = 0; i < r->n_layers; i++)
        if (!(found[i] = smoe_restored_find(to, r->layers[i])))
            return SMOE_EUNKNOWN;
    for (size_t i = 0; i < r->n_layers; i++) {
        struct smoe_journal_layer *layer = &found[i]->layer;
        layer->learned = true;
        layer->step = r->layer.step;
        layer->attempt = r->layer.attempt;
        layer->done = r->layer.done;
    }
    return 0;
}

int smoe_restored_apply(struct smoe_restored *to, const struct smoe_record *record)
{
    switch (record->type) {
    case SMOE_RECORD_LAYER:
        return put_layer(to, record);
    case SMOE_RECORD_DROP:
        drop_layer(to, record->layer.name);
        return 0;
    case SMOE_RECORD_COMMIT:
        return put_commit(to, record);
    case SMOE_RECORD_ROUTER:
        return put_router(to, record);
    }
    return SMOE_EUNKNOWN;
}

void smoe_restored_release(struct smoe_restored *restored)
{
    for (size_t i = 0; i < restored->n_layers; i++) {
        free(restored->layers[i].standings);
        free(restored->layers[i].pieces);
        free(restored->layers[i].values);
    }
    free(restored->layers);
    *restored = (struct smoe_restored){0};
}
