/* SPDX-License-Identifier: Apache-2.0
 *
 * The solve in whole grains, for fleets of one expert a node with few visits each, where a gap is allowed (MODEL.md
 * section 4, step 2). It does what route_auction.c and route_tide.c do, but a grain is a part of that gap, and all
 * costs are made whole grains of 16 bits in one pass over the scores: a row is a fourth of what it is in double, slacks
 * are exact, and paths either hold or do not. What the rounding costs is seen when the answer is proven; where it is
 * too much, or numbers do not fit, the solve goes on in double precision.
 *
 *     cost     of a token, by expert, less the least, at the prices of the start; FAR where it holds the expert,
 *              so that looking at a row means looking at what else there is
 *     own      of a visit: that cost of the expert it holds
 *     lift     of an expert: by how much its price has risen since
 *     bid      of a visit: the lift at which its token would as soon have its next best
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_grain_solve.h"
#include "daemon/core/route_pick.h"

static const double GRAIN = 2.5;        /* of the gap that is allowed, shared out among the nodes */
static const double LEAST_RAISE = 0.02; /* of the mean margin */
static const double START_BELOW =
    0.15; /* of it: prices start lower, as who overpays finds out late */
static const double MARGINS_LEAST = 4; /* so many of them must fit between labels */

enum {
    PASS_VISITS = 24, /* a node: up to here prices are not worth a sweep */
    BIDS_MOST = 8,    /* a visit, in the mean */
    CHUNK = 128,      /* tokens of a pass: their scores are still in the cache then */
    BLUR = 2,         /* grains: more than rounding makes of a margin */
};

/* ---- places ---- */

void smoe_grain_take(struct smoe_grain_solve *g, uint32_t visit, uint32_t expert)
{
    int16_t *cost = &smoe_grain_costs(g, smoe_grain_token(g, visit))[expert];
    g->failed |= *cost == SMOE_GRAIN_FAR;
    g->s->grain_own[visit] = *cost;
    *cost = SMOE_GRAIN_FAR;
    smoe_route_link(g->run, visit, (uint16_t)expert);
}

void smoe_grain_leave(struct smoe_grain_solve *g, uint32_t visit)
{
    uint32_t expert = g->run->answer->expert[visit];
    smoe_grain_costs(g, smoe_grain_token(g, visit))[expert] = g->s->grain_own[visit];
    smoe_route_unlink(g->run, visit);
}

static int32_t lowest_bid(const struct smoe_grain_solve *g, uint32_t expert)
{
    uint32_t visit = g->s->lowest[expert];
    return visit == SMOE_ROUTE_NO_VISIT ? INT32_MAX : g->s->grain_bid[visit];
}

static void set_bid(struct smoe_grain_solve *g, uint32_t visit, uint32_t expert, int32_t bid)
{
    if (bid < lowest_bid(g, expert))
        g->s->lowest[expert] = visit;
    g->s->grain_bid[visit] = bid;
}

/* The visit leaves its place and waits for another. */
static void drop(struct smoe_grain_solve *g, uint32_t visit)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t expert = g->run->answer->expert[visit], lowest = SMOE_ROUTE_NO_VISIT;
    smoe_grain_leave(g, visit);
    s->moved[g->n_waiting++] = visit;
    if (s->lowest[expert] != visit)
        return;
    int32_t least = INT32_MAX;
    for (uint32_t v = s->visit_head[expert]; v != SMOE_ROUTE_NO_VISIT; v = s->visit_next[v])
        if (s->grain_bid[v] < least) {
            least = s->grain_bid[v];
            lowest = v;
        }
    s->lowest[expert] = lowest;
}

/* Drops whoever bids less than the last place costs; the price then is what the next visit must outbid. */
static void clear(struct smoe_grain_solve *g, uint32_t expert)
{
    struct smoe_route_scratch *s = g->s;
    if (isinf(s->expert_price[expert]))
        return;
    while (s->expert_load[expert] > 0 &&
           smoe_grain_marginal(g, expert, s->expert_load[expert] - 1) + g->sink_lift >
               lowest_bid(g, expert))
        drop(g, s->lowest[expert]);
    int32_t next = smoe_grain_marginal(g, expert, s->expert_load[expert]) + g->sink_lift;
    int32_t low = lowest_bid(g, expert), lift = s->grain_lift[expert];
    next = next > lift ? next : lift;
    lift = low < next ? low : next;
    g->failed |= lift > SMOE_GRAIN_LIFT_MAX;
    s->grain_lift[expert] = (int16_t)(lift < SMOE_GRAIN_FAR ? lift : SMOE_GRAIN_FAR);
}

/* ---- bids ---- */

static struct smoe_grain_two cheapest(struct smoe_grain_solve *g, uint32_t token)
{
    g->run->answer->work += g->n_experts;
    return g->kernel->two(smoe_grain_costs(g, token), g->s->grain_lift, g->stride);
}

/* No other visit of the token is worth more to it than what it could have instead, at this cost. */
static void lower_others(struct smoe_grain_solve *g, uint32_t visit, int32_t cost)
{
    uint32_t token = smoe_grain_token(g, visit);
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++) {
        uint32_t e = g->run->answer->expert[v];
        if (v == visit || e == SMOE_ROUTE_NONE)
            continue;
        int32_t worth = cost - g->s->grain_own[v];
        if (worth < g->s->grain_lift[e]) {
            drop(g, v);
            clear(g, e);
        } else if (worth < g->s->grain_bid[v]) {
            set_bid(g, v, e, worth);
        }
    }
}

static void bid(struct smoe_grain_solve *g, uint32_t visit)
{
    struct smoe_route_scratch *s = g->s;
    struct smoe_grain_two two = cheapest(g, smoe_grain_token(g, visit));
    int32_t raise = two.second - two.least, price = s->grain_lift[two.expert];
    if (lowest_bid(g, two.expert) <= price) {
        if (raise <= g->least_raise) {
            s->given_up[g->n_given_up++] = visit;
            return;
        }
        drop(g, s->lowest[two.expert]);
    }
    smoe_grain_take(g, visit, two.expert);
    set_bid(g, visit, two.expert, price + raise);
    clear(g, two.expert);
    if (g->top_k > 1)
        lower_others(g, visit, two.second);
}

/* Whoever gave up goes where it is cheapest, and whatever its token holds that is dearer than what it does not,
 * too: at these prices there may be more at a place than should. */
static void settle(struct smoe_grain_solve *g, uint32_t visit)
{
    struct smoe_route_run *run = g->run;
    uint32_t token = smoe_grain_token(g, visit);
    smoe_grain_take(g, visit, cheapest(g, token).expert);
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++)
        g->s->grain_bid[v] = 0; /* nothing is sure of it */
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++) {
        uint32_t e = run->answer->expert[v];
        if (e == SMOE_ROUTE_NONE)
            continue;
        struct smoe_grain_two two = cheapest(g, token);
        if (two.least < g->s->grain_own[v] + g->s->grain_lift[e]) {
            smoe_grain_leave(g, v);
            smoe_grain_take(g, v, two.expert);
        }
    }
}

/* ---- the pass ---- */

/* The prices of the pass, less the least, in single precision; no label has risen. */
static void begin(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    double least = (double)INFINITY;
    for (uint32_t e = 0; e < g->n_experts; e++)
        least = s->expert_price[e] < least ? s->expert_price[e] : least;
    for (uint32_t e = 0; e < g->stride; e++) {
        bool offered = e < g->n_experts && !isinf(s->expert_price[e]);
        s->grain_price[e] = offered ? (float)(s->expert_price[e] - least) : INFINITY;
        s->grain_lift[e] = offered ? 0 : SMOE_GRAIN_FAR;
        s->grain_none[e] = SMOE_GRAIN_FAR;
    }
    for (uint32_t e = 0; e < g->n_experts; e++) {
        s->visit_head[e] = s->lowest[e] = SMOE_ROUTE_NO_VISIT;
        s->expert_load[e] = 0;
    }
}

/* The hot pass over some tokens. */
static void pass(struct smoe_grain_solve *g, uint32_t first, uint32_t count)
{
    const struct smoe_route_problem *problem = g->run->problem;
    struct smoe_route_scratch *s = g->s;
    struct smoe_route_pick pick = {
        .n_tokens = count,
        .n_experts = g->n_experts,
        .top_k = g->top_k,
        .scores = problem->scores + (size_t)first * g->n_experts,
        .weight = problem->score_weight,
        .prices = s->expert_price,
        .row = s->row,
        .chosen = g->run->answer->expert + (size_t)first * g->top_k,
        .runner_up = s->runner_up + first,
        .cutoff = s->cutoff + first,
        .margin = s->margin + first,
        .loads = s->near_load,
    };
    smoe_route_pick(&pick);
}

/* Costs of a token in grains, and its visits where the pass chose, at bids of all that a place is worth to it. */
static void place(struct smoe_grain_solve *g, const struct smoe_grain_scale *scale, uint32_t token)
{
    struct smoe_route_scratch *s = g->s;
    const float *scores = g->run->problem->scores + (size_t)token * g->n_experts;
    const uint16_t *chosen = g->run->answer->expert + (size_t)token * g->top_k;
    int16_t *row = smoe_grain_costs(g, token);
    g->kernel->costs(scale, scores, g->n_experts,
                     scale->prices[chosen[0]] - scale->weight * scores[chosen[0]], row);
    int32_t next = row[s->runner_up[token]];
    for (uint32_t k = 0; k < g->top_k; k++) {
        uint32_t visit = token * g->top_k + k, expert = chosen[k];
        smoe_grain_take(g, visit, expert);
        set_bid(g, visit, expert, next - s->grain_own[visit]);
    }
}

/* Every visit where it is cheapest. Returns the mean margin. */
static double look_at_all(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    const struct smoe_grain_scale scale = {.prices = s->grain_price,
                                           .weight = (float)g->run->problem->score_weight,
                                           .per_cost = (float)g->per_cost};
    double sum = 0;
    begin(g);
    for (uint32_t i = 0; i < g->run->n_tokens; i += CHUNK) {
        uint32_t count = g->run->n_tokens - i < CHUNK ? g->run->n_tokens - i : CHUNK;
        pass(g, i, count);
        for (uint32_t k = i; k < i + count; k++) {
            place(g, &scale, k);
            sum += s->margin[k];
        }
    }
    g->run->answer->work += (uint64_t)g->run->n_tokens * g->n_experts;
    return sum / g->run->n_tokens * g->per_cost;
}

static void hold_auction(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    for (uint32_t e = 0; e < g->n_experts; e++)
        clear(g, e);
    g->bids_left = (uint64_t)BIDS_MOST * g->run->n_visits;
    while (g->n_waiting > 0 && !g->failed) {
        uint32_t visit = s->moved[--g->n_waiting];
        if (g->bids_left > 0 && g->run->answer->work <= g->run->work_max) {
            g->bids_left--;
            bid(g, visit);
        } else {
            s->given_up[g->n_given_up++] = visit;
        }
    }
    for (uint32_t n = 0; n < g->n_given_up && !g->failed; n++)
        settle(g, s->given_up[n]);
}

/* ---- at last ---- */

/* Prices and loads, and margins where they are certain: what was rounded is less than a grain on either side. */
static void end(struct smoe_grain_solve *g)
{
    struct smoe_route_run *run = g->run;
    struct smoe_route_scratch *s = g->s;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        int32_t dearest = 0, sure = INT32_MAX;
        for (uint32_t v = i * g->top_k; v < (i + 1) * g->top_k; v++) {
            int32_t cost = s->grain_own[v] + s->grain_lift[run->answer->expert[v]];
            int32_t left = s->grain_bid[v] - s->grain_lift[run->answer->expert[v]];
            dearest = cost > dearest ? cost : dearest;
            sure = left < sure ? left : sure;
        }
        int32_t margin = sure;
        if (margin <= BLUR)
            margin = cheapest(g, i).least - dearest;
        s->margin[i] = margin > BLUR ? (margin - BLUR) * g->grain : 0;
    }
    for (uint32_t e = 0; e < g->n_experts; e++) {
        uint32_t node = smoe_route_node_of(run, e);
        s->expert_price[e] += (s->grain_lift[e] - g->sink_lift) * g->grain;
        s->node_price[node] = s->expert_price[e];
        s->flow[run->problem->replica_first[e]] = s->expert_load[e];
        run->answer->arrivals[node] = s->expert_load[e];
    }
    memcpy(s->pass_price, s->expert_price, g->n_experts * sizeof *s->pass_price);
    memset(s->dirty, 0, g->n_experts);
    run->horizon = (double)INFINITY; /* lists have all visits */
}

bool smoe_route_grains_pay(const struct smoe_route_run *run)
{
    size_t stride = smoe_route_stride(run->problem->n_experts);
    return run->enough > 0 && run->n_visits <= PASS_VISITS * run->n_offered &&
           run->n_tokens * stride <= run->scratch->grain_cells;
}

bool smoe_route_grains(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    uint32_t n_experts = run->problem->n_experts;
    struct smoe_grain_solve g = {.run = run,
                                 .s = run->scratch,
                                 .kernel = smoe_grain_kernel(),
                                 .n_experts = n_experts,
                                 .stride = (uint32_t)smoe_route_stride(n_experts),
                                 .top_k = run->problem->top_k,
                                 .grain = GRAIN * run->enough / run->n_offered};
    g.per_cost = 1 / g.grain;
    g.part = (UINT64_C(1) << 32) / g.top_k + 1;
    smoe_route_start_prices(run, options, true);
    run->answer->sweeps = 1;
    double mean = look_at_all(&g);
    if (g.failed || !(mean > 0) || mean * MARGINS_LEAST > SMOE_GRAIN_LIFT_MAX)
        return false;
    g.sink_lift = (int32_t)(START_BELOW * mean);
    g.least_raise = (int32_t)(LEAST_RAISE * mean);
    hold_auction(&g);
    if (g.failed || !smoe_grain_tide(&g, mean)) {
        run->answer->cycles = 0;
        return false;
    }
    end(&g);
    return true;
}
