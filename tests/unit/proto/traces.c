/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proto/traces.h"

#include <math.h>
#include <string.h>

static uint32_t below(struct smoe_rng *rng, uint32_t n)
{
    return (uint32_t)smoe_rng_below(rng, n);
}

static bool chance(struct smoe_rng *rng)
{
    return below(rng, 2);
}

/* ---- making ---- */

static struct smoe_trace_worker random_worker(struct smoe_rng *rng, uint32_t index, bool plain)
{
    double q = plain ? 0 : smoe_rng_unit(rng) * 100;
    return (struct smoe_trace_worker){
        .worker = index,
        .arrivals_max = chance(rng) ? UINT32_MAX : below(rng, 50),
        .backlog = q,
        .executable = q * smoe_rng_unit(rng),
        .debt_j = plain ? 0 : smoe_rng_unit(rng),
        .carry = plain ? 0 : smoe_rng_unit(rng),
        .cycles = 1e6 * (1 + smoe_rng_unit(rng)),
        .freq_max_hz = 1e9 * (1 + smoe_rng_unit(rng)),
        .kappa = plain ? 0 : 2e-27,
        .cap_w = plain ? (double)INFINITY : 3 + smoe_rng_unit(rng),
        .budget_w = plain || chance(rng) ? (double)INFINITY : 1 + smoe_rng_unit(rng),
        .units = plain ? 1 : 0.5 + smoe_rng_unit(rng),
        .arrivals = plain ? 0 : below(rng, 50),
        .owed = plain ? 0 : smoe_rng_unit(rng) - 0.5,
        .before_khz = plain ? 0 : smoe_rng_below(rng, 3000000),
        .freq_khz = plain ? 0 : smoe_rng_below(rng, 3000000),
    };
}

/* Convex, from 0. */
static void random_curve(struct smoe_rng *rng, struct traces_room *room,
                         struct smoe_trace_worker *w)
{
    double *hz = room->curve_hz[w->worker], *watts = room->curve_watts[w->worker], slope = 0;
    w->curve_points = 2 + below(rng, TRACES_CURVE - 1);
    w->stepless = chance(rng);
    w->curve_hz = hz;
    w->curve_watts = watts;
    hz[0] = 0;
    watts[0] = smoe_rng_unit(rng);
    for (uint32_t k = 1; k < w->curve_points; k++) {
        double step = 1e8 * (1 + smoe_rng_unit(rng));
        slope += 1e-9 * (0.1 + smoe_rng_unit(rng));
        hz[k] = hz[k - 1] + step;
        watts[k] = watts[k - 1] + slope * step;
    }
}

static uint32_t random_workers(struct smoe_rng *rng, struct traces_room *room, uint32_t nodes)
{
    uint32_t n = 0;
    bool plain = chance(rng), curved = chance(rng);
    for (uint32_t j = 0; j < nodes; j++) {
        if (!below(rng, 4))
            continue;
        room->workers[n] = random_worker(rng, j, plain);
        if (curved && chance(rng))
            random_curve(rng, room, &room->workers[n]);
        n++;
    }
    return n;
}

static void random_replicas(struct smoe_rng *rng, struct traces_room *room,
                            struct smoe_trace_route *m)
{
    uint32_t at = 0;
    for (uint32_t e = 0; e < m->experts; e++) {
        room->replica_first[e] = at;
        for (uint32_t j = 0; j < m->nodes; j++)
            if (!below(rng, 3))
                room->replica_node[at++] = j;
    }
    room->replica_first[m->experts] = at;
    m->replica_first = room->replica_first;
    m->replica_node = room->replica_node;
}

static void random_batches(struct smoe_rng *rng, struct traces_room *room,
                           struct smoe_trace_route *m)
{
    uint32_t left = m->tokens;
    while (left && m->n_batches < TRACES_BATCHES) {
        uint32_t n = m->n_batches + 1 == TRACES_BATCHES ? left : 1 + below(rng, left);
        room->batches[m->n_batches++] =
            (struct smoe_trace_batch){below(rng, 16), n, smoe_rng_u64(rng)};
        left -= n;
    }
    m->batches = room->batches;
}

/* K distinct experts of every token that does not wait. */
static void random_choices(struct smoe_rng *rng, struct traces_room *room,
                           struct smoe_trace_route *m)
{
    for (uint32_t i = 0; i < m->tokens; i++) {
        bool waits = !m->given && !below(rng, 5);
        uint32_t first = below(rng, m->experts);
        for (uint32_t k = 0; k < m->top_k; k++) {
            uint32_t at = i * m->top_k + k;
            room->expert[at] = (uint16_t)(waits ? SMOE_TRACE_WAITS : (first + k) % m->experts);
            room->node[at] = below(rng, m->nodes);
        }
        m->routed += !waits;
    }
    if (m->given)
        m->routed = below(rng, m->tokens + 1);
    m->expert = room->expert;
    m->node = room->node;
}

static const char *const policies[] = {"lyapunov",
                                       "lyapunov-greedy",
                                       "lyapunov-linear",
                                       "lyapunov-separable",
                                       "lyapunov-strict",
                                       "base",
                                       "topk",
                                       "queue",
                                       "queue-jsq",
                                       "energy",
                                       "random"};
static const char *const plans[] = {"work", "shorter", "slot"};

static void random_route(struct smoe_rng *rng, struct traces_room *room, struct smoe_trace_route *m)
{
    *m = (struct smoe_trace_route){.monotonic_ns = smoe_rng_u64(rng),
                                   .slot = smoe_rng_u64(rng),
                                   .layer = "moe.1",
                                   .experts = 1 + below(rng, TRACES_EXPERTS),
                                   .tokens = 1 + below(rng, TRACES_TOKENS),
                                   .nodes = 1 + below(rng, TRACES_NODES),
                                   .training = chance(rng),
                                   .given = !below(rng, 4),
                                   .slot_ns = 1000000 + smoe_rng_below(rng, 1000000000),
                                   .v = 1 + smoe_rng_unit(rng),
                                   .mu = smoe_rng_unit(rng),
                                   .work_max = smoe_rng_u64(rng),
                                   .gap = 0.01 * smoe_rng_unit(rng),
                                   .draws = chance(rng),
                                   .tau_s = 1e-6 + smoe_rng_unit(rng),
                                   .primal = smoe_rng_normal(rng),
                                   .bound = chance(rng) ? -(double)INFINITY : smoe_rng_normal(rng),
                                   .exact = chance(rng)};
    strcpy(m->policy, policies[below(rng, sizeof policies / sizeof *policies)]);
    strcpy(m->plan, plans[below(rng, sizeof plans / sizeof *plans)]);
    uint32_t most = m->experts < SMOE_TOP_K_MAX ? m->experts : SMOE_TOP_K_MAX;
    m->top_k = 1 + below(rng, most);
    for (int i = 0; i < 4 && m->draws; i++)
        m->rng[i] = smoe_rng_u64(rng);
    m->n_prices = chance(rng) ? m->nodes : 0;
    for (uint32_t i = 0; i < m->n_prices; i++)
        room->prices[i] = below(rng, 4) ? smoe_rng_normal(rng) : (double)INFINITY;
    m->prices = room->prices;
    m->workers = room->workers;
    m->n_workers = random_workers(rng, room, m->nodes);
    random_replicas(rng, room, m);
    random_batches(rng, room, m);
    random_choices(rng, room, m);
    if (m->given)
        return;
    m->scores_kept = m->experts;
    for (uint32_t i = 0; i < m->tokens * m->experts; i++) /* with ties */
        room->scores[i] = (float)below(rng, 9) - (chance(rng) ? 4.0F : 3.5F);
    m->scores = room->scores;
}

void traces_random(struct smoe_rng *rng, struct traces_room *room, struct smoe_trace_entry *ret)
{
    *ret = (struct smoe_trace_entry){.type = (enum smoe_trace_type)(1 + below(rng, 5))};
    switch (ret->type) {
    case SMOE_TRACE_START:
        ret->start = (struct smoe_trace_start){"stablemoed 1.2.3", smoe_rng_u64(rng),
                                               smoe_rng_u64(rng), below(rng, 9)};
        break;
    case SMOE_TRACE_ROUTE:
        random_route(rng, room, &ret->route);
        break;
    case SMOE_TRACE_FREQUENCY:
        ret->frequency = (struct smoe_trace_frequency){.monotonic_ns = smoe_rng_u64(rng),
                                                       .slot = smoe_rng_u64(rng),
                                                       .policy = "topk",
                                                       .v = 20,
                                                       .tau_s = 1e-3,
                                                       .workers = room->workers};
        ret->frequency.n_workers = random_workers(rng, room, TRACES_NODES);
        break;
    case SMOE_TRACE_LOST:
        ret->lost = 1 + smoe_rng_below(rng, 1000);
        break;
    case SMOE_TRACE_END:
        ret->end_ns = smoe_rng_u64(rng);
        break;
    }
}

/* ---- comparing ---- */

#define SAME(a, b, n) (memcmp((a), (b), (n)) == 0)
#define FIELD(member)                                    \
    if (!SAME(&a->member, &b->member, sizeof a->member)) \
    return #member

static const char *workers_difference(const struct smoe_trace_worker *x, uint32_t n,
                                      const struct smoe_trace_worker *y, uint32_t m)
{
    if (n != m)
        return "n_workers";
    for (uint32_t i = 0; i < n; i++) {
        const struct smoe_trace_worker *a = &x[i], *b = &y[i];
        FIELD(worker);
        FIELD(arrivals_max);
        FIELD(backlog);
        FIELD(executable);
        FIELD(debt_j);
        FIELD(carry);
        FIELD(cycles);
        FIELD(freq_max_hz);
        FIELD(kappa);
        FIELD(cap_w);
        FIELD(budget_w);
        FIELD(curve_points);
        FIELD(stepless);
        size_t bytes = a->curve_points * sizeof(double);
        if (bytes && !SAME(a->curve_hz, b->curve_hz, bytes))
            return "curve_hz";
        if (bytes && !SAME(a->curve_watts, b->curve_watts, bytes))
            return "curve_watts";
        FIELD(units);
        FIELD(arrivals);
        FIELD(before_khz);
        FIELD(owed);
        FIELD(freq_khz);
    }
    return NULL;
}

static const char *choices_difference(const struct smoe_trace_route *a,
                                      const struct smoe_trace_route *b)
{
    if (!SAME(a->expert, b->expert, (size_t)a->tokens * a->top_k * sizeof *a->expert))
        return "expert";
    for (uint32_t i = 0; i < a->tokens * a->top_k; i++) {
        bool placed = a->given ? i / a->top_k < a->routed : a->expert[i] != SMOE_TRACE_WAITS;
        if (placed && a->node[i] != b->node[i])
            return "node";
    }
    return NULL;
}

static const char *arrays_difference(const struct smoe_trace_route *a,
                                     const struct smoe_trace_route *b)
{
    if (a->n_prices && !SAME(a->prices, b->prices, a->n_prices * sizeof *a->prices))
        return "prices";
    for (uint32_t i = 0; i < a->n_batches; i++)
        if (a->batches[i].trainer != b->batches[i].trainer ||
            a->batches[i].tokens != b->batches[i].tokens || a->batches[i].id != b->batches[i].id)
            return "batches";
    if (!SAME(a->replica_first, b->replica_first, (a->experts + 1) * sizeof *a->replica_first))
        return "replica_first";
    uint32_t replicas = a->replica_first[a->experts];
    if (replicas && !SAME(a->replica_node, b->replica_node, replicas * sizeof *a->replica_node))
        return "replica_node";
    if (a->scores && !a->score_expert && !b->score_expert &&
        !SAME(a->scores, b->scores, (size_t)a->tokens * a->experts * sizeof *a->scores))
        return "scores";
    return choices_difference(a, b);
}

static const char *route_difference(const struct smoe_trace_route *a,
                                    const struct smoe_trace_route *b)
{
    FIELD(monotonic_ns);
    FIELD(slot);
    if (strcmp(a->layer, b->layer) || strcmp(a->policy, b->policy) || strcmp(a->plan, b->plan))
        return "names";
    FIELD(experts);
    FIELD(top_k);
    FIELD(tokens);
    FIELD(nodes);
    FIELD(training);
    FIELD(given);
    FIELD(slot_ns);
    FIELD(v);
    FIELD(mu);
    FIELD(work_max);
    FIELD(gap);
    FIELD(draws);
    FIELD(rng);
    FIELD(n_prices);
    FIELD(n_batches);
    FIELD(tau_s);
    FIELD(routed);
    FIELD(primal);
    FIELD(bound);
    FIELD(exact);
    const char *difference = workers_difference(a->workers, a->n_workers, b->workers, b->n_workers);
    return difference ? difference : arrays_difference(a, b);
}

static const char *frequency_difference(const struct smoe_trace_frequency *a,
                                        const struct smoe_trace_frequency *b)
{
    FIELD(monotonic_ns);
    FIELD(slot);
    if (strcmp(a->policy, b->policy) != 0)
        return "policy";
    FIELD(v);
    FIELD(tau_s);
    return workers_difference(a->workers, a->n_workers, b->workers, b->n_workers);
}

const char *traces_difference(const struct smoe_trace_entry *a, const struct smoe_trace_entry *b)
{
    FIELD(type);
    if (a->type == SMOE_TRACE_ROUTE)
        return route_difference(&a->route, &b->route);
    if (a->type == SMOE_TRACE_FREQUENCY)
        return frequency_difference(&a->frequency, &b->frequency);
    if (a->type == SMOE_TRACE_START) {
        FIELD(start.monotonic_ns);
        FIELD(start.wall_ms);
        FIELD(start.scores_top);
        return strcmp(a->start.software, b->start.software) ? "software" : NULL;
    }
    FIELD(lost); /* or end_ns: both are one number */
    return NULL;
}
