/* SPDX-License-Identifier: Apache-2.0
 *
 * Direct links between workers break, fall silent, or never come about: what they were to carry goes through
 * the gateway.
 */
#include "daemon/core/sharded.h"
#include "daemon/gateway/gateway_state.h"
#include "sim/crew.h"
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

enum { LINK_ENDS = SMOE_CREW * (SMOE_CREW - 1) };

/* Of all workers, what they sent so far. */
static struct smoe_links_view links_of(const struct smoe_world *w, const struct smoe_crew *c)
{
    const struct smoe_core *core = smoe_world_gateway(w, c->gateway)->core;
    struct smoe_links_view sum = {0};
    for (uint32_t i = 0; i < SMOE_CREW; i++) {
        struct smoe_links_view one = smoe_core_links(core, i);
        sum.up += one.up;
        sum.relayed += one.relayed;
        sum.direct_bytes += one.direct_bytes;
        sum.relayed_bytes += one.relayed_bytes;
    }
    return sum;
}

static void run_until_linked(struct smoe_world *w, const struct smoe_crew *c)
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
    struct smoe_sim_trainer_options t = smoe_crew_trainer(110);
    struct smoe_crew c = smoe_crew_begin_linked(w, &smoe_crew_rule, &t, SMOE_CREW, true);
    uint64_t attempt = 0;
    for (uint32_t i = 0; i < 3 * SMOE_CREW_PHASES; i++) {
        uint32_t a = c.workers[(i + w->options.seed) % SMOE_CREW];
        uint32_t b = c.workers[(i + w->options.seed + 1 + i % (SMOE_CREW - 1)) % SMOE_CREW];
        smoe_story_run_to_step(w, c.trainer, 2 + 4 * i, 600 * SEC);
        run_until_linked(w, &c);
        attempt = attempt ? attempt : smoe_uplink_attempt(smoe_world_uplink(w, c.trainer));
        smoe_crew_run_into(w, &c, a, (enum smoe_crew_phase)(i % SMOE_CREW_PHASES));
        smoe_world_run(w, smoe_world_now(w) + i / SMOE_CREW_PHASES * 400 * SMOE_SIM_US);
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
    struct smoe_sim_trainer_options t = smoe_crew_trainer(12);
    struct smoe_crew c = smoe_crew_begin_linked(w, &smoe_crew_rule, &t, 0, true);
    for (uint32_t a = 0; a < SMOE_CREW; a++)
        for (uint32_t b = 0; b < a + w->options.seed % 2 * SMOE_CREW && b < SMOE_CREW; b++)
            smoe_simnet_cut(w->net, c.workers[a], c.workers[b], true); /* one direction, or both */
    for (uint32_t i = 0; i < SMOE_CREW; i++)
        smoe_world_start(w, c.workers[i]);
    smoe_story_run_to_step(w, c.trainer, 8, 60 * SEC);
    struct smoe_links_view sent = links_of(w, &c);
    smoe_story_expect(w, !sent.direct_bytes && sent.relayed_bytes && !sent.up && sent.relayed,
                      "something went over a link that cannot be");
    smoe_story_finish(w, 60 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* A path falls silent, and nobody says so: once while much is on it, once a moment before. */
void smoe_story_sharded_silence(struct smoe_world *w)
{
    static const enum smoe_crew_phase phases[] = {SMOE_CREW_GRADIENTS, SMOE_CREW_WEIGHTS,
                                                  SMOE_CREW_BACKWARD, SMOE_CREW_STAGING};
    struct smoe_sim_trainer_options t = smoe_crew_trainer(60);
    struct smoe_crew c = smoe_crew_begin_linked(w, &smoe_crew_rule, &t, SMOE_CREW, true);
    for (uint32_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        uint32_t a = c.workers[i % SMOE_CREW], b = c.workers[(i + 1) % SMOE_CREW];
        uint64_t step = 4 + 12 * i, since;
        smoe_story_run_to_step(w, c.trainer, step, 600 * SEC);
        run_until_linked(w, &c);
        smoe_crew_run_into(w, &c, a, phases[i]);
        smoe_simnet_cut(w->net, a, b, true);
        smoe_simnet_cut(w->net, b, a, w->options.seed % 2);
        since = smoe_world_now(w);
        smoe_story_run_to_step(w, c.trainer, step + 8, 600 * SEC);
        uint64_t took_ms = (smoe_world_now(w) - since) / MS;
        smoe_story_expect(w, took_ms < 2500, "8 steps took %u ms on a path that is silent",
                          (unsigned)took_ms);
        smoe_simnet_cut(w->net, a, b, false);
        smoe_simnet_cut(w->net, b, a, false);
    }
    smoe_story_finish(w, 600 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}
