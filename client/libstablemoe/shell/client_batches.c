/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches on their way to the experts and back, and the step that commits them. A public ticket wraps
 * the uplink's and adds the client, whose loop runs while somebody waits for it.
 */
#include <stdlib.h>

#include "client/libstablemoe/shell/client.h"

/* ---- batches ---- */

/* A public ticket is the uplink's; the client is found through the shell that made the uplink. */
struct smoe_ticket {
    struct smoe_list link; /* in its client */
    struct smoe_uplink_ticket *ticket;
    struct smoe_client *client;
    void (*on_done)(void *context, struct smoe_ticket *ticket, int status);
    void *context;
};

static void relay_done(void *context, void *ticket, int status)
{
    struct smoe_ticket *t = context;
    (void)ticket;
    if (t->on_done)
        t->on_done(t->context, t, status);
}

SMOE_API int smoe_submit(struct smoe_expert_layer *layer, const struct smoe_submit_options *o,
                         struct smoe_ticket **ret_ticket)
{
    struct smoe_client *c = layer->client;
    struct smoe_ticket *t = calloc(1, sizeof *t);
    if (!t)
        return smoe_fail(&c->why, SMOE_ENOMEMORY, "out of memory");
    *t = (struct smoe_ticket){.client = c, .on_done = o->on_done, .context = o->context};
    struct smoe_uplink_submit submit = {
        .layer = layer->number,
        .tokens = o->tokens,
        .top_k = o->top_k,
        .scores = o->scores,
        .codes = o->codes,
        .features = o->features,
        .x = o->x,
        .evaluate = o->evaluate,
        .on_done = relay_done,
        .context = t,
    };
    int rc = smoe_uplink_submit(c->uplink, &submit, &t->ticket, &c->why);
    if (rc) {
        free(t);
        return rc;
    }
    smoe_list_push_back(&c->tickets, &t->link);
    smoe_client_flush(c);
    *ret_ticket = t;
    return 0;
}

static bool has_outcome(struct smoe_client *c, void *what)
{
    const struct smoe_uplink_ticket *t = what;
    (void)c;
    return t->has_results || t->state == SMOE_TICKET_FAILED;
}

static int outcome(struct smoe_client *c, const struct smoe_uplink_ticket *t)
{
    return t->state == SMOE_TICKET_FAILED ? smoe_fail(&c->why, t->code, "%s", t->why.text) : 0;
}

SMOE_API int smoe_wait(struct smoe_ticket *t)
{
    int rc = smoe_client_wait(t->client, has_outcome, t->ticket);
    return rc ? rc : outcome(t->client, t->ticket);
}

SMOE_API const smoe_real *smoe_ticket_outputs(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->y : NULL;
}

SMOE_API const uint16_t *smoe_ticket_experts(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->experts : NULL;
}

SMOE_API const float *smoe_ticket_scores(const struct smoe_ticket *t)
{
    return t->ticket->has_results ? t->ticket->scores : NULL;
}

SMOE_API int smoe_gradient(struct smoe_ticket *t, const smoe_real *dy)
{
    int rc = smoe_uplink_gradient(t->ticket, dy, &t->client->why);
    smoe_client_flush(t->client);
    return rc;
}

static bool has_gradient(struct smoe_client *c, void *what)
{
    const struct smoe_uplink_ticket *t = what;
    (void)c;
    return t->has_input_gradient || t->state == SMOE_TICKET_FAILED;
}

SMOE_API int smoe_wait_gradient(struct smoe_ticket *t, const smoe_real **ret_dx)
{
    if (!t->ticket->dy && !t->ticket->has_input_gradient && t->ticket->state != SMOE_TICKET_FAILED)
        return smoe_fail(&t->client->why, SMOE_ESTATE, "wait_gradient: no gradient was given");
    int rc = smoe_client_wait(t->client, has_gradient, t->ticket);
    if (rc == 0)
        rc = outcome(t->client, t->ticket);
    if (rc == 0)
        *ret_dx = t->ticket->dx;
    return rc;
}

SMOE_API void smoe_ticket_release(struct smoe_ticket *t)
{
    if (!t)
        return;
    smoe_uplink_ticket_release(t->ticket);
    smoe_client_flush(t->client);
    smoe_list_remove(&t->link);
    free(t);
}

void smoe_client_free_tickets(struct smoe_client *c)
{
    smoe_list_for_each_safe (it, &c->tickets)
        free(smoe_container_of(it, struct smoe_ticket, link));
}

/* ---- step ---- */

SMOE_API int smoe_step_begin(struct smoe_client *c, const struct smoe_step_options *o)
{
    struct smoe_msg_step m = {
        .optimizer = {.kind = (uint32_t)o->kind,
                      .learning_rate = o->learning_rate,
                      .momentum = o->momentum,
                      .beta1 = o->beta1,
                      .beta2 = o->beta2,
                      .epsilon = o->epsilon,
                      .weight_decay = o->weight_decay},
        .gradient_divisor = o->gradient_divisor,
        .clip_norm = o->clip_norm,
        .dense_square_norm = o->dense_square_norm,
    };
    int rc = smoe_uplink_step(c->uplink, &m, &c->why);
    smoe_client_flush(c);
    return rc;
}

static bool is_stepped(struct smoe_client *c, void *what)
{
    (void)what;
    return !smoe_uplink_step_state(c->uplink)->pending;
}

SMOE_API int smoe_step_wait(struct smoe_client *c, struct smoe_step_result *ret)
{
    int rc = smoe_client_wait(c, is_stepped, NULL);
    if (rc)
        return rc;
    const struct smoe_step_state *s = smoe_uplink_step_state(c->uplink);
    if (!s->done)
        return smoe_fail(&c->why, SMOE_ESTATE, "step_wait: no step was begun");
    if (s->code)
        rc = smoe_fail(&c->why, s->code, "%s", s->why.text);
    else if (ret)
        *ret =
            (struct smoe_step_result){s->result.step, s->result.clip_scale, s->result.square_norm};
    smoe_uplink_step_taken(c->uplink);
    return rc;
}

SMOE_API int smoe_step(struct smoe_client *c, const struct smoe_step_options *options,
                       struct smoe_step_result *ret_result)
{
    int rc = smoe_step_begin(c, options);
    return rc ? rc : smoe_step_wait(c, ret_result);
}
