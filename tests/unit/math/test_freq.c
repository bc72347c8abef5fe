/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"
#include "daemon/core/cost.h"
#include "daemon/core/freq.h"

/* Node 0 of the paper's scenario (MODEL.md section 6). */
static const struct smoe_freq_node PAPER = {.cycles_per_visit = 1e7,
                                            .freq_max_hz = 3e9,
                                            .kappa = 2e-27,
                                            .energy_max_w = 3,
                                            .energy_mean_w = 1.5};

Test(freq, the_ceiling_is_fmax_or_what_the_power_cap_allows)
{
    struct smoe_freq_node node = PAPER;
    double f = smoe_freq_ceiling(&node);
    cr_assert_float_eq(node.kappa * f * f * f, 3, 1e-12);
    node.energy_max_w = 1000;
    cr_assert_eq(smoe_freq_ceiling(&node), 3e9);
    node.energy_max_w = (double)INFINITY;
    cr_assert_eq(smoe_freq_ceiling(&node), 3e9);
    node.kappa = 0; /* energy has no model: nothing but fmax limits */
    node.energy_max_w = 1;
    cr_assert_eq(smoe_freq_ceiling(&node), 3e9);
}

Test(freq, the_sustainable_rate_spends_exactly_the_mean_budget)
{
    double rate = smoe_freq_sustainable_rate(&PAPER);
    double f = rate * PAPER.cycles_per_visit;
    cr_assert_float_eq(smoe_freq_energy(&PAPER, f, 1), PAPER.energy_mean_w, 1e-12);
}

Test(freq, fractions_of_a_visit_are_carried_and_never_lost)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 21, 0);
    for (int round = 0; round < 200; round++) {
        struct smoe_freq_node node = PAPER;
        node.cycles_per_visit =
            1e6 * exp(smoe_rng_unit(&rng) * 12); /* up to 1.6e11: minutes a visit */
        double carry = 0, whole = 0, real = 0;
        for (int slot = 0; slot < 500; slot++) {
            double tau = 0.02 * (0.1 + smoe_rng_unit(&rng));
            double visits = smoe_freq_service_max(&node, tau, &carry);
            cr_assert(visits == floor(visits) && visits >= 0);
            cr_assert(carry >= -1e-9 && carry < 1);
            whole += visits;
            real += tau * smoe_freq_ceiling(&node) / node.cycles_per_visit;
            cr_assert_float_eq(whole + carry, real, 1e-9 * (1 + real));
        }
    }
}

Test(freq, a_node_too_slow_for_one_visit_a_slot_still_serves_in_the_long_run)
{
    struct smoe_freq_node node = PAPER;
    node.cycles_per_visit = smoe_freq_ceiling(&node) / 7; /* 7 visits a second */
    double carry = 0, visits = 0;
    for (int slot = 0; slot < 500; slot++)
        visits += smoe_freq_service_max(&node, 0.02, &carry);
    cr_assert_eq(visits, 70);
}

/* E = kappa f^3 busy with f = c D / tau and busy = tau must be the a D^3 that the node cost prices,
 * over zeta Z. */
Test(freq, the_energy_of_a_decision_is_what_the_cost_priced)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 22, 0);
    for (int round = 0; round < 2000; round++) {
        double tau = 0.01 + smoe_rng_unit(&rng), debt = 1e-3 + 30 * smoe_rng_unit(&rng), carry = 0;
        double price = smoe_freq_energy_price(&PAPER, debt, tau);
        struct smoe_node node = {.backlog = floor(300 * smoe_rng_unit(&rng)),
                                 .penalty = 50,
                                 .energy_price = price,
                                 .service_max = smoe_freq_service_max(&PAPER, tau, &carry),
                                 .arrivals_max = UINT32_MAX};
        node.executable = node.backlog;
        double served;
        smoe_cost(&node, SMOE_COST_EXACT, 20, &served);
        double f = smoe_freq_decide(&PAPER, served, tau, price);
        cr_assert_float_eq(f, PAPER.cycles_per_visit * served / tau, 1e-6 * f + 1e-6);
        cr_assert_leq(f, smoe_freq_ceiling(&PAPER));
        double joules = smoe_freq_energy(&PAPER, f, tau);
        double zeta = pow(smoe_freq_sustainable_rate(&PAPER) / PAPER.energy_mean_w, 2);
        cr_assert_float_eq(zeta * debt * joules, price * served * served * served,
                           1e-9 * (1 + zeta * debt * joules));
        cr_assert_leq(joules, PAPER.energy_max_w * tau * (1 + 1e-12));
    }
}

Test(freq, energy_without_debt_budget_or_model_has_no_price_and_runs_at_the_ceiling)
{
    struct smoe_freq_node node = PAPER;
    cr_assert_eq(smoe_freq_energy_price(&node, 0, 1), 0.0);
    cr_assert_gt(smoe_freq_energy_price(&node, 1, 1), 0.0);
    node.energy_mean_w = (double)INFINITY;
    cr_assert_eq(smoe_freq_energy_price(&node, 1, 1), 0.0);
    node = PAPER;
    node.kappa = 0;
    cr_assert_eq(smoe_freq_energy_price(&node, 1, 1), 0.0);
    cr_assert_eq(smoe_freq_decide(&PAPER, 5, 1, 0), smoe_freq_ceiling(&PAPER));
    cr_assert_eq(smoe_freq_decide(&PAPER, 5, 1, 1e-9), 5e7);
    cr_assert_eq(smoe_freq_decide(&PAPER, 0, 1, 1e-9), 0.0);
}

Test(freq, debt_grows_by_overspending_and_never_becomes_credit)
{
    cr_assert_eq(smoe_freq_debt(2, 5, 1.5, 2), 4.0);
    cr_assert_eq(smoe_freq_debt(2, 0.5, 1.5, 2), 0.0);
    cr_assert_eq(smoe_freq_debt(2, 5, (double)INFINITY, 2), 0.0);
}

Test(freq, the_horizon_is_the_time_all_nodes_need_together)
{
    cr_assert_float_eq(smoe_freq_horizon(0.02, 512, 2e5), 2.56e-3, 1e-15);
    cr_assert_eq(smoe_freq_horizon(0.02, 1e6, 2e5), 0.02);
    cr_assert_eq(smoe_freq_horizon(0.02, 512, 0), 0.02);
    cr_assert_eq(smoe_freq_horizon(0.02, 0, 2e5), 0.02);
}

/* A tau made of the work itself must offer exactly that work, whatever the rounding. */
Test(freq, the_horizon_loses_no_visit_to_rounding)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 23, 0);
    for (int round = 0; round < 100000; round++) {
        struct smoe_freq_node node = {.cycles_per_visit = 1e3 + 1e7 * smoe_rng_unit(&rng),
                                      .freq_max_hz = 1e8 + 3e9 * smoe_rng_unit(&rng),
                                      .energy_max_w = (double)INFINITY,
                                      .energy_mean_w = (double)INFINITY};
        double work = (double)(1 + smoe_rng_below(&rng, 100000)), carry = 0;
        double tau = smoe_freq_horizon(1e9, work, smoe_freq_ceiling(&node) / node.cycles_per_visit);
        cr_assert_eq(smoe_freq_service_max(&node, tau, &carry), work);
    }
}

/* --- a machine's own curve ---------------------------------------------------------------------- */

static const double HZ[] = {0.6e9, 1.2e9, 1.8e9, 2.4e9};
static const double WATTS[] = {2, 3, 5, 10};

static struct smoe_power_curve hull_of(double idle, const double *hz, const double *watts,
                                       uint32_t n)
{
    struct smoe_power_curve curve;
    cr_assert(smoe_power_hull(idle, hz, watts, n, &curve));
    return curve;
}

Test(freq, the_hull_goes_through_or_below_every_point_and_is_convex)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 24, 0);
    for (int round = 0; round < 5000; round++) {
        double hz[31], watts[31], top = 0;
        uint32_t n = 1 + (uint32_t)smoe_rng_below(&rng, 31);
        for (uint32_t k = 0; k < n; k++) {
            hz[k] = top += 1e6 + 1e8 * smoe_rng_unit(&rng);
            watts[k] = 1 + 30 * smoe_rng_unit(&rng) * (round % 2 ? 1 : k);
        }
        struct smoe_power_curve curve = hull_of(1, hz, watts, n);
        cr_assert_eq(curve.hz[0], 0.0);
        cr_assert_eq(curve.watts[0], 1.0);
        cr_assert_eq(curve.hz[curve.n - 1], hz[n - 1]);
        for (uint32_t k = 0; k + 2 < curve.n; k++)
            cr_assert_leq(curve.slope[k], curve.slope[k + 1]);
        double highest = 1;
        for (uint32_t k = 0; k < n; k++) {
            highest = fmax(highest, watts[k]);
            cr_assert_leq(smoe_power_at(&curve, hz[k]), highest * (1 + 1e-12));
        }
        double budget = 1 + 40 * smoe_rng_unit(&rng), f = smoe_power_frequency(&curve, budget);
        cr_assert(f == hz[n - 1] || fabs(smoe_power_at(&curve, f) - budget) < 1e-9 * budget);
    }
}

Test(freq, points_that_cannot_be_are_refused)
{
    struct smoe_power_curve curve;
    double falling[] = {2e9, 1e9}, odd[] = {1, (double)NAN}, negative[] = {-1, 2};
    cr_assert_not(smoe_power_hull(1, falling, WATTS, 2, &curve));
    cr_assert_not(smoe_power_hull(1, HZ, odd, 2, &curve));
    cr_assert_not(smoe_power_hull(1, HZ, negative, 2, &curve));
    cr_assert_not(smoe_power_hull(-1, HZ, WATTS, 4, &curve));
    cr_assert_not(smoe_power_hull(1, HZ, WATTS, 0, &curve));
    cr_assert_not(smoe_power_hull(1, HZ, WATTS, SMOE_POWER_POINTS_MAX, &curve));
}

Test(freq, a_table_of_states_decides_between_them_and_spends_what_it_says)
{
    struct smoe_power_curve curve = hull_of(1.5, HZ, WATTS, 4);
    struct smoe_freq_node node = {.cycles_per_visit = 1e7,
                                  .freq_max_hz = 2.4e9,
                                  .power = &curve,
                                  .energy_max_w = 5,
                                  .energy_mean_w = 3};
    cr_assert_eq(smoe_freq_ceiling(&node), 1.8e9);
    cr_assert_float_eq(smoe_freq_sustainable_rate(&node), 120, 1e-9);
    double low, high;
    cr_assert_eq(smoe_freq_decide(&node, 61, 1, 1), 0.61e9); /* no state: two share the time */
    smoe_power_states(&curve, 0.61e9, &low, &high);
    cr_assert_eq(low, 0.6e9);
    cr_assert_eq(high, 1.2e9);
    smoe_power_states(&curve, 0.6e9, &low, &high);
    cr_assert(low == 0.6e9 && high == 0.6e9);
    smoe_power_states(&curve, 0.1e9, &low, &high);
    cr_assert(low == 0.6e9 && high == 0.6e9, "nothing is slower");
    smoe_power_states(&curve, 9e9, &low, &high);
    cr_assert(low == curve.hz[curve.n - 1] && high == low, "nor faster");
    cr_assert_eq(smoe_freq_decide(&node, 61, 1, 0), 1.8e9); /* energy is free: as fast as allowed */
    cr_assert_eq(smoe_freq_energy(&node, 1.8e9, 2), 10.0);
    node.energy_mean_w = 1; /* less than it draws idle: whatever it does has a price */
    cr_assert_eq(smoe_freq_sustainable_rate(&node), 0.0);
    cr_assert_gt(smoe_freq_energy_price(&node, 1, 1), 0.0);
}

/* The cube, sampled finely, is the cube: the same decisions and nearly the same prices. */
Test(freq, a_fine_hull_of_the_cube_prices_as_the_cube)
{
    double hz[31], watts[31];
    for (int k = 0; k < 31; k++) {
        hz[k] = 3e9 * (k + 1) / 31;
        watts[k] = PAPER.kappa * hz[k] * hz[k] * hz[k];
    }
    struct smoe_power_curve curve = hull_of(0, hz, watts, 31);
    struct smoe_freq_node measured = PAPER;
    measured.power = &curve;
    double carry = 0, other = 0;
    struct smoe_node cube = {.backlog = 80,
                             .executable = 80,
                             .penalty = 50,
                             .energy_price = smoe_freq_energy_price(&PAPER, 2, 1),
                             .service_max = smoe_freq_service_max(&PAPER, 1, &carry),
                             .arrivals_max = UINT32_MAX};
    struct smoe_node hull = cube;
    hull.energy_price = smoe_freq_energy_price(&measured, 2, 1);
    hull.power = &curve;
    hull.visit_hz = PAPER.cycles_per_visit;
    cr_assert_float_eq(smoe_freq_service_max(&measured, 1, &other), cube.service_max, 1);
    for (uint32_t n = 0; n < 200; n++) {
        double a = smoe_cost_marginal(&cube, SMOE_COST_EXACT, n);
        double b = smoe_cost_marginal(&hull, SMOE_COST_EXACT, n);
        cr_assert_float_eq(a, b, 0.12 * (fabs(a) + 50), "%u: %g, %g", n, a, b);
    }
}

Test(freq, a_debt_that_no_queue_of_five_slots_explains_restrains_a_node_to_its_budget_and_below)
{
    /* 8 W at 1 GHz, 1 W on average: 500 MHz, 50 visits a slot of 0.1 s, E = 0.1 J; Z_B = 0.1 (50 + 250) / 150 */
    struct smoe_freq_node node = {1e6, 1e9, 8e-27, NULL, 6, 1};
    const double explained = 0.1 * (50 + 250) / 150;
    cr_assert_eq(smoe_freq_restraint(&node, 0, 0.1, 50), 6);
    cr_assert_eq(smoe_freq_restraint(&node, explained * 0.999, 0.1, 50), 6);
    cr_assert_float_eq(smoe_freq_restraint(&node, explained * 1.001, 0.1, 50), 1, 1e-3);
    cr_assert_float_eq(smoe_freq_restraint(&node, explained + 0.25, 0.1, 50), 0.5, 1e-9);
    cr_assert_float_eq(smoe_freq_restraint(&node, explained + 9, 0.1, 50), 0.1, 1e-9);
    node.energy_max_w = 0.7; /* a cap below is kept */
    cr_assert_eq(smoe_freq_restraint(&node, explained * 1.001, 0.1, 50), 0.7);
    node.energy_mean_w = (double)INFINITY;
    cr_assert_eq(smoe_freq_restraint(&node, 9, 0.1, 50), 0.7);
}
