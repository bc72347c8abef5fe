/* SPDX-License-Identifier: Apache-2.0
 *
 * Small questions that many of the core's files ask. Included by core_state.h, at its end.
 */
#ifndef SMOE_CORE_CORE_INLINE_H
#define SMOE_CORE_CORE_INLINE_H

#include "daemon/core/core_state.h"

/* A verdict that fails the message or the session; the sentence is in why. */
static inline struct smoe_verdict smoe_verdict_fail(unsigned kind, int code, uint64_t batch,
                                                    uint64_t request)
{
    return (struct smoe_verdict){.kind = kind, .code = code, .batch = batch, .request = request};
}

/* How long a worker may be silent: as is set, and not below three slots. */
static inline uint64_t smoe_silence_ns(const struct smoe_core *c)
{
    uint64_t three_slots = 3 * c->options.settings.slot_ns;
    uint64_t silence = c->options.settings.silence_ns;
    return silence > three_slots ? silence : three_slots;
}

/* How long this one may: as long as it was told at least. */
static inline uint64_t smoe_worker_silence_ns(const struct smoe_core *c,
                                              const struct smoe_worker *w)
{
    uint64_t now = smoe_silence_ns(c);
    return w->told_silence_ns > now ? w->told_silence_ns : now;
}

/* Who follows the expert once everything is filled; SMOE_NONE: nobody. */
static inline uint32_t smoe_standing_follower_to_be(const struct smoe_expert_view *expert)
{
    return expert->filling != SMOE_NONE ? expert->filling : expert->follower;
}

static inline size_t smoe_real_bytes(const struct smoe_layer *layer)
{
    return layer->shape.dtype == SMOE_DTYPE_F64 ? 8 : 4;
}

/* The place of the request that was given this number, whatever is there now; NULL: nothing ever was. */
static inline struct smoe_relay *smoe_relay_place(const struct smoe_core *c, uint64_t number)
{
    uint64_t i = number % SMOE_RELAYS_MAX;
    return i < c->relays_reached ? &c->relays[i] : NULL;
}

/* Vectors of moments that its optimizer keeps. */
static inline uint64_t smoe_layer_moments(const struct smoe_layer *layer)
{
    return layer->shape.optimizer == 2 ? 2 : 1;
}

/* Bytes of one element in a ShardPart: all its vectors in full if it is a state, else as the layer's wire has it. */
static inline uint64_t smoe_part_element_bytes(const struct smoe_layer *layer, bool state)
{
    if (state)
        return (1 + smoe_layer_moments(layer)) * smoe_real_bytes(layer);
    return layer->shape.wire == SMOE_WIRE_BF16 ? 2 : smoe_real_bytes(layer);
}

/* ... of a state that another worker is to hold from then on: with the weights before, if the layer has them. */
static inline uint64_t smoe_held_element_bytes(const struct smoe_layer *layer)
{
    return smoe_part_element_bytes(layer, true) +
           (layer->shape.staleness ? smoe_real_bytes(layer) : 0);
}

static inline size_t smoe_row_bytes(const struct smoe_layer *layer)
{
    return layer->shape.d_model * smoe_real_bytes(layer);
}

/* In front of a Submit's x: experts, what the router in force reads, or scores. */
static inline uint64_t smoe_choice_bytes(const struct smoe_layer *layer,
                                         const struct smoe_msg_submit *m)
{
    if (m->routed)
        return ((uint64_t)m->tokens * m->top_k * sizeof(uint16_t) + 7) / 8 * 8;
    if (m->router_version)
        return smoe_frozen_bytes(&layer->router.in_force, m->tokens);
    return (uint64_t)m->tokens * layer->shape.experts * sizeof(float);
}

/* What a Submit with that raw part costs in credit: a router's tokens become scores here. A layer that is not
 * there costs what came. */
static inline uint64_t smoe_submit_credit(const struct smoe_layer *layer,
                                          const struct smoe_msg_submit *m, uint64_t raw_bytes)
{
    return raw_bytes +
           (m->router_version ? smoe_frozen_credit_bytes(m->tokens, layer->shape.experts) : 0);
}

/* Most rows of a parcel: its Result, 8 bytes a row longer than its x, must fit a frame too. 0: no row
 * of this layer fits. */
static inline uint32_t smoe_parcel_rows_max(const struct smoe_core *core,
                                            const struct smoe_layer *layer)
{
    uint64_t rows = core->options.tensor_bytes_max / (smoe_row_bytes(layer) + 8);
    return rows < SMOE_PARCEL_ROWS_MAX ? (uint32_t)rows : SMOE_PARCEL_ROWS_MAX;
}

#endif
