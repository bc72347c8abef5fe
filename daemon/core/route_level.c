/* SPDX-License-Identifier: Apache-2.0
 *
 * Water. Nodes offer visits at rising prices; a level is a price that all of a crowd see, each from its
 * own base. Two uses (MODEL.md section 4, step 1):
 *
 *     shift   all nodes, base = their prices: the one amount by which all prices must move so that the
 *             nodes together supply the visits there are. From base 0 this is the water-fill itself.
 *     pour    the replicas of one expert, above what they carry already: the expert's load is shared
 *             so that its next visit would cost about the same everywhere. A node that it shares with
 *             a dearer market offers nothing below that one's price: there it would be in the way.
 *
 * A level is found by galloping from a guess and halving. It need not be exact: prices are improved by
 * sweeps and loads by cycles, later.
 */
#include <math.h>
#include <string.h>

#include "daemon/core/route_internal.h"

static const double LEVEL_STEP = 0.25; /* first stride of the search for a level [visit] */
enum {
    STEPS = 4,     /* from the last supply before it is worked out */
    ROUGHLY = 256, /* one visit in so many may be missing */
    SECANTS = 12,  /* for a rough level */
    ROUNDS = 2     /* of pouring experts that share nodes */
};
static const double LEVEL_PRECISION = 0x1p-16; /* of what a stride left open */

/* No node can get more than every token once for each expert it holds. */
uint32_t smoe_route_limit(const struct smoe_route_run *run, uint32_t node)
{
    const uint32_t *first = run->scratch->node_first;
    uint64_t most = (uint64_t)(first[node + 1] - first[node]) * run->n_tokens;
    uint32_t cap = run->problem->nodes[node].arrivals_max;
    return most < cap ? (uint32_t)most : cap;
}

/* Mostly it is what it was, or a visit or two more or less. */
uint32_t smoe_route_supply(const struct smoe_route_run *run, uint32_t node, double price)
{
    uint32_t limit = smoe_route_limit(run, node), *known = &run->scratch->supplied[node];
    uint32_t n = *known < limit ? *known : limit, steps = 0;
    for (; steps < STEPS && n < limit && smoe_route_marginal_at(run, node, n) <= price; n++)
        steps++;
    for (; steps < STEPS && n > 0 && smoe_route_marginal_at(run, node, n - 1) > price; n--)
        steps++;
    if (steps == STEPS)
        n = smoe_cost_supply(&run->problem->nodes[node], run->problem->mode, price, limit);
    *known = n;
    return n;
}

#define NO_MARKET UINT32_MAX

/* Nodes that share a level: node k is nodes[k], or k itself where nodes is NULL. */
struct crowd {
    const uint32_t *nodes;
    uint32_t count;
    const double *base;    /* price of node j at level 0, by node; NULL: 0 */
    const uint32_t *taken; /* visits it has already, by node; NULL: 0 */
    uint32_t market;       /* for whom: a node offers nothing below a rival's price; NO_MARKET */
};

static uint32_t member(const struct crowd *crowd, uint32_t k)
{
    return crowd->nodes ? crowd->nodes[k] : k;
}

static double member_price(const struct crowd *crowd, uint32_t node, double level)
{
    return level + (crowd->base ? crowd->base[node] : 0);
}

/* Visits that one member still offers at a level. */
static uint32_t offers(const struct smoe_route_run *run, const struct crowd *crowd, uint32_t node,
                       double level)
{
    if (crowd->market != NO_MARKET && level < smoe_route_rival(run, node, crowd->market))
        return 0;
    uint32_t n = smoe_route_supply(run, node, member_price(crowd, node, level));
    uint32_t taken = crowd->taken ? crowd->taken[node] : 0;
    return n > taken ? n - taken : 0;
}

/* Visits that the crowd offers at a level. */
static uint64_t offered(const struct smoe_route_run *run, const struct crowd *crowd, double level)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < crowd->count; k++)
        sum += offers(run, crowd, member(crowd, k), level);
    return sum;
}

static bool meets(const struct smoe_route_run *run, const struct crowd *crowd, double level,
                  uint64_t target)
{
    return offered(run, crowd, level) >= target;
}

/* The level at which the first visit of all is offered. */
static double least_level(const struct smoe_route_run *run, const struct crowd *crowd)
{
    double least = (double)INFINITY;
    for (uint32_t k = 0; k < crowd->count; k++) {
        uint32_t node = member(crowd, k);
        double price = smoe_route_marginal_at(run, node, crowd->taken ? crowd->taken[node] : 0);
        double level = price - member_price(crowd, node, 0);
        if (level < least)
            least = level;
    }
    return least;
}

/* The water-fill: brackets the level where the crowd begins to offer `target` >= 1 visits, which it
 * must be able to. At *ret_low it does not yet (or nothing is lower), at *ret_high it does; a level that
 * offers the very number is both. Gallops away from `guess`, then halves. */
static void bracket_level(const struct smoe_route_run *run, const struct crowd *crowd,
                          uint64_t target, double guess, double *ret_low, double *ret_high)
{
    double least = least_level(run, crowd), step = LEVEL_STEP;
    double low = guess > least ? guess : least, high = low;
    if (meets(run, crowd, low, target))
        for (; low > least && meets(run, crowd, low, target); step *= 4) {
            high = low;
            low = low - step > least ? low - step : least;
        }
    else
        for (; !meets(run, crowd, high, target); step *= 4) {
            low = high;
            high = low + step;
        }
    double narrow = LEVEL_PRECISION * (high - low) + 0x1p-50 * fabs(high);
    while (high - low > narrow) {
        double middle = low + (high - low) / 2;
        uint64_t there = offered(run, crowd, middle);
        if (there >= target)
            high = middle;
        if (there <= target)
            low = middle;
    }
    *ret_low = low;
    *ret_high = high;
}

/* A price that comes to lie just above a step of the market's marginals is set on it: there a node is
 * content with any load. */
void smoe_route_shift_prices(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    double low, high;
    struct crowd crowd = {
        .count = run->problem->n_nodes, .base = s->node_price, .market = NO_MARKET};
    bracket_level(run, &crowd, run->n_visits, 0, &low, &high);
    for (uint32_t m = 0; m < run->problem->n_experts; m++) {
        if (s->market[m] != m)
            continue;
        double price = s->market_price[m] + high;
        double step = high > low ? smoe_route_market_step(run, m, price) : -(double)INFINITY;
        s->market_price[m] = price - step <= high - low ? step : price;
    }
    smoe_route_market_prices(run);
}

/* For those who will look at single tokens next: within a 256th of the visits, in a few secants. */
void smoe_route_shift_roughly(struct smoe_route_run *run)
{
    struct smoe_route_scratch *s = run->scratch;
    struct crowd crowd = {
        .count = run->problem->n_nodes, .base = s->node_price, .market = NO_MARKET};
    double low = -(double)INFINITY, high = (double)INFINITY, level = 0, step = LEVEL_STEP;
    double few = 0, many = 0, target = run->n_visits;
    for (int i = 0; i < SECANTS; i++) {
        double there = (double)offered(run, &crowd, level);
        if (fabs(there - target) <= target / ROUGHLY)
            break;
        if (there < target) {
            low = level;
            few = there;
        } else {
            high = level;
            many = there;
        }
        if (isinf(low) || isinf(high)) {
            level += there < target ? step : -step;
            step *= 4;
        } else {
            double part = (target - few) / (many - few);
            level = low + (high - low) * (part < 0.1 ? 0.1 : part > 0.9 ? 0.9 : part);
        }
    }
    for (uint32_t m = 0; m < run->problem->n_experts; m++)
        s->market_price[m] += level;
    smoe_route_market_prices(run);
}

/* Is the supply already met, between the visits cheaper than the prices and those no dearer? */
bool smoe_route_level_fits(const struct smoe_route_run *run, const double *prices)
{
    uint64_t cheaper = 0, no_dearer = 0;
    for (uint32_t j = 0; j < run->problem->n_nodes; j++) {
        cheaper += smoe_route_supply(run, j, nextafter(prices[j], -(double)INFINITY));
        no_dearer += smoe_route_supply(run, j, prices[j]);
    }
    return cheaper <= run->n_visits && run->n_visits <= no_dearer;
}

/* Puts what no replica has room for on the last live one: a sweep then sees how far off it is. */
static void overflow(struct smoe_route_run *run, const struct crowd *crowd, uint32_t *flow,
                     uint32_t load)
{
    uint32_t last = 0;
    for (uint32_t k = 0; k < crowd->count; k++) {
        uint32_t limit = smoe_route_limit(run, crowd->nodes[k]),
                 has = crowd->taken[crowd->nodes[k]];
        flow[k] = limit > has ? limit - has : 0;
        load -= flow[k];
        if (limit > 0)
            last = k;
    }
    flow[last] += load;
}

/* What is offered below the level is taken; the rest is shared in proportion to what the step itself
 * offers: on a node's flat the price is equal, so it goes by the speed that made the flat long. */
static void share_out(const struct smoe_route_run *run, const struct crowd *crowd, uint32_t *flow,
                      uint32_t load, double guess)
{
    double low, high;
    bracket_level(run, crowd, load, guess, &low, &high);
    uint64_t below = 0, at = 0;
    for (uint32_t k = 0; k < crowd->count; k++) {
        flow[k] = offers(run, crowd, crowd->nodes[k], low);
        below += flow[k];
        at += offers(run, crowd, crowd->nodes[k], high);
    }
    if (below >= load) { /* the first step of all is enough */
        memset(flow, 0, crowd->count * sizeof *flow);
        below = 0;
    }
    double share = (double)(load - below) / (double)(at - below);
    uint64_t seen = 0, given = 0;
    for (uint32_t k = 0; k < crowd->count; k++) {
        seen += offers(run, crowd, crowd->nodes[k], high) - flow[k];
        uint64_t due = (uint64_t)((double)seen * share + 0.5);
        flow[k] += (uint32_t)(due - given);
        given = due;
    }
}

/* Pours `load` visits of one expert over its replicas, level by level of their marginals. */
static void pour(struct smoe_route_run *run, uint32_t expert, uint32_t load)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t first = problem->replica_first[expert];
    uint32_t count = problem->replica_first[expert + 1] - first;
    uint32_t *flow = run->scratch->flow + first, *arrivals = run->answer->arrivals;
    struct crowd crowd = {.nodes = problem->replica_node + first,
                          .count = count,
                          .taken = arrivals,
                          .market = run->scratch->market[expert]};
    uint64_t room = 0;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t limit = smoe_route_limit(run, crowd.nodes[k]), has = arrivals[crowd.nodes[k]];
        room += limit > has ? limit - has : 0;
    }
    if (load == 0)
        memset(flow, 0, count * sizeof *flow);
    else if (room < load)
        overflow(run, &crowd, flow, load);
    else if (count == 1)
        flow[0] = load;
    else
        share_out(run, &crowd, flow, load, run->scratch->expert_price[expert]);
    for (uint32_t k = 0; k < count; k++)
        arrivals[crowd.nodes[k]] += flow[k];
}

static void lift(struct smoe_route_run *run, uint32_t expert)
{
    const struct smoe_route_problem *problem = run->problem;
    for (uint32_t r = problem->replica_first[expert]; r < problem->replica_first[expert + 1]; r++)
        run->answer->arrivals[problem->replica_node[r]] -= run->scratch->flow[r];
}

/* Pours every expert once more, given where the others are: those with one replica have no choice and come
 * first. Markets that share no node need no second round. */
static void pour_round(struct smoe_route_run *run, bool mixed_only)
{
    const struct smoe_route_problem *problem = run->problem;
    const uint32_t *first = problem->replica_first;
    for (int choice = 0; choice < 2; choice++)
        for (uint32_t e = 0; e < problem->n_experts; e++) {
            if ((first[e + 1] - first[e] > 1) != choice || (mixed_only && run->scratch->apart[e]))
                continue;
            lift(run, e);
            pour(run, e, run->scratch->expert_load[e]);
        }
}

bool smoe_route_split(struct smoe_route_run *run)
{
    const struct smoe_route_problem *problem = run->problem;
    uint32_t n_replicas = problem->replica_first[problem->n_experts];
    bool fits = true;
    memset(run->answer->arrivals, 0, problem->n_nodes * sizeof *run->answer->arrivals);
    memset(run->scratch->flow, 0, n_replicas * sizeof *run->scratch->flow);
    pour_round(run, false);
    for (uint32_t round = 1; run->mixed && round < ROUNDS; round++)
        pour_round(run, true);
    for (uint32_t j = 0; j < problem->n_nodes; j++)
        fits &= run->answer->arrivals[j] <= problem->nodes[j].arrivals_max;
    return fits;
}
