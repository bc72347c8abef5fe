/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/watch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/router/choice.h"
#include "client/train/run.h"

const unsigned smoe_watch_percent[SMOE_WATCH_MARKS] = {20, 50, 80};

enum { SCRATCH = SMOE_WATCH_MARKS };

static size_t samples_of(const struct smoe_train_run *run)
{
    size_t n = run->feed.test.n;
    return n < SMOE_WATCH_SAMPLES ? n : SMOE_WATCH_SAMPLES;
}

int smoe_watch_init(struct smoe_watch *watch, struct smoe_train_run *run)
{
    size_t tokens = samples_of(run) * run->feed.tokens, k = run->options->top_k;
    *watch = (struct smoe_watch){.tokens = tokens};
    run->result.routing = (struct smoe_watch_result){.agreement = (double)NAN, .tokens = tokens};
    for (size_t i = 0; i <= SMOE_WATCH_MARKS; i++) {
        watch->top[i] = calloc(tokens * k + 1, sizeof *watch->top[i]);
        if (!watch->top[i])
            return SMOE_ENOMEMORY;
    }
    for (size_t i = 0; i < SMOE_WATCH_MARKS; i++)
        run->result.routing.fluctuation[i] = (double)NAN;
    return 0;
}

void smoe_watch_release(struct smoe_watch *watch)
{
    for (size_t i = 0; i <= SMOE_WATCH_MARKS; i++)
        free(watch->top[i]);
    *watch = (struct smoe_watch){.tokens = 0};
}

/* The choices [tokens, K] of the router in force. The test set is in its file's order. */
static void look(struct smoe_train_run *run, uint16_t *ret_top)
{
    struct smoe_train_part *part = &run->parts[0];
    size_t samples = samples_of(run), row = run->feed.tokens * run->options->top_k;
    part->in = run->batch;
    for (size_t first = 0; first < samples; first += run->rows_max) {
        size_t left = samples - first, n = left < run->rows_max ? left : run->rows_max;
        smoe_feed_fill(&run->feed, &run->feed.test, first, n, &part->in);
        smoe_train_score(run, part, n, false);
        memcpy(ret_top + first * row, part->pass.top, n * row * sizeof *ret_top);
    }
}

static double differ(const struct smoe_watch *watch, const struct smoe_train_run *run,
                     const uint16_t *a, const uint16_t *b)
{
    return smoe_choices_differ(watch->tokens, (uint32_t)run->options->top_k, a, b);
}

/* -1 instead of NAN: not known. */
static double known(double share)
{
    return isnan(share) ? -1 : share;
}

/* `changed` since the mark before; NAN: it was not seen. */
static int report(const struct smoe_watch *watch, struct smoe_train_run *run, double changed,
                  struct smoe_why *why)
{
    const struct smoe_watch_result *r = &run->result.routing;
    struct smoe_routing_report report = {.router = smoe_train_routers[run->options->router],
                                         .step = run->step,
                                         .tokens = watch->tokens,
                                         .changed = known(changed),
                                         .agreement = known(r->agreement)};
    for (size_t i = 0; i < SMOE_WATCH_MARKS; i++)
        report.fluctuation[i] = known(r->fluctuation[i]);
    return run->experts->ops->report ? run->experts->ops->report(run->experts, &report, why) : 0;
}

int smoe_watch_step(struct smoe_watch *watch, struct smoe_train_run *run, struct smoe_why *why)
{
    uint64_t all = smoe_train_steps_in_all(run);
    for (size_t i = 0; i < SMOE_WATCH_MARKS; i++) {
        if (run->step != (all * smoe_watch_percent[i] + 99) / 100)
            continue;
        look(run, watch->top[i]);
        watch->seen[i] = true;
        int rc = report(watch, run,
                        i > 0 && watch->seen[i - 1]
                            ? differ(watch, run, watch->top[i - 1], watch->top[i])
                            : (double)NAN,
                        why);
        if (rc)
            return rc;
    }
    return 0;
}

int smoe_watch_freeze(struct smoe_watch *watch, struct smoe_train_run *run)
{
    size_t bytes = watch->tokens * run->options->top_k * sizeof **watch->top;
    uint16_t *before = malloc(bytes + 1);
    if (!before)
        return SMOE_ENOMEMORY;
    look(run, before);
    int rc = smoe_router_freeze(&run->router);
    if (rc == 0) {
        look(run, watch->top[SCRATCH]);
        run->result.routing.agreement = 1 - differ(watch, run, before, watch->top[SCRATCH]);
    }
    free(before);
    return rc;
}

int smoe_watch_finish(struct smoe_watch *watch, struct smoe_train_run *run, struct smoe_why *why)
{
    struct smoe_watch_result *result = &run->result.routing;
    look(run, watch->top[SCRATCH]);
    for (size_t i = 0; i < SMOE_WATCH_MARKS; i++)
        if (watch->seen[i])
            result->fluctuation[i] = differ(watch, run, watch->top[i], watch->top[SCRATCH]);
    if (smoe_router_stage(&run->router) == 2) {
        result->freeze_step = smoe_train_freeze_step(run);
        result->digest = run->router.frozen.digest;
    }
    return report(watch, run, result->fluctuation[SMOE_WATCH_MARKS - 1], why);
}
