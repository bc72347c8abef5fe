/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is blamed for what, and what becomes of it.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

#define SEC (1000 * MS)

/* ---- strikes alone ---- */

static struct smoe_quarantine q;
static const struct smoe_quarantine_rules rules = {.strikes_max = 3, .quarantine_ns = 60 * SEC};

static void begin_alone(void)
{
    cr_assert_eq(smoe_quarantine_init(&q, 2), 0);
}

static void end_alone(void)
{
    smoe_quarantine_release(&q);
}

static uint64_t left_ns(const char *worker, uint64_t now_ns)
{
    const struct smoe_conduct *c = smoe_quarantine_find(&q, &rules, worker, now_ns);
    return c ? smoe_quarantine_left_ns(c, &rules, now_ns) : 0;
}

Test(quarantine, begins_with_the_last_strike_it_takes_and_ends_by_itself, .init = begin_alone,
     .fini = end_alone)
{
    cr_assert_eq(smoe_quarantine_strike(&q, &rules, "a", "one", 1 * SEC), 1);
    cr_assert_eq(smoe_quarantine_strike(&q, &rules, "a", "two", 2 * SEC), 2);
    cr_assert_eq(left_ns("a", 2 * SEC), 0);
    cr_assert_eq(smoe_quarantine_strike(&q, &rules, "a", "three", 3 * SEC), 3);
    cr_assert_str_eq(smoe_quarantine_find(&q, &rules, "a", 3 * SEC)->why, "three");
    cr_assert_eq(left_ns("a", 3 * SEC), 60 * SEC);
    cr_assert_eq(left_ns("a", 63 * SEC - 1), 1);
    cr_assert_null(smoe_quarantine_find(&q, &rules, "a", 63 * SEC));
    cr_assert_eq(smoe_quarantine_strike(&q, &rules, "a", "again", 63 * SEC), 1, "a clean slate");
    cr_assert_eq(left_ns("b", 3 * SEC), 0);
}

Test(quarantine, forgets_strikes_that_are_far_apart, .init = begin_alone, .fini = end_alone)
{
    for (uint64_t i = 0; i < 10; i++)
        cr_assert_eq(smoe_quarantine_strike(&q, &rules, "a", "", i * 60 * SEC), 1);
}

Test(quarantine, is_never_where_no_number_of_strikes_is_too_many, .init = begin_alone,
     .fini = end_alone)
{
    const struct smoe_quarantine_rules never = {.strikes_max = 0, .quarantine_ns = 60 * SEC};
    for (int i = 0; i < 9; i++)
        smoe_quarantine_strike(&q, &never, "a", "", SEC);
    cr_assert_eq(smoe_quarantine_left_ns(smoe_quarantine_find(&q, &never, "a", SEC), &never, SEC),
                 0);
}

Test(quarantine, remembers_so_many_names_and_those_that_were_struck_last, .init = begin_alone,
     .fini = end_alone)
{
    smoe_quarantine_strike(&q, &rules, "a", "", 1 * SEC);
    smoe_quarantine_strike(&q, &rules, "b", "", 2 * SEC);
    smoe_quarantine_strike(&q, &rules, "a", "", 3 * SEC);
    smoe_quarantine_strike(&q, &rules, "c", "", 4 * SEC);
    cr_assert(smoe_quarantine_knows(&q, "a"));
    cr_assert_not(smoe_quarantine_knows(&q, "b"));
    cr_assert(smoe_quarantine_knows(&q, "c"));
    cr_assert(smoe_quarantine_pardon(&q, "a"));
    cr_assert_not(smoe_quarantine_pardon(&q, "a"));
    cr_assert_not(smoe_quarantine_knows(&q, "a"));
    cr_assert(smoe_quarantine_knows(&q, "c"));
}

Test(quarantine, clears_a_worker_when_another_s_numbers_are_no_better, .init = begin_alone,
     .fini = end_alone)
{
    const struct smoe_doubt doubt = {.layer = 1, .expert = 2, .run = 3, .step = 4};
    cr_assert(smoe_quarantine_doubt(&q, &doubt, "a"));
    smoe_quarantine_strike(&q, &rules, "a", "", SEC);
    cr_assert(smoe_quarantine_doubt(&q, &doubt, "a"), "the same worker proves nothing");
    smoe_quarantine_strike(&q, &rules, "a", "", SEC);
    cr_assert_not(smoe_quarantine_doubt(&q, &doubt, "b"));
    cr_assert_not(smoe_quarantine_knows(&q, "a"), "both strikes are taken back");
    cr_assert_not(smoe_quarantine_doubt(&q, &doubt, "c"), "the expert has diverged");
    for (int i = 0; i < 4; i++) {
        struct smoe_doubt other = doubt;
        uint64_t *field[] = {&other.run, &other.step};
        other.layer += i == 0;
        other.expert += i == 1;
        if (i >= 2)
            ++*field[i - 2];
        cr_assert(smoe_quarantine_doubt(&q, &other, "b"), "another subject, %d", i);
    }
}

Test(quarantine, knows_of_a_divergence_only_what_another_was_struck_for, .init = begin_alone,
     .fini = end_alone)
{
    const struct smoe_doubt doubt = {.layer = 1, .expert = 2, .run = 3, .step = 4};
    cr_assert_not(smoe_quarantine_confirmed(&q, &doubt, "a"));
    cr_assert(smoe_quarantine_doubt(&q, &doubt, "a"));
    smoe_quarantine_strike(&q, &rules, "a", "", SEC);
    cr_assert_not(smoe_quarantine_confirmed(&q, &doubt, "a"), "it does not confirm itself");
    cr_assert(smoe_quarantine_confirmed(&q, &doubt, "b"));
    cr_assert_not(smoe_quarantine_knows(&q, "a"));
}

/* ---- in the core: two workers, each with copies of the other's experts ---- */

static struct scene s;
static uint32_t a, b, t, layer;
static const uint64_t first[] = {1};

static void begin(void)
{
    struct smoe_core_options o = scene_options();
    struct smoe_layer_shape shape = scene_shape(4);
    o.settings.copies = 2;
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void end(void)
{
    scene_end(&s);
}

static struct smoe_verdict submit(uint64_t batch)
{
    struct scene_submit o = {.batch = batch, .layer = layer, .tokens = 8, .top_k = 2};
    return scene_submit(&s, t, &o);
}

static uint64_t strikes(void)
{
    return smoe_core_quarantine(s.core)->strikes;
}

static size_t results(void)
{
    return mail_count(&s.mail, t, SMOE_MSG_RESULT);
}

static uint32_t return_of(const char *name)
{
    uint32_t session = scene_worker(&s, name);
    scene_work_all(&s);
    return session;
}

Test(conduct, a_result_that_cannot_be_reaches_nobody_and_is_asked_of_another, .init = begin,
     .fini = end)
{
    submit(1);
    scene_pass(&s, 20 * MS);
    s.bad_numbers = true;
    scene_answer(&s, a, SMOE_MSG_DECISION);
    s.bad_numbers = false;
    cr_assert_eq(results(), 0);
    scene_assert_error(&s, a, SMOE_ENOTFINITE, "that cannot be (strike 1 of 3)");
    cr_assert(s.closed[a]);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_NEED), 1, "its visits come again");
    scene_work_all(&s);
    cr_assert_eq(submit(1).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.in_flight, 16, "all have their results");
    cr_assert_eq(strikes(), 1);
}

Test(conduct, the_second_worker_with_such_results_clears_the_first, .init = begin, .fini = end)
{
    submit(1);
    scene_pass(&s, 20 * MS);
    s.bad_numbers = true;
    scene_answer(&s, a, SMOE_MSG_DECISION);
    s.bad_numbers = false;
    scene_work_all(&s); /* b takes the experts over */
    submit(1);
    scene_pass(&s, 20 * MS);
    s.bad_numbers = true;
    scene_answer(&s, b, SMOE_MSG_DECISION);
    s.bad_numbers = false;
    /* What a was doubted for comes through; what b alone was asked for is b's own first strike. */
    cr_assert_not(smoe_quarantine_knows(smoe_core_quarantine(s.core), "a"));
}

Test(conduct, three_strikes_keep_a_worker_out_until_it_is_undrained_or_time_has_passed,
     .init = begin, .fini = end)
{
    for (uint32_t i = 0; i < 3; i++) {
        struct smoe_message step_done = {.type = SMOE_MSG_INVENTORY};
        scene_say(&s, a, &step_done); /* twice on a connection */
        scene_assert_error(&s, a, SMOE_ESTATE, "sent already (strike ");
        if (i < 2)
            a = return_of("a");
    }
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "a");
    uint32_t session = scene_join(&s, &hello);
    cr_assert(s.closed[session]);
    scene_assert_error(&s, session, SMOE_EQUARANTINED,
                       "worker a is in quarantine for 2 min more: 3 strikes, the last: INVENTORY");
    scene_pass(&s, 20 * SEC); /* longer than its lease: its name is remembered */
    session = scene_join(&s, &hello);
    scene_assert_error(&s, session, SMOE_EQUARANTINED, "for 1 min more");
    scene_drain(&s, "a", false);
    return_of("a");
}

Test(conduct, a_quarantine_ends, .init = begin, .fini = end)
{
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    for (uint32_t i = 0; i < 3; i++) {
        scene_say(&s, a, &inventory);
        if (i < 2)
            a = return_of("a");
    }
    scene_pass(&s, 60 * SEC);
    return_of("a");
}

Test(conduct, that_is_no_worker_s_fault_is_no_strike, .init = begin, .fini = end)
{
    scene_close(&s, a); /* a connection that breaks */
    return_of("a");
    scene_tick(&s, 4 * SEC); /* silence: a moment in which nobody ran */
    cr_assert_eq(strikes(), 0);
}

Test(conduct, a_trainer_s_x_that_cannot_be_is_refused_and_costs_no_credit, .init = begin,
     .fini = end)
{
    uint64_t window = scene_options().settings.window_bytes;
    for (uint64_t batch = 1; batch < 2 * window / 256; batch++) {
        s.bad_numbers = true;
        submit(batch);
        s.bad_numbers = false;
        scene_assert_error(&s, t, SMOE_ENOTFINITE,
                           "SUBMIT: numbers must be finite and their magnitude at most 1e18");
    }
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.fatal, false);
    cr_assert_eq(submit(1).kind, SMOE_TAKE);
    cr_assert_eq(strikes(), 0);
}

Test(conduct, what_workers_make_of_a_gradient_that_cannot_be_is_not_their_fault, .init = begin,
     .fini = end)
{
    submit(1);
    scene_work_all(&s);
    s.bad_numbers = true;
    cr_assert_eq(scene_gradient(&s, t, 1).kind, SMOE_TAKE);
    s.square_norm = -1;
    scene_step(&s, t, 1, first, 1);
    scene_work_all(&s);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "STEP 1: a gradient of an expert is not finite");
    cr_assert_eq(strikes(), 0);
    cr_assert_not(s.closed[a]);
    cr_assert_not(s.closed[b]);
}

Test(conduct, a_norm_that_cannot_be_of_a_sound_gradient_is_its_host_s_fault, .init = begin,
     .fini = end)
{
    submit(1);
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, 1).kind, SMOE_TAKE);
    scene_work_all(&s);
    s.square_norm = 1.01e36;
    scene_step(&s, t, 1, first, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    s.square_norm = 1;
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    cr_assert_eq(mail_count(&s.mail, ANYONE, SMOE_MSG_STEP_STAGE), 0);
    scene_assert_error(&s, a, SMOE_ENOTFINITE, "STEP_NORM: numbers of expert ");
    cr_assert(s.closed[a]);
    cr_assert_not(s.closed[b]);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_NEED), 1);
    cr_assert_eq(strikes(), 1);
}

Test(conduct, a_host_that_is_leaving_when_the_norms_are_in_is_not_sent_away_again)
{
    struct smoe_core_options o = scene_options();
    struct smoe_layer_shape shape = scene_shape(4);
    o.settings.copies = 2;
    o.journal = true;
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    uint32_t other = scene_trainer(&s, "other");
    uint32_t others = scene_layer(&s, other, "others", &shape);
    struct scene_submit batch = {.batch = 1, .layer = others, .tokens = 8, .top_k = 2};
    cr_assert_eq(scene_submit(&s, other, &batch).kind, SMOE_TAKE);
    submit(1);
    scene_work_all(&s);
    scene_gradient(&s, other, 1);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    scene_step(&s, other, 1, first, 1);
    scene_work_all(&s); /* it is being committed: the journal has not answered */
    s.square_norm = 1.01e36;
    scene_step(&s, t, 1, first, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_close(&s, a); /* its loss waits for that commit */
    s.square_norm = 1;
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    scene_journalled(&s, 100);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_STEP_DONE), 0);
    cr_assert_geq(mail_count(&s.mail, t, SMOE_MSG_NEED), 1, "the attempt ended with its host");
    scene_end(&s);
}

/* ---- one worker, which alone has every expert ---- */

static void begin_single(void)
{
    struct smoe_core_options o = scene_options();
    struct smoe_layer_shape shape = scene_shape(4);
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void answer_badly(enum smoe_message_type question)
{
    s.bad_numbers = true;
    scene_answer(&s, a, question);
    s.bad_numbers = false;
}

static void nobody_was_blamed(void)
{
    cr_assert_eq(strikes(), 0);
    cr_assert_not(s.closed[a]);
}

Test(conduct, results_of_an_only_holder_that_cannot_be_fail_the_batch_and_nobody_is_struck,
     .init = begin_single, .fini = end)
{
    for (uint64_t batch = 1; batch <= 5; batch++) { /* more often than it takes to be put out */
        cr_assert_eq(submit(batch).kind, SMOE_TAKE);
        scene_pass(&s, 20 * MS);
        answer_badly(SMOE_MSG_DECISION);
        scene_assert_error(&s, t, SMOE_ENOTFINITE, "OUTPUT: numbers of expert ");
        scene_assert_error(&s, t, SMOE_ENOTFINITE,
                           " of layer moe that cannot be; only worker a holds it");
        const struct smoe_msg_error *e = &mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error;
        cr_assert_eq(e->batch, batch);
        cr_assert_not(e->fatal);
        nobody_was_blamed();
        cr_assert_eq(scene_totals(&s).account.in_flight, 0);
    }
    cr_assert_eq(results(), 0, "none of it was passed on");
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_ERROR), 5, "once a batch");
    submit(6);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.in_flight, 16, "the next one may be sound");
}

Test(conduct, input_gradients_of_an_only_holder_that_cannot_be_take_the_batch_out_of_the_sums,
     .init = begin_single, .fini = end)
{
    submit(1);
    submit(2);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_step(&s, t, 1, (uint64_t[]){1}, 1); /* refused: 2 has no gradient */
    scene_gradient(&s, t, 2);
    answer_badly(SMOE_MSG_BACKPROP);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "PARCEL_GRADIENT: numbers of expert ");
    nobody_was_blamed();
    cr_assert_eq(mail_count(&s.mail, a, SMOE_MSG_RESET), 1, "its share of the sums goes");
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_NEED), 1, "what else there was comes again");
    submit(2);
    scene_work_all(&s);
    scene_gradient(&s, t, 2);
    scene_work_all(&s);
    scene_step(&s, t, 1, (uint64_t[]){2}, 1);
    scene_work_all(&s);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_STEP_DONE), 1);
}

Test(conduct, a_norm_of_an_only_holder_that_cannot_be_fails_the_step_and_names_the_layer,
     .init = begin_single, .fini = end)
{
    for (int i = 0; i < 5; i++) {
        submit(1);
        scene_work_all(&s);
        scene_gradient(&s, t, 1);
        scene_work_all(&s);
        s.square_norm = 1.01e36;
        scene_step(&s, t, 1, first, 1);
        scene_work_all(&s);
        s.square_norm = 1;
        scene_assert_error(&s, t, SMOE_ENOTFINITE,
                           "STEP 1: a gradient of an expert is not finite: expert 0 of layer moe");
        nobody_was_blamed();
    }
}

Test(conduct, a_follower_that_is_away_cannot_be_asked, .init = begin, .fini = end)
{
    scene_close(&s, b);
    scene_work_all(&s); /* its experts are a's now */
    submit(1);
    scene_pass(&s, 20 * MS);
    answer_badly(SMOE_MSG_DECISION);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "only worker a holds it");
    nobody_was_blamed();
}

Test(conduct, bad_numbers_said_twice_are_passed_over, .init = begin_single, .fini = end)
{
    submit(1);
    scene_work_all(&s);
    const struct smoe_message *d = &mail_last(&s.mail, a, SMOE_MSG_DECISION)->m;
    struct smoe_message again = {.type = SMOE_MSG_OUTPUT};
    again.output.parcel = d->decision.parcels[0].id;
    s.bad_numbers = true;
    cr_assert_eq(scene_say(&s, a, &again).kind, SMOE_IGNORE);
    s.bad_numbers = false;
    nobody_was_blamed();
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_ERROR), 0);
}
