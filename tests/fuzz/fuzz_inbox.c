/* SPDX-License-Identifier: Apache-2.0
 *
 * A stream of frames, cut as the tape says. Headers are made here, since no fuzzer guesses a checksum,
 * but the tape may spoil them. Whatever is fed, the inbox takes memory only for what was admitted,
 * and everything fed as one piece gives the same events as byte by byte.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "proto/inbox.h"
#include "tests/fuzz/input.h"

enum { STREAM_MAX = 1 << 16, BODY_MAX = 1024, TENSOR_MAX = 4096, EVENTS_MAX = 4096 };

struct stream {
    uint8_t *bytes;
    size_t n;
};

static void put(struct stream *s, const void *data, size_t n)
{
    if (n > STREAM_MAX - s->n)
        n = STREAM_MAX - s->n;
    memcpy(s->bytes + s->n, data, n);
    s->n += n;
}

static void put_header(struct stream *s, struct fuzz_input *in)
{
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    uint8_t how = fuzz_u8(in);
    struct smoe_frame_header h = {.type = how, .body_bytes = fuzz_u8(in)};
    if (how & 1)
        h.tensor_bytes = fuzz_u16(in) % (TENSOR_MAX + 100);
    if ((how & 0x0e) == 0x0e)
        h.body_bytes = fuzz_u32(in);
    smoe_frame_encode(&h, bytes);
    if ((how & 0xf0) == 0xf0)
        bytes[fuzz_below(in, sizeof bytes)] ^= fuzz_u8(in);
    put(s, bytes, sizeof bytes);
}

static void make_stream(struct stream *s, struct fuzz_input *in)
{
    static const uint8_t zeros[256];
    s->bytes = malloc(STREAM_MAX);
    s->n = 0;
    while (fuzz_more(in) && s->n < STREAM_MAX) {
        uint8_t n = fuzz_u8(in);
        size_t got;
        put_header(s, in);
        const uint8_t *bytes = fuzz_bytes(in, n & 31, &got);
        put(s, bytes, got);
        put(s, zeros, n >> 2);
    }
}

/* What one run over the stream saw. */
struct events {
    uint64_t digest; /* of kinds, headers, bodies and raw parts, in order */
    uint32_t n;
    int end;
};

static void digest(struct events *e, const void *data, size_t n)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i++)
        e->digest = (e->digest ^ bytes[i]) * 0x100000001b3u;
}

/* Admission as a channel does it, from the header alone. */
static bool admitted(const struct smoe_frame_header *h)
{
    return h->body_bytes <= BODY_MAX && h->tensor_bytes <= TENSOR_MAX;
}

static int on_event(struct events *e, struct smoe_inbox *in, enum smoe_inbox_event event,
                    struct smoe_budget *budget)
{
    const struct smoe_frame_header *h = &in->header;
    if (event == SMOE_INBOX_MORE)
        return 0;
    digest(e, &event, sizeof event);
    e->n++;
    if (event == SMOE_INBOX_HEADER) {
        digest(e, &h->type, sizeof h->type);
        return admitted(h) ? 0 : SMOE_ETOOBIG;
    }
    smoe_assert(in->body || !h->body_bytes);
    digest(e, in->body, h->body_bytes);
    if (event == SMOE_INBOX_TENSOR)
        digest(e, in->blob->data, in->blob->bytes);
    else if (h->tensor_bytes && h->type % 4 == 3)
        smoe_inbox_skip(in);
    else if (h->tensor_bytes)
        smoe_inbox_expect(in, smoe_blob_new(budget, h->tensor_bytes));
    return 0;
}

/* Feeds the stream in pieces of `piece` bytes, every second one read straight into place. */
static struct events run(const struct stream *s, size_t piece, bool direct)
{
    struct smoe_budget budget = {.max_bytes = TENSOR_MAX};
    struct smoe_inbox in = {0};
    struct events e = {.digest = 1};
    struct smoe_why why = {""};
    for (size_t at = 0; at < s->n && !e.end;) {
        size_t n = piece < s->n - at ? piece : s->n - at, room;
        uint8_t *to = direct ? smoe_inbox_direct(&in, &room) : NULL;
        const uint8_t *data = s->bytes + at;
        if (to) {
            n = n < room ? n : room;
            memcpy(to, data, n);
            data = to;
        }
        at += n;
        enum smoe_inbox_event event = SMOE_INBOX_MORE;
        while (!e.end && (n || (event == SMOE_INBOX_HEADER && !in.header.body_bytes))) {
            size_t used = 0;
            e.end = smoe_inbox_feed(&in, data, n, &used, &event, &why);
            smoe_assert(used <= n && (!e.end || why.text[0]));
            if (!e.end)
                e.end = on_event(&e, &in, event, &budget);
            data += used;
            n -= used;
        }
    }
    smoe_inbox_release(&in);
    smoe_assert(budget.used_bytes == 0);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct stream s;
    size_t piece = (size_t)fuzz_u8(&in) + 1;
    make_stream(&s, &in);
    struct events whole = run(&s, STREAM_MAX, false), cut = run(&s, piece, true);
    struct events bytes = run(&s, 1, false);
    smoe_assert(whole.digest == cut.digest && whole.n == cut.n && whole.end == cut.end);
    smoe_assert(whole.digest == bytes.digest && whole.n == bytes.n && whole.end == bytes.end);
    free(s.bytes);
    return 0;
}
