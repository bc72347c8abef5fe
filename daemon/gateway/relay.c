/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors on their way through the gateway.
 *
 * Trainer to worker: a batch's x (later its dy) lies in one blob as it was received. A Decision for a
 * worker needs some of its rows, so they are gathered into a blob of their own: the one copy of that
 * way. Worker to trainer: y and dx go on in the blob they came in; only the list of visits in front
 * of them is made here. The input blob is kept until all forwards of the batch are done, dy only
 * while it is handed out.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/within.h"
#include "daemon/gateway/gateway_state.h"

/* Copies rows: row v of `from` if the visit is a dy row, row v / top_k if it is an x row. */
static void gather(uint8_t *to, const uint8_t *from, const struct smoe_parcel_view *parcel,
                   size_t row_bytes, uint32_t divide)
{
    for (uint32_t i = 0; i < parcel->rows; i++, to += row_bytes)
        memcpy(to, from + (size_t)(parcel->visits[i] / divide) * row_bytes, row_bytes);
}

static int gather_parcels(struct smoe_gateway *gw, const struct smoe_action *a, bool gradient,
                          struct smoe_segment *ret)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < a->n_parcels; i++) {
        struct smoe_parcel_view p = smoe_core_parcel(gw->core, a->parcels[i]);
        bytes += p.rows * smoe_core_batch(gw->core, p.batch).row_bytes;
    }
    struct smoe_blob *blob = smoe_blob_new(&gw->budget, bytes);
    if (!blob)
        return SMOE_ENOMEMORY;
    uint8_t *to = blob->data;
    for (uint32_t i = 0; i < a->n_parcels; i++) {
        struct smoe_parcel_view p = smoe_core_parcel(gw->core, a->parcels[i]);
        struct smoe_batch_view b = smoe_core_batch(gw->core, p.batch);
        const struct smoe_gate_batch *stored = &gw->batches[p.batch];
        if (gradient)
            gather(to, stored->gradient->data, &p, b.row_bytes, 1);
        else
            gather(to, stored->input->data + stored->x_offset, &p, b.row_bytes, b.top_k);
        to += p.rows * b.row_bytes;
    }
    *ret = (struct smoe_segment){blob, blob->data, bytes};
    return 0;
}

/* The visits of a parcel, with their scores or with padding to 8 bytes. */
static int visit_list(struct smoe_gateway *gw, uint32_t parcel, bool with_scores,
                      struct smoe_segment *ret)
{
    struct smoe_parcel_view p = smoe_core_parcel(gw->core, parcel);
    struct smoe_batch_view b = smoe_core_batch(gw->core, p.batch);
    size_t list = p.rows * sizeof(uint32_t);
    size_t bytes = with_scores ? 2 * list : (list + 7) / 8 * 8;
    struct smoe_blob *blob = smoe_blob_new(&gw->budget, bytes);
    if (!blob)
        return SMOE_ENOMEMORY;
    memset(blob->data, 0, bytes);
    memcpy(blob->data, p.visits, list);
    const struct smoe_gate_batch *stored = &gw->batches[p.batch];
    for (uint32_t i = 0; with_scores && stored->scores && i < p.rows; i++) {
        size_t token = p.visits[i] / b.top_k;
        memcpy(blob->data + list + i * sizeof(float), &stored->scores[token * b.experts + p.expert],
               sizeof(float));
    }
    *ret = (struct smoe_segment){blob, blob->data, bytes};
    return 0;
}

/* Nothing is copied: the pieces go out of the blob in which they came. */
static int cut(const struct smoe_action *a, struct smoe_blob *blob, struct smoe_segment *segments,
               size_t *ret_n)
{
    for (uint32_t i = 0; i < a->cut.n; i++) {
        uint64_t at = i * a->cut.stride + a->cut.offset;
        smoe_assert(at + a->cut.bytes <= blob->bytes);
        segments[i] = (struct smoe_segment){smoe_blob_ref(blob), blob->data + at, a->cut.bytes};
    }
    *ret_n = a->cut.n;
    return 0;
}

int smoe_relay_segments(struct smoe_gateway *gw, const struct smoe_action *a,
                        struct smoe_blob *blob, struct smoe_segment segments[SMOE_SEGMENTS_MAX],
                        size_t *ret_n)
{
    int rc = 0;
    *ret_n = 0;
    switch (a->tensor) {
    case SMOE_TENSOR_NONE:
        return 0;
    case SMOE_TENSOR_X:
        rc = gather_parcels(gw, a, false, &segments[0]);
        break;
    case SMOE_TENSOR_DY:
        rc = gather_parcels(gw, a, true, &segments[0]);
        break;
    case SMOE_TENSOR_Y:
        rc = visit_list(gw, a->parcels[0], true, &segments[0]);
        break;
    case SMOE_TENSOR_DX:
        rc = visit_list(gw, a->parcels[0], false, &segments[0]);
        break;
    case SMOE_TENSOR_CUT:
        return cut(a, blob, segments, ret_n);
    case SMOE_TENSOR_PASS:
        segments[0] = (struct smoe_segment){smoe_blob_ref(blob), blob->data, blob->bytes};
        break;
    }
    if (rc)
        return rc;
    *ret_n = 1;
    if (a->tensor == SMOE_TENSOR_Y || a->tensor == SMOE_TENSOR_DX) {
        segments[1] = (struct smoe_segment){smoe_blob_ref(blob), blob->data, blob->bytes};
        *ret_n = 2;
    }
    return 0;
}

void smoe_relay_release(struct smoe_segment *segments, size_t n)
{
    for (size_t i = 0; i < n; i++)
        smoe_blob_unref(segments[i].blob);
}

/* Bytes in front of x: experts, what a router reads, or scores. */
static size_t choice_bytes(const struct smoe_msg_submit *m, const struct smoe_layer_view *layer)
{
    if (m->routed)
        return ((size_t)m->tokens * m->top_k * sizeof(uint16_t) + 7) / 8 * 8;
    if (m->router_version)
        return smoe_frozen_bytes(&layer->router, m->tokens);
    return (size_t)m->tokens * layer->shape.experts * sizeof(float);
}

/* Where the scores of the Submit in hand are: in its raw part, or made by its router; or why they are not. */
static void find_scores(struct smoe_gateway *gw, const struct smoe_msg_submit *m,
                        const struct smoe_blob *blob, struct smoe_event *event,
                        struct smoe_why *why)
{
    gw->spare_scores = m->routed ? NULL : (const float *)(const void *)blob->data;
    if (m->router_version) {
        event->refused = smoe_gate_routers_score(gw, m, blob, &gw->spare_scored, why);
        event->refused_why = why->text;
        gw->spare_scores =
            event->refused ? NULL : (const float *)(const void *)gw->spare_scored->data;
    }
    event->scores = gw->spare_scores;
}

bool smoe_relay_good(const struct smoe_gateway *gw, const struct smoe_gate_session *session,
                     const struct smoe_message *message, const struct smoe_blob *blob)
{
    if (!blob)
        return true;
    struct smoe_numbers n =
        smoe_core_numbers(gw->core, (uint32_t)(session - gw->sessions), message);
    if (!n.any || n.skip > blob->bytes)
        return true;
    return smoe_within(blob->data + n.skip, blob->bytes - n.skip, n.bytes, n.limit);
}

int smoe_relay_prepare_submit(struct smoe_gateway *gw, const struct smoe_msg_submit *m,
                              struct smoe_blob *blob, struct smoe_event *event,
                              struct smoe_why *why)
{
    struct smoe_layer_view layer = smoe_core_layer(gw->core, m->layer);
    if (!smoe_gate_routers_stand(gw, m))
        return 0; /* the core refuses it, in words that name both: nothing of its raw part is looked at */
    size_t choices = choice_bytes(m, &layer);
    size_t real_bytes = layer.shape.dtype == SMOE_DTYPE_F64 ? 8 : 4;
    if (!blob || blob->bytes != choices + (size_t)m->tokens * layer.shape.d_model * real_bytes)
        return smoe_fail(why, SMOE_ESHAPE, "SUBMIT: the layer was replaced meanwhile");
    gw->spare_room = malloc(smoe_core_batch_room(m->tokens, m->top_k) * sizeof *gw->spare_room);
    if (!gw->spare_room)
        return smoe_fail(why, SMOE_ENOMEMORY, "SUBMIT: no memory for %u tokens", m->tokens);
    gw->spare_x_offset = choices;
    event->room = gw->spare_room;
    event->experts = m->routed ? (const uint16_t *)(const void *)blob->data : NULL;
    find_scores(gw, m, blob, event, why);
    return 0;
}

void smoe_relay_drop_unused_room(struct smoe_gateway *gw)
{
    free(gw->spare_room);
    smoe_blob_unref(gw->spare_scored);
    gw->spare_room = NULL;
    gw->spare_scored = NULL;
}

void smoe_relay_take_batch(struct smoe_gateway *gw, uint32_t batch, struct smoe_blob *blob)
{
    struct smoe_gate_batch *b = &gw->batches[batch];
    smoe_assert(!b->input && !b->room && gw->spare_room);
    *b = (struct smoe_gate_batch){.input = smoe_blob_ref(blob),
                                  .x_offset = gw->spare_x_offset,
                                  .scores = gw->spare_scores,
                                  .scored = gw->spare_scored,
                                  .room = gw->spare_room};
    gw->spare_room = NULL;
    gw->spare_scored = NULL;
}

void smoe_relay_take_inputs(struct smoe_gate_batch *batch, struct smoe_blob *blob)
{
    smoe_assert(!batch->input);
    batch->input = smoe_blob_ref(blob);
    batch->x_offset = 0;
}

void smoe_relay_free_input(struct smoe_gate_batch *batch)
{
    smoe_blob_unref(batch->input);
    smoe_blob_unref(batch->scored);
    batch->input = batch->scored = NULL;
    batch->scores = NULL;
}

void smoe_relay_free_batch(struct smoe_gate_batch *batch)
{
    smoe_relay_free_input(batch);
    smoe_blob_unref(batch->gradient);
    free(batch->room);
    *batch = (struct smoe_gate_batch){0};
}
