/* SPDX-License-Identifier: Apache-2.0
 *
 * How a run begins and ends: data, then model, router and watch, which are sized by the data, then the
 * experts. A run that could not begin is released like any other.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/train/checkpoint.h"
#include "client/train/run.h"
#include "common/kernels/gemm.h"

#define EVALUATION_TOKENS 500 /* at a time, or one sample's */

/* What each router wants of the gate: see router.h. */
static void choose_gate(const struct smoe_train_options *o, struct smoe_model_shape *shape)
{
    static const enum smoe_gate gates[] = {[SMOE_ROUTER_LEARNED] = SMOE_GATE_SOFTMAX,
                                           [SMOE_ROUTER_SWITCH] = SMOE_GATE_SOFTMAX,
                                           [SMOE_ROUTER_STABLEMOE] = SMOE_GATE_SIGMOID,
                                           [SMOE_ROUTER_BASE] = SMOE_GATE_SIGMOID,
                                           [SMOE_ROUTER_HASH] = SMOE_GATE_NONE};
    shape->gate = gates[o->router];
    shape->orthogonal = o->router != SMOE_ROUTER_LEARNED;
    if (shape->gate == SMOE_GATE_SOFTMAX)
        shape->balance_weight = o->balance;
    else if (o->router == SMOE_ROUTER_STABLEMOE)
        shape->balance_weight = o->alpha;
}

static struct smoe_model_shape model_shape(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    const struct smoe_feed *feed = &run->feed;
    struct smoe_model_shape shape = {
        .pixels = feed->vocabulary ? feed->context * (uint32_t)o->d_model : feed->values,
        .d_model = (uint32_t)o->d_model,
        .experts = (uint32_t)o->experts,
        .top_k = (uint32_t)o->top_k,
        .classes = feed->classes,
        .tokens = feed->tokens,
        .vocabulary = feed->vocabulary,
        .context = feed->context,
    };
    choose_gate(o, &shape);
    return shape;
}

static bool needs_codes(const struct smoe_train_options *o)
{
    return o->router == SMOE_ROUTER_HASH ||
           (o->router == SMOE_ROUTER_STABLEMOE && o->feature == SMOE_FEATURE_TABLE);
}

/* What is to be frozen one day must fit a frozen router. */
static int check_frozen(const struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    bool linear = o->feature == SMOE_FEATURE_LINEAR;
    uint32_t inputs = linear ? run->feed.values : run->feed.codes, experts = (uint32_t)o->experts;
    if (o->router != SMOE_ROUTER_STABLEMOE ||
        smoe_frozen_shape(linear ? SMOE_FROZEN_LINEAR : SMOE_FROZEN_TABLE, inputs, experts) == 0)
        return 0;
    return smoe_fail(why, SMOE_ECONFIG,
                     "--router stablemoe: %u inputs for %u experts; a frozen router has at most %u",
                     inputs, experts, SMOE_FROZEN_VALUES_MAX / experts);
}

static int load(struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    struct smoe_feed_options feed = {
        .dataset = o->dataset,
        .dir = *o->data_dir ? o->data_dir : NULL,
        .limit = o->limit,
        .patches = (uint32_t)o->patches,
        .codes = needs_codes(o) ? (uint32_t)o->codes : 0,
        .vocabulary = (uint32_t)o->vocabulary,
        .context = (uint32_t)o->context,
        .seed = o->seed,
    };
    int rc = smoe_feed_init(&run->feed, &feed, why);
    if (rc == 0 && run->feed.vocabulary && o->feature == SMOE_FEATURE_LINEAR)
        rc = smoe_fail(why, SMOE_ECONFIG, "--feature linear: words have no values, only numbers");
    return rc ? rc : check_frozen(run, why);
}

static int start_batch(struct smoe_train_run *run)
{
    size_t samples = run->options->batch > run->rows_max ? run->options->batch : run->rows_max;
    size_t tokens = samples * run->feed.tokens;
    run->batch = (struct smoe_feed_batch){
        .x = malloc((tokens * run->feed.values + 1) * sizeof *run->batch.x),
        .words = malloc((samples * run->feed.context + 1) * sizeof *run->batch.words),
        .codes = malloc(tokens * sizeof *run->batch.codes),
        .labels = malloc(samples * sizeof *run->batch.labels),
    };
    return run->batch.x && run->batch.words && run->batch.codes && run->batch.labels
               ? 0
               : SMOE_ENOMEMORY;
}

static int start_parts(struct smoe_train_run *run)
{
    struct smoe_model_shape shape = model_shape(run);
    size_t tokens = run->rows_max * run->feed.tokens;
    run->parts = calloc(run->n_parts, sizeof *run->parts);
    for (size_t i = 0; run->parts && i < run->n_parts; i++) {
        struct smoe_train_part *p = &run->parts[i];
        p->dy = malloc(tokens * shape.top_k * shape.d_model * sizeof *p->dy);
        if (!p->dy || smoe_pass_init(&p->pass, &shape, tokens))
            return SMOE_ENOMEMORY;
    }
    return run->parts ? start_batch(run) : SMOE_ENOMEMORY;
}

static int start_router(struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    bool linear = o->feature == SMOE_FEATURE_LINEAR;
    struct smoe_router_options router = {
        .kind = (enum smoe_router_kind)o->router,
        .experts = (uint32_t)o->experts,
        .top_k = (uint32_t)o->top_k,
        .rows_max = run->rows_max * run->feed.tokens,
        .seed = o->seed,
        .distilled = {.feature = (enum smoe_feature)o->feature,
                      .inputs = linear ? run->feed.values : run->feed.codes,
                      .dim = (uint32_t)o->router_dim,
                      .experts = (uint32_t)o->experts},
        .distil_weight = o->distil,
    };
    return smoe_router_init(&run->router, &router);
}

/* Samples of the largest part that n are cut into; what cannot be cut into equal ones stays whole. */
static size_t largest_part(size_t n, size_t parts)
{
    return n % parts ? n : n / parts;
}

/* ... of any batch of an epoch, the last and shortest one included; and of an evaluation. */
static size_t rows_of(const struct smoe_train_run *run)
{
    const struct smoe_train_options *o = run->options;
    size_t n = run->feed.train.n, full = n < o->batch ? 0 : largest_part(o->batch, o->parts);
    size_t last = largest_part(n % o->batch, o->parts),
           least = EVALUATION_TOKENS / run->feed.tokens;
    size_t rows = full > last ? full : last;
    rows = rows > least ? rows : least;
    return rows ? rows : 1;
}

static int start_stepping(struct smoe_train_run *run)
{
    if (!run->options->staleness)
        return 0;
    run->stepping.grads = calloc(run->model.n_params, sizeof *run->stepping.grads);
    return run->stepping.grads ? 0 : SMOE_ENOMEMORY;
}

static int start_model(struct smoe_train_run *run, struct smoe_why *why)
{
    const struct smoe_train_options *o = run->options;
    struct smoe_model_shape shape = model_shape(run);
    run->n_parts = o->parts;
    run->rows_max = rows_of(run);
    if (smoe_model_init(&run->model, &shape, o->seed) || start_parts(run) || start_router(run) ||
        smoe_watch_init(&run->watch, run) || start_stepping(run))
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    return 0;
}

int smoe_train_start(struct smoe_train_run *run, const struct smoe_train_options *options,
                     struct smoe_why *why)
{
    *run = (struct smoe_train_run){.options = options};
    (void)smoe_gemm_setup();
    int rc = load(run, why);
    if (rc == 0)
        rc = start_model(run, why);
    if (rc == 0)
        rc = smoe_experts_open(options, run->rows_max * run->feed.tokens, &run->experts, why);
    if (rc == 0)
        snprintf(run->result.policy, sizeof run->result.policy, "%s", run->experts->policy);
    if (rc == 0 && *options->checkpoint)
        rc = smoe_checkpoint_fits(run, why);
    if (rc == 0 && *options->resume)
        rc = smoe_checkpoint_resume(run, options->resume, why);
    return rc;
}

void smoe_train_release(struct smoe_train_run *run)
{
    smoe_experts_close(run->experts);
    for (size_t i = 0; run->parts && i < run->n_parts; i++) {
        smoe_pass_release(&run->parts[i].pass);
        free(run->parts[i].dy);
    }
    free(run->parts);
    free(run->stepping.grads);
    free(run->batch.x);
    free(run->batch.words);
    free(run->batch.codes);
    free(run->batch.labels);
    smoe_watch_release(&run->watch);
    smoe_router_release(&run->router);
    smoe_model_release(&run->model);
    smoe_feed_release(&run->feed);
    *run = (struct smoe_train_run){0};
}
