/* SPDX-License-Identifier: Apache-2.0
 *
 * An assignment as a flow. Tokens hold experts (answer->expert and, per expert, a linked list of the
 * visits that hold it); experts send their load over replicas to nodes (flow); which visit goes to which
 * replica is settled last, when the flow is final (deal): visits of one expert are all alike.
 *
 * Laws, true whenever a function of this file or of route_cancel.c returns:
 *     1  the experts of a token are distinct, and expert_load[e] counts the visits that hold e; its list has
 *        those of them that are in sight (route_graph.c), or all
 *     2  the flow of e's replicas sums to expert_load[e]
 *     3  the flow into node j sums to arrivals[j] <= arrivals_max
 *
 * Placing tokens (smoe_route_assign). Usually the K cheapest experts of each token fit, and only tokens whose
 * choice is a tie are looked at singly: they go where the load is lightest, so that equal tokens spread
 * instead of herding. Where a cap is in the way, so do those within `window` of a tie; where it still is, all
 * tokens are placed in order, among experts with room. A token left with fewer than K is completed along an
 * augmenting path (somebody on a full expert moves over, and so on until a node with room): by flow theory
 * there is one unless no assignment holds all tokens so far, and then none holds any later token either. So
 * the first token without a path ends the slot's admission.
 */
#include <math.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/limits.h"
#include "daemon/core/route_internal.h"

bool smoe_route_holds(const struct smoe_route_run *run, uint32_t token, uint32_t expert)
{
    uint32_t top_k = run->problem->top_k;
    const uint16_t *experts = run->answer->expert + (size_t)token * top_k;
    for (uint32_t k = 0; k < top_k; k++)
        if (experts[k] == expert)
            return true;
    return false;
}

void smoe_route_list(struct smoe_route_run *run, uint32_t visit)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t *head = &s->visit_head[run->answer->expert[visit]];
    s->visit_next[visit] = *head;
    s->visit_prev[visit] = SMOE_ROUTE_NO_VISIT;
    if (*head != SMOE_ROUTE_NO_VISIT)
        s->visit_prev[*head] = visit;
    *head = visit;
}

void smoe_route_link(struct smoe_route_run *run, uint32_t visit, uint16_t expert)
{
    run->answer->expert[visit] = expert;
    run->scratch->expert_load[expert]++;
    smoe_route_list(run, visit);
}

void smoe_route_unlink(struct smoe_route_run *run, uint32_t visit)
{
    struct smoe_route_scratch *s = run->scratch;
    uint16_t expert = run->answer->expert[visit];
    uint32_t next = s->visit_next[visit], prev = s->visit_prev[visit];
    if (prev == SMOE_ROUTE_NO_VISIT)
        s->visit_head[expert] = next;
    else
        s->visit_next[prev] = next;
    if (next != SMOE_ROUTE_NO_VISIT)
        s->visit_prev[next] = prev;
    s->expert_load[expert]--;
    run->answer->expert[visit] = SMOE_ROUTE_NONE;
}

void smoe_route_move(struct smoe_route_run *run, uint32_t visit, uint16_t expert)
{
    smoe_route_unlink(run, visit);
    smoe_route_link(run, visit, expert);
}

static void clear_lists(struct smoe_route_run *run)
{
    for (uint32_t e = 0; e < run->problem->n_experts; e++)
        run->scratch->visit_head[e] = SMOE_ROUTE_NO_VISIT;
}

/* While tokens are placed singly, node_key[j] is the marginal price of node j as it is loaded. */
static void load_changed(struct smoe_route_run *run, uint32_t node)
{
    run->scratch->node_key[node] = smoe_route_marginal(run, node);
}

/* The replica of an expert with room whose next visit is cheapest, UINT32_MAX if none. */
static uint32_t cheapest_replica(const struct smoe_route_run *run, uint32_t expert)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t best = UINT32_MAX;
    double least = (double)INFINITY;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++) {
        double marginal = run->scratch->node_key[problem->replica_node[r]];
        if (marginal < least) {
            least = marginal;
            best = r;
        }
    }
    return best;
}

static void put(struct smoe_route_run *run, uint32_t visit, uint16_t expert, uint32_t replica)
{
    uint32_t node = run->problem->replica_node[replica];
    smoe_route_link(run, visit, expert);
    run->scratch->flow[replica]++;
    run->answer->arrivals[node]++;
    load_changed(run, node);
}

/* The n smallest of a row, rising; +inf where there are fewer. */
static void smallest(const double *row, uint32_t count, uint32_t n, double *ret_values)
{
    for (uint32_t m = 0; m < n; m++)
        ret_values[m] = (double)INFINITY;
    for (uint32_t e = 0; e < count; e++) {
        if (!(row[e] < ret_values[n - 1]))
            continue;
        uint32_t m = n - 1;
        for (; m > 0 && row[e] < ret_values[m - 1]; m--)
            ret_values[m] = ret_values[m - 1];
        ret_values[m] = row[e];
    }
}

/* What speaks for an expert, best first: clearly among the K cheapest; tied within the window, then the
 * lighter load; anything with room. */
struct appeal {
    int rank; /* 0..2; 3: no room */
    double key;
};

static struct appeal appeal_of(const struct smoe_route_run *run, uint32_t token, uint32_t expert,
                               const double *cheapest)
{
    double cost = run->scratch->row[expert];
    uint32_t top_k = run->problem->top_k, replica;
    if (isinf(cost) || (replica = cheapest_replica(run, expert)) == UINT32_MAX)
        return (struct appeal){.rank = 3};
    if (cost < cheapest[top_k] - run->window)
        return (struct appeal){.rank = 0, .key = cost};
    if (cost <= cheapest[top_k - 1] + run->window)
        return (struct appeal){.rank = 1,
                               .key = run->scratch->node_key[run->problem->replica_node[replica]] -
                                      smoe_route_weight(run->problem, token, expert)};
    return (struct appeal){.rank = 2, .key = cost};
}

/* The token's best expert it does not hold, SMOE_ROUTE_NONE if none has room. */
static uint16_t most_appealing(const struct smoe_route_run *run, uint32_t token,
                               const double *cheapest)
{
    struct appeal best = {.rank = 3};
    uint16_t expert = SMOE_ROUTE_NONE;
    for (uint32_t e = 0; e < run->problem->n_experts; e++) {
        if (smoe_route_holds(run, token, e))
            continue;
        struct appeal appeal = appeal_of(run, token, e, cheapest);
        if (appeal.rank < best.rank || (appeal.rank == best.rank && appeal.key < best.key)) {
            best = appeal;
            expert = (uint16_t)e;
        }
    }
    return best.rank < 3 ? expert : SMOE_ROUTE_NONE;
}

static void fill_row(struct smoe_route_run *run, uint32_t token, bool with_room)
{
    const struct smoe_route_problem *problem = run->problem;
    double *row = run->scratch->row;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        row[e] = run->scratch->expert_price[e] - smoe_route_weight(problem, token, e);
        if (with_room && cheapest_replica(run, e) == UINT32_MAX)
            row[e] = (double)INFINITY;
    }
    run->answer->work += problem->n_experts;
}

/* A visit on `from` whose token could as well be on `to`. */
static uint32_t find_mover(const struct smoe_route_run *run, uint32_t from, uint32_t to)
{
    const struct smoe_route_scratch *s = run->scratch;
    uint32_t visit = s->visit_head[from];
    while (visit != SMOE_ROUTE_NO_VISIT && smoe_route_holds(run, visit / run->problem->top_k, to))
        visit = s->visit_next[visit];
    return visit;
}

uint32_t *smoe_route_flow(const struct smoe_route_run *run, uint32_t expert, uint32_t node)
{
    uint32_t r = run->problem->replica_first[expert];
    while (run->problem->replica_node[r] != node)
        r++;
    return &run->scratch->flow[r];
}

/* Follows the search tree back from a node with room: each expert on the way hands one visit on and
 * gets one, and the first gets the new visit. A root is its own parent. */
static void shift_along(struct smoe_route_run *run, uint32_t visit, uint32_t node)
{
    const uint32_t n_experts = run->problem->n_experts, *parent = run->scratch->parent;
    run->answer->arrivals[node]++;
    load_changed(run, node);
    uint32_t expert = parent[n_experts + node];
    ++*smoe_route_flow(run, expert, node);
    while (parent[expert] != expert) {
        uint32_t from = parent[expert];
        if (from < n_experts) {
            smoe_route_move(run, find_mover(run, from, expert), (uint16_t)expert);
            expert = from;
        } else {
            --*smoe_route_flow(run, expert, from - n_experts);
            expert = parent[from];
            ++*smoe_route_flow(run, expert, from - n_experts);
        }
    }
    smoe_route_link(run, visit, (uint16_t)expert);
}

struct search {
    uint32_t *queue, read, written;
    uint32_t *parent; /* UINT32_MAX: not reached */
};

static void reach(struct search *search, uint32_t vertex, uint32_t from)
{
    if (search->parent[vertex] != UINT32_MAX)
        return;
    search->parent[vertex] = from;
    search->queue[search->written++] = vertex;
}

static void search_from_expert(const struct smoe_route_run *run, struct search *search, uint32_t e)
{
    const struct smoe_route_problem *problem = run->problem;
    for (uint32_t r = problem->replica_first[e]; r < problem->replica_first[e + 1]; r++)
        if (problem->nodes[problem->replica_node[r]].arrivals_max > 0)
            reach(search, problem->n_experts + problem->replica_node[r], e);
    for (uint32_t f = 0; f < problem->n_experts; f++)
        if (!isinf(run->scratch->expert_price[f]) && search->parent[f] == UINT32_MAX &&
            find_mover(run, e, f) != SMOE_ROUTE_NO_VISIT)
            reach(search, f, e);
}

/* Finds the visit a place although no expert its token lacks has room. Breadth first. */
static bool augment(struct smoe_route_run *run, uint32_t visit)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    struct search search = {.queue = s->queue, .parent = s->parent};
    memset(s->parent, 0xff, (problem->n_experts + problem->n_nodes) * sizeof *s->parent);
    for (uint32_t e = 0; e < problem->n_experts; e++)
        if (!isinf(s->expert_price[e]) && !smoe_route_holds(run, visit / problem->top_k, e))
            reach(&search, e, e);
    while (search.read < search.written) {
        uint32_t vertex = s->queue[search.read++];
        if (vertex < problem->n_experts) {
            search_from_expert(run, &search, vertex);
            continue;
        }
        uint32_t node = vertex - problem->n_experts;
        if (smoe_route_room(run, node)) {
            shift_along(run, visit, node);
            run->shuffled = true;
            return true;
        }
        for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++)
            if (s->flow[s->node_replica[h]] > 0)
                reach(&search, s->replica_expert[s->node_replica[h]], vertex);
    }
    return false;
}

/* Takes back what the token got, from any replica that serves its expert. */
static void withdraw(struct smoe_route_run *run, uint32_t token)
{
    const struct smoe_route_problem *problem = run->problem;
    for (uint32_t visit = token * problem->top_k; visit < (token + 1) * problem->top_k; visit++) {
        uint32_t expert = run->answer->expert[visit];
        if (expert == SMOE_ROUTE_NONE)
            continue;
        uint32_t r = problem->replica_first[expert];
        while (!run->scratch->flow[r])
            r++;
        run->scratch->flow[r]--;
        run->answer->arrivals[problem->replica_node[r]]--;
        load_changed(run, problem->replica_node[r]);
        smoe_route_unlink(run, visit);
    }
}

/* Whole or not at all. */
static bool place(struct smoe_route_run *run, uint32_t token)
{
    uint32_t top_k = run->problem->top_k;
    double cheapest[SMOE_TOP_K_MAX + 1];
    fill_row(run, token, true);
    smallest(run->scratch->row, run->problem->n_experts, top_k + 1, cheapest);
    for (uint32_t visit = token * top_k; visit < (token + 1) * top_k; visit++) {
        uint16_t expert = most_appealing(run, token, cheapest);
        if (expert != SMOE_ROUTE_NONE)
            put(run, visit, expert, cheapest_replica(run, expert));
        else if (!augment(run, visit)) {
            withdraw(run, token);
            return false;
        }
    }
    return true;
}

static void place_all_in_order(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t n_replicas = problem->replica_first[problem->n_experts];
    clear_lists(run);
    memset(run->scratch->expert_load, 0, problem->n_experts * sizeof *run->scratch->expert_load);
    memset(run->scratch->flow, 0, n_replicas * sizeof *run->scratch->flow);
    memset(run->answer->arrivals, 0, problem->n_nodes * sizeof *run->answer->arrivals);
    for (uint32_t v = 0; v < run->n_visits; v++)
        run->answer->expert[v] = SMOE_ROUTE_NONE;
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        load_changed(run, j);
    uint32_t i = 0;
    while (i < run->n_tokens && place(run, i))
        i++;
    run->n_tokens = i;
    run->n_visits = i * problem->top_k;
}

/* Does the token hold something dearer than what it lacks? Then arcs from its experts may be negative. */
static void mark_if_dearer(struct smoe_route_run *run, uint32_t token, uint8_t *dirty)
{
    const struct smoe_route_problem *problem = run->problem;
    const uint16_t *held = run->answer->expert + (size_t)token * problem->top_k;
    double dearest = -(double)INFINITY;
    fill_row(run, token, false);
    for (uint32_t k = 0; k < problem->top_k; k++)
        if (run->scratch->row[held[k]] > dearest)
            dearest = run->scratch->row[held[k]];
    bool dearer = false;
    for (uint32_t e = 0; e < problem->n_experts; e++)
        dearer |= run->scratch->row[e] < dearest && !smoe_route_holds(run, token, e);
    for (uint32_t k = 0; dearer && k < problem->top_k; k++)
        dirty[held[k]] = 1;
}

void smoe_route_list_in_sight(struct smoe_route_run *run)
{
    uint32_t top_k = run->problem->top_k;
    clear_lists(run);
    for (uint32_t i = 0; i < run->n_tokens; i++)
        for (uint32_t v = i * top_k; run->scratch->margin[i] <= run->horizon && v < (i + 1) * top_k;
             v++)
            if (run->answer->expert[v] != SMOE_ROUTE_NONE)
                smoe_route_list(run, v);
}

/* Sets tied tokens aside, keeps the others as the pass chose. False if caps are in the way. */
static bool keep_decided(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    uint32_t top_k = run->problem->top_k;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        for (uint32_t v = i * top_k; s->margin[i] <= run->window && v < (i + 1) * top_k; v++) {
            if (run->answer->expert[v] == SMOE_ROUTE_NONE) /* by a narrower window */
                continue;
            s->expert_load[run->answer->expert[v]]--;
            run->answer->expert[v] = SMOE_ROUTE_NONE;
        }
    if (!smoe_route_split(run))
        return false;
    smoe_route_list_in_sight(run);
    for (uint32_t j = 0; j < run->problem->n_nodes; j++)
        load_changed(run, j);
    return true;
}

/* Keeps what is decided: all but exact ties; where that exceeds a cap, all but what is nearer to a tie. */
static bool keep(struct smoe_route_run *run)
{
    double wide = run->window;
    run->window = 0;
    if (keep_decided(run))
        return true;
    run->window = wide;
    return keep_decided(run);
}

void smoe_route_assign(struct smoe_route_run *run, uint8_t *ret_dirty)
{
    memset(ret_dirty, 0, run->problem->n_experts);
    bool fits = keep(run);
    for (uint32_t i = 0; fits && i < run->n_tokens; i++)
        if (run->scratch->margin[i] <= run->window) {
            fits = place(run, i);
            if (fits)
                mark_if_dearer(run, i, ret_dirty);
            run->scratch->margin[i] = 0; /* placed otherwise than the pass chose */
        }
    if (!fits)
        place_all_in_order(run);
    if (!fits || run->shuffled) { /* tokens hold what prices alone would not give them */
        memset(ret_dirty, 1, run->problem->n_experts);
        memset(run->scratch->margin, 0, run->n_tokens * sizeof *run->scratch->margin);
        run->horizon = (double)INFINITY;
        smoe_route_list_in_sight(run);
    }
}

void smoe_route_keep_chosen(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    memset(s->dirty, 0, run->problem->n_experts);
    for (uint32_t e = 0; e < run->problem->n_experts; e++) {
        s->flow[run->problem->replica_first[e]] = s->expert_load[e];
        run->answer->arrivals[smoe_route_node_of(run, e)] = s->expert_load[e];
    }
    clear_lists(run);
}

void smoe_route_deal(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t *cursor = run->scratch->visit_head; /* the lists have done their work */
    if (smoe_route_paired(run)) {                /* expert e has replica e alone */
        for (uint32_t v = 0; v < run->n_visits; v++)
            run->answer->node[v] = problem->replica_node[run->answer->expert[v]];
        return;
    }
    memcpy(cursor, problem->replica_first, problem->n_experts * sizeof *cursor);
    for (uint32_t v = 0; v < run->n_visits; v++) {
        uint32_t expert = run->answer->expert[v];
        while (!run->scratch->flow[cursor[expert]])
            smoe_assert(++cursor[expert] < problem->replica_first[expert + 1]);
        run->scratch->flow[cursor[expert]]--;
        run->answer->node[v] = problem->replica_node[cursor[expert]];
    }
}
