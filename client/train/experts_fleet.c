/* SPDX-License-Identifier: Apache-2.0
 *
 * libstablemoe's tickets, one a part. An error's sentence is the library's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/train/experts.h"
#include "common/base/limits.h"

struct fleet {
    struct smoe_experts base; /* the first member */
    struct smoe_client *client;
    struct smoe_expert_layer *layer;
    uint32_t top_k;
    size_t n_parts;
    struct smoe_ticket **tickets; /* [n_parts] */
};

static struct fleet *self_of(struct smoe_experts *e)
{
    return (struct fleet *)(void *)e;
}

static int say(const struct fleet *f, int rc, struct smoe_why *why)
{
    return rc ? smoe_fail(why, rc, "%s", smoe_client_error(f->client)) : 0;
}

static int submit(struct smoe_experts *e, size_t part, const struct smoe_experts_batch *batch,
                  struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    struct smoe_submit_options o = {
        .tokens = (uint32_t)batch->n,
        .top_k = f->top_k,
        .scores = batch->scores,
        .codes = batch->scores ? NULL : batch->tokens->codes,
        .features = batch->scores ? NULL : batch->tokens->features,
        .x = batch->x,
        .evaluate = batch->evaluate,
    };
    return say(f, smoe_submit(f->layer, &o, &f->tickets[part]), why);
}

static int wait_forward(struct smoe_experts *e, size_t part, const uint16_t **ret_experts,
                        const smoe_real **ret_y, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    int rc = smoe_wait(f->tickets[part]);
    if (rc)
        return say(f, rc, why);
    *ret_experts = smoe_ticket_experts(f->tickets[part]);
    *ret_y = smoe_ticket_outputs(f->tickets[part]);
    return 0;
}

static int backward(struct smoe_experts *e, size_t part, const smoe_real *dy, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_gradient(f->tickets[part], dy), why);
}

static int wait_backward(struct smoe_experts *e, size_t part, const smoe_real **ret_dx,
                         struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_wait_gradient(f->tickets[part], ret_dx), why);
}

static void done(struct smoe_experts *e, size_t part)
{
    struct fleet *f = self_of(e);
    smoe_ticket_release(f->tickets[part]);
    f->tickets[part] = NULL;
}

static int step_begin(struct smoe_experts *e, const struct smoe_step_options *options,
                      struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_step_begin(f->client, options), why);
}

static int step_wait(struct smoe_experts *e, struct smoe_step_result *ret, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_step_wait(f->client, ret), why);
}

static int fetch(struct smoe_experts *e, uint32_t expert, smoe_real *ret_state,
                 struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    unsigned parts = SMOE_EXPERT_WEIGHTS | SMOE_EXPERT_MOMENTS;
    return say(f, smoe_expert_fetch(f->layer, expert, parts, ret_state), why);
}

static int restore(struct smoe_experts *e, uint64_t to, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_restore(f->client, to), why);
}

static int store(struct smoe_experts *e, uint32_t expert, const smoe_real *state,
                 struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_expert_store(f->layer, expert, state), why);
}

/* A run freezes once; it is a new layer when it is resumed. */
static int freeze(struct smoe_experts *e, const struct smoe_frozen *router, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    struct smoe_freeze_options o = {.version = 1,
                                    .kind = (enum smoe_frozen_kind)router->kind,
                                    .inputs = router->inputs,
                                    .values = router->values};
    return say(f, smoe_freeze(f->layer, &o, NULL), why);
}

static int placement(struct smoe_experts *e, const struct smoe_placement **ret,
                     struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_placement_fetch(f->layer, ret), why);
}

static bool same_plan(const struct smoe_placement *a, const struct smoe_placement *b)
{
    if (a->n_workers != b->n_workers || a->n_slots != b->n_slots)
        return false;
    for (uint32_t i = 0, q = 0; i < a->n_workers; q += a->slots[i++]) {
        uint32_t k = 0, r = 0;
        for (; k < b->n_workers && strcmp(a->workers[i], b->workers[k]) != 0; k++)
            r += b->slots[k];
        if (k == b->n_workers || a->slots[i] != b->slots[k] ||
            memcmp(a->experts + q, b->experts + r, a->slots[i] * sizeof *a->experts) != 0)
            return false;
    }
    return true;
}

static int place(struct smoe_experts *e, const struct smoe_placement *wanted, bool *ret_kept,
                 struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    const struct smoe_placement *in_force;
    int rc = smoe_placement_store(f->layer, wanted, &in_force);
    if (rc == 0)
        *ret_kept = in_force->n_workers && same_plan(wanted, in_force);
    return say(f, rc, why);
}

static int report(struct smoe_experts *e, const struct smoe_routing_report *r, struct smoe_why *why)
{
    struct fleet *f = self_of(e);
    return say(f, smoe_report_routing(f->layer, r), why);
}

static void close_fleet(struct smoe_experts *e)
{
    struct fleet *f = self_of(e);
    for (size_t i = 0; f->tickets && i < f->n_parts; i++)
        smoe_ticket_release(f->tickets[i]);
    smoe_client_close(f->client);
    free(f->tickets);
    free(f);
}

static int join(struct fleet *f, const struct smoe_train_options *o, struct smoe_why *why)
{
    struct smoe_client_options client = {.gateway = o->gateway,
                                         .name = *o->name ? o->name : NULL,
                                         .key_file = *o->key ? o->key : NULL,
                                         .patience_ms = (uint32_t)(o->patience_ns / 1000000)};
    struct smoe_layer_options layer = {
        .name = o->layer,
        .experts = (uint32_t)o->experts,
        .d_model = (uint32_t)o->d_model,
        .d_ff = (uint32_t)o->d_ff,
        .activation = (enum smoe_layer_activation)(o->activation + 1),
        .optimizer = o->optimizer == 0 ? SMOE_LAYER_ADAMW : SMOE_LAYER_SGD,
        .seed = o->seed,
        .zero_output = true,
        .wire = (enum smoe_layer_wire)o->wire,
        .staleness = (uint32_t)o->staleness,
    };
    int rc = smoe_client_open(&client, &f->client);
    if (rc == 0)
        rc = smoe_layer_declare(f->client, &layer, &f->layer);
    return say(f, rc, why);
}

int smoe_experts_open_fleet(const struct smoe_train_options *o, struct smoe_experts **ret,
                            struct smoe_why *why)
{
    static const struct smoe_experts_ops ops = {.submit = submit,
                                                .wait = wait_forward,
                                                .backward = backward,
                                                .wait_backward = wait_backward,
                                                .done = done,
                                                .step_begin = step_begin,
                                                .step_wait = step_wait,
                                                .fetch = fetch,
                                                .restore = restore,
                                                .store = store,
                                                .freeze = freeze,
                                                .placement = placement,
                                                .place = place,
                                                .report = report,
                                                .close = close_fleet};
    struct fleet *f = calloc(1, sizeof *f);
    if (!f)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    f->base.ops = &ops;
    f->top_k = (uint32_t)o->top_k;
    f->n_parts = o->parts;
    f->tickets = calloc(o->parts, sizeof *f->tickets);
    int rc = f->tickets ? join(f, o, why) : smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    if (rc) {
        close_fleet(&f->base);
        return rc;
    }
    f->base.n_params = smoe_expert_params(f->layer);
    snprintf(f->base.policy, sizeof f->base.policy, "%s", smoe_client_policy(f->client));
    *ret = &f->base;
    return 0;
}
