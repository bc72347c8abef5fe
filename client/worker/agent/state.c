/* SPDX-License-Identifier: Apache-2.0
 *
 * Which experts are hosted, what is still held after a reconnection, and states of experts going out and
 * coming in. A fetch, a store, a gradient sum or a transfer of a shard that needs an expert on which a task runs
 * waits for its end (`deferred`); it is dropped with the expert.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"

/* ---- Inventory ---- */

/* What is held, not what was still to be filled. */
static size_t list_pieces(const struct smoe_shard_layout *layout, uint64_t *ret_offsets,
                          uint64_t *ret_lengths)
{
    for (size_t i = 0; i < layout->n_held; i++) {
        ret_offsets[i] = layout->ranges[i].offset;
        ret_lengths[i] = layout->ranges[i].length;
    }
    return layout->n_held;
}

void smoe_agent_send_inventory(struct smoe_agent *a)
{
    struct smoe_inventory_layer layers[SMOE_LAYERS_MAX];
    uint32_t *experts = malloc(SMOE_LAYERS_MAX * SMOE_EXPERTS_MAX * sizeof *experts);
    struct smoe_message m = {.type = SMOE_MSG_INVENTORY};
    size_t n = 0, listed = 0, pieces = 0;
    uint64_t offsets[SMOE_WORKER_PIECES_MAX], lengths[SMOE_WORKER_PIECES_MAX];
    for (uint32_t l = 0; experts && l < SMOE_LAYERS_MAX; l++) {
        const struct smoe_held_layer *held = &a->experts.layers[l];
        if (!held->used || !held->run)
            continue;
        struct smoe_inventory_layer *to = &layers[n++];
        *to = (struct smoe_inventory_layer){.run = held->run,
                                            .step = held->step,
                                            .attempt = held->attempt,
                                            .shape = held->shape,
                                            .experts = experts + listed,
                                            .staged_step = held->staged_step,
                                            .staged_attempt = held->staged_attempt};
        memcpy(to->name, held->name, sizeof to->name);
        to->pieces = (struct smoe_pieces){offsets + pieces, lengths + pieces, 0};
        if (smoe_experts_shards_current(&a->experts, held))
            to->pieces.n = list_pieces(&held->layout, offsets + pieces, lengths + pieces);
        pieces += to->pieces.n;
        for (uint32_t e = 0; !held->sharded && e < held->shape.experts; e++)
            if (smoe_experts_current(&a->experts, held, e))
                experts[listed++] = e;
        to->n_experts = (size_t)(experts + listed - to->experts);
    }
    m.inventory = (struct smoe_msg_inventory){layers, n};
    if (experts)
        smoe_agent_send(a, &m, NULL, 0);
    else
        a->speechless = true; /* an empty one would say that all is lost */
    free(experts);
}

/* ---- Host ---- */

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
    bool nothing =
        host->n_experts + host->n_copies + host->pieces.n == 0; /* then `layer` has no meaning */
    if (!nothing)
        smoe_agent_step_cancel(a, host->layer);
    smoe_agent_step_cancel(a, smoe_experts_wire(&a->experts, host));
    int rc = smoe_experts_host(&a->experts, host, &why);
    forget_dropped(a);
    if (rc && a->experts.torn) {
        a->experts.torn = false;
        a->speechless = true; /* the next session's inventory says what is left */
        return;
    }
    struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, host->layer);
    if (rc == 0 && layer) {
        size_t need = smoe_task_scratch(&layer->ffn);
        a->scratch_elements = need > a->scratch_elements ? need : a->scratch_elements;
    }
    if (nothing)
        return; /* dropped: nothing to answer for */
    if (rc == 0) {
        layer->host_number = host->number;
        smoe_agent_say_hosted(a, layer);
        return;
    }
    if (layer)
        smoe_experts_owe(&a->experts, layer, false); /* this is the answer now */
    m.hosted = (struct smoe_msg_hosted){.layer = host->layer, .code = rc, .number = host->number};
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
    m.expert_state = (struct smoe_msg_expert_state){
        f->request, f->layer, f->expert, f->parts, a->experts.experts[expert].state_step, 0, 0, 0};
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
    else if (m->type == SMOE_MSG_SHARD_ASK || m->type == SMOE_MSG_SHARD_PART)
        smoe_agent_shard(a, m, blob);
    else if (smoe_agent_step_wants(a, &m->step_gradient))
        smoe_experts_take_gradient(&a->experts, expert, m->step_gradient.step, blob->data);
}

/* The layer and expert that the message is about. */
static uint32_t subject(struct smoe_agent *a, const struct smoe_message *m)
{
    if (m->type == SMOE_MSG_EXPERT_FETCH)
        return smoe_experts_find(&a->experts, m->expert_fetch.layer, m->expert_fetch.expert);
    if (m->type == SMOE_MSG_EXPERT_STORE)
        return smoe_experts_find(&a->experts, m->expert_store.layer, m->expert_store.expert);
    if (m->type == SMOE_MSG_SHARD_ASK || m->type == SMOE_MSG_SHARD_PART)
        return smoe_agent_shard_subject(a, m);
    return smoe_experts_find(&a->experts, m->step_gradient.layer, m->step_gradient.expert);
}

/* The older weights alone, of a layer without staleness, are none: there is no such state. */
static size_t fetched_bytes(struct smoe_agent *a, const struct smoe_msg_expert_fetch *f)
{
    return smoe_experts_state_bytes(smoe_experts_layer(&a->experts, f->layer), f->parts);
}

/* Does it need what a task has, or is still to make? A gradient sum is not touched by making, and must be
 * there when the step goes on: a new copy takes part in it before Hosted. New weights of a slot come beside those that
 * visits are computed by. */
static bool must_wait(const struct smoe_held_expert *e, const struct smoe_message *m)
{
    if (m->type == SMOE_MSG_SHARD_PART && m->shard_part.kind == SMOE_SHARD_WEIGHTS &&
        !m->shard_part.older)
        return e->make_due;
    return e->make_due ? m->type != SMOE_MSG_STEP_GRADIENT : e->busy;
}

int smoe_agent_state(struct smoe_agent *a, const struct smoe_message *m, struct smoe_blob *blob,
                     struct smoe_why *why)
{
    uint32_t expert = subject(a, m);
    bool shard = m->type == SMOE_MSG_SHARD_ASK || m->type == SMOE_MSG_SHARD_PART;
    if (shard && smoe_agent_shard_is_late(a, m))
        return 0;
    if (expert == SMOE_NO_EXPERT || (!shard && a->experts.experts[expert].kind != SMOE_HELD_WHOLE))
        return smoe_fail(why, SMOE_EUNKNOWN, "%s: no such expert is held here",
                         smoe_message_name((uint16_t)m->type));
    if (m->type == SMOE_MSG_EXPERT_FETCH && !fetched_bytes(a, &m->expert_fetch))
        return smoe_fail(why, SMOE_EFIELD, "EXPERT_FETCH.parts %u: its layer has nothing of them",
                         m->expert_fetch.parts);
    if (!must_wait(&a->experts.experts[expert], m)) {
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
    struct smoe_why unused; /* an ask of what is no longer here is late */
    smoe_list_for_each_safe (it, &a->deferred) {
        struct smoe_deferred *d = smoe_container_of(it, struct smoe_deferred, link);
        if (d->expert != expert)
            continue;
        if (d->message.type == SMOE_MSG_SHARD_ASK) /* a task may run on its slot by now */
            (void)smoe_agent_state(a, &d->message, d->blob, &unused);
        else
            answer_state(a, expert, &d->message, d->blob);
        drop_deferred(d);
    }
}
