/* SPDX-License-Identifier: Apache-2.0
 *
 * A world is popularity and a planner. Two plans take turns: the one in force, and the next. What an iteration comes to
 * is added up at once; nothing is kept.
 */
#include "sim/placing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/rng.h"
#include "daemon/core/place_bytes.h"
#include "daemon/core/place_planner.h"
#include "sim/events.h"

/* Master weights and Adam's two moments, in single precision: what moves with an expert whose optimizer state lives
 * with its replicas. */
#define STATE_BYTES 12

void smoe_placing_standard(struct smoe_placing_spec *ret)
{
    *ret = (struct smoe_placing_spec){
        .experts = 16,
        .workers = 16,
        .slots = 4,
        .log_sd = 1.25,
        .coefficient = 0.95,
        .visits = 65536,
        .visit_s = 48e-6, /* 6 x 525,568 operations at 65 GFLOP/s, docs/performance.md */
        .parameters = 2 * 256 * 1024 + 256 + 1024,
        .bandwidth = 117e6,
        .plan_s = 50e-6,
        .worlds = 8,
        .iterations = 1000,
        .warm_up = 100,
        .seed = 1,
    };
}

struct world {
    const struct smoe_placing_spec *spec;
    struct smoe_place_rule rule;
    struct smoe_rng rng;
    double *x;                      /* [E] log-popularity */
    uint64_t *visits;               /* [E] of the iteration */
    double *demand;                 /* [E] the same */
    uint32_t *slots;                /* [N] */
    double *speed;                  /* [N] visits a second */
    uint64_t *owned;                /* [N] elements */
    struct smoe_place_bytes *bytes; /* [N] */
    uint32_t *moved;                /* [S] slots */
    uint32_t n_slots;
    struct smoe_place_plan plans[2];
    struct smoe_place_problem problem;
    struct smoe_place_scratch *scratch;
    struct smoe_place_planner *planner;
};

/* ---- popularity ---- */

static void draw_first(struct world *w)
{
    for (uint32_t e = 0; e < w->spec->experts; e++)
        w->x[e] = w->spec->log_sd * smoe_rng_normal(&w->rng);
}

static void drift(struct world *w)
{
    double a = w->spec->coefficient, noise = sqrt(1 - a * a) * w->spec->log_sd;
    for (uint32_t e = 0; e < w->spec->experts; e++)
        w->x[e] = a * w->x[e] + noise * smoe_rng_normal(&w->rng);
}

static void count_visits(struct world *w)
{
    double sum = 0;
    for (uint32_t e = 0; e < w->spec->experts; e++)
        sum += smoe_exp(w->x[e]);
    for (uint32_t e = 0; e < w->spec->experts; e++) {
        double share = smoe_exp(w->x[e]) / sum;
        w->visits[e] = (uint64_t)(share * (double)w->spec->visits + 0.5);
        w->demand[e] = (double)w->visits[e];
    }
}

/* ---- what an iteration takes ---- */

static double compute_time(struct world *w, const struct smoe_place_plan *plan)
{
    if (w->spec->sharing == SMOE_PLACE_BY_PRICE)
        return smoe_place_priced_time(&w->problem, plan, w->scratch);
    return smoe_place_worth(&w->problem, plan, w->scratch).time_s;
}

static double busier(uint64_t a, uint64_t b)
{
    return (double)(a > b ? a : b);
}

/* Gradients, then weights, each phase as long as its busiest link; both directions at once. */
static double link_time(struct world *w, const struct smoe_place_plan *before,
                        const struct smoe_place_plan *after)
{
    struct smoe_place_wire wire = {.owned = w->owned, .gradient_bytes = 4, .weight_bytes = 4};
    double gradients = 0, weights = 0;
    smoe_place_bytes(before, after, &wire, w->bytes);
    for (uint32_t j = 0; j < w->spec->workers; j++) {
        const struct smoe_place_bytes *b = &w->bytes[j];
        gradients = fmax(gradients, busier(b->gradient_sent, b->gradient_received));
        weights = fmax(weights, busier(b->weight_sent, b->weight_received));
    }
    return (gradients + weights) / w->spec->bandwidth;
}

/* Optimizer state that comes in with experts that are new to a worker, where it lives with them. */
static double migration_time(const struct world *w, const struct smoe_place_plan *plan,
                             uint32_t n_moved)
{
    uint32_t most = 0, i = 0;
    for (uint32_t j = 0; j < plan->n_workers; j++) {
        uint32_t here = i;
        while (i < n_moved && w->moved[i] < plan->slot_first[j + 1])
            i++;
        most = i - here > most ? i - here : most;
    }
    return (double)most * (double)w->spec->parameters * STATE_BYTES / w->spec->bandwidth;
}

static double placement_time(const struct world *w, const struct smoe_place_plan *plan,
                             uint32_t n_moved)
{
    if (w->rule.kind == SMOE_PLACE_STATIC)
        return 0;
    if (w->rule.kind == SMOE_PLACE_INTERVAL)
        return n_moved ? w->spec->plan_s + migration_time(w, plan, n_moved) : 0;
    return w->spec->plan_s;
}

/* Visits beyond what the slots of an expert hold, each visits/S: the paper's capacity factor of 1. */
static double dropped(const struct world *w, const struct smoe_place_plan *plan)
{
    double capacity = (double)w->spec->visits / w->n_slots, sum = 0;
    for (uint32_t e = 0; e < w->spec->experts; e++) {
        uint32_t n = 0;
        for (uint32_t q = 0; q < w->n_slots; q++)
            n += plan->expert[q] == e;
        sum += fmax(0, w->demand[e] - n * capacity);
    }
    return sum / (double)w->spec->visits;
}

static void add_up(struct world *w, const struct smoe_place_plan *before,
                   const struct smoe_place_plan *plan, struct smoe_placing_result *ret)
{
    uint32_t n_moved = smoe_place_moves(before, plan, w->moved);
    ret->compute_s += compute_time(w, plan);
    ret->link_s += link_time(w, before, plan);
    ret->placement_s += placement_time(w, plan, n_moved);
    ret->dropped += dropped(w, plan);
    ret->moved += n_moved;
}

/* ---- a world ---- */

static void make_fleet(struct world *w)
{
    static const double speeds[] = {1, 0.75, 0.5, 0.25};
    const struct smoe_placing_spec *s = w->spec;
    for (uint32_t j = 0; j < s->workers; j++) {
        w->slots[j] = s->slots;
        w->speed[j] = (s->unlike ? speeds[j % 4] : 1) / s->visit_s;
        w->owned[j] = s->parameters * (j + 1) / s->workers - s->parameters * j / s->workers;
    }
    w->problem = (struct smoe_place_problem){.n_experts = s->experts,
                                             .n_workers = s->workers,
                                             .slots = w->slots,
                                             .speed = w->speed,
                                             .demand = w->demand,
                                             .sharing = s->sharing};
}

static void init(struct world *w, const struct smoe_placing_spec *spec)
{
    uint32_t experts = spec->experts, workers = spec->workers;
    w->spec = spec;
    w->n_slots = workers * spec->slots;
    w->x = smoe_sim_alloc(experts, sizeof *w->x);
    w->visits = smoe_sim_alloc(experts, sizeof *w->visits);
    w->demand = smoe_sim_alloc(experts, sizeof *w->demand);
    w->slots = smoe_sim_alloc(workers, sizeof *w->slots);
    w->speed = smoe_sim_alloc(workers, sizeof *w->speed);
    w->owned = smoe_sim_alloc(workers, sizeof *w->owned);
    w->bytes = smoe_sim_alloc(workers, sizeof *w->bytes);
    w->moved = smoe_sim_alloc(w->n_slots, sizeof *w->moved);
    for (int i = 0; i < 2; i++) {
        w->plans[i].slot_first = smoe_sim_alloc(workers + 1, sizeof *w->plans[i].slot_first);
        w->plans[i].expert = smoe_sim_alloc(w->n_slots, sizeof *w->plans[i].expert);
    }
    smoe_assert(smoe_place_scratch_new(experts, workers, w->n_slots, &w->scratch) == 0);
    make_fleet(w);
}

static void release(struct world *w)
{
    for (int i = 0; i < 2; i++) {
        free(w->plans[i].slot_first);
        free(w->plans[i].expert);
    }
    free(w->x);
    free(w->visits);
    free(w->demand);
    free(w->slots);
    free(w->speed);
    free(w->owned);
    free(w->bytes);
    free(w->moved);
    smoe_place_scratch_free(w->scratch);
}

/* The plan that the coming iteration is run with. */
static void plan_next(struct world *w, bool oracle, const struct smoe_place_plan *before,
                      struct smoe_place_plan *ret)
{
    int rc = oracle ? smoe_place_make(w->rule.kind, &w->problem, w->scratch, ret)
                    : smoe_place_planner_next(w->planner, &w->problem, before, w->scratch, ret);
    smoe_assert(rc == 0);
}

static void live(struct world *w, bool oracle, struct smoe_placing_result *ret)
{
    draw_first(w);
    count_visits(w);
    smoe_assert(smoe_place_planner_new(&w->rule, w->spec->experts, &w->planner) == 0);
    plan_next(w, oracle, NULL, &w->plans[1]);
    for (uint64_t t = 0; t < w->spec->warm_up + w->spec->iterations; t++) {
        struct smoe_place_plan *plan = &w->plans[t % 2], *before = &w->plans[1 - t % 2];
        smoe_place_planner_see(w->planner, w->visits);
        drift(w);
        count_visits(w);
        plan_next(w, oracle, before, plan);
        if (t >= w->spec->warm_up)
            add_up(w, before, plan, ret);
    }
    ret->trust += smoe_place_planner_trust(w->planner);
    smoe_place_planner_free(w->planner);
}

void smoe_placing_run(const struct smoe_placing_spec *spec, const struct smoe_place_rule *rule,
                      bool oracle, struct smoe_placing_result *ret)
{
    struct world w = {.rule = *rule};
    double n = (double)(spec->worlds * spec->iterations);
    *ret = (struct smoe_placing_result){0};
    init(&w, spec);
    for (uint64_t k = 0; k < spec->worlds; k++) {
        smoe_rng_init(&w.rng, spec->seed, k);
        live(&w, oracle, ret);
    }
    release(&w);
    ret->compute_s /= n;
    ret->link_s /= n;
    ret->placement_s /= n;
    ret->dropped /= n;
    ret->moved /= n;
    ret->trust /= (double)spec->worlds;
    ret->time_s = ret->compute_s + ret->link_s + ret->placement_s;
}
