/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace on a real disk, and on one that is full: a file may not grow beyond RLIMIT_FSIZE.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/shell/recorder.h"

enum { BUFFER = 1 << 16, ENTRY_TOKENS = 60, ENTRY_EXPERTS = 8 };

static struct disk {
    char dir[64], file[96], old[104];
    struct smoe_recorder *recorder;
    struct smoe_report_trace now;
    uv_loop_t loop;
    uint32_t troubles, recoveries;
    bool closed;
} d;

/* What is in the file. */
static struct content {
    uint64_t routes, lost, whole_bytes;
    bool started, ended;
} in_file;

static void begin(void)
{
    const char *tmp = getenv("TMPDIR");
    memset(&d, 0, sizeof d);
    snprintf(d.dir, sizeof d.dir, "%s/smoe-trace-XXXXXX", tmp && strlen(tmp) < 32 ? tmp : "/tmp");
    cr_assert_not_null(mkdtemp(d.dir));
    snprintf(d.file, sizeof d.file, "%s/t", d.dir);
    snprintf(d.old, sizeof d.old, "%s.old", d.file);
    signal(SIGXFSZ, SIG_IGN);
}

static void end(void)
{
    (void)unlink(d.file);
    (void)unlink(d.old);
    (void)rmdir(d.dir);
}

TestSuite(recorder, .init = begin, .fini = end);

static void on_trouble(void *context, const struct smoe_report_trace *now)
{
    (void)context;
    d.troubles += *now->trouble != 0;
    d.recoveries += *now->trouble == 0;
}

static void on_closed(void *context)
{
    (void)context;
    d.closed = true;
}

static void start(uint64_t bytes_max)
{
    struct smoe_recorder_options o = {.path = d.file,
                                      .bytes_max = bytes_max,
                                      .buffer_bytes = BUFFER,
                                      .software = "test",
                                      .trouble = on_trouble};
    struct smoe_why why;
    cr_assert_eq(uv_loop_init(&d.loop), 0);
    cr_assert_eq(smoe_recorder_start(&o, &d.loop, &d.recorder, &why), 0, "%s", why.text);
}

static void stop(void)
{
    smoe_recorder_stop(d.recorder, 99, on_closed, NULL);
    cr_assert_eq(uv_run(&d.loop, UV_RUN_DEFAULT), 0);
    cr_assert(d.closed);
    cr_assert(smoe_recorder_tell(d.recorder, &d.now));
}

static void finish(void)
{
    smoe_recorder_free(d.recorder);
    cr_assert_eq(uv_loop_close(&d.loop), 0);
}

/* One decision, about 2 KiB. */
static void append(uint64_t slot)
{
    static float scores[ENTRY_TOKENS * ENTRY_EXPERTS];
    static uint16_t expert[ENTRY_TOKENS];
    static uint32_t node[ENTRY_TOKENS], first[ENTRY_EXPERTS + 1];
    struct smoe_trace_batch batch = {0, ENTRY_TOKENS, slot};
    struct smoe_trace_entry e = {.type = SMOE_TRACE_ROUTE,
                                 .route = {.slot = slot,
                                           .layer = "moe",
                                           .experts = ENTRY_EXPERTS,
                                           .top_k = 1,
                                           .tokens = ENTRY_TOKENS,
                                           .nodes = 1,
                                           .policy = "topk",
                                           .plan = "work",
                                           .slot_ns = 20000000,
                                           .v = 20,
                                           .mu = 1,
                                           .n_batches = 1,
                                           .batches = &batch,
                                           .replica_first = first,
                                           .scores_kept = ENTRY_EXPERTS,
                                           .scores = scores,
                                           .tau_s = 0.02,
                                           .expert = expert,
                                           .node = node,
                                           .routed = ENTRY_TOKENS}};
    smoe_recorder_append(d.recorder, &e);
}

/* The loop goes round until the file has so many bytes, or trouble changes. */
static void run_until_written(void)
{
    uint32_t before = d.troubles + d.recoveries;
    uint64_t bytes;
    smoe_recorder_tell(d.recorder, &d.now);
    bytes = d.now.bytes;
    while (d.troubles + d.recoveries == before && d.now.bytes == bytes) {
        uv_run(&d.loop, UV_RUN_ONCE);
        smoe_recorder_tell(d.recorder, &d.now);
    }
}

static void take(const struct smoe_trace_entry *e)
{
    in_file.started |= e->type == SMOE_TRACE_START;
    in_file.routes += e->type == SMOE_TRACE_ROUTE;
    in_file.lost += e->type == SMOE_TRACE_LOST ? e->lost : 0;
    in_file.ended = e->type == SMOE_TRACE_END;
}

/* Reads it all; it must be whole. */
static void read_back(const char *path)
{
    static uint8_t bytes[1 << 22];
    struct smoe_trace_codec *codec;
    struct smoe_trace_frame frame;
    struct smoe_trace_entry e;
    struct smoe_why why;
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, bytes, sizeof bytes);
    close(fd);
    in_file = (struct content){0};
    cr_assert_eq(smoe_trace_codec_new(BUFFER, &codec), 0);
    cr_assert(n >= SMOE_TRACE_HEADER_BYTES);
    cr_assert_eq(smoe_trace_check_header(bytes, &why), 0);
    for (ssize_t at = SMOE_TRACE_HEADER_BYTES; at < n;) {
        const uint8_t *payload = bytes + at + SMOE_TRACE_FRAME_BYTES;
        cr_assert_eq(smoe_trace_read_frame(bytes + at, &frame), 0);
        cr_assert(smoe_trace_frame_holds(&frame, payload));
        cr_assert_eq(smoe_trace_decode(codec, &frame, payload, &e, &why), 0, "%s", why.text);
        take(&e);
        at += SMOE_TRACE_FRAME_BYTES + frame.bytes;
    }
    in_file.whole_bytes = (uint64_t)n;
    smoe_trace_codec_free(codec);
}

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* ---- ---- */

Test(recorder, writes_what_it_is_given_with_a_beginning_and_an_end)
{
    start(1 << 20);
    for (uint64_t i = 0; i < 20; i++)
        append(i);
    stop();
    read_back(d.file);
    cr_assert(in_file.started && in_file.ended);
    cr_assert_eq(in_file.routes, 20);
    cr_assert_eq(d.now.records, 21, "the beginning is one");
    cr_assert_eq(d.now.bytes, in_file.whole_bytes);
    cr_assert_eq(d.now.lost + d.troubles, 0);
    finish();
}

Test(recorder, writes_by_itself_within_a_moment)
{
    start(1 << 20);
    append(1);
    run_until_written();
    read_back(d.file);
    cr_assert_eq(in_file.routes, 1);
    cr_assert_not(in_file.ended);
    stop();
    finish();
}

Test(recorder, what_finds_no_room_is_counted_and_told)
{
    start(1 << 22);
    for (uint64_t i = 0; i < 100; i++) /* more than two buffers, before the loop can do anything */
        append(i);
    smoe_recorder_tell(d.recorder, &d.now);
    cr_assert_gt(d.now.lost, 0);
    uint64_t lost = d.now.lost;
    run_until_written();
    append(100);
    stop();
    read_back(d.file);
    cr_assert_eq(d.now.lost, lost);
    cr_assert_eq(in_file.lost, lost);
    cr_assert_eq(in_file.routes, 101 - lost);
    cr_assert_eq(d.troubles, 0, "nothing is wrong with the disk");
    finish();
}

Test(recorder, a_record_beyond_the_buffer_is_lost_and_the_next_is_not)
{
    start(1 << 22);
    struct smoe_trace_entry lost = {.type = SMOE_TRACE_LOST, .lost = 3};
    smoe_recorder_append(d.recorder, &lost); /* as the core says it */
    append(1);
    stop();
    read_back(d.file);
    cr_assert_eq(in_file.lost, 3);
    cr_assert_eq(in_file.routes, 1);
    finish();
}

Test(recorder, a_full_disk_is_said_once_and_what_is_there_stays_whole)
{
    start(1 << 22);
    limit_files(20000);
    for (uint64_t i = 0; i < 5; i++)
        append(i);
    run_until_written();
    cr_assert_eq(d.troubles, 0);
    for (uint64_t i = 0; i < 20; i++)
        append(i);
    run_until_written(); /* beyond the limit */
    cr_assert_eq(d.troubles, 1);
    cr_assert_str_eq(d.now.trouble, "File too large");
    for (uint64_t i = 0; i < 20; i++)
        append(i);
    stop();
    cr_assert_eq(d.troubles, 1);
    read_back(d.file);
    cr_assert_eq(in_file.routes, 5);
    cr_assert_eq(in_file.routes + d.now.lost, 45);
    cr_assert_leq(in_file.whole_bytes, 20000);
    finish();
}

Test(recorder, goes_on_when_there_is_room_again_and_says_what_is_missing)
{
    start(1 << 22);
    limit_files(5000);
    for (uint64_t i = 0; i < 10; i++)
        append(i);
    run_until_written();
    cr_assert_eq(d.troubles, 1);
    limit_files(RLIM_INFINITY);
    append(10);
    run_until_written();
    cr_assert_eq(d.recoveries, 1);
    stop();
    read_back(d.file);
    cr_assert_eq(in_file.lost, d.now.lost);
    cr_assert_eq(in_file.routes + in_file.lost, 12, "the beginning was lost with the first ten");
    cr_assert(in_file.ended);
    finish();
}

Test(recorder, a_file_has_exactly_what_it_may)
{
    start(1 << 22);
    append(0);
    append(1);
    stop();
    uint64_t bytes = d.now.bytes;
    finish();
    for (uint64_t less = 0; less < 2; less++) {
        d.closed = false;
        d.troubles = 0;
        start(bytes - 21 + 64 - less); /* an End of 21 bytes stands in 64 kept free for it */
        append(0);
        append(1);
        append(2);
        stop();
        read_back(d.file);
        cr_assert(in_file.ended);
        cr_assert_eq(in_file.routes, 2 - less);
        cr_assert_eq(in_file.routes + d.now.lost, 3);
        cr_assert_eq(in_file.lost, d.now.lost);
        cr_assert_eq(d.troubles, 1);
        cr_assert_str_eq(d.now.trouble, "trace.bytes_max is reached");
        finish();
    }
}

/* The journal's last commit may make the core decide once more, when the trace has had its End. */
Test(recorder, what_is_decided_after_the_end_is_lost_and_the_end_stays_the_last)
{
    start(1 << 22);
    append(0);
    smoe_recorder_stop(d.recorder, 99, on_closed, NULL);
    for (uint64_t i = 1; i <= 20; i++)
        append(i);
    cr_assert_eq(uv_run(&d.loop, UV_RUN_DEFAULT), 0);
    cr_assert(d.closed);
    append(21);
    smoe_recorder_tell(d.recorder, &d.now);
    cr_assert_eq(d.now.lost, 21);
    read_back(d.file);
    cr_assert(in_file.ended);
    cr_assert_eq(in_file.routes, 1);
    finish();
}

Test(recorder, keeps_one_earlier_file)
{
    for (int i = 0; i < 3; i++) {
        d.closed = false;
        start(1 << 20);
        for (int k = 0; k <= i; k++)
            append(1);
        stop();
        finish();
    }
    read_back(d.file);
    cr_assert_eq(in_file.routes, 3);
    read_back(d.old);
    cr_assert_eq(in_file.routes, 2);
}

Test(recorder, a_file_that_cannot_be_made_is_a_sentence)
{
    struct smoe_recorder_options o = {
        .path = "/nowhere/t", .bytes_max = 1 << 20, .buffer_bytes = BUFFER, .software = "test"};
    struct smoe_why why;
    cr_assert_eq(uv_loop_init(&d.loop), 0);
    cr_assert_lt(smoe_recorder_start(&o, &d.loop, &d.recorder, &why), 0);
    cr_assert_str_eq(why.text, "trace /nowhere/t: No such file or directory");
    cr_assert_eq(uv_loop_close(&d.loop), 0);
}
