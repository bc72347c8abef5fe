/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/core/journal.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

static struct smoe_standing *copy_standings(const struct smoe_record *r)
{
    size_t n = r->layer.shape.experts;
    struct smoe_standing *copy = calloc(n, sizeof *copy);
    if (copy)
        memcpy(copy, r->standings, n * sizeof *copy);
    return copy;
}

size_t smoe_record_values_bytes(const struct smoe_record *r)
{
    return r->type == SMOE_RECORD_ROUTER
               ? (size_t)r->router.inputs * r->layer.shape.experts * sizeof *r->values
               : 0;
}

static float *copy_values(const struct smoe_record *r)
{
    size_t bytes = smoe_record_values_bytes(r);
    float *copy = malloc(bytes);
    if (copy)
        memcpy(copy, r->values, bytes);
    return copy;
}

int smoe_record_copy(const struct smoe_record *record, struct smoe_record *ret)
{
    bool layer = record->type == SMOE_RECORD_LAYER, router = record->type == SMOE_RECORD_ROUTER;
    *ret = *record;
    ret->standings = layer ? copy_standings(record) : NULL;
    ret->values = router ? copy_values(record) : NULL;
    return (layer && !ret->standings) || (router && !ret->values) ? SMOE_ENOMEMORY : 0;
}

void smoe_record_release(struct smoe_record *copy)
{
    free((void *)(uintptr_t)copy->standings);
    free((void *)(uintptr_t)copy->values);
    copy->standings = NULL;
    copy->values = NULL;
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
    free(layer->values);
    *layer = to->layers[--to->n_layers];
}

static int put_layer(struct smoe_restored *to, const struct smoe_record *r)
{
    if (!to->layers)
        to->layers = calloc(SMOE_LAYERS_MAX, sizeof *to->layers);
    if (to->n_layers == SMOE_LAYERS_MAX && !smoe_restored_find(to, r->layer.name))
        return SMOE_ELIMIT;
    struct smoe_standing *standings = to->layers ? copy_standings(r) : NULL;
    if (!standings)
        return SMOE_ENOMEMORY;
    struct smoe_restored_layer *old = smoe_restored_find(to, r->layer.name);
    if (old) {
        free(old->standings); /* its router stays: only a layer that is gone loses it */
        if (old->layer.run != r->layer.run) {
            free(old->values);
            old->values = NULL;
            old->router = (struct smoe_frozen_head){.version = 0};
        }
        old->layer = r->layer;
        old->standings = standings;
        return 0;
    }
    to->layers[to->n_layers++] =
        (struct smoe_restored_layer){.layer = r->layer, .standings = standings};
    return 0;
}

static int put_router(struct smoe_restored *to, const struct smoe_record *r)
{
    struct smoe_restored_layer *layer = smoe_restored_find(to, r->layer.name);
    if (!layer || layer->layer.run != r->layer.run)
        return 0; /* of a layer that is not journalled: a store forgets it, too */
    float *values = copy_values(r);
    if (!values)
        return SMOE_ENOMEMORY;
    free(layer->values);
    layer->router = r->router;
    layer->values = values;
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
        free(restored->layers[i].values);
    }
    free(restored->layers);
    *restored = (struct smoe_restored){0};
}
