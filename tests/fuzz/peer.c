/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"

static size_t real_bytes(const struct smoe_layer_shape *shape)
{
    return shape->dtype == SMOE_DTYPE_F64 ? 8 : 4;
}

static size_t row_bytes(const struct fuzz_peer *p, uint32_t layer)
{
    const struct smoe_layer_shape *shape = &p->shapes[layer % FUZZ_LAYERS];
    return shape->d_model * real_bytes(shape);
}

static size_t state_bytes(const struct smoe_layer_shape *s, uint32_t parts)
{
    size_t matrices = s->activation == 3 ? 3 : 2;
    size_t n = matrices * s->d_model * s->d_ff + s->d_model + s->d_ff;
    size_t vectors = (parts & 1) + (parts & 2 ? s->optimizer : 0) + (parts >> 2 & 1);
    return vectors * n * real_bytes(s);
}

/* ---- hearing ---- */

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    (void)context, (void)m, (void)tensor_bytes, (void)why;
    return 0;
}

static void hear_host(struct fuzz_peer *p, const struct smoe_msg_host *m)
{
    smoe_assert(m->n_experts == 0 || m->experts[m->n_experts - 1] < m->shape.experts);
    p->shapes[m->layer % FUZZ_LAYERS] = m->shape;
    p->known[m->layer % FUZZ_LAYERS] = m->n_experts > 0;
    if (p->n_hosts < FUZZ_ASKED)
        p->hosts[p->n_hosts++] = m->layer;
}

static void add_job(struct fuzz_peer *p, uint64_t id, uint32_t rows, uint32_t layer, bool backward)
{
    p->jobs[p->n_jobs++ % FUZZ_JOBS] = (struct fuzz_job){id, rows, layer, backward};
}

static void hear_decision(struct fuzz_peer *p, const struct smoe_msg_decision *m,
                          const struct smoe_blob *blob)
{
    size_t bytes = 0;
    smoe_assert(m->sequence == p->sequence + 1);
    p->sequence = m->sequence;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct smoe_parcel_head *head = &m->parcels[i];
        smoe_assert(p->known[head->layer % FUZZ_LAYERS]);
        smoe_assert(head->expert < p->shapes[head->layer % FUZZ_LAYERS].experts);
        bytes += head->rows * row_bytes(p, head->layer);
        add_job(p, head->id, head->rows, head->layer, false);
    }
    smoe_assert(bytes == (blob ? blob->bytes : 0));
}

/* A gradient comes only for a parcel whose output was said; its rows are known if it is remembered. */
static void hear_backprop(struct fuzz_peer *p, const struct smoe_msg_backprop *m,
                          const struct smoe_blob *blob)
{
    size_t bytes = 0;
    bool all = true;
    smoe_assert(m->sequence == p->sequence + 1);
    p->sequence = m->sequence;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct fuzz_job *job = NULL;
        for (uint32_t j = 0; j < FUZZ_JOBS; j++)
            if (p->jobs[j].id == m->parcels[i])
                job = &p->jobs[j];
        all &= job != NULL;
        if (!job)
            continue;
        struct fuzz_job copy = *job;
        bytes += copy.rows * row_bytes(p, copy.layer);
        add_job(p, copy.id, copy.rows, copy.layer, true);
    }
    smoe_assert(!all || bytes == blob->bytes);
}

static void hear_asked(struct fuzz_peer *p, const struct smoe_message *m)
{
    if (p->n_asked < FUZZ_ASKED)
        p->asked[p->n_asked++] = *m;
}

static void hear_prepare(struct fuzz_peer *p, const struct smoe_msg_step_prepare *m)
{
    for (size_t i = 0; i < m->n_layers; i++)
        smoe_assert(p->known[m->layers[i] % FUZZ_LAYERS]);
    p->prepare = *m;
    memcpy(p->prepare_layers, m->layers, m->n_layers * sizeof *m->layers);
    p->prepare_due = true;
}

static struct fuzz_batch *batch_of(struct fuzz_peer *p, uint64_t id)
{
    for (uint32_t i = 0; i < FUZZ_BATCHES; i++)
        if (p->batches[i].live && p->batches[i].id == id)
            return &p->batches[i];
    return NULL;
}

/* Each visit of a batch comes once an attempt, with the right shape. */
static void hear_result(struct fuzz_peer *p, const struct smoe_msg_result *m,
                        const struct smoe_blob *blob)
{
    struct fuzz_batch *b = batch_of(p, m->batch);
    smoe_assert(m->attempt == p->attempt);
    smoe_assert(blob->bytes >= m->rows * 8);
    if (!b || b->unsure)
        return;
    smoe_assert(blob->bytes == m->rows * (8 + row_bytes(p, b->layer)));
    smoe_assert(m->expert < p->shapes[b->layer % FUZZ_LAYERS].experts);
    for (uint32_t i = 0; i < m->rows; i++) {
        uint32_t visit;
        memcpy(&visit, blob->data + i * sizeof visit, sizeof visit);
        smoe_assert(visit < b->tokens * b->top_k);
        smoe_assert(!(b->seen[visit / 8] >> (visit % 8) & 1));
        b->seen[visit / 8] |= (uint8_t)(1 << visit % 8);
        b->n_seen++;
    }
    b->live = b->training || b->n_seen < b->tokens * b->top_k;
}

static void hear_step_done(struct fuzz_peer *p, const struct smoe_msg_step_done *m)
{
    p->step = m->step;
    for (uint32_t i = 0; i < FUZZ_BATCHES; i++)
        p->batches[i].live &= !p->batches[i].in_step;
}

static void forget_batches(struct fuzz_peer *p)
{
    memset(p->batches, 0, sizeof p->batches);
}

static void hear_error(struct fuzz_peer *p, const struct smoe_msg_error *m)
{
    smoe_assert(m->message[0]);
    struct fuzz_batch *b = batch_of(p, m->batch);
    if (b)
        b->unsure = true;
}

static void hear_ready(struct fuzz_peer *p, const struct smoe_msg_layer_ready *m)
{
    p->shapes[m->layer % FUZZ_LAYERS] = m->shape;
    p->known[m->layer % FUZZ_LAYERS] = true;
    p->step = m->step > p->step ? m->step : p->step;
}

static void hear_of_training(struct fuzz_peer *p, const struct smoe_message *m,
                             const struct smoe_blob *blob)
{
    switch ((unsigned)m->type) {
    case SMOE_MSG_WELCOME:
        p->ear.tensor_bytes_max = m->welcome.tensor_bytes_max;
        p->attempt = m->welcome.attempt;
        break;
    case SMOE_MSG_NEED:
        smoe_assert(m->need.attempt > p->attempt);
        p->attempt = m->need.attempt;
        forget_batches(p);
        break;
    case SMOE_MSG_LAYER_READY:
        hear_ready(p, &m->layer_ready);
        break;
    case SMOE_MSG_RESULT:
        hear_result(p, &m->result, blob);
        break;
    case SMOE_MSG_STEP_DONE:
        hear_step_done(p, &m->step_done);
        break;
    case SMOE_MSG_ERROR:
        hear_error(p, &m->error);
        break;
    default:
        break;
    }
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct fuzz_peer *p = context;
    (void)why;
    switch ((unsigned)m->type) {
    case SMOE_MSG_HOST:
        hear_host(p, &m->host);
        break;
    case SMOE_MSG_DECISION:
        hear_decision(p, &m->decision, blob);
        break;
    case SMOE_MSG_BACKPROP:
        hear_backprop(p, &m->backprop, blob);
        break;
    case SMOE_MSG_STEP_PREPARE:
        hear_prepare(p, &m->step_prepare);
        break;
    case SMOE_MSG_STEP_STAGE:
        p->stage = m->step_stage;
        p->stage_due = true;
        break;
    case SMOE_MSG_RESET:
        p->prepare_due = p->stage_due = false;
        break;
    case SMOE_MSG_EXPERT_FETCH:
    case SMOE_MSG_EXPERT_STORE:
        hear_asked(p, m);
        break;
    default:
        hear_of_training(p, m, blob);
        break;
    }
    return 0;
}

void fuzz_peer_open(struct fuzz_peer *p, uint32_t session, enum smoe_role role,
                    struct smoe_wire *wire)
{
    *p = (struct fuzz_peer){.open = true, .session = session, .role = role};
    unsigned side = role == SMOE_ROLE_WORKER ? SMOE_TO_WORKER : SMOE_TO_TRAINER;
    smoe_channel_init(&p->ear, wire, NULL, side, 1 << 16);
    p->ear.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    for (uint32_t l = 0; l < FUZZ_LAYERS; l++)
        p->shapes[l] = (struct smoe_layer_shape){1, 1, 1, 1, SMOE_DTYPE_F32, 1, 0, false};
}

void fuzz_peer_close(struct fuzz_peer *p)
{
    if (p->open)
        smoe_channel_release(&p->ear);
    p->open = false;
}

void fuzz_peer_hear(struct fuzz_peer *p, const uint8_t *data, size_t n)
{
    struct smoe_channel_owner owner = {p, expect, deliver};
    struct smoe_why why = {""};
    int rc = smoe_channel_receive(&p->ear, data, n, &owner, &why);
    if (rc) {
        fprintf(stderr, "the gateway said what may not be said: %s\n", why.text);
        abort();
    }
}

/* ---- saying ---- */

static void say(struct fuzz_peer *p, const struct smoe_message *m, size_t tensor_bytes,
                struct fuzz_stream *out)
{
    const uint8_t *body;
    size_t bytes;
    if (smoe_wire_encode(p->ear.wire, m, &body, &bytes))
        return;
    if (tensor_bytes > 1 << 18)
        tensor_bytes = 8;
    fuzz_stream_frame(out, (uint16_t)m->type, body, bytes, tensor_bytes);
}

void fuzz_peer_hello(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t who = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_HELLO};
    m.hello = (struct smoe_msg_hello){
        .protocol_min = 1,
        .protocol_max = 1,
        .role = p->role,
        .name = "peer",
        .incarnation = 1 + who / 8 % 2,
        .freq_max_hz = 1e9,
        .inbox_bytes_max = UINT64_C(1) << 20 << who / 32,
        .lanes = 1,
        .freq_driver = "null",
    };
    m.hello.name[3] = (char)('a' + who % 8);
    say(p, &m, 0, out);
}

/* Worker. */

static void say_hosted(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t how = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    m.hosted.layer = p->n_hosts ? p->hosts[how % p->n_hosts] : how % FUZZ_LAYERS;
    m.hosted.code = how == 255 ? SMOE_ENOMEMORY : 0;
    say(p, &m, 0, out);
}

static struct smoe_layer_shape shape_from_tape(struct fuzz_input *in)
{
    uint8_t a = fuzz_u8(in), b = fuzz_u8(in);
    return (struct smoe_layer_shape){
        .experts = (b & 128 ? 100u : 1u) + a % 8u,
        .d_model = a == 255 ? 40000 : 1 + a / 8 % 8,
        .d_ff = 1 + a / 64,
        .activation = 1 + b % 3,
        .dtype = b & 16 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32,
        .optimizer = 1 + b / 32 % 2,
        .zero_output = b & 64,
    };
}

static void say_inventory(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    struct smoe_inventory_layer layers[4];
    static const uint32_t experts[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct smoe_message m = {.type = SMOE_MSG_INVENTORY};
    uint32_t n = fuzz_below(in, 5);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t which = fuzz_u8(in), step = fuzz_u8(in);
        struct smoe_layer_shape shape = shape_from_tape(in);
        uint32_t first = step / 4 % (shape.experts < 8 ? shape.experts : 8);
        layers[i] = (struct smoe_inventory_layer){.run = 1 + which / 4 % 2,
                                                  .step = step % 4,
                                                  .shape = shape,
                                                  .experts = experts + first,
                                                  .n_experts = 0};
        layers[i].n_experts = (shape.experts < 8 ? shape.experts : 8) - first;
        layers[i].name[0] = (char)('a' + which % 4);
        layers[i].name[1] = 0;
    }
    m.inventory = (struct smoe_msg_inventory){layers, n};
    say(p, &m, 0, out);
}

static void say_job_done(struct fuzz_peer *p, const struct fuzz_job *job, size_t wrong,
                         struct fuzz_stream *out)
{
    struct smoe_message m = {.type = job->backward ? SMOE_MSG_PARCEL_GRADIENT : SMOE_MSG_OUTPUT};
    if (job->backward)
        m.parcel_gradient.parcel = job->id;
    else
        m.output.parcel = job->id;
    if (job->id)
        say(p, &m, job->rows * row_bytes(p, job->layer) + wrong, out);
}

static void say_job(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t which = fuzz_u8(in);
    struct fuzz_job job = p->jobs[(p->n_jobs - 1 - which % FUZZ_JOBS) % FUZZ_JOBS];
    job.backward ^= which >> 6 == 3;
    say_job_done(p, &job, which >> 6 == 2 ? 4 : 0, out);
}

static void say_report(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in), b = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_REPORT};
    m.report = (struct smoe_msg_report){
        .sequence = a & 1 ? p->sequence : a,
        .queue_forward_flops = b == 255 ? UINT64_MAX : b * 10u,
        .queue_backward_flops = b * 7u,
        .forward_flops = (uint64_t)a << b % 56,
        .backward_flops = (uint64_t)b << a % 56,
        .forward_cycles = (uint64_t)b << b % 56,
        .backward_cycles = (uint64_t)a << a % 56,
        .joules = a * 1e3,
        .freq_khz = a * 1000u,
        .freq_max_hz = 1 + b * 1e9,
        .active_ns = (uint64_t)b << 20,
        .cycles = (uint64_t)a << 22,
    };
    say(p, &m, 0, out);
}

static void say_norm(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    struct smoe_layer_norms layers[SMOE_LAYERS_MAX];
    uint32_t experts[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    double norms[8] = {0, 1, 2, 3, 4, 5, 6, how == 255 ? -1 : 7};
    struct smoe_message m = {.type = SMOE_MSG_STEP_NORM};
    size_t n = p->prepare.n_layers;
    for (size_t i = 0; i < n; i++)
        layers[i] = (struct smoe_layer_norms){p->prepare_layers[i], experts, norms, 8};
    m.step_norm = (struct smoe_msg_step_norm){p->prepare.step, p->prepare.attempt + (how == 254),
                                              layers, n, p->prepare.owner};
    say(p, &m, 0, out);
    p->prepare_due = false;
}

static void say_staged(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_STAGED};
    m.step_staged = (struct smoe_msg_step_staged){p->stage.step, p->stage.attempt + (how == 254),
                                                  p->stage.owner};
    say(p, &m, 0, out);
    p->stage_due = false;
}

static void say_state(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STATE};
    if (!p->n_asked)
        return;
    struct smoe_message asked = p->asked[--p->n_asked];
    if (asked.type == SMOE_MSG_EXPERT_STORE) {
        const struct smoe_msg_expert_store *s = &asked.expert_store;
        m.type = SMOE_MSG_EXPERT_STORED;
        m.expert_stored = (struct smoe_msg_expert_stored){s->request, s->layer, s->expert};
        say(p, &m, 0, out);
        return;
    }
    const struct smoe_msg_expert_fetch *f = &asked.expert_fetch;
    m.expert_state =
        (struct smoe_msg_expert_state){f->request, f->layer, f->expert, f->parts, how % 4};
    say(p, &m, state_bytes(&p->shapes[f->layer % FUZZ_LAYERS], f->parts) + (how == 255), out);
}

void fuzz_peer_answer_all(struct fuzz_peer *p, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    for (; p->n_hosts; p->n_hosts--) {
        m.hosted.layer = p->hosts[p->n_hosts - 1];
        say(p, &m, 0, out);
    }
    uint32_t n = p->n_jobs < FUZZ_JOBS ? p->n_jobs : FUZZ_JOBS;
    for (uint32_t i = n; i > 0; i--)
        say_job_done(p, &p->jobs[(p->n_jobs - i) % FUZZ_JOBS], 0, out);
    if (p->prepare_due)
        say_norm(p, 0, out);
    if (p->stage_due)
        say_staged(p, 0, out);
    while (p->n_asked)
        say_state(p, 0, out);
}

static void worker_says(struct fuzz_peer *p, uint8_t what, struct fuzz_input *in,
                        struct fuzz_stream *out)
{
    switch (what) {
    case 4:
        say_hosted(p, in, out);
        break;
    case 5:
        say_inventory(p, in, out);
        break;
    case 6:
    case 7:
        say_job(p, in, out);
        break;
    case 8:
        say_report(p, in, out);
        break;
    case 9:
        say_norm(p, fuzz_u8(in), out);
        break;
    case 10:
        say_staged(p, fuzz_u8(in), out);
        break;
    default:
        say_state(p, fuzz_u8(in), out);
        break;
    }
}

/* Trainer. */

static void say_declare(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t which = fuzz_u8(in), step = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
    m.layer_declare = (struct smoe_msg_layer_declare){.request = which,
                                                      .run = 1 + which / 4 % 2,
                                                      .shape = shape_from_tape(in),
                                                      .evaluate_only = which & 128,
                                                      .step = step > 250 ? step % 4 : 0};
    m.layer_declare.name[0] = (char)('a' + which % 4);
    say(p, &m, 0, out);
}

static void remember_batch(struct fuzz_peer *p, const struct smoe_msg_submit *m)
{
    struct fuzz_batch *b = batch_of(p, m->batch);
    if (b) {
        b->unsure = true;
        return;
    }
    for (uint32_t i = 0; i < FUZZ_BATCHES && !b; i++)
        b = p->batches[i].live ? NULL : &p->batches[i];
    if (b)
        *b = (struct fuzz_batch){.id = m->batch,
                                 .layer = m->layer,
                                 .tokens = m->tokens,
                                 .top_k = m->top_k,
                                 .live = true,
                                 .training = m->needs_gradient,
                                 .unsure = m->tokens * m->top_k > FUZZ_VISITS};
}

static void say_submit(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in), b = fuzz_u8(in), c = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_SUBMIT};
    m.submit = (struct smoe_msg_submit){.batch = 1 + a % FUZZ_BATCHES,
                                        .attempt = p->attempt + (a >> 6) - (c >> 6),
                                        .layer = a / 8 % FUZZ_LAYERS,
                                        .tokens = 1 + b % 64,
                                        .top_k = 1 + c % 4,
                                        .needs_gradient = !(c & 16),
                                        .routed = c & 32};
    if (b == 255)
        m.submit.tokens = 3000;
    const struct smoe_layer_shape *shape = &p->shapes[m.submit.layer];
    size_t choices = m.submit.routed ? (m.submit.tokens * m.submit.top_k * 2 + 7) / 8 * 8
                                     : m.submit.tokens * shape->experts * 4;
    size_t bytes = choices + m.submit.tokens * row_bytes(p, m.submit.layer);
    remember_batch(p, &m.submit);
    size_t at = out->n;
    say(p, &m, bytes + (b == 254), out);
    if (!m.submit.routed || out->n == at || bytes > 1 << 18)
        return;
    uint8_t *experts = out->bytes + out->n - bytes - (b == 254); /* distinct ones, mostly */
    for (uint32_t t = 0; t < m.submit.tokens; t++)
        for (uint32_t k = 0; k < m.submit.top_k; k++) {
            experts[2 * (t * m.submit.top_k + k)] = (uint8_t)((t + k) % shape->experts);
            experts[2 * (t * m.submit.top_k + k) + 1] = 0;
        }
}

static void say_gradient(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in);
    struct fuzz_batch *b = &p->batches[a % FUZZ_BATCHES];
    struct smoe_message m = {.type = SMOE_MSG_GRADIENT};
    m.gradient = (struct smoe_msg_gradient){b->live ? b->id : UINT64_C(1) + a % FUZZ_BATCHES,
                                            p->attempt - (a >> 6 == 3)};
    size_t bytes = b->tokens * b->top_k * row_bytes(p, b->layer);
    say(p, &m, bytes + (a >> 6 == 2) + !bytes, out);
}

static void say_step(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t mask = fuzz_u8(in), how = fuzz_u8(in);
    uint64_t batches[FUZZ_BATCHES];
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    size_t n = 0;
    for (uint32_t i = 0; i < FUZZ_BATCHES; i++)
        if ((p->batches[i].in_step =
                 p->batches[i].live && p->batches[i].training && !(mask >> i & 1)))
            batches[n++] = p->batches[i].id;
    uint32_t kind = 1 + how % 2;
    for (uint32_t l = 0; l < FUZZ_LAYERS && how < 128; l++)
        if (p->known[l])
            kind = p->shapes[l].optimizer;
    m.step = (struct smoe_msg_step){.step = p->step + (how & 4 ? 0 : 1),
                                    .attempt = p->attempt,
                                    .batches = batches,
                                    .n_batches = n,
                                    .optimizer = {kind, 0.1, 0.9, 0.9, 0.99, 1e-8, 0},
                                    .gradient_divisor = 1,
                                    .clip_norm = how & 8,
                                    .dense_square_norm = how};
    say(p, &m, 0, out);
}

static void say_discard(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    m.discard = (struct smoe_msg_discard){1 + fuzz_below(in, FUZZ_BATCHES), p->attempt};
    struct fuzz_batch *b = batch_of(p, m.discard.batch);
    if (b)
        b->unsure = true;
    say(p, &m, 0, out);
}

static void say_restore(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    m.restore = (struct smoe_msg_restore){fuzz_u8(in) % 8, p->attempt};
    p->step = m.restore.step;
    say(p, &m, 0, out);
}

static void say_fetch(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_FETCH};
    m.expert_fetch = (struct smoe_msg_expert_fetch){a, a % FUZZ_LAYERS, a / 8 % 8, 1 + a % 7};
    say(p, &m, 0, out);
}

static void say_store(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store = (struct smoe_msg_expert_store){a, a % FUZZ_LAYERS, a / 8 % 8, 3, p->step};
    say(p, &m, state_bytes(&p->shapes[a % FUZZ_LAYERS], 3) + (a >> 6 == 3), out);
}

static void trainer_says(struct fuzz_peer *p, uint8_t what, struct fuzz_input *in,
                         struct fuzz_stream *out)
{
    switch (what) {
    case 4:
        say_declare(p, in, out);
        break;
    case 5:
        say_submit(p, in, out);
        break;
    case 6:
        say_gradient(p, in, out);
        break;
    case 7:
        say_step(p, in, out);
        break;
    case 8:
        say_discard(p, in, out);
        break;
    case 9:
        say_restore(p, in, out);
        break;
    case 10:
        say_fetch(p, in, out);
        break;
    default:
        say_store(p, in, out);
        break;
    }
}

void fuzz_peer_say(struct fuzz_peer *p, uint8_t what, struct fuzz_input *in,
                   struct fuzz_stream *out)
{
    if (p->role == SMOE_ROLE_WORKER)
        worker_says(p, what, in, out);
    else
        trainer_says(p, what, in, out);
}
