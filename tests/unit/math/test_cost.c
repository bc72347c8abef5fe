/* SPDX-License-Identifier: Apache-2.0
 *
 * The node cost against its definition: minimum over every D, written out plainly.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"
#include "daemon/core/cost.h"

static const enum smoe_cost_mode MODES[] = {SMOE_COST_EXACT, SMOE_COST_LINEAR};

static double log_uniform(struct smoe_rng *rng, double low, double high)
{
    return low * exp(smoe_rng_unit(rng) * log(high / low));
}

/* Measured points as they come: rising in frequency, with noise, not convex. */
static struct smoe_power_curve random_curve(struct smoe_rng *rng)
{
    struct smoe_power_curve curve;
    double hz[SMOE_POWER_POINTS_MAX], watts[SMOE_POWER_POINTS_MAX], top = 0;
    uint32_t n = 1 + (uint32_t)smoe_rng_below(rng, 12);
    double idle = smoe_rng_below(rng, 2) ? 5 * smoe_rng_unit(rng) : 0;
    for (uint32_t k = 0; k < n; k++) {
        hz[k] = top += 1e6 + 5e8 * smoe_rng_unit(rng);
        watts[k] = idle + 2e-27 * top * top * top * (0.7 + 0.6 * smoe_rng_unit(rng));
    }
    cr_assert(smoe_power_hull(idle, hz, watts, n, &curve));
    return curve;
}

/* Nodes of every kind: idle and drowning, free and dear energy by the cube or by a measured curve, dead
 * slow, with owed backward shares. The curve is the caller's until the next call. */
static struct smoe_node random_node(struct smoe_rng *rng)
{
    static struct smoe_power_curve curve;
    struct smoe_node node = {.arrivals_max = UINT32_MAX};
    if (smoe_rng_below(rng, 4))
        node.backlog = log_uniform(rng, 0.1, 3000);
    if (smoe_rng_below(rng, 2))
        node.backlog = floor(node.backlog);
    node.executable = smoe_rng_below(rng, 2) ? node.backlog : node.backlog * smoe_rng_unit(rng);
    node.penalty = log_uniform(rng, 0.01, 1000);
    if (smoe_rng_below(rng, 3))
        node.energy_price = log_uniform(rng, 1e-9, 10);
    if (smoe_rng_below(rng, 8))
        node.service_max = floor(log_uniform(rng, 1, 2000));
    if (smoe_rng_below(rng, 3) == 0) {
        curve = random_curve(rng);
        node.power = &curve;
        node.energy_price *= 1e3;
        /* the last visit may be a rounding beyond the fastest state */
        node.visit_hz = curve.hz[curve.n - 1] / (node.service_max + 1e-9);
    }
    return node;
}

static double definition(const struct smoe_node *node, enum smoe_cost_mode mode, double n, double d)
{
    double q = node->backlog;
    double energy = node->energy_price * d * d * d;
    if (node->power)
        energy = node->energy_price *
                 (smoe_power_at(node->power, d * node->visit_hz) - node->power->watts[0]);
    if (mode == SMOE_COST_LINEAR)
        return q * n - ((q + node->penalty) * d - energy);
    return ((q + n - d) * (q + n - d) - q * q) / 2 - node->penalty * d + energy;
}

static double brute_force(const struct smoe_node *node, enum smoe_cost_mode mode, double n)
{
    double best = (double)INFINITY;
    for (double d = 0; d <= fmin(node->executable + n, node->service_max); d++)
        best = fmin(best, definition(node, mode, n, d));
    return best;
}

Test(cost, phi_equals_the_minimum_over_every_served_count)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 11, 0);
    for (int round = 0; round < 4000; round++) {
        struct smoe_node node = random_node(&rng);
        enum smoe_cost_mode mode = MODES[round % 2];
        double n = (double)smoe_rng_below(&rng, round % 3 ? 20 : 2000);
        double served;
        double phi = smoe_cost(&node, mode, n, &served);
        double want = brute_force(&node, mode, n);
        double scale = 1 + fabs(want) + node.backlog * node.backlog;
        cr_assert_float_eq(phi, want, 1e-12 * scale, "round %d: %.17g, not %.17g", round, phi,
                           want);
        cr_assert_float_eq(definition(&node, mode, n, served), phi, 1e-12 * scale);
        cr_assert(served == floor(served) && served >= 0);
        cr_assert(served <= node.service_max && served <= node.executable + n);
    }
}

Test(cost, the_marginal_is_the_difference_of_two_costs)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 12, 0);
    for (int round = 0; round < 20000; round++) {
        struct smoe_node node = random_node(&rng);
        enum smoe_cost_mode mode = MODES[round % 2];
        uint32_t n = (uint32_t)smoe_rng_below(&rng, 500);
        double low = smoe_cost(&node, mode, n, NULL);
        double high = smoe_cost(&node, mode, n + 1, NULL);
        double marginal = smoe_cost_marginal(&node, mode, n);
        double scale = 1 + fabs(low) + fabs(high) + node.backlog * node.backlog;
        cr_assert_float_eq(marginal, high - low, 1e-12 * scale, "round %d", round);
    }
}

/* Integer convexity without any tolerance: the solver's water-fill and its proof stand on it. */
Test(cost, marginals_never_fall)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 13, 0);
    for (int round = 0; round < 2000; round++) {
        struct smoe_node node = random_node(&rng);
        enum smoe_cost_mode mode = MODES[round % 2];
        double last = -(double)INFINITY;
        for (uint32_t n = 0; n < 800; n++) {
            double marginal = smoe_cost_marginal(&node, mode, n);
            cr_assert_geq(marginal, last, "round %d: falls at %u", round, n);
            last = marginal;
        }
    }
}

Test(cost, a_long_queue_does_not_blur_the_price_of_the_next_visit)
{
    struct smoe_node node = {.backlog = 1e9,
                             .executable = 1e9,
                             .penalty = 50,
                             .energy_price = 1e-3,
                             .service_max = 100,
                             .arrivals_max = UINT32_MAX};
    for (uint32_t n = 0; n < 1000; n++) /* 100 are served, the others wait */
        cr_assert_eq(smoe_cost_marginal(&node, SMOE_COST_EXACT, n), 1e9 + n - 100 + 0.5);
}

Test(cost, supply_is_the_inverse_of_the_marginal)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 14, 0);
    for (int round = 0; round < 20000; round++) {
        struct smoe_node node = random_node(&rng);
        enum smoe_cost_mode mode = MODES[round % 2];
        uint32_t limit = (uint32_t)smoe_rng_below(&rng, 3000);
        if (smoe_rng_below(&rng, 3) == 0)
            node.arrivals_max = (uint32_t)smoe_rng_below(&rng, 100);
        double price = smoe_cost_marginal(&node, mode, (uint32_t)smoe_rng_below(&rng, 2000));
        if (smoe_rng_below(&rng, 2) || isinf(price))
            price = (smoe_rng_unit(&rng) - 0.3) * 2 * (node.penalty + node.backlog + 100);
        uint32_t n = smoe_cost_supply(&node, mode, price, limit);
        cr_assert_leq(n, limit);
        cr_assert_leq(n, node.arrivals_max);
        if (n > 0)
            cr_assert_leq(smoe_cost_marginal(&node, mode, n - 1), price, "round %d", round);
        if (n < limit)
            cr_assert_gt(smoe_cost_marginal(&node, mode, n), price, "round %d", round);
    }
}

Test(cost, the_cap_is_where_the_price_becomes_infinite)
{
    struct smoe_node node = {.penalty = 1, .service_max = 100, .arrivals_max = 3};
    cr_assert_eq(smoe_cost_marginal(&node, SMOE_COST_EXACT, 2), -1.0);
    cr_assert_eq(smoe_cost_marginal(&node, SMOE_COST_EXACT, 3), (double)INFINITY);
    cr_assert_eq(smoe_cost_supply(&node, SMOE_COST_EXACT, 1e300, UINT32_MAX), 3);
    node.arrivals_max = 0;
    cr_assert_eq(smoe_cost_marginal(&node, SMOE_COST_EXACT, 0), (double)INFINITY);
    cr_assert_eq(smoe_cost_supply(&node, SMOE_COST_EXACT, 1e300, UINT32_MAX), 0);
    node.arrivals_max = UINT32_MAX;
    cr_assert_eq(smoe_cost_supply(&node, SMOE_COST_LINEAR, 0, UINT32_MAX), UINT32_MAX);
}

/* Two phases: of Q = 10 visit equivalents only 2.5 can run, the rest is owed to gradients to come. */
Test(cost, owed_backward_shares_are_priced_but_not_served)
{
    struct smoe_node node = {.backlog = 10,
                             .executable = 2.5,
                             .penalty = 5,
                             .service_max = 100,
                             .arrivals_max = UINT32_MAX};
    double served;
    smoe_cost(&node, SMOE_COST_EXACT, 4, &served);
    cr_assert_eq(served, 6);                                           /* floor(2.5) + 4 */
    cr_assert_eq(smoe_cost_marginal(&node, SMOE_COST_EXACT, 4), -5.0); /* runs at once: no drift */
}
