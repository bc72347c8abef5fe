/* SPDX-License-Identifier: Apache-2.0
 *
 * Policies side by side (sim/slotted.c), against MODEL.md's reference run and figures done by hand.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "sim/slotted.h"

static struct smoe_slotted_result run(const char *scenario, enum smoe_policy policy, uint64_t slots,
                                      uint64_t seed)
{
    struct smoe_scenario s;
    struct smoe_why why;
    struct smoe_slotted_result r;
    cr_assert_eq(smoe_scenario_init(&s, smoe_scenario_find(scenario), &why), 0, "%s", why.text);
    smoe_slotted_run(
        &s, &(struct smoe_slotted_options){.policy = policy, .slots = slots, .seed = seed}, &r);
    smoe_scenario_release(&s);
    return r;
}

#define BETWEEN(low, value, high) \
    cr_assert((low) <= (value) && (value) <= (high), #value " is %g", (double)(value))

/* MODEL.md, the table of the reference run: 1,000 slots of the paper's scenario. */
Test(slotted, the_papers_scenario_gives_the_models_table)
{
    struct smoe_slotted_result l = run("paper", SMOE_POLICY_LYAPUNOV, 1000, 1);
    struct smoe_slotted_result t = run("paper", SMOE_POLICY_TOPK, 1000, 1);
    struct smoe_slotted_result q = run("paper", SMOE_POLICY_QUEUE, 1000, 1);
    BETWEEN(0.855, l.load, 0.865);
    BETWEEN(1160, (double)l.visits / 1000.0, 1170);
    BETWEEN(385, (double)l.complete / 1000.0, 391);
    BETWEEN(220, l.backlog_mean, 250);
    BETWEEN(0.74, l.agreement, 0.76);
    BETWEEN(0.60, l.gate_mass, 0.62);
    BETWEEN(-0.5, l.backlog_slope, 0.5);
    BETWEEN(0, l.gap_max, 1e-9);
    BETWEEN(985, (double)t.visits / 1000.0, 1010);
    BETWEEN(255, (double)t.complete / 1000.0, 270);
    BETWEEN(150, t.backlog_slope, 180);
    cr_assert_eq(t.agreement, 1);
    cr_assert_float_eq(t.gate_mass, t.gate_mass_best, 1e-12);
    cr_assert_eq(t.gap_max, -1);
    BETWEEN(900, q.backlog_mean, 1100);
    BETWEEN(0.29, q.agreement, 0.31);
    smoe_slotted_release(&l), smoe_slotted_release(&t), smoe_slotted_release(&q);
}

/* The claims of the product, for every one of five seeds, against the baselines at the frequency that
 * their budgets sustain. docs/results.md has the figures. */
Test(slotted, in_the_papers_scenario_more_tokens_complete_and_the_gate_is_heard)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct smoe_slotted_result l = run("paper", SMOE_POLICY_LYAPUNOV, 1000, seed);
        struct smoe_slotted_result t = run("paper", SMOE_POLICY_TOPK, 1000, seed);
        struct smoe_slotted_result q = run("paper", SMOE_POLICY_QUEUE, 1000, seed);
        struct smoe_slotted_result jsq = run("paper", SMOE_POLICY_QUEUE_JSQ, 1000, seed);
        cr_assert_geq((double)l.complete, 1.4 * (double)t.complete);
        BETWEEN(0.60, l.gate_mass, t.gate_mass);
        BETWEEN(0, q.gate_mass, 0.30);
        BETWEEN(0, jsq.gate_mass, 0.30);
        BETWEEN(0.73, l.agreement, 1);
        BETWEEN(0, l.backlog_mean, 300);
        BETWEEN(0, l.overdraft, 0.001);
        BETWEEN(0, l.gap_max, 1e-9);
        smoe_slotted_release(&l), smoe_slotted_release(&t);
        smoe_slotted_release(&q), smoe_slotted_release(&jsq);
    }
}

/* MODEL.md, "Slot length": 512 visits of 10 us on speeds 1, .5, .25, .25 take 2.56 ms. */
Test(slotted, a_synchronous_trainers_work_is_divided_by_speed)
{
    static const double SPEED_SHARES[] = {0.5, 0.25, 0.125, 0.125};
    struct smoe_slotted_result r = run("demo", SMOE_POLICY_LYAPUNOV, 50, 3);
    for (int j = 0; j < 4; j++)
        cr_assert_float_eq(r.share[j], SPEED_SHARES[j], 0.01, "worker %d: %g", j, r.share[j]);
    cr_assert_float_eq(r.seconds / 50, 2.56e-3, 3e-5, "%g s a batch", r.seconds / 50);
    cr_assert_eq(r.visits, 50u * 512);
    cr_assert_eq(r.complete, 50u * 256);
    cr_assert_eq(r.load, 0);
    smoe_slotted_release(&r);
}

Test(slotted, topk_is_bound_by_the_slowest)
{
    struct smoe_slotted_result l = run("demo", SMOE_POLICY_LYAPUNOV, 50, 3);
    struct smoe_slotted_result t = run("demo", SMOE_POLICY_TOPK, 50, 3);
    cr_assert_gt(t.seconds, 2 * l.seconds);
    smoe_slotted_release(&l), smoe_slotted_release(&t);
}

Test(slotted, all_policies_see_the_same_arrivals_and_scores)
{
    struct smoe_slotted_result first = run("paper", SMOE_POLICY_LYAPUNOV, 50, 9);
    for (int p = 1; p < SMOE_POLICY_COUNT; p++) {
        struct smoe_slotted_result r = run("paper", (enum smoe_policy)p, 50, 9);
        cr_assert_eq(r.tokens, first.tokens);
        cr_assert_eq(r.gate_mass_best, first.gate_mass_best);
        cr_assert_eq((double)r.visits + r.backlog_last, 3.0 * (double)r.tokens);
        smoe_slotted_release(&r);
    }
    smoe_slotted_release(&first);
}

Test(slotted, without_a_price_on_energy_the_baselines_at_full_speed_spend_no_more_than_the_cap)
{
    struct smoe_scenario s;
    struct smoe_why why;
    struct smoe_slotted_result r;
    cr_assert_eq(smoe_scenario_init(&s, smoe_scenario_find("paper"), &why), 0);
    smoe_slotted_run(
        &s,
        &(struct smoe_slotted_options){
            .policy = SMOE_POLICY_RANDOM, .freq_rule = SMOE_FREQ_FULL, .slots = 300, .seed = 1},
        &r);
    BETWEEN(480, (double)r.visits / 300.0, 500); /* MODEL.md: about 495 */
    cr_assert_lt(r.overdraft, 1);                /* Emax / Eavg - 1 of the weakest */
    smoe_slotted_release(&r);
    smoe_scenario_release(&s);
}

/* Nothing is saved by resting: energy is cycles, whatever the frequency. The run checks what the solve promised. */
Test(slotted, a_duty_cycle_saves_in_proportion_and_a_voltage_that_follows_more)
{
    double joules[2][2]; /* [line][budgets] a visit */
    struct smoe_scenario_spec spec = *smoe_scenario_find("paper");
    for (int line = 0; line < 2; line++)
        for (int budgets = 0; budgets < 2; budgets++) {
            struct smoe_scenario s;
            struct smoe_slotted_result r;
            struct smoe_why why;
            spec.power = line ? SMOE_SIM_LINE : SMOE_SIM_CUBE;
            strcpy(spec.budgets, budgets ? "20..54" : "");
            *spec.caps = 0;
            cr_assert_eq(smoe_scenario_init(&s, &spec, &why), 0);
            cr_assert_eq(smoe_scenario_set_load(&s, 0.9, &why), 0);
            smoe_slotted_run(&s,
                             &(struct smoe_slotted_options){
                                 .policy = SMOE_POLICY_LYAPUNOV, .slots = 300, .seed = 1},
                             &r);
            joules[line][budgets] = r.joules / (double)r.visits;
            BETWEEN(0, r.overdraft, 0.02);
            smoe_slotted_release(&r);
            smoe_scenario_release(&s);
        }
    BETWEEN(0.18 * 0.99, joules[1][0], 0.18 * 1.01); /* kappa fmax^2 c */
    BETWEEN(0.18 * 0.99, joules[1][1], 0.18 * 1.01);
    BETWEEN(0.18 * 0.99, joules[0][0], 0.18 * 1.01);
    BETWEEN(0, joules[0][1], 0.85 * 0.18);
}

/* ---- scenarios ---- */

static struct smoe_scenario_spec small(void)
{
    return (struct smoe_scenario_spec){.name = "small",
                                       .workers = 3,
                                       .speeds = "1 0.5",
                                       .freq_hz = 10,
                                       .cycles = 1,
                                       .tokens = 4,
                                       .experts = 2,
                                       .copies = 1,
                                       .top_k = 1,
                                       .slot_ns = 1000000000,
                                       .v = 1};
}

static void check_refused(const struct smoe_scenario_spec *spec, const char *sentence)
{
    struct smoe_scenario s;
    struct smoe_why why = {""};
    cr_assert_eq(smoe_scenario_init(&s, spec, &why), SMOE_ECONFIG);
    cr_assert_str_eq(why.text, sentence);
}

Test(scenario, lists_repeat_and_ranges_are_spaced_evenly)
{
    struct smoe_scenario_spec spec = small();
    struct smoe_scenario s;
    struct smoe_why why;
    strcpy(spec.budgets, "1..2");
    cr_assert_eq(smoe_scenario_init(&s, &spec, &why), 0);
    cr_assert_eq(s.freq_max_hz[0], 10);
    cr_assert_eq(s.freq_max_hz[1], 5);
    cr_assert_eq(s.freq_max_hz[2], 10);
    cr_assert_eq(s.budget_w[0], 1);
    cr_assert_eq(s.budget_w[1], 1.5);
    cr_assert_eq(s.budget_w[2], 2);
    cr_assert(isinf(s.cap_w[2]));
    cr_assert_eq(s.rank[1], 1);
    smoe_scenario_release(&s);
}

Test(scenario, what_does_not_fit_is_refused_by_its_key)
{
    struct smoe_scenario_spec spec = small();
    strcpy(spec.speeds, "1 fast");
    check_refused(&spec, "fleet.speeds: \"1 fast\" is neither numbers nor FROM..TO");
    strcpy(spec.speeds, "1 0");
    check_refused(&spec, "fleet.speeds: \"1 0\": all must be above 0");
    spec = small();
    strcpy(spec.caps, "-1..2");
    check_refused(&spec, "fleet.caps: \"-1..2\": all must be above 0");
    spec = small();
    spec.top_k = 3;
    check_refused(&spec, "gate.top_k: not in 1..8, or more than the experts");
    spec = small();
    spec.workers = 0;
    check_refused(&spec, "fleet.workers: not in 1..16384");
    spec = small();
    spec.tokens = (double)NAN;
    check_refused(&spec, "tokens.number: not in 1..131072");
}
