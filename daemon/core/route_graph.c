/* SPDX-License-Identifier: Apache-2.0
 *
 * The arcs of the residual graph, and carrying units around a cycle.
 *
 * Arcs at nodes and at the sink are read off the flow; their prices stand in node_key (one more visit)
 * and node_down (the last one), renewed with every change of load. Arcs between experts come in rows,
 * one per expert, made when first needed: each entry is the least of all tokens on the expert. Which token it
 * belongs to is found when a unit is to be carried over it. When a token moves, the entries that were its own are
 * unknown until somebody needs one (below all others, so that nobody overlooks it); where they are many, the row
 * is made anew. What it offers from where it is now is entered at once.
 *
 * Most tokens are far from changing their mind, and never enter a row. A token that holds its K cheapest
 * at the sweeps' prices has the slack `margin` or more on each of its arcs; what is left of it is margin
 * less what one expert's label has risen more than another's. Tokens beyond the horizon are left
 * out while this exceeds all that is asked for; then the horizon is widened. A token that has been moved, or was
 * placed otherwise, counts as margin 0. The list of an expert has the visits in sight. Tokens that tie
 * with an arc on a path without slack are in sight.
 *
 * Law: the tail of every violated arc is in the queue. Arcs can only become violated where a cycle has
 * passed, so what it changes is queued there and then: carry at nodes, settle_token at experts. While no token
 * holds anything but its K cheapest at the labels (tidy), cycles without slack leave it so, and experts are not
 * queued.
 */
#include "daemon/core/route_graph.h"

#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "daemon/core/route_arcs.h"

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

static const double WIDEN = 1.25; /* farther than asked for: the tokens are all looked at for it */

#define UNKNOWN (-(double)INFINITY) /* an entry that must be looked up */

enum {
    OWNED = 2,
    OWNED_PART = 32
}; /* more unknown entries than 2 + E / 32: a new row costs less */

/* ---- rows ---- */

/* Enters what a visit on its expert offers to every expert its token does not hold. */
static void enter_visit(struct smoe_route_graph *graph, uint32_t visit)
{
    const struct smoe_route_problem *problem = graph->run->problem;
    uint32_t top_k = problem->top_k, token = visit / top_k;
    const uint16_t *held = graph->run->answer->expert + (size_t)token * top_k;
    uint16_t from = graph->run->answer->expert[visit];
    double *row = smoe_route_row(graph, from), before[SMOE_TOP_K_MAX];
    for (uint32_t k = 0; k < top_k; k++)
        before[k] = row[held[k]];
    graph->arcs->offer(row, graph->n_experts, problem->scores + (size_t)token * graph->n_experts,
                       problem->score_weight, smoe_route_weight(problem, token, from));
    for (uint32_t k = 0; k < top_k; k++)
        row[held[k]] = before[k];
    graph->run->answer->work += graph->n_experts;
}

void smoe_route_look_out(struct smoe_route_graph *graph, double slack)
{
    struct smoe_route_run *run = graph->run;
    struct smoe_route_scratch *s = run->scratch;
    double needed = graph->lifted + slack, before = graph->horizon;
    if (needed <= before)
        return;
    graph->horizon = WIDEN * needed;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        if (!(s->margin[i] > before && s->margin[i] <= graph->horizon))
            continue;
        for (uint32_t v = i * run->problem->top_k; v < (i + 1) * run->problem->top_k; v++) {
            smoe_route_list(run, v);
            if (s->row_made[run->answer->expert[v]])
                enter_visit(graph, v);
        }
    }
    run->answer->work += run->n_tokens;
}

/* Asks for a visit's row of scores ahead of its use: rows lie anywhere. */
static void fetch_scores(const struct smoe_route_graph *graph, uint32_t visit)
{
    const struct smoe_route_problem *problem = graph->run->problem;
    const float *scores = problem->scores + (size_t)(visit / problem->top_k) * graph->n_experts;
    for (uint32_t f = 0; f < graph->n_experts; f += 16)
        __builtin_prefetch(scores + f);
}

void smoe_route_need_row(struct smoe_route_graph *graph, uint32_t expert)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    if (s->row_made[expert])
        return;
    double *row = smoe_route_row(graph, expert);
    for (uint32_t f = 0; f < graph->n_experts; f++)
        row[f] = (double)INFINITY;
    for (uint32_t v = s->visit_head[expert], next; v != SMOE_ROUTE_NO_VISIT; v = next) {
        next = s->visit_next[v];
        if (next != SMOE_ROUTE_NO_VISIT)
            fetch_scores(graph, next);
        enter_visit(graph, v);
    }
    s->row_made[expert] = 1;
}

double smoe_route_arc(struct smoe_route_graph *graph, uint32_t from, uint32_t to)
{
    struct smoe_route_run *run = graph->run;
    double *cost = &smoe_route_row(graph, from)[to];
    if (*cost != UNKNOWN)
        return *cost;
    *cost = (double)INFINITY;
    for (uint32_t v = run->scratch->visit_head[from]; v != SMOE_ROUTE_NO_VISIT;
         v = run->scratch->visit_next[v]) {
        uint32_t token = v / run->problem->top_k;
        double offer = smoe_route_weight(run->problem, token, from) -
                       smoe_route_weight(run->problem, token, to);
        if (offer < *cost && !smoe_route_holds(run, token, to))
            *cost = offer;
        run->answer->work += 2;
    }
    return *cost;
}

/* What this token alone offers is not known any more. */
static void forget_token(struct smoe_route_graph *graph, uint32_t token)
{
    const struct smoe_route_problem *problem = graph->run->problem;
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t n_experts = graph->n_experts, top_k = problem->top_k;
    for (uint32_t visit = token * top_k; visit < (token + 1) * top_k; visit++) {
        uint32_t from = graph->run->answer->expert[visit];
        if (!s->row_made[from])
            continue;
        double *row = smoe_route_row(graph, from);
        uint32_t owned = graph->arcs->owned(
            row, n_experts, problem->scores + (size_t)token * n_experts, problem->score_weight,
            smoe_route_weight(problem, token, from), s->found);
        graph->run->answer->work += n_experts;
        if (owned > OWNED + n_experts / OWNED_PART)
            s->row_made[from] = 0;
        else
            for (uint32_t n = 0; n < owned; n++)
                row[s->found[n]] = UNKNOWN;
    }
}

/* ---- cycles ---- */

/* The node's load has changed: node_key is the price of one more visit, node_down of the last one. */
static void load_changed(struct smoe_route_run *run, uint32_t node)
{
    uint32_t n = run->answer->arrivals[node];
    run->scratch->node_key[node] = smoe_route_marginal_at(run, node, n);
    run->scratch->node_down[node] =
        n > 0 ? smoe_route_marginal_at(run, node, n - 1) : -(double)INFINITY;
}

struct smoe_route_cycle smoe_route_walk(const struct smoe_route_graph *graph, uint32_t start)
{
    struct smoe_route_cycle cycle = {.from = UINT32_MAX, .to = UINT32_MAX, .most = UINT32_MAX};
    uint32_t v = start;
    do {
        uint32_t u = graph->run->scratch->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v)) {
            cycle.token_cost += smoe_route_row(graph, u)[v];
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
                 visit = s->visit_next[visit]) {
                found += ties(graph->run, visit, u, v, smoe_route_row(graph, u)[v]);
                graph->run->answer->work++;
            }
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

/* Equal tokens that can go from one expert to another, as many as the cycle carries: so many there are. */
static void find_tokens(const struct smoe_route_graph *graph, uint32_t from, uint32_t to,
                        uint32_t amount, uint32_t *ret_visits)
{
    const struct smoe_route_run *run = graph->run;
    double cost = smoe_route_row(graph, from)[to];
    uint32_t visit = run->scratch->visit_head[from];
    for (uint32_t n = 0; n < amount; visit = run->scratch->visit_next[visit]) {
        smoe_assert(visit != SMOE_ROUTE_NO_VISIT);
        if (ties(run, visit, from, to, cost))
            ret_visits[n++] = visit;
    }
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

/* A token has other experts than before. */
static void settle_token(struct smoe_route_graph *graph, uint32_t token)
{
    struct smoe_route_run *run = graph->run;
    uint32_t top_k = run->problem->top_k;
    run->scratch->margin[token] = 0;
    for (uint32_t visit = token * top_k; visit < (token + 1) * top_k; visit++) {
        uint32_t expert = run->answer->expert[visit];
        if (run->scratch->row_made[expert])
            enter_visit(graph, visit);
        if (!graph->tidy)
            smoe_route_enqueue(graph, expert);
    }
}

void smoe_route_cancel_cycle(struct smoe_route_graph *graph, uint32_t start,
                             const struct smoe_route_cycle *cycle)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t top_k = graph->run->problem->top_k, amount = cycle_amount(graph, start, cycle);
    uint32_t n_moved = 0, v = start;
    do { /* all are found before anybody moves */
        uint32_t u = s->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v)) {
            find_tokens(graph, u, v, amount, s->moved + n_moved);
            n_moved += amount;
        }
        v = u;
    } while (v != start);
    for (uint32_t m = 0; m < n_moved; m++)
        forget_token(graph, s->moved[m] / top_k);
    n_moved = 0;
    do {
        uint32_t u = s->parent[v];
        if (smoe_route_is_expert(graph, u) && smoe_route_is_expert(graph, v))
            for (uint32_t m = 0; m < amount; m++)
                smoe_route_move(graph->run, s->moved[n_moved++], (uint16_t)v);
        else
            carry(graph, u, v, amount);
        v = u;
    } while (v != start);
    for (uint32_t m = 0; m < n_moved; m++) /* when all have arrived */
        settle_token(graph, s->moved[m] / top_k);
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
                                       .horizon = run->horizon,
                                       .arcs = smoe_route_arcs(),
                                       .tidy = true};
    for (uint32_t v = 0; v < graph->n_vertices; v++)
        s->distance[v] = (double)INFINITY;
    memset(s->queued, 0, graph->n_vertices);
    memset(s->row_made, 0, n_experts);
    for (uint32_t e = 0; e < n_experts; e++) {
        s->label[e] = s->expert_price[e]; /* +inf where not on offer: never reached */
        if (!dirty[e])
            continue;
        smoe_route_enqueue(graph, e);
        graph->tidy = false;
    }
    s->label[graph->sink] = 0;
    smoe_route_enqueue(graph, graph->sink); /* who has too much finds who has too little near by */
    for (uint32_t j = 0; j < n_nodes; j++) {
        load_changed(run, j);
        bool live = problem->nodes[j].arrivals_max > 0;
        s->label[n_experts + j] = live ? s->node_price[j] : (double)INFINITY;
        if (live)
            smoe_route_enqueue(graph, n_experts + j);
    }
}
