/* SPDX-License-Identifier: Apache-2.0
 *
 * Cuts a byte stream into frames, incrementally: any split of the stream gives the same frames. It
 * allocates nothing before a header is checked and admitted, the protobuf part only if it does not
 * lie whole in the bytes at hand, and the raw part goes straight into a blob the caller provides:
 *
 *     HEADER --(accept)--> body --> BODY --(expect blob, if raw bytes)--> tensor --> TENSOR --> next
 *
 * A frame without raw part is complete at BODY. After an error the stream is dead: framing is lost.
 */
#ifndef SMOE_PROTO_INBOX_H
#define SMOE_PROTO_INBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "proto/blob.h"
#include "proto/frame.h"

enum smoe_inbox_event {
    SMOE_INBOX_MORE,   /* all bytes used, no event */
    SMOE_INBOX_HEADER, /* `header` is set: admit it, then go on feeding */
    SMOE_INBOX_BODY,   /* `body` is set; if header.tensor_bytes, give a blob before feeding more */
    SMOE_INBOX_TENSOR, /* `blob` is full: the frame is complete */
};

struct smoe_inbox {
    enum {
        SMOE_INBOX_IN_HEADER,
        SMOE_INBOX_IN_BODY,
        SMOE_INBOX_IN_TENSOR,
        SMOE_INBOX_SKIPPING,
        SMOE_INBOX_DEAD
    } state;
    size_t have; /* bytes of the present part that have come */
    uint8_t raw_header[SMOE_FRAME_HEADER_BYTES];
    struct smoe_frame_header header;
    const uint8_t *body;    /* header.body_bytes of it; valid until the next feed, or, with a raw
                             * part, until the frame is complete */
    uint8_t *kept_body;     /* owned */
    struct smoe_blob *blob; /* a reference, while a raw part comes in */
};

/* All zero is an initialised inbox. */
void smoe_inbox_release(struct smoe_inbox *in);

/* Takes bytes up to the next event. *ret_used <= n says how many; the rest must be fed again.
 * SMOE_EMALFORMED or SMOE_ENOMEMORY end the stream. */
int smoe_inbox_feed(struct smoe_inbox *in, const uint8_t *data, size_t n, size_t *ret_used,
                    enum smoe_inbox_event *ret_event, struct smoe_why *why);

/* After BODY with header.tensor_bytes > 0: where the raw part goes; blob->bytes must equal it. Takes
 * over the caller's reference. */
void smoe_inbox_expect(struct smoe_inbox *in, struct smoe_blob *blob);

/* After BODY with header.tensor_bytes > 0, instead: the raw part is read past and thrown away; the
 * frame then ends without a TENSOR event. */
void smoe_inbox_skip(struct smoe_inbox *in);

/* While a raw part is incomplete: memory that the next bytes of the stream may be read straight into,
 * followed by a feed of exactly that memory. NULL otherwise. */
uint8_t *smoe_inbox_direct(const struct smoe_inbox *in, size_t *ret_room);

#endif
