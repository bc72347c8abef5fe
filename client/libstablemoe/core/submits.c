/* SPDX-License-Identifier: Apache-2.0
 *
 * A new batch: what the caller gives is checked here, in words that name it, and copied: it may have to be
 * sent more than once.
 */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "common/base/within.h"

static int check_scores(const float *scores, size_t tokens, size_t experts, struct smoe_why *why)
{
    size_t good = 0;
    if (smoe_within_f32(scores, tokens * experts, FLT_MAX))
        return 0;
    while (smoe_within_f32(&scores[good], 1, FLT_MAX))
        good++;
    return smoe_fail(why, SMOE_ENOTFINITE, "submit: score of token %zu, expert %zu is not finite",
                     good / experts, good % experts);
}

static int check_submit(const struct smoe_uplink *u, const struct smoe_uplink_submit *o,
                        struct smoe_why *why)
{
    const struct smoe_uplink_layer *layer = &u->layers[o->layer];
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (o->layer >= u->n_layers || layer->state == SMOE_ULAYER_FAILED)
        return smoe_fail(why, SMOE_EUNKNOWN, "submit: no such layer");
    if (!o->tokens || o->tokens > SMOE_BATCH_TOKENS_MAX)
        return smoe_fail(why, SMOE_EFIELD, "submit: tokens %u: not in 1..%d", o->tokens,
                         SMOE_BATCH_TOKENS_MAX);
    uint32_t k_max = layer->shape.experts < SMOE_TOP_K_MAX ? layer->shape.experts : SMOE_TOP_K_MAX;
    if (!o->top_k || o->top_k > k_max)
        return smoe_fail(why, SMOE_EFIELD,
                         "submit: top_k %u: not in 1..%u (layer %s has %u experts)", o->top_k,
                         k_max, layer->name, layer->shape.experts);
    if (layer->evaluate_only && !o->evaluate)
        return smoe_fail(why, SMOE_EROLE, "submit: layer %s is attached for evaluation only",
                         layer->name);
    if (u->n_tickets == SMOE_TICKETS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "submit: %d tickets exist: release some",
                         SMOE_TICKETS_MAX);
    return o->scores ? check_scores(o->scores, o->tokens, layer->shape.experts, why)
                     : smoe_routers_check(u, o, why);
}

/* In front of x. */
static size_t choice_bytes(const struct smoe_uplink_layer *layer,
                           const struct smoe_uplink_submit *o)
{
    return o->scores ? (size_t)o->tokens * layer->shape.experts * sizeof(float)
                     : smoe_frozen_bytes(&layer->router.head, o->tokens);
}

static void fill_choice(struct smoe_uplink_ticket *t, const struct smoe_uplink_layer *layer,
                        const struct smoe_uplink_submit *o)
{
    size_t features = (size_t)o->tokens * layer->router.head.inputs * sizeof(float);
    if (o->scores) {
        memcpy(t->submit->data, o->scores, t->x_offset);
        return;
    }
    memset(t->submit->data + t->x_offset - 8, 0, 8); /* the padding */
    if (o->codes)
        memcpy(t->submit->data, o->codes, o->tokens * sizeof *o->codes);
    else
        memcpy(t->submit->data, o->features, features);
    t->router_version = layer->router.head.version;
    t->router_digest = layer->router.head.digest;
}

static bool allocate(struct smoe_uplink_ticket *t, size_t choices)
{
    size_t row = smoe_ticket_row_bytes(t), visits = smoe_ticket_visits(t);
    t->x_offset = choices;
    t->submit = smoe_blob_new(&t->uplink->budget, t->x_offset + t->tokens * row);
    t->y = malloc(visits * row);
    t->experts = calloc(visits, sizeof *t->experts);
    t->scores = calloc(visits, sizeof *t->scores);
    t->seen = calloc(visits, 1);
    return t->submit && t->y && t->experts && t->scores && t->seen;
}

/* While its caller has not taken the answer of a step, though it may be here: so it does not depend on the network by
 * which weights a batch is computed. */
static bool goes_ahead(const struct smoe_uplink *u, const struct smoe_uplink_submit *o)
{
    bool between = u->step.pending || (u->step.done && !u->step.code);
    return between && !o->evaluate && u->layers[o->layer].shape.staleness;
}

int smoe_uplink_submit(struct smoe_uplink *u, const struct smoe_uplink_submit *o,
                       struct smoe_uplink_ticket **ret, struct smoe_why *why)
{
    int rc = check_submit(u, o, why);
    if (rc)
        return rc;
    struct smoe_uplink_ticket *t = calloc(1, sizeof *t);
    if (!t)
        return smoe_fail(why, SMOE_ENOMEMORY, "submit: out of memory");
    t->uplink = u;
    t->batch = u->next_batch++;
    t->step = u->steps + 1 + (u->step.pending ? 1 : 0);
    t->layer = o->layer;
    t->tokens = o->tokens;
    t->top_k = o->top_k;
    t->evaluate = o->evaluate;
    t->ahead = goes_ahead(u, o);
    t->base = t->ahead ? u->step.message.step - 1 : 0;
    t->on_done = o->on_done;
    t->context = o->context;
    smoe_list_push_back(&u->tickets, &t->link);
    u->n_tickets++;
    if (!allocate(t, choice_bytes(&u->layers[o->layer], o))) {
        smoe_ticket_free(t);
        return smoe_fail(why, SMOE_ENOMEMORY, "submit: out of memory for %u tokens", o->tokens);
    }
    fill_choice(t, &u->layers[o->layer], o);
    memcpy(t->submit->data + t->x_offset, o->x, t->tokens * smoe_ticket_row_bytes(t));
    *ret = t;
    smoe_uplink_pump(u);
    return 0;
}
