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
    size_t vectors = (parts & 1) + (parts & 2 ? s->optimizer : 0) + (parts >> 2 & 1) +
                     (parts >> 3 & s->staleness);
    return vectors * n * real_bytes(s);
}

static bool has(const struct fuzz_set *set, uint32_t e)
{
    return set->bits[e / 8 % sizeof set->bits] >> (e % 8) & 1;
}

static void put(struct fuzz_set *set, uint32_t e)
{
    set->bits[e / 8 % sizeof set->bits] |= (uint8_t)(1 << e % 8);
}

static struct fuzz_set set_of(const uint32_t *experts, size_t n)
{
    struct fuzz_set set = {{0}};
    for (size_t i = 0; i < n; i++)
        put(&set, experts[i]);
    return set;
}

/* ---- hearing ---- */

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    (void)context, (void)m, (void)tensor_bytes, (void)why;
    return 0;
}

/* Puts a staged step in force if that is it, and forgets it. */
static void settle_staged(struct fuzz_held *h, uint64_t step, uint64_t attempt)
{
    bool mine = h->staged_step && h->staged_step == step && h->staged_attempt == attempt;
    if (!mine && (h->step != step || h->attempt != attempt))
        h->current = (struct fuzz_set){{0}};
    h->step = step;
    h->attempt = attempt;
    h->staged_step = h->staged_attempt = 0;
}

static void hear_host(struct fuzz_peer *p, const struct smoe_msg_host *m)
{
    uint32_t l = m->layer % FUZZ_LAYERS;
    struct fuzz_held before = {0};
    smoe_assert(!m->fresh || m->step == 0);
    for (uint32_t i = 0; i < FUZZ_LAYERS; i++) {
        struct fuzz_held *h = &p->held[i];
        if (!h->used || h->run != m->run || strcmp(h->name, m->name) != 0)
            continue;
        before = *h;
        *h = (struct fuzz_held){0};
        p->known[i] = false;
    }
    if (m->n_experts + m->n_copies == 0)
        return;
    struct fuzz_held *h = &p->held[l];
    settle_staged(&before, m->step, m->attempt);
    *h = (struct fuzz_held){.used = true,
                            .run = m->run,
                            .step = m->step,
                            .attempt = m->attempt,
                            .shape = m->shape,
                            .hosted = set_of(m->experts, m->n_experts),
                            .copies = set_of(m->copies, m->n_copies)};
    memcpy(h->name, m->name, sizeof h->name);
    for (uint32_t e = 0; e < m->shape.experts; e++)
        if ((has(&h->hosted, e) || has(&h->copies, e)) && (m->fresh || has(&before.current, e)))
            put(&h->current, e);
    p->shapes[l] = m->shape;
    p->known[l] = true;
    if (p->n_hosts < FUZZ_ASKED)
        p->hosts[p->n_hosts++] = m->layer;
}

static void add_job(struct fuzz_peer *p, uint64_t id, uint32_t rows, uint32_t layer, bool backward)
{
    p->jobs[p->n_jobs++ % FUZZ_JOBS] =
        (struct fuzz_job){.id = id, .rows = rows, .layer = layer, .backward = backward};
}

static void hear_decision(struct fuzz_peer *p, const struct smoe_msg_decision *m,
                          const struct smoe_blob *blob)
{
    size_t bytes = 0;
    smoe_assert(m->sequence == p->sequence + 1 && m->epoch >= p->epoch_max);
    p->sequence = m->sequence;
    p->epoch_max = m->epoch;
    for (size_t i = 0; i < m->n_parcels; i++) {
        const struct smoe_parcel_head *head = &m->parcels[i];
        smoe_assert(p->known[head->layer % FUZZ_LAYERS]);
        smoe_assert(has(&p->held[head->layer % FUZZ_LAYERS].hosted, head->expert));
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
        p->jobs[(p->n_jobs - 1) % FUZZ_JOBS].evicted = copy.evicted;
    }
    smoe_assert(!all || bytes == blob->bytes);
}

/* x comes only for parcels that gave it up and have their gradient. */
static void hear_parcel_inputs(struct fuzz_peer *p, const struct smoe_msg_parcel_inputs *m,
                               const struct smoe_blob *blob)
{
    size_t bytes = 0;
    bool all = true;
    for (size_t i = 0; i < m->n_parcels; i++) {
        struct fuzz_job *job = NULL;
        for (uint32_t j = 0; j < FUZZ_JOBS; j++)
            if (p->jobs[j].id == m->parcels[i] && p->jobs[j].backward)
                job = &p->jobs[j];
        all &= job != NULL;
        if (!job)
            continue;
        smoe_assert(job->evicted);
        job->evicted = false;
        bytes += job->rows * row_bytes(p, job->layer);
    }
    smoe_assert(!all || bytes == blob->bytes);
}

static void hear_step_gradient(struct fuzz_peer *p, const struct smoe_msg_step_gradient *m,
                               const struct smoe_blob *blob)
{
    const struct fuzz_held *h = &p->held[m->layer % FUZZ_LAYERS];
    smoe_assert(h->used && has(&h->copies, m->expert));
    smoe_assert(blob->bytes == state_bytes(&h->shape, SMOE_STATE_GRADIENT));
}

/* What is said to be committed must be durable. */
static void see_epoch(struct fuzz_peer *p, uint64_t epoch)
{
    smoe_assert(!p->disk || epoch <= p->disk->epoch);
    p->epoch_max = epoch > p->epoch_max ? epoch : p->epoch_max;
}

static void hear_commit(struct fuzz_peer *p, const struct smoe_msg_step_commit *m)
{
    see_epoch(p, m->epoch);
    for (uint32_t l = 0; l < FUZZ_LAYERS; l++)
        if (p->held[l].used && p->held[l].staged_attempt == m->attempt &&
            p->held[l].staged_step == m->step)
            settle_staged(&p->held[l], m->step, m->attempt);
}

static void hear_reset(struct fuzz_peer *p, const struct smoe_msg_reset *m)
{
    p->prepare_due = p->stage_due = false;
    for (size_t i = 0; i < m->n_layers; i++) {
        struct fuzz_held *h = &p->held[m->layers[i] % FUZZ_LAYERS];
        h->staged_step = h->staged_attempt = 0;
    }
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
    memset(p->gradients, 0, sizeof p->gradients);
    for (size_t i = 0; i < m->n_gradients; i++) {
        const struct smoe_layer_experts *list = &m->gradients[i];
        p->gradients[list->layer] = set_of(list->experts, list->n);
        for (size_t e = 0; e < list->n; e++)
            smoe_assert(has(&p->held[list->layer % FUZZ_LAYERS].hosted, list->experts[e]));
    }
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
    see_epoch(p, m->epoch);
    p->step = m->step;
    for (uint32_t i = 0; i < FUZZ_BATCHES; i++)
        p->batches[i].live &= !p->batches[i].in_step;
}

static void hear_need_inputs(struct fuzz_peer *p, const struct smoe_msg_need_inputs *m)
{
    struct fuzz_batch *b = batch_of(p, m->batch);
    smoe_assert(m->attempt == p->attempt);
    if (!b)
        return;
    smoe_assert(b->unsure || (b->training && !b->inputs_asked));
    b->inputs_asked = b->inputs_due = true;
}

/* Each attempt is told once, to one. */
static void see_attempt(struct fuzz_peer *p, uint64_t attempt)
{
    smoe_assert(attempt > p->attempt_max);
    p->attempt = p->attempt_max = attempt;
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
        smoe_assert(m->welcome.epoch >= p->epoch_max);
        p->epoch_max = m->welcome.epoch;
        if (p->role == SMOE_ROLE_TRAINER)
            see_attempt(p, m->welcome.attempt);
        break;
    case SMOE_MSG_NEED:
        see_attempt(p, m->need.attempt);
        forget_batches(p);
        break;
    case SMOE_MSG_NEED_INPUTS:
        hear_need_inputs(p, &m->need_inputs);
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
    case SMOE_MSG_PARCEL_INPUTS:
        hear_parcel_inputs(p, &m->parcel_inputs, blob);
        break;
    case SMOE_MSG_STEP_GRADIENT:
        hear_step_gradient(p, &m->step_gradient, blob);
        break;
    case SMOE_MSG_STEP_STAGE:
        p->stage = m->step_stage;
        p->stage_due = true;
        break;
    case SMOE_MSG_STEP_COMMIT:
        hear_commit(p, &m->step_commit);
        break;
    case SMOE_MSG_RESET:
        hear_reset(p, &m->reset);
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
    struct fuzz_peer before = *p;
    *p = (struct fuzz_peer){.open = true,
                            .session = session,
                            .role = role,
                            .disk = before.disk,
                            .attempt_max = before.attempt_max,
                            .epoch_max = before.epoch_max};
    memcpy(p->held, before.held, sizeof p->held);
    unsigned side = role == SMOE_ROLE_WORKER ? SMOE_TO_WORKER : SMOE_TO_TRAINER;
    smoe_channel_init(&p->ear, wire, NULL, side, 1 << 16);
    p->ear.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    for (uint32_t l = 0; l < FUZZ_LAYERS; l++)
        p->shapes[l] = (struct smoe_layer_shape){.experts = 1,
                                                 .d_model = 1,
                                                 .d_ff = 1,
                                                 .activation = 1,
                                                 .dtype = SMOE_DTYPE_F32,
                                                 .optimizer = 1};
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
    m.hosted.staleness = p->shapes[m.hosted.layer % FUZZ_LAYERS].staleness;
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
        .wire = a == 254 ? SMOE_WIRE_BF16 : SMOE_WIRE_REAL,
        .staleness = b % 16 > 12,
    };
}

/* What it really holds, from earlier connections. */
static void say_what_is_held(struct fuzz_peer *p, struct fuzz_stream *out)
{
    struct smoe_inventory_layer layers[FUZZ_LAYERS];
    uint32_t experts[FUZZ_LAYERS][FUZZ_EXPERTS];
    struct smoe_message m = {.type = SMOE_MSG_INVENTORY};
    size_t n = 0;
    for (uint32_t l = 0; l < FUZZ_LAYERS; l++) {
        const struct fuzz_held *h = &p->held[l];
        if (!h->used)
            continue;
        layers[n] = (struct smoe_inventory_layer){.run = h->run,
                                                  .step = h->step,
                                                  .attempt = h->attempt,
                                                  .shape = h->shape,
                                                  .experts = experts[n],
                                                  .staged_step = h->staged_step,
                                                  .staged_attempt = h->staged_attempt};
        memcpy(layers[n].name, h->name, sizeof h->name);
        for (uint32_t e = 0; e < h->shape.experts; e++)
            if (has(&h->current, e))
                experts[n][layers[n].n_experts++] = e;
        n++;
    }
    m.inventory = (struct smoe_msg_inventory){layers, n};
    say(p, &m, 0, out);
}

/* 0..4: so many layers as the tape has them; 5: the truth. */
static void say_inventory(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    struct smoe_inventory_layer layers[4];
    static const uint32_t experts[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct smoe_message m = {.type = SMOE_MSG_INVENTORY};
    uint32_t n = fuzz_below(in, 6);
    if (n == 5) {
        say_what_is_held(p, out);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint8_t which = fuzz_u8(in), step = fuzz_u8(in);
        struct smoe_layer_shape shape = shape_from_tape(in);
        uint32_t first = step / 4 % (shape.experts < 8 ? shape.experts : 8);
        layers[i] = (struct smoe_inventory_layer){.run = 1 + which / 4 % 2,
                                                  .step = step % 4,
                                                  .shape = shape,
                                                  .experts = experts + first,
                                                  .n_experts = 0,
                                                  .staged_step = which / 32,
                                                  .staged_attempt = p->attempt_max + which / 64,
                                                  .attempt = p->attempt_max};
        layers[i].n_experts = (shape.experts < 8 ? shape.experts : 8) - first;
        layers[i].name[0] = (char)('a' + which % 4);
        layers[i].name[1] = 0;
    }
    m.inventory = (struct smoe_msg_inventory){layers, n};
    say(p, &m, 0, out);
}

static void say_job_done(struct fuzz_peer *p, struct fuzz_job *job, size_t wrong,
                         struct fuzz_stream *out)
{
    job->answered |= !job->backward && !wrong;
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
    struct fuzz_job *job = &p->jobs[(p->n_jobs - 1 - which % FUZZ_JOBS) % FUZZ_JOBS];
    struct fuzz_job other = *job;
    other.backward ^= true;
    say_job_done(p, which >> 6 == 3 ? &other : job, which >> 6 == 2 ? 4 : 0, out);
}

/* Gives up x of a job: one that was answered, or any. */
static void say_evicted(struct fuzz_peer *p, uint8_t which, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_EVICTED};
    struct fuzz_job *job = &p->jobs[(p->n_jobs - 1 - which % FUZZ_JOBS) % FUZZ_JOBS];
    uint64_t ids[2] = {job->id, job->id};
    if (!job->id || (!job->answered && which < 192))
        return;
    for (uint32_t j = 0; j < FUZZ_JOBS; j++)
        if (p->jobs[j].id == job->id)
            p->jobs[j].evicted = true;
    m.evicted = (struct smoe_msg_evicted){ids, 1 + (which == 255)};
    say(p, &m, 0, out);
}

/* A gradient sum that was asked for, or not, for a step that is being made, or not. */
static void say_step_gradient(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_GRADIENT};
    uint32_t l = how % FUZZ_LAYERS;
    m.step_gradient = (struct smoe_msg_step_gradient){
        p->prepare.step + (how >> 7), p->prepare.attempt, l, how / 8 % 8, p->prepare.owner};
    say(p, &m, state_bytes(&p->shapes[l], SMOE_STATE_GRADIENT) + (how >= 192), out);
}

static void say_evicted_or_gradient(struct fuzz_peer *p, struct fuzz_input *in,
                                    struct fuzz_stream *out)
{
    uint8_t what = fuzz_u8(in);
    if (what % 4)
        say_evicted(p, fuzz_u8(in), out);
    else
        say_step_gradient(p, fuzz_u8(in), out);
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
        .forward_row_flops = (uint64_t)a << b % 48,
        .backward_row_flops = b,
    };
    say(p, &m, 0, out);
}

static void say_gradients(struct fuzz_peer *p, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_GRADIENT};
    for (uint32_t l = 0; l < SMOE_LAYERS_MAX; l++)
        for (uint32_t e = 0; e < FUZZ_EXPERTS; e++) {
            if (!has(&p->gradients[l], e))
                continue;
            m.step_gradient = (struct smoe_msg_step_gradient){p->prepare.step, p->prepare.attempt,
                                                              l, e, p->prepare.owner};
            say(p, &m, state_bytes(&p->shapes[l % FUZZ_LAYERS], SMOE_STATE_GRADIENT), out);
        }
}

/* With the gradient sums before it, as it must be. */
static void say_norm(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    if (how < 253)
        say_gradients(p, out);
    struct smoe_layer_norms layers[SMOE_LAYERS_MAX];
    uint32_t experts[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    double norms[8] = {0, 1, 2, 3, 4, 5, 6, how == 255 ? -1 : 7};
    struct smoe_message m = {.type = SMOE_MSG_STEP_NORM};
    size_t n = p->prepare.n_layers;
    for (size_t i = 0; i < n; i++)
        layers[i] = (struct smoe_layer_norms){p->prepare_layers[i], experts, norms, 8};
    m.step_norm = (struct smoe_msg_step_norm){
        p->prepare.step, p->prepare.attempt + (how == 254), layers, n, p->prepare.owner, 0};
    say(p, &m, 0, out);
    p->prepare_due = false;
}

static void say_staged(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_STEP_STAGED};
    m.step_staged = (struct smoe_msg_step_staged){p->stage.step, p->stage.attempt + (how == 254),
                                                  p->stage.owner};
    for (size_t i = 0; i < p->prepare.n_layers; i++) {
        struct fuzz_held *h = &p->held[p->prepare_layers[i] % FUZZ_LAYERS];
        if (!h->used || p->prepare.owner != p->stage.owner)
            continue;
        h->staged_step = p->stage.step;
        h->staged_attempt = p->stage.attempt;
    }
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
        struct fuzz_held *h = &p->held[s->layer % FUZZ_LAYERS];
        settle_staged(h, s->step, s->attempt);
        put(&h->current, s->expert);
        return;
    }
    const struct smoe_msg_expert_fetch *f = &asked.expert_fetch;
    uint64_t step = how ? how % 4 : p->held[f->layer % FUZZ_LAYERS].step;
    m.expert_state =
        (struct smoe_msg_expert_state){f->request, f->layer, f->expert, f->parts, step, 0, 0, 0};
    say(p, &m, state_bytes(&p->shapes[f->layer % FUZZ_LAYERS], f->parts) + (how == 255), out);
}

static void worker_answers(struct fuzz_peer *p, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_HOSTED};
    for (; p->n_hosts; p->n_hosts--) {
        m.hosted.layer = p->hosts[p->n_hosts - 1];
        m.hosted.staleness = p->shapes[m.hosted.layer % FUZZ_LAYERS].staleness;
        say(p, &m, 0, out);
    }
    uint32_t n = p->n_jobs < FUZZ_JOBS ? p->n_jobs : FUZZ_JOBS;
    for (uint32_t i = n; i > 0; i--) {
        struct fuzz_job *job = &p->jobs[(p->n_jobs - i) % FUZZ_JOBS];
        if (!job->backward || !job->evicted)
            say_job_done(p, job, 0, out);
    }
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
        say_job(p, in, out);
        break;
    case 7:
        say_evicted_or_gradient(p, in, out);
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

/* A router of zeros, with the second highest bit under a wrong name. */
static void say_freeze(struct fuzz_peer *p, uint8_t how, struct fuzz_stream *out)
{
    static const float zeros[5 * FUZZ_EXPERTS];
    uint32_t l = how % FUZZ_LAYERS, experts = p->shapes[l].experts;
    struct smoe_message m = {.type = SMOE_MSG_FREEZE};
    experts = experts < 1 ? 1 : experts > FUZZ_EXPERTS ? FUZZ_EXPERTS : experts;
    struct smoe_frozen_head head = {1 + how / 16 % 4, 1 + how / 8 % 2, 5, 0};
    head.digest = smoe_frozen_digest(head.kind, head.inputs, experts, zeros) ^ (how >> 6 & 1);
    m.freeze = (struct smoe_msg_freeze){how, l, head};
    p->routers[l] = head;
    size_t bytes = head.inputs * experts * sizeof *zeros, at = out->n;
    say(p, &m, bytes, out);
    if (out->n > at)
        memset(out->bytes + out->n - bytes, 0, bytes);
}

/* What a router of zeros reads, in the place of scores. */
static void take_zeros(struct fuzz_stream *out, size_t at, size_t bytes, size_t choices)
{
    if (out->n > at && bytes <= 1 << 18)
        memset(out->bytes + out->n - bytes, 0, choices);
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
                                        .routed = c & 32,
                                        .ahead = (c & 20) == 4,
                                        .base = a / 32};
    if (b == 255)
        m.submit.tokens = 3000;
    const struct smoe_layer_shape *shape = &p->shapes[m.submit.layer];
    const struct smoe_frozen_head *router = &p->routers[m.submit.layer];
    bool coded = (c & 8) && !m.submit.routed && router->version;
    if (coded) {
        m.submit.router_version = router->version;
        m.submit.router_digest = router->digest;
    }
    size_t choices = m.submit.routed ? (m.submit.tokens * m.submit.top_k * 2 + 7) / 8 * 8
                     : coded         ? smoe_frozen_bytes(router, m.submit.tokens)
                                     : m.submit.tokens * shape->experts * 4;
    size_t bytes = choices + m.submit.tokens * row_bytes(p, m.submit.layer);
    remember_batch(p, &m.submit);
    size_t at = out->n;
    say(p, &m, bytes + (b == 254), out);
    if (coded && b != 253) /* else what the tape says: codes that the router does not have */
        take_zeros(out, at, bytes + (b == 254), choices);
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

/* x of a batch, wrong by so many bytes. */
static void say_inputs(struct fuzz_peer *p, struct fuzz_batch *b, uint64_t attempt, size_t wrong,
                       struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_INPUTS};
    m.inputs = (struct smoe_msg_inputs){b->id, attempt};
    b->inputs_due = false;
    if (b->id)
        say(p, &m, b->tokens * row_bytes(p, b->layer) + wrong, out);
}

static void trainer_answers(struct fuzz_peer *p, struct fuzz_stream *out)
{
    for (uint32_t i = 0; i < FUZZ_BATCHES; i++)
        if (p->batches[i].inputs_due)
            say_inputs(p, &p->batches[i], p->attempt, 0, out);
}

void fuzz_peer_answer_all(struct fuzz_peer *p, struct fuzz_stream *out)
{
    if (p->role == SMOE_ROLE_WORKER)
        worker_answers(p, out);
    else
        trainer_answers(p, out);
}

/* With the highest bit Inputs of a batch instead, asked for or not. */
static void say_restore(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    uint8_t how = fuzz_u8(in);
    if (how & 128) {
        say_inputs(p, &p->batches[how % FUZZ_BATCHES], p->attempt - (how >> 6 & 1), how >> 5 & 1,
                   out);
        return;
    }
    m.restore = (struct smoe_msg_restore){how % 8, p->attempt};
    p->step = m.restore.step;
    say(p, &m, 0, out);
}

/* With the highest bit a Freeze instead. */
static void say_fetch(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in);
    if (a & 128) {
        say_freeze(p, a, out);
        return;
    }
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_FETCH};
    m.expert_fetch = (struct smoe_msg_expert_fetch){a, a % FUZZ_LAYERS, a / 8 % 8, 1 + a % 7};
    say(p, &m, 0, out);
}

static void say_store(struct fuzz_peer *p, struct fuzz_input *in, struct fuzz_stream *out)
{
    uint8_t a = fuzz_u8(in);
    struct smoe_message m = {.type = SMOE_MSG_EXPERT_STORE};
    m.expert_store =
        (struct smoe_msg_expert_store){a, a % FUZZ_LAYERS, a / 8 % 8, 3, p->step, a / 64};
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
