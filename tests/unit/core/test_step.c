/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tests/unit/core/scene.h"

static struct scene s;

/* Two workers that share a layer of four experts, and its trainer. */
static uint32_t a, b, t, layer;
static const uint64_t first[] = {1};

static void begin(void)
{
    struct smoe_layer_shape shape = scene_shape(4);
    scene_begin(&s, NULL);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void end(void)
{
    scene_end(&s);
}

static void submit(uint64_t batch)
{
    struct scene_submit o = {.batch = batch, .layer = layer, .tokens = 8, .top_k = 2};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
}

/* Batch `batch` with results and gradient given; its backward passes are asked for. */
static void give_gradient(uint64_t batch)
{
    submit(batch);
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, batch).kind, SMOE_TAKE);
}

static void settle(uint64_t batch)
{
    give_gradient(batch);
    scene_work_all(&s);
}

static size_t count(uint32_t session, enum smoe_message_type type)
{
    return mail_count(&s.mail, session, type);
}

Test(step, is_two_phases_and_commits_only_when_every_host_has_answered_both, .init = begin,
     .fini = end)
{
    settle(1);
    scene_step(&s, t, 1, first, 1);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 2);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_STAGE), 0, "b's norms are missing");
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_STAGE), 2);
    scene_answer(&s, b, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT), 0, "a has not staged");
    cr_assert_eq(scene_totals(&s).epoch, 7);
    scene_answer(&s, a, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(a, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(b, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(scene_totals(&s).epoch, 8);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], 16);
    cr_assert_eq(s.batches_freed, 1);
}

Test(step, waits_until_the_batches_it_names_are_settled, .init = begin, .fini = end)
{
    give_gradient(1);
    scene_step(&s, t, 1, first, 1);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 0);
    scene_answer(&s, a, SMOE_MSG_BACKPROP);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 0);
    cr_assert_str_eq(smoe_core_trainer(s.core, 0).waits_for,
                     "gradients of the batches its step names");
    scene_answer(&s, b, SMOE_MSG_BACKPROP);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 2);
}

Test(step, clips_all_experts_and_the_trainers_own_part_by_one_scale, .init = begin, .fini = end)
{
    struct smoe_message m;
    settle(1);
    s.square_norm = 9; /* of four experts each */
    m = scene_step_message(&s, t, 1, first, 1);
    m.step.clip_norm = 2;
    m.step.dense_square_norm = 28; /* together 64: the norm is 8 */
    scene_say(&s, t, &m);
    scene_work_all(&s);
    cr_assert_float_eq(mail_last(&s.mail, a, SMOE_MSG_STEP_STAGE)->m.step_stage.clip_scale, 0.25,
                       1e-12);
    cr_assert_float_eq(mail_last(&s.mail, t, SMOE_MSG_STEP_DONE)->m.step_done.clip_scale, 0.25,
                       1e-12);
    cr_assert_float_eq(mail_last(&s.mail, t, SMOE_MSG_STEP_DONE)->m.step_done.square_norm, 64,
                       1e-12);
}

Test(step, does_not_scale_a_norm_at_its_limit_or_without_one, .init = begin, .fini = end)
{
    static const double limits[] = {2, 0}; /* the norm of four ones is 2 */
    for (uint64_t i = 0; i < 2; i++) {
        settle(1 + i);
        struct smoe_message m = scene_step_message(&s, t, 1 + i, (uint64_t[]){1 + i}, 1);
        m.step.clip_norm = limits[i];
        scene_say(&s, t, &m);
        scene_work_all(&s);
        cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_STEP_DONE)->m.step_done.clip_scale, 1);
    }
}

/* As `settle`, with a gradient that has a NaN. */
static void settle_poisoned(uint64_t batch)
{
    submit(batch);
    scene_work_all(&s);
    s.bad_numbers = true;
    cr_assert_eq(scene_gradient(&s, t, batch).kind, SMOE_TAKE);
    scene_work_all(&s);
    s.bad_numbers = false;
}

Test(step, with_a_gradient_that_is_not_finite_is_refused_answered_and_leaves_no_trace,
     .init = begin, .fini = end)
{
    settle_poisoned(1);
    uint64_t attempt = scene_attempt(&s, t);
    s.square_norm = -1; /* as a worker says that it is not finite */
    scene_step(&s, t, 1, first, 1);
    scene_work_all(&s);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "STEP 1: a gradient of an expert is not finite");
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.request, 1);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_STAGE), 0);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT), 0);
    cr_assert_eq(count(a, SMOE_MSG_RESET), 1, "the poisoned sum is dropped");
    cr_assert_eq(count(b, SMOE_MSG_RESET), 1);
    cr_assert_eq(scene_attempt(&s, t), attempt + 1);
    cr_assert_eq(scene_totals(&s).account.failed, 16);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], 0);
    s.square_norm = 1;
    settle(1); /* the trainer sends it again, sound this time */
    scene_step(&s, t, 1, first, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

Test(step, whose_norm_is_larger_than_any_can_be_is_refused_too, .init = begin, .fini = end)
{
    settle_poisoned(1);
    s.square_norm = 1.01e36;
    scene_step(&s, t, 1, first, 1);
    scene_work_all(&s);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "not finite");
}

Test(step, takes_any_norm_that_can_be, .init = begin, .fini = end)
{
    settle(1);
    s.square_norm = 1e36;
    scene_step(&s, t, 1, first, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

/* A host is lost in each phase: nothing is committed, everything is asked for again, and what the
 * others still say about the old attempt means nothing. */
Test(step, that_loses_a_host_before_its_commit_has_never_been)
{
    static const enum smoe_message_type answered[] = {SMOE_MSG_BACKPROP, SMOE_MSG_STEP_PREPARE,
                                                      SMOE_MSG_STEP_STAGE};
    for (int phase = 0; phase < 3; phase++) {
        begin();
        give_gradient(1);
        scene_step(&s, t, 1, first, 1);
        for (int i = 0; i < phase; i++) {
            scene_answer(&s, a, answered[i]);
            scene_answer(&s, b, answered[i]);
        }
        uint64_t attempt = scene_attempt(&s, t);
        scene_close(&s, b);
        cr_assert_eq(scene_attempt(&s, t), attempt + 1, "phase %d", phase);
        cr_assert_str_eq(mail_last(&s.mail, t, SMOE_MSG_NEED)->m.need.reason, "worker b is lost");
        scene_work(&s, a); /* late answers */
        cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT), 0);
        cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0);
        cr_assert_eq(scene_totals(&s).account.failed, 16);
        cr_assert_eq(scene_totals(&s).account.in_flight, 0);
        cr_assert_eq(scene_totals(&s).epoch, 7);
        scene_end(&s);
    }
}

Test(step, that_is_said_again_after_its_commit_is_answered_and_not_made_again, .init = begin,
     .fini = end)
{
    settle(1);
    struct smoe_message m = scene_step_message(&s, t, 1, first, 1);
    scene_say(&s, t, &m);
    scene_work_all(&s);
    struct smoe_msg_step_done done = mail_last(&s.mail, t, SMOE_MSG_STEP_DONE)->m.step_done;
    scene_say(&s, t, &m);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 2);
    struct smoe_msg_step_done again = mail_last(&s.mail, t, SMOE_MSG_STEP_DONE)->m.step_done;
    cr_assert_eq(again.epoch, done.epoch);
    cr_assert_eq(again.square_norm, done.square_norm);
    cr_assert_eq(scene_totals(&s).steps, 1);
}

Test(step, lets_what_is_submitted_after_it_wait_for_the_new_weights, .init = begin, .fini = end)
{
    settle(1);
    scene_step(&s, t, 1, first, 1);
    uint32_t before = scene_visits(&s, a) + scene_visits(&s, b);
    submit(2);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, a, SMOE_MSG_STEP_STAGE);
    scene_answer(&s, b, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before + 16);
}

Test(step, that_cannot_be_is_refused_by_name, .init = begin, .fini = end)
{
    static const uint64_t nine[] = {9}, both[] = {1, 2};
    settle(1);
    submit(2); /* has no gradient */
    scene_work_all(&s);
    struct {
        struct smoe_message m;
        int code;
        const char *says;
    } cases[] = {
        {scene_step_message(&s, t, 3, both, 2), SMOE_EFIELD, "STEP.step 3: the next is 1"},
        {scene_step_message(&s, t, 1, nine, 1), SMOE_EUNKNOWN,
         "STEP.batches[0]: no training batch 9"},
        {scene_step_message(&s, t, 1, first, 1), SMOE_ESTATE,
         "batch 2 was submitted before it and is not named"},
        {scene_step_message(&s, t, 1, both, 2), SMOE_ESTATE, "batch 2 has no gradient yet"},
        {scene_step_message(&s, t, 1, both, 2), SMOE_EFIELD, "STEP.optimizer.kind 2"},
    };
    cases[4].m.step.optimizer.kind = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scene_say(&s, t, &cases[i].m);
        scene_assert_error(&s, t, cases[i].code, cases[i].says);
        cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.request, cases[i].m.step.step);
        cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 0);
    }
    cr_assert_not(s.closed[t]);
    scene_gradient(&s, t, 2);
    scene_step(&s, t, 1, both, 2);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1, "none of it did any harm");
}

Test(step, takes_no_answer_twice_nor_from_a_worker_that_was_not_asked, .init = begin, .fini = end)
{
    settle(1);
    uint32_t c = scene_worker(&s, "c"); /* hosts nothing */
    scene_step(&s, t, 1, first, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    const struct smoe_msg_step_stage asked =
        mail_last(&s.mail, a, SMOE_MSG_STEP_STAGE)->m.step_stage;
    struct smoe_message m = {.type = SMOE_MSG_STEP_STAGED};
    m.step_staged = (struct smoe_msg_step_staged){asked.step, asked.attempt, asked.owner};
    scene_say(&s, a, &m);
    scene_say(&s, a, &m);
    scene_say(&s, c, &m);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0);
    scene_say(&s, b, &m);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

/* The trainer comes back and makes the same step again; answers to its first try come now. */
Test(step, of_a_new_attempt_takes_no_answers_to_the_old_one, .init = begin, .fini = end)
{
    struct smoe_message declare = {.type = SMOE_MSG_LAYER_DECLARE};
    struct smoe_message staged = {.type = SMOE_MSG_STEP_STAGED};
    settle(1);
    scene_step(&s, t, 1, first, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    const struct smoe_msg_step_stage old = mail_last(&s.mail, a, SMOE_MSG_STEP_STAGE)->m.step_stage;
    scene_close(&s, t);
    t = scene_trainer(&s, "t");
    declare.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .run = 42, .shape = scene_shape(4)};
    scene_say(&s, t, &declare);
    for (size_t i = 0; i < s.mail.n; i++) /* nobody answers the old StepStages as they should */
        s.answered[i] |= s.mail.letters[i].m.type == SMOE_MSG_STEP_STAGE;
    settle(1);
    scene_step(&s, t, 1, first, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    cr_assert_eq(count(a, SMOE_MSG_STEP_STAGE), 2);
    staged.step_staged = (struct smoe_msg_step_staged){old.step, old.attempt, old.owner};
    scene_say(&s, a, &staged);
    scene_say(&s, b, &staged);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0);
    scene_answer(&s, a, SMOE_MSG_STEP_STAGE);
    scene_answer(&s, b, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

Test(gradient, that_cannot_be_is_refused_by_name, .init = begin, .fini = end)
{
    submit(1);
    cr_assert_eq(scene_gradient(&s, t, 1).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ESTATE,
                       "GRADIENT.batch 1: only 0 of its 16 visits have results");
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, 1).kind, SMOE_TAKE);
    cr_assert_eq(scene_gradient(&s, t, 1).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ESTATE, "GRADIENT.batch 1: has its gradient already");
    cr_assert_eq(scene_gradient(&s, t, 5).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_EUNKNOWN, "GRADIENT.batch 5: no such batch");
    struct scene_submit o = {
        .batch = 6, .layer = layer, .tokens = 200, .top_k = 1, .evaluate = true};
    scene_submit(&s, t, &o);
    cr_assert_eq(scene_gradient(&s, t, 6).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ESTATE, "GRADIENT.batch 6: was submitted for evaluation");
}
