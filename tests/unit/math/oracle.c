/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t between(struct smoe_rng *rng, uint32_t low, uint32_t high)
{
    return low + (uint32_t)smoe_rng_below(rng, high - low + 1);
}

static double log_uniform(struct smoe_rng *rng, double low, double high)
{
    return low * exp(smoe_rng_unit(rng) * log(high / low));
}

static bool chance(struct smoe_rng *rng, double probability)
{
    return smoe_rng_unit(rng) < probability;
}

static const struct smoe_power_curve TABLE = {.n = 4,
                                              .hz = {0, 0.6e9, 1.8e9, 2.4e9},
                                              .watts = {1, 1.5, 3.9, 8.7},
                                              .slope = {0.5 / 0.6e9, 2.4 / 1.2e9, 4.8 / 0.6e9}};

/* Nodes of very unlike speed and queue; a few live in the flat where work is free. */
static void draw_nodes(struct instance *instance, const struct instance_kind *kind,
                       struct smoe_rng *rng)
{
    uint32_t visits = instance->problem.n_tokens * instance->problem.top_k;
    double penalty = log_uniform(rng, 0.1, 100), load = log_uniform(rng, 0.3, 300);
    bool queues = chance(rng, 0.7), energy = chance(rng, 0.6), owed = chance(rng, 0.3);
    for (uint32_t j = 0; j < instance->problem.n_nodes; j++) {
        struct smoe_node *node = &instance->nodes[j];
        *node = (struct smoe_node){.penalty = penalty, .arrivals_max = UINT32_MAX};
        if (queues && chance(rng, 0.8))
            node->backlog = floor(load * smoe_rng_unit(rng) * 4) / 4;
        node->executable = owed ? node->backlog * smoe_rng_unit(rng) : node->backlog;
        if (chance(rng, 0.9))
            node->service_max = floor(log_uniform(rng, 1, 2 + visits));
        if (energy && chance(rng, 0.7))
            node->energy_price = log_uniform(rng, 1e-6, 3);
        if (energy && chance(rng, 0.2)) { /* a machine with a table of states and static power */
            node->power = &TABLE;
            node->energy_price *= 10;
            node->visit_hz = 2.4e9 / (node->service_max + 1);
        }
        if (kind->caps && chance(rng, 0.4))
            node->arrivals_max = chance(rng, 0.3) ? 0 : between(rng, 1, 1 + visits / 2);
    }
}

static void draw_replicas(struct instance *instance, const struct instance_kind *kind,
                          struct smoe_rng *rng)
{
    struct smoe_route_problem *p = &instance->problem;
    uint32_t count = 0;
    double density = chance(rng, 0.5) ? 0.2 : smoe_rng_unit(rng);
    for (uint32_t e = 0; e < p->n_experts; e++) {
        instance->replica_first[e] = count;
        uint32_t home = kind->one_to_one ? e : between(rng, 0, p->n_nodes - 1);
        bool lost = kind->caps && chance(rng, 0.05);
        for (uint32_t j = 0; j < p->n_nodes && !lost; j++)
            if (j == home || (!kind->one_to_one && chance(rng, density)))
                instance->replica_node[count++] = j;
    }
    instance->replica_first[p->n_experts] = count;
}

static void draw_scores(struct instance *instance, const struct instance_kind *kind,
                        struct smoe_rng *rng)
{
    const struct smoe_route_problem *p = &instance->problem;
    uint32_t distinct = kind->alike ? between(rng, 1, 4) : p->n_tokens;
    double skew = smoe_rng_unit(rng);
    for (uint32_t i = 0; i < p->n_tokens; i++)
        for (uint32_t e = 0; e < p->n_experts; e++) {
            float *score = &instance->scores[(size_t)i * p->n_experts + e];
            if (i >= distinct)
                *score = instance->scores[(size_t)(i % distinct) * p->n_experts + e];
            else if (kind->alike)
                *score = (float)between(rng, 0, 3) / 4.0F;
            else
                *score = (float)(smoe_rng_unit(rng) + skew * e / p->n_experts);
        }
}

static void *array(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    cr_assert_not_null(memory);
    return memory;
}

void instance_draw(struct instance *instance, const struct instance_kind *kind,
                   struct smoe_rng *rng)
{
    *instance = (struct instance){0};
    struct smoe_route_problem *p = &instance->problem;
    p->n_experts = between(rng, kind->experts_min ? kind->experts_min : 1, kind->experts_max);
    p->n_nodes = kind->one_to_one ? p->n_experts : between(rng, 1, kind->nodes_max);
    uint32_t k_max = kind->top_k_max < p->n_experts ? kind->top_k_max : p->n_experts;
    p->top_k = between(rng, 1, k_max);
    p->n_tokens = between(rng, kind->tokens_min ? kind->tokens_min : 1, kind->tokens_max);
    p->score_weight = chance(rng, 0.1) ? 0 : log_uniform(rng, 0.1, 100);
    p->mode = chance(rng, 0.75) ? SMOE_COST_EXACT : SMOE_COST_LINEAR;

    size_t visits = (size_t)p->n_tokens * p->top_k;
    instance->scores = array((size_t)p->n_tokens * p->n_experts, sizeof(float));
    instance->replica_first = array(p->n_experts + 1, sizeof(uint32_t));
    instance->replica_node = array((size_t)p->n_experts * p->n_nodes, sizeof(uint32_t));
    instance->nodes = array(p->n_nodes, sizeof(struct smoe_node));
    instance->answer.expert = array(visits, sizeof(uint16_t));
    instance->answer.node = array(visits, sizeof(uint32_t));
    instance->answer.arrivals = array(p->n_nodes, sizeof(uint32_t));
    draw_nodes(instance, kind, rng);
    draw_replicas(instance, kind, rng);
    draw_scores(instance, kind, rng);
    p->scores = instance->scores;
    p->replica_first = instance->replica_first;
    p->replica_node = instance->replica_node;
    p->nodes = instance->nodes;
}

void instance_release(struct instance *instance)
{
    free(instance->scores);
    free(instance->replica_first);
    free(instance->replica_node);
    free(instance->nodes);
    free(instance->answer.expert);
    free(instance->answer.node);
    free(instance->answer.arrivals);
    *instance = (struct instance){0};
}

static double weight(const struct smoe_route_problem *p, uint32_t token, uint32_t expert)
{
    return p->score_weight * (double)p->scores[(size_t)token * p->n_experts + expert];
}

static double phi(const struct smoe_route_problem *p, uint32_t node, uint32_t n)
{
    return smoe_cost(&p->nodes[node], p->mode, n, NULL);
}

static bool holds_replica(const struct smoe_route_problem *p, uint32_t expert, uint32_t node)
{
    for (uint32_t r = p->replica_first[expert]; r < p->replica_first[expert + 1]; r++)
        if (p->replica_node[r] == node)
            return true;
    return false;
}

void instance_check(const struct instance *instance, const char *what)
{
    const struct smoe_route_problem *p = &instance->problem;
    const struct smoe_route_answer *a = &instance->answer;
    uint32_t *load = array(p->n_nodes, sizeof *load), routed = 0;
    double objective = 0;
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        const uint16_t *expert = a->expert + (size_t)i * p->top_k;
        routed += expert[0] != SMOE_ROUTE_NONE;
        for (uint32_t k = 0; k < p->top_k; k++) {
            if (expert[0] == SMOE_ROUTE_NONE) {
                cr_assert_eq(expert[k], SMOE_ROUTE_NONE, "%s: token %u is routed in part", what, i);
                continue;
            }
            uint32_t node = a->node[(size_t)i * p->top_k + k];
            cr_assert_lt(expert[k], p->n_experts, "%s", what);
            cr_assert_lt(node, p->n_nodes, "%s", what);
            cr_assert(holds_replica(p, expert[k], node), "%s: no replica there", what);
            for (uint32_t m = 0; m < k; m++)
                cr_assert_neq(expert[m], expert[k], "%s: an expert twice", what);
            load[node]++;
            objective -= weight(p, i, expert[k]);
        }
    }
    for (uint32_t j = 0; j < p->n_nodes; j++) {
        cr_assert_eq(load[j], a->arrivals[j], "%s: arrivals miscounted", what);
        cr_assert_leq(load[j], p->nodes[j].arrivals_max, "%s: cap exceeded", what);
        objective += phi(p, j, load[j]);
    }
    cr_assert_eq(routed, a->n_routed, "%s: n_routed", what);
    cr_assert_float_eq(a->primal, objective, 1e-9 * (1 + fabs(objective)), "%s: primal", what);
    free(load);
}

double instance_scale(const struct instance *instance)
{
    const struct smoe_route_problem *p = &instance->problem;
    double least = (double)INFINITY, most = -(double)INFINITY;
    for (uint32_t i = 0; i < instance->answer.n_routed; i++)
        for (uint32_t e = 0; e < p->n_experts; e++) {
            least = fmin(least, weight(p, i, e));
            most = fmax(most, weight(p, i, e));
        }
    if (!instance->answer.n_routed)
        return 0;
    return (double)p->top_k * instance->answer.n_routed * (most - least + p->nodes[0].penalty);
}

/* --- every assignment ------------------------------------------------------------------------- */

enum { PATTERNS_MAX = 4096 };

/* One way to place a token: K experts and a node for each. */
struct pattern {
    uint16_t expert[8];
    uint32_t node[8];
};

struct enumeration {
    const struct smoe_route_problem *p;
    struct pattern patterns[PATTERNS_MAX];
    uint32_t n_patterns, n_tokens;
    uint32_t *load;
    double best;
};

static void list_patterns(struct enumeration *all, struct pattern *pattern, uint32_t k,
                          uint32_t from)
{
    const struct smoe_route_problem *p = all->p;
    if (k == p->top_k) {
        if (all->n_patterns < PATTERNS_MAX)
            all->patterns[all->n_patterns] = *pattern;
        all->n_patterns++;
        return;
    }
    for (uint32_t e = from; e < p->n_experts; e++)
        for (uint32_t r = p->replica_first[e]; r < p->replica_first[e + 1]; r++) {
            pattern->expert[k] = (uint16_t)e;
            pattern->node[k] = p->replica_node[r];
            if (p->nodes[pattern->node[k]].arrivals_max > 0)
                list_patterns(all, pattern, k + 1, e + 1);
        }
}

static struct enumeration *enumerate(const struct instance *instance)
{
    struct enumeration *all = array(1, sizeof *all);
    struct pattern pattern;
    all->p = &instance->problem;
    all->load = array(all->p->n_nodes, sizeof *all->load);
    list_patterns(all, &pattern, 0, 0);
    return all;
}

double brute_force_steps(const struct instance *instance)
{
    struct enumeration *all = enumerate(instance);
    double steps = pow(all->n_patterns, instance->problem.n_tokens);
    if (all->n_patterns > PATTERNS_MAX)
        steps = (double)INFINITY;
    free(all->load);
    free(all);
    return steps;
}

static void try_all(struct enumeration *all, uint32_t token, double value)
{
    const struct smoe_route_problem *p = all->p;
    if (token == all->n_tokens) {
        for (uint32_t j = 0; j < p->n_nodes; j++)
            value += phi(p, j, all->load[j]);
        all->best = fmin(all->best, value);
        return;
    }
    for (uint32_t m = 0; m < all->n_patterns; m++) {
        const struct pattern *pattern = &all->patterns[m];
        double mass = 0;
        bool fits = true;
        for (uint32_t k = 0; k < p->top_k; k++) {
            uint32_t node = pattern->node[k];
            fits &= ++all->load[node] <= p->nodes[node].arrivals_max;
            mass += weight(p, token, pattern->expert[k]);
        }
        if (fits)
            try_all(all, token + 1, value - mass);
        for (uint32_t k = 0; k < p->top_k; k++)
            all->load[pattern->node[k]]--;
    }
}

double brute_force(const struct instance *instance, uint32_t *ret_routed)
{
    struct enumeration *all = enumerate(instance);
    all->best = (double)INFINITY;
    for (all->n_tokens = instance->problem.n_tokens;; all->n_tokens--) {
        try_all(all, 0, 0);
        if (!isinf(all->best))
            break;
    }
    double best = all->best;
    *ret_routed = all->n_tokens;
    free(all->load);
    free(all);
    return best;
}

/* --- min-cost flow: successive shortest paths by Bellman and Ford, arcs of one unit ------------ */

struct edge {
    uint32_t from, to;
    int32_t left; /* residual capacity; edge ^ 1 is its reverse */
    double cost;
};

struct network {
    struct edge *edges;
    uint32_t n_edges, n_vertices;
};

static void add_edge(struct network *net, uint32_t from, uint32_t to, int32_t capacity, double cost)
{
    net->edges[net->n_edges++] = (struct edge){from, to, capacity, cost};
    net->edges[net->n_edges++] = (struct edge){to, from, 0, -cost};
}

/* Cost of the cheapest path that one more unit can take, +inf if there is none; the unit takes it. */
static double push_unit(struct network *net, uint32_t source, uint32_t sink)
{
    double *distance = array(net->n_vertices, sizeof *distance);
    uint32_t *via = array(net->n_vertices, sizeof *via);
    for (uint32_t v = 0; v < net->n_vertices; v++)
        distance[v] = v == source ? 0 : (double)INFINITY;
    bool changed = true;
    while (changed) {
        changed = false;
        for (uint32_t m = 0; m < net->n_edges; m++) {
            const struct edge *edge = &net->edges[m];
            if (edge->left && distance[edge->from] + edge->cost < distance[edge->to] - 1e-12) {
                distance[edge->to] = distance[edge->from] + edge->cost;
                via[edge->to] = m;
                changed = true;
            }
        }
    }
    double cost = distance[sink];
    for (uint32_t v = sink; !isinf(cost) && v != source; v = net->edges[via[v]].from) {
        net->edges[via[v]].left--;
        net->edges[via[v] ^ 1].left++;
    }
    free(distance);
    free(via);
    return cost;
}

/* Vertices: source, tokens, experts, nodes, sink. +inf if the tokens do not all fit. */
static double flow_of(const struct smoe_route_problem *p, uint32_t n_tokens)
{
    uint32_t visits = n_tokens * p->top_k, token = 1, expert = token + n_tokens;
    uint32_t node = expert + p->n_experts, sink = node + p->n_nodes;
    struct network net = {.n_vertices = sink + 1};
    net.edges = array(2 * ((size_t)n_tokens * (1 + p->n_experts) + (size_t)p->n_nodes * visits +
                           (size_t)p->n_experts * p->n_nodes),
                      sizeof *net.edges);
    double value = 0;
    for (uint32_t j = 0; j < p->n_nodes; j++) {
        value += phi(p, j, 0);
        for (uint32_t n = 0; n < visits && n < p->nodes[j].arrivals_max; n++)
            add_edge(&net, node + j, sink, 1, phi(p, j, n + 1) - phi(p, j, n));
    }
    for (uint32_t e = 0; e < p->n_experts; e++)
        for (uint32_t r = p->replica_first[e]; r < p->replica_first[e + 1]; r++)
            add_edge(&net, expert + e, node + p->replica_node[r], (int32_t)visits, 0);
    for (uint32_t i = 0; i < n_tokens; i++) {
        for (uint32_t e = 0; e < p->n_experts; e++)
            add_edge(&net, token + i, expert + e, 1, -weight(p, i, e));
        add_edge(&net, 0, token + i, (int32_t)p->top_k, 0);
    }
    for (uint32_t v = 0; v < visits; v++)
        value += push_unit(&net, 0, sink);
    free(net.edges);
    return value;
}

double min_cost_flow(const struct instance *instance, uint32_t *ret_routed)
{
    uint32_t n = instance->problem.n_tokens;
    double value;
    while (isinf(value = flow_of(&instance->problem, n)))
        n--;
    *ret_routed = n;
    return value;
}
