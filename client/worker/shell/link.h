/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's connection to its gateway: made, kept, and made again, with a pause that doubles up to
 * LINK_PAUSE_MAX and is drawn at random, so that a fleet does not come back in one instant.
 */
#ifndef SMOE_WORKER_LINK_H
#define SMOE_WORKER_LINK_H

#include "client/worker/agent/agent.h"
#include "common/io/addr.h"
#include "common/io/log.h"
#include "common/io/tls.h"

#include <uv.h>

struct smoe_link;

/* `gateway` is HOST:PORT; names are looked up at every attempt. `changed` is called after anything that
 * may have given the agent work. */
int smoe_link_start(uv_loop_t *loop, const char *gateway, uint64_t seed, struct smoe_agent *agent,
                    struct smoe_log *log, void (*changed)(void *context), void *context,
                    struct smoe_link **ret, struct smoe_why *why);

/* `standing` gets this end's address of each connection to the gateway, before anything is said on it. */
void smoe_link_when_standing(struct smoe_link *link,
                             void (*standing)(void *context, const struct smoe_addr *own));

/* From the next attempt on through TLS, with the key of that context (borrowed). Without it, only to a gateway of
 * this machine. */
void smoe_link_secure(struct smoe_link *link, struct smoe_tls_context *tls);

/* Writes what the agent has to say. */
void smoe_link_flush(struct smoe_link *link);

/* Closes, after the agent's last words if it is connected. `closed` follows. */
void smoe_link_close(struct smoe_link *link, void (*closed)(void *context), void *context);

#endif
