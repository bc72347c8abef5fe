/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"
#include "daemon/core/learning.h"

#define SLOT_S 0.02

/* A worker of one lane as it is, and what its reports would say of it. */
struct truth {
    struct smoe_rng rng;
    double cost[SMOE_PHASES]; /* [cycle/flop] */
    double share;             /* achieved of a frequency */
    double static_w, kappa;   /* cube */
    double top_hz, noise;
    uint32_t meter_every; /* reports between two movements of the meter */
    uint32_t reports;
    double kept_j; /* drawn, and not yet shown by the meter */
};

static struct truth truth_of(uint64_t seed)
{
    struct truth t = {.cost = {0.2, 0.3},
                      .share = 0.9,
                      .static_w = 1,
                      .kappa = 4e-27,
                      .top_hz = 1e9,
                      .noise = 0.1,
                      .meter_every = 1};
    smoe_rng_init(&t.rng, seed, 0);
    return t;
}

static double noisy(struct truth *t, double exact)
{
    return exact * fmax(0.01, 1 + t->noise * smoe_rng_normal(&t->rng));
}

/* A slot at hz, active for a part of it, a third of the work forward. */
static void slot(struct smoe_learned *l, struct truth *t, double hz, double active)
{
    double cycles = hz * t->share * active * SLOT_S;
    double busy_w = t->kappa * pow(hz * t->share, 3);
    struct smoe_observed o = {.cycles = {cycles / 3, cycles * 2 / 3},
                              .all_cycles = cycles,
                              .offered_cycles = noisy(t, hz * active * SLOT_S),
                              .wall_s = SLOT_S,
                              .hz = hz};
    for (int p = 0; p < SMOE_PHASES; p++)
        o.flops[p] = noisy(t, o.cycles[p] / t->cost[p]);
    t->kept_j += noisy(t, (t->static_w + busy_w * active) * SLOT_S);
    if (++t->reports % t->meter_every == 0) {
        o.joules = t->kept_j;
        t->kept_j = 0;
    }
    smoe_learned_observe(l, &o, t->top_hz);
}

static void run(struct smoe_learned *l, struct truth *t, int slots)
{
    for (int i = 0; i < slots; i++)
        slot(l, t, t->top_hz * (0.3 + 0.7 * smoe_rng_unit(&t->rng)),
             0.2 + 0.8 * smoe_rng_unit(&t->rng));
}

static struct smoe_learned learned_of(const struct truth *t, double wrong_by)
{
    struct smoe_learned l;
    struct smoe_priors p = {t->cost[0] * wrong_by,
                            (t->static_w + t->kappa * pow(t->top_hz, 3)) * wrong_by,
                            t->static_w * wrong_by};
    smoe_learned_init(&l, &p, SMOE_POWER_CUBE);
    return l;
}

#define NEAR(value, truth, tolerance)                                                   \
    cr_assert(fabs((value) / (truth)-1) < (tolerance), "%s: %g of %g, seed %d", #value, \
              (double)(value), (double)(truth), (int)seed)

Test(learning, priors_wrong_by_four_times_are_within_five_percent_after_200_slots)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct truth t = truth_of(seed);
        struct smoe_learned l = learned_of(&t, seed % 2 ? 4 : 0.25);
        double error;
        run(&l, &t, 200);
        NEAR(smoe_learned_cost(&l, SMOE_FORWARD)->value[0], t.cost[SMOE_FORWARD], 0.05);
        NEAR(smoe_learned_cost(&l, SMOE_BACKWARD)->value[0], t.cost[SMOE_BACKWARD], 0.05);
        NEAR(l.share.value[0], t.share, 0.05);
        NEAR(smoe_learned_kappa(&l, 1e9, &error), t.kappa, 0.15);
        NEAR(smoe_learned_static_w(&l, &error), t.static_w, 0.15);
    }
}

Test(learning, a_worker_slowed_to_a_quarter_is_followed)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct truth t = truth_of(seed);
        struct smoe_learned l = learned_of(&t, 1);
        run(&l, &t, 200);
        t.share /= 4; /* somebody else computes there */
        run(&l, &t, 400);
        NEAR(l.share.value[0], t.share, 0.15);
        t.cost[SMOE_BACKWARD] *= 4; /* its clock was set to a quarter behind its back */
        run(&l, &t, 20);
        NEAR(l.cost[SMOE_BACKWARD].value[0], t.cost[SMOE_BACKWARD], 0.15);
        NEAR(l.cost[SMOE_FORWARD].value[0], t.cost[SMOE_FORWARD], 0.1);
    }
}

Test(learning, a_meter_that_stands_still_between_reports_is_read_when_it_moves)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct truth t = truth_of(seed);
        struct smoe_learned l = learned_of(&t, 4);
        double error;
        t.meter_every = 5;
        run(&l, &t, 1000);
        NEAR(smoe_learned_kappa(&l, 1e9, &error), t.kappa, 0.15);
        NEAR(smoe_learned_static_w(&l, &error), t.static_w, 0.15);
    }
}

/* Of a machine with P-states that draw what no cube says. */
Test(learning, of_a_machine_with_a_table_the_curve_has_its_states_alone)
{
    const double hz[] = {4e8, 6e8, 8e8, 1e9},
                 watts[] = {1, 3, 3.2, 8}; /* 0.6 GHz: never worth it */
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct truth t = truth_of(seed);
        struct smoe_learned l = learned_of(&t, 1);
        struct smoe_power_curve curve;
        smoe_learned_table(&l, hz, 4);
        for (int i = 0; i < 400; i++) {
            double at = hz[i % 4] * t.share;
            t.kappa = watts[i % 4] / (at * at * at);
            slot(&l, &t, hz[i % 4], 1);
        }
        cr_assert(smoe_learned_curve(&l, 1e9 * l.share.value[0], &curve));
        cr_assert_not(curve.stepless);
        cr_assert_eq(curve.n, 4, "seed %d: %u points", (int)seed, curve.n);
        const double drawn[] = {watts[0], watts[2], watts[3]}, at[] = {hz[0], hz[2], hz[3]};
        for (uint32_t k = 0; k < 3; k++) {
            NEAR(curve.hz[k + 1], at[k] * l.share.value[0], 1e-9);
            NEAR(curve.watts[k + 1], drawn[k] + t.static_w, 0.1);
        }
        cr_assert(smoe_learned_curve(&l, 8e8 * l.share.value[0], &curve));
        cr_assert_eq(curve.n, 3, "up to a speed cap");
        uint32_t seen = l.states[1].seen;
        smoe_learned_table(&l, hz, 4);
        cr_assert_eq(l.states[1].seen, seen, "the same states keep what was metered");
        smoe_learned_table(&l, hz + 1, 3);
        cr_assert_eq(l.states[1].seen, 0);
    }
}

/* The model meter counts work alone: idle time without joules, then joules, is no static power. */
Test(learning, idle_time_without_joules_is_no_static_power)
{
    uint64_t seed = 1;
    struct truth t = truth_of(seed);
    t.static_w = 0;
    struct smoe_learned l;
    double error;
    smoe_learned_init(&l, &(struct smoe_priors){.busy_w = 4, .static_w = 1}, SMOE_POWER_CUBE);
    for (int i = 0; i < 200; i++) {
        struct smoe_observed idle = {.wall_s = smoe_rng_unit(&t.rng), .hz = 1e9};
        smoe_learned_observe(&l, &idle, t.top_hz);
        slot(&l, &t, 1e9, 1);
    }
    cr_assert_lt(smoe_learned_static_w(&l, &error), 0.02, "%g W",
                 smoe_learned_static_w(&l, &error));
    NEAR(smoe_learned_kappa(&l, 1e9, &error), t.kappa, 0.05);
}

Test(learning, nothing_is_said_of_power_before_it_is_metered)
{
    struct truth t = truth_of(1);
    struct smoe_learned l;
    double error = 1;
    smoe_learned_init(&l, &(struct smoe_priors){0}, SMOE_POWER_CUBE);
    struct smoe_observed o = {.flops = {1e6}, .cycles = {2e5}, .all_cycles = 2e5, .wall_s = 1};
    smoe_learned_observe(&l, &o, t.top_hz);
    cr_assert_eq(smoe_learned_kappa(&l, 1e9, &error), 0);
    cr_assert_eq(error, 0);
    cr_assert_eq(smoe_learned_static_w(&l, &error), 0);
}

Test(learning, without_a_prior_power_is_learned_from_the_meter_alone)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct truth t = truth_of(seed);
        struct smoe_learned l;
        double error;
        smoe_learned_init(&l, &(struct smoe_priors){0}, SMOE_POWER_CUBE);
        run(&l, &t, 300);
        NEAR(smoe_learned_kappa(&l, 1e9, &error), t.kappa, 0.15);
        NEAR(smoe_learned_static_w(&l, &error), t.static_w, 0.15);
    }
}

/* A duty cycle: a joule a Gcycle at any frequency. No cubic saving is seen in it: the cube that is told
 * meets its power at the frequency it is asked for. */
Test(learning, a_duty_cycle_saves_energy_linearly)
{
    struct smoe_learned l;
    double error;
    smoe_learned_init(&l, &(struct smoe_priors){.busy_w = 4}, SMOE_POWER_LINE);
    for (int i = 0; i < 300; i++) {
        double hz = i % 2 ? 1e9 : 2.5e8, cycles = hz * SLOT_S;
        struct smoe_observed o = {.cycles = {cycles},
                                  .flops = {cycles},
                                  .all_cycles = cycles,
                                  .offered_cycles = cycles,
                                  .wall_s = SLOT_S,
                                  .joules = cycles * 1e-9,
                                  .hz = hz};
        smoe_learned_observe(&l, &o, 1e9);
    }
    cr_assert_float_eq(smoe_learned_kappa(&l, 1e9, &error) * 1e27, 1, 0.01);
    cr_assert_float_eq(smoe_learned_kappa(&l, 2.5e8, &error) * pow(2.5e8, 3), 0.25, 0.0025);
    cr_assert_eq(l.power.restarts + l.power.rejected, 0);
}

/* ---- curves ---- */

/* A table of P-states that is no cube: a joule a Gcycle up to half of the highest, two above, 1 W of it idle. */
static double table_w(double hz)
{
    return 1 + (hz <= 5e8 ? 1e-9 : 2e-9) * hz;
}

static void learn_table(struct smoe_learned *l, const double *hz, uint32_t n, double idle)
{
    for (uint32_t i = 0; i < 200 * n; i++) {
        double f = hz[i % n], active = idle > 0 ? 1 - idle * (i / n % 2) : 1;
        double cycles = f * active * SLOT_S;
        struct smoe_observed o = {.cycles = {cycles},
                                  .flops = {cycles},
                                  .all_cycles = cycles,
                                  .offered_cycles = cycles,
                                  .wall_s = SLOT_S,
                                  .joules = (table_w(f) * active + (1 - active)) * SLOT_S,
                                  .hz = f};
        smoe_learned_observe(l, &o, 1e9);
    }
}

Test(learning, the_curve_is_the_hull_of_what_was_metered)
{
    struct smoe_learned l;
    struct smoe_power_curve curve;
    const double hz[] = {2.5e8, 5e8, 7.5e8, 1e9};
    smoe_learned_init(&l, &(struct smoe_priors){.busy_w = 3}, SMOE_POWER_CUBE);
    learn_table(&l, hz, 4, 0.6);
    cr_assert(smoe_learned_curve(&l, 1e9, &curve));
    cr_assert(curve.stepless);
    for (int i = 0; i < 4; i++) { /* no point of a hull is above what was metered */
        double at = smoe_power_at(&curve, hz[i]);
        cr_assert_lt(at, table_w(hz[i]) * 1.1, "%g Hz: %g W", hz[i], at);
    }
    cr_assert_float_eq(smoe_power_at(&curve, 1e9), 3, 0.2);
    cr_assert_eq(curve.hz[curve.n - 1], 1e9);
}

Test(learning, where_nothing_was_metered_the_curve_is_the_models)
{
    struct smoe_learned l;
    struct smoe_power_curve curve;
    const double hz[] = {1e9};
    smoe_learned_init(&l, &(struct smoe_priors){.busy_w = 3}, SMOE_POWER_LINE);
    cr_assert_not(smoe_learned_curve(&l, 1e9, &curve), "nothing is known at all");
    learn_table(&l, hz, 1, 0.6);
    cr_assert(smoe_learned_curve(&l, 1e9, &curve));
    cr_assert(curve.stepless, "a duty cycle");
    cr_assert_float_eq(smoe_power_at(&curve, 0), 1, 0.1, "static power");
    cr_assert_float_eq(smoe_power_at(&curve, 5e8), 2, 0.1, "half way between, on the line");
    cr_assert_float_eq(smoe_power_at(&curve, 1e9), 3, 0.1);
}

Test(learning, a_cube_needs_no_curve)
{
    struct truth t = truth_of(5);
    struct smoe_learned l = learned_of(&t, 1);
    struct smoe_power_curve curve;
    t.noise = 0.02;
    run(&l, &t, 500);
    cr_assert_not(smoe_learned_curve(&l, t.top_hz * t.share, &curve));
}

Test(learning, another_driver_is_another_law_of_power_but_the_same_cost)
{
    uint64_t seed = 3;
    struct truth t = truth_of(seed);
    struct smoe_learned l = learned_of(&t, 1);
    double error;
    run(&l, &t, 200);
    smoe_learned_resume(&l, SMOE_POWER_CUBE, 0);
    NEAR(smoe_learned_kappa(&l, 1e9, &error), t.kappa, 0.15);
    smoe_learned_resume(&l, SMOE_POWER_LINE, 7);
    cr_assert_eq(smoe_learned_kappa(&l, 1e9, &error), 0);
    cr_assert_eq(l.priors.busy_w, 7);
    NEAR(smoe_learned_cost(&l, SMOE_FORWARD)->value[0], t.cost[SMOE_FORWARD], 0.05);
}

Test(learning, one_phase_stands_in_for_the_other_while_that_is_unknown)
{
    struct smoe_learned l;
    smoe_learned_init(&l, &(struct smoe_priors){0}, SMOE_POWER_LINE);
    cr_assert_eq(smoe_learned_cost(&l, SMOE_BACKWARD)->value[0], SMOE_COST_PRIOR);
    struct smoe_observed o = {.flops = {1e6}, .cycles = {5e5}, .wall_s = 1};
    smoe_learned_observe(&l, &o, 1e9);
    cr_assert_eq(smoe_learned_cost(&l, SMOE_BACKWARD), smoe_learned_cost(&l, SMOE_FORWARD));
    o = (struct smoe_observed){.flops = {0, 1e6}, .cycles = {0, 2e6}, .wall_s = 1};
    smoe_learned_observe(&l, &o, 1e9);
    cr_assert_neq(smoe_learned_cost(&l, SMOE_BACKWARD), smoe_learned_cost(&l, SMOE_FORWARD));
}

/* Parcels of about so many rows, whose row costs `row` flops; each parcel costs as much as 30 rows more. */
static void run_parcels(struct smoe_learned *l, struct truth *t, double rows, int reports)
{
    const double row = 5e5, parcel_rows = 30;
    for (int i = 0; i < reports; i++) {
        double parcels = 1 + (double)smoe_rng_below(&t->rng, 4), of_rows = 0;
        for (int k = 0; k < (int)parcels; k++)
            of_rows += 1 + floor(rows * (0.3 + 1.4 * smoe_rng_unit(&t->rng)));
        struct smoe_observed o = {.flops = {row * of_rows}, .row_flops = {row * parcels}};
        o.cycles[0] = noisy(t, t->cost[0] * row * (of_rows + parcel_rows * parcels));
        o.all_cycles = o.cycles[0];
        smoe_learned_observe(l, &o, t->top_hz);
    }
}

Test(learning, what_a_row_costs_does_not_depend_on_how_few_come)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct truth t = truth_of(seed);
        double error, many[2], few[2];
        struct smoe_learned l = learned_of(&t, seed % 2 ? 4 : 0.25);
        run_parcels(&l, &t, 300, 300);
        many[0] = smoe_learned_cost_at(&l, SMOE_FORWARD, 300, &error);
        many[1] = smoe_learned_cost_at(&l, SMOE_FORWARD, 100, &error);
        run_parcels(&l, &t, 12, 600); /* it is starved */
        few[0] = smoe_learned_cost_at(&l, SMOE_FORWARD, 12, &error);
        few[1] = smoe_learned_cost_at(&l, SMOE_FORWARD, 100, &error);
        NEAR(many[0], t.cost[0] * 1.1, 0.05);
        NEAR(few[0], t.cost[0] * (1 + 30.0 / 12), 0.05);
        NEAR(many[1], t.cost[0] * 1.3, 0.25);
        NEAR(few[1], t.cost[0] * 1.3, 0.3);
        cr_assert_gt(error, 0.02 * t.cost[0], "it says that it is not sure");
    }
}

Test(learning, mean_power_of_late_is_what_was_drawn_of_late)
{
    struct smoe_learned l;
    smoe_learned_init(&l, &(struct smoe_priors){0}, SMOE_POWER_LINE);
    struct smoe_observed o = {.wall_s = 0.5, .joules = 1.5};
    for (int i = 0; i < 200; i++)
        smoe_learned_observe(&l, &o, 1e9);
    cr_assert_float_eq(l.watts, 3, 0.01);
    o.joules = 0;
    for (int i = 0; i < 200; i++)
        smoe_learned_observe(&l, &o, 1e9);
    cr_assert_lt(l.watts, 0.03);
}
