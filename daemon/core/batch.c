/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches: from Submit to commit, as their trainer sees them.
 *
 * A Submit is judged twice: before its raw part is read (smoe_batch_expect_submit, so that a refusal
 * costs no memory) and when it has come, because the world may have changed meanwhile. An accepted
 * batch lives in a pool slot; its visit list and the list of its waiting tokens lie in the room the
 * shell lent. It ends committed (step.c), done (evaluation), discarded, or dropped with its attempt.
 */
#include <float.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/within.h"
#include "daemon/core/sharded.h"

#define SHARE_OF_FREE 3

static uint64_t batch_key(uint32_t trainer, uint64_t id)
{
    return (uint64_t)trainer << 48 | id; /* ids are below 2^48, trainers below 2^16 */
}

bool smoe_batch_find(const struct smoe_core *core, uint32_t trainer, uint64_t id,
                     uint32_t *ret_batch)
{
    return smoe_map_get(&core->batch_by_id, batch_key(trainer, id), ret_batch);
}

/* ---- Submit ---- */

static uint64_t submit_bytes(const struct smoe_layer *layer, const struct smoe_msg_submit *m)
{
    return smoe_choice_bytes(layer, m) + m->tokens * smoe_row_bytes(layer);
}

/* Parcels that a batch needs when it is routed at once: one an expert, or more if they are long. What
 * was accepted must be able to finish without a step, so they are promised to it. */
static uint32_t parcels_for(const struct smoe_core *c, const struct smoe_layer *layer,
                            const struct smoe_msg_submit *m)
{
    uint64_t visits = (uint64_t)m->tokens * m->top_k;
    uint64_t experts = visits < layer->shape.experts ? visits : layer->shape.experts;
    return (uint32_t)(experts + visits / smoe_parcel_rows_max(c, layer));
}

void smoe_batch_keep_promise(struct smoe_core *c, struct smoe_batch *b)
{
    c->parcels_promised -= b->parcels_promised;
    b->parcels_promised = 0;
}

/* Of what all trainers share each may hold three times what it leaves free: one alone three quarters of it, and whoever
 * comes last still finds something, however many others do not step (dynamic thresholds of shared buffers, Choudhury
 * and Hahne 1998). */
static bool leaves_enough(const struct smoe_core *c, uint64_t own, uint64_t free)
{
    return c->options.limits.trainers_max == 1 || own <= SHARE_OF_FREE * free;
}

static int check_shared(const struct smoe_core *c, const struct smoe_trainer *t, uint64_t gradient,
                        struct smoe_why *why)
{
    uint64_t max = c->options.settings.gradient_bytes_max, all = c->gradient_bytes + gradient;
    if (gradient && max && all > max)
        return smoe_fail(why, SMOE_EITERATION,
                         "SUBMIT: gradients of uncommitted batches may need %llu bytes, %llu more "
                         "exceed %llu: step more often",
                         (unsigned long long)c->gradient_bytes, (unsigned long long)gradient,
                         (unsigned long long)max);
    if (gradient && max && !leaves_enough(c, t->gradient_bytes + gradient, max - all))
        return smoe_fail(why, SMOE_EITERATION,
                         "SUBMIT: gradients of your uncommitted batches may need %llu bytes, %llu "
                         "more leave too little of %llu to other trainers: step more often",
                         (unsigned long long)t->gradient_bytes, (unsigned long long)gradient,
                         (unsigned long long)max);
    if (!c->n_batch_free)
        return smoe_fail(why, SMOE_ELIMIT, "SUBMIT: %u batches are uncommitted already",
                         c->options.limits.batches_max);
    if (!leaves_enough(c, t->n_batches + 1, c->n_batch_free - 1))
        return smoe_fail(
            why, SMOE_ELIMIT,
            "SUBMIT: %llu of your batches are uncommitted, more leave too little of %u "
            "to other trainers: step more often",
            (unsigned long long)t->n_batches, c->options.limits.batches_max);
    return 0;
}

struct smoe_verdict smoe_batch_expect_submit(const struct smoe_core *c,
                                             const struct smoe_trainer *t,
                                             const struct smoe_msg_submit *m, struct smoe_why *why)
{
    uint32_t other;
    uint32_t trainer = (uint32_t)(t - c->trainers);
    if (m->attempt < t->attempt || c->draining)
        return (struct smoe_verdict){.kind = SMOE_IGNORE};
    if (!(t->attached >> m->layer & 1))
        return smoe_verdict_fail(
            SMOE_REFUSE,
            smoe_fail(why, SMOE_EUNKNOWN, "SUBMIT.layer %u: not declared by you", m->layer),
            m->batch, 0);
    const struct smoe_layer *layer = &c->layers[m->layer];
    const struct smoe_core_settings *s = &c->options.settings;
    uint64_t visits = (uint64_t)m->tokens * m->top_k;
    int rc = m->router_version ? smoe_freezing_check(c, m, why) : 0;
    if (rc)
        return smoe_verdict_fail(SMOE_REFUSE, rc, m->batch, 0);
    uint64_t bytes = submit_bytes(layer, m), held = smoe_submit_credit(layer, m, bytes);
    if (m->top_k > layer->shape.experts)
        rc = smoe_fail(why, SMOE_EFIELD, "SUBMIT.top_k %u: layer %s has %u experts", m->top_k,
                       layer->name, layer->shape.experts);
    else if (m->needs_gradient && layer->owner != trainer)
        rc = smoe_fail(why, SMOE_EROLE,
                       "SUBMIT.needs_gradient: layer %s is attached for evaluation "
                       "only",
                       layer->name);
    else if (m->ahead && !layer->shape.staleness)
        rc = smoe_fail(why, SMOE_EFIELD, "SUBMIT.ahead: layer %s was declared with staleness 0",
                       layer->name);
    else if (smoe_batch_find(c, trainer, m->batch, &other))
        rc = smoe_fail(why, SMOE_EEXIST, "SUBMIT.batch %llu: not committed yet",
                       (unsigned long long)m->batch);
    else if (held > s->window_bytes || visits > s->window_visits)
        rc = smoe_fail(why, SMOE_ELIMIT,
                       "SUBMIT: %llu bytes and %llu visits, the window is %llu bytes "
                       "and %llu visits: submit smaller batches",
                       (unsigned long long)held, (unsigned long long)visits,
                       (unsigned long long)s->window_bytes, (unsigned long long)s->window_visits);
    else if (m->needs_gradient && visits * smoe_row_bytes(layer) > c->options.tensor_bytes_max)
        rc = smoe_fail(why, SMOE_ELIMIT,
                       "SUBMIT: its gradient will have %llu bytes, a raw part has at "
                       "most %llu: submit smaller batches",
                       (unsigned long long)(visits * smoe_row_bytes(layer)),
                       (unsigned long long)c->options.tensor_bytes_max);
    else if (t->iteration_bytes + bytes > s->iteration_bytes_max)
        rc = smoe_fail(why, SMOE_EITERATION,
                       "SUBMIT: %llu bytes are uncommitted, %llu more exceed "
                       "iteration_bytes_max %llu: step more often",
                       (unsigned long long)t->iteration_bytes, (unsigned long long)bytes,
                       (unsigned long long)s->iteration_bytes_max);
    else if ((rc = check_shared(
                  c, t, m->needs_gradient ? (visits + m->tokens) * smoe_row_bytes(layer) : 0, why)))
        return smoe_verdict_fail(SMOE_REFUSE, rc, m->batch, 0);
    else if (c->n_parcel_free + c->n_parcel_zombie < c->parcels_promised + parcels_for(c, layer, m))
        rc = smoe_fail(why, SMOE_ELIMIT,
                       "SUBMIT: %u parcels are uncommitted already: step more often",
                       c->options.limits.parcels_max);
    if (rc)
        return smoe_verdict_fail(SMOE_REFUSE, rc, m->batch, 0);
    return (struct smoe_verdict){.kind = SMOE_TAKE, .bytes = bytes};
}

size_t smoe_core_batch_room(uint32_t tokens, uint32_t top_k)
{
    return (size_t)tokens * top_k + tokens;
}

static bool experts_valid(const uint16_t *experts, uint32_t tokens, uint32_t top_k, uint32_t n)
{
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < top_k; k++) {
            if (experts[t * top_k + k] >= n)
                return false;
            for (uint32_t i = 0; i < k; i++)
                if (experts[t * top_k + i] == experts[t * top_k + k])
                    return false;
        }
    return true;
}

/* What its gradient, and x sent once more, may come to hold here. */
static uint64_t gradient_bytes_of(const struct smoe_core *c, const struct smoe_batch *b)
{
    uint64_t rows = b->training ? (uint64_t)b->tokens * (b->top_k + 1) : 0;
    return rows * smoe_row_bytes(&c->layers[b->layer]);
}

/* Need it not wait for the step that is under way? What shall change places when none is makes it wait once: its
 * weights stay those of its base. */
static bool goes_ahead(struct smoe_core *c, const struct smoe_msg_submit *m)
{
    return m->ahead && !smoe_standing_wants_rest(c, m->layer);
}

static void batch_start(struct smoe_core *c, uint32_t index, uint32_t trainer,
                        const struct smoe_event *event)
{
    const struct smoe_msg_submit *m = &event->message->submit;
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_batch *b = &c->batches[index];
    const struct smoe_layer *layer = &c->layers[m->layer];
    uint64_t raw = submit_bytes(layer, m);
    *b = (struct smoe_batch){
        .used = true,
        .training = m->needs_gradient,
        .routed = m->routed,
        .frozen = m->router_version > 0,
        .after_step = t->step.phase != SMOE_STEP_NONE && !goes_ahead(c, m),
        .ahead = m->ahead,
        .id = m->batch,
        .step = (t->step.phase != SMOE_STEP_NONE ? t->step.number : t->step_committed) + 1,
        .base = m->base,
        .trainer = trainer,
        .layer = m->layer,
        .tokens = m->tokens,
        .top_k = m->top_k,
        .raw_bytes = raw,
        .credit_bytes = smoe_submit_credit(layer, m, raw),
        .scores = event->scores,
        .experts = event->experts,
        .visits = event->room,
        .waiting = event->room + (size_t)m->tokens * m->top_k,
        .n_waiting = m->tokens,
        .parcels_promised = parcels_for(c, layer, m),
    };
    c->parcels_promised += b->parcels_promised;
    for (uint32_t i = 0; i < m->tokens; i++)
        b->waiting[i] = i;
    smoe_list_init(&b->parcels);
    smoe_list_push_back(&t->batches, &b->trainer_link);
    smoe_list_push_back(&c->pending, &b->pending_link);
    t->n_batches++;
    t->iteration_bytes += b->raw_bytes;
    t->gradient_bytes += gradient_bytes_of(c, b);
    c->gradient_bytes += gradient_bytes_of(c, b);
    uint64_t visits = (uint64_t)m->tokens * m->top_k;
    smoe_account_move(&t->account, SMOE_VISIT_NONE, SMOE_VISIT_WAITING, visits);
    smoe_account_move(&c->total, SMOE_VISIT_NONE, SMOE_VISIT_WAITING, visits);
}

void smoe_batch_submit(struct smoe_core *c, uint32_t trainer, const struct smoe_event *event)
{
    const struct smoe_msg_submit *m = &event->message->submit;
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    t->arriving_bytes = t->arriving_visits = 0;
    struct smoe_verdict v = smoe_batch_expect_submit(c, t, m, &why); /* the raw part took time */
    if (v.kind != SMOE_TAKE) {
        smoe_trainer_owe(c, t);
        if (v.kind == SMOE_REFUSE)
            smoe_core_refuse(c, t->session, v.code, why.text, false, m->batch, 0);
        return;
    }
    uint32_t experts = c->layers[m->layer].shape.experts;
    int rc = 0;
    if (event->refused)
        rc = smoe_fail(&why, event->refused, "SUBMIT: %s", event->refused_why);
    else if (m->routed && !experts_valid(event->experts, m->tokens, m->top_k, experts))
        rc = smoe_fail(&why, SMOE_EFIELD,
                       "SUBMIT: experts of a token must be distinct and below %u", experts);
    else if (!m->routed && !smoe_within_f32(event->scores, (size_t)m->tokens * experts, FLT_MAX))
        rc = smoe_fail(&why, SMOE_ENOTFINITE, "SUBMIT: a score is not a finite number");
    if (rc) {
        smoe_trainer_owe(c, t);
        smoe_core_refuse(c, t->session, rc, why.text, false, m->batch, 0);
        return;
    }
    uint32_t index = c->batch_free[--c->n_batch_free];
    smoe_assert(smoe_map_put(&c->batch_by_id, batch_key(trainer, m->batch), index));
    batch_start(c, index, trainer, event);
    smoe_core_act(c, SMOE_ACT_BATCH_TAKEN, t->session)->batch = index;
    c->solve_useful = true;
    if (c->layers[m->layer].sharded && smoe_sharded_before_wanted(c, m->layer))
        smoe_layers_advance(c);
}

/* ---- the end of a batch ---- */

void smoe_batch_free(struct smoe_core *c, uint32_t batch)
{
    struct smoe_batch *b = &c->batches[batch];
    struct smoe_trainer *t = &c->trainers[b->trainer];
    uint64_t waiting = (uint64_t)b->n_waiting * b->top_k;
    if (waiting) {
        smoe_account_move(&t->account, SMOE_VISIT_WAITING, SMOE_VISIT_FAILED, waiting);
        smoe_account_move(&c->total, SMOE_VISIT_WAITING, SMOE_VISIT_FAILED, waiting);
    }
    smoe_list_for_each_safe (it, &b->parcels) {
        struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        uint32_t index = (uint32_t)(p - c->parcels);
        bool done =
            p->state == SMOE_VISIT_COMMITTED || (p->state == SMOE_VISIT_SETTLED && !b->training);
        if (!done)
            smoe_parcel_move(c, index, SMOE_VISIT_FAILED);
        smoe_parcel_free(c, index);
    }
    smoe_list_remove(&b->trainer_link);
    smoe_list_remove(&b->pending_link);
    smoe_batch_keep_promise(c, b);
    smoe_map_remove(&c->batch_by_id, batch_key(b->trainer, b->id));
    t->n_batches--;
    t->iteration_bytes -= b->raw_bytes;
    t->gradient_bytes -= gradient_bytes_of(c, b);
    c->gradient_bytes -= gradient_bytes_of(c, b);
    b->used = false;
    c->batch_zombie[c->n_batch_zombie++] = batch;
    smoe_core_act(c, SMOE_ACT_BATCH_FREED, SMOE_NONE)->batch = batch;
}

/* Tells a worker to forget parcels. */
static void send_forget(struct smoe_core *c, uint32_t worker, const uint64_t *ids, size_t n)
{
    for (size_t at = 0; at < n; at += SMOE_DECISION_PARCELS_MAX) {
        size_t left = n - at;
        smoe_core_send(c, c->fleet.workers[worker].session, SMOE_MSG_FORGET)->forget =
            (struct smoe_msg_forget){
                ids + at, left < SMOE_DECISION_PARCELS_MAX ? left : SMOE_DECISION_PARCELS_MAX};
    }
}

/* Ids of the batch's unfinished parcels at the worker, at most all of the batch's. */
static size_t list_unfinished(struct smoe_core *c, uint32_t batch, uint32_t worker,
                              const uint64_t **ret_ids)
{
    const struct smoe_list *parcels = &c->batches[batch].parcels;
    uint64_t *ids = smoe_core_list(c, smoe_list_count(parcels, UINT32_MAX) * sizeof *ids);
    size_t n = 0;
    smoe_list_for_each (it, parcels) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, batch_link);
        if (p->worker == worker && p->state != SMOE_VISIT_SETTLED)
            ids[n++] = smoe_parcel_wire_id(c, (uint32_t)(p - c->parcels));
    }
    smoe_core_list_trim(c, ids, n * sizeof *ids);
    *ret_ids = ids;
    return n;
}

void smoe_batch_forget(struct smoe_core *c, uint32_t batch)
{
    const uint64_t *ids;
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (smoe_standing_usable(c, w)) {
            size_t n = list_unfinished(c, batch, w, &ids);
            send_forget(c, w, ids, n);
        }
    smoe_batch_free(c, batch);
}

void smoe_batches_forget_evaluations(struct smoe_core *c, uint32_t trainer)
{
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        const struct smoe_list *parcels = &c->worker_parcels[w];
        if (!smoe_standing_usable(c, w) || smoe_list_empty(parcels))
            continue;
        uint64_t *ids = smoe_core_list(c, smoe_list_count(parcels, UINT32_MAX) * sizeof *ids);
        size_t n = 0;
        smoe_list_for_each (it, parcels) {
            const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
            const struct smoe_batch *b = &c->batches[p->batch];
            if (b->trainer == trainer && !b->training)
                ids[n++] = smoe_parcel_wire_id(c, (uint32_t)(p - c->parcels));
        }
        smoe_core_list_trim(c, ids, n * sizeof *ids);
        send_forget(c, w, ids, n);
    }
}

/* ---- Discard, and failure ---- */

/* It is over, and its trainer knows. */
static void drop(struct smoe_core *c, uint32_t batch, const char *reason)
{
    uint32_t trainer = c->batches[batch].trainer;
    if (c->batches[batch].has_gradient) {
        smoe_batch_free(c, batch); /* not asked for again by Need: the trainer has forgotten it */
        smoe_trainer_reset(c, trainer, reason);
        return;
    }
    smoe_batch_forget(c, batch);
    smoe_trainer_grant(c, trainer);
    smoe_step_advance(c, trainer);
}

void smoe_batch_fail(struct smoe_core *c, uint32_t batch, int code, const char *sentence)
{
    const struct smoe_batch *b = &c->batches[batch];
    smoe_core_refuse(c, c->trainers[b->trainer].session, code, sentence, false, b->id, 0);
    drop(c, batch, sentence);
}

void smoe_batch_discard(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_discard *m)
{
    uint32_t batch;
    if (m->attempt < c->trainers[trainer].attempt || !smoe_batch_find(c, trainer, m->batch, &batch))
        return;
    if (c->batches[batch].in_step && c->trainers[trainer].step.phase == SMOE_STEP_COMMITTING)
        return; /* too late: it is part of the step */
    drop(c, batch, "a batch with a gradient was discarded");
}

struct smoe_batch_view smoe_core_batch(const struct smoe_core *core, uint32_t batch)
{
    const struct smoe_batch *b = &core->batches[batch];
    const struct smoe_layer *layer = &core->layers[b->layer];
    return (struct smoe_batch_view){
        .id = b->id,
        .layer = b->layer,
        .tokens = b->tokens,
        .top_k = b->top_k,
        .experts = layer->shape.experts,
        .row_bytes = smoe_row_bytes(layer),
        .routed = b->routed,
    };
}
