/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io/log.h"

/* A log into a pipe; `line` gets what was written by the last call. */
struct bench {
    struct smoe_log log;
    int in;
    char line[2 * SMOE_LOG_LINE_MAX];
};

static void open_bench(struct bench *b, const char *journal, uint64_t (*wall_ms)(void))
{
    int ends[2];
    cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
    b->in = ends[0];
    smoe_log_init(&b->log, ends[1], SMOE_LOG_INFO, journal, wall_ms);
}

static const char *written(struct bench *b)
{
    ssize_t n = read(b->in, b->line, sizeof b->line - 1);
    b->line[n > 0 ? n : 0] = 0;
    return b->line;
}

static uint64_t some_time(void)
{
    return UINT64_C(1738324800123); /* 2025-01-31 12:00:00.123 UTC */
}

Test(log, a_line_is_key_value_pairs_in_order)
{
    struct bench b;
    open_bench(&b, NULL, some_time);
    smoe_log(&b.log, SMOE_LOG_NOTICE, smoe_msg("worker joined"), smoe_text_field("id", "pi-4"),
             smoe_u64_field("visits", UINT64_MAX), smoe_i64_field("drift", -3),
             smoe_double_field("speed", 0.25), smoe_flag_field("late", true),
             smoe_text_field("why", NULL));
    cr_assert_str_eq(written(&b),
                     "time=2025-01-31T12:00:00.123Z level=notice msg=\"worker joined\" "
                     "id=pi-4 visits=18446744073709551615 drift=-3 speed=0.25 "
                     "late=yes why=-\n");
}

Test(log, what_lies_above_the_level_is_not_written)
{
    struct bench b;
    open_bench(&b, NULL, NULL);
    smoe_log(&b.log, SMOE_LOG_DEBUG, smoe_msg("x"));
    cr_assert_str_eq(written(&b), "");
    smoe_log(&b.log, SMOE_LOG_INFO, smoe_msg("x"));
    cr_assert_str_eq(written(&b), "level=info msg=x\n");
    b.log.level = SMOE_LOG_DEBUG;
    smoe_log(&b.log, SMOE_LOG_DEBUG, smoe_msg("x"));
    cr_assert_str_eq(written(&b), "level=debug msg=x\n");
}

Test(log, nothing_a_peer_sends_can_forge_a_line)
{
    struct bench b;
    open_bench(&b, NULL, NULL);
    smoe_log(&b.log, SMOE_LOG_INFO,
             smoe_text_field("id", "a\nlevel=error \x1b[2J\x7f\xc2\x9b\"\\"));
    cr_assert_str_eq(written(&b),
                     "level=info id=\"a\\x0alevel=error \\x1b[2J\\x7f\\xc2\\x9b\\\"\\\\\"\n");
    smoe_log(&b.log, SMOE_LOG_INFO, smoe_text_field("id", ""), smoe_text_field("a", "b=c"));
    cr_assert_str_eq(written(&b), "level=info id=\"\" a=\"b=c\"\n");
    for (int c = 1; c < 256; c++) {
        char text[2] = {(char)c, 0};
        smoe_log(&b.log, SMOE_LOG_INFO, smoe_text_field("k", text));
        size_t n = strlen(written(&b));
        for (size_t i = 0; i + 1 < n; i++)
            cr_assert(b.line[i] >= 0x20 && b.line[i] < 0x7f);
    }
}

Test(log, the_journal_gets_severities_and_no_time)
{
    struct bench b;
    struct stat st;
    char own[64];
    open_bench(&b, NULL, some_time);
    int fd = b.log.fd;
    cr_assert_eq(fstat(fd, &st), 0);
    snprintf(own, sizeof own, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    smoe_log_init(&b.log, fd, SMOE_LOG_DEBUG, own, some_time);
    static const char *const expected[] = {"<3>level=error msg=x\n", "<4>level=warning msg=x\n",
                                           "<5>level=notice msg=x\n", "<6>level=info msg=x\n",
                                           "<7>level=debug msg=x\n"};
    for (unsigned level = SMOE_LOG_ERROR; level <= SMOE_LOG_DEBUG; level++) {
        smoe_log(&b.log, (enum smoe_log_level)level, smoe_msg("x"));
        cr_assert_str_eq(written(&b), expected[level]);
    }
    smoe_log_init(&b.log, fd, SMOE_LOG_INFO, "1:1", NULL); /* stderr was redirected */
    smoe_log(&b.log, SMOE_LOG_INFO, smoe_msg("x"));
    cr_assert_str_eq(written(&b), "level=info msg=x\n");
}

/* `level=info k=` takes 13 bytes, the newline one, the mark and its quote eleven. */
Test(log, a_long_line_is_cut_and_says_so)
{
    enum { FITS = SMOE_LOG_LINE_MAX - 11 - 13 };
    static char text[2 * SMOE_LOG_LINE_MAX];
    struct bench b;
    open_bench(&b, NULL, NULL);
    memset(text, 'x', sizeof text - 1);
    for (size_t n = FITS - 1; n <= FITS + 1; n++) {
        smoe_log(&b.log, SMOE_LOG_INFO, smoe_text_field("k", text + sizeof text - 1 - n));
        written(&b);
        bool cut = strstr(b.line, " cut=yes\n") != NULL;
        cr_assert_eq(cut, n > FITS, "%zu", n);
        cr_assert(strlen(b.line) <= SMOE_LOG_LINE_MAX);
    }
    memset(text, ' ', 5);
    smoe_log(&b.log, SMOE_LOG_INFO, smoe_text_field("k", text));
    written(&b);
    size_t n = strlen(b.line);
    cr_assert_str_eq(b.line + n - 11, "x\" cut=yes\n");
    cr_assert(n <= SMOE_LOG_LINE_MAX);
}

Test(log, a_full_pipe_loses_lines_and_counts_them)
{
    struct bench b;
    open_bench(&b, NULL, NULL);
    fcntl(b.log.fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 100000 && b.log.lost == 0; i++)
        smoe_log(&b.log, SMOE_LOG_INFO, smoe_msg("again"));
    cr_assert_eq(b.log.lost, 1);
}

Test(log, a_limit_lets_a_burst_through_and_then_one_per_interval)
{
    struct smoe_log_limit l = {.interval_ns = 100, .burst = 3};
    uint64_t left_out = 99;
    for (int i = 0; i < 3; i++) {
        cr_assert(smoe_log_allowed(&l, 1000, &left_out));
        cr_assert_eq(left_out, 0);
    }
    cr_assert_not(smoe_log_allowed(&l, 1000, &left_out));
    cr_assert_not(smoe_log_allowed(&l, 1099, &left_out));
    cr_assert(smoe_log_allowed(&l, 1100, &left_out));
    cr_assert_eq(left_out, 2);
    cr_assert_not(smoe_log_allowed(&l, 1199, &left_out));
    cr_assert(smoe_log_allowed(&l, 1200, &left_out));
    cr_assert_eq(left_out, 1);
    unsigned through = 0; /* long silence: a whole burst again, not more */
    for (int i = 0; i < 10; i++)
        through += smoe_log_allowed(&l, 1000000, &left_out);
    cr_assert_eq(through, 3);
}
