/* SPDX-License-Identifier: Apache-2.0
 *
 * Direct links to other workers, as the shell drives them. The gateway says which there are to be (a peer: where it is,
 * whether to connect to it, the key); the shell makes and keeps the connections; here is what is said on them.
 *
 * A link is one end of one connection: made when the connection stands (and, with TLS, its handshake is
 * done), fed with what comes, asked for what to write, and freed when the connection is gone. It is up when
 * both ends have said LinkHello. What was given to it and not acknowledged when it breaks goes on over the
 * next one, or through the gateway.
 */
#ifndef SMOE_AGENT_PEERS_H
#define SMOE_AGENT_PEERS_H

#include "client/worker/agent/agent.h"

struct smoe_agent_link;

struct smoe_peer_view {
    uint32_t number; /* the gateway's */
    const char *name;
    const char *address; /* as its worker said it */
    uint64_t link;       /* identity */
    const struct smoe_link_key *key;
    bool dial; /* this end connects */
    bool up;
};

/* This worker's own name. */
const char *smoe_agent_id(const struct smoe_agent *agent);

/* Where others find this worker, said in the next Hello; "": nowhere. */
void smoe_agent_set_peer_address(struct smoe_agent *agent, const char *address);

/* How long a link may have bytes under way of which the other end's machine acknowledges none: as long as the gateway
 * bears with a silent worker, within SMOE_LINK_SILENCE_MIN_NS and _MAX_NS. After that its connection is to be
 * closed, and what was on it goes through the gateway. */
#define SMOE_LINK_SILENCE_MIN_NS UINT64_C(1000000000)
#define SMOE_LINK_SILENCE_MAX_NS UINT64_C(5000000000)
uint64_t smoe_agent_link_silence_ns(const struct smoe_agent *agent);

/* Changes whenever a peer comes or goes. */
uint64_t smoe_agent_peers_version(const struct smoe_agent *agent);
/* The peer with the lowest number from `number` on; false: there is none. Valid until the agent is next called. */
bool smoe_agent_peer_from(const struct smoe_agent *agent, uint32_t number,
                          struct smoe_peer_view *ret);

/* A connection stands: one to the peer of this link, or, with 0, one that was accepted. `key_name`: whose key the other
 * side has shown; "" if keys are not asked for. NULL: out of memory. */
struct smoe_agent_link *smoe_agent_link_new(struct smoe_agent *agent, uint64_t link,
                                            const char *key_name);
/* The connection is gone. */
void smoe_agent_link_free(struct smoe_agent_link *link);

uint8_t *smoe_agent_link_direct(const struct smoe_agent_link *link, size_t *ret_room);
/* A nonzero return means that the connection must be closed, without an answer. */
int smoe_agent_link_received(struct smoe_agent_link *link, const uint8_t *data, size_t n,
                             struct smoe_why *why);
size_t smoe_agent_link_peek(const struct smoe_agent_link *link, struct iovec *iovecs, size_t max);
void smoe_agent_link_consume(struct smoe_agent_link *link, size_t bytes);

bool smoe_agent_link_up(const struct smoe_agent_link *link);
/* Whom it leads to, NULL while it is not up. */
const char *smoe_agent_link_peer(const struct smoe_agent_link *link);
/* It is of no use any more: close the connection. */
bool smoe_agent_link_over(const struct smoe_agent_link *link);

#endif
