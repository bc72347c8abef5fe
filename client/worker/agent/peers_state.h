/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the agent: peers and links to them (peers.c, links.c), and what is due from them (dues.c).
 */
#ifndef SMOE_AGENT_PEERS_STATE_H
#define SMOE_AGENT_PEERS_STATE_H

#include "client/worker/agent/peers.h"
#include "common/base/list.h"
#include "proto/channel.h"

#define SMOE_LINK_BYTES_MAX \
    (4u << 20) /* of parts that a peer has not acknowledged; one may be larger */

/* A part for one peer, until that has it. */
struct smoe_outgoing {
    struct smoe_list node;
    struct smoe_msg_shard_part part;
    struct smoe_blob *blob; /* a reference */
    bool sent;              /* given to the link; else it waits for those before it */
};

struct smoe_agent_peer {
    struct smoe_list node; /* of the agent's peers, by number */
    uint32_t number;
    smoe_name name;
    smoe_address address;
    uint64_t link;
    struct smoe_link_key key;
    bool dial;
    struct smoe_agent_link *up; /* or NULL: what is for it goes through the gateway */
    struct smoe_list outgoing;  /* oldest first; empty unless it is up */
    size_t sent_bytes;          /* of those that are `sent` */
    size_t parked_bytes;        /* that came from it, and are not due yet */
};

struct smoe_agent_link {
    struct smoe_list node; /* of the agent's links */
    struct smoe_agent *agent;
    struct smoe_agent_peer *peer; /* NULL: not known yet, or no longer */
    struct smoe_channel channel;
    smoe_name key_name;
    uint64_t id; /* 0: accepted, and not known yet */
    bool dialled, over;
};

/* Transfers of one number modulo SMOE_TRANSFERS_MAX; numbers rise, and the highest counts. */
struct smoe_due {
    bool used, done; /* done: what was due has come, one way or the other */
    uint32_t from;
    struct smoe_msg_shard_part part;
    struct smoe_blob *parked; /* came before its ShardDue, or NULL */
    uint64_t parked_number;
    uint32_t parked_from;
};

/* ---- peers.c ---- */
void smoe_agent_peer_told(struct smoe_agent *agent, const struct smoe_msg_peer *m);
struct smoe_agent_peer *smoe_agent_peer(const struct smoe_agent *agent, uint32_t number);
struct smoe_agent_peer *smoe_agent_peer_by_link(const struct smoe_agent *agent, uint64_t link);
/* The gateway is gone, and with it all that it told. */
void smoe_agent_forget_peers(struct smoe_agent *agent);
/* Gives a part to the peer's link; false: it must go through the gateway. */
bool smoe_agent_give(struct smoe_agent *agent, uint32_t peer,
                     const struct smoe_msg_shard_part *part, struct smoe_blob *blob);
/* The peer has the part of that number. */
void smoe_agent_given(struct smoe_agent_peer *peer, uint64_t number);
/* Sends what waits, as far as there is room. */
void smoe_agent_pump(struct smoe_agent_peer *peer);
/* Its link is another one now, or NULL: what is not acknowledged is sent again. */
void smoe_agent_peer_use(struct smoe_agent *agent, struct smoe_agent_peer *peer,
                         struct smoe_agent_link *link);
void smoe_agent_check_peers(const struct smoe_agent *agent);

/* ---- links.c ---- */
/* Says it on the link; a failure ends that. */
void smoe_agent_link_send(struct smoe_agent_link *link, const struct smoe_message *m,
                          const struct smoe_segment *segments, size_t n_segments);

/* ---- dues.c ---- */
void smoe_agent_due(struct smoe_agent *agent, const struct smoe_msg_shard_due *m);
/* May a raw part of that size come under this number? 0, SMOE_CHANNEL_SKIP: it is late, or a code. */
int smoe_agent_due_expect(struct smoe_agent *agent, const struct smoe_agent_peer *peer,
                          uint64_t number, size_t bytes, struct smoe_why *why);
/* It came. *ret_kept: it is not due yet, and not to be acknowledged. */
int smoe_agent_due_came(struct smoe_agent *agent, struct smoe_agent_peer *peer, uint64_t number,
                        struct smoe_blob *blob, bool *ret_kept, struct smoe_why *why);
/* A part came through the gateway: false if it came before, over a link. */
bool smoe_agent_due_claim(struct smoe_agent *agent, uint64_t number);
bool smoe_agent_due_done(const struct smoe_agent *agent, uint64_t number);
void smoe_agent_forget_dues(struct smoe_agent *agent);

#endif
