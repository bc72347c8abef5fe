/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/estimate.h"

#define PRIOR 0.125

/* A machine that costs `truth` a unit of work, measured with a relative noise; now and then a measurement
 * is `wild` times or a `wild`th of what it should be. */
struct machine {
    struct smoe_rng rng;
    double truth, noise, wild, wild_share;
};

static struct machine machine_of(uint64_t seed, double truth)
{
    struct machine m = {.truth = truth, .noise = 0.1, .wild = 20};
    smoe_rng_init(&m.rng, seed, 0);
    return m;
}

static double measured(struct machine *m, double exact)
{
    double y = exact * fmax(0.01, 1 + m->noise * smoe_rng_normal(&m->rng));
    if (smoe_rng_unit(&m->rng) >= m->wild_share)
        return y;
    return smoe_rng_unit(&m->rng) < 0.5 ? y * m->wild : y / m->wild;
}

static struct smoe_estimate one_term(void)
{
    struct smoe_estimate e;
    struct smoe_estimate_term t = {PRIOR, 3 * PRIOR, 1e-9, 1e9};
    smoe_estimate_init(&e, &t, 1);
    return e;
}

static void work(struct smoe_estimate *e, struct machine *m, int n)
{
    for (int i = 0; i < n; i++) {
        double u = 1e5 * (1 + smoe_rng_unit(&m->rng));
        smoe_estimate_observe(e, &u, measured(m, u * m->truth), 1);
    }
}

static double off(const struct smoe_estimate *e, uint32_t term, double truth)
{
    return fabs(e->value[term] / truth - 1);
}

/* ---- one coefficient ---- */

Test(estimate, it_begins_as_its_prior_and_as_unsure)
{
    struct smoe_estimate e = one_term();
    cr_assert_eq(e.value[0], PRIOR);
    cr_assert_float_eq(smoe_estimate_error(&e, 0), 3 * PRIOR, 1e-12);
}

Test(estimate, a_prior_wrong_by_four_times_is_within_five_percent_after_200_observations)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct machine m = machine_of(seed, seed % 2 ? PRIOR * 4 : PRIOR / 4);
        struct smoe_estimate e = one_term();
        work(&e, &m, 200);
        cr_assert_lt(off(&e, 0, m.truth), 0.05, "seed %d: %g of %g", (int)seed, e.value[0],
                     m.truth);
        cr_assert_eq(e.restarts, 0);
    }
}

Test(estimate, the_first_observation_says_more_than_the_prior)
{
    double u = 1e5;
    struct smoe_estimate e = one_term();
    cr_assert_eq(smoe_estimate_observe(&e, &u, u * PRIOR * 4, 1), SMOE_ESTIMATE_TAKEN);
    cr_assert_lt(off(&e, 0, PRIOR * 4), 0.2);
    struct smoe_estimate f = one_term();
    cr_assert_eq(smoe_estimate_observe(&f, &u, u * PRIOR / 4, 1), SMOE_ESTIMATE_TAKEN);
    cr_assert_lt(off(&f, 0, PRIOR / 4), 0.2);
}

Test(estimate, a_prior_wrong_by_a_million_times_does_not_hold_it_up)
{
    for (int down = 0; down < 2; down++) {
        struct machine m = machine_of(1, down ? PRIOR / 1e6 : PRIOR * 1e6);
        struct smoe_estimate e = one_term();
        work(&e, &m, 1);
        cr_assert_lt(off(&e, 0, m.truth), 0.3, "%g of %g", e.value[0], m.truth);
        work(&e, &m, 19);
        cr_assert_lt(off(&e, 0, m.truth), 0.2, "%g of %g", e.value[0], m.truth);
    }
}

Test(estimate, one_observation_in_ten_may_be_wild)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct machine m = machine_of(seed, PRIOR * 4);
        struct smoe_estimate e = one_term();
        work(&e, &m, 50);
        m.wild_share = 0.1;
        uint64_t before = e.rejected;
        work(&e, &m, 300);
        cr_assert_lt(off(&e, 0, m.truth), 0.05, "seed %d: %g of %g", (int)seed, e.value[0],
                     m.truth);
        cr_assert_gt(e.rejected - before, 10);
        cr_assert_eq(e.restarts, 0);
    }
}

Test(estimate, a_single_outlier_changes_nothing_that_is_used)
{
    struct machine m = machine_of(3, PRIOR);
    struct smoe_estimate e = one_term();
    work(&e, &m, 100);
    double before = e.value[0], error = smoe_estimate_error(&e, 0), u = 1e5;
    cr_assert_eq(smoe_estimate_observe(&e, &u, u * PRIOR * 50, 1), SMOE_ESTIMATE_REJECTED);
    cr_assert_eq(e.value[0], before);
    cr_assert_lt(smoe_estimate_error(&e, 0), error * 1.1);
}

Test(estimate, a_machine_slowed_to_a_quarter_is_followed_in_ten_observations)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct machine m = machine_of(seed, PRIOR);
        struct smoe_estimate e = one_term();
        work(&e, &m, 300);
        m.truth *= seed % 2 ? 4 : 0.25;
        work(&e, &m, 10);
        cr_assert_lt(off(&e, 0, m.truth), 0.15, "seed %d: %g of %g", (int)seed, e.value[0],
                     m.truth);
        cr_assert_eq(e.restarts, 1);
        work(&e, &m, 190);
        cr_assert_lt(off(&e, 0, m.truth), 0.05, "seed %d: %g of %g", (int)seed, e.value[0],
                     m.truth);
        cr_assert_eq(e.restarts, 1);
    }
}

Test(estimate, a_change_with_wild_measurements_in_it_is_followed_too)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct machine m = machine_of(seed, PRIOR);
        struct smoe_estimate e = one_term();
        work(&e, &m, 100);
        m.truth *= 4;
        m.wild_share = 0.1;
        work(&e, &m, 200);
        cr_assert_lt(off(&e, 0, m.truth), 0.06, "seed %d: %g of %g", (int)seed, e.value[0],
                     m.truth);
    }
}

Test(estimate, a_slow_drift_is_followed_without_a_restart)
{
    struct machine m = machine_of(9, PRIOR);
    struct smoe_estimate e = one_term();
    work(&e, &m, 100);
    for (int i = 0; i < 1000; i++) {
        m.truth *= 1.001;
        work(&e, &m, 1);
    }
    cr_assert_lt(off(&e, 0, m.truth), 0.15, "%g of %g", e.value[0], m.truth);
    cr_assert_eq(e.restarts, 0);
}

Test(estimate, noise_that_grows_is_noticed_and_not_rejected_for_ever)
{
    struct machine m = machine_of(5, PRIOR);
    struct smoe_estimate e = one_term();
    m.noise = 0.01;
    work(&e, &m, 200);
    double sure = smoe_estimate_error(&e, 0);
    m.noise = 0.2;
    work(&e, &m, 500);
    uint64_t rejected = e.rejected;
    work(&e, &m, 200);
    cr_assert_lt(e.rejected - rejected, 10);
    cr_assert_gt(smoe_estimate_error(&e, 0), 5 * sure);
    cr_assert_lt(off(&e, 0, m.truth), 0.08);
}

/* The error that is told is the error that is made: over many machines, a share near that of a normal
 * distribution lies within two of them. */
Test(estimate, its_standard_error_is_honest)
{
    int within = 0, total = 1000;
    double errors = 0, squares = 0;
    for (int seed = 0; seed < total; seed++) {
        struct machine m = machine_of((uint64_t)seed, PRIOR * 2);
        struct smoe_estimate e = one_term();
        work(&e, &m, 60);
        double error = smoe_estimate_error(&e, 0), d = e.value[0] - m.truth;
        within += fabs(d) < 2 * error;
        errors += error / m.truth;
        squares += d * d / (m.truth * m.truth);
    }
    cr_assert_gt(within, total * 9 / 10, "%d of %d", within, total);
    double told = errors / total, made = sqrt(squares / total);
    cr_assert(told > 0.7 * made && told < 2 * made, "told %g made %g", told, made);
}

Test(estimate, observations_of_little_weight_say_little)
{
    struct machine m = machine_of(2, PRIOR);
    struct smoe_estimate light = one_term(), heavy = one_term();
    work(&light, &m, 100);
    heavy = light;
    double u = 1e5, y = u * PRIOR * 1.2;
    smoe_estimate_observe(&heavy, &u, y, 1);
    smoe_estimate_observe(&light, &u, y, 0.1);
    double by_heavy = off(&heavy, 0, PRIOR), by_light = off(&light, 0, PRIOR);
    cr_assert_lt(by_light, by_heavy);
}

/* ---- hostile ---- */

Test(estimate, what_cannot_be_learned_from_changes_nothing)
{
    struct smoe_estimate e = one_term(), before = e;
    const double bad[][3] = {{0, 1, 1},
                             {1, 0, 1},
                             {-1, 1, 1},
                             {1, -1, 1},
                             {(double)NAN, 1, 1},
                             {1, (double)NAN, 1},
                             {(double)INFINITY, 1, 1},
                             {1, (double)INFINITY, 1},
                             {1, 1, 0},
                             {1, 1, 1.01},
                             {1, 1, (double)NAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(smoe_estimate_observe(&e, &bad[i][0], bad[i][1], bad[i][2]),
                     SMOE_ESTIMATE_UNUSABLE, "%d", (int)i);
    cr_assert_eq(memcmp(&e, &before, sizeof e), 0);
}

Test(estimate, whatever_is_observed_it_stays_finite_and_within_its_bounds)
{
    struct smoe_rng rng;
    smoe_rng_init(&rng, 11, 0);
    for (uint32_t n = 1; n <= 2; n++) {
        struct smoe_estimate e;
        struct smoe_estimate_term t[2] = {{1, 2, 0.001, 1000}, {1e-27, 1e-27, 0, 1e-20}};
        smoe_estimate_init(&e, t, n);
        for (int i = 0; i < 200000; i++) {
            double u[2] = {smoe_rng_unit(&rng), 1e27 * smoe_rng_unit(&rng)};
            int kind = (int)smoe_rng_below(&rng, 8);
            double y = smoe_rng_unit(&rng) * (kind == 0 ? 1e12 : kind == 1 ? 1e-12 : 2);
            u[0] = kind == 2 ? 0 : kind == 3 ? u[0] * 1e9 : u[0];
            u[1] = kind == 4 ? 0 : u[1];
            smoe_estimate_observe(&e, u, y, 1 - smoe_rng_unit(&rng));
            for (uint32_t k = 0; k < n; k++) {
                cr_assert(e.value[k] >= t[k].low && e.value[k] <= t[k].high, "%d: %g", i,
                          e.value[k]);
                cr_assert(isfinite(smoe_estimate_error(&e, k)), "%d", i);
            }
        }
    }
}

/* ---- two coefficients: static and dynamic power ---- */

#define WATTS 2.0
#define KAPPA 2e-27

struct node {
    struct machine meter;
    double watts, kappa;
};

/* A slot: 20 ms, part of it busy at hz. */
static void meter(struct smoe_estimate *e, struct node *n, double hz, double busy)
{
    double slot_s = 0.02, u[2] = {slot_s, hz * hz * hz * busy * slot_s};
    smoe_estimate_observe(e, u, measured(&n->meter, n->watts * u[0] + n->kappa * u[1]), 1);
}

static struct smoe_estimate two_terms(double wrong_by)
{
    struct smoe_estimate e;
    struct smoe_estimate_term t[2] = {{WATTS * wrong_by, 3 * WATTS * wrong_by, 0, 1e6},
                                      {KAPPA * wrong_by, 3 * KAPPA * wrong_by, 1e-40, 1e-3}};
    smoe_estimate_init(&e, t, 2);
    return e;
}

static struct node node_of(uint64_t seed)
{
    return (struct node){machine_of(seed, 1), WATTS, KAPPA};
}

static void run(struct smoe_estimate *e, struct node *n, int slots)
{
    for (int i = 0; i < slots; i++)
        meter(e, n, 1e9 * (0.5 + smoe_rng_unit(&n->meter.rng)),
              0.2 + 0.8 * smoe_rng_unit(&n->meter.rng));
}

Test(estimate, static_and_dynamic_power_are_told_apart)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct node n = node_of(seed);
        struct smoe_estimate e = two_terms(seed % 2 ? 4 : 0.25);
        run(&e, &n, 200);
        cr_assert_lt(off(&e, 0, WATTS), 0.1, "seed %d: %g W", (int)seed, e.value[0]);
        cr_assert_lt(off(&e, 1, KAPPA), 0.1, "seed %d: %g", (int)seed, e.value[1]);
        cr_assert_lt(smoe_estimate_error(&e, 0), 0.05 * WATTS);
    }
}

Test(estimate, a_day_at_one_frequency_does_not_undo_what_was_known)
{
    struct node n = node_of(4);
    struct smoe_estimate e = two_terms(4);
    run(&e, &n, 300);
    double watts = e.value[0], kappa = e.value[1];
    for (int i = 0; i < 100000; i++)
        meter(&e, &n, 1e9, 1);
    cr_assert_lt(off(&e, 0, watts), 0.15, "%g W", e.value[0]);
    cr_assert_lt(off(&e, 1, kappa), 0.15, "%g", e.value[1]);
}

Test(estimate, a_node_without_static_power_is_found_to_have_none)
{
    struct node n = node_of(6);
    struct smoe_estimate e = two_terms(1);
    n.watts = 0;
    run(&e, &n, 400);
    cr_assert_lt(e.value[0], 0.05 * WATTS, "%g W", e.value[0]);
    cr_assert_lt(off(&e, 1, KAPPA), 0.05, "%g", e.value[1]);
}

Test(estimate, a_machine_that_draws_more_from_now_on_is_followed)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct node n = node_of(seed);
        struct smoe_estimate e = two_terms(1);
        run(&e, &n, 200);
        n.kappa *= 6; /* a fan died */
        n.watts *= 6;
        run(&e, &n, 200);
        cr_assert_lt(off(&e, 0, n.watts), 0.15, "seed %d: %g W", (int)seed, e.value[0]);
        cr_assert_lt(off(&e, 1, n.kappa), 0.15, "seed %d: %g", (int)seed, e.value[1]);
    }
}
