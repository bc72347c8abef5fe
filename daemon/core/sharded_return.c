/* SPDX-License-Identifier: Apache-2.0
 *
 * Workers that come back with what they held of a sharded layer: to the daemon that knew them, or to one that has
 * started since and knows of them by its journal.
 *
 * The journal has the layer's committed step and who held which piece then, or a little later. It may be
 * behind by moves that were made since it was written, and workers may be behind it by a step. So it is a
 * hint about whom to wait for; what decides is which ranges a worker names in its Inventory, and of which
 * step and attempt they are. Whoever was to have a piece and comes without it has it no more; whoever has one
 * that lacks a holder holds it from then on. Of what is current somebody has kept a copy: a worker is told to
 * drop its own only when two others have it. A worker that was given its copy and did not hear that it
 * counts, before the connection broke, does not name it: so what nobody who has come has is not lost while
 * another is away that left after the last commit.
 *
 * Nothing is planned and nobody told before all that the journal names have come, or had their time (settle_ns).
 * Which slot held which expert is not journalled: slots are planned anew, and their weights sent again from pieces, as
 * after every step. What the gate wanted so far is forgotten; the first plan takes all experts for equal.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

/* ---- who is here ---- */

bool smoe_sharded_lost(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_shard_map *map = &c->layers[l].sharded->map;
    for (uint32_t i = 0; i < map->n_pieces; i++)
        if (map->pieces[i].owner == SMOE_SHARD_NONE)
            return true;
    return false;
}

bool smoe_sharded_hopes(const struct smoe_core *c, uint32_t l)
{
    uint64_t step_ns = c->layers[l].sharded->step_ns;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        const struct smoe_worker *w = &c->fleet.workers[i];
        bool away = w->state == SMOE_WORKER_LOST || w->state == SMOE_WORKER_JOINING;
        if (away && w->lost_ns >= step_ns)
            return true;
    }
    return false;
}

static bool is_awaited(const struct smoe_core *c, uint32_t worker)
{
    return c->settle_ns && worker != SMOE_SHARD_NONE && c->fleet.workers[worker].expected;
}

bool smoe_sharded_awaits(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_shard_map *map = &c->layers[l].sharded->map;
    for (uint32_t i = 0; c->settle_ns && i < map->n_pieces; i++)
        if (is_awaited(c, map->pieces[i].owner) || is_awaited(c, map->pieces[i].follower))
            return true;
    return false;
}

static bool is_absent(const struct smoe_core *c, uint32_t worker)
{
    return !smoe_standing_usable(c, worker) && !is_awaited(c, worker);
}

void smoe_sharded_leave_absent(struct smoe_core *c, uint32_t l)
{
    struct smoe_shard_map *map = &c->layers[l].sharded->map;
    for (uint32_t i = 0; i < map->n_pieces;) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        bool two = p->follower != SMOE_SHARD_NONE;
        bool owner = two && smoe_standing_usable(c, p->follower) && is_absent(c, p->owner);
        bool follower = two && smoe_standing_usable(c, p->owner) && is_absent(c, p->follower);
        if (!owner && !follower) {
            i++; /* of two that are away it is not known which will come back */
            continue;
        }
        smoe_sharded_worker_lost(c, l, owner ? p->owner : p->follower);
        i = 0; /* pieces may have been joined; each turn leaves fewer that have two holders */
    }
}

/* ---- what a worker brings back ---- */

/* Is the range within what the worker says it holds? */
static bool covered(const struct smoe_pieces *held, uint64_t offset, uint64_t length)
{
    uint64_t had = 0;
    for (size_t i = 0; i < held->n; i++) {
        uint64_t begin = held->offsets[i] > offset ? held->offsets[i] : offset;
        uint64_t end = held->offsets[i] + held->lengths[i];
        end = end < offset + length ? end : offset + length;
        had += begin < end ? end - begin : 0;
    }
    return had >= length;
}

/* What of it is of the layer's last committed step. */
static struct smoe_pieces current_of(const struct smoe_layer *layer,
                                     const struct smoe_inventory_layer *held)
{
    bool current =
        held && ((held->step == layer->step && held->attempt == layer->attempt) ||
                 (held->staged_step == layer->step && held->staged_attempt == layer->attempt));
    return current ? held->pieces : (struct smoe_pieces){0};
}

/* The worker is to have the piece and has not. */
static void miss(struct smoe_shard_piece *p, uint32_t worker)
{
    if (p->owner == worker) {
        p->owner = p->follower;
        p->follower = SMOE_SHARD_NONE;
    } else if (p->follower == worker) {
        p->follower = SMOE_SHARD_NONE;
    }
}

/* The worker has it: does it count? If those who shall have it are not here they may come without it. */
static void find(const struct smoe_core *c, struct smoe_shard_piece *p, uint32_t worker, bool quiet)
{
    bool is_here = smoe_standing_usable(c, p->owner) || smoe_standing_usable(c, p->follower);
    if (p->owner == worker || p->follower == worker)
        return;
    if (p->owner == SMOE_SHARD_NONE)
        p->owner = worker;
    else if (quiet && (p->follower == SMOE_SHARD_NONE || !is_here))
        p->follower = worker;
}

void smoe_sharded_returned(struct smoe_core *c, uint32_t l, uint32_t worker,
                           const struct smoe_inventory_layer *held)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    struct smoe_pieces has = current_of(layer, held);
    bool quiet = smoe_standing_quiet(c, layer);
    /* It may have parts of pieces. */
    for (size_t i = 0; i < has.n && s->map.n_pieces && layer->learned; i++)
        smoe_shard_cut_at(&s->map, has.offsets[i], has.lengths[i]);
    for (uint32_t i = 0; i < s->map.n_pieces && layer->learned; i++) {
        struct smoe_shard_piece *p = &s->map.pieces[i];
        struct smoe_shard_piece before = *p;
        if (covered(&has, p->offset, p->length))
            find(c, p, worker, quiet);
        else
            miss(p, worker);
        if (p->owner != before.owner || p->follower != before.follower)
            c->journal_due |= UINT64_C(1) << l;
    }
    smoe_shard_join(&s->map);
    /* Weights are sent again. */
    for (uint32_t e = 0; s->plan.n_workers && e < s->plan.n_experts; e++)
        for (uint32_t r = s->replica_first[e]; r < s->replica_first[e + 1]; r++)
            s->stale[r] |= s->replica_worker[r] == worker && layer->learned;
    if (held || smoe_sharded_on_worker(s, worker))
        c->fleet.workers[worker].host_due |= UINT64_C(1) << l;
}

/* ---- the journal ---- */

void smoe_sharded_record(struct smoe_core *c, uint32_t l, struct smoe_record *r)
{
    const struct smoe_shard_map *map = &c->layers[l].sharded->map;
    struct smoe_journal_piece *pieces = smoe_core_list(c, map->n_pieces * sizeof *pieces);
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        pieces[i].offset = p->offset;
        pieces[i].length = p->length;
        smoe_journal_name(c, p->owner, pieces[i].owner);
        smoe_journal_name(c, p->follower, pieces[i].follower);
    }
    r->layer.sharded = true;
    r->layer.grains = map->n_pieces ? map->grains : 0;
    r->layer.n_pieces = map->n_pieces;
    r->pieces = pieces;
}

int smoe_sharded_restore(struct smoe_core *c, uint32_t l, const struct smoe_restored_layer *from,
                         struct smoe_why *why)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_shard_map *map = &layer->sharded->map;
    int rc = 0;
    map->elements = smoe_relay_bytes(layer, SMOE_STATE_WEIGHTS) / smoe_real_bytes(layer);
    map->grains = from->layer.grains;
    for (uint32_t i = 0; i < from->layer.n_pieces && i < map->pieces_max && !rc; i++) {
        struct smoe_shard_piece *p = &map->pieces[i];
        *p = (struct smoe_shard_piece){from->pieces[i].offset, from->pieces[i].length,
                                       SMOE_SHARD_NONE, SMOE_SHARD_NONE};
        rc = smoe_journal_expect(c, from->pieces[i].owner, &p->owner, why);
        rc = rc ? rc : smoe_journal_expect(c, from->pieces[i].follower, &p->follower, why);
    }
    map->n_pieces = from->layer.n_pieces;
    bool right = map->n_pieces <= map->pieces_max &&
                 (!map->n_pieces || (map->grains && smoe_shard_valid(map, c->fleet.n_used)));
    if (rc == 0 && !right)
        rc = smoe_fail(why, SMOE_EDATA, "journal: the pieces of layer %s are not those of a layer",
                       layer->name);
    return rc;
}
