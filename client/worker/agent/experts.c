/* SPDX-License-Identifier: Apache-2.0
 *
 * Each expert's vectors are one block: now, staged, gradient. A commit swaps the pointers of now and
 * staged; nothing is copied.
 */
#include "client/worker/agent/experts.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

int smoe_experts_init(struct smoe_experts *store, uint64_t bytes_max)
{
    *store = (struct smoe_experts){.bytes_max = bytes_max};
    store->layers = calloc(SMOE_LAYERS_MAX, sizeof *store->layers);
    return store->layers ? 0 : SMOE_ENOMEMORY;
}

static unsigned moments_of(const struct smoe_held_layer *layer)
{
    return smoe_optimizer_moments((enum smoe_optimizer_kind)layer->shape.optimizer);
}

/* now, staged (weights and moments each) and the gradient sum */
static uint64_t expert_bytes(const struct smoe_held_layer *layer)
{
    return (2 * (1 + moments_of(layer)) + 1) * layer->n_params * sizeof(smoe_real);
}

/* The block's lowest address: now and staged swap places over time. */
static smoe_real *block_of(const struct smoe_held_expert *e)
{
    return e->now.weights < e->staged.weights ? e->now.weights : e->staged.weights;
}

static void free_expert(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_expert *e = &store->experts[number];
    struct smoe_held_layer *layer = &store->layers[e->layer];
    store->bytes -= expert_bytes(layer);
    store->n_used--;
    free(block_of(e));
    *e = (struct smoe_held_expert){0};
}

/* Takes the expert out of its layer; its memory goes when no task uses it. */
static void drop_expert(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_expert *e = &store->experts[number];
    store->layers[e->layer].expert_at[e->index] = SMOE_NO_EXPERT;
    if (e->busy)
        e->drop_wanted = true;
    else
        free_expert(store, number);
}

/* Is any expert of the layer, dropped ones included, still in memory? Then its shape must stay. */
static bool layer_in_use(const struct smoe_experts *store, uint32_t layer)
{
    for (uint32_t i = 0; i < store->n_experts; i++)
        if (store->experts[i].used && store->experts[i].layer == layer)
            return true;
    return false;
}

static void drop_layer(struct smoe_experts *store, uint32_t number)
{
    struct smoe_held_layer *layer = &store->layers[number];
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT)
            drop_expert(store, layer->expert_at[e]);
    layer->wire = SMOE_NO_LAYER;
    if (layer_in_use(store, number)) {
        layer->run = 0; /* never found again; goes with its last task */
        return;
    }
    free(layer->expert_at);
    *layer = (struct smoe_held_layer){0};
}

void smoe_experts_release(struct smoe_experts *store)
{
    for (uint32_t i = 0; i < store->n_experts; i++)
        if (store->experts[i].used)
            free(block_of(&store->experts[i]));
    for (uint32_t l = 0; store->layers && l < SMOE_LAYERS_MAX; l++)
        free(store->layers[l].expert_at);
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

/* ---- Host ---- */

static bool same_layer(const struct smoe_held_layer *layer, const struct smoe_msg_host *host)
{
    const struct smoe_layer_shape *a = &layer->shape, *b = &host->shape;
    return layer->used && layer->run == host->run && strcmp(layer->name, host->name) == 0 &&
           a->experts == b->experts && a->d_model == b->d_model && a->d_ff == b->d_ff &&
           a->activation == b->activation && a->dtype == b->dtype && a->optimizer == b->optimizer;
}

uint32_t smoe_experts_wire(const struct smoe_experts *store, const struct smoe_msg_host *host)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (same_layer(&store->layers[l], host))
            return store->layers[l].wire;
    return SMOE_NO_LAYER;
}

static int start_layer(struct smoe_experts *store, const struct smoe_msg_host *host,
                       uint32_t *ret_number, struct smoe_why *why)
{
    uint32_t l = 0;
    while (l < SMOE_LAYERS_MAX && store->layers[l].used)
        l++;
    if (l == SMOE_LAYERS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "%d layers are held already", SMOE_LAYERS_MAX);
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t *expert_at = malloc(host->shape.experts * sizeof *expert_at);
    if (!expert_at)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    for (uint32_t e = 0; e < host->shape.experts; e++)
        expert_at[e] = SMOE_NO_EXPERT;
    *layer = (struct smoe_held_layer){.used = true, .run = host->run, .shape = host->shape};
    memcpy(layer->name, host->name, sizeof layer->name);
    layer->ffn = (struct smoe_ffn_shape){host->shape.d_model, host->shape.d_ff,
                                         (enum smoe_activation)host->shape.activation};
    layer->n_params = smoe_ffn_layout(&layer->ffn).n_params;
    layer->forward_flops = smoe_task_forward_flops(&layer->ffn);
    layer->expert_at = expert_at;
    *ret_number = l;
    return 0;
}

/* A free entry, growing the table by doubling. SMOE_NO_EXPERT when memory is out. */
static uint32_t new_entry(struct smoe_experts *store)
{
    for (uint32_t i = 0; i < store->n_experts; i++)
        if (!store->experts[i].used)
            return i;
    uint32_t n = store->n_experts ? 2 * store->n_experts : 16;
    struct smoe_held_expert *grown = realloc(store->experts, n * sizeof *grown);
    if (!grown)
        return SMOE_NO_EXPERT;
    memset(grown + store->n_experts, 0, (n - store->n_experts) * sizeof *grown);
    uint32_t first = store->n_experts;
    store->experts = grown;
    store->n_experts = n;
    return first;
}

static smoe_real *carve(smoe_real **block, size_t n)
{
    smoe_real *vector = *block;
    *block += n;
    return vector;
}

/* Of the seed if the layer has not learned yet, else empty. */
static int start_expert(struct smoe_experts *store, uint32_t l, uint32_t index, bool fresh,
                        struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint64_t bytes = expert_bytes(layer);
    uint32_t number = new_entry(store);
    smoe_real *block = number == SMOE_NO_EXPERT ? NULL : calloc(1, bytes);
    if (!block)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for %llu bytes of expert %u",
                         (unsigned long long)bytes, index);
    struct smoe_held_expert *e = &store->experts[number];
    *e = (struct smoe_held_expert){
        .used = true,
        .serial = ++store->serials,
        .layer = l,
        .index = index,
        .state_step = fresh ? layer->step : SMOE_STEP_NEVER,
        .state_attempt = layer->attempt,
    };
    store->n_used++;
    struct smoe_expert_vectors *sets[] = {&e->now, &e->staged};
    for (int s = 0; s < 2; s++) {
        sets[s]->weights = carve(&block, layer->n_params);
        for (unsigned m = 0; m < moments_of(layer); m++)
            sets[s]->moments[m] = carve(&block, layer->n_params);
    }
    e->gradient = carve(&block, layer->n_params);
    if (fresh)
        smoe_ffn_init(&layer->ffn, layer->shape.seed, index, layer->shape.zero_output,
                      e->now.weights);
    layer->expert_at[index] = number;
    store->bytes += bytes;
    return 0;
}

/* The daemon's number now means layer l, and no other. */
static void give_wire(struct smoe_experts *store, uint32_t l, uint32_t wire)
{
    for (uint32_t i = 0; i < SMOE_LAYERS_MAX; i++)
        if (store->layers[i].wire == wire)
            store->layers[i].wire = SMOE_NO_LAYER;
    store->layers[l].wire = wire;
}

static int check_host(const struct smoe_msg_host *host, struct smoe_why *why)
{
    enum smoe_dtype ours = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32;
    if (host->shape.dtype != ours)
        return smoe_fail(why, SMOE_ESHAPE, "this worker computes in %s", SMOE_REAL_NAME);
    return 0;
}

static bool named(const uint32_t *list, size_t n, size_t *at, uint32_t e)
{
    bool is = *at < n && list[*at] == e;
    *at += is;
    return is;
}

/* Is there room for what is not held yet? What goes is not counted: it may be busy for a while. */
static int check_room(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                      const struct smoe_msg_host *host, struct smoe_why *why)
{
    size_t at = 0, at_copy = 0;
    uint64_t fresh = 0, bytes = expert_bytes(layer), room = store->bytes_max - store->bytes;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        fresh += (serves || copy) && layer->expert_at[e] == SMOE_NO_EXPERT;
    }
    if (store->n_used + fresh > SMOE_WORKER_EXPERTS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "%u experts are held already, at most %d", store->n_used,
                         SMOE_WORKER_EXPERTS_MAX);
    if (fresh > room / bytes)
        return smoe_fail(why, SMOE_ENOMEMORY,
                         "%llu experts of %llu bytes: %llu of %llu bytes are in use",
                         (unsigned long long)fresh, (unsigned long long)bytes,
                         (unsigned long long)store->bytes, (unsigned long long)store->bytes_max);
    return 0;
}

/* Exactly the named experts and copies, in their roles. */
static int hold(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
                struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    size_t at = 0, at_copy = 0;
    int rc = 0;
    for (uint32_t e = 0; e < layer->shape.experts && !rc; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        bool held = layer->expert_at[e] != SMOE_NO_EXPERT;
        if ((serves || copy) && !held)
            rc = start_expert(store, l, e, host->fresh, why);
        else if (!serves && !copy && held)
            drop_expert(store, layer->expert_at[e]);
        if ((serves || copy) && !rc)
            store->experts[layer->expert_at[e]].copy = copy;
    }
    return rc;
}

int smoe_experts_host(struct smoe_experts *store, const struct smoe_msg_host *host,
                      struct smoe_why *why)
{
    uint32_t l = 0;
    bool nothing = host->n_experts + host->n_copies == 0;
    while (l < SMOE_LAYERS_MAX && !same_layer(&store->layers[l], host))
        l++;
    if (nothing && l < SMOE_LAYERS_MAX)
        drop_layer(store, l);
    if (nothing)
        return 0;
    int rc = check_host(host, why);
    if (!rc && l < SMOE_LAYERS_MAX && host->fresh && store->layers[l].attempt) {
        drop_layer(store, l); /* of a life that the daemon has forgotten: the seed is wanted */
        l = SMOE_LAYERS_MAX;
    }
    if (rc || (l == SMOE_LAYERS_MAX && (rc = start_layer(store, host, &l, why))))
        return rc;
    struct smoe_held_layer *layer = &store->layers[l];
    give_wire(store, l, host->layer);
    if (layer->staged_step && layer->staged_step == host->step &&
        layer->staged_attempt == host->attempt)
        smoe_experts_commit(store, layer, host->step);
    else if (layer->staged_step)
        smoe_experts_unstage(store, layer);
    layer->step = host->step;
    layer->attempt = host->attempt;
    rc = check_room(store, layer, host, why);
    if (rc == 0 && (rc = hold(store, l, host, why)) != 0)
        drop_layer(store, l); /* the machine is out of memory */
    else if (rc && !layer_in_use(store, l))
        drop_layer(store, l);
    return rc;
}

bool smoe_experts_current(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                          uint32_t index)
{
    if (layer->expert_at[index] == SMOE_NO_EXPERT)
        return false;
    const struct smoe_held_expert *e = &store->experts[layer->expert_at[index]];
    return e->state_step == layer->step && e->state_attempt == layer->attempt &&
           (!layer->staged_step || e->has_staged);
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
    for (uint32_t i = 0; i < store->n_experts; i++) {
        struct smoe_held_expert *e = &store->experts[i];
        if (!e->used)
            continue;
        bool keep = e->has_staged && !e->step_runs && store->layers[e->layer].staged_step;
        smoe_experts_clear(store, i);
        e->has_staged |= keep;
    }
}

/* ---- steps ---- */

/* The gradient sum alone; what a step asked for after the clear that waits here is not taken back. */
static void clear_gradient(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    e->summed = false;
    e->clear_wanted = e->busy;
    if (!e->busy)
        memset(e->gradient, 0, store->layers[e->layer].n_params * sizeof *e->gradient);
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

/* Put the staged state in force; now, or when the running task is done. */
static void flip(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    if (!e->has_staged)
        return;
    e->flip_wanted = e->busy;
    if (e->busy)
        return;
    struct smoe_expert_vectors now = e->now;
    e->now = e->staged;
    e->staged = now;
    e->has_staged = false;
}

void smoe_experts_commit(struct smoe_experts *store, struct smoe_held_layer *layer, uint64_t step)
{
    layer->step = step;
    layer->attempt = layer->staged_attempt;
    layer->staged_step = layer->staged_attempt = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        uint32_t number = layer->expert_at[e];
        if (number == SMOE_NO_EXPERT || !store->experts[number].has_staged)
            continue;
        store->experts[number].state_step = step;
        store->experts[number].state_attempt = layer->attempt;
        flip(store, number);
    }
}

void smoe_experts_unstage(struct smoe_experts *store, struct smoe_held_layer *layer)
{
    layer->staged_step = layer->staged_attempt = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT &&
            !store->experts[layer->expert_at[e]].flip_wanted)
            store->experts[layer->expert_at[e]].has_staged = false;
}

void smoe_experts_idle(struct smoe_experts *store, uint32_t expert)
{
    struct smoe_held_expert *e = &store->experts[expert];
    uint32_t layer = e->layer;
    e->busy = false;
    if (e->drop_wanted) {
        free_expert(store, expert);
        if (store->layers[layer].run == 0 && !layer_in_use(store, layer))
            drop_layer(store, layer);
        return;
    }
    if (e->flip_wanted)
        flip(store, expert);
    if (e->clear_wanted)
        clear_gradient(store, expert);
}

/* ---- state in and out ---- */

static unsigned vectors_of(const struct smoe_held_layer *layer, uint32_t parts)
{
    return (parts & SMOE_STATE_WEIGHTS ? 1 : 0) +
           (parts & SMOE_STATE_MOMENTS ? moments_of(layer) : 0) +
           (parts & SMOE_STATE_GRADIENT ? 1 : 0);
}

size_t smoe_experts_state_bytes(const struct smoe_held_layer *layer, uint32_t parts)
{
    return vectors_of(layer, parts) * layer->n_params * sizeof(smoe_real);
}

/* The vectors that `parts` names, in their order on the wire; returns how many. */
static unsigned list_vectors(const struct smoe_held_layer *layer, const struct smoe_held_expert *e,
                             uint32_t parts, smoe_real *ret[4])
{
    unsigned n = 0;
    if (parts & SMOE_STATE_WEIGHTS)
        ret[n++] = e->now.weights;
    for (unsigned m = 0; (parts & SMOE_STATE_MOMENTS) && m < moments_of(layer); m++)
        ret[n++] = e->now.moments[m];
    if (parts & SMOE_STATE_GRADIENT)
        ret[n++] = e->gradient;
    return n;
}

void smoe_experts_read(const struct smoe_experts *store, uint32_t expert, uint32_t parts,
                       uint8_t *ret_bytes)
{
    const struct smoe_held_expert *e = &store->experts[expert];
    const struct smoe_held_layer *layer = &store->layers[e->layer];
    smoe_real *vectors[4];
    unsigned n = list_vectors(layer, e, parts, vectors);
    for (unsigned i = 0; i < n; i++)
        memcpy(ret_bytes + i * layer->n_params * sizeof(smoe_real), vectors[i],
               layer->n_params * sizeof(smoe_real));
}

void smoe_experts_take_gradient(struct smoe_experts *store, uint32_t expert, const uint8_t *bytes)
{
    struct smoe_held_expert *e = &store->experts[expert];
    memcpy(e->gradient, bytes, store->layers[e->layer].n_params * sizeof(smoe_real));
    e->summed = true;
}

void smoe_experts_write(struct smoe_experts *store, uint32_t expert,
                        const struct smoe_msg_expert_store *m, const uint8_t *bytes)
{
    struct smoe_held_expert *e = &store->experts[expert];
    struct smoe_held_layer *layer = &store->layers[e->layer];
    smoe_real *vectors[4];
    smoe_assert(!e->busy);
    unsigned n = list_vectors(layer, e, m->parts & ~(uint32_t)SMOE_STATE_GRADIENT, vectors);
    for (unsigned i = 0; i < n; i++)
        memcpy(vectors[i], bytes + i * layer->n_params * sizeof(smoe_real),
               layer->n_params * sizeof(smoe_real));
    smoe_experts_clear(store, expert);
    e->state_step = layer->step = m->step;
    e->state_attempt = layer->attempt = m->attempt;
}
