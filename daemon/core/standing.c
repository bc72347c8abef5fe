/* SPDX-License-Identifier: Apache-2.0
 *
 * Where experts stand. Each has a host, which serves its visits, and a follower, which keeps a second
 * copy of its state and takes part in every step, so that at each commit both are equal bit for bit.
 *
 *     host lost         -> the follower serves from now on
 *     follower lost     -> another worker is chosen and filled (copies.c)
 *     worker returns    -> what it still holds of the last committed step counts, in whichever role is
 *                          free; what is older is thrown away
 *     worker drains, or serves two experts more than another that follows one of them
 *                       -> the two change roles, between steps
 *     worker drains, or follows two experts more than another
 *                       -> that one is filled and then follows in its place, one expert at a time
 *     nobody has it     -> the layer is lost, in words; a checkpoint is needed
 *
 * A follower is chosen, and roles change, only while no step of the layer is between its norms and its
 * commit (`quiet`): a Host that reaches a worker inside a step would cancel its part of it. Loads are
 * compared by how many experts of the layer a worker serves or follows; ties go to the lower index.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/core_state.h"

/* ---- who stands where ---- */

static bool usable(const struct smoe_core *c, uint32_t worker)
{
    return worker != SMOE_NONE && smoe_worker_live(&c->fleet.workers[worker]) &&
           c->fleet.workers[worker].session != SMOE_NO_SESSION;
}

/* Takes new experts: not one that is about to leave. */
static bool willing(const struct smoe_core *c, uint32_t worker)
{
    return usable(c, worker) && c->fleet.workers[worker].state == SMOE_WORKER_READY;
}

bool smoe_layer_on_worker(const struct smoe_layer *layer, uint32_t worker)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker || layer->experts[e].follower == worker)
            return true;
    return false;
}

bool smoe_standing_holds(const struct smoe_layer *layer, uint32_t worker)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker || layer->experts[e].follower == worker ||
            layer->experts[e].filling == worker)
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

/* Puts the worker into the role, and marks both for a new Host. */
static void change(struct smoe_core *c, uint32_t l, uint32_t *role, uint32_t worker)
{
    uint64_t bit = UINT64_C(1) << l;
    if (*role == worker)
        return;
    if (*role != SMOE_NONE)
        c->fleet.workers[*role].host_due |= bit;
    if (worker != SMOE_NONE)
        c->fleet.workers[worker].host_due |= bit;
    *role = worker;
    c->layers[l].journal_due = true;
}

void smoe_standing_clear(struct smoe_core *c, uint32_t l, uint32_t expert)
{
    struct smoe_expert_view *e = &c->layers[l].experts[expert];
    change(c, l, &e->worker, SMOE_NONE);
    change(c, l, &e->follower, SMOE_NONE);
    change(c, l, &e->filling, SMOE_NONE);
}

void smoe_standing_filled(struct smoe_core *c, uint32_t l, uint32_t expert)
{
    struct smoe_expert_view *e = &c->layers[l].experts[expert];
    uint32_t worker = e->filling;
    if (e->follower != SMOE_NONE)
        c->fleet.workers[e->follower].host_due |= UINT64_C(1) << l;
    e->filling = SMOE_NONE; /* for the worker itself nothing changes */
    e->follower = worker;
    c->layers[l].journal_due = true;
}

/* Experts of the layer that the worker serves. */
static uint32_t served_by(const struct smoe_layer *layer, uint32_t worker)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        n += layer->experts[e].worker == worker;
    return n;
}

/* Those it follows, once everything is filled. */
static uint32_t followed_by(const struct smoe_layer *layer, uint32_t worker)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_expert_view *x = &layer->experts[e];
        n += (x->filling != SMOE_NONE ? x->filling : x->follower) == worker;
    }
    return n;
}

/* The willing worker that serves least. */
static uint32_t least_serving(const struct smoe_core *c, uint32_t l)
{
    uint32_t best = SMOE_NONE, best_load = UINT32_MAX;
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        uint32_t load = served_by(&c->layers[l], w);
        if (willing(c, w) && load < best_load) {
            best = w;
            best_load = load;
        }
    }
    return best;
}

/* The willing worker that follows least, `except` left out; SMOE_NONE if there is none. */
static uint32_t least_following(const struct smoe_core *c, uint32_t l, uint32_t except)
{
    uint32_t best = SMOE_NONE, best_load = UINT32_MAX;
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        uint32_t load = followed_by(&c->layers[l], w);
        if (w == except || !willing(c, w) || (c->fleet.workers[w].refused_copies >> l & 1) ||
            load >= best_load)
            continue;
        best = w;
        best_load = load;
    }
    return best;
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

static void send_host(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_worker *w = &c->fleet.workers[worker];
    uint64_t bit = UINT64_C(1) << l;
    w->host_due &= ~bit;
    if (!usable(c, worker))
        return;
    w->hosted_layers &= ~bit;
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
        if (!usable(c, x->follower))
            change(c, l, &x->follower, SMOE_NONE);
        if (!usable(c, x->filling))
            change(c, l, &x->filling, SMOE_NONE);
    }
}

/* ---- choosing ---- */

/* No Host that is sent now can fall between the norms and the commit of a step. */
static bool quiet(const struct smoe_core *c, const struct smoe_layer *layer)
{
    return layer->owner == SMOE_NONE || c->trainers[layer->owner].step.phase <= SMOE_STEP_SETTLING;
}

/* Nothing of the layer's training is out: roles may change. */
static bool between_steps(const struct smoe_core *c, uint32_t l)
{
    uint32_t owner = c->layers[l].owner;
    if (owner == SMOE_NONE)
        return true;
    if (c->trainers[owner].step.phase != SMOE_STEP_NONE)
        return false;
    smoe_list_for_each (it, &c->trainers[owner].batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->layer == l && b->training && !smoe_list_empty(&b->parcels))
            return false;
    }
    return true;
}

/* A new layer: expert e on the (e mod n)-th of the n ready workers in the order of their ids, its copy
 * on the next but e / n ones, so that the experts of a lost worker come up on all the others. */
static void place_new(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    uint32_t *sorted = smoe_core_list(c, c->fleet.n_used * sizeof *sorted);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->fleet.n_used; i++) {
        if (!willing(c, i))
            continue;
        uint32_t at = n++;
        for (; at > 0 && strcmp(c->fleet.workers[sorted[at - 1]].id, c->fleet.workers[i].id) > 0;
             at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = i;
    }
    bool enough = n > 0 && n >= c->options.settings.workers_min;
    for (uint32_t e = 0; enough && e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        change(c, l, &x->worker, sorted[e % n]);
        if (n > 1 && layer->copies > 1)
            change(c, l, &x->follower, sorted[(e % n + 1 + e / n % (n - 1)) % n]);
    }
    smoe_core_list_trim(c, sorted, 0);
}

static bool placed_any(const struct smoe_layer *layer)
{
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker != SMOE_NONE)
            return true;
    return false;
}

/* Experts whose host is gone come up on their followers. Before the first step the seed is as good. */
static void promote(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        bool expected = x->worker != SMOE_NONE && c->now_ns < c->settle_ns;
        if (usable(c, x->worker) || expected)
            continue;
        uint32_t to = SMOE_NONE;
        if (usable(c, x->follower))
            to = x->follower;
        else if (!layer->learned)
            to = least_serving(c, l);
        if (to == SMOE_NONE)
            continue;
        if (x->follower == to)
            change(c, l, &x->follower, SMOE_NONE);
        change(c, l, &x->worker, to);
    }
}

/* Experts without a second copy get a follower; it is filled if the seed does not do. */
static void follow(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; layer->copies > 1 && e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        if (x->follower != SMOE_NONE || x->filling != SMOE_NONE || !usable(c, x->worker))
            continue;
        change(c, l, layer->learned ? &x->filling : &x->follower, least_following(c, l, x->worker));
    }
}

/* The follower serves, the host follows: both have the state. */
static void swap_roles(struct smoe_core *c, uint32_t l, struct smoe_expert_view *x)
{
    uint32_t host = x->worker;
    change(c, l, &x->worker, x->follower);
    change(c, l, &x->follower, host);
}

/* Hosts that are about to leave, or serve two experts more than the follower, change roles with it. */
static void balance_hosts(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        if (usable(c, x->worker) && willing(c, x->follower) &&
            (!willing(c, x->worker) ||
             served_by(layer, x->worker) >= served_by(layer, x->follower) + 2))
            swap_roles(c, l, x);
    }
}

/* Followers that are about to leave, or follow two experts more than another could, are replaced: one at
 * a time, and only when every expert has its two copies. */
static void balance_followers(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].follower == SMOE_NONE || layer->experts[e].filling != SMOE_NONE)
            return;
    for (uint32_t e = 0; layer->copies > 1 && e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        uint32_t other = least_following(c, l, x->worker);
        if (other == SMOE_NONE || other == x->follower ||
            (willing(c, x->follower) &&
             followed_by(layer, x->follower) < followed_by(layer, other) + 2))
            continue;
        change(c, l, layer->learned ? &x->filling : &x->follower, other);
        return;
    }
}

static bool nobody_has(const struct smoe_layer *layer, uint32_t *ret_expert)
{
    for (uint32_t e = 0; layer->learned && e < layer->shape.experts; e++) {
        if (layer->experts[e].worker != SMOE_NONE || layer->experts[e].follower != SMOE_NONE)
            continue;
        *ret_expert = e;
        return true;
    }
    return false;
}

bool smoe_standing_advance(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_why why;
    uint32_t expert;
    if (nobody_has(layer, &expert)) {
        smoe_fail(&why, SMOE_ELOST,
                  "layer %s: no worker has expert %u of step %llu any more: resume from a "
                  "checkpoint",
                  layer->name, expert, (unsigned long long)layer->step);
        smoe_layer_lose(c, l, SMOE_ELOST, why.text);
        return false;
    }
    if (!quiet(c, layer))
        return true;
    if (!layer->learned && !placed_any(layer))
        place_new(c, l);
    else
        promote(c, l);
    if (between_steps(c, l))
        balance_hosts(c, l);
    if (c->now_ns >= c->settle_ns && placed_any(layer)) {
        if (smoe_standing_complete(c, l))
            smoe_standing_leave_absent(c, l);
        follow(c, l);
        balance_followers(c, l);
    }
    smoe_standing_tell(c, l);
    return true;
}

bool smoe_standing_complete(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        uint32_t host = layer->experts[e].worker;
        if (!usable(c, host) || !(c->fleet.workers[host].hosted_layers >> l & 1))
            return false;
    }
    return true;
}

/* ---- workers that come, go, or refuse ---- */

void smoe_standing_refused(struct smoe_core *c, uint32_t l, uint32_t worker,
                           const struct smoe_msg_hosted *m)
{
    struct smoe_layer *layer = &c->layers[l];
    struct smoe_worker *w = &c->fleet.workers[worker];
    struct smoe_why why;
    if (!followed_by(layer, worker)) {
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
            change(c, l, &x->follower, SMOE_NONE);
        if (x->filling == worker)
            change(c, l, &x->filling, SMOE_NONE);
    }
}

void smoe_standing_worker_forgotten(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    struct smoe_layer *layer = &c->layers[l];
    smoe_standing_worker_lost(c, l, worker);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].worker == worker)
            change(c, l, &layer->experts[e].worker, SMOE_NONE);
}

/* Does the worker hold the layer's expert as it was committed last? */
static bool has_current(const struct smoe_layer *layer, const struct smoe_inventory_layer *held,
                        uint32_t expert)
{
    if (!layer->learned)
        return true; /* it is in the seed */
    if (!held || (held->step != layer->step &&
                  (held->staged_step != layer->step || held->staged_attempt != layer->attempt)))
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
        bool has = has_current(layer, held, e);
        if (x->worker == worker && !has)
            change(c, l, &x->worker, SMOE_NONE);
        if (x->follower == worker && !has)
            change(c, l, &x->follower, SMOE_NONE);
        if (!has || !layer->learned || x->worker == worker || x->follower == worker)
            continue;
        if (x->worker == SMOE_NONE) {
            change(c, l, &x->worker, worker);
        } else if (layer->copies > 1 && x->follower == SMOE_NONE && quiet(c, layer)) {
            change(c, l, &x->follower, worker);
            change(c, l, &x->filling, SMOE_NONE);
        }
    }
    if (held || smoe_standing_holds(layer, worker))
        c->fleet.workers[worker].host_due |= UINT64_C(1) << l;
}
