/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers with staleness 1: batches of the next step are out while slots change experts. What they must be is
 * the oracle's to say, as in stories_stale.c; that they were computed and summed where their experts had been, and not
 * in the slots in force, is looked at here.
 */
#include <string.h>

#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/crew.h"
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

static struct smoe_sim_trainer_options trainer_ahead(uint32_t steps)
{
    struct smoe_sim_trainer_options t = smoe_crew_trainer(steps);
    t.pipelined = true;
    t.staleness = 1;
    t.turns = true; /* slots change experts at each commit */
    return t;
}

/* Of the sums that a step takes: from slots that were left, and from slots in force that had no part in it before. */
struct sums {
    uint32_t left, joined;
    bool gradients, weights; /* while those travelled visits were computed */
};

static struct sums sums_of(const struct smoe_sharded *s)
{
    struct sums n = {0};
    for (uint32_t e = 0; s && s->exchange.kind == SMOE_EXCHANGE_GRADIENTS && e < s->plan.n_experts;
         e++)
        for (uint32_t r = s->sum_first[e]; r < s->sum_first[e + 1]; r++) {
            n.left += !smoe_sharded_hosts(s, s->sum_worker[r], e);
            n.joined += s->n_before && !smoe_sharded_hosted_before(s, s->sum_worker[r], e);
        }
    return n;
}

/* Are visits being computed while that is on its way? */
static bool overlaps(const struct smoe_world *w, const struct smoe_crew *c,
                     enum smoe_exchange_kind kind)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    const struct smoe_sharded *s = core->layers[0].sharded;
    return s && s->exchange.kind == kind && s->exchange.n_out > 0 &&
           core->total.now[SMOE_VISIT_ROUTED] + core->total.now[SMOE_VISIT_GRADIENT_QUEUED] > 0;
}

/* Runs until the trainer is done; the largest numbers of any step. */
static struct sums watch(struct smoe_world *w, const struct smoe_crew *c)
{
    struct sums most = {0};
    while (!smoe_world_trainer(w, c->trainer).done && smoe_world_now(w) < 600 * SEC &&
           smoe_world_step(w)) {
        struct sums now = sums_of(smoe_crew_layer(w, c));
        bool both = now.left && now.joined; /* of one step */
        most.left = now.left > most.left ? now.left : most.left;
        most.joined += both;
        most.gradients |= overlaps(w, c, SMOE_EXCHANGE_GRADIENTS);
        most.weights |= overlaps(w, c, SMOE_EXCHANGE_WEIGHTS);
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c->trainer, 0);
    smoe_story_expect(w, most.left > 0, "no sum was taken from a slot that was left");
    return most;
}

/* ---- nothing breaks ---- */

void smoe_story_stale_sharded(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(100);
    t.clip_norm = 0.05;
    t.dense_square_norm = 0.01;
    t.batches = 2;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    struct sums n = watch(w, &c);
    bool slow = w->options.seed % 3 == 0; /* then the batch ahead is done before weights travel */
    smoe_story_expect(w, n.gradients && (n.weights || slow), "nothing was computed meanwhile");
    smoe_story_expect(w, !n.joined, "a step of two placements, of which all batches were ahead");
    smoe_story_expect(w, smoe_world_trainer(w, c.trainer).clip_scale < 1, "nothing was clipped");
    smoe_story_expect(w,
                      smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) == 1 ||
                          smoe_crew_layer(w, &c)->iterations >= 99,
                      "training was interrupted");
}

void smoe_story_stale_sharded_rules(struct smoe_world *w)
{
    struct smoe_place_rule rule = {
        .kind = (enum smoe_place_kind)(w->options.seed % SMOE_PLACE_KINDS), .interval = 2};
    struct smoe_sim_trainer_options t = trainer_ahead(12);
    t.n_layers = 2;
    t.batches = 2;
    struct smoe_crew c = smoe_crew_begin(w, &rule, &t, SMOE_CREW);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_crew_layer(w, &c)->exchange.n_out == 0,
                      "something is still on its way");
}

/* Gradients go from where they were summed: one placement's, and not two. */
void smoe_story_stale_sharded_bytes(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(16);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    smoe_crew_count(w, &c, 9);
    (void)watch(w, &c);
}

/* Part of a step's batches is submitted before the trainer takes its answer, the others after. */
void smoe_story_stale_sharded_mixed(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(40);
    t.batches = 4;
    t.in_flight = 2;
    t.think_ns = 10 * MS;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    struct sums n = watch(w, &c);
    bool slow = w->options.seed % 3 == 0; /* then steps take so long that all batches are ahead */
    smoe_story_expect(w, n.joined > 0 || slow, "no step had sums of both placements");
}

/* The commit comes while the batches ahead have their results and no gradients yet. */
void smoe_story_stale_sharded_waits(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(12);
    t.think_ns = 400 * MS;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    (void)watch(w, &c);
}

/* ---- somebody dies, or is cut off for a moment ---- */

void smoe_story_stale_sharded_phases(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(240);
    smoe_crew_strike(w, &t, SMOE_CREW_STALE_PHASES, SMOE_SIM_CRASH,
                     (w->options.seed % 2 ? 300 : 20) * MS);
}

void smoe_story_stale_sharded_reset(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(240);
    t.hasty = w->options.seed % 2;
    smoe_crew_strike(w, &t, SMOE_CREW_STALE_PHASES, SMOE_SIM_RESET, 0);
}

void smoe_story_stale_sharded_restart(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(240);
    t.hasty = w->options.seed % 2;
    smoe_crew_restart(w, &t, SMOE_CREW_STALE_PHASES);
}

/* Weights before the last step come to the slots in force, after a worker died with visits of theirs; and while they
 * come a connection breaks, or the gateway dies. */
static void come_again(struct smoe_world *w, const struct smoe_sim_trainer_options *t,
                       uint32_t rounds)
{
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, t, SMOE_CREW);
    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t victim = c.workers[(i + w->options.seed) % SMOE_CREW];
        smoe_story_run_to_step(w, c.trainer, 2 + 4 * i, 600 * SEC);
        smoe_crew_run_until_twice(w, &c, 600 * SEC);
        victim = smoe_crew_run_into(w, &c, victim, SMOE_CREW_LEFT);
        smoe_world_act(w, SMOE_SIM_CRASH, victim);
        smoe_world_plan(w, smoe_world_now(w) + 300 * MS, SMOE_SIM_START, victim);
        uint32_t other = victim == c.workers[0] ? c.workers[1] : c.workers[0];
        smoe_crew_run_into(w, &c, other, SMOE_CREW_OLDER);
        smoe_world_run(w, smoe_world_now(w) + i * 100 * SMOE_SIM_US);
        smoe_world_act(w, i % 2 ? SMOE_SIM_CRASH : SMOE_SIM_RESET, i % 2 ? c.gateway : other);
        smoe_world_run(w, smoe_world_now(w) + 20 * MS);
        smoe_world_start(w, c.gateway);
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

void smoe_story_stale_sharded_again(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(60);
    come_again(w, &t, 8);
}

void smoe_story_stale_sharded_bf16(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(24);
    smoe_crew_round(&t);
    come_again(w, &t, 2);
}

void smoe_story_stale_sharded_both_die(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(20);
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, SMOE_CREW);
    smoe_story_run_to_step(w, c.trainer, 3, 60 * SEC);
    smoe_crew_run_until_twice(w, &c, 60 * SEC);
    smoe_crew_run_into(w, &c, c.workers[0], SMOE_CREW_LEFT);
    smoe_crew_lose_both(w, &c, false);
}

/* ---- the fleet grows and shrinks ---- */

static bool holds(const struct smoe_world *w, const struct smoe_crew *c, uint32_t process)
{
    uint32_t i;
    return smoe_crew_find(w, c, process, &i) && smoe_sharded_on_worker(smoe_crew_layer(w, c), i);
}

/* Batches are out at all times, and a step is settled as soon as the one before it is done: state moves all the
 * same. */
void smoe_story_stale_sharded_joins(struct smoe_world *w)
{
    struct smoe_sim_trainer_options t = trainer_ahead(60);
    t.hasty = true;
    t.think_ns = 0;
    struct smoe_crew c = smoe_crew_begin(w, &smoe_crew_rule, &t, 2);
    for (uint32_t i = 2; i < SMOE_CREW; i++) {
        smoe_story_run_to_step(w, c.trainer, 6 * i, 60 * SEC);
        smoe_world_start(w, c.workers[i]);
    }
    smoe_story_run_to_step(w, c.trainer, 30, 60 * SEC);
    for (uint32_t i = 0; i < SMOE_CREW; i++)
        smoe_story_expect(w, holds(w, &c, c.workers[i]), "worker-%u got no part", i);
    smoe_world_act(w, SMOE_SIM_DRAIN, c.workers[0]);
    smoe_story_run_to_step(w, c.trainer, 46, 60 * SEC);
    smoe_story_expect(w, !holds(w, &c, c.workers[0]), "worker-0 still has a part");
    smoe_world_act(w, SMOE_SIM_STOP, c.workers[0]);
    uint64_t attempt = smoe_uplink_attempt(smoe_world_uplink(w, c.trainer));
    smoe_story_run_to_step(w, c.trainer, 50, 60 * SEC);
    smoe_world_act(w, SMOE_SIM_DRAIN, c.workers[1]);
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    smoe_story_expect(w, smoe_uplink_attempt(smoe_world_uplink(w, c.trainer)) == attempt,
                      "training was interrupted");
    smoe_world_run(w, smoe_world_now(w) + 2 * SEC);
    smoe_story_expect(w, !holds(w, &c, c.workers[1]), "worker-1 still has a part, at rest");
}
