/* SPDX-License-Identifier: Apache-2.0
 *
 * The scratch block, the problem seen from the nodes' side, and the two values every solver ends with:
 * the objective of an answer (MODEL.md (15)) and the dual bound (18).
 *
 * The scratch is one allocation, cut into arrays by the same walk that measured it. Nothing in it is
 * cleared to its full size: each solve initialises what its own N, E, J and R need.
 */
#include "daemon/core/route.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/cutter.h"
#include "common/base/limits.h"
#include "daemon/core/route_internal.h"
#include "daemon/core/route_pick.h"
#include "stablemoe/error.h"

#define CUT(field, count) s->field = smoe_cut(cutter, count, sizeof *s->field)

/* What the auction and the tide need. */
static void lay_out_auction(struct smoe_route_scratch *s, struct smoe_cutter *cutter)
{
    size_t visits = (size_t)s->tokens_max * SMOE_TOP_K_MAX, e = s->experts_max;
    CUT(bid, visits);
    CUT(given_up, visits);
    CUT(lowest, e);
    CUT(visit_margin, visits);
    CUT(sight, e);
    CUT(slack_row, e * e);
    CUT(first_price, e);
    CUT(lifted, e);
    CUT(lift, e);
    CUT(accepted, e);
    CUT(up, e);
    CUT(down, e);
    CUT(open_lift, e);
    CUT(key, e);
    CUT(far, e);
    CUT(came, e);
}

/* What the solve in grains needs. */
static void lay_out_grains(struct smoe_route_scratch *s, struct smoe_cutter *cutter)
{
    size_t visits = (size_t)s->tokens_max * SMOE_TOP_K_MAX;
    size_t stride = smoe_grain_steps(s->experts_max);
    CUT(grain_cost, s->grain_cells);
    CUT(grain_own, visits);
    CUT(grain_worth, visits);
    CUT(grain_place, visits);
    CUT(grain_visit, s->grain_places);
    CUT(grain_bid, s->grain_places);
    CUT(grain_first, s->experts_max);
    CUT(grain_room, s->experts_max);
    CUT(grain_row, s->experts_max * stride);
    CUT(grain_price, stride);
    CUT(grain_lift, stride);
    CUT(grain_key, stride);
    CUT(grain_open, stride);
    CUT(grain_came, stride);
    CUT(grain_none, stride);
    CUT(grain_down, stride);
    CUT(grain_up, stride);
    CUT(grain_base, stride);
}

static void lay_out(void *head, struct smoe_cutter *cutter)
{
    struct smoe_route_scratch *s = head;
    size_t n = s->tokens_max, e = s->experts_max, j = s->nodes_max;
    size_t near = n / SMOE_ROUTE_NEAR_PART, visits = n * SMOE_TOP_K_MAX, replicas = s->replicas_max,
           vertices = e + j + 1;
    CUT(warm_price, j);
    CUT(base_price, e);
    CUT(base_node, e);
    CUT(base_list, e + 1);
    CUT(base_arrivals, e);
    CUT(node_first, j + 1);
    CUT(node_replica, replicas);
    CUT(replica_expert, replicas);
    CUT(rung_price, j * SMOE_ROUTE_RUNGS);
    CUT(rung_visit, j * SMOE_ROUTE_RUNGS);
    CUT(supplied, j);
    CUT(node_price, j);
    CUT(expert_price, e);
    CUT(node_key, j);
    CUT(node_down, j);
    CUT(row, e);
    CUT(chosen, visits);
    CUT(runner_up, n);
    CUT(cutoff, n);
    CUT(margin, n);
    CUT(expert_load, e);
    CUT(flow, replicas);
    CUT(visit_head, e);
    CUT(visit_next, visits);
    CUT(visit_prev, visits);
    CUT(market, e);
    CUT(apart, e);
    CUT(market_price, e);
    CUT(best_price, e);
    CUT(market_load, e);
    CUT(market_excess, e);
    CUT(near_token, near);
    CUT(near_scores, near * e);
    CUT(near_chosen, near * SMOE_TOP_K_MAX);
    CUT(near_runner_up, near);
    CUT(near_cutoff, near);
    CUT(near_margin, near);
    CUT(near_load, e);
    CUT(pass_price, e);
    CUT(level_price, SMOE_ROUTE_LEVELS * e);
    CUT(level_load, SMOE_ROUTE_LEVELS * e);
    CUT(leaving, e * SMOE_ROUTE_BUCKETS);
    CUT(joining, e * SMOE_ROUTE_BUCKETS);
    CUT(arc_cost, e * e);
    CUT(row_made, e);
    CUT(found, e);
    CUT(label, vertices);
    CUT(distance, vertices);
    CUT(parent, vertices);
    CUT(touched, vertices);
    CUT(heap, vertices);
    CUT(heap_place, vertices);
    CUT(queue, vertices);
    CUT(queued, vertices);
    CUT(moved, visits);
    lay_out_auction(s, cutter);
    lay_out_grains(s, cutter);
    CUT(dirty, e);
}

#undef CUT

int smoe_route_scratch_new(uint32_t tokens_max, uint32_t experts_max, uint32_t nodes_max,
                           struct smoe_route_scratch **ret)
{
    struct smoe_route_scratch head = {.tokens_max = tokens_max,
                                      .experts_max = experts_max,
                                      .nodes_max =
                                          nodes_max > experts_max ? nodes_max : experts_max,
                                      .replicas_max = (size_t)experts_max * nodes_max};
    size_t cells = (size_t)tokens_max * smoe_grain_steps(experts_max);
    head.grain_cells = cells < SMOE_ROUTE_GRAIN_CELLS ? cells : SMOE_ROUTE_GRAIN_CELLS;
    head.grain_places = (size_t)experts_max * 4 * (SMOE_ROUTE_GRAIN_VISITS + SMOE_GRAIN_STEP);
    *ret = smoe_cut_block(&head, sizeof head, lay_out);
    if (!*ret)
        return SMOE_ENOMEMORY;
    memset((*ret)->supplied, 0, head.nodes_max * sizeof *head.supplied);
    return 0;
}

void smoe_route_scratch_free(struct smoe_route_scratch *scratch)
{
    free(scratch);
}

void smoe_route_scratch_limit(struct smoe_route_scratch *scratch, uint64_t work_max, double gap)
{
    scratch->work_max = work_max;
    scratch->gap = gap;
}

static bool node_live(const struct smoe_route_problem *problem, uint32_t node)
{
    return problem->nodes[node].arrivals_max > 0;
}

/* The replica lists turned around: by node, experts rising. Counting sort. */
static void index_by_node(const struct smoe_route_problem *problem, struct smoe_route_scratch *s)
{
    uint32_t n_replicas = problem->replica_first[problem->n_experts];
    memset(s->node_first, 0, (problem->n_nodes + 1) * sizeof *s->node_first);
    for (uint32_t r = 0; r < n_replicas; r++)
        s->node_first[problem->replica_node[r] + 1]++;
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        s->node_first[j + 1] += s->node_first[j];
    for (uint32_t e = 0; e < problem->n_experts; e++)
        for (uint32_t r = problem->replica_first[e]; r < problem->replica_first[e + 1]; r++) {
            s->replica_expert[r] = (uint16_t)e;
            s->node_replica[s->node_first[problem->replica_node[r]]++] = r;
        }
    for (uint32_t j = problem->n_nodes; j > 0; j--) /* each cursor ended where the next one began */
        s->node_first[j] = s->node_first[j - 1];
    s->node_first[0] = 0;
}

/* Could n tokens fit, by the room on the nodes alone? A node takes each of its experts once a token. */
static bool room_for(const struct smoe_route_problem *problem, const struct smoe_route_scratch *s,
                     uint32_t n)
{
    uint64_t wanted = (uint64_t)n * problem->top_k, room = 0;
    for (uint32_t j = 0; j < problem->n_nodes && room < wanted; j++) {
        uint64_t most = (uint64_t)(s->node_first[j + 1] - s->node_first[j]) * n;
        uint64_t cap = problem->nodes[j].arrivals_max;
        room += most < cap ? most : cap;
    }
    return room >= wanted;
}

/* The most tokens that room_for allows. Room is concave in n and the need is linear, so what fits is
 * everything up to one number. */
static uint32_t tokens_possible(const struct smoe_route_problem *problem,
                                const struct smoe_route_scratch *s)
{
    uint32_t fits = 0, beyond = problem->n_tokens + 1;
    if (room_for(problem, s, problem->n_tokens))
        return problem->n_tokens;
    while (beyond - fits > 1) {
        uint32_t n = fits + (beyond - fits) / 2;
        if (room_for(problem, s, n))
            fits = n;
        else
            beyond = n;
    }
    return fits;
}

static uint32_t experts_on_offer(const struct smoe_route_problem *problem)
{
    uint32_t offered = 0;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        uint32_t r = problem->replica_first[e], end = problem->replica_first[e + 1];
        while (r < end && !node_live(problem, problem->replica_node[r]))
            r++;
        offered += r < end;
    }
    return offered;
}

void smoe_route_begin(struct smoe_route_run *run, const struct smoe_route_problem *problem,
                      struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    smoe_assert(problem->n_tokens <= scratch->tokens_max);
    smoe_assert(problem->n_experts <= scratch->experts_max);
    smoe_assert(problem->n_nodes <= scratch->nodes_max);
    smoe_assert(problem->replica_first[problem->n_experts] <= scratch->replicas_max);
    smoe_assert(problem->top_k >= 1 && problem->top_k <= SMOE_TOP_K_MAX);
    smoe_assert(problem->top_k <= problem->n_experts);
    smoe_assert(problem->score_weight >= 0 && isfinite(problem->score_weight));

    *run = (struct smoe_route_run){
        .problem = problem, .scratch = scratch, .answer = answer, .work_max = UINT64_MAX};
    index_by_node(problem, scratch);
    run->n_offered = experts_on_offer(problem);
    if (run->n_offered >= problem->top_k)
        run->n_tokens = tokens_possible(problem, scratch);
    run->n_visits = run->n_tokens * problem->top_k;

    *answer = (struct smoe_route_answer){.expert = answer->expert,
                                         .node = answer->node,
                                         .arrivals = answer->arrivals,
                                         .bound = -(double)INFINITY};
    memset(scratch->rung_visit, 0xff,
           problem->n_nodes * SMOE_ROUTE_RUNGS * sizeof *scratch->rung_visit);
    memset(answer->arrivals, 0, problem->n_nodes * sizeof *answer->arrivals);
    size_t places = (size_t)problem->n_tokens * problem->top_k;
    for (size_t v = 0; v < places; v++)
        answer->expert[v] = SMOE_ROUTE_NONE;
}

void smoe_route_expert_prices(struct smoe_route_run *run, const double *node_price)
{
    const struct smoe_route_problem *problem = run->problem;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        double least = (double)INFINITY;
        for (uint32_t r = problem->replica_first[e]; r < problem->replica_first[e + 1]; r++) {
            uint32_t node = problem->replica_node[r];
            if (node_live(problem, node) && node_price[node] < least)
                least = node_price[node];
        }
        run->scratch->expert_price[e] = least;
    }
}

void smoe_route_pass(struct smoe_route_run *run, uint16_t *chosen)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    struct smoe_route_pick pick = {
        .n_tokens = run->n_tokens,
        .n_experts = problem->n_experts,
        .top_k = problem->top_k,
        .scores = problem->scores,
        .weight = problem->score_weight,
        .prices = s->expert_price,
        .row = s->row,
        .chosen = chosen,
        .runner_up = s->runner_up,
        .cutoff = s->cutoff,
        .margin = s->margin,
        .loads = s->expert_load,
    };
    smoe_route_pick(&pick);
    run->answer->work += (uint64_t)run->n_tokens * problem->n_experts;
}

void smoe_route_finish(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_answer *answer = run->answer;
    double mass = 0;
    answer->n_routed = 0;
    for (uint32_t i = 0; i < problem->n_tokens; i++) {
        const uint16_t *experts = answer->expert + (size_t)i * problem->top_k;
        if (experts[0] == SMOE_ROUTE_NONE)
            continue;
        answer->n_routed++;
        for (uint32_t k = 0; k < problem->top_k; k++)
            mass += smoe_route_weight(problem, i, experts[k]);
    }
    double cost = 0;
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        cost += smoe_cost(&problem->nodes[j], problem->mode, answer->arrivals[j], NULL);
    answer->primal = cost - mass;
}

/* For n up to all visits: MODEL.md (18), second sum. */
double smoe_route_node_dual(const struct smoe_route_run *run, uint32_t node, double price)
{
    const struct smoe_route_problem *problem = run->problem;
    if (!node_live(problem, node))
        return smoe_cost(&problem->nodes[node], problem->mode, 0, NULL);
    uint32_t n = smoe_cost_supply(&problem->nodes[node], problem->mode, price, run->n_visits);
    return smoe_cost(&problem->nodes[node], problem->mode, n, NULL) - price * n;
}

double smoe_route_dual(const struct smoe_route_problem *problem, uint32_t n_tokens,
                       const double *prices, struct smoe_route_scratch *scratch)
{
    struct smoe_route_answer nowhere = {0}; /* a pass counts its work there */
    struct smoe_route_run run = {.problem = problem,
                                 .scratch = scratch,
                                 .answer = &nowhere,
                                 .n_tokens = n_tokens,
                                 .n_visits = n_tokens * problem->top_k};
    double value = 0;
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        value += smoe_route_node_dual(&run, j, prices[j]);
    if (!n_tokens)
        return value;
    smoe_route_expert_prices(&run, prices);
    smoe_route_pass(&run, scratch->chosen);
    double reduced = 0; /* MODEL.md (18), first sum */
    for (uint32_t v = 0; v < run.n_visits; v++) {
        uint32_t expert = scratch->chosen[v];
        reduced +=
            scratch->expert_price[expert] - smoe_route_weight(problem, v / problem->top_k, expert);
    }
    return value + reduced;
}

/* What the node would gain at its price by another number of visits, up to all there are: the marginals between. Where
 * that is far off the dual is worked out. */
static double node_gain(const struct smoe_route_run *run, uint32_t node)
{
    enum { FAR = 8 };
    double price = run->scratch->node_price[node], gain = 0;
    uint32_t has = run->answer->arrivals[node], n = has;
    for (; n < run->n_visits && n < has + FAR; n++) {
        double marginal = smoe_route_marginal_at(run, node, n);
        if (marginal >= price)
            break;
        gain += price - marginal;
    }
    for (; n == has || (n < has && n + FAR > has); n--) {
        double marginal = n > 0 ? smoe_route_marginal_at(run, node, n - 1) : -(double)INFINITY;
        if (marginal <= price)
            break;
        gain += marginal - price;
    }
    if (n < has + FAR && n + FAR > has)
        return gain;
    const struct smoe_node *of = &run->problem->nodes[node];
    return smoe_cost(of, run->problem->mode, has, NULL) - price * has -
           smoe_route_node_dual(run, node, price);
}

double smoe_route_bound(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    double value = run->answer->primal, dearer = 0;
    smoe_route_expert_prices(run, s->node_price);
    for (uint32_t j = 0; j < problem->n_nodes; j++) {
        if (!node_live(problem, j))
            continue;
        value -= node_gain(run, j);
        dearer += s->node_price[j] * run->answer->arrivals[j];
    }
    for (uint32_t e = 0; e < problem->n_experts;
         e++) /* visits on a node that is not the cheapest */
        if (s->expert_load[e] > 0)
            dearer -= s->expert_price[e] * s->expert_load[e];
    value -= dearer;
    return value + smoe_route_reduced_change(run, s->pass_price);
}
