/* SPDX-License-Identifier: Apache-2.0
 *
 * Telling what was decided, and from what: SMOE_ACT_TRACE actions whose entries (proto/trace.h) are copies
 * in the update's memory, because the arrays of a solve are used again by the next group of the same slot.
 * The copies of one update may take options.trace_bytes_max; what does not fit is not told, but that it
 * is missing is (LOST), and nothing is decided otherwise.
 *
 * An entry holds everything its decision is a function of: what was known of the workers, the scores, where
 * ties are broken from, the prices the solve starts from. So each can be made again alone.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/slot_state.h"

/* ---- memory ---- */

static void *take(struct smoe_core *c, size_t n, size_t size)
{
    size_t bytes = (n * size + 15) & ~(size_t)15;
    if (bytes > c->options.trace_bytes_max - c->trace_bytes)
        return NULL;
    c->trace_bytes += bytes;
    return smoe_core_list(c, bytes);
}

static void *copy(struct smoe_core *c, const void *from, size_t n, size_t size)
{
    void *to = take(c, n, size);
    return to && n ? memcpy(to, from, n * size) : to;
}

static void tell(struct smoe_core *c, const struct smoe_trace_entry *entry)
{
    smoe_core_act(c, SMOE_ACT_TRACE, SMOE_NO_SESSION)->trace = entry;
}

static void tell_lost(struct smoe_core *c)
{
    static const struct smoe_trace_entry lost = {.type = SMOE_TRACE_LOST, .lost = 1};
    tell(c, &lost);
}

/* ---- workers ---- */

static struct smoe_trace_worker worker_of(uint32_t index, const struct smoe_plan_worker *w)
{
    return (struct smoe_trace_worker){
        .worker = index,
        .arrivals_max = w->arrivals_max,
        .backlog = w->backlog,
        .executable = w->executable,
        .debt_j = w->debt_j,
        .carry = w->carry,
        .cycles = w->physics.cycles_per_visit,
        .freq_max_hz = w->physics.freq_max_hz,
        .kappa = w->physics.kappa,
        .cap_w = w->physics.energy_max_w,
        .budget_w = w->physics.energy_mean_w,
        .units = 1,
    };
}

/* False: no room for the points. */
static bool take_curve(struct smoe_core *c, const struct smoe_power_curve *power,
                       struct smoe_trace_worker *to)
{
    if (!power)
        return true;
    to->curve_hz = copy(c, power->hz, power->n, sizeof *power->hz);
    to->curve_watts = copy(c, power->watts, power->n, sizeof *power->watts);
    to->curve_points = power->n;
    to->stepless = power->stepless;
    return to->curve_hz && to->curve_watts;
}

static bool take_workers(struct smoe_core *c, struct smoe_trace_route *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->nodes; i++)
        n += c->known[i].serves;
    struct smoe_trace_worker *workers = take(c, n, sizeof *workers);
    t->workers = workers;
    for (uint32_t i = 0; i < t->nodes && workers; i++) {
        if (!c->known[i].serves)
            continue;
        struct smoe_trace_worker *w = &workers[t->n_workers++];
        *w = worker_of(i, &c->known[i]);
        if (!take_curve(c, c->known[i].physics.power, w))
            return false;
    }
    return workers != NULL;
}

/* ---- routes ---- */

static bool take_batches(struct smoe_core *c, const struct smoe_slot_group *g,
                         struct smoe_trace_route *t)
{
    struct smoe_trace_batch *batches = take(c, g->n_batches, sizeof *batches);
    uint32_t left = g->n_tokens;
    t->batches = batches;
    t->n_batches = g->n_batches;
    for (uint32_t i = 0; i < g->n_batches && batches; i++) {
        const struct smoe_batch *b = &c->batches[g->batches[i]];
        uint32_t n = b->n_waiting < left ? b->n_waiting : left;
        batches[i] = (struct smoe_trace_batch){b->trainer, n, b->id};
        left -= n;
    }
    return batches != NULL;
}

/* Prices of another fleet or layer are not started from. */
static bool take_prices(struct smoe_core *c, enum smoe_policy policy, struct smoe_trace_route *t)
{
    const double *prices = smoe_policy_prices(policy, c->scratch, &t->n_prices);
    if (t->n_prices != (policy == SMOE_POLICY_BASE ? t->experts : t->nodes))
        t->n_prices = 0;
    t->prices = copy(c, prices, t->n_prices, sizeof *prices);
    return t->prices != NULL;
}

static bool take_replicas(struct smoe_core *c, struct smoe_trace_route *t)
{
    t->replica_first = copy(c, c->replica_first, t->experts + (size_t)1, sizeof *c->replica_first);
    t->replica_node =
        copy(c, c->replica_node, c->replica_first[t->experts], sizeof *c->replica_node);
    return t->replica_first && t->replica_node;
}

/* The scores, and room for the answer. */
static bool take_tokens(struct smoe_core *c, const float *scores, struct smoe_trace_route *t)
{
    size_t visits = (size_t)t->tokens * t->top_k;
    if (scores) {
        t->scores_kept = t->experts;
        t->scores = copy(c, scores, (size_t)t->tokens * t->experts, sizeof *scores);
        if (!t->scores)
            return false;
    }
    t->expert = take(c, visits, sizeof *t->expert);
    t->node = take(c, visits, sizeof *t->node);
    return t->expert && t->node;
}

static void take_law(const struct smoe_core *c, const struct smoe_slot_group *g,
                     struct smoe_trace_route *t)
{
    const struct smoe_core_settings *s = &c->options.settings;
    const struct smoe_layer *layer = &c->layers[g->layer];
    t->monotonic_ns = c->now_ns;
    t->slot = c->totals.slots;
    memcpy(t->layer, layer->name, sizeof t->layer);
    t->experts = layer->shape.experts;
    t->top_k = g->top_k;
    t->tokens = g->n_tokens;
    t->nodes = c->fleet.n_used;
    t->training = g->training;
    strcpy(t->policy, smoe_policy_name(g->policy));
    strcpy(t->plan, smoe_plan_name(s->plan));
    t->slot_ns = s->slot_ns;
    t->v = s->v;
    t->mu = s->mu;
    t->gap = s->gap;
    t->draws = smoe_policy_draws(g->policy);
    memcpy(t->rng, c->rng.s, sizeof t->rng);
    t->tau_s = c->tau_s;
}

struct smoe_trace_route *smoe_tracing_asked(struct smoe_core *c, const struct smoe_slot_group *g,
                                            const float *scores)
{
    if (!c->options.trace_bytes_max)
        return NULL;
    struct smoe_trace_entry *entry = take(c, 1, sizeof *entry);
    if (!entry) {
        tell_lost(c);
        return NULL;
    }
    *entry = (struct smoe_trace_entry){.type = SMOE_TRACE_ROUTE, .route = {.given = !scores}};
    take_law(c, g, &entry->route);
    bool room = take_workers(c, &entry->route) && take_batches(c, g, &entry->route) &&
                take_prices(c, g->policy, &entry->route) && take_replicas(c, &entry->route) &&
                take_tokens(c, scores, &entry->route);
    if (!room) {
        tell_lost(c);
        return NULL;
    }
    tell(c, entry);
    return &entry->route;
}

void smoe_tracing_decided(struct smoe_core *c, struct smoe_trace_route *t, uint64_t work_max,
                          const struct smoe_route_answer *answer)
{
    if (!t)
        return;
    size_t visits = (size_t)t->tokens * t->top_k;
    void *expert = (void *)(uintptr_t)t->expert, *node = (void *)(uintptr_t)t->node;
    memcpy(expert, c->chosen_expert, visits * sizeof *t->expert);
    memcpy(node, c->chosen_node, visits * sizeof *t->node);
    t->work_max = work_max;
    t->routed = answer->n_routed;
    t->primal = answer->primal;
    t->bound = answer->bound;
    t->exact = answer->exact;
}

/* ---- frequencies ---- */

void smoe_tracing_frequency(struct smoe_core *c, uint32_t index,
                            const struct smoe_plan_worker *known, uint64_t khz)
{
    if (!c->options.trace_bytes_max)
        return;
    if (!c->traced_workers)
        c->traced_workers = take(c, c->fleet.n_used, sizeof *c->traced_workers);
    if (c->traced_workers) {
        struct smoe_trace_worker *w = &c->traced_workers[c->n_traced];
        *w = worker_of(index, known);
        w->arrivals = known->arrivals;
        w->units = known->units;
        w->before_khz = known->before_khz;
        w->owed = known->owed;
        w->freq_khz = khz;
        c->traced_torn |= !take_curve(c, known->physics.power, w);
    }
    c->n_traced++;
}

void smoe_tracing_slot_ends(struct smoe_core *c)
{
    uint32_t n = c->n_traced;
    const struct smoe_trace_worker *workers = c->traced_torn ? NULL : c->traced_workers;
    c->traced_workers = NULL;
    c->n_traced = 0;
    c->traced_torn = false;
    if (!n)
        return;
    struct smoe_trace_entry *entry = workers ? take(c, 1, sizeof *entry) : NULL;
    if (!entry) {
        tell_lost(c);
        return;
    }
    *entry = (struct smoe_trace_entry){
        .type = SMOE_TRACE_FREQUENCY,
        .frequency = {c->now_ns, c->totals.slots, "", c->options.settings.v, c->tau_s, n, workers}};
    strcpy(entry->frequency.policy, smoe_policy_name(c->options.settings.policy));
    tell(c, entry);
}
