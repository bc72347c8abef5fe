/* SPDX-License-Identifier: Apache-2.0
 *
 * Two ends talk through memory; an owner records what it is asked and given.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/channel.h"
#include "tests/unit/io/alloc_fault.h"
#include "tests/unit/proto/messages.h"

enum { OUT_MAX = 1 << 20, STREAM_MAX = 1 << 20 };

/* What an owner does, and what it saw last. */
struct owner {
    int expect_answer, deliver_answer;
    uint32_t expected, delivered;
    size_t tensor_bytes;
    struct smoe_message message; /* the last delivered; arrays only while it is being delivered */
    uint64_t parcel_sum;         /* over a Decision's parcels, read while it was delivered */
    uint8_t tensor[64];
    bool had_blob;
};

static int expect(void *context, const struct smoe_message *m, size_t tensor_bytes,
                  struct smoe_why *why)
{
    struct owner *o = context;
    o->expected++;
    o->tensor_bytes = tensor_bytes;
    if (o->expect_answer < 0)
        return smoe_fail(why, o->expect_answer, "%s: not now",
                         smoe_message_name((uint16_t)m->type));
    return o->expect_answer;
}

static int deliver(void *context, const struct smoe_message *m, struct smoe_blob *blob,
                   struct smoe_why *why)
{
    struct owner *o = context;
    o->delivered++;
    o->message = *m;
    o->had_blob = blob != NULL;
    if (blob)
        memcpy(o->tensor, blob->data, blob->bytes < 64 ? blob->bytes : 64);
    o->parcel_sum = 0;
    for (size_t i = 0; m->type == SMOE_MSG_DECISION && i < m->decision.n_parcels; i++)
        o->parcel_sum += m->decision.parcels[i].id * (i + 1);
    return o->deliver_answer ? smoe_fail(why, o->deliver_answer, "owner says no") : 0;
}

static struct smoe_channel_owner as_owner(struct owner *o)
{
    return (struct smoe_channel_owner){o, expect, deliver};
}

/* A receiving end that is past its hello and hears a worker, or (SMOE_TO_WORKER) is one. */
static void open_channel(struct smoe_channel *ch, struct smoe_wire *wire,
                         struct smoe_budget *budget, unsigned side)
{
    smoe_channel_init(ch, wire, budget, side, OUT_MAX);
    ch->body_bytes_max = SMOE_CONTROL_BYTES_MAX;
    ch->tensor_bytes_max = 4096;
}

/* Everything the channel has to send, as one stream. */
static size_t drain(struct smoe_channel *ch, uint8_t *ret)
{
    struct iovec iovecs[8];
    size_t n, at = 0;
    while ((n = smoe_outbox_peek(&ch->out, iovecs, 8)) > 0) {
        size_t bytes = 0;
        for (size_t i = 0; i < n; i++) {
            memcpy(ret + at + bytes, iovecs[i].iov_base, iovecs[i].iov_len);
            bytes += iovecs[i].iov_len;
        }
        smoe_outbox_consume(&ch->out, bytes);
        at += bytes;
    }
    return at;
}

/* Bytes of one message with a raw part of `tensor_bytes` bytes that are all `fill`. */
static size_t encode(struct smoe_channel *sender, const struct smoe_message *m, size_t tensor_bytes,
                     int fill, uint8_t *ret)
{
    struct smoe_blob *blob = smoe_blob_new(NULL, tensor_bytes);
    memset(blob->data, fill, tensor_bytes);
    struct smoe_segment segment = {blob, blob->data, tensor_bytes};
    cr_assert_eq(smoe_channel_send(sender, m, &segment, tensor_bytes ? 1 : 0), 0);
    smoe_blob_unref(blob);
    return drain(sender, ret);
}

static struct smoe_wire *new_wire(void)
{
    struct smoe_wire *wire;
    cr_assert_eq(smoe_wire_new(&wire), 0);
    return wire;
}

static struct smoe_message decision(struct smoe_parcel_head *parcels, size_t n, uint64_t first)
{
    struct smoe_message m = {.type = SMOE_MSG_DECISION};
    for (size_t i = 0; i < n; i++)
        parcels[i] = (struct smoe_parcel_head){.id = first + i, .rows = 1};
    m.decision = (struct smoe_msg_decision){1, 1, 0, parcels, n};
    return m;
}

static uint64_t sum_of(uint64_t first, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (first + i) * (i + 1);
    return sum;
}

/* The scene of most tests: a sender, and one receiver with its owner. */
struct scene {
    struct smoe_wire *sender_wire, *wire;
    struct smoe_budget budget;
    struct smoe_channel sender, receiver;
    struct owner owner;
    struct smoe_channel_owner callbacks;
    struct smoe_why why;
    uint8_t *stream;
};

static void scene_init(struct scene *s, unsigned side)
{
    memset(s, 0, sizeof *s);
    s->sender_wire = new_wire();
    s->wire = new_wire();
    s->budget.max_bytes = 10000;
    open_channel(&s->sender, s->sender_wire, NULL, 0);
    open_channel(&s->receiver, s->wire, &s->budget, side);
    s->callbacks = as_owner(&s->owner);
    s->stream = malloc(STREAM_MAX);
}

static void scene_release(struct scene *s)
{
    smoe_channel_release(&s->sender);
    smoe_channel_release(&s->receiver);
    cr_assert_eq(s->budget.used_bytes, 0);
    smoe_wire_free(s->sender_wire);
    smoe_wire_free(s->wire);
    free(s->stream);
}

static int receive(struct scene *s, const uint8_t *data, size_t n)
{
    return smoe_channel_receive(&s->receiver, data, n, &s->callbacks, &s->why);
}

Test(channel, what_one_end_sends_the_other_delivers_at_any_split)
{
    static struct messages_room room;
    struct scene s;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 51, 0);
    for (int round = 0; round < 300; round++) {
        struct smoe_message m;
        scene_init(&s, SMOE_ANY_SIDE | SMOE_BY_LINK);
        messages_random(&rng, messages_types[smoe_rng_below(&rng, messages_n_types)], &room, &m);
        bool raw = smoe_message_admit((uint16_t)m.type, 0, 0, SMOE_ANY_SIDE | SMOE_BY_LINK, 0, 0,
                                      &s.why) != 0;
        size_t n = encode(&s.sender, &m, raw ? 1 + smoe_rng_below(&rng, 4096) : 0, round, s.stream);
        for (size_t at = 0; at < n;) {
            size_t piece = 1 + smoe_rng_below(&rng, 700);
            piece = piece < n - at ? piece : n - at;
            cr_assert_eq(receive(&s, s.stream + at, piece), 0, "%s", s.why.text);
            at += piece;
        }
        cr_assert_eq(s.owner.delivered, 1);
        cr_assert_eq(s.owner.expected, raw);
        cr_assert_eq(s.owner.had_blob, raw);
        if (raw)
            cr_assert_eq(s.owner.tensor[0], (uint8_t)round);
        s.owner.message.type = m.type;
        cr_assert_eq(s.receiver.bytes_in, n);
        cr_assert_eq(s.receiver.frames_in, 1);
        cr_assert_eq(s.sender.frames_out, 1);
        scene_release(&s);
    }
}

/* Two connections of one machine: while the raw part of A's Decision is coming, B's Decision overwrites
 * the arena in which A's parcels were. */
Test(channel, messages_of_two_channels_on_one_wire_do_not_mix)
{
    enum { N = 40, BYTES = 100 };
    struct scene a, b;
    struct smoe_parcel_head parcels[N];
    struct smoe_message m;
    scene_init(&a, SMOE_TO_WORKER);
    scene_init(&b, SMOE_TO_WORKER);
    b.receiver.wire = a.wire;
    m = decision(parcels, N, 1000);
    size_t n_a = encode(&a.sender, &m, BYTES, 'a', a.stream);
    m = decision(parcels, N / 2, 5000);
    size_t n_b = encode(&b.sender, &m, BYTES, 'b', b.stream);
    cr_assert_eq(receive(&a, a.stream, n_a - 1), 0);
    cr_assert_eq(receive(&b, b.stream, n_b - 1), 0);
    cr_assert(a.owner.delivered == 0 && b.owner.delivered == 0);
    cr_assert_eq(receive(&a, a.stream + n_a - 1, 1), 0);
    cr_assert_eq(a.owner.parcel_sum, sum_of(1000, N));
    cr_assert_eq(a.owner.tensor[0], 'a');
    cr_assert_eq(receive(&b, b.stream + n_b - 1, 1), 0);
    cr_assert_eq(b.owner.parcel_sum, sum_of(5000, N / 2));
    cr_assert_eq(b.owner.tensor[0], 'b');
    scene_release(&a);
    scene_release(&b);
}

/* Many channels, random pieces of each in turn. */
Test(channel, many_interleaved_channels_each_see_their_own_messages)
{
    enum { CHANNELS = 8, EACH = 30 };
    static struct scene scenes[CHANNELS];
    static struct smoe_parcel_head parcels[64];
    size_t sizes[CHANNELS] = {0}, at[CHANNELS] = {0}, left = CHANNELS;
    uint64_t due[CHANNELS][EACH];
    struct smoe_rng rng;
    smoe_rng_init(&rng, 52, 0);
    for (uint64_t c = 0; c < CHANNELS; c++) {
        scene_init(&scenes[c], SMOE_TO_WORKER);
        scenes[c].receiver.wire = scenes[0].wire;
        for (uint64_t i = 0; i < EACH; i++) {
            size_t n = 1 + smoe_rng_below(&rng, 64);
            uint64_t first = c * 100000 + i * 100 + 1;
            struct smoe_message m = decision(parcels, n, first);
            due[c][i] = sum_of(first, n);
            sizes[c] += encode(&scenes[c].sender, &m, 1 + smoe_rng_below(&rng, 300), (int)c,
                               scenes[c].stream + sizes[c]);
        }
    }
    while (left) {
        size_t c = smoe_rng_below(&rng, CHANNELS), piece = 1 + smoe_rng_below(&rng, 400);
        struct scene *s = &scenes[c];
        uint32_t before = s->owner.delivered;
        if (at[c] == sizes[c])
            continue;
        piece = piece < sizes[c] - at[c] ? piece : sizes[c] - at[c];
        cr_assert_eq(receive(s, s->stream + at[c], piece), 0, "%s", s->why.text);
        if (s->owner.delivered > before) {
            cr_assert_eq(s->owner.parcel_sum, due[c][s->owner.delivered - 1]);
            cr_assert_eq(s->owner.tensor[0], c);
        }
        at[c] += piece;
        left -= at[c] == sizes[c];
    }
    for (size_t c = 0; c < CHANNELS; c++) {
        cr_assert_eq(scenes[c].owner.delivered, EACH);
        scenes[c].receiver.wire = NULL;
        scene_release(&scenes[c]);
    }
}

Test(channel, a_skipped_message_is_not_delivered_and_the_stream_goes_on)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT}, report = {.type = SMOE_MSG_PING};
    scene_init(&s, SMOE_BY_WORKER);
    s.owner.expect_answer = SMOE_CHANNEL_SKIP;
    out.output.parcel = 9;
    report.ping.nonce = 77;
    size_t n = encode(&s.sender, &out, 500, 1, s.stream);
    n += encode(&s.sender, &report, 0, 0, s.stream + n);
    cr_assert_eq(receive(&s, s.stream, n), 0);
    cr_assert_eq(s.budget.peak_bytes, 0, "no memory is taken for what is thrown away");
    cr_assert(s.owner.expected == 1 && s.owner.delivered == 1);
    cr_assert_eq(s.owner.message.ping.nonce, 77);
    scene_release(&s);
}

Test(channel, a_refusal_before_the_raw_part_ends_the_stream_without_taking_memory)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    scene_init(&s, SMOE_BY_WORKER);
    s.owner.expect_answer = SMOE_ESHAPE;
    out.output.parcel = 9;
    size_t n = encode(&s.sender, &out, 500, 1, s.stream);
    cr_assert_eq(receive(&s, s.stream, n), SMOE_ESHAPE);
    cr_assert_str_eq(s.why.text, "OUTPUT: not now");
    cr_assert_eq(s.budget.peak_bytes, 0);
    cr_assert_eq(receive(&s, s.stream, n), SMOE_EMALFORMED);
    cr_assert_eq(s.owner.delivered, 0);
    scene_release(&s);
}

Test(channel, an_owner_that_says_no_to_a_delivery_ends_the_stream)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    scene_init(&s, SMOE_BY_WORKER);
    s.owner.deliver_answer = SMOE_ESTATE;
    out.output.parcel = 9;
    size_t n = encode(&s.sender, &out, 500, 1, s.stream);
    n += encode(&s.sender, &out, 500, 1, s.stream + n);
    cr_assert_eq(receive(&s, s.stream, n), SMOE_ESTATE);
    cr_assert_eq(s.owner.delivered, 1, "what follows is not read");
    scene_release(&s);
}

Test(channel, a_protobuf_part_that_is_wrong_ends_the_stream_before_anybody_is_asked)
{
    struct scene s;
    struct smoe_frame_header header = {SMOE_MSG_OUTPUT, 1, 500};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES + 1] = {0};
    smoe_frame_encode(&header, bytes);
    scene_init(&s, SMOE_BY_WORKER);
    cr_assert_eq(receive(&s, bytes, sizeof bytes), SMOE_EMALFORMED);
    cr_assert(s.owner.expected == 0 && s.budget.peak_bytes == 0);
    scene_release(&s);
}

Test(channel, a_raw_part_beyond_the_budget_ends_the_stream)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    scene_init(&s, SMOE_BY_WORKER);
    out.output.parcel = 9;
    size_t n = encode(&s.sender, &out, 500, 1, s.stream);
    s.budget.max_bytes = 500;
    cr_assert_eq(receive(&s, s.stream, n), 0);
    s.budget.max_bytes = 499;
    cr_assert_eq(receive(&s, s.stream, n), SMOE_ENOMEMORY);
    cr_assert_str_eq(s.why.text, "OUTPUT: no memory for a raw part of 500 bytes");
    scene_release(&s);
}

/* Before hello: a protobuf part of at most 1 KiB, no raw part, and only what a peer may send. */
Test(channel, before_hello_little_is_admitted)
{
    struct scene s;
    struct smoe_message bye = {.type = SMOE_MSG_BYE};
    static const struct {
        struct smoe_frame_header header;
        int code;
    } cases[] = {
        {{SMOE_MSG_HELLO, 1024, 0}, 0},
        {{SMOE_MSG_HELLO, 1023, 0}, 0},
        {{SMOE_MSG_HELLO, 1025, 0}, SMOE_ETOOBIG},
        {{SMOE_MSG_SUBMIT, 10, 1}, SMOE_ETOOBIG},
        {{SMOE_MSG_WELCOME, 10, 0}, SMOE_EROLE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
        scene_init(&s, 0);
        smoe_channel_release(&s.receiver);
        smoe_channel_init(&s.receiver, s.wire, &s.budget, SMOE_BY_PEER, OUT_MAX);
        smoe_frame_encode(&cases[i].header, bytes);
        cr_assert_eq(receive(&s, bytes, sizeof bytes), cases[i].code, "%s", s.why.text);
        scene_release(&s);
    }
    (void)bye;
}

Test(channel, a_message_from_the_wrong_side_is_refused_by_its_header)
{
    struct scene s;
    struct smoe_message m = {.type = SMOE_MSG_DISCARD};
    scene_init(&s, SMOE_BY_WORKER);
    m.discard.batch = 1;
    size_t n = encode(&s.sender, &m, 0, 0, s.stream);
    cr_assert_eq(receive(&s, s.stream, SMOE_FRAME_HEADER_BYTES), SMOE_EROLE);
    cr_assert_str_eq(s.why.text, "DISCARD: this side may not send it");
    cr_assert_gt(n, SMOE_FRAME_HEADER_BYTES);
    scene_release(&s);
}

/* A message all of whose fields are zero has no protobuf part at all. */
Test(channel, an_empty_protobuf_part_is_a_message)
{
    struct scene s;
    struct smoe_message ping = {.type = SMOE_MSG_PING};
    scene_init(&s, SMOE_BY_WORKER);
    size_t n = encode(&s.sender, &ping, 0, 0, s.stream);
    cr_assert_eq(n, SMOE_FRAME_HEADER_BYTES);
    cr_assert_eq(receive(&s, s.stream, n), 0);
    cr_assert_eq(s.owner.delivered, 1);
    n += encode(&s.sender, &ping, 0, 0, s.stream + n);
    cr_assert_eq(receive(&s, s.stream, n), 0);
    cr_assert_eq(s.owner.delivered, 3);
    scene_release(&s);
}

Test(channel, raw_parts_may_be_read_straight_into_place)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    size_t room = 0;
    scene_init(&s, SMOE_BY_WORKER);
    out.output.parcel = 9;
    size_t n = encode(&s.sender, &out, 300, 7, s.stream);
    cr_assert_null(smoe_channel_direct(&s.receiver, &room));
    cr_assert_eq(receive(&s, s.stream, n - 200), 0);
    uint8_t *to = smoe_channel_direct(&s.receiver, &room);
    cr_assert_eq(room, 200);
    memset(to, 8, 200);
    cr_assert_eq(receive(&s, to, 200), 0);
    cr_assert(s.owner.delivered == 1 && s.owner.tensor[0] == 7);
    cr_assert_null(smoe_channel_direct(&s.receiver, &room));
    scene_release(&s);
}

Test(channel, an_error_carries_code_sentence_and_what_it_is_about)
{
    struct scene s;
    char sentence[400];
    memset(sentence, 'x', sizeof sentence - 1);
    sentence[sizeof sentence - 1] = 0;
    scene_init(&s, SMOE_TO_TRAINER);
    cr_assert_eq(smoe_channel_send_error(&s.sender, SMOE_ESHAPE, sentence, true, 5, 6), 0);
    size_t n = drain(&s.sender, s.stream);
    cr_assert_eq(receive(&s, s.stream, n), 0);
    const struct smoe_msg_error *e = &s.owner.message.error;
    cr_assert(e->code == SMOE_ESHAPE && e->fatal && e->batch == 5 && e->request == 6);
    cr_assert_eq(strlen(e->message), 239);
    scene_release(&s);
}

Test(channel, what_does_not_fit_the_outbox_is_not_queued_but_an_error_still_is)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    scene_init(&s, SMOE_ANY_SIDE | SMOE_BY_LINK);
    out.output.parcel = 9;
    struct smoe_blob *blob = smoe_blob_new(NULL, 4096);
    memset(blob->data, 0, blob->bytes);
    struct smoe_segment segment = {blob, blob->data, blob->bytes};
    s.sender.out.bytes_max = 4096;
    cr_assert_eq(smoe_channel_send(&s.sender, &out, &segment, 1), SMOE_ELIMIT);
    cr_assert(s.sender.frames_out == 0 && s.sender.out.bytes == 0);
    s.sender.out.bytes_max = 0;
    cr_assert_eq(smoe_channel_send_error(&s.sender, SMOE_ELIMIT, "slow", true, 0, 0), 0);
    smoe_blob_unref(blob);
    scene_release(&s);
}

Test(channel, memory_failing_at_any_point_ends_the_stream_and_leaks_nothing)
{
    struct scene s;
    struct smoe_message out = {.type = SMOE_MSG_OUTPUT};
    unsigned n = 1;
    for (;; n++) {
        scene_init(&s, SMOE_BY_WORKER);
        out.output.parcel = 9;
        size_t bytes = encode(&s.sender, &out, 300, 7, s.stream);
        smoe_alloc_fail_at(n);
        int rc = receive(&s, s.stream, bytes);
        bool failed = smoe_alloc_failed();
        cr_assert_eq(rc, failed ? SMOE_ENOMEMORY : 0);
        scene_release(&s);
        if (!failed)
            break;
    }
    cr_assert_gt(n, 1);
}
