/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers: who owns them, where their experts stand, when they are ready.
 *
 *     FREE -> WAITING -> READY <-> WAITING (a host left and may return)
 *                \          \
 *                 +----------+--> LOST (an expert's state is gone) -> FREE
 *
 * A layer is (name, run): the run is a random number of the training run, so that a restarted daemon
 * can tell, from what workers still hold, whether a trainer that comes back means the same experts.
 * Such layers are adopted from inventories; nobody owns them until their trainer declares them again.
 *
 * Placement is static and uniform: expert e of a new layer stands on the (e mod W)-th of the W ready
 * workers in order of their ids.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/core_state.h"

const char *smoe_layer_state_name(enum smoe_layer_state state)
{
    static const char *const names[SMOE_LAYER_STATES] = {"free", "waiting", "ready", "lost"};
    return names[state];
}

static void layer_move(struct smoe_layer *layer, enum smoe_layer_state to)
{
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
}

bool smoe_layer_on_worker(const struct smoe_layer *layer, uint32_t worker)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker)
            return true;
    return false;
}

size_t smoe_layers_on_worker(struct smoe_core *c, uint64_t layers, uint32_t worker,
                             const uint32_t **ret_layers)
{
    uint32_t *list = smoe_core_list(c, SMOE_LAYERS_MAX * sizeof *list);
    size_t n = 0;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        if ((layers >> l & 1) && smoe_layer_on_worker(&c->layers[l], worker))
            list[n++] = l;
    smoe_core_list_trim(c, list, n * sizeof *list);
    *ret_layers = list;
    return n;
}

/* A forward visit multiplies by two matrices of d x h (three for SwiGLU); a multiply-add is 2 flops. */
static uint64_t flops_of(const struct smoe_layer_shape *shape)
{
    uint64_t matrices = shape->activation == 3 ? 3 : 2;
    return 2 * matrices * shape->d_model * shape->d_ff;
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
        memset(layer, 0, sizeof *layer);
        memcpy(layer->name, name, sizeof layer->name);
        layer->run = run;
        layer->shape = *shape;
        layer->forward_flops = flops_of(shape);
        layer->owner = SMOE_NONE;
        for (uint32_t e = 0; e < shape->experts; e++)
            layer->experts[e].worker = SMOE_NONE;
        layer_move(layer, SMOE_LAYER_WAITING);
        return l;
    }
    return SMOE_NONE;
}

/* ---- hosts ---- */

void smoe_layer_send_host(struct smoe_core *c, uint32_t l, uint32_t worker, bool none)
{
    const struct smoe_layer *layer = &c->layers[l];
    uint32_t *experts = smoe_core_list(c, layer->shape.experts * sizeof *experts);
    size_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts && !none; e++)
        if (layer->experts[e].worker == worker)
            experts[n++] = e;
    smoe_core_list_trim(c, experts, n * sizeof *experts);
    struct smoe_worker *w = &c->fleet.workers[worker];
    w->hosted_layers &= ~(UINT64_C(1) << l);
    struct smoe_msg_host *host = &smoe_core_send(c, w->session, SMOE_MSG_HOST)->host;
    host->layer = l;
    memcpy(host->name, layer->name, sizeof host->name);
    host->run = layer->run;
    host->shape = layer->shape;
    host->experts = experts;
    host->n_experts = n;
}

static void free_layer(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t b = 0; b < c->options.limits.batches_max; b++)
        if (c->batches[b].used && c->batches[b].layer == l)
            smoe_trainer_reset(c, c->batches[b].trainer, "the layer was replaced");
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (smoe_worker_live(&c->fleet.workers[w]) && smoe_layer_on_worker(layer, w))
            smoe_layer_send_host(c, l, w, true);
    smoe_relay_drop_layer(c, l);
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        struct smoe_trainer *t = &c->trainers[i];
        bool wanted = t->wanted >> l & 1;
        t->attached &= ~(UINT64_C(1) << l);
        t->wanted &= ~(UINT64_C(1) << l);
        if (wanted && t->state == SMOE_TRAINER_LIVE)
            smoe_core_refuse(c, t->session, SMOE_ELOST, "the layer was replaced", false, 0,
                             t->requests[l]);
    }
    layer_move(layer, SMOE_LAYER_FREE);
}

/* Indices of the ready workers in order of their ids; returns how many. */
static uint32_t ready_workers(const struct smoe_core *c, uint32_t *ret_sorted)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        if (c->fleet.workers[i].state != SMOE_WORKER_READY)
            continue;
        uint32_t at = n++;
        for (;
             at > 0 && strcmp(c->fleet.workers[ret_sorted[at - 1]].id, c->fleet.workers[i].id) > 0;
             at--)
            ret_sorted[at] = ret_sorted[at - 1];
        ret_sorted[at] = i;
    }
    return n;
}

static bool placed(const struct smoe_layer *layer)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == SMOE_NONE)
            return false;
    return true;
}

/* Places a new layer if there are workers enough. */
static void place(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    uint32_t *sorted = smoe_core_list(c, c->fleet.n_used * sizeof *sorted);
    uint32_t n = ready_workers(c, sorted);
    bool enough = n > 0 && n >= c->options.settings.workers_min;
    for (uint32_t e = 0; enough && e < layer->shape.experts; e++)
        layer->experts[e].worker = sorted[e % n];
    smoe_core_list_trim(c, sorted, 0);
    uint32_t hosts = n < layer->shape.experts ? n : layer->shape.experts;
    for (uint32_t e = 0; enough && e < hosts;
         e++) { /* the first experts stand on one worker each */
        uint32_t worker = layer->experts[e].worker;
        c->fleet.workers[worker].reference_flops = layer->forward_flops;
        smoe_layer_send_host(c, l, worker, false);
    }
}

static bool all_hosted(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        uint32_t host = layer->experts[e].worker;
        if (host == SMOE_NONE || !smoe_worker_live(&c->fleet.workers[host]) ||
            !(c->fleet.workers[host].hosted_layers >> l & 1))
            return false;
    }
    return true;
}

static void answer_declare(struct smoe_core *c, uint32_t trainer, uint32_t l)
{
    struct smoe_trainer *t = &c->trainers[trainer];
    const struct smoe_layer *layer = &c->layers[l];
    t->attached |= UINT64_C(1) << l;
    t->wanted &= ~(UINT64_C(1) << l);
    if (layer->owner == trainer && layer->step > t->step_committed)
        t->step_committed =
            layer->step; /* known from the workers: the daemon is new, or the trainer */
    if (layer->owner == trainer)
        t->step_committed = layer->step; /* the same for all its layers */
    struct smoe_msg_layer_ready *m =
        &smoe_core_send(c, t->session, SMOE_MSG_LAYER_READY)->layer_ready;
    m->request = t->requests[l];
    m->layer = l;
    m->shape = layer->shape;
    m->run = layer->run;
    m->step = layer->step;
}

void smoe_layer_lose(struct smoe_core *c, uint32_t l, int code, const char *sentence)
{
    layer_move(&c->layers[l], SMOE_LAYER_LOST);
    uint64_t bit = UINT64_C(1) << l;
    for (uint32_t i = 0; i < c->options.limits.trainers_max; i++) {
        struct smoe_trainer *t = &c->trainers[i];
        if (t->state == SMOE_TRAINER_LIVE && ((t->attached | t->wanted) & bit))
            smoe_core_refuse(c, t->session, code, sentence, true, 0,
                             t->wanted & bit ? t->requests[l] : 0);
    }
}

void smoe_layers_advance(struct smoe_core *c)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (layer->state != SMOE_LAYER_WAITING)
            continue;
        if (!layer->adopted && !placed(layer))
            place(c, l);
        if (!placed(layer) || !all_hosted(c, l))
            continue;
        layer_move(layer, SMOE_LAYER_READY);
        c->solve_useful = true;
        for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
            if (c->trainers[t].state == SMOE_TRAINER_LIVE && (c->trainers[t].wanted >> l & 1))
                answer_declare(c, t, l);
        if (layer->owner != SMOE_NONE)
            smoe_step_advance(c, layer->owner);
    }
}

void smoe_layer_hosted(struct smoe_core *c, uint32_t worker, const struct smoe_msg_hosted *m)
{
    uint32_t l = m->layer;
    if (c->layers[l].state == SMOE_LAYER_FREE || !smoe_layer_on_worker(&c->layers[l], worker))
        return; /* dropped in the meantime */
    if (m->code) {
        struct smoe_why why;
        smoe_fail(&why, m->code, "layer %s: worker %s cannot host it: %s", c->layers[l].name,
                  c->fleet.workers[worker].id, m->message);
        if (c->layers[l].state != SMOE_LAYER_LOST)
            smoe_layer_lose(c, l, m->code, why.text);
        return;
    }
    c->fleet.workers[worker].hosted_layers |= UINT64_C(1) << l;
    smoe_layers_advance(c);
}

/* ---- hosts that leave ---- */

void smoe_layer_worker_lost(struct smoe_core *c, uint32_t worker)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (layer->state == SMOE_LAYER_READY && smoe_layer_on_worker(layer, worker))
            layer_move(layer, SMOE_LAYER_WAITING);
    }
}

void smoe_layer_worker_forgotten(struct smoe_core *c, uint32_t worker)
{
    struct smoe_why why;
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_layer *layer = &c->layers[l];
        if (layer->state == SMOE_LAYER_FREE || !smoe_layer_on_worker(layer, worker))
            continue;
        if (layer->state == SMOE_LAYER_WAITING && layer->step > 0) {
            smoe_fail(&why, SMOE_ELOST,
                      "layer %s: worker %s took experts of step %llu with it: "
                      "resume from a checkpoint",
                      layer->name, c->fleet.workers[worker].id, (unsigned long long)layer->step);
            smoe_layer_lose(c, l, SMOE_ELOST, why.text);
        }
        bool replace = layer->state == SMOE_LAYER_WAITING && !layer->adopted;
        for (uint32_t e = 0; e < layer->shape.experts; e++)
            if (layer->experts[e].worker == worker || replace)
                layer->experts[e].worker =
                    SMOE_NONE; /* place() starts over: step 0 is in the seed */
    }
    smoe_layers_advance(c);
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
           a->seed == b->seed && a->zero_output == b->zero_output;
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
    if (same_run && c->layers[l].state == SMOE_LAYER_LOST && (m->evaluate_only || m->step > 0))
        return smoe_fail(why, SMOE_ELOST,
                         "layer %s: its experts are lost: declare it new and restore a checkpoint",
                         m->name);
    if (m->evaluate_only) {
        *ret_layer = l;
        return 0;
    }
    struct smoe_layer wanted = {.shape = m->shape};
    if (!smoe_parcel_rows_max(c, &wanted))
        return smoe_fail(why, SMOE_ESHAPE,
                         "layer %s: a row of %zu bytes does not fit a raw part of at most %llu",
                         m->name, smoe_row_bytes(&wanted),
                         (unsigned long long)c->options.tensor_bytes_max);
    if (found) {
        struct smoe_layer *layer = &c->layers[l];
        bool foreign = layer->owner != SMOE_NONE && layer->owner != trainer;
        if (foreign)
            return smoe_fail(why, SMOE_EEXIST, "layer %s: trainer %s owns it", m->name,
                             c->trainers[layer->owner].name);
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
        free_layer(c, l);
    }
    l = smoe_layer_new(c, m->name, m->run, &m->shape);
    if (l == SMOE_NONE)
        return smoe_fail(why, SMOE_ELIMIT, "layer %s: %d layers exist already", m->name,
                         SMOE_LAYERS_MAX);
    c->layers[l].step = m->step;
    c->layers[l].adopted = m->step > 0; /* its state must be somewhere: wait for the workers */
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
    if (!m->evaluate_only)
        c->layers[l].owner = trainer;
    t->requests[l] = m->request;
    t->wanted |= UINT64_C(1) << l;
    if (c->layers[l].state == SMOE_LAYER_READY)
        answer_declare(c, trainer, l);
    else
        smoe_layers_advance(c);
}

struct smoe_layer_view smoe_core_layer(const struct smoe_core *core, uint32_t l)
{
    const struct smoe_layer *layer = &core->layers[l];
    return (struct smoe_layer_view){
        .state = layer->state,
        .name = layer->name,
        .run = layer->run,
        .step = layer->step,
        .shape = layer->shape,
        .forward_flops = layer->forward_flops,
        .experts = layer->experts,
        .owner = layer->owner,
    };
}
