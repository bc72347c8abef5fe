/* SPDX-License-Identifier: Apache-2.0
 *
 * The core's memory: everything is allocated here, once, from the limits. Large tables are calloc'ed,
 * so that what is never used is never touched and costs nothing; what a step writes before it reads it is not
 * even cleared.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/core/sharded.h"

#define PREHELLO_SESSIONS 512 /* of whom nobody knows yet who they are, and of those that close */

uint32_t smoe_core_sessions_max(const struct smoe_core_limits *limits)
{
    return limits->workers_max + limits->trainers_max + PREHELLO_SESSIONS;
}

static int check_options(const struct smoe_core_options *o, struct smoe_why *why)
{
    const struct smoe_core_limits *l = &o->limits;
    const struct smoe_core_settings *s = &o->settings;
    if (l->workers_max < 1 || l->workers_max > SMOE_WORKERS_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "workers_max %u: not in 1..%d", l->workers_max,
                         SMOE_WORKERS_MAX);
    if (l->trainers_max < 1 || l->trainers_max > SMOE_TRAINERS_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "trainers_max %u: not in 1..%d", l->trainers_max,
                         SMOE_TRAINERS_MAX);
    if (!l->batches_max || !l->parcels_max || !l->slot_tokens_max)
        return smoe_fail(why, SMOE_ECONFIG,
                         "batches_max, parcels_max, slot_tokens_max: must be > 0");
    if (!(s->v > 0) || !(s->mu >= 0) || !s->slot_ns || o->epoch == 0)
        return smoe_fail(why, SMOE_ECONFIG, "v, slot and epoch must be > 0, mu >= 0");
    if (!(s->gap >= 0 && s->gap <= SMOE_ROUTE_GAP_MAX))
        return smoe_fail(why, SMOE_ECONFIG, "gap: not in 0..%g", SMOE_ROUTE_GAP_MAX);
    if (!o->tensor_bytes_max || o->tensor_bytes_max > SMOE_TENSOR_BYTES_MAX)
        return smoe_fail(why, SMOE_ECONFIG, "tensor_bytes_max: not in 1..%u",
                         SMOE_TENSOR_BYTES_MAX);
    return 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Records of one step: layers that changed (twice: before a commit or a router, and at the end), gone ones,
 * commits, a router. */
static size_t most_records(const struct smoe_core_limits *l)
{
    return 3 * SMOE_LAYERS_MAX + (size_t)l->trainers_max + 1;
}

/* Most actions of one step, by what they come from. Pairs of a trainer or a layer and a worker are
 * bounded by the experts there can be, since each has one host and one follower. */
static size_t most_actions(const struct smoe_core_limits *l)
{
    size_t w = l->workers_max, t = l->trainers_max, b = l->batches_max, p = l->parcels_max;
    size_t hosted = (size_t)2 * SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX; /* with copies */
    size_t per_parcel = p / SMOE_DECISION_PARCELS_MAX + w; /* lists of parcels, a worker each */
    return SMOE_RELAYS_MAX                      /* requests that cannot be answered any more */
           + 3 * least(t * w, hosted)           /* Reset, StepPrepare (or Stage), Commit */
           + SMOE_RELAYS_MAX + most_records(l)  /* states for followers, the journal */
           + least(t * w, p) + 3 * per_parcel   /* Forget; Decision, Backprop */
           + 3 * t * SMOE_LAYERS_MAX            /* LayerReady; Error and close for lost layers */
           + least(SMOE_LAYERS_MAX * w, hosted) /* Host */
           + b + 1                              /* traced groups, each of other batches */
           + 4 * SMOE_LAYERS_MAX                /* routers that are freed or come into force */
           + 2 * b + 4 * w + 6 * t + SMOE_LAYERS_MAX + 64;
}

/* What sharded layers add: transfers that are asked for, one that is passed on to all hosts of an expert, and workers
 * of whom each layer has more than hosts and followers. */
static size_t most_exchange_actions(const struct smoe_core_limits *l)
{
    size_t of_layer = SMOE_LAYER_REPLICAS_MAX + 2 * SMOE_WORKER_PIECES_MAX;
    of_layer = least(of_layer, l->workers_max);
    size_t pieces = SMOE_WORKER_PIECES_MAX; /* of a fetch of each layer, or of one store */
    size_t due = least(SMOE_TRANSFER_PEERS_MAX, l->workers_max);
    return (4 + due) * SMOE_TRANSFERS_MAX + 2 * SMOE_LINKS_AT_ONCE + SMOE_LAYER_REPLICAS_MAX +
           6 * SMOE_LAYERS_MAX * of_layer + SMOE_LAYERS_MAX * pieces + 2 * pieces;
}

/* Their lists: slots and pieces of every Host, hosts of every expert for every StepPrepare, pieces of records. */
static size_t most_exchange_lists(const struct smoe_core_limits *l)
{
    size_t hosts = SMOE_LAYERS_MAX * (SMOE_EXPERTS_MAX * sizeof(uint32_t) + 16);
    size_t pieces = (SMOE_WORKER_PIECES_MAX + 1) * 2 * sizeof(uint64_t) + 64;
    size_t of_worker = SMOE_LAYERS_MAX * (SMOE_EXPERTS_MAX * sizeof(uint32_t) + pieces + 64);
    size_t records = 2 * SMOE_LAYERS_MAX; /* before a commit or a router, and at the end */
    return 3 * l->workers_max * (hosts + of_worker) +
           records * (SMOE_WORKER_PIECES_MAX * sizeof(struct smoe_journal_piece) + 16) +
           SMOE_TRANSFERS_MAX * (SMOE_EXPERTS_MAX + 2) * sizeof(uint32_t);
}

/* Layers of the journal go on as they were, whatever new ones are. */
static bool any_sharded(const struct smoe_core_options *o)
{
    bool any = o->sharded;
    for (size_t i = 0; o->restored && i < o->restored->n_layers; i++)
        any |= o->restored->layers[i].layer.sharded;
    return any;
}

/* Lists of an update: parcels (twice, with their ids and heads), the choices of a solve, the layers
 * named to each worker, the experts named to hosts. */
static bool allocate(struct smoe_core *c)
{
    const struct smoe_core_limits *l = &c->options.limits;
    size_t w = l->workers_max;
    size_t choices = (size_t)l->slot_tokens_max * SMOE_TOP_K_MAX;
    bool sharded = any_sharded(&c->options);
    c->n_sessions = smoe_core_sessions_max(l);
    c->gather_floats = (size_t)l->slot_tokens_max * 64;
    if (c->gather_floats < SMOE_EXPERTS_MAX)
        c->gather_floats = SMOE_EXPERTS_MAX; /* at least one token of any layer */
    c->actions_max = most_actions(l) + (sharded ? most_exchange_actions(l) : 0);
    c->lists_cap = (size_t)l->parcels_max * 64 + choices * 32 + (w + 1) * SMOE_LAYERS_MAX * 64 +
                   (size_t)(w + 1) * SMOE_LAYERS_MAX * 32 + /* gradients for followers */
                   SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX * 32 + (1u << 20) +
                   c->options.trace_bytes_max + (sharded ? most_exchange_lists(l) : 0);
    c->records_max = most_records(l);
    c->records = malloc(c->records_max * sizeof *c->records);
    c->standings = malloc((size_t)SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX * sizeof *c->standings);
    c->sessions = calloc(c->n_sessions, sizeof *c->sessions);
    c->trainers = calloc(l->trainers_max, sizeof *c->trainers);
    c->layers = malloc(SMOE_LAYERS_MAX * sizeof *c->layers);
    c->batches = calloc(l->batches_max, sizeof *c->batches);
    c->batch_free = calloc(l->batches_max, sizeof *c->batch_free);
    c->batch_zombie = calloc(l->batches_max, sizeof *c->batch_zombie);
    c->parcel_zombie = calloc(l->parcels_max, sizeof *c->parcel_zombie);
    c->parcels = calloc(l->parcels_max, sizeof *c->parcels);
    c->parcel_free = calloc(l->parcels_max, sizeof *c->parcel_free);
    c->worker_parcels = calloc(w, sizeof *c->worker_parcels);
    c->worker_new = calloc(w, sizeof *c->worker_new);
    c->relays = malloc(SMOE_RELAYS_MAX * sizeof *c->relays);
    c->group_batches = calloc(l->batches_max, sizeof *c->group_batches);
    c->gather = malloc(c->gather_floats * sizeof *c->gather);
    c->chosen_expert = malloc(choices * sizeof *c->chosen_expert);
    c->chosen_node = malloc(choices * sizeof *c->chosen_node);
    c->arrivals = calloc(w, sizeof *c->arrivals);
    c->served = calloc(w, sizeof *c->served);
    c->followed = calloc(w, sizeof *c->followed);
    c->new_bytes = calloc(w, sizeof *c->new_bytes);
    c->considered = calloc(w / 64 + 1, sizeof *c->considered);
    c->nodes = calloc(w, sizeof *c->nodes);
    c->debts = calloc(w, sizeof *c->debts);
    c->known = calloc(w, sizeof *c->known);
    c->replica_first = calloc(SMOE_EXPERTS_MAX + 1, sizeof *c->replica_first);
    c->replica_node = malloc(SMOE_LAYER_REPLICAS_MAX * sizeof *c->replica_node);
    c->actions = malloc(c->actions_max * sizeof *c->actions);
    c->lists = malloc(c->lists_cap);
    bool all = c->sessions && c->trainers && c->layers && c->batches && c->batch_free &&
               c->batch_zombie && c->parcel_zombie && c->parcels && c->parcel_free &&
               c->worker_parcels && c->worker_new && c->relays && c->group_batches && c->gather &&
               c->chosen_expert && c->chosen_node && c->arrivals && c->served && c->followed &&
               c->new_bytes && c->considered && c->nodes && c->records && c->standings &&
               c->debts && c->known && c->replica_first && c->replica_node && c->actions &&
               c->lists;
    for (uint32_t t = 0; all && t < l->trainers_max; t++) {
        c->trainers[t].step.awaiting = calloc(w / 64 + 1, sizeof(uint64_t));
        all = c->trainers[t].step.awaiting != NULL;
    }
    all = all && (!sharded || smoe_sharding_new(&c->options, &c->sharding) == 0);
    return all && smoe_fleet_init(&c->fleet, l->workers_max) == 0 &&
           smoe_quarantine_init(&c->quarantine, l->workers_max) == 0 &&
           smoe_map_init(&c->batch_by_id, l->batches_max, c->options.seed) == 0 &&
           smoe_route_scratch_new(l->slot_tokens_max, SMOE_EXPERTS_MAX, l->workers_max,
                                  &c->scratch) == 0;
}

static void link_free_lists(struct smoe_core *c)
{
    const struct smoe_core_limits *l = &c->options.limits;
    smoe_list_init(&c->pending);
    for (uint32_t i = 0; i < SMOE_LAYERS_MAX;
         i++) /* all but the experts, which each layer clears as it begins */
        memset(&c->layers[i], 0, offsetof(struct smoe_layer, experts));
    for (uint32_t i = 0; i < l->batches_max; i++)
        c->batch_free[i] = l->batches_max - 1 - i; /* index 0 is taken first */
    c->n_batch_free = l->batches_max;
    for (uint32_t i = 0; i < l->parcels_max; i++)
        c->parcel_free[i] = l->parcels_max - 1 - i;
    c->n_parcel_free = l->parcels_max;
    for (uint32_t i = 0; i < l->workers_max; i++) {
        smoe_list_init(&c->worker_parcels[i]);
        smoe_list_init(&c->worker_new[i]);
    }
    for (uint32_t i = 0; i < l->trainers_max; i++) {
        smoe_list_init(&c->trainers[i].batches);
        c->trainers[i].parked_session = SMOE_NO_SESSION;
    }
}

int smoe_core_new(const struct smoe_core_options *options, struct smoe_core **ret,
                  struct smoe_why *why)
{
    int rc = check_options(options, why);
    if (rc)
        return rc;
    struct smoe_core *c = calloc(1, sizeof *c);
    if (!c)
        return smoe_fail(why, SMOE_ENOMEMORY, "core: out of memory");
    c->options = *options;
    c->epoch = c->epochs = options->epoch;
    c->now_ns = options->now_ns;
    c->slot_deadline_ns = options->now_ns + options->settings.slot_ns;
    c->tau_s = (double)options->settings.slot_ns * 1e-9;
    smoe_rng_init(&c->rng, options->seed, 0);
    if (!allocate(c)) {
        smoe_core_free(c);
        return smoe_fail(why, SMOE_ENOMEMORY, "core: out of memory for %u workers, %u parcels",
                         options->limits.workers_max, options->limits.parcels_max);
    }
    c->fleet.priors = options->settings.priors;
    link_free_lists(c);
    c->attempts = c->epoch << 32;
    if (options->restored)
        rc = smoe_journal_restore(c, options->restored, why);
    c->options.restored = NULL;
    if (rc)
        smoe_core_free(c);
    else
        *ret = c;
    return rc;
}

void smoe_core_free(struct smoe_core *c)
{
    if (!c)
        return;
    for (uint32_t t = 0; c->trainers && t < c->options.limits.trainers_max; t++)
        free(c->trainers[t].step.awaiting);
    void *blocks[] = {
        c->sessions,     c->trainers,      c->layers,         c->batches,    c->batch_free,
        c->parcels,      c->parcel_free,   c->worker_parcels, c->worker_new, c->relays,
        c->gather,       c->chosen_expert, c->chosen_node,    c->arrivals,   c->nodes,
        c->debts,        c->replica_first, c->replica_node,   c->actions,    c->lists,
        c->batch_zombie, c->parcel_zombie, c->group_batches,  c->new_bytes,  c->served,
        c->followed,     c->records,       c->standings,      c->considered, c->known};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        free(blocks[i]);
    smoe_sharding_free(c->sharding);
    smoe_fleet_release(&c->fleet);
    smoe_quarantine_release(&c->quarantine);
    smoe_map_release(&c->batch_by_id);
    smoe_route_scratch_free(c->scratch);
    free(c);
}
