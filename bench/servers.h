/* SPDX-License-Identifier: Apache-2.0
 *
 * The bare servers that the daemon is compared with: what epoll and sockets cost with nothing around
 * them. Each runs in a process of its own, on a loopback port that the kernel chose.
 */
#ifndef SMOE_BENCH_SERVERS_H
#define SMOE_BENCH_SERVERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/err.h"

struct smoe_server {
    pid_t pid; /* end it with smoe_child_stop */
    char address[32];
};

/* For every `request_bytes` that a connection sends it gets `reply` back, all that one read brought
 * in one write. `reply` is copied. */
int smoe_server_echo(size_t request_bytes, const uint8_t *reply, size_t reply_bytes,
                     struct smoe_server *ret, struct smoe_why *why);

/* Connections are joined two by two, in the order in which they come: what one sends the other gets,
 * through a buffer of a mebibyte. */
int smoe_server_relay(struct smoe_server *ret, struct smoe_why *why);

/* A process that connects to `address` and answers every `request_bytes` with `reply_bytes`: what stands
 * behind a relay. */
int smoe_server_responder(const char *address, size_t request_bytes, size_t reply_bytes,
                          struct smoe_server *ret, struct smoe_why *why);

/* Allows this process and its children all the descriptors there are. */
void smoe_raise_descriptors(void);

#endif
