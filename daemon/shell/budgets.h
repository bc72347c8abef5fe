/* SPDX-License-Identifier: Apache-2.0
 *
 * Budgets that an operator set for single workers (`stablemoectl set-budget`), kept in the file `budgets` of
 * the state directory: one worker a line, its name and its watts.
 */
#ifndef SMOE_DAEMON_BUDGETS_H
#define SMOE_DAEMON_BUDGETS_H

#include "daemon/gateway/gateway.h"

/* What the file holds goes to the gateway; no file is no error. SMOE_EDATA: it is not ours. */
int smoe_budgets_load(struct smoe_gateway *gateway, int dir, struct smoe_why *why);

/* `watts` as typed: a number, or "off". The worker must be known, or have one. Nothing changes if the
 * file cannot be written; where it was, and only its directory could not be brought to the disk, the budget is set,
 * and the error says so. */
int smoe_budgets_set(struct smoe_gateway *gateway, int dir, const char *worker_id,
                     const char *watts, struct smoe_why *why);

#endif
