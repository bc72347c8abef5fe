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

#include "daemon/core/route_arcs.h"
#include "daemon/core/route_graph.h"

static const double NEAR = 4,
                    FAR = 4096; /* a search goes at least such parts of what rows knew at first,
                                             and of the way, at once */

/* ---- reached vertices: a heap, nearest first, of equals the lowest ---- */

#define SETTLED UINT32_MAX
#define OUTSIDE (UINT32_MAX - 1) /* reached, but nothing leads on from there that is not known */

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

/* The slack of an arc, 0 if it is violated. */
static double slack_of(const struct smoe_route_graph *graph, uint32_t from, uint32_t to,
                       double cost)
{
    double over = smoe_route_violation(graph, from, to, cost);
    return over < 0 ? -over : 0;
}

/* Is this the shortest way so far to a vertex, and not too far? `on`: it may lead on from there. */
static bool reach(struct smoe_route_graph *graph, uint32_t from, uint32_t to, double distance,
                  bool on)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (!(distance < s->distance[to]) || !(distance < graph->radius))
        return false;
    if (isinf(s->distance[to])) {
        s->touched[graph->n_touched++] = to;
        s->heap_place[to] = OUTSIDE;
    }
    s->distance[to] = distance;
    s->parent[to] = from;
    if (to == graph->wanted)
        graph->radius = distance;
    else if (s->heap_place[to] != OUTSIDE)
        rise_up(graph, s->heap_place[to], to);
    else if (on)
        rise_up(graph, graph->n_heap++, to);
    return true;
}

/* From an expert, a node leads on to its other experts, from elsewhere to all. The way to the sink is looked
 * at once: it often is the end, and then all that is farther need not be looked at. */
static void reach_node(struct smoe_route_graph *graph, uint32_t from, uint32_t node,
                       double distance)
{
    const struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = graph->n_experts + node;
    bool on =
        !smoe_route_is_expert(graph, from) || s->node_first[node + 1] - s->node_first[node] > 1;
    if (!reach(graph, from, vertex, distance, on) || !smoe_route_room(graph->run, node))
        return;
    double over = smoe_route_violation(graph, vertex, graph->sink, s->node_key[node]);
    if (graph->head == graph->sink && over - graph->run->tolerance > distance) {
        graph->wanted = s->parent[graph->sink] =
            vertex; /* from the sink any that has too little will do */
        graph->radius = distance;
    }
    reach(graph, vertex, graph->sink, distance + (over < 0 ? -over : 0), true);
}

static void reach_expert(struct smoe_route_graph *graph, uint32_t from, uint32_t expert,
                         double distance)
{
    const struct smoe_route_problem *problem = graph->run->problem;
    if (!reach(graph, from, expert, distance, true))
        return;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        uint32_t node = problem->replica_node[r];
        if (problem->nodes[node].arrivals_max > 0)
            reach_node(graph, expert, node,
                       distance + slack_of(graph, expert, graph->n_experts + node, 0));
    }
}

static void reach_from_sink(struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    const struct smoe_route_scratch *s = run->scratch;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        if (run->answer->arrivals[j] > 0)
            reach_node(graph, graph->sink, j,
                       s->distance[graph->sink] +
                           slack_of(graph, graph->sink, graph->n_experts + j, -s->node_down[j]));
    run->answer->work += run->problem->n_nodes;
}

static void reach_from_node(struct smoe_route_graph *graph, uint32_t node)
{
    const struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = graph->n_experts + node;
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++) {
        uint32_t expert = s->replica_expert[s->node_replica[h]];
        if (s->flow[s->node_replica[h]] > 0)
            reach_expert(graph, vertex, expert,
                         s->distance[vertex] + slack_of(graph, vertex, expert, 0));
    }
}

static void reach_from_expert(struct smoe_route_graph *graph, uint32_t expert)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    smoe_route_need_row(graph, expert);
    const double *row = smoe_route_row(graph, expert);
    uint32_t found =
        graph->arcs->nearer(row, s->label, s->distance, graph->n_experts,
                            s->distance[expert] - s->label[expert], graph->radius, s->found);
    for (uint32_t n = 0; n < found; n++)
        reach_expert(graph, expert, s->found[n],
                     s->distance[expert] + slack_of(graph, expert, s->found[n],
                                                    smoe_route_arc(graph, expert, s->found[n])));
    graph->run->answer->work += graph->n_experts;
}

/* Takes the nearest vertex that is not settled; UINT32_MAX if none is within the radius. */
static uint32_t settle_nearest(struct smoe_route_graph *graph)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (graph->n_heap == 0 || !(s->distance[s->heap[0]] < graph->radius))
        return UINT32_MAX;
    uint32_t vertex = s->heap[0], last = s->heap[--graph->n_heap];
    s->heap_place[vertex] = SETTLED;
    if (graph->n_heap > 0)
        sink_down(graph, 0, last);
    return vertex;
}

/* Dijkstra from the head of a violated arc towards its tail, no farther than the radius; a violated
 * arc on the way counts as 0. True if the tail was reached. */
static bool search_back(struct smoe_route_graph *graph, uint32_t tail, uint32_t head)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    graph->wanted = tail;
    graph->n_touched = graph->n_heap = 0;
    graph->head = head;
    if (head == graph->sink)
        reach(graph, tail, head, 0, true);
    else if (smoe_route_is_expert(graph, head))
        reach_expert(graph, tail, head, 0);
    else
        reach_node(graph, tail, head - graph->n_experts, 0);
    for (uint32_t vertex; (vertex = settle_nearest(graph)) != UINT32_MAX;) {
        if (vertex == graph->sink)
            reach_from_sink(graph);
        else if (smoe_route_is_expert(graph, vertex))
            reach_from_expert(graph, vertex);
        else
            reach_from_node(graph, vertex - graph->n_experts);
    }
    return !isinf(s->distance[graph->wanted]);
}

/* Lifts the labels of what is nearer than `radius`, each by what it is nearer, and forgets the search. */
static void lift_labels(struct smoe_route_graph *graph, double radius)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    for (uint32_t k = 0; k < graph->n_touched; k++) {
        uint32_t vertex = s->touched[k];
        if (s->distance[vertex] < radius) {
            s->label[vertex] += radius - s->distance[vertex];
            if (smoe_route_is_expert(graph, vertex) &&
                s->label[vertex] - s->expert_price[vertex] > graph->lifted)
                graph->lifted = s->label[vertex] - s->expert_price[vertex];
        }
        s->distance[vertex] = (double)INFINITY;
    }
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
        run->answer->work++;
        if (search_back(graph, tail, head)) {
            lift_labels(graph, run->scratch->distance[graph->wanted]);
            return true;
        }
        lift_labels(graph, whole ? over : sight);
        if (!whole)
            smoe_route_look_out(graph, sight);
    }
}

/* Mends one violated arc: lifts its head, or cancels the cycle that it closes. True if it cancelled: arcs have
 * changed, the caller must look again. */
static bool mend(struct smoe_route_graph *graph, uint32_t tail, uint32_t head, double cost)
{
    const struct smoe_route_run *run = graph->run;
    if (!leads_back(graph, tail, head, cost))
        return false;
    struct smoe_route_cycle cycle = smoe_route_walk(graph, head);
    if (smoe_route_unit_cost(run, &cycle, 1) > -run->tolerance / 2) /* rounding, not a gain */
        return false;
    smoe_route_cancel_cycle(graph, head, &cycle);
    return true;
}

/* What the answer may lose against the bound of the labels, where all tokens hold their K cheapest at them. */
static double gap(const struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    const struct smoe_route_scratch *s = run->scratch;
    const struct smoe_route_problem *problem = run->problem;
    double sum = 0;
    for (uint32_t j = 0; j < problem->n_nodes && sum <= run->enough; j++) {
        uint32_t n = run->answer->arrivals[j];
        double price = s->label[graph->n_experts + j] - s->label[graph->sink];
        if (problem->nodes[j].arrivals_max > 0 &&
            (price < s->node_down[j] || price > s->node_key[j]))
            sum += smoe_cost(&problem->nodes[j], problem->mode, n, NULL) - price * n -
                   smoe_route_node_dual(run, j, price);
    }
    for (uint32_t r = 0; r < problem->replica_first[problem->n_experts]; r++)
        if (s->flow[r] > 0)
            sum += s->flow[r] *
                   fmax(0, smoe_route_violation(graph, graph->n_experts + problem->replica_node[r],
                                                s->replica_expert[r], 0));
    return sum;
}

/* Enough: out of work, or so near to the bound as was asked for. */
static bool enough(const struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    if (run->answer->work > run->work_max)
        return true;
    return run->enough > 0 && graph->tidy && gap(graph) <= run->enough;
}

/* Each of these mends the arcs that leave a vertex, and says whether it cancelled any cycle that may have violated
 * others of them. */

static bool mend_sink(struct smoe_route_graph *graph)
{
    const struct smoe_route_run *run = graph->run;
    for (uint32_t j = 0; j < run->problem->n_nodes && !graph->enough; j++) {
        bool mended = false;
        while (run->answer->arrivals[j] > 0 &&
               mend(graph, graph->sink, graph->n_experts + j, -run->scratch->node_down[j]))
            mended = true;
        if (mended)
            graph->enough = enough(graph);
    }
    return false;
}

static bool mend_node(struct smoe_route_graph *graph, uint32_t node)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = graph->n_experts + node;
    bool mended = false;
    while (smoe_route_room(graph->run, node) && mend(graph, vertex, graph->sink, s->node_key[node]))
        mended = true;
    if (mended)
        graph->enough = enough(graph);
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
        if (problem->nodes[problem->replica_node[r]].arrivals_max > 0 &&
            mend(graph, expert, graph->n_experts + problem->replica_node[r], 0))
            return true;
    if (graph->tidy)
        return false;
    smoe_route_need_row(graph, expert);
    for (uint32_t f = 0; f < graph->n_experts; f++)
        if (mend(graph, expert, f, smoe_route_arc(graph, expert, f)))
            return true;
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
        weight = fabs(s->cutoff[i]) > weight ? fabs(s->cutoff[i]) : weight;
    return 64 * DBL_EPSILON * (price + weight);
}

bool smoe_route_cancel(struct smoe_route_run *run, const uint8_t *dirty)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t n_experts = run->problem->n_experts, n_nodes = run->problem->n_nodes;
    struct smoe_route_graph graph;
    smoe_route_graph_start(&graph, run, dirty);
    run->tolerance = rounding(run);
    graph.enough = enough(&graph);
    while (graph.waiting > 0 && !graph.enough) {
        uint32_t vertex = smoe_route_dequeue(&graph);
        bool again = vertex == graph.sink                   ? mend_sink(&graph)
                     : smoe_route_is_expert(&graph, vertex) ? mend_expert(&graph, vertex)
                                                            : mend_node(&graph, vertex - n_experts);
        if (again)
            smoe_route_enqueue(&graph, vertex);
        graph.enough |= run->answer->work > run->work_max;
    }
    for (uint32_t j = 0; j < n_nodes; j++) /* the sink's price is 0 */
        s->node_price[j] = s->label[n_experts + j] - s->label[graph.sink];
    return graph.waiting == 0 && !graph.enough;
}
