/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots of sharded layers: how their weights come, and which they have.
 *
 *     fill_slot     the layer's present weights; when all are there those that were in force are the older ones
 *     fill_older    the weights before those, to a slot that has lost them, or never had them
 */
#include <string.h>

#include "client/worker/agent/experts_state.h"
#include "common/base/assert.h"
#include "common/kernels/bf16.h"

bool smoe_held_is_of(const struct smoe_held_expert *e, uint64_t step, uint64_t attempt)
{
    return e->state_step == step && e->state_attempt == attempt;
}

bool smoe_held_follows(const struct smoe_held_expert *e, uint64_t step)
{
    return e->state_step != SMOE_STEP_NEVER && e->state_step + 1 == step;
}

size_t smoe_experts_part_bytes(const struct smoe_held_layer *layer, size_t n)
{
    return n * (layer->shape.wire == SMOE_WIRE_BF16 ? sizeof(uint16_t) : sizeof(smoe_real));
}

void smoe_experts_pack(const struct smoe_held_layer *layer, size_t n, const smoe_real *values,
                       void *ret)
{
    if (layer->shape.wire == SMOE_WIRE_BF16)
        smoe_bf16_pack(n, values, ret);
    else
        memcpy(ret, values, n * sizeof *values);
}

void smoe_experts_unpack(const struct smoe_held_layer *layer, size_t n, const void *part,
                         smoe_real *ret)
{
    if (layer->shape.wire == SMOE_WIRE_BF16)
        smoe_bf16_unpack(n, part, ret);
    else
        memcpy(ret, part, n * sizeof *ret);
}

void smoe_experts_fill_slot(struct smoe_experts *store, uint32_t expert, uint64_t fill,
                            size_t offset, size_t n, const void *part)
{
    struct smoe_held_expert *e = &store->experts[expert];
    const struct smoe_held_layer *layer = &store->layers[e->layer];
    smoe_assert(e->kind == SMOE_HELD_SLOT && n <= e->n_params - offset);
    if (e->fill[0] != fill) {
        e->fill[0] = fill;
        e->filled[0] = 0;
        e->flip_wanted = e->has_staged =
            false; /* older ones, for which a task is still in the way */
    }
    smoe_experts_unpack(layer, n, part, e->staged.weights + offset);
    e->filled[0] += n;
    if (e->filled[0] != e->n_params)
        return;
    e->comes_step = layer->step;
    e->comes_attempt = layer->attempt;
    e->has_staged = true;
    smoe_held_flip(store, expert);
}

void smoe_experts_fill_older(struct smoe_experts *store, uint32_t expert, uint64_t fill,
                             size_t offset, size_t n, const void *part)
{
    struct smoe_held_expert *e = &store->experts[expert];
    smoe_assert(e->kind == SMOE_HELD_SLOT && n <= e->n_params - offset && !e->busy);
    if (!e->older)
        return;
    if (e->fill[1] != fill) {
        e->fill[1] = fill;
        e->filled[1] = 0;
        e->has_older = false;
    }
    smoe_experts_unpack(&store->layers[e->layer], n, part, e->older + offset);
    e->filled[1] += n;
    e->has_older |= e->filled[1] == e->n_params;
}

bool smoe_experts_slot_has(const struct smoe_experts *store, uint32_t expert, bool older)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    uint64_t step = store->layers[e->layer].step,
             has = e->flip_wanted ? e->comes_step : e->state_step;
    bool both = e->flip_wanted && !smoe_held_is_of(e, e->comes_step, e->comes_attempt)
                    ? smoe_held_follows(e, has)
                    : e->has_older;
    if (!older)
        return has == step && !e->copy;
    return has == step ? both : has != SMOE_STEP_NEVER && has + 1 == step;
}

const smoe_real *smoe_experts_before(const struct smoe_experts *store, uint32_t expert)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    return e->has_older ? e->older : e->now.weights;
}
