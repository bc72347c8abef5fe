/* SPDX-License-Identifier: Apache-2.0
 *
 * From a feasible flow to an optimal one: cancel negative cycles until none is left (MODEL.md (19)).
 *
 * The residual graph (route_graph.h) has E + J + 1 vertices, however many tokens there are. A cycle of
 * negative cost in it is an improvement; a flow without one is optimal. Every vertex carries a label, at
 * first its price. An arc u -> v of cost c is violated by label[u] - c - label[v] where that is positive;
 * without a violated arc there is no negative cycle, and the labels are optimal prices.
 *
 * Violated arcs are mended one at a time (the out-of-kilter method). From the head of the arc a search
 * looks for its tail, by the slack of arcs and no farther than the violation. If it arrives, path and
 * arc are a negative cycle: labels near the head are lifted so that the path has no slack, and the cycle
 * is cancelled. If it does not, the same lifting mends the arc. Lifting never violates an arc, and where
 * the path had no slack neither does cancelling; so the prices of the sweeps, nearly right, keep every
 * search within a few vertices, and what is mended stays mended.
 *
 * Termination: each cancelled cycle lowers the objective by more than `tolerance`, which is above what
 * rounding can feign, and between two cycles each search mends an arc for good. Equal tokens, and visits
 * that only change replicas, go around a cycle many at a time.
 */
#include <float.h>
#include <math.h>

#include "daemon/core/route_graph.h"

static const double NEAR = 4,
                    FAR = 4096; /* a search goes at least such parts of what rows knew at first,
                                             and of the way, at once */

/* ---- reached vertices: a heap, nearest first, of equals the lowest ---- */

#define SETTLED UINT32_MAX

static bool nearer(const struct smoe_route_scratch *s, uint32_t a, uint32_t b)
{
    return s->distance[a] != s->distance[b] ? s->distance[a] < s->distance[b] : a < b;
}

static void rise_up(struct smoe_route_graph *graph, uint32_t place, uint32_t vertex)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    while (place > 0 && nearer(s, vertex, s->heap[(place - 1) / 2])) {
        s->heap[place] = s->heap[(place - 1) / 2];
        s->heap_place[s->heap[place]] = place;
        place = (place - 1) / 2;
    }
    s->heap[place] = vertex;
    s->heap_place[vertex] = place;
}

static void sink_down(struct smoe_route_graph *graph, uint32_t place, uint32_t vertex)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    for (uint32_t below; (below = 2 * place + 1) < graph->n_heap; place = below) {
        if (below + 1 < graph->n_heap && nearer(s, s->heap[below + 1], s->heap[below]))
            below++;
        if (!nearer(s, s->heap[below], vertex))
            break;
        s->heap[place] = s->heap[below];
        s->heap_place[s->heap[place]] = place;
    }
    s->heap[place] = vertex;
    s->heap_place[vertex] = place;
}

/* ---- the search ---- */

/* The search reaches `to` over an arc of this cost, unless it knows a shorter way or it is too far. */
static void reach(struct smoe_route_graph *graph, uint32_t from, uint32_t to, double cost)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    double over = smoe_route_violation(graph, from, to, cost);
    double distance = s->distance[from] + (over < 0 ? -over : 0);
    if (!(distance < s->distance[to]) || !(distance < graph->radius))
        return;
    bool known = !isinf(s->distance[to]);
    s->distance[to] = distance;
    s->parent[to] = from;
    if (!known) {
        s->touched[graph->n_touched++] = to;
        rise_up(graph, graph->n_heap++, to);
    } else if (s->heap_place[to] != SETTLED) {
        rise_up(graph, s->heap_place[to], to);
    }
    if (to == graph->wanted)
        graph->radius = distance;
}

static void reach_from_sink(struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        if (run->answer->arrivals[j] > 0)
            reach(graph, graph->sink, graph->n_experts + j, -run->scratch->node_down[j]);
}

static void reach_from_node(struct smoe_route_graph *graph, uint32_t node)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = graph->n_experts + node;
    if (smoe_route_room(graph->run, node))
        reach(graph, vertex, graph->sink, s->node_key[node]);
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++)
        if (s->flow[s->node_replica[h]] > 0)
            reach(graph, vertex, s->replica_expert[s->node_replica[h]], 0);
}

static void reach_from_expert(struct smoe_route_graph *graph, uint32_t expert)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    const struct smoe_route_problem *problem = graph->run->problem;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++)
        reach(graph, expert, graph->n_experts + problem->replica_node[r], 0);
    smoe_route_need_row(graph, expert);
    const double *row = smoe_route_row(graph, expert);
    for (uint32_t f = 0; f < graph->n_experts; f++) {
        double limit = s->distance[f] < graph->radius ? s->distance[f] : graph->radius;
        double least = s->distance[expert] - limit;
        if (smoe_route_violation(graph, expert, f, row[f]) > least &&
            smoe_route_believe(graph, expert, f, least))
            reach(graph, expert, f, row[f]);
    }
    graph->run->answer->work += graph->n_experts;
}

/* Takes the nearest vertex that is not settled; UINT32_MAX if none is within the radius. */
static uint32_t settle_nearest(struct smoe_route_graph *graph)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (graph->n_heap == 0)
        return UINT32_MAX;
    uint32_t vertex = s->heap[0], last = s->heap[--graph->n_heap];
    s->heap_place[vertex] = SETTLED;
    if (graph->n_heap > 0)
        sink_down(graph, 0, last);
    return vertex;
}

/* Dijkstra from the head of a violated arc towards its tail, no farther than the violation; a violated
 * arc on the way counts as 0. True if the tail was reached. */
static bool search_back(struct smoe_route_graph *graph, uint32_t tail, uint32_t head)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    s->distance[head] = 0;
    s->parent[head] = tail;
    s->touched[0] = s->heap[0] = head;
    s->heap_place[head] = 0;
    graph->n_touched = graph->n_heap = 1;
    graph->wanted = tail;
    for (;;) {
        uint32_t vertex = settle_nearest(graph);
        if (vertex == UINT32_MAX || vertex == tail)
            return vertex == tail;
        if (vertex == graph->sink)
            reach_from_sink(graph);
        else if (smoe_route_is_expert(graph, vertex))
            reach_from_expert(graph, vertex);
        else
            reach_from_node(graph, vertex - graph->n_experts);
    }
}

/* How far labels of experts have moved against each other since the sweeps' pass. */
static double spread_of_lifts(const struct smoe_route_graph *graph)
{
    const struct smoe_route_scratch *s = graph->run->scratch;
    double most = 0, least = (double)INFINITY;
    for (uint32_t e = 0; e < graph->n_experts; e++) {
        if (isinf(s->expert_price[e]))
            continue;
        double lift = s->label[e] - s->expert_price[e];
        most = lift > most ? lift : most;
        least = lift < least ? lift : least;
    }
    return most - least;
}

/* Lifts the labels of what is nearer than `radius`, each by what it is nearer, and forgets the search. */
static void lift_labels(struct smoe_route_graph *graph, double radius)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    for (uint32_t k = 0; k < graph->n_touched; k++) {
        uint32_t vertex = s->touched[k];
        if (s->distance[vertex] < radius)
            s->label[vertex] += radius - s->distance[vertex];
        s->distance[vertex] = (double)INFINITY;
    }
    graph->lifted = spread_of_lifts(graph);
    smoe_route_look_out(graph, 0);
}

/* Closes the gap of a violated arc by lifting its head and what hangs on it. True if there is a path
 * back to its tail instead, without slack now. Looks no farther than rows know, at first: in a crowd of
 * tokens a path is short. */
static bool leads_back(struct smoe_route_graph *graph, uint32_t tail, uint32_t head, double cost)
{
    struct smoe_route_run *run = graph->run;
    for (;;) {
        double over = smoe_route_violation(graph, tail, head, cost);
        double wanted = over - run->tolerance;
        if (!(wanted > 0) || run->answer->work > run->work_max)
            return false;
        smoe_route_look_out(graph, fmin(wanted, fmax(run->horizon / NEAR, wanted / FAR)));
        double sight = graph->horizon - graph->lifted;
        bool whole = wanted <= sight;
        graph->radius = whole ? wanted : sight;
        if (search_back(graph, tail, head)) {
            lift_labels(graph, run->scratch->distance[tail]);
            return true;
        }
        lift_labels(graph, whole ? over : sight);
        if (!whole)
            smoe_route_look_out(graph, sight);
    }
}

/* Mends one violated arc: lifts its head, or cancels the cycle that it closes. True if it cancelled
 * (arcs have changed, the caller must look again) or if there is no work left to spend. */
static bool mend(struct smoe_route_graph *graph, uint32_t tail, uint32_t head, double cost)
{
    struct smoe_route_run *run = graph->run;
    if (!leads_back(graph, tail, head, cost))
        return run->answer->work > run->work_max;
    struct smoe_route_cycle cycle = smoe_route_walk(graph, head);
    if (smoe_route_unit_cost(run, &cycle, 1) > -run->tolerance / 2) /* rounding, not a gain */
        return false;
    run->spare += smoe_route_cancel_cycle(graph, head, &cycle);
    return true;
}

static bool mend_sink(struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        if (run->answer->arrivals[j] > 0 &&
            mend(graph, graph->sink, graph->n_experts + j, -run->scratch->node_down[j]))
            return true;
    return false;
}

static bool mend_node(struct smoe_route_graph *graph, uint32_t node)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = graph->n_experts + node;
    if (smoe_route_room(graph->run, node) && mend(graph, vertex, graph->sink, s->node_key[node]))
        return true;
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++) {
        uint32_t r = s->node_replica[h];
        if (s->flow[r] > 0 && mend(graph, vertex, s->replica_expert[r], 0))
            return true;
    }
    return false;
}

static bool mend_expert(struct smoe_route_graph *graph, uint32_t expert)
{
    struct smoe_route_run *run = graph->run;
    const struct smoe_route_problem *problem = run->problem;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++)
        if (mend(graph, expert, graph->n_experts + problem->replica_node[r], 0))
            return true;
    for (uint32_t f = 0; f < graph->n_experts; f++) {
        smoe_route_need_row(graph, expert); /* mending may have widened the horizon */
        if (smoe_route_believe(graph, expert, f, run->tolerance) &&
            mend(graph, expert, f, smoe_route_row(graph, expert)[f]))
            return true;
    }
    run->answer->work += graph->n_experts;
    return false;
}

/* A gain must be more than what rounding makes of the prices it is the difference of. */
static double rounding(const struct smoe_route_run *run)
{
    const struct smoe_route_scratch *s = run->scratch;
    double price = 0, weight = 0;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        if (run->answer->arrivals[j] > 0)
            price = fmax(price, fmax(fabs(s->node_down[j]), fabs(s->node_price[j])));
    for (uint32_t i = 0; i < run->n_tokens; i++)
        weight = fmax(weight, fabs(s->cutoff[i]));
    return 64 * DBL_EPSILON * (price + weight);
}

bool smoe_route_cancel(struct smoe_route_run *run, const uint8_t *dirty)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t n_experts = run->problem->n_experts, n_nodes = run->problem->n_nodes;
    struct smoe_route_graph graph;
    smoe_route_graph_start(&graph, run, dirty);
    run->tolerance = rounding(run);
    while (graph.waiting > 0) {
        if (run->answer->work > run->work_max || run->spare >= 0)
            return false;
        uint32_t vertex = smoe_route_dequeue(&graph);
        bool again = vertex == graph.sink                   ? mend_sink(&graph)
                     : smoe_route_is_expert(&graph, vertex) ? mend_expert(&graph, vertex)
                                                            : mend_node(&graph, vertex - n_experts);
        if (again)
            smoe_route_enqueue(&graph, vertex);
    }
    for (uint32_t j = 0; j < n_nodes; j++) /* the sink's price is 0 */
        s->node_price[j] = s->label[n_experts + j] - s->label[graph.sink];
    return true;
}
