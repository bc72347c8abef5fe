/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "proto/inbox.h"
#include "tests/unit/io/alloc_fault.h"

/* A stream of frames whose every byte is known: byte i of frame f's body is f + i, of its raw part
 * f - i. Frames with an odd type are skipped. */
enum { FRAMES = 24, STREAM_MAX = 1 << 17 };

struct stream {
    struct smoe_frame_header frames[FRAMES];
    uint8_t bytes[STREAM_MAX];
    size_t n;
};

static void make_stream(struct smoe_rng *rng, struct stream *s)
{
    s->n = 0;
    for (uint32_t f = 0; f < FRAMES; f++) {
        struct smoe_frame_header *h = &s->frames[f];
        bool body = smoe_rng_below(rng, 4) > 0, tensor = smoe_rng_below(rng, 2);
        h->type = (uint16_t)smoe_rng_below(rng, 100);
        h->body_bytes = body ? (uint32_t)smoe_rng_below(rng, 300) : 0;
        h->tensor_bytes = tensor ? 1 + (uint32_t)smoe_rng_below(rng, 3000) : 0;
        smoe_frame_encode(h, s->bytes + s->n);
        s->n += SMOE_FRAME_HEADER_BYTES;
        for (uint32_t i = 0; i < h->body_bytes; i++)
            s->bytes[s->n++] = (uint8_t)(f + i);
        for (uint32_t i = 0; i < h->tensor_bytes; i++)
            s->bytes[s->n++] = (uint8_t)(f - i);
    }
}

/* Follows the events of an inbox and checks each against what the stream holds. */
struct follower {
    const struct stream *stream;
    struct smoe_budget budget;
    uint32_t frame; /* the one being read */
    bool header_seen, body_seen;
};

static void on_body(struct follower *f, struct smoe_inbox *in)
{
    const struct smoe_frame_header *h = &f->stream->frames[f->frame];
    cr_assert(f->header_seen && !f->body_seen);
    for (uint32_t i = 0; i < h->body_bytes; i++)
        cr_assert_eq(in->body[i], (uint8_t)(f->frame + i));
    f->body_seen = true;
    if (h->tensor_bytes && h->type % 2 == 0) {
        smoe_inbox_expect(in, smoe_blob_new(&f->budget, h->tensor_bytes));
        return;
    }
    if (h->tensor_bytes)
        smoe_inbox_skip(in);
    f->header_seen = f->body_seen = false;
    f->frame++;
}

static void on_tensor(struct follower *f, struct smoe_inbox *in)
{
    const struct smoe_frame_header *h = &f->stream->frames[f->frame];
    cr_assert(f->body_seen && in->blob->bytes == h->tensor_bytes);
    for (uint32_t i = 0; i < h->tensor_bytes; i++)
        cr_assert_eq(in->blob->data[i], (uint8_t)(f->frame - i));
    for (uint32_t i = 0; i < h->body_bytes; i++) /* the body lives as long as the frame */
        cr_assert_eq(in->body[i], (uint8_t)(f->frame + i));
    f->header_seen = f->body_seen = false;
    f->frame++;
}

static void on_event(struct follower *f, struct smoe_inbox *in, enum smoe_inbox_event event)
{
    const struct smoe_frame_header *h = &f->stream->frames[f->frame];
    if (event == SMOE_INBOX_HEADER) {
        cr_assert(f->frame < FRAMES && !f->header_seen);
        cr_assert(in->header.type == h->type && in->header.body_bytes == h->body_bytes &&
                  in->header.tensor_bytes == h->tensor_bytes);
        f->header_seen = true;
    } else if (event == SMOE_INBOX_BODY) {
        on_body(f, in);
    } else if (event == SMOE_INBOX_TENSOR) {
        on_tensor(f, in);
    }
}

/* Feeds one piece; an empty body is an event that needs no bytes. */
static void feed(struct follower *f, struct smoe_inbox *in, const uint8_t *data, size_t n)
{
    enum smoe_inbox_event event = SMOE_INBOX_MORE;
    struct smoe_why why;
    while (n || (event == SMOE_INBOX_HEADER && !in->header.body_bytes)) {
        size_t used;
        cr_assert_eq(smoe_inbox_feed(in, data, n, &used, &event, &why), 0);
        cr_assert(used <= n);
        data += used;
        n -= used;
        on_event(f, in, event);
    }
}

/* One piece of the stream at `at`: now and then straight into the blob, as the shells do. */
static size_t feed_some(struct follower *f, struct smoe_inbox *in, struct smoe_rng *rng, size_t at,
                        size_t most)
{
    const struct stream *s = f->stream;
    size_t room, n = 1 + smoe_rng_below(rng, most);
    uint8_t *direct = smoe_rng_below(rng, 2) ? smoe_inbox_direct(in, &room) : NULL;
    if (n > s->n - at)
        n = s->n - at;
    if (direct && n > room)
        n = room;
    if (direct) {
        memcpy(direct, s->bytes + at, n);
        feed(f, in, direct, n);
        return n;
    }
    uint8_t *copy = malloc(n); /* its own block, so that a sanitizer sees a read past the piece */
    memcpy(copy, s->bytes + at, n);
    feed(f, in, copy, n);
    free(copy);
    return n;
}

Test(inbox, any_split_of_a_stream_gives_the_same_frames)
{
    static struct stream s;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 1, 0);
    for (int round = 0; round < 400; round++) {
        make_stream(&rng, &s);
        size_t most = (size_t)1 << smoe_rng_below(&rng, 14);
        struct smoe_inbox in = {0};
        struct follower f = {.stream = &s, .budget = {.max_bytes = 3000}};
        for (size_t at = 0; at < s.n;)
            at += feed_some(&f, &in, &rng, at, most);
        cr_assert_eq(f.frame, FRAMES, "round %d ended at frame %u", round, f.frame);
        smoe_inbox_release(&in);
        cr_assert_eq(f.budget.used_bytes, 0);
    }
}

Test(inbox, a_stream_may_end_anywhere_and_leaves_nothing_behind)
{
    static struct stream s;
    struct smoe_rng rng;
    smoe_rng_init(&rng, 2, 0);
    make_stream(&rng, &s);
    for (size_t end = 0; end < s.n; end++) {
        struct smoe_inbox in = {0};
        struct follower f = {.stream = &s, .budget = {.max_bytes = 3000}};
        feed(&f, &in, s.bytes, end);
        smoe_inbox_release(&in);
        smoe_inbox_release(&in);
        cr_assert_eq(f.budget.used_bytes, 0);
    }
}

/* One frame's header, as an event. */
static void feed_header(struct smoe_inbox *in, uint32_t body_bytes, uint32_t tensor_bytes)
{
    struct smoe_frame_header h = {8, body_bytes, tensor_bytes};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    enum smoe_inbox_event event;
    struct smoe_why why;
    size_t used;
    smoe_frame_encode(&h, bytes);
    cr_assert_eq(smoe_inbox_feed(in, bytes, sizeof bytes, &used, &event, &why), 0);
    cr_assert(event == SMOE_INBOX_HEADER && used == sizeof bytes);
}

static enum smoe_inbox_event feed_one(struct smoe_inbox *in, const void *data, size_t n)
{
    enum smoe_inbox_event event;
    struct smoe_why why;
    size_t used;
    cr_assert_eq(smoe_inbox_feed(in, data, n, &used, &event, &why), 0);
    cr_assert_eq(used, n);
    return event;
}

Test(inbox, a_claim_of_gigabytes_costs_nothing_until_the_first_byte_is_fed)
{
    struct smoe_inbox in = {0};
    feed_header(&in, UINT32_MAX, UINT32_MAX);
    cr_assert_null(in.kept_body);
    cr_assert_null(in.blob);
    smoe_inbox_release(&in);
}

Test(inbox, a_whole_body_without_raw_part_is_read_in_place)
{
    struct smoe_inbox in = {0};
    uint8_t body[5] = {1, 2, 3, 4, 5};
    feed_header(&in, sizeof body, 0);
    cr_assert_eq(feed_one(&in, body, sizeof body), SMOE_INBOX_BODY);
    cr_assert(in.body == body && !in.kept_body);
    smoe_inbox_release(&in);
}

Test(inbox, direct_memory_is_offered_only_while_a_raw_part_is_incomplete)
{
    struct smoe_inbox in = {0};
    size_t room = 77;
    cr_assert_null(smoe_inbox_direct(&in, &room));
    feed_header(&in, 1, 4);
    cr_assert_null(smoe_inbox_direct(&in, &room));
    cr_assert_eq(feed_one(&in, "b", 1), SMOE_INBOX_BODY);
    cr_assert_null(smoe_inbox_direct(&in, &room), "no blob yet");
    smoe_inbox_expect(&in, smoe_blob_new(NULL, 4));
    cr_assert_eq(feed_one(&in, "t", 1), SMOE_INBOX_MORE);
    uint8_t *direct = smoe_inbox_direct(&in, &room);
    cr_assert(direct == in.blob->data + 1 && room == 3);
    memcpy(direct, "ens", 3);
    cr_assert_eq(feed_one(&in, direct, 3), SMOE_INBOX_TENSOR);
    cr_assert_null(smoe_inbox_direct(&in, &room));
    cr_assert_eq(memcmp(in.blob->data, "tens", 4), 0);
    smoe_inbox_release(&in);
}

Test(inbox, a_skipped_raw_part_takes_no_memory_and_the_next_frame_follows)
{
    struct smoe_inbox in = {0};
    size_t room;
    feed_header(&in, 0, 6);
    cr_assert_eq(feed_one(&in, "", 0), SMOE_INBOX_BODY);
    smoe_inbox_skip(&in);
    cr_assert_null(smoe_inbox_direct(&in, &room));
    cr_assert_eq(feed_one(&in, "abc", 3), SMOE_INBOX_MORE);
    cr_assert_eq(feed_one(&in, "def", 3), SMOE_INBOX_MORE);
    feed_header(&in, 2, 0);
    cr_assert_eq(feed_one(&in, "xy", 2), SMOE_INBOX_BODY);
    smoe_inbox_release(&in);
}

Test(inbox, an_error_ends_the_stream)
{
    struct smoe_inbox in = {0};
    struct smoe_why why = {""};
    enum smoe_inbox_event event;
    size_t used;
    uint8_t junk[SMOE_FRAME_HEADER_BYTES] = "HTTP/1.1 200 OK....";
    cr_assert_eq(smoe_inbox_feed(&in, junk, sizeof junk, &used, &event, &why), SMOE_EMALFORMED);
    struct smoe_frame_header good = {8, 0, 0};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    smoe_frame_encode(&good, bytes);
    cr_assert_eq(smoe_inbox_feed(&in, bytes, sizeof bytes, &used, &event, &why), SMOE_EMALFORMED);
    cr_assert_str_eq(why.text, "stream is closed");
    smoe_inbox_release(&in);
}

Test(inbox, a_header_that_is_nearly_the_last_one_is_looked_at)
{
    struct smoe_frame_header header = {56, 0, 0};
    uint8_t bytes[SMOE_FRAME_HEADER_BYTES];
    smoe_frame_encode(&header, bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        struct smoe_inbox in = {0};
        size_t used;
        enum smoe_inbox_event event;
        struct smoe_why why;
        for (int same = 0; same < 2; same++) {
            cr_assert_eq(smoe_inbox_feed(&in, bytes, sizeof bytes, &used, &event, &why), 0);
            cr_assert_eq(event, SMOE_INBOX_HEADER);
            cr_assert_eq(in.header.type, 56);
            cr_assert_eq(smoe_inbox_feed(&in, bytes, 0, &used, &event, &why), 0); /* no body */
            cr_assert_eq(event, SMOE_INBOX_BODY);
        }
        bytes[i] ^= 1;
        cr_assert_neq(smoe_inbox_feed(&in, bytes, sizeof bytes, &used, &event, &why), 0);
        bytes[i] ^= 1;
        smoe_inbox_release(&in);
    }
}

Test(inbox, memory_that_is_not_there_is_an_error_and_no_crash)
{
    struct smoe_inbox in = {0};
    struct smoe_why why = {""};
    enum smoe_inbox_event event;
    size_t used;
    feed_header(&in, 100, 0);
    smoe_alloc_fail_at(1);
    int rc = smoe_inbox_feed(&in, (const uint8_t *)"x", 1, &used, &event, &why);
    cr_assert(smoe_alloc_failed() && rc == SMOE_ENOMEMORY);
    cr_assert_str_eq(why.text, "no memory for a message of 100 bytes");
    rc = smoe_inbox_feed(&in, (const uint8_t *)"x", 1, &used, &event, &why);
    cr_assert_eq(rc, SMOE_EMALFORMED);
    smoe_inbox_release(&in);
}

Test(inbox, a_blob_of_another_size_is_a_bug_of_the_caller, .signal = SIGABRT)
{
    struct smoe_inbox in = {0};
    feed_header(&in, 0, 6);
    feed_one(&in, "", 0);
    smoe_inbox_expect(&in, smoe_blob_new(NULL, 5));
}

Test(inbox, feeding_a_raw_part_that_nobody_answered_is_a_bug_of_the_caller, .signal = SIGABRT)
{
    struct smoe_inbox in = {0};
    feed_header(&in, 0, 6);
    feed_one(&in, "", 0);
    feed_one(&in, "abc", 3);
}
