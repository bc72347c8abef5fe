/* SPDX-License-Identifier: Apache-2.0
 *
 * The link and its messages.
 *
 *     DOWN --connected: Hello--> HELLO --Welcome--> UP
 *       ^___________________________|_______________|  disconnected: everything uncommitted starts over
 *
 * After every event `pump` sends what may be sent, in this order: layer declarations; when all layers
 * are ready, a Restore that the gateway may not have heard of, and routers to be frozen; batches (as credit allows,
 * those that a frozen router scores when it is in force) and gradients; then the pending step, when all gradients it
 * commits are out; then expert-state requests. So whatever was lost, the same few rules bring the
 * gateway up to date.
 */
#include "client/libstablemoe/core/uplink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "common/base/assert.h"

#define OUTBOX_BYTES_MAX SIZE_MAX / 2 /* what waits is what the caller submitted: its own memory */

int smoe_uplink_new(const struct smoe_uplink_options *options, struct smoe_uplink **ret)
{
    struct smoe_uplink *u = malloc(sizeof *u);
    if (!u)
        return SMOE_ENOMEMORY;
    memset(u, 0, offsetof(struct smoe_uplink, layers));
    u->options = *options;
    u->budget.max_bytes = SIZE_MAX / 2;
    u->next_batch = 1;
    smoe_list_init(&u->tickets);
    if (smoe_wire_new(&u->wire)) {
        free(u);
        return SMOE_ENOMEMORY;
    }
    *ret = u;
    return 0;
}

void smoe_uplink_free(struct smoe_uplink *u)
{
    if (!u)
        return;
    smoe_list_for_each_safe (it, &u->tickets)
        smoe_ticket_free(smoe_container_of(it, struct smoe_uplink_ticket, link));
    for (uint32_t i = 0; i < SMOE_REQUESTS_MAX; i++)
        smoe_blob_unref(u->requests[i].values);
    smoe_routers_release(u);
    smoe_placements_release(u);
    if (u->link != SMOE_ULINK_DOWN)
        smoe_channel_release(&u->channel);
    smoe_wire_free(u->wire);
    free(u);
}

/* ---- link ---- */

int smoe_uplink_send(struct smoe_uplink *u, const struct smoe_message *message,
                     const struct smoe_segment *segments, size_t n_segments)
{
    int rc = smoe_channel_send(&u->channel, message, segments, n_segments);
    u->speechless |= rc == SMOE_ENOMEMORY;
    return rc;
}

bool smoe_uplink_speechless(const struct smoe_uplink *u)
{
    return u->speechless;
}

void smoe_uplink_connected(struct smoe_uplink *u)
{
    smoe_assert(u->link == SMOE_ULINK_DOWN);
    u->link = SMOE_ULINK_HELLO;
    u->speechless = false;
    smoe_channel_init(&u->channel, u->wire, &u->budget, SMOE_TO_TRAINER, OUTBOX_BYTES_MAX);
    u->channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){.protocol_min = SMOE_PROTOCOL_MIN,
                                      .protocol_max = SMOE_PROTOCOL_MAX,
                                      .role = SMOE_ROLE_TRAINER,
                                      .incarnation = u->options.incarnation};
    memcpy(m.hello.name, u->options.name, sizeof m.hello.name);
    memcpy(m.hello.software, u->options.software, sizeof m.hello.software);
    (void)smoe_uplink_send(u, &m, NULL, 0);
}

static void start_over(struct smoe_uplink *u)
{
    smoe_tickets_start_over(u);
    u->step.sent = false;
}

void smoe_uplink_disconnected(struct smoe_uplink *u)
{
    if (u->link == SMOE_ULINK_DOWN)
        return;
    smoe_channel_release(&u->channel);
    u->link = SMOE_ULINK_DOWN;
    for (uint32_t l = 0; l < u->n_layers; l++) {
        u->layers[l].asked = false;
        if (u->layers[l].state == SMOE_ULAYER_READY)
            u->layers[l].state = SMOE_ULAYER_WANTED;
    }
    u->restore_sent = false;
    smoe_requests_start_over(u);
    smoe_routers_start_over(u);
    smoe_placements_start_over(u);
    start_over(u);
}

bool smoe_uplink_welcomed(const struct smoe_uplink *u)
{
    return u->link == SMOE_ULINK_UP;
}

void smoe_uplink_leave(struct smoe_uplink *u, const char *reason)
{
    struct smoe_message m = {.type = SMOE_MSG_BYE};
    if (u->link != SMOE_ULINK_UP)
        return;
    snprintf(m.bye.reason, sizeof m.bye.reason, "%s", reason);
    (void)smoe_uplink_send(u, &m, NULL, 0);
}

uint8_t *smoe_uplink_direct(const struct smoe_uplink *u, size_t *ret_room)
{
    return u->link == SMOE_ULINK_DOWN ? NULL : smoe_channel_direct(&u->channel, ret_room);
}

size_t smoe_uplink_peek(const struct smoe_uplink *u, struct iovec *iovecs, size_t max)
{
    return u->link == SMOE_ULINK_DOWN ? 0 : smoe_outbox_peek(&u->channel.out, iovecs, max);
}

void smoe_uplink_consume(struct smoe_uplink *u, size_t bytes)
{
    smoe_outbox_consume(&u->channel.out, bytes);
}

int smoe_uplink_failed(const struct smoe_uplink *u, const char **ret_sentence)
{
    *ret_sentence = u->failure.text;
    return u->failed;
}

void smoe_uplink_pump(struct smoe_uplink *u)
{
    if (u->link != SMOE_ULINK_UP || u->failed)
        return;
    smoe_layers_pump(u);
    if (!smoe_layers_ready(u))
        return;
    smoe_restore_pump(u);
    smoe_routers_pump(u);
    smoe_placements_pump(u);
    smoe_tickets_pump(u);
    smoe_step_pump(u);
    smoe_requests_pump(u);
}

/* ---- messages ---- */

static void on_welcome(struct smoe_uplink *u, const struct smoe_msg_welcome *m)
{
    u->link = SMOE_ULINK_UP;
    memcpy(u->policy, m->policy, sizeof u->policy);
    u->attempt = m->attempt;
    u->tensor_bytes_max = u->channel.tensor_bytes_max = m->tensor_bytes_max;
    u->iteration_bytes_max = m->iteration_bytes_max;
    u->granted = u->window = m->credit;
    u->sent = (struct smoe_msg_credit){0};
}

/* Errors after which trying again is no use. */
static bool is_final(int code)
{
    switch (code) {
    case SMOE_EDRAINING: /* it will be back */
    case SMOE_ETIMEOUT:
    case SMOE_ENOMEMORY:
        return false;
    default:
        return true;
    }
}

/* A step without one of its batches is not the step that was asked for: the pending one fails with it, and
 * so does the next if nobody has the ticket any more to see what became of it. */
static void fail_batch(struct smoe_uplink *u, struct smoe_uplink_ticket *t,
                       const struct smoe_msg_error *m)
{
    bool unseen = t->released, training = !t->evaluate;
    uint64_t step = t->step;
    smoe_ticket_fail(t, m->code, m->message);
    if (training && u->step.pending && step == u->step.message.step)
        (void)smoe_request_failed(u, step, m->code, m->message);
    else if (training && unseen)
        u->spoilt =
            smoe_fail(&u->spoilt_why, m->code, "step: a batch of it failed: %s", m->message);
}

static int on_error(struct smoe_uplink *u, const struct smoe_msg_error *m, struct smoe_why *why)
{
    struct smoe_uplink_ticket *ticket = m->batch ? smoe_ticket_find(u, m->batch) : NULL;
    if (ticket)
        fail_batch(u, ticket, m);
    else if (m->request)
        (void)smoe_request_failed(u, m->request, m->code, m->message);
    if (!m->fatal)
        return 0;
    if (is_final(m->code)) {
        u->failed = m->code;
        smoe_fail(&u->failure, m->code, "gateway: %s", m->message);
    }
    return smoe_fail(why, m->code, "gateway: %s", m->message);
}

static int expect(void *context, const struct smoe_message *m, size_t bytes, struct smoe_why *why)
{
    struct smoe_uplink *u = context;
    if (m->type == SMOE_MSG_EXPERT_STATE)
        return smoe_request_expect(u, &m->expert_state, bytes, why);
    return smoe_ticket_expect(u, m, bytes, why);
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct smoe_uplink *u = context;
    if (u->link == SMOE_ULINK_HELLO && m->type != SMOE_MSG_WELCOME && m->type != SMOE_MSG_ERROR)
        return smoe_fail(why, SMOE_ESTATE, "%s: before WELCOME",
                         smoe_message_name((uint16_t)m->type));
    switch ((unsigned)m->type) {
    case SMOE_MSG_WELCOME:
        on_welcome(u, &m->welcome);
        return 0;
    case SMOE_MSG_LAYER_READY:
        smoe_layer_answered(u, &m->layer_ready);
        return 0;
    case SMOE_MSG_RESULT:
        return smoe_ticket_result(u, &m->result, blob, why);
    case SMOE_MSG_INPUT_GRADIENT:
        return smoe_ticket_input_gradient(u, &m->input_gradient, blob, why);
    case SMOE_MSG_NEED_INPUTS:
        return smoe_ticket_inputs(u, &m->need_inputs);
    case SMOE_MSG_STEP_DONE:
        smoe_uplink_restored(u);
        smoe_step_answered(u, &m->step_done);
        return 0;
    case SMOE_MSG_CREDIT:
        u->granted = m->credit;
        return 0;
    case SMOE_MSG_NEED:
        u->attempt = m->need.attempt;
        start_over(u);
        return 0;
    case SMOE_MSG_EXPERT_STATE:
        if (m->expert_state.length)
            smoe_request_piece(u, &m->expert_state, blob);
        else
            smoe_request_answered(u, m->expert_state.request, blob);
        return 0;
    case SMOE_MSG_EXPERT_STORED:
        smoe_uplink_restored(u);
        smoe_request_answered(u, m->expert_stored.request, NULL);
        return 0;
    case SMOE_MSG_ROUTER_STATE:
        smoe_routers_answered(u, &m->router_state);
        return 0;
    case SMOE_MSG_PLACEMENT:
        smoe_placements_answered(u, &m->placement);
        return 0;
    case SMOE_MSG_PING: {
        struct smoe_message pong = {.type = SMOE_MSG_PONG};
        pong.pong.nonce = m->ping.nonce;
        return smoe_uplink_send(u, &pong, NULL, 0);
    }
    case SMOE_MSG_BYE:
        return smoe_fail(why, SMOE_ECLOSED, "gateway says goodbye: %s", m->bye.reason);
    case SMOE_MSG_ERROR:
        return on_error(u, &m->error, why);
    default:
        return 0; /* PONG */
    }
}

int smoe_uplink_received(struct smoe_uplink *u, const uint8_t *data, size_t n, struct smoe_why *why)
{
    struct smoe_channel_owner owner = {u, expect, deliver};
    if (u->link == SMOE_ULINK_DOWN)
        return smoe_fail(why, SMOE_ESTATE, "not connected");
    int rc = smoe_channel_receive(&u->channel, data, n, &owner, why);
    if (rc == 0)
        smoe_uplink_pump(u);
    return rc;
}

const char *smoe_uplink_policy(const struct smoe_uplink *u)
{
    return u->policy;
}

uint64_t smoe_uplink_attempt(const struct smoe_uplink *u)
{
    return u->attempt;
}

void smoe_uplink_check(const struct smoe_uplink *u)
{
    uint32_t n = 0;
    uint64_t last = 0;
    smoe_list_for_each (it, &u->tickets) {
        const struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        uint64_t visits = (uint64_t)t->tokens * t->top_k;
        n++;
        smoe_assert(t->batch > last && t->visits_in <= visits && t->gradients_in <= t->visits_in);
        smoe_assert(t->state < SMOE_TICKET_RESULTS || t->state == SMOE_TICKET_FAILED ||
                    t->has_results);
        last = t->batch;
    }
    smoe_assert(n == u->n_tickets);
    smoe_assert(u->sent.bytes_total <= u->granted.bytes_total || u->link != SMOE_ULINK_UP);
}
