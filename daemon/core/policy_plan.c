/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker that does not serve keeps its place in the arrays, with a cap of 0: node numbers are worker
 * numbers, in the core's books as in a trace.
 */
#include "daemon/core/policy_plan.h"

#include <math.h>
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

static double energy_price(const struct smoe_plan_worker *w, double tau_s)
{
    return smoe_freq_energy_price(&w->physics, w->debt_j, tau_s);
}

/* The terms of its cost. Its cap is the caller's; `carry` as in smoe_freq_service_max. */
static struct smoe_node node_of(const struct smoe_plan_law *law, double tau_s,
                                const struct smoe_plan_worker *w, double *carry)
{
    return (struct smoe_node){.backlog = w->backlog,
                              .executable = w->executable,
                              .penalty = law->v,
                              .energy_price = energy_price(w, tau_s),
                              .power = w->physics.power,
                              .visit_hz = w->physics.cycles_per_visit / tau_s,
                              .service_max = smoe_freq_service_max(&w->physics, tau_s, carry)};
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
        nodes[j] = node_of(law, tau_s, w, &w->carry);
        nodes[j].arrivals_max = w->arrivals_max;
    }
}

bool smoe_plan_energy_is_free(const struct smoe_plan_worker *w, double tau_s)
{
    return !(energy_price(w, tau_s) > 0);
}

/* What the worker is best to finish within tau: the solve's own D where one layer is served. The solve
 * counts whole visits; where D is all there is, or all that can be done, the worker may not lose parts of
 * one. False while there is not a visit that it could finish. [visit] */
static bool plan_service(const struct smoe_plan_law *law, double tau_s,
                         const struct smoe_plan_worker *w, double *ret_served)
{
    double carry = 0, most = w->executable + w->arrivals;
    if (most < 1)
        return false;
    struct smoe_node node = node_of(law, tau_s, w, &carry);
    double capacity = tau_s * smoe_freq_ceiling(&w->physics) / w->physics.cycles_per_visit;
    most = most < capacity ? most : capacity;
    smoe_cost(&node, smoe_policy_cost_mode(law->policy), w->arrivals, ret_served);
    if (*ret_served + 1 > most)
        *ret_served = most;
    return true;
}

/* The P-state to run at now so that hz is what they come to together. [kHz] */
static uint64_t plan_state(const struct smoe_plan_worker *w, double hz)
{
    double low, high;
    smoe_power_states(w->physics.power, hz, &low, &high);
    return (uint64_t)((w->owed > 0 ? high : low) / w->units / 1000 + 0.5);
}

uint64_t smoe_plan_frequency(const struct smoe_plan_law *law, double tau_s,
                             const struct smoe_plan_worker *w, double *ret_wanted_hz)
{
    double served, hz = smoe_freq_ceiling(&w->physics);
    bool is_free = smoe_plan_energy_is_free(w, tau_s);
    *ret_wanted_hz = 0;
    if (!is_free && !plan_service(law, tau_s, w, &served))
        return w->before_khz;
    if (!is_free)
        hz = smoe_freq_decide(&w->physics, served, tau_s, energy_price(w, tau_s));
    bool limited = !is_free || !isinf(w->physics.energy_max_w);
    if (w->physics.power && !w->physics.power->stepless && hz > 0 && limited) {
        *ret_wanted_hz = hz;
        return plan_state(w, hz);
    }
    uint64_t khz = (uint64_t)(hz / w->units / 1000 + 0.5);
    return khz || is_free ? khz : 1;
}

/* The replica with room that a visit more keeps busy for the least time; UINT32_MAX: none has room. */
static uint32_t soonest(const struct smoe_node *nodes, const uint32_t *replicas, uint32_t n)
{
    uint32_t best = UINT32_MAX;
    double least = (double)INFINITY;
    for (uint32_t r = 0; r < n; r++) {
        const struct smoe_node *node = &nodes[replicas[r]];
        double wait = (node->backlog + 1) / (node->service_max + 1);
        if (!node->arrivals_max || !(wait < least))
            continue;
        best = replicas[r];
        least = wait;
    }
    return best;
}

uint32_t smoe_plan_given(struct smoe_node *nodes, const uint32_t *replica_first,
                         const uint32_t *replica_node, uint32_t n, uint32_t top_k,
                         const uint16_t *experts, uint32_t *ret_nodes)
{
    for (uint32_t i = 0; i < n * top_k; i++) {
        uint32_t first = replica_first[experts[i]], end = replica_first[experts[i] + 1u];
        uint32_t to = soonest(nodes, replica_node + first, end - first);
        if (to == UINT32_MAX)
            return i / top_k;
        nodes[to].arrivals_max--;
        nodes[to].backlog++;
        ret_nodes[i] = to;
    }
    return n;
}
