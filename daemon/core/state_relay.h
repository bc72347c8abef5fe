/* SPDX-License-Identifier: Apache-2.0
 *
 * Expert states on their way between a trainer and workers, or from host to follower (state_relay.c).
 */
#ifndef SMOE_CORE_STATE_RELAY_H
#define SMOE_CORE_STATE_RELAY_H

#include "daemon/core/core_state.h"

void smoe_relay_fetch(struct smoe_core *core, uint32_t trainer,
                      const struct smoe_msg_expert_fetch *m);
void smoe_relay_store(struct smoe_core *core, uint32_t trainer,
                      const struct smoe_msg_expert_store *m);
void smoe_relay_state(struct smoe_core *core, uint32_t worker,
                      const struct smoe_msg_expert_state *m);
void smoe_relay_stored(struct smoe_core *core, uint32_t worker,
                       const struct smoe_msg_expert_stored *m);
/* The worker or trainer is gone: open requests are answered or forgotten. */
void smoe_relay_drop(struct smoe_core *core, uint32_t trainer, uint32_t worker);
void smoe_relay_drop_layer(struct smoe_core *core, uint32_t layer, const char *sentence);
/* The layer has all its hosts: fetches that waited for them go on. */
void smoe_relay_go_on(struct smoe_core *core, uint32_t layer);
uint64_t smoe_relay_bytes(const struct smoe_layer *layer, uint32_t parts);
/* Remembers a request; *ret_number is what the worker is asked under. SMOE_ELIMIT: too many. */
int smoe_relay_remember(struct smoe_core *core, const struct smoe_relay *relay,
                        uint64_t *ret_number, struct smoe_why *why);
struct smoe_verdict smoe_relay_expect_state(const struct smoe_core *core, uint32_t worker,
                                            const struct smoe_msg_expert_state *m,
                                            struct smoe_why *why);
struct smoe_verdict smoe_relay_expect_store(const struct smoe_core *core, uint32_t trainer,
                                            const struct smoe_msg_expert_store *m,
                                            struct smoe_why *why);

#endif
