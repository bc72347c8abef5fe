/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories of stage 2: a table is frozen, and tokens come with codes. The script compares every token's experts
 * and scores with the table (sim/data.c), so `done` says that nothing was ever scored by anything else.
 */
#include "sim/story.h"
#include "sim/world_state.h"

#define MS  SMOE_SIM_MS
#define SEC (1000 * SMOE_SIM_MS)

static struct smoe_cast cast(struct smoe_world *w, uint64_t steps)
{
    struct smoe_cast c =
        smoe_story_cast(w, NULL,
                        &(struct smoe_sim_trainer_options){
                            .steps = (uint32_t)steps, .tokens = 32, .freeze_step = 3});
    struct smoe_core_totals totals;
    smoe_core_totals(smoe_gateway_core(smoe_world_gateway(w, c.gateway)), &totals);
    totals.settings.policy = SMOE_POLICY_TOPK;
    totals.settings.workers_min = 2;
    smoe_world_configure(w, c.gateway, &totals.settings);
    return c;
}

static struct smoe_frozen_head router_of(const struct smoe_world *w, const struct smoe_cast *c)
{
    return smoe_core_layer(smoe_gateway_core(smoe_world_gateway(w, c->gateway)), 0).router;
}

static void expect_router(struct smoe_world *w, const struct smoe_cast *c, uint64_t digest)
{
    struct smoe_frozen_head head = router_of(w, c);
    smoe_story_expect(w, head.version == 1 && head.digest == digest,
                      "router %llu %016llx is in force, not %016llx",
                      (unsigned long long)head.version, (unsigned long long)head.digest,
                      (unsigned long long)digest);
}

void smoe_story_frozen_restart(struct smoe_world *w)
{
    struct smoe_cast c = cast(w, 12);
    smoe_story_run_to_step(w, c.trainer, 3, 100 * SEC);
    uint64_t digest = router_of(w, &c).digest;
    for (uint64_t step = 4; step < 8; step++) {
        smoe_story_run_to_step(w, c.trainer, step, 100 * SEC);
        smoe_story_run_into_forward(w, c.gateway, c.slow, 100 * SEC);
        smoe_world_act(w, step % 2 ? SMOE_SIM_VANISH : SMOE_SIM_CRASH, c.gateway);
        smoe_world_run(w, smoe_world_now(w) + 200 * MS);
        smoe_world_start(w, c.gateway);
        expect_router(w, &c, digest); /* from the journal, before anybody has said a word */
    }
    smoe_story_finish(w, 200 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
}

/* The Freeze is on its way to the disk; the trainer has not heard of it and waits to submit. */
void smoe_story_frozen_lost(struct smoe_world *w)
{
    struct smoe_cast c = cast(w, 6);
    smoe_story_run_to_step(w, c.trainer, 2, 100 * SEC);
    const struct smoe_uplink_router *r =
        &smoe_uplink_layer(smoe_world_uplink(w, c.trainer), 0)->router;
    while (r->state != SMOE_UROUTER_SENT && smoe_world_step(w))
        ;
    smoe_story_expect(w, !router_of(w, &c).version, "the router is in force already");
    smoe_world_act(w, SMOE_SIM_CRASH, c.gateway);
    smoe_world_run(w, smoe_world_now(w) + 200 * MS);
    smoe_world_start(w, c.gateway);
    smoe_story_expect(w, !router_of(w, &c).version, "it was never durable");
    smoe_story_finish(w, 100 * SEC);
    smoe_story_expect_trainer(w, c.trainer, 0);
    expect_router(w, &c, r->head.digest);
}
