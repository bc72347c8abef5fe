/* SPDX-License-Identifier: Apache-2.0
 *
 * Frozen routers, as the core knows them: by their heads. What they are made of stays with the gateway
 * (SMOE_ACT_ROUTER_*). Internal to the core.
 */
#ifndef SMOE_CORE_FREEZING_H
#define SMOE_CORE_FREEZING_H

#include "daemon/core/core.h"

/* Of one layer. */
struct smoe_freezing {
    struct smoe_frozen_head in_force;      /* version 0: none */
    struct smoe_frozen_head next;          /* being written; version 0: none */
    uint64_t record;                       /* its sequence number in the journal */
    uint64_t request;                      /* of the Freeze that is answered when it is durable, */
    uint64_t incarnation;                  /* by the trainer that said it */
    struct smoe_msg_routing_report report; /* the last; tokens 0: none yet */
};

/* Verdict on a Freeze before its values are read. */
struct smoe_verdict smoe_freezing_expect(const struct smoe_core *core, uint32_t trainer,
                                         const struct smoe_msg_freeze *m, struct smoe_why *why);
void smoe_freezing_begin(struct smoe_core *core, uint32_t trainer, const struct smoe_event *event);
/* Records up to `sequence` are durable: routers among them are in force. */
void smoe_freezing_journalled(struct smoe_core *core, uint64_t sequence);
void smoe_freezing_query(struct smoe_core *core, uint32_t session,
                         const struct smoe_msg_router_query *m);
/* How far its routing has changed, as the layer's owner says. */
void smoe_freezing_reported(struct smoe_core *core, uint32_t trainer,
                            const struct smoe_msg_routing_report *m);
/* The layer is gone, its routers with it. */
void smoe_freezing_drop(struct smoe_core *core, uint32_t layer);

/* May that router score these tokens of the layer? SMOE_EUNKNOWN and a sentence that names both if it is not in
 * force, SMOE_ELIMIT if they are too many at a time. */
int smoe_freezing_check(const struct smoe_core *core, const struct smoe_msg_submit *m,
                        struct smoe_why *why);
#endif
