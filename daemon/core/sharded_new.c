/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of sharded layers, all of it made when the core is: what a layer may need at most, calloc'ed, so that what
 * is never used costs nothing.
 */
#include <stdlib.h>

#include "daemon/core/exchange_lanes.h"

static bool new_layer(struct smoe_sharded *s, const struct smoe_place_rule *rule, size_t workers)
{
    s->map.pieces_max = SMOE_WORKER_PIECES_MAX;
    s->map.pieces = calloc(s->map.pieces_max, sizeof *s->map.pieces);
    s->plan.slot_first = calloc(workers + 1, sizeof *s->plan.slot_first);
    s->plan.expert = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *s->plan.expert);
    s->replica_first = calloc(SMOE_EXPERTS_MAX + 1, sizeof *s->replica_first);
    s->replica_worker = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *s->replica_worker);
    s->stale = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *s->stale);
    s->popularity = calloc(SMOE_EXPERTS_MAX, sizeof *s->popularity);
    s->traffic = calloc(workers, sizeof *s->traffic);
    s->traffic_now = calloc(workers, sizeof *s->traffic_now);
    s->lanes = calloc(workers, sizeof *s->lanes);
    return s->lanes && s->map.pieces && s->plan.slot_first && s->plan.expert && s->replica_first &&
           s->replica_worker && s->stale && s->popularity && s->traffic && s->traffic_now &&
           smoe_place_planner_new(rule, SMOE_EXPERTS_MAX, &s->planner) == 0;
}

static bool new_scratch(struct smoe_sharding *all, const struct smoe_core_limits *limits)
{
    size_t w = limits->workers_max;
    uint32_t moves = SMOE_SHARD_MOVES(SMOE_WORKER_PIECES_MAX);
    all->next.slot_first = calloc(w + 1, sizeof *all->next.slot_first);
    all->next.expert = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *all->next.expert);
    all->next_first = calloc(SMOE_EXPERTS_MAX + 1, sizeof *all->next_first);
    all->next_worker = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *all->next_worker);
    all->next_stale = calloc(SMOE_LAYER_REPLICAS_MAX, sizeof *all->next_stale);
    all->slots = calloc(w, sizeof *all->slots);
    all->speed = calloc(w, sizeof *all->speed);
    all->memory = calloc(w, sizeof *all->memory);
    all->gone = calloc(w, sizeof *all->gone);
    all->gives = calloc(w, sizeof *all->gives);
    all->spare.pieces_max = SMOE_WORKER_PIECES_MAX;
    all->spare.pieces = calloc(all->spare.pieces_max, sizeof *all->spare.pieces);
    all->moves.max = moves;
    all->moves.moves = calloc(moves, sizeof *all->moves.moves);
    all->transfers = calloc(SMOE_TRANSFERS_MAX, sizeof *all->transfers);
    all->flows = calloc(w, sizeof *all->flows);
    all->norms = calloc(w * limits->trainers_max, sizeof *all->norms);
    return all->next.slot_first && all->next.expert && all->next_first && all->next_worker &&
           all->next_stale && all->slots && all->speed && all->memory && all->gone && all->gives &&
           all->spare.pieces && all->moves.moves && all->transfers && all->flows && all->norms &&
           smoe_place_scratch_new(SMOE_EXPERTS_MAX, limits->workers_max, SMOE_LAYER_REPLICAS_MAX,
                                  &all->place) == 0 &&
           smoe_shard_scratch_new(limits->workers_max, SMOE_WORKER_PIECES_MAX, &all->cut) == 0;
}

int smoe_sharding_new(const struct smoe_core_options *options, struct smoe_sharding **ret)
{
    struct smoe_sharding *all = calloc(1, sizeof *all);
    bool made = all && new_scratch(all, &options->limits) &&
                (!options->links || !smoe_links_init(&all->links, options->limits.workers_max));
    for (uint32_t l = 0; made && l < SMOE_LAYERS_MAX; l++)
        made = new_layer(&all->layers[l], &options->placement, options->limits.workers_max);
    if (!made) {
        smoe_sharding_free(all);
        return SMOE_ENOMEMORY;
    }
    all->rule = options->placement;
    *ret = all;
    return 0;
}

static void free_layer(struct smoe_sharded *s)
{
    void *blocks[] = {
        s->map.pieces, s->plan.slot_first, s->plan.expert, s->replica_first, s->replica_worker,
        s->stale,      s->popularity,      s->traffic,     s->traffic_now,   s->lanes};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    smoe_place_planner_free(s->planner);
}

void smoe_sharding_free(struct smoe_sharding *all)
{
    if (!all)
        return;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        free_layer(&all->layers[l]);
    void *blocks[] = {
        all->next.slot_first, all->next.expert, all->next_first, all->next_worker, all->next_stale,
        all->slots,           all->speed,       all->memory,     all->gone,        all->gives,
        all->spare.pieces,    all->moves.moves, all->transfers,  all->flows,       all->norms};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    smoe_links_release(&all->links);
    smoe_place_scratch_free(all->place);
    smoe_shard_scratch_free(all->cut);
    free(all);
}
