/* SPDX-License-Identifier: Apache-2.0
 *
 * Network namespaces of this program's own, for benches over links of a limited rate: made with iproute2 by
 * whoever may (root), and gone with the last process that is in them.
 */
#ifndef SMOE_BENCH_NETNS_H
#define SMOE_BENCH_NETNS_H

#include <sys/types.h>

/* What limits a link to a rate. The burst is of a few segments as the kernel makes them, else tbf takes each apart. */
#define SMOE_NETNS_LIMIT(rate) "root tbf rate " rate " burst 256kb latency 20ms"

/* The one this process is in: a descriptor that the caller closes, or -1. */
int smoe_netns_now(void);

/* Runs a line of shell where this process is. SMOE_EUNKNOWN, or the error of fork, if it fails. */
int smoe_netns_run(const char *script);

/* A process that stays where this one is now, whatever becomes of this one's place, so that `ip` has a name for it;
 * the caller ends it. */
pid_t smoe_netns_keep(void);

#endif
