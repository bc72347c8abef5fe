/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers: who owns them, where their experts stand, when they are ready.
 *
 *     FREE -> WAITING -> READY <-> WAITING (a host left, or changes)
 *                \          \
 *                 +----------+--> LOST (nobody has an expert's state) -> FREE
 *
 * A layer is (name, run): the run is a random number of the training run, so that a trainer that comes
 * back, and a worker that still holds something, mean the same experts as the daemon, restarted or not.
 * Which worker has which expert is standing.c's.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"
#include "daemon/core/state_relay.h"

const char *smoe_layer_state_name(enum smoe_layer_state state)
{
    static const char *const names[SMOE_LAYER_STATES] = {"free", "waiting", "ready", "lost"};
    return names[state];
}

static void layer_move(struct smoe_core *c, uint32_t l, enum smoe_layer_state to)
{
    struct smoe_layer *layer = &c->layers[l];
    static const unsigned legal[SMOE_LAYER_STATES] = {
        [SMOE_LAYER_FREE] = 1u << SMOE_LAYER_WAITING,
        [SMOE_LAYER_WAITING] =
            1u << SMOE_LAYER_READY | 1u << SMOE_LAYER_LOST | 1u << SMOE_LAYER_FREE,
        [SMOE_LAYER_READY] =
            1u << SMOE_LAYER_WAITING | 1u << SMOE_LAYER_LOST | 1u << SMOE_LAYER_FREE,
        [SMOE_LAYER_LOST] = 1u << SMOE_LAYER_FREE,
    };
    smoe_assert(legal[layer->state] >> to & 1);
    layer->state = to;
    c->layers_used = to == SMOE_LAYER_FREE ? c->layers_used & ~(UINT64_C(1) << l)
                                           : c->layers_used | UINT64_C(1) << l;
}

/* A forward visit multiplies by two matrices of d x h (three for SwiGLU); a multiply-add is 2 flops. */
static uint64_t flops_of(const struct smoe_layer_shape *shape)
{
    uint64_t matrices = shape->activation == 3 ? 3 : 2;
    return 2 * matrices * shape->d_model * shape->d_ff;
}

/* A second copy must be able to travel: its whole state is one raw part. */
static uint32_t copies_of(const struct smoe_core *c, const struct smoe_layer *layer)
{
    uint64_t bytes = smoe_relay_bytes(layer, smoe_copies_parts(layer));
    return bytes <= c->options.tensor_bytes_max ? c->options.settings.copies : 1;
}

bool smoe_layer_find(const struct smoe_core *c, const char *name, uint32_t *ret)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        if (c->layers[l].state == SMOE_LAYER_FREE || strcmp(c->layers[l].name, name) != 0)
            continue;
        *ret = l;
        return true;
    }
    return false;
}

uint32_t smoe_layer_new(struct smoe_core *c, const char *name, uint64_t run,
                        const struct smoe_layer_shape *shape)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (layer->state != SMOE_LAYER_FREE)
            continue;
        memset(layer, 0, offsetof(struct smoe_layer, experts));
        memset(layer->experts, 0, shape->experts * sizeof *layer->experts);
        memcpy(layer->name, name, sizeof layer->name);
        layer->run = run;
        layer->shape = *shape;
        layer->forward_flops = flops_of(shape);
        layer->owner = SMOE_NONE;
        layer->copies = copies_of(c, layer);
        for (uint32_t e = 0; e < shape->experts; e++)
            layer->experts[e].worker = layer->experts[e].follower = layer->experts[e].filling =
                SMOE_NONE;
        for (uint32_t w = 0; w < c->fleet.n_used; w++) { /* of one that had the number before */
            c->fleet.workers[w].hosted_layers &= ~(UINT64_C(1) << l);
            c->fleet.workers[w].refused_copies &= ~(UINT64_C(1) << l);
            c->fleet.workers[w].host_number[l] = 0;
        }
        layer_move(c, l, SMOE_LAYER_WAITING);
        if (c->options.sharded)
            smoe_sharded_begin(c, l);
        return l;
    }
    return SMOE_NONE;
}

static void free_layer(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t b = 0; b < c->options.limits.batches_max; b++)
        if (c->batches[b].used && c->batches[b].layer == l)
            smoe_trainer_reset(c, c->batches[b].trainer, "the layer was replaced");
    if (layer->sharded) {
        smoe_sharded_end(c, l);
    } else {
        for (uint32_t e = 0; e < layer->shape.experts; e++)
            smoe_standing_clear(c, l, e);
        smoe_standing_tell(c, l);
    }
    smoe_freezing_drop(c, l);
    smoe_journal_drop(c, l);
    smoe_relay_drop_layer(c, l, "the layer was replaced");
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        struct smoe_trainer *t = &c->trainers[i];
        bool wanted = t->wanted >> l & 1;
        t->attached &= ~(UINT64_C(1) << l);
        t->wanted &= ~(UINT64_C(1) << l);
        if (wanted && t->state == SMOE_TRAINER_LIVE)
            smoe_core_refuse(c, t->session, SMOE_ELOST, "the layer was replaced", false, 0,
                             t->requests[l]);
    }
    layer_move(c, l, SMOE_LAYER_FREE);
}

static void answer_declare(struct smoe_core *c, uint32_t trainer, uint32_t l)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    const struct smoe_layer *layer = &c->layers[l];
    t->attached |= UINT64_C(1) << l;
    t->wanted &= ~(UINT64_C(1) << l);
    if (layer->owner == trainer) { /* the same for all its layers */
        if (layer->step > t->step_committed)
            t->step_committed = layer->step;
        if (layer->done.step > t->last_done.step)
            t->last_done = layer->done;
    }
    struct smoe_msg_layer_ready *m =
        &smoe_core_send(c, t->session, SMOE_MSG_LAYER_READY)->layer_ready;
    m->request = t->requests[l];
    m->layer = l;
    m->shape = layer->shape;
    m->run = layer->run;
    m->step = layer->step;
    m->router = layer->router.in_force;
}

void smoe_layer_lose(struct smoe_core *c, uint32_t l, int code, const char *sentence)
{
    layer_move(c, l, SMOE_LAYER_LOST);
    if (c->layers[l].sharded)
        smoe_exchange_void(c, l);
    smoe_relay_drop_layer(c, l, sentence);
    uint64_t bit = UINT64_C(1) << l;
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        struct smoe_trainer *t = &c->trainers[i];
        if (t->state == SMOE_TRAINER_LIVE && ((t->attached | t->wanted) & bit))
            smoe_core_refuse(c, t->session, code, sentence, true, 0,
                             t->wanted & bit ? t->requests[l] : 0);
    }
}

static void make_ready(struct smoe_core *c, uint32_t l)
{
    layer_move(c, l, SMOE_LAYER_READY);
    c->solve_useful = true;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (c->trainers[t].state == SMOE_TRAINER_LIVE && (c->trainers[t].wanted >> l & 1))
            answer_declare(c, t, l);
}

void smoe_layers_advance(struct smoe_core *c)
{
    for (uint64_t left = c->layers_used; left; left &= left - 1) {
        uint32_t l = (uint32_t)__builtin_ctzll(left);
        struct smoe_layer *layer = &c->layers[l];
        bool alive = layer->state == SMOE_LAYER_WAITING || layer->state == SMOE_LAYER_READY;
        if (!alive || !(layer->sharded ? smoe_sharded_advance(c, l) : smoe_standing_advance(c, l)))
            continue;
        bool complete = layer->sharded ? smoe_sharded_complete(c, l) : smoe_standing_complete(c, l);
        if (complete && layer->state == SMOE_LAYER_WAITING)
            make_ready(c, l);
        else if (!complete && layer->state == SMOE_LAYER_READY)
            layer_move(c, l, SMOE_LAYER_WAITING);
        if (layer->sharded)
            smoe_sharded_serve_fetches(c, l);
        else if (complete)
            smoe_relay_go_on(c, l); /* a follower in its host's place is there at once, too */
        if (!layer->sharded)
            smoe_copies_advance(c, l);
    }
    for (uint64_t left = c->layers_used; left; left &= left - 1) { /* all know who holds what */
        const struct smoe_layer *layer = &c->layers[__builtin_ctzll(left)];
        if (layer->state == SMOE_LAYER_READY && layer->owner != SMOE_NONE)
            smoe_step_advance(c, layer->owner);
    }
}

/* A worker from before staleness carries out a Host without it, and would add up the gradients of two steps. */
static struct smoe_msg_hosted judged(const struct smoe_layer *layer,
                                     const struct smoe_msg_hosted *m)
{
    struct smoe_msg_hosted judged = *m;
    if (m->code || m->staleness == layer->shape.staleness)
        return judged;
    judged.code = SMOE_EVERSION;
    snprintf(judged.message, sizeof judged.message, "it knows nothing of staleness %u",
             layer->shape.staleness);
    return judged;
}

void smoe_layer_hosted(struct smoe_core *c, uint32_t worker, const struct smoe_msg_hosted *m)
{
    uint32_t l = m->layer;
    struct smoe_worker *w = &c->fleet.workers[worker];
    if (!w->host_number[l] || (m->number && m->number != w->host_number[l]))
        return; /* nobody asked; or it answers a Host that another has followed since */
    w->host_number[l] = 0;
    if (c->layers[l].state == SMOE_LAYER_FREE || !smoe_standing_holds(&c->layers[l], worker))
        return; /* dropped in the meantime */
    struct smoe_msg_hosted answer = judged(&c->layers[l], m);
    if (answer.code && c->layers[l].sharded)
        smoe_sharded_refused(c, l, worker, &answer);
    else if (answer.code)
        smoe_standing_refused(c, l, worker, &answer);
    else if (!(w->host_due >> l & 1))
        w->hosted_layers |= UINT64_C(1) << l;
    smoe_layers_advance(c);
}

/* ---- workers that come and go ---- */

static const struct smoe_inventory_layer *held_of(const struct smoe_layer *layer,
                                                  const struct smoe_msg_inventory *m)
{
    for (size_t i = 0; i < m->n_layers; i++)
        if (m->layers[i].run == layer->run && strcmp(m->layers[i].name, layer->name) == 0)
            return &m->layers[i];
    return NULL;
}

/* What it holds of layers that are not (or no longer) known here only takes its memory. */
static void drop_unknown(struct smoe_core *c, uint32_t worker, const struct smoe_inventory_layer *m)
{
    uint32_t l;
    if (!smoe_layer_find(c, m->name, &l) || c->layers[l].run != m->run)
        smoe_standing_drop(c, worker, m->name, m->run, &m->shape);
}

static void returned(struct smoe_core *c, uint32_t l, uint32_t worker,
                     const struct smoe_inventory_layer *held)
{
    if (c->layers[l].sharded)
        smoe_sharded_returned(c, l, worker, held);
    else
        smoe_standing_returned(c, l, worker, held);
}

void smoe_layer_inventory(struct smoe_core *c, uint32_t worker, const struct smoe_msg_inventory *m)
{
    for (size_t i = 0; i < m->n_layers; i++)
        drop_unknown(c, worker, &m->layers[i]);
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (c->layers[l].state == SMOE_LAYER_WAITING || c->layers[l].state == SMOE_LAYER_READY)
            returned(c, l, worker, held_of(&c->layers[l], m));
    smoe_layers_advance(c);
}

static void leave_all(struct smoe_core *c, uint32_t worker, bool for_good)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        if (c->layers[l].state == SMOE_LAYER_FREE)
            continue;
        if (c->layers[l].sharded && for_good)
            smoe_sharded_worker_forgotten(c, l, worker);
        else if (c->layers[l].sharded)
            smoe_sharded_worker_lost(c, l, worker);
        else if (for_good)
            smoe_standing_worker_forgotten(c, l, worker);
        else
            smoe_standing_worker_lost(c, l, worker);
    }
    smoe_layers_advance(c);
}

void smoe_layer_worker_lost(struct smoe_core *c, uint32_t worker)
{
    leave_all(c, worker, false);
}

void smoe_layer_worker_forgotten(struct smoe_core *c, uint32_t worker)
{
    leave_all(c, worker, true);
}

/* ---- trainers ---- */

uint64_t smoe_layers_owned(const struct smoe_core *c, uint32_t trainer)
{
    uint64_t bits = 0;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (c->layers[l].state != SMOE_LAYER_FREE && c->layers[l].owner == trainer)
            bits |= UINT64_C(1) << l;
    return bits;
}

void smoe_layers_release_owner(struct smoe_core *c, uint32_t trainer)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if (c->layers[l].owner == trainer)
            c->layers[l].owner = SMOE_NONE;
}

static bool same_shape(const struct smoe_layer_shape *a, const struct smoe_layer_shape *b)
{
    return a->experts == b->experts && a->d_model == b->d_model && a->d_ff == b->d_ff &&
           a->activation == b->activation && a->dtype == b->dtype && a->optimizer == b->optimizer &&
           a->seed == b->seed && a->zero_output == b->zero_output && a->wire == b->wire &&
           a->staleness == b->staleness;
}

/* Name of the trainer that owns the layer, or did when the daemon was stopped and may come back; "". */
static const char *owner_of(const struct smoe_core *c, const struct smoe_layer *layer)
{
    if (layer->owner != SMOE_NONE)
        return c->trainers[layer->owner].name;
    return c->now_ns < layer->owner_until_ns ? layer->owner_name : "";
}

/* Has a trainer whose step is being committed a batch on it? That cannot be taken back now. */
static bool committing_on(const struct smoe_core *c, uint32_t l)
{
    for (uint32_t b = 0; b < c->options.limits.batches_max; b++)
        if (c->batches[b].used && c->batches[b].layer == l &&
            c->trainers[c->batches[b].trainer].step.phase == SMOE_STEP_COMMITTING)
            return true;
    return false;
}

/* Can a layer be declared so? `sharded`: it will be, or is. */
static int check_shape(const struct smoe_core *c, const struct smoe_msg_layer_declare *m,
                       bool sharded, struct smoe_why *why)
{
    struct smoe_layer wanted = {.shape = m->shape};
    if (!smoe_parcel_rows_max(c, &wanted))
        return smoe_fail(why, SMOE_ESHAPE,
                         "layer %s: a row of %zu bytes does not fit a raw part of at most %llu",
                         m->name, smoe_row_bytes(&wanted),
                         (unsigned long long)c->options.tensor_bytes_max);
    if (m->shape.wire != SMOE_WIRE_REAL && !sharded)
        return smoe_fail(why, SMOE_ESHAPE,
                         "layer %s: bf16 on the wire is for sharded layers, and this gateway has "
                         "placement.rule pinned",
                         m->name);
    return 0;
}

/* The layer this declaration means: found, replaced or new. A code and a sentence if it may not. */
static int resolve(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_layer_declare *m,
                   uint32_t *ret_layer, struct smoe_why *why)
{
    uint32_t l = SMOE_NONE;
    bool found = smoe_layer_find(c, m->name, &l);
    if (m->evaluate_only && !found)
        return smoe_fail(why, SMOE_EUNKNOWN, "layer %s: no such layer", m->name);
    bool same_run = found && (m->evaluate_only || c->layers[l].run == m->run);
    /* Its trainer may not have heard of the step that was lost: then its own next step would be answered as done. */
    if (same_run && c->layers[l].state == SMOE_LAYER_LOST &&
        (m->evaluate_only || m->step > 0 || c->layers[l].step > 0))
        return smoe_fail(why, SMOE_ELOST,
                         "layer %s: its experts are lost: declare it new and restore a checkpoint",
                         m->name);
    if (m->evaluate_only) {
        *ret_layer = l;
        return 0;
    }
    int rc =
        check_shape(c, m, c->options.sharded || (same_run && c->layers[l].sharded != NULL), why);
    if (rc)
        return rc;
    if (found) {
        struct smoe_layer *layer = &c->layers[l];
        const char *owner = owner_of(c, layer);
        if (strcmp(owner, c->trainers[trainer].name) != 0 && *owner)
            return smoe_fail(why, SMOE_EEXIST, "layer %s: trainer %s owns it", m->name, owner);
        if (layer->run == m->run && layer->state != SMOE_LAYER_LOST) {
            bool behind = m->step > layer->step; /* workers that never heard of its last commit */
            if (behind)
                return smoe_fail(why, SMOE_ELOST,
                                 "layer %s: the workers hold step %llu, its trainer has committed "
                                 "step %llu: resume from a checkpoint",
                                 m->name, (unsigned long long)layer->step,
                                 (unsigned long long)m->step);
            *ret_layer = l;
            return same_shape(&layer->shape, &m->shape)
                       ? 0
                       : smoe_fail(why, SMOE_ESHAPE, "layer %s: run %016llx has another shape",
                                   m->name, (unsigned long long)m->run);
        }
        if (layer->owner == trainer && layer->state != SMOE_LAYER_LOST)
            return smoe_fail(why, SMOE_EEXIST, "layer %s: declared already with another run",
                             m->name);
        if (committing_on(c, l))
            return smoe_fail(why, SMOE_ESTATE,
                             "layer %s: in use by a step being committed: try again", m->name);
        free_layer(c, l);
    }
    if (m->step > 0)
        return smoe_fail(
            why, SMOE_ELOST,
            "layer %s: not known here, and so its step %llu is not: declare it new and "
            "restore a checkpoint",
            m->name, (unsigned long long)m->step);
    l = smoe_layer_new(c, m->name, m->run, &m->shape);
    if (l == SMOE_NONE)
        return smoe_fail(why, SMOE_ELIMIT, "layer %s: %d layers exist already", m->name,
                         SMOE_LAYERS_MAX);
    *ret_layer = l;
    return 0;
}

void smoe_layer_declared(struct smoe_core *c, uint32_t trainer,
                         const struct smoe_msg_layer_declare *m)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    struct smoe_why why;
    uint32_t l = SMOE_NONE;
    int rc = resolve(c, trainer, m, &l, &why);
    if (rc) {
        smoe_core_refuse(c, t->session, rc, why.text, false, 0, m->request);
        return;
    }
    if (!m->evaluate_only && c->layers[l].owner != trainer) {
        c->layers[l].owner = trainer;
        memcpy(c->layers[l].owner_name, t->name, sizeof t->name);
        c->journal_due |= UINT64_C(1) << l;
    }
    t->requests[l] = m->request;
    t->wanted |= UINT64_C(1) << l;
    if (c->layers[l].state == SMOE_LAYER_READY)
        answer_declare(c, trainer, l);
    smoe_layers_advance(c);
}

struct smoe_layer_view smoe_core_layer(const struct smoe_core *core, uint32_t l)
{
    const struct smoe_layer *layer = &core->layers[l];
    const struct smoe_sharded *s = layer->sharded;
    return (struct smoe_layer_view){
        .state = layer->state,
        .name = layer->name,
        .run = layer->run,
        .step = layer->step,
        .shape = layer->shape,
        .forward_flops = layer->forward_flops,
        .experts = layer->experts,
        .owner = layer->owner,
        .router = layer->router.in_force,
        .routing = &layer->router.report,
        .sharded = s != NULL,
        .replica_first = s ? s->replica_first : NULL,
        .replica_worker = s ? s->replica_worker : NULL,
        .map = s ? &s->map : NULL,
        .iterations = s ? s->iterations : 0,
        .part_ns = s ? s->part_ns : NULL,
        .traffic = s ? s->traffic : NULL,
    };
}
