/* SPDX-License-Identifier: Apache-2.0
 *
 * What a scenario can ask of the slotted fleet beyond the paper's: kinds of arrivals, drifting gates,
 * workers that come and go, late reports, large fleets at random. The conservation of visits and the
 * solver's promise are asserted by the simulator itself in every slot of every run here.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim/numbers.h"
#include "sim/optimum.h"
#include "sim/slotted.h"
#include "sim/stream.h"

static struct smoe_scenario make(const struct smoe_scenario_spec *spec)
{
    struct smoe_scenario s;
    struct smoe_why why;
    cr_assert_eq(smoe_scenario_init(&s, spec, &why), 0, "%s", why.text);
    return s;
}

static struct smoe_slotted_result run(const struct smoe_scenario_spec *spec,
                                      enum smoe_policy policy, uint64_t slots)
{
    struct smoe_scenario s = make(spec);
    struct smoe_slotted_result r;
    smoe_slotted_run(
        &s, &(struct smoe_slotted_options){.policy = policy, .slots = slots, .seed = 5}, &r);
    smoe_scenario_release(&s);
    return r;
}

static struct smoe_scenario_spec paper(void)
{
    return *smoe_scenario_find("paper");
}

/* ---- arrivals ---- */

/* Mean and variance of the numbers of 20,000 slots, and the share of empty ones. */
static void count(const struct smoe_scenario_spec *spec, double *ret_mean, double *ret_variance,
                  double *ret_empty)
{
    enum { SLOTS = 20000 };
    struct smoe_scenario s = make(spec);
    struct smoe_sim_stream stream;
    double sum = 0, square = 0, empty = 0;
    smoe_sim_stream_init(&stream, &s, 3);
    for (int i = 0; i < SLOTS; i++) {
        double n = smoe_sim_stream_count(&stream);
        cr_assert_leq(n, stream.tokens_max);
        sum += n, square += n * n, empty += n == 0;
    }
    *ret_mean = sum / SLOTS;
    *ret_variance = square / SLOTS - *ret_mean * *ret_mean;
    *ret_empty = empty / SLOTS;
    smoe_sim_stream_release(&stream);
    smoe_scenario_release(&s);
}

Test(arrivals, all_kinds_have_the_mean_that_was_asked_for)
{
    struct smoe_scenario_spec spec = paper();
    double mean, variance, empty;
    count(&spec, &mean, &variance, &empty);
    cr_assert_float_eq(mean, 390, 1);
    cr_assert_float_eq(variance, 390, 20); /* Poisson */
    spec.arrivals = SMOE_ARRIVALS_DIURNAL, spec.swing = 0.5, spec.period = 50;
    count(&spec, &mean, &variance, &empty);
    cr_assert_float_eq(mean, 390, 1.5);
    cr_assert_float_eq(variance, 390 + 8.0 / 15 * 195 * 195, 700); /* of a parabola's wave */
    spec.arrivals = SMOE_ARRIVALS_BURSTY, spec.burst = 4, spec.period = 40;
    count(&spec, &mean, &variance, &empty);
    cr_assert_float_eq(mean, 390, 40);
    cr_assert_float_eq(empty, 0.75, 0.03);
}

Test(arrivals, a_trace_is_taken_as_it_is_and_scales_with_the_load)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_sim_stream stream;
    struct smoe_why why;
    char path[] = "/tmp/smoe-trace-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    fputs("# tokens of a slot\n100 0\n 300 # the peak\n", file);
    fclose(file);
    spec.arrivals = SMOE_ARRIVALS_TRACE;
    strcpy(spec.trace, path);
    struct smoe_scenario s = make(&spec);
    smoe_sim_stream_init(&stream, &s, 1);
    static const uint32_t EXPECTED[] = {100, 0, 300, 100};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(smoe_sim_stream_count(&stream), EXPECTED[i]);
    smoe_sim_stream_release(&stream);
    double load = 3 * (400.0 / 3) / smoe_scenario_sustainable(&s);
    cr_assert_eq(smoe_scenario_set_load(&s, 2 * load, &why), 0);
    smoe_sim_stream_init(&stream, &s, 1);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(smoe_sim_stream_count(&stream), 2 * EXPECTED[i]);
    smoe_sim_stream_release(&stream);
    smoe_scenario_release(&s);
    unlink(path);
}

Test(arrivals, bursts_cost_backlog_and_are_worked_off)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_slotted_result calm = run(&spec, SMOE_POLICY_LYAPUNOV, 300);
    spec.arrivals = SMOE_ARRIVALS_BURSTY, spec.burst = 3, spec.period = 20, spec.tokens = 250;
    struct smoe_slotted_result bursty = run(&spec, SMOE_POLICY_LYAPUNOV, 300);
    cr_assert_gt(bursty.backlog_max, 2 * calm.backlog_max);
    cr_assert_gt((double)bursty.complete, 0.9 * (double)bursty.tokens);
    smoe_slotted_release(&calm), smoe_slotted_release(&bursty);
}

/* ---- the gate ---- */

/* Mean score of each expert over a slot. */
static void mean_scores(struct smoe_sim_stream *stream, uint64_t slots, double ret[10])
{
    static float g[1000 * 10];
    uint32_t n = 0;
    for (uint64_t i = 0; i < slots; i++) {
        n = smoe_sim_stream_count(stream);
        smoe_sim_stream_scores(stream, n, g);
    }
    memset(ret, 0, 10 * sizeof *ret);
    for (uint32_t i = 0; i < 10 * n; i++)
        ret[i % 10] += (double)g[i] / n;
}

Test(gate, popularity_drifts_to_the_next_expert)
{
    struct smoe_scenario_spec spec = paper();
    spec.skew = 0.5, spec.drift = 4;
    struct smoe_scenario s = make(&spec);
    struct smoe_sim_stream stream;
    double before[10], after[10];
    smoe_sim_stream_init(&stream, &s, 1);
    mean_scores(&stream, 1, before);
    mean_scores(&stream, 4, after); /* the 5th slot: one rank further */
    for (int e = 0; e < 10; e++)
        cr_assert_float_eq(after[e], before[(e + 1) % 10], 0.03, "expert %d: %g, %g", e, after[e],
                           before[(e + 1) % 10]);
    cr_assert_gt(fabs(after[2] - before[2]), 0.1); /* rank 9, then 0 */
    smoe_sim_stream_release(&stream);
    smoe_scenario_release(&s);
}

Test(gate, a_pool_has_the_same_popularity_as_fresh_tokens)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_sim_stream stream;
    double fresh[10], pooled[10];
    for (int i = 0; i < 2; i++) {
        spec.pool = i ? 2000 : 0, spec.skew = 0.5;
        struct smoe_scenario s = make(&spec);
        smoe_sim_stream_init(&stream, &s, 1);
        mean_scores(&stream, 1, i ? pooled : fresh);
        smoe_sim_stream_release(&stream);
        smoe_scenario_release(&s);
    }
    for (int e = 0; e < 10; e++)
        cr_assert_float_eq(pooled[e], fresh[e], 0.03);
}

Test(optimum, no_policy_beats_it_and_the_product_comes_near)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_scenario s = make(&spec);
    struct smoe_slotted_result r = run(&spec, SMOE_POLICY_LYAPUNOV, 150);
    double best = smoe_sim_optimum_gate_mass(&s, 5, 150);
    cr_assert_lt(best, r.gate_mass_best); /* top-K would overload somebody */
    cr_assert_lt(r.gate_mass, best);
    cr_assert_gt(r.gate_mass, 0.9 * best);
    struct smoe_why why;
    cr_assert_eq(smoe_scenario_set_load(&s, 1.1, &why), 0);
    cr_assert_eq(smoe_sim_optimum_gate_mass(&s, 5, 150), -1); /* not all can be served */
    smoe_slotted_release(&r);
    smoe_scenario_release(&s);
}

/* ---- fleets ---- */

/* docs/results.md, "A frozen router on a fleet with replicas": at a load of 0.73. */
Test(fleet, a_frozen_router_keeps_its_experts_where_plain_top_k_diverges)
{
    struct smoe_scenario_spec spec = *smoe_scenario_find("frozen");
    struct smoe_slotted_result strict = run(&spec, SMOE_POLICY_LYAPUNOV_STRICT, 300);
    struct smoe_slotted_result soft = run(&spec, SMOE_POLICY_LYAPUNOV, 300);
    spec.slots = 0; /* one copy of each expert */
    struct smoe_slotted_result plain = run(&spec, SMOE_POLICY_TOPK, 300);
    cr_assert_eq(strict.agreement, 1);
    cr_assert_lt(soft.agreement, 1);
    cr_assert_lt(fabs(strict.backlog_slope), 1);
    cr_assert_lt(strict.backlog_mean, 200);
    cr_assert_gt(plain.backlog_slope, 20);
    cr_assert_geq((double)strict.complete, 0.95 * (double)soft.complete);
    cr_assert_eq(strict.slots_exact, 300);
    smoe_slotted_release(&strict), smoe_slotted_release(&soft), smoe_slotted_release(&plain);
}

Test(fleet, late_reports_cost_backlog_but_not_stability)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_slotted_result prompt = run(&spec, SMOE_POLICY_LYAPUNOV, 400);
    spec.delay = 5;
    struct smoe_slotted_result late = run(&spec, SMOE_POLICY_LYAPUNOV, 400);
    cr_assert_eq(late.tokens, prompt.tokens);
    cr_assert_gt(late.backlog_mean, prompt.backlog_mean);
    cr_assert_lt(fabs(late.backlog_slope), 5);
    smoe_slotted_release(&prompt), smoe_slotted_release(&late);
}

Test(fleet, visits_of_a_worker_that_leaves_go_to_another_replica)
{
    struct smoe_scenario_spec spec = paper();
    spec.copies = 3, spec.up = 50, spec.down = 10, spec.tokens = 330;
    for (int p = 0; p < SMOE_POLICY_COUNT; p++) {
        struct smoe_slotted_result r = run(&spec, (enum smoe_policy)p, 200);
        if (p == SMOE_POLICY_LYAPUNOV) /* others may have nothing that waits */
            cr_assert_gt(r.moved, 0);
        cr_assert_eq((double)r.visits + r.backlog_last, 3.0 * (double)r.tokens);
        smoe_slotted_release(&r);
    }
    spec.copies = 1, spec.tokens = 250; /* nowhere to go: they wait for the return */
    struct smoe_slotted_result r = run(&spec, SMOE_POLICY_LYAPUNOV, 200);
    cr_assert_eq(r.moved, 0);
    cr_assert_gt((double)r.complete, 0.8 * (double)r.tokens);
    smoe_slotted_release(&r);
}

Test(fleet, at_random_it_is_the_same_in_every_run_and_not_overloaded)
{
    struct smoe_scenario_spec spec;
    cr_assert(smoe_scenario_random("random:200", &spec));
    cr_assert_not(smoe_scenario_random("random:9", &spec));
    cr_assert_not(smoe_scenario_random("random:10001", &spec));
    cr_assert(smoe_scenario_random("random:200", &spec));
    struct smoe_scenario a = make(&spec), b = make(&spec);
    cr_assert_eq(memcmp(a.freq_max_hz, b.freq_max_hz, 200 * sizeof(double)), 0);
    for (int j = 0; j < 200; j++) {
        cr_assert(0.2 * 3e9 <= a.freq_max_hz[j] && a.freq_max_hz[j] <= 3e9);
        cr_assert(0.5 <= a.budget_w[j] && a.budget_w[j] <= 8);
    }
    struct smoe_slotted_result r = run(&spec, SMOE_POLICY_LYAPUNOV_GREEDY, 10);
    cr_assert(0.6 < r.load && r.load < 1, "load %g", r.load);
    smoe_slotted_release(&r);
    smoe_scenario_release(&a), smoe_scenario_release(&b);
}

Test(fleet, ten_thousand_nodes_run)
{
    struct smoe_scenario_spec spec;
    cr_assert(smoe_scenario_random("random:10000", &spec));
    struct smoe_slotted_result r = run(&spec, SMOE_POLICY_LYAPUNOV_GREEDY, 2);
    cr_assert_gt(r.tokens, 190000);
    cr_assert_gt(r.visits, 0);
    smoe_slotted_release(&r);
}

Test(fleet, one_may_be_described_by_a_file)
{
    struct smoe_scenario_spec spec = paper();
    struct smoe_scenario s;
    struct smoe_why why;
    char path[] = "/tmp/smoe-nodes-XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");
    fputs("# speed, budget, cap\n1, 5, 10\n0.5 2 0\n", file);
    fclose(file);
    strcpy(spec.nodes, path);
    spec.workers = 2;
    s = make(&spec);
    cr_assert_eq(s.freq_max_hz[1], 1.5e9);
    cr_assert_eq(s.budget_w[0], 5);
    cr_assert_eq(s.cap_w[0], 10);
    cr_assert(isinf(s.cap_w[1]));
    smoe_scenario_release(&s);
    spec.workers = 3;
    cr_assert_eq(smoe_scenario_init(&s, &spec, &why), SMOE_ECONFIG);
    cr_assert_not_null(strstr(why.text, ": 2 rows for 3 workers"), "%s", why.text);
    unlink(path);
    cr_assert_neq(smoe_scenario_init(&s, &spec, &why), 0);
    cr_assert_not_null(strstr(why.text, "No such file"), "%s", why.text);
}
