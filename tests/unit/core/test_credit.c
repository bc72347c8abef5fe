/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/unit/core/scene.h"

static struct scene s;

/* One worker, one trainer, a layer of two experts; a token's Submit has 4 * 2 + 16 bytes. */
enum { TOKEN_BYTES = 24 };
static uint32_t w, t, layer;

static void begin(uint64_t window_tokens, uint64_t iteration_tokens)
{
    struct smoe_core_options o = scene_options();
    struct smoe_layer_shape shape = scene_shape(2);
    o.settings.window_bytes = window_tokens * TOKEN_BYTES;
    o.settings.window_visits = window_tokens;
    o.settings.iteration_bytes_max = iteration_tokens * TOKEN_BYTES;
    o.limits.batches_max = 4;
    o.limits.trainers_max = 1;
    scene_begin(&s, &o);
    w = scene_worker(&s, "w");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void end(void)
{
    scene_end(&s);
}

static struct smoe_verdict submit(uint64_t batch, uint32_t tokens)
{
    struct scene_submit o = {.batch = batch, .layer = layer, .tokens = tokens, .top_k = 1};
    return scene_submit(&s, t, &o);
}

static uint64_t granted_visits(void)
{
    const struct letter *credit = mail_last(&s.mail, t, SMOE_MSG_CREDIT);
    const struct letter *welcome = mail_last(&s.mail, t, SMOE_MSG_WELCOME);
    return credit ? credit->m.credit.visits_total : welcome->m.welcome.credit.visits_total;
}

Test(credit, a_batch_of_exactly_the_window_is_taken_and_one_token_more_never_can_be, .fini = end)
{
    begin(10, 100);
    cr_assert_eq(granted_visits(), 10);
    cr_assert_eq(submit(1, 10).kind, SMOE_TAKE);
    scene_end(&s);
    begin(10, 100);
    cr_assert_eq(submit(1, 11).kind, SMOE_FATAL, "it was never granted");
    scene_assert_error(&s, t, SMOE_ECREDIT, "11 visits sent");
    cr_assert(s.closed[t]);
}

Test(credit, what_is_not_granted_ends_the_session_and_what_is_granted_is_enough, .fini = end)
{
    begin(10, 100);
    cr_assert_eq(submit(1, 6).kind, SMOE_TAKE);
    cr_assert_eq(submit(2, 4).kind, SMOE_TAKE);
    cr_assert_eq(submit(3, 1).kind, SMOE_FATAL);
    scene_assert_error(&s, t, SMOE_ECREDIT, "11 visits sent, 240 and 10 granted");
}

Test(credit, comes_back_when_all_results_of_a_batch_are_out, .fini = end)
{
    begin(10, 100);
    submit(1, 6);
    submit(2, 4);
    cr_assert_eq(granted_visits(), 10);
    scene_answer(&s, w, SMOE_MSG_DECISION); /* the first alone: the second waits for its slot */
    cr_assert_eq(granted_visits(), 16);
    scene_work(&s, w);
    cr_assert_eq(granted_visits(), 20);
    cr_assert_eq(submit(3, 10).kind, SMOE_TAKE);
}

Test(credit, of_a_refused_batch_is_given_back, .fini = end)
{
    const float nan_scores[] = {0.5f, (float)NAN, 0.5f, 0.5f};
    begin(10, 100);
    struct scene_submit bad = {
        .batch = 1, .layer = layer, .tokens = 2, .top_k = 1, .scores = nan_scores};
    scene_submit(&s, t, &bad);
    scene_assert_error(&s, t, SMOE_ENOTFINITE, "a score is not a finite number");
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.batch, 1);
    cr_assert_eq(granted_visits(), 12);
    cr_assert_eq(submit(1, 10).kind, SMOE_TAKE, "and its number is free again");
}

Test(credit, what_a_trainer_may_hold_until_its_step_is_bounded_and_says_so_at_once, .fini = end)
{
    begin(10, 15);
    cr_assert_eq(submit(1, 10).kind, SMOE_TAKE);
    scene_work(&s, w);
    cr_assert_eq(submit(2, 6).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_EITERATION, "exceed iteration_bytes_max 360: step more often");
    cr_assert_not(s.closed[t]);
    cr_assert_eq(submit(2, 5).kind, SMOE_TAKE, "exactly the rest fits");
    scene_work(&s, w);
    scene_gradient(&s, t, 1);
    scene_gradient(&s, t, 2);
    scene_step(&s, t, 1, (uint64_t[]){1, 2}, 2);
    scene_work_all(&s);
    cr_assert_eq(submit(3, 10).kind, SMOE_TAKE, "a step makes room");
}

Test(credit, evaluation_frees_what_it_held_without_a_step, .fini = end)
{
    begin(10, 10);
    for (uint64_t i = 1; i <= 5; i++) {
        struct scene_submit o = {
            .batch = i, .layer = layer, .tokens = 10, .top_k = 1, .evaluate = true};
        cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
        scene_work(&s, w);
        cr_assert_eq(s.batches_freed, i);
    }
    cr_assert_eq(smoe_core_trainer(s.core, 0).batches, 0);
}

Test(credit, as_many_batches_as_there_are_places_and_no_more, .fini = end)
{
    begin(100, 100);
    for (uint64_t i = 1; i <= 4; i++)
        cr_assert_eq(submit(i, 1).kind, SMOE_TAKE);
    cr_assert_eq(submit(5, 1).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ELIMIT, "4 batches are uncommitted already");
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.batch, 5);
}

Test(credit, a_discarded_batch_gives_everything_back, .fini = end)
{
    begin(10, 10);
    submit(1, 10);
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    m.discard = (struct smoe_msg_discard){1, scene_attempt(&s, t)};
    scene_say(&s, t, &m);
    cr_assert_eq(mail_count(&s.mail, w, SMOE_MSG_FORGET), 1, "the worker need not compute it");
    cr_assert_eq(scene_totals(&s).account.failed, 10);
    cr_assert_eq(submit(2, 10).kind, SMOE_TAKE);
    scene_answer(&s, w, SMOE_MSG_DECISION);
    cr_assert_eq(scene_totals(&s).late_frames,
                 mail_last(&s.mail, w, SMOE_MSG_FORGET)->m.forget.n_parcels,
                 "results that were on their way are ignored");
}

/* Each refusal names the field and the limit, and nothing changes. */
Test(credit, a_submit_that_cannot_be_is_refused_by_name, .fini = end)
{
    static const uint16_t twice[] = {1, 1}, beyond[] = {0, 2};
    begin(10, 100);
    const struct {
        struct scene_submit submit;
        int code;
        const char *says;
    } cases[] = {
        {{.batch = 1, .layer = layer, .tokens = 1, .top_k = 3},
         SMOE_EFIELD,
         "SUBMIT.top_k 3: layer moe has 2 experts"},
        {{.batch = 1, .layer = layer + 1, .tokens = 1, .top_k = 1},
         SMOE_EUNKNOWN,
         "SUBMIT.layer 1: not declared by you"},
        {{.batch = 1, .layer = layer, .tokens = 1, .top_k = 2, .experts = twice},
         SMOE_EFIELD,
         "experts of a token must be distinct and below 2"},
        {{.batch = 1, .layer = layer, .tokens = 1, .top_k = 2, .experts = beyond},
         SMOE_EFIELD,
         "experts of a token must be distinct and below 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scene_submit(&s, t, &cases[i].submit);
        scene_assert_error(&s, t, cases[i].code, cases[i].says);
        cr_assert_eq(scene_totals(&s).account.submitted, 0);
    }
    cr_assert_eq(scene_totals(&s).refused + 2, sizeof cases / sizeof *cases,
                 "the first two were refused before their raw part was read");
    cr_assert_eq(submit(1, 2).kind, SMOE_TAKE);
    cr_assert_eq(submit(1, 2).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_EEXIST, "SUBMIT.batch 1: not committed yet");
}
