/* SPDX-License-Identifier: Apache-2.0
 *
 * The optimizer step as a two-phase commit over the hosts and followers of the trainer's experts.
 *
 *     NONE --Step--> SETTLING --all named batches settled, no copy under way--> NORM
 *       ^                                                                         |
 *       |                                                          all norms and sums in
 *       |                                                                         v
 *       +-- StepCommit, StepDone -- COMMITTING <--staged everywhere, epoch+1-- STAGING
 *
 * NORM gives one clip scale over all experts and the trainer's own dense part; meanwhile the hosts'
 * gradient sums go to the followers. In STAGING every host and follower computes the new state beside the
 * old one. Until then the step can be thrown away (smoe_step_abort) and nothing has happened. In
 * COMMITTING the record of the commit is being written; it can neither be taken back nor announced
 * before it is durable, so whatever would end the attempt waits for it: workers that leave (session.c),
 * the trainer's own return, reset and restore (trainer.c). After that nothing can stop it: StepCommit
 * precedes every later frame on a worker's connection, and a worker that was away learns of it from
 * Host. Square norms are added in the order of layer and expert, so the scale does not depend on who
 * answered first.
 */
#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/conduct.h"
#include "daemon/core/sharded.h"

static void await(struct smoe_step *s, uint32_t worker)
{
    s->awaiting[worker / 64] |= UINT64_C(1) << (worker % 64);
}

static void await_layer(const struct smoe_core *c, struct smoe_step *s,
                        const struct smoe_layer *layer)
{
    if (layer->sharded)
        smoe_sharded_participants(layer->sharded, s->awaiting);
    for (uint32_t e = 0; !layer->sharded && e < layer->shape.experts; e++) {
        const struct smoe_expert_view *x = &layer->experts[e];
        smoe_assert(x->worker < c->fleet.n_used);
        await(s, x->worker);
        if (x->follower != SMOE_NONE)
            await(s, x->follower);
    }
}

/* Hosts and followers of the step's layers, each once: calls them out through the bitmap. All its layers are
 * ready, so every expert has a host. */
static void await_hosts(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_step *s = &c->trainers[trainer].step;
    uint32_t words = c->options.limits.workers_max / 64 + 1;
    memset(s->awaiting, 0, words * sizeof *s->awaiting);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (s->layers >> l & 1)
            await_layer(c, s, &c->layers[l]);
    s->n_awaiting = 0;
    for (uint32_t i = 0; i < words; i++)
        s->n_awaiting += (uint32_t)__builtin_popcountll(s->awaiting[i]);
}

static bool awaited(const struct smoe_step *s, uint32_t worker)
{
    return s->awaiting[worker / 64] >> (worker % 64) & 1;
}

/* One answer; true when it was the last. */
static bool answered(struct smoe_step *s, uint32_t worker)
{
    s->awaiting[worker / 64] &= ~(UINT64_C(1) << (worker % 64));
    return --s->n_awaiting == 0;
}

static bool hosts_ready(const struct smoe_core *c, uint64_t layers)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((layers >> l & 1) && c->layers[l].state != SMOE_LAYER_READY)
            return false;
    return true;
}

/* What the worker said of its shards in the trainer's step. */
static double *norm_of(struct smoe_core *c, uint32_t trainer, uint32_t worker)
{
    return &c->sharding->norms[(size_t)trainer * c->options.limits.workers_max + worker];
}

static void ask_norms(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    t->step.phase = SMOE_STEP_NORM;
    t->step.attempt = t->attempt;
    t->step.square_norm = 0;
    if (c->sharding) /* of an attempt that ended, somebody's may be there */
        memset(norm_of(c, trainer, 0), 0, c->fleet.n_used * sizeof(double));
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((t->step.layers >> l & 1) && !c->layers[l].sharded)
            smoe_standing_leave_absent(c, l);
        else if (t->step.layers >> l & 1) {
            smoe_traffic_turn(c, l, SMOE_PART_STEPPING);
            smoe_sharded_sum_up(c, l);
            smoe_exchange_begin(c, l, SMOE_EXCHANGE_GRADIENTS);
        }
    await_hosts(c, trainer);
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        if (!awaited(&t->step, w))
            continue;
        const uint32_t *layers;
        const struct smoe_layer_experts *gradients;
        size_t n = smoe_layers_on_worker(c, t->step.layers, w, &layers);
        const struct smoe_layer_hosts *hosts;
        size_t n_gradients = smoe_copies_gradients(c, t->step.layers, w, &gradients);
        size_t n_hosts = smoe_sharded_hosts_of(c, t->step.layers, w, &hosts);
        struct smoe_msg_step_prepare *m =
            &smoe_core_send(c, c->fleet.workers[w].session, SMOE_MSG_STEP_PREPARE)->step_prepare;
        m->step = t->step.number;
        m->attempt = t->attempt;
        m->layers = layers;
        m->n_layers = n;
        m->gradient_divisor = t->step.gradient_divisor;
        m->optimizer = t->step.optimizer;
        m->owner = trainer;
        m->gradients = gradients;
        m->n_gradients = n_gradients;
        m->hosts = hosts;
        m->n_hosts = n_hosts;
    }
}

static bool named_batches_settled(const struct smoe_trainer *t)
{
    smoe_list_for_each (it, &t->batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->in_step && b->visits_settled < b->tokens * b->top_k)
            return false;
    }
    return true;
}

bool smoe_step_settled(const struct smoe_core *c, uint32_t trainer)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    return t->step.phase == SMOE_STEP_SETTLING && named_batches_settled(t);
}

void smoe_step_advance(struct smoe_core *c, uint32_t trainer)
{
    if (smoe_step_settled(c, trainer) && hosts_ready(c, c->trainers[trainer].step.layers) &&
        !smoe_copies_under_way(c, c->trainers[trainer].step.layers) &&
        !smoe_exchange_under_way(c, c->trainers[trainer].step.layers))
        ask_norms(c, trainer);
}

/* ---- Step ---- */

/* Marks the named batches; a code and a sentence if the Step cannot be. */
static int name_batches(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_step *m,
                        struct smoe_why *why)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    for (size_t i = 0; i < m->n_batches; i++) {
        uint32_t batch;
        if (!smoe_batch_find(c, trainer, m->batches[i], &batch) || !c->batches[batch].training)
            return smoe_fail(why, SMOE_EUNKNOWN, "STEP.batches[%zu]: no training batch %llu", i,
                             (unsigned long long)m->batches[i]);
        c->batches[batch].in_step = true;
    }
    smoe_list_for_each (it, &t->batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->training && !b->in_step)
            return smoe_fail(why, SMOE_ESTATE,
                             "STEP: batch %llu was submitted before it and is not "
                             "named: name or discard it",
                             (unsigned long long)b->id);
        if (b->in_step && !b->has_gradient)
            return smoe_fail(why, SMOE_ESTATE, "STEP: batch %llu has no gradient yet",
                             (unsigned long long)b->id);
    }
    return 0;
}

static void unname_batches(struct smoe_trainer *t)
{
    smoe_list_for_each (it, &t->batches) {
        struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        b->in_step = b->after_step = false;
    }
}

static int check_step(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_step *m,
                      struct smoe_why *why)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    if (t->step.phase != SMOE_STEP_NONE)
        return smoe_fail(why, SMOE_ESTATE, "STEP %llu: step %llu is not done",
                         (unsigned long long)m->step, (unsigned long long)t->step.number);
    if (m->step != t->step_committed + 1)
        return smoe_fail(why, SMOE_EFIELD, "STEP.step %llu: the next is %llu",
                         (unsigned long long)m->step, (unsigned long long)t->step_committed + 1);
    uint64_t owned = smoe_layers_owned(c, trainer);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((owned >> l & 1) && c->layers[l].shape.optimizer != m->optimizer.kind)
            return smoe_fail(why, SMOE_EFIELD,
                             "STEP.optimizer.kind %u: layer %s was declared with %u",
                             m->optimizer.kind, c->layers[l].name, c->layers[l].shape.optimizer);
    if (!owned)
        return smoe_fail(why, SMOE_ESTATE, "STEP: you own no layer");
    return name_batches(c, trainer, m, why);
}

void smoe_trainer_step(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_step *m)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    if (m->attempt < t->attempt)
        return;
    if (m->step == t->step_committed && t->last_done.step == m->step) {
        smoe_core_send(c, t->session, SMOE_MSG_STEP_DONE)->step_done =
            t->last_done; /* asked again */
        return;
    }
    int rc = check_step(c, trainer, m, &why);
    if (rc) {
        if (t->step.phase == SMOE_STEP_NONE)
            unname_batches(t);
        smoe_core_refuse(c, t->session, rc, why.text, false, 0, m->step);
        return;
    }
    struct smoe_step *s = &t->step;
    s->phase = SMOE_STEP_SETTLING;
    s->layers = smoe_layers_owned(c, trainer);
    s->number = m->step;
    s->optimizer = m->optimizer;
    s->gradient_divisor = m->gradient_divisor;
    s->clip_norm = m->clip_norm;
    s->dense_square_norm = m->dense_square_norm;
    smoe_step_advance(c, trainer);
}

void smoe_step_abort(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    if (t->step.phase == SMOE_STEP_NONE)
        return;
    smoe_assert(t->step.phase != SMOE_STEP_COMMITTING);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((t->step.layers >> l & 1) && c->layers[l].sharded && t->step.phase == SMOE_STEP_NORM)
            smoe_exchange_void(c, l);
    t->step.phase = SMOE_STEP_NONE; /* the Reset that follows an abort unstages it on the workers */
    unname_batches(t);
}

/* ---- answers of workers ---- */

/* Late answers and ones nobody asked for are not expected. */
bool smoe_step_expects(const struct smoe_core *c, uint32_t worker, uint32_t owner, uint64_t number,
                       uint64_t attempt, enum smoe_step_phase phase)
{
    if (owner >= c->options.limits.trainers_max)
        return false;
    const struct smoe_trainer *t = &c->trainers[owner];
    return t->step.phase == phase && t->step.number == number && t->attempt == attempt &&
           awaited(&t->step, worker);
}

static void stage(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_step *s = &t->step;
    double norm = sqrt(s->square_norm);
    s->clip_scale = s->clip_norm > 0 && norm > s->clip_norm ? s->clip_norm / norm : 1;
    s->phase = SMOE_STEP_STAGING;
    await_hosts(c, trainer);
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        if (!awaited(s, w))
            continue;
        smoe_core_send(c, c->fleet.workers[w].session, SMOE_MSG_STEP_STAGE)->step_stage =
            (struct smoe_msg_step_stage){s->number, t->attempt, s->clip_scale, trainer};
    }
}

/* Sums in the order of layer and expert. False if a gradient is not finite: `ret_which` names it. */
static bool sum_norms(struct smoe_core *c, uint32_t trainer, struct smoe_why *ret_which)
{
    struct smoe_step *s = &c->trainers[trainer].step;
    s->square_norm = s->dense_square_norm;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        for (uint32_t e = 0;
             (s->layers >> l & 1) && !c->layers[l].sharded && e < c->layers[l].shape.experts; e++) {
            if (c->layers[l].experts[e].square_norm < 0) {
                smoe_why_set(ret_which, "expert %u of layer %s", e, c->layers[l].name);
                return false;
            }
            s->square_norm += c->layers[l].experts[e].square_norm;
        }
    for (uint32_t w = 0; c->sharding && w < c->fleet.n_used; w++) {
        if (*norm_of(c, trainer, w) < 0) {
            smoe_why_set(ret_which, "one that worker %s owns a part of", c->fleet.workers[w].id);
            return false;
        }
        s->square_norm += *norm_of(c, trainer, w);
    }
    return true; /* far below what a StepDone may carry */
}

/* A gradient that is NaN or infinite: the step is refused and nothing of it reaches a weight. */
static void refuse_not_finite(struct smoe_core *c, uint32_t trainer, const struct smoe_why *which)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    smoe_fail(&why, SMOE_ENOTFINITE, "STEP %llu: a gradient of an expert is not finite: %s",
              (unsigned long long)t->step.number, which->text);
    smoe_core_refuse(c, t->session, SMOE_ENOTFINITE, why.text, false, 0, t->step.number);
    smoe_trainer_reset(c, trainer, why.text);
}

/* -1 is not finite; beyond the square of what may move between layers nothing can be. */
static double credible(double square_norm)
{
    return square_norm <= SMOE_MAGNITUDE_MAX * SMOE_MAGNITUDE_MAX ? square_norm : -1;
}

void smoe_step_norm(struct smoe_core *c, uint32_t worker, const struct smoe_msg_step_norm *m)
{
    uint32_t trainer = m->owner;
    if (!smoe_step_expects(c, worker, trainer, m->step, m->attempt, SMOE_STEP_NORM))
        return;
    for (size_t i = 0; i < m->n_layers; i++) {
        struct smoe_layer *layer = &c->layers[m->layers[i].layer];
        bool asked = c->trainers[trainer].step.layers >> m->layers[i].layer & 1;
        for (size_t j = 0; j < m->layers[i].n && asked; j++)
            if (m->layers[i].experts[j] < layer->shape.experts &&
                layer->experts[m->layers[i].experts[j]].worker == worker)
                layer->experts[m->layers[i].experts[j]].square_norm =
                    credible(m->layers[i].square_norms[j]);
    }
    if (c->sharding)
        *norm_of(c, trainer, worker) = credible(m->shards);
    if (!answered(&c->trainers[trainer].step, worker))
        return;
    struct smoe_why which = {""};
    if (sum_norms(c, trainer, &which))
        stage(c, trainer);
    else if (!smoe_conduct_norms(c, trainer))
        refuse_not_finite(c, trainer, &which);
}

/* The named batches have done their work; those that waited for the step may go on. */
static void end_batches(struct smoe_core *c, struct smoe_trainer *t)
{
    smoe_list_for_each_safe (it, &t->batches) {
        struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        b->after_step = false;
        if (!b->in_step)
            continue;
        smoe_list_for_each (p, &b->parcels)
            smoe_parcel_move(
                c, (uint32_t)(smoe_container_of(p, struct smoe_parcel, batch_link) - c->parcels),
                SMOE_VISIT_COMMITTED);
        smoe_batch_free(c, (uint32_t)(b - c->batches));
    }
}

static void announce(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_step *s = &t->step;
    c->totals.steps++;
    c->epoch = s->done.epoch > c->epoch ? s->done.epoch : c->epoch;
    t->step_committed = s->number;
    await_hosts(c, trainer); /* who took part, before it is another placement's turn */
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (!(s->layers >> l & 1))
            continue;
        layer->step = s->number;
        layer->attempt = s->attempt;
        layer->done = s->done;
        layer->learned = true;
        if (layer->sharded)
            smoe_sharded_committed(c, l);
    }
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (awaited(s, w))
            smoe_core_send(c, c->fleet.workers[w].session, SMOE_MSG_STEP_COMMIT)->step_commit =
                (struct smoe_msg_step_commit){s->number, s->attempt, s->done.epoch, trainer};
    s->phase = SMOE_STEP_NONE;
    end_batches(c, t);
    t->last_done = s->done;
    if (t->state ==
        SMOE_TRAINER_LIVE) /* before a Need that waited: what is committed is not asked for */
        smoe_core_send(c, t->session, SMOE_MSG_STEP_DONE)->step_done = t->last_done;
    c->solve_useful = true;
}

static void commit(struct smoe_core *c, uint32_t trainer)
{
    struct smoe_step *s = &c->trainers[trainer].step;
    s->phase = SMOE_STEP_COMMITTING;
    s->done = (struct smoe_msg_step_done){s->number, ++c->epochs, s->clip_scale, s->square_norm};
    if (c->options.journal) {
        c->n_committing++;
        s->record = smoe_journal_commit(c, trainer);
        return;
    }
    announce(c, trainer);
    smoe_layers_advance(c);
}

/* Commits what is staged everywhere, unless somebody who staged it has left: its loss comes first. */
static void commit_staged(struct smoe_core *c)
{
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].step.phase == SMOE_STEP_STAGING && !c->trainers[t].step.n_awaiting &&
            !c->n_leaving)
            commit(c, t);
}

const struct smoe_step *smoe_step_committing(const struct smoe_core *c,
                                             const struct smoe_layer *layer)
{
    if (layer->owner == SMOE_NONE)
        return NULL;
    const struct smoe_step *s = &c->trainers[layer->owner].step;
    bool of_it = s->layers >> (layer - c->layers) & 1;
    return s->phase == SMOE_STEP_COMMITTING && of_it ? s : NULL;
}

void smoe_step_staged(struct smoe_core *c, uint32_t worker, const struct smoe_msg_step_staged *m)
{
    if (smoe_step_expects(c, worker, m->owner, m->step, m->attempt, SMOE_STEP_STAGING) &&
        answered(&c->trainers[m->owner].step, worker))
        commit_staged(c);
}

void smoe_step_journalled(struct smoe_core *c, uint64_t sequence)
{
    bool any = false;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++) {
        struct smoe_step *s = &c->trainers[t].step;
        if (s->phase != SMOE_STEP_COMMITTING || s->record > sequence)
            continue;
        c->n_committing--;
        any = true;
        announce(c, t);
        smoe_trainer_catch_up(c, t);
    }
    if (!c->n_committing && c->n_leaving) {
        smoe_session_bury_leaving(c);
        commit_staged(c);
    }
    if (any)
        smoe_layers_advance(c);
}
