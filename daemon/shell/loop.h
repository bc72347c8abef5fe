/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's loop: where the parts of its shell meet.
 */
#ifndef SMOE_DAEMON_LOOP_H
#define SMOE_DAEMON_LOOP_H

#include "common/io/config.h"
#include "daemon/shell/settings.h"

struct smoe_daemon_start {
    struct smoe_daemon_settings settings;
    struct smoe_config config;          /* loaded into `settings` of the caller */
    struct smoe_config_sources sources; /* to load it again at SIGHUP */
    const char *version;
};

/* Runs until SIGTERM or SIGINT. Returns the exit code; what went wrong is in `why` if it is not 0. */
int smoe_daemon_run(const struct smoe_daemon_start *start, struct smoe_why *why);

#endif
