/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent.h"
#include "tests/unit/mail/mail.h"

#define MS UINT64_C(1000000)
enum { D = 4, H = 6, EXPERTS = 3, LAYER = 2, ROWS_MAX = 300 };

/* An agent, its gateway, and one lane that runs what it offers. */
static struct desk {
    struct smoe_agent *agent;
    struct far_end far;
    uint64_t now_ns, sequence, epoch;
    smoe_real *scratch;
    bool committed;      /* a step: what is new then does not start from the seed */
    struct smoe_why why; /* of the last thing received */
    int rc;
} d;

static struct smoe_agent_options options(void)
{
    return (struct smoe_agent_options){.id = "w",
                                       .incarnation = 3,
                                       .software = "desk",
                                       .lanes = 1,
                                       .freq_nominal_hz = 1e9,
                                       .freq_max_hz = 1e9,
                                       .freq_driver = "null",
                                       .experts_bytes_max = 1 << 20,
                                       .tensors_bytes_max = 1 << 20,
                                       .inbox_bytes_max = 1 << 20};
}

static const struct smoe_ffn_shape ffn = {D, H, SMOE_GELU};

static struct smoe_layer_shape shape(void)
{
    return (struct smoe_layer_shape){.experts = EXPERTS,
                                     .d_model = D,
                                     .d_ff = H,
                                     .activation = SMOE_GELU,
                                     .dtype =
                                         sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                                     .optimizer = SMOE_SGD,
                                     .seed = 11};
}

/* ---- transport ---- */

static void read_all(void)
{
    struct iovec iovec;
    while (smoe_agent_peek(d.agent, &iovec, 1)) {
        far_end_hear(&d.far, iovec.iov_base, iovec.iov_len);
        smoe_agent_consume(d.agent, iovec.iov_len);
    }
}

static int say(const struct smoe_message *m, const void *raw, size_t raw_bytes)
{
    far_end_say(&d.far, m, raw, raw_bytes);
    d.rc = smoe_agent_received(d.agent, d.far.out, d.far.n_out, d.now_ns, &d.why);
    smoe_agent_check(d.agent);
    read_all();
    return d.rc;
}

static const struct letter *last(enum smoe_message_type type)
{
    return mail_last(&d.far.mail, ANYONE, type);
}

static size_t count(enum smoe_message_type type)
{
    return mail_count(&d.far.mail, ANYONE, type);
}

/* ---- what a gateway says ---- */

static void connect_agent(void)
{
    struct smoe_message m = {.type = SMOE_MSG_WELCOME};
    m.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                          .epoch = d.epoch,
                                          .slot_us = 20000,
                                          .tensor_bytes_max = 1 << 20,
                                          .silence_ms_max = 1000,
                                          .attempt = 1};
    far_end_open(&d.far, SMOE_BY_WORKER);
    smoe_agent_connected(d.agent, d.now_ns);
    read_all();
    cr_assert_not_null(last(SMOE_MSG_HELLO));
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_not_null(last(SMOE_MSG_INVENTORY));
}

/* Experts that are still to be made, without scratch. */
static void make(void)
{
    struct smoe_task *task;
    while (smoe_agent_experts(d.agent)->n_to_make &&
           (task = smoe_agent_next_task(d.agent, NULL)) != NULL) {
        while (!smoe_task_slice(task))
            ;
        smoe_agent_task_done(d.agent, task, 0, d.now_ns);
        smoe_agent_check(d.agent);
        read_all();
    }
}

static void host(uint32_t n)
{
    static const uint32_t experts[] = {0, 1, 2};
    struct smoe_message m = {.type = SMOE_MSG_HOST};
    m.host = (struct smoe_msg_host){.layer = LAYER,
                                    .name = "moe",
                                    .run = 9,
                                    .shape = shape(),
                                    .experts = experts,
                                    .n_experts = n,
                                    .fresh = !d.committed};
    cr_assert_eq(say(&m, NULL, 0), 0);
    make();
}

static void begin_with(const struct smoe_agent_options *o)
{
    memset(&d, 0, sizeof d);
    d.now_ns = 1000 * MS;
    d.epoch = 1;
    cr_assert_eq(smoe_agent_new(o, &d.agent, &d.why), 0);
    connect_agent();
    host(2);
    cr_assert_eq(last(SMOE_MSG_HOSTED)->m.hosted.code, 0);
    d.scratch = calloc(smoe_agent_scratch_elements(d.agent), sizeof *d.scratch);
}

static void begin(void)
{
    struct smoe_agent_options o = options();
    begin_with(&o);
}

static void end(void)
{
    smoe_agent_free(d.agent);
    far_end_close(&d.far);
    free(d.scratch);
}

/* Rows of x or dy: told apart by their parcel. */
static void fill(smoe_real *rows, uint64_t parcel, uint32_t n, int what)
{
    for (uint32_t i = 0; i < n * D; i++)
        rows[i] = (smoe_real)sin((double)(parcel * 131 + i * 7) + what);
}

static int decide(uint64_t parcel, uint32_t expert, uint32_t rows, bool keep)
{
    static smoe_real x[ROWS_MAX * D];
    struct smoe_parcel_head head = {parcel, LAYER, expert, rows, keep, false, 0};
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    m.decision = (struct smoe_msg_decision){++d.sequence, d.epoch, 0, &head, 1};
    fill(x, parcel, rows, 0);
    return say(&m, x, rows * D * sizeof *x);
}

static int backprop(uint64_t parcel, uint32_t rows)
{
    static smoe_real dy[ROWS_MAX * D];
    struct smoe_message m = {.type = SMOE_MSG_BACKPROP};
    m.backprop = (struct smoe_msg_backprop){&parcel, 1, ++d.sequence};
    fill(dy, parcel, rows, 1);
    return say(&m, dy, rows * D * sizeof *dy);
}

static void prepare(uint64_t step, uint64_t attempt)
{
    static const uint32_t layers[] = {LAYER};
    struct smoe_message m = {.type = SMOE_MSG_STEP_PREPARE};
    m.step_prepare = (struct smoe_msg_step_prepare){
        .step = step,
        .attempt = attempt,
        .layers = layers,
        .n_layers = 1,
        .gradient_divisor = 2,
        .optimizer = {.kind = SMOE_SGD, .learning_rate = 0.5},
        .owner = 0,
    };
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", d.why.text);
}

static void stage(uint64_t step, uint64_t attempt, double scale)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_STAGE};
    m.step_stage = (struct smoe_msg_step_stage){step, attempt, scale, 0};
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", d.why.text);
}

static void commit(uint64_t step, uint64_t attempt)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_COMMIT};
    d.committed = true;
    m.step_commit = (struct smoe_msg_step_commit){step, attempt, ++d.epoch, 0};
    cr_assert_eq(say(&m, NULL, 0), 0);
}

static void reset(uint64_t attempt)
{
    static const uint32_t layers[] = {LAYER};
    struct smoe_message m = {.type = SMOE_MSG_RESET};
    m.reset = (struct smoe_msg_reset){layers, 1, attempt};
    cr_assert_eq(say(&m, NULL, 0), 0);
}

/* ---- the lane ---- */

static struct smoe_task *start(void)
{
    return smoe_agent_next_task(d.agent, d.scratch);
}

static void finish(struct smoe_task *task)
{
    while (!smoe_task_slice(task))
        ;
    d.now_ns += MS;
    smoe_agent_task_done(d.agent, task, MS, d.now_ns);
    smoe_agent_check(d.agent);
    read_all();
}

static void run_all(void)
{
    for (struct smoe_task *task = start(); task; task = start())
        finish(task);
}

/* ---- what must come out ---- */

static const smoe_real *fetch(uint32_t expert, uint32_t parts)
{
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_FETCH};
    m.expert_fetch = (struct smoe_msg_expert_fetch){1, LAYER, expert, parts};
    cr_assert_eq(say(&m, NULL, 0), 0, "%s", d.why.text);
    return (const smoe_real *)(const void *)last(SMOE_MSG_EXPERT_STATE)->raw;
}

static void assert_near(const smoe_real *a, const smoe_real *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        cr_assert_float_eq((double)a[i], (double)b[i], 1e-5, "%s[%zu]: %g, expected %g", what, i,
                           (double)a[i], (double)b[i]);
}

static void initial_weights(uint32_t expert, smoe_real *ret)
{
    smoe_ffn_init(&ffn, 11, expert, false, ret);
}

#define PARAMS (2 * D * H + H + D)

/* y of the parcel by the reference kernel. */
static void expect_y(uint64_t parcel, uint32_t expert, uint32_t rows, smoe_real *ret)
{
    static smoe_real x[ROWS_MAX * D];
    smoe_real w[PARAMS];
    initial_weights(expert, w);
    fill(x, parcel, rows, 0);
    smoe_ffn_forward_reference(&ffn, w, rows, x, ret);
}

static void expect_dx(uint64_t parcel, uint32_t expert, uint32_t rows, smoe_real *dparams,
                      smoe_real *ret)
{
    static smoe_real x[ROWS_MAX * D], dy[ROWS_MAX * D];
    smoe_real w[PARAMS];
    initial_weights(expert, w);
    fill(x, parcel, rows, 0);
    fill(dy, parcel, rows, 1);
    smoe_ffn_backward_reference(&ffn, w, rows, x, dy, dparams, ret);
}

/* ---- the link ---- */

Test(agent, says_who_it_is_and_what_it_holds_and_hosts_what_it_is_told, .init = begin, .fini = end)
{
    smoe_real w[PARAMS];
    cr_assert_str_eq(last(SMOE_MSG_HELLO)->m.hello.name, "w");
    cr_assert_eq(last(SMOE_MSG_HELLO)->m.hello.lanes, 1);
    cr_assert_eq(last(SMOE_MSG_INVENTORY)->m.inventory.n_layers, 0);
    initial_weights(1, w);
    cr_assert_arr_eq(fetch(1, SMOE_STATE_WEIGHTS), w, sizeof w);
}

Test(agent, ends_the_connection_with_a_reason_when_the_gateway_talks_nonsense, .init = begin,
     .fini = end)
{
    cr_assert_eq(decide(1, 2, 3, false), SMOE_EUNKNOWN);
    cr_assert_str_eq(d.why.text, "DECISION: layer 2 expert 2 is not hosted here");
    cr_assert_str_eq(last(SMOE_MSG_ERROR)->m.error.message, d.why.text);
    cr_assert(last(SMOE_MSG_ERROR)->m.error.fatal);
}

/* What fuzzing found: no gateway reads a state without a raw part. */
Test(agent, does_not_answer_a_fetch_of_nothing, .init = begin, .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_FETCH};
    m.expert_fetch = (struct smoe_msg_expert_fetch){1, LAYER, 0, SMOE_STATE_OLDER};
    cr_assert_eq(say(&m, NULL, 0), SMOE_EFIELD);
    cr_assert_str_eq(d.why.text, "EXPERT_FETCH.parts 8: its layer has nothing of them");
}

Test(agent, does_not_take_a_second_welcome_or_an_older_epoch, .init = begin, .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_WELCOME};
    m.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                          .epoch = 5,
                                          .slot_us = 20000,
                                          .tensor_bytes_max = 1 << 20,
                                          .silence_ms_max = 1000,
                                          .attempt = 1};
    cr_assert_eq(say(&m, NULL, 0), SMOE_ESTATE);
    smoe_agent_disconnected(d.agent);
    far_end_close(&d.far);
    connect_agent();
    static const struct smoe_message old = {.type = SMOE_MSG_DECISION,
                                            .decision = {.sequence = 1, .epoch = 0}};
    struct smoe_message newer = old;
    newer.decision.epoch = 8;
    cr_assert_eq(say(&newer, NULL, 0), 0);
    newer.decision.epoch = 7;
    newer.decision.sequence = 2;
    cr_assert_eq(say(&newer, NULL, 0), SMOE_ESTATE);
}

/* ---- the life of a parcel ---- */

Test(agent, computes_what_the_reference_kernel_computes_forward_and_backward, .init = begin,
     .fini = end)
{
    static const uint32_t rows[] = {1, 5, SMOE_TASK_ROWS, SMOE_TASK_ROWS + 1, ROWS_MAX};
    static smoe_real y[ROWS_MAX * D], dx[ROWS_MAX * D];
    smoe_real sum[PARAMS] = {0};
    for (uint64_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t parcel = 100 + i;
        cr_assert_eq(decide(parcel, 1, rows[i], true), 0);
        run_all();
        cr_assert_eq(last(SMOE_MSG_OUTPUT)->m.output.parcel, parcel);
        cr_assert_eq(last(SMOE_MSG_OUTPUT)->raw_bytes, rows[i] * D * sizeof(smoe_real));
        expect_y(parcel, 1, rows[i], y);
        assert_near((const smoe_real *)(const void *)last(SMOE_MSG_OUTPUT)->raw, y, rows[i] * D,
                    "y");
        cr_assert_eq(backprop(parcel, rows[i]), 0);
        run_all();
        cr_assert_eq(last(SMOE_MSG_PARCEL_GRADIENT)->m.parcel_gradient.parcel, parcel);
        expect_dx(parcel, 1, rows[i], sum, dx);
        assert_near((const smoe_real *)(const void *)last(SMOE_MSG_PARCEL_GRADIENT)->raw, dx,
                    rows[i] * D, "dx");
    }
    const smoe_real *gradient = fetch(1, SMOE_STATE_GRADIENT);
    for (int i = 0; i < PARAMS; i++)
        cr_assert_float_eq((double)gradient[i], (double)sum[i], 1e-4 * (1 + fabs((double)sum[i])),
                           "the plain sum over all rows");
}

Test(agent, answers_a_parcel_of_evaluation_once_and_forgets_it, .init = begin, .fini = end)
{
    decide(7, 0, 3, false);
    run_all();
    cr_assert_eq(count(SMOE_MSG_OUTPUT), 1);
    cr_assert_eq(backprop(7, 3), SMOE_EUNKNOWN);
    cr_assert_str_eq(d.why.text, "BACKPROP: parcel 7 does not wait for a gradient");
}

Test(agent, runs_backward_before_forward, .init = begin, .fini = end)
{
    decide(1, 0, 2, true);
    run_all();
    decide(2, 0, 2, true);
    decide(3, 1, 2, true);
    backprop(1, 2);
    struct smoe_task *task = start();
    cr_assert_eq(task->kind, SMOE_TASK_BACKWARD);
    finish(task);
    task = start();
    cr_assert_eq(task->kind, SMOE_TASK_FORWARD);
    finish(task);
}

Test(agent, never_runs_two_tasks_of_one_expert_at_a_time, .fini = end)
{
    struct smoe_agent_options o = options();
    o.lanes = 3;
    begin_with(&o);
    decide(1, 0, 2, true);
    decide(2, 0, 2, true);
    decide(3, 1, 2, true);
    struct smoe_task *one = start(), *other = start();
    cr_assert_not_null(one);
    cr_assert_not_null(other);
    cr_assert_neq(one->expert, other->expert);
    cr_assert_null(start(), "the third lane must wait for an expert");
    finish(one);
    struct smoe_task *third = start();
    cr_assert_not_null(third);
    finish(other);
    finish(third);
    cr_assert_eq(count(SMOE_MSG_OUTPUT), 3);
}

Test(agent, without_memory_to_keep_activations_computes_them_again, .fini = end)
{
    struct smoe_agent_options o = options();
    static smoe_real dx[ROWS_MAX * D];
    smoe_real sum[PARAMS] = {0};
    /* x, y and dy of 200 rows fit, what a forward pass saves does not */
    o.tensors_bytes_max = 3 * 200 * D * sizeof(smoe_real) + 1000;
    begin_with(&o);
    decide(1, 0, 200, true);
    run_all();
    cr_assert_eq(count(SMOE_MSG_OUTPUT), 1);
    cr_assert_eq(backprop(1, 200), 0);
    run_all();
    expect_dx(1, 0, 200, sum, dx);
    assert_near((const smoe_real *)(const void *)last(SMOE_MSG_PARCEL_GRADIENT)->raw, dx, 200 * D,
                "dx");
}

Test(agent, throws_away_the_result_of_a_parcel_forgotten_while_it_runs, .init = begin, .fini = end)
{
    uint64_t id = 1;
    struct smoe_message m = {.type = SMOE_MSG_FORGET};
    decide(1, 0, 2, true);
    decide(2, 0, 2, true);
    struct smoe_task *task = start();
    m.forget = (struct smoe_msg_forget){&id, 1};
    say(&m, NULL, 0);
    finish(task);
    cr_assert_eq(count(SMOE_MSG_OUTPUT), 0);
    run_all();
    cr_assert_eq(count(SMOE_MSG_OUTPUT), 1);
    cr_assert_eq(last(SMOE_MSG_OUTPUT)->m.output.parcel, 2);
    cr_assert_eq(decide(1, 0, 2, true), 0, "its number is free again");
}

Test(agent, refuses_a_parcel_number_that_is_taken_and_one_parcel_too_many, .fini = end)
{
    struct smoe_agent_options o = options();
    o.parcels_max = 2;
    begin_with(&o);
    decide(1, 0, 1, true);
    cr_assert_eq(decide(1, 0, 1, true), SMOE_EEXIST);
    cr_assert_str_eq(d.why.text, "DECISION: parcel 1 came twice");
    smoe_agent_disconnected(d.agent);
    far_end_close(&d.far);
    connect_agent();
    host(2);
    cr_assert_eq(decide(1, 0, 1, true), 0);
    cr_assert_eq(decide(2, 0, 1, true), 0);
    cr_assert_eq(decide(3, 0, 1, true), SMOE_ELIMIT);
    cr_assert_str_eq(d.why.text, "DECISION: 2 parcels are held already");
}

/* ---- the step ---- */

/* Weights of expert 0 after one SGD step of 0.5 on the gradient of parcel 1 (2 rows), divided by
 * 2. */
static void expect_stepped(double scale, smoe_real *ret)
{
    smoe_real sum[PARAMS] = {0};
    static smoe_real dx[2 * D];
    expect_dx(1, 0, 2, sum, dx);
    initial_weights(0, ret);
    for (int i = 0; i < PARAMS; i++)
        ret[i] -= (smoe_real)(0.5 * scale / 2 * (double)sum[i]);
}

static void train_one(void)
{
    decide(1, 0, 2, true);
    run_all();
    backprop(1, 2);
    run_all();
}

Test(step, changes_no_weight_before_its_commit_and_all_of_them_with_it, .init = begin, .fini = end)
{
    smoe_real before[PARAMS], after[PARAMS];
    train_one();
    initial_weights(0, before);
    expect_stepped(0.25, after);
    prepare(1, 1);
    run_all();
    const struct smoe_msg_step_norm norm = last(SMOE_MSG_STEP_NORM)->m.step_norm;
    cr_assert_eq(norm.layers[0].n, 2);
    cr_assert_gt(norm.layers[0].square_norms[0], 0);
    cr_assert_eq(norm.layers[0].square_norms[1], 0, "expert 1 has seen nothing");
    cr_assert_eq(count(SMOE_MSG_STEP_STAGED), 0);
    stage(1, 1, 0.25);
    run_all();
    cr_assert_eq(count(SMOE_MSG_STEP_STAGED), 1);
    cr_assert_arr_eq(fetch(0, SMOE_STATE_WEIGHTS), before, sizeof before);
    commit(1, 1);
    assert_near(fetch(0, SMOE_STATE_WEIGHTS), after, PARAMS, "w");
    cr_assert_eq(last(SMOE_MSG_EXPERT_STATE)->m.expert_state.step, 1);
    const smoe_real *gradient = fetch(0, SMOE_STATE_GRADIENT);
    for (int i = 0; i < PARAMS; i++)
        cr_assert_eq(gradient[i], 0);
}

Test(step, says_the_square_norm_of_the_sum_over_the_divisor, .init = begin, .fini = end)
{
    smoe_real sum[PARAMS] = {0}, dx[2 * D];
    double expected = 0;
    train_one();
    expect_dx(1, 0, 2, sum, dx);
    for (int i = 0; i < PARAMS; i++)
        expected += (double)sum[i] * (double)sum[i] / 4;
    prepare(1, 1);
    run_all();
    double said = last(SMOE_MSG_STEP_NORM)->m.step_norm.layers[0].square_norms[0];
    cr_assert_float_eq(said, expected, 1e-5 * expected);
}

Test(step, says_that_a_gradient_is_not_finite, .init = begin, .fini = end)
{
    smoe_real bad[D] = {0, (smoe_real)NAN, 0, 0};
    uint64_t parcel = 1;
    struct smoe_message m = {.type = SMOE_MSG_BACKPROP};
    decide(1, 0, 1, true);
    run_all();
    m.backprop = (struct smoe_msg_backprop){&parcel, 1, ++d.sequence};
    say(&m, bad, sizeof bad);
    run_all();
    prepare(1, 1);
    run_all();
    cr_assert_eq(last(SMOE_MSG_STEP_NORM)->m.step_norm.layers[0].square_norms[0], -1);
}

/* Reset at every point before the commit: the weights are the old ones, the gradient is gone, and
 * the next attempt makes the step as if this one had never been. */
Test(step, that_is_reset_before_its_commit_leaves_nothing_behind)
{
    for (int phase = 0; phase < 5; phase++) {
        smoe_real before[PARAMS], after[PARAMS];
        begin();
        initial_weights(0, before);
        expect_stepped(1, after);
        train_one();
        struct smoe_task *running = NULL;
        if (phase >= 1)
            prepare(1, 1);
        if (phase == 1)
            running = start(); /* a norm is being computed */
        if (phase >= 2)
            run_all();
        if (phase >= 3)
            stage(1, 1, 1);
        if (phase == 3)
            running = start(); /* the new state is half written */
        if (phase >= 4)
            run_all();
        size_t staged = count(SMOE_MSG_STEP_STAGED);
        reset(2);
        if (running)
            finish(running);
        commit(1, 1); /* of the old attempt: means nothing */
        run_all();
        cr_assert_eq(count(SMOE_MSG_STEP_STAGED), staged);
        cr_assert_arr_eq(fetch(0, SMOE_STATE_WEIGHTS), before, sizeof before, "phase %d", phase);
        const smoe_real *gradient = fetch(0, SMOE_STATE_GRADIENT);
        for (int i = 0; i < PARAMS; i++)
            cr_assert_eq(gradient[i], 0, "phase %d", phase);
        train_one();
        prepare(1, 2);
        run_all();
        stage(1, 2, 1);
        run_all();
        commit(1, 2);
        assert_near(fetch(0, SMOE_STATE_WEIGHTS), after, PARAMS, "w");
        end();
    }
}

Test(step, comes_before_any_parcel, .init = begin, .fini = end)
{
    train_one();
    decide(2, 0, 2, true);
    prepare(1, 1);
    struct smoe_task *task = start();
    cr_assert_eq(task->kind, SMOE_TASK_NORM);
    finish(task);
    run_all();
}

Test(step, cannot_begin_while_another_of_the_layer_is_made, .init = begin, .fini = end)
{
    static const uint32_t layers[] = {LAYER};
    struct smoe_message m = {.type = SMOE_MSG_STEP_PREPARE};
    prepare(1, 1);
    m.step_prepare = (struct smoe_msg_step_prepare){.step = 2,
                                                    .attempt = 1,
                                                    .layers = layers,
                                                    .n_layers = 1,
                                                    .gradient_divisor = 1,
                                                    .optimizer = {.kind = SMOE_SGD},
                                                    .owner = 1};
    cr_assert_eq(say(&m, NULL, 0), SMOE_ESTATE);
    cr_assert_str_eq(d.why.text, "STEP_PREPARE: step 1 is neither done nor reset");
}

/* ---- coming back ---- */

Test(agent, keeps_what_is_committed_and_nothing_else_when_the_connection_breaks, .init = begin,
     .fini = end)
{
    smoe_real committed[PARAMS];
    train_one();
    prepare(1, 1);
    run_all();
    stage(1, 1, 1);
    run_all();
    commit(1, 1);
    memcpy(committed, fetch(0, SMOE_STATE_WEIGHTS), sizeof committed);
    decide(5, 0, 2, true); /* uncommitted work, a task of it running */
    struct smoe_task *running = start();
    smoe_agent_disconnected(d.agent);
    while (!smoe_task_slice(running))
        ;
    smoe_agent_task_done(d.agent, running, MS, d.now_ns);
    cr_assert_null(start());
    far_end_close(&d.far);
    connect_agent();
    const struct smoe_inventory_layer held = last(SMOE_MSG_INVENTORY)->m.inventory.layers[0];
    cr_assert_str_eq(held.name, "moe");
    cr_assert_eq(held.run, 9);
    cr_assert_eq(held.step, 1);
    cr_assert_eq(held.attempt, 1);
    cr_assert_eq(held.n_experts, 2);
    host(2);
    cr_assert_arr_eq(fetch(0, SMOE_STATE_WEIGHTS), committed, sizeof committed);
    const smoe_real *gradient = fetch(0, SMOE_STATE_GRADIENT);
    for (int i = 0; i < PARAMS; i++)
        cr_assert_eq(gradient[i], 0);
}

/* The daemon lost the layer and begins it again under the same run, while this worker was away. */
Test(agent, starts_from_the_seed_when_told_to_whatever_it_holds, .init = begin, .fini = end)
{
    smoe_real seeded[PARAMS];
    initial_weights(0, seeded);
    train_one();
    prepare(1, 1);
    run_all();
    stage(1, 1, 1);
    run_all();
    commit(1, 1);
    cr_assert_arr_neq(fetch(0, SMOE_STATE_WEIGHTS), seeded, sizeof seeded);
    smoe_agent_disconnected(d.agent);
    far_end_close(&d.far);
    connect_agent();
    d.committed = false;
    host(2);
    cr_assert_eq(last(SMOE_MSG_HOSTED)->m.hosted.code, 0);
    cr_assert_arr_eq(fetch(0, SMOE_STATE_WEIGHTS), seeded, sizeof seeded);
}

/* After a Restore there may be two steps of one number. */
Test(agent, does_not_count_a_step_of_another_attempt_as_the_one_it_is_told_of, .init = begin,
     .fini = end)
{
    static const uint32_t experts[] = {0, 1};
    train_one();
    prepare(1, 1);
    run_all();
    stage(1, 1, 1);
    run_all();
    commit(1, 1);
    for (uint64_t attempt = 1; attempt <= 2; attempt++) {
        struct smoe_message m = {.type = SMOE_MSG_HOST};
        m.host = (struct smoe_msg_host){.layer = LAYER,
                                        .name = "moe",
                                        .run = 9,
                                        .shape = shape(),
                                        .experts = experts,
                                        .n_experts = 2,
                                        .step = 1,
                                        .attempt = attempt};
        cr_assert_eq(say(&m, NULL, 0), 0);
        smoe_agent_disconnected(d.agent);
        far_end_close(&d.far);
        connect_agent();
        const struct smoe_inventory_layer held = last(SMOE_MSG_INVENTORY)->m.inventory.layers[0];
        cr_assert_eq(held.step, 1);
        cr_assert_eq(held.attempt, attempt);
        cr_assert_eq(held.n_experts, attempt == 1 ? 2 : 0);
    }
}

Test(agent, drops_the_experts_it_is_told_to_and_refuses_what_does_not_fit, .fini = end)
{
    struct smoe_agent_options o = options();
    uint64_t expert_bytes = 5 * PARAMS * sizeof(smoe_real); /* SGD: now, staged, gradient */
    o.experts_bytes_max = 2 * expert_bytes + 200;
    begin_with(&o);
    host(3);
    cr_assert_eq(last(SMOE_MSG_HOSTED)->m.hosted.code, SMOE_ENOMEMORY);
    cr_assert_gt(strlen(last(SMOE_MSG_HOSTED)->m.hosted.message), 10, "it says how much");
    host(1);
    cr_assert_eq(last(SMOE_MSG_HOSTED)->m.hosted.code, 0);
    cr_assert_eq(decide(1, 1, 1, false), SMOE_EUNKNOWN);
}

/* ---- reports ---- */

Test(agent, reports_what_is_queued_and_what_is_done_in_flops, .init = begin, .fini = end)
{
    const uint64_t visit = smoe_task_forward_flops(&ffn);
    struct smoe_msg_report r;
    cr_assert_eq(visit, 2 * 2 * D * H);
    decide(1, 0, 5, true);
    decide(2, 1, 3, true);
    smoe_agent_counters(d.agent, &r);
    cr_assert_eq(r.queue_forward_flops, 8 * visit);
    cr_assert_eq(r.sequence, d.sequence);
    run_all();
    backprop(1, 5);
    smoe_agent_counters(d.agent, &r);
    cr_assert_eq(r.queue_forward_flops, 0);
    cr_assert_eq(r.queue_backward_flops, 2 * 5 * visit);
    cr_assert_eq(r.forward_flops, 8 * visit);
    cr_assert_eq(r.forward_visits, 8);
    cr_assert_eq(r.busy_ns, 2 * MS);
    cr_assert_eq(r.cycles, 2 * MS, "at 1 GHz nominal");
}

Test(agent, counts_cycles_at_the_frequency_that_was_in_force, .init = begin, .fini = end)
{
    struct smoe_msg_report r;
    smoe_agent_set_cycles_hz(d.agent, 0.25e9);
    smoe_agent_set_driver(d.agent, 250000, 240000, "rounds");
    decide(1, 0, 5, true);
    run_all();
    smoe_agent_counters(d.agent, &r);
    cr_assert_eq(r.busy_ns, MS);
    cr_assert_eq(r.cycles, MS / 4);
    cr_assert_eq(r.freq_requested_khz, 250000);
    cr_assert_eq(r.freq_achieved_khz, 240000);
    cr_assert_str_eq(r.driver_note, "rounds");
}

/* The model stands in for a meter: the gateway is to learn from what it reads, not to be told. */
Test(agent, a_model_meter_is_noisy_right_on_average_and_keeps_its_parameters_to_itself, .fini = end)
{
    struct smoe_agent_options o = options();
    struct smoe_msg_report r;
    double before = 0, squares = 0, each = 5e-3; /* 5 W for a millisecond a task */
    o.busy_watts = 5;
    o.model_noise = 0.1;
    begin_with(&o);
    cr_assert_eq(last(SMOE_MSG_HELLO)->m.hello.busy_watts, 0);
    for (uint64_t i = 1; i <= 400; i++) {
        decide(i, 0, 1, false);
        run_all();
        smoe_agent_counters(d.agent, &r);
        double off = (r.joules - before) / each - 1;
        cr_assert_lt(fabs(off), 0.18, "uniform noise is bounded: %g", off);
        squares += off * off / 400;
        before = r.joules;
    }
    cr_assert_str_eq(r.energy_source, "model");
    cr_assert_float_eq(r.joules, 400 * each, 0.02 * 400 * each);
    cr_assert_float_eq(sqrt(squares), 0.1, 0.01);
}

Test(agent, says_what_it_draws_where_a_real_meter_measures_it, .fini = end)
{
    struct smoe_agent_options o = options();
    o.busy_watts = 5;
    strcpy(o.energy_source, "rapl");
    begin_with(&o);
    cr_assert_eq(last(SMOE_MSG_HELLO)->m.hello.busy_watts, 5);
}

Test(agent, reports_when_another_frequency_comes_into_force, .init = begin, .fini = end)
{
    smoe_agent_tick(d.agent, d.now_ns);
    read_all();
    size_t before = count(SMOE_MSG_REPORT);
    smoe_agent_set_freq(d.agent, 400000, 1e9);
    smoe_agent_tick(d.agent, d.now_ns);
    smoe_agent_set_freq(d.agent, 400000, 1e9); /* no other one */
    smoe_agent_tick(d.agent, d.now_ns);
    read_all();
    cr_assert_eq(count(SMOE_MSG_REPORT), before + 1);
}

Test(agent, wants_the_frequency_that_this_gateway_decided_and_none_before, .init = begin,
     .fini = end)
{
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    m.decision = (struct smoe_msg_decision){++d.sequence, d.epoch, 700000, NULL, 0};
    cr_assert_eq(say(&m, NULL, 0), 0);
    cr_assert_eq(smoe_agent_freq_wanted_khz(d.agent), 700000);
    smoe_agent_disconnected(d.agent);
    far_end_close(&d.far);
    d.epoch++;
    connect_agent();
    cr_assert_eq(smoe_agent_freq_wanted_khz(d.agent), 0);
}

Test(agent, reports_once_a_slot_while_it_works_and_seldom_when_idle, .init = begin, .fini = end)
{
    smoe_agent_tick(d.agent, d.now_ns);
    read_all();
    size_t before = count(SMOE_MSG_REPORT);
    decide(1, 0, 5, true);
    uint64_t due = smoe_agent_wake_ns(d.agent);
    smoe_agent_tick(d.agent, due - 1);
    read_all();
    cr_assert_eq(count(SMOE_MSG_REPORT), before);
    smoe_agent_tick(d.agent, due);
    read_all();
    cr_assert_eq(count(SMOE_MSG_REPORT), before + 1);
    cr_assert_leq(due - d.now_ns, 20 * MS);
    d.now_ns = due;
    run_all();
    cr_assert_eq(smoe_agent_wake_ns(d.agent) - due, 250 * MS, "a quarter of the silence");
}

/* ---- frozen routers ---- */

static int tell_router(uint32_t layer, uint64_t version)
{
    struct smoe_message m = {.type = SMOE_MSG_ROUTER_STATE};
    m.router_state = (struct smoe_msg_router_state){
        1, layer, {version, version ? SMOE_FROZEN_TABLE : 0, version ? 5 : 0, 77 * version}};
    return say(&m, NULL, 0);
}

static struct smoe_frozen_head router_of_moe(void)
{
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++) {
        struct smoe_frozen_head head;
        const char *name = smoe_agent_router(d.agent, l, &head);
        if (name && strcmp(name, "moe") == 0)
            return head;
    }
    cr_assert(false, "no layer moe");
    return (struct smoe_frozen_head){.version = 0};
}

Test(agent, asks_which_router_is_in_force_and_keeps_the_answer, .init = begin, .fini = end)
{
    cr_assert_eq(router_of_moe().version, 0);
    smoe_agent_ask_routers(d.agent);
    read_all();
    cr_assert_eq(count(SMOE_MSG_ROUTER_QUERY), 1);
    cr_assert_eq(last(SMOE_MSG_ROUTER_QUERY)->m.router_query.layer, LAYER);
    cr_assert_eq(tell_router(LAYER, 3), 0);
    struct smoe_frozen_head head = router_of_moe();
    cr_assert(head.version == 3 && head.kind == SMOE_FROZEN_TABLE && head.inputs == 5 &&
              head.digest == 231);
    cr_assert_eq(tell_router(LAYER + 1, 4), 0, "of a layer that is not held: nobody asked");
    cr_assert_eq(router_of_moe().version, 3);
    smoe_agent_disconnected(d.agent);
    smoe_agent_ask_routers(d.agent);
    cr_assert_eq(router_of_moe().version, 3, "until it is heard otherwise");
}
