/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/stream.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/proto/messages.h"

void fuzz_stream_release(struct fuzz_stream *s)
{
    free(s->bytes);
    *s = (struct fuzz_stream){0};
}

static uint8_t *room(struct fuzz_stream *s, size_t n)
{
    if (s->n + n > s->cap) {
        s->cap = 2 * (s->n + n);
        s->bytes = realloc(s->bytes, s->cap);
        if (!s->bytes)
            abort();
    }
    s->n += n;
    return s->bytes + s->n - n;
}

void fuzz_stream_put(struct fuzz_stream *s, const void *data, size_t n)
{
    if (n)
        memcpy(room(s, n), data, n);
}

void fuzz_stream_frame(struct fuzz_stream *s, uint16_t type, const uint8_t *body, size_t body_bytes,
                       size_t tensor_bytes)
{
    struct smoe_frame_header header = {type, (uint32_t)body_bytes, (uint32_t)tensor_bytes};
    smoe_frame_encode(&header, room(s, SMOE_FRAME_HEADER_BYTES));
    fuzz_stream_put(s, body, body_bytes);
    uint8_t *tensor = tensor_bytes ? room(s, tensor_bytes) : NULL;
    for (size_t i = 0; i < tensor_bytes; i++)
        tensor[i] = (uint8_t)(i % 4 == 3 ? 0x3e : i); /* small finite numbers, as float32 */
}

void fuzz_stream_from_tape(struct fuzz_stream *s, struct fuzz_input *in)
{
    uint8_t how = fuzz_u8(in);
    size_t n, at = s->n;
    if (how % 4 == 2) {
        const uint8_t *bytes = fuzz_bytes(in, how >> 2, &n);
        fuzz_stream_put(s, bytes, n);
        return;
    }
    uint16_t type = messages_types[fuzz_below(in, (uint32_t)messages_n_types)];
    size_t tensor_bytes = how & 4 ? fuzz_u16(in) : (how & 8 ? fuzz_u8(in) : 0);
    const uint8_t *body = fuzz_bytes(in, fuzz_u8(in), &n);
    fuzz_stream_frame(s, type, body, n, tensor_bytes);
    if (how % 4 == 1)
        s->bytes[at + fuzz_below(in, SMOE_FRAME_HEADER_BYTES)] ^= fuzz_u8(in);
}
