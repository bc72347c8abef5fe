/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the store of experts: what experts.c (what is held, steps, states), experts_host.c (what shall be held),
 * experts_slots.c (slots of sharded layers) and experts_sums.c (local sums) share.
 */
#ifndef SMOE_AGENT_EXPERTS_STATE_H
#define SMOE_AGENT_EXPERTS_STATE_H

#include "client/worker/agent/experts.h"

/* Vectors of an expert's moments, by what is held of it. */
unsigned smoe_held_moments(const struct smoe_held_layer *layer, enum smoe_held_kind kind);
/* now, staged (weights and moments each) and the gradient sum, of `n` elements each */
uint64_t smoe_held_bytes(const struct smoe_held_layer *layer, enum smoe_held_kind kind, size_t n);
/* Of the local sums that a sharded layer has room for. */
uint64_t smoe_held_sums_bytes(uint32_t replicas, size_t elements);

/* Takes the expert out of its layer; its memory goes when no task uses it. */
void smoe_held_drop(struct smoe_experts *store, uint32_t expert);
void smoe_held_drop_layer(struct smoe_experts *store, uint32_t layer);
/* Is any expert of the layer, dropped ones included, still in memory? Then its shape must stay. */
bool smoe_held_in_use(const struct smoe_experts *store, uint32_t layer);

/* Is there room for so many more experts and bytes? What goes is not counted: it may be busy for a while. */
int smoe_held_check_room(const struct smoe_experts *store, uint64_t experts, uint64_t bytes,
                         struct smoe_why *why);

/* Puts the staged state in force; now, or when the running task is done, or the one that makes the weights which it
 * replaces. */
void smoe_held_flip(struct smoe_experts *store, uint32_t expert);
/* Is what it has of that step and attempt; of the step before that one? */
bool smoe_held_is_of(const struct smoe_held_expert *e, uint64_t step, uint64_t attempt);
bool smoe_held_follows(const struct smoe_held_expert *e, uint64_t step);

/* Room for the local sums of a layer's hosts. */
struct smoe_held_sums {
    struct smoe_blob *blob; /* [replicas, elements] */
    size_t *came;           /* [replicas] */
};
int smoe_held_sums_make(uint32_t replicas, size_t elements, struct smoe_held_sums *ret,
                        struct smoe_why *why);
void smoe_held_sums_release(struct smoe_held_sums *sums);
/* The layer's are these from now on, for shards of so many elements. */
void smoe_held_sums_take(struct smoe_experts *store, struct smoe_held_layer *layer,
                         struct smoe_held_sums *sums, uint32_t replicas, size_t elements);

#endif
