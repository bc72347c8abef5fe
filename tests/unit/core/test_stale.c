/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches that are a step ahead: the core lets them go on while the step before theirs is made, tells workers which
 * step they belong to and by which weights they are computed, and never lets one be two steps ahead.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

static struct scene s;
static uint32_t a, b, t, layer;
static const uint64_t first[] = {1}, second[] = {2};

static void begin_with(const struct smoe_core_options *options)
{
    struct smoe_layer_shape shape = scene_shape(4);
    shape.staleness = 1;
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

static void begin_with_journal(void)
{
    struct smoe_core_options o = scene_options();
    o.journal = true;
    begin_with(&o);
}

static void end(void)
{
    scene_end(&s);
}

static int submit(uint64_t batch, bool ahead, uint64_t base)
{
    struct scene_submit o = {
        .batch = batch, .layer = layer, .tokens = 8, .top_k = 2, .ahead = ahead, .base = base};
    return (int)scene_submit(&s, t, &o).kind;
}

static void settle(uint64_t batch)
{
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, batch).kind, SMOE_TAKE);
    scene_work_all(&s);
}

static size_t count(uint32_t session, enum smoe_message_type type)
{
    return mail_count(&s.mail, session, type);
}

/* The parcels of the last Decision to anybody. */
static const struct smoe_parcel_head *last_parcel(void)
{
    const struct letter *l = mail_last(&s.mail, a, SMOE_MSG_DECISION);
    cr_assert_not_null(l);
    cr_assert_gt(l->m.decision.n_parcels, 0);
    return l->m.decision.parcels;
}

/* A step that has asked for norms, and was not answered. */
static void step_under_way(void)
{
    cr_assert_eq(submit(1, false, 0), (int)SMOE_TAKE);
    settle(1);
    scene_step(&s, t, 1, first, 1);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 2);
}

Test(stale, a_batch_ahead_goes_on_while_the_step_is_made, .init = begin, .fini = end)
{
    step_under_way();
    uint32_t before = scene_visits(&s, a) + scene_visits(&s, b);
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before + 16);
    cr_assert_eq(last_parcel()->step, 2);
    cr_assert_not(last_parcel()->older, "the weights in force are those of its base");
    cr_assert_eq(smoe_core_trainer(s.core, 0).ahead, 1);
    scene_answer(&s, a, SMOE_MSG_DECISION);
    scene_answer(&s, b, SMOE_MSG_DECISION);
    cr_assert_eq(scene_gradient(&s, t, 2).kind, SMOE_TAKE, "its gradient, too");
    scene_answer(&s, a, SMOE_MSG_BACKPROP);
    scene_answer(&s, b, SMOE_MSG_BACKPROP);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0);
    cr_assert_eq(s.batches_freed, 0);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(s.batches_freed, 1, "the batch that the step named, and no other");
    cr_assert_eq(smoe_core_trainer(s.core, 0).ahead, 0);
    scene_step(&s, t, 2, second, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 2);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], 32);
}

Test(stale, a_batch_that_is_not_ahead_waits_for_the_commit, .init = begin, .fini = end)
{
    step_under_way();
    uint32_t before = scene_visits(&s, a) + scene_visits(&s, b);
    cr_assert_eq(submit(2, false, 0), (int)SMOE_TAKE);
    scene_pass(&s, 100 * MS);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before);
    scene_work_all(&s);
    scene_pass(&s, 100 * MS);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before + 16);
    cr_assert_not(last_parcel()->older);
}

Test(stale, a_batch_ahead_that_comes_after_the_commit_has_the_older_weights, .init = begin,
     .fini = end)
{
    step_under_way();
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    cr_assert(last_parcel()->older);
    cr_assert_eq(last_parcel()->step, 2);
    settle(2);
    cr_assert_eq(submit(3, true, 1), (int)SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    cr_assert_not(last_parcel()->older, "its base is in force");
}

Test(stale, evaluations_and_layers_without_it_are_never_ahead, .init = begin, .fini = end)
{
    struct smoe_layer_shape plain = scene_shape(4);
    uint32_t other = scene_layer(&s, t, "plain", &plain);
    struct scene_submit o = {
        .batch = 9, .layer = other, .tokens = 8, .top_k = 2, .ahead = true, .base = 0};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_REFUSE);
    o.ahead = false;
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    cr_assert_eq(last_parcel()->step, 0, "nor do its parcels say of which step they are");
    o = (struct scene_submit){
        .batch = 10, .layer = layer, .tokens = 8, .top_k = 2, .evaluate = true};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    cr_assert_eq(last_parcel()->step, 0);
}

Test(stale, never_two_steps_ahead, .init = begin, .fini = end)
{
    step_under_way();
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    scene_answer(&s, a, SMOE_MSG_DECISION);
    scene_answer(&s, b, SMOE_MSG_DECISION);
    scene_gradient(&s, t, 2);
    scene_step(&s, t, 2, second, 1);
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.code, SMOE_ESTATE);
    cr_assert_str_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.message,
                     "STEP 2: step 1 is not done");
}

Test(stale, a_lost_worker_takes_the_step_and_what_is_ahead_of_it_along, .init = begin, .fini = end)
{
    step_under_way();
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_tick(&s, 20 * MS);
    uint64_t attempt = scene_attempt(&s, t);
    scene_close(&s, b);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 1);
    cr_assert_gt(scene_attempt(&s, t), attempt);
    cr_assert_eq(s.batches_freed, 2);
    cr_assert_eq(scene_totals(&s).account.in_flight, 0);
    cr_assert_eq(submit(1, false, 0), (int)SMOE_TAKE);
    settle(1);
    scene_step(&s, t, 1, first, 1);
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    settle(2);
    scene_step(&s, t, 2, second, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 2);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], 32, "each of them once");
}

/* The commit cannot be taken back: its answer comes first, and then what is ahead of it is asked for again. */
Test(stale, a_batch_ahead_that_is_discarded_during_the_commit_leaves_the_commit_alone,
     .init = begin_with_journal, .fini = end)
{
    scene_journalled(&s, UINT64_MAX);
    step_under_way();
    cr_assert_eq(submit(2, true, 0), (int)SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, 2).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0, "its record is not durable");
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    m.discard = (struct smoe_msg_discard){2, scene_attempt(&s, t)};
    scene_say(&s, t, &m);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    scene_journalled(&s, UINT64_MAX);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 1);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], 16);
    cr_assert_eq(scene_totals(&s).account.in_flight, 0);
}

/* It would gather the gradients of two steps in one sum, and nobody would know. */
Test(stale, a_worker_that_knows_nothing_of_it_hosts_no_such_layer)
{
    struct smoe_layer_shape shape = scene_shape(4);
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    scene_begin(&s, NULL);
    s.old_workers = true;
    a = scene_worker(&s, "a");
    t = scene_trainer(&s, "t");
    shape.staleness = 1;
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 5, .run = 7, .shape = shape};
    strcpy(m.layer_declare.name, "moe");
    scene_say(&s, t, &m);
    scene_work_all(&s);
    const struct letter *l = mail_last(&s.mail, t, SMOE_MSG_ERROR);
    cr_assert_not_null(l);
    cr_assert_eq(l->m.error.code, SMOE_EVERSION);
    cr_assert_str_eq(l->m.error.message,
                     "layer moe: worker a cannot host it: it knows nothing of staleness 1");
    scene_end(&s);
}
