/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions.
 *
 *     FREE -> HELLO -> OPEN --> CLOSING -> FREE
 *               \\____________/^
 *                \--> ADMIN --/
 *
 * ADMIN: an administrator, with whom only the shell speaks; of it the core never hears.
 * CLOSING: the core has been told that the session is gone, what is queued may still be written, and
 * nothing more is read. A session gets there by the peer's mistake, by the core's word, by no hello in
 * time (or before its place was needed), or by not reading. That is often found while an update is being
 * carried out; the core is told when that is done (`unburied`): a core step would overwrite it.
 */
#include "daemon/gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/near.h"
#include "daemon/gateway/gateway_state.h"

/* ---- memory ---- */

int smoe_gateway_new(const struct smoe_gateway_options *options, struct smoe_gateway **ret,
                     struct smoe_why *why)
{
    struct smoe_gateway *gw = calloc(1, sizeof *gw);
    if (!gw)
        return smoe_fail(why, SMOE_ENOMEMORY, "gateway: out of memory");
    smoe_list_init(&gw->dirty);
    smoe_list_init(&gw->unburied);
    smoe_list_init(&gw->hellos);
    gw->options = *options;
    gw->budget.max_bytes = options->tensors_bytes_max;
    gw->n_sessions = smoe_core_sessions_max(&options->core.limits);
    gw->sessions = malloc(gw->n_sessions * sizeof *gw->sessions);
    gw->batches = calloc(options->core.limits.batches_max, sizeof *gw->batches);
    int rc = gw->sessions && gw->batches ? smoe_wire_new(&gw->wire) : SMOE_ENOMEMORY;
    if (rc)
        smoe_fail(why, rc, "gateway: out of memory");
    gw->options.core.journal = options->journal != NULL;
    if (!options->trace)
        gw->options.core.trace_bytes_max = 0;
    gw->options.core.links = options->core.links && options->draw;
    if (!rc)
        rc = smoe_core_new(&gw->options.core, &gw->core, why);
    if (!rc)
        rc = smoe_gate_routers_restore(gw, options->core.restored, why);
    gw->options.core.restored = NULL;
    if (rc) {
        smoe_gateway_free(gw);
        return rc;
    }
    gw->wake_ns = options->core.now_ns + options->core.settings.slot_ns;
    *ret = gw;
    return 0;
}

void smoe_gateway_free(struct smoe_gateway *gw)
{
    if (!gw)
        return;
    for (uint32_t s = 0; s < gw->reached; s++)
        if (gw->sessions[s].state != SMOE_GATE_FREE)
            smoe_channel_release(&gw->sessions[s].channel);
    for (uint32_t b = 0; gw->batches && b < gw->options.core.limits.batches_max; b++)
        smoe_relay_free_batch(&gw->batches[b]);
    free(gw->sessions);
    free(gw->batches);
    smoe_gate_routers_release(gw);
    smoe_wire_free(gw->wire);
    smoe_core_free(gw->core);
    free(gw);
}

uint32_t smoe_gateway_sessions_max(const struct smoe_gateway *gw)
{
    return gw->n_sessions;
}

/* ---- closing ---- */

void smoe_gate_mark_dirty(struct smoe_gateway *gw, struct smoe_gate_session *s)
{
    if (!smoe_list_linked(&s->dirty_link))
        smoe_list_push_back(&gw->dirty, &s->dirty_link);
}

static void begin_closing(struct smoe_gateway *gw, struct smoe_gate_session *s, const char *reason)
{
    smoe_gate_leave_hellos(gw, s);
    gw->n_admins -= s->state == SMOE_GATE_ADMIN;
    s->state = SMOE_GATE_CLOSING;
    if (reason)
        snprintf(s->reason, sizeof s->reason, "%s", reason);
    smoe_gate_mark_dirty(gw, s);
}

/* The session ends; the core, if it knows it, hears of it when the present update has been carried out.
 * `reason` NULL: it is known already, from the Error or Bye that went before. */
void smoe_gate_doom(struct smoe_gateway *gw, struct smoe_gate_session *s, const char *reason)
{
    if (s->state == SMOE_GATE_CLOSING || s->state == SMOE_GATE_FREE)
        return;
    if (s->state == SMOE_GATE_OPEN)
        smoe_list_push_back(&gw->unburied, &s->unburied_link);
    begin_closing(gw, s, reason);
}

/* ---- carrying out updates ---- */

/* Something was queued for the session, or could not be. */
static void queued(struct smoe_gateway *gw, struct smoe_gate_session *s, int rc)
{
    if (rc == 0) {
        smoe_gate_mark_dirty(gw, s);
    } else if (rc == SMOE_ELIMIT) {
        gw->slow_peers++;
        smoe_gate_doom(gw, s, SMOE_GATE_DEAF);
    } else {
        smoe_gate_doom(gw, s, smoe_strerror(rc));
    }
}

/* Sends the credit that is held for the session, unless too much waits for it there. Totals must not fall, so that
 * there is one way for all of them. SMOE_ENOMEMORY: it is held still, and the next tick tries again. */
static int give_credit(struct smoe_gateway *gw, struct smoe_gate_session *s)
{
    if (!s->credit_is_held || s->state != SMOE_GATE_OPEN ||
        s->channel.out.bytes > gw->options.outbox_bytes_max / 4)
        return 0;
    struct smoe_message credit = {.type = SMOE_MSG_CREDIT};
    credit.credit = s->held_credit;
    int rc = smoe_channel_send(&s->channel, &credit, NULL, 0);
    s->credit_is_held = rc != 0;
    gw->credit_is_late |= rc != 0;
    if (rc == 0)
        smoe_gate_mark_dirty(gw, s);
    return rc;
}

static void give_late_credit(struct smoe_gateway *gw)
{
    gw->credit_is_late = false;
    for (uint32_t i = 0; i < gw->reached; i++)
        (void)give_credit(gw, &gw->sessions[i]);
}

static void send_message(struct smoe_gateway *gw, const struct smoe_action *a,
                         struct smoe_blob *blob)
{
    if (a->session == SMOE_NO_SESSION)
        return; /* it has just left */
    struct smoe_gate_session *s = &gw->sessions[a->session];
    if (s->state == SMOE_GATE_CLOSING || s->state == SMOE_GATE_FREE)
        return;
    if (a->message.type == SMOE_MSG_CREDIT) {
        s->held_credit = a->message.credit; /* given when the peer has read what waits for it */
        s->credit_is_held = true;
        (void)give_credit(gw, s);
        return;
    }
    if (a->message.type == SMOE_MSG_ERROR && a->message.error.fatal)
        snprintf(s->reason, sizeof s->reason, "%s", a->message.error.message);
    if (a->message.type == SMOE_MSG_WELCOME)
        s->channel.tensor_bytes_max = a->message.welcome.tensor_bytes_max;
    struct smoe_segment segments[SMOE_SEGMENTS_MAX];
    size_t n_segments;
    int rc = smoe_relay_segments(gw, a, blob, segments, &n_segments);
    if (rc == 0)
        rc = smoe_channel_send(&s->channel, &a->message, segments, n_segments);
    smoe_relay_release(segments, n_segments);
    queued(gw, s, rc);
}

static void send_action(struct smoe_gateway *gw, const struct smoe_action *a,
                        struct smoe_blob *blob)
{
    if (a->message.type != SMOE_MSG_PEER) {
        send_message(gw, a, blob);
        return;
    }
    struct smoe_action keyed = *a;
    smoe_gate_key_link(gw, &keyed.message.peer);
    send_message(gw, &keyed, blob);
}

static void carry_out(struct smoe_gateway *gw, const struct smoe_action *a, struct smoe_blob *blob)
{
    switch (a->type) {
    case SMOE_ACT_SEND:
        send_action(gw, a, blob);
        break;
    case SMOE_ACT_CLOSE:
        smoe_gate_doom(gw, &gw->sessions[a->session], NULL);
        break;
    case SMOE_ACT_BATCH_TAKEN:
        smoe_relay_take_batch(gw, a->batch, blob);
        break;
    case SMOE_ACT_INPUT_FREED:
        smoe_relay_free_input(&gw->batches[a->batch]);
        break;
    case SMOE_ACT_INPUTS_TAKEN:
        smoe_relay_take_inputs(&gw->batches[a->batch], blob);
        break;
    case SMOE_ACT_GRADIENT_TAKEN:
        gw->batches[a->batch].gradient = smoe_blob_ref(blob);
        break;
    case SMOE_ACT_GRADIENT_FREED:
        smoe_blob_unref(gw->batches[a->batch].gradient);
        gw->batches[a->batch].gradient = NULL;
        break;
    case SMOE_ACT_BATCH_FREED:
        smoe_relay_free_batch(&gw->batches[a->batch]);
        break;
    case SMOE_ACT_DRAINED:
        gw->drained = true;
        break;
    case SMOE_ACT_JOURNAL:
        gw->options.journal(gw->options.journal_context, a->record, smoe_core_epoch(gw->core));
        break;
    case SMOE_ACT_ROUTER_TAKEN:
        smoe_gate_routers_take(gw, a->layer);
        break;
    case SMOE_ACT_ROUTER_IN_FORCE:
        smoe_gate_routers_put_in_force(gw, a->layer);
        break;
    case SMOE_ACT_ROUTER_FREED:
        smoe_gate_routers_free(gw, a->layer);
        break;
    case SMOE_ACT_TRACE:
        gw->options.trace(gw->options.trace_context, a->trace);
        break;
    }
}

/* A slot's Decisions go to sessions that have left the caches since the slot before. */
static void bring_near(const struct smoe_gateway *gw, const struct smoe_action *a)
{
    if (a->type == SMOE_ACT_SEND)
        smoe_bring_near(&gw->sessions[a->session], offsetof(struct smoe_gate_session, peer));
}

/* One core step and its consequences. `blob` is the raw part of the message in hand, or NULL. */
static void step_once(struct smoe_gateway *gw, const struct smoe_event *event,
                      struct smoe_blob *blob)
{
    struct smoe_update update;
    smoe_core_step(gw->core, event, &update);
    gw->core_moved = true;
    for (size_t i = 0; i < update.n_actions; i++) {
        if (i + 1 < update.n_actions)
            bring_near(gw, &update.actions[i + 1]);
        carry_out(gw, &update.actions[i], blob);
    }
    gw->wake_ns = update.wake_ns;
}

void smoe_gate_step(struct smoe_gateway *gw, const struct smoe_event *event, struct smoe_blob *blob)
{
    step_once(gw, event, blob);
    smoe_gate_make_room(gw);
    while (!smoe_list_empty(&gw->unburied)) {
        struct smoe_gate_session *s = smoe_container_of(smoe_list_first(&gw->unburied),
                                                        struct smoe_gate_session, unburied_link);
        smoe_list_remove(&s->unburied_link);
        struct smoe_event closed = {.type = SMOE_EVENT_CLOSED,
                                    .now_ns = event->now_ns,
                                    .session = (uint32_t)(s - gw->sessions),
                                    .code = s->code,
                                    .sentence = s->reason};
        step_once(gw, &closed, NULL);
    }
}

void smoe_gateway_journalled(struct smoe_gateway *gw, uint64_t sequence, uint64_t now_ns)
{
    struct smoe_event event = {
        .type = SMOE_EVENT_JOURNALLED, .now_ns = now_ns, .sequence = sequence};
    smoe_gate_step(gw, &event, NULL);
}

/* ---- messages ---- */

struct delivery {
    struct smoe_gateway *gw;
    struct smoe_gate_session *session;
    uint64_t now_ns;
};

static int expect(void *context, const struct smoe_message *message, size_t tensor_bytes,
                  struct smoe_why *why)
{
    struct delivery *d = context;
    uint32_t index = (uint32_t)(d->session - d->gw->sessions);
    if (d->session->state != SMOE_GATE_OPEN)
        return smoe_fail(why, SMOE_ESTATE, "%s: before HELLO",
                         smoe_message_name((uint16_t)message->type));
    struct smoe_verdict v = smoe_core_expect(d->gw->core, index, message, tensor_bytes, why);
    switch (v.kind) {
    case SMOE_TAKE:
        if (v.bytes == tensor_bytes)
            return 0;
        return smoe_fail(why, SMOE_ESHAPE, "%s: raw part of %zu bytes, expected %llu",
                         smoe_message_name((uint16_t)message->type), tensor_bytes,
                         (unsigned long long)v.bytes);
    case SMOE_REFUSE:
        queued(d->gw, d->session,
               smoe_channel_send_error(&d->session->channel, v.code, why->text, false, v.batch,
                                       v.request));
        break;
    case SMOE_IGNORE:
        break;
    case SMOE_FATAL:
        return v.code;
    }
    struct smoe_event tick = {.type = SMOE_EVENT_TICK, .now_ns = d->now_ns};
    smoe_gate_step(d->gw, &tick, NULL); /* credit that came back with the refusal */
    return SMOE_CHANNEL_SKIP;
}

static void hello(struct delivery *d, const struct smoe_message *message)
{
    struct smoe_gate_session *s = d->session;
    const struct smoe_msg_hello *m = &message->hello;
    bool worker = m->role == SMOE_ROLE_WORKER;
    smoe_gate_leave_hellos(d->gw, s);
    s->state = SMOE_GATE_OPEN;
    s->channel.peer_side = worker ? SMOE_BY_WORKER : SMOE_BY_TRAINER;
    s->channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    s->channel.peer_is_newer = m->protocol_max > SMOE_PROTOCOL_MAX;
    snprintf(s->peer, sizeof s->peer, "%s %s", worker ? "worker" : "trainer", m->name);
    struct smoe_event event = {.type = SMOE_EVENT_HELLO,
                               .now_ns = d->now_ns,
                               .session = (uint32_t)(s - d->gw->sessions),
                               .message = message};
    smoe_gate_step(d->gw, &event, NULL);
}

static int deliver(void *context, const struct smoe_message *message, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct delivery *d = context;
    struct smoe_gate_session *s = d->session;
    if (s->state == SMOE_GATE_CLOSING)
        return SMOE_ECLOSED; /* already answered */
    if ((message->type == SMOE_MSG_HELLO) != (s->state == SMOE_GATE_HELLO))
        return smoe_fail(why, SMOE_ESTATE, "%s: %s", smoe_message_name((uint16_t)message->type),
                         s->state == SMOE_GATE_HELLO ? "HELLO must come first" : "sent already");
    if (message->type == SMOE_MSG_HELLO) {
        int rc = smoe_gate_may_be(s, &message->hello, why);
        if (rc == 0)
            hello(d, message);
        return rc;
    }
    if (message->type == SMOE_MSG_ERROR || message->type == SMOE_MSG_BYE)
        snprintf(s->reason, sizeof s->reason, "%s",
                 message->type == SMOE_MSG_BYE ? message->bye.reason : message->error.message);
    struct smoe_event event = {.type = SMOE_EVENT_MESSAGE,
                               .now_ns = d->now_ns,
                               .session = (uint32_t)(s - d->gw->sessions),
                               .message = message,
                               .bad_numbers = !smoe_relay_good(d->gw, s, message, blob)};
    if (message->type == SMOE_MSG_SUBMIT) {
        int rc = smoe_relay_prepare_submit(d->gw, &message->submit, blob, &event, why);
        if (rc)
            return rc;
    }
    if (message->type == SMOE_MSG_FREEZE)
        smoe_gate_routers_prepare(d->gw, &message->freeze, blob, &event, why);
    smoe_gate_step(d->gw, &event, blob);
    smoe_relay_drop_unused_room(d->gw);
    smoe_gate_routers_drop_hand(d->gw);
    return 0;
}

/* ---- the transport's side ---- */

uint8_t *smoe_gateway_direct(const struct smoe_gateway *gw, uint32_t session, size_t *ret_room)
{
    return smoe_channel_direct(&gw->sessions[session].channel, ret_room);
}

void smoe_gateway_coming(const struct smoe_gateway *gw, uint32_t session)
{
    const struct smoe_gate_session *s = &gw->sessions[session];
    smoe_bring_near(s, offsetof(struct smoe_gate_session, peer));
    smoe_core_coming(gw->core, session);
}

void smoe_gateway_received(struct smoe_gateway *gw, uint32_t session, const uint8_t *data, size_t n,
                           uint64_t now_ns)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    struct delivery d = {gw, s, now_ns};
    struct smoe_channel_owner owner = {&d, expect, deliver};
    struct smoe_why why = {""};
    if (s->state == SMOE_GATE_CLOSING)
        return;
    smoe_core_heard(gw->core, session, now_ns); /* a long frame is no silence */
    int rc = smoe_channel_receive(&s->channel, data, n, &owner, &why);
    if (!rc || s->state == SMOE_GATE_CLOSING)
        return;
    smoe_channel_send_error(&s->channel, rc, why.text, true, 0, 0);
    s->code = rc;
    smoe_gate_doom(gw, s, why.text);
    struct smoe_event tick = {.type = SMOE_EVENT_TICK, .now_ns = now_ns};
    smoe_gate_step(gw, &tick, NULL);
}

void smoe_gateway_closed(struct smoe_gateway *gw, uint32_t session, uint64_t now_ns)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    smoe_assert(s->state != SMOE_GATE_FREE);
    gw->cut_off = gw->cut_off == s ? NULL : gw->cut_off;
    if (s->state != SMOE_GATE_CLOSING) {
        smoe_gate_doom(gw, s, "");
        struct smoe_event tick = {.type = SMOE_EVENT_TICK, .now_ns = now_ns};
        smoe_gate_step(gw, &tick, NULL);
    }
    gw->frames_in += s->channel.frames_in;
    gw->frames_out += s->channel.frames_out;
    gw->bytes_in += s->channel.bytes_in;
    gw->bytes_out += s->channel.bytes_out;
    smoe_channel_release(&s->channel);
    smoe_list_remove(&s->dirty_link);
    s->state = SMOE_GATE_FREE;
    gw->in_use--;
}

void smoe_gateway_tick(struct smoe_gateway *gw, uint64_t now_ns)
{
    smoe_gate_expire_hellos(gw, now_ns);
    if (gw->credit_is_late)
        give_late_credit(gw);
    struct smoe_event tick = {.type = SMOE_EVENT_TICK, .now_ns = now_ns};
    smoe_gate_step(gw, &tick, NULL);
}

bool smoe_gateway_next_dirty(struct smoe_gateway *gw, uint32_t *ret_session)
{
    struct smoe_list *first = smoe_list_first(&gw->dirty);
    if (!first)
        return false;
    smoe_list_remove(first);
    *ret_session =
        (uint32_t)(smoe_container_of(first, struct smoe_gate_session, dirty_link) - gw->sessions);
    return true;
}

size_t smoe_gateway_peek(const struct smoe_gateway *gw, uint32_t session, struct iovec *iovecs,
                         size_t max)
{
    return smoe_outbox_peek(&gw->sessions[session].channel.out, iovecs, max);
}

void smoe_gateway_consume(struct smoe_gateway *gw, uint32_t session, size_t bytes)
{
    struct smoe_gate_session *s = &gw->sessions[session];
    smoe_outbox_consume(&s->channel.out, bytes);
    s->channel.bytes_out += bytes;
    (void)give_credit(gw, s);
}

/* ---- the end ---- */

void smoe_gateway_goodbye(struct smoe_gateway *gw, const char *reason)
{
    struct smoe_message bye = {.type = SMOE_MSG_BYE};
    snprintf(bye.bye.reason, sizeof bye.bye.reason, "%s", reason);
    for (uint32_t i = 0; i < gw->reached; i++) {
        struct smoe_gate_session *s = &gw->sessions[i];
        if (s->state == SMOE_GATE_FREE || s->state == SMOE_GATE_CLOSING)
            continue;
        if (s->state == SMOE_GATE_OPEN)
            smoe_channel_send(&s->channel, &bye, NULL, 0);
        begin_closing(gw, s, reason); /* the core goes too: it need not hear of it */
    }
}
