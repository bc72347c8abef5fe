/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories in which nothing breaks.
 */
#include <string.h>

#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

static struct smoe_core_totals totals_of(const struct smoe_world *w, uint32_t gateway)
{
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, gateway)), &totals);
    return totals;
}

static struct smoe_core_settings settings_of(const struct smoe_world *w, uint32_t gateway)
{
    return totals_of(w, gateway).settings;
}

void smoe_story_join(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, NULL);
    smoe_world_run(w, 27 * MS);
    const struct smoe_core *core = smoe_gateway_core(smoe_world_gateway(w, c.gateway));
    struct smoe_layer_view layer = smoe_core_layer(core, 0);
    smoe_story_expect(w, smoe_story_worker(w, c.gateway, c.fast).state == SMOE_WORKER_READY,
                      "fast is not ready");
    smoe_story_expect(w, layer.state == SMOE_LAYER_READY, "the layer is %s",
                      smoe_layer_state_name(layer.state));
    for (uint32_t e = 0; layer.state == SMOE_LAYER_READY && e < layer.shape.experts; e++)
        smoe_story_expect(w, layer.experts[e].worker == e % 2, "expert %u is misplaced", e);
    smoe_story_finish(w, 10 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_train(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 30, .tokens = 64});
    smoe_story_finish(w, 60 * SEC);
    struct smoe_sim_trainer_view v = smoe_world_trainer(w, c.trainer);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, v.last_loss < 0.9 * v.first_loss, "the loss went from %g to %g",
                      v.first_loss, v.last_loss);
    struct smoe_core_totals totals = totals_of(w, c.gateway);
    smoe_story_expect(w, totals.account.now[SMOE_VISIT_COMMITTED] == 30 * 64 * 2,
                      "%llu visits were committed",
                      (unsigned long long)totals.account.now[SMOE_VISIT_COMMITTED]);
    smoe_story_expect(w, totals.account.failed == 0, "visits failed");
}

void smoe_story_adam(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL,
                        &(struct smoe_sim_trainer_options){.shape = {.experts = 4,
                                                                     .d_model = 4,
                                                                     .d_ff = 8,
                                                                     .activation = SMOE_SWIGLU,
                                                                     .optimizer = SMOE_ADAMW},
                                                           .steps = 5,
                                                           .batches = 2,
                                                           .clip_norm = 0.05,
                                                           .dense_square_norm = 3});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).clip_scale < 0.05, "nothing was clipped");
}

/* A slot of ten seconds, twenty steps: if one of them waited for a deadline it would show. */
void smoe_story_slot_closes_early(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 20, .tokens = 32});
    struct smoe_core_settings s = settings_of(w, c.gateway);
    s.slot_ns = 10 * SEC;
    smoe_world_configure(w, c.gateway, &s);
    smoe_story_finish(w, 2 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, totals_of(w, c.gateway).slots_early >= 20, "%llu slots closed early",
                      (unsigned long long)totals_of(w, c.gateway).slots_early);
}

void smoe_story_pipelined(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL,
                                         &(struct smoe_sim_trainer_options){.steps = 6,
                                                                            .batches = 4,
                                                                            .in_flight = 2,
                                                                            .pipelined = true,
                                                                            .hasty = true,
                                                                            .think_ns = 3 * MS});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_three_layers(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL,
        &(struct smoe_sim_trainer_options){.n_layers = 3, .batches = 6, .steps = 4, .tokens = 16});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* Speeds 1 and 1/4: of the visits the fast one must have had about four fifths. */
void smoe_story_unlike_workers(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL,
                        &(struct smoe_sim_trainer_options){.shape = {.experts = 8,
                                                                     .d_model = 16,
                                                                     .d_ff = 64,
                                                                     .activation = SMOE_RELU,
                                                                     .optimizer = SMOE_SGD},
                                                           .steps = 10,
                                                           .tokens = 256});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    double fast = (double)smoe_story_worker(w, c.gateway, c.fast).account.settled;
    double slow = (double)smoe_story_worker(w, c.gateway, c.slow).account.settled;
    double share = fast / (fast + slow);
    smoe_story_expect(w, share > 0.72 && share < 0.88, "fast had a share of %.3f, not 0.8", share);
}

void smoe_story_evaluation(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL, &(struct smoe_sim_trainer_options){.steps = 8, .think_ns = 5 * MS});
    uint32_t evaluator = smoe_world_add_trainer(
        w, &(struct smoe_sim_trainer_options){.name = "judge", .evaluate = true, .steps = 12});
    smoe_world_start(w, evaluator);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect_trainer(w, evaluator, 0);
    smoe_story_expect(w, smoe_world_trainer(w, evaluator).batches == 12, "%llu evaluations",
                      (unsigned long long)smoe_world_trainer(w, evaluator).batches);
}

void smoe_story_two_trainers_one_layer(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, NULL);
    uint32_t second =
        smoe_world_add_trainer(w, &(struct smoe_sim_trainer_options){.name = "second"});
    uint32_t neighbour = smoe_world_add_trainer(
        w, &(struct smoe_sim_trainer_options){.name = "neighbour", .layer_name = "other"});
    smoe_world_plan(w, 30 * MS, SMOE_SIM_START, second);
    smoe_world_start(w, neighbour);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect_trainer(w, neighbour, 0);
    smoe_story_expect_trainer(w, second, SMOE_EEXIST);
    const char *why = smoe_world_trainer(w, second).why.text;
    smoe_story_expect(w, strstr(why, "trainer trainer owns it") != NULL, "second was told: %s",
                      why);
}

void smoe_story_drain(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL, &(struct smoe_sim_trainer_options){.steps = 40, .tokens = 16, .think_ns = 2 * MS});
    smoe_story_run_to_step(w, c.trainer, 5, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_DRAIN, c.slow);
    smoe_story_run_to_step(w, c.trainer, 7, 10 * SEC);
    uint64_t before = smoe_story_worker(w, c.gateway, c.slow).account.settled;
    smoe_story_expect(w, before > 0, "slow has done nothing");
    smoe_story_run_to_step(w, c.trainer, 20, 10 * SEC);
    uint64_t drained = smoe_story_worker(w, c.gateway, c.slow).account.settled;
    smoe_story_expect(w, drained == before, "slow got %llu visits while it was drained",
                      (unsigned long long)(drained - before));
    smoe_world_act(w, SMOE_SIM_UNDRAIN, c.slow);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_story_worker(w, c.gateway, c.slow).account.settled > drained,
                      "slow got nothing after it was undrained");
}

void smoe_story_shutdown(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, NULL);
    smoe_story_run_into_forward(w, c.gateway, c.fast, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_STOP, c.gateway);
    smoe_world_run(w, smoe_world_now(w) + 6 * SEC);
    smoe_story_expect(w, !smoe_world_gateway(w, c.gateway), "the gateway runs on after 6 s");
    smoe_world_start(w, c.gateway);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* One to three bytes at a time, out of step, over buffers of 700 bytes. */
void smoe_story_crumbs(struct smoe_world *w)
{
    struct smoe_sim_profile path = {
        .latency_ns = MS / 10, .jitter_ns = MS / 50, .chunk_bytes_max = 3, .buffer_bytes = 700};
    struct smoe_sim_gateway_options gateway = {.path = path};
    struct smoe_cast c = smoe_story_cast(w, &gateway, NULL);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* A layer is declared while its only worker is drained. */
void smoe_story_drain_new_layer(struct smoe_world *w)
{
    uint32_t gateway = smoe_world_add_gateway(w, &(struct smoe_sim_gateway_options){.name = ""});
    uint32_t worker = smoe_world_add_worker(w, &(struct smoe_sim_worker_options){.name = "only"});
    uint32_t trainer = smoe_world_add_trainer(w, &(struct smoe_sim_trainer_options){.name = ""});
    smoe_world_start(w, gateway);
    smoe_world_start(w, worker);
    smoe_world_run(w, 20 * MS);
    smoe_world_act(w, SMOE_SIM_DRAIN, worker);
    smoe_world_start(w, trainer);
    smoe_world_run(w, 2 * SEC);
    smoe_story_expect(w, smoe_world_trainer(w, trainer).batches == 0, "a drained worker works");
    smoe_world_act(w, SMOE_SIM_UNDRAIN, worker);
    smoe_story_finish(w, 20 * SEC);
    smoe_story_expect_trainer(w, trainer, 0);
}
