/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/mail/mail.h"

enum { D = 3, EXPERTS = 4, TOKENS = 5, TOP_K = 2, VISITS = TOKENS * TOP_K };
enum { SUBMIT_BYTES = TOKENS * EXPERTS * 4 + TOKENS * D * 4 };

/* An uplink and the gateway that a test plays. */
static struct line {
    struct smoe_uplink *up;
    struct far_end far;
    uint64_t attempt;
    uint32_t layer;
    struct smoe_why why;
    uint32_t staleness; /* of its layer */
} l;

static float scores[TOKENS * EXPERTS], x[TOKENS * D], dy[VISITS * D];

static struct smoe_layer_shape shape(void)
{
    return (struct smoe_layer_shape){.experts = EXPERTS,
                                     .d_model = D,
                                     .d_ff = 2,
                                     .activation = 1,
                                     .dtype = SMOE_DTYPE_F32,
                                     .optimizer = 1,
                                     .staleness = l.staleness};
}

/* ---- transport ---- */

static void read_all(void)
{
    struct iovec iovec;
    while (smoe_uplink_peek(l.up, &iovec, 1)) {
        far_end_hear(&l.far, iovec.iov_base, iovec.iov_len);
        smoe_uplink_consume(l.up, iovec.iov_len);
    }
}

static int say(const struct smoe_message *m, const void *raw, size_t raw_bytes)
{
    far_end_say(&l.far, m, raw, raw_bytes);
    int rc = smoe_uplink_received(l.up, l.far.out, l.far.n_out, &l.why);
    smoe_uplink_check(l.up);
    read_all();
    return rc;
}

static const struct letter *last(enum smoe_message_type type)
{
    return mail_last(&l.far.mail, ANYONE, type);
}

static size_t count(enum smoe_message_type type)
{
    return mail_count(&l.far.mail, ANYONE, type);
}

/* ---- what a gateway says ---- */

static void welcome(uint64_t window_batches)
{
    struct smoe_message m = {.type = SMOE_MSG_WELCOME};
    m.welcome = (struct smoe_msg_welcome){
        .protocol = 1,
        .epoch = 1,
        .slot_us = 20000,
        .tensor_bytes_max = 1 << 16,
        .silence_ms_max = 1000,
        .attempt = ++l.attempt,
        .credit = {window_batches * SUBMIT_BYTES, window_batches * VISITS},
        .iteration_bytes_max = 1 << 20,
        .policy = "topk"};
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", l.why.text);
}

static void connect_line(uint64_t window_batches)
{
    far_end_open(&l.far, SMOE_BY_TRAINER);
    smoe_uplink_connected(l.up);
    read_all();
    welcome(window_batches);
}

/* The gateway's number of the layer is 7. */
static void layer_ready(uint64_t step)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_READY};
    m.layer_ready = (struct smoe_msg_layer_ready){
        .request = last(SMOE_MSG_LAYER_DECLARE)->m.layer_declare.request,
        .layer = 7,
        .shape = shape(),
        .run = 42,
        .step = step};
    cr_assert_eq(say(&m, NULL, 0), 0);
}

static void begin_with(uint64_t window_batches)
{
    struct smoe_uplink_options o = {
        .name = "t", .software = "line", .incarnation = 5, .run = 42, .real_bytes = 4};
    uint32_t staleness = l.staleness;
    memset(&l, 0, sizeof l);
    l.staleness = staleness;
    struct smoe_layer_shape s = shape();
    cr_assert_eq(smoe_uplink_new(&o, &l.up), 0);
    cr_assert_eq(smoe_uplink_declare(l.up, "moe", &s, false, &l.layer, &l.why), 0);
    connect_line(window_batches);
    layer_ready(0);
    for (int i = 0; i < TOKENS * EXPERTS; i++)
        scores[i] = (float)i / 100;
    for (int i = 0; i < TOKENS * D; i++)
        x[i] = (float)(i + 1);
    for (int i = 0; i < VISITS * D; i++)
        dy[i] = (float)(i + 1) / 8;
}

static void begin(void)
{
    begin_with(10);
}

static void begin_stale(void)
{
    l.staleness = 1;
    begin_with(10);
}

static void end(void)
{
    smoe_uplink_free(l.up);
    far_end_close(&l.far);
    l.staleness = 0;
}

static void reconnect(uint64_t step)
{
    smoe_uplink_disconnected(l.up);
    smoe_uplink_check(l.up);
    far_end_close(&l.far);
    connect_line(10);
    layer_ready(step);
}

static struct smoe_uplink_ticket *submit(bool evaluate)
{
    struct smoe_uplink_ticket *t = NULL;
    struct smoe_uplink_submit o = {.layer = l.layer,
                                   .tokens = TOKENS,
                                   .top_k = TOP_K,
                                   .scores = scores,
                                   .x = x,
                                   .evaluate = evaluate};
    cr_assert_eq(smoe_uplink_submit(l.up, &o, &t, &l.why), 0, "%s", l.why.text);
    read_all();
    return t;
}

static int result_of(uint64_t batch, uint64_t attempt, uint32_t expert, const uint32_t *visits,
                     uint32_t n, float add)
{
    uint8_t raw[VISITS * (8 + D * 4)];
    struct smoe_message m = {.type = SMOE_MSG_RESULT};
    m.result = (struct smoe_msg_result){batch, attempt, expert, n};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = visits[i] / TOP_K % TOKENS; /* even of a visit that is out of range */
        float score = scores[token * EXPERTS + expert];
        float row[D];
        for (uint32_t k = 0; k < D; k++)
            row[k] = add + x[token * D + k];
        memcpy(raw + i * 4, &visits[i], 4);
        memcpy(raw + n * 4 + i * 4, &score, 4);
        memcpy(raw + n * 8 + i * sizeof row, row, sizeof row);
    }
    return say(&m, raw, n * (8 + D * 4));
}

/* First choices were served by expert 1, second ones by expert 3; y = 10 expert + x + add. */
static void give_results(uint64_t batch, float add)
{
    static const uint32_t first[] = {8, 0, 4, 2, 6}, second[] = {1, 3, 5, 7, 9};
    cr_assert_eq(result_of(batch, l.attempt, 3, second, 5, 30 + add), 0, "%s", l.why.text);
    cr_assert_eq(result_of(batch, l.attempt, 1, first, 5, 10 + add), 0, "%s", l.why.text);
}

/* dx of a visit is twice its dy. */
static void give_input_gradients(uint64_t batch)
{
    uint8_t raw[VISITS * 4 + VISITS * D * 4];
    struct smoe_message m = {.type = SMOE_MSG_INPUT_GRADIENT};
    m.input_gradient = (struct smoe_msg_input_gradient){batch, l.attempt, 1, VISITS};
    for (uint32_t i = 0; i < VISITS; i++) {
        uint32_t visit = VISITS - 1 - i;
        memcpy(raw + i * 4, &visit, 4);
        for (uint32_t k = 0; k < D; k++) {
            float value = 2 * dy[visit * D + k];
            memcpy(raw + VISITS * 4 + (i * D + k) * 4, &value, 4);
        }
    }
    cr_assert_eq(say(&m, raw, sizeof raw), 0, "%s", l.why.text);
}

static void gradient(struct smoe_uplink_ticket *t)
{
    cr_assert_eq(smoe_uplink_gradient(t, dy, &l.why), 0, "%s", l.why.text);
    read_all();
}

static int step(void)
{
    struct smoe_msg_step m = {.optimizer = {.kind = 1, .learning_rate = 0.1},
                              .gradient_divisor = 1};
    int rc = smoe_uplink_step(l.up, &m, &l.why);
    read_all();
    return rc;
}

static void step_done(uint64_t number)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_DONE};
    m.step_done = (struct smoe_msg_step_done){number, 1 + number, 1, 4};
    cr_assert_eq(say(&m, NULL, 0), 0);
}

static void error(int code, const char *sentence, bool fatal, uint64_t batch, uint64_t request)
{
    struct smoe_message m = {.type = SMOE_MSG_ERROR};
    m.error =
        (struct smoe_msg_error){.code = code, .fatal = fatal, .batch = batch, .request = request};
    strcpy(m.error.message, sentence);
    say(&m, NULL, 0);
}

/* ---- the straight path ---- */

Test(uplink, submits_scores_then_x_under_the_gateways_number_for_the_layer, .init = begin,
     .fini = end)
{
    submit(false);
    const struct letter *m = last(SMOE_MSG_SUBMIT);
    cr_assert_eq(m->m.submit.layer, 7);
    cr_assert_eq(m->m.submit.attempt, 1);
    cr_assert(m->m.submit.needs_gradient);
    cr_assert_not(m->m.submit.routed);
    cr_assert_eq(m->raw_bytes, SUBMIT_BYTES);
    cr_assert_arr_eq(m->raw, scores, sizeof scores);
    cr_assert_arr_eq(m->raw + sizeof scores, x, sizeof x);
}

Test(uplink, puts_results_together_whatever_order_they_come_in, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    cr_assert_not(t->has_results);
    give_results(t->batch, 0);
    cr_assert(t->has_results);
    const float *y = t->y;
    for (uint32_t v = 0; v < VISITS; v++) {
        cr_assert_eq(t->experts[v], v % 2 ? 3 : 1);
        cr_assert_eq(t->scores[v], scores[v / TOP_K * EXPERTS + t->experts[v]]);
        for (uint32_t k = 0; k < D; k++)
            cr_assert_eq(y[v * D + k], (v % 2 ? 30.0f : 10.0f) + x[v / TOP_K * D + k]);
    }
}

Test(uplink, sums_the_input_gradient_over_a_tokens_experts, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    cr_assert_arr_eq(last(SMOE_MSG_GRADIENT)->raw, dy, sizeof dy);
    give_input_gradients(t->batch);
    cr_assert(t->has_input_gradient);
    const float *dx = t->dx;
    for (uint32_t n = 0; n < TOKENS; n++)
        for (uint32_t k = 0; k < D; k++)
            cr_assert_eq(dx[n * D + k], 2 * dy[(2 * n) * D + k] + 2 * dy[(2 * n + 1) * D + k]);
}

Test(uplink, names_in_a_step_the_batches_that_have_gradients_and_frees_what_it_kept_when_done,
     .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false), *b = submit(false);
    give_results(a->batch, 0);
    give_results(b->batch, 0);
    gradient(a);
    cr_assert_eq(step(), SMOE_ESTATE);
    cr_assert_str_eq(l.why.text,
                     "step: batch 2 has no gradient: give it one or release its ticket");
    gradient(b);
    cr_assert_eq(step(), 0);
    const struct smoe_msg_step s = last(SMOE_MSG_STEP)->m.step;
    cr_assert_eq(s.step, 1);
    cr_assert_eq(s.n_batches, 2);
    cr_assert_eq(s.batches[0], 1);
    cr_assert_eq(s.batches[1], 2);
    cr_assert_eq(step(), SMOE_ESTATE, "one at a time");
    give_input_gradients(a->batch);
    give_input_gradients(b->batch);
    step_done(1);
    cr_assert_eq(a->state, SMOE_TICKET_COMMITTED);
    cr_assert_null(a->submit);
    cr_assert_null(a->dy);
    cr_assert_eq(smoe_uplink_steps(l.up), 1);
    cr_assert(smoe_uplink_step_state(l.up)->done);
}

/* What was kept of the first one went with the commit, so that nothing is left to see that it was there. */
Test(uplink, takes_no_second_gradient_of_a_batch_that_is_committed, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    cr_assert_eq(smoe_uplink_gradient(t, dy, &l.why), SMOE_ESTATE);
    cr_assert_eq(step(), 0);
    give_input_gradients(t->batch);
    step_done(1);
    cr_assert_eq(t->state, SMOE_TICKET_COMMITTED);
    cr_assert_eq(smoe_uplink_gradient(t, dy, &l.why), SMOE_ESTATE);
    cr_assert_str_eq(l.why.text, "gradient: given already");
}

Test(uplink, sends_no_more_than_it_was_granted_and_the_rest_in_order, .fini = end)
{
    begin_with(2);
    struct smoe_uplink_ticket *t[5];
    for (int i = 0; i < 5; i++)
        t[i] = submit(true);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 2);
    for (uint64_t more = 3; more <= 5; more++) {
        struct smoe_message m = {.type = SMOE_MSG_CREDIT};
        m.credit = (struct smoe_msg_credit){more * SUBMIT_BYTES - 1, more * VISITS};
        say(&m, NULL, 0);
        cr_assert_eq(count(SMOE_MSG_SUBMIT), more - 1, "a byte is missing");
        m.credit.bytes_total++;
        say(&m, NULL, 0);
        cr_assert_eq(count(SMOE_MSG_SUBMIT), more);
        cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.batch, t[more - 1]->batch);
    }
}

Test(uplink, refuses_at_once_what_no_credit_could_ever_cover, .fini = end)
{
    begin_with(1);
    struct smoe_uplink_ticket *t = NULL;
    static float many_scores[2 * TOKENS * EXPERTS], many_x[2 * TOKENS * D];
    struct smoe_uplink_submit o = {
        .layer = l.layer, .tokens = 2 * TOKENS, .top_k = TOP_K, .scores = many_scores, .x = many_x};
    cr_assert_eq(smoe_uplink_submit(l.up, &o, &t, &l.why), 0);
    cr_assert_eq(t->state, SMOE_TICKET_FAILED);
    cr_assert_eq(t->code, SMOE_ELIMIT);
    cr_assert(strstr(t->why.text, "the gateway's window is 140 bytes and 10 visits"), "%s",
              t->why.text);
    submit(true);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 1, "others go on");
}

/* ---- a step ahead ---- */

/* Whether the answer has come does not matter, only whether the caller has asked for it. */
Test(ahead, are_batches_submitted_between_a_step_and_its_answer, .init = begin_stale, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    cr_assert_not(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
    give_results(t->batch, 0);
    gradient(t);
    cr_assert_eq(step(), 0);
    submit(false);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.base, 0);
    submit(true);
    cr_assert_not(last(SMOE_MSG_SUBMIT)->m.submit.ahead, "an evaluation waits");
    give_input_gradients(t->batch);
    step_done(1);
    submit(false);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.ahead, "its caller may not know yet");
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.base, 0);
    smoe_uplink_step_taken(l.up);
    submit(false);
    cr_assert_not(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
}

Test(ahead, is_nothing_of_a_layer_without_staleness, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    cr_assert_eq(step(), 0);
    submit(false);
    cr_assert_not(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
}

Test(ahead, batches_are_sent_again_behind_the_step_by_the_weights_they_had, .init = begin_stale,
     .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    step();
    struct smoe_uplink_ticket *next = submit(false);
    give_results(next->batch, 0);
    gradient(next);
    reconnect(0);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 1, "the other one waits for the step");
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.batch, t->batch);
    cr_assert_not(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
    give_results(t->batch, 0);
    cr_assert_eq(count(SMOE_MSG_STEP), 1);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.batch, next->batch);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.ahead);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.routed);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.base, 0);
    reconnect(1); /* it was committed: what is ahead of it has a base before that */
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.batch, next->batch);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.base, 0);
}

Test(ahead, of_a_step_that_failed_is_part_of_the_one_in_its_place, .init = begin_stale, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    step();
    struct smoe_uplink_ticket *next = submit(false);
    error(SMOE_ENOTFINITE, "not finite", false, 0, 1);
    cr_assert_eq(next->step, 1);
    cr_assert_eq(next->base, 0, "whose weights it has all the same");
}

/* ---- starting over ---- */

/* The connection breaks at each point of a batch's life. Before its results were complete it is
 * sent as if new; afterwards with the experts it was given, and what the caller has read does not
 * change. */
Test(reconnect, sends_every_uncommitted_batch_again_with_the_experts_it_had)
{
    for (int reached = 0; reached < 4; reached++) {
        float y[VISITS * D];
        begin();
        struct smoe_uplink_ticket *t = submit(false);
        if (reached >= 1)
            give_results(t->batch, 0);
        if (reached >= 2)
            gradient(t);
        if (reached >= 3)
            give_input_gradients(t->batch);
        memcpy(y, t->y, reached ? sizeof y : 0);
        reconnect(0);
        const struct letter *again = last(SMOE_MSG_SUBMIT);
        cr_assert_eq(again->m.submit.batch, t->batch);
        cr_assert_eq(again->m.submit.attempt, 2);
        cr_assert_eq(again->m.submit.routed, reached > 0, "reached %d", reached);
        if (reached) {
            cr_assert_arr_eq(again->raw, t->experts, VISITS * sizeof(uint16_t));
            cr_assert_arr_eq(again->raw + (VISITS * 2 + 7) / 8 * 8, x, sizeof x);
        }
        cr_assert_eq(count(SMOE_MSG_GRADIENT), 0, "not before its results are there again");
        give_results(t->batch, reached ? 1000 : 0);
        if (reached) /* a replay computes the same; if it did not, the caller would not see it */
            cr_assert_arr_eq(t->y, y, sizeof y);
        cr_assert_eq(count(SMOE_MSG_GRADIENT), reached >= 2);
        if (reached < 2)
            gradient(t);
        give_input_gradients(t->batch);
        cr_assert_eq(step(), 0);
        cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 1);
        step_done(1);
        cr_assert_eq(t->state, SMOE_TICKET_COMMITTED);
        end();
    }
}

/* Whichever allocation fails when everything is sent again: either it goes out, or the connection is one to be closed,
 * which brings another try. Nobody waits for what was never sent. */
Test(reconnect, a_replay_that_finds_no_memory_ends_the_connection_or_is_sent)
{
    struct smoe_message need = {.type = SMOE_MSG_NEED};
    bool failed = true;
    for (uint64_t n = 1; failed; n++) {
        begin();
        struct smoe_uplink_ticket *t = submit(false);
        give_results(t->batch, 0);
        need.need.attempt = ++l.attempt;
        far_end_say(&l.far, &need, NULL, 0);
        smoe_alloc_fail_at(n);
        (void)smoe_uplink_received(l.up, l.far.out, l.far.n_out, &l.why);
        failed = smoe_alloc_failed();
        bool sent = t->state == SMOE_TICKET_SENT;
        cr_assert(sent || (failed && smoe_uplink_speechless(l.up)), "allocation %d", (int)n);
        reconnect(0);
        cr_assert_eq(t->state, SMOE_TICKET_SENT);
        end();
    }
}

/* What a replay costs is less than the batch did: its scores have become experts. */
Test(reconnect, a_replay_that_a_smaller_window_covers_waits_for_it)
{
    enum { ROUTED = (VISITS * 2 + 7) / 8 * 8 + TOKENS * D * 4 };
    begin();
    struct smoe_uplink_ticket *one = submit(false), *two = submit(false);
    give_results(one->batch, 0);
    give_results(two->batch, 0);
    smoe_uplink_disconnected(l.up);
    far_end_close(&l.far);
    far_end_open(&l.far, SMOE_BY_TRAINER);
    smoe_uplink_connected(l.up);
    read_all();
    struct smoe_message m = {.type = SMOE_MSG_WELCOME};
    m.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                          .epoch = 1,
                                          .slot_us = 20000,
                                          .tensor_bytes_max = 1 << 16,
                                          .silence_ms_max = 1000,
                                          .attempt = ++l.attempt,
                                          .credit = {ROUTED, VISITS},
                                          .iteration_bytes_max = 1 << 20,
                                          .policy = "topk"};
    cr_assert_lt((int)ROUTED, (int)SUBMIT_BYTES);
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", l.why.text);
    layer_ready(0);
    cr_assert_eq(one->state, SMOE_TICKET_SENT);
    cr_assert_eq(two->state, SMOE_TICKET_QUEUED, "%s", two->why.text);
    m = (struct smoe_message){.type = SMOE_MSG_CREDIT};
    m.credit = (struct smoe_msg_credit){2 * ROUTED, 2 * VISITS};
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(two->state, SMOE_TICKET_SENT);
    end();
}

Test(reconnect, a_restore_is_said_again_until_something_behind_it_is_answered)
{
    float state[3 * 23] = {0}; /* weights and two moments, or fewer */
    uint32_t request;
    begin();
    cr_assert_eq(smoe_uplink_restore(l.up, 5, &l.why), 0, "%s", l.why.text);
    read_all();
    cr_assert_eq(last(SMOE_MSG_RESTORE)->m.restore.step, 5);
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 0, SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS, state,
                                   &request, &l.why),
                 0);
    reconnect(0); /* of all that the gateway has heard nothing */
    cr_assert_eq(last(SMOE_MSG_LAYER_DECLARE)->m.layer_declare.step, 0);
    cr_assert_eq(count(SMOE_MSG_RESTORE), 1);
    cr_assert_eq(last(SMOE_MSG_RESTORE)->m.restore.step, 5);
    cr_assert_eq(last(SMOE_MSG_RESTORE)->m.restore.attempt, l.attempt);
    const struct letter *again = last(SMOE_MSG_EXPERT_STORE);
    cr_assert_gt(again, last(SMOE_MSG_RESTORE), "behind it");
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORED};
    m.expert_stored.request = again->m.expert_store.request;
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", l.why.text);
    cr_assert(smoe_uplink_request(l.up, request)->done);
    reconnect(5);
    cr_assert_eq(last(SMOE_MSG_LAYER_DECLARE)->m.layer_declare.step, 5);
    cr_assert_eq(count(SMOE_MSG_RESTORE), 0);
    smoe_uplink_request_release(l.up, request);
    end();
}

Test(reconnect, need_starts_over_without_a_new_connection, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    struct smoe_message m = {.type = SMOE_MSG_NEED};
    give_results(t->batch, 0);
    gradient(t);
    m.need.attempt = ++l.attempt;
    strcpy(m.need.reason, "worker b is lost");
    say(&m, NULL, 0);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 2);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.attempt, 2);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.routed);
    give_results(t->batch, 0);
    cr_assert_eq(count(SMOE_MSG_GRADIENT), 2);
    cr_assert_eq(smoe_uplink_attempt(l.up), 2);
}

Test(reconnect, results_of_an_older_attempt_are_not_counted, .init = begin, .fini = end)
{
    static const uint32_t visits[] = {0};
    struct smoe_uplink_ticket *t = submit(false);
    reconnect(0);
    cr_assert_eq(result_of(t->batch, 1, 1, visits, 1, 0), 0, "skipped, no error");
    cr_assert_eq(t->visits_in, 0);
    cr_assert_eq(result_of(t->batch, 2, 1, visits, 1, 0), 0);
    cr_assert_eq(t->visits_in, 1);
}

/* The answer to a Step is lost with the connection. */
Test(reconnect, a_step_that_was_committed_unheard_is_asked_for_and_not_made_again, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    give_input_gradients(t->batch);
    cr_assert_eq(step(), 0);
    reconnect(1); /* LayerReady tells that step 1 is committed */
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.step, 1);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 0);
    step_done(1);
    cr_assert_eq(t->state, SMOE_TICKET_COMMITTED);
}

Test(reconnect, a_step_that_was_not_committed_is_made_again_with_all_its_batches, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    give_results(t->batch, 0);
    gradient(t);
    give_input_gradients(t->batch);
    cr_assert_eq(step(), 0);
    reconnect(0);
    cr_assert_eq(count(SMOE_MSG_STEP), 0, "its batch is not settled again yet");
    give_results(t->batch, 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 1);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.attempt, 2);
    give_input_gradients(t->batch);
    step_done(1);
    cr_assert_eq(t->state, SMOE_TICKET_COMMITTED);
}

/* ---- errors ---- */

Test(errors, that_name_a_batch_fail_that_ticket_alone_with_the_gateways_words, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false), *b = submit(false);
    error(SMOE_EITERATION, "SUBMIT: too much is uncommitted", false, a->batch, 0);
    cr_assert_eq(a->state, SMOE_TICKET_FAILED);
    cr_assert_eq(a->code, SMOE_EITERATION);
    cr_assert_str_eq(a->why.text, "SUBMIT: too much is uncommitted");
    cr_assert_eq(b->state, SMOE_TICKET_SENT);
    give_results(b->batch, 0);
    cr_assert(b->has_results);
    cr_assert_eq(smoe_uplink_gradient(a, dy, &l.why), SMOE_EITERATION);
}

Test(errors, that_name_a_batch_of_the_pending_step_fail_the_step_with_it, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false), *b = submit(false);
    give_results(a->batch, 0);
    give_results(b->batch, 0);
    gradient(a);
    gradient(b);
    cr_assert_eq(step(), 0);
    error(SMOE_ENOTFINITE, "PARCEL_GRADIENT: numbers that cannot be", false, a->batch, 0);
    cr_assert_eq(a->state, SMOE_TICKET_FAILED);
    cr_assert(smoe_uplink_step_state(l.up)->done);
    cr_assert_eq(smoe_uplink_step_state(l.up)->code, SMOE_ENOTFINITE);
    cr_assert_str_eq(smoe_uplink_step_state(l.up)->why.text,
                     "PARCEL_GRADIENT: numbers that cannot be");
    smoe_uplink_step_taken(l.up);
    cr_assert_eq(step(), 0, "the caller has seen the ticket: a step without it is its wish");
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 1);
}

Test(errors, that_name_a_batch_whose_ticket_is_released_fail_the_next_step_once, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false), *b = submit(false);
    uint64_t first = a->batch;
    give_results(a->batch, 0);
    give_results(b->batch, 0);
    gradient(a);
    gradient(b);
    smoe_uplink_ticket_release(a);
    error(SMOE_ENOTFINITE, "numbers that cannot be", false, first, 0);
    cr_assert_eq(step(), SMOE_ENOTFINITE);
    cr_assert_str_eq(l.why.text, "step: a batch of it failed: numbers that cannot be");
    cr_assert_eq(step(), 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 1);
}

Test(errors, that_name_the_layer_fail_it_and_its_batches, .init = begin, .fini = end)
{
    struct smoe_layer_shape s = shape();
    uint32_t other;
    smoe_uplink_declare(l.up, "other", &s, false, &other, &l.why);
    read_all();
    struct smoe_uplink_ticket *t = submit(false);
    error(SMOE_EEXIST, "layer other: trainer u owns it", false, 0,
          last(SMOE_MSG_LAYER_DECLARE)->m.layer_declare.request);
    cr_assert_eq(smoe_uplink_layer(l.up, other)->state, SMOE_ULAYER_FAILED);
    cr_assert_eq(smoe_uplink_layer(l.up, other)->code, SMOE_EEXIST);
    cr_assert_eq(smoe_uplink_layer(l.up, l.layer)->state, SMOE_ULAYER_READY);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 1, "the other layer's batch waited for nothing else");
    cr_assert_neq(t->state, SMOE_TICKET_FAILED);
}

Test(errors, that_refuse_a_step_end_it_and_keep_the_batches_for_the_next, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *t = submit(false);
    struct smoe_message need = {.type = SMOE_MSG_NEED};
    give_results(t->batch, 0);
    gradient(t);
    give_input_gradients(t->batch);
    cr_assert_eq(step(), 0);
    error(SMOE_ENOTFINITE, "STEP 1: a gradient of an expert is not finite", false, 0, 1);
    cr_assert(smoe_uplink_step_state(l.up)->done);
    cr_assert_eq(smoe_uplink_step_state(l.up)->code, SMOE_ENOTFINITE);
    cr_assert_eq(smoe_uplink_steps(l.up), 0);
    need.need.attempt = ++l.attempt; /* as the gateway says next */
    say(&need, NULL, 0);
    cr_assert_neq(t->state, SMOE_TICKET_FAILED);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.attempt, 2);
}

Test(errors, that_refuse_a_step_put_what_came_after_it_into_the_next, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false);
    give_results(a->batch, 0);
    gradient(a);
    give_input_gradients(a->batch);
    cr_assert_eq(step(), 0);
    struct smoe_uplink_ticket *b = submit(false); /* waits for the new weights */
    error(SMOE_ENOTFINITE, "STEP 1: a gradient of an expert is not finite", false, 0, 1);
    smoe_uplink_step_taken(l.up);
    struct smoe_message need = {.type = SMOE_MSG_NEED};
    need.need.attempt = ++l.attempt;
    say(&need, NULL, 0);
    give_results(a->batch, 0);
    give_results(b->batch, 0);
    gradient(b);
    cr_assert_eq(step(), 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.step, 1);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 2, "the gateway knows both");
    step_done(1);
    cr_assert_eq(b->state, SMOE_TICKET_COMMITTED);
}

Test(errors, that_are_final_fail_everything_from_then_on, .init = begin, .fini = end)
{
    const char *sentence;
    struct smoe_uplink_submit o = {
        .layer = l.layer, .tokens = TOKENS, .top_k = TOP_K, .scores = scores, .x = x};
    struct smoe_uplink_ticket *t;
    error(SMOE_ELOST, "layer moe: its experts are lost", true, 0, 0);
    cr_assert_eq(smoe_uplink_failed(l.up, &sentence), SMOE_ELOST);
    cr_assert_str_eq(sentence, "gateway: layer moe: its experts are lost");
    cr_assert_eq(smoe_uplink_submit(l.up, &o, &t, &l.why), SMOE_ELOST);
    cr_assert_eq(step(), SMOE_ELOST);
}

Test(errors, of_a_gateway_that_shuts_down_are_waited_out, .init = begin, .fini = end)
{
    const char *sentence;
    error(SMOE_EDRAINING, "the gateway is shutting down", true, 0, 0);
    cr_assert_eq(smoe_uplink_failed(l.up, &sentence), 0);
    struct smoe_uplink_ticket *t = submit(false);
    reconnect(0);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.batch, t->batch);
}

/* What the gateway sends is checked too: each of these ends the connection with a sentence. */
Test(errors, of_the_gateway_end_the_connection_and_write_nowhere, .init = begin, .fini = end)
{
    static const uint32_t beyond[] = {VISITS}, once[] = {0}, twice[] = {1, 1};
    struct smoe_uplink_ticket *t = submit(false);
    cr_assert_eq(result_of(t->batch, 1, 1, beyond, 1, 0), SMOE_EFIELD);
    cr_assert_str_eq(l.why.text, "batch 1: visit 10 is out of range");
    reconnect(0);
    cr_assert_eq(result_of(t->batch, 2, 1, twice, 2, 0), SMOE_EFIELD);
    cr_assert_str_eq(l.why.text, "batch 1: visit 1 came twice");
    reconnect(0);
    cr_assert_eq(result_of(t->batch, 3, 1, once, 1, 0), 0);
    cr_assert_eq(result_of(t->batch, 3, 2, once, 1, 0), SMOE_EFIELD);
    reconnect(0);
    struct smoe_message m = {.type = SMOE_MSG_RESULT};
    m.result = (struct smoe_msg_result){t->batch, 4, 1, 2};
    static const uint8_t short_one[2 * (8 + D * 4) - 4];
    cr_assert_eq(say(&m, short_one, sizeof short_one), SMOE_ESHAPE);
    cr_assert_not(t->has_results);
}

Test(errors, in_what_the_caller_submits_are_named_and_nothing_is_sent, .init = begin, .fini = end)
{
    float bad[TOKENS * EXPERTS];
    memcpy(bad, scores, sizeof bad);
    bad[2 * EXPERTS + 3] = (float)INFINITY;
    const struct {
        uint32_t tokens, top_k;
        const float *scores;
        int code;
        const char *says;
    } cases[] = {
        {0, 1, scores, SMOE_EFIELD, "submit: tokens 0: not in 1..262144"},
        {TOKENS, 0, scores, SMOE_EFIELD, "submit: top_k 0: not in 1..4 (layer moe has 4 experts)"},
        {TOKENS, 5, scores, SMOE_EFIELD, "submit: top_k 5: not in 1..4 (layer moe has 4 experts)"},
        {TOKENS, 1, bad, SMOE_ENOTFINITE, "submit: score of token 2, expert 3 is not finite"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct smoe_uplink_ticket *t = NULL;
        struct smoe_uplink_submit o = {.layer = l.layer,
                                       .tokens = cases[i].tokens,
                                       .top_k = cases[i].top_k,
                                       .scores = cases[i].scores,
                                       .x = x};
        cr_assert_eq(smoe_uplink_submit(l.up, &o, &t, &l.why), cases[i].code);
        cr_assert_str_eq(l.why.text, cases[i].says);
        cr_assert_null(t);
    }
    read_all();
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 0);
}

/* ---- tickets ---- */

Test(tickets, released_with_a_gradient_stay_part_of_the_step_and_without_are_discarded,
     .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *a = submit(false), *b = submit(false);
    uint64_t second = b->batch;
    give_results(a->batch, 0);
    give_results(b->batch, 0);
    gradient(a);
    smoe_uplink_ticket_release(a);
    smoe_uplink_ticket_release(b);
    read_all();
    cr_assert_eq(last(SMOE_MSG_DISCARD)->m.discard.batch, second);
    cr_assert_eq(step(), 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 1);
}

/* The shell calls it; the machine only says when. */
static void on_done(void *context, void *ticket, int status)
{
    (void)context, (void)ticket, (void)status;
}

Test(tickets, are_told_of_their_outcome_once, .init = begin, .fini = end)
{
    struct smoe_uplink_ticket *t;
    struct smoe_uplink_submit o = {.layer = l.layer,
                                   .tokens = TOKENS,
                                   .top_k = TOP_K,
                                   .scores = scores,
                                   .x = x,
                                   .on_done = on_done};
    cr_assert_eq(smoe_uplink_submit(l.up, &o, &t, &l.why), 0);
    read_all();
    cr_assert_null(smoe_uplink_next_done(l.up));
    give_results(t->batch, 0);
    cr_assert_eq(smoe_uplink_next_done(l.up), t);
    cr_assert_null(smoe_uplink_next_done(l.up));
    reconnect(0);
    give_results(t->batch, 0);
    cr_assert_null(smoe_uplink_next_done(l.up), "a replay is nobody's business");
}

/* ---- expert state ---- */

Test(state, is_fetched_and_stored_under_the_gateways_numbers_and_again_after_a_break, .init = begin,
     .fini = end)
{
    enum { PARAMS = 2 * D * 2 + 2 + D };
    float values[2 * PARAMS] = {1, 2, 3};
    uint32_t fetch, store;
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STATE};
    cr_assert_eq(smoe_uplink_params(&smoe_uplink_layer(l.up, l.layer)->shape), PARAMS);
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 2, 1, NULL, &fetch, &l.why), 0);
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 3, 3, values, &store, &l.why), 0);
    read_all();
    cr_assert_eq(last(SMOE_MSG_EXPERT_STORE)->m.expert_store.layer, 7);
    cr_assert_arr_eq(last(SMOE_MSG_EXPERT_STORE)->raw, values, sizeof values);
    reconnect(0);
    const struct smoe_msg_expert_fetch asked = last(SMOE_MSG_EXPERT_FETCH)->m.expert_fetch;
    cr_assert_eq(asked.layer, 7);
    cr_assert_eq(asked.expert, 2);
    m.expert_state = (struct smoe_msg_expert_state){asked.request, 7, 2, 1, 0, 0, 0, 0};
    cr_assert_eq(say(&m, values, PARAMS * sizeof(float)), 0);
    const struct smoe_uplink_request *r = smoe_uplink_request(l.up, fetch);
    cr_assert(r->done);
    cr_assert_arr_eq(r->values->data, values, PARAMS * sizeof(float));
    cr_assert_not(smoe_uplink_request(l.up, store)->done);
    error(SMOE_ESTATE, "layer moe: not all experts have a host now", false, 0,
          last(SMOE_MSG_EXPERT_STORE)->m.expert_store.request);
    cr_assert(smoe_uplink_request(l.up, store)->done);
    cr_assert_eq(smoe_uplink_request(l.up, store)->code, SMOE_ESTATE);
    smoe_uplink_request_release(l.up, fetch);
    smoe_uplink_request_release(l.up, store);
}

/* A piece of an expert that the gateway has in pieces: element i of vector v is 100 v + i + plus. */
static int say_piece(uint64_t request, uint64_t series, uint64_t offset, uint64_t length,
                     float plus)
{
    enum { PARAMS = 2 * D * 2 + 2 + D };
    float values[2 * PARAMS + 1];
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STATE};
    m.expert_state = (struct smoe_msg_expert_state){request, 7, 2, 3, 0, offset, length, series};
    for (uint64_t i = 0; i < 2 * length; i++)
        values[i] = 100 * (float)(i / length) + (float)(offset + i % length) + plus;
    return say(&m, values, 2 * length * sizeof *values);
}

Test(state, in_pieces_is_put_together_and_begins_again_with_another_series, .init = begin,
     .fini = end)
{
    enum { PARAMS = 2 * D * 2 + 2 + D };
    uint32_t whole, moments;
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 2, 3, NULL, &whole, &l.why), 0);
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 2, 2, NULL, &moments, &l.why), 0);
    read_all();
    uint64_t second = last(SMOE_MSG_EXPERT_FETCH)->m.expert_fetch.request;
    uint64_t request = second - 1; /* numbered in the order of asking */
    cr_assert_eq(say_piece(request, 1, 0, 10, 0.5f), 0);
    cr_assert_eq(say_piece(request, 2, 10, PARAMS - 10, 0), 0);
    cr_assert_not(smoe_uplink_request(l.up, whole)->done, "ten are of another series");
    cr_assert_eq(say_piece(request, 2, 0, 10, 0), 0);
    cr_assert_eq(say_piece(second, 3, 0, PARAMS, 0), 0);
    const struct smoe_uplink_request *r = smoe_uplink_request(l.up, whole);
    const float *values = (const float *)(const void *)r->values->data;
    cr_assert(r->done && r->code == 0);
    for (int i = 0; i < 2 * PARAMS; i++)
        cr_assert_eq(values[i], (float)(100 * (i / PARAMS) + i % PARAMS));
    r = smoe_uplink_request(l.up, moments);
    values = (const float *)(const void *)r->values->data;
    cr_assert(r->done && values[0] == 100 && r->bytes == PARAMS * sizeof *values);
    cr_assert_eq(smoe_uplink_state(l.up, l.layer, 2, 3, NULL, &whole, &l.why), 0);
    read_all();
    cr_assert_eq(
        say_piece(last(SMOE_MSG_EXPERT_FETCH)->m.expert_fetch.request, 4, PARAMS - 1, 2, 0),
        SMOE_ESHAPE, "one element beyond the end");
}

/* ---- frozen routers ---- */

enum { CODES = 6 };
static const float table[CODES * EXPERTS] = {.7f, .1f, .1f, .1f, .2f, .5f};
static const uint32_t codes[TOKENS] = {5, 0, 1, 1, 2};

static void freeze(uint64_t version)
{
    struct smoe_frozen_head head = {version, SMOE_FROZEN_TABLE, CODES, 0};
    cr_assert_eq(smoe_uplink_freeze(l.up, l.layer, &head, table, &l.why), 0, "%s", l.why.text);
    read_all();
}

/* The gateway says that what it was told last is in force, or another one. */
static void router_state(const struct smoe_frozen_head *router)
{
    struct smoe_message m = {.type = SMOE_MSG_ROUTER_STATE};
    m.router_state =
        (struct smoe_msg_router_state){last(SMOE_MSG_FREEZE)->m.freeze.request, 7, *router};
    cr_assert_eq(say(&m, NULL, 0), 0);
}

static int try_codes(const uint32_t *which, struct smoe_uplink_ticket **ret)
{
    struct smoe_uplink_submit o = {
        .layer = l.layer, .tokens = TOKENS, .top_k = TOP_K, .codes = which, .x = x};
    int rc = smoe_uplink_submit(l.up, &o, ret, &l.why);
    read_all();
    return rc;
}

static struct smoe_uplink_ticket *submit_codes(void)
{
    struct smoe_uplink_ticket *t = NULL;
    cr_assert_eq(try_codes(codes, &t), 0, "%s", l.why.text);
    return t;
}

Test(uplink, codes_wait_for_their_router_and_name_it, .init = begin, .fini = end)
{
    freeze(3);
    struct smoe_frozen_head head = last(SMOE_MSG_FREEZE)->m.freeze.router;
    cr_assert_eq(head.version, 3);
    cr_assert_eq(last(SMOE_MSG_FREEZE)->raw_bytes, sizeof table);
    cr_assert_eq(memcmp(last(SMOE_MSG_FREEZE)->raw, table, sizeof table), 0);
    submit_codes();
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 0);
    router_state(&head);
    const struct letter *sent = last(SMOE_MSG_SUBMIT);
    cr_assert_eq(sent->m.submit.router_version, 3);
    cr_assert_eq(sent->m.submit.router_digest, head.digest);
    cr_assert_eq(sent->raw_bytes, (TOKENS * 4 + 4) + TOKENS * D * 4, "padded to 8");
    cr_assert_eq(memcmp(sent->raw, codes, sizeof codes), 0);
    cr_assert_eq(memcmp(sent->raw + TOKENS * 4 + 4, x, sizeof x), 0);
}

Test(uplink, a_gateway_without_the_router_is_given_it_again_before_the_codes, .init = begin,
     .fini = end)
{
    freeze(1);
    struct smoe_frozen_head head = last(SMOE_MSG_FREEZE)->m.freeze.router;
    router_state(&head);
    submit_codes();
    mail_clear(&l.far.mail);
    reconnect(0); /* its LayerReady says that none is frozen */
    cr_assert_eq(count(SMOE_MSG_FREEZE), 1);
    cr_assert_eq(count(SMOE_MSG_SUBMIT), 0);
    router_state(&head);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.router_digest, head.digest);
}

Test(uplink, a_gateway_with_the_router_is_not_given_it_again, .init = begin, .fini = end)
{
    freeze(1);
    struct smoe_frozen_head head = last(SMOE_MSG_FREEZE)->m.freeze.router;
    router_state(&head);
    submit_codes();
    smoe_uplink_disconnected(l.up);
    far_end_close(&l.far);
    connect_line(10);
    struct smoe_message m = {.type = SMOE_MSG_LAYER_READY};
    m.layer_ready = (struct smoe_msg_layer_ready){
        .request = last(SMOE_MSG_LAYER_DECLARE)->m.layer_declare.request,
        .layer = 7,
        .shape = shape(),
        .run = 42,
        .router = head};
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(count(SMOE_MSG_FREEZE), 0);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.router_version, 1);
}

/* Results that had all come are replayed on their experts: no router is asked. */
Test(uplink, a_replay_of_codes_names_experts, .init = begin, .fini = end)
{
    freeze(1);
    router_state(&last(SMOE_MSG_FREEZE)->m.freeze.router);
    struct smoe_uplink_ticket *t = submit_codes();
    give_results(t->batch, 0);
    struct smoe_message m = {.type = SMOE_MSG_NEED};
    m.need.attempt = ++l.attempt;
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert(last(SMOE_MSG_SUBMIT)->m.submit.routed);
    cr_assert_eq(last(SMOE_MSG_SUBMIT)->m.submit.router_version, 0);
}

Test(uplink, a_router_that_is_refused_takes_its_batches_with_it, .init = begin, .fini = end)
{
    freeze(1);
    struct smoe_uplink_ticket *t = submit_codes();
    struct smoe_message m = {.type = SMOE_MSG_ERROR};
    m.error.code = SMOE_EEXIST;
    m.error.request = last(SMOE_MSG_FREEZE)->m.freeze.request;
    strcpy(m.error.message, "version 9 is in force");
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(t->state, SMOE_TICKET_FAILED);
    cr_assert_eq(t->code, SMOE_EEXIST);
    cr_assert_eq(smoe_uplink_layer(l.up, l.layer)->router.state, SMOE_UROUTER_FAILED);
    cr_assert_eq(try_codes(codes, &t), SMOE_EEXIST);
    cr_assert(strstr(l.why.text, "version 9 is in force"), "%s", l.why.text);
    freeze(10); /* another one may follow */
    cr_assert_eq(count(SMOE_MSG_FREEZE), 2);
}

/* A replay needs no router. Were its batch lost the step would be made without it. */
Test(uplink, a_router_that_is_refused_takes_no_batch_that_was_scored_by_it, .init = begin,
     .fini = end)
{
    struct smoe_uplink_ticket *t[2];
    freeze(1);
    router_state(&last(SMOE_MSG_FREEZE)->m.freeze.router);
    for (int i = 0; i < 2; i++) {
        t[i] = submit_codes();
        give_results(t[i]->batch, 0);
        gradient(t[i]);
    }
    smoe_uplink_disconnected(l.up);
    far_end_close(&l.far);
    connect_line(1);
    layer_ready(0);
    cr_assert_eq(t[1]->state, SMOE_TICKET_QUEUED, "for credit");
    cr_assert_eq(step(), 0);
    struct smoe_message m = {.type = SMOE_MSG_ERROR};
    m.error.code = SMOE_EEXIST;
    m.error.request = last(SMOE_MSG_FREEZE)->m.freeze.request;
    strcpy(m.error.message, "version 9 is in force");
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(smoe_uplink_layer(l.up, l.layer)->router.state, SMOE_UROUTER_FAILED);
    cr_assert_eq(t[1]->state, SMOE_TICKET_QUEUED, "%s", t[1]->why.text);
    m = (struct smoe_message){.type = SMOE_MSG_CREDIT};
    m.credit = (struct smoe_msg_credit){10 * SUBMIT_BYTES, 10 * VISITS};
    cr_assert_eq(say(&m, NULL, 0), 0);
    for (int i = 0; i < 2; i++)
        give_results(t[i]->batch, 0);
    cr_assert_eq(last(SMOE_MSG_STEP)->m.step.n_batches, 2);
}

/* Sixteen times, whoever else's raw parts are on their way. */
Test(uplink, a_router_that_finds_no_room_is_given_again_and_its_batches_wait, .init = begin,
     .fini = end)
{
    freeze(1);
    struct smoe_uplink_ticket *t = submit_codes();
    struct smoe_message m = {.type = SMOE_MSG_ERROR};
    m.error.code = SMOE_ENOMEMORY;
    m.error.request = last(SMOE_MSG_FREEZE)->m.freeze.request;
    for (size_t refused = 1; refused <= 16; refused++) {
        cr_assert_eq(say(&m, NULL, 0), 0);
        cr_assert_eq(t->state, SMOE_TICKET_QUEUED);
        cr_assert_eq(count(SMOE_MSG_FREEZE), refused + 1);
    }
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(count(SMOE_MSG_FREEZE), 17);
    cr_assert_eq(t->code, SMOE_ENOMEMORY);
}

Test(uplink, codes_are_checked_where_they_are_given, .init = begin, .fini = end)
{
    uint32_t wrong[TOKENS] = {0, 1, CODES};
    struct smoe_uplink_ticket *t;
    cr_assert_eq(try_codes(codes, &t), SMOE_ESTATE, "nothing is frozen");
    freeze(1);
    cr_assert_eq(try_codes(wrong, &t), SMOE_EFIELD);
    cr_assert(strstr(l.why.text, "token 2 has code 6"), "%s", l.why.text);
}

Test(uplink, which_router_is_in_force_can_be_asked, .init = begin, .fini = end)
{
    struct smoe_frozen_head other = {4, SMOE_FROZEN_LINEAR, 9, 77};
    const struct smoe_uplink_router *r = &smoe_uplink_layer(l.up, l.layer)->router;
    cr_assert_eq(smoe_uplink_query_router(l.up, l.layer, &l.why), 0);
    read_all();
    cr_assert_not(r->answered);
    struct smoe_message m = {.type = SMOE_MSG_ROUTER_STATE};
    m.router_state = (struct smoe_msg_router_state){
        last(SMOE_MSG_ROUTER_QUERY)->m.router_query.request, 7, other};
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert(r->answered && r->found.digest == 77 && r->found.version == 4);
}
