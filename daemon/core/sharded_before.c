/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharded layers with staleness: the placement before the one in force.
 *
 * At the commit of step t slots change experts, and batches of step t + 1 that are ahead belong to the weights before
 * it. They go on where they are: each slot of the placement that was in force keeps these weights and its sum of step
 * t + 1, beside the slot that replaces it, until that step is committed. So two placements stand at any time:
 *
 *     in force     the layer's weights, filled after each commit    visits of batches that are not ahead, or no longer
 *     before       the weights before those                         visits of batches ahead of the last commit
 *
 * and the gradients of a step are summed over the hosts in whichever of the two its batches had visits: mostly those of
 * the placement before alone, and then as many bytes travel as without staleness.
 *
 * Whatever ends an attempt ends the placement before, too, for a visit that was lost can be anywhere. If batches come
 * again that belong to the weights before, the slots in force get these as well, from the shards, which keep them: then
 * both placements are the same.
 */
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/sharded.h"

bool smoe_sharded_is_before(const struct smoe_core *c, const struct smoe_batch *b)
{
    const struct smoe_layer *layer = &c->layers[b->layer];
    return layer->sharded && layer->shape.staleness && b->ahead && layer->step == b->base + 1;
}

bool smoe_sharded_before_ready(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    for (uint32_t r = 0; r < s->n_before; r++)
        if (!smoe_sharded_has_taken_in(c, l, s->before_worker[r]))
            return false;
    return s->n_before > 0;
}

/* The owner's batches that belong to the weights before. */
static bool any_batch(const struct smoe_core *c, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    if (layer->owner == SMOE_NONE)
        return false;
    smoe_list_for_each (it, &c->trainers[layer->owner].batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->layer == l && smoe_sharded_is_before(c, b))
            return true;
    }
    return false;
}

bool smoe_sharded_before_wanted(const struct smoe_core *c, uint32_t l)
{
    return !c->layers[l].sharded->n_before && any_batch(c, l);
}

/* Those who have slots that were left must be told. */
static void mark_left(struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    for (uint32_t e = 0; s->n_before && e < c->layers[l].shape.experts; e++)
        for (uint32_t r = s->before_first[e]; r < s->before_first[e + 1]; r++)
            if (!smoe_sharded_hosts(s, s->before_worker[r], e))
                c->fleet.workers[s->before_worker[r]].host_due |= UINT64_C(1) << l;
}

static void take_plan(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    uint32_t experts = c->layers[l].shape.experts;
    memcpy(s->before_first, s->replica_first, (experts + 1) * sizeof *s->before_first);
    memcpy(s->before_worker, s->replica_worker,
           s->replica_first[experts] * sizeof *s->before_worker);
    s->n_before = s->plan.n_workers ? s->replica_first[experts] : 0;
}

void smoe_sharded_pass(struct smoe_core *c, uint32_t l)
{
    mark_left(c, l); /* what was left at the last commit is committed, too */
    if (c->layers[l].shape.staleness)
        take_plan(c, l);
}

void smoe_sharded_before_filled(struct smoe_core *c, uint32_t l)
{
    take_plan(c, l);
    c->solve_useful = true;
}

void smoe_sharded_drop_before(struct smoe_core *c, uint32_t l)
{
    mark_left(c, l);
    c->layers[l].sharded->n_before = 0;
}

void smoe_sharded_leave_before(struct smoe_core *c, uint32_t l, uint32_t worker)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    bool has = false;
    for (uint32_t r = 0; r < s->n_before; r++)
        has |= s->before_worker[r] == worker;
    if (!has)
        return;
    bool visits = any_batch(c, l);
    smoe_sharded_drop_before(c, l);
    if (visits)
        smoe_trainer_reset(c, c->layers[l].owner,
                           "a worker that serves the weights before is lost");
}

void smoe_sharded_release_before(struct smoe_core *c, uint32_t l)
{
    const struct smoe_sharded *s = c->layers[l].sharded;
    bool all = true;
    for (uint32_t r = 0; r < s->n_before && all; r++)
        all = smoe_sharded_willing(c, l, s->before_worker[r]);
    if (!all && smoe_sharded_at_rest(c, l))
        smoe_sharded_drop_before(c, l);
}

/* ---- sums ---- */

/* In which of the placements the step's batches had visits; without any, in that which is in force. */
static void see_batches(const struct smoe_core *c, uint32_t l, bool *ret_before, bool *ret_now)
{
    const struct smoe_layer *layer = &c->layers[l];
    *ret_before = *ret_now = false;
    smoe_list_for_each (it, &c->trainers[layer->owner].batches) {
        const struct smoe_batch *b = smoe_container_of(it, struct smoe_batch, trainer_link);
        if (b->layer != l || !b->in_step)
            continue;
        bool before = smoe_sharded_is_before(c, b);
        *ret_before |= before;
        *ret_now |= !before;
    }
    *ret_now |= !*ret_before;
}

/* Appends the expert's hosts of both lists, each once, rising. */
static uint32_t merge(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b,
                      uint32_t *ret)
{
    uint32_t i = 0, j = 0, n = 0;
    while (i < n_a || j < n_b) {
        bool from_a = j == n_b || (i < n_a && a[i] <= b[j]);
        bool both = i < n_a && j < n_b && a[i] == b[j];
        ret[n++] = from_a ? a[i] : b[j];
        i += from_a;
        j += !from_a || both;
    }
    return n;
}

void smoe_sharded_sum_up(struct smoe_core *c, uint32_t l)
{
    struct smoe_sharded *s = c->layers[l].sharded;
    bool before, now;
    see_batches(c, l, &before, &now);
    smoe_assert(!before || s->n_before);
    s->sum_first[0] = 0;
    for (uint32_t e = 0; e < c->layers[l].shape.experts; e++) {
        uint32_t first = s->sum_first[e], was = before ? s->before_first[e] : 0;
        uint32_t n_was = before ? s->before_first[e + 1] - was : 0;
        uint32_t n_now = now ? s->replica_first[e + 1] - s->replica_first[e] : 0;
        s->sum_first[e + 1] =
            first + merge(s->before_worker + was, n_was, s->replica_worker + s->replica_first[e],
                          n_now, s->sum_worker + first);
    }
}
