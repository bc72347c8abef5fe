/* SPDX-License-Identifier: Apache-2.0
 *
 * The arcs of the residual graph, and carrying units around a cycle.
 *
 * Arcs at nodes and at the sink are read off the flow; their prices stand in node_key (one more visit)
 * and node_down (the last one), renewed with every change of load. Arcs between experts come in rows,
 * one per expert, made when first needed: each entry is the best of all tokens on the expert. After
 * that a row is kept up as tokens move:
 *
 *     a token comes to an expert      what it offers is entered at once, so an entry is never too high
 *     a token leaves, or comes to     its entries are stale, too low perhaps: that is seen (the visit is
 *     hold the arc's head             elsewhere) and put right when somebody wants to believe the arc
 *
 * Most tokens are far from changing their mind, and never enter a row. A token that holds its K cheapest
 * at the sweeps' prices has the slack `margin` or more on each of its arcs; labels only rise, so what is
 * left of it is margin less the most that an expert's label has risen. Tokens beyond the horizon are left
 * out while this exceeds all that is asked for; then the horizon is widened and rows are made anew. A
 * token that has been moved, or was placed otherwise, counts as margin 0.
 *
 * Law: the tail of every violated arc is in the queue. Arcs can only become violated where a cycle has
 * passed, so what it changes is checked there and then: carry at nodes, enter_token at experts.
 */
#include "daemon/core/route_graph.h"

#include <math.h>
#include <string.h>

void smoe_route_enqueue(struct smoe_route_graph *graph, uint32_t vertex)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (s->queued[vertex])
        return;
    s->queued[vertex] = 1;
    s->queue[(graph->read + graph->waiting++) % graph->n_vertices] = vertex;
}

uint32_t smoe_route_dequeue(struct smoe_route_graph *graph)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t vertex = s->queue[graph->read];
    graph->read = (graph->read + 1) % graph->n_vertices;
    graph->waiting--;
    s->queued[vertex] = 0;
    return vertex;
}

/* Enters what a visit on its expert offers to every expert its token does not hold. */
static void enter_visit(struct smoe_route_graph *graph, uint32_t visit)
{
    struct smoe_route_run *run = graph->run;
    const struct smoe_route_problem *problem = run->problem;
    uint32_t token = visit / problem->top_k, from = run->answer->expert[visit];
    struct smoe_route_arc *row = smoe_route_row(graph, from);
    double weight = smoe_route_weight(problem, token, from);
    for (uint32_t f = 0; f < graph->n_experts; f++) {
        double cost = weight - smoe_route_weight(problem, token, f);
        if (cost < row[f].cost && !smoe_route_holds(run, token, f))
            row[f] = (struct smoe_route_arc){.cost = cost, .visit = visit};
    }
    run->answer->work += graph->n_experts;
}

static bool in_sight(const struct smoe_route_graph *graph, uint32_t visit)
{
    const struct smoe_route_run *run = graph->run;
    return run->scratch->margin[visit / run->problem->top_k] <= graph->horizon;
}

void smoe_route_look_out(struct smoe_route_graph *graph, double slack)
{
    double needed = graph->lifted + slack;
    if (needed <= graph->horizon)
        return;
    graph->horizon = 2 * needed;
    memset(graph->run->scratch->row_made, 0, graph->n_experts);
}

void smoe_route_need_row(struct smoe_route_graph *graph, uint32_t expert)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (s->row_made[expert])
        return;
    struct smoe_route_arc *row = smoe_route_row(graph, expert);
    for (uint32_t f = 0; f < graph->n_experts; f++)
        row[f] = (struct smoe_route_arc){.cost = (double)INFINITY, .visit = SMOE_ROUTE_NO_VISIT};
    for (uint32_t v = s->visit_head[expert]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v])
        if (in_sight(graph, v))
            enter_visit(graph, v);
    graph->run->answer->work += s->expert_load[expert];
    s->row_made[expert] = 1;
}

static bool stale(const struct smoe_route_run *run, const struct smoe_route_arc *arc, uint32_t from,
                  uint32_t to)
{
    return arc->visit != SMOE_ROUTE_NO_VISIT &&
           (run->answer->expert[arc->visit] != from ||
            smoe_route_holds(run, arc->visit / run->problem->top_k, to));
}

static void renew_arc(struct smoe_route_graph *graph, struct smoe_route_arc *arc, uint32_t from,
                      uint32_t to)
{
    struct smoe_route_run *run = graph->run;
    const struct smoe_route_scratch *s = run->scratch;
    struct smoe_route_arc best = {.cost = (double)INFINITY, .visit = SMOE_ROUTE_NO_VISIT};
    for (uint32_t v = s->visit_head[from]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v]) {
        uint32_t token = v / run->problem->top_k;
        if (!in_sight(graph, v))
            continue;
        double cost = smoe_route_weight(run->problem, token, from) -
                      smoe_route_weight(run->problem, token, to);
        if (cost < best.cost && !smoe_route_holds(run, token, to))
            best = (struct smoe_route_arc){.cost = cost, .visit = v};
    }
    run->answer->work += s->expert_load[from];
    *arc = best;
}

bool smoe_route_believe(struct smoe_route_graph *graph, uint32_t from, uint32_t to, double least)
{
    struct smoe_route_arc *arc = &smoe_route_row(graph, from)[to];
    if (!(smoe_route_violation(graph, from, to, arc->cost) > least))
        return false;
    if (stale(graph->run, arc, from, to))
        renew_arc(graph, arc, from, to);
    return smoe_route_violation(graph, from, to, arc->cost) > least;
}

/* The node's load has changed: node_key is the price of one more visit, node_down of the last one. */
static void load_changed(struct smoe_route_run *run, uint32_t node)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t arrivals = run->answer->arrivals[node];
    run->scratch->node_key[node] = smoe_route_marginal(run, node);
    run->scratch->node_down[node] =
        arrivals ? smoe_cost_marginal(&problem->nodes[node], problem->mode, arrivals - 1)
                 : -(double)INFINITY;
}

struct smoe_route_cycle smoe_route_walk(const struct smoe_route_graph *graph, uint32_t start)
{
    struct smoe_route_cycle cycle = {.from = UINT32_MAX, .to = UINT32_MAX, .most = UINT32_MAX};
    uint32_t v = start;
    do {
        uint32_t u = graph->run->scratch->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v)) {
            cycle.token_cost += smoe_route_row(graph, u)[v].cost;
            cycle.token_arcs++;
        } else if (u == graph->sink) {
            cycle.from = v - graph->n_experts;
        } else if (v == graph->sink) {
            cycle.to = u - graph->n_experts;
        } else if (smoe_route_is_expert(graph, v)) {
            uint32_t has = *smoe_route_flow(graph->run, v, u - graph->n_experts);
            cycle.most = has < cycle.most ? has : cycle.most;
        }
        v = u;
    } while (v != start);
    return cycle;
}

double smoe_route_unit_cost(const struct smoe_route_run *run, const struct smoe_route_cycle *cycle,
                            uint32_t m)
{
    const struct smoe_route_problem *problem = run->problem;
    const uint32_t *arrivals = run->answer->arrivals;
    if (cycle->to == UINT32_MAX)
        return cycle->token_cost;
    return cycle->token_cost +
           smoe_cost_marginal(&problem->nodes[cycle->to], problem->mode,
                              arrivals[cycle->to] + m - 1) -
           smoe_cost_marginal(&problem->nodes[cycle->from], problem->mode,
                              arrivals[cycle->from] - m);
}

/* Is this visit, on `from`, as good as the arc's own? */
static bool ties(const struct smoe_route_run *run, uint32_t visit, uint32_t from, uint32_t to,
                 double cost)
{
    uint32_t token = visit / run->problem->top_k;
    return smoe_route_weight(run->problem, token, from) -
                   smoe_route_weight(run->problem, token, to) ==
               cost &&
           !smoe_route_holds(run, token, to);
}

/* How many units the token arcs can carry at the same cost: equal tokens move together. */
static uint32_t ties_around(const struct smoe_route_graph *graph, uint32_t start, uint32_t most)
{
    const struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t v = start;
    do {
        uint32_t u = s->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v)) {
            uint32_t found = 0;
            for (uint32_t visit = s->visit_head[u]; visit != SMOE_ROUTE_NO_VISIT && found < most;
                 visit = s->visit_next[visit])
                found += ties(graph->run, visit, u, v, smoe_route_row(graph, u)[v].cost);
            graph->run->answer->work += s->expert_load[u];
            most = found;
        }
        v = u;
    } while (v != start);
    return most;
}

/* How many units a cycle should carry: while each still pays and there are units to carry. */
static uint32_t cycle_amount(const struct smoe_route_graph *graph, uint32_t start,
                             const struct smoe_route_cycle *cycle)
{
    const struct smoe_route_run *run = graph->run;
    uint32_t most = cycle->most;
    if (cycle->token_arcs && most > run->n_visits / cycle->token_arcs)
        most = run->n_visits / cycle->token_arcs;
    if (cycle->from != UINT32_MAX && most > run->answer->arrivals[cycle->from])
        most = run->answer->arrivals[cycle->from];
    if (most <= 1 || !(smoe_route_unit_cost(run, cycle, 2) < -run->tolerance))
        return 1;
    most = ties_around(graph, start, most);
    uint32_t low = 1, high = most + 1;
    while (high - low > 1) {
        uint32_t m = low + (high - low) / 2;
        if (smoe_route_unit_cost(run, cycle, m) < -run->tolerance)
            low = m;
        else
            high = m;
    }
    return low;
}

/* Moves equal tokens from one expert to another, the arc's own first. Returns how many: `amount`. */
static uint32_t carry_tokens(struct smoe_route_graph *graph, uint32_t from, uint32_t to,
                             uint32_t amount, uint32_t *ret_visits)
{
    struct smoe_route_run *run = graph->run;
    struct smoe_route_arc arc = smoe_route_row(graph, from)[to];
    smoe_route_move(run, arc.visit, (uint16_t)to);
    ret_visits[0] = arc.visit;
    uint32_t n = 1, visit = run->scratch->visit_head[from];
    while (n < amount) {
        uint32_t next = run->scratch->visit_next[visit];
        if (ties(run, visit, from, to, arc.cost)) {
            smoe_route_move(run, visit, (uint16_t)to);
            ret_visits[n++] = visit;
        }
        visit = next;
    }
    return n;
}

/* Carries `amount` units over an arc at a node. Arcs that become cheaper by it get their tail into
 * the queue. */
static void carry(struct smoe_route_graph *graph, uint32_t from, uint32_t to, uint32_t amount)
{
    struct smoe_route_run *run = graph->run;
    if (to == graph->sink) {
        run->answer->arrivals[from - graph->n_experts] += amount;
        load_changed(run, from - graph->n_experts);
        smoe_route_enqueue(graph, graph->sink);
    } else if (from == graph->sink) {
        run->answer->arrivals[to - graph->n_experts] -= amount;
        load_changed(run, to - graph->n_experts);
        smoe_route_enqueue(graph, to);
    } else if (smoe_route_is_expert(graph, from)) {
        *smoe_route_flow(run, from, to - graph->n_experts) += amount;
        smoe_route_enqueue(graph, to);
    } else {
        *smoe_route_flow(run, to, from - graph->n_experts) -= amount;
    }
}

/* A token has other experts than before: what it offers now is entered in the rows that are made, and
 * where that violates an arc the expert is queued. */
static void enter_token(struct smoe_route_graph *graph, uint32_t token)
{
    struct smoe_route_run *run = graph->run;
    const struct smoe_route_problem *problem = run->problem;
    const double *label = run->scratch->label;
    run->scratch->margin[token] = 0;
    for (uint32_t visit = token * problem->top_k; visit < (token + 1) * problem->top_k; visit++) {
        uint32_t from = run->answer->expert[visit];
        if (run->scratch->row_made[from])
            enter_visit(graph, visit);
        double offer = label[from] - smoe_route_weight(problem, token, from) - run->tolerance;
        for (uint32_t f = 0; f < graph->n_experts; f++)
            if (label[f] < offer + smoe_route_weight(problem, token, f) &&
                !smoe_route_holds(run, token, f)) {
                smoe_route_enqueue(graph, from);
                break;
            }
    }
}

void smoe_route_cancel_cycle(struct smoe_route_graph *graph, uint32_t start,
                             const struct smoe_route_cycle *cycle)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t amount = cycle_amount(graph, start, cycle), n_moved = 0, v = start;
    do {
        uint32_t u = s->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v))
            n_moved += carry_tokens(graph, u, v, amount, s->moved + n_moved);
        else
            carry(graph, u, v, amount);
        v = u;
    } while (v != start);
    for (uint32_t m = 0; m < n_moved; m++) /* when all have arrived */
        enter_token(graph, s->moved[m] / graph->run->problem->top_k);
    graph->run->answer->cycles++;
}

void smoe_route_graph_start(struct smoe_route_graph *graph, struct smoe_route_run *run,
                            const uint8_t *dirty)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    uint32_t n_experts = problem->n_experts, n_nodes = problem->n_nodes;
    *graph = (struct smoe_route_graph){.run = run,
                                       .n_experts = n_experts,
                                       .n_vertices = n_experts + n_nodes + 1,
                                       .sink = n_experts + n_nodes,
                                       .horizon = run->horizon};
    for (uint32_t v = 0; v < graph->n_vertices; v++)
        s->distance[v] = (double)INFINITY;
    memset(s->queued, 0, graph->n_vertices);
    memset(s->row_made, 0, n_experts);
    for (uint32_t e = 0; e < n_experts; e++) {
        s->label[e] = s->expert_price[e]; /* +inf where not on offer: never reached */
        if (dirty[e])
            smoe_route_enqueue(graph, e);
    }
    for (uint32_t j = 0; j < n_nodes; j++) {
        load_changed(run, j);
        bool live = problem->nodes[j].arrivals_max > 0;
        s->label[n_experts + j] = live ? s->node_price[j] : (double)INFINITY;
        if (live)
            smoe_route_enqueue(graph, n_experts + j);
    }
    s->label[graph->sink] = 0;
    smoe_route_enqueue(graph, graph->sink);
}
