/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers, the optimizer step, and requests for expert state.
 *
 * Request numbers carry their kind in the top byte, so that an Error can be told to its owner: 1 a layer
 * declaration, 2 an expert-state request, 3 a Freeze, 4 a RouterQuery; a refused Step answers with the plain
 * step number.
 *
 * A step that was sent may be committed although its answer was lost with the connection: the gateway
 * then tells a committed step in LayerReady, nothing of that step is sent again, and a bare Step asks
 * for its result.
 *
 * A Restore has no answer of its own. Until one has come to something that was sent behind it, it is sent again on
 * every connection, before everything else, and layers are declared without a step: a second one changes nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/libstablemoe/core/uplink_state.h"
#include "common/base/assert.h"
#include "common/base/text.h"

#define KIND_SHIFT 56

uint64_t smoe_request_number(uint64_t kind, uint32_t index)
{
    return kind << KIND_SHIFT | (index + 1);
}

bool smoe_request_index(uint64_t request, uint64_t kind, uint32_t bound, uint32_t *ret)
{
    uint64_t index = (request & ((UINT64_C(1) << KIND_SHIFT) - 1)) - 1;
    if (request >> KIND_SHIFT != kind || index >= bound)
        return false;
    *ret = (uint32_t)index;
    return true;
}

/* ---- layers ---- */

int smoe_uplink_declare(struct smoe_uplink *u, const char *name,
                        const struct smoe_layer_shape *shape, bool evaluate_only,
                        uint32_t *ret_layer, struct smoe_why *why)
{
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (!smoe_name_valid(name, strnlen(name, SMOE_NAME_MAX + 1)))
        return smoe_fail(why, SMOE_EFIELD, "layer name: must be 1..%d of [A-Za-z0-9._-]",
                         SMOE_NAME_MAX);
    if (u->n_layers == SMOE_LAYERS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "layer %s: %d layers are declared already", name,
                         SMOE_LAYERS_MAX);
    *ret_layer = u->n_layers++;
    struct smoe_uplink_layer *layer = &u->layers[*ret_layer];
    *layer = (struct smoe_uplink_layer){.evaluate_only = evaluate_only, .run = u->options.run};
    snprintf(layer->name, sizeof layer->name, "%s", name);
    if (shape)
        layer->shape = *shape;
    smoe_uplink_pump(u);
    return 0;
}

const struct smoe_uplink_layer *smoe_uplink_layer(const struct smoe_uplink *u, uint32_t layer)
{
    return &u->layers[layer];
}

void smoe_layers_pump(struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++) {
        struct smoe_uplink_layer *layer = &u->layers[l];
        if (layer->asked || layer->state != SMOE_ULAYER_WANTED)
            continue;
        struct smoe_message m = {.type = SMOE_MSG_LAYER_DECLARE};
        m.layer_declare.request = smoe_request_number(SMOE_REQUEST_LAYER, l);
        memcpy(m.layer_declare.name, layer->name, sizeof m.layer_declare.name);
        m.layer_declare.run = layer->run;
        m.layer_declare.shape = layer->shape;
        m.layer_declare.evaluate_only = layer->evaluate_only;
        m.layer_declare.step = layer->evaluate_only || u->restoring ? 0 : layer->step;
        layer->asked = smoe_uplink_send(u, &m, NULL, 0) == 0;
    }
}

bool smoe_layers_ready(const struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++)
        if (u->layers[l].state == SMOE_ULAYER_WANTED)
            return false;
    return true;
}

void smoe_layer_answered(struct smoe_uplink *u, const struct smoe_msg_layer_ready *m)
{
    uint32_t l;
    if (!smoe_request_index(m->request, SMOE_REQUEST_LAYER, u->n_layers, &l))
        return;
    struct smoe_uplink_layer *layer = &u->layers[l];
    bool ours = m->shape.dtype == (u->options.real_bytes == 8 ? SMOE_DTYPE_F64 : SMOE_DTYPE_F32);
    layer->wire = m->layer;
    layer->step = u->restoring ? u->steps : m->step; /* which it is about to hear */
    layer->shape = m->shape;
    layer->state = ours ? SMOE_ULAYER_READY : SMOE_ULAYER_FAILED;
    smoe_routers_found(u, l, &m->router);
    if (!ours)
        layer->code = smoe_fail(&layer->why, SMOE_ESHAPE,
                                "layer %s: has another number type than this "
                                "library",
                                layer->name);
}

/* ---- the step ---- */

int smoe_uplink_step(struct smoe_uplink *u, const struct smoe_msg_step *message,
                     struct smoe_why *why)
{
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (u->step.pending)
        return smoe_fail(why, SMOE_ESTATE, "step: step %llu is not done",
                         (unsigned long long)u->step.message.step);
    smoe_list_for_each (it, &u->tickets) {
        const struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (!t->evaluate && t->state < SMOE_TICKET_COMMITTED && !t->dy)
            return smoe_fail(why, SMOE_ESTATE,
                             "step: batch %llu has no gradient: give it one or release "
                             "its ticket",
                             (unsigned long long)t->batch);
    }
    if (u->spoilt) {
        int rc = smoe_fail(why, u->spoilt, "%s", u->spoilt_why.text);
        u->spoilt = 0; /* said once: whoever goes on all the same may */
        return rc;
    }
    u->step = (struct smoe_step_state){.pending = true, .message = *message};
    u->step.message.step = u->steps + 1;
    smoe_uplink_pump(u);
    return 0;
}

const struct smoe_step_state *smoe_uplink_step_state(const struct smoe_uplink *u)
{
    return &u->step;
}

void smoe_uplink_step_taken(struct smoe_uplink *u)
{
    u->step.done = false;
}

uint64_t smoe_uplink_steps(const struct smoe_uplink *u)
{
    return u->steps;
}

/* The gateway has committed the pending step and we have not heard of it. */
static bool committed_unheard(const struct smoe_uplink *u)
{
    for (uint32_t l = 0; l < u->n_layers; l++)
        if (!u->layers[l].evaluate_only && u->layers[l].step == u->step.message.step)
            return u->step.sent_before;
    return false;
}

static size_t list_batches(const struct smoe_uplink *u, uint64_t *ret_ids)
{
    size_t n = 0;
    smoe_list_for_each (it, &u->tickets) {
        const struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (!t->evaluate && t->step == u->step.message.step &&
            (t->state == SMOE_TICKET_GRADIENT || t->state == SMOE_TICKET_SETTLED) &&
            n < SMOE_STEP_BATCHES_MAX)
            ret_ids[n++] = t->batch;
    }
    return n;
}

void smoe_step_pump(struct smoe_uplink *u)
{
    struct smoe_step_state *s = &u->step;
    uint64_t ids[SMOE_STEP_BATCHES_MAX];
    if (!s->pending || s->sent)
        return;
    bool unheard = committed_unheard(u);
    if (!unheard && !smoe_tickets_gradients_sent(u, s->message.step))
        return;
    struct smoe_message m = {.type = SMOE_MSG_STEP};
    m.step = s->message;
    m.step.attempt = u->attempt;
    m.step.batches = ids;
    m.step.n_batches = unheard ? 0 : list_batches(u, ids);
    s->sent = smoe_uplink_send(u, &m, NULL, 0) == 0;
    s->sent_before |= s->sent;
    if (s->sent)
        smoe_tickets_pump(u); /* batches after the step were waiting for it */
}

void smoe_step_answered(struct smoe_uplink *u, const struct smoe_msg_step_done *m)
{
    struct smoe_step_state *s = &u->step;
    if (!s->pending || m->step != s->message.step)
        return;
    s->pending = s->sent = s->sent_before = false;
    s->done = true;
    s->code = 0;
    s->result = *m;
    u->steps = m->step;
    for (uint32_t l = 0; l < u->n_layers; l++)
        u->layers[l].step = m->step;
    smoe_tickets_commit(u, m->step);
}

int smoe_uplink_restore(struct smoe_uplink *u, uint64_t step, struct smoe_why *why)
{
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (u->link != SMOE_ULINK_UP || !smoe_layers_ready(u))
        return smoe_fail(why, SMOE_ESTATE, "restore: not connected");
    smoe_list_for_each_safe (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (!t->evaluate && t->state < SMOE_TICKET_COMMITTED)
            smoe_ticket_fail(t, SMOE_ECANCELED, "dropped by a restore");
    }
    u->step = (struct smoe_step_state){0};
    u->spoilt = 0;
    u->steps = step;
    for (uint32_t l = 0; l < u->n_layers; l++)
        u->layers[l].step = step;
    u->restoring = true;
    u->restore_sent = false;
    smoe_restore_pump(u);
    return 0;
}

void smoe_restore_pump(struct smoe_uplink *u)
{
    struct smoe_message m = {.type = SMOE_MSG_RESTORE};
    m.restore = (struct smoe_msg_restore){u->steps, u->attempt};
    if (u->restoring && !u->restore_sent)
        u->restore_sent = smoe_uplink_send(u, &m, NULL, 0) == 0;
}

/* ---- expert state ---- */

size_t smoe_uplink_params(const struct smoe_layer_shape *shape)
{
    size_t matrices = shape->activation == 3 ? 3 : 2;
    return matrices * shape->d_model * shape->d_ff + shape->d_ff + shape->d_model;
}

size_t smoe_uplink_elements(const struct smoe_layer_shape *shape, uint32_t parts)
{
    size_t vectors = (parts & SMOE_STATE_WEIGHTS ? 1u : 0u) +
                     (parts & SMOE_STATE_MOMENTS ? (shape->optimizer == 2 ? 2u : 1u) : 0u) +
                     (parts & SMOE_STATE_GRADIENT ? 1u : 0u);
    return vectors * smoe_uplink_params(shape);
}

static bool fill_request(struct smoe_uplink *u, struct smoe_uplink_request *r, const void *values,
                         uint32_t layer, uint32_t expert, uint32_t parts)
{
    r->used = true;
    r->bytes = smoe_uplink_elements(&u->layers[layer].shape, parts) * u->options.real_bytes;
    if (!values) {
        r->message.type = SMOE_MSG_EXPERT_FETCH;
        r->message.expert_fetch = (struct smoe_msg_expert_fetch){0, layer, expert, parts};
        return true;
    }
    r->message.type = SMOE_MSG_EXPERT_STORE;
    r->message.expert_store = (struct smoe_msg_expert_store){
        .layer = layer, .expert = expert, .parts = parts, .step = u->steps};
    r->values = smoe_blob_new(&u->budget, r->bytes);
    if (r->values)
        memcpy(r->values->data, values, r->bytes);
    return r->values != NULL;
}

int smoe_uplink_state(struct smoe_uplink *u, uint32_t layer, uint32_t expert, uint32_t parts,
                      const void *values, uint32_t *ret_request, struct smoe_why *why)
{
    uint32_t i = 0;
    if (u->failed)
        return smoe_fail(why, u->failed, "%s", u->failure.text);
    if (expert >= u->layers[layer].shape.experts)
        return smoe_fail(why, SMOE_EFIELD, "expert %u: layer %s has %u", expert,
                         u->layers[layer].name, u->layers[layer].shape.experts);
    while (i < SMOE_REQUESTS_MAX && u->requests[i].used)
        i++;
    if (i == SMOE_REQUESTS_MAX)
        return smoe_fail(why, SMOE_ELIMIT, "%d expert-state requests are open", SMOE_REQUESTS_MAX);
    struct smoe_uplink_request *r = &u->requests[i];
    *r = (struct smoe_uplink_request){0};
    if (!fill_request(u, r, values, layer, expert, parts)) {
        smoe_uplink_request_release(u, i);
        return smoe_fail(why, SMOE_ENOMEMORY, "out of memory for an expert's state");
    }
    if (r->bytes > u->tensor_bytes_max && u->tensor_bytes_max) {
        size_t bytes = r->bytes;
        smoe_uplink_request_release(u, i);
        return smoe_fail(why, SMOE_ETOOBIG,
                         "an expert's state has %zu bytes, the gateway takes %llu a "
                         "message",
                         bytes, (unsigned long long)u->tensor_bytes_max);
    }
    *ret_request = i;
    smoe_uplink_pump(u);
    return 0;
}

const struct smoe_uplink_request *smoe_uplink_request(const struct smoe_uplink *u, uint32_t request)
{
    return &u->requests[request];
}

void smoe_uplink_request_release(struct smoe_uplink *u, uint32_t request)
{
    smoe_blob_unref(u->requests[request].values);
    u->requests[request] = (struct smoe_uplink_request){0};
}

void smoe_requests_pump(struct smoe_uplink *u)
{
    for (uint32_t i = 0; i < SMOE_REQUESTS_MAX; i++) {
        struct smoe_uplink_request *r = &u->requests[i];
        if (!r->used || r->sent || r->done)
            continue;
        struct smoe_message m = r->message;
        struct smoe_segment segment = {r->values, NULL, r->bytes};
        bool store = m.type == SMOE_MSG_EXPERT_STORE;
        if (store) {
            m.expert_store.request = smoe_request_number(SMOE_REQUEST_STATE, i);
            m.expert_store.layer = u->layers[m.expert_store.layer].wire;
            segment.data = r->values->data;
        } else {
            m.expert_fetch.request = smoe_request_number(SMOE_REQUEST_STATE, i);
            m.expert_fetch.layer = u->layers[m.expert_fetch.layer].wire;
        }
        r->sent = smoe_uplink_send(u, &m, &segment, store ? 1 : 0) == 0;
    }
}

void smoe_requests_start_over(struct smoe_uplink *u)
{
    for (uint32_t i = 0; i < SMOE_REQUESTS_MAX; i++)
        u->requests[i].sent = false;
}

static const struct smoe_layer_shape *shape_of(const struct smoe_uplink *u,
                                               const struct smoe_uplink_request *r)
{
    return &u->layers[r->message.expert_fetch.layer].shape;
}

#define PIECE_PARTS (SMOE_STATE_WEIGHTS | SMOE_STATE_MOMENTS)

static size_t piece_vectors(const struct smoe_layer_shape *shape)
{
    return smoe_uplink_elements(shape, PIECE_PARTS) / smoe_uplink_params(shape);
}

/* A piece of a sharded expert: weights and moments of its elements, whatever was asked for. */
static int expect_piece(const struct smoe_uplink *u, const struct smoe_uplink_request *r,
                        const struct smoe_msg_expert_state *m, size_t bytes, struct smoe_why *why)
{
    const struct smoe_layer_shape *shape = shape_of(u, r);
    size_t params = smoe_uplink_params(shape);
    if (m->parts != PIECE_PARTS || m->offset >= params || m->length > params - m->offset ||
        bytes != piece_vectors(shape) * m->length * u->options.real_bytes)
        return smoe_fail(why, SMOE_ESHAPE,
                         "EXPERT_STATE: %zu bytes for %llu elements at %llu of %zu", bytes,
                         (unsigned long long)m->length, (unsigned long long)m->offset, params);
    return 0;
}

int smoe_request_expect(const struct smoe_uplink *u, const struct smoe_msg_expert_state *m,
                        size_t bytes, struct smoe_why *why)
{
    uint32_t i;
    if (!smoe_request_index(m->request, SMOE_REQUEST_STATE, SMOE_REQUESTS_MAX, &i) ||
        !u->requests[i].used || u->requests[i].message.type != SMOE_MSG_EXPERT_FETCH)
        return SMOE_CHANNEL_SKIP;
    if (m->length)
        return expect_piece(u, &u->requests[i], m, bytes, why);
    if (bytes != u->requests[i].bytes)
        return smoe_fail(why, SMOE_ESHAPE, "EXPERT_STATE: raw part of %zu bytes, expected %zu",
                         bytes, u->requests[i].bytes);
    return 0;
}

/* Copies what was asked for of the piece to its places; false: there is no memory. */
static bool take_piece(struct smoe_uplink *u, struct smoe_uplink_request *r,
                       const struct smoe_msg_expert_state *m, const struct smoe_blob *blob)
{
    const struct smoe_layer_shape *shape = shape_of(u, r);
    size_t real = u->options.real_bytes, params = smoe_uplink_params(shape), to = 0;
    uint32_t parts = r->message.expert_fetch.parts;
    if (!r->values)
        r->values = smoe_blob_new(NULL, r->bytes);
    if (!r->values)
        return false;
    if (r->series != m->series)
        r->elements = 0;
    r->series = m->series;
    for (size_t v = 0; v < piece_vectors(shape); v++) {
        if (!(parts & (v ? SMOE_STATE_MOMENTS : SMOE_STATE_WEIGHTS)))
            continue;
        memcpy(r->values->data + (to++ * params + m->offset) * real,
               blob->data + v * m->length * real, m->length * real);
    }
    r->elements += m->length;
    r->done = r->elements >= params;
    return true;
}

void smoe_request_piece(struct smoe_uplink *u, const struct smoe_msg_expert_state *m,
                        const struct smoe_blob *blob)
{
    uint32_t i;
    if (!smoe_request_index(m->request, SMOE_REQUEST_STATE, SMOE_REQUESTS_MAX, &i) ||
        !u->requests[i].used || u->requests[i].done)
        return;
    if (!take_piece(u, &u->requests[i], m, blob))
        (void)smoe_request_failed(u, m->request, SMOE_ENOMEMORY,
                                  "out of memory for an expert's state");
}

void smoe_request_answered(struct smoe_uplink *u, uint64_t request, struct smoe_blob *blob)
{
    uint32_t i;
    if (!smoe_request_index(request, SMOE_REQUEST_STATE, SMOE_REQUESTS_MAX, &i) ||
        !u->requests[i].used)
        return;
    struct smoe_uplink_request *r = &u->requests[i];
    r->done = true;
    if (blob && r->message.type == SMOE_MSG_EXPERT_FETCH)
        r->values = smoe_blob_ref(blob);
}

/* Batches that were submitted after it are part of the next one, which is made in its place. */
static void fail_step(struct smoe_uplink *u, int code, const char *sentence)
{
    smoe_list_for_each (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->step > u->steps + 1)
            t->step = u->steps + 1;
    }
    u->step.pending = u->step.sent = false;
    u->step.done = true;
    u->step.code = smoe_fail(&u->step.why, code, "%s", sentence);
}

/* A layer that the gateway refuses takes its batches with it, and the step that needs them. */
static void fail_layer(struct smoe_uplink *u, uint32_t l, int code, const char *sentence)
{
    struct smoe_uplink_layer *layer = &u->layers[l];
    layer->state = SMOE_ULAYER_FAILED;
    layer->code = smoe_fail(&layer->why, code, "%s", sentence);
    smoe_list_for_each_safe (it, &u->tickets) {
        struct smoe_uplink_ticket *t = smoe_container_of(it, struct smoe_uplink_ticket, link);
        if (t->layer == l && t->state < (t->evaluate ? SMOE_TICKET_SETTLED : SMOE_TICKET_COMMITTED))
            smoe_ticket_fail(t, code, sentence);
    }
    if (u->step.pending && !layer->evaluate_only)
        fail_step(u, code, sentence);
}

bool smoe_request_failed(struct smoe_uplink *u, uint64_t request, int code, const char *sentence)
{
    uint32_t i;
    if (smoe_request_index(request, SMOE_REQUEST_LAYER, u->n_layers, &i)) {
        fail_layer(u, i, code, sentence);
        return true;
    }
    if (smoe_request_index(request, SMOE_REQUEST_STATE, SMOE_REQUESTS_MAX, &i) &&
        u->requests[i].used) {
        u->requests[i].done = true;
        u->requests[i].code = smoe_fail(&u->requests[i].why, code, "%s", sentence);
        return true;
    }
    if (smoe_placements_failed(u, request, code, sentence) ||
        smoe_routers_failed(u, request, code, sentence))
        return true;
    if (u->step.pending && request == u->step.message.step) {
        fail_step(u, code, sentence);
        return true;
    }
    return false;
}
