/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

static struct scene s; /* large; Criterion gives every test a process of its own */

/* Workers a and b, and trainer t with a layer of four experts: 0 and 2 stand on a, 1 and 3 on b. */
static uint32_t a, b, t, layer;

static void begin_with(const struct smoe_core_options *options)
{
    struct smoe_layer_shape shape = scene_shape(4);
    scene_begin(&s, options);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void begin(void)
{
    begin_with(NULL);
}

static void end(void)
{
    scene_end(&s);
}

static void submit(uint64_t batch, uint32_t tokens, uint32_t top_k)
{
    struct scene_submit o = {.batch = batch, .layer = layer, .tokens = tokens, .top_k = top_k};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
}

/* `n` visits that only worker a can serve, to be evaluated: tokens that were routed to its expert
 * 0. */
static void load_a(uint64_t batch, uint32_t n)
{
    uint16_t *experts = calloc(n, sizeof *experts);
    struct scene_submit o = {.batch = batch,
                             .layer = layer,
                             .tokens = n,
                             .top_k = 1,
                             .evaluate = true,
                             .experts = experts};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    free(experts);
}

/* ---- when ---- */

Test(slot, closes_at_once_when_tokens_wait_and_a_worker_is_idle, .init = begin, .fini = end)
{
    submit(1, 32, 2);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 64, "without any time passing");
    cr_assert_eq(scene_totals(&s).slots_early, 1);
}

Test(slot, waits_for_its_deadline_while_everybody_is_busy, .init = begin, .fini = end)
{
    submit(1, 32, 2);
    submit(2, 8, 1);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 64);
    scene_tick_at(&s, s.wake_ns - 1);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 64);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 72);
    cr_assert_eq(scene_totals(&s).slots_early, 1);
}

Test(slot, closes_early_again_as_soon_as_one_worker_has_nothing_left, .init = begin, .fini = end)
{
    submit(1, 32, 2);
    submit(2, 8, 1);
    scene_work(&s, a); /* b is still busy */
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 72);
    cr_assert_eq(scene_totals(&s).slots_early, 2);
}

Test(slot, keeps_its_deadlines_absolute_when_a_tick_comes_late, .init = begin, .fini = end)
{
    uint64_t first = s.wake_ns;
    scene_tick_at(&s, first + 3 * MS);
    cr_assert_eq(s.wake_ns, first + 20 * MS);
    cr_assert_eq(scene_totals(&s).slots_missed, 0);
    scene_tick_at(&s, first + 20 * MS + 47 * MS); /* two whole slots went by */
    cr_assert_eq(s.wake_ns, first + 80 * MS);
    cr_assert_eq(scene_totals(&s).slots_missed, 2);
    cr_assert_eq(scene_totals(&s).lateness.count, 2);
}

Test(slot, with_nothing_new_sends_no_decision, .init = begin, .fini = end)
{
    submit(1, 4, 1);
    scene_work_all(&s);
    scene_tick_at(&s, s.wake_ns);
    size_t before = mail_count(&s.mail, ANYONE, SMOE_MSG_DECISION);
    for (int i = 0; i < 10; i++)
        scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(mail_count(&s.mail, ANYONE, SMOE_MSG_DECISION), before);
}

Test(slot, sends_a_worker_one_decision_however_many_batches_it_serves, .init = begin, .fini = end)
{
    submit(1, 32, 2);
    size_t before = mail_count(&s.mail, ANYONE, SMOE_MSG_DECISION);
    for (uint64_t i = 2; i < 12; i++)
        submit(i, 8, 2);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_leq(mail_count(&s.mail, a, SMOE_MSG_DECISION), before / 2 + 1);
    cr_assert_eq(mail_count(&s.mail, ANYONE, SMOE_MSG_DECISION), before + 2);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 64 + 160);
}

Test(slot, planned_as_a_whole_slot_lasts_one_even_if_a_worker_idles, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.settings.plan = SMOE_PLAN_SLOT;
    begin_with(&o);
    submit(1, 32, 2);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 0);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 64);
    cr_assert_eq(scene_totals(&s).slots_early, 0);
}

/* ---- how fast ---- */

enum { VISIT_FLOPS = 2 * 2 * 4 * 8 }; /* of scene_shape */

static struct smoe_message metered; /* a's last Report */

static const struct smoe_msg_decision *told_a(void)
{
    return &mail_last(&s.mail, a, SMOE_MSG_DECISION)->m.decision;
}

/* Worker a has done so many more evaluations of a million cycles, and obeys. */
static void report_of_a(uint64_t visits)
{
    struct smoe_msg_report *m = &metered.report;
    bool told = mail_count(&s.mail, a, SMOE_MSG_DECISION) > 0;
    uint64_t cycles = visits * 1000000;
    metered.type = SMOE_MSG_REPORT;
    m->active_ns += m->freq_khz ? cycles * 1000000 / m->freq_khz : 0;
    m->forward_flops += visits * VISIT_FLOPS;
    m->forward_cycles += cycles;
    m->cycles += cycles;
    m->joules += (double)visits * 8e-3 * ((double)m->freq_khz / 1e6) * ((double)m->freq_khz / 1e6);
    m->freq_max_hz = 1e9;
    m->freq_khz = told ? told_a()->freq_khz : 1000000;
    m->sequence = told ? told_a()->sequence : 0;
    scene_say(&s, a, &metered);
}

static const uint64_t STATES_KHZ[] = {200000, 400000, 600000, 800000, 1000000};

/* Worker a draws 8 W at 1 GHz and may draw 1 W on average, which is 500 MHz. */
static void begin_with_power(double cap_watts, size_t n_states)
{
    struct smoe_layer_shape shape = scene_shape(4);
    struct smoe_core_options o = scene_options();
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "a");
    o.settings.plan = SMOE_PLAN_SLOT;
    o.settings.v = n_states ? 1e6 : 50; /* with states all work is worth its energy */
    o.settings.silence_ns = 60000 * MS;
    strcpy(hello.freq_driver, "cpufreq");
    hello.busy_watts = 8;
    hello.budget_watts = 1;
    hello.cap_watts = cap_watts;
    hello.freq_states_khz = STATES_KHZ;
    hello.n_freq_states = n_states;
    scene_begin(&s, &o);
    a = scene_join(&s, &hello);
    scene_say(&s, a, &inventory);
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    scene_tick_at(&s, s.wake_ns);
    report_of_a(0);
    double part =
        (double)metered.report.freq_khz / 1e6; /* without a debt it may be less than all */
    report_of_a((uint64_t)(1000 / (cap_watts > 0 ? 1 : part * part))); /* 8 J, in no time */
}

/* What a is told, at the end of a slot that brings it so many evaluations. [MHz] */
static double mhz_for(uint64_t batch, uint32_t visits)
{
    load_a(batch, visits);
    scene_tick_at(&s, s.wake_ns);
    return (double)told_a()->freq_khz / 1000;
}

Test(frequency, a_cap_on_power_binds, .fini = end)
{
    begin_with_power(1, 0);
    scene_tick(&s, 20000 * MS); /* the debt is paid off */
    report_of_a(0);
    double mhz = mhz_for(1, 4);
    cr_assert_float_eq(mhz, 500, 1, "1 W of 8 W is half the frequency, not %g MHz", mhz);
}

/* Slots of 20 ms are 20 visits at 1 GHz. */
Test(frequency, a_worker_in_debt_runs_as_fast_as_its_new_work_is_worth, .fini = end)
{
    begin_with_power(0, 0);
    scene_tick(&s, 7780 * MS); /* at the next deadline 0.2 J of the debt are left */
    report_of_a(0);
    double few = mhz_for(1, 3);
    cr_assert_float_eq(few, 150, 1, "three visits in a slot, not %g MHz", few);
    report_of_a(0);
    double many = mhz_for(2, 200);
    cr_assert_gt(many, few);
    cr_assert_lt(many, 1000, "as many as are worth their energy, not all that it could");
}

Test(frequency, deep_in_debt_it_is_the_lowest, .fini = end)
{
    begin_with_power(0, 0);
    report_of_a(1000000);
    double mhz = mhz_for(1, 4);
    cr_assert_float_eq(mhz, 0.001, 1e-9, "%g MHz", mhz);
}

Test(frequency, a_deadline_that_is_noticed_late_does_not_cost_a_change, .fini = end)
{
    begin_with_power(0, 0);
    scene_tick(&s, 7700 * MS);
    uint64_t deadline = s.wake_ns;
    for (uint32_t i = 0; i < 6; i++, deadline += 20 * MS) {
        uint32_t visits = i % 2 ? 1 : 3;
        report_of_a(0);
        load_a(1 + i, visits);
        scene_tick_at(&s, deadline + (i % 2 ? 0 : 5 * MS)); /* 15 ms and 25 ms apart */
        cr_assert_float_eq((double)told_a()->freq_khz / 1000, visits * 50, 1, "slot %u: %g MHz", i,
                           (double)told_a()->freq_khz / 1000);
        scene_work(&s, a);
    }
}

/* Ten visits a slot are 500 MHz, of which there are 400 and 600. */
Test(frequency, two_states_share_the_time_as_the_frequency_lies_between_them, .fini = end)
{
    begin_with_power(0, 5);
    uint32_t of_slots[2] = {0};
    for (uint32_t i = 0; i < 100; i++) {
        double mhz = mhz_for(1 + i, 10);
        cr_assert(mhz == 400 || mhz == 600, "slot %u: %g MHz is no state to be in", i, mhz);
        of_slots[mhz == 600]++;
        scene_work(&s, a);
        report_of_a(10);
    }
    cr_assert_float_eq(of_slots[1], 50, 8, "%u of 100 slots at 600 MHz", of_slots[1]);
}

Test(frequency, below_the_slowest_state_it_is_that_one, .fini = end)
{
    begin_with_power(0, 5);
    for (uint32_t i = 0; i < 5; i++) {
        double mhz = mhz_for(1 + i, 1);
        cr_assert_eq(mhz, 200, "%g MHz", mhz);
        scene_work(&s, a);
        report_of_a(1);
    }
}

Test(frequency, a_cap_between_two_states_is_kept_on_average, .fini = end)
{
    begin_with_power(1, 5);
    scene_tick(&s,
               20000 * MS); /* the debt is paid off: energy is free, but for the cap of 500 MHz */
    double sum = 0;
    for (uint32_t i = 0; i < 40; i++) {
        report_of_a(0);
        double mhz = mhz_for(1 + i, 10);
        cr_assert(mhz == 400 || mhz == 600, "%g MHz", mhz);
        sum += mhz / 40;
        scene_work(&s, a);
    }
    cr_assert_lt(sum, 520, "%g MHz", sum);
}

/* ---- who: each policy keeps its promise ---- */

static void begin_policy(enum smoe_policy policy)
{
    struct smoe_core_options o = scene_options();
    o.settings.policy = policy;
    begin_with(&o);
}

/* Experts of the K largest scores, each token: how many visits each expert must get. */
static void count_topk(const float *scores, uint32_t tokens, uint32_t k, uint32_t counts[4])
{
    for (uint32_t i = 0; i < tokens; i++)
        for (uint32_t e = 0; e < 4; e++) {
            uint32_t better = 0;
            for (uint32_t o = 0; o < 4; o++)
                better += scores[i * 4 + o] > scores[i * 4 + e];
            counts[e] += better < k;
        }
}

Test(policy, topk_serves_every_token_by_its_best_experts_whatever_their_queues, .fini = end)
{
    float scores[64 * 4];
    uint32_t counts[4] = {0};
    begin_policy(SMOE_POLICY_TOPK);
    load_a(1, 500);
    for (uint32_t i = 0; i < 64 * 4; i++)
        scores[i] = (float)((i * 7919u + i / 4 * 13u) % 257u) / 257.0f;
    count_topk(scores, 64, 2, counts);
    struct scene_submit o = {
        .batch = 2, .layer = layer, .tokens = 64, .top_k = 2, .scores = scores};
    scene_submit(&s, t, &o);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits_of(&s, a, 0), 500 + counts[0]);
    cr_assert_eq(scene_visits_of(&s, b, 1), counts[1]);
    cr_assert_eq(scene_visits_of(&s, a, 2), counts[2]);
    cr_assert_eq(scene_visits_of(&s, b, 3), counts[3]);
    cr_assert_eq(scene_totals(&s).choices_in_topk, 128);
}

Test(policy, queue_gives_a_loaded_worker_nothing_while_another_is_idle, .fini = end)
{
    begin_policy(SMOE_POLICY_QUEUE);
    load_a(1, 500);
    submit(2, 64, 1);
    cr_assert_eq(scene_visits(&s, a), 500);
    cr_assert_eq(scene_visits(&s, b), 64);
}

Test(policy, lyapunov_gives_a_saturated_worker_nothing_when_scores_do_not_care, .fini = end)
{
    float even[64 * 4];
    for (int i = 0; i < 64 * 4; i++)
        even[i] = 0.25f;
    begin_policy(SMOE_POLICY_LYAPUNOV);
    load_a(1, 500);
    struct scene_submit o = {.batch = 2, .layer = layer, .tokens = 64, .top_k = 1, .scores = even};
    scene_submit(&s, t, &o);
    cr_assert_eq(scene_visits(&s, a), 500);
    cr_assert_eq(scene_visits(&s, b), 64);
}

Test(policy, lyapunov_without_backlog_follows_the_scores, .fini = end)
{
    float scores[16 * 4];
    for (uint32_t i = 0; i < 16 * 4; i++) /* token i loves expert i mod 4 */
        scores[i] = i % 4 == i / 4 % 4 ? 0.97f : 0.01f;
    begin_policy(SMOE_POLICY_LYAPUNOV);
    struct scene_submit o = {
        .batch = 1, .layer = layer, .tokens = 16, .top_k = 1, .scores = scores};
    scene_submit(&s, t, &o);
    for (uint32_t e = 0; e < 4; e++)
        cr_assert_eq(scene_visits_of(&s, e % 2 ? b : a, e), 4);
}

Test(policy, energy_spares_the_worker_that_overspent, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.settings.policy = SMOE_POLICY_ENERGY;
    o.settings.worker_budget_w = 1;
    begin_with(&o);
    struct smoe_message m = {.type = SMOE_MSG_REPORT};
    m.report = (struct smoe_msg_report){.freq_max_hz = 1e9, .freq_khz = 1000000};
    scene_say(&s, a, &m);
    m.report.joules = 100; /* in no time at all */
    scene_say(&s, a, &m);
    submit(1, 64, 1);
    cr_assert_eq(scene_visits(&s, a), 0);
    cr_assert_eq(scene_visits(&s, b), 64);
}

Test(policy, random_serves_all_experts_alike_and_is_the_same_for_the_same_seed, .fini = end)
{
    uint32_t counts[2][4];
    for (int run = 0; run < 2; run++) {
        if (run)
            scene_end(&s);
        begin_policy(SMOE_POLICY_RANDOM);
        submit(1, 2000, 1);
        for (uint32_t e = 0; e < 4; e++) {
            counts[run][e] = scene_visits_of(&s, e % 2 ? b : a, e);
            cr_assert_geq(counts[run][e], 420, "expected 500, standard deviation 19");
            cr_assert_leq(counts[run][e], 580);
        }
    }
    cr_assert_arr_eq(counts[0], counts[1], sizeof counts[0]);
}

Test(policy, changes_with_the_next_slot_and_loses_nothing, .init = begin, .fini = end)
{
    struct smoe_core_settings settings = scene_options().settings;
    load_a(1, 500);
    settings.policy = SMOE_POLICY_QUEUE;
    scene_configure(&s, &settings);
    submit(2, 64, 1);
    cr_assert_eq(scene_visits(&s, b), 64);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_FORWARD_DONE], 64);
    cr_assert_eq(scene_totals(&s).account.settled, 500);
}

/* ---- frequency ---- */

static void report_ceiling(double hz)
{
    struct smoe_message m = {.type = SMOE_MSG_REPORT};
    m.report = (struct smoe_msg_report){.freq_max_hz = hz, .freq_khz = 1000000};
    scene_say(&s, a, &m);
}

Test(frequency, changes_in_every_slot_even_after_one_that_ended_late, .init = begin, .fini = end)
{
    report_ceiling(1e9);
    scene_tick_at(&s, s.wake_ns + 5 * MS);
    size_t told = mail_count(&s.mail, a, SMOE_MSG_DECISION);
    report_ceiling(2e9);
    scene_tick(&s, 10 * MS);
    cr_assert_eq(mail_count(&s.mail, a, SMOE_MSG_DECISION), told, "not before the slot ends");
    scene_tick(&s, 5 * MS);
    cr_assert_eq(mail_count(&s.mail, a, SMOE_MSG_DECISION), told + 1);
}

/* ---- drain ---- */

Test(drain, a_draining_worker_finishes_what_it_has_and_gets_nothing_new, .init = begin, .fini = end)
{
    submit(1, 32, 2);
    uint32_t had = scene_visits(&s, a);
    cr_assert_gt(had, 0);
    scene_drain(&s, "a", true);
    scene_work(&s, a);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_RESULT), 2, "its two experts' results");
    submit(3, 16, 1);
    scene_tick_at(&s, s.wake_ns);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits(&s, a), had);
}

Test(drain, a_draining_worker_computes_what_nobody_else_can_and_the_step_waits_for, .init = begin,
     .fini = end)
{
    submit(1, 32, 2);
    uint32_t had = scene_visits_of(&s, a, 0);
    scene_drain(&s, "a", true);
    load_a(2, 8);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits_of(&s, a, 0), had, "somebody else might do");
    scene_tick_at(&s, s.wake_ns);
    cr_assert_geq(scene_visits_of(&s, a, 0), had + 8);
}

Test(drain, shutting_down_takes_nothing_new_and_tells_when_the_last_result_is_out, .init = begin,
     .fini = end)
{
    submit(1, 32, 2);
    scene_shutdown(&s);
    cr_assert_not(s.drained);
    struct scene_submit late = {.batch = 2, .layer = layer, .tokens = 4, .top_k = 1};
    cr_assert_eq(scene_submit(&s, t, &late).kind, SMOE_IGNORE);
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "c");
    uint32_t c = scene_join(&s, &hello);
    scene_assert_error(&s, c, SMOE_EDRAINING, "shutting down");
    cr_assert(s.closed[c]);
    scene_work(&s, a);
    cr_assert_not(s.drained, "b still computes");
    scene_work(&s, b);
    cr_assert(s.drained);
}

Test(drain, with_nothing_in_flight_is_done_at_once, .init = begin, .fini = end)
{
    scene_shutdown(&s);
    cr_assert(s.drained);
}

/* ---- limits ---- */

Test(limits, a_worker_is_given_no_more_than_its_inbox_takes_and_the_rest_later, .fini = end)
{
    struct smoe_layer_shape shape = scene_shape(1);
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "a");
    hello.inbox_bytes_max = 10 * 16; /* rows of 16 bytes */
    scene_begin(&s, NULL);
    a = scene_join(&s, &hello);
    scene_say(&s, a, &(struct smoe_message){.type = SMOE_MSG_INVENTORY});
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    submit(1, 23, 1);
    for (uint32_t given = 10; given <= 20; given += 10) {
        scene_tick_at(&s, s.wake_ns);
        cr_assert_eq(scene_visits(&s, a), given);
        scene_answer(&s, a, SMOE_MSG_DECISION);
    }
    scene_work_all(&s);
    cr_assert_eq(scene_visits(&s, a), 23);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_FORWARD_DONE], 23);
}

Test(limits, a_slot_that_takes_few_tokens_only_takes_longer)
{
    static const struct {
        uint32_t slot_tokens, parcels, slots;
    } cases[] = {
        {1, 80, 40},  /* 40 tokens: as many slots */
        {39, 80, 2},  /* one below */
        {40, 80, 1},  /* at the limit */
        {4096, 4, 1}, /* a parcel for each expert is enough */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_core_options o = scene_options();
        o.limits.parcels_max = cases[i].parcels;
        o.limits.slot_tokens_max = cases[i].slot_tokens;
        begin_with(&o);
        uint64_t before = scene_totals(&s).slots;
        submit(1, 40, 2);
        for (uint32_t n = 1; n < cases[i].slots; n++) {
            cr_assert_lt(scene_visits(&s, a) + scene_visits(&s, b), 80, "case %zu", i);
            scene_tick_at(&s, s.wake_ns);
        }
        cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), 80, "case %zu", i);
        cr_assert_eq(scene_totals(&s).slots - before, cases[i].slots);
        scene_work_all(&s);
        cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_FORWARD_DONE], 80);
        scene_end(&s);
    }
}

Test(limits, when_every_parcel_is_uncommitted_the_next_submit_is_refused_with_the_number,
     .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.limits.parcels_max = 4;
    begin_with(&o);
    submit(1, 40, 2);
    struct scene_submit more = {.batch = 2, .layer = layer, .tokens = 4, .top_k = 1};
    cr_assert_eq(scene_submit(&s, t, &more).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ELIMIT, "4 parcels are uncommitted already");
}
