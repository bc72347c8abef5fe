/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "proto/frame.h"

#define SMALL_HEAD_BYTES 64  /* a Decision without parcels; all frames so small are of one size */
#define FRAME_BYTES_MIN  256 /* that one counts for at least: more than the smallest costs */

struct smoe_out_frame {
    struct smoe_list link;
    size_t bytes; /* all of it */
    size_t n_segments;
    struct smoe_segment segments[SMOE_SEGMENTS_MAX];
    size_t head_bytes; /* header and protobuf part */
    uint8_t head[];
};

void smoe_outbox_init(struct smoe_outbox *out, size_t bytes_max)
{
    *out = (struct smoe_outbox){.bytes_max = bytes_max};
    smoe_list_init(&out->frames);
}

static struct smoe_out_frame *frame_of(struct smoe_list *link)
{
    return smoe_container_of(link, struct smoe_out_frame, link);
}

/* What it counts for beyond its bytes, from which the kernel is served. */
static size_t padding_of(size_t bytes)
{
    return bytes < FRAME_BYTES_MIN ? FRAME_BYTES_MIN - bytes : 0;
}

static struct smoe_out_frame *frame_new(struct smoe_outbox *out, size_t head_bytes)
{
    struct smoe_out_frame *f = out->spare;
    if (head_bytes > SMALL_HEAD_BYTES)
        return malloc(sizeof *f + head_bytes);
    out->spare = NULL;
    return f ? f : malloc(sizeof *f + SMALL_HEAD_BYTES);
}

static void frame_free(struct smoe_outbox *out, struct smoe_out_frame *f)
{
    smoe_list_remove(&f->link);
    out->padding -= padding_of(f->bytes);
    for (size_t i = 0; i < f->n_segments; i++)
        smoe_blob_unref(f->segments[i].blob);
    if (!out->spare && f->head_bytes <= SMALL_HEAD_BYTES)
        out->spare = f;
    else
        free(f);
}

void smoe_outbox_release(struct smoe_outbox *out)
{
    if (!out->frames.next)
        return; /* zeroed, never initialised */
    smoe_list_for_each_safe (it, &out->frames)
        frame_free(out, frame_of(it));
    free(out->spare);
    out->spare = NULL;
    out->bytes = out->padding = out->head_written = 0;
}

static size_t sum_of(const struct smoe_segment *segments, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += segments[i].bytes;
    return bytes;
}

int smoe_outbox_put(struct smoe_outbox *out, uint16_t type, const uint8_t *body, size_t body_bytes,
                    const struct smoe_segment *segments, size_t n_segments)
{
    smoe_assert(n_segments <= SMOE_SEGMENTS_MAX && body_bytes <= SMOE_CONTROL_BYTES_MAX);
    size_t tensor_bytes = sum_of(segments, n_segments);
    if (tensor_bytes > SMOE_TENSOR_BYTES_MAX)
        return SMOE_ETOOBIG;
    size_t head_bytes = SMOE_FRAME_HEADER_BYTES + body_bytes;
    size_t bytes = head_bytes + tensor_bytes;
    size_t limit = out->bytes_max + (tensor_bytes ? 0 : SMOE_CONTROL_BYTES_MAX);
    if (out->bytes + out->padding + bytes + padding_of(bytes) > limit)
        return SMOE_ELIMIT;
    struct smoe_out_frame *f = frame_new(out, head_bytes);
    if (!f)
        return SMOE_ENOMEMORY;
    struct smoe_frame_header header = {type, (uint32_t)body_bytes, (uint32_t)tensor_bytes};
    smoe_frame_encode(&header, f->head);
    if (body_bytes)
        memcpy(f->head + SMOE_FRAME_HEADER_BYTES, body, body_bytes);
    f->head_bytes = head_bytes;
    f->bytes = bytes;
    f->n_segments = n_segments;
    for (size_t i = 0; i < n_segments; i++) {
        f->segments[i] = segments[i];
        smoe_blob_ref(segments[i].blob);
    }
    smoe_list_push_back(&out->frames, &f->link);
    out->bytes += bytes;
    out->padding += padding_of(bytes);
    return 0;
}

/* Adds a piece to the iovecs unless all of it lies within what is to be skipped. */
static size_t add_piece(struct iovec *iovec, const void *data, size_t bytes, size_t *skip)
{
    if (*skip >= bytes) {
        *skip -= bytes;
        return 0;
    }
    void *start;
    memcpy(&start, &data, sizeof start); /* iovec is not const although writev only reads */
    iovec->iov_base = (char *)start + *skip;
    iovec->iov_len = bytes - *skip;
    *skip = 0;
    return 1;
}

size_t smoe_outbox_peek(const struct smoe_outbox *out, struct iovec *iovecs, size_t max)
{
    size_t n = 0;
    size_t skip = out->head_written;
    smoe_list_for_each (it, &out->frames) {
        const struct smoe_out_frame *f = frame_of(it);
        if (n < max)
            n += add_piece(&iovecs[n], f->head, f->head_bytes, &skip);
        for (size_t i = 0; i < f->n_segments && n < max; i++)
            n += add_piece(&iovecs[n], f->segments[i].data, f->segments[i].bytes, &skip);
        if (n == max)
            break;
    }
    return n;
}

void smoe_outbox_consume(struct smoe_outbox *out, size_t bytes)
{
    smoe_assert(bytes <= out->bytes);
    out->bytes -= bytes;
    out->head_written += bytes;
    while (!smoe_list_empty(&out->frames)) {
        struct smoe_out_frame *f = frame_of(smoe_list_first(&out->frames));
        if (out->head_written < f->bytes)
            return;
        out->head_written -= f->bytes;
        frame_free(out, f);
    }
    smoe_assert(out->head_written == 0);
}
