/* SPDX-License-Identifier: Apache-2.0
 *
 * A listening socket on a libuv loop that survives running out of descriptors or memory: new
 * connections then wait in the kernel's backlog, and are taken when there is room again.
 */
#ifndef SMOE_IO_LISTENER_H
#define SMOE_IO_LISTENER_H

#include <stdbool.h>
#include <uv.h>

#include "common/io/addr.h"

#define SMOE_LISTENER_RETRY_MS 100 /* pause before looking for room again */
#define SMOE_LISTENER_SOON_MS  2   /* where room is being made */

struct smoe_listener_owner {
    void *context;
    /* A connection waits. Take it with uv_accept(server, ...) and return 0; or a libuv error if there is
     * no room now: it is offered again later, after UV_EAGAIN soon. */
    int (*arrived)(void *context, uv_stream_t *server);
    /* Connections wait for room from now on; `status` is a libuv error. With 0: they are taken again. Called
     * when that changes; may be NULL. */
    void (*full)(void *context, int status);
    unsigned
        reserve; /* descriptors below the process's limit that this listener leaves to others */
};

struct smoe_listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    uv_timer_t retry;
    struct smoe_listener_owner owner;
    struct smoe_addr address; /* TCP */
    char *path;               /* Unix: owned; NULL: TCP */
    int backlog;
    bool open;    /* `io` is a handle, if one that closes */
    bool holding; /* a connection was accepted and not taken: libuv takes no other until it is */
    bool waiting; /* `full` was told so */
    bool retry_open, closing;
    void (*closed)(void *context);
};

/* Each takes caller's memory and returns 0 or a libuv error; smoe_listener_close must follow in
 * both cases. A Unix socket has mode 0660 and replaces one that is left behind. */
int smoe_listener_tcp(struct smoe_listener *l, uv_loop_t *loop, const struct smoe_addr *address,
                      int backlog, const struct smoe_listener_owner *owner);
int smoe_listener_unix(struct smoe_listener *l, uv_loop_t *loop, const char *path, int backlog,
                       const struct smoe_listener_owner *owner);

/* Where it really listens (the kernel may have chosen the port). */
void smoe_listener_address(const struct smoe_listener *l, struct smoe_addr *ret);

/* Takes no more connections. `closed` gets the owner's context when the memory is free to go. */
void smoe_listener_close(struct smoe_listener *l, void (*closed)(void *context));

#endif
