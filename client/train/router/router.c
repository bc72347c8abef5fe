/* SPDX-License-Identifier: Apache-2.0 */
#include "client/train/router/router.h"

#include "client/train/router/choice.h"
#include "common/base/assert.h"

int smoe_router_init(struct smoe_router *r, const struct smoe_router_options *options)
{
    *r = (struct smoe_router){.options = *options};
    if (options->kind == SMOE_ROUTER_STABLEMOE)
        return smoe_distilled_init(&r->distilled, &options->distilled, options->rows_max,
                                   options->seed);
    if (options->kind == SMOE_ROUTER_BASE)
        return smoe_balancer_new(options->experts, options->top_k, options->rows_max, &r->balancer);
    return 0;
}

void smoe_router_release(struct smoe_router *r)
{
    smoe_distilled_release(&r->distilled);
    smoe_frozen_release(&r->frozen);
    smoe_frozen_tokens_release(&r->read);
    smoe_balancer_free(r->balancer);
    *r = (struct smoe_router){.balancer = NULL};
}

unsigned smoe_router_stage(const struct smoe_router *r)
{
    if (r->options.kind != SMOE_ROUTER_STABLEMOE)
        return 0;
    return r->frozen.values ? 2 : 1;
}

static void score_frozen(struct smoe_router *r, const struct smoe_tokens *tokens, float *scores)
{
    smoe_frozen_tokens_fill(&r->read, &r->frozen, tokens);
    if (r->read.codes)
        smoe_frozen_score_codes(&r->frozen, tokens->n, r->read.codes, scores);
    else
        smoe_frozen_score_features(&r->frozen, tokens->n, r->read.features, scores);
}

bool smoe_router_scores(struct smoe_router *r, const struct smoe_tokens *tokens, bool training,
                        float *scores)
{
    const struct smoe_router_options *o = &r->options;
    smoe_assert(tokens->n <= o->rows_max);
    if (smoe_router_stage(r) == 2)
        score_frozen(r, tokens, scores);
    else if (o->kind == SMOE_ROUTER_HASH)
        smoe_hash_scores(o->seed, o->experts, o->top_k, tokens->n, tokens->codes, scores);
    else if (o->kind == SMOE_ROUTER_BASE && training)
        smoe_balancer_assign(r->balancer, tokens->n, scores);
    else
        return false;
    return true;
}

double smoe_router_learn(struct smoe_router *r, const struct smoe_tokens *tokens,
                         const uint16_t *top)
{
    if (smoe_router_stage(r) != 1)
        return 0;
    return smoe_distilled_learn(&r->distilled, tokens, r->options.top_k, top,
                                r->options.distil_weight);
}

void smoe_router_step(struct smoe_router *r, const struct smoe_optimizer *optimizer)
{
    if (smoe_router_stage(r) == 1)
        smoe_distilled_step(&r->distilled, optimizer);
}

/* In stage 2 there is room for what tokens are read into, always. */
static int begin_stage_2(struct smoe_router *r, int rc)
{
    if (rc == 0)
        rc = smoe_frozen_tokens_init(&r->read, &r->frozen, r->options.rows_max);
    if (rc)
        smoe_frozen_release(&r->frozen);
    return rc;
}

int smoe_router_freeze(struct smoe_router *r)
{
    smoe_assert(smoe_router_stage(r) == 1);
    return begin_stage_2(r, smoe_freeze_distilled(&r->distilled, &r->frozen));
}

int smoe_router_take_frozen(struct smoe_router *r, const float *values)
{
    const struct smoe_distilled_shape *shape = &r->distilled.shape;
    smoe_assert(smoe_router_stage(r) == 1);
    return begin_stage_2(r, smoe_frozen_init(&r->frozen, smoe_frozen_kind_of(shape->feature),
                                             shape->inputs, shape->experts, values));
}
