/* SPDX-License-Identifier: Apache-2.0
 *
 * Markets: what clears at one price (MODEL.md section 4, step 2). Experts that stand on one node only
 * share its price and are one market; an expert with several replicas is a market of its own, since its
 * visits go where they are cheapest. Every expert belongs to one market, which is named by its lowest.
 *
 *     price of a node    the highest of the markets on it: the dual (18) wants it as low as it may be
 *     price of an expert the lowest of its nodes
 *
 * A market clears where the visits that tokens bring are those that its nodes supply. Supply is known, by the
 * marginals of its nodes. At the optimum a node that several markets share serves the dearest of them only: a
 * cheaper one has cheaper nodes, or it would not be cheaper. So its whole supply is the dearest's, of equals
 * each one's, and a market that outbids the others on a node gets all of it at once. Demand is estimated from
 * the last pass: every token's last choice and its runner-up differ by a margin, so it is known how many
 * tokens would leave or join if the price moved by so much. Margins are counted in half octaves, fine near
 * zero where a converging sweep looks. Where a price clears a market for a range of loads (a plateau: a node
 * that finishes visits for nothing) the market goes all the way to it, since it will stay.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

static const double TRUSTED = 0.7; /* part of a demand curve that one step may use */

enum {
    SECANTS = 4,                                   /* a step is damped: more precision is lost */
    BUCKET_BASE = 2046 - (SMOE_ROUTE_BUCKETS - 1), /* 2046: the half octave of a ratio of 1 */
};

/* ---- who is in which market ---- */

static bool stands_alone(const struct smoe_route_problem *problem, uint32_t expert)
{
    return problem->replica_first[expert + 1] - problem->replica_first[expert] == 1;
}

/* Do all experts of the node belong to this market? */
static bool node_is_of(const struct smoe_route_scratch *s, uint32_t node, uint32_t market)
{
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++)
        if (s->market[s->replica_expert[s->node_replica[h]]] != market)
            return false;
    return true;
}

void smoe_route_market_begin(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        s->market[e] = (uint16_t)e;
        if (!stands_alone(problem, e))
            continue;
        uint32_t node = problem->replica_node[problem->replica_first[e]];
        for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++) {
            uint16_t other = s->replica_expert[s->node_replica[h]]; /* they rise */
            if (stands_alone(problem, other)) {
                s->market[e] = other;
                break;
            }
        }
    }
    run->mixed = false;
    for (uint32_t e = 0; e < problem->n_experts; e++) {
        s->apart[e] = 1;
        for (uint32_t r = problem->replica_first[e]; r < problem->replica_first[e + 1]; r++)
            if (!node_is_of(s, problem->replica_node[r], s->market[e]))
                s->apart[e] = 0;
        run->mixed |= !s->apart[e];
    }
}

/* ---- prices ---- */

void smoe_route_market_prices(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    for (uint32_t j = 0; j < problem->n_nodes; j++) {
        double most = -(double)INFINITY;
        for (uint32_t h = s->node_first[j]; h < s->node_first[j + 1]; h++) {
            double price = s->market_price[s->market[s->replica_expert[s->node_replica[h]]]];
            most = price > most ? price : most;
        }
        /* without an expert no visit can come: any price below the first visit's is right */
        s->node_price[j] = s->node_first[j] < s->node_first[j + 1]
                               ? most
                               : smoe_cost_marginal(&problem->nodes[j], problem->mode, 0);
    }
    smoe_route_expert_prices(run, s->node_price);
}

void smoe_route_market_from_nodes(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    smoe_route_expert_prices(run, s->node_price);
    for (uint32_t e = 0; e < run->problem->n_experts; e++)
        if (s->market[e] == e)
            s->market_price[e] = isinf(s->expert_price[e]) ? 0 : s->expert_price[e];
    smoe_route_market_prices(run);
}

/* ---- supply ---- */

double smoe_route_rival(const struct smoe_route_run *run, uint32_t node, uint32_t market)
{
    const struct smoe_route_scratch *s = run->scratch;
    double highest = -(double)INFINITY;
    if (s->apart[market])
        return highest;
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++) {
        uint32_t other = s->market[s->replica_expert[s->node_replica[h]]];
        if (other != market && s->market_price[other] > highest)
            highest = s->market_price[other];
    }
    return highest;
}

static uint64_t supply(const struct smoe_route_run *run, uint32_t market, double price)
{
    const struct smoe_route_problem *problem = run->problem;
    uint64_t sum = 0;
    for (uint32_t r = problem->replica_first[market]; r < problem->replica_first[market + 1]; r++) {
        uint32_t node = problem->replica_node[r];
        if (price >= smoe_route_rival(run, node, market))
            sum += smoe_route_supply(run, node, price);
    }
    return sum;
}

static double just_below(double price)
{
    return nextafter(price, -(double)INFINITY);
}

double smoe_route_market_step(const struct smoe_route_run *run, uint32_t market, double price)
{
    const struct smoe_route_problem *problem = run->problem;
    double highest = -(double)INFINITY;
    for (uint32_t r = problem->replica_first[market]; r < problem->replica_first[market + 1]; r++) {
        uint32_t node = problem->replica_node[r], n = smoe_route_supply(run, node, price);
        double step = n > 0 ? smoe_route_marginal_at(run, node, n - 1) : -(double)INFINITY;
        highest = step > highest ? step : highest;
    }
    return highest;
}

uint64_t smoe_route_market_excess(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    uint64_t over = 0, under = 0;
    memset(s->market_load, 0, problem->n_experts * sizeof *s->market_load);
    for (uint32_t e = 0; e < problem->n_experts; e++)
        s->market_load[s->market[e]] += s->expert_load[e];
    for (uint32_t m = 0; m < problem->n_experts; m++) {
        if (s->market[m] != m)
            continue;
        int64_t has = s->market_load[m], most = (int64_t)supply(run, m, s->market_price[m]);
        s->market_excess[m] = has - most;
        if (has < most) {
            int64_t least = (int64_t)supply(run, m, just_below(s->market_price[m]));
            s->market_excess[m] = has < least ? has - least : 0;
        }
        if (s->market_excess[m] > 0)
            over += (uint64_t)s->market_excess[m];
        else
            under += (uint64_t)-s->market_excess[m];
    }
    run->over = over;
    run->under = under;
    return over > under ? over : under;
}

/* ---- demand ---- */

/* The half octave of a margin, counted down from the widest of the pass: exponent and first mantissa
 * bit of their ratio, read as an integer. Bucket b begins at bucket_edge(b). */
static uint32_t bucket_of(double ratio)
{
    uint64_t bits;
    memcpy(&bits, &ratio, sizeof bits);
    uint64_t half_octave = bits >> 51;
    if (half_octave <= BUCKET_BASE)
        return 0;
    half_octave -= BUCKET_BASE;
    return half_octave < SMOE_ROUTE_BUCKETS ? (uint32_t)half_octave : SMOE_ROUTE_BUCKETS - 1;
}

static double bucket_edge(uint32_t bucket)
{
    if (bucket == 0)
        return 0;
    uint64_t bits = (uint64_t)(BUCKET_BASE + bucket) << 51;
    double ratio;
    memcpy(&ratio, &bits, sizeof ratio);
    return ratio;
}

static double wider(double widest, double margin)
{
    double finite = margin < (double)INFINITY ? margin : 0;
    return finite > widest ? finite : widest;
}

/* Of every fourth token by itself: none waits for the one before. */
static double widest_margin(const struct smoe_route_view *view)
{
    const double *margin = view->margin;
    double a = 0, b = 0, c = 0, d = 0;
    uint32_t i = 0;
    for (; i + 4 <= view->n_tokens; i += 4) {
        a = wider(a, margin[i]);
        b = wider(b, margin[i + 1]);
        c = wider(c, margin[i + 2]);
        d = wider(d, margin[i + 3]);
    }
    for (; i < view->n_tokens; i++)
        a = wider(a, margin[i]);
    return wider(wider(a, b), wider(c, d));
}

void smoe_route_market_count(struct smoe_route_run *run, const struct smoe_route_view *view)
{
    struct smoe_route_scratch *s = run->scratch;
    size_t cells = (size_t)run->problem->n_experts * SMOE_ROUTE_BUCKETS;
    uint32_t top_k = run->problem->top_k;
    memset(s->leaving, 0, cells * sizeof *s->leaving);
    memset(s->joining, 0, cells * sizeof *s->joining);
    run->widest = widest_margin(view);
    if (!(run->widest > 0))
        return;
    double scale = 1 / run->widest;
    for (uint32_t i = 0; i < view->n_tokens; i++) {
        uint32_t to = view->runner_up[i];
        if (to == SMOE_ROUTE_NONE)
            continue;
        uint32_t from = s->market[view->chosen[(size_t)(i + 1) * top_k - 1]];
        to = s->market[to];
        if (from == to) /* within a market nothing moves */
            continue;
        uint32_t bucket = bucket_of(view->margin[i] * scale);
        s->leaving[from * SMOE_ROUTE_BUCKETS + bucket]++;
        s->joining[to * SMOE_ROUTE_BUCKETS + bucket]++;
    }
}

void smoe_route_market_windows(const struct smoe_route_view *view, const uint64_t visits[2],
                               double ret_margin[2])
{
    uint64_t count[SMOE_ROUTE_BUCKETS] = {0};
    double widest = widest_margin(view), scale = 1 / widest;
    for (uint32_t i = 0; widest > 0 && i < view->n_tokens; i++)
        if (!isinf(view->margin[i]))
            count[bucket_of(view->margin[i] * scale)]++;
    for (int w = 0; w < 2; w++) {
        uint64_t seen = 0;
        uint32_t b = 0;
        for (; b < SMOE_ROUTE_BUCKETS && seen < visits[w]; b++)
            seen += count[b];
        ret_margin[w] = widest * bucket_edge(b);
    }
}

/* One side of a market's demand: visits that move while the price moves by less than the edge of the
 * bucket, and in it. */
struct curve {
    double widest;
    const uint32_t *in; /* [BUCKETS] */
    double before[SMOE_ROUTE_BUCKETS];
    double known;
};

static void curve_init(struct curve *curve, double widest, const uint32_t *in)
{
    curve->widest = widest;
    curve->in = in;
    curve->known = 0;
    for (uint32_t b = 0; b < SMOE_ROUTE_BUCKETS; b++) {
        curve->before[b] = curve->known;
        curve->known += in[b];
    }
}

/* Visits moved by a price movement; linear within a bucket. */
static double moved_by(const struct curve *curve, double movement)
{
    double ratio = movement / curve->widest;
    if (!(curve->widest > 0) || ratio >= 1)
        return curve->known;
    uint32_t b = bucket_of(ratio);
    double low = bucket_edge(b), high = bucket_edge(b + 1);
    return curve->before[b] + curve->in[b] * ((ratio - low) / (high - low));
}

/* Price movement that moves `visits`; but no more of them than TRUSTED of those that the curve knows.
 * Tokens that hold the expert in a better place, or have it later in line, are not in it, and the last ones
 * that are would stretch the step over all prices at once: the next pass will know more. */
static double movement_of(const struct curve *curve, double visits)
{
    if (!(curve->known > 0))
        return curve->widest;
    double wanted = visits < TRUSTED * curve->known ? visits : TRUSTED * curve->known;
    uint32_t b = 0;
    while (b + 1 < SMOE_ROUTE_BUCKETS && curve->before[b + 1] < wanted)
        b++;
    double low = bucket_edge(b), high = bucket_edge(b + 1);
    double part = curve->in[b] ? (wanted - curve->before[b]) / curve->in[b] : 0;
    return curve->widest * (low + (high - low) * part);
}

/* ---- where they meet ---- */

/* A market that has too much raises its price, one that has too little lowers it; both see it as a
 * movement d >= 0 on which less and less is missing. */
struct clearing {
    const struct smoe_route_run *run;
    uint32_t market;
    double price, sign; /* +1: rises, -1: falls */
    double has;
    struct curve curve;
};

static double price_at(const struct clearing *c, double d)
{
    return c->price + c->sign * d;
}

/* Visits still misplaced when the price has moved by d. */
static double missing(const struct clearing *c, double d)
{
    double price = price_at(c, d), demand = c->has - c->sign * moved_by(&c->curve, d);
    if (c->sign > 0)
        return demand - (double)supply(c->run, c->market, price);
    return (double)supply(c->run, c->market, just_below(price)) - demand;
}

/* If a step of supply between the two movements clears the market: the price of the step. */
static bool clears_on_step(const struct clearing *c, double from, double to, double *ret_price)
{
    double high = c->sign > 0 ? price_at(c, to) : price_at(c, from);
    double low = c->sign > 0 ? price_at(c, from) : price_at(c, to);
    double step = smoe_route_market_step(c->run, c->market, high);
    double d = (step - c->price) * c->sign;
    if (!(step > low) || !(missing(c, d) <= 0))
        return false;
    double demand = c->has - c->sign * moved_by(&c->curve, d);
    *ret_price = step;
    return demand < (double)supply(c->run, c->market, step) &&
           demand > (double)supply(c->run, c->market, just_below(step));
}

double smoe_route_market_clear(const struct smoe_route_run *run, uint32_t market, bool *ret_plateau)
{
    const struct smoe_route_scratch *s = run->scratch;
    int64_t excess = s->market_excess[market];
    struct clearing c = {.run = run,
                         .market = market,
                         .price = s->market_price[market],
                         .sign = excess > 0 ? 1 : -1,
                         .has = s->market_load[market]};
    *ret_plateau = false;
    if (excess == 0)
        return c.price;
    curve_init(&c.curve, run->widest,
               (excess > 0 ? s->leaving : s->joining) + (size_t)market * SMOE_ROUTE_BUCKETS);
    double from = 0, missing_from = fabs((double)excess);
    double to = movement_of(&c.curve, missing_from), missing_to = missing(&c, to);
    if (missing_to > 0) /* as far as the curve may be trusted */
        return price_at(&c, to);
    for (int i = 0; i < SECANTS && missing_to < 0; i++) {
        double d = from + (to - from) * (missing_from / (missing_from - missing_to));
        double rest = missing(&c, d);
        if (rest > 0) {
            from = d;
            missing_from = rest;
        } else {
            to = d;
            missing_to = rest;
        }
    }
    double price = price_at(&c, to);
    *ret_plateau = clears_on_step(&c, from, to, &price);
    return price;
}
