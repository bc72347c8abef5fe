/* SPDX-License-Identifier: Apache-2.0
 *
 * Three channels of one machine share a wire, as a daemon's sessions do. The tape gives each the bytes
 * of a whole session, in pieces that interleave, and its owner's answers. What is delivered must be
 * what the protobuf part of the very frame decodes to, however many other messages came in between.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "proto/channel.h"
#include "tests/fuzz/stream.h"
#include "tests/unit/proto/messages.h"

enum { CHANNELS = 3, TENSOR_MAX = 1 << 16, OUT_MAX = 1 << 14 };

/* An owner takes its answers from the tape. */
struct owner {
    struct fuzz_input *answers;
    struct smoe_channel channel;
    struct fuzz_stream stream;
    size_t at;
    int end;
};

/* Decodes the frame in hand once more, with a wire that nobody else uses. */
static void check_message(const struct owner *o, const struct smoe_message *m)
{
    static struct smoe_wire *own;
    struct smoe_message again;
    struct smoe_why why;
    const struct smoe_inbox *in = &o->channel.in;
    if (!own && smoe_wire_new(&own))
        abort();
    smoe_assert(
        smoe_wire_decode(own, in->header.type, in->body, in->header.body_bytes, &again, &why) == 0);
    smoe_assert(!messages_difference(m, &again));
}

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    struct owner *o = context;
    check_message(o, m);
    smoe_assert(tensor_bytes == o->channel.in.header.tensor_bytes && tensor_bytes > 0);
    switch (fuzz_u8(o->answers) & 15) {
    case 14:
        return SMOE_CHANNEL_SKIP;
    case 15:
        return smoe_fail(why, SMOE_ESHAPE, "no");
    default:
        return 0;
    }
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct owner *o = context;
    check_message(o, m);
    smoe_assert(!blob == !o->channel.in.header.tensor_bytes);
    smoe_assert(!blob || blob->bytes == o->channel.in.header.tensor_bytes);
    uint8_t answer = fuzz_u8(o->answers);
    if (answer == 255)
        return smoe_fail(why, SMOE_ESTATE, "no");
    if (answer & 32) /* say something back */
        smoe_channel_send_error(&o->channel, SMOE_EFIELD, "something", false, answer, 0);
    if (answer & 64) /* past hello */
        o->channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    if (answer & 128)
        o->channel.tensor_bytes_max = TENSOR_MAX;
    return 0;
}

/* The next piece of the owner's stream, now and then straight into place. */
static void receive(struct owner *o, size_t piece, bool direct)
{
    struct smoe_channel_owner callbacks = {o, expect, deliver};
    struct smoe_why why = {""};
    size_t n = piece < o->stream.n - o->at ? piece : o->stream.n - o->at, room;
    uint8_t *to = direct ? smoe_channel_direct(&o->channel, &room) : NULL;
    const uint8_t *data = n ? o->stream.bytes + o->at : NULL;
    if (!n)
        return;
    if (to) {
        n = n < room ? n : room;
        memcpy(to, data, n);
        data = to;
    }
    o->at += n;
    int rc = smoe_channel_receive(&o->channel, data, n, &callbacks, &why);
    smoe_assert(!rc || why.text[0]);
    smoe_assert(!o->end || rc == SMOE_EMALFORMED);
    o->end = o->end ? o->end : rc;
}

static void write_some(struct owner *o, size_t most)
{
    struct iovec iovecs[4];
    size_t n = smoe_outbox_peek(&o->channel.out, iovecs, 4), bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += iovecs[i].iov_len;
    smoe_outbox_consume(&o->channel.out, bytes < most ? bytes : most);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct smoe_wire *wire;
    static const unsigned sides[CHANNELS] = {SMOE_BY_PEER, SMOE_TO_WORKER,
                                             SMOE_ANY_SIDE | SMOE_BY_LINK};
    struct fuzz_input in = {data, size}, answers;
    struct smoe_budget budget = {.max_bytes = 2 * TENSOR_MAX};
    struct owner owners[CHANNELS] = {{0}};
    if (!wire && smoe_wire_new(&wire))
        abort();
    size_t n = fuzz_u8(&in);
    answers.data = fuzz_bytes(&in, n, &answers.left);
    for (int i = 0; i < CHANNELS; i++) {
        owners[i].answers = &answers;
        smoe_channel_init(&owners[i].channel, wire, &budget, sides[i], OUT_MAX);
        if (i)
            owners[i].channel.tensor_bytes_max = TENSOR_MAX;
    }
    while (fuzz_more(&in)) {
        uint8_t op = fuzz_u8(&in);
        struct owner *o = &owners[op % CHANNELS];
        if (op & 64)
            fuzz_stream_from_tape(&o->stream, &in);
        else if (op & 32)
            write_some(o, fuzz_u8(&in));
        else
            receive(o, fuzz_u8(&in) * (op & 16 ? 64u : 1u), op & 8);
    }
    for (int i = 0; i < CHANNELS; i++) {
        receive(&owners[i], owners[i].stream.n, false);
        smoe_channel_release(&owners[i].channel);
        fuzz_stream_release(&owners[i].stream);
    }
    smoe_assert(budget.used_bytes == 0);
    return 0;
}
