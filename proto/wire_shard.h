/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of sharded layers, and what others say of them (wire.h includes it).
 */
#ifndef SMOE_PROTO_WIRE_SHARD_H
#define SMOE_PROTO_WIRE_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "stablemoe/placement.h"

enum smoe_shard_kind { SMOE_SHARD_GRADIENT = 1, SMOE_SHARD_WEIGHTS = 2, SMOE_SHARD_STATE = 3 };

/* Pieces of the parameters of every expert of a layer; borrowed until the next decode. */
struct smoe_pieces {
    const uint64_t *offsets, *lengths; /* [n] elements; lengths > 0 */
    size_t n;                          /* 0..SMOE_WORKER_PIECES_MAX */
};

/* Workers by the daemon's numbers, of one transfer. */
struct smoe_peer_list {
    uint32_t n;                              /* 0..SMOE_TRANSFER_PEERS_MAX */
    uint32_t peers[SMOE_TRANSFER_PEERS_MAX]; /* rising */
};

struct smoe_msg_shard_ask {
    uint64_t number;
    enum smoe_shard_kind kind;
    uint32_t layer, expert;
    uint64_t offset, length; /* elements; length > 0 */
    uint32_t rank;           /* GRADIENT */
    uint64_t step, attempt;
    uint64_t fill; /* WEIGHTS */
    bool send;
    struct smoe_peer_list peers; /* of those who need it, whom a direct link may reach */
    bool others;                 /* need it too */
    bool keep;                   /* WEIGHTS: the slot here has them already */
    bool older;                  /* WEIGHTS: those before the layer's step; STATE: with them */
};
struct smoe_msg_shard_part {
    uint64_t number;
    enum smoe_shard_kind kind;
    uint32_t layer, expert;
    uint64_t offset, length;
    uint32_t rank;
    uint64_t step, attempt;
    uint64_t fill;
    struct smoe_peer_list direct; /* to the daemon: to whom it goes over direct links */
    uint32_t again; /* to the daemon: 1 + whom alone it is for, whose link broke; 0: all others */
    bool older;     /* as in the ask */
};
/* What is asked for, as it is sent; to whom it goes is still to be said. */
static inline struct smoe_msg_shard_part smoe_msg_shard_part_of(
    const struct smoe_msg_shard_ask *ask)
{
    return (struct smoe_msg_shard_part){.number = ask->number,
                                        .kind = ask->kind,
                                        .layer = ask->layer,
                                        .expert = ask->expert,
                                        .offset = ask->offset,
                                        .length = ask->length,
                                        .rank = ask->rank,
                                        .step = ask->step,
                                        .attempt = ask->attempt,
                                        .fill = ask->fill,
                                        .older = ask->older};
}
struct smoe_msg_shard_taken {
    uint64_t number;
};

/* What a checkpoint keeps of a placement, and gives back. */
struct smoe_msg_placement_fetch {
    uint64_t request;
    uint32_t layer;
};
struct smoe_msg_placement {
    uint64_t request;
    uint32_t layer;
    struct smoe_placement placement; /* its arrays and texts are borrowed until the next decode */
};

#endif
