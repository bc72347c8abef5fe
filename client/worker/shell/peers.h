/* SPDX-License-Identifier: Apache-2.0
 *
 * Direct connections to other workers: taken where this worker listens, made where its gateway says, and kept as long
 * as the agent has a use for them. With a key to the gateway they are TLS, with the key of the link; without, they
 * stay on this machine.
 */
#ifndef SMOE_WORKER_PEERS_H
#define SMOE_WORKER_PEERS_H

#include "client/worker/agent/dials.h"
#include "common/io/addr.h"
#include "common/io/log.h"

#include <uv.h>

#define SMOE_PEERS_AUTO "auto" /* where the gateway is reached from, at a port of the kernel's */
#define SMOE_PEERS_NONE "none"

struct smoe_worker_peers;

struct smoe_worker_peers_options {
    uv_loop_t *loop;
    struct smoe_agent *agent;
    struct smoe_log *log;
    const char *listen;             /* ADDR:PORT, or one of the above; borrowed */
    bool secure;                    /* TLS */
    void (*changed)(void *context); /* something that may have given the agent work */
    void *context;
};

/* Listens, if an address is given: then SMOE_ECONFIG or a libuv error if that cannot be. */
int smoe_worker_peers_start(const struct smoe_worker_peers_options *options,
                            struct smoe_worker_peers **ret, struct smoe_why *why);

/* The connection to the gateway stands, from this address, and Hello has not been said. */
void smoe_worker_peers_at(struct smoe_worker_peers *peers, const struct smoe_addr *own);

/* Connects, closes and writes what the agent wants. */
void smoe_worker_peers_settle(struct smoe_worker_peers *peers);

/* Closes everything; `closed` follows when it is freed. */
void smoe_worker_peers_close(struct smoe_worker_peers *peers, void (*closed)(void *context),
                             void *context);

#endif
