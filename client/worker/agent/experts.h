/* SPDX-License-Identifier: Apache-2.0
 *
 * The experts a worker holds: weights, optimizer moments, the gradient sum of the present step, and
 * the second buffer a step is staged in. A layer is known by (name, run); the number the daemon uses
 * for it (`wire`) is that of the present connection only. Memory is bounded by `bytes_max`.
 *
 * An expert is held to serve visits or as a copy of one that another worker serves; both take part in
 * steps and are equal bit for bit after each. One that was never filled (`step` NEVER) counts for
 * nothing until its state comes. A step that was staged outlives the connection: the daemon may have
 * committed it without being able to say so.
 *
 * Per expert with P parameters: 4 P reals for SGD with momentum's now and staged vectors, 6 P for
 * AdamW's, and P for the gradient sum.
 *
 * Of a layer with staleness 1 visits of the next step come while one is being made. They have a gradient sum of their
 * own, and are computed by the weights that were in force when their trainer submitted them, forward and backward, now
 * or, once the step is committed, as its `older` ones: 2 P more. So there are two versions for visits at any time; and
 * because staging writes to neither, whatever is lost with an attempt can be computed again as it was.
 *
 * Of a sharded layer a worker holds slots and shards instead. A slot serves the visits of one expert: weights, the
 * weights of the next step as they come, and the gradient sum, 3 P. A shard is a part of every expert's
 * optimizer state (shards.h), t elements of each expert: a small expert that serves nothing and takes part in
 * every step, 7 t with AdamW, and for a while the local sums of all hosts. If the layer's wire is bf16, gradients and
 * weights are rounded once, by whoever gives them, and whoever keeps them itself keeps what others get: so owner and
 * follower add the same numbers, and all slots of an expert have the same weights, bit for bit. Masters stay exact.
 *
 * With staleness a slot has both versions and both sums, too, 5 P; and when its expert goes elsewhere at a commit it is
 * left as it is (`copy`): visits of the next step that belong to the weights before end here, and their sum is taken
 * from here. A shard keeps the weights before, for slots that lost theirs.
 */
#ifndef SMOE_AGENT_EXPERTS_H
#define SMOE_AGENT_EXPERTS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/worker/agent/shards.h"
#include "client/worker/agent/task.h"
#include "proto/blob.h"
#include "proto/wire.h"

#define SMOE_NO_LAYER UINT32_MAX

struct smoe_held_layer {
    bool used;
    uint32_t wire; /* the daemon's number, SMOE_NO_LAYER when not connected */
    smoe_name name;
    uint64_t run;
    uint64_t
        step; /* last committed step heard of: the state of experts that have the same number */
    uint64_t attempt;                     /* in which it was committed or restored */
    uint64_t staged_step, staged_attempt; /* a step that all its experts have staged; 0: none */
    uint32_t host_number;                 /* of the Host that is answered next, or was */
    struct smoe_frozen_head router;       /* in force, as the gateway said last */
    struct smoe_layer_shape shape;
    struct smoe_ffn_shape ffn;
    size_t n_params;
    uint64_t forward_flops;
    uint32_t *expert_at; /* [n_entries] the store's number of the expert, or SMOE_NO_EXPERT */
    uint32_t n_entries;  /* shape.experts; sharded: the shards of as many experts follow */

    /* Sharded layers */
    bool sharded;
    struct smoe_shard_layout layout; /* of every shard */
    uint32_t replicas;               /* hosts of all experts together */
    struct smoe_blob *sums_blob;     /* owned; a task that reads them keeps them, too */
    smoe_real
        *sums; /* in it: [replicas, layout.elements] local sums of the hosts, by expert and rank */
    size_t *sum_elements; /* [replicas] of each, how many have come */
    uint32_t
        *first_sum; /* [shape.experts + 1] of each expert; all 0 while no step is being prepared */
};

enum smoe_held_kind {
    SMOE_HELD_WHOLE, /* weights, moments, gradient sum */
    SMOE_HELD_SLOT,  /* weights and gradient sum */
    SMOE_HELD_SHARD, /* of weights, moments and gradient the layout's elements */
};

#define SMOE_NO_EXPERT  UINT32_MAX
#define SMOE_STEP_NEVER UINT64_MAX

struct smoe_held_expert {
    bool used;
    uint32_t serial; /* new with every expert that is started: is a number still the same expert? */
    uint32_t layer;  /* the store's number */
    uint32_t index;  /* within its layer */
    enum smoe_held_kind kind;
    size_t n_params;     /* elements of each vector */
    uint64_t state_step; /* committed step its state belongs to, or SMOE_STEP_NEVER */
    uint64_t state_attempt;
    bool
        copy; /* serves no visits; a slot: none but of the weights that it has, and gets no others */
    bool summed;      /* a copy: its gradient is the sum that its host sent for the step at hand */
    smoe_real *block; /* owned: all its vectors lie in it */
    struct smoe_expert_vectors now, staged;
    smoe_real *gradients[2]; /* sums of steps with an even and an odd number; the same one but for a
                                layer with staleness, whose next step begins before its last one ends */
    smoe_real *older;        /* weights before `now`, if has_older; NULL: without staleness */
    bool has_older;          /* ... they are those of state_step - 1 */
    bool
        make_due; /* its weights are those of the seed, and a task has not made them yet (making.c) */
    bool busy;    /* a task runs on it */
    bool flip_wanted;  /* commit came while busy */
    bool clear_wanted; /* reset came while busy */
    bool drop_wanted;  /* no longer hosted, freed when not busy */
    bool has_staged;   /* the staged vectors are a complete step */
    uint8_t step_task; /* 1 + SMOE_TASK_NORM or SMOE_TASK_STAGE waiting, 0: none */
    bool step_runs;    /* that task runs, and its step still wants to know */
    uint32_t step;     /* which of the agent's steps that is for */
    struct smoe_blob *
        reads; /* what its task reads, or NULL: the local sums, for the layer may have others now; or
                                the ranges of a shard that is to be made */
    double square_norm; /* of the last NORM */
    /* A slot: of its weights, and of those before: */
    uint64_t fill[2];                   /* number under which they come, */
    size_t filled[2];                   /* and how many of them have */
    uint64_t comes_step, comes_attempt; /* with flip_wanted: the state that will be in force */
};

struct smoe_experts {
    struct smoe_held_layer *layers; /* [SMOE_LAYERS_MAX] */
    struct smoe_held_expert *experts;
    uint32_t n_experts; /* allocated entries; a number stays while the expert is used */
    uint32_t n_used;    /* of these, at most SMOE_WORKER_EXPERTS_MAX */
    uint32_t n_to_make; /* ... whose weights are still to be made */
    uint64_t
        hosted_due;   /* set of layers: Hosted is owed for when all that is to be made is there */
    uint32_t serials; /* given so far */
    uint64_t bytes, bytes_max;
    bool torn; /* by the last Host: what was held of its layer is lost, and nobody knows */
};

int smoe_experts_init(struct smoe_experts *store, uint64_t bytes_max);
void smoe_experts_release(struct smoe_experts *store);

/* Carries out Host, but for weights of the seed, which are still to be made: holds exactly these experts and
 * copies, or slots and shards, of the layer. If there is no room for new ones nothing changes; if memory is
 * out while shards are being cut anew, `torn`. Experts that go are gone at once, or when their task is done:
 * see smoe_experts_same. */
int smoe_experts_host(struct smoe_experts *store, const struct smoe_msg_host *host,
                      struct smoe_why *why);

/* The daemon's number for the layer that a Host names so far, or SMOE_NO_LAYER. */
uint32_t smoe_experts_wire(const struct smoe_experts *store, const struct smoe_msg_host *host);

/* The layer with the daemon's number, or NULL. */
struct smoe_held_layer *smoe_experts_layer(struct smoe_experts *store, uint32_t wire);

/* The store's number of an expert by the daemon's layer number, or SMOE_NO_EXPERT. */
uint32_t smoe_experts_find(struct smoe_experts *store, uint32_t wire, uint32_t index);

/* Is Hosted owed for the layer? */
bool smoe_experts_owed(const struct smoe_experts *store, const struct smoe_held_layer *layer);
void smoe_experts_owe(struct smoe_experts *store, const struct smoe_held_layer *layer, bool owed);

/* The store's number of the shard of an expert, or SMOE_NO_EXPERT. */
uint32_t smoe_experts_shard(struct smoe_experts *store, uint32_t wire, uint32_t index);

/* Is the layer's expert held with the state of the layer's step, and staged if the layer is? */
bool smoe_experts_current(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                          uint32_t index);

/* Is the number still the expert that had this serial, and held? */
bool smoe_experts_same(const struct smoe_experts *store, uint32_t expert, uint32_t serial);

/* Are all shards of the layer held with the state of the layer's step, and staged if the layer is? */
bool smoe_experts_shards_current(const struct smoe_experts *store,
                                 const struct smoe_held_layer *layer);

/* The connection is gone: daemon's numbers mean nothing, uncommitted gradients are dropped, and so is
 * what is staged unless its layer says that the step was staged whole. */
void smoe_experts_detach(struct smoe_experts *store);

/* Puts the layer's staged step in force as committed; or drops it. */
void smoe_experts_commit(struct smoe_experts *store, struct smoe_held_layer *layer, uint64_t step);
void smoe_experts_unstage(struct smoe_experts *store, struct smoe_held_layer *layer);

/* Forget the gradient sum and what is staged; now, or when the running task is done. */
void smoe_experts_clear(struct smoe_experts *store, uint32_t expert);
/* Its weights are there. */
void smoe_experts_made(struct smoe_experts *store, uint32_t expert);
/* Is something of the layer that is held still to be made? */
bool smoe_experts_to_make(const struct smoe_experts *store, const struct smoe_held_layer *layer);
/* A task on the expert is done: what waited for it happens now. */
void smoe_experts_idle(struct smoe_experts *store, uint32_t expert);

/* Gradient sums of slots are in the step that was committed: they begin again, and with staleness those of that step
 * alone. */
void smoe_experts_begin_again(struct smoe_experts *store, const struct smoe_held_layer *layer,
                              uint64_t step);

/* The sum of gradients that the step will commit, or has. */
smoe_real *smoe_experts_gradient(const struct smoe_experts *store, uint32_t expert, uint64_t step);

/* The weights of a visit that belongs to those of step `base`: of the two versions. Where nobody has those any more it
 * is `now`. No task runs on the expert. */
smoe_real *smoe_experts_weights(const struct smoe_experts *store, uint32_t expert, uint64_t base);

/* Has the slot these weights, or will when the running task is done: those of the layer's step, or the ones before? */
bool smoe_experts_slot_has(const struct smoe_experts *store, uint32_t expert, bool older);

/* The weights before those of a shard, for slots. Where they are not known they are the present ones. */
const smoe_real *smoe_experts_before(const struct smoe_experts *store, uint32_t expert);

/* The gradient sum of the step that a copy's host sent. */
void smoe_experts_take_gradient(struct smoe_experts *store, uint32_t expert, uint64_t step,
                                const uint8_t *bytes);
/* Copies it. */
void smoe_experts_read_gradient(const struct smoe_experts *store, uint32_t expert, uint64_t step,
                                uint8_t *ret_bytes);

/* Bytes of so many elements of a gradient or of weights as the layer's wire has them; and there and back. `part` is
 * aligned as its numbers are. */
size_t smoe_experts_part_bytes(const struct smoe_held_layer *layer, size_t n);
void smoe_experts_pack(const struct smoe_held_layer *layer, size_t n, const smoe_real *values,
                       void *ret_part);
void smoe_experts_unpack(const struct smoe_held_layer *layer, size_t n, const void *part,
                         smoe_real *ret_values);

/* Weights [n] of a slot at `offset`, as the layer's wire has them, under this number. When all have come the
 * slot has the state of the layer's step; now, or when the running task is done. */
void smoe_experts_fill_slot(struct smoe_experts *store, uint32_t expert, uint64_t fill,
                            size_t offset, size_t n, const void *part);
/* The same of the weights before those, of a slot that has those and on which no task runs. */
void smoe_experts_fill_older(struct smoe_experts *store, uint32_t expert, uint64_t fill,
                             size_t offset, size_t n, const void *part);
/* Room for so many local sums of the layer's hosts. SMOE_ENOMEMORY: it has as much as before. */
int smoe_experts_sums_for(struct smoe_experts *store, struct smoe_held_layer *layer,
                          uint32_t replicas, struct smoe_why *why);

/* Copies state out of or into an expert, in the order of StatePart; sizes are the caller's promise. What
 * is written belongs to the message's step, which is the layer's from then on. */
size_t smoe_experts_state_bytes(const struct smoe_held_layer *layer, uint32_t parts);
void smoe_experts_read(const struct smoe_experts *store, uint32_t expert, uint32_t parts,
                       uint8_t *ret_bytes);
void smoe_experts_write(struct smoe_experts *store, uint32_t expert,
                        const struct smoe_msg_expert_store *m, const uint8_t *bytes);

#endif
