/* SPDX-License-Identifier: Apache-2.0
 *
 * Placements of sharded layers, between trainer and daemon. What a trainer sends lay in a file, which may be anybody's:
 * after these checks a placement is one that some fleet could have.
 */
#include <string.h>

#include "common/base/text.h"
#include "proto/wire_fields.h"

#define INTERVAL_MAX 1000000
#define EVIDENCE_MAX 1e4

static int check_names(struct smoe_reader *r, const struct smoe_placement *p)
{
    smoe_name name;
    int rc = 0;
    for (uint32_t w = 0; w < p->n_workers && !rc; w++) {
        rc = smoe_read_name(r, "workers", p->workers[w], name);
        for (uint32_t v = 0; v < w && !rc; v++)
            if (strcmp(p->workers[v], p->workers[w]) == 0)
                rc = smoe_fail(r->why, SMOE_EFIELD, "%s.workers: %s is there twice", r->message,
                               p->workers[w]);
    }
    return rc;
}

/* Does every expert stand somewhere? */
static int check_slots(struct smoe_reader *r, const struct smoe_placement *p)
{
    bool stands[SMOE_EXPERTS_MAX] = {false};
    uint64_t slots = 0;
    int rc = 0;
    for (uint32_t w = 0; w < p->n_workers && !rc; w++) {
        rc = smoe_check_range(r, "slots", p->slots[w], 1, SMOE_EXPERTS_MAX);
        slots += p->slots[w];
    }
    if (rc || (rc = smoe_check_range(r, "experts: count", p->n_slots, slots, slots)) ||
        (rc = smoe_check_range(r, "experts: count", p->n_slots, 0, SMOE_LAYER_REPLICAS_MAX)))
        return rc;
    for (uint32_t q = 0; q < p->n_slots && !rc; q++) {
        rc = p->n_experts ? smoe_check_range(r, "experts", p->experts[q], 0, p->n_experts - 1)
                          : smoe_fail(r->why, SMOE_EFIELD, "%s.popularity: missing", r->message);
        if (rc == 0)
            stands[p->experts[q]] = true;
    }
    for (uint32_t e = 0; e < p->n_experts && p->n_slots && !rc; e++)
        if (!stands[e])
            rc = smoe_fail(r->why, SMOE_EFIELD, "%s.experts: expert %u of %u stands nowhere",
                           r->message, e, p->n_experts);
    return rc;
}

static int check_popularity(struct smoe_reader *r, const struct smoe_placement *p)
{
    double sum = 0;
    int rc = smoe_check_range(r, "popularity: count", p->n_experts, 0, SMOE_EXPERTS_MAX);
    for (uint32_t e = 0; e < p->n_experts && !rc; e++) {
        rc = smoe_check_double(r, "popularity", p->popularity[e], 0, 1);
        sum += p->popularity[e];
    }
    if (rc == 0 && p->n_experts)
        rc = smoe_check_double(r, "popularity: sum", sum, 1 - 1e-6, 1 + 1e-6);
    return rc;
}

static int check(struct smoe_reader *r, const struct smoe_placement *p)
{
    smoe_name name;
    int rc;
    if ((rc = smoe_read_name(r, "rule", p->rule, name)) ||
        (rc = smoe_check_range(r, "interval", p->interval, 0, INTERVAL_MAX)) ||
        (rc = smoe_check_range(r, "workers: count", p->n_workers, 0, SMOE_PLACEMENT_WORKERS_MAX)) ||
        (rc = check_names(r, p)) || (rc = check_popularity(r, p)) || (rc = check_slots(r, p)) ||
        (rc = smoe_check_double(r, "covariance", p->covariance, -EVIDENCE_MAX, EVIDENCE_MAX)) ||
        (rc = smoe_check_double(r, "variance", p->variance, 0, EVIDENCE_MAX)))
        return rc;
    uint64_t last = p->seen < UINT64_MAX ? p->seen + 1 : p->seen;
    return smoe_check_range(r, "planned", p->planned, 0, last);
}

int smoe_placement_check(const struct smoe_placement *p, struct smoe_why *why)
{
    struct smoe_reader r = {.message = "placement", .why = why};
    return check(&r, p);
}

int smoe_fill_placement_fetch(struct smoe_arena *arena, const struct smoe_msg_placement_fetch *m,
                              Stablemoe__V1__PlacementFetch *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    return 0;
}

int smoe_read_placement_fetch(struct smoe_reader *r, const Stablemoe__V1__PlacementFetch *p,
                              struct smoe_msg_placement_fetch *m)
{
    *m = (struct smoe_msg_placement_fetch){p->request, p->layer};
    return smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1);
}

int smoe_fill_placement(struct smoe_arena *arena, const struct smoe_msg_placement *m,
                        Stablemoe__V1__Placement *p)
{
    (void)arena;
    p->request = m->request;
    p->layer = m->layer;
    p->rule = smoe_unconst(m->placement.rule);
    p->interval = m->placement.interval;
    p->n_workers = m->placement.n_workers;
    p->workers = smoe_unconst(m->placement.workers);
    p->n_slots = m->placement.n_workers;
    p->slots = smoe_unconst(m->placement.slots);
    p->n_experts = m->placement.n_slots;
    p->experts = smoe_unconst(m->placement.experts);
    p->n_popularity = m->placement.n_experts;
    p->popularity = smoe_unconst(m->placement.popularity);
    p->covariance = m->placement.covariance;
    p->variance = m->placement.variance;
    p->seen = m->placement.seen;
    p->planned = m->placement.planned;
    return 0;
}

int smoe_read_placement(struct smoe_reader *r, const Stablemoe__V1__Placement *p,
                        struct smoe_msg_placement *m)
{
    int rc;
    if ((rc = smoe_check_range(r, "layer", p->layer, 0, SMOE_LAYERS_MAX - 1)) ||
        (rc = smoe_check_range(r, "slots: count", p->n_slots, p->n_workers, p->n_workers)) ||
        (rc = smoe_check_range(r, "experts: count", p->n_experts, 0, SMOE_LAYER_REPLICAS_MAX)) ||
        (rc = smoe_check_range(r, "popularity: count", p->n_popularity, 0, SMOE_EXPERTS_MAX)) ||
        (rc = smoe_check_range(r, "workers: count", p->n_workers, 0, SMOE_PLACEMENT_WORKERS_MAX)))
        return rc;
    *m = (struct smoe_msg_placement){.request = p->request, .layer = p->layer};
    m->placement = (struct smoe_placement){
        .rule = p->rule,
        .interval = p->interval,
        .n_workers = (uint32_t)p->n_workers,
        .n_slots = (uint32_t)p->n_experts,
        .n_experts = (uint32_t)p->n_popularity,
        .workers = (const char *const *)p->workers,
        .slots = p->slots,
        .experts = p->experts,
        .popularity = p->popularity,
        .covariance = p->covariance,
        .variance = p->variance,
        .seen = p->seen,
        .planned = p->planned,
    };
    return check(r, &m->placement);
}
