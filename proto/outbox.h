/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames waiting to be written to one peer, in order. A frame is a header and protobuf part, owned by
 * the outbox, followed by segments of blobs, referenced. It gives out iovecs and takes back how much
 * of them was written; it knows no socket. Bounded: a peer that does not read is found out by
 * `bytes_max`, not by the kernel's memory. A small frame counts for what it costs, not for its few bytes.
 */
#ifndef SMOE_PROTO_OUTBOX_H
#define SMOE_PROTO_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/list.h"
#include "proto/blob.h"

#define SMOE_SEGMENTS_MAX 4

struct smoe_segment {
    struct smoe_blob *blob; /* holds `data`; a reference is taken while queued */
    const uint8_t *data;
    size_t bytes;
};

struct smoe_outbox {
    struct smoe_list frames;
    struct smoe_out_frame *spare; /* a small frame's memory, for the next one; or NULL */
    size_t head_written;          /* bytes of the first frame already written */
    size_t bytes;                 /* queued and not yet written, raw parts included */
    size_t padding;               /* that small frames count for beyond their bytes */
    size_t bytes_max;             /* of both */
};

void smoe_outbox_init(struct smoe_outbox *out, size_t bytes_max);
void smoe_outbox_release(struct smoe_outbox *out);

/* Queues one frame. SMOE_ELIMIT if it would exceed bytes_max (control frames without raw part may
 * exceed it by 64 KiB, so that an error still gets out), SMOE_ENOMEMORY; nothing queued then. */
int smoe_outbox_put(struct smoe_outbox *out, uint16_t type, const uint8_t *body, size_t body_bytes,
                    const struct smoe_segment *segments, size_t n_segments);

/* Fills at most `max` iovecs with what comes next; returns how many. They stay valid until consume. */
size_t smoe_outbox_peek(const struct smoe_outbox *out, struct iovec *iovecs, size_t max);

/* `bytes` more have been written. */
void smoe_outbox_consume(struct smoe_outbox *out, size_t bytes);

#endif
