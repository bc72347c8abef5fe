/* SPDX-License-Identifier: Apache-2.0
 *
 * Talking to the service manager (sd_notify(3)): one datagram per message to the socket named in
 * NOTIFY_SOCKET. Written here because libsystemd would bring four compressors into every process.
 * Without a socket every call does nothing and succeeds, so that callers need not ask.
 */
#ifndef SMOE_IO_NOTIFY_H
#define SMOE_IO_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

struct smoe_notify {
    int fd; /* owned, connected; -1: nobody listens */
};

/* `path` is NOTIFY_SOCKET's value or NULL: "/run/..." or "@abstract". A negative errno if it is
 * neither or nobody is there; the object is then usable and silent. */
int smoe_notify_init(struct smoe_notify *n, const char *path, struct smoe_why *why);
void smoe_notify_release(struct smoe_notify *n);

/* Started, or done reloading. */
int smoe_notify_ready(const struct smoe_notify *n);
/* The line `systemctl status` shows; control characters become '?'. */
int smoe_notify_status(const struct smoe_notify *n, const char *text);
/* Still alive; due every half of smoe_notify_watchdog's interval. */
int smoe_notify_alive(const struct smoe_notify *n);
/* SIGHUP was seen; `now_ns` is CLOCK_MONOTONIC, as Type=notify-reload asks. */
int smoe_notify_reloading(const struct smoe_notify *n, uint64_t now_ns);
int smoe_notify_stopping(const struct smoe_notify *n);

/* True if the manager expects signs of life from this process: `usec` and `pid` are WATCHDOG_USEC's
 * and WATCHDOG_PID's values or NULL; another process's pid means no. */
bool smoe_notify_watchdog(const char *usec, const char *pid, uint64_t *ret_interval_ns);

#endif
