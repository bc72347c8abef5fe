/* SPDX-License-Identifier: Apache-2.0
 *
 * In which order the workers of a sharded layer give each other what an exchange needs, and how much of it
 * may be on its way (exchange.c).
 */
#ifndef SMOE_CORE_EXCHANGE_LANES_H
#define SMOE_CORE_EXCHANGE_LANES_H

#include "daemon/core/sharded.h"

/* Bytes of transfers that are asked for and not taken, of one worker; a transfer may be larger. Of those to one worker
 * over links, and of those through the gateway, whose memory holds them, four times as many; sixteen times of all,
 * which is what comes through the gateway should all links break at once. */
#define SMOE_FLOW_BYTES (UINT64_C(4) << 20)

/* What one worker is still to be asked for: its way through experts and pieces. */
struct smoe_lane {
    uint32_t worker;
    uint32_t first_expert, first_piece; /* where it begins; it ends before them */
    uint64_t round;                     /* chunks of each piece that are behind it */
    uint32_t expert, piece;             /* so many are, in this round, and of the expert */
    bool more;                          /* some piece had a chunk in this round */
};

/* Bytes of transfers under way that one worker gives, or is to get over links. */
struct smoe_flow {
    uint64_t out, in;
};

/* A chunk, to be asked for. */
struct smoe_range {
    uint32_t lane, from;
    uint32_t expert, rank;   /* rank: of the host that gives its gradients, else 0 */
    uint64_t offset, length; /* elements of the expert */
};

/* The layer's exchange begins: all who give something have a lane. */
void smoe_lanes_begin(struct smoe_core *core, uint32_t layer);
/* What the worker whose turn it is should be asked for next; the turn goes on. Lanes that are through are dropped.
 * False: there is none any more, or all give as much as they may. */
bool smoe_lanes_next(struct smoe_core *core, uint32_t layer, struct smoe_range *ret);
/* The range was asked for. */
void smoe_lanes_asked(struct smoe_core *core, uint32_t layer, const struct smoe_range *range);

/* May any more be under way? */
bool smoe_flow_open(const struct smoe_core *core);
/* May so many bytes more leave this worker? */
bool smoe_flow_leaves(const struct smoe_core *core, uint32_t from, uint64_t bytes);
/* May this, which is none yet, go to whom it is for, if it may leave? */
bool smoe_flow_fits(const struct smoe_core *core, const struct smoe_transfer *t);
void smoe_flow_begin(struct smoe_core *core, struct smoe_transfer *t);
/* The worker has taken it. */
void smoe_flow_taken(struct smoe_core *core, struct smoe_transfer *t, uint32_t worker);
void smoe_flow_end(struct smoe_core *core, struct smoe_transfer *t);
/* Given what all transfers are in the flows of workers, and what goes through the daemon, as the transfers say. */
void smoe_flow_check(const struct smoe_core *core, uint64_t in_bytes, uint64_t relayed_bytes);

#endif
