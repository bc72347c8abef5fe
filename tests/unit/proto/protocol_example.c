/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints every frame of a small training session between a real gateway, two real workers and a trainer
 * that says what it says here: the worked example of docs/protocol.md, which a test compares with this
 * program's output. The layer is so small that no sum has two terms: the bytes are the same on every
 * machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent.h"
#include "common/base/assert.h"
#include "daemon/gateway/gateway.h"
#include "proto/frame.h"
#include "tests/unit/proto/messages.h"

static struct smoe_gateway *gateway;
static struct worker {
    struct smoe_agent *agent;
    uint32_t session;
    smoe_name id;
} workers[2] = {{.id = "pi-1"}, {.id = "pi-2"}};
static struct smoe_wire *wire;
static uint64_t now_ns = 1;
static uint32_t trainer_session;
#define EPOCH   1
#define ATTEMPT (((uint64_t)EPOCH << 32) + 1) /* the first that the daemon gives */

/* ---- printing ---- */

static void print_hex(const char *what, const uint8_t *bytes, size_t n, const size_t *groups)
{
    enum { PER_LINE = 36 };
    if (n)
        printf("    %s", what);
    for (size_t i = 0, group = 0; i < n; i++) {
        if (i && i % PER_LINE == 0 && !groups)
            printf("\n        ");
        bool gap = groups ? i == group : i % 4 == 0;
        if (groups && i == group)
            group += *groups++;
        printf("%s%02x", gap ? " " : "", bytes[i]);
    }
    if (n)
        printf("\n");
}

static void print_number(const struct messages_field *f, const uint8_t *at)
{
    uint64_t u64 = 0;
    int32_t i32;
    double f64;
    switch (f->kind) {
    case MESSAGES_I32:
        memcpy(&i32, at, sizeof i32);
        printf(" %d", i32);
        break;
    case MESSAGES_F64:
    case MESSAGES_FRACTION:
        memcpy(&f64, at, sizeof f64);
        printf(" %.9g", f64);
        break;
    case MESSAGES_NAME:
    case MESSAGES_TEXT:
        printf(" \"%s\"", (const char *)at);
        break;
    case MESSAGES_BOOL:
        break; /* its name says it */
    case MESSAGES_U32:
    case MESSAGES_ENUM:
        memcpy(&u64, at, sizeof(uint32_t));
        printf(" %llu", (unsigned long long)u64);
        break;
    case MESSAGES_U64:
        memcpy(&u64, at, sizeof u64);
        printf(" %llu", (unsigned long long)u64);
        break;
    }
}

static bool is_zero(const struct messages_field *f, const uint8_t *at)
{
    static const uint8_t zeros[8];
    size_t bytes =
        f->kind == MESSAGES_NAME || f->kind == MESSAGES_TEXT || f->kind == MESSAGES_BOOL ? 1
        : f->kind == MESSAGES_U32 || f->kind == MESSAGES_ENUM || f->kind == MESSAGES_I32 ? 4
                                                                                         : 8;
    return memcmp(at, zeros, bytes) == 0;
}

static void print_lists(const struct smoe_message *m)
{
    switch ((unsigned)m->type) {
    case SMOE_MSG_HOST:
        for (size_t i = 0; i < m->host.n_experts; i++)
            printf("%s%u", i ? "," : ", experts ", m->host.experts[i]);
        for (size_t i = 0; i < m->host.n_copies; i++)
            printf("%s%u", i ? "," : ", copies ", m->host.copies[i]);
        break;
    case SMOE_MSG_DECISION:
        for (size_t i = 0; i < m->decision.n_parcels; i++) {
            const struct smoe_parcel_head *p = &m->decision.parcels[i];
            printf(", parcel {id %llu, layer %u, expert %u, rows %u%s}", (unsigned long long)p->id,
                   p->layer, p->expert, p->rows, p->keep ? ", keep" : "");
        }
        break;
    case SMOE_MSG_BACKPROP:
        for (size_t i = 0; i < m->backprop.n_parcels; i++)
            printf("%s%llu", i ? "," : ", parcels ", (unsigned long long)m->backprop.parcels[i]);
        break;
    case SMOE_MSG_STEP:
        for (size_t i = 0; i < m->step.n_batches; i++)
            printf("%s%llu", i ? "," : ", batches ", (unsigned long long)m->step.batches[i]);
        break;
    case SMOE_MSG_STEP_PREPARE:
        for (size_t i = 0; i < m->step_prepare.n_layers; i++)
            printf("%s%u", i ? "," : ", layers ", m->step_prepare.layers[i]);
        for (size_t i = 0; i < m->step_prepare.n_gradients; i++)
            for (size_t e = 0; e < m->step_prepare.gradients[i].n; e++)
                printf(", gradient of layer %u expert %u", m->step_prepare.gradients[i].layer,
                       m->step_prepare.gradients[i].experts[e]);
        break;
    case SMOE_MSG_STEP_NORM:
        for (size_t i = 0; i < m->step_norm.n_layers; i++)
            for (size_t e = 0; e < m->step_norm.layers[i].n; e++)
                printf(", layer %u expert %u: %.9g", m->step_norm.layers[i].layer,
                       m->step_norm.layers[i].experts[e], m->step_norm.layers[i].square_norms[e]);
        break;
    default:
        break;
    }
}

static void print_fields(const struct smoe_message *m)
{
    bool any = false;
    for (size_t i = 0; i < messages_n_fields; i++) {
        const struct messages_field *f = &messages_fields[i];
        const uint8_t *at = (const uint8_t *)m + f->offset;
        if (f->type != m->type || is_zero(f, at))
            continue;
        const char *name = strchr(strchr(f->name, '.') + 1, '.') + 1;
        printf("%s%s", any ? ", " : "    ", name);
        print_number(f, at);
        any = true;
    }
    if (!any)
        printf("    no fields");
    print_lists(m);
    printf("\n");
}

static void print_frame(const char *from, const char *to, const uint8_t *bytes, size_t body_bytes,
                        size_t tensor_bytes)
{
    static const size_t groups[] = {4, 1, 1, 2, 4, 4, 4};
    struct smoe_frame_header h;
    struct smoe_message m;
    struct smoe_why why;
    const uint8_t *body = bytes + SMOE_FRAME_HEADER_BYTES;
    smoe_assert(smoe_frame_decode(bytes, &h, &why) == 0);
    smoe_assert(smoe_wire_decode(wire, h.type, body, body_bytes, &m, &why) == 0);
    printf("%s -> %s  %s\n", from, to, smoe_message_name(h.type));
    print_fields(&m);
    print_hex("head", bytes, SMOE_FRAME_HEADER_BYTES, groups);
    print_hex("body", body, body_bytes, NULL);
    print_hex("raw ", body + body_bytes, tensor_bytes, NULL);
    printf("\n");
}

static void print_stream(const char *from, const char *to, const uint8_t *bytes, size_t n)
{
    struct smoe_frame_header h;
    struct smoe_why why;
    for (size_t at = 0; at < n;) {
        smoe_assert(smoe_frame_decode(bytes + at, &h, &why) == 0);
        print_frame(from, to, bytes + at, h.body_bytes, h.tensor_bytes);
        at += SMOE_FRAME_HEADER_BYTES + h.body_bytes + h.tensor_bytes;
    }
}

/* ---- carrying ---- */

static size_t copy_out(const struct iovec *iovecs, size_t n, uint8_t *ret)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(ret + bytes, iovecs[i].iov_base, iovecs[i].iov_len);
        bytes += iovecs[i].iov_len;
    }
    return bytes;
}

/* What the gateway has to say to a session. */
static size_t from_gateway(uint32_t session, uint8_t *ret)
{
    struct iovec iovecs[64];
    size_t bytes = copy_out(iovecs, smoe_gateway_peek(gateway, session, iovecs, 64), ret);
    smoe_gateway_consume(gateway, session, bytes);
    return bytes;
}

static size_t from_agent(struct smoe_agent *agent, uint8_t *ret)
{
    struct iovec iovecs[64];
    size_t bytes = copy_out(iovecs, smoe_agent_peek(agent, iovecs, 64), ret);
    smoe_agent_consume(agent, bytes);
    return bytes;
}

static void run_tasks(struct smoe_agent *agent)
{
    static smoe_real scratch[100000];
    struct smoe_task *task;
    smoe_assert(smoe_agent_scratch_elements(agent) <= 100000);
    while ((task = smoe_agent_next_task(agent, scratch))) {
        while (!smoe_task_slice(task))
            ;
        smoe_agent_task_done(agent, task, 1000, now_ns);
    }
}

/* What the worker hears and says now; false if that is nothing. */
static bool serve_worker(struct worker *w)
{
    static uint8_t bytes[1 << 16];
    struct smoe_why why;
    size_t heard = from_gateway(w->session, bytes);
    print_stream("daemon", w->id, bytes, heard);
    smoe_assert(!heard || smoe_agent_received(w->agent, bytes, heard, now_ns, &why) == 0);
    run_tasks(w->agent);
    size_t said = from_agent(w->agent, bytes);
    print_stream(w->id, "daemon", bytes, said);
    smoe_gateway_received(gateway, w->session, bytes, said, now_ns);
    return heard || said;
}

/* Carries bytes between all of them until nobody has anything to say. */
static void settle(void)
{
    static uint8_t bytes[1 << 16];
    for (bool more = true; more;) {
        more = serve_worker(&workers[0]);
        more |= serve_worker(&workers[1]);
        size_t to_trainer = from_gateway(trainer_session, bytes);
        print_stream("daemon", "trainer", bytes, to_trainer);
        more |= to_trainer > 0;
    }
}

static void say(const struct smoe_message *m, const void *raw, size_t raw_bytes)
{
    static uint8_t bytes[4096];
    struct smoe_frame_header h = {.type = (uint16_t)m->type, .tensor_bytes = (uint32_t)raw_bytes};
    const uint8_t *body;
    size_t n;
    smoe_assert(smoe_wire_encode(wire, m, &body, &n) == 0);
    h.body_bytes = (uint32_t)n;
    smoe_frame_encode(&h, bytes);
    memcpy(bytes + SMOE_FRAME_HEADER_BYTES, body, n);
    if (raw_bytes)
        memcpy(bytes + SMOE_FRAME_HEADER_BYTES + n, raw, raw_bytes);
    print_frame("trainer", "daemon", bytes, n, raw_bytes);
    smoe_gateway_received(gateway, trainer_session, bytes, SMOE_FRAME_HEADER_BYTES + n + raw_bytes,
                          now_ns);
    settle();
}

/* ---- the session ---- */

static void start_gateway(void)
{
    struct smoe_why why;
    struct smoe_gateway_options g = {
        .core = {.limits = {4, 4, 16, 64, 64},
                 .settings = {.slot_ns = 20000000,
                              .v = 20,
                              .mu = 1,
                              .workers_min = 2,
                              .copies = 2,
                              .silence_ns = 1000000000,
                              .worker_lease_ns = 1000000000,
                              .trainer_lease_ns = 1000000000,
                              .window_bytes = 1 << 20,
                              .window_visits = 1000,
                              .iteration_bytes_max = 1 << 24},
                 .epoch = EPOCH,
                 .now_ns = now_ns,
                 .software = "stablemoed",
                 .tensor_bytes_max = 1 << 20},
        .tensors_bytes_max = 1 << 24,
        .outbox_bytes_max = 1 << 24,
        .hello_timeout_ns = 1000000000,
    };
    smoe_assert(smoe_wire_new(&wire) == 0 && smoe_gateway_new(&g, &gateway, &why) == 0);
}

static void start_worker(struct worker *w, uint64_t incarnation)
{
    struct smoe_why why;
    struct smoe_agent_options o = {.incarnation = incarnation,
                                   .software = "stablemoe-worker",
                                   .lanes = 1,
                                   .freq_nominal_hz = 1e9,
                                   .freq_max_hz = 1e9,
                                   .freq_driver = "null",
                                   .experts_bytes_max = 1 << 20,
                                   .tensors_bytes_max = 1 << 22,
                                   .inbox_bytes_max = 1 << 20};
    memcpy(o.id, w->id, sizeof o.id);
    smoe_assert(smoe_agent_new(&o, &w->agent, &why) == 0);
    smoe_assert(smoe_gateway_opened(gateway, now_ns, &w->session) == 0);
    smoe_agent_connected(w->agent, now_ns);
}

static void start(void)
{
    start_gateway();
    start_worker(&workers[0], 0x0102030405060708);
    start_worker(&workers[1], 0x1112131415161718);
    smoe_assert(smoe_gateway_opened(gateway, now_ns, &trainer_session) == 0);
    settle();
}

static void train(void)
{
    static const float scores_and_x[] = {0.75f, 0.25f, /* x */ 1.5f}, dy[] = {0.5f, -1.0f};
    static const uint64_t batches[] = {1};
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){.protocol_min = 1,
                                      .protocol_max = 1,
                                      .role = SMOE_ROLE_TRAINER,
                                      .name = "run-a",
                                      .incarnation = 0xfeedface,
                                      .software = "example"};
    say(&m, NULL, 0);
    m = (struct smoe_message){.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){
        .request = 7,
        .name = "moe",
        .run = 0xabcdef,
        .shape = {.experts = 2,
                  .d_model = 1,
                  .d_ff = 1,
                  .activation = 1,
                  .dtype = SMOE_DTYPE_F32,
                  .optimizer = 1,
                  .seed = 16,
                  .zero_output = true},
    };
    say(&m, NULL, 0);
    m = (struct smoe_message){.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){
        .batch = 1, .attempt = ATTEMPT, .tokens = 1, .top_k = 2, .needs_gradient = true};
    say(&m, scores_and_x, sizeof scores_and_x);
    m = (struct smoe_message){.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){1, ATTEMPT};
    say(&m, dy, sizeof dy);
    m = (struct smoe_message){.type = SMOE_MSG_STEP};
    m.step = (struct smoe_msg_step){.step = 1,
                                    .attempt = ATTEMPT,
                                    .batches = batches,
                                    .n_batches = 1,
                                    .optimizer = {.kind = 1, .learning_rate = 0.5},
                                    .gradient_divisor = 2};
    say(&m, NULL, 0);
    m = (struct smoe_message){.type = SMOE_MSG_EXPERT_FETCH};
    m.expert_fetch = (struct smoe_msg_expert_fetch){8, 0, 0, 1};
    say(&m, NULL, 0);
    m = (struct smoe_message){.type = SMOE_MSG_BYE};
    say(&m, NULL, 0);
}

int main(void)
{
    start();
    train();
    smoe_gateway_check(gateway);
    for (int w = 0; w < 2; w++) {
        smoe_agent_disconnected(workers[w].agent);
        smoe_agent_free(workers[w].agent);
    }
    smoe_gateway_free(gateway);
    smoe_wire_free(wire);
    return 0;
}
