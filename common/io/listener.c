/* SPDX-License-Identifier: Apache-2.0
 *
 * What libuv 1.44 does when accept fails: on EMFILE it closes everybody in the backlog without a
 * word, on ENFILE (the machine's table is full) and ENOBUFS it calls back and tries again at once,
 * for ever, within one iteration: no timer fires any more. So:
 *
 *  - After each accept one more descriptor is opened and closed again. If that fails, or its number
 *    lies in the owner's reserve (the kernel gives the lowest number that is free), the connection
 *    just accepted is not taken: libuv then leaves the socket alone, the rest wait in the backlog, and
 *    EMFILE is never met.
 *  - Should accept fail all the same (somebody else was quicker), the socket is closed in the
 *    callback, which ends libuv's loop, and opened again after a pause. Those in the backlog are
 *    reset and try again by themselves.
 *
 *     UP --no room--> HOLDING --room--> UP
 *      \--accept fails--> CLOSED --after a pause--> UP
 */
#include "common/io/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/assert.h"

static void on_retry(uv_timer_t *timer);

static void tell(struct smoe_listener *l, int status)
{
    bool waiting = status != 0;
    if (waiting != l->waiting && l->owner.full)
        l->owner.full(l->owner.context, status);
    l->waiting = waiting;
}

static void pause_listening(struct smoe_listener *l, int status)
{
    uv_timer_start(&l->retry, on_retry, SMOE_LISTENER_RETRY_MS, 0);
    tell(l, status);
}

static int descriptor_to_spare(unsigned reserve)
{
    struct rlimit limit;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return uv_translate_sys_error(errno);
    close(fd);
    bool reserved =
        reserve && getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)fd + reserve >= limit.rlim_cur;
    return reserved ? UV_EMFILE : 0;
}

static void offer(struct smoe_listener *l)
{
    int status = descriptor_to_spare(l->owner.reserve);
    if (status == 0)
        status = l->owner.arrived(l->owner.context, &l->io.stream);
    l->holding = status != 0;
    if (status == UV_EAGAIN)
        uv_timer_start(&l->retry, on_retry, SMOE_LISTENER_SOON_MS, 0);
    else if (status)
        pause_listening(l, status);
    else
        tell(l, 0);
}

/* ---- the handle ---- */

static void finish_if_closed(struct smoe_listener *l)
{
    if (!l->closing || l->open || l->retry_open)
        return;
    free(l->path);
    l->path = NULL;
    l->closed(l->owner.context);
}

static void on_closed(uv_handle_t *handle)
{
    struct smoe_listener *l = handle->data;
    l->open = false;
    finish_if_closed(l);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct smoe_listener *l = stream->data;
    if (l->closing)
        return;
    if (status == 0) {
        offer(l);
        return;
    }
    uv_close(&l->io.handle, on_closed);
    pause_listening(l, status);
}

static int listen_now(struct smoe_listener *l)
{
    uv_loop_t *loop = l->retry.loop;
    int rc = l->path ? uv_pipe_init(loop, &l->io.pipe, 0) : uv_tcp_init(loop, &l->io.tcp);
    if (rc)
        return rc;
    l->open = true;
    l->io.handle.data = l;
    if (l->path) {
        (void)unlink(l->path);
        rc = uv_pipe_bind(&l->io.pipe, l->path);
        if (rc == 0 && chmod(l->path, 0660))
            rc = uv_translate_sys_error(errno);
    } else {
        rc = uv_tcp_bind(&l->io.tcp, &l->address.sa, 0);
    }
    return rc ? rc : uv_listen(&l->io.stream, l->backlog, on_connection);
}

static void on_retry(uv_timer_t *timer)
{
    struct smoe_listener *l = timer->data;
    if (l->holding) {
        offer(l);
        return;
    }
    int rc = l->open ? UV_EBUSY : listen_now(l); /* closing takes until the end of an iteration */
    if (rc == 0)
        return;
    if (l->open && !uv_is_closing(&l->io.handle))
        uv_close(&l->io.handle, on_closed);
    pause_listening(l, rc);
}

/* ---- beginning and end ---- */

static void begin(struct smoe_listener *l, uv_loop_t *loop, int backlog,
                  const struct smoe_listener_owner *owner)
{
    *l = (struct smoe_listener){.owner = *owner, .backlog = backlog, .retry_open = true};
    uv_timer_init(loop, &l->retry);
    l->retry.data = l;
}

int smoe_listener_tcp(struct smoe_listener *l, uv_loop_t *loop, const struct smoe_addr *address,
                      int backlog, const struct smoe_listener_owner *owner)
{
    begin(l, loop, backlog, owner);
    l->address = *address;
    int rc = listen_now(l);
    int n = sizeof l->address;
    if (rc == 0) /* to come back to the same port */
        (void)uv_tcp_getsockname(&l->io.tcp, &l->address.sa, &n);
    return rc;
}

int smoe_listener_unix(struct smoe_listener *l, uv_loop_t *loop, const char *path, int backlog,
                       const struct smoe_listener_owner *owner)
{
    begin(l, loop, backlog, owner);
    l->path = strdup(path);
    return l->path ? listen_now(l) : UV_ENOMEM;
}

void smoe_listener_address(const struct smoe_listener *l, struct smoe_addr *ret)
{
    *ret = l->path ? (struct smoe_addr){0} : l->address;
}

static void on_retry_closed(uv_handle_t *handle)
{
    struct smoe_listener *l = handle->data;
    l->retry_open = false;
    finish_if_closed(l);
}

void smoe_listener_close(struct smoe_listener *l, void (*closed)(void *context))
{
    smoe_assert(!l->closing);
    l->closing = true;
    l->closed = closed;
    uv_close((uv_handle_t *)&l->retry, on_retry_closed);
    if (l->open && !uv_is_closing(&l->io.handle))
        uv_close(&l->io.handle, on_closed);
}
