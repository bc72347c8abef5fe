/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "proto/frame.h"
#include "proto/outbox.h"
#include "tests/unit/io/alloc_fault.h"

enum { HEADER = SMOE_FRAME_HEADER_BYTES };

/* Takes up to `most` bytes out of the outbox, through iovecs of which at most `max` are asked for. */
static size_t take(struct smoe_outbox *out, size_t max, size_t most, uint8_t *ret)
{
    struct iovec iovecs[16];
    size_t n = smoe_outbox_peek(out, iovecs, max), taken = 0;
    cr_assert_leq(n, max);
    for (size_t i = 0; i < n && taken < most; i++) {
        size_t bytes = iovecs[i].iov_len < most - taken ? iovecs[i].iov_len : most - taken;
        cr_assert_gt(iovecs[i].iov_len, 0, "an empty piece would make writev return 0");
        memcpy(ret + taken, iovecs[i].iov_base, bytes);
        taken += bytes;
    }
    smoe_outbox_consume(out, taken);
    return taken;
}

static struct smoe_segment whole(struct smoe_blob *blob)
{
    return (struct smoe_segment){blob, blob->data, blob->bytes};
}

static struct smoe_blob *blob_of(struct smoe_budget *budget, const char *text)
{
    struct smoe_blob *blob = smoe_blob_new(budget, strlen(text));
    memcpy(blob->data, text, strlen(text));
    return blob;
}

/* Three frames: with segments (one of them empty), bare, with a segment that is part of a blob. */
static size_t put_three(struct smoe_outbox *out, struct smoe_budget *budget, uint8_t *ret_expected)
{
    struct smoe_blob *a = blob_of(budget, "abcdef"), *b = blob_of(budget, "ghijklmnop");
    struct smoe_segment first[] = {whole(a), {b, b->data, 0}, whole(b)};
    struct smoe_segment third[] = {{b, b->data + 2, 3}};
    cr_assert_eq(smoe_outbox_put(out, 51, (const uint8_t *)"hello", 5, first, 3), 0);
    cr_assert_eq(smoe_outbox_put(out, 4, NULL, 0, NULL, 0), 0);
    cr_assert_eq(smoe_outbox_put(out, 52, (const uint8_t *)"x", 1, third, 1), 0);
    smoe_blob_unref(a);
    smoe_blob_unref(b);
    uint8_t *p = ret_expected;
    struct smoe_frame_header headers[] = {{51, 5, 16}, {4, 0, 0}, {52, 1, 3}};
    const char *parts[] = {"helloabcdefghijklmnop", "", "xijk"};
    for (int i = 0; i < 3; i++) {
        smoe_frame_encode(&headers[i], p);
        memcpy(p + HEADER, parts[i], strlen(parts[i]));
        p += HEADER + strlen(parts[i]);
    }
    return (size_t)(p - ret_expected);
}

Test(outbox, a_partial_write_may_end_at_any_byte)
{
    for (size_t step = 1; step < 90; step++) {
        for (size_t max = 1; max <= 6; max++) {
            struct smoe_budget budget = {.max_bytes = 100};
            struct smoe_outbox out;
            uint8_t expected[200], got[200];
            smoe_outbox_init(&out, 1000);
            size_t n = put_three(&out, &budget, expected), taken = 0;
            cr_assert_eq(out.bytes, n);
            while (taken < n) {
                taken += take(&out, max, step, got + taken);
                cr_assert_eq(out.bytes, n - taken);
            }
            cr_assert_arr_eq(got, expected, n);
            cr_assert_eq(budget.used_bytes, 0, "written frames give their blobs back");
            cr_assert_eq(smoe_outbox_peek(&out, NULL, 0), 0);
            smoe_outbox_release(&out);
        }
    }
}

Test(outbox, a_blob_lives_until_the_last_byte_of_its_frame_is_written)
{
    struct smoe_budget budget = {.max_bytes = 100};
    struct smoe_outbox out;
    uint8_t expected[200], got[200];
    smoe_outbox_init(&out, 1000);
    size_t n = put_three(&out, &budget, expected);
    cr_assert_eq(budget.used_bytes, 16);
    take(&out, 6, HEADER + 5 + 15, got);
    cr_assert_eq(budget.used_bytes, 16);
    take(&out, 6, 1, got);
    cr_assert_eq(budget.used_bytes, 10, "the first blob is gone, the second is in the third frame");
    take(&out, 6, n, got);
    cr_assert_eq(budget.used_bytes, 0);
    smoe_outbox_release(&out);
}

Test(outbox, release_gives_back_what_was_not_written_and_may_be_called_twice)
{
    struct smoe_budget budget = {.max_bytes = 100};
    struct smoe_outbox out = {0};
    uint8_t bytes[200];
    smoe_outbox_release(&out);
    smoe_outbox_init(&out, 1000);
    put_three(&out, &budget, bytes);
    take(&out, 6, 30, bytes);
    smoe_outbox_release(&out);
    smoe_outbox_release(&out);
    cr_assert_eq(budget.used_bytes, 0);
    cr_assert_eq(out.bytes, 0);
}

/* A frame with raw part may fill the outbox to bytes_max, one without to 64 KiB more. */
Test(outbox, the_limit_holds_at_one_below_and_one_above)
{
    struct smoe_blob *blob = smoe_blob_new(NULL, 1000);
    memset(blob->data, 0, blob->bytes);
    struct smoe_segment segment = whole(blob);
    size_t frame = HEADER + 1000;
    struct {
        size_t bytes_max;
        int rc;
    } cases[] = {{frame - 1, SMOE_ELIMIT}, {frame, 0}, {frame + 1, 0}};
    for (int i = 0; i < 3; i++) {
        struct smoe_outbox out;
        smoe_outbox_init(&out, cases[i].bytes_max);
        cr_assert_eq(smoe_outbox_put(&out, 51, NULL, 0, &segment, 1), cases[i].rc);
        cr_assert_eq(out.bytes, cases[i].rc ? 0 : frame);
        cr_assert_eq(blob->refs, cases[i].rc ? 1 : 2, "nothing is kept of what was refused");
        smoe_outbox_release(&out);
    }
    smoe_blob_unref(blob);
}

Test(outbox, control_frames_have_64_kib_beyond_the_limit)
{
    static uint8_t body[SMOE_CONTROL_BYTES_MAX];
    struct smoe_outbox out;
    smoe_outbox_init(&out, HEADER);
    cr_assert_eq(smoe_outbox_put(&out, 3, body, SMOE_CONTROL_BYTES_MAX, NULL, 0), 0);
    cr_assert_eq(smoe_outbox_put(&out, 3, NULL, 0, NULL, 0), SMOE_ELIMIT);
    smoe_outbox_release(&out);
    smoe_outbox_init(&out, HEADER - 1);
    cr_assert_eq(smoe_outbox_put(&out, 3, body, SMOE_CONTROL_BYTES_MAX, NULL, 0), SMOE_ELIMIT);
    cr_assert_eq(smoe_outbox_put(&out, 3, body, SMOE_CONTROL_BYTES_MAX - 1, NULL, 0), 0);
    smoe_outbox_release(&out);
}

/* What counts is what it costs: an answer of a few bytes is a block of two hundred. */
Test(outbox, the_smallest_frames_take_no_more_memory_than_the_limit_by_much)
{
    struct smoe_outbox out;
    uint8_t bytes[HEADER];
    size_t before = mallinfo2().uordblks, n = 0, limit = (1 << 20) + SMOE_CONTROL_BYTES_MAX;
    smoe_outbox_init(&out, 1 << 20);
    while (smoe_outbox_put(&out, 4, NULL, 0, NULL, 0) == 0)
        n++;
    cr_assert_geq(n, 1 << 10);
    cr_assert_lt(mallinfo2().uordblks - before, limit + limit / 4, "%zu frames", n);
    for (size_t i = 0; i < n; i++)
        take(&out, 1, HEADER, bytes);
    cr_assert_eq(smoe_outbox_put(&out, 4, NULL, 0, NULL, 0), 0, "there is room again");
    while (smoe_outbox_put(&out, 4, NULL, 0, NULL, 0) == 0)
        n--;
    cr_assert_eq(n, 1, "as much as before");
    smoe_outbox_release(&out);
}

/* Segments may name the same blob: a raw part of 1 GiB without holding one. */
Test(outbox, a_raw_part_has_at_most_a_gibibyte)
{
    struct smoe_blob *blob = smoe_blob_new(NULL, SMOE_TENSOR_BYTES_MAX / 4 + 1);
    struct smoe_outbox out;
    size_t quarter = SMOE_TENSOR_BYTES_MAX / 4;
    struct smoe_segment s[SMOE_SEGMENTS_MAX];
    for (int i = 0; i < SMOE_SEGMENTS_MAX; i++)
        s[i] = (struct smoe_segment){blob, blob->data, quarter};
    smoe_outbox_init(&out, SIZE_MAX / 2);
    cr_assert_eq(smoe_outbox_put(&out, 51, NULL, 0, s, SMOE_SEGMENTS_MAX), 0);
    s[3].bytes++;
    cr_assert_eq(smoe_outbox_put(&out, 51, NULL, 0, s, SMOE_SEGMENTS_MAX), SMOE_ETOOBIG);
    s[3].bytes -= 2;
    cr_assert_eq(smoe_outbox_put(&out, 51, NULL, 0, s, SMOE_SEGMENTS_MAX), 0);
    smoe_outbox_release(&out);
    cr_assert_eq(blob->refs, 1);
    smoe_blob_unref(blob);
}

Test(outbox, without_memory_nothing_is_queued)
{
    struct smoe_blob *blob = blob_of(NULL, "abc");
    struct smoe_segment segment = whole(blob);
    struct smoe_outbox out;
    smoe_outbox_init(&out, 1000);
    unsigned n = 1;
    for (;; n++) {
        smoe_alloc_fail_at(n);
        int rc = smoe_outbox_put(&out, 51, (const uint8_t *)"b", 1, &segment, 1);
        if (!smoe_alloc_failed())
            break;
        cr_assert(rc == SMOE_ENOMEMORY && out.bytes == 0 && blob->refs == 1);
    }
    cr_assert(n > 1 && out.bytes == HEADER + 4 && blob->refs == 2);
    smoe_outbox_release(&out);
    smoe_blob_unref(blob);
}

/* Against a plain buffer as the oracle: frames come and go in random sizes. */
Test(outbox, random_puts_and_writes_keep_the_order_of_bytes)
{
    static uint8_t expected[1 << 20], got[1 << 20], body[512];
    struct smoe_budget budget = {.max_bytes = 1 << 20};
    struct smoe_rng rng;
    struct smoe_outbox out;
    size_t put = 0, taken = 0;
    smoe_rng_init(&rng, 5, 0);
    smoe_outbox_init(&out, 1 << 20);
    while (put < sizeof expected - 4096) {
        size_t body_bytes = smoe_rng_below(&rng, sizeof body);
        struct smoe_segment segments[SMOE_SEGMENTS_MAX];
        size_t n = smoe_rng_below(&rng, SMOE_SEGMENTS_MAX + 1), raw = 0;
        for (size_t i = 0; i < body_bytes; i++)
            body[i] = (uint8_t)smoe_rng_u64(&rng);
        size_t at = put + HEADER;
        memcpy(expected + at, body, body_bytes);
        at += body_bytes;
        for (size_t i = 0; i < n; i++) {
            struct smoe_blob *blob = smoe_blob_new(&budget, smoe_rng_below(&rng, 700));
            memset(blob->data, (int)smoe_rng_below(&rng, 256), blob->bytes);
            memcpy(expected + at, blob->data, blob->bytes);
            at += blob->bytes;
            raw += blob->bytes;
            segments[i] = whole(blob);
        }
        struct smoe_frame_header header = {9, (uint32_t)body_bytes, (uint32_t)raw};
        smoe_frame_encode(&header, expected + put);
        cr_assert_eq(smoe_outbox_put(&out, 9, body, body_bytes, segments, n), 0);
        for (size_t i = 0; i < n; i++)
            smoe_blob_unref(segments[i].blob);
        put = at;
        if (smoe_rng_below(&rng, 2))
            taken +=
                take(&out, 1 + smoe_rng_below(&rng, 16), smoe_rng_below(&rng, 9000), got + taken);
        cr_assert_eq(out.bytes, put - taken);
    }
    while (taken < put)
        taken += take(&out, 16, SIZE_MAX, got + taken);
    cr_assert_arr_eq(got, expected, put);
    cr_assert_eq(budget.used_bytes, 0);
    smoe_outbox_release(&out);
}

Test(outbox, writing_more_than_was_queued_is_a_bug_of_the_caller, .signal = SIGABRT)
{
    struct smoe_outbox out;
    smoe_outbox_init(&out, 1000);
    smoe_outbox_put(&out, 4, NULL, 0, NULL, 0);
    smoe_outbox_consume(&out, HEADER + 1);
}
