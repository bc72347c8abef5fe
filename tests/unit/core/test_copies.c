/* SPDX-License-Identifier: Apache-2.0
 *
 * Hosts and followers, as the core places, loses, fills and moves them. Workers that play here hold no
 * tensors: that copies are equal bit for bit is shown at the agent (tests/unit/agent/test_copies.c) and in
 * the simulator.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/core/scene.h"

enum { VISITS = 16 }; /* of a batch */

static struct scene s;
static uint32_t a, b, c, t, layer;

static struct smoe_core_options options(void)
{
    struct smoe_core_options o = scene_options();
    o.settings.copies = 2;
    return o;
}

/* A trainer, its layer of that many experts, and the first n of the workers a, b, c. */
static void begin_with(uint32_t n, uint32_t experts)
{
    struct smoe_core_options o = options();
    struct smoe_layer_shape shape = scene_shape(experts);
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = n > 1 ? scene_worker(&s, "b") : UINT32_MAX;
    c = n > 2 ? scene_worker(&s, "c") : UINT32_MAX;
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

static const char *name_of(uint32_t worker)
{
    return worker == UINT32_MAX ? "-" : smoe_core_fleet(s.core)->workers[worker].id;
}

/* Hosts and followers of all experts: "a:b b:a". */
static const char *standing(void)
{
    static char text[256];
    struct smoe_layer_view view = smoe_core_layer(s.core, layer);
    size_t n = 0;
    for (uint32_t e = 0; e < view.shape.experts; e++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s:%s", e ? " " : "",
                              name_of(view.experts[e].worker), name_of(view.experts[e].follower));
    return text;
}

static void expect_standing(const char *expected)
{
    cr_assert_str_eq(standing(), expected, "standing %s, expected %s", standing(), expected);
}

static bool lists(const uint32_t *list, size_t n, uint32_t expert)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == expert)
            return true;
    return false;
}

static bool told_to_serve(uint32_t session, uint32_t expert)
{
    const struct smoe_msg_host h = last(session, SMOE_MSG_HOST)->m.host;
    return lists(h.experts, h.n_experts, expert);
}

static void submit(uint64_t batch)
{
    struct scene_submit o = {.batch = batch, .layer = layer, .tokens = VISITS, .top_k = 1};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
}

/* One whole step. */
static void train(uint64_t step)
{
    submit(step);
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, step).kind, SMOE_TAKE);
    scene_work_all(&s);
    scene_step(&s, t, step, &step, 1);
    scene_work_all(&s);
    const struct letter *done = last(t, SMOE_MSG_STEP_DONE);
    cr_assert(done && done->m.step_done.step == step, "step %llu is not done",
              (unsigned long long)step);
}

/* What a worker that comes back says it still holds. */
static struct smoe_inventory_layer held(uint64_t step, const uint32_t *experts, size_t n)
{
    struct smoe_inventory_layer l = {.name = "moe",
                                     .run = 42,
                                     .step = step,
                                     .attempt = scene_staged_attempt(&s, step),
                                     .shape = smoe_core_layer(s.core, layer).shape,
                                     .experts = experts,
                                     .n_experts = n};
    return l;
}

/* Lets time pass with these workers heard. */
static void keep_alive(uint64_t ns, uint32_t one, uint32_t other)
{
    struct smoe_message pong = {.type = SMOE_MSG_PONG};
    for (uint64_t until = s.now_ns + ns; s.now_ns < until;) {
        scene_tick(&s, 500 * MS);
        if (one != UINT32_MAX && !s.closed[one])
            scene_say(&s, one, &pong);
        if (other != UINT32_MAX && !s.closed[other])
            scene_say(&s, other, &pong);
    }
}

/* ---- placement ---- */

Test(copies, of_the_experts_of_one_worker_are_spread_over_all_the_others, .fini = end)
{
    begin_with(3, 6);
    expect_standing("a:b b:a c:a a:c b:c c:b");
    const struct smoe_msg_host h = last(a, SMOE_MSG_HOST)->m.host;
    static const uint32_t served[] = {0, 3}, copied[] = {1, 2};
    cr_assert_eq(h.n_experts, 2);
    cr_assert_arr_eq(h.experts, served, sizeof served);
    cr_assert_eq(h.n_copies, 2);
    cr_assert_arr_eq(h.copies, copied, sizeof copied);
    cr_assert(h.fresh, "all of it is in the seed");
    cr_assert_eq(count(ANYONE, SMOE_MSG_EXPERT_FETCH), 0);
}

Test(copies, are_not_made_where_there_is_one_worker_or_the_setting_is_one)
{
    begin_with(1, 2);
    expect_standing("a:- a:-");
    train(1);
    cr_assert_eq(last(a, SMOE_MSG_STEP_PREPARE)->m.step_prepare.n_gradients, 0, "for nobody");
    end();
    struct smoe_core_options o = options();
    struct smoe_layer_shape shape = scene_shape(2);
    o.settings.copies = 1;
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    train(1);
    expect_standing("a:- b:-");
    end();
}

Test(copies, serve_no_visits, .fini = end)
{
    static const uint16_t to_all[VISITS] = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3};
    begin_with(3, 6);
    struct scene_submit o = {
        .batch = 1, .layer = layer, .tokens = VISITS, .top_k = 1, .experts = to_all};
    scene_submit(&s, t, &o);
    scene_tick_at(&s, s.wake_ns);
    for (uint32_t e = 0; e < 6; e++) {
        uint32_t host = smoe_core_layer(s.core, layer).experts[e].worker;
        uint32_t session = smoe_core_fleet(s.core)->workers[host].session;
        cr_assert_eq(scene_visits_of(&s, session, e), e < 4 ? 3 : 2);
        cr_assert_eq(scene_visits_of(&s, ANYONE, e), 0);
    }
}

Test(copies, take_part_in_every_step, .fini = end)
{
    begin_with(2, 1); /* b has nothing but the copy */
    expect_standing("a:b");
    submit(1);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    scene_step(&s, t, 1, (uint64_t[]){1}, 1);
    cr_assert_eq(count(b, SMOE_MSG_STEP_PREPARE), 1);
    scene_answer(&s, a, SMOE_MSG_STEP_PREPARE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_STAGE), 0, "the follower has not answered");
    scene_answer(&s, b, SMOE_MSG_STEP_PREPARE);
    scene_answer(&s, a, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT), 0, "the follower has not staged");
    scene_answer(&s, b, SMOE_MSG_STEP_STAGE);
    cr_assert_eq(count(a, SMOE_MSG_STEP_COMMIT), 1);
    cr_assert_eq(count(b, SMOE_MSG_STEP_COMMIT), 1);
}

Test(copies, have_the_gradient_sum_before_they_are_told_to_stage, .fini = end)
{
    begin_with(3, 6);
    train(1);
    size_t sums[3] = {0};
    for (size_t i = 0; i < s.mail.n; i++) {
        const struct letter *l = &s.mail.letters[i];
        if (l->m.type == SMOE_MSG_STEP_GRADIENT) {
            cr_assert_eq(count(l->session, SMOE_MSG_STEP_STAGE), 1);
            sums[l->session - a]++;
            const struct smoe_expert_view *x =
                &smoe_core_layer(s.core, layer).experts[l->m.step_gradient.expert];
            cr_assert_eq(smoe_core_fleet(s.core)->workers[x->follower].session, l->session);
        }
        if (l->m.type == SMOE_MSG_STEP_STAGE)
            cr_assert_eq(sums[l->session - a], 2, "each of them follows two experts");
    }
}

Test(copies, get_no_sum_from_a_worker_that_does_not_serve_the_expert_or_of_another_attempt,
     .fini = end)
{
    begin_with(3, 3);
    submit(1);
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    struct smoe_message m = {.type = SMOE_MSG_STEP_GRADIENT};
    uint64_t attempt = scene_attempt(&s, t);
    m.step_gradient = (struct smoe_msg_step_gradient){1, attempt, layer, 0, 0};
    cr_assert_eq(scene_say(&s, a, &m).kind, SMOE_IGNORE, "nobody asked");
    scene_step(&s, t, 1, (uint64_t[]){1}, 1);
    cr_assert_eq(scene_say(&s, b, &m).kind, SMOE_IGNORE, "b follows it");
    m.step_gradient.attempt--;
    cr_assert_eq(scene_say(&s, a, &m).kind, SMOE_IGNORE);
    m.step_gradient.attempt++;
    m.step_gradient.expert = 3;
    cr_assert_eq(scene_say(&s, a, &m).kind, SMOE_IGNORE, "there is none");
    m.step_gradient.expert = 0;
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_GRADIENT), 0);
    cr_assert_eq(scene_say(&s, a, &m).bytes, (2 * 4 * 8 + 8 + 4) * sizeof(float));
    cr_assert_eq(count(b, SMOE_MSG_STEP_GRADIENT), 1);
}

/* ---- a host is lost ---- */

enum phase { IDLE, ROUTED, FORWARD_DONE, QUEUED, SETTLED, NORM, STAGING, COMMITTED, PHASES };

/* Batch 2 of step 2 as far as the phase. */
static void go_to(enum phase phase)
{
    static const uint64_t two[] = {2};
    if (phase >= ROUTED) {
        submit(2);
        scene_tick_at(&s, s.wake_ns);
        cr_assert_gt(scene_totals(&s).account.now[SMOE_VISIT_ROUTED], 0);
    }
    if (phase >= FORWARD_DONE)
        scene_work_all(&s);
    if (phase >= QUEUED)
        scene_gradient(&s, t, 2);
    if (phase >= SETTLED)
        scene_work_all(&s);
    if (phase >= NORM)
        scene_step(&s, t, 2, two, 1);
    for (uint32_t i = 0; phase >= STAGING && i < s.n_sessions; i++)
        scene_answer(&s, i, SMOE_MSG_STEP_PREPARE);
    if (phase >= COMMITTED)
        scene_work_all(&s);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), phase >= NORM ? 6 : 3);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_STAGE), phase >= STAGING ? 6 : 3);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_COMMIT), phase >= COMMITTED ? 6 : 3);
}

/* Whatever was under way: the copies serve, what was uncommitted is asked for once and done once. */
Test(copies, serve_when_a_host_is_lost_in_any_phase_and_nothing_is_done_twice)
{
    for (enum phase phase = IDLE; phase < PHASES; phase++) {
        bool open = phase > IDLE && phase < COMMITTED;
        begin_with(3, 6);
        train(1);
        go_to(phase);
        uint64_t attempt = scene_attempt(&s, t), epoch = scene_totals(&s).epoch;
        scene_close(&s, b);
        cr_assert_eq(count(t, SMOE_MSG_NEED), open ? 1 : 0, "phase %d", phase);
        cr_assert_eq(scene_attempt(&s, t), attempt + (open ? 1 : 0), "phase %d", phase);
        cr_assert_eq(scene_totals(&s).account.in_flight, 0);
        cr_assert(told_to_serve(a, 1) && told_to_serve(c, 4), "phase %d", phase);
        const struct smoe_msg_host h = last(a, SMOE_MSG_HOST)->m.host;
        cr_assert_eq(h.step, phase >= COMMITTED ? 2 : 1);
        cr_assert_not(h.fresh, "the copy has history");
        scene_work_all(&s); /* late answers of the old attempt among them */
        cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
        expect_standing("a:c a:c c:a a:c c:a c:a");
        cr_assert_eq(scene_totals(&s).epoch, epoch, "phase %d: what was open is not committed",
                     phase);
        train(phase >= COMMITTED ? 3 : 2);
        struct smoe_core_totals totals = scene_totals(&s);
        cr_assert_eq(totals.epoch, epoch + 1);
        cr_assert_eq(totals.account.now[SMOE_VISIT_COMMITTED], totals.steps * VISITS);
        cr_assert_eq(totals.account.failed, open ? VISITS : 0, "phase %d", phase);
        cr_assert_eq(totals.account.submitted, totals.account.settled + totals.account.failed);
        cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), totals.steps);
        end();
    }
}

Test(copies, of_workers_that_stay_forget_the_attempt_that_a_loss_ended, .fini = end)
{
    begin_with(3, 6);
    train(1);
    go_to(STAGING);
    scene_close(&s, b);
    cr_assert_eq(count(a, SMOE_MSG_RESET), 1);
    cr_assert_eq(count(c, SMOE_MSG_RESET), 1);
    cr_assert_eq(last(a, SMOE_MSG_RESET)->m.reset.attempt, scene_attempt(&s, t));
}

/* ---- a follower is lost ---- */

Test(follower, lost_costs_nothing_when_no_step_waits_for_it_and_another_is_filled, .fini = end)
{
    begin_with(3, 1);
    expect_standing("a:b");
    train(1);
    submit(2);
    scene_tick_at(&s, s.wake_ns);
    scene_close(&s, b);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0, "its visits are not there");
    scene_answer(&s, c, SMOE_MSG_HOST);
    cr_assert_eq(count(a, SMOE_MSG_EXPERT_FETCH), 1);
    const struct smoe_msg_expert_fetch asked = last(a, SMOE_MSG_EXPERT_FETCH)->m.expert_fetch;
    cr_assert_eq(asked.parts, SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS);
    expect_standing("a:-");
    scene_answer(&s, a, SMOE_MSG_EXPERT_FETCH);
    cr_assert_eq(last(c, SMOE_MSG_EXPERT_STORE)->m.expert_store.step, 1);
    expect_standing("a:-");
    scene_answer(&s, c, SMOE_MSG_EXPERT_STORE);
    expect_standing("a:c");
    scene_work_all(&s);
    scene_gradient(&s, t, 2);
    scene_work_all(&s);
    scene_step(&s, t, 2, (uint64_t[]){2}, 1);
    cr_assert_eq(count(c, SMOE_MSG_STEP_PREPARE), 1, "it follows from this step on");
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).steps, 2);
}

Test(follower, lost_while_a_step_waits_for_it_ends_the_attempt_and_the_step_is_made_without_it)
{
    for (enum phase phase = NORM; phase <= STAGING; phase++) {
        static const uint64_t one[] = {1};
        begin_with(2, 1);
        submit(1);
        scene_work_all(&s);
        scene_gradient(&s, t, 1);
        scene_work_all(&s);
        scene_step(&s, t, 1, one, 1);
        for (uint32_t i = 0; phase == STAGING && i < s.n_sessions; i++)
            scene_answer(&s, i, SMOE_MSG_STEP_PREPARE);
        uint64_t attempt = scene_attempt(&s, t);
        scene_close(&s, b);
        cr_assert_eq(scene_attempt(&s, t), attempt + 1);
        cr_assert_str_eq(last(t, SMOE_MSG_NEED)->m.need.reason, "worker b is lost");
        scene_work_all(&s);
        cr_assert_eq(scene_totals(&s).steps, 0);
        train(1);
        expect_standing("a:-");
        end();
    }
}

/* A step must not begin while a state is on its way: it would be of the step before. */
Test(follower, being_filled_is_waited_for_by_a_step, .fini = end)
{
    begin_with(3, 1);
    train(1);
    submit(2);
    scene_work_all(&s);
    scene_gradient(&s, t, 2);
    scene_work_all(&s);
    scene_close(&s, b);
    scene_answer(&s, c, SMOE_MSG_HOST);
    cr_assert_eq(count(a, SMOE_MSG_EXPERT_FETCH), 1);
    scene_step(&s, t, 2, (uint64_t[]){2}, 1);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 2, "those of step 1");
    scene_answer(&s, a, SMOE_MSG_EXPERT_FETCH);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 2);
    scene_answer(&s, c, SMOE_MSG_EXPERT_STORE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_STEP_PREPARE), 4);
    cr_assert_eq(count(c, SMOE_MSG_STEP_PREPARE), 1);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).steps, 2);
}

/* ---- both are lost ---- */

Test(copies, that_are_both_lost_end_the_run_in_words_when_their_places_have_expired, .fini = end)
{
    begin_with(2, 1);
    train(1);
    scene_close(&s, b);
    scene_close(&s, a);
    cr_assert_not(s.closed[t], "either may come back");
    keep_alive(10000 * MS, UINT32_MAX, UINT32_MAX);
    scene_tick(&s, 1);
    scene_assert_error(&s, t, SMOE_ELOST,
                       "layer moe: no worker has expert 0 of step 1 any more: resume from a "
                       "checkpoint");
    cr_assert(s.closed[t]);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_LOST);
}

/* It has not heard that its first step was committed, and takes the layer for new. Had it one from the seed, the step
 * would be answered as done, and the next be made of experts that never made it. */
Test(copies, that_are_both_lost_are_lost_to_a_trainer_that_did_not_hear_of_its_step_too,
     .fini = end)
{
    begin_with(2, 1);
    train(1);
    scene_close(&s, t);
    scene_close(&s, b);
    scene_close(&s, a);
    keep_alive(10000 * MS, UINT32_MAX, UINT32_MAX);
    scene_tick(&s, 1);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_LOST);
    a = scene_worker(&s, "a");
    t = scene_trainer(&s, "t");
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .run = smoe_core_layer(s.core, layer).run, .shape = scene_shape(1)};
    strcpy(m.layer_declare.name, "moe");
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_ELOST, "layer moe: its experts are lost");
    m.layer_declare.run++; /* a new one is another matter */
    scene_say(&s, t, &m);
    scene_work_all(&s);
    cr_assert_eq(mail_count(&s.mail, t, SMOE_MSG_LAYER_READY), 1);
}

Test(copies, that_are_both_gone_for_a_while_serve_again_when_one_comes_back, .fini = end)
{
    static const uint32_t zero[] = {0};
    begin_with(2, 1);
    train(1);
    scene_close(&s, b);
    scene_close(&s, a);
    scene_tick(&s, 1000 * MS);
    struct smoe_inventory_layer l = held(1, zero, 1);
    b = scene_worker_with(&s, "b", &l);
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
    expect_standing("b:-");
    train(2);
}

/* The host went last and had more steps than the follower, which therefore counts for nothing. */
Test(copies, that_missed_a_step_are_not_served_for_want_of_better_ones, .fini = end)
{
    static const uint32_t zero[] = {0};
    begin_with(2, 1);
    train(1);
    scene_close(&s, b);
    train(2);
    scene_close(&s, a);
    struct smoe_inventory_layer l = held(1, zero, 1);
    b = scene_worker_with(&s, "b", &l);
    scene_work_all(&s);
    cr_assert_neq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
    cr_assert_eq(scene_visits(&s, b), 0);
    keep_alive(11000 * MS, b, UINT32_MAX);
    scene_assert_error(&s, t, SMOE_ELOST, "no worker has expert 0 of step 2 any more");
}

/* ---- a worker comes back ---- */

Test(return, of_a_worker_with_the_committed_state_makes_it_a_follower_at_once, .fini = end)
{
    static const uint32_t both[] = {0, 1};
    begin_with(2, 2);
    train(1);
    scene_close(&s, b);
    scene_work_all(&s);
    expect_standing("a:- a:-");
    struct smoe_inventory_layer l = held(1, both, 2);
    b = scene_worker_with(&s, "b", &l);
    cr_assert_eq(last(b, SMOE_MSG_HOST)->m.host.n_experts + last(b, SMOE_MSG_HOST)->m.host.n_copies,
                 2);
    scene_work_all(&s);
    cr_assert_eq(count(ANYONE, SMOE_MSG_EXPERT_FETCH), 0, "nothing need be sent");
    train(2);
    expect_standing("b:a a:b");
}

Test(return, of_a_worker_with_an_older_state_is_filled, .fini = end)
{
    static const uint32_t zero[] = {0};
    begin_with(2, 1);
    train(1);
    scene_close(&s, b);
    train(2);
    struct smoe_inventory_layer l = held(1, zero, 1);
    b = scene_worker_with(&s, "b", &l);
    expect_standing("a:-");
    scene_work_all(&s);
    cr_assert_eq(count(a, SMOE_MSG_EXPERT_FETCH), 1);
    cr_assert_eq(last(b, SMOE_MSG_EXPERT_STORE)->m.expert_store.step, 2);
    expect_standing("a:b");
}

/* It staged the step, and was lost before it heard of the commit. */
Test(return, of_a_worker_that_staged_what_was_committed_counts_as_current)
{
    static const struct {
        uint64_t staged_step;
        int64_t attempt_off; /* from the committed one */
        bool counts;
    } cases[] = {{2, 0, true}, {2, -1, false}, {3, 0, false}, {0, 0, false}};
    static const uint32_t zero[] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin_with(2, 1);
        train(1);
        train(2);
        uint64_t attempt = last(a, SMOE_MSG_STEP_STAGE)->m.step_stage.attempt;
        scene_close(&s, b);
        struct smoe_inventory_layer l = held(1, zero, 1);
        l.staged_step = cases[i].staged_step;
        l.staged_attempt = l.staged_step ? attempt + (uint64_t)cases[i].attempt_off : 0;
        b = scene_worker_with(&s, "b", &l);
        expect_standing(cases[i].counts ? "a:b" : "a:-");
        const struct smoe_msg_host h = last(b, SMOE_MSG_HOST)->m.host;
        cr_assert_eq(h.step, 2);
        cr_assert_eq(h.attempt, attempt, "by which it knows what to put in force");
        scene_work_all(&s);
        cr_assert_eq(count(a, SMOE_MSG_EXPERT_FETCH), cases[i].counts ? 0 : 1);
        expect_standing("a:b");
        end();
    }
}

Test(return, of_a_worker_with_layers_that_nobody_knows_makes_it_drop_them, .fini = end)
{
    static const uint32_t zero[] = {0};
    begin_with(2, 1);
    struct smoe_inventory_layer l = held(5, zero, 1);
    l.run = 41; /* an earlier run of that name */
    c = scene_worker_with(&s, "c", &l);
    const struct letter *host = mail_last(&s.mail, c, SMOE_MSG_HOST);
    cr_assert_not_null(host);
    cr_assert_eq(host->m.host.run, 41);
    cr_assert_eq(host->m.host.n_experts + host->m.host.n_copies, 0);
    expect_standing("a:b");
}

/* ---- moving ---- */

Test(drain, moves_experts_and_copies_away_and_then_the_worker_may_go, .fini = end)
{
    begin_with(3, 6);
    train(1);
    scene_drain(&s, "b", true);
    for (uint64_t step = 2; step < 6; step++)
        train(step); /* one expert at a time, between steps */
    struct smoe_layer_view view = smoe_core_layer(s.core, layer);
    for (uint32_t e = 0; e < 6; e++) {
        cr_assert_str_neq(name_of(view.experts[e].worker), "b", "%s", standing());
        cr_assert_str_neq(name_of(view.experts[e].follower), "b", "%s", standing());
        cr_assert_neq(view.experts[e].follower, UINT32_MAX, "%s", standing());
    }
    submit(6);
    scene_tick_at(&s, s.wake_ns);
    scene_close(&s, b);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0, "nobody misses it");
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY);
}

Test(drain, waits_for_the_step_at_hand, .fini = end)
{
    begin_with(3, 6);
    train(1);
    go_to(FORWARD_DONE);
    size_t hosts = count(ANYONE, SMOE_MSG_HOST);
    scene_drain(&s, "b", true);
    expect_standing("a:b b:a c:a a:c b:c c:b");
    cr_assert_eq(count(ANYONE, SMOE_MSG_HOST), hosts + 1, "one is to follow, nobody else to serve");
    scene_gradient(&s, t, 2);
    scene_work_all(&s);
    scene_step(&s, t, 2, (uint64_t[]){2}, 1);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).steps, 2);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    cr_assert_str_neq(name_of(smoe_core_layer(s.core, layer).experts[1].worker), "b");
}

Test(balance, after_a_join_gives_the_new_worker_its_share_without_a_loss, .fini = end)
{
    begin_with(1, 4);
    train(1);
    b = scene_worker(&s, "b");
    scene_work_all(&s);
    for (uint64_t step = 2; step < 6; step++)
        train(step);
    struct smoe_layer_view view = smoe_core_layer(s.core, layer);
    uint32_t served = 0;
    for (uint32_t e = 0; e < 4; e++) {
        served += view.experts[e].worker == scene_index(&s, "b");
        cr_assert_neq(view.experts[e].follower, UINT32_MAX, "%s", standing());
    }
    cr_assert_eq(served, 2, "%s", standing());
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    cr_assert_gt(scene_visits(&s, b), 0);
}

/* ---- memory ---- */

static void refuse_host(uint32_t session)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    m.hosted = (struct smoe_msg_hosted){.layer = layer, .code = SMOE_ENOMEMORY};
    strcpy(m.hosted.message, "no room");
    scene_say(&s, session, &m);
    for (size_t i = 0; i < s.mail.n; i++) /* it has answered what it was asked before this */
        s.answered[i] |= s.mail.letters[i].session == session &&
                         s.mail.letters[i].m.type == SMOE_MSG_HOST &&
                         &s.mail.letters[i] != last(session, SMOE_MSG_HOST);
}

Test(copies, that_find_no_room_are_done_without_and_the_worker_serves, .fini = end)
{
    struct smoe_core_options o = options();
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .run = 42, .shape = scene_shape(2)};
    scene_say(&s, t, &m);
    cr_assert_eq(last(b, SMOE_MSG_HOST)->m.host.n_copies, 1);
    refuse_host(b);
    const struct smoe_msg_host h = last(b, SMOE_MSG_HOST)->m.host;
    cr_assert_eq(h.n_experts, 1, "it is asked again,");
    cr_assert_eq(h.n_copies, 0, "without copies");
    scene_work_all(&s);
    cr_assert_not_null(last(t, SMOE_MSG_LAYER_READY));
    layer = last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.layer;
    train(1);
    train(2);
    expect_standing("a:- b:a");
    cr_assert_eq(last(b, SMOE_MSG_HOST)->m.host.n_copies, 0, "and not once more");
}

/* Its number goes to the next layer, which is another. */
Test(copies, that_found_no_room_in_a_layer_are_asked_for_of_the_next, .fini = end)
{
    begin_with(2, 1);
    scene_close(&s, b);
    b = scene_worker(&s, "b");
    refuse_host(b);
    scene_work_all(&s);
    expect_standing("a:-");
    scene_say(&s, t, &(struct smoe_message){.type = SMOE_MSG_BYE});
    t = scene_trainer(&s, "heir");
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .run = 43, .shape = scene_shape(2)};
    scene_say(&s, t, &m);
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_LAYER_READY)->m.layer_ready.layer, layer);
    expect_standing("a:b b:a");
}

/* The second refusal answers the first Host: by then the worker has been asked for less. */
Test(copies, are_not_refused_twice_by_an_answer_that_comes_late, .fini = end)
{
    struct smoe_core_options o = options();
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE}, late = {.type = SMOE_MSG_HOSTED};
    scene_begin(&s, &o);
    a = scene_worker(&s, "a");
    b = scene_worker(&s, "b");
    t = scene_trainer(&s, "t");
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1, .name = "moe", .run = 42, .shape = scene_shape(2)};
    scene_say(&s, t, &m);
    late.hosted = (struct smoe_msg_hosted){.code = SMOE_ENOMEMORY,
                                           .number = last(b, SMOE_MSG_HOST)->m.host.number};
    cr_assert_neq(late.hosted.number, 0);
    refuse_host(b);
    cr_assert_gt(last(b, SMOE_MSG_HOST)->m.host.number, late.hosted.number);
    scene_say(&s, b, &late);
    late.hosted.code = 0;
    scene_say(&s, b, &late);
    cr_assert_eq(smoe_core_layer(s.core, 0).state, SMOE_LAYER_WAITING, "it has answered neither");
    scene_work_all(&s);
    cr_assert_eq(smoe_core_layer(s.core, 0).state, SMOE_LAYER_READY);
}

Test(copies, that_one_worker_has_no_room_for_go_to_another, .fini = end)
{
    begin_with(2, 1);
    train(1);
    scene_close(&s, b);
    c = scene_worker(&s, "c");
    refuse_host(c);
    scene_work_all(&s);
    expect_standing("a:-");
    uint32_t d = scene_worker(&s, "d");
    scene_work_all(&s);
    expect_standing("a:d");
    cr_assert_eq(count(d, SMOE_MSG_EXPERT_STORE), 1);
    train(2);
}

/* ---- states on their way ---- */

/* c is being filled when b comes back and has it: the answers that are still to come mean nothing. */
Test(filling, is_void_when_somebody_else_takes_the_role, .fini = end)
{
    static const uint32_t zero[] = {0};
    begin_with(3, 1);
    train(1);
    scene_close(&s, b);
    scene_answer(&s, c, SMOE_MSG_HOST);
    struct smoe_msg_expert_fetch asked = last(a, SMOE_MSG_EXPERT_FETCH)->m.expert_fetch;
    struct smoe_inventory_layer l = held(1, zero, 1);
    b = scene_worker_with(&s, "b", &l);
    expect_standing("a:b");
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STATE};
    m.expert_state =
        (struct smoe_msg_expert_state){asked.request, layer, 0, asked.parts, 1, 0, 0, 0};
    cr_assert_eq(scene_say(&s, a, &m).kind, SMOE_IGNORE);
    cr_assert_eq(count(c, SMOE_MSG_EXPERT_STORE), 0);
    scene_work_all(&s);
    expect_standing("a:b");
}

Test(filling, is_void_when_the_host_is_lost_in_the_middle, .fini = end)
{
    begin_with(3, 1);
    train(1);
    scene_close(&s, b);
    scene_answer(&s, c, SMOE_MSG_HOST);
    scene_answer(&s, a, SMOE_MSG_EXPERT_FETCH);
    struct smoe_msg_expert_store asked = last(c, SMOE_MSG_EXPERT_STORE)->m.expert_store;
    scene_close(&s, a);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORED};
    m.expert_stored = (struct smoe_msg_expert_stored){asked.request, layer, 0};
    scene_say(&s, c, &m);
    expect_standing("a:-");
    cr_assert_neq(smoe_core_layer(s.core, layer).state, SMOE_LAYER_READY,
                  "what it has may be whole or not: the host's word is missing");
}

Test(filling, of_a_state_that_a_restore_replaces_begins_anew, .fini = end)
{
    begin_with(3, 1);
    train(1);
    scene_close(&s, b);
    scene_answer(&s, c, SMOE_MSG_HOST);
    scene_answer(&s, a, SMOE_MSG_EXPERT_FETCH);
    struct smoe_msg_expert_store old = last(c, SMOE_MSG_EXPERT_STORE)->m.expert_store;
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    m.restore = (struct smoe_msg_restore){.step = 9, .attempt = scene_attempt(&s, t)};
    scene_say(&s, t, &m);
    m = (struct smoe_message){.type = SMOE_MSG_EXPERT_STORED};
    m.expert_stored = (struct smoe_msg_expert_stored){old.request, layer, 0};
    scene_say(&s, c, &m);
    expect_standing("a:-");
    for (size_t i = 0; i < s.mail.n; i++) /* the stale one is answered */
        s.answered[i] |= s.mail.letters[i].m.type == SMOE_MSG_EXPERT_STORE;
    m = (struct smoe_message){.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store =
        (struct smoe_msg_expert_store){7, layer, 0, SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS, 9, 0};
    cr_assert_eq(scene_say(&s, t, &m).kind, SMOE_TAKE);
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_EXPERT_STORED)->m.expert_stored.request, 7);
    cr_assert_eq(last(c, SMOE_MSG_EXPERT_STORE)->m.expert_store.step, 9, "filled at once");
    expect_standing("a:c");
    train(10);
    expect_standing("a:c");
}

/* It crossed a Need: to go back is meant whatever has become of the attempt meanwhile. */
Test(filling, a_restore_of_an_older_attempt_counts, .fini = end)
{
    begin_with(2, 1);
    uint64_t before = scene_attempt(&s, t);
    train(1);
    struct scene_submit o = {.batch = 9, .layer = layer, .tokens = 8, .top_k = 1};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    scene_close(&s, a);
    cr_assert_gt(scene_attempt(&s, t), before);
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    m.restore = (struct smoe_msg_restore){.step = 9, .attempt = before};
    scene_say(&s, t, &m);
    cr_assert_eq(smoe_core_layer(s.core, layer).step, 9);
    cr_assert_str_eq(last(t, SMOE_MSG_NEED)->m.need.reason, "restored from a checkpoint");
}

Test(filling, of_a_state_that_its_trainer_replaces_does_not_count, .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    begin_with(3, 1);
    train(1);
    scene_close(&s, b);
    scene_answer(&s, c, SMOE_MSG_HOST);
    scene_answer(&s, a, SMOE_MSG_EXPERT_FETCH);
    m.expert_store = (struct smoe_msg_expert_store){7, layer, 0, SMOE_STATE_WEIGHTS, 1, 0};
    cr_assert_eq(scene_say(&s, t, &m).kind, SMOE_TAKE);
    scene_answer(&s, c, SMOE_MSG_EXPERT_STORE); /* what a had before */
    expect_standing("a:-");
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_EXPERT_STORED), 1, "a alone has it");
}

Test(restore, is_stored_at_host_and_follower_and_answered_when_both_have_it, .fini = end)
{
    begin_with(2, 1);
    train(1);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store = (struct smoe_msg_expert_store){7, layer, 0, SMOE_STATE_WEIGHTS, 1, 0};
    scene_say(&s, t, &m);
    cr_assert_eq(count(a, SMOE_MSG_EXPERT_STORE), 1);
    cr_assert_eq(count(b, SMOE_MSG_EXPERT_STORE), 1);
    scene_answer(&s, a, SMOE_MSG_EXPERT_STORE);
    cr_assert_eq(count(t, SMOE_MSG_EXPERT_STORED), 0);
    scene_answer(&s, b, SMOE_MSG_EXPERT_STORE);
    cr_assert_eq(count(t, SMOE_MSG_EXPERT_STORED), 1);
    m.expert_store.request = 8;
    scene_say(&s, t, &m);
    scene_answer(&s, a, SMOE_MSG_EXPERT_STORE);
    scene_close(&s, b); /* a copy that is gone need not have it */
    cr_assert_eq(last(t, SMOE_MSG_EXPERT_STORED)->m.expert_stored.request, 8);
}

/* It would be the state of neither step, and the step's hosts would wait for one another. */
Test(restore, of_a_state_is_refused_while_a_step_is_made_of_the_old_one, .fini = end)
{
    const uint64_t two = 2;
    begin_with(2, 1);
    train(1);
    submit(two);
    scene_work_all(&s);
    cr_assert_eq(scene_gradient(&s, t, two).kind, SMOE_TAKE);
    scene_work_all(&s);
    scene_step(&s, t, two, &two, 1);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store = (struct smoe_msg_expert_store){7, layer, 0, SMOE_STATE_WEIGHTS, 1, 0};
    scene_say(&s, t, &m);
    scene_assert_error(&s, t, SMOE_ESTATE, "EXPERT_STORE: layer moe: its step is being made");
    scene_work_all(&s);
    cr_assert_eq(last(t, SMOE_MSG_STEP_DONE)->m.step_done.step, two);
}

/* ---- evaluation ---- */

static void evaluate(uint64_t batch)
{
    struct scene_submit o = {
        .batch = batch, .layer = layer, .tokens = VISITS, .top_k = 1, .evaluate = true};
    cr_assert_eq(scene_submit(&s, t, &o).kind, SMOE_TAKE);
    scene_tick_at(&s, s.wake_ns);
}

Test(evaluation, visits_at_a_worker_that_follows_from_now_on_are_answered_there, .fini = end)
{
    begin_with(2, 1);
    train(1);
    evaluate(2);
    scene_drain(&s, "a", true);
    expect_standing("b:a");
    scene_answer(&s, a, SMOE_MSG_DECISION);
    cr_assert_eq(count(t, SMOE_MSG_NEED), 0);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_SETTLED], VISITS);
    cr_assert_eq(scene_totals(&s).account.failed, 0);
}

Test(evaluation, visits_of_an_expert_that_its_worker_drops_come_again, .fini = end)
{
    begin_with(2, 1);
    train(1);
    evaluate(2);
    uint64_t attempt = scene_attempt(&s, t);
    scene_drain(&s, "a", true);
    expect_standing("b:a");
    refuse_host(a); /* and so it holds the expert no more */
    cr_assert_eq(scene_attempt(&s, t), attempt + 1);
    cr_assert_str_eq(last(t, SMOE_MSG_NEED)->m.need.reason, "an expert has moved");
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.failed, VISITS);
    evaluate(2);
    scene_work_all(&s);
    cr_assert_eq(scene_totals(&s).account.now[SMOE_VISIT_SETTLED], VISITS);
    cr_assert_gt(scene_visits(&s, b), 0);
}
