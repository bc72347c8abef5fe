/* SPDX-License-Identifier: Apache-2.0
 *
 * Tells the log which frozen router is in force of each layer whose experts stand here, whenever that changes.
 */
#ifndef SMOE_WORKER_ROUTERS_H
#define SMOE_WORKER_ROUTERS_H

#include "client/worker/agent/agent.h"
#include "common/io/log.h"

#define SMOE_ROUTERS_ASK_MS 2000

/* Zeroed, nothing has been said. */
struct smoe_router_watch {
    uint64_t asked_ns;
    struct smoe_frozen_head said[SMOE_LAYERS_MAX]; /* by the agent's numbers */
};

/* To be called now and then: says what is new, and asks the gateway each SMOE_ROUTERS_ASK_MS. */
void smoe_router_watch(struct smoe_router_watch *watch, struct smoe_agent *agent,
                       struct smoe_log *log, uint64_t now_ns);

#endif
