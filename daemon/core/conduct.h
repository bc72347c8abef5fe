/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is to blame: what core.c and session.c ask when a peer does what it must not (quarantine.h keeps the
 * strikes). Inside of the core.
 */
#ifndef SMOE_CORE_CONDUCT_H
#define SMOE_CORE_CONDUCT_H

#include "daemon/core/core_state.h"

/* Of the numbers that move between layers: their squares fit a float. */
#define SMOE_MAGNITUDE_MAX 1e18

/* What the settings say of quarantine.h. */
struct smoe_quarantine_rules smoe_conduct_rules(const struct smoe_core *core);

/* The session ends with this error. If that is a worker's misconduct it is a strike, and `told` says so
 * behind `sentence`; otherwise `told` is the sentence. */
void smoe_conduct_ended(struct smoe_core *core, uint32_t session, int code, const char *sentence,
                        smoe_sentence told);

/* May a worker of this name come in? SMOE_EQUARANTINED. */
int smoe_conduct_admit(const struct smoe_core *core, const char *worker, struct smoe_why *why);

/* Numbers that cannot be are in the raw part of the session's message. True: it has been answered, and
 * nothing of it may be used. */
bool smoe_conduct_numbers(struct smoe_core *core, const struct smoe_event *event);

/* A square norm of the trainer's step is not finite. True: a host has been sent away for it, and with it
 * this attempt. */
bool smoe_conduct_norms(struct smoe_core *core, uint32_t trainer);

#endif
