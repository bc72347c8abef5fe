/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the slot share: slot.c (when, and the frequencies), slot_room.c (who can be given
 * how much), slot_route.c (routes), tracing.c
 * (telling what was decided, and from what).
 */
#ifndef SMOE_CORE_SLOT_STATE_H
#define SMOE_CORE_SLOT_STATE_H

#include "daemon/core/core_state.h"

/* Batches that one solve routes together. */
struct smoe_slot_group {
    uint32_t layer, top_k;
    bool training;
    enum smoe_policy policy; /* that routes them */
    uint32_t n_tokens;       /* of the batches in order, each from its waiting_first on */
    uint32_t n_batches;
    const uint32_t *batches; /* [n_batches] */
};

/* ---- slot.c ---- */
/* The settings as the laws take them. */
struct smoe_plan_law smoe_slot_law(const struct smoe_core *core);
/* What is known of the worker now, in visits of that many forward flops: all but its queue, and its cap,
 * which is the caller's. */
struct smoe_plan_worker smoe_slot_know(const struct smoe_core *core,
                                       const struct smoe_worker *worker, uint64_t forward_flops,
                                       bool training);
/* ... and its queue. */
void smoe_slot_know_queue(const struct smoe_core *core, const struct smoe_worker *worker,
                          uint64_t forward_flops, bool training, struct smoe_plan_worker *known);

/* ---- slot_room.c ---- */
/* Which live workers hold each of the layer's experts: core->replica_*. */
void smoe_slot_fill_replicas(struct smoe_core *core, const struct smoe_batch *batch);
/* Rows the worker can be given: what its inbox has room for, and no more in one slot than the raw part of one
 * Decision may have. For the layer whose replicas were filled last. */
uint32_t smoe_slot_room(const struct smoe_core *core, uint32_t layer, uint32_t worker);
/* No more room will come than there is with nothing at work: no host is about to leave or to stay. */
bool smoe_slot_hosts_open(const struct smoe_core *core, uint32_t layer);

/* ---- slot_route.c ---- */
/* Routes what waits, as far as caps and parcels allow; the parcels are on the worker_new lists. */
void smoe_slot_route(struct smoe_core *core);

/* ---- tracing.c: all of it does nothing unless options.trace_bytes_max is set ---- */

/* Takes down what is asked and known (core->known, core->replica_*), before anything is decided.
 * `scores` [n_tokens, experts] are copied; NULL: the experts are given. NULL if not traced. */
struct smoe_trace_route *smoe_tracing_asked(struct smoe_core *core,
                                            const struct smoe_slot_group *group,
                                            const float *scores);
/* ... and what was decided: core->chosen_*, of all tokens. `routed` alone counts if experts are given. */
void smoe_tracing_decided(struct smoe_core *core, struct smoe_trace_route *trace, uint64_t work_max,
                          const struct smoe_route_answer *answer);
/* A frequency was decided, from this; `smoe_tracing_slot_ends` tells them together. */
void smoe_tracing_frequency(struct smoe_core *core, uint32_t worker,
                            const struct smoe_plan_worker *known, uint64_t khz);
void smoe_tracing_slot_ends(struct smoe_core *core);

#endif
