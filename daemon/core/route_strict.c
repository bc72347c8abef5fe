/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing that leaves a token its experts: the K largest scores, ties to the lowest index, whatever the load.
 * What is left to choose is the replica, and that is the slot's problem (MODEL.md (15)) with the weights gone:
 *
 *     minimise  sum_j Phi_j(A_j)    where every visit of expert e goes to one node that holds e
 *
 * A convex flow from experts through replicas to nodes, one visit after another along a shortest augmenting
 * path: only the last arc, onto a node, has a cost, so the path ends at the cheapest node that can be reached,
 * where a node is reached from an expert that it holds, and an expert from a node on which it has a visit that
 * could move on. A flow that grows by shortest paths has no negative cycle at any time: the answer is optimal
 * for the visits that were placed, and its value is its own bound.
 *
 * A token is placed whole or not at all, in order, and one that does not fit is skipped; what it had taken is
 * given back where that is dearest. That, or no work left (then visits take the cheapest replica of their own),
 * is all that can keep the answer from being proven.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

/* Vertices are experts 0..E-1 and nodes E..E+J-1. `parent` of a node: the replica by which a visit comes to it;
 * of an expert: the replica that a visit of it leaves. */
struct search {
    struct smoe_route_run *run;
    uint32_t n_queue;
    uint32_t best; /* node, UINT32_MAX: none has room */
    double price;  /* of one more visit there */
};

static double price_of(const struct smoe_route_run *run, uint32_t node)
{
    return smoe_route_room(run, node) ? smoe_route_marginal(run, node) : (double)INFINITY;
}

static void reach_expert(struct search *s, uint32_t expert, uint32_t leaves)
{
    struct smoe_route_scratch *m = s->run->scratch;
    if (m->queued[expert])
        return;
    m->queued[expert] = 1;
    m->parent[expert] = leaves;
    m->queue[s->n_queue++] = expert;
}

static void reach_node(struct search *s, uint32_t replica)
{
    struct smoe_route_scratch *m = s->run->scratch;
    uint32_t node = s->run->problem->replica_node[replica];
    uint32_t vertex = s->run->problem->n_experts + node;
    if (m->queued[vertex])
        return;
    m->queued[vertex] = 1;
    m->parent[vertex] = replica;
    double price = price_of(s->run, node);
    if (price < s->price) {
        s->price = price;
        s->best = node;
    }
    for (uint32_t h = m->node_first[node]; h < m->node_first[node + 1]; h++)
        if (m->flow[m->node_replica[h]])
            reach_expert(s, m->replica_expert[m->node_replica[h]], m->node_replica[h]);
}

/* The cheapest node for one more visit of the expert; `deep`: where others would have to move, too. */
static struct search find(struct smoe_route_run *run, uint32_t expert, bool deep)
{
    const struct smoe_route_problem *problem = run->problem;
    struct search s = {.run = run, .best = UINT32_MAX, .price = (double)INFINITY};
    memset(run->scratch->queued, 0, problem->n_experts + problem->n_nodes);
    reach_expert(&s, expert, SMOE_ROUTE_NO_VISIT);
    for (uint32_t i = 0; i < (deep ? s.n_queue : 1); i++) {
        uint32_t e = run->scratch->queue[i];
        for (uint32_t r = problem->replica_first[e]; r < problem->replica_first[e + 1]; r++)
            reach_node(&s, r);
        run->answer->work += problem->replica_first[e + 1] - problem->replica_first[e];
    }
    return s;
}

/* Moves a unit along the path to the node, from its end. */
static void augment(struct smoe_route_run *run, uint32_t node)
{
    struct smoe_route_scratch *m = run->scratch;
    run->answer->arrivals[node]++;
    for (;;) {
        uint32_t comes = m->parent[run->problem->n_experts + node];
        uint32_t leaves = m->parent[m->replica_expert[comes]];
        m->flow[comes]++;
        if (leaves == SMOE_ROUTE_NO_VISIT)
            return;
        m->flow[leaves]--;
        node = run->problem->replica_node[leaves];
    }
}

static bool place(struct smoe_route_run *run, uint32_t expert)
{
    bool deep = run->answer->work < run->work_max;
    struct search s = find(run, expert, deep);
    run->answer->exact = run->answer->exact && deep;
    if (s.best == UINT32_MAX)
        return false;
    augment(run, s.best);
    return true;
}

/* Takes a visit of the expert back, from the node where the last one is dearest. */
static void take_back(struct smoe_route_run *run, uint32_t expert)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t dearest = UINT32_MAX;
    double most = -(double)INFINITY;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        uint32_t node = problem->replica_node[r];
        if (!run->scratch->flow[r])
            continue;
        double price = smoe_route_marginal_at(run, node, run->answer->arrivals[node] - 1);
        if (dearest == UINT32_MAX || price > most) {
            most = price;
            dearest = r;
        }
    }
    run->scratch->flow[dearest]--;
    run->answer->arrivals[problem->replica_node[dearest]]--;
    run->answer->exact = false;
}

/* The K largest scores, ties to the lowest index. */
static void choose(const struct smoe_route_problem *problem, uint32_t token, uint16_t *ret)
{
    const float *scores = problem->scores + (size_t)token * problem->n_experts;
    uint32_t held = 0;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        if (held == problem->top_k && !(scores[e] > scores[ret[held - 1]]))
            continue;
        uint32_t at = held < problem->top_k ? held++ : held - 1;
        for (; at > 0 && scores[e] > scores[ret[at - 1]]; at--)
            ret[at] = ret[at - 1];
        ret[at] = (uint16_t)e;
    }
}

static void place_token(struct smoe_route_run *run, uint32_t token)
{
    uint32_t top_k = run->problem->top_k, n = 0;
    uint16_t *experts = run->answer->expert + (size_t)token * top_k;
    choose(run->problem, token, experts);
    while (n < top_k && place(run, experts[n]))
        n++;
    if (n == top_k)
        return;
    while (n > 0)
        take_back(run, experts[--n]);
    for (uint32_t k = 0; k < top_k; k++)
        experts[k] = SMOE_ROUTE_NONE;
}

/* Gives the visits of each expert its replicas, in the order of the tokens. */
static void deal(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t *cursor = run->scratch->visit_head, *flow = run->scratch->flow;
    memcpy(cursor, problem->replica_first, problem->n_experts * sizeof *cursor);
    for (size_t v = 0; v < (size_t)problem->n_tokens * problem->top_k; v++) {
        uint16_t expert = run->answer->expert[v];
        if (expert == SMOE_ROUTE_NONE)
            continue;
        while (!flow[cursor[expert]])
            cursor[expert]++;
        flow[cursor[expert]]--;
        run->answer->node[v] = problem->replica_node[cursor[expert]];
    }
}

void smoe_route_strict(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                       struct smoe_route_answer *answer)
{
    struct smoe_route_run run;
    smoe_route_begin(&run, problem, scratch, answer);
    run.work_max = scratch->work_max ? scratch->work_max : UINT64_MAX;
    answer->exact = true;
    memset(scratch->flow, 0, problem->replica_first[problem->n_experts] * sizeof *scratch->flow);
    for (uint32_t i = 0; i < problem->n_tokens; i++)
        place_token(&run, i);
    deal(&run);
    smoe_route_finish(&run);
    if (answer->exact)
        answer->bound = answer->primal;
}
