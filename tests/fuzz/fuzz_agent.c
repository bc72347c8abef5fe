/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's machine against a gateway that the tape plays: mostly well-formed messages about a few
 * layers, experts and parcels, in any order and with any number now and then wrong, and frames or
 * bytes as they lie on the tape. Tasks start and end when the tape says, so that messages meet experts
 * at work. After every operation the machine's invariants hold, and everything it says decodes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/worker/agent/agent.h"
#include "common/base/assert.h"
#include "proto/channel.h"
#include "tests/fuzz/stream.h"

enum { LANES = 2, PARCELS = 32, LAYERS = 4, EXPERTS = 8 };

/* What the gateway on the tape remembers, to get sizes right. */
struct parcel {
    uint64_t id;
    uint32_t rows, layer;
};

struct scene {
    struct fuzz_input *in;
    struct smoe_agent *agent;
    struct smoe_wire *wire;
    struct smoe_channel ear; /* hears what the agent says */
    bool connected;
    uint64_t now_ns;
    struct smoe_layer_shape shapes[LAYERS];
    struct parcel parcels[PARCELS];
    uint32_t n_parcels;
    uint64_t sequence;
    struct smoe_task *tasks[LANES];
    smoe_real *scratch[LANES];
};

/* For the author of a seed: FUZZ_TRACE=1 tells what the agent says, and why it hangs up. */
static void trace(const char *what)
{
    if (getenv("FUZZ_TRACE"))
        fprintf(stderr, "  %s\n", what);
}

/* ---- what the agent says ---- */

static int ear_expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                      struct smoe_why *why)
{
    (void)context, (void)m, (void)tensor_bytes, (void)why;
    return 0;
}

/* A parcel that was sent to it, if it was not too long ago to be remembered. */
static bool knows(const struct scene *s, uint64_t id, size_t bytes)
{
    for (uint32_t i = 0; i < PARCELS; i++)
        if (s->parcels[i].id == id && bytes % (s->parcels[i].rows * sizeof(smoe_real)) == 0)
            return true;
    return s->n_parcels >= PARCELS;
}

static int ear_deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                       struct smoe_why *why)
{
    struct scene *s = context;
    (void)why;
    trace(m->type == SMOE_MSG_HOSTED && m->hosted.code ? m->hosted.message
                                                       : smoe_message_name((uint16_t)m->type));
    switch ((unsigned)m->type) {
    case SMOE_MSG_OUTPUT:
        smoe_assert(knows(s, m->output.parcel, blob->bytes));
        break;
    case SMOE_MSG_PARCEL_GRADIENT:
        smoe_assert(knows(s, m->parcel_gradient.parcel, blob->bytes));
        break;
    case SMOE_MSG_EVICTED:
        for (size_t i = 0; i < m->evicted.n_parcels; i++) {
            smoe_assert(knows(s, m->evicted.parcels[i], 0));
            if (getenv("FUZZ_TRACE"))
                fprintf(stderr, "    %llu\n", (unsigned long long)m->evicted.parcels[i]);
        }
        break;
    case SMOE_MSG_HOSTED:
        smoe_assert((m->hosted.code == 0) == !m->hosted.message[0]);
        break;
    case SMOE_MSG_STEP_GRADIENT:
        smoe_assert(m->step_gradient.layer < LAYERS && m->step_gradient.expert < EXPERTS);
        break;
    case SMOE_MSG_INVENTORY:
        for (size_t i = 0; i < m->inventory.n_layers; i++)
            smoe_assert(m->inventory.layers[i].staged_step ||
                        !m->inventory.layers[i].staged_attempt);
        break;
    default:
        break;
    }
    return 0;
}

static void listen(struct scene *s)
{
    struct smoe_channel_owner owner = {s, ear_expect, ear_deliver};
    struct smoe_why why;
    struct iovec iovecs[4];
    size_t n;
    while ((n = smoe_agent_peek(s->agent, iovecs, 4)) > 0) {
        size_t bytes = 0;
        for (size_t i = 0; i < n; i++) {
            smoe_assert(smoe_channel_receive(&s->ear, iovecs[i].iov_base, iovecs[i].iov_len, &owner,
                                             &why) == 0);
            bytes += iovecs[i].iov_len;
        }
        smoe_agent_consume(s->agent, bytes);
    }
}

/* ---- the link ---- */

static void connect_agent(struct scene *s)
{
    smoe_agent_connected(s->agent, s->now_ns);
    smoe_channel_init(&s->ear, s->wire, NULL, SMOE_BY_WORKER, 1 << 20);
    s->ear.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    s->ear.tensor_bytes_max = SMOE_TENSOR_BYTES_MAX;
    s->connected = true;
}

static void disconnect_agent(struct scene *s)
{
    listen(s);
    smoe_agent_disconnected(s->agent);
    smoe_channel_release(&s->ear);
    s->connected = false;
}

static void receive(struct scene *s, const struct fuzz_stream *stream)
{
    struct smoe_why why = {""};
    for (size_t at = 0; s->connected && at < stream->n;) {
        size_t room, n = stream->n - at;
        uint8_t *to = smoe_agent_direct(s->agent, &room);
        const uint8_t *data = stream->bytes + at;
        if (to) {
            n = n < room ? n : room;
            memcpy(to, data, n);
            data = to;
        }
        at += n;
        if (smoe_agent_received(s->agent, data, n, s->now_ns, &why)) {
            smoe_assert(why.text[0]);
            trace(why.text);
            disconnect_agent(s);
        }
    }
}

static void say(struct scene *s, const struct smoe_message *m, uint64_t tensor_bytes)
{
    struct fuzz_stream stream = {0};
    const uint8_t *body;
    size_t bytes;
    if (!s->connected || smoe_wire_encode(s->wire, m, &body, &bytes))
        return;
    if (tensor_bytes > 1 << 20)
        tensor_bytes = 1;
    fuzz_stream_frame(&stream, (uint16_t)m->type, body, bytes, tensor_bytes);
    receive(s, &stream);
    fuzz_stream_release(&stream);
}

static void say_from_tape(struct scene *s)
{
    struct fuzz_stream stream = {0};
    fuzz_stream_from_tape(&stream, s->in);
    receive(s, &stream);
    fuzz_stream_release(&stream);
}

/* ---- messages ---- */

static void say_welcome(struct scene *s)
{
    struct smoe_message m = {.type = SMOE_MSG_WELCOME};
    m.welcome = (struct smoe_msg_welcome){.protocol = 1,
                                          .epoch = fuzz_below(s->in, 4),
                                          .slot_us = 1000,
                                          .tensor_bytes_max = 1 << 20,
                                          .silence_ms_max = 100};
    say(s, &m, 0);
}

/* The same number for a name and a run is the same layer; a shape byte of its own may contradict. */
static void say_host(struct scene *s)
{
    uint8_t which = fuzz_u8(s->in), shape = fuzz_u8(s->in), mask = fuzz_u8(s->in);
    uint8_t copied = fuzz_u8(s->in), how = fuzz_u8(s->in);
    uint32_t experts[EXPERTS], copies[EXPERTS], n = 0, n_copies = 0, layer = which % LAYERS;
    struct smoe_message m = {.type = SMOE_MSG_HOST};
    struct smoe_layer_shape *at = &s->shapes[layer];
    *at =
        (struct smoe_layer_shape){.experts = EXPERTS,
                                  .d_model = 1 + shape % 4,
                                  .d_ff = 1 + shape / 4 % 4,
                                  .activation = 1 + shape / 16 % 3,
                                  .dtype = sizeof(smoe_real) == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
                                  .optimizer = 1 + shape / 64 % 2,
                                  .staleness = shape % 16 > 12,
                                  .seed = shape};
    if (shape == 255)
        at->d_ff = 60000;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        bool hosted = mask >> e & 1;
        if (hosted)
            experts[n++] = e;
        if ((copied >> e & 1) && (!hosted || how & 128)) /* one of both lists is refused */
            copies[n_copies++] = e;
    }
    m.host = (struct smoe_msg_host){.layer = layer,
                                    .run = 1 + which / 16 % 2,
                                    .shape = *at,
                                    .experts = experts,
                                    .n_experts = n,
                                    .copies = copies,
                                    .n_copies = n_copies,
                                    .step = how % 4,
                                    .attempt = how / 4 % 2,
                                    .fresh = !(how & 8)};
    m.host.name[0] = (char)('a' + which / 4 % 4);
    say(s, &m, 0);
}

static uint64_t row_bytes(const struct scene *s, uint32_t layer)
{
    return s->shapes[layer % LAYERS].d_model * sizeof(smoe_real);
}

static void say_decision(struct scene *s)
{
    struct smoe_parcel_head heads[8];
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    uint8_t how = fuzz_u8(s->in);
    uint64_t bytes = how & 64; /* wrong by so much */
    uint32_t n = how % 8;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t where = fuzz_u8(s->in), what = fuzz_u8(s->in);
        struct parcel *p = &s->parcels[s->n_parcels++ % PARCELS];
        *p = (struct parcel){
            .id = what == 255 ? 1 : s->n_parcels, .rows = 1 + what % 9, .layer = where % LAYERS};
        p->rows *= what & 16 ? 30 : 1;
        heads[i] = (struct smoe_parcel_head){.id = p->id,
                                             .layer = p->layer,
                                             .expert = where / 4 % EXPERTS,
                                             .rows = p->rows,
                                             .keep = what & 32,
                                             .older = where & 1,
                                             .step = where & 3};
        bytes += p->rows * row_bytes(s, p->layer);
    }
    m.decision = (struct smoe_msg_decision){++s->sequence, how >> 4 & 3, how, heads, n};
    say(s, &m, bytes);
}

/* Some of the parcels there were, chosen by a mask from the latest backwards. */
static uint32_t choose_parcels(struct scene *s, uint64_t ids[8], uint64_t *ret_bytes)
{
    uint8_t mask = fuzz_u8(s->in), skip = fuzz_u8(s->in) % PARCELS;
    uint32_t n = 0;
    *ret_bytes = 0;
    for (uint32_t i = 0; i < 8; i++) {
        const struct parcel *p = &s->parcels[(s->n_parcels - 1 - skip - i) % PARCELS];
        if (!(mask >> i & 1) || !p->id)
            continue;
        ids[n++] = p->id;
        *ret_bytes += p->rows * row_bytes(s, p->layer);
    }
    return n;
}

static void say_backprop(struct scene *s)
{
    uint64_t ids[8], bytes;
    struct smoe_message m = {.type = SMOE_MSG_BACKPROP};
    m.backprop.n_parcels = choose_parcels(s, ids, &bytes);
    m.backprop.parcels = ids;
    m.backprop.sequence = ++s->sequence;
    say(s, &m, bytes);
}

static void say_forget(struct scene *s)
{
    uint64_t ids[8], bytes;
    struct smoe_message m = {.type = SMOE_MSG_FORGET};
    m.forget.n_parcels = choose_parcels(s, ids, &bytes);
    m.forget.parcels = ids;
    say(s, &m, 0);
}

static void say_parcel_inputs(struct scene *s)
{
    uint64_t ids[8], bytes;
    struct smoe_message m = {.type = SMOE_MSG_PARCEL_INPUTS};
    m.parcel_inputs.n_parcels = choose_parcels(s, ids, &bytes);
    m.parcel_inputs.parcels = ids;
    say(s, &m, bytes);
}

static size_t choose_layers(struct scene *s, uint32_t layers[LAYERS])
{
    uint8_t mask = fuzz_u8(s->in);
    size_t n = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        if (mask >> l & 1)
            layers[n++] = l;
    return n;
}

static void say_reset(struct scene *s)
{
    uint32_t layers[LAYERS];
    struct smoe_message m = {.type = SMOE_MSG_RESET};
    m.reset.n_layers = choose_layers(s, layers);
    m.reset.layers = layers;
    say(s, &m, 0);
}

static void say_prepare(struct scene *s)
{
    uint32_t layers[LAYERS] = {0}, experts[EXPERTS];
    struct smoe_message m = {.type = SMOE_MSG_STEP_PREPARE};
    uint8_t number = fuzz_u8(s->in);
    m.step_prepare = (struct smoe_msg_step_prepare){
        .step = 1 + number % 3,
        .attempt = number / 4 % 2,
        .layers = layers,
        .n_layers = choose_layers(s, layers),
        .gradient_divisor = 1 + number,
        .optimizer = {1 + number / 16 % 2, 0.1, 0.9, 0.9, 0.99, 1e-8, 0.01},
        .owner = number / 32 % 3,
    };
    uint8_t wanted = fuzz_u8(s->in);
    struct smoe_layer_experts gradients = {.layer = number & 128 ? LAYERS - 1 : layers[0],
                                           .experts = experts};
    for (uint32_t e = 0; e < EXPERTS; e++)
        if (wanted >> e & 1)
            experts[gradients.n++] = e;
    m.step_prepare.gradients = &gradients;
    m.step_prepare.n_gradients = m.step_prepare.n_layers && gradients.n;
    say(s, &m, 0);
}

static void say_stage_or_commit(struct scene *s, bool commit)
{
    uint8_t number = fuzz_u8(s->in);
    uint64_t step = 1 + number % 3, attempt = number / 4 % 2;
    uint32_t owner = number / 32 % 3;
    struct smoe_message m = {.type = commit ? SMOE_MSG_STEP_COMMIT : SMOE_MSG_STEP_STAGE};
    if (commit)
        m.step_commit = (struct smoe_msg_step_commit){step, attempt, number / 8 % 4, owner};
    else
        m.step_stage = (struct smoe_msg_step_stage){step, attempt, 0.5, owner};
    say(s, &m, 0);
}

static uint64_t state_bytes(const struct smoe_layer_shape *shape, uint32_t parts)
{
    uint64_t matrices = shape->activation == 3 ? 3 : 2, d = shape->d_model, h = shape->d_ff;
    uint64_t vectors = (parts & 1) + (parts & 2 ? shape->optimizer : 0) + (parts >> 2 & 1) +
                       (parts >> 3 & shape->staleness);
    return vectors * (matrices * d * h + d + h) * sizeof(smoe_real);
}

static void say_step_gradient(struct scene *s)
{
    uint8_t number = fuzz_u8(s->in), which = fuzz_u8(s->in);
    uint32_t layer = which % LAYERS;
    struct smoe_message m = {.type = SMOE_MSG_STEP_GRADIENT};
    m.step_gradient = (struct smoe_msg_step_gradient){1 + number % 3, number / 4 % 2, layer,
                                                      which / 4 % EXPERTS, number / 32 % 3};
    say(s, &m, state_bytes(&s->shapes[layer], 4) + (which >> 7) * sizeof(smoe_real));
}

static void say_fetch_or_store(struct scene *s)
{
    uint8_t which = fuzz_u8(s->in), how = fuzz_u8(s->in);
    uint32_t layer = which % LAYERS, expert = which / 4 % EXPERTS;
    uint32_t parts = how & 2 ? 11 : 3;
    struct smoe_message m = {.type = how & 8 ? SMOE_MSG_EXPERT_STORE : SMOE_MSG_EXPERT_FETCH};
    if (how & 8)
        m.expert_store = (struct smoe_msg_expert_store){which, layer, expert, parts, how, how & 4};
    else
        m.expert_fetch = (struct smoe_msg_expert_fetch){which, layer, expert, 1 + how % 15};
    say(s, &m, how & 8 ? state_bytes(&s->shapes[layer], parts) : 0);
}

/* ---- tasks ---- */

static void start_task(struct scene *s, uint32_t lane)
{
    if (s->tasks[lane])
        return;
    free(s->scratch[lane]);
    s->scratch[lane] = malloc((smoe_agent_scratch_elements(s->agent) + 1) * sizeof(smoe_real));
    s->tasks[lane] = smoe_agent_next_task(s->agent, s->scratch[lane]);
}

static void finish_task(struct scene *s, uint32_t lane)
{
    struct smoe_task *task = s->tasks[lane];
    if (!task)
        return;
    while (!smoe_task_slice(task))
        ;
    s->tasks[lane] = NULL;
    smoe_agent_task_done(s->agent, task, 1000, s->now_ns);
}

/* Everything there is to compute; it ends, since nothing new arrives meanwhile. */
static void run_tasks(struct scene *s)
{
    for (bool more = true; more;) {
        more = false;
        for (uint32_t lane = 0; lane < LANES; lane++) {
            start_task(s, lane);
            more |= s->tasks[lane] != NULL;
            finish_task(s, lane);
        }
    }
}

/* ---- the tape ---- */

static void other(struct scene *s, uint8_t op)
{
    switch (op) {
    case 0:
        if (s->connected)
            disconnect_agent(s);
        else
            connect_agent(s);
        break;
    case 1:
        smoe_agent_leave(s->agent, "the tape says so");
        break;
    case 2:
        s->now_ns += fuzz_u16(s->in) * UINT64_C(1000000);
        smoe_agent_tick(s->agent, s->now_ns);
        break;
    case 3:
        run_tasks(s);
        break;
    case 4:
        say_step_gradient(s);
        break;
    case 5:
        say_parcel_inputs(s);
        break;
    default:
        smoe_agent_set_freq(s->agent, op * 1000u, op * 1e6);
        smoe_agent_set_temperature(s->agent, op);
        break;
    }
}

static void one_operation(struct scene *s)
{
    uint8_t op = fuzz_u8(s->in);
    switch (op % 16) {
    case 0:
        other(s, op / 16);
        break;
    case 1:
        say_from_tape(s);
        break;
    case 2:
        say_welcome(s);
        break;
    case 3:
        say_host(s);
        break;
    case 4:
    case 5:
        say_decision(s);
        break;
    case 6:
        say_backprop(s);
        break;
    case 7:
        say_forget(s);
        break;
    case 8:
        say_reset(s);
        break;
    case 9:
        say_prepare(s);
        break;
    case 10:
    case 11:
        say_stage_or_commit(s, op & 1);
        break;
    case 12:
        say_fetch_or_store(s);
        break;
    case 13:
        start_task(s, op / 16 % LANES);
        break;
    case 14:
        finish_task(s, op / 16 % LANES);
        break;
    case 15:
        if (s->connected)
            listen(s);
        break;
    }
}

static struct smoe_agent *new_agent(void)
{
    static const struct smoe_agent_options options = {
        .id = "fuzzed",
        .incarnation = 1,
        .software = "test",
        .lanes = LANES,
        .freq_nominal_hz = 1e9,
        .freq_max_hz = 1e9,
        .busy_watts = 2,
        .freq_driver = "null",
        .experts_bytes_max = 1 << 16,
        .tensors_bytes_max = 1 << 17,
        .inbox_bytes_max = 1 << 20,
        .parcels_max = 64,
    };
    struct smoe_agent *agent;
    struct smoe_why why;
    if (smoe_agent_new(&options, &agent, &why))
        abort();
    return agent;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct smoe_wire *wire;
    struct fuzz_input in = {data, size};
    if (!wire && smoe_wire_new(&wire))
        abort();
    struct scene s = {.in = &in, .wire = wire, .agent = new_agent(), .now_ns = 1};
    for (uint32_t l = 0; l < LAYERS; l++)
        s.shapes[l] = (struct smoe_layer_shape){.experts = 1, .d_model = 1, .d_ff = 1};
    connect_agent(&s);
    while (fuzz_more(&in)) {
        one_operation(&s);
        smoe_agent_check(s.agent);
    }
    for (uint32_t lane = 0; lane < LANES; lane++)
        finish_task(&s, lane);
    run_tasks(&s);
    smoe_agent_check(s.agent);
    if (s.connected)
        disconnect_agent(&s);
    smoe_agent_free(s.agent);
    for (uint32_t lane = 0; lane < LANES; lane++)
        free(s.scratch[lane]);
    return 0;
}
