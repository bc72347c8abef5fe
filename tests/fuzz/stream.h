/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a connection made from a tape: frames with right headers, or spoilt ones, or no frames at
 * all. Tapes name a raw part by its size only; its bytes are a pattern.
 */
#ifndef SMOE_FUZZ_STREAM_H
#define SMOE_FUZZ_STREAM_H

#include "proto/frame.h"
#include "tests/fuzz/input.h"

struct fuzz_stream {
    uint8_t *bytes; /* owned */
    size_t n, cap;
};

void fuzz_stream_release(struct fuzz_stream *stream);
void fuzz_stream_put(struct fuzz_stream *stream, const void *data, size_t n);

/* A frame with this protobuf part and `tensor_bytes` bytes of pattern. */
void fuzz_stream_frame(struct fuzz_stream *stream, uint16_t type, const uint8_t *body,
                       size_t body_bytes, size_t tensor_bytes);

/* Takes one byte from the tape that says how, then what it needs:
 * 0: a frame {type index, body length, body bytes, raw bytes / 4 or exactly};
 * 1: the same with one byte of the header changed;
 * 2: bytes as they lie on the tape. */
void fuzz_stream_from_tape(struct fuzz_stream *stream, struct fuzz_input *in);

#endif
