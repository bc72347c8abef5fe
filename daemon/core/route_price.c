/* SPDX-License-Identifier: Apache-2.0
 *
 * Prices near the optimum, by passes over the tokens (MODEL.md section 4, step 2).
 *
 * A node's price is right when the visits that tokens bring at these prices are what the node supplies
 * at its own: marginal(A-1) <= p <= marginal(A). A sweep is one hot pass and then, for each node, the
 * solution of its own one-dimensional problem: demand against supply. The demand curve comes from the
 * same pass: every token's last choice and its runner-up differ by a margin, so it is known how many
 * tokens would leave or join if the price moved by so much; margins are counted in half octaves, fine
 * near zero where a converging sweep looks. All nodes move at once from the same pass, hence a damping.
 *
 * What sweeps cannot see is the common level: as every token goes somewhere, moving all prices together
 * changes no demand. So before each sweep all prices are shifted (route_level.c).
 *
 * Sweeps end when repairing what is left, unit by unit (route_cancel.c), costs less than another pass or
 * than the last pass saved, or when they stop gaining: equal tokens make demand jump, and no price fits.
 * The best prices seen win; as many tokens as are misplaced at them, those nearest to a tie, are then
 * set aside by `window` for route_flow.c to place by load.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

static const double DAMPING_FIRST = 0.6; /* part of the way to its own solution that a node goes */
static const double DAMPING_LEAST = 0.2;
static const double DAMPING_REGAIN = 1.5; /* per sweep that gained */

static const double TRUSTED = 0.7; /* part of a demand curve that one step may use */

/* Time of one unit of repair, which jumps about, in units of the hot pass, which streams. Measured
 * between 20 and 40. */
static const double REPAIR_UNIT = 24;

enum {
    IN_SIGHT = 32,   /* one in so many tokens is looked at first when cycles are sought */
    STALLED_MAX = 3, /* sweeps without a gain before giving up */
    BUCKET_BASE = 2046 - (SMOE_ROUTE_BUCKETS - 1), /* 2046: the half octave of a ratio of 1 */
};

/* The half octave of a margin, counted down from the widest of the pass: exponent and first mantissa
 * bit of their ratio, read as an integer. Bucket b begins at bucket_edge(b). */
static uint32_t bucket_of(double ratio)
{
    uint64_t bits;
    memcpy(&bits, &ratio, sizeof bits);
    uint64_t half_octave = bits >> 51;
    return half_octave > BUCKET_BASE ? (uint32_t)(half_octave - BUCKET_BASE) : 0;
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

/* The node an expert's load depends on, where there is only one. */
static uint32_t only_node(const struct smoe_route_problem *problem, uint32_t expert)
{
    uint32_t first = problem->replica_first[expert];
    return problem->replica_first[expert + 1] - first == 1 ? problem->replica_node[first]
                                                           : UINT32_MAX;
}

static double widest_margin(const struct smoe_route_run *run)
{
    double widest = 0;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        if (run->scratch->margin[i] > widest && !isinf(run->scratch->margin[i]))
            widest = run->scratch->margin[i];
    return widest;
}

/* Counts the tokens of the pass by margin: at the expert they would leave and at the one they would
 * join. Between two experts of one node nothing moves. */
static void count_margins(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    struct smoe_route_scratch *s = run->scratch;
    size_t cells = (size_t)problem->n_experts * SMOE_ROUTE_BUCKETS;
    memset(s->leaving, 0, cells * sizeof *s->leaving);
    memset(s->joining, 0, cells * sizeof *s->joining);
    run->widest = widest_margin(run);
    if (!(run->widest > 0))
        return;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        uint32_t from = run->answer->expert[(size_t)(i + 1) * problem->top_k - 1];
        uint32_t to = s->runner_up[i];
        if (to == SMOE_ROUTE_NONE || isinf(s->margin[i]))
            continue;
        uint32_t home = only_node(problem, from);
        if (home != UINT32_MAX && home == only_node(problem, to))
            continue;
        uint32_t bucket = bucket_of(s->margin[i] / run->widest);
        s->leaving[from * SMOE_ROUTE_BUCKETS + bucket]++;
        s->joining[to * SMOE_ROUTE_BUCKETS + bucket]++;
    }
}

/* One side of a node's demand curve: visits within each bucket of price movement. */
struct curve {
    double visits[SMOE_ROUTE_BUCKETS];
};

/* Sums the experts of a node, each by the share of it that the node carries. */
static void node_curve(const struct smoe_route_run *run, uint32_t node, const uint32_t *margins,
                       struct curve *ret_curve)
{
    const struct smoe_route_problem *problem = run->problem;
    const struct smoe_route_scratch *s = run->scratch;
    *ret_curve = (struct curve){0};
    for (uint32_t h = s->node_first[node]; h < s->node_first[node + 1]; h++) {
        uint32_t r = s->node_replica[h], e = s->replica_expert[r];
        uint32_t replicas = problem->replica_first[e + 1] - problem->replica_first[e];
        double share = s->expert_load[e] ? (double)s->flow[r] / s->expert_load[e] : 1.0 / replicas;
        for (uint32_t b = 0; b < SMOE_ROUTE_BUCKETS; b++)
            ret_curve->visits[b] += share * margins[e * SMOE_ROUTE_BUCKETS + b];
    }
}

/* Price movement that moves `visits`, linear within a bucket; but no more of them than TRUSTED of those
 * that the curve knows. Tokens that hold the expert in a better place, or have it later in line, are not
 * in it, and the last ones that are would stretch the step over all prices at once: the next pass will
 * know more. */
static double movement(const struct smoe_route_run *run, const struct curve *curve, double visits)
{
    double known = 0;
    for (uint32_t b = 0; b < SMOE_ROUTE_BUCKETS; b++)
        known += curve->visits[b];
    if (!(known > 0))
        return run->widest;
    double left = visits < TRUSTED * known ? visits : TRUSTED * known;
    uint32_t b = 0;
    for (; b + 1 < SMOE_ROUTE_BUCKETS && !(left <= curve->visits[b]); b++)
        left -= curve->visits[b];
    double low = bucket_edge(b), high = bucket_edge(b + 1);
    return run->widest *
           (curve->visits[b] > 0 ? low + (high - low) * (left / curve->visits[b]) : low);
}

/* Price of the last of n visits. */
static double last_price(const struct smoe_route_run *run, uint32_t node, uint32_t n)
{
    return n > 0 ? smoe_route_marginal_at(run, node, n - 1) : -(double)INFINITY;
}

/* The price at which tokens would bring n visits instead of those it has. */
static double demand_price(const struct smoe_route_run *run, uint32_t node,
                           const struct curve *curve, uint32_t n)
{
    double price = run->scratch->node_price[node];
    uint32_t has = run->answer->arrivals[node];
    return n < has ? price + movement(run, curve, has - n) : price - movement(run, curve, n - has);
}

/* Where demand meets supply on this node, all other prices as they are. */
static double own_solution(const struct smoe_route_run *run, uint32_t node)
{
    double price = run->scratch->node_price[node];
    uint32_t has = run->answer->arrivals[node];
    bool over = last_price(run, node, has) > price;
    if (!over && !(last_price(run, node, has + 1) < price))
        return price;

    struct curve curve;
    node_curve(run, node, over ? run->scratch->leaving : run->scratch->joining, &curve);
    /* Invariant: `low` visits are within the price that brings them, `high` are not. */
    uint32_t low = over ? 0 : has, high = over ? has : smoe_route_limit(run, node) + 1;
    while (high - low > 1) {
        uint32_t n = low + (high - low) / 2;
        if (last_price(run, node, n) <= demand_price(run, node, &curve, n))
            low = n;
        else
            high = n;
    }
    price = demand_price(run, node, &curve, low);
    double least = last_price(run, node, low), most = last_price(run, node, low + 1);
    return price < least ? least : price > most ? most : price;
}

/* Visits that are in the wrong place at these prices. */
static uint64_t misplaced(const struct smoe_route_run *run, const double *prices)
{
    uint64_t over = 0, under = 0;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++) {
        uint32_t has = run->answer->arrivals[j], most = smoe_route_supply(run, j, prices[j]);
        uint32_t least = smoe_route_supply(run, j, nextafter(prices[j], -(double)INFINITY));
        over += has > most ? has - most : 0;
        under += has < least ? least - has : 0;
    }
    return over > under ? over : under;
}

/* Time to repair that many visits one by one, in scores of a hot pass: a repair looks at the arcs
 * between experts and, to renew a few of them, at the tokens on an expert. */
static double repair_work(const struct smoe_route_run *run, uint64_t visits)
{
    double experts = run->problem->n_experts;
    return REPAIR_UNIT * (double)visits * (experts * experts + 9.0 * run->n_visits / experts);
}

/* Last slot's prices, or none: the shift then is the water-fill. A node that was dead comes in at the
 * others' mean. */
static void start_prices(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    uint32_t n_nodes = run->problem->n_nodes, known = 0;
    double *price = run->scratch->node_price, sum = 0;
    for (uint32_t j = 0; options->warm && j < n_nodes; j++)
        if (isfinite(options->prices[j])) {
            sum += options->prices[j];
            known++;
        }
    for (uint32_t j = 0; j < n_nodes; j++)
        price[j] = known && isfinite(options->prices[j]) ? options->prices[j]
                   : known                               ? sum / known
                                                         : 0;
    if (!known || !smoe_route_level_fits(run, price))
        smoe_route_shift_prices(run, price);
}

/* All nodes go `damping` of the way to their own solutions. */
static void step_prices(struct smoe_route_run *run, double damping)
{
    double *price = run->scratch->node_price;
    count_margins(run);
    for (uint32_t j = 0; j < run->problem->n_nodes; j++) {
        double step = own_solution(run, j) - price[j];
        if (isfinite(step))
            price[j] += damping * step;
    }
    if (!smoe_route_level_fits(run, price))
        smoe_route_shift_prices(run, price);
}

static uint64_t sweep(struct smoe_route_run *run)
{
    smoe_route_expert_prices(run, run->scratch->node_price);
    smoe_route_pass(run, run->answer->expert);
    smoe_route_split(run);
    run->answer->sweeps++;
    return misplaced(run, run->scratch->node_price);
}

/* The margin below which `visits` tokens lie: so many are set aside for loads to decide. */
static double tie_window(const struct smoe_route_run *run, uint64_t visits)
{
    uint64_t count[SMOE_ROUTE_BUCKETS] = {0}, seen = 0;
    double widest = widest_margin(run);
    if (!(widest > 0) || visits == 0)
        return 0;
    for (uint32_t i = 0; i < run->n_tokens; i++)
        if (!isinf(run->scratch->margin[i]))
            count[bucket_of(run->scratch->margin[i] / widest)]++;
    for (uint32_t b = 0; b < SMOE_ROUTE_BUCKETS; b++) {
        seen += count[b];
        if (seen >= visits)
            return widest * bucket_edge(b + 1);
    }
    return widest;
}

/* Is another sweep worth its pass? Not if repairing what is misplaced now costs less than two, nor if
 * the last gain saved less repair than a pass. */
static bool sweep_pays(const struct smoe_route_run *run, uint64_t now, uint64_t before)
{
    double pass = (double)run->n_tokens * run->problem->n_experts;
    return repair_work(run, now) > 2 * pass &&
           (now >= before || repair_work(run, before - now) > pass);
}

void smoe_route_settle_prices(struct smoe_route_run *run, const struct smoe_route_options *options)
{
    struct smoe_route_scratch *s = run->scratch;
    size_t bytes = run->problem->n_nodes * sizeof *s->node_price;
    uint32_t sweeps_max = options->sweeps_max ? options->sweeps_max : SMOE_ROUTE_SWEEPS_MAX;
    uint32_t stalled = 0;
    uint64_t now, before = UINT32_MAX, best = UINT32_MAX;
    double damping = DAMPING_FIRST;
    start_prices(run, options);
    for (;; before = now) {
        now = sweep(run);
        if (now < best) {
            best = now;
            memcpy(s->best_price, s->node_price, bytes);
        }
        if (now < before) {
            stalled = 0;
            damping =
                damping * DAMPING_REGAIN < DAMPING_FIRST ? damping * DAMPING_REGAIN : DAMPING_FIRST;
        } else {
            stalled++;
            damping = damping / 2 > DAMPING_LEAST ? damping / 2 : DAMPING_LEAST;
        }
        if (!sweep_pays(run, now, before) || run->answer->sweeps >= sweeps_max ||
            run->answer->work >= run->work_max || stalled == STALLED_MAX)
            break;
        step_prices(run, damping);
    }
    if (now > best) {
        memcpy(s->node_price, s->best_price, bytes);
        sweep(run);
    }
    run->window = tie_window(run, best);
    run->horizon = tie_window(run, 4 * best + run->n_tokens / IN_SIGHT);
}
