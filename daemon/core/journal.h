/* SPDX-License-Identifier: Apache-2.0
 *
 * What outlives the daemon: where every expert stands, or every piece of its state, and which step is
 * committed. The core says what is to be written (SMOE_ACT_JOURNAL), in order; a commit is announced to
 * nobody before the store has said that it is durable (SMOE_EVENT_JOURNALLED). After a restart the core is
 * given what the store holds and expects the workers it names to come back.
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

/* Where a piece of a sharded layer's state lies (shard.h); of one expert's elements, and alike for all. */
struct smoe_journal_piece {
    uint64_t offset, length; /* elements */
    smoe_name owner;         /* "" if nobody has it */
    smoe_name follower;      /* has a second copy of the committed state; "" while there is none */
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
    bool sharded;                   /* it has pieces, and no standings */
    uint32_t grains;                /* of its map */
    uint32_t n_pieces;              /* 0..SMOE_WORKER_PIECES_MAX; 0: it is not cut yet */
};

enum smoe_record_type {
    SMOE_RECORD_LAYER,  /* insert or replace: layer and standing of all its experts, or pieces */
    SMOE_RECORD_DROP,   /* layer.name is gone */
    SMOE_RECORD_COMMIT, /* step, attempt and done of layers[0..n_layers) */
    SMOE_RECORD_ROUTER, /* layer.name and its shape, router, values: replaces what router the layer had */
};

struct smoe_record {
    enum smoe_record_type type;
    uint64_t sequence;                       /* rises by one */
    struct smoe_journal_layer layer;         /* LAYER, DROP; COMMIT: step, attempt and done */
    const struct smoe_standing *standings;   /* LAYER: [layer.shape.experts], until the next step */
    const struct smoe_journal_piece *pieces; /* ... or, sharded: [layer.n_pieces], as long */
    smoe_name layers[SMOE_LAYERS_MAX];       /* COMMIT: names */
    size_t n_layers;
    struct smoe_frozen_head router; /* ROUTER */
    const float *values; /* ROUTER: [router.inputs * layer.shape.experts], until the next step */
};

/* What the store held when the daemon started. */
struct smoe_restored_layer {
    struct smoe_journal_layer layer;
    struct smoe_standing *standings;   /* [layer.shape.experts], or NULL: it is sharded */
    struct smoe_journal_piece *pieces; /* [layer.n_pieces], by offset, or NULL */
    struct smoe_frozen_head router;    /* version 0: none is frozen */
    float *values;                     /* [router.inputs * layer.shape.experts], or NULL */
};
struct smoe_restored {
    struct smoe_restored_layer *layers; /* [SMOE_LAYERS_MAX], or NULL while there are none */
    size_t n_layers;
};

/* Bytes of a record's values, 0 for one that has none. */
size_t smoe_record_values_bytes(const struct smoe_record *record);
/* What a record points to, whichever of standings, pieces and values it has; `*ret_bytes` may be 0. */
const void *smoe_record_payload(const struct smoe_record *record, size_t *ret_bytes);
/* The record points to this copy of it instead. */
void smoe_record_repoint(struct smoe_record *record, const void *payload);

/* A copy that outlives the core's next step; what it points to is owned. SMOE_ENOMEMORY. */
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
