/* SPDX-License-Identifier: Apache-2.0
 *
 * What placing experts costs: the planner's time, the bytes of an iteration by formula (the same whatever the
 * plan), and the memory of optimizer shards. `plan` is one plan from nothing; `next` what an iteration costs:
 * popularity is seen, trust measured, and a plan made that keeps what may stay where it is. Popularity is
 * log-normal with sd 1.25, new in every call; `unlike` workers each have a speed of their own between 1/4 and
 * 1.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/race.h"
#include "common/base/assert.h"
#include "common/base/detmath.h"
#include "common/base/rng.h"
#include "daemon/core/place_bytes.h"
#include "daemon/core/place_planner.h"
#include "daemon/core/place_popularity.h"
#include "daemon/core/shard.h"

#define DRAWS       16
#define STATE_BYTES 12 /* of an element: master weight, two moments */
#define D_MODEL     256
#define D_FF        1024
#define PARAMETERS  (2 * D_MODEL * D_FF + D_MODEL + D_FF)

struct planning {
    uint32_t n_experts, n_workers, n_slots;
    uint32_t *slots;
    double *speed, *demand; /* demand of all draws */
    uint64_t *popularity;   /* the same in visits */
    struct smoe_place_planner *planner;
    struct smoe_place_problem problem;
    struct smoe_place_scratch *scratch;
    struct smoe_place_plan plans[2];
    enum smoe_place_kind kind;
    uint32_t layers; /* planned in one call */
    unsigned draw;
};

static void release(struct planning *p)
{
    free(p->slots);
    free(p->speed);
    free(p->demand);
    free(p->popularity);
    smoe_place_planner_free(p->planner);
    for (int i = 0; i < 2; i++) {
        free(p->plans[i].slot_first);
        free(p->plans[i].expert);
    }
    smoe_place_scratch_free(p->scratch);
    memset(p, 0, sizeof *p);
}

static void draw(struct planning *p, uint32_t slots, bool unlike)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, p->n_experts);
    for (uint32_t j = 0; j < p->n_workers; j++) {
        p->slots[j] = slots;
        p->speed[j] = unlike ? smoe_exp(-smoe_rng_unit(&rng) * smoe_log(4)) : 1;
    }
    for (uint32_t i = 0; i < DRAWS * p->n_experts; i++) {
        p->demand[i] = smoe_exp(1.25 * smoe_rng_normal(&rng));
        p->popularity[i] = 1 + (uint64_t)(1000 * p->demand[i]);
    }
}

/* 0 or SMOE_ENOMEMORY; release in any case. */
static int init(struct planning *p, uint32_t experts, uint32_t workers, uint32_t slots, bool unlike)
{
    static const struct smoe_place_rule rule = {.kind = SMOE_PLACE_HIGHEST_AVERAGES, .interval = 1};
    memset(p, 0, sizeof *p);
    p->n_experts = experts;
    p->n_workers = workers;
    p->n_slots = workers * slots;
    p->layers = 1;
    p->slots = malloc(workers * sizeof *p->slots);
    p->speed = malloc(workers * sizeof *p->speed);
    p->demand = malloc(sizeof *p->demand * experts * DRAWS);
    p->popularity = malloc(sizeof *p->popularity * experts * DRAWS);
    for (int i = 0; i < 2; i++) {
        p->plans[i].slot_first = malloc((workers + 1) * sizeof *p->plans[i].slot_first);
        p->plans[i].expert = malloc(p->n_slots * sizeof *p->plans[i].expert);
        if (!p->plans[i].slot_first || !p->plans[i].expert)
            return SMOE_ENOMEMORY;
    }
    if (!p->slots || !p->speed || !p->demand || !p->popularity ||
        smoe_place_planner_new(&rule, experts, &p->planner) ||
        smoe_place_scratch_new(experts, workers, p->n_slots, &p->scratch))
        return SMOE_ENOMEMORY;
    draw(p, slots, unlike);
    p->problem = (struct smoe_place_problem){.n_experts = experts,
                                             .n_workers = workers,
                                             .slots = p->slots,
                                             .speed = p->speed,
                                             .demand = p->demand,
                                             .sharing = SMOE_PLACE_BY_PRICE};
    return 0;
}

/* ---- the planner ---- */

static void plan(void *context)
{
    struct planning *p = context;
    for (uint32_t l = 0; l < p->layers; l++) {
        p->draw = (p->draw + 1) % DRAWS;
        p->problem.demand = p->demand + (size_t)p->draw * p->n_experts;
        smoe_assert(smoe_place_make(p->kind, &p->problem, p->scratch, &p->plans[0]) == 0);
    }
}

/* One iteration of each layer; the plan in force is plans[1]. */
static void iterate(void *context)
{
    struct planning *p = context;
    for (uint32_t l = 0; l < p->layers; l++) {
        const struct smoe_place_plan *before = p->plans[1].n_workers ? &p->plans[1] : NULL;
        p->draw = (p->draw + 1) % DRAWS;
        smoe_place_planner_see(p->planner, p->popularity + (size_t)p->draw * p->n_experts);
        smoe_assert(smoe_place_planner_next(p->planner, &p->problem, before, p->scratch,
                                            &p->plans[0]) == 0);
        struct smoe_place_plan made = p->plans[0];
        p->plans[0] = p->plans[1];
        p->plans[1] = made;
    }
}

static int bench_planner(struct smoe_bench *bench, uint32_t experts, uint32_t workers,
                         uint32_t slots, uint32_t layers, bool unlike, struct smoe_why *why)
{
    enum { PLANS = 3, LANES }; /* and the whole iteration */
    static const enum smoe_place_kind kinds[LANES] = {SMOE_PLACE_HIGHEST_AVERAGES, SMOE_PLACE_SYMI,
                                                      SMOE_PLACE_EPLB, SMOE_PLACE_HIGHEST_AVERAGES};
    struct planning p[LANES];
    struct smoe_lane lanes[LANES];
    int rc = 0;
    for (int k = 0; k < LANES; k++) {
        int failed = init(&p[k], experts, workers, slots, unlike);
        rc = rc ? rc : failed;
        p[k].kind = kinds[k];
        p[k].layers = layers;
        lanes[k] = (struct smoe_lane){.run = k < PLANS ? plan : iterate, .context = &p[k]};
    }
    if (rc == 0)
        smoe_race(lanes, LANES, bench->quick);
    for (int k = 0; k < LANES; k++) {
        struct smoe_sample us = lanes[k].ns;
        for (unsigned i = 0; i < us.n; i++)
            us.values[i] /= 1000;
        if (rc == 0)
            smoe_report_add(bench->report, "us", &us, "placement.%s.%ux%ux%u.w%u.%s.%s",
                            k < PLANS ? "plan" : "next", layers, experts, workers * slots, workers,
                            unlike ? "unlike" : "equal", smoe_place_name(kinds[k]));
        release(&p[k]);
    }
    return rc ? smoe_fail(why, rc, "placement: out of memory") : 0;
}

/* ---- popularity ---- */

struct counting {
    float *scores; /* [COUNTED, 8] */
    uint64_t popularity[8];
};

enum { COUNTED = 4096 };

static void count(void *context)
{
    struct counting *c = context;
    for (size_t t = 0; t < COUNTED; t++)
        smoe_place_count(c->scores + 8 * t, 8, 2, c->popularity);
}

static int bench_counting(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_rng rng;
    struct counting c = {.scores = malloc(8 * COUNTED * sizeof *c.scores)};
    struct smoe_lane lane = {.run = count, .context = &c};
    if (!c.scores)
        return smoe_fail(why, SMOE_ENOMEMORY, "placement: out of memory");
    smoe_rng_init(&rng, 1, 8);
    for (int i = 0; i < 8 * COUNTED; i++)
        c.scores[i] = (float)smoe_rng_unit(&rng);
    smoe_race(&lane, 1, bench->quick);
    for (unsigned i = 0; i < lane.ns.n; i++)
        lane.ns.values[i] /= COUNTED;
    smoe_report_add(bench->report, "ns", &lane.ns, "placement.count.8x2.token");
    free(c.scores);
    return 0;
}

/* ---- bytes ---- */

/* Bytes that the busiest worker sends in an iteration that goes from one plan to the next, in units of what static
 * placement sends; and all of them against S G and S W. Largest of all draws. */
static void bench_bytes(struct smoe_bench *bench, struct planning *p)
{
    static uint64_t owned[64];
    static struct smoe_place_bytes fixed[64], moving[64];
    struct smoe_place_wire wire = {.owned = owned, .gradient_bytes = 4, .weight_bytes = 4};
    uint64_t static_most = 0, most = 0, sent = 0, moved = 0;
    for (uint64_t j = 0; j < p->n_workers; j++)
        owned[j] = PARAMETERS * (j + 1) / p->n_workers - PARAMETERS * j / p->n_workers;
    smoe_assert(smoe_place_make(SMOE_PLACE_STATIC, &p->problem, p->scratch, &p->plans[1]) == 0);
    smoe_place_bytes(&p->plans[1], &p->plans[1], &wire, fixed);
    for (int d = 0; d < DRAWS; d++) {
        plan(p);
        smoe_place_bytes(&p->plans[1], &p->plans[0], &wire, moving);
        moved += smoe_place_moves(&p->plans[1], &p->plans[0], NULL);
        for (uint32_t j = 0; j < p->n_workers; j++) {
            uint64_t a = fixed[j].gradient_sent + fixed[j].weight_sent;
            uint64_t b = moving[j].gradient_sent + moving[j].weight_sent;
            static_most = a > static_most ? a : static_most;
            most = b > most ? b : most;
            sent += b;
        }
    }
    double both = 8.0 * PARAMETERS * p->n_slots; /* D_G + D_W */
    smoe_report_value(bench->report, "MB", 1e-6 * (double)most, "placement.bytes.worker_most");
    smoe_report_value(bench->report, "x", (double)most / (double)static_most,
                      "placement.bytes.to_static");
    smoe_report_value(bench->report, "x", (double)sent / DRAWS / both, "placement.bytes.to_DG_DW");
    smoe_report_value(bench->report, "slots", (double)moved / DRAWS, "placement.bytes.slots_moved");
}

/* ---- memory ---- */

/* Optimizer state of a worker, of 16 experts on 16 equal workers, against the paper's 12 L E / N (one copy) and against
 * state that lives with replicas, 12 L in each of 4 slots. */
static int bench_memory_of_shards(struct smoe_bench *bench, struct smoe_why *why)
{
    enum { EXPERTS = 16, WORKERS = 16, SLOTS = 4 };
    static struct smoe_shard_piece pieces[SMOE_SHARD_GRAINS(WORKERS)];
    struct smoe_shard_map map = {.pieces = pieces, .pieces_max = SMOE_SHARD_GRAINS(WORKERS)};
    struct smoe_shard_scratch *scratch;
    uint64_t memory[WORKERS], owned[WORKERS], followed[WORKERS], most = 0;
    int rc = smoe_shard_scratch_new(WORKERS, SMOE_SHARD_GRAINS(WORKERS), &scratch);
    if (rc)
        return smoe_fail(why, rc, "placement: out of memory");
    for (int j = 0; j < WORKERS; j++)
        memory[j] = 1;
    rc = smoe_shard_cut(PARAMETERS, SMOE_SHARD_GRAINS(WORKERS), WORKERS, memory, scratch, &map);
    smoe_assert(rc == 0);
    smoe_shard_held(&map, WORKERS, owned, followed);
    for (int j = 0; j < WORKERS; j++)
        most = owned[j] + followed[j] > most ? owned[j] + followed[j] : most;
    double bytes = (double)most * STATE_BYTES * EXPERTS;
    double paper = (double)PARAMETERS * STATE_BYTES * EXPERTS / WORKERS;
    smoe_report_value(bench->report, "MB", 1e-6 * bytes, "placement.memory.shards");
    smoe_report_value(bench->report, "x", bytes / 2 / paper, "placement.memory.copy_to_paper");
    smoe_report_value(bench->report, "x", bytes / ((double)PARAMETERS * STATE_BYTES * SLOTS),
                      "placement.memory.to_with_replicas");
    smoe_shard_scratch_free(scratch);
    return 0;
}

int smoe_bench_placement(struct smoe_bench *bench, struct smoe_why *why)
{
    struct planning p;
    int rc = bench_planner(bench, 64, 64, 4, 1, false, why);
    rc = rc ? rc : bench_planner(bench, 64, 64, 4, 1, true, why);
    rc = rc ? rc : bench_planner(bench, 64, 16, 16, 1, false, why);
    rc = rc ? rc : bench_planner(bench, 64, 16, 16, 1, true, why);
    rc = rc ? rc : bench_planner(bench, 256, 36, 8, 58, false, why);
    rc = rc ? rc : bench_planner(bench, 256, 36, 8, 58, true, why);
    rc = rc ? rc : bench_planner(bench, 8, 4, 4, 1, true, why);
    rc = rc ? rc : bench_counting(bench, why);
    if (rc)
        return rc;
    rc = init(&p, 16, 16, 4, false);
    if (rc == 0)
        bench_bytes(bench, &p);
    release(&p);
    if (rc)
        return smoe_fail(why, rc, "placement: out of memory");
    rc = bench_memory_of_shards(bench, why);
    rc = rc ? rc : smoe_bench_traffic(bench, why);
    return rc ? rc : smoe_bench_exchange(bench, why);
}
