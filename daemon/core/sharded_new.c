/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of sharded layers, all of it made when the core is: what a layer may need at most. The longest lists are
 * not cleared, nor touched beyond what is in them, so that what is never used costs nothing.
 */
#include <stdlib.h>

#include "daemon/core/exchange_lanes.h"

#define LAYERS \
    (SMOE_LAYERS_MAX + 1) /* and the plan and the map that are being made, which take their turns */

/* A layer's part of each list, of all layers `at` that of the last one. */
static void lend(struct smoe_sharding *all, size_t at, size_t workers, struct smoe_shard_map *map,
                 struct smoe_place_plan *plan)
{
    map->pieces_max = SMOE_WORKER_PIECES_MAX;
    map->pieces = all->lists.pieces + at * SMOE_WORKER_PIECES_MAX;
    plan->slot_first = all->lists.slot_first + at * (workers + 1);
    plan->expert = all->lists.expert + at * SMOE_LAYER_REPLICAS_MAX;
}

static bool new_layer(struct smoe_sharding *all, uint32_t l, size_t workers)
{
    struct smoe_sharded *s = &all->layers[l];
    lend(all, l, workers, &s->map, &s->plan);
    s->replica_first = all->lists.replica_first + l * (SMOE_EXPERTS_MAX + 1);
    s->replica_worker = all->lists.replica_worker + l * SMOE_LAYER_REPLICAS_MAX;
    s->before_first = all->lists.before_first + l * (SMOE_EXPERTS_MAX + 1);
    s->before_worker = all->lists.before_worker + l * SMOE_LAYER_REPLICAS_MAX;
    s->sum_first = all->lists.sum_first + l * (SMOE_EXPERTS_MAX + 1);
    s->sum_worker = all->lists.sum_worker + l * 2 * SMOE_LAYER_REPLICAS_MAX;
    s->stale = all->lists.stale + l * SMOE_LAYER_REPLICAS_MAX;
    s->popularity = all->lists.popularity + l * SMOE_EXPERTS_MAX;
    s->traffic = all->lists.traffic + 2 * l * workers;
    s->traffic_now = s->traffic + workers;
    s->lanes = all->lists.lanes + l * workers;
    return smoe_place_planner_room(SMOE_EXPERTS_MAX, &s->planner) == 0;
}

/* One block for the same list of all layers. smoe_sharded_begin clears what of it must be. */
static bool new_lists(struct smoe_sharding *all, size_t workers)
{
    struct smoe_sharding_lists *x = &all->lists;
    x->pieces = malloc(LAYERS * SMOE_WORKER_PIECES_MAX * sizeof *x->pieces);
    x->slot_first = malloc(LAYERS * (workers + 1) * sizeof *x->slot_first);
    x->expert = malloc(LAYERS * SMOE_LAYER_REPLICAS_MAX * sizeof *x->expert);
    x->replica_first = malloc(LAYERS * (SMOE_EXPERTS_MAX + 1) * sizeof *x->replica_first);
    x->replica_worker = malloc(LAYERS * SMOE_LAYER_REPLICAS_MAX * sizeof *x->replica_worker);
    x->before_first = malloc(SMOE_LAYERS_MAX * (SMOE_EXPERTS_MAX + 1) * sizeof *x->before_first);
    x->before_worker = malloc(SMOE_LAYERS_MAX * SMOE_LAYER_REPLICAS_MAX * sizeof *x->before_worker);
    x->sum_first = malloc(SMOE_LAYERS_MAX * (SMOE_EXPERTS_MAX + 1) * sizeof *x->sum_first);
    x->sum_worker = malloc(SMOE_LAYERS_MAX * 2 * SMOE_LAYER_REPLICAS_MAX * sizeof *x->sum_worker);
    x->stale = malloc(LAYERS * SMOE_LAYER_REPLICAS_MAX * sizeof *x->stale);
    x->popularity = malloc(SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX * sizeof *x->popularity);
    x->traffic = malloc(2 * SMOE_LAYERS_MAX * workers * sizeof *x->traffic);
    x->lanes = malloc(SMOE_LAYERS_MAX * workers * sizeof *x->lanes);
    return x->pieces && x->slot_first && x->expert && x->replica_first && x->replica_worker &&
           x->before_first && x->before_worker && x->sum_first && x->sum_worker && x->stale &&
           x->popularity && x->traffic && x->lanes;
}

static bool new_scratch(struct smoe_sharding *all, const struct smoe_core_limits *limits)
{
    size_t w = limits->workers_max;
    uint32_t moves = SMOE_SHARD_MOVES(SMOE_WORKER_PIECES_MAX);
    lend(all, SMOE_LAYERS_MAX, w, &all->spare, &all->next);
    all->next_first = all->lists.replica_first + SMOE_LAYERS_MAX * (SMOE_EXPERTS_MAX + 1);
    all->next_worker = all->lists.replica_worker + SMOE_LAYERS_MAX * SMOE_LAYER_REPLICAS_MAX;
    all->next_stale = all->lists.stale + SMOE_LAYERS_MAX * SMOE_LAYER_REPLICAS_MAX;
    all->slots = calloc(w, sizeof *all->slots);
    all->speed = calloc(w, sizeof *all->speed);
    all->memory = calloc(w, sizeof *all->memory);
    all->gone = calloc(w, sizeof *all->gone);
    all->gives = calloc(w, sizeof *all->gives);
    all->moves.max = moves;
    all->moves.moves = malloc(moves * sizeof *all->moves.moves);
    all->transfers = calloc(SMOE_TRANSFERS_MAX, sizeof *all->transfers);
    all->flows = calloc(w, sizeof *all->flows);
    all->norms = calloc(w * limits->trainers_max, sizeof *all->norms);
    return all->slots && all->speed && all->memory && all->gone && all->gives && all->moves.moves &&
           all->transfers && all->flows && all->norms &&
           smoe_place_scratch_new(SMOE_EXPERTS_MAX, limits->workers_max, SMOE_LAYER_REPLICAS_MAX,
                                  &all->place) == 0 &&
           smoe_shard_scratch_new(limits->workers_max, SMOE_WORKER_PIECES_MAX, &all->cut) == 0;
}

int smoe_sharding_new(const struct smoe_core_options *options, struct smoe_sharding **ret)
{
    struct smoe_sharding *all = calloc(1, sizeof *all);
    bool made = all && new_lists(all, options->limits.workers_max) &&
                new_scratch(all, &options->limits) &&
                (!options->links || !smoe_links_init(&all->links, options->limits.workers_max));
    for (uint32_t l = 0; made && l < SMOE_LAYERS_MAX; l++)
        made = new_layer(all, l, options->limits.workers_max);
    if (!made) {
        smoe_sharding_free(all);
        return SMOE_ENOMEMORY;
    }
    all->rule = options->placement;
    *ret = all;
    return 0;
}

void smoe_sharding_free(struct smoe_sharding *all)
{
    if (!all)
        return;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        smoe_place_planner_free(all->layers[l].planner);
    const struct smoe_sharding_lists *x = &all->lists;
    void *blocks[] = {x->pieces,         x->slot_first,   x->expert,        x->replica_first,
                      x->replica_worker, x->before_first, x->before_worker, x->sum_first,
                      x->sum_worker,     x->stale,        x->popularity,    x->traffic,
                      x->lanes,          all->slots,      all->speed,       all->memory,
                      all->gone,         all->gives,      all->moves.moves, all->transfers,
                      all->flows,        all->norms};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    smoe_links_release(&all->links);
    smoe_place_scratch_free(all->place);
    smoe_shard_scratch_free(all->cut);
    free(all);
}
