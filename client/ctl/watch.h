/* SPDX-License-Identifier: Apache-2.0
 *
 * The fleet, drawn again and again.
 */
#ifndef SMOE_CTL_WATCH_H
#define SMOE_CTL_WATCH_H

#include <stdint.h>
#include <stdio.h>

#include "client/ctl/ask.h"

struct smoe_ctl_watch {
    struct smoe_ctl_target target;
    uint64_t interval_ns;
    FILE *to;
    int input; /* watching ends when this descriptor's stream ends */
};

/* Draws every interval until SIGINT, SIGTERM or the end of input, then returns 0. The first answer must
 * come: a wrong directory is an error; later failures are shown and tried again, so that a watch
 * outlives a restart of the daemon. */
int smoe_ctl_watch(const struct smoe_ctl_watch *watch, struct smoe_why *why);

#endif
