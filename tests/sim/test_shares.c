/* SPDX-License-Identifier: Apache-2.0
 *
 * A synchronous trainer on workers of speed 1, 1/2, 1/4 and 1/4, whose every parcel costs as much as thirty rows
 * beside what its rows cost (as measured: weights come from memory, lanes wake up), and who all have the same
 * optimizer steps to make. A visit is then dearer to a worker the fewer it gets. Where that was taken for
 * slowness a worker that was slow for a while got 0.3 % of the visits for ever after.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "sim/world.h"

#define WORKERS     4
#define EXPERTS     8
#define TOKENS      512
#define TOP_K       2
#define PARCEL_ROWS 30
#define CYCLES      8.0 /* a flop */
#define STEPS       80

static const double SPEED[WORKERS] = {1, 0.5, 0.25, 0.25};

struct fleet {
    struct smoe_world *world;
    uint32_t gateway, trainer;
};

static struct fleet begin(uint64_t seed)
{
    struct fleet f = {smoe_world_new(&(struct smoe_world_options){
                          .seed = seed, .arithmetic = SMOE_SIM_EXACT, .check_every = 1024}),
                      0, 0};
    f.gateway =
        smoe_world_add_gateway(f.world, &(struct smoe_sim_gateway_options){.name = "gateway"});
    smoe_world_start(f.world, f.gateway);
    for (uint32_t j = 0; j < WORKERS; j++) {
        struct smoe_sim_worker_options o = {.gateway = f.gateway,
                                            .speed = SPEED[j],
                                            .cycles_per_flop = CYCLES,
                                            .parcel_rows = PARCEL_ROWS};
        snprintf(o.name, sizeof o.name, "w%u", j);
        smoe_world_start(f.world, smoe_world_add_worker(f.world, &o));
    }
    smoe_world_run(f.world, 50 * SMOE_SIM_MS); /* all are there when experts are dealt out */
    f.trainer = smoe_world_add_trainer(
        f.world, &(struct smoe_sim_trainer_options){.gateway = f.gateway,
                                                    .shape = {.experts = EXPERTS,
                                                              .d_model = 16,
                                                              .d_ff = 64,
                                                              .activation = SMOE_RELU,
                                                              .optimizer = SMOE_ADAMW},
                                                    .steps = STEPS,
                                                    .tokens = TOKENS,
                                                    .top_k = TOP_K});
    smoe_world_start(f.world, f.trainer);
    return f;
}

static const struct smoe_worker *worker_of(const struct fleet *f, uint32_t j)
{
    const struct smoe_fleet *fleet =
        smoe_core_fleet(smoe_gateway_core(smoe_world_gateway(f->world, f->gateway)));
    char name[8];
    uint32_t i = SMOE_NO_WORKER;
    snprintf(name, sizeof name, "w%u", j);
    cr_assert(smoe_fleet_find(fleet, name, &i));
    return &fleet->workers[i];
}

static uint32_t worker_process(uint32_t j)
{
    return 1 + j; /* after the gateway */
}

static void run_to_step(const struct fleet *f, uint64_t steps)
{
    while (smoe_world_trainer(f->world, f->trainer).steps < steps)
        cr_assert(smoe_world_step(f->world), "the trainer is stuck");
}

/* Visits of a step that let all end at the same time, each worker with a parcel of two experts:
 * (visits + 60) / speed is the same everywhere. */
static double ideal_share(uint32_t j)
{
    double parcels = PARCEL_ROWS * (double)EXPERTS / WORKERS, visits = TOKENS * TOP_K, speed = 0;
    for (uint32_t k = 0; k < WORKERS; k++)
        speed += SPEED[k];
    return ((visits + WORKERS * parcels) * SPEED[j] / speed - parcels) / visits;
}

/* Shares of the visits of steps from..to. */
static void watch_shares(const struct fleet *f, uint64_t to, double ret[WORKERS])
{
    double all = 0;
    for (uint32_t j = 0; j < WORKERS; j++)
        ret[j] = -(double)worker_of(f, j)->account.settled;
    run_to_step(f, to);
    for (uint32_t j = 0; j < WORKERS; j++)
        all += ret[j] += (double)worker_of(f, j)->account.settled;
    for (uint32_t j = 0; j < WORKERS; j++)
        ret[j] /= all;
}

static void check_shares(const struct fleet *f, uint64_t to)
{
    double share[WORKERS];
    watch_shares(f, to, share);
    for (uint32_t j = 0; j < WORKERS; j++) {
        double ideal = ideal_share(j);
        cr_expect_float_eq(share[j], ideal, 0.15 * ideal, "to step %d, worker %u: %.3f, not %.3f",
                           (int)to, j, share[j], ideal);
    }
}

Test(shares, small_parcels_and_steps_do_not_make_a_worker_look_slow)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct fleet f = begin(seed);
        run_to_step(&f, 20);
        check_shares(&f, STEPS - 1);
        smoe_world_free(f.world);
    }
}

/* It was ten times as slow for a while, and has next to nothing to do. */
Test(shares, a_starved_worker_is_found_to_be_fast_again)
{
    struct fleet f = begin(3);
    double share[WORKERS];
    run_to_step(&f, 10);
    smoe_world_slow_worker(f.world, worker_process(2), 10);
    run_to_step(&f, 20);
    watch_shares(&f, 30, share);
    cr_expect_lt(share[2], 0.02);
    smoe_world_slow_worker(f.world, worker_process(2), 1);
    run_to_step(&f, 50);
    check_shares(&f, STEPS - 1);
    smoe_world_free(f.world);
}
