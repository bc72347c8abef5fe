/* SPDX-License-Identifier: Apache-2.0
 *
 * Life: accept or connect -> open (read when readable, written when the owner has something) -> uv_close
 * -> closed(). uv_close is called in one place, `begin_close`, guarded by `closing`, since closing twice
 * aborts; `closed` is called when both handles are gone, and the ring's read if there is one.
 *
 * libuv accepts, connects and watches; bytes move by recv and sendmsg, not by its streams. Those use
 * read and writev, whose way to a socket leads through the file layer (0.8 us a message, a tenth of what
 * a message costs), and keep a queue of writes of their own. The uv_tcp_t owns the socket and has no
 * watcher of its own once it is connected, which is what allows a uv_poll_t beside it.
 *
 * Writable is watched for only while the kernel takes no more (`blocked`): changing what is watched
 * costs two system calls, writing without asking none.
 *
 * With a ring the poll watches for that only, and input comes in pieces from a read that goes on. When
 * bytes have a place of their own (the rest of a long frame) the read is told to stop; when it has, they are
 * read straight into it, and a new one begins behind them. A read under way would keep the socket open and
 * its peer waiting, so a connection that is closed is shut down first, which ends the read.
 */
#include "common/io/conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common/base/list.h"
#include "common/base/near.h"

#define IOVECS_MAX 64
#define READS_MAX  32 /* in a row from one connection: the others wait */

/* ---- the end ---- */

static void drop_handle(struct smoe_conn *conn)
{
    if (--conn->handles == 0)
        conn->owner.closed(conn->owner.context, conn->status);
}

static void on_closed(uv_handle_t *handle)
{
    drop_handle(handle->data);
}

static void begin_close(struct smoe_conn *conn, int status)
{
    if (conn->closing)
        return;
    conn->closing = true;
    conn->status = status;
    if (conn->reading)
        (void)shutdown(conn->fd, SHUT_RDWR);
    if (conn->open) /* first: the other closes the socket that it watches */
        uv_close((uv_handle_t *)&conn->poll, on_closed);
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

/* Reads once. Returns what recv returns; *ret_filled says that there may be more. Afterwards the
 * connection may be closing. */
static ssize_t read_once(struct smoe_conn *conn, bool *ret_filled)
{
    size_t room = 0;
    uint8_t *to = conn->owner.direct(conn->owner.context, &room);
    if (!to) {
        to = conn->scratch;
        room = SMOE_CONN_SCRATCH_BYTES;
    }
    ssize_t n = recv(conn->fd, to, room, MSG_DONTWAIT);
    *ret_filled = n == (ssize_t)room;
    if (n > 0)
        conn->owner.received(conn->owner.context, to, (size_t)n);
    else if (n == 0)
        begin_close(conn, 0);
    else if (errno != EAGAIN && errno != EINTR)
        begin_close(conn, uv_translate_sys_error(errno));
    return n;
}

static void read_some(struct smoe_conn *conn)
{
    bool filled = true;
    for (int i = 0; i < READS_MAX && filled && !conn->closing; i++)
        (void)read_once(conn, &filled);
}

/* What came before the socket broke is still taken; then reading says why it broke. */
static void read_last(struct smoe_conn *conn)
{
    bool unused;
    while (!conn->closing && read_once(conn, &unused) > 0)
        ;
    begin_close(conn, UV_EIO);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    struct smoe_conn *conn = poll->data;
    if (status) { /* libuv no longer watches it */
        conn->watched = 0;
        if (!conn->ring) /* whose read ends, too */
            read_last(conn);
        return;
    }
    if (events & UV_READABLE)
        read_some(conn);
    if (events & UV_WRITABLE) {
        conn->blocked = false;
        smoe_conn_flush(conn);
    }
}

/* ---- reading from a ring ---- */

static int begin_read(struct smoe_conn *conn)
{
    size_t room;
    int rc = conn->owner.direct(conn->owner.context, &room)
                 ? conn->ring->wait(conn->ring, conn->fd, &conn->read)
                 : conn->ring->read(conn->ring, conn->fd, &conn->read);
    if (rc)
        return rc;
    conn->reading = true;
    conn->stopping = false;
    conn->handles++;
    return 0;
}

/* What a read brought. Nothing is read past it while it goes on: that would be out of order. */
static void take_piece(struct smoe_conn *conn, const uint8_t *data, ssize_t n, bool more)
{
    size_t room;
    if (n > 0)
        conn->owner.received(conn->owner.context, data, (size_t)n);
    else if (n == 0)
        begin_close(conn, 0);
    else if (n != UV_ENOBUFS && n != UV_EAGAIN && n != UV_EINTR && n != UV_ECANCELED)
        begin_close(conn, (int)n);
    if (!more)
        read_some(conn);
    else if (!conn->closing && !conn->stopping && conn->owner.direct(conn->owner.context, &room))
        conn->stopping = conn->ring->stop(conn->ring, &conn->read) == 0;
}

static void on_piece(struct smoe_ring_read *read, const uint8_t *data, ssize_t n, bool more)
{
    struct smoe_conn *conn = smoe_container_of(read, struct smoe_conn, read);
    int rc;
    conn->reading = more; /* its handle is kept until here is done */
    if (!conn->closing)
        take_piece(conn, data, n, more);
    if (more)
        return;
    if (!conn->closing && (rc = begin_read(conn)))
        begin_close(conn, rc);
    drop_handle(conn);
}

static void on_coming(struct smoe_ring_read *read)
{
    struct smoe_conn *conn = smoe_container_of(read, struct smoe_conn, read);
    if (conn->owner.coming)
        conn->owner.coming(conn->owner.context);
}

/* ---- writing ---- */

static size_t total(const struct iovec *iovecs, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += iovecs[i].iov_len;
    return bytes;
}

static ssize_t send_pieces(int fd, struct iovec *iovecs, size_t n)
{
    struct msghdr message = {.msg_iov = iovecs, .msg_iovlen = n};
    if (n == 1)
        return send(fd, iovecs->iov_base, iovecs->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The kernel took so many of the bytes that it was offered, or said why not. Returns a libuv error if
 * that is the end. */
static int took(struct smoe_conn *conn, ssize_t written, size_t offered)
{
    if (written < 0 && written != UV_EAGAIN && written != UV_EINTR)
        return (int)written;
    if (written > 0)
        conn->owner.consume(conn->owner.context, (size_t)written);
    conn->blocked = written < 0 ? written == UV_EAGAIN : (size_t)written < offered;
    return 0;
}

/* Writes until the owner has nothing left or the kernel takes no more: then it is `blocked`. Returns a
 * libuv error. */
static int write_now(struct smoe_conn *conn)
{
    struct iovec iovecs[IOVECS_MAX];
    size_t n;
    int rc = 0;
    while (!rc && !conn->blocked &&
           (n = conn->owner.peek(conn->owner.context, iovecs, IOVECS_MAX)) > 0) {
        size_t offered = total(iovecs, n);
        ssize_t written = send_pieces(conn->fd, iovecs, n);
        rc = took(conn, written < 0 ? uv_translate_sys_error(errno) : written, offered);
    }
    return rc;
}

static bool all_written(const struct smoe_conn *conn)
{
    struct iovec one;
    return conn->owner.peek(conn->owner.context, &one, 1) == 0;
}

/* Watches for what is to be waited for. */
static int watch(struct smoe_conn *conn)
{
    int events = (conn->ring ? 0 : UV_READABLE) | (conn->blocked ? UV_WRITABLE : 0);
    if (events == conn->watched)
        return 0;
    conn->watched = events;
    return events ? uv_poll_start(&conn->poll, events, on_ready) : uv_poll_stop(&conn->poll);
}

void smoe_conn_flush(struct smoe_conn *conn)
{
    if (conn->closing)
        return;
    int rc = 0;
    if (conn->open && !(rc = write_now(conn)))
        rc = watch(conn);
    if (rc)
        begin_close(conn, rc);
    else if (conn->close_flushed && all_written(conn))
        begin_close(conn, 0);
}

/* What a single send can take of what the owner offers; false: that is not all, or nothing. */
static bool offers_one(const struct smoe_conn *conn, struct smoe_ring_send *ret)
{
    struct iovec iovecs[2];
    if (conn->closing || !conn->open || conn->blocked || conn->close_flushed ||
        conn->owner.peek(conn->owner.context, iovecs, 2) != 1)
        return false;
    *ret = (struct smoe_ring_send){conn->fd, iovecs->iov_base, iovecs->iov_len, 0};
    return true;
}

static void finish_sends(struct smoe_conn *const *conns, const struct smoe_ring_send *sends,
                         size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int rc = took(conns[i], sends[i].result, sends[i].bytes);
        if (rc)
            begin_close(conns[i], rc);
        else if (sends[i].result != (ssize_t)sends[i].bytes || conns[i]->owner.piecewise)
            smoe_conn_flush(conns[i]);
    }
}

void smoe_conn_flush_many(struct smoe_conn *const *conns, size_t n)
{
    struct smoe_ring_send sends[SMOE_RING_SENDS_MAX];
    struct smoe_conn *sending[SMOE_RING_SENDS_MAX];
    size_t n_sends = 0;
    bool together = n > 1 && conns[0]->ring;
    for (size_t i = 0; i < n; i++) {
        if (i + 2 < n)
            smoe_bring_near(&conns[i + 2]->read,
                            sizeof *conns[i + 2] - offsetof(struct smoe_conn, read));
        if (together && offers_one(conns[i], &sends[n_sends]))
            sending[n_sends++] = conns[i];
        else
            smoe_conn_flush(conns[i]);
    }
    if (n_sends) {
        conns[0]->ring->send(conns[0]->ring, sends, n_sends);
        finish_sends(sending, sends, n_sends);
    }
}

/* ---- beginning ---- */

static int prepare(struct smoe_conn *conn, uv_loop_t *loop, const struct smoe_conn_owner *owner,
                   uint8_t *scratch)
{
    *conn = (struct smoe_conn){.owner = *owner,
                               .scratch = scratch,
                               .handles = 1,
                               .silence_ms = SMOE_CONN_SILENCE_MS,
                               .read = {on_piece, on_coming}};
    int rc = uv_tcp_init(loop, &conn->tcp);
    conn->tcp.data = conn;
    return rc;
}

static void set_socket_options(struct smoe_conn *conn)
{
    unsigned timeout_ms = conn->silence_ms;
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, (timeout_ms + 999) / 1000);
    setsockopt(conn->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

void smoe_conn_bear_silence(struct smoe_conn *conn, unsigned ms)
{
    conn->silence_ms = ms;
    if (conn->open && !conn->closing)
        set_socket_options(conn);
}

static int start(struct smoe_conn *conn)
{
    int rc = uv_fileno((uv_handle_t *)&conn->tcp, &conn->fd);
    if (rc == 0)
        rc = uv_poll_init(conn->tcp.loop, &conn->poll, conn->fd);
    if (rc)
        return rc;
    conn->handles++;
    conn->open = true;
    conn->poll.data = conn;
    set_socket_options(conn);
    return conn->ring ? begin_read(conn) : watch(conn);
}

int smoe_conn_accept(struct smoe_conn *conn, uv_stream_t *server,
                     const struct smoe_conn_owner *owner, uint8_t *scratch, struct smoe_ring *ring)
{
    int rc = prepare(conn, server->loop, owner, scratch);
    conn->ring = ring;
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
    if (rc) /* the handle must still be closed, and `closed` says when: report it there */
        begin_close(conn, rc);
    return 0;
}
