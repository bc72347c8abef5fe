/* SPDX-License-Identifier: Apache-2.0
 *
 * When to connect to peers: at once when they are told, and after an attempt or a link that ended after a pause that
 * doubles up to SMOE_DIAL_PAUSE_MAX_NS. Pure; the shell and the simulator make the attempts.
 */
#ifndef SMOE_AGENT_DIALS_H
#define SMOE_AGENT_DIALS_H

#include "client/worker/agent/peers.h"

#define SMOE_DIAL_PAUSE_MIN_NS UINT64_C(100000000)
#define SMOE_DIAL_PAUSE_MAX_NS UINT64_C(30000000000)
/* A link that is not up so long after its connection was begun or accepted is given up. */
#define SMOE_LINK_PATIENCE_NS UINT64_C(2000000000)
/* Accepted connections that have not said LinkHello; one that is more is not taken. */
#define SMOE_LINK_STRANGERS_MAX 32

struct smoe_dial {
    uint64_t link;
    uint64_t next_ns;  /* not before; UINT64_MAX: one is under way, or up */
    uint64_t pause_ns; /* after the next failure */
};

/* Zeroed: nothing is known. */
struct smoe_dials {
    struct smoe_dial dials[SMOE_WORKER_LINKS_MAX];
    uint32_t n;
    uint64_t version; /* of the agent's peers, 1 +; 0: never looked */
};

/* The next peer to connect to now: the attempt is begun. False: none. */
bool smoe_dials_next(struct smoe_dials *dials, const struct smoe_agent *agent, uint64_t now_ns,
                     struct smoe_peer_view *ret);
/* An attempt at this link has ended; it `was_up`, or not. */
void smoe_dials_ended(struct smoe_dials *dials, uint64_t link, bool was_up, uint64_t now_ns);
/* When to ask again; UINT64_MAX: not before something changes. */
uint64_t smoe_dials_wake_ns(const struct smoe_dials *dials);

#endif
