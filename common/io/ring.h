/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring beside a libuv loop, for a program with many connections that each carry little: what came on
 * all of them is collected with one system call instead of one each, and so is what goes out. Two system
 * calls of a connection's four thousand instructions in the kernel are what is saved (docs/performance.md,
 * section net).
 *
 * Memory never changes hands. What is read lies in buffers of the ring's own and is lent for the length of
 * a callback; what is sent is sent, or refused, before `send` returns. So there is nothing that
 * must be kept for the kernel. A read is asked for once and goes on from piece to piece.
 */
#ifndef SMOE_IO_RING_H
#define SMOE_IO_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#define SMOE_RING_READ_BYTES 2048 /* of one read, at most */
#define SMOE_RING_SENDS_MAX  256  /* of one smoe_ring_send */

/* A read that is under way, in its owner's memory, beside what the owner needs for each piece. */
struct smoe_ring_read {
    /* Called from the loop, for each piece in turn: n bytes at `data` (borrowed for this call), 0 at the end
     * of the stream, or a negative libuv error. UV_ENOBUFS: there is something, and it is still in the
     * socket, because that was asked for or all buffers are in use. `more`: it goes on; without, it was
     * the last call. */
    void (*got)(struct smoe_ring_read *read, const uint8_t *data, ssize_t n, bool more);
    /* Or NULL. `got` follows soon: what it will touch may be brought near. */
    void (*coming)(struct smoe_ring_read *read);
};

struct smoe_ring_send {
    int fd;
    const void *data; /* borrowed */
    size_t bytes;
    ssize_t result; /* bytes that the kernel took, or a negative libuv error; UV_EINTR: not tried */
};

/* What a connection calls: an interface, so that programs which have connections and no ring (the worker,
 * the client library) need not be linked with liburing. */
struct smoe_ring {
    /* Begins to read what comes from a socket, until it is told to stop, the stream ends, or buffers do;
     * `read` must stay until the last call of `got`, which also follows when the socket is shut down, but
     * not when its descriptor is closed. A negative return: nothing has begun. */
    int (*read)(struct smoe_ring *ring, int fd, struct smoe_ring_read *read);
    /* Tells when there is something to read, once, and leaves it in the socket: for bytes that have a place of
     * their own. */
    int (*wait)(struct smoe_ring *ring, int fd, struct smoe_ring_read *read);
    /* Asks a `read` to stop: pieces may still come, then UV_ECANCELED. A negative return: not asked. */
    int (*stop)(struct smoe_ring *ring, struct smoe_ring_read *read);
    /* Sends at once what the kernel takes at once, from n <= SMOE_RING_SENDS_MAX sockets, in order. */
    void (*send)(struct smoe_ring *ring, struct smoe_ring_send *sends, size_t n);
};

/* Makes a ring for this thread, to which it is bound. A negative libuv error where the kernel does not
 * permit it, or is older than 6.1. */
int smoe_ring_new(uv_loop_t *loop, struct smoe_ring **ret);

/* Frees it when the loop comes round, and calls `closed`. No read may be under way. */
void smoe_ring_close(struct smoe_ring *ring, void (*closed)(void *context), void *context);

#endif
