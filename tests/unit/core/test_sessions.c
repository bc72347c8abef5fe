/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

static struct scene s;
static uint32_t a, b, t, layer;

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

static void submit(uint64_t batch, const uint16_t *experts)
{
    struct scene_submit o = {
        .batch = batch, .layer = layer, .tokens = 8, .top_k = 2, .experts = experts};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
}

static void declare(uint32_t trainer, const char *name, uint64_t run, uint32_t experts)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare =
        (struct smoe_msg_layer_declare){.request = 77, .run = run, .shape = scene_shape(experts)};
    strcpy(m.layer_declare.name, name);
    scene_say(&s, trainer, &m);
}

/* ---- hello ---- */

Test(sessions, of_another_protocol_are_told_which_one_is_spoken, .init = begin, .fini = end)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "c");
    hello.protocol_min = hello.protocol_max = SMOE_PROTOCOL_MAX + 1;
    uint32_t c = scene_join(&s, &hello);
    scene_assert_error(&s, c, SMOE_EVERSION, "HELLO: protocol 2..2, this daemon speaks 1..1");
    cr_assert(s.closed[c]);
    cr_assert_eq(mail_count(&s.mail, c, SMOE_MSG_WELCOME), 0);
}

Test(sessions, with_a_name_that_is_taken_by_another_process_are_refused, .init = begin, .fini = end)
{
    static const enum smoe_role roles[] = {SMOE_ROLE_WORKER, SMOE_ROLE_TRAINER};
    for (int i = 0; i < 2; i++) {
        struct smoe_msg_hello hello = scene_hello(roles[i], i ? "t" : "a");
        hello.incarnation = 12345;
        uint32_t c = scene_join(&s, &hello);
        scene_assert_error(&s, c, SMOE_EEXIST, "is connected already");
        cr_assert(s.closed[c]);
    }
    cr_assert_not(s.closed[a]);
    cr_assert_not(s.closed[t]);
}

Test(sessions, of_the_same_process_replace_the_one_it_has_lost, .init = begin, .fini = end)
{
    submit(1, NULL);
    uint64_t attempt = scene_attempt(&s, t);
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_TRAINER, "t");
    uint32_t again = scene_join(&s, &hello);
    cr_assert(s.closed[t]);
    cr_assert_gt(scene_attempt(&s, again), attempt);
    cr_assert_eq(scene_totals(&s).account.failed, 16, "it will send them again");
}

Test(sessions, of_trainers_beyond_the_limit_are_refused, .init = begin, .fini = end)
{
    static const char *const names[] = {"t2", "t3", "t4", "t5"};
    for (int i = 0; i < 4; i++) {
        struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_TRAINER, names[i]);
        uint32_t session = scene_join(&s, &hello);
        cr_assert_eq(s.closed[session], i == 3, "%s", names[i]);
        if (i == 3)
            scene_assert_error(&s, session, SMOE_ELIMIT, "4 trainers are connected already");
    }
}

/* A message in the wrong state or from the wrong side ends the session, with the reason. */
Test(sessions, that_speak_out_of_turn_are_closed_with_the_reason, .init = begin, .fini = end)
{
    struct smoe_message report = {.type = SMOE_MSG_REPORT};
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "c");
    uint32_t c = scene_join(&s, &hello);
    report.report.freq_max_hz = 1;
    scene_say(&s, c, &report);
    scene_assert_error(&s, c, SMOE_ESTATE, "INVENTORY must come first after WELCOME");
    cr_assert(s.closed[c]);
    scene_say(&s, b, &inventory);
    scene_assert_error(&s, b, SMOE_ESTATE, "INVENTORY: sent already");
    cr_assert(s.closed[b]);
    scene_say(&s, t, &inventory);
    scene_assert_error(&s, t, SMOE_ESTATE, "not allowed here");
    cr_assert(s.closed[t]);
}

/* It had no memory to say what it holds, and says that: no misconduct, and no strike. */
Test(sessions, of_workers_that_end_with_an_error_before_their_inventory_are_not_held_against_them,
     .init = begin, .fini = end)
{
    struct smoe_message error = {.type = SMOE_MSG_ERROR};
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, "c");
    uint32_t c = scene_join(&s, &hello);
    error.error = (struct smoe_msg_error){.code = SMOE_ENOMEMORY, .fatal = true};
    strcpy(error.error.message, "no memory for a message of 40 bytes");
    scene_say(&s, c, &error);
    cr_assert_eq(mail_count(&s.mail, c, SMOE_MSG_ERROR), 0);
    scene_close(&s, c);
    cr_assert_eq(smoe_core_quarantine(s.core)->strikes, 0);
}

Test(sessions, answer_a_ping_with_its_number, .init = begin, .fini = end)
{
    struct smoe_message ping = {.type = SMOE_MSG_PING};
    ping.ping.nonce = 4711;
    scene_say(&s, a, &ping);
    cr_assert_eq(mail_last(&s.mail, a, SMOE_MSG_PONG)->m.pong.nonce, 4711);
}

/* ---- a worker is lost and comes back ---- */

Test(loss, of_a_worker_is_noticed_after_the_silence_and_not_before, .init = begin, .fini = end)
{
    struct smoe_message pong = {.type = SMOE_MSG_PONG};
    scene_pass(&s, 3000 * MS);
    cr_assert_not(s.closed[a]);
    scene_say(&s, b, &pong);
    scene_tick(&s, 1);
    cr_assert(s.closed[a]);
    cr_assert_not(s.closed[b], "it has said something since");
    scene_assert_error(&s, a, SMOE_ETIMEOUT, "worker a was silent for 3000 ms");
}

/* Welcome says how long it may be silent, and nothing says it anew: a shorter time is for who joins from then on. */
Test(loss, of_a_worker_is_judged_by_the_silence_that_it_was_told, .init = begin, .fini = end)
{
    struct smoe_core_settings settings = scene_options().settings;
    settings.silence_ns = 1000 * MS;
    scene_configure(&s, &settings);
    uint32_t late = scene_worker(&s, "late");
    scene_pass(&s, 1000 * MS);
    cr_assert_not(s.closed[late]);
    scene_tick(&s, 1);
    cr_assert(s.closed[late]);
    cr_assert_not(s.closed[a], "it was told 3 s");
    scene_pass(&s, 1999 * MS);
    cr_assert_not(s.closed[a]);
    scene_tick(&s, 1 * MS);
    cr_assert(s.closed[a]);
    settings.silence_ns = 5000 * MS;
    uint32_t later = scene_worker(&s, "later");
    scene_configure(&s, &settings);
    scene_pass(&s, 5000 * MS);
    cr_assert_not(s.closed[later], "a longer one is for all");
    scene_tick(&s, 1);
    cr_assert(s.closed[later]);
}

Test(loss, of_a_worker_that_sends_a_long_frame_is_no_loss, .init = begin, .fini = end)
{
    smoe_core_heard(s.core, a, s.now_ns + 2000 * MS); /* bytes came, if no message yet */
    smoe_core_heard(s.core, b, s.now_ns + 2000 * MS);
    scene_pass(&s, 4000 * MS);
    cr_assert_not(s.closed[a]);
}

Test(loss, of_a_worker_is_not_what_the_daemon_s_own_standstill_looks_like, .init = begin,
     .fini = end)
{
    scene_pass(&s, 2000 * MS);
    scene_tick(&s, 60000 * MS); /* it was stopped, and has not yet read what they said */
    cr_assert_not(s.closed[a]);
    scene_pass(&s, 1000 * MS);
    cr_assert_not(s.closed[a], "they have the rest of their time");
    scene_tick(&s, 1);
    cr_assert(s.closed[a]);
}

Test(loss, of_a_worker_begins_an_attempt_in_which_older_frames_mean_nothing, .init = begin,
     .fini = end)
{
    submit(1, NULL);
    uint64_t attempt = scene_attempt(&s, t);
    scene_close(&s, b);
    cr_assert_eq(scene_attempt(&s, t), attempt + 1);
    struct scene_submit old = {
        .batch = 2, .attempt = attempt, .layer = layer, .tokens = 8, .top_k = 2};
    cr_assert_eq(scene_submit(&s, t, &old).kind, SMOE_IGNORE);
    cr_assert_eq(scene_totals(&s).stale_frames, 1);
    size_t results = mail_count(&s.mail, t, SMOE_MSG_RESULT);
    scene_work(&s, a);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_RESULT), results, "results of the old attempt");
    cr_assert_gt(scene_totals(&s).late_frames, 0);
}

Test(loss, of_a_worker_before_the_first_step_is_mended_from_the_seed, .init = begin, .fini = end)
{
    submit(1, NULL);
    scene_work_all(&s);
    scene_close(&s, b);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_WAITING);
    cr_assert_str_eq(smoe_core_trainer(s.core, 0).waits_for, "a lost worker to come back");
    b = scene_worker(&s, "b");
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
    submit(1, NULL); /* the trainer was asked for it by Need */
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_FORWARD_DONE], 16);
}

Test(replay, goes_to_exactly_the_experts_that_are_named, .init = begin, .fini = end)
{
    static const uint16_t experts[16] = {0, 1, 2, 3, 3, 0, 1, 0, 2, 1, 0, 3, 3, 2, 0, 1};
    submit(1, experts);
    scene_tick_at(&s, s.wake_ns);
    uint32_t batch = 0;
    while (!s.batches[batch].room)
        batch++;
    cr_assert_arr_eq(s.batches[batch].expert_of, experts, sizeof experts);
    cr_assert(smoe_core_batch(s.core, batch).routed);
}

/* ---- a trainer goes and comes back ---- */

Test(lease, of_a_trainer_keeps_its_layers_for_it_and_then_ends, .init = begin, .fini = end)
{
    struct smoe_message pong = {.type = SMOE_MSG_PONG};
    uint64_t gone_ns = s.now_ns;
    scene_close(&s, t);
    uint32_t heir = scene_trainer(&s, "heir");
    while (s.now_ns < gone_ns + 10000 * MS) { /* the lease, during which the workers live */
        declare(heir, "moe", 43, 4);
        scene_assert_error(&s, heir, SMOE_EEXIST, "layer moe: trainer t owns it");
        scene_tick_at(&s, s.now_ns + 2500 * MS);
        scene_say(&s, a, &pong);
        scene_say(&s, b, &pong);
    }
    scene_tick(&s, 1);
    declare(heir, "moe", 43, 4);
    scene_work_all(&s);
    cr_assert_eq(mail_count(&s.mail, heir, SMOE_MSG_LAYER_READY), 1);
}

Test(lease, lets_the_same_process_go_on_where_it_was, .init = begin, .fini = end)
{
    static const uint64_t one[] = {1};
    submit(1, NULL);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_step(&s, t, 1, one, 1);
    scene_work_all(&s);
    scene_close(&s, t);
    scene_tick(&s, 2000 * MS);
    t = scene_trainer(&s, "t");
    declare(t, "moe", 42, 4);
    const struct letter *ready = mail_last(&s.mail, t, SMOE_MSG_LAYER_READY);
    cr_assert_not_null(ready);
    cr_assert_eq(ready->m.layer_ready.step, 1);
}

/* ---- layers ---- */

Test(layers, that_cannot_be_are_refused_by_name, .init = begin, .fini = end)
{
    declare(t, "moe", 42, 5);
    scene_assert_error(&s, t, SMOE_ESHAPE, "layer moe: run 000000000000002a has another shape");
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.request, 77);
    declare(t, "moe", 43, 4);
    scene_assert_error(&s, t, SMOE_EEXIST, "layer moe: declared already with another run");
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 5, .evaluate_only = true};
    strcpy(m.layer_declare.name, "none");
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_EUNKNOWN, "layer none: no such layer");
    m.layer_declare = (struct smoe_msg_layer_declare){.run = 9, .shape = scene_shape(4)};
    m.layer_declare.shape.wire = SMOE_WIRE_BF16;
    strcpy(m.layer_declare.name, "other");
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_ESHAPE,
                       "layer other: bf16 on the wire is for sharded layers, and this gateway has "
                       "placement.rule pinned");
    cr_assert_not(s.closed[t]);
}

Test(layers, wait_for_the_workers_they_want_and_spread_over_them_in_the_order_of_names, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.settings.workers_min = 3;
    scene_begin(&s, &o);
    t = scene_trainer(&s, "t");
    uint32_t z = scene_worker(&s, "z"), m = scene_worker(&s, "m");
    declare(t, "moe", 1, 4);
    scene_work_all(&s);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_LAYER_READY), 0);
    cr_assert_str_eq(smoe_core_trainer(s.core, 0).waits_for, "workers to host its layer");
    a = scene_worker(&s, "a");
    scene_work_all(&s);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_LAYER_READY), 1);
    const struct smoe_expert_view *experts = smoe_core_layer(s.core, 0).experts;
    static const char *const hosts[] = {"a", "m", "z", "a"};
    for (int e = 0; e < 4; e++)
        cr_assert_eq(experts[e].worker, scene_index(&s, hosts[e]), "expert %d", e);
    (void)z, (void)m;
}

Test(layers, that_a_worker_cannot_host_fail_with_its_words, .init = begin, .fini = end)
{
    declare(t, "big", 7, 2);
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    m.hosted = (struct smoe_msg_hosted){.layer = 1, .code = SMOE_ENOMEMORY};
    strcpy(m.hosted.message, "needs 4 GiB, has 1");
    scene_say(&s, a, &m);
    scene_assert_error(&s, t, SMOE_ENOMEMORY,
                       "layer big: worker a cannot host it: needs 4 GiB, has 1");
    cr_assert_eq(mail_last(&s.mail, t, SMOE_MSG_ERROR)->m.error.request, 77);
}

Test(layers, that_another_trainer_owns_can_be_evaluated_and_not_trained, .init = begin, .fini = end)
{
    uint32_t guest = scene_trainer(&s, "guest");
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = 5, .evaluate_only = true};
    strcpy(m.layer_declare.name, "moe");
    scene_say(&s, guest, &m);
    cr_assert_eq(mail_last(&s.mail, guest, SMOE_MSG_LAYER_READY)->m.layer_ready.shape.experts, 4);
    struct scene_submit o = {.batch = 1, .layer = layer, .tokens = 4, .top_k = 1};
    cr_assert_eq(scene_submit(&s, guest, &o).kind, SMOE_REFUSE);
    scene_assert_error(&s, guest, SMOE_EROLE, "layer moe is attached for evaluation only");
    o.evaluate = true;
    cr_assert_eq(scene_submit(&s, guest, &o).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.settled, 4);
}
