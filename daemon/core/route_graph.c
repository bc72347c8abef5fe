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
 * at the sweeps' prices has the slack `margin` or more on each of its arcs; what is left of it is margin
 * less what one expert's label has risen more than another's. Tokens beyond the horizon are left
 * out while this exceeds all that is asked for; then the horizon is widened and rows are made anew. A
 * token that has been moved, or was placed otherwise, counts as margin 0. In the list of an expert the
 * visits in sight stand before all others. Tokens that tie with an arc on a path without slack are in sight.
 *
 * Law: the tail of every violated arc is in the queue. Arcs can only become violated where a cycle has
 * passed, so what it changes is checked there and then: carry at nodes, enter_token at experts.
 */
#include "daemon/core/route_graph.h"

#include <math.h>
#include <string.h>

enum { LANES = 4, UNKNOWN = UINT8_MAX };
typedef float two_floats __attribute__((vector_size(8)));
typedef double two_doubles __attribute__((vector_size(16)));
typedef int64_t two_longs __attribute__((vector_size(16)));

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

static const double WIDEN = 1.25; /* farther than asked for, so that rows are not made too often */

static uint32_t *row_visits(const struct smoe_route_graph *graph, uint32_t from)
{
    return graph->run->scratch->arc_visit + (size_t)from * graph->n_experts;
}

static double cost_of(const struct smoe_route_graph *graph, uint32_t token, uint32_t expert)
{
    return graph->run->scratch->expert_price[expert] -
           smoe_route_weight(graph->run->problem, token, expert);
}

/* Which of the next two experts cost a token no more than `most`? */
static inline two_longs within(const float *scores, const double *price, double scale, double most)
{
    two_floats score;
    two_doubles prices;
    memcpy(&score, scores, sizeof score);
    memcpy(&prices, price, sizeof prices);
    return prices - scale * __builtin_convertvector(score, two_doubles) <= most;
}

static inline bool any_within(const float *scores, const double *price, double scale, double most)
{
    two_longs any = within(scores, price, scale, most) | within(scores + 2, price + 2, scale, most);
    return (any[0] | any[1]) != 0;
}

/* Lists the experts that a token may come to within reach, at the sweeps' prices, of the dearest it holds.
 * Few, or the token is left to be looked at whole. */
static void list_options(struct smoe_route_graph *graph, uint32_t token)
{
    const struct smoe_route_problem *problem = graph->run->problem;
    struct smoe_route_scratch *s = graph->run->scratch;
    const float *scores = problem->scores + (size_t)token * graph->n_experts;
    uint16_t *option = s->option + (size_t)token * SMOE_ROUTE_OPTIONS;
    double scale = problem->score_weight, most = -(double)INFINITY;
    for (uint32_t k = 0; k < problem->top_k; k++) {
        double cost = cost_of(graph, token, graph->run->answer->expert[token * problem->top_k + k]);
        most = cost > most ? cost : most;
    }
    most += graph->reach;
    uint32_t n = 0, f = 0;
    while (f < graph->n_experts && n <= SMOE_ROUTE_OPTIONS) {
        uint32_t end = f + LANES;
        if (end <= graph->n_experts && !any_within(scores + f, s->expert_price + f, scale, most)) {
            f = end;
            continue;
        }
        for (; f < end && f < graph->n_experts; f++)
            if (s->expert_price[f] - scale * (double)scores[f] <= most && n++ < SMOE_ROUTE_OPTIONS)
                option[n - 1] = (uint16_t)f;
    }
    s->n_options[token] = (uint8_t)n;
    graph->run->answer->work += graph->n_experts;
}

static void enter_arc(struct smoe_route_graph *graph, uint32_t visit, uint32_t from, uint32_t to)
{
    struct smoe_route_run *run = graph->run;
    uint32_t token = visit / run->problem->top_k;
    double cost =
        smoe_route_weight(run->problem, token, from) - smoe_route_weight(run->problem, token, to);
    if (!(cost < smoe_route_row(graph, from)[to]) || smoe_route_holds(run, token, to))
        return;
    smoe_route_row(graph, from)[to] = cost;
    row_visits(graph, from)[to] = visit;
}

/* Enters what a visit on its expert offers to every expert its token does not hold. */
static void enter_visit(struct smoe_route_graph *graph, uint32_t visit)
{
    const struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t token = visit / graph->run->problem->top_k;
    uint32_t from = graph->run->answer->expert[visit];
    if (s->n_options[token] == UNKNOWN)
        list_options(graph, token);
    if (s->n_options[token] > SMOE_ROUTE_OPTIONS)
        for (uint32_t f = 0; f < graph->n_experts; f++)
            enter_arc(graph, visit, from, f);
    else
        for (uint32_t o = 0; o < s->n_options[token]; o++)
            enter_arc(graph, visit, from, s->option[(size_t)token * SMOE_ROUTE_OPTIONS + o]);
}

/* The cost from which on an arc is not entered: at the sweeps' prices its slack is beyond the horizon. */
static double out_of_sight(const struct smoe_route_graph *graph, uint32_t from, uint32_t to)
{
    const double *price = graph->run->scratch->expert_price;
    return price[from] - price[to] + graph->horizon;
}

static bool in_sight(const struct smoe_route_graph *graph, uint32_t visit)
{
    const struct smoe_route_run *run = graph->run;
    return run->scratch->margin[visit / run->problem->top_k] <= graph->horizon;
}

/* The next visit of a list that is in sight: these come before all others. */
static uint32_t next_in_sight(const struct smoe_route_graph *graph, uint32_t visit)
{
    return visit != SMOE_ROUTE_NO_VISIT && in_sight(graph, visit) ? visit : SMOE_ROUTE_NO_VISIT;
}

/* Options are to be listed as far as that: rows take what is within the horizon. */
static void reach_for(struct smoe_route_graph *graph, double reach)
{
    graph->reach = reach;
    memset(graph->run->scratch->n_options, UNKNOWN, graph->run->n_tokens);
}

void smoe_route_look_out(struct smoe_route_graph *graph, double slack)
{
    struct smoe_route_run *run = graph->run;
    double needed = graph->lifted + slack, before = graph->horizon;
    if (needed <= before)
        return;
    graph->horizon = WIDEN * needed;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        for (uint32_t v = i * run->problem->top_k;
             run->scratch->margin[i] > before && run->scratch->margin[i] <= graph->horizon &&
             v < (i + 1) * run->problem->top_k;
             v++)
            smoe_route_move(run, v, run->answer->expert[v]); /* to the head of its list */
    memset(run->scratch->row_made, 0, graph->n_experts);
    if (graph->horizon > graph->reach)
        reach_for(graph, 2 * graph->horizon);
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
    uint32_t *visit = row_visits(graph, expert);
    for (uint32_t f = 0; f < graph->n_experts; f++) {
        row[f] = out_of_sight(graph, expert, f);
        visit[f] = SMOE_ROUTE_NO_VISIT;
    }
    for (uint32_t v = next_in_sight(graph, s->visit_head[expert]), next; v != SMOE_ROUTE_NO_VISIT;
         v = next) {
        next = next_in_sight(graph, s->visit_next[v]);
        if (next != SMOE_ROUTE_NO_VISIT)
            fetch_scores(graph, next);
        enter_visit(graph, v);
    }
    graph->run->answer->work += s->expert_load[expert];
    s->row_made[expert] = 1;
}

static bool stale(const struct smoe_route_graph *graph, uint32_t from, uint32_t to)
{
    uint32_t visit = row_visits(graph, from)[to];
    return graph->run->answer->expert[visit] != from ||
           smoe_route_holds(graph->run, visit / graph->run->problem->top_k, to);
}

static void renew_arc(struct smoe_route_graph *graph, uint32_t from, uint32_t to)
{
    struct smoe_route_run *run = graph->run;
    const struct smoe_route_scratch *s = run->scratch;
    double best = out_of_sight(graph, from, to);
    row_visits(graph, from)[to] = SMOE_ROUTE_NO_VISIT;
    uint32_t v = next_in_sight(graph, s->visit_head[from]);
    for (; v != SMOE_ROUTE_NO_VISIT; v = next_in_sight(graph, s->visit_next[v])) {
        uint32_t token = v / run->problem->top_k;
        double cost = smoe_route_weight(run->problem, token, from) -
                      smoe_route_weight(run->problem, token, to);
        if (cost < best && !smoe_route_holds(run, token, to)) {
            best = cost;
            row_visits(graph, from)[to] = v;
        }
    }
    run->answer->work += s->expert_load[from];
    smoe_route_row(graph, from)[to] = best;
}

bool smoe_route_believe(struct smoe_route_graph *graph, uint32_t from, uint32_t to, double least)
{
    const double *cost = &smoe_route_row(graph, from)[to];
    if (!(smoe_route_violation(graph, from, to, *cost) > least))
        return false;
    const uint32_t *visit = &row_visits(graph, from)[to];
    if (*visit != SMOE_ROUTE_NO_VISIT && stale(graph, from, to))
        renew_arc(graph, from, to);
    return *visit != SMOE_ROUTE_NO_VISIT && smoe_route_violation(graph, from, to, *cost) > least;
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
            for (uint32_t visit = next_in_sight(graph, s->visit_head[u]);
                 visit != SMOE_ROUTE_NO_VISIT && found < most;
                 visit = next_in_sight(graph, s->visit_next[visit]))
                found += ties(graph->run, visit, u, v, smoe_route_row(graph, u)[v]);
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
    double cost = smoe_route_row(graph, from)[to];
    ret_visits[0] = row_visits(graph, from)[to];
    smoe_route_move(run, ret_visits[0], (uint16_t)to);
    uint32_t n = 1, visit = run->scratch->visit_head[from];
    while (n < amount) {
        uint32_t next = run->scratch->visit_next[visit];
        if (ties(run, visit, from, to, cost)) {
            smoe_route_move(run, visit, (uint16_t)to);
            ret_visits[n++] = visit;
        }
        visit = next;
    }
    run->mass -= cost * n;
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
    run->scratch->n_options[token] = UNKNOWN;
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

double smoe_route_cancel_cycle(struct smoe_route_graph *graph, uint32_t start,
                               const struct smoe_route_cycle *cycle)
{
    struct smoe_route_scratch *s = graph->run->scratch;
    uint32_t amount = cycle_amount(graph, start, cycle), n_moved = 0, v = start;
    double gain = 0;
    for (uint32_t m = 1; m <= amount; m++)
        gain -= smoe_route_unit_cost(graph->run, cycle, m);
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
    return gain;
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
    reach_for(graph, 2 * run->horizon);
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
