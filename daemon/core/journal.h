/* SPDX-License-Identifier: Apache-2.0
 *
 * What outlives the daemon: where every expert stands, and which step is committed. The core says what
 * is to be written (SMOE_ACT_JOURNAL), in order; a commit is announced to nobody before the store has
 * said that it is durable (SMOE_EVENT_JOURNALLED). After a restart the core is given what the store
 * holds and expects the workers it names to come back.
 */
#ifndef SMOE_CORE_JOURNAL_H
#define SMOE_CORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

/* Where one expert stands; "" where there is none. */
struct smoe_standing {
    smoe_name host;     /* serves visits */
    smoe_name follower; /* has a second copy of the committed state */
};

/* A layer as it is journalled. */
struct smoe_journal_layer {
    smoe_name name;
    uint64_t run;
    struct smoe_layer_shape shape;
    smoe_name owner;                /* trainer's name */
    bool learned;                   /* the seed no longer gives its experts */
    uint32_t copies;                /* of each expert */
    uint64_t step;                  /* last committed */
    uint64_t attempt;               /* in which it was staged */
    struct smoe_msg_step_done done; /* its answer, for a trainer that asks again */
};

enum smoe_record_type {
    SMOE_RECORD_LAYER,  /* insert or replace: layer and standing of all its experts */
    SMOE_RECORD_DROP,   /* layer.name is gone */
    SMOE_RECORD_COMMIT, /* step, attempt and done of layers[0..n_layers) */
    SMOE_RECORD_ROUTER, /* layer.name and its shape, router, values: replaces what router the layer had */
};

struct smoe_record {
    enum smoe_record_type type;
    uint64_t sequence;                     /* rises by one */
    struct smoe_journal_layer layer;       /* LAYER, DROP; COMMIT: step, attempt and done */
    const struct smoe_standing *standings; /* LAYER: [layer.shape.experts], until the next step */
    smoe_name layers[SMOE_LAYERS_MAX];     /* COMMIT: names */
    size_t n_layers;
    struct smoe_frozen_head router; /* ROUTER */
    const float *values; /* ROUTER: [router.inputs * layer.shape.experts], until the next step */
};

/* What the store held when the daemon started. */
struct smoe_restored_layer {
    struct smoe_journal_layer layer;
    struct smoe_standing *standings; /* [layer.shape.experts] */
    struct smoe_frozen_head router;  /* version 0: none is frozen */
    float *values;                   /* [router.inputs * layer.shape.experts], or NULL */
};
struct smoe_restored {
    struct smoe_restored_layer *layers; /* [SMOE_LAYERS_MAX], or NULL while there are none */
    size_t n_layers;
};

/* Bytes of a record's values, 0 for one that has none. */
size_t smoe_record_values_bytes(const struct smoe_record *record);

/* A copy that outlives the core's next step; its standings and values are owned. SMOE_ENOMEMORY. */
int smoe_record_copy(const struct smoe_record *record, struct smoe_record *ret);
void smoe_record_release(struct smoe_record *copy);

/* What a record means: `to` becomes what a daemon is given that starts after it. `to` owns what it holds;
 * zeroed, it is an empty store. SMOE_ENOMEMORY, SMOE_ELIMIT (too many layers), SMOE_EUNKNOWN (a commit of a
 * layer that is not there): nothing changed then. A router of a layer that is not there changes nothing. */
int smoe_restored_apply(struct smoe_restored *to, const struct smoe_record *record);
void smoe_restored_release(struct smoe_restored *restored);

/* The layer of that name, or NULL. */
struct smoe_restored_layer *smoe_restored_find(const struct smoe_restored *in, const char *name);

#endif
