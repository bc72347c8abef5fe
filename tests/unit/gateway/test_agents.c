/* SPDX-License-Identifier: Apache-2.0
 *
 * The gateway with real workers' minds at the other ends, in one process and without a clock: what the
 * tests of core and agent show of messages, shown here of the tensors that go with them.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent.h"
#include "daemon/gateway/gateway.h"
#include "tests/unit/mail/mail.h"

#define MS UINT64_C(1000000)
enum { WORKERS = 3, EXPERTS = 2, D = 64, H = 16, TOKENS = 2048, BATCHES_MAX = 32 };
#define PARAMS    (2 * D * H + H + D)
#define ROW_BYTES (D * sizeof(smoe_real))
#define X_BYTES   (TOKENS * ROW_BYTES)
#define SCORES    (TOKENS * EXPERTS * sizeof(float))
#define PLENTY    (64u << 20)
#define INBOX     (sizeof(smoe_real) << 18) /* the least there is, with float32 */

struct worker {
    struct smoe_agent *agent;
    smoe_real *scratch;
    uint32_t session;
    bool connected;
    bool idle; /* does no work */
};

static struct town {
    struct smoe_gateway *gw;
    uint64_t now_ns;
    struct worker workers[WORKERS];
    struct far_end trainer;
    uint32_t trainer_session;
    uint64_t attempt;
    size_t looked_at; /* letters to the trainer */
    bool journal;     /* acknowledged by hand */
    uint64_t journalled;
    uint32_t inputs_asked, dx_rows;
    smoe_real (*dx)[TOKENS * D]; /* [BATCHES_MAX], by batch and token */
} h;

/* ---- what flows ---- */

static void on_record(void *context, const struct smoe_record *record, uint64_t epoch)
{
    (void)context, (void)epoch;
    h.journalled = record->sequence;
}

/* x or dy of a batch. */
static void fill(smoe_real *rows, uint64_t batch, bool dy)
{
    for (int i = 0; i < TOKENS * D; i++)
        rows[i] = (smoe_real)(sin((double)batch * 31 + i * 0.37) + (dy ? 0.5 : 0));
}

static void say(const struct smoe_message *m, const void *raw, size_t bytes)
{
    far_end_say(&h.trainer, m, raw, bytes);
    smoe_gateway_received(h.gw, h.trainer_session, h.trainer.out, h.trainer.n_out, h.now_ns);
}

static void give_inputs(uint64_t batch)
{
    static smoe_real x[TOKENS * D];
    struct smoe_message m = {.type = SMOE_MSG_INPUTS};
    m.inputs = (struct smoe_msg_inputs){batch, h.attempt};
    fill(x, batch, false);
    h.inputs_asked++;
    say(&m, x, sizeof x);
}

static void keep_dx(const struct letter *l)
{
    uint32_t rows = l->m.input_gradient.rows;
    const uint32_t *visits = (const uint32_t *)(const void *)l->raw;
    const uint8_t *dx = l->raw + (rows * 4 + 7) / 8 * 8;
    for (uint32_t r = 0; r < rows; r++)
        memcpy(&h.dx[l->m.input_gradient.batch][visits[r] * D], dx + r * ROW_BYTES, ROW_BYTES);
    h.dx_rows += rows;
}

/* A trainer that answers what it is asked; true if there was anything. */
static bool look(void)
{
    bool any = h.looked_at < h.trainer.mail.n;
    while (h.looked_at < h.trainer.mail.n) {
        const struct letter l = h.trainer.mail.letters[h.looked_at++];
        if (l.m.type == SMOE_MSG_NEED_INPUTS)
            give_inputs(l.m.need_inputs.batch);
        else if (l.m.type == SMOE_MSG_INPUT_GRADIENT)
            keep_dx(&l);
        else if (l.m.type == SMOE_MSG_WELCOME)
            h.attempt = l.m.welcome.attempt;
        else if (l.m.type == SMOE_MSG_NEED)
            h.attempt = l.m.need.attempt;
    }
    return any;
}

static bool carry_to_trainer(void)
{
    struct iovec v;
    bool any = false;
    while (smoe_gateway_peek(h.gw, h.trainer_session, &v, 1)) {
        far_end_hear(&h.trainer, v.iov_base, v.iov_len);
        smoe_gateway_consume(h.gw, h.trainer_session, v.iov_len);
        any = true;
    }
    return look() || any;
}

static bool carry(struct worker *w)
{
    struct iovec v;
    struct smoe_why why;
    bool any = false;
    while (w->connected && smoe_gateway_peek(h.gw, w->session, &v, 1)) {
        int rc = smoe_agent_received(w->agent, v.iov_base, v.iov_len, h.now_ns, &why);
        cr_assert_eq(rc, 0, "%s", why.text);
        smoe_gateway_consume(h.gw, w->session, v.iov_len);
        any = true;
    }
    while (w->connected && smoe_agent_peek(w->agent, &v, 1)) {
        smoe_gateway_received(h.gw, w->session, v.iov_base, v.iov_len, h.now_ns);
        smoe_agent_consume(w->agent, v.iov_len);
        any = true;
    }
    return any;
}

static bool compute(struct worker *w)
{
    if (!w->connected || w->idle)
        return false;
    size_t need = smoe_agent_scratch_elements(w->agent);
    w->scratch = realloc(w->scratch, (need + 1) * sizeof *w->scratch);
    cr_assert_not_null(w->scratch);
    struct smoe_task *task = smoe_agent_next_task(w->agent, w->scratch);
    if (!task)
        return false;
    while (!smoe_task_slice(task))
        ;
    smoe_agent_task_done(w->agent, task, MS, h.now_ns);
    smoe_agent_check(w->agent);
    return true;
}

/* Until nothing moves any more; slots pass as they are due. */
static void run(void)
{
    for (int still = 0; still < 3;) {
        bool any = carry_to_trainer();
        for (int i = 0; i < WORKERS; i++) {
            any |= carry(&h.workers[i]);
            any |= compute(&h.workers[i]);
        }
        if (!h.journal)
            smoe_gateway_journalled(h.gw, h.journalled, h.now_ns);
        still = any ? 0 : still + 1;
        if (!any) {
            h.now_ns = smoe_gateway_wake_ns(h.gw);
            smoe_gateway_tick(h.gw, h.now_ns);
        }
        smoe_gateway_check(h.gw);
    }
}

/* ---- the town ---- */

static void connect_worker(int i)
{
    struct worker *w = &h.workers[i];
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &w->session), 0);
    smoe_agent_connected(w->agent, h.now_ns);
    w->connected = true;
}

static void disconnect_worker(int i)
{
    h.workers[i].connected = false;
    smoe_agent_disconnected(h.workers[i].agent);
    smoe_gateway_closed(h.gw, h.workers[i].session, h.now_ns);
}

static void add_worker(int i, uint64_t tensors_bytes)
{
    struct smoe_why why;
    struct smoe_agent_options o = {.incarnation = (uint64_t)i + 1,
                                   .software = "town",
                                   .lanes = 1,
                                   .freq_nominal_hz = 1e9,
                                   .freq_max_hz = 1e9,
                                   .freq_driver = "null",
                                   .experts_bytes_max = 1 << 24,
                                   .tensors_bytes_max = tensors_bytes,
                                   .inbox_bytes_max = INBOX};
    snprintf(o.id, sizeof o.id, "w%d", i);
    cr_assert_eq(smoe_agent_new(&o, &h.workers[i].agent, &why), 0);
    connect_worker(i);
}

static void declare(uint64_t step)
{
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 1,
        .name = "moe",
        .run = 9,
        .step = step,
        .shape = {.experts = EXPERTS,
                  .d_model = D,
                  .d_ff = H,
                  .activation = SMOE_GELU,
                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                  .optimizer = SMOE_ADAMW,
                  .seed = 3}};
    say(&m, NULL, 0);
    run();
    cr_assert_not_null(mail_last(&h.trainer.mail, ANYONE, SMOE_MSG_LAYER_READY));
}

static void begin_with(int workers, uint64_t tensors_bytes)
{
    struct smoe_gateway_options o = {
        .core = {.limits = {.workers_max = 4,
                            .trainers_max = 2,
                            .batches_max = 64,
                            .parcels_max = 1024,
                            .slot_tokens_max = 4096},
                 .settings = {.slot_ns = 20 * MS,
                              .policy = SMOE_POLICY_TOPK,
                              .v = 50,
                              .mu = 1,
                              .workers_min = (uint32_t)workers,
                              .copies = 2,
                              .silence_ns = 3600000 * MS,
                              .worker_lease_ns = 3600000 * MS,
                              .trainer_lease_ns = 3600000 * MS,
                              .window_bytes = PLENTY,
                              .window_visits = 1 << 20,
                              .iteration_bytes_max = PLENTY,
                              .worker_budget_w = (double)INFINITY,
                              .worker_cap_w = (double)INFINITY},
                 .epoch = 1,
                 .now_ns = 1,
                 .software = "town",
                 .tensor_bytes_max = INBOX},
        .tensors_bytes_max = PLENTY,
        .outbox_bytes_max = PLENTY,
        .hello_timeout_ns = 3600000 * MS,
        .journal = on_record,
    };
    struct smoe_why why;
    memset(&h, 0, sizeof h);
    h.now_ns = 1;
    h.dx = calloc(BATCHES_MAX, sizeof *h.dx);
    cr_assert_not_null(h.dx);
    cr_assert_eq(smoe_gateway_new(&o, &h.gw, &why), 0, "%s", why.text);
    for (int i = 0; i < workers; i++)
        add_worker(i, tensors_bytes);
    struct smoe_message hello = {.type = SMOE_MSG_HELLO};
    hello.hello = (struct smoe_msg_hello){.protocol_min = 1,
                                          .protocol_max = 1,
                                          .role = SMOE_ROLE_TRAINER,
                                          .name = "t",
                                          .incarnation = 5};
    cr_assert_eq(smoe_gateway_opened(h.gw, h.now_ns, &h.trainer_session), 0);
    far_end_open(&h.trainer, SMOE_TO_TRAINER);
    say(&hello, NULL, 0);
    run();
    declare(0);
}

/* Nothing may be left of what went through. */
static void end(void)
{
    struct smoe_gateway_stats stats;
    run();
    smoe_gateway_stats(h.gw, &stats);
    cr_assert_eq(stats.tensor_bytes, 0);
    for (int i = 0; i < WORKERS; i++) {
        smoe_agent_free(h.workers[i].agent);
        free(h.workers[i].scratch);
    }
    far_end_close(&h.trainer);
    smoe_gateway_free(h.gw);
    free(h.dx);
}

/* ---- a trainer's words ---- */

/* Tokens alternate between the experts. */
static void submit(uint64_t batch)
{
    static uint8_t raw[SCORES + X_BYTES];
    static smoe_real x[TOKENS * D];
    static float scores[TOKENS * EXPERTS];
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){
        .batch = batch, .attempt = h.attempt, .tokens = TOKENS, .top_k = 1, .needs_gradient = true};
    for (int i = 0; i < TOKENS * EXPERTS; i++)
        scores[i] = i / EXPERTS % EXPERTS == i % EXPERTS ? 0.9f : 0.1f;
    fill(x, batch, false);
    memcpy(raw, scores, SCORES);
    memcpy(raw + SCORES, x, X_BYTES);
    say(&m, raw, sizeof raw);
}

static void give_gradient(uint64_t batch)
{
    static smoe_real dy[TOKENS * D];
    struct smoe_message m = {.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){batch, h.attempt};
    fill(dy, batch, true);
    say(&m, dy, sizeof dy);
}

static void step(uint64_t number, const uint64_t *batches, size_t n)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    m.step = (struct smoe_msg_step){.step = number,
                                    .attempt = h.attempt,
                                    .batches = batches,
                                    .n_batches = n,
                                    .optimizer = {.kind = SMOE_ADAMW,
                                                  .learning_rate = 0.01,
                                                  .beta1 = 0.9,
                                                  .beta2 = 0.99,
                                                  .epsilon = 1e-8},
                                    .clip_norm = 1,
                                    .gradient_divisor = TOKENS};
    say(&m, NULL, 0);
}

static uint64_t steps_done(void)
{
    return mail_count(&h.trainer.mail, ANYONE, SMOE_MSG_STEP_DONE);
}

static void train(uint64_t number)
{
    submit(number);
    run();
    give_gradient(number);
    run();
    step(number, &number, 1);
    run();
}

/* Weights of the expert as the worker has them, and whether as a copy; NULL if it has none. */
static const smoe_real *weights(int worker, uint32_t expert, bool *ret_copy)
{
    const struct smoe_experts *experts = smoe_agent_experts(h.workers[worker].agent);
    for (uint32_t i = 0; i < experts->n_experts; i++) {
        const struct smoe_held_expert *e = &experts->experts[i];
        if (!e->used || e->index != expert)
            continue;
        *ret_copy = e->copy;
        return e->now.weights;
    }
    return NULL;
}

/* Every expert is served by one worker and followed by another, with the same weights. */
static void expect_equal_copies(void)
{
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const smoe_real *found[2] = {NULL, NULL};
        for (int w = 0; w < WORKERS; w++) {
            bool copy = false;
            const smoe_real *here = h.workers[w].connected ? weights(w, e, &copy) : NULL;
            if (here)
                found[copy] = here;
        }
        cr_assert(found[0] && found[1], "expert %u has no two copies", e);
        cr_assert_arr_eq(found[0], found[1], PARAMS * sizeof(smoe_real), "expert %u", e);
    }
}

/* Weights of both experts where they are served. */
static void served_weights(smoe_real ret[EXPERTS][PARAMS])
{
    for (int w = 0; w < WORKERS; w++)
        for (uint32_t e = 0; e < EXPERTS && h.workers[w].connected; e++) {
            bool copy;
            const smoe_real *here = weights(w, e, &copy);
            if (here && !copy)
                memcpy(ret[e], here, PARAMS * sizeof(smoe_real));
        }
}

/* ---- copies ---- */

Test(agents, keep_two_copies_equal_to_the_last_bit_through_the_gateway, .fini = end)
{
    begin_with(2, PLENTY);
    for (uint64_t number = 1; number <= 4; number++) {
        train(number);
        cr_assert_eq(steps_done(), number);
        expect_equal_copies();
    }
}

Test(agents, fill_a_worker_that_joins_later_with_what_the_host_has, .fini = end)
{
    begin_with(1, PLENTY);
    train(1);
    add_worker(1, PLENTY);
    run();
    for (uint64_t number = 2; number <= 4; number++)
        train(number);
    expect_equal_copies();
}

/* A worker dies in the middle of each step: the run is bit for bit the one in which nobody died. */
Test(agents, that_die_leave_a_run_that_equals_the_undisturbed_one)
{
    static smoe_real undisturbed[EXPERTS][PARAMS], disturbed[EXPERTS][PARAMS];
    begin_with(2, PLENTY);
    for (uint64_t number = 1; number <= 4; number++)
        train(number);
    served_weights(undisturbed);
    end();
    begin_with(2, PLENTY);
    for (uint64_t number = 1; number <= 4; number++) {
        int victim = (int)(number % 2);
        submit(number);
        run();
        if (number > 2)
            give_gradient(number);
        disconnect_worker(victim);
        run();
        train(number);
        cr_assert_eq(steps_done(), number);
        connect_worker(victim); /* with what it had before */
        run();
    }
    served_weights(disturbed);
    cr_assert_arr_eq(disturbed, undisturbed, sizeof disturbed);
    expect_equal_copies();
    end();
}

/* ---- memory ---- */

enum { PASS = 24 }; /* batches between two steps: of x alone twice what a small worker holds */

static void whole_pass(uint64_t tensors_bytes)
{
    uint64_t ids[PASS];
    begin_with(2, tensors_bytes);
    for (uint64_t i = 0; i < PASS; i++) {
        ids[i] = i + 1;
        submit(ids[i]);
        run();
    }
    cr_assert_eq(mail_count(&h.trainer.mail, ANYONE, SMOE_MSG_RESULT), PASS * EXPERTS);
    for (size_t i = 0; i < PASS; i++)
        give_gradient(ids[i]); /* all at once */
    run();
    cr_assert_eq(h.dx_rows, PASS * TOKENS);
    step(1, ids, PASS);
    run();
    cr_assert_eq(steps_done(), 1);
    expect_equal_copies();
}

Test(agents, with_little_memory_give_up_rows_that_come_again_and_compute_the_same)
{
    static smoe_real dx[BATCHES_MAX][TOKENS * D], plenty[EXPERTS][PARAMS], scarce[EXPERTS][PARAMS];
    struct smoe_core_totals totals;
    whole_pass(PLENTY);
    cr_assert_eq(h.inputs_asked, 0);
    memcpy(dx, h.dx, sizeof dx);
    served_weights(plenty);
    end();
    whole_pass(3 * INBOX + INBOX / 4); /* forward and backward rooms, and results */
    smoe_core_totals(smoe_gateway_core(h.gw), &totals);
    cr_assert_gt(totals.evictions, PASS / 2);
    cr_assert_gt(h.inputs_asked, PASS / 4);
    cr_assert_leq(h.inputs_asked, PASS, "once a batch at most");
    cr_assert_eq(totals.account.failed, 0, "nothing was begun again");
    cr_assert_arr_eq(h.dx, dx, sizeof dx);
    served_weights(scarce);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < PARAMS; i++) /* sums came in another order */
            cr_assert_float_eq((double)scarce[e][i], (double)plenty[e][i], 1e-5);
    end();
}

/* ---- the journal ---- */

Test(agents, hear_of_a_commit_when_the_journal_has_it, .fini = end)
{
    bool copy;
    smoe_real before[PARAMS];
    begin_with(2, PLENTY);
    h.journal = true;
    memcpy(before, weights(0, 0, &copy), sizeof before);
    train(1);
    cr_assert_eq(steps_done(), 0);
    cr_assert_arr_eq(weights(0, 0, &copy), before, sizeof before, "not in force");
    smoe_gateway_journalled(h.gw, h.journalled, h.now_ns);
    run();
    cr_assert_eq(steps_done(), 1);
    cr_assert_neq(memcmp(weights(0, 0, &copy), before, sizeof before), 0);
    expect_equal_copies();
}
