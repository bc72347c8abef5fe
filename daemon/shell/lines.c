/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/shell/lines.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/assert.h"
#include "common/base/list.h"
#include "common/io/listener.h"

struct client {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_timer_t timer;
    uv_write_t write;
    struct smoe_lines *lines;
    struct smoe_list link; /* oldest first */
    char line[SMOE_LINE_MAX + 1];
    size_t len;
    char *answer; /* owned, with its newline */
    bool answered, closing;
    unsigned handles;
};

struct smoe_lines {
    struct smoe_listener listener;
    uv_loop_t *loop;
    bool is_unix;
    smoe_line_answer answer;
    void *context;
    struct smoe_list clients;
    unsigned n_clients;
    bool closing, listener_open;
    void (*done)(void *context);
    void *done_context;
};

static void finish_if_closed(struct smoe_lines *l)
{
    if (!l->closing || l->listener_open || l->n_clients)
        return;
    void (*done)(void *) = l->done;
    void *context = l->done_context;
    free(l);
    if (done)
        done(context);
}

/* ---- a client ---- */

static void on_client_closed(uv_handle_t *handle)
{
    struct client *c = handle->data;
    struct smoe_lines *l = c->lines;
    if (--c->handles)
        return;
    l->n_clients--;
    free(c->answer);
    free(c);
    finish_if_closed(l);
}

static void close_client(struct client *c)
{
    if (c->closing)
        return;
    c->closing = true;
    smoe_list_remove(&c->link);
    uv_close(&c->io.handle, on_client_closed);
    uv_close((uv_handle_t *)&c->timer, on_client_closed);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status;
    close_client(write->data);
}

static void give_answer(struct client *c, const char *problem)
{
    uv_read_stop(&c->io.stream);
    c->answered = true;
    c->answer = c->lines->answer(c->lines->context, c->line, problem);
    if (!c->answer) {
        close_client(c);
        return;
    }
    uv_buf_t buf = uv_buf_init(c->answer, (unsigned)strlen(c->answer));
    c->write.data = c;
    if (uv_write(&c->write, &c->io.stream, &buf, 1, on_written))
        close_client(c);
}

static void on_timeout(uv_timer_t *timer)
{
    struct client *c = timer->data;
    if (c->answered) /* it does not read */
        close_client(c);
    else
        give_answer(c, "no line within 2 s");
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *c = handle->data;
    (void)suggested;
    *buf = uv_buf_init(c->line + c->len, (unsigned)(SMOE_LINE_MAX - c->len));
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct client *c = stream->data;
    (void)buf;
    if (c->closing || c->answered || nread == 0)
        return;
    if (nread < 0 && nread != UV_EOF) {
        close_client(c);
        return;
    }
    c->len += nread > 0 ? (size_t)nread : 0;
    char *end = memchr(c->line, '\n', c->len);
    if (!end && nread > 0 && c->len < SMOE_LINE_MAX)
        return; /* more is coming */
    c->line[end ? (size_t)(end - c->line) : c->len] = 0;
    size_t n = strlen(c->line);
    if (n && c->line[n - 1] == '\r')
        c->line[n - 1] = 0;
    if (!end && c->len == SMOE_LINE_MAX)
        give_answer(c, "a line has at most 255 bytes");
    else
        give_answer(c, NULL);
    uv_timer_start(&c->timer, on_timeout, SMOE_LINE_TIMEOUT_MS, 0);
}

static int init_stream(struct smoe_lines *l, struct client *c)
{
    return l->is_unix ? uv_pipe_init(l->loop, &c->io.pipe, 0) : uv_tcp_init(l->loop, &c->io.tcp);
}

static int on_connection(void *context, uv_stream_t *server)
{
    struct smoe_lines *l = context;
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        return UV_ENOMEM;
    c->lines = l;
    c->handles = 2;
    if (init_stream(l, c)) {
        free(c);
        return UV_ENOMEM;
    }
    uv_timer_init(l->loop, &c->timer);
    c->io.handle.data = c->timer.data = c;
    if (l->n_clients >= SMOE_LINE_CLIENTS && !smoe_list_empty(&l->clients))
        close_client(smoe_container_of(smoe_list_first(&l->clients), struct client, link));
    l->n_clients++;
    smoe_list_push_back(&l->clients, &c->link);
    if (uv_accept(server, &c->io.stream) || uv_read_start(&c->io.stream, on_alloc, on_read))
        close_client(c);
    else
        uv_timer_start(&c->timer, on_timeout, SMOE_LINE_TIMEOUT_MS, 0);
    return 0;
}

/* ---- the server ---- */

static struct smoe_lines *new_lines(uv_loop_t *loop, bool is_unix, smoe_line_answer answer,
                                    void *context)
{
    struct smoe_lines *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->loop = loop;
    l->is_unix = is_unix;
    l->answer = answer;
    l->context = context;
    smoe_list_init(&l->clients);
    l->listener_open = true;
    return l;
}

int smoe_lines_listen_tcp(uv_loop_t *loop, const struct smoe_addr *address, smoe_line_answer answer,
                          void *context, struct smoe_lines **ret, struct smoe_why *why)
{
    struct smoe_lines *l = new_lines(loop, false, answer, context);
    char text[SMOE_ADDR_TEXT_MAX];
    if (!l)
        return smoe_fail(why, SMOE_ENOMEMORY, "status: out of memory");
    *ret = l;
    struct smoe_listener_owner owner = {l, on_connection, NULL, 0};
    int rc = smoe_listener_tcp(&l->listener, loop, address, SMOE_LINE_CLIENTS, &owner);
    smoe_addr_format(address, text);
    return rc ? smoe_fail(why, rc, "status %s: %s", text, uv_strerror(rc)) : 0;
}

int smoe_lines_listen_unix(uv_loop_t *loop, const char *path, smoe_line_answer answer,
                           void *context, struct smoe_lines **ret, struct smoe_why *why)
{
    struct smoe_lines *l = new_lines(loop, true, answer, context);
    if (!l)
        return smoe_fail(why, SMOE_ENOMEMORY, "admin: out of memory");
    *ret = l;
    struct smoe_listener_owner owner = {l, on_connection, NULL, 0};
    /* the state directory is locked: nobody else listens there */
    int rc = smoe_listener_unix(&l->listener, loop, path, SMOE_LINE_CLIENTS, &owner);
    return rc ? smoe_fail(why, rc, "admin socket %s: %s", path, uv_strerror(rc)) : 0;
}

void smoe_lines_address(const struct smoe_lines *l, struct smoe_addr *ret)
{
    smoe_listener_address(&l->listener, ret);
}

static void on_listener_closed(void *context)
{
    struct smoe_lines *l = context;
    l->listener_open = false;
    finish_if_closed(l);
}

void smoe_lines_close(struct smoe_lines *l, void (*done)(void *context), void *context)
{
    if (!l) {
        if (done)
            done(context);
        return;
    }
    smoe_assert(!l->closing);
    l->closing = true;
    l->done = done;
    l->done_context = context;
    smoe_list_for_each_safe (it, &l->clients)
        close_client(smoe_container_of(it, struct client, link));
    smoe_listener_close(&l->listener, on_listener_closed);
}
