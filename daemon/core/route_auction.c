/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokens bid for places (MODEL.md section 4, step 3): for fleets of one expert a node with few visits each. There
 * the steps of the marginals are as wide as the gate's preferences, demand at a price differs from slot to slot
 * by half of itself, and sweeps leave a fifth of the visits misplaced.
 *
 *     bid    the price of the place at which the token would as soon have its next best: until then it stays
 *     price  of a node, what its next visit must outbid: the lowest bid there, or what one more visit costs
 *
 * A node with more visits than its prices allow drops the lowest bids. Whoever was dropped looks at all
 * prices again (one row of scores), takes the cheapest expert it does not hold, and bids; where that drops another,
 * the price rises by it. A bid that would raise the price too little is not made: wars of small steps are left
 * to the shortest paths of route_tide.c, as are nodes that nobody wants at their price.
 *
 * Laws, at the end of each bid:
 *     1  prices only rise
 *     2  no visit that is placed has a bid below its node's price, and at its bid it costs no more than any expert
 *        that its token does not hold. So tokens hold their K cheapest, but for visits that wait
 * When a token changes what it holds, law 2 lowers the bids of its other visits; one whose bid then is below
 * its price is dropped too. Each bid but for those raises a price by the least raise or fills a place, and their
 * number is bounded besides.
 */
#include <math.h>
#include <string.h>

#include "common/base/limits.h"
#include "daemon/core/route_arcs.h"
#include "daemon/core/route_internal.h"

static const double LEAST_RAISE = 0.03; /* of the mean margin */
static const double START_BELOW =
    0.25; /* of it: prices start lower, as who overpays finds out late */

enum {
    PASS_VISITS = 24, /* a node: up to here prices are not worth a sweep */
    MOST_VISITS = 50, /* a node: from here on sweeps do better */
    SWEEPS = 3,       /* in between */
    BIDS_MOST = 8     /* a visit, in the mean */
};

struct auction {
    struct smoe_route_run *run;
    struct smoe_route_scratch *s;
    const struct smoe_route_arcs *arcs;
    double least_raise;
    uint64_t bids_left;
    uint32_t n_waiting, n_given_up; /* visits in s->moved, in s->given_up */
};

/* Experts and nodes one to one, more of them than K, and no cap in the way. */
bool smoe_route_paired(const struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    const uint32_t *first = problem->replica_first, *node_first = run->scratch->node_first;
    if (run->n_offered <= problem->top_k || run->n_tokens < problem->n_tokens)
        return false;
    for (uint32_t e = 0; e < problem->n_experts; e++)
        if (first[e + 1] - first[e] != 1)
            return false;
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        if (node_first[j + 1] - node_first[j] > 1 ||
            (problem->nodes[j].arrivals_max > 0 && problem->nodes[j].arrivals_max < run->n_tokens))
            return false;
    return true;
}

bool smoe_route_bids_pay(const struct smoe_route_run *run)
{
    return run->n_visits <= MOST_VISITS * run->n_offered;
}

/* ---- places ---- */

static double lowest_bid(const struct auction *a, uint32_t expert)
{
    uint32_t visit = a->s->lowest[expert];
    return visit == SMOE_ROUTE_NO_VISIT ? (double)INFINITY : a->s->bid[visit];
}

static void set_bid(struct auction *a, uint32_t visit, uint32_t expert, double bid)
{
    if (bid < lowest_bid(a, expert))
        a->s->lowest[expert] = visit;
    a->s->bid[visit] = bid;
}

static void join(struct auction *a, uint32_t visit, uint32_t expert, double bid)
{
    set_bid(a, visit, expert, bid);
    smoe_route_link(a->run, visit, (uint16_t)expert);
}

/* The visit leaves its place and waits for another. */
static void drop(struct auction *a, uint32_t visit)
{
    struct smoe_route_scratch *s = a->s;
    uint32_t expert = a->run->answer->expert[visit];
    smoe_route_unlink(a->run, visit);
    s->moved[a->n_waiting++] = visit;
    if (s->lowest[expert] != visit)
        return;
    uint32_t lowest = SMOE_ROUTE_NO_VISIT;
    double least = (double)INFINITY;
    for (uint32_t v = s->visit_head[expert]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v])
        if (s->bid[v] < least) {
            least = s->bid[v];
            lowest = v;
        }
    s->lowest[expert] = lowest;
}

/* Drops whoever bids less than the last place costs; the price then is what the next visit must outbid. */
static void clear(struct auction *a, uint32_t expert)
{
    struct smoe_route_scratch *s = a->s;
    uint32_t node = smoe_route_node_of(a->run, expert);
    if (isinf(s->expert_price[expert]))
        return;
    while (s->expert_load[expert] > 0 &&
           smoe_route_marginal_at(a->run, node, s->expert_load[expert] - 1) > lowest_bid(a, expert))
        drop(a, s->lowest[expert]);
    double next = smoe_route_marginal_at(a->run, node, s->expert_load[expert]);
    double low = lowest_bid(a, expert);
    next = next > s->expert_price[expert] ? next : s->expert_price[expert];
    s->expert_price[expert] = low < next ? low : next;
}

/* ---- bids ---- */

static const float *scores_of(const struct auction *a, uint32_t token)
{
    return a->run->problem->scores + (size_t)token * a->run->problem->n_experts;
}

/* Asks for a row of scores ahead of its use. */
static void fetch(const struct auction *a, uint32_t token)
{
    for (uint32_t f = 0; f < a->run->problem->n_experts; f += 16)
        __builtin_prefetch(scores_of(a, token) + f);
}

/* The two cheapest experts that the token does not hold. */
static struct smoe_route_two cheapest(const struct auction *a, uint32_t token)
{
    const struct smoe_route_problem *problem = a->run->problem;
    double *price = a->s->expert_price, was[SMOE_TOP_K_MAX];
    const uint16_t *held = a->run->answer->expert + (size_t)token * problem->top_k;
    for (uint32_t k = 0; k < problem->top_k; k++)
        if (held[k] != SMOE_ROUTE_NONE) {
            was[k] = price[held[k]];
            price[held[k]] = (double)INFINITY;
        }
    struct smoe_route_two two =
        a->arcs->two(price, problem->n_experts, scores_of(a, token), problem->score_weight);
    for (uint32_t k = 0; k < problem->top_k; k++)
        if (held[k] != SMOE_ROUTE_NONE)
            price[held[k]] = was[k];
    a->run->answer->work += problem->n_experts;
    return two;
}

/* No other visit of the token is worth more to it than what it could have instead, at this cost. */
static void lower_others(struct auction *a, uint32_t visit, double cost)
{
    const struct smoe_route_problem *problem = a->run->problem;
    uint32_t top_k = problem->top_k, token = visit / top_k;
    for (uint32_t v = token * top_k; v < (token + 1) * top_k; v++) {
        uint32_t e = a->run->answer->expert[v];
        if (v == visit || e == SMOE_ROUTE_NONE)
            continue;
        double worth = cost + smoe_route_weight(problem, token, e);
        if (worth < a->s->expert_price[e]) {
            drop(a, v);
            clear(a, e);
        } else if (worth < a->s->bid[v]) {
            set_bid(a, v, e, worth);
        }
    }
}

static void bid(struct auction *a, uint32_t visit)
{
    struct smoe_route_scratch *s = a->s;
    struct smoe_route_two two = cheapest(a, visit / a->run->problem->top_k);
    double raise = two.second - two.least, price = s->expert_price[two.expert];
    if (lowest_bid(a, two.expert) <= price) {
        if (!(raise > a->least_raise)) {
            s->given_up[a->n_given_up++] = visit;
            return;
        }
        drop(a, s->lowest[two.expert]);
    }
    join(a, visit, two.expert, price + raise);
    clear(a, two.expert);
    lower_others(a, visit, two.second);
}

/* Whoever gave up goes where it is cheapest, and whatever its token holds that is dearer than what it does not,
 * too: at these prices there may be more at a place than should. */
static void settle(struct auction *a, uint32_t visit)
{
    struct smoe_route_run *run = a->run;
    uint32_t top_k = run->problem->top_k, token = visit / top_k;
    struct smoe_route_two two = cheapest(a, token);
    smoe_route_link(run, visit, (uint16_t)two.expert);
    a->s->bid[visit] = a->s->expert_price[two.expert];
    for (uint32_t v = token * top_k; v < (token + 1) * top_k; v++) {
        uint32_t e = run->answer->expert[v];
        if (e == SMOE_ROUTE_NONE)
            continue;
        double cost = a->s->expert_price[e] - smoe_route_weight(run->problem, token, e);
        two = cheapest(a, token);
        if (two.least < cost)
            smoe_route_move(run, v, (uint16_t)two.expert);
        a->s->bid[v] = a->s->expert_price[run->answer->expert[v]];
    }
}

/* ---- the auction ---- */

/* Every visit where the pass chose, at bids that its margin allows. Where all margins are of this very pass, a
 * token's better choices may bid more. */
static void open(struct auction *a, bool fresh, double below)
{
    const struct smoe_route_problem *problem = a->run->problem;
    struct smoe_route_scratch *s = a->s;
    uint32_t top_k = problem->top_k;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        s->expert_price[e] -= below;
        s->visit_head[e] = s->lowest[e] = SMOE_ROUTE_NO_VISIT;
        s->expert_load[e] = 0;
    }
    for (uint32_t v = 0; v < a->run->n_visits; v++) {
        uint32_t token = v / top_k, e = a->run->answer->expert[v];
        double worth = s->expert_price[e] + s->margin[token];
        if (fresh && (v + 1) % top_k)
            worth =
                s->cutoff[token] - below + s->margin[token] + smoe_route_weight(problem, token, e);
        join(a, v, e, worth);
    }
    for (uint32_t e = 0; e < problem->n_experts; e++)
        clear(a, e);
}

/* What is left of margins: no visit costs more elsewhere by less. */
static void close(struct auction *a)
{
    const struct smoe_route_problem *problem = a->run->problem;
    struct smoe_route_scratch *s = a->s;
    for (uint32_t i = 0; i < a->run->n_tokens; i++)
        s->margin[i] = (double)INFINITY;
    for (uint32_t v = 0; v < a->run->n_visits; v++) {
        double margin = s->bid[v] - s->expert_price[a->run->answer->expert[v]];
        uint32_t token = v / problem->top_k;
        s->visit_margin[v] = (float)margin;
        s->margin[token] = margin < s->margin[token] ? margin : s->margin[token];
    }
    memcpy(s->pass_price, s->expert_price, problem->n_experts * sizeof *s->pass_price);
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        uint32_t node = smoe_route_node_of(a->run, e);
        s->flow[problem->replica_first[e]] = s->expert_load[e];
        a->run->answer->arrivals[node] = s->expert_load[e];
        s->node_price[node] = s->expert_price[e];
    }
    memset(s->dirty, 0, problem->n_experts);
    a->run->horizon = (double)INFINITY; /* lists have all visits */
}

static double mean_margin(const struct smoe_route_run *run)
{
    double sum = 0;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        sum += run->scratch->margin[i];
    return sum / run->n_tokens;
}

/* Prices to bid at, and who would go where. True if all margins are of one pass at them. */
static bool look_around(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    struct smoe_route_options few = *options;
    if (run->n_visits <= PASS_VISITS * run->n_offered) {
        smoe_route_start_prices(run, options, true);
        smoe_route_pass(run, run->answer->expert);
        run->answer->sweeps = 1;
        return true;
    }
    if (options->sweeps_max == 0 || options->sweeps_max > SWEEPS)
        few.sweeps_max = SWEEPS;
    smoe_route_settle_prices(run, &few);
    return false;
}

void smoe_route_auction(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    struct smoe_route_scratch *s = run->scratch;
    bool fresh = look_around(run, options);
    double mean = mean_margin(run);
    struct auction a = {.run = run,
                        .s = s,
                        .arcs = smoe_route_arcs(),
                        .least_raise = LEAST_RAISE * mean,
                        .bids_left = (uint64_t)BIDS_MOST * run->n_visits};
    open(&a, fresh, fresh ? START_BELOW * mean : 0);
    while (a.n_waiting > 0) {
        uint32_t visit = s->moved[--a.n_waiting];
        if (a.n_waiting > 0)
            fetch(&a, s->moved[a.n_waiting - 1] / run->problem->top_k);
        if (a.bids_left > 0 && run->answer->work <= run->work_max) {
            a.bids_left--;
            bid(&a, visit);
        } else {
            s->given_up[a.n_given_up++] = visit;
        }
    }
    for (uint32_t n = 0; n < a.n_given_up; n++)
        settle(&a, s->given_up[n]);
    close(&a);
}
