/* SPDX-License-Identifier: Apache-2.0
 *
 * BASE layers' rule (Lewis et al., 2021): of all assignments that give every expert equally many tokens,
 * the one of greatest gate mass. That is the slot's problem (MODEL.md (15)) with another fleet, so the
 * exact solve does it: every expert stands on a node of its own, which finishes its equal share for
 * nothing, and every visit beyond the share costs more than any exchange of tokens could gain.
 *
 * Where caps leave an expert less room than its share the others share the rest. What an expert got then
 * goes to its replicas as with the other baselines: to the shortest queue at slot start that has room, in
 * order of the tokens; a token that does not fit waits.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

/* Visits the expert's nodes have room for, at most one a token. */
static uint32_t room_of(const struct smoe_route_problem *problem, uint32_t expert)
{
    uint64_t room = 0;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++)
        room += problem->nodes[problem->replica_node[r]].arrivals_max;
    return room < problem->n_tokens ? (uint32_t)room : problem->n_tokens;
}

/* The least share at which all experts together take every visit, or all they have room for. */
static uint32_t equal_share(const struct smoe_route_problem *problem, const struct smoe_node *nodes)
{
    uint64_t visits = (uint64_t)problem->n_tokens * problem->top_k;
    uint32_t low = 0, high = problem->n_tokens; /* `high` is enough, if anything is */
    while (high - low > 1) {
        uint32_t share = low + (high - low) / 2;
        uint64_t taken = 0;
        for (uint32_t e = 0; e < problem->n_experts; e++)
            taken += nodes[e].arrivals_max < share ? nodes[e].arrivals_max : share;
        if (taken < visits)
            low = share;
        else
            high = share;
    }
    return high;
}

/* More than a chain of exchanges can gain: it has at most one arc out of every expert. */
static double prohibitive(const struct smoe_route_problem *problem)
{
    size_t n = (size_t)problem->n_tokens * problem->n_experts;
    float least = INFINITY, most = -INFINITY;
    if (n == 0)
        return 1;
    for (size_t v = 0; v < n; v++) {
        least = problem->scores[v] < least ? problem->scores[v] : least;
        most = problem->scores[v] > most ? problem->scores[v] : most;
    }
    return (problem->n_experts + 1.0) * ((double)most - (double)least) + 1;
}

/* The fleet of one node an expert. `list` [E+1] becomes 0, 1, 2 .. */
static void make_fleet(const struct smoe_route_problem *problem, struct smoe_node *nodes,
                       uint32_t *list)
{
    for (uint32_t e = 0; e < problem->n_experts; e++)
        nodes[e].arrivals_max = room_of(problem, e);
    double share = equal_share(problem, nodes), penalty = prohibitive(problem);
    for (uint32_t e = 0; e <= problem->n_experts; e++)
        list[e] = e;
    for (uint32_t e = 0; e < problem->n_experts; e++)
        nodes[e] = (struct smoe_node){
            .penalty = penalty, .service_max = share, .arrivals_max = nodes[e].arrivals_max};
}

/* The replica on the shortest queue that has room, UINT32_MAX if none has. */
static uint32_t replica_with_room(const struct smoe_route_run *run, uint32_t expert)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t best = UINT32_MAX;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        uint32_t node = problem->replica_node[r];
        if (smoe_route_room(run, node) &&
            (best == UINT32_MAX || problem->nodes[node].backlog < problem->nodes[best].backlog))
            best = node;
    }
    return best;
}

/* Sends a token to replicas of its experts, whole or not at all. */
static void send_token(struct smoe_route_run *run, uint32_t token)
{
    uint32_t top_k = run->problem->top_k, n = 0;
    uint16_t *expert = run->answer->expert + (size_t)token * top_k;
    uint32_t *node = run->answer->node + (size_t)token * top_k;
    if (expert[0] == SMOE_ROUTE_NONE)
        return;
    for (; n < top_k && (node[n] = replica_with_room(run, expert[n])) != UINT32_MAX; n++)
        run->answer->arrivals[node[n]]++;
    if (n == top_k)
        return;
    while (n > 0)
        run->answer->arrivals[node[--n]]--;
    for (uint32_t k = 0; k < top_k; k++)
        expert[k] = SMOE_ROUTE_NONE;
}

void smoe_route_base(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                     struct smoe_route_answer *answer)
{
    struct smoe_route_problem balanced = *problem;
    make_fleet(problem, scratch->base_node, scratch->base_list);
    balanced.n_nodes = problem->n_experts;
    balanced.score_weight = 1;
    balanced.replica_first = balanced.replica_node = scratch->base_list;
    balanced.nodes = scratch->base_node;
    balanced.mode = SMOE_COST_EXACT;
    struct smoe_route_answer inner = *answer; /* the experts and, for the moment, their own nodes */
    inner.arrivals = scratch->base_arrivals;
    struct smoe_route_options options = {.prices = scratch->base_price,
                                         .warm = scratch->base_warm == problem->n_experts,
                                         .work_max = scratch->work_max};
    smoe_route_exact(&balanced, &options, scratch, &inner);
    if (inner.n_routed > 0)
        scratch->base_warm = problem->n_experts;

    inner.arrivals = answer->arrivals;
    inner.bound = -(double)INFINITY; /* that of the other problem is none of this one */
    inner.exact = false;
    *answer = inner;
    memset(answer->arrivals, 0, problem->n_nodes * sizeof *answer->arrivals);
    struct smoe_route_run run = {.problem = problem, .scratch = scratch, .answer = answer};
    for (uint32_t i = 0; i < problem->n_tokens; i++)
        send_token(&run, i);
    smoe_route_finish(&run);
}
