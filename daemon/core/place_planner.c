/* SPDX-License-Identifier: Apache-2.0
 *
 * Popularity is a forecast's raw material, and an iteration later it may be worth anything from everything (a gate that
 * has settled) to less than nothing (ranks that swap): a plan that trusts it blindly can take three times as long as
 * one that knows nothing. So the planner measures what its own forecasts were worth. With u = 1/E and shares s_t of
 * what was seen, the best linear forecast of s_t - u from s_(t-1) - u is a multiple of it, the slope of a regression
 * through 0; both sums forget at the same pace, so that the slope follows a gate that changes its ways:
 *
 *     trust = clip( sum (s_t - u)(s_(t-1) - u) / sum (s_(t-1) - u)^2 ),   demand = u + trust (s_t - u)   MODEL.md (23)
 *
 * Only `highest-averages` blends; the others are what they were published as, with a moving average if they are asked
 * for one.
 */
#include "daemon/core/place_planner.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/place_internal.h"
#include "stablemoe/error.h"

/* What of the evidence is still there an iteration later: about fifty iterations count. */
static const double MEMORY = 0.98;

struct smoe_place_planner {
    struct smoe_place_rule rule;
    uint32_t n_experts, n_experts_max;
    struct smoe_place_learned learned; /* `seen`: iterations with visits; sums decay */
    double share[]; /* [E] of all visits: of the last iteration, or the moving average */
};

int smoe_place_planner_room(uint32_t n_experts_max, struct smoe_place_planner **ret)
{
    struct smoe_place_planner *p = malloc(sizeof *p + n_experts_max * sizeof *p->share);
    if (!p)
        return SMOE_ENOMEMORY;
    p->n_experts_max = n_experts_max;
    *ret = p;
    return 0;
}

int smoe_place_planner_new(const struct smoe_place_rule *rule, uint32_t n_experts,
                           struct smoe_place_planner **ret)
{
    int rc = smoe_place_planner_room(n_experts, ret);
    if (rc == 0)
        smoe_place_planner_reset(*ret, rule, n_experts);
    return rc;
}

void smoe_place_planner_reset(struct smoe_place_planner *p, const struct smoe_place_rule *rule,
                              uint32_t n_experts)
{
    smoe_assert(n_experts >= 1 && n_experts <= p->n_experts_max);
    smoe_assert(rule->average >= 0 && rule->average < 1);
    p->rule = *rule;
    p->n_experts = n_experts;
    p->learned = (struct smoe_place_learned){0};
    for (uint32_t e = 0; e < n_experts; e++)
        p->share[e] = 1.0 / n_experts;
}

void smoe_place_planner_free(struct smoe_place_planner *planner)
{
    free(planner);
}

void smoe_place_planner_see(struct smoe_place_planner *planner, const uint64_t *popularity)
{
    double sum = 0, uniform = 1.0 / planner->n_experts;
    double past = planner->learned.seen ? planner->rule.average : 0;
    for (uint32_t e = 0; e < planner->n_experts; e++)
        sum += (double)popularity[e];
    if (!(sum > 0))
        return;
    planner->learned.covariance *= MEMORY;
    planner->learned.variance *= MEMORY;
    for (uint32_t e = 0; e < planner->n_experts; e++) {
        double share = (double)popularity[e] / sum, was = planner->share[e] - uniform;
        planner->learned.covariance += (share - uniform) * was;
        planner->learned.variance += was * was;
        planner->share[e] = past * planner->share[e] + (1 - past) * share;
    }
    planner->learned.seen++;
}

double smoe_place_planner_trust(const struct smoe_place_planner *planner)
{
    if (!(planner->learned.variance > 0) || planner->learned.covariance <= 0)
        return 0;
    return planner->learned.covariance < planner->learned.variance
               ? planner->learned.covariance / planner->learned.variance
               : 1;
}

void smoe_place_planner_demand(const struct smoe_place_planner *planner, double *ret)
{
    bool blends = planner->rule.kind == SMOE_PLACE_HIGHEST_AVERAGES;
    double trust = blends ? smoe_place_planner_trust(planner) : 1;
    double uniform = 1.0 / planner->n_experts;
    for (uint32_t e = 0; e < planner->n_experts; e++)
        ret[e] = trust * planner->share[e] + (1 - trust) * uniform;
}

void smoe_place_planner_save(const struct smoe_place_planner *planner,
                             struct smoe_place_learned *ret, double *ret_shares)
{
    *ret = planner->learned;
    memcpy(ret_shares, planner->share, planner->n_experts * sizeof *ret_shares);
}

void smoe_place_planner_load(struct smoe_place_planner *planner,
                             const struct smoe_place_learned *from, const double *shares)
{
    smoe_assert(from->planned <= from->seen + 1);
    planner->learned = *from;
    memcpy(planner->share, shares, planner->n_experts * sizeof *shares);
}

/* `interval` between its turns, on the fleet that it planned for. */
static bool keeps(const struct smoe_place_planner *planner,
                  const struct smoe_place_problem *problem, const struct smoe_place_plan *before,
                  struct smoe_place_scratch *scratch)
{
    return planner->rule.kind == SMOE_PLACE_INTERVAL && before && planner->learned.planned &&
           planner->learned.seen + 1 - planner->learned.planned < planner->rule.interval &&
           smoe_place_valid(problem, before, scratch);
}

static void copy(const struct smoe_place_plan *from, struct smoe_place_plan *to)
{
    uint32_t n_slots = from->slot_first[from->n_workers];
    to->n_experts = from->n_experts;
    to->n_workers = from->n_workers;
    memcpy(to->slot_first, from->slot_first, (from->n_workers + 1) * sizeof *to->slot_first);
    memcpy(to->expert, from->expert, n_slots * sizeof *to->expert);
}

int smoe_place_planner_next(struct smoe_place_planner *planner,
                            const struct smoe_place_problem *problem,
                            const struct smoe_place_plan *before,
                            struct smoe_place_scratch *scratch, struct smoe_place_plan *ret)
{
    smoe_assert(problem->n_experts == planner->n_experts);
    if (keeps(planner, problem, before, scratch)) {
        copy(before, ret);
        return 0;
    }
    struct smoe_place_problem now = *problem;
    smoe_place_planner_demand(planner, scratch->expected);
    now.demand = scratch->expected;
    int rc = smoe_place_make(planner->rule.kind, &now, scratch, ret);
    if (rc)
        return rc;
    planner->learned.planned = planner->learned.seen + 1;
    if (before)
        smoe_place_keep(before, ret);
    return 0;
}
