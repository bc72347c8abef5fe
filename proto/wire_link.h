/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of direct links between workers: what the daemon says of them, and what is said on them (wire.h
 * includes it). docs/protocol.md, "Direct links".
 */
#ifndef SMOE_PROTO_WIRE_LINK_H
#define SMOE_PROTO_WIRE_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "proto/wire_shard.h"

/* Secret of one link, drawn by the daemon: 32 bytes. */
struct smoe_link_key {
    uint64_t words[4];
};

typedef char smoe_address[SMOE_ADDRESS_MAX + 1]; /* ADDR:PORT as the worker that listens says it */

struct smoe_msg_peer {
    uint32_t peer; /* the daemon's number of the worker */
    char name[SMOE_NAME_MAX + 1];
    smoe_address address; /* "" only without a link */
    uint64_t link;        /* 0: there is none to it any more */
    struct smoe_link_key key;
    bool dial; /* this end connects */
};
struct smoe_msg_link_state {
    uint32_t peer;
    uint64_t link;
    bool up;
};
struct smoe_msg_shard_due {
    struct smoe_msg_shard_part part; /* what will come */
    uint32_t from;                   /* the daemon's number of the worker that has it */
};
struct smoe_msg_shard_sent {
    uint64_t number;
    struct smoe_peer_list direct;
};
struct smoe_msg_link_hello {
    uint64_t link;
    struct smoe_link_key key; /* zeros in the answer */
};
struct smoe_msg_link_part {
    uint64_t number;
};
struct smoe_msg_link_taken {
    uint64_t number;
};

#endif
