/* SPDX-License-Identifier: Apache-2.0
 *
 * The solve in whole grains, for fleets of one expert a node with few visits each, where a gap is allowed (MODEL.md
 * section 4, step 2). It does what route_auction.c and route_tide.c do, but a grain is a part of that gap, and all
 * costs are made whole grains of 16 bits in one pass over the scores: a row is a fourth of what it is in double, slacks
 * are exact, and paths either hold or do not. Before tokens bid, prices make one sweep. What the rounding costs is seen
 * when the answer is proven; where it is too much, or numbers do not fit, the solve goes on in double precision.
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

static const double GRAIN = 2.5;        /* of the gap that is allowed, shared out among the nodes */
static const double FINE = 2e-6;        /* of a gap, as a part of K N score_weight */
static const double LEAST_RAISE = 0.02; /* of the mean margin */
static const double DAMPING = 0.7;      /* of a sweep */
static const double MOST_PER_SCORE = 0x1p64; /* grains: single precision has room for more */
static const double MARGINS_LEAST = 4;       /* so many of them must fit between labels */
/* Of a price, and of a token's least cost: single precision then blurs less than BLUR. */
static const float SIZE_MOST = 0x1p21F;

enum {
    BIDS_MOST = 8, /* a visit, in the mean */
    TOGETHER = 8,  /* visits that look what is cheapest before any of them bids */
    CHUNK = 1024,  /* scores that are looked at together: they stay in the first cache */
    BLUR = 2,      /* grains: more than rounding makes of a margin */
};

/* ---- bids ---- */

/* The visit leaves its place and waits for another. */
static void drop(struct smoe_grain_solve *g, uint32_t visit)
{
    smoe_grain_leave(g, visit);
    g->s->moved[g->n_waiting++] = visit;
}

static void drop_lowest(struct smoe_grain_solve *g, uint32_t expert)
{
    drop(g, g->s->grain_visit[g->s->grain_first[expert] + g->s->lowest[expert]]);
}

/* Drops whoever bids less than the last place costs; the price then is what the next visit must outbid. */
static void clear(struct smoe_grain_solve *g, uint32_t expert)
{
    struct smoe_route_scratch *s = g->s;
    if (isinf(s->expert_price[expert]))
        return;
    while (s->expert_load[expert] > 0 &&
           smoe_grain_marginal(g, expert, s->expert_load[expert] - 1) + g->sink_lift >
               smoe_grain_lowest_bid(g, expert))
        drop_lowest(g, expert);
    int32_t next = smoe_grain_marginal(g, expert, s->expert_load[expert]) + g->sink_lift;
    int32_t low = smoe_grain_lowest_bid(g, expert), lift = s->grain_lift[expert];
    next = next > lift ? next : lift;
    lift = low < next ? low : next;
    g->failed |= lift > SMOE_GRAIN_LIFT_MAX;
    s->grain_lift[expert] = (int16_t)(lift < SMOE_GRAIN_FAR ? lift : SMOE_GRAIN_FAR);
}

static struct smoe_grain_two cheapest(struct smoe_grain_solve *g, uint32_t token)
{
    g->run->answer->work += g->n_experts;
    struct smoe_grain_two two;
    g->kernel->two(smoe_grain_costs(g, token), 1, g->s->grain_lift, g->stride, NULL, &two);
    return two;
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
        } else if (worth < *smoe_grain_bid(g, v)) {
            smoe_grain_set_bid(g, v, worth);
        }
    }
}

/* Does the token still have this expert for that? Others can only be dearer than they were, but that where a visit of
 * its own has left, which will look for itself. */
static bool still(const struct smoe_grain_solve *g, uint32_t token,
                  const struct smoe_grain_two *two)
{
    int32_t cost = smoe_grain_costs(g, token)[two->expert];
    return cost + g->s->grain_lift[two->expert] == two->least;
}

/* For the cheapest, as it was a moment ago. */
static void bid(struct smoe_grain_solve *g, uint32_t visit, struct smoe_grain_two two)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t token = smoe_grain_token(g, visit);
    if (!still(g, token, &two) || two.second - two.least <= g->least_raise)
        two = cheapest(g, token);
    int32_t raise = two.second - two.least, price = s->grain_lift[two.expert];
    if (smoe_grain_lowest_bid(g, two.expert) <= price) {
        if (raise <= g->least_raise) {
            s->given_up[g->n_given_up++] = visit;
            return;
        }
        drop_lowest(g, two.expert);
    }
    smoe_grain_take(g, visit, two.expert, price + raise);
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
    smoe_grain_take(g, visit, cheapest(g, token).expert, 0);
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++)
        if (run->answer->expert[v] != SMOE_ROUTE_NONE)
            smoe_grain_set_bid(g, v, 0); /* nothing is sure of it */
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++) {
        uint32_t e = run->answer->expert[v];
        if (e == SMOE_ROUTE_NONE)
            continue;
        struct smoe_grain_two two = cheapest(g, token);
        if (two.least < g->s->grain_own[v] + g->s->grain_lift[e]) {
            smoe_grain_leave(g, v);
            smoe_grain_take(g, v, two.expert, 0);
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
        s->grain_price[e] =
            offered ? (float)((s->expert_price[e] - least) * g->per_cost) : INFINITY;
        g->failed |= offered && !(s->grain_price[e] <= SIZE_MOST);
        s->grain_lift[e] = offered ? 0 : SMOE_GRAIN_FAR;
        s->grain_none[e] = SMOE_GRAIN_FAR;
    }
    memset(s->expert_load, 0, g->n_experts * sizeof *s->expert_load);
}

/* A visit of a token takes the cheapest of what is left. */
static void choose_one(struct smoe_grain_solve *g, uint32_t visit, int16_t *row,
                       const struct smoe_grain_two *two)
{
    struct smoe_route_scratch *s = g->s;
    if (two->least == SMOE_GRAIN_FAR) {
        g->failed = true;
        return;
    }
    s->grain_own[visit] = row[two->expert];
    g->run->answer->expert[visit] = (uint16_t)two->expert;
    s->expert_load[two->expert]++;
    row[two->expert] = SMOE_GRAIN_FAR;
}

/* A token takes its K cheapest, each worth to it what the next would cost more. The first two are known: what was just
 * written is slow to read. Returns how much it is for the dearest. */
static int32_t choose(struct smoe_grain_solve *g, uint32_t token,
                      const struct smoe_grain_two *first, const struct smoe_grain_two *next)
{
    struct smoe_route_scratch *s = g->s;
    int16_t *row = smoe_grain_costs(g, token);
    uint32_t v = token * g->top_k, end = v + g->top_k;
    struct smoe_grain_two two = g->top_k > 1 ? *next : *first;
    choose_one(g, v++, row, first);
    if (v < end)
        choose_one(g, v++, row, next);
    for (; v < end; v++) {
        g->kernel->two(row, 1, s->grain_lift, g->stride, NULL, &two);
        choose_one(g, v, row, &two);
    }
    for (v = token * g->top_k; v < end && !g->failed; v++) {
        s->grain_worth[v] = (int16_t)(two.second - s->grain_own[v]);
        g->worth += s->grain_worth[v];
    }
    return two.second - two.least;
}

/* Every visit where it is cheapest. Returns the mean margin. */
static double look_at_all(struct smoe_grain_solve *g)
{
    const struct smoe_grain_scale scale = {
        .prices = g->s->grain_price,
        .weight = (float)(g->run->problem->score_weight * g->per_cost)};
    const float *scores = g->run->problem->scores;
    uint32_t n_tokens = g->run->n_tokens, rows = CHUNK / g->n_experts;
    struct smoe_grain_two two[SMOE_GRAIN_ROWS], next[SMOE_GRAIN_ROWS];
    uint64_t sum = 0;
    rows = rows < 1 ? 1 : rows < SMOE_GRAIN_ROWS ? rows : SMOE_GRAIN_ROWS;
    begin(g);
    for (uint32_t i = 0; i < n_tokens && !g->failed; i += rows) {
        uint32_t count = n_tokens - i < rows ? n_tokens - i : rows;
        float size = g->kernel->costs(&scale, scores + (size_t)i * g->n_experts, g->n_experts,
                                      count, smoe_grain_costs(g, i));
        g->failed |= !(size <= SIZE_MOST);
        g->kernel->two(smoe_grain_costs(g, i), count, g->s->grain_lift, g->stride, NULL, two);
        if (g->top_k > 1)
            g->kernel->two(smoe_grain_costs(g, i), count, g->s->grain_lift, g->stride, two, next);
        for (uint32_t k = 0; k < count; k++)
            sum += (uint64_t)choose(g, i + k, &two[k], &next[k]);
    }
    g->run->answer->work += (uint64_t)n_tokens * g->n_experts;
    return (double)sum / n_tokens;
}

/* ---- sweeps ---- */

/* Prices go part of the way to where the loads that they bring are what nodes accept: so many grains for a visit in
 * excess, shared by all that are there. Returns by how much a price has fallen at most. */
static int32_t step_prices(struct smoe_grain_solve *g, double worth)
{
    struct smoe_route_scratch *s = g->s;
    int32_t fall = 0;
    for (uint32_t e = 0; e < g->n_experts; e++) {
        int32_t was = s->grain_lift[e], load = (int32_t)s->expert_load[e];
        if (was == SMOE_GRAIN_FAR)
            continue;
        int32_t accepted = (int32_t)smoe_grain_accepted(g, e);
        int32_t most = load > accepted ? load : accepted;
        int32_t lift = was + (int32_t)(worth * (load - accepted) / (most + 1));
        lift = lift < 0 ? 0 : lift < SMOE_GRAIN_LIFT_MAX ? lift : SMOE_GRAIN_LIFT_MAX;
        fall = was - lift > fall ? was - lift : fall;
        s->grain_lift[e] = (int16_t)lift;
    }
    return fall;
}

/* The next few tokens of these visits, which rise, choose again. Returns how many visits are done with. */
static uint32_t choose_again(struct smoe_grain_solve *g, const uint32_t *visits, uint32_t done,
                             uint32_t n_visits)
{
    const struct smoe_route_scratch *s = g->s;
    struct smoe_grain_two two[TOGETHER], next[TOGETHER];
    uint32_t tokens[TOGETHER], count = 0;
    for (; done < n_visits && count < TOGETHER; count++) {
        uint32_t token = smoe_grain_token(g, visits[done]), end = (token + 1) * g->top_k;
        for (; done < n_visits && visits[done] < end; done++)
            ;
        for (uint32_t v = end - g->top_k; v < end; v++) {
            smoe_grain_costs(g, token)[g->run->answer->expert[v]] = s->grain_own[v];
            s->expert_load[g->run->answer->expert[v]]--;
        }
        tokens[count] = token;
    }
    for (uint32_t n = 0; n < count; n++)
        two[n] = cheapest(g, tokens[n]);
    for (uint32_t n = 0; n < count && g->top_k > 1; n++)
        g->kernel->two(smoe_grain_costs(g, tokens[n]), 1, s->grain_lift, g->stride, &two[n],
                       &next[n]);
    for (uint32_t n = 0; n < count; n++)
        choose(g, tokens[n], &two[n], &next[n]);
    return done;
}

/* Tokens whose visits might be cheaper elsewhere now choose again. All labels have risen by `room`. */
static void sweep(struct smoe_grain_solve *g, int32_t room)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t n_doubtful = 0, *doubtful = s->given_up, n_visits = g->run->n_visits;
    int32_t rise = room - step_prices(g, DAMPING * room);
    for (uint32_t v = 0; v < n_visits; v++) {
        int32_t bound = s->grain_worth[v] + rise;
        doubtful[n_doubtful] = v;
        n_doubtful += s->grain_lift[g->run->answer->expert[v]] > bound;
        s->grain_worth[v] = (int16_t)(bound < SMOE_GRAIN_FAR ? bound : SMOE_GRAIN_FAR);
    }
    for (uint32_t n = 0; n < n_doubtful && !g->failed;)
        n = choose_again(g, doubtful, n, n_doubtful);
    g->run->answer->sweeps++;
}

/* One sweep before anybody bids: where two visits too many become one, a chain of bids and a path are saved. All labels
 * rise first, by what a visit's place is worth to it in the mean, as none may fall below 0. */
static void settle_prices(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    int64_t room = g->worth / g->run->n_visits;
    if (room > SMOE_GRAIN_LIFT_MAX / 4)
        return;
    g->sink_lift = (int32_t)room;
    for (uint32_t e = 0; e < g->n_experts; e++)
        if (s->grain_lift[e] != SMOE_GRAIN_FAR)
            s->grain_lift[e] = (int16_t)room;
    sweep(g, (int32_t)room);
}

static void hold_auction(struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    for (uint32_t e = 0; e < g->n_experts; e++)
        clear(g, e);
    g->bids_left = (uint64_t)BIDS_MOST * g->run->n_visits;
    while (g->n_waiting > 0 && !g->failed) {
        uint32_t count = g->n_waiting < TOGETHER ? g->n_waiting : TOGETHER, visit[TOGETHER];
        struct smoe_grain_two two[TOGETHER];
        memcpy(visit, s->moved + (g->n_waiting -= count), count * sizeof *visit);
        if (g->bids_left < count || g->run->answer->work > g->run->work_max) {
            memcpy(s->given_up + g->n_given_up, visit, count * sizeof *visit);
            g->n_given_up += count;
            continue;
        }
        g->bids_left -= count;
        for (uint32_t n = 0; n < count; n++)
            two[n] = cheapest(g, smoe_grain_token(g, visit[n]));
        for (uint32_t n = 0; n < count; n++)
            bid(g, visit[n], two[n]);
    }
    for (uint32_t n = 0; n < g->n_given_up && !g->failed; n++)
        settle(g, s->given_up[n]);
}

/* ---- at last ---- */

static int32_t margin_of(const struct smoe_grain_solve *g, uint32_t token)
{
    const struct smoe_route_scratch *s = g->s;
    int32_t dearest = 0;
    for (uint32_t v = token * g->top_k; v < (token + 1) * g->top_k; v++) {
        int32_t cost = s->grain_own[v] + s->grain_lift[g->run->answer->expert[v]];
        dearest = cost > dearest ? cost : dearest;
    }
    return g->kernel->least(smoe_grain_costs(g, token), s->grain_lift, g->stride) - dearest;
}

/* Visits whose bids do not tell that they are where they should be, into s->given_up. Returns how many. */
static uint32_t list_unsure(const struct smoe_grain_solve *g)
{
    struct smoe_route_scratch *s = g->s;
    uint32_t n_unsure = 0;
    for (uint32_t e = 0; e < g->n_experts; e++) {
        const uint16_t *visit = s->grain_visit + s->grain_first[e];
        const int16_t *bid = s->grain_bid + s->grain_first[e];
        int32_t sure = s->grain_lift[e] + BLUR;
        for (uint32_t n = 0; n < s->expert_load[e]; n++) {
            s->given_up[n_unsure] = visit[n]; /* or perhaps not: to guess which would take longer */
            n_unsure += bid[n] <= sure;
        }
    }
    return n_unsure;
}

/* Prices and loads, and margins: whether there is one, as what was rounded is less than a grain on either side. */
static void end(struct smoe_grain_solve *g)
{
    struct smoe_route_run *run = g->run;
    struct smoe_route_scratch *s = g->s;
    uint32_t n_unsure = list_unsure(g);
    for (uint32_t i = 0; i < run->n_tokens; i++)
        s->margin[i] = g->grain;
    for (uint32_t n = 0; n < n_unsure; n++) {
        uint32_t token = smoe_grain_token(g, s->given_up[n]);
        s->margin[token] = margin_of(g, token) > BLUR ? g->grain : 0;
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
    run->horizon = (double)INFINITY; /* lists, if need be, have all visits */
}

bool smoe_route_grains_pay(const struct smoe_route_run *run)
{
    size_t stride = smoe_grain_steps(run->problem->n_experts);
    return run->enough > 0 && run->n_visits <= SMOE_ROUTE_GRAIN_VISITS * run->n_offered &&
           run->n_tokens * stride <= run->scratch->grain_cells;
}

/* Where more is allowed a grain is no larger: margins would be a few of them, and rounding decide too much. */
static double grain_of(const struct smoe_route_run *run)
{
    double fine = FINE * run->n_visits * run->problem->score_weight;
    return GRAIN * (run->enough < fine ? run->enough : fine) / run->n_offered;
}

bool smoe_route_grains(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    uint32_t n_experts = run->problem->n_experts;
    struct smoe_grain_solve g = {.run = run,
                                 .s = run->scratch,
                                 .kernel = smoe_grain_kernel(),
                                 .n_experts = n_experts,
                                 .stride = smoe_grain_steps(n_experts),
                                 .top_k = run->problem->top_k,
                                 .grain = grain_of(run)};
    g.per_cost = 1 / g.grain;
    g.part = (UINT64_C(1) << 32) / g.top_k + 1;
    if (!(run->problem->score_weight * g.per_cost < MOST_PER_SCORE))
        return false;
    smoe_route_start_prices(run, options, true);
    run->answer->sweeps = 1;
    double mean = look_at_all(&g);
    if (g.failed || !(mean > 0) || mean * MARGINS_LEAST > SMOE_GRAIN_LIFT_MAX)
        return false;
    settle_prices(&g);
    if (!g.failed)
        smoe_grain_open(&g);
    if (g.failed)
        return false;
    g.least_raise = (int32_t)(LEAST_RAISE * mean);
    hold_auction(&g);
    if (g.failed || !smoe_grain_tide(&g, mean)) {
        run->answer->cycles = 0;
        return false;
    }
    end(&g);
    return true;
}
