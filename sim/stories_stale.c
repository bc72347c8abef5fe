/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories of layers with staleness 1: while a step is under way the batches of the next are computed by the weights
 * before it. What they must be is the oracle's to say (oracle.h): it computes them at the parameters of the step that
 * their trainer knew when it submitted them, however often they are sent, and whoever computes them.
 */
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

/* Has the trainer seen results of batches whose step comes after the one under way? */
static bool seen_ahead(const struct smoe_world *w, uint32_t trainer, uint32_t batches)
{
    struct smoe_sim_trainer_view v = smoe_world_trainer(w, trainer);
    return v.batches > (v.steps + 1) * batches;
}

/* Runs until then. */
static void run_ahead(struct smoe_world *w, uint32_t trainer, uint32_t batches, uint64_t until_ns)
{
    while (!seen_ahead(w, trainer, batches) && smoe_world_now(w) < until_ns && smoe_world_step(w))
        ;
    smoe_story_expect(w, seen_ahead(w, trainer, batches), "no batch was a step ahead");
}

void smoe_story_stale(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = {.shape = {.experts = 4,
                                                   .d_model = 8,
                                                   .d_ff = 16,
                                                   .activation = SMOE_SWIGLU,
                                                   .optimizer = SMOE_ADAMW},
                                         .steps = 24,
                                         .batches = 2,
                                         .tokens = 32,
                                         .clip_norm = 0.5,
                                         .dense_square_norm = 0.1,
                                         .pipelined = true,
                                         .staleness = 1};
    struct smoe_cast c = smoe_story_cast(w, NULL, &t);
    run_ahead(w, c.trainer, t.batches, 10 * SEC);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* One trainer owns a layer that is ahead, another one whose batches wait; they share the workers. */
void smoe_story_stale_layers(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL,
                                         &(struct smoe_sim_trainer_options){.n_layers = 2,
                                                                            .batches = 4,
                                                                            .in_flight = 2,
                                                                            .steps = 12,
                                                                            .pipelined = true,
                                                                            .hasty = true,
                                                                            .staleness = 1});
    uint32_t other =
        smoe_world_add_trainer(w, &(struct smoe_sim_trainer_options){.name = "other",
                                                                     .gateway = c.gateway,
                                                                     .layer_name = "other",
                                                                     .steps = 12,
                                                                     .think_ns = 2 * MS,
                                                                     .pipelined = true});
    smoe_world_start(w, other);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect_trainer(w, other, 0);
}

void smoe_story_stale_storm(struct smoe_world *w)
{
    struct smoe_rng rng;
    struct smoe_sim_trainer_options t = {.steps = 300,
                                         .tokens = 32,
                                         .think_ns = MS,
                                         .hasty = w->options.seed % 2,
                                         .pipelined = true,
                                         .staleness = 1};
    struct smoe_cast c = smoe_story_cast(w, NULL, &t);
    uint32_t third = smoe_world_add_worker(
        w, &(struct smoe_sim_worker_options){.name = "third", .gateway = c.gateway});
    uint32_t victims[] = {c.fast, c.slow, third, c.gateway};
    smoe_rng_init(&rng, w->options.seed, UINT64_C(0x5711));
    smoe_world_start(w, third);
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    for (int round = 0; round < 40 && !smoe_world_trainer(w, c.trainer).done; round++) {
        uint32_t victim = victims[smoe_rng_below(&rng, 4)];
        smoe_story_run_to_both_copies(w, c.gateway);
        if (round % 2)
            run_ahead(w, c.trainer, 1, smoe_world_now(w) + 10 * SEC);
        smoe_world_run(w, smoe_world_now(w) + smoe_rng_below(&rng, round % 2 ? 3 * MS : 50 * MS));
        smoe_world_act(w, SMOE_SIM_CRASH, victim);
        smoe_world_run(w, smoe_world_now(w) + smoe_rng_below(&rng, 100 * MS));
        smoe_world_start(w, victim);
    }
    smoe_story_finish(w, 400 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_stale_restart(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL,
                        &(struct smoe_sim_trainer_options){
                            .steps = 24, .tokens = 32, .pipelined = true, .staleness = 1});
    for (uint64_t step = 2; step < 14; step += 2) {
        smoe_story_run_to_step(w, c.trainer, step, 100 * SEC);
        run_ahead(w, c.trainer, 1, 100 * SEC);
        smoe_world_act(w, step % 4 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 200 * MS);
        smoe_world_start(w, c.gateway);
    }
    smoe_story_finish(w, 200 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* Does the worker serve an expert of the first layer? */
static bool serves(const struct smoe_world *w, const struct smoe_cast *c, uint32_t worker)
{
    const struct smoe_core *core = smoe_gateway_core(smoe_world_gateway(w, c->gateway));
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    struct smoe_layer_view layer = smoe_core_layer(core, 0);
    uint32_t number;
    for (uint32_t e = 0; e < layer.shape.experts; e++)
        if (smoe_fleet_find(fleet, smoe_world_name(w, worker), &number) &&
            layer.experts[e].worker == number)
            return true;
    return false;
}

/* Roles change only while no visit is out: a batch that is ahead waits once where they shall. */
void smoe_story_stale_drain(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL,
        &(struct smoe_sim_trainer_options){
            .steps = 60, .tokens = 16, .hasty = true, .pipelined = true, .staleness = 1});
    smoe_story_run_to_step(w, c.trainer, 8, 10 * SEC);
    smoe_story_run_to_both_copies(w, c.gateway);
    smoe_story_expect(w, serves(w, &c, c.slow), "slow serves nothing");
    smoe_world_act(w, SMOE_SIM_DRAIN, c.slow);
    uint64_t steps = smoe_world_trainer(w, c.trainer).steps;
    smoe_story_run_to_step(w, c.trainer, steps + 4, 10 * SEC);
    smoe_story_expect(w, !serves(w, &c, c.slow), "slow serves still, four steps later");
    run_ahead(w, c.trainer, 1, 60 * SEC);
    smoe_world_act(w, SMOE_SIM_UNDRAIN, c.slow);
    smoe_story_run_to_step(w, c.trainer, steps + 12, 10 * SEC);
    smoe_story_expect(w, serves(w, &c, c.slow), "slow got nothing back");
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_stale_poison(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL,
        &(struct smoe_sim_trainer_options){
            .steps = 8, .tokens = 16, .poison_step = 4, .pipelined = true, .staleness = 1});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).failed_steps == 1,
                      "%llu steps failed, not one",
                      (unsigned long long)smoe_world_trainer(w, c.trainer).failed_steps);
    smoe_story_expect_trainer(w, c.trainer, 0);
}
