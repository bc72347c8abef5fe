/* SPDX-License-Identifier: Apache-2.0
 *
 * Who shall hold what of a sharded layer: pieces of optimizer state (shard.h) and slots (place.h).
 *
 * Pieces change with the fleet only. While the seed still gives every expert the layer is simply cut anew. Afterwards
 * a change names moves, of which one range at a time is filled, between steps and as many bytes as FILL_BYTES; when
 * it has come it counts, the map says so, and the next change is asked of the map as it is then. So the map in force
 * is right at every commit, and a fleet that changes again in between costs nothing.
 *
 * Slots are planned at every commit, from what the gate wanted since the last one; and whenever a host is gone.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

#define FILL_BYTES (16u << 20) /* a step waits for the filling of so many bytes at worst */

/* ---- the fleet, as this layer sees it ---- */

bool smoe_sharded_willing(const struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    return smoe_standing_usable(c, worker) && w->state == SMOE_WORKER_READY && w->memory_bytes &&
           !(w->refused_copies >> l & 1);
}

uint32_t smoe_sharded_count_willing(const struct smoe_core *c, uint32_t l)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        n += smoe_sharded_willing(c, l, w);
    return n;
}

static uint64_t slot_bytes(const struct smoe_layer *layer)
{
    /* Two versions, and the gradient; with staleness one more of each, and as much again for the slot that was left. */
    return (layer->shape.staleness ? 10 : 3) * smoe_relay_bytes(layer, SMOE_STATE_WEIGHTS);
}

/* Slots that the worker gives to the layer: what it said; else as many as fit half of its memory, up to twice as
 * many in all as there are experts. */
static uint32_t slots_of(const struct smoe_core *c, const struct smoe_layer *layer, uint32_t worker,
                         uint32_t n_willing)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    uint32_t even = (2 * layer->shape.experts + n_willing - 1) / n_willing;
    uint64_t most = SMOE_LAYER_REPLICAS_MAX / n_willing;
    uint64_t fits = w->memory_bytes / 2 / slot_bytes(layer);
    uint64_t n = w->expert_slots ? w->expert_slots : even < fits ? even : fits;
    n = n < most ? n : most;
    n = n < layer->shape.experts ? n : layer->shape.experts;
    return n ? (uint32_t)n : 1;
}

static double speed_of(const struct smoe_core *c, const struct smoe_layer *layer, uint32_t worker)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    return w->freq_max_hz * w->lanes * smoe_worker_efficiency(w) /
           smoe_worker_cycles_per_visit(w, layer->forward_flops, true);
}

static struct smoe_place_problem problem_of(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharding *all = c->sharding;
    const struct smoe_layer *layer = &c->layers[l];
    uint32_t n_willing = smoe_sharded_count_willing(c, l);
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        bool willing = smoe_sharded_willing(c, l, w);
        all->slots[w] = willing ? slots_of(c, layer, w, n_willing) : 0;
        all->speed[w] = willing ? speed_of(c, layer, w) : 0;
    }
    return (struct smoe_place_problem){.n_experts = layer->shape.experts,
                                       .n_workers = c->fleet.n_used,
                                       .slots = all->slots,
                                       .speed = all->speed,
                                       .sharing = SMOE_PLACE_BY_PRICE};
}

/* ---- slots ---- */

bool smoe_sharded_at_rest(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    return layer->owner == SMOE_NONE || (!c->trainers[layer->owner].n_batches &&
                                         c->trainers[layer->owner].step.phase == SMOE_STEP_NONE);
}

/* Is the plan in force one that this fleet can go on with? Newcomers and workers that leave in peace wait for the
 * next step, if there may be one. */
static bool stands(const struct smoe_core *c, uint32_t l, const struct smoe_place_problem *problem)
{
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_place_plan *plan = &layer->sharded->plan;
    bool same = plan->n_workers > 0;
    for (uint32_t w = 0; w < problem->n_workers || w < plan->n_workers; w++) {
        uint32_t has = w < plan->n_workers ? plan->slot_first[w + 1] - plan->slot_first[w] : 0;
        uint32_t may = w < problem->n_workers ? problem->slots[w] : 0;
        bool refused = has && (c->fleet.workers[w].refused_copies >> l & 1);
        if (has && (!smoe_standing_usable(c, w) || refused))
            return false;
        same &= has == may;
    }
    return same || (plan->n_workers > 0 && !smoe_sharded_at_rest(c, l));
}

static bool in_next(const struct smoe_sharding *all, uint32_t expert, uint32_t worker)
{
    for (uint32_t r = all->next_first[expert]; r < all->next_first[expert + 1]; r++)
        if (all->next_worker[r] == worker)
            return true;
    return false;
}

/* Those who gain or lose a slot must be told. */
static void mark_changes(struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharding *all = c->sharding;
    const struct smoe_layer *layer = &c->layers[l];
    const struct smoe_sharded *s = layer->sharded;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        for (uint32_t r = s->replica_first[e]; r < s->replica_first[e + 1]; r++)
            if (!in_next(all, e, s->replica_worker[r]))
                c->fleet.workers[s->replica_worker[r]].host_due |= UINT64_C(1) << l;
        for (uint32_t r = all->next_first[e]; r < all->next_first[e + 1]; r++)
            if (!smoe_sharded_hosts(s, all->next_worker[r], e))
                c->fleet.workers[all->next_worker[r]].host_due |= UINT64_C(1) << l;
    }
}

static uint32_t n_slots(const struct smoe_place_plan *plan)
{
    return plan->n_workers ? plan->slot_first[plan->n_workers] : 0;
}

static void swap_lists(uint32_t **a, uint32_t **b)
{
    uint32_t *t = *a;
    *a = *b;
    *b = t;
}

/* The plan that was made is in force; `kept`: weights that are there are those of the layer's step. */
static void adopt(struct smoe_core *c, uint32_t l, bool kept)
{
    struct smoe_sharding *all = c->sharding;
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    smoe_place_replicas(&all->next, all->next_first, all->next_worker);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        for (uint32_t r = all->next_first[e]; r < all->next_first[e + 1]; r++)
            all->next_stale[r] =
                layer->learned && !(kept && smoe_sharded_has_weights(s, e, all->next_worker[r]));
    mark_changes(c, l);
    bool resized = n_slots(&s->plan) != n_slots(&all->next);
    for (uint32_t w = 0; resized && w < c->fleet.n_used; w++)
        if (smoe_shard_holds(&s->map, w)) /* it keeps room for so many local sums */
            c->fleet.workers[w].host_due |= UINT64_C(1) << l;
    struct smoe_place_plan before = s->plan;
    s->plan = all->next;
    all->next = before;
    swap_lists(&s->replica_first, &all->next_first);
    swap_lists(&s->replica_worker, &all->next_worker);
    bool *stale = s->stale;
    s->stale = all->next_stale;
    all->next_stale = stale;
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        layer->experts[e].worker = s->replica_worker[s->replica_first[e]];
}

/* There is no plan for this fleet. What is placed may stay, with new weights, if a step alone asked for another;
 * else nothing is. */
static void give_up(struct smoe_core *c, uint32_t l, bool stay)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    memset(s->stale, 1, SMOE_LAYER_REPLICAS_MAX * sizeof *s->stale);
    if (stay)
        return;
    for (uint32_t r = 0; r < s->replica_first[c->layers[l].shape.experts]; r++)
        c->fleet.workers[s->replica_worker[r]].host_due |= UINT64_C(1) << l;
    memset(s->replica_first, 0, (SMOE_EXPERTS_MAX + 1) * sizeof *s->replica_first);
    s->plan.n_workers = 0;
}

/* `due`: weights are those of a step before. */
static void plan_by_rule(struct smoe_core *c, uint32_t l, const struct smoe_place_problem *problem,
                         bool due)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    smoe_exchange_void(c, l);
    bool had = s->plan.n_workers > 0;
    if (!smoe_place_slots(problem) ||
        smoe_place_planner_next(s->planner, problem, had ? &s->plan : NULL, c->sharding->place,
                                &c->sharding->next))
        give_up(c, l, due); /* not enough slots: it waits for workers */
    else
        adopt(c, l, !due);
}

void smoe_sharded_replan(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    struct smoe_place_problem problem = problem_of(c, l);
    bool due = s->plan_due;
    if (!due && stands(c, l, &problem))
        return;
    if (due) {
        smoe_place_planner_see(s->planner, s->popularity);
        memset(s->popularity, 0, c->layers[l].shape.experts * sizeof *s->popularity);
        s->plan_due = false;
    }
    plan_by_rule(c, l, &problem, due);
}

/* The worker of the fleet with the name, if it has as many slots. */
static bool find_placed(const struct smoe_core *c, const struct smoe_place_problem *problem,
                        const char *name, uint32_t slots, uint32_t *ret)
{
    return smoe_fleet_find(&c->fleet, name, ret) && *ret < problem->n_workers &&
           problem->slots[*ret] == slots;
}

/* Makes the placement of workers by name the next plan; false if this is not the fleet that had it. */
static bool plan_as_placed(struct smoe_core *c, const struct smoe_place_problem *problem,
                           const struct smoe_placement *p)
{
    struct smoe_place_plan *next = &c->sharding->next;
    uint32_t q = 0, w;
    if (p->n_slots != smoe_place_slots(problem))
        return false;
    next->n_experts = problem->n_experts;
    next->n_workers = problem->n_workers;
    next->slot_first[0] = 0;
    for (w = 0; w < problem->n_workers; w++)
        next->slot_first[w + 1] = next->slot_first[w] + problem->slots[w];
    for (uint32_t i = 0; i < p->n_workers; i++) {
        if (!find_placed(c, problem, p->workers[i], p->slots[i], &w))
            return false;
        for (uint32_t k = 0; k < p->slots[i]; k++)
            next->expert[next->slot_first[w] + k] = (uint16_t)p->experts[q++];
    }
    return smoe_place_valid(problem, next, c->sharding->place);
}

void smoe_sharded_place_again(struct smoe_core *c, uint32_t l,
                              const struct smoe_placement *placement)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    struct smoe_place_problem problem = problem_of(c, l);
    memset(s->popularity, 0, c->layers[l].shape.experts * sizeof *s->popularity);
    s->plan_due = false;
    if (!placement || !placement->n_workers || !plan_as_placed(c, &problem, placement)) {
        plan_by_rule(c, l, &problem, false);
        return;
    }
    smoe_exchange_void(c, l);
    adopt(c, l, true);
}

/* ---- pieces ---- */

/* Memory counts while the worker may be given something; `gone`: it can be asked for nothing. */
static void weigh(struct smoe_core *c, uint32_t l)
{
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        bool willing = smoe_sharded_willing(c, l, w);
        c->sharding->memory[w] = willing ? c->fleet.workers[w].memory_bytes : 0;
        c->sharding->gone[w] = !willing && !smoe_standing_usable(c, w);
    }
}

static void mark_holders(struct smoe_core *c, uint32_t l, const struct smoe_shard_map *map)
{
    for (uint32_t i = 0; i < map->n_pieces; i++) {
        const struct smoe_shard_piece *p = &map->pieces[i];
        c->fleet.workers[p->owner].host_due |= UINT64_C(1) << l;
        if (p->follower != SMOE_SHARD_NONE)
            c->fleet.workers[p->follower].host_due |= UINT64_C(1) << l;
    }
    c->journal_due |= UINT64_C(1) << l;
}

static void take_map(struct smoe_core *c, uint32_t l)
{
    smoe_sharded_interrupt_fetches(c, l);
    struct smoe_shard_map *map = &c->layers[l].sharded->map, *spare = &c->sharding->spare;
    mark_holders(c, l, map);
    mark_holders(c, l, spare);
    struct smoe_shard_map before = *map;
    *map = *spare;
    *spare = before;
}

/* A map never has more pieces than grains, and every piece of every expert is a message from each of its hosts, so they
 * are few: shares are in proportion to memory within a sixteenth of an equal one. */
static uint32_t grains_for(uint32_t workers)
{
    uint32_t grains = 16 * workers;
    grains = grains > 64 ? grains : 64;
    return grains < SMOE_WORKER_PIECES_MAX ? grains : SMOE_WORKER_PIECES_MAX;
}

bool smoe_sharded_cut(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    uint64_t elements = smoe_relay_bytes(layer, SMOE_STATE_WEIGHTS) / smoe_real_bytes(layer);
    uint32_t n = smoe_sharded_count_willing(c, l);
    if (!n || n < c->options.settings.workers_min)
        return s->map.n_pieces > 0;
    weigh(c, l);
    if (smoe_shard_cut(elements, grains_for(n), c->fleet.n_used, c->sharding->memory,
                       c->sharding->cut, &c->sharding->spare))
        return s->map.n_pieces > 0;
    if (!s->map.n_pieces || !smoe_shard_same(&s->map, &c->sharding->spare))
        take_map(c, l);
    return true;
}

static void copy_map(const struct smoe_shard_map *from, struct smoe_shard_map *to)
{
    struct smoe_shard_piece *pieces = to->pieces;
    uint32_t max = to->pieces_max;
    *to = *from;
    to->pieces = pieces;
    to->pieces_max = max;
    memcpy(pieces, from->pieces, from->n_pieces * sizeof *pieces);
}

/* As much of the first move as may be on its way. */
static void begin_filling(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    struct smoe_shard_move move = c->sharding->moves.moves[0];
    uint64_t element = smoe_held_element_bytes(layer);
    uint64_t most = FILL_BYTES / (element * layer->shape.experts);
    uint64_t end = smoe_shard_bound(&s->map, move.offset, most);
    if (end - move.offset < move.length)
        move.length = end - move.offset;
    s->filling = move;
    s->given = true;
    c->fleet.workers[move.to].host_due |= UINT64_C(1) << l;
}

void smoe_sharded_rearrange(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_sharded *s = layer->sharded;
    struct smoe_sharding *all = c->sharding;
    uint64_t lost;
    /* The next step waits for it once: one that is settled at its first sight would let nobody join or leave. */
    bool turn = layer->shape.staleness && !s->given;
    if (s->filling.length || s->exchange.kind != SMOE_EXCHANGE_NONE ||
        (layer->owner != SMOE_NONE && smoe_step_settled(c, layer->owner) && !turn))
        return;
    weigh(c, l);
    copy_map(&s->map, &all->spare);
    if (smoe_shard_change(c->fleet.n_used, all->memory, all->gone, all->cut, &all->spare,
                          &all->moves, &lost))
        return; /* somebody who is away has the only copy, or nobody is left */
    if (all->moves.n)
        begin_filling(c, l);
    else if (!smoe_shard_same(&s->map, &all->spare))
        take_map(c, l);
}

void smoe_sharded_filled(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    struct smoe_shard_move f = s->filling;
    s->filling.length = 0;
    smoe_sharded_interrupt_fetches(c, l);
    if (!smoe_shard_give(&s->map, f.offset, f.length, f.from, f.to))
        return;
    c->fleet.workers[f.from].host_due |= UINT64_C(1) << l;
    c->fleet.workers[f.to].host_due |= UINT64_C(1) << l;
    c->journal_due |= UINT64_C(1) << l;
}

/* ---- for routing ---- */

void smoe_sharded_fill_replicas(struct smoe_core *c, uint32_t l, bool before)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    const uint32_t *first = before ? s->before_first : s->replica_first;
    const uint32_t *worker = before ? s->before_worker : s->replica_worker;
    uint32_t n = 0;
    for (uint32_t e = 0; e < c->layers[l].shape.experts; e++) {
        c->replica_first[e] = n;
        for (uint32_t r = first[e]; r < first[e + 1]; r++)
            if (smoe_worker_live(&c->fleet.workers[worker[r]]))
                c->replica_node[n++] = worker[r];
    }
    c->replica_first[c->layers[l].shape.experts] = n;
}
