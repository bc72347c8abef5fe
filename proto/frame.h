/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame: one message on the wire.
 *
 *     offset size
 *          0    4  magic "SMOE"
 *          4    1  framing version, 1
 *          5    1  flags, 0
 *          6    2  message type (enum smoe_message_type)
 *          8    4  bytes of the protobuf part
 *         12    4  bytes of the raw part
 *         16    4  CRC-32 (IEEE 802.3, as zlib's) of bytes 0..15
 *         20       protobuf part, then raw part
 *
 * Numbers are little-endian. The raw part carries tensors as they lie in memory, so that they need no
 * copy through protobuf. This file is the header alone; inbox.h cuts a byte stream into frames.
 */
#ifndef SMOE_PROTO_FRAME_H
#define SMOE_PROTO_FRAME_H

#include <stdint.h>

#include "common/base/err.h"

#define SMOE_FRAME_HEADER_BYTES 20
#define SMOE_FRAME_VERSION      1

struct smoe_frame_header {
    uint16_t type;
    uint32_t body_bytes;   /* protobuf part */
    uint32_t tensor_bytes; /* raw part */
};

void smoe_frame_encode(const struct smoe_frame_header *header,
                       uint8_t ret_bytes[SMOE_FRAME_HEADER_BYTES]);

/* SMOE_EMALFORMED with a sentence if magic, version, flags or checksum are wrong. Total over all
 * inputs. Does not judge type or lengths. */
int smoe_frame_decode(const uint8_t bytes[SMOE_FRAME_HEADER_BYTES],
                      struct smoe_frame_header *ret_header, struct smoe_why *why);

#endif
