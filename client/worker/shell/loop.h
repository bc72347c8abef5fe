/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's loop: where link, lanes and frequency meet the agent.
 */
#ifndef SMOE_WORKER_LOOP_H
#define SMOE_WORKER_LOOP_H

#include "client/worker/shell/settings.h"

/* Runs until SIGTERM or SIGINT. 0, or a code and a sentence. */
int smoe_worker_run(const struct smoe_worker_settings *settings, struct smoe_why *why);

#endif
