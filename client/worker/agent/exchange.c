/* SPDX-License-Identifier: Apache-2.0
 *
 * What workers that share a sharded layer give each other, a range of elements at a time: gradients from slots to
 * the shards that hold their state, weights from shards to slots, state from shard to shard. The gateway asks
 * for each (ShardAsk), so that never more is on its way than it has room for. Whoever is asked first takes the
 * range itself where it belongs here too: then nothing need be sent.
 *
 * Gradients are of a step and its attempt, the rest of the layer's committed step; a message about another is
 * late and passed over without an answer, for the gateway has forgotten the transfer.
 *
 * What travels, and what whoever is asked takes itself, is in the form of the layer's wire: with bf16 it is rounded
 * where it is given, once, so that all who take it have the same bits (experts.h).
 *
 * A local sum that has come whole is kept until those of all hosts are there: they are added in the order of
 * their ranks, by the task that makes the norm, so that owner and follower have the same bits.
 */
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent_state.h"
#include "common/base/assert.h"

/* ---- what is meant ---- */

/* What comes, or what is asked for. */
static struct smoe_msg_shard_part part_of(const struct smoe_message *m)
{
    return m->type == SMOE_MSG_SHARD_ASK ? smoe_msg_shard_part_of(&m->shard_ask) : m->shard_part;
}

/* The step that awaits this gradient, or whose hosts are asked for it; NULL: none does any more. */
static struct smoe_agent_step *step_for(struct smoe_agent *a, const struct smoe_msg_shard_part *t)
{
    struct smoe_agent_step *s = smoe_agent_step_with_layer(a, t->layer);
    return s && s->number == t->step && s->attempt == t->attempt ? s : NULL;
}

static bool is_late(struct smoe_agent *a, const struct smoe_msg_shard_part *t)
{
    const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, t->layer);
    if (t->kind == SMOE_SHARD_GRADIENT)
        return !step_for(a, t);
    if (!layer || layer->step != t->step || layer->attempt != t->attempt)
        return true;
    uint32_t slot = t->expert < layer->shape.experts ? layer->expert_at[t->expert] : SMOE_NO_EXPERT;
    return t->kind == SMOE_SHARD_WEIGHTS && slot != SMOE_NO_EXPERT &&
           t->fill <
               a->experts.experts[slot].fill[t->older]; /* over a link older ones may come later */
}

bool smoe_agent_shard_is_late(struct smoe_agent *a, const struct smoe_message *m)
{
    struct smoe_msg_shard_part t = part_of(m);
    return is_late(a, &t);
}

/* Of the raw part: a state's vectors in full, all else as the layer's wire has it. */
static size_t bytes_of(const struct smoe_held_layer *layer, const struct smoe_msg_shard_part *t)
{
    enum smoe_optimizer_kind optimizer = (enum smoe_optimizer_kind)layer->shape.optimizer;
    size_t n = (size_t)t->length, vectors = 1 + smoe_optimizer_moments(optimizer) + t->older;
    if (t->kind == SMOE_SHARD_STATE)
        return vectors * n * sizeof(smoe_real);
    return smoe_experts_part_bytes(layer, n);
}

/* Where the range is in the shards here, or SMOE_SHARD_NOWHERE. */
static size_t place_of(const struct smoe_held_layer *layer, const struct smoe_msg_shard_part *t)
{
    return smoe_shard_find(&layer->layout, t->offset, t->length);
}

static bool fits(const struct smoe_held_layer *layer, const struct smoe_msg_shard_part *t)
{
    return layer && layer->sharded && t->expert < layer->shape.experts &&
           (!t->older || layer->shape.staleness) && t->offset < layer->n_params &&
           t->length <= layer->n_params - t->offset;
}

uint32_t smoe_agent_shard_subject(struct smoe_agent *a, const struct smoe_message *m)
{
    struct smoe_msg_shard_part t = part_of(m);
    const struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, t.layer);
    /* Gradients are read from slots and written to shards, weights the other way round. */
    bool slot = (t.kind == SMOE_SHARD_GRADIENT) == (m->type == SMOE_MSG_SHARD_ASK) &&
                t.kind != SMOE_SHARD_STATE;
    if (!fits(layer, &t) || (!slot && place_of(layer, &t) == SMOE_SHARD_NOWHERE))
        return SMOE_NO_EXPERT;
    /* The slot here gets them too, and a task that runs on it may use the ones it has. */
    uint32_t here = layer->expert_at[t.expert];
    if (t.kind == SMOE_SHARD_WEIGHTS && t.older && here != SMOE_NO_EXPERT &&
        a->experts.experts[here].busy)
        return here;
    return slot ? layer->expert_at[t.expert] : layer->expert_at[layer->shape.experts + t.expert];
}

int smoe_agent_shard_bytes(struct smoe_agent *a, const struct smoe_msg_shard_part *m,
                           uint64_t *ret_bytes, struct smoe_why *why)
{
    struct smoe_message message = {.type = SMOE_MSG_SHARD_PART};
    message.shard_part = *m;
    struct smoe_msg_shard_part t = part_of(&message);
    if (is_late(a, &t))
        return SMOE_CHANNEL_SKIP;
    if (smoe_agent_shard_subject(a, &message) == SMOE_NO_EXPERT)
        return smoe_fail(why, SMOE_EUNKNOWN,
                         "SHARD_PART: %llu elements of layer %u expert %u at %llu: not held here",
                         (unsigned long long)m->length, m->layer, m->expert,
                         (unsigned long long)m->offset);
    *ret_bytes = bytes_of(smoe_experts_layer(&a->experts, m->layer), m);
    return 0;
}

/* ---- taking ---- */

/* A local sum, or a range of it. One that came already, or of a host that there is not, is not taken. */
static void take_sum(struct smoe_agent *a, struct smoe_held_layer *layer,
                     const struct smoe_msg_shard_part *t, size_t at, const void *part)
{
    struct smoe_agent_step *s = step_for(a, t);
    size_t elements = layer->layout.elements;
    uint32_t n = layer->first_sum[t->expert + 1] - layer->first_sum[t->expert];
    uint32_t sum = layer->first_sum[t->expert] + t->rank;
    if (!s || s->phase != SMOE_AGENT_STEP_SUMS || t->rank >= n ||
        layer->sum_elements[sum] + t->length > elements)
        return;
    smoe_experts_unpack(layer, (size_t)t->length, part, layer->sums + sum * elements + at);
    layer->sum_elements[sum] += (size_t)t->length;
    if (layer->sum_elements[sum] == elements)
        smoe_agent_step_summed(a, s);
}

/* Weights, moments and the weights before lie one after another, [length] each. Without those, it is a trainer's: there
 * are none any more. */
static void write_state(struct smoe_held_expert *e, size_t at, const struct smoe_msg_shard_part *t,
                        const smoe_real *from)
{
    size_t n = (size_t)t->length;
    memcpy(e->now.weights + at, from, n * sizeof *from);
    for (unsigned m = 0; m < 2 && e->now.moments[m]; m++)
        memcpy(e->now.moments[m] + at, from += n, n * sizeof *from);
    if (t->older)
        memcpy(e->older + at, from + n, n * sizeof *from);
    else
        e->has_older = false;
}

static void read_state(const struct smoe_experts *store, uint32_t shard, size_t at,
                       const struct smoe_msg_shard_part *t, smoe_real *to)
{
    const struct smoe_held_expert *e = &store->experts[shard];
    size_t n = (size_t)t->length;
    memcpy(to, e->now.weights + at, n * sizeof *to);
    for (unsigned m = 0; m < 2 && e->now.moments[m]; m++)
        memcpy(to += n, e->now.moments[m] + at, n * sizeof *to);
    if (t->older)
        memcpy(to + n, smoe_experts_before(store, shard) + at, n * sizeof *to);
}

static void fill_slot(struct smoe_agent *a, uint32_t slot, const struct smoe_msg_shard_part *t,
                      const void *part)
{
    if (t->older)
        smoe_experts_fill_older(&a->experts, slot, t->fill, (size_t)t->offset, (size_t)t->length,
                                part);
    else
        smoe_experts_fill_slot(&a->experts, slot, t->fill, (size_t)t->offset, (size_t)t->length,
                               part);
}

static void say_taken(struct smoe_agent *a, const struct smoe_msg_shard_part *t)
{
    struct smoe_message m = {.type = SMOE_MSG_SHARD_TAKEN};
    m.shard_taken.number = t->number;
    smoe_agent_send(a, &m, NULL, 0);
}

static void take_part(struct smoe_agent *a, const struct smoe_msg_shard_part *t,
                      const struct smoe_blob *blob)
{
    struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, t->layer);
    uint32_t shard = layer->expert_at[layer->shape.experts + t->expert];
    if (t->kind == SMOE_SHARD_GRADIENT)
        take_sum(a, layer, t, place_of(layer, t), blob->data);
    else if (t->kind == SMOE_SHARD_WEIGHTS)
        fill_slot(a, layer->expert_at[t->expert], t, blob->data);
    else
        write_state(&a->experts.experts[shard], place_of(layer, t), t,
                    (const smoe_real *)(const void *)blob->data);
    say_taken(a, t);
}

/* ---- giving ---- */

/* Puts the range, as it is sent, where it belongs here, if anywhere: not in a slot that was left. It may be busy with
 * visits of others: its weights are not in use before all of them have come. */
static void take_own(struct smoe_agent *a, struct smoe_held_layer *layer,
                     const struct smoe_msg_shard_part *t, const void *part)
{
    size_t at = place_of(layer, t);
    uint32_t slot = layer->expert_at[t->expert];
    if (t->kind == SMOE_SHARD_GRADIENT && at != SMOE_SHARD_NOWHERE)
        take_sum(a, layer, t, at, part);
    else if (t->kind == SMOE_SHARD_WEIGHTS && slot != SMOE_NO_EXPERT &&
             !a->experts.experts[slot].copy)
        fill_slot(a, slot, t, part);
}

/* Over links to whom these reach, and to the gateway for the others. */
static void send_part(struct smoe_agent *a, const struct smoe_msg_shard_part *t,
                      const struct smoe_msg_shard_ask *ask, struct smoe_blob *blob)
{
    struct smoe_peer_list direct = {0};
    struct smoe_message m = {.type = SMOE_MSG_SHARD_PART};
    m.shard_part = *t;
    for (uint32_t i = 0; i < ask->peers.n; i++)
        if (smoe_agent_give(a, ask->peers.peers[i], &m.shard_part, blob))
            direct.peers[direct.n++] = ask->peers.peers[i];
    struct smoe_segment segment = {blob, blob->data, blob->bytes};
    if (ask->others || direct.n < ask->peers.n || !direct.n) {
        m.shard_part.direct = direct;
        smoe_agent_send(a, &m, &segment, 1);
        return;
    }
    m.type = SMOE_MSG_SHARD_SENT;
    m.shard_sent = (struct smoe_msg_shard_sent){t->number, direct};
    smoe_agent_send(a, &m, NULL, 0);
}

static void answer_ask(struct smoe_agent *a, const struct smoe_msg_shard_part *t,
                       const struct smoe_msg_shard_ask *ask)
{
    bool send = ask->send;
    struct smoe_held_layer *layer = smoe_experts_layer(&a->experts, t->layer);
    uint32_t slot = layer->expert_at[t->expert];
    uint32_t shard = layer->expert_at[layer->shape.experts + t->expert];
    size_t n = (size_t)t->length;
    struct smoe_blob *blob = smoe_blob_new(NULL, bytes_of(layer, t));
    const smoe_real *from = t->kind == SMOE_SHARD_GRADIENT
                                ? smoe_experts_gradient(&a->experts, slot, t->step) + t->offset
                            : t->older
                                ? smoe_experts_before(&a->experts, shard) + place_of(layer, t)
                                : a->experts.experts[shard].now.weights + place_of(layer, t);
    if (!blob) {
        a->speechless = true;
        return;
    }
    if (t->kind == SMOE_SHARD_STATE)
        read_state(&a->experts, shard, place_of(layer, t), t, (smoe_real *)(void *)blob->data);
    else
        smoe_experts_pack(layer, n, from, blob->data);
    if (!ask->keep)
        take_own(a, layer, t, blob->data);
    if (send)
        send_part(a, t, ask, blob);
    else
        say_taken(a, t);
    smoe_blob_unref(blob);
}

void smoe_agent_shard(struct smoe_agent *a, const struct smoe_message *m,
                      const struct smoe_blob *blob)
{
    struct smoe_msg_shard_part t = part_of(m);
    if (is_late(a, &t))
        return; /* the step ended, or the layer changed, while it waited for a task */
    if (m->type == SMOE_MSG_SHARD_ASK)
        answer_ask(a, &t, &m->shard_ask);
    else
        take_part(a, &t, blob);
}
