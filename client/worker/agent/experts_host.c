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
    if (layer->shape.staleness)
        e->older = carve(&block, n_params);
    if (layer->shape.staleness && kind != SMOE_HELD_SHARD)
        e->gradients[1] = carve(&block, n_params);
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

/* The daemon's number now means layer l, and no other: what that one still owes an answer for has no name. */
static void give_wire(struct smoe_experts *store, uint32_t l, uint32_t wire)
{
    for (uint32_t i = 0; i < SMOE_LAYERS_MAX; i++) {
        if (i == l || store->layers[i].wire != wire)
            continue;
        store->layers[i].wire = SMOE_NO_LAYER;
        smoe_experts_owe(store, &store->layers[i], false);
    }
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

int smoe_held_check_room(const struct smoe_experts *store, uint64_t experts, uint64_t bytes,
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

/* What both layouts have of the old shard, to the new one. Where the weights before are not known they are the present
 * ones from now on: what is still to be filled comes with some. */
static void carry(const struct smoe_held_expert *old, const struct smoe_shard_layout *from,
                  struct smoe_held_expert *e, const struct smoe_shard_layout *to)
{
    smoe_shard_carry(from, old->now.weights, to, e->now.weights);
    for (unsigned m = 0; m < 2 && e->now.moments[m]; m++)
        smoe_shard_carry(from, old->now.moments[m], to, e->now.moments[m]);
    if (e->older)
        smoe_shard_carry(from, old->has_older ? old->older : old->now.weights, to, e->older);
}

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
        struct smoe_held_expert *e = &store->experts[number];
        const struct smoe_held_expert *old =
            before == SMOE_NO_EXPERT ? NULL : &store->experts[before];
        bool seeded = fresh || (old && old->make_due);
        e->has_older = !seeded && e->older;
        if (seeded)
            make_later(store, number, ranges);
        else if (old)
            carry(old, &layer->layout, e, layout);
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

/* All that may fail comes first: where memory is out the layer is as it was, unless shards are `torn`. */
static int cut(struct smoe_experts *store, uint32_t l, const struct smoe_msg_host *host,
               struct smoe_shard_layout *layout, struct smoe_why *why)
{
    struct smoe_held_layer *layer = &store->layers[l];
    uint32_t replicas = layout->elements ? host->replicas : 0;
    bool same = smoe_shard_layout_same(&layer->layout, layout);
    bool resized = !same || replicas != layer->replicas;
    struct smoe_held_sums sums = {0};
    int rc = resized ? smoe_held_sums_make(replicas, layout->elements, &sums, why) : 0;
    if (rc == 0 && !same && (rc = recut_all(store, l, host, layout, why)))
        smoe_held_sums_release(&sums);
    if (rc)
        return rc;
    if (resized)
        smoe_held_sums_take(store, layer, &sums, replicas, layout->elements);
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
    return rc ? rc
              : smoe_held_check_room(store, fresh + (layer->layout.elements ? 0 : experts), bytes,
                                     why);
}

/* ---- Host ---- */

/* Slots that were left, and that are not named any more, need not wait for those that come. */
static void drop_left(struct smoe_experts *store, const struct smoe_held_layer *layer,
                      const struct smoe_msg_host *host)
{
    size_t at = 0, at_copy = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        bool serves = named(host->experts, host->n_experts, &at, e);
        bool copy = named(host->copies, host->n_copies, &at_copy, e);
        uint32_t number = layer->expert_at[e];
        if (!serves && !copy && number != SMOE_NO_EXPERT && store->experts[number].copy)
            smoe_held_drop(store, number);
    }
}

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
        rc = smoe_held_check_room(
            store, fresh, fresh * smoe_held_bytes(layer, SMOE_HELD_WHOLE, layer->n_params), why);
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
    if (host->sharded)
        drop_left(store, layer, host);
    rc = carry_out(store, l, host, why);
    if (rc && (store->torn || !smoe_held_in_use(store, l)))
        smoe_held_drop_layer(store, l); /* half of it was cut already, or nothing is held of it */
    return rc;
}
