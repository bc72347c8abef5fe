/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/crew.h"

#include <stdio.h>

#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

const struct smoe_place_rule smoe_crew_rule = {.kind = SMOE_PLACE_HIGHEST_AVERAGES, .interval = 1};

struct smoe_sim_trainer_options smoe_crew_trainer(uint32_t steps)
{
    return (struct smoe_sim_trainer_options){
        .shape = {.experts = 6,
                  .d_model = 4,
                  .d_ff = 8,
                  .activation = SMOE_RELU,
                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                  .optimizer = SMOE_ADAMW,
                  .seed = 5},
        .optimizer = {.kind = SMOE_ADAMW,
                      .learning_rate = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .epsilon = 1e-8,
                      .weight_decay = 0.01},
        .steps = steps,
        .tokens = 32,
        .skew = 1.5,
        .think_ns = 5 * MS,
    };
}

/* A gateway, four workers of unlike speed, and a trainer; the first `begun` workers are started, and all else. */
struct smoe_crew smoe_crew_begin_linked(struct smoe_world *w, const struct smoe_place_rule *rule,
                                        const struct smoe_sim_trainer_options *trainer,
                                        uint32_t begun, bool links)
{
    static const double speeds[SMOE_CREW] = {1, 0.5, 0.25, 0.25};
    struct smoe_crew c;
    struct smoe_sim_trainer_options t = *trainer;
    c.gateway = smoe_world_add_gateway(
        w, &(struct smoe_sim_gateway_options){.sharded = true,
                                              .placement = *rule,
                                              .links = links,
                                              .exchange_bytes = w->options.seed % 3 ? 0 : 128});
    for (uint32_t i = 0; i < SMOE_CREW; i++) {
        struct smoe_sim_worker_options o = {
            .gateway = c.gateway, .speed = speeds[i], .cycles_per_flop = 500, .expert_slots = 3};
        snprintf(o.name, sizeof o.name, "worker-%u", i);
        c.workers[i] = smoe_world_add_worker(w, &o);
    }
    t.gateway = c.gateway;
    c.trainer = smoe_world_add_trainer(w, &t);
    smoe_world_start(w, c.gateway);
    for (uint32_t i = 0; i < begun; i++)
        smoe_world_start(w, c.workers[i]);
    smoe_world_run(w, 20 * MS); /* all are there before the layer is cut */
    smoe_world_start(w, c.trainer);
    return c;
}

/* Mostly with direct links. */
struct smoe_crew smoe_crew_begin(struct smoe_world *w, const struct smoe_place_rule *rule,
                                 const struct smoe_sim_trainer_options *trainer, uint32_t begun)
{
    return smoe_crew_begin_linked(w, rule, trainer, begun, w->options.seed % 4 != 0);
}

static bool is_in(const struct smoe_world *w, const struct smoe_crew *c, uint32_t worker,
                  enum smoe_crew_phase phase)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    const struct smoe_sharded *s = core->layers[0].sharded;
    enum smoe_step_phase step = core->trainers[0].step.phase;
    struct smoe_worker books = smoe_story_worker(w, c->gateway, worker);
    switch (phase) {
    case SMOE_CREW_FORWARD:
        return books.account.now[SMOE_VISIT_ROUTED] > 0;
    case SMOE_CREW_BACKWARD:
        return books.account.now[SMOE_VISIT_GRADIENT_QUEUED] > 0;
    case SMOE_CREW_GRADIENTS:
        return s->exchange.kind == SMOE_EXCHANGE_GRADIENTS && s->exchange.n_out > 0;
    case SMOE_CREW_NORMS:
        return step == SMOE_STEP_NORM && s->exchange.kind == SMOE_EXCHANGE_NONE;
    case SMOE_CREW_STAGING:
        return step == SMOE_STEP_STAGING;
    case SMOE_CREW_COMMITTING:
        return step == SMOE_STEP_COMMITTING;
    case SMOE_CREW_WEIGHTS:
        return s->exchange.kind == SMOE_EXCHANGE_WEIGHTS && s->exchange.n_out > 0;
    case SMOE_CREW_PHASES:
        break;
    }
    return true;
}

void smoe_crew_run_into(struct smoe_world *w, const struct smoe_crew *c, uint32_t worker,
                        enum smoe_crew_phase phase)
{
    while (!is_in(w, c, worker, phase) && smoe_world_now(w) < 600 * SEC && smoe_world_step(w))
        ;
    smoe_story_expect(w, is_in(w, c, worker, phase), "phase %d was never met", (int)phase);
}
