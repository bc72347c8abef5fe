/* SPDX-License-Identifier: Apache-2.0
 *
 * What stories have in common: the table, the cast, expectations, and running to a moment.
 */
#include "sim/story.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/world_state.h"

#define REST_NS (8000 * SMOE_SIM_MS) /* time to connect again, after the last trainer is done */
#define MORE_NS (1000 * SMOE_SIM_MS) /* ... and again, if somebody's connection broke at its end */
#define MORE    16

const struct smoe_story smoe_stories[] = {
#define X(name, arithmetic, about) {#name, about, SMOE_SIM_##arithmetic, smoe_story_##name},
    SMOE_STORY_MAP(X)
#undef X
};
const size_t smoe_stories_len = sizeof smoe_stories / sizeof *smoe_stories;

const struct smoe_story *smoe_story_find(const char *name)
{
    for (size_t i = 0; i < smoe_stories_len; i++)
        if (strcmp(smoe_stories[i].name, name) == 0)
            return &smoe_stories[i];
    return NULL;
}

void smoe_story_tell(const struct smoe_story *story, uint64_t seed, bool keep_trace,
                     struct smoe_story_end *ret)
{
    struct smoe_world *w = smoe_world_new(&(struct smoe_world_options){
        .seed = seed, .arithmetic = story->arithmetic, .keep_trace = keep_trace});
    story->play(w);
    const struct smoe_sim_trace *trace = smoe_world_trace(w);
    *ret = (struct smoe_story_end){.virtual_ns = smoe_world_now(w),
                                   .losses = w->losses,
                                   .sharded = w->sharded,
                                   .frozen = w->frozen,
                                   .stale = w->stale,
                                   .events = smoe_world_events(w),
                                   .messages = trace->messages,
                                   .digest = trace->digest};
    for (int act = 0; act < SMOE_SIM_ACTS; act++)
        ret->acts[act] = smoe_world_acts(w, (enum smoe_sim_act)act);
    ret->code = smoe_world_verdict(w, &ret->why);
    if (keep_trace) {
        ret->trace = smoe_sim_alloc(trace->len + 1, 1);
        memcpy(ret->trace, smoe_sim_trace_text(trace), trace->len);
    }
    smoe_world_free(w);
}

/* ---- expectations ---- */

void smoe_story_expect(struct smoe_world *w, bool condition, const char *format, ...)
{
    struct smoe_why why;
    va_list args;
    if (condition)
        return;
    va_start(args, format);
    vsnprintf(why.text, sizeof why.text, format, args);
    va_end(args);
    smoe_world_fail(w, SMOE_ESTATE, "%s", why.text);
}

void smoe_story_finish(struct smoe_world *w, uint64_t until_ns)
{
    struct smoe_why why;
    if (!smoe_world_run_trainers(w, until_ns) || !smoe_world_run(w, smoe_world_now(w) + REST_NS))
        return;
    int rc = smoe_world_check_rest(w, &why);
    for (int i = 0; rc && i < MORE && smoe_world_run(w, smoe_world_now(w) + MORE_NS); i++)
        rc = smoe_world_check_rest(w, &why);
    if (rc)
        smoe_world_fail(w, rc, "at rest: %s", why.text);
}

void smoe_story_expect_trainer(struct smoe_world *w, uint32_t trainer, int failed)
{
    struct smoe_sim_trainer_view v = smoe_world_trainer(w, trainer);
    smoe_story_expect(w, v.failed == failed && v.done == !failed,
                      "%s: done %d, failed %d (%s), not %d", smoe_world_name(w, trainer), v.done,
                      v.failed, v.why.text, failed);
}

struct smoe_worker smoe_story_worker(const struct smoe_world *w, uint32_t gateway, uint32_t worker)
{
    const struct smoe_gateway *g = smoe_world_gateway(w, gateway);
    uint32_t i;
    if (!g ||
        !smoe_fleet_find(smoe_core_fleet(smoe_gateway_core(g)), smoe_world_name(w, worker), &i))
        return (struct smoe_worker){0};
    return smoe_core_fleet(smoe_gateway_core(g))->workers[i];
}

/* ---- running to a moment ---- */

void smoe_story_run_into_forward(struct smoe_world *w, uint32_t gateway, uint32_t worker,
                                 uint64_t until_ns)
{
    uint64_t now;
    do
        now = smoe_story_worker(w, gateway, worker).account.now[SMOE_VISIT_ROUTED];
    while (!now && smoe_world_now(w) < until_ns && smoe_world_step(w));
    smoe_story_expect(w, now > 0, "%s never had a visit", smoe_world_name(w, worker));
}

void smoe_story_run_to_step(struct smoe_world *w, uint32_t trainer, uint64_t steps,
                            uint64_t until_ns)
{
    while (smoe_world_trainer(w, trainer).steps < steps && smoe_world_now(w) < until_ns &&
           smoe_world_step(w))
        ;
    smoe_story_expect(w, smoe_world_trainer(w, trainer).steps >= steps, "%s made only %llu steps",
                      smoe_world_name(w, trainer),
                      (unsigned long long)smoe_world_trainer(w, trainer).steps);
}

/* ---- the cast ---- */

struct smoe_cast smoe_story_cast(struct smoe_world *w,
                                 const struct smoe_sim_gateway_options *gateway,
                                 const struct smoe_sim_trainer_options *trainer)
{
    const struct smoe_sim_gateway_options plain_gateway = {.name = ""};
    struct smoe_sim_trainer_options t = trainer ? *trainer : (struct smoe_sim_trainer_options){0};
    struct smoe_cast cast;
    cast.gateway = smoe_world_add_gateway(w, gateway ? gateway : &plain_gateway);
    cast.fast = smoe_world_add_worker(
        w, &(struct smoe_sim_worker_options){.name = "fast", .gateway = cast.gateway});
    cast.slow = smoe_world_add_worker(
        w,
        &(struct smoe_sim_worker_options){.name = "slow", .gateway = cast.gateway, .speed = 0.25});
    t.gateway = cast.gateway;
    cast.trainer = smoe_world_add_trainer(w, &t);
    smoe_world_start(w, cast.gateway);
    smoe_world_start(w, cast.fast);
    smoe_world_start(w, cast.slow);
    smoe_world_run(w, 20 * SMOE_SIM_MS); /* both are there before the layer is placed */
    smoe_world_start(w, cast.trainer);
    return cast;
}

/* Are both copies of all experts with workers that are there? */
static bool has_both_copies(const struct smoe_world *w, uint32_t gateway)
{
    const struct smoe_core *core = smoe_gateway_core(smoe_world_gateway(w, gateway));
    const struct smoe_fleet *fleet = smoe_core_fleet(core);
    struct smoe_layer_view layer = smoe_core_layer(core, 0);
    for (uint32_t e = 0; e < layer.shape.experts; e++) {
        const struct smoe_expert_view *x = &layer.experts[e];
        if (x->worker == SMOE_NO_WORKER || x->follower == SMOE_NO_WORKER ||
            !smoe_worker_live(&fleet->workers[x->worker]) ||
            !smoe_worker_live(&fleet->workers[x->follower]))
            return false;
    }
    return layer.state == SMOE_LAYER_READY;
}

void smoe_story_run_to_both_copies(struct smoe_world *w, uint32_t gateway)
{
    while (!has_both_copies(w, gateway) && smoe_world_step(w))
        ;
}
