/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers: what must come of an iteration whoever dies in it. That every committed step is the oracle's
 * follows as in all stories; at rest every slot and every copy of every piece is looked at, too (rest.c).
 */
#include <stdio.h>
#include <string.h>

#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/counted.h"
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

enum { WORKERS = 4, LINK_ENDS = WORKERS * (WORKERS - 1) };

struct crew {
    uint32_t gateway, workers[WORKERS], trainer;
};

static struct smoe_sim_trainer_options trainer_options(uint32_t steps)
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
static struct crew begin_linked(struct smoe_world *w, const struct smoe_place_rule *rule,
                                const struct smoe_sim_trainer_options *trainer, uint32_t begun,
                                bool links)
{
    static const double speeds[WORKERS] = {1, 0.5, 0.25, 0.25};
    struct crew c;
    struct smoe_sim_trainer_options t = *trainer;
    c.gateway = smoe_world_add_gateway(
        w, &(struct smoe_sim_gateway_options){.sharded = true,
                                              .placement = *rule,
                                              .links = links,
                                              .exchange_bytes = w->options.seed % 3 ? 0 : 128});
    for (uint32_t i = 0; i < WORKERS; i++) {
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
static struct crew begin(struct smoe_world *w, const struct smoe_place_rule *rule,
                         const struct smoe_sim_trainer_options *trainer, uint32_t begun)
{
    return begin_linked(w, rule, trainer, begun, w->options.seed % 4 != 0);
}

static const struct smoe_place_rule ours = {.kind = SMOE_PLACE_HIGHEST_AVERAGES, .interval = 1};

static const struct smoe_sharded *layer_of(const struct smoe_world *w, const struct crew *c,
                                           uint32_t layer)
{
    return smoe_world_gateway(w, c->gateway)->core->layers[layer].sharded;
}

/* Elements of which there are two copies. */
static bool all_twice(const struct smoe_sharded *s)
{
    for (uint32_t i = 0; i < s->map.n_pieces; i++)
        if (s->map.pieces[i].follower == SMOE_SHARD_NONE)
            return false;
    return s->map.n_pieces > 0;
}

static void run_until_twice(struct smoe_world *w, const struct crew *c, uint64_t until_ns)
{
    while (!all_twice(layer_of(w, c, 0)) && smoe_world_now(w) < until_ns && smoe_world_step(w))
        ;
    smoe_story_expect(w, all_twice(layer_of(w, c, 0)), "some state has one copy only");
}

/* ---- nothing breaks ---- */

void smoe_story_sharded(struct smoe_world *w)
{
    enum { STEPS = 200 }; /* in the float64 build the whole run is held to 1e-9 */
    struct smoe_sim_trainer_options t = trainer_options(STEPS);
    t.clip_norm = 0.05; /* below that of the dense gradients: clipped to the end */
    t.dense_square_norm = 0.01;
    t.batches = 2;
    t.pipelined = true;
    struct crew c = begin(w, &ours, &t, WORKERS);
    uint32_t moved = 0;
    uint16_t before[SMOE_LAYER_REPLICAS_MAX];
    for (uint32_t step = 1; step <= STEPS; step++) {
        smoe_story_run_to_step(w, c.trainer, step, 60 * SEC);
        const struct smoe_sharded *s = layer_of(w, &c, 0);
        size_t bytes = s->plan.slot_first[s->plan.n_workers] * sizeof *before;
        moved += step > 1 && memcmp(before, s->plan.expert, bytes) != 0;
        memcpy(before, s->plan.expert, bytes);
    }
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, moved > 0, "no expert ever moved");
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).clip_scale < 1, "nothing was clipped");
}

void smoe_story_sharded_rules(struct smoe_world *w)
{
    struct smoe_place_rule rule = {
        .kind = (enum smoe_place_kind)(w->options.seed % SMOE_PLACE_KINDS), .interval = 2};
    struct smoe_sim_trainer_options t = trainer_options(8);
    struct crew c = begin(w, &rule, &t, WORKERS);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, layer_of(w, &c, 0)->exchange.n_out == 0, "something is still on its way");
}

void smoe_story_sharded_layers(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(6);
    t.n_layers = 2;
    t.batches = 4;
    struct crew c = begin(w, &ours, &t, WORKERS);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* MODEL.md (29), byte by byte; and re-placing costs none. */
void smoe_story_sharded_bytes(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(12);
    struct crew c = begin(w, &ours, &t, WORKERS);
    struct smoe_counted n = {0};
    uint64_t bytes = 0;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < 9; i++) {
        smoe_story_expect(w, smoe_counted_next(w, c.gateway, 60 * SEC, &n), "no iteration ended");
        smoe_story_expect(w, n.error == 0, "bytes are off by %g", n.error);
        smoe_story_expect(w, n.memory_error < 0.02, "memory is off by %g", n.memory_error);
        smoe_story_expect(w, !i || smoe_counted_bytes(&n) == bytes, "an iteration sent %llu bytes",
                          (unsigned long long)smoe_counted_bytes(&n));
        bytes = smoe_counted_bytes(&n);
        moved += n.moved;
    }
    smoe_story_expect(w, moved > 0 && bytes > 0, "no expert ever moved");
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* ---- somebody dies, or is cut off for a moment ---- */

enum phase { FORWARD, BACKWARD, GRADIENTS, NORMS, STAGING, COMMITTING, WEIGHTS, PHASES };

static bool is_in(const struct smoe_world *w, const struct crew *c, uint32_t worker,
                  enum phase phase)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    const struct smoe_sharded *s = core->layers[0].sharded;
    enum smoe_step_phase step = core->trainers[0].step.phase;
    struct smoe_worker books = smoe_story_worker(w, c->gateway, worker);
    switch (phase) {
    case FORWARD:
        return books.account.now[SMOE_VISIT_ROUTED] > 0;
    case BACKWARD:
        return books.account.now[SMOE_VISIT_GRADIENT_QUEUED] > 0;
    case GRADIENTS:
        return s->exchange.kind == SMOE_EXCHANGE_GRADIENTS && s->exchange.n_out > 0;
    case NORMS:
        return step == SMOE_STEP_NORM && s->exchange.kind == SMOE_EXCHANGE_NONE;
    case STAGING:
        return step == SMOE_STEP_STAGING;
    case COMMITTING:
        return step == SMOE_STEP_COMMITTING;
    case WEIGHTS:
        return s->exchange.kind == SMOE_EXCHANGE_WEIGHTS && s->exchange.n_out > 0;
    case PHASES:
        break;
    }
    return true;
}

static void run_into(struct smoe_world *w, const struct crew *c, uint32_t worker, enum phase phase)
{
    while (!is_in(w, c, worker, phase) && smoe_world_now(w) < 600 * SEC && smoe_world_step(w))
        ;
    smoe_story_expect(w, is_in(w, c, worker, phase), "phase %d was never met", (int)phase);
}

/* In each phase in turn, and a little later in it from round to round. */
static void strike(struct smoe_world *w, enum smoe_sim_act act, uint64_t away_ns)
{
    struct smoe_sim_trainer_options t = trainer_options(120);
    struct crew c = begin(w, &ours, &t, WORKERS);
    for (uint32_t i = 0; i < 2 * PHASES; i++) {
        uint32_t victim = c.workers[(i + w->options.seed) % WORKERS];
        smoe_story_run_to_step(w, c.trainer, 2 + 4 * i, 600 * SEC);
        run_until_twice(w, &c, 600 * SEC);
        run_into(w, &c, victim, (enum phase)(i % PHASES));
        smoe_world_run(w, smoe_world_now(w) + i / PHASES * 700 * SMOE_SIM_US);
        smoe_world_act(w, act, victim);
        if (act != SMOE_SIM_RESET)
            smoe_world_plan(w, smoe_world_now(w) + away_ns, SMOE_SIM_START, victim);
        smoe_world_run(w, smoe_world_now(w) + 5 * MS); /* the gateway has heard of it */
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, all_twice(layer_of(w, &c, 0)), "some state has one copy only");
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) > 1,
                      "nothing was replayed");
}

void smoe_story_sharded_phases(struct smoe_world *w)
{
    strike(w, SMOE_SIM_CRASH, (w->options.seed % 2 ? 300 : 20) * MS);
}

void smoe_story_sharded_reset(struct smoe_world *w)
{
    strike(w, SMOE_SIM_RESET, 0);
}

/* The gateway dies in each phase in turn, now as a process, now with its machine; what its disk had not written is gone.
 * In every third round a worker dies with it, with all it held: what counts is with the others. */
void smoe_story_sharded_restart(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(120);
    struct crew c = begin(w, &ours, &t, WORKERS);
    for (uint32_t i = 0; i < 3 * PHASES; i++) {
        uint32_t other = c.workers[(i + w->options.seed) % WORKERS];
        smoe_story_run_to_step(w, c.trainer, 1 + 3 * i, 600 * SEC);
        run_until_twice(w, &c, 600 * SEC);
        run_into(w, &c, other, (enum phase)(i % PHASES));
        smoe_world_run(w, smoe_world_now(w) + i / PHASES * 700 * SMOE_SIM_US);
        smoe_world_act(w, i % 2 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        if (i % 3 == 0)
            smoe_world_act(w, SMOE_SIM_CRASH, other);
        smoe_world_run(w, smoe_world_now(w) + (w->options.seed % 2 ? 20 : 200) * MS);
        smoe_world_start(w, c.gateway);
        smoe_world_plan(w, smoe_world_now(w) + (i % 4) * 700 * MS, SMOE_SIM_START, other);
        smoe_world_run(w, smoe_world_now(w) + 1);
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, all_twice(layer_of(w, &c, 0)), "some state has one copy only");
}

/* ---- bf16 on the wire ---- */

/* Half of the bytes; owners and followers, and all slots of an expert, are equal to the bit (rest.c), whoever dies
 * while gradients or weights are on their way; and what is trained is what was to be, within what the rounding of
 * gradients does. SGD: its steps are as large as the gradients, and so are the errors of its steps. GELU: no unit of
 * it is switched on or off by a rounding. */
void smoe_story_sharded_bf16(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(24);
    t.shape.wire = SMOE_WIRE_BF16;
    t.shape.activation = SMOE_GELU;
    t.shape.optimizer = SMOE_SGD;
    t.optimizer =
        (struct smoe_step_optimizer){.kind = SMOE_SGD, .learning_rate = 0.01, .momentum = 0.5};
    struct crew c = begin(w, &ours, &t, WORKERS);
    struct smoe_counted n = {0};
    for (uint32_t i = 0; i < 3; i++) {
        smoe_story_expect(w, smoe_counted_next(w, c.gateway, 60 * SEC, &n), "no iteration ended");
        smoe_story_expect(w, n.error == 0, "bytes are off by %g", n.error);
    }
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t victim = c.workers[(i + w->options.seed) % WORKERS];
        smoe_story_run_to_step(w, c.trainer, 6 + 4 * i, 60 * SEC);
        run_until_twice(w, &c, 60 * SEC);
        run_into(w, &c, victim, i % 2 ? WEIGHTS : GRADIENTS);
        smoe_world_act(w, i < 2 ? SMOE_SIM_CRASH : SMOE_SIM_RESET, victim);
        if (i < 2)
            smoe_world_plan(w, smoe_world_now(w) + 20 * MS, SMOE_SIM_START, victim);
        smoe_world_run(w, smoe_world_now(w) + 1);
    }
    smoe_story_finish(w, 120 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, layer_of(w, &c, 0)->iterations > 0, "nothing was exchanged");
}

static struct smoe_frozen_head router_of(const struct smoe_world *w, const struct crew *c)
{
    return smoe_core_layer(smoe_world_gateway(w, c->gateway)->core, 0).router;
}

/* A router is frozen, its experts have replicas and the solve chooses among those: what the script compares with the
 * table is the same whoever dies. The gateway does, in each phase; its journal has the router and where the pieces are. */
void smoe_story_sharded_frozen_restart(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(5 + 3 * PHASES);
    t.freeze_step = 3;
    struct crew c = begin(w, &ours, &t, WORKERS);
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_world_gateway(w, c.gateway)->core, &totals);
    totals.settings.policy = SMOE_POLICY_LYAPUNOV_STRICT;
    smoe_world_configure(w, c.gateway, &totals.settings);
    smoe_story_run_to_step(w, c.trainer, 4, 600 * SEC);
    struct smoe_frozen_head frozen = router_of(w, &c);
    smoe_story_expect(w, frozen.version == 1, "no router is in force");
    for (uint32_t i = 0; i < PHASES; i++) {
        smoe_story_run_to_step(w, c.trainer, 4 + 3 * i, 600 * SEC);
        run_until_twice(w, &c, 600 * SEC);
        run_into(w, &c, c.workers[i % WORKERS], (enum phase)i);
        smoe_world_act(w, i % 2 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 20 * MS);
        smoe_world_start(w, c.gateway);
        struct smoe_frozen_head now = router_of(w, &c);
        smoe_story_expect(w, now.version == frozen.version && now.digest == frozen.digest,
                          "another router is in force");
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* The gateway dies while a worker that joins is given its part, again and again: what is in its journal is behind what
 * workers hold, or before it. */
void smoe_story_sharded_restart_moves(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(60);
    struct crew c = begin(w, &ours, &t, 2);
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t mover = c.workers[2 + i / 2 % 2];
        smoe_story_run_to_step(w, c.trainer, 1 + 4 * i, 600 * SEC);
        run_until_twice(w, &c, 600 * SEC);
        if (i % 4 < 2)
            smoe_world_act(w, i % 2 ? SMOE_SIM_DRAIN : SMOE_SIM_START, mover);
        else
            smoe_world_act(w, i % 2 ? SMOE_SIM_UNDRAIN : SMOE_SIM_START, mover);
        uint64_t until = smoe_world_now(w) + 2 * SEC;
        while (!layer_of(w, &c, 0)->filling.length && smoe_world_now(w) < until &&
               smoe_world_step(w))
            ;
        smoe_world_run(w, smoe_world_now(w) + (i * 300 + w->options.seed % 7 * 50) * SMOE_SIM_US);
        smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 30 * MS);
        smoe_world_start(w, c.gateway);
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* Both holders of some state die before a third has it: training stops, in words. They return without it, or never. */
void smoe_story_sharded_both_die(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(20);
    struct crew c = begin(w, &ours, &t, WORKERS);
    smoe_story_run_to_step(w, c.trainer, 3, 60 * SEC);
    const struct smoe_shard_piece *p = &layer_of(w, &c, 0)->map.pieces[0];
    const struct smoe_fleet *fleet = smoe_core_fleet(smoe_world_gateway(w, c.gateway)->core);
    smoe_name names[2];
    memcpy(names[0], fleet->workers[p->owner].id, sizeof names[0]);
    memcpy(names[1], fleet->workers[p->follower].id, sizeof names[1]);
    for (uint32_t i = 0; i < WORKERS; i++) {
        const char *name = smoe_world_name(w, c.workers[i]);
        if (strcmp(name, names[0]) != 0 && strcmp(name, names[1]) != 0)
            continue;
        smoe_world_act(w, SMOE_SIM_CRASH, c.workers[i]);
        if (w->options.seed % 2)
            smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, c.workers[i]);
    }
    smoe_world_run_trainers(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, SMOE_ELOST);
    const char *why = smoe_world_trainer(w, c.trainer).why.text;
    smoe_story_expect(w, strstr(why, "checkpoint") != NULL, "the trainer was told: %s", why);
}

/* ---- the fleet grows and shrinks ---- */

static bool on_worker(const struct smoe_world *w, const struct crew *c, uint32_t process)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    uint32_t i;
    return smoe_fleet_find(smoe_core_fleet(core), smoe_world_name(w, process), &i) &&
           smoe_sharded_on_worker(core->layers[0].sharded, i) &&
           smoe_shard_holds(&core->layers[0].sharded->map, i);
}

void smoe_story_sharded_joins(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(40);
    struct crew c = begin(w, &ours, &t, 2);
    for (uint32_t i = 2; i < WORKERS; i++) {
        smoe_story_run_to_step(w, c.trainer, 6 * i, 60 * SEC);
        smoe_world_start(w, c.workers[i]);
    }
    smoe_story_run_to_step(w, c.trainer, 26, 60 * SEC);
    for (uint32_t i = 0; i < WORKERS; i++)
        smoe_story_expect(w, on_worker(w, &c, c.workers[i]), "worker-%u got no part", i);
    smoe_world_act(w, SMOE_SIM_DRAIN, c.workers[0]);
    smoe_story_run_to_step(w, c.trainer, 36, 60 * SEC);
    smoe_story_expect(w, !on_worker(w, &c, c.workers[0]), "worker-0 still has a part");
    smoe_world_act(w, SMOE_SIM_STOP, c.workers[0]);
    uint64_t attempt = smoe_uplink_attempt(smoe_world_uplink(w, c.trainer));
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) == attempt,
                      "training was interrupted");
}

/* ---- links between workers break, or never come about ---- */

/* Of all workers, what they sent so far. */
static struct smoe_links_view links_of(const struct smoe_world *w, const struct crew *c)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    struct smoe_links_view sum = {0};
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct smoe_links_view one = smoe_core_links(core, i);
        sum.up += one.up;
        sum.relayed += one.relayed;
        sum.direct_bytes += one.direct_bytes;
        sum.relayed_bytes += one.relayed_bytes;
    }
    return sum;
}

static void run_until_linked(struct smoe_world *w, const struct crew *c)
{
    uint64_t until = smoe_world_now(w) + 60 * SEC;
    while (links_of(w, c).up < LINK_ENDS && smoe_world_now(w) < until && smoe_world_step(w))
        ;
    smoe_story_expect(w, links_of(w, c).up == LINK_ENDS, "not all links are up");
}

/* In each phase in turn the link of another pair is reset, cut, or left with one direction: what was on it goes through
 * the gateway, nobody begins again, and the link comes back. */
void smoe_story_sharded_links(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(110);
    struct crew c = begin_linked(w, &ours, &t, WORKERS, true);
    uint64_t attempt = 0;
    for (uint32_t i = 0; i < 3 * PHASES; i++) {
        uint32_t a = c.workers[(i + w->options.seed) % WORKERS];
        uint32_t b = c.workers[(i + w->options.seed + 1 + i % (WORKERS - 1)) % WORKERS];
        smoe_story_run_to_step(w, c.trainer, 2 + 4 * i, 600 * SEC);
        run_until_linked(w, &c);
        attempt = attempt ? attempt : smoe_uplink_attempt(smoe_world_uplink(w, c.trainer));
        run_into(w, &c, a, (enum phase)(i % PHASES));
        smoe_world_run(w, smoe_world_now(w) + i / PHASES * 400 * SMOE_SIM_US);
        if (i % 3 == 0)
            smoe_simnet_reset(w->net, a, b);
        smoe_simnet_cut(w->net, a, b, i % 3 > 0);
        smoe_simnet_cut(w->net, b, a, i % 3 == 1);
        smoe_story_run_to_step(w, c.trainer, 4 + 4 * i, 600 * SEC);
        smoe_simnet_cut(w->net, a, b, false);
        smoe_simnet_cut(w->net, b, a, false);
    }
    struct smoe_links_view sent = links_of(w, &c);
    smoe_story_expect(w, sent.direct_bytes > 4 * sent.relayed_bytes && sent.relayed_bytes > 0,
                      "too much went through the gateway, or nothing");
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) == attempt,
                      "a link that broke cost an attempt");
}

/* A network that lets workers reach the gateway only. */
void smoe_story_sharded_relayed(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_options(12);
    struct crew c = begin_linked(w, &ours, &t, 0, true);
    for (uint32_t a = 0; a < WORKERS; a++)
        for (uint32_t b = 0; b < a + w->options.seed % 2 * WORKERS && b < WORKERS; b++)
            smoe_simnet_cut(w->net, c.workers[a], c.workers[b], true); /* one direction, or both */
    for (uint32_t i = 0; i < WORKERS; i++)
        smoe_world_start(w, c.workers[i]);
    smoe_story_run_to_step(w, c.trainer, 8, 60 * SEC);
    struct smoe_links_view sent = links_of(w, &c);
    smoe_story_expect(w, !sent.direct_bytes && sent.relayed_bytes && !sent.up && sent.relayed,
                      "something went over a link that cannot be");
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}
