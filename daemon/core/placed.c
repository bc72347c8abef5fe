/* SPDX-License-Identifier: Apache-2.0
 *
 * A trainer asks for the placement when it writes a checkpoint, and brings it back between Restore and the
 * experts' states. Popularity is of the gate, which comes out of the same checkpoint: it holds on any fleet.
 * The plan is taken up if the rule is the same and each worker, known by its name, gives as many slots as it
 * did; else it is made anew, from that popularity. Either way nothing needs to be learned again.
 *
 * What is told is what the plan in force was made from: both change together, when a step has been committed.
 */
#include <string.h>

#include "daemon/core/placed.h"
#include "daemon/core/sharded.h"

static void refuse(struct smoe_core *c, uint32_t trainer, uint64_t request,
                   const struct smoe_why *why, int code)
{
    smoe_core_refuse(c, c->trainers[trainer].session, code, why->text, false, 0, request);
}

/* ---- telling ---- */

/* Workers that have slots; 0 also if there are too many to be told. */
static uint32_t count_placed(const struct smoe_place_plan *plan)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < plan->n_workers; w++)
        n += plan->slot_first[w + 1] > plan->slot_first[w];
    return n <= SMOE_PLACEMENT_WORKERS_MAX ? n : 0;
}

static void tell_plan(struct smoe_core *c, const struct smoe_place_plan *plan,
                      struct smoe_placement *to)
{
    to->n_workers = count_placed(plan);
    if (!to->n_workers)
        return;
    to->n_slots = plan->slot_first[plan->n_workers];
    const char **workers = smoe_core_list(c, to->n_workers * sizeof *workers);
    uint32_t *slots = smoe_core_list(c, to->n_workers * sizeof *slots);
    uint32_t *experts = smoe_core_list(c, to->n_slots * sizeof *experts);
    uint32_t n = 0;
    for (uint32_t w = 0; w < plan->n_workers; w++) {
        uint32_t has = plan->slot_first[w + 1] - plan->slot_first[w];
        if (!has)
            continue;
        workers[n] = c->fleet.workers[w].id;
        slots[n++] = has;
    }
    for (uint32_t q = 0; q < to->n_slots; q++)
        experts[q] = plan->expert[q];
    to->workers = workers;
    to->slots = slots;
    to->experts = experts;
}

static void tell_popularity(struct smoe_core *c, const struct smoe_sharded *s, uint32_t n_experts,
                            struct smoe_placement *to)
{
    struct smoe_place_learned learned;
    double *popularity = smoe_core_list(c, n_experts * sizeof *popularity);
    smoe_place_planner_save(s->planner, &learned, popularity);
    to->n_experts = n_experts;
    to->popularity = popularity;
    to->covariance = learned.covariance;
    to->variance = learned.variance;
    to->seen = learned.seen;
    to->planned = learned.planned;
}

static void answer(struct smoe_core *c, uint32_t trainer, uint64_t request, uint32_t l)
{
    const struct smoe_layer *layer = &c->layers[l];
    struct smoe_msg_placement m = {.request = request, .layer = l};
    m.placement.rule = "pinned";
    if (layer->sharded) {
        m.placement.rule = smoe_place_name(c->sharding->rule.kind);
        if (c->sharding->rule.kind == SMOE_PLACE_INTERVAL)
            m.placement.interval = c->sharding->rule.interval;
        tell_plan(c, &layer->sharded->plan, &m.placement);
        tell_popularity(c, layer->sharded, layer->shape.experts, &m.placement);
    }
    smoe_core_send(c, c->trainers[trainer].session, SMOE_MSG_PLACEMENT)->placement = m;
}

void smoe_placed_fetch(struct smoe_core *c, uint32_t trainer,
                       const struct smoe_msg_placement_fetch *m)
{
    struct smoe_why why;
    if (c->trainers[trainer].attached >> m->layer & 1) {
        answer(c, trainer, m->request, m->layer);
        return;
    }
    int rc = smoe_fail(&why, SMOE_EUNKNOWN, "PLACEMENT_FETCH.layer %u: declare it first", m->layer);
    refuse(c, trainer, m->request, &why, rc);
}

/* ---- taking up ---- */

static int check(const struct smoe_core *c, uint32_t trainer, const struct smoe_msg_placement *m,
                 struct smoe_why *why)
{
    const struct smoe_trainer *t = &c->trainers[trainer];
    const struct smoe_layer *layer = &c->layers[m->layer];
    uint32_t told = m->placement.n_experts;
    if (!(t->attached >> m->layer & 1))
        return smoe_fail(why, SMOE_EUNKNOWN, "PLACEMENT.layer %u: declare it first", m->layer);
    if (layer->owner != trainer)
        return smoe_fail(why, SMOE_EROLE, "PLACEMENT: layer %s: attached for evaluation only",
                         layer->name);
    if (told && told != layer->shape.experts)
        return smoe_fail(why, SMOE_EFIELD,
                         "PLACEMENT.popularity: count %u: layer %s has %u experts", told,
                         layer->name, layer->shape.experts);
    if (layer->state != SMOE_LAYER_WAITING && layer->state != SMOE_LAYER_READY)
        return smoe_fail(why, SMOE_ELOST, "PLACEMENT: layer %s is lost", layer->name);
    if (t->n_batches || t->step.phase != SMOE_STEP_NONE)
        return smoe_fail(why, SMOE_ESTATE, "PLACEMENT: layer %s is being trained: RESTORE it first",
                         layer->name);
    return 0;
}

static bool same_rule(const struct smoe_place_rule *rule, const struct smoe_placement *p)
{
    return strcmp(p->rule, smoe_place_name(rule->kind)) == 0 &&
           (rule->kind != SMOE_PLACE_INTERVAL || p->interval == rule->interval);
}

void smoe_placed_again(struct smoe_core *c, uint32_t trainer, const struct smoe_msg_placement *m)
{
    const struct smoe_placement *p = &m->placement;
    struct smoe_sharded *s = c->layers[m->layer].sharded;
    struct smoe_why why;
    int rc = check(c, trainer, m, &why);
    if (rc) {
        refuse(c, trainer, m->request, &why, rc);
        return;
    }
    if (s && p->n_experts) {
        struct smoe_place_learned learned = {p->seen, p->planned, p->covariance, p->variance};
        if (!same_rule(&c->sharding->rule, p))
            learned.planned = 0; /* of another rule's turns */
        smoe_place_planner_load(s->planner, &learned, p->popularity);
        smoe_sharded_place_again(c, m->layer, same_rule(&c->sharding->rule, p) ? p : NULL);
        smoe_layers_advance(c);
    }
    answer(c, trainer, m->request, m->layer);
}
