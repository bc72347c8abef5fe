/* SPDX-License-Identifier: Apache-2.0
 *
 * A line is built in a buffer on the stack and leaves in one write, so that lines of several threads
 * or processes on one pipe do not mix (PIPE_BUF is 4096). The buffer keeps RESERVE bytes for the
 * mark of a cut line. Nothing is ever retried: a log that blocks would stop the slots.
 */
#include "common/io/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/assert.h"

#define CUT_MARK "\" cut=yes\n" /* the quote only where one is open */
#define RESERVE  (sizeof CUT_MARK)

const char *const smoe_log_levels[] = {"error", "warning", "notice", "info", "debug", NULL};
static const int severities[] = {3, 4, 5, 6, 7}; /* RFC 5424, by level */

/* Invariant: len <= SMOE_LOG_LINE_MAX - RESERVE; once cut, nothing is added. */
struct line {
    char text[SMOE_LOG_LINE_MAX];
    size_t len;
    bool cut;
    bool quoted; /* inside a quoted value */
};

static void add(struct line *l, const char *text, size_t n)
{
    if (l->cut || n > SMOE_LOG_LINE_MAX - RESERVE - l->len) {
        l->cut = true;
        return;
    }
    memcpy(l->text + l->len, text, n);
    l->len += n;
}

static void add_text(struct line *l, const char *text)
{
    add(l, text, strlen(text));
}

static bool is_bare(const char *value)
{
    static const char bare[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._:/@+,%[]{}()<>*~^!?#&;|-";
    return value[0] && value[strspn(value, bare)] == 0;
}

static void add_escaped(struct line *l, const char *value)
{
    add(l, "\"", 1);
    l->quoted = !l->cut;
    for (; *value && !l->cut; value++) {
        unsigned char c = (unsigned char)*value;
        char piece[8];
        if (c == '"' || c == '\\')
            snprintf(piece, sizeof piece, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            snprintf(piece, sizeof piece, "\\x%02x", c);
        else
            snprintf(piece, sizeof piece, "%c", c);
        add_text(l, piece);
    }
    if (l->cut)
        return; /* the mark closes the quote */
    add(l, "\"", 1);
    l->quoted = l->cut;
}

static void add_value(struct line *l, const struct smoe_log_field *f)
{
    char number[40];
    switch (f->type) {
    case 't':
        if (!f->text)
            add_text(l, "-");
        else if (is_bare(f->text))
            add_text(l, f->text);
        else
            add_escaped(l, f->text);
        return;
    case 'u':
        snprintf(number, sizeof number, "%" PRIu64, f->u64);
        break;
    case 'i':
        snprintf(number, sizeof number, "%" PRId64, f->i64);
        break;
    case 'd':
        snprintf(number, sizeof number, "%.6g", f->number);
        break;
    default:
        smoe_assert(f->type == 'f'); /* fields come from the smoe_*_field functions */
        snprintf(number, sizeof number, "%s", f->flag ? "yes" : "no");
        break;
    }
    add_text(l, number);
}

static void add_head(struct line *l, const struct smoe_log *log, enum smoe_log_level level)
{
    char head[48];
    if (log->journal) {
        snprintf(head, sizeof head, "<%d>", severities[level]);
        add_text(l, head);
    } else if (log->wall_ms) {
        uint64_t ms = log->wall_ms();
        time_t seconds = (time_t)(ms / 1000);
        struct tm utc;
        gmtime_r(&seconds, &utc);
        size_t n = strftime(head, sizeof head, "time=%Y-%m-%dT%H:%M:%S", &utc);
        snprintf(head + n, sizeof head - n, ".%03uZ ", (unsigned)(ms % 1000));
        add_text(l, head);
    }
    add_text(l, "level=");
    add_text(l, smoe_log_levels[level]);
}

void smoe_log_write(struct smoe_log *log, enum smoe_log_level level,
                    const struct smoe_log_field *fields)
{
    if (level > log->level)
        return;
    struct line l = {.len = 0};
    add_head(&l, log, level);
    for (const struct smoe_log_field *f = fields; f->key; f++) {
        add(&l, " ", 1);
        add_text(&l, f->key);
        add(&l, "=", 1);
        add_value(&l, f);
    }
    const char *end = !l.cut ? "\n" : l.quoted ? CUT_MARK : &CUT_MARK[1];
    memcpy(l.text + l.len, end, strlen(end)); /* room: RESERVE */
    l.len += strlen(end);
    ssize_t n;
    do
        n = write(log->fd, l.text, l.len);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)l.len)
        log->lost++;
}

/* JOURNAL_STREAM is "device:inode" of the journal's socket (systemd.exec(5)). */
static bool is_journal(int fd, const char *stream)
{
    struct stat st;
    char own[64];
    if (!stream || fstat(fd, &st) < 0)
        return false;
    snprintf(own, sizeof own, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(own, stream) == 0;
}

void smoe_log_init(struct smoe_log *log, int fd, enum smoe_log_level level,
                   const char *journal_stream, uint64_t (*wall_ms)(void))
{
    *log = (struct smoe_log){
        .fd = fd, .level = level, .journal = is_journal(fd, journal_stream), .wall_ms = wall_ms};
}

/* A leaky bucket: each line fills it by one, each whole interval drains one. */
bool smoe_log_allowed(struct smoe_log_limit *l, uint64_t now_ns, uint64_t *ret_suppressed)
{
    uint64_t drained = (now_ns - l->since_ns) / l->interval_ns;
    if (drained >= l->used) {
        l->used = 0;
        l->since_ns = now_ns;
    } else {
        l->used -= (unsigned)drained;
        l->since_ns += drained * l->interval_ns;
    }
    if (l->used >= l->burst) {
        l->suppressed++;
        return false;
    }
    l->used++;
    *ret_suppressed = l->suppressed;
    l->suppressed = 0;
    return true;
}
