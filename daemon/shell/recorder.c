/* SPDX-License-Identifier: Apache-2.0
 *
 * Two buffers. The loop encodes into `filling`; a pool job writes `writing` at the end of what is whole
 * of the file; when it is done they change places. Each remembers how many records it has, so that
 * they can be counted as lost together: a job that fails cuts the file back to where it began, and the
 * next record is preceded by a Lost. After a failure the next job waits a second; what comes meanwhile
 * fills the buffer and then is lost.
 *
 *     records appended = in the file + in the buffers + lost
 *
 * `offset` and the writing buffer belong to the job while one is under way. A full file (bytes_max) is a
 * trouble that does not end.
 */
#include "daemon/shell/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/assert.h"

#define FLUSH_MS    250
#define FLUSH_BYTES (256u << 10)
#define RETRY_MS    1000
#define END_BYTES   64 /* kept free for the Lost and the End of a file */

struct buffer {
    uint8_t *bytes; /* [cap], owned */
    size_t used;
    uint64_t records; /* Lost and End not counted */
    uint64_t told;    /* records that Lost in it speak for */
};

struct smoe_recorder {
    struct smoe_recorder_options options;
    char path[256];
    int fd;
    struct smoe_trace_codec *codec;
    struct buffer filling, writing;
    uv_loop_t *loop;
    uv_work_t work;
    uv_timer_t timer; /* to flush, or to try again */
    bool busy, closing;
    bool full;          /* bytes_max is reached */
    bool failed;        /* the last job, */
    int job_error;      /* with this errno; its own until it is done */
    uint64_t offset;    /* bytes of the file that are whole */
    uint64_t accepted;  /* bytes in the file and in the buffers */
    uint64_t records;   /* in the file */
    uint64_t lost;      /* in all */
    uint64_t lost_told; /* of these, as Lost stands in file or buffers */
    struct smoe_why why;
    void (*closed)(void *context);
    void *closed_context;
};

/* ---- the file ---- */

static int write_all(int fd, const uint8_t *bytes, size_t n, uint64_t offset)
{
    while (n) {
        ssize_t wrote = pwrite(fd, bytes, n, (off_t)offset);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? errno : ENOSPC;
        bytes += wrote;
        offset += (uint64_t)wrote;
        n -= (size_t)wrote;
    }
    return 0;
}

static int make_file(struct smoe_recorder *r, struct smoe_why *why)
{
    uint8_t header[SMOE_TRACE_HEADER_BYTES];
    char old[sizeof r->path + 4];
    smoe_trace_header(header);
    snprintf(old, sizeof old, "%s.old", r->path);
    if (rename(r->path, old) != 0 && errno != ENOENT)
        return smoe_fail(why, -errno, "trace %s: rename to .old: %s", r->path, strerror(errno));
    r->fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    int error = r->fd < 0 ? errno : write_all(r->fd, header, sizeof header, 0);
    if (error)
        return smoe_fail(why, -error, "trace %s: %s", r->path, strerror(error));
    r->offset = r->accepted = sizeof header;
    return 0;
}

static int make(const struct smoe_recorder_options *options, struct smoe_recorder **ret,
                struct smoe_why *why)
{
    struct smoe_recorder *r = calloc(1, sizeof *r);
    if (!r)
        return smoe_fail(why, SMOE_ENOMEMORY, "trace: out of memory");
    r->options = *options;
    r->fd = -1;
    snprintf(r->path, sizeof r->path, "%s", options->path);
    r->filling.bytes = malloc(options->buffer_bytes);
    r->writing.bytes = malloc(options->buffer_bytes);
    int rc = r->filling.bytes && r->writing.bytes
                 ? smoe_trace_codec_new(options->buffer_bytes, &r->codec)
                 : SMOE_ENOMEMORY;
    if (rc)
        smoe_fail(why, rc, "trace: out of memory for buffers of %zu bytes", options->buffer_bytes);
    else
        rc = make_file(r, why);
    if (rc)
        smoe_recorder_free(r);
    else
        *ret = r;
    return rc;
}

void smoe_recorder_free(struct smoe_recorder *r)
{
    if (!r)
        return;
    smoe_assert(!r->busy);
    if (r->fd >= 0)
        (void)close(r->fd);
    smoe_trace_codec_free(r->codec);
    free(r->filling.bytes);
    free(r->writing.bytes);
    free(r);
}

bool smoe_recorder_tell(const struct smoe_recorder *r, struct smoe_report_trace *ret)
{
    if (r)
        *ret = (struct smoe_report_trace){r->path, r->offset, r->records, r->lost, r->why.text};
    return r != NULL;
}

/* ---- writing in the background ---- */

static void write_next(struct smoe_recorder *r);

static void on_timer(uv_timer_t *timer)
{
    write_next(timer->data);
}

static void on_work(uv_work_t *work)
{
    struct smoe_recorder *r = work->data;
    r->job_error = write_all(r->fd, r->writing.bytes, r->writing.used, r->offset);
    if (r->job_error)
        (void)!ftruncate(r->fd, (off_t)r->offset);
}

/* Trouble begins or ends; each is said once. */
static void set_trouble(struct smoe_recorder *r, const char *why)
{
    bool was = r->why.text[0] != 0;
    smoe_why_set(&r->why, "%s", why);
    struct smoe_report_trace now;
    if (was != (*why != 0) && smoe_recorder_tell(r, &now))
        r->options.trouble(r->options.context, &now);
}

static void book(struct smoe_recorder *r)
{
    r->failed = r->job_error != 0;
    if (r->failed) {
        r->accepted -= r->writing.used;
        r->lost += r->writing.records;
        r->lost_told -= r->writing.told;
    } else {
        r->offset += r->writing.used;
        r->records += r->writing.records;
    }
    r->writing.used = 0;
    r->writing.records = r->writing.told = 0;
    if (r->failed || !r->full)
        set_trouble(r, r->failed ? strerror(r->job_error) : "");
}

static void on_worked(uv_work_t *work, int status)
{
    struct smoe_recorder *r = work->data;
    (void)status;
    r->busy = false;
    book(r);
    if (r->closing)
        write_next(r);
    else if (r->failed)
        uv_timer_start(&r->timer, on_timer, RETRY_MS, 0);
    else if (r->filling.used >= FLUSH_BYTES)
        write_next(r);
    else if (r->filling.used)
        uv_timer_start(&r->timer, on_timer, FLUSH_MS, 0);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct smoe_recorder *r = handle->data;
    r->closed(r->closed_context);
}

static void write_next(struct smoe_recorder *r)
{
    if (r->busy)
        return;
    uv_timer_stop(&r->timer);
    bool give_up = r->closing && r->failed;
    if (!r->filling.used || give_up) {
        if (r->closing)
            uv_close((uv_handle_t *)&r->timer, on_timer_closed);
        return;
    }
    struct buffer full = r->filling;
    r->filling = r->writing;
    r->writing = full;
    r->busy = true;
    r->work.data = r;
    uv_queue_work(r->loop, &r->work, on_work, on_worked);
}

/* ---- records ---- */

/* True if the entry is in the buffer; `reserve` bytes of buffer and file stay free for an end. What would
 * be too much for the file makes it full: smaller records that might still fit would only be a riddle. */
static bool encode(struct smoe_recorder *r, const struct smoe_trace_entry *entry, size_t reserve)
{
    struct buffer *b = &r->filling;
    size_t room = r->options.buffer_bytes - b->used, bytes;
    room = room > reserve ? room - reserve : 0;
    if (smoe_trace_encode(r->codec, entry, r->options.scores_top, b->bytes + b->used, room, &bytes))
        return false;
    if (r->accepted + bytes + reserve > r->options.bytes_max) {
        r->full = true;
        return false;
    }
    b->used += bytes;
    r->accepted += bytes;
    return true;
}

/* Says what is missing, before what comes next. */
static bool tell_lost(struct smoe_recorder *r, size_t reserve)
{
    struct smoe_trace_entry lost = {.type = SMOE_TRACE_LOST, .lost = r->lost - r->lost_told};
    if (!lost.lost)
        return true;
    if (!encode(r, &lost, reserve))
        return false;
    r->filling.told += lost.lost;
    r->lost_told += lost.lost;
    return true;
}

static void schedule(struct smoe_recorder *r)
{
    bool waits_to_try = r->failed && uv_is_active((uv_handle_t *)&r->timer);
    if (r->busy || !r->filling.used || waits_to_try)
        return;
    if (r->filling.used >= FLUSH_BYTES)
        write_next(r);
    else if (!uv_is_active((uv_handle_t *)&r->timer))
        uv_timer_start(&r->timer, on_timer, FLUSH_MS, 0);
}

void smoe_recorder_append(struct smoe_recorder *r, const struct smoe_trace_entry *entry)
{
    if (entry->type == SMOE_TRACE_LOST) { /* counted by who had no room */
        r->lost += entry->lost;
        return;
    }
    if (r->closing) { /* nothing comes behind an End, and nobody starts a job any more */
        r->lost++;
        return;
    }
    bool in = !r->full && tell_lost(r, END_BYTES) && encode(r, entry, END_BYTES);
    r->filling.records += in;
    r->lost += !in;
    if (r->full)
        set_trouble(r, "trace.bytes_max is reached");
    schedule(r);
}

int smoe_recorder_start(const struct smoe_recorder_options *options, uv_loop_t *loop,
                        struct smoe_recorder **ret, struct smoe_why *why)
{
    struct smoe_trace_entry start = {.type = SMOE_TRACE_START,
                                     .start = {.monotonic_ns = options->now_ns,
                                               .wall_ms = options->wall_ms,
                                               .scores_top = options->scores_top}};
    struct smoe_recorder *r;
    int rc = make(options, &r, why);
    if (rc)
        return rc;
    snprintf(start.start.software, sizeof start.start.software, "%s", options->software);
    r->loop = loop;
    r->timer.data = r;
    uv_timer_init(loop, &r->timer);
    smoe_recorder_append(r, &start);
    *ret = r;
    return 0;
}

void smoe_recorder_stop(struct smoe_recorder *r, uint64_t now_ns, void (*closed)(void *context),
                        void *context)
{
    struct smoe_trace_entry end = {.type = SMOE_TRACE_END, .end_ns = now_ns};
    r->closing = true;
    r->closed = closed;
    r->closed_context = context;
    r->failed = false; /* once more, whatever was */
    if (tell_lost(r, 0))
        (void)encode(r, &end, 0);
    write_next(r);
}
