/* SPDX-License-Identifier: Apache-2.0
 *
 * A world made up from its seed: who is in it, over what network, what breaks when. Faults come in pairs
 * (what breaks is mended later) at random moments of virtual time, which fall between any two events,
 * since a seed's events have their own moments. At MEND_NS everything left broken is mended; from then on
 * everything must finish.
 *
 * Workers die in some worlds only, with all they hold. If an expert's host and follower are both dead
 * before the next copy is made, it is lost, and its trainer must be told so, or wait for a worker that
 * may return. In all other worlds nothing may be lost and everybody must finish.
 */
#include <stdio.h>
#include <string.h>

#include "sim/story.h"
#include "sim/world_state.h"

#define MS       SMOE_SIM_MS
#define SEC      (1000 * SMOE_SIM_MS)
#define MEND_NS  (20 * SEC)
#define UNTIL_NS (140 * SEC)

enum { WORKERS_MAX = 4, TRAINERS_MAX = 3, EVALUATOR = 2, FAULTS_MAX = 8 };

struct made_up {
    struct smoe_world *world;
    struct smoe_rng rng;
    uint32_t gateway, workers[WORKERS_MAX], trainers[TRAINERS_MAX];
    uint32_t n_workers, n_trainers;
    bool workers_die; /* experts may be lost */
    bool sharded, frozen, stale;
    uint32_t n_kinds; /* the first of `faults` */
};

static uint32_t below(struct made_up *m, uint32_t n)
{
    return (uint32_t)smoe_rng_below(&m->rng, n);
}

static bool one_in(struct made_up *m, uint32_t n)
{
    return below(m, n) == 0;
}

/* ---- cast ---- */

static struct smoe_sim_profile some_path(struct made_up *m)
{
    return (struct smoe_sim_profile){
        .latency_ns = below(m, 3000) * SMOE_SIM_US,
        .jitter_ns = one_in(m, 2) ? below(m, 2000) * SMOE_SIM_US : 0,
        .bytes_per_s = one_in(m, 4) ? 100000 + below(m, 1000000) : 0,
        .chunk_bytes_max = one_in(m, 3) ? 1 + below(m, 200) : 0,
        .buffer_bytes = one_in(m, 4) ? 512 + below(m, 4096) : 64 << 10,
    };
}

static void add_gateway(struct made_up *m)
{
    /* As small as such a world is: a gateway that is started again makes all its tables again. */
    struct smoe_sim_gateway_options o = {
        .path = some_path(m), .limits = {8, 4, 64, 1024, 1024}, .sharded = m->sharded};
    if (m->sharded)
        o.placement = (struct smoe_place_rule){
            .kind = (enum smoe_place_kind)below(m, SMOE_PLACE_KINDS), .interval = 1 + below(m, 3)};
    o.links = m->sharded && !one_in(m, 4);
    o.exchange_bytes = m->world->options.seed % 3 ? 0 : 256;
    m->gateway = smoe_world_add_gateway(m->world, &o);
}

static void add_workers(struct made_up *m)
{
    m->n_workers = 1 + below(m, WORKERS_MAX);
    for (uint32_t i = 0; i < m->n_workers; i++) {
        struct smoe_sim_worker_options o = {
            .gateway = m->gateway,
            .path = some_path(m),
            .speed = 0.1 + 0.9 * smoe_rng_unit(&m->rng),
            .cycles_per_flop = 1 + 2000 * smoe_rng_unit(&m->rng),
            .jitter = one_in(m, 2) ? 0.3 : 0,
            .lanes = 1 + below(m, 3),
            .parcels_max = 512,
        };
        o.making = o.lanes == 2 ? 100 : 0;
        snprintf(o.name, sizeof o.name, "worker-%u", i);
        m->workers[i] = smoe_world_add_worker(m->world, &o);
    }
}

static void add_trainers(struct made_up *m)
{
    m->n_trainers = 1 + below(m, TRAINERS_MAX);
    for (uint32_t i = 0; i < m->n_trainers; i++) {
        bool evaluate = i == EVALUATOR;
        struct smoe_sim_trainer_options o = {
            .gateway = m->gateway,
            .path = some_path(m),
            .n_layers = evaluate ? 1 : 1 + below(m, 2),
            .layer_name = i == 1 ? "other" : "moe",
            .evaluate = evaluate,
            .steps = 2 + below(m, 10),
            .batches = 1 + below(m, 3),
            .tokens = 1 + below(m, 24),
            .top_k = 1 + below(m, 3),
            .skew = 2 * smoe_rng_unit(&m->rng),
            .think_ns = one_in(m, 2) ? below(m, 300) * MS : 0,
            .pipelined = one_in(m, 2),
            .hasty = one_in(m, 3),
            .patience_ns = UNTIL_NS,
        };
        o.in_flight = 1 + below(m, o.batches);
        o.staleness = m->stale && !evaluate && (i == 0 || o.pipelined);
        o.pipelined |= o.staleness;
        if (m->frozen && !evaluate) /* the owner's part: others come with scores, stage 2 or not */
            o.freeze_step = 1 + below(m, o.steps);
        snprintf(o.name, sizeof o.name, "trainer-%u", i);
        m->trainers[i] = smoe_world_add_trainer(m->world, &o);
    }
}

/* ---- faults ---- */

static const struct fault {
    enum smoe_sim_act breaks, mends;
    bool of_worker, of_trainer, of_gateway;
    uint32_t longest_ms;
} faults[] = {
    {SMOE_SIM_CRASH, SMOE_SIM_START, true, true, true, 4000},
    {SMOE_SIM_VANISH, SMOE_SIM_START, true, true, true, 4000},
    {SMOE_SIM_STOP, SMOE_SIM_START, false, false, true, 8000},
    {SMOE_SIM_PAUSE, SMOE_SIM_RESUME, true, true, true, 3000},
    {SMOE_SIM_DEAF, SMOE_SIM_HEARING, true, true, true, 3000},
    {SMOE_SIM_RESET, SMOE_SIM_HEAL, true, true, true, 10},
    {SMOE_SIM_CUT, SMOE_SIM_HEAL, true, true, true, 8000},
    {SMOE_SIM_CUT_TO, SMOE_SIM_HEAL, true, true, true, 8000},
    {SMOE_SIM_CUT_FROM, SMOE_SIM_HEAL, true, true, true, 8000},
    {SMOE_SIM_DRAIN, SMOE_SIM_UNDRAIN, true, false, false, 4000},
    {SMOE_SIM_LOSSY, SMOE_SIM_LOSSLESS, true, true, true, 8000},
    {SMOE_SIM_DISK_FAILS, SMOE_SIM_DISK_WORKS, false, false, true, 8000},
    {SMOE_SIM_SLOW, SMOE_SIM_QUICK, true, false, false, 8000},
    {SMOE_SIM_LIE, SMOE_SIM_HONEST, true, false, false, 8000},
};
enum { RANDOM_KINDS = 10, TORTURE_KINDS = sizeof faults / sizeof *faults };

/* At most one lies: where two do, the numbers of one confirm the other's. */
static uint32_t some_worker(struct made_up *m, enum smoe_sim_act breaks)
{
    uint32_t i = below(m, m->n_workers);
    return m->workers[breaks == SMOE_SIM_LIE ? 0 : i];
}

static void plan_fault(struct made_up *m)
{
    const struct fault *f = &faults[below(m, m->n_kinds)];
    uint64_t at = below(m, (uint32_t)(MEND_NS / MS / 4)) * MS + below(m, 1000) * SMOE_SIM_US;
    uint64_t later = at + (1 + below(m, f->longest_ms)) * MS;
    uint32_t who = below(m, 5);
    uint32_t process = who == 0   ? m->gateway
                       : who <= 3 ? some_worker(m, f->breaks)
                                  : m->trainers[below(m, m->n_trainers)];
    bool fits = who == 0 ? f->of_gateway : who <= 3 ? f->of_worker : f->of_trainer;
    bool dies = f->mends == SMOE_SIM_START && who > 0 && who <= 3;
    if (!fits || (dies && !m->workers_die))
        return;
    smoe_world_plan(m->world, at, f->breaks, process);
    smoe_world_plan(m->world, later < MEND_NS ? later : MEND_NS, f->mends, process);
}

/* Faults may have overlapped: whatever is still broken is mended now. */
static void mend(struct made_up *m)
{
    static const enum smoe_sim_act mends[] = {SMOE_SIM_HEAL,     SMOE_SIM_RESUME,
                                              SMOE_SIM_HEARING,  SMOE_SIM_START,
                                              SMOE_SIM_LOSSLESS, SMOE_SIM_DISK_WORKS,
                                              SMOE_SIM_QUICK,    SMOE_SIM_HONEST,
                                              SMOE_SIM_UNDRAIN}; /* out of quarantine too */
    for (size_t i = 0; i < sizeof mends / sizeof *mends; i++)
        for (uint32_t p = 0; p < smoe_world_processes(m->world); p++)
            smoe_world_act(m->world, mends[i], p);
}

/* ---- the end ---- */

static bool all_over(const struct made_up *m)
{
    for (uint32_t i = 0; i < m->n_trainers; i++)
        if (!smoe_sim_trainer_over(m->world->processes[m->trainers[i]]))
            return false;
    return true;
}

/* Does the trainer evaluate a layer whose owner was started again, with a run of its own? */
static bool was_replaced(const struct made_up *m, uint32_t trainer)
{
    return m->n_trainers > EVALUATOR && trainer == m->trainers[EVALUATOR] &&
           m->world->processes[m->trainers[0]]->starts > 1;
}

/* A trainer is done; or its experts died, or were replaced; or it was started again before the gateway
 * could know that its predecessor, which lost power, is gone: it is told so, and it is for the operator to
 * try again. */
static void judge(struct made_up *m, uint32_t trainer)
{
    struct smoe_sim_trainer_view v = smoe_world_trainer(m->world, trainer);
    bool lost = m->workers_die && (!v.failed || v.failed == SMOE_ELOST);
    bool twice = v.failed == SMOE_EEXIST && m->world->processes[trainer]->starts > 1;
    bool replaced = v.failed == SMOE_ELOST && was_replaced(m, trainer);
    m->world->losses += lost && !v.done;
    smoe_story_expect(m->world, v.done || lost || twice || replaced, "%s: %s",
                      smoe_world_name(m->world, trainer),
                      v.failed ? v.why.text : "not done two minutes after all was mended");
    if (!v.done)
        smoe_world_act(m->world, SMOE_SIM_STOP, trainer);
}

/* A worker that is away for longer than its lease has lost its place, and its experts with it if it alone
 * had them. That is as it should be, and not what these worlds are for. What a frozen router chose is kept: then
 * trainers can tell whether it was. */
static void configure(const struct made_up *m)
{
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_gateway_core(smoe_world_gateway(m->world, m->gateway)), &totals);
    totals.settings.worker_lease_ns = 2 * MEND_NS;
    totals.settings.consistency = SMOE_CONSISTENCY_STRICT;
    smoe_world_configure(m->world, m->gateway, &totals.settings);
}

static void play(struct smoe_world *w, struct made_up m)
{
    m.world = w;
    w->sharded = m.sharded;
    w->frozen = m.frozen;
    w->stale = m.stale;
    smoe_rng_init(&m.rng, w->options.seed, UINT64_C(0x5707));
    add_gateway(&m);
    add_workers(&m);
    add_trainers(&m);
    m.workers_die = one_in(&m, 4);
    uint32_t n = below(&m, FAULTS_MAX + 1);
    for (uint32_t i = 0; i < n; i++)
        plan_fault(&m);
    for (uint32_t p = m.gateway + 1; p < smoe_world_processes(w); p++)
        smoe_world_plan(w, below(&m, 50) * MS, SMOE_SIM_START, p);
    smoe_world_act(w, SMOE_SIM_START, m.gateway);
    configure(&m);
    smoe_world_run(w, MEND_NS);
    mend(&m);
    while (!all_over(&m) && smoe_world_now(w) < UNTIL_NS &&
           smoe_world_run(w, smoe_world_now(w) + SEC))
        ;
    for (uint32_t i = 0; i < m.n_trainers; i++)
        judge(&m, m.trainers[i]);
    if (!m.workers_die)
        smoe_story_finish(w, UNTIL_NS + SEC);
}

void smoe_story_random(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = RANDOM_KINDS});
}

void smoe_story_random_sharded(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = RANDOM_KINDS, .sharded = true});
}

void smoe_story_random_frozen(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = RANDOM_KINDS, .frozen = true});
}

void smoe_story_random_stale(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = RANDOM_KINDS, .stale = true});
}

void smoe_story_random_stale_sharded(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = RANDOM_KINDS, .sharded = true, .stale = true});
}

void smoe_story_torture_whole(struct smoe_world *w)
{
    play(w, (struct made_up){.n_kinds = TORTURE_KINDS});
}

/* What kind of world it is comes from a stream of its own: of two seeds that agree in it nothing else does. */
void smoe_story_torture(struct smoe_world *w)
{
    struct made_up m = {.n_kinds = TORTURE_KINDS};
    struct smoe_rng rng;
    smoe_rng_init(&rng, w->options.seed, UINT64_C(0x70a7));
    m.sharded = smoe_rng_below(&rng, 2);
    m.frozen = smoe_rng_below(&rng, 2);
    m.stale = smoe_rng_below(&rng, 2);
    play(w, m);
}
