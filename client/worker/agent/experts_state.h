/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the store of experts: what experts.c (what is held, steps, states) and experts_host.c (what shall be
 * held) share.
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

#endif
