/* SPDX-License-Identifier: Apache-2.0
 *
 *     source -> token (capacity K) -> node (capacity 1, cost -w_ij) -> sink (convex cost Phi_j)
 *
 * The arc to the sink always costs what the node's next visit would, and its reverse gives back what
 * the last one cost, so one arc stands for a whole convex cost. Shortest paths by Bellman and Ford:
 * costs are negative, and this is the textbook.
 */
#include "bench/flow.h"

#include <math.h>
#include <stdlib.h>

#include "stablemoe/error.h"

struct arc {
    uint32_t from, to;
    uint32_t left; /* residual capacity; arc ^ 1 is its reverse */
    double cost;
};

struct net {
    const struct smoe_route_problem *problem;
    struct arc *arcs;
    uint32_t n_arcs, n_vertices;
    uint32_t first_sink_arc; /* of node 0; node j's is 2 j further */
    uint32_t *arrivals;      /* [J] */
    double *distance;        /* [n_vertices] */
    uint32_t *via;
};

static void add_arc(struct net *net, uint32_t from, uint32_t to, uint32_t capacity, double cost)
{
    net->arcs[net->n_arcs++] = (struct arc){from, to, capacity, cost};
    net->arcs[net->n_arcs++] = (struct arc){to, from, 0, -cost};
}

/* Prices of the node's next visit and of the last one. */
static void reprice(struct net *net, uint32_t node)
{
    const struct smoe_route_problem *p = net->problem;
    struct arc *arc = &net->arcs[net->first_sink_arc + 2 * node];
    uint32_t n = net->arrivals[node];
    arc[0].cost = smoe_cost_marginal(&p->nodes[node], p->mode, n);
    arc[0].left = isinf(arc[0].cost) ? 0 : 1;
    arc[1].left = n > 0 ? 1 : 0;
    arc[1].cost = n > 0 ? -smoe_cost_marginal(&p->nodes[node], p->mode, n - 1) : 0;
}

static void shortest_paths(struct net *net)
{
    bool changed = true;
    for (uint32_t v = 0; v < net->n_vertices; v++)
        net->distance[v] = v == 0 ? 0 : (double)INFINITY;
    while (changed) {
        changed = false;
        for (uint32_t a = 0; a < net->n_arcs; a++) {
            const struct arc *arc = &net->arcs[a];
            double through = net->distance[arc->from] + arc->cost;
            if (!arc->left || through >= net->distance[arc->to] - 1e-12)
                continue;
            net->distance[arc->to] = through;
            net->via[arc->to] = a;
            changed = true;
        }
    }
}

/* One visit more along the shortest path to `sink`; returns its cost. */
static double push(struct net *net, uint32_t sink)
{
    shortest_paths(net);
    for (uint32_t v = sink; v != 0; v = net->arcs[net->via[v]].from) {
        uint32_t a = net->via[v];
        bool forward = a >= net->first_sink_arc && !(a & 1);
        bool backward = a >= net->first_sink_arc && (a & 1);
        if (forward || backward) {
            uint32_t node = (a - net->first_sink_arc) / 2;
            net->arrivals[node] += forward ? 1u : UINT32_MAX;
            continue;
        }
        net->arcs[a].left--;
        net->arcs[a ^ 1].left++;
    }
    for (uint32_t j = 0; j < net->problem->n_nodes; j++)
        reprice(net, j);
    return net->distance[sink];
}

static void build(struct net *net)
{
    const struct smoe_route_problem *p = net->problem;
    uint32_t token = 1, node = token + p->n_tokens, sink = node + p->n_nodes;
    for (uint32_t i = 0; i < p->n_tokens; i++) {
        add_arc(net, 0, token + i, p->top_k, 0);
        for (uint32_t j = 0; j < p->n_nodes; j++) {
            double score = (double)p->scores[(size_t)i * p->n_experts + j];
            add_arc(net, token + i, node + j, 1, -p->score_weight * score);
        }
    }
    net->first_sink_arc = net->n_arcs;
    for (uint32_t j = 0; j < p->n_nodes; j++)
        add_arc(net, node + j, sink, 0, 0);
    for (uint32_t j = 0; j < p->n_nodes; j++)
        reprice(net, j);
    net->n_vertices = sink + 1;
}

int smoe_flow_solve(const struct smoe_route_problem *p, double *ret_value)
{
    struct net net = {.problem = p};
    size_t vertices = (size_t)p->n_tokens + p->n_nodes + 2;
    size_t arcs = 2 * ((size_t)p->n_tokens * (1 + p->n_nodes) + p->n_nodes);
    double value = 0;
    net.arcs = malloc(arcs * sizeof *net.arcs);
    net.arrivals = calloc(p->n_nodes, sizeof *net.arrivals);
    net.distance = malloc(vertices * sizeof *net.distance);
    net.via = malloc(vertices * sizeof *net.via);
    bool ok = net.arcs && net.arrivals && net.distance && net.via;
    if (ok) {
        build(&net);
        for (uint32_t j = 0; j < p->n_nodes; j++)
            value += smoe_cost(&p->nodes[j], p->mode, 0, NULL);
        for (uint32_t v = 0; v < p->n_tokens * p->top_k; v++)
            value += push(&net, net.n_vertices - 1);
        *ret_value = value;
    }
    free(net.arcs);
    free(net.arrivals);
    free(net.distance);
    free(net.via);
    return ok ? 0 : SMOE_ENOMEMORY;
}
