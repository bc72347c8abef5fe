/* SPDX-License-Identifier: Apache-2.0
 *
 * Which experts are hosted, and their states going out and coming in. A fetch, a store or a gradient sum
 * of an expert on which a task runs waits for its end (`deferred`); it is dropped with the expert.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/worker/agent/agent_state.h"

static void drop_deferred(struct smoe_deferred *d)
{
    smoe_list_remove(&d->link);
    smoe_blob_unref(d->blob);
    free(d);
}

void smoe_agent_drop_deferred(struct smoe_agent *a)
{
    smoe_list_for_each_safe (it, &a->deferred)
        drop_deferred(smoe_container_of(it, struct smoe_deferred, link));
}

/* What waits for experts that are no longer held goes with them. */
static void forget_dropped(struct smoe_agent *a)
{
    smoe_agent_forget_dropped(a);
    smoe_list_for_each_safe (it, &a->deferred) {
        struct smoe_deferred *d = smoe_container_of(it, struct smoe_deferred, link);
        if (!smoe_experts_same(&a->experts, d->expert, d->serial))
            drop_deferred(d);
    }
}

void smoe_agent_host(struct smoe_agent *a, const struct smoe_msg_host *host)
{
    struct smoe_why why = {""};
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    bool nothing = host->n_experts + host->n_copies == 0; /* then `layer` has no meaning */
    if (!nothing)
        smoe_agent_step_cancel(a, host->layer);
    smoe_agent_step_cancel(a, smoe_experts_wire(&a->experts, host));
    int rc = smoe_experts_host(&a->experts, host, &why);
    forget_dropped(a);
    struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, host->layer);
    if (rc == 0 && layer) {
        size_t need = smoe_task_scratch(&layer->ffn);
        a->scratch_elements = need > a->scratch_elements ? need : a->scratch_elements;
    }
    if (nothing)
        return; /* dropped: nothing to answer for */
    m.hosted = (struct smoe_msg_hosted){.layer = host->layer, .code = rc};
    snprintf(m.hosted.message, sizeof m.hosted.message, "%s", why.text);
    smoe_agent_send(a, &m, NULL, 0);
}

static void answer_fetch(struct smoe_agent *a, uint32_t expert,
                         const struct smoe_msg_expert_fetch *f)
{
    const struct smoe_held_layer *layer = &a->experts.layers[a->experts.experts[expert].layer];
    size_t bytes = smoe_experts_state_bytes(layer, f->parts);
    struct smoe_blob *blob = smoe_blob_new(NULL, bytes);
    if (!blob) {
        a->speechless = true;
        return;
    }
    smoe_experts_read(&a->experts, expert, f->parts, blob->data);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STATE};
    m.expert_state = (struct smoe_msg_expert_state){f->request, f->layer, f->expert, f->parts,
                                                    a->experts.experts[expert].state_step};
    struct smoe_segment segment = {blob, blob->data, bytes};
    smoe_agent_send(a, &m, &segment, 1);
    smoe_blob_unref(blob);
}

static void answer_store(struct smoe_agent *a, uint32_t expert,
                         const struct smoe_msg_expert_store *s, const struct smoe_blob *blob)
{
    struct smoe_held_layer *layer = &a->experts.layers[a->experts.experts[expert].layer];
    smoe_agent_step_cancel(a, s->layer);
    smoe_experts_unstage(&a->experts, layer);
    smoe_experts_write(&a->experts, expert, s, blob->data);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORED};
    m.expert_stored = (struct smoe_msg_expert_stored){s->request, s->layer, s->expert};
    smoe_agent_send(a, &m, NULL, 0);
}

static void answer_state(struct smoe_agent *a, uint32_t expert, const struct smoe_message *m,
                         const struct smoe_blob *blob)
{
    if (m->type == SMOE_MSG_EXPERT_FETCH)
        answer_fetch(a, expert, &m->expert_fetch);
    else if (m->type == SMOE_MSG_EXPERT_STORE)
        answer_store(a, expert, &m->expert_store, blob);
    else if (smoe_agent_step_wants(a, &m->step_gradient))
        smoe_experts_take_gradient(&a->experts, expert, blob->data);
}

/* The layer and expert that the message is about. */
static uint32_t subject(struct smoe_agent *a, const struct smoe_message *m)
{
    if (m->type == SMOE_MSG_EXPERT_FETCH)
        return smoe_experts_find(&a->experts, m->expert_fetch.layer, m->expert_fetch.expert);
    if (m->type == SMOE_MSG_EXPERT_STORE)
        return smoe_experts_find(&a->experts, m->expert_store.layer, m->expert_store.expert);
    return smoe_experts_find(&a->experts, m->step_gradient.layer, m->step_gradient.expert);
}

int smoe_agent_state(struct smoe_agent *a, const struct smoe_message *m, struct smoe_blob *blob,
                     struct smoe_why *why)
{
    uint32_t expert = subject(a, m);
    if (expert == SMOE_NO_EXPERT)
        return smoe_fail(why, SMOE_EUNKNOWN, "%s: no such expert is held here",
                         smoe_message_name((uint16_t)m->type));
    if (!a->experts.experts[expert].busy) {
        answer_state(a, expert, m, blob);
        return 0;
    }
    struct smoe_deferred *d = calloc(1, sizeof *d);
    if (!d)
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory");
    d->expert = expert;
    d->serial = a->experts.experts[expert].serial;
    d->message = *m; /* neither message has arrays */
    d->blob = blob ? smoe_blob_ref(blob) : NULL;
    smoe_list_push_back(&a->deferred, &d->link);
    if (m->type == SMOE_MSG_STEP_GRADIENT)
        a->experts.experts[expert].summed = true; /* by the time that a task can use it */
    return 0;
}

void smoe_agent_run_deferred(struct smoe_agent *a, uint32_t expert)
{
    smoe_list_for_each_safe (it, &a->deferred) {
        struct smoe_deferred *d = smoe_container_of(it, struct smoe_deferred, link);
        if (d->expert != expert)
            continue;
        answer_state(a, expert, &d->message, d->blob);
        drop_deferred(d);
    }
}
