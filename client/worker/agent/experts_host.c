/* SPDX-License-Identifier: Apache-2.0
 *
 * What is held: experts that begin, and Host, which says what there shall be.
 *
 * When a sharded layer is cut otherwise, each shard begins anew in the new layout and takes along what both
 * layouts have, one expert after another: at no time is there more than one shard too many. What the gateway
 * calls held must have been there; what is to be filled starts as zeros.
 */
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/experts_state.h"
#include "common/base/assert.h"

static bool same_layer(const struct smoe_held_layer *layer, const struct smoe_msg_host *host)
{
    const struct smoe_layer_shape *a = &layer->shape, *b = &host->shape;
    return layer->used && layer->run == host->run && strcmp(layer->name, host->name) == 0 &&
           a->experts == b->experts && a->d_model == b->d_model && a->d_ff == b->d_ff &&
           a->activation == b->activation && a->dtype == b->dtype && a->optimizer == b->optimizer &&
           a->wire == b->wire && a->staleness == b->staleness;
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
    uint32_t l = 0, n = host->shape.experts * (host->sharded ? 2 : 1);
    while (l < SMOE_LAYERS_MAX && store->layers[l].used)
        l++;
    if (l == SMOE_LAYERS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "%d layers are held already", SMOE_LAYERS_MAX);
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t *expert_at = malloc(n * sizeof *expert_at);
    uint32_t *first_sum = calloc(host->shape.experts + 1, sizeof *first_sum);
    if (!expert_at || !first_sum) {
        free(expert_at);
        free(first_sum);
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    }
    for (uint32_t e = 0; e < n; e++)
        expert_at[e] = SMOE_NO_EXPERT;
    *layer = (struct smoe_held_layer){.used = true,
                                      .run = host->run,
                                      .shape = host->shape,
                                      .sharded = host->sharded,
                                      .n_entries = n,
                                      .first_sum = first_sum};
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

/* A new entry of the layer, all zeros, that the layer does not list yet. */
static int start_entry(struct smoe_experts *store, uint32_t l, enum smoe_held_kind kind,
                       uint32_t index, size_t n_params, uint32_t *ret_number, struct smoe_why *why)
{
    const struct smoe_held_layer *layer = &store->layers[l];
    uint64_t bytes = smoe_held_bytes(layer, kind, n_params);
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
        .kind = kind,
        .n_params = n_params,
        .state_step = SMOE_STEP_NEVER,
        .state_attempt = layer->attempt,
        .block = block,
    };
    store->n_used++;
    store->bytes += bytes;
    struct smoe_expert_vectors *sets[] = {&e->now, &e->staged};
    for (int s = 0; s < 2; s++) {
        sets[s]->weights = carve(&block, n_params);
        for (unsigned m = 0; m < smoe_held_moments(layer, kind); m++)
            sets[s]->moments[m] = carve(&block, n_params);
    }
    e->gradients[0] = e->gradients[1] = carve(&block, n_params);
    if (layer->shape.staleness) {
        e->gradients[1] = carve(&block, n_params);
        e->older = carve(&block, n_params);
    }
    *ret_number = number;
    return 0;
}

/* Its weights will be the seed's; of a shard those in `ranges`. */
static void make_later(struct smoe_experts *store, uint32_t number, struct smoe_blob *ranges)
{
    store->experts[number].make_due = true;
    store->experts[number].reads = ranges ? smoe_blob_ref(ranges) : NULL;
    store->n_to_make++;
}

/* A whole expert or a slot: of the seed if the layer has not learned yet, else empty. */
static int start_expert(struct smoe_experts *store, uint32_t l, uint32_t index, bool fresh,
                        struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t number;
    int rc = start_entry(store, l, layer->sharded ? SMOE_HELD_SLOT : SMOE_HELD_WHOLE, index,
                         layer->n_params, &number, why);
    if (rc)
        return rc;
    struct smoe_held_expert *e = &store->experts[number];
    if (fresh) {
        e->state_step = layer->step;
        make_later(store, number, NULL);
    }
    layer->expert_at[index] = number;
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
    if (host->sharded && host->shape.staleness)
        return smoe_fail(why, SMOE_ESHAPE, "HOST: a sharded layer cannot have staleness %u",
                         host->shape.staleness);
    return 0;
}

static bool named(const uint32_t *list, size_t n, size_t *at, uint32_t e)
{
    bool is = *at < n && list[*at] == e;
    *at += is;
    return is;
}

/* Experts and copies, or slots, that are not held yet. */
static uint64_t count_fresh(const struct smoe_held_layer *layer, const struct smoe_msg_host *host)
{
    size_t at = 0, at_copy = 0;
    uint64_t fresh = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        fresh += (serves || copy) && layer->expert_at[e] == SMOE_NO_EXPERT;
    }
    return fresh;
}

/* Is there room for so many more experts and bytes? What goes is not counted: it may be busy for a while. */
static int check_room(const struct smoe_experts *store, uint64_t experts, uint64_t bytes,
                      struct smoe_why *why)
{
    if (store->n_used + experts > SMOE_WORKER_EXPERTS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "%u experts are held already, at most %d", store->n_used,
                         SMOE_WORKER_EXPERTS_MAX);
    if (bytes > store->bytes_max - store->bytes)
        return smoe_fail(why, SMOE_ENOMEMORY, "%llu bytes more: %llu of %llu bytes are in use",
                         (unsigned long long)bytes, (unsigned long long)store->bytes,
                         (unsigned long long)store->bytes_max);
    return 0;
}

/* Entries of the layer that are younger than `serial` go again. */
static void drop_younger(struct smoe_experts *store, uint32_t l, uint32_t serial)
{
    struct smoe_held_layer *layer = &store->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->expert_at[e] != SMOE_NO_EXPERT &&
            store->experts[layer->expert_at[e]].serial > serial)
            smoe_held_drop(store, layer->expert_at[e]);
}

/* Room for what is named and not held yet: for all of it, or nothing has changed. */
static int start_named(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
                       struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t before = store->serials;
    size_t at = 0, at_copy = 0;
    int rc = 0;
    for (uint32_t e = 0; e < layer->shape.experts && !rc; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        if ((serves || copy) && layer->expert_at[e] == SMOE_NO_EXPERT)
            rc = start_expert(store, l, e, host->fresh, why);
    }
    if (rc)
        drop_younger(store, l, before);
    return rc;
}

/* Exactly the named experts and copies, in their roles; all of them are held. */
static void assume_roles(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host)
{
    struct smoe_held_layer *layer = &store->layers[l];
    size_t at = 0, at_copy = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        if (serves || copy)
            store->experts[layer->expert_at[e]].copy = copy;
        else if (layer->expert_at[e] != SMOE_NO_EXPERT)
            smoe_held_drop(store, layer->expert_at[e]);
    }
}

/* ---- sharded layers ---- */

/* The shard of one expert in the new layout: with what the old one has; or of the seed, if that is all there is, and
 * if the old one was still to be made of it. `ranges` are the layout's. */
static int recut(struct smoe_experts *store, uint32_t l, uint32_t index,
                 const struct smoe_shard_layout *layout, bool fresh, struct smoe_blob *ranges,
                 struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t *at = &layer->expert_at[layer->shape.experts + index], before = *at, number;
    int rc = 0;
    if (layout->elements)
        rc = start_entry(store, l, SMOE_HELD_SHARD, index, layout->elements, &number, why);
    if (rc)
        return rc;
    if (layout->elements) {
        struct smoe_expert_vectors *now = &store->experts[number].now;
        const struct smoe_expert_vectors *old =
            before == SMOE_NO_EXPERT ? NULL : &store->experts[before].now;
        bool seeded = fresh || (old && store->experts[before].make_due);
        if (seeded)
            make_later(store, number, ranges);
        else if (old)
            smoe_shard_carry(&layer->layout, old->weights, layout, now->weights);
        for (unsigned m = 0; old && !seeded && m < 2 && now->moments[m]; m++)
            smoe_shard_carry(&layer->layout, old->moments[m], layout, now->moments[m]);
    }
    if (before != SMOE_NO_EXPERT)
        smoe_held_drop(store, before);
    *at = layout->elements ? number : SMOE_NO_EXPERT;
    return 0;
}

static int recut_all(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
                     const struct smoe_shard_layout *layout, struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    size_t bytes = layout->n * sizeof *layout->ranges;
    struct smoe_blob *ranges = smoe_blob_new(NULL, bytes);
    int rc = ranges ? 0 : smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    if (ranges && bytes)
        memcpy(ranges->data, layout->ranges, bytes);
    for (uint32_t e = 0; e < layer->shape.experts && !rc; e++) {
        rc = recut(store, l, e, layout, host->fresh, ranges, why);
        store->torn = rc && e;
    }
    smoe_blob_unref(ranges);
    return rc;
}

/* Room for the local sums of a layer's hosts. */
struct sums {
    struct smoe_blob *blob; /* [replicas, elements] */
    size_t *came;           /* [replicas] */
};

static void release_sums(struct sums *sums)
{
    smoe_blob_unref(sums->blob);
    free(sums->came);
}

static int make_sums(uint32_t replicas, size_t elements, struct sums *ret, struct smoe_why *why)
{
    struct sums sums = {0};
    *ret = sums;
    if (!replicas || !elements)
        return 0;
    sums.blob = smoe_blob_new(NULL, replicas * elements * sizeof(smoe_real));
    sums.came = calloc(replicas, sizeof *sums.came);
    *ret = sums;
    if (sums.blob && sums.came)
        return 0;
    release_sums(ret);
    return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
}

/* The layer's are these from now on, for shards of so many elements. */
static void take_sums(struct smoe_experts *store, struct smoe_held_layer *layer, struct sums *sums,
                      uint32_t replicas, size_t elements)
{
    struct sums before = {layer->sums_blob, layer->sum_elements};
    store->bytes -= smoe_held_sums_bytes(layer->replicas, layer->layout.elements);
    store->bytes += smoe_held_sums_bytes(replicas, elements);
    layer->sums_blob = sums->blob;
    layer->sums = sums->blob ? (smoe_real *)(void *)sums->blob->data : NULL;
    layer->sum_elements = sums->came;
    layer->replicas = replicas;
    memset(layer->first_sum, 0, (layer->shape.experts + 1) * sizeof *layer->first_sum);
    release_sums(&before);
}

/* All that may fail comes first: where memory is out the layer is as it was, unless shards are `torn`. */
static int cut(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
               struct smoe_shard_layout *layout, struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t replicas = layout->elements ? host->replicas : 0;
    bool same = smoe_shard_layout_same(&layer->layout, layout);
    bool resized = !same || replicas != layer->replicas;
    struct sums sums = {0};
    int rc = resized ? make_sums(replicas, layout->elements, &sums, why) : 0;
    if (rc == 0 && !same && (rc = recut_all(store, l, host, layout, why)))
        release_sums(&sums);
    if (rc)
        return rc;
    if (resized)
        take_sums(store, layer, &sums, replicas, layout->elements);
    smoe_shard_layout_release(&layer->layout);
    layer->layout = *layout;
    *layout = (struct smoe_shard_layout){0};
    for (uint32_t e = layer->shape.experts; e < layer->n_entries; e++) {
        if (layer->expert_at[e] == SMOE_NO_EXPERT)
            continue;
        store->experts[layer->expert_at[e]].state_step = layer->step;
        store->experts[layer->expert_at[e]].state_attempt = layer->attempt;
    }
    return 0;
}

/* Inventory must be able to name all pieces. */
static int check_pieces(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                        size_t pieces, struct smoe_why *why)
{
    size_t n = pieces;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        n += &store->layers[l] == layer ? 0 : store->layers[l].layout.n;
    if (n <= SMOE_WORKER_PIECES_MAX)
        return 0;
    return smoe_fail(why, SMOE_ELIMIT, "%zu pieces of state, at most %d", n,
                     SMOE_WORKER_PIECES_MAX);
}

/* What a sharded layer needs beyond what it has: every shard anew if it is cut otherwise. */
static int check_sharded(const struct smoe_experts *store, const struct smoe_held_layer *layer,
                         const struct smoe_msg_host *host, const struct smoe_shard_layout *layout,
                         struct smoe_why *why)
{
    uint64_t fresh = count_fresh(layer, host), experts = layer->shape.experts;
    uint64_t bytes = fresh * smoe_held_bytes(layer, SMOE_HELD_SLOT, layer->n_params);
    uint64_t before = experts * smoe_held_bytes(layer, SMOE_HELD_SHARD, layer->layout.elements);
    uint64_t after = experts * smoe_held_bytes(layer, SMOE_HELD_SHARD, layout->elements);
    bool same = smoe_shard_layout_same(&layer->layout, layout);
    if (!same) /* one too many */
        bytes += smoe_held_bytes(layer, SMOE_HELD_SHARD, layout->elements);
    if (!same || host->replicas != layer->replicas) /* old sums are still there */
        bytes += smoe_held_sums_bytes(host->replicas, layout->elements);
    bytes += after > before ? after - before : 0;
    if (!host->fresh && !smoe_shard_covers(&layer->layout, layout))
        return smoe_fail(why, SMOE_EUNKNOWN, "HOST: a piece is named that is not held here");
    int rc = check_pieces(store, layer, layout->n, why);
    return rc ? rc : check_room(store, fresh + (layer->layout.elements ? 0 : experts), bytes, why);
}

/* ---- Host ---- */

/* Does all of it, or nothing; only shards that are being cut anew can be left `torn`. */
static int carry_out(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
                     struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    struct smoe_shard_layout layout = {0};
    uint32_t before = store->serials;
    int rc;
    if (!host->sharded) {
        uint64_t fresh = count_fresh(layer, host);
        rc = check_room(store, fresh,
                        fresh * smoe_held_bytes(layer, SMOE_HELD_WHOLE, layer->n_params), why);
    } else {
        rc = smoe_shard_layout_make(host, layer->n_params, &layout, why);
        rc = rc ? rc : check_sharded(store, layer, host, &layout, why);
    }
    rc = rc ? rc : start_named(store, l, host, why);
    if (rc == 0 && host->sharded && (rc = cut(store, l, host, &layout, why)))
        drop_younger(store, l, before);
    if (rc == 0)
        assume_roles(store, l, host);
    smoe_shard_layout_release(&layout);
    return rc;
}

int smoe_experts_host(struct smoe_experts *store, const struct smoe_msg_host *host,
                      struct smoe_why *why)
{
    uint32_t l = 0;
    bool nothing = host->n_experts + host->n_copies + host->pieces.n == 0;
    while (l < SMOE_LAYERS_MAX && !same_layer(&store->layers[l], host))
        l++;
    if (nothing && l < SMOE_LAYERS_MAX)
        smoe_held_drop_layer(store, l);
    if (nothing)
        return 0;
    int rc = check_host(host, why);
    bool stale = l < SMOE_LAYERS_MAX && ((host->fresh && store->layers[l].attempt) ||
                                         host->sharded != store->layers[l].sharded);
    if (!rc && stale) {
        smoe_held_drop_layer(store, l); /* of a life that the daemon has forgotten */
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
    rc = carry_out(store, l, host, why);
    if (rc && (store->torn || !smoe_held_in_use(store, l)))
        smoe_held_drop_layer(store, l); /* half of it was cut already, or nothing is held of it */
    return rc;
}
