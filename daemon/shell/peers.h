/* SPDX-License-Identifier: Apache-2.0
 *
 * The sockets of workers, trainers and distant administrators: a listener, and a connection for each session of
 * the gateway.
 */
#ifndef SMOE_DAEMON_PEERS_H
#define SMOE_DAEMON_PEERS_H

#include "common/base/err.h"
#include "common/io/addr.h"
#include "common/io/log.h"
#include "common/io/tls.h"
#include "daemon/gateway/gateway.h"
#include "daemon/shell/lines.h"

#include <uv.h>

struct smoe_peers;

/* What moves the bytes: AUTO takes io_uring where the kernel permits it. */
#define SMOE_BACKEND_MAP(X) \
    X(AUTO, "auto")         \
    X(EPOLL, "epoll")       \
    X(IO_URING, "io_uring")

enum smoe_backend {
#define X(symbol, name) SMOE_BACKEND_##symbol,
    SMOE_BACKEND_MAP(X)
#undef X
};

struct smoe_peers_options {
    uv_loop_t *loop;
    const struct smoe_addr *address; /* to listen on */
    enum smoe_backend backend;
    struct smoe_tls_context
        *tls; /* whose `established` is smoe_peers_established. NULL: plaintext, with
                                     processes of this machine only */
    struct smoe_gateway *gateway; /* borrowed until the closed callback, */
    struct smoe_log *log;         /* as this */
    smoe_line_answer administer;  /* of whoever has a key of role admin; with `context` */
    void *context;
};

/* Listens. */
int smoe_peers_start(const struct smoe_peers_options *options, struct smoe_peers **ret,
                     struct smoe_why *why);

/* The address really listened on (the kernel may have chosen the port). */
void smoe_peers_address(const struct smoe_peers *peers, struct smoe_addr *ret);

/* For the TLS context. */
void smoe_peers_established(void *context, const struct smoe_key *peer);

/* Ends the sessions whose key or certificate is not valid any more. How many. */
unsigned smoe_peers_revoke(struct smoe_peers *peers);

/* Connections that ended before the gateway knew who they were, by their own mistake. */
uint64_t smoe_peers_refused(const struct smoe_peers *peers);

/* What moves the bytes, for the log: "io_uring", "epoll", or "epoll (io_uring: operation not permitted)". */
const char *smoe_peers_backend(const struct smoe_peers *peers);

/* Moves on what the gateway has marked: writes, closes, and wakes it in time. Call after every
 * gateway call that was not made by peers itself. */
void smoe_peers_flush(struct smoe_peers *peers);

/* Why new connections wait at present, or "". */
const char *smoe_peers_waiting(const struct smoe_peers *peers);

/* No new connections; those there are go on. */
void smoe_peers_stop_listening(struct smoe_peers *peers);

/* Closes everything; `done` is called when all handles are closed and peers is freed. Connections
 * that the gateway wants closed after a last write get up to `linger_ms`. */
void smoe_peers_close(struct smoe_peers *peers, uint64_t linger_ms, void (*done)(void *context),
                      void *context);

#endif
