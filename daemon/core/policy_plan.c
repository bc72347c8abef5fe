/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker that does not serve keeps its place in the arrays, with a cap of 0: node numbers are worker
 * numbers, in the core's books as in a trace.
 */
#include "daemon/core/policy_plan.h"

#include <string.h>

#define TAU_MAX_S 3600.0

static const char *const NAMES[SMOE_PLAN_COUNT] = {
#define X(symbol, name) [SMOE_PLAN_##symbol] = name,
    SMOE_PLAN_MAP(X)
#undef X
};

const char *smoe_plan_name(enum smoe_plan plan)
{
    return NAMES[plan];
}

bool smoe_plan_parse(const char *name, enum smoe_plan *ret)
{
    for (int p = 0; p < SMOE_PLAN_COUNT; p++)
        if (!strcmp(name, NAMES[p])) {
            *ret = (enum smoe_plan)p;
            return true;
        }
    return false;
}

double smoe_plan_horizon(const struct smoe_plan_law *law, const struct smoe_plan_worker *workers,
                         uint32_t n, double visits)
{
    double slot_s = (double)law->slot_ns * 1e-9, work = visits, rate = 0;
    if (law->plan == SMOE_PLAN_SLOT)
        return slot_s;
    for (uint32_t j = 0; j < n; j++) {
        if (!workers[j].serves)
            continue;
        work += workers[j].backlog;
        rate += smoe_freq_ceiling(&workers[j].physics) / workers[j].physics.cycles_per_visit;
    }
    bool capped = law->plan == SMOE_PLAN_SHORTER || rate <= 0;
    return smoe_freq_horizon(capped ? slot_s : TAU_MAX_S, work, rate);
}

void smoe_plan_nodes(const struct smoe_plan_law *law, double tau_s,
                     struct smoe_plan_worker *workers, uint32_t n, struct smoe_node *nodes,
                     double *debts)
{
    for (uint32_t j = 0; j < n; j++) {
        struct smoe_plan_worker *w = &workers[j];
        nodes[j] = (struct smoe_node){.penalty = law->v};
        debts[j] = 0;
        if (!w->serves)
            continue;
        debts[j] = w->debt_j;
        nodes[j].backlog = w->backlog;
        nodes[j].executable = w->executable;
        nodes[j].energy_price = smoe_freq_energy_price(&w->physics, w->debt_j, tau_s);
        nodes[j].service_max = smoe_freq_service_max(&w->physics, tau_s, &w->carry);
        nodes[j].arrivals_max = w->arrivals_max;
    }
}

double smoe_plan_frequency(const struct smoe_plan_law *law, double tau_s,
                           const struct smoe_plan_worker *w, bool *ret_free)
{
    double price = smoe_freq_energy_price(&w->physics, w->debt_j, tau_s);
    double served, unused = 0;
    *ret_free = !(price > 0);
    if (*ret_free)
        return smoe_freq_ceiling(&w->physics);
    struct smoe_node node = {.backlog = w->backlog,
                             .executable = w->executable,
                             .penalty = law->v,
                             .energy_price = price,
                             .service_max = smoe_freq_service_max(&w->physics, tau_s, &unused)};
    smoe_cost(&node, smoe_policy_cost_mode(law->policy), 0, &served);
    return smoe_freq_decide(&w->physics, served, tau_s, price);
}

uint64_t smoe_plan_lane_khz(double hz, double units)
{
    return (uint64_t)(hz / units / 1000);
}

uint32_t smoe_plan_given(struct smoe_node *nodes, const uint32_t *replica_first,
                         const uint32_t *replica_node, uint32_t n, uint32_t top_k,
                         const uint16_t *experts, uint32_t *ret_nodes)
{
    for (uint32_t i = 0; i < n * top_k; i++) {
        uint32_t r = replica_first[experts[i]];
        if (r == replica_first[experts[i] + 1u] || !nodes[replica_node[r]].arrivals_max)
            return i / top_k;
        nodes[replica_node[r]].arrivals_max--;
        ret_nodes[i] = replica_node[r];
    }
    return n;
}
