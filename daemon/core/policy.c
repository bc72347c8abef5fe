/* SPDX-License-Identifier: Apache-2.0
 *
 * Names, and a dispatch: every policy is one of the solvers of route.h or one row of the table in
 * route_order.c.
 */
#include "daemon/core/policy.h"

#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "daemon/core/route_internal.h"

static const struct {
    const char *name, *help;
} POLICIES[SMOE_POLICY_COUNT] = {
#define X(symbol, name, help) [SMOE_POLICY_##symbol] = {name, help},
    SMOE_POLICY_MAP(X)
#undef X
};

const char *smoe_policy_name(enum smoe_policy policy)
{
    return POLICIES[policy].name;
}

const char *smoe_policy_help(enum smoe_policy policy)
{
    return POLICIES[policy].help;
}

const char *smoe_policy_list(void)
{
#define X(symbol, name, help) name ", "
    static char list[] = SMOE_POLICY_MAP(X);
#undef X
    list[sizeof list - 3] = 0;
    return list;
}

bool smoe_policy_parse(const char *name, enum smoe_policy *ret)
{
    for (int p = 0; p < SMOE_POLICY_COUNT; p++)
        if (!strcmp(name, POLICIES[p].name)) {
            *ret = (enum smoe_policy)p;
            return true;
        }
    return false;
}

enum smoe_cost_mode smoe_policy_cost_mode(enum smoe_policy policy)
{
    return policy == SMOE_POLICY_LYAPUNOV_LINEAR ? SMOE_COST_LINEAR : SMOE_COST_EXACT;
}

enum smoe_policy smoe_policy_of_frozen(enum smoe_policy policy, enum smoe_consistency consistency)
{
    return policy == SMOE_POLICY_LYAPUNOV && consistency == SMOE_CONSISTENCY_STRICT
               ? SMOE_POLICY_LYAPUNOV_STRICT
               : policy;
}

bool smoe_policy_draws(enum smoe_policy policy)
{
    return policy != SMOE_POLICY_BASE && strncmp(smoe_policy_name(policy), "lyapunov", 8) != 0;
}

/* ---- what a solve remembers ---- */

/* Where the policy keeps its prices, and how many there are; NULL if it keeps none. */
static double *memory_of(enum smoe_policy policy, const struct smoe_route_scratch *scratch,
                         uint32_t *ret_n)
{
    *ret_n = 0;
    if (policy == SMOE_POLICY_LYAPUNOV || policy == SMOE_POLICY_LYAPUNOV_LINEAR) {
        *ret_n = scratch->warm_nodes;
        return scratch->warm_price;
    }
    if (policy == SMOE_POLICY_BASE) {
        *ret_n = scratch->base_warm;
        return scratch->base_price;
    }
    return NULL;
}

const double *smoe_policy_prices(enum smoe_policy policy, const struct smoe_route_scratch *scratch,
                                 uint32_t *ret_n)
{
    return memory_of(policy, scratch, ret_n);
}

void smoe_policy_set_prices(enum smoe_policy policy, struct smoe_route_scratch *scratch,
                            const double *prices, uint32_t n)
{
    uint32_t had;
    double *memory = memory_of(policy, scratch, &had);
    if (!memory)
        return;
    smoe_assert(n <= (policy == SMOE_POLICY_BASE ? scratch->experts_max : scratch->nodes_max));
    if (n)
        memcpy(memory, prices, n * sizeof *memory);
    if (policy == SMOE_POLICY_BASE)
        scratch->base_warm = n;
    else
        scratch->warm_nodes = n;
}

/* ---- routing ---- */

/* The exact solve, started from the prices of the last one where the nodes are as many. */
static void route_exact(const struct smoe_route_problem *problem,
                        struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    double scale = (double)problem->top_k * problem->n_tokens * problem->score_weight;
    struct smoe_route_options options = {.prices = scratch->warm_price,
                                         .warm = scratch->warm_nodes == problem->n_nodes,
                                         .gap_max = scratch->gap * scale,
                                         .work_max = scratch->work_max};
    smoe_route_exact(problem, &options, scratch, answer);
    if (answer->n_routed > 0)
        scratch->warm_nodes = problem->n_nodes;
}

/* The paper's bound decides; what the answer is worth is said in the terms it was asked in, and the
 * bound of the other problem is none of this one. */
static void route_linear(const struct smoe_route_problem *problem,
                         struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    struct smoe_route_problem linear = *problem;
    linear.mode = SMOE_COST_LINEAR;
    route_exact(&linear, scratch, answer);
    if (problem->mode == SMOE_COST_LINEAR)
        return;
    struct smoe_route_run run = {.problem = problem, .answer = answer};
    smoe_route_finish(&run);
    answer->bound = -(double)INFINITY;
    answer->exact = false;
}

/* The K best by gate, by nothing, or by a state of the nodes, as the rule says. `debts`: replicas are
 * compared by debt; NULL: by queue. */
static void route_baseline(const struct smoe_route_rule *rule,
                           const struct smoe_route_problem *problem, const double *debts,
                           struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    struct smoe_route_run run;
    smoe_route_begin(&run, problem, scratch, answer);
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        scratch->node_key[j] = debts ? debts[j] : problem->nodes[j].backlog;
    smoe_route_in_order(&run, rule);
}

void smoe_policy_route(enum smoe_policy policy, const struct smoe_route_problem *problem,
                       const double *debts, struct smoe_rng *rng,
                       struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    struct smoe_route_rule rule = {.moves = SMOE_ROUTE_STILL, .rng = rng};
    switch (policy) {
    case SMOE_POLICY_LYAPUNOV:
        route_exact(problem, scratch, answer);
        return;
    case SMOE_POLICY_LYAPUNOV_LINEAR:
        route_linear(problem, scratch, answer);
        return;
    case SMOE_POLICY_LYAPUNOV_GREEDY:
        smoe_route_greedy(problem, scratch, answer);
        return;
    case SMOE_POLICY_LYAPUNOV_SEPARABLE:
        smoe_route_separable(problem, scratch, answer);
        return;
    case SMOE_POLICY_LYAPUNOV_STRICT:
        smoe_route_strict(problem, scratch, answer);
        return;
    case SMOE_POLICY_BASE:
        smoe_route_base(problem, scratch, answer);
        return;
    case SMOE_POLICY_TOPK:
        rule.weight = 1;
        break;
    case SMOE_POLICY_RANDOM:
        break;
    case SMOE_POLICY_QUEUE:
    case SMOE_POLICY_ENERGY:
        rule.by_node = true;
        break;
    case SMOE_POLICY_QUEUE_JSQ:
        rule.by_node = true;
        rule.moves = SMOE_ROUTE_COUNT;
        break;
    case SMOE_POLICY_COUNT:
        smoe_assert(policy < SMOE_POLICY_COUNT);
        break;
    }
    route_baseline(&rule, problem, policy == SMOE_POLICY_ENERGY ? debts : NULL, scratch, answer);
}
