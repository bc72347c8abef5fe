/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories in which one thing breaks, at the moment that matters. What a trainer was given is compared
 * with the oracle as it goes (sim/script.c), so `done` already says: every committed step is right, and
 * no visit counts twice.
 */
#include <stdio.h>
#include <string.h>

#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

static uint64_t now_in(const struct smoe_world *w, uint32_t gateway, uint32_t worker,
                       enum smoe_visit_state state)
{
    return smoe_story_worker(w, gateway, worker).account.now[state];
}

/* It must have cost an attempt, or the fault missed. */
static void expect_replay(struct smoe_world *w, const struct smoe_cast *c)
{
    smoe_story_expect_trainer(w, c->trainer, 0);
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c->trainer)) > 1,
                      "nothing was replayed");
}

void smoe_story_worker_lost_forward(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    smoe_story_run_into_forward(w, c.gateway, c.slow, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_RESET, c.slow);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

void smoe_story_worker_lost_backward(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    while (!now_in(w, c.gateway, c.slow, SMOE_VISIT_GRADIENT_QUEUED) && smoe_world_step(w))
        ;
    smoe_world_act(w, SMOE_SIM_RESET, c.slow);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

/* Everything is settled, the Step is on its way to the workers. */
void smoe_story_worker_lost_step(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    while (!smoe_uplink_step_state(smoe_world_uplink(w, c.trainer))->sent && smoe_world_step(w))
        ;
    smoe_world_run(w, smoe_world_now(w) + 2500 * SMOE_SIM_US);
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).steps == 2, "the step was too quick");
    smoe_world_act(w, SMOE_SIM_RESET, c.slow);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

void smoe_story_worker_dies_new(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, NULL);
    smoe_story_run_into_forward(w, c.gateway, c.fast, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.fast);
    smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, c.fast);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

/* In the middle of its forward, with everything it held; its copies serve in its place. */
void smoe_story_worker_dies_trained(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    smoe_story_run_into_forward(w, c.gateway, c.fast, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_VANISH, c.fast);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

/* Nobody has its experts any more, so there is no going on: the trainer must be told, in words, and nothing
 * may be invented. */
void smoe_story_all_copies_die(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.fast);
    smoe_world_act(w, SMOE_SIM_CRASH, c.slow);
    smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, c.fast);
    smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, c.slow);
    smoe_world_run_trainers(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, SMOE_ELOST);
    const char *why = smoe_world_trainer(w, c.trainer).why.text;
    smoe_story_expect(w, strstr(why, "checkpoint") != NULL, "the trainer was told: %s", why);
}

void smoe_story_worker_silent(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    smoe_story_run_into_forward(w, c.gateway, c.slow, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_PAUSE, c.slow);
    smoe_world_run(w, smoe_world_now(w) + 1500 * MS);
    smoe_story_expect(w, smoe_story_worker(w, c.gateway, c.slow).state == SMOE_WORKER_LOST,
                      "slow is not declared lost after 1.5 s of silence");
    smoe_world_act(w, SMOE_SIM_RESUME, c.slow);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
}

/* Each of its experts takes a slow one 6 s to make: six times as long as it may be silent. */
void smoe_story_slow_making(struct smoe_world *w)
{
    const struct smoe_sim_gateway_options sharded = {.sharded = w->options.seed % 2};
    uint32_t gateway = smoe_world_add_gateway(w, &sharded), workers[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct smoe_sim_worker_options o = {
            .gateway = gateway, .speed = i ? 0.25 : 1, .making = 2e7};
        snprintf(o.name, sizeof o.name, "worker-%u", i);
        workers[i] = smoe_world_add_worker(w, &o);
    }
    uint32_t trainer = smoe_world_add_trainer(
        w, &(struct smoe_sim_trainer_options){
               .gateway = gateway, .steps = 4, .tokens = 32, .patience_ns = 600 * SEC});
    smoe_world_start(w, gateway);
    smoe_world_start(w, workers[0]);
    smoe_world_start(w, workers[1]);
    smoe_world_run(w, 20 * MS);
    smoe_world_start(w, trainer);
    for (smoe_world_run(w, 100 * MS); !smoe_world_trainer(w, trainer).steps;) {
        for (uint32_t i = 0; i < 2; i++)
            smoe_story_expect(w,
                              smoe_story_worker(w, gateway, workers[i]).state == SMOE_WORKER_READY,
                              "a worker that makes experts is lost");
        if (smoe_world_now(w) > 600 * SEC || !smoe_world_step(w))
            break;
    }
    smoe_story_expect(w, smoe_world_now(w) > 12 * SEC, "nothing took long");
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, trainer, 0);
}

static void run_until_routed(struct smoe_world *w, uint32_t gateway, uint64_t until_ns)
{
    struct smoe_core_totals totals;
    do
        smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, gateway)), &totals);
    while (!totals.account.now[SMOE_VISIT_ROUTED] && smoe_world_now(w) < until_ns &&
           smoe_world_step(w));
    smoe_story_expect(w, totals.account.now[SMOE_VISIT_ROUTED] > 0, "nothing was routed");
}

/* Short enough to go unnoticed, long enough for a timeout, in one direction, in both. */
void smoe_story_cut_off(struct smoe_world *w)
{
    static const struct {
        enum smoe_sim_act act;
        uint64_t ns;
    } cuts[] = {{SMOE_SIM_CUT, 400 * MS},
                {SMOE_SIM_CUT_TO, 3 * SEC},
                {SMOE_SIM_CUT_FROM, 3 * SEC},
                {SMOE_SIM_CUT, 7 * SEC}};
    struct smoe_cast c = smoe_story_cast(
        w, NULL,
        &(struct smoe_sim_trainer_options){.steps = 200, .tokens = 32, .think_ns = 100 * MS});
    for (size_t i = 0; i < 2 * (sizeof cuts / sizeof *cuts); i++) {
        uint32_t victim = i % 2 ? c.trainer : i % 4 ? c.slow : c.fast;
        smoe_story_run_to_step(w, c.trainer, 2 + 3 * i, 600 * SEC);
        run_until_routed(w, c.gateway, 600 * SEC);
        smoe_world_act(w, cuts[i / 2].act, victim);
        smoe_world_plan(w, smoe_world_now(w) + cuts[i / 2].ns, SMOE_SIM_HEAL, victim);
        smoe_world_run(w, smoe_world_now(w) + cuts[i / 2].ns + 1);
    }
    smoe_story_finish(w, 900 * SEC);
    expect_replay(w, &c);
}

/* The results of a large evaluation pile up for a trainer that has stopped reading. */
void smoe_story_slow_reader(struct smoe_world *w)
{
    struct smoe_sim_gateway_options gateway = {.path = {.buffer_bytes = 4096},
                                               .outbox_bytes_max = sizeof(smoe_real) << 14};
    struct smoe_cast c = smoe_story_cast(w, &gateway,
                                         &(struct smoe_sim_trainer_options){
                                             .shape = {.experts = 4,
                                                       .d_model = 64,
                                                       .d_ff = 8,
                                                       .activation = SMOE_RELU,
                                                       .optimizer = SMOE_SGD},
                                             .tokens = 128,
                                             .batches = 4,
                                         });
    smoe_story_run_into_forward(w, c.gateway, c.fast, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_DEAF, c.trainer);
    smoe_world_run(w, smoe_world_now(w) + 3 * SEC);
    struct smoe_gateway_stats stats;
    smoe_gateway_stats(smoe_world_gateway(w, c.gateway), &stats);
    smoe_story_expect(w, stats.slow_peers > 0, "nobody was disconnected for not reading");
    smoe_world_act(w, SMOE_SIM_HEARING, c.trainer);
    smoe_world_run(w, smoe_world_now(w) + 100 * MS);
    smoe_story_expect(w, smoe_world_gateway(w, c.gateway) != NULL, "the gateway is gone");
}

void smoe_story_trainer_lease(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 50});
    uint32_t early = smoe_world_add_trainer(w, &(struct smoe_sim_trainer_options){.name = "early"});
    uint32_t heir = smoe_world_add_trainer(w, &(struct smoe_sim_trainer_options){.name = "heir"});
    smoe_story_run_to_step(w, c.trainer, 3, 10 * SEC);
    smoe_story_run_into_forward(w, c.gateway, c.slow, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.trainer);
    uint64_t died = smoe_world_now(w);
    smoe_world_plan(w, died + 29 * SEC, SMOE_SIM_START, early);
    smoe_world_plan(w, died + 31 * SEC, SMOE_SIM_START, heir);
    smoe_world_run(w, died + 32 * SEC);
    smoe_story_finish(w, 120 * SEC);
    smoe_story_expect_trainer(w, early, SMOE_EEXIST);
    smoe_story_expect_trainer(w, heir, 0);
}

void smoe_story_gateway_restart(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 12, .tokens = 32});
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    totals.settings.workers_min =
        2; /* or a new gateway places a new layer on whoever comes first */
    smoe_world_configure(w, c.gateway, &totals.settings);
    for (uint64_t step = 0; step < 4; step++) {
        smoe_story_run_to_step(w, c.trainer, step, 100 * SEC);
        smoe_story_run_into_forward(w, c.gateway, c.slow, 100 * SEC);
        smoe_world_act(w, step % 2 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 200 * MS);
        smoe_world_start(w, c.gateway);
    }
    smoe_story_finish(w, 200 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_worker_dies_expected(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 60, .tokens = 32});
    uint32_t third = smoe_world_add_worker(
        w, &(struct smoe_sim_worker_options){.name = "third", .gateway = c.gateway});
    uint32_t workers[] = {c.fast, c.slow, third};
    smoe_world_start(w, third);
    for (uint64_t round = 0; round < 9; round++) {
        uint32_t victim = workers[round % 3];
        smoe_story_run_to_step(w, c.trainer, 5 * round + 1, 100 * SEC);
        smoe_story_run_to_both_copies(w, c.gateway);
        smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 50 * MS);
        smoe_world_start(w, c.gateway);
        smoe_story_run_to_both_copies(w, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + round * 3 * MS);
        smoe_world_act(w, SMOE_SIM_CRASH, victim);
        smoe_world_plan(w, smoe_world_now(w) + 70 * MS, SMOE_SIM_START, victim);
    }
    smoe_story_finish(w, 200 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* As tests/integration/test_survival.py does it, in virtual time. */
void smoe_story_storm(struct smoe_world *w)
{
    struct smoe_rng rng;
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 400, .tokens = 32});
    uint32_t third = smoe_world_add_worker(
        w, &(struct smoe_sim_worker_options){.name = "third", .gateway = c.gateway});
    uint32_t victims[] = {c.fast, c.slow, third, c.gateway};
    smoe_rng_init(&rng, w->options.seed, UINT64_C(0x5702));
    smoe_world_start(w, third);
    smoe_story_run_to_step(w, c.trainer, 1, 10 * SEC);
    for (int round = 0; round < 40 && !smoe_world_trainer(w, c.trainer).done; round++) {
        uint32_t victim = victims[smoe_rng_below(&rng, 4)];
        smoe_story_run_to_both_copies(w, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + smoe_rng_below(&rng, 50 * MS));
        smoe_world_act(w, SMOE_SIM_CRASH, victim);
        smoe_world_run(w, smoe_world_now(w) + smoe_rng_below(&rng, 100 * MS));
        smoe_world_start(w, victim);
    }
    smoe_story_finish(w, 400 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* The first trainer's layer is in the journal, so that the gateway waits for the two workers. The victim
 * has the new layer's first steps and dies before the gateway has stopped waiting for one of them. */
void smoe_story_new_layer_expected(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, NULL);
    uint32_t third = smoe_world_add_worker(
        w, &(struct smoe_sim_worker_options){.name = "third", .gateway = c.gateway});
    uint32_t heir = smoe_world_add_trainer(
        w, &(struct smoe_sim_trainer_options){
               .name = "heir", .gateway = c.gateway, .layer_name = "new", .steps = 20});
    smoe_world_run_trainers(w, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
    smoe_world_act(w, SMOE_SIM_CUT, c.slow);
    smoe_world_start(w, c.gateway);
    smoe_world_start(w, third);
    uint64_t until = smoe_world_now(w) + 900 * MS;
    while (smoe_story_worker(w, c.gateway, c.fast).state != SMOE_WORKER_READY && smoe_world_step(w))
        ;
    smoe_world_start(w, heir);
    smoe_story_run_to_step(w, heir, 2, until);
    smoe_world_act(w, SMOE_SIM_CRASH, third);
    smoe_world_start(w, third);
    smoe_world_act(w, SMOE_SIM_HEAL, c.slow);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, heir, 0);
}

/* The trainer's connection breaks between the commit and StepDone. */
void smoe_story_commit_unheard(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6, .tokens = 32});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    struct smoe_core_totals totals = {0};
    while (totals.steps < 3 && smoe_world_step(w))
        smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).steps == 2, "the trainer knows already");
    smoe_world_act(w, SMOE_SIM_RESET, c.trainer);
    smoe_story_finish(w, 60 * SEC);
    expect_replay(w, &c);
    smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    smoe_story_expect(w, totals.steps == 6, "%llu steps were committed",
                      (unsigned long long)totals.steps);
}

/* Exact numbers are all finite: the NaN is the trainer's own. */
void smoe_story_poison(struct smoe_world *w)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 4, .poison_step = 2});
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    struct smoe_sim_trainer_view v = smoe_world_trainer(w, c.trainer);
    smoe_story_expect(w, v.failed_steps == 1 && v.steps == 4, "%llu steps failed, %llu committed",
                      (unsigned long long)v.failed_steps, (unsigned long long)v.steps);
}

/* The gateway dies with the StepCommit on its way to workers that hang: they return with a step staged that
 * the trainer knows to be committed. Its successor has it in its journal and must put it in force; to
 * take them as they are would be to compute on old parameters. */
void smoe_story_workers_behind(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 6});
    smoe_story_run_to_step(w, c.trainer, 2, 10 * SEC);
    struct smoe_core_totals totals = {0};
    while (totals.steps < 3 && smoe_world_step(w))
        smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    smoe_world_act(w, SMOE_SIM_PAUSE, c.fast);
    smoe_world_act(w, SMOE_SIM_PAUSE, c.slow);
    smoe_story_run_to_step(w, c.trainer, 3, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
    smoe_world_run(w, smoe_world_now(w) + 5 * MS); /* the reset takes what they have not read */
    smoe_world_act(w, SMOE_SIM_RESUME, c.fast);
    smoe_world_act(w, SMOE_SIM_RESUME, c.slow);
    smoe_world_run(w, smoe_world_now(w) + 300 * MS);
    smoe_world_start(w, c.gateway);
    smoe_world_act(w, SMOE_SIM_CUT, c.trainer); /* the workers are there first */
    smoe_world_run(w, smoe_world_now(w) + 3 * SEC);
    smoe_world_act(w, SMOE_SIM_HEAL, c.trainer);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* The workers have put step 1 in force, StepDone is lost, the gateway dies, and its successor hears from
 * the trainer first, who knows of step 0 only. */
void smoe_story_first_step_unheard(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 4});
    struct smoe_core_totals totals = {0};
    while (totals.steps < 1 && smoe_world_step(w))
        smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    smoe_world_act(w, SMOE_SIM_RESET, c.trainer);
    smoe_world_run(w, smoe_world_now(w) + 2 * MS);
    smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
    smoe_world_run(w, smoe_world_now(w) + 5 * MS);
    smoe_world_act(w, SMOE_SIM_CUT, c.fast);
    smoe_world_act(w, SMOE_SIM_CUT, c.slow);
    smoe_world_start(w, c.gateway);
    smoe_world_run(w, smoe_world_now(w) + 1 * SEC);
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).steps == 0, "the trainer knows already");
    smoe_world_act(w, SMOE_SIM_HEAL, c.fast);
    smoe_world_act(w, SMOE_SIM_HEAL, c.slow);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* The gateway dies at step 0 and one of the two workers never returns. */
void smoe_story_seed_again(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(w, NULL, &(struct smoe_sim_trainer_options){.steps = 4});
    smoe_story_run_into_forward(w, c.gateway, c.slow, 10 * SEC);
    smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
    smoe_world_act(w, SMOE_SIM_VANISH, c.slow);
    smoe_world_start(w, c.gateway);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

static bool serves(const struct smoe_world *w, uint32_t gateway, uint32_t worker)
{
    struct smoe_worker view = smoe_story_worker(w, gateway, worker);
    return view.state == SMOE_WORKER_READY && view.session != SMOE_NO_SESSION;
}

/* A second gateway has come up, with a newer epoch, and the first one does not know: its address leads there for a
 * while, and then back. What the worker has heard of the newer one it does not forget. */
void smoe_story_split(struct smoe_world *w)
{
    struct smoe_cast c = smoe_story_cast(
        w, NULL, &(struct smoe_sim_trainer_options){.steps = 40, .think_ns = 50 * MS});
    uint32_t other = smoe_world_add_gateway(w, &(struct smoe_sim_gateway_options){.name = "other"});
    for (int i = 0; i < 60;
         i++) { /* each life has an epoch of its own, beyond what the first commits meanwhile */
        smoe_world_start(w, other);
        smoe_world_act(w, SMOE_SIM_CRASH, other);
    }
    smoe_world_start(w, other);
    smoe_story_run_to_step(w, c.trainer, 3, 100 * SEC);
    smoe_world_redirect(w, c.slow, other);
    smoe_world_run(w, smoe_world_now(w) + 3 * SEC);
    smoe_story_expect(w, serves(w, other, c.slow) && !serves(w, c.gateway, c.slow),
                      "it did not go over to the newer gateway");
    smoe_world_redirect(w, c.slow, c.gateway);
    for (uint64_t end = smoe_world_now(w) + 6 * SEC; smoe_world_now(w) < end && smoe_world_step(w);)
        smoe_story_expect(w, !serves(w, c.gateway, c.slow),
                          "it serves a gateway that another one has replaced");
    const struct smoe_quarantine *q =
        smoe_core_quarantine(smoe_gateway_core(smoe_world_gateway(w, c.gateway)));
    smoe_story_expect(w, q->strikes == 0, "it was blamed for that");
    smoe_world_run_trainers(w, 200 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0); /* with the other worker */
}
