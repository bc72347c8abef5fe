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
#include "sim/crew.h"
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

/* ---- nothing breaks ---- */

void smoe_story_sharded(struct smoe_world *w)
{
    enum { STEPS = 200 }; /* in the float64 build the whole run is held to 1e-9 */
    struct smoe_sim_trainer_options t = smoe_crew_trainer(STEPS);
    t.clip_norm = 0.05; /* below that of the dense gradients: clipped to the end */
    t.dense_square_norm = 0.01;
    t.batches = 2;
    t.pipelined = true;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    uint32_t moved = 0;
    uint16_t before[SMOE_LAYER_REPLICAS_MAX];
    for (uint32_t step = 1; step <= STEPS; step++) {
        smoe_story_run_to_step(w, c.trainer, step, 60 * SEC);
        const struct smoe_sharded *s = smoe_crew_layer(w, &c);
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
    struct smoe_sim_trainer_options t = smoe_crew_trainer(8);
    struct smoe_crew c = smoe_crew_begin(w, &rule, &t, SMOE_CREW);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_crew_layer(w, &c)->exchange.n_out == 0,
                      "something is still on its way");
}

void smoe_story_sharded_layers(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(6);
    t.n_layers = 2;
    t.batches = 4;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* MODEL.md (29), byte by byte; and re-placing costs none. */
void smoe_story_sharded_bytes(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(12);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    smoe_crew_count(w, &c, 9);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* ---- somebody dies, or is cut off for a moment ---- */

void smoe_story_sharded_phases(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(120);
    smoe_crew_strike(w, &t, SMOE_CREW_PHASES, SMOE_SIM_CRASH,
                     (w->options.seed % 2 ? 300 : 20) * MS);
}

void smoe_story_sharded_reset(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(120);
    smoe_crew_strike(w, &t, SMOE_CREW_PHASES, SMOE_SIM_RESET, 0);
}

void smoe_story_sharded_restart(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(120);
    smoe_crew_restart(w, &t, SMOE_CREW_PHASES);
}

/* ---- bf16 on the wire ---- */

/* Half of the bytes; owners and followers, and all slots of an expert, are equal to the bit (rest.c), whoever dies
 * while gradients or weights are on their way; and what is trained is what was to be, within what the rounding of
 * gradients does. */
void smoe_story_sharded_bf16(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(24);
    smoe_crew_round(&t);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    struct smoe_counted n = {0};
    for (uint32_t i = 0; i < 3; i++) {
        smoe_story_expect(w, smoe_counted_next(w, c.gateway, 60 * SEC, &n), "no iteration ended");
        smoe_story_expect(w, n.error == 0, "bytes are off by %g", n.error);
    }
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t victim = c.workers[(i + w->options.seed) % SMOE_CREW];
        smoe_story_run_to_step(w, c.trainer, 6 + 4 * i, 60 * SEC);
        smoe_crew_run_until_twice(w, &c, 60 * SEC);
        smoe_crew_run_into(w, &c, victim, i % 2 ? SMOE_CREW_WEIGHTS : SMOE_CREW_GRADIENTS);
        smoe_world_act(w, i < 2 ? SMOE_SIM_CRASH : SMOE_SIM_RESET, victim);
        if (i < 2)
            smoe_world_plan(w, smoe_world_now(w) + 20 * MS, SMOE_SIM_START, victim);
        smoe_world_run(w, smoe_world_now(w) + 1);
    }
    smoe_story_finish(w, 120 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_crew_layer(w, &c)->iterations > 0, "nothing was exchanged");
}

static struct smoe_frozen_head router_of(const struct smoe_world *w, const struct smoe_crew *c)
{
    return smoe_core_layer(smoe_world_gateway(w, c->gateway)->core, 0).router;
}

/* A router is frozen, its experts have replicas and the solve chooses among those: what the script compares
 * with the table is the same whoever dies. The gateway does, in each phase; its journal has the router and
 * where the pieces are. */
void smoe_story_sharded_frozen_restart(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(5 + 3 * SMOE_CREW_PHASES);
    t.freeze_step = 3;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_world_gateway(w, c.gateway)->core, &totals);
    totals.settings.policy = SMOE_POLICY_LYAPUNOV_STRICT;
    smoe_world_configure(w, c.gateway, &totals.settings);
    smoe_story_run_to_step(w, c.trainer, 4, 600 * SEC);
    struct smoe_frozen_head frozen = router_of(w, &c);
    smoe_story_expect(w, frozen.version == 1, "no router is in force");
    for (uint32_t i = 0; i < SMOE_CREW_PHASES; i++) {
        smoe_story_run_to_step(w, c.trainer, 4 + 3 * i, 600 * SEC);
        smoe_crew_run_until_twice(w, &c, 600 * SEC);
        smoe_crew_run_into(w, &c, c.workers[i % SMOE_CREW], (enum smoe_crew_phase)i);
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
    struct smoe_sim_trainer_options t = smoe_crew_trainer(60);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, 2);
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t mover = c.workers[2 + i / 2 % 2];
        smoe_story_run_to_step(w, c.trainer, 1 + 4 * i, 600 * SEC);
        smoe_crew_run_until_twice(w, &c, 600 * SEC);
        if (i % 4 < 2)
            smoe_world_act(w, i % 2 ? SMOE_SIM_DRAIN : SMOE_SIM_START, mover);
        else
            smoe_world_act(w, i % 2 ? SMOE_SIM_UNDRAIN : SMOE_SIM_START, mover);
        uint64_t until = smoe_world_now(w) + 2 * SEC;
        while (!smoe_crew_layer(w, &c)->filling.length && smoe_world_now(w) < until &&
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
    struct smoe_sim_trainer_options t = smoe_crew_trainer(20);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    smoe_story_run_to_step(w, c.trainer, 3, 60 * SEC);
    smoe_crew_lose_both(w, &c, w->options.seed % 2);
}

/* ---- the fleet grows and shrinks ---- */

static bool on_worker(const struct smoe_world *w, const struct smoe_crew *c, uint32_t process)
{
    uint32_t i;
    return smoe_crew_find(w, c, process, &i) && smoe_shard_holds(&smoe_crew_layer(w, c)->map, i);
}

void smoe_story_sharded_joins(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(40);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, 2);
    for (uint32_t i = 2; i < SMOE_CREW; i++) {
        smoe_story_run_to_step(w, c.trainer, 6 * i, 60 * SEC);
        smoe_world_start(w, c.workers[i]);
    }
    smoe_story_run_to_step(w, c.trainer, 26, 60 * SEC);
    for (uint32_t i = 0; i < SMOE_CREW; i++)
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
