/* SPDX-License-Identifier: Apache-2.0
 *
 * A TCP connection on a libuv loop, for a machine that knows bytes and no sockets (proto/channel.h):
 * what comes in is handed to it, what it offers is written. Used alike by the daemon, the worker and
 * the client library.
 *
 * Writes go straight out of the owner's memory and are never left under way, so nothing is buffered
 * here; reads go straight into the owner's memory where it says so. A connection that was accepted with a
 * ring (ring.h) waits for input there, and is written together with others. TCP_NODELAY, keepalive and
 * TCP_USER_TIMEOUT are set (keepalive notices a silent peer only without data in flight, the other
 * only with).
 */
#ifndef SMOE_IO_CONN_H
#define SMOE_IO_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

#include "common/io/ring.h"

#define SMOE_CONN_SCRATCH_BYTES 65536
#define SMOE_CONN_SILENCE_MS    5000 /* an unreachable peer is given up after this */

/* What the owner provides; every function gets `context`. Only `closed` may free the connection. */
struct smoe_conn_owner {
    void *context;
    uint8_t *(*direct)(void *context, size_t *ret_room); /* or NULL: see smoe_inbox_direct */
    void (*received)(void *context, const uint8_t *data, size_t n);
    size_t (*peek)(void *context, struct iovec *iovecs, size_t max);
    void (*consume)(void *context, size_t bytes);
    void (*closed)(void *context, int status); /* 0, or the libuv error that ended it */
    void (*coming)(void *context); /* or NULL: `received` follows soon (common/base/near.h) */
    bool piecewise; /* peek may offer less than there is: ask again when that is sent */
};

struct smoe_conn {
    uv_tcp_t tcp;   /* owns the socket */
    uv_poll_t poll; /* says when it can be read and written, once it is open */
    uv_connect_t connect;
    struct smoe_ring_read
        read; /* of the ring, when it is `reading`; what a message needs is behind it */
    struct smoe_conn_owner owner;
    struct smoe_ring *ring; /* borrowed; NULL: `poll` says when there is input */
    uint8_t *scratch;   /* borrowed, SMOE_CONN_SCRATCH_BYTES, shared by all connections of a loop */
    uv_os_fd_t fd;      /* of tcp */
    unsigned handles;   /* of libuv that must have closed before `closed`, and the read */
    int watched;        /* events that poll was started for */
    int status;         /* why it is being closed */
    bool open;          /* there is a socket that can be read and written */
    bool reading;       /* the ring has a read of it under way, */
    bool stopping;      /* which is to stop */
    bool blocked;       /* the kernel takes no more now */
    bool closing;       /* uv_close was called */
    bool close_flushed; /* to be closed when all is written */
    unsigned silence_ms; /* SMOE_CONN_SILENCE_MS, or smoe_conn_bear_silence */
    void (*connected)(void *context, int status);
};

/* Accepts a waiting connection; `ring` may be NULL, and outlives it. On failure the connection is closed,
 * and `closed` is still called. */
int smoe_conn_accept(struct smoe_conn *conn, uv_stream_t *server,
                     const struct smoe_conn_owner *owner, uint8_t *scratch, struct smoe_ring *ring);

/* Connects. `connected` is called with 0, or with the error; after an error, and whenever the
 * connection ends, `closed` follows. A negative return (no handle) calls neither. */
int smoe_conn_connect(struct smoe_conn *conn, uv_loop_t *loop, const struct sockaddr *address,
                      const struct smoe_conn_owner *owner, uint8_t *scratch,
                      void (*connected)(void *context, int status));

/* Gives an unreachable peer up after so many milliseconds. After smoe_conn_accept or _connect. */
void smoe_conn_bear_silence(struct smoe_conn *conn, unsigned ms);

/* Writes what the owner offers, now as far as the kernel takes it, the rest as it can. */
void smoe_conn_flush(struct smoe_conn *conn);

/* The same for n <= SMOE_RING_SENDS_MAX connections of one loop and ring, each once. */
void smoe_conn_flush_many(struct smoe_conn *const *conns, size_t n);

/* Closes at once, or when what is queued has been written. `closed` follows, once. */
void smoe_conn_close(struct smoe_conn *conn, int status);
void smoe_conn_close_flushed(struct smoe_conn *conn);

#endif
