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
