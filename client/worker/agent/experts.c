/* SPDX-License-Identifier: Apache-2.0
 *
 * Each expert's vectors are one block: now, staged, gradient, and with staleness a second gradient and older
 * weights. A commit swaps the pointers of now and staged; nothing is copied. With staleness the weights that
 * were in force are the older ones from then on, and the older ones before are what the next step is staged
 * in.
 */
#include "client/worker/agent/experts_state.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/kernels/bf16.h"

int smoe_experts_init(struct smoe_experts *store, uint64_t bytes_max)
{
    *store = (struct smoe_experts){.bytes_max = bytes_max};
    store->layers = calloc(SMOE_LAYERS_MAX, sizeof *store->layers);
    return store->layers ? 0 : SMOE_ENOMEMORY;
}

unsigned smoe_held_moments(const struct smoe_held_layer *layer, enum smoe_held_kind kind)
{
    if (kind == SMOE_HELD_SLOT)
        return 0;
    return smoe_optimizer_moments((enum smoe_optimizer_kind)layer->shape.optimizer);
}

uint64_t smoe_held_bytes(const struct smoe_held_layer *layer, enum smoe_held_kind kind, size_t n)
{
    unsigned vectors = 2 * (1 + smoe_held_moments(layer, kind)) + 1;
    unsigned more = kind == SMOE_HELD_SHARD ? 1 : 2; /* its sum is made while no other is */
    return (vectors + (layer->shape.staleness ? more : 0)) * n * sizeof(smoe_real);
}

static void free_expert(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_expert *e = &store->experts[number];
    store->bytes -= smoe_held_bytes(&store->layers[e->layer], e->kind, e->n_params);
    store->n_used--;
    store->n_to_make -= e->make_due ? 1 : 0;
    smoe_blob_unref(e->reads);
    free(e->block);
    *e = (struct smoe_held_expert){0};
}

void smoe_held_drop(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_expert *e = &store->experts[number];
    struct smoe_held_layer *layer = &store->layers[e->layer];
    uint32_t at = e->index + (e->kind == SMOE_HELD_SHARD ? layer->shape.experts : 0);
    if (layer->expert_at[at] == number)
        layer->expert_at[at] = SMOE_NO_EXPERT;
    if (e->busy)
        e->drop_wanted = true;
    else
        free_expert(store, number);
}

bool smoe_held_in_use(const struct smoe_experts *store, uint32_t layer)
{
    for (uint32_t i = 0; i < store->n_experts; i++)
        if (store->experts[i].used && store->experts[i].layer == layer)
            return true;
    return false;
}

static void free_lists(struct smoe_held_layer *layer)
{
    free(layer->expert_at);
    smoe_blob_unref(layer->sums_blob);
    free(layer->sum_elements);
    free(layer->first_sum);
    smoe_shard_layout_release(&layer->layout);
}

void smoe_held_drop_layer(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_layer *layer = &store->layers[number];
    for (uint32_t e = 0; e < layer->n_entries; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT)
            smoe_held_drop(store, layer->expert_at[e]);
    layer->wire = SMOE_NO_LAYER;
    smoe_experts_owe(store, layer, false);
    if (smoe_held_in_use(store, number)) {
        layer->run = 0; /* never found again; goes with its last task */
        return;
    }
    store->bytes -= smoe_held_sums_bytes(layer->replicas, layer->layout.elements);
    free_lists(layer);
    *layer = (struct smoe_held_layer){0};
}

void smoe_experts_release(struct smoe_experts *store)
{
    for (uint32_t i = 0; i < store->n_experts; i++) {
        smoe_blob_unref(store->experts[i].reads);
        if (store->experts[i].used)
            free(store->experts[i].block);
    }
    for (uint32_t l = 0; store->layers && l < SMOE_LAYERS_MAX; l++)
        free_lists(&store->layers[l]);
    free(store->experts);
    free(store->layers);
    *store = (struct smoe_experts){0};
}

struct smoe_held_layer *smoe_experts_layer(struct smoe_experts *store, uint32_t wire)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (store->layers[l].used && store->layers[l].wire == wire)
            return &store->layers[l];
    return NULL;
}

uint32_t smoe_experts_find(struct smoe_experts *store, uint32_t wire, uint32_t index)
{
    const struct smoe_held_layer *layer = smoe_experts_layer(store, wire);
    return layer && index < layer->shape.experts ? layer->expert_at[index] : SMOE_NO_EXPERT;
}

uint32_t smoe_experts_shard(struct smoe_experts *store, uint32_t wire, uint32_t index)
{
    const struct smoe_held_layer *layer = smoe_experts_layer(store, wire);
    if (!layer || !layer->sharded || index >= layer->shape.experts)
        return SMOE_NO_EXPERT;
    return layer->expert_at[layer->shape.experts + index];
}

/* ---- what is held ---- */

static bool is_current(const struct smoe_held_layer *layer, const struct smoe_held_expert *e)
{
    return e->state_step == layer->step && e->state_attempt == layer->attempt &&
           (!layer->staged_step || e->has_staged);
}

bool smoe_experts_shards_current(const struct smoe_experts *store,
                                 const struct smoe_held_layer *layer)
{
    for (uint32_t e = layer->shape.experts; e < layer->n_entries; e++)
        if (layer->expert_at[e] == SMOE_NO_EXPERT ||
            !is_current(layer, &store->experts[layer->expert_at[e]]))
            return false;
    return layer->sharded;
}

bool smoe_experts_current(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                          uint32_t index)
{
    if (layer->expert_at[index] == SMOE_NO_EXPERT)
        return false;
    return is_current(layer, &store->experts[layer->expert_at[index]]);
}

bool smoe_experts_same(const struct smoe_experts *store, uint32_t expert, uint32_t serial)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    return e->used && e->serial == serial && !e->drop_wanted;
}

void smoe_experts_detach(struct smoe_experts *store)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        store->layers[l].wire = SMOE_NO_LAYER;
    store->hosted_due = 0;
    for (uint32_t i = 0; i < store->n_experts; i++) {
        struct smoe_held_expert *e = &store->experts[i];
        if (!e->used)
            continue;
        bool keep = e->has_staged && !e->step_runs && store->layers[e->layer].staged_step;
        smoe_experts_clear(store, i);
        e->has_staged |= keep;
        e->fill[0] = e->fill[1] = 0; /* another daemon counts from the beginning */
    }
}

/* ---- steps ---- */

/* The gradient sums alone; what a step asked for after the clear that waits here is not taken back. */
static void clear_gradient(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    e->summed = false;
    e->clear_wanted = e->busy && !e->make_due; /* making does not touch it */
    if (e->clear_wanted)
        return;
    memset(e->gradients[0], 0, e->n_params * sizeof(smoe_real));
    if (e->gradients[1] != e->gradients[0])
        memset(e->gradients[1], 0, e->n_params * sizeof(smoe_real));
}

void smoe_experts_clear(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    e->step_task = 0;
    e->step_runs = false;
    if (!e->flip_wanted) /* a committed step is not taken back */
        e->has_staged = false;
    clear_gradient(store, expert);
}

/* A slot may be filled once more with what it has: then the weights before stay. */
void smoe_held_flip(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    if (!e->has_staged)
        return;
    e->flip_wanted = e->busy || e->make_due;
    if (e->flip_wanted)
        return;
    bool slot = e->kind == SMOE_HELD_SLOT;
    bool again = slot && smoe_held_is_of(e, e->comes_step, e->comes_attempt);
    bool next = !slot || smoe_held_follows(e, e->comes_step);
    struct smoe_expert_vectors now = e->now;
    e->now = e->staged;
    e->staged = now;
    e->has_staged = false;
    if (slot) {
        e->state_step = e->comes_step;
        e->state_attempt = e->comes_attempt;
    }
    if (!e->older || again)
        return;
    e->staged.weights = e->older;
    e->older = now.weights;
    e->has_older = next;
}

void smoe_experts_commit(struct smoe_experts *store, struct smoe_held_layer *layer, uint64_t step)
{
    layer->step = step;
    layer->attempt = layer->staged_attempt;
    layer->staged_step = layer->staged_attempt = 0;
    for (uint32_t e = 0; e < layer->n_entries; e++) {
        uint32_t number = layer->expert_at[e];
        if (number == SMOE_NO_EXPERT || !store->experts[number].has_staged ||
            store->experts[number].kind == SMOE_HELD_SLOT)
            continue;
        store->experts[number].state_step = step;
        store->experts[number].state_attempt = layer->attempt;
        smoe_held_flip(store, number);
    }
}

void smoe_experts_unstage(struct smoe_experts *store, struct smoe_held_layer *layer)
{
    layer->staged_step = layer->staged_attempt = 0;
    for (uint32_t e = 0; e < layer->n_entries; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT &&
            !store->experts[layer->expert_at[e]].flip_wanted)
            store->experts[layer->expert_at[e]].has_staged = false;
}

void smoe_experts_made(struct smoe_experts *store, uint32_t expert)
{
    smoe_assert(store->experts[expert].make_due && store->n_to_make);
    store->experts[expert].make_due = false;
    store->n_to_make--;
}

bool smoe_experts_owed(const struct smoe_experts *store, const struct smoe_held_layer *layer)
{
    return store->hosted_due >> (layer - store->layers) & 1;
}

void smoe_experts_owe(struct smoe_experts *store, const struct smoe_held_layer *layer, bool owed)
{
    uint64_t bit = UINT64_C(1) << (layer - store->layers);
    store->hosted_due = owed ? store->hosted_due | bit : store->hosted_due & ~bit;
}

bool smoe_experts_to_make(const struct smoe_experts *store, const struct smoe_held_layer *layer)
{
    for (uint32_t e = 0; store->n_to_make && e < layer->n_entries; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT && store->experts[layer->expert_at[e]].make_due)
            return true;
    return false;
}

void smoe_experts_idle(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    uint32_t layer = e->layer;
    e->busy = false;
    smoe_blob_unref(e->reads);
    e->reads = NULL;
    if (e->drop_wanted) {
        free_expert(store, expert);
        if (store->layers[layer].run == 0 && !smoe_held_in_use(store, layer))
            smoe_held_drop_layer(store, layer);
        return;
    }
    if (e->flip_wanted)
        smoe_held_flip(store, expert);
    if (e->clear_wanted)
        clear_gradient(store, expert);
}

/* A task that runs with staleness is of the next step, or of none: it has another sum. */
void smoe_experts_begin_again(struct smoe_experts *store, const struct smoe_held_layer *layer,
                              uint64_t step)
{
    for (uint32_t i = 0; layer->sharded && i < layer->shape.experts; i++) {
        uint32_t number = layer->expert_at[i];
        if (number == SMOE_NO_EXPERT)
            continue;
        const struct smoe_held_expert *e = &store->experts[number];
        if (layer->shape.staleness)
            memset(e->gradients[step % 2], 0, e->n_params * sizeof(smoe_real));
        else
            clear_gradient(store, number);
    }
}

/* ---- state in and out ---- */

static unsigned vectors_of(const struct smoe_held_layer *layer, uint32_t parts)
{
    return (parts & SMOE_STATE_WEIGHTS ? 1 : 0) +
           (parts & SMOE_STATE_MOMENTS ? smoe_held_moments(layer, SMOE_HELD_WHOLE) : 0) +
           (parts & SMOE_STATE_GRADIENT ? 1 : 0) +
           (parts & SMOE_STATE_OLDER && layer->shape.staleness ? 1 : 0);
}

size_t smoe_experts_state_bytes(const struct smoe_held_layer *layer, uint32_t parts)
{
    return vectors_of(layer, parts) * layer->n_params * sizeof(smoe_real);
}

/* The vectors that `parts` names, in their order on the wire; returns how many. The gradient is that of the next
 * step to be committed. */
static unsigned list_vectors(const struct smoe_held_layer *layer, const struct smoe_held_expert *e,
                             uint32_t parts, smoe_real *ret[5])
{
    unsigned n = 0;
    if (parts & SMOE_STATE_WEIGHTS)
        ret[n++] = e->now.weights;
    for (unsigned m = 0; (parts & SMOE_STATE_MOMENTS) && m < smoe_held_moments(layer, e->kind); m++)
        ret[n++] = e->now.moments[m];
    if (parts & SMOE_STATE_GRADIENT)
        ret[n++] = e->gradients[(layer->step + 1) % 2];
    if (parts & SMOE_STATE_OLDER && layer->shape.staleness)
        ret[n++] = e->older;
    return n;
}

void smoe_experts_read(const struct smoe_experts *store, uint32_t expert, uint32_t parts,
                       uint8_t *ret_bytes)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    const struct smoe_held_layer *layer = &store->layers[e->layer];
    smoe_real *vectors[5];
    unsigned n = list_vectors(layer, e, parts, vectors);
    for (unsigned i = 0; i < n; i++)
        memcpy(ret_bytes + i * layer->n_params * sizeof(smoe_real), vectors[i],
               layer->n_params * sizeof(smoe_real));
}

void smoe_experts_read_gradient(const struct smoe_experts *store, uint32_t expert, uint64_t step,
                                uint8_t *ret_bytes)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    memcpy(ret_bytes, e->gradients[step % 2], e->n_params * sizeof(smoe_real));
}

void smoe_experts_take_gradient(struct smoe_experts *store, uint32_t expert, uint64_t step,
                                const uint8_t *bytes)
{
    struct smoe_held_expert *e = &store->experts[expert];
    memcpy(e->gradients[step % 2], bytes, store->layers[e->layer].n_params * sizeof(smoe_real));
    e->summed = true;
}

smoe_real *smoe_experts_gradient(const struct smoe_experts *store, uint32_t expert, uint64_t step)
{
    return store->experts[expert].gradients[step % 2];
}

smoe_real *smoe_experts_weights(const struct smoe_experts *store, uint32_t expert, uint64_t base)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    bool older = e->has_older && e->state_step != SMOE_STEP_NEVER && base + 1 == e->state_step;
    return older ? e->older : e->now.weights;
}

void smoe_experts_write(struct smoe_experts *store, uint32_t expert,
                        const struct smoe_msg_expert_store *m, const uint8_t *bytes)
{
    struct smoe_held_expert *e = &store->experts[expert];
    struct smoe_held_layer *layer = &store->layers[e->layer];
    smoe_real *vectors[5];
    smoe_assert(!e->busy);
    unsigned n = list_vectors(layer, e, m->parts & ~(uint32_t)SMOE_STATE_GRADIENT, vectors);
    for (unsigned i = 0; i < n; i++)
        memcpy(vectors[i], bytes + i * layer->n_params * sizeof(smoe_real),
               layer->n_params * sizeof(smoe_real));
    smoe_experts_clear(store, expert);
    e->has_older = e->older && (m->parts & SMOE_STATE_OLDER);
    e->state_step = layer->step = m->step;
    e->state_attempt = layer->attempt = m->attempt;
}
