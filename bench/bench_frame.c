/* SPDX-License-Identifier: Apache-2.0
 *
 * The protocol's own cost. Messages: a Report and a Decision through encode, outbox, inbox and decode,
 * as daemon and workers do it, without a socket. Tensors: frames of 64 KiB and 1 MiB raw part from the
 * pieces a socket read gives to a blob, against memcpy of the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/messages.h"
#include "bench/race.h"
#include "common/base/assert.h"
#include "proto/channel.h"

#define PIECE_BYTES 65536 /* of one read, as common/io/conn.h */

/* ---- messages ---- */

struct exchange {
    struct smoe_wire *wire;
    struct smoe_channel channel;
    struct smoe_message message;
    const uint8_t *body; /* encoded, copied: what decode reads */
    size_t bytes;
    struct smoe_why why;
};

static int refuse_raw(void *context, const struct smoe_message *message, size_t bytes,
                      struct smoe_why *why)
{
    (void)context, (void)message, (void)bytes;
    return smoe_fail(why, SMOE_ESTATE, "no raw part here");
}

static int take(void *context, const struct smoe_message *message, struct smoe_blob *blob,
                struct smoe_why *why)
{
    (void)context, (void)message, (void)blob, (void)why;
    return 0;
}

static void encode(void *context)
{
    struct exchange *e = context;
    const uint8_t *body;
    size_t bytes;
    smoe_assert(smoe_wire_encode(e->wire, &e->message, &body, &bytes) == 0);
}

static void decode(void *context)
{
    struct exchange *e = context;
    struct smoe_message m;
    smoe_assert(
        smoe_wire_decode(e->wire, (uint16_t)e->message.type, e->body, e->bytes, &m, &e->why) == 0);
}

/* Out of one channel and into it again. */
static void through_channel(void *context)
{
    struct exchange *e = context;
    const struct smoe_channel_owner owner = {e, refuse_raw, take};
    struct iovec iovecs[4];
    smoe_assert(smoe_channel_send(&e->channel, &e->message, NULL, 0) == 0);
    size_t n = smoe_outbox_peek(&e->channel.out, iovecs, 4);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = iovecs[i].iov_len;
        int rc = smoe_channel_receive(&e->channel, iovecs[i].iov_base, bytes, &owner, &e->why);
        smoe_assert(rc == 0);
    }
    size_t all = 0;
    for (size_t i = 0; i < n; i++)
        all += iovecs[i].iov_len;
    smoe_outbox_consume(&e->channel.out, all);
}

static void bench_message(struct smoe_bench *bench, struct smoe_wire *wire, const char *name,
                          const struct smoe_message *message, unsigned side)
{
    struct exchange e = {.wire = wire, .message = *message};
    const uint8_t *body;
    uint8_t copy[4096];
    smoe_assert(smoe_wire_encode(wire, message, &body, &e.bytes) == 0 && e.bytes < sizeof copy);
    memcpy(copy, body, e.bytes);
    e.body = copy;
    smoe_channel_init(&e.channel, wire, NULL, side, 1u << 20);
    e.channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    struct smoe_lane lanes[] = {{.run = encode, .context = &e},
                                {.run = decode, .context = &e},
                                {.run = through_channel, .context = &e}};
    smoe_race(lanes, 3, bench->quick);
    smoe_report_value(bench->report, "bytes", (double)e.bytes, "frame.%s.bytes", name);
    smoe_report_add(bench->report, "ns", &lanes[0].ns, "frame.%s.encode", name);
    smoe_report_add(bench->report, "ns", &lanes[1].ns, "frame.%s.decode", name);
    smoe_report_add(bench->report, "ns", &lanes[2].ns, "frame.%s.channel", name);
    smoe_channel_release(&e.channel);
}

/* ---- tensors ---- */

struct stream {
    struct smoe_channel channel;
    struct smoe_budget budget;
    uint8_t *bytes, *to; /* [n]: the stream, and where memcpy puts it */
    size_t n;
    struct smoe_why why;
};

static int expect_any(void *context, const struct smoe_message *message, size_t bytes,
                      struct smoe_why *why)
{
    (void)context, (void)message, (void)bytes, (void)why;
    return 0;
}

/* As a shell does: reads land in the blob where the channel says so; a read is a copy out of the
 * kernel, here out of the stream. */
static void receive(void *context)
{
    struct stream *s = context;
    const struct smoe_channel_owner owner = {s, expect_any, take};
    uint8_t scratch[PIECE_BYTES];
    for (size_t at = 0; at < s->n;) {
        size_t room = sizeof scratch;
        uint8_t *to = smoe_channel_direct(&s->channel, &room);
        if (!to) {
            to = scratch;
            room = sizeof scratch;
        }
        size_t piece = s->n - at < room ? s->n - at : room;
        memcpy(to, s->bytes + at, piece);
        smoe_assert(smoe_channel_receive(&s->channel, to, piece, &owner, &s->why) == 0);
        at += piece;
    }
}

static void copy(void *context)
{
    struct stream *s = context;
    memcpy(s->to, s->bytes, s->n);
}

static int bench_tensor(struct smoe_bench *bench, struct smoe_wire *wire, size_t tensor_bytes,
                        const char *name)
{
    struct smoe_message m = {.type = SMOE_MSG_OUTPUT, .output = {.parcel = 1}};
    const uint8_t *body;
    size_t body_bytes;
    struct stream s = {.budget = {.max_bytes = SIZE_MAX}};
    smoe_assert(smoe_wire_encode(wire, &m, &body, &body_bytes) == 0);
    struct smoe_frame_header header = {SMOE_MSG_OUTPUT, (uint32_t)body_bytes,
                                       (uint32_t)tensor_bytes};
    s.n = SMOE_FRAME_HEADER_BYTES + body_bytes + tensor_bytes;
    s.bytes = calloc(1, s.n);
    s.to = calloc(1, s.n);
    if (s.bytes && s.to) {
        smoe_frame_encode(&header, s.bytes);
        memcpy(s.bytes + SMOE_FRAME_HEADER_BYTES, body, body_bytes);
        smoe_channel_init(&s.channel, wire, &s.budget, SMOE_BY_WORKER, 1u << 20);
        s.channel.body_bytes_max = SMOE_CONTROL_BYTES_MAX;
        s.channel.tensor_bytes_max = tensor_bytes;
        struct smoe_lane lanes[] = {{.run = receive, .context = &s}, {.run = copy, .context = &s}};
        smoe_race(lanes, 2, bench->quick);
        struct smoe_sample rate = smoe_sample_inverse(&lanes[0].ns, (double)s.n);
        struct smoe_sample of_copy = smoe_sample_ratio(&lanes[1].ns, &lanes[0].ns);
        smoe_report_add(bench->report, "GB/s", &rate, "frame.tensor.%s", name);
        smoe_report_add(bench->report, "x", &of_copy, "frame.tensor.%s.to_copy", name);
        smoe_channel_release(&s.channel);
    }
    int rc = s.bytes && s.to ? 0 : SMOE_ENOMEMORY;
    free(s.bytes);
    free(s.to);
    return rc;
}

int smoe_bench_frame(struct smoe_bench *bench, struct smoe_why *why)
{
    struct smoe_wire *wire;
    struct smoe_message report = smoe_example_report(1), decision = smoe_example_decision();
    int rc = smoe_wire_new(&wire);
    if (rc)
        return smoe_fail(why, rc, "frame: out of memory");
    bench_message(bench, wire, "report", &report, SMOE_BY_WORKER);
    bench_message(bench, wire, "decision", &decision, SMOE_TO_WORKER);
    rc = bench_tensor(bench, wire, 64u << 10, "64KiB");
    if (rc == 0)
        rc = bench_tensor(bench, wire, 1u << 20, "1MiB");
    smoe_wire_free(wire);
    return rc ? smoe_fail(why, rc, "frame: out of memory") : 0;
}
