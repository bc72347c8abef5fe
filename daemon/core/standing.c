/* SPDX-License-Identifier: Apache-2.0
 *
 * Where experts stand. Each has a host, which serves its visits, and a follower, which keeps a second
 * copy of its state and takes part in every step, so that at each commit both are equal bit for bit.
 *
 * standing_choose.c chooses them. This file puts workers into roles, tells them with Host, and takes in
 * what those that come, go or refuse change.
 */
#include <string.h>

#include "daemon/core/sharded.h"

/* ---- who stands where ---- */

bool smoe_standing_usable(const struct smoe_core *c, uint32_t worker)
{
    return worker != SMOE_NONE && smoe_worker_here(&c->fleet.workers[worker]);
}

bool smoe_layer_on_worker(const struct smoe_layer *layer, uint32_t worker)
{
    if (layer->sharded)
        return smoe_sharded_on_worker(layer->sharded, worker);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker || layer->experts[e].follower == worker)
            return true;
    return false;
}

bool smoe_standing_holds(const struct smoe_layer *layer, uint32_t worker)
{
    if (layer->sharded)
        return smoe_sharded_on_worker(layer->sharded, worker);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker || layer->experts[e].follower == worker ||
            layer->experts[e].filling == worker)
            return true;
    return false;
}

bool smoe_core_drained(const struct smoe_core *core, uint32_t worker)
{
    const struct smoe_worker *w = &core->fleet.workers[worker];
    if (w->state != SMOE_WORKER_DRAINING || w->account.in_flight)
        return false;
    for (uint64_t left = core->layers_used; left; left &= left - 1)
        if (smoe_standing_holds(&core->layers[__builtin_ctzll(left)], worker))
            return false;
    return true;
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

/* Puts the worker into one of the expert's roles, and marks both for a new Host. A state that is on its
 * way from the host to the one that is being filled is void if either changes. */
void smoe_standing_change(struct smoe_core *c, uint32_t l, uint32_t *role, uint32_t worker)
{
    uint64_t bit = UINT64_C(1) << l;
    struct smoe_expert_view *first = c->layers[l].experts;
    uint32_t expert = (uint32_t)(((uint8_t *)role - (uint8_t *)first) / (ptrdiff_t)sizeof *first);
    if (*role == worker)
        return;
    if (role != &first[expert].follower)
        smoe_copies_void(c, l, expert);
    if (*role != SMOE_NONE)
        c->fleet.workers[*role].host_due |= bit;
    if (worker != SMOE_NONE)
        c->fleet.workers[worker].host_due |= bit;
    *role = worker;
    c->journal_due |= UINT64_C(1) << l;
}

void smoe_standing_clear(struct smoe_core *c, uint32_t l, uint32_t expert)
{
    struct smoe_expert_view *e = &c->layers[l].experts[expert];
    smoe_standing_change(c, l, &e->worker, SMOE_NONE);
    smoe_standing_change(c, l, &e->follower, SMOE_NONE);
    smoe_standing_change(c, l, &e->filling, SMOE_NONE);
}

void smoe_standing_filled(struct smoe_core *c, uint32_t l, uint32_t expert)
{
    struct smoe_expert_view *e = &c->layers[l].experts[expert];
    uint32_t worker = e->filling;
    if (e->follower != SMOE_NONE)
        c->fleet.workers[e->follower].host_due |= UINT64_C(1) << l;
    e->filling = SMOE_NONE; /* for the worker itself nothing changes */
    e->follower = worker;
    c->journal_due |= UINT64_C(1) << l;
}

/* ---- telling workers ---- */

void smoe_standing_drop(struct smoe_core *c, uint32_t worker, const smoe_name name, uint64_t run,
                        const struct smoe_layer_shape *shape)
{
    struct smoe_msg_host *m =
        &smoe_core_send(c, c->fleet.workers[worker].session, SMOE_MSG_HOST)->host;
    memcpy(m->name, name, sizeof m->name);
    m->run = run;
    m->shape = *shape;
}

static size_t list_served(struct smoe_core *c, const struct smoe_layer *layer, uint32_t worker,
                          const uint32_t **ret)
{
    uint32_t *list = smoe_core_list(c, layer->shape.experts * sizeof *list);
    size_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker)
            list[n++] = e;
    smoe_core_list_trim(c, list, n * sizeof *list);
    *ret = list;
    return n;
}

static size_t list_copies(struct smoe_core *c, const struct smoe_layer *layer, uint32_t worker,
                          const uint32_t **ret)
{
    uint32_t *list = smoe_core_list(c, layer->shape.experts * sizeof *list);
    size_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].follower == worker || layer->experts[e].filling == worker)
            list[n++] = e;
    smoe_core_list_trim(c, list, n * sizeof *list);
    *ret = list;
    return n;
}

/* Has the worker visits of the trainer of an expert of the layer that it is about to drop? */
static bool drops_visits(const struct smoe_core *c, uint32_t l, uint32_t worker, uint32_t trainer)
{
    smoe_list_for_each (it, &c->worker_parcels[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
        const struct smoe_expert_view *x = &c->layers[p->layer].experts[p->expert];
        if (p->layer == l && c->batches[p->batch].trainer == trainer && x->worker != worker &&
            x->follower != worker)
            return true;
    }
    return false;
}

static void send_host(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_worker *w = &c->fleet.workers[worker];
    uint64_t bit = UINT64_C(1) << l;
    w->host_due &= ~bit;
    if (!smoe_standing_usable(c, worker))
        return;
    w->hosted_layers &= ~bit;
    for (uint32_t t = 0; t < c->options.limits.trainers_max; t++)
        if (drops_visits(c, l, worker, t))
            smoe_trainer_reset(c, t, "an expert has moved"); /* its visits come up elsewhere */
    if (!smoe_standing_holds(layer, worker)) {
        smoe_standing_drop(c, worker, layer->name, layer->run, &layer->shape);
        return;
    }
    struct smoe_msg_host m = {.layer = l, .run = layer->run, .shape = layer->shape};
    memcpy(m.name, layer->name, sizeof m.name);
    m.step = layer->step;
    m.fresh = !layer->learned;
    m.attempt = layer->attempt;
    m.n_experts = list_served(c, layer, worker, &m.experts);
    m.n_copies = list_copies(c, layer, worker, &m.copies);
    w->reference_flops = layer->forward_flops;
    smoe_slot_consider(c, worker);
    m.number = w->host_number[l] = ++w->hosts_sent;
    smoe_core_send(c, w->session, SMOE_MSG_HOST)->host = m;
}

void smoe_standing_tell(struct smoe_core *c, uint32_t l)
{
    for (uint32_t w = 0; w < c->fleet.n_used; w++)
        if (c->fleet.workers[w].host_due >> l & 1)
            send_host(c, l, w);
}

void smoe_standing_leave_absent(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        if (!smoe_standing_usable(c, x->follower))
            smoe_standing_change(c, l, &x->follower, SMOE_NONE);
        if (!smoe_standing_usable(c, x->filling))
            smoe_standing_change(c, l, &x->filling, SMOE_NONE);
    }
}

/* ---- workers that come, go, or refuse ---- */

/* No Host that is sent now can fall between the norms and the commit of a step. */
bool smoe_standing_quiet(const struct smoe_core *c, const struct smoe_layer *layer)
{
    return layer->owner == SMOE_NONE || c->trainers[layer->owner].step.phase <= SMOE_STEP_SETTLING;
}

static bool follows(const struct smoe_layer *layer, uint32_t worker)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (smoe_standing_follower_to_be(&layer->experts[e]) == worker)
            return true;
    return false;
}

void smoe_standing_refused(struct smoe_core *c, uint32_t l, uint32_t worker,
                           const struct smoe_msg_hosted *m)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_worker *w = &c->fleet.workers[worker];
    struct smoe_why why;
    if (!follows(layer, worker)) {
        smoe_fail(&why, m->code, "layer %s: worker %s cannot host it: %s", layer->name, w->id,
                  m->message);
        if (layer->state != SMOE_LAYER_LOST)
            smoe_layer_lose(c, l, m->code, why.text);
        return;
    }
    w->refused_copies |= UINT64_C(1) << l; /* no room for copies: try without them */
    smoe_standing_worker_lost(c, l, worker);
    w->host_due |= UINT64_C(1) << l;
}

void smoe_standing_worker_lost(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        if (x->follower == worker)
            smoe_standing_change(c, l, &x->follower, SMOE_NONE);
        if (x->filling == worker)
            smoe_standing_change(c, l, &x->filling, SMOE_NONE);
    }
}

void smoe_standing_worker_forgotten(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_layer *layer = &c->layers[l];
    smoe_standing_worker_lost(c, l, worker);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker)
            smoe_standing_change(c, l, &layer->experts[e].worker, SMOE_NONE);
}

/* Does the worker hold the layer's expert as it was, or is being, committed last? */
static bool has_current(const struct smoe_core *c, const struct smoe_layer *layer,
                        const struct smoe_inventory_layer *held, uint32_t expert)
{
    const struct smoe_step *next = smoe_step_committing(c, layer);
    uint64_t step = next ? next->number : layer->step;
    uint64_t attempt = next ? next->attempt : layer->attempt;
    if (!layer->learned && !next)
        return true; /* it is in the seed */
    if (!held)
        return false;
    bool in_force = held->step == step && held->attempt == attempt;
    bool staged = held->staged_step == step && held->staged_attempt == attempt;
    if (!in_force && !staged)
        return false;
    for (size_t i = 0; i < held->n_experts; i++)
        if (held->experts[i] == expert)
            return true;
    return false;
}

void smoe_standing_returned(struct smoe_core *c, uint32_t l, uint32_t worker,
                            const struct smoe_inventory_layer *held)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        bool has = has_current(c, layer, held, e);
        if (x->worker == worker && !has)
            smoe_standing_change(c, l, &x->worker, SMOE_NONE);
        if (x->follower == worker && !has)
            smoe_standing_change(c, l, &x->follower, SMOE_NONE);
        if (!has || !layer->learned || x->worker == worker || x->follower == worker)
            continue;
        bool is_here = smoe_standing_usable(c, x->worker) || smoe_standing_usable(c, x->follower);
        if (x->worker == SMOE_NONE) {
            smoe_standing_change(c, l, &x->worker, worker);
        } else if (!is_here) { /* those who shall have it may come without it */
            smoe_standing_change(c, l, &x->follower, worker);
        } else if (layer->copies > 1 && x->follower == SMOE_NONE && smoe_standing_quiet(c, layer)) {
            smoe_standing_change(c, l, &x->follower, worker);
            smoe_standing_change(c, l, &x->filling, SMOE_NONE);
        }
    }
    if (held || smoe_standing_holds(layer, worker))
        c->fleet.workers[worker].host_due |= UINT64_C(1) << l;
}
