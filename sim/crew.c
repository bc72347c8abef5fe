/* SPDX-License-Identifier: Apache-2.0 */
#include "sim/crew.h"

#include <stdio.h>
#include <string.h>

#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/counted.h"
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
void smoe_crew_round(struct smoe_sim_trainer_options *t)
{
    t->shape.wire = SMOE_WIRE_BF16;
    t->shape.activation = SMOE_GELU;
    t->shape.optimizer = SMOE_SGD;
    t->optimizer =
        (struct smoe_step_optimizer){.kind = SMOE_SGD, .learning_rate = 0.01, .momentum = 0.5};
}

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

const struct smoe_sharded *smoe_crew_layer(const struct smoe_world *w, const struct smoe_crew *c)
{
    return smoe_world_gateway(w, c->gateway)->core->layers[0].sharded;
}

/* Has it visits of the layer where its expert has gone elsewhere since? */
static bool has_left(const struct smoe_core *core, uint32_t worker)
{
    smoe_list_for_each (it, &core->worker_parcels[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
        if (p->layer == 0 && core->batches[p->batch].training &&
            !smoe_sharded_hosts(core->layers[0].sharded, worker, p->expert))
            return true;
    }
    return false;
}

static bool is_in(const struct smoe_world *w, const struct smoe_crew *c, uint32_t worker,
                  enum smoe_crew_phase phase)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    const struct smoe_sharded *s = core->layers[0].sharded;
    enum smoe_step_phase step = core->trainers[0].step.phase;
    struct smoe_worker books = smoe_story_worker(w, c->gateway, worker);
    uint32_t number;
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
    case SMOE_CREW_LEFT:
        return smoe_fleet_find(smoe_core_fleet(core), books.id, &number) && has_left(core, number);
    case SMOE_CREW_OLDER:
        return s->exchange.kind == SMOE_EXCHANGE_OLDER && s->exchange.n_out > 0;
    }
    return true;
}

/* The worker, or, if any will do, one that is in the phase. */
static uint32_t who_is_in(const struct smoe_world *w, const struct smoe_crew *c, uint32_t worker,
                          enum smoe_crew_phase phase)
{
    for (uint32_t i = 0; phase == SMOE_CREW_LEFT && i < SMOE_CREW; i++)
        if (is_in(w, c, c->workers[i], phase))
            return c->workers[i];
    return worker;
}

uint32_t smoe_crew_run_into(struct smoe_world *w, const struct smoe_crew *c, uint32_t worker,
                            enum smoe_crew_phase phase)
{
    while (!is_in(w, c, who_is_in(w, c, worker, phase), phase) && smoe_world_now(w) < 600 * SEC &&
           smoe_world_step(w))
        ;
    uint32_t who = who_is_in(w, c, worker, phase);
    smoe_story_expect(w, is_in(w, c, who, phase), "phase %d was never met", (int)phase);
    return who;
}

/* ---- stories ---- */

bool smoe_crew_find(const struct smoe_world *w, const struct smoe_crew *c, uint32_t process,
                    uint32_t *ret_worker)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    return smoe_fleet_find(smoe_core_fleet(core), smoe_world_name(w, process), ret_worker);
}

bool smoe_crew_all_twice(const struct smoe_world *w, const struct smoe_crew *c)
{
    const struct smoe_shard_map *map = &smoe_crew_layer(w, c)->map;
    for (uint32_t i = 0; i < map->n_pieces; i++)
        if (map->pieces[i].follower == SMOE_SHARD_NONE)
            return false;
    return map->n_pieces > 0;
}

void smoe_crew_run_until_twice(struct smoe_world *w, const struct smoe_crew *c, uint64_t until_ns)
{
    while (!smoe_crew_all_twice(w, c) && smoe_world_now(w) < until_ns && smoe_world_step(w))
        ;
    smoe_story_expect(w, smoe_crew_all_twice(w, c), "some state has one copy only");
}

static void finish(struct smoe_world *w, const struct smoe_crew *c)
{
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c->trainer, 0);
    smoe_story_expect(w, smoe_crew_all_twice(w, c), "some state has one copy only");
}

void smoe_crew_strike(struct smoe_world *w, const struct smoe_sim_trainer_options *t,
                      uint32_t phases, enum smoe_sim_act act, uint64_t away_ns)
{
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, t, SMOE_CREW);
    for (uint32_t i = 0; i < 2 * phases; i++) {
        uint32_t victim = c.workers[(i + w->options.seed) % SMOE_CREW];
        smoe_story_run_to_step(w, c.trainer, 2 + 4 * i, 600 * SEC);
        smoe_crew_run_until_twice(w, &c, 600 * SEC);
        victim = smoe_crew_run_into(w, &c, victim, (enum smoe_crew_phase)(i % phases));
        smoe_world_run(w, smoe_world_now(w) + i / phases * 700 * SMOE_SIM_US);
        smoe_world_act(w, act, victim);
        if (act != SMOE_SIM_RESET)
            smoe_world_plan(w, smoe_world_now(w) + away_ns, SMOE_SIM_START, victim);
        smoe_world_run(w, smoe_world_now(w) + 5 * MS); /* the gateway has heard of it */
    }
    finish(w, &c);
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) > 1,
                      "nothing was replayed");
}

void smoe_crew_restart(struct smoe_world *w, const struct smoe_sim_trainer_options *t,
                       uint32_t phases)
{
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, t, SMOE_CREW);
    for (uint32_t i = 0; i < 3 * phases; i++) {
        uint32_t other = c.workers[(i + w->options.seed) % SMOE_CREW];
        smoe_story_run_to_step(w, c.trainer, 1 + 3 * i, 600 * SEC);
        smoe_crew_run_until_twice(w, &c, 600 * SEC);
        other = smoe_crew_run_into(w, &c, other, (enum smoe_crew_phase)(i % phases));
        smoe_world_run(w, smoe_world_now(w) + i / phases * 700 * SMOE_SIM_US);
        smoe_world_act(w, i % 2 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        if (i % 3 == 0)
            smoe_world_act(w, SMOE_SIM_CRASH, other);
        smoe_world_run(w, smoe_world_now(w) + (w->options.seed % 2 ? 20 : 200) * MS);
        smoe_world_start(w, c.gateway);
        smoe_world_plan(w, smoe_world_now(w) + (i % 4) * 700 * MS, SMOE_SIM_START, other);
        smoe_world_run(w, smoe_world_now(w) + 1);
    }
    finish(w, &c);
}

void smoe_crew_count(struct smoe_world *w, const struct smoe_crew *c, uint32_t iterations)
{
    struct smoe_counted n = {0};
    uint64_t bytes = 0;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < iterations; i++) {
        smoe_story_expect(w, smoe_counted_next(w, c->gateway, 60 * SEC, &n), "no iteration ended");
        smoe_story_expect(w, n.error == 0, "bytes are off by %g", n.error);
        smoe_story_expect(w, n.memory_error < 0.02, "memory is off by %g", n.memory_error);
        smoe_story_expect(w, !i || smoe_counted_bytes(&n) == bytes, "an iteration sent %llu bytes",
                          (unsigned long long)smoe_counted_bytes(&n));
        bytes = smoe_counted_bytes(&n);
        moved += n.moved;
    }
    smoe_story_expect(w, moved > 0 && bytes > 0, "no expert ever moved");
}

void smoe_crew_lose_both(struct smoe_world *w, const struct smoe_crew *c, bool back)
{
    const struct smoe_shard_piece *p = &smoe_crew_layer(w, c)->map.pieces[0];
    uint32_t holders[] = {p->owner, p->follower};
    for (uint32_t i = 0; i < SMOE_CREW; i++) {
        uint32_t worker;
        bool known = smoe_crew_find(w, c, c->workers[i], &worker);
        if (!known || (worker != holders[0] && worker != holders[1]))
            continue;
        smoe_world_act(w, SMOE_SIM_CRASH, c->workers[i]);
        if (back)
            smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, c->workers[i]);
    }
    smoe_world_run_trainers(w, 600 * SEC);
    smoe_story_expect_trainer(w, c->trainer, SMOE_ELOST);
    const char *why = smoe_world_trainer(w, c->trainer).why.text;
    smoe_story_expect(w, strstr(why, "checkpoint") != NULL, "the trainer was told: %s", why);
}
