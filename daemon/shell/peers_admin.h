/* SPDX-License-Identifier: Apache-2.0
 *
 * An administrator over the network: within TLS, by a key of role admin, one line, one answer, and the connection
 * ends; what the Unix socket takes, this takes (commands.h). The protocol of messages is not spoken here.
 */
#ifndef SMOE_DAEMON_PEERS_ADMIN_H
#define SMOE_DAEMON_PEERS_ADMIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "daemon/shell/lines.h"

/* Zeroed: nothing has been said yet. */
struct smoe_peers_admin {
    char line[SMOE_LINE_MAX + 1];
    size_t len;
    char *answer; /* owned, with its newline */
    size_t answer_bytes, sent;
};

/* Takes in what came. True once, when the line is whole (or never will be) and has been answered, perhaps with
 * nothing, for want of memory: the connection ends when all is sent. What comes behind the line is ignored. */
bool smoe_peers_admin_received(struct smoe_peers_admin *remote, const uint8_t *data, size_t n,
                               smoe_line_answer answer, void *context);

/* What is to be sent: at most one piece; and that it was. */
size_t smoe_peers_admin_peek(const struct smoe_peers_admin *remote, struct iovec *iovec);
void smoe_peers_admin_consume(struct smoe_peers_admin *remote, size_t bytes);

/* May be zeroed. */
void smoe_peers_admin_release(struct smoe_peers_admin *remote);

#endif
