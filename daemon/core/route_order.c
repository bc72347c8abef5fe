/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens one after another. Every simple rule is the same walk with another key: an expert's key (that
 * of its best replica, or none) less the token's weight; the K smallest win; each takes the live
 * replica of smallest node key. Keys may stay, count, or follow the marginal price:
 *
 *     rule        expert key           weight   node key          moves
 *     topk        -                    1        Q_j               still
 *     random      -                    0        Q_j               still
 *     queue       best replica         0        Q_j               still
 *     queue-jsq   best replica         0        Q_j               count
 *     energy      best replica         0        Z_j               still
 *     separable   best replica         V mu     Q_j               still
 *     greedy      best replica         V mu     marginal price    marginal
 *
 * A full node has the key +inf, so caps bind every rule. A token that finds fewer than K experts gives
 * back what it took. Ties go to the lowest index, or, with a stream, to the smallest hash of a number
 * that the token draws: one draw a token whatever happens, so that streams stay aligned.
 */
#include <math.h>

#include "common/base/limits.h"
#include "daemon/core/route_internal.h"

struct order {
    struct smoe_route_run *run;
    const struct smoe_route_rule *rule;
    uint64_t salt; /* of the token at hand */
};

/* One place of the token at hand. */
struct place {
    uint16_t expert;
    uint32_t node;
    double key_before; /* of the node */
};

/* Does candidate b beat the best so far, a? */
static bool beats(const struct order *order, double key_b, uint32_t b, double key_a, uint32_t a)
{
    if (key_b != key_a)
        return key_b < key_a;
    return order->rule->rng && smoe_mix64(order->salt ^ b) < smoe_mix64(order->salt ^ a);
}

/* The key of the expert's best live replica, +inf if none has room. */
static double best_replica_key(const struct smoe_route_run *run, uint32_t expert)
{
    const struct smoe_route_problem *problem = run->problem;
    double least = (double)INFINITY;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        double key = run->scratch->node_key[problem->replica_node[r]];
        if (key < least)
            least = key;
    }
    return least;
}

static void refresh_expert(struct order *order, uint32_t expert)
{
    double key = best_replica_key(order->run, expert);
    order->run->scratch->expert_price[expert] = isinf(key) || order->rule->by_node ? key : 0;
}

/* A node's key changed: so may those of the experts it holds. */
static void set_node_key(struct order *order, uint32_t node, double key)
{
    struct smoe_route_scratch *s = order->run->scratch;
    s->node_key[node] = key;
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++)
        refresh_expert(order, s->replica_expert[s->node_replica[h]]);
}

static uint32_t pick_node(const struct order *order, uint32_t expert)
{
    const struct smoe_route_problem *problem = order->run->problem;
    const double *key = order->run->scratch->node_key;
    uint32_t best = UINT32_MAX;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        uint32_t node = problem->replica_node[r];
        if (isinf(key[node]))
            continue;
        if (best == UINT32_MAX || beats(order, key[node], node, key[best], best))
            best = node;
    }
    return best;
}

static bool taken(const struct place *places, uint32_t n, uint32_t expert)
{
    for (uint32_t k = 0; k < n; k++)
        if (places[k].expert == expert)
            return true;
    return false;
}

/* The token's best expert that it has not yet, SMOE_ROUTE_NONE if none has room. */
static uint16_t pick_expert(const struct order *order, uint32_t token, const struct place *places,
                            uint32_t n)
{
    const struct smoe_route_problem *problem = order->run->problem;
    const float *scores = problem->scores + (size_t)token * problem->n_experts;
    const double *price = order->run->scratch->expert_price;
    double weight = order->rule->weight, best_key = (double)INFINITY;
    uint16_t best = SMOE_ROUTE_NONE;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        double key = price[e] - weight * (double)scores[e];
        if (isinf(price[e]) || key > best_key || taken(places, n, e))
            continue;
        if (best == SMOE_ROUTE_NONE || beats(order, key, e, best_key, best)) {
            best = (uint16_t)e;
            best_key = key;
        }
    }
    return best;
}

static void take(struct order *order, struct place *place)
{
    struct smoe_route_run *run = order->run;
    uint32_t node = place->node;
    place->key_before = run->scratch->node_key[node];
    run->answer->arrivals[node]++;
    double key = place->key_before;
    if (order->rule->moves == SMOE_ROUTE_COUNT)
        key += 1;
    else if (order->rule->moves == SMOE_ROUTE_MARGINAL)
        key = smoe_route_marginal(run, node);
    if (!smoe_route_room(run, node))
        key = (double)INFINITY;
    if (key != place->key_before)
        set_node_key(order, node, key);
}

static void give_back(struct order *order, const struct place *place)
{
    order->run->answer->arrivals[place->node]--;
    if (order->run->scratch->node_key[place->node] != place->key_before)
        set_node_key(order, place->node, place->key_before);
}

static void route_token(struct order *order, uint32_t token)
{
    uint32_t top_k = order->run->problem->top_k, n = 0;
    struct place places[SMOE_TOP_K_MAX];
    while (n < top_k) {
        uint16_t expert = pick_expert(order, token, places, n);
        if (expert == SMOE_ROUTE_NONE)
            break;
        places[n] = (struct place){.expert = expert, .node = pick_node(order, expert)};
        take(order, &places[n++]);
    }
    if (n < top_k) { /* whole or not at all */
        while (n > 0)
            give_back(order, &places[--n]);
        return;
    }
    for (uint32_t k = 0; k < top_k; k++) {
        order->run->answer->expert[(size_t)token * top_k + k] = places[k].expert;
        order->run->answer->node[(size_t)token * top_k + k] = places[k].node;
    }
}

void smoe_route_in_order(struct smoe_route_run *run, const struct smoe_route_rule *rule)
{
    struct order order = {.run = run, .rule = rule};
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        if (!smoe_route_room(run, j))
            run->scratch->node_key[j] = (double)INFINITY;
    for (uint32_t e = 0; e < run->problem->n_experts; e++)
        refresh_expert(&order, e);
    for (uint32_t i = 0; i < run->problem->n_tokens; i++) {
        if (rule->rng)
            order.salt = smoe_rng_u64(rule->rng);
        if (run->n_tokens > 0)
            route_token(&order, i);
    }
    run->answer->work += (uint64_t)run->n_visits * run->problem->n_experts;
    smoe_route_finish(run);
}

void smoe_route_greedy(const struct smoe_route_problem *problem, struct smoe_route_scratch *scratch,
                       struct smoe_route_answer *answer)
{
    struct smoe_route_run run;
    smoe_route_begin(&run, problem, scratch, answer);
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        scratch->node_key[j] = smoe_route_marginal(&run, j);
    struct smoe_route_rule rule = {
        .weight = problem->score_weight, .by_node = true, .moves = SMOE_ROUTE_MARGINAL};
    smoe_route_in_order(&run, &rule);
}

void smoe_route_separable(const struct smoe_route_problem *problem,
                          struct smoe_route_scratch *scratch, struct smoe_route_answer *answer)
{
    struct smoe_route_run run;
    smoe_route_begin(&run, problem, scratch, answer);
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        scratch->node_key[j] = problem->nodes[j].backlog;
    struct smoe_route_rule rule = {
        .weight = problem->score_weight, .by_node = true, .moves = SMOE_ROUTE_STILL};
    smoe_route_in_order(&run, &rule);
}
