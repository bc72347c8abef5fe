/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/agent/crew.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPOCH \
    100 /* of every word of the gateway: the steps' own are not what these tests are about */

static const uint32_t layers[] = {CREW_LAYER};

struct smoe_agent_options crew_options(void)
{
    return (struct smoe_agent_options){.id = "w",
                                       .incarnation = 3,
                                       .software = "crew",
                                       .lanes = 1,
                                       .freq_nominal_hz = 1e9,
                                       .freq_max_hz = 1e9,
                                       .freq_driver = "null",
                                       .experts_bytes_max = 1 << 20,
                                       .tensors_bytes_max = 1 << 20,
                                       .inbox_bytes_max = 1 << 20};
}

struct smoe_layer_shape crew_shape(void)
{
    return (struct smoe_layer_shape){.experts = CREW_EXPERTS,
                                     .d_model = CREW_D,
                                     .d_ff = CREW_H,
                                     .activation = SMOE_GELU,
                                     .dtype =
                                         sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                                     .optimizer = SMOE_ADAMW,
                                     .seed = 11};
}

/* ---- transport ---- */

static void read_all(struct member *m)
{
    struct iovec iovec;
    while (smoe_agent_peek(m->agent, &iovec, 1)) {
        far_end_hear(&m->far, iovec.iov_base, iovec.iov_len);
        smoe_agent_consume(m->agent, iovec.iov_len);
    }
}

int member_say(struct member *m, const struct smoe_message *message, const void *raw,
               size_t raw_bytes)
{
    far_end_say(&m->far, message, raw, raw_bytes);
    int rc = smoe_agent_received(m->agent, m->far.out, m->far.n_out, m->now_ns, &m->why);
    smoe_agent_check(m->agent);
    read_all(m);
    return rc;
}

void member_connect(struct member *m)
{
    struct smoe_message welcome = {.type = SMOE_MSG_WELCOME};
    welcome.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                                .epoch = EPOCH,
                                                .slot_us = 20000,
                                                .tensor_bytes_max = 1 << 20,
                                                .silence_ms_max = 1000,
                                                .attempt = 1};
    far_end_open(&m->far, SMOE_BY_WORKER);
    smoe_agent_connected(m->agent, m->now_ns);
    read_all(m);
    cr_assert_eq(member_say(m, &welcome, NULL, 0), 0, "%s", m->why.text);
}

void member_disconnect(struct member *m)
{
    smoe_agent_disconnected(m->agent);
    smoe_agent_check(m->agent);
    far_end_close(&m->far);
}

void member_begin(struct member *m, const struct smoe_agent_options *options)
{
    memset(m, 0, sizeof *m);
    m->now_ns = 1000000000;
    cr_assert_eq(smoe_agent_new(options, &m->agent, &m->why), 0);
    member_connect(m);
}

void member_end(struct member *m)
{
    smoe_agent_free(m->agent);
    if (m->far.wire)
        far_end_close(&m->far);
    free(m->scratch);
}

const struct letter *member_last(const struct member *m, enum smoe_message_type type)
{
    const struct letter *l = mail_last(&m->far.mail, ANYONE, type);
    cr_assert_not_null(l, "it has said no %s", smoe_message_name((uint16_t)type));
    return l;
}

size_t member_count(const struct member *m, enum smoe_message_type type)
{
    return mail_count(&m->far.mail, ANYONE, type);
}

/* ---- tasks ---- */

struct smoe_task *member_start(struct member *m)
{
    size_t need = smoe_agent_scratch_elements(m->agent);
    if (need > m->scratch_elements) {
        free(m->scratch);
        m->scratch = calloc(need, sizeof *m->scratch);
        cr_assert_not_null(m->scratch);
        m->scratch_elements = need;
    }
    struct smoe_task *task = smoe_agent_next_task(m->agent, m->scratch);
    smoe_agent_check(m->agent);
    read_all(m);
    return task;
}

void member_finish(struct member *m, struct smoe_task *task)
{
    while (!smoe_task_slice(task))
        ;
    m->now_ns += 1000000;
    smoe_agent_task_done(m->agent, task, 1000000, m->now_ns);
    smoe_agent_check(m->agent);
    read_all(m);
}

void member_run(struct member *m)
{
    for (struct smoe_task *task = member_start(m); task; task = member_start(m))
        member_finish(m, task);
}

void member_make(struct member *m)
{
    struct smoe_task *task;
    while (smoe_agent_experts(m->agent)->n_to_make && (task = member_start(m))) {
        cr_assert_eq(task->kind, SMOE_TASK_MAKE, "what is new comes first");
        member_finish(m, task);
    }
}

/* ---- what a gateway says ---- */

int member_host(struct member *m, const struct crew_host *host)
{
    struct smoe_message message = {.type = SMOE_MSG_HOST};
    message.host = (struct smoe_msg_host){.layer = CREW_LAYER,
                                          .name = "moe",
                                          .run = 9,
                                          .shape = crew_shape(),
                                          .experts = host->experts,
                                          .n_experts = host->n_experts,
                                          .copies = host->copies,
                                          .n_copies = host->n_copies,
                                          .step = host->step,
                                          .attempt = host->attempt,
                                          .fresh = host->fresh};
    size_t before = member_count(m, SMOE_MSG_HOSTED);
    cr_assert_eq(member_say(m, &message, NULL, 0), 0, "%s", m->why.text);
    member_make(m);
    cr_assert_eq(member_count(m, SMOE_MSG_HOSTED), before + 1);
    return member_last(m, SMOE_MSG_HOSTED)->m.hosted.code;
}

void crew_rows(uint64_t parcel, uint32_t rows, bool dy, smoe_real *ret)
{
    for (uint32_t i = 0; i < rows * CREW_D; i++)
        ret[i] = (smoe_real)sin((double)(parcel * 131 + i * 7) + dy);
}

static int decide(struct member *m, const struct smoe_parcel_head *head)
{
    static smoe_real x[CREW_ROWS_MAX * CREW_D];
    struct smoe_message message = {.type = SMOE_MSG_DECISION};
    message.decision = (struct smoe_msg_decision){++m->sequence, EPOCH, 0, head, 1};
    crew_rows(head->id, head->rows, false, x);
    return member_say(m, &message, x, head->rows * CREW_D * sizeof *x);
}

int member_decide(struct member *m, uint64_t parcel, uint32_t expert, uint32_t rows, bool keep)
{
    struct smoe_parcel_head head = {parcel, CREW_LAYER, expert, rows, keep, false, 0};
    return decide(m, &head);
}

int member_decide_of(struct member *m, uint64_t parcel, uint32_t rows, uint64_t step, bool older)
{
    struct smoe_parcel_head head = {parcel, CREW_LAYER, 0, rows, true, older, step};
    return decide(m, &head);
}

int member_backprop(struct member *m, uint64_t parcel, uint32_t rows)
{
    static smoe_real dy[CREW_ROWS_MAX * CREW_D];
    struct smoe_message message = {.type = SMOE_MSG_BACKPROP};
    message.backprop = (struct smoe_msg_backprop){&parcel, 1, ++m->sequence};
    crew_rows(parcel, rows, true, dy);
    return member_say(m, &message, dy, rows * CREW_D * sizeof *dy);
}

int member_inputs(struct member *m, uint64_t parcel, uint32_t rows)
{
    static smoe_real x[CREW_ROWS_MAX * CREW_D];
    struct smoe_message message = {.type = SMOE_MSG_PARCEL_INPUTS};
    message.parcel_inputs = (struct smoe_msg_parcel_inputs){&parcel, 1};
    crew_rows(parcel, rows, false, x);
    return member_say(m, &message, x, rows * CREW_D * sizeof *x);
}

static int say_prepare(struct member *m, uint64_t step, uint64_t attempt,
                       const struct smoe_layer_experts *wanted,
                       const struct smoe_layer_hosts *hosts)
{
    struct smoe_message message = {.type = SMOE_MSG_STEP_PREPARE};
    message.step_prepare = (struct smoe_msg_step_prepare){
        .step = step,
        .attempt = attempt,
        .layers = layers,
        .n_layers = 1,
        .gradient_divisor = 3,
        .optimizer = {.kind = SMOE_ADAMW,
                      .learning_rate = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .epsilon = 1e-8,
                      .weight_decay = 0.1},
        .owner = 0,
        .gradients = wanted,
        .n_gradients = wanted && wanted->n > 0,
        .hosts = hosts,
        .n_hosts = hosts != NULL,
    };
    return member_say(m, &message, NULL, 0);
}

int member_prepare(struct member *m, uint64_t step, uint64_t attempt, const uint32_t *gradients,
                   size_t n)
{
    struct smoe_layer_experts wanted = {.layer = CREW_LAYER, .experts = gradients, .n = n};
    return say_prepare(m, step, attempt, &wanted, NULL);
}

int member_prepare_shared(struct member *m, uint64_t step, uint64_t attempt,
                          const struct smoe_layer_hosts *hosts)
{
    return say_prepare(m, step, attempt, NULL, hosts);
}

int member_stage(struct member *m, uint64_t step, uint64_t attempt, double scale)
{
    struct smoe_message message = {.type = SMOE_MSG_STEP_STAGE};
    message.step_stage = (struct smoe_msg_step_stage){step, attempt, scale, 0};
    return member_say(m, &message, NULL, 0);
}

int member_commit(struct member *m, uint64_t step, uint64_t attempt)
{
    struct smoe_message message = {.type = SMOE_MSG_STEP_COMMIT};
    message.step_commit = (struct smoe_msg_step_commit){step, attempt, EPOCH, 0};
    return member_say(m, &message, NULL, 0);
}

int member_reset(struct member *m, uint64_t attempt)
{
    struct smoe_message message = {.type = SMOE_MSG_RESET};
    message.reset = (struct smoe_msg_reset){layers, 1, attempt};
    return member_say(m, &message, NULL, 0);
}

int crew_pass_gradient(const struct member *from, struct member *to, uint32_t expert)
{
    for (size_t i = from->far.mail.n; i > 0; i--) {
        const struct letter *l = &from->far.mail.letters[i - 1];
        if (l->m.type == SMOE_MSG_STEP_GRADIENT && l->m.step_gradient.expert == expert)
            return member_say(to, &l->m, l->raw, l->raw_bytes);
    }
    cr_assert(false, "no sum of expert %u was sent", expert);
    return 0;
}

struct crew_state member_state(struct member *m, uint32_t expert)
{
    struct crew_state state;
    struct smoe_message message = {.type = SMOE_MSG_EXPERT_FETCH};
    message.expert_fetch = (struct smoe_msg_expert_fetch){1, CREW_LAYER, expert,
                                                          SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS};
    cr_assert_eq(member_say(m, &message, NULL, 0), 0, "%s", m->why.text);
    const struct letter *l = member_last(m, SMOE_MSG_EXPERT_STATE);
    cr_assert_eq(l->raw_bytes, sizeof state.values);
    memcpy(state.values, l->raw, sizeof state.values);
    state.step = l->m.expert_state.step;
    return state;
}

int member_store(struct member *m, uint32_t expert, const struct crew_state *state,
                 uint64_t attempt)
{
    struct smoe_message message = {.type = SMOE_MSG_EXPERT_STORE};
    message.expert_store = (struct smoe_msg_expert_store){
        2, CREW_LAYER, expert, SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS, state->step, attempt};
    return member_say(m, &message, state->values, sizeof state->values);
}
