/* SPDX-License-Identifier: Apache-2.0
 *
 * One idea carries the file: a node's slot is a sequence of single visits, and each has a price.
 *
 *     serve(d)  the (d+1)-th visit finished in the slot costs  a (3d^2 + 3d + 1) - V      MODEL.md (6)
 *     wait(n)   one more visit left standing costs             Q + n - D + 1/2  (mode X)  MODEL.md (12)
 *                                                              Q                (mode L)
 *
 * The best D for n arrivals serves as long as the next serve is no dearer than what it saves, and the
 * marginal of Phi is the cheaper of the two. Both prices only rise, so Phi is integer-convex, and
 * because they are compared directly this also holds for the rounded numbers: the closed form for D
 * (MODEL.md (13)) is only where the search for the integer starts. Any convex energy will do: a measured
 * power curve (cost_power.h) takes the place of the cube in serve, and D is found by halving.
 */
#include "daemon/core/cost.h"

#include <math.h> /* floor and sqrt only: both are exact or correctly rounded everywhere */
#include <stdbool.h>

/* MODEL.md (6): price of finishing one more visit after d. */
static double serve_price(const struct smoe_node *node, double d)
{
    if (node->power)
        return node->energy_price * smoe_power_step(node->power, node->visit_hz, d) - node->penalty;
    return node->energy_price * (3 * d * d + 3 * d + 1) - node->penalty;
}

/* Price of the energy of D visits, MODEL.md (4) or (4'). */
static double energy_cost(const struct smoe_node *node, double d)
{
    if (node->power)
        return node->energy_price *
               (smoe_power_at(node->power, d * node->visit_hz) - node->power->watts[0]);
    return node->energy_price * d * d * d;
}

/* Most visits that can be finished when n arrive. */
static double serve_limit(const struct smoe_node *node, double n)
{
    double runnable = floor(node->executable) + n;
    return runnable < node->service_max ? runnable : node->service_max;
}

/* MODEL.md (13): the real minimiser of the drift form, or of the linear bound (14). */
static double served_real(const struct smoe_node *node, enum smoe_cost_mode mode, double n)
{
    double a = node->energy_price;
    if (mode == SMOE_COST_EXACT) {
        double r = node->backlog + n + node->penalty;
        return 2 * r / (1 + sqrt(1 + 12 * a * r));
    }
    return sqrt((node->backlog + node->penalty) / (3 * a)); /* +inf where energy is free */
}

/* What finishing the (d+1)-th of Q + n visits saves in drift. */
static double serve_saving(const struct smoe_node *node, enum smoe_cost_mode mode, double n,
                           double d)
{
    return mode == SMOE_COST_EXACT ? node->backlog + n - d - 0.5 : node->backlog;
}

/* Along a measured curve there is no closed form: halves. Serving ever more gets dearer and saves less. */
static double served_by_halves(const struct smoe_node *node, enum smoe_cost_mode mode, double n,
                               double limit)
{
    double low = 0, high = limit + 1; /* `low` visits pay, `high` do not */
    while (high - low > 1) {
        double d = floor(low + (high - low) / 2);
        if (serve_price(node, d - 1) <= serve_saving(node, mode, n, d - 1))
            low = d;
        else
            high = d;
    }
    return low;
}

/* The minimising integer D; of equals the largest. The loops correct the rounding of the closed form:
 * one or two steps. */
static double served_best(const struct smoe_node *node, enum smoe_cost_mode mode, double n)
{
    double limit = serve_limit(node, n);
    if (node->power)
        return served_by_halves(node, mode, n, limit);
    if (limit > 0 && serve_price(node, limit - 1) <= serve_saving(node, mode, n, limit - 1))
        return limit; /* if the last one pays they all do */
    double d = floor(served_real(node, mode, n));
    if (!(d < limit))
        d = limit;
    while (d < limit && serve_price(node, d) <= serve_saving(node, mode, n, d))
        d++;
    while (d > 0 && serve_price(node, d - 1) > serve_saving(node, mode, n, d - 1))
        d--;
    return d;
}

double smoe_cost(const struct smoe_node *node, enum smoe_cost_mode mode, double n,
                 double *ret_served)
{
    double d = served_best(node, mode, n);
    double grown = n - d;                                                        /* Q' - Q */
    double drift = mode == SMOE_COST_EXACT ? grown * (node->backlog + grown / 2) /* MODEL.md (10) */
                                           : grown * node->backlog;              /* MODEL.md (11) */
    if (ret_served)
        *ret_served = d;
    return drift - node->penalty * d + energy_cost(node, d);
}

double smoe_cost_marginal(const struct smoe_node *node, enum smoe_cost_mode mode, uint32_t n)
{
    if (n >= node->arrivals_max)
        return (double)INFINITY;
    double d = served_best(node, mode, n);
    double wait = node->backlog;
    if (mode == SMOE_COST_EXACT)
        wait += n - d + 0.5;
    if (d + 1 > serve_limit(node, (double)n + 1))
        return wait;
    double serve = serve_price(node, d);
    return serve < wait ? serve : wait; /* MODEL.md (12) */
}

/* How many visits could be finished at no more than `price` each, were they all there. */
static double serves_within(const struct smoe_node *node, double price)
{
    if (node->power) { /* serving is a saving of `price` at every d */
        double low = 0, high = node->service_max + 1;
        while (high - low > 1) {
            double d = floor(low + (high - low) / 2);
            if (serve_price(node, d - 1) <= price)
                low = d;
            else
                high = d;
        }
        return low;
    }
    double a = node->energy_price;
    double budget = price + node->penalty - a;
    if (budget < 0)
        return 0;
    /* 3 a d (d + 1) <= budget, solved for d without cancellation; infinite where energy is free */
    double x = budget / (3 * a);
    double d = a > 0 ? 1 + floor(2 * x / (1 + sqrt(1 + 4 * x))) : (double)INFINITY;
    return d < node->service_max ? d : node->service_max;
}

/* A guess of the supply, at most a few visits off; exact where nothing is rounded. */
static double supply_guess(const struct smoe_node *node, enum smoe_cost_mode mode, double price)
{
    double served = serves_within(node, price);
    if (mode == SMOE_COST_LINEAR)
        return price >= node->backlog ? (double)INFINITY : served - floor(node->executable);
    double standing = price + 0.5 > 0 ? floor(price + 0.5) : 0;
    return floor(served + standing - node->backlog);
}

/* Is the n-th visit no dearer than the price? There is always room for none. */
static bool within(const struct smoe_node *node, enum smoe_cost_mode mode, double price, uint64_t n)
{
    return n == 0 || smoe_cost_marginal(node, mode, (uint32_t)(n - 1)) <= price;
}

uint32_t smoe_cost_supply(const struct smoe_node *node, enum smoe_cost_mode mode, double price,
                          uint32_t limit)
{
    if (limit > node->arrivals_max)
        limit = node->arrivals_max;
    double guess = supply_guess(node, mode, price);
    uint64_t n = !(guess > 0) ? 0 : guess < limit ? (uint64_t)guess : limit;

    /* Invariant: the low-th visit is within the price, the high-th is not. Gallop away from the guess,
     * then halve what is left. */
    uint64_t low = 0, high = (uint64_t)limit + 1, step = 1;
    if (within(node, mode, price, n)) {
        for (low = n; high - low > step && within(node, mode, price, low + step); step *= 2)
            low += step;
        if (high - low > step)
            high = low + step;
    } else {
        for (high = n; high - low > step && !within(node, mode, price, high - step); step *= 2)
            high -= step;
        if (high - low > step)
            low = high - step;
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (within(node, mode, price, middle))
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}
