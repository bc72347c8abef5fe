/* SPDX-License-Identifier: Apache-2.0
 *
 * Credit that cannot deadlock: small inboxes, small windows, few parcels, trainers that are slow to send
 * gradients, workers that give up activations. Whatever is taken comes to its end; whatever cannot is
 * refused at once, in words.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/core/scene.h"

enum {
    ROW = 4 * 4,
    TOKEN = 2 * 4 + ROW
}; /* bytes: of x or dy; of a token in Submit, two experts */

static struct scene s;
static uint32_t w, v, t, layer;

static uint32_t worker_with_inbox(const char *name, uint32_t rows)
{
    struct smoe_msg_hello hello = scene_hello(SMOE_ROLE_WORKER, name);
    struct smoe_message inventory = {.type = SMOE_MSG_INVENTORY};
    hello.inbox_bytes_max = (uint64_t)rows * ROW;
    uint32_t session = scene_join(&s, &hello);
    scene_say(&s, session, &inventory);
    return session;
}

/* Two workers with inboxes of so many rows, expert 0 on w and 1 on v, and a trainer. */
static void begin_with(const struct smoe_core_options *o, uint32_t rows)
{
    struct smoe_layer_shape shape = scene_shape(2);
    scene_begin(&s, o);
    w = worker_with_inbox("a", rows);
    v = worker_with_inbox("b", rows);
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
}

static void begin(void)
{
    begin_with(NULL, 1 << 16);
}

static void end(void)
{
    scene_end(&s);
}

static struct smoe_verdict submit_to(uint32_t trainer, uint32_t l, uint64_t batch, uint32_t tokens,
                                     const uint16_t *experts)
{
    struct scene_submit o = {
        .batch = batch, .layer = l, .tokens = tokens, .top_k = 2, .experts = experts};
    return scene_submit(&s, trainer, &o);
}

static void submit(uint64_t batch, uint32_t tokens)
{
    cr_assert_eq(submit_to(t, layer, batch, tokens, NULL).kind, SMOE_TAKE);
}

/* Slot after slot, until workers have nothing more to answer. */
static void work(void)
{
    for (int i = 0; i < 400; i++) {
        scene_work_all(&s);
        scene_tick_at(&s, s.wake_ns);
        scene_say(&s, w, &(struct smoe_message){.type = SMOE_MSG_PONG});
        scene_say(&s, v, &(struct smoe_message){.type = SMOE_MSG_PONG});
    }
}

static size_t count(uint32_t session, enum smoe_message_type type)
{
    return mail_count(&s.mail, session, type);
}

static const struct letter *last(uint32_t session, enum smoe_message_type type)
{
    return mail_last(&s.mail, session, type);
}

/* Rows of a parcel, as its Decision said; 0: there is none. */
static uint32_t rows_of(uint64_t parcel)
{
    for (size_t i = 0; i < s.mail.n; i++) {
        const struct smoe_message *m = &s.mail.letters[i].m;
        for (size_t p = 0; m->type == SMOE_MSG_DECISION && p < m->decision.n_parcels; p++)
            if (m->decision.parcels[p].id == parcel)
                return m->decision.parcels[p].rows;
    }
    return 0;
}

static uint64_t in_state(enum smoe_visit_state state)
{
    return scene_totals(&s).account.now[state];
}

/* ---- gradients, as workers have room ---- */

/* Rows in Backprops to the worker that it has not answered. */
static uint32_t rows_out(uint32_t session)
{
    uint32_t rows = 0;
    for (size_t i = 0; i < s.mail.n; i++) {
        const struct letter *l = &s.mail.letters[i];
        for (size_t p = 0; l->session == session && l->m.type == SMOE_MSG_BACKPROP &&
                           !s.answered[i] && p < l->m.backprop.n_parcels;
             p++)
            rows += rows_of(l->m.backprop.parcels[p]);
    }
    return rows;
}

Test(backward, sends_a_worker_no_more_gradients_than_it_has_room_for_and_all_of_them_at_last,
     .fini = end)
{
    begin_with(NULL, 4);
    submit(1, 24);
    work();
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 48);
    scene_gradient(&s, t, 1);
    cr_assert_leq(rows_out(w), 4);
    for (int i = 0; i < 100 && in_state(SMOE_VISIT_SETTLED) < 48; i++) {
        cr_assert_gt(rows_out(w) + rows_out(v), 0, "somebody always has something to do");
        scene_answer(&s, w, SMOE_MSG_BACKPROP);
        cr_assert_leq(rows_out(w), 4);
        scene_answer(&s, v, SMOE_MSG_BACKPROP);
        cr_assert_leq(rows_out(v), 4);
    }
    cr_assert_eq(in_state(SMOE_VISIT_SETTLED), 48);
    scene_step(&s, t, 1, (uint64_t[]){1}, 1);
    work();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

/* A worker's inbox is full of forward work that it does not get done: gradients do not wait for it. */
Test(backward, has_room_of_its_own_beside_forward_work, .fini = end)
{
    begin_with(NULL, 4);
    submit(1, 4);
    work();
    submit(2, 4);
    scene_tick_at(&s, s.wake_ns);
    cr_assert_gt(in_state(SMOE_VISIT_ROUTED), 0, "the inboxes are full");
    scene_gradient(&s, t, 1);
    cr_assert_eq(in_state(SMOE_VISIT_GRADIENT_QUEUED), 8);
    scene_answer(&s, w, SMOE_MSG_BACKPROP);
    scene_answer(&s, v, SMOE_MSG_BACKPROP);
    cr_assert_eq(in_state(SMOE_VISIT_SETTLED), 8);
}

/* ---- activations that a worker gives up ---- */

/* Says that the parcels of its last Decision are given up. */
static void evict(uint32_t session)
{
    const struct smoe_msg_decision d = last(session, SMOE_MSG_DECISION)->m.decision;
    uint64_t ids[64];
    struct smoe_message m = {.type = SMOE_MSG_EVICTED};
    cr_assert_leq(d.n_parcels, 64u);
    for (size_t i = 0; i < d.n_parcels; i++)
        ids[i] = d.parcels[i].id;
    m.evicted = (struct smoe_msg_evicted){ids, d.n_parcels};
    scene_say(&s, session, &m);
}

static struct smoe_verdict give_inputs(uint64_t batch, uint64_t attempt)
{
    struct smoe_message m = {.type = SMOE_MSG_INPUTS};
    m.inputs = (struct smoe_msg_inputs){batch, attempt};
    return scene_say(&s, t, &m);
}

static void forward(uint64_t batch)
{
    submit(batch, 8);
    scene_work_all(&s);
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 16);
}

Test(evicted, rows_are_asked_for_once_when_the_gradient_is_there_and_sent_to_who_gave_them_up,
     .init = begin, .fini = end)
{
    forward(1);
    evict(w);
    evict(v);
    cr_assert_eq(scene_totals(&s).evictions, 2);
    cr_assert_eq(count(t, SMOE_MSG_NEED_INPUTS), 0, "they could not be used yet");
    scene_gradient(&s, t, 1);
    cr_assert_eq(count(t, SMOE_MSG_NEED_INPUTS), 1);
    cr_assert_eq(last(t, SMOE_MSG_NEED_INPUTS)->m.need_inputs.batch, 1);
    cr_assert_eq(count(w, SMOE_MSG_BACKPROP), 1, "the gradient need not wait");
    cr_assert_eq(count(ANYONE, SMOE_MSG_PARCEL_INPUTS), 0);
    struct smoe_verdict verdict = give_inputs(1, scene_attempt(&s, t));
    cr_assert_eq(verdict.kind, SMOE_TAKE);
    cr_assert_eq(verdict.bytes, 8 * ROW, "x alone");
    for (int i = 0; i < 2; i++) {
        uint32_t session = i ? v : w;
        const struct smoe_msg_parcel_inputs m =
            last(session, SMOE_MSG_PARCEL_INPUTS)->m.parcel_inputs;
        const struct smoe_msg_backprop b = last(session, SMOE_MSG_BACKPROP)->m.backprop;
        cr_assert_eq(m.n_parcels, b.n_parcels);
        cr_assert_arr_eq(m.parcels, b.parcels, m.n_parcels * sizeof *m.parcels);
    }
    uint32_t freed = s.inputs_freed;
    scene_work_all(&s);
    cr_assert_eq(s.inputs_freed, freed + 1);
    scene_step(&s, t, 1, (uint64_t[]){1}, 1);
    scene_work_all(&s);
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
    cr_assert_eq(scene_totals(&s).account.failed, 0, "nothing was done twice");
}

Test(evicted, rows_of_one_worker_trouble_no_other, .init = begin, .fini = end)
{
    forward(1);
    evict(w);
    scene_gradient(&s, t, 1);
    give_inputs(1, scene_attempt(&s, t));
    cr_assert_eq(count(w, SMOE_MSG_PARCEL_INPUTS), 1);
    cr_assert_eq(count(v, SMOE_MSG_PARCEL_INPUTS), 0);
    scene_work_all(&s);
    cr_assert_eq(in_state(SMOE_VISIT_SETTLED), 16);
}

Test(evicted, rows_whose_gradient_was_on_its_way_are_asked_for_too, .init = begin, .fini = end)
{
    forward(1);
    scene_gradient(&s, t, 1);
    evict(w);
    cr_assert_eq(count(t, SMOE_MSG_NEED_INPUTS), 1);
    give_inputs(1, scene_attempt(&s, t));
    cr_assert_eq(count(w, SMOE_MSG_PARCEL_INPUTS), 1);
    evict(v); /* x is here already: nobody is asked again */
    cr_assert_eq(count(t, SMOE_MSG_NEED_INPUTS), 1);
    cr_assert_eq(count(v, SMOE_MSG_PARCEL_INPUTS), 1);
    scene_work_all(&s);
    cr_assert_eq(in_state(SMOE_VISIT_SETTLED), 16);
}

Test(evicted, rows_that_nobody_can_have_given_up_mean_nothing, .init = begin, .fini = end)
{
    struct scene_submit o = {.batch = 9, .layer = layer, .tokens = 8, .top_k = 2, .evaluate = true};
    submit(1, 8);
    scene_tick_at(&s, s.wake_ns);
    evict(w); /* before its result */
    scene_answer(&s, w, SMOE_MSG_DECISION);
    scene_answer(&s, v, SMOE_MSG_DECISION);
    scene_gradient(&s, t, 1);
    scene_work_all(&s);
    evict(w); /* settled */
    scene_submit(&s, t, &o);
    scene_tick_at(&s, s.wake_ns);
    evict(v); /* no gradient will follow */
    scene_work_all(&s);
    evict(v); /* forgotten */
    cr_assert_eq(scene_totals(&s).evictions, 0);
    cr_assert_eq(count(t, SMOE_MSG_NEED_INPUTS), 0);
    cr_assert_not(s.closed[w] || s.closed[v]);
}

Test(evicted, rows_come_again_only_when_asked_for_once_and_in_this_attempt, .init = begin,
     .fini = end)
{
    forward(1);
    uint64_t attempt = scene_attempt(&s, t);
    cr_assert_eq(give_inputs(1, attempt).kind, SMOE_IGNORE, "nobody asked");
    evict(w);
    scene_gradient(&s, t, 1);
    cr_assert_eq(give_inputs(1, attempt - 1).kind, SMOE_IGNORE);
    cr_assert_eq(give_inputs(2, attempt).kind, SMOE_IGNORE);
    cr_assert_eq(give_inputs(1, attempt).kind, SMOE_TAKE);
    cr_assert_eq(give_inputs(1, attempt).kind, SMOE_IGNORE);
    cr_assert_eq(count(w, SMOE_MSG_PARCEL_INPUTS), 1);
}

Test(evicted, rows_of_an_attempt_that_ends_are_forgotten, .init = begin, .fini = end)
{
    forward(1);
    evict(w);
    scene_gradient(&s, t, 1);
    uint64_t attempt = scene_attempt(&s, t);
    scene_close(&s, v);
    cr_assert_eq(give_inputs(1, attempt).kind, SMOE_IGNORE);
    cr_assert_eq(give_inputs(1, attempt + 1).kind, SMOE_IGNORE);
    cr_assert_eq(count(ANYONE, SMOE_MSG_PARCEL_INPUTS), 0);
    cr_assert_eq(scene_totals(&s).account.in_flight, 0);
}

/* dy and x of a parcel together take its room. */
Test(evicted, rows_count_as_much_as_their_gradient, .fini = end)
{
    begin_with(NULL, 8);
    for (uint64_t batch = 1; batch <= 2; batch++) {
        submit(batch, 4);
        scene_work_all(&s);
        evict(w);
    }
    scene_gradient(&s, t, 1);
    scene_gradient(&s, t, 2);
    cr_assert_eq(count(w, SMOE_MSG_BACKPROP), 1, "4 rows of dy and 4 of x fill it");
    cr_assert_eq(count(v, SMOE_MSG_BACKPROP), 2, "4 rows of dy and 4 more");
    give_inputs(1, scene_attempt(&s, t));
    scene_work_all(&s);
    cr_assert_eq(count(w, SMOE_MSG_BACKPROP), 2);
    give_inputs(2, scene_attempt(&s, t));
    scene_work_all(&s);
    cr_assert_eq(in_state(SMOE_VISIT_SETTLED), 16);
}

/* ---- limits ---- */

static void hold_all_they_may(const struct smoe_core_options *o, int code)
{
    struct smoe_layer_shape shape = scene_shape(2);
    uint64_t held[3] = {0};
    begin_with(o, 1 << 16);
    for (int i = 0; i < 3; i++) {
        const char *const names[] = {"t", "second", "third"};
        uint32_t peer = i ? scene_trainer(&s, names[i]) : t;
        uint32_t l = i ? scene_layer(&s, peer, names[i], &shape) : layer;
        while (submit_to(peer, l, held[i] + 1, 1, NULL).kind == SMOE_TAKE)
            held[i]++;
        scene_assert_error(&s, peer, code, "to other trainers: step more often");
        cr_assert_not(s.closed[peer]);
    }
    cr_assert_eq(held[0], 12, "three quarters");
    cr_assert_eq(held[1], 3, "three quarters of what is left");
    cr_assert_eq(held[2], 0);
    smoe_core_check(s.core);
}

/* Whoever does not step leaves something to who comes later. */
Test(limits, of_gradients_are_never_one_trainer_s_alone, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.settings.gradient_bytes_max = 16 * 3 * ROW;
    hold_all_they_may(&o, SMOE_EITERATION);
}

Test(limits, of_batches_are_never_one_trainer_s_alone, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.limits.batches_max = 16;
    hold_all_they_may(&o, SMOE_ELIMIT);
}

Test(limits, of_gradients_that_may_be_held_are_refused_at_submit, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.settings.gradient_bytes_max = 2 * 8 * 3 * ROW; /* dy of two choices and x, for 16 tokens */
    o.limits.trainers_max = 1;
    begin_with(&o, 1 << 16);
    submit(1, 8);
    submit(2, 8);
    cr_assert_eq(submit_to(t, layer, 3, 1, NULL).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_EITERATION, "gradients of uncommitted batches may need 768");
    struct scene_submit evaluation = {
        .batch = 4, .layer = layer, .tokens = 8, .top_k = 2, .evaluate = true};
    cr_assert_eq(scene_submit(&s, t, &evaluation).kind, SMOE_TAKE, "it will have none");
    scene_work_all(&s);
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    m.discard = (struct smoe_msg_discard){2, scene_attempt(&s, t)};
    scene_say(&s, t, &m);
    submit(5, 8);
}

Test(limits, of_parcels_are_refused_at_submit, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.limits.parcels_max = 4;
    begin_with(&o, 1 << 16);
    submit(1, 8);
    submit(2, 8);
    cr_assert_eq(submit_to(t, layer, 3, 8, NULL).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_ELIMIT, "4 parcels are uncommitted already: step more often");
    scene_work_all(&s);
    scene_gradient(&s, t, 1);
    scene_gradient(&s, t, 2);
    scene_step(&s, t, 1, (uint64_t[]){1, 2}, 2);
    scene_work_all(&s);
    submit(3, 8);
    scene_work_all(&s);
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 16);
}

/* More parcels than were promised, since the inboxes cut it up: it cannot be finished, and says so. */
Test(limits, of_parcels_that_are_met_only_later_end_the_batch_in_words, .fini = end)
{
    struct smoe_core_options o = scene_options();
    o.limits.parcels_max = 8;
    begin_with(&o, 2);
    submit(1, 64);
    work();
    scene_assert_error(&s, t, SMOE_ELIMIT, "of its tokens wait and all 8 parcels are taken");
    cr_assert_eq(last(t, SMOE_MSG_ERROR)->m.error.batch, 1);
    cr_assert_not(s.closed[t]);
    cr_assert_eq(scene_totals(&s).account.in_flight, 0);
    cr_assert_eq(scene_totals(&s).account.failed, 128);
    submit(2, 4);
    work();
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 8, "a smaller one can be");
    scene_gradient(&s, t, 2);
    work();
    scene_step(&s, t, 1, (uint64_t[]){2}, 1);
    work();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}

/* Both choices of a token at one worker, whose inbox has room for one. */
Test(limits, of_an_inbox_smaller_than_one_token_end_the_batch_in_words, .fini = end)
{
    struct smoe_layer_shape shape = scene_shape(2);
    scene_begin(&s, NULL);
    w = worker_with_inbox("a", 1);
    v = w;
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    submit(1, 3);
    work();
    scene_assert_error(&s, t, SMOE_ELIMIT, "the visits of one token do not fit the inbox");
    cr_assert_eq(scene_totals(&s).account.in_flight, 0);
    cr_assert_not(s.closed[t]);
}

/* A worker that drains takes nothing and may be told to stay: that is no reason to refuse. */
Test(limits, are_not_met_by_a_worker_that_drains, .fini = end)
{
    struct smoe_layer_shape shape = scene_shape(2);
    scene_begin(&s, NULL);
    w = worker_with_inbox("a", 16);
    v = w;
    t = scene_trainer(&s, "t");
    layer = scene_layer(&s, t, "moe", &shape);
    scene_drain(&s, "a", true);
    submit(1, 3);
    work();
    cr_assert_eq(count(t, SMOE_MSG_ERROR), 0);
    scene_drain(&s, "a", false);
    work();
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 6);
}

/* ---- whole passes ---- */

/* Layers one after the other, two batches in flight, gradients from the last to the first; the window
 * holds less than one pass, an inbox less than one batch. */
Test(pass, of_several_layers_and_batches_goes_through_windows_smaller_than_itself)
{
    static const uint32_t inboxes[] = {2, 3, 7, 1 << 16};
    enum { LAYERS = 3, BATCHES = 2, TOKENS = 8, N = LAYERS * BATCHES };
    for (size_t i = 0; i < sizeof inboxes / sizeof *inboxes; i++) {
        struct smoe_core_options o = scene_options();
        struct smoe_layer_shape shape = scene_shape(2);
        uint32_t layers[LAYERS];
        uint64_t ids[N];
        uint64_t n = 0;
        o.settings.window_bytes = TOKENS * TOKEN;
        o.settings.window_visits = TOKENS * 2;
        begin_with(&o, inboxes[i]);
        layers[0] = layer;
        layers[1] = scene_layer(&s, t, "second", &shape);
        layers[2] = scene_layer(&s, t, "third", &shape);
        for (int l = 0; l < LAYERS; l++)
            for (int b = 0; b < BATCHES; b++) {
                ids[n] = n + 1;
                cr_assert_eq(submit_to(t, layers[l], ids[n++], TOKENS, NULL).kind, SMOE_TAKE,
                             "its credit is back");
                work();
            }
        cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), N * TOKENS * 2);
        while (n > 0)
            cr_assert_eq(scene_gradient(&s, t, ids[--n]).kind, SMOE_TAKE);
        work();
        scene_step(&s, t, 1, ids, N);
        work();
        cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1, "inbox %u", inboxes[i]);
        cr_assert_eq(in_state(SMOE_VISIT_COMMITTED), N * TOKENS * 2);
        cr_assert_eq(scene_totals(&s).account.failed, 0);
        end();
    }
}

/* It is told at once that it holds too much; others go on as if it were not there. */
Test(pass, of_a_trainer_that_never_sends_gradients_ends_at_its_limit_and_hinders_nobody,
     .fini = end)
{
    struct smoe_core_options o = scene_options();
    struct smoe_layer_shape shape = scene_shape(2);
    o.settings.iteration_bytes_max = 40 * TOKEN;
    begin_with(&o, 8);
    uint32_t other = scene_trainer(&s, "u");
    uint32_t theirs = scene_layer(&s, other, "theirs", &shape);
    for (uint64_t i = 1; i <= 5; i++)
        submit(i, 8);
    cr_assert_eq(submit_to(t, layer, 6, 1, NULL).kind, SMOE_REFUSE);
    scene_assert_error(&s, t, SMOE_EITERATION, "exceed iteration_bytes_max 960");
    work();
    for (uint64_t step = 1; step <= 5; step++) {
        cr_assert_eq(submit_to(other, theirs, step, 16, NULL).kind, SMOE_TAKE);
        work();
        cr_assert_eq(scene_gradient(&s, other, step).kind, SMOE_TAKE);
        work();
        scene_step(&s, other, step, &step, 1);
        work();
        cr_assert_eq(count(other, SMOE_MSG_STEP_DONE), step);
    }
    cr_assert_eq(count(other, SMOE_MSG_ERROR), 0);
    cr_assert_not(s.closed[t]);
}

/* Replays are cut by the inboxes as other batches are, and all of them go through. */
Test(pass, that_is_replayed_goes_through_small_inboxes, .fini = end)
{
    static const uint16_t experts[24] = {0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1,
                                         1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1};
    begin_with(NULL, 2);
    submit_to(t, layer, 1, 12, experts);
    work();
    cr_assert_eq(in_state(SMOE_VISIT_FORWARD_DONE), 24);
    scene_gradient(&s, t, 1);
    work();
    scene_step(&s, t, 1, (uint64_t[]){1}, 1);
    work();
    cr_assert_eq(count(t, SMOE_MSG_STEP_DONE), 1);
}
