/* SPDX-License-Identifier: Apache-2.0
 *
 * What waits for the journal, and what a daemon does that starts from one.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

enum { VISITS = 16 }; /* of a batch */

static struct scene s;
static uint32_t a, b, t, layer;
static const uint64_t one[] = {1};
static const uint32_t both[] = {0, 1};

static struct smoe_core_options options(void)
{
    struct smoe_core_options o = scene_options();
    o.settings.copies = 2;
    o.journal = true;
    return o;
}

/* Two workers; expert 0 on a, expert 1 on b, each with its copy on the other. */
static void begin(void)
{
    struct smoe_core_options o = options();
    struct smoe_layer_shape shape = scene_shape(2);
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

static size_t count(uint32_t session, enum smoe_message_type type)
{
    return mail_count(&s.mail, session, type);
}

static const struct letter *last(uint32_t session, enum smoe_message_type type)
{
    return mail_last(&s.mail, session, type);
}

static void declare(uint32_t trainer, uint64_t run, uint64_t step)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 77, .name = "moe", .run = run, .shape = scene_shape(2), .step = step};
    scene_say(&s, trainer, &m);
}

/* Step `step` on one batch of that number, until it is staged everywhere and its record is written. */
static void train_to_commit(uint64_t step)
{
    struct scene_submit o = {.batch = step, .layer = layer, .tokens = VISITS, .top_k = 1};
    size_t records = s.journal.n;
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    scene_work_all(&s);
    scene_gradient(&s, t, step);
    scene_work_all(&s);
    scene_step(&s, t, step, &step, 1);
    scene_work_all(&s);
    cr_assert_gt(s.journal.n, records);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_COMMIT), journal_last(&s.journal));
}

static void write_all(void)
{
    scene_journalled(&s, journal_last(&s.journal));
}

static struct smoe_inventory_layer held(uint64_t step)
{
    return (struct smoe_inventory_layer){.name = "moe",
                                         .run = 42,
                                         .step = step,
                                         .attempt = scene_staged_attempt(&s, step),
                                         .shape = scene_shape(2),
                                         .experts = both,
                                         .n_experts = 2};
}

static uint32_t come_back(const char *name, uint64_t step)
{
    struct smoe_inventory_layer l = held(step);
    return scene_worker_with(&s, name, &l);
}

static const char *host_of(uint32_t expert)
{
    uint32_t w = smoe_core_layer(s.core, 0).experts[expert].worker;
    return w == UINT32_MAX ? "-" : smoe_core_fleet(s.core)->workers[w].id;
}

/* ---- before it is durable ---- */

Test(commit, is_told_to_nobody_before_its_record_is_durable, .init = begin, .fini = end)
{
    train_to_commit(1);
    uint64_t record = journal_last(&s.journal);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT) + count(t, SMOE_MSG_STEP_DONE), 0);
    scene_journalled(&s, record - 1);
    scene_tick(&s, 100 * MS);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT) + count(t, SMOE_MSG_STEP_DONE), 0);
    cr_assert_eq(scene_totals(&s).steps, 0);
    scene_journalled(&s, record);
    cr_assert_eq(count(a, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(b, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    scene_journalled(&s, record); /* once more means nothing */
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], VISITS);
}

/* A worker that had heard of it would refuse a daemon that was killed and never wrote it. */
Test(commit, gives_an_epoch_that_nobody_hears_of_before_it_is_durable, .init = begin, .fini = end)
{
    uint64_t before = last(a, SMOE_MSG_WELCOME)->m.welcome.epoch;
    train_to_commit(1);
    uint32_t c = scene_worker(&s, "c"), other = scene_trainer(&s, "other");
    cr_assert_eq(last(c, SMOE_MSG_WELCOME)->m.welcome.epoch, before);
    cr_assert_eq(last(other, SMOE_MSG_WELCOME)->m.welcome.epoch, before);
    write_all();
    uint32_t d = scene_worker(&s, "d");
    cr_assert_eq(last(d, SMOE_MSG_WELCOME)->m.welcome.epoch, before + 1);
    cr_assert_eq(last(t, SMOE_MSG_STEP_DONE)->m.step_done.epoch, before + 1);
}

Test(commit, has_in_its_record_what_everybody_is_told_later, .init = begin, .fini = end)
{
    train_to_commit(1);
    const struct smoe_record r = s.journal.records[s.journal.n - 1];
    write_all();
    const struct smoe_msg_step_done done = last(t, SMOE_MSG_STEP_DONE)->m.step_done;
    cr_assert_eq(r.n_layers, 1);
    cr_assert_str_eq(r.layers[0], "moe");
    cr_assert_eq(r.layer.step, 1);
    cr_assert_eq(r.layer.attempt, last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt);
    cr_assert_eq(r.layer.done.epoch, done.epoch);
    cr_assert_eq(r.layer.done.square_norm, done.square_norm);
    cr_assert_eq(r.layer.done.clip_scale, done.clip_scale);
    cr_assert_eq(last(a, SMOE_MSG_STEP_COMMIT)->m.step_commit.epoch, done.epoch);
}

static void leave_unanswered(uint32_t session)
{
    for (size_t i = 0; i < s.mail.n; i++)
        s.answered[i] |= s.mail.letters[i].session == session;
}

Test(commit, is_not_taken_back_by_what_is_recorded_of_its_layer_meanwhile, .init = begin,
     .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    m.hosted = (struct smoe_msg_hosted){.layer = layer, .code = SMOE_ENOMEMORY};
    train_to_commit(1);
    write_all();
    uint32_t c = scene_worker(&s, "c");
    scene_drain(&s, "b", true);
    cr_assert_eq(last(c, SMOE_MSG_HOST)->m.host.n_copies, 1, "it is to follow in b's place");
    leave_unanswered(c);
    train_to_commit(2);
    scene_say(&s, c, &m);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_LAYER), journal_last(&s.journal));
    cr_assert_eq(s.journal.records[s.journal.n - 1].layer.step, 2);
    cr_assert_eq(s.journal.records[s.journal.n - 1].layer.done.step, 2);
}

/* What is submitted meanwhile waits for the new weights, which are not in force yet. */
Test(commit, keeps_later_batches_waiting_until_it_is_durable, .init = begin, .fini = end)
{
    train_to_commit(1);
    uint32_t before = scene_visits(&s, a) + scene_visits(&s, b);
    struct scene_submit o = {.batch = 2, .layer = layer, .tokens = VISITS, .top_k = 1};
    scene_submit(&s, t, &o);
    scene_tick(&s, 100 * MS);
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before);
    write_all();
    cr_assert_eq(scene_visits(&s, a) + scene_visits(&s, b), before + VISITS);
}

Test(commit, survives_the_loss_of_a_worker_while_it_is_written, .init = begin, .fini = end)
{
    train_to_commit(1);
    uint64_t attempt = scene_attempt(&s, t);
    scene_close(&s, b);
    scene_tick(&s, 100 * MS);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0, "it can no longer be repeated");
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 0);
    cr_assert_str_eq(host_of(1), "b", "nobody serves it in the middle of the commit");
    write_all();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(count(a, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0, "all of it is committed");
    cr_assert_eq(scene_attempt(&s, t), attempt);
    cr_assert_str_eq(host_of(1), "a");
    cr_assert_eq(last(a, SMOE_MSG_HOST)->m.host.step, 1);
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
    train_to_commit(2);
    write_all();
    cr_assert_eq(scene_totals(&s).steps, 2);
}

Test(commit, survives_the_loss_of_all_workers_while_it_is_written, .init = begin, .fini = end)
{
    train_to_commit(1);
    uint64_t attempt = last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt;
    scene_close(&s, a);
    scene_close(&s, b);
    write_all();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    struct smoe_inventory_layer l = held(0);
    l.staged_step = 1;
    l.staged_attempt = attempt; /* neither heard of the commit */
    a = scene_worker_with(&s, "a", &l);
    b = scene_worker_with(&s, "b", &l);
    cr_assert_eq(last(b, SMOE_MSG_HOST)->m.host.step, 1);
    cr_assert_eq(last(b, SMOE_MSG_HOST)->m.host.attempt, attempt);
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
    cr_assert_eq(count(ANYONE, SMOE_MSG_EXPERT_FETCH), 0);
}

/* A reset in the middle of a commit would take back what can no longer be taken back. */
Test(commit, makes_a_reset_wait, .init = begin, .fini = end)
{
    struct scene_submit o = {
        .batch = 9, .layer = layer, .tokens = VISITS, .top_k = 1, .evaluate = true};
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    train_to_commit(1);
    scene_submit(&s, t, &o);
    m.discard = (struct smoe_msg_discard){1, scene_attempt(&s, t)}; /* a batch with a gradient */
    scene_say(&s, t, &m);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    scene_close(&s, a);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    write_all();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_COMMITTED], VISITS,
                 "the discard came too late");
}

Test(commit, makes_a_restore_wait, .init = begin, .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    train_to_commit(1);
    uint64_t attempt = scene_attempt(&s, t);
    m.restore = (struct smoe_msg_restore){.step = 40, .attempt = attempt};
    scene_say(&s, t, &m);
    cr_assert_eq(smoe_core_layer(s.core, layer).step, 0);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    write_all();
    cr_assert_eq(scene_totals(&s).steps, 1);
    cr_assert_eq(smoe_core_layer(s.core, layer).step, 40);
    cr_assert_gt(scene_attempt(&s, t), attempt);
}

Test(commit, makes_the_trainer_wait_that_comes_back_while_it_is_written, .init = begin, .fini = end)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_TRAINER, "t");
    train_to_commit(1);
    struct smoe_message step = scene_step_message(&s, t, 1, one, 1);
    scene_close(&s, t);
    uint32_t again = scene_join(&s, &hello);
    cr_assert_eq(count(again, SMOE_MSG_WELCOME), 0);
    cr_assert_not(s.closed[again]);
    uint32_t third = scene_join(&s, &hello); /* only one can wait */
    scene_assert_error(&s, third, SMOE_EEXIST, "trainer t is connected already");
    write_all();
    cr_assert_eq(count(again, SMOE_MSG_WELCOME), 1);
    declare(again, 42, 0);
    cr_assert_eq(last(again, SMOE_MSG_LAYER_READY)->m.layer_ready.step, 1);
    step.step.attempt = scene_attempt(&s, again);
    scene_say(&s, again, &step);
    cr_assert_eq(last(again, SMOE_MSG_STEP_DONE)->m.step_done.step, 1);
    cr_assert_eq(scene_totals(&s).steps, 1, "answered, not made again");
}

Test(commit, of_a_trainer_that_says_bye_is_made_and_then_the_trainer_is_forgotten, .init = begin,
     .fini = end)
{
    struct smoe_message bye = {.type = SMOE_MSG_BYE};
    train_to_commit(1);
    scene_say(&s, t, &bye);
    cr_assert(smoe_core_trainer(s.core, 0).live);
    write_all();
    cr_assert_eq(scene_totals(&s).steps, 1);
    cr_assert_eq(smoe_core_layer(s.core, layer).step, 1);
    cr_assert_not(smoe_core_trainer(s.core, 0).live);
}

Test(commit, of_one_trainer_does_not_hold_up_another, .init = begin, .fini = end)
{
    uint32_t other = scene_trainer(&s, "u");
    struct smoe_layer_shape shape = scene_shape(2);
    uint32_t theirs = scene_layer(&s, other, "more", &shape);
    train_to_commit(1); /* nothing is written yet */
    struct scene_submit o = {.batch = 1, .layer = theirs, .tokens = VISITS, .top_k = 1};
    cr_assert_eq(scene_submit(&s, other, &o).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(count(other, SMOE_MSG_RESULT), 2);
    scene_gradient(&s, other, 1);
    scene_work_all(&s);
    scene_step(&s, other, 1, one, 1);
    scene_work_all(&s);
    write_all();
    cr_assert_eq(scene_totals(&s).steps, 2);
}

/* The step that was staged everywhere but for a worker that left during the other's commit. */
Test(commit, staged_while_a_worker_leaves_during_anothers_is_not_made_without_it, .init = begin,
     .fini = end)
{
    uint32_t other = scene_trainer(&s, "u");
    struct smoe_layer_shape shape = scene_shape(2);
    uint32_t theirs = scene_layer(&s, other, "more", &shape);
    struct scene_submit o = {.batch = 1, .layer = theirs, .tokens = VISITS, .top_k = 1};
    scene_submit(&s, other, &o);
    scene_work_all(&s);
    scene_gradient(&s, other, 1);
    scene_work_all(&s);
    train_to_commit(1);
    uint64_t record = journal_last(&s.journal);
    scene_step(&s, other, 1, one, 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, b, SMOE_MSG_STEP_STAGE);
    scene_close(&s, b);
    scene_answer(&s, a, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(journal_last(&s.journal), record, "no commit of theirs");
    scene_journalled(&s, record);
    cr_assert_eq(scene_totals(&s).steps, 1);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    cr_assert_eq(count(other, SMOE_MSG_NEED), 1, "all of theirs comes again");
}

/* c leaves, which only the first step needs: the second, staged meanwhile, is made all the same. */
Test(commit, staged_while_a_worker_leaves_that_it_does_not_need_is_made_afterwards, .init = begin,
     .fini = end)
{
    struct smoe_layer_shape shape = scene_shape(3);
    uint32_t c = scene_worker(&s, "c"), other = scene_trainer(&s, "u");
    uint32_t theirs = scene_layer(&s, other, "more", &shape);
    struct scene_submit o = {.batch = 1, .layer = theirs, .tokens = VISITS, .top_k = 1};
    scene_submit(&s, other, &o);
    scene_work_all(&s);
    scene_gradient(&s, other, 1);
    scene_work_all(&s);
    scene_step(&s, other, 1, one, 1);
    scene_work_all(&s); /* a, b and c have staged it: it is being written */
    uint64_t record = journal_last(&s.journal);
    cr_assert_eq(count(c, SMOE_MSG_STEP_STAGE), 1);
    scene_close(&s, c);
    o.layer = layer;
    scene_submit(&s, t, &o);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    scene_step(&s, t, 1, one, 1);
    scene_work_all(&s);
    cr_assert_eq(journal_last(&s.journal), record, "c's loss comes first");
    scene_journalled(&s, record);
    cr_assert_eq(count(other, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(journal_last_of(&s.journal, SMOE_RECORD_COMMIT), journal_last(&s.journal));
    write_all();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
}

/* ---- records ---- */

static const struct smoe_record *last_record(enum smoe_record_type type)
{
    size_t i = s.journal.n;
    while (i > 0 && s.journal.records[i - 1].type != type)
        i--;
    cr_assert_gt(i, 0, "no such record");
    return &s.journal.records[i - 1];
}

Test(journal, is_told_of_a_layer_with_its_owner_and_where_its_experts_stand, .init = begin,
     .fini = end)
{
    const struct smoe_record *r = last_record(SMOE_RECORD_LAYER);
    cr_assert_str_eq(r->layer.name, "moe");
    cr_assert_str_eq(r->layer.owner, "t");
    cr_assert_eq(r->layer.run, 42);
    cr_assert_eq(r->layer.copies, 2);
    cr_assert_eq(r->layer.shape.seed, scene_shape(2).seed);
    cr_assert_not(r->layer.learned);
    cr_assert_str_eq(r->standings[0].host, "a");
    cr_assert_str_eq(r->standings[0].follower, "b");
    cr_assert_str_eq(r->standings[1].host, "b");
    cr_assert_str_eq(r->standings[1].follower, "a");
}

Test(journal, is_told_when_experts_move_and_when_a_layer_goes, .init = begin, .fini = end)
{
    scene_close(&s, b);
    const struct smoe_record *r = last_record(SMOE_RECORD_LAYER);
    cr_assert_str_eq(r->standings[1].host, "a");
    cr_assert_str_eq(r->standings[1].follower, "");
    scene_say(&s, t, &(struct smoe_message){.type = SMOE_MSG_BYE});
    uint32_t heir = scene_trainer(&s, "heir");
    declare(heir, 43, 0);
    cr_assert_str_eq(last_record(SMOE_RECORD_DROP)->layer.name, "moe");
    cr_assert_lt(journal_last_of(&s.journal, SMOE_RECORD_DROP),
                 journal_last_of(&s.journal, SMOE_RECORD_LAYER));
    cr_assert_eq(last_record(SMOE_RECORD_LAYER)->layer.run, 43);
}

Test(journal, is_silent_while_nothing_changes, .init = begin, .fini = end)
{
    size_t records = s.journal.n;
    struct scene_submit o = {.batch = 1, .layer = layer, .tokens = VISITS, .top_k = 1};
    scene_submit(&s, t, &o);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    scene_tick(&s, 100 * MS);
    cr_assert_eq(s.journal.n, records);
}

/* ---- the daemon starts again ---- */

static void restart(uint64_t durable)
{
    struct smoe_core_options o = options();
    scene_restart(&s, &o, durable);
    smoe_core_check(s.core);
}

Test(restart, answers_with_the_committed_step_and_repeats_its_answer, .init = begin, .fini = end)
{
    train_to_commit(1);
    write_all();
    uint64_t attempt = scene_attempt(&s, t);
    const struct smoe_msg_step_done done = last(t, SMOE_MSG_STEP_DONE)->m.step_done;
    restart(UINT64_MAX);
    a = come_back("a", 1);
    b = come_back("b", 1);
    t = scene_trainer(&s, "t");
    cr_assert_gt(scene_attempt(&s, t), attempt, "numbers are never given twice");
    declare(t, 42, 1);
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.step, 1);
    scene_step(&s, t, 1, one, 1);
    const struct smoe_msg_step_done again = last(t, SMOE_MSG_STEP_DONE)->m.step_done;
    cr_assert_eq(again.step, 1);
    cr_assert_eq(again.epoch, done.epoch);
    cr_assert_eq(again.square_norm, done.square_norm);
    cr_assert_eq(again.clip_scale, done.clip_scale);
    cr_assert_eq(count(ANYONE, SMOE_MSG_EXPERT_FETCH), 0, "everybody has it");
    train_to_commit(2);
    write_all();
    cr_assert_gt(last(t, SMOE_MSG_STEP_DONE)->m.step_done.epoch, done.epoch);
}

/* Its record was durable, the announcement got nowhere: the commit stands. */
Test(restart, after_a_commit_that_nobody_heard_of_makes_the_workers_put_it_in_force, .init = begin,
     .fini = end)
{
    train_to_commit(1);
    uint64_t attempt = last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt;
    restart(UINT64_MAX);
    struct smoe_inventory_layer l = held(0);
    l.staged_step = 1;
    l.staged_attempt = attempt;
    a = scene_worker_with(&s, "a", &l);
    b = scene_worker_with(&s, "b", &l);
    const struct smoe_msg_host h = last(a, SMOE_MSG_HOST)->m.host;
    cr_assert_eq(h.step, 1);
    cr_assert_eq(h.attempt, attempt);
    cr_assert_not(h.fresh);
    cr_assert_eq(h.n_experts + h.n_copies, 2);
    t = scene_trainer(&s, "t");
    declare(t, 42, 0); /* it does not know either */
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.step, 1);
    scene_step(&s, t, 1, one, 1);
    cr_assert_eq(last(t, SMOE_MSG_STEP_DONE)->m.step_done.step, 1);
    cr_assert_eq(scene_totals(&s).steps, 0, "it is not made again");
}

Test(restart, after_a_commit_that_was_not_durable_makes_the_workers_forget_it, .init = begin,
     .fini = end)
{
    train_to_commit(1);
    uint64_t attempt = last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt;
    restart(journal_last(&s.journal) - 1);
    struct smoe_inventory_layer l = held(0);
    l.staged_step = 1;
    l.staged_attempt = attempt;
    a = scene_worker_with(&s, "a", &l);
    b = scene_worker_with(&s, "b", &l);
    cr_assert_eq(last(a, SMOE_MSG_HOST)->m.host.step, 0);
    cr_assert_neq(last(a, SMOE_MSG_HOST)->m.host.attempt, attempt);
    t = scene_trainer(&s, "t");
    declare(t, 42, 0);
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.step, 0);
    train_to_commit(1);
    write_all();
    cr_assert_gt(last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt, attempt,
                 "what was staged then is not taken for this");
    cr_assert_eq(last(t, SMOE_MSG_STEP_DONE)->m.step_done.step, 1);
}

/* Whatever the disk had when the power went: a daemon starts from it and the run can go on or says
 * why not. */
Test(restart, from_any_beginning_of_the_journal_is_a_start)
{
    for (uint64_t durable = 0;; durable++) {
        begin();
        train_to_commit(1);
        write_all();
        train_to_commit(2);
        write_all();
        uint64_t records = journal_last(&s.journal);
        restart(durable);
        const struct smoe_restored_layer *base = journal_base(&s.journal, "moe");
        uint64_t committed = base ? base->layer.step : 0;
        a = base ? come_back("a", committed) : scene_worker(&s, "a");
        b = base ? come_back("b", committed) : scene_worker(&s, "b");
        t = scene_trainer(&s, "t");
        declare(t, 42, committed);
        scene_work_all(&s);
        scene_tick(&s, 0);
        cr_assert_not_null(last(t, SMOE_MSG_LAYER_READY), "after %llu records",
                           (unsigned long long)durable);
        cr_assert_eq(last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.step, committed);
        train_to_commit(committed + 1);
        end();
        if (durable >= records)
            break;
    }
}

Test(restart, waits_for_the_workers_it_knows_before_it_does_without_them, .init = begin,
     .fini = end)
{
    struct smoe_message pong = {.type = SMOE_MSG_PONG};
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    uint64_t start_ns = s.now_ns;
    a = come_back("a", 1);
    t = scene_trainer(&s, "t");
    declare(t, 42, 1);
    while (s.now_ns + 500 * MS < start_ns + 3000 * MS) { /* the silence */
        scene_tick(&s, 500 * MS);
        scene_say(&s, a, &pong);
        scene_work_all(&s);
        cr_assert_str_eq(host_of(1), "b", "it is expected");
        cr_assert_eq(count(t, SMOE_MSG_LAYER_READY), 0);
    }
    scene_tick_at(&s, start_ns + 3000 * MS);
    cr_assert_str_eq(host_of(1), "a");
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_LAYER_READY), 1);
}

Test(restart, goes_on_at_once_when_all_workers_are_back, .init = begin, .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    a = come_back("a", 1);
    b = come_back("b", 1);
    t = scene_trainer(&s, "t");
    declare(t, 42, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_LAYER_READY), 1, "no time has passed");
    cr_assert_str_eq(host_of(0), "a");
    cr_assert_str_eq(host_of(1), "b");
}

Test(restart, with_a_worker_that_lost_its_memory_serves_from_the_other_copy, .init = begin,
     .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    a = come_back("a", 1);
    b = scene_worker(&s, "b"); /* it started again too */
    scene_work_all(&s);
    t = scene_trainer(&s, "t");
    declare(t, 42, 1);
    scene_tick(&s, 2900 * MS);
    scene_say(&s, a, &(struct smoe_message){.type = SMOE_MSG_PONG});
    scene_say(&s, b, &(struct smoe_message){.type = SMOE_MSG_PONG});
    scene_tick(&s, 100 * MS);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_LAYER_READY), 1);
    cr_assert_str_eq(host_of(1), "a");
    cr_assert_gt(count(b, SMOE_MSG_EXPERT_STORE), 0, "and is filled again");
}

Test(restart, without_any_worker_of_a_layer_ends_its_run_in_words, .init = begin, .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    t = scene_trainer(&s, "t");
    declare(t, 42, 1);
    scene_pass(&s, 10000 * MS);
    cr_assert_not(s.closed[t], "their places are kept");
    scene_tick(&s, 1);
    scene_assert_error(&s, t, SMOE_ELOST, "no worker has expert 0 of step 1 any more");
    cr_assert_eq(last(t, SMOE_MSG_ERROR)->m.error.request, 77);
}

Test(restart, refuses_a_step_of_a_layer_that_is_in_no_journal, .init = begin, .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(0);
    a = come_back("a", 1);
    cr_assert_eq(last(a, SMOE_MSG_HOST)->m.host.n_experts, 0, "what it holds is nobody's");
    t = scene_trainer(&s, "t");
    declare(t, 42, 1);
    scene_assert_error(&s, t, SMOE_ELOST, "layer moe: not known here, and so its step 1 is not");
    cr_assert_not(s.closed[t]);
    declare(t, 42, 0);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_LAYER_READY), 1, "a new one may be declared");
}

Test(restart, refuses_a_trainer_that_is_ahead_of_the_journal, .init = begin, .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    a = come_back("a", 1);
    b = come_back("b", 1);
    t = scene_trainer(&s, "t");
    declare(t, 42, 2);
    scene_assert_error(&s, t, SMOE_ELOST, "resume from a checkpoint");
}

Test(restart, keeps_a_layer_for_its_owner_during_the_lease_and_no_longer, .init = begin,
     .fini = end)
{
    train_to_commit(1);
    write_all();
    restart(UINT64_MAX);
    uint64_t start_ns = s.now_ns;
    struct smoe_message pong = {.type = SMOE_MSG_PONG};
    a = come_back("a", 1);
    b = come_back("b", 1);
    uint32_t heir = scene_trainer(&s, "heir");
    while (s.now_ns + 1000 * MS < start_ns + 10000 * MS) {
        declare(heir, 43, 0);
        scene_assert_error(&s, heir, SMOE_EEXIST, "layer moe: trainer t owns it");
        scene_tick(&s, 1000 * MS);
        scene_say(&s, a, &pong);
        scene_say(&s, b, &pong);
        scene_work_all(&s);
    }
    scene_tick_at(&s, start_ns + 10000 * MS);
    declare(heir, 43, 0);
    scene_work_all(&s);
    cr_assert_eq(count(heir, SMOE_MSG_LAYER_READY), 1);
}

Test(restart, with_room_for_fewer_workers_than_the_journal_names_says_which_limit, .init = begin,
     .fini = end)
{
    struct smoe_core_options o = options();
    struct smoe_core *core = NULL;
    struct smoe_why why = {""};
    journal_reopen(&s.journal, UINT64_MAX);
    o.restored = &s.journal.base;
    o.limits.workers_max = 1;
    cr_assert_eq(smoe_core_new(&o, &core, &why), SMOE_ECONFIG);
    cr_assert_str_eq(why.text, "workers_max 1: the journal names more workers, b among them");
    cr_assert_null(core);
}
