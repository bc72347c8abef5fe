/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/core/fleet.h"

#define SECOND UINT64_C(1000000000)

static struct smoe_msg_hello hello_of(const char *name)
{
    struct smoe_msg_hello m = {.role = SMOE_ROLE_WORKER,
                               .incarnation = 1,
                               .freq_max_hz = 1e9,
                               .inbox_bytes_max = 1000,
                               .lanes = 1,
                               .freq_driver = "null"};
    snprintf(m.name, sizeof m.name, "%s", name);
    return m;
}

/* One lane of 1 GHz. */
static struct smoe_worker ready(void)
{
    struct smoe_worker w = {.state = SMOE_WORKER_READY, .lanes = 1, .freq_max_hz = 1e9};
    smoe_learned_init(&w.learned, &(struct smoe_priors){0}, SMOE_POWER_LINE);
    return w;
}

static struct smoe_worker *join(struct smoe_fleet *fleet, const char *name)
{
    struct smoe_msg_hello m = hello_of(name);
    struct smoe_why why;
    uint32_t i;
    cr_assert_eq(smoe_fleet_join(fleet, 5, &m, 1, &i, &why), 0);
    smoe_worker_move(&fleet->workers[i], SMOE_WORKER_READY);
    return &fleet->workers[i];
}

/* ---- states ---- */

static const char arrows[SMOE_WORKER_STATES][SMOE_WORKER_STATES] = {
    /*                       free joining ready draining lost */
    [SMOE_WORKER_FREE] = {0, 1, 0, 0, 1},  [SMOE_WORKER_JOINING] = {0, 0, 1, 0, 1},
    [SMOE_WORKER_READY] = {0, 0, 0, 1, 1}, [SMOE_WORKER_DRAINING] = {0, 0, 1, 0, 1},
    [SMOE_WORKER_LOST] = {1, 1, 0, 0, 0},
};

struct move {
    enum smoe_worker_state from, to;
};

static struct move moves[SMOE_WORKER_STATES * SMOE_WORKER_STATES];

static size_t list_moves(bool legal)
{
    size_t n = 0;
    for (unsigned from = 0; from < SMOE_WORKER_STATES; from++)
        for (unsigned to = 0; to < SMOE_WORKER_STATES; to++)
            if (arrows[from][to] == legal)
                moves[n++] = (struct move){from, to};
    return n;
}

ParameterizedTestParameters(fleet, a_worker_cannot_move_without_an_arrow)
{
    return cr_make_param_array(struct move, moves, list_moves(false));
}

ParameterizedTest(struct move *move, fleet, a_worker_cannot_move_without_an_arrow,
                  .signal = SIGABRT)
{
    struct smoe_worker w = {.state = move->from};
    smoe_worker_move(&w, move->to);
}

Test(fleet, a_worker_moves_along_every_arrow)
{
    size_t n = list_moves(true);
    cr_assert_eq(n, 10);
    for (size_t i = 0; i < n; i++) {
        struct smoe_worker w = {.state = moves[i].from};
        smoe_worker_move(&w, moves[i].to);
        cr_assert_eq(w.state, moves[i].to);
    }
}

/* ---- joining ---- */

Test(fleet, a_fleet_takes_as_many_as_it_has_places_for_and_says_so)
{
    struct smoe_fleet fleet;
    struct smoe_why why = {""};
    uint32_t i;
    cr_assert_eq(smoe_fleet_init(&fleet, 2), 0);
    join(&fleet, "a");
    join(&fleet, "b");
    struct smoe_msg_hello third = hello_of("c");
    cr_assert_eq(smoe_fleet_join(&fleet, 9, &third, 1, &i, &why), SMOE_ELIMIT);
    cr_assert_str_eq(why.text, "fleet is full: 2 workers");
    smoe_fleet_release(&fleet);
}

Test(fleet, a_live_name_is_not_given_twice_and_a_lost_one_comes_back_to_its_place)
{
    struct smoe_fleet fleet;
    struct smoe_why why = {""};
    uint32_t i = 77;
    cr_assert_eq(smoe_fleet_init(&fleet, 3), 0);
    join(&fleet, "a");
    struct smoe_worker *b = join(&fleet, "b");
    struct smoe_msg_hello again = hello_of("b");
    cr_assert_eq(smoe_fleet_join(&fleet, 9, &again, 1, &i, &why), SMOE_EEXIST);
    cr_assert_eq(i, 77);
    b->debt_j = 3;
    smoe_worker_leave(b, 5);
    cr_assert_eq(smoe_fleet_join(&fleet, 9, &again, 6, &i, &why), 0);
    cr_assert_eq(&fleet.workers[i], b);
    cr_assert_eq(b->state, SMOE_WORKER_JOINING);
    cr_assert_eq(b->session, 9);
    cr_assert_float_eq(b->debt_j, 3, 0, "what it overspent is not forgotten by going away");
    smoe_fleet_release(&fleet);
}

Test(fleet, who_leaves_takes_no_work_along)
{
    struct smoe_fleet fleet;
    cr_assert_eq(smoe_fleet_init(&fleet, 1), 0);
    struct smoe_worker *w = join(&fleet, "a");
    smoe_worker_assign(w, (uint64_t[]){100, 50}, 1);
    w->owed_flops = 250;
    smoe_worker_leave(w, 2);
    cr_assert_eq(smoe_worker_executable(w, SMOE_FORWARD), 0);
    cr_assert_eq(smoe_worker_executable(w, SMOE_BACKWARD), 0);
    smoe_worker_check(w);
    smoe_fleet_release(&fleet);
}

/* ---- reports ---- */

static void report(struct smoe_worker *w, uint64_t sequence, uint64_t queued)
{
    struct smoe_msg_report m = {.sequence = sequence,
                                .queue_forward_flops = queued,
                                .freq_max_hz = 1e9,
                                .freq_khz = 1000000};
    smoe_worker_reported(w, &m, 2 * SECOND);
}

Test(fleet, a_late_report_never_erases_what_was_given_after_it)
{
    struct smoe_worker w = ready();
    cr_assert_eq(smoe_worker_assign(&w, (uint64_t[]){100, 0}, 1), 1);
    cr_assert_eq(smoe_worker_assign(&w, (uint64_t[]){40, 0}, 1), 2);
    report(&w, 1, 30); /* it had not seen the second decision when it wrote this */
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 30 + 40);
    report(&w, 2, 60);
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 60);
}

Test(fleet, a_report_cannot_claim_more_than_the_books_have)
{
    struct smoe_worker w = ready();
    smoe_worker_assign(&w, (uint64_t[]){100, 0}, 1);
    report(&w, 1, 101);
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 100);
    cr_assert_eq(w.drift_flops, 1, "and what it claims too much is counted");
    report(&w, 1, UINT64_MAX);
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 100);
}

Test(fleet, a_report_that_names_a_sequence_too_old_to_remember_is_not_used)
{
    struct smoe_worker w = ready();
    for (int i = 0; i < SMOE_ASSIGNMENTS_KEPT; i++)
        smoe_worker_assign(&w, (uint64_t[]){10, 0}, 1);
    report(&w, 1, 0);
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 10 * (SMOE_ASSIGNMENTS_KEPT - 1));
    smoe_worker_assign(&w, (uint64_t[]){10, 0}, 1); /* takes the place of the first */
    cr_assert_eq(smoe_worker_executable(&w, SMOE_FORWARD), 10 * (SMOE_ASSIGNMENTS_KEPT + 1));
}

/* Books and reports at random: what can run is never more than the books have, and never less than
 * what was given after the report. */
Test(fleet, whatever_is_reported_the_books_bound_it)
{
    struct smoe_worker w = ready();
    struct smoe_rng rng;
    smoe_rng_init(&rng, 3, 0);
    uint64_t after = 0; /* given after the sequence that the last report names */
    for (int i = 0; i < 20000; i++) {
        uint64_t flops = smoe_rng_below(&rng, 50), done = smoe_rng_below(&rng, 60);
        if (smoe_rng_below(&rng, 3) == 0) {
            smoe_worker_assign(&w, (uint64_t[]){flops, 0}, 1);
            after += flops;
        } else if (smoe_rng_below(&rng, 3) == 0) {
            report(&w, w.sequence, smoe_rng_below(&rng, 200));
            after = 0;
        } else if (done <= w.pending_flops[SMOE_FORWARD]) {
            w.pending_flops[SMOE_FORWARD] -= done;
        }
        uint64_t can_run = smoe_worker_executable(&w, SMOE_FORWARD);
        uint64_t books = w.pending_flops[SMOE_FORWARD];
        cr_assert_leq(can_run, books);
        cr_assert_geq(can_run, after < books ? after : books);
    }
}

/* ---- what it costs ---- */

Test(fleet, the_cost_of_work_is_learned_from_what_reports_say_and_old_work_fades)
{
    struct smoe_worker w = ready();
    struct smoe_msg_report m = {.freq_max_hz = 1e9, .freq_khz = 1000000};
    cr_assert_float_eq(smoe_worker_cycles_per_flop(&w, SMOE_FORWARD), SMOE_COST_PRIOR, 1e-12);
    smoe_worker_reported(&w, &m, SECOND);
    for (int i = 0; i < 50; i++) { /* 0.5 cycles a flop */
        m.forward_flops += 200000000;
        m.forward_cycles += 100000000;
        smoe_worker_reported(&w, &m, SECOND);
    }
    cr_assert_float_eq(smoe_worker_cycles_per_flop(&w, SMOE_FORWARD), 0.5, 1e-3);
    cr_assert_eq(smoe_worker_cycles_per_flop(&w, SMOE_BACKWARD),
                 smoe_worker_cycles_per_flop(&w, SMOE_FORWARD),
                 "one phase stands in for the other while that is unknown");
    for (int i = 0; i < 50; i++) { /* it gets hot: 2 cycles a flop */
        m.forward_flops += 50000000;
        m.forward_cycles += 100000000;
        smoe_worker_reported(&w, &m, SECOND);
    }
    cr_assert_float_eq(smoe_worker_cycles_per_flop(&w, SMOE_FORWARD), 2, 1e-3);
}

Test(fleet, a_queue_in_visits_counts_the_backward_pass_that_is_still_owed)
{
    struct smoe_worker w = ready();
    double executable;
    /* 6 visits of 100 flops forward, 200 backward: forward to do, backward owed */
    smoe_worker_assign(&w, (uint64_t[]){600, 0}, 1);
    w.owed_flops = 1200;
    cr_assert_float_eq(smoe_worker_backlog(&w, 100, true, 1, &executable), 6, 1e-9);
    cr_assert_float_eq(executable, 2, 1e-9, "a third of each visit can run now");
    cr_assert_float_eq(smoe_worker_backlog(&w, 100, false, 1, &executable), 18, 1e-9,
                       "in evaluation visits, which are forward only");
}

Test(fleet, what_a_worker_must_have_done_since_the_last_news_is_taken_off)
{
    struct smoe_worker w = ready();
    double executable;
    uint64_t flops = (uint64_t)(1e9 / SMOE_COST_PRIOR); /* a second's work */
    smoe_worker_assign(&w, (uint64_t[]){flops, 0}, SECOND);
    smoe_worker_backlog(&w, flops / 100, false, SECOND, &executable);
    cr_assert_float_eq(executable, 100, 1e-6);
    smoe_worker_backlog(&w, flops / 100, false, SECOND + SECOND / 4, &executable);
    cr_assert_float_eq(executable, 75, 1e-6);
    smoe_worker_backlog(&w, flops / 100, false, 9 * SECOND, &executable);
    cr_assert_float_eq(executable, 0, 1e-6, "and never more than there was");
}

/* ---- energy ---- */

Test(fleet, joules_over_the_budget_are_a_debt_that_time_pays_off)
{
    struct smoe_worker w = ready();
    w.budget_w = 2;
    w.debt_ns = SECOND;
    smoe_worker_charge(&w, 10, 2 * SECOND);
    cr_assert_float_eq(w.debt_j, 8, 1e-9);
    smoe_worker_charge(&w, 0, 4 * SECOND);
    cr_assert_float_eq(w.debt_j, 4, 1e-9);
    smoe_worker_charge(&w, 0, 60 * SECOND);
    cr_assert_float_eq(w.debt_j, 0, 1e-9, "what is not spent is not saved up");
}

Test(fleet, without_a_budget_there_is_no_debt)
{
    struct smoe_worker w = ready();
    w.budget_w = (double)INFINITY;
    smoe_worker_charge(&w, 1e6, SECOND);
    cr_assert_eq(w.debt_j, 0);
}

Test(fleet, a_node_keeps_to_the_smaller_of_its_own_limits_and_the_operators)
{
    struct smoe_fleet fleet;
    struct smoe_msg_hello m = hello_of("a");
    struct smoe_why why;
    uint32_t i;
    m.budget_watts = 3;
    cr_assert_eq(smoe_fleet_init(&fleet, 1), 0);
    cr_assert_eq(smoe_fleet_join(&fleet, 5, &m, 1, &i, &why), 0);
    struct smoe_worker *w = &fleet.workers[i];
    smoe_worker_limit(w, (double)INFINITY, 7);
    cr_assert_eq(w->budget_w, 3);
    cr_assert_eq(w->cap_w, 7, "it sets no cap");
    smoe_worker_limit(w, 2, (double)INFINITY);
    cr_assert_eq(w->budget_w, 2);
    cr_assert(isinf(w->cap_w));
    smoe_fleet_release(&fleet);
}

Test(fleet, a_budget_for_one_worker_counts_instead_of_that_for_all_and_outlives_its_absence)
{
    struct smoe_fleet fleet;
    struct smoe_msg_hello m = hello_of("a");
    struct smoe_why why;
    uint32_t i;
    m.budget_watts = 30;
    cr_assert_eq(smoe_fleet_init(&fleet, 2), 0);
    smoe_fleet_set_budget(&fleet, "a", 20); /* before it is known */
    cr_assert_eq(smoe_fleet_join(&fleet, 5, &m, 1, &i, &why), 0);
    struct smoe_worker *w = &fleet.workers[i];
    smoe_worker_limit(w, 7, (double)INFINITY);
    cr_assert_eq(w->budget_w, 20, "more than that for all");
    smoe_fleet_set_budget(&fleet, "a", 40);
    smoe_worker_limit(w, 7, (double)INFINITY);
    cr_assert_eq(w->budget_w, 30, "the node's own still binds");
    smoe_fleet_set_budget(&fleet, "a", (double)INFINITY);
    smoe_worker_limit(w, 7, (double)INFINITY);
    cr_assert_eq(w->budget_w, 7);
    cr_assert_eq(fleet.n_budgets, 0);
    smoe_fleet_release(&fleet);
}

Test(fleet, as_many_budgets_as_workers_are_kept_and_no_more)
{
    struct smoe_fleet fleet;
    cr_assert_eq(smoe_fleet_init(&fleet, 2), 0);
    smoe_fleet_set_budget(&fleet, "a", 1);
    smoe_fleet_set_budget(&fleet, "b", 2);
    smoe_fleet_set_budget(&fleet, "c", 3);
    cr_assert(isinf(smoe_fleet_budget(&fleet, "c")));
    smoe_fleet_set_budget(&fleet, "b", 4);
    cr_assert_eq(smoe_fleet_budget(&fleet, "b"), 4, "one that has a budget may get another");
    smoe_fleet_set_budget(&fleet, "a", (double)INFINITY);
    smoe_fleet_set_budget(&fleet, "c", 3);
    cr_assert_eq(smoe_fleet_budget(&fleet, "c"), 3);
    cr_assert_eq(smoe_fleet_budget(&fleet, "b"), 4);
    smoe_fleet_release(&fleet);
}

/* 4e-27 (1e9)^3 = 4 W while it computes at its highest, on two lanes. */
static struct smoe_worker powered(void)
{
    struct smoe_worker w = {.state = SMOE_WORKER_READY,
                            .lanes = 2,
                            .freq_max_hz = 5e8,
                            .budget_w = 1,
                            .cap_w = (double)INFINITY,
                            .debt_ns = SECOND};
    smoe_learned_init(&w.learned, &(struct smoe_priors){.busy_w = 4}, SMOE_POWER_CUBE);
    return w;
}

/* `cycles` more were done without a pause, for `joules` more; from here on a lane runs at khz. */
static void report_power(struct smoe_worker *w, uint64_t now_ns, uint64_t cycles, double joules,
                         uint64_t khz)
{
    struct smoe_msg_report m = w->report;
    m.sequence = w->sequence;
    m.active_ns += w->report.freq_khz ? cycles * 1000000 / (w->report.freq_khz * 2) : 0;
    m.cycles += cycles;
    m.joules += joules;
    m.freq_khz = khz;
    m.freq_max_hz = 5e8;
    smoe_worker_reported(w, &m, now_ns);
}

Test(fleet, what_its_work_draws_is_taken_from_its_hello_until_meters_teach_it)
{
    struct smoe_worker w = powered();
    cr_assert_float_eq(smoe_worker_kappa(&w) * 1e27, 4, 1e-9);
    report_power(&w, SECOND, 0, 0, 500000);
    for (uint64_t i = 0; i < 20; i++) /* a second each: 2 W */
        report_power(&w, (2 + i) * SECOND, 1000000000, 2, 500000);
    cr_assert_float_eq(smoe_worker_kappa(&w) * 1e27, 2, 0.02);
    w.learned.power.n = 0;
    w.learned.priors.busy_w = 0;
    cr_assert_eq(smoe_worker_kappa(&w), 0, "neither said nor metered: no model");
}

static void report_source(struct smoe_worker *w, const char *source, uint64_t now_ns,
                          uint64_t cycles, double joules)
{
    snprintf(w->report.energy_source, sizeof w->report.energy_source, "%s", source);
    report_power(w, now_ns, cycles, joules, 500000); /* which copies what was not changed */
}

/* 2 W while it computes, without a pause; budget 1 W. */
static struct smoe_worker metered(void)
{
    struct smoe_worker w = powered();
    report_source(&w, "rapl", SECOND, 0, 0);
    for (uint64_t i = 0; i < 20; i++)
        report_source(&w, "rapl", (2 + i) * SECOND, 1000000000, 2);
    cr_assert_float_eq(w.debt_j, 20, 1e-6);
    return w;
}

Test(fleet, a_meter_that_is_lost_pays_off_no_debt)
{
    struct smoe_worker w = metered();
    for (uint64_t i = 0; i < 10; i++)
        report_source(&w, SMOE_METER_LOST, (22 + i) * SECOND, 1000000000, 0);
    cr_assert_float_eq(w.debt_j, 30, 0.2, "%g: by the model of 2 W", w.debt_j);
    cr_assert_float_eq(w.joules, 60, 0.2);
    cr_assert_float_eq(w.learned.watts, 1.7, 0.2, "%g", w.learned.watts);
}

/* What was drawn before the meter was found to be lost is not forgotten either. */
Test(fleet, a_meter_is_modelled_from_when_it_moved_last)
{
    struct smoe_worker w = metered();
    report_source(&w, "rapl", 22 * SECOND, 1000000000, 0); /* stands still, and may yet move */
    cr_assert_float_eq(w.debt_j, 19, 1e-6);
    report_source(&w, SMOE_METER_LOST, 23 * SECOND, 1000000000, 0);
    cr_assert_float_eq(w.debt_j, 22, 0.1, "%g", w.debt_j);
}

Test(fleet, a_meter_that_comes_back_tells_what_the_model_did_not_know)
{
    for (int more = 0; more <= 1; more++) {
        struct smoe_worker w = metered();
        for (uint64_t i = 0; i < 10; i++)
            report_source(&w, SMOE_METER_LOST, (22 + i) * SECOND, 1000000000, 0);
        double kappa = smoe_worker_kappa(&w);
        report_source(&w, "rapl", 32 * SECOND, 1000000000, more ? 33 : 0); /* of 11 seconds */
        cr_assert_float_eq(w.joules, more ? 73 : 62, 0.3, "%g", w.joules);
        cr_assert_eq(smoe_worker_kappa(&w), kappa, "nothing is learned from what nobody saw");
        report_source(&w, "rapl", 33 * SECOND, 1000000000, 2);
        cr_assert_float_eq(w.joules, more ? 75 : 64, 0.3, "%g", w.joules);
    }
}

Test(fleet, a_meter_that_never_told_anything_is_modelled_by_the_node_s_own_word)
{
    struct smoe_worker w = powered();
    report_source(&w, "rapl", SECOND, 0, 0);
    for (uint64_t i = 0; i < 10; i++)
        report_source(&w, SMOE_METER_LOST, (2 + i) * SECOND, 1000000000, 0);
    cr_assert_float_eq(w.debt_j, 30, 1e-6, "%g: 4 W, and a budget of 1 W", w.debt_j);
    cr_assert_eq(w.learned.power.n, 0);
}

/* The work between two reports is compared with the frequency that was in force meanwhile: a worker that
 * is told another every slot is not a slow one, nor does its power seem to change. */
Test(fleet, a_changing_frequency_is_not_mistaken_for_a_worker_that_lags)
{
    struct smoe_worker w = powered();
    report_power(&w, SECOND, 0, 0, 250000);
    for (uint64_t i = 0; i < 20; i++) { /* a second at 1/2 W, half a second at 4 W, .. */
        bool slow = i % 2 == 0;
        report_power(&w, (2 + i) * SECOND, 500000000, slow ? 0.5 : 2, slow ? 500000 : 250000);
        cr_assert_float_eq(smoe_worker_efficiency(&w), 1, 1e-9);
        cr_assert_float_eq(smoe_worker_kappa(&w) * 1e27, 4, 1e-9);
    }
}

Test(fleet, a_throttled_worker_is_not_believed_to_work_at_its_highest_frequency)
{
    struct smoe_worker w = powered();
    double executable;
    uint64_t flops = (uint64_t)(1e9 / SMOE_COST_PRIOR); /* a second's work at 1 GHz */
    smoe_worker_assign(&w, (uint64_t[]){flops, 0}, SECOND);
    report_power(&w, SECOND, 0, 0, 125000); /* a quarter of it */
    w.report.queue_forward_flops = flops;
    smoe_worker_backlog(&w, flops / 100, false, 2 * SECOND, &executable);
    cr_assert_float_eq(executable, 75, 1e-6);
}

Test(fleet, the_debt_has_what_was_worked_off_since_the_last_report)
{
    struct smoe_worker w = powered();
    uint64_t flops = (uint64_t)(1e9 / SMOE_COST_PRIOR);
    smoe_worker_assign(&w, (uint64_t[]){flops, 0}, SECOND);
    report_power(&w, SECOND, 0, 0, 500000);
    w.report.queue_forward_flops = flops;
    w.debt_j = 10;
    cr_assert_float_eq(smoe_worker_debt(&w, SECOND), 10, 1e-9);
    cr_assert_float_eq(smoe_worker_debt(&w, SECOND + SECOND / 2), 10 + 2 - 0.5, 1e-6,
                       "half a second of 4 W, and a budget of 1 W");
    cr_assert_float_eq(smoe_worker_debt(&w, 3 * SECOND), 10 + 4 - 2, 1e-6,
                       "there was no more than a second's work");
    w.pending_flops[SMOE_FORWARD] = flops / 2; /* a result came: half of it is done for sure */
    w.progress_ns = SECOND + SECOND / 2;
    cr_assert_float_eq(smoe_worker_debt(&w, SECOND + SECOND / 2), 10 + 2 - 0.5, 1e-6);
    w.budget_w = (double)INFINITY;
    cr_assert_eq(smoe_worker_debt(&w, 3 * SECOND), 0);
}
