/* SPDX-License-Identifier: Apache-2.0
 *
 * Life: accept or connect -> open (reading, sometimes writing) -> uv_close -> closed(). uv_close is
 * called in one place, `begin_close`, guarded by `closing`, since closing twice aborts. A write that
 * is under way when the handle closes is cancelled by libuv before the close callback, so the memory
 * it points to (the owner's) is free to go in `closed`.
 */
#include "common/io/conn.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define IOVECS_MAX 64

static void on_closed(uv_handle_t *handle)
{
    struct smoe_conn *conn = handle->data;
    conn->owner.closed(conn->owner.context, conn->status);
}

static void begin_close(struct smoe_conn *conn, int status)
{
    if (conn->closing)
        return;
    conn->closing = true;
    conn->status = status;
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
}

void smoe_conn_close(struct smoe_conn *conn, int status)
{
    begin_close(conn, status);
}

void smoe_conn_close_flushed(struct smoe_conn *conn)
{
    conn->close_flushed = true;
    smoe_conn_flush(conn);
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct smoe_conn *conn = handle->data;
    size_t room = 0;
    uint8_t *to = conn->owner.direct(conn->owner.context, &room);
    (void)suggested;
    if (!to) {
        to = conn->scratch;
        room = SMOE_CONN_SCRATCH_BYTES;
    }
    *buf = uv_buf_init((char *)to, room > UINT32_MAX / 2 ? UINT32_MAX / 2 : (unsigned)room);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct smoe_conn *conn = stream->data;
    if (conn->closing)
        return;
    if (nread > 0)
        conn->owner.received(conn->owner.context, (const uint8_t *)buf->base, (size_t)nread);
    else if (nread < 0)
        begin_close(conn, nread == UV_EOF ? 0 : (int)nread);
}

static void set_socket_options(struct smoe_conn *conn)
{
    uv_os_fd_t fd;
    unsigned timeout_ms = SMOE_CONN_SILENCE_MS;
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, SMOE_CONN_SILENCE_MS / 1000);
    if (uv_fileno((uv_handle_t *)&conn->tcp, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

static int start(struct smoe_conn *conn)
{
    set_socket_options(conn);
    return uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

/* ---- writing ---- */

static size_t total(const struct iovec *iovecs, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += iovecs[i].iov_len;
    return bytes;
}

static void on_written(uv_write_t *write, int status)
{
    struct smoe_conn *conn = write->data;
    size_t bytes = conn->writing;
    conn->writing = 0;
    if (conn->closing)
        return;
    if (status) {
        begin_close(conn, status);
        return;
    }
    conn->owner.consume(conn->owner.context, bytes);
    smoe_conn_flush(conn);
}

/* Writes without waiting as long as the kernel takes everything. Returns the bytes left to wait for
 * in *iovecs, 0 when all is written, or a libuv error. */
static int write_now(struct smoe_conn *conn, struct iovec *iovecs, size_t *ret_n)
{
    for (;;) {
        size_t n = conn->owner.peek(conn->owner.context, iovecs, IOVECS_MAX);
        *ret_n = n;
        if (!n)
            return 0;
        int written = uv_try_write((uv_stream_t *)&conn->tcp,
                                   (const uv_buf_t *)(const void *)iovecs, (unsigned)n);
        if (written == UV_EAGAIN)
            return 0;
        if (written < 0)
            return written;
        bool all = (size_t)written == total(iovecs, n);
        conn->owner.consume(conn->owner.context, (size_t)written);
        if (!all) {
            *ret_n = conn->owner.peek(conn->owner.context, iovecs, IOVECS_MAX);
            return 0;
        }
    }
}

void smoe_conn_flush(struct smoe_conn *conn)
{
    struct iovec iovecs[IOVECS_MAX]; /* the same layout as uv_buf_t on Unix */
    size_t n = 0;
    if (conn->closing || conn->writing)
        return;
    int rc = write_now(conn, iovecs, &n);
    if (rc == 0 && n) {
        conn->writing = total(iovecs, n);
        conn->write.data = conn;
        rc = uv_write(&conn->write, (uv_stream_t *)&conn->tcp,
                      (const uv_buf_t *)(const void *)iovecs, (unsigned)n, on_written);
    }
    if (rc)
        begin_close(conn, rc);
    else if (!n && conn->close_flushed)
        begin_close(conn, 0);
}

/* ---- beginning ---- */

static int prepare(struct smoe_conn *conn, uv_loop_t *loop, const struct smoe_conn_owner *owner,
                   uint8_t *scratch)
{
    *conn = (struct smoe_conn){.owner = *owner, .scratch = scratch};
    int rc = uv_tcp_init(loop, &conn->tcp);
    conn->tcp.data = conn;
    return rc;
}

int smoe_conn_accept(struct smoe_conn *conn, uv_stream_t *server,
                     const struct smoe_conn_owner *owner, uint8_t *scratch)
{
    int rc = prepare(conn, server->loop, owner, scratch);
    if (rc == 0)
        rc = uv_accept(server, (uv_stream_t *)&conn->tcp);
    if (rc == 0)
        rc = start(conn);
    if (rc)
        begin_close(conn, rc);
    return rc;
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct smoe_conn *conn = connect->data;
    if (conn->closing)
        return;
    if (status == 0)
        status = start(conn);
    conn->connected(conn->owner.context, status);
    if (status)
        begin_close(conn, status);
    else
        smoe_conn_flush(conn);
}

int smoe_conn_connect(struct smoe_conn *conn, uv_loop_t *loop, const struct sockaddr *address,
                      const struct smoe_conn_owner *owner, uint8_t *scratch,
                      void (*connected)(void *context, int status))
{
    int rc = prepare(conn, loop, owner, scratch);
    if (rc)
        return rc;
    conn->connected = connected;
    conn->connect.data = conn;
    rc = uv_tcp_connect(&conn->connect, &conn->tcp, address, on_connected);
    if (rc) { /* the handle must still be closed, and `closed` says when: report it there */
        begin_close(conn, rc);
    }
    return 0;
}
