/* SPDX-License-Identifier: Apache-2.0
 *
 * The table grows when a descriptor of a higher number is watched, so one is watched that is as high as any
 * will be; it is allocated through `grow`, which ends the process in words where libuv would abort.
 *
 * Threads: pthread_create allocates, and libuv's pool aborts when it fails. As many threads are started and
 * joined before; glibc keeps their stacks, so that those of the pool, which are of the same size, need nothing
 * more. The pool is then made to start by giving it something to do.
 */
#include "common/io/evloop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define POOL_THREADS 4 /* libuv's, unless UV_THREADPOOL_SIZE says otherwise */

static const char *name_for_last_words;

static void *grow(void *old, size_t bytes)
{
    void *block = realloc(old, bytes);
    if (block || !bytes)
        return block;
    char line[128];
    int n = snprintf(line, sizeof line, "%s: out of memory for descriptors\n", name_for_last_words);
    if (write(2, line, (size_t)n) < 0)
        _exit(EXIT_FAILURE); /* the same without words */
    _exit(EXIT_FAILURE);
}

/* ---- descriptors ---- */

static void on_watched(uv_poll_t *poll, int status, int events)
{
    (void)poll, (void)status, (void)events;
}

/* Watches for a moment what `fds`, a pipe, becomes as a descriptor of that number. */
static int watch_as(uv_loop_t *loop, int fd, unsigned number)
{
    uv_poll_t poll;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, (int)number);
    if (high < 0)
        return uv_translate_sys_error(errno);
    int rc = uv_poll_init(loop, &poll, high);
    if (rc == 0) {
        rc = uv_poll_start(&poll, UV_READABLE, on_watched);
        uv_close((uv_handle_t *)&poll, NULL);
        uv_run(loop, UV_RUN_NOWAIT);
    }
    close(high);
    return rc;
}

/* As many as this process may have without asking: a soft limit of 1024 is for select(2). */
static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int reserve_table(uv_loop_t *loop, unsigned descriptors)
{
    int fds[2];
    long most = sysconf(_SC_OPEN_MAX);
    if (most > 0 && descriptors > (unsigned long)most)
        descriptors = (unsigned)most;
    int rc = uv_pipe(fds, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE);
    if (rc)
        return rc;
    rc = watch_as(loop, fds[0], descriptors - 1);
    close(fds[0]);
    close(fds[1]);
    return rc;
}

/* ---- threads ---- */

static void nothing(void *context)
{
    (void)context;
}

static void no_work(uv_work_t *work)
{
    (void)work;
}

static int start_pool(uv_loop_t *loop)
{
    uv_thread_t threads[POOL_THREADS];
    uv_work_t work;
    int rc = 0;
    unsigned n = 0;
    while (n < POOL_THREADS && !rc)
        if ((rc = uv_thread_create(&threads[n], nothing, NULL)) == 0)
            n++;
    while (n > 0)
        uv_thread_join(&threads[--n]);
    if (rc)
        return rc;
    rc = uv_queue_work(loop, &work, no_work, NULL);
    return rc ? rc : uv_run(loop, UV_RUN_DEFAULT);
}

int smoe_evloop_init(uv_loop_t *loop, const char *program, unsigned descriptors,
                     struct smoe_why *why)
{
    name_for_last_words = program;
    raise_limit();
    int rc = uv_replace_allocator(malloc, grow, calloc, free);
    if (rc == 0)
        rc = uv_loop_init(loop);
    if (rc)
        return smoe_fail(why, rc, "event loop: %s", uv_strerror(rc));
    rc = reserve_table(loop, descriptors);
    if (rc == 0)
        rc = start_pool(loop);
    if (rc == 0)
        return 0;
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
    return smoe_fail(why, rc, "event loop: %s", uv_strerror(rc));
}
