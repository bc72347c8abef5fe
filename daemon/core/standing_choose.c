/* SPDX-License-Identifier: Apache-2.0
 *
 * Which worker hosts and which follows an expert.
 *
 *     host lost         -> the follower serves from now on
 *     follower lost     -> another worker is chosen and filled (copies.c)
 *     worker returns    -> what it still holds of the last committed step counts, in whichever role is
 *                          free; what is older is thrown away
 *     worker drains, or serves two experts more than another that follows one of them
 *                       -> the two change roles, between steps
 *     worker drains, or follows more for its speed than another would with one more
 *                       -> that one is filled and then follows in its place, one expert at a time
 *     nobody has it     -> the layer is lost, in words; a checkpoint is needed. A new daemon gives workers
 *                          time to come: they may hold what its journal did not yet know of
 *
 * A follower is chosen, and roles change, only while no step of the layer is between its norms and its
 * commit (`quiet`): a Host that reaches a worker inside a step would cancel its part of it. Loads are
 * compared by how many experts of the layer a worker serves, or follows for its speed; ties go to the
 * lower index.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/core_state.h"

/* Takes new experts: not one that is about to leave. */
static bool willing(const struct smoe_core *c, uint32_t worker)
{
    return smoe_standing_usable(c, worker) && c->fleet.workers[worker].state == SMOE_WORKER_READY;
}

/* ---- loads ---- */

/* Counts what each worker serves and follows of the layer: once for a whole round of choices. */
static void count_loads(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    memset(c->served, 0, c->fleet.n_used * sizeof *c->served);
    memset(c->followed, 0, c->fleet.n_used * sizeof *c->followed);
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        const struct smoe_expert_view *x = &layer->experts[e];
        uint32_t follower = smoe_standing_follower_to_be(x);
        if (x->worker != SMOE_NONE)
            c->served[x->worker]++;
        if (follower != SMOE_NONE)
            c->followed[follower]++;
    }
}

/* A choice is made: the next one counts with it. */
static void change(struct smoe_core *c, uint32_t l, uint32_t *role, uint32_t worker)
{
    smoe_standing_change(c, l, role, worker);
    count_loads(c, l);
}

/* The willing worker that serves least. */
static uint32_t least_serving(const struct smoe_core *c)
{
    uint32_t best = SMOE_NONE, best_load = UINT32_MAX;
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        uint32_t load = c->served[w];
        if (willing(c, w) && load < best_load) {
            best = w;
            best_load = load;
        }
    }
    return best;
}

/* Experts it follows, with `more`, for its speed: each costs it an optimizer step every time. */
static double load(const struct smoe_core *c, uint32_t worker, uint32_t more)
{
    const struct smoe_worker *w = &c->fleet.workers[worker];
    return (c->followed[worker] + more) / (w->freq_max_hz * w->lanes);
}

/* The willing worker to follow one more expert, `except` left out; SMOE_NONE if there is none. */
static uint32_t least_following(const struct smoe_core *c, uint32_t l, uint32_t except)
{
    uint32_t best = SMOE_NONE;
    double best_load = (double)INFINITY;
    for (uint32_t w = 0; w < c->fleet.n_used; w++) {
        if (w == except || !willing(c, w) || (c->fleet.workers[w].refused_copies >> l & 1))
            continue;
        double with_it = load(c, w, 1);
        if (with_it >= best_load)
            continue;
        best = w;
        best_load = with_it;
    }
    return best;
}

/* Has the worker visits of the expert to compute? Of evaluations: those may be out at any time. */
static bool has_visits(const struct smoe_core *c, uint32_t l, uint32_t expert, uint32_t worker)
{
    smoe_list_for_each (it, &c->worker_parcels[worker]) {
        const struct smoe_parcel *p = smoe_container_of(it, struct smoe_parcel, worker_link);
        if (p->layer == l && p->expert == expert)
            return true;
    }
    return false;
}

/* ---- choosing ---- */

bool smoe_standing_between_steps(const struct smoe_core *c, uint32_t l)
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

/* A new layer: expert e on the (e mod n)-th of the n ready workers in the order of their ids. */
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
        if (x->follower == sorted[e % n]) /* of hosts that never came back */
            change(c, l, &x->follower, SMOE_NONE);
        change(c, l, &x->worker, sorted[e % n]);
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

/* A new daemon gives it time to return with what it holds. */
static bool is_expected(const struct smoe_core *c, uint32_t worker)
{
    return c->settle_ns && worker != SMOE_NONE && c->fleet.workers[worker].expected;
}

/* Experts whose host is gone come up on their followers. Before the first step the seed is as good. */
static void promote(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        if (smoe_standing_usable(c, x->worker) || is_expected(c, x->worker))
            continue;
        uint32_t to = SMOE_NONE;
        if (smoe_standing_usable(c, x->follower))
            to = x->follower;
        else if (!layer->learned)
            to = least_serving(c);
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
        if (x->follower != SMOE_NONE || x->filling != SMOE_NONE ||
            !smoe_standing_usable(c, x->worker))
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
static bool to_be_swapped(const struct smoe_core *c, const struct smoe_expert_view *x)
{
    return smoe_standing_usable(c, x->worker) && willing(c, x->follower) &&
           (!willing(c, x->worker) || c->served[x->worker] >= c->served[x->follower] + 2);
}

static void balance_hosts(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (to_be_swapped(c, &layer->experts[e]))
            swap_roles(c, l, &layer->experts[e]);
}

bool smoe_standing_wants_rest(struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    if (layer->sharded)
        return false; /* slots change at every commit, with visits or without */
    count_loads(c, l);
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (to_be_swapped(c, &layer->experts[e]))
            return true;
    return false;
}

/* Followers that are about to leave, or follow more for their speed than another would with one more, are
 * replaced: one at a time, and only when every expert has its two copies. */
static void balance_followers(struct smoe_core *c, uint32_t l)
{
    struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++)
        if (layer->experts[e].follower == SMOE_NONE || layer->experts[e].filling != SMOE_NONE)
            return;
    for (uint32_t e = 0; layer->copies > 1 && e < layer->shape.experts; e++) {
        struct smoe_expert_view *x = &layer->experts[e];
        uint32_t other = least_following(c, l, x->worker);
        if (other == SMOE_NONE || other == x->follower || has_visits(c, l, e, x->follower) ||
            (willing(c, x->follower) && load(c, x->follower, 0) <= load(c, other, 1)))
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
    if (!c->settle_ns && nobody_has(layer, &expert)) {
        smoe_fail(&why, SMOE_ELOST,
                  "layer %s: no worker has expert %u of step %llu any more: resume from a "
                  "checkpoint",
                  layer->name, expert, (unsigned long long)layer->step);
        smoe_layer_lose(c, l, SMOE_ELOST, why.text);
        return false;
    }
    if (!smoe_standing_quiet(c, layer))
        return true;
    count_loads(c, l);
    if (!layer->learned && !placed_any(layer))
        place_new(c, l);
    else
        promote(c, l);
    if (smoe_standing_between_steps(c, l))
        balance_hosts(c, l);
    bool awaits_some = c->settle_ns && c->fleet.n_expected;
    if (!awaits_some && smoe_standing_complete(c, l)) {
        smoe_standing_leave_absent(c, l);
        count_loads(c, l);
    }
    if (placed_any(layer))
        follow(c, l);
    if (!awaits_some && placed_any(layer))
        balance_followers(c, l);
    smoe_standing_tell(c, l);
    return true;
}

bool smoe_standing_complete(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    for (uint32_t e = 0; e < layer->shape.experts; e++) {
        uint32_t host = layer->experts[e].worker;
        if (!smoe_standing_usable(c, host) || !(c->fleet.workers[host].hosted_layers >> l & 1))
            return false;
    }
    return true;
}
